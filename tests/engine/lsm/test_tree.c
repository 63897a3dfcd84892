/* Goal: a version holds for ever what the tree held when it was taken, in the right order, and all
 * memory comes back. Method: random runs, swaps, absorptions and changes of levels; beside each
 * version that is held, a plain list of what must be in it. Tables are names only: no disk. */
#include "engine/lsm/tree.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <string.h>

#include "pool/base.h"
#include "tests/harness/prng.h"

enum {
    NODE_MAX = 8,
    VERSION_MAX = 12,
    VALUE_SIZE = 24,
    TABLE_VALUES = 4000,
    BAR_VALUES = 3000,
    RUN_VALUES_MAX = 40,
    TABLE_MAX = 60, /* of one level */
};

static struct run_arena arena;
static struct node_pool nodes;
static struct tree_version_pool versions;
static struct tree tree;
static struct manifest_node *level_nodes[LEVEL_COUNT][NODE_MAX];
static struct prng prng;

static struct tree_shape shape_of(uint32_t tree_id)
{
    return (struct tree_shape){
        .ops = values_ops_for(16, VALUE_SIZE),
        .tree_id = tree_id,
        .key_size = 16,
        .value_size = VALUE_SIZE,
        .value_count_max = TABLE_VALUES,
        .filter_kind = FILTER_KIND_KEY,
    };
}

static void init(void)
{
    cr_assert(eq(int, run_arena_init(&arena, 64 << 20, 4096), STATUS_OK));
    cr_assert(eq(int, node_pool_init(&nodes, 4096), STATUS_OK));
    cr_assert(eq(
        int,
        tree_version_pool_init(&versions, 2 * VERSION_MAX, 2 * VERSION_MAX, LEVEL_COUNT * NODE_MAX),
        STATUS_OK));
    tree.level_nodes = &level_nodes[0][0];
    const struct tree_shape shape = shape_of(5);
    tree_init(&tree, &shape, BAR_VALUES, NODE_MAX);
}

static void fini(void)
{
    tree_deinit(&tree, &arena, &nodes, &versions);
    tree_version_pool_deinit(&versions);
    node_pool_deinit(&nodes);
    run_arena_deinit(&arena);
}

TestSuite(tree, .init = init, .fini = fini, .timeout = 120);

/* ---- Changing ----------------------------------------------------------------------------------
 */

static struct run *make_run(uint32_t count)
{
    static uint8_t values[RUN_VALUES_MAX * VALUE_SIZE];
    memset(values, 0, sizeof values);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *value = values + (size_t)i * VALUE_SIZE;
        const uint64_t key = __builtin_bswap64(i * 1000 + prng_below(&prng, 1000));
        memcpy(value + 8, &key, sizeof key);
        prng_fill(&prng, value + 17, VALUE_SIZE - 17);
        if (prng_chance(&prng, 1, 5)) {
            value_set_tombstone(value, 16, VALUE_SIZE);
        }
    }
    return run_build(&arena, &tree.shape, values, count);
}

static void add_run(void)
{
    tree_add_run(&tree, &arena, &nodes, &versions,
                 make_run((uint32_t)prng_range(&prng, 1, RUN_VALUES_MAX)));
}

/* Table `number` of a level: keys [100 number, 100 number + 99]. */
static struct table_info make_table(uint32_t level, uint32_t number)
{
    struct table_info table = {
        .index = {.address = 1 + level * 1000 + number},
        .value_count = 100,
        .tombstone_count = prng_below(&prng, 60),
        .tree_id = tree.shape.tree_id,
        .block_count = 3,
        .level = (uint8_t)level,
    };
    const uint64_t min = __builtin_bswap64(100 * (uint64_t)number);
    const uint64_t max = __builtin_bswap64(100 * (uint64_t)number + 99);
    memcpy(table.key_min.bytes + 8, &min, sizeof min);
    memcpy(table.key_max.bytes + 8, &max, sizeof max);
    return table;
}

static struct table_info tables[LEVEL_COUNT][TABLE_MAX]; /* address 0: not there */

static void change_level(void)
{
    const uint32_t level = (uint32_t)prng_below(&prng, LEVEL_COUNT);
    const uint32_t number = (uint32_t)prng_below(&prng, TABLE_MAX);
    struct table_info *table = &tables[level][number];
    if (table->index.address == 0) {
        *table = make_table(level, number);
        tree_insert_table(&tree, &arena, &nodes, &versions, table);
    } else if (prng_chance(&prng, 1, 2)) {
        tree_remove_table(&tree, &arena, &nodes, &versions, table);
        table->index.address = 0;
    } else {
        struct table_info changed = *table;
        const uint64_t min = __builtin_bswap64(100 * (uint64_t)number + 50);
        memcpy(changed.key_min.bytes + 8, &min, sizeof min);
        changed.value_count = 60;
        changed.tombstone_count = prng_below(&prng, 30);
        tree_update_table(&tree, &arena, &nodes, &versions, table, &changed);
        *table = changed;
    }
}

