/* A byte string kept in a chain of blocks: what a checkpoint holds beside trees, such as the free
 * set.
 *
 * Block i's metadata holds the reference of block i + 1 (24 bytes; none in the last), its body a
 * slice of the bytes. So the chain is sealed from last to first, and the superblock points to the
 * first. Every block but the last is full: the size alone says how many there are. */
#pragma once

#include <stdint.h>

#include "engine/storage/block.h"
#include "engine/storage/grid.h"
#include "pool/status.h"

uint32_t trailer_block_count(uint32_t block_size, uint64_t size);

/* Builds the chain of `size` bytes in `blocks` ([count * block_size], aligned) at `addresses`
 * [count]; writes nothing. size 0: count 0 and a reference of none. */
struct block_reference trailer_build(uint32_t block_size, enum block_type type, uint64_t op,
                                     const uint8_t *bytes, uint64_t size, const uint64_t *addresses,
                                     uint8_t *blocks);

/* Reads the chain into `bytes` [size], past the cache; `block` is a spare aligned block. Calls
 * `visit(reference, context)` (may be NULL) for each block, first to last. STATUS_CORRUPT: chain
 * too short or long, or a bad block, whose address is left in *bad_address (0: the chain is missing
 * altogether). STATUS_IO: likewise. */
MUST_CHECK enum status
trailer_read(struct grid *grid, enum block_type type, const struct block_reference *first,
             uint8_t *bytes, uint64_t size, uint8_t *block,
             void (*visit)(const struct block_reference *reference, void *context), void *context,
             uint64_t *bad_address);
