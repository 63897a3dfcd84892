/* Goal: whatever is written, however many workers there are, levels stay within their bounds, no
 * value is lost or wrong, no block leaks, debt goes to nothing, what a bar reserves was foreseen,
 * and all of it is the same for any number of workers; a damaged block stops everything before
 * anything is joined.
 * Method: bars of random writes to trees of several shapes with tiny tables (so that three levels
 * fill), a plain array of what each tree holds, a full comparison every few bars, and the sum of
 * all blocks and tables after each half-bar. */
#include "engine/lsm/compaction_schedule.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "engine/lsm/scan_tree.h"
#include "pool/base.h"
#include "pool/memory.h"
#include "tests/harness/prng.h"
#include "tests/harness/sim_io.h"

enum {
    TREE_COUNT = 4,
    NODE_MAX = 64,
    KEY_COUNT = 12000,
    VALUE_SIZE_MAX = 64,
    TABLE_VALUES = 40,
    BAR_VALUES = 30, /* less than a table by one batch */
    BATCH_MAX = 10,
    DISK_SIZE = 256 << 20,
    BEATS = 2, /* of a half-bar */
};

struct model_tree {
    uint32_t tags[KEY_COUNT]; /* 0 = absent */
    uint32_t tag;
};

struct world {
    struct geometry geometry;
    struct sim_io sim;
    struct doorbell doorbell;
    struct workers growers, compactors;
    struct grid grid;
    struct free_set free_set;
    struct run_arena arena;
    struct node_pool nodes;
    struct tree_version_pool versions;
    struct manifest_log log;
    struct tree trees[TREE_COUNT];
    struct manifest_node *level_nodes[TREE_COUNT][LEVEL_COUNT][NODE_MAX];
    struct compaction_schedule schedule;
    struct prng prng;
    struct model_tree models[TREE_COUNT];
    uint8_t *pending;
    uint64_t *pending_addresses;
    uint64_t op;
    uint64_t history; /* hash of all that was joined, for comparison between runs */
    uint64_t needed_at_half, reserved_since_half;
};

static struct world world;

TestSuite(compaction_schedule, .timeout = 120);

static const struct {
    uint32_t key_size, value_size;
    enum filter_kind filter_kind;
} shapes[TREE_COUNT] = {
    {8, 64, FILTER_KIND_KEY},
    {16, 24, FILTER_KIND_KEY},
    {16, 16, FILTER_KIND_PREFIX},
    {32, 32, FILTER_KIND_PREFIX},
};

/* ---- The world ---------------------------------------------------------------------------------
 */

static void add_tree(uint32_t i)
{
    const struct tree_shape shape = {
        .ops = values_ops_for(shapes[i].key_size, shapes[i].value_size),
        .tree_id = 1 + i,
        .key_size = (uint16_t)shapes[i].key_size,
        .value_size = (uint16_t)shapes[i].value_size,
        .value_count_max = TABLE_VALUES,
        .filter_kind = shapes[i].filter_kind,
    };
    /* Slots are not in the order of ids. */
    struct tree *tree = &world.trees[TREE_COUNT - 1 - i];
    tree->level_nodes = &world.level_nodes[TREE_COUNT - 1 - i][0][0];
    tree_init(tree, &shape, BAR_VALUES, NODE_MAX);
}

