#include "tests/harness/model_driver.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "pool/base.h"
#include "tests/harness/session_model.h"

struct geometry driver_geometry(void)
{
    struct geometry geometry = geometry_tiny();
    geometry.batch_size_max = 8 * 1024;
    geometry.batch_event_max = 8;
    geometry.bar_journal_size = 32 * 1024;
    geometry.bar_memory_size = 32 * 1024;
    geometry.checkpoint_journal_size = SECTOR_SIZE;
    geometry.journal_size = 480 * 1024;
    geometry.block_count_max = 16 * 1024;
    const char *reason = NULL;
    if (geometry_validate(&geometry, &reason) != STATUS_OK) {
        fprintf(stderr, "driver: %s\n", reason);
        abort();
    }
    return geometry;
}

static void must(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "driver: %s\n", what);
        abort();
    }
}

static void on_outcome(struct forest_fixture *fixture, const struct request_outcome *outcome)
{
    struct model_driver *driver = (struct model_driver *)fixture;
    must(driver->pending_count > 0, "an answer that nobody asked for");
    const struct driver_pending *pending = &driver->pending[driver->pending_first];
    driver->pending_first = (driver->pending_first + 1) % DRIVER_PENDING_MAX;
    driver->pending_count -= 1;
    if (outcome->result != REQUEST_RESULT_OK) {
        must(driver->may_refuse, "a request was refused");
        must(driver->pending_count == 0, "a request was refused in the middle of others");
        driver->refused = outcome->result;
        model_undo(&driver->model, pending->before.entry_count);
        model_store_rewind(driver->model.store, &pending->before);
        atomic_fetch_sub(&driver->issued, 1);
        return;
    }
    must(outcome->commit == pending->commit, "an answer with another commit's number");
    must(outcome->failure_count == pending->failure_count &&
             (pending->failure_count == 0 ||
              memcmp(outcome->failures, pending->failures,
                     pending->failure_count * sizeof pending->failures[0]) == 0),
         "an answer with other failures");
    model_told(&driver->model, pending->before.entry_count, outcome);
    atomic_store(&driver->acknowledged, outcome->commit);
}

void driver_init(struct model_driver *driver, struct sector_arena *arena, uint64_t sector_max,
                 struct model_store *store, uint64_t seed)
{
    const struct geometry geometry = driver_geometry();
    const uint64_t journal_first = journal_zone_offset(&geometry) / SECTOR_SIZE;
    memset(driver, 0, sizeof *driver);
    fixture_init(&driver->fixture, &geometry);
    image_io_init(&driver->disk, sector_max, arena, journal_first,
                  journal_first + geometry.journal_size / SECTOR_SIZE);
    const uint8_t file_id[16] = {2};
    const enum status status =
        forest_format(&driver->disk.io, &geometry, file_id, 0x5eed, NULL, NULL);
    must(status == STATUS_OK, "the disk image is too small");
    driver->fixture.io = &driver->disk.io;
    driver->fixture.cache_size = 1024 * 1024;
    driver->fixture.on_outcome = on_outcome;
    model_init(&driver->model, store);
    prng_init(&driver->prng, seed);
}

void driver_deinit(struct model_driver *driver)
{
    if (driver->fixture.forest != NULL) {
        image_io_kill(&driver->disk);
        fixture_discard(&driver->fixture);
    }
    fixture_deinit(&driver->fixture);
    image_io_deinit(&driver->disk);
}

/* ---- Lives ------------------------------------------------------------------------------------
 */

void driver_save(const struct model_driver *driver, struct driver_state *state)
{
    image_init(&state->image, driver->disk.image.sector_max);
    image_copy(&state->image, &driver->disk.image);
    state->commit = atomic_load(&driver->issued);
    model_branch(&state->model, &driver->model, state->commit);
    state->now_ns = driver->fixture.now_ns;
}

