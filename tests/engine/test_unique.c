/* Goal: no two live objects share what must be unique, whatever order events, requests, batches,
 * checkpoints and crashes come in; nothing else is refused; and what is refused depends on the
 * journal alone. Method: each rule as a case of its own; then random requests, several to a batch,
 * with few distinct values, against a table of objects that is searched naively, over checkpoints,
 * levels, clean stops and power cuts; the same requests with 0, 1, 2 and 4 workers, with and
 * without crashes, must make the same outcomes and checkpoints; then every block of a unique index
 * is damaged. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "pool/base.h"
#include "pool/log.h"
#include "tests/harness/checkpoint_trail.h"
#include "tests/harness/forest_fixture.h"

enum {
    KEY_MAX = 16000,
    A_MAX = 18000, /* unique */
    B_MAX = 40,    /* unique together with c, unless zero */
    C_MAX = 600,
    EVENT_MAX = 60, /* of one request */
    PENDING_MAX = 64,
    INDEX_A = 0,
    INDEX_BC = 1,
};

struct row {
    bool exists;
    struct fixture_object object; /* timestamp and version unknown: 0 */
};

static struct forest_fixture fixture;
static struct prng prng;
static struct row rows[KEY_MAX];
static uint64_t owner_a[A_MAX];         /* key + 1; 0 = nobody */
static uint64_t owner_bc[B_MAX][C_MAX]; /* likewise; [0] is not used */
static uint64_t key_count, a_count;
static uint32_t b_count, c_count;
static uint64_t unique_count; /* events refused for their values */

TestSuite(unique, .timeout = 120);

static void ranges(uint64_t keys, uint64_t a, uint32_t b, uint32_t c)
{
    cr_assert(keys <= KEY_MAX && a <= A_MAX && b <= B_MAX && c <= C_MAX);
    key_count = keys;
    a_count = a;
    b_count = b;
    c_count = c;
}

static void setup_bars(uint64_t journal_size, uint64_t memory_size)
{
    struct geometry geometry = geometry_tiny();
    geometry.bar_journal_size = journal_size;
    geometry.bar_memory_size = memory_size;
    geometry.checkpoint_journal_size = journal_size;
    geometry.journal_size = 8 * 1024 * 1024;
    const char *reason = NULL;
    cr_assert(eq(int, geometry_validate(&geometry, &reason), STATUS_OK), "%s", reason);
    fixture_init(&fixture, &geometry);
    memset(rows, 0, sizeof rows);
    memset(owner_a, 0, sizeof owner_a);
    memset(owner_bc, 0, sizeof owner_bc);
    unique_count = 0;
    ranges(500, 400, 20, 15);
}

static void setup(void)
{
    setup_bars(64 * 1024, 128 * 1024); /* Many bars, so several levels, of little. */
}

static void create(void)
{
    struct groove_spec spec;
    fixture_spec(&spec, "things");
    spec.indexes[INDEX_A].flags = INDEX_FLAG_UNIQUE;
    spec.indexes[INDEX_BC].flags = INDEX_FLAG_UNIQUE | INDEX_FLAG_SPARSE;
    cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_GROOVE_CREATE, &spec, sizeof spec),
                 REQUEST_RESULT_OK));
    fixture.groove_id = fixture.outcome.groove_id;
}

static void setup_open(void)
{
    setup();
    fixture_open(&fixture, 0, false);
    create();
}

