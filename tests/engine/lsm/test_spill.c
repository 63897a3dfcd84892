/* Goal: what a job spills of a memory table comes back as it was: every key once with its newest
 * value, tombstones included; the job lists exactly the blocks it wrote; whatever is wrong with an
 * entry or a block is refused with the address to blame, and leaves nothing in the arena. Method:
 * random overlapping runs of all shapes beside a flat array of what must come back; every field of
 * an entry changed in turn; every block that is read flipped, every read failed. */
#include "engine/lsm/spill.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/lsm/compaction_job.h"
#include "pool/base.h"
#include "tests/harness/tree_fixture.h"
#include "tests/harness/tree_model.h"

enum {
    ORDINAL_MAX = 2000,
    VALUE_SIZE_MAX = 128,
    OP = 76, /* of the checkpoint; the job's is the next */
    RELEASED_MAX = 1024,
    BAR_VALUES = 1 << 20, /* nothing here is more than half a bar */
};

static struct tree_fixture fixture;
static struct tree_fixture_tree tree;
static struct tree_model keys;
static struct resource_pool resources;
static struct prng prng;
static struct compaction_job job;
static uint64_t released[RELEASED_MAX];
static struct spill_entry entry;
static uint8_t *blocks; /* two */

static uint8_t expected[ORDINAL_MAX * VALUE_SIZE_MAX];
static uint32_t expected_count;

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
    blocks = aligned_alloc(SECTOR_SIZE, 2 * (size_t)geometry.block_size);
}

static void fini(void)
{
    free(blocks);
    resource_pool_deinit(&resources);
    tree_fixture_deinit(&fixture);
}

TestSuite(spill, .init = init, .fini = fini, .timeout = 60);

/* ---- Spilling ----------------------------------------------------------------------------------
 */

/* Random runs on the tree, oldest first; `expected` is the newest of each key. `as_added`: how many
 * values and tombstones came, whatever covered them later. */
static void make_runs(uint32_t ordinal_count, uint64_t as_added[2])
{
    static uint8_t values[ORDINAL_MAX * VALUE_SIZE_MAX];
    static uint32_t newest[ORDINAL_MAX]; /* tag; its lowest bit: a tombstone */
    memset(newest, 0, sizeof newest);
    as_added[0] = 0;
    as_added[1] = 0;
    const uint32_t run_count = (uint32_t)prng_range(&prng, 1, 12);
    for (uint32_t run = 1; run <= run_count; run++) {
        const uint64_t density = prng_range(&prng, 1, 100);
        uint32_t count = 0;
        while (count == 0) {
            for (uint32_t i = 0; i < ordinal_count; i++) {
                if (prng_chance(&prng, density, 100)) {
                    const bool tombstone = prng_chance(&prng, 1, 4);
                    uint8_t *value = values + (size_t)count * keys.value_size;
                    newest[i] = run * 2 + tombstone;
                    tree_model_value(&keys, i, newest[i], value);
                    if (tombstone) {
                        value_set_tombstone(value, keys.key_size, keys.value_size);
                    }
                    as_added[1] += tombstone;
                    count += 1;
                }
            }
        }
        as_added[0] += count;
        tree_fixture_add_run(&fixture, &tree, values, count);
    }
    expected_count = 0;
    for (uint32_t i = 0; i < ordinal_count; i++) {
        if (newest[i] != 0) {
            uint8_t *value = expected + (size_t)expected_count * keys.value_size;
            tree_model_value(&keys, i, newest[i], value);
            if (newest[i] % 2 == 1) {
                value_set_tombstone(value, keys.key_size, keys.value_size);
            }
            expected_count += 1;
        }
    }
}

