#include "tests/harness/forest_fixture.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "pool/base.h"

static_assert(sizeof(struct fixture_object) == FIXTURE_OBJECT_SIZE, "as the spec lays it out");

static uint64_t clock_read(void *context)
{
    uint64_t *now = context;
    return *now;
}

void fixture_init(struct forest_fixture *fixture, const struct geometry *geometry)
{
    memset(fixture, 0, sizeof *fixture);
    fixture->geometry = *geometry;
    fixture->now_ns = 1000;
    fixture->clock = (struct clock){clock_read, clock_read, &fixture->now_ns};
    sim_io_init(&fixture->sim, FIXTURE_SIZE_LIMIT);
    fixture->io = &fixture->sim.io;
    fixture->cache_size = 4 * 1024 * 1024;
    doorbell_init(&fixture->doorbell);
    const uint8_t file_id[16] = {1};
    const enum status status =
        forest_format(&fixture->sim.io, geometry, file_id, 0x5eed, NULL, NULL);
    assert(status == STATUS_OK);
}

void fixture_deinit(struct forest_fixture *fixture)
{
    assert(fixture->forest == NULL);
    doorbell_deinit(&fixture->doorbell);
    sim_io_deinit(&fixture->sim);
}

static void on_committed(void *context, const struct request_outcome *outcome)
{
    struct forest_fixture *fixture = context;
    fixture->outcome = *outcome;
    assert(outcome->failure_count <= array_count(fixture->failures));
    if (outcome->failure_count > 0) {
        memcpy(fixture->failures, outcome->failures,
               outcome->failure_count * sizeof *outcome->failures);
    }
    fixture->outcome.failures = fixture->failures;
    fixture->outcome_count += 1;
    if (fixture->on_outcome != NULL) {
        fixture->on_outcome(fixture, outcome);
    }
}

static void on_open(void *context, enum status status, const struct forest_open_report *report,
                    const char *reason)
{
    struct forest_fixture *fixture = context;
    fixture->opened = true;
    fixture->open_status = status;
    fixture->open_report = *report;
    snprintf(fixture->open_reason, sizeof fixture->open_reason, "%s", reason == NULL ? "" : reason);
}

static void start(struct workers *workers, const char *name, uint32_t threads, uint32_t capacity)
{
    const enum status status = workers_start(workers, name, threads, capacity);
    assert(status == STATUS_OK);
}

static void join_teams(struct forest_fixture *fixture)
{
    workers_join(&fixture->compactors);
    workers_join(&fixture->journal_worker);
    workers_join(&fixture->growth_worker);
    workers_join(&fixture->readers);
}

static void note_checkpoint(struct forest_fixture *fixture)
{
    if (fixture->on_checkpoint == NULL) {
        return;
    }
    struct forest_stats stats;
    forest_stats(fixture->forest, &stats);
    if (stats.checkpoint_op != fixture->checkpoint_op_seen) {
        fixture->checkpoint_op_seen = stats.checkpoint_op;
        fixture->on_checkpoint(fixture, stats.checkpoint_op, &stats.checkpoint_id);
    }
}

static void open_and_wait(struct forest_fixture *fixture)
{
    fixture->opened = false;
    forest_open(fixture->forest, on_open, fixture);
    while (!fixture->opened) {
        const uint64_t seen = doorbell_count(&fixture->doorbell);
        if (!forest_tick(fixture->forest) && !fixture->opened) {
            doorbell_wait(&fixture->doorbell, seen, DOORBELL_WAIT_FOREVER);
        }
        note_checkpoint(fixture); /* Replay makes checkpoints, too. */
    }
}