static void teardown(void)
{
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

/* ---- Rules, one by one -------------------------------------------------------------------------
 */

static uint8_t body[16 * 1024];
static uint32_t body_size;

static void event(enum event_type type, uint64_t key, uint64_t a, uint32_t b, uint32_t c)
{
    struct fixture_object object = {.a = a, .b = b, .c = c};
    fixture_id(object.id, key);
    body_size += fixture_body(body + body_size, fixture.groove_id, type, &object, 1);
}

/* Sends the events gathered and gives the result of event `i` of them. */
static enum event_result result_of(uint32_t i)
{
    for (uint32_t k = 0; k < fixture.outcome.failure_count; k++) {
        if (fixture.failures[k].event_index == i) {
            return (enum event_result)fixture.failures[k].result;
        }
    }
    return EVENT_RESULT_OK;
}

static void send(void)
{
    cr_assert(
        eq(int, fixture_request(&fixture, REQUEST_KIND_WRITE, body, body_size), REQUEST_RESULT_OK));
    body_size = 0;
}

static enum event_result one(enum event_type type, uint64_t key, uint64_t a, uint32_t b, uint32_t c)
{
    event(type, key, a, b, c);
    send();
    return result_of(0);
}

/* The key's a, or 0: there is no such object. */
static uint64_t a_of(uint64_t key)
{
    uint8_t id[16];
    struct fixture_object object;
    fixture_id(id, key);
    return fixture_lookup(&fixture, id, 1, &object, 1) == 1 ? object.a : 0;
}

Test(unique, a_value_has_one_owner, .init = setup_open, .fini = teardown)
{
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 1, 7, 0, 0), EVENT_RESULT_OK));
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 2, 7, 0, 0), EVENT_RESULT_UNIQUE));
    cr_assert(eq(int, one(EVENT_TYPE_UPSERT, 2, 7, 0, 0), EVENT_RESULT_UNIQUE));
    cr_assert(eq(u64, a_of(2), 0));
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 2, 8, 0, 0), EVENT_RESULT_OK));
    cr_assert(eq(int, one(EVENT_TYPE_UPDATE, 2, 7, 0, 0), EVENT_RESULT_UNIQUE));
    cr_assert(eq(int, one(EVENT_TYPE_UPSERT, 2, 7, 0, 0), EVENT_RESULT_UNIQUE));
    cr_assert(eq(u64, a_of(1), 7));
    cr_assert(eq(u64, a_of(2), 8));
    cr_assert(eq(u64, fixture_count(&fixture, READ_INDEX_NONE, NULL, 0), 2));
}

Test(unique, an_object_may_keep_its_value, .init = setup_open, .fini = teardown)
{
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 1, 7, 3, 4), EVENT_RESULT_OK));
    cr_assert(eq(int, one(EVENT_TYPE_UPDATE, 1, 7, 3, 4), EVENT_RESULT_OK));
    cr_assert(eq(int, one(EVENT_TYPE_UPSERT, 1, 7, 3, 5), EVENT_RESULT_OK));
    event(EVENT_TYPE_UPDATE, 1, 9, 3, 5); /* Away and back, in one request. */
    event(EVENT_TYPE_UPDATE, 1, 7, 3, 5);
    send();
    cr_assert(eq(u32, fixture.outcome.failure_count, 0));
    event(EVENT_TYPE_REMOVE, 1, 0, 0, 0); /* Another object of the same id. */
    event(EVENT_TYPE_INSERT, 1, 7, 3, 5);
    send();
    cr_assert(eq(u32, fixture.outcome.failure_count, 0));
    cr_assert(eq(u64, a_of(1), 7));
    /* That the id is taken is said first. */
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 1, 7, 0, 0), EVENT_RESULT_EXISTS));
}

Test(unique, a_value_is_free_again_when_its_owner_goes, .init = setup_open, .fini = teardown)
{
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 1, 7, 0, 0), EVENT_RESULT_OK));
    cr_assert(eq(int, one(EVENT_TYPE_REMOVE, 1, 0, 0, 0), EVENT_RESULT_OK));
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 2, 7, 0, 0), EVENT_RESULT_OK));
    cr_assert(eq(int, one(EVENT_TYPE_UPDATE, 2, 8, 0, 0), EVENT_RESULT_OK));
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 1, 7, 0, 0), EVENT_RESULT_OK));
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 3, 8, 0, 0), EVENT_RESULT_UNIQUE));
}

