#include "tests/sim/sim_front.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forest.h"
#include "pool/base.h"
#include "tests/sim/sim.h"
#include "tests/sim/sim_threads.h"

enum { EXCHANGE_MAX = 16, NETWORK_NS = 20 * 1000 };
static const uint64_t patience_ns = 120ull * 1000 * 1000 * 1000;
static const uint64_t ns_per_ms = 1000ull * 1000;

struct listener {
    listener_handler *handler;
    void *context;
    uint32_t message_size_max;
    uint32_t exchange_count;
    struct doorbell *doorbell; /* of the forest thread */
    bool stopping, stopped;
};

static struct sim_parcel parcels[EXCHANGE_MAX];
static struct listener the_listener;

/* ---- What the daemon says ----------------------------------------------------------------------
 */

struct request_header sim_request_header(const struct sim_lane *lane)
{
    struct request_header header;
    memcpy(&header, lane->request, sizeof header);
    return header;
}

const uint8_t *sim_request_body(const struct sim_lane *lane)
{
    return lane->request + PROTOCOL_HEADER_SIZE;
}

bool sim_is_write(uint16_t operation)
{
    return operation == OPERATION_WRITE || operation == OPERATION_CREATE_GROOVE ||
           operation == OPERATION_DROP_GROOVE;
}

struct sim_slot *sim_slot_named(const void *name)
{
    for (uint32_t i = 0; i < SIM_SLOT_COUNT; i++) {
        if (strncmp(sim->model.slots[i].schema.spec.name, name, WIRE_NAME_SIZE) == 0) {
            return &sim->model.slots[i];
        }
    }
    return NULL;
}

static void pending_remove(uint32_t lane_index)
{
    struct sim_front *front = &sim->front;
    assert(front->lanes[lane_index].pending);
    front->lanes[lane_index].pending = false;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < front->pending_count; i++) {
        if (front->pending[i] != lane_index) {
            front->pending[kept++] = front->pending[i];
        }
    }
    assert(kept + 1 == front->pending_count);
    front->pending_count = kept;
}

uint32_t sim_section_size(const struct wire_section *section, const struct sim_slot *slot)
{
    const bool id = section->event_type == WIRE_EVENT_TYPE_REMOVE ||
                    section->event_type == WIRE_EVENT_TYPE_CHECK;
    const uint32_t guard_size = section->guard == WIRE_GUARD_VERSION ? 8 : 0;
    return (uint32_t)sizeof *section +
           section->event_count * (guard_size + (id ? WIRE_ID_SIZE : slot->schema.object_size));
}

static void told_write(const struct sim_lane *lane, const struct reply_header *header,
                       const uint8_t *body)
{
    const struct request_header request = sim_request_header(lane);
    struct event_failure failures[SIM_FAILURE_MAX];
    const uint32_t count =
        sim_model_write(&sim->model, sim_request_body(lane), request.body_size, request.flags != 0,
                        header->commit, header->timestamp, failures);
    struct write_reply write;
    memcpy(&write, body, sizeof write);
    const uint32_t listed =
        sim_is_numbered(lane) ? (uint32_t)min_u64(count, SESSION_FAILURE_MAX) : count;
    if (write.failure_count != listed || write.failure_total != count ||
        header->body_size != sizeof write + listed * sizeof(struct wire_failure) ||
        (listed > 0 && memcmp(body + sizeof write, failures, listed * sizeof failures[0]) != 0)) {
        struct wire_failure said = {0};
        if (write.failure_count > 0) {
            memcpy(&said, body + sizeof write, sizeof said);
        }
        sim_fail("commit %" PRIu64 ": %u failures said (event %u: %u), %u expected (event %u: %u)",
                 header->commit, write.failure_count, said.event_index, said.result, count,
                 count > 0 ? failures[0].event_index : 0, count > 0 ? failures[0].result : 0);
    }
    uint32_t events = 0;
    for (uint32_t offset = 0; offset < request.body_size;) {
        struct wire_section section;
        memcpy(&section, sim_request_body(lane) + offset, sizeof section);
        const struct sim_slot *slot = sim_model_slot(&sim->model, section.groove_id);
        if (sim_slot_groove(slot, UINT64_MAX) != section.groove_id) {
            sim_fail("commit %" PRIu64 " wrote to groove %u, which does not exist", header->commit,
                     section.groove_id);
        }
        events += section.event_count;
        offset += sim_section_size(&section, slot);
    }
    sim->counters[SIM_EVENTS] += events;
    sim->model.timestamp = header->timestamp + events - 1;
}

