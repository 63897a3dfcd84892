/* Writes: events one behind another in the bytes of a WRITE, joined to sections as they come. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/libholt/internal.h"

struct holt_write {
    struct call call; /* First: the callback finds the write by it. */
    uint8_t *body;    /* [body_size] of capacity */
    size_t body_size;
    size_t capacity;
    uint32_t section; /* where the last section's header is; meaningless without events */
    uint32_t event_count;
    uint32_t event_count_max;
    bool chain_open;   /* the last event is linked */
    bool needs_chains; /* guards, links or checks */
    bool atomic;
    holt_write_callback callback;
    void *context;
};

enum holt_status holt_write_new(struct holt *holt, struct holt_write **write)
{
    *write = NULL;
    const enum holt_status status = client_check(holt, NULL);
    if (status != HOLT_OK) {
        return status;
    }
    struct holt_write *made = calloc(1, sizeof *made);
    if (made == NULL || !call_init(&made->call, holt, true)) {
        free(made);
        return HOLT_NO_MEMORY;
    }
    holt_write_clear(made);
    *write = made;
    return HOLT_OK;
}

void holt_write_free(struct holt_write *write)
{
    if (write != NULL) {
        call_deinit(&write->call);
        free(write->body);
        free(write);
    }
}

void holt_write_clear(struct holt_write *write)
{
    if (client_check(write->call.holt, NULL) != HOLT_OK) {
        return;
    }
    call_forget(&write->call);
    outcome_clear(&write->call.outcome);
    write->body_size = 0;
    write->event_count = 0;
    write->event_count_max = UINT32_MAX;
    write->chain_open = false;
    write->needs_chains = false;
    write->atomic = false;
}

static bool reserve(struct holt_write *write, size_t size)
{
    if (write->capacity - write->body_size >= size) {
        return true;
    }
    size_t capacity = write->capacity == 0 ? 512 : 2 * write->capacity;
    if (capacity < write->body_size + size) {
        capacity = write->body_size + size;
    }
    uint8_t *body = realloc(write->body, capacity);
    if (body == NULL) {
        return false;
    }
    write->body = body;
    write->capacity = capacity;
    return true;
}

static void append(struct holt_write *write, const void *bytes, size_t size)
{
    assert(write->capacity - write->body_size >= size);
    memcpy(write->body + write->body_size, bytes, size);
    write->body_size += size;
}

/* Whether an event goes into the section before it. */
static bool continues(const struct holt_write *write, const struct wire_section *wanted,
                      struct wire_section *last)
{
    if (write->event_count == 0) {
        return false;
    }
    memcpy(last, write->body + write->section, sizeof *last);
    return last->groove_id == wanted->groove_id && last->event_type == wanted->event_type &&
           last->flags == wanted->flags && last->guard == wanted->guard;
}

static bool takes_object(enum holt_event_type type)
{
    return type == HOLT_INSERT || type == HOLT_UPSERT || type == HOLT_UPDATE;
}

static enum holt_status event_check(const struct holt_event *event)
{
    if (event->groove == NULL || event->type < HOLT_INSERT || event->type > HOLT_CHECK ||
        (unsigned)event->guard > HOLT_GUARD_VERSION) {
        return HOLT_BAD_ARGUMENT;
    }
    if (takes_object(event->type) && event->object == NULL) {
        return HOLT_BAD_ARGUMENT;
    }
    return event->type == HOLT_CHECK && event->guard == HOLT_GUARD_NONE ? HOLT_BAD_ARGUMENT
                                                                        : HOLT_OK;
}

enum holt_status holt_write_event(struct holt_write *write, const struct holt_event *event)
{
    const enum holt_status status = event_check(event);
    if (status != HOLT_OK) {
        return status;
    }
    const struct holt_groove *groove = event->groove;
    struct wire_section section = {
        .groove_id = groove->groove_id,
        .event_type = (uint8_t)event->type,
        .flags = event->linked ? WIRE_SECTION_FLAG_LINKED : 0,
        .guard = (uint8_t)event->guard,
    };
    const bool object = takes_object(event->type);
    const size_t payload_size = object ? groove->object_size : WIRE_ID_SIZE;
    const size_t size = sizeof section + sizeof event->version + payload_size;
    if (write->body_size + size > UINT32_MAX / 2) {
        return HOLT_TOO_BIG;
    }
    if (!reserve(write, size)) {
        return HOLT_NO_MEMORY;
    }
    struct wire_section last;
    if (continues(write, &section, &last)) {
        section = last;
    } else {
        write->section = (uint32_t)write->body_size;
        append(write, &section, sizeof section);
    }
    section.event_count += 1;
    memcpy(write->body + write->section, &section, sizeof section);
    if (event->guard == HOLT_GUARD_VERSION) {
        append(write, &event->version, sizeof event->version);
    }
    if (object) {
        uint8_t *image = write->body + write->body_size;
        append(write, event->object, payload_size);
        memset(image + offsetof(struct wire_object_header, timestamp), 0, 2 * sizeof(uint64_t));
    } else {
        append(write, &event->id, payload_size);
    }
    write->event_count += 1;
    if (write->event_count_max > groove->event_count_max) {
        write->event_count_max = groove->event_count_max;
    }
    write->chain_open = event->linked;
    write->needs_chains |= event->linked || event->guard != HOLT_GUARD_NONE;
    return HOLT_OK;
}

