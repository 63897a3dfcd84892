/* A checkpoint: the whole state reachable from a superblock, written beside commits.
 *
 *   end of bar k      encode: state as of the bar's start, free set last; blocks in memory
 *   journal durable   a background worker writes the blocks, syncs the grid, writes the superblock
 *   middle of bar k+1 join: what the checkpoint before still needed goes free, the journal's tail
 *                     advances. If the worker is not done, wait.
 *
 * Small memory tables were spilled by jobs of the last half-bar (lsm/spill.h); here they are
 * listed.
 *
 * The free set's own blocks are acquired before it is encoded. Its size follows from the highest
 * acquired word, which they may be: so enough for the worst is acquired, and what turns out not to
 * be needed is released in the same checkpoint. */
#include <assert.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "engine/lsm/spill.h"
#include "engine/storage/trailer.h"
#include "pool/base.h"
#include "pool/log.h"

uint64_t forest_state_size_max(const struct geometry *geometry)
{
    return catalog_encoded_size_max(geometry) + session_encoded_size_max(geometry);
}

uint32_t forest_trailer_block_max(const struct geometry *geometry)
{
    return trailer_block_count(geometry->block_size, forest_state_size_max(geometry)) +
           trailer_block_count(geometry->block_size, spill_size_max(geometry)) +
           trailer_block_count(geometry->block_size, geometry->block_count_max / 8 * 2) + 1;
}

void forest_bar_state_capture(struct forest *forest)
{
    forest->state_size = catalog_encode(&forest->catalog, forest->commit_executed,
                                        forest->timestamp, forest->state_buffer);
    forest->state_size +=
        session_table_encode(&forest->sessions, forest->state_buffer + forest->state_size);
    forest->bar_sequence = forest->journal.sequence_next;
    forest->bar_offset = forest->journal.head;
    forest->bar_parent = forest->journal.parent;
    forest->bar_commit = forest->commit_executed;
    forest->bar_timestamp = forest->timestamp;
}

/* ---- Closed manifest blocks --------------------------------------------------------------------
 */

/* Adjacent blocks in memory with adjacent addresses travel in one call. */
static enum status write_blocks(struct grid *grid, const uint8_t *blocks, const uint64_t *addresses,
                                uint32_t count)
{
    for (uint32_t i = 0; i < count;) {
        uint32_t adjacent = 1;
        while (i + adjacent < count && addresses[i + adjacent] == addresses[i] + adjacent) {
            adjacent += 1;
        }
        /* On the worker that grows the file: here it must have grown (forest_space.c). */
        assert(addresses[i] + adjacent - 1 <= atomic_load(&grid->block_count));
        const enum status status =
            grid_write_blocks(grid, addresses[i], adjacent, blocks + (size_t)i * grid->block_size);
        if (status != STATUS_OK) {
            return status;
        }
        i += adjacent;
    }
    return STATUS_OK;
}

static void manifest_write_run(struct job *job)
{
    struct block_write_job *write = container_of(job, struct block_write_job, job);
    write->status =
        write_blocks(&write->forest->grid, write->blocks, write->addresses, write->block_count);
    struct doorbell *doorbell = write->forest->doorbell;
    /* From here on the job, and the forest, may be gone. */
    atomic_store_explicit(&write->done, true, memory_order_release);
    doorbell_ring(doorbell);
}

bool forest_manifest_write_ready(struct forest *forest)
{
    struct block_write_job *write = &forest->manifest_write;
    if (!write->active) {
        return true;
    }
    if (!atomic_load_explicit(&write->done, memory_order_acquire)) {
        return false;
    }
    if (write->status != STATUS_OK) {
        fatal(write->status, "forest.manifest_write", "a block of the manifest log was not written",
              "check the disk; restarting recovers every acknowledged request");
    }
    write->active = false;
    return true;
}

void forest_manifest_write_submit(struct forest *forest)
{
    struct block_write_job *write = &forest->manifest_write;
    assert(!write->active); /* Waited for before the half-bar completed. */
    write->block_count = manifest_log_take_pending(&forest->manifest_log, write->blocks,
                                                   write->addresses, write->block_max);
    if (write->block_count > 0) {
        write->job.run = manifest_write_run;
        write->active = true;
        atomic_store_explicit(&write->done, false, memory_order_relaxed);
        workers_submit(forest->options.growth_worker, &write->job);
    }
}

/* ---- Encoding ----------------------------------------------------------------------------------
 */

