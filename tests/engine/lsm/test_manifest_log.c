/* Goal: whatever happened to tables, the log says at open which of them live; it stays short; it
 * never believes a damaged block; and it is the same log whether or not it was reopened, and
 * however many workers read for it. Method: a world of disk, grid, free set and log takes half-bars
 * of random inserts, updates and removes, which reuse addresses at once (worse than the forest
 * does), with checkpoints; a plain array says what must live. Blocks reach the disk as late as the
 * contract allows. After each checkpoint a second log is opened from the disk, compared, and often
 * goes on in place of the first. */
#include "engine/lsm/manifest_log.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "engine/storage/limits.h"
#include "pool/memory.h"
#include "tests/harness/prng.h"
#include "tests/harness/sim_io.h"

enum {
    ADDRESS_COUNT = 400,
    TABLE_COUNT_MAX = 300,
    DISK_SIZE = 64 << 20,
    CACHE_BLOCK_COUNT = 256,
    CHECKPOINT_MAX = 64,
    HALF_BAR_COUNT = 120,
};

/* Blocks that were taken from the log and are not written yet. */
struct taken {
    uint8_t *blocks;
    uint64_t *addresses;
    uint32_t count;
};

struct world {
    struct sim_io sim;
    struct geometry geometry;
    struct doorbell doorbell;
    struct workers growers;
    struct workers readers;
    struct grid grid;
    struct free_set free_set;
    struct manifest_log logs[2];
    struct manifest_log *log;   /* the one that lives */
    struct manifest_log *other; /* to reopen into */
    struct taken older, newer;  /* of the last half-bar but one, of the last */
    bool join_due;

    struct prng prng;
    /* Where tables may be: scattered, so that extents collide. The log never reads there. */
    uint64_t addresses[ADDRESS_COUNT];
    struct table_info tables[ADDRESS_COUNT]; /* address 0: none lives there */
    uint32_t live_count;
    uint32_t live_count_max;
    uint32_t checkpoint_count;
    struct block_reference checkpoints[CHECKPOINT_MAX];
};

static struct world world;

/* ---- The world ------------------------------------------------------------------------------- */

static void grid_up(void)
{
    cr_assert(grid_init(&world.grid, &world.sim.io, &world.geometry, CACHE_BLOCK_COUNT,
                        &world.growers, &world.doorbell) == STATUS_OK);
}

/* Empties the cache, so that the next read comes from the disk. */
static void grid_restart(void)
{
    grid_deinit(&world.grid);
    grid_up();
}

static void taken_init(struct taken *taken)
{
    taken->blocks = memory_acquire((size_t)world.log->pending_max * world.geometry.block_size);
    taken->addresses = memory_acquire(world.log->pending_max * sizeof(uint64_t));
    cr_assert(taken->blocks != NULL && taken->addresses != NULL);
}

static void taken_deinit(struct taken *taken)
{
    memory_release(taken->blocks, (size_t)world.log->pending_max * world.geometry.block_size);
    memory_release(taken->addresses, world.log->pending_max * sizeof(uint64_t));
}

static uint32_t index_of(uint64_t address)
{
    uint32_t i = 0;
    while (i < ADDRESS_COUNT && world.addresses[i] != address) {
        i += 1;
    }
    return i;
}

static void addresses_scatter(void)
{
    for (uint32_t i = 0; i < ADDRESS_COUNT; i++) {
        uint64_t address;
        do {
            address = prng_range(&world.prng, 1, world.geometry.block_count_max);
        } while (index_of(address) < ADDRESS_COUNT);
        world.addresses[i] = address;
    }
}

static void world_init(uint64_t seed, uint32_t append_blocks_max, uint32_t reader_count)
{
    memset(&world, 0, sizeof world);
    prng_init(&world.prng, seed);
    world.geometry = geometry_tiny();
    addresses_scatter();
    sim_io_init(&world.sim, DISK_SIZE);
    doorbell_init(&world.doorbell);
    cr_assert(workers_start(&world.growers, "grow", 0, 4) == STATUS_OK);
    cr_assert(workers_start(&world.readers, "read", reader_count, 4) == STATUS_OK);
    cr_assert(grid_format(&world.sim.io, &world.geometry) == STATUS_OK);
    grid_up();
    cr_assert(free_set_init(&world.free_set, world.geometry.block_count_max) == STATUS_OK);
    const struct manifest_log_options options = {
        .append_blocks_max = append_blocks_max,
        .table_count_max = TABLE_COUNT_MAX,
    };
    for (int i = 0; i < 2; i++) {
        cr_assert(manifest_log_init(&world.logs[i], &world.geometry, &world.grid, &world.free_set,
                                    &world.readers, &world.doorbell, &options) == STATUS_OK);
    }
    world.log = &world.logs[0];
    world.other = &world.logs[1];
    taken_init(&world.older);
    taken_init(&world.newer);
}