static void told_create(const struct sim_lane *lane, const struct reply_header *header,
                        const uint8_t *body)
{
    struct sim_slot *slot = sim_slot_named(sim_request_body(lane));
    struct create_groove_reply created;
    if (header->body_size != sizeof created) {
        sim_fail("a create was answered with %u bytes", header->body_size);
    }
    memcpy(&created, body, sizeof created);
    if (sim_slot_groove(slot, UINT64_MAX) != 0 ||
        sim_model_slot(&sim->model, created.groove_id) != NULL || created.groove_id == 0) {
        sim_fail("commit %" PRIu64 ": %s was created as groove %u, but it or the number exists",
                 header->commit, slot->schema.spec.name, created.groove_id);
    }
    sim_model_create(&sim->model, slot, header->commit, created.groove_id);
    sim_count(SIM_CREATES);
}

static void told_drop(const struct sim_lane *lane, const struct reply_header *header)
{
    struct sim_slot *slot = sim_slot_named(sim_request_body(lane));
    if (sim_slot_groove(slot, UINT64_MAX) == 0) {
        sim_fail("commit %" PRIu64 ": %s was dropped, but it does not exist", header->commit,
                 slot->schema.spec.name);
    }
    sim_model_drop(&sim->model, slot, header->commit);
    sim_count(SIM_DROPS);
}

/* It was done in a life before: its lane is told now. The model knows of it if it left anything. */
static void told_late(struct sim_lane *lane, const struct reply_header *header, const uint8_t *body)
{
    if (!lane->resent) {
        sim_fail("commit %" PRIu64 " was executed before request %" PRIu64 " was sent",
                 header->commit, lane->number);
    }
    sim_count(SIM_RESENT_DONE);
    if (!lane->kept || sim_request_header(lane).operation != OPERATION_WRITE) {
        return;
    }
    struct write_reply write;
    memcpy(&write, body, sizeof write);
    const uint32_t listed = (uint32_t)min_u64(lane->kept_failure_count, SESSION_FAILURE_MAX);
    if (write.failure_total != lane->kept_failure_count || write.failure_count != listed ||
        memcmp(body + sizeof write, lane->kept_failures, listed * sizeof lane->kept_failures[0]) !=
            0) {
        sim_fail("commit %" PRIu64 ", told late: %u failures said, %u expected", header->commit,
                 write.failure_total, lane->kept_failure_count);
    }
}

/* Whether the reply is news. What is said of a number, once it is definite, is said again in the
 * same bytes, or not at all for now. */
static bool is_news(struct sim_parcel *parcel, const struct reply_header *header)
{
    struct sim_lane *lane = &sim->front.lanes[parcel->lane];
    if (header->result == RESULT_BUSY || header->result == RESULT_SHUTTING_DOWN) {
        return false; /* Said at the door: the daemon did not take it in hand. */
    }
    if (!sim_is_numbered(lane)) {
        return true;
    }
    sim_session_told_write(lane, header);
    if (header->result == RESULT_NO_SESSION) {
        return false; /* It says nothing of the number. */
    }
    const uint64_t hash =
        header->result == RESULT_OK ? sim_hash(parcel->reply, parcel->reply_size) : header->result;
    if (lane->told_number == lane->number) {
        if (lane->told_hash != hash) {
            sim_fail("request %" PRIu64 " was answered in two ways, now: %s", lane->number,
                     result_name(header->result));
        }
        sim_count(SIM_DOUBLED);
        return false;
    }
    if (header->result != RESULT_OK && lane->kept) {
        sim_fail("request %" PRIu64 " was done, and is refused now: %s", lane->number,
                 result_name(header->result));
    }
    lane->told_number = lane->number;
    lane->told_hash = hash;
    lane->unanswered = false;
    lane->executed = header->result == RESULT_OK ? lane->number : lane->executed;
    return true;
}

