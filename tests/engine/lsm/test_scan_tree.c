/* Goal: a scan gives the newest value of each key of its range, in order, no tombstones, whatever
 * lies where.
 * Method: random layers over tables and runs beside a plain array (tests/harness/tree_model), many
 * seeds and shapes; ranges at, between and outside keys; a cache without room, so that spare
 * blocks are used; blocks damaged and reads failing, where what was given out before must still be
 * right.
 */
#include "engine/lsm/scan_tree.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <string.h>

#include "pool/memory.h"
#include "tests/harness/tree_model.h"

static struct tree_fixture fixture;
static struct tree_fixture_tree tree;
static struct tree_model model;
static struct scan_tree scan;
static struct prng prng;
static uint8_t *spare;
static uint64_t spare_size;

static const struct {
    uint32_t key_size, value_size;
    enum filter_kind filter_kind;
} shapes[] = {
    {8, 40, FILTER_KIND_KEY},     {16, 24, FILTER_KIND_KEY},    {16, 16, FILTER_KIND_PREFIX},
    {24, 24, FILTER_KIND_PREFIX}, {32, 32, FILTER_KIND_PREFIX},
};

static void init(void)
{
    const struct geometry geometry = geometry_tiny();
    tree_fixture_init(&fixture, &geometry, 256);
    spare_size = LEVEL_COUNT * 3 * (uint64_t)geometry.block_size;
    spare = memory_acquire(spare_size);
    cr_assert(spare != NULL);
}

static void fini(void)
{
    memory_release(spare, spare_size);
    tree_fixture_deinit(&fixture);
}

TestSuite(scan_tree, .init = init, .fini = fini, .timeout = 120);

static void build(uint64_t seed, uint32_t run_count_max)
{
    static const uint32_t group_sizes[] = {1, 20, 900};
    prng_init(&prng, seed);
    free_set_reset(&fixture.free_set);
    const size_t shape = seed % array_count(shapes);
    tree_model_init(&model, shapes[shape].key_size, shapes[shape].value_size,
                    (uint32_t)prng_range(&prng, 1, TREE_MODEL_ORDINAL_MAX),
                    group_sizes[prng_below(&prng, 3)]);
    tree_fixture_tree_init(&fixture, &tree, 7, shapes[shape].key_size, shapes[shape].value_size,
                           shapes[shape].filter_kind);
    tree_model_build(&model, &fixture, &tree, &prng, run_count_max);
}

/* Ordinals from `first` on that the scan gives; stops at `end`. Returns the first status that is
 * not OK, having checked everything given until then. */
static enum status check_scan(const struct key *key_min, const struct key *key_max, bool prefix,
                              uint32_t first, uint32_t end)
{
    scan_tree_open(&scan, &fixture.geometry, &fixture.grid, &tree.version, key_min, key_max, prefix,
                   spare);
    uint32_t ordinal = first;
    enum status status;
    for (;;) {
        const uint8_t *value = NULL;
        status = scan_tree_next(&scan, &value);
        if (status != STATUS_OK) {
            break;
        }
        while (ordinal < end && model.tags[ordinal] == 0) {
            ordinal += 1;
        }
        if (value == NULL) {
            cr_assert(eq(u32, ordinal, end));
            break;
        }
        cr_assert(ordinal < end);
        uint8_t expected[128];
        tree_model_value(&model, ordinal, model.tags[ordinal], expected);
        cr_assert(memcmp(value, expected, model.value_size) == 0, "ordinal %u", ordinal);
        ordinal += 1;
    }
    scan_tree_close(&scan);
    return status;
}

static enum status check_everything(void)
{
    struct key key_min = {0};
    struct key key_max = {0};
    memset(key_max.bytes, 0xFF, model.key_size);
    return check_scan(&key_min, &key_max, false, 0, model.ordinal_count);
}

static void check_random_range(void)
{
    const uint32_t a = (uint32_t)prng_below(&prng, model.ordinal_count);
    const uint32_t b = (uint32_t)prng_range(&prng, a, model.ordinal_count - 1);
    const bool gap_min = prng_chance(&prng, 1, 2);
    const bool gap_max = prng_chance(&prng, 1, 2);
    struct key key_min = {0};
    struct key key_max = {0};
    tree_model_key(&model, a, gap_min, key_min.bytes);
    tree_model_key(&model, b, gap_max, key_max.bytes);
    const uint32_t end = gap_max ? b : b + 1;
    cr_assert(eq(int, check_scan(&key_min, &key_max, false, a, end > a ? end : a), STATUS_OK));
}

