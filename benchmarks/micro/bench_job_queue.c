/* What handing over a job costs: on one thread, and from one thread to another that waits for it.
 * To be read against the work in a job, which is at least one block: tens of microseconds. */
#include <assert.h>
#include <stdio.h>

#include "pool/clock.h"
#include "pool/doorbell.h"
#include "pool/job_queue.h"
#include "pool/workers.h"

enum { ROUND_COUNT = 9, JOB_COUNT = 100000, CAPACITY = 64 };

static struct job_queue queue;
static struct workers workers;
static struct doorbell done;

static void run_nothing(struct job *job)
{
    (void)job;
}

static void run_and_ring(struct job *job)
{
    (void)job;
    doorbell_ring(&done);
}

static void hand_over_alone(void)
{
    struct job job = {run_nothing};
    for (int i = 0; i < JOB_COUNT; i++) {
        const bool pushed = job_queue_push(&queue, &job);
        assert(pushed);
        const struct job *popped = job_queue_try_pop(&queue);
        assert(popped == &job);
    }
}

static void hand_over_and_wait(void)
{
    struct job job = {run_and_ring};
    for (int i = 0; i < JOB_COUNT / 10; i++) {
        const uint64_t seen = doorbell_count(&done);
        workers_submit(&workers, &job);
        doorbell_wait(&done, seen, DOORBELL_WAIT_FOREVER);
    }
}

/* The best of some rounds, in nanoseconds for each of `count` jobs. */
static double measure(void (*round)(void), int count)
{
    uint64_t best_ns = UINT64_MAX;
    for (int i = 0; i < ROUND_COUNT; i++) {
        const uint64_t start_ns = clock_monotonic_ns(&clock_system);
        round();
        const uint64_t round_ns = clock_monotonic_ns(&clock_system) - start_ns;
        best_ns = round_ns < best_ns ? round_ns : best_ns;
    }
    return (double)best_ns / count;
}

int main(void)
{
    enum status status = job_queue_init(&queue, CAPACITY);
    assert(status == STATUS_OK);
    status = workers_start(&workers, "bench", 1, CAPACITY);
    assert(status == STATUS_OK);
    doorbell_init(&done);

    printf("push and pop on one thread       %8.0f ns a job\n",
           measure(hand_over_alone, JOB_COUNT));
    printf("submit, run, ring, wake (1 of 1) %8.0f ns a job\n",
           measure(hand_over_and_wait, JOB_COUNT / 10));

    workers_join(&workers);
    doorbell_deinit(&done);
    job_queue_close(&queue);
    job_queue_deinit(&queue);
    return 0;
}
