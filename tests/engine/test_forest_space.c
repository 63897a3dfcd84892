/* Goal: a store that is full can be emptied, whatever filled it, in whatever order it is emptied
 * and wherever it is killed meanwhile; and nothing that is planned ever meets a full disk. Method:
 * small files, of the two kinds that end (a limit of blocks, a device without room), are filled
 * until writes are refused, against a model of which keys exist; then emptied by removes, or by a
 * drop; then filled again. Asserts in the engine watch each reservation. Growth is made to fail at
 * every of its calls. */
#include "tests/harness/forest_fixture.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "pool/base.h"

enum { KEY_MAX = 200 * 1000, BATCH = 40 };

static struct forest_fixture fixture;
static struct prng prng;
static bool exists[KEY_MAX];
static uint64_t exists_count;
static uint32_t worker_count;

TestSuite(forest_space, .timeout = 120);

/* A file of so many chunks at most; with `device`, because the disk has no more room. */
static void setup_small(uint32_t chunks, bool device, uint64_t seed)
{
    struct geometry geometry = geometry_tiny();
    const uint64_t blocks = (uint64_t)chunks * geometry.chunk_block_count;
    geometry.block_count_max = device ? geometry.block_count_max : blocks;
    fixture_init(&fixture, &geometry);
    if (device) {
        sim_io_limit(&fixture.sim, grid_zone_offset(&geometry) + blocks * geometry.block_size);
    }
    prng_init(&prng, seed);
    worker_count = (uint32_t)(seed % 3);
    memset(exists, 0, sizeof exists);
    exists_count = 0;
    fixture_open(&fixture, worker_count, worker_count > 0);
    fixture_create(&fixture);
}

static void problem(void *context, const char *text)
{
    (void)context;
    cr_assert(false, "verify: %s", text);
}

static void end(void)
{
    fixture_close(&fixture);
    struct verify_report report;
    cr_assert(eq(int, forest_verify(&fixture.sim.io, problem, NULL, NULL, &report), STATUS_OK));
    cr_assert(eq(u64, report.problems, 0));
    fixture_deinit(&fixture);
}

static void reopen(bool crash)
{
    if (crash) {
        fixture_crash(&fixture, prng_next(&prng));
    } else {
        fixture_close(&fixture);
    }
    fixture_open(&fixture, worker_count, worker_count > 0);
    cr_assert(fixture_find(&fixture));
}

/* `count` keys in one request of one kind. The model follows. */
static enum request_result write_keys(enum event_type type, const uint64_t *keys, uint32_t count)
{
    static uint8_t body[16 * 1024];
    static struct fixture_object objects[BATCH];
    for (uint32_t i = 0; i < count; i++) {
        objects[i] = (struct fixture_object){.a = keys[i] % 50, .b = (uint32_t)keys[i] % 7};
        fixture_id(objects[i].id, keys[i]);
        snprintf(objects[i].note, sizeof objects[i].note, "%u", (unsigned)keys[i] % 9);
    }
    const uint32_t size = fixture_body(body, fixture.groove_id, type, objects, count);
    const enum request_result result = fixture_request(&fixture, REQUEST_KIND_WRITE, body, size);
    if (result == REQUEST_RESULT_OK) {
        cr_assert(eq(u32, fixture.outcome.failure_count, 0));
        for (uint32_t i = 0; i < count; i++) {
            const bool now = type != EVENT_TYPE_REMOVE;
            exists_count += now && !exists[keys[i]];
            exists_count -= !now && exists[keys[i]];
            exists[keys[i]] = now;
        }
    }
    return result;
}

/* Inserts until told that the store is full. */
static void fill(void)
{
    uint64_t next = 1;
    for (;;) {
        uint64_t keys[BATCH];
        for (uint32_t i = 0; i < BATCH; i++) {
            while (exists[next]) {
                next += 1;
            }
            keys[i] = next;
            next += 1;
            cr_assert(lt(u64, next, KEY_MAX));
        }
        const enum request_result result = write_keys(EVENT_TYPE_INSERT, keys, BATCH);
        if (result == REQUEST_RESULT_FULL) {
            return;
        }
        cr_assert(eq(int, result, REQUEST_RESULT_OK));
    }
}

