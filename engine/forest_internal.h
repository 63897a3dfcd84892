/* struct forest: for the engine's own files and their tests; others see engine/forest.h.
 *
 *   forest.c             memory: init, deinit, plan, stats, format
 *   forest_open.c        recovery: superblock -> state -> manifest log -> trees -> journal
 *   forest_commit.c      the write path: gather -> prefetch -> journal beside execution -> reply
 *   forest_session.c     whose requests they are, and which of them were there before
 *   forest_space.c       room in the file: who may still take some
 *   forest_beat.c        ops: beats, half-bars, bars; swap; the wait for workers that are behind
 *   forest_checkpoint.c  what a bar's end leaves on disk, and the join that ends it
 *   forest_read.c        reads on published versions
 *
 * One pass of the write path:
 *
 *   gathering --(journal idle)--> preparing --(prefetched, beats paid)--> committing --(durable)-->
 * replies
 *
 * Beats are paid between the execution of one batch and the prefetch of the next, so a prefetch
 * never sees a block that is freed meanwhile. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/batch.h"
#include "engine/catalog.h"
#include "engine/chain.h"
#include "engine/forest.h"
#include "engine/lsm/compaction_schedule.h"
#include "engine/lsm/manifest_log.h"
#include "engine/prefetch.h"
#include "engine/query.h"
#include "engine/session.h"
#include "engine/storage/free_set.h"
#include "engine/storage/grid.h"
#include "engine/storage/journal.h"
#include "engine/storage/superblock.h"
#include "engine/version.h"

/* The three calls of the lifecycle never overlap. */
enum forest_progress {
    FOREST_PROGRESS_NONE,
    FOREST_PROGRESS_OPEN,       /* until the journal is replayed */
    FOREST_PROGRESS_COMPACT,    /* beats are owed */
    FOREST_PROGRESS_CHECKPOINT, /* encoding, at the end of a bar */
};

enum forest_phase {
    FOREST_CLOSED,    /* after init */
    FOREST_OPENING,   /* forest_open was called: the next tick reads the trees */
    FOREST_REPLAYING, /* the journal */
    FOREST_READY,
    FOREST_FAILED, /* the open failed: only deinit is left */
};

enum batch_stage {
    BATCH_STAGE_NONE,
    BATCH_STAGE_PREFETCHING,
    BATCH_STAGE_PREPARED,
};

/* Blocks on their way to the grid: closed blocks of the manifest log. Run by the background worker.
 */
struct block_write_job {
    struct job job; /* First member: run casts back. */
    struct forest *forest;
    uint8_t *blocks;     /* [block_max * block_size] */
    uint64_t *addresses; /* [block_max] */
    uint32_t block_max;
    uint32_t block_count;
    bool active;
    _Atomic bool done;
    enum status status;
};

struct checkpoint_job {
    struct job job; /* First member: run casts back. */
    struct forest *forest;
    struct checkpoint_state state;
    uint8_t *blocks;     /* [block_max * block_size] trailers: state, spilled tables, free set */
    uint64_t *addresses; /* [block_max] */
    uint32_t block_max;
    uint32_t block_count;
    uint64_t journal_sequence_needed; /* durable before the superblock is written */
    bool pending;                     /* encoded, and not joined yet */
    bool submitted;
    _Atomic bool done;
    enum status status;
};

/* Blocks. See forest_space.c. */
struct forest_space {
    uint64_t hand;  /* free, in what the file has grown to: as of the last look, and growth since */
    uint64_t grown; /* blocks of the file, as counted into hand */
    uint64_t floating; /* released, and free after the next joins: as of the last look */
    uint64_t step;     /* what may be taken from hand before the next look */
    uint64_t step_low; /* the same behind an entry that says that space is low */
    uint64_t limits;   /* of it, by the next first half that merges only what is at its limit */
    bool looked;       /* since a batch was last executed */
    bool wanted;       /* a write was refused since idle beats last paid for space */
    bool retry;        /* growth that has failed: with the next write, once in a bar */
};

enum space_verdict {
    SPACE_ACCEPT,
    SPACE_WAIT, /* the file is growing */
    SPACE_REFUSE,
};

struct forest {
    struct forest_options options;
    struct geometry geometry;
    struct superblock
        superblock; /* the durable one; written by the checkpoint job while submitted */
    struct checksum checkpoint_id; /* of the last joined checkpoint */
    uint64_t checkpoint_op, superblock_sequence;
    uint8_t *superblock_buffer; /* [SUPERBLOCK_COPY_COUNT * SECTOR_SIZE] */
    struct doorbell *doorbell;

