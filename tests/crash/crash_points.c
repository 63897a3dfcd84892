/* holt_crash_points: whatever instant the machine stops at, the file opens to what was
 * acknowledged.
 *
 * Workloads run once on a disk that records every write and sync. Each trace is then turned into
 * the images that a crash may leave (crash_states.h), and each image, once, is opened: it must
 * hold the model at some commit k, acknowledged <= k <= issued, by every object, every value of
 * every index, and every count; and take writes. Of some: checkpoint, stop, reopen, verify; of some
 * the recovery is recorded, and crashed in turn.
 *
 *   short  all workloads of up to three steps on each starting file
 *   long   laps of the ring, checkpoints, three levels; on one thread, and with threads
 *
 * Images are shared out to processes by their hash. A process that dies (an assertion, a fatal
 * error) leaves the state that it was looking at to be named by its parent. */
#include <assert.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "engine/forest_internal.h"
#include "pool/base.h"
#include "pool/log.h"
#include "tests/harness/crash_states.h"
#include "tests/harness/model_driver.h"
#include "tests/harness/processes.h"

enum {
    SECTOR_MAX = 16 * 1024, /* 64 MiB */
    EVENT_MAX = 64 * 1024,
    ENTRY_MAX = 4 * 1024 * 1024,
    START_MAX = 5,
    WORKLOAD_LENGTH_MAX = 3,
    FILL_SIZE = 4, /* objects of a request */
    LATENCY_US_MAX =
        200,         /* of the grid, where there are threads: journal entries go by meanwhile */
    FAILURE_MAX = 5, /* after which a process stops */
};

static const uint64_t arena_size = UINT64_C(8) << 30; /* of address space */

static struct settings {
    uint64_t seed;
    uint32_t process_count;
    uint32_t length;    /* of short workloads, 0: none */
    uint32_t long_size; /* batches of 4 large objects in the long workloads, 0: none */
    uint32_t stride;    /* in the long workloads, one of so many events */
    uint32_t nested;    /* one of so many recoveries is crashed in turn */
    uint64_t expect;    /* distinct states that must have been checked */
    uint64_t only;      /* the one image to look at, by its hash; 0: all */
} settings = {
    .seed = 1,
    .process_count = 2,
    .length = WORKLOAD_LENGTH_MAX,
    .long_size = 540,
    .stride = 70,
    .nested = 96,
};

/* What a process tells the others, in memory that they share. */
struct findings {
    uint64_t visited, distinct, nested, failures;
    uint64_t recovered_torn; /* opens that dropped a torn tail */
    uint64_t repaired;       /* opens that rewrote superblock copies */
    uint64_t between;        /* states with more than one legal outcome */
    uint64_t newest;         /* of those, where the last request that was asked for is there */
    uint64_t verified;
    char looking_at[512];
};
static struct findings *findings; /* [PROCESS_COUNT_MAX] */
static struct findings *mine;

/* ---- Distinct images ---------------------------------------------------------------------------
 */

/* Hash of an image -> the commit that it opens to. */
static struct {
    struct {
        uint64_t hash, commit;
    } * slots;
    uint64_t slot_count, used;
} seen;

