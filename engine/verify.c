/* `holt verify`: reads everything that a superblock leads to, and believes nothing.
 *
 *   superblock ── free set ─────────────────────────────┐
 *       ├──────── state ──► catalog: shapes of trees    ├─► every block in use is acquired, once,
 *       ├──────── manifest log ──► tables               │   and every acquired block is in use
 *       ├──────── spilled tables ────┴─► index ──► values, filters
 *       │                                  └─► objects = ids = entries of each index
 *       └──────── journal, from the checkpoint's entry to its end
 *
 * Each zone is checked as far as it can be read, whatever is wrong with the others. What needs
 * something that is damaged (the values of a table whose index is gone; the blocks that nothing
 * refers to, when some references could not be read) is left out: the damage itself is named.
 *
 * The file is read through an io that cannot write. */
#include "engine/verify_internal.h"

#include <assert.h>

#include "engine/storage/journal.h"
#include "pool/base.h"
#include "pool/memory.h"

/* ---- An io that cannot write -------------------------------------------------------------------
 */

static enum status view_read(struct io *io, uint64_t offset, void *buffer, size_t size)
{
    return io_read(container_of(io, struct verify, io)->source, offset, buffer, size);
}

static enum status view_write(struct io *io, uint64_t offset, const void *buffer, size_t size)
{
    (void)io, (void)offset, (void)buffer, (void)size;
    assert(false && "verify must not write");
    return STATUS_DENIED;
}

/* Recovery of the journal syncs before it lets anyone append; here nobody will. */
static enum status view_sync(struct io *io)
{
    (void)io;
    return STATUS_OK;
}

static enum status view_size(struct io *io, uint64_t *size)
{
    return io_size(container_of(io, struct verify, io)->source, size);
}

static const struct io_ops view_ops = {view_read, view_write, view_sync, view_size};

/* ---- Lifecycle ---------------------------------------------------------------------------------
 */

/* Zeroed; given back by release_all. */
static void *take(struct verify *verify, size_t size)
{
    assert(verify->allocation_count < VERIFY_ALLOCATION_MAX);
    void *memory = memory_acquire(max_u64(size, 1));
    verify->allocations[verify->allocation_count].memory = memory;
    verify->allocations[verify->allocation_count].size = max_u64(size, 1);
    verify->allocation_count += 1;
    verify->allocation_failed |= memory == NULL;
    return memory;
}

static void release_all(struct verify *verify)
{
    while (verify->allocation_count > 0) {
        verify->allocation_count -= 1;
        memory_release(verify->allocations[verify->allocation_count].memory,
                       verify->allocations[verify->allocation_count].size);
    }
}

static enum status take_all(struct verify *verify)
{
    const struct geometry *geometry = verify->geometry;
    const struct checkpoint_state *checkpoint = verify->checkpoint;
    const size_t block_size = geometry->block_size;
    const size_t tree_count = geometry->tree_count_max;
    verify->window_block_count = (uint32_t)max_u64(IO_SIZE_MAX / block_size, 1);
    verify->node_max = manifest_level_node_max(checkpoint->table_count);
    verify->reached = take(verify, geometry->block_count_max / 64 * sizeof(uint64_t));
    verify->trees = take(verify, tree_count * sizeof(struct tree));
    verify->tree_nodes = take(verify, tree_count * LEVEL_COUNT * sizeof(struct manifest_node *));
    verify->tables = take(verify, checkpoint->table_count * sizeof(struct table_info));
    verify->nodes =
        take(verify, (size_t)LEVEL_COUNT * verify->node_max * sizeof(struct manifest_node *));
    verify->spills = take(verify, checkpoint->spill_size);
    verify->trailer =
        take(verify, max_u64(max_u64(checkpoint->free_set_size, checkpoint->state_size),
                             checkpoint->spill_size));
    verify->index_block = take(verify, block_size);
    verify->filter_block = take(verify, block_size);
    verify->single_block = take(verify, block_size);
    verify->window = take(verify, verify->window_block_count * block_size);
    verify->scan_spare = take(verify, LEVEL_COUNT * 3 * block_size);
    verify->spill_blocks = take(verify, 2 * block_size);
    verify->entry = take(verify, journal_entry_size_max(geometry));
    if (verify->allocation_failed) {
        return STATUS_NO_MEMORY;
    }
    for (size_t i = 0; i < tree_count; i++) {
        verify->trees[i].level_nodes = verify->tree_nodes + i * LEVEL_COUNT;
    }
    return STATUS_OK;
}

