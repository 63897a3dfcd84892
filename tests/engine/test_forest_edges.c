/* Goal: what rarely meets in a run of the forest goes well when it does: a write that fails just
 * before a checkpoint, damage met just after a join, readers that never end, a file at its limit,
 * the slowest way to a checkpoint that the journal's ring must outlast. Method: each case is
 * brought about by hand, on a disk in memory. */
#include "tests/harness/forest_fixture.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "pool/base.h"

static struct forest_fixture fixture;
static uint64_t key_next = 1;

TestSuite(forest_edges, .timeout = 120);

static void setup(const struct geometry *geometry)
{
    fixture_init(&fixture, geometry);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
}

static void end(void)
{
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

/* `count` new objects in one request. */
static enum request_result insert(uint32_t count)
{
    enum { COUNT_MAX = 60 };
    static uint8_t body[16 * 1024];
    static struct fixture_object objects[COUNT_MAX];
    cr_assert(le(u32, count, COUNT_MAX));
    for (uint32_t i = 0; i < count; i++) {
        objects[i] = (struct fixture_object){.a = key_next % 50, .b = 1};
        fixture_id(objects[i].id, key_next + i);
    }
    const uint32_t size = fixture_body(body, fixture.groove_id, EVENT_TYPE_INSERT, objects, count);
    const enum request_result result = fixture_request(&fixture, REQUEST_KIND_WRITE, body, size);
    key_next += result == REQUEST_RESULT_OK ? count : 0;
    return result;
}

/* ---- Damage ------------------------------------------------------------------------------------
 */

/* 74: the process ends for the failed write, before a superblock names what was not written. */
Test(forest_edges, a_checkpoint_waits_for_the_manifest_blocks_it_names, .exit_code = 74)
{
    const struct geometry geometry = geometry_tiny();
    setup(&geometry);
    const struct forest *forest = fixture.forest;
    while (!forest->checkpoint.pending || !forest->manifest_write.active ||
           forest->manifest_write.done) {
        (void)forest_tick(fixture.forest);
        if (forest_is_idle(forest)) {
            cr_assert(eq(int, insert(60), REQUEST_RESULT_OK));
        }
    }
    sim_io_fail_write(&fixture.sim, 1, STATUS_IO); /* It is the first in its worker's queue. */
    while (!forest->checkpoint.submitted || !forest->checkpoint.done) {
        (void)forest_tick(fixture.forest);
    }
    exit(0); /* The superblock is written. */
}

/* The worker that writes a superblock is stopped where it reads it back. Until it has, the blocks
 * of the checkpoint before are not free, and its part of the journal is not, however many beats are
 * owed. */
Test(forest_edges, nothing_is_given_up_before_the_superblock_is_durable)
{
    const struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    fixture_open(&fixture, 0, true);
    fixture_create(&fixture);
    const struct forest *forest = fixture.forest;
    sim_io_hold_read(&fixture.sim, 1, "holt-growth");
    while (!sim_io_holds(&fixture.sim)) {
        cr_assert(eq(int, insert(60), REQUEST_RESULT_OK));
    }
    cr_assert(forest->join_owed);
    const uint64_t tail = forest->journal.tail;
    const uint64_t releasing = forest->free_set.releasing_count;
    uint64_t outcomes = fixture.outcome_count;
    while (forest->beat != geometry.bar_beats / 2 - 1 || forest->beats_owed == 0) {
        if (fixture.outcome_count == outcomes) {
            static uint8_t body[16 * 1024];
            struct fixture_object objects[60];
            for (uint32_t i = 0; i < array_count(objects); i++) {
                objects[i] = (struct fixture_object){.a = key_next};
                fixture_id(objects[i].id, key_next);
                key_next += 1;
            }
            fixture_submit(&fixture, REQUEST_KIND_WRITE, body,
                           fixture_body(body, fixture.groove_id, EVENT_TYPE_INSERT, objects, 60));
            outcomes += 1;
        }
        (void)forest_tick(fixture.forest);
        cr_assert(forest->join_owed);
    }
    for (int i = 0; i < 10; i++) {
        (void)forest_tick(fixture.forest);
    }
    cr_assert(forest->join_owed);
    cr_assert(eq(u64, forest->journal.tail, tail));
    cr_assert(eq(u64, forest->free_set.releasing_count, releasing));
    sim_io_let_go(&fixture.sim);
    fixture_settle(&fixture);
    cr_assert(not(forest->join_owed));
    end();
}

/* ---- Syncs that fail ---------------------------------------------------------------------------
 */

static uint64_t superblock_sequence(void)
{
    return ((const struct superblock *)(const void *)fixture.sim.bytes)->sequence;
}

/* A checkpoint and a journal entry, both written and not synced, both with their workers. */
static void bring_two_syncs_together(void)
{
    const struct geometry geometry = geometry_tiny();
    setup(&geometry);
    const struct forest *forest = fixture.forest;
    static uint8_t body[128];
    while (!forest->checkpoint.submitted || forest->checkpoint.done || !forest->journal.writing) {
        struct fixture_object object = {.a = key_next};
        fixture_id(object.id, key_next);
        key_next += 1;
        fixture_submit(&fixture, REQUEST_KIND_WRITE, body,
                       fixture_body(body, fixture.groove_id, EVENT_TYPE_INSERT, &object, 1));
        (void)forest_tick(fixture.forest);
    }
}

/* The journal's sync is the first to be told; the one of the grid must not pass for good. */
Test(forest_edges, no_superblock_names_blocks_that_another_sync_lost)
{
    bring_two_syncs_together();
    const uint64_t sequence = superblock_sequence();
    const uint64_t durable = fixture.outcome_count - 1; /* Less the create. */
    sim_io_lose_at_sync(&fixture.sim, 1);
    cr_assert(workers_run_one(&fixture.journal_worker));
    fixture.sim.io.sync_failed = false; /* Without it, too: the grid is told itself. */
    while (!fixture.forest->checkpoint.done) {
        cr_assert(workers_run_one(&fixture.growth_worker));
    }
    cr_assert(ne(int, fixture.forest->checkpoint.status, STATUS_OK));
    cr_assert(eq(u64, superblock_sequence(), sequence));
    cr_assert(eq(u64, fixture.outcome_count - 1, durable)); /* Nobody was told more. */
    fixture_crash(&fixture, 7);
    fixture_open(&fixture, 0, false);
    cr_assert(ge(u64, fixture_count(&fixture, READ_INDEX_NONE, NULL, 0), durable));
    end();
}

/* The journal's word alone is enough, where only one of them is told (a device's cache). */
Test(forest_edges, no_superblock_follows_a_failed_sync_of_the_journal)
{
    bring_two_syncs_together();
    const uint64_t sequence = superblock_sequence();
    sim_io_fail_sync(&fixture.sim, 1, STATUS_IO);
    cr_assert(workers_run_one(&fixture.journal_worker));
    while (!fixture.forest->checkpoint.done) {
        cr_assert(workers_run_one(&fixture.growth_worker));
    }
    cr_assert(ne(int, fixture.forest->checkpoint.status, STATUS_OK));
    cr_assert(eq(u64, superblock_sequence(), sequence));
    fixture_crash(&fixture, 8);
    fixture_open(&fixture, 0, false);
    end();
}

/* 74: the process ends, and nobody is told that the entry is durable. */
Test(forest_edges, no_reply_follows_a_failed_sync_of_the_grid, .exit_code = 74)
{
    bring_two_syncs_together();
    const uint64_t outcomes = fixture.outcome_count;
    sim_io_lose_at_sync(&fixture.sim, 1);
    while (!fixture.forest->checkpoint.done) {
        cr_assert(workers_run_one(&fixture.growth_worker));
    }
    fixture.sim.io.sync_failed = false; /* Without it, too. */
    while (fixture.outcome_count == outcomes) {
        (void)forest_tick(fixture.forest);
    }
    exit(0);
}

/* ---- Definitions that are not durable ----------------------------------------------------------
 */

/* A refusal says that something is so; until it is durable it waits. */
Test(forest_edges, a_refusal_waits_for_the_definition_it_rests_on)
{
    const struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    fixture_open(&fixture, 0, false);
    struct groove_spec spec;
    fixture_spec(&spec, "things");
    fixture_submit(&fixture, REQUEST_KIND_GROOVE_CREATE, &spec, sizeof spec);
    const struct forest *forest = fixture.forest;
    while (forest->commit_executed == 0) {
        cr_assert(forest_tick(fixture.forest));
    }
    cr_assert(forest->journal.writing);
    cr_assert(eq(u32, forest_grooves(forest, NULL, 0), 0));
    enum request_result result;
    const char *reason;
    cr_assert(
        eq(int,
           forest_batch_add(fixture.forest, REQUEST_KIND_GROOVE_CREATE, false,
                            (const uint8_t *)&spec, sizeof spec, NULL, &fixture, &result, &reason),
           FOREST_LATER));
    fixture_settle(&fixture);
    cr_assert(eq(u32, forest_grooves(forest, NULL, 0), 1));
    cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_GROOVE_CREATE, &spec, sizeof spec),
                 REQUEST_RESULT_GROOVE_EXISTS));

    cr_assert(fixture_find(&fixture));
    const char name[NAME_SIZE] = "things";
    const uint64_t before = forest->commit_executed;
    fixture_submit(&fixture, REQUEST_KIND_GROOVE_DROP, name, sizeof name);
    while (forest->commit_executed == before) {
        cr_assert(forest_tick(fixture.forest));
    }
    struct forest_groove_info info;
    cr_assert(eq(u32, forest_grooves(forest, &info, 1), 1));
    cr_assert(not(info.dropping));
    static uint8_t body[128];
    const struct fixture_object object = {.id = {1}};
    const uint32_t size = fixture_body(body, fixture.groove_id, EVENT_TYPE_INSERT, &object, 1);
    cr_assert(eq(int,
                 forest_batch_add(fixture.forest, REQUEST_KIND_WRITE, false, body, size, NULL,
                                  &fixture, &result, &reason),
                 FOREST_LATER));
    cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_WRITE, body, size),
                 REQUEST_RESULT_UNKNOWN_GROOVE));
    end();
}

