/* Goal: a lookup gives the newest value of each key, or says that it is absent, or that this cannot
 * be told; never an older value, never a wrong one.
 * Method: random layers over tables and runs beside a plain array (tests/harness/tree_model), many
 * seeds and shapes, sorted key lists with absent and repeated keys; blocks damaged and reads
 * failing at every point. */
#include "engine/lsm/lookup.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <string.h>

#include "pool/memory.h"
#include "tests/harness/tree_model.h"

enum { KEY_COUNT_MAX = 5000, KEY_STRIDE = 40, VALUE_STRIDE = 56 };

static struct tree_fixture fixture;
static struct tree_fixture_tree tree;
static struct tree_model model;
static struct prng prng;
static uint8_t *spare;
static uint64_t spare_size;

static uint8_t keys[KEY_COUNT_MAX * KEY_STRIDE];
static uint8_t values[KEY_COUNT_MAX * VALUE_STRIDE];
static uint8_t outcomes[KEY_COUNT_MAX + 1];
static uint32_t expected_tags[KEY_COUNT_MAX];
static uint32_t ordinals[KEY_COUNT_MAX];
static struct lookup lookup;

static const struct {
    uint32_t key_size, value_size;
    enum filter_kind filter_kind;
} shapes[] = {
    {8, 40, FILTER_KIND_KEY},
    {16, 24, FILTER_KIND_KEY},
    {16, 16, FILTER_KIND_PREFIX},
    {32, 32, FILTER_KIND_PREFIX},
};

static void init(void)
{
    const struct geometry geometry = geometry_tiny();
    tree_fixture_init(&fixture, &geometry, 256);
    spare_size = 3 * (uint64_t)geometry.block_size;
    spare = memory_acquire(spare_size);
    cr_assert(spare != NULL);
}

static void fini(void)
{
    memory_release(spare, spare_size);
    tree_fixture_deinit(&fixture);
}

TestSuite(lookup, .init = init, .fini = fini, .timeout = 120);

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

/* Sorted keys, `percent` of all; some of them twice, some that are nowhere. */
static void choose_keys(uint64_t percent)
{
    uint32_t count = 0;
    for (uint32_t ordinal = 0; ordinal < model.ordinal_count; ordinal++) {
        while (count < KEY_COUNT_MAX && prng_chance(&prng, percent, 110)) {
            const bool gap =
                prng_chance(&prng, 1, 8) && (count == 0 || ordinals[count - 1] != ordinal);
            tree_model_key(&model, ordinal, gap, keys + (size_t)count * KEY_STRIDE);
            ordinals[count] = ordinal;
            expected_tags[count] = gap ? 0 : model.tags[ordinal];
            count += 1;
            if (gap || prng_chance(&prng, 3, 4)) {
                break;
            }
        }
    }
    lookup = (struct lookup){
        .geometry = &fixture.geometry,
        .grid = &fixture.grid,
        .tree = &tree.version,
        .spare = spare,
        .keys = keys,
        .key_stride = KEY_STRIDE,
        .key_count = count,
        .values = values,
        .value_stride = VALUE_STRIDE,
        .outcomes = outcomes,
    };
}

/* Everything that is not DAMAGED is right; returns how many are DAMAGED. */
static uint32_t check_outcomes(void)
{
    uint32_t damaged = 0;
    for (uint32_t i = 0; i < lookup.key_count; i++) {
        if (outcomes[i] == LOOKUP_DAMAGED) {
            damaged += 1;
            continue;
        }
        cr_assert(outcomes[i] == (expected_tags[i] != 0 ? LOOKUP_FOUND : LOOKUP_ABSENT),
                  "key %u: %u", i, outcomes[i]);
        if (outcomes[i] == LOOKUP_FOUND) {
            uint8_t expected[128];
            tree_model_value(&model, ordinals[i], expected_tags[i], expected);
            cr_assert(memcmp(values + (size_t)i * VALUE_STRIDE, expected, model.value_size) == 0);
        }
    }
    return damaged;
}