/* The group of a random ordinal; in one case of four a group that is nowhere. */
static void check_random_prefix(void)
{
    const uint32_t any = (uint32_t)prng_below(&prng, model.ordinal_count);
    uint32_t first = any - any % model.group_size;
    uint32_t end = (uint32_t)min_u64(first + model.group_size, model.ordinal_count);
    struct key key_min = {0};
    tree_model_key(&model, any, false, key_min.bytes);
    if (prng_chance(&prng, 1, 4)) {
        key_min.bytes[model.key_size - 9] ^= 0xFF;
        key_min.bytes[model.key_size - 16] ^= 0x10;
        first = 0;
        end = 0;
    }
    struct key key_max = key_min;
    memset(key_min.bytes + model.key_size - 8, 0, 8);
    memset(key_max.bytes + model.key_size - 8, 0xFF, 8);
    cr_assert(eq(int, check_scan(&key_min, &key_max, true, first, end), STATUS_OK));
}

Test(scan_tree, agrees_with_the_model)
{
    for (uint64_t seed = 0; seed < 40; seed++) {
        build(seed, seed % 8 == 7 ? 2 * TABLE_MEMORY_RUN_MAX : 4);
        cr_assert(eq(int, check_everything(), STATUS_OK));
        for (int i = 0; i < 20; i++) {
            check_random_range();
            if (tree.version.shape.filter_kind == FILTER_KIND_PREFIX) {
                check_random_prefix();
            }
        }
        tree_fixture_tree_deinit(&fixture, &tree);
    }
}

Test(scan_tree, full_cache_leaves_the_spare_blocks)
{
    for (uint64_t seed = 50; seed < 60; seed++) {
        build(seed, 2);
        tree_fixture_crowd(&fixture);
        cr_assert(eq(int, check_everything(), STATUS_OK));
        check_random_range();
        tree_fixture_uncrowd(&fixture);
        tree_fixture_tree_deinit(&fixture, &tree);
    }
}

Test(scan_tree, empty_tree_and_empty_range)
{
    tree_model_init(&model, 16, 24, 1, 1);
    tree_fixture_tree_init(&fixture, &tree, 7, 16, 24, FILTER_KIND_KEY);
    cr_assert(eq(int, check_everything(), STATUS_OK));
    uint8_t value[24];
    tree_model_value(&model, 0, 1, value);
    model.tags[0] = 1;
    tree_fixture_add_run(&fixture, &tree, value, 1);
    cr_assert(eq(int, check_everything(), STATUS_OK));
    struct key key_min = {0};
    struct key key_max = {0};
    tree_model_key(&model, 0, false, key_min.bytes);
    tree_model_key(&model, 0, true, key_max.bytes);
    cr_assert(eq(int, check_scan(&key_min, &key_max, false, 0, 0), STATUS_OK));
    tree_fixture_tree_deinit(&fixture, &tree);
}

Test(scan_tree, prefix_filter_spares_value_blocks)
{
    tree_model_init(&model, 16, 16, 2000, 1);
    tree_fixture_tree_init(&fixture, &tree, 7, 16, 16, FILTER_KIND_PREFIX);
    static uint8_t values[2000 * 16];
    uint32_t count = 0;
    for (uint32_t i = 0; i < 2000; i += 2) { /* the odd ones are absent, within the table's range */
        tree_model_value(&model, i, 1, values + (size_t)count * 16);
        model.tags[i] = 1;
        count += 1;
    }
    tree_fixture_add_tables(&fixture, &tree, 3, values, count, count, 0);
    uint64_t blocks_read = 0;
    for (uint32_t i = 1; i < 1999; i += 2) {
        struct key key_min = {0};
        tree_model_key(&model, i, false, key_min.bytes);
        struct key key_max = key_min;
        memset(key_min.bytes + 8, 0, 8);
        memset(key_max.bytes + 8, 0xFF, 8);
        cr_assert(eq(int, check_scan(&key_min, &key_max, true, i, i), STATUS_OK));
        blocks_read += scan.blocks_read;
    }
    cr_assert(blocks_read < 50, "%lu of 999 scans passed the filter", blocks_read);
    tree_fixture_tree_deinit(&fixture, &tree);
}

/* The filter that covers the value block before a prefix knows nothing of it when the prefix begins
 * the first block under the next filter. */