static void seen_init(void)
{
    seen.slot_count = UINT64_C(1) << 23;
    seen.slots = mmap(NULL, seen.slot_count * sizeof *seen.slots, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (seen.slots == MAP_FAILED) {
        abort();
    }
}

/* The slot of `hash`; *is_new if it was not there. */
static uint64_t *seen_commit(uint64_t hash, bool *is_new)
{
    if (seen.used > seen.slot_count / 2) {
        abort();
    }
    uint64_t slot = hash & (seen.slot_count - 1);
    while (seen.slots[slot].hash != 0 && seen.slots[slot].hash != hash) {
        slot = (slot + 1) & (seen.slot_count - 1);
    }
    *is_new = seen.slots[slot].hash == 0;
    seen.used += *is_new;
    seen.slots[slot].hash = hash;
    return &seen.slots[slot].commit;
}

/* ---- Looking at one image ----------------------------------------------------------------------
 */

static struct model_store store;
static struct sector_arena check_arena;
static struct model_driver checker; /* opens images */
static struct trace recovery;       /* of one recovery, to be crashed in turn */
static struct prng chance;          /* which images get a closer look */

/* A trace under scrutiny. */
struct subject {
    const char *name;
    const struct trace *trace;
    const struct model *model;
    uint64_t now_ns;
    uint32_t lookup_stride;
    uint32_t depth; /* 1: the trace is of a recovery */
};

static void fail(const char *why)
{
    printf("FAILED: %s\n        %s\n", why, mine->looking_at);
    fflush(stdout);
    mine->failures += 1;
    if (mine->failures >= FAILURE_MAX) {
        exit(1);
    }
}

/* Of the image at hand, or of the one whose recovery is being crashed. What is done with an image,
 * and what by chance, follows from it alone. */
static uint64_t root_hash;

static void note_state(const struct subject *subject, const struct crash_state *state)
{
    const struct trace_event *event = &subject->trace->events[state->event];
    snprintf(mine->looking_at, sizeof mine->looking_at,
             "%s%s, event %" PRIu64 " of %" PRIu64 " (%s %u sectors at %" PRIu64
             "); %s; commits %" PRIu64 "..%" PRIu64 "; --only %016" PRIx64,
             subject->depth > 0 ? "recovery after: " : "", subject->name, state->event,
             subject->trace->event_count, event->kind == TRACE_WRITE ? "write of" : "sync",
             event->count, event->index, state->what, state->commit_min, state->commit_max,
             root_hash);
}

static void on_problem(void *context, const char *text)
{
    char *first = context;
    if (first[0] == '\0') {
        snprintf(first, 200, "verify: %s", text);
    }
}

/* Whether the checker's forest holds what its model says, as of the last commit. */
static bool holds(struct model_check *check)
{
    return model_compare(&checker.model, atomic_load(&checker.issued), &checker.fixture, check);
}

static uint32_t random_number(struct model_driver *driver)
{
    return (uint32_t)prng_below(&driver->prng, 60);
}

static void some_writes(struct model_driver *driver, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t numbers[2] = {random_number(driver), random_number(driver)};
        for (uint32_t groove = 0; groove < MODEL_GROOVE_MAX; groove++) {
            if (model_groove(&driver->model, groove, UINT64_MAX) != NULL) {
                driver_submit(driver, groove, i % 2 == 0 ? EVENT_TYPE_UPSERT : EVENT_TYPE_REMOVE,
                              numbers, 2);
            }
        }
        driver_settle(driver);
    }
}

/* Life after the crash: what comes next works, and lasts. NULL, or what is wrong. */
static const char *go_on(struct model_check *check, bool closely)
{
    if (model_groove(&checker.model, 0, UINT64_MAX) == NULL) {
        driver_create(&checker, 0);
    }
    some_writes(&checker, 2);
    if (!closely) {
        check->lookup_stride = 37;
        return holds(check) ? NULL : check->reason;
    }
    driver_checkpoint(&checker, true);
    some_writes(&checker, 3);
    driver_checkpoint(&checker, prng_chance(&chance, 1, 2));
    some_writes(&checker, 1);
    const enum driver_reopen how =
        prng_chance(&chance, 1, 2) ? DRIVER_REOPEN_CLEAN : DRIVER_REOPEN_KILLED;
    if (!driver_reopen(&checker, how)) {
        snprintf(check->reason, sizeof check->reason, "later: it does not open again: %.200s",
                 checker.fixture.open_reason);
        return check->reason;
    }
    check->lookup_stride = 5;
    if (!holds(check)) {
        return check->reason;
    }
    mine->verified += 1;
    struct verify_report report;
    check->reason[0] = '\0';
    const enum status status =
        forest_verify(&checker.disk.io, on_problem, NULL, check->reason, &report);
    return status == STATUS_OK && report.problems == 0 ? NULL : check->reason;
}

/* Opens the checker on `image`. One time in many with memory that no forest has used before. */
static bool open_image(const struct image *image)
{
    image_io_kill(&checker.disk);
    if (checker.fixture.forest != NULL && prng_chance(&chance, 1, 256)) {
        fixture_discard(&checker.fixture);
    } else if (checker.fixture.forest != NULL) {
        forest_reset(checker.fixture.forest);
    }
    checker.pending_count = 0;
    image_io_load(&checker.disk, image);
    return checker.fixture.forest == NULL ? fixture_try_open(&checker.fixture, 0, false)
                                          : fixture_try_reopen(&checker.fixture);
}

