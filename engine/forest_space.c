/* Room in the file: how much is in hand, what may be taken before it is looked at again, and who
 * may still take some.
 *
 *   look ... half-bar B ... look ... half-bar C ... look        a look: at the end of each half-bar
 *        ^ B reserves            ^ C reserves, perhaps after a checkpoint's trailers
 *
 * A batch is accepted by the look behind it. Its beats may end the half-bar B, and then C reserves
 * before anybody can look again (a batch never passes both the middle and the end of a bar). So
 * `step` covers B, C and the trailers, and a batch is accepted only while that much is in hand. All
 * reservations take the lowest free addresses, so they never reach past what the file has grown to:
 * nothing that is planned can meet a full disk, and the worker that grows the file, which also
 * writes manifest blocks and checkpoints, never waits for growth.
 *
 * While the file can grow, a batch that finds less than `plenty` waits until it has. When it cannot
 * (the device is full, or the limit of blocks is reached), space is *low*, and each journal entry
 * says so (JOURNAL_FLAG_LOW), because what follows must be the same in every replay: every bar ends
 * in a checkpoint, so what merges released is free again a bar later; the first half of every other
 * bar merges only what is at its level's limit, so that what the one before released is back when
 * the next takes more; and idle beats merge every table with a tombstone down, until none is left.
 * Whether a batch is accepted then goes by what is
 * in hand and what is on its way back together:
 *
 *     |<---- settled: free, or free after the next joins ---->|
 *     | cycle                     | memory | batch x 4 | margin |
 *       idle, drop: step only
 *       remove: all of this ...............^...........^
 *       write: this, too ..............................^.......^
 *
 * `cycle` is what merges take from one join to the next without anything new: what the first half
 * released and does not have back, the second half, a checkpoint, and the next first half. One of
 * the two first halves is of those that merge little. It is reckoned for any distribution of the
 * values over the levels, so it holds until all is settled: merges add no values, so idle beats
 * never run out of room once it was kept. A batch's entries count four times: in a table, and in
 * each of those three half-bars. The margin is what removes
 * live on until merges have carried their tombstones to what they hide; then they have it back. So
 * whoever may remove at all can go on to the last object, with pauses for merges.
 *
 * The tables that all trees may have are a limit of the same kind: a half-bar adds at most two per
 * job. */
#include <assert.h>

#include "engine/forest_internal.h"
#include "engine/lsm/spill.h"
#include "engine/storage/trailer.h"
#include "pool/base.h"

enum {
    WORD_BLOCKS = 64,     /* A reservation leaves up to a word of the free set partly used. */
    TABLES_PER_TREE = 14, /* 7 jobs in two half-bars, each two tables more than it removes */
    BATCH_SHARES = 4,     /* a table, and three half-bars that may rewrite it */
    MARGIN_BATCHES = 8,   /* largest batches, as shares count them twice */
    MARGIN_FRACTION = 16, /* of the file, if that is less */
};

static uint64_t used_tree_count(const struct forest *forest)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < forest->geometry.tree_count_max; i++) {
        count += forest->trees[i].used;
    }
    return count;
}

/* What the state may come to take, unless another session is opened: that of this bar's checkpoint
 * is encoded already, and what a lane remembers is bounded. The most that a file may ever hold is
 * too much to keep from writes for clients that are not there; who opens a session is judged with
 * it. */
static uint64_t state_size_bound(const struct forest *forest, const struct batch *batch)
{
    uint64_t size =
        catalog_encoded_size_max(&forest->geometry) + session_encoded_size_bound(&forest->sessions);
    if (batch->request_count == 1 && batch->requests[0].header->kind == REQUEST_KIND_SESSION_OPEN) {
        size += session_encoded_size_of(SESSION_LANE_MAX);
    }
    return max_u64(size, forest->state_size);
}

/* As forest_checkpoint.c acquires them, for a file grown to `grown` blocks. */
static uint64_t trailer_blocks(const struct forest *forest, uint64_t grown, uint64_t state_size)
{
    const struct geometry *geometry = &forest->geometry;
    const uint64_t reach =
        min_u64(max_u64(grown, forest->free_set.address_max) + forest->checkpoint.block_max + 64,
                geometry->block_count_max);
    return trailer_block_count(geometry->block_size, state_size) +
           trailer_block_count(geometry->block_size, spill_size_max(geometry)) +
           trailer_block_count(geometry->block_size, 2 * 8 * div_ceil(reach, 64));
}

static uint64_t words_left(uint64_t jobs)
{
    return WORD_BLOCKS * (1 + jobs); /* 1: the manifest log's */
}

bool forest_space_only_limits(const struct forest *forest, uint64_t op)
{
    return op / forest->geometry.bar_beats % 2 == 1;
}

/* Two half-bars: with `middle` those around the end of a bar, else those of a bar that begins. */
static uint64_t step_of(const struct forest *forest, const struct compaction_needs *needs,
                        bool middle)
{
    const struct free_set *set = &forest->free_set;
    const uint64_t manifest = forest->manifest_log.half_bar_block_max;
    const uint64_t words = words_left(max_u64(needs->odd_jobs, needs->even_jobs));
    const uint64_t both = needs->odd_blocks + needs->even_blocks + 2 * manifest + words;
    if (middle) {
        return both + trailer_blocks(forest, forest->space.grown, forest->state_size);
    }
    /* The join in the middle comes before the second half takes anything. */
    const uint64_t returning = forest->join_owed ? set->releasing_count : 0;
    return max_u64(needs->odd_blocks + manifest + words, both - min_u64(both, returning));
}

