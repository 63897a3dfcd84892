/* One tree, one key range, ascending: runs and levels merged, the newest of equal keys wins,
 * tombstones are left out. One thread; blocks come through the cache; no allocation. */
#pragma once

#include <stdint.h>

#include "engine/lsm/table.h"
#include "engine/lsm/tree_version.h"
#include "engine/storage/grid.h"
#include "pool/status.h"

enum { SCAN_SOURCE_MAX = 2 * TABLE_MEMORY_RUN_MAX + LEVEL_COUNT };

struct scan_source {
    struct values_cursor cursor; /* what is left of the span in memory */
    /* A run: */
    const struct run *run;
    uint64_t run_index; /* next value behind the span */
    /* or a level: */
    const struct manifest_level *level;
    struct manifest_position position; /* table being read */
    struct table_reader reader;
    bool reader_open;
    uint32_t block_index; /* next block behind the span */

    bool ended; /* nothing in range lies behind the span */
};

struct scan_tree {
    const struct geometry *geometry;
    struct grid *grid;
    const struct tree_version *tree;
    struct key key_min; /* inclusive; key_size bytes */
    struct key key_max; /* inclusive; tombstone bit ignored */
    bool prefix;        /* all keys of the range agree in what filters hash: they may be asked */
    uint32_t source_count;
    struct scan_source sources[SCAN_SOURCE_MAX];
    struct read_ticket *ticket; /* NULL after open; the owner may set it */
    uint64_t blocks_read;       /* value blocks opened */
    uint64_t bad_address;

    /* Private. */
    uint8_t *spare; /* [LEVEL_COUNT * 3 * block_size], borrowed */
    /* Sources that have values left, a binary heap: smallest key first, then the newest. */
    uint16_t heap[SCAN_SOURCE_MAX];
    uint32_t heap_count;
    bool started;    /* the first call fills every source's span */
    bool top_used;   /* the top's value was returned: the next call moves on */
    bool have_last;  /* there is a last one */
    struct key last; /* the key that came up last; older values of it are passed over */
};

/* `spare` is [LEVEL_COUNT * 3 * block_size], aligned, borrowed until close. */
void scan_tree_open(struct scan_tree *scan, const struct geometry *geometry, struct grid *grid,
                    const struct tree_version *tree, const struct key *key_min,
                    const struct key *key_max, bool prefix, uint8_t *spare);
/* *value: the next value, valid until the next call; NULL at the end. STATUS_CORRUPT and STATUS_IO
 * (bad_address), and as the ticket says STATUS_REVOKED, STATUS_BUDGET: the scan can then only be
 * closed. STATUS_YIELD: the ticket's slice is over; the scan can go on when it has a new one. */
MUST_CHECK enum status scan_tree_next(struct scan_tree *scan, const uint8_t **value);
void scan_tree_close(struct scan_tree *scan);
