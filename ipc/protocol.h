/* The bytes between a client and the daemon. docs/protocol.md is the same in prose.
 *
 *   request:  struct request_header (64) | body (body_size bytes)
 *   reply:    struct reply_header   (64) | body (body_size bytes)
 *
 * Everything is little-endian and laid out as the structs below; messages may start at any address,
 * so structs are copied in and out, never pointed at. Nothing here knows the transport or the
 * engine. What comes from a client is checked by protocol_request_check before anything reads it;
 * what needs a schema to be checked is left to the engine. */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pool/status.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "wire structs are copied as they stand");

enum {
    PROTOCOL_MAGIC = 0x544c4f48, /* the bytes "HOLT" */
    PROTOCOL_VERSION = 1,
    PROTOCOL_HEADER_SIZE = 64,

    WIRE_NAME_SIZE = 32, /* zero padded, so at most 31 bytes of name */
    WIRE_ID_SIZE = 16,
    WIRE_FIELD_COUNT_MAX = 32,
    WIRE_INDEX_COUNT_MAX = 16,
    WIRE_INDEX_FIELD_COUNT_MAX = 4,
    WIRE_LANE_COUNT_MAX = 64,        /* of a session */
    WIRE_ERROR_TEXT_SIZE_MAX = 1024, /* bytes of text behind a reply that is not OK */
};
#define WIRE_INDEX_NONE UINT32_MAX /* COUNT: the whole groove */

/* X(name, number): what a request asks for. */
#define OPERATION_MAP(X)                                                                           \
    X(HELLO, 1)                                                                                    \
    X(PING, 2)                                                                                     \
    X(STAT, 3)                                                                                     \
    X(SCHEMA, 4)                                                                                   \
    X(CREATE_GROOVE, 5)                                                                            \
    X(DROP_GROOVE, 6)                                                                              \
    X(WRITE, 7)                                                                                    \
    X(LOOKUP, 8)                                                                                   \
    X(QUERY, 9)                                                                                    \
    X(COUNT, 10)                                                                                   \
    X(OPEN_SESSION, 11)                                                                            \
    X(CLOSE_SESSION, 12)

enum operation {
#define X(name, number) OPERATION_##name = (number),
    OPERATION_MAP(X)
#undef X
};

/* X(name, number, text): how a whole request ended. Anything but OK had no effect. */
#define RESULT_MAP(X)                                                                              \
    X(OK, 0, "ok")                                                                                 \
    X(BAD_MAGIC, 1, "not a Holt request")                                                          \
    X(BAD_VERSION, 2, "this protocol version is not spoken here")                                  \
    X(BAD_HEADER, 3, "the header's sizes, flags or zero bytes are wrong")                          \
    X(BAD_OPERATION, 4, "no such operation")                                                       \
    X(BAD_BODY, 5, "the body is not what the operation expects")                                   \
    X(TOO_BIG, 6, "more bytes or events than one request may hold")                                \
    X(UNKNOWN_GROOVE, 7, "no such groove")                                                         \
    X(UNKNOWN_INDEX, 8, "no such index")                                                           \
    X(GROOVE_EXISTS, 9, "a groove of this name exists")                                            \
    X(BAD_SCHEMA, 10, "the groove's description is not acceptable")                                \
    X(LIMIT, 11, "a limit of this store is reached")                                               \
    X(BUSY, 12, "the request queue is full, retry later")                                          \
    X(FULL, 13, "the disk is full: writes are refused, reads go on")                               \
    X(READ_ONLY, 14, "damage was found: writes are refused, reads go on")                          \
    X(CORRUPT, 15, "what was asked for is damaged on disk")                                        \
    X(SHUTTING_DOWN, 16, "the daemon is stopping")                                                 \
    X(STALE_SCHEMA, 17, "the groove has another shape now, read the schema again")                 \
    X(EXPIRED, 18, "the deadline passed before the request was begun")                             \
    X(DENIED, 19, "not allowed for this user")                                                     \
    X(INTERNAL, 20, "the daemon could not do it, its log says why")                                \
    X(OVERTAKEN, 21, "writes overtook this read too often")                                        \
    X(BUDGET, 22, "the read looked through all that one read may")                                 \
    X(NO_SESSION, 23, "no session has this client id")                                             \
    X(STALE_NUMBER, 24, "the lane has executed a request with a higher number")                    \
    X(BAD_LANE, 25, "the session has no such lane, or the number is 0")                            \
    X(LANE_BUSY, 26, "another request is under way on this lane")

enum result {
#define X(name, number, text) RESULT_##name = (number),
    RESULT_MAP(X)
#undef X
};

