/* Goal: whatever is asked of the forest, in whatever order, over clean stops and power cuts, it
 * holds what a naive model holds; and the same journal makes the same checkpoints for any number of
 * workers. Method: a table of objects in memory as the oracle, random batches against both, full
 * comparison by id, by every index and by count. Tiny geometry: 4 KiB blocks, 4-beat bars, so that
 * levels, checkpoints and journal laps come quickly. */
#include "tests/harness/forest_fixture.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "engine/object.h"
#include "engine/storage/trailer.h"
#include "pool/base.h"

enum { KEY_COUNT = 3000, BATCH_MAX = 40, B_COUNT = 5, C_COUNT = 3 };

struct model_row {
    bool exists;
    struct fixture_object object; /* timestamp and version unknown: 0 */
};

/* What has one thread, or little of its work on others, would keep TSan busy for minutes. */
#ifdef __SANITIZE_THREAD__
enum { UNDER_TSAN = 1 };
#else
enum { UNDER_TSAN = 0 };
#endif

static struct forest_fixture fixture;
static struct model_row model[KEY_COUNT];
static struct prng prng;
static uint32_t batch_max = BATCH_MAX; /* events of one random_write */

TestSuite(forest, .timeout = 120);

static void setup(void)
{
    const struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    memset(model, 0, sizeof model);
}

static void random_object(struct fixture_object *object, uint64_t key)
{
    memset(object, 0, sizeof *object);
    fixture_id(object->id, key);
    object->a = prng_below(&prng, 50);
    object->b = (uint32_t)prng_below(&prng, B_COUNT);
    object->c = (uint32_t)prng_below(&prng, C_COUNT);
    const uint64_t length = prng_below(&prng, 16);
    for (uint64_t i = 0; i < length; i++) {
        object->note[i] = (char)('a' + prng_below(&prng, 2));
    }
}

/* What the forest should answer for one event, applied to the model. */
static enum event_result model_apply(enum event_type type, uint64_t key,
                                     const struct fixture_object *object)
{
    struct model_row *row = &model[key];
    switch (type) {
    case EVENT_TYPE_INSERT:
        if (row->exists) {
            return EVENT_RESULT_EXISTS;
        }
        break;
    case EVENT_TYPE_UPSERT:
        break;
    case EVENT_TYPE_UPDATE:
        if (!row->exists) {
            return EVENT_RESULT_NOT_FOUND;
        }
        break;
    case EVENT_TYPE_REMOVE:
        if (!row->exists) {
            return EVENT_RESULT_NOT_FOUND;
        }
        row->exists = false;
        return EVENT_RESULT_OK;
    case EVENT_TYPE_CHECK: /* test_chain's. */
        cr_assert(false);
    }
    row->exists = true;
    row->object = *object;
    return EVENT_RESULT_OK;
}

/* One random batch of one event type, against forest and model. */
static void random_write(uint32_t remove_weight)
{
    static uint8_t body[16 * 1024];
    static struct fixture_object objects[BATCH_MAX];
    static uint64_t keys[BATCH_MAX];
    const uint64_t choice = prng_below(&prng, 6 + remove_weight);
    const enum event_type type = choice < 3    ? EVENT_TYPE_INSERT
                                 : choice == 3 ? EVENT_TYPE_UPSERT
                                 : choice < 6  ? EVENT_TYPE_UPDATE
                                               : EVENT_TYPE_REMOVE;
    const uint32_t count = (uint32_t)prng_range(&prng, 1, batch_max);
    for (uint32_t i = 0; i < count; i++) {
        keys[i] = prng_below(&prng, KEY_COUNT);
        random_object(&objects[i], keys[i]);
    }
    const uint32_t size = fixture_body(body, fixture.groove_id, type, objects, count);
    cr_assert(
        eq(int, fixture_request(&fixture, REQUEST_KIND_WRITE, body, size), REQUEST_RESULT_OK));
    uint32_t failure = 0, failure_total = 0;
    for (uint32_t i = 0; i < count; i++) {
        const enum event_result expected = model_apply(type, keys[i], &objects[i]);
        enum event_result actual = EVENT_RESULT_OK;
        failure_total += expected != EVENT_RESULT_OK;
        if (fixture.session != NULL && failure_total > SESSION_FAILURE_MAX) {
            continue; /* Of a session's request no more are listed. */
        }
        if (failure < fixture.outcome.failure_count && fixture.failures[failure].event_index == i) {
            actual = (enum event_result)fixture.failures[failure].result;
            failure += 1;
        }
        cr_assert(eq(int, actual, expected), "event %u of type %d", i, (int)type);
    }
    cr_assert(eq(u32, failure, fixture.outcome.failure_count));
    cr_assert(eq(u32, failure_total, fixture.outcome.failure_total));
}

