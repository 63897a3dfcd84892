/* Goal: a guard lets an event through exactly when it holds, and the events of a chain happen all
 * or not at all: in objects, ids, indexes, owners of unique values, counts and pacing, now, after a
 * crash, and with any number of workers. Method: each rule as a case of its own; a chain that fails
 * at each of its places in each way there is; then random requests of guarded and linked sections,
 * across grooves with and without unique indexes, several to a batch. Their bytes are read a second
 * time by a model that applies each chain to a copy of everything and throws the copy away when an
 * event fails. All results must be the model's, and all that can be read. */
#include "engine/chain.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "engine/object.h"
#include "pool/base.h"
#include "tests/harness/checkpoint_trail.h"
#include "tests/harness/forest_fixture.h"

enum {
    GROOVE_COUNT = 3, /* values of a and of (b, c) are unique in the first; of a in the second */
    KEY_COUNT = 40,
    A_COUNT = 36,
    B_COUNT = 6, /* 0 is left out */
    C_COUNT = 4,
    EVENT_MAX = 60, /* of one request */
    PENDING_MAX = 16,
    BODY_MAX = 16 * 1024,
    INDEX_A = 0,
    INDEX_BC = 1,
    INDEX_NOTE = 2,
};

struct row {
    bool exists;
    struct fixture_object object;
};

/* All there is. */
struct state {
    struct row rows[GROOVE_COUNT][KEY_COUNT];
};

static struct forest_fixture fixture;
static struct prng prng;
static struct state model;
static uint32_t groove_ids[GROOVE_COUNT];
static uint8_t ids[KEY_COUNT][16];

TestSuite(chain, .timeout = 120);

static void setup(void)
{
    struct geometry geometry = geometry_tiny();
    geometry.bar_journal_size = 64 * 1024; /* Many bars of little. */
    geometry.bar_memory_size = 128 * 1024;
    geometry.checkpoint_journal_size = 64 * 1024;
    geometry.journal_size = 8 * 1024 * 1024;
    const char *reason = NULL;
    cr_assert(eq(int, geometry_validate(&geometry, &reason), STATUS_OK), "%s", reason);
    fixture_init(&fixture, &geometry);
    memset(&model, 0, sizeof model);
    for (uint64_t key = 0; key < KEY_COUNT; key++) {
        fixture_id(ids[key], key);
    }
}

static void create(void)
{
    static const char *const names[GROOVE_COUNT] = {"singles", "pairs", "things"};
    for (uint32_t i = 0; i < GROOVE_COUNT; i++) {
        struct groove_spec spec;
        fixture_spec(&spec, names[i]);
        spec.indexes[INDEX_A].flags = i < 2 ? INDEX_FLAG_UNIQUE : 0;
        spec.indexes[INDEX_BC].flags = i < 1 ? INDEX_FLAG_UNIQUE | INDEX_FLAG_SPARSE : 0;
        cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_GROOVE_CREATE, &spec, sizeof spec),
                     REQUEST_RESULT_OK));
        groove_ids[i] = fixture.outcome.groove_id;
    }
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

/* ---- Bodies ------------------------------------------------------------------------------------
 */

static uint8_t body[BODY_MAX];
static uint32_t body_size;
static struct event_section *section_last; /* in body */

static void begin_section(uint32_t groove, uint8_t type, uint8_t flags, uint8_t guard)
{
    const struct event_section section = {
        .groove_id = groove_ids[groove],
        .event_type = type,
        .flags = flags,
        .guard = guard,
    };
    cr_assert(body_size + sizeof section <= sizeof body);
    section_last = (struct event_section *)(void *)(body + body_size);
    memcpy(section_last, &section, sizeof section);
    body_size += (uint32_t)sizeof section;
}

static void put_event(uint64_t version, const struct fixture_object *object)
{
    cr_assert(body_size + 8 + sizeof *object <= sizeof body);
    if (section_last->guard == EVENT_GUARD_VERSION) {
        store_u64_le(body + body_size, version);
        body_size += 8;
    }
    const uint32_t size = section_last->event_type == EVENT_TYPE_REMOVE ||
                                  section_last->event_type == EVENT_TYPE_CHECK
                              ? 16
                              : FIXTURE_OBJECT_SIZE;
    memcpy(body + body_size, object, size);
    body_size += size;
    section_last->event_count += 1;
}

static struct fixture_object object_of(uint32_t key, uint64_t a, uint32_t b, uint32_t c)
{
    struct fixture_object object = {.a = a, .b = b, .c = c};
    memcpy(object.id, ids[key], 16);
    return object;
}

/* ---- Model -------------------------------------------------------------------------------------
 */

struct model_event {
    uint32_t groove;
    uint8_t type, guard;
    bool linked;
    uint64_t version;
    struct fixture_object object; /* of an id: all but it is zero */
};

/* Reads a body as docs/protocol.md has it. Returns how many events it holds. */
static uint32_t model_read(const uint8_t *bytes, uint32_t size, bool atomic,
                           struct model_event *events)
{
    uint32_t count = 0;
    for (uint32_t at = 0; at < size;) {
        struct event_section section;
        memcpy(&section, bytes + at, sizeof section);
        at += (uint32_t)sizeof section;
        for (uint32_t i = 0; i < section.event_count; i++) {
            cr_assert(count < EVENT_MAX + 4);
            struct model_event *event = &events[count++];
            *event = (struct model_event){
                .type = section.event_type,
                .guard = section.guard,
                .linked = section.flags == 1 || atomic,
            };
            while (groove_ids[event->groove] != section.groove_id) {
                event->groove += 1;
            }
            if (section.guard == 3) {
                memcpy(&event->version, bytes + at, 8);
                at += 8;
            }
            const uint32_t payload = section.event_type >= 4 ? 16 : FIXTURE_OBJECT_SIZE;
            memcpy(&event->object, bytes + at, payload);
            at += payload;
        }
    }
    events[count - 1].linked = false;
    return count;
}

