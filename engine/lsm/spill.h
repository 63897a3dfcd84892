/* Spills: small memory tables that a checkpoint keeps as they are, instead of merging them.
 *
 *   immutable table --job, in the bar's second half--> one table on disk, in no level
 *   superblock --> trailer: an entry for each such tree --> index block --> values, filters
 *   recovery: that table's values --> the immutable table, as one run
 *
 * Why tables, and not the values in the trailer itself: jobs write tables already, on workers,
 * paced by beats, with addresses that depend on nothing but the plan; half a bar of entries written
 * at a bar's end would be a stall. Why one sorted run, and not the runs there were: when runs merge
 * depends on what readers hold. The counts are kept beside the values, because they pace bars: a
 * key counts once for each run that brought it. Tombstones are all kept.
 *
 * An entry lives as long as its checkpoint: the table's blocks are released when it has been
 * encoded, so the next checkpoint's join frees them.
 *
 *   offset size
 *        0  128  table, as in the manifest log: level and event are 0
 *      128    8  value_count of the memory table
 *      136    8  tombstone_count of the memory table */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/lsm/run.h"
#include "engine/lsm/table.h"
#include "pool/status.h"

struct spill_entry {
    struct table_info table;
    uint64_t value_count;     /* as the memory table counts: at least table.value_count */
    uint64_t tombstone_count; /* likewise */
};
static_assert(sizeof(struct spill_entry) == 144, "no padding");

/* Bytes of the trailer when every tree is spilled. */
uint64_t spill_size_max(const struct geometry *geometry);

/* Whether an entry read from disk is possible for a tree of this shape: a table that a checkpoint
 * at `op` made, of a memory table that has at most half of a bar's `bar_value_max` entries. NULL,
 * or what is wrong. */
const char *spill_entry_problem(const struct geometry *geometry, const struct tree_shape *shape,
                                uint32_t bar_value_max, uint64_t op,
                                const struct spill_entry *entry);

/* Reads the values of a possible entry into a run, past the cache; `blocks` are two spare ones.
 * `visit` (may be NULL) is called for the address of every block of the table. STATUS_CORRUPT: a
 * block or its values are not what the entry says, or `visit` said no; STATUS_IO: likewise, with
 * *bad_address. STATUS_NO_MEMORY: the arena has no room. */
MUST_CHECK enum status spill_load(const struct geometry *geometry, struct grid *grid,
                                  const struct tree_shape *shape, const struct spill_entry *entry,
                                  uint8_t *blocks, struct run_arena *arena,
                                  bool (*visit)(void *context, uint64_t address), void *context,
                                  struct run **run, uint64_t *bad_address);
