/* Goal: what docs/protocol.md promises about bytes is what the code does, and no message, however
 * damaged, is read outside its bounds or taken for another.
 *
 * Method: golden frames written out by hand; every prefix and every changed byte of valid messages;
 * random bodies against a second, independent reading of the rules. Each message is copied into an
 * allocation of exactly its size, so that AddressSanitizer sees a read past its end. */
#include "ipc/protocol.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>

#include "pool/base.h"
#include "tests/harness/prng.h"

enum { SIZE_MAX_TEST = 4096, SEED_COUNT = 200 };

TestSuite(protocol, .timeout = 120);

static uint8_t message[SIZE_MAX_TEST];

static uint32_t message_make(uint16_t operation, const void *body, uint32_t body_size)
{
    const struct request_header header = {
        .magic = PROTOCOL_MAGIC,
        .version = PROTOCOL_VERSION,
        .operation = operation,
        .number = 77,
        .client_id = {operation == OPERATION_OPEN_SESSION},
        .body_size = body_size,
    };
    memcpy(message, &header, sizeof header);
    if (body_size > 0) {
        memcpy(message + sizeof header, body, body_size);
    }
    return (uint32_t)sizeof header + body_size;
}

static enum result check_exactly(const uint8_t *bytes, size_t size, struct request_header *header)
{
    uint8_t *exact = malloc(size > 0 ? size : 1);
    memcpy(exact, bytes, size);
    enum result result;
    const bool good = protocol_request_check(exact, size, SIZE_MAX_TEST, header, &result);
    free(exact);
    cr_assert(good == (result == RESULT_OK));
    return result;
}

static enum result check_body(uint16_t operation, const void *body, uint32_t body_size)
{
    struct request_header header;
    const enum result result =
        check_exactly(message, message_make(operation, body, body_size), &header);
    cr_assert(header.number == 77);
    cr_assert(header.operation == operation);
    return result;
}

/* One valid body for each operation. */
static uint32_t valid_body(uint16_t operation, uint8_t *body)
{
    memset(body, 0, SIZE_MAX_TEST - PROTOCOL_HEADER_SIZE);
    switch (operation) {
    case OPERATION_CREATE_GROOVE:
        strcpy((char *)body, "cities");
        return sizeof(struct wire_groove_spec);
    case OPERATION_DROP_GROOVE:
        strcpy((char *)body, "cities");
        return WIRE_NAME_SIZE;
    case OPERATION_WRITE: {
        const struct wire_section remove = {
            .groove_id = 1, .event_type = WIRE_EVENT_TYPE_REMOVE, .event_count = 2};
        const struct wire_section insert = {
            .groove_id = 1, .event_type = WIRE_EVENT_TYPE_INSERT, .event_count = 3};
        memcpy(body, &remove, sizeof remove);
        memcpy(body + 16 + 32, &insert, sizeof insert);
        return 16 + 2 * 16 + 16 + 3 * 40;
    }
    case OPERATION_LOOKUP: {
        const struct lookup_request lookup = {.groove_id = 1, .id_count = 3};
        memcpy(body, &lookup, sizeof lookup);
        return 8 + 3 * 16;
    }
    case OPERATION_QUERY:
    case OPERATION_COUNT: {
        const struct query_request query = {.groove_id = 1, .index_id = 2, .key_size = 8};
        memcpy(body, &query, sizeof query);
        return 24 + 8;
    }
    case OPERATION_OPEN_SESSION:
        body[0] = WIRE_LANE_COUNT_MAX;
        return sizeof(struct open_session_request);
    default:
        return 0;
    }
}

