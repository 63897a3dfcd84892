/* Goal: a numbered request takes effect once, however often it is sent and whatever happens to the
 * machine between; what a lane has executed is told when it is durable and not before, always in
 * the same words; sessions come and go only by the journal.
 * Method: random numbered requests on random lanes, several in flight, over power cuts; each makes
 * an object of its own, so what happened can be counted; after each cut a lane stands at a number
 * between the last that was answered and the last that was sent, and answers as before. Beside
 * that, each verdict by itself. Tiny geometry, so that sessions are in many checkpoints. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "pool/base.h"
#include "tests/harness/forest_fixture.h"

enum { CLIENT_COUNT = 5, LANE_COUNT = 3, FLIGHT_MAX = 6, EVENT_MAX = 45 };

static struct forest_fixture fixture;
static uint8_t body[16 * 1024];

TestSuite(forest_session, .timeout = 60);

static void setup(void)
{
    const struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
}

static void finish(void)
{
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

static struct request_session session_of(uint32_t client, uint32_t lane, uint64_t number)
{
    struct request_session session = {.number = number, .lane = lane, .uid = 500 + client};
    session.client_id[3] = (uint8_t)(client + 1);
    session.client_id[2] = (uint8_t)((client + 1) >> 8);
    return session;
}

static enum session_verdict look(const struct request_session *session,
                                 struct session_answer *answer)
{
    *answer = (struct session_answer){0};
    return forest_session_look(fixture.forest, session, answer);
}

/* An insert of `count` objects, of which the first is the only new one: the others fail. */
static uint32_t insert_body(uint64_t key, uint32_t count)
{
    static struct fixture_object objects[EVENT_MAX];
    for (uint32_t i = 0; i < count; i++) {
        objects[i] = (struct fixture_object){.a = key};
        fixture_id(objects[i].id, key);
    }
    return fixture_body(body, fixture.groove_id, EVENT_TYPE_INSERT, objects, count);
}

/* ---- One verdict after another -----------------------------------------------------------------
 */

static enum request_result insert(const struct request_session *session, uint64_t key)
{
    fixture.session = session;
    const enum request_result result =
        fixture_request(&fixture, REQUEST_KIND_WRITE, body, insert_body(key, 1));
    fixture.session = NULL;
    return result;
}

Test(forest_session, each_number_has_its_verdict)
{
    setup();
    struct session_answer answer;
    struct request_session session = session_of(0, 1, 7);
    cr_assert(eq(int, look(&session, &answer), SESSION_NONE));
    cr_assert(eq(int, fixture_session_open(&fixture, &session, 2, 1), REQUEST_RESULT_OK));
    cr_assert(eq(int, fixture.outcome.kind, REQUEST_KIND_SESSION_OPEN));
    cr_assert(eq(int, look(&session, &answer), SESSION_NEW));

    struct request_session wrong = session;
    wrong.uid += 1;
    cr_assert(eq(int, look(&wrong, &answer), SESSION_OTHER_USER));
    wrong = session_of(0, 2, 7);
    cr_assert(eq(int, look(&wrong, &answer), SESSION_BAD_LANE));
    wrong = session_of(0, 1, 0);
    cr_assert(eq(int, look(&wrong, &answer), SESSION_BAD_LANE));
    wrong = session_of(1, 1, 7);
    cr_assert(eq(int, look(&wrong, &answer), SESSION_NONE));

    cr_assert(eq(int, insert(&session, 1), REQUEST_RESULT_OK));
    const struct request_outcome first = fixture.outcome;
    cr_assert(eq(int, look(&session, &answer), SESSION_DONE));
    cr_assert(eq(u64, answer.outcome.commit, first.commit));
    cr_assert(eq(u64, answer.outcome.timestamp, first.timestamp));
    struct request_session other = session_of(0, 1, 6);
    cr_assert(eq(int, look(&other, &answer), SESSION_STALE));
    other = session_of(0, 0, 6); /* Lanes know nothing of each other. */
    cr_assert(eq(int, look(&other, &answer), SESSION_NEW));

    other = session_of(0, 1, 20);
    forest_session_refused(fixture.forest, &other, 99);
    cr_assert(eq(int, look(&other, &answer), SESSION_REFUSED));
    cr_assert(eq(u32, answer.refused_result, 99));
    other = session_of(0, 1, 19); /* Lower than what was refused: of before, whatever it is. */
    cr_assert(eq(int, look(&other, &answer), SESSION_STALE));
    forest_session_refused(fixture.forest, &other, 98); /* It had been looked at before. */
    other.number = 20;
    cr_assert(eq(int, look(&other, &answer), SESSION_REFUSED));
    cr_assert(eq(u32, answer.refused_result, 99));
    other = session_of(0, 1, 21);
    cr_assert(eq(int, look(&other, &answer), SESSION_NEW));
    cr_assert(eq(int, look(&session, &answer), SESSION_DONE));
    finish();
}

