/* Goal: what a builder was given comes back by find, seek and block; damage is named, never read.
 * Method: tables of several shapes, built into a fragmented free set through windows of several
 * sizes on a disk in memory, against the flat array of values; then the same with every block
 * damaged in turn, every write failing in turn, and every field of the blocks made implausible
 * under a correct checksum. */
#include "engine/lsm/table.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <string.h>

#include "pool/base.h"
#include "pool/memory.h"
#include "tests/harness/prng.h"
#include "tests/harness/sim_io.h"

enum {
    BLOCK_SIZE = 4096,
    VALUE_COUNT_MAX = 9000,
    VALUE_SIZE_MAX = 200,
    WINDOW_MAX = 16,
    BLOCK_COUNT_MAX = 4096,
    RESERVED = 600,
    OP = 77,
};

static struct sim_io sim;
static struct geometry geometry;
static struct workers workers;
static struct doorbell doorbell;
static struct grid grid;
static struct free_set free_set;
static struct reservation reservation;
static bool reserved;   /* reservation is open */
static bool fragmented; /* addresses have gaps */
static struct prng prng;
static struct tree_shape shape;

static uint8_t *blocks; /* [6 * BLOCK_SIZE]: builder's three, reader's three */
static uint8_t *window; /* [WINDOW_MAX * BLOCK_SIZE] */
static uint8_t *scratch;
static uint8_t values[VALUE_COUNT_MAX * VALUE_SIZE_MAX]; /* the model */
static uint32_t value_count;
static struct table_info info;

static void grid_open(void)
{
    cr_assert(eq(int, grid_init(&grid, &sim.io, &geometry, 1, &workers, &doorbell), STATUS_OK));
}

/* With an empty cache. */
static void grid_reopen(void)
{
    grid_deinit(&grid);
    grid_open();
}

static void setup(void)
{
    geometry = geometry_tiny();
    geometry.block_count_max = BLOCK_COUNT_MAX;
    sim_io_init(&sim, 64 << 20);
    doorbell_init(&doorbell);
    cr_assert(eq(int, workers_start(&workers, "grow", 0, 1), STATUS_OK));
    cr_assert(eq(int, grid_format(&sim.io, &geometry), STATUS_OK));
    grid_open();
    cr_assert(eq(int, free_set_init(&free_set, BLOCK_COUNT_MAX), STATUS_OK));
    blocks = memory_acquire(6 * BLOCK_SIZE);
    window = memory_acquire(WINDOW_MAX * BLOCK_SIZE);
    scratch = memory_acquire(table_builder_scratch_size(&geometry));
    prng_init(&prng, 5);
}

static void teardown(void)
{
    if (reserved) {
        free_set_forfeit(&free_set, &reservation);
    }
    memory_release(scratch, table_builder_scratch_size(&geometry));
    memory_release(window, WINDOW_MAX * BLOCK_SIZE);
    memory_release(blocks, 6 * BLOCK_SIZE);
    free_set_deinit(&free_set);
    grid_deinit(&grid);
    workers_join(&workers);
    doorbell_deinit(&doorbell);
    sim_io_deinit(&sim);
}

TestSuite(table, .init = setup, .fini = teardown, .timeout = 120);

static void choose_shape(uint32_t key_size, uint32_t value_size, enum filter_kind filter_kind)
{
    shape = (struct tree_shape){
        .ops = values_ops_for(key_size, value_size),
        .tree_id = 9,
        .key_size = (uint16_t)key_size,
        .value_size = (uint16_t)value_size,
        .value_count_max = table_value_max(&geometry, key_size, value_size),
        .filter_kind = filter_kind,
    };
}

static uint8_t *value_at(uint64_t i)
{
    return values + i * shape.value_size;
}

/* A key of a prefix number (where the key is longer than 8 bytes) and a timestamp. */
static void set_key(uint8_t *key, uint32_t prefix, uint64_t timestamp)
{
    memset(key, 0, shape.key_size);
    timestamp = __builtin_bswap64(timestamp);
    memcpy(key + shape.key_size - 8, &timestamp, 8);
    if (shape.key_size > 8) {
        prefix = __builtin_bswap32(prefix);
        memcpy(key + shape.key_size - 12, &prefix, 4);
    }
}

