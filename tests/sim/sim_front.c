#include "tests/sim/sim_front.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/object.h"
#include "ipc/listener.h"
#include "pool/base.h"
#include "server/dispatch.h"
#include "server/request_queue.h"
#include "tests/sim/sim.h"
#include "tests/sim/sim_threads.h"

enum {
    EXCHANGE_MAX = 16,
    ALIGNMENT_MAX = 8,
    NETWORK_NS = 20 * 1000,
    ROOM_MADE = 1 << 20,
    READ_ONLY_STEPS = 2000,
    SCANNED_VALUES = 9,
};
static const uint64_t patience_ns = 120ull * 1000 * 1000 * 1000;
static const uint64_t ns_per_ms = 1000ull * 1000;

/* One request on its way. It keeps the reply until its lane has read it. */
struct parcel {
    struct exchange exchange; /* First member: exchanges cast back. */
    uint8_t bytes[SIM_REQUEST_MAX + ALIGNMENT_MAX];
    uint8_t *reply; /* [reply_capacity], kept for the next */
    uint32_t reply_capacity;
    uint32_t reply_size;
    uint32_t lane;
    bool used;
    bool handed; /* to the daemon */
    bool answered;
    bool dropped;
    uint32_t witness_count; /* writes that were pending when a read was answered */
    struct {
        uint32_t lane;
        uint64_t number;
    } witnesses[SIM_LANE_MAX];
};

struct listener {
    listener_handler *handler;
    void *context;
    uint32_t message_size_max;
    uint32_t exchange_count;
    bool stopping, stopped;
};

static struct parcel parcels[EXCHANGE_MAX];
static struct listener the_listener;
static bool others_may_go;

static uint64_t below(uint64_t bound)
{
    return prng_below(&sim->prng, bound);
}

static bool chance(uint64_t numerator, uint64_t denominator)
{
    return prng_chance(&sim->prng, numerator, denominator);
}

/* ---- What the daemon says ----------------------------------------------------------------------
 */

static struct request_header request_header_of(const struct sim_lane *lane)
{
    struct request_header header;
    memcpy(&header, lane->request, sizeof header);
    return header;
}

static const uint8_t *request_body(const struct sim_lane *lane)
{
    return lane->request + PROTOCOL_HEADER_SIZE;
}

static bool is_write(uint16_t operation)
{
    return operation == OPERATION_WRITE || operation == OPERATION_CREATE_GROOVE ||
           operation == OPERATION_DROP_GROOVE;
}

static struct sim_slot *slot_named(const void *name)
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

static uint32_t section_size(const struct wire_section *section, const struct sim_slot *slot)
{
    const bool remove = section->event_type == WIRE_EVENT_TYPE_REMOVE;
    return (uint32_t)sizeof *section +
           section->event_count * (remove ? WIRE_ID_SIZE : slot->schema.object_size);
}

static void told_write(const struct sim_lane *lane, const struct reply_header *header,
                       const uint8_t *body)
{
    const struct request_header request = request_header_of(lane);
    struct event_failure failures[SIM_FAILURE_MAX];
    const uint32_t count = sim_model_write(&sim->model, request_body(lane), request.body_size,
                                           header->commit, header->timestamp, failures);
    struct write_reply write;
    memcpy(&write, body, sizeof write);
    if (write.failure_count != count ||
        header->body_size != sizeof write + count * sizeof(struct wire_failure) ||
        (count > 0 && memcmp(body + sizeof write, failures, count * sizeof failures[0]) != 0)) {
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
        memcpy(&section, request_body(lane) + offset, sizeof section);
        const struct sim_slot *slot = sim_model_slot(&sim->model, section.groove_id);
        if (sim_slot_groove(slot, UINT64_MAX) != section.groove_id) {
            sim_fail("commit %" PRIu64 " wrote to groove %u, which does not exist", header->commit,
                     section.groove_id);
        }
        events += section.event_count;
        offset += section_size(&section, slot);
    }
    sim->counters[SIM_EVENTS] += events;
    sim->model.timestamp = header->timestamp + events - 1;
}

static void told_create(const struct sim_lane *lane, const struct reply_header *header,
                        const uint8_t *body)
{
    struct sim_slot *slot = slot_named(request_body(lane));
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
    struct sim_slot *slot = slot_named(request_body(lane));
    if (sim_slot_groove(slot, UINT64_MAX) == 0) {
        sim_fail("commit %" PRIu64 ": %s was dropped, but it does not exist", header->commit,
                 slot->schema.spec.name);
    }
    sim_model_drop(&sim->model, slot, header->commit);
    sim_count(SIM_DROPS);
}

/* A reply to a write leaves the daemon: from now on it is a promise. */
static void told(struct parcel *parcel, const struct reply_header *header, const uint8_t *body)
{
    struct sim_front *front = &sim->front;
    struct sim_lane *lane = &front->lanes[parcel->lane];
    const struct request_header request = request_header_of(lane);
    if (header->result != RESULT_OK) {
        if (lane->pending) {
            pending_remove(parcel->lane);
        }
        return;
    }
    if (!lane->pending || front->pending[0] != parcel->lane) {
        sim_fail("commit %" PRIu64 " overtook a write that was taken before it", header->commit);
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
    if (request.operation == OPERATION_WRITE) {
        told_write(lane, header, body);
    } else if (request.operation == OPERATION_CREATE_GROOVE) {
        told_create(lane, header, body);
    } else {
        told_drop(lane, header);
    }
}

static void answer(struct parcel *parcel)
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
        const struct request_header request = request_header_of(&front->lanes[parcel->lane]);
        if (request.operation != OPERATION_STAT) { /* It tells of this process. */
            sim_mix(sim_hash(parcel->reply, parcel->reply_size));
        }
        sim_trace("reply", header.number, header.result, header.commit);
        if (is_write(request.operation)) {
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
    };
    assert(options->exchange_count <= EXCHANGE_MAX);
    *listener = &the_listener;
    sim->life.recovered = true;
    sim->life.recovered_step = sim->step;
    sim_trace("recovered", sim->step, 0, 0);
    sim_wake(&sim->life.recovered, true);
    return STATUS_OK;
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
    struct parcel *parcel = (struct parcel *)exchange;
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
    struct parcel *parcel = (struct parcel *)exchange;
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
    struct parcel *parcel = (struct parcel *)exchange;
    parcel->dropped = true;
    answer(parcel);
}

