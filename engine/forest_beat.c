/* Ops: one op is one beat, a fixed amount of work, whatever the requests that carried it.
 *
 *   beat   0 ............ half-1 | half ............ bar-1 |
 *          plan odd targets        decide: checkpoint?       swap memory tables
 *                                  absorb?                   [checkpoint]
 *                                  plan even targets
 *                          join    ^                   join
 *
 * How far a bar has come is a function of the journal alone: the fullest of {entries in any tree's
 * mutable table, entry bytes over all trees, journal bytes}. A batch may be worth several beats; it
 * never spans a bar: the bar ends behind it, and the next starts empty. A beat completes when the
 * half-bar's jobs have together done their share. */
#include <assert.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "pool/base.h"
#include "pool/log.h"

/* ---- How far the bar has come ------------------------------------------------------------------
 */

static uint64_t share_of_bar(const struct forest *forest, uint64_t used, uint64_t max)
{
    const uint64_t beats = forest->geometry.bar_beats;
    return min_u64((uint64_t)((u128)used * beats / max), beats);
}

static uint64_t tree_entries(const struct tree *tree)
{
    /* What will be absorbed at the swap must fit beside this bar's. */
    return tree->mutable_table.value_count +
           (tree->absorbing ? tree->immutable_table.value_count : 0);
}

static uint64_t absorbed_bytes(const struct forest *forest)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < forest->geometry.tree_count_max; i++) {
        const struct tree *tree = &forest->trees[i];
        if (tree->used && tree->absorbing) {
            bytes += tree->immutable_table.value_count * tree->shape.value_size;
        }
    }
    return bytes;
}

static uint64_t beats_due(const struct forest *forest)
{
    const struct geometry *geometry = &forest->geometry;
    uint64_t due = share_of_bar(forest, forest->bar_journal_used, geometry->bar_journal_size);
    due = max_u64(due, share_of_bar(forest, forest->bar_memory_used + absorbed_bytes(forest),
                                    geometry->bar_memory_size));
    for (uint32_t i = 0; i < geometry->tree_count_max; i++) {
        const struct tree *tree = &forest->trees[i];
        if (tree->used && !tree->dropping) {
            due = max_u64(due, share_of_bar(forest, tree_entries(tree), tree->bar_value_max));
        }
    }
    return due;
}

void forest_beats_count(struct forest *forest, uint64_t entry_size, uint64_t idle_beats)
{
    assert(forest->beats_owed == 0);
    forest->space.looked = false; /* The batch was accepted on what the last look saw. */
    forest->bar_journal_used += entry_size;
    forest->journal_since_checkpoint += entry_size;
    const uint64_t due = max_u64(beats_due(forest), forest->beat + idle_beats);
    /* Not past both the middle and the end: space is looked at in between (forest_space.c). The
     * beat that is left over comes with the next batch. */
    const uint32_t beats = forest->geometry.bar_beats;
    const uint64_t bounded = min_u64(due, forest->beat < beats / 2 ? beats - 1 : beats);
    forest->beats_owed = bounded > forest->beat ? bounded - forest->beat : 0;
}

/* ---- Starting ----------------------------------------------------------------------------------
 */

/* Ops are numbered from 1: op n is complete when forest->op == n. */
static uint64_t half_bar_last_op(const struct forest *forest)
{
    const uint32_t half = forest->geometry.bar_beats / 2;
    return forest->op + half - forest->beat % half;
}

static void damage(struct forest *forest, enum status status, uint64_t address, uint32_t tree_id)
{
    const char *advice =
        "writes are refused, reads go on: check the disk; a restart recovers every "
        "acknowledged request";
    if (status == STATUS_CORRUPT) {
        advice = "writes are refused, reads go on: copy out what you need before a restart, which "
                 "would stop at this block; then run 'holt verify'";
    }
    LOG_ERROR("forest.read_only", log_text("why", status_text(status)), log_u64("address", address),
              log_u64("tree", tree_id), log_text("do", advice));
    forest->read_only = true;
    forest->bad_status = status;
    forest->bad_address = address;
    forest->beats_owed = 0;
    forest->progress = FOREST_PROGRESS_NONE;
}

static void half_bar_commence(struct forest *forest, bool even)
{
    forest->schedule.purge = forest->purge;
    forest->schedule.only_limits =
        !even && forest->low && forest_space_only_limits(forest, forest->op);
    const bool planned =
        compaction_half_bar_commence(&forest->schedule, even, half_bar_last_op(forest) + 1);
    if (!planned) {
        /* The batch behind these beats was accepted because this much was in hand (forest_space.c).
         * A replay finds the same addresses free, unless the file says what never was. */
        assert(forest->phase != FOREST_READY);
        damage(forest, STATUS_CORRUPT, 0, 0);
        return;
    }
    const uint32_t half = forest->geometry.bar_beats / 2;
    if (forest->schedule.bytes_total / half > forest_beat_work_max(&forest->geometry)) {
        forest->beat_overrun_total += half; /* More grooves at once than the plan reckons with. */
    }
}