/* `tree_first`: of the four trees the first few are left out. */
static void world_init(uint64_t seed, uint32_t worker_count, uint32_t tree_first)
{
    memset(&world, 0, sizeof world);
    prng_init(&world.prng, seed);
    world.geometry = geometry_tiny();
    world.geometry.tree_count_max = TREE_COUNT;
    sim_io_init(&world.sim, DISK_SIZE);
    doorbell_init(&world.doorbell);
    const uint32_t capacity = compaction_job_count_max(TREE_COUNT) + 8;
    cr_assert(workers_start(&world.growers, "grow", 0, 8) == STATUS_OK);
    cr_assert(workers_start(&world.compactors, "worker", worker_count, capacity) == STATUS_OK);
    cr_assert(grid_format(&world.sim.io, &world.geometry) == STATUS_OK);
    cr_assert(grid_init(&world.grid, &world.sim.io, &world.geometry, 256, &world.growers,
                        &world.doorbell) == STATUS_OK);
    cr_assert(free_set_init(&world.free_set, world.geometry.block_count_max) == STATUS_OK);
    cr_assert(run_arena_init(&world.arena, 64 << 20, 4096) == STATUS_OK);
    cr_assert(node_pool_init(&world.nodes, 512) == STATUS_OK);
    cr_assert(tree_version_pool_init(&world.versions, 16, 16, 512) == STATUS_OK);
    const struct manifest_log_options options = {.append_blocks_max = 12, .table_count_max = 8192};
    cr_assert(manifest_log_init(&world.log, &world.geometry, &world.grid, &world.free_set,
                                &world.growers, &world.doorbell, &options) == STATUS_OK);
    world.pending = memory_acquire((size_t)world.log.pending_max * world.geometry.block_size);
    world.pending_addresses = memory_acquire(world.log.pending_max * sizeof(uint64_t));
    world.schedule = (struct compaction_schedule){
        .geometry = &world.geometry,
        .grid = &world.grid,
        .free_set = &world.free_set,
        .manifest_log = &world.log,
        .workers = &world.compactors,
        .doorbell = &world.doorbell,
        .arena = &world.arena,
        .nodes = &world.nodes,
        .versions = &world.versions,
        .trees = world.trees,
        .tree_count = TREE_COUNT,
    };
    cr_assert(compaction_schedule_init(&world.schedule) == STATUS_OK);
    for (uint32_t i = tree_first; i < TREE_COUNT; i++) {
        add_tree(i);
    }
}

static void world_deinit(void)
{
    for (uint32_t i = 0; i < TREE_COUNT; i++) {
        if (world.trees[i].used) {
            tree_deinit(&world.trees[i], &world.arena, &world.nodes, &world.versions);
        }
    }
    compaction_schedule_deinit(&world.schedule);
    memory_release(world.pending, (size_t)world.log.pending_max * world.geometry.block_size);
    memory_release(world.pending_addresses, world.log.pending_max * sizeof(uint64_t));
    manifest_log_deinit(&world.log);
    tree_version_pool_deinit(&world.versions);
    node_pool_deinit(&world.nodes);
    run_arena_deinit(&world.arena);
    free_set_deinit(&world.free_set);
    workers_join(&world.compactors);
    grid_deinit(&world.grid);
    workers_join(&world.growers);
    doorbell_deinit(&world.doorbell);
    sim_io_deinit(&world.sim);
}

/* ---- Writes ------------------------------------------------------------------------------------
 */

static void store_be(uint8_t *bytes, uint64_t value)
{
    value = __builtin_bswap64(value);
    memcpy(bytes, &value, sizeof value);
}

static void make_key(const struct tree_shape *shape, uint32_t number, uint8_t *key)
{
    memset(key, 0, shape->key_size);
    if (shape->key_size == 8) {
        store_be(key, number + 1);
    } else {
        store_be(key + shape->key_size - 16, number / 50);
        store_be(key + shape->key_size - 8, number + 1);
    }
}

static void make_value(const struct tree_shape *shape, uint32_t number, uint32_t tag,
                       uint8_t *value)
{
    make_key(shape, number, value);
    for (uint32_t i = shape->key_size; i < shape->value_size; i++) {
        value[i] = (uint8_t)(number + tag * 3 + i) & 0x7f;
    }
}

enum pattern { RANDOM, ASCENDING, REMOVING, MIXED, PATTERN_COUNT };

/* One run of up to BATCH_MAX values, none of which comes twice. */
static void write_batch(struct tree *tree, enum pattern pattern)
{
    const uint32_t id = tree->shape.tree_id;
    struct model_tree *model = &world.models[id - 1];
    static uint8_t values[BATCH_MAX * VALUE_SIZE_MAX];
    model->tag += 1;
    const uint32_t stride = pattern == ASCENDING ? 1 : (uint32_t)prng_range(&world.prng, 1, 600);
    uint32_t number = pattern == ASCENDING
                          ? model->tag * BATCH_MAX % (KEY_COUNT - BATCH_MAX)
                          : (uint32_t)prng_below(&world.prng, KEY_COUNT - BATCH_MAX * stride);
    const uint32_t count = (uint32_t)prng_range(&world.prng, 1, BATCH_MAX);
    const uint64_t remove_percent = pattern == REMOVING ? 95 : pattern == MIXED ? 40 : 3;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *value = values + (size_t)i * tree->shape.value_size;
        make_value(&tree->shape, number, model->tag, value);
        const bool remove = prng_chance(&world.prng, remove_percent, 100);
        if (remove) {
            value_set_tombstone(value, tree->shape.key_size, tree->shape.value_size);
        }
        model->tags[number] = remove ? 0 : model->tag;
        number += stride;
    }
    tree_add_run(tree, &world.arena, &world.nodes, &world.versions,
                 run_build(&world.arena, &tree->shape, values, count));
}

