/* holt_crash_points: whatever instant the machine stops at, the file opens to what was
 * acknowledged.
 *
 * Workloads (workloads.h) run once on a disk that records every write and sync. Each trace is then
 * turned into the images that a crash may leave (crash_states.h), and each image, once, is opened:
 * it must hold the model at some commit k, acknowledged <= k <= issued, by every session, every
 * object, every value of every index, and every count. What clients would send again is then
 * executed once, and more writes are taken. Of some: checkpoint, stop, reopen, verify; of some the
 * recovery is recorded, and crashed in turn.
 *
 * Images are shared out to processes by their hash. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "engine/forest_internal.h"
#include "pool/base.h"
#include "pool/log.h"
#include "tests/crash/workloads.h"
#include "tests/harness/campaign.h"
#include "tests/harness/crash_states.h"
#include "tests/harness/model_driver.h"
#include "tests/harness/session_model.h"

enum { ENTRY_MAX = 4 * 1024 * 1024, REQUEST_MAX = 64 * 1024 };

static const uint64_t arena_size = UINT64_C(8) << 30; /* of address space */

static struct settings {
    uint64_t length;    /* of short workloads, 0: none */
    uint64_t long_size; /* batches of 4 large objects in the long workloads, 0: none */
    uint64_t stride;    /* in the long workloads, one of so many events */
    uint64_t nested;    /* one of so many recoveries is crashed in turn */
    uint64_t expect;    /* distinct states that must have been checked */
} settings = {
    .length = WORKLOAD_LENGTH_MAX,
    .long_size = 540,
    .stride = 90,
    .nested = 600,
};

enum counter {
    VISITED,
    DISTINCT,
    NESTED,
    TORN,      /* opens that dropped a torn tail */
    REPAIRED,  /* opens that rewrote superblock copies */
    BETWEEN,   /* states with more than one legal outcome */
    NEWEST,    /* of those, where the last request that was asked for is there */
    COMPLETED, /* dropped entries that a torn repetition made whole */
    RETRIED,   /* numbered requests that were lost, and sent again */
    VERIFIED,
    COUNTER_COUNT,
};

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
    struct workload workload;
    uint32_t depth; /* 1: the trace is of a recovery */

    /* Of a recovery that dropped an unfinished entry: what it said, and as which commit. When it is
     * sent again, and that write is torn, the pieces that arrive may be all that it lacked. */
    const struct model *dropped;
    uint64_t dropped_commit;
};

/* Of the image at hand, or of the one whose recovery is being crashed. What is done with an image,
 * and what by chance, follows from it alone. */
static uint64_t root_hash;