void listener_stats_read(struct listener *listener, struct listener_stats *stats)
{
    (void)listener;
    *stats = (struct listener_stats){.connections = sim->swarm.lane_count};
}

/* The order in which the forest thread takes writes is the order in which they shall happen. */
struct exchange *__real_request_queue_take_all(struct request_queue *queue);
struct exchange *__wrap_request_queue_take_all(struct request_queue *queue);
struct exchange *__wrap_request_queue_take_all(struct request_queue *queue)
{
    struct exchange *oldest = __real_request_queue_take_all(queue);
    struct sim_front *front = &sim->front;
    for (struct exchange *exchange = oldest; exchange != NULL; exchange = exchange->next) {
        if (is_write(exchange->header.operation)) {
            const uint32_t lane = ((struct parcel *)exchange)->lane;
            assert(!front->lanes[lane].pending);
            front->lanes[lane].pending = true;
            front->pending[front->pending_count] = lane;
            front->pending_count += 1;
        }
    }
    return oldest;
}

/* ---- Asking ------------------------------------------------------------------------------------
 */

static struct parcel *parcel_acquire(void)
{
    for (;;) {
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
        (void)sim_wait(parcels, UINT64_MAX);
    }
}

static void parcel_release(struct parcel *parcel)
{
    assert(parcel->used && parcel->handed == parcel->answered);
    parcel->used = false;
    parcel->handed = false;
    sim_wake(parcels, false);
}

static void begin_request(struct sim_lane *lane, uint16_t operation)
{
    struct sim_front *front = &sim->front;
    front->number_next += 1;
    lane->number = front->number_next;
    const struct request_header header = {
        .magic = PROTOCOL_MAGIC,
        .version = PROTOCOL_VERSION,
        .operation = operation,
        .number = lane->number,
        .deadline_ms = others_may_go && chance(1, 100) ? 1 + (uint32_t)below(5) : 0,
    };
    memcpy(lane->request, &header, sizeof header);
    lane->request_size = PROTOCOL_HEADER_SIZE;
}

static void put(struct sim_lane *lane, const void *bytes, uint32_t size)
{
    assert(size <= SIM_REQUEST_MAX - lane->request_size);
    memcpy(lane->request + lane->request_size, bytes, size);
    lane->request_size += size;
    const uint32_t body_size = lane->request_size - PROTOCOL_HEADER_SIZE;
    memcpy(lane->request + offsetof(struct request_header, body_size), &body_size,
           sizeof body_size);
}

/* Sends what the lane holds, and waits for the reply. NULL: there is none, the daemon stops. */
static struct parcel *ask(struct sim_lane *lane)
{
    if (the_listener.stopped) {
        return NULL;
    }
    struct parcel *parcel = parcel_acquire();
    sim_sleep(sim_duration(NETWORK_NS));
    if (the_listener.stopped) {
        parcel_release(parcel);
        return NULL;
    }
    lane->commit_sent = sim->front.commit_seen;
    lane->sent_ns = sim->now_ns;
    parcel->lane = (uint32_t)(lane - sim->front.lanes);
    uint8_t *bytes = parcel->bytes + below(ALIGNMENT_MAX);
    memcpy(bytes, lane->request, lane->request_size);
    sim_mix(sim_hash(lane->request, lane->request_size));
    sim_trace("request", lane->number, request_header_of(lane).operation, lane->request_size);

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
    while (!parcel->answered) {
        (void)sim_wait(parcel, UINT64_MAX);
    }
    sim_sleep(sim_duration(NETWORK_NS));
    return parcel;
}

static struct reply_header reply_header_of(const struct parcel *parcel)
{
    struct reply_header header;
    memcpy(&header, parcel->reply, sizeof header);
    return header;
}

static const uint8_t *reply_body(const struct parcel *parcel)
{
    return parcel->reply + PROTOCOL_HEADER_SIZE;
}

/* Whether the daemon may say that it knows no such groove: it was not there all the while. What is
 * not durable yet does not count. */
static bool may_be_unknown(const struct sim_lane *lane, uint32_t groove_id)
{
    const struct sim_slot *slot = sim_model_slot(&sim->model, groove_id);
    return slot == NULL || sim_slot_groove(slot, lane->commit_sent) != groove_id ||
           sim_slot_groove(slot, UINT64_MAX) != groove_id;
}

static bool any_groove_may_be_unknown(const struct sim_lane *lane)
{
    const struct request_header header = request_header_of(lane);
    const uint8_t *body = request_body(lane);
    uint32_t groove_id;
    switch ((enum operation)header.operation) {
    case OPERATION_DROP_GROOVE: {
        const struct sim_slot *slot = slot_named(body);
        return sim_slot_groove(slot, lane->commit_sent) == 0 ||
               sim_slot_groove(slot, UINT64_MAX) == 0;
    }
    case OPERATION_WRITE:
        for (uint32_t offset = 0; offset < header.body_size;) {
            struct wire_section section;
            memcpy(&section, body + offset, sizeof section);
            if (may_be_unknown(lane, section.groove_id)) {
                return true;
            }
            const struct sim_slot *slot = sim_model_slot(&sim->model, section.groove_id);
            offset += section_size(&section, slot);
        }
        return false;
    default:
        memcpy(&groove_id, body, sizeof groove_id); /* LOOKUP, QUERY and COUNT begin with it. */
        return may_be_unknown(lane, groove_id);
    }
}

static bool groove_may_exist(const struct sim_lane *lane)
{
    const struct sim_slot *slot = slot_named(request_body(lane));
    return sim_slot_groove(slot, lane->commit_sent) != 0 || sim_slot_groove(slot, UINT64_MAX) != 0;
}