static void check_object(const struct fixture_object *actual, const struct fixture_object *expected)
{
    struct fixture_object cleared = *actual;
    cr_assert(cleared.timestamp > 0 && cleared.version >= cleared.timestamp);
    cleared.timestamp = 0;
    cleared.version = 0;
    cr_assert(eq(int, memcmp(&cleared, expected, sizeof cleared), 0));
}

static void check_ids(void)
{
    static uint8_t ids[100 * 16];
    static struct fixture_object objects[100];
    for (uint64_t first = 0; first < KEY_COUNT; first += 100) {
        for (uint64_t i = 0; i < 100; i++) {
            fixture_id(ids + i * 16, first + i);
        }
        const uint32_t count = fixture_lookup(&fixture, ids, 100, objects, 100);
        uint32_t found = 0;
        for (uint64_t i = 0; i < 100; i++) {
            if (model[first + i].exists) {
                cr_assert(found < count, "key %lu is missing", (unsigned long)(first + i));
                check_object(&objects[found], &model[first + i].object);
                found += 1;
            }
        }
        cr_assert(eq(u32, found, count));
    }
}

static void check_indexes(void)
{
    static struct fixture_object objects[KEY_COUNT];
    uint64_t by_a[50] = {0};
    uint64_t by_bc[B_COUNT][C_COUNT] = {{0}};
    uint64_t total = 0;
    for (uint64_t key = 0; key < KEY_COUNT; key++) {
        if (model[key].exists) {
            by_a[model[key].object.a] += 1;
            by_bc[model[key].object.b][model[key].object.c] += 1;
            total += 1;
        }
    }
    cr_assert(eq(u64, fixture_count(&fixture, READ_INDEX_NONE, NULL, 0), total));
    for (uint64_t a = 0; a < 50; a++) {
        cr_assert(eq(u64, fixture_count(&fixture, 0, &a, 8), by_a[a]), "a = %lu", (unsigned long)a);
    }
    for (uint32_t b = 0; b < B_COUNT; b++) {
        for (uint32_t c = 0; c < C_COUNT; c++) {
            const uint32_t values[2] = {b, c};
            cr_assert(eq(u64, fixture_count(&fixture, 1, values, 8), by_bc[b][c]));
        }
    }
    const uint64_t a = prng_below(&prng, 50);
    const uint32_t count = fixture_query(&fixture, 0, &a, 8, objects, KEY_COUNT);
    cr_assert(count <= by_a[a]);
    for (uint32_t i = 0; i < count; i++) {
        cr_assert(eq(u64, objects[i].a, a));
        cr_assert(i == 0 || objects[i].timestamp > objects[i - 1].timestamp);
    }
    for (int i = 0; i < 5; i++) { /* An index that is cut: objects are rechecked. */
        struct fixture_object wanted;
        random_object(&wanted, 0);
        if (wanted.note[0] == '\0') {
            continue;
        }
        uint64_t expected = 0;
        for (uint64_t key = 0; key < KEY_COUNT; key++) {
            expected += model[key].exists &&
                        memcmp(model[key].object.note, wanted.note, sizeof wanted.note) == 0;
        }
        cr_assert(eq(u64, fixture_count(&fixture, 2, wanted.note, 16), expected));
    }
}

static void check_all(void)
{
    check_ids();
    check_indexes();
}

