/* Goal: the table finds the sessions that were opened and nothing else, keeps what each lane was
 * given over everything that moves it, chooses whom to evict by idleness, encodes to the same bytes
 * whatever the order of its history, and refuses bytes that are not such an encoding.
 * Method: random histories against an unsorted list that is searched from end to end; encode,
 * decode, encode again; every cut, and every byte changed in turn: either refused, or the encoding
 * of another table; and each field made impossible, one by one. */
#include "engine/session.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "pool/base.h"
#include "pool/memory.h"
#include "tests/harness/prng.h"

enum { ID_COUNT = 300, STEPS = 600 };
enum { NOW = 1u << 20 }; /* commits and timestamps of all tables here are at most this */

static struct geometry geometry;
static struct session_table table, copy;
static uint8_t *bytes, *again; /* [size_max] */
static uint64_t size_max;
static char reason[256];

static void init(void)
{
    geometry = geometry_tiny();
    cr_assert(eq(int, session_table_init(&table, &geometry), STATUS_OK));
    cr_assert(eq(int, session_table_init(&copy, &geometry), STATUS_OK));
    size_max = session_encoded_size_max(&geometry);
    bytes = memory_acquire(size_max);
    again = memory_acquire(size_max);
    cr_assert(bytes != NULL && again != NULL);
}

static void fini(void)
{
    memory_release(bytes, size_max);
    memory_release(again, size_max);
    session_table_deinit(&copy);
    session_table_deinit(&table);
}

TestSuite(session, .init = init, .fini = fini, .timeout = 60);

/* ---- The model ---------------------------------------------------------------------------------
 */

struct model_session {
    bool open;
    uint32_t uid, lane_count;
    uint64_t timestamp;
    struct session_lane lanes[SESSION_LANE_MAX];
};

static struct model_session model[ID_COUNT]; /* by the number that ids are made of */
static uint32_t model_sessions, model_lanes;
static uint64_t model_time;

static void client_id(uint8_t id[CLIENT_ID_SIZE], uint64_t number)
{
    struct prng prng;
    prng_init(&prng, number);
    prng_fill(&prng, id, CLIENT_ID_SIZE);
}

static void model_reset(void)
{
    memset(model, 0, sizeof model);
    model_sessions = 0;
    model_lanes = 0;
    model_time = 1;
    session_table_reset(&table);
}

static bool open_one(uint64_t number, uint32_t lane_count)
{
    uint8_t id[CLIENT_ID_SIZE];
    client_id(id, number);
    const bool room = model_sessions < geometry.block_size / 32 &&
                      model_lanes + lane_count <= geometry.block_size / 16;
    cr_assert(eq(int, session_table_has_room(&table, lane_count), room));
    if (!room) {
        return false;
    }
    model_time += 1;
    model[number] = (struct model_session){.open = true,
                                           .uid = (uint32_t)number * 7,
                                           .lane_count = lane_count,
                                           .timestamp = model_time};
    model_sessions += 1;
    model_lanes += lane_count;
    session_open(&table, id, model[number].uid, lane_count, model_time, model_time);
    return true;
}

static void close_one(uint64_t number)
{
    uint8_t id[CLIENT_ID_SIZE];
    client_id(id, number);
    struct session *session = session_find(&table, id);
    cr_assert(session != NULL);
    session_close(&table, session);
    model[number].open = false;
    model_sessions -= 1;
    model_lanes -= model[number].lane_count;
}

/* What a request could have left. */
static void random_lane(struct session_lane *lane, uint64_t number, uint64_t time,
                        struct prng *prng)
{
    static const uint8_t kinds[] = {REQUEST_KIND_WRITE, REQUEST_KIND_WRITE,
                                    REQUEST_KIND_GROOVE_CREATE, REQUEST_KIND_GROOVE_DROP};
    memset(lane, 0, sizeof *lane);
    lane->last.number = number;
    lane->last.commit = time;
    lane->last.timestamp = time;
    lane->last.kind = kinds[prng_below(prng, array_count(kinds))];
    if (lane->last.kind == REQUEST_KIND_GROOVE_CREATE) {
        lane->last.groove_id = (uint32_t)prng_range(prng, 1, 1000);
        lane->last.object_size = (uint32_t)prng_range(prng, OBJECT_SIZE_MIN, OBJECT_SIZE_MAX);
    }
    if (lane->last.kind == REQUEST_KIND_WRITE) {
        lane->last.failure_total = (uint32_t)prng_below(prng, 2 * SESSION_FAILURE_MAX);
        lane->last.failure_count = (uint8_t)min_u64(lane->last.failure_total, SESSION_FAILURE_MAX);
        for (uint32_t i = 0; i < lane->last.failure_count; i++) {
            lane->failures[i].event_index = 2 * i + (uint32_t)prng_below(prng, 2);
            lane->failures[i].result = (uint32_t)prng_range(prng, 1, EVENT_RESULT_MAX);
        }
    }
}

