/* Sessions on the write path.
 *
 *   look ─► NEW ─► forest_batch_add: under way ─► execution: last ─► durable: answered ─► DONE
 *             └──► refused (here, by the caller, or before the journal): not under way any more
 *
 * Between a request's admission and its answer its number is under way on its lane, and nothing
 * else is. So what a lane has executed is answered only once it is durable, and never twice.
 *
 * Opening, closing and evicting change which sessions there are. Each has an entry of its own, and
 * is admitted only when nothing that was admitted waits to execute: so what the table says then is
 * what it says when the entry executes. The same checks are made in replay, of what is read. */
#include <assert.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "pool/base.h"

/* ---- Looking -----------------------------------------------------------------------------------
 */

enum session_verdict forest_session_find(struct forest *forest,
                                         const struct request_session *request,
                                         struct session_info *info)
{
    const struct session *session = session_find(&forest->sessions, request->client_id);
    if (session == NULL) {
        /* A crash may bring back what is closed or evicted and not durably so. */
        return forest->session_commit > forest->commit_durable ? SESSION_WAIT : SESSION_NONE;
    }
    if (session->uid != request->uid) {
        return SESSION_OTHER_USER;
    }
    if (session->commit > forest->commit_durable) {
        return SESSION_WAIT;
    }
    info->lane_count = session->lane_count;
    for (uint32_t i = 0; i < session->lane_count; i++) {
        info->numbers[i] = session_lane(&forest->sessions, session, i)->last.number;
    }
    return SESSION_DONE;
}

enum session_verdict forest_session_look(struct forest *forest,
                                         const struct request_session *request,
                                         struct session_answer *answer)
{
    assert(forest->phase == FOREST_READY);
    const struct session *session = session_find(&forest->sessions, request->client_id);
    if (session == NULL) {
        return forest->session_commit > forest->commit_durable ? SESSION_WAIT : SESSION_NONE;
    }
    if (session->uid != request->uid) {
        return SESSION_OTHER_USER;
    }
    if (request->lane >= session->lane_count || request->number == 0) {
        return SESSION_BAD_LANE;
    }
    const struct session_lane *lane = session_lane(&forest->sessions, session, request->lane);
    const struct lane_record *last = &lane->last;
    if (request->number == lane->under_way) {
        answer->context = lane->context;
        return SESSION_UNDER_WAY;
    }
    if (request->number == last->number) {
        assert(last->commit <= forest->commit_durable); /* Else it would be under way. */
        answer->outcome = (struct request_outcome){
            .kind = (enum request_kind)last->kind,
            .result = REQUEST_RESULT_OK,
            .commit = last->commit,
            .timestamp = last->timestamp,
            .failures = lane->failures,
            .failure_count = last->failure_count,
            .failure_total = last->failure_total,
            .groove_id = last->groove_id,
            .object_size = last->object_size,
        };
        return SESSION_DONE;
    }
    if (request->number < last->number) {
        return SESSION_STALE;
    }
    if (lane->under_way != 0) {
        return SESSION_LANE_BUSY;
    }
    if (request->number == lane->refused) {
        answer->refused_result = lane->refused_result;
        return SESSION_REFUSED;
    }
    /* Whoever was told that the higher one was refused has been told of this one, too. */
    return request->number < lane->refused ? SESSION_STALE : SESSION_NEW;
}

void forest_session_refused(struct forest *forest, const struct request_session *request,
                            uint32_t result)
{
    const struct session *session = session_find(&forest->sessions, request->client_id);
    assert(session != NULL && request->uid == session->uid); /* As the look before it said. */
    struct session_lane *lane = session_lane(&forest->sessions, session, request->lane);
    assert(request->number > lane->last.number);
    if (request->number > lane->refused) {
        lane->refused = request->number;
        lane->refused_result = result;
    }
}

/* ---- Admission ---------------------------------------------------------------------------------
 */