Test(forest, a_new_file_opens_empty_and_reopens)
{
    setup();
    fixture_open(&fixture, 0, false);
    cr_assert(not(fixture_find(&fixture)));
    fixture_close(&fixture);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    fixture_close(&fixture);
    fixture_open(&fixture, 0, false);
    cr_assert(fixture_find(&fixture));
    cr_assert(eq(u64, fixture_count(&fixture, READ_INDEX_NONE, NULL, 0), 0));
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

Test(forest, a_few_objects_live_in_memory_and_in_the_journal)
{
    setup();
    prng_init(&prng, 1);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    for (int i = 0; i < 5; i++) {
        random_write(1);
    }
    check_all();
    fixture_close(&fixture);
    fixture_open(&fixture, 0, false);
    check_all();
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

static void run_random(uint64_t seed, uint32_t worker_count, bool threads)
{
    setup();
    prng_init(&prng, seed);
    fixture.journal_wait_ns_max = seed % 2 == 0 ? UINT64_MAX : 0;
    fixture_open(&fixture, worker_count, threads);
    fixture_create(&fixture);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 120; i++) {
            random_write(round % 3 == 2 ? 8 : 1);
        }
        check_all();
        if (round % 2 == 0) {
            fixture_close(&fixture);
        } else {
            fixture_crash(&fixture, prng_next(&prng));
        }
        fixture_open(&fixture, worker_count, threads);
        cr_assert(fixture_find(&fixture));
        check_all();
    }
    struct forest_stats stats;
    forest_stats(fixture.forest, &stats);
    cr_assert(stats.superblock_sequence > 4, "checkpoints: %lu",
              (unsigned long)stats.superblock_sequence);
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

Test(forest, random_operations_agree_with_the_model_inline, .disabled = UNDER_TSAN)
{
    for (uint64_t seed = 0; seed < 3; seed++) {
        run_random(seed, 0, false);
    }
}

Test(forest, random_operations_agree_with_the_model_with_threads)
{
    run_random(100, 2, true);
}

/* ---- The same journal makes the same checkpoints -----------------------------------------------
 *
 * At every checkpoint of every run, the moment it is joined, all blocks that its free set calls in
 * use are read from the disk, in order of their addresses, and folded into one digest of (address,
 * all bytes). Such a block is one that something reachable from the superblock refers to, and there
 * are no others: forest_verify, which walks the references, says so at each checkpoint of the runs
 * without threads. So if one block of one checkpoint of one run differed in one bit, lay elsewhere,
 * or were one too many, that checkpoint's digest would differ from that of the first run (but for
 * an accident of one in 2^128), and the comparison below would name the run and the op. That the
 * digest does notice a single flipped bit in any such block is a test of its own. The superblock
 * itself is not in it: it holds the file's parent chain and journal_parent, which are peculiar to
 * the file; of the rest of it checkpoint_id is a hash. */

enum { CHECKPOINTS_MAX = 256 };

struct noted_checkpoint {
    uint64_t op;
    struct checksum id;
    uint64_t block_count;
    struct checksum digest; /* of (address, bytes) of all blocks in use */
};

struct history {
    struct noted_checkpoint checkpoints[CHECKPOINTS_MAX];
    uint32_t count;
    bool verified; /* references are walked at each checkpoint, too */
    uint64_t spilled_tables;
};

static struct history *history;

/* What the checkpoint on disk leads to. False: not even its free set can be read. */
static bool digest_blocks(struct sim_io *sim, const struct superblock *superblock,
                          struct noted_checkpoint *to, void (*each)(uint64_t address))
{
    const struct geometry *geometry = &superblock->geometry;
    const struct checkpoint_state *checkpoint = &superblock->checkpoint;
    struct workers workers;
    struct doorbell bell;
    struct grid grid;
    struct free_set set;
    doorbell_init(&bell);
    cr_assert(eq(int, workers_start(&workers, "none", 0, 4), STATUS_OK));
    cr_assert(eq(int, grid_init(&grid, &sim->io, geometry, 64, &workers, &bell), STATUS_OK));
    cr_assert(eq(int, free_set_init(&set, geometry->block_count_max), STATUS_OK));
    uint8_t *encoded = malloc(checkpoint->free_set_size);
    uint8_t *block = aligned_alloc(SECTOR_SIZE, geometry->block_size);
    uint64_t bad_address;
    *to = (struct noted_checkpoint){.op = checkpoint->op, .id = superblock->checkpoint_id};
    const bool readable =
        trailer_read(&grid, BLOCK_TYPE_FREE_SET, &checkpoint->free_set, encoded,
                     checkpoint->free_set_size, block, NULL, NULL, &bad_address) == STATUS_OK &&
        free_set_decode(&set, encoded, checkpoint->free_set_size) == STATUS_OK;
    for (uint64_t address = 1; readable && address <= checkpoint->address_max; address++) {
        if (free_set_is_free(&set, address) || free_set_is_released(&set, address)) {
            continue;
        }
        if (each != NULL) {
            each(address);
        }
        cr_assert(eq(int, grid_read_blocks(&grid, address, 1, block), STATUS_OK));
        struct {
            struct checksum before, block;
            uint64_t address;
        } link = {to->digest, checksum_of(block, geometry->block_size), address};
        to->digest = checksum_of(&link, sizeof link);
        to->block_count += 1;
    }
    grid_deinit(&grid);
    workers_join(&workers);
    doorbell_deinit(&bell);
    free_set_deinit(&set);
    free(encoded);
    free(block);
    return readable;
}

static void read_superblock(struct sim_io *sim, struct superblock *superblock)
{
    static _Alignas(SECTOR_SIZE) uint8_t sectors[SUPERBLOCK_COPY_COUNT * SECTOR_SIZE];
    struct superblock_open_report report;
    cr_assert(eq(int, superblock_open(&sim->io, sectors, false, superblock, &report), STATUS_OK));
}

static void on_verify_problem(void *context, const char *text)
{
    (void)context;
    cr_assert(false, "%s", text);
}

/* Notes the checkpoint on disk, unless an earlier life of the forest made it already: then it was
 * noted, and is compared. */
static void note_disk(struct sim_io *sim)
{
    static struct superblock superblock;
    read_superblock(sim, &superblock);
    struct noted_checkpoint now;
    cr_assert(digest_blocks(sim, &superblock, &now, NULL));
    for (uint32_t i = 0; i < history->count; i++) {
        const struct noted_checkpoint *before = &history->checkpoints[i];
        if (before->op == now.op) {
            cr_assert(checksum_equal(&before->digest, &now.digest), "op %lu after a crash",
                      (unsigned long)now.op);
            return;
        }
    }
    cr_assert(history->count < CHECKPOINTS_MAX);
    cr_assert(history->count == 0 || history->checkpoints[history->count - 1].op < now.op);
    history->checkpoints[history->count] = now;
    history->count += 1;
    if (history->verified) {
        struct verify_report report;
        cr_assert(
            eq(int, forest_verify(&sim->io, on_verify_problem, NULL, NULL, &report), STATUS_OK));
        cr_assert(eq(u64, report.blocks_checked, now.block_count));
    }
}

static void note_checkpoint(struct forest_fixture *at, uint64_t op,
                            const struct checksum *checkpoint_id)
{
    static struct superblock superblock;
    read_superblock(&at->sim, &superblock);
    cr_assert(eq(u64, superblock.checkpoint.op, op));
    if (op > 0) {
        cr_assert(checksum_equal(&superblock.checkpoint_id, checkpoint_id));
        note_disk(&at->sim);
    }
}

struct history_run {
    uint32_t worker_count;
    bool threads;
    uint32_t crash_every; /* writes; 0 = never */
    uint64_t journal_wait_ns_max;
};

enum { SEAL_EVERY = 11, SESSION_COUNT = 3, SESSION_LANES = 4, SESSION_RENEW_EVERY = 250 };

static struct request_session session_of(uint32_t client)
{
    return (struct request_session){.client_id = {[7] = (uint8_t)(client + 1)}, .uid = client};
}

/* Three of four writes belong to sessions, one of which is ended and begun anew now and then. */
static void choose_session(struct request_session *session, uint32_t write)
{
    const uint32_t client = write % (SESSION_COUNT + 1);
    fixture.session = NULL;
    if (write % SESSION_RENEW_EVERY == 0) {
        *session = session_of(write / SESSION_RENEW_EVERY % SESSION_COUNT);
        cr_assert(eq(int, fixture_session_close(&fixture, session), REQUEST_RESULT_OK));
        cr_assert(
            eq(int, fixture_session_open(&fixture, session, SESSION_LANES, 1), REQUEST_RESULT_OK));
    }
    if (client < SESSION_COUNT) {
        *session = session_of(client);
        session->lane = write / 8 % SESSION_LANES;
        session->number = write;
        fixture.session = session;
    }
}

/* The same requests, one at a time, so that each is one journal entry. */
static void record(struct history *to, const struct history_run *run, uint32_t write_count,
                   uint32_t events_max)
{
    setup();
    *to = (struct history){.verified = !run->threads};
    history = to;
    batch_max = events_max;
    prng_init(&prng, 77);
    fixture.on_checkpoint = note_checkpoint;
    fixture.journal_wait_ns_max = run->journal_wait_ns_max;
    fixture_open(&fixture, run->worker_count, run->threads);
    fixture_create(&fixture);
    for (uint32_t i = 0; i < SESSION_COUNT; i++) {
        const struct request_session session = session_of(i);
        cr_assert(
            eq(int, fixture_session_open(&fixture, &session, SESSION_LANES, 1), REQUEST_RESULT_OK));
    }
    struct forest_stats stats;
    for (uint32_t i = 1; i <= write_count; i++) {
        struct request_session session;
        choose_session(&session, i);
        random_write(i % 500 > 400 ? 6 : 1); /* Now and then mostly removes. */
        if (i % SEAL_EVERY == 0) {           /* It counts towards the bar, in a replay too. */
            fixture_settle(&fixture);
            forest_seal(fixture.forest);
            fixture_settle(&fixture);
        }
        if (run->crash_every > 0 && i % run->crash_every == 0) {
            fixture_settle(&fixture);
            forest_stats(fixture.forest, &stats);
            to->spilled_tables += stats.spilled_tables;
            fixture_crash(&fixture, i);
            fixture_open(&fixture, run->worker_count, run->threads);
        }
    }
    fixture.session = NULL;
    check_all();
    fixture_settle(&fixture);
    while (fixture.forest->checkpoint.submitted && !atomic_load(&fixture.forest->checkpoint.done)) {
        const uint64_t seen = doorbell_count(&fixture.doorbell);
        if (!workers_run_one(&fixture.growth_worker) &&
            !atomic_load(&fixture.forest->checkpoint.done)) {
            doorbell_wait(&fixture.doorbell, seen, DOORBELL_WAIT_FOREVER);
        }
    }
    forest_stats(fixture.forest, &stats);
    to->spilled_tables += stats.spilled_tables;
    fixture.on_checkpoint = NULL;
    fixture_close(&fixture);
    note_disk(&fixture.sim); /* The last one may not have been joined. */
    fixture_deinit(&fixture);
}

static void compare_runs(uint32_t write_count, uint32_t events_max)
{
    static const struct history_run runs[] = {
        {0, false, 0, 0},  {1, true, 0, 0},   {2, true, 0, UINT64_MAX}, {4, true, 0, 0},
        {0, false, 97, 0}, {1, true, 173, 0}, {2, true, 131, 0},        {4, true, 61, UINT64_MAX},
    };
    static struct history first, other;
    record(&first, &runs[0], write_count, events_max);
    cr_assert(first.count >= 10);
    cr_assert(gt(u64, first.spilled_tables, 0));
    cr_assert(gt(u64, first.checkpoints[first.count - 1].block_count, 30));
    for (size_t i = 1; i < array_count(runs); i++) {
        record(&other, &runs[i], write_count, events_max);
        cr_assert(eq(u32, other.count, first.count), "run %zu", i);
        for (uint32_t k = 0; k < first.count; k++) {
            const struct noted_checkpoint *a = &first.checkpoints[k];
            const struct noted_checkpoint *b = &other.checkpoints[k];
            cr_assert(eq(u64, b->op, a->op), "run %zu", i);
            cr_assert(eq(u64, b->block_count, a->block_count), "run %zu", i);
            cr_assert(checksum_equal(&b->digest, &a->digest), "run %zu, blocks at op %lu", i,
                      (unsigned long)a->op);
            cr_assert(checksum_equal(&b->id, &a->id), "run %zu, checkpoint at op %lu", i,
                      (unsigned long)a->op);
        }
    }
}

Test(forest, the_same_journal_makes_the_same_checkpoints_for_any_number_of_workers, .timeout = 300)
{
    compare_runs(1300, BATCH_MAX);
}

/* Bars are absorbed, and checkpoints spill. */
Test(forest, the_same_trickle_makes_the_same_checkpoints_for_any_number_of_workers, .timeout = 300)
{
    compare_runs(1400, 2);
}

enum { ADDRESSES_MAX = 4096 };

static struct {
    uint64_t values[ADDRESSES_MAX];
    uint32_t count;
} addresses;

static void note_address(uint64_t address)
{
    cr_assert(addresses.count < ADDRESSES_MAX);
    addresses.values[addresses.count] = address;
    addresses.count += 1;
}

Test(forest, the_digest_of_a_checkpoint_notices_one_flipped_bit_in_any_block,
     .disabled = UNDER_TSAN)
{
    static struct history one;
    static struct superblock superblock;
    setup();
    history = &one;
    batch_max = 2;
    prng_init(&prng, 78);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    for (int i = 0; i < 500; i++) {
        random_write(1);
    }
    fixture_close(&fixture);
    read_superblock(&fixture.sim, &superblock);
    struct noted_checkpoint whole;
    cr_assert(digest_blocks(&fixture.sim, &superblock, &whole, note_address));
    cr_assert(eq(u64, addresses.count, whole.block_count));
    cr_assert(gt(u32, addresses.count, 10));
    for (uint32_t i = 0; i < addresses.count; i++) {
        const uint64_t at = grid_zone_offset(&fixture.geometry) +
                            (addresses.values[i] - 1) * fixture.geometry.block_size +
                            prng_below(&prng, fixture.geometry.block_size);
        const uint8_t mask = (uint8_t)(1u << prng_below(&prng, 8));
        struct noted_checkpoint damaged;
        sim_io_flip(&fixture.sim, at, mask);
        cr_assert(not(digest_blocks(&fixture.sim, &superblock, &damaged, NULL) &&
                      checksum_equal(&damaged.digest, &whole.digest)),
                  "address %lu", (unsigned long)addresses.values[i]);
        sim_io_flip(&fixture.sim, at, mask);
    }
    fixture_deinit(&fixture);
}

/* ---- Space comes back --------------------------------------------------------------------------
 */

static void write_range(enum event_type type, uint64_t first, uint64_t last)
{
    static uint8_t body[16 * 1024];
    static struct fixture_object objects[60];
    for (uint64_t key = first; key < last; key += 60) {
        const uint32_t count = (uint32_t)min_u64(60, last - key);
        for (uint32_t i = 0; i < count; i++) {
            random_object(&objects[i], key + i);
        }
        const uint32_t size = fixture_body(body, fixture.groove_id, type, objects, count);
        cr_assert(
            eq(int, fixture_request(&fixture, REQUEST_KIND_WRITE, body, size), REQUEST_RESULT_OK));
        cr_assert(eq(u32, fixture.outcome.failure_count, 0));
    }
}

static uint64_t live_blocks(void)
{
    struct forest_stats stats;
    forest_stats(fixture.forest, &stats);
    cr_assert(eq(u64, stats.debt_bytes, 0));
    return stats.blocks_acquired - stats.blocks_released;
}

Test(forest, fill_update_and_remove_leave_an_empty_forest, .disabled = UNDER_TSAN)
{
    setup();
    prng_init(&prng, 5);
    fixture_open(&fixture, 2, true);
    fixture_create(&fixture);
    for (int round = 0; round < 2; round++) {
        write_range(EVENT_TYPE_INSERT, 0, 45000);
        struct forest_stats stats;
        forest_stats(fixture.forest, &stats);
        cr_assert(stats.tables_by_level[1] > 0);
        for (int i = 0; i < 3; i++) {
            write_range(EVENT_TYPE_UPDATE, 0, 45000);
        }
        cr_assert(eq(u64, fixture_count(&fixture, READ_INDEX_NONE, NULL, 0), 45000));
        write_range(EVENT_TYPE_REMOVE, 0, 45000);
        cr_assert(eq(u64, fixture_count(&fixture, READ_INDEX_NONE, NULL, 0), 0));
        fixture_pay_debt(&fixture);
        forest_stats(fixture.forest, &stats);
        cr_assert(eq(u64, stats.tables, 0), "tables left: %lu, debt %lu",
                  (unsigned long)stats.tables, (unsigned long)stats.debt_bytes);
        cr_assert(live_blocks() < 20, "live blocks: %lu", (unsigned long)live_blocks());
    }
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

/* Whoever asks for something while debt is paid waits for the step under way. */
Test(forest, debt_is_paid_in_steps_of_one_beat_of_work)
{
    setup();
    prng_init(&prng, 7);
    fixture_open(&fixture, 2, true);
    fixture_create(&fixture);
    write_range(EVENT_TYPE_INSERT, 0, 20000);
    write_range(EVENT_TYPE_REMOVE, 0, 20000);
    fixture_settle(&fixture);
    struct forest *forest = fixture.forest;
    const struct geometry *geometry = &forest->geometry;
    const uint32_t half = geometry->bar_beats / 2;
    uint32_t single = 0;
    uint32_t many = 0;
    while (forest_pay_debt(forest)) {
        const struct batch_request *request = &forest->gathering->requests[0];
        cr_assert(eq(u32, forest->gathering->request_count, 1));
        cr_assert(eq(u32, request->header->kind, REQUEST_KIND_IDLE));
        const uint64_t beats = load_u64_le(request->body);
        const uint64_t work = forest->schedule.bytes_total * beats / half;
        cr_assert(beats == 1 || work <= geometry->bar_memory_size / geometry->bar_beats,
                  "%lu beats, %lu bytes", (unsigned long)beats, (unsigned long)work);
        cr_assert(beats >= 1 && beats <= half - forest->beat % half);
        single += beats == 1;
        many += beats > 1;
        fixture_settle(&fixture);
    }
    cr_assert(single > half && many > 0, "%u steps of one beat, %u of more", single, many);
    struct forest_stats stats;
    forest_stats(forest, &stats);
    cr_assert(eq(u64, stats.debt_bytes, 0));
    cr_assert(eq(u64, stats.tables, 0));
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

Test(forest, a_dropped_groove_gives_all_space_back_and_its_name)
{
    setup();
    prng_init(&prng, 6);
    fixture_open(&fixture, 1, true);
    for (int round = 0; round < 6; round++) {
        if (round == 3) {
            fixture_pay_debt(
                &fixture); /* 16 trees: three grooves at once, dropping ones included */
        }
        fixture_create(&fixture);
        write_range(EVENT_TYPE_INSERT, 0, 12000);
        char name[NAME_SIZE] = "things";
        cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_GROOVE_DROP, name, sizeof name),
                     REQUEST_RESULT_OK));
        cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_GROOVE_DROP, name, sizeof name),
                     REQUEST_RESULT_UNKNOWN_GROOVE));
        if (round % 2 == 1) {
            fixture_settle(&fixture);
            fixture_crash(&fixture, (uint64_t)round);
            fixture_open(&fixture, 1, true);
            cr_assert(not(fixture_find(&fixture)));
        }
    }
    fixture_pay_debt(&fixture);
    struct forest_stats stats;
    forest_stats(fixture.forest, &stats);
    cr_assert(eq(u64, stats.tables, 0));
    cr_assert(live_blocks() < 20, "live blocks: %lu", (unsigned long)live_blocks());
    cr_assert(eq(u32, forest_grooves(fixture.forest, NULL, 0), 0));
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