void forest_bar_commence(struct forest *forest)
{
    assert(forest->beat == 0);
    assert(forest->op % forest->geometry.bar_beats == 0);
    /* What was dropped in the bar before gives up its tables from now on, not earlier: that bar may
     * have to be replayed. */
    for (struct catalog_groove *groove = catalog_after(&forest->catalog, 0); groove != NULL;
         groove = catalog_after(&forest->catalog, groove->groove_id)) {
        for (uint32_t i = 0; groove->dropping && i < groove->tree_count; i++) {
            if (!groove->trees[i]->dropping) {
                groove->trees[i]->dropping = true;
                tree_clear_memory(groove->trees[i], &forest->arena, &forest->nodes,
                                  &forest->tree_versions);
            }
        }
    }
    if (!forest->bar_replayed) {
        half_bar_commence(forest, false);
    }
}

/* A bar that brought little leaves its entries to the next one, in memory, instead of making tiny
 * tables; when it ends in a checkpoint, a copy of them goes to disk (lsm/spill.h). Only while
 * requests flow: debt that idle beats pay must reach the levels. And not while space is low, when a
 * copy is what there is no room for. */
static void decide_absorption(struct forest *forest)
{
    uint64_t bytes = forest->bar_memory_used;
    bool flowing = false;
    for (uint32_t i = 0; i < forest->geometry.tree_count_max; i++) {
        const struct tree *tree = &forest->trees[i];
        if (tree->used) {
            bytes += tree->immutable_table.value_count * tree->shape.value_size;
            flowing |= tree->mutable_table.value_count > 0;
        }
    }
    if (forest->low || !flowing || bytes * 2 > forest->geometry.bar_memory_size) {
        return;
    }
    bool absorbed = false;
    for (uint32_t i = 0; i < forest->geometry.tree_count_max; i++) {
        struct tree *tree = &forest->trees[i];
        if (!tree->used || tree->dropping || tree->immutable_table.run_count == 0) {
            continue;
        }
        const uint64_t entries =
            tree->mutable_table.value_count + tree->immutable_table.value_count;
        tree->absorbing = entries * 2 <= tree->bar_value_max;
        tree->spilling = tree->absorbing && forest->bar_checkpoint;
        absorbed |= tree->absorbing;
    }
    forest->absorbed_bars += absorbed;
}

/* Entry bytes that are replayed in well under a second: bars smaller than that need no checkpoint
 * each, which would be a sync each. */
enum { REPLAY_MEMORY = 32 * 1024 * 1024 };

/* Low space: what merges release must come back soon. Journal bytes bound the ring; entry bytes
 * bound the work of a replay: at full load every bar ends in a checkpoint, and a trickle of small
 * requests may absorb for several bars. A middle that came early, by idle beats or full trees,
 * leaves more than half of the bar's journal bytes still to come: the ring reckons with half, so it
 * is asked for the end of the bar, too. */
static bool checkpoint_due(const struct forest *forest)
{
    const struct geometry *geometry = &forest->geometry;
    /* What the last checkpoint alone needs is replaced by the next: no reason for one. */
    assert(forest->free_set.released_count >= forest->checkpoint_own_blocks);
    const uint64_t released = forest->free_set.released_count - forest->checkpoint_own_blocks;
    const uint64_t bar_rest =
        geometry->bar_journal_size - min_u64(forest->bar_journal_used, geometry->bar_journal_size);
    return forest->low || forest->journal_since_checkpoint >= geometry->checkpoint_journal_size ||
           forest->journal_since_checkpoint + bar_rest >=
               geometry->checkpoint_journal_size + geometry->bar_journal_size / 2 ||
           forest->memory_since_checkpoint * 3 >=
               max_u64(forest->geometry.bar_memory_size, REPLAY_MEMORY) ||
           released > forest->free_set.acquired_count / 4 + 2048;
}

static void second_half_commence(struct forest *forest)
{
    if (forest->bar_replayed) {
        /* What was spilled is what was absorbed then, from here on. */
        for (uint32_t i = 0; i < forest->geometry.tree_count_max; i++) {
            struct tree *tree = &forest->trees[i];
            tree->absorbing = tree->used && tree->immutable_table.run_count > 0;
        }
        return;
    }
    forest->bar_checkpoint = checkpoint_due(forest);
    decide_absorption(forest);
    half_bar_commence(forest, true);
}

/* ---- Completing --------------------------------------------------------------------------------
 */

/* Nodes for the copies that joining a half-bar makes. What is missing is held by readers of old
 * versions; by the published one, too, while the newest is not durable yet: then its journal write
 * is waited for. */