static void look_at(const struct subject *subject, const struct crash_state *state,
                    uint64_t *commit);

static void visit(void *context, const struct crash_state *state)
{
    const struct subject *subject = context;
    const uint64_t hash = image_hash(state->image);
    if (subject->depth == 0 && hash % settings.process_count != (uint64_t)(mine - findings)) {
        return; /* Another process looks at it. */
    }
    if (subject->depth == 0 && settings.only != 0 && settings.only != hash) {
        return;
    }
    mine->visited += 1;
    bool is_new;
    uint64_t *commit = seen_commit(hash, &is_new);
    root_hash = subject->depth == 0 ? hash : root_hash;
    note_state(subject, state);
    if (is_new) {
        mine->distinct += 1;
        mine->nested += subject->depth > 0;
        *commit = UINT64_MAX;
        look_at(subject, state, commit);
    } else if (*commit != UINT64_MAX &&
               (*commit < state->commit_min || *commit > state->commit_max)) {
        char why[100];
        snprintf(why, sizeof why, "an image seen before opens to commit %" PRIu64, *commit);
        fail(why);
    }
}

/* Crashes the recovery that was just recorded. */
static void crash_recovery(const struct subject *subject, const struct model *model)
{
    static const struct crash_options options = {
        .all_max = 2, .one_max = 1, .random = 1, .torn = 1, .stride = 3};
    static struct trace trace; /* `recovery` serves the next; what it says is copied. */
    trace = recovery;
    const struct subject nested = {
        .name = subject->name,
        .trace = &trace,
        .model = model,
        .now_ns = checker.fixture.now_ns,
        .lookup_stride = subject->lookup_stride,
        .depth = 1,
    };
    crash_states(&trace, &options, &chance, &check_arena, visit, (void *)&nested);
}

static void look_at(const struct subject *subject, const struct crash_state *state,
                    uint64_t *commit)
{
    const uint64_t arena_used = check_arena.used;
    const uint32_t entry_count = store.entry_count;
    if (subject->depth == 0) {
        prng_init(&chance, settings.seed ^ root_hash);
        prng_init(&checker.prng, settings.seed ^ root_hash);
    }
    const bool nested = subject->depth == 0 && prng_chance(&chance, 1, settings.nested);
    const bool closely = nested || prng_chance(&chance, 1, 24);
    struct model_check check = {.lookup_stride = subject->lookup_stride, .prng = &chance};
    struct model model;
    const char *problem = NULL;

    /* Until it is open, what was acknowledged before must be there; from then on what it found. */
    atomic_store(&checker.acknowledged, state->commit_min);
    atomic_store(&checker.issued, state->commit_max);
    checker.fixture.now_ns = subject->now_ns;
    if (nested) {
        image_io_kill(&checker.disk);
        if (checker.fixture.forest != NULL) {
            forest_reset(checker.fixture.forest);
        }
        image_io_load(&checker.disk, state->image);
        image_io_record(&checker.disk, &recovery, &checker.acknowledged, &checker.issued);
    }
    if (!open_image(state->image)) {
        snprintf(check.reason, sizeof check.reason, "it does not open: %s: %.200s",
                 status_text(checker.fixture.open_status), checker.fixture.open_reason);
        problem = check.reason;
    } else {
        const uint64_t recovered = checker.fixture.forest->commit_durable;
        *commit = recovered;
        mine->recovered_torn += checker.fixture.open_report.torn_tail;
        mine->repaired += checker.fixture.open_report.copies_repaired > 0;
        mine->between += state->commit_min < state->commit_max;
        mine->newest += state->commit_min < state->commit_max && recovered == state->commit_max;
        model_branch(&checker.model, subject->model, recovered);
        atomic_store(&checker.issued, recovered);
        atomic_store(&checker.acknowledged, recovered);
        if (recovered < state->commit_min || recovered > state->commit_max) {
            snprintf(check.reason, sizeof check.reason, "it opens to commit %" PRIu64, recovered);
            problem = check.reason;
        } else if (!holds(&check)) {
            problem = check.reason;
        } else {
            problem = go_on(&check, closely);
        }
    }
    if (nested) {
        image_io_record_end(&checker.disk);
    }
    if (problem != NULL) {
        fail(problem);
    } else if (nested) {
        model = checker.model;
        crash_recovery(subject, &model);
    }
    store.entry_count = entry_count;
    check_arena.used = arena_used;
}

