#include "engine/forest.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "engine/lsm/spill.h"
#include "engine/storage/trailer.h"
#include "pool/base.h"
#include "pool/log.h"
#include "pool/memory.h"

/* ---- Sizes -------------------------------------------------------------------------------------
 */

/* Live tables of all trees. At 32 KiB blocks and 128-byte objects they hold over 10^10 objects. */
enum { TABLE_COUNT_MAX = 128 * 1024, MANIFEST_VERSIONS_PER_TREE = 6, TREE_VERSIONS_PER_TREE = 40 };

static uint64_t table_count_max_of(const struct geometry *geometry)
{
    return min_u64(TABLE_COUNT_MAX, geometry->block_count_max / 4); /* A table has 3 at least. */
}

static uint32_t node_max_of(const struct geometry *geometry)
{
    return manifest_level_node_max(table_count_max_of(geometry));
}

/* The levels of one tree, in a version. */
static uint32_t tree_node_max_of(const struct geometry *geometry)
{
    return node_max_of(geometry) + (LEVEL_COUNT - 1) * manifest_level_node_max(0);
}

/* All levels as they are; and as the newest version has them, which is behind by what the beats of
 * its own batch have joined: two half-bars at most. Older versions get what is left (nodes_ready).
 */
static uint32_t node_count_of(const struct geometry *geometry)
{
    const uint32_t level_count = geometry->tree_count_max * LEVEL_COUNT;
    return node_max_of(geometry) + (level_count - 1) * manifest_level_node_max(0) +
           2 * compaction_job_count_max(geometry->tree_count_max) * COMPACTION_NODE_MAX;
}

static uint32_t run_count_max_of(const struct geometry *geometry)
{
    /* Both memory tables of each tree, and as much again held by versions. */
    return geometry->tree_count_max * TABLE_MEMORY_RUN_MAX * 2 + 4096;
}

static uint64_t arena_size_of(const struct geometry *geometry)
{
    /* The mutable and the immutable table, each a bar and a batch; what versions still hold of the
     * bar before; and for each tree some partly filled segments, directories and filters: three a
     * run, of which each of the two tables has TABLE_MEMORY_RUN_SPARE that are small. */
    static_assert(3 * TABLE_MEMORY_RUN_SPARE <= 48, "runs fit what is planned for a tree");
    static_assert(TABLE_MEMORY_RUN_BYTES >= 6 * RUN_SEGMENT_SIZE, "and others half of their bytes");
    const uint64_t bar = geometry->bar_memory_size + 2 * batch_write_bytes_max(geometry);
    return 3 * bar + (uint64_t)geometry->tree_count_max * 48 * 2 * RUN_SEGMENT_SIZE;
}

static uint32_t append_blocks_max_of(const struct geometry *geometry)
{
    /* Per job: a source, its targets, its outputs. */
    const uint64_t entries = (uint64_t)compaction_job_count_max(geometry->tree_count_max) *
                             (1 + COMPACTION_TARGET_MAX + COMPACTION_OUTPUT_MAX);
    return (uint32_t)div_ceil(entries, block_body_size(geometry) / sizeof(struct table_info));
}

static uint64_t free_set_bytes(const struct geometry *geometry)
{
    return geometry->block_count_max / 8;
}

static uint32_t cache_block_count(const struct geometry *geometry, uint64_t cache_size)
{
    return (uint32_t)min_u64(cache_size / geometry->block_size, UINT32_MAX / 2);
}

/* Of each tree at most four levels are merged in a half-bar, each a table into eight; and full
 * tables of all trees that are written to together hold about a bar's entries. */
uint64_t forest_beat_work_max(const struct geometry *geometry)
{
    return 4ull * (1 + COMPACTION_TARGET_MAX) * geometry->bar_memory_size /
           (geometry->bar_beats / 2);
}

static void plan_add(struct forest_plan *plan, const char *name, uint64_t size, const char *derived)
{
    assert(plan->item_count < FOREST_PLAN_ITEM_MAX);
    plan->items[plan->item_count] = (struct forest_plan_item){name, size, derived};
    plan->item_count += 1;
    plan->total_size += size;
}

