/* Requests on their way from the listener (nng's threads, or listener_wait) to the forest thread,
 * and the account of those that wait there.
 *
 *   push (the handler) ──► [ oldest ... newest ] ──► take_all ──► (dispatch's lists) ──► leave
 *                               └──────────── counted as waiting ───────────────┘
 *
 * Bounded by count and by bytes, over all that waits; what does not fit is refused, and the client
 * is told BUSY and how long it would take for what is waiting to be done. Of the bytes a user may
 * take three times what he leaves free, as the first one: so one user alone fills three quarters,
 * two a bit more than two fifths each, and whoever comes next still finds room. Requests of at most
 * REQUEST_QUEUE_SMALL bytes need no share; so a user's own large ones do not shut out his small
 * ones.
 *
 * A list through exchange.next, under a mutex: a lock-free stack would save nothing beside the
 * wake-up that follows (research measured 3.5 requests a wake), and taking everything at once gives
 * the forest thread its batch in one lock. In whose turn they are served is decided behind it, in
 * fair_queue.h. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "ipc/listener.h"
#include "pool/doorbell.h"
#include "pool/mutex.h"

enum {
    REQUEST_QUEUE_SMALL = 16 * 1024,
    REQUEST_QUEUE_SHARE = 3,
    REQUEST_QUEUE_RETRY_MS_MAX = 1000,
};

/* A user who has something waiting. */
struct request_queue_user {
    uint32_t uid;
    uint32_t count; /* requests, > 0 */
    uint64_t size;  /* their bytes */
};

struct request_queue {
    struct mutex mutex; /* LOCK_RANK_REQUEST_QUEUE; held for a walk over the users at most. */
    struct doorbell *doorbell; /* borrowed; rung after a push */

    struct exchange *oldest; /* not yet taken; NULL: none. From here on: guarded by mutex. */
    struct exchange *newest;
    struct request_queue_user *users; /* [count_max] of which user_count are used, owned */
    uint32_t user_count;
    uint32_t count;     /* requests that wait, taken or not, <= count_max */
    uint32_t count_max; /* fixed at init, as is size_max */
    uint64_t size;      /* their bytes, <= size_max */
    uint64_t size_max;
    uint64_t refused_total; /* pushes that found it full */
};

struct request_queue_stats {
    uint32_t count, count_max;
    uint64_t size, size_max;
    uint64_t refused_total;
};

/* Sets up an empty queue in place; `queue` must not move afterwards. STATUS_NO_MEMORY: nothing to
 * deinit. */
MUST_CHECK enum status request_queue_init(struct request_queue *queue, struct doorbell *doorbell,
                                          uint32_t count_max, uint64_t size_max);
/* Requires: nothing waits. */
void request_queue_deinit(struct request_queue *queue);

/* Any thread. False when full: the caller keeps the exchange, and *retry_after_ms says when there
 * may be room. */
MUST_CHECK bool request_queue_push(struct request_queue *queue, struct exchange *exchange,
                                   uint32_t *retry_after_ms);

/* The forest thread. All that came since the last time, oldest first, linked by `next`; NULL: none.
 * They still count as waiting. */
struct exchange *request_queue_take_all(struct request_queue *queue);

/* The forest thread, once for each that was taken, before it is begun or answered. */
void request_queue_leave(struct request_queue *queue, const struct exchange *exchange);

/* Any thread. */
void request_queue_stats_read(struct request_queue *queue, struct request_queue_stats *stats);