Test(unique, events_of_a_request_take_effect_in_order, .init = setup_open, .fini = teardown)
{
    event(EVENT_TYPE_INSERT, 1, 7, 0, 0);
    event(EVENT_TYPE_INSERT, 2, 7, 0, 0); /* 1 has it. */
    event(EVENT_TYPE_REMOVE, 1, 0, 0, 0);
    event(EVENT_TYPE_INSERT, 2, 7, 0, 0); /* Nobody has it. */
    event(EVENT_TYPE_INSERT, 1, 7, 0, 0); /* 2 has it. */
    event(EVENT_TYPE_UPDATE, 2, 8, 0, 0);
    event(EVENT_TYPE_UPSERT, 1, 7, 0, 0); /* Free again. */
    event(EVENT_TYPE_INSERT, 3, 8, 0, 0); /* 2 has it. */
    send();
    static const enum event_result expected[] = {
        EVENT_RESULT_OK,     EVENT_RESULT_UNIQUE, EVENT_RESULT_OK, EVENT_RESULT_OK,
        EVENT_RESULT_UNIQUE, EVENT_RESULT_OK,     EVENT_RESULT_OK, EVENT_RESULT_UNIQUE,
    };
    for (uint32_t i = 0; i < array_count(expected); i++) {
        cr_assert(eq(int, result_of(i), expected[i]), "event %u", i);
    }
    cr_assert(eq(u64, a_of(1), 7));
    cr_assert(eq(u64, a_of(2), 8));
    cr_assert(eq(u64, a_of(3), 0));
}

Test(unique, two_updates_do_not_swap_values, .init = setup_open, .fini = teardown)
{
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 1, 7, 0, 0), EVENT_RESULT_OK));
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 2, 8, 0, 0), EVENT_RESULT_OK));
    event(EVENT_TYPE_UPDATE, 1, 8, 0, 0);
    event(EVENT_TYPE_UPDATE, 2, 7, 0, 0);
    send();
    cr_assert(eq(int, result_of(0), EVENT_RESULT_UNIQUE));
    cr_assert(eq(int, result_of(1), EVENT_RESULT_UNIQUE)); /* 1 kept it. */
    event(EVENT_TYPE_UPDATE, 1, 9, 0, 0);                  /* By way of a third value they do. */
    event(EVENT_TYPE_UPDATE, 2, 7, 0, 0);
    event(EVENT_TYPE_UPDATE, 1, 8, 0, 0);
    send();
    cr_assert(eq(u32, fixture.outcome.failure_count, 0));
    cr_assert(eq(u64, a_of(1), 8));
    cr_assert(eq(u64, a_of(2), 7));
}

/* Refused by its second value, an event has taken no first. */
Test(unique, a_refused_event_takes_and_frees_nothing, .init = setup_open, .fini = teardown)
{
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 1, 7, 1, 1), EVENT_RESULT_OK));
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 2, 8, 2, 2), EVENT_RESULT_OK));
    event(EVENT_TYPE_INSERT, 3, 9, 1, 1); /* 9 stays free. */
    event(EVENT_TYPE_UPDATE, 2, 9, 1, 1); /* 8 and (2, 2) stay taken. */
    event(EVENT_TYPE_INSERT, 3, 8, 3, 3);
    event(EVENT_TYPE_INSERT, 3, 9, 2, 2);
    event(EVENT_TYPE_INSERT, 3, 9, 3, 3);
    send();
    for (uint32_t i = 0; i < 4; i++) {
        cr_assert(eq(int, result_of(i), EVENT_RESULT_UNIQUE), "event %u", i);
    }
    cr_assert(eq(int, result_of(4), EVENT_RESULT_OK));
}

Test(unique, values_of_several_fields_are_compared_together, .init = setup_open, .fini = teardown)
{
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 1, 1, 5, 6), EVENT_RESULT_OK));
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 2, 2, 5, 7), EVENT_RESULT_OK));
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 3, 3, 6, 6), EVENT_RESULT_OK));
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 4, 4, 5, 6), EVENT_RESULT_UNIQUE));
}