void forest_space_look(struct forest *forest, bool middle)
{
    struct forest_space *space = &forest->space;
    const struct free_set *set = &forest->free_set;
    assert(set->reservation_count == 0);
    /* What was in hand when a batch was accepted covers no more than two half-bars. */
    assert(!space->looked);
    space->looked = true;
    space->grown = atomic_load(&forest->grid.block_count);
    space->hand = free_set_count_free_below(set, space->grown);
    /* The last checkpoint's trailers are released, too, but the next one takes as many. */
    assert(set->released_count >= forest->trailer_count);
    space->floating = set->released_count - forest->trailer_count + set->releasing_count;
    space->retry |= !middle;
    const struct compaction_needs all = compaction_needs(&forest->schedule, false);
    const struct compaction_needs limits = compaction_needs(&forest->schedule, true);
    /* The next first half is planned now, by what the last entry said; or, at the middle, later, by
     * what the next entries will say. */
    const uint64_t op = middle ? forest->op + forest->geometry.bar_beats : forest->op;
    const bool only_limits = (middle || forest->low) && forest_space_only_limits(forest, op);
    space->step = step_of(forest, &all, middle);
    space->step_low = step_of(forest, only_limits ? &limits : &all, middle);
    space->limits = limits.odd_blocks;
}

/* Entries of the events in `batch`, as tables of their own, at most. */
static uint64_t batch_blocks(const struct forest *forest, const struct batch *batch)
{
    uint64_t blocks = 0;
    for (uint32_t i = 0; i < batch->group_count; i++) {
        const struct catalog_groove *groove =
            catalog_find(&forest->catalog, batch->groups[i].groove_id);
        for (uint32_t tree = 0; groove != NULL && tree < groove->tree_count; tree++) {
            blocks += compaction_output_blocks_max(&forest->geometry, &groove->trees[tree]->shape,
                                                   (uint64_t)batch->groups[i].event_count *
                                                       (tree < TREE_INDEX ? 1 : 2));
        }
    }
    return blocks;
}

/* What must be settled for a request that keeps something to be accepted; without the margin. */
static uint64_t settled_needed(const struct forest *forest, const struct batch *batch)
{
    uint32_t jobs;
    uint64_t shared;
    const uint64_t both = compaction_blocks_settling(&forest->schedule, &jobs, &shared);
    return both + forest->space.limits + shared + 2ull * forest->manifest_log.half_bar_block_max +
           words_left(jobs / 2 + used_tree_count(forest)) +
           trailer_blocks(forest, forest->space.grown, state_size_bound(forest, batch)) +
           compaction_blocks_in_memory(&forest->schedule) +
           BATCH_SHARES * batch_blocks(forest, batch);
}

static uint64_t margin(const struct forest *forest)
{
    const uint64_t batch =
        div_ceil(2 * batch_write_bytes_max(&forest->geometry), block_body_size(&forest->geometry));
    return min_u64(MARGIN_BATCHES * batch, forest->space.grown / MARGIN_FRACTION);
}

static uint64_t tables_left(const struct forest *forest)
{
    return forest->manifest_log.table_count_max - forest->manifest_log.table_count;
}

/* Blocks that come with growth since the last look are in hand, too. */
static void count_growth(struct forest *forest)
{
    struct forest_space *space = &forest->space;
    const uint64_t grown = atomic_load(&forest->grid.block_count);
    space->hand += grown - space->grown;
    space->grown = grown;
}

static bool room_for(struct forest *forest, enum request_space kind, const struct batch *batch)
{
    const struct forest_space *space = &forest->space;
    const uint64_t tables = TABLES_PER_TREE * used_tree_count(forest);
    if (space->hand < space->step_low || tables_left(forest) < tables) {
        return false;
    }
    if (kind == REQUEST_SPACE_NONE) {
        return true;
    }
    const uint64_t needed =
        settled_needed(forest, batch) + (kind == REQUEST_SPACE_WRITE ? margin(forest) : 0);
    return space->hand + space->floating >= needed &&
           tables_left(forest) >= (kind == REQUEST_SPACE_WRITE ? 3 : 2) * tables;
}

bool forest_space_suffices(struct forest *forest, enum request_space kind,
                           const struct batch *batch)
{
    count_growth(forest);
    return room_for(forest, kind, batch);
}

uint64_t forest_space_kept(const struct forest *forest)
{
    return settled_needed(forest, forest->gathering) + margin(forest);
}

enum space_verdict forest_space_judge(struct forest *forest, enum request_space kind,
                                      const struct batch *batch, bool retry, bool *low)
{
    struct forest_space *space = &forest->space;
    count_growth(forest);
    const uint64_t tables = TABLES_PER_TREE * used_tree_count(forest);
    const uint64_t plenty = settled_needed(forest, batch) + margin(forest) + space->step;
    const uint64_t ahead = plenty + space->step / 2;
    const bool tables_low = tables_left(forest) < 4 * tables;
    const bool failed = atomic_load(&forest->grid.grow_status) != STATUS_OK;
    /* A try that fails may cost a chunk of writes, beside which checkpoints wait. */
    const bool again = retry || (space->retry && kind == REQUEST_SPACE_WRITE);
    if (space->hand < ahead && (!failed || again)) {
        space->retry = false;
        grid_grow_ahead(&forest->grid, space->grown, ahead - space->hand); /* Up to the limit. */
    }
    *low = false;
    if (space->hand >= plenty && !tables_low) {
        forest->full = false;
        return SPACE_ACCEPT;
    }
    if (space->hand < plenty && !failed && space->grown < forest->geometry.block_count_max) {
        return SPACE_WAIT; /* Growth runs. */
    }
    *low = true;
    const bool accepted = room_for(forest, kind, batch);
    if (kind == REQUEST_SPACE_WRITE) {
        forest->full = !accepted;
        space->wanted |= !accepted;
    }
    return accepted ? SPACE_ACCEPT : SPACE_REFUSE;
}