/* ---- Workloads ---------------------------------------------------------------------------------
 */

static struct sector_arena start_arena; /* starting files, and the long workloads */
static struct sector_arena work_arena;
static struct model_driver worker; /* runs workloads */
static struct trace work;

enum step {
    STEP_INSERT,
    STEP_REMOVE,
    STEP_BATCH,
    STEP_SCAN,
    STEP_CHECKPOINT,
    STEP_REOPEN,
    STEP_KILL,
    STEP_COUNT,
};
static const char *const step_names[STEP_COUNT] = {
    "insert", "remove", "batch", "scan", "checkpoint", "reopen", "kill",
};

static void must(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "crash_points: %s: %s\n", what, worker.fixture.open_reason);
        abort();
    }
}

/* Several requests in flight, to all grooves. */
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
        driver_submit(driver, groove, EVENT_TYPE_UPDATE, numbers + 4, 4);
        driver->atomic = true; /* The fourth is there, in all grooves but the first. */
        driver_submit(driver, groove, EVENT_TYPE_INSERT, numbers + 2, 4);
        driver->atomic = false;
    }
    driver_settle(driver);
}

static void run_step(struct model_driver *driver, enum step step)
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

static struct driver_state starts[START_MAX];
static const char *const start_names[START_MAX] = {"empty", "small", "levels", "lap", "bar"};

/* `count` batches of 4 objects each to the first groove: as many as its tables allow. */
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

/* Empty; a few objects, nothing on disk yet; tables at two levels, stopped cleanly; the next batch
 * goes over the end of the ring, small tables are spilled; one beat before a bar's end. */