static void check_content(void)
{
    static uint8_t ids[100 * 16];
    static struct fixture_object objects[100];
    cr_assert(eq(u64, fixture_count(&fixture, READ_INDEX_NONE, NULL, 0), exists_count));
    uint64_t first = prng_below(&prng, 500);
    for (; first + 100 < KEY_MAX && exists_count > 0; first += 100 + prng_below(&prng, 2000)) {
        uint32_t expected = 0;
        for (uint64_t i = 0; i < 100; i++) {
            fixture_id(ids + i * 16, first + i);
            expected += exists[first + i];
        }
        cr_assert(eq(u32, fixture_lookup(&fixture, ids, 100, objects, 100), expected));
    }
    uint64_t by_a = 0;
    for (uint64_t key = 0; key < KEY_MAX; key++) {
        by_a += exists[key] && key % 50 == 7;
    }
    const uint64_t a = 7;
    cr_assert(eq(u64, fixture_count(&fixture, 0, &a, 8), by_a));
}

enum order { ORDER_UP, ORDER_DOWN, ORDER_RANDOM, ORDER_COUNT };

/* Removes `count` of the keys that exist. Each request must be taken. */
static void empty(enum order order, uint64_t count, uint32_t reopen_every)
{
    static uint64_t keys[KEY_MAX];
    uint64_t key_count = 0;
    for (uint64_t key = 0; key < KEY_MAX; key++) {
        if (exists[key]) {
            keys[key_count] = key;
            key_count += 1;
        }
    }
    for (uint64_t i = 0; i < key_count; i++) {
        const uint64_t other = order == ORDER_RANDOM ? prng_range(&prng, i, key_count - 1)
                               : order == ORDER_DOWN && i < key_count / 2 ? key_count - 1 - i
                                                                          : i;
        const uint64_t key = keys[i];
        keys[i] = keys[other];
        keys[other] = key;
    }
    uint32_t requests = 0;
    for (uint64_t at = 0; at < min_u64(count, key_count);) {
        const uint32_t size = (uint32_t)min_u64(prng_range(&prng, 1, BATCH), key_count - at);
        cr_assert(eq(int, write_keys(EVENT_TYPE_REMOVE, keys + at, size), REQUEST_RESULT_OK),
                  "%lu of %lu are removed", (unsigned long)at, (unsigned long)key_count);
        at += size;
        requests += 1;
        if (reopen_every > 0 && requests % reopen_every == 0) {
            reopen(true);
        }
    }
}

static struct forest_stats stats_of(void)
{
    struct forest_stats stats;
    forest_stats(fixture.forest, &stats);
    return stats;
}

static void fill_empty_and_fill(uint32_t chunks, bool device, enum order order,
                                uint32_t reopen_every, uint64_t seed)
{
    setup_small(chunks, device, seed);
    fill();
    const uint64_t capacity = exists_count;
    check_content();
    /* Idle beats pay what they can, and more writes fit, or none; then it is settled. */
    fill();
    fixture_pay_debt(&fixture);
    fill();
    cr_assert(stats_of().full);
    check_content();

    empty(order, exists_count / 3, reopen_every);
    check_content();
    reopen(seed % 2 == 0);
    check_content();
    empty(order, UINT64_MAX, reopen_every);
    cr_assert(eq(u64, exists_count, 0));
    fixture_pay_debt(&fixture);
    check_content();
    const struct forest_stats stats = stats_of();
    cr_assert(eq(u64, stats.tables, 0), "%lu tables are left", (unsigned long)stats.tables);

    fill();
    cr_assert(exists_count >= capacity / 10 * 9, "%lu of %lu", (unsigned long)exists_count,
              (unsigned long)capacity);
    check_content();
    end();
}