/* ---- Damage in the grid ------------------------------------------------------------------------
 */

/* Flips a bit in every block of the grid. */
static void damage_grid(void)
{
    const uint64_t first = grid_zone_offset(&fixture.geometry);
    for (uint64_t at = first; at < fixture.sim.size; at += fixture.geometry.block_size) {
        sim_io_flip(&fixture.sim, at + 200, 1);
    }
}

static void read_done(struct read_request *request)
{
    *(bool *)request->context = true;
}

static enum request_result lookup(uint64_t first, uint32_t count)
{
    static uint8_t ids[100 * 16];
    for (uint32_t i = 0; i < count; i++) {
        fixture_id(ids + (size_t)i * 16, first + i);
    }
    bool done = false;
    struct read_request *request = forest_read_acquire(fixture.forest);
    request->kind = READ_KIND_LOOKUP;
    request->groove_id = fixture.groove_id;
    request->index = READ_INDEX_NONE;
    request->limit = 0;
    request->input = ids;
    request->input_size = count * 16;
    request->done = read_done;
    request->context = &done;
    forest_read_submit(fixture.forest, request);
    while (!done) {
        (void)forest_tick(fixture.forest);
    }
    const enum request_result result = request->result;
    forest_read_release(fixture.forest, request);
    return result;
}

