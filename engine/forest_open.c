/* Recovery.
 *
 *   superblock (read by forest_init) -> free set -> state (catalog, sessions) -> manifest log ->
 * trees
 *   -> spilled memory tables -> journal, from the start of the bar before the checkpoint's end
 *
 * That bar lives only in memory tables and is spilled nowhere, so it is replayed first: without
 * merges, which are in the checkpoint already, but with the swap at its end. From there on replay
 * is what the forest does live, beat for beat, so it leaves the same blocks. Opening frees nothing.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "engine/lsm/spill.h"
#include "engine/storage/trailer.h"
#include "pool/base.h"
#include "pool/log.h"

void forest_open(struct forest *forest, forest_on_open *callback, void *context)
{
    assert(forest->phase == FOREST_CLOSED);
    assert(forest->progress == FOREST_PROGRESS_NONE);
    forest->phase = FOREST_OPENING;
    forest->progress = FOREST_PROGRESS_OPEN;
    forest->on_open = callback;
    forest->on_open_context = context;
    doorbell_ring(forest->doorbell);
}

static void open_end(struct forest *forest, enum status status)
{
    forest->phase = status == STATUS_OK ? FOREST_READY : FOREST_FAILED;
    forest->progress = FOREST_PROGRESS_NONE;
    forest->on_open(forest->on_open_context, status, &forest->report,
                    status == STATUS_OK ? NULL : forest->reason);
}

static enum status damaged(struct forest *forest, enum status status, const char *what,
                           uint64_t address)
{
    snprintf(forest->reason, sizeof forest->reason, "grid: %s at address %llu: %s", what,
             (unsigned long long)address, status_text(status));
    return status;
}

/* ---- Trees -------------------------------------------------------------------------------------
 */

static void visit_trailer(const struct block_reference *reference, void *context)
{
    struct forest *forest = context;
    assert(forest->trailer_count < forest->checkpoint.block_max);
    forest->trailer_addresses[forest->trailer_count] = reference->address;
    forest->trailer_count += 1;
}

static enum status open_free_set(struct forest *forest, const struct checkpoint_state *checkpoint)
{
    uint64_t bad_address = 0;
    enum status status = trailer_read(
        &forest->grid, BLOCK_TYPE_FREE_SET, &checkpoint->free_set, forest->free_set_buffer,
        checkpoint->free_set_size, forest->checkpoint.blocks, visit_trailer, forest, &bad_address);
    if (status == STATUS_OK) {
        bad_address = checkpoint->free_set.address;
        status =
            free_set_decode(&forest->free_set, forest->free_set_buffer, checkpoint->free_set_size);
    }
    if (status == STATUS_OK && forest->free_set.acquired_count != checkpoint->blocks_acquired) {
        status = STATUS_CORRUPT;
    }
    if (status != STATUS_OK) {
        return damaged(forest, status, "the free set", bad_address);
    }
    /* Reserved and forfeited addresses count as reached, too. */
    forest->free_set.address_max = checkpoint->address_max;
    return STATUS_OK;
}

/* The catalog: each groove with its trees, still empty, ready for the manifest's tables. And the
 * sessions. */
static enum status open_grooves_commence(struct forest *forest,
                                         const struct checkpoint_state *checkpoint)
{
    uint64_t bad_address = 0;
    enum status status = trailer_read(
        &forest->grid, BLOCK_TYPE_STATE, &checkpoint->state, forest->state_buffer,
        checkpoint->state_size, forest->checkpoint.blocks, visit_trailer, forest, &bad_address);
    if (status != STATUS_OK) {
        return damaged(forest, status, "the state", bad_address);
    }
    uint64_t commit, timestamp;
    const uint64_t catalog_size =
        catalog_encoded_size(forest->state_buffer, checkpoint->state_size);
    status = catalog_decode(&forest->catalog, forest->state_buffer, catalog_size, &commit,
                            &timestamp, forest->reason, sizeof forest->reason);
    if (status != STATUS_OK) {
        return status;
    }
    if (commit != checkpoint->commit || timestamp != checkpoint->timestamp) {
        return damaged(forest, STATUS_CORRUPT, "the state", checkpoint->state.address);
    }
    return session_table_decode(&forest->sessions, forest->state_buffer + catalog_size,
                                checkpoint->state_size - catalog_size, commit, timestamp,
                                forest->reason, sizeof forest->reason);
}

