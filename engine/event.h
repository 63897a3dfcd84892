/* Writes as the engine reads them: sections of events, in requests, in journal entries.
 *
 * The body of a write request is a list of sections. A section is a 16-byte header and
 * `event_count` payloads: an object image for insert, upsert and update (timestamp and version
 * zero), a 16-byte id for remove and check; with a guard on the version, the version (8) before
 * each. Little-endian.
 *
 * In a linked section each event is chained to the event after it, the last one to the first of the
 * next section. A chain happens wholly or not at all. */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

enum event_type {
    EVENT_TYPE_INSERT = 1, /* the id must be absent */
    EVENT_TYPE_UPSERT = 2,
    EVENT_TYPE_UPDATE = 3, /* the id must be present; keeps its timestamp */
    EVENT_TYPE_REMOVE = 4, /* the id must be present */
    EVENT_TYPE_CHECK = 5,  /* changes nothing: fails unless its guard holds */
};

enum event_section_flag { EVENT_SECTION_FLAG_LINKED = 1 };

/* A condition on the object of the event's own id, as the events before have left it. */
enum event_guard_kind {
    EVENT_GUARD_NONE = 0,
    EVENT_GUARD_ABSENT = 1,
    EVENT_GUARD_PRESENT = 2,
    EVENT_GUARD_VERSION = 3, /* present, and of this version */
};

struct event_guard {
    enum event_guard_kind kind;
    uint64_t version; /* that VERSION asks for; else 0 */
};

struct event_section {
    uint32_t groove_id;
    uint8_t event_type; /* enum event_type */
    uint8_t flags;      /* enum event_section_flag; not of the last section */
    uint8_t guard;      /* enum event_guard_kind; not NONE for check */
    uint8_t zero;
    uint32_t event_count; /* at least 1 */
    uint32_t zero_2;
};
static_assert(sizeof(struct event_section) == 16, "on disk and on the wire");

/* Whether the header alone is in order. */
static inline bool event_section_valid(const struct event_section *section)
{
    return section->event_type >= EVENT_TYPE_INSERT && section->event_type <= EVENT_TYPE_CHECK &&
           (section->flags & ~EVENT_SECTION_FLAG_LINKED) == 0 &&
           section->guard <= EVENT_GUARD_VERSION &&
           (section->event_type != EVENT_TYPE_CHECK || section->guard != EVENT_GUARD_NONE) &&
           section->zero == 0 && section->event_count > 0 && section->zero_2 == 0;
}

/* Whether the payloads are ids, not images. */
static inline bool event_has_id_only(uint8_t event_type)
{
    return event_type == EVENT_TYPE_REMOVE || event_type == EVENT_TYPE_CHECK;
}

/* Bytes before each payload: the version that the guard asks for. */
static inline uint32_t event_guard_size(uint8_t guard)
{
    return guard == EVENT_GUARD_VERSION ? 8 : 0;
}

enum event_result {
    EVENT_RESULT_OK = 0,
    EVENT_RESULT_EXISTS = 1,    /* insert: the id is taken */
    EVENT_RESULT_NOT_FOUND = 2, /* update, remove: no such id */
    EVENT_RESULT_ID_ZERO = 3,
    EVENT_RESULT_UNIQUE = 4,            /* another object has this value in a unique index */
    EVENT_RESULT_RESERVED_NOT_ZERO = 5, /* timestamp or version set by the client */
    EVENT_RESULT_BAD_VALUE = 6,         /* a field's bytes are not of its type */
    EVENT_RESULT_CORRUPT = 7,           /* what it depends on is damaged on disk */
    EVENT_RESULT_GUARD = 8,             /* its guard does not hold */
    EVENT_RESULT_LINKED = 9,            /* another event of its chain failed */
};
enum { EVENT_RESULT_MAX = 9 }; /* of those that protocol.md names */

/* Only failures travel back. */
struct event_failure {
    uint32_t event_index; /* over all sections of the request */
    uint32_t result;      /* enum event_result */
};

enum request_kind {
    REQUEST_KIND_WRITE = 1,
    REQUEST_KIND_GROOVE_CREATE = 2, /* body: struct groove_spec */
    REQUEST_KIND_GROOVE_DROP = 3,   /* body: name, NAME_SIZE bytes */
    /* Made by the engine itself, so that what changes state in the background is in the journal: */
    REQUEST_KIND_GROOVE_FORGET = 4, /* body: u32 groove id, u32 zero: its trees are empty */
    REQUEST_KIND_IDLE = 5,          /* body: u64 beats: pays debt while nobody asks for anything */
    /* Of the session whose client id is in the request's header: */
    REQUEST_KIND_SESSION_OPEN = 6,  /* body: struct session_open_body */
    REQUEST_KIND_SESSION_CLOSE = 7, /* no body */
    REQUEST_KIND_SESSION_EVICT = 8, /* no body; made by the engine, to have room for another */
};

enum { CLIENT_ID_SIZE = 16 };

struct session_open_body {
    uint32_t lane_count; /* 1..SESSION_LANE_MAX */
    uint32_t uid;        /* who opens it */
};
static_assert(sizeof(struct session_open_body) == 8, "on disk");

/* What makes a request's number mean something: whose it is. */
struct request_session {
    uint8_t client_id[CLIENT_ID_SIZE];
    uint64_t number; /* not 0 in a request that counts */
    uint32_t lane;
    uint32_t uid; /* of who sent it */
};

enum request_result {
    REQUEST_RESULT_OK = 0,
    REQUEST_RESULT_MALFORMED, /* sizes, counts, types, zero bytes */
    REQUEST_RESULT_TOO_BIG,   /* more bytes or events than one batch can hold */
    REQUEST_RESULT_UNKNOWN_GROOVE,
    REQUEST_RESULT_UNKNOWN_INDEX,
    REQUEST_RESULT_GROOVE_EXISTS,
    REQUEST_RESULT_BAD_SCHEMA,
    REQUEST_RESULT_LIMIT,     /* no tree or groove is left */
    REQUEST_RESULT_FULL,      /* the disk: writes are refused, reads go on */
    REQUEST_RESULT_READ_ONLY, /* compaction met a damaged block */
    REQUEST_RESULT_CORRUPT,   /* what was asked for is damaged on disk */
    REQUEST_RESULT_SHUTTING_DOWN,
    REQUEST_RESULT_OVERTAKEN, /* a read: writes took its version from it too often */
    REQUEST_RESULT_BUDGET,    /* a read: it looked through all that one read may */
    REQUEST_RESULT_EXPIRED,   /* a read: its deadline passed before it began */
};
