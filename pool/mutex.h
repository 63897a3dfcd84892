/* A pthread mutex that knows its place in the lock order and refuses to be taken out of it. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <time.h>

/* Locks are taken in increasing rank, one per rank. This list is the lock hierarchy. */
enum lock_rank {
    LOCK_RANK_NONE = 0,
    LOCK_RANK_CONNECTION,
    LOCK_RANK_LISTENER,
    LOCK_RANK_REQUEST_QUEUE,
    LOCK_RANK_VERSION,
    LOCK_RANK_BLOCK_CACHE,
    LOCK_RANK_GRID,
    LOCK_RANK_RESOURCE_POOL,
    LOCK_RANK_JOB_QUEUE,
    LOCK_RANK_DOORBELL,
    LOCK_RANK_METRICS,
    LOCK_RANK_MEMORY,
};

struct mutex {
    pthread_mutex_t handle;
    enum lock_rank rank;
    enum lock_rank rank_outer; /* Rank held by the owner before this lock; guarded by handle. */
};

#define MUTEX_INITIALIZER(lock_rank)                                                               \
    {                                                                                              \
        .handle = PTHREAD_MUTEX_INITIALIZER, .rank = (lock_rank)                                   \
    }

void mutex_deinit(struct mutex *mutex);
void mutex_lock(struct mutex *mutex);
void mutex_unlock(struct mutex *mutex);
/* Releases, waits for `condition`, re-acquires. May return early: call it in a loop. */
void mutex_wait(struct mutex *mutex, pthread_cond_t *condition);
/* The same with a deadline on the condition's clock. Returns false once that has passed. */
bool mutex_wait_until(struct mutex *mutex, pthread_cond_t *condition,
                      const struct timespec *deadline);