Test(lookup, agrees_with_the_model)
{
    static const uint64_t percents[] = {0, 1, 20, 100};
    for (uint64_t seed = 0; seed < 60; seed++) {
        build(seed, seed % 8 == 7 ? 2 * TABLE_MEMORY_RUN_MAX : 4);
        for (size_t i = 0; i < array_count(percents); i++) {
            choose_keys(percents[i]);
            outcomes[lookup.key_count] = 0x55;
            cr_assert(eq(int, lookup_run(&lookup, i % 2 == 0), STATUS_OK));
            cr_assert(eq(u32, check_outcomes(), 0));
            cr_assert(eq(u64, lookup.bad_address, 0));
            cr_assert(eq(u8, outcomes[lookup.key_count], 0x55));
        }
        tree_fixture_tree_deinit(&fixture, &tree);
    }
}

Test(lookup, full_cache_leaves_the_spare_blocks)
{
    for (uint64_t seed = 60; seed < 70; seed++) {
        build(seed, 2);
        choose_keys(20);
        tree_fixture_crowd(&fixture);
        cr_assert(eq(int, lookup_run(&lookup, true), STATUS_OK));
        cr_assert(eq(u32, check_outcomes(), 0));
        tree_fixture_uncrowd(&fixture);
        tree_fixture_tree_deinit(&fixture, &tree);
    }
}

Test(lookup, damage_is_stale_for_readers_and_an_outcome_for_the_writer)
{
    uint32_t damaged_count = 0;
    for (uint64_t seed = 100; seed < 180; seed++) {
        build(seed, 2);
        const uint64_t blocks = fixture.free_set.acquired_count;
        if (blocks > 0) {
            const uint64_t address = prng_range(&prng, 1, blocks);
            const uint64_t offset = fixture.grid.zone_offset +
                                    (address - 1) * fixture.geometry.block_size +
                                    prng_below(&prng, fixture.geometry.block_size);
            choose_keys(30);
            tree_fixture_forget(&fixture);
            fixture.sim.bytes[offset] ^= 0x04;
            cr_assert(eq(int, lookup_run(&lookup, false), STATUS_OK));
            const uint32_t damaged = check_outcomes();
            cr_assert(eq(u64, lookup.bad_address, damaged > 0 ? address : 0));
            cr_assert(eq(int, lookup_run(&lookup, true), damaged > 0 ? STATUS_STALE : STATUS_OK));
            cr_assert(eq(u64, lookup.bad_address, damaged > 0 ? address : 0));
            damaged_count += damaged > 0;

            fixture.sim.bytes[offset] ^= 0x04;
            cr_assert(eq(int, lookup_run(&lookup, true), STATUS_OK));
            cr_assert(eq(u32, check_outcomes(), 0));
        }
        tree_fixture_tree_deinit(&fixture, &tree);
    }
    cr_assert(damaged_count > 10);
}

/* The file ends before block n, n = 1, 2, 3 ...: reads past it fail, however often repeated. */
Test(lookup, failed_read_is_told)
{
    uint32_t failed_count = 0;
    for (uint64_t seed = 200; seed < 212; seed++) {
        build(seed, 3);
        choose_keys(20);
        for (uint64_t n = 1; n <= fixture.free_set.acquired_count; n++) {
            tree_fixture_cut(&fixture, n - 1);
            const bool reader = n % 2 == 0;
            const enum status status = lookup_run(&lookup, reader);
            cr_assert(status == STATUS_OK || (reader && status == STATUS_IO));
            /* The writer's keys that do not need what is gone are answered. */
            const uint32_t unknown = status == STATUS_OK ? check_outcomes() : 1;
            cr_assert(eq(int, lookup.unreadable, unknown > 0));
            cr_assert(unknown > 0 ? lookup.bad_address >= n : lookup.bad_address == 0);
            failed_count += unknown > 0;
            tree_fixture_restore(&fixture);
        }
        cr_assert(eq(int, lookup_run(&lookup, true), STATUS_OK));
        cr_assert(eq(u32, check_outcomes(), 0));
        tree_fixture_tree_deinit(&fixture, &tree);
    }
    cr_assert(failed_count > 10);
}

Test(lookup, keys_closer_than_their_size_are_a_bug, .signal = SIGABRT)
{
    build(0, 3);
    choose_keys(100);
    lookup.key_stride = model.key_size - 1;
    (void)!lookup_run(&lookup, false);
}
