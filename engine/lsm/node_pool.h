/* Fixed-size nodes of table_infos that manifest levels are made of; all taken at init.
 *
 * A node is immutable while more than one holder references it: a level that must change such a
 * node copies it first, so published versions keep what they saw. Forest thread only. */
#pragma once

#include <stdint.h>

#include "engine/lsm/table.h"
#include "pool/status.h"

enum {
    NODE_TABLE_MAX = 64,
    /* Two neighbours are merged when both fit in 3/4 of a node: any two neighbours hold more than
     * this together, and a node just merged takes 16 inserts before it splits again. */
    NODE_MERGE_MAX = NODE_TABLE_MAX * 3 / 4,
    /* Most nodes that one change of one level acquires: an insert into a full node that a snapshot
     * shares takes its copy and the other half of the split. */
    NODE_CHANGE_MAX = 2,
};

struct manifest_node {
    uint32_t reference_count;
    uint32_t table_count; /* 1..NODE_TABLE_MAX */
    struct manifest_node *free_next;
    struct table_info tables[NODE_TABLE_MAX]; /* by key, ascending */
};

struct node_pool {
    struct manifest_node *nodes; /* [node_count] */
    struct manifest_node *free;
    uint32_t node_count;
    uint32_t free_count;
    uint32_t free_count_min; /* low-water mark, for stat */
};

/* STATUS_NO_MEMORY: `pool` needs no deinit. */
MUST_CHECK enum status node_pool_init(struct node_pool *pool, uint32_t node_count);
/* Asserts that every node came back. */
void node_pool_deinit(struct node_pool *pool);
/* One reference, no tables. Asserts that one is left: whoever adds tables checks free_count first
 * (a level change needs at most NODE_CHANGE_MAX nodes at once). */
struct manifest_node *node_pool_acquire(struct node_pool *pool);
void node_pool_reference(struct manifest_node *node);
/* The last reference gives the node back to the pool. */
void node_pool_release(struct node_pool *pool, struct manifest_node *node);