/* A checkpoint's, say, which is joined only when somebody writes; and who writes waits for growth,
 * which is not begun any more. */
Test(forest_edges, a_sync_that_failed_for_anybody_stops_the_store, .exit_code = 74)
{
    const struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    fixture_open(&fixture, 0, false);
    sim_io_fail_sync(&fixture.sim, 1, STATUS_IO);
    cr_assert_eq(io_sync(&fixture.sim.io), STATUS_IO);
    fixture_tick(&fixture);
    fixture_close(&fixture); /* Not reached: the exit code would be 0. */
}

/* A join that came with the beats of the newest commit excuses nothing: there is no newer version
 * to ask, and there will be none. */
Test(forest_edges, damage_after_the_last_join_is_reported)
{
    const struct geometry geometry = geometry_tiny();
    setup(&geometry);
    while (key_next < 40000) {
        cr_assert(eq(int, insert(60), REQUEST_RESULT_OK));
    }
    uint64_t horizon;
    do {
        fixture_settle(&fixture);
        horizon = fixture.forest->horizon;
        cr_assert(eq(int, insert(60), REQUEST_RESULT_OK));
        fixture_settle(&fixture);
    } while (fixture.forest->horizon == horizon);
    cr_assert(eq(int, lookup(1, 100), REQUEST_RESULT_OK));
    damage_grid();
    uint32_t damaged = 0;
    for (uint64_t key = 1; key < 38000; key += 100) {
        damaged += lookup(key, 100) == REQUEST_RESULT_CORRUPT;
    }
    cr_assert(gt(u32, damaged, 0));
    fixture_crash(&fixture, 1);
    fixture_deinit(&fixture);
}

