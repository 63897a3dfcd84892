#include "server/dispatch.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "engine/object.h"
#include "ipc/peers.h"
#include "pool/base.h"
#include "pool/memory.h"
#include "server/stat_text.h"

/* The engine keeps these bytes in journal and checkpoint as they came over the wire. */
#define SAME_SIZE(wire, engine)                                                                    \
    static_assert(sizeof(struct wire) == sizeof(struct engine), "wire and engine agree")
#define SAME_OFFSET(wire, engine, member)                                                          \
    static_assert(offsetof(struct wire, member) == offsetof(struct engine, member),                \
                  "wire and engine agree")
SAME_SIZE(wire_groove_spec, groove_spec);
SAME_OFFSET(wire_groove_spec, groove_spec, name);
SAME_OFFSET(wire_groove_spec, groove_spec, field_count);
SAME_OFFSET(wire_groove_spec, groove_spec, index_count);
SAME_OFFSET(wire_groove_spec, groove_spec, fields);
SAME_OFFSET(wire_groove_spec, groove_spec, indexes);
SAME_SIZE(wire_field_spec, field_spec);
SAME_OFFSET(wire_field_spec, field_spec, type);
SAME_OFFSET(wire_field_spec, field_spec, size);
SAME_SIZE(wire_index_spec, index_spec);
SAME_OFFSET(wire_index_spec, index_spec, field_count);
SAME_OFFSET(wire_index_spec, index_spec, flags);
SAME_OFFSET(wire_index_spec, index_spec, fields);
SAME_SIZE(wire_section, event_section);
SAME_OFFSET(wire_section, event_section, groove_id);
SAME_OFFSET(wire_section, event_section, event_type);
SAME_OFFSET(wire_section, event_section, flags);
SAME_OFFSET(wire_section, event_section, guard);
SAME_OFFSET(wire_section, event_section, event_count);
SAME_SIZE(wire_failure, event_failure);
SAME_OFFSET(wire_failure, event_failure, event_index);
SAME_OFFSET(wire_failure, event_failure, result);

#define SAME_VALUE(wire, engine)                                                                   \
    static_assert((int)(wire) == (int)(engine), "wire and engine agree")