static bool model_taken(const struct state *state, uint32_t groove, uint32_t key,
                        const struct fixture_object *object)
{
    for (uint32_t other = 0; other < KEY_COUNT; other++) {
        const struct row *row = &state->rows[groove][other];
        if (other == key || !row->exists) {
            continue;
        }
        if ((groove < 2 && row->object.a == object->a) ||
            (groove < 1 && object->b != 0 && row->object.b == object->b &&
             row->object.c == object->c)) {
            return true;
        }
    }
    return false;
}

static enum event_result model_apply(struct state *state, const struct model_event *event,
                                     uint64_t timestamp)
{
    static const uint8_t zero[16];
    const struct fixture_object *object = &event->object;
    if (memcmp(object->id, zero, 16) == 0) {
        return EVENT_RESULT_ID_ZERO;
    }
    uint32_t key = 0;
    while (memcmp(ids[key], object->id, 16) != 0) {
        key += 1;
        cr_assert(key < KEY_COUNT);
    }
    struct row *row = &state->rows[event->groove][key];
    const bool holds = event->guard == 0 || (event->guard == 1 && !row->exists) ||
                       (event->guard == 2 && row->exists) ||
                       (event->guard == 3 && row->exists && row->object.version == event->version);
    if (!holds) {
        return EVENT_RESULT_GUARD;
    }
    if (event->type == EVENT_TYPE_CHECK) {
        return EVENT_RESULT_OK;
    }
    if (event->type == EVENT_TYPE_REMOVE) {
        const bool existed = row->exists;
        row->exists = false;
        return existed ? EVENT_RESULT_OK : EVENT_RESULT_NOT_FOUND;
    }
    if (object->timestamp != 0 || object->version != 0) {
        return EVENT_RESULT_RESERVED_NOT_ZERO;
    }
    if (object->note[0] == 0 && object->note[1] != 0) {
        return EVENT_RESULT_BAD_VALUE;
    }
    if (event->type == EVENT_TYPE_INSERT && row->exists) {
        return EVENT_RESULT_EXISTS;
    }
    if (event->type == EVENT_TYPE_UPDATE && !row->exists) {
        return EVENT_RESULT_NOT_FOUND;
    }
    if (model_taken(state, event->groove, key, object)) {
        return EVENT_RESULT_UNIQUE;
    }
    const uint64_t born = row->exists ? row->object.timestamp : timestamp;
    row->exists = true;
    row->object = *object;
    row->object.timestamp = born;
    row->object.version = timestamp;
    return EVENT_RESULT_OK;
}

static uint32_t results[EVENT_RESULT_LINKED + 1]; /* how often each was seen */
static uint32_t chains_done, chains_undone;       /* of two events and more */

/* What a request must answer; the model changes with it. Returns how many fail. */
static uint32_t model_request(const uint8_t *bytes, uint32_t size, bool atomic, uint64_t timestamp,
                              struct event_failure *failures)
{
    static struct model_event events[EVENT_MAX + 4];
    static struct state trial;
    const uint32_t count = model_read(bytes, size, atomic, events);
    uint32_t failure_count = 0;
    for (uint32_t first = 0; first < count;) {
        uint32_t last = first;
        while (events[last].linked) {
            last += 1;
        }
        trial = model;
        enum event_result result = EVENT_RESULT_OK;
        uint32_t failed = first;
        for (uint32_t i = first; i <= last && result == EVENT_RESULT_OK; i++) {
            result = model_apply(&trial, &events[i], timestamp + i);
            failed = i;
        }
        if (result == EVENT_RESULT_OK) {
            model = trial;
            results[EVENT_RESULT_OK] += last - first + 1;
            chains_done += last > first;
        } else {
            for (uint32_t i = first; i <= last; i++) {
                const enum event_result told = i == failed ? result : EVENT_RESULT_LINKED;
                failures[failure_count++] = (struct event_failure){i, (uint32_t)told};
                results[told] += 1;
            }
            chains_undone += last > first;
        }
        first = last + 1;
    }
    return failure_count;
}

/* ---- Asking ------------------------------------------------------------------------------------
 */

struct pending {
    uint8_t bytes[BODY_MAX];
    uint32_t size;
    bool atomic;
};

static struct pending pendings[PENDING_MAX];
static uint32_t pending_first, pending_count;
static uint64_t digest; /* of all outcomes so far */

static void on_outcome(struct forest_fixture *at, const struct request_outcome *outcome)
{
    (void)at;
    if (pending_count == 0) {
        return; /* A request that made a groove. */
    }
    const struct pending *pending = &pendings[pending_first];
    pending_first = (pending_first + 1) % PENDING_MAX;
    pending_count -= 1;
    cr_assert(eq(int, outcome->result, REQUEST_RESULT_OK));
    struct event_failure expected[EVENT_MAX + 4];
    const uint32_t count =
        model_request(pending->bytes, pending->size, pending->atomic, outcome->timestamp, expected);
    for (uint32_t i = 0; i < count && i < outcome->failure_count; i++) {
        const struct event_failure *actual = &outcome->failures[i];
        cr_assert(eq(u32, actual->event_index, expected[i].event_index));
        cr_assert(eq(u32, actual->result, expected[i].result), "event %u", actual->event_index);
        digest = digest * 0x9E3779B97F4A7C15u + actual->event_index * 16 + actual->result;
    }
    cr_assert(eq(u32, outcome->failure_count, count));
    digest = digest * 0x9E3779B97F4A7C15u + outcome->timestamp;
}

/* Queues what body holds. */
static void submit(bool atomic)
{
    cr_assert(pending_count < PENDING_MAX);
    struct pending *pending = &pendings[(pending_first + pending_count) % PENDING_MAX];
    memcpy(pending->bytes, body, body_size);
    pending->size = body_size;
    pending->atomic = atomic;
    pending_count += 1;
    fixture.atomic = atomic;
    fixture_submit(&fixture, REQUEST_KIND_WRITE, body, body_size);
    body_size = 0;
}