static void world_deinit(void)
{
    taken_deinit(&world.older);
    taken_deinit(&world.newer);
    for (int i = 0; i < 2; i++) {
        manifest_log_deinit(&world.logs[i]);
    }
    free_set_deinit(&world.free_set);
    grid_deinit(&world.grid);
    workers_join(&world.readers);
    workers_join(&world.growers);
    doorbell_deinit(&world.doorbell);
    sim_io_deinit(&world.sim);
}

static void taken_write(struct taken *taken)
{
    for (uint32_t i = 0; i < taken->count; i++) {
        cr_assert(grid_write_blocks(&world.grid, taken->addresses[i], 1,
                                    taken->blocks + (size_t)i * world.geometry.block_size) ==
                  STATUS_OK);
    }
    taken->count = 0;
}

/* ---- What happens to tables ------------------------------------------------------------------ */

static void random_keys(struct table_info *table)
{
    const uint64_t a = prng_below(&world.prng, UINT64_MAX / 2);
    const uint64_t b = a + prng_below(&world.prng, UINT64_MAX / 2);
    const uint64_t min = __builtin_bswap64(a);
    const uint64_t max = __builtin_bswap64(b);
    memcpy(table->key_min.bytes, &min, sizeof min);
    memcpy(table->key_max.bytes, &max, sizeof max);
}

static struct table_info random_table(uint64_t address)
{
    struct table_info table;
    memset(&table, 0, sizeof table);
    random_keys(&table);
    table.index.address = address;
    prng_fill(&world.prng, table.index.checksum.bytes, CHECKSUM_SIZE);
    table.snapshot_min = prng_next(&world.prng);
    table.value_count = prng_next(&world.prng);
    table.tree_id = (uint32_t)prng_range(&world.prng, 1, 16);
    table.block_count = (uint32_t)prng_range(&world.prng, 2, 50);
    table.level = (uint8_t)prng_below(&world.prng, LEVEL_COUNT);
    return table;
}

static void table_insert(uint32_t i)
{
    world.tables[i] = random_table(world.addresses[i]);
    world.live_count += 1;
    manifest_log_append(world.log, &world.tables[i], MANIFEST_EVENT_INSERT);
}

static void table_update(uint32_t i)
{
    world.tables[i].level = (uint8_t)prng_below(&world.prng, LEVEL_COUNT);
    random_keys(&world.tables[i]);
    manifest_log_append(world.log, &world.tables[i], MANIFEST_EVENT_UPDATE);
}

static void table_remove(uint32_t i)
{
    manifest_log_append(world.log, &world.tables[i], MANIFEST_EVENT_REMOVE);
    memset(&world.tables[i], 0, sizeof world.tables[i]);
    world.live_count -= 1;
}

static void random_event(uint32_t grow_percent)
{
    const uint32_t i = (uint32_t)prng_below(&world.prng, ADDRESS_COUNT);
    const bool live = world.tables[i].index.address != 0;
    if (!live) {
        if (world.live_count < TABLE_COUNT_MAX && prng_chance(&world.prng, grow_percent, 100)) {
            table_insert(i);
        }
    } else if (prng_chance(&world.prng, grow_percent, 100)) {
        table_update(i);
    } else {
        table_remove(i);
    }
    if (world.live_count > world.live_count_max) {
        world.live_count_max = world.live_count;
    }
}

static void half_bar_begin(void)
{
    taken_write(&world.older);
    const struct taken empty = world.older;
    world.older = world.newer;
    world.newer = empty;
    if (world.join_due) {
        free_set_join(&world.free_set);
        world.join_due = false;
    }
    cr_assert(manifest_log_half_bar_commence(world.log));
}