Test(protocol, a_lookup_is_these_bytes)
{
    static const uint8_t golden[] = {
        'H', 'O', 'L', 'T', 1,  0,  8, 0, /* magic, version, LOOKUP */
        9,   0,   0,   0,   0,  0,  0, 0, /* number */
        1,   2,   3,   4,   5,  6,  7, 8, 9, 10, 11, 12, 13, 14, 15, 16, /* client id */
        5,   0,   0,   0,   16, 39, 0, 0, /* lane, deadline 10000 ms */
        24,  0,   0,   0,   0,  0,  0, 0, /* body size, flags */
        0,   0,   0,   0,   0,  0,  0, 0, 0, 0,  0,  0,  0,  0,  0,  0,
        7,   0,   0,   0,   1,  0,  0, 0, /* groove, one id */
        255, 0,   0,   0,   0,  0,  0, 0, 0, 0,  0,  0,  0,  0,  0,  0,
    };
    struct request_header header;
    cr_assert(check_exactly(golden, sizeof golden, &header) == RESULT_OK);
    cr_assert(header.operation == OPERATION_LOOKUP);
    cr_assert(header.number == 9);
    cr_assert(header.client_id[0] == 1 && header.client_id[15] == 16);
    cr_assert(header.lane == 5);
    cr_assert(header.deadline_ms == 10000);
    cr_assert(header.body_size == 24);
}

/* Compare and set: an update of one object of 40 bytes, if its version is 0x0102030405060708. */
Test(protocol, a_guarded_update_is_these_bytes)
{
    static const uint8_t golden[] = {
        'H', 'O', 'L', 'T', 1,   0, 7, 0, /* magic, version, WRITE */
        3,   0,   0,   0,   0,   0, 0, 0, /* number */
        0,   0,   0,   0,   0,   0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0,   0,   0,   0,   0,   0, 0, 0, /* lane, deadline */
        64,  0,   0,   0,   0,   0, 0, 0, /* body size, flags */
        0,   0,   0,   0,   0,   0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        7,   0,   0,   0,   3,   0, 3, 0, /* groove; update, not linked, guard version, zero */
        1,   0,   0,   0,   0,   0, 0, 0, /* one event, zero */
        8,   7,   6,   5,   4,   3, 2, 1, /* the version */
        255, 0,   0,   0,   0,   0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* id */
        0,   0,   0,   0,   0,   0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* times */
        'v', 'a', 'l', 'u', 'e', 0, 0, 0,
    };
    struct request_header header;
    cr_assert(check_exactly(golden, sizeof golden, &header) == RESULT_OK);
    cr_assert(header.operation == OPERATION_WRITE && header.flags == 0);
    struct wire_section section;
    memcpy(&section, golden + PROTOCOL_HEADER_SIZE, sizeof section);
    cr_assert(section.groove_id == 7 && section.event_count == 1);
    cr_assert(section.event_type == WIRE_EVENT_TYPE_UPDATE);
    cr_assert(section.flags == 0 && section.guard == WIRE_GUARD_VERSION);
    /* Without room for the version before the smallest image it is none. */
    uint8_t shorter[sizeof golden];
    memcpy(shorter, golden, sizeof golden);
    shorter[40] = 16 + 8 + 32;
    cr_assert(check_exactly(shorter, sizeof golden - 8, &header) == RESULT_OK);
    shorter[40] = 16 + 32;
    cr_assert(check_exactly(shorter, sizeof golden - 16, &header) == RESULT_BAD_BODY);
}

/* A remove in one groove, chained to a check that another object is there, as an atomic request
 * (which would chain them anyway). */