/* Sends it and waits: the model has seen to it that each result is right. */
static void send_as(bool atomic)
{
    fixture.on_outcome = on_outcome;
    submit(atomic);
    fixture_settle(&fixture);
    cr_assert(eq(u32, pending_count, 0));
}

static void send(void)
{
    send_as(false);
}

static enum event_result result_of(uint32_t event)
{
    for (uint32_t i = 0; i < fixture.outcome.failure_count; i++) {
        if (fixture.failures[i].event_index == event) {
            return (enum event_result)fixture.failures[i].result;
        }
    }
    return EVENT_RESULT_OK;
}

static void assert_results(const enum event_result *expected, uint32_t count)
{
    uint32_t failures = 0;
    for (uint32_t i = 0; i < count; i++) {
        cr_assert(eq(int, result_of(i), expected[i]), "event %u", i);
        failures += expected[i] != EVENT_RESULT_OK;
    }
    cr_assert(eq(u32, fixture.outcome.failure_count, failures));
}

/* A section of one event. */
static void event(uint32_t groove, enum event_type type, uint8_t flags, uint32_t key, uint64_t a)
{
    const struct fixture_object object = object_of(key, a, 0, 0);
    begin_section(groove, (uint8_t)type, flags, EVENT_GUARD_NONE);
    put_event(0, &object);
}

static void guarded(uint32_t groove, enum event_type type, uint8_t flags,
                    enum event_guard_kind guard, uint64_t version, uint32_t key, uint64_t a)
{
    const struct fixture_object object = object_of(key, a, 0, 0);
    begin_section(groove, (uint8_t)type, flags, (uint8_t)guard);
    put_event(version, &object);
}

/* ---- Looking -----------------------------------------------------------------------------------
 */

static void check_values(uint32_t groove, uint32_t index, const void *values, uint32_t size,
                         uint64_t expected)
{
    cr_assert(eq(u64, fixture_count(&fixture, index, values, size), expected),
              "groove %u, index %u", groove, index);
}

/* Every object, whole; every value of every index. */
static void check_all(void)
{
    static struct fixture_object objects[KEY_COUNT];
    for (uint32_t groove = 0; groove < GROOVE_COUNT; groove++) {
        fixture.groove_id = groove_ids[groove];
        const struct row *rows = model.rows[groove];
        const uint32_t count = fixture_lookup(&fixture, ids[0], KEY_COUNT, objects, KEY_COUNT);
        uint32_t found = 0;
        uint64_t by_a[A_COUNT] = {0}, by_bc[B_COUNT][C_COUNT] = {{0}};
        for (uint32_t key = 0; key < KEY_COUNT; key++) {
            const struct fixture_object *object = &rows[key].object;
            if (rows[key].exists) {
                cr_assert(found < count, "groove %u: key %u is missing", groove, key);
                cr_assert(eq(int, memcmp(&objects[found], object, sizeof *object), 0),
                          "groove %u: key %u", groove, key);
                found += 1;
                by_a[object->a] += 1;
                by_bc[object->b][object->c] += 1;
            }
        }
        cr_assert(eq(u32, found, count), "groove %u", groove);
        check_values(groove, READ_INDEX_NONE, NULL, 0, found);
        for (uint64_t a = 0; a < A_COUNT; a++) {
            check_values(groove, INDEX_A, &a, 8, by_a[a]);
        }
        for (uint32_t b = groove == 0; b < B_COUNT; b++) {
            for (uint32_t c = 0; c < C_COUNT; c++) {
                const uint32_t values[2] = {b, c};
                check_values(groove, INDEX_BC, values, 8, by_bc[b][c]);
            }
        }
    }
}

/* ---- Guards ------------------------------------------------------------------------------------
 */

