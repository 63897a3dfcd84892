/* Goal: a run holds exactly the values it was given, in segments that all come back.
 * Method: runs of random sizes, some over several segments, against flat arrays; arena accounting
 * is checked to the segment; contract violations must abort. */
#include "engine/lsm/run.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "engine/lsm/filter.h"
#include "pool/base.h"
#include "tests/harness/prng.h"

enum { COUNT_MAX = 4000, VALUE_SIZE_MAX = 4096, ARENA_SIZE = 96 * 1024 * 1024 };

static struct run_arena arena;
static struct prng prng;
static struct tree_shape shape;
static uint8_t values[3][COUNT_MAX * 256];

static void start(void)
{
    cr_assert(eq(int, run_arena_init(&arena, ARENA_SIZE, 64), STATUS_OK));
    prng_init(&prng, 7);
}

static void stop(void)
{
    run_arena_deinit(&arena);
}

TestSuite(run, .init = start, .fini = stop, .timeout = 120);

static void choose_shape(uint32_t key_size, uint32_t value_size)
{
    shape = (struct tree_shape){
        .ops = values_ops_for(key_size, value_size),
        .tree_id = 1,
        .key_size = (uint16_t)key_size,
        .value_size = (uint16_t)value_size,
        .value_count_max = COUNT_MAX,
        .filter_kind = FILTER_KIND_KEY,
    };
}

static void set_key(uint8_t *value, uint64_t number)
{
    const uint64_t big_endian = __builtin_bswap64(number);
    memset(value, 0, shape.value_size);
    memcpy(value + shape.key_size - 8, &big_endian, 8);
}

/* `count` values with ascending random keys, `gap` apart on average; payload `tag`. */
static void make_values(uint8_t *into, uint32_t count, uint32_t gap, uint8_t tag)
{
    uint64_t number = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *value = into + (size_t)i * shape.value_size;
        number += prng_range(&prng, 1, 2 * gap - 1);
        set_key(value, number);
        value[shape.value_size - 1] =
            shape.value_size > shape.key_size ? tag : value[shape.value_size - 1];
        if (prng_chance(&prng, 1, 4)) {
            value_set_tombstone(value, shape.key_size, shape.value_size);
        }
    }
}

static void check_run(const struct run *run, const uint8_t *expected, uint64_t expected_count)
{
    const uint32_t size = shape.value_size;
    cr_assert(eq(u64, run->value_count, expected_count));
    uint32_t tombstone_count = 0;
    uint64_t index = 0;
    while (index < expected_count) {
        uint32_t count;
        const uint8_t *span = run_span(run, index, &count);
        cr_assert(span == run_value(run, index));
        cr_assert(count > 0);
        cr_assert(memcmp(span, expected + index * size, (size_t)count * size) == 0);
        tombstone_count += shape.ops->count_tombstones(span, count, size);
        index += count;
    }
    cr_assert(eq(u64, index, expected_count));
    cr_assert(eq(u32, run->tombstone_count, tombstone_count));
    cr_assert(memcmp(run->key_min.bytes, expected, shape.key_size) == 0);
    cr_assert(memcmp(run->key_max.bytes, expected + (expected_count - 1) * size, shape.key_size) ==
              0);
    for (uint32_t i = shape.key_size; i < KEY_SIZE_MAX; i++) {
        cr_assert(eq(u8, run->key_min.bytes[i] | run->key_max.bytes[i], 0));
    }
}

static void check_lower_bound(const struct run *run, const uint8_t *expected, uint64_t count)
{
    uint8_t key[VALUE_SIZE_MAX];
    uint64_t bound = 0; /* of the keys in ascending order, so it only moves up */
    uint64_t number = 0;
    for (;;) {
        number += prng_range(&prng, 1, 5);
        set_key(key, number);
        while (bound < count &&
               shape.ops->compare(expected + bound * shape.value_size, key, shape.value_size) < 0) {
            bound += 1;
        }
        const uint64_t from = prng_below(&prng, bound + 1);
        cr_assert(eq(u64, run_lower_bound(run, &shape, key, from), bound));
        cr_assert(eq(u64, run_lower_bound(run, &shape, key, 0), bound));
        cr_assert(eq(u64, run_lower_bound(run, &shape, key, bound), bound));
        if (bound == count) {
            break;
        }
        number += prng_chance(&prng, 1, 20) ? prng_below(&prng, 500) : 0;
    }
}