static void execute_one(uint64_t number, struct prng *prng)
{
    uint8_t id[CLIENT_ID_SIZE];
    client_id(id, number);
    struct session *session = session_find(&table, id);
    cr_assert(session != NULL);
    const uint32_t lane = (uint32_t)prng_below(prng, session->lane_count);
    struct session_lane *ours = session_lane(&table, session, lane);
    model_time += 1;
    random_lane(ours, ours->last.number + prng_range(prng, 1, 3), model_time, prng);
    session->timestamp = model_time;
    model[number].lanes[lane] = *ours;
    model[number].timestamp = model_time;
}

static void check_all(void)
{
    cr_assert(eq(u32, table.session_count, model_sessions));
    cr_assert(eq(u32, table.lane_count, model_lanes));
    for (uint64_t number = 0; number < ID_COUNT; number++) {
        uint8_t id[CLIENT_ID_SIZE];
        client_id(id, number);
        const struct session *session = session_find(&table, id);
        cr_assert(eq(int, session != NULL, model[number].open));
        if (session == NULL) {
            continue;
        }
        cr_assert(eq(int, memcmp(session->client_id, id, sizeof id), 0));
        cr_assert(eq(u32, session->uid, model[number].uid));
        cr_assert(eq(u32, session->lane_count, model[number].lane_count));
        cr_assert(eq(u64, session->timestamp, model[number].timestamp));
        for (uint32_t lane = 0; lane < session->lane_count; lane++) {
            cr_assert(eq(int,
                         memcmp(session_lane(&table, session, lane), &model[number].lanes[lane],
                                sizeof(struct session_lane)),
                         0));
        }
    }
}

static bool decodes(const uint8_t *encoded, uint64_t size)
{
    session_table_reset(&copy);
    reason[0] = '\0';
    /* At the very end of memory, so that a sanitizer sees the first byte read behind it. */
    uint8_t *exact = malloc(size > 0 ? size : 1);
    memcpy(exact, encoded, size);
    const enum status status =
        session_table_decode(&copy, exact, size, NOW, NOW, reason, sizeof reason);
    free(exact);
    if (status != STATUS_OK) {
        cr_assert(eq(int, status, STATUS_CORRUPT));
        cr_assert(reason[0] != '\0');
        return false;
    }
    cr_assert(eq(u64, session_table_encode(&copy, again), size));
    cr_assert(eq(int, memcmp(again, encoded, size), 0), "what was accepted is another's encoding");
    return true;
}

/* ---- Tests -------------------------------------------------------------------------------------
 */

Test(session, random_histories_agree_with_the_model_and_survive_encoding)
{
    for (uint64_t seed = 0; seed < 8; seed++) {
        struct prng prng;
        prng_init(&prng, seed);
        model_reset();
        for (int step = 0; step < STEPS; step++) {
            const uint64_t number = prng_below(&prng, ID_COUNT);
            if (!model[number].open) {
                (void)open_one(number, prng_chance(&prng, 1, 8)
                                           ? (uint32_t)prng_range(&prng, 1, SESSION_LANE_MAX)
                                           : 1);
            } else if (prng_chance(&prng, 1, 3)) {
                close_one(number);
            } else {
                execute_one(number, &prng);
            }
            if (step % 20 == 0) {
                check_all();
                const uint64_t size = session_table_encode(&table, bytes);
                cr_assert(size <= session_encoded_size_bound(&table));
                cr_assert(session_encoded_size_bound(&table) <= size_max);
                cr_assert(decodes(bytes, size), "%s", reason);
                cr_assert(eq(u32, copy.session_count, model_sessions));
            }
        }
    }
}

Test(session, a_table_filled_to_its_limits_fits_what_is_reckoned_for_it)
{
    struct prng prng;
    prng_init(&prng, 1);
    model_reset();
    for (uint64_t number = 0; open_one(number, number < 2 ? SESSION_LANE_MAX : 1); number++) {
        uint8_t id[CLIENT_ID_SIZE];
        client_id(id, number);
        struct session *session = session_find(&table, id);
        for (uint32_t lane = 0; lane < session->lane_count; lane++) {
            struct session_lane *ours = session_lane(&table, session, lane);
            do {
                random_lane(ours, 1, session->timestamp, &prng);
            } while (ours->last.failure_count < SESSION_FAILURE_MAX);
        }
    }
    cr_assert(table.session_count == table.session_max || table.lane_count == table.lane_max);
    const uint64_t size = session_table_encode(&table, bytes);
    cr_assert(eq(u64, size, session_encoded_size_bound(&table)));
    cr_assert(size <= size_max);
    cr_assert(decodes(bytes, size), "%s", reason);
    uint64_t sum = 8;
    for (uint32_t i = 0; i < table.session_count; i++) {
        sum += session_encoded_size_of(table.sessions[i].lane_count);
    }
    cr_assert(eq(u64, sum, size));
}

