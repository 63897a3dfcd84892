/* Writes as the engine reads them: sections of events, in requests, in journal entries.
 *
 * The body of a write request is a list of sections. A section is a 16-byte header and
 * `event_count` payloads: an object image for insert, upsert and update (timestamp and version
 * zero), a 16-byte id for remove. Little-endian. */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

enum event_type {
    EVENT_TYPE_INSERT = 1, /* the id must be absent */
    EVENT_TYPE_UPSERT = 2,
    EVENT_TYPE_UPDATE = 3, /* the id must be present; keeps its timestamp */
    EVENT_TYPE_REMOVE = 4, /* the id must be present */
};

struct event_section {
    uint32_t groove_id;
    uint8_t event_type;
    uint8_t flags; /* 0: guards and chains come with the protocol that carries them */
    uint8_t zero[2];
    uint32_t event_count;
    uint32_t zero_2;
};
static_assert(sizeof(struct event_section) == 16, "on disk and on the wire");

enum event_result {
    EVENT_RESULT_OK = 0,
    EVENT_RESULT_EXISTS = 1,    /* insert: the id is taken */
    EVENT_RESULT_NOT_FOUND = 2, /* update, remove: no such id */
    EVENT_RESULT_ID_ZERO = 3,
    EVENT_RESULT_UNIQUE = 4,            /* another object has this value in a unique index */
    EVENT_RESULT_RESERVED_NOT_ZERO = 5, /* timestamp or version set by the client */
    EVENT_RESULT_BAD_VALUE = 6,         /* a field's bytes are not of its type */
    EVENT_RESULT_CORRUPT = 7,           /* what it depends on is damaged on disk */
};

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
};
