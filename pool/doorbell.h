/* Wakes one waiting thread when any of many things has happened.
 *
 * The ringer first publishes its news (a release store, or under its own lock), then rings. The
 * waiter reads the count, checks its conditions, and sleeps only if nothing has rung since:
 *
 *   uint64_t seen = doorbell_count(bell);
 *   if (!condition()) doorbell_wait(bell, seen, timeout_ns);
 *
 * so no ring is lost. One doorbell per event loop (the forest thread has one). */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "pool/mutex.h"

#define DOORBELL_WAIT_FOREVER UINT64_MAX

struct doorbell {
    struct mutex mutex;     /* LOCK_RANK_DOORBELL */
    pthread_cond_t rung;    /* CLOCK_MONOTONIC */
    _Atomic uint64_t count; /* rings so far; written under mutex */
};

void doorbell_init(struct doorbell *bell);
void doorbell_deinit(struct doorbell *bell);

/* Any thread. */
void doorbell_ring(struct doorbell *bell);

/* Rings so far (acquire: everything published before those rings is visible). */
uint64_t doorbell_count(struct doorbell *bell);

/* Sleeps until the count differs from `seen` or `timeout_ns` has passed. */
void doorbell_wait(struct doorbell *bell, uint64_t seen, uint64_t timeout_ns);
