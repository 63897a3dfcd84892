#include "engine/batch.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "engine/object.h"
#include "pool/base.h"
#include "pool/memory.h"

uint64_t batch_object_bytes_max(const struct geometry *geometry)
{
    /* schema.event_max is at most an eighth of a table: so is one groove's share; and any one
     * object. */
    const uint64_t table =
        (uint64_t)block_body_size(geometry) * ((geometry->block_size - BLOCK_HEADER_SIZE) / 32);
    return max_u64(table / 8, (uint64_t)2 * OBJECT_SIZE_MAX) + geometry->batch_size_max;
}

uint64_t batch_write_bytes_max(const struct geometry *geometry)
{
    /* Objects, ids, and two entries of the widest index in each of the most indexes. */
    return batch_object_bytes_max(geometry) +
           (uint64_t)geometry->batch_event_max *
               (ID_VALUE_SIZE + INDEX_COUNT_MAX * 2 * KEY_SIZE_MAX) +
           (uint64_t)BATCH_GROUP_MAX * GROOVE_TREE_COUNT_MAX * 64;
}

uint64_t batch_memory_size(const struct geometry *geometry)
{
    const uint64_t per_event =
        sizeof(struct batch_event) + sizeof(struct groove_entry) + sizeof(struct event_failure);
    return journal_entry_size_max(geometry) + BATCH_REQUEST_MAX * sizeof(struct batch_request) +
           geometry->batch_event_max * per_event;
}

enum status batch_init(struct batch *batch, const struct geometry *geometry)
{
    const size_t event_max = geometry->batch_event_max;
    *batch = (struct batch){.geometry = geometry};
    batch->buffer = memory_acquire(journal_entry_size_max(geometry));
    batch->requests = memory_acquire(BATCH_REQUEST_MAX * sizeof *batch->requests);
    batch->events = memory_acquire(event_max * sizeof *batch->events);
    batch->entries = memory_acquire(event_max * sizeof *batch->entries);
    batch->failures = memory_acquire(event_max * sizeof *batch->failures);
    if (batch->buffer == NULL || batch->requests == NULL || batch->events == NULL ||
        batch->entries == NULL || batch->failures == NULL) {
        batch_deinit(batch);
        return STATUS_NO_MEMORY;
    }
    batch_reset(batch);
    return STATUS_OK;
}

void batch_deinit(struct batch *batch)
{
    if (batch->geometry == NULL) {
        return;
    }
    const size_t event_max = batch->geometry->batch_event_max;
    memory_release(batch->buffer, journal_entry_size_max(batch->geometry));
    memory_release(batch->requests, BATCH_REQUEST_MAX * sizeof *batch->requests);
    memory_release(batch->events, event_max * sizeof *batch->events);
    memory_release(batch->entries, event_max * sizeof *batch->entries);
    memory_release(batch->failures, event_max * sizeof *batch->failures);
    *batch = (struct batch){0};
}

void batch_reset(struct batch *batch)
{
    batch->size = JOURNAL_HEADER_SIZE;
    batch->request_bytes = 0;
    batch->request_count = 0;
    batch->alone = false;
    batch->event_count = 0;
    batch->group_count = 0;
    batch->object_bytes = 0;
    batch->write_bytes = 0;
    batch->failure_count = 0;
    batch->idle_beats = 0;
    batch->reason[0] = '\0';
}

void batch_request_refuse(struct batch_request *request, enum request_result result)
{
    assert(result != REQUEST_RESULT_OK);
    request->result = result;
    request->header->flags |= BATCH_FLAG_REFUSED;
}

/* ---- Sections ----------------------------------------------------------------------------------
 */

struct section_cursor {
    const uint8_t *at;
    const uint8_t *end;
    struct event_section section;
    struct catalog_groove *groove;
    const uint8_t *payloads; /* the first event's, behind its guard's version */
    uint32_t stride;         /* bytes from one event to the next */
};

