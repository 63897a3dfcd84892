/* Goal: any string comes back byte for byte, its blocks are the same for the same input, and a
 * chain that is damaged, too short or too long is named, not returned. Method: sizes around every
 * multiple of a body and random ones, for several block sizes; each block of a chain damaged in
 * turn. */
#include "engine/storage/trailer.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/parameterized.h>
#include <string.h>

#include "pool/base.h"
#include "pool/memory.h"
#include "tests/harness/prng.h"
#include "tests/harness/sim_io.h"

enum { BLOCK_COUNT_MAX = 12, ADDRESS_FIRST = 10 };

static struct sim_io sim;
static struct geometry geometry;
static struct workers workers;
static struct doorbell doorbell;
static struct grid grid;
static uint8_t *bytes;  /* [size_max] */
static uint8_t *result; /* [size_max] */
static uint8_t *blocks; /* [BLOCK_COUNT_MAX * block_size] */
static uint8_t *block;
static uint64_t size_max;
static uint64_t addresses[BLOCK_COUNT_MAX];
static uint64_t visited[BLOCK_COUNT_MAX];
static uint32_t visited_count;

static void open_with(uint32_t block_size)
{
    geometry = geometry_tiny();
    geometry.block_size = block_size;
    sim_io_init(&sim, 512 << 20);
    doorbell_init(&doorbell);
    cr_assert(eq(int, workers_start(&workers, "grow", 0, 1), STATUS_OK));
    cr_assert(eq(int, grid_init(&grid, &sim.io, &geometry, 1, &workers, &doorbell), STATUS_OK));
    size_max = (uint64_t)BLOCK_COUNT_MAX * (block_size - BLOCK_HEADER_SIZE);
    bytes = memory_acquire(size_max);
    result = memory_acquire(size_max);
    blocks = memory_acquire((size_t)BLOCK_COUNT_MAX * block_size);
    block = memory_acquire(block_size);

    struct prng prng;
    prng_init(&prng, block_size);
    prng_fill(&prng, bytes, size_max);
    for (uint32_t i = 0; i < BLOCK_COUNT_MAX; i++) { /* In no order, not adjacent. */
        addresses[i] = ADDRESS_FIRST + (i * 7) % BLOCK_COUNT_MAX * 2;
    }
}

static void close_all(void)
{
    memory_release(block, geometry.block_size);
    memory_release(blocks, (size_t)BLOCK_COUNT_MAX * geometry.block_size);
    memory_release(result, size_max);
    memory_release(bytes, size_max);
    grid_deinit(&grid);
    workers_join(&workers);
    doorbell_deinit(&doorbell);
    sim_io_deinit(&sim);
}

static void visit(const struct block_reference *reference, void *context)
{
    cr_assert(eq(ptr, context, &visited_count));
    cr_assert(lt(u32, visited_count, BLOCK_COUNT_MAX));
    visited[visited_count++] = reference->address;
}

/* Builds and writes the chain of the first `size` bytes. */
static struct block_reference write_chain(uint64_t size)
{
    const uint32_t count = trailer_block_count(geometry.block_size, size);
    cr_assert(le(u32, count, BLOCK_COUNT_MAX));
    memset(blocks, 0xEE, (size_t)BLOCK_COUNT_MAX * geometry.block_size);
    const struct block_reference first =
        trailer_build(geometry.block_size, BLOCK_TYPE_FREE_SET, 5, bytes, size, addresses, blocks);
    for (uint32_t i = 0; i < count; i++) {
        cr_assert(
            eq(int,
               grid_write_blocks(&grid, addresses[i], 1, blocks + (size_t)i * geometry.block_size),
               STATUS_OK));
    }
    return first;
}

static enum status read_chain(const struct block_reference *first, uint64_t size,
                              uint64_t *bad_address)
{
    visited_count = 0;
    memset(result, 0xDD, size_max);
    return trailer_read(&grid, BLOCK_TYPE_FREE_SET, first, result, size, block, visit,
                        &visited_count, bad_address);
}

static void check_round_trip(uint64_t size)
{
    uint64_t bad_address;
    const struct block_reference first = write_chain(size);
    const uint32_t count = trailer_block_count(geometry.block_size, size);
    cr_assert(eq(u64, first.address, count == 0 ? 0 : addresses[0]));
    cr_assert(eq(int, read_chain(&first, size, &bad_address), STATUS_OK));
    cr_assert(eq(int, memcmp(result, bytes, size), 0));
    cr_assert(eq(u64, bad_address, 0));
    cr_assert(eq(u32, visited_count, count));
    cr_assert(eq(int, memcmp(visited, addresses, count * sizeof visited[0]), 0));
    if (size < size_max) {
        cr_assert(eq(int, result[size], 0xDD)); /* Not a byte more. */
    }
}

