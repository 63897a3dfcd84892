/* Goal: a job writes exactly the merge of what it was handed, newest wins, tombstones gone only
 * when it was told so; names exactly the blocks that go free; and when a block cannot be read or
 * written it says which, and releases nothing more than it read. Method: random source (a table or
 * runs) and targets of all shapes beside a flat array of what must come out; the same job in slices
 * of a few bytes must give the same disk; every input block flipped and every read and write failed
 * in turn. */
#include "engine/lsm/compaction_job.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "pool/base.h"
#include "pool/memory.h"
#include "tests/harness/tree_fixture.h"
#include "tests/harness/tree_model.h"

enum {
    ORDINAL_MAX = TREE_MODEL_ORDINAL_MAX,
    VALUE_SIZE_MAX = 128,
    OP = 77,
    RELEASED_MAX = 4096,
    TARGET_LEVEL = 2,
};

static struct tree_fixture fixture;
static struct tree_fixture_tree source_tree, target_tree;
static struct tree_model keys; /* keys and values by ordinal */
static struct resource_pool resources;
static struct prng prng;
static struct compaction_job job;
static uint64_t released[RELEASED_MAX];

/* What an input holds, by ordinal: 0 = nothing, else its tag. */
struct layer {
    uint32_t tags[ORDINAL_MAX];
    bool tombstones[ORDINAL_MAX];
};
static struct layer newer, older;
static bool hidden_any; /* some input has values below its key_min */

static const struct {
    uint32_t key_size, value_size;
    enum filter_kind filter_kind;
} shapes[] = {
    {8, 64, FILTER_KIND_KEY},     {16, 24, FILTER_KIND_KEY},    {16, 16, FILTER_KIND_PREFIX},
    {24, 24, FILTER_KIND_PREFIX}, {32, 32, FILTER_KIND_PREFIX}, {8, 128, FILTER_KIND_KEY},
};

static void init(void)
{
    const struct geometry geometry = geometry_tiny();
    tree_fixture_init(&fixture, &geometry, 256);
    cr_assert(eq(int,
                 resource_pool_init(&resources, COMPACTION_LOAN_COUNT,
                                    compaction_window_blocks(&geometry) * geometry.block_size),
                 STATUS_OK));
}

static void fini(void)
{
    resource_pool_deinit(&resources);
    tree_fixture_deinit(&fixture);
}

TestSuite(compaction_job, .init = init, .fini = fini, .timeout = 120);

/* ---- Inputs ------------------------------------------------------------------------------------
 */

static uint8_t flat[ORDINAL_MAX * VALUE_SIZE_MAX];

static void make_value(const struct layer *layer, uint32_t ordinal, uint8_t *value)
{
    tree_model_value(&keys, ordinal, layer->tags[ordinal], value);
    if (layer->tombstones[ordinal]) {
        value_set_tombstone(value, keys.key_size, keys.value_size);
    }
}

/* Fills [first, last) of the layer, and `flat` with the values, at most `max`. Returns how many. */
static uint32_t make_layer(struct layer *layer, uint32_t first, uint32_t last, uint32_t max,
                           uint32_t tag, uint64_t density, uint64_t tombstones)
{
    uint32_t count = 0;
    for (uint32_t ordinal = first; ordinal < last && count < max; ordinal++) {
        if (prng_chance(&prng, density, 100)) {
            layer->tags[ordinal] = tag;
            layer->tombstones[ordinal] = prng_chance(&prng, tombstones, 100);
            make_value(layer, ordinal, flat + (size_t)count * keys.value_size);
            count += 1;
        }
    }
    return count;
}

/* One that has values for sure. */
static uint32_t make_some(struct layer *layer, uint32_t first, uint32_t last, uint32_t max,
                          uint32_t tag, uint64_t density, uint64_t tombstones)
{
    uint32_t count = 0;
    while (count == 0) {
        count = make_layer(layer, first, last, max, tag, density, tombstones);
    }
    return count;
}

/* Free blocks with gaps between them, so that not all that is read or written is adjacent. */
static void scatter_free_blocks(void)
{
    enum { BLOCKS = 640 };
    struct reservation reservation;
    cr_assert(free_set_reserve(&fixture.free_set, BLOCKS, &reservation));
    for (int i = 0; i < BLOCKS; i++) {
        (void)reservation_acquire(&reservation);
    }
    free_set_forfeit(&fixture.free_set, &reservation);
    for (uint64_t address = 1; address <= BLOCKS; address++) {
        if (prng_chance(&prng, 3, 4)) {
            free_set_release(&fixture.free_set, address);
        }
    }
    free_set_checkpoint(&fixture.free_set);
    free_set_join(&fixture.free_set);
}

