/* The engine's only face: a forest of LSM trees on one data file, one writer, many readers.
 *
 * Threads. Every function here belongs to the forest thread, the one that called forest_init,
 * unless it says otherwise. Work that may block runs on the worker teams; what they finish is
 * picked up by forest_tick, and callbacks are delivered there, never inline.
 *
 * The write path, for the caller:
 *   forest_batch_add ...   requests gather in the next batch
 *   forest_tick            prefetch -> commit numbers -> journal beside execution -> beats
 *   on_committed           for each request, in order, once its journal entry is durable
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/event.h"
#include "engine/schema.h"
#include "engine/storage/io.h"
#include "engine/storage/superblock.h"
#include "pool/clock.h"
#include "pool/doorbell.h"
#include "pool/status.h"
#include "pool/workers.h"

struct forest; /* engine/forest_internal.h, for the engine's own files and tests */

/* ---- Outcomes ----------------------------------------------------------------------------------
 */

struct request_outcome {
    enum request_kind kind;
    enum request_result result;
    uint64_t commit;    /* number of this request in the total order */
    uint64_t timestamp; /* the commit's; the n-th event of the request has timestamp + n */
    const struct event_failure *failures; /* [failure_count], valid during the callback */
    uint32_t failure_count;               /* listed */
    uint32_t failure_total; /* more than are listed only of a request that belongs to a session */
    uint32_t groove_id;     /* of GROOVE_CREATE */
    uint32_t object_size;   /* bytes, likewise */
    const char *reason;     /* BAD_SCHEMA and the like: text, valid during the callback; or NULL */
};

/* On the forest thread, from forest_tick. `context` is what forest_batch_add was given. */
typedef void forest_on_committed(void *context, const struct request_outcome *outcome);

/* ---- Lifecycle ---------------------------------------------------------------------------------
 */

enum { FOREST_READ_SLOT_MAX = 256 };

struct forest_options {
    struct io *io; /* open and locked; outlives the forest */
    /* The same file, opened once more: the kernel tells a failed write-back once to each opening,
     * and the journal must hear of it, whoever else does. NULL: `io`, where nothing can fail. */
    struct io *journal_io;
    const struct clock *clock;
    struct doorbell *doorbell;  /* rung whenever forest_tick has something to do */
    struct workers *compactors; /* W pthreads (0 = inline): jobs of compaction, checkpoint writes */
    struct workers *journal_worker; /* 0 or 1 thread */
    struct workers *growth_worker;  /* 0 or 1 thread: zero-writes new chunks */
    struct workers *readers;        /* R pthreads (0 = inline): queries and the writer's prefetch */
    /* The forest thread writes small journal entries itself, while the disk takes no longer than
     * this for one and nothing is being read: to wake the journal thread and be woken by it takes
     * half as long as a quick disk. 0: never. */
    uint64_t journal_wait_ns_max;
    uint64_t cache_size;       /* bytes of the block cache */
    uint32_t read_slot_count;  /* reads in progress at once, 1..FOREST_READ_SLOT_MAX */
    uint64_t read_budget_size; /* bytes that one query or count may look through, 0 = any */
    forest_on_committed *on_committed;
};

/* One line of the memory plan. */
struct forest_plan_item {
    const char *name;    /* constant */
    uint64_t size;       /* bytes */
    const char *derived; /* constant: where it comes from */
};
enum { FOREST_PLAN_ITEM_MAX = 32 };
struct forest_plan {
    struct forest_plan_item items[FOREST_PLAN_ITEM_MAX];
    uint32_t item_count;
    uint64_t total_size;
    uint64_t beat_work_max; /* bytes of merge work that one beat can ask the writer to wait for */
    uint32_t resource_pool_blocks; /* blocks, and the minimum that one job needs */
    uint32_t resource_pool_minimum;
};
/* What forest_init will take for a file of this geometry. Any thread. */
void forest_plan(const struct geometry *geometry, const struct forest_options *options,
                 struct forest_plan *plan);

/* Room that each team's queue must have (workers_start). Any thread. */
uint32_t forest_queue_capacity(const struct geometry *geometry, uint32_t read_slot_count);

/* Writes a new, empty data file: superblock, journal, first chunk. `progress` may be NULL. */
MUST_CHECK enum status forest_format(struct io *io, const struct geometry *geometry,
                                     const uint8_t file_id[16], uint64_t journal_seed,
                                     void (*progress)(uint64_t done, uint64_t total, void *context),
                                     void *context);