/* A reply that is not OK, to a request that was in order: whether it may be. */
static void check_refusal(const struct sim_lane *lane, const struct reply_header *header)
{
    const struct request_header request = request_header_of(lane);
    bool allowed = false;
    switch ((enum result)header->result) {
    case RESULT_UNKNOWN_GROOVE:
        allowed = any_groove_may_be_unknown(lane);
        break;
    case RESULT_GROOVE_EXISTS:
        allowed = request.operation == OPERATION_CREATE_GROOVE && groove_may_exist(lane);
        break;
    case RESULT_LIMIT: /* Trees that are being dropped still count. */
        allowed = request.operation == OPERATION_CREATE_GROOVE;
        break;
    case RESULT_BUSY:
        allowed = header->retry_after_ms > 0;
        break;
    case RESULT_EXPIRED:
        allowed = request.deadline_ms > 0;
        sim_count(SIM_REPLIES_EXPIRED);
        break;
    case RESULT_SHUTTING_DOWN:
        allowed = sim->life.stop_wanted;
        break;
    case RESULT_FULL:
        allowed = is_write(request.operation) && (sim->life.no_space || sim_is_troubled());
        sim_count(SIM_REPLIES_FULL);
        if (chance(1, 20)) { /* Somebody makes room. */
            sim->disk.size_limit = min_u64(sim->disk.size_limit + ROOM_MADE, sim_disk_capacity);
        }
        break;
    case RESULT_READ_ONLY:
        allowed = is_write(request.operation) && sim_is_troubled();
        sim_count(SIM_REPLIES_READ_ONLY);
        if (sim->life.end_step != UINT64_MAX) { /* Some reads, then there is no more to see. */
            sim->life.end_step = min_u64(sim->life.end_step, sim->step + READ_ONLY_STEPS);
        }
        break;
    case RESULT_CORRUPT:
        allowed = sim_is_troubled();
        sim_count(SIM_REPLIES_CORRUPT);
        break;
    default:
        break;
    }
    if (!allowed) {
        sim_fail("request %" PRIu64 " (%s) was refused: %s", lane->number,
                 operation_name(request.operation), result_name(header->result));
    }
}

/* The read saw a commit of which nobody has been told: whoever may have been it is told by now. */
static void await_witnesses(const struct parcel *parcel)
{
    for (uint32_t i = 0; i < parcel->witness_count; i++) {
        const struct sim_lane *lane = &sim->front.lanes[parcel->witnesses[i].lane];
        while (lane->pending && lane->number == parcel->witnesses[i].number) {
            (void)sim_wait(&sim->front.pending_count, UINT64_MAX);
        }
    }
}

/* Of a read that was answered OK: the slot it saw, once the model knows that state. */
static const struct sim_slot *check_version(const struct sim_lane *lane,
                                            const struct parcel *parcel, uint32_t groove_id)
{
    const uint64_t commit = reply_header_of(parcel).commit;
    if (commit < lane->commit_sent) {
        sim_fail("read %" PRIu64 " saw commit %" PRIu64 ", but %" PRIu64
                 " had been acknowledged or read before it was asked",
                 lane->number, commit, lane->commit_sent);
    }
    if (commit > sim->front.commit_told) {
        await_witnesses(parcel);
    }
    sim->front.commit_seen = max_u64(sim->front.commit_seen, commit);
    sim->counters[SIM_READS_LATE] += commit < sim->model.commit;
    sim_count(SIM_READS);
    const struct sim_slot *slot = sim_model_slot(&sim->model, groove_id);
    if (slot == NULL || sim_slot_groove(slot, commit) != groove_id) {
        sim_fail("read %" PRIu64 " of groove %u at commit %" PRIu64
                 " was answered, but it did not exist",
                 lane->number, groove_id, commit);
    }
    return slot;
}

static void check_objects_header(const struct sim_lane *lane, const struct parcel *parcel,
                                 const struct sim_slot *slot, struct objects_reply *objects)
{
    const struct reply_header header = reply_header_of(parcel);
    memcpy(objects, reply_body(parcel), sizeof *objects);
    if (objects->object_size != slot->schema.object_size ||
        header.body_size !=
            sizeof *objects + (uint64_t)objects->object_count * objects->object_size) {
        sim_fail("read %" PRIu64 ": %u objects of %u bytes in a body of %u", lane->number,
                 objects->object_count, objects->object_size, header.body_size);
    }
}

static void check_object(const struct sim_lane *lane, uint64_t commit, const struct sim_slot *slot,
                         const struct sim_record *record, const uint8_t *image)
{
    const char *what = sim_model_differs(slot, record, image);
    if (what != NULL) {
        sim_fail("read %" PRIu64 " at commit %" PRIu64 ": %s of an object of %s is wrong",
                 lane->number, commit, what, slot->schema.spec.name);
    }
}

/* ---- LOOKUP ------------------------------------------------------------------------------------
 */

static uint32_t ids_per_lookup(const struct sim_slot *slot)
{
    return sim->swarm.geometry.batch_size_max / slot->schema.object_size;
}

static void make_lookup(struct sim_lane *lane, const struct sim_slot *slot, uint32_t groove_id,
                        const uint32_t *keys, uint32_t count)
{
    begin_request(lane, OPERATION_LOOKUP);
    const struct lookup_request lookup = {.groove_id = groove_id, .id_count = count};
    put(lane, &lookup, sizeof lookup);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t id[WIRE_ID_SIZE];
        sim_model_id(slot, keys[i], id);
        put(lane, id, sizeof id);
    }
}

static void check_lookup(const struct sim_lane *lane, const struct parcel *parcel,
                         uint32_t groove_id, const uint32_t *keys, uint32_t count)
{
    const struct sim_slot *slot = check_version(lane, parcel, groove_id);
    const uint64_t commit = reply_header_of(parcel).commit;
    struct objects_reply objects;
    check_objects_header(lane, parcel, slot, &objects);
    const uint8_t *image = reply_body(parcel) + sizeof objects;
    uint32_t found = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct sim_record *record = sim_model_find(&sim->model, slot, keys[i], commit);
        if (record == NULL) {
            continue;
        }
        if (found == objects.object_count) {
            sim_fail("read %" PRIu64 " at commit %" PRIu64 ": key %u of %s is missing",
                     lane->number, commit, keys[i], slot->schema.spec.name);
        }
        check_object(lane, commit, slot, record, image + (size_t)found * objects.object_size);
        found += 1;
    }
    if (found != objects.object_count) {
        sim_fail("read %" PRIu64 " at commit %" PRIu64 ": %u objects of %s, %u expected",
                 lane->number, commit, objects.object_count, slot->schema.spec.name, found);
    }
}

