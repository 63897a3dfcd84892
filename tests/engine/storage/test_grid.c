/* Goal: what is written is read back; what is damaged, misplaced or lost is never returned; the
 * file grows when asked, survives failing to, and says so. Method: a disk in memory with faults at
 * every operation in turn, growth run inline (threads: stress_grid.c, under TSan). */
#include "engine/storage/grid.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <string.h>

#include "pool/base.h"
#include "pool/memory.h"
#include "tests/harness/prng.h"
#include "tests/harness/sim_io.h"

enum {
    CHUNK = 192, /* blocks; 768 KiB, so a chunk takes two writes */
    BLOCK_SIZE = 4096,
    BUFFER_COUNT = 400,
    SIZE_LIMIT = 64 << 20,
};

static struct sim_io sim;
static struct geometry geometry;
static struct workers workers;
static struct doorbell doorbell;
static struct grid grid;
static uint8_t *buffer; /* [BUFFER_COUNT * BLOCK_SIZE] */
static uint8_t *spare;  /* one block */

static void grid_open(void)
{
    cr_assert(eq(int, grid_init(&grid, &sim.io, &geometry, 1, &workers, &doorbell), STATUS_OK));
}

static void setup(void)
{
    geometry = geometry_tiny();
    geometry.chunk_block_count = CHUNK;
    geometry.block_count_max = CHUNK * 20;
    sim_io_init(&sim, SIZE_LIMIT);
    doorbell_init(&doorbell);
    cr_assert(eq(int, workers_start(&workers, "grow", 0, 1), STATUS_OK));
    cr_assert(eq(int, grid_format(&sim.io, &geometry), STATUS_OK));
    grid_open();
    buffer = memory_acquire((size_t)BUFFER_COUNT * BLOCK_SIZE);
    spare = memory_acquire(BLOCK_SIZE);
}

static void teardown(void)
{
    memory_release(spare, BLOCK_SIZE);
    memory_release(buffer, (size_t)BUFFER_COUNT * BLOCK_SIZE);
    grid_deinit(&grid);
    workers_join(&workers);
    doorbell_deinit(&doorbell);
    sim_io_deinit(&sim);
}

TestSuite(grid, .init = setup, .fini = teardown, .timeout = 120);

static uint64_t block_offset(uint64_t address)
{
    return grid_zone_offset(&geometry) + (address - 1) * BLOCK_SIZE;
}

static struct block_reference make_block(uint8_t *block, uint64_t address, uint64_t seed)
{
    struct prng prng;
    prng_init(&prng, seed);
    memset(block, 0, BLOCK_SIZE);
    *block_header(block) = (struct block_header){
        .address = address,
        .op = seed,
        .size = BLOCK_SIZE - 100,
        .type = BLOCK_TYPE_VALUE,
    };
    prng_fill(&prng, block_body(block), BLOCK_SIZE - 100 - BLOCK_HEADER_SIZE);
    return block_seal(block, BLOCK_SIZE);
}

/* Makes and writes one block. */
static struct block_reference write_block(uint64_t address, uint64_t seed)
{
    const struct block_reference reference = make_block(buffer, address, seed);
    cr_assert(eq(int, grid_write_blocks(&grid, address, 1, buffer), STATUS_OK));
    return reference;
}

static enum status get(const struct block_reference *reference)
{
    struct block_pin pin;
    const enum status status = grid_get_block(&grid, reference, BLOCK_TYPE_VALUE, spare, &pin);
    if (status == STATUS_OK) {
        cr_assert(
            eq(int, block_verify(pin.data, BLOCK_SIZE, reference, BLOCK_TYPE_VALUE), STATUS_OK));
        grid_put_block(&grid, &pin);
    }
    cr_assert(eq(ptr, (void *)pin.data, NULL));
    return status;
}