Test(protocol, a_linked_pair_is_these_bytes)
{
    static const uint8_t golden[] = {
        'H', 'O', 'L', 'T', 1, 0, 7, 0, /* magic, version, WRITE */
        4,   0,   0,   0,   0, 0, 0, 0, /* number */
        0,   0,   0,   0,   0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0,   0,   0,   0,   0, 0, 0, 0, /* lane, deadline */
        64,  0,   0,   0,   1, 0, 0, 0, /* body size, flags: atomic */
        0,   0,   0,   0,   0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        7,   0,   0,   0,   4, 1, 0, 0, /* groove; remove, linked, no guard, zero */
        1,   0,   0,   0,   0, 0, 0, 0, /* one event, zero */
        255, 0,   0,   0,   0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        8,   0,   0,   0,   5, 0, 2, 0, /* groove; check, not linked, guard present, zero */
        1,   0,   0,   0,   0, 0, 0, 0, /* one event, zero */
        254, 0,   0,   0,   0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    };
    struct request_header header;
    cr_assert(check_exactly(golden, sizeof golden, &header) == RESULT_OK);
    cr_assert(header.flags == WIRE_REQUEST_FLAG_ATOMIC);
    struct wire_section sections[2];
    memcpy(&sections[0], golden + PROTOCOL_HEADER_SIZE, sizeof sections[0]);
    memcpy(&sections[1], golden + PROTOCOL_HEADER_SIZE + 32, sizeof sections[1]);
    cr_assert(sections[0].event_type == WIRE_EVENT_TYPE_REMOVE);
    cr_assert(sections[0].flags == WIRE_SECTION_FLAG_LINKED);
    cr_assert(sections[1].event_type == WIRE_EVENT_TYPE_CHECK);
    cr_assert(sections[1].flags == 0 && sections[1].guard == WIRE_GUARD_PRESENT);

    /* What the pair answers when the check fails. */
    static const uint8_t reply[] = {
        2, 0, 0, 0, 2, 0, 0, 0, /* two failures listed, of two */
        0, 0, 0, 0, 9, 0, 0, 0, /* event 0: LINKED */
        1, 0, 0, 0, 8, 0, 0, 0, /* event 1: GUARD */
    };
    struct write_reply write;
    struct wire_failure failures[2];
    memcpy(&write, reply, sizeof write);
    memcpy(failures, reply + sizeof write, sizeof failures);
    cr_assert(write.failure_count == 2 && write.failure_total == 2);
    cr_assert(failures[0].result == WIRE_EVENT_RESULT_LINKED);
    cr_assert(failures[1].event_index == 1 && failures[1].result == WIRE_EVENT_RESULT_GUARD);
    cr_assert_str_eq(wire_event_result_name(8), "GUARD");
    cr_assert_str_eq(wire_event_result_name(9), "LINKED");
}

Test(protocol, a_busy_reply_is_these_bytes)
{
    static const uint8_t golden[PROTOCOL_HEADER_SIZE] = {
        'H', 'O', 'L', 'T', 1, 0, 7, 0, /* magic, version, WRITE */
        9,   0,   0,   0,   0, 0, 0, 0, /* number */
        12,  0,   0,   0,   0, 0, 0, 0, /* BUSY, body size */
        0,   0,   0,   0,   0, 0, 0, 0, /* commit */
        0,   0,   0,   0,   0, 0, 0, 0, /* timestamp */
        50,  0,   0,   0,               /* retry after 50 ms */
    };
    const struct request_header request = {.operation = OPERATION_WRITE, .number = 9};
    struct reply_header reply = protocol_reply_header(&request, RESULT_BUSY, 0);
    reply.retry_after_ms = 50;
    cr_assert(memcmp(&reply, golden, sizeof golden) == 0);

    struct reply_header decoded;
    cr_assert(protocol_reply_check(golden, sizeof golden, &decoded));
    cr_assert(memcmp(&decoded, golden, sizeof golden) == 0);
}

Test(protocol, opening_a_session_is_these_bytes)
{
    static const uint8_t golden[] = {
        'H', 'O', 'L', 'T', 1, 0, 11, 0, /* magic, version, OPEN_SESSION */
        3,   0,   0,   0,   0, 0, 0,  0, /* number */
        1,   2,   3,   4,   5, 6, 7,  8, 9, 10, 11, 12, 13, 14, 15, 16, /* client id */
        0,   0,   0,   0,   0, 0, 0,  0,                                /* lane, deadline */
        16,  0,   0,   0,   0, 0, 0,  0,                                /* body size, flags */
        0,   0,   0,   0,   0, 0, 0,  0, 0, 0,  0,  0,  0,  0,  0,  0,
        2,   0,   0,   0,   0, 0, 0,  0, 0, 0,  0,  0,  0,  0,  0,  0, /* two lanes */
    };
    struct request_header header;
    cr_assert(check_exactly(golden, sizeof golden, &header) == RESULT_OK);
    cr_assert(header.operation == OPERATION_OPEN_SESSION);
    struct open_session_request open;
    memcpy(&open, golden + PROTOCOL_HEADER_SIZE, sizeof open);
    cr_assert(open.lane_count == 2);
}