static void half_bar_end(bool checkpoint)
{
    uint64_t bad_address;
    cr_assert(manifest_log_half_bar_complete(world.log, checkpoint, &bad_address) == STATUS_OK);
    world.newer.count = manifest_log_take_pending(world.log, world.newer.blocks,
                                                  world.newer.addresses, world.log->pending_max);
    cr_assert(eq(u32, world.log->pending_count, 0));
    if (checkpoint) {
        taken_write(&world.older);
        taken_write(&world.newer);
        free_set_checkpoint(&world.free_set);
        world.join_due = true;
        cr_assert(lt(u32, world.checkpoint_count, CHECKPOINT_MAX));
        world.checkpoints[world.checkpoint_count] = manifest_log_newest(world.log);
        world.checkpoint_count += 1;
    }
}

static void half_bar(uint32_t event_count, uint32_t grow_percent, bool checkpoint)
{
    half_bar_begin();
    for (uint32_t i = 0; i < event_count; i++) {
        random_event(grow_percent);
    }
    half_bar_end(checkpoint);
}

static uint32_t half_bar_event_max(void)
{
    return world.log->append_blocks_max * world.log->entries_per_block;
}

/* ---- Opening again --------------------------------------------------------------------------- */

struct visitor {
    bool seen[ADDRESS_COUNT];
    uint32_t count;
    uint32_t fail_at; /* the visit that returns STATUS_STALE; 0: none */
};

static enum status visit(void *context, const struct table_info *table)
{
    struct visitor *visitor = context;
    visitor->count += 1;
    if (visitor->count == visitor->fail_at) {
        return STATUS_STALE;
    }
    const uint32_t i = index_of(table->index.address);
    cr_assert(i < ADDRESS_COUNT);
    cr_assert(not(visitor->seen[i]));
    visitor->seen[i] = true;
    cr_assert(eq(int, memcmp(table, &world.tables[i], sizeof *table), 0));
    return STATUS_OK;
}

static enum status reopen(struct visitor *visitor, uint64_t *bad_address)
{
    const struct block_reference newest = manifest_log_newest(world.log);
    *visitor = (struct visitor){.fail_at = visitor->fail_at};
    const enum status status =
        manifest_log_open(world.other, &newest, world.log->block_count, world.log->table_count,
                          visit, visitor, bad_address);
    if (status == STATUS_OK) { /* State that the checkpoint carries. */
        world.other->recent_count = world.log->recent_count;
    }
    return status;
}

/* Extents of a log by table, whatever slots they are in. */
static void extents_of(const struct manifest_log *log, struct manifest_extent *extents)
{
    memset(extents, 0, ADDRESS_COUNT * sizeof extents[0]);
    for (uint64_t slot = 0; slot < log->extent_slot_count; slot++) {
        if (log->extents[slot].table_address != 0) {
            extents[index_of(log->extents[slot].table_address)] = log->extents[slot];
        }
    }
}

struct collected {
    const struct manifest_log *log;
    uint32_t count;
};

static void collect(void *context, const struct block_reference *reference)
{
    struct collected *collected = context;
    const struct manifest_log *log = collected->log;
    const uint32_t i = (log->block_first + collected->count) % log->block_max;
    cr_assert(eq(int, memcmp(reference, &log->blocks[i], sizeof *reference), 0));
    cr_assert(not(free_set_is_free(&world.free_set, reference->address)));
    cr_assert(not(free_set_is_released(&world.free_set, reference->address)));
    collected->count += 1;
}

/* Opens the other log from disk and compares everything. */
static void check_reopened(void)
{
    struct visitor visitor = {.fail_at = 0};
    uint64_t bad_address;
    cr_assert(reopen(&visitor, &bad_address) == STATUS_OK);
    cr_assert(eq(u32, visitor.count, world.live_count));
    cr_assert(eq(u64, world.other->table_count, world.live_count));
    for (uint32_t i = 0; i < ADDRESS_COUNT; i++) {
        const bool live = world.tables[i].index.address != 0;
        cr_assert(visitor.seen[i] == live);
        cr_assert(manifest_log_has_table(world.log, world.addresses[i]) == live);
        cr_assert(manifest_log_has_table(world.other, world.addresses[i]) == live);
    }
    static struct manifest_extent extents[2][ADDRESS_COUNT];
    extents_of(world.log, extents[0]);
    extents_of(world.other, extents[1]);
    cr_assert(eq(int, memcmp(extents[0], extents[1], sizeof extents[0]), 0));

    cr_assert(manifest_log_verify(world.log));
    cr_assert(manifest_log_verify(world.other));
    struct collected collected = {.log = world.other};
    manifest_log_blocks(world.other, collect, &collected);
    cr_assert(eq(u32, collected.count, world.log->block_count));
}

