/* A block of the grid says what it is; its checksum is kept by whoever points to it, too.
 *
 *   offset size
 *        0   16  checksum     XXH3-128 over bytes [16, block_size): header, body and padding
 *       16    8  address      1.. ; where this block believes it is
 *       24    8  op           op at which it was made
 *       32    4  size         bytes used, header included; the rest is zero
 *       36    4  tree_id      0 where no tree owns it
 *       40    2  key_size     bytes; 0 if not of a tree
 *       42    2  value_size   bytes; 0 if not of a tree
 *       44    4  value_count  entries in the body
 *       48    1  type         enum block_type
 *       49    1  version      BLOCK_VERSION
 *       50    6  zero
 *       56   72  metadata     by type
 *
 * Little-endian. Nothing in a block names the file it is in, so that the same history gives the
 * same blocks. */
#pragma once

#include <assert.h>
#include <stdint.h>

#include "engine/storage/checksum.h"
#include "engine/storage/limits.h"
#include "pool/status.h"

enum { BLOCK_VERSION = 1 };

enum block_type {
    BLOCK_TYPE_FREE_SET = 1,
    BLOCK_TYPE_STATE,    /* catalog, counters: what requests can read or change */
    BLOCK_TYPE_MANIFEST, /* manifest log */
    BLOCK_TYPE_INDEX,    /* table index */
    BLOCK_TYPE_VALUE,
    BLOCK_TYPE_FILTER,
    BLOCK_TYPE_SPILL, /* which memory tables a checkpoint keeps, and where */
};

/* Every pointer to a block. address 0 = none, checksum then zero. */
struct block_reference {
    uint64_t address;
    struct checksum checksum;
};
static_assert(sizeof(struct block_reference) == 24, "no padding");

struct block_header {
    struct checksum checksum;
    uint64_t address;
    uint64_t op;
    uint32_t size;
    uint32_t tree_id;
    uint16_t key_size;
    uint16_t value_size;
    uint32_t value_count;
    uint8_t type;
    uint8_t version;
    uint8_t zero[6];
    uint8_t metadata[72]; /* see the owner: table.h, manifest_log.h, trailer.h */
};
static_assert(sizeof(struct block_header) == BLOCK_HEADER_SIZE, "no padding");

static inline struct block_header *block_header(void *block)
{
    return (struct block_header *)block;
}

static inline const struct block_header *block_header_const(const void *block)
{
    return (const struct block_header *)block;
}

static inline uint8_t *block_body(void *block)
{
    return (uint8_t *)block + BLOCK_HEADER_SIZE;
}

static inline const uint8_t *block_body_const(const void *block)
{
    return (const uint8_t *)block + BLOCK_HEADER_SIZE;
}

/* Zeroes the padding behind header.size, sets the version, computes and stores the checksum.
 * Requires all other header fields to be set. Returns the reference that the parent keeps. */
struct block_reference block_seal(void *block, uint32_t block_size);

/* Whether `block`, read from `reference`, is what its parent pointed to: checksum, address, type,
 * version, size within the block, zero padding implied by the checksum. STATUS_CORRUPT otherwise
 * (not logged here: the caller knows tree and zone). */
MUST_CHECK enum status block_verify(const void *block, uint32_t block_size,
                                    const struct block_reference *reference, enum block_type type);