/* One live table of the manifest log: into its tree's level. */
static enum status visit_table(void *context, const struct table_info *table)
{
    struct forest *forest = context;
    struct tree *tree = catalog_tree_for_id(&forest->catalog, table->tree_id);
    if (tree == NULL || table->level >= LEVEL_COUNT || table->value_count == 0 ||
        table->tombstone_count > table->value_count ||
        table->value_count > tree->shape.value_count_max) {
        snprintf(forest->reason, sizeof forest->reason,
                 "manifest log: a table of tree %u at address %llu that no groove has, or of an "
                 "impossible size",
                 table->tree_id, (unsigned long long)table->index.address);
        return STATUS_CORRUPT;
    }
    struct table_info info = *table;
    info.event = 0;
    tree_insert_table(tree, &forest->arena, &forest->nodes, &forest->tree_versions, &info);
    return STATUS_OK;
}

bool forest_verify_table_extents(const struct forest *forest)
{
    uint64_t table_count = 0;
    for (uint32_t i = 0; i < forest->geometry.tree_count_max; i++) {
        const struct tree *tree = &forest->trees[i];
        for (uint32_t number = 0; tree->used && number < LEVEL_COUNT; number++) {
            const struct manifest_level *level = &tree->levels[number];
            for (struct manifest_position position = manifest_level_first(level);
                 manifest_level_at(level, position) != NULL;
                 position = manifest_level_next(level, position)) {
                const struct table_info *table = manifest_level_at(level, position);
                if (!manifest_log_has_table(&forest->manifest_log, table->index.address)) {
                    return false;
                }
                table_count += 1;
            }
        }
    }
    return table_count == forest->manifest_log.table_count;
}

/* An independent, chronological replay of the log gives the same tables. */
static bool verify_tables_recovered(struct forest *forest)
{
    return manifest_log_verify(&forest->manifest_log);
}

static enum status open_manifest(struct forest *forest, const struct checkpoint_state *checkpoint)
{
    uint64_t bad_address = 0;
    const enum status status = manifest_log_open(
        &forest->manifest_log, &checkpoint->manifest_newest, checkpoint->manifest_block_count,
        checkpoint->table_count, visit_table, forest, &bad_address);
    if (status != STATUS_OK) {
        return forest->reason[0] != '\0' ? status
                                         : damaged(forest, status, "the manifest log", bad_address);
    }
    forest->manifest_log.recent_count = (uint32_t)checkpoint->manifest_recent_count;
    if (VERIFY) {
        assert(verify_tables_recovered(forest));
    }
    return STATUS_OK;
}

/* All tables of a groove's trees are in: levels are sorted and disjoint. */
static enum status groove_open_complete(struct forest *forest, const struct catalog_groove *groove)
{
    for (uint32_t i = 0; i < groove->tree_count; i++) {
        const struct tree *tree = groove->trees[i];
        for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
            if (!manifest_level_verify(&tree->levels[level])) {
                snprintf(forest->reason, sizeof forest->reason,
                         "manifest log: tables of tree %u overlap in level %u", tree->shape.tree_id,
                         level);
                return STATUS_CORRUPT;
            }
        }
    }
    return STATUS_OK;
}

/* ---- Spilled memory tables ---------------------------------------------------------------------
 */

/* A block that this checkpoint alone needs, as release_own_blocks left it when it was encoded.
 * False: the free set says otherwise. */
static bool release_own_block(void *context, uint64_t address)
{
    struct forest *forest = context;
    struct free_set *set = &forest->free_set;
    if (address - 1 >= set->block_count_max || free_set_is_free(set, address) ||
        free_set_is_released(set, address)) {
        return false;
    }
    free_set_release(set, address);
    forest->checkpoint_own_blocks += 1;
    return true;
}

static enum status spill_damaged(struct forest *forest, enum status status, uint32_t tree_id,
                                 uint64_t address, const char *what)
{
    snprintf(forest->reason, sizeof forest->reason,
             "grid: the spilled table of tree %u at address %llu: %s", tree_id,
             (unsigned long long)address, what);
    return status;
}