/* Odd prefixes and odd timestamps only, so that even ones are absent; some prefixes have one value,
 * some have thousands. */
static void make_values(uint32_t count)
{
    cr_assert(count <= VALUE_COUNT_MAX);
    uint32_t prefix = 1;
    uint64_t timestamp = 1;
    value_count = count;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *value = value_at(i);
        prng_fill(&prng, value, shape.value_size);
        set_key(value, prefix, timestamp);
        if (shape.value_size > shape.key_size) {
            value[shape.key_size] &= 0x7f;
        }
        if (prng_chance(&prng, 1, 6)) {
            value_set_tombstone(value, shape.key_size, shape.value_size);
        }
        timestamp += 2 * prng_range(&prng, 1, 20);
        if (prng_chance(&prng, 1, prefix % 16 == 7 ? 2000 : 5)) {
            prefix += 2 * (uint32_t)prng_range(&prng, 1, 3);
        }
    }
    cr_assert(shape.ops->verify(values, count, shape.value_size));
}

static void bare_key(uint8_t *key, const uint8_t *value)
{
    memcpy(key, value, shape.key_size);
    if (shape.value_size == shape.key_size) {
        key[shape.key_size - 8] &= 0x7f;
    }
}

/* A reservation in a free set that holds nothing else, or blocks here and there. */
static void reserve(void)
{
    if (reserved) {
        free_set_forfeit(&free_set, &reservation);
    }
    free_set_reset(&free_set);
    if (fragmented) {
        cr_assert(free_set_reserve(&free_set, 1000, &reservation));
        for (uint32_t i = 0; i < 1000; i++) {
            cr_assert(gt(u64, reservation_acquire(&reservation), 0));
        }
        free_set_forfeit(&free_set, &reservation);
        for (uint64_t address = 1; address <= 1000; address++) {
            if (!prng_chance(&prng, 1, 10)) {
                free_set_release(&free_set, address);
            }
        }
        free_set_checkpoint(&free_set);
        free_set_join(&free_set);
    }
    reserved = free_set_reserve(&free_set, RESERVED, &reservation);
    cr_assert(reserved);
}

static void start_builder(struct table_builder *builder, uint32_t window_block_count)
{
    uint8_t *const borrowed[3] = {blocks, blocks + BLOCK_SIZE, blocks + 2 * BLOCK_SIZE};
    table_builder_init(builder, &geometry, &grid, &shape, &reservation, OP, window,
                       window_block_count, borrowed, scratch);
}

/* Appends values [first, end) in pieces of random size, as a merge does. */
static enum status append(struct table_builder *builder, uint32_t first, uint32_t end)
{
    while (first < end) {
        uint32_t capacity;
        uint8_t *space = table_builder_space(builder, &capacity);
        cr_assert(eq(int, capacity == 0,
                     table_builder_block_full(builder) || table_builder_table_full(builder)));
        if (capacity == 0) {
            const enum status status = table_builder_block_finish(builder);
            if (status != STATUS_OK) {
                return status;
            }
            continue;
        }
        const uint32_t count = (uint32_t)prng_range(&prng, 1, min_u64(capacity, end - first));
        memcpy(space, value_at(first), (size_t)count * shape.value_size);
        table_builder_appended(builder, count);
        first += count;
    }
    return STATUS_OK;
}

static enum status build(uint32_t window_block_count)
{
    struct table_builder builder;
    start_builder(&builder, window_block_count);
    cr_assert(table_builder_table_empty(&builder));
    enum status status = append(&builder, 0, value_count);
    if (status == STATUS_OK) {
        cr_assert(not(table_builder_table_empty(&builder)));
        status = table_builder_table_finish(&builder, &info);
    }
    if (status == STATUS_OK) {
        cr_assert(table_builder_table_empty(&builder));
        status = table_builder_flush(&builder);
    }
    return status;
}

