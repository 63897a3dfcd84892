/* The log of what happened to tables: linked blocks of insert / update / remove events of all trees.
 *
 *   none <- oldest block <- ... <- newest block     (each keeps the reference of the one before)
 *
 * Replayed from the newest block to the oldest, entries last to first: the first sighting of a
 * table (by its index address) wins; a removed table is remembered until its insert is met. The
 * oldest block's back link may dangle (what it named was compacted away): the superblock's count
 * says where to stop.
 *
 * Compaction keeps the log short: at the first beat of a half-bar the oldest blocks are chosen and a
 * worker reads them; at its end the events that are still the latest of a live table are appended
 * again, and the blocks released. C = 2A + 1 blocks per half-bar (A = the most a half-bar can
 * append) when the log is longer than twice what its live events need, none otherwise.
 *
 * Blocks are built in memory and written by the caller's job (they are handed out through
 * manifest_log_pending); nothing here does I/O on the forest thread.
 *
 * Manifest block, body: header.value_count entries of 128 bytes (struct table_info with event set).
 * Metadata: 24 bytes reference of the block before; rest zero. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/lsm/table.h"
#include "engine/storage/free_set.h"
#include "engine/storage/grid.h"
#include "pool/doorbell.h"
#include "pool/status.h"
#include "pool/workers.h"

enum manifest_event {
    MANIFEST_EVENT_INSERT = 1, /* a new table */
    MANIFEST_EVENT_UPDATE = 2, /* the same table, moved to `level` or with a raised key_min */
    MANIFEST_EVENT_REMOVE = 3,
};

/* Where the latest event of each live table is: open addressing, keyed by index address. */
struct manifest_extent {
    uint64_t table_address; /* 0 = empty slot */
    uint64_t block_address; /* the log block; 0 = still in the open block */
    uint32_t entry;
    uint32_t removed;       /* used while replaying only */
};

struct manifest_log {
    const struct geometry *geometry;
    struct grid *grid;
    struct free_set *free_set;
    struct workers *workers;   /* run the read job of log compaction */
    struct doorbell *doorbell;
    uint32_t entries_per_block;
    uint32_t append_blocks_max;  /* A: blocks that one half-bar can append, compaction excluded */
    uint32_t compact_blocks_max; /* C = 2A + 1 */

    /* All blocks of the log, oldest first: a ring. The newest may be the open one (address 0). */
    struct block_reference *blocks; /* [block_max] */
    uint32_t block_max;
    uint32_t block_first;
    uint32_t block_count;  /* closed blocks */

    uint8_t *open_block;   /* being filled; entries open_count */
    uint32_t open_count;

    /* Closed blocks that are not yet handed to a writer, in order. */
    uint8_t *pending;      /* [pending_max * block_size] */
    uint32_t pending_max;
    uint32_t pending_count;
    uint64_t *pending_addresses;

    struct manifest_extent *extents; /* [extent_slot_count], power of two */
    uint64_t extent_slot_count;
    uint64_t table_count;  /* live tables */
    uint64_t table_count_max;

    struct reservation reservation; /* open from half_bar_commence to half_bar_complete */
    bool reserved;

    struct job read_job;
    uint8_t *read_blocks;  /* [compact_blocks_max * block_size] */
    uint32_t read_count;
    _Atomic bool read_done;
    enum status read_status;
    uint64_t read_bad_address;
};

struct manifest_log_options {
    uint32_t append_blocks_max;
    uint64_t table_count_max; /* limit on live tables of all trees */
};

/* STATUS_NO_MEMORY. */
MUST_CHECK enum status manifest_log_init(struct manifest_log *log, const struct geometry *geometry,
                                         struct grid *grid, struct free_set *free_set,
                                         struct workers *workers, struct doorbell *doorbell,
                                         const struct manifest_log_options *options);
void manifest_log_deinit(struct manifest_log *log);
void manifest_log_reset(struct manifest_log *log);

/* Blocking; at open. Calls `visit` once for each live table, newest event first. STATUS_CORRUPT with
 * *bad_address; STATUS_IO. */
MUST_CHECK enum status manifest_log_open(struct manifest_log *log,
                                         const struct block_reference *newest,
                                         uint64_t block_count, uint64_t table_count,
                                         enum status (*visit)(void *context,
                                                              const struct table_info *table),
                                         void *context, uint64_t *bad_address);

/* Independent check for tests and `holt verify`: replays chronologically (oldest to newest) and
 * compares with the extents. False: they differ. Blocking. */
bool manifest_log_verify(struct manifest_log *log);

/* Forest thread. Reserves the addresses of this half-bar's appends and starts the read of what is to
 * be compacted. Must come before any other reservation of the half-bar. False: no free blocks. */
MUST_CHECK bool manifest_log_half_bar_commence(struct manifest_log *log);
/* Appends one event; only between commence and complete, at the half-bar's end, in (level, tree)
 * order. For REMOVE the extent is dropped. */
void manifest_log_append(struct manifest_log *log, const struct table_info *table,
                         enum manifest_event event);
/* Waits for the read, appends what is still live, releases the blocks read, forfeits the rest of
 * the reservation. STATUS_CORRUPT / STATUS_IO of the read: nothing was released. */
MUST_CHECK enum status manifest_log_half_bar_complete(struct manifest_log *log,
                                                      uint64_t *bad_address);

/* At a checkpoint, within the last half-bar's reservation (before half_bar_complete forfeits): closes the open block if it has entries. */
void manifest_log_close_block(struct manifest_log *log);
/* Newest closed block and number of closed blocks. Requires that the open block is empty. */
struct block_reference manifest_log_newest(const struct manifest_log *log);

/* Closed blocks not yet handed out: copies up to `max` of them to `buffer`, with their addresses;
 * they are then the caller's to write. Returns how many. */
uint32_t manifest_log_take_pending(struct manifest_log *log, uint8_t *buffer, uint64_t *addresses,
                                   uint32_t max);

/* Addresses of all closed log blocks, oldest first, for verify: calls visit for each. */
void manifest_log_blocks(const struct manifest_log *log,
                         void (*visit)(void *context, const struct block_reference *reference),
                         void *context);
/* The extent check of verify_table_extents: whether `table` has exactly one live extent. */
bool manifest_log_has_table(const struct manifest_log *log, uint64_t table_address);
