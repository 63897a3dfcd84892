#include "tests/harness/model_driver.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "pool/base.h"

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
        model_undo(&driver->model, pending->entry_first);
        atomic_fetch_sub(&driver->issued, 1);
        return;
    }
    must(outcome->commit == pending->commit, "an answer with another commit's number");
    must(outcome->failure_count == pending->failure_count, "an answer with other failures");
    model_times(&driver->model, pending->entry_first, outcome->commit, outcome->timestamp);
    if (pending->creates) {
        driver->model.store->entries[pending->entry_first].groove_id = outcome->groove_id;
    }
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

void driver_save(const struct model_driver *driver, struct driver_state *state)
{
    image_init(&state->image, driver->disk.image.sector_max);
    image_copy(&state->image, &driver->disk.image);
    state->commit = atomic_load(&driver->issued);
    model_branch(&state->model, &driver->model, state->commit);
    state->now_ns = driver->fixture.now_ns;
}

void driver_state_deinit(struct driver_state *state)
{
    image_deinit(&state->image);
}

void driver_load(struct model_driver *driver, const struct driver_state *state)
{
    must(driver->pending_count == 0, "requests are in flight");
    image_io_load(&driver->disk, &state->image);
    driver->model = state->model;
    atomic_store(&driver->issued, state->commit);
    atomic_store(&driver->acknowledged, state->commit);
    driver->fixture.now_ns = state->now_ns;
}

static struct driver_pending *pending_add(struct model_driver *driver)
{
    must(driver->pending_count < DRIVER_PENDING_MAX, "too many requests in flight");
    const uint32_t slot = (driver->pending_first + driver->pending_count) % DRIVER_PENDING_MAX;
    driver->pending_count += 1;
    driver->refused = REQUEST_RESULT_OK;
    driver->pending[slot] = (struct driver_pending){
        .commit = atomic_fetch_add(&driver->issued, 1) + 1,
        .entry_first = driver->model.store->entry_count,
    };
    return &driver->pending[slot];
}

/* At the door, before it could be queued. */
static void refused_at_door(struct model_driver *driver, enum request_result result)
{
    const struct request_outcome outcome = {.result = result};
    on_outcome(&driver->fixture, &outcome);
}

static void submit(struct model_driver *driver, enum request_kind kind, const void *body,
                   uint32_t size)
{
    struct forest_fixture *fixture = &driver->fixture;
    const uint64_t outcomes = fixture->outcome_count;
    const uint32_t pending_count = driver->pending_count;
    fixture_submit(fixture, kind, body, size);
    /* An outcome that no pending request got is this one's refusal. */
    if (fixture->outcome_count - outcomes > pending_count - driver->pending_count) {
        refused_at_door(driver, fixture->outcome.result);
    }
}

void driver_submit(struct model_driver *driver, uint32_t groove, enum event_type type,
                   const uint32_t *numbers, uint32_t count)
{
    static uint8_t body[16 * 1024];
    struct driver_pending *pending = pending_add(driver);
    const struct event_section section = {
        .groove_id = model_groove(&driver->model, groove, UINT64_MAX)->groove_id,
        .event_type = (uint8_t)type,
        .event_count = count,
    };
    const uint32_t size = type == EVENT_TYPE_REMOVE ? 16 : model_object_size(groove);
    bool undone = false;
    memcpy(body, &section, sizeof section);
    for (uint32_t i = 0; i < count; i++) {
        struct model_fields fields;
        model_fields_random(&fields, &driver->prng);
        uint8_t image[MODEL_OBJECT_SIZE_MAX];
        model_image(image, groove, numbers[i], &fields, 0, 0);
        memcpy(body + sizeof section + (size_t)i * size, image, size);
        const bool failed = undone || model_event(&driver->model, groove, numbers[i], type, &fields,
                                                  pending->commit, i) != EVENT_RESULT_OK;
        pending->failure_count += failed;
        if (failed && driver->atomic && !undone) { /* And with it all before and behind it. */
            model_undo(&driver->model, pending->entry_first);
            pending->failure_count = i + 1;
            undone = true;
        }
    }
    driver->fixture.atomic = driver->atomic;
    submit(driver, REQUEST_KIND_WRITE, body, (uint32_t)sizeof section + count * size);
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

void driver_create(struct model_driver *driver, uint32_t groove)
{
    struct groove_spec spec;
    model_spec(&spec, groove);
    driver_settle(driver);
    struct driver_pending *pending = pending_add(driver);
    pending->creates = true;
    model_groove_set(&driver->model, groove, pending->commit, true);
    submit(driver, REQUEST_KIND_GROOVE_CREATE, &spec, sizeof spec);
    driver_settle(driver);
}

void driver_drop(struct model_driver *driver, uint32_t groove)
{
    struct groove_spec spec;
    model_spec(&spec, groove);
    driver_settle(driver);
    struct driver_pending *pending = pending_add(driver);
    model_groove_set(&driver->model, groove, pending->commit, false);
    submit(driver, REQUEST_KIND_GROOVE_DROP, spec.name, NAME_SIZE);
    driver_settle(driver);
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

bool driver_reopen(struct model_driver *driver, enum driver_reopen how)
{
    driver_settle(driver);
    if (how == DRIVER_REOPEN_CLEAN) {
        forest_seal(driver->fixture.forest);
        driver_settle(driver);
    } else {
        image_io_kill(&driver->disk); /* What is still on its way is not done. */
        forest_reset(driver->fixture.forest);
        image_io_revive(&driver->disk);
    }
    return fixture_try_reopen(&driver->fixture) &&
           driver->fixture.forest->commit_durable == atomic_load(&driver->issued);
}
