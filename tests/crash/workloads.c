#include "tests/crash/workloads.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/forest_internal.h"
#include "pool/base.h"
#include "tests/harness/campaign.h"
#include "tests/harness/model_driver.h"
#include "tests/harness/session_model.h"

enum {
    START_COUNT = 5,
    FILL_SIZE = 4,        /* large objects of a request: as many as their tables allow */
    LATENCY_US_MAX = 200, /* of the grid, where there are threads */
    LONG_COUNT_MAX = 2,
};

static const uint64_t arena_size = UINT64_C(8) << 30; /* of address space */

static uint64_t seed;
static struct model_store *store;
static struct sector_arena start_arena; /* starting files, and the long workloads */
static struct sector_arena work_arena;
static struct model_driver worker; /* runs short workloads */

static void must(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "workload: %s: %s\n", what, worker.fixture.open_reason);
        abort();
    }
}

/* ---- Steps -------------------------------------------------------------------------------------
 */

enum step {
    STEP_INSERT,
    STEP_REMOVE,
    STEP_BATCH,
    STEP_SCAN,
    STEP_SESSION,
    STEP_CHECKPOINT,
    STEP_REOPEN,
    STEP_KILL,
    STEP_COUNT,
};
static const char *const step_names[STEP_COUNT] = {
    "insert", "remove", "batch", "scan", "session", "checkpoint", "reopen", "kill",
};

/* Several requests in flight, to all grooves: single ones, atomic ones, chains. */
static void batch(struct model_driver *driver)
{
    const uint32_t first = (uint32_t)prng_below(&driver->prng, 200);
    uint32_t numbers[8];
    for (uint32_t groove = 0; groove < MODEL_GROOVE_MAX; groove++) {
        if (model_groove(&driver->model, groove, UINT64_MAX) == NULL) {
            continue;
        }
        for (uint32_t i = 0; i < 8; i++) {
            numbers[i] = first + i;
        }
        driver_submit(driver, groove, EVENT_TYPE_UPSERT, numbers, groove == 0 ? FILL_SIZE : 8);
        driver_submit(driver, groove, EVENT_TYPE_REMOVE, numbers + 2, 3);
        driver_submit_chains(driver);
        driver_submit(driver, groove, EVENT_TYPE_UPDATE, numbers + 4, 4);
        driver->atomic = true; /* The fourth is there, in all grooves but the first. */
        driver_submit(driver, groove, EVENT_TYPE_INSERT, numbers + 2, 4);
        driver->atomic = false;
    }
    driver_settle(driver);
}

static void step_run(struct model_driver *driver, enum step step)
{
    struct model_check check = {.lookup_stride = 3, .prng = &driver->prng};
    const bool any = model_groove(&driver->model, 1, UINT64_MAX) != NULL;
    const uint32_t number = (uint32_t)prng_below(&driver->prng, 40);
    switch (step) {
    case STEP_INSERT:
        if (!any) {
            driver_create(driver, 1);
        }
        (void)driver_write(driver, 1, EVENT_TYPE_INSERT, &number, 1);
        break;
    case STEP_REMOVE:
        if (any) {
            (void)driver_write(driver, 1, EVENT_TYPE_REMOVE, &number, 1);
        }
        break;
    case STEP_BATCH:
        batch(driver);
        break;
    case STEP_SCAN:
        must(model_compare(&driver->model, atomic_load(&driver->issued), &driver->fixture, &check),
             check.reason);
        break;
    case STEP_SESSION:
        driver_session(driver, number % MODEL_CLIENT_WIDE);
        break;
    case STEP_CHECKPOINT:
        driver_checkpoint(driver, prng_chance(&driver->prng, 1, 2));
        break;
    case STEP_REOPEN:
        must(driver_reopen(driver, DRIVER_REOPEN_CLEAN), "reopen");
        break;
    case STEP_KILL:
        must(driver_reopen(driver, DRIVER_REOPEN_KILLED), "reopen");
        break;
    case STEP_COUNT:
        break;
    }
}

/* `count` requests of large objects to the first groove. */
static void fill(struct model_driver *driver, uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t numbers[FILL_SIZE];
        for (uint32_t j = 0; j < FILL_SIZE; j++) {
            numbers[j] = first + i * FILL_SIZE + j;
        }
        driver_submit(driver, 0, EVENT_TYPE_UPSERT, numbers, FILL_SIZE);
        if (i % 4 == 3) {
            driver_settle(driver);
        }
    }
    driver_settle(driver);
}

/* ---- Starting files ----------------------------------------------------------------------------
 */