/* Ticks until the entry is being written and what it holds has executed. */
static void tick_to_execution(uint64_t commit)
{
    while (fixture.forest->commit_executed < commit) {
        cr_assert(forest_tick(fixture.forest));
    }
    cr_assert(lt(u64, fixture.forest->commit_durable, commit));
}

Test(forest_session, what_is_not_durable_is_under_way)
{
    setup();
    struct session_answer answer;
    const struct request_session session = session_of(0, 0, 4);
    const struct request_session next = session_of(0, 0, 5);
    cr_assert(eq(int, fixture_session_open(&fixture, &session, 1, 1), REQUEST_RESULT_OK));
    const uint64_t outcomes = fixture.outcome_count;
    fixture.session = &session;
    fixture_submit(&fixture, REQUEST_KIND_WRITE, body, insert_body(1, 1));
    cr_assert(eq(int, look(&session, &answer), SESSION_UNDER_WAY)); /* It gathers. */
    cr_assert(eq(ptr, answer.context, (void *)&fixture));
    cr_assert(eq(int, look(&next, &answer), SESSION_LANE_BUSY));
    tick_to_execution(fixture.forest->commit_executed + 1);
    cr_assert(eq(u64, fixture.outcome_count, outcomes));
    cr_assert(eq(int, look(&session, &answer), SESSION_UNDER_WAY)); /* It has executed. */
    cr_assert(eq(int, look(&next, &answer), SESSION_LANE_BUSY));
    struct session_info info;
    cr_assert(eq(int, forest_session_find(fixture.forest, &session, &info), SESSION_WAIT));
    fixture_settle(&fixture);
    cr_assert(eq(u64, fixture.outcome_count, outcomes + 1));
    cr_assert(eq(int, look(&session, &answer), SESSION_DONE));
    cr_assert(eq(int, look(&next, &answer), SESSION_NEW));
    cr_assert(eq(int, forest_session_find(fixture.forest, &session, &info), SESSION_DONE));
    cr_assert(eq(u32, info.lane_count, 1));
    cr_assert(eq(u64, info.numbers[0], 4));
    finish();
}

Test(forest_session, a_session_that_ended_is_missed_only_once_that_is_durable)
{
    setup();
    struct session_answer answer;
    const struct request_session session = session_of(0, 0, 4);
    cr_assert(eq(int, fixture_session_open(&fixture, &session, 1, 1), REQUEST_RESULT_OK));
    enum session_verdict verdict;
    enum request_result result;
    struct request_session stranger = session;
    stranger.uid += 1;
    cr_assert(eq(int, forest_session_close(fixture.forest, &stranger, NULL, &verdict, &result),
                 FOREST_REFUSED));
    cr_assert(eq(int, verdict, SESSION_OTHER_USER));
    cr_assert(eq(int, forest_session_close(fixture.forest, &session, &fixture, &verdict, &result),
                 FOREST_ADDED));
    cr_assert(eq(int, look(&session, &answer), SESSION_NEW)); /* It is still there. */
    tick_to_execution(fixture.forest->commit_executed + 1);
    cr_assert(eq(int, look(&session, &answer), SESSION_WAIT));
    struct session_info info;
    cr_assert(eq(int, forest_session_find(fixture.forest, &session, &info), SESSION_WAIT));
    cr_assert(eq(int, forest_session_close(fixture.forest, &session, &fixture, &verdict, &result),
                 FOREST_LATER));
    fixture_settle(&fixture);
    cr_assert(eq(int, look(&session, &answer), SESSION_NONE));
    cr_assert(eq(int, forest_session_close(fixture.forest, &session, &fixture, &verdict, &result),
                 FOREST_REFUSED));
    cr_assert(eq(int, verdict, SESSION_NONE));
    /* The same id may come again: as a session that has done nothing. */
    cr_assert(eq(int, fixture_session_open(&fixture, &session, 2, 1), REQUEST_RESULT_OK));
    cr_assert(eq(int, look(&session, &answer), SESSION_NEW));
    finish();
}