void forest_plan(const struct geometry *geometry, const struct forest_options *options,
                 struct forest_plan *plan)
{
    *plan = (struct forest_plan){0};
    const uint32_t workers = options->compactors != NULL ? options->compactors->thread_count : 0;
    const uint64_t trees = geometry->tree_count_max;
    const uint64_t node_max = node_max_of(geometry);
    const uint64_t window = (uint64_t)compaction_window_blocks(geometry) * geometry->block_size;
    const uint32_t append_blocks = append_blocks_max_of(geometry);
    const uint64_t trailers =
        (uint64_t)forest_trailer_block_max(geometry) * (geometry->block_size + 16);
    plan_add(plan, "memory tables", arena_size_of(geometry),
             "3 bars and 6 batches of entry bytes, 96 segments per tree");
    plan_add(plan, "block cache",
             (uint64_t)cache_block_count(geometry, options->cache_size) * geometry->block_size,
             "--cache");
    plan_add(plan, "resource pool", compaction_resource_windows(workers) * window,
             "4 windows per worker");
    plan_add(plan, "batches",
             3 * batch_memory_size(geometry) + 2 * batch_write_bytes_max(geometry) +
                 chain_memory_size(geometry),
             "3 journal entries and their events, one batch's values twice, one chain's undo");
    plan_add(plan, "prefetch", prefetch_memory_size(geometry),
             "old objects and owners of values of one batch");
    plan_add(plan, "free set", 3 * free_set_bytes(geometry) + 2 * free_set_bytes(geometry),
             "3 bits per block of the limit, and their encoding");
    plan_add(plan, "checkpoint trailers", trailers, "free set, catalog, spill list, as blocks");
    plan_add(plan, "sessions",
             session_table_memory_size(geometry) + forest_state_size_max(geometry),
             "what each lane remembers; catalog and sessions as a checkpoint has them");
    plan_add(plan, "spill list", spill_size_max(geometry),
             "144 bytes per tree; what is spilled stays in its memory table");
    plan_add(plan, "manifest nodes", node_count_of(geometry) * sizeof(struct manifest_node),
             "tables_max in half-filled nodes, copies of two half-bars");
    plan_add(plan, "manifest levels", trees * LEVEL_COUNT * node_max * 8, "node lists per level");
    plan_add(plan, "versions",
             trees * TREE_VERSIONS_PER_TREE * sizeof(struct tree_version) +
                 trees * MANIFEST_VERSIONS_PER_TREE *
                     (sizeof(struct manifest_version) + tree_node_max_of(geometry) * 8ull),
             "what readers may still see");
    plan_add(plan, "manifest log",
             (uint64_t)(6 * append_blocks + 8) * geometry->block_size +
                 table_count_max_of(geometry) * 192,
             "blocks of a half-bar, an extent per table");
    plan_add(plan, "compaction jobs",
             (uint64_t)compaction_job_count_max(geometry->tree_count_max) *
                     sizeof(struct compaction_job) +
                 compaction_released_max(geometry) * 8,
             "4 per tree, with the blocks they release");
    plan_add(plan, "reads",
             options->read_slot_count * (read_scratch_size(geometry) +
                                         max_u64(geometry->batch_size_max, geometry->block_size)),
             "read slots with their replies");
    plan->beat_work_max = forest_beat_work_max(geometry);
    plan->resource_pool_blocks =
        compaction_resource_windows(workers) * compaction_window_blocks(geometry);
    plan->resource_pool_minimum = COMPACTION_LOAN_COUNT * compaction_window_blocks(geometry);
}

uint32_t forest_queue_capacity(const struct geometry *geometry, uint32_t read_slot_count)
{
    return compaction_job_count_max(geometry->tree_count_max) + PREFETCH_SLICE_MAX +
           read_slot_count + 8;
}

/* ---- Format ------------------------------------------------------------------------------------
 */

