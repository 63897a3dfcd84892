/* Files for the tests of verify: histories of a real forest on a disk in memory; what verify says
 * of them; and their blocks as they lie there. */
#pragma once

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <string.h>

#include "pool/base.h"
#include "pool/log.h"
#include "tests/harness/forest_fixture.h"

enum {
    BATCH_MAX = 40,
    FILL_COUNT = 20000, /* objects: several tables, at two levels */
    PROBLEM_MAX = 64,
    TEXT_SIZE = 512,
};

static struct forest_fixture fixture;
static struct prng prng;
static uint64_t key_count; /* ids that write_some chooses among */
static char problems[PROBLEM_MAX][TEXT_SIZE];
static uint64_t problem_count;
static uint64_t progress_done, progress_total;
static struct verify_report report;

TestSuite(verify, .timeout = 120);

/* ---- Verifying ---------------------------------------------------------------------------------
 */

static void on_problem(void *context, const char *text)
{
    cr_assert(eq(ptr, context, &report));
    if (problem_count < PROBLEM_MAX) {
        snprintf(problems[problem_count], TEXT_SIZE, "%s", text);
    }
    problem_count += 1;
}

static void on_progress(uint64_t done, uint64_t total, void *context)
{
    cr_assert(eq(ptr, context, &report));
    cr_assert(le(u64, done, total));
    progress_done = done;
    progress_total = total;
}

static enum status verify(void)
{
    problem_count = 0;
    const uint64_t writes = fixture.sim.write_count;
    const uint64_t syncs = fixture.sim.sync_count;
    const enum status status =
        forest_verify(&fixture.sim.io, on_problem, on_progress, &report, &report);
    cr_assert(eq(u64, report.problems, problem_count));
    cr_assert(eq(u64, fixture.sim.write_count, writes));
    cr_assert(eq(u64, fixture.sim.sync_count, syncs));
    return status;
}

static bool named(const char *part)
{
    for (uint64_t i = 0; i < problem_count && i < PROBLEM_MAX; i++) {
        if (strstr(problems[i], part) != NULL) {
            return true;
        }
    }
    return false;
}

static void assert_named(const char *part)
{
    cr_assert(named(part), "'%s' was not among %llu problems; the first: %s", part,
              (unsigned long long)problem_count, problem_count > 0 ? problems[0] : "none");
}

static void assert_clean(void)
{
    cr_assert(eq(int, verify(), STATUS_OK));
    cr_assert(eq(u64, problem_count, 0), "%s", problems[0]);
    cr_assert(eq(u64, progress_done, progress_total));
    cr_assert(eq(u64, report.blocks_checked, progress_total));
}

/* ---- Making files ------------------------------------------------------------------------------
 */

static void setup(void)
{
    log_configure(LOG_FORMAT_LOGFMT, LOG_LEVEL_ERROR, 2);
    struct geometry geometry = geometry_tiny();
    geometry.bar_journal_size = 64 * 1024; /* Many bars, so several levels, of little. */
    geometry.checkpoint_journal_size = 64 * 1024;
    const char *reason = NULL;
    cr_assert(eq(int, geometry_validate(&geometry, &reason), STATUS_OK), "%s", reason);
    fixture_init(&fixture, &geometry);
    key_count = 1200;
}

static void teardown(void)
{
    fixture_deinit(&fixture);
}

static void submit(enum event_type type, const struct fixture_object *objects, uint32_t count)
{
    static uint8_t body[16 * 1024];
    uint32_t size = 0;
    if (type == EVENT_TYPE_REMOVE) { /* Ids alone, one behind another. */
        const struct event_section section = {
            .groove_id = fixture.groove_id, .event_type = (uint8_t)type, .event_count = count};
        memcpy(body, &section, sizeof section);
        size = sizeof section;
        for (uint32_t i = 0; i < count; i++, size += 16) {
            memcpy(body + size, objects[i].id, 16);
        }
    } else {
        size = fixture_body(body, fixture.groove_id, type, objects, count);
    }
    cr_assert(
        eq(int, fixture_request(&fixture, REQUEST_KIND_WRITE, body, size), REQUEST_RESULT_OK));
}

static void random_object(struct fixture_object *object, uint64_t key)
{
    memset(object, 0, sizeof *object);
    fixture_id(object->id, key);
    object->a = prng_below(&prng, 50);
    object->b = (uint32_t)prng_below(&prng, 5);
    object->c = (uint32_t)prng_below(&prng, 3);
    if (prng_chance(&prng, 1, 2)) { /* by_note is sparse. */
        object->note[0] = (char)('a' + prng_below(&prng, 3));
    }
}

static void write_some(void)
{
    static struct fixture_object objects[BATCH_MAX];
    static const enum event_type types[] = {EVENT_TYPE_INSERT, EVENT_TYPE_UPSERT, EVENT_TYPE_UPSERT,
                                            EVENT_TYPE_REMOVE};
    const enum event_type type = types[prng_below(&prng, array_count(types))];
    const uint32_t count = (uint32_t)prng_range(&prng, 1, BATCH_MAX);
    for (uint32_t i = 0; i < count; i++) {
        random_object(&objects[i], prng_below(&prng, key_count));
    }
    submit(type, objects, count);
}

/* Inserts FILL_COUNT objects, then goes on among them. */
static void write_deep_history(uint64_t seed)
{
    static struct fixture_object objects[BATCH_MAX];
    prng_init(&prng, seed);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    key_count = FILL_COUNT;
    for (uint64_t key = 0; key < FILL_COUNT; key += BATCH_MAX) {
        for (uint32_t i = 0; i < BATCH_MAX; i++) {
            random_object(&objects[i], key + i);
        }
        submit(EVENT_TYPE_INSERT, objects, BATCH_MAX);
    }
    for (uint32_t i = 0; i < 100; i++) {
        write_some();
    }
    struct forest_stats stats;
    forest_stats(fixture.forest, &stats);
    cr_assert(gt(u64, stats.tables_by_level[1], 0));
    fixture_close(&fixture);
}

/* Opens, makes the groove if it is not there, writes; leaves the forest open. */
static void write_history(uint64_t seed, uint32_t request_count)
{
    prng_init(&prng, seed);
    fixture_open(&fixture, 0, false);
    if (!fixture_find(&fixture)) {
        fixture_create(&fixture);
    }
    for (uint32_t i = 0; i < request_count; i++) {
        write_some();
    }
    fixture_settle(&fixture);
}

/* ---- The file's bytes --------------------------------------------------------------------------
 */

static uint8_t *block_at(uint64_t address)
{
    return fixture.sim.bytes + grid_zone_offset(&fixture.geometry) +
           (address - 1) * fixture.geometry.block_size;
}