Test(forest_session, a_busy_session_is_neither_closed_nor_evicted)
{
    setup();
    const struct request_session session = session_of(0, 0, 4);
    cr_assert(eq(int, fixture_session_open(&fixture, &session, 1, 1), REQUEST_RESULT_OK));
    fixture.session = &session;
    fixture_submit(&fixture, REQUEST_KIND_WRITE, body, insert_body(1, 1));
    enum session_verdict verdict;
    enum request_result result;
    cr_assert(eq(int, forest_session_close(fixture.forest, &session, &fixture, &verdict, &result),
                 FOREST_REFUSED));
    cr_assert(eq(int, verdict, SESSION_LANE_BUSY));
    tick_to_execution(fixture.forest->commit_executed + 1);
    cr_assert(eq(int, forest_session_close(fixture.forest, &session, &fixture, &verdict, &result),
                 FOREST_REFUSED));
    cr_assert(eq(int, verdict, SESSION_LANE_BUSY));
    fixture_settle(&fixture);
    cr_assert(eq(int, fixture_session_close(&fixture, &session), REQUEST_RESULT_OK));
    finish();
}

/* Whatever the requests before them do to the table comes first. */
Test(forest_session, opening_and_closing_wait_for_what_was_admitted)
{
    setup();
    const struct request_session session = session_of(0, 0, 1);
    const struct request_session other = session_of(1, 0, 1);
    cr_assert(eq(int, fixture_session_open(&fixture, &session, 1, 1), REQUEST_RESULT_OK));
    for (uint64_t key = 1; key < 2000; key++) { /* Until ids must be looked for. */
        cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_WRITE, body, insert_body(key, 1)),
                     REQUEST_RESULT_OK));
    }
    fixture_close(&fixture);
    fixture_open(&fixture, 0, false);
    cr_assert(fixture_find(&fixture));
    const struct forest *forest = fixture.forest;
    enum session_verdict verdict;
    enum request_result result;
    const char *reason;
    fixture_submit(&fixture, REQUEST_KIND_WRITE, body, insert_body(1, 1));
    for (uint32_t i = 0; i < 2; i++) { /* It gathers, then it is prepared. */
        cr_assert(eq(int, forest->preparing != NULL, i == 1));
        cr_assert(eq(int,
                     forest_session_open(fixture.forest, &other, 1, 1, &fixture, &result, &reason),
                     FOREST_LATER));
        cr_assert(eq(int,
                     forest_session_close(fixture.forest, &session, &fixture, &verdict, &result),
                     FOREST_LATER));
        cr_assert(eq(int, verdict, SESSION_NEW));
        (void)forest_tick(fixture.forest);
    }
    fixture_settle(&fixture);
    cr_assert(eq(int, fixture_session_open(&fixture, &other, 1, 1), REQUEST_RESULT_OK));
    cr_assert(eq(int, fixture_session_close(&fixture, &session), REQUEST_RESULT_OK));
    finish();
}

Test(forest_session, a_store_that_is_read_only_neither_opens_nor_closes)
{
    const struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    fixture.cache_size = 16ull * geometry.block_size;
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    const struct request_session session = session_of(0, 0, 1);
    const struct request_session other = session_of(1, 0, 1);
    cr_assert(eq(int, fixture_session_open(&fixture, &session, 1, 1), REQUEST_RESULT_OK));
    cr_assert(eq(int, insert(&session, 1), REQUEST_RESULT_OK));
    bool damaged = false;
    for (uint64_t key = 2; !fixture.forest->read_only; key += EVENT_MAX) {
        static struct fixture_object objects[EVENT_MAX];
        for (uint32_t i = 0; i < EVENT_MAX; i++) {
            objects[i] = (struct fixture_object){.a = i};
            fixture_id(objects[i].id, key + i);
        }
        const uint32_t size =
            fixture_body(body, fixture.groove_id, EVENT_TYPE_INSERT, objects, EVENT_MAX);
        const enum request_result result =
            fixture_request(&fixture, REQUEST_KIND_WRITE, body, size);
        cr_assert(damaged || result == REQUEST_RESULT_OK);
        fixture_settle(&fixture);
        for (uint64_t at = grid_zone_offset(&geometry);
             key > 20000 && !damaged && at < fixture.sim.size; at += geometry.block_size) {
            sim_io_flip(&fixture.sim, at + 200, 1); /* Merges will meet it. */
        }
        damaged = key > 20000;
    }
    enum session_verdict verdict;
    enum request_result result;
    cr_assert(eq(int, forest_session_close(fixture.forest, &session, &fixture, &verdict, &result),
                 FOREST_REFUSED));
    cr_assert(eq(int, verdict, SESSION_NEW));
    cr_assert(eq(int, result, REQUEST_RESULT_READ_ONLY));
    cr_assert(eq(int, fixture_session_open(&fixture, &other, 1, 1), REQUEST_RESULT_READ_ONLY));
    struct session_answer answer;
    cr_assert(eq(int, look(&session, &answer), SESSION_DONE)); /* It is told all the same. */
    fixture_discard(&fixture);
    fixture_deinit(&fixture);
}