Test(unique, what_a_sparse_index_leaves_out_is_free, .init = setup_open, .fini = teardown)
{
    for (uint64_t key = 1; key <= 20; key++) { /* b is zero, c the same. */
        cr_assert(eq(int, one(EVENT_TYPE_INSERT, key, key, 0, 3), EVENT_RESULT_OK));
    }
    cr_assert(eq(int, one(EVENT_TYPE_UPDATE, 1, 1, 4, 3), EVENT_RESULT_OK));
    cr_assert(eq(int, one(EVENT_TYPE_UPDATE, 2, 2, 4, 3), EVENT_RESULT_UNIQUE));
    cr_assert(eq(int, one(EVENT_TYPE_UPDATE, 1, 1, 0, 3), EVENT_RESULT_OK)); /* Out again. */
    cr_assert(eq(int, one(EVENT_TYPE_UPDATE, 2, 2, 4, 3), EVENT_RESULT_OK));
    const uint64_t zero = 0; /* An index that is not sparse takes zero as a value. */
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 30, 0, 0, 0), EVENT_RESULT_OK));
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 31, 0, 0, 0), EVENT_RESULT_UNIQUE));
    cr_assert(eq(u64, fixture_count(&fixture, INDEX_A, &zero, 8), 1));
}

/* ---- Many owners of one value ------------------------------------------------------------------
 */

/* Each value has one key in the tree, however many had it: what a lookup may have to pass is
 * bounded by runs and levels, not by history. */
Test(unique, a_value_that_changes_hands_often_stays_one_entry, .init = setup_open, .fini = teardown)
{
    for (uint64_t round = 0; round < 600; round++) {
        for (uint64_t i = 0; i < 10; i++) {
            event(EVENT_TYPE_INSERT, 1 + round * 10 + i, 7, 0, 0);
            event(EVENT_TYPE_REMOVE, 1 + round * 10 + i, 0, 0, 0);
        }
        send();
        cr_assert(eq(u32, fixture.outcome.failure_count, 0));
    }
    cr_assert(eq(int, one(EVENT_TYPE_INSERT, 1, 7, 0, 0), EVENT_RESULT_OK));
    const uint64_t a = 7;
    cr_assert(eq(u64, fixture_count(&fixture, INDEX_A, &a, 8), 1));
    const struct catalog_groove *groove = catalog_find(&fixture.forest->catalog, fixture.groove_id);
    const struct tree *tree = groove->trees[TREE_INDEX + INDEX_A];
    for (uint32_t i = 0; i < tree->mutable_table.run_count; i++) {
        cr_assert(eq(u64, tree->mutable_table.runs[i]->value_count, 1));
    }
    for (uint32_t i = 0; i < LEVEL_COUNT; i++) {
        cr_assert(tree->levels[i].table_count <= 1);
    }
}

/* ---- Random requests against a table -----------------------------------------------------------
 */

struct pending {
    uint32_t count;
    uint8_t types[EVENT_MAX];
    uint64_t keys[EVENT_MAX];
    struct fixture_object objects[EVENT_MAX];
};

static struct pending pendings[PENDING_MAX];
static uint32_t pending_first, pending_count;
static uint64_t digest; /* of all outcomes so far */

static uint64_t *owner_of_bc(const struct fixture_object *object)
{
    static uint64_t nobody;
    nobody = 0;
    return object->b == 0 ? &nobody : &owner_bc[object->b][object->c];
}

static enum event_result model_apply(enum event_type type, uint64_t key,
                                     const struct fixture_object *object)
{
    struct row *row = &rows[key];
    if (type == EVENT_TYPE_INSERT && row->exists) {
        return EVENT_RESULT_EXISTS;
    }
    if ((type == EVENT_TYPE_UPDATE || type == EVENT_TYPE_REMOVE) && !row->exists) {
        return EVENT_RESULT_NOT_FOUND;
    }
    if (type != EVENT_TYPE_REMOVE) {
        const uint64_t a = owner_a[object->a];
        const uint64_t bc = *owner_of_bc(object);
        if ((a != 0 && a != key + 1) || (bc != 0 && bc != key + 1)) {
            return EVENT_RESULT_UNIQUE;
        }
    }
    if (row->exists) {
        owner_a[row->object.a] = 0;
        *owner_of_bc(&row->object) = 0;
    }
    row->exists = type != EVENT_TYPE_REMOVE;
    if (row->exists) {
        row->object = *object;
        owner_a[object->a] = key + 1;
        *owner_of_bc(object) = key + 1;
    }
    return EVENT_RESULT_OK;
}