SAME_VALUE(WIRE_NAME_SIZE, NAME_SIZE);
SAME_VALUE(WIRE_ID_SIZE, ID_SIZE);
SAME_VALUE(WIRE_FIELD_COUNT_MAX, FIELD_COUNT_MAX);
SAME_VALUE(WIRE_INDEX_COUNT_MAX, INDEX_COUNT_MAX);
SAME_VALUE(WIRE_INDEX_FIELD_COUNT_MAX, INDEX_FIELD_COUNT_MAX);
SAME_VALUE(WIRE_LANE_COUNT_MAX, SESSION_LANE_MAX);
SAME_VALUE(WIRE_ID_SIZE, CLIENT_ID_SIZE);
SAME_VALUE(WIRE_INDEX_NONE, READ_INDEX_NONE);
SAME_VALUE(WIRE_EVENT_TYPE_INSERT, EVENT_TYPE_INSERT);
SAME_VALUE(WIRE_EVENT_TYPE_UPSERT, EVENT_TYPE_UPSERT);
SAME_VALUE(WIRE_EVENT_TYPE_UPDATE, EVENT_TYPE_UPDATE);
SAME_VALUE(WIRE_EVENT_TYPE_REMOVE, EVENT_TYPE_REMOVE);
SAME_VALUE(WIRE_EVENT_TYPE_CHECK, EVENT_TYPE_CHECK);
SAME_VALUE(WIRE_SECTION_FLAG_LINKED, EVENT_SECTION_FLAG_LINKED);
SAME_VALUE(WIRE_GUARD_NONE, EVENT_GUARD_NONE);
SAME_VALUE(WIRE_GUARD_ABSENT, EVENT_GUARD_ABSENT);
SAME_VALUE(WIRE_GUARD_PRESENT, EVENT_GUARD_PRESENT);
SAME_VALUE(WIRE_GUARD_VERSION, EVENT_GUARD_VERSION);
SAME_VALUE(WIRE_EVENT_RESULT_EXISTS, EVENT_RESULT_EXISTS);
SAME_VALUE(WIRE_EVENT_RESULT_NOT_FOUND, EVENT_RESULT_NOT_FOUND);
SAME_VALUE(WIRE_EVENT_RESULT_ID_ZERO, EVENT_RESULT_ID_ZERO);
SAME_VALUE(WIRE_EVENT_RESULT_UNIQUE, EVENT_RESULT_UNIQUE);
SAME_VALUE(WIRE_EVENT_RESULT_RESERVED_NOT_ZERO, EVENT_RESULT_RESERVED_NOT_ZERO);
SAME_VALUE(WIRE_EVENT_RESULT_BAD_VALUE, EVENT_RESULT_BAD_VALUE);
SAME_VALUE(WIRE_EVENT_RESULT_CORRUPT, EVENT_RESULT_CORRUPT);
SAME_VALUE(WIRE_EVENT_RESULT_GUARD, EVENT_RESULT_GUARD);
SAME_VALUE(WIRE_EVENT_RESULT_LINKED, EVENT_RESULT_LINKED);
SAME_VALUE(WIRE_FIELD_TYPE_U8, FIELD_TYPE_U8);
SAME_VALUE(WIRE_FIELD_TYPE_U128, FIELD_TYPE_U128);
SAME_VALUE(WIRE_FIELD_TYPE_I64, FIELD_TYPE_I64);
SAME_VALUE(WIRE_FIELD_TYPE_F64, FIELD_TYPE_F64);
SAME_VALUE(WIRE_FIELD_TYPE_BOOL, FIELD_TYPE_BOOL);
SAME_VALUE(WIRE_FIELD_TYPE_BYTES, FIELD_TYPE_BYTES);
SAME_VALUE(WIRE_FIELD_TYPE_TEXT, FIELD_TYPE_TEXT);
SAME_VALUE(WIRE_FIELD_TYPE_TIMESTAMP, FIELD_TYPE_TIMESTAMP);
SAME_VALUE(WIRE_INDEX_FLAG_UNIQUE, INDEX_FLAG_UNIQUE);
SAME_VALUE(WIRE_INDEX_FLAG_SPARSE, INDEX_FLAG_SPARSE);
static_assert(OBJECT_HEADER_SIZE == sizeof(struct wire_object_header), "wire and engine agree");

enum {
    /* HELLO, headers, a create: small messages need this much beside a batch or a reply. */
    MESSAGE_MARGIN = 4096,
    /* In one turn of the forest thread's loop, so that those who ask for nothing else do not hold
     * up writes; and one of STAT and SCHEMA, which take as long as some dozen PINGs. */
    LOOKS_PER_TURN = 16,
    /* What one user may have of a batch while several ask, or one request: less work than the
     * journal's write takes beside it, so that another user's batch is hardly longer for it.
     * (Measured, benchmarks/README.md: with 16 and 128 KiB others waited half as long again.) */
    SHARED_BATCH_COUNT = 6,
    SHARED_BATCH_SIZE = 32 * 1024,
    SCHEMA_GROOVE_SIZE_MAX = sizeof(struct schema_groove) +
                             FIELD_COUNT_MAX * sizeof(struct schema_field) +
                             INDEX_COUNT_MAX * sizeof(struct schema_index),
};
static_assert(MESSAGE_MARGIN > sizeof(struct wire_groove_spec) + PROTOCOL_HEADER_SIZE, "fits");

static const uint64_t ns_per_ms = 1000ull * 1000;
static const uint64_t shared_ns =
    1000ull * 1000 * 1000; /* so long two users ask at the same time */

/* Takes out whose turn it is: from here on it does not wait. */
static struct exchange *waiting_pop(struct dispatch *dispatch, struct fair_queue *waiting)
{
    struct exchange *exchange = fair_queue_pop(waiting);
    request_queue_leave(dispatch->queue, exchange);
    return exchange;
}