static void write_bar(uint64_t chance_percent)
{
    for (uint32_t i = 0; i < TREE_COUNT; i++) {
        struct tree *tree = &world.trees[i];
        if (!tree->used || tree->dropping || !prng_chance(&world.prng, chance_percent, 100)) {
            continue;
        }
        const enum pattern pattern = (enum pattern)((world.op / 60 + i) % PATTERN_COUNT);
        while (tree->mutable_table.value_count <
               (tree->absorbing ? BAR_VALUES - tree->immutable_table.value_count : BAR_VALUES)) {
            write_batch(tree, pattern);
            if (tree->mutable_table.run_count == TABLE_MEMORY_RUN_MAX / 2) {
                break;
            }
        }
    }
}

/* ---- Bars --------------------------------------------------------------------------------------
 */

static void note(uint64_t value)
{
    world.history = (world.history ^ value) * 0x9E3779B97F4A7C15u;
    world.history ^= world.history >> 29;
}

static void note_table(const struct table_info *table)
{
    const uint8_t *bytes = (const uint8_t *)table;
    for (size_t i = 0; i < sizeof *table; i += 8) {
        uint64_t word;
        memcpy(&word, bytes + i, sizeof word);
        note(word);
    }
}

static uint64_t limit_of(uint32_t level)
{
    uint64_t limit = 8;
    for (uint32_t i = 0; i < level; i++) {
        limit *= 8;
    }
    return limit;
}

/* Levels, tables, the log's view of them, and every block. */
static void check_structure(bool even)
{
    uint64_t table_count = 0;
    uint64_t block_count = 0;
    for (uint32_t i = 0; i < TREE_COUNT; i++) {
        const struct tree *tree = &world.trees[i];
        for (uint32_t level = 0; tree->used && level < LEVEL_COUNT; level++) {
            const struct manifest_level *tables = &tree->levels[level];
            cr_assert(manifest_level_verify(tables));
            cr_assert(tables->table_count <= limit_of(level) + (!even && level % 2 == 1));
            uint32_t due = 0;
            for (struct manifest_position at = manifest_level_first(tables);
                 manifest_level_at(tables, at) != NULL; at = manifest_level_next(tables, at)) {
                const struct table_info *table = manifest_level_at(tables, at);
                cr_assert(eq(u8, table->level, level));
                cr_assert(eq(u32, table->tree_id, tree->shape.tree_id));
                cr_assert(table->value_count > 0);
                cr_assert(table->tombstone_count <= table->value_count);
                cr_assert(manifest_log_has_table(&world.log, table->index.address));
                due += table_tombstones_due(table);
                block_count += table->block_count;
                note_table(table);
            }
            cr_assert(eq(u32, due, tree->tombstone_due[level]));
            table_count += tables->table_count;
        }
    }
    cr_assert(eq(u64, world.log.table_count, table_count));
    block_count += world.log.block_count + (world.log.open_address != 0);
    cr_assert(eq(u64,
                 world.free_set.acquired_count - world.free_set.released_count -
                     world.free_set.releasing_count,
                 block_count),
              "blocks that nobody knows");
    note(world.free_set.acquired_count);
    note(world.free_set.released_count);
}

static void write_manifest(void)
{
    const uint32_t count = manifest_log_take_pending(
        &world.log, world.pending, world.pending_addresses, world.log.pending_max);
    for (uint32_t i = 0; i < count; i++) {
        cr_assert(eq(int,
                     grid_write_blocks(&world.grid, world.pending_addresses[i], 1,
                                       world.pending + (size_t)i * world.geometry.block_size),
                     STATUS_OK));
    }
}

static void progress(uint32_t numerator, uint32_t denominator)
{
    for (;;) {
        const uint64_t seen = doorbell_count(&world.doorbell);
        if (compaction_progress(&world.schedule, numerator, denominator)) {
            return;
        }
        cr_assert(world.compactors.thread_count > 0); /* Inline, it does the work in the call. */
        doorbell_wait(&world.doorbell, seen, DOORBELL_WAIT_FOREVER);
    }
}