/* The next section, checked as far as the catalog allows. False: *result is OK at the end, or what
 * is wrong. The cursor begins with no section: zero. */
static bool section_next(struct section_cursor *cursor, const struct catalog *catalog,
                         enum request_result *result)
{
    *result = REQUEST_RESULT_OK;
    const uint64_t left = (uint64_t)(cursor->end - cursor->at);
    struct event_section *section = &cursor->section;
    const bool linked = (section->flags & EVENT_SECTION_FLAG_LINKED) != 0;
    if (left == 0 && !linked) {
        return false;
    }
    *result = REQUEST_RESULT_MALFORMED; /* A last section that is linked is linked to nothing. */
    if (left < sizeof *section) {
        return false;
    }
    memcpy(section, cursor->at, sizeof *section);
    if (!event_section_valid(section)) {
        return false;
    }
    cursor->groove = catalog_find(catalog, section->groove_id);
    if (cursor->groove == NULL) {
        *result = REQUEST_RESULT_UNKNOWN_GROOVE;
        return false;
    }
    const uint32_t guard_size = event_guard_size(section->guard);
    cursor->stride = guard_size + (event_has_id_only(section->event_type)
                                       ? ID_SIZE
                                       : cursor->groove->schema->schema.object_size);
    const uint64_t size = (uint64_t)section->event_count * cursor->stride;
    if (size > left - sizeof *section) {
        return false;
    }
    cursor->payloads = cursor->at + sizeof *section + guard_size;
    cursor->at += sizeof *section + size;
    *result = REQUEST_RESULT_OK;
    return true;
}

bool batch_write_walk(const struct catalog *catalog, const uint8_t *body, uint32_t size,
                      bool (*visit)(void *context, uint32_t groove_id,
                                    const struct groove_schema *schema),
                      void *context)
{
    struct section_cursor cursor = {.at = body, .end = body + size};
    enum request_result result = REQUEST_RESULT_OK;
    bool more = true;
    while (more && (uint64_t)(cursor.end - cursor.at) >= sizeof cursor.section) {
        /* Before anything is held against the groove's schema: what is wrong with a section must
         * not tell those who may not know it. */
        struct event_section section;
        memcpy(&section, cursor.at, sizeof section);
        const struct catalog_groove *groove = catalog_find(catalog, section.groove_id);
        if (!visit(context, section.groove_id, groove != NULL ? &groove->schema->schema : NULL)) {
            return false;
        }
        more = section_next(&cursor, catalog, &result);
    }
    return true;
}

static struct batch_group *group_find(struct batch *batch, uint32_t groove_id)
{
    for (uint32_t i = 0; i < batch->group_count; i++) {
        if (batch->groups[i].groove_id == groove_id) {
            return &batch->groups[i];
        }
    }
    return NULL;
}

/* What a write would add to the batch's counts. */
struct write_needs {
    uint32_t event_count;
    uint64_t object_bytes;
    uint64_t write_bytes;
    struct {
        struct catalog_groove *groove;
        uint32_t event_count;
    } groups[BATCH_GROUP_MAX];
    uint32_t group_count;
};