Test(forest_space, what_is_full_by_its_limit_can_be_emptied_and_filled_again)
{
    for (uint32_t i = 0; i < 3; i++) {
        fill_empty_and_fill(30 + 10 * i, false, (enum order)(i % ORDER_COUNT), 0, i);
    }
}

Test(forest_space, what_is_full_by_its_device_can_be_emptied_over_power_cuts)
{
    for (uint32_t i = 0; i < 3; i++) {
        fill_empty_and_fill(32 + 8 * i, true, (enum order)(i % ORDER_COUNT), 60 + 11 * i, 10 + i);
    }
}

/* A drop takes no room of its own, so it goes on when even removes no longer do. */
Test(forest_space, a_drop_empties_what_is_full)
{
    for (uint64_t seed = 0; seed < 3; seed++) {
        setup_small(36, seed == 1, seed);
        fill();
        fixture_settle(&fixture);
        const char name[NAME_SIZE] = "things";
        cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_GROOVE_DROP, name, sizeof name),
                     REQUEST_RESULT_OK));
        if (seed == 2) {
            fixture_crash(&fixture, seed);
            fixture_open(&fixture, worker_count, worker_count > 0);
        }
        fixture_pay_debt(&fixture);
        cr_assert(eq(u64, stats_of().tables, 0));
        cr_assert(eq(u32, forest_grooves(fixture.forest, NULL, 0), 0));
        const uint64_t before = exists_count;
        memset(exists, 0, sizeof exists);
        exists_count = 0;
        fixture_create(&fixture);
        fill();
        cr_assert(exists_count >= before / 10 * 9);
        end();
    }
}

static struct request_session session_of(uint32_t client, uint32_t lane, uint64_t number)
{
    return (struct request_session){
        .client_id = {1, (uint8_t)client}, .lane = lane, .number = number, .uid = client};
}

/* Removes of what is not there, in each lane: as many failures as a lane remembers. */
static void fail_in_every_lane(uint32_t clients, uint64_t number)
{
    static uint8_t body[16 * 1024];
    static struct fixture_object objects[BATCH];
    for (uint32_t i = 0; i < BATCH; i++) {
        fixture_id(objects[i].id, KEY_MAX + i);
    }
    const uint32_t size = fixture_body(body, fixture.groove_id, EVENT_TYPE_REMOVE, objects, BATCH);
    for (uint32_t i = 0; i < 2 * clients; i++) {
        const struct request_session session = session_of(i / 2, i % 2, number);
        fixture.session = &session;
        cr_assert(
            eq(int, fixture_request(&fixture, REQUEST_KIND_WRITE, body, size), REQUEST_RESULT_OK));
        fixture.session = NULL;
        cr_assert(eq(u32, fixture.outcome.failure_total, BATCH));
    }
}

/* What sessions remember grows while there is no room for anything else: it was kept for them when
 * they were opened. */
Test(forest_space, sessions_of_a_full_store_go_on)
{
    for (uint64_t seed = 0; seed < 2; seed++) {
        setup_small(48, seed == 1, seed);
        const uint32_t clients = (uint32_t)stats_of().sessions_max;
        const uint64_t kept = stats_of().blocks_kept;
        for (uint32_t i = 0; i < clients; i++) {
            const struct request_session session = session_of(i, 0, 1);
            cr_assert(eq(int, fixture_session_open(&fixture, &session, 2, 1), REQUEST_RESULT_OK));
        }
        const uint64_t bytes = clients * session_encoded_size_of(2);
        cr_assert(
            ge(u64, stats_of().blocks_kept, kept + bytes / block_body_size(&fixture.geometry)));
        fill();
        fixture_pay_debt(&fixture);
        fill();
        cr_assert(stats_of().full);
        fail_in_every_lane(clients, 1);
        empty(ORDER_RANDOM, exists_count / 3, 0);
        reopen(seed == 1);
        fail_in_every_lane(clients, 2);
        empty(ORDER_UP, UINT64_MAX, 0);
        fixture_pay_debt(&fixture);
        cr_assert(eq(u64, stats_of().tables, 0));
        reopen(true);
        struct session_info info;
        const struct request_session last = session_of(clients - 1, 1, 1);
        cr_assert(eq(int, forest_session_find(fixture.forest, &last, &info), SESSION_DONE));
        cr_assert(eq(u64, info.numbers[1], 2));
        fill();
        end();
    }
}