enum status forest_format(struct io *io, const struct geometry *geometry, const uint8_t file_id[16],
                          uint64_t journal_seed,
                          void (*progress)(uint64_t done, uint64_t total, void *context),
                          void *context)
{
    /* The superblock last: a file without one is no data file. */
    enum status status = journal_format(io, geometry, progress, context);
    if (status == STATUS_OK) {
        status = grid_format(io, geometry);
    }
    if (status == STATUS_OK) {
        status = superblock_format(io, geometry, file_id, journal_seed);
    }
    return status;
}

/* ---- Init, in steps that deinit undoes in reverse ----------------------------------------------
 */

static enum status init_superblock(struct forest *forest, char *reason, size_t reason_size)
{
    forest->superblock_buffer = memory_acquire((size_t)SUPERBLOCK_COPY_COUNT * SECTOR_SIZE);
    if (forest->superblock_buffer == NULL) {
        return STATUS_NO_MEMORY;
    }
    struct superblock_open_report report;
    const enum status status = superblock_open(forest->options.io, forest->superblock_buffer, true,
                                               &forest->superblock, &report);
    forest->report.copies_repaired = report.copies_repaired;
    if (status != STATUS_OK) {
        memory_release(forest->superblock_buffer, (size_t)SUPERBLOCK_COPY_COUNT * SECTOR_SIZE);
        if (status == STATUS_VERSION) {
            snprintf(reason, reason_size,
                     "the data file has format version %u, this program reads version %u",
                     forest->superblock.version, SUPERBLOCK_VERSION);
        } else {
            snprintf(reason, reason_size, "superblock: %s",
                     report.problem != NULL ? report.problem : status_text(status));
        }
        return status;
    }
    forest->geometry = forest->superblock.geometry;
    return STATUS_OK;
}

static enum status init_grid(struct forest *forest)
{
    return grid_init(&forest->grid, forest->options.io, &forest->geometry,
                     cache_block_count(&forest->geometry, forest->options.cache_size),
                     forest->options.growth_worker, forest->doorbell);
}

static enum status init_free_set(struct forest *forest)
{
    return free_set_init(&forest->free_set, forest->geometry.block_count_max);
}

static enum status init_nodes(struct forest *forest)
{
    forest->node_max = node_max_of(&forest->geometry);
    return node_pool_init(&forest->nodes, node_count_of(&forest->geometry));
}

static enum status init_manifest_log(struct forest *forest)
{
    const struct manifest_log_options options = {
        .append_blocks_max = append_blocks_max_of(&forest->geometry),
        .table_count_max = table_count_max_of(&forest->geometry),
    };
    return manifest_log_init(&forest->manifest_log, &forest->geometry, &forest->grid,
                             &forest->free_set, forest->options.growth_worker, forest->doorbell,
                             &options);
}

static enum status init_arena(struct forest *forest)
{
    return run_arena_init(&forest->arena, arena_size_of(&forest->geometry),
                          run_count_max_of(&forest->geometry));
}

static size_t level_nodes_size(const struct forest *forest)
{
    return (size_t)forest->geometry.tree_count_max * LEVEL_COUNT * forest->node_max *
           sizeof(struct manifest_node *);
}

static void deinit_trees(struct forest *forest)
{
    memory_release(forest->trees, forest->geometry.tree_count_max * sizeof *forest->trees);
    memory_release(forest->level_nodes, level_nodes_size(forest));
}

static enum status init_trees(struct forest *forest)
{
    const uint32_t count = forest->geometry.tree_count_max;
    forest->trees = memory_acquire(count * sizeof *forest->trees);
    forest->level_nodes = memory_acquire(level_nodes_size(forest));
    if (forest->trees == NULL || forest->level_nodes == NULL) {
        deinit_trees(forest);
        return STATUS_NO_MEMORY;
    }
    for (uint32_t i = 0; i < count; i++) {
        forest->trees[i].level_nodes =
            forest->level_nodes + (size_t)i * LEVEL_COUNT * forest->node_max;
    }
    return STATUS_OK;
}

static enum status init_tree_versions(struct forest *forest)
{
    const uint32_t count = forest->geometry.tree_count_max;
    return tree_version_pool_init(&forest->tree_versions, count * TREE_VERSIONS_PER_TREE,
                                  count * MANIFEST_VERSIONS_PER_TREE,
                                  tree_node_max_of(&forest->geometry));
}