/* Adds up the sections. OK, or why the request can never be taken. */
static enum request_result write_measure(const struct batch *batch, const struct catalog *catalog,
                                         const uint8_t *body, uint32_t size,
                                         struct write_needs *needs)
{
    *needs = (struct write_needs){0};
    struct section_cursor cursor = {.at = body, .end = body + size};
    enum request_result result;
    while (section_next(&cursor, catalog, &result)) {
        uint32_t group = 0;
        while (group < needs->group_count && needs->groups[group].groove != cursor.groove) {
            group += 1;
        }
        if (group == BATCH_GROUP_MAX) {
            return REQUEST_RESULT_TOO_BIG;
        }
        needs->group_count = group == needs->group_count ? group + 1 : needs->group_count;
        needs->groups[group].groove = cursor.groove;
        const struct groove_schema *schema = &cursor.groove->schema->schema;
        const uint64_t events =
            (uint64_t)needs->groups[group].event_count + cursor.section.event_count;
        if (events > schema->event_max ||
            (uint64_t)needs->event_count + cursor.section.event_count >
                batch->geometry->batch_event_max) {
            return REQUEST_RESULT_TOO_BIG;
        }
        needs->groups[group].event_count = (uint32_t)events;
        needs->event_count += cursor.section.event_count;
        needs->object_bytes += (uint64_t)cursor.section.event_count * schema->object_size;
    }
    if (result == REQUEST_RESULT_OK && needs->event_count == 0) {
        return REQUEST_RESULT_MALFORMED;
    }
    for (uint32_t i = 0; i < needs->group_count; i++) {
        needs->write_bytes += groove_write_size(&needs->groups[i].groove->schema->schema,
                                                needs->groups[i].event_count);
    }
    if (result == REQUEST_RESULT_OK &&
        (needs->object_bytes > batch_object_bytes_max(batch->geometry) ||
         needs->write_bytes > batch_write_bytes_max(batch->geometry))) {
        return REQUEST_RESULT_TOO_BIG;
    }
    return result;
}

/* Takes the needs into the batch's counts if they fit beside what is there. */
static bool write_fits(struct batch *batch, const struct write_needs *needs)
{
    if (batch->event_count + needs->event_count > batch->geometry->batch_event_max ||
        batch->object_bytes + needs->object_bytes > batch_object_bytes_max(batch->geometry) ||
        batch->write_bytes + needs->write_bytes > batch_write_bytes_max(batch->geometry)) {
        return false;
    }
    uint32_t group_count = batch->group_count;
    for (uint32_t i = 0; i < needs->group_count; i++) {
        const struct catalog_groove *groove = needs->groups[i].groove;
        const struct batch_group *group = group_find(batch, groove->groove_id);
        if (group == NULL) {
            group_count += 1;
        } else if (group->event_count + needs->groups[i].event_count >
                   groove->schema->schema.event_max) {
            return false;
        }
    }
    if (group_count > BATCH_GROUP_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < needs->group_count; i++) {
        struct batch_group *group = group_find(batch, needs->groups[i].groove->groove_id);
        if (group == NULL) {
            group = &batch->groups[batch->group_count];
            batch->group_count += 1;
            *group = (struct batch_group){.groove_id = needs->groups[i].groove->groove_id};
        }
        group->event_count += needs->groups[i].event_count;
    }
    batch->event_count += needs->event_count;
    batch->object_bytes += needs->object_bytes;
    batch->write_bytes += needs->write_bytes;
    return true;
}

enum request_space request_space(enum request_kind kind, const uint8_t *body, uint32_t size)
{
    switch (kind) {
    case REQUEST_KIND_GROOVE_DROP:
    case REQUEST_KIND_GROOVE_FORGET:
    case REQUEST_KIND_IDLE:
    case REQUEST_KIND_SESSION_CLOSE:
    case REQUEST_KIND_SESSION_EVICT:
        return REQUEST_SPACE_NONE;
    case REQUEST_KIND_GROOVE_CREATE:
    case REQUEST_KIND_SESSION_OPEN:
        return REQUEST_SPACE_WRITE;
    case REQUEST_KIND_WRITE:
        break;
    }
    uint64_t at = 0;
    while (size - at >= sizeof(struct event_section)) {
        struct event_section section;
        memcpy(&section, body + at, sizeof section);
        const uint64_t payloads =
            (uint64_t)section.event_count * (event_guard_size(section.guard) + ID_SIZE);
        if (!event_has_id_only(section.event_type) ||
            payloads > size - at - sizeof(struct event_section)) {
            return REQUEST_SPACE_WRITE;
        }
        at += sizeof section + payloads;
    }
    return at == size ? REQUEST_SPACE_REMOVE : REQUEST_SPACE_WRITE;
}

