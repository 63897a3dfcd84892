/* Guards and chains for tests: three grooves, with and without unique indexes, a request that is
 * put together event by event, and a model. The model reads the request's bytes a second time,
 * applies each chain to a copy of everything and throws the copy away when an event fails. All
 * results must be the model's, and all that can be read. */
#pragma once

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "engine/object.h"
#include "pool/base.h"
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

enum { LINKED = EVENT_SECTION_FLAG_LINKED };

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