Test(chain, a_guard_is_asked_before_all_but_the_id, .init = setup_open, .fini = teardown)
{
    event(2, EVENT_TYPE_INSERT, 0, 1, 5);
    send();
    const uint64_t version = fixture.outcome.timestamp;
    static const struct {
        enum event_type type;
        enum event_guard_kind guard;
        uint64_t off; /* from the version there is */
        uint32_t key; /* 1 is there */
        enum event_result expected;
    } cases[] = {
        {EVENT_TYPE_CHECK, EVENT_GUARD_ABSENT, 0, 1, EVENT_RESULT_GUARD},
        {EVENT_TYPE_CHECK, EVENT_GUARD_ABSENT, 0, 2, EVENT_RESULT_OK},
        {EVENT_TYPE_CHECK, EVENT_GUARD_PRESENT, 0, 1, EVENT_RESULT_OK},
        {EVENT_TYPE_CHECK, EVENT_GUARD_PRESENT, 0, 2, EVENT_RESULT_GUARD},
        {EVENT_TYPE_CHECK, EVENT_GUARD_VERSION, 0, 1, EVENT_RESULT_OK},
        {EVENT_TYPE_CHECK, EVENT_GUARD_VERSION, 1, 1, EVENT_RESULT_GUARD},
        {EVENT_TYPE_CHECK, EVENT_GUARD_VERSION, UINT64_MAX, 1, EVENT_RESULT_GUARD},
        {EVENT_TYPE_CHECK, EVENT_GUARD_VERSION, 1ull << 63, 1, EVENT_RESULT_GUARD},
        {EVENT_TYPE_CHECK, EVENT_GUARD_VERSION, 0, 2, EVENT_RESULT_GUARD},
        {EVENT_TYPE_INSERT, EVENT_GUARD_ABSENT, 0, 1, EVENT_RESULT_GUARD},
        {EVENT_TYPE_INSERT, EVENT_GUARD_PRESENT, 0, 1, EVENT_RESULT_EXISTS},
        {EVENT_TYPE_INSERT, EVENT_GUARD_PRESENT, 0, 2, EVENT_RESULT_GUARD},
        {EVENT_TYPE_INSERT, EVENT_GUARD_VERSION, 0, 1, EVENT_RESULT_EXISTS},
        {EVENT_TYPE_INSERT, EVENT_GUARD_VERSION, 1, 1, EVENT_RESULT_GUARD},
        {EVENT_TYPE_UPDATE, EVENT_GUARD_ABSENT, 0, 1, EVENT_RESULT_GUARD},
        {EVENT_TYPE_UPDATE, EVENT_GUARD_ABSENT, 0, 2, EVENT_RESULT_NOT_FOUND},
        {EVENT_TYPE_UPDATE, EVENT_GUARD_VERSION, 1, 1, EVENT_RESULT_GUARD},
        {EVENT_TYPE_UPSERT, EVENT_GUARD_ABSENT, 0, 1, EVENT_RESULT_GUARD},
        {EVENT_TYPE_UPSERT, EVENT_GUARD_PRESENT, 0, 2, EVENT_RESULT_GUARD},
        {EVENT_TYPE_REMOVE, EVENT_GUARD_ABSENT, 0, 1, EVENT_RESULT_GUARD},
        {EVENT_TYPE_REMOVE, EVENT_GUARD_ABSENT, 0, 2, EVENT_RESULT_NOT_FOUND},
        {EVENT_TYPE_REMOVE, EVENT_GUARD_VERSION, 1, 1, EVENT_RESULT_GUARD},
        {EVENT_TYPE_INSERT, EVENT_GUARD_ABSENT, 0, 2, EVENT_RESULT_OK},
        {EVENT_TYPE_REMOVE, EVENT_GUARD_PRESENT, 0, 2, EVENT_RESULT_OK},
        {EVENT_TYPE_UPDATE, EVENT_GUARD_VERSION, 0, 1, EVENT_RESULT_OK},
        {EVENT_TYPE_UPDATE, EVENT_GUARD_VERSION, 0, 1, EVENT_RESULT_GUARD}, /* It moved. */
        {EVENT_TYPE_REMOVE, EVENT_GUARD_VERSION, 0, 1, EVENT_RESULT_GUARD},
    };
    enum event_result expected[array_count(cases)];
    for (uint32_t i = 0; i < array_count(cases); i++) {
        guarded(2, cases[i].type, 0, cases[i].guard, version + cases[i].off, cases[i].key, 6);
        expected[i] = cases[i].expected;
    }
    send();
    assert_results(expected, array_count(cases));
    check_all();

    struct fixture_object spoiled = object_of(1, 1, 0, 0);
    spoiled.version = 1;
    begin_section(2, EVENT_TYPE_UPDATE, 0, EVENT_GUARD_ABSENT);
    put_event(0, &spoiled);
    memset(spoiled.id, 0, sizeof spoiled.id);
    put_event(0, &spoiled);
    begin_section(2, EVENT_TYPE_CHECK, 0, EVENT_GUARD_ABSENT);
    put_event(0, &spoiled);
    send();
    assert_results(
        (enum event_result[]){EVENT_RESULT_GUARD, EVENT_RESULT_ID_ZERO, EVENT_RESULT_ID_ZERO}, 3);
}

/* Wherever it lies: in memory of either kind, in a level, in the same batch. */
Test(chain, compare_and_set_follows_the_version_everywhere, .init = setup_open, .fini = teardown)
{
    uint64_t versions[KEY_COUNT];
    for (uint32_t key = 0; key < KEY_COUNT; key++) {
        event(2, EVENT_TYPE_INSERT, 0, key, 0);
        send();
        versions[key] = fixture.outcome.timestamp;
    }
    for (uint32_t round = 1; round < 30; round++) {
        if (round % 10 == 0) {
            fixture_crash(&fixture, round);
            fixture_open(&fixture, 0, false);
        }
        for (uint32_t key = round % 3; key < KEY_COUNT; key += 1 + key % 3) {
            guarded(2, EVENT_TYPE_UPDATE, 0, EVENT_GUARD_VERSION, versions[key] - 1, key, 1);
            guarded(2, EVENT_TYPE_UPDATE, 0, EVENT_GUARD_VERSION, versions[key], key, round);
            guarded(2, EVENT_TYPE_UPDATE, 0, EVENT_GUARD_VERSION, versions[key], key, 2);
            send();
            assert_results(
                (enum event_result[]){EVENT_RESULT_GUARD, EVENT_RESULT_OK, EVENT_RESULT_GUARD}, 3);
            versions[key] = fixture.outcome.timestamp + 1;
        }
        if (round % 7 == 0) {
            fixture_pay_debt(&fixture);
        }
    }
    check_all();
}

/* ---- Chains ------------------------------------------------------------------------------------
 */

enum { LINKED = EVENT_SECTION_FLAG_LINKED };

Test(chain, a_chain_happens_wholly_or_not_at_all, .init = setup_open, .fini = teardown)
{
    event(0, EVENT_TYPE_INSERT, LINKED, 1, 1);
    event(1, EVENT_TYPE_INSERT, LINKED, 1, 1);
    event(2, EVENT_TYPE_INSERT, 0, 1, 1);
    event(2, EVENT_TYPE_INSERT, 0, 2, 2); /* Not of the chain. */
    send();
    assert_results(
        (enum event_result[]){EVENT_RESULT_OK, EVENT_RESULT_OK, EVENT_RESULT_OK, EVENT_RESULT_OK},
        4);
    event(0, EVENT_TYPE_INSERT, LINKED, 2, 2);
    event(1, EVENT_TYPE_INSERT, LINKED, 1, 1); /* Exists. */
    event(2, EVENT_TYPE_UPDATE, 0, 1, 9);
    event(0, EVENT_TYPE_INSERT, 0, 3, 2); /* The value was given back. */
    event(1, EVENT_TYPE_INSERT, LINKED, 2, 2);
    event(1, EVENT_TYPE_UPDATE, 0, 2, 3); /* Sees the one before. */
    send();
    assert_results((enum event_result[]){EVENT_RESULT_LINKED, EVENT_RESULT_EXISTS,
                                         EVENT_RESULT_LINKED, EVENT_RESULT_OK, EVENT_RESULT_OK,
                                         EVENT_RESULT_OK},
                   6);
    check_all();
    /* Event n has the request's timestamp + n, whatever failed. */
    cr_assert(eq(u64, model.rows[1][2].object.timestamp, fixture.outcome.timestamp + 4));
    cr_assert(eq(u64, model.rows[1][2].object.version, fixture.outcome.timestamp + 5));
}