/* A list of what the half-bar that has just ended spilled; returns its size. */
static uint64_t spill_encode(struct forest *forest)
{
    uint64_t size = 0;
    uint32_t position = 0;
    for (const struct compaction_job *job = compaction_spill_next(&forest->schedule, &position);
         job != NULL; job = compaction_spill_next(&forest->schedule, &position)) {
        const struct spill_entry entry = {
            .table = job->outputs[0],
            .value_count = job->source.value_count,
            .tombstone_count = job->source.tombstone_count,
        };
        assert(size + sizeof entry <= spill_size_max(&forest->geometry));
        assert(entry.table.tree_id == job->shape.tree_id);
        assert(entry.table.snapshot_min == forest->op + 1);
        memcpy(forest->spill_buffer + size, &entry, sizeof entry);
        size += sizeof entry;
    }
    return size;
}

/* Addresses for the trailers: `count` for those whose size is known, then the free set's. */
static void acquire_trailers(struct forest *forest, uint32_t count)
{
    const uint32_t block_size = forest->geometry.block_size;
    /* At most all words below the highest address that the trailers themselves can reach. */
    const uint64_t reach = forest->free_set.address_max + forest->checkpoint.block_max + 64;
    const uint64_t bytes_max =
        2 * 8 * div_ceil(min_u64(reach, forest->geometry.block_count_max), 64);
    count += trailer_block_count(block_size, bytes_max);
    struct reservation reservation;
    const bool reserved = free_set_reserve(&forest->free_set, count, &reservation);
    assert(reserved); /* Kept in hand: forest_space.c. */
    (void)reserved;
    assert(count <= forest->checkpoint.block_max);
    for (uint32_t i = 0; i < count; i++) {
        forest->trailer_addresses[i] = reservation_acquire(&reservation);
    }
    free_set_forfeit(&forest->free_set, &reservation);
    forest->trailer_count = count;
}

/* The checkpoint is encoded, with these blocks in use: nothing after it needs them. They go free
 * when the next one is joined. */
static void release_own_blocks(struct forest *forest)
{
    for (uint32_t i = 0; i < forest->trailer_count; i++) {
        free_set_release(&forest->free_set, forest->trailer_addresses[i]);
    }
    uint32_t position = 0;
    for (const struct compaction_job *job = compaction_spill_next(&forest->schedule, &position);
         job != NULL; job = compaction_spill_next(&forest->schedule, &position)) {
        assert(job->released_count == job->outputs[0].block_count);
        for (uint32_t i = 0; i < job->released_count; i++) {
            free_set_release(&forest->free_set, job->released[i]);
        }
    }
    forest->checkpoint_own_blocks = forest->free_set.released_count; /* Nothing else yet. */
}

void forest_checkpoint_encode(struct forest *forest)
{
    struct checkpoint_job *checkpoint = &forest->checkpoint;
    assert(!checkpoint->pending);
    const uint32_t block_size = forest->geometry.block_size;
    const uint64_t spill_size = spill_encode(forest);
    const uint32_t state_count = trailer_block_count(block_size, forest->state_size);
    const uint32_t spill_count = trailer_block_count(block_size, spill_size);
    const uint32_t known_count = state_count + spill_count;
    acquire_trailers(forest, known_count);
    const uint64_t free_set_size = free_set_encoded_size(&forest->free_set);
    const uint32_t free_set_count = trailer_block_count(block_size, free_set_size);
    assert(known_count + free_set_count <= forest->trailer_count);
    while (forest->trailer_count > known_count + free_set_count) {
        forest->trailer_count -= 1;
        free_set_release(&forest->free_set, forest->trailer_addresses[forest->trailer_count]);
    }
    free_set_checkpoint(&forest->free_set);
    assert(free_set_encoded_size(&forest->free_set) == free_set_size);
    free_set_encode(&forest->free_set, forest->free_set_buffer);

    struct checkpoint_state *state = &checkpoint->state;
    *state = (struct checkpoint_state){
        .op = forest->op,
        .journal_sequence = forest->bar_sequence,
        .journal_offset = forest->bar_offset,
        .journal_parent = forest->bar_parent,
        .commit = forest->bar_commit,
        .timestamp = forest->bar_timestamp,
        .manifest_newest = manifest_log_newest(&forest->manifest_log),
        .manifest_block_count = forest->manifest_log.block_count,
        .manifest_recent_count = forest->manifest_log.recent_count,
        .table_count = forest->manifest_log.table_count,
        .free_set_size = free_set_size,
        .state_size = forest->state_size,
        .spill_size = spill_size,
        .blocks_acquired = forest->free_set.acquired_count,
        .address_max = forest->free_set.address_max,
    };
    state->state = trailer_build(block_size, BLOCK_TYPE_STATE, forest->op, forest->state_buffer,
                                 forest->state_size, forest->trailer_addresses, checkpoint->blocks);
    state->spill = trailer_build(block_size, BLOCK_TYPE_SPILL, forest->op, forest->spill_buffer,
                                 spill_size, forest->trailer_addresses + state_count,
                                 checkpoint->blocks + (size_t)state_count * block_size);
    state->free_set =
        trailer_build(block_size, BLOCK_TYPE_FREE_SET, forest->op, forest->free_set_buffer,
                      free_set_size, forest->trailer_addresses + known_count,
                      checkpoint->blocks + (size_t)known_count * block_size);
    checkpoint->block_count = forest->trailer_count;
    memcpy(checkpoint->addresses, forest->trailer_addresses,
           checkpoint->block_count * sizeof(uint64_t));
    checkpoint->journal_sequence_needed = forest->journal.sequence_next - 1;
    checkpoint->pending = true;
    checkpoint->submitted = false;
    release_own_blocks(forest);
}