Test(grid, adjacent_blocks_are_read_back)
{
    static struct block_reference references[BUFFER_COUNT];
    for (uint32_t i = 0; i < BUFFER_COUNT; i++) {
        references[i] = make_block(buffer + (size_t)i * BLOCK_SIZE, 5 + i, i);
    }
    cr_assert(eq(int, grid_write_blocks(&grid, 5, BUFFER_COUNT, buffer), STATUS_OK));
    cr_assert(eq(u64, grid.blocks_written, BUFFER_COUNT));
    for (uint32_t i = 0; i < BUFFER_COUNT; i++) {
        cr_assert(eq(int, get(&references[i]), STATUS_OK));
    }
    cr_assert(eq(u64, grid.blocks_read, BUFFER_COUNT));

    uint8_t *again = memory_acquire((size_t)BUFFER_COUNT * BLOCK_SIZE);
    const uint64_t reads = sim.read_count;
    cr_assert(eq(int, grid_read_blocks(&grid, 5, BUFFER_COUNT, again), STATUS_OK));
    cr_assert(eq(int, memcmp(again, buffer, (size_t)BUFFER_COUNT * BLOCK_SIZE), 0));
    cr_assert(eq(u64, sim.read_count - reads, div_ceil(BUFFER_COUNT * BLOCK_SIZE, IO_SIZE_MAX)));
    memory_release(again, (size_t)BUFFER_COUNT * BLOCK_SIZE);
}

Test(grid, second_get_does_not_read)
{
    const struct block_reference reference = write_block(3, 1);
    cr_assert(eq(int, get(&reference), STATUS_OK));
    const uint64_t reads = sim.read_count;
    cr_assert(eq(int, get(&reference), STATUS_OK));
    cr_assert(eq(u64, sim.read_count, reads));
}

Test(grid, every_flipped_bit_is_detected)
{
    const struct block_reference reference = write_block(3, 1);
    for (uint32_t offset = 0; offset < BLOCK_SIZE; offset += offset < 200 ? 1 : 37) {
        const uint8_t mask = (uint8_t)(1 << offset % 8);
        sim_io_flip(&sim, block_offset(3) + offset, mask);
        const uint64_t reads = sim.read_count;
        cr_assert(eq(int, get(&reference), STATUS_CORRUPT));
        cr_assert(eq(u64, sim.read_count - reads, 2)); /* Looked twice. */
        sim_io_flip(&sim, block_offset(3) + offset, mask);
    }
    cr_assert(eq(int, get(&reference), STATUS_OK));
}

Test(grid, misdirected_and_lost_writes_are_detected)
{
    const struct block_reference older = write_block(3, 1);
    const struct block_reference other = write_block(4, 2);
    memcpy(sim.bytes + block_offset(3), sim.bytes + block_offset(4), BLOCK_SIZE);
    cr_assert(eq(int, get(&older), STATUS_CORRUPT)); /* A whole, valid block, but not this one. */
    cr_assert(eq(int, get(&other), STATUS_OK));

    (void)write_block(3, 1);
    sim_io_tear_write(&sim, 1, 0, STATUS_OK);
    const struct block_reference newer = write_block(3, 7);
    cr_assert(eq(int, get(&newer), STATUS_CORRUPT));
    cr_assert(eq(int, get(&older), STATUS_OK));

    sim_io_tear_write(&sim, 1, 1024, STATUS_OK);
    const struct block_reference torn = write_block(3, 8);
    cr_assert(eq(int, get(&torn), STATUS_CORRUPT));
}

Test(grid, parent_that_is_wrong_about_the_type_is_refused)
{
    const struct block_reference reference = write_block(3, 1);
    struct block_pin pin;
    for (int cached = 0; cached < 2; cached++) {
        cr_assert(eq(int, grid_get_block(&grid, &reference, BLOCK_TYPE_INDEX, spare, &pin),
                     STATUS_CORRUPT));
        cr_assert(eq(int, get(&reference), STATUS_OK));
    }
}