bool fixture_try_open(struct forest_fixture *fixture, uint32_t worker_count, bool threads)
{
    assert(fixture->forest == NULL);
    enum { READ_SLOTS = 2 };
    const uint32_t capacity = forest_queue_capacity(&fixture->geometry, READ_SLOTS);
    start(&fixture->compactors, "worker", worker_count, capacity);
    start(&fixture->journal_worker, "journal", threads, capacity);
    start(&fixture->growth_worker, "growth", threads, capacity);
    start(&fixture->readers, "reader", threads ? 2 : 0, capacity);
    sim_io_open_again(&fixture->sim, &fixture->journal_opening);
    const struct forest_options options = {
        .io = fixture->io,
        .journal_io = fixture->io == &fixture->sim.io ? &fixture->journal_opening.io : fixture->io,
        .clock = &fixture->clock,
        .doorbell = &fixture->doorbell,
        .compactors = &fixture->compactors,
        .journal_worker = &fixture->journal_worker,
        .growth_worker = &fixture->growth_worker,
        .readers = &fixture->readers,
        .cache_size = fixture->cache_size,
        .read_slot_count = READ_SLOTS,
        .read_budget_size = fixture->read_budget_size,
        .journal_wait_ns_max = fixture->journal_wait_ns_max,
        .on_committed = on_committed,
    };
    fixture->checkpoint_op_seen = 0;
    fixture->forest = forest_init(&options, &fixture->open_status, fixture->open_reason,
                                  sizeof fixture->open_reason);
    if (fixture->forest == NULL) {
        join_teams(fixture);
        return false;
    }
    open_and_wait(fixture);
    if (fixture->open_status != STATUS_OK) {
        fixture_discard(fixture);
        return false;
    }
    return true;
}

bool fixture_try_reopen(struct forest_fixture *fixture)
{
    struct forest *forest = fixture->forest;
    assert(forest->options.io == fixture->io);
    forest_reset(forest);
    /* What forest_init does with the file, and forest_reset need not do again. */
    struct superblock_open_report report;
    fixture->open_status =
        superblock_open(fixture->io, forest->superblock_buffer, true, &forest->superblock, &report);
    if (fixture->open_status != STATUS_OK) {
        snprintf(fixture->open_reason, sizeof fixture->open_reason, "superblock: %s",
                 report.problem != NULL ? report.problem : status_text(fixture->open_status));
        return false;
    }
    assert(memcmp(&forest->geometry, &forest->superblock.geometry, sizeof forest->geometry) == 0);
    forest->report.copies_repaired = report.copies_repaired;
    const uint64_t cache_block_count = fixture->cache_size / forest->geometry.block_size;
    grid_deinit(&forest->grid);
    const enum status status =
        grid_init(&forest->grid, fixture->io, &forest->geometry, (uint32_t)cache_block_count,
                  &fixture->growth_worker, &fixture->doorbell);
    assert(status == STATUS_OK);
    /* The journal's secret was read anew. */
    journal_init(&forest->journal, fixture->io, &forest->geometry, forest->superblock.journal_seed,
                 &fixture->journal_worker, &fixture->doorbell, forest->options.clock);
    fixture->checkpoint_op_seen = 0;
    open_and_wait(fixture);
    return fixture->open_status == STATUS_OK;
}

void fixture_open(struct forest_fixture *fixture, uint32_t worker_count, bool threads)
{
    const bool opened = fixture_try_open(fixture, worker_count, threads);
    if (!opened) {
        fprintf(stderr, "open: %s: %s\n", status_text(fixture->open_status), fixture->open_reason);
        abort();
    }
}

void fixture_tick(struct forest_fixture *fixture)
{
    while (forest_tick(fixture->forest)) {
        note_checkpoint(fixture);
    }
}

void fixture_settle(struct forest_fixture *fixture)
{
    for (;;) {
        const uint64_t seen = doorbell_count(&fixture->doorbell);
        fixture_tick(fixture);
        if (forest_is_idle(fixture->forest)) {
            return;
        }
        doorbell_wait(&fixture->doorbell, seen, DOORBELL_WAIT_FOREVER);
    }
}

void fixture_pay_debt(struct forest_fixture *fixture)
{
    fixture_settle(fixture);
    while (forest_pay_debt(fixture->forest)) {
        fixture_settle(fixture);
    }
}

void fixture_discard(struct forest_fixture *fixture)
{
    forest_deinit(fixture->forest);
    fixture->forest = NULL;
    join_teams(fixture);
}

void fixture_close(struct forest_fixture *fixture)
{
    fixture_settle(fixture);
    forest_seal(fixture->forest);
    fixture_settle(fixture);
    fixture_discard(fixture);
}

void fixture_crash(struct forest_fixture *fixture, uint64_t seed)
{
    sim_io_lose_power(&fixture->sim, 1);
    fixture_discard(fixture);
    sim_io_crash(&fixture->sim, seed);
}