void forest_session_begin(struct forest *forest, const struct request_session *request,
                          void *context)
{
    const struct session *session = session_find(&forest->sessions, request->client_id);
    assert(session != NULL && request->uid == session->uid);
    struct session_lane *lane = session_lane(&forest->sessions, session, request->lane);
    assert(lane->under_way == 0);
    assert(request->number > lane->last.number && request->number > lane->refused);
    lane->under_way = request->number;
    lane->context = context;
    batch_identify(forest->gathering, request);
}

static struct session_lane *lane_of(const struct forest *forest,
                                    const struct batch_request_header *header)
{
    const struct session *session = session_find(&forest->sessions, header->client_id);
    assert(session != NULL); /* It is not closed while one of its lanes is busy. */
    return session_lane(&forest->sessions, session, header->lane);
}

void forest_session_end(struct forest *forest, const struct batch_request_header *header)
{
    struct session_lane *lane = lane_of(forest, header);
    assert(lane->under_way == header->number);
    lane->under_way = 0;
    lane->context = NULL;
}

/* Nothing that was admitted waits to execute. */
static bool nothing_waits(const struct forest *forest)
{
    return forest->gathering->request_count == 0 && forest->preparing == NULL;
}

static void identify(struct forest *forest, const uint8_t client_id[CLIENT_ID_SIZE])
{
    struct request_session of = {0};
    memcpy(of.client_id, client_id, CLIENT_ID_SIZE);
    batch_identify(forest->gathering, &of);
}

static void evict(struct forest *forest, const struct session *session)
{
    enum request_result result;
    const enum batch_admission admission =
        batch_add(forest->gathering, &forest->catalog, REQUEST_KIND_SESSION_EVICT, false, NULL, 0,
                  NULL, true, &result);
    assert(admission == BATCH_ADDED);
    (void)admission;
    identify(forest, session->client_id);
    forest->session_evicted_total += 1;
}

enum forest_admission forest_session_open(struct forest *forest,
                                          const struct request_session *request,
                                          uint32_t lane_count, uint64_t idle_ns, void *context,
                                          enum request_result *result, const char **reason)
{
    assert(lane_count >= 1 && lane_count <= SESSION_LANE_MAX);
    *reason = NULL;
    if (!nothing_waits(forest)) {
        return FOREST_LATER;
    }
    assert(session_find(&forest->sessions, request->client_id) == NULL);
    const struct session_open_body body = {.lane_count = lane_count, .uid = request->uid};
    if (!forest_may_add(forest, REQUEST_KIND_SESSION_OPEN, (const uint8_t *)&body, sizeof body,
                        result)) {
        return FOREST_REFUSED;
    }
    if (!session_table_has_room(&forest->sessions, lane_count)) {
        const uint64_t now = clock_realtime_ns(forest->options.clock);
        const struct session *idlest =
            session_to_evict(&forest->sessions, lane_count, now - min_u64(now, idle_ns));
        if (idlest != NULL) {
            evict(forest, idlest);
            return FOREST_LATER;
        }
        if (forest->session_commit > forest->commit_durable) {
            return FOREST_LATER; /* It may be refused for something that a crash would undo. */
        }
        *result = REQUEST_RESULT_LIMIT;
        *reason = "no session or lane is left, and none has been idle for long enough to evict it";
        return FOREST_REFUSED;
    }
    const enum forest_admission admission =
        forest_batch_add(forest, REQUEST_KIND_SESSION_OPEN, false, (const uint8_t *)&body,
                         sizeof body, NULL, context, result, reason);
    assert(admission == FOREST_ADDED);
    identify(forest, request->client_id);
    return admission;
}