static void spill(uint64_t seed)
{
    prng_init(&prng, seed);
    const size_t shape = seed % array_count(shapes);
    tree_model_init(&keys, shapes[shape].key_size, shapes[shape].value_size, ORDINAL_MAX, 100);
    tree_fixture_tree_init(&fixture, &tree, 7, shapes[shape].key_size, shapes[shape].value_size,
                           shapes[shape].filter_kind);
    uint64_t as_added[2];
    make_runs((uint32_t)prng_range(&prng, 1, 1000), as_added);
    memset(&job, 0, sizeof job);
    job.geometry = &fixture.geometry;
    job.grid = &fixture.grid;
    job.resources = &resources;
    job.doorbell = &fixture.doorbell;
    job.shape = tree.version.shape;
    job.kind = COMPACTION_KIND_SPILL;
    job.from_memory = true;
    job.run_count = tree.version.run_count;
    memcpy(job.runs, tree.version.runs, job.run_count * sizeof job.runs[0]);
    job.op = OP + 1;
    job.bytes_total = as_added[0] * keys.value_size;
    job.released = released;
    job.released_max = compaction_output_blocks_max(&fixture.geometry, &job.shape, as_added[0]);
    cr_assert(free_set_reserve(&fixture.free_set, job.released_max, &job.reservation));
    compaction_job_run(&job.job);
    cr_assert(compaction_job_done(&job));
    free_set_forfeit(&fixture.free_set, &job.reservation);
    cr_assert(eq(int, job.status, STATUS_OK));
    cr_assert(eq(u32, job.output_count, 1));
    entry = (struct spill_entry){
        .table = job.outputs[0],
        .value_count = as_added[0],
        .tombstone_count = as_added[1],
    };
}

static const char *entry_problem(void)
{
    return spill_entry_problem(&fixture.geometry, &tree.version.shape, BAR_VALUES, OP, &entry);
}

struct visited {
    uint64_t addresses[RELEASED_MAX];
    uint32_t count;
    uint32_t count_max; /* one more is refused */
};

static bool visit(void *context, uint64_t address)
{
    struct visited *visited = context;
    if (visited->count == visited->count_max) {
        return false;
    }
    visited->addresses[visited->count] = address;
    visited->count += 1;
    return true;
}

static enum status load(struct visited *visited, struct run **run, uint64_t *bad_address)
{
    return spill_load(&fixture.geometry, &fixture.grid, &tree.version.shape, &entry, blocks,
                      &fixture.arena, visited != NULL ? visit : NULL, visited, run, bad_address);
}

/* A load that must fail, and leave the arena as it was. */
static void assert_fails(enum status status, uint64_t address)
{
    const uint64_t segments = fixture.arena.free_segment_count;
    const uint32_t runs = fixture.arena.free_run_count;
    struct run *run;
    uint64_t bad_address = 0;
    cr_assert(eq(int, load(NULL, &run, &bad_address), status));
    cr_assert(eq(u64, bad_address, address));
    cr_assert(eq(ptr, run, NULL));
    cr_assert(eq(u64, fixture.arena.free_segment_count, segments));
    cr_assert(eq(u32, fixture.arena.free_run_count, runs));
}

static void assert_loads(void)
{
    struct visited visited = {.count_max = RELEASED_MAX};
    struct run *run;
    uint64_t bad_address;
    cr_assert(eq(int, load(&visited, &run, &bad_address), STATUS_OK));
    cr_assert(eq(u64, run->value_count, expected_count));
    for (uint64_t i = 0; i < run->value_count; i++) {
        cr_assert(
            eq(int, memcmp(run_value(run, i), expected + i * keys.value_size, keys.value_size), 0),
            "value %lu", (unsigned long)i);
    }
    cr_assert(eq(u32, run->tombstone_count, entry.table.tombstone_count));
    run_release(&fixture.arena, run);

    cr_assert(eq(u32, visited.count, entry.table.block_count));
    cr_assert(eq(u32, job.released_count, entry.table.block_count));
    cr_assert(eq(int, memcmp(visited.addresses, released, visited.count * sizeof released[0]), 0));
}

static void done(void)
{
    tree_fixture_tree_deinit(&fixture, &tree);
}

Test(spill, what_is_spilled_comes_back)
{
    for (uint64_t seed = 0; seed < 120; seed++) {
        spill(seed);
        cr_assert(eq(ptr, (void *)entry_problem(), NULL));
        cr_assert(eq(u64, entry.table.value_count, expected_count));
        assert_loads();
        done();
    }
}

