/* Goal: no read holds the writer up, and none is lost for it: its version is taken back when the
 * writer needs the memory, and it starts again, a bounded number of times and for a bounded amount
 * of work. Method: a disk that does not answer a reader while the writer goes on, in memory as
 * tight as the writer alone needs. */
#include "tests/harness/forest_fixture.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <sched.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "pool/base.h"

static struct forest_fixture fixture;
static uint64_t object_count;

TestSuite(forest_reads, .timeout = 120);

enum { BATCH = 60, BALLAST_MAX = 4096 };

static enum request_result insert_into(uint32_t groove_id)
{
    static uint8_t body[16 * 1024];
    static struct fixture_object objects[BATCH];
    for (uint32_t i = 0; i < BATCH; i++) {
        objects[i] = (struct fixture_object){.a = 1, .b = i};
        fixture_id(objects[i].id, object_count + i + 1);
    }
    const uint32_t size = fixture_body(body, groove_id, EVENT_TYPE_INSERT, objects, BATCH);
    const enum request_result result = fixture_request(&fixture, REQUEST_KIND_WRITE, body, size);
    object_count += result == REQUEST_RESULT_OK ? BATCH : 0;
    return result;
}

static void insert_bars(uint32_t bars)
{
    const uint64_t op = fixture.forest->op + (uint64_t)bars * fixture.geometry.bar_beats;
    while (fixture.forest->op < op) {
        cr_assert(eq(int, insert_into(fixture.groove_id), REQUEST_RESULT_OK));
    }
    fixture_settle(&fixture);
}

static struct forest_stats stats(void)
{
    struct forest_stats stats;
    forest_stats(fixture.forest, &stats);
    return stats;
}

/* What the writer alone does not need of the arena, taken away: the most that it used so far, what
 * a commit asks to be free (forest_commit.c, batch_room), and a little. */
static struct run *ballast[BALLAST_MAX];
static uint32_t ballast_count;

static void take_ballast(void)
{
    const uint64_t asked = 3 * (3 * GROOVE_TREE_COUNT_MAX + 3) + 8;
    const uint64_t keep = stats().memory_segments - stats().memory_segments_min + asked;
    const struct tree *tree = &fixture.forest->trees[0];
    static const uint8_t value[OBJECT_SIZE_MAX] = {1};
    while (fixture.forest->arena.segment_count - ballast_count * 2ull > keep) {
        cr_assert(ballast_count < BALLAST_MAX);
        ballast[ballast_count] = run_build(&fixture.forest->arena, &tree->shape, value, 1);
        ballast_count += 1;
    }
}

static void give_ballast(void)
{
    while (ballast_count > 0) {
        ballast_count -= 1;
        run_release(&fixture.forest->arena, ballast[ballast_count]);
    }
}

static _Atomic bool count_done;

static void on_count_done(struct read_request *request)
{
    (void)request;
    atomic_store(&count_done, true);
}

/* Counts everything, by index. */
static struct read_request *count_submit(void)
{
    static const uint64_t a = 1;
    struct read_request *request = forest_read_acquire(fixture.forest);
    request->kind = READ_KIND_COUNT;
    request->groove_id = fixture.groove_id;
    request->index = 0;
    request->limit = 0;
    request->input = (const uint8_t *)&a;
    request->input_size = sizeof a;
    request->done = on_count_done;
    atomic_store(&count_done, false);
    forest_read_submit(fixture.forest, request);
    return request;
}

static void wait_until_held(void)
{
    while (!sim_io_holds(&fixture.sim)) {
        cr_assert(not(atomic_load(&count_done)));
        sched_yield();
    }
}

static void wait_until_done(void)
{
    while (!atomic_load(&count_done)) {
        sched_yield();
    }
}

/* A forest with some tables, whose memory is as tight as the writer alone needs. */
static void setup_tight(void)
{
    struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    fixture_open(&fixture, 0, true);
    fixture_create(&fixture);
    insert_bars(8);
    take_ballast();
    insert_bars(2);
    cr_assert(eq(u64, stats().versions_revoked_total, 0));
}

