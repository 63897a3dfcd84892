/* A team of named pthreads that run jobs from one queue.
 *
 * With thread_count = 0 nobody runs them by itself: whoever waits for a job calls
 * workers_run_one() in its wait loop, so tests, the simulator and W = 0 run the same code on one
 * thread, in queue order. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "pool/job_queue.h"
#include "pool/status.h"

enum { WORKERS_THREAD_COUNT_MAX = 64 };

struct workers {
    struct job_queue queue;
    uint32_t thread_count; /* <= WORKERS_THREAD_COUNT_MAX; 0 = inline */
    pthread_t threads[WORKERS_THREAD_COUNT_MAX];
    char name[12]; /* thread names are "holt-<name>-<index>", cut to 15 bytes */
};

/* Starts `thread_count` threads with all signals blocked. `queue_capacity` in jobs; the user
 * guarantees it is never exceeded. STATUS_NO_MEMORY: nothing is left running. */
MUST_CHECK enum status workers_start(struct workers *workers, const char *name,
                                     uint32_t thread_count, uint32_t queue_capacity);

/* Runs what is queued, then joins every thread. */
void workers_join(struct workers *workers);

/* Any thread. The queue having room is the caller's contract (asserted). */
void workers_submit(struct workers *workers, struct job *job);

/* Likewise, before all that are queued: for the few jobs that others wait for. */
void workers_submit_first(struct workers *workers, struct job *job);

/* Any thread. Whether a job waits for a thread: what runs and can go on later may give way. */
bool workers_are_wanted(struct workers *workers);

/* Runs one queued job on the calling thread, if there is one and there are no threads to do it.
 * Returns whether it ran one. */
bool workers_run_one(struct workers *workers);
