/* A batch: the requests that share one journal entry, from gathering to reply.
 *
 * The requests are copied straight into the buffer that becomes the journal entry:
 *
 *   journal header (128) | request header (48) body, padded to 8 | request header ... | zeros
 *
 * Request header: 0 4 body size   4 1 kind   5 1 flags (1 = refused before it was journaled:
 * skipped in replay, too; 2 = atomic)   6 2 zero   8 4 event_count   12 4 lane   16 16 client_id
 * 32 8 number   40 8 zero.
 *
 * Forest thread only, but for what prefetch.h hands to readers. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/catalog.h"
#include "engine/event.h"
#include "engine/groove.h"
#include "engine/storage/journal.h"

enum { BATCH_REQUEST_HEADER_SIZE = 48 };

struct batch_request_header {
    uint32_t size;
    uint8_t kind;  /* enum request_kind */
    uint8_t flags; /* enum batch_flag */
    uint16_t zero;
    uint32_t event_count;
    uint32_t lane;
    uint8_t client_id[16]; /* of the session that the request belongs to; zero: of none */
    uint64_t number;       /* of the request on its lane; 0 without a session, as the lane */
    uint64_t zero_2;
};
static_assert(sizeof(struct batch_request_header) == BATCH_REQUEST_HEADER_SIZE, "on disk");
static_assert(BATCH_REQUEST_HEADER_SIZE + 7 <= JOURNAL_REQUEST_HEADER_MAX, "with padding");
enum batch_flag {
    BATCH_FLAG_REFUSED = 1,
    BATCH_FLAG_ATOMIC = 2, /* of a write: all its events are one chain */
};

/* What a request does to the room in the file. */
enum request_space {
    REQUEST_SPACE_NONE,   /* takes none, and may give some back: drops, and what the engine makes */
    REQUEST_SPACE_REMOVE, /* only removes: tombstones take room before any comes back */
    REQUEST_SPACE_WRITE,
};

struct batch_request {
    struct batch_request_header *header; /* in the entry */
    const uint8_t *body;
    void *context;
    bool internal; /* made by the engine: nobody waits for it */
    enum request_space space;
    enum request_result result;
    uint64_t commit;
    uint64_t timestamp;
    uint32_t event_first; /* of the batch's events */
    uint32_t failure_first, failure_count;
    uint32_t groove_id; /* made by GROOVE_CREATE */
    uint32_t object_size;
};

/* One event of a write. */
struct batch_event {
    const uint8_t *payload;
    uint32_t entry; /* index into batch.entries; set by the prefetch */
    uint8_t type;   /* enum event_type */
    uint8_t group;  /* index into batch.groups */
    uint8_t guard;  /* enum event_guard_kind */
    bool linked;    /* chained to the next event, which is of the same request */
};

/* The version that a guard asks for stands before the payload. */
struct event_guard batch_event_guard(const struct batch_event *event);

/* The events of one groove. Entries of a group are adjacent and sorted by id. */
struct batch_group {
    struct catalog_groove *groove;
    uint32_t groove_id;
    uint32_t event_count;
    uint32_t item_first; /* of the group's range in items, entries, ... */
    uint32_t entry_count;
    uint64_t object_first; /* offset of its objects in the prefetch's object arena */
    struct owner_list owners[INDEX_COUNT_MAX]; /* of unique indexes; made by the prefetch */
};
enum { BATCH_GROUP_MAX = 16 };

struct batch {
    const struct geometry *geometry;
    uint8_t *buffer;                /* [journal_entry_size_max], aligned: the journal entry */
    uint64_t size;                  /* header and requests so far */
    uint64_t request_bytes;         /* of bodies, against batch_size_max */
    struct batch_request *requests; /* [BATCH_REQUEST_MAX] */
    uint32_t request_count;
    bool alone; /* holds a request that shares its entry with no other */

    struct batch_event *events; /* [batch_event_max] */
    uint32_t event_count;
    struct batch_group groups[BATCH_GROUP_MAX];
    uint32_t group_count;
    uint64_t object_bytes; /* sum of event_count * object_size, against batch_object_bytes_max */
    uint64_t write_bytes;  /* sum of groove_write_size(): entry bytes at most */

    struct groove_entry *entries;   /* [batch_event_max] */
    struct event_failure *failures; /* [batch_event_max] */
    uint32_t failure_count;
    uint64_t idle_beats;
    char reason[256]; /* of the DDL request that failed */
};

/* Limits of one batch beyond those of the geometry. */
uint64_t batch_object_bytes_max(const struct geometry *geometry);
uint64_t batch_write_bytes_max(const struct geometry *geometry);
uint64_t batch_memory_size(const struct geometry *geometry);

MUST_CHECK enum status batch_init(struct batch *batch, const struct geometry *geometry);
void batch_deinit(struct batch *batch);
/* Empty again. */
void batch_reset(struct batch *batch);

enum batch_admission { BATCH_ADDED, BATCH_FULL, BATCH_REFUSED };
/* Checks the request against the catalog and copies it in. `atomic`: all events of a write are one
 * chain. FULL: fits into an empty batch, not into this one. REFUSED: *result and, for DDL,
 * `batch->reason` say why. */
enum batch_admission batch_add(struct batch *batch, const struct catalog *catalog,
                               enum request_kind kind, bool atomic, const uint8_t *body,
                               uint32_t size, void *context, bool internal,
                               enum request_result *result);

/* For forest_write_walk (forest.h). */
bool batch_write_walk(const struct catalog *catalog, const uint8_t *body, uint32_t size,
                      bool (*visit)(void *context, uint32_t groove_id,
                                    const struct groove_schema *schema),
                      void *context);

/* Says whose the request is that was added last. */
void batch_identify(struct batch *batch, const struct request_session *session);

/* Reads the requests of a journal entry that recovery left in batch->buffer. STATUS_CORRUPT: the
 * checksums were right, but the body makes no sense. */
MUST_CHECK enum status batch_decode(struct batch *batch, const struct catalog *catalog);

/* Once the catalog is what it will be when the batch executes: events and groups. Requests that can
 * no longer be done (their groove is gone, their name is taken) are refused. */
void batch_resolve(struct batch *batch, const struct catalog *catalog);

/* Of a body that need not make sense. */
enum request_space request_space(enum request_kind kind, const uint8_t *body, uint32_t size);

static inline bool batch_request_refused(const struct batch_request *request)
{
    return (request->header->flags & BATCH_FLAG_REFUSED) != 0;
}
/* It belongs to a session and has a number there. */
static inline bool batch_request_numbered(const struct batch_request *request)
{
    return request->header->number != 0;
}
void batch_request_refuse(struct batch_request *request, enum request_result result);