/* ---- Adding ------------------------------------------------------------------------------------
 */

/* Requests that are not writes. Of those of sessions, only what needs no session. */
static enum request_result check_ddl(struct batch *batch, const struct catalog *catalog,
                                     enum request_kind kind, const uint8_t *body, uint32_t size)
{
    if (kind == REQUEST_KIND_GROOVE_CREATE) {
        struct groove_spec spec;
        if (size != sizeof spec) {
            return REQUEST_RESULT_MALFORMED;
        }
        memcpy(&spec, body, sizeof spec);
        switch (catalog_check(catalog, &spec, batch->reason, sizeof batch->reason)) {
        case CATALOG_OK:
            return REQUEST_RESULT_OK;
        case CATALOG_EXISTS:
            return REQUEST_RESULT_GROOVE_EXISTS;
        case CATALOG_BAD_SCHEMA:
            return REQUEST_RESULT_BAD_SCHEMA;
        case CATALOG_LIMIT:
            return REQUEST_RESULT_LIMIT;
        }
    }
    if (kind == REQUEST_KIND_GROOVE_DROP) {
        if (size != NAME_SIZE || body[NAME_SIZE - 1] != 0) {
            return REQUEST_RESULT_MALFORMED;
        }
        return catalog_find_name(catalog, (const char *)body) == NULL
                   ? REQUEST_RESULT_UNKNOWN_GROOVE
                   : REQUEST_RESULT_OK;
    }
    if (kind == REQUEST_KIND_SESSION_OPEN) {
        struct session_open_body open;
        if (size != sizeof open) {
            return REQUEST_RESULT_MALFORMED;
        }
        memcpy(&open, body, sizeof open);
        return open.lane_count >= 1 && open.lane_count <= SESSION_LANE_MAX
                   ? REQUEST_RESULT_OK
                   : REQUEST_RESULT_MALFORMED;
    }
    if (kind == REQUEST_KIND_SESSION_CLOSE || kind == REQUEST_KIND_SESSION_EVICT) {
        return size == 0 ? REQUEST_RESULT_OK : REQUEST_RESULT_MALFORMED;
    }
    assert(kind == REQUEST_KIND_GROOVE_FORGET || kind == REQUEST_KIND_IDLE);
    assert(size == 8);
    if (kind == REQUEST_KIND_GROOVE_FORGET) {
        const uint64_t groove_id = load_u64_le(body);
        const struct catalog_groove *groove = catalog_after(catalog, (uint32_t)groove_id - 1);
        return groove != NULL && groove->groove_id == groove_id && groove->dropping
                   ? REQUEST_RESULT_OK
                   : REQUEST_RESULT_UNKNOWN_GROOVE;
    }
    return REQUEST_RESULT_OK;
}

static uint32_t padded(uint32_t size)
{
    return (uint32_t)align_up(size, 8);
}