/* Many tables and little in them: their number, not the room, is what ends. */
Test(forest_space, what_is_full_of_tables_can_be_emptied)
{
    setup_small(600, false, 0);
    struct manifest_log *log = &fixture.forest->manifest_log;
    const uint64_t table_count_max = log->table_count_max;
    log->table_count_max = 225;
    fill();
    const struct forest_space *space = &fixture.forest->space;
    cr_assert(space->hand + space->floating > forest_space_kept(fixture.forest));
    check_content();
    empty(ORDER_RANDOM, UINT64_MAX, 0);
    fixture_pay_debt(&fixture);
    cr_assert(eq(u64, stats_of().tables, 0));
    const uint64_t keys[1] = {1};
    cr_assert(eq(int, write_keys(EVENT_TYPE_INSERT, keys, 1), REQUEST_RESULT_OK));
    check_content();
    log->table_count_max = table_count_max;
    end();
}

/* Whichever try to grow is the one that fails, what was accepted is done, and the next one helps.
 */
/* A remove that has to wait for merges, in a store that will not merge any more. */
Test(forest_space, a_full_store_that_is_damaged_answers_what_waits_to_be_removed)
{
    static uint8_t body[16 * 1024];
    struct fixture_object object = {0};
    struct groove_spec other;
    fixture_spec(&other, "other");
    setup_small(30, false, 0);
    cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_GROOVE_CREATE, &other, sizeof other),
                 REQUEST_RESULT_OK));
    fill();
    /* Its end is owed. */
    cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_GROOVE_DROP, other.name, NAME_SIZE),
                 REQUEST_RESULT_OK));
    fixture_settle(&fixture);
    fixture_id(object.id, 1);
    const uint64_t before = fixture.outcome_count;
    const uint32_t size = fixture_body(body, fixture.groove_id, EVENT_TYPE_REMOVE, &object, 1);
    fixture_submit(&fixture, REQUEST_KIND_WRITE, body, size);
    fixture.forest->space.hand = fixture.forest->space.step_low; /* Enough to merge, no more. */
    fixture.forest->read_only = true;
    for (int i = 0; i < 100 && fixture.outcome_count == before; i++) {
        (void)forest_tick(fixture.forest);
    }
    cr_assert(eq(u64, fixture.outcome_count, before + 1));
    cr_assert(eq(int, fixture.outcome.result, REQUEST_RESULT_READ_ONLY));
    fixture_crash(&fixture, 1);
    fixture_deinit(&fixture);
}

Test(forest_space, growth_may_fail_at_any_call)
{
    for (uint64_t n = 0; n < 12; n++) {
        setup_small(600, true, n);
        const uint64_t chunk =
            (uint64_t)fixture.geometry.chunk_block_count * fixture.geometry.block_size;
        const uint64_t room = fixture.sim.size_limit;
        fixture_settle(&fixture);
        /* In the middle of the n-th chunk from now; torn at an odd place. */
        const uint64_t end_offset = fixture.sim.size + n * chunk + (n % 3) * SECTOR_SIZE;
        sim_io_limit(&fixture.sim, end_offset);
        fill();
        check_content();
        if (n % 4 == 1) {
            reopen(true);
            check_content();
        }
        sim_io_limit(&fixture.sim, room);
        const uint64_t before = exists_count;
        while (exists_count < before + 2000) { /* A refused one makes the forest look again. */
            uint64_t keys[BATCH];
            for (uint32_t i = 0; i < BATCH; i++) {
                keys[i] = KEY_MAX / 2 + exists_count + i;
            }
            const enum request_result result = write_keys(EVENT_TYPE_INSERT, keys, BATCH);
            cr_assert(result == REQUEST_RESULT_OK || result == REQUEST_RESULT_FULL);
            fixture_tick(&fixture);
        }
        cr_assert(not(stats_of().full));
        check_content();
        end();
    }
}

