/* Goal: whatever the policy does to runs, the content is that of all batches in order, newest wins;
 * runs stay few, and the counts are right.
 * Method: random batches (sizes drawn from several distributions) against an array indexed by key;
 * after each the table is read back through its runs, newest first. */
#include "engine/lsm/table_memory.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

#include "tests/harness/prng.h"

enum { KEY_COUNT = 600, VALUE_SIZE = 16 };

static struct run_arena arena;
static struct prng prng;
static struct tree_shape shape;
static uint64_t batch_number;

/* What a key's newest value says: the batch that wrote it, 0 = none. */
struct model {
    uint64_t batch[KEY_COUNT];
    bool tombstone[KEY_COUNT];
};

static void start(void)
{
    cr_assert(eq(int, run_arena_init(&arena, 4096 * RUN_SEGMENT_SIZE, 1024), STATUS_OK));
    prng_init(&prng, 11);
    shape = (struct tree_shape){
        .ops = values_ops_for(8, VALUE_SIZE),
        .tree_id = 1,
        .key_size = 8,
        .value_size = VALUE_SIZE,
        .value_count_max = 20000,
        .filter_kind = FILTER_KIND_KEY,
    };
}

static void stop(void)
{
    run_arena_deinit(&arena);
}

TestSuite(table_memory, .init = start, .fini = stop, .timeout = 120);

/* Each key with the given chance, out of 1000; at least one. */
static struct run *make_batch(struct model *model, uint64_t chance)
{
    static uint8_t values[KEY_COUNT * VALUE_SIZE];
    batch_number += 1;
    const uint64_t always = prng_below(&prng, KEY_COUNT);
    uint32_t count = 0;
    for (uint64_t key = 0; key < KEY_COUNT; key++) {
        if (key != always && !prng_chance(&prng, chance, 1000)) {
            continue;
        }
        uint8_t *value = values + (size_t)count * VALUE_SIZE;
        const uint64_t key_big_endian = __builtin_bswap64(key);
        const uint64_t payload = __builtin_bswap64(batch_number);
        memcpy(value, &key_big_endian, 8);
        memcpy(value + 8, &payload, 8);
        model->batch[key] = batch_number;
        model->tombstone[key] = prng_chance(&prng, 1, 5);
        if (model->tombstone[key]) {
            value_set_tombstone(value, 8, VALUE_SIZE);
        }
        count += 1;
    }
    return run_build(&arena, &shape, values, count);
}

static void check(const struct table_memory *table, const struct model *model)
{
    cr_assert(le(u32, table->run_count, TABLE_MEMORY_RUN_MAX));
    uint64_t value_count = 0;
    uint64_t tombstone_count = 0;
    for (uint32_t i = 0; i < table->run_count; i++) {
        value_count += table->runs[i]->value_count;
        tombstone_count += table->runs[i]->tombstone_count;
    }
    cr_assert(ge(u64, table->value_count, value_count));
    cr_assert(ge(u64, table->tombstone_count, tombstone_count));

    for (uint64_t key = 0; key < KEY_COUNT; key++) {
        const uint64_t key_big_endian = __builtin_bswap64(key);
        const uint8_t *key_bytes = (const uint8_t *)&key_big_endian;
        const uint8_t *found = NULL;
        for (uint32_t i = table->run_count; i > 0 && found == NULL; i--) {
            const struct run *run = table->runs[i - 1];
            const uint64_t index = run_lower_bound(run, &shape, key_bytes, 0);
            if (index < run->value_count &&
                shape.ops->compare(run_value(run, index), key_bytes, VALUE_SIZE) == 0) {
                found = run_value(run, index);
            }
        }
        cr_assert(eq(int, found != NULL, model->batch[key] != 0));
        if (found != NULL) {
            uint64_t payload;
            memcpy(&payload, found + 8, 8);
            payload = __builtin_bswap64(payload);
            cr_assert(eq(u64, payload & ~(1ull << 63), model->batch[key]));
            cr_assert(eq(int, payload >> 63, model->tombstone[key]));
        }
    }
}