enum result dispatch_result(enum request_result result)
{
    switch (result) {
    case REQUEST_RESULT_OK:
        return RESULT_OK;
    case REQUEST_RESULT_MALFORMED:
        return RESULT_BAD_BODY;
    case REQUEST_RESULT_TOO_BIG:
        return RESULT_TOO_BIG;
    case REQUEST_RESULT_UNKNOWN_GROOVE:
        return RESULT_UNKNOWN_GROOVE;
    case REQUEST_RESULT_UNKNOWN_INDEX:
        return RESULT_UNKNOWN_INDEX;
    case REQUEST_RESULT_GROOVE_EXISTS:
        return RESULT_GROOVE_EXISTS;
    case REQUEST_RESULT_BAD_SCHEMA:
        return RESULT_BAD_SCHEMA;
    case REQUEST_RESULT_LIMIT:
        return RESULT_LIMIT;
    case REQUEST_RESULT_FULL:
        return RESULT_FULL;
    case REQUEST_RESULT_READ_ONLY:
        return RESULT_READ_ONLY;
    case REQUEST_RESULT_CORRUPT:
        return RESULT_CORRUPT;
    case REQUEST_RESULT_SHUTTING_DOWN:
        return RESULT_SHUTTING_DOWN;
    case REQUEST_RESULT_OVERTAKEN:
        return RESULT_OVERTAKEN;
    case REQUEST_RESULT_BUDGET:
        return RESULT_BUDGET;
    case REQUEST_RESULT_EXPIRED:
        return RESULT_EXPIRED;
    }
    assert(false && "request result");
    return RESULT_INTERNAL;
}

/* A reply being built in place. */
struct reply {
    struct exchange *exchange;
    uint8_t *bytes; /* [size_max], the transport's */
    uint32_t size_max;
    uint32_t size; /* with the header, whose place is kept */
};

/* False: the transport has no memory; the connection is closed, the client asks again. */
static bool reply_begin(struct reply *reply, struct exchange *exchange, uint32_t body_size_max)
{
    const uint32_t size_max = PROTOCOL_HEADER_SIZE + body_size_max;
    *reply = (struct reply){
        .exchange = exchange,
        .bytes = exchange_reply_buffer(exchange, size_max),
        .size_max = size_max,
        .size = PROTOCOL_HEADER_SIZE,
    };
    if (reply->bytes == NULL) {
        exchange_drop(exchange);
        return false;
    }
    return true;
}

static void reply_append(struct reply *reply, const void *bytes, uint32_t size)
{
    assert(size <= reply->size_max - reply->size);
    if (size > 0) {
        memcpy(reply->bytes + reply->size, bytes, size);
    }
    reply->size += size;
}

static void reply_send(struct reply *reply, uint64_t commit, uint64_t timestamp)
{
    struct reply_header header = protocol_reply_header(&reply->exchange->header, RESULT_OK,
                                                       reply->size - PROTOCOL_HEADER_SIZE);
    header.commit = commit;
    header.timestamp = timestamp;
    memcpy(reply->bytes, &header, sizeof header);
    exchange_send(reply->exchange, reply->size);
}

/* The forest thread allocates nothing, the transport does: per message, and is let to. Between
 * these two; the end takes what the begin returned. */
static bool transport_begin(void)
{
    const bool forbidden = memory_allocation_forbidden();
    memory_allow_allocation();
    return forbidden;
}

static void transport_end(bool forbidden)
{
    if (forbidden) {
        memory_forbid_allocation();
    }
}

static void refuse(struct dispatch *dispatch, struct exchange *exchange, enum result result,
                   const char *text)
{
    assert(result != RESULT_OK);
    dispatch->refused_total += 1;
    const bool forbidden = transport_begin();
    exchange_reply_result(exchange, result, text);
    transport_end(forbidden);
}

static void reply_body(struct exchange *exchange, const void *body, uint32_t body_size)
{
    struct reply reply;
    const bool forbidden = transport_begin();
    if (reply_begin(&reply, exchange, body_size)) {
        reply_append(&reply, body, body_size);
        reply_send(&reply, 0, 0);
    }
    transport_end(forbidden);
}

static void dispatch_release(struct dispatch *dispatch)
{
    fair_queue_deinit(&dispatch->looks);
    fair_queue_deinit(&dispatch->reads);
    fair_queue_deinit(&dispatch->writes);
    memory_release(dispatch->text, DISPATCH_TEXT_SIZE);
    *dispatch = (struct dispatch){0};
}