ParameterizedTestParameters(trailer, every_size_comes_back)
{
    static uint32_t block_sizes[] = {4096, 32768, 1 << 20};
    return cr_make_param_array(uint32_t, block_sizes, array_count(block_sizes));
}

ParameterizedTest(uint32_t *block_size, trailer, every_size_comes_back, .timeout = 120)
{
    open_with(*block_size);
    const uint64_t body = *block_size - BLOCK_HEADER_SIZE;
    const uint64_t sizes[] = {0, 1, body - 1, body, body + 1, 2 * body, 3 * body - 1, size_max};
    for (uint32_t i = 0; i < array_count(sizes); i++) {
        check_round_trip(sizes[i]);
    }
    struct prng prng;
    prng_init(&prng, 1);
    for (uint32_t i = 0; i < (*block_size > 100000 ? 3u : 100u); i++) {
        check_round_trip(prng_range(&prng, 0, size_max));
    }
    close_all();
}

Test(trailer, same_bytes_give_the_same_blocks, .timeout = 120)
{
    open_with(4096);
    const struct block_reference first = write_chain(20000);
    const struct checksum checksum = checksum_of(blocks, 6 * 4096);
    for (uint32_t i = 0; i < 6 * 4096; i++) {
        blocks[i] = (uint8_t)i; /* Whatever was in the memory before. */
    }
    const struct block_reference again =
        trailer_build(4096, BLOCK_TYPE_FREE_SET, 5, bytes, 20000, addresses, blocks);
    cr_assert(eq(u32, trailer_block_count(4096, 20000), 6));
    cr_assert(eq(int, memcmp(&first, &again, sizeof first), 0));
    const struct checksum checksum_again = checksum_of(blocks, 6 * 4096);
    cr_assert(checksum_equal(&checksum_again, &checksum));
    close_all();
}

Test(trailer, damage_to_any_block_is_named, .timeout = 120)
{
    open_with(4096);
    const uint64_t size = 5 * (4096 - BLOCK_HEADER_SIZE) + 100;
    uint64_t bad_address;
    const struct block_reference first = write_chain(size);
    struct prng prng;
    prng_init(&prng, 3);
    for (uint32_t i = 0; i < trailer_block_count(4096, size); i++) {
        for (uint32_t try = 0; try < 20; try++) {
            const uint64_t offset =
                grid_zone_offset(&geometry) + (addresses[i] - 1) * 4096 + prng_below(&prng, 4096);
            sim_io_flip(&sim, offset, 4);
            cr_assert(eq(int, read_chain(&first, size, &bad_address), STATUS_CORRUPT));
            cr_assert(eq(u64, bad_address, addresses[i]));
            cr_assert(eq(u32, visited_count, i));
            sim_io_flip(&sim, offset, 4);
        }
        sim_io_fail_read(&sim, i + 1, STATUS_IO); /* Once is forgiven. */
        cr_assert(eq(int, read_chain(&first, size, &bad_address), STATUS_OK));
    }
    close_all();
}

Test(trailer, chain_of_another_length_is_damage, .timeout = 120)
{
    open_with(4096);
    const uint64_t body = 4096 - BLOCK_HEADER_SIZE;
    const uint64_t size = 3 * body + 100;
    uint64_t bad_address;
    const struct block_reference first = write_chain(size);
    const struct block_reference none = {0};

    cr_assert(eq(int, read_chain(&first, size + 1, &bad_address), STATUS_CORRUPT));
    cr_assert(eq(u64, bad_address, addresses[3])); /* Its last block is not that long. */
    cr_assert(eq(int, read_chain(&first, 3 * body, &bad_address), STATUS_CORRUPT));
    cr_assert(eq(u64, bad_address, addresses[2])); /* It goes on. */
    cr_assert(eq(int, read_chain(&first, 0, &bad_address), STATUS_CORRUPT));
    cr_assert(eq(u64, bad_address, addresses[0]));
    cr_assert(eq(int, read_chain(&none, 1, &bad_address), STATUS_CORRUPT));
    cr_assert(eq(u64, bad_address, 0));
    cr_assert(eq(int, read_chain(&none, 0, &bad_address), STATUS_OK));

    const struct block_reference whole = write_chain(3 * body);
    cr_assert(eq(int, read_chain(&whole, 3 * body + 1, &bad_address), STATUS_CORRUPT));
    cr_assert(eq(u64, bad_address, addresses[2])); /* It ends. */
    close_all();
}

Test(trailer, chain_of_another_type_is_damage, .timeout = 120)
{
    open_with(4096);
    uint64_t bad_address;
    const struct block_reference first = write_chain(100);
    cr_assert(eq(
        int,
        trailer_read(&grid, BLOCK_TYPE_STATE, &first, result, 100, block, NULL, NULL, &bad_address),
        STATUS_CORRUPT));
    cr_assert(eq(u64, bad_address, addresses[0]));
    close_all();
}