static void check_info(void)
{
    uint8_t key[KEY_SIZE_MAX] = {0};
    bare_key(key, value_at(0));
    cr_assert(memcmp(key, info.key_min.bytes, KEY_SIZE_MAX) == 0);
    bare_key(key, value_at(value_count - 1));
    cr_assert(memcmp(key, info.key_max.bytes, KEY_SIZE_MAX) == 0);
    cr_assert(eq(u64, info.value_count, value_count));
    cr_assert(eq(u64, info.tombstone_count,
                 shape.ops->count_tombstones(values, value_count, shape.value_size)));
    cr_assert(eq(u32, info.tree_id, shape.tree_id));
    cr_assert(eq(u32, info.block_count,
                 table_block_max(&geometry, shape.key_size, shape.value_size, value_count)));
    cr_assert(eq(u32, info.block_count, reservation.acquired_count));
}

static void open_reader(struct table_reader *reader)
{
    table_reader_open(reader, &geometry, &grid, &shape, &info, blocks + 3 * BLOCK_SIZE);
}

/* Reads every value of the table, and asks the filter of every block. */
static enum status read_all(struct table_reader *reader)
{
    const uint8_t *found;
    uint32_t block_index;
    uint32_t value_index;
    uint8_t key[KEY_SIZE_MAX];
    enum status status =
        table_reader_seek(reader, info.key_min.bytes, false, &block_index, &value_index);
    if (status != STATUS_OK) {
        return status;
    }
    cr_assert(eq(u32, block_index, 0));
    cr_assert(eq(u32, value_index, 0));
    uint32_t read_count = 0;
    for (; block_index < reader->index.value_block_count; block_index++) {
        uint32_t count;
        status = table_reader_block(reader, block_index, &found, &count);
        if (status != STATUS_OK) {
            return status;
        }
        cr_assert(read_count + count <= value_count);
        cr_assert(memcmp(found, value_at(read_count), (size_t)count * shape.value_size) == 0);
        read_count += count;
        /* The last value of a block is not its first, if it has two: the filter is asked. */
        bare_key(key, value_at(read_count - 1));
        if (shape.filter_kind == FILTER_KIND_KEY) {
            status = table_reader_find(reader, key, &found);
        } else {
            uint32_t block_found;
            memset(key + shape.key_size - 8, 0, 8);
            status = table_reader_seek(reader, key, true, &block_found, &value_index);
        }
        if (status != STATUS_OK) {
            return status;
        }
    }
    cr_assert(eq(u32, read_count, value_count));
    return STATUS_OK;
}

static void check_find(struct table_reader *reader, const uint8_t *key)
{
    const uint32_t i = shape.ops->lower_bound(values, value_count, shape.value_size, key);
    const bool present = i < value_count &&
                         shape.ops->compare(value_at(i), key, shape.value_size) == 0 &&
                         shape.ops->compare(key, reader->info.key_min.bytes, shape.value_size) >= 0;
    const uint8_t *found;
    cr_assert(eq(int, table_reader_find(reader, key, &found), STATUS_OK));
    cr_assert(eq(int, found != NULL, present));
    cr_assert(found == NULL || memcmp(found, value_at(i), shape.value_size) == 0);
}

static void check_seek(struct table_reader *reader, const uint8_t *key, bool prefix)
{
    const uint32_t per_block = table_values_per_block(&geometry, shape.value_size);
    const uint8_t *from = shape.ops->compare(key, reader->info.key_min.bytes, shape.value_size) < 0
                              ? reader->info.key_min.bytes
                              : key;
    const uint32_t i = shape.ops->lower_bound(values, value_count, shape.value_size, from);
    uint32_t block_index;
    uint32_t value_index;
    cr_assert(
        eq(int, table_reader_seek(reader, key, prefix, &block_index, &value_index), STATUS_OK));
    const bool end = block_index == reader->index.value_block_count;
    const bool wanted =
        i < value_count && !(prefix && memcmp(value_at(i), key, shape.key_size - 8u) != 0);
    cr_assert(value_index == 0 || !end);
    cr_assert(not(wanted && end));
    if (end) {
        cr_assert(prefix || i == value_count);
    } else {
        cr_assert(eq(u32, block_index * per_block + value_index, i));
    }
}