/* ---- QUERY and COUNT ---------------------------------------------------------------------------
 */

/* Returns the size of the key: one value for each field of the index. */
static uint32_t make_key(const struct sim_slot *slot, uint32_t index, const uint64_t *values,
                         uint8_t *key)
{
    const struct index_spec *spec = &slot->schema.spec.indexes[index];
    uint32_t size = 0;
    for (uint32_t i = 0; i < spec->field_count; i++) {
        sim_model_value(slot, spec->fields[i], values[i], key + size);
        size += slot->schema.fields[spec->fields[i]].size;
    }
    return size;
}

static void make_query(struct sim_lane *lane, uint16_t operation, uint32_t groove_id,
                       uint32_t index, uint32_t limit, const uint8_t *key, uint32_t key_size)
{
    begin_request(lane, operation);
    const struct query_request query = {
        .groove_id = groove_id,
        .index_id = index,
        .limit = limit,
        .key_size = key_size,
    };
    put(lane, &query, sizeof query);
    put(lane, key, key_size);
}

static bool in_result(const struct sim_slot *slot, uint32_t index, const struct sim_record *record,
                      const uint8_t *key)
{
    return record != NULL &&
           (index == WIRE_INDEX_NONE || sim_model_matches(slot, index, record->image, key));
}

static void check_count(const struct sim_lane *lane, const struct parcel *parcel,
                        uint32_t groove_id, uint32_t index, const uint8_t *key)
{
    const struct sim_slot *slot = check_version(lane, parcel, groove_id);
    const struct reply_header header = reply_header_of(parcel);
    uint64_t expected = 0;
    for (uint32_t i = 0; i < slot->key_count; i++) {
        expected +=
            in_result(slot, index, sim_model_find(&sim->model, slot, i, header.commit), key);
    }
    uint64_t count = 0;
    if (header.body_size == sizeof count) {
        memcpy(&count, reply_body(parcel), sizeof count);
    }
    if (header.body_size != sizeof count || count != expected) {
        sim_fail("count %" PRIu64 " at commit %" PRIu64 " of %s, index %d: %" PRIu64 ", %" PRIu64
                 " expected",
                 lane->number, header.commit, slot->schema.spec.name, (int)index, count, expected);
    }
}

static void check_query(const struct sim_lane *lane, const struct parcel *parcel,
                        uint32_t groove_id, uint32_t index, uint32_t limit, const uint8_t *key)
{
    const struct sim_slot *slot = check_version(lane, parcel, groove_id);
    const uint64_t commit = reply_header_of(parcel).commit;
    struct objects_reply objects;
    check_objects_header(lane, parcel, slot, &objects);
    const uint32_t most = ids_per_lookup(slot);
    const uint8_t *image = reply_body(parcel) + sizeof objects;
    uint64_t expected = 0;
    uint64_t found = 0; /* of those expected, in the reply */
    for (uint32_t i = 0; i < slot->key_count; i++) {
        const struct sim_record *record = sim_model_find(&sim->model, slot, i, commit);
        if (!in_result(slot, index, record, key)) {
            continue;
        }
        expected += 1;
        for (uint32_t at = 0; at < objects.object_count; at++) {
            const uint8_t *candidate = image + (size_t)at * objects.object_size;
            if (memcmp(candidate, record->image, WIRE_ID_SIZE) == 0) {
                check_object(lane, commit, slot, record, candidate);
                found += 1;
            }
        }
    }
    for (uint32_t at = 1; at < objects.object_count; at++) {
        const uint8_t *candidate = image + (size_t)at * objects.object_size;
        if (load_u64_le(candidate + 16) <= load_u64_le(candidate - objects.object_size + 16)) {
            sim_fail("query %" PRIu64 " at commit %" PRIu64 " of %s: out of order", lane->number,
                     commit, slot->schema.spec.name);
        }
    }
    const uint64_t wanted = min_u64(expected, limit == 0 ? most : min_u64(limit, most));
    if (found != objects.object_count || found != wanted) {
        sim_fail("query %" PRIu64 " at commit %" PRIu64 " of %s, index %u: %u objects, %" PRIu64
                 " of them right, %" PRIu64 " expected",
                 lane->number, commit, slot->schema.spec.name, index, objects.object_count, found,
                 wanted);
    }
}

/* ---- What a client asks ------------------------------------------------------------------------
 */

enum outcome { OUTCOME_ANSWERED, OUTCOME_REFUSED, OUTCOME_GONE };

/* A slot that has a groove, by what has been told; NULL: none has. */
static struct sim_slot *live_slot(uint32_t *groove_id)
{
    uint32_t first = (uint32_t)below(SIM_SLOT_COUNT);
    if (sim->swarm.bulk && chance(9, 10)) {
        first = 0;
    }
    for (uint32_t i = 0; i < SIM_SLOT_COUNT; i++) {
        struct sim_slot *slot = &sim->model.slots[(first + i) % SIM_SLOT_COUNT];
        *groove_id = sim_slot_groove(slot, UINT64_MAX);
        if (*groove_id != 0) {
            return slot;
        }
    }
    return NULL;
}

/* Asks; of a refusal, sees whether it may be. The caller releases the parcel if it is ANSWERED. */
static enum outcome ask_and_sort(struct sim_lane *lane, struct parcel **parcel)
{
    *parcel = ask(lane);
    if (*parcel == NULL) {
        return OUTCOME_GONE;
    }
    if ((*parcel)->dropped) {
        sim_fail("request %" PRIu64 " was dropped", lane->number);
    }
    const struct reply_header header = reply_header_of(*parcel);
    if (header.result == RESULT_OK) {
        return OUTCOME_ANSWERED;
    }
    check_refusal(lane, &header);
    parcel_release(*parcel);
    return header.result == RESULT_SHUTTING_DOWN ? OUTCOME_GONE : OUTCOME_REFUSED;
}