static enum status init_catalog(struct forest *forest)
{
    return catalog_init(&forest->catalog, &forest->geometry, forest->trees, forest->node_max);
}

static enum status init_sessions(struct forest *forest)
{
    return session_table_init(&forest->sessions, &forest->geometry);
}

static enum status init_schedule(struct forest *forest)
{
    forest->schedule = (struct compaction_schedule){
        .geometry = &forest->geometry,
        .grid = &forest->grid,
        .free_set = &forest->free_set,
        .manifest_log = &forest->manifest_log,
        .workers = forest->options.compactors,
        .doorbell = forest->doorbell,
        .arena = &forest->arena,
        .nodes = &forest->nodes,
        .versions = &forest->tree_versions,
        .trees = forest->trees,
        .tree_count = forest->geometry.tree_count_max,
    };
    return compaction_schedule_init(&forest->schedule);
}

static enum status init_versions(struct forest *forest)
{
    return version_set_init(&forest->versions, forest->geometry.tree_count_max / 2,
                            forest->doorbell);
}

static enum status init_prefetch(struct forest *forest)
{
    return prefetch_init(&forest->prefetch, &forest->geometry, &forest->grid,
                         forest->options.readers, forest->doorbell);
}

static void deinit_batches(struct forest *forest)
{
    const uint64_t write_size = batch_write_bytes_max(&forest->geometry);
    for (uint32_t i = 0; i < array_count(forest->batches); i++) {
        batch_deinit(&forest->batches[i]);
    }
    chain_deinit(&forest->chain);
    memory_release(forest->write_memory, write_size);
    memory_release(forest->sort_scratch, write_size);
    memory_release(forest->seal_buffer, SECTOR_SIZE);
}

static enum status init_batches(struct forest *forest)
{
    const uint64_t write_size = batch_write_bytes_max(&forest->geometry);
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < array_count(forest->batches) && status == STATUS_OK; i++) {
        status = batch_init(&forest->batches[i], &forest->geometry);
    }
    if (status == STATUS_OK) {
        status = chain_init(&forest->chain, &forest->geometry);
    }
    forest->write_memory = memory_acquire(write_size);
    forest->sort_scratch = memory_acquire(write_size);
    forest->seal_buffer = memory_acquire(SECTOR_SIZE);
    if (status != STATUS_OK || forest->write_memory == NULL || forest->sort_scratch == NULL ||
        forest->seal_buffer == NULL) {
        deinit_batches(forest);
        return STATUS_NO_MEMORY;
    }
    return STATUS_OK;
}

static void deinit_checkpoint(struct forest *forest)
{
    struct checkpoint_job *checkpoint = &forest->checkpoint;
    struct block_write_job *write = &forest->manifest_write;
    const size_t block_size = forest->geometry.block_size;
    memory_release(checkpoint->blocks, checkpoint->block_max * block_size);
    memory_release(checkpoint->addresses, checkpoint->block_max * sizeof(uint64_t));
    memory_release(forest->trailer_addresses, checkpoint->block_max * sizeof(uint64_t));
    memory_release(write->blocks, write->block_max * block_size);
    memory_release(write->addresses, write->block_max * sizeof(uint64_t));
    memory_release(forest->state_buffer, forest_state_size_max(&forest->geometry));
    memory_release(forest->free_set_buffer, 2 * free_set_bytes(&forest->geometry));
    memory_release(forest->spill_buffer, spill_size_max(&forest->geometry));
}