static void check_lookups(struct table_reader *reader, uint32_t lookup_count)
{
    uint8_t key[KEY_SIZE_MAX];
    for (uint32_t i = 0; i < lookup_count; i++) {
        const uint32_t some = (uint32_t)prng_below(&prng, value_count);
        bare_key(key, value_at(some));
        check_find(reader, key);
        check_seek(reader, key, false);
        key[shape.key_size - 1] ^= 1; /* absent */
        check_find(reader, key);
        check_seek(reader, key, false);
        if (shape.filter_kind == FILTER_KIND_PREFIX) {
            memset(key + shape.key_size - 8, 0, 8);
            check_seek(reader, key, true);
            key[shape.key_size - 9] ^= 1; /* absent */
            check_seek(reader, key, true);
            key[shape.key_size - 9] += (uint8_t)prng_below(&prng, 256); /* perhaps outside */
            check_seek(reader, key, true);
        }
    }
    memset(key, 0, sizeof key);
    check_find(reader, key);
    check_seek(reader, key, false);
    memset(key, 0x7f, sizeof key);
    check_find(reader, key);
    check_seek(reader, key, false);
}

static void check_table(uint32_t count, uint32_t window_block_count)
{
    make_values(count);
    reserve();
    cr_assert(eq(int, build(window_block_count), STATUS_OK));
    check_info();
    for (int warm = 1; warm >= 0; warm--) {
        if (!warm) {
            grid_reopen();
        }
        struct table_reader reader;
        open_reader(&reader);
        cr_assert(eq(int, read_all(&reader), STATUS_OK));
        check_lookups(&reader, 200);
        table_reader_close(&reader);
    }
    struct table_reader reader;
    open_reader(&reader);
    bare_key(reader.info.key_min.bytes, value_at(prng_below(&prng, count)));
    check_lookups(&reader, 100);
    table_reader_close(&reader);
}

static void check_shape(uint32_t key_size, uint32_t value_size, enum filter_kind filter_kind)
{
    choose_shape(key_size, value_size, filter_kind);
    const uint32_t per_block = table_values_per_block(&geometry, value_size);
    const uint32_t max = (uint32_t)min_u64(shape.value_count_max, VALUE_COUNT_MAX);
    const uint32_t per_filter = per_block * table_value_blocks_per_filter(&geometry, value_size);
    const uint32_t counts[] = {1,
                               2,
                               per_block,
                               per_block + 1,
                               (uint32_t)min_u64(per_filter, max),
                               (uint32_t)min_u64(per_filter + 1, max),
                               max};
    static const uint32_t windows[] = {1, 3, WINDOW_MAX};
    for (size_t i = 0; i < array_count(counts); i++) {
        check_table(counts[i], windows[i % array_count(windows)]);
    }
}

Test(table, of_bare_timestamps_comes_back)
{
    check_shape(8, 16, FILTER_KIND_KEY);
    check_shape(8, 128, FILTER_KIND_KEY);
}

Test(table, of_ids_comes_back)
{
    check_shape(16, 24, FILTER_KIND_KEY);
    check_shape(32, 40, FILTER_KIND_KEY);
    check_shape(24, 24, FILTER_KIND_KEY);
}

Test(table, of_index_keys_comes_back)
{
    check_shape(16, 16, FILTER_KIND_PREFIX);
    check_shape(24, 24, FILTER_KIND_PREFIX);
    check_shape(32, 32, FILTER_KIND_PREFIX);
    check_shape(24, 200, FILTER_KIND_PREFIX);
}

Test(table, fragmented_addresses_break_the_window_only)
{
    fragmented = true;
    check_shape(8, 16, FILTER_KIND_KEY);
    check_shape(24, 24, FILTER_KIND_PREFIX);
}