/* ---- A full table ------------------------------------------------------------------------------
 */

Test(forest_session, a_full_table_evicts_the_idlest_by_the_journal)
{
    enum { HOUR = 3600 };
    const uint64_t idle_ns = HOUR * 1000ull * 1000 * 1000;
    setup();
    struct forest_stats stats;
    forest_stats(fixture.forest, &stats);
    const uint32_t max = (uint32_t)stats.sessions_max;
    cr_assert(eq(u64, stats.session_lanes_max, 2 * stats.sessions_max));
    for (uint32_t client = 0; client + 1 < max; client++) {
        const struct request_session session = session_of(client, 0, 1);
        cr_assert(eq(int, fixture_session_open(&fixture, &session, 1, idle_ns), REQUEST_RESULT_OK));
    }
    /* Nobody is refused for one that a crash would undo. */
    const struct request_session last = session_of(max - 1, 0, 1);
    const struct request_session one_more = session_of(max, 0, 1);
    enum request_result result;
    const char *reason;
    cr_assert(eq(int,
                 forest_session_open(fixture.forest, &last, 1, idle_ns, &fixture, &result, &reason),
                 FOREST_ADDED));
    tick_to_execution(fixture.forest->commit_executed + 1);
    cr_assert(eq(
        int, forest_session_open(fixture.forest, &one_more, 1, idle_ns, &fixture, &result, &reason),
        FOREST_LATER));
    fixture_settle(&fixture);
    cr_assert(eq(int, fixture_session_open(&fixture, &one_more, 1, idle_ns), REQUEST_RESULT_LIMIT));
    const struct request_session active = session_of(0, 0, 1); /* The oldest, but not the idlest. */
    cr_assert(eq(int, insert(&active, 5), REQUEST_RESULT_OK));
    fixture.now_ns += idle_ns;
    cr_assert(
        eq(int, fixture_session_open(&fixture, &one_more, 1, 4 * idle_ns), REQUEST_RESULT_LIMIT));
    cr_assert(eq(int, fixture_session_open(&fixture, &one_more, 1, idle_ns), REQUEST_RESULT_OK));
    forest_stats(fixture.forest, &stats);
    cr_assert(eq(u64, stats.sessions_evicted_total, 1));
    cr_assert(eq(u64, stats.sessions, max));

    for (uint64_t cut = 0; cut < 2; cut++) { /* Found in the journal, then in a checkpoint. */
        fixture_crash(&fixture, cut);
        fixture_open(&fixture, 0, false);
        cr_assert(fixture_find(&fixture));
        struct session_answer answer;
        const struct request_session evicted = session_of(1, 0, 1);
        cr_assert(eq(int, look(&evicted, &answer), SESSION_NONE));
        cr_assert(eq(int, look(&active, &answer), SESSION_DONE));
        cr_assert(eq(int, look(&one_more, &answer), SESSION_NEW));
        for (uint32_t client = 2; client < max; client++) {
            const struct request_session kept = session_of(client, 0, 1);
            cr_assert(eq(int, look(&kept, &answer), SESSION_NEW));
        }
        for (uint64_t key = 100; key < 700; key++) {
            cr_assert(eq(int,
                         fixture_request(&fixture, REQUEST_KIND_WRITE, body,
                                         insert_body(1000 * cut + key, 1)),
                         REQUEST_RESULT_OK));
        }
        forest_stats(fixture.forest, &stats);
        cr_assert(stats.checkpoint_count > 2);
    }
    /* 64 lanes take 62 sessions of one lane beside the one there is room for... */
    fixture.now_ns += 2 * idle_ns;
    const struct request_session wide = session_of(max + 1, 0, 1);
    forest_stats(fixture.forest, &stats);
    cr_assert(eq(int, fixture_session_open(&fixture, &wide, SESSION_LANE_MAX, idle_ns),
                 REQUEST_RESULT_OK));
    /* ... of which only one had to go: lanes are twice as many as sessions. */
    forest_stats(fixture.forest, &stats);
    cr_assert(eq(u64, stats.sessions_evicted_total, 1));
    cr_assert(eq(u64, stats.sessions, max));
    cr_assert(eq(u64, stats.session_lanes, max - 1 + SESSION_LANE_MAX));
    finish();
}