Test(protocol, numbers_on_the_wire_do_not_move)
{
    cr_assert(OPERATION_HELLO == 1 && OPERATION_WRITE == 7 && OPERATION_COUNT == 10);
    cr_assert(OPERATION_OPEN_SESSION == 11 && OPERATION_CLOSE_SESSION == 12);
    cr_assert(RESULT_NO_SESSION == 23 && RESULT_STALE_NUMBER == 24 && RESULT_BAD_LANE == 25);
    cr_assert(RESULT_LANE_BUSY == 26 && WIRE_FEATURE_SESSIONS == 1);
    cr_assert(RESULT_OK == 0 && RESULT_BUSY == 12 && RESULT_INTERNAL == 20);
    cr_assert(WIRE_EVENT_RESULT_EXISTS == 1 && WIRE_EVENT_RESULT_CORRUPT == 7);
    cr_assert(WIRE_EVENT_RESULT_GUARD == 8 && WIRE_EVENT_RESULT_LINKED == 9);
    cr_assert(WIRE_EVENT_TYPE_INSERT == 1 && WIRE_EVENT_TYPE_CHECK == 5);
    cr_assert(WIRE_SECTION_FLAG_LINKED == 1 && WIRE_REQUEST_FLAG_ATOMIC == 1);
    cr_assert(WIRE_GUARD_ABSENT == 1 && WIRE_GUARD_VERSION == 3);
    cr_assert(WIRE_FEATURE_SESSIONS == 1 && WIRE_FEATURE_CHAINS == 2);
    cr_assert(WIRE_FIELD_TYPE_U8 == 1 && WIRE_FIELD_TYPE_TIMESTAMP == 15);
    cr_assert_str_eq(operation_name(OPERATION_STAT), "STAT");
    cr_assert_str_eq(result_name(RESULT_BAD_BODY), "BAD_BODY");
    cr_assert_str_eq(wire_event_result_name(WIRE_EVENT_RESULT_UNIQUE), "UNIQUE");
    cr_assert_str_eq(operation_name(999), "UNKNOWN");
    cr_assert_str_eq(result_name(999), "UNKNOWN");
    cr_assert_str_eq(wire_event_result_name(999), "UNKNOWN");
    cr_assert(strlen(result_text(999)) > 0 && strlen(wire_event_result_text(999)) > 0);
}

/* As `name` and `text` tell them: each has its own, and nobody else has any. */
static void check_names(const char *(*name)(uint32_t), const char *(*text)(uint32_t),
                        const uint32_t *numbers, uint32_t count)
{
    enum { NUMBER_MAX = 200 };
    for (uint32_t i = 0; i < count; i++) {
        cr_assert_str_neq(name(numbers[i]), "UNKNOWN", "%u", numbers[i]);
        for (uint32_t j = 0; j < i; j++) {
            cr_assert_str_neq(name(numbers[i]), name(numbers[j]));
            cr_assert(text == NULL || strcmp(text(numbers[i]), text(numbers[j])) != 0, "%u and %u",
                      numbers[i], numbers[j]);
        }
    }
    uint32_t known = 0;
    for (uint32_t number = 0; number < NUMBER_MAX; number++) {
        known += strcmp(name(number), "UNKNOWN") != 0;
        if (text != NULL) {
            cr_assert_eq(strcmp(name(number), "UNKNOWN") == 0,
                         strcmp(text(number), text(NUMBER_MAX)) == 0);
        }
    }
    cr_assert_eq(known, count);
}

Test(protocol, each_number_has_a_name_and_a_text_of_its_own)
{
#define X(name, number) (number),
    static const uint32_t operations[] = {OPERATION_MAP(X)};
#undef X
#define X(name, number, text) (number),
    static const uint32_t results[] = {RESULT_MAP(X)};
    static const uint32_t event_results[] = {WIRE_EVENT_RESULT_MAP(X)};
#undef X
    check_names(operation_name, NULL, operations, (uint32_t)array_count(operations));
    check_names(result_name, result_text, results, (uint32_t)array_count(results));
    check_names(wire_event_result_name, wire_event_result_text, event_results,
                (uint32_t)array_count(event_results));
}