Test(table, full_table_fits_its_index_block)
{
    choose_shape(8, 200, FILTER_KIND_KEY);
    const uint32_t per_block = table_values_per_block(&geometry, 200);
    const uint32_t block_max = table_value_block_max(&geometry, 8, 200);
    cr_assert(le(u32, shape.value_count_max, VALUE_COUNT_MAX));
    cr_assert(eq(u32, shape.value_count_max, per_block * block_max));
    check_table(shape.value_count_max, WINDOW_MAX);
}

Test(table, adjacent_blocks_leave_in_one_write)
{
    choose_shape(8, 16, FILTER_KIND_KEY);
    make_values(WINDOW_MAX / 2 * table_values_per_block(&geometry, 16));
    reserve();
    const uint64_t before = sim.write_count;
    cr_assert(eq(int, build(WINDOW_MAX), STATUS_OK));
    cr_assert(eq(u64, sim.write_count - before, 1));
    cr_assert(eq(u64, grid.blocks_written, info.block_count));
}

Test(table, lookups_find_index_and_filters_warm)
{
    choose_shape(8, 16, FILTER_KIND_KEY);
    make_values(VALUE_COUNT_MAX);
    reserve();
    cr_assert(eq(int, build(WINDOW_MAX), STATUS_OK));
    struct table_reader reader;
    open_reader(&reader);
    uint8_t key[8];
    uint32_t absent_count = 0;
    for (uint32_t i = 0; i < VALUE_COUNT_MAX; i += 3) {
        memcpy(key, value_at(i), 8);
        key[7] ^= 1;
        const uint8_t *found;
        cr_assert(eq(int, table_reader_find(&reader, key, &found), STATUS_OK));
        cr_assert(found == NULL);
        absent_count += 1;
    }
    cr_assert(lt(u64, grid.blocks_read, absent_count / 100));
    table_reader_close(&reader);
}

Test(table, sorted_lookups_read_each_block_once)
{
    choose_shape(8, 16, FILTER_KIND_KEY);
    make_values(VALUE_COUNT_MAX);
    reserve();
    cr_assert(eq(int, build(WINDOW_MAX), STATUS_OK));
    grid_reopen();
    struct block_cache_stats before;
    struct block_cache_stats after;
    block_cache_stats_read(&grid.cache, &before);
    struct table_reader reader;
    open_reader(&reader);
    for (uint32_t i = 0; i < VALUE_COUNT_MAX; i++) {
        const uint8_t *found;
        cr_assert(eq(int, table_reader_find(&reader, value_at(i), &found), STATUS_OK));
        cr_assert(memcmp(found, value_at(i), 16) == 0);
    }
    table_reader_close(&reader);
    block_cache_stats_read(&grid.cache, &after);
    cr_assert(eq(u64, after.hit_count + after.miss_count - before.hit_count - before.miss_count,
                 info.block_count));
}

Test(table, several_tables_share_builder_and_window)
{
    choose_shape(16, 32, FILTER_KIND_KEY);
    shape.value_count_max = 700;
    make_values(2500);
    reserve();
    struct table_builder builder;
    start_builder(&builder, 5);
    struct table_info infos[4];
    uint32_t table_count = 0;
    for (uint32_t first = 0; first < 2500; first += 700) {
        const uint32_t end = (uint32_t)min_u64(first + 700, 2500);
        cr_assert(eq(int, append(&builder, first, end), STATUS_OK));
        cr_assert(eq(int, table_builder_table_full(&builder), end - first == 700));
        cr_assert(eq(int, table_builder_table_finish(&builder, &infos[table_count]), STATUS_OK));
        table_count += 1;
    }
    cr_assert(eq(int, table_builder_flush(&builder), STATUS_OK));
    cr_assert(eq(u32, table_count, 4));
    grid_reopen();
    for (uint32_t t = 0; t < table_count; t++) {
        info = infos[t];
        value_count = (uint32_t)info.value_count;
        struct table_reader reader;
        open_reader(&reader);
        cr_assert(eq(int, read_all(&reader), STATUS_OK));
        check_lookups(&reader, 50);
        table_reader_close(&reader);
        memmove(values, value_at(value_count), sizeof values - (size_t)value_count * 32);
    }
}