static void trees_init(uint64_t seed)
{
    prng_init(&prng, seed);
    if (seed % 2 == 1) {
        scatter_free_blocks();
    }
    const size_t shape = seed % array_count(shapes);
    tree_model_init(&keys, shapes[shape].key_size, shapes[shape].value_size, ORDINAL_MAX, 100);
    memset(&newer, 0, sizeof newer);
    memset(&older, 0, sizeof older);
    for (int i = 0; i < 2; i++) {
        struct tree_fixture_tree *tree = i == 0 ? &source_tree : &target_tree;
        tree_fixture_tree_init(&fixture, tree, 7, shapes[shape].key_size, shapes[shape].value_size,
                               shapes[shape].filter_kind);
        /* Small tables, so that outputs are several. */
        tree->version.shape.value_count_max = (uint32_t)(200 + seed % 7 * 77);
    }
}

static void trees_deinit(void)
{
    tree_fixture_tree_deinit(&fixture, &source_tree);
    tree_fixture_tree_deinit(&fixture, &target_tree);
    free_set_reset(&fixture.free_set);
}

static void job_begin(void)
{
    memset(&job, 0, sizeof job);
    job.geometry = &fixture.geometry;
    job.grid = &fixture.grid;
    job.resources = &resources;
    job.doorbell = &fixture.doorbell;
    job.shape = target_tree.version.shape;
    job.level_target = TARGET_LEVEL;
    job.op = OP;
    job.released = released;
}

static const struct manifest_level *target_level(void)
{
    return &target_tree.manifest.levels[TARGET_LEVEL];
}

/* Target tables [first, first + count) of the level become the job's. */
static void take_targets(uint32_t first, uint32_t count)
{
    struct manifest_position position = manifest_level_first(target_level());
    for (uint32_t i = 0; i < first + count; i++) {
        const struct table_info *table = manifest_level_at(target_level(), position);
        if (i >= first) {
            job.targets[job.target_count] = *table;
            job.target_count += 1;
        }
        position = manifest_level_next(target_level(), position);
    }
}

static void job_seal(void)
{
    uint64_t values = job.from_memory ? 0 : job.source.value_count;
    uint64_t blocks = job.from_memory ? 0 : job.source.block_count;
    for (uint32_t i = 0; i < job.run_count; i++) {
        values += job.runs[i]->value_count;
    }
    for (uint32_t i = 0; i < job.target_count; i++) {
        values += job.targets[i].value_count;
        blocks += job.targets[i].block_count;
    }
    cr_assert(blocks <= RELEASED_MAX);
    job.released_max = (uint32_t)blocks;
    job.bytes_total = values * job.shape.value_size;
    cr_assert(free_set_reserve(&fixture.free_set,
                               compaction_output_blocks_max(&fixture.geometry, &job.shape, values),
                               &job.reservation));
}

/* A target level of up to `table_max` tables, of which the first may have hidden values, and a
 * source above it: a table, possibly with hidden values, or runs. */