static enum status init_checkpoint(struct forest *forest)
{
    struct checkpoint_job *checkpoint = &forest->checkpoint;
    struct block_write_job *write = &forest->manifest_write;
    const size_t block_size = forest->geometry.block_size;
    checkpoint->forest = forest;
    checkpoint->block_max = forest_trailer_block_max(&forest->geometry);
    checkpoint->blocks = memory_acquire(checkpoint->block_max * block_size);
    checkpoint->addresses = memory_acquire(checkpoint->block_max * sizeof(uint64_t));
    forest->trailer_addresses = memory_acquire(checkpoint->block_max * sizeof(uint64_t));
    write->forest = forest;
    write->block_max = forest->manifest_log.pending_max;
    write->blocks = memory_acquire(write->block_max * block_size);
    write->addresses = memory_acquire(write->block_max * sizeof(uint64_t));
    forest->state_buffer = memory_acquire(forest_state_size_max(&forest->geometry));
    forest->free_set_buffer = memory_acquire(2 * free_set_bytes(&forest->geometry));
    forest->spill_buffer = memory_acquire(spill_size_max(&forest->geometry));
    if (checkpoint->blocks == NULL || checkpoint->addresses == NULL ||
        forest->trailer_addresses == NULL || write->blocks == NULL || write->addresses == NULL ||
        forest->state_buffer == NULL || forest->free_set_buffer == NULL ||
        forest->spill_buffer == NULL) {
        deinit_checkpoint(forest);
        return STATUS_NO_MEMORY;
    }
    return STATUS_OK;
}

static void deinit_reads(struct forest *forest)
{
    const uint32_t count = forest->options.read_slot_count;
    for (uint32_t i = 0; forest->reads != NULL && i < count; i++) {
        memory_release(forest->reads[i].reply, forest->reads[i].reply_capacity);
        if (forest->reads[i].scratch != NULL) {
            read_scratch_deinit(forest->reads[i].scratch);
        }
    }
    memory_release(forest->reads, count * sizeof *forest->reads);
    memory_release(forest->read_scratches, count * sizeof *forest->read_scratches);
}

static enum status init_reads(struct forest *forest)
{
    const uint32_t count = forest->options.read_slot_count;
    assert(count > 0 && count <= FOREST_READ_SLOT_MAX);
    forest->read_mutex = (struct mutex)MUTEX_INITIALIZER(LOCK_RANK_VERSION);
    forest->reads = memory_acquire(count * sizeof *forest->reads);
    forest->read_scratches = memory_acquire(count * sizeof *forest->read_scratches);
    enum status status =
        forest->reads == NULL || forest->read_scratches == NULL ? STATUS_NO_MEMORY : STATUS_OK;
    for (uint32_t i = 0; i < count && status == STATUS_OK; i++) {
        struct read_request *request = &forest->reads[i];
        request->forest = forest;
        request->reply_capacity =
            (uint32_t)max_u64(forest->geometry.batch_size_max, forest->geometry.block_size);
        request->reply = memory_acquire(request->reply_capacity);
        status = request->reply == NULL
                     ? STATUS_NO_MEMORY
                     : read_scratch_init(&forest->read_scratches[i], &forest->geometry);
        if (status == STATUS_OK) {
            request->scratch = &forest->read_scratches[i];
            request->free_next = forest->read_free;
            forest->read_free = request;
        }
    }
    if (status != STATUS_OK) {
        deinit_reads(forest);
    }
    return status;
}

static void deinit_grid(struct forest *forest)
{
    grid_deinit(&forest->grid);
}

static void deinit_free_set(struct forest *forest)
{
    free_set_deinit(&forest->free_set);
}

static void deinit_nodes(struct forest *forest)
{
    node_pool_deinit(&forest->nodes);
}

static void deinit_manifest_log(struct forest *forest)
{
    manifest_log_deinit(&forest->manifest_log);
}

static void deinit_arena(struct forest *forest)
{
    run_arena_deinit(&forest->arena);
}

static void deinit_tree_versions(struct forest *forest)
{
    tree_version_pool_deinit(&forest->tree_versions);
}

static void deinit_catalog(struct forest *forest)
{
    catalog_deinit(&forest->catalog);
}

static void deinit_sessions(struct forest *forest)
{
    session_table_deinit(&forest->sessions);
}

static void deinit_schedule(struct forest *forest)
{
    compaction_schedule_deinit(&forest->schedule);
}

static void deinit_versions(struct forest *forest)
{
    version_set_deinit(&forest->versions);
}

static void deinit_prefetch(struct forest *forest)
{
    prefetch_deinit(&forest->prefetch);
}

/* In the order of the lifecycle: node pool -> manifest log -> trees -> schedule with its resource
 * pool -> what reads need. */