void sim_front_note_refused(void *exchange)
{
    const struct sim_parcel *parcel = exchange;
    if (sim->front.lanes[parcel->lane].pending) {
        pending_remove(parcel->lane);
    }
}

/* A reply to a write leaves the daemon: from now on it is a promise. */
static void told(struct sim_parcel *parcel, const struct reply_header *header, const uint8_t *body)
{
    struct sim_front *front = &sim->front;
    struct sim_lane *lane = &front->lanes[parcel->lane];
    const struct request_header request = sim_request_header(lane);
    if (header->result != RESULT_OK) {
        if (lane->pending) {
            pending_remove(parcel->lane);
        }
        return;
    }
    if (header->commit <= front->commit_found && sim_is_numbered(lane)) {
        if (lane->pending) {
            pending_remove(parcel->lane);
        }
        told_late(lane, header, body);
        return;
    }
    if (lane->kept) {
        sim_fail("request %" PRIu64 " was executed again, as commit %" PRIu64, lane->number,
                 header->commit);
    }
    if (!lane->pending || front->pending[0] != parcel->lane) {
        sim_fail("commit %" PRIu64 " of request %" PRIu64 " overtook request %" PRIu64
                 ", which was taken before it",
                 header->commit, lane->number, front->lanes[front->pending[0]].number);
    }
    if (header->commit <= front->commit_told || header->timestamp <= sim->model.timestamp) {
        sim_fail("commit %" PRIu64 " at %" PRIu64 ", after %" PRIu64 " at %" PRIu64, header->commit,
                 header->timestamp, front->commit_told, sim->model.timestamp);
    }
    pending_remove(parcel->lane);
    front->commit_told = header->commit;
    front->commit_seen = max_u64(front->commit_seen, header->commit);
    sim->model.timestamp = header->timestamp;
    sim_count(SIM_WRITES);
    sim->counters[SIM_NUMBERED] += sim_is_numbered(lane);
    sim->counters[SIM_RESENT_NEW] += lane->resent && sim_is_numbered(lane);
    if (request.operation == OPERATION_WRITE) {
        told_write(lane, header, body);
    } else if (request.operation == OPERATION_CREATE_GROOVE) {
        told_create(lane, header, body);
    } else {
        told_drop(lane, header);
    }
}

static void answer(struct sim_parcel *parcel)
{
    if (!parcel->handed || parcel->answered) {
        sim_fail("an exchange was answered twice");
    }
    parcel->answered = true;
    memset(parcel->bytes, 0xdd, sizeof parcel->bytes); /* It is not the daemon's any more. */
    struct sim_front *front = &sim->front;
    struct reply_header header = {0};
    if (!parcel->dropped) {
        if (!protocol_reply_check(parcel->reply, parcel->reply_size, &header) ||
            header.number != front->lanes[parcel->lane].number) {
            sim_fail("what was sent is no reply to request %" PRIu64,
                     front->lanes[parcel->lane].number);
        }
        const struct request_header request = sim_request_header(&front->lanes[parcel->lane]);
        if (request.operation != OPERATION_STAT) { /* It tells of this process. */
            sim_mix(sim_hash(parcel->reply, parcel->reply_size));
        }
        sim_trace("reply", header.number, header.result, header.commit);
        if (request.operation == OPERATION_OPEN_SESSION) {
            sim_session_told_open(&front->lanes[parcel->lane], &header,
                                  parcel->reply + PROTOCOL_HEADER_SIZE);
        } else if (request.operation == OPERATION_CLOSE_SESSION) {
            sim_session_told_close(&front->lanes[parcel->lane], &header);
        } else if (sim_is_write(request.operation) && is_news(parcel, &header)) {
            told(parcel, &header, parcel->reply + PROTOCOL_HEADER_SIZE);
        }
        parcel->witness_count = front->pending_count;
        for (uint32_t i = 0; i < front->pending_count; i++) {
            parcel->witnesses[i].lane = front->pending[i];
            parcel->witnesses[i].number = front->lanes[front->pending[i]].number;
        }
    }
    front->answered_count += 1;
    sim_count(SIM_REQUESTS);
    sim_wake(&front->pending_count, true);
    sim_wake(parcel, true);
}