static void build(uint64_t seed, uint32_t table_max)
{
    static const uint64_t densities[] = {3, 30, 90};
    static const uint64_t tombstones[] = {0, 20, 100};
    trees_init(seed);
    job_begin();
    hidden_any = false;
    if (prng_chance(&prng, 5, 6)) {
        const uint32_t count =
            make_some(&older, 0, ORDINAL_MAX, ORDINAL_MAX, 1, densities[prng_below(&prng, 3)],
                      tombstones[prng_below(&prng, 3)]);
        const uint32_t max = job.shape.value_count_max;
        const uint32_t per_table = (uint32_t)min_u64(max, count / table_max + 1);
        const uint32_t used = (uint32_t)min_u64(count, (uint64_t)per_table * table_max);
        const uint32_t hidden =
            prng_chance(&prng, 1, 2) ? (uint32_t)prng_below(&prng, min_u64(per_table, used)) : 0;
        tree_fixture_add_tables(&fixture, &target_tree, TARGET_LEVEL, flat, used, per_table,
                                hidden);
        hidden_any |= hidden > 0;
        uint32_t seen = 0; /* Forget what is hidden, or was left out. */
        for (uint32_t ordinal = 0; ordinal < ORDINAL_MAX; ordinal++) {
            if (older.tags[ordinal] != 0) {
                older.tags[ordinal] = seen >= hidden && seen < used ? 1 : 0;
                seen += 1;
            }
        }
        take_targets(0, (uint32_t)target_level()->table_count);
        job.targets[0].value_count -= hidden; /* As a partial source leaves it. */
    }
    job.from_memory = seed % 3 == 0;
    if (job.from_memory) {
        const uint32_t run_count = (uint32_t)prng_range(&prng, 1, seed % 2 == 0 ? 6 : 100);
        for (uint32_t i = 0; i < run_count; i++) { /* Together no more than a table. */
            const uint32_t first = (uint32_t)prng_below(&prng, ORDINAL_MAX - 300);
            const uint32_t count =
                make_some(&newer, first, ORDINAL_MAX, job.shape.value_count_max / run_count, 2 + i,
                          densities[prng_below(&prng, 3)], tombstones[prng_below(&prng, 3)]);
            tree_fixture_add_run(&fixture, &source_tree, flat, count);
        }
        job.run_count = run_count;
        memcpy(job.runs, source_tree.version.runs, run_count * sizeof job.runs[0]);
    } else {
        const uint32_t first = (uint32_t)prng_below(&prng, ORDINAL_MAX - 300);
        const uint32_t last = (uint32_t)prng_range(&prng, first + 1, first + 300);
        const uint32_t count =
            make_some(&newer, first, last, job.shape.value_count_max, 2,
                      densities[prng_below(&prng, 3)], tombstones[prng_below(&prng, 3)]);
        const uint32_t hidden = prng_chance(&prng, 1, 3) ? (uint32_t)prng_below(&prng, count) : 0;
        tree_fixture_add_tables(&fixture, &source_tree, 1, flat, count, count, hidden);
        hidden_any |= hidden > 0;
        uint32_t seen = 0;
        for (uint32_t ordinal = first; ordinal < last; ordinal++) {
            if (newer.tags[ordinal] != 0) {
                newer.tags[ordinal] = seen >= hidden ? 2 : 0;
                seen += 1;
            }
        }
        const struct manifest_level *level = &source_tree.manifest.levels[1];
        job.source = *manifest_level_at(level, manifest_level_first(level));
        job.source.value_count -= hidden;
    }
    job.drop_tombstones = prng_chance(&prng, 1, 2);
    job_seal();
}

/* ---- What must come out ------------------------------------------------------------------------
 */

static uint8_t expected[ORDINAL_MAX * VALUE_SIZE_MAX];

/* The merge of `newer` below `end` with `older` in [older_first, older_last). */
static uint32_t expect(uint32_t end, uint32_t older_first, uint32_t older_last)
{
    uint32_t count = 0;
    for (uint32_t ordinal = 0; ordinal < ORDINAL_MAX; ordinal++) {
        const bool has_newer = newer.tags[ordinal] != 0 && ordinal < end;
        const bool has_older =
            older.tags[ordinal] != 0 && ordinal >= older_first && ordinal < older_last;
        if (!has_newer && !has_older) {
            continue;
        }
        const struct layer *layer = has_newer ? &newer : &older;
        if (job.drop_tombstones && layer->tombstones[ordinal]) {
            continue;
        }
        make_value(layer, ordinal, expected + (size_t)count * keys.value_size);
        count += 1;
    }
    return count;
}

static uint8_t *index_block, *value_block;

static void check_key(const struct key *key, const uint8_t *value)
{
    struct key wanted = {0};
    memcpy(wanted.bytes, value, keys.key_size);
    if (keys.key_size == keys.value_size) {
        wanted.bytes[keys.key_size - 8] &= 0x7f;
    }
    cr_assert(eq(int, memcmp(key, &wanted, sizeof wanted), 0));
}

