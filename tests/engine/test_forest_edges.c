/* Goal: what rarely meets in a run of the forest goes well when it does: a write that fails just
 * before a checkpoint, damage met just after a join, readers that never end, a file at its limit,
 * the slowest way to a checkpoint that the journal's ring must outlast. Method: each case is
 * brought about by hand, on a disk in memory. */
#include "tests/harness/forest_fixture.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
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
                 batch_add(forest->gathering, &forest->catalog, REQUEST_KIND_IDLE,
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