/* Reads the superblock and takes all memory. NULL with *status: as superblock_open, NO_MEMORY.
 * `reason` (reason_size bytes) then says what was found. */
struct forest *forest_init(const struct forest_options *options, enum status *status, char *reason,
                           size_t reason_size);
/* At any time, with no reads in progress: pending work is cancelled (what is on a worker is waited
 * for, its result dropped), and the forest is as after forest_init. Nothing acknowledged is lost:
 * forest_open recovers it. */
void forest_reset(struct forest *forest);
/* forest_reset, then all memory goes back. */
void forest_deinit(struct forest *forest);

struct forest_open_report {
    uint64_t checkpoint_op;
    uint64_t table_count;
    uint64_t spilled_table_count; /* read back into memory */
    uint64_t entries_replayed;
    uint64_t requests_replayed;
    uint64_t events_replayed;
    uint64_t replay_bytes;
    bool torn_tail; /* an unfinished last entry was dropped */
    uint8_t copies_repaired;
    uint64_t open_ns;   /* manifest, trees */
    uint64_t replay_ns; /* journal */
};
typedef void forest_on_open(void *context, enum status status,
                            const struct forest_open_report *report, const char *reason);
/* Recovers: manifest log, trees, journal. The callback comes from a later forest_tick.
 * STATUS_CORRUPT with a reason that names zone, tree and address. */
void forest_open(struct forest *forest, forest_on_open *callback, void *context);

/* Does whatever can be done now; returns whether anything was. The loop:
 *   seen = doorbell_count(bell); while (forest_tick(forest)) {} ; doorbell_wait(bell, seen, ...).
 */
bool forest_tick(struct forest *forest);

/* ---- Writing -----------------------------------------------------------------------------------
 */

enum forest_admission {
    FOREST_ADDED,   /* on_committed will be called with `context` */
    FOREST_LATER,   /* the gathering batch is full: call again after a tick */
    FOREST_REFUSED, /* *result says why; on_committed will not be called */
};
/* `body` is copied. Checks everything that can be checked before execution. `atomic`: all events of
 * a write are one chain. `session`: whose request it is, and forest_session_look called it NEW; or
 * NULL. */
enum forest_admission forest_batch_add(struct forest *forest, enum request_kind kind, bool atomic,
                                       const uint8_t *body, uint32_t size,
                                       const struct request_session *session, void *context,
                                       enum request_result *result, const char **reason);

/* Forest thread. While it is shared, what waits for the journal is not all that there is to do: the
 * forest thread writes no entry itself, and what replied does not begin the next batch in the same
 * tick, for others would wait with it. */
void forest_share(struct forest *forest, bool shared);

/* Another number than before: another batch gathers than before. */
uint64_t forest_gathering_number(const struct forest *forest);

/* Nothing gathers, prefetches, journals or compacts. */
bool forest_is_idle(const struct forest *forest);
/* When idle: one step of what nobody asked for but is owed (compaction debt, dropped grooves), as a
 * journaled request. False: nothing is owed, or not idle. */
bool forest_pay_debt(struct forest *forest);
/* When idle: seals the journal, so that its last entry is provably whole. Nothing to do if it is
 * sealed already. A clean stop calls it, then ticks until forest_is_idle. */
void forest_seal(struct forest *forest);

/* ---- Sessions ----------------------------------------------------------------------------------
 */

enum session_verdict {
    SESSION_NEW,        /* to be executed: nobody has seen this number */
    SESSION_DONE,       /* executed, and durable */
    SESSION_UNDER_WAY,  /* in a batch: its outcome will come */
    SESSION_WAIT,       /* not to be told before something is durable: ask again after a tick */
    SESSION_REFUSED,    /* refused before, by this process */
    SESSION_NONE,       /* there is no such session */
    SESSION_OTHER_USER, /* it is not this user's */
    SESSION_BAD_LANE,   /* no such lane, or the number is 0 */
    SESSION_STALE,      /* the lane has executed, or refused, a higher number */
    SESSION_LANE_BUSY,  /* another number is under way on the lane */
};