/* Reads a table and compares it with expected values from `from` on. Returns how many it has. */
static uint32_t check_table(const struct table_info *table, uint32_t from, uint32_t count,
                            bool last)
{
    const uint32_t value_size = keys.value_size;
    cr_assert(eq(int, grid_read_block(&fixture.grid, &table->index, BLOCK_TYPE_INDEX, index_block),
                 STATUS_OK));
    cr_assert(eq(u64, block_header(index_block)->op, OP));
    struct table_index index;
    cr_assert(
        eq(int, table_index_decode(&fixture.geometry, &job.shape, index_block, &index), STATUS_OK));
    cr_assert(eq(u64, index.value_count, table->value_count));
    cr_assert(eq(u32, table->block_count, 1 + index.value_block_count + index.filter_block_count));
    uint32_t seen = 0;
    for (uint32_t i = 0; i < index.value_block_count; i++) {
        const struct block_reference reference = table_index_value_reference(&index, i);
        cr_assert(eq(int, grid_read_block(&fixture.grid, &reference, BLOCK_TYPE_VALUE, value_block),
                     STATUS_OK));
        uint32_t values;
        cr_assert(eq(int,
                     table_value_block_decode(&fixture.geometry, &job.shape, value_block, &values),
                     STATUS_OK));
        cr_assert(from + seen + values <= count);
        cr_assert(eq(int,
                     memcmp(block_body(value_block), expected + (size_t)(from + seen) * value_size,
                            (size_t)values * value_size),
                     0));
        seen += values;
    }
    cr_assert(eq(u64, seen, table->value_count));
    cr_assert(last || seen == job.shape.value_count_max);
    cr_assert(eq(
        u64, table->tombstone_count,
        job.shape.ops->count_tombstones(expected + (size_t)from * value_size, seen, value_size)));
    check_key(&table->key_min, expected + (size_t)from * value_size);
    check_key(&table->key_max, expected + (size_t)(from + seen - 1) * value_size);
    cr_assert(eq(u8, table->level, TARGET_LEVEL));
    cr_assert(eq(u64, table->snapshot_min, OP));
    cr_assert(eq(u32, table->tree_id, job.shape.tree_id));
    return seen;
}

static void check_outputs(uint32_t count)
{
    index_block = memory_acquire(fixture.geometry.block_size);
    value_block = memory_acquire(fixture.geometry.block_size);
    uint32_t seen = 0;
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < job.output_count; i++) {
        seen += check_table(&job.outputs[i], seen, count, i + 1 == job.output_count);
        blocks += job.outputs[i].block_count;
    }
    cr_assert(eq(u32, seen, count));
    cr_assert(eq(u32, job.reservation.acquired_count, blocks));
    memory_release(index_block, fixture.geometry.block_size);
    memory_release(value_block, fixture.geometry.block_size);
}

static int compare_u64(const void *a, const void *b)
{
    const uint64_t *first = a, *second = b;
    return *first < *second ? -1 : *first > *second;
}

/* All blocks of these tables, sorted. */
static uint32_t blocks_of(const struct table_info *tables, uint32_t table_count,
                          uint64_t *addresses)
{
    uint8_t *block = memory_acquire(fixture.geometry.block_size);
    uint32_t count = 0;
    for (uint32_t i = 0; i < table_count; i++) {
        struct table_index index;
        cr_assert(eq(int, grid_read_block(&fixture.grid, &tables[i].index, BLOCK_TYPE_INDEX, block),
                     STATUS_OK));
        cr_assert(
            eq(int, table_index_decode(&fixture.geometry, &job.shape, block, &index), STATUS_OK));
        addresses[count++] = tables[i].index.address;
        for (uint32_t k = 0; k < index.value_block_count; k++) {
            addresses[count++] = table_index_value_reference(&index, k).address;
        }
        for (uint32_t k = 0; k < index.filter_block_count; k++) {
            addresses[count++] = table_index_filter_reference(&index, k).address;
        }
    }
    qsort(addresses, count, sizeof addresses[0], compare_u64);
    memory_release(block, fixture.geometry.block_size);
    return count;
}

static uint64_t inputs[RELEASED_MAX];
static uint32_t input_count;

static void collect_inputs(void)
{
    struct table_info tables[1 + COMPACTION_TARGET_MAX];
    uint32_t count = 0;
    if (!job.from_memory && job.kind == COMPACTION_KIND_MERGE && !job.source_partial) {
        tables[count++] = job.source;
    }
    memcpy(tables + count, job.targets, job.target_count * sizeof tables[0]);
    input_count = blocks_of(tables, count + job.target_count, inputs);
}

static void check_released_as(const uint64_t *addresses, uint32_t count)
{
    cr_assert(eq(u32, job.released_count, count));
    qsort(released, job.released_count, sizeof released[0], compare_u64);
    cr_assert(eq(int, memcmp(released, addresses, count * sizeof addresses[0]), 0));
}

static void check_released(void)
{
    collect_inputs();
    check_released_as(inputs, input_count);
}

