#include "engine/storage/block.h"

#include <stddef.h>
#include <string.h>

#include "pool/base.h"

/* Headers are written as they are in memory. */
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file format is little-endian");
static_assert(offsetof(struct block_header, address) == 16, "layout");
static_assert(offsetof(struct block_header, size) == 32, "layout");
static_assert(offsetof(struct block_header, key_size) == 40, "layout");
static_assert(offsetof(struct block_header, value_count) == 44, "layout");
static_assert(offsetof(struct block_header, type) == 48, "layout");
static_assert(offsetof(struct block_header, metadata) == 56, "layout");

static struct checksum block_checksum(const void *block, uint32_t block_size)
{
    return checksum_of((const uint8_t *)block + CHECKSUM_SIZE, block_size - CHECKSUM_SIZE);
}

static bool zero_is_zero(const struct block_header *header)
{
    static const uint8_t zero[sizeof(header->zero)];
    return memcmp(header->zero, zero, sizeof(zero)) == 0;
}

static void assert_block_size(uint32_t block_size)
{
    assert(is_power_of_two(block_size));
    assert(block_size >= BLOCK_SIZE_MIN);
    assert(block_size <= BLOCK_SIZE_MAX);
    (void)block_size;
}

struct block_reference block_seal(void *block, uint32_t block_size)
{
    struct block_header *header = block_header(block);
    assert_block_size(block_size);
    assert(header->address > 0);
    assert(header->size >= BLOCK_HEADER_SIZE);
    assert(header->size <= block_size);
    assert(header->type >= BLOCK_TYPE_FREE_SET);
    assert(header->type <= BLOCK_TYPE_SPILL);
    assert(zero_is_zero(header));

    memset((uint8_t *)block + header->size, 0, block_size - header->size);
    header->version = BLOCK_VERSION;
    header->checksum = block_checksum(block, block_size);
    return (struct block_reference){.address = header->address, .checksum = header->checksum};
}

enum status block_verify(const void *block, uint32_t block_size,
                         const struct block_reference *reference, enum block_type type)
{
    assert_block_size(block_size);
    assert(reference->address > 0);

    const struct block_header *header = block_header_const(block);
    const struct checksum checksum = block_checksum(block, block_size);
    const bool intact = checksum_equal(&checksum, &reference->checksum) &&
                        checksum_equal(&checksum, &header->checksum);
    /* The checksum vouches for the rest, unless what sealed the block was wrong itself, or the
     * parent points to a block of another kind. */
    const bool expected = header->address == reference->address && header->type == type &&
                          header->version == BLOCK_VERSION && header->size >= BLOCK_HEADER_SIZE &&
                          header->size <= block_size && zero_is_zero(header);
    return intact && expected ? STATUS_OK : STATUS_CORRUPT;
}