/* Blocks that the jobs of the half-bar just planned have reserved. */
static uint64_t reserved(void)
{
    uint64_t blocks = 0;
    for (uint32_t i = 0; i < world.schedule.job_count; i++) {
        blocks += world.schedule.jobs[i].kind == COMPACTION_KIND_MOVE
                      ? 0
                      : world.schedule.jobs[i].reservation.block_count;
    }
    return blocks;
}

static void plan_is_sound(void)
{
    for (uint32_t i = 0; i < world.schedule.job_count; i++) {
        const struct compaction_job *job = &world.schedule.jobs[i];
        cr_assert(job->target_count <= COMPACTION_TARGET_MAX);
        cr_assert(job->kind != COMPACTION_KIND_MOVE ||
                  (job->target_count == 0 && !job->from_memory));
        /* (level, tree) order. */
        const struct compaction_job *before = i > 0 ? &world.schedule.jobs[i - 1] : NULL;
        if (before != NULL && job->kind != COMPACTION_KIND_DISCARD) {
            cr_assert(before->level_target < job->level_target ||
                      (before->level_target == job->level_target &&
                       before->shape.tree_id < job->shape.tree_id));
        }
    }
}

static uint64_t half_bar(bool even)
{
    world.op += BEATS;
    cr_assert(compaction_half_bar_commence(&world.schedule, even, world.op + 1));
    plan_is_sound();
    const uint64_t blocks = reserved();
    for (uint32_t beat = 1; beat <= BEATS; beat++) {
        progress(beat, BEATS);
    }
    uint64_t bad_address = 0;
    uint32_t bad_tree = 0;
    cr_assert(
        eq(int, compaction_half_bar_complete(&world.schedule, &bad_address, &bad_tree), STATUS_OK));
    cr_assert(eq(int, manifest_log_half_bar_complete(&world.log, false, &bad_address), STATUS_OK));
    write_manifest();
    check_structure(even);
    return blocks;
}

/* What the forest decides: absorb what is small. */
static void decide_absorption(void)
{
    for (uint32_t i = 0; i < TREE_COUNT; i++) {
        struct tree *tree = &world.trees[i];
        if (tree->used && !tree->dropping && tree->immutable_table.run_count > 0) {
            tree->absorbing = tree->immutable_table.value_count + tree->mutable_table.value_count <=
                                  BAR_VALUES / 2 &&
                              tree->mutable_table.value_count > 0;
        }
    }
}

static uint64_t foreseen(void)
{
    const struct compaction_needs needs = compaction_needs(&world.schedule, false);
    return needs.odd_blocks + needs.even_blocks;
}

static void check_foreseen(uint64_t blocks, uint64_t needed)
{
    cr_assert(blocks <= needed, "%lu blocks were reserved, foreseen were %lu",
              (unsigned long)blocks, (unsigned long)needed);
}

/* What is asked at the start of a bar, and what is asked at its middle, holds for two half-bars. */
static void bar(uint64_t chance_percent)
{
    const uint64_t needed = foreseen();
    const uint64_t odd = half_bar(false);
    if (world.needed_at_half > 0) {
        check_foreseen(world.reserved_since_half + odd, world.needed_at_half);
    }
    write_bar(chance_percent / 2);
    decide_absorption();
    world.needed_at_half = foreseen();
    world.reserved_since_half = half_bar(true);
    check_foreseen(odd + world.reserved_since_half, needed);
    write_bar(chance_percent);
    for (uint32_t i = 0; i < TREE_COUNT; i++) {
        if (world.trees[i].used) {
            tree_swap(&world.trees[i], &world.arena, &world.nodes, &world.versions);
        }
    }
    if (world.op % (16 * BEATS) == 0) {
        free_set_checkpoint(&world.free_set);
    } else if (world.op % (16 * BEATS) == 4 * BEATS) {
        free_set_join(&world.free_set);
    }
}

/* ---- Content -----------------------------------------------------------------------------------
 */