static void make_starts(void)
{
    driver_init(&worker, &start_arena, SECTOR_MAX, &store, settings.seed);
    driver_save(&worker, &starts[0]);
    must(fixture_try_open(&worker.fixture, 0, false), "open");
    driver_create(&worker, 0);
    driver_create(&worker, 1);
    for (uint32_t i = 0; i < 6; i++) {
        run_step(&worker, STEP_INSERT);
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
    struct forest_stats stats;
    const struct journal *journal = &worker.fixture.forest->journal;
    while (journal->zone_size - journal->head > 3 * SECTOR_SIZE || journal->head == 0) {
        const uint32_t number = random_number(&worker);
        (void)driver_write(&worker, 1, EVENT_TYPE_UPSERT, &number, 1);
    }
    must(worker.fixture.forest->superblock.checkpoint.spill_size > 0, "nothing was spilled");
    driver_save(&worker, &starts[3]);
    while (worker.fixture.forest->beat + 1 < worker.fixture.forest->geometry.bar_beats) {
        run_step(&worker, STEP_INSERT);
    }
    driver_save(&worker, &starts[4]);
    forest_stats(worker.fixture.forest, &stats);
    must(stats.tables_by_level[0] > 0 && stats.tables_by_level[1] > 0, "too few levels");
}

static void run_short(uint32_t start, const enum step *steps, uint32_t count)
{
    char name[120];
    size_t used = (size_t)snprintf(name, sizeof name, "%s:", start_names[start]);
    for (uint32_t i = 0; i < count; i++) {
        used += (size_t)snprintf(name + used, sizeof name - used, " %s", step_names[steps[i]]);
    }
    snprintf(mine->looking_at, sizeof mine->looking_at, "the workload itself: %s", name);
    const uint32_t entry_count = store.entry_count;
    image_io_kill(&worker.disk);
    forest_reset(worker.fixture.forest);
    driver_load(&worker, &starts[start]);
    worker.disk.arena = &work_arena;
    /* The same steps do the same, whatever follows them: states are then shared. */
    prng_init(&worker.prng, settings.seed);
    image_io_record(&worker.disk, &work, &worker.acknowledged, &worker.issued);
    must(fixture_try_reopen(&worker.fixture), "open");
    for (uint32_t i = 0; i < count; i++) {
        run_step(&worker, steps[i]);
    }
    driver_settle(&worker);
    image_io_record_end(&worker.disk);

    static const struct crash_options options = {
        .all_max = 4, .one_max = 1, .random = 1, .torn = 2, .stride = 1};
    const struct subject subject = {
        .name = name,
        .trace = &work,
        .model = &worker.model,
        .now_ns = worker.fixture.now_ns,
        .lookup_stride = 3,
    };
    struct prng prng;
    prng_init(&prng, settings.seed);
    crash_states(&work, &options, &prng, &check_arena, visit, (void *)&subject);
    store.entry_count = entry_count;
    work_arena.used = 0;
}

static void run_all_short(void)
{
    uint32_t workload_count = 1;
    for (uint32_t length = 1; length <= settings.length; length++) {
        workload_count *= STEP_COUNT;
        for (uint32_t number = 0; number < workload_count; number++) {
            enum step steps[WORKLOAD_LENGTH_MAX];
            uint32_t rest = number;
            for (uint32_t i = 0; i < length; i++, rest /= STEP_COUNT) {
                steps[i] = (enum step)(rest % STEP_COUNT);
            }
            for (uint32_t start = 0; start < START_MAX; start++) {
                run_short(start, steps, length);
            }
        }
    }
}

/* ---- The long workloads ------------------------------------------------------------------------
 */

struct long_run {
    const char *name;
    struct model_driver driver;
    struct trace trace;
};
static struct long_run long_runs[2];

/* Fills until three levels are in use; on the way updates, removes, idles, makes and drops a
 * groove, is stopped and killed. */
static void record_long(struct long_run *run, const char *name, bool threads)
{
    struct model_driver *driver = &run->driver;
    run->name = name;
    driver_init(driver, &start_arena, SECTOR_MAX, &store, settings.seed + 1);
    trace_init(&run->trace, SECTOR_MAX, EVENT_MAX);
    image_io_record(&driver->disk, &run->trace, &driver->acknowledged, &driver->issued);
    must(fixture_try_open(&driver->fixture, threads ? 2 : 0, threads), "open");
    driver->disk.latency_us_max = threads ? LATENCY_US_MAX : 0;
    driver_create(driver, 0);
    driver_create(driver, 1);
    uint64_t wraps = 0;
    uint64_t head = 0;
    for (uint32_t i = 0; i < settings.long_size; i++) {
        fill(driver, i * FILL_SIZE % (MODEL_OBJECT_MAX - FILL_SIZE), 1);
        if (i % 5 == 1) {
            batch(driver);
        }
        if (i % 16 == 3) {
            run_step(driver, STEP_INSERT);
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
        const uint64_t head_now = driver->fixture.forest->journal.head;
        wraps += head_now < head;
        head = head_now;
        if (i % 40 == 35) {
            must(driver_reopen(driver, i % 80 == 35 ? DRIVER_REOPEN_KILLED : DRIVER_REOPEN_CLEAN),
                 "reopen");
        }
    }
    struct forest_stats stats;
    forest_stats(driver->fixture.forest, &stats);
    image_io_record_end(&driver->disk);
    printf("%s: %" PRIu64 " events, %" PRIu64 " commits, %" PRIu64 " laps of the ring, "
           "superblock %" PRIu64 ", tables by level",
           name, run->trace.event_count, atomic_load(&driver->issued), wraps,
           stats.superblock_sequence);
    for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
        printf(" %" PRIu64, stats.tables_by_level[level]);
    }
    printf("\n");
    must(wraps >= 3, "fewer than 3 laps of the ring");
    must(stats.superblock_sequence > 4, "fewer than 4 checkpoints");
    must(settings.long_size < 600 || stats.tables_by_level[2] > 0, "fewer than 3 levels");
    image_io_kill(&driver->disk);
    fixture_discard(&driver->fixture);
}

static void crash_long(const struct long_run *run)
{
    const struct crash_options options = {
        .all_max = 3, .one_max = 2, .random = 2, .torn = 3, .stride = settings.stride};
    const struct subject subject = {
        .name = run->name,
        .trace = &run->trace,
        .model = &run->driver.model,
        .now_ns = run->driver.fixture.now_ns,
        .lookup_stride = 11,
    };
    struct prng prng;
    prng_init(&prng, settings.seed);
    crash_states(&run->trace, &options, &prng, &check_arena, visit, (void *)&subject);
}

/* ---- Processes ---------------------------------------------------------------------------------
 */

static const char *looking_at(uint32_t number)
{
    return findings[number].looking_at;
}

static bool run_process(uint32_t number)
{
    mine = &findings[number];
    driver_init(&checker, &check_arena, SECTOR_MAX, &store, settings.seed + 2);
    trace_init(&recovery, SECTOR_MAX, EVENT_MAX);
    for (uint32_t i = 0; i < array_count(long_runs) && settings.long_size > 0; i++) {
        crash_long(&long_runs[i]);
    }
    trace_init(&work, SECTOR_MAX, EVENT_MAX);
    run_all_short();
    return mine->failures == 0;
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void usage(void)
{
    printf("usage: holt_crash_points [--seed N] [--processes N] [--length 0..3] [--long BATCHES]\n"
           "                         [--stride N] [--nested N] [--expect STATES]\n"
           "                         [--only IMAGE]\n");
}

static bool parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},
        {"processes", required_argument, NULL, 'p'},
        {"length", required_argument, NULL, 'l'},
        {"long", required_argument, NULL, 'L'},
        {"stride", required_argument, NULL, 't'},
        {"nested", required_argument, NULL, 'n'},
        {"expect", required_argument, NULL, 'e'},
        {"only", required_argument, NULL, 'o'},
        {0},
    };
    int letter;
    while ((letter = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (letter == '?') {
            return false;
        }
        const uint64_t value = strtoull(optarg, NULL, letter == 'o' ? 16 : 10);
        switch (letter) {
        case 's':
            settings.seed = value;
            break;
        case 'p':
            settings.process_count = (uint32_t)value;
            break;
        case 'l':
            settings.length = (uint32_t)value;
            break;
        case 'L':
            settings.long_size = (uint32_t)value;
            break;
        case 't':
            settings.stride = (uint32_t)value;
            break;
        case 'n':
            settings.nested = (uint32_t)value;
            break;
        case 'e':
            settings.expect = value;
            break;
        default:
            settings.only = value;
            break;
        }
    }
    return optind == argc && settings.process_count >= 1 &&
           settings.process_count <= PROCESS_COUNT_MAX && settings.length <= WORKLOAD_LENGTH_MAX &&
           settings.stride >= 1 && settings.nested >= 1;
}