static void swap_logs(void)
{
    struct manifest_log *log = world.log;
    world.log = world.other;
    world.other = log;
}

/* The bound derived in manifest_log.c. */
static void check_length(void)
{
    const struct manifest_log *log = world.log;
    const uint32_t live =
        (world.live_count_max + log->entries_per_block - 1) / log->entries_per_block;
    const uint32_t bound =
        (5 * live + 3 * log->compact_blocks_max) / 2 + 6 + log->half_bar_block_max;
    cr_assert(le(u32, log->block_count + (log->open_count > 0), bound));
    cr_assert(le(u32, bound, log->block_max));
}

/* ---- Histories ------------------------------------------------------------------------------- */

TestSuite(manifest_log, .timeout = 120);

enum reopening { NEVER, OFTEN };

static void live_through(uint64_t seed, uint32_t append_blocks_max, uint32_t reader_count,
                         enum reopening reopening)
{
    world_init(seed, append_blocks_max, reader_count);
    uint32_t grow_percent = 70;
    bool checkpointed = false;
    for (int i = 0; i < HALF_BAR_COUNT; i++) {
        if (prng_chance(&world.prng, 1, 15)) {
            grow_percent = (uint32_t)prng_range(&world.prng, 5, 95);
        }
        const uint32_t event_count =
            prng_chance(&world.prng, 1, 3)
                ? half_bar_event_max()
                : (uint32_t)prng_below(&world.prng, half_bar_event_max() + 1);
        const bool checkpoint = !checkpointed && prng_chance(&world.prng, 1, 2);
        half_bar(event_count, grow_percent, checkpoint);
        check_length();
        cr_assert(eq(u64, world.log->table_count, world.live_count));
        if (checkpoint) {
            manifest_log_reset(world.other);
            check_reopened();
            if (reopening == OFTEN) {
                swap_logs();
            }
        } else if (i % 10 == 0) {
            taken_write(&world.older);
            taken_write(&world.newer);
            cr_assert(manifest_log_verify(world.log));
        }
        checkpointed = checkpoint;
    }
    manifest_log_reset(world.other);
    if (!checkpointed) {
        half_bar(0, 0, true);
        check_reopened();
    }
}

Test(manifest_log, reopened_log_knows_the_same_tables)
{
    for (uint64_t seed = 0; seed < 12; seed++) {
        live_through(seed, 1 + (uint32_t)seed % 3, 0, OFTEN);
        world_deinit();
    }
}

Test(manifest_log, neither_reopening_nor_workers_steer_the_log)
{
    for (uint64_t seed = 100; seed < 104; seed++) {
        live_through(seed, 2, 0, NEVER);
        const uint32_t checkpoint_count = world.checkpoint_count;
        struct block_reference checkpoints[CHECKPOINT_MAX];
        memcpy(checkpoints, world.checkpoints, sizeof checkpoints);
        world_deinit();

        live_through(seed, 2, 2, OFTEN);
        cr_assert(eq(u32, world.checkpoint_count, checkpoint_count));
        cr_assert(eq(int, memcmp(world.checkpoints, checkpoints, sizeof checkpoints), 0));
        world_deinit();
    }
}

Test(manifest_log, idle_half_bars_shrink_the_log_to_twice_what_lives)
{
    world_init(7, 1, 0);
    for (int i = 0; i < 60; i++) {
        half_bar(half_bar_event_max(), i < 30 ? 90 : 20, false);
    }
    for (int i = 0; i < 60; i++) {
        half_bar(0, 0, i % 2 == 1);
    }
    const uint64_t live = div_ceil(world.live_count, world.log->entries_per_block);
    cr_assert(le(u64, world.log->block_count, 2 * live + 1)); /* And what a checkpoint closed. */
    check_reopened();
    world_deinit();
}

Test(manifest_log, every_table_may_go)
{
    world_init(8, 2, 0);
    for (uint32_t i = 0; i < 50; i++) {
        half_bar_begin();
        table_insert(i);
        half_bar_end(false);
    }
    half_bar_begin();
    for (uint32_t i = 0; i < 50; i++) {
        table_remove(i);
    }
    half_bar_end(true);
    cr_assert(eq(u64, world.log->table_count, 0));
    check_reopened();
    world_deinit();
}