static void check_tree(struct tree *tree)
{
    const struct model_tree *model = &world.models[tree->shape.tree_id - 1];
    const uint64_t spare_size = LEVEL_COUNT * 3 * (uint64_t)world.geometry.block_size;
    uint8_t *spare = memory_acquire(spare_size);
    struct tree_version *version = tree_version_acquire(tree, &world.versions);
    struct key min = {0}, max = {0};
    memset(max.bytes, 0x7f, tree->shape.key_size);
    static struct scan_tree scan;
    scan_tree_open(&scan, &world.geometry, &world.grid, version, &min, &max, false, spare);
    for (uint32_t number = 0; number < KEY_COUNT; number++) {
        if (model->tags[number] == 0) {
            continue;
        }
        const uint8_t *value;
        uint8_t expected[VALUE_SIZE_MAX];
        make_value(&tree->shape, number, model->tags[number], expected);
        cr_assert(eq(int, scan_tree_next(&scan, &value), STATUS_OK));
        cr_assert(value != NULL, "tree %u lost key %u", tree->shape.tree_id, number);
        cr_assert(eq(int, memcmp(value, expected, tree->shape.value_size), 0), "tree %u, key %u",
                  tree->shape.tree_id, number);
    }
    const uint8_t *value;
    cr_assert(eq(int, scan_tree_next(&scan, &value), STATUS_OK));
    cr_assert(value == NULL);
    scan_tree_close(&scan);
    tree_version_release(version, &world.arena, &world.nodes, &world.versions);
    memory_release(spare, spare_size);
}

static void check_content(void)
{
    for (uint32_t i = 0; i < TREE_COUNT; i++) {
        if (world.trees[i].used && !world.trees[i].dropping) {
            check_tree(&world.trees[i]);
        }
    }
}

/* ---- Trees that no history made, but some history might ----------------------------------------
 */

enum { WINDOW = 4, LEVEL_TABLES_MAX = 150 };

struct builder_memory {
    uint8_t *blocks; /* [WINDOW + 3 blocks] */
    uint8_t *scratch;
};

static struct builder_memory builder_memory_acquire(void)
{
    return (struct builder_memory){
        memory_acquire((WINDOW + 3) * (size_t)world.geometry.block_size),
        memory_acquire(table_builder_scratch_size(&world.geometry)),
    };
}

static void builder_memory_release(struct builder_memory *memory)
{
    memory_release(memory->blocks, (WINDOW + 3) * (size_t)world.geometry.block_size);
    memory_release(memory->scratch, table_builder_scratch_size(&world.geometry));
}

/* Tables of one level, each with one of `counts` values and a share of tombstones of its own, over
 * all keys. What is written later, higher up, is newer. */
static void build_level(struct tree *tree, uint32_t level, uint32_t table_count,
                        const uint32_t counts[2], const uint64_t percents[4])
{
    struct model_tree *model = &world.models[tree->shape.tree_id - 1];
    struct builder_memory memory = builder_memory_acquire();
    uint8_t *spare = memory.blocks + WINDOW * (size_t)world.geometry.block_size;
    uint8_t *const blocks[3] = {spare, spare + world.geometry.block_size,
                                spare + 2 * (size_t)world.geometry.block_size};
    struct reservation reservation;
    struct table_builder builder;
    cr_assert(manifest_log_half_bar_commence(&world.log));
    cr_assert(free_set_reserve(&world.free_set, 3 * table_count, &reservation));
    table_builder_init(&builder, &world.geometry, &world.grid, &tree->shape, &reservation, 1,
                       memory.blocks, WINDOW, blocks, memory.scratch);
    model->tag += 1;
    const uint32_t width = KEY_COUNT / table_count; /* of a table's keys */
    for (uint32_t i = 0; i < table_count; i++) {
        const uint32_t count = counts[prng_below(&world.prng, 2)];
        const uint64_t percent = percents[prng_below(&world.prng, 4)];
        uint32_t capacity;
        uint8_t *space = table_builder_space(&builder, &capacity);
        cr_assert(capacity >= count && width / count > 0);
        for (uint32_t k = 0; k < count; k++) {
            const uint32_t number =
                i * width + k * (width / count) + (uint32_t)prng_below(&world.prng, width / count);
            uint8_t *value = space + (size_t)k * tree->shape.value_size;
            make_value(&tree->shape, number, model->tag, value);
            const bool remove = prng_chance(&world.prng, percent, 100);
            if (remove) {
                value_set_tombstone(value, tree->shape.key_size, tree->shape.value_size);
            }
            model->tags[number] = remove ? 0 : model->tag;
        }
        table_builder_appended(&builder, count);
        struct table_info table;
        cr_assert(eq(int, table_builder_table_finish(&builder, &table), STATUS_OK));
        table.level = (uint8_t)level;
        table.snapshot_min = 1;
        tree_insert_table(tree, &world.arena, &world.nodes, &world.versions, &table);
        manifest_log_append(&world.log, &table, MANIFEST_EVENT_INSERT);
    }
    cr_assert(eq(int, table_builder_flush(&builder), STATUS_OK));
    free_set_forfeit(&world.free_set, &reservation);
    builder_memory_release(&memory);
    uint64_t bad_address;
    cr_assert(eq(int, manifest_log_half_bar_complete(&world.log, false, &bad_address), STATUS_OK));
    write_manifest();
}