/* What the device did not read is not called damaged, and is whole when it does. */
Test(forest_edges, a_device_that_fails_is_not_taken_for_damage)
{
    const struct geometry geometry = geometry_tiny();
    setup(&geometry);
    while (key_next < 600) {
        cr_assert(eq(int, insert(60), REQUEST_RESULT_OK));
    }
    fixture_close(&fixture);
    uint32_t journal_errors = 0;
    for (uint64_t n = 1;; n++) {
        sim_io_fail_reads(&fixture.sim, n, STATUS_IO);
        const bool opened = fixture_try_open(&fixture, 0, false);
        const bool fired = !sim_io_armed(&fixture.sim);
        sim_io_fail_reads(&fixture.sim, 0, STATUS_OK);
        if (opened) {
            cr_assert(not(fired));
            break;
        }
        if (strncmp(fixture.open_reason, "journal: ", strlen("journal: ")) == 0) {
            cr_assert(eq(int, fixture.open_status, STATUS_IO));
            cr_assert(strstr(fixture.open_reason, status_text(STATUS_IO)) != NULL, "%s",
                      fixture.open_reason);
            cr_assert(strstr(fixture.open_reason, "offset") != NULL);
            cr_assert(strstr(fixture.open_reason, "damage") == NULL);
            journal_errors += 1;
        }
    }
    cr_assert(gt(u32, journal_errors, 2));
    end();
}

/* ---- Limits ------------------------------------------------------------------------------------
 */

Test(forest_edges, a_reader_that_never_ends_holds_up_no_commit)
{
    const struct geometry geometry = geometry_tiny();
    setup(&geometry);
    struct version_hold hold = {0};
    version_hold_published(&fixture.forest->versions, &hold, 0);
    for (int i = 0; i < 5 * VERSION_COUNT_MAX; i++) {
        cr_assert(eq(int, insert(1), REQUEST_RESULT_OK));
    }
    version_hold_release(&fixture.forest->versions, &hold);
    end();
}

/* While readers keep memory, runs are not merged; when a tree can take no more of them, the batch
 * waits for the room to merge some. */
Test(forest_edges, a_batch_waits_for_room_to_merge_runs)
{
    struct geometry geometry = geometry_tiny();
    geometry.bar_journal_size = 4 * 1024 * 1024;
    geometry.journal_size = geometry.checkpoint_journal_size + 3 * geometry.bar_journal_size +
                            5 * journal_entry_size_max(&geometry);
    setup(&geometry);
    struct forest *forest = fixture.forest;
    struct run_arena *arena = &forest->arena;
    const struct tree *tree = forest->trees;
    const struct catalog_groove *groove = catalog_find(&forest->catalog, fixture.groove_id);
    const uint64_t room =
        run_arena_segments(2 * groove_write_size(&groove->schema->schema, 1) + RUN_SEGMENT_SIZE, 1,
                           3 * GROOVE_TREE_COUNT_MAX + 3);
    uint64_t kept = 0;
    for (uint32_t i = 0; tree->mutable_table.run_count < TABLE_MEMORY_RUN_MAX; i++) {
        cr_assert(lt(u32, i, TABLE_MEMORY_RUN_MAX + 8));
        fixture_settle(&fixture);
        /* Each insert's own room, and none for merges: as if readers kept the rest. */
        arena->free_segment_count += kept;
        kept = arena->free_segment_count - room;
        arena->free_segment_count -= kept;
        cr_assert(eq(int, insert(1), REQUEST_RESULT_OK));
    }
    fixture_settle(&fixture);
    arena->free_segment_count += kept;
    /* Merging takes of it, and the last version keeps what was merged. */
    kept = arena->free_segment_count - room;
    arena->free_segment_count = room;
    static uint8_t body[128];
    struct fixture_object object = {.a = 1};
    fixture_id(object.id, key_next);
    const uint64_t outcomes = fixture.outcome_count;
    fixture_submit(&fixture, REQUEST_KIND_WRITE, body,
                   fixture_body(body, fixture.groove_id, EVENT_TYPE_INSERT, &object, 1));
    fixture_tick(&fixture);
    cr_assert(eq(u64, fixture.outcome_count, outcomes));
    arena->free_segment_count += kept;
    fixture_settle(&fixture);
    cr_assert(eq(u64, fixture.outcome_count, outcomes + 1));
    cr_assert(eq(u64, fixture_count(&fixture, READ_INDEX_NONE, NULL, 0), key_next));
    end();
}