Test(protocol, headers_are_refused_by_name)
{
    static const uint8_t body_of_pings[64];
    struct request_header header;
    uint8_t *const bytes = message;

    cr_assert(check_exactly(bytes, 0, &header) == RESULT_BAD_MAGIC);
    uint32_t size = message_make(OPERATION_PING, NULL, 0);
    bytes[0] = 'h';
    cr_assert(check_exactly(bytes, size, &header) == RESULT_BAD_MAGIC);
    cr_assert(header.number == 0);

    size = message_make(OPERATION_PING, NULL, 0);
    bytes[4] = 2;
    cr_assert(check_exactly(bytes, size, &header) == RESULT_BAD_VERSION);
    cr_assert(header.number == 77); /* A reply can be matched to it. */

    size = message_make(OPERATION_PING, NULL, 0);
    bytes[44] = 1; /* flags */
    cr_assert(check_exactly(bytes, size, &header) == RESULT_BAD_HEADER);
    struct {
        struct wire_section section;
        uint8_t id[WIRE_ID_SIZE];
    } remove = {.section = {.event_type = WIRE_EVENT_TYPE_REMOVE, .event_count = 1}};
    size = message_make(OPERATION_WRITE, &remove, sizeof remove);
    bytes[44] = WIRE_REQUEST_FLAG_ATOMIC;
    cr_assert(check_exactly(bytes, size, &header) == RESULT_OK);
    bytes[44] = 2;
    cr_assert(check_exactly(bytes, size, &header) == RESULT_BAD_HEADER);
    bytes[44] = 0;
    bytes[47] = 1;
    cr_assert(check_exactly(bytes, size, &header) == RESULT_BAD_HEADER);
    size = message_make(OPERATION_PING, NULL, 0);
    bytes[63] = 1; /* zero */
    cr_assert(check_exactly(bytes, size, &header) == RESULT_BAD_HEADER);
    size = message_make(OPERATION_PING, NULL, 0);
    bytes[40] = 1; /* body size */
    cr_assert(check_exactly(bytes, size, &header) == RESULT_BAD_HEADER);
    size = message_make(OPERATION_PING, NULL, 0);
    cr_assert(check_exactly(bytes, size - 1, &header) == RESULT_BAD_HEADER);

    size = message_make(0, NULL, 0);
    cr_assert(check_exactly(bytes, size, &header) == RESULT_BAD_OPERATION);
    size = message_make(OPERATION_CLOSE_SESSION + 1, NULL, 0);
    cr_assert(check_exactly(bytes, size, &header) == RESULT_BAD_OPERATION);

    enum result result;
    size = message_make(OPERATION_PING, body_of_pings, sizeof body_of_pings);
    cr_assert(!protocol_request_check(bytes, size, size - 1, &header, &result));
    cr_assert(result == RESULT_TOO_BIG);
}