static void build_levels(uint64_t level_chance_percent)
{
    static const uint32_t counts[][2] = {{1, TABLE_VALUES}, {TABLE_VALUES, TABLE_VALUES}};
    static const uint64_t percents[][4] = {{0, 10, 50, 100}, {0, 0, 20, 20}, {100, 100, 100, 100}};
    for (uint32_t i = 0; i < TREE_COUNT; i++) {
        for (uint32_t level = LEVEL_COUNT; level > 0 && world.trees[i].used; level--) {
            const uint32_t max = (uint32_t)min_u64(limit_of(level - 1), LEVEL_TABLES_MAX);
            const uint32_t few = (uint32_t)prng_range(&world.prng, 1, max);
            if (prng_chance(&world.prng, level_chance_percent, 100)) {
                build_level(&world.trees[i], level - 1, prng_chance(&world.prng, 1, 2) ? max : few,
                            counts[prng_below(&world.prng, array_count(counts))],
                            percents[prng_below(&world.prng, array_count(percents))]);
            }
        }
    }
    check_structure(true);
}

/* Bars without writes until nothing is owed. Returns how many it took. */
static uint32_t settle(void)
{
    uint32_t bars = 0;
    while (compaction_debt(&world.schedule, world.schedule.purge) > 0) {
        bar(0);
        bars += 1;
        cr_assert(bars < 600, "debt %lu is never paid",
                  (unsigned long)compaction_debt(&world.schedule, world.schedule.purge));
    }
    return bars;
}

/* ---- Tests -------------------------------------------------------------------------------------
 */

/* Within one bar a table of nothing but tombstones falls through an empty level onto a full one. */
Test(compaction_schedule, what_falls_through_two_levels_in_a_bar_is_foreseen)
{
    static const uint32_t counts[2] = {TABLE_VALUES, TABLE_VALUES};
    static const uint64_t none[4] = {0}, all[4] = {100, 100, 100, 100};
    for (uint32_t level = 0; level + 2 < LEVEL_COUNT; level++) {
        world_init(level, 0, TREE_COUNT - 1);
        struct tree *tree = &world.trees[0];
        build_level(tree, level + 2, 12, counts, none);
        build_level(tree, level, 1, counts, all);
        bar(0);
        bar(0);
        settle();
        check_content();
        world_deinit();
    }
}

Test(compaction_schedule, trees_of_any_shape_settle)
{
    uint32_t bars = 0;
    for (uint64_t seed = 0; seed < 6; seed++) {
        world_init(1000 + seed, 0, (uint32_t)(seed % TREE_COUNT));
        build_levels(20 + seed % 5 * 20);
        check_content();
        for (int i = 0; i < 20; i++) {
            bar(seed % 2 * 100);
        }
        bars += settle();
        check_content();
        /* Settled is settled: more bars find nothing to do. */
        for (int i = 0; i < 3; i++) {
            bar(0);
            cr_assert(eq(u64, compaction_debt(&world.schedule, world.schedule.purge), 0));
            cr_assert(eq(u32, world.schedule.job_count, 0));
        }
        world_deinit();
    }
    cr_assert(bars > 50, "%u", bars);
}

static void live(uint64_t seed, uint32_t worker_count, uint32_t bars)
{
    world_init(seed, worker_count, 0);
    for (uint32_t i = 1; i <= bars; i++) {
        bar(i % 50 < 40 ? 100 : 20);
        if (i % 50 == 0) {
            check_content();
        }
    }
}

Test(compaction_schedule, bars_of_random_writes_keep_every_promise)
{
    for (uint64_t seed = 0; seed < 2; seed++) {
        live(seed, 0, 200);
        uint64_t deepest = 0;
        for (uint32_t i = 0; i < TREE_COUNT; i++) {
            deepest += world.trees[i].levels[2].table_count;
        }
        cr_assert(deepest > 10, "level 2 holds %lu tables", (unsigned long)deepest);
        cr_assert(world.schedule.merged_count > 100 && world.schedule.moved_count > 10);
        world_deinit();
    }
}