enum status dispatch_init(struct dispatch *dispatch, struct forest *forest,
                          struct request_queue *queue, const struct config *config,
                          const struct clock *clock)
{
    assert(forest != NULL);
    assert(queue != NULL);
    assert(config != NULL);

    *dispatch = (struct dispatch){
        .forest = forest,
        .queue = queue,
        .config = config,
        .clock = clock,
        .started_ns = clock_monotonic_ns(clock),
        .text = memory_acquire(DISPATCH_TEXT_SIZE),
    };
    gate_init(&dispatch->gate, &config->access, forest, clock);
    const uint32_t count_max = queue->count_max;
    if (dispatch->text == NULL ||
        fair_queue_init(&dispatch->writes, count_max, FAIR_QUEUE_COST_SMALL) != STATUS_OK ||
        fair_queue_init(&dispatch->reads, count_max, FAIR_QUEUE_COST_TURN) != STATUS_OK ||
        fair_queue_init(&dispatch->looks, count_max, FAIR_QUEUE_COST_TURN) != STATUS_OK) {
        dispatch_release(dispatch);
        return STATUS_NO_MEMORY;
    }
    return STATUS_OK;
}

void dispatch_deinit(struct dispatch *dispatch)
{
    assert(dispatch_is_idle(dispatch));

    dispatch_release(dispatch);
}

uint32_t dispatch_message_size_max(const struct geometry *geometry)
{
    const uint64_t reply_size = max_u64(geometry->batch_size_max, geometry->block_size);
    const uint64_t schema_size =
        sizeof(struct schema_reply) + DISPATCH_GROOVE_COUNT_MAX * (uint64_t)SCHEMA_GROOVE_SIZE_MAX;
    const uint64_t size =
        max_u64(max_u64(reply_size, schema_size), DISPATCH_TEXT_SIZE) + MESSAGE_MARGIN;
    assert(size <= UINT32_MAX);
    return (uint32_t)size;
}

/* ---- Answered here -----------------------------------------------------------------------------
 */

static void answer_hello(struct dispatch *dispatch, struct exchange *exchange)
{
    struct forest_stats stats;
    forest_stats(dispatch->forest, &stats);
    struct hello_reply hello = {
        .features = WIRE_FEATURE_SESSIONS | WIRE_FEATURE_CHAINS,
        .session_failure_max = SESSION_FAILURE_MAX,
        .message_size_max = dispatch->message_size_max,
        .batch_size_max = stats.geometry.batch_size_max,
        .batch_event_max = stats.geometry.batch_event_max,
        .exchange_count = dispatch->config->exchange_count,
        .version = HOLT_VERSION,
    };
    reply_body(exchange, &hello, sizeof hello);
}

static void append_groove(struct reply *reply, const struct forest_groove_info *info)
{
    const struct groove_schema *schema = info->schema;
    struct schema_groove groove = {
        .groove_id = info->groove_id,
        .object_size = schema->object_size,
        .event_count_max = schema->event_max,
        .field_count = schema->spec.field_count,
        .index_count = schema->spec.index_count,
        .object_count = info->object_count,
    };
    memcpy(groove.name, schema->spec.name, sizeof groove.name);
    reply_append(reply, &groove, sizeof groove);
    for (uint32_t i = 0; i < schema->spec.field_count; i++) {
        struct schema_field field = {
            .type = schema->spec.fields[i].type,
            .size = schema->fields[i].size,
            .offset = schema->fields[i].offset,
        };
        memcpy(field.name, schema->spec.fields[i].name, sizeof field.name);
        reply_append(reply, &field, sizeof field);
    }
    for (uint32_t i = 0; i < schema->spec.index_count; i++) {
        const struct index_spec *spec = &schema->spec.indexes[i];
        struct schema_index index = {
            .index_id = i,
            .field_count = spec->field_count,
            .flags = spec->flags,
        };
        memcpy(index.name, spec->name, sizeof index.name);
        memcpy(index.fields, spec->fields, sizeof index.fields);
        reply_append(reply, &index, sizeof index);
    }
}

/* All grooves that are not being dropped and that this user may see, into dispatch->grooves. */
static uint32_t collect_grooves(struct dispatch *dispatch, uint32_t uid)
{
    const uint32_t all =
        forest_grooves(dispatch->forest, dispatch->grooves, DISPATCH_GROOVE_COUNT_MAX);
    assert(all <= DISPATCH_GROOVE_COUNT_MAX);
    uint32_t count = 0;
    for (uint32_t i = 0; i < all; i++) {
        if (!dispatch->grooves[i].dropping &&
            gate_shows(&dispatch->gate, uid, dispatch->grooves[i].schema->spec.name)) {
            dispatch->grooves[count++] = dispatch->grooves[i];
        }
    }
    return count;
}

