/* Goal: the simulated disk of the harness lies only as told; a bug here would make every crash test
 * worthless. Method: each fault once, and crashes over many seeds against what is allowed to
 * survive: per SIM_IO_TEAR_SIZE unit, the durable content or the last one written. */
#include "tests/harness/sim_io.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

#include "engine/storage/limits.h"
#include "tests/harness/prng.h"

enum { SECTORS = 16, LIMIT = SECTORS * SECTOR_SIZE };

static struct sim_io sim;
static _Alignas(4096) uint8_t buffer[LIMIT];

static void setup(void)
{
    sim_io_init(&sim, LIMIT);
}

static void teardown(void)
{
    sim_io_deinit(&sim);
}

TestSuite(sim_io, .init = setup, .fini = teardown, .timeout = 120);

static enum status write_letter(uint64_t sector, uint64_t count, uint8_t letter)
{
    memset(buffer, letter, count * SECTOR_SIZE);
    return io_write(&sim.io, sector * SECTOR_SIZE, buffer, count * SECTOR_SIZE);
}

Test(sim_io, reads_see_writes_and_the_end_of_the_file)
{
    cr_assert(eq(int, write_letter(2, 2, 'a'), STATUS_OK));
    cr_assert(eq(u64, sim.size, 4 * SECTOR_SIZE));
    cr_assert(eq(int, io_read(&sim.io, 0, buffer, 4 * SECTOR_SIZE), STATUS_OK));
    cr_assert(eq(u8, buffer[0], 0));
    cr_assert(eq(u8, buffer[2 * SECTOR_SIZE], 'a'));
    cr_assert(eq(int, io_read(&sim.io, 4 * SECTOR_SIZE, buffer, SECTOR_SIZE), STATUS_IO));
    cr_assert(eq(int, write_letter(SECTORS - 1, 2, 'b'), STATUS_NO_SPACE));
}

Test(sim_io, crash_loses_or_keeps_only_what_was_not_synced)
{
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct prng prng;
        prng_init(&prng, seed);
        memset(buffer, 0, LIMIT);
        sim_io_load(&sim, buffer, 4 * SECTOR_SIZE);
        uint8_t durable[SECTORS] = {0};
        uint8_t newest[SECTORS] = {0};
        uint64_t size_durable = 4 * SECTOR_SIZE;
        for (uint8_t step = 1; step < 20; step++) {
            const uint64_t sector = prng_below(&prng, SECTORS);
            const uint64_t count = prng_range(&prng, 1, SECTORS - sector);
            cr_assert(eq(int, write_letter(sector, count, step), STATUS_OK));
            memset(newest + sector, step, count);
            if (prng_chance(&prng, 1, 4)) {
                cr_assert(eq(int, io_sync(&sim.io), STATUS_OK));
                memcpy(durable, newest, sizeof durable);
                size_durable = sim.size;
            }
        }
        const uint64_t size_before = sim.size;
        sim_io_crash(&sim, seed);
        cr_assert(sim.size == size_durable || sim.size == size_before);
        for (uint64_t unit = 0; unit < LIMIT / SIM_IO_TEAR_SIZE; unit++) {
            const uint64_t sector = unit * SIM_IO_TEAR_SIZE / SECTOR_SIZE;
            const uint8_t *bytes = sim.bytes + unit * SIM_IO_TEAR_SIZE;
            const bool within = sector * SECTOR_SIZE < sim.size;
            cr_assert(bytes[0] == durable[sector] || (within && bytes[0] == newest[sector]));
            cr_assert(eq(int, memcmp(bytes, bytes + 1, SIM_IO_TEAR_SIZE - 1), 0));
        }
        cr_assert(eq(int, memcmp(sim.bytes, sim.durable, LIMIT), 0));
        cr_assert(eq(u64, sim.unsynced_count, 0));
    }
}