static struct driver_state starts[START_COUNT];
static const char *const start_names[START_COUNT] = {"empty", "small", "levels", "lap", "bar"};

/* Empty; a few objects and sessions, nothing on disk yet; tables at two levels, stopped cleanly;
 * the next batch goes over the end of the ring, small tables are spilled; one beat before a bar's
 * end. */
static void make_starts(void)
{
    driver_init(&worker, &start_arena, WORKLOAD_SECTOR_MAX, store, seed);
    driver_save(&worker, &starts[0]);
    must(driver_open(&worker), "open");
    driver_create(&worker, 0);
    driver_create(&worker, 1);
    driver_session(&worker, 0);
    driver_session(&worker, 2);
    for (uint32_t i = 0; i < 6; i++) {
        step_run(&worker, STEP_INSERT);
    }
    must(driver_reopen(&worker, DRIVER_REOPEN_KILLED), "reopen");
    driver_save(&worker, &starts[1]);
    fill(&worker, 200, 100);
    for (uint32_t i = 0; i < 4; i++) {
        batch(&worker);
        driver_checkpoint(&worker, true);
    }
    must(driver_reopen(&worker, DRIVER_REOPEN_CLEAN), "reopen");
    driver_save(&worker, &starts[2]);
    const struct journal *journal = &worker.fixture.forest->journal;
    while (journal->zone_size - journal->head > 3 * SECTOR_SIZE || journal->head == 0) {
        const uint32_t number = (uint32_t)prng_below(&worker.prng, 60);
        (void)driver_write(&worker, 1, EVENT_TYPE_UPSERT, &number, 1);
    }
    must(worker.fixture.forest->superblock.checkpoint.spill_size > 0, "nothing was spilled");
    driver_save(&worker, &starts[3]);
    while (worker.fixture.forest->beat + 1 < worker.fixture.forest->geometry.bar_beats) {
        step_run(&worker, STEP_INSERT);
    }
    driver_save(&worker, &starts[4]);
    struct forest_stats stats;
    forest_stats(worker.fixture.forest, &stats);
    must(stats.tables_by_level[0] > 0 && stats.tables_by_level[1] > 0, "too few levels");
    must(stats.sessions == 2, "not two sessions");
}

void workloads_init(struct model_store *model_store, uint64_t seed_of_all)
{
    store = model_store;
    seed = seed_of_all;
    sector_arena_init(&start_arena, arena_size);
    sector_arena_init(&work_arena, arena_size);
    make_starts();
}

/* ---- Short workloads ---------------------------------------------------------------------------
 */

static void run_short(uint32_t start, const enum step *steps, uint32_t count,
                      void (*crash)(const struct workload *workload))
{
    static struct trace trace;
    struct workload workload = {.trace = &trace, .model = &worker.model, .lookup_stride = 3};
    size_t used = (size_t)snprintf(workload.name, sizeof workload.name, "%s:", start_names[start]);
    for (uint32_t i = 0; i < count; i++) {
        used += (size_t)snprintf(workload.name + used, sizeof workload.name - used, " %s",
                                 step_names[steps[i]]);
    }
    campaign_look_at("the workload itself: %s", workload.name);
    if (trace.events == NULL) {
        trace_init(&trace, WORKLOAD_SECTOR_MAX, WORKLOAD_EVENT_MAX);
    }
    const struct model_mark mark = model_store_mark(store);
    driver_load(&worker, &starts[start]);
    worker.disk.arena = &work_arena;
    /* The same steps do the same, whatever follows them: states are then shared. */
    prng_init(&worker.prng, seed);
    image_io_record(&worker.disk, &trace, &worker.acknowledged, &worker.issued);
    must(driver_open(&worker), "open");
    for (uint32_t i = 0; i < count; i++) {
        step_run(&worker, steps[i]);
    }
    driver_settle(&worker);
    image_io_record_end(&worker.disk);
    workload.now_ns = worker.fixture.now_ns;
    crash(&workload);
    model_store_rewind(store, &mark);
    work_arena.used = 0;
}

/* The longest have sessions come and go at their beginning only: they are half of all as it is. */
static bool sessions_late(const enum step *steps, uint32_t length)
{
    return length == WORKLOAD_LENGTH_MAX && (steps[1] == STEP_SESSION || steps[2] == STEP_SESSION);
}

