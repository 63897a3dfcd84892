/* Goal: a block is taken for what its parent pointed to only if it is that, to the bit. Method:
 * seal, then break one thing at a time: every byte, every field of the reference, the header fields
 * of a block that was sealed wrong. */
#include "engine/storage/block.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <string.h>

#include "tests/harness/prng.h"

enum { SIZE = 4096 };

static _Alignas(4096) uint8_t block[SIZE];
static struct block_reference reference;

static struct block_reference seal(uint32_t size)
{
    struct prng prng;
    prng_init(&prng, size);
    prng_fill(&prng, block, SIZE);
    *block_header(block) = (struct block_header){
        .address = 7,
        .op = 3,
        .size = size,
        .tree_id = 2,
        .key_size = 8,
        .value_size = 128,
        .value_count = 4,
        .type = BLOCK_TYPE_VALUE,
    };
    return block_seal(block, SIZE);
}

static void setup(void)
{
    reference = seal(1000);
}

TestSuite(block, .init = setup, .timeout = 120);

static enum status verify(void)
{
    return block_verify(block, SIZE, &reference, BLOCK_TYPE_VALUE);
}

Test(block, seals_for_every_size)
{
    for (uint32_t size = BLOCK_HEADER_SIZE; size <= SIZE; size += 31) {
        reference = seal(size);
        cr_assert(eq(u64, reference.address, 7));
        cr_assert(eq(int, verify(), STATUS_OK));
        for (uint32_t i = size; i < SIZE; i++) {
            cr_assert(eq(u8, block[i], 0));
        }
    }
}

Test(block, any_flipped_bit_is_seen)
{
    for (uint32_t bit = 0; bit < 8 * SIZE; bit += 3) {
        block[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cr_assert(eq(int, verify(), STATUS_CORRUPT));
        block[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    cr_assert(eq(int, verify(), STATUS_OK));
}

Test(block, must_be_what_the_parent_points_to)
{
    cr_assert(eq(int, block_verify(block, SIZE, &reference, BLOCK_TYPE_INDEX), STATUS_CORRUPT));
    struct block_reference other = reference;
    other.address = 8;
    cr_assert(eq(int, block_verify(block, SIZE, &other, BLOCK_TYPE_VALUE), STATUS_CORRUPT));
    other = reference;
    other.checksum.bytes[15] ^= 1;
    cr_assert(eq(int, block_verify(block, SIZE, &other, BLOCK_TYPE_VALUE), STATUS_CORRUPT));
}

static enum status verify_resealed(void)
{
    block_header(block)->checksum = checksum_of(block + 16, SIZE - 16);
    reference.checksum = block_header(block)->checksum;
    return verify();
}

Test(block, right_checksum_does_not_excuse_a_wrong_header)
{
    struct block_header *header = block_header(block);
    const struct block_header good = *header;
    cr_assert(eq(int, verify_resealed(), STATUS_OK));
    header->size = BLOCK_HEADER_SIZE - 1;
    cr_assert(eq(int, verify_resealed(), STATUS_CORRUPT));
    header->size = SIZE + 1;
    cr_assert(eq(int, verify_resealed(), STATUS_CORRUPT));
    *header = good;
    header->version = BLOCK_VERSION + 1;
    cr_assert(eq(int, verify_resealed(), STATUS_CORRUPT));
    *header = good;
    header->zero[5] = 1;
    cr_assert(eq(int, verify_resealed(), STATUS_CORRUPT));
    *header = good;
    header->address = 8;
    cr_assert(eq(int, verify_resealed(), STATUS_CORRUPT));
}

Test(block, sealing_without_an_address_is_a_bug, .signal = SIGABRT)
{
    block_header(block)->address = 0;
    (void)block_seal(block, SIZE);
}

Test(block, sealing_more_than_a_block_is_a_bug, .signal = SIGABRT)
{
    block_header(block)->size = SIZE + 1;
    (void)block_seal(block, SIZE);
}
