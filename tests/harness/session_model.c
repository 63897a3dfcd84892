#include "tests/harness/session_model.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "pool/base.h"

uint32_t model_lane_count(uint32_t client)
{
    static_assert(MODEL_CLIENT_WIDE + 4 < MODEL_CLIENT_MAX, "more than the table of 4 KiB holds");
    return client < MODEL_CLIENT_WIDE ? client + 1 : SESSION_LANE_MAX;
}

struct request_session model_sign(uint32_t client, uint32_t lane, uint64_t number)
{
    struct request_session session = {.number = number, .lane = lane, .uid = 500 + client};
    /* Not in the order in which they are numbered. */
    session.client_id[0] = (uint8_t)(client * 89 + 1);
    session.client_id[15] = (uint8_t)client;
    return session;
}

/* ---- History -----------------------------------------------------------------------------------
 */

const struct model_entry *model_session(const struct model *model, uint32_t client, uint64_t commit)
{
    assert(client < MODEL_CLIENT_MAX);
    const struct model_entry *session = model_at(model, model->session_heads[client], commit);
    return session != NULL && session->exists ? session : NULL;
}

const struct model_entry *model_lane(const struct model *model, uint32_t client, uint32_t lane,
                                     uint64_t commit)
{
    assert(lane < SESSION_LANE_MAX);
    const struct model_entry *session = model_session(model, client, commit);
    const struct model_entry *last = model_at(model, model->lane_heads[client][lane], commit);
    /* A session that was closed and opened again remembers nothing. */
    return session != NULL && last != NULL && last->commit > session->commit ? last : NULL;
}

void model_session_set(struct model *model, uint32_t client, uint64_t commit, bool exists)
{
    struct model_entry *session =
        model_add(model, &model->session_heads[client], MODEL_SESSION, commit);
    session->exists = exists;
    session->lane_count = model_lane_count(client);
}

void model_lane_set(struct model *model, uint32_t client, uint32_t lane, uint64_t commit,
                    const struct model_lane *last)
{
    assert(model_session(model, client, commit) != NULL && lane < model_lane_count(client));
    model_add(model, &model->lane_heads[client][lane], MODEL_LANE, commit)->lane = *last;
}

/* Of the last request that the session executed, its opening included. */
static uint64_t timestamp_of(const struct model *model, uint32_t client, uint64_t commit)
{
    const struct model_entry *session = model_session(model, client, commit);
    uint64_t timestamp = session->timestamp;
    for (uint32_t lane = 0; lane < session->lane_count; lane++) {
        const struct model_entry *last = model_lane(model, client, lane, commit);
        timestamp = max_u64(timestamp, last == NULL ? 0 : last->timestamp);
    }
    return timestamp;
}

uint32_t model_session_to_evict(const struct model *model, uint32_t lane_count, uint32_t lane_max)
{
    uint32_t idlest = MODEL_CLIENT_MAX;
    uint32_t lanes = lane_count;
    for (uint32_t client = 0; client < MODEL_CLIENT_MAX; client++) {
        if (model_session(model, client, UINT64_MAX) == NULL) {
            continue;
        }
        lanes += model_lane_count(client);
        if (idlest == MODEL_CLIENT_MAX ||
            timestamp_of(model, client, UINT64_MAX) < timestamp_of(model, idlest, UINT64_MAX)) {
            idlest = client;
        }
    }
    return lanes <= lane_max ? MODEL_CLIENT_MAX : idlest;
}

/* ---- Comparing ---------------------------------------------------------------------------------
 */

struct look {
    const struct model *model;
    uint64_t commit;
    struct forest *forest;
    char *reason;
    size_t reason_size;
    uint32_t client, lane;
};