void fixture_submit(struct forest_fixture *fixture, enum request_kind kind, const void *body,
                    uint32_t size)
{
    fixture->now_ns += 1000;
    for (;;) {
        const uint64_t seen = doorbell_count(&fixture->doorbell);
        enum request_result result;
        const char *reason;
        const enum forest_admission admission =
            forest_batch_add(fixture->forest, kind, fixture->atomic && kind == REQUEST_KIND_WRITE,
                             body, size, fixture->session, fixture, &result, &reason);
        if (admission == FOREST_REFUSED) {
            fixture->outcome = (struct request_outcome){.result = result};
            fixture->outcome_count += 1;
            return;
        }
        if (admission == FOREST_ADDED) {
            return;
        }
        if (!forest_tick(fixture->forest)) {
            doorbell_wait(&fixture->doorbell, seen, DOORBELL_WAIT_FOREVER);
        }
        note_checkpoint(fixture);
    }
}

static enum request_result wait_for_outcome(struct forest_fixture *fixture, uint64_t before)
{
    while (fixture->outcome_count == before) {
        const uint64_t seen = doorbell_count(&fixture->doorbell);
        if (!forest_tick(fixture->forest) && fixture->outcome_count == before) {
            doorbell_wait(&fixture->doorbell, seen, DOORBELL_WAIT_FOREVER);
        }
        note_checkpoint(fixture);
    }
    return fixture->outcome.result;
}

enum request_result fixture_request(struct forest_fixture *fixture, enum request_kind kind,
                                    const void *body, uint32_t size)
{
    const uint64_t before = fixture->outcome_count;
    fixture_submit(fixture, kind, body, size);
    return wait_for_outcome(fixture, before);
}

enum request_result fixture_session_open(struct forest_fixture *fixture,
                                         const struct request_session *session, uint32_t lane_count,
                                         uint64_t idle_ns)
{
    fixture->now_ns += 1000;
    const uint64_t before = fixture->outcome_count;
    for (;;) {
        const uint64_t seen = doorbell_count(&fixture->doorbell);
        enum request_result result = REQUEST_RESULT_OK;
        const char *reason;
        switch (forest_session_open(fixture->forest, session, lane_count, idle_ns, fixture, &result,
                                    &reason)) {
        case FOREST_REFUSED:
            return result;
        case FOREST_ADDED:
            return wait_for_outcome(fixture, before);
        case FOREST_LATER:
            break;
        }
        if (!forest_tick(fixture->forest)) {
            doorbell_wait(&fixture->doorbell, seen, DOORBELL_WAIT_FOREVER);
        }
        note_checkpoint(fixture);
    }
}

enum request_result fixture_session_close(struct forest_fixture *fixture,
                                          const struct request_session *session)
{
    fixture_settle(fixture);
    enum session_verdict verdict;
    enum request_result result;
    const uint64_t before = fixture->outcome_count;
    const enum forest_admission admission =
        forest_session_close(fixture->forest, session, fixture, &verdict, &result);
    assert(admission == FOREST_ADDED);
    (void)admission;
    return wait_for_outcome(fixture, before);
}

static void set_field(struct groove_spec *spec, const char *name, enum field_type type,
                      uint32_t size)
{
    struct field_spec *field = &spec->fields[spec->field_count];
    strncpy(field->name, name, NAME_SIZE - 1);
    field->type = (uint8_t)type;
    field->size = size;
    spec->field_count += 1;
}

void fixture_spec(struct groove_spec *spec, const char *name)
{
    memset(spec, 0, sizeof *spec);
    strncpy(spec->name, name, NAME_SIZE - 1);
    set_field(spec, "a", FIELD_TYPE_U64, 8);
    set_field(spec, "b", FIELD_TYPE_U32, 4);
    set_field(spec, "c", FIELD_TYPE_U32, 4);
    set_field(spec, "note", FIELD_TYPE_TEXT, 16);
    const struct index_spec indexes[] = {
        {.name = "by_a", .field_count = 1, .fields = {0}},
        {.name = "by_bc", .field_count = 2, .fields = {1, 2}},
        {.name = "by_note", .field_count = 1, .flags = INDEX_FLAG_SPARSE, .fields = {3}},
    };
    memcpy(spec->indexes, indexes, sizeof indexes);
    spec->index_count = array_count(indexes);
}

void fixture_create(struct forest_fixture *fixture)
{
    struct groove_spec spec;
    fixture_spec(&spec, "things");
    const enum request_result result =
        fixture_request(fixture, REQUEST_KIND_GROOVE_CREATE, &spec, sizeof spec);
    assert(result == REQUEST_RESULT_OK);
    fixture->groove_id = fixture->outcome.groove_id;
}

