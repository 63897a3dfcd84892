#include "engine/storage/trailer.h"

#include <assert.h>
#include <string.h>

#include "pool/base.h"

/* Bytes of the string in block `index` of the chain. */
static uint32_t slice_size(uint32_t block_size, uint64_t size, uint32_t index)
{
    const uint32_t body_size = block_size - BLOCK_HEADER_SIZE;
    const uint64_t start = (uint64_t)index * body_size;
    assert(start < size);
    return (uint32_t)min_u64(body_size, size - start);
}

uint32_t trailer_block_count(uint32_t block_size, uint64_t size)
{
    assert(block_size >= BLOCK_SIZE_MIN);
    const uint64_t count = div_ceil(size, block_size - BLOCK_HEADER_SIZE);
    assert(count <= UINT32_MAX);
    return (uint32_t)count;
}

struct block_reference trailer_build(uint32_t block_size, enum block_type type, uint64_t op,
                                     const uint8_t *bytes, uint64_t size, const uint64_t *addresses,
                                     uint8_t *blocks)
{
    const uint32_t body_size = block_size - BLOCK_HEADER_SIZE;

    struct block_reference next = {0}; /* None, behind the last. */
    for (uint32_t i = trailer_block_count(block_size, size); i-- > 0;) {
        uint8_t *block = blocks + (size_t)i * block_size;
        const uint32_t slice = slice_size(block_size, size, i);
        assert(addresses[i] >= 1);
        *block_header(block) = (struct block_header){
            .address = addresses[i],
            .op = op,
            .size = BLOCK_HEADER_SIZE + slice,
            .type = (uint8_t)type,
        };
        memcpy(block_header(block)->metadata, &next, sizeof next);
        memcpy(block_body(block), bytes + (uint64_t)i * body_size, slice);
        next = block_seal(block, block_size);
        assert(next.address == addresses[i]);
    }
    return next;
}

enum status trailer_read(struct grid *grid, enum block_type type,
                         const struct block_reference *first, uint8_t *bytes, uint64_t size,
                         uint8_t *block,
                         void (*visit)(const struct block_reference *reference, void *context),
                         void *context, uint64_t *bad_address)
{
    const uint32_t body_size = grid->block_size - BLOCK_HEADER_SIZE;
    const uint64_t count = div_ceil(size, body_size);

    *bad_address = 0;
    struct block_reference reference = *first;
    uint64_t previous = 0; /* The block that is to blame when the chain ends too soon. */
    for (uint64_t i = 0; i < count; i++) {
        if (reference.address == 0) {
            *bad_address = previous;
            return STATUS_CORRUPT;
        }
        enum status status = grid_read_block(grid, &reference, type, block);
        const uint64_t slice = min_u64(body_size, size - i * body_size);
        if (status == STATUS_OK && block_header_const(block)->size != BLOCK_HEADER_SIZE + slice) {
            status = STATUS_CORRUPT;
        }
        if (status != STATUS_OK) {
            *bad_address = reference.address;
            return status;
        }
        memcpy(bytes + i * body_size, block_body_const(block), slice);
        if (visit != NULL) {
            visit(&reference, context);
        }
        previous = reference.address;
        memcpy(&reference, block_header_const(block)->metadata, sizeof reference);
    }
    if (reference.address != 0) { /* Longer than its size says. */
        *bad_address = previous != 0 ? previous : reference.address;
        return STATUS_CORRUPT;
    }
    return STATUS_OK;
}
