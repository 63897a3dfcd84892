/* Goal: random requests of guarded and linked sections, across grooves, several to a batch, leave
 * what the model says, now, after a crash, and with any number of workers: results, objects, and
 * every block of every checkpoint.
 * Method: chain_fixture.h. */
#include "engine/chain.h"

#include "tests/engine/chain_fixture.h"
#include "tests/harness/checkpoint_trail.h"

static struct prng prng;

static void random_object(struct fixture_object *object, uint32_t key)
{
    *object = object_of(key, prng_below(&prng, A_COUNT), (uint32_t)prng_below(&prng, B_COUNT),
                        (uint32_t)prng_below(&prng, C_COUNT));
    object->note[0] = (char)('a' + prng_below(&prng, 3));
    switch (prng_below(&prng, 60)) {
    case 0:
        memset(object->id, 0, sizeof object->id);
        break;
    case 1:
        object->version = 1;
        break;
    case 2:
        object->note[0] = 0;
        object->note[1] = 'x';
        break;
    default:
        break;
    }
}

/* Mostly one that the event could succeed with. */
static uint8_t random_guard(uint8_t type)
{
    if (type != EVENT_TYPE_CHECK && prng_chance(&prng, 1, 2)) {
        return EVENT_GUARD_NONE;
    }
    const uint8_t guard = (uint8_t)prng_range(&prng, EVENT_GUARD_ABSENT, EVENT_GUARD_VERSION);
    if (prng_chance(&prng, 1, 10)) {
        return guard;
    }
    return type == EVENT_TYPE_INSERT                                 ? EVENT_GUARD_ABSENT
           : guard == EVENT_GUARD_ABSENT && type != EVENT_TYPE_CHECK ? EVENT_GUARD_VERSION
                                                                     : guard;
}

/* A section of a few events, each of which would mostly succeed if all did so far: `hope` is what
 * there would be then, and `timestamp` what the next event would get. */
static uint32_t random_section(struct state *hope, uint64_t timestamp, uint32_t count_max,
                               bool linked)
{
    const uint32_t groove = (uint32_t)prng_below(&prng, GROOVE_COUNT);
    const uint8_t type = (uint8_t)prng_range(&prng, EVENT_TYPE_INSERT, EVENT_TYPE_CHECK);
    const uint8_t guard = random_guard(type);
    const uint32_t count = (uint32_t)prng_range(&prng, 1, count_max);
    const uint64_t range = prng_chance(&prng, 1, 4) ? 4 : KEY_COUNT; /* The same ids again. */
    begin_section(groove, type, linked ? LINKED : 0, guard);
    for (uint32_t i = 0; i < count; i++) {
        struct model_event tried = {.groove = groove, .type = type, .guard = guard};
        enum event_result result = EVENT_RESULT_GUARD;
        for (uint32_t attempt = 0; attempt < 12 && result != EVENT_RESULT_OK; attempt++) {
            const uint32_t key = (uint32_t)prng_below(&prng, range);
            const struct row *row = &hope->rows[groove][key];
            random_object(&tried.object, key);
            tried.version = row->exists ? row->object.version : timestamp - 1;
            result = model_apply(hope, &tried, timestamp + i);
            if (prng_chance(&prng, 1, 30)) {
                break;
            }
        }
        if (result == EVENT_RESULT_OK && prng_chance(&prng, 1, 40)) {
            tried.version -= 1;
        }
        put_event(tried.version, &tried.object);
    }
    return count;
}

/* Queues one request. */
static void submit_random(void)
{
    static struct state hope;
    hope = model;
    const uint64_t timestamp =
        max_u64(fixture.now_ns + 1000, fixture.forest->timestamp + 1); /* If it comes next. */
    const uint32_t sections = (uint32_t)prng_range(&prng, 1, 6);
    uint32_t count = 0;
    for (uint32_t i = 0; i < sections; i++) {
        const bool linked = i + 1 < sections && prng_chance(&prng, 1, 2);
        count += random_section(&hope, timestamp + count, i % 3 == 0 ? 6 : 3, linked);
    }
    cr_assert(count <= EVENT_MAX);
    submit(prng_chance(&prng, 1, 6));
}

static void on_problem(void *context, const char *text)
{
    (void)context;
    cr_fail("%s", text);
}