Test(grid, references_past_the_file_are_damage)
{
    struct block_reference reference = write_block(3, 1);
    const uint64_t addresses[] = {0, CHUNK + 1, CHUNK * 20 + 1, UINT64_MAX};
    for (uint32_t i = 0; i < array_count(addresses); i++) {
        reference.address = addresses[i];
        cr_assert(eq(int, get(&reference), STATUS_CORRUPT));
        cr_assert(eq(int, grid_read_blocks(&grid, addresses[i], 1, buffer), STATUS_CORRUPT));
    }
    cr_assert(eq(int, grid_read_blocks(&grid, CHUNK, 2, buffer), STATUS_CORRUPT));
}

Test(grid, failed_read_is_repeated_once)
{
    const struct block_reference reference = write_block(3, 1);
    sim_io_fail_read(&sim, 1, STATUS_IO);
    cr_assert(eq(int, get(&reference), STATUS_OK));

    const struct block_reference other = write_block(4, 1);
    sim_io_fail_read(&sim, 2, STATUS_IO);
    sim_io_flip(&sim, block_offset(4) + 300, 1); /* First damaged, then unreadable. */
    cr_assert(eq(int, get(&other), STATUS_IO));
    sim_io_flip(&sim, block_offset(4) + 300, 1);
    cr_assert(eq(int, get(&other), STATUS_OK));
}

/* A disk that returns one bad byte once: what the second look is for. */
static const struct io_ops *ops_below;
static int glitches;

static enum status glitch_read(struct io *io, uint64_t offset, void *bytes, size_t size)
{
    const enum status status = ops_below->read(io, offset, bytes, size);
    if (glitches > 0) {
        glitches -= 1;
        ((uint8_t *)bytes)[size / 2] ^= 0x10;
    }
    return status;
}

Test(grid, transient_corruption_is_not_damage)
{
    const struct block_reference reference = write_block(3, 1);
    ops_below = sim.io.ops;
    struct io_ops ops = *sim.io.ops;
    ops.read = glitch_read;
    sim.io.ops = &ops;
    glitches = 2;
    cr_assert(eq(int, get(&reference), STATUS_CORRUPT));
    glitches = 1;
    cr_assert(eq(int, get(&reference), STATUS_OK));
    sim.io.ops = ops_below;
}

Test(grid, full_cache_falls_back_to_the_spare_block)
{
    enum { COUNT = 1000 };
    static struct block_reference references[COUNT];
    static struct block_pin pins[COUNT];
    uint32_t spare_count = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        references[i] = write_block(1 + i, i);
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        struct block_pin *pin = &pins[i];
        cr_assert(eq(int, grid_get_block(&grid, &references[i], BLOCK_TYPE_VALUE, spare, pin),
                     STATUS_OK));
        cr_assert(eq(int, block_verify(pin->data, BLOCK_SIZE, &references[i], BLOCK_TYPE_VALUE),
                     STATUS_OK));
        if (pin->slot == NULL) {
            cr_assert(eq(ptr, (void *)pin->data, spare));
            grid_put_block(&grid, pin);
            spare_count += 1;
        }
    }
    cr_assert(eq(u32, spare_count, COUNT - 256));
    for (uint32_t i = 0; i < COUNT; i++) {
        if (pins[i].data != NULL) {
            grid_put_block(&grid, &pins[i]);
        }
    }
}

Test(grid, format_makes_one_chunk_of_durable_zeros)
{
    cr_assert(eq(u64, grid.block_count, CHUNK));
    cr_assert(eq(u64, sim.size_durable, block_offset(CHUNK + 1)));
}

Test(grid, writing_past_the_end_grows_by_whole_synced_chunks)
{
    memset(sim.bytes + block_offset(CHUNK + 1), 0xEE, BLOCK_SIZE); /* Left by another life. */
    const struct block_reference reference = write_block(3 * CHUNK + 1, 1);
    cr_assert(eq(u64, grid.block_count, 4 * CHUNK));
    cr_assert(eq(u64, sim.size_durable, block_offset(4 * CHUNK + 1)));
    cr_assert(eq(int, sim.bytes[block_offset(CHUNK + 1)], 0));
    cr_assert(eq(int, get(&reference), STATUS_OK));
    cr_assert(gt(u64, doorbell_count(&doorbell), 0));
}