static void answer_schema(struct dispatch *dispatch, struct exchange *exchange)
{
    const struct schema_reply schema = {
        .groove_count = collect_grooves(dispatch, exchange->peer_uid),
    };
    struct reply reply;
    const bool forbidden = transport_begin();
    if (reply_begin(&reply, exchange,
                    (uint32_t)sizeof schema +
                        schema.groove_count * (uint32_t)SCHEMA_GROOVE_SIZE_MAX)) {
        reply_append(&reply, &schema, sizeof schema);
        for (uint32_t i = 0; i < schema.groove_count; i++) {
            append_groove(&reply, &dispatch->grooves[i]);
        }
        reply_send(&reply, 0, 0);
    }
    transport_end(forbidden);
}

static void answer_stat(struct dispatch *dispatch, struct exchange *exchange)
{
    const uint32_t groove_count = collect_grooves(dispatch, exchange->peer_uid);
    const char *text = stat_text(dispatch, groove_count, dispatch->text, DISPATCH_TEXT_SIZE);
    if (text == NULL) {
        refuse(dispatch, exchange, RESULT_INTERNAL, "the statistics do not fit their buffer");
        return;
    }
    reply_body(exchange, text, (uint32_t)strlen(text));
}

/* 0: it has none. */
static uint64_t deadline_of(const struct exchange *exchange)
{
    const uint32_t deadline_ms = exchange->header.deadline_ms;
    return deadline_ms == 0 ? 0 : exchange->received_ns + deadline_ms * ns_per_ms;
}

static bool is_expired(const struct dispatch *dispatch, const struct exchange *exchange)
{
    const uint64_t deadline_ns = deadline_of(exchange);
    return deadline_ns != 0 && clock_monotonic_ns(dispatch->clock) > deadline_ns;
}

/* Answers whose turn it is. Returns whether that took long. */
static bool answer(struct dispatch *dispatch)
{
    struct exchange *exchange = waiting_pop(dispatch, &dispatch->looks);
    if (is_expired(dispatch, exchange)) {
        dispatch->expired_total += 1;
        refuse(dispatch, exchange, RESULT_EXPIRED, NULL);
        return false;
    }
    const char *denied = gate_check(&dispatch->gate, exchange);
    if (denied != NULL) {
        refuse(dispatch, exchange, RESULT_DENIED, denied);
        return false;
    }
    switch ((enum operation)exchange->header.operation) {
    case OPERATION_HELLO:
        answer_hello(dispatch, exchange);
        return false;
    case OPERATION_PING:
        reply_body(exchange, exchange_body(exchange), exchange->header.body_size);
        return false;
    case OPERATION_STAT:
        answer_stat(dispatch, exchange);
        return true;
    case OPERATION_SCHEMA:
        answer_schema(dispatch, exchange);
        return true;
    case OPERATION_CREATE_GROOVE:
    case OPERATION_DROP_GROOVE:
    case OPERATION_WRITE:
    case OPERATION_LOOKUP:
    case OPERATION_QUERY:
    case OPERATION_COUNT:
    case OPERATION_OPEN_SESSION:
    case OPERATION_CLOSE_SESSION:
        break;
    }
    assert(false && "goes to the forest");
    return false;
}

bool dispatch_take(struct dispatch *dispatch)
{
    assert(dispatch->listener != NULL);

    struct exchange *next = request_queue_take_all(dispatch->queue);
    const bool any = next != NULL;
    while (next != NULL) {
        struct exchange *exchange = next;
        next = exchange->next;
        exchange->context = dispatch;
        if (exchange->peer_uid != dispatch->last_uid) {
            dispatch->other_user_ns = dispatch->taken_total > 0 ? exchange->received_ns : 0;
            dispatch->last_uid = exchange->peer_uid;
        }
        dispatch->taken_total += 1;
        assert(exchange->header.operation < DISPATCH_OPERATION_COUNT);
        dispatch->requests_total[exchange->header.operation] += 1;
        switch ((enum operation)exchange->header.operation) {
        case OPERATION_HELLO:
        case OPERATION_PING:
        case OPERATION_STAT:
        case OPERATION_SCHEMA:
            fair_queue_push(&dispatch->looks, exchange);
            break;
        case OPERATION_CREATE_GROOVE:
        case OPERATION_DROP_GROOVE:
        case OPERATION_WRITE:
        case OPERATION_OPEN_SESSION:
        case OPERATION_CLOSE_SESSION:
            fair_queue_push(&dispatch->writes, exchange);
            break;
        case OPERATION_LOOKUP:
        case OPERATION_QUERY:
        case OPERATION_COUNT:
            fair_queue_push(&dispatch->reads, exchange);
            break;
        }
    }
    return any;
}