Test(session, the_same_sessions_encode_to_the_same_bytes_whatever_came_before)
{
    struct prng prng;
    for (uint64_t seed = 0; seed < 20; seed++) {
        uint64_t size[2];
        for (int turn = 0; turn < 2; turn++) {
            model_reset();
            prng_init(&prng, seed);
            for (uint64_t i = 0; i < 30; i++) { /* Forwards and backwards, with others between. */
                const uint64_t number = turn == 0 ? i : 29 - i;
                uint8_t id[CLIENT_ID_SIZE];
                client_id(id, number);
                session_open(&table, id, 5, 1 + (uint32_t)(number % 3), 100 + number, turn == 0);
                if (turn == 1) {
                    client_id(id, 1000 + i);
                    session_open(&table, id, 6, 2, 7, 7);
                }
            }
            for (uint64_t i = 0; turn == 1 && i < 30; i++) {
                uint8_t id[CLIENT_ID_SIZE];
                client_id(id, 1000 + i);
                session_close(&table, session_find(&table, id));
            }
            size[turn] = session_table_encode(&table, turn == 0 ? bytes : again);
        }
        cr_assert(eq(u64, size[0], size[1]));
        cr_assert(eq(int, memcmp(bytes, again, size[0]), 0));
    }
}

Test(session, the_idlest_is_evicted_and_only_if_it_helps)
{
    struct prng prng;
    for (uint64_t seed = 0; seed < 200; seed++) {
        prng_init(&prng, seed);
        model_reset();
        const uint64_t count = prng_range(&prng, 1, 140);
        for (uint64_t number = 0; number < count; number++) {
            (void)open_one(number, (uint32_t)prng_range(&prng, 1, 4));
        }
        for (int i = 0; i < 100; i++) {
            const uint64_t number = prng_below(&prng, count);
            if (model[number].open) {
                execute_one(number, &prng);
            }
        }
        for (uint64_t number = 0; number < count; number++) {
            if (model[number].open && prng_chance(&prng, 1, 10)) {
                uint8_t id[CLIENT_ID_SIZE];
                client_id(id, number);
                session_lane(&table, session_find(&table, id), 0)->under_way = 9;
                model[number].lanes[0].under_way = 9;
            }
        }
        const uint64_t limit = prng_below(&prng, model_time + 2);
        const uint32_t lane_count = (uint32_t)prng_range(&prng, 1, SESSION_LANE_MAX);
        uint64_t idlest = ID_COUNT;
        uint32_t sessions_left = model_sessions, lanes_left = model_lanes;
        for (uint64_t number = 0; number < count; number++) {
            if (!model[number].open || model[number].timestamp > limit ||
                model[number].lanes[0].under_way != 0) {
                continue;
            }
            sessions_left -= 1;
            lanes_left -= model[number].lane_count;
            if (idlest == ID_COUNT || model[number].timestamp < model[idlest].timestamp) {
                idlest = number;
            }
        }
        const bool helps = idlest < ID_COUNT && sessions_left < table.session_max &&
                           lanes_left + lane_count <= table.lane_max;
        const struct session *found = session_to_evict(&table, lane_count, limit);
        cr_assert(eq(int, found != NULL, helps));
        if (found != NULL) {
            cr_assert(eq(u64, found->timestamp, model[idlest].timestamp));
        }
    }
}

/* Three sessions: two lanes with failures, one that made a groove, one that has done nothing. */
static uint64_t encode_three(void)
{
    struct prng prng;
    prng_init(&prng, 11);
    session_table_reset(&table);
    for (uint8_t i = 1; i <= 3; i++) {
        const uint8_t id[CLIENT_ID_SIZE] = {i};
        session_open(&table, id, 1000 + i, i == 1 ? 2 : 1, 40, 40);
        struct session_lane *lane = session_lane(&table, session_find(&table, id), 0);
        do {
            random_lane(lane, 6, 30, &prng);
        } while (i == 1 ? lane->last.failure_count < 4 ||
                              lane->last.failure_count == SESSION_FAILURE_MAX
                        : lane->last.kind != REQUEST_KIND_GROOVE_CREATE);
        if (i == 3) {
            memset(lane, 0, sizeof *lane);
        }
    }
    return session_table_encode(&table, bytes);
}