/* `bytes`: of the entries so far, this one included. */
static enum status open_spilled_table(struct forest *forest, uint64_t op,
                                      const struct spill_entry *entry, uint64_t *bytes)
{
    const uint32_t tree_id = entry->table.tree_id;
    const uint64_t index_address = entry->table.index.address;
    struct tree *tree = catalog_tree_for_id(&forest->catalog, tree_id);
    if (tree == NULL) {
        return spill_damaged(forest, STATUS_CORRUPT, tree_id, index_address, "no groove has it");
    }
    const char *problem =
        spill_entry_problem(&forest->geometry, &tree->shape, tree->bar_value_max, op, entry);
    *bytes += entry->value_count * tree->shape.value_size;
    if (problem == NULL && *bytes > forest->geometry.bar_memory_size / 2) {
        problem = "more was spilled than half of a bar";
    }
    if (problem != NULL) {
        return spill_damaged(forest, STATUS_CORRUPT, tree_id, index_address, problem);
    }
    struct run *run;
    uint64_t bad_address;
    const enum status status =
        spill_load(&forest->geometry, &forest->grid, &tree->shape, entry, forest->checkpoint.blocks,
                   &forest->arena, release_own_block, forest, &run, &bad_address);
    if (status != STATUS_OK) {
        return spill_damaged(forest, status, tree_id, bad_address, status_text(status));
    }
    tree_restore_immutable(tree, &forest->arena, &forest->nodes, &forest->tree_versions, run,
                           entry->value_count, entry->tombstone_count);
    forest->report.spilled_table_count += 1;
    return STATUS_OK;
}

static bool tree_is_dropping(const struct forest *forest, uint32_t tree_id)
{
    for (const struct catalog_groove *groove = catalog_after(&forest->catalog, 0); groove != NULL;
         groove = catalog_after(&forest->catalog, groove->groove_id)) {
        for (uint32_t i = 0; i < groove->tree_count; i++) {
            if (groove->trees[i]->shape.tree_id == tree_id) {
                return groove->dropping;
            }
        }
    }
    return false;
}

static enum status open_spill(struct forest *forest, const struct checkpoint_state *checkpoint)
{
    uint64_t bad_address = 0;
    enum status status = trailer_read(
        &forest->grid, BLOCK_TYPE_SPILL, &checkpoint->spill, forest->spill_buffer,
        checkpoint->spill_size, forest->checkpoint.blocks, visit_trailer, forest, &bad_address);
    if (status != STATUS_OK) {
        return damaged(forest, status, "the list of spilled tables", bad_address);
    }
    uint64_t bytes = 0;
    uint32_t tree_id = 0;
    for (uint64_t at = 0; status == STATUS_OK && at < checkpoint->spill_size;
         at += sizeof(struct spill_entry)) {
        struct spill_entry entry;
        memcpy(&entry, forest->spill_buffer + at, sizeof entry);
        if (entry.table.tree_id <= tree_id || tree_is_dropping(forest, entry.table.tree_id)) {
            return spill_damaged(forest, STATUS_CORRUPT, entry.table.tree_id,
                                 entry.table.index.address,
                                 "out of order, or of a groove that is gone");
        }
        tree_id = entry.table.tree_id;
        status = open_spilled_table(forest, checkpoint->op, &entry, &bytes);
    }
    return status;
}

/* All trailers were read; they, too, are this checkpoint's alone. */
static enum status release_trailers(struct forest *forest)
{
    for (uint32_t i = 0; i < forest->trailer_count; i++) {
        if (!release_own_block(forest, forest->trailer_addresses[i])) {
            return damaged(forest, STATUS_CORRUPT, "a trailer that the free set calls free",
                           forest->trailer_addresses[i]);
        }
    }
    return STATUS_OK;
}