static bool same(struct look *look, const char *what, uint64_t actual, uint64_t expected)
{
    if (actual != expected) {
        snprintf(look->reason, look->reason_size,
                 "commit %llu, client %u, lane %u: %s: %llu, not %llu",
                 (unsigned long long)look->commit, look->client, look->lane, what,
                 (unsigned long long)actual, (unsigned long long)expected);
    }
    return actual == expected;
}

static bool verdict_is(struct look *look, uint64_t number, enum session_verdict expected,
                       struct session_answer *answer)
{
    const struct request_session session = model_sign(look->client, look->lane, number);
    return same(look, "the verdict", forest_session_look(look->forest, &session, answer), expected);
}

/* A repetition of the last number is answered as it was the first time. */
static bool compare_answer(struct look *look, const struct model_entry *last)
{
    struct session_answer answer = {0};
    const struct model_lane *lane = &last->lane;
    const struct request_outcome *outcome = &answer.outcome;
    return verdict_is(look, lane->number, SESSION_DONE, &answer) &&
           same(look, "the kind", outcome->kind, lane->kind) &&
           same(look, "the result", outcome->result, REQUEST_RESULT_OK) &&
           same(look, "the commit", outcome->commit, last->commit) &&
           same(look, "the timestamp", outcome->timestamp, last->timestamp) &&
           same(look, "the groove", outcome->groove_id, lane->groove_id) &&
           same(look, "the object's size", outcome->object_size, lane->object_size) &&
           same(look, "failures", outcome->failure_total, lane->failure_count) &&
           same(look, "failures listed", outcome->failure_count, lane->failure_count) &&
           same(look, "the failures differ",
                memcmp(outcome->failures, lane->failures,
                       lane->failure_count * sizeof lane->failures[0]) != 0,
                false);
}

static bool compare_lane(struct look *look, const struct session *session)
{
    struct session_answer answer;
    const struct model_entry *last =
        model_lane(look->model, look->client, look->lane, look->commit);
    const uint64_t number = last == NULL ? 0 : last->lane.number;
    const struct session_lane *lane = session_lane(&look->forest->sessions, session, look->lane);
    return same(look, "the last number", lane->last.number, number) &&
           same(look, "a number under way", lane->under_way, 0) &&
           (last == NULL || compare_answer(look, last)) &&
           verdict_is(look, number + 1, SESSION_NEW, &answer) &&
           (number < 2 || verdict_is(look, number - 1, SESSION_STALE, &answer));
}

static bool compare_session(struct look *look)
{
    struct session_answer answer;
    const struct model_entry *expected = model_session(look->model, look->client, look->commit);
    const struct request_session name = model_sign(look->client, 0, 1);
    const struct session *session = session_find(&look->forest->sessions, name.client_id);
    look->lane = 0;
    if (!same(look, "the session is there", session != NULL, expected != NULL)) {
        return false;
    }
    if (session == NULL) {
        return verdict_is(look, 1, SESSION_NONE, &answer);
    }
    if (!same(look, "the user", session->uid, name.uid) ||
        !same(look, "lanes", session->lane_count, expected->lane_count) ||
        !same(look, "its time", session->timestamp,
              timestamp_of(look->model, look->client, look->commit))) {
        return false;
    }
    for (look->lane = 0; look->lane < session->lane_count; look->lane++) {
        if (!compare_lane(look, session)) {
            return false;
        }
    }
    return verdict_is(look, 1, SESSION_BAD_LANE, &answer);
}

bool model_compare_sessions(const struct model *model, uint64_t commit, struct forest *forest,
                            char *reason, size_t reason_size)
{
    struct look look = {
        .model = model,
        .commit = commit,
        .forest = forest,
        .reason = reason,
        .reason_size = reason_size,
    };
    uint32_t session_count = 0;
    for (; look.client < MODEL_CLIENT_MAX; look.client++) {
        if (!compare_session(&look)) {
            return false;
        }
        session_count += model_session(model, look.client, commit) != NULL;
    }
    return same(&look, "sessions", forest->sessions.session_count, session_count);
}