Test(manifest_log, empty_log_opens_empty)
{
    world_init(9, 1, 0);
    half_bar(0, 0, true);
    cr_assert(eq(u32, world.log->block_count, 0));
    cr_assert(eq(u64, manifest_log_newest(world.log).address, 0));
    cr_assert(eq(u64, world.free_set.acquired_count, 0));
    check_reopened();
    world_deinit();
}

Test(manifest_log, stale_life_of_a_reused_address_stays_dead_after_compaction)
{
    world_init(10, 1, 0);
    half_bar_begin();
    table_insert(0); /* Lives once, ... */
    table_insert(1);
    table_remove(0);
    table_insert(0); /* ... twice, ... */
    table_update(0);
    table_remove(0);
    table_insert(2);
    half_bar_end(true);
    check_reopened();
    for (int i = 0; i < 40; i++) { /* Compaction moves 1 and 2 to newer blocks. */
        half_bar_begin();
        for (uint32_t j = 10; j < 25; j++) {
            table_insert(j);
            table_remove(j);
        }
        if (i == 20) {
            table_insert(0); /* ... and a third time. */
        }
        half_bar_end(i % 2 == 1);
        if (i % 2 == 1) {
            manifest_log_reset(world.other);
            check_reopened();
        }
    }
    world_deinit();
}

Test(manifest_log, reset_gives_up_a_half_bar)
{
    for (uint32_t reader_count = 0; reader_count < 2; reader_count++) {
        world_init(11, 1, reader_count);
        while (world.log->read_count == 0) {
            half_bar(half_bar_event_max(), 50, false);
            half_bar_begin();
            if (world.log->read_count == 0) {
                half_bar_end(false);
            }
        }
        manifest_log_reset(world.log);
        cr_assert(eq(u32, world.free_set.reservation_count, 0));
        cr_assert(eq(u64, world.log->table_count, 0));
        cr_assert(eq(u32, world.log->block_count, 0));
        world_deinit();
    }
}

Test(manifest_log, pending_blocks_may_be_taken_a_few_at_a_time)
{
    world_init(12, 3, 0);
    half_bar_begin();
    for (uint32_t i = 0; i < half_bar_event_max(); i++) {
        random_event(95);
    }
    uint64_t bad_address;
    cr_assert(manifest_log_half_bar_complete(world.log, true, &bad_address) == STATUS_OK);
    const uint32_t count = world.log->pending_count;
    cr_assert(gt(u32, count, 1));
    for (uint32_t i = 0; i < count; i++) {
        cr_assert(manifest_log_verify(world.log)); /* What is pending is read from memory. */
        cr_assert(eq(
            u32, manifest_log_take_pending(world.log, world.newer.blocks, world.newer.addresses, 1),
            1));
        world.newer.count = 1;
        taken_write(&world.newer);
    }
    cr_assert(eq(u32,
                 manifest_log_take_pending(world.log, world.newer.blocks, world.newer.addresses, 1),
                 0));
    check_reopened();
    world_deinit();
}

Test(manifest_log, full_grid_refuses_the_half_bar_and_nothing_else)
{
    world_init(13, 1, 0);
    half_bar(half_bar_event_max(), 90, true);
    struct reservation reservation;
    uint32_t block_count = (uint32_t)world.geometry.block_count_max - 256;
    cr_assert(free_set_reserve(&world.free_set, block_count, &reservation));
    while (free_set_reserve(&world.free_set, 1, &reservation)) { /* Take every word. */
    }
    cr_assert(not(manifest_log_half_bar_commence(world.log)));
    check_reopened();
    cr_assert(not(world.log->reserved));
}

/* ---- Damage ---------------------------------------------------------------------------------- */

/* A checkpointed log of several blocks, nothing of it in the cache. */
static void make_log(uint64_t seed)
{
    world_init(seed, 2, 0);
    for (int i = 0; i < 5; i++) {
        half_bar(half_bar_event_max(), 80, i == 4);
    }
    cr_assert(ge(u32, world.log->block_count, 5));
    grid_restart();
}

static uint64_t block_offset(uint64_t address)
{
    return grid_zone_offset(&world.geometry) + (address - 1) * world.geometry.block_size;
}