/* The table's bytes depend on what went in, not on the window. */
Test(table, window_size_leaves_no_trace)
{
    choose_shape(24, 24, FILTER_KIND_PREFIX);
    make_values(3000);
    struct table_info first = {0};
    for (uint32_t size = 1; size <= WINDOW_MAX; size++) {
        reserve();
        cr_assert(eq(int, build(size), STATUS_OK));
        if (size == 1) {
            first = info;
        }
        cr_assert(memcmp(&first, &info, sizeof info) == 0);
    }
}

Test(table, failed_writes_are_reported)
{
    choose_shape(8, 16, FILTER_KIND_KEY);
    make_values(5000);
    uint64_t n = 0;
    bool armed = false;
    while (!armed) {
        n += 1;
        reserve();
        sim_io_fail_write(&sim, n, n % 2 == 0 ? STATUS_IO : STATUS_NO_SPACE);
        const enum status status = build(4);
        armed = sim_io_armed(&sim);
        cr_assert(eq(int, status == STATUS_OK, armed));
    }
    cr_assert(gt(u64, n, 4));
}

Test(table, damage_is_named)
{
    choose_shape(24, 24, FILTER_KIND_KEY); /* by key, every filter is asked by read_all */
    for (int round = 0; round < 2; round++) {
        make_values(4000);
        reserve();
        cr_assert(eq(int, build(WINDOW_MAX), STATUS_OK));
        for (uint64_t address = 1; address <= info.block_count; address++) {
            const uint64_t offset = grid_zone_offset(&geometry) + (address - 1) * BLOCK_SIZE +
                                    prng_below(&prng, BLOCK_SIZE);
            sim_io_flip(&sim, offset, 0x10);
            grid_reopen();
            struct table_reader reader;
            open_reader(&reader);
            cr_assert(eq(int, read_all(&reader), STATUS_CORRUPT));
            cr_assert(eq(u64, reader.bad_address, address));
            /* What is not damaged is still read. */
            uint32_t count;
            const uint8_t *found;
            uint32_t read_count = 0;
            for (uint32_t i = 0; reader.index_open && i < reader.index.value_block_count; i++) {
                read_count += table_reader_block(&reader, i, &found, &count) == STATUS_OK;
            }
            cr_assert(not(reader.index_open && read_count + 1 < reader.index.value_block_count));
            table_reader_close(&reader);
            sim_io_flip(&sim, offset, 0x10);
        }
        choose_shape(8, 16, FILTER_KIND_KEY);
    }
}

Test(table, failed_reads_are_reported)
{
    choose_shape(8, 16, FILTER_KIND_KEY);
    make_values(3000);
    reserve();
    cr_assert(eq(int, build(WINDOW_MAX), STATUS_OK));
    bool armed = false;
    for (uint64_t n = 1; !armed; n++) {
        grid_reopen();
        sim_io_fail_read(&sim, n, STATUS_IO);
        struct table_reader reader;
        open_reader(&reader);
        const enum status status = read_all(&reader);
        armed = sim_io_armed(&sim);
        /* One failed read is repeated. */
        cr_assert(status == STATUS_OK || status == STATUS_IO);
        cr_assert(not(armed && status != STATUS_OK));
        cr_assert(eq(int, read_all(&reader), STATUS_OK));
        table_reader_close(&reader);
    }
}

