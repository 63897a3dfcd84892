/* One tree: a mutable and an immutable table in memory over seven levels of tables on disk.
 *
 *   mutable  --swap at the end of a bar-->  immutable  --second half-bar-->  level 0 -> ... ->
 * level 6
 *
 * Newer is higher up: a key's newest value is in the first of these that has it. Everything here
 * belongs to the forest thread; readers see tree_versions. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/lsm/manifest_level.h"
#include "engine/lsm/run.h"
#include "engine/lsm/table_memory.h"
#include "engine/lsm/tree_shape.h"
#include "engine/lsm/tree_version.h"
#include "pool/status.h"

struct tree {
    bool used;      /* slot taken */
    bool dropping;  /* its groove was dropped: only gives space back */
    bool absorbing; /* this bar: the immutable table stays and takes the mutable one at the swap */
    bool spilling; /* absorbing, and a checkpoint comes: a job copies the immutable table to disk */
    bool flushing; /* this half-bar: a job is writing the immutable table */
    struct tree_shape shape;
    uint32_t bar_value_max; /* entries of one bar: shape.value_count_max less one largest batch */

    struct table_memory mutable_table;
    struct table_memory immutable_table;
    struct manifest_level levels[LEVEL_COUNT];
    struct manifest_node **level_nodes;  /* [LEVEL_COUNT * node_max], memory of the levels */
    uint32_t tombstone_due[LEVEL_COUNT]; /* tables of the level with more than 25 % tombstones */
    uint32_t tombstone_any[LEVEL_COUNT]; /* with at least one */
    uint64_t level_values[LEVEL_COUNT];  /* values of its tables */

    struct manifest_version *manifest_version; /* as the levels are now; NULL when they changed */
    struct tree_version *version;              /* as the tree is now; NULL when it changed */
};

/* Memory for the versions of all trees. */
struct tree_version_pool {
    struct tree_version *trees; /* [tree_count] */
    struct tree_version *tree_free;
    uint32_t tree_count, tree_free_count;
    struct manifest_version *manifests; /* [manifest_count] */
    struct manifest_version *manifest_free;
    struct manifest_node **nodes; /* [manifest_count * node_max] */
    uint32_t manifest_count, manifest_free_count;
    uint32_t node_max;
};

MUST_CHECK enum status tree_version_pool_init(struct tree_version_pool *pool, uint32_t tree_count,
                                              uint32_t manifest_count, uint32_t node_max);
void tree_version_pool_deinit(struct tree_version_pool *pool);

/* Takes the slot. `tree->level_nodes` was set when the forest took its memory. */
void tree_init(struct tree *tree, const struct tree_shape *shape, uint32_t bar_value_max,
               uint32_t node_max);
/* Gives everything back; the slot is free. */
void tree_deinit(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                 struct tree_version_pool *versions);

/* Merges runs until one more can be added, and what absorbs can be swapped behind it, without
 * merging. While merges are never put off there are far fewer runs: those of more than 1/64 of a
 * table, at most 64, and a chain of halves. They are put off while readers keep memory, so: False:
 * the arena has no room for a merge; readers will give it back. */
MUST_CHECK bool tree_has_room_for_run(struct tree *tree, struct run_arena *arena,
                                      struct node_pool *nodes, struct tree_version_pool *versions);
/* Takes over one reference to `run`: the values of one batch. */
void tree_add_run(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                  struct tree_version_pool *versions, struct run *run);
/* End of a bar: the immutable table is empty (flushed) or absorbs. */
void tree_swap(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
               struct tree_version_pool *versions);
void tree_clear_immutable(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                          struct tree_version_pool *versions);
void tree_clear_memory(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                       struct tree_version_pool *versions);

/* Recovery: the immutable table was spilled as `run`, whose reference is taken over, and had these
 * counts. Requires that it is empty. */
void tree_restore_immutable(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                            struct tree_version_pool *versions, struct run *run,
                            uint64_t value_count, uint64_t tombstone_count);

/* Changes of the levels; table->level says which. */
void tree_insert_table(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                       struct tree_version_pool *versions, const struct table_info *table);
void tree_remove_table(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                       struct tree_version_pool *versions, const struct table_info *table);
/* Same index block, same level: raised key_min, new counts. `before` is the table as it was. */
void tree_update_table(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                       struct tree_version_pool *versions, const struct table_info *before,
                       const struct table_info *table);

/* More than a quarter of the values are tombstones: due for compaction below its level's limit. */
bool table_tombstones_due(const struct table_info *table);

uint64_t tree_table_count(const struct tree *tree);
bool tree_is_empty(const struct tree *tree);

/* The tree as it is now, with a reference for the caller. */
struct tree_version *tree_version_acquire(struct tree *tree, struct tree_version_pool *versions);
void tree_version_release(struct tree_version *version, struct run_arena *arena,
                          struct node_pool *nodes, struct tree_version_pool *versions);