static void job_end(void)
{
    cr_assert(compaction_job_done(&job));
    cr_assert(eq(u64, atomic_load(&job.bytes_done), job.bytes_total));
    cr_assert(eq(u32, resources.free_count, resources.block_count)); /* The loan came back. */
    free_set_forfeit(&fixture.free_set, &job.reservation);
}

/* ---- Tests -------------------------------------------------------------------------------------
 */

Test(compaction_job, merges_as_the_model_does)
{
    uint32_t tables = 0, empty = 0;
    for (uint64_t seed = 0; seed < 240; seed++) {
        build(seed, COMPACTION_TARGET_MAX);
        compaction_job_run(&job.job);
        cr_assert(eq(int, job.status, STATUS_OK));
        check_outputs(expect(ORDINAL_MAX, 0, ORDINAL_MAX));
        check_released();
        tables += job.output_count;
        empty += job.output_count == 0;
        job_end();
        trees_deinit();
    }
    cr_assert(tables > 500 && empty > 0, "%u tables, %u empty", tables, empty);
}

/* Everything of the disk behind the inputs. */
static uint64_t disk_size(void)
{
    return fixture.grid.zone_offset +
           fixture.free_set.address_max * (uint64_t)fixture.geometry.block_size;
}

Test(compaction_job, small_steps_write_the_same_blocks_as_one_run)
{
    for (uint64_t seed = 0; seed < 48; seed++) {
        memset(fixture.sim.bytes, 0, fixture.sim.size);
        build(seed, 4);
        compaction_job_run(&job.job);
        struct table_info outputs[COMPACTION_OUTPUT_MAX];
        const uint32_t output_count = job.output_count;
        memcpy(outputs, job.outputs, sizeof outputs);
        const uint64_t size = disk_size();
        uint8_t *disk = malloc(size);
        memcpy(disk, fixture.sim.bytes, size);
        job_end();
        trees_deinit();

        memset(fixture.sim.bytes, 0, fixture.sim.size);
        build(seed, 4);
        const uint64_t step = prng_range(&prng, 1, seed % 2 == 0 ? 100 : 9000);
        uint64_t target = 0;
        while (!compaction_job_done(&job)) {
            const uint64_t before = atomic_load(&job.bytes_done);
            target += step;
            compaction_job_advance(&job, target);
            cr_assert(atomic_load(&job.bytes_done) >= min_u64(target, job.bytes_total));
            cr_assert(atomic_load(&job.bytes_done) >= before);
        }
        cr_assert(eq(int, job.status, STATUS_OK));
        cr_assert(eq(u32, job.output_count, output_count));
        cr_assert(eq(int, memcmp(job.outputs, outputs, sizeof outputs), 0));
        cr_assert(eq(u64, disk_size(), size));
        cr_assert(eq(int, memcmp(disk, fixture.sim.bytes, size), 0));
        check_outputs(expect(ORDINAL_MAX, 0, ORDINAL_MAX));
        job_end();
        trees_deinit();
        free(disk);
    }
}

static uint32_t ordinal_of(const struct key *key)
{
    uint8_t bytes[KEY_SIZE_MAX];
    for (uint32_t ordinal = 0; ordinal < ORDINAL_MAX; ordinal++) {
        tree_model_key(&keys, ordinal, false, bytes);
        if (memcmp(bytes, key->bytes, keys.key_size) == 0) {
            return ordinal;
        }
    }
    return ORDINAL_MAX;
}