Test(grid, growing_ahead_keeps_room_and_stops_at_the_limit)
{
    grid_grow_ahead(&grid, 10, CHUNK - 10);
    cr_assert(not(grid.growing));
    grid_grow_ahead(&grid, 10, CHUNK - 9);
    cr_assert(grid.growing);
    grid_grow_ahead(&grid, 10, 2 * CHUNK); /* The target is raised while the job is queued. */
    cr_assert(workers_run_one(&workers));
    cr_assert(not(grid.growing));
    cr_assert(eq(u64, grid.block_count, 3 * CHUNK));

    grid_grow_ahead(&grid, 20 * CHUNK - 1, UINT64_MAX);
    cr_assert(workers_run_one(&workers));
    cr_assert(eq(u64, grid.block_count, 20 * CHUNK));
    grid_grow_ahead(&grid, 20 * CHUNK, UINT64_MAX);
    cr_assert(not(workers_run_one(&workers)));
}

Test(grid, failed_growth_is_reported_and_tried_again_when_asked)
{
    const struct block_reference reference = write_block(3, 1);
    const enum status faults[] = {STATUS_NO_SPACE, STATUS_IO};
    bool fired = true;
    for (uint64_t n = 1; fired; n++) {
        const enum status fault = faults[n % 2];
        const uint64_t wanted = grid.block_count + 2 * CHUNK;
        sim_io_fail_write(&sim, n, fault);
        grid_grow_ahead(&grid, wanted, 0);
        cr_assert(workers_run_one(&workers));
        fired = !sim_io_armed(&sim);
        sim_io_fail_write(&sim, 0, STATUS_OK);
        if (!fired) {
            cr_assert(eq(int, grid.grow_status, STATUS_OK));
            cr_assert(eq(u64, grid.block_count, wanted));
            break;
        }
        cr_assert(eq(int, grid.grow_status, fault));
        cr_assert(lt(u64, grid.block_count, wanted));
        cr_assert(eq(u64, grid.block_count % CHUNK, 0));
        cr_assert(not(grid_sync_failed(&grid)));

        /* Waiters are told, and do not try themselves. What exists is usable. */
        const uint64_t writes = sim.write_count;
        cr_assert(eq(int, grid_wait_usable(&grid, wanted), fault));
        cr_assert(eq(u64, sim.write_count, writes));
        cr_assert(eq(int, grid_wait_usable(&grid, grid.block_count), STATUS_OK));
        cr_assert(eq(int, get(&reference), STATUS_OK));

        grid_grow_ahead(&grid, wanted, 0);
        cr_assert(eq(int, grid_wait_usable(&grid, wanted), STATUS_OK));
        cr_assert(eq(int, grid.grow_status, STATUS_OK));
        cr_assert(eq(u64, grid.block_count, wanted));
    }
}

Test(grid, write_that_cannot_grow_says_so)
{
    (void)make_block(buffer, CHUNK + 1, 1);
    sim_io_fail_write(&sim, 1, STATUS_NO_SPACE);
    cr_assert(eq(int, grid_write_blocks(&grid, CHUNK + 1, 1, buffer), STATUS_NO_SPACE));
    cr_assert(eq(int, grid_write_blocks(&grid, CHUNK + 1, 1, buffer), STATUS_NO_SPACE));
    cr_assert(eq(u64, grid.blocks_written, 0));
    grid_grow_ahead(&grid, CHUNK + 1, 0);
    cr_assert(eq(int, grid_write_blocks(&grid, CHUNK + 1, 1, buffer), STATUS_OK));
}