Test(protocol, bodies_are_refused_by_rule)
{
    static uint8_t body[SIZE_MAX_TEST];
    for (uint16_t operation = OPERATION_HELLO; operation <= OPERATION_CLOSE_SESSION; operation++) {
        const uint32_t size = valid_body(operation, body);
        cr_assert(check_body(operation, body, size) == RESULT_OK, "%s", operation_name(operation));
        if (operation != OPERATION_PING) { /* Any body will do there. */
            const enum result longer = check_body(operation, body, size + 1);
            /* The images at the end of a write are the schema's to measure. */
            cr_assert(longer == (operation == OPERATION_WRITE ? RESULT_OK : RESULT_BAD_BODY));
        }
    }
    struct wire_section section = {.event_type = WIRE_EVENT_TYPE_REMOVE, .event_count = 1};
    uint8_t write[32] = {0};
#define WRITE_WITH(field, value)                                                                   \
    ({                                                                                             \
        struct wire_section changed = section;                                                     \
        changed.field = (value);                                                                   \
        memcpy(write, &changed, sizeof changed);                                                   \
        check_body(OPERATION_WRITE, write, sizeof write);                                          \
    })
    cr_assert(WRITE_WITH(groove_id, 9) == RESULT_OK);
    cr_assert(WRITE_WITH(event_type, 0) == RESULT_BAD_BODY);
    cr_assert(WRITE_WITH(event_type, 6) == RESULT_BAD_BODY);
    cr_assert(WRITE_WITH(event_type, WIRE_EVENT_TYPE_CHECK) == RESULT_BAD_BODY); /* of nothing */
    cr_assert(WRITE_WITH(flags, WIRE_SECTION_FLAG_LINKED) == RESULT_BAD_BODY);   /* to nothing */
    cr_assert(WRITE_WITH(flags, 2) == RESULT_BAD_BODY);
    cr_assert(WRITE_WITH(guard, WIRE_GUARD_ABSENT) == RESULT_OK);
    cr_assert(WRITE_WITH(guard, WIRE_GUARD_PRESENT) == RESULT_OK);
    cr_assert(WRITE_WITH(guard, WIRE_GUARD_VERSION) == RESULT_BAD_BODY); /* There is none. */
    cr_assert(WRITE_WITH(guard, WIRE_GUARD_VERSION + 1) == RESULT_BAD_BODY);
    cr_assert(WRITE_WITH(zero, 1) == RESULT_BAD_BODY);
    cr_assert(WRITE_WITH(zero_2, 1) == RESULT_BAD_BODY);
    cr_assert(WRITE_WITH(event_count, 0) == RESULT_BAD_BODY);
    cr_assert(WRITE_WITH(event_count, 2) == RESULT_BAD_BODY);
    cr_assert(WRITE_WITH(event_count, UINT32_MAX) == RESULT_BAD_BODY);
    cr_assert(WRITE_WITH(event_count, 0x10000001) == RESULT_BAD_BODY); /* times 16: 32 bits wrap */
    section.event_type = WIRE_EVENT_TYPE_CHECK;
    section.guard = WIRE_GUARD_VERSION;
    cr_assert(WRITE_WITH(event_count, 0x20000001) == RESULT_BAD_BODY); /* times 24 */
    section.guard = WIRE_GUARD_PRESENT;
    cr_assert(WRITE_WITH(flags, 0) == RESULT_OK);
#undef WRITE_WITH
    cr_assert(check_body(OPERATION_WRITE, write, 0) == RESULT_BAD_BODY);

    struct lookup_request lookup = {.id_count = 0};
    cr_assert(check_body(OPERATION_LOOKUP, &lookup, sizeof lookup) == RESULT_BAD_BODY);
    lookup.id_count = 0x10000000; /* times 16: 32 bits wrap to 0 */
    cr_assert(check_body(OPERATION_LOOKUP, &lookup, sizeof lookup) == RESULT_BAD_BODY);

    struct query_request query = {.index_id = WIRE_INDEX_NONE};
    cr_assert(check_body(OPERATION_COUNT, &query, sizeof query) == RESULT_OK);
    cr_assert(check_body(OPERATION_QUERY, &query, sizeof query) == RESULT_BAD_BODY);
    query.limit = 1;
    cr_assert(check_body(OPERATION_COUNT, &query, sizeof query) == RESULT_BAD_BODY);
    query = (struct query_request){.flags = 1};
    cr_assert(check_body(OPERATION_QUERY, &query, sizeof query) == RESULT_BAD_BODY);
    query = (struct query_request){.zero = 1};
    cr_assert(check_body(OPERATION_QUERY, &query, sizeof query) == RESULT_BAD_BODY);
    query = (struct query_request){.key_size = 1};
    cr_assert(check_body(OPERATION_QUERY, &query, sizeof query) == RESULT_BAD_BODY);

    struct open_session_request open = {.lane_count = 1};
    cr_assert(check_body(OPERATION_OPEN_SESSION, &open, sizeof open) == RESULT_OK);
    open.lane_count = 0;
    cr_assert(check_body(OPERATION_OPEN_SESSION, &open, sizeof open) == RESULT_BAD_BODY);
    open.lane_count = WIRE_LANE_COUNT_MAX + 1;
    cr_assert(check_body(OPERATION_OPEN_SESSION, &open, sizeof open) == RESULT_BAD_BODY);
    open = (struct open_session_request){.lane_count = 1, .zero = {[11] = 1}};
    cr_assert(check_body(OPERATION_OPEN_SESSION, &open, sizeof open) == RESULT_BAD_BODY);
    open = (struct open_session_request){.lane_count = 1};
    const uint32_t size = message_make(OPERATION_OPEN_SESSION, &open, sizeof open);
    memset(message + offsetof(struct request_header, client_id), 0, WIRE_ID_SIZE);
    struct request_header header;
    cr_assert(check_exactly(message, size, &header) == RESULT_BAD_BODY, "nobody's session");
}

