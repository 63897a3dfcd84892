#include "pool/doorbell.h"

#include <assert.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>

#include "pool/clock.h"

enum { NS_PER_S = 1000000000 };

void doorbell_init(struct doorbell *bell)
{
    *bell = (struct doorbell){.mutex = MUTEX_INITIALIZER(LOCK_RANK_DOORBELL), .poll_fd = -1};

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
    /* Sequentially consistent, as what the waiter does is: it sees this ring before it sleeps, or
     * we see that it is about to. */
    atomic_fetch_add(&bell->count, 1);
    if (atomic_load(&bell->sleeper) == DOORBELL_AWAKE) {
        return; /* It looks again before it sleeps: nearly every ring under load ends here. */
    }
    mutex_lock(&bell->mutex);
    const enum doorbell_sleeper sleeper = atomic_exchange(&bell->sleeper, DOORBELL_AWAKE);
    if (sleeper == DOORBELL_POLLING) {
        const uint64_t one = 1;
        const ssize_t written = write(bell->poll_fd, &one, sizeof one);
        assert(written == sizeof one); /* The counter never comes near its end. */
        (void)written;
    }
    mutex_unlock(&bell->mutex);
    if (sleeper == DOORBELL_WAITING) {
        /* Without the mutex, which the woken one takes: there is but one waiter (see job_queue.c).
         */
        pthread_cond_signal(&bell->rung);
    }
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
    assert(atomic_load(&bell->sleeper) == DOORBELL_AWAKE); /* One waits. */
    bool in_time = true;
    while (in_time) {
        /* Each time: a ringer of before, who was late to wake us, may have done so now. */
        atomic_store(&bell->sleeper, DOORBELL_WAITING);
        if (atomic_load(&bell->count) != seen) {
            break;
        }
        if (forever) {
            mutex_wait(&bell->mutex, &bell->rung);
        } else {
            in_time = mutex_wait_until(&bell->mutex, &bell->rung, &deadline);
        }
    }
    atomic_store(&bell->sleeper, DOORBELL_AWAKE);
    mutex_unlock(&bell->mutex);
}

void doorbell_set_poll_fd(struct doorbell *bell, int fd)
{
    mutex_lock(&bell->mutex);
    assert(atomic_load(&bell->sleeper) == DOORBELL_AWAKE);
    bell->poll_fd = fd;
    mutex_unlock(&bell->mutex);
}

bool doorbell_poll_begin(struct doorbell *bell, uint64_t seen)
{
    assert(seen <= doorbell_count(bell));
    assert(bell->poll_fd >= 0);
    assert(atomic_load(&bell->sleeper) == DOORBELL_AWAKE);

    atomic_store(&bell->sleeper, DOORBELL_POLLING);
    return atomic_load(&bell->count) == seen;
}

void doorbell_poll_end(struct doorbell *bell)
{
    atomic_store(&bell->sleeper, DOORBELL_AWAKE);
}
