/* Finding many keys of one tree at once: the newest value of each, from memory runs down through
 * the levels. Keys sorted, so that each run and each block is passed over once. One thread; blocks
 * come through the cache; no allocation. */
#pragma once

#include <stdint.h>

#include "engine/lsm/table.h"
#include "engine/lsm/tree_version.h"
#include "engine/storage/grid.h"
#include "pool/status.h"

enum lookup_outcome {
    LOOKUP_ABSENT = 0, /* never there, or a tombstone */
    LOOKUP_FOUND,      /* its value was copied out */
    LOOKUP_DAMAGED,    /* a block it depends on is damaged or unreadable: nobody knows */
};

struct lookup {
    const struct geometry *geometry;
    struct grid *grid;
    const struct tree_version *tree;
    uint8_t *spare;             /* [3 * block_size], aligned, borrowed */
    struct read_ticket *ticket; /* or NULL */

    const uint8_t *keys; /* [key_count] keys, key_stride apart, ascending (equal ones allowed) */
    uint32_t key_stride;
    uint32_t key_count;
    uint8_t *values; /* [key_count] values, value_stride apart: written where FOUND */
    uint32_t value_stride;
    uint8_t *outcomes; /* [key_count] enum lookup_outcome, written */

    uint64_t bad_address; /* last damaged or unreadable block met, 0 = none */
    bool unreadable;      /* some block was not read, rather than damaged */
};

/* STATUS_OK even when some are DAMAGED; STATUS_STALE: a block was reused under this version (the
 * checksum no longer fits; the caller decides whether its version may be that old and retries on a
 * newer one, or calls it damage); STATUS_IO: a block was not read; STATUS_REVOKED, STATUS_BUDGET:
 * as the ticket says. `may_be_stale` false (the writer's own prefetch): a misfit is damage, and so
 * is a block that cannot be read, so that those who do not need it are served. */
MUST_CHECK enum status lookup_run(struct lookup *lookup, bool may_be_stale);