static void on_outcome(struct forest_fixture *at, const struct request_outcome *outcome)
{
    (void)at;
    if (pending_count == 0) {
        return; /* The request that made the groove. */
    }
    const struct pending *pending = &pendings[pending_first];
    pending_first = (pending_first + 1) % PENDING_MAX;
    pending_count -= 1;
    cr_assert(eq(int, outcome->result, REQUEST_RESULT_OK));
    uint32_t failure = 0;
    for (uint32_t i = 0; i < pending->count; i++) {
        const enum event_result expected =
            model_apply(pending->types[i], pending->keys[i], &pending->objects[i]);
        enum event_result actual = EVENT_RESULT_OK;
        if (failure < outcome->failure_count && outcome->failures[failure].event_index == i) {
            actual = (enum event_result)outcome->failures[failure].result;
            failure += 1;
        }
        cr_assert(eq(int, actual, expected), "event %u of type %d", i, pending->types[i]);
        unique_count += actual == EVENT_RESULT_UNIQUE;
        digest = digest * 0x9E3779B97F4A7C15u + (uint64_t)actual + 1;
    }
    cr_assert(eq(u32, failure, outcome->failure_count));
    digest = digest * 0x9E3779B97F4A7C15u + outcome->timestamp;
}

static void random_object(struct fixture_object *object, uint64_t key)
{
    memset(object, 0, sizeof *object);
    fixture_id(object->id, key);
    object->a = prng_below(&prng, a_count);
    object->b = (uint32_t)prng_below(&prng, b_count);
    object->c = (uint32_t)prng_below(&prng, c_count);
    object->note[0] = (char)('a' + prng_below(&prng, 2));
}

/* Queues one request of a few sections. */
static void submit_random(uint32_t remove_weight)
{
    cr_assert(pending_count < PENDING_MAX);
    struct pending *pending = &pendings[(pending_first + pending_count) % PENDING_MAX];
    pending->count = 0;
    uint32_t size = 0;
    const uint32_t sections = (uint32_t)prng_range(&prng, 1, 3);
    const uint64_t range = prng_chance(&prng, 1, 4) ? 5 : key_count; /* The same ids again. */
    for (uint32_t i = 0; i < sections; i++) {
        const uint64_t choice = prng_below(&prng, 6 + remove_weight);
        const enum event_type type = choice < 3    ? EVENT_TYPE_INSERT
                                     : choice == 3 ? EVENT_TYPE_UPSERT
                                     : choice < 6  ? EVENT_TYPE_UPDATE
                                                   : EVENT_TYPE_REMOVE;
        const uint32_t count = (uint32_t)prng_range(&prng, 1, EVENT_MAX / 3);
        struct fixture_object *objects = &pending->objects[pending->count];
        for (uint32_t k = 0; k < count; k++) {
            const uint64_t key = prng_below(&prng, range);
            random_object(&objects[k], key);
            pending->keys[pending->count + k] = key;
            pending->types[pending->count + k] = (uint8_t)type;
        }
        size += fixture_body(body + size, fixture.groove_id, type, objects, count);
        pending->count += count;
    }
    pending_count += 1;
    fixture_submit(&fixture, REQUEST_KIND_WRITE, body, size);
}

/* A few requests at once: they share batches as they fit. */
static void random_write(uint32_t remove_weight)
{
    const uint32_t requests = (uint32_t)prng_range(&prng, 1, 5);
    for (uint32_t i = 0; i < requests; i++) {
        submit_random(remove_weight);
    }
    fixture_settle(&fixture);
    cr_assert(eq(u32, pending_count, 0));
}