/* ---- ipc/listener.h ----------------------------------------------------------------------------
 */

enum status listener_start(const struct listener_options *options, listener_handler *handler,
                           void *context, struct listener **listener, const char **reason)
{
    *reason = NULL;
    the_listener = (struct listener){
        .handler = handler,
        .context = context,
        .message_size_max = options->message_size_max,
        .exchange_count = options->exchange_count,
        .doorbell = options->doorbell,
    };
    assert(options->exchange_count <= EXCHANGE_MAX);
    *listener = &the_listener;
    sim->life.recovered = true;
    sim->life.recovered_step = sim->step;
    sim_trace("recovered", sim->step, 0, 0);
    sim_wake(&sim->life.recovered, true);
    return STATUS_OK;
}

void listener_wait(struct listener *listener, uint64_t seen, uint64_t timeout_ns)
{
    if (timeout_ns > 0) {
        doorbell_wait(listener->doorbell, seen, timeout_ns);
    }
}

void listener_stop_accepting(struct listener *listener)
{
    listener->stopping = true;
}

static bool is_drained(void)
{
    for (uint32_t i = 0; i < EXCHANGE_MAX; i++) {
        if (parcels[i].handed && !parcels[i].answered) {
            return false;
        }
    }
    return true;
}

uint64_t listener_memory_size(const struct listener_options *options)
{
    (void)options;
    return 0;
}

uint32_t listener_exchange_count(const struct listener_options *options)
{
    return options->exchange_count;
}

bool listener_drain(struct listener *listener, uint32_t timeout_ms)
{
    assert(listener->stopping);
    const uint64_t deadline_ns = sim->now_ns + timeout_ms * ns_per_ms;
    while (!is_drained() && sim->now_ns < deadline_ns) {
        (void)sim_wait(&sim->front.pending_count, deadline_ns);
    }
    return is_drained();
}

void listener_stop(struct listener *listener)
{
    if (!is_drained()) {
        sim_fail("the listener was stopped while requests were in hand");
    }
    listener->stopped = true;
}

uint8_t *exchange_reply_buffer(struct exchange *exchange, uint32_t size)
{
    struct sim_parcel *parcel = (struct sim_parcel *)exchange;
    assert(size <= the_listener.message_size_max);
    if (parcel->reply_capacity < size) {
        free(parcel->reply);
        parcel->reply = malloc(size);
        parcel->reply_capacity = size;
    }
    memset(parcel->reply, 0xcd, size < 256 ? size : 256);
    return parcel->reply;
}

void exchange_send(struct exchange *exchange, uint32_t size)
{
    struct sim_parcel *parcel = (struct sim_parcel *)exchange;
    parcel->reply_size = size;
    answer(parcel);
}

void exchange_reply(struct exchange *exchange, const void *header, uint32_t header_size,
                    const void *body, uint32_t body_size)
{
    uint8_t *reply = exchange_reply_buffer(exchange, header_size + body_size);
    memcpy(reply, header, header_size);
    if (body_size > 0) {
        memcpy(reply + header_size, body, body_size);
    }
    exchange_send(exchange, header_size + body_size);
}

void exchange_reply_result(struct exchange *exchange, enum result result, const char *text)
{
    const char *body = text != NULL ? text : result_text(result);
    const struct reply_header header =
        protocol_reply_header(&exchange->header, result, (uint32_t)strlen(body));
    exchange_reply(exchange, &header, sizeof header, body, (uint32_t)strlen(body));
}

void exchange_drop(struct exchange *exchange)
{
    struct sim_parcel *parcel = (struct sim_parcel *)exchange;
    parcel->dropped = true;
    answer(parcel);
}

void listener_stats_read(struct listener *listener, struct listener_stats *stats)
{
    (void)listener;
    *stats = (struct listener_stats){.connections = sim->swarm.lane_count};
}

/* The order in which the forest takes writes is the order in which they shall happen; users and
 * connections take turns before that. */
