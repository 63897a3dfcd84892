#include "ipc/protocol.h"

#include <string.h>

const char *operation_name(uint32_t operation)
{
    switch (operation) {
#define X(name, number)                                                                            \
    case (number):                                                                                 \
        return #name;
        OPERATION_MAP(X)
#undef X
    }
    return "UNKNOWN";
}

const char *result_name(uint32_t result)
{
    switch (result) {
#define X(name, number, text)                                                                      \
    case (number):                                                                                 \
        return #name;
        RESULT_MAP(X)
#undef X
    }
    return "UNKNOWN";
}

const char *result_text(uint32_t result)
{
    switch (result) {
#define X(name, number, text)                                                                      \
    case (number):                                                                                 \
        return text;
        RESULT_MAP(X)
#undef X
    }
    return "a result this client does not know";
}

const char *wire_event_result_name(uint32_t result)
{
    switch (result) {
#define X(name, number, text)                                                                      \
    case (number):                                                                                 \
        return #name;
        WIRE_EVENT_RESULT_MAP(X)
#undef X
    }
    return "UNKNOWN";
}

const char *wire_event_result_text(uint32_t result)
{
    switch (result) {
#define X(name, number, text)                                                                      \
    case (number):                                                                                 \
        return text;
        WIRE_EVENT_RESULT_MAP(X)
#undef X
    }
    return "a result this client does not know";
}

static bool all_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

/* Sections as far as their sizes are known: an object image's size is the schema's, so the walk
 * ends at the first section of images, having seen that the smallest images would fit. */
static bool write_body_valid(const uint8_t *body, uint32_t size)
{
    uint32_t offset = 0;
    bool linked;
    do {
        struct wire_section section;
        if (size - offset < sizeof section) {
            return false;
        }
        memcpy(&section, body + offset, sizeof section);
        offset += (uint32_t)sizeof section;

        const bool check = section.event_type == WIRE_EVENT_TYPE_CHECK;
        if (section.event_type < WIRE_EVENT_TYPE_INSERT ||
            section.event_type > WIRE_EVENT_TYPE_CHECK ||
            (section.flags & ~WIRE_SECTION_FLAG_LINKED) != 0 ||
            section.guard > WIRE_GUARD_VERSION || (check && section.guard == WIRE_GUARD_NONE) ||
            section.zero != 0 || section.zero_2 != 0) {
            return false;
        }
        linked = (section.flags & WIRE_SECTION_FLAG_LINKED) != 0;
        const bool ids = check || section.event_type == WIRE_EVENT_TYPE_REMOVE;
        const uint64_t event_size = (section.guard == WIRE_GUARD_VERSION ? sizeof(uint64_t) : 0) +
                                    (ids ? WIRE_ID_SIZE : sizeof(struct wire_object_header));
        if (section.event_count == 0 || section.event_count * event_size > size - offset) {
            return false;
        }
        if (!ids) {
            return true;
        }
        offset += (uint32_t)(section.event_count * event_size);
        assert(offset <= size);
    } while (offset < size);
    return !linked; /* The last section has nothing to be linked to. */
}

static bool lookup_body_valid(const uint8_t *body, uint32_t size)
{
    struct lookup_request lookup;
    if (size < sizeof lookup) {
        return false;
    }
    memcpy(&lookup, body, sizeof lookup);
    return lookup.id_count > 0 && size - sizeof lookup == (uint64_t)lookup.id_count * WIRE_ID_SIZE;
}

static bool query_body_valid(const uint8_t *body, uint32_t size, enum operation operation)
{
    struct query_request query;
    if (size < sizeof query) {
        return false;
    }
    memcpy(&query, body, sizeof query);
    if (query.flags != 0 || query.zero != 0 || query.key_size != size - sizeof query) {
        return false;
    }
    if (operation == OPERATION_QUERY) {
        return query.index_id != WIRE_INDEX_NONE;
    }
    assert(operation == OPERATION_COUNT);
    return query.limit == 0 && (query.index_id != WIRE_INDEX_NONE || query.key_size == 0);
}

static bool open_session_valid(const struct request_header *header, const uint8_t *body)
{
    struct open_session_request open;
    if (header->body_size != sizeof open) {
        return false;
    }
    memcpy(&open, body, sizeof open);
    return open.lane_count >= 1 && open.lane_count <= WIRE_LANE_COUNT_MAX &&
           all_zero(open.zero, sizeof open.zero) &&
           !all_zero(header->client_id, sizeof header->client_id);
}

