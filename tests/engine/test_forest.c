/* Goal: whatever is asked of the forest, in whatever order, over clean stops and power cuts, it holds
 * what a naive model holds; and the same journal makes the same checkpoints for any number of workers.
 * Method: a table of objects in memory as the oracle, random batches against both, full comparison
 * by id, by every index and by count. Tiny geometry: 4 KiB blocks, 4-beat bars, so that levels,
 * checkpoints and journal laps come quickly. */
#include "tests/harness/forest_fixture.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "pool/base.h"

enum { KEY_COUNT = 3000, BATCH_MAX = 40, B_COUNT = 5, C_COUNT = 3 };

struct model_row {
    bool exists;
    struct fixture_object object; /* timestamp and version unknown: 0 */
};

static struct forest_fixture fixture;
static struct model_row model[KEY_COUNT];
static struct prng prng;

TestSuite(forest, .timeout = 120);

static void setup(void)
{
    const struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    memset(model, 0, sizeof model);
}

static void random_object(struct fixture_object *object, uint64_t key)
{
    memset(object, 0, sizeof *object);
    fixture_id(object->id, key);
    object->a = prng_below(&prng, 50);
    object->b = (uint32_t)prng_below(&prng, B_COUNT);
    object->c = (uint32_t)prng_below(&prng, C_COUNT);
    const uint64_t length = prng_below(&prng, 16);
    for (uint64_t i = 0; i < length; i++) {
        object->note[i] = (char)('a' + prng_below(&prng, 2));
    }
}

/* What the forest should answer for one event, applied to the model. */
static enum event_result model_apply(enum event_type type, uint64_t key,
                                     const struct fixture_object *object)
{
    struct model_row *row = &model[key];
    switch (type) {
    case EVENT_TYPE_INSERT:
        if (row->exists) {
            return EVENT_RESULT_EXISTS;
        }
        break;
    case EVENT_TYPE_UPSERT:
        break;
    case EVENT_TYPE_UPDATE:
        if (!row->exists) {
            return EVENT_RESULT_NOT_FOUND;
        }
        break;
    case EVENT_TYPE_REMOVE:
        if (!row->exists) {
            return EVENT_RESULT_NOT_FOUND;
        }
        row->exists = false;
        return EVENT_RESULT_OK;
    }
    row->exists = true;
    row->object = *object;
    return EVENT_RESULT_OK;
}

/* One random batch of one event type, against forest and model. */
static void random_write(uint32_t remove_weight)
{
    static uint8_t body[16 * 1024];
    static struct fixture_object objects[BATCH_MAX];
    static uint64_t keys[BATCH_MAX];
    const uint64_t choice = prng_below(&prng, 6 + remove_weight);
    const enum event_type type = choice < 3    ? EVENT_TYPE_INSERT
                                 : choice == 3 ? EVENT_TYPE_UPSERT
                                 : choice < 6  ? EVENT_TYPE_UPDATE
                                               : EVENT_TYPE_REMOVE;
    const uint32_t count = (uint32_t)prng_range(&prng, 1, BATCH_MAX);
    for (uint32_t i = 0; i < count; i++) {
        keys[i] = prng_below(&prng, KEY_COUNT);
        random_object(&objects[i], keys[i]);
    }
    const uint32_t size = fixture_body(body, fixture.groove_id, type, objects, count);
    cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_WRITE, body, size),
                 REQUEST_RESULT_OK));
    uint32_t failure = 0;
    for (uint32_t i = 0; i < count; i++) {
        const enum event_result expected = model_apply(type, keys[i], &objects[i]);
        enum event_result actual = EVENT_RESULT_OK;
        if (failure < fixture.outcome.failure_count &&
            fixture.failures[failure].event_index == i) {
            actual = (enum event_result)fixture.failures[failure].result;
            failure += 1;
        }
        cr_assert(eq(int, actual, expected), "event %u of type %d", i, (int)type);
    }
    cr_assert(eq(u32, failure, fixture.outcome.failure_count));
}

static void check_object(const struct fixture_object *actual, const struct fixture_object *expected)
{
    struct fixture_object cleared = *actual;
    cr_assert(cleared.timestamp > 0 && cleared.version >= cleared.timestamp);
    cleared.timestamp = 0;
    cleared.version = 0;
    cr_assert(eq(int, memcmp(&cleared, expected, sizeof cleared), 0));
}

