/* Requests on their way from the listener's threads to the forest thread.
 *
 *   push (listener threads) ──► [ oldest ... newest ] ──► take_all (forest thread)
 *
 * Bounded by count and by bytes: what does not fit is refused, and the client is told BUSY. A list
 * through exchange.next, under a mutex: a lock-free stack would save nothing beside the wake-up
 * that follows (research measured 3.5 requests a wake), and taking everything at once gives the
 * forest thread its batch in one lock. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "ipc/listener.h"
#include "pool/doorbell.h"
#include "pool/mutex.h"

struct request_queue {
    struct mutex mutex;        /* LOCK_RANK_REQUEST_QUEUE; held for O(1) work only. */
    struct doorbell *doorbell; /* borrowed; rung after a push */

    struct exchange *oldest; /* NULL when empty. Fields from here on: guarded by mutex. */
    struct exchange *newest;
    uint32_t count;     /* requests, <= count_max */
    uint32_t count_max; /* fixed at init, as is size_max */
    uint64_t size;      /* bytes of the requests, <= size_max */
    uint64_t size_max;
    uint64_t refused_total; /* pushes that found it full */
};

struct request_queue_stats {
    uint32_t count, count_max;
    uint64_t size, size_max;
    uint64_t refused_total;
};

/* Sets up an empty queue in place; `queue` must not move afterwards. */
void request_queue_init(struct request_queue *queue, struct doorbell *doorbell, uint32_t count_max,
                        uint64_t size_max);
/* Requires: empty. */
void request_queue_deinit(struct request_queue *queue);

/* Any thread. False when full: the caller keeps the exchange. */
MUST_CHECK bool request_queue_push(struct request_queue *queue, struct exchange *exchange);

/* The forest thread. All of them, oldest first, linked by `next`; NULL when empty. */
struct exchange *request_queue_take_all(struct request_queue *queue);

/* Any thread. */
void request_queue_stats_read(struct request_queue *queue, struct request_queue_stats *stats);
