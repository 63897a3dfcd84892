/* Goal: every job runs once, whoever runs it; with no threads, in queue order on the caller; the
 * threads are named, take no signals, and are gone after join. Method: counted jobs, for several
 * numbers of threads. */
#include "pool/workers.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/parameterized.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "pool/base.h"
#include "pool/doorbell.h"
#include "pool/memory.h"

enum { JOB_COUNT = 500 };

struct counted_job {
    struct job job;
    uint32_t runs; /* Plain: join is what publishes it. */
    uint32_t position;
    pthread_t thread;
};

static struct workers workers;
static struct counted_job jobs[JOB_COUNT];
static atomic_uint run_count;

static void count_run(struct job *job)
{
    struct counted_job *counted = container_of(job, struct counted_job, job);
    counted->runs += 1;
    counted->position = atomic_fetch_add(&run_count, 1);
    counted->thread = pthread_self();
}

static void submit_all(void)
{
    for (int i = 0; i < JOB_COUNT; i++) {
        jobs[i].job.run = count_run;
        workers_submit(&workers, &jobs[i].job);
    }
}

static void check_each_ran_once(void)
{
    for (int i = 0; i < JOB_COUNT; i++) {
        cr_assert(eq(u32, jobs[i].runs, 1));
    }
}

TestSuite(workers, .timeout = 120);

ParameterizedTestParameters(workers, join_runs_what_is_queued)
{
    static uint32_t thread_counts[] = {0, 1, 2, 8};
    return cr_make_param_array(uint32_t, thread_counts, 4);
}

ParameterizedTest(uint32_t *thread_count, workers, join_runs_what_is_queued, .timeout = 120)
{
    cr_assert(eq(int, workers_start(&workers, "test", *thread_count, JOB_COUNT), STATUS_OK));
    submit_all();
    workers_join(&workers);
    check_each_ran_once();
    cr_assert(eq(u64, memory_acquired_size(), 0));
}

Test(workers, without_threads_the_caller_runs_in_order)
{
    cr_assert(eq(int, workers_start(&workers, "test", 0, JOB_COUNT), STATUS_OK));
    cr_assert(not(workers_run_one(&workers)));
    submit_all();
    cr_assert(eq(u32, atomic_load(&run_count), 0));
    for (int i = 0; i < JOB_COUNT; i++) {
        cr_assert(workers_run_one(&workers));
        cr_assert(eq(u32, jobs[i].position, (uint32_t)i));
        cr_assert(pthread_equal(jobs[i].thread, pthread_self()));
    }
    cr_assert(not(workers_run_one(&workers)));
    workers_join(&workers);
    check_each_ran_once();
}

Test(workers, with_threads_the_caller_runs_nothing)
{
    cr_assert(eq(int, workers_start(&workers, "test", 2, JOB_COUNT), STATUS_OK));
    submit_all();
    cr_assert(not(workers_run_one(&workers)));
    workers_join(&workers);
    for (int i = 0; i < JOB_COUNT; i++) {
        cr_assert(not(pthread_equal(jobs[i].thread, pthread_self())));
    }
}

struct chained_job {
    struct job job;
    uint32_t rest;
};

static void submit_the_rest(struct job *job)
{
    struct chained_job *chained = container_of(job, struct chained_job, job);
    if (chained->rest > 0) {
        chained->rest -= 1;
        workers_submit(&workers, &chained->job);
    }
}

Test(workers, a_job_may_submit_itself_again)
{
    struct chained_job chained = {.job = {submit_the_rest}, .rest = 10};

    cr_assert(eq(int, workers_start(&workers, "test", 0, 1), STATUS_OK));
    workers_submit(&workers, &chained.job);
    workers_join(&workers);
    cr_assert(eq(u32, chained.rest, 0));
}

struct thread_facts {
    struct job job;
    struct doorbell *done;
    char name[16];
    sigset_t blocked;
};

static void learn_facts(struct job *job)
{
    struct thread_facts *facts = container_of(job, struct thread_facts, job);
    pthread_sigmask(SIG_SETMASK, NULL, &facts->blocked);
    pthread_getname_np(pthread_self(), facts->name, sizeof facts->name);
    doorbell_ring(facts->done);
}

Test(workers, threads_are_named_and_take_no_signals)
{
    struct doorbell done;
    struct thread_facts facts = {.job = {learn_facts}, .done = &done};

    doorbell_init(&done);
    cr_assert(eq(int, workers_start(&workers, "compaction-and-more", 1, 1), STATUS_OK));
    workers_submit(&workers, &facts.job);
    doorbell_wait(&done, 0, DOORBELL_WAIT_FOREVER);
    cr_assert(eq(str, facts.name, "holt-compaction"));
    cr_assert(sigismember(&facts.blocked, SIGTERM));
    cr_assert(sigismember(&facts.blocked, SIGINT));
    workers_join(&workers);
    doorbell_deinit(&done);
}

Test(workers, the_mask_of_the_caller_is_as_before)
{
    sigset_t mask;

    cr_assert(eq(int, workers_start(&workers, "test", 1, 1), STATUS_OK));
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    cr_assert(not(sigismember(&mask, SIGTERM)));
    workers_join(&workers);
}

Test(workers, threads_that_cannot_be_had_leave_nothing_behind)
{
    pthread_attr_t attributes;

    cr_assert(eq(int, pthread_attr_init(&attributes), 0));
    cr_assert(eq(int, pthread_attr_setstacksize(&attributes, (size_t)1 << 50), 0));
    cr_assert(eq(int, pthread_setattr_default_np(&attributes), 0));
    cr_assert(eq(int, workers_start(&workers, "test", 2, 1), STATUS_NO_MEMORY));
    cr_assert(eq(u64, memory_acquired_size(), 0));
}

Test(workers, more_jobs_than_promised_is_a_bug, .signal = SIGABRT)
{
    struct job job = {count_run};

    cr_assert(eq(int, workers_start(&workers, "test", 0, 1), STATUS_OK));
    workers_submit(&workers, &job);
    workers_submit(&workers, &job);
}