/* X(name, number, text): how one event of a write ended. Only failures travel back. */
#define WIRE_EVENT_RESULT_MAP(X)                                                                   \
    X(OK, 0, "ok")                                                                                 \
    X(EXISTS, 1, "an object with this id exists")                                                  \
    X(NOT_FOUND, 2, "no object has this id")                                                       \
    X(ID_ZERO, 3, "the id is zero")                                                                \
    X(UNIQUE, 4, "another object has this value in a unique index")                                \
    X(RESERVED_NOT_ZERO, 5, "timestamp and version are the store's to give")                       \
    X(BAD_VALUE, 6, "a field holds bytes that are not of its type")                                \
    X(CORRUPT, 7, "what the event depends on is damaged on disk")                                  \
    X(GUARD, 8, "its guard does not hold")                                                         \
    X(LINKED, 9, "another event of its chain failed")

enum wire_event_result {
#define X(name, number, text) WIRE_EVENT_RESULT_##name = (number),
    WIRE_EVENT_RESULT_MAP(X)
#undef X
};

/* Bits of hello_reply.features. */
enum wire_feature {
    /* (client id, lane, request number) makes a write take effect once. */
    WIRE_FEATURE_SESSIONS = 1,
    WIRE_FEATURE_CHAINS = 2, /* guards, linked sections, atomic writes */
};

/* Bits of request_header.flags. */
enum wire_request_flag {
    WIRE_REQUEST_FLAG_ATOMIC = 1, /* of a WRITE: all its events are one chain */
};

/* ---- Headers -----------------------------------------------------------------------------------
 */

struct request_header {
    uint32_t magic;                  /* PROTOCOL_MAGIC */
    uint16_t version;                /* PROTOCOL_VERSION */
    uint16_t operation;              /* enum operation */
    uint64_t number;                 /* chosen by the client, returned in the reply */
    uint8_t client_id[WIRE_ID_SIZE]; /* zero: anonymous */
    uint32_t lane;
    uint32_t deadline_ms; /* from receipt; 0: none */
    uint32_t body_size;   /* bytes behind the header */
    uint32_t flags;       /* enum wire_request_flag */
    uint8_t zero[16];
};
static_assert(sizeof(struct request_header) == PROTOCOL_HEADER_SIZE, "wire");
static_assert(offsetof(struct request_header, number) == 8, "wire");
static_assert(offsetof(struct request_header, client_id) == 16, "wire");
static_assert(offsetof(struct request_header, lane) == 32, "wire");
static_assert(offsetof(struct request_header, body_size) == 40, "wire");
static_assert(offsetof(struct request_header, zero) == 48, "wire");

/* The first 16 bytes are those of the request, in every version of the protocol. */
struct reply_header {
    uint32_t magic;
    uint16_t version;
    uint16_t operation;
    uint64_t number;
    uint32_t result;         /* enum result */
    uint32_t body_size;      /* bytes behind the header; a text (no NUL) when result is not OK */
    uint64_t commit;         /* the commit a write got, or the one whose state a read saw */
    uint64_t timestamp;      /* of that commit, for a write; else 0 */
    uint32_t retry_after_ms; /* with RESULT_BUSY; else 0 */
    uint8_t zero[20];
};
static_assert(sizeof(struct reply_header) == PROTOCOL_HEADER_SIZE, "wire");
static_assert(offsetof(struct reply_header, number) == 8, "wire");
static_assert(offsetof(struct reply_header, result) == 16, "wire");
static_assert(offsetof(struct reply_header, commit) == 24, "wire");
static_assert(offsetof(struct reply_header, retry_after_ms) == 40, "wire");
static_assert(offsetof(struct reply_header, zero) == 44, "wire");

/* ---- Bodies ------------------------------------------------------------------------------------
 */

/* HELLO: no body. Reply: */
struct hello_reply {
    uint64_t features;         /* enum wire_feature */
    uint32_t message_size_max; /* bytes of a request or a reply, header included */
    uint32_t batch_size_max;   /* bytes of a write's body */
    uint32_t batch_event_max;  /* events of a write; a groove's own event_count_max may be less */
    uint32_t exchange_count;   /* requests the daemon holds at once, over all clients */
    uint32_t session_failure_max; /* most failures that a numbered write's reply lists */
    uint32_t zero;
    char version[WIRE_NAME_SIZE]; /* of the daemon, text, zero padded */
};
static_assert(sizeof(struct hello_reply) == 64, "wire");

/* PING: any body. Reply: the same body.
 * STAT: no body. Reply: JSON text.
 * SCHEMA: no body. Reply: this, then for each groove its header, its fields and its indexes. */