    struct grid grid;
    struct free_set free_set;
    struct journal journal;
    struct node_pool nodes;
    struct manifest_log manifest_log;
    struct run_arena arena;
    struct tree_version_pool tree_versions;
    struct tree *trees; /* [geometry.tree_count_max] */
    struct compaction_schedule schedule;
    struct catalog catalog;
    struct session_table sessions;
    struct version_set versions;
    struct manifest_node **level_nodes;
    uint32_t node_max;
    uint32_t init_steps; /* how far init came, for undoing in reverse */

    enum forest_phase phase;
    enum forest_progress progress;
    bool read_only; /* compaction met a damaged block, or could not write one */
    bool full;      /* the last write was refused for want of space */
    /* Why it is read-only, or why the last prefetch refused requests: what a recovery that ends
     * there gives as its reason. */
    enum status bad_status;
    uint64_t bad_address; /* 0: not known, or not a read */

    /* Write path. */
    struct batch batches[3];
    struct batch *gathering;   /* never NULL once ready */
    uint64_t gathering_number; /* batches that began to gather before it */
    struct batch *preparing;
    struct batch *committing; /* its journal entry is in flight */
    struct version *committing_version;
    enum batch_stage stage; /* of preparing */
    bool preparing_low;     /* what its journal entry will say of space */
    bool sealing;           /* the entry in flight is a seal */
    struct prefetch prefetch;
    struct version *prefetch_version;
    uint8_t *write_memory; /* [batch_write_bytes_max] values of the executing batch */
    uint8_t *sort_scratch; /* [the same] */
    struct groove_write writes[BATCH_GROUP_MAX];
    struct chain chain;
    uint8_t *seal_buffer; /* [SECTOR_SIZE] */

    uint64_t commit_executed, commit_durable;
    uint64_t catalog_commit;   /* the last one that changed the catalog */
    uint64_t session_commit;   /* the last one that opened, closed or evicted a session */
    uint64_t timestamp;        /* last one given */
    uint64_t sequence_durable; /* of the journal */

    /* Ops. */
    uint64_t op;         /* beats completed */
    uint64_t beats_owed; /* by what has executed */
    uint32_t beat;       /* the beat in progress, of its bar */
    bool bar_replayed;   /* this bar's merges are in the checkpoint: swap only */
    bool bar_checkpoint; /* this bar ends in a checkpoint */
    uint64_t bar_journal_used, bar_memory_used;                 /* bytes */
    uint64_t journal_since_checkpoint, memory_since_checkpoint; /* bytes */
    uint64_t beat_wait_since_ns;                                /* 0: not waiting */

    /* As of the start of this bar: what a checkpoint at its end will say. */
    uint8_t *state_buffer;
    uint64_t state_size;
    uint64_t bar_sequence, bar_offset, bar_commit, bar_timestamp;
    struct checksum bar_parent;

    /* Checkpoints. */
    struct block_write_job manifest_write;
    struct checkpoint_job checkpoint;
    uint64_t *trailer_addresses; /* [checkpoint.block_max] of the last checkpoint's trailers */
    uint32_t trailer_count;
    bool join_owed; /* at the middle of this bar */
    /* Blocks that the last checkpoint alone needs, its trailers and spilled tables: released when
     * it was encoded, freed at the next one's join. */
    uint64_t checkpoint_own_blocks;
    uint8_t *free_set_buffer; /* encoded bytes */
    uint8_t *spill_buffer;    /* [spill_size_max] likewise */
    _Atomic uint64_t horizon; /* joins so far: blocks may have been reused since */

    /* Space. */
    struct forest_space space;
    bool low;   /* as the last journal entry says: it steers plans */
    bool purge; /* that entry paid debt: merges go on until no tombstone is left */

    /* Opening. */
    forest_on_open *on_open;
    void *on_open_context;
    struct forest_open_report report;
    uint64_t replay_start_ns;
    char reason[512];

    /* Reads. */
    struct mutex read_mutex;    /* LOCK_RANK_VERSION */
    struct read_request *reads; /* [read_slot_count] */
    struct read_scratch *read_scratches;
    struct read_request *read_free;
    uint32_t reads_busy;
    bool shared; /* forest_share */
    _Atomic uint64_t reads_here_total;
    _Atomic uint64_t reads_gave_way_total;
    _Atomic uint64_t reads_restarted_total, reads_overtaken_total, reads_over_budget_total;

    /* Counters for forest_stats. */
    uint64_t checkpoint_count, absorbed_bars, beat_overrun_total, session_evicted_total;
    uint64_t beat_wait_ns_max, beat_wait_ns_total;
};

