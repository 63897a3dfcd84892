/* Which merges run when, and how far they must be: bars, half-bars and beats.
 *
 *   beat  0 ........ half-1 | half ........ bar-1     (a bar is bar_beats beats)
 *         0->1, 2->3, 4->5  | memory->0, 1->2, 3->4, 5->6
 *
 * Parity is a correctness tool: no level is source and target in the same half-bar, so the level
 * bounds hold for the inputs as chosen. At the first beat of a half-bar the forest thread plans one
 * job per active (level, tree), in that order, with everything it needs, addresses included;
 * workers run ahead; a beat ends only when all jobs together have done their share of bytes; at the
 * end of the half-bar results are joined in plan order. So nothing that reaches the disk depends on
 * how many workers there are or how fast.
 *
 * Forest thread only. (Arithmetic after TigerBeetle's, with per-job reservations.) */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/lsm/compaction_job.h"
#include "engine/lsm/manifest_log.h"
#include "engine/lsm/tree.h"
#include "pool/resource_pool.h"
#include "pool/workers.h"

struct compaction_schedule {
    const struct geometry *geometry;
    struct grid *grid;
    struct free_set *free_set;
    struct manifest_log *manifest_log;
    struct workers *workers; /* 0 threads: the forest thread does the work in beats */
    struct doorbell *doorbell;
    struct resource_pool resources;
    struct run_arena *arena;
    struct node_pool *nodes;
    struct tree_version_pool *versions;
    struct tree *trees; /* [tree_count] slots */
    uint32_t tree_count;

    struct compaction_job *jobs; /* [job_max], plan order */
    struct tree **job_trees;     /* [job_max] */
    uint32_t job_max;
    uint32_t job_count;     /* of this half-bar */
    uint32_t jobs_finished; /* prefix known to be done */
    uint64_t *released;     /* [released_max] lists of the jobs, bump allocated */
    uint64_t released_max, released_used;
    uint64_t bytes_total; /* of this half-bar's jobs */
    bool purge;       /* the forest's, for the next commence: any tombstone makes its table due */
    bool only_limits; /* likewise: no tombstone does */
    bool active;      /* between commence and complete */
    bool even;        /* second half: even targets */

    uint64_t half_bar_count; /* since open, for stat */
    uint64_t moved_count, merged_count, spilled_count;
};

/* Windows that W workers can use, and the minimum (one loan). */
uint32_t compaction_resource_windows(uint32_t worker_count);
uint32_t compaction_job_count_max(uint32_t tree_count);
uint64_t compaction_released_max(const struct geometry *geometry);
/* Manifest nodes that joining one job acquires at most, when versions share every node of its
 * levels: a copy for its source; copies for its targets, which lie side by side, so in three nodes
 * at most (any two neighbours hold more than NODE_MERGE_MAX together); for its outputs a copy of
 * the node behind the targets, and one split: a half, merged or not, has room for the others. */
enum { COMPACTION_NODE_MAX = 6 };
static_assert(OVERLAP_COUNT_MAX + 2 <= NODE_TABLE_MAX - NODE_MERGE_MAX, "one split, not two");

/* The fields up to tree_count are set by the caller; takes jobs, lists and the resource pool.
 * STATUS_NO_MEMORY. */
MUST_CHECK enum status compaction_schedule_init(struct compaction_schedule *schedule);
/* Requires: not active. */
void compaction_schedule_deinit(struct compaction_schedule *schedule);

/* First beat of a half-bar: plans, reserves, submits. `op` is that of the half-bar's last beat + 1,
 * from which the outputs are visible. `trees` flagged absorbing keep their immutable table; those
 * flagged spilling, too, get a copy of it on disk. False: the free set has no blocks for the plan;
 * no job was submitted, and the log's half-bar is only good for manifest_log_reset. */
MUST_CHECK bool compaction_half_bar_commence(struct compaction_schedule *schedule, bool even,
                                             uint64_t op);

/* Whether the jobs have together done `numerator / denominator` of their bytes. With no worker
 * threads it does that work now. */
bool compaction_progress(struct compaction_schedule *schedule, uint32_t numerator,
                         uint32_t denominator);

/* Manifest nodes that must be free for compaction_half_bar_complete. */
uint32_t compaction_nodes_needed(const struct compaction_schedule *schedule);

/* Requires compaction_progress(1, 1), and nodes. Joins in plan order: levels, manifest log, free
 * set. STATUS_CORRUPT or STATUS_IO with *bad_address: some job failed; nothing of the half-bar was
 * joined, and compaction must stop for good. */
MUST_CHECK enum status compaction_half_bar_complete(struct compaction_schedule *schedule,
                                                    uint64_t *bad_address, uint32_t *bad_tree_id);

/* Behind the half-bar that completed last: its `*position`-th or a later job that spilled a table,
 * and *position is then behind it; NULL: none is left. In order of tree ids. Valid until the next
 * half-bar commences. */
const struct compaction_job *compaction_spill_next(const struct compaction_schedule *schedule,
                                                   uint32_t *position);

/* Instead of complete, when the forest is given up: nothing is joined. Requires
 * compaction_progress(1, 1). */
void compaction_half_bar_cancel(struct compaction_schedule *schedule);

/* Bytes of merge work that the rules would plan if bars went on: 0 when settled. With `purge`,
 * until no tombstone is left on disk. */
uint64_t compaction_debt(const struct compaction_schedule *schedule, bool purge);

/* What jobs take of the free set. */
struct compaction_needs {
    uint64_t odd_blocks, even_blocks; /* reserved for the jobs of one such half-bar */
    uint32_t odd_jobs, even_jobs;     /* each may leave most of a word of the free set unused */
};
/* At most, in the next two half-bars, whichever comes first, as the trees are now. With
 * `odd_only_limits` the one of odd targets is planned with only_limits. */
struct compaction_needs compaction_needs(const struct compaction_schedule *schedule,
                                         bool odd_only_limits);
/* At most, in any two half-bars from now on in which nothing was added to the trees, together:
 * however their values have moved down meanwhile. *blocks_shared: what tables may come to hold
 * beyond their values: one that is merged down in part keeps all of its own blocks. */
uint64_t compaction_blocks_settling(const struct compaction_schedule *schedule, uint32_t *jobs,
                                    uint64_t *blocks_shared);
/* Blocks of the tables that the memory tables will become. */
uint64_t compaction_blocks_in_memory(const struct compaction_schedule *schedule);
