/* The tables of one level of one tree: disjoint, sorted by key, in copy-on-write nodes.
 *
 * A level of a snapshot is a frozen copy of the node pointers. Keys here are struct key with the
 * tombstone bit clear; `key_size` bytes matter and compare as unsigned big-endian. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/lsm/node_pool.h"

struct manifest_level {
    struct manifest_node **nodes; /* [node_max], non-empty nodes in key order; one reference each */
    uint32_t node_count;
    uint32_t node_max; /* capacity of `nodes` */
    uint64_t table_count;
};

/* Nodes that a level of `table_count_max` tables may need: any two neighbours hold more than
 * NODE_MERGE_MAX tables together, and a split is one node ahead of the merge that follows it. */
static inline uint32_t manifest_level_node_max(uint64_t table_count_max)
{
    return (uint32_t)(2 * (table_count_max / (NODE_MERGE_MAX + 1)) + 2);
}

/* `nodes` memory [node_max] is borrowed for the level's life. A snapshot needs no more room than
 * what it shares has nodes, 0 for an empty level. */
void manifest_level_init(struct manifest_level *level, struct manifest_node **nodes,
                         uint32_t node_max);
/* Releases every node. */
void manifest_level_clear(struct manifest_level *level, struct node_pool *pool);

/* Forest thread. The table overlaps none of the level (asserted under VERIFY). */
void manifest_level_insert(struct manifest_level *level, struct node_pool *pool,
                           const struct table_info *table);
/* Removes the table with this key range and index address; it must be there (asserted). */
void manifest_level_remove(struct manifest_level *level, struct node_pool *pool,
                           const struct table_info *table);
/* Overwrites the table whose index address is `table->index.address` and whose key_max is the same
 * (key_min may be raised, counts may change). */
void manifest_level_update(struct manifest_level *level, struct node_pool *pool,
                           const struct table_info *table);

/* Makes `snapshot` (initialised, empty) the same list, sharing the nodes. */
void manifest_level_share(const struct manifest_level *level, struct manifest_level *snapshot);

/* Any thread, on a level that nobody changes. A position names a table or the end. */
struct manifest_position {
    uint32_t node_index;
    uint32_t table_index;
};

struct manifest_position manifest_level_first(const struct manifest_level *level);
/* First table whose key_max is not less than `key`. */
struct manifest_position manifest_level_seek(const struct manifest_level *level,
                                             const struct key *key);
/* NULL at the end. */
const struct table_info *manifest_level_at(const struct manifest_level *level,
                                           struct manifest_position position);
struct manifest_position manifest_level_next(const struct manifest_level *level,
                                             struct manifest_position position);
/* The table whose range holds `key`, or NULL. */
const struct table_info *manifest_level_find(const struct manifest_level *level,
                                             const struct key *key);
/* Tables that overlap [min, max], counted up to `limit`; the first is at *first. */
uint32_t manifest_level_overlap(const struct manifest_level *level, const struct key *min,
                                const struct key *max, uint32_t limit,
                                struct manifest_position *first);
/* The table of `upper` that overlaps the fewest tables of `lower` (ties: the smaller key), in one
 * two-pointer sweep over both. NULL if `upper` is empty. *overlap_count is exact. */
const struct table_info *manifest_level_least_overlap(const struct manifest_level *upper,
                                                      const struct manifest_level *lower,
                                                      uint32_t *overlap_count);

/* Whether keys ascend, tables are disjoint, counts agree and nodes are filled as promised: O(n). */
bool manifest_level_verify(const struct manifest_level *level);
