/* Trees put together by hand on a disk in memory: tables at chosen levels, runs on top.
 *
 * For tests of what reads trees. Tables are made by table_builder, runs by run_build, and the order
 * in which a test adds them is the age order it wants to see: tables from level 6 up to level 0,
 * then runs, oldest first. Everything aborts when it cannot be done. */
#pragma once

#include <stdint.h>

#include "engine/lsm/tree_version.h"
#include "engine/storage/free_set.h"
#include "engine/storage/grid.h"
#include "pool/doorbell.h"
#include "pool/workers.h"
#include "tests/harness/sim_io.h"

enum {
    TREE_FIXTURE_NODE_MAX = 16,    /* nodes of one level */
    TREE_FIXTURE_WINDOW = 4,       /* blocks */
    TREE_FIXTURE_CACHE_MAX = 1024, /* blocks */
};

struct tree_fixture {
    struct geometry geometry;
    struct sim_io sim;
    struct doorbell doorbell;
    struct workers workers;
    struct grid grid;
    uint32_t cache_block_count;
    struct free_set free_set;
    struct run_arena arena;
    struct node_pool nodes;
    uint8_t *blocks; /* [TREE_FIXTURE_WINDOW + 3 blocks], owned: the builder's */
    uint64_t blocks_size;
    uint8_t *scratch; /* owned: the builder's */
    uint64_t scratch_size;
    struct block_pin crowd[TREE_FIXTURE_CACHE_MAX]; /* slots taken by tree_fixture_crowd */
    uint32_t crowd_count;
    uint64_t size_uncut; /* bytes of the file before tree_fixture_cut; 0 = not cut */
};

struct tree_fixture_tree {
    struct tree_version version;
    struct manifest_version manifest;
    struct manifest_node *nodes[LEVEL_COUNT][TREE_FIXTURE_NODE_MAX];
};

void tree_fixture_init(struct tree_fixture *fixture, const struct geometry *geometry,
                       uint32_t cache_block_count);
/* Asserts that nothing is pinned and that every tree was dropped. */
void tree_fixture_deinit(struct tree_fixture *fixture);
/* Empties the block cache, so that what happens to the disk is seen. */
void tree_fixture_forget(struct tree_fixture *fixture);
/* The same, then takes every slot of the cache, so that readers need their spare blocks; until
 * tree_fixture_uncrowd. */
void tree_fixture_crowd(struct tree_fixture *fixture);
void tree_fixture_uncrowd(struct tree_fixture *fixture);
/* Forgets, and from now on reads of blocks past the first `block_count` fail, however often they
 * are repeated; until tree_fixture_restore. */
void tree_fixture_cut(struct tree_fixture *fixture, uint64_t block_count);
void tree_fixture_restore(struct tree_fixture *fixture);

/* An empty tree. `tree` must not move afterwards. */
void tree_fixture_tree_init(struct tree_fixture *fixture, struct tree_fixture_tree *tree,
                            uint32_t tree_id, uint32_t key_size, uint32_t value_size,
                            enum filter_kind filter_kind);
void tree_fixture_tree_deinit(struct tree_fixture *fixture, struct tree_fixture_tree *tree);

/* `count` > 0 sorted values as the tree's newest run. */
void tree_fixture_add_run(struct tree_fixture *fixture, struct tree_fixture_tree *tree,
                          const uint8_t *values, uint32_t count);
/* `count` > 0 sorted values, which overlap none of the level's tables, as tables of
 * `table_value_count` values each. The first `hidden` values (fewer than the first table has) are
 * on disk, but the table's key_min is raised past them. */
void tree_fixture_add_tables(struct tree_fixture *fixture, struct tree_fixture_tree *tree,
                             uint32_t level, const uint8_t *values, uint32_t count,
                             uint32_t table_value_count, uint32_t hidden);
