/* Writes on their way: whose turn it is, what is known of the number, into the batch that gathers,
 * and the reply once its entry is durable. */
#include <assert.h>
#include <string.h>

#include "pool/base.h"
#include "server/dispatch_internal.h"

enum {
    /* What one user may have of a batch while several ask, or one request: less work than the
     * journal's write takes beside it, so that another user's batch is hardly longer for it.
     * (Measured, benchmarks/README.md: with 16 and 128 KiB others waited half as long again.) */
    SHARED_BATCH_COUNT = 6,
    SHARED_BATCH_SIZE = 32 * 1024,
    /* A write of so many bytes is large: whoever shares its batch waits as long for its events as
     * for the disk. */
    LARGE_SIZE = SHARED_BATCH_SIZE / 4,
};

static enum request_kind request_kind_of(const struct exchange *exchange)
{
    switch ((enum operation)exchange->header.operation) {
    case OPERATION_WRITE:
        return REQUEST_KIND_WRITE;
    case OPERATION_CREATE_GROOVE:
        return REQUEST_KIND_GROOVE_CREATE;
    case OPERATION_DROP_GROOVE:
        return REQUEST_KIND_GROOVE_DROP;
    case OPERATION_HELLO:
    case OPERATION_PING:
    case OPERATION_STAT:
    case OPERATION_SCHEMA:
    case OPERATION_LOOKUP:
    case OPERATION_QUERY:
    case OPERATION_COUNT:
    case OPERATION_OPEN_SESSION:
    case OPERATION_CLOSE_SESSION:
        break;
    }
    assert(false && "not a write");
    return REQUEST_KIND_WRITE;
}

static struct request_session session_of(const struct exchange *exchange)
{
    struct request_session session = {
        .number = exchange->header.number,
        .lane = exchange->header.lane,
        .uid = exchange->peer_uid,
    };
    memcpy(session.client_id, exchange->header.client_id, sizeof session.client_id);
    return session;
}

/* Its number counts: it takes effect once. */
static bool is_numbered(const struct exchange *exchange)
{
    static const uint8_t no_client[WIRE_ID_SIZE];
    const uint16_t operation = exchange->header.operation;
    return (operation == OPERATION_WRITE || operation == OPERATION_CREATE_GROOVE ||
            operation == OPERATION_DROP_GROOVE) &&
           memcmp(exchange->header.client_id, no_client, sizeof no_client) != 0;
}

/* Refuses the write whose turn it is. What is numbered stays refused, whenever it comes again. */
static void refuse_write(struct dispatch *dispatch, enum result result, const char *text)
{
    struct exchange *exchange = dispatch_pop(dispatch, &dispatch->writes);
    if (is_numbered(exchange)) {
        const struct request_session session = session_of(exchange);
        forest_session_refused(dispatch->forest, &session, result);
    }
    dispatch_refuse(dispatch, exchange, result, text);
}

/* Refuses the write whose turn it is for what its session says of it: nothing is remembered of
 * that. */
static void refuse_verdict(struct dispatch *dispatch, enum session_verdict verdict)
{
    enum result result = RESULT_OK;
    const char *text = NULL;
    switch (verdict) {
    case SESSION_NONE:
        result = RESULT_NO_SESSION;
        break;
    case SESSION_OTHER_USER:
        result = RESULT_DENIED;
        text = "the session is another user's";
        break;
    case SESSION_BAD_LANE:
        result = RESULT_BAD_LANE;
        break;
    case SESSION_STALE:
        result = RESULT_STALE_NUMBER;
        break;
    case SESSION_LANE_BUSY:
        result = RESULT_LANE_BUSY;
        break;
    case SESSION_NEW:
    case SESSION_WAIT:
    case SESSION_DONE:
    case SESSION_UNDER_WAY:
    case SESSION_REFUSED:
        assert(false && "no refusal, or the caller knows which");
        break;
    }
    dispatch_refuse(dispatch, dispatch_pop(dispatch, &dispatch->writes), result, text);
}

static bool refuse_expired(struct dispatch *dispatch)
{
    if (!dispatch_is_expired(dispatch, fair_queue_peek(&dispatch->writes))) {
        return false;
    }
    dispatch->expired_total += 1;
    refuse_write(dispatch, RESULT_EXPIRED, NULL);
    return true;
}

static bool refuse_denied(struct dispatch *dispatch)
{
    const char *denied = gate_check(&dispatch->gate, fair_queue_peek(&dispatch->writes));
    if (denied == NULL) {
        return false;
    }
    refuse_write(dispatch, RESULT_DENIED, denied);
    return true;
}