Test(chain, a_linked_section_links_its_own_events, .init = setup_open, .fini = teardown)
{
    struct fixture_object objects[4];
    begin_section(2, EVENT_TYPE_INSERT, LINKED, EVENT_GUARD_NONE);
    for (uint32_t i = 0; i < 4; i++) {
        objects[i] = object_of(i == 2 ? 0 : i, i, 0, 0); /* The third comes twice. */
        put_event(0, &objects[i]);
    }
    event(2, EVENT_TYPE_INSERT, 0, 5, 5);
    event(2, EVENT_TYPE_INSERT, 0, 6, 6);
    send();
    assert_results((enum event_result[]){EVENT_RESULT_LINKED, EVENT_RESULT_LINKED,
                                         EVENT_RESULT_EXISTS, EVENT_RESULT_LINKED,
                                         EVENT_RESULT_LINKED, EVENT_RESULT_OK},
                   6);
    check_all();
}

Test(chain, an_atomic_request_is_one_chain, .init = setup_open, .fini = teardown)
{
    event(0, EVENT_TYPE_INSERT, 0, 1, 1);
    event(1, EVENT_TYPE_INSERT, LINKED, 1, 1);
    event(2, EVENT_TYPE_INSERT, 0, 1, 1);
    event(2, EVENT_TYPE_REMOVE, 0, 2, 0);
    send_as(true);
    assert_results((enum event_result[]){EVENT_RESULT_LINKED, EVENT_RESULT_LINKED,
                                         EVENT_RESULT_LINKED, EVENT_RESULT_NOT_FOUND},
                   4);
    event(0, EVENT_TYPE_INSERT, 0, 1, 1);
    event(1, EVENT_TYPE_INSERT, LINKED, 1, 1);
    event(2, EVENT_TYPE_INSERT, 0, 1, 1);
    send_as(true);
    cr_assert(eq(u32, fixture.outcome.failure_count, 0));
    check_all();
    /* After a crash it is one again. */
    fixture_crash(&fixture, 1);
    fixture_open(&fixture, 0, false);
    check_all();
}

Test(chain, a_check_keeps_a_chain_from_happening, .init = setup_open, .fini = teardown)
{
    event(0, EVENT_TYPE_INSERT, 0, 1, 1);
    send();
    const uint64_t version = fixture.outcome.timestamp;
    guarded(0, EVENT_TYPE_CHECK, LINKED, EVENT_GUARD_VERSION, version, 1, 0);
    event(1, EVENT_TYPE_INSERT, 0, 1, 1);
    guarded(0, EVENT_TYPE_CHECK, LINKED, EVENT_GUARD_ABSENT, 0, 1, 0);
    event(1, EVENT_TYPE_INSERT, LINKED, 2, 2);
    guarded(0, EVENT_TYPE_CHECK, 0, EVENT_GUARD_PRESENT, 0, 1, 0);
    guarded(1, EVENT_TYPE_CHECK, 0, EVENT_GUARD_ABSENT, 0, 2, 0);
    send();
    assert_results((enum event_result[]){EVENT_RESULT_OK, EVENT_RESULT_OK, EVENT_RESULT_GUARD,
                                         EVENT_RESULT_LINKED, EVENT_RESULT_LINKED, EVENT_RESULT_OK},
                   6);
    check_all();
    /* A request that only asks has its place in the order of commits, and changes nothing. */
    const uint64_t commit = fixture.outcome.commit;
    guarded(1, EVENT_TYPE_CHECK, 0, EVENT_GUARD_PRESENT, 0, 1, 0);
    send();
    cr_assert(eq(u64, fixture.outcome.commit, commit + 1));
    cr_assert(eq(u32, fixture.outcome.failure_count, 0));
    check_all();
}

/* Values go from hand to hand inside a chain; when it fails, they are back where they were, for the
 * next event as for the next request. */
Test(chain, unique_values_find_back_to_their_owners, .init = setup_open, .fini = teardown)
{
    for (uint32_t key = 0; key < 4; key++) {
        event(0, EVENT_TYPE_INSERT, 0, key, key);
    }
    send();
    for (uint32_t fails = 0; fails < 2; fails++) {
        event(0, EVENT_TYPE_REMOVE, LINKED, 0, 0);
        event(0, EVENT_TYPE_UPDATE, LINKED, 1, 0); /* Takes what 0 had, */
        event(0, EVENT_TYPE_UPDATE, LINKED, 2, 1); /* what 1 had, */
        event(0, EVENT_TYPE_INSERT, LINKED, 0, 2); /* and what 2 had; */
        event(0, EVENT_TYPE_UPDATE, LINKED, 3, 20);
        event(0, EVENT_TYPE_UPDATE, LINKED, 0, 3);
        event(0, EVENT_TYPE_UPDATE, fails, 1, 21); /* Away, and this one back again. */
        if (fails == 1) {
            event(0, EVENT_TYPE_INSERT, 0, 1, 30); /* Exists. */
        }
        event(0, EVENT_TYPE_INSERT, 0, 10, 0);
        event(0, EVENT_TYPE_INSERT, 0, 11, 1);
        event(0, EVENT_TYPE_INSERT, 0, 12, 2);
        event(0, EVENT_TYPE_INSERT, 0, 13, 3);
        event(0, EVENT_TYPE_INSERT, 0, 14, 20);
        event(0, EVENT_TYPE_INSERT, 0, 15, 21);
        if (fails == 0) { /* The same without the failure, and then not at all. */
            send_as(true);
            cr_assert(eq(int, result_of(8), EVENT_RESULT_UNIQUE));
        } else {
            send();
            assert_results(
                (enum event_result[]){EVENT_RESULT_LINKED, EVENT_RESULT_LINKED, EVENT_RESULT_LINKED,
                                      EVENT_RESULT_LINKED, EVENT_RESULT_LINKED, EVENT_RESULT_LINKED,
                                      EVENT_RESULT_LINKED, EVENT_RESULT_EXISTS, EVENT_RESULT_UNIQUE,
                                      EVENT_RESULT_UNIQUE, EVENT_RESULT_UNIQUE, EVENT_RESULT_UNIQUE,
                                      EVENT_RESULT_OK, EVENT_RESULT_OK},
                14);
        }
        check_all();
    }
}