int main(int argc, char **argv)
{
    if (!parse(argc, argv)) {
        usage();
        return 2;
    }
    log_configure(LOG_FORMAT_LOGFMT, LOG_LEVEL_ERROR, 2);
    const uint64_t start_ms = now_ms();
    findings = processes_share(PROCESS_COUNT_MAX * sizeof *findings);
    mine = &findings[0];
    seen_init();
    model_store_init(&store, ENTRY_MAX);
    sector_arena_init(&start_arena, arena_size);
    sector_arena_init(&work_arena, arena_size);
    sector_arena_init(&check_arena, arena_size);
    if (settings.long_size > 0) {
        record_long(&long_runs[0], "long, one thread", false);
        record_long(&long_runs[1], "long, threads", true);
    }
    make_starts();

    bool failed = !processes_run(settings.process_count, run_process, looking_at);
    struct findings total = {0};
    for (uint32_t i = 0; i < settings.process_count; i++) {
        total.visited += findings[i].visited;
        total.distinct += findings[i].distinct;
        total.nested += findings[i].nested;
        total.failures += findings[i].failures;
        total.recovered_torn += findings[i].recovered_torn;
        total.repaired += findings[i].repaired;
        total.between += findings[i].between;
        total.newest += findings[i].newest;
        total.verified += findings[i].verified;
    }
    printf("torn tails dropped %" PRIu64 ", superblocks repaired %" PRIu64
           ", more than one legal outcome %" PRIu64 " (the newest in %" PRIu64
           "), verified %" PRIu64 "\n",
           total.recovered_torn, total.repaired, total.between, total.newest, total.verified);
    if (total.distinct < settings.expect) {
        printf("FAILED: fewer than the %" PRIu64 " states that were promised\n", settings.expect);
        failed = true;
    }
    printf("%" PRIu64 " crash states, %" PRIu64 " distinct, %" PRIu64 " of them of crashed "
           "recoveries; %" PRIu64 " failures, %" PRIu64 " s\n",
           total.visited, total.distinct, total.nested, total.failures,
           (now_ms() - start_ms) / 1000);
    return failed || total.failures > 0 ? 1 : 0;
}