/* A cache with every slot taken: blocks go to the reader's own memory. */
Test(table, full_cache_is_no_obstacle)
{
    enum { PIN_MAX = 4096 };
    static struct block_pin pins[PIN_MAX];
    choose_shape(24, 24, FILTER_KIND_PREFIX);
    make_values(4000);
    reserve();
    cr_assert(eq(int, build(WINDOW_MAX), STATUS_OK));
    grid_reopen();
    uint32_t pin_count = 0;
    for (uint64_t i = 1; i <= PIN_MAX; i++) {
        struct block_reference reference = {.address = i};
        prng_fill(&prng, &reference.checksum, sizeof reference.checksum);
        uint8_t *buffer;
        const enum block_cache_outcome outcome =
            block_cache_get(&grid.cache, &reference, &pins[pin_count], &buffer);
        cr_assert(outcome != BLOCK_CACHE_HIT);
        pin_count += outcome == BLOCK_CACHE_MISS;
    }
    struct table_reader reader;
    open_reader(&reader);
    cr_assert(eq(int, read_all(&reader), STATUS_OK));
    cr_assert(reader.index_pin.slot == NULL);
    check_lookups(&reader, 50);
    table_reader_close(&reader);
    for (uint32_t i = 0; i < pin_count; i++) {
        block_cache_abandon(&grid.cache, &pins[i]);
    }
}

static void read_block(uint64_t address, uint8_t *block)
{
    cr_assert(eq(int, grid_read_blocks(&grid, address, 1, block), STATUS_OK));
}

/* Every header and metadata field wrong in turn, and whatever else a random byte hits: a decoder
 * never reads outside the block, and refuses what does not fit. */
Test(table, implausible_blocks_are_refused)
{
    choose_shape(24, 24, FILTER_KIND_PREFIX);
    make_values(4000);
    reserve();
    cr_assert(eq(int, build(WINDOW_MAX), STATUS_OK));

    uint8_t *block = blocks;
    uint8_t *intact = blocks + BLOCK_SIZE;
    struct table_index index;
    uint32_t count;
    /* Of small differences in the value count and in the keys a decoder cannot know. */
    static const uint32_t index_bytes[] = {32, 33, 36, 40, 42, 44,  45,  47,  60, 63,
                                           67, 72, 75, 76, 79, 104, 111, 112, 127};
    read_block(info.index.address, intact);
    cr_assert(eq(int, table_index_decode(&geometry, &shape, intact, &index), STATUS_OK));
    const uint32_t first_address = BLOCK_HEADER_SIZE + index.value_block_count * CHECKSUM_SIZE;
    for (size_t i = 0; i < array_count(index_bytes); i++) {
        memcpy(block, intact, BLOCK_SIZE);
        block[index_bytes[i]] ^= 0x81;
        cr_assert(eq(int, table_index_decode(&geometry, &shape, block, &index), STATUS_CORRUPT),
                  "byte %u", index_bytes[i]);
    }
    memcpy(block, intact, BLOCK_SIZE); /* more values than blocks hold, or fewer */
    memset(block + 56, 0, 8);
    cr_assert(eq(int, table_index_decode(&geometry, &shape, block, &index), STATUS_CORRUPT));
    memset(block + 56, 0xff, 8);
    cr_assert(eq(int, table_index_decode(&geometry, &shape, block, &index), STATUS_CORRUPT));
    memcpy(block, intact, BLOCK_SIZE); /* key_max before the last first key */
    memset(block + 80, 0, 24);
    cr_assert(eq(int, table_index_decode(&geometry, &shape, block, &index), STATUS_CORRUPT));
    memcpy(block, intact, BLOCK_SIZE); /* addresses: none, and past the limit */
    memset(block + first_address + 8, 0, 8);
    cr_assert(eq(int, table_index_decode(&geometry, &shape, block, &index), STATUS_CORRUPT));
    block[first_address + 8 + 7] = 1;
    cr_assert(eq(int, table_index_decode(&geometry, &shape, block, &index), STATUS_CORRUPT));
    for (uint32_t round = 0; round < 20000; round++) {
        memcpy(block, intact, BLOCK_SIZE);
        block[32 + prng_below(&prng, 96)] = (uint8_t)prng_next(&prng);
        block[32 + prng_below(&prng, round % 2 == 0 ? 96 : 3000)] = (uint8_t)prng_next(&prng);
        block_header(block)->type = BLOCK_TYPE_INDEX;
        if (table_index_decode(&geometry, &shape, block, &index) == STATUS_OK) {
            (void)table_index_value_reference(&index, index.value_block_count - 1);
            (void)table_index_filter_reference(&index, index.filter_block_count - 1);
        }
    }

    cr_assert(eq(int, table_index_decode(&geometry, &shape, intact, &index), STATUS_OK));
    uint8_t *value_block = blocks + 2 * BLOCK_SIZE;
    read_block(table_index_value_reference(&index, 1).address, value_block);
    cr_assert(eq(int, table_value_block_decode(&geometry, &shape, value_block, &count), STATUS_OK));
    cr_assert(eq(u32, count, table_values_per_block(&geometry, 24)));
    static const uint32_t value_bytes[] = {32, 34, 36, 40, 42, 44, 45, 47};
    for (size_t i = 0; i < array_count(value_bytes); i++) {
        memcpy(block, value_block, BLOCK_SIZE);
        block[value_bytes[i]] ^= 0x81;
        cr_assert(
            eq(int, table_value_block_decode(&geometry, &shape, block, &count), STATUS_CORRUPT));
    }
}

