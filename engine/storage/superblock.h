/* The root: one sector, four copies, written copy by copy.
 *
 * Opening needs 2 of 4 copies that agree (same checksum); among quorums the highest sequence wins,
 * and its parent must be what a lower quorum says, if one is there. Writing goes copy by copy with
 * a sync between the halves, reads all back, and needs 3 of 4 to verify. The copy's number is
 * outside the checksum, so copies are identical; a copy found in another's slot is not counted.
 * Opening rewrites bad copies in their home slots, in an order that cannot lose the quorum. */
#pragma once

#include <assert.h>
#include <stdint.h>

#include "engine/storage/block.h"
#include "engine/storage/checksum.h"
#include "engine/storage/io.h"
#include "engine/storage/limits.h"
#include "pool/status.h"

enum {
    SUPERBLOCK_COPY_COUNT = 4,
    SUPERBLOCK_VERSION = 3,
};

/* The whole state reachable from a superblock. `checkpoint_id` hashes it, without what is peculiar
 * to one file (journal_parent). */
struct checkpoint_state {
    uint64_t op;                    /* last op of the checkpoint's bar; 0 = just formatted */
    uint64_t journal_sequence;      /* first entry to replay */
    uint64_t journal_offset;        /* of that entry, in bytes from the start of the journal zone */
    struct checksum journal_parent; /* checksum of the entry before it */
    uint64_t commit;                /* last commit before that entry */
    uint64_t timestamp;             /* last timestamp given before that entry */

    struct block_reference manifest_newest; /* newest block of the manifest log, or none */
    uint64_t manifest_block_count;
    uint64_t manifest_recent_count; /* newest of them, closed by the last half-bar */
    uint64_t table_count;           /* live tables of all trees */

    struct block_reference free_set; /* first block of its trailer, or none */
    uint64_t free_set_size;          /* bytes encoded */
    struct block_reference state;    /* first block of the state trailer, or none */
    uint64_t state_size;
    struct block_reference spill; /* first block of the trailer of spilled tables, or none */
    uint64_t spill_size;

    uint64_t blocks_acquired; /* as encoded in the free set */
    uint64_t address_max;
};

struct superblock {
    struct checksum checksum; /* over the sector behind `copy_zero` */
    uint8_t copy;             /* 0..3; not covered */
    uint8_t copy_zero[7];     /* not covered; zero */
    /* Covered from here. */
    uint8_t magic[8]; /* "HOLT\0db\n" */
    uint32_t version;
    uint32_t zero;
    uint64_t sequence;      /* 1 at format, +1 each write */
    struct checksum parent; /* checksum of the superblock before this one; zero at format */
    uint8_t file_id[16];    /* random, made by format */
    uint64_t journal_seed;  /* random secret of this file */
    struct geometry geometry;
    struct checksum checkpoint_id;
    struct checkpoint_state checkpoint;
    uint8_t reserved[SECTOR_SIZE - 24 - 8 - 8 - 8 - 16 - 16 - 8 - 64 - 16 -
                     sizeof(struct checkpoint_state)];
};
static_assert(sizeof(struct geometry) == 64, "no padding");
static_assert(sizeof(struct superblock) == SECTOR_SIZE, "one sector");

/* Hash of everything in `checkpoint` but journal_parent. Of the trailers
 * (free set, state, spilled tables) the references already are content hashes. */
struct checksum checkpoint_id_of(const struct checkpoint_state *checkpoint);

/* Makes the first superblock (sequence 1, empty checkpoint) in all four copies and syncs. */
MUST_CHECK enum status superblock_format(struct io *io, const struct geometry *geometry,
                                         const uint8_t file_id[16], uint64_t journal_seed);

struct superblock_open_report {
    uint8_t copies_valid;    /* of the chosen sequence, 2..4 */
    uint8_t copies_repaired; /* rewritten now; 0 when repair was false */
    const char *problem;     /* constant text when the status is not OK */
};

/* Reads and chooses. `sector_buffer` is 4 * SECTOR_SIZE, aligned, borrowed. STATUS_CORRUPT: no
 * quorum, or parents do not fit; STATUS_VERSION: a quorum of another version (it is written to
 * *superblock); STATUS_INVALID: not a Holt file (no copy has the magic), or its geometry is
 * impossible; STATUS_IO. */
MUST_CHECK enum status superblock_open(struct io *io, void *sector_buffer, bool repair,
                                       struct superblock *superblock,
                                       struct superblock_open_report *report);

/* Any one thread at a time (a worker does it). Fills sequence, parent, checksum and id from the
 * previous `*superblock` and `checkpoint`, writes, reads back, and on OK updates *superblock.
 * Any failure (STATUS_IO, STATUS_NO_SPACE, STATUS_CORRUPT when fewer than 3 verify) is fatal to the
 * caller: what reached the disk is unknown. */
MUST_CHECK enum status superblock_write(struct io *io, void *sector_buffer,
                                        struct superblock *superblock,
                                        const struct checkpoint_state *checkpoint);