/* ---- A full disk -------------------------------------------------------------------------------
 */

/* BATCH_MAX keys from `first` on. */
static enum request_result insert_batch(uint64_t first)
{
    static uint8_t body[16 * 1024];
    static struct fixture_object objects[BATCH_MAX];
    for (uint32_t i = 0; i < BATCH_MAX; i++) {
        random_object(&objects[i], first + i);
    }
    const uint32_t size =
        fixture_body(body, fixture.groove_id, EVENT_TYPE_INSERT, objects, BATCH_MAX);
    return fixture_request(&fixture, REQUEST_KIND_WRITE, body, size);
}

/* Inserts keys from `first` on until the disk is full; returns the first key that was refused. */
static uint64_t insert_until_full(uint64_t first)
{
    for (uint64_t key = first;; key += BATCH_MAX) {
        const enum request_result result = insert_batch(key);
        if (result == REQUEST_RESULT_FULL) {
            return key;
        }
        cr_assert(eq(int, result, REQUEST_RESULT_OK));
        cr_assert(eq(u32, fixture.outcome.failure_count, 0));
    }
}

/* Wherever in a bar the space ends: what was accepted needs no more of it to be replayed. */
Test(forest, a_forest_killed_on_a_full_disk_opens_on_it)
{
    for (uint64_t round = 0; round < 12; round++) {
        setup();
        prng_init(&prng, round);
        const uint64_t limit = fixture.sim.size_limit;
        const uint64_t chunk_size =
            (uint64_t)fixture.geometry.chunk_block_count * fixture.geometry.block_size;
        sim_io_limit(&fixture.sim, grid_zone_offset(&fixture.geometry) + (28 + round) * chunk_size);
        fixture_open(&fixture, (uint32_t)round % 3, round % 4 != 0);
        fixture_create(&fixture);
        const uint64_t keys = insert_until_full(1);
        cr_assert(eq(u64, fixture_count(&fixture, READ_INDEX_NONE, NULL, 0), keys - 1));

        fixture_crash(&fixture, round);
        fixture_open(&fixture, (uint32_t)round % 2, round % 3 == 0);
        cr_assert(fixture_find(&fixture));
        cr_assert(eq(u64, fixture_count(&fixture, READ_INDEX_NONE, NULL, 0), keys - 1));
        cr_assert(eq(u64, insert_until_full(keys), keys), "round %lu", (unsigned long)round);

        /* The first request after space has come makes the forest look for it. */
        sim_io_limit(&fixture.sim, limit);
        while (insert_batch(keys) == REQUEST_RESULT_FULL) {
            fixture_tick(&fixture);
        }
        cr_assert(eq(int, fixture.outcome.result, REQUEST_RESULT_OK));
        write_range(EVENT_TYPE_INSERT, keys + BATCH_MAX, keys + 2000);
        cr_assert(eq(u64, fixture_count(&fixture, READ_INDEX_NONE, NULL, 0), keys + 1999));
        fixture_close(&fixture);
        fixture_deinit(&fixture);
    }
}