/* A write body by a second reading of docs/protocol.md; images end what can be told of it. */
static bool naive_write(const uint8_t *body, uint32_t size)
{
    uint64_t at = 0;
    for (;;) {
        struct wire_section section;
        if (at + sizeof section > size) {
            return false;
        }
        memcpy(&section, body + at, sizeof section);
        at += sizeof section;
        const bool id = section.event_type == 4 || section.event_type == 5;
        const uint64_t stride = (id ? 16u : 32u) + (section.guard == 3 ? 8u : 0u);
        if (section.event_type < 1 || section.event_type > 5 || section.flags > 1 ||
            section.guard > 3 || (section.event_type == 5 && section.guard == 0) ||
            section.zero != 0 || section.event_count == 0 || section.zero_2 != 0 ||
            at + section.event_count * stride > size) {
            return false;
        }
        at += section.event_count * stride;
        if (!id) {
            return true;
        }
        if (at == size) {
            return section.flags == 0;
        }
    }
}

Test(protocol, random_writes_are_judged_as_the_page_says)
{
    static uint8_t body[SIZE_MAX_TEST];
    uint32_t accepted = 0, refused = 0;
    struct prng prng;
    prng_init(&prng, 4);
    for (int i = 0; i < 60000; i++) {
        uint32_t size = 0;
        const uint64_t sections = prng_range(&prng, 1, 4);
        for (uint64_t k = 0; k < sections; k++) {
            const struct wire_section section = {
                .groove_id = 1,
                .event_type =
                    (uint8_t)(prng_chance(&prng, 3, 4)
                                  ? prng_range(&prng, WIRE_EVENT_TYPE_REMOVE, WIRE_EVENT_TYPE_CHECK)
                                  : prng_below(&prng, 7)),
                .flags = (uint8_t)prng_below(&prng, prng_chance(&prng, 1, 8) ? 3 : 2),
                .guard = (uint8_t)prng_below(&prng, prng_chance(&prng, 1, 8) ? 5 : 4),
                .zero = prng_chance(&prng, 1, 40),
                .event_count = (uint32_t)prng_range(&prng, prng_chance(&prng, 1, 40) ? 0 : 1, 3),
                .zero_2 = prng_chance(&prng, 1, 40),
            };
            memcpy(body + size, &section, sizeof section);
            size += (uint32_t)sizeof section;
            const bool id = section.event_type >= WIRE_EVENT_TYPE_REMOVE;
            const uint32_t payload =
                section.event_count * ((id ? 16u : 40u) + (section.guard == 3 ? 8u : 0u));
            prng_fill(&prng, body + size, payload);
            size += payload;
        }
        if (prng_chance(&prng, 1, 6)) {
            size = (uint32_t)prng_below(&prng, size + 1);
        }
        const bool expected = naive_write(body, size);
        cr_assert(check_body(OPERATION_WRITE, body, size) ==
                  (expected ? RESULT_OK : RESULT_BAD_BODY));
        accepted += expected;
        refused += !expected;
    }
    cr_assert(accepted > 10000 && refused > 10000, "%u and %u", accepted, refused);
}

Test(protocol, every_prefix_of_a_message_is_refused)
{
    static uint8_t body[SIZE_MAX_TEST];
    for (uint16_t operation = OPERATION_HELLO; operation <= OPERATION_CLOSE_SESSION; operation++) {
        const uint32_t size = message_make(operation, body, valid_body(operation, body));
        for (uint32_t cut = 0; cut < size; cut++) {
            struct request_header header;
            const enum result result = check_exactly(message, cut, &header);
            cr_assert(result == (cut < 16 ? RESULT_BAD_MAGIC : RESULT_BAD_HEADER));
        }
        /* The same with a header that tells the shorter size: only the body's own rules are left.
         */
        for (uint32_t cut = PROTOCOL_HEADER_SIZE; cut < size; cut++) {
            const uint32_t body_size = cut - PROTOCOL_HEADER_SIZE;
            memcpy(message + offsetof(struct request_header, body_size), &body_size, 4);
            struct request_header header;
            const enum result result = check_exactly(message, cut, &header);
            /* Write: once the smallest images fit; and the removes alone are whole. */
            const bool whole =
                operation == OPERATION_WRITE && (body_size == 48 || body_size >= 48 + 16 + 3 * 32);
            cr_assert(result == (whole ? RESULT_OK : RESULT_BAD_BODY), "%s cut to %u",
                      operation_name(operation), cut);
        }
    }
}

