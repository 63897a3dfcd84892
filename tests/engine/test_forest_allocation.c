/* Goal: once a forest is open, nothing that it does takes memory, on any of its threads: all was
 * taken by the plan. Method: the allocation guard forbids it on the forest thread and on each
 * thread of each team, then the forest lives through writes, reads, merges, checkpoints, a drop and
 * the debt of all that. In builds without the guard the same life shows that nothing was taken by
 * the plan's own door. */
#include "tests/harness/forest_fixture.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "pool/base.h"
#include "pool/memory.h"

enum { ROUNDS = 6, BATCHES = 200, BATCH_MAX = 40, KEY_COUNT = 3000, TEAM_MAX = 8 };

TestSuite(forest_allocation, .timeout = 120);

static struct forest_fixture fixture;
static struct prng prng;
static uint8_t body[16 * 1024];
static struct fixture_object objects[KEY_COUNT];

struct forbid_team;

struct forbid_job {
    struct job job; /* First member: run casts back. */
    struct forbid_team *team;
};

/* Outlives its threads, which may still be on their way out of the barrier. */
struct forbid_team {
    pthread_barrier_t barrier;
    struct forbid_job jobs[TEAM_MAX];
};

/* Waits for the rest of the team, so that each thread runs exactly one of these. */
static void forbid_run(struct job *job)
{
    struct forbid_job *forbid = container_of(job, struct forbid_job, job);
    memory_forbid_allocation();
    (void)pthread_barrier_wait(&forbid->team->barrier);
}

static void forbid_allocation(struct workers *workers, struct forbid_team *team)
{
    const uint32_t count = workers->thread_count;
    cr_assert(count > 0 && count <= TEAM_MAX);
    cr_assert(eq(int, pthread_barrier_init(&team->barrier, NULL, count + 1), 0));
    for (uint32_t i = 0; i < count; i++) {
        team->jobs[i] = (struct forbid_job){.job = {.run = forbid_run}, .team = team};
        workers_submit(workers, &team->jobs[i].job);
    }
    (void)pthread_barrier_wait(&team->barrier);
}

/* From here on no cr_assert: it takes memory even when it passes. */
static void must(bool condition)
{
    if (!condition) {
        memory_allow_allocation();
        cr_fatal("the forest did not do as asked");
    }
}

static void write_some(enum event_type type)
{
    const uint32_t count = (uint32_t)prng_range(&prng, 1, BATCH_MAX);
    for (uint32_t i = 0; i < count; i++) {
        memset(&objects[i], 0, sizeof objects[i]);
        fixture_id(objects[i].id, prng_below(&prng, KEY_COUNT));
        objects[i].a = prng_below(&prng, 50);
        objects[i].b = (uint32_t)prng_below(&prng, 5);
        objects[i].note[0] = (char)('a' + prng_below(&prng, 20));
    }
    const uint32_t size = fixture_body(body, fixture.groove_id, type, objects, count);
    must(fixture_request(&fixture, REQUEST_KIND_WRITE, body, size) == REQUEST_RESULT_OK);
}

static void read_some(void)
{
    static uint8_t ids[50 * 16];
    for (uint32_t i = 0; i < 50; i++) {
        fixture_id(ids + (size_t)i * 16, prng_below(&prng, KEY_COUNT));
    }
    (void)fixture_lookup(&fixture, ids, 50, objects, KEY_COUNT);
    const uint64_t a = prng_below(&prng, 50);
    (void)fixture_query(&fixture, 0, &a, sizeof a, objects, KEY_COUNT);
    const uint32_t values[2] = {(uint32_t)prng_below(&prng, 5), 0};
    (void)fixture_count(&fixture, 1, values, sizeof values);
    (void)fixture_count(&fixture, READ_INDEX_NONE, NULL, 0);
}

static void live(void)
{
    static const enum event_type types[] = {EVENT_TYPE_INSERT, EVENT_TYPE_INSERT, EVENT_TYPE_UPSERT,
                                            EVENT_TYPE_UPDATE, EVENT_TYPE_REMOVE};
    for (int round = 0; round < ROUNDS; round++) {
        fixture_create(&fixture);
        for (int i = 0; i < BATCHES; i++) {
            write_some(types[prng_below(&prng, array_count(types))]);
            if (i % 10 == 0) {
                read_some();
            }
        }
        char name[NAME_SIZE] = "things";
        must(fixture_request(&fixture, REQUEST_KIND_GROOVE_DROP, name, sizeof name) ==
             REQUEST_RESULT_OK);
        fixture_pay_debt(&fixture);
    }
    forest_seal(fixture.forest);
    fixture_settle(&fixture);
}

Test(forest_allocation, nothing_is_allocated_after_open)
{
    const struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    prng_init(&prng, 3);
    fixture_open(&fixture, 2, true);
    static struct forbid_team forbidden[4];
    struct workers *teams[] = {&fixture.compactors, &fixture.journal_worker, &fixture.growth_worker,
                               &fixture.readers};
    for (size_t i = 0; i < array_count(teams); i++) {
        forbid_allocation(teams[i], &forbidden[i]);
    }
    const uint64_t acquired = memory_acquired_size();
    memory_forbid_allocation();
    live();
    struct forest_stats stats;
    forest_stats(fixture.forest, &stats);
    memory_allow_allocation();

    cr_assert(eq(u64, memory_acquired_size(), acquired));
    cr_assert(ge(u64, stats.checkpoint_count, 3));
    cr_assert(ge(u64, stats.half_bar_count, 20));
    cr_assert(ge(u64, fixture.forest->schedule.merged_count, 20));
    cr_assert(ge(u64, stats.spilled_tables, 20));
    cr_assert(eq(u64, stats.tables, 0)); /* All dropped. */
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

#ifdef HOLT_ALLOCATION_GUARD

static void allocate_run(struct job *job)
{
    (void)job;
    free(aligned_alloc(64, 64));
}

/* The proof above is one only if the guard bites there. */
Test(forest_allocation, a_worker_that_allocates_is_stopped, .signal = SIGABRT)
{
    static struct job job = {.run = allocate_run};
    static struct forbid_team forbidden;
    const struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    fixture_open(&fixture, 2, true);
    forbid_allocation(&fixture.compactors, &forbidden);
    workers_submit(&fixture.compactors, &job);
    workers_join(&fixture.compactors);
}

#else

Test(forest_allocation, a_worker_that_allocates_is_stopped)
{
    cr_skip_test("this build has no allocation guard: use the debug preset");
}

#endif