bool fixture_find(struct forest_fixture *fixture)
{
    struct forest_groove_info grooves[8];
    const uint32_t count = forest_grooves(fixture->forest, grooves, array_count(grooves));
    for (uint32_t i = 0; i < count; i++) {
        if (!grooves[i].dropping && strcmp(grooves[i].schema->spec.name, "things") == 0) {
            fixture->groove_id = grooves[i].groove_id;
            return true;
        }
    }
    return false;
}

void fixture_id(uint8_t id[16], uint64_t number)
{
    struct prng prng;
    prng_init(&prng, number);
    prng_fill(&prng, id, 16);
}

uint32_t fixture_body(uint8_t *body, uint32_t groove_id, enum event_type type,
                      const struct fixture_object *objects, uint32_t count)
{
    const struct event_section section = {
        .groove_id = groove_id,
        .event_type = (uint8_t)type,
        .event_count = count,
    };
    memcpy(body, &section, sizeof section);
    const uint32_t size = type == EVENT_TYPE_REMOVE ? 16 : FIXTURE_OBJECT_SIZE;
    for (uint32_t i = 0; i < count; i++) {
        memcpy(body + sizeof section + (size_t)i * size, &objects[i], size);
    }
    return (uint32_t)sizeof section + count * size;
}

/* ---- Reads -------------------------------------------------------------------------------------
 */

struct read_wait {
    _Atomic bool done;
    struct doorbell *doorbell;
};

static void read_done(struct read_request *request)
{
    struct read_wait *wait = request->context;
    struct doorbell *doorbell = wait->doorbell;
    atomic_store(&wait->done, true);
    doorbell_ring(doorbell);
}

struct read_request *fixture_read(struct forest_fixture *fixture, enum read_kind kind,
                                  uint32_t groove_id, uint32_t index, const void *input,
                                  uint32_t input_size)
{
    struct read_request *request = forest_read_acquire(fixture->forest);
    assert(request != NULL);
    request->kind = kind;
    request->groove_id = groove_id;
    request->index = index;
    request->limit = 0;
    request->input = input;
    request->input_size = input_size;
    request->done = read_done;
    struct read_wait wait = {.doorbell = &fixture->doorbell};
    request->context = &wait;
    forest_read_submit(fixture->forest, request);
    while (!atomic_load(&wait.done)) {
        const uint64_t seen = doorbell_count(&fixture->doorbell);
        if (!workers_run_one(&fixture->readers) && !atomic_load(&wait.done)) {
            doorbell_wait(&fixture->doorbell, seen, DOORBELL_WAIT_FOREVER);
        }
    }
    return request;
}

static struct read_request *read_things(struct forest_fixture *fixture, enum read_kind kind,
                                        uint32_t index, const void *input, uint32_t input_size)
{
    struct read_request *request =
        fixture_read(fixture, kind, fixture->groove_id, index, input, input_size);
    if (request->result != REQUEST_RESULT_OK) {
        fprintf(stderr, "read: result %d\n", (int)request->result);
        abort();
    }
    return request;
}

uint64_t fixture_count(struct forest_fixture *fixture, uint32_t index, const void *values,
                       uint32_t values_size)
{
    struct read_request *request =
        read_things(fixture, READ_KIND_COUNT, index, values, values_size);
    const uint64_t count = request->count;
    forest_read_release(fixture->forest, request);
    return count;
}

static uint32_t read_objects(struct forest_fixture *fixture, struct read_request *request,
                             struct fixture_object *objects, uint32_t max)
{
    assert(request->count <= max);
    assert(request->count == 0 || request->object_size == FIXTURE_OBJECT_SIZE);
    const uint32_t count = (uint32_t)request->count;
    memcpy(objects, request->reply, count * sizeof *objects);
    forest_read_release(fixture->forest, request);
    return count;
}

uint32_t fixture_lookup(struct forest_fixture *fixture, const uint8_t *ids, uint32_t id_count,
                        struct fixture_object *objects, uint32_t max)
{
    return read_objects(fixture,
                        read_things(fixture, READ_KIND_LOOKUP, READ_INDEX_NONE, ids, id_count * 16),
                        objects, max);
}

uint32_t fixture_query(struct forest_fixture *fixture, uint32_t index, const void *values,
                       uint32_t values_size, struct fixture_object *objects, uint32_t max)
{
    return read_objects(fixture, read_things(fixture, READ_KIND_QUERY, index, values, values_size),
                        objects, max);
}