enum batch_admission batch_add(struct batch *batch, const struct catalog *catalog,
                               enum request_kind kind, bool atomic, const uint8_t *body,
                               uint32_t size, void *context, bool internal,
                               enum request_result *result)
{
    assert(!atomic || kind == REQUEST_KIND_WRITE);
    struct write_needs needs = {0};
    if (size > batch->geometry->batch_size_max) {
        *result = REQUEST_RESULT_TOO_BIG;
        return BATCH_REFUSED;
    }
    *result = kind == REQUEST_KIND_WRITE ? write_measure(batch, catalog, body, size, &needs)
                                         : check_ddl(batch, catalog, kind, body, size);
    if (*result != REQUEST_RESULT_OK) {
        return BATCH_REFUSED;
    }
    const bool alone = kind != REQUEST_KIND_WRITE; /* The catalog changes between entries only. */
    if (batch->alone || (alone && batch->request_count > 0) ||
        batch->request_count == BATCH_REQUEST_MAX ||
        batch->request_bytes + size > batch->geometry->batch_size_max ||
        (kind == REQUEST_KIND_WRITE && !write_fits(batch, &needs))) {
        return BATCH_FULL;
    }
    struct batch_request *request = &batch->requests[batch->request_count];
    *request = (struct batch_request){
        .header = (struct batch_request_header *)(void *)(batch->buffer + batch->size),
        .body = batch->buffer + batch->size + BATCH_REQUEST_HEADER_SIZE,
        .context = context,
        .internal = internal,
        .space = request_space(kind, body, size),
    };
    *request->header = (struct batch_request_header){
        .size = size,
        .kind = (uint8_t)kind,
        .flags = atomic ? BATCH_FLAG_ATOMIC : 0,
        .event_count = needs.event_count,
    };
    if (size > 0) {
        memcpy(batch->buffer + batch->size + BATCH_REQUEST_HEADER_SIZE, body, size);
    }
    memset(batch->buffer + batch->size + BATCH_REQUEST_HEADER_SIZE + size, 0, padded(size) - size);
    batch->size += BATCH_REQUEST_HEADER_SIZE + padded(size);
    assert(batch->size <= journal_entry_size_max(batch->geometry));
    batch->request_bytes += size;
    batch->request_count += 1;
    batch->alone = alone;
    return BATCH_ADDED;
}

void batch_identify(struct batch *batch, const struct request_session *session)
{
    assert(batch->request_count > 0);
    struct batch_request_header *header = batch->requests[batch->request_count - 1].header;
    assert(header->number == 0);
    memcpy(header->client_id, session->client_id, CLIENT_ID_SIZE);
    header->lane = session->lane;
    header->number = session->number;
}

/* What needs no catalog and no session. */
static bool header_valid(const struct batch_request_header *header)
{
    static const uint8_t no_client[CLIENT_ID_SIZE];
    const uint8_t flags =
        BATCH_FLAG_REFUSED | (header->kind == REQUEST_KIND_WRITE ? BATCH_FLAG_ATOMIC : 0);
    if ((header->flags & ~flags) != 0 || header->zero != 0 || header->zero_2 != 0) {
        return false;
    }
    const bool has_client = memcmp(header->client_id, no_client, CLIENT_ID_SIZE) != 0;
    if (has_client && header->kind <= REQUEST_KIND_GROOVE_DROP) {
        return header->number != 0 && header->lane < SESSION_LANE_MAX;
    }
    return has_client == (header->kind >= REQUEST_KIND_SESSION_OPEN) && header->number == 0 &&
           header->lane == 0;
}

enum status batch_decode(struct batch *batch, const struct catalog *catalog)
{
    const struct journal_header *header =
        (const struct journal_header *)(const void *)batch->buffer;
    if (header->request_count > BATCH_REQUEST_MAX) {
        return STATUS_CORRUPT;
    }
    batch_reset(batch);
    for (uint32_t i = 0; i < header->request_count; i++) {
        struct batch_request_header *request =
            (struct batch_request_header *)(void *)(batch->buffer + batch->size);
        if (header->size - batch->size < BATCH_REQUEST_HEADER_SIZE || !header_valid(request) ||
            request->size > batch->geometry->batch_size_max ||
            header->size - batch->size - BATCH_REQUEST_HEADER_SIZE < padded(request->size)) {
            return STATUS_CORRUPT;
        }
        batch->requests[i] = (struct batch_request){
            .header = request,
            .body = batch->buffer + batch->size + BATCH_REQUEST_HEADER_SIZE,
        };
        batch->size += BATCH_REQUEST_HEADER_SIZE + padded(request->size);
        batch->request_count += 1;
        if (batch_request_refused(&batch->requests[i])) {
            continue;
        }
        const uint8_t *body = batch->requests[i].body;
        if (request->kind == REQUEST_KIND_WRITE) {
            struct write_needs needs;
            if (write_measure(batch, catalog, body, request->size, &needs) != REQUEST_RESULT_OK ||
                !write_fits(batch, &needs) || needs.event_count != request->event_count) {
                return STATUS_CORRUPT;
            }
        } else if (request->kind < REQUEST_KIND_GROOVE_CREATE ||
                   request->kind > REQUEST_KIND_SESSION_EVICT || header->request_count != 1 ||
                   ((request->kind == REQUEST_KIND_GROOVE_FORGET ||
                     request->kind == REQUEST_KIND_IDLE) &&
                    request->size != 8) ||
                   check_ddl(batch, catalog, request->kind, body, request->size) !=
                       REQUEST_RESULT_OK) {
            return STATUS_CORRUPT;
        }
    }
    return batch->size == header->size ? STATUS_OK : STATUS_CORRUPT;
}

