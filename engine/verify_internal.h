/* The offline verification, for its own files: verify.c walks over zones, tables and blocks;
 * verify_groove.c compares the objects of a groove with its ids and indexes. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/catalog.h"
#include "engine/forest.h"
#include "engine/lsm/manifest_log.h"
#include "engine/lsm/scan_tree.h"
#include "engine/lsm/spill.h"
#include "engine/session.h"
#include "engine/storage/free_set.h"
#include "engine/storage/grid.h"

enum { VERIFY_ALLOCATION_MAX = 24 };

struct verify {
    struct io io; /* First member: its functions cast back. Reads `source`, never writes. */
    struct io *source;
    void (*problem)(void *context, const char *text);
    void (*progress)(uint64_t done, uint64_t total, void *context);
    void *context;
    struct verify_report *report;

    struct {
        void *memory;
        size_t size;
    } allocations[VERIFY_ALLOCATION_MAX];
    uint32_t allocation_count;
    bool allocation_failed;

    struct superblock superblock;
    const struct geometry *geometry;           /* of the superblock */
    const struct checkpoint_state *checkpoint; /* likewise */

    struct doorbell doorbell;
    struct workers workers; /* no threads */
    struct grid grid;
    struct free_set free_set;
    bool free_set_known;
    uint64_t *reached; /* [block_count_max / 64] bit set = something refers to the block */
    bool reach_whole;  /* no reference was left out because its parent could not be read */

    struct tree *trees;                /* [tree_count_max]: shapes only, their levels stay empty */
    struct manifest_node **tree_nodes; /* [tree_count_max * LEVEL_COUNT], never used */
    struct catalog catalog;
    bool catalog_known;
    struct session_table sessions;
    struct manifest_log manifest_log;
    struct table_info *tables; /* [checkpoint.table_count] */
    uint64_t table_count;
    struct spill_entry *spills; /* [checkpoint.spill_size / sizeof] */
    uint32_t spill_count;
    bool spill_known; /* the list could be read */

    /* The tree being checked. */
    struct tree_version tree_version;
    struct manifest_version manifest; /* its levels */
    struct manifest_node **nodes;     /* [LEVEL_COUNT * node_max] */
    uint32_t node_max;
    struct node_pool node_pool;
    char tree_name[160];

    uint8_t *trailer;      /* [the largest of free_set_size, state_size and spill_size] */
    uint8_t *index_block;  /* [block_size] each */
    uint8_t *filter_block; /* */
    uint8_t *single_block; /* */
    uint8_t *window;       /* [window_block_count * block_size] value blocks read in one call */
    uint32_t window_block_count;
    uint8_t *scan_spare;   /* [LEVEL_COUNT * 3 * block_size] */
    uint8_t *spill_blocks; /* [2 * block_size] */
    uint8_t *entry;        /* [journal_entry_size_max] */
    struct scan_tree scan;
};

/* Entries of a tree without their order: equal counts and sums are equal multisets, but for an
 * accident of one in 2^128. */
struct multiset {
    uint64_t count;
    u128 sum; /* of XXH3-128 */
};

/* One groove, while its trees are walked: the object tree first. */
struct groove_check {
    struct verify *verify;
    const struct catalog_groove *groove;
    const struct groove_schema *schema;
    bool objects_known; /* the object tree was scanned to its end */
    uint64_t object_count;
    /* What the objects call for, by position of the tree; [TREE_OBJECT] is not used. */
    struct multiset expected[GROOVE_TREE_COUNT_MAX];
    struct multiset found; /* in the tree being scanned */
    uint32_t found_size;   /* bytes of each of its values */
    bool entries_differ;   /* the tree just scanned is not what the objects call for */
    uint64_t bad_count;    /* objects that make no sense */
    uint64_t bad_timestamp;
};

/* verify.c: tells one thing that is wrong. */
__attribute__((format(printf, 2, 3))) void verify_problem(struct verify *verify, const char *format,
                                                          ...);

/* verify.c: a tree again that was found whole, to be scanned once more. False: a block is not as it
 * was, which was told. Detached in both cases. */
MUST_CHECK bool verify_tree_attach(struct verify *verify, const struct tree_shape *shape,
                                   struct run_arena *arena);
void verify_tree_detach(struct verify *verify, struct run_arena *arena);

/* verify_groove.c: of the tree that is attached to check->verify, which is whole. */
/* The objects themselves; from then on, if all could be read, what they call for is known. */
void verify_objects(struct groove_check *check);
/* The tree at `position`, ids or an index, against what the objects call for. */
void verify_entries(struct groove_check *check, uint32_t position);
/* Names the objects that share what is unique in this index. The object tree is scanned again. */
void verify_duplicates(struct groove_check *check, uint32_t index);