Test(session, every_cut_and_every_byte_more_is_refused)
{
    const uint64_t size = encode_three();
    cr_assert(decodes(bytes, size), "%s", reason);
    for (uint64_t cut = 0; cut < size; cut++) {
        cr_assert(not(decodes(bytes, cut)), "%lu of %lu bytes", (unsigned long)cut,
                  (unsigned long)size);
    }
    memset(bytes + size, 0, 64);
    for (uint64_t more = 1; more <= 64; more++) {
        cr_assert(not(decodes(bytes, size + more)));
    }
}

Test(session, every_changed_byte_is_refused_or_means_something_else)
{
    static const uint8_t masks[] = {0x01, 0x03, 0x40, 0x80, 0xff};
    const uint64_t size = encode_three();
    uint64_t refused = 0;
    for (uint64_t at = 0; at < size; at++) {
        for (size_t i = 0; i < array_count(masks); i++) {
            bytes[at] ^= masks[i];
            refused += !decodes(bytes, size);
            bytes[at] ^= masks[i];
        }
    }
    cr_assert(refused > size / 3 * array_count(masks), "%lu of %lu", (unsigned long)refused,
              (unsigned long)(size * array_count(masks)));
    cr_assert(decodes(bytes, size), "%s", reason);
}

Test(session, what_no_history_leaves_is_refused)
{
    enum { HEADER = 8, LANE = HEADER + 32 }; /* of the first session and its first lane */
    static const struct {
        const char *what;
        uint32_t at, width;
        uint64_t value;
    } cases[] = {
        {"more sessions than there can be", 0, 4, 1u << 20},
        {"one session fewer", 0, 4, 2},
        {"one lane more in all", 4, 4, 5},
        {"a client id of zero", HEADER, 1, 0},
        {"client ids out of order", HEADER, 1, 2},
        {"no lanes", HEADER + 20, 4, 0},
        {"too many lanes", HEADER + 20, 4, SESSION_LANE_MAX + 1},
        {"a time of zero", HEADER + 24, 8, 0},
        {"a time to come", HEADER + 24, 8, NOW + 1},
        {"a session older than its lane", HEADER + 24, 8, 29},
        {"a lane that did nothing, with an outcome", LANE, 8, 0},
        {"commit zero", LANE + 8, 8, 0},
        {"a commit to come", LANE + 8, 8, NOW + 1},
        {"timestamp zero", LANE + 16, 8, 0},
        {"a timestamp after the session's", LANE + 16, 8, 41},
        {"fewer failures in all than listed", LANE + 24, 4, 1},
        {"more failures than listed, and not all of those that fit", LANE + 24, 4, 1000},
        {"a write that made a groove", LANE + 28, 4, 3},
        {"a write with an object size", LANE + 32, 4, 64},
        {"a kind that no client sends", LANE + 36, 1, REQUEST_KIND_IDLE},
        {"no kind", LANE + 36, 1, 0},
        {"a drop with failures", LANE + 36, 1, REQUEST_KIND_GROOVE_DROP},
        {"a create with failures", LANE + 36, 1, REQUEST_KIND_GROOVE_CREATE},
        {"more failures than a lane has", LANE + 37, 1, SESSION_FAILURE_MAX + 1},
        {"bytes that are not zero", LANE + 38, 1, 1},
        {"bytes that are not zero", LANE + 39, 1, 1},
        {"a failure that is none", LANE + 44, 4, 0},
        {"a failure that is unknown", LANE + 44, 4, EVENT_RESULT_MAX + 1},
        {"failures out of order", LANE + 40, 4, 1000},
    };
    const uint64_t size = encode_three();
    cr_assert(decodes(bytes, size), "%s", reason);
    uint8_t good[8];
    for (size_t i = 0; i < array_count(cases); i++) {
        memcpy(good, bytes + cases[i].at, cases[i].width);
        memcpy(bytes + cases[i].at, &cases[i].value, cases[i].width);
        cr_assert(not(decodes(bytes, size)), "%s", cases[i].what);
        memcpy(bytes + cases[i].at, good, cases[i].width);
        cr_assert(decodes(bytes, size), "%s", reason);
    }
}

Test(session, opening_twice_is_a_bug, .signal = SIGABRT)
{
    const uint8_t id[CLIENT_ID_SIZE] = {1};
    session_open(&table, id, 1, 1, 1, 1);
    session_open(&table, id, 1, 1, 2, 2);
}

Test(session, closing_while_busy_is_a_bug, .signal = SIGABRT)
{
    const uint8_t id[CLIENT_ID_SIZE] = {1};
    session_open(&table, id, 1, 2, 1, 1);
    struct session *session = session_find(&table, id);
    session_lane(&table, session, 1)->under_way = 1;
    session_close(&table, session);
}
