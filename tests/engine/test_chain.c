/* Goal: a guard lets an event through exactly when it holds, and the events of a chain happen all
 * or not at all: in objects, ids, indexes, owners of unique values, counts and pacing.
 * Method: chain_fixture.h; each rule as a case of its own; a chain that fails at each of its places
 * in each way there is. Random requests are test_chain_random.c's. */
#include "engine/chain.h"

#include <signal.h>

#include "tests/engine/chain_fixture.h"

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

/* ---- Asking ---- */

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