Test(table_memory, holds_all_batches)
{
    static const uint64_t chances[] = {0, 2, 20, 200, 1000};
    for (uint32_t seed = 0; seed < 10; seed++) {
        struct model model = {0};
        struct table_memory table = {0};
        for (uint32_t i = 0; i < 200; i++) {
            const uint64_t chance = seed < 5 ? chances[seed] : chances[prng_below(&prng, 5)];
            table_memory_add(&table, &arena, &shape, make_batch(&model, chance));
            if (i % 8 == 0) {
                check(&table, &model);
            }
        }
        check(&table, &model);
        table_memory_clear(&table, &arena);
        cr_assert(eq(u32, table.run_count, 0));
        cr_assert(eq(u64, table.value_count, 0));
        cr_assert(eq(u32, arena.free_run_count, arena.run_count_max));
    }
}

Test(table_memory, single_values_make_few_runs)
{
    struct model model = {0};
    struct table_memory table = {0};
    for (uint32_t i = 0; i < 2000; i++) {
        table_memory_add(&table, &arena, &shape, make_batch(&model, 0));
        cr_assert(le(u32, table.run_count, 24));
    }
    check(&table, &model);
    table_memory_clear(&table, &arena);
}

/* Every batch is over the limit of the geometric merges, so only the limits on runs merge. */
Test(table_memory, limits_on_runs_hold)
{
    shape.value_count_max = 31;
    static const uint64_t chances[] = {5, 1000};
    static const uint32_t counts[] = {4 * TABLE_MEMORY_RUN_MAX, 20 * TABLE_MEMORY_RUN_MAX};
    for (uint32_t kind = 0; kind < 2; kind++) {
        struct model model = {0};
        struct table_memory table = {0};
        for (uint32_t i = 0; i < counts[kind]; i++) {
            table_memory_add(&table, &arena, &shape, make_batch(&model, chances[kind]));
            const uint64_t limit =
                TABLE_MEMORY_RUN_SPARE + table.value_count * VALUE_SIZE / TABLE_MEMORY_RUN_BYTES;
            cr_assert(eq(u64, table.run_count,
                         i < limit                      ? i + 1
                         : limit > TABLE_MEMORY_RUN_MAX ? TABLE_MEMORY_RUN_MAX
                                                        : limit));
        }
        cr_assert(eq(int, table.run_count == TABLE_MEMORY_RUN_MAX, kind == 1));
        check(&table, &model);
        table_memory_clear(&table, &arena);
    }
}

/* What readers or a batch need stays free, whatever there is to merge. */
Test(table_memory, merges_leave_what_is_promised)
{
    shape.value_count_max = 31;
    struct model model = {0};
    struct table_memory table = {0};
    arena.promised_segment_count = arena.segment_count;
    for (uint32_t i = 0; i < 2 * TABLE_MEMORY_RUN_SPARE; i++) {
        table_memory_add(&table, &arena, &shape, make_batch(&model, 5));
    }
    cr_assert(eq(u32, table.run_count, 2 * TABLE_MEMORY_RUN_SPARE));
    arena.promised_segment_count = 0;
    table_memory_add(&table, &arena, &shape, make_batch(&model, 5));
    cr_assert(eq(u32, table.run_count, TABLE_MEMORY_RUN_SPARE));
    check(&table, &model);
    table_memory_clear(&table, &arena);
}

Test(table_memory, absorb_puts_newer_on_top)
{
    for (uint32_t seed = 0; seed < 20; seed++) {
        shape.value_count_max = seed % 2 == 0 ? 31 : 20000;
        struct model model = {0};
        struct table_memory older = {0};
        struct table_memory newer = {0};
        const uint32_t older_count = (uint32_t)prng_below(&prng, 150);
        const uint32_t newer_count = (uint32_t)prng_below(&prng, 150);
        for (uint32_t i = 0; i < older_count; i++) {
            table_memory_add(&older, &arena, &shape, make_batch(&model, 20));
        }
        for (uint32_t i = 0; i < newer_count; i++) {
            table_memory_add(&newer, &arena, &shape, make_batch(&model, 20));
        }
        table_memory_absorb(&older, &newer, &arena, &shape);
        check(&older, &model);
        cr_assert(eq(u32, newer.run_count, 0));
        cr_assert(eq(u64, newer.value_count, 0));
        table_memory_clear(&older, &arena);
        cr_assert(eq(u32, arena.free_run_count, arena.run_count_max));
    }
}

