/* The log of what happened to tables: linked blocks of insert / update / remove events of all
 * trees.
 *
 *   none <- oldest block <- ... <- newest block     (each keeps the reference of the one before)
 *
 * Replayed from the newest block to the oldest, entries last to first: the first sighting of a
 * table (by its index address) decides, all older ones are stale. The oldest block's back link may
 * dangle (what it named was compacted away): the superblock's count says where to stop.
 *
 * Compaction keeps the log short: at the first beat of a half-bar the oldest blocks are chosen and
 * a worker reads them; at its end the events that are still the latest of a live table are appended
 * again, and the blocks released. C = 2A + 1 blocks per half-bar (A = the most a half-bar can
 * append) when the log is longer than twice what its live events need, none otherwise. What a
 * half-bar may just have closed is never chosen: it may still be on its way to the disk.
 *
 *   half_bar_commence -> append ... -> half_bar_complete -> take_pending -> the caller writes
 *
 * Blocks are built in memory and written by the caller's job (manifest_log_take_pending hands them
 * out); nothing here does I/O on the forest thread.
 *
 * Manifest block, body: header.value_count entries of 128 bytes (struct table_info with event set).
 * Metadata: 24 bytes reference of the block before; rest zero. header.op is 0: half-bars are not
 * numbered here. */
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
    uint64_t block_address; /* the log block, closed or open */
    uint32_t entry;
    uint32_t mark; /* 0; something else only while replaying and verifying */
};

struct manifest_log {
    const struct geometry *geometry;
    struct grid *grid;
    struct free_set *free_set;
    struct workers *workers; /* run the read job of log compaction */
    struct doorbell *doorbell;
    uint32_t entries_per_block;
    uint32_t append_blocks_max;  /* A: blocks that one half-bar can append, compaction excluded */
    uint32_t compact_blocks_max; /* C = 2A + 1 */
    uint32_t half_bar_block_max; /* A + C + 1: blocks that one half-bar can close */

    /* All closed blocks of the log, oldest first: a ring. */
    struct block_reference *blocks; /* [block_max] */
    uint32_t block_max;
    uint32_t block_first;
    uint32_t block_count;

    uint8_t *open_block;   /* being filled */
    uint32_t open_count;   /* entries in it, < entries_per_block */
    uint64_t open_address; /* 0 while it has no entries */

    /* Closed blocks that are not yet handed to a writer, in order. */
    uint8_t *pending;     /* [pending_max * block_size] */
    uint32_t pending_max; /* half_bar_block_max */
    uint32_t pending_count;
    uint64_t *pending_addresses;

    struct manifest_extent *extents; /* [extent_slot_count], power of two */
    uint64_t extent_slot_count;
    uint64_t extent_count; /* slots in use: table_count, and what replay and verify add meanwhile */
    uint64_t table_count;  /* live tables */
    uint64_t table_count_max;

    struct reservation reservation; /* open from half_bar_commence to half_bar_complete */
    bool reserved;
    uint32_t recent_count; /* newest blocks, closed by the last half-bar: not compacted in the next.
                            * State: kept in the checkpoint, set by the opener */
    uint64_t half_bar_entry_count; /* entries appended by the caller in this half-bar */

    struct job read_job;
    uint8_t *read_blocks; /* [compact_blocks_max * block_size]; the job's until read_done */
    uint32_t read_count;  /* oldest blocks of the log that are being compacted; 0 = none */
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
/* Requires: no half-bar in progress. */
void manifest_log_deinit(struct manifest_log *log);
/* The state after init. A half-bar in progress is given up: so call it before free_set_reset. */
void manifest_log_reset(struct manifest_log *log);

/* Blocking; after init or reset. Calls `visit` once for each live table, newest event first.
 * STATUS_CORRUPT, STATUS_IO: *bad_address is the block that could not be read, or whose entries or
 * back link make no sense, or the newest block when the counts disagree. STATUS_NO_MEMORY: the log
 * or its tables are more than table_count_max provides for. Else what `visit` returned (for
 * STATUS_CORRUPT *bad_address is the block of the entry). After an error the log is reset. */
MUST_CHECK enum status
manifest_log_open(struct manifest_log *log, const struct block_reference *newest,
                  uint64_t block_count, uint64_t table_count,
                  enum status (*visit)(void *context, const struct table_info *table),
                  void *context, uint64_t *bad_address);

/* Independent check for tests and `holt verify`: replays chronologically (oldest to newest) and
 * compares with the extents. False: they differ, or a block cannot be read. Blocking; between
 * half-bars, when the blocks that were taken are written. */
bool manifest_log_verify(struct manifest_log *log);

/* Forest thread. Reserves the addresses of this half-bar's appends and starts the read of what is
 * to be compacted. Must come before any other reservation of the half-bar. Requires: every pending
 * block was taken, and those taken before the half_bar_commence before this one are written. False:
 * no free blocks; nothing changed. */
MUST_CHECK bool manifest_log_half_bar_commence(struct manifest_log *log);
/* Appends one event; only between commence and complete, at the half-bar's end, in (level, tree)
 * order; at most append_blocks_max * entries_per_block of them. For REMOVE the extent is dropped.
 */
void manifest_log_append(struct manifest_log *log, const struct table_info *table,
                         enum manifest_event event);
/* Waits for the read, appends what is still live, releases the blocks read; at a checkpoint closes
 * the open block if it has entries; forfeits the rest of the reservation. Checkpoints are at least
 * two half-bars apart (block_max counts on it). STATUS_CORRUPT / STATUS_IO of the read, with
 * *bad_address: nothing was compacted or released, the rest was done. */
MUST_CHECK enum status manifest_log_half_bar_complete(struct manifest_log *log, bool checkpoint,
                                                      uint64_t *bad_address);

/* Newest closed block, or none; block_count says how many there are. Requires that the open block
 * is empty, as it is after a checkpoint. */
/* Closed blocks beyond twice what the live events need: what half-bars would still compact. */
uint64_t manifest_log_debt(const struct manifest_log *log);

struct block_reference manifest_log_newest(const struct manifest_log *log);

/* Closed blocks not yet handed out: copies up to `max` of them to `buffer`, with their addresses;
 * they are then the caller's to write. Returns how many. A half-bar leaves at most pending_max. */
uint32_t manifest_log_take_pending(struct manifest_log *log, uint8_t *buffer, uint64_t *addresses,
                                   uint32_t max);

/* Calls `visit` for each closed block of the log, oldest first; for verify. */
void manifest_log_blocks(const struct manifest_log *log,
                         void (*visit)(void *context, const struct block_reference *reference),
                         void *context);
/* For verify_table_extents: whether the table with this index address has a live extent. */
bool manifest_log_has_table(const struct manifest_log *log, uint64_t table_address);