/* ---- Anything at any time ----------------------------------------------------------------------
 */

/* A lane as its client knows it. */
struct client_lane {
    uint64_t issued;                /* highest number sent */
    uint64_t answered;              /* highest number answered */
    struct request_outcome outcome; /* of `answered`; failures below */
    struct event_failure failures[SESSION_FAILURE_MAX];
};

struct client {
    bool open;
    struct client_lane lanes[LANE_COUNT];
};

/* Requests in flight, in the order of their admission, which is that of their outcomes. */
struct flight {
    uint32_t client, lane;
    uint64_t number;
};

static struct client clients[CLIENT_COUNT];
static struct flight flights[FLIGHT_MAX];
static uint32_t flight_count;
static uint64_t
    key_base[CLIENT_COUNT]; /* of the session's objects: another for each that is opened */

static uint64_t key_of(uint32_t client, uint32_t lane, uint64_t number)
{
    return key_base[client] + lane * 100000ull + number;
}

static void on_outcome(struct forest_fixture *at, const struct request_outcome *outcome)
{
    (void)at;
    if (outcome->kind != REQUEST_KIND_WRITE) {
        return;
    }
    cr_assert(flight_count > 0);
    const struct flight flight = flights[0];
    flight_count -= 1;
    memmove(flights, flights + 1, flight_count * sizeof flights[0]);
    struct client_lane *lane = &clients[flight.client].lanes[flight.lane];
    cr_assert(eq(int, outcome->result, REQUEST_RESULT_OK));
    cr_assert(lt(u64, lane->answered, flight.number));
    lane->answered = flight.number;
    lane->outcome = *outcome;
    cr_assert(outcome->failure_count <= SESSION_FAILURE_MAX);
    memcpy(lane->failures, outcome->failures, outcome->failure_count * sizeof lane->failures[0]);
}

/* The lane tells what its client was told. */
static void expect_same(uint32_t client, uint32_t lane, const struct session_answer *answer)
{
    const struct client_lane *ours = &clients[client].lanes[lane];
    cr_assert(eq(int, answer->outcome.kind, ours->outcome.kind));
    cr_assert(eq(u64, answer->outcome.commit, ours->outcome.commit));
    cr_assert(eq(u64, answer->outcome.timestamp, ours->outcome.timestamp));
    cr_assert(eq(u32, answer->outcome.failure_count, ours->outcome.failure_count));
    cr_assert(eq(u32, answer->outcome.failure_total, ours->outcome.failure_total));
    cr_assert(eq(int,
                 memcmp(answer->outcome.failures, ours->failures,
                        ours->outcome.failure_count * sizeof ours->failures[0]),
                 0));
}

static void send(uint32_t client, uint32_t lane, uint64_t number)
{
    const struct request_session session = session_of(client, lane, number);
    struct session_answer answer;
    switch (look(&session, &answer)) {
    case SESSION_NEW:
        break;
    case SESSION_DONE:
        cr_assert(ge(u64, number, clients[client].lanes[lane].answered));
        if (number == clients[client].lanes[lane].answered) {
            expect_same(client, lane, &answer);
        } else { /* Nobody was told: it was in flight when the power went. */
            struct client_lane *ours = &clients[client].lanes[lane];
            ours->answered = number;
            ours->outcome = answer.outcome;
            memcpy(ours->failures, answer.outcome.failures,
                   answer.outcome.failure_count * sizeof ours->failures[0]);
        }
        return;
    case SESSION_UNDER_WAY:
    case SESSION_LANE_BUSY:
        return;
    default:
        cr_assert(false, "client %u lane %u number %lu", client, lane, (unsigned long)number);
    }
    const uint32_t count = 1 + (uint32_t)(number * 13 % EVENT_MAX);
    flights[flight_count] = (struct flight){client, lane, number};
    flight_count += 1;
    clients[client].lanes[lane].issued = number;
    fixture.session = &session;
    fixture_submit(&fixture, REQUEST_KIND_WRITE, body,
                   insert_body(key_of(client, lane, number), count));
    fixture.session = NULL;
}