enum forest_admission __real_forest_batch_add(struct forest *forest, enum request_kind kind,
                                              bool atomic, const uint8_t *body, uint32_t size,
                                              const struct request_session *session, void *context,
                                              enum request_result *result, const char **reason);
enum forest_admission __wrap_forest_batch_add(struct forest *forest, enum request_kind kind,
                                              bool atomic, const uint8_t *body, uint32_t size,
                                              const struct request_session *session, void *context,
                                              enum request_result *result, const char **reason);
enum forest_admission __wrap_forest_batch_add(struct forest *forest, enum request_kind kind,
                                              bool atomic, const uint8_t *body, uint32_t size,
                                              const struct request_session *session, void *context,
                                              enum request_result *result, const char **reason)
{
    const enum forest_admission admission =
        __real_forest_batch_add(forest, kind, atomic, body, size, session, context, result, reason);
    const struct exchange *exchange = context;
    if (admission == FOREST_ADDED && exchange != NULL && sim_is_write(exchange->header.operation)) {
        struct sim_front *front = &sim->front;
        const uint32_t lane = ((const struct sim_parcel *)context)->lane;
        assert(!front->lanes[lane].pending);
        front->lanes[lane].pending = true;
        front->pending[front->pending_count] = lane;
        front->pending_count += 1;
    }
    return admission;
}

/* ---- Asking ------------------------------------------------------------------------------------
 */

/* NULL: none is free. */
static struct sim_parcel *parcel_try_acquire(void)
{
    for (uint32_t i = 0; i < the_listener.exchange_count; i++) {
        if (!parcels[i].used) {
            parcels[i].used = true;
            parcels[i].handed = false;
            parcels[i].answered = false;
            parcels[i].dropped = false;
            parcels[i].witness_count = 0;
            return &parcels[i];
        }
    }
    return NULL;
}

static struct sim_parcel *parcel_acquire(void)
{
    struct sim_parcel *parcel = parcel_try_acquire();
    while (parcel == NULL) {
        (void)sim_wait(parcels, UINT64_MAX);
        parcel = parcel_try_acquire();
    }
    return parcel;
}

void sim_parcel_release(struct sim_parcel *parcel)
{
    assert(parcel->used && parcel->handed == parcel->answered);
    parcel->used = false;
    parcel->handed = false;
    sim_wake(parcels, false);
}

void sim_request_begin(struct sim_lane *lane, uint16_t operation)
{
    struct sim_front *front = &sim->front;
    front->number_next += 1;
    lane->number = front->number_next;
    const struct request_header header = {
        .magic = PROTOCOL_MAGIC,
        .version = PROTOCOL_VERSION,
        .operation = operation,
        .number = lane->number,
        .deadline_ms = sim->life.audited && sim_odds(1, 100) ? 1 + (uint32_t)sim_below(5) : 0,
    };
    memcpy(lane->request, &header, sizeof header);
    lane->request_size = PROTOCOL_HEADER_SIZE;
}

void sim_request_flag(struct sim_lane *lane, uint32_t flags)
{
    memcpy(lane->request + offsetof(struct request_header, flags), &flags, sizeof flags);
}

void sim_request_identify(struct sim_lane *lane)
{
    struct request_header header = sim_request_header(lane);
    sim_session_client_id(lane, header.client_id);
    header.lane = sim_session_lane_number(lane);
    memcpy(lane->request, &header, sizeof header);
}

bool sim_is_numbered(const struct sim_lane *lane)
{
    const struct request_header header = sim_request_header(lane);
    static const uint8_t no_client[WIRE_ID_SIZE];
    return sim_is_write(header.operation) &&
           memcmp(header.client_id, no_client, sizeof no_client) != 0;
}

void sim_request_put(struct sim_lane *lane, const void *bytes, uint32_t size)
{
    assert(size <= SIM_REQUEST_MAX - lane->request_size);
    memcpy(lane->request + lane->request_size, bytes, size);
    lane->request_size += size;
    const uint32_t body_size = lane->request_size - PROTOCOL_HEADER_SIZE;
    memcpy(lane->request + offsetof(struct request_header, body_size), &body_size,
           sizeof body_size);
}