Test(compaction_job, a_partial_source_keeps_its_rest)
{
    for (uint64_t seed = 0; seed < 120; seed++) {
        trees_init(seed);
        job_begin();
        const uint32_t table_count = (uint32_t)prng_range(&prng, COMPACTION_TARGET_MAX + 1, 14);
        const uint32_t older_count =
            make_some(&older, 0, ORDINAL_MAX, ORDINAL_MAX, 1, seed % 2 == 0 ? 3 : 40, 20);
        tree_fixture_add_tables(&fixture, &target_tree, TARGET_LEVEL, flat, older_count,
                                (uint32_t)div_ceil(older_count, table_count), 0);
        take_targets(0, COMPACTION_TARGET_MAX);
        const uint32_t newer_count =
            make_some(&newer, 0, ORDINAL_MAX, job.shape.value_count_max, 2, 6, 60);
        tree_fixture_add_tables(&fixture, &source_tree, 1, flat, newer_count, newer_count, 0);
        const struct manifest_level *level = &source_tree.manifest.levels[1];
        job.source = *manifest_level_at(level, manifest_level_first(level));
        struct manifest_position position = manifest_level_first(target_level());
        for (int i = 0; i < COMPACTION_TARGET_MAX; i++) {
            position = manifest_level_next(target_level(), position);
        }
        job.source_end = manifest_level_at(target_level(), position)->key_min;
        const uint32_t end = ordinal_of(&job.source_end);
        uint32_t used = 0, used_tombstones = 0, next = ORDINAL_MAX;
        for (uint32_t ordinal = 0; ordinal < ORDINAL_MAX; ordinal++) {
            const bool present = newer.tags[ordinal] != 0;
            used += present && ordinal < end;
            used_tombstones += present && ordinal < end && newer.tombstones[ordinal];
            next = present && ordinal >= end && next == ORDINAL_MAX ? ordinal : next;
        }
        if (used == 0 || next == ORDINAL_MAX) { /* Not what a schedule would plan. */
            trees_deinit();
            continue;
        }
        job.source_partial = true;
        job.drop_tombstones = seed % 4 < 2;
        job_seal();
        compaction_job_run(&job.job);
        cr_assert(eq(int, job.status, STATUS_OK));
        check_outputs(expect(end, 0, end));
        check_released();
        cr_assert(eq(u64, job.source_values_used, used));
        cr_assert(eq(u64, job.source_tombstones_used, used_tombstones));
        cr_assert(eq(u32, ordinal_of(&job.source_next), next));
        job_end();

        /* The rest goes later, as a table whose first values are hidden. */
        struct table_info rest = job.source;
        rest.key_min = job.source_next;
        rest.value_count -= job.source_values_used;
        rest.tombstone_count -= job.source_tombstones_used;
        const bool drop = job.drop_tombstones;
        job_begin();
        job.source = rest;
        job.drop_tombstones = drop;
        take_targets(COMPACTION_TARGET_MAX,
                     (uint32_t)target_level()->table_count - COMPACTION_TARGET_MAX);
        job_seal();
        for (uint32_t ordinal = 0; ordinal < end; ordinal++) {
            newer.tags[ordinal] = 0;
        }
        compaction_job_run(&job.job);
        cr_assert(eq(int, job.status, STATUS_OK));
        check_outputs(expect(ORDINAL_MAX, end, ORDINAL_MAX));
        check_released();
        job_end();
        trees_deinit();
    }
}

Test(compaction_job, a_discard_lists_exactly_the_blocks_of_its_tables)
{
    for (uint64_t seed = 0; seed < 30; seed++) {
        build(seed, COMPACTION_TARGET_MAX);
        free_set_forfeit(&fixture.free_set, &job.reservation);
        job.kind = COMPACTION_KIND_DISCARD;
        job.from_memory = false;
        job.run_count = 0;
        job.source = (struct table_info){0};
        job_seal();
        const uint64_t writes = fixture.sim.write_count;
        compaction_job_run(&job.job);
        cr_assert(eq(int, job.status, STATUS_OK));
        cr_assert(eq(u32, job.output_count, 0));
        cr_assert(eq(u64, fixture.sim.write_count, writes));
        check_released();
        job_end();
        trees_deinit();
    }
}

/* ---- Faults ------------------------------------------------------------------------------------
 */

/* The same job once more, as it was planned. The file has grown far enough for it, so that its
 * writes are its own. */
static void job_again(const struct compaction_job *plan)
{
    job = *plan;
    cr_assert(free_set_reserve(&fixture.free_set, plan->reservation.block_count, &job.reservation));
    cr_assert(eq(int, grid_wait_usable(&fixture.grid, fixture.free_set.address_max), STATUS_OK));
}

/* Nothing was joined: what the job listed is not released. (What it wrote stays acquired, until the
 * forest, which compacts no more, is opened again.) */
static void check_failed(enum status status)
{
    cr_assert(eq(int, job.status, status));
    cr_assert(job.released_count <= input_count);
    for (uint32_t i = 0; i < job.released_count; i++) {
        cr_assert(bsearch(&released[i], inputs, input_count, sizeof inputs[0], compare_u64) !=
                  NULL);
    }
    job_end();
    cr_assert(eq(u64, fixture.free_set.released_count, 0));
    for (uint32_t i = 0; i < input_count; i++) {
        cr_assert(not(free_set_is_free(&fixture.free_set, inputs[i])));
    }
}