/* ---- Writing -----------------------------------------------------------------------------------
 */

static enum status checkpoint_write(struct checkpoint_job *checkpoint)
{
    struct forest *forest = checkpoint->forest;
    enum status status = write_blocks(&forest->grid, checkpoint->blocks, checkpoint->addresses,
                                      checkpoint->block_count);
    if (status == STATUS_OK) {
        status = grid_sync(&forest->grid);
    }
    if (status == STATUS_OK) {
        /* Through the opening of the grid: one worker makes all syncs of both, one after another.
         */
        status = superblock_write(forest->options.io, forest->superblock_buffer,
                                  &forest->superblock, &checkpoint->state);
    }
    return status;
}

static void checkpoint_run(struct job *job)
{
    struct checkpoint_job *checkpoint = container_of(job, struct checkpoint_job, job);
    checkpoint->status = checkpoint_write(checkpoint);
    struct doorbell *doorbell = checkpoint->forest->doorbell;
    /* From here on the job, and the forest, may be gone. */
    atomic_store_explicit(&checkpoint->done, true, memory_order_release);
    doorbell_ring(doorbell);
}

bool forest_checkpoint_tick(struct forest *forest)
{
    struct checkpoint_job *checkpoint = &forest->checkpoint;
    if (!checkpoint->pending || checkpoint->submitted ||
        forest->sequence_durable < checkpoint->journal_sequence_needed) {
        return false;
    }
    /* A superblock must not name a block of the manifest log whose write has failed. */
    if (!forest_manifest_write_ready(forest)) {
        return false;
    }
    checkpoint->job.run = checkpoint_run;
    checkpoint->submitted = true;
    atomic_store_explicit(&checkpoint->done, false, memory_order_relaxed);
    workers_submit(forest->options.growth_worker, &checkpoint->job);
    return true;
}

/* ---- Joining -----------------------------------------------------------------------------------
 */

bool forest_checkpoint_join_ready(struct forest *forest)
{
    const struct checkpoint_job *checkpoint = &forest->checkpoint;
    return !checkpoint->pending ||
           (checkpoint->submitted && atomic_load_explicit(&checkpoint->done, memory_order_acquire));
}

void forest_checkpoint_join(struct forest *forest)
{
    struct checkpoint_job *checkpoint = &forest->checkpoint;
    forest->join_owed = false;
    if (checkpoint->pending) {
        if (checkpoint->status != STATUS_OK) {
            fatal(checkpoint->status, "forest.checkpoint", "a checkpoint was not written",
                  "check the disk; restarting recovers every acknowledged request");
        }
        checkpoint->pending = false;
        forest->checkpoint_count += 1;
        forest->checkpoint_op = checkpoint->state.op;
        forest->checkpoint_id = forest->superblock.checkpoint_id;
        forest->superblock_sequence = forest->superblock.sequence;
        journal_advance_tail(&forest->journal, checkpoint->state.journal_offset);
        char id[CHECKSUM_TEXT_SIZE];
        checksum_format(&forest->checkpoint_id, id);
        LOG_DEBUG("forest.checkpoint", log_u64("op", forest->checkpoint_op),
                  log_text("checkpoint_id", id), log_u64("tables", checkpoint->state.table_count));
    }
    /* Before any address is reused: who then meets a misfit looks at the horizon. */
    atomic_fetch_add(&forest->horizon, 1);
    free_set_join(&forest->free_set);
}
