/* Every size of a data file, and how each follows from the few that are chosen at format.
 *
 * A `struct geometry` is chosen once, by `holt format`, and stored in the superblock: two files of
 * the same geometry fed the same journal hold the same blocks. Whatever else the engine needs to
 * know about sizes is derived here, in one place, and asserted. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "pool/status.h"

enum {
    SECTOR_SIZE = 4096, /* unit of O_DIRECT and of journal entries */
    BLOCK_SIZE_MIN = 4096,
    BLOCK_SIZE_MAX = 1 << 20,
    BLOCK_HEADER_SIZE = 128,
    LEVEL_COUNT = 7,
    LEVEL_GROWTH = 8,        /* level i holds at most 8^(i+1) tables at the end of a bar */
    OVERLAP_COUNT_MAX = 8,   /* target tables of one compaction; see design section 6 */
    TREE_COUNT_LIMIT = 256,  /* hard limit on geometry.tree_count_max */
    OBJECT_HEADER_SIZE = 32, /* id, timestamp, version */
    OBJECT_SIZE_MIN = 32,
    OBJECT_SIZE_MAX = 4096,
    FILTER_BITS_PER_KEY = 16,
    IO_SIZE_MAX = 512 * 1024,        /* adjacent blocks travel in one call up to this size */
    SESSION_LANE_MAX = 64,           /* lanes of one session */
    SESSION_FAILURE_MAX = 32,        /* failures that a lane remembers of its last request */
    SESSION_LANE_COUNT_LIMIT = 2048, /* see session_lane_count_max */
};

/* 64 bytes on disk, in the superblock. All sizes in bytes unless said. */
struct geometry {
    uint32_t block_size;        /* power of two, BLOCK_SIZE_MIN..BLOCK_SIZE_MAX */
    uint32_t bar_beats;         /* beats in a bar; even, 4..64 */
    uint32_t tree_count_max;    /* trees alive at once, 8..TREE_COUNT_LIMIT */
    uint32_t chunk_block_count; /* the file grows by this many blocks; multiple of 64 */
    uint32_t batch_size_max;    /* request bytes in one journal entry */
    uint32_t batch_event_max;   /* events in one journal entry */
    uint64_t journal_size;      /* the ring; multiple of SECTOR_SIZE */
    uint64_t bar_journal_size;  /* journal bytes that end a bar */
    uint64_t bar_memory_size;   /* entry bytes over all trees that end a bar */
    uint64_t
        checkpoint_journal_size; /* journal bytes since the last checkpoint that call for one */
    uint64_t block_count_max;    /* most blocks the grid may ever have; multiple of 64 */
};

/* What `holt format` uses, and a tiny one for tests: 4 KiB blocks, 4-beat bars. */
struct geometry geometry_default(uint32_t block_size);
struct geometry geometry_tiny(void);

/* STATUS_INVALID: `reason` (constant text) says which relation does not hold and what would. Used
 * on format options and on what a superblock says, so it trusts nothing. */
MUST_CHECK enum status geometry_validate(const struct geometry *geometry, const char **reason);

/* Derived numbers. All require a valid geometry. */

/* Bytes of a block behind its header. */
uint32_t block_body_size(const struct geometry *geometry);
/* Entries of one sorted value block. */
uint32_t table_values_per_block(const struct geometry *geometry, uint32_t value_size);
/* Value blocks that share one filter block: its body holds FILTER_BITS_PER_KEY bits for each. */
uint32_t table_value_blocks_per_filter(const struct geometry *geometry, uint32_t value_size);
/* Most value blocks that one index block can address, beside their filter blocks. */
uint32_t table_value_block_max(const struct geometry *geometry, uint32_t key_size,
                               uint32_t value_size);
/* Most values of a table of this shape: value blocks times values per block. */
uint32_t table_value_max(const struct geometry *geometry, uint32_t key_size, uint32_t value_size);
/* All blocks of a full table: index + value + filter. */
uint32_t table_block_max(const struct geometry *geometry, uint32_t key_size, uint32_t value_size,
                         uint32_t value_count);

/* Most lanes of all sessions, and most sessions. Each checkpoint holds what all lanes remember: at
 * most about 20 blocks, whatever their size. */
uint32_t session_lane_count_max(const struct geometry *geometry);
uint32_t session_count_max(const struct geometry *geometry);

/* Zones, in bytes from the start of the file. */
uint64_t superblock_zone_offset(void);
uint64_t superblock_zone_size(void);
uint64_t journal_zone_offset(const struct geometry *geometry);
uint64_t grid_zone_offset(const struct geometry *geometry); /* multiple of block_size and 1 MiB */

/* Largest journal entry: header + batch_size_max + per-request headers, sector aligned. */
uint64_t journal_entry_size_max(const struct geometry *geometry);
enum {
    BATCH_REQUEST_MAX = 1024,        /* requests that share one journal entry */
    JOURNAL_REQUEST_HEADER_MAX = 64, /* bytes that an entry spends on a request beside its body */
};