static void end(void)
{
    give_ballast();
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

Test(forest_reads, a_reader_stopped_in_its_disk_holds_nothing_up)
{
    setup_tight();
    sim_io_hold_read(&fixture.sim, 3, "holt-reader");
    struct read_request *request = count_submit();
    wait_until_held();
    insert_bars(8);
    cr_assert(eq(u64, stats().versions_revoked_total, 1));
    cr_assert(not(atomic_load(&count_done)));
    sim_io_let_go(&fixture.sim);
    wait_until_done();
    cr_assert(eq(int, request->result, REQUEST_RESULT_OK));
    cr_assert(eq(u64, request->count, object_count));
    cr_assert(eq(u64, request->commit, fixture.forest->commit_durable));
    forest_read_release(fixture.forest, request);
    cr_assert(eq(u64, stats().reads_restarted_total, 1));
    cr_assert(eq(u64, stats().reads_overtaken_total, 0));
    end();
}

Test(forest_reads, a_read_that_is_overtaken_again_and_again_is_given_up)
{
    setup_tight();
    sim_io_hold_read(&fixture.sim, 3, "holt-reader");
    struct read_request *request = count_submit();
    for (uint64_t i = 0; i <= READ_RESTART_MAX; i++) {
        wait_until_held();
        while (stats().versions_revoked_total == i) {
            cr_assert(eq(int, insert_into(fixture.groove_id), REQUEST_RESULT_OK));
        }
        fixture_settle(&fixture);
        cr_assert(eq(u64, stats().reads_restarted_total, i));
        sim_io_hold_read(&fixture.sim, i < READ_RESTART_MAX ? 1 : 0, "holt-reader");
        sim_io_let_go(&fixture.sim);
    }
    wait_until_done();
    cr_assert(eq(int, request->result, REQUEST_RESULT_OVERTAKEN));
    cr_assert(eq(u64, request->count, 0));
    cr_assert(eq(u32, request->reply_size, 0));
    forest_read_release(fixture.forest, request);
    cr_assert(eq(u64, stats().reads_restarted_total, READ_RESTART_MAX));
    cr_assert(eq(u64, stats().reads_overtaken_total, 1));
    end();
}

/* Its processor, not its disk: it is asked, and answers. */
Test(forest_reads, a_reader_at_work_gives_way)
{
    setup_tight();
    struct version_hold hold = {0};
    version_hold_published(&fixture.forest->versions, &hold, 0);
    while (stats().versions_revoked_total == 0) {
        static uint8_t body[16 * 1024];
        static struct fixture_object objects[BATCH];
        for (uint32_t i = 0; i < BATCH; i++) {
            objects[i] = (struct fixture_object){.a = 2};
            fixture_id(objects[i].id, ++object_count);
        }
        const uint32_t size =
            fixture_body(body, fixture.groove_id, EVENT_TYPE_INSERT, objects, BATCH);
        const uint64_t before = fixture.outcome_count;
        fixture_submit(&fixture, REQUEST_KIND_WRITE, body, size);
        while (fixture.outcome_count == before && stats().versions_revoked_total == 0) {
            fixture_tick(&fixture);
        }
    }
    cr_assert(eq(int, read_ticket_spend(&hold.ticket, 0), STATUS_REVOKED));
    cr_assert(not(read_ticket_leave(&hold.ticket)));
    const uint64_t outcomes = fixture.outcome_count;
    fixture_tick(&fixture);
    cr_assert(eq(u64, fixture.outcome_count, outcomes)); /* It waits for that reader. */
    version_hold_release(&fixture.forest->versions, &hold);
    fixture_settle(&fixture);
    cr_assert(gt(u64, fixture.outcome_count, outcomes));
    end();
}

/* Bars of objects for reads that take several turns; readers are run by the tick. */
static void setup_long(void)
{
    const struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    insert_bars(14);
}

static void end_long(void)
{
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

static bool short_done;

static void on_short_done(struct read_request *request)
{
    (void)request;
    short_done = true;
}

static struct read_request *short_submit(void)
{
    struct read_request *request = forest_read_acquire(fixture.forest);
    request->kind = READ_KIND_COUNT;
    request->groove_id = fixture.groove_id;
    request->index = READ_INDEX_NONE;
    request->input_size = 0;
    request->done = on_short_done;
    short_done = false;
    forest_read_submit(fixture.forest, request);
    return request;
}

Test(forest_reads, a_long_read_gives_way_to_others)
{
    setup_long();
    struct read_request *request = count_submit();
    for (uint64_t turn = 1; turn <= 2; turn++) {
        struct read_request *other = short_submit();
        (void)forest_tick(fixture.forest);
        cr_assert(not(short_done));
        (void)forest_tick(fixture.forest);
        cr_assert(short_done);
        cr_assert(not(atomic_load(&count_done)));
        cr_assert(eq(u64, stats().reads_gave_way_total, turn));
        forest_read_release(fixture.forest, other);
    }
    (void)forest_tick(fixture.forest); /* Nobody waits: it goes on to its end. */
    cr_assert(atomic_load(&count_done));
    cr_assert(eq(int, request->result, REQUEST_RESULT_OK));
    cr_assert(eq(u64, request->count, object_count));
    cr_assert(eq(u64, stats().reads_restarted_total, 0));
    forest_read_release(fixture.forest, request);
    end_long();
}

/* Its version is the writer's to take, as that of a reader that waits for its disk. */
Test(forest_reads, a_read_that_gave_way_loses_its_version_to_the_writer)
{
    setup_long();
    struct read_request *request = count_submit();
    struct read_request *other = short_submit();
    (void)forest_tick(fixture.forest);
    cr_assert(not(atomic_load(&count_done)));
    const uint64_t commit = request->commit;
    static uint8_t body[16 * 1024];
    struct fixture_object object = {.a = 1};
    fixture_id(object.id, ++object_count);
    const uint64_t outcomes = fixture.outcome_count;
    const uint32_t size = fixture_body(body, fixture.groove_id, EVENT_TYPE_INSERT, &object, 1);
    fixture_submit(&fixture, REQUEST_KIND_WRITE, body, size);
    while (fixture.outcome_count == outcomes) {
        (void)forest_tick(fixture.forest);
        cr_assert(not(atomic_load(&count_done)));
        if (short_done) { /* Another one, so that it gives way again. */
            forest_read_release(fixture.forest, other);
            other = short_submit();
        }
    }
    cr_assert(version_revoke_oldest(&fixture.forest->versions));
    while (!atomic_load(&count_done)) {
        (void)forest_tick(fixture.forest);
    }
    cr_assert(eq(int, request->result, REQUEST_RESULT_OK));
    cr_assert(eq(u64, request->count, object_count));
    cr_assert(gt(u64, request->commit, commit));
    cr_assert(eq(u64, stats().reads_restarted_total, 1));
    forest_read_release(fixture.forest, request);
    forest_read_release(fixture.forest, other);
    end_long();
}

/* However many reads wait for a reader, a write waits for no more than the turn that runs. */
Test(forest_reads, a_write_does_not_wait_for_reads)
{
    setup_long();
    fixture_close(&fixture); /* What a reader must find for a write is not in memory. */
    fixture_open(&fixture, 0, false);
    struct read_request *requests[2];
    for (uint32_t i = 0; i < array_count(requests); i++) {
        requests[i] = count_submit();
    }
    static uint8_t body[16 * 1024];
    static struct fixture_object objects[BATCH];
    for (uint32_t i = 0; i < BATCH; i++) {
        objects[i] = (struct fixture_object){.a = 1};
        fixture_id(objects[i].id, 1 + i * (object_count / BATCH));
    }
    const uint64_t outcomes = fixture.outcome_count;
    const uint32_t size = fixture_body(body, fixture.groove_id, EVENT_TYPE_UPDATE, objects, BATCH);
    fixture_submit(&fixture, REQUEST_KIND_WRITE, body, size);
    while (fixture.forest->stage != BATCH_STAGE_PREFETCHING) {
        (void)forest_tick(fixture.forest);
        cr_assert(eq(u64, fixture.outcome_count, outcomes)); /* Nothing left for a reader? */
    }
    cr_assert(workers_are_wanted(&fixture.readers));
    const uint64_t gave_way = stats().reads_gave_way_total;
    (void)forest_tick(fixture.forest);
    cr_assert(eq(u64, stats().reads_gave_way_total, gave_way));
    cr_assert(ne(int, fixture.forest->stage, BATCH_STAGE_PREFETCHING));
    cr_assert(not(atomic_load(&count_done)));
    fixture_settle(&fixture);
    while (workers_run_one(&fixture.readers)) {
    }
    for (uint32_t i = 0; i < array_count(requests); i++) {
        cr_assert(eq(int, requests[i]->result, REQUEST_RESULT_OK));
        cr_assert(eq(u64, requests[i]->count, object_count));
        forest_read_release(fixture.forest, requests[i]);
    }
    end_long();
}

/* Who writes the entry of a small write: the forest thread, or the journal's. */
static bool journal_thread_writes(void)
{
    static uint8_t body[1024];
    struct fixture_object object = {.a = 1};
    fixture_id(object.id, ++object_count);
    const uint32_t size = fixture_body(body, fixture.groove_id, EVENT_TYPE_INSERT, &object, 1);
    fixture_submit(&fixture, REQUEST_KIND_WRITE, body, size);
    while (fixture.forest->committing == NULL) {
        (void)forest_tick(fixture.forest);
    }
    const bool waits = workers_are_wanted(&fixture.journal_worker);
    fixture_settle(&fixture);
    return waits;
}

Test(forest_reads, while_several_ask_the_forest_thread_does_not_wait_for_the_disk)
{
    const struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    fixture.journal_wait_ns_max = UINT64_MAX;
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    cr_assert(not(journal_thread_writes()));
    forest_share(fixture.forest, true);
    cr_assert(journal_thread_writes());
    forest_share(fixture.forest, false);
    cr_assert(not(journal_thread_writes()));
    end_long();
}

Test(forest_reads, a_read_looks_through_no_more_than_its_budget)
{
    const struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    insert_bars(12);
    const uint64_t a = 1;
    uint8_t id[16];
    fixture_id(id, 1);
    cr_assert(eq(u64, fixture_count(&fixture, 0, &a, sizeof a), object_count));
    fixture_close(&fixture);

    fixture.read_budget_size = 256 * 1024;
    fixture_open(&fixture, 0, false);
    struct read_request *request = count_submit();
    while (!atomic_load(&count_done)) {
        (void)forest_tick(fixture.forest);
    }
    cr_assert(eq(int, request->result, REQUEST_RESULT_BUDGET));
    cr_assert(eq(u64, request->count, 0));
    cr_assert(eq(u64, stats().reads_over_budget_total, 1));
    /* With a limit it comes to its end sooner; and lookups have none. */
    request->kind = READ_KIND_QUERY;
    request->limit = 5;
    atomic_store(&count_done, false);
    forest_read_submit(fixture.forest, request);
    while (!atomic_load(&count_done)) {
        (void)forest_tick(fixture.forest);
    }
    cr_assert(eq(int, request->result, REQUEST_RESULT_OK));
    cr_assert(eq(u64, request->count, 5));
    forest_read_release(fixture.forest, request);
    static uint8_t ids[200 * 16];
    static struct fixture_object objects[200];
    for (uint32_t i = 0; i < 200; i++) {
        fixture_id(ids + (size_t)i * 16, 1 + i * 37);
    }
    cr_assert(eq(u32, fixture_lookup(&fixture, ids, 200, objects, 200), 200));
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

enum { OBJECTS_MAX = 16 * 1024 };
static bool counted[OBJECTS_MAX]; /* by number from 0 */
static uint64_t counted_count;

/* Of a batch of objects, from all over, those that were counted are so no more, and others are. */
static void turn_some(void)
{
    static uint8_t body[16 * 1024];
    static struct fixture_object objects[BATCH];
    static uint64_t at;
    for (uint32_t i = 0; i < BATCH; i++) {
        at = (at + object_count / BATCH + 1) % object_count;
        counted[at] = !counted[at];
        counted_count += counted[at] ? 1 : -1;
        objects[i] = (struct fixture_object){.a = counted[at] ? 1 : 2};
        fixture_id(objects[i].id, at + 1);
    }
    const uint32_t size = fixture_body(body, fixture.groove_id, EVENT_TYPE_UPDATE, objects, BATCH);
    cr_assert(
        eq(int, fixture_request(&fixture, REQUEST_KIND_WRITE, body, size), REQUEST_RESULT_OK));
}

/* A reader is stopped at each of its reads in turn, in memory that is nowhere short, until one join
 * has freed what its version needs and others have written there: it starts again, and says nothing
 * of damage. It reads an index, which no writer does, for who wants a block that is being read
 * waits for it. */
Test(forest_reads, a_block_that_was_reused_under_a_read_is_not_called_damaged)
{
    enum { READS = 8 };
    const struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    fixture.cache_size = 16ull * geometry.block_size;
    fixture_open(&fixture, 0, true);
    fixture_create(&fixture);
    insert_bars(3);
    cr_assert(le(u64, object_count, OBJECTS_MAX));
    counted_count = object_count;
    memset(counted, true, sizeof counted);
    struct forest *forest = fixture.forest;
    uint64_t restarts = 0;
    for (uint32_t n = 1; n <= READS; n++) {
        do {
            turn_some();
        } while (forest->join_owed);
        turn_some(); /* The version of the batch before may be older than that join. */
        fixture_settle(&fixture);
        cr_assert(not(forest->join_owed));
        const uint64_t horizon = atomic_load(&forest->horizon);
        const uint64_t commit = forest->commit_durable;
        const uint64_t before = counted_count;
        sim_io_hold_read(&fixture.sim, n, "holt-reader");
        struct read_request *request = count_submit();
        wait_until_held();
        while (atomic_load(&forest->horizon) == horizon || !forest->join_owed) {
            turn_some();
        }
        fixture_settle(&fixture);
        cr_assert(eq(u64, atomic_load(&forest->horizon), horizon + 1));
        sim_io_let_go(&fixture.sim);
        wait_until_done();
        cr_assert(eq(int, request->result, REQUEST_RESULT_OK));
        const bool again = request->commit != commit;
        cr_assert(eq(u64, request->commit, again ? forest->commit_durable : commit));
        cr_assert(eq(u64, request->count, again ? counted_count : before));
        restarts += again;
        cr_assert(eq(u64, stats().reads_restarted_total, restarts));
        forest_read_release(forest, request);
    }
    cr_assert(eq(u64, stats().versions_revoked_total, 0));
    cr_assert(ge(u64, restarts, READS / 2));
    end_long();
}

/* One request, then idle beats to the end of the half-bar. */
static void insert_and_end_half(void)
{
    struct forest *forest = fixture.forest;
    cr_assert(eq(int, insert_into(fixture.groove_id), REQUEST_RESULT_OK));
    fixture_settle(&fixture);
    const uint32_t half = fixture.geometry.bar_beats / 2;
    const uint64_t beats = half - forest->beat % half;
    enum request_result result;
    cr_assert(eq(int,
                 batch_add(forest->gathering, &forest->catalog, REQUEST_KIND_IDLE, false,
                           (const uint8_t *)&beats, sizeof beats, NULL, true, &result),
                 BATCH_ADDED));
    fixture_settle(&fixture);
}

/* As near the limit of tables: the nodes that the join of a half-bar asks for are not there, unless
 * a reader that went to its disk and never came back gives up its own. */
Test(forest_reads, a_stopped_reader_holds_no_nodes)
{
    enum { NODES_MAX = 4096 };
    static struct manifest_node *taken[NODES_MAX];
    uint32_t taken_count = 0;
    const struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    insert_bars(6);
    struct forest *forest = fixture.forest;
    struct version_hold hold = {0};
    version_hold_published(&forest->versions, &hold, 0);
    cr_assert(read_ticket_leave(&hold.ticket));
    do { /* Tables that the held version does not have, then a half-bar that will make more. */
        insert_and_end_half();
        insert_and_end_half();
        cr_assert(eq(int, insert_into(fixture.groove_id), REQUEST_RESULT_OK));
        fixture_settle(&fixture);
    } while (compaction_nodes_needed(&forest->schedule) == 0);
    while (forest->nodes.free_count >= compaction_nodes_needed(&forest->schedule)) {
        cr_assert(taken_count < NODES_MAX);
        taken[taken_count] = node_pool_acquire(&forest->nodes);
        taken_count += 1;
    }
    cr_assert(eq(u64, stats().versions_revoked_total, 0));
    insert_and_end_half();
    cr_assert(eq(u64, stats().versions_revoked_total, 1));
    version_hold_release(&forest->versions, &hold);
    while (taken_count > 0) {
        taken_count -= 1;
        node_pool_release(&forest->nodes, taken[taken_count]);
    }
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

/* Also between the execution of a batch and the end of its journal write. */
Test(forest_reads, nothing_is_shown_before_it_is_durable)
{
    enum { COUNT = 40 };
    const struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    uint32_t executed = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        static uint8_t body[1024];
        struct fixture_object object = {.a = 1, .b = i};
        fixture_id(object.id, i + 1);
        const uint32_t size = fixture_body(body, fixture.groove_id, EVENT_TYPE_INSERT, &object, 1);
        const uint64_t before = fixture.outcome_count;
        fixture_submit(&fixture, REQUEST_KIND_WRITE, body, size);
        while (fixture.outcome_count == before) {
            (void)forest_tick(fixture.forest);
            executed += fixture.forest->committing != NULL;
            struct read_request *request = fixture_read(
                &fixture, READ_KIND_COUNT, fixture.groove_id, READ_INDEX_NONE, NULL, 0);
            cr_assert(eq(u64, request->count, fixture.outcome_count == before ? i : i + 1));
            cr_assert(eq(u64, request->commit, fixture.forest->commit_durable));
            forest_read_release(fixture.forest, request);
        }
    }
    cr_assert(ge(u32, executed, COUNT));
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

/* ---- Answered by the forest thread ---- */

static uint32_t here_done;

static void on_here_done(struct read_request *request)
{
    (void)request;
    here_done += 1;
}

static struct read_request *lookup_acquire(const uint8_t *ids, uint32_t id_count)
{
    struct read_request *request = forest_read_acquire(fixture.forest);
    request->kind = READ_KIND_LOOKUP;
    request->groove_id = fixture.groove_id;
    request->index = READ_INDEX_NONE;
    request->limit = 0;
    request->input = ids;
    request->input_size = id_count * (uint32_t)sizeof(uint8_t[16]);
    request->done = on_here_done;
    return request;
}

/* Whether these ids were answered at once, and if so that each object is the right one: those up to
 * object_count are there. */
static bool looked_up_here(const uint64_t *numbers, uint32_t id_count)
{
    uint8_t ids[32][16];
    cr_assert(le(u32, id_count, 32));
    for (uint32_t i = 0; i < id_count; i++) {
        fixture_id(ids[i], numbers[i]);
    }
    struct read_request *request = lookup_acquire(ids[0], id_count);
    const uint32_t done = here_done;
    const uint64_t total = stats().reads_here_total;
    const bool answered = forest_read_here(fixture.forest, request);
    cr_assert(eq(u32, here_done, done + answered));
    cr_assert(eq(u64, stats().reads_here_total, total + answered));
    cr_assert(eq(ptr, request->scratch->hold.version, NULL));
    if (answered) {
        cr_assert(eq(int, request->result, REQUEST_RESULT_OK));
        cr_assert(eq(u64, request->commit, fixture.forest->commit_durable));
        uint32_t found = 0;
        for (uint32_t i = 0; i < id_count; i++) {
            if (numbers[i] <= object_count) {
                struct fixture_object object;
                memcpy(&object, request->reply + found * sizeof object, sizeof object);
                cr_assert(eq(int, memcmp(object.id, ids[i], sizeof object.id), 0));
                found += 1;
            }
        }
        cr_assert(eq(u64, request->count, found));
    }
    forest_read_release(fixture.forest, request);
    return answered;
}

Test(forest_reads, few_ids_that_memory_knows_need_no_reader)
{
    enum { ROUNDS = 200 };
    setup_long();
    struct prng prng;
    prng_init(&prng, 3);
    uint32_t here = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint64_t numbers[32];
        const uint32_t count = 1 + (uint32_t)prng_below(&prng, 24);
        for (uint32_t i = 0; i < count; i++) {
            numbers[i] = 1 + prng_below(&prng, object_count + object_count / 4);
        }
        if (looked_up_here(numbers, count)) {
            cr_assert(le(u32, count, READ_HERE_ID_MAX));
            here += 1;
        } else if (count <= READ_HERE_ID_MAX) { /* Not before a reader has fetched a block. */
            uint8_t ids[READ_HERE_ID_MAX][16];
            struct fixture_object objects[READ_HERE_ID_MAX];
            for (uint32_t i = 0; i < count; i++) {
                fixture_id(ids[i], numbers[i]);
            }
            (void)fixture_lookup(&fixture, ids[0], count, objects, READ_HERE_ID_MAX);
            cr_assert(looked_up_here(numbers, count));
        }
    }
    cr_assert(gt(u32, here, 0));
    struct read_request *request = lookup_acquire(NULL, 0);
    request->kind = READ_KIND_COUNT;
    cr_assert(not(forest_read_here(fixture.forest, request)));
    forest_read_release(fixture.forest, request);
    uint8_t id[16];
    fixture_id(id, 1);
    request = lookup_acquire(id, 1);
    request->groove_id = 99;
    cr_assert(forest_read_here(fixture.forest, request));
    cr_assert(eq(int, request->result, REQUEST_RESULT_UNKNOWN_GROOVE));
    forest_read_release(fixture.forest, request);
    cr_assert(not(workers_are_wanted(&fixture.readers)));
    end_long();
}

/* What is on the disk alone is a reader's; when he has fetched it, it is no more. */
Test(forest_reads, what_must_be_waited_for_is_left_to_a_reader)
{
    static const uint64_t number = 1;
    setup_long();
    fixture_close(&fixture);
    fixture_open(&fixture, 0, false);
    const uint64_t read_count = fixture.sim.read_count;
    cr_assert(not(looked_up_here(&number, 1)));
    cr_assert(eq(u64, fixture.sim.read_count, read_count));
    uint8_t id[16];
    struct fixture_object object;
    fixture_id(id, number);
    cr_assert(eq(u32, fixture_lookup(&fixture, id, 1, &object, 1), 1));
    cr_assert(looked_up_here(&number, 1));
    end_long();
}

/* As to a reader, what is executed is not there before it is durable; and while several ask, what
 * has come meanwhile is not begun by the tick that replies. */
Test(forest_reads, a_shared_tick_replies_or_goes_on)
{
    const struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    insert_bars(2); /* The file has grown. */
    for (uint32_t round = 0; round < 2; round++) {
        const bool shared = round == 1;
        forest_share(fixture.forest, shared);
        const uint64_t numbers[2] = {object_count + 1, object_count + 2};
        static uint8_t body[1024];
        const uint64_t outcomes = fixture.outcome_count;
        for (uint32_t i = 0; i < 2; i++) {
            struct fixture_object object = {.a = 1};
            fixture_id(object.id, numbers[i]);
            const uint32_t size =
                fixture_body(body, fixture.groove_id, EVENT_TYPE_INSERT, &object, 1);
            fixture_submit(&fixture, REQUEST_KIND_WRITE, body, size);
            while (fixture.forest->committing == NULL) {
                (void)forest_tick(fixture.forest);
            }
        }
        cr_assert(eq(u64, fixture.outcome_count, outcomes));
        cr_assert(looked_up_here(numbers, 2)); /* And does not find them. */
        while (fixture.outcome_count == outcomes) {
            (void)forest_tick(fixture.forest);
        }
        object_count += 1;
        cr_assert(looked_up_here(numbers, 2));
        cr_assert(eq(int, fixture.forest->gathering->request_count > 0, shared));
        fixture_settle(&fixture);
        object_count += 1;
        cr_assert(looked_up_here(numbers, 2));
    }
    end_long();
}