void workloads_short(uint32_t length_max, void (*crash)(const struct workload *workload))
{
    assert(length_max <= WORKLOAD_LENGTH_MAX);
    uint32_t workload_count = 1;
    for (uint32_t length = 1; length <= length_max; length++) {
        workload_count *= STEP_COUNT;
        for (uint32_t number = 0; number < workload_count; number++) {
            enum step steps[WORKLOAD_LENGTH_MAX];
            uint32_t rest = number;
            for (uint32_t i = 0; i < length; i++, rest /= STEP_COUNT) {
                steps[i] = (enum step)(rest % STEP_COUNT);
            }
            for (uint32_t start = 0; start < START_COUNT && !sessions_late(steps, length);
                 start++) {
                run_short(start, steps, length, crash);
            }
        }
    }
}

/* ---- Long workloads ----------------------------------------------------------------------------
 */

/* Opens sessions until some have to give way, and later closes the widest. */
static void change_sessions(struct model_driver *driver, uint32_t i)
{
    if (i % 25 == 5) {
        driver_session(driver, i / 25 % MODEL_CLIENT_WIDE);
    }
    for (uint32_t client = MODEL_CLIENT_WIDE; client < MODEL_CLIENT_MAX; client++) {
        const bool there = model_session(&driver->model, client, UINT64_MAX) != NULL;
        if (there ? i % 150 == 100 : i % 150 == 60) {
            driver_session(driver, client);
        }
    }
}

static void long_step(struct model_driver *driver, uint32_t i)
{
    fill(driver, i * FILL_SIZE % (MODEL_OBJECT_MAX - FILL_SIZE), 1);
    change_sessions(driver, i);
    if (i % 5 == 1) {
        batch(driver);
    }
    if (i % 16 == 3) {
        step_run(driver, STEP_INSERT);
    }
    if (i % 50 == 20) {
        driver_create(driver, 2);
    }
    if (i % 50 == 40) {
        driver_drop(driver, 2);
    }
    if (i % 30 == 29) {
        driver_pay_debt(driver);
    }
    if (i % 40 == 35) {
        must(driver_reopen(driver, i % 80 == 35 ? DRIVER_REOPEN_KILLED : DRIVER_REOPEN_CLEAN),
             "reopen");
    }
}

void workload_long(struct workload *workload, uint32_t batch_count, bool threads)
{
    static struct {
        struct model_driver driver;
        struct trace trace;
    } runs[LONG_COUNT_MAX];
    static uint32_t run_count;
    assert(run_count < LONG_COUNT_MAX);
    struct model_driver *driver = &runs[run_count].driver;
    struct trace *trace = &runs[run_count].trace;
    run_count += 1;

    driver_init(driver, &start_arena, WORKLOAD_SECTOR_MAX, store, seed + 1);
    trace_init(trace, WORKLOAD_SECTOR_MAX, WORKLOAD_EVENT_MAX);
    image_io_record(&driver->disk, trace, &driver->acknowledged, &driver->issued);
    must(fixture_try_open(&driver->fixture, threads ? 2 : 0, threads), "open");
    driver->disk.latency_us_max = threads ? LATENCY_US_MAX : 0;
    driver_create(driver, 0);
    driver_create(driver, 1);
    uint64_t wraps = 0;
    uint64_t head = 0;
    for (uint32_t i = 0; i < batch_count; i++) {
        const uint64_t head_now = driver->fixture.forest->journal.head;
        wraps += head_now < head;
        head = head_now;
        long_step(driver, i);
    }
    struct forest_stats stats;
    forest_stats(driver->fixture.forest, &stats);
    image_io_record_end(&driver->disk);
    *workload = (struct workload){
        .trace = trace,
        .model = &driver->model,
        .now_ns = driver->fixture.now_ns,
        .lookup_stride = 11,
    };
    snprintf(workload->name, sizeof workload->name, "long, %s", threads ? "threads" : "one thread");
    printf("%s: %" PRIu64 " events, %" PRIu64 " commits, %" PRIu64 " numbered, %" PRIu64
           " sessions evicted, %" PRIu64 " laps of the ring, superblock %" PRIu64
           ", tables by level %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
           workload->name, trace->event_count, atomic_load(&driver->issued), driver->numbered_count,
           driver->evicted_count, wraps, stats.superblock_sequence, stats.tables_by_level[0],
           stats.tables_by_level[1], stats.tables_by_level[2]);
    must(wraps >= 3, "fewer than 3 laps of the ring");
    must(stats.superblock_sequence > 4, "fewer than 4 checkpoints");
    must(batch_count < 600 || stats.tables_by_level[2] > 0, "fewer than 3 levels");
    must(driver->evicted_count > 0, "no session was evicted");
    image_io_kill(&driver->disk);
    fixture_discard(&driver->fixture);
}