Test(chain, an_id_may_come_many_times_in_a_chain, .init = setup_open, .fini = teardown)
{
    event(2, EVENT_TYPE_INSERT, 0, 7, 1);
    send();
    for (uint32_t fails = 0; fails < 2; fails++) {
        event(2, EVENT_TYPE_UPDATE, LINKED, 7, 2);
        event(2, EVENT_TYPE_REMOVE, LINKED, 7, 0);
        guarded(2, EVENT_TYPE_CHECK, LINKED, EVENT_GUARD_ABSENT, 0, 7, 0);
        event(2, EVENT_TYPE_INSERT, LINKED, 7, 3);
        event(2, EVENT_TYPE_UPSERT, LINKED, 7, 4);
        event(2, EVENT_TYPE_REMOVE, LINKED, 7, 0);
        event(2, EVENT_TYPE_UPSERT, LINKED, 7, 5);
        if (fails == 0) {
            event(2, EVENT_TYPE_INSERT, 0, 7, 6);
        } else {
            event(2, EVENT_TYPE_UPDATE, 0, 7, 6);
        }
        event(2, EVENT_TYPE_UPDATE, 0, 7, 7);
        send();
        cr_assert(eq(u32, fixture.outcome.failure_count, fails == 0 ? 8 : 0));
        check_all();
    }
}

/* What a lane remembers of a chain that left nothing else is replayed, and kept by checkpoints,
 * like any reply. */
Test(chain, a_numbered_chain_is_told_again_as_it_was, .init = setup_open, .fini = teardown)
{
    const struct request_session session = {.client_id = {9}, .number = 3, .uid = 500};
    cr_assert(eq(int, fixture_session_open(&fixture, &session, 1, 1), REQUEST_RESULT_OK));
    event(0, EVENT_TYPE_INSERT, 0, 1, 1);
    guarded(1, EVENT_TYPE_CHECK, 0, EVENT_GUARD_PRESENT, 0, 1, 0);
    event(2, EVENT_TYPE_INSERT, 0, 1, 1);
    fixture.session = &session;
    send_as(true);
    fixture.session = NULL;
    assert_results(
        (enum event_result[]){EVENT_RESULT_LINKED, EVENT_RESULT_GUARD, EVENT_RESULT_LINKED}, 3);
    const struct request_outcome told = fixture.outcome;
    struct event_failure failures[3];
    memcpy(failures, fixture.failures, sizeof failures);
    for (uint32_t round = 0; round < 12; round++) {
        if (round % 3 == 1) { /* From the journal, then from checkpoints. */
            fixture_crash(&fixture, round);
            fixture_open(&fixture, 0, false);
        }
        struct session_answer answer = {0};
        cr_assert(eq(int, forest_session_look(fixture.forest, &session, &answer), SESSION_DONE));
        cr_assert(eq(u64, answer.outcome.commit, told.commit));
        cr_assert(eq(u64, answer.outcome.timestamp, told.timestamp));
        cr_assert(eq(u32, answer.outcome.failure_count, 3));
        cr_assert(eq(int, memcmp(answer.outcome.failures, failures, sizeof failures), 0));
        for (uint32_t i = 0; i < 20; i++) {
            event(2, EVENT_TYPE_UPSERT, 0, i, round);
            send();
        }
        check_all();
    }
}

/* ---- Every failing position --------------------------------------------------------------------
 */

enum { CHAIN_LENGTH = 9, WAY_COUNT = 8 };

/* An event that fails, in one of the ways there are, in any state. */
static void put_failing(uint32_t way, uint8_t flags)
{
    struct fixture_object object = object_of(30, 0, 0, 0);
    switch (way) {
    case 0:
        event(0, EVENT_TYPE_INSERT, flags, 20, 35);
        return;
    case 1:
        event(1, EVENT_TYPE_UPDATE, flags, 30, 35);
        return;
    case 2:
        event(2, EVENT_TYPE_REMOVE, flags, 30, 0);
        return;
    case 3:
        memset(object.id, 0, sizeof object.id);
        break;
    case 4:
        event(0, EVENT_TYPE_INSERT, flags, 30, 20); /* The value of 20. */
        return;
    case 5:
        object.timestamp = 1;
        break;
    case 6:
        object.note[3] = 'x';
        object.note[1] = 'x';
        break;
    default:
        guarded(1, EVENT_TYPE_CHECK, flags, EVENT_GUARD_PRESENT, 0, 30, 0);
        return;
    }
    begin_section(2, EVENT_TYPE_UPSERT, flags, EVENT_GUARD_NONE);
    put_event(0, &object);
}

/* Something of each kind, in all grooves, with values that change hands. */
static void put_good(uint32_t position, uint8_t flags)
{
    switch (position) {
    case 0:
        event(0, EVENT_TYPE_INSERT, flags, 1, 1);
        return;
    case 1:
        event(1, EVENT_TYPE_UPDATE, flags, 20, 21);
        return;
    case 2:
        guarded(0, EVENT_TYPE_CHECK, flags, EVENT_GUARD_PRESENT, 0, 1, 0);
        return;
    case 3:
        event(0, EVENT_TYPE_UPDATE, flags, 1, 2);
        return;
    case 4:
        event(2, EVENT_TYPE_REMOVE, flags, 20, 0);
        return;
    case 5:
        event(0, EVENT_TYPE_INSERT, flags, 2, 1);
        return;
    case 6:
        event(1, EVENT_TYPE_UPSERT, flags, 3, 20);
        return;
    case 7:
        event(2, EVENT_TYPE_UPSERT, flags, 20, 4);
        return;
    default:
        event(1, EVENT_TYPE_REMOVE, flags, 3, 0);
        return;
    }
}