static const struct init_step {
    enum status (*init)(struct forest *forest);
    void (*deinit)(struct forest *forest);
} init_steps[] = {
    {init_grid, deinit_grid},         {init_free_set, deinit_free_set},
    {init_nodes, deinit_nodes},       {init_manifest_log, deinit_manifest_log},
    {init_arena, deinit_arena},       {init_tree_versions, deinit_tree_versions},
    {init_trees, deinit_trees},       {init_catalog, deinit_catalog},
    {init_sessions, deinit_sessions}, {init_schedule, deinit_schedule},
    {init_versions, deinit_versions}, {init_prefetch, deinit_prefetch},
    {init_batches, deinit_batches},   {init_checkpoint, deinit_checkpoint},
    {init_reads, deinit_reads},
};

static void undo_steps(struct forest *forest)
{
    while (forest->init_steps > 0) {
        forest->init_steps -= 1;
        init_steps[forest->init_steps].deinit(forest);
    }
    memory_release(forest->superblock_buffer, (size_t)SUPERBLOCK_COPY_COUNT * SECTOR_SIZE);
    memory_release(forest, sizeof *forest);
}

static void start_journal(struct forest *forest)
{
    struct io *io =
        forest->options.journal_io != NULL ? forest->options.journal_io : forest->options.io;
    journal_init(&forest->journal, io, &forest->geometry, forest->superblock.journal_seed,
                 forest->options.journal_worker, forest->doorbell, forest->options.clock);
}

struct forest *forest_init(const struct forest_options *options, enum status *status, char *reason,
                           size_t reason_size)
{
    assert(options->io != NULL && options->clock != NULL && options->doorbell != NULL);
    assert(options->journal_worker->thread_count <= 1);
    assert(options->growth_worker->thread_count <= 1); /* Its queue's order is relied upon. */
    struct forest *forest = memory_acquire(sizeof *forest);
    if (forest == NULL) {
        *status = STATUS_NO_MEMORY;
        snprintf(reason, reason_size, "%s", status_text(*status));
        return NULL;
    }
    forest->options = *options;
    forest->doorbell = options->doorbell;
    *status = init_superblock(forest, reason, reason_size);
    if (*status != STATUS_OK) {
        memory_release(forest, sizeof *forest);
        return NULL;
    }
    for (; forest->init_steps < array_count(init_steps); forest->init_steps++) {
        *status = init_steps[forest->init_steps].init(forest);
        if (*status != STATUS_OK) {
            snprintf(reason, reason_size, "memory plan, step %u: %s", forest->init_steps,
                     status_text(*status));
            undo_steps(forest);
            return NULL;
        }
    }
    start_journal(forest);
    return forest;
}

/* Everything lent comes back: what versions hold, what trees hold, the half-bar in progress. */
static void give_back(struct forest *forest)
{
    if (forest->schedule.active) {
        while (!compaction_progress(&forest->schedule, 1, 1)) {
            const uint64_t seen = doorbell_count(forest->doorbell);
            if (!compaction_progress(&forest->schedule, 1, 1)) {
                doorbell_wait(forest->doorbell, seen, DOORBELL_WAIT_FOREVER);
            }
        }
        compaction_half_bar_cancel(&forest->schedule);
    }
    manifest_log_reset(&forest->manifest_log);
    version_publish(&forest->versions, NULL);
    forest->versions.newest = NULL;
    (void)forest_versions_collect(forest);
    for (struct catalog_groove *groove = catalog_after(&forest->catalog, 0); groove != NULL;
         groove = catalog_after(&forest->catalog, 0)) {
        catalog_forget(&forest->catalog, groove, &forest->arena, &forest->nodes,
                       &forest->tree_versions);
    }
}