struct schema_reply {
    uint32_t groove_count;
    uint32_t zero;
};
static_assert(sizeof(struct schema_reply) == 8, "wire");

struct schema_groove {
    char name[WIRE_NAME_SIZE];
    uint32_t groove_id;
    uint32_t object_size;     /* bytes of an object image */
    uint32_t event_count_max; /* most events of this groove in one write */
    uint32_t field_count;
    uint32_t index_count;
    uint32_t zero;
    uint64_t object_count;
};
static_assert(sizeof(struct schema_groove) == 64, "wire");

struct schema_field {
    char name[WIRE_NAME_SIZE];
    uint8_t type; /* enum wire_field_type */
    uint8_t zero[3];
    uint32_t size;   /* bytes */
    uint32_t offset; /* in the object image */
    uint32_t zero_2;
};
static_assert(sizeof(struct schema_field) == 48, "wire");

struct schema_index {
    char name[WIRE_NAME_SIZE];
    uint32_t index_id; /* for QUERY and COUNT */
    uint8_t field_count;
    uint8_t flags;                              /* enum wire_index_flag */
    uint8_t fields[WIRE_INDEX_FIELD_COUNT_MAX]; /* positions in the groove's fields */
    uint8_t zero[6];
};
static_assert(sizeof(struct schema_index) == 48, "wire");

enum wire_field_type {
    WIRE_FIELD_TYPE_U8 = 1,
    WIRE_FIELD_TYPE_U16,
    WIRE_FIELD_TYPE_U32,
    WIRE_FIELD_TYPE_U64,
    WIRE_FIELD_TYPE_U128,
    WIRE_FIELD_TYPE_I8,
    WIRE_FIELD_TYPE_I16,
    WIRE_FIELD_TYPE_I32,
    WIRE_FIELD_TYPE_I64,
    WIRE_FIELD_TYPE_F32,
    WIRE_FIELD_TYPE_F64,
    WIRE_FIELD_TYPE_BOOL,
    WIRE_FIELD_TYPE_BYTES,
    WIRE_FIELD_TYPE_TEXT,
    WIRE_FIELD_TYPE_TIMESTAMP,
};

enum wire_index_flag {
    WIRE_INDEX_FLAG_UNIQUE = 1,
    WIRE_INDEX_FLAG_SPARSE = 2,
};

struct wire_field_spec {
    char name[WIRE_NAME_SIZE];
    uint8_t type; /* enum wire_field_type */
    uint8_t zero[3];
    uint32_t size; /* bytes of BYTES and TEXT; 0 or the type's own size for the others */
};
static_assert(sizeof(struct wire_field_spec) == 40, "wire");

struct wire_index_spec {
    char name[WIRE_NAME_SIZE];
    uint8_t field_count;                        /* 1..WIRE_INDEX_FIELD_COUNT_MAX */
    uint8_t flags;                              /* enum wire_index_flag */
    uint8_t fields[WIRE_INDEX_FIELD_COUNT_MAX]; /* positions; unused: 0 */
    uint8_t zero[2];
};
static_assert(sizeof(struct wire_index_spec) == 40, "wire");

/* CREATE_GROOVE: this. Reply: struct create_groove_reply. */
struct wire_groove_spec {
    char name[WIRE_NAME_SIZE];
    uint32_t field_count; /* the rest of fields[] is zero */
    uint32_t index_count; /* likewise */
    struct wire_field_spec fields[WIRE_FIELD_COUNT_MAX];
    struct wire_index_spec indexes[WIRE_INDEX_COUNT_MAX];
};
static_assert(sizeof(struct wire_groove_spec) == 1960, "wire");

struct create_groove_reply {
    uint32_t groove_id;
    uint32_t object_size; /* bytes */
};
static_assert(sizeof(struct create_groove_reply) == 8, "wire");

/* DROP_GROOVE: its name, WIRE_NAME_SIZE bytes, zero padded. Reply: no body. */

enum wire_event_type {
    WIRE_EVENT_TYPE_INSERT = 1,
    WIRE_EVENT_TYPE_UPSERT = 2,
    WIRE_EVENT_TYPE_UPDATE = 3,
    WIRE_EVENT_TYPE_REMOVE = 4,
    WIRE_EVENT_TYPE_CHECK = 5, /* changes nothing: fails unless its guard holds */
};

enum wire_section_flag {
    WIRE_SECTION_FLAG_LINKED = 1, /* each event is chained to the one after it */
};

/* A condition on the object of the event's own id. */
enum wire_guard {
    WIRE_GUARD_NONE = 0,
    WIRE_GUARD_ABSENT = 1,
    WIRE_GUARD_PRESENT = 2,
    WIRE_GUARD_VERSION = 3, /* a u64 before each payload */
};