/* Batches that are too large to be merged by the size of a table, and far smaller than what a run
 * takes of memory at least, in all trees that there may be. */
Test(forest_edges, small_runs_leave_room_for_the_next_batch)
{
    struct geometry geometry = geometry_tiny();
    geometry.tree_count_max = 8;
    fixture_init(&fixture, &geometry);
    fixture_open(&fixture, 0, false);
    struct groove_spec spec;
    fixture_spec(&spec, "things");
    while (spec.index_count + 2 < geometry.tree_count_max) {
        spec.indexes[spec.index_count] =
            (struct index_spec){.field_count = 1, .flags = INDEX_FLAG_UNIQUE, .fields = {2}};
        snprintf(spec.indexes[spec.index_count].name, NAME_SIZE, "by_c_%u", spec.index_count);
        spec.index_count += 1;
    }
    cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_GROOVE_CREATE, &spec, sizeof spec),
                 REQUEST_RESULT_OK));
    const uint32_t groove_id = fixture.outcome.groove_id;
    for (uint32_t i = 0; i < 300; i++) {
        enum { COUNT = 60, TICKS_MAX = 10000 };
        static uint8_t body[16 * 1024];
        struct fixture_object objects[COUNT];
        for (uint32_t j = 0; j < COUNT; j++) {
            objects[j] = (struct fixture_object){.a = i, .c = i * COUNT + j};
            fixture_id(objects[j].id, i * COUNT + j);
        }
        const uint64_t outcomes = fixture.outcome_count;
        fixture_submit(&fixture, REQUEST_KIND_WRITE, body,
                       fixture_body(body, groove_id, EVENT_TYPE_INSERT, objects, COUNT));
        for (uint32_t tick = 0; fixture.outcome_count == outcomes; tick++) {
            cr_assert(lt(u32, tick, TICKS_MAX), "batch %u waits for ever", i);
            (void)forest_tick(fixture.forest);
        }
        cr_assert(eq(u32, fixture.outcome.failure_count, 0));
        /* Of trees that hold bars of other sizes, this is what the plan reckons with. */
        cr_assert(gt(u64, fixture.forest->arena.free_segment_count,
                     fixture.forest->arena.segment_count / 8));
    }
    end();
}

/* Upserts that change every indexed value, `count` of the objects of a groove. */
static uint32_t put_changes(uint8_t *body, uint32_t groove_id, uint32_t count, uint32_t value)
{
    enum { COUNT_MAX = 64 };
    struct fixture_object objects[COUNT_MAX];
    cr_assert(le(u32, count, COUNT_MAX));
    for (uint32_t i = 0; i < count; i++) {
        objects[i] = (struct fixture_object){.a = value, .b = value, .c = value};
        fixture_id(objects[i].id, i);
    }
    return fixture_body(body, groove_id, EVENT_TYPE_UPSERT, objects, count);
}

/* It would end the bar from before its middle, and leaves the last beat to the next one. As large
 * as that are batches of more than one groove. */
