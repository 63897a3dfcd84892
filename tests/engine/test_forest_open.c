/* Goal: recovery that meets a disk which fails says so, and does not call it damage: the advice is
 * another one. Method: a file with checkpoints and a journal behind them is opened again and again,
 * on a disk on which every read, or every write, fails from the n-th on, for each n until it opens.
 */
#include <criterion/criterion.h>
#include <stdatomic.h>
#include <string.h>

#include "tests/harness/forest_fixture.h"

TestSuite(forest_open, .timeout = 120);

enum { BATCH_OBJECT_COUNT = 60, BATCH_COUNT = 160, BODY_SIZE = 8192, NEVER = UINT32_MAX };

static struct forest_fixture fixture;
static const struct io_ops *real_ops;
static uint64_t reads_left, writes_left;
static enum status read_failure, write_failure;

/* Teams have no threads here. */
static enum status failing_read(struct io *io, uint64_t offset, void *buffer, size_t size)
{
    if (reads_left == 0) {
        return read_failure;
    }
    reads_left -= 1;
    return real_ops->read(io, offset, buffer, size);
}

static enum status failing_write(struct io *io, uint64_t offset, const void *buffer, size_t size)
{
    if (writes_left == 0) {
        return write_failure;
    }
    writes_left -= 1;
    return real_ops->write(io, offset, buffer, size);
}

static struct io_ops failing_ops;

static void write_some(enum event_type type, uint64_t first)
{
    static uint8_t body[BODY_SIZE];
    struct fixture_object objects[BATCH_OBJECT_COUNT];
    memset(objects, 0, sizeof objects);
    for (uint32_t i = 0; i < BATCH_OBJECT_COUNT; i++) {
        fixture_id(objects[i].id, first + i);
        objects[i].a = i;
    }
    const uint32_t size = fixture_body(body, fixture.groove_id, type, objects, BATCH_OBJECT_COUNT);
    cr_assert_eq(fixture_request(&fixture, REQUEST_KIND_WRITE, body, size), REQUEST_RESULT_OK);
}

/* The power goes in the middle of it all: the bar behind the checkpoint is to be replayed. */
static void setup(void)
{
    const struct geometry geometry = geometry_tiny();
    struct forest_stats stats;
    fixture_init(&fixture, &geometry);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    for (uint64_t i = 0; i < BATCH_COUNT; i++) {
        write_some(EVENT_TYPE_INSERT, i * BATCH_OBJECT_COUNT);
        write_some(EVENT_TYPE_UPDATE, i / 2 * BATCH_OBJECT_COUNT);
    }
    forest_stats(fixture.forest, &stats);
    cr_assert_gt(stats.checkpoint_op, 0);
    fixture_crash(&fixture, 1);
    real_ops = fixture.sim.io.ops;
    failing_ops = *real_ops;
    failing_ops.read = failing_read;
    failing_ops.write = failing_write;
}

static void teardown(void)
{
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

/* Opens with that many good reads and writes. */
static bool try_open(uint64_t reads, uint64_t writes)
{
    reads_left = reads;
    writes_left = writes;
    fixture.sim.io.ops = &failing_ops;
    const bool opened = fixture_try_open(&fixture, 0, false);
    fixture.sim.io.ops = real_ops;
    return opened;
}

Test(forest_open, a_disk_that_does_not_read_is_not_called_damage, .init = setup, .fini = teardown)
{
    read_failure = STATUS_IO;
    uint64_t reads = 0;
    for (; !try_open(reads, NEVER); reads += 1 + reads / 8) {
        cr_assert_eq(fixture.open_status, STATUS_IO, "after %llu reads: %s: %s",
                     (unsigned long long)reads, status_text(fixture.open_status),
                     fixture.open_reason);
        cr_assert_null(strstr(fixture.open_reason, "damage"), "%s", fixture.open_reason);
        cr_assert(strstr(fixture.open_reason, " at address ") != NULL ||
                      strstr(fixture.open_reason, " at offset ") != NULL ||
                      strncmp(fixture.open_reason, "superblock: ", 12) == 0,
                  "%s", fixture.open_reason);
    }
    cr_assert_gt(reads, 20);
}

static void writes_fail(enum status status)
{
    write_failure = status;
    uint64_t writes = 0;
    for (; !try_open(UINT64_MAX, writes); writes += 1 + writes / 8) {
        cr_assert_eq(fixture.open_status, status, "after %llu writes: %s: %s",
                     (unsigned long long)writes, status_text(fixture.open_status),
                     fixture.open_reason);
        cr_assert_null(strstr(fixture.open_reason, "damage"), "%s", fixture.open_reason);
        cr_assert_gt(strlen(fixture.open_reason), 0);
    }
    cr_assert_gt(writes, 5);
}

Test(forest_open, a_disk_that_does_not_write_is_not_called_damage, .init = setup, .fini = teardown)
{
    writes_fail(STATUS_IO);
}

Test(forest_open, a_full_disk_is_not_called_damage, .init = setup, .fini = teardown)
{
    writes_fail(STATUS_NO_SPACE);
}

Test(forest_open, a_sync_that_fails_ends_the_open, .init = setup, .fini = teardown)
{
    uint64_t syncs = 1;
    for (bool opened = false; !opened; syncs += 1) {
        sim_io_fail_sync(&fixture.sim, syncs, STATUS_IO);
        opened = fixture_try_open(&fixture, 0, false);
        const bool fired = !sim_io_armed(&fixture.sim);
        cr_assert_eq(opened, !fired, "sync %llu", (unsigned long long)syncs);
        cr_assert(opened || fixture.open_status == STATUS_IO, "sync %llu: %s",
                  (unsigned long long)syncs, fixture.open_reason);
        sim_io_fail_sync(&fixture.sim, 0, STATUS_OK);
        if (!opened) {
            sim_io_reopen(&fixture.sim);
        }
    }
    cr_assert_gt(syncs, 2);
}