/* After a power cut each lane stands where its client can have brought it. */
static void check_lanes(void)
{
    for (uint32_t client = 0; client < CLIENT_COUNT; client++) {
        const struct request_session session = session_of(client, 0, 1);
        struct session_info info;
        const enum session_verdict verdict = forest_session_find(fixture.forest, &session, &info);
        cr_assert(eq(int, verdict, clients[client].open ? SESSION_DONE : SESSION_NONE));
        for (uint32_t lane = 0; clients[client].open && lane < LANE_COUNT; lane++) {
            struct client_lane *ours = &clients[client].lanes[lane];
            cr_assert(info.numbers[lane] == ours->answered || info.numbers[lane] == ours->issued);
            for (uint64_t number = 1; number <= ours->issued; number++) {
                uint8_t id[16];
                struct fixture_object object;
                fixture_id(id, key_of(client, lane, number));
                const bool there = fixture_lookup(&fixture, id, 1, &object, 1) == 1;
                /* Each number was sent until it was executed, before the next was used. */
                cr_assert(eq(int, there, number <= info.numbers[lane]), "lane %u number %lu of %lu",
                          lane, (unsigned long)number, (unsigned long)info.numbers[lane]);
            }
            if (ours->issued > 0) { /* Once more, if it was not answered; else just to ask. */
                send(client, lane, ours->issued);
            }
        }
    }
}

static void open_client(uint32_t client)
{
    static uint64_t opened;
    const struct request_session session = session_of(client, 0, 1);
    fixture_settle(&fixture);
    cr_assert(eq(int, fixture_session_open(&fixture, &session, LANE_COUNT, 1), REQUEST_RESULT_OK));
    opened += 1;
    clients[client] = (struct client){.open = true};
    key_base[client] = opened * 1000000;
}

static void random_life(uint64_t seed, uint32_t worker_count, bool threads)
{
    struct prng prng;
    prng_init(&prng, seed);
    memset(clients, 0, sizeof clients);
    flight_count = 0;
    struct geometry geometry = geometry_tiny();
    geometry.bar_journal_size = 64 * 1024; /* Many bars, each with a checkpoint. */
    geometry.checkpoint_journal_size = 64 * 1024;
    fixture_init(&fixture, &geometry);
    fixture_open(&fixture, worker_count, threads);
    fixture.on_outcome = on_outcome;
    fixture_create(&fixture);
    for (uint32_t step = 0; step < 900; step++) {
        const uint32_t client = (uint32_t)prng_below(&prng, CLIENT_COUNT);
        const uint32_t lane = (uint32_t)prng_below(&prng, LANE_COUNT);
        if (!clients[client].open) {
            open_client(client);
        } else if (prng_chance(&prng, 1, 120)) {
            fixture_settle(&fixture);
            const struct request_session session = session_of(client, 0, 1);
            cr_assert(eq(int, fixture_session_close(&fixture, &session), REQUEST_RESULT_OK));
            clients[client].open = false;
        } else {
            const struct client_lane *ours = &clients[client].lanes[lane];
            const bool again = ours->issued > 0 && prng_chance(&prng, 1, 4);
            if (flight_count == FLIGHT_MAX) {
                fixture_settle(&fixture);
            }
            /* A new number only when the one before was answered. */
            send(client, lane,
                 again || ours->answered < ours->issued ? ours->issued : ours->issued + 1);
        }
        if (prng_chance(&prng, 1, 3)) {
            (void)forest_tick(fixture.forest);
        }
        if (prng_chance(&prng, 1, 60)) {
            fixture_crash(&fixture, prng_next(&prng));
            flight_count = 0;
            fixture_open(&fixture, worker_count, threads);
            cr_assert(fixture_find(&fixture));
            check_lanes();
        }
    }
    fixture_settle(&fixture);
    struct forest_stats stats;
    forest_stats(fixture.forest, &stats);
    cr_assert(stats.checkpoint_op > 10 * geometry.bar_beats);
    check_lanes();
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

Test(forest_session, lanes_survive_power_cuts_inline)
{
    for (uint64_t seed = 0; seed < 4; seed++) {
        random_life(seed, 0, false);
    }
}

Test(forest_session, lanes_survive_power_cuts_with_threads)
{
    random_life(100, 2, true);
}
