#include "server/dispatch.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "engine/object.h"
#include "pool/base.h"
#include "pool/memory.h"
#include "server/dispatch_internal.h"
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
    /* Likewise of lookups: more are for the readers, which may run beside each other. */
    LOOKUPS_HERE_PER_TURN = 4,
    LOOKUPS_HERE_SHARED = 2, /* while several users ask */
    /* And while several ask, STAT and SCHEMA have one part of so many of the time. */
    LONG_LOOK_PART = 4,
    SCHEMA_GROOVE_SIZE_MAX = sizeof(struct schema_groove) +
                             FIELD_COUNT_MAX * sizeof(struct schema_field) +
                             INDEX_COUNT_MAX * sizeof(struct schema_index),
};
static_assert(MESSAGE_MARGIN > sizeof(struct wire_groove_spec) + PROTOCOL_HEADER_SIZE, "fits");

static const uint64_t shared_ns =
    1000ull * 1000 * 1000; /* so long two users ask at the same time */
static const uint64_t beside_ns =
    10ull * 1000 * 1000; /* so long after a read there may be another one soon */
static const uint64_t ns_per_ms = 1000ull * 1000;

/* Takes out whose turn it is: from here on it does not wait. */
struct exchange *dispatch_pop(struct dispatch *dispatch, struct fair_queue *waiting)
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

bool dispatch_several_ask(const struct dispatch *dispatch)
{
    return dispatch->other_user_ns != 0 &&
           clock_monotonic_ns(dispatch->clock) < dispatch->other_user_ns + shared_ns;
}

/* Whether somebody waits while the forest thread does: another user, or a read of another
 * connection than the one that writes. */
static bool others_wait(const struct dispatch *dispatch)
{
    return dispatch_several_ask(dispatch) ||
           (dispatch->read_beside_ns != 0 &&
            clock_monotonic_ns(dispatch->clock) < dispatch->read_beside_ns + beside_ns);
}

void dispatch_refuse(struct dispatch *dispatch, struct exchange *exchange, enum result result,
                     const char *text)
{
    assert(result != RESULT_OK);
    dispatch->refused_total += 1;
    const bool forbidden = transport_begin();
    exchange_reply_result(exchange, result, text);
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
        dispatch_refuse(dispatch, exchange, RESULT_INTERNAL,
                        "the statistics do not fit their buffer");
        return;
    }
    reply_body(exchange, text, (uint32_t)strlen(text));
}

/* 0: it has none. */
uint64_t dispatch_deadline_of(const struct exchange *exchange)
{
    const uint32_t deadline_ms = exchange->header.deadline_ms;
    return deadline_ms == 0 ? 0 : exchange->received_ns + deadline_ms * ns_per_ms;
}

bool dispatch_is_expired(const struct dispatch *dispatch, const struct exchange *exchange)
{
    const uint64_t deadline_ns = dispatch_deadline_of(exchange);
    return deadline_ns != 0 && clock_monotonic_ns(dispatch->clock) > deadline_ns;
}

/* Passes those who ask for what takes long, as long as the time since the last such answer is
 * others'. False: all who wait do. */
static bool pass_to_look(struct dispatch *dispatch)
{
    if (clock_monotonic_ns(dispatch->clock) >= dispatch->long_look_next_ns ||
        !dispatch_several_ask(dispatch)) {
        return true;
    }
    for (uint32_t left = dispatch->looks.users.count; left > 0; left--) {
        const uint16_t operation = fair_queue_peek(&dispatch->looks)->header.operation;
        if (operation != OPERATION_STAT && operation != OPERATION_SCHEMA) {
            return true;
        }
        fair_queue_pass(&dispatch->looks);
    }
    return false;
}

/* Answers whose turn it is. Returns whether that took long. */
static bool answer(struct dispatch *dispatch)
{
    struct exchange *exchange = dispatch_pop(dispatch, &dispatch->looks);
    if (dispatch_is_expired(dispatch, exchange)) {
        dispatch->expired_total += 1;
        dispatch_refuse(dispatch, exchange, RESULT_EXPIRED, NULL);
        return false;
    }
    const char *denied = gate_check(&dispatch->gate, exchange);
    if (denied != NULL) {
        dispatch_refuse(dispatch, exchange, RESULT_DENIED, denied);
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

/* The same, and keeps the account of what takes long. */
static bool look(struct dispatch *dispatch)
{
    const uint64_t begin_ns = clock_monotonic_ns(dispatch->clock);
    const bool is_long = answer(dispatch);
    if (is_long) {
        const uint64_t end_ns = clock_monotonic_ns(dispatch->clock);
        dispatch->long_look_next_ns = end_ns + (LONG_LOOK_PART - 1) * (end_ns - begin_ns);
    }
    return is_long;
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
            dispatch->writer_id = exchange->peer_id;
            fair_queue_push(&dispatch->writes, exchange);
            break;
        case OPERATION_LOOKUP:
        case OPERATION_QUERY:
        case OPERATION_COUNT:
            if (exchange->peer_id != dispatch->writer_id) {
                dispatch->read_beside_ns = exchange->received_ns;
            }
            fair_queue_push(&dispatch->reads, exchange);
            break;
        }
    }
    return any;
}

bool dispatch_submit(struct dispatch *dispatch)
{
    bool any = false;
    forest_share(dispatch->forest, others_wait(dispatch));
    dispatch->lookups_here_left =
        dispatch_several_ask(dispatch) ? LOOKUPS_HERE_SHARED : LOOKUPS_HERE_PER_TURN;
    while (dispatch->writes.count > 0 && dispatch_submit_write(dispatch)) {
        any = true;
    }
    while (dispatch->reads.count > 0 && dispatch_submit_read(dispatch)) {
        any = true;
    }
    bool is_over = false;
    for (uint32_t i = 0; i < LOOKS_PER_TURN && dispatch->looks.count > 0 && !is_over; i++) {
        any = true; /* Also when it is not yet time for one: then it is soon. */
        is_over = !pass_to_look(dispatch) || look(dispatch);
    }
    return any;
}

bool dispatch_is_idle(const struct dispatch *dispatch)
{
    return dispatch->writes.count == 0 && dispatch->reads.count == 0 &&
           dispatch->looks.count == 0 &&
           atomic_load_explicit(&dispatch->reads_in_progress, memory_order_acquire) == 0;
}