Test(compaction_schedule, workers_change_nothing)
{
    static const uint32_t worker_counts[] = {0, 1, 2, 4};
    uint64_t history = 0;
    for (size_t i = 0; i < array_count(worker_counts); i++) {
        live(99, worker_counts[i], 120);
        /* Tables, with the checksums of their index blocks, after every half-bar. */
        cr_assert(i == 0 || world.history == history, "%u workers", worker_counts[i]);
        history = world.history;
        world_deinit();
    }
}

Test(compaction_schedule, removing_everything_leaves_nothing)
{
    live(7, 0, 60);
    for (uint32_t i = 0; i < TREE_COUNT; i++) {
        struct tree *tree = &world.trees[i];
        struct model_tree *model = &world.models[tree->shape.tree_id - 1];
        for (uint32_t number = 0; number < KEY_COUNT; number++) {
            if (model->tags[number] == 0) {
                continue;
            }
            if (tree->mutable_table.value_count == BAR_VALUES) {
                bar(0);
            }
            uint8_t value[VALUE_SIZE_MAX];
            make_value(&tree->shape, number, 1, value);
            value_set_tombstone(value, tree->shape.key_size, tree->shape.value_size);
            tree_add_run(tree, &world.arena, &world.nodes, &world.versions,
                         run_build(&world.arena, &tree->shape, value, 1));
            model->tags[number] = 0;
        }
    }
    settle();
    bar(0); /* What memory held last. */
    settle();
    for (uint32_t i = 0; i < TREE_COUNT; i++) {
        cr_assert(tree_is_empty(&world.trees[i]));
    }
    check_structure(true);
    world_deinit();
}

Test(compaction_schedule, a_dropped_tree_gives_every_block_back)
{
    live(8, 0, 100);
    for (uint32_t i = 0; i < TREE_COUNT; i += 2) {
        struct tree *tree = &world.trees[i];
        tree->dropping = true;
        tree_clear_memory(tree, &world.arena, &world.nodes, &world.versions);
    }
    uint32_t bars = 0;
    while (!tree_is_empty(&world.trees[0]) || !tree_is_empty(&world.trees[2])) {
        bar(100); /* The others go on. */
        bars += 1;
        cr_assert(bars < 200);
    }
    check_content();
    world_deinit();
}

/* ---- Faults ------------------------------------------------------------------------------------
 */

struct snapshot {
    uint64_t tables[TREE_COUNT][LEVEL_COUNT];
    uint64_t runs[TREE_COUNT];
    uint64_t released;
    uint64_t log_entries;
};

static void take_snapshot(struct snapshot *snapshot)
{
    memset(snapshot, 0, sizeof *snapshot);
    for (uint32_t i = 0; i < TREE_COUNT; i++) {
        for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
            snapshot->tables[i][level] = world.trees[i].levels[level].table_count;
        }
        snapshot->runs[i] = world.trees[i].immutable_table.run_count;
    }
    snapshot->released = world.free_set.released_count;
    snapshot->log_entries = world.log.half_bar_entry_count;
}

/* Nothing of the half-bar is joined, and what failed is named. */
static void damage_stops(uint64_t seed, uint32_t worker_count, bool flip)
{
    live(seed, worker_count, 30 + (uint32_t)seed);
    (void)half_bar(false);
    world.op += BEATS;
    struct table_info victim = {0}; /* A table that the memory table will be merged into. */
    for (uint32_t i = 0; i < TREE_COUNT; i++) {
        const struct manifest_level *level = &world.trees[i].levels[0];
        if (level->table_count > 0) {
            victim = *manifest_level_at(level, manifest_level_first(level));
        }
    }
    cr_assert(victim.index.address != 0);
    struct snapshot before, after;
    take_snapshot(&before);
    if (flip) {
        sim_io_flip(&world.sim,
                    world.grid.zone_offset +
                        (victim.index.address - 1) * (uint64_t)world.geometry.block_size + 200,
                    0x10);
    }
    cr_assert(compaction_half_bar_commence(&world.schedule, true, world.op + 1));
    bool planned = false;
    for (uint32_t i = 0; i < world.schedule.job_count; i++) {
        const struct compaction_job *job = &world.schedule.jobs[i];
        planned |= job->kind == COMPACTION_KIND_MERGE && !job->from_memory &&
                   job->source.index.address == victim.index.address;
        for (uint32_t k = 0; k < job->target_count; k++) {
            planned |= job->targets[k].index.address == victim.index.address;
        }
    }
    if (!flip) {
        /* A window that cannot be read is read by blocks, a block once more: each worker may meet
         * two failures and go on, and then one has to be left. */
        sim_io_fail_reads(&world.sim, 2 * (uint32_t)max_u64(worker_count, 1) + 1, STATUS_IO);
        planned = true;
    }
    progress(1, 1);
    uint64_t bad_address = 0;
    uint32_t bad_tree = 0;
    const enum status status =
        compaction_half_bar_complete(&world.schedule, &bad_address, &bad_tree);
    cr_assert(eq(int, status, !planned ? STATUS_OK : flip ? STATUS_CORRUPT : STATUS_IO));
    if (planned) {
        cr_assert(bad_address != 0 && bad_tree != 0);
        if (flip) {
            cr_assert(eq(u64, bad_address, victim.index.address));
            cr_assert(eq(u32, bad_tree, victim.tree_id));
        }
        take_snapshot(&after);
        cr_assert(eq(int, memcmp(&before, &after, sizeof before), 0));
        compaction_half_bar_cancel(&world.schedule);
        take_snapshot(&after);
        cr_assert(eq(int, memcmp(&before, &after, sizeof before), 0));
    }
    sim_io_fail_reads(&world.sim, 0, STATUS_IO);
    manifest_log_reset(&world.log);
    cr_assert(eq(u32, world.free_set.reservation_count, 0));
    world_deinit();
}