/* What a batch leaves in memory, and what paces bars and checkpoints. */
struct trace {
    uint64_t memory_used, memory_since_checkpoint;
    struct {
        uint64_t object_count;
        struct {
            uint64_t values, tombstones;
            uint32_t runs;
        } trees[GROOVE_TREE_COUNT_MAX];
    } grooves[GROOVE_COUNT];
};

static struct trace trace_of(void)
{
    const struct forest *forest = fixture.forest;
    struct trace trace;
    memset(&trace, 0, sizeof trace);
    trace.memory_used = forest->bar_memory_used;
    trace.memory_since_checkpoint = forest->memory_since_checkpoint;
    for (uint32_t i = 0; i < GROOVE_COUNT; i++) {
        const struct catalog_groove *groove = catalog_find(&forest->catalog, groove_ids[i]);
        trace.grooves[i].object_count = groove->object_count;
        for (uint32_t k = 0; k < groove->tree_count; k++) {
            const struct table_memory *table = &groove->trees[k]->mutable_table;
            trace.grooves[i].trees[k].values = table->value_count;
            trace.grooves[i].trees[k].tombstones = table->tombstone_count;
            trace.grooves[i].trees[k].runs = table->run_count;
        }
    }
    return trace;
}

Test(chain, wherever_a_chain_fails_it_leaves_no_trace, .init = setup_open, .fini = teardown)
{
    /* 20 is everywhere, with value 20. */
    for (uint32_t groove = 0; groove < GROOVE_COUNT; groove++) {
        event(groove, EVENT_TYPE_INSERT, 0, 20, 20);
    }
    send();
    check_all();
    for (uint32_t way = 0; way < WAY_COUNT; way++) {
        for (uint32_t failing = 0; failing <= CHAIN_LENGTH; failing++) {
            const struct trace before = trace_of();
            const struct state state = model;
            const uint64_t op = fixture.forest->op;
            for (uint32_t i = 0; i <= CHAIN_LENGTH; i++) {
                const uint8_t flags = i < CHAIN_LENGTH && way % 2 == 0 ? LINKED : 0;
                if (i == failing) {
                    put_failing(way, flags);
                } else {
                    put_good(i < failing ? i : i - 1, flags);
                }
            }
            send_as(way % 2 == 1);
            cr_assert(eq(u32, fixture.outcome.failure_count, CHAIN_LENGTH + 1));
            for (uint32_t i = 0; i <= CHAIN_LENGTH; i++) {
                cr_assert(eq(u32, fixture.failures[i].event_index, i));
                cr_assert(eq(int, fixture.failures[i].result == EVENT_RESULT_LINKED, i != failing));
            }
            cr_assert(eq(int, memcmp(&state, &model, sizeof state), 0));
            const struct trace after = trace_of();
            if (fixture.forest->op == op) { /* The journal ends bars, too. */
                cr_assert(eq(int, memcmp(&after, &before, sizeof after), 0));
            }
        }
        check_all();
    }
    /* Without the failure it is a good chain. */
    for (uint32_t i = 0; i < CHAIN_LENGTH; i++) {
        put_good(i, i + 1 < CHAIN_LENGTH ? LINKED : 0);
    }
    send();
    cr_assert(eq(u32, fixture.outcome.failure_count, 0));
    check_all();
    fixture_crash(&fixture, 4);
    fixture_open(&fixture, 0, false);
    check_all();
}

/* As many events as a request may have, and the last one fails. */
Test(chain, the_longest_chain_is_undone, .init = setup_open, .fini = teardown)
{
    const uint32_t event_max = fixture.geometry.batch_event_max;
    cr_assert(event_max <= EVENT_MAX + 4);
    for (uint32_t i = 0; i + 1 < event_max; i++) { /* The two go on for ever. */
        event(0, i % 2 == 0 ? EVENT_TYPE_UPSERT : EVENT_TYPE_REMOVE, LINKED, 5 + i % 4 / 2, 5);
    }
    event(0, EVENT_TYPE_UPDATE, 0, 9, 5);
    send();
    cr_assert(eq(u32, fixture.outcome.failure_count, event_max));
    cr_assert(eq(int, result_of(event_max - 1), EVENT_RESULT_NOT_FOUND));
    check_all();
    event(0, EVENT_TYPE_INSERT, 0, 9, 5);
    send();
    cr_assert(eq(u32, fixture.outcome.failure_count, 0));
    check_all();
}

/* ---- Random requests ---------------------------------------------------------------------------
 */

static void random_object(struct fixture_object *object, uint32_t key)
{
    *object = object_of(key, prng_below(&prng, A_COUNT), (uint32_t)prng_below(&prng, B_COUNT),
                        (uint32_t)prng_below(&prng, C_COUNT));
    object->note[0] = (char)('a' + prng_below(&prng, 3));
    switch (prng_below(&prng, 60)) {
    case 0:
        memset(object->id, 0, sizeof object->id);
        break;
    case 1:
        object->version = 1;
        break;
    case 2:
        object->note[0] = 0;
        object->note[1] = 'x';
        break;
    default:
        break;
    }
}

/* Mostly one that the event could succeed with. */
static uint8_t random_guard(uint8_t type)
{
    if (type != EVENT_TYPE_CHECK && prng_chance(&prng, 1, 2)) {
        return EVENT_GUARD_NONE;
    }
    const uint8_t guard = (uint8_t)prng_range(&prng, EVENT_GUARD_ABSENT, EVENT_GUARD_VERSION);
    if (prng_chance(&prng, 1, 10)) {
        return guard;
    }
    return type == EVENT_TYPE_INSERT                                 ? EVENT_GUARD_ABSENT
           : guard == EVENT_GUARD_ABSENT && type != EVENT_TYPE_CHECK ? EVENT_GUARD_VERSION
                                                                     : guard;
}

/* A section of a few events, each of which would mostly succeed if all did so far: `hope` is what
 * there would be then, and `timestamp` what the next event would get. */
