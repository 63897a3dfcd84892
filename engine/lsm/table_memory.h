/* A tree's table in memory: runs, oldest first. The mutable one takes a run per batch; the
 * immutable one is what the bar before left, being written to level 0.
 *
 * Runs merge geometrically while they are small, so that there are few, and stop merging at
 * 1/32 of a table, so that no batch pays for a large one. In small tables that is far less than the
 * segments of a run hold, so there are never more runs than TABLE_MEMORY_RUN_SPARE and one for each
 * TABLE_MEMORY_RUN_BYTES of values: what runs take beside their values is part of the memory plan
 * (forest.c). When they merge depends on what readers
 * hold, which is timing; so the counts, which pace bars and size reservations, are of what was
 * added, whatever merged since. Nothing of the run structure reaches the disk: a table that is
 * spilled (spill.h) is written as one sorted run, with the counts beside it. */
#pragma once

#include <stdint.h>

#include "engine/lsm/run.h"
#include "engine/lsm/tree_shape.h"

enum {
    TABLE_MEMORY_RUN_MAX = 120,
    TABLE_MEMORY_RUN_SPARE = 12,
    TABLE_MEMORY_RUN_BYTES = 8 * RUN_SEGMENT_SIZE,
};

struct table_memory {
    struct run *runs[TABLE_MEMORY_RUN_MAX]; /* each holds one reference of ours */
    uint32_t run_count;
    uint64_t value_count;     /* as added: a key counts once for each run that brought it */
    uint64_t tombstone_count; /* likewise */
};

/* Takes over the caller's reference to `run`, then merges small neighbours. At most
 * TABLE_MEMORY_RUN_MAX - 1 runs are there, or the arena has room to merge two. */
void table_memory_add(struct table_memory *table, struct run_arena *arena,
                      const struct tree_shape *shape, struct run *run);
/* Merges the two neighbours with the fewest values; of two runs at least. False: the arena has no
 * room for that. */
MUST_CHECK bool table_memory_merge_smallest(struct table_memory *table, struct run_arena *arena,
                                            const struct tree_shape *shape);
/* Moves all of `newer`'s runs on top of `older`'s; `newer` is left empty. */
void table_memory_absorb(struct table_memory *older, struct table_memory *newer,
                         struct run_arena *arena, const struct tree_shape *shape);
/* Into an empty table: what it held once, as one run, and the counts it had then. */
void table_memory_restore(struct table_memory *table, struct run *run, uint64_t value_count,
                          uint64_t tombstone_count);
/* Drops every run. */
void table_memory_clear(struct table_memory *table, struct run_arena *arena);