Test(compaction_schedule, damage_joins_nothing)
{
    for (uint64_t seed = 0; seed < 3; seed++) {
        damage_stops(seed, seed % 2 == 0 ? 0 : 2, true);
        damage_stops(seed, seed % 2 == 0 ? 0 : 2, false);
    }
}

/* ---- Progress ----------------------------------------------------------------------------------
 */

Test(compaction_schedule, inline_work_keeps_to_its_share)
{
    live(3, 0, 40);
    uint32_t measured = 0;
    for (int i = 0; i < 20; i++) {
        write_bar(100);
        world.op += BEATS;
        cr_assert(compaction_half_bar_commence(&world.schedule, i % 2 == 1, world.op + 1));
        const uint64_t total = world.schedule.bytes_total;
        enum { PARTS = 8 };
        for (uint32_t part = 1; part <= PARTS; part++) {
            cr_assert(compaction_progress(&world.schedule, part, PARTS));
            uint64_t done = 0;
            for (uint32_t k = 0; k < world.schedule.job_count; k++) {
                done += atomic_load(&world.schedule.jobs[k].bytes_done);
            }
            cr_assert(done >= total * part / PARTS);
            /* Never more than one job's piece ahead: what it wrote out, or the rest of the job. */
            measured += part < PARTS && done < total;
        }
        uint64_t bad_address = 0;
        uint32_t bad_tree = 0;
        cr_assert(eq(int, compaction_half_bar_complete(&world.schedule, &bad_address, &bad_tree),
                     STATUS_OK));
        cr_assert(
            eq(int, manifest_log_half_bar_complete(&world.log, false, &bad_address), STATUS_OK));
        write_manifest();
        if (i % 2 == 1) {
            for (uint32_t k = 0; k < TREE_COUNT; k++) {
                tree_swap(&world.trees[k], &world.arena, &world.nodes, &world.versions);
            }
        }
    }
    cr_assert(measured > 20);
    check_content();
    world_deinit();
}

/* ---- Contracts ---------------------------------------------------------------------------------
 */

Test(compaction_schedule, a_half_bar_within_another_is_a_bug, .signal = SIGABRT)
{
    world_init(1, 0, 0);
    (void)!compaction_half_bar_commence(&world.schedule, false, 3);
    (void)!compaction_half_bar_commence(&world.schedule, true, 5);
}

Test(compaction_schedule, completing_before_the_jobs_are_done_is_a_bug, .signal = SIGABRT)
{
    live(1, 0, 3);
    (void)half_bar(false);
    (void)!compaction_half_bar_commence(&world.schedule, true, world.op + 3);
    uint64_t bad_address;
    uint32_t bad_tree;
    (void)!compaction_half_bar_complete(&world.schedule, &bad_address, &bad_tree);
}

Test(compaction_schedule, ending_within_a_half_bar_is_a_bug, .signal = SIGABRT)
{
    world_init(1, 0, 0);
    (void)!compaction_half_bar_commence(&world.schedule, false, 3);
    compaction_schedule_deinit(&world.schedule);
}