static uint32_t model_merge(const uint8_t *newer, uint32_t newer_count, const uint8_t *older,
                            uint32_t older_count, uint8_t *output)
{
    const uint32_t size = shape.value_size;
    uint32_t output_count = 0;
    uint32_t n = 0;
    uint32_t o = 0;
    while (n < newer_count || o < older_count) {
        const uint8_t *newer_value = newer + (size_t)n * size;
        const uint8_t *older_value = older + (size_t)o * size;
        const int order = n == newer_count   ? 1
                          : o == older_count ? -1
                                             : shape.ops->compare(newer_value, older_value, size);
        memcpy(output + (size_t)output_count * size, order <= 0 ? newer_value : older_value, size);
        output_count += 1;
        n += order <= 0;
        o += order >= 0;
    }
    return output_count;
}

static void check_shape(uint32_t key_size, uint32_t value_size)
{
    choose_shape(key_size, value_size);
    for (uint32_t round = 0; round < 12; round++) {
        const uint32_t gap = round % 3 == 0 ? 1 : 3; /* 1: dense, all keys equal */
        const uint32_t newer_count = (uint32_t)prng_range(&prng, 1, round < 3 ? 3 : COUNT_MAX / 2);
        const uint32_t older_count = (uint32_t)prng_range(&prng, 1, round < 3 ? 3 : COUNT_MAX / 2);
        make_values(values[0], newer_count, gap, 'n');
        make_values(values[1], older_count, gap, 'o');
        struct run *newer = run_build(&arena, &shape, values[0], newer_count);
        struct run *older = run_build(&arena, &shape, values[1], older_count);
        check_run(newer, values[0], newer_count);
        check_lower_bound(newer, values[0], newer_count);

        struct run *merged = run_merge(&arena, &shape, newer, older);
        const uint32_t merged_count =
            model_merge(values[0], newer_count, values[1], older_count, values[2]);
        check_run(newer, values[0], newer_count);
        run_release(&arena, newer);
        run_release(&arena, older);
        check_run(merged, values[2], merged_count);
        check_lower_bound(merged, values[2], merged_count);

        const uint64_t segment_count = div_ceil(merged_count, RUN_SEGMENT_SIZE / value_size);
        cr_assert(eq(u64, arena.segment_count - arena.free_segment_count,
                     segment_count + 1 + merged->filter_count));
        cr_assert(eq(u32, merged->filter_count,
                     merged_count < RUN_FILTER_VALUES_MIN || shape.filter_kind != FILTER_KIND_KEY
                         ? 0
                         : (uint32_t)div_ceil(merged_count, RUN_FILTER_VALUES)));
        for (uint32_t i = 0; i < merged_count; i++) { /* No false negatives. */
            const uint64_t hash = filter_hash(values[2] + (size_t)i * value_size, key_size);
            cr_assert(run_may_contain(merged, hash));
        }
        run_release(&arena, merged);
        cr_assert(eq(u64, arena.free_segment_count, arena.segment_count));
    }
}

Test(run, agrees_with_flat_arrays)
{
    check_shape(8, 16);
    check_shape(16, 16);
    check_shape(16, 32);
    check_shape(24, 24);
    check_shape(24, 64);
    check_shape(32, 32);
    check_shape(8, 248);
}