static enum holt_status object_event(struct holt_write *write, const struct holt_groove *groove,
                                     const void *object, enum holt_event_type type)
{
    const struct holt_event event = {.type = type, .groove = groove, .object = object};
    return holt_write_event(write, &event);
}

enum holt_status holt_write_insert(struct holt_write *write, const struct holt_groove *groove,
                                   const void *object)
{
    return object_event(write, groove, object, HOLT_INSERT);
}

enum holt_status holt_write_upsert(struct holt_write *write, const struct holt_groove *groove,
                                   const void *object)
{
    return object_event(write, groove, object, HOLT_UPSERT);
}

enum holt_status holt_write_update(struct holt_write *write, const struct holt_groove *groove,
                                   const void *object)
{
    return object_event(write, groove, object, HOLT_UPDATE);
}

enum holt_status holt_write_remove(struct holt_write *write, const struct holt_groove *groove,
                                   struct holt_id id)
{
    const struct holt_event event = {.type = HOLT_REMOVE, .groove = groove, .id = id};
    return holt_write_event(write, &event);
}

void holt_write_set_atomic(struct holt_write *write, bool atomic)
{
    write->atomic = atomic;
}

uint32_t holt_write_event_count(const struct holt_write *write)
{
    return write->event_count;
}

/* ---- Committing --------------------------------------------------------------------------------
 */

static enum holt_status prepare(struct holt_write *write, struct holt_error *error)
{
    struct call *call = &write->call;
    const enum holt_status status = client_check(call->holt, error);
    if (status != HOLT_OK) {
        return status;
    }
    struct hello_reply hello;
    client_limits(call->holt, &hello);
    if (write->event_count == 0) {
        return error_set(error, HOLT_BAD_ARGUMENT, "the write has no events");
    }
    if (write->chain_open) {
        return error_set(error, HOLT_BAD_ARGUMENT, "the last event is linked to none");
    }
    if ((write->atomic || write->needs_chains) && (hello.features & WIRE_FEATURE_CHAINS) == 0) {
        return error_set(error, HOLT_NOT_SUPPORTED,
                         "the daemon has no guards, links and atomic writes");
    }
    if (write->body_size > hello.batch_size_max || write->event_count > hello.batch_event_max) {
        return error_set(error, HOLT_TOO_BIG,
                         "%u events in %zu bytes; a write has at most %u in %u", write->event_count,
                         write->body_size, hello.batch_event_max, hello.batch_size_max);
    }
    call->operation = OPERATION_WRITE;
    call->joinable = !write->atomic;
    call->atomic = write->atomic;
    call->body = write->body;
    call->body_size = (uint32_t)write->body_size;
    call->event_count = write->event_count;
    call->event_count_max = write->event_count_max;
    return HOLT_OK;
}

enum holt_status holt_write_commit(struct holt_write *write, uint32_t deadline_ms,
                                   struct holt_error *error)
{
    const enum holt_status status = prepare(write, error);
    return status == HOLT_OK ? call_run(&write->call, deadline_ms, error) : status;
}

static void write_done(struct call *call)
{
    struct holt_write *write = (struct holt_write *)call;
    write->callback(write->context, write, call->outcome.status);
}

enum holt_status holt_write_submit(struct holt_write *write, uint32_t deadline_ms,
                                   holt_write_callback callback, void *context,
                                   struct holt_error *error)
{
    if (callback == NULL) {
        return error_set(error, HOLT_BAD_ARGUMENT, "no callback");
    }
    write->callback = callback;
    write->context = context;
    const enum holt_status status = prepare(write, error);
    return status == HOLT_OK ? call_submit(&write->call, write_done, deadline_ms, error) : status;
}

enum holt_status holt_write_resolve(struct holt_write *write, uint32_t deadline_ms,
                                    struct holt_error *error)
{
    return call_resolve(&write->call, deadline_ms, error);
}

/* ---- Results -----------------------------------------------------------------------------------
 */

enum holt_status holt_write_status(const struct holt_write *write)
{
    return write->call.outcome.status;
}

const char *holt_write_text(const struct holt_write *write)
{
    return write->call.outcome.text;
}

uint64_t holt_write_commit_number(const struct holt_write *write)
{
    return write->call.outcome.commit;
}

uint64_t holt_write_timestamp(const struct holt_write *write)
{
    return write->call.outcome.timestamp;
}

/* Zeros if there is no reply. */
static struct write_reply reply_of(const struct holt_write *write)
{
    struct write_reply reply = {0};
    if (write->call.outcome.body != NULL) {
        memcpy(&reply, write->call.outcome.body, sizeof reply);
    }
    return reply;
}

uint32_t holt_write_failure_count(const struct holt_write *write)
{
    return reply_of(write).failure_count;
}

uint32_t holt_write_failure_total(const struct holt_write *write)
{
    return reply_of(write).failure_total;
}

struct holt_failure holt_write_failure(const struct holt_write *write, uint32_t position)
{
    struct holt_failure failure = {0};
    if (position < reply_of(write).failure_count) {
        struct wire_failure wire;
        memcpy(&wire,
               write->call.outcome.body + sizeof(struct write_reply) + position * sizeof wire,
               sizeof wire);
        failure.event_index = wire.event_index;
        failure.result = (enum holt_event_result)wire.result;
    }
    return failure;
}