/* ---- Damage ------------------------------------------------------------------------------------
 */

Test(forest, a_damaged_journal_entry_before_whole_ones_is_refused)
{
    setup();
    prng_init(&prng, 9);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    for (int i = 0; i < 10; i++) {
        random_write(0);
    }
    fixture_close(&fixture);
    sim_io_flip(&fixture.sim, journal_zone_offset(&fixture.geometry) + 3 * SECTOR_SIZE + 700, 1);
    cr_assert(not(fixture_try_open(&fixture, 0, false)));
    cr_assert(eq(int, fixture.open_status, STATUS_CORRUPT));
    cr_assert(strstr(fixture.open_reason, "journal: entry") != NULL, "%s", fixture.open_reason);
    sim_io_flip(&fixture.sim, journal_zone_offset(&fixture.geometry) + 3 * SECTOR_SIZE + 700, 1);
    fixture_open(&fixture, 0, false);
    check_all();
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

static void note_open(void *context, enum status status, const struct forest_open_report *report,
                      const char *reason)
{
    (void)report;
    (void)reason;
    enum status *to = context;
    *to = status;
}

Test(forest, reset_leaves_the_state_after_init_and_opening_recovers)
{
    setup();
    prng_init(&prng, 12);
    fixture_open(&fixture, 2, true);
    fixture_create(&fixture);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 150; i++) {
            random_write(1);
        }
        static struct fixture_object object;
        static uint8_t body[128];
        random_object(&object, KEY_COUNT + 1); /* In flight when the reset comes. */
        fixture_submit(&fixture, REQUEST_KIND_WRITE, body,
                       fixture_body(body, fixture.groove_id, EVENT_TYPE_UPSERT, &object, 1));
        forest_tick(fixture.forest);
        forest_reset(fixture.forest);
        cr_assert(eq(u64, fixture.forest->nodes.free_count, fixture.forest->nodes.node_count));
        cr_assert(
            eq(u64, fixture.forest->arena.free_segment_count, fixture.forest->arena.segment_count));
        cr_assert(eq(u64, fixture.forest->free_set.acquired_count, 0));
        enum status status = STATUS_CLOSED;
        forest_open(fixture.forest, note_open, &status);
        while (status == STATUS_CLOSED) {
            const uint64_t seen = doorbell_count(&fixture.doorbell);
            if (!forest_tick(fixture.forest) && status == STATUS_CLOSED) {
                doorbell_wait(&fixture.doorbell, seen, DOORBELL_WAIT_FOREVER);
            }
        }
        cr_assert(eq(int, status, STATUS_OK));
        cr_assert(fixture_find(&fixture));
        check_ids();
    }
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}