static const struct io_ops *real_ops;
static uint64_t growths, growth_that_fails; /* writes past the end of the file */
static bool growths_fail_on;                /* and all that come after it */

static enum status growing_write(struct io *io, uint64_t offset, const void *buffer, size_t size)
{
    if (offset + size > fixture.sim.size) {
        growths += 1;
        if (growths == growth_that_fails || (growths_fail_on && growths > growth_that_fails)) {
            return STATUS_NO_SPACE;
        }
    }
    return real_ops->write(io, offset, buffer, size);
}

/* Chunks of four writes, so that each of the four is met. Teams have no threads here. */
Test(forest_space, each_write_past_the_end_may_find_no_space)
{
    enum { CHUNK_BLOCKS = 512, CHUNKS = 3, RETRIES_MAX = 400 };
    struct geometry geometry = geometry_tiny();
    geometry.chunk_block_count = CHUNK_BLOCKS;
    uint32_t full_total = 0;
    for (growth_that_fails = 1;; growth_that_fails++) {
        fixture_init(&fixture, &geometry);
        real_ops = fixture.sim.io.ops;
        struct io_ops ops = *real_ops;
        ops.write = growing_write;
        fixture.sim.io.ops = &ops;
        growths = 0;
        growths_fail_on = growth_that_fails % 2 == 0;
        memset(exists, 0, sizeof exists);
        exists_count = 0;
        fixture_open(&fixture, 0, false);
        fixture_create(&fixture);
        uint32_t full = 0;
        for (uint64_t next = 1;
             atomic_load(&fixture.forest->grid.block_count) < (uint64_t)CHUNKS * CHUNK_BLOCKS;) {
            uint64_t keys[BATCH];
            for (uint32_t i = 0; i < BATCH; i++) {
                keys[i] = next + i;
            }
            const enum request_result result = write_keys(EVENT_TYPE_INSERT, keys, BATCH);
            cr_assert(result == REQUEST_RESULT_OK || result == REQUEST_RESULT_FULL);
            next += result == REQUEST_RESULT_OK ? BATCH : 0;
            full += result == REQUEST_RESULT_FULL;
            cr_assert(lt(u32, full, RETRIES_MAX));
            fixture_tick(&fixture); /* A refused one makes the forest look again. */
            if (full == 3) {
                check_content();
                growths_fail_on = false; /* Somebody made room. */
            }
        }
        full_total += full;
        check_content();
        end();
        if (growths < growth_that_fails) {
            break;
        }
    }
    cr_assert(ge(u64, growth_that_fails, 8));
    cr_assert(gt(u32, full_total, 0));
}

/* Bytes of the superblock's copies. */
enum { SUPERBLOCK_SIZE = SUPERBLOCK_COPY_COUNT * SECTOR_SIZE };

static uint64_t superblock_sequence(const uint8_t *bytes)
{
    return ((const struct superblock *)(const void *)bytes)->sequence;
}

/* The disk as it would be had the last superblock not been written: opened by `workers` workers, it
 * makes the same checkpoint. */
