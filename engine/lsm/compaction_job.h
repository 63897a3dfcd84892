/* One merge: a source (a table of level i, or the immutable table in memory) into the tables of the
 * level below that overlap it. Runs on a worker, or in slices on the forest thread.
 *
 *   source A --+
 *              +--> merge --> [drop tombstones] --> table_builder --> new tables of the target
 * level targets B -+
 *
 * The forest thread fills in the plan (copies of everything), the job touches nothing shared:
 * blocks are read past the cache, output addresses come from its own reservation, memory from one
 * loan of the resource pool. The results are read after `state` says DONE (acquire).
 *
 * The same code, resumable: compaction_job_advance does at least the bytes it is asked for. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/lsm/run.h"
#include "engine/lsm/table.h"
#include "engine/lsm/table_memory.h"
#include "engine/storage/free_set.h"
#include "engine/storage/grid.h"
#include "pool/doorbell.h"
#include "pool/job_queue.h"
#include "pool/resource_pool.h"

enum {
    /* Windows (runs of adjacent blocks) of one loan: output, source, targets, and one for single
     * blocks and the builder's arrays. The resource pool's minimum. */
    COMPACTION_LOAN_COUNT = 4,
    COMPACTION_TARGET_MAX = OVERLAP_COUNT_MAX,
    COMPACTION_OUTPUT_MAX = OVERLAP_COUNT_MAX + 2,
};

enum compaction_kind {
    COMPACTION_KIND_MERGE,
    COMPACTION_KIND_MOVE,    /* nothing overlaps: the table changes level, no bytes are touched */
    COMPACTION_KIND_SPILL,   /* a copy of the memory table, for a checkpoint; the table stays */
    COMPACTION_KIND_DISCARD, /* a dropped tree: find the blocks of `targets` so that they go free */
};

enum compaction_state { COMPACTION_PLANNED, COMPACTION_RUNNING, COMPACTION_DONE };

struct compaction_job {
    struct job job; /* First member: run casts back. */

    /* Plan: written by the forest thread before submission. */
    const struct geometry *geometry;
    struct grid *grid;
    struct resource_pool *resources;
    struct doorbell *doorbell;
    struct tree_shape shape;
    enum compaction_kind kind;
    uint8_t level_target;
    bool drop_tombstones;
    bool from_memory;    /* source is `runs`, else `source` */
    bool source_partial; /* stop before key source_end; the rest stays where it is */
    struct key source_end;
    struct run *runs[TABLE_MEMORY_RUN_MAX]; /* newest first; lent by the tree */
    uint32_t run_count;
    struct table_info source; /* with from_memory only its counts, as the memory table has them */
    struct table_info targets[COMPACTION_TARGET_MAX];
    uint32_t target_count;
    uint64_t op;          /* goes into the blocks written */
    uint64_t bytes_total; /* of input values */
    struct reservation reservation;
    uint64_t *released; /* [released_max] where to list the input blocks that go free; of a spill,
                         * the blocks written, which go free after the next checkpoint */
    uint32_t released_max;

    /* Progress. */
    _Atomic uint64_t bytes_done;
    _Atomic uint32_t state; /* enum compaction_state; DONE is a release store */

    /* Results. */
    enum status status;
    uint64_t bad_address;
    struct table_info outputs[COMPACTION_OUTPUT_MAX];
    uint32_t output_count;
    uint32_t released_count;
    uint64_t source_values_used; /* with source_partial */
    uint64_t source_tombstones_used;
    struct key source_next; /* first key that stays; with source_partial */

    struct compaction_machine *machine; /* lives in the loan while running */
    uint8_t *loan[COMPACTION_LOAN_COUNT];
};

/* Blocks of one window. */
uint32_t compaction_window_blocks(const struct geometry *geometry);
/* Most blocks that merging `value_count` values can write. */
uint32_t compaction_output_blocks_max(const struct geometry *geometry,
                                      const struct tree_shape *shape, uint64_t value_count);

/* Runs until at least `bytes_target` of bytes_done, or to the end. The loan is taken at the first
 * call and returned at the end. */
void compaction_job_advance(struct compaction_job *job, uint64_t bytes_target);
/* For workers_submit: to the end. Rings the doorbell now and then, and at the end. */
void compaction_job_run(struct job *job);

static inline bool compaction_job_done(struct compaction_job *job)
{
    return atomic_load_explicit(&job->state, memory_order_acquire) == COMPACTION_DONE;
}
