/* Sessions: what makes a write take effect once, however often it is sent.
 *
 *   session (client id) -> lanes 0 .. lane_count - 1 -> the last executed request and its outcome
 *
 * A lane carries one request at a time, under numbers that only grow. So all that is needed to tell
 * a repetition from a new request is the last number, and all that is needed to answer it is that
 * request's outcome. Both are state like any other: they change only when a journaled request
 * executes, and are in each checkpoint as of the start of its bar. Beside them a lane knows what
 * this process has heard of it: the request that is under way, and the highest number that was
 * refused.
 *
 * A table of fixed size, sorted by client id; the lanes of a session are adjacent, in the same
 * order. Opening and closing move what stands behind: rare, and the largest table is 700 KB. A hash
 * table would save a binary search over 1024 ids, and cost the canonical order that a checkpoint
 * needs.
 *
 * Encoded, behind the catalog in the state of a checkpoint, little-endian:
 *   0 4 session_count   4 4 lane_count, of all
 *   then for each session, by client id:   0 16 client_id   16 4 uid   20 4 lane_count
 *       24 8 timestamp of its last executed request, its opening included
 *   and behind each its lanes, struct lane_record with failure_count failures of 8 bytes
 *
 * Forest thread only. */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/event.h"
#include "engine/storage/limits.h"
#include "pool/status.h"

/* The last executed request of a lane; all zero when there was none. */
struct lane_record {
    uint64_t number;
    uint64_t commit;
    uint64_t timestamp;
    uint32_t failure_total; /* of a write */
    uint32_t groove_id;     /* of the groove that a create made; else 0 */
    uint32_t object_size;   /* likewise */
    uint8_t kind;           /* enum request_kind, of those that clients send */
    uint8_t failure_count;  /* listed: all, or the first SESSION_FAILURE_MAX */
    uint8_t zero[2];
};
static_assert(sizeof(struct lane_record) == 40, "on disk");

struct session_lane {
    struct lane_record last;
    struct event_failure failures[SESSION_FAILURE_MAX]; /* [last.failure_count] */

    /* Of this process only. */
    uint64_t under_way;      /* number that is in a batch and not yet answered; 0: none */
    void *context;           /* of that request */
    uint64_t refused;        /* highest number that was refused; 0: none */
    uint32_t refused_result; /* the caller's word for why; not looked at here */
};

struct session {
    uint8_t client_id[CLIENT_ID_SIZE];
    uint32_t uid; /* who opened it: nobody else may use it */
    uint32_t lane_count;
    uint64_t timestamp;  /* of its last executed request, its opening included */
    uint32_t lane_first; /* of the table's lanes */
    uint64_t commit;     /* the last one that changed it; 0 when that was before this process */
};

struct session_table {
    uint32_t session_max, lane_max; /* fixed at init */
    uint32_t session_count, lane_count;
    struct session *sessions; /* [session_max], by client id */
    struct session_lane *lanes;
};

uint64_t session_table_memory_size(const struct geometry *geometry);
/* STATUS_NO_MEMORY: needs no deinit. */
MUST_CHECK enum status session_table_init(struct session_table *table,
                                          const struct geometry *geometry);
void session_table_deinit(struct session_table *table);
/* Empty again. */
void session_table_reset(struct session_table *table);

/* NULL: there is none. Pointers hold until the next open or close. */
struct session *session_find(const struct session_table *table,
                             const uint8_t client_id[CLIENT_ID_SIZE]);
struct session_lane *session_lane(const struct session_table *table, const struct session *session,
                                  uint32_t lane);
/* One of its lanes has a request under way. */
bool session_is_busy(const struct session_table *table, const struct session *session);

bool session_table_has_room(const struct session_table *table, uint32_t lane_count);
/* Requires: room, and no session of this id. */
void session_open(struct session_table *table, const uint8_t client_id[CLIENT_ID_SIZE],
                  uint32_t uid, uint32_t lane_count, uint64_t timestamp, uint64_t commit);
void session_close(struct session_table *table, struct session *session);
/* The one to give up for a new session of `lane_count` lanes: that which has not executed anything
 * for longest, if giving up those that executed nothing after `timestamp` makes enough room. NULL:
 * it does not. */
const struct session *session_to_evict(const struct session_table *table, uint32_t lane_count,
                                       uint64_t timestamp);

/* Most bytes that a table may ever encode to. */
uint64_t session_encoded_size_max(const struct geometry *geometry);
/* Most bytes that the sessions that are there may come to take, whatever they execute. */
uint64_t session_encoded_size_bound(const struct session_table *table);
/* What one more session adds to that. */
uint64_t session_encoded_size_of(uint32_t lane_count);
/* Returns the size. */
uint64_t session_table_encode(const struct session_table *table, uint8_t *buffer);
/* Into an empty table. STATUS_CORRUPT: the bytes make no sense beside a state that ends with
 * `commit` and `timestamp`; `reason` says why. */
MUST_CHECK enum status session_table_decode(struct session_table *table, const uint8_t *buffer,
                                            uint64_t size, uint64_t commit, uint64_t timestamp,
                                            char *reason, size_t reason_size);