static void check_replay(const uint8_t *superblock_before, uint32_t workers)
{
    static struct forest_fixture twin;
    uint8_t *bytes = malloc(fixture.sim.size);
    sim_io_save(&fixture.sim, bytes);
    const struct superblock expected = *(const struct superblock *)(const void *)bytes;
    memcpy(bytes, superblock_before, SUPERBLOCK_SIZE);
    fixture_init(&twin, &fixture.geometry);
    sim_io_load(&twin.sim, bytes, fixture.sim.size);
    free(bytes);
    fixture_open(&twin, workers, workers > 0);
    for (;;) {
        const uint64_t seen = doorbell_count(&twin.doorbell);
        const bool progressed = forest_tick(twin.forest);
        if (!progressed && twin.forest->checkpoint.done) {
            break;
        }
        if (!progressed) {
            doorbell_wait(&twin.doorbell, seen, DOORBELL_WAIT_FOREVER);
        }
    }
    const struct superblock *actual = (const struct superblock *)(const void *)twin.sim.bytes;
    cr_assert(eq(u64, actual->sequence, expected.sequence));
    cr_assert(checksum_equal(&actual->checkpoint_id, &expected.checkpoint_id), "op %lu",
              (unsigned long)expected.checkpoint.op);
    fixture_close(&twin);
    fixture_deinit(&twin);
}

/* What the journal says of space is all that steers: whether growth had failed, what was full and
 * what was refused is not known to a replay. */
Test(forest_space, a_full_store_is_replayed_as_it_was)
{
    static _Alignas(16) uint8_t superblock[SUPERBLOCK_SIZE];
    setup_small(36, true, 0);
    fill();
    fixture_pay_debt(&fixture);
    memcpy(superblock, fixture.sim.bytes, SUPERBLOCK_SIZE);
    uint32_t checked = 0;
    for (uint64_t key = 1; checked < 3; key++) {
        cr_assert(exists[key]);
        cr_assert(eq(int, write_keys(EVENT_TYPE_REMOVE, &key, 1), REQUEST_RESULT_OK));
        if (key % 50 == 49) { /* Idle beats purge. */
            fixture.forest->full = true;
            fixture.forest->space.wanted = true;
        }
        fixture_settle(&fixture);
        if (memcmp(superblock, fixture.sim.bytes, SUPERBLOCK_SIZE) != 0) {
            const bool next =
                superblock_sequence(superblock) + 1 == superblock_sequence(fixture.sim.bytes);
            if (next && fixture.forest->checkpoint.pending) { /* Else blocks were reused. */
                check_replay(superblock, checked % 3);
                checked += 1;
            }
            memcpy(superblock, fixture.sim.bytes, SUPERBLOCK_SIZE);
        }
    }
    end();
}

static void note_open(void *context, enum status status, const struct forest_open_report *report,
                      const char *reason)
{
    (void)report;
    (void)reason;
    *(enum status *)context = status;
}

/* A free set in which too little is free, though all checksums are right, is of no history: it ends
 * the open, not the process. */
Test(forest_space, a_replay_that_finds_no_blocks_is_refused)
{
    setup_small(36, false, 0);
    const struct forest *forest = fixture.forest;
    for (uint64_t key = 1; forest->checkpoint_count < 2 || forest->beat != 1; key++) {
        cr_assert(eq(int, write_keys(EVENT_TYPE_INSERT, &key, 1), REQUEST_RESULT_OK));
        fixture_settle(&fixture);
    }
    uint32_t refused = 0;
    for (uint32_t left = 0; left < 600; left += 25) {
        forest_reset(fixture.forest);
        enum status status = STATUS_CLOSED;
        forest_open(fixture.forest, note_open, &status);
        cr_assert(forest_tick(fixture.forest)); /* The checkpoint; then comes its journal. */
        cr_assert(eq(int, forest->phase, FOREST_REPLAYING));
        struct free_set *set = &fixture.forest->free_set;
        struct reservation rest;
        const uint32_t count = (uint32_t)(set->block_count_max - set->acquired_count) - left;
        cr_assert(free_set_reserve(set, count, &rest));
        for (uint32_t i = 0; i < count; i++) {
            (void)reservation_acquire(&rest);
        }
        free_set_forfeit(set, &rest);
        while (status == STATUS_CLOSED) {
            (void)forest_tick(fixture.forest);
        }
        cr_assert(status == STATUS_OK || status == STATUS_CORRUPT);
        refused += status == STATUS_CORRUPT;
    }
    cr_assert(gt(u32, refused, 4));
    fixture_crash(&fixture, 1);
    fixture_open(&fixture, 0, false);
    end();
}