struct session_answer {
    struct request_outcome outcome; /* DONE: as it was told then; valid until the next tick */
    void *context;                  /* UNDER_WAY: that of the request which was admitted */
    uint32_t refused_result;        /* REFUSED: as the caller said then */
};
/* What is to become of a request that belongs to a session. Changes nothing. */
enum session_verdict forest_session_look(struct forest *forest,
                                         const struct request_session *request,
                                         struct session_answer *answer);
/* A request that the look called NEW or LANE_BUSY was refused for good, here or by the caller: its
 * number, and lower ones, will not be executed by this process. `result` is the caller's own. */
void forest_session_refused(struct forest *forest, const struct request_session *request,
                            uint32_t result);

struct session_info {
    uint32_t lane_count;
    uint64_t numbers[SESSION_LANE_MAX]; /* [lane_count] last executed on each; 0: none */
};
/* DONE with *info, WAIT, NONE or OTHER_USER. Lane and number of the request are not looked at. */
enum session_verdict forest_session_find(struct forest *forest,
                                         const struct request_session *request,
                                         struct session_info *info);
/* Requires: forest_session_find said NONE. When the table is full, the session that has executed
 * nothing for longest, and for `idle_ns` at least, goes first; LIMIT: there is none. */
enum forest_admission forest_session_open(struct forest *forest,
                                          const struct request_session *request,
                                          uint32_t lane_count, uint64_t idle_ns, void *context,
                                          enum request_result *result, const char **reason);
/* REFUSED: for *verdict, or for *result when that is NEW. */
enum forest_admission forest_session_close(struct forest *forest,
                                           const struct request_session *request, void *context,
                                           enum session_verdict *verdict,
                                           enum request_result *result);

/* ---- Reading -----------------------------------------------------------------------------------
 */

enum read_kind { READ_KIND_LOOKUP = 1, READ_KIND_QUERY, READ_KIND_COUNT };

enum {
    READ_RESTART_MAX = 8,
    READ_HERE_ID_MAX = 16, /* looked up in less time than waking a reader takes */
};

/* One read. Acquired from a fixed set, filled in by the caller, given back after `done`. */
struct read_request {
    struct job job;                 /* private */
    struct forest *forest;          /* private */
    struct read_scratch *scratch;   /* private */
    struct read_request *free_next; /* private */
    struct {
        bool gave_way;     /* it holds its version, and goes on where it was */
        bool newer;        /* that version is newer than the one before it */
        uint32_t restarts; /* on newer versions */
        uint64_t commit;   /* of the version */
        uint64_t horizon;  /* of the version */
    } progress;            /* private */

    enum read_kind kind;
    uint32_t groove_id;
    uint32_t index;       /* position in the schema; READ_INDEX_NONE: whole groove (COUNT) */
    uint32_t limit;       /* objects; 0 = as many as fit */
    const uint8_t *input; /* LOOKUP: ids, 16 bytes each; QUERY, COUNT: values as
                           * schema_index_prefix takes them. Lent until done. */
    uint32_t input_size;
    uint64_t
        deadline_ns; /* monotonic; a read that no reader has begun by then is EXPIRED; 0: none */

    /* Set before done. */
    enum request_result result;
    uint64_t commit; /* the read saw exactly the state after this commit */
    uint64_t count;  /* COUNT: objects; else objects in reply */
    uint32_t object_size;
    uint8_t *reply; /* object images, one behind another; owned by the request */
    uint32_t reply_size;
    uint32_t reply_capacity; /* bytes: batch_size_max, at least one block */

    void (*done)(struct read_request *request); /* on a reader's thread, or in forest_read_here */
    void *context;
};
#define READ_INDEX_NONE UINT32_MAX /* an enumerator would not fit an int */

/* Without a deadline. NULL: all in use, try again after the doorbell. */
struct read_request *forest_read_acquire(struct forest *forest);
/* Any thread. */
void forest_read_release(struct forest *forest, struct read_request *request);
/* Runs on a reader, on the version that is published when it begins. Never waits for fsync,
 * compaction or a batch, and never makes them wait: a long one gives way to what waits for its
 * reader, in turns of a fraction of a millisecond, and the writer's prefetch comes first; when the
 * writer needs the memory of the read's version, the read starts again on a newer one,
 * READ_RESTART_MAX times. Beside the results of query_run: EXPIRED     no reader had time for it
 * before its deadline OVERTAKEN   it was started again that often: ask for less, or when less is
 * written BUDGET      it looked through read_budget_size bytes: narrow it, or give a limit */
