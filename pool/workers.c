#include "pool/workers.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>

#include "pool/log.h"

enum { THREAD_NAME_SIZE = 16 }; /* The kernel's limit, NUL included. */

static void *worker_main(void *argument)
{
    struct workers *workers = argument;

    for (;;) {
        struct job *job = job_queue_pop(&workers->queue);
        if (job == NULL) {
            return NULL;
        }
        job->run(job);
    }
}

/* Creates one thread that takes no signals: they belong to whoever waits for them. */
static int thread_start(struct workers *workers, uint32_t index)
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    int error = pthread_sigmask(SIG_SETMASK, &all, &before);
    assert(error == 0);
    const int create_error = pthread_create(&workers->threads[index], NULL, worker_main, workers);
    error = pthread_sigmask(SIG_SETMASK, &before, NULL);
    assert(error == 0);
    if (create_error != 0) {
        return create_error;
    }

    char name[THREAD_NAME_SIZE];
    const int name_size = snprintf(name, sizeof name, "holt-%s-%u", workers->name, index);
    assert(name_size > 0); /* Cut to fit, if need be. */
    /* Names are for people: a file of /proc is written, which may fail, or be interrupted. */
    (void)pthread_setname_np(workers->threads[index], name);
    return 0;
}

/* Ends the first `thread_count` threads, once they have drained the queue. */
static void threads_join(struct workers *workers, uint32_t thread_count)
{
    job_queue_close(&workers->queue);
    for (uint32_t i = 0; i < thread_count; i++) {
        const int error = pthread_join(workers->threads[i], NULL);
        assert(error == 0);
    }
}

enum status workers_start(struct workers *workers, const char *name, uint32_t thread_count,
                          uint32_t queue_capacity)
{
    assert(name != NULL && name[0] != '\0');
    assert(thread_count <= WORKERS_THREAD_COUNT_MAX);

    *workers = (struct workers){.thread_count = thread_count};
    const int name_size = snprintf(workers->name, sizeof workers->name, "%s", name);
    assert(name_size > 0);
    const enum status status = job_queue_init(&workers->queue, queue_capacity);
    if (status != STATUS_OK) {
        return status;
    }

    for (uint32_t i = 0; i < thread_count; i++) {
        const int error = thread_start(workers, i);
        if (error != 0) {
            LOG_ERROR("workers.start", log_text("name", name), log_u64("started", i),
                      log_u64("wanted", thread_count), log_i64("errno", error));
            threads_join(workers, i);
            job_queue_deinit(&workers->queue);
            return STATUS_NO_MEMORY;
        }
    }
    return STATUS_OK;
}

void workers_join(struct workers *workers)
{
    while (workers_run_one(workers)) {
    }
    threads_join(workers, workers->thread_count);
    job_queue_deinit(&workers->queue);
    *workers = (struct workers){0};
}

void workers_submit(struct workers *workers, struct job *job)
{
    const bool pushed = job_queue_push(&workers->queue, job);
    assert(pushed); /* The capacity given to workers_start was a promise. */
}

void workers_submit_first(struct workers *workers, struct job *job)
{
    const bool pushed = job_queue_push_first(&workers->queue, job);
    assert(pushed);
}

bool workers_are_wanted(struct workers *workers)
{
    return !job_queue_is_empty(&workers->queue);
}

bool workers_run_one(struct workers *workers)
{
    if (workers->thread_count > 0) {
        return false;
    }
    struct job *job = job_queue_try_pop(&workers->queue);
    if (job == NULL) {
        return false;
    }
    job->run(job);
    return true;
}