/* Every object by id; values by count and, those that have an owner, by what is found. */
static void check_all(uint64_t value_step)
{
    static uint8_t ids[100 * 16];
    static struct fixture_object objects[100];
    uint64_t total = 0;
    for (uint64_t first = 0; first < key_count; first += 100) {
        for (uint64_t i = 0; i < 100; i++) {
            fixture_id(ids + i * 16, first + i);
        }
        const uint32_t count = fixture_lookup(&fixture, ids, 100, objects, 100);
        uint32_t found = 0;
        for (uint64_t i = 0; i < 100; i++) {
            if (rows[first + i].exists) {
                cr_assert(found < count, "key %lu is missing", (unsigned long)(first + i));
                objects[found].timestamp = 0;
                objects[found].version = 0;
                cr_assert(eq(
                    int, memcmp(&objects[found], &rows[first + i].object, sizeof objects[0]), 0));
                found += 1;
            }
        }
        cr_assert(eq(u32, found, count));
        total += found;
    }
    cr_assert(eq(u64, fixture_count(&fixture, READ_INDEX_NONE, NULL, 0), total));
    for (uint64_t a = 0; a < a_count; a += value_step) {
        const uint32_t count = fixture_query(&fixture, INDEX_A, &a, 8, objects, 100);
        cr_assert(eq(u32, count, owner_a[a] != 0), "a = %lu", (unsigned long)a);
        cr_assert(eq(u64, fixture_count(&fixture, INDEX_A, &a, 8), count));
        if (count == 1) {
            cr_assert(eq(int, memcmp(objects[0].id, rows[owner_a[a] - 1].object.id, 16), 0));
        }
    }
    for (uint32_t b = 0; b < b_count; b++) {
        for (uint32_t c = 0; c < c_count; c += (uint32_t)value_step) {
            const uint32_t values[2] = {b, c};
            const uint64_t expected = b == 0 ? 0 : owner_bc[b][c] != 0;
            cr_assert(eq(u64, fixture_count(&fixture, INDEX_BC, values, 8), expected));
        }
    }
}

static void assert_verified(void);

static void run_random(uint64_t seed, uint32_t worker_count, bool threads, uint32_t rounds,
                       uint32_t writes, uint64_t value_step)
{
    prng_init(&prng, seed);
    fixture.on_outcome = on_outcome;
    fixture_open(&fixture, worker_count, threads);
    create();
    for (uint32_t round = 0; round < rounds; round++) {
        for (uint32_t i = 0; i < writes; i++) {
            random_write(round % 3 == 2 ? 6 : 1);
        }
        check_all(value_step);
        if (round % 2 == 0) {
            fixture_close(&fixture);
        } else {
            fixture_crash(&fixture, prng_next(&prng));
        }
        fixture_open(&fixture, worker_count, threads);
        check_all(value_step);
    }
    struct forest_stats stats;
    forest_stats(fixture.forest, &stats);
    cr_assert(stats.superblock_sequence > 3, "checkpoints: %lu",
              (unsigned long)stats.superblock_sequence);
    fixture_close(&fixture);
    assert_verified();
    fixture_deinit(&fixture);
    cr_assert(unique_count > 1000, "%lu", (unsigned long)unique_count);
}

Test(unique, random_requests_agree_with_the_table)
{
    for (uint64_t seed = 0; seed < 3; seed++) {
        setup();
        run_random(seed, 0, false, 6, 60, 1);
    }
}

Test(unique, random_requests_agree_with_the_table_with_threads)
{
    setup();
    run_random(100, 2, true, 4, 60, 1);
}

