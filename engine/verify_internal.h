/* The offline verification, for its own files, of which each calls those above it only:
 *
 *   verify_blocks.c      how problems are told, and which blocks are in use
 *   verify_superblock.c  the copies, and numbers that cannot be
 *   verify_checkpoint.c  free set, state, list of spilled tables, manifest log
 *   verify_table.c       one table: index, values, filters
 *   verify_tree.c        one tree: levels and spilled table
 *   verify_groove.c      one groove: objects against ids and indexes
 *   verify_journal.c     entries that follow from each other
 *   verify.c             the order of all this, and its memory */
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

enum {
    VERIFY_ALLOCATION_MAX = 24,
    TABLE_BLOCK_COUNT_MIN = 3, /* index, value, filter */
};

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

/* verify_blocks.c */
/* Tells one thing that is wrong. */
__attribute__((format(printf, 2, 3))) void verify_problem(struct verify *verify, const char *format,
                                                          ...);
/* Of those that are in use: all of what `progress` is told. */
uint64_t verify_blocks_expected(const struct verify *verify);
/* One more block has been read and is whole. */
void verify_block_checked(struct verify *verify);
/* Notes that something refers to this block; `what` it is by that reference. */
void verify_reach(struct verify *verify, uint64_t address, const char *what);
/* Free set = complement of what is reachable. */
void verify_reached(struct verify *verify);

/* verify_superblock.c: into verify->superblock. Not OK: told, and nothing else can be checked. */
MUST_CHECK enum status verify_superblock(struct verify *verify);

/* verify_checkpoint.c: what the superblock refers to. */
void verify_free_set(struct verify *verify);
void verify_state(struct verify *verify);
void verify_spill_list(struct verify *verify);
void verify_manifest_log(struct verify *verify);

/* verify_table.c: a table of the tree being checked; `spilled`: it is in no level. False: something
 * is wrong with it, and has been told. */
bool verify_table(struct verify *verify, const struct table_info *info, bool spilled);

/* verify_tree.c */
/* What the list of spilled tables says by itself: trees that are there, each once, in order, within
 * half a bar. */
void verify_spills(struct verify *verify);
/* Every table of the tree, which is attached then. False: something is wrong, and the tree is not
 * fit to be scanned. Detached in both cases. */
bool verify_tree(struct verify *verify, const struct catalog_groove *groove,
                 const struct tree *tree, struct run_arena *arena);
/* A tree again that was found whole, to be scanned once more. False: a block is not as it was,
 * which was told. Detached in both cases. */
MUST_CHECK bool verify_tree_attach(struct verify *verify, const struct tree_shape *shape,
                                   struct run_arena *arena);
void verify_tree_detach(struct verify *verify, struct run_arena *arena);

/* verify_groove.c: every groove of the catalog, tree by tree, and what their values say of each
 * other. */
void verify_grooves(struct verify *verify);

/* verify_journal.c */
void verify_journal(struct verify *verify);