static uint32_t random_section(struct state *hope, uint64_t timestamp, uint32_t count_max,
                               bool linked)
{
    const uint32_t groove = (uint32_t)prng_below(&prng, GROOVE_COUNT);
    const uint8_t type = (uint8_t)prng_range(&prng, EVENT_TYPE_INSERT, EVENT_TYPE_CHECK);
    const uint8_t guard = random_guard(type);
    const uint32_t count = (uint32_t)prng_range(&prng, 1, count_max);
    const uint64_t range = prng_chance(&prng, 1, 4) ? 4 : KEY_COUNT; /* The same ids again. */
    begin_section(groove, type, linked ? LINKED : 0, guard);
    for (uint32_t i = 0; i < count; i++) {
        struct model_event tried = {.groove = groove, .type = type, .guard = guard};
        enum event_result result = EVENT_RESULT_GUARD;
        for (uint32_t attempt = 0; attempt < 12 && result != EVENT_RESULT_OK; attempt++) {
            const uint32_t key = (uint32_t)prng_below(&prng, range);
            const struct row *row = &hope->rows[groove][key];
            random_object(&tried.object, key);
            tried.version = row->exists ? row->object.version : timestamp - 1;
            result = model_apply(hope, &tried, timestamp + i);
            if (prng_chance(&prng, 1, 30)) {
                break;
            }
        }
        if (result == EVENT_RESULT_OK && prng_chance(&prng, 1, 40)) {
            tried.version -= 1;
        }
        put_event(tried.version, &tried.object);
    }
    return count;
}

/* Queues one request. */
static void submit_random(void)
{
    static struct state hope;
    hope = model;
    const uint64_t timestamp =
        max_u64(fixture.now_ns + 1000, fixture.forest->timestamp + 1); /* If it comes next. */
    const uint32_t sections = (uint32_t)prng_range(&prng, 1, 6);
    uint32_t count = 0;
    for (uint32_t i = 0; i < sections; i++) {
        const bool linked = i + 1 < sections && prng_chance(&prng, 1, 2);
        count += random_section(&hope, timestamp + count, i % 3 == 0 ? 6 : 3, linked);
    }
    cr_assert(count <= EVENT_MAX);
    submit(prng_chance(&prng, 1, 6));
}

static void on_problem(void *context, const char *text)
{
    (void)context;
    cr_fail("%s", text);
}

static void finish(void)
{
    fixture_close(&fixture);
    struct verify_report report;
    cr_assert(eq(int, forest_verify(&fixture.sim.io, on_problem, NULL, NULL, &report), STATUS_OK));
    cr_assert(report.values_checked > 0);
    fixture_deinit(&fixture);
}

static void run_random(uint64_t seed, uint32_t worker_count, bool threads, uint32_t rounds)
{
    prng_init(&prng, seed);
    setup();
    fixture.on_outcome = on_outcome;
    fixture_open(&fixture, worker_count, threads);
    create();
    for (uint32_t round = 0; round < rounds; round++) {
        for (uint32_t i = 0; i < 150; i++) { /* A few at once: they share batches as they fit. */
            const uint64_t requests = prng_chance(&prng, 1, 3) ? prng_range(&prng, 2, 5) : 1;
            for (uint64_t k = 0; k < requests; k++) {
                submit_random();
            }
            fixture_settle(&fixture);
            cr_assert(eq(u32, pending_count, 0));
            if (i % 50 == 0) {
                check_all();
            }
        }
        check_all();
        if (round % 2 == 0) {
            fixture_close(&fixture);
        } else {
            fixture_crash(&fixture, prng_next(&prng));
        }
        fixture_open(&fixture, worker_count, threads);
        check_all();
    }
    struct forest_stats stats;
    forest_stats(fixture.forest, &stats);
    cr_assert(stats.superblock_sequence > 3, "checkpoints: %lu",
              (unsigned long)stats.superblock_sequence);
    finish();
    cr_assert(chains_done > 60 * rounds, "%u of %u", chains_done, chains_undone);
    cr_assert(chains_undone > 50 * rounds, "%u, and %u done", chains_undone, chains_done);
    for (uint32_t i = EVENT_RESULT_OK; i <= EVENT_RESULT_LINKED; i++) {
        cr_assert(i == EVENT_RESULT_CORRUPT || results[i] > 0, "result %u", i);
    }
}

Test(chain, random_requests_agree_with_the_model)
{
    for (uint64_t seed = 0; seed < 3; seed++) {
        chains_done = 0;
        chains_undone = 0;
        run_random(seed, 0, false, 4);
    }
}

Test(chain, random_requests_agree_with_the_model_with_threads)
{
    run_random(50, 2, true, 3);
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
    prng_init(&prng, 78);
    fixture.on_checkpoint = note_checkpoint;
    fixture.on_outcome = on_outcome;
    fixture_open(&fixture, worker_count, threads);
    create();
    for (uint32_t i = 1; i <= 500; i++) {
        submit_random();
        fixture_settle(&fixture);
        if (crash_every > 0 && i % crash_every == 0) {
            fixture_crash(&fixture, i);
            fixture_open(&fixture, worker_count, threads);
        }
    }
    check_all();
    fixture_close(&fixture);
    fixture_deinit(&fixture);
    to->digest = digest;
}

Test(chain, results_and_checkpoints_follow_from_the_journal)
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

/* ---- Contracts ---------------------------------------------------------------------------------
 */

Test(chain, more_events_than_a_request_has_is_a_bug, .signal = SIGABRT)
{
    const struct geometry geometry = geometry_tiny();
    static struct chain chain;
    static struct catalog_groove groove;
    struct groove_entry entry = {0};
    struct groove_write write = {.groove = &groove};
    cr_assert(eq(int, chain_init(&chain, &geometry), STATUS_OK));
    chain_begin(&chain);
    for (uint32_t i = 0; i <= geometry.batch_event_max; i++) {
        chain_note(&chain, 0, &write, &entry);
    }
}