/* A reader that holds the runs of before sees what it saw. */
Test(table_memory, merging_leaves_referenced_runs_alone)
{
    struct model model = {0};
    struct table_memory table = {0};
    for (uint32_t i = 0; i < 5; i++) {
        table_memory_add(&table, &arena, &shape, make_batch(&model, 10));
    }
    const struct table_memory snapshot = table;
    const struct model snapshot_model = model;
    for (uint32_t i = 0; i < snapshot.run_count; i++) {
        run_reference(snapshot.runs[i]);
    }
    for (uint32_t i = 0; i < 100; i++) {
        table_memory_add(&table, &arena, &shape, make_batch(&model, 10));
    }
    check(&snapshot, &snapshot_model);
    for (uint32_t i = 0; i < snapshot.run_count; i++) {
        run_release(&arena, snapshot.runs[i]);
    }
    check(&table, &model);
    table_memory_clear(&table, &arena);
}

/* With no room for a merge's output beside its inputs, the runs stay apart. */
Test(table_memory, full_arena_postpones_merges)
{
    struct run_arena small;
    const struct run_arena usual = arena;
    cr_assert(eq(int, run_arena_init(&small, 5 * RUN_SEGMENT_SIZE, 64), STATUS_OK));
    arena = small;
    struct model model = {0};
    struct table_memory table = {0};
    table_memory_add(&table, &arena, &shape, make_batch(&model, 0));
    table_memory_add(&table, &arena, &shape, make_batch(&model, 0));
    cr_assert(eq(u64, arena.free_segment_count, 1));
    cr_assert(eq(u32, table.run_count, 2));
    check(&table, &model);
    table_memory_clear(&table, &arena);
    run_arena_deinit(&arena);
    arena = usual;
}

/* What was promised to the trees that come later in the batch is not merged away. */
Test(table_memory, merges_leave_what_was_promised)
{
    struct model model = {0};
    struct table_memory table = {0};
    arena.promised_segment_count = arena.free_segment_count;
    for (uint32_t i = 0; i < 4; i++) {
        table_memory_add(&table, &arena, &shape, make_batch(&model, 0));
    }
    cr_assert(eq(u32, table.run_count, 4));
    arena.promised_segment_count = 0;
    arena.promised_run_count = arena.free_run_count;
    table_memory_add(&table, &arena, &shape, make_batch(&model, 0));
    cr_assert(eq(u32, table.run_count, 5));
    arena.promised_run_count = 0;
    table_memory_add(&table, &arena, &shape, make_batch(&model, 0));
    cr_assert(lt(u32, table.run_count, 6));
    check(&table, &model);
    table_memory_clear(&table, &arena);
}

/* Whether runs merge is timing, so the counts may not show it: one table merges, the other, in an
 * arena that readers hold full, cannot. */
Test(table_memory, counts_do_not_depend_on_merges)
{
    struct run_arena tight;
    cr_assert(eq(int, run_arena_init(&tight, 42 * RUN_SEGMENT_SIZE, 64), STATUS_OK));
    struct model model = {0};
    struct table_memory merged[2] = {{.run_count = 0}};
    struct table_memory apart[2] = {{.run_count = 0}};
    uint64_t value_count = 0;
    for (uint32_t i = 0; i < 20; i++) {
        struct run *run = make_batch(&model, 50); /* Many keys come again and again. */
        struct run *same = run_build(&tight, &shape, run_value(run, 0), (uint32_t)run->value_count);
        value_count += run->value_count;
        const struct run_arena whole = tight;
        tight.free_segment_count = 0; /* All lent, for a while. */
        table_memory_add(&apart[i / 10], &tight, &shape, same);
        tight.free_segment_count = whole.free_segment_count;
        table_memory_add(&merged[i / 10], &arena, &shape, run);
    }
    cr_assert(lt(u32, merged[1].run_count, apart[1].run_count));
    table_memory_absorb(&merged[0], &merged[1], &arena, &shape);
    const uint64_t free_segment_count = tight.free_segment_count;
    tight.free_segment_count = 0;
    table_memory_absorb(&apart[0], &apart[1], &tight, &shape);
    tight.free_segment_count = free_segment_count;
    cr_assert(lt(u32, merged[0].run_count, apart[0].run_count));
    cr_assert(eq(u64, merged[0].value_count, value_count));
    cr_assert(eq(u64, apart[0].value_count, value_count));
    cr_assert(eq(u64, merged[0].tombstone_count, apart[0].tombstone_count));
    table_memory_clear(&merged[0], &arena);
    table_memory_clear(&apart[0], &tight);
    run_arena_deinit(&tight);
}