static void note_state(const struct subject *subject, const struct crash_state *state)
{
    const struct trace *trace = subject->workload.trace;
    const struct trace_event *event = &trace->events[state->event];
    campaign_look_at("%s%s, event %" PRIu64 " of %" PRIu64 " (%s %u sectors at %" PRIu64
                     "); %s; commits %" PRIu64 "..%" PRIu64 "; --only %016" PRIx64,
                     subject->depth > 0 ? "recovery after: " : "", subject->workload.name,
                     state->event, trace->event_count,
                     event->kind == TRACE_WRITE ? "write of" : "sync", event->count, event->index,
                     state->what, state->commit_min, state->commit_max, root_hash);
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

static void some_writes(struct model_driver *driver, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t numbers[2] = {(uint32_t)prng_below(&driver->prng, 60),
                                     (uint32_t)prng_below(&driver->prng, 60)};
        for (uint32_t groove = 0; groove < MODEL_GROOVE_MAX; groove++) {
            if (model_groove(&driver->model, groove, UINT64_MAX) != NULL) {
                driver_submit(driver, groove, i % 2 == 0 ? EVENT_TYPE_UPSERT : EVENT_TYPE_REMOVE,
                              numbers, 2);
            }
        }
        driver_submit_chains(driver);
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
    driver_session(&checker, (uint32_t)prng_below(&checker.prng, MODEL_CLIENT_MAX));
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
    campaign_count(VERIFIED, 1);
    struct verify_report report;
    check->reason[0] = '\0';
    const enum status status =
        forest_verify(&checker.disk.io, on_problem, NULL, check->reason, &report);
    return status == STATUS_OK && report.problems == 0 ? NULL : check->reason;
}

static void look_at(const struct subject *subject, const struct crash_state *state,
                    uint64_t *commit);

static void visit(void *context, const struct crash_state *state)
{
    const struct subject *subject = context;
    const uint64_t hash = image_hash(state->image);
    if (subject->depth == 0 && !campaign_is_mine(hash)) {
        return;
    }
    campaign_count(VISITED, 1);
    bool is_new;
    uint64_t *commit = seen_commit(hash, &is_new);
    root_hash = subject->depth == 0 ? hash : root_hash;
    note_state(subject, state);
    if (is_new) {
        campaign_count(DISTINCT, 1);
        campaign_count(NESTED, subject->depth);
        *commit = UINT64_MAX;
        look_at(subject, state, commit);
    } else if (*commit != UINT64_MAX &&
               (*commit < state->commit_min || *commit > state->commit_max)) {
        char why[100];
        snprintf(why, sizeof why, "an image seen before opens to commit %" PRIu64, *commit);
        campaign_fail(why);
    }
}

/* Crashes the recovery that was just recorded, and what came of it. */
static void crash_recovery(const struct subject *subject, uint64_t recovered)
{
    static const struct crash_options options = {
        .all_max = 2, .one_max = 1, .random = 1, .torn = 1, .stride = 3};
    static struct trace trace; /* `recovery` serves the next; what it says is copied. */
    static struct model model; /* likewise */
    trace = recovery;
    model = checker.model;
    struct subject nested = {
        .workload = subject->workload,
        .depth = 1,
        .dropped = subject->workload.model,
        .dropped_commit = recovered + 1,
    };
    nested.workload.trace = &trace;
    nested.workload.model = &model;
    nested.workload.now_ns = checker.fixture.now_ns;
    crash_states(&trace, &options, &chance, &check_arena, visit, &nested);
}

/* What opened is right, and goes on. NULL, or what is wrong. */
static const char *judge(const struct subject *subject, const struct crash_state *state,
                         struct model_check *check, bool closely)
{
    const uint64_t recovered = checker.fixture.forest->commit_durable;
    const bool between = state->commit_min < state->commit_max;
    campaign_count(TORN, checker.fixture.open_report.torn_tail);
    campaign_count(REPAIRED, checker.fixture.open_report.copies_repaired > 0);
    campaign_count(BETWEEN, between);
    campaign_count(NEWEST, between && recovered == state->commit_max);
    if (recovered < state->commit_min || recovered > state->commit_max) {
        snprintf(check->reason, sizeof check->reason, "it opens to commit %" PRIu64, recovered);
        return check->reason;
    }
    driver_recovered(&checker, subject->workload.model);
    if (!holds(check)) {
        if (subject->dropped == NULL || recovered != subject->dropped_commit) {
            return check->reason;
        }
        driver_recovered(&checker, subject->dropped);
        if (!holds(check)) {
            return check->reason;
        }
        campaign_count(COMPLETED, 1);
    }
    campaign_count(RETRIED, driver_retry(&checker, subject->workload.model, state->commit_max));
    return go_on(check, closely);
}

static void look_at(const struct subject *subject, const struct crash_state *state,
                    uint64_t *commit)
{
    const uint64_t arena_used = check_arena.used;
    const struct model_mark mark = model_store_mark(&store);
    if (subject->depth == 0) {
        prng_init(&chance, campaign_settings.seed ^ root_hash);
        prng_init(&checker.prng, campaign_settings.seed ^ root_hash);
    }
    const bool nested = subject->depth == 0 && prng_chance(&chance, 1, settings.nested);
    const bool closely = nested || prng_chance(&chance, 1, 40);
    struct model_check check = {.lookup_stride = subject->workload.lookup_stride, .prng = &chance};
    const char *problem = check.reason;

    driver_stop(&checker, state->image, subject->workload.now_ns);
    if (checker.fixture.forest != NULL && prng_chance(&chance, 1, 256)) {
        fixture_discard(&checker.fixture); /* For once memory that no forest has used before. */
    }
    /* Until it is open, what was acknowledged before must be there; from then on what it found. */
    atomic_store(&checker.acknowledged, state->commit_min);
    atomic_store(&checker.issued, state->commit_max);
    if (nested) {
        image_io_record(&checker.disk, &recovery, &checker.acknowledged, &checker.issued);
    }
    if (!driver_open(&checker)) {
        snprintf(check.reason, sizeof check.reason, "it does not open: %s: %.200s",
                 status_text(checker.fixture.open_status), checker.fixture.open_reason);
    } else {
        *commit = checker.fixture.forest->commit_durable;
        problem = judge(subject, state, &check, closely);
    }
    if (nested) {
        image_io_record_end(&checker.disk);
    }
    if (problem != NULL) {
        campaign_fail(problem);
    } else if (nested) {
        crash_recovery(subject, *commit);
    }
    model_store_rewind(&store, &mark);
    check_arena.used = arena_used;
}

/* ---- All of them -------------------------------------------------------------------------------
 */

static struct workload long_workloads[2];

static void crash(const struct workload *workload, const struct crash_options *options)
{
    struct subject subject = {.workload = *workload};
    struct prng prng;
    prng_init(&prng, campaign_settings.seed);
    crash_states(workload->trace, options, &prng, &check_arena, visit, &subject);
}

static void crash_short(const struct workload *workload)
{
    static const struct crash_options options = {
        .all_max = 2, .one_max = 1, .random = 1, .torn = 1, .stride = 1};
    crash(workload, &options);
}

static void run(void)
{
    const struct crash_options options = {
        .all_max = 3, .one_max = 2, .random = 2, .torn = 3, .stride = (uint32_t)settings.stride};
    driver_init(&checker, &check_arena, WORKLOAD_SECTOR_MAX, &store, campaign_settings.seed + 2);
    trace_init(&recovery, WORKLOAD_SECTOR_MAX, WORKLOAD_EVENT_MAX);
    for (uint32_t i = 0; i < array_count(long_workloads) && settings.long_size > 0; i++) {
        crash(&long_workloads[i], &options);
    }
    workloads_short((uint32_t)settings.length, crash_short);
}

int main(int argc, char **argv)
{
    const struct campaign_option options[] = {
        {"length", &settings.length, 0, WORKLOAD_LENGTH_MAX, 10},
        {"long", &settings.long_size, 0, 100000, 10},
        {"stride", &settings.stride, 1, 100000, 10},
        {"nested", &settings.nested, 1, 1000000, 10},
        {"expect", &settings.expect, 0, UINT64_MAX, 10},
    };
    if (!campaign_parse(argc, argv, 16, options, array_count(options))) {
        return 2;
    }
    log_configure(LOG_FORMAT_LOGFMT, LOG_LEVEL_ERROR, 2);
    campaign_begin(COUNTER_COUNT);
    seen_init();
    model_store_init(&store, ENTRY_MAX, REQUEST_MAX);
    sector_arena_init(&check_arena, arena_size);
    workloads_init(&store, campaign_settings.seed);
    for (uint32_t i = 0; i < array_count(long_workloads) && settings.long_size > 0; i++) {
        workload_long(&long_workloads[i], (uint32_t)settings.long_size, i == 1);
    }

    bool passed = campaign_run(run);
    printf("torn tails dropped %" PRIu64 ", superblocks repaired %" PRIu64
           ", more than one legal outcome %" PRIu64 " (the newest in %" PRIu64
           "), numbered requests sent again %" PRIu64
           ", entries completed by a torn repetition %" PRIu64 ", verified %" PRIu64 "\n",
           campaign_total(TORN), campaign_total(REPAIRED), campaign_total(BETWEEN),
           campaign_total(NEWEST), campaign_total(RETRIED), campaign_total(COMPLETED),
           campaign_total(VERIFIED));
    if (campaign_total(DISTINCT) < settings.expect) {
        printf("FAILED: fewer than the %" PRIu64 " states that were promised\n", settings.expect);
        passed = false;
    }
    printf("%" PRIu64 " crash states, %" PRIu64 " distinct, %" PRIu64 " of them of crashed "
           "recoveries; %" PRIu64 " failures, %" PRIu64 " s\n",
           campaign_total(VISITED), campaign_total(DISTINCT), campaign_total(NESTED),
           campaign_failures(), campaign_seconds());
    return passed ? 0 : 1;
}