static void finish(void)
{
    fixture_close(&fixture);
    struct verify_report report;
    cr_assert(eq(int, forest_verify(&fixture.sim.io, on_problem, NULL, NULL, &report), STATUS_OK));
    cr_assert(report.values_checked > 0);
    fixture_deinit(&fixture);
}

static void run_random(uint64_t seed, uint32_t worker_count, bool threads, uint32_t rounds)
{
    prng_init(&prng, seed);
    setup();
    fixture.on_outcome = on_outcome;
    fixture_open(&fixture, worker_count, threads);
    create();
    for (uint32_t round = 0; round < rounds; round++) {
        for (uint32_t i = 0; i < 150; i++) { /* A few at once: they share batches as they fit. */
            const uint64_t requests = prng_chance(&prng, 1, 3) ? prng_range(&prng, 2, 5) : 1;
            for (uint64_t k = 0; k < requests; k++) {
                submit_random();
            }
            fixture_settle(&fixture);
            cr_assert(eq(u32, pending_count, 0));
            if (i % 50 == 0) {
                check_all();
            }
        }
        check_all();
        if (round % 2 == 0) {
            fixture_close(&fixture);
        } else {
            fixture_crash(&fixture, prng_next(&prng));
        }
        fixture_open(&fixture, worker_count, threads);
        check_all();
    }
    struct forest_stats stats;
    forest_stats(fixture.forest, &stats);
    cr_assert(stats.superblock_sequence > 3, "checkpoints: %lu",
              (unsigned long)stats.superblock_sequence);
    finish();
    cr_assert(chains_done > 60 * rounds, "%u of %u", chains_done, chains_undone);
    cr_assert(chains_undone > 50 * rounds, "%u, and %u done", chains_undone, chains_done);
    for (uint32_t i = EVENT_RESULT_OK; i <= EVENT_RESULT_LINKED; i++) {
        cr_assert(i == EVENT_RESULT_CORRUPT || results[i] > 0, "result %u", i);
    }
}

Test(chain, random_requests_agree_with_the_model)
{
    for (uint64_t seed = 0; seed < 3; seed++) {
        chains_done = 0;
        chains_undone = 0;
        run_random(seed, 0, false, 4);
    }
}

Test(chain, random_requests_agree_with_the_model_with_threads)
{
    run_random(50, 2, true, 3);
}

/* ---- A function of the journal -----------------------------------------------------------------
 */

struct history {
    struct checkpoint_trail trail;
    uint64_t digest; /* of results and timestamps */
};

static struct history *history;

static void note_checkpoint(struct forest_fixture *at, uint64_t op,
                            const struct checksum *checkpoint_id)
{
    (void)at;
    checkpoint_trail_note(&history->trail, op, checkpoint_id);
}

/* One request at a time, so that each is one journal entry. */
static void record(struct history *to, uint32_t worker_count, bool threads, uint32_t crash_every)
{
    setup();
    *to = (struct history){0};
    history = to;
    digest = 0;
    prng_init(&prng, 78);
    fixture.on_checkpoint = note_checkpoint;
    fixture.on_outcome = on_outcome;
    fixture_open(&fixture, worker_count, threads);
    create();
    for (uint32_t i = 1; i <= 500; i++) {
        submit_random();
        fixture_settle(&fixture);
        if (crash_every > 0 && i % crash_every == 0) {
            fixture_crash(&fixture, i);
            fixture_open(&fixture, worker_count, threads);
        }
    }
    check_all();
    fixture_close(&fixture);
    fixture_deinit(&fixture);
    to->digest = digest;
}

Test(chain, results_and_checkpoints_follow_from_the_journal)
{
    static struct history base, other;
    static const struct {
        uint32_t worker_count;
        bool threads;
        uint32_t crash_every;
    } runs[] = {{0, false, 120}, {1, true, 0}, {2, true, 90}, {4, true, 0}};
    record(&base, 0, false, 0);
    cr_assert(base.trail.count > 6, "%u checkpoints", base.trail.count);
    for (uint32_t i = 0; i < array_count(runs); i++) {
        record(&other, runs[i].worker_count, runs[i].threads, runs[i].crash_every);
        cr_assert(eq(u64, other.digest, base.digest));
        uint32_t position;
        cr_assert(checkpoint_trail_agrees(&base.trail, &other.trail, &position), "checkpoint %u",
                  position);
    }
}