/* The same table, whatever runs it was in: when they merge is timing. */
Test(spill, the_structure_of_runs_leaves_no_trace)
{
    for (uint64_t seed = 200; seed < 230; seed++) {
        spill(seed);
        struct run *merged = tree.version.runs[tree.version.run_count - 1];
        run_reference(merged);
        for (uint32_t i = tree.version.run_count - 1; i > 0; i--) {
            struct run *older = merged;
            merged =
                run_merge(&fixture.arena, &tree.version.shape, tree.version.runs[i - 1], older);
            run_release(&fixture.arena, older);
        }
        cr_assert(eq(u64, merged->value_count, entry.table.value_count));
        const struct table_info first = job.outputs[0];
        for (uint32_t i = 0; i < job.released_count; i++) {
            free_set_release(&fixture.free_set, released[i]);
        }
        free_set_checkpoint(&fixture.free_set);
        free_set_join(&fixture.free_set); /* So that the same addresses are given again. */
        job.runs[0] = merged;
        job.run_count = 1;
        job.output_count = 0;
        job.released_count = 0;
        atomic_store(&job.bytes_done, 0);
        atomic_store(&job.state, COMPACTION_PLANNED);
        cr_assert(free_set_reserve(&fixture.free_set, job.released_max, &job.reservation));
        compaction_job_run(&job.job);
        free_set_forfeit(&fixture.free_set, &job.reservation);
        cr_assert(eq(int, job.status, STATUS_OK));
        cr_assert(eq(int, memcmp(&job.outputs[0], &first, sizeof first), 0), "seed %lu",
                  (unsigned long)seed);
        run_release(&fixture.arena, merged);
        done();
    }
}

/* ---- Damage ------------------------------------------------------------------------------------
 */

static void edit_level(void)
{
    entry.table.level = 1;
}
static void edit_event(void)
{
    entry.table.event = 1;
}
static void edit_zero(void)
{
    entry.table.zero[5] = 1;
}
static void edit_snapshot(void)
{
    entry.table.snapshot_min += 1;
}
static void edit_address_none(void)
{
    entry.table.index.address = 0;
}
static void edit_address_outside(void)
{
    entry.table.index.address = fixture.geometry.block_count_max + 1;
}
static void edit_key_min_long(void)
{
    entry.table.key_min.bytes[KEY_SIZE_MAX - 1] = 1;
}
static void edit_key_max_long(void)
{
    entry.table.key_max.bytes[KEY_SIZE_MAX - 1] = 1;
}
static void edit_key_tombstone(void)
{
    entry.table.key_max.bytes[8] |= 0x80;
}
static void edit_key_order(void)
{
    const struct key min = entry.table.key_min;
    entry.table.key_min = entry.table.key_max;
    entry.table.key_max = min;
}
static void edit_no_values(void)
{
    entry.table.value_count = 0;
    entry.table.tombstone_count = 0;
}
static void edit_tombstones(void)
{
    entry.table.tombstone_count = entry.table.value_count + 1;
}
static void edit_block_count(void)
{
    entry.table.block_count = 2;
}
static void edit_memory_less(void)
{
    entry.value_count = entry.table.value_count - 1;
}
static void edit_memory_more(void)
{
    entry.value_count = BAR_VALUES / 2 + 1;
}
static void edit_memory_tombstones_less(void)
{
    entry.tombstone_count = entry.table.tombstone_count - 1;
}
static void edit_memory_tombstones_more(void)
{
    entry.tombstone_count =
        entry.table.tombstone_count + (entry.value_count - entry.table.value_count) + 1;
}

Test(spill, an_entry_that_cannot_be_is_refused)
{
    static void (*const edits[])(void) = {
        edit_level,
        edit_event,
        edit_zero,
        edit_snapshot,
        edit_address_none,
        edit_address_outside,
        edit_key_min_long,
        edit_key_max_long,
        edit_key_tombstone,
        edit_key_order,
        edit_no_values,
        edit_tombstones,
        edit_block_count,
        edit_memory_less,
        edit_memory_more,
        edit_memory_tombstones_less,
        edit_memory_tombstones_more,
    };
    uint64_t seed = 302; /* 16-byte keys that are all value */
    spill(seed);
    while (entry.table.value_count < 2 || entry.table.tombstone_count == 0) {
        done();
        seed += array_count(shapes);
        spill(seed);
    }
    const struct spill_entry whole = entry;
    for (size_t i = 0; i < array_count(edits); i++) {
        entry = whole;
        cr_assert(eq(ptr, (void *)entry_problem(), NULL));
        edits[i]();
        cr_assert(ne(ptr, (void *)entry_problem(), NULL), "edit %zu", i);
    }
    done();
}