Test(scan_tree, a_prefix_may_begin_where_a_filter_begins)
{
    enum { COUNT = TREE_MODEL_ORDINAL_MAX };
    const uint64_t under_one_filter = (uint64_t)table_values_per_block(&fixture.geometry, 16) *
                                      table_value_blocks_per_filter(&fixture.geometry, 16);
    cr_assert(under_one_filter < COUNT);
    tree_model_init(&model, 16, 16, COUNT, 1);
    tree_fixture_tree_init(&fixture, &tree, 7, 16, 16, FILTER_KIND_PREFIX);
    static uint8_t values[COUNT * 16];
    for (uint32_t i = 0; i < COUNT; i++) {
        tree_model_value(&model, i, 1, values + (size_t)i * 16);
        model.tags[i] = 1;
    }
    tree_fixture_add_tables(&fixture, &tree, 3, values, COUNT, COUNT, 0);
    for (uint32_t i = 0; i < COUNT; i++) {
        struct key key_min = {0};
        tree_model_key(&model, i, false, key_min.bytes);
        struct key key_max = key_min;
        memset(key_min.bytes + 8, 0, 8);
        memset(key_max.bytes + 8, 0xFF, 8);
        cr_assert(eq(int, check_scan(&key_min, &key_max, true, i, i + 1), STATUS_OK));
    }
    tree_fixture_tree_deinit(&fixture, &tree);
}

Test(scan_tree, damage_ends_the_scan_before_a_wrong_value)
{
    uint32_t corrupt_count = 0;
    for (uint64_t seed = 100; seed < 160; seed++) {
        build(seed, 3);
        const uint64_t blocks = fixture.free_set.acquired_count;
        if (blocks > 0) {
            const uint64_t address = prng_range(&prng, 1, blocks);
            const uint64_t offset = fixture.grid.zone_offset +
                                    (address - 1) * fixture.geometry.block_size +
                                    prng_below(&prng, fixture.geometry.block_size);
            tree_fixture_forget(&fixture);
            fixture.sim.bytes[offset] ^= 0x10;
            const enum status status = check_everything();
            if (status != STATUS_OK) {
                cr_assert(eq(int, status, STATUS_CORRUPT));
                cr_assert(eq(u64, scan.bad_address, address));
                corrupt_count += 1;
            }
            fixture.sim.bytes[offset] ^= 0x10;
            cr_assert(eq(int, check_everything(), STATUS_OK)); /* Nothing wrong was cached. */
        }
        tree_fixture_tree_deinit(&fixture, &tree);
    }
    cr_assert(corrupt_count > 10);
}

/* The file ends before block n, n = 1, 2, 3 ...: reads past it fail, however often repeated. */
Test(scan_tree, failed_read_is_told)
{
    for (uint64_t seed = 200; seed < 212; seed++) {
        build(seed, 3);
        for (uint64_t n = 1; n <= fixture.free_set.acquired_count; n++) {
            tree_fixture_cut(&fixture, n - 1);
            cr_assert(eq(int, check_everything(), STATUS_IO));
            tree_fixture_restore(&fixture);
        }
        cr_assert(eq(int, check_everything(), STATUS_OK));
        tree_fixture_tree_deinit(&fixture, &tree);
    }
}

/* Asked for one key, a filter over whole keys answers as well. */
Test(scan_tree, key_filter_spares_value_blocks)
{
    tree_model_init(&model, 16, 24, 2000, 1);
    tree_fixture_tree_init(&fixture, &tree, 7, 16, 24, FILTER_KIND_KEY);
    static uint8_t values[2000 * 24];
    uint32_t count = 0;
    for (uint32_t i = 0; i < 2000; i += 2) {
        tree_model_value(&model, i, 1, values + (size_t)count * 24);
        model.tags[i] = 1;
        count += 1;
    }
    tree_fixture_add_tables(&fixture, &tree, 3, values, count, count, 0);
    uint64_t blocks_read = 0;
    for (uint32_t i = 0; i < 1999; i++) {
        struct key key = {0};
        tree_model_key(&model, i, false, key.bytes);
        cr_assert(eq(int, check_scan(&key, &key, true, i, i + 1), STATUS_OK));
        blocks_read += i % 2 == 1 ? scan.blocks_read : 0;
    }
    cr_assert(blocks_read < 50, "%lu of 999 scans passed the filter", blocks_read);
    tree_fixture_tree_deinit(&fixture, &tree);
}

Test(scan_tree, asking_filters_for_a_range_of_several_prefixes_is_a_bug, .signal = SIGABRT)
{
    tree_fixture_tree_init(&fixture, &tree, 7, 16, 24, FILTER_KIND_KEY);
    const struct key key_min = {0};
    const struct key key_max = {{[15] = 1}};
    scan_tree_open(&scan, &fixture.geometry, &fixture.grid, &tree.version, &key_min, &key_max, true,
                   spare);
}