static void check_counts(void)
{
    uint64_t total = 0;
    for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
        uint64_t count = 0;
        uint32_t due = 0;
        for (uint32_t i = 0; i < TABLE_MAX; i++) {
            const struct table_info *table = &tables[level][i];
            count += table->index.address != 0;
            due += table->index.address != 0 && 4 * table->tombstone_count > table->value_count;
        }
        cr_assert(eq(u64, tree.levels[level].table_count, count));
        cr_assert(eq(u32, tree.tombstone_due[level], due));
        total += count;
    }
    cr_assert(eq(u64, tree_table_count(&tree), total));
    cr_assert(
        eq(int, tree_is_empty(&tree),
           total == 0 && tree.mutable_table.run_count == 0 && tree.immutable_table.run_count == 0));
}

/* ---- Versions and what must be in them ---------------------------------------------------------
 */

struct held {
    struct tree_version *version;
    struct run *runs[2 * TABLE_MEMORY_RUN_MAX];
    uint32_t run_count;
    struct table_info tables[LEVEL_COUNT][TABLE_MAX];
};

static void hold(struct held *held)
{
    held->version = tree_version_acquire(&tree, &versions);
    held->run_count = 0;
    for (uint32_t i = tree.mutable_table.run_count; i > 0; i--) {
        held->runs[held->run_count++] = tree.mutable_table.runs[i - 1];
    }
    for (uint32_t i = tree.immutable_table.run_count; i > 0; i--) {
        held->runs[held->run_count++] = tree.immutable_table.runs[i - 1];
    }
    memcpy(held->tables, tables, sizeof tables);
}

static void check_held(const struct held *held)
{
    const struct tree_version *version = held->version;
    cr_assert(eq(u32, version->shape.tree_id, 5));
    cr_assert(eq(u32, version->run_count, held->run_count));
    for (uint32_t i = 0; i < held->run_count; i++) {
        cr_assert(version->runs[i] == held->runs[i]);
        cr_assert(version->runs[i]->reference_count > 0);
    }
    for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
        const struct manifest_level *levels = &version->manifest->levels[level];
        struct manifest_position position = manifest_level_first(levels);
        for (uint32_t i = 0; i < TABLE_MAX; i++) {
            if (held->tables[level][i].index.address != 0) {
                const struct table_info *table = manifest_level_at(levels, position);
                cr_assert(table != NULL);
                cr_assert(eq(int, memcmp(table, &held->tables[level][i], sizeof *table), 0));
                position = manifest_level_next(levels, position);
            }
        }
        cr_assert(manifest_level_at(levels, position) == NULL);
    }
}

static void let_go(struct held *held)
{
    tree_version_release(held->version, &arena, &nodes, &versions);
    held->version = NULL;
}

/* The end of a bar. */
static void swap(void)
{
    const uint64_t both = tree.mutable_table.value_count + tree.immutable_table.value_count;
    tree.absorbing =
        tree.immutable_table.run_count > 0 && both <= BAR_VALUES &&
        tree.immutable_table.run_count + tree.mutable_table.run_count < TABLE_MEMORY_RUN_MAX &&
        prng_chance(&prng, 1, 2);
    if (tree.absorbing) {
        tree_swap(&tree, &arena, &nodes, &versions);
        cr_assert(le(u64, tree.immutable_table.value_count, both));
    } else {
        tree_clear_immutable(&tree, &arena, &nodes, &versions);
        const uint64_t count = tree.mutable_table.value_count;
        tree_swap(&tree, &arena, &nodes, &versions);
        cr_assert(eq(u64, tree.immutable_table.value_count, count));
    }
    cr_assert(not(tree.absorbing));
    cr_assert(eq(u64, tree.mutable_table.value_count, 0));
}

Test(tree, versions_keep_what_they_saw)
{
    static struct held held[VERSION_MAX];
    for (uint64_t seed = 0; seed < 20; seed++) {
        prng_init(&prng, seed);
        for (int step = 0; step < 1500; step++) {
            const uint64_t choice = prng_below(&prng, 100);
            const uint32_t slot = (uint32_t)prng_below(&prng, VERSION_MAX);
            if (choice < 40) {
                if (tree.mutable_table.value_count + RUN_VALUES_MAX <= BAR_VALUES) {
                    add_run();
                }
            } else if (choice < 70) {
                change_level();
            } else if (choice < 75) {
                swap();
            } else if (held[slot].version == NULL) {
                hold(&held[slot]);
            } else {
                check_held(&held[slot]);
                let_go(&held[slot]);
            }
            check_counts();
        }
        for (uint32_t i = 0; i < VERSION_MAX; i++) {
            if (held[i].version != NULL) {
                check_held(&held[i]);
                let_go(&held[i]);
            }
        }
        /* A fresh slot for the next seed; and every loan comes back. */
        tree_deinit(&tree, &arena, &nodes, &versions);
        cr_assert(eq(u32, arena.free_run_count, arena.run_count_max));
        cr_assert(eq(u64, arena.free_segment_count, arena.segment_count));
        cr_assert(eq(u32, nodes.free_count, nodes.node_count));
        cr_assert(eq(u32, versions.tree_free_count, versions.tree_count));
        cr_assert(eq(u32, versions.manifest_free_count, versions.manifest_count));
        memset(tables, 0, sizeof tables);
        const struct tree_shape shape = shape_of(5);
        tree_init(&tree, &shape, BAR_VALUES, NODE_MAX);
    }
}