/* Possible, but not what the blocks say. */
Test(spill, an_entry_that_its_blocks_belie_is_refused)
{
    for (uint64_t seed = 400; seed < 430; seed++) {
        spill(seed);
        const struct spill_entry whole = entry;
        const uint64_t index_address = entry.table.index.address;
        entry.table.value_count += 1;
        assert_fails(STATUS_CORRUPT, index_address);
        entry = whole;
        entry.table.tombstone_count += 1;
        assert_fails(STATUS_CORRUPT, index_address);
        entry = whole;
        entry.table.block_count += 1;
        assert_fails(STATUS_CORRUPT, index_address);
        entry = whole;
        entry.table.index.checksum.bytes[3] ^= 1;
        assert_fails(STATUS_CORRUPT, index_address);
        entry = whole;
        entry.table.key_min.bytes[0] ^= 1;
        assert_fails(STATUS_CORRUPT, index_address);
        entry = whole;
        entry.table.key_max.bytes[0] ^= 1;
        assert_fails(STATUS_CORRUPT, index_address);
        entry = whole;
        assert_loads();
        done();
    }
}

static uint64_t offset_of(uint64_t address)
{
    return grid_zone_offset(&fixture.geometry) + (address - 1) * fixture.geometry.block_size;
}

/* The list begins with the index block; then come the value blocks; filters are not read. */
Test(spill, a_flipped_bit_in_any_block_read_is_found)
{
    uint64_t flipped = 0;
    for (uint64_t seed = 500; seed < 520; seed++) {
        spill(seed);
        for (uint32_t i = 0; i < job.released_count; i++) {
            const uint64_t at = offset_of(released[i]);
            if (block_header_const(fixture.sim.bytes + at)->type == BLOCK_TYPE_FILTER) {
                continue;
            }
            const uint64_t bit = prng_below(&prng, 8ull * fixture.geometry.block_size);
            sim_io_flip(&fixture.sim, at + bit / 8, (uint8_t)(1u << bit % 8));
            assert_fails(STATUS_CORRUPT, released[i]);
            sim_io_flip(&fixture.sim, at + bit / 8, (uint8_t)(1u << bit % 8));
            flipped += 1;
        }
        assert_loads();
        done();
    }
    cr_assert(gt(u64, flipped, 60));
}

/* Its neighbour's blocks, whole and of the same tree, behind a reference that fits them. */
Test(spill, value_blocks_out_of_order_are_found)
{
    uint64_t seed = 601;
    spill(seed);
    while (entry.table.block_count < 5) { /* At least two value blocks. */
        done();
        seed += 1;
        spill(seed);
    }
    uint8_t *index = fixture.sim.bytes + offset_of(entry.table.index.address);
    const uint32_t value_blocks = block_header_const(index)->value_count;
    uint8_t *checksums = block_body(index);
    uint8_t *at = checksums + (size_t)value_blocks * CHECKSUM_SIZE;
    memcpy(checksums + CHECKSUM_SIZE, checksums, CHECKSUM_SIZE); /* The first one twice. */
    memcpy(at + 8, at, 8);
    entry.table.index = block_seal(index, fixture.geometry.block_size);
    uint64_t first;
    memcpy(&first, at, 8);
    assert_fails(STATUS_CORRUPT, first);
    done();
}

Test(spill, a_read_that_fails_once_is_repeated_and_one_that_keeps_failing_is_told)
{
    spill(700);
    for (uint64_t n = 1; n <= 4; n++) {
        sim_io_fail_read(&fixture.sim, n, STATUS_IO);
        assert_loads();
        sim_io_fail_read(&fixture.sim, 0, STATUS_OK);
    }
    tree_fixture_cut(&fixture, entry.table.index.address - 1);
    assert_fails(STATUS_IO, entry.table.index.address);
    tree_fixture_restore(&fixture);
    assert_loads();
    done();
}

Test(spill, a_block_that_the_caller_refuses_is_damage)
{
    spill(801);
    for (uint32_t i = 0; i < entry.table.block_count; i++) {
        struct visited visited = {.count_max = i};
        struct run *run;
        uint64_t bad_address;
        cr_assert(eq(int, load(&visited, &run, &bad_address), STATUS_CORRUPT));
        cr_assert(eq(u64, bad_address, released[i]));
        cr_assert(eq(ptr, run, NULL));
    }
    assert_loads();
    done();
}

Test(spill, no_room_in_the_arena_is_told)
{
    spill(901);
    struct run_arena small;
    cr_assert(eq(int, run_arena_init(&small, 2 * RUN_SEGMENT_SIZE, 1), STATUS_OK));
    struct run *run;
    uint64_t bad_address;
    cr_assert(eq(int,
                 spill_load(&fixture.geometry, &fixture.grid, &tree.version.shape, &entry, blocks,
                            &small, NULL, NULL, &run, &bad_address),
                 STATUS_NO_MEMORY));
    run_arena_deinit(&small);
    done();
}