/* ---- Writes ------------------------------------------------------------------------------------
 */

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
    struct exchange *exchange = waiting_pop(dispatch, &dispatch->writes);
    if (is_numbered(exchange)) {
        const struct request_session session = session_of(exchange);
        forest_session_refused(dispatch->forest, &session, result);
    }
    refuse(dispatch, exchange, result, text);
}

/* Refuses the write whose turn it is for what its session says: nothing is remembered of that. */
static void refuse_session(struct dispatch *dispatch, enum result result, const char *text)
{
    refuse(dispatch, waiting_pop(dispatch, &dispatch->writes), result, text);
}

static bool refuse_expired(struct dispatch *dispatch)
{
    if (!is_expired(dispatch, fair_queue_peek(&dispatch->writes))) {
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

static const char other_user[] = "the session is another user's";

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
    switch (forest_session_look(dispatch->forest, &session, &answer)) {
    case SESSION_NEW:
        return SEEN_NEVER;
    case SESSION_WAIT:
        return SEEN_LATER;
    case SESSION_DONE: {
        waiting_pop(dispatch, &dispatch->writes);
        dispatch->replays_total += 1;
        const bool forbidden = transport_begin();
        reply_executed(exchange, &answer.outcome);
        transport_end(forbidden);
        break;
    }
    case SESSION_UNDER_WAY:
        waiting_pop(dispatch, &dispatch->writes);
        attach(dispatch, answer.context, exchange);
        break;
    case SESSION_REFUSED:
        dispatch->replays_total += 1;
        refuse_session(dispatch, (enum result)answer.refused_result, NULL);
        break;
    case SESSION_NONE:
        refuse_session(dispatch, RESULT_NO_SESSION, NULL);
        break;
    case SESSION_OTHER_USER:
        refuse_session(dispatch, RESULT_DENIED, other_user);
        break;
    case SESSION_BAD_LANE:
        refuse_session(dispatch, RESULT_BAD_LANE, NULL);
        break;
    case SESSION_STALE:
        refuse_session(dispatch, RESULT_STALE_NUMBER, NULL);
        break;
    case SESSION_LANE_BUSY:
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
    switch (forest_session_find(dispatch->forest, &session, &info)) {
    case SESSION_WAIT:
        return false;
    case SESSION_OTHER_USER:
        refuse_session(dispatch, RESULT_DENIED, other_user);
        return true;
    case SESSION_DONE: {
        waiting_pop(dispatch, &dispatch->writes);
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
        waiting_pop(dispatch, &dispatch->writes);
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
        waiting_pop(dispatch, &dispatch->writes);
        return true;
    case FOREST_LATER:
        return false;
    case FOREST_REFUSED:
        break;
    }
    if (verdict == SESSION_NONE) {
        refuse_session(dispatch, RESULT_NO_SESSION, NULL);
    } else if (verdict == SESSION_OTHER_USER) {
        refuse_session(dispatch, RESULT_DENIED, other_user);
    } else if (verdict == SESSION_LANE_BUSY) {
        refuse_session(dispatch, RESULT_LANE_BUSY, NULL);
    } else {
        assert(verdict == SESSION_NEW);
        refuse_write(dispatch, dispatch_result(result), NULL);
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

/* Whether more than one user has asked for something within a second. */
static bool several_ask(const struct dispatch *dispatch)
{
    return dispatch->other_user_ns != 0 &&
           clock_monotonic_ns(dispatch->clock) < dispatch->other_user_ns + shared_ns;
}

/* Passes those who have their share of the batch that gathers. False: all who wait have. Whoever
 * comes waits for the batch under way and for the one that gathers; so while several users ask,
 * none fills it with his. */
static bool pass_to_turn(struct dispatch *dispatch)
{
    if (!several_ask(dispatch)) {
        return true;
    }
    for (uint32_t left = dispatch->writes.users.count; left > 0; left--) {
        const struct exchange *exchange = fair_queue_peek(&dispatch->writes);
        const struct dispatch_share *share = share_find(dispatch, exchange->peer_uid);
        if (share == NULL ||
            (share->count < SHARED_BATCH_COUNT && share->size < SHARED_BATCH_SIZE)) {
            return true;
        }
        fair_queue_pass(&dispatch->writes);
    }
    return false;
}

static bool submit_write(struct dispatch *dispatch)
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
        waiting_pop(dispatch, &dispatch->writes);
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
            refuse(dispatch, exchange, dispatch_result(outcome->result), outcome->reason);
        } else {
            const bool forbidden = transport_begin();
            reply_executed(exchange, outcome);
            transport_end(forbidden);
        }
        exchange = next;
    }
}

/* ---- Reads -------------------------------------------------------------------------------------
 */

static void reply_read(struct exchange *exchange, const struct read_request *read)
{
    struct reply reply;
    if (read->kind == READ_KIND_COUNT) {
        if (reply_begin(&reply, exchange, sizeof read->count)) {
            reply_append(&reply, &read->count, sizeof read->count);
            reply_send(&reply, read->commit, 0);
        }
        return;
    }
    const struct objects_reply objects = {
        .object_count = (uint32_t)read->count,
        .object_size = read->object_size,
    };
    assert(read->count * read->object_size == read->reply_size);
    if (reply_begin(&reply, exchange, (uint32_t)sizeof objects + read->reply_size)) {
        reply_append(&reply, &objects, sizeof objects);
        reply_append(&reply, read->reply, read->reply_size);
        reply_send(&reply, read->commit, 0);
    }
}

/* On a reader's thread. */
static void read_done(struct read_request *read)
{
    struct exchange *exchange = read->context;
    struct dispatch_reading *reading = exchange->context;
    struct dispatch *dispatch = reading->dispatch;
    const bool forbidden = transport_begin(); /* With inline readers this is the forest thread. */
    if (read->result == REQUEST_RESULT_OK) {
        reply_read(exchange, read);
    } else {
        atomic_fetch_add_explicit(&dispatch->reads_refused_total, 1, memory_order_relaxed);
        if (read->result == REQUEST_RESULT_EXPIRED) {
            atomic_fetch_add_explicit(&dispatch->reads_expired_total, 1, memory_order_relaxed);
        }
        exchange_reply_result(exchange, dispatch_result(read->result), NULL);
    }
    transport_end(forbidden);
    struct doorbell *doorbell = dispatch->queue->doorbell;
    forest_read_release(dispatch->forest, read);
    atomic_fetch_sub_explicit(&reading->count, 1, memory_order_release);
    /* Pairs with the acquire in dispatch_is_idle. The forest thread joins the readers before it
     * takes anything apart, so the doorbell is still there. */
    atomic_fetch_sub_explicit(&dispatch->reads_in_progress, 1, memory_order_release);
    doorbell_ring(doorbell);
}

static void fill_read(const struct exchange *exchange, struct read_request *read)
{
    const uint8_t *body = exchange_body(exchange);
    const uint32_t body_size = exchange->header.body_size;
    read->context = (void *)exchange;
    read->done = read_done;
    read->deadline_ns = deadline_of(exchange);
    if (exchange->header.operation == OPERATION_LOOKUP) {
        struct lookup_request lookup;
        assert(body_size >= sizeof lookup); /* protocol_request_check */
        memcpy(&lookup, body, sizeof lookup);
        read->kind = READ_KIND_LOOKUP;
        read->groove_id = lookup.groove_id;
        read->index = READ_INDEX_NONE;
        read->limit = 0;
        read->input = body + sizeof lookup;
        read->input_size = body_size - (uint32_t)sizeof lookup;
        return;
    }
    struct query_request query;
    assert(body_size >= sizeof query);
    memcpy(&query, body, sizeof query);
    read->kind = exchange->header.operation == OPERATION_QUERY ? READ_KIND_QUERY : READ_KIND_COUNT;
    read->groove_id = query.groove_id;
    read->index = query.index_id;
    read->limit = query.limit;
    read->input = body + sizeof query;
    read->input_size = query.key_size;
    assert(read->input_size <= body_size - sizeof query);
}

/* His entry, or one for him. */
static struct dispatch_reading *reading_of(struct dispatch *dispatch, uint32_t uid)
{
    struct dispatch_reading *unused = NULL;
    for (uint32_t i = 0; i < dispatch->config->read_slot_count; i++) {
        struct dispatch_reading *reading = &dispatch->readings[i];
        if (atomic_load_explicit(&reading->count, memory_order_acquire) == 0) {
            unused = unused == NULL ? reading : unused;
        } else if (reading->uid == uid) {
            return reading;
        }
    }
    if (unused != NULL) {
        unused->dispatch = dispatch;
        unused->uid = uid;
    }
    return unused;
}

/* Of the slots a user may take one more while he has less than three times what would stay free, as
 * of all that is shared (ipc/peers.h); a first one always. And while several users ask, he keeps no
 * more readers busy than there are: what else he asks for waits here, where users take turns, and
 * not in the readers' queue. */
static bool may_read(const struct dispatch *dispatch, const struct dispatch_reading *reading)
{
    if (reading == NULL) {
        return false;
    }
    const uint32_t slots = dispatch->config->read_slot_count;
    const uint32_t busy = atomic_load_explicit(&dispatch->reads_in_progress, memory_order_relaxed);
    const uint32_t count = atomic_load_explicit(&reading->count, memory_order_relaxed);
    /* A slot may be free again before its reader has counted down: busy may be more than slots. */
    return count == 0 || (busy < slots && count < PEERS_SHARE * (slots - busy - 1) &&
                          (!several_ask(dispatch) || count < dispatch->config->readers));
}

/* Gives the read whose turn it is to the readers. False: they have no slot for it. */
static bool begin_read(struct dispatch *dispatch, struct dispatch_reading *reading)
{
    struct read_request *read = forest_read_acquire(dispatch->forest);
    if (read == NULL) {
        return false;
    }
    struct exchange *exchange = waiting_pop(dispatch, &dispatch->reads);
    fill_read(exchange, read);
    exchange->context = reading;
    atomic_fetch_add_explicit(&reading->count, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&dispatch->reads_in_progress, 1, memory_order_relaxed);
    forest_read_submit(dispatch->forest, read);
    return true;
}

/* Returns whether a read went anywhere: whose turn it is, but for those who have their share. */
static bool submit_read(struct dispatch *dispatch)
{
    for (uint32_t left = dispatch->reads.users.count; left > 0; left--) {
        struct exchange *exchange = fair_queue_peek(&dispatch->reads);
        if (is_expired(dispatch, exchange)) {
            waiting_pop(dispatch, &dispatch->reads);
            dispatch->expired_total += 1;
            refuse(dispatch, exchange, RESULT_EXPIRED, NULL);
            return true;
        }
        const char *denied = gate_check(&dispatch->gate, exchange);
        if (denied != NULL) {
            waiting_pop(dispatch, &dispatch->reads);
            refuse(dispatch, exchange, RESULT_DENIED, denied);
            return true;
        }
        struct dispatch_reading *reading = reading_of(dispatch, exchange->peer_uid);
        if (may_read(dispatch, reading)) {
            return begin_read(dispatch, reading);
        }
        fair_queue_pass(&dispatch->reads);
    }
    return false;
}

bool dispatch_submit(struct dispatch *dispatch)
{
    bool any = false;
    forest_share(dispatch->forest, several_ask(dispatch));
    while (dispatch->writes.count > 0 && submit_write(dispatch)) {
        any = true;
    }
    while (dispatch->reads.count > 0 && submit_read(dispatch)) {
        any = true;
    }
    bool is_long = false;
    for (uint32_t i = 0; i < LOOKS_PER_TURN && dispatch->looks.count > 0 && !is_long; i++) {
        is_long = answer(dispatch);
        any = true;
    }
    return any;
}

bool dispatch_is_idle(const struct dispatch *dispatch)
{
    return dispatch->writes.count == 0 && dispatch->reads.count == 0 &&
           dispatch->looks.count == 0 &&
           atomic_load_explicit(&dispatch->reads_in_progress, memory_order_acquire) == 0;
}