/* ---- Resolving ---------------------------------------------------------------------------------
 */

struct event_guard batch_event_guard(const struct batch_event *event)
{
    struct event_guard guard = {.kind = event->guard};
    if (guard.kind == EVENT_GUARD_VERSION) {
        guard.version = load_u64_le(event->payload - event_guard_size(event->guard));
    }
    return guard;
}

static void resolve_events(struct batch *batch, const struct catalog *catalog,
                           struct batch_request *request)
{
    const bool atomic = (request->header->flags & BATCH_FLAG_ATOMIC) != 0;
    request->event_first = batch->event_count;
    struct section_cursor cursor = {
        .at = request->body,
        .end = request->body + request->header->size,
    };
    enum request_result result;
    while (section_next(&cursor, catalog, &result)) {
        struct batch_group *group = group_find(batch, cursor.section.groove_id);
        assert(group != NULL);
        group->groove = cursor.groove;
        for (uint32_t i = 0; i < cursor.section.event_count; i++) {
            assert(batch->event_count < batch->geometry->batch_event_max);
            batch->events[batch->event_count] = (struct batch_event){
                .payload = cursor.payloads + (size_t)i * cursor.stride,
                .type = cursor.section.event_type,
                .group = (uint8_t)(group - batch->groups),
                .guard = cursor.section.guard,
                .linked = atomic || (cursor.section.flags & EVENT_SECTION_FLAG_LINKED) != 0,
            };
            batch->event_count += 1;
            group->event_count += 1;
        }
    }
    assert(result == REQUEST_RESULT_OK);
    if (atomic) {
        batch->events[batch->event_count - 1].linked = false;
    }
    assert(!batch->events[batch->event_count - 1].linked); /* A chain ends with its request. */
}

void batch_resolve(struct batch *batch, const struct catalog *catalog)
{
    batch->event_count = 0;
    for (uint32_t i = 0; i < batch->group_count; i++) {
        batch->groups[i].event_count = 0;
    }
    for (uint32_t i = 0; i < batch->request_count; i++) {
        struct batch_request *request = &batch->requests[i];
        if (batch_request_refused(request)) {
            continue;
        }
        /* A batch before this one may have dropped a groove, or taken its name. What can no longer
         * be done is refused before it is journaled: replay would not believe it. */
        const bool write = request->header->kind == REQUEST_KIND_WRITE;
        struct write_needs needs;
        const enum request_result result =
            write ? write_measure(batch, catalog, request->body, request->header->size, &needs)
                  : check_ddl(batch, catalog, request->header->kind, request->body,
                              request->header->size);
        if (result != REQUEST_RESULT_OK) {
            batch_request_refuse(request, result);
            continue;
        }
        if (write) {
            resolve_events(batch, catalog, request);
        }
    }
    uint32_t item_first = 0;
    uint64_t object_first = 0;
    for (uint32_t i = 0; i < batch->group_count; i++) {
        struct batch_group *group = &batch->groups[i];
        group->item_first = item_first;
        group->object_first = object_first;
        item_first += group->event_count;
        if (group->event_count > 0) {
            object_first += align_up(
                (uint64_t)group->event_count * group->groove->schema->schema.object_size, 64);
        }
    }
}