void driver_stop(struct model_driver *driver, const struct image *image, uint64_t now_ns)
{
    image_io_kill(&driver->disk); /* What is still on its way is not done. */
    if (driver->fixture.forest != NULL) {
        forest_reset(driver->fixture.forest);
    }
    driver->pending_count = 0;
    image_io_load(&driver->disk, image);
    driver->fixture.now_ns = now_ns;
}

void driver_load(struct model_driver *driver, const struct driver_state *state)
{
    driver_stop(driver, &state->image, state->now_ns);
    driver->model = state->model;
    atomic_store(&driver->issued, state->commit);
    atomic_store(&driver->acknowledged, state->commit);
}

bool driver_open(struct model_driver *driver)
{
    return driver->fixture.forest == NULL ? fixture_try_open(&driver->fixture, 0, false)
                                          : fixture_try_reopen(&driver->fixture);
}

void driver_recovered(struct model_driver *driver, const struct model *model)
{
    const uint64_t commit = driver->fixture.forest->commit_durable;
    model_branch(&driver->model, model, commit);
    atomic_store(&driver->issued, commit);
    atomic_store(&driver->acknowledged, commit);
}

bool driver_reopen(struct model_driver *driver, enum driver_reopen how)
{
    driver_settle(driver);
    if (how == DRIVER_REOPEN_CLEAN) {
        forest_seal(driver->fixture.forest);
        driver_settle(driver);
    } else {
        image_io_kill(&driver->disk);
        forest_reset(driver->fixture.forest);
        image_io_revive(&driver->disk);
    }
    return fixture_try_reopen(&driver->fixture) &&
           driver->fixture.forest->commit_durable == atomic_load(&driver->issued);
}

/* ---- Requests ----------------------------------------------------------------------------------
 */

static struct driver_pending *pending_add(struct model_driver *driver)
{
    must(driver->pending_count < DRIVER_PENDING_MAX, "too many requests in flight");
    const uint32_t slot = (driver->pending_first + driver->pending_count) % DRIVER_PENDING_MAX;
    driver->pending_count += 1;
    driver->refused = REQUEST_RESULT_OK;
    driver->pending[slot] = (struct driver_pending){
        .commit = atomic_fetch_add(&driver->issued, 1) + 1,
        .before = model_store_mark(driver->model.store),
    };
    return &driver->pending[slot];
}

/* At the door, before it could be queued. */
static void refused_at_door(struct model_driver *driver, enum request_result result)
{
    const struct request_outcome outcome = {.result = result};
    on_outcome(&driver->fixture, &outcome);
}

/* A lane remembers what it did, and what was sent. */
static void remember(struct model_driver *driver, const struct model_request *request,
                     const struct driver_pending *pending)
{
    struct model_store *store = driver->model.store;
    must(store->request_count < store->request_max, "too many requests to remember");
    struct model_lane last = {
        .number = request->number,
        .kind = request->kind,
        .failure_count = pending->failure_count,
        .request = store->request_count,
    };
    memcpy(last.failures, pending->failures, sizeof last.failures);
    store->requests[store->request_count] = *request;
    store->request_count += 1;
    model_lane_set(&driver->model, request->client, request->lane, pending->commit, &last);
}

static void submit(struct model_driver *driver, const struct model_request *request)
{
    static uint8_t body[MODEL_BODY_MAX];
    struct forest_fixture *fixture = &driver->fixture;
    const struct request_session session =
        model_sign(request->client, request->lane, request->number);
    struct driver_pending *pending = pending_add(driver);
    pending->failure_count =
        model_request_apply(request, &driver->model, pending->commit, pending->failures);
    if (request->number != 0) {
        remember(driver, request, pending);
        driver->numbered_count += 1;
        fixture->session = &session;
    }
    fixture->atomic = request->atomic;
    const uint64_t outcomes = fixture->outcome_count;
    const uint32_t pending_count = driver->pending_count;
    fixture_submit(fixture, request->kind, body, model_request_body(request, body));
    fixture->session = NULL;
    /* An outcome that no pending request got is this one's refusal. */
    if (fixture->outcome_count - outcomes > pending_count - driver->pending_count) {
        refused_at_door(driver, fixture->outcome.result);
    }
}