static uint16_t operation_of(enum request_kind kind)
{
    switch (kind) {
    case REQUEST_KIND_WRITE:
        return OPERATION_WRITE;
    case REQUEST_KIND_GROOVE_CREATE:
        return OPERATION_CREATE_GROOVE;
    case REQUEST_KIND_GROOVE_DROP:
        return OPERATION_DROP_GROOVE;
    case REQUEST_KIND_SESSION_OPEN:
        return OPERATION_OPEN_SESSION;
    case REQUEST_KIND_SESSION_CLOSE:
        return OPERATION_CLOSE_SESSION;
    case REQUEST_KIND_GROOVE_FORGET:
    case REQUEST_KIND_IDLE:
    case REQUEST_KIND_SESSION_EVICT:
        break;
    }
    assert(false && "never a client's");
    return 0;
}

static void append_session(struct reply *reply, const struct session_info *info)
{
    const struct session_reply session = {.lane_count = info->lane_count};
    reply_append(reply, &session, sizeof session);
    reply_append(reply, info->numbers, info->lane_count * (uint32_t)sizeof info->numbers[0]);
}

enum { SESSION_REPLY_SIZE_MAX = sizeof(struct session_reply) + SESSION_LANE_MAX * 8ul };

/* The session that a request opened: none of its lanes has executed anything. */
static struct session_info session_opened(const struct exchange *exchange)
{
    struct open_session_request open;
    memcpy(&open, exchange_body(exchange), sizeof open);
    return (struct session_info){.lane_count = open.lane_count};
}

/* What was executed. The same bytes whenever it is told: nothing but the number is the sending's.
 */
static void reply_executed(struct exchange *exchange, const struct request_outcome *outcome)
{
    const uint32_t failures_size = outcome->failure_count * (uint32_t)sizeof(struct wire_failure);
    struct reply reply;
    if (!reply_begin(&reply, exchange,
                     (uint32_t)sizeof(struct write_reply) + failures_size +
                         (uint32_t)SESSION_REPLY_SIZE_MAX)) {
        return;
    }
    switch (outcome->kind) {
    case REQUEST_KIND_WRITE: {
        const struct write_reply write = {
            .failure_count = outcome->failure_count,
            .failure_total = outcome->failure_total,
        };
        reply_append(&reply, &write, sizeof write);
        reply_append(&reply, outcome->failures, failures_size);
        break;
    }
    case REQUEST_KIND_GROOVE_CREATE: {
        const struct create_groove_reply create = {
            .groove_id = outcome->groove_id,
            .object_size = outcome->object_size,
        };
        reply_append(&reply, &create, sizeof create);
        break;
    }
    case REQUEST_KIND_SESSION_OPEN: {
        const struct session_info info = session_opened(exchange);
        append_session(&reply, &info);
        break;
    }
    case REQUEST_KIND_GROOVE_DROP:
    case REQUEST_KIND_SESSION_CLOSE:
        break;
    case REQUEST_KIND_GROOVE_FORGET:
    case REQUEST_KIND_IDLE:
    case REQUEST_KIND_SESSION_EVICT:
        assert(false && "never a client's");
        break;
    }
    /* A lane answers for what it executed, whatever else comes under the same number. */
    exchange->header.operation = operation_of(outcome->kind);
    reply_send(&reply, outcome->commit, outcome->timestamp);
}

static void attach(struct dispatch *dispatch, struct exchange *first, struct exchange *exchange)
{
    assert(first != exchange);
    exchange->next = first->next;
    first->next = exchange;
    dispatch->attached_total += 1;
}

enum seen {
    SEEN_NEVER, /* go on */
    SEEN_BEFORE,
    SEEN_LATER, /* ask again */
};

/* What is known of the number of the write whose turn it is. What was seen before is answered, or
 * will be. */