static void check_other_is_reset(void)
{
    cr_assert(eq(u32, world.other->block_count, 0));
    cr_assert(eq(u64, world.other->table_count, 0));
    cr_assert(eq(u64, world.other->extent_count, 0));
}

Test(manifest_log, flipped_bit_is_found_and_its_block_named)
{
    make_log(20);
    struct visitor visitor = {.fail_at = 0};
    uint64_t bad_address;
    for (uint32_t i = 0; i < world.log->block_count; i++) {
        for (int j = 0; j < 6; j++) {
            const uint64_t address = world.log->blocks[i].address;
            const uint64_t offset = block_offset(address) +
                                    (j < 3 ? prng_below(&world.prng, BLOCK_HEADER_SIZE)
                                           : prng_below(&world.prng, world.geometry.block_size));
            const uint8_t mask = (uint8_t)(1u << prng_below(&world.prng, 8));
            sim_io_flip(&world.sim, offset, mask);
            cr_assert(reopen(&visitor, &bad_address) == STATUS_CORRUPT);
            cr_assert(eq(u64, bad_address, address));
            check_other_is_reset();
            sim_io_flip(&world.sim, offset, mask);
            grid_restart();
        }
    }
    check_reopened();
    world_deinit();
}

Test(manifest_log, read_that_fails_once_does_no_harm)
{
    make_log(21);
    for (uint64_t n = 1; n <= world.log->block_count; n++) {
        grid_restart();
        manifest_log_reset(world.other);
        sim_io_fail_read(&world.sim, n, STATUS_IO);
        struct visitor visitor = {.fail_at = 0};
        uint64_t bad_address;
        cr_assert(reopen(&visitor, &bad_address) == STATUS_OK);
        cr_assert(not(sim_io_armed(&world.sim)));
    }
    world_deinit();
}

/* A disk that dies for good after `reads_left` more reads. */
static struct io dying_disk;
static uint64_t reads_left;

static enum status dying_read(struct io *io, uint64_t offset, void *buffer, size_t size)
{
    cr_assert(io == &dying_disk);
    if (reads_left == 0) {
        return STATUS_IO;
    }
    reads_left -= 1;
    return io_read(&world.sim.io, offset, buffer, size);
}

Test(manifest_log, failed_read_at_open_leaves_a_log_that_can_be_opened_again)
{
    make_log(28);
    static const struct io_ops ops = {.read = dying_read};
    dying_disk = (struct io){.ops = &ops};
    for (uint32_t i = 0; i < world.log->block_count; i++) {
        grid_restart();
        world.grid.io = &dying_disk;
        reads_left = i;
        struct visitor visitor = {.fail_at = 0};
        uint64_t bad_address;
        cr_assert(reopen(&visitor, &bad_address) == STATUS_IO);
        const uint32_t bad = world.log->block_first + world.log->block_count - 1 - i;
        cr_assert(eq(u64, bad_address, world.log->blocks[bad % world.log->block_max].address));
        check_other_is_reset();
    }
    grid_restart();
    check_reopened();
    world_deinit();
}

Test(manifest_log, counts_that_disagree_with_the_log_are_refused)
{
    make_log(22);
    const struct block_reference newest = manifest_log_newest(world.log);
    const struct block_reference none = {.address = 0};
    const uint32_t blocks = world.log->block_count;
    const uint64_t tables = world.log->table_count;
    struct {
        const struct block_reference *newest;
        uint64_t block_count;
        uint64_t table_count;
        enum status status;
    } cases[] = {
        {&newest, blocks, tables + 1, STATUS_CORRUPT},
        {&newest, blocks, tables - 1, STATUS_CORRUPT},
        {&newest, blocks + 1, tables, STATUS_CORRUPT}, /* The oldest has no block before it. */
        {&newest, 1, tables, STATUS_CORRUPT},
        {&newest, 0, 0, STATUS_CORRUPT},
        {&none, 1, 0, STATUS_CORRUPT},
        {&newest, world.log->block_max + 1, tables, STATUS_NO_MEMORY},
        {&newest, UINT64_MAX, tables, STATUS_NO_MEMORY},
    };
    for (size_t i = 0; i < array_count(cases); i++) {
        struct visitor visitor = {.fail_at = 0};
        uint64_t bad_address;
        cr_assert(manifest_log_open(world.other, cases[i].newest, cases[i].block_count,
                                    cases[i].table_count, visit, &visitor,
                                    &bad_address) == cases[i].status);
        check_other_is_reset();
    }
    check_reopened();
    world_deinit();
}