/* The parcel goes to the daemon, which may answer at once. */
static void hand_over(struct sim_lane *lane, struct sim_parcel *parcel)
{
    parcel->lane = (uint32_t)(lane - sim->front.lanes);
    uint8_t *bytes = parcel->bytes + sim_below(SIM_ALIGNMENT_MAX);
    memcpy(bytes, lane->request, lane->request_size);
    sim_mix(sim_hash(lane->request, lane->request_size));
    sim_trace("request", lane->number, sim_request_header(lane).operation, lane->request_size);

    struct exchange *exchange = &parcel->exchange;
    *exchange = (struct exchange){
        .request = bytes,
        .request_size = lane->request_size,
        .peer_id = parcel->lane + 1,
        .received_ns = sim->now_ns,
    };
    enum result result;
    parcel->handed = true;
    if (!protocol_request_check(bytes, lane->request_size, the_listener.message_size_max,
                                &exchange->header, &result)) {
        exchange_reply_result(exchange, result, NULL);
    } else if (the_listener.stopping) {
        exchange_reply_result(exchange, RESULT_SHUTTING_DOWN, NULL);
    } else {
        the_listener.handler(the_listener.context, exchange);
    }
}

static void await_answer(struct sim_parcel *parcel)
{
    while (!parcel->answered) {
        (void)sim_wait(parcel, UINT64_MAX);
    }
}

/* The frame arrives a second time, at once or when the first has its answer. */
static void double_frame(struct sim_lane *lane)
{
    struct sim_parcel *second = parcel_try_acquire();
    if (second == NULL) {
        return;
    }
    if (sim_odds(1, 2)) {
        sim_sleep(sim_duration(sim_odds(1, 2) ? sim->swarm.sync_ns : NETWORK_NS));
    }
    if (!the_listener.stopped) {
        hand_over(lane, second);
        await_answer(second);
    }
    sim_parcel_release(second);
}

/* Sends what the lane holds, and waits for the reply. NULL: there is none, the daemon stops. */
struct sim_parcel *sim_ask(struct sim_lane *lane)
{
    if (the_listener.stopped) {
        return NULL;
    }
    struct sim_parcel *parcel = parcel_acquire();
    sim_sleep(sim_duration(NETWORK_NS));
    if (the_listener.stopped) {
        sim_parcel_release(parcel);
        return NULL;
    }
    lane->commit_sent = sim->front.commit_seen;
    lane->sent_ns = sim->now_ns;
    lane->unanswered |= sim_is_numbered(lane) && lane->told_number != lane->number;
    hand_over(lane, parcel);
    if (sim_is_numbered(lane) && sim_odds(1, 6)) {
        double_frame(lane);
    }
    await_answer(parcel);
    sim_sleep(sim_duration(NETWORK_NS));
    return parcel;
}

struct reply_header sim_reply_header(const struct sim_parcel *parcel)
{
    struct reply_header header;
    memcpy(&header, parcel->reply, sizeof header);
    return header;
}

const uint8_t *sim_reply_body(const struct sim_parcel *parcel)
{
    return parcel->reply + PROTOCOL_HEADER_SIZE;
}

/* ---- Looking on ---------------------------------------------------------------------------------
 */

bool sim_front_is_waiting(void)
{
    for (uint32_t i = 0; i < EXCHANGE_MAX; i++) {
        if (parcels[i].handed && !parcels[i].answered) {
            return true;
        }
    }
    return false;
}
void sim_front_check_patience(void)
{
    for (uint32_t i = 0; i < EXCHANGE_MAX; i++) {
        const struct sim_lane *lane = &sim->front.lanes[parcels[i].lane];
        if (parcels[i].handed && !parcels[i].answered &&
            sim->now_ns > lane->sent_ns + patience_ns) {
            sim_fail("request %" PRIu64 " (%s) has waited for %" PRIu64 " s", lane->number,
                     operation_name(sim_request_header(lane).operation),
                     (sim->now_ns - lane->sent_ns) / (1000 * ns_per_ms));
        }
    }
}