static enum outcome do_lookup(struct sim_lane *lane, const struct sim_slot *slot,
                              uint32_t groove_id, const uint32_t *keys, uint32_t count)
{
    struct parcel *parcel;
    make_lookup(lane, slot, groove_id, keys, count);
    const enum outcome outcome = ask_and_sort(lane, &parcel);
    if (outcome == OUTCOME_ANSWERED) {
        check_lookup(lane, parcel, groove_id, keys, count);
        parcel_release(parcel);
    }
    return outcome;
}

static enum outcome do_count(struct sim_lane *lane, const struct sim_slot *slot, uint32_t groove_id,
                             uint32_t index, const uint64_t *values)
{
    uint8_t key[2 * SIM_OBJECT_MAX];
    struct parcel *parcel;
    const uint32_t size = index == WIRE_INDEX_NONE ? 0 : make_key(slot, index, values, key);
    make_query(lane, OPERATION_COUNT, groove_id, index, 0, key, size);
    const enum outcome outcome = ask_and_sort(lane, &parcel);
    if (outcome == OUTCOME_ANSWERED) {
        check_count(lane, parcel, groove_id, index, key);
        parcel_release(parcel);
    }
    return outcome;
}

static enum outcome do_query(struct sim_lane *lane, const struct sim_slot *slot, uint32_t groove_id,
                             uint32_t index, uint32_t limit, const uint64_t *values)
{
    uint8_t key[2 * SIM_OBJECT_MAX];
    struct parcel *parcel;
    const uint32_t size = make_key(slot, index, values, key);
    make_query(lane, OPERATION_QUERY, groove_id, index, limit, key, size);
    const enum outcome outcome = ask_and_sort(lane, &parcel);
    if (outcome == OUTCOME_ANSWERED) {
        check_query(lane, parcel, groove_id, index, limit, key);
        parcel_release(parcel);
    }
    return outcome;
}

static enum outcome random_read(struct sim_lane *lane)
{
    uint32_t groove_id;
    const struct sim_slot *slot = live_slot(&groove_id);
    if (slot == NULL) {
        return OUTCOME_REFUSED;
    }
    const uint32_t index_count = slot->schema.spec.index_count;
    const uint64_t values[2] = {below(slot->value_count + 1u), below(slot->value_count + 1u)};
    /* Of many objects a count is slow to make up. */
    const uint64_t kind = slot->bulk && chance(19, 20) ? 0 : below(index_count > 0 ? 4 : 2);
    if (kind == 0) {
        uint32_t keys[64];
        const uint32_t most = (uint32_t)min_u64(array_count(keys), ids_per_lookup(slot));
        const uint32_t count = 1 + (uint32_t)below(most);
        for (uint32_t i = 0; i < count; i++) {
            keys[i] = (uint32_t)below(slot->key_count);
        }
        return do_lookup(lane, slot, groove_id, keys, count);
    }
    if (kind == 1) {
        return do_count(lane, slot, groove_id, WIRE_INDEX_NONE, values);
    }
    const uint32_t index = (uint32_t)below(index_count);
    if (kind == 2) {
        return do_count(lane, slot, groove_id, index, values);
    }
    return do_query(lane, slot, groove_id, index, chance(1, 2) ? 0 : 1 + (uint32_t)below(20),
                    values);
}

static enum outcome ask_write(struct sim_lane *lane)
{
    struct parcel *parcel;
    const enum outcome outcome = ask_and_sort(lane, &parcel);
    if (outcome == OUTCOME_ANSWERED) {
        parcel_release(parcel); /* Compared when it was told. */
    }
    return outcome;
}

static uint8_t random_type(void)
{
    const uint64_t choice = below(8 + sim->front.remove_weight);
    return choice < 4    ? WIRE_EVENT_TYPE_INSERT
           : choice < 6  ? WIRE_EVENT_TYPE_UPSERT
           : choice == 6 ? WIRE_EVENT_TYPE_UPDATE
                         : WIRE_EVENT_TYPE_REMOVE;
}

/* Mostly good events; now and then one that must fail for what it says. */
static void put_event(struct sim_lane *lane, const struct sim_slot *slot, uint8_t type)
{
    uint8_t image[SIM_OBJECT_MAX];
    sim_model_object(slot, (uint32_t)below(slot->key_count), image);
    if (chance(1, 200)) {
        memset(image, 0, WIRE_ID_SIZE);
    } else if (chance(1, 200)) {
        image[WIRE_ID_SIZE + below(16)] = 1; /* timestamp or version */
    }
    put(lane, image, type == WIRE_EVENT_TYPE_REMOVE ? WIRE_ID_SIZE : slot->schema.object_size);
}

static enum outcome random_write(struct sim_lane *lane)
{
    const struct geometry *geometry = &sim->swarm.geometry;
    begin_request(lane, OPERATION_WRITE);
    const uint32_t section_count = chance(1, 4) ? 1 + (uint32_t)below(3) : 1;
    for (uint32_t i = 0; i < section_count; i++) {
        struct wire_section section = {.event_type = random_type()};
        const struct sim_slot *slot = live_slot(&section.groove_id);
        if (slot == NULL) {
            return OUTCOME_REFUSED;
        }
        const uint64_t bytes_left = geometry->batch_size_max / section_count;
        const uint64_t most =
            min_u64(min_u64(slot->schema.event_max, geometry->batch_event_max) / section_count,
                    (bytes_left - sizeof section) / slot->schema.object_size);
        const uint64_t usual = chance(1, 3) ? most : min_u64(most, 6);
        section.event_count =
            (uint32_t)(slot->bulk ? max_u64(most, 1) : 1 + below(max_u64(usual, 1)));
        put(lane, &section, sizeof section);
        for (uint32_t event = 0; event < section.event_count; event++) {
            put_event(lane, slot, section.event_type);
        }
    }
    return ask_write(lane);
}

static enum outcome do_create(struct sim_lane *lane, const struct sim_slot *slot)
{
    begin_request(lane, OPERATION_CREATE_GROOVE);
    put(lane, &slot->schema.spec, sizeof slot->schema.spec);
    return ask_write(lane);
}

static enum outcome do_drop(struct sim_lane *lane, const struct sim_slot *slot)
{
    begin_request(lane, OPERATION_DROP_GROOVE);
    put(lane, slot->schema.spec.name, WIRE_NAME_SIZE);
    return ask_write(lane);
}