Test(protocol, every_changed_byte_is_survived_and_headers_notice)
{
    static uint8_t body[SIZE_MAX_TEST];
    for (uint16_t operation = OPERATION_HELLO; operation <= OPERATION_CLOSE_SESSION; operation++) {
        const uint32_t size = message_make(operation, body, valid_body(operation, body));
        for (uint32_t at = 0; at < size; at++) {
            const uint8_t before = message[at];
            for (uint32_t value = 0; value < 256; value += at < 128 ? 1 : 51) {
                if (value == before) {
                    continue;
                }
                message[at] = (uint8_t)value;
                struct request_header header;
                const enum result result = check_exactly(message, size, &header);
                const bool atomic = operation == OPERATION_WRITE && at == 44 && value == 1;
                const bool in_fixed = at < 6 || (at >= 40 && at < PROTOCOL_HEADER_SIZE && !atomic);
                cr_assert(!in_fixed || result != RESULT_OK, "%s byte %u = %u",
                          operation_name(operation), at, value);
            }
            message[at] = before;
        }
    }
}

Test(protocol, noise_is_survived)
{
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        struct prng prng;
        prng_init(&prng, seed);
        for (int i = 0; i < 200; i++) {
            const uint32_t size = (uint32_t)prng_below(&prng, 300);
            prng_fill(&prng, message, size);
            struct request_header header = {.magic = PROTOCOL_MAGIC,
                                            .version = PROTOCOL_VERSION,
                                            .operation = (uint16_t)prng_range(&prng, 1, 10)};
            if (size >= PROTOCOL_HEADER_SIZE && !prng_chance(&prng, 1, 8)) {
                header.body_size = size - PROTOCOL_HEADER_SIZE;
                memcpy(message, &header, sizeof header);
                if (size >= PROTOCOL_HEADER_SIZE + 16 && prng_chance(&prng, 1, 2)) {
                    /* A section that may hold together, at a random length. */
                    const struct wire_section section = {
                        .event_type = (uint8_t)prng_below(&prng, 7),
                        .flags = (uint8_t)prng_below(&prng, 2),
                        .guard = (uint8_t)prng_below(&prng, 5),
                        .event_count = (uint32_t)prng_below(&prng, 12),
                    };
                    memcpy(message + PROTOCOL_HEADER_SIZE, &section, sizeof section);
                }
            }
            (void)check_exactly(message, size, &header);
            uint8_t *exact = malloc(size > 0 ? size : 1);
            memcpy(exact, message, size);
            struct reply_header reply;
            const bool good = protocol_reply_check(exact, size, &reply);
            cr_assert(!good || reply.body_size == size - PROTOCOL_HEADER_SIZE);
            free(exact);
        }
    }
}

Test(protocol, replies_are_checked_by_clients)
{
    const struct request_header request = {.operation = OPERATION_STAT, .number = 5};
    struct reply_header reply = protocol_reply_header(&request, RESULT_OK, 0);
    struct reply_header decoded;
    cr_assert(protocol_reply_check((uint8_t *)&reply, sizeof reply, &decoded));
    cr_assert(!protocol_reply_check((uint8_t *)&reply, sizeof reply - 1, &decoded));
    reply.body_size = 1;
    cr_assert(!protocol_reply_check((uint8_t *)&reply, sizeof reply, &decoded));
    reply.body_size = 0;
    reply.magic = 0;
    cr_assert(!protocol_reply_check((uint8_t *)&reply, sizeof reply, &decoded));
    reply.magic = PROTOCOL_MAGIC;
    reply.version = 2;
    cr_assert(!protocol_reply_check((uint8_t *)&reply, sizeof reply, &decoded));
    reply.result = RESULT_BAD_VERSION; /* What a newer daemon says to an older client. */
    cr_assert(protocol_reply_check((uint8_t *)&reply, sizeof reply, &decoded));
}

Test(protocol, a_limit_below_a_header_is_a_bug, .signal = SIGABRT)
{
    struct request_header header;
    enum result result;
    cr_assert(protocol_request_check(message, 64, 63, &header, &result));
}