Test(sim_io, faults_fire_once_at_their_turn)
{
    cr_assert(eq(int, write_letter(0, 1, 'a'), STATUS_OK));
    sim_io_fail_write(&sim, 2, STATUS_NO_SPACE);
    sim_io_fail_read(&sim, 1, STATUS_IO);
    sim_io_fail_sync(&sim, 1, STATUS_IO);
    cr_assert(eq(int, write_letter(0, 1, 'b'), STATUS_OK));
    cr_assert(eq(int, write_letter(0, 1, 'c'), STATUS_NO_SPACE));
    cr_assert(eq(u8, sim.bytes[0], 'b'));
    cr_assert(eq(int, io_read(&sim.io, 0, buffer, SECTOR_SIZE), STATUS_IO));
    cr_assert(eq(int, io_sync(&sim.io), STATUS_IO));
    cr_assert(eq(u8, sim.durable[0], 0));
    cr_assert(not(sim_io_armed(&sim)));
    cr_assert(eq(int, io_sync(&sim.io), STATUS_IO)); /* For good, until another process opens it. */
    sim_io_reopen(&sim);
    cr_assert(eq(int, io_sync(&sim.io), STATUS_OK));
    cr_assert(eq(u8, sim.durable[0], 'b'));
}

Test(sim_io, torn_write_keeps_its_first_bytes)
{
    cr_assert(eq(int, write_letter(0, 2, 'a'), STATUS_OK));
    sim_io_tear_write(&sim, 1, 5000, STATUS_IO);
    cr_assert(eq(int, write_letter(0, 2, 'b'), STATUS_IO));
    cr_assert(eq(u8, sim.bytes[4999], 'b'));
    cr_assert(eq(u8, sim.bytes[5000], 'a'));
}

Test(sim_io, nothing_works_without_power)
{
    uint64_t size;
    sim_io_lose_power(&sim, 2);
    cr_assert(eq(int, write_letter(0, 1, 'a'), STATUS_OK));
    cr_assert(eq(int, io_sync(&sim.io), STATUS_IO));
    cr_assert(eq(int, write_letter(0, 1, 'b'), STATUS_IO));
    cr_assert(eq(int, io_read(&sim.io, 0, buffer, SECTOR_SIZE), STATUS_IO));
    cr_assert(eq(int, io_size(&sim.io, &size), STATUS_IO));
    sim_io_crash_lose_all(&sim);
    cr_assert(eq(int, io_size(&sim.io, &size), STATUS_OK));
    cr_assert(eq(u64, size, 0));

    sim_io_lose_power(&sim, 1);
    cr_assert(eq(int, write_letter(0, 1, 'c'), STATUS_IO));
    sim_io_crash_keep_all(&sim);
    cr_assert(eq(u8, sim.bytes[0], 'c'));
}

Test(sim_io, flip_and_load_are_durable)
{
    memset(buffer, 'x', LIMIT);
    sim_io_load(&sim, buffer, LIMIT);
    sim_io_flip(&sim, 100, 0x80);
    sim_io_crash_lose_all(&sim);
    cr_assert(eq(u8, sim.bytes[100], 'x' ^ 0x80));
    sim_io_save(&sim, buffer);
    cr_assert(eq(u8, buffer[100], 'x' ^ 0x80));
    sim_io_load(&sim, buffer, SECTOR_SIZE);
    cr_assert(eq(u8, sim.bytes[SECTOR_SIZE], 0));
}

/* What the disk says; io_sync remembers. */
static enum status told(struct io *io)
{
    return io->ops->sync(io);
}

Test(sim_io, a_lost_write_back_is_told_once_to_each_opening)
{
    struct sim_io_opening again;
    sim_io_open_again(&sim, &again);
    cr_assert(eq(int, write_letter(0, 2, 'a'), STATUS_OK));
    cr_assert(eq(int, told(&again.io), STATUS_OK));
    cr_assert(eq(int, write_letter(0, 1, 'b'), STATUS_OK));
    sim_io_lose_at_sync(&sim, 1);
    cr_assert(eq(int, told(&sim.io), STATUS_IO));
    cr_assert(not(sim_io_armed(&sim)));
    cr_assert(eq(int, told(&sim.io), STATUS_OK)); /* The news is gone, and so are the bytes. */
    cr_assert(eq(int, told(&again.io), STATUS_IO));
    cr_assert(eq(int, told(&again.io), STATUS_OK));
    sim_io_open_again(&sim, &again);
    cr_assert(eq(int, told(&again.io), STATUS_OK));
    cr_assert(eq(int, io_read(&again.io, 0, buffer, SECTOR_SIZE), STATUS_OK));
    cr_assert(eq(u8, buffer[0], 'b'));
    cr_assert(eq(int, write_letter(1, 1, 'c'), STATUS_OK));
    sim_io_crash_keep_all(&sim);
    cr_assert(eq(u8, sim.bytes[0], 'a'));
    cr_assert(eq(u8, sim.bytes[SECTOR_SIZE], 'c'));
}