static enum result body_check(const struct request_header *header, const uint8_t *body)
{
    const uint32_t size = header->body_size;
    bool valid = false;
    switch (header->operation) {
    case OPERATION_HELLO:
    case OPERATION_STAT:
    case OPERATION_SCHEMA:
    case OPERATION_CLOSE_SESSION:
        valid = size == 0;
        break;
    case OPERATION_PING:
        valid = true;
        break;
    case OPERATION_CREATE_GROOVE: /* The engine says what is wrong with a description, in words. */
        valid = size == sizeof(struct wire_groove_spec);
        break;
    case OPERATION_DROP_GROOVE:
        valid = size == WIRE_NAME_SIZE;
        break;
    case OPERATION_WRITE:
        valid = write_body_valid(body, size);
        break;
    case OPERATION_LOOKUP:
        valid = lookup_body_valid(body, size);
        break;
    case OPERATION_QUERY:
    case OPERATION_COUNT:
        valid = query_body_valid(body, size, (enum operation)header->operation);
        break;
    case OPERATION_OPEN_SESSION:
        valid = open_session_valid(header, body);
        break;
    default:
        return RESULT_BAD_OPERATION;
    }
    return valid ? RESULT_OK : RESULT_BAD_BODY;
}

/* The first 16 bytes never change between versions, so that any daemon can answer any client. */
static const size_t header_fixed_size = offsetof(struct request_header, client_id);
static_assert(offsetof(struct request_header, client_id) == 16, "fixed for all versions");
static_assert(offsetof(struct reply_header, result) == 16, "fixed for all versions");

static enum result request_check(const uint8_t *message, size_t size, uint32_t size_max,
                                 struct request_header *header)
{
    if (size < header_fixed_size) {
        return RESULT_BAD_MAGIC;
    }
    memcpy(header, message, header_fixed_size);
    if (header->magic != PROTOCOL_MAGIC) {
        memset(header, 0, sizeof *header);
        return RESULT_BAD_MAGIC;
    }
    if (header->version != PROTOCOL_VERSION) {
        return RESULT_BAD_VERSION;
    }
    if (size > size_max) {
        return RESULT_TOO_BIG;
    }
    if (size < PROTOCOL_HEADER_SIZE) {
        return RESULT_BAD_HEADER;
    }
    memcpy(header, message, sizeof *header);
    const uint32_t flags =
        header->operation == OPERATION_WRITE ? (uint32_t)WIRE_REQUEST_FLAG_ATOMIC : 0;
    if ((header->flags & ~flags) != 0 || !all_zero(header->zero, sizeof header->zero) ||
        header->body_size != size - PROTOCOL_HEADER_SIZE) {
        return RESULT_BAD_HEADER;
    }
    return body_check(header, message + PROTOCOL_HEADER_SIZE);
}

bool protocol_request_check(const uint8_t *message, size_t size, uint32_t size_max,
                            struct request_header *header, enum result *result)
{
    assert(message != NULL || size == 0);
    assert(size_max >= PROTOCOL_HEADER_SIZE);

    memset(header, 0, sizeof *header);
    *result = request_check(message, size, size_max, header);
    return *result == RESULT_OK;
}

bool protocol_reply_check(const uint8_t *message, size_t size, struct reply_header *header)
{
    assert(message != NULL || size == 0);

    memset(header, 0, sizeof *header);
    if (size < PROTOCOL_HEADER_SIZE) {
        return false;
    }
    memcpy(header, message, sizeof *header);
    if (header->magic != PROTOCOL_MAGIC || header->body_size != size - PROTOCOL_HEADER_SIZE) {
        return false;
    }
    return header->version == PROTOCOL_VERSION || header->result != RESULT_OK;
}

struct reply_header protocol_reply_header(const struct request_header *request, enum result result,
                                          uint32_t body_size)
{
    return (struct reply_header){
        .magic = PROTOCOL_MAGIC,
        .version = PROTOCOL_VERSION,
        .operation = request->operation,
        .number = request->number,
        .result = result,
        .body_size = body_size,
    };
}