/* Requests that are wrong, each with the result it must have. */
static enum outcome wrong_request(struct sim_lane *lane)
{
    uint32_t groove_id;
    const struct sim_slot *slot = live_slot(&groove_id);
    if (slot == NULL) {
        return OUTCOME_REFUSED;
    }
    const uint32_t keys[1] = {0};
    make_lookup(lane, slot, groove_id, keys, 1);
    struct request_header header = request_header_of(lane);
    header.deadline_ms = 0;
    enum result expected = RESULT_OK;
    switch (below(6)) {
    case 0:
        header.flags = 1;
        expected = RESULT_BAD_HEADER;
        break;
    case 1:
        header.body_size += 1;
        expected = RESULT_BAD_HEADER;
        break;
    case 2:
        header.operation = 11 + (uint16_t)below(100);
        expected = RESULT_BAD_OPERATION;
        break;
    case 3: /* A lookup's body is no write. */
        header.operation = OPERATION_WRITE;
        expected = RESULT_BAD_BODY;
        break;
    case 4: { /* An id of zero. */
        memset(lane->request + lane->request_size - WIRE_ID_SIZE, 0, WIRE_ID_SIZE);
        expected = RESULT_BAD_BODY;
        break;
    }
    default: {
        const uint32_t nobody = 1000 * 1000;
        memcpy(lane->request + PROTOCOL_HEADER_SIZE, &nobody, sizeof nobody);
        expected = RESULT_UNKNOWN_GROOVE;
        break;
    }
    }
    memcpy(lane->request, &header, sizeof header);
    struct parcel *parcel = ask(lane);
    if (parcel == NULL) {
        return OUTCOME_GONE;
    }
    const struct reply_header reply = reply_header_of(parcel);
    const bool unknown = reply.result == RESULT_UNKNOWN_GROOVE && may_be_unknown(lane, groove_id);
    const bool given_up = (reply.result == RESULT_SHUTTING_DOWN && sim->life.stop_wanted) ||
                          reply.result == RESULT_BUSY;
    if (reply.result != expected && !unknown && !given_up) {
        sim_fail("wrong request %" PRIu64 ": %s, %s expected", lane->number,
                 result_name(reply.result), result_name(expected));
    }
    parcel_release(parcel);
    return OUTCOME_ANSWERED;
}

static enum outcome small_talk(struct sim_lane *lane)
{
    static const uint16_t operations[] = {OPERATION_HELLO, OPERATION_PING, OPERATION_STAT,
                                          OPERATION_SCHEMA};
    const uint16_t operation = operations[below(array_count(operations))];
    begin_request(lane, operation);
    if (operation == OPERATION_PING) {
        put(lane, "are you there", 13);
    }
    struct parcel *parcel;
    const enum outcome outcome = ask_and_sort(lane, &parcel);
    if (outcome == OUTCOME_ANSWERED) {
        if (operation == OPERATION_PING && (reply_header_of(parcel).body_size != 13 ||
                                            memcmp(reply_body(parcel), "are you there", 13) != 0)) {
            sim_fail("a ping came back changed");
        }
        parcel_release(parcel);
    }
    return outcome;
}

static enum outcome random_request(struct sim_lane *lane)
{
    struct sim_slot *slot = &sim->model.slots[below(SIM_SLOT_COUNT)];
    if (sim_slot_groove(slot, UINT64_MAX) == 0 ? chance(1, 6) : chance(1, 1000)) {
        return do_create(lane, slot);
    }
    if (chance(1, slot->bulk ? 40000 : 1000)) {
        return do_drop(lane, slot);
    }
    const uint64_t choice = below(100);
    return choice < 62   ? random_write(lane)
           : choice < 96 ? random_read(lane)
           : choice < 98 ? small_talk(lane)
                         : wrong_request(lane);
}

/* ---- The scan after a crash --------------------------------------------------------------------
 */

/* What the daemon holds: of each slot its groove, and of each key its object. */
struct found_object {
    bool exists;
    uint64_t timestamp, version, hash;
};
struct found {
    uint32_t groove_id; /* 0: none */
    struct found_object objects[SIM_KEY_MAX];
};
static struct found found[SIM_SLOT_COUNT];

/* While something is broken the scan cannot be made: this life is over, the next one mends it. */
static void scan_gives_up(void)
{
    sim_trace("scan gives up", sim->disk.damage_count, sim->life.faulted, 0);
    sim_end(SIM_END_KILL);
}

static bool scan_schema(struct sim_lane *lane)
{
    begin_request(lane, OPERATION_SCHEMA);
    struct parcel *parcel;
    if (ask_and_sort(lane, &parcel) != OUTCOME_ANSWERED) {
        return false;
    }
    const uint8_t *body = reply_body(parcel);
    struct schema_reply schema;
    memcpy(&schema, body, sizeof schema);
    body += sizeof schema;
    for (uint32_t i = 0; i < schema.groove_count; i++) {
        struct schema_groove groove;
        memcpy(&groove, body, sizeof groove);
        body += sizeof groove + groove.field_count * sizeof(struct schema_field) +
                groove.index_count * sizeof(struct schema_index);
        const struct sim_slot *slot = slot_named(groove.name);
        if (slot == NULL || found[slot - sim->model.slots].groove_id != 0 ||
            groove.object_size != slot->schema.object_size ||
            groove.event_count_max != slot->schema.event_max ||
            groove.field_count != slot->schema.spec.field_count ||
            groove.index_count != slot->schema.spec.index_count) {
            sim_fail("the schema tells of a groove %s that nobody made so", groove.name);
        }
        found[slot - sim->model.slots].groove_id = groove.groove_id;
    }
    parcel_release(parcel);
    return true;
}