static enum status open_checkpoint(struct forest *forest)
{
    const struct checkpoint_state *checkpoint = &forest->superblock.checkpoint;
    if (checkpoint->op % forest->geometry.bar_beats != 0 ||
        checkpoint->address_max > forest->geometry.block_count_max ||
        checkpoint->manifest_recent_count > checkpoint->manifest_block_count ||
        checkpoint->free_set_size > forest->geometry.block_count_max / 8 * 2 ||
        checkpoint->state_size > forest_state_size_max(&forest->geometry) ||
        checkpoint->spill_size > spill_size_max(&forest->geometry) ||
        checkpoint->spill_size % sizeof(struct spill_entry) != 0) {
        snprintf(forest->reason, sizeof forest->reason, "superblock: impossible checkpoint");
        return STATUS_CORRUPT;
    }
    if (checkpoint->op == 0) {
        return STATUS_OK; /* Just formatted: nothing but the journal. */
    }
    enum status status = open_free_set(forest, checkpoint);
    if (status == STATUS_OK) {
        status = open_grooves_commence(forest, checkpoint);
    }
    if (status == STATUS_OK) {
        status = open_manifest(forest, checkpoint);
    }
    for (const struct catalog_groove *groove = catalog_after(&forest->catalog, 0);
         status == STATUS_OK && groove != NULL;
         groove = catalog_after(&forest->catalog, groove->groove_id)) {
        status = groove_open_complete(forest, groove);
    }
    if (status == STATUS_OK) {
        status = open_spill(forest, checkpoint);
    }
    if (status == STATUS_OK) {
        status = release_trailers(forest);
    }
    if (VERIFY && status == STATUS_OK) {
        assert(forest_verify_table_extents(forest));
    }
    forest->report.table_count = forest->manifest_log.table_count;
    return status;
}

static void open_tick(struct forest *forest)
{
    const uint64_t start_ns = clock_monotonic_ns(forest->options.clock);
    const struct checkpoint_state *checkpoint = &forest->superblock.checkpoint;
    forest->reason[0] = '\0';
    const enum status status = open_checkpoint(forest);
    if (status != STATUS_OK) {
        open_end(forest, status);
        return;
    }
    forest->commit_executed = checkpoint->commit;
    forest->commit_durable = checkpoint->commit;
    forest->timestamp = checkpoint->timestamp;
    forest->sequence_durable = UINT64_MAX; /* Of what is replayed, all. */
    forest->bar_replayed = checkpoint->op > 0;
    forest->op = checkpoint->op > 0 ? checkpoint->op - forest->geometry.bar_beats : 0;
    forest->beat = 0;
    forest->checkpoint_op = checkpoint->op;
    forest->checkpoint_id = forest->superblock.checkpoint_id;
    forest->superblock_sequence = forest->superblock.sequence;
    forest->report.checkpoint_op = checkpoint->op;
    journal_recover_begin(&forest->journal, checkpoint->journal_sequence,
                          checkpoint->journal_offset, &checkpoint->journal_parent);
    forest_bar_state_capture(forest);
    forest_space_look(forest, false);
    forest_bar_commence(forest);
    version_publish(&forest->versions, forest_version_make(forest));
    forest->phase = FOREST_REPLAYING;
    forest->replay_start_ns = clock_monotonic_ns(forest->options.clock);
    forest->report.open_ns = forest->replay_start_ns - start_ns;
}

/* ---- Journal -----------------------------------------------------------------------------------
 */

static enum status journal_stop(struct forest *forest, const char *what, uint64_t sequence,
                                uint64_t offset)
{
    snprintf(forest->reason, sizeof forest->reason,
             "journal: entry %llu at offset %llu of the zone: %s", (unsigned long long)sequence,
             (unsigned long long)offset, what);
    return STATUS_CORRUPT;
}

static void replay_end(struct forest *forest, bool torn)
{
    if (forest->bar_replayed) {
        /* The checkpoint was taken at the end of a bar whose entries were durable. */
        open_end(forest, journal_stop(forest, "entries that the checkpoint holds are missing",
                                      forest->journal.sequence_next, forest->journal.head));
        return;
    }
    forest->sequence_durable = forest->journal.sequence_next - 1;
    forest->report.torn_tail = torn;
    forest->report.replay_ns = clock_monotonic_ns(forest->options.clock) - forest->replay_start_ns;
    forest->gathering = &forest->batches[0];
    batch_reset(forest->gathering);
    open_end(forest, STATUS_OK);
}

static void replay_seal(struct forest *forest)
{
    forest->bar_journal_used += SECTOR_SIZE;
    forest->journal_since_checkpoint += SECTOR_SIZE;
}

/* Replay needs a block that it cannot have. */
static void replay_stop(struct forest *forest)
{
    const unsigned long long address = forest->bad_address;
    if (forest->bad_status == STATUS_CORRUPT) {
        snprintf(forest->reason, sizeof forest->reason,
                 "grid: replaying the journal met a damaged block at address %llu", address);
    } else if (address != 0) {
        snprintf(forest->reason, sizeof forest->reason,
                 "grid: replaying the journal, the block at address %llu could not be read: %s",
                 address, status_text(forest->bad_status));
    } else {
        snprintf(forest->reason, sizeof forest->reason,
                 "grid: replaying the journal, a block could not be written: %s",
                 status_text(forest->bad_status));
    }
    open_end(forest, forest->bad_status);
}