/* Blocks that are intact but not what the parent says: a table of another tree, an index whose
 * value block has another count or first key. */
Test(table, mismatched_blocks_are_refused)
{
    choose_shape(8, 16, FILTER_KIND_KEY);
    make_values(3000);
    reserve();
    cr_assert(eq(int, build(WINDOW_MAX), STATUS_OK));
    struct table_reader reader;
    const uint8_t *found;

    shape.tree_id += 1;
    info.tree_id += 1;
    open_reader(&reader);
    cr_assert(eq(int, table_reader_find(&reader, value_at(5), &found), STATUS_CORRUPT));
    cr_assert(eq(u64, reader.bad_address, info.index.address));
    table_reader_close(&reader);
    shape.tree_id -= 1;
    info.tree_id -= 1;

    struct table_info other = info;
    info.key_max.bytes[7] ^= 1;
    open_reader(&reader);
    cr_assert(eq(int, table_reader_find(&reader, value_at(5), &found), STATUS_CORRUPT));
    table_reader_close(&reader);
    info = other;

    /* The index names block 1 as block 0: count fits, first key does not. */
    uint8_t *block = blocks;
    read_block(info.index.address, block);
    const uint32_t n = block_header(block)->value_count;
    memcpy(block + BLOCK_HEADER_SIZE, block + BLOCK_HEADER_SIZE + CHECKSUM_SIZE, CHECKSUM_SIZE);
    memcpy(block + BLOCK_HEADER_SIZE + n * CHECKSUM_SIZE,
           block + BLOCK_HEADER_SIZE + n * CHECKSUM_SIZE + 8, 8);
    info.index = block_seal(block, BLOCK_SIZE);
    cr_assert(eq(int, grid_write_blocks(&grid, info.index.address, 1, block), STATUS_OK));
    open_reader(&reader);
    cr_assert(eq(int, table_reader_find(&reader, value_at(0), &found), STATUS_CORRUPT));
    cr_assert(eq(int, table_reader_find(&reader, value_at(2000), &found), STATUS_OK));
    cr_assert(found != NULL);
    table_reader_close(&reader);
}

Test(table, partial_block_before_another_breaks_the_contract, .signal = SIGABRT)
{
    choose_shape(8, 16, FILTER_KIND_KEY);
    make_values(10);
    reserve();
    struct table_builder builder;
    start_builder(&builder, 4);
    (void)!append(&builder, 0, 5);
    (void)!table_builder_block_finish(&builder);
    (void)!append(&builder, 5, 10);
}

Test(table, empty_table_breaks_the_contract, .signal = SIGABRT)
{
    choose_shape(8, 16, FILTER_KIND_KEY);
    reserve();
    struct table_builder builder;
    start_builder(&builder, 4);
    (void)!table_builder_table_finish(&builder, &info);
}