static bool is_input(uint64_t address)
{
    return bsearch(&address, inputs, input_count, sizeof inputs[0], compare_u64) != NULL;
}

static uint64_t offset_of(uint64_t address)
{
    return fixture.grid.zone_offset + (address - 1) * (uint64_t)fixture.geometry.block_size;
}

/* Filters are not read (they are made anew), nor are blocks of nothing but hidden values. */
static bool may_be_passed_over(uint64_t address)
{
    return hidden_any ||
           block_header_const(fixture.sim.bytes + offset_of(address))->type == BLOCK_TYPE_FILTER;
}

Test(compaction_job, a_flipped_bit_in_any_input_block_stops_it_with_the_address)
{
    uint32_t stopped = 0;
    for (uint64_t seed = 1; seed < 24; seed++) {
        build(seed, 3);
        collect_inputs();
        const struct compaction_job plan = job;
        for (uint32_t i = 0; i < input_count; i++) {
            const uint64_t offset =
                offset_of(inputs[i]) + prng_below(&prng, fixture.geometry.block_size);
            const uint8_t mask = (uint8_t)(1u << prng_below(&prng, 8));
            const bool passed_over = may_be_passed_over(inputs[i]);
            sim_io_flip(&fixture.sim, offset, mask);
            compaction_job_run(&job.job);
            if (job.status == STATUS_OK) {
                cr_assert(passed_over);
                check_outputs(expect(ORDINAL_MAX, 0, ORDINAL_MAX));
                check_released_as(inputs, input_count);
                job_end();
            } else {
                cr_assert(eq(u64, job.bad_address, inputs[i]));
                check_failed(STATUS_CORRUPT);
                stopped += 1;
            }
            sim_io_flip(&fixture.sim, offset, mask);
            job_again(&plan);
        }
        compaction_job_run(&job.job);
        cr_assert(eq(int, job.status, STATUS_OK));
        check_outputs(expect(ORDINAL_MAX, 0, ORDINAL_MAX));
        job_end();
        trees_deinit();
    }
    cr_assert(stopped > 200);
}

/* `arm` makes the n-th operation fail. Loops over n until nothing fails. */
static uint32_t fail_each(void (*arm)(struct sim_io *sim, uint64_t n, enum status status),
                          enum status status, bool bad_address)
{
    uint32_t failed = 0;
    for (uint64_t n = 1;; n++) {
        const struct compaction_job plan = job;
        arm(&fixture.sim, n, status);
        compaction_job_run(&job.job);
        const bool fired = !sim_io_armed(&fixture.sim);
        arm(&fixture.sim, 0, status);
        if (!fired) {
            cr_assert(eq(int, job.status, STATUS_OK));
            check_outputs(expect(ORDINAL_MAX, 0, ORDINAL_MAX));
            check_released_as(inputs, input_count);
            job_end();
            return failed;
        }
        cr_assert(eq(int, is_input(job.bad_address), bad_address));
        check_failed(status);
        failed += 1;
        job_again(&plan);
    }
}

Test(compaction_job, a_failed_read_stops_it_with_an_address)
{
    uint32_t failed = 0;
    for (uint64_t seed = 0; seed < 36; seed++) {
        build(seed, COMPACTION_TARGET_MAX);
        collect_inputs();
        failed += fail_each(sim_io_fail_reads, STATUS_IO, true);
        trees_deinit();
    }
    cr_assert(failed > 200, "%u", failed);
}

static void spoil(struct sim_io *sim, uint64_t n, enum status status)
{
    (void)status;
    sim_io_spoil_read(sim, n);
}

/* One bad read is no damage: each is looked at twice. */
Test(compaction_job, a_read_that_fails_or_errs_once_is_read_again)
{
    static void (*const arms[])(struct sim_io * sim, uint64_t n,
                                enum status status) = {sim_io_fail_read, spoil};
    uint32_t fired_count = 0;
    for (uint64_t seed = 0; seed < 24; seed++) {
        build(seed, COMPACTION_TARGET_MAX);
        collect_inputs();
        for (uint64_t n = 1, fired = true; fired; n++) {
            const struct compaction_job plan = job;
            arms[seed % 2](&fixture.sim, n, STATUS_IO);
            compaction_job_run(&job.job);
            fired = !sim_io_armed(&fixture.sim);
            arms[seed % 2](&fixture.sim, 0, STATUS_IO);
            fired_count += fired;
            cr_assert(eq(int, job.status, STATUS_OK));
            check_outputs(expect(ORDINAL_MAX, 0, ORDINAL_MAX));
            check_released_as(inputs, input_count);
            job_end();
            if (fired) {
                job_again(&plan);
            }
        }
        trees_deinit();
    }
    cr_assert(fired_count > 100, "%u", fired_count);
}