/* Reads the next entry and starts its prefetch. */
static void replay_next(struct forest *forest)
{
    struct batch *batch = &forest->batches[0];
    enum journal_recovery outcome;
    uint64_t bad_offset = 0;
    const enum status status =
        journal_recover_next(&forest->journal, batch->buffer, &outcome, &bad_offset);
    if (status != STATUS_OK) {
        (void)journal_stop(forest,
                           status == STATUS_CORRUPT
                               ? "damaged, and later entries are whole: acknowledged requests "
                                 "would be lost, so nothing is opened"
                               : status_text(status),
                           forest->journal.sequence_next, bad_offset);
        open_end(forest, status);
        return;
    }
    if (outcome != JOURNAL_RECOVERY_ENTRY) {
        replay_end(forest, outcome == JOURNAL_RECOVERY_TORN);
        return;
    }
    const struct journal_header *header =
        (const struct journal_header *)(const void *)batch->buffer;
    forest->report.entries_replayed += 1;
    forest->report.replay_bytes += header->size;
    if (header->kind == JOURNAL_KIND_SEAL) {
        replay_seal(forest);
        return;
    }
    if (header->commit != forest->commit_executed + 1 || header->timestamp <= forest->timestamp ||
        batch_decode(batch, &forest->catalog) != STATUS_OK ||
        !forest_session_replay_begin(forest, batch)) {
        open_end(forest, journal_stop(forest, "does not follow from what came before",
                                      header->sequence, header->offset));
        return;
    }
    forest->preparing = batch;
    forest_prefetch_begin(forest, batch);
}

static bool replay_execute(struct forest *forest)
{
    struct batch *batch = forest->preparing;
    if (forest->stage != BATCH_STAGE_PREPARED || !forest_version_room(forest) ||
        !forest_run_room(forest)) {
        return false;
    }
    /* The bar before the checkpoint takes no block: its merges are in the checkpoint already. After
     * it, there is as much space as when these entries were accepted, if the file is all there. */
    if (!forest->bar_replayed && !forest_space_suffices(forest, REQUEST_SPACE_NONE, batch)) {
        snprintf(forest->reason, sizeof forest->reason,
                 "grid: the file is shorter than it was: replaying the journal needs %llu more "
                 "blocks",
                 (unsigned long long)(forest->space.step - forest->space.hand));
        open_end(forest, STATUS_CORRUPT);
        return false;
    }
    for (uint32_t i = 0; i < batch->request_count; i++) {
        /* Refused now, though it was accepted then: a block it depends on is damaged. */
        if (batch_request_refused(&batch->requests[i]) &&
            batch->requests[i].result != REQUEST_RESULT_OK) {
            replay_stop(forest);
            return false;
        }
    }
    const struct journal_header *header =
        (const struct journal_header *)(const void *)batch->buffer;
    forest->preparing = NULL;
    forest->stage = BATCH_STAGE_NONE;
    forest->report.requests_replayed += batch->request_count;
    forest->report.events_replayed += batch->event_count;
    forest_execute(forest, batch, header->timestamp, header->size,
                   (header->flags & JOURNAL_FLAG_LOW) != 0);
    forest_session_replay_end(forest, batch);
    forest->commit_durable = forest->commit_executed;
    version_publish(&forest->versions, forest_version_make(forest));
    return true;
}

bool forest_open_tick(struct forest *forest)
{
    if (forest->phase == FOREST_OPENING) {
        open_tick(forest);
        return true;
    }
    assert(forest->phase == FOREST_REPLAYING);
    bool progressed = forest_versions_collect(forest);
    progressed |= forest_beat_tick(forest);
    progressed |= forest_checkpoint_tick(forest);
    if (forest->read_only) {
        replay_stop(forest);
        return true;
    }
    progressed |= forest_prefetch_reap(forest);
    if (forest->preparing != NULL) {
        progressed |= replay_execute(forest);
    } else if (forest->beats_owed == 0 && forest_version_room(forest)) {
        replay_next(forest);
        progressed = true;
    }
    return progressed;
}