enum forest_admission forest_session_close(struct forest *forest,
                                           const struct request_session *request, void *context,
                                           enum session_verdict *verdict,
                                           enum request_result *result)
{
    const struct session *session = session_find(&forest->sessions, request->client_id);
    *verdict = SESSION_NEW;
    if (session == NULL) {
        *verdict = forest->session_commit > forest->commit_durable ? SESSION_WAIT : SESSION_NONE;
    } else if (session->uid != request->uid) {
        *verdict = SESSION_OTHER_USER;
    } else if (session_is_busy(&forest->sessions, session)) {
        *verdict = SESSION_LANE_BUSY;
    }
    if (*verdict == SESSION_WAIT || (*verdict == SESSION_NEW && !nothing_waits(forest))) {
        return FOREST_LATER;
    }
    if (*verdict != SESSION_NEW) {
        return FOREST_REFUSED;
    }
    const char *reason;
    const enum forest_admission admission = forest_batch_add(
        forest, REQUEST_KIND_SESSION_CLOSE, false, NULL, 0, NULL, context, result, &reason);
    assert(admission != FOREST_LATER);
    if (admission == FOREST_ADDED) {
        identify(forest, request->client_id);
    }
    return admission;
}

/* ---- Execution ---------------------------------------------------------------------------------
 */

void forest_session_execute(struct forest *forest, const struct batch_request *request)
{
    const struct batch_request_header *header = request->header;
    struct session_table *sessions = &forest->sessions;
    if (header->kind == REQUEST_KIND_SESSION_OPEN) {
        struct session_open_body open;
        memcpy(&open, request->body, sizeof open);
        session_open(sessions, header->client_id, open.uid, open.lane_count, request->timestamp,
                     request->commit);
    } else {
        struct session *session = session_find(sessions, header->client_id);
        assert(session != NULL);
        session_close(sessions, session);
    }
    forest->session_commit = request->commit;
}

void forest_session_executed(struct forest *forest, const struct batch *batch,
                             const struct batch_request *request)
{
    const struct batch_request_header *header = request->header;
    assert(request->result == REQUEST_RESULT_OK);
    struct session_lane *lane = lane_of(forest, header);
    assert(lane->under_way == header->number);
    assert(header->number > lane->last.number);
    lane->last = (struct lane_record){
        .number = header->number,
        .commit = request->commit,
        .timestamp = request->timestamp,
        .failure_total = request->failure_count,
        .groove_id = request->groove_id,
        .object_size = request->object_size,
        .kind = header->kind,
        .failure_count = (uint8_t)min_u64(request->failure_count, SESSION_FAILURE_MAX),
    };
    memcpy(lane->failures, batch->failures + request->failure_first,
           lane->last.failure_count * sizeof lane->failures[0]);
    struct session *session = session_find(&forest->sessions, header->client_id);
    session->timestamp = request->timestamp;
    session->commit = request->commit;
}

/* ---- Replay ------------------------------------------------------------------------------------
 */

/* Whether the request can have been admitted as the table is; from here on it is under way. */
static bool replay_admit(struct forest *forest, const struct batch_request *request)
{
    const struct batch_request_header *header = request->header;
    struct session_table *sessions = &forest->sessions;
    const struct session *session = session_find(sessions, header->client_id);
    if (header->kind == REQUEST_KIND_SESSION_OPEN) {
        struct session_open_body open;
        memcpy(&open, request->body, sizeof open);
        return session == NULL && session_table_has_room(sessions, open.lane_count);
    }
    if (header->kind >= REQUEST_KIND_SESSION_CLOSE) {
        return session != NULL;
    }
    if (!batch_request_numbered(request)) {
        return true;
    }
    if (session == NULL || header->lane >= session->lane_count) {
        return false;
    }
    struct session_lane *lane = session_lane(sessions, session, header->lane);
    if (lane->under_way != 0 || header->number <= lane->last.number) {
        return false;
    }
    lane->under_way = header->number;
    return true;
}

bool forest_session_replay_begin(struct forest *forest, const struct batch *batch)
{
    for (uint32_t i = 0; i < batch->request_count; i++) {
        const struct batch_request *request = &batch->requests[i];
        if (!batch_request_refused(request) && !replay_admit(forest, request)) {
            return false;
        }
    }
    return true;
}

void forest_session_replay_end(struct forest *forest, const struct batch *batch)
{
    for (uint32_t i = 0; i < batch->request_count; i++) {
        const struct batch_request *request = &batch->requests[i];
        if (!batch_request_refused(request) && batch_request_numbered(request)) {
            forest_session_end(forest, request->header);
        }
    }
}
