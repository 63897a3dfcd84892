/* Goal: many writers past the end of the file, one growth job, readers beside them: no race, no
 * lost wake-up, every block read back, also when growth fails now and then. Method: threads write
 * blocks at interleaved addresses and read those of others, with a growth team of one thread and of
 * none. Run under -fsanitize=thread. */
#include "engine/storage/grid.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "pool/memory.h"
#include "tests/harness/prng.h"
#include "tests/harness/sim_io.h"

enum {
    THREAD_COUNT = 3,
    BLOCK_COUNT = THREAD_COUNT * 300,
    FAULT_MAX = 30, /* failed writes, most of them the growth's */
};

static struct sim_io sim;
static struct geometry geometry;
static struct workers workers;
static struct doorbell doorbell;
static struct grid grid;
static struct block_reference references[BLOCK_COUNT]; /* of address index + 1 */
static atomic_bool written[BLOCK_COUNT];
static atomic_uint done_count;

static void *thread_main(void *argument)
{
    const uint64_t first = (uint64_t)(uintptr_t)argument;
    const uint32_t block_size = geometry.block_size;
    struct prng prng;
    prng_init(&prng, first);
    uint8_t *block = memory_acquire(block_size);
    uint8_t *spare = memory_acquire(block_size);
    assert(block != NULL && spare != NULL);

    for (uint64_t i = first; i < BLOCK_COUNT; i += THREAD_COUNT) {
        *block_header(block) = (struct block_header){
            .address = i + 1, .op = 1, .size = block_size, .type = BLOCK_TYPE_VALUE};
        prng_fill(&prng, block_body(block), block_size - BLOCK_HEADER_SIZE);
        references[i] = block_seal(block, block_size);
        enum status status;
        do { /* Growth that failed is asked for again by the forest thread. */
            status = grid_write_blocks(&grid, i + 1, 1, block);
        } while (status == STATUS_NO_SPACE);
        assert(status == STATUS_OK);
        atomic_store(&written[i], true);

        const uint64_t other = prng_below(&prng, BLOCK_COUNT);
        if (atomic_load(&written[other])) {
            struct block_pin pin;
            status = grid_get_block(&grid, &references[other], BLOCK_TYPE_VALUE, spare, &pin);
            assert(status == STATUS_OK);
            status = block_verify(pin.data, block_size, &references[other], BLOCK_TYPE_VALUE);
            assert(status == STATUS_OK);
            grid_put_block(&grid, &pin);
        }
    }
    memory_release(spare, block_size);
    memory_release(block, block_size);
    atomic_fetch_add(&done_count, 1);
    doorbell_ring(&doorbell);
    return NULL;
}

static void run(uint32_t growth_thread_count)
{
    geometry = geometry_tiny();
    sim_io_init(&sim, 64 << 20);
    doorbell_init(&doorbell);
    memset(written, 0, sizeof written);
    atomic_store(&done_count, 0);
    enum status status = workers_start(&workers, "grow", growth_thread_count, 1);
    assert(status == STATUS_OK);
    status = grid_format(&sim.io, &geometry);
    assert(status == STATUS_OK);
    status = grid_init(&grid, &sim.io, &geometry, 1, &workers, &doorbell);
    assert(status == STATUS_OK);

    pthread_t threads[THREAD_COUNT];
    for (uintptr_t i = 0; i < THREAD_COUNT; i++) {
        const int error = pthread_create(&threads[i], NULL, thread_main, (void *)i);
        assert(error == 0);
    }
    /* The forest thread: asks again whenever growth has failed, and lets it fail at times. */
    uint32_t fault_count = 0;
    while (atomic_load(&done_count) < THREAD_COUNT) {
        const uint64_t seen = doorbell_count(&doorbell);
        if (atomic_load(&grid.growing) && fault_count < FAULT_MAX) {
            fault_count += 1;
            sim_io_fail_write(&sim, 1, STATUS_NO_SPACE);
        }
        if (atomic_load(&grid.grow_status) == STATUS_NO_SPACE) {
            grid_grow_ahead(&grid, grid.block_count, 1);
            (void)workers_run_one(&workers);
        } else if (atomic_load(&done_count) < THREAD_COUNT) {
            doorbell_wait(&doorbell, seen, 1000 * 1000);
        }
    }
    for (int i = 0; i < THREAD_COUNT; i++) {
        const int error = pthread_join(threads[i], NULL);
        assert(error == 0);
    }
    sim_io_fail_write(&sim, 0, STATUS_OK);

    uint8_t *block = memory_acquire(geometry.block_size);
    assert(block != NULL);
    for (uint64_t i = 0; i < BLOCK_COUNT; i++) {
        status = grid_read_block(&grid, &references[i], BLOCK_TYPE_VALUE, block);
        assert(status == STATUS_OK);
    }
    memory_release(block, geometry.block_size);
    grid_deinit(&grid);
    workers_join(&workers);
    doorbell_deinit(&doorbell);
    sim_io_deinit(&sim);
}

int main(void)
{
    for (int round = 0; round < 5; round++) {
        run(1);
        run(0);
    }
    return 0;
}