/* All keys of a slot into `found`. The commit seen goes to *commit. */
static bool scan_slot(struct sim_lane *lane, uint32_t slot_index, uint64_t *commit)
{
    const struct sim_slot *slot = &sim->model.slots[slot_index];
    struct found *into = &found[slot_index];
    const uint32_t step = (uint32_t)min_u64(ids_per_lookup(slot), 128);
    for (uint32_t first = 0; first < slot->key_count; first += step) {
        uint32_t keys[128];
        const uint32_t count = (uint32_t)min_u64(step, slot->key_count - first);
        for (uint32_t i = 0; i < count; i++) {
            keys[i] = first + i;
        }
        make_lookup(lane, slot, into->groove_id, keys, count);
        struct parcel *parcel;
        /* The model does not know of the groove yet if nobody was told of its creation. */
        parcel = ask(lane);
        if (parcel == NULL) {
            return false;
        }
        const struct reply_header header = reply_header_of(parcel);
        if (header.result != RESULT_OK) {
            if (header.result == RESULT_UNKNOWN_GROOVE) {
                sim_fail("%s is in the schema, but not to be read", slot->schema.spec.name);
            }
            check_refusal(lane, &header);
            parcel_release(parcel);
            return false;
        }
        if (header.commit < sim->front.commit_seen) {
            sim_fail("recovered to commit %" PRIu64 ", but %" PRIu64 " was acknowledged or read",
                     header.commit, sim->front.commit_seen);
        }
        *commit = header.commit;
        struct objects_reply objects;
        check_objects_header(lane, parcel, slot, &objects);
        const uint8_t *image = reply_body(parcel) + sizeof objects;
        uint32_t taken = 0;
        for (uint32_t i = 0; i < count && taken < objects.object_count; i++) {
            uint8_t id[WIRE_ID_SIZE];
            sim_model_id(slot, keys[i], id);
            if (memcmp(id, image, WIRE_ID_SIZE) == 0) {
                into->objects[keys[i]] = (struct found_object){
                    .exists = true,
                    .timestamp = load_u64_le(image + 16),
                    .version = load_u64_le(image + 24),
                    .hash = sim_model_hash(slot, image),
                };
                image += objects.object_size;
                taken += 1;
            }
        }
        if (taken != objects.object_count) {
            sim_fail("read %" PRIu64 " of %s: objects that were not asked for", lane->number,
                     slot->schema.spec.name);
        }
        parcel_release(parcel);
    }
    return true;
}

/* NULL: what was found is the model's newest state. Else the first thing that is not, in words. */
static const char *difference(void)
{
    static char text[200];
    for (uint32_t i = 0; i < SIM_SLOT_COUNT; i++) {
        const struct sim_slot *slot = &sim->model.slots[i];
        const uint32_t groove_id = sim_slot_groove(slot, UINT64_MAX);
        if (groove_id == UINT32_MAX ? found[i].groove_id == 0 : groove_id != found[i].groove_id) {
            snprintf(text, sizeof text, "%s is groove %u, %u expected", slot->schema.spec.name,
                     found[i].groove_id, groove_id);
            return text;
        }
        for (uint32_t key = 0; key < slot->key_count; key++) {
            const struct found_object *object = &found[i].objects[key];
            const struct sim_record *record = sim_model_find(&sim->model, slot, key, UINT64_MAX);
            const char *what = NULL;
            if (object->exists != (record != NULL)) {
                what = record != NULL ? "is missing" : "should not be there";
            } else if (record != NULL && object->hash != record->hash) {
                what = "a field is wrong";
            } else if (record != NULL && record->timestamp != SIM_UNKNOWN &&
                       object->timestamp != record->timestamp) {
                what = "its timestamp is wrong";
            } else if (record != NULL && record->version != SIM_UNKNOWN &&
                       object->version != record->version) {
                what = "its version is wrong";
            }
            if (what != NULL) {
                snprintf(text, sizeof text, "key %u of %s: %s", key, slot->schema.spec.name, what);
                return text;
            }
        }
    }
    return NULL;
}

/* Whether each section's groove is there, by the model's newest state. */
static bool grooves_exist(const struct sim_lane *lane)
{
    const struct request_header header = request_header_of(lane);
    for (uint32_t offset = 0; offset < header.body_size;) {
        struct wire_section section;
        memcpy(&section, request_body(lane) + offset, sizeof section);
        const struct sim_slot *slot = sim_model_slot(&sim->model, section.groove_id);
        if (sim_slot_groove(slot, UINT64_MAX) != section.groove_id) {
            return false;
        }
        offset += section_size(&section, slot);
    }
    return true;
}

/* One write that nobody was told of, as if it had happened. */
static void assume(const struct sim_lane *lane, uint64_t commit)
{
    struct sim_model *model = &sim->model;
    const struct request_header request = request_header_of(lane);
    struct event_failure failures[SIM_FAILURE_MAX];
    if (request.operation == OPERATION_WRITE) {
        if (grooves_exist(lane)) { /* Else it was refused. */
            (void)sim_model_write(model, request_body(lane), request.body_size, commit, SIM_UNKNOWN,
                                  failures);
        }
        return;
    }
    struct sim_slot *slot = slot_named(request_body(lane));
    const bool exists = sim_slot_groove(slot, UINT64_MAX) != 0;
    if (request.operation == OPERATION_CREATE_GROOVE && !exists) {
        sim_model_create(model, slot, commit, UINT32_MAX);
    } else if (request.operation == OPERATION_DROP_GROOVE && exists) {
        sim_model_drop(model, slot, commit);
    }
}

/* The model learns what only the daemon knew: numbers and times of what it kept. */
static void adopt(void)
{
    for (uint32_t i = 0; i < SIM_SLOT_COUNT; i++) {
        struct sim_slot *slot = &sim->model.slots[i];
        if (sim_slot_groove(slot, UINT64_MAX) == UINT32_MAX) {
            slot->periods[slot->period_count - 1].groove_id = found[i].groove_id;
        }
        for (uint32_t key = 0; key < slot->key_count; key++) {
            struct sim_record *record = sim_model_find(&sim->model, slot, key, UINT64_MAX);
            if (record == NULL) {
                continue;
            }
            const struct found_object *object = &found[i].objects[key];
            if ((record->timestamp == SIM_UNKNOWN || record->version == SIM_UNKNOWN) &&
                object->version <= sim->model.timestamp) {
                sim_fail("key %u of %s was written at %" PRIu64
                         ", a time told of another write before it",
                         key, slot->schema.spec.name, object->version);
            }
            record->timestamp = object->timestamp;
            record->version = object->version;
        }
    }
}