static void fill(void)
{
    static struct fixture_object objects[40];
    for (uint64_t key = 0; key + 40 <= key_count; key += 40) {
        struct pending *pending = &pendings[(pending_first + pending_count) % PENDING_MAX];
        pending->count = 40;
        for (uint64_t i = 0; i < 40; i++) {
            random_object(&objects[i], key + i);
            objects[i].a = key + i; /* b and c collide now and then. */
            pending->objects[i] = objects[i];
            pending->keys[i] = key + i;
            pending->types[i] = EVENT_TYPE_INSERT;
        }
        pending_count += 1;
        const uint32_t size = fixture_body(body, fixture.groove_id, EVENT_TYPE_INSERT, objects, 40);
        fixture_submit(&fixture, REQUEST_KIND_WRITE, body, size);
        if (pending_count == 8) {
            fixture_settle(&fixture);
        }
    }
    fixture_settle(&fixture);
    cr_assert(eq(u32, pending_count, 0));
}

Test(unique, owners_are_found_in_every_level)
{
    setup();
    ranges(KEY_MAX, A_MAX, B_MAX, C_MAX);
    prng_init(&prng, 5);
    fixture.on_outcome = on_outcome;
    fixture_open(&fixture, 0, false);
    create();
    fill();
    for (uint32_t i = 0; i < 150; i++) {
        random_write(2);
    }
    const struct catalog_groove *groove = catalog_find(&fixture.forest->catalog, fixture.groove_id);
    cr_assert(groove->trees[TREE_INDEX + INDEX_A]->levels[1].table_count > 0);
    check_all(13);
    fixture_crash(&fixture, 3);
    fixture_open(&fixture, 0, false);
    for (uint32_t i = 0; i < 30; i++) {
        random_write(4);
    }
    check_all(13);
    fixture_close(&fixture);
    assert_verified();
    fixture_deinit(&fixture);
    cr_assert(unique_count > 1000, "%lu", (unsigned long)unique_count);
}

static void on_problem(void *context, const char *text)
{
    (void)context;
    cr_fail("%s", text);
}

static void assert_verified(void)
{
    struct verify_report report;
    cr_assert(eq(int, forest_verify(&fixture.sim.io, on_problem, NULL, NULL, &report), STATUS_OK));
    cr_assert(report.values_checked > 0);
}

/* ---- A function of the journal -----------------------------------------------------------------
 */

struct history {
    struct checkpoint_trail trail;
    uint64_t digest; /* of results and timestamps */
};

static struct history *history;

static void note_checkpoint(struct forest_fixture *at, uint64_t op,
                            const struct checksum *checkpoint_id)
{
    (void)at;
    checkpoint_trail_note(&history->trail, op, checkpoint_id);
}

/* One request at a time, so that each is one journal entry. */
static void record(struct history *to, uint32_t worker_count, bool threads, uint32_t crash_every)
{
    setup();
    *to = (struct history){0};
    history = to;
    digest = 0;
    prng_init(&prng, 77);
    fixture.on_checkpoint = note_checkpoint;
    fixture.on_outcome = on_outcome;
    fixture_open(&fixture, worker_count, threads);
    create();
    for (uint32_t i = 1; i <= 500; i++) {
        submit_random(i % 150 > 110 ? 6 : 1);
        fixture_settle(&fixture);
        if (crash_every > 0 && i % crash_every == 0) {
            fixture_crash(&fixture, i);
            fixture_open(&fixture, worker_count, threads);
        }
    }
    check_all(3);
    fixture_close(&fixture);
    fixture_deinit(&fixture);
    to->digest = digest;
}

Test(unique, results_and_checkpoints_follow_from_the_journal)
{
    static struct history base, other;
    static const struct {
        uint32_t worker_count;
        bool threads;
        uint32_t crash_every;
    } runs[] = {{0, false, 120}, {1, true, 0}, {2, true, 90}, {4, true, 0}};
    record(&base, 0, false, 0);
    cr_assert(base.trail.count > 6, "%u checkpoints", base.trail.count);
    for (uint32_t i = 0; i < array_count(runs); i++) {
        record(&other, runs[i].worker_count, runs[i].threads, runs[i].crash_every);
        cr_assert(eq(u64, other.digest, base.digest));
        uint32_t position;
        cr_assert(checkpoint_trail_agrees(&base.trail, &other.trail, &position), "checkpoint %u",
                  position);
    }
}