Test(forest_edges, a_batch_does_not_pass_both_the_middle_and_the_end)
{
    enum { INDEX_COUNT = 14, GROOVE_COUNT = 2 };
    struct geometry geometry = geometry_tiny();
    geometry.bar_memory_size = 4ull * geometry.batch_size_max;
    geometry.tree_count_max = GROOVE_COUNT * (2 + INDEX_COUNT);
    geometry.bar_journal_size = 1024 * 1024;
    geometry.journal_size = geometry.checkpoint_journal_size + 3 * geometry.bar_journal_size +
                            5 * journal_entry_size_max(&geometry);
    fixture_init(&fixture, &geometry);
    fixture_open(&fixture, 0, false);
    uint32_t groove_ids[GROOVE_COUNT];
    for (uint32_t groove = 0; groove < GROOVE_COUNT; groove++) {
        struct groove_spec spec;
        fixture_spec(&spec, groove == 0 ? "zero" : "one");
        for (uint32_t i = spec.index_count; i < INDEX_COUNT; i++) {
            spec.indexes[i] = (struct index_spec){.field_count = 3, .fields = {0, 1, 2}};
            snprintf(spec.indexes[i].name, NAME_SIZE, "more_%u", i);
        }
        spec.index_count = INDEX_COUNT;
        cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_GROOVE_CREATE, &spec, sizeof spec),
                     REQUEST_RESULT_OK));
        groove_ids[groove] = fixture.outcome.groove_id;
    }
    const struct forest *forest = fixture.forest;
    struct forest_groove_info info;
    cr_assert(eq(u32, forest_grooves(forest, &info, 1), GROOVE_COUNT));
    const uint32_t event_max = info.schema->event_max;
    uint32_t stopped_short = 0;
    for (uint32_t i = 0; i < 1000; i++) {
        static uint8_t body[16 * 1024];
        /* One by one to just before the middle, then as many as one batch may hold. */
        const bool large = forest->beat < geometry.bar_beats / 2 &&
                           forest->bar_memory_used * 20 >= geometry.bar_memory_size * 9;
        uint32_t size = put_changes(body, groove_ids[i % 2], large ? event_max : 1, i);
        if (large) {
            size += put_changes(body + size, groove_ids[1 - i % 2],
                                geometry.batch_event_max - event_max, i);
        }
        const uint64_t end = forest->op - forest->beat + geometry.bar_beats;
        cr_assert(
            eq(int, fixture_request(&fixture, REQUEST_KIND_WRITE, body, size), REQUEST_RESULT_OK));
        fixture_settle(&fixture);
        if (large) {
            cr_assert(lt(u64, forest->op, end));
            stopped_short += forest->bar_memory_used >= geometry.bar_memory_size;
        }
    }
    cr_assert(gt(u32, stopped_short, 3));
    end();
}

/* Whatever is missing below the limit is grown or, once it cannot be, refused. */
Test(forest_edges, a_file_at_its_limit_of_blocks_refuses)
{
    for (uint32_t chunks = 24; chunks < 36; chunks++) {
        struct geometry geometry = geometry_tiny();
        geometry.block_count_max = (uint64_t)chunks * geometry.chunk_block_count;
        setup(&geometry);
        enum request_result result;
        do {
            result = insert(60);
        } while (result == REQUEST_RESULT_OK);
        cr_assert(eq(int, result, REQUEST_RESULT_FULL));
        end();
    }
}

/* To the end of the half-bar, with a single sector of journal. */
static void idle_half(void)
{
    struct forest *forest = fixture.forest;
    fixture_settle(&fixture);
    const uint32_t half = fixture.geometry.bar_beats / 2;
    const uint64_t beats = half - forest->beat % half;
    enum request_result result;
    cr_assert(eq(int,
                 batch_add(forest->gathering, &forest->catalog, REQUEST_KIND_IDLE, false,
                           (const uint8_t *)&beats, sizeof beats, NULL, true, &result),
                 BATCH_ADDED));
    fixture_settle(&fixture);
}