static bool nodes_ready(struct forest *forest)
{
    const uint32_t needed = compaction_nodes_needed(&forest->schedule);
    while (forest->nodes.free_count < needed && forest_versions_revoke(forest)) {
    }
    return forest->nodes.free_count >= needed;
}

static bool beat_ready(struct forest *forest)
{
    const uint32_t half = forest->geometry.bar_beats / 2;
    const bool last_of_half = (forest->beat + 1) % half == 0;
    if (!forest->bar_replayed &&
        !compaction_progress(&forest->schedule, forest->beat % half + 1, half)) {
        return false;
    }
    if (last_of_half && !forest->bar_replayed && !nodes_ready(forest)) {
        return false;
    }
    if (last_of_half && !forest_manifest_write_ready(forest)) {
        return false;
    }
    if (forest->beat == half - 1 && forest->join_owed && !forest_checkpoint_join_ready(forest)) {
        return false;
    }
    return true;
}

static bool half_bar_complete(struct forest *forest, bool checkpoint)
{
    if (forest->bar_replayed) {
        return true;
    }
    uint64_t bad_address = 0;
    uint32_t bad_tree_id = 0;
    enum status status =
        compaction_half_bar_complete(&forest->schedule, &bad_address, &bad_tree_id);
    if (status == STATUS_OK) {
        status = manifest_log_half_bar_complete(&forest->manifest_log, checkpoint, &bad_address);
    }
    if (status != STATUS_OK) {
        damage(forest, status, bad_address, bad_tree_id);
        return false;
    }
    forest_manifest_write_submit(forest);
    if (VERIFY) {
        assert(forest_verify_table_extents(forest));
    }
    return true;
}

static void bar_complete(struct forest *forest)
{
    for (uint32_t i = 0; i < forest->geometry.tree_count_max; i++) {
        if (forest->trees[i].used) {
            tree_swap(&forest->trees[i], &forest->arena, &forest->nodes, &forest->tree_versions);
        }
    }
    forest->bar_journal_used = 0;
    forest->bar_memory_used = 0;
    if (forest->bar_replayed) {
        /* As it was when this bar ended live, just after its checkpoint was encoded. */
        forest->bar_replayed = false;
        forest->journal_since_checkpoint = 0;
        forest->memory_since_checkpoint = 0;
        forest->join_owed = true;
    } else if (forest->bar_checkpoint) {
        forest->progress = FOREST_PROGRESS_CHECKPOINT;
        forest_checkpoint_encode(forest);
        forest->journal_since_checkpoint = 0;
        forest->memory_since_checkpoint = 0;
        forest->join_owed = true;
    }
    forest->bar_checkpoint = false;
    forest->progress = FOREST_PROGRESS_COMPACT;
    forest_bar_state_capture(forest);
}

static void beat_complete(struct forest *forest)
{
    const uint32_t half = forest->geometry.bar_beats / 2;
    const bool last = forest->beat + 1 == forest->geometry.bar_beats;
    forest->op += 1;
    if (forest->beat + 1 == half) {
        if (!half_bar_complete(forest, false)) {
            return;
        }
        if (forest->join_owed) {
            forest_checkpoint_join(forest);
        }
    } else if (last) {
        if (!half_bar_complete(forest, forest->bar_checkpoint)) {
            return;
        }
        bar_complete(forest);
    }
    if (forest->beat + 1 == half || last) {
        forest_space_look(forest, !last);
    }
    forest->beats_owed -= 1;
    forest->beat = last ? 0 : forest->beat + 1;
    if (forest->beat == 0) {
        forest_bar_commence(forest);
    } else if (forest->beat == half) {
        second_half_commence(forest);
    }
}

static void wait_note(struct forest *forest, bool waiting)
{
    const uint64_t now = clock_monotonic_ns(forest->options.clock);
    if (waiting) {
        forest->beat_wait_since_ns =
            forest->beat_wait_since_ns == 0 ? now : forest->beat_wait_since_ns;
    } else if (forest->beat_wait_since_ns != 0) {
        const uint64_t waited = now - forest->beat_wait_since_ns;
        forest->beat_wait_ns_total += waited;
        forest->beat_wait_ns_max = max_u64(forest->beat_wait_ns_max, waited);
        forest->beat_wait_since_ns = 0;
    }
}

bool forest_beat_tick(struct forest *forest)
{
    bool progressed = false;
    while (forest->beats_owed > 0) {
        forest->progress = FOREST_PROGRESS_COMPACT;
        if (!beat_ready(forest)) {
            wait_note(forest, true);
            return progressed;
        }
        wait_note(forest, false);
        beat_complete(forest);
        progressed = true;
    }
    if (forest->progress == FOREST_PROGRESS_COMPACT) {
        forest->progress = FOREST_PROGRESS_NONE;
    }
    return progressed;
}