Test(grid, failed_sync_of_growth_is_for_good)
{
    sim_io_fail_sync(&sim, 1, STATUS_IO);
    cr_assert(eq(int, grid_wait_usable(&grid, CHUNK + 1), STATUS_IO));
    cr_assert(grid_sync_failed(&grid));
    cr_assert(eq(u64, grid.block_count, CHUNK));
    const uint64_t syncs = sim.sync_count;
    cr_assert(eq(int, grid_sync(&grid), STATUS_IO));
    grid_grow_ahead(&grid, CHUNK + 1, 0);
    cr_assert(not(workers_run_one(&workers)));
    cr_assert(eq(int, grid_wait_usable(&grid, CHUNK + 1), STATUS_IO));
    cr_assert(eq(u64, sim.sync_count, syncs));
}

Test(grid, failed_sync_stays_failed)
{
    cr_assert(eq(int, grid_sync(&grid), STATUS_OK));
    sim_io_fail_sync(&sim, 1, STATUS_IO);
    cr_assert(eq(int, grid_sync(&grid), STATUS_IO));
    cr_assert(eq(int, grid_sync(&grid), STATUS_IO));
    cr_assert(eq(int, grid_wait_usable(&grid, CHUNK + 1), STATUS_IO));
}

Test(grid, partial_chunk_is_not_used_after_a_crash)
{
    const struct block_reference reference = write_block(3, 1);
    cr_assert(eq(int, grid_sync(&grid), STATUS_OK));
    sim_io_fail_write(&sim, 2, STATUS_NO_SPACE); /* The chunk's second write. */
    cr_assert(eq(int, grid_wait_usable(&grid, CHUNK + 1), STATUS_NO_SPACE));
    grid_deinit(&grid);
    sim_io_crash_keep_all(&sim);
    cr_assert(gt(u64, sim.size, block_offset(CHUNK + 1)));
    grid_open();
    cr_assert(eq(u64, grid.block_count, CHUNK));
    cr_assert(eq(int, get(&reference), STATUS_OK));
    cr_assert(eq(int, grid_wait_usable(&grid, CHUNK + 1), STATUS_OK));
    cr_assert(eq(u64, grid.block_count, 2 * CHUNK));
}

Test(grid, usable_chunks_survive_every_crash)
{
    struct prng prng;
    prng_init(&prng, 9);
    for (uint64_t seed = 0; seed < 30; seed++) {
        const uint64_t block_count = grid.block_count;
        sim_io_lose_power(&sim, prng_range(&prng, 1, 8));
        grid_grow_ahead(&grid, min_u64(block_count + 2 * CHUNK, 20 * CHUNK), 0);
        (void)workers_run_one(&workers);
        const uint64_t promised = grid.block_count;
        grid_deinit(&grid);
        sim_io_crash(&sim, seed);
        grid_open();
        cr_assert(ge(u64, grid.block_count, promised));
        if (grid.block_count == 20 * CHUNK) {
            break;
        }
    }
}

Test(grid, init_fails_with_the_disk)
{
    grid_deinit(&grid);
    sim_io_lose_power(&sim, 1);
    (void)!io_sync(&sim.io);
    cr_assert(eq(int, grid_init(&grid, &sim.io, &geometry, 1, &workers, &doorbell), STATUS_IO));
    sim_io_crash(&sim, 1);
    grid_open();
}

Test(grid, deinit_finishes_growth_that_was_asked_for)
{
    grid_grow_ahead(&grid, CHUNK, 1);
    grid_deinit(&grid);
    cr_assert(eq(u64, sim.size_durable, block_offset(2 * CHUNK + 1)));
    grid_open();
}

Test(grid, writing_a_block_elsewhere_is_a_bug, .fini = NULL, .signal = SIGABRT)
{
    (void)make_block(buffer, 4, 1);
    (void)!grid_write_blocks(&grid, 3, 1, buffer);
}

Test(grid, writing_an_unsealed_block_is_a_bug, .fini = NULL, .signal = SIGABRT)
{
    (void)make_block(buffer, 3, 1);
    block_body(buffer)[0] ^= 1;
    (void)!grid_write_blocks(&grid, 3, 1, buffer);
}