/* One sector of journal each, until the bar that is to be ends in a checkpoint, or `size`. */
static void fill(uint64_t size)
{
    const uint64_t op = fixture.forest->op - fixture.forest->beat;
    for (uint64_t used = 0; used + SECTOR_SIZE <= size; used += SECTOR_SIZE) {
        cr_assert(eq(int, insert(1), REQUEST_RESULT_OK));
        fixture_settle(&fixture);
        if (fixture.forest->op >= op + fixture.geometry.bar_beats) {
            return; /* The bar has ended. */
        }
    }
}

Test(forest_edges, the_journal_outlasts_the_slowest_way_to_a_checkpoint)
{
    struct geometry geometry = geometry_tiny();
    const uint64_t bar = 2 * 1024 * 1024;
    geometry.bar_journal_size = bar;
    geometry.bar_memory_size = 8 * 1024 * 1024;
    geometry.checkpoint_journal_size = bar / 2;
    geometry.journal_size =
        geometry.checkpoint_journal_size + 3 * bar + 5 * journal_entry_size_max(&geometry);
    setup(&geometry);
    const struct forest *forest = fixture.forest;
    do { /* A whole bar that ends in a checkpoint. */
        fill(UINT64_MAX - SECTOR_SIZE);
    } while (!forest->join_owed);
    /* All but what calls for the next one, noticed nowhere. */
    idle_half();
    fill(geometry.checkpoint_journal_size - 4 * SECTOR_SIZE);
    idle_half();
    /* A bar whose middle comes at once, then whole ones. */
    idle_half();
    for (int i = 0; i < 5; i++) {
        fill(UINT64_MAX - SECTOR_SIZE);
    }
    end();
}

/* Writes the next of some objects in turn, with the values that they have. */
static void write_next(enum event_type type, uint64_t object_count)
{
    enum { COUNT = 60 };
    static uint8_t body[16 * 1024];
    static struct fixture_object objects[COUNT];
    static uint64_t at;
    for (uint32_t i = 0; i < COUNT; i++, at++) {
        objects[i] = (struct fixture_object){.a = 1};
        fixture_id(objects[i].id, 1 + at % object_count);
    }
    const uint32_t size = fixture_body(body, fixture.groove_id, type, objects, COUNT);
    cr_assert(
        eq(int, fixture_request(&fixture, REQUEST_KIND_WRITE, body, size), REQUEST_RESULT_OK));
    fixture_settle(&fixture);
}

/* As much as may be absorbed, then as much as the rest of the bar takes: both go into one table of
 * the object tree, the only one that an update changes which leaves all indexes as they are. */
Test(forest_edges, a_bar_ends_early_for_what_it_absorbs)
{
    enum { OBJECT_COUNT = 60 * 140 };
    struct geometry geometry = geometry_tiny();
    geometry.bar_journal_size = 2 * 1024 * 1024;
    geometry.checkpoint_journal_size = geometry.bar_journal_size;
    geometry.journal_size = geometry.checkpoint_journal_size + 3 * geometry.bar_journal_size +
                            5 * journal_entry_size_max(&geometry);
    setup(&geometry);
    for (uint32_t i = 0; i < OBJECT_COUNT; i += 60) {
        write_next(EVENT_TYPE_INSERT, OBJECT_COUNT);
    }
    const struct forest *forest = fixture.forest;
    idle_half();
    if (forest->beat > 0) {
        idle_half();
    }
    const struct tree *tree = &forest->trees[0];
    while (tree->mutable_table.value_count * 5 < tree->bar_value_max * 2) {
        write_next(EVENT_TYPE_UPDATE, OBJECT_COUNT);
    }
    if (forest->beat < geometry.bar_beats / 2) {
        idle_half();
    }
    idle_half();
    cr_assert(eq(u32, forest->beat, 0));
    write_next(EVENT_TYPE_UPDATE, OBJECT_COUNT);
    idle_half();
    cr_assert(tree->absorbing);
    const uint64_t absorbed = tree->immutable_table.value_count;
    cr_assert(gt(u64, absorbed * 3, tree->bar_value_max));
    while (forest->beat > 0) {
        write_next(EVENT_TYPE_UPDATE, OBJECT_COUNT);
    }
    const uint64_t together = tree->immutable_table.value_count;
    cr_assert(ge(u64, together, tree->bar_value_max));
    cr_assert(le(u64, together, tree->bar_value_max + 60));
    end();
}