static enum seen look(struct dispatch *dispatch)
{
    struct exchange *exchange = fair_queue_peek(&dispatch->writes);
    if (!is_numbered(exchange)) {
        return SEEN_NEVER;
    }
    const struct request_session session = session_of(exchange);
    struct session_answer answer;
    const enum session_verdict verdict = forest_session_look(dispatch->forest, &session, &answer);
    switch (verdict) {
    case SESSION_NEW:
        return SEEN_NEVER;
    case SESSION_WAIT:
        return SEEN_LATER;
    case SESSION_DONE: {
        dispatch_pop(dispatch, &dispatch->writes);
        dispatch->replays_total += 1;
        const bool forbidden = transport_begin();
        reply_executed(exchange, &answer.outcome);
        transport_end(forbidden);
        break;
    }
    case SESSION_UNDER_WAY:
        dispatch_pop(dispatch, &dispatch->writes);
        attach(dispatch, answer.context, exchange);
        break;
    case SESSION_REFUSED:
        dispatch_pop(dispatch, &dispatch->writes);
        dispatch->replays_total += 1;
        dispatch_refuse(dispatch, exchange, (enum result)answer.refused_result, NULL);
        break;
    case SESSION_NONE:
    case SESSION_OTHER_USER:
    case SESSION_BAD_LANE:
    case SESSION_STALE:
        refuse_verdict(dispatch, verdict);
        break;
    case SESSION_LANE_BUSY: /* The number is new, and was refused now. */
        refuse_write(dispatch, RESULT_LANE_BUSY, NULL);
        break;
    }
    return SEEN_BEFORE;
}

/* These three return whether the write whose turn it is went anywhere. */

static bool submit_open_session(struct dispatch *dispatch)
{
    struct exchange *exchange = fair_queue_peek(&dispatch->writes);
    const struct request_session session = session_of(exchange);
    struct session_info info;
    const enum session_verdict verdict = forest_session_find(dispatch->forest, &session, &info);
    switch (verdict) {
    case SESSION_WAIT:
        return false;
    case SESSION_OTHER_USER:
        refuse_verdict(dispatch, verdict);
        return true;
    case SESSION_DONE: {
        dispatch_pop(dispatch, &dispatch->writes);
        struct reply reply;
        const bool forbidden = transport_begin();
        if (reply_begin(&reply, exchange, SESSION_REPLY_SIZE_MAX)) {
            append_session(&reply, &info);
            reply_send(&reply, 0, 0);
        }
        transport_end(forbidden);
        return true;
    }
    case SESSION_NONE:
        break;
    case SESSION_NEW:
    case SESSION_UNDER_WAY:
    case SESSION_REFUSED:
    case SESSION_BAD_LANE:
    case SESSION_STALE:
    case SESSION_LANE_BUSY:
        assert(false && "of a session, not of a lane");
    }
    if (refuse_expired(dispatch) || refuse_denied(dispatch)) {
        return true;
    }
    enum request_result result = REQUEST_RESULT_OK;
    const char *reason = NULL;
    switch (forest_session_open(dispatch->forest, &session, session_opened(exchange).lane_count,
                                dispatch->config->session_idle_ns, exchange, &result, &reason)) {
    case FOREST_ADDED:
        dispatch_pop(dispatch, &dispatch->writes);
        return true;
    case FOREST_LATER:
        return false;
    case FOREST_REFUSED:
        refuse_write(dispatch, dispatch_result(result), reason);
        return true;
    }
    assert(false && "admission");
    return false;
}

static bool submit_close_session(struct dispatch *dispatch)
{
    if (refuse_expired(dispatch) || refuse_denied(dispatch)) {
        return true;
    }
    struct exchange *exchange = fair_queue_peek(&dispatch->writes);
    const struct request_session session = session_of(exchange);
    enum session_verdict verdict;
    enum request_result result = REQUEST_RESULT_OK;
    switch (forest_session_close(dispatch->forest, &session, exchange, &verdict, &result)) {
    case FOREST_ADDED:
        dispatch_pop(dispatch, &dispatch->writes);
        return true;
    case FOREST_LATER:
        return false;
    case FOREST_REFUSED:
        break;
    }
    if (verdict == SESSION_NEW) {
        refuse_write(dispatch, dispatch_result(result), NULL);
    } else {
        refuse_verdict(dispatch, verdict);
    }
    return true;
}

/* NULL: he has nothing in the batch that gathers, or is not counted. */
static struct dispatch_share *share_find(struct dispatch *dispatch, uint32_t uid)
{
    const uint64_t number = forest_gathering_number(dispatch->forest);
    if (number != dispatch->batch_number) {
        dispatch->batch_number = number;
        dispatch->share_count = 0;
    }
    for (uint32_t i = 0; i < dispatch->share_count; i++) {
        if (dispatch->shares[i].uid == uid) {
            return &dispatch->shares[i];
        }
    }
    return NULL;
}