/* WRITE: a list of these, each followed by event_count payloads: object images (object_size bytes,
 * timestamp and version zero), or ids (16 bytes) for remove and check. */
struct wire_section {
    uint32_t groove_id;
    uint8_t event_type; /* enum wire_event_type */
    uint8_t flags;      /* enum wire_section_flag */
    uint8_t guard;      /* enum wire_guard */
    uint8_t zero;
    uint32_t event_count; /* at least 1 */
    uint32_t zero_2;
};
static_assert(sizeof(struct wire_section) == 16, "wire");
static_assert(offsetof(struct wire_section, event_count) == 8, "wire");

/* Reply to WRITE: this, then failure_count failures in increasing event_index. */
struct write_reply {
    uint32_t failure_count; /* listed */
    uint32_t failure_total; /* more only in the reply to a numbered write */
};
static_assert(sizeof(struct write_reply) == 8, "wire");

struct wire_failure {
    uint32_t event_index; /* over all sections of the request */
    uint32_t result;      /* enum wire_event_result, not OK */
};
static_assert(sizeof(struct wire_failure) == 8, "wire");

/* The first bytes of every object image. */
struct wire_object_header {
    uint8_t id[WIRE_ID_SIZE];
    uint64_t timestamp; /* 0 in requests */
    uint64_t version;   /* 0 in requests */
};
static_assert(sizeof(struct wire_object_header) == 32, "wire");

/* LOOKUP: this, then id_count ids. Reply: struct objects_reply, the found ones in request order. */
struct lookup_request {
    uint32_t groove_id;
    uint32_t id_count; /* at least 1 */
};
static_assert(sizeof(struct lookup_request) == 8, "wire");

/* QUERY, COUNT: this, then the key: one value for each field of the index, in its order, each as
 * it stands in an object. Reply to QUERY: struct objects_reply, in timestamp order; to COUNT: u64.
 * COUNT with WIRE_INDEX_NONE and no key counts the whole groove. */
struct query_request {
    uint32_t groove_id;
    uint32_t index_id;
    uint32_t limit;    /* most objects; 0: as many as fit the reply. 0 for COUNT */
    uint32_t flags;    /* 0 */
    uint32_t key_size; /* bytes */
    uint32_t zero;
};
static_assert(sizeof(struct query_request) == 24, "wire");

/* Then object_count images of object_size bytes. */
struct objects_reply {
    uint32_t object_count;
    uint32_t object_size;
    uint64_t zero;
};
static_assert(sizeof(struct objects_reply) == 16, "wire");

/* OPEN_SESSION: this; the client id is the header's. Reply: struct session_reply, then for each
 * lane a u64: the number of its last executed request, or 0. CLOSE_SESSION: no bodies. */
struct open_session_request {
    uint32_t lane_count; /* 1..WIRE_LANE_COUNT_MAX */
    uint8_t zero[12];
};
static_assert(sizeof(struct open_session_request) == 16, "wire");

struct session_reply {
    uint32_t lane_count;
    uint32_t zero;
};
static_assert(sizeof(struct session_reply) == 8, "wire");

/* ---- Functions; any thread ---------------------------------------------------------------------
 */

/* Checks all of an untrusted message that can be checked without a schema: header, sizes, counts,
 * zero bytes. Reads nothing outside message[0..size).
 *
 * True: `header` is the message's, `result` is OK, the body is header->body_size bytes long and has
 * the fixed part that its operation needs. False: `result` says what to reply; `header` then holds
 * the operation and the number to reply with, as far as they could be told, and else zeros. */
MUST_CHECK bool protocol_request_check(const uint8_t *message, size_t size, uint32_t size_max,
                                       struct request_header *header, enum result *result);

/* Checks an untrusted reply in the same way, as a client does. False: not a reply. A reply that is
 * not OK may be of another protocol version. */
MUST_CHECK bool protocol_reply_check(const uint8_t *message, size_t size,
                                     struct reply_header *header);

/* The header of a reply to `request`: its operation and number; commit and timestamp zero. */
struct reply_header protocol_reply_header(const struct request_header *request, enum result result,
                                          uint32_t body_size);

/* "HELLO", "BAD_BODY", "NOT_FOUND"...; "UNKNOWN" for numbers of a newer peer. Never NULL. */
const char *operation_name(uint32_t operation);
const char *result_name(uint32_t result);
const char *wire_event_result_name(uint32_t result);
/* A constant English phrase. Never NULL. */
const char *result_text(uint32_t result);
const char *wire_event_result_text(uint32_t result);