/* Whatever is in flight on a worker, finished: its memory is about to go. */
static void wait_for_workers(struct forest *forest)
{
    journal_wait(&forest->journal);
    for (;;) {
        const uint64_t seen = doorbell_count(forest->doorbell);
        const bool manifest_done =
            !forest->manifest_write.active ||
            atomic_load_explicit(&forest->manifest_write.done, memory_order_acquire);
        const bool checkpoint_done =
            !forest->checkpoint.submitted || forest_checkpoint_join_ready(forest);
        enum status status;
        uint64_t bad_address;
        if (forest->stage == BATCH_STAGE_PREFETCHING &&
            prefetch_done(&forest->prefetch, &status, &bad_address)) {
            forest->stage = BATCH_STAGE_NONE;
            version_unpin(&forest->versions, forest->prefetch_version);
        }
        if (manifest_done && checkpoint_done && forest->stage != BATCH_STAGE_PREFETCHING) {
            return;
        }
        if (!workers_run_one(forest->options.growth_worker) &&
            !workers_run_one(forest->options.readers)) {
            doorbell_wait(forest->doorbell, seen, DOORBELL_WAIT_FOREVER);
        }
    }
}

void forest_reset(struct forest *forest)
{
    assert(forest->reads_busy == 0);
    wait_for_workers(forest);
    give_back(forest);
    free_set_reset(&forest->free_set);
    for (uint32_t i = 0; i < array_count(forest->batches); i++) {
        batch_reset(&forest->batches[i]);
    }
    start_journal(forest);
    forest->catalog.next_groove_id = 1;
    forest->catalog.next_tree_id = 1;
    session_table_reset(&forest->sessions);
    forest->catalog_commit = 0;
    forest->session_commit = 0;
    forest->phase = FOREST_CLOSED;
    forest->progress = FOREST_PROGRESS_NONE;
    forest->read_only = false;
    forest->full = false;
    forest->low = false;
    forest->purge = false;
    forest->space = (struct forest_space){0};
    forest->gathering = NULL;
    forest->preparing = NULL;
    forest->committing = NULL;
    forest->committing_version = NULL;
    forest->stage = BATCH_STAGE_NONE;
    forest->sealing = false;
    forest->beats_owed = 0;
    forest->bar_replayed = false;
    forest->bar_checkpoint = false;
    forest->bar_journal_used = 0;
    forest->bar_memory_used = 0;
    forest->journal_since_checkpoint = 0;
    forest->memory_since_checkpoint = 0;
    forest->beat_wait_since_ns = 0;
    forest->manifest_write.active = false;
    forest->checkpoint.pending = false;
    forest->checkpoint.submitted = false;
    forest->join_owed = false;
    forest->trailer_count = 0;
    forest->checkpoint_own_blocks = 0;
    forest->report = (struct forest_open_report){0};
}

void forest_deinit(struct forest *forest)
{
    forest_reset(forest);
    undo_steps(forest);
}

/* ---- Tick --------------------------------------------------------------------------------------
 */

bool forest_tick(struct forest *forest)
{
    if (forest->phase == FOREST_CLOSED || forest->phase == FOREST_FAILED) {
        return false;
    }
    /* Teams without threads: their queues are run here. */
    bool progressed = workers_run_one(forest->options.growth_worker);
    progressed |= workers_run_one(forest->options.readers);
    progressed |=
        forest->phase == FOREST_READY ? forest_commit_tick(forest) : forest_open_tick(forest);
    return progressed;
}

/* ---- Looking -----------------------------------------------------------------------------------
 */

/* What is executed and not yet durable is not told: the groove that a create in flight made, and
 * the drop in flight of one that is still there. */
uint32_t forest_grooves(const struct forest *forest, struct forest_groove_info *grooves,
                        uint32_t max)
{
    uint32_t count = 0;
    for (struct catalog_groove *groove = catalog_after(&forest->catalog, 0); groove != NULL;
         groove = catalog_after(&forest->catalog, groove->groove_id)) {
        const struct groove_version *durable =
            version_groove(forest->versions.published, groove->groove_id);
        if (durable == NULL && !groove->dropping) {
            continue;
        }
        if (count < max) {
            grooves[count] = (struct forest_groove_info){
                .groove_id = groove->groove_id,
                .dropping = durable == NULL,
                .object_count = durable != NULL ? durable->object_count : 0,
                .schema = &groove->schema->schema,
            };
        }
        count += 1;
    }
    return count;
}