void forest_read_submit(struct forest *forest, struct read_request *request);
/* Forest thread, instead of that. Answers a lookup of READ_HERE_ID_MAX ids at most from memory:
 * `done` has been called when it returns. False: a block would have to be waited for, or it is no
 * such lookup; it is to be submitted. */
MUST_CHECK bool forest_read_here(struct forest *forest, struct read_request *request);

/* ---- Looking -----------------------------------------------------------------------------------
 */

struct forest_groove_info {
    uint32_t groove_id;
    bool dropping;
    uint64_t object_count;              /* as of the last durable commit */
    const struct groove_schema *schema; /* valid until the next forest_tick */
};
/* The grooves of the catalog, as of the last durable commit. Returns how many there are; fills up
 * to `max`. */
uint32_t forest_grooves(const struct forest *forest, struct forest_groove_info *grooves,
                        uint32_t max);

/* The groove's schema as the next write would find it, valid until the next forest_tick. NULL: no
 * such groove. */
const struct groove_schema *forest_groove_schema(const struct forest *forest, uint32_t groove_id);

/* Goes through the sections of a write as forest_batch_add would, and calls `visit` for the groove
 * of each (schema NULL: there is none of this number) until it says false or the body makes no more
 * sense. Returns false if `visit` did; every groove that the write could touch has been visited
 * otherwise, or the write will be refused. */
typedef bool forest_groove_visit(void *context, uint32_t groove_id,
                                 const struct groove_schema *schema);
bool forest_write_walk(const struct forest *forest, const uint8_t *body, uint32_t size,
                       forest_groove_visit *visit, void *context);

struct forest_stats {
    struct geometry geometry;
    uint64_t op, commit_executed, commit_durable, timestamp;
    uint64_t checkpoint_op, checkpoint_count; /* count since open */
    struct checksum checkpoint_id;
    uint64_t superblock_sequence;
    uint64_t journal_used, journal_size, journal_bytes_written, journal_entries;
    uint64_t journal_write_ns, journal_write_ns_max; /* of the last writes; of all since open */
    uint64_t blocks_acquired, blocks_released, blocks_grown, blocks_max; /* grid */
    uint64_t blocks_kept; /* from writes, for merges and removes: with fewer, they are refused */
    uint64_t blocks_written, blocks_read;
    uint64_t cache_hits, cache_misses, cache_blocks;
    uint64_t tables, tables_max, tables_by_level[LEVEL_COUNT];
    uint64_t memory_segments_free, memory_segments_min, memory_segments;
    uint64_t versions, versions_max;
    uint64_t versions_revoked_total; /* taken from readers, because the writer needed memory */
    uint64_t reads_here_total;       /* answered by the forest thread itself */
    uint64_t reads_gave_way_total;   /* turns that ended because others waited */
    uint64_t reads_restarted_total;  /* on a newer version */
    uint64_t reads_overtaken_total, reads_over_budget_total; /* given up */
    uint64_t debt_bytes;         /* compaction work known to be owed; 0 when idle and settled */
    uint64_t beat_overrun_total; /* beats that had to wait longer than the plan says */
    uint64_t beat_wait_ns_max, beat_wait_ns_total;
    uint64_t half_bar_count, absorbed_bars;
    uint64_t sessions, sessions_max, session_lanes, session_lanes_max;
    uint64_t sessions_evicted_total;
    uint64_t spilled_tables; /* small memory tables that checkpoints kept as they were */
    uint64_t memory_plan;
    bool read_only, full;
    bool low; /* space is scarce: each bar ends in a checkpoint */
};
void forest_stats(struct forest *forest, struct forest_stats *stats);

/* ---- Offline -----------------------------------------------------------------------------------
 */

struct verify_report {
    uint64_t blocks_checked, tables_checked, values_checked, grooves, sessions, journal_entries;
    uint64_t bytes_checked;
    struct checksum checkpoint_id;
    uint64_t checkpoint_op;
    uint64_t problems;
};
/* Walks everything reachable from the superblock of `io`: checksums, order, counts, filters, free
 * set = complement of what is reachable, manifest log against its own chronological replay, indexes
 * against objects. `problem(text)` is called for each thing wrong; `progress` may be NULL. */
MUST_CHECK enum status forest_verify(struct io *io,
                                     void (*problem)(void *context, const char *text),
                                     void (*progress)(uint64_t done, uint64_t total, void *context),
                                     void *context, struct verify_report *report);