Test(run, large_run_spans_directories)
{
    choose_shape(8, 16);
    const uint32_t count = 1024 * RUN_SEGMENTS_PER_DIRECTORY + 1;
    uint8_t *many = malloc((size_t)count * 16);
    for (uint32_t i = 0; i < count; i++) {
        set_key(many + (size_t)i * 16, 2 * (uint64_t)i);
    }
    struct run *run = run_build(&arena, &shape, many, count);
    cr_assert(run->directory[1] != NULL);
    cr_assert(run->directory[2] == NULL);
    for (uint64_t i = 0; i < count; i += prng_range(&prng, 1, 1000)) {
        uint8_t key[16];
        set_key(key, 2 * i - (i > 0));
        cr_assert(eq(u64, run_lower_bound(run, &shape, key, 0), i));
        cr_assert(memcmp(run_value(run, i), many + i * 16, 16) == 0);
    }
    run_release(&arena, run);
    cr_assert(eq(u64, arena.free_segment_count, arena.segment_count));
    free(many);
}

Test(run, reference_keeps_the_values)
{
    choose_shape(8, 16);
    make_values(values[0], 100, 3, 'a');
    struct run *run = run_build(&arena, &shape, values[0], 100);
    run_reference(run);
    run_release(&arena, run);
    check_run(run, values[0], 100);
    cr_assert(lt(u32, arena.free_run_count, arena.run_count_max));
    run_release(&arena, run);
    cr_assert(eq(u32, arena.free_run_count, arena.run_count_max));
}

/* Whatever has_room promises can be built, however it is dealt out to runs. */
Test(run, room_that_is_promised_is_there)
{
    enum { SEGMENTS = 24, RUNS = 8 };
    struct run_arena small;
    for (uint32_t round = 0; round < 300; round++) {
        const uint32_t size = (uint32_t)prng_range(&prng, 14, 30) * 8;
        choose_shape(8, size);
        make_values(values[0], COUNT_MAX, 1, 'a');
        cr_assert(eq(int, run_arena_init(&small, SEGMENTS * RUN_SEGMENT_SIZE, RUNS), STATUS_OK));
        const uint32_t run_count = (uint32_t)prng_range(&prng, 1, RUNS);
        uint32_t total = run_count;
        while (run_arena_has_room(&small, total + 1, size, run_count)) {
            total += 1;
        }
        cr_assert(lt(u32, total, COUNT_MAX));

        struct run *runs[RUNS] = {NULL};
        uint32_t left = total;
        for (uint32_t i = 0; i < run_count; i++) {
            const uint32_t runs_left = run_count - i - 1;
            const uint32_t most = prng_chance(&prng, 1, 2) ? 1 : left - runs_left;
            const uint32_t count = runs_left == 0 ? left : (uint32_t)prng_range(&prng, 1, most);
            runs[i] = run_build(&small, &shape, values[0], count);
            left -= count;
        }
        for (uint32_t i = 0; i < run_count; i++) {
            run_release(&small, runs[i]);
        }
        run_arena_deinit(&small);
    }
}

Test(run, room_counts_runs_and_nothing_needs_none)
{
    cr_assert(run_arena_has_room(&arena, 0, 16, 0));
    cr_assert(run_arena_has_room(&arena, 0, 16, 1000));
    cr_assert(not(run_arena_has_room(&arena, 1, 16, 0)));
    cr_assert(run_arena_has_room(&arena, 64, 16, 64));
    cr_assert(not(run_arena_has_room(&arena, 65, 16, 65)));
    cr_assert(not(run_arena_has_room(&arena, ARENA_SIZE / 16, 16, 1))); /* no directory fits */
}

Test(run, exhausted_arena_breaks_the_contract, .signal = SIGABRT)
{
    struct run_arena small;
    if (run_arena_init(&small, 2 * RUN_SEGMENT_SIZE, 4) == STATUS_OK) {
        choose_shape(8, 16);
        make_values(values[0], 1025, 3, 'a');
        (void)run_build(&small, &shape, values[0], 1025);
    }
}

Test(run, unsorted_values_break_the_contract, .signal = SIGABRT)
{
    choose_shape(8, 16);
    set_key(values[0], 2);
    set_key(values[0] + 16, 1);
    (void)run_build(&arena, &shape, values[0], 2);
}

Test(run, leaked_run_breaks_the_contract, .signal = SIGABRT)
{
    choose_shape(8, 16);
    set_key(values[0], 2);
    (void)run_build(&arena, &shape, values[0], 1);
    run_arena_deinit(&arena);
}