const struct groove_schema *forest_groove_schema(const struct forest *forest, uint32_t groove_id)
{
    const struct catalog_groove *groove = catalog_find(&forest->catalog, groove_id);
    return groove != NULL ? &groove->schema->schema : NULL;
}

bool forest_write_walk(const struct forest *forest, const uint8_t *body, uint32_t size,
                       forest_groove_visit *visit, void *context)
{
    return batch_write_walk(&forest->catalog, body, size, visit, context);
}

void forest_stats(struct forest *forest, struct forest_stats *stats)
{
    *stats = (struct forest_stats){
        .geometry = forest->geometry,
        .op = forest->op,
        .commit_executed = forest->commit_executed,
        .commit_durable = forest->commit_durable,
        .timestamp = forest->timestamp,
        .checkpoint_op = forest->checkpoint_op,
        .checkpoint_count = forest->checkpoint_count,
        .checkpoint_id = forest->checkpoint_id,
        .superblock_sequence = forest->superblock_sequence,
        .journal_used = journal_used(&forest->journal),
        .journal_size = forest->geometry.journal_size,
        .journal_bytes_written = forest->journal.written_bytes,
        .journal_entries = forest->journal.written_count,
        .journal_write_ns = forest->journal.write_ns,
        .journal_write_ns_max = forest->journal.write_ns_max,
        .blocks_acquired = forest->free_set.acquired_count,
        .blocks_released = forest->free_set.released_count + forest->free_set.releasing_count,
        .blocks_grown = atomic_load(&forest->grid.block_count),
        .blocks_max = forest->geometry.block_count_max,
        .blocks_kept = forest->phase == FOREST_READY ? forest_space_kept(forest) : 0,
        .blocks_written = atomic_load(&forest->grid.blocks_written),
        .blocks_read = atomic_load(&forest->grid.blocks_read),
        .tables_max = table_count_max_of(&forest->geometry),
        .memory_segments_free = forest->arena.free_segment_count,
        .memory_segments_min = forest->arena.free_segment_count_min,
        .memory_segments = forest->arena.segment_count,
        .versions = VERSION_COUNT_MAX - forest->versions.free_count,
        .versions_max = VERSION_COUNT_MAX,
        .versions_revoked_total = forest->versions.revoked_total,
        .reads_here_total = atomic_load(&forest->reads_here_total),
        .reads_gave_way_total = atomic_load(&forest->reads_gave_way_total),
        .reads_restarted_total = atomic_load(&forest->reads_restarted_total),
        .reads_overtaken_total = atomic_load(&forest->reads_overtaken_total),
        .reads_over_budget_total = atomic_load(&forest->reads_over_budget_total),
        .debt_bytes = forest_debt(forest),
        .beat_overrun_total = forest->beat_overrun_total,
        .beat_wait_ns_max = forest->beat_wait_ns_max,
        .beat_wait_ns_total = forest->beat_wait_ns_total,
        .half_bar_count = forest->schedule.half_bar_count,
        .absorbed_bars = forest->absorbed_bars,
        .sessions = forest->sessions.session_count,
        .sessions_max = forest->sessions.session_max,
        .session_lanes = forest->sessions.lane_count,
        .session_lanes_max = forest->sessions.lane_max,
        .sessions_evicted_total = forest->session_evicted_total,
        .spilled_tables = forest->schedule.spilled_count,
        .memory_plan = memory_acquired_size(),
        .read_only = forest->read_only,
        .full = forest->full,
        .low = forest->low,
    };
    struct block_cache_stats cache;
    block_cache_stats_read(&forest->grid.cache, &cache);
    stats->cache_hits = cache.hit_count;
    stats->cache_misses = cache.miss_count;
    stats->cache_blocks = cache.slot_count;
    for (uint32_t i = 0; i < forest->geometry.tree_count_max; i++) {
        for (uint32_t level = 0; forest->trees[i].used && level < LEVEL_COUNT; level++) {
            stats->tables_by_level[level] += forest->trees[i].levels[level].table_count;
            stats->tables += forest->trees[i].levels[level].table_count;
        }
    }
}