/* ---- Damage ------------------------------------------------------------------------------------
 */

static uint64_t block_offset(uint64_t address)
{
    return grid_zone_offset(&fixture.geometry) + (address - 1) * fixture.geometry.block_size;
}

/* Changes one bit in each value block of the tree; doing it again mends them. */
static uint32_t flip_values_of(uint32_t tree_id)
{
    uint32_t count = 0;
    for (uint64_t address = 1; block_offset(address) < fixture.sim.size; address++) {
        const struct block_header *header =
            block_header_const(fixture.sim.bytes + block_offset(address));
        if (header->type == BLOCK_TYPE_VALUE && header->tree_id == tree_id) {
            sim_io_flip(&fixture.sim, block_offset(address) + BLOCK_HEADER_SIZE + 3, 1);
            count += 1;
        }
    }
    return count;
}

/* A block that would tell the owner is damaged: the request is refused, nothing is journaled, and
 * what needs no block of it goes on. */
Test(unique, a_damaged_index_lets_no_duplicate_through)
{
    setup_bars(1024 * 1024, 512 * 1024); /* The bar lasts: no merge shall meet the damage. */
    ranges(KEY_MAX, A_MAX, B_MAX, C_MAX);
    log_configure(LOG_FORMAT_LOGFMT, LOG_LEVEL_ERROR, 2);
    prng_init(&prng, 9);
    fixture.on_outcome = on_outcome;
    fixture_open(&fixture, 0, false);
    create();
    fill();
    fixture.on_outcome = NULL;
    const uint32_t tree_id = catalog_find(&fixture.forest->catalog, fixture.groove_id)
                                 ->trees[TREE_INDEX + INDEX_A]
                                 ->shape.tree_id;
    fixture_close(&fixture);
    fixture_open(&fixture, 0, false); /* Nothing is in the cache but what replay needed. */
    cr_assert(flip_values_of(tree_id) > 3);
    uint32_t refused = 0;
    for (uint64_t i = 0; i < 200; i++) {
        const uint64_t a = prng_below(&prng, KEY_MAX / 2);
        event(EVENT_TYPE_INSERT, KEY_MAX + i, a, 0, 0);
        const enum request_result result =
            fixture_request(&fixture, REQUEST_KIND_WRITE, body, body_size);
        body_size = 0;
        if (result == REQUEST_RESULT_CORRUPT) {
            refused += 1;
        } else { /* Its owner was found in memory, or in the cache; or it has none. */
            cr_assert(eq(int, result, REQUEST_RESULT_OK));
            cr_assert(
                eq(int, result_of(0), owner_a[a] != 0 ? EVENT_RESULT_UNIQUE : EVENT_RESULT_OK));
            owner_a[a] = owner_a[a] != 0 ? owner_a[a] : KEY_MAX + i + 1;
        }
    }
    cr_assert(refused > 100, "%u", refused);
    /* A remove brings no value. */
    cr_assert(eq(int, one(EVENT_TYPE_REMOVE, rows[0].exists ? 0 : 1, 0, 0, 0), EVENT_RESULT_OK));
    cr_assert(flip_values_of(tree_id) > 3);
    for (uint64_t i = 0; i < 50; i++) { /* Nothing of what was refused has left a trace. */
        const uint64_t a = prng_below(&prng, KEY_MAX);
        const uint64_t key = 2 * KEY_MAX + i;
        const bool free = a > 1 ? owner_a[a] == 0 : a_of(a) == 0;
        cr_assert(eq(int, one(EVENT_TYPE_INSERT, key, a, 0, 0),
                     free ? EVENT_RESULT_OK : EVENT_RESULT_UNIQUE));
        owner_a[a] = free ? key + 1 : owner_a[a];
    }
    fixture_close(&fixture);
    assert_verified();
    fixture_deinit(&fixture);
}