/* What was found must be the state after some of the writes that were on their way. Where there is
 * no groove to read no reply names the commit (`named`): it is at least the given one. */
static void scan_resolve(uint64_t commit, bool named)
{
    struct sim_front *front = &sim->front;
    char first[200];
    const char *what = difference();
    snprintf(first, sizeof first, "%s", what != NULL ? what : "");
    uint32_t kept = 0;
    while (what != NULL) {
        if (kept == front->pending_count) {
            sim_fail("after recovery, at commit %" PRIu64 " (acknowledged: %" PRIu64
                     ", %u more on their way): %s; with all of them: %s",
                     commit, front->commit_told, front->pending_count, first, what);
        }
        assume(&front->lanes[front->pending[kept]], commit);
        kept += 1;
        what = difference();
    }
    if (named && commit < front->commit_told + kept) {
        sim_fail("recovered to commit %" PRIu64 ", but %" PRIu64 " and %u more are there", commit,
                 front->commit_told, kept);
    }
    sim->counters[SIM_PENDING_KEPT] += kept;
    sim->counters[SIM_PENDING_LOST] += front->pending_count - kept;
    adopt();
    for (uint32_t i = 0; i < SIM_LANE_MAX; i++) {
        front->lanes[i].pending = false;
    }
    front->pending_count = 0;
    front->commit_told = commit;
    front->commit_seen = commit;
    sim_trace("scanned", commit, kept, 0);
}

/* Counts, and queries of every value of every index, as any client would. */
static bool scan_indexes(struct sim_lane *lane, const struct sim_slot *slot, uint32_t groove_id)
{
    const uint64_t none[2] = {0, 0};
    if (do_count(lane, slot, groove_id, WIRE_INDEX_NONE, none) != OUTCOME_ANSWERED) {
        return false;
    }
    for (uint32_t index = 0; index < slot->schema.spec.index_count; index++) {
        /* All values, or some of many. */
        const bool pairs = slot->schema.spec.indexes[index].field_count == 2;
        const uint32_t first_count = min_u64(slot->value_count + 1u, SCANNED_VALUES);
        const uint32_t second_count = pairs ? first_count : 1;
        for (uint64_t first = 0; first < first_count; first++) {
            for (uint64_t second = 0; second < second_count; second++) {
                const bool all = first_count > slot->value_count;
                const uint64_t values[2] = {all ? first : below(slot->value_count + 1u),
                                            all ? second : below(slot->value_count + 1u)};
                if ((chance(3, 4)
                         ? do_count(lane, slot, groove_id, index, values)
                         : do_query(lane, slot, groove_id, index, 0, values)) != OUTCOME_ANSWERED) {
                    return false;
                }
            }
        }
    }
    return true;
}

static bool scan(struct sim_lane *lane)
{
    for (uint32_t i = 0; i < SIM_SLOT_COUNT; i++) {
        found[i].groove_id = 0;
        memset(found[i].objects, 0, sim->model.slots[i].key_count * sizeof found[i].objects[0]);
    }
    if (!scan_schema(lane)) {
        return false;
    }
    uint64_t commit = sim->front.commit_seen;
    bool seen = false;
    for (uint32_t i = 0; i < SIM_SLOT_COUNT; i++) {
        if (found[i].groove_id != 0) {
            seen = true;
            if (!scan_slot(lane, i, &commit)) {
                return false;
            }
        }
    }
    scan_resolve(commit, seen);
    for (uint32_t i = 0; i < SIM_SLOT_COUNT; i++) {
        if (found[i].groove_id != 0 &&
            !scan_indexes(lane, &sim->model.slots[i], found[i].groove_id)) {
            return false;
        }
    }
    sim_count(SIM_AUDITS);
    return true;
}

/* ---- Lanes -------------------------------------------------------------------------------------
 */

static void think(void)
{
    if (sim_chance(sim->swarm.silence_chance)) {
        sim_sleep(ns_per_ms * (150 + below(3000))); /* The daemon uses it: debt, the seal. */
    } else {
        sim_sleep(sim_duration(sim->swarm.think_ns));
    }
}

static void *scanner_run(void *argument)
{
    while (!sim->life.recovered) {
        (void)sim_wait(&sim->life.recovered, UINT64_MAX);
    }
    if (scan(argument)) {
        sim->life.audited = true;
        others_may_go = true;
        sim_wake(&others_may_go, true);
    } else if (!sim->life.stop_wanted) {
        scan_gives_up();
    }
    return NULL;
}

static void *lane_run(void *argument)
{
    struct sim_lane *lane = argument;
    while (!others_may_go) {
        (void)sim_wait(&others_may_go, UINT64_MAX);
    }
    for (;;) {
        think();
        if (random_request(lane) == OUTCOME_GONE) {
            return NULL;
        }
    }
}

void sim_front_start(void)
{
    struct sim_front *front = &sim->front;
    front->answered_count = 0;
    front->remove_weight = chance(1, 3) ? 12 : (uint32_t)below(3);
    sim_fiber_start("scanner", scanner_run, &front->lanes[SIM_SCANNER]);
    for (uint32_t i = 0; i < sim->swarm.lane_count; i++) {
        sim_fiber_start("client", lane_run, &front->lanes[i]);
    }
}

bool sim_front_is_waiting(void)
{
    for (uint32_t i = 0; i < EXCHANGE_MAX; i++) {
        if (parcels[i].handed && !parcels[i].answered) {
            return true;
        }
    }
    return false;
}

bool sim_front_is_done(void)
{
    return sim->life.audited && sim->front.answered_count >= sim->front.quota;
}

void sim_front_check_patience(void)
{
    for (uint32_t i = 0; i < EXCHANGE_MAX; i++) {
        const struct sim_lane *lane = &sim->front.lanes[parcels[i].lane];
        if (parcels[i].handed && !parcels[i].answered &&
            sim->now_ns > lane->sent_ns + patience_ns) {
            sim_fail("request %" PRIu64 " (%s) has waited for %" PRIu64 " s", lane->number,
                     operation_name(request_header_of(lane).operation),
                     (sim->now_ns - lane->sent_ns) / (1000 * ns_per_ms));
        }
    }
}