Test(manifest_log, more_tables_than_provided_for_are_refused)
{
    make_log(23);
    struct manifest_log small;
    const struct manifest_log_options options = {
        .append_blocks_max = 2,
        .table_count_max = world.live_count - 1,
    };
    cr_assert(manifest_log_init(&small, &world.geometry, &world.grid, &world.free_set,
                                &world.readers, &world.doorbell, &options) == STATUS_OK);
    const struct block_reference newest = manifest_log_newest(world.log);
    struct visitor visitor = {.fail_at = 0};
    uint64_t bad_address;
    cr_assert(manifest_log_open(&small, &newest, world.log->block_count, world.log->table_count,
                                visit, &visitor, &bad_address) == STATUS_NO_MEMORY);
    manifest_log_deinit(&small);
    world_deinit();
}

Test(manifest_log, refusal_of_the_visitor_ends_the_open)
{
    make_log(24);
    struct visitor visitor = {.fail_at = 3};
    uint64_t bad_address;
    cr_assert(reopen(&visitor, &bad_address) == STATUS_STALE);
    cr_assert(eq(u32, visitor.count, 3));
    check_other_is_reset();
    world_deinit();
}

/* A block whose checksum is right, but whose content no writer of ours would make. */
struct nonsense {
    uint32_t offset; /* in the block */
    uint8_t bytes[4];
};

Test(manifest_log, sealed_nonsense_is_refused)
{
    enum { ENTRY = BLOCK_HEADER_SIZE };
    const struct nonsense cases[] = {
        {ENTRY + offsetof(struct table_info, event), {0, 0, 0, 0}},
        {ENTRY + offsetof(struct table_info, event), {4, 0, 0, 0}},
        {ENTRY + offsetof(struct table_info, level), {LEVEL_COUNT, 1, 0, 0}},
        {ENTRY + offsetof(struct table_info, zero), {0, 0, 1, 0}},
        {ENTRY + offsetof(struct table_info, tree_id), {0, 0, 0, 0}},
        {ENTRY + offsetof(struct table_info, index.address), {0, 0, 0, 0}},
        {ENTRY + offsetof(struct table_info, index.address), {1, 0, 1, 0}}, /* 65537 */
        {ENTRY + offsetof(struct table_info, key_min), {255, 255, 255, 255}},
        {offsetof(struct block_header, value_count), {0, 0, 0, 0}},
        {offsetof(struct block_header, value_count), {32, 0, 0, 0}},
        {offsetof(struct block_header, value_count), {1, 0, 0, 0}}, /* size is of more */
        {offsetof(struct block_header, metadata), {0, 0, 0, 0}},    /* no block before */
        {offsetof(struct block_header, metadata), {1, 0, 1, 0}},    /* past the grid */
    };
    make_log(25);
    const struct block_reference newest = manifest_log_newest(world.log);
    uint8_t *block = memory_acquire(world.geometry.block_size);
    for (size_t i = 0; i < array_count(cases); i++) {
        grid_restart();
        cr_assert(grid_read_blocks(&world.grid, newest.address, 1, block) == STATUS_OK);
        memcpy(block + cases[i].offset, cases[i].bytes, sizeof cases[i].bytes);
        const struct block_reference sealed = block_seal(block, world.geometry.block_size);
        uint8_t *intact = world.newer.blocks;
        cr_assert(grid_read_blocks(&world.grid, newest.address, 1, intact) == STATUS_OK);
        cr_assert(grid_write_blocks(&world.grid, newest.address, 1, block) == STATUS_OK);

        struct visitor visitor = {.fail_at = 0};
        uint64_t bad_address;
        cr_assert(manifest_log_open(world.other, &sealed, world.log->block_count,
                                    world.log->table_count, visit, &visitor,
                                    &bad_address) == STATUS_CORRUPT);
        cr_assert(eq(u64, bad_address, newest.address));
        check_other_is_reset();
        cr_assert(grid_write_blocks(&world.grid, newest.address, 1, intact) == STATUS_OK);
    }
    memory_release(block, world.geometry.block_size);
    check_reopened();
    world_deinit();
}