Test(tree, what_did_not_change_is_shared)
{
    add_run();
    change_level();
    struct held first, second, third;
    hold(&first);
    hold(&second);
    cr_assert(first.version == second.version);
    add_run(); /* The levels are as they were. */
    hold(&third);
    cr_assert(third.version != first.version);
    cr_assert(third.version->manifest == first.version->manifest);
    check_held(&first);
    check_held(&third);
    let_go(&first);
    let_go(&second);
    let_go(&third);
}

Test(tree, a_version_outlives_the_tree_and_its_slot)
{
    struct held held;
    add_run();
    change_level();
    hold(&held);
    tree_deinit(&tree, &arena, &nodes, &versions);
    cr_assert(not(tree.used));
    check_held(&held);
    let_go(&held);
    cr_assert(eq(u32, nodes.free_count, nodes.node_count));
    const struct tree_shape shape = shape_of(6);
    tree_init(&tree, &shape, BAR_VALUES, NODE_MAX);
    cr_assert(tree_is_empty(&tree));
}

Test(tree, more_than_a_quarter_of_tombstones_is_due)
{
    for (uint64_t count = 1; count < 50; count++) {
        for (uint64_t tombstones = 0; tombstones <= count; tombstones++) {
            const struct table_info table = {.value_count = count, .tombstone_count = tombstones};
            cr_assert(eq(int, table_tombstones_due(&table), tombstones * 100 > count * 25));
        }
    }
}

/* ---- Contracts ---------------------------------------------------------------------------------
 */

Test(tree, a_slot_taken_twice_is_a_bug, .signal = SIGABRT)
{
    const struct tree_shape shape = shape_of(6);
    tree_init(&tree, &shape, BAR_VALUES, NODE_MAX);
}

Test(tree, a_bar_as_large_as_a_table_is_a_bug, .signal = SIGABRT)
{
    tree_deinit(&tree, &arena, &nodes, &versions);
    const struct tree_shape shape = shape_of(6);
    tree_init(&tree, &shape, TABLE_VALUES, NODE_MAX);
}

Test(tree, swapping_over_what_is_not_flushed_is_a_bug, .signal = SIGABRT)
{
    add_run();
    tree_swap(&tree, &arena, &nodes, &versions);
    add_run();
    tree_swap(&tree, &arena, &nodes, &versions);
}

Test(tree, swapping_under_a_flush_is_a_bug, .signal = SIGABRT)
{
    tree.flushing = true;
    tree_swap(&tree, &arena, &nodes, &versions);
}

Test(tree, ending_under_a_flush_is_a_bug, .signal = SIGABRT)
{
    tree.flushing = true;
    tree_deinit(&tree, &arena, &nodes, &versions);
}

Test(tree, writing_to_a_dropped_tree_is_a_bug, .signal = SIGABRT)
{
    tree.dropping = true;
    add_run();
}

Test(tree, a_table_of_another_tree_is_a_bug, .signal = SIGABRT)
{
    struct table_info table = make_table(0, 0);
    table.tree_id = 6;
    tree_insert_table(&tree, &arena, &nodes, &versions, &table);
}

Test(tree, an_update_that_moves_a_table_is_a_bug, .signal = SIGABRT)
{
    const struct table_info table = make_table(0, 0);
    tree_insert_table(&tree, &arena, &nodes, &versions, &table);
    struct table_info moved = table;
    moved.level = 1;
    tree_update_table(&tree, &arena, &nodes, &versions, &table, &moved);
}

Test(tree, more_versions_than_there_are_is_a_bug, .signal = SIGABRT)
{
    for (uint32_t i = 0; i <= 2 * VERSION_MAX; i++) {
        add_run();
        (void)tree_version_acquire(&tree, &versions);
    }
}

Test(tree, a_version_that_never_comes_back_is_a_bug, .signal = SIGABRT)
{
    (void)tree_version_acquire(&tree, &versions);
    tree_deinit(&tree, &arena, &nodes, &versions);
    tree_version_pool_deinit(&versions);
}
