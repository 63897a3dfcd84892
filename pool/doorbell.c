#include "pool/doorbell.h"

#include <assert.h>
#include <stdbool.h>
#include <time.h>

#include "pool/clock.h"

enum { NS_PER_S = 1000000000 };

void doorbell_init(struct doorbell *bell)
{
    *bell = (struct doorbell){.mutex = MUTEX_INITIALIZER(LOCK_RANK_DOORBELL)};

    pthread_condattr_t attributes;
    int error = pthread_condattr_init(&attributes);
    assert(error == 0);
    error = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    assert(error == 0);
    error = pthread_cond_init(&bell->rung, &attributes);
    assert(error == 0);
    error = pthread_condattr_destroy(&attributes);
    assert(error == 0);
}

void doorbell_deinit(struct doorbell *bell)
{
    const int error = pthread_cond_destroy(&bell->rung);
    assert(error == 0);
    mutex_deinit(&bell->mutex);
    *bell = (struct doorbell){0}; /* Ringing it now trips the lock rank. */
}

void doorbell_ring(struct doorbell *bell)
{
    mutex_lock(&bell->mutex);
    /* Release: pairs with the acquire in doorbell_count, whose reader may not take the mutex. */
    atomic_fetch_add_explicit(&bell->count, 1, memory_order_release);
    pthread_cond_broadcast(&bell->rung);
    mutex_unlock(&bell->mutex);
}

uint64_t doorbell_count(struct doorbell *bell)
{
    return atomic_load_explicit(&bell->count, memory_order_acquire);
}

void doorbell_wait(struct doorbell *bell, uint64_t seen, uint64_t timeout_ns)
{
    assert(seen <= doorbell_count(bell));

    const uint64_t now_ns = clock_monotonic_ns(&clock_system);
    /* A timeout too long for the clock is for ever. */
    const bool forever = timeout_ns > INT64_MAX - now_ns;
    const uint64_t deadline_ns = forever ? 0 : now_ns + timeout_ns;
    const struct timespec deadline = {
        .tv_sec = (time_t)(deadline_ns / NS_PER_S),
        .tv_nsec = (long)(deadline_ns % NS_PER_S),
    };

    mutex_lock(&bell->mutex);
    bool waiting = true;
    while (waiting && doorbell_count(bell) == seen) {
        if (forever) {
            mutex_wait(&bell->mutex, &bell->rung);
        } else {
            waiting = mutex_wait_until(&bell->mutex, &bell->rung, &deadline);
        }
    }
    mutex_unlock(&bell->mutex);
}