Test(compaction_job, a_failed_write_stops_it)
{
    uint32_t failed = 0;
    for (uint64_t seed = 0; seed < 36; seed++) {
        build(seed, COMPACTION_TARGET_MAX);
        collect_inputs();
        const struct compaction_job plan = job;
        free_set_forfeit(&fixture.free_set, &job.reservation);
        job_again(&plan);
        failed += fail_each(sim_io_fail_write, seed % 2 == 0 ? STATUS_IO : STATUS_NO_SPACE, false);
        trees_deinit();
    }
    cr_assert(failed > 30, "%u", failed);
}

Test(compaction_job, a_failed_read_stops_a_discard)
{
    for (uint64_t seed = 1; seed < 12; seed++) {
        build(seed, COMPACTION_TARGET_MAX);
        free_set_forfeit(&fixture.free_set, &job.reservation);
        job.kind = COMPACTION_KIND_DISCARD;
        job.from_memory = false;
        job.run_count = 0;
        job.source = (struct table_info){0};
        job_seal();
        collect_inputs();
        const struct compaction_job plan = job;
        for (uint32_t n = 0; n < plan.target_count; n++) {
            sim_io_fail_reads(&fixture.sim, n + 1, STATUS_IO);
            compaction_job_run(&job.job);
            sim_io_fail_reads(&fixture.sim, 0, STATUS_OK);
            cr_assert(eq(u64, job.bad_address, plan.targets[n].index.address));
            check_failed(STATUS_IO);
            job_again(&plan);
        }
        free_set_forfeit(&fixture.free_set, &job.reservation);
        trees_deinit();
    }
}

/* A manifest that says something else than the index block does. */
Test(compaction_job, a_table_of_another_size_than_planned_is_damage)
{
    build(1, 3);
    collect_inputs();
    job.source.block_count += 1;
    compaction_job_run(&job.job);
    cr_assert(eq(u64, job.bad_address, job.source.index.address));
    check_failed(STATUS_CORRUPT);
    trees_deinit();
}

/* ---- Sizes -------------------------------------------------------------------------------------
 */

static void use_geometry(const struct geometry *geometry)
{
    fini();
    tree_fixture_init(&fixture, geometry, 256);
    cr_assert(eq(int,
                 resource_pool_init(&resources, COMPACTION_LOAN_COUNT,
                                    compaction_window_blocks(geometry) * geometry->block_size),
                 STATUS_OK));
}

Test(compaction_job, a_loan_is_enough_from_the_smallest_block_to_the_largest)
{
    for (uint32_t block_size = BLOCK_SIZE_MIN; block_size <= BLOCK_SIZE_MAX; block_size *= 4) {
        struct geometry geometry = geometry_default(block_size);
        geometry.chunk_block_count = 64;
        geometry.block_count_max = 1024;
        use_geometry(&geometry);
        for (uint64_t seed = 0; seed < 2; seed++) {
            build(seed, 2);
            compaction_job_run(&job.job);
            cr_assert(eq(int, job.status, STATUS_OK));
            check_outputs(expect(ORDINAL_MAX, 0, ORDINAL_MAX));
            check_released();
            job_end();
            trees_deinit();
        }
    }
}

Test(compaction_job, no_values_need_no_blocks)
{
    trees_init(0);
    cr_assert(
        eq(u32, compaction_output_blocks_max(&fixture.geometry, &source_tree.version.shape, 0), 0));
    trees_deinit();
}

/* ---- Contracts ---------------------------------------------------------------------------------
 */

Test(compaction_job, going_on_after_the_end_is_a_bug, .signal = SIGABRT)
{
    build(1, 2);
    compaction_job_run(&job.job);
    compaction_job_advance(&job, 1);
}

Test(compaction_job, moving_a_table_is_no_work, .signal = SIGABRT)
{
    build(1, 2);
    job.kind = COMPACTION_KIND_MOVE;
    compaction_job_run(&job.job);
}

Test(compaction_job, a_list_too_short_for_what_goes_free_is_a_bug, .signal = SIGABRT)
{
    build(1, 2);
    job.released_max -= 1;
    compaction_job_run(&job.job);
}
