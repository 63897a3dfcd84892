/* The only place where wire types meet engine types: a request becomes a call of the forest, what
 * comes back becomes a reply.
 *
 *   queue ─► dispatch_take ─┬► writes ─► dispatch_submit ─► forest_batch_add ─► dispatch_committed
 *                           │            └► seen before: its outcome, or that of the first
 *                           ├► reads  ─► dispatch_submit ─► forest_read_submit ─► (reader) reply
 *                           │            └► a few ids in memory: forest_read_here ─► reply
 *                           └► looks  ─► dispatch_submit, which answers: HELLO, PING, STAT, SCHEMA
 *
 * Each kind waits in a queue of its own, so that a read never waits behind a write that waits for
 * its batch. In each queue users, and connections of a user, take turns (fair_queue.h); the
 * requests of one connection keep their order. A repetition of what is under way hangs on the first
 * one's `next` and gets its reply. All of it belongs to the forest thread, but for the
 * replies of reads, which leave from the thread that ran them. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/forest.h"
#include "ipc/listener.h"
#include "ipc/protocol.h"
#include "server/config.h"
#include "server/fair_queue.h"
#include "server/gate.h"
#include "server/request_queue.h"

enum {
    DISPATCH_OPERATION_COUNT = 13,                    /* operations are numbered from 1 */
    DISPATCH_GROOVE_COUNT_MAX = TREE_COUNT_LIMIT / 2, /* a groove has at least two trees */
    DISPATCH_SHARE_COUNT = 16, /* users of one batch whose shares are counted; others' are not */
    DISPATCH_TEXT_SIZE = 768 * 1024, /* STAT: 128 grooves of at most 5 KiB, and the rest */
};

/* What a user has in the batch that gathers. */
struct dispatch_share {
    uint32_t uid;
    uint32_t count; /* requests, > 0 */
    uint64_t size;  /* their bytes */
};

/* A user whose reads the forest has; the context of their exchanges. The forest thread gives it a
 * user and counts up, readers count down: what is 0 stays 0 until the forest thread uses it. */
struct dispatch_reading {
    struct dispatch *dispatch;
    uint32_t uid;
    _Atomic uint32_t count; /* reads; release by the reader, acquire by who takes it for another */
};

struct dispatch {
    struct forest *forest; /* borrowed, as all pointers here */
    struct request_queue *queue;
    struct listener *listener; /* set once it runs, before the first dispatch_take */
    const struct config *config;
    const struct clock *clock;
    uint64_t started_ns;   /* monotonic */
    uint64_t memory_limit; /* bytes this process may have; 0 = unknown */
    uint64_t message_size; /* bytes that requests and replies in hand may take beside the plan */
    uint32_t message_size_max;

    struct gate gate;                   /* who may pass */
    struct fair_queue writes;           /* not yet in a batch */
    struct fair_queue reads;            /* waiting for one of the forest's read slots */
    struct fair_queue looks;            /* to be answered here, some in each turn */
    _Atomic uint32_t reads_in_progress; /* release by the reader, acquire by dispatch_is_idle */
    struct dispatch_reading readings[FOREST_READ_SLOT_MAX]; /* one for each slot is enough */

    uint32_t last_uid;       /* of the request that was taken last */
    uint32_t writer_id;      /* peer_id of the write that was taken last */
    uint64_t read_beside_ns; /* when another connection than that one asked for a read; 0: never */
    uint64_t long_look_next_ns; /* STAT and SCHEMA: while several ask, not before */
    uint32_t lookups_here_left; /* that may be answered here in this turn */
    uint64_t other_user_ns;     /* when it was another user's than the one before; 0: never */
    uint64_t batch_number;      /* of the batch that the shares are of */
    uint64_t
        after_large_number; /* of the batch after the last one that has a large write; 0: none */
    struct dispatch_share shares[DISPATCH_SHARE_COUNT]; /* [share_count] */
    uint32_t share_count;

    uint64_t taken_total;                              /* requests out of the queue so far */
    uint64_t requests_total[DISPATCH_OPERATION_COUNT]; /* by operation */
    uint64_t refused_total; /* results other than OK, but for those of reads */
    uint64_t expired_total;
    uint64_t replays_total;  /* answered with what a lane remembers */
    uint64_t attached_total; /* answered with the reply to one that was under way */
    _Atomic uint64_t reads_refused_total;
    _Atomic uint64_t
        reads_expired_total; /* of them, before a reader had time; not in expired_total */

    struct forest_groove_info grooves[DISPATCH_GROOVE_COUNT_MAX]; /* scratch */
    char *text; /* [DISPATCH_TEXT_SIZE] scratch for STAT, owned */
};

/* The queue says how many requests there may be. STATUS_NO_MEMORY: nothing to deinit. */
MUST_CHECK enum status dispatch_init(struct dispatch *dispatch, struct forest *forest,
                                     struct request_queue *queue, const struct config *config,
                                     const struct clock *clock);
/* Requires: idle. */
void dispatch_deinit(struct dispatch *dispatch);

/* Bytes of the largest message for a file of this geometry: a full batch, or a full reply. */
uint32_t dispatch_message_size_max(const struct geometry *geometry);

/* Empties the queue. Returns whether there was anything. */
bool dispatch_take(struct dispatch *dispatch);

/* Hands the forest what it has room for, and answers some of what needs no forest. Returns whether
 * anything was done. */
bool dispatch_submit(struct dispatch *dispatch);

/* For forest_options.on_committed; `context` is the exchange. */
void dispatch_committed(void *context, const struct request_outcome *outcome);

/* Nothing waits here and no read is in progress. (The forest may still be at work.) */
bool dispatch_is_idle(const struct dispatch *dispatch);

enum result dispatch_result(enum request_result result);
