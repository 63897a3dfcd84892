/* Wakes one waiting thread when any of many things has happened.
 *
 * The ringer first publishes its news (a release store, or under its own lock), then rings. The
 * waiter reads the count, checks its conditions, and sleeps only if nothing has rung since:
 *
 *   uint64_t seen = doorbell_count(bell);
 *   if (!condition()) doorbell_wait(bell, seen, timeout_ns);
 *
 * so no ring is lost. One doorbell per event loop (the forest thread has one), and one thread that
 * waits. A ring costs two atomic operations while that thread is awake.
 *
 * A thread that waits for descriptors, too, gives the bell an eventfd to poll with them, and says
 * when it sleeps there:
 *
 *   doorbell_poll_begin(bell, seen);      false: it has rung since, do not sleep
 *   poll(...)
 *   doorbell_poll_end(bell);
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "pool/mutex.h"
#include "pool/status.h"

#define DOORBELL_WAIT_FOREVER UINT64_MAX

enum doorbell_sleeper {
    DOORBELL_AWAKE = 0,
    DOORBELL_WAITING, /* in doorbell_wait */
    DOORBELL_POLLING, /* between doorbell_poll_begin and doorbell_poll_end */
};

struct doorbell {
    struct mutex mutex;       /* LOCK_RANK_DOORBELL */
    pthread_cond_t rung;      /* CLOCK_MONOTONIC */
    _Atomic uint64_t count;   /* rings so far */
    _Atomic uint32_t sleeper; /* enum doorbell_sleeper: asleep, or about to be */
    int poll_fd;              /* an eventfd, borrowed; -1: none */
};

void doorbell_init(struct doorbell *bell);
void doorbell_deinit(struct doorbell *bell);

/* Any thread. Whoever takes the bell apart has first joined the ringers, or taken a lock that they
 * hold: a ring touches the bell until it returns. */
void doorbell_ring(struct doorbell *bell);

/* Rings so far (acquire: everything published before those rings is visible). */
uint64_t doorbell_count(struct doorbell *bell);

/* Sleeps until the count differs from `seen` or `timeout_ns` has passed. */
void doorbell_wait(struct doorbell *bell, uint64_t seen, uint64_t timeout_ns);

/* The waiting thread, while it does not sleep. `fd`: an eventfd that outlives its use here, or -1:
 * no longer. */
void doorbell_set_poll_fd(struct doorbell *bell, int fd);
/* From here to the end the next ring writes to the eventfd. False: the count is not `seen`. */
MUST_CHECK bool doorbell_poll_begin(struct doorbell *bell, uint64_t seen);
void doorbell_poll_end(struct doorbell *bell);