/* forest.c */
/* Bytes of merge work that one beat can ask the writer to wait for. */
uint64_t forest_beat_work_max(const struct geometry *geometry);

/* forest_open.c */
bool forest_open_tick(struct forest *forest);

/* forest_read.c */
/* Reads that wait for a reader or are with one. */
uint32_t forest_reads_busy(struct forest *forest);

/* forest_commit.c */
bool forest_commit_tick(struct forest *forest);
/* Bytes of work that idle ops would do. */
uint64_t forest_debt(const struct forest *forest);
/* Executes a prefetched batch in memory; its requests get commit numbers and results. `low`: what
 * its entry says. */
void forest_execute(struct forest *forest, struct batch *batch, uint64_t timestamp_first,
                    uint64_t entry_size, bool low);
/* The newest version, made of the trees as they are; not yet published. */
struct version *forest_version_make(struct forest *forest);
bool forest_version_room(struct forest *forest);
/* Each tree can take one more run; runs are merged where they are too many. */
bool forest_run_room(struct forest *forest);
bool forest_versions_collect(struct forest *forest);
/* Takes the oldest version that readers hold from them. True: something came back. */
bool forest_versions_revoke(struct forest *forest);
/* Starts finding out what `batch`, already resolved, needs. */
void forest_prefetch_begin(struct forest *forest, struct batch *batch);
/* True once the prefetch of `preparing` is over and it is PREPARED. */
bool forest_prefetch_reap(struct forest *forest);

/* Every table of every level has exactly one live extent in the manifest log, and the counts agree.
 * O(tables): under VERIFY only. */
bool forest_verify_table_extents(const struct forest *forest);

/* Refuses what is refused whatever the request says: in a store that is read-only or full. */
bool forest_may_add(struct forest *forest, enum request_kind kind, const uint8_t *body,
                    uint32_t size, enum request_result *result);

/* forest_session.c */
/* The request that was just added to the gathering batch is under way on its lane... */
void forest_session_begin(struct forest *forest, const struct request_session *request,
                          void *context);
/* ... until it is answered, executed or not. */
void forest_session_end(struct forest *forest, const struct batch_request_header *header);
/* Opens, closes or evicts. */
void forest_session_execute(struct forest *forest, const struct batch_request *request);
/* Keeps the outcome of a request that has executed and has a number. */
void forest_session_executed(struct forest *forest, const struct batch *batch,
                             const struct batch_request *request);
/* The same around an entry that is replayed. False: it does not fit the sessions that are there. */
bool forest_session_replay_begin(struct forest *forest, const struct batch *batch);
void forest_session_replay_end(struct forest *forest, const struct batch *batch);

/* forest_beat.c */
/* Counts a journal entry of `entry_size` bytes, and what has executed: the beats now owed. */
void forest_beats_count(struct forest *forest, uint64_t entry_size, uint64_t idle_beats);
bool forest_beat_tick(struct forest *forest);
/* First beat of the first bar after init, or after a checkpoint that was recovered. */
void forest_bar_commence(struct forest *forest);

/* forest_space.c */
/* Whether the first half of the bar that begins after `op`, if space is low, merges only what is at
 * its level's limit. */
bool forest_space_only_limits(const struct forest *forest, uint64_t op);
/* Counts what is free, and what the next two half-bars can take. No reservation is open. */
void forest_space_look(struct forest *forest, bool middle);
/* Whether a request of this kind may be journaled now, beside what `batch` holds. Asks for growth;
 * once growth has failed, once in a bar, or with `retry`. *low is for the entry. */
enum space_verdict forest_space_judge(struct forest *forest, enum request_space kind,
                                      const struct batch *batch, bool retry, bool *low);
/* The same question where the file does not grow; nothing changes. */
bool forest_space_suffices(struct forest *forest, enum request_space kind,
                           const struct batch *batch);
/* Blocks that are kept from writes: below that many, free or on their way back, they are FULL. */
uint64_t forest_space_kept(const struct forest *forest);

/* forest_checkpoint.c */
uint32_t forest_trailer_block_max(const struct geometry *geometry);
/* Bytes of catalog and sessions, at most. */
uint64_t forest_state_size_max(const struct geometry *geometry);
void forest_checkpoint_encode(struct forest *forest);
bool forest_checkpoint_tick(struct forest *forest);
bool forest_checkpoint_join_ready(struct forest *forest);
void forest_checkpoint_join(struct forest *forest);
void forest_manifest_write_submit(struct forest *forest);
bool forest_manifest_write_ready(struct forest *forest);
/* Keeps what requests can change, and the journal's position, as they are at a bar's start. */
void forest_bar_state_capture(struct forest *forest);