static void check_ids(void)
{
    static uint8_t ids[100 * 16];
    static struct fixture_object objects[100];
    for (uint64_t first = 0; first < KEY_COUNT; first += 100) {
        for (uint64_t i = 0; i < 100; i++) {
            fixture_id(ids + i * 16, first + i);
        }
        const uint32_t count = fixture_lookup(&fixture, ids, 100, objects, 100);
        uint32_t found = 0;
        for (uint64_t i = 0; i < 100; i++) {
            if (model[first + i].exists) {
                cr_assert(found < count, "key %lu is missing", (unsigned long)(first + i));
                check_object(&objects[found], &model[first + i].object);
                found += 1;
            }
        }
        cr_assert(eq(u32, found, count));
    }
}

static void check_indexes(void)
{
    static struct fixture_object objects[KEY_COUNT];
    uint64_t by_a[50] = {0};
    uint64_t by_bc[B_COUNT][C_COUNT] = {{0}};
    uint64_t total = 0;
    for (uint64_t key = 0; key < KEY_COUNT; key++) {
        if (model[key].exists) {
            by_a[model[key].object.a] += 1;
            by_bc[model[key].object.b][model[key].object.c] += 1;
            total += 1;
        }
    }
    cr_assert(eq(u64, fixture_count(&fixture, READ_INDEX_NONE, NULL, 0), total));
    for (uint64_t a = 0; a < 50; a++) {
        cr_assert(eq(u64, fixture_count(&fixture, 0, &a, 8), by_a[a]), "a = %lu",
                  (unsigned long)a);
    }
    for (uint32_t b = 0; b < B_COUNT; b++) {
        for (uint32_t c = 0; c < C_COUNT; c++) {
            const uint32_t values[2] = {b, c};
            cr_assert(eq(u64, fixture_count(&fixture, 1, values, 8), by_bc[b][c]));
        }
    }
    const uint64_t a = prng_below(&prng, 50);
    const uint32_t count = fixture_query(&fixture, 0, &a, 8, objects, KEY_COUNT);
    cr_assert(count <= by_a[a]);
    for (uint32_t i = 0; i < count; i++) {
        cr_assert(eq(u64, objects[i].a, a));
        cr_assert(i == 0 || objects[i].timestamp > objects[i - 1].timestamp);
    }
    for (int i = 0; i < 5; i++) { /* An index that is cut: objects are rechecked. */
        struct fixture_object wanted;
        random_object(&wanted, 0);
        if (wanted.note[0] == '\0') {
            continue;
        }
        uint64_t expected = 0;
        for (uint64_t key = 0; key < KEY_COUNT; key++) {
            expected += model[key].exists &&
                        memcmp(model[key].object.note, wanted.note, sizeof wanted.note) == 0;
        }
        cr_assert(eq(u64, fixture_count(&fixture, 2, wanted.note, 16), expected));
    }
}

static void check_all(void)
{
    check_ids();
    check_indexes();
}

Test(forest, a_new_file_opens_empty_and_reopens)
{
    setup();
    fixture_open(&fixture, 0, false);
    cr_assert(not(fixture_find(&fixture)));
    fixture_close(&fixture);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    fixture_close(&fixture);
    fixture_open(&fixture, 0, false);
    cr_assert(fixture_find(&fixture));
    cr_assert(eq(u64, fixture_count(&fixture, READ_INDEX_NONE, NULL, 0), 0));
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

Test(forest, a_few_objects_live_in_memory_and_in_the_journal)
{
    setup();
    prng_init(&prng, 1);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    for (int i = 0; i < 5; i++) {
        random_write(1);
    }
    check_all();
    fixture_close(&fixture);
    fixture_open(&fixture, 0, false);
    check_all();
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

static void run_random(uint64_t seed, uint32_t worker_count, bool threads)
{
    setup();
    prng_init(&prng, seed);
    fixture_open(&fixture, worker_count, threads);
    fixture_create(&fixture);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 120; i++) {
            random_write(round % 3 == 2 ? 8 : 1);
        }
        check_all();
        if (round % 2 == 0) {
            fixture_close(&fixture);
        } else {
            fixture_crash(&fixture, prng_next(&prng));
        }
        fixture_open(&fixture, worker_count, threads);
        cr_assert(fixture_find(&fixture));
        check_all();
    }
    struct forest_stats stats;
    forest_stats(fixture.forest, &stats);
    cr_assert(stats.superblock_sequence > 4, "checkpoints: %lu",
              (unsigned long)stats.superblock_sequence);
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

Test(forest, random_operations_agree_with_the_model_inline)
{
    for (uint64_t seed = 0; seed < 3; seed++) {
        run_random(seed, 0, false);
    }
}

Test(forest, random_operations_agree_with_the_model_with_threads)
{
    run_random(100, 2, true);
}