/* The exchange is in the batch that gathers. */
static void share_add(struct dispatch *dispatch, const struct exchange *exchange)
{
    struct dispatch_share *share = share_find(dispatch, exchange->peer_uid);
    if (exchange->request_size >= LARGE_SIZE) {
        dispatch->after_large_number = dispatch->batch_number + 1;
    }
    if (share == NULL) {
        if (dispatch->share_count == DISPATCH_SHARE_COUNT) {
            return;
        }
        share = &dispatch->shares[dispatch->share_count];
        dispatch->share_count += 1;
        *share = (struct dispatch_share){.uid = exchange->peer_uid};
    }
    share->count += 1;
    share->size += exchange->request_size;
}

/* Whether it would make two batches in a row long. Between them there is one for small writes that
 * come while the first is under way; if none has come when that is done, the next one may be large,
 * too. */
static bool waits_for_small(const struct dispatch *dispatch, const struct exchange *exchange)
{
    return exchange->request_size >= LARGE_SIZE && dispatch->after_large_number != 0 &&
           dispatch->batch_number == dispatch->after_large_number &&
           !forest_is_idle(dispatch->forest);
}

/* Passes those who have their share of the batch that gathers, or would make it long. False: all
 * who wait do. Whoever comes waits for the batch under way and for the one that gathers; so while
 * several users ask, none fills it with his. */
static bool pass_to_turn(struct dispatch *dispatch)
{
    if (!dispatch_several_ask(dispatch)) {
        return true;
    }
    for (uint32_t left = dispatch->writes.users.count; left > 0; left--) {
        const struct exchange *exchange = fair_queue_peek(&dispatch->writes);
        const struct dispatch_share *share = share_find(dispatch, exchange->peer_uid);
        const bool has_share = share != NULL && (share->count >= SHARED_BATCH_COUNT ||
                                                 share->size >= SHARED_BATCH_SIZE);
        if (!has_share && !waits_for_small(dispatch, exchange)) {
            return true;
        }
        fair_queue_pass(&dispatch->writes);
    }
    return false;
}

bool dispatch_submit_write(struct dispatch *dispatch)
{
    if (!pass_to_turn(dispatch)) {
        return false;
    }
    struct exchange *exchange = fair_queue_peek(&dispatch->writes);
    if (exchange->header.operation == OPERATION_OPEN_SESSION) {
        return submit_open_session(dispatch);
    }
    if (exchange->header.operation == OPERATION_CLOSE_SESSION) {
        return submit_close_session(dispatch);
    }
    const enum seen seen = look(dispatch);
    if (seen != SEEN_NEVER) {
        return seen == SEEN_BEFORE;
    }
    if (refuse_expired(dispatch) || refuse_denied(dispatch)) {
        return true;
    }
    const struct request_session session = session_of(exchange);
    enum request_result result = REQUEST_RESULT_OK;
    const char *reason = NULL;
    const bool atomic = (exchange->header.flags & WIRE_REQUEST_FLAG_ATOMIC) != 0;
    switch (forest_batch_add(dispatch->forest, request_kind_of(exchange), atomic,
                             exchange_body(exchange), exchange->header.body_size,
                             is_numbered(exchange) ? &session : NULL, exchange, &result, &reason)) {
    case FOREST_ADDED:
        share_add(dispatch, exchange);
        dispatch_pop(dispatch, &dispatch->writes);
        return true;
    case FOREST_LATER:
        return false;
    case FOREST_REFUSED:
        refuse_write(dispatch, dispatch_result(result), reason);
        return true;
    }
    assert(false && "admission");
    return false;
}

void dispatch_committed(void *context, const struct request_outcome *outcome)
{
    struct exchange *exchange = context;
    assert(exchange != NULL);
    struct dispatch *dispatch = exchange->context;
    assert(dispatch != NULL);

    if (outcome->result != REQUEST_RESULT_OK && is_numbered(exchange)) {
        const struct request_session session = session_of(exchange);
        forest_session_refused(dispatch->forest, &session, dispatch_result(outcome->result));
    }
    while (exchange != NULL) { /* The first, and what is attached to it. */
        struct exchange *next = exchange->next;
        exchange->next = NULL;
        if (outcome->result != REQUEST_RESULT_OK) {
            dispatch_refuse(dispatch, exchange, dispatch_result(outcome->result), outcome->reason);
        } else {
            const bool forbidden = transport_begin();
            reply_executed(exchange, outcome);
            transport_end(forbidden);
        }
        exchange = next;
    }
}