/* A client that has a session; MODEL_CLIENT_MAX: none has. */
static uint32_t choose_client(struct model_driver *driver)
{
    const uint32_t first = (uint32_t)prng_below(&driver->prng, MODEL_CLIENT_MAX);
    for (uint32_t i = 0; i < MODEL_CLIENT_MAX; i++) {
        const uint32_t client = (first + i) % MODEL_CLIENT_MAX;
        if (model_session(&driver->model, client, UINT64_MAX) != NULL) {
            return client;
        }
    }
    return MODEL_CLIENT_MAX;
}

/* Three of four requests go to a lane, if its last one was answered. */
static void choose_lane(struct model_driver *driver, struct model_request *request)
{
    enum { LANE_COUNT = 3 }; /* that are used of the widest session: the first, and its last one */
    const uint32_t client = choose_client(driver);
    if (client == MODEL_CLIENT_MAX || prng_chance(&driver->prng, 1, 4)) {
        return;
    }
    const uint32_t lane_count = model_lane_count(client);
    uint32_t lane = (uint32_t)prng_below(&driver->prng, min_u64(lane_count, LANE_COUNT));
    lane = lane + 1 == LANE_COUNT ? lane_count - 1 : lane;
    const struct model_entry *last = model_lane(&driver->model, client, lane, UINT64_MAX);
    if (last == NULL || last->timestamp != 0) {
        request->client = client;
        request->lane = lane;
        request->number = (last == NULL ? 0 : last->lane.number) + prng_range(&driver->prng, 1, 3);
    }
}

void driver_submit(struct model_driver *driver, uint32_t groove, enum event_type type,
                   const uint32_t *numbers, uint32_t count)
{
    struct model_request request = {.kind = REQUEST_KIND_WRITE, .atomic = driver->atomic};
    model_request_section(&request, &driver->model, groove, type, numbers, count, &driver->prng);
    choose_lane(driver, &request);
    submit(driver, &request);
}

void driver_submit_chains(struct model_driver *driver)
{
    struct model_request request;
    model_request_chains(&request, &driver->model, &driver->prng);
    if (request.section_count > 0) {
        choose_lane(driver, &request);
        submit(driver, &request);
    }
}

void driver_settle(struct model_driver *driver)
{
    fixture_settle(&driver->fixture);
    must(driver->pending_count == 0, "idle, and a request is not answered");
    atomic_store(&driver->acknowledged, atomic_load(&driver->issued));
}

enum request_result driver_write(struct model_driver *driver, uint32_t groove, enum event_type type,
                                 const uint32_t *numbers, uint32_t count)
{
    driver_settle(driver);
    driver_submit(driver, groove, type, numbers, count);
    while (driver->pending_count > 0) {
        const uint64_t seen = doorbell_count(&driver->fixture.doorbell);
        if (!forest_tick(driver->fixture.forest) && driver->pending_count > 0) {
            doorbell_wait(&driver->fixture.doorbell, seen, DOORBELL_WAIT_FOREVER);
        }
    }
    return driver->refused;
}

static void define(struct model_driver *driver, enum request_kind kind, uint32_t groove)
{
    struct model_request request = {.kind = kind, .groove = groove};
    driver_settle(driver);
    choose_lane(driver, &request);
    submit(driver, &request);
    driver_settle(driver);
}

void driver_create(struct model_driver *driver, uint32_t groove)
{
    define(driver, REQUEST_KIND_GROOVE_CREATE, groove);
}

void driver_drop(struct model_driver *driver, uint32_t groove)
{
    define(driver, REQUEST_KIND_GROOVE_DROP, groove);
}