/* Room for the log that the superblock counts: manifest_log keeps 7 A + 10 blocks and more, where A
 * is append_blocks_max. */
static enum status init_manifest_log(struct verify *verify)
{
    const struct manifest_log_options options = {
        .append_blocks_max = (uint32_t)(verify->checkpoint->manifest_block_count / 7) + 1,
        .table_count_max = max_u64(verify->checkpoint->table_count, 1),
    };
    return manifest_log_init(&verify->manifest_log, verify->geometry, &verify->grid,
                             &verify->free_set, &verify->workers, &verify->doorbell, &options);
}

/* A tree is spread over all levels at worst, so that each has its share of half-filled nodes. */
static enum status init_node_pool(struct verify *verify)
{
    return node_pool_init(&verify->node_pool,
                          verify->node_max + LEVEL_COUNT * manifest_level_node_max(0));
}

static void walk(struct verify *verify)
{
    verify->reach_whole = true;
    verify_free_set(verify);
    verify_state(verify);
    verify_spill_list(verify);
    verify_manifest_log(verify);
    verify_grooves(verify);
    verify_reached(verify);
    verify_journal(verify);
    if (verify->progress != NULL) {
        const uint64_t total = verify_blocks_expected(verify);
        verify->progress(total, total, verify->context);
    }
}

static enum status init_and_walk(struct verify *verify)
{
    verify->geometry = &verify->superblock.geometry;
    verify->checkpoint = &verify->superblock.checkpoint;
    enum status status = take_all(verify);
    if (status != STATUS_OK) {
        return status;
    }
    status = workers_start(&verify->workers, "verify", 0, 1);
    if (status != STATUS_OK) {
        return status;
    }
    doorbell_init(&verify->doorbell);
    status = grid_init(&verify->grid, &verify->io, verify->geometry, 0, &verify->workers,
                       &verify->doorbell);
    if (status != STATUS_OK) {
        goto deinit_doorbell;
    }
    status = free_set_init(&verify->free_set, verify->geometry->block_count_max);
    if (status != STATUS_OK) {
        goto deinit_grid;
    }
    status = catalog_init(&verify->catalog, verify->geometry, verify->trees, 1);
    if (status != STATUS_OK) {
        goto deinit_free_set;
    }
    status = session_table_init(&verify->sessions, verify->geometry);
    if (status != STATUS_OK) {
        goto deinit_catalog;
    }
    status = init_node_pool(verify);
    if (status != STATUS_OK) {
        goto deinit_sessions;
    }
    status = init_manifest_log(verify);
    if (status != STATUS_OK) {
        goto deinit_node_pool;
    }
    walk(verify);
    manifest_log_deinit(&verify->manifest_log);

deinit_node_pool:
    node_pool_deinit(&verify->node_pool);
deinit_sessions:
    session_table_deinit(&verify->sessions);
deinit_catalog:
    catalog_deinit(&verify->catalog);
deinit_free_set:
    free_set_deinit(&verify->free_set);
deinit_grid:
    grid_deinit(&verify->grid);
deinit_doorbell:
    doorbell_deinit(&verify->doorbell);
    workers_join(&verify->workers);
    return status;
}

enum status forest_verify(struct io *io, void (*problem_told)(void *context, const char *text),
                          void (*progress)(uint64_t done, uint64_t total, void *context),
                          void *context, struct verify_report *report)
{
    assert(problem_told != NULL);
    *report = (struct verify_report){0};
    struct verify *verify = memory_acquire(sizeof *verify);
    if (verify == NULL) {
        report->problems = 1;
        problem_told(context, "verify cannot start: no memory");
        return STATUS_NO_MEMORY;
    }
    verify->io.ops = &view_ops;
    verify->source = io;
    verify->problem = problem_told;
    verify->progress = progress;
    verify->context = context;
    verify->report = report;
    enum status status = verify_superblock(verify);
    if (status == STATUS_OK) {
        status = init_and_walk(verify);
        if (status != STATUS_OK) {
            verify_problem(verify, "verify cannot start: %s", status_text(status));
        }
    }
    release_all(verify);
    memory_release(verify, sizeof *verify);
    return status;
}