Test(manifest_log, compaction_that_meets_a_damaged_block_drops_nothing)
{
    for (uint32_t reader_count = 0; reader_count < 2; reader_count++) {
        world_init(26, 1, reader_count);
        uint64_t live = 0;
        do {
            half_bar(half_bar_event_max(), 50, false);
            live = div_ceil(world.live_count, world.log->entries_per_block);
        } while (world.log->block_count <= 2 * live + world.log->recent_count);
        taken_write(&world.older);
        taken_write(&world.newer);
        grid_restart();

        const uint64_t address = world.log->blocks[world.log->block_first].address;
        const uint32_t block_count = world.log->block_count;
        const uint64_t released_count = world.free_set.released_count;
        sim_io_flip(&world.sim, block_offset(address) + 1000, 4);
        half_bar_begin();
        cr_assert(gt(u32, world.log->read_count, 0));
        random_event(50);
        uint64_t bad_address = 0;
        cr_assert(manifest_log_half_bar_complete(world.log, true, &bad_address) == STATUS_CORRUPT);
        cr_assert(eq(u64, bad_address, address));
        cr_assert(ge(u32, world.log->block_count, block_count));
        cr_assert(eq(u64, world.free_set.released_count, released_count));
        cr_assert(eq(u32, world.free_set.reservation_count, 0));
        world.newer.count = manifest_log_take_pending(
            world.log, world.newer.blocks, world.newer.addresses, world.log->pending_max);
        taken_write(&world.newer);

        sim_io_flip(&world.sim, block_offset(address) + 1000, 4);
        cr_assert(manifest_log_verify(world.log));
        check_reopened();
        half_bar(0, 0, false); /* The block is well again: compaction goes on. */
        cr_assert(gt(u64, world.free_set.released_count, released_count));
        cr_assert(manifest_log_verify(world.log));
        world_deinit();
    }
}

Test(manifest_log, verify_finds_extents_that_differ_from_the_log)
{
    make_log(27);
    cr_assert(manifest_log_verify(world.log));
    uint64_t slot = 0;
    while (world.log->extents[slot].table_address == 0) {
        slot += 1;
    }
    struct manifest_extent *extent = &world.log->extents[slot];
    const struct manifest_extent extent_right = *extent;

    extent->entry += 1;
    cr_assert(not(manifest_log_verify(world.log)));
    cr_assert(eq(u32, extent->mark, 0));
    *extent = extent_right;
    cr_assert(manifest_log_verify(world.log));

    extent->block_address += 1;
    cr_assert(not(manifest_log_verify(world.log)));
    *extent = extent_right;

    /* A table that the log knows and the extents do not: a shadow is left over. */
    world.log->table_count -= 1;
    world.log->extent_count -= 1;
    memset(extent, 0, sizeof *extent);
    cr_assert(not(manifest_log_verify(world.log)));
    world.log->table_count += 1;
    world.log->extent_count += 1;
    *extent = extent_right;

    sim_io_flip(&world.sim, block_offset(world.log->blocks[0].address) + 500, 1);
    grid_restart();
    cr_assert(not(manifest_log_verify(world.log)));
    world_deinit();
}

/* ---- Contract -------------------------------------------------------------------------------- */

Test(manifest_log, appending_outside_a_half_bar_is_a_bug, .signal = SIGABRT)
{
    world_init(30, 1, 0);
    table_insert(0);
}

Test(manifest_log, inserting_a_live_table_is_a_bug, .signal = SIGABRT)
{
    world_init(31, 1, 0);
    half_bar_begin();
    table_insert(0);
    table_insert(0);
}

Test(manifest_log, removing_an_unknown_table_is_a_bug, .signal = SIGABRT)
{
    world_init(32, 1, 0);
    half_bar_begin();
    world.tables[0] = random_table(world.addresses[0]);
    table_remove(0);
}

Test(manifest_log, appending_more_than_promised_is_a_bug, .signal = SIGABRT)
{
    world_init(33, 1, 0);
    half_bar_begin();
    for (uint32_t i = 0; i <= half_bar_event_max(); i++) {
        table_insert(i);
    }
}

Test(manifest_log, next_half_bar_wants_pending_blocks_taken, .signal = SIGABRT)
{
    world_init(34, 1, 0);
    half_bar_begin();
    table_insert(0);
    uint64_t bad_address;
    cr_assert(manifest_log_half_bar_complete(world.log, true, &bad_address) == STATUS_OK);
    half_bar_begin();
}