void driver_session(struct model_driver *driver, uint32_t client)
{
    struct model *model = &driver->model;
    struct forest_fixture *fixture = &driver->fixture;
    const struct request_session session = model_sign(client, 0, 0);
    const uint32_t lane_count = model_lane_count(client);
    const uint32_t lane_max = session_lane_count_max(&fixture->geometry);
    const bool there = model_session(model, client, UINT64_MAX) != NULL;
    driver_settle(driver);
    for (uint32_t idlest; !there && (idlest = model_session_to_evict(model, lane_count, lane_max)) <
                                        MODEL_CLIENT_MAX;) {
        /* By a commit of the forest's own, that nobody is told of. */
        const uint64_t commit = atomic_fetch_add(&driver->issued, 1) + 1;
        model_session_set(model, idlest, commit, false);
        driver->evicted_count += 1;
    }
    const struct driver_pending *pending = pending_add(driver);
    model_session_set(model, client, pending->commit, !there);
    const enum request_result result = there
                                           ? fixture_session_close(fixture, &session)
                                           : fixture_session_open(fixture, &session, lane_count, 1);
    must(result == REQUEST_RESULT_OK, "a session was refused");
    driver_settle(driver);
}

/* The numbered request of `model` that comes first behind `commit`; NULL: there is none. */
static const struct model_entry *request_behind(const struct model *model, uint64_t commit,
                                                uint64_t commit_max)
{
    const struct model_entry *first = NULL;
    for (uint32_t client = 0; client < MODEL_CLIENT_MAX; client++) {
        for (uint32_t lane = 0; lane < model_lane_count(client); lane++) {
            const struct model_entry *last =
                model_at(model, model->lane_heads[client][lane], commit_max);
            while (last != NULL && last->commit > commit) {
                if (first == NULL || last->commit < first->commit) {
                    first = last;
                }
                last = model_at(model, last->before, commit_max);
            }
        }
    }
    return first;
}

uint32_t driver_retry(struct model_driver *driver, const struct model *model, uint64_t commit)
{
    uint32_t count = 0;
    uint64_t done = atomic_load(&driver->issued);
    const struct model_entry *lost;
    while ((lost = request_behind(model, done, commit)) != NULL) {
        const struct model_request *request = &model->store->requests[lost->lane.request];
        done = lost->commit;
        /* Of a session that was opened since, there is nothing to be sent again. */
        if (model_session(model, request->client, done) !=
                model_session(&driver->model, request->client, UINT64_MAX) ||
            !model_request_fits(request, &driver->model)) {
            continue;
        }
        const struct request_session session =
            model_sign(request->client, request->lane, request->number);
        struct session_answer answer;
        must(forest_session_look(driver->fixture.forest, &session, &answer) == SESSION_NEW,
             "a request that was lost is not new to its lane");
        submit(driver, request);
        driver_settle(driver);
        must(forest_session_look(driver->fixture.forest, &session, &answer) == SESSION_DONE,
             "what was sent again is still not done");
        count += 1;
    }
    return count;
}

/* An idle request such as the daemon makes: a commit that nobody is told of. */
static void idle(struct model_driver *driver, uint64_t beats)
{
    struct forest *forest = driver->fixture.forest;
    driver_settle(driver);
    enum request_result result;
    atomic_fetch_add(&driver->issued, 1);
    const enum batch_admission admission =
        batch_add(forest->gathering, &forest->catalog, REQUEST_KIND_IDLE, false,
                  (const uint8_t *)&beats, sizeof beats, NULL, true, &result);
    must(admission == BATCH_ADDED, "an idle request was refused");
    driver_settle(driver);
}

void driver_checkpoint(struct model_driver *driver, bool join)
{
    const struct forest *forest = driver->fixture.forest;
    driver_settle(driver);
    idle(driver, forest->geometry.bar_beats - forest->beat);
    if (join) {
        idle(driver, forest->geometry.bar_beats / 2);
    }
}

void driver_pay_debt(struct model_driver *driver)
{
    driver_settle(driver);
    while (forest_pay_debt(driver->fixture.forest)) {
        atomic_fetch_add(&driver->issued, 1);
        driver_settle(driver);
    }
}
