#include "engine/lsm/compaction_schedule.h"

#include <assert.h>
#include <string.h>

#include "pool/base.h"
#include "pool/log.h"
#include "pool/memory.h"

/* Level 6 is never a source; memory is the source of level 0. */
enum { LEVEL_MEMORY = -1, JOBS_PER_TREE_MAX = 4 };

uint32_t compaction_resource_windows(uint32_t worker_count)
{
    return COMPACTION_LOAN_COUNT * (worker_count > 0 ? worker_count : 1);
}

uint32_t compaction_job_count_max(uint32_t tree_count)
{
    return JOBS_PER_TREE_MAX * tree_count;
}

uint64_t compaction_released_max(const struct geometry *geometry)
{
    /* Per job: a source and its targets, each at most as many blocks as an index block addresses.
     */
    const uint64_t table_max = (geometry->block_size - BLOCK_HEADER_SIZE) / 24;
    return (uint64_t)compaction_job_count_max(geometry->tree_count_max) *
           (1 + COMPACTION_TARGET_MAX) * table_max;
}

static uint64_t level_limit(uint32_t level)
{
    uint64_t limit = LEVEL_GROWTH;
    for (uint32_t i = 0; i < level; i++) {
        limit *= LEVEL_GROWTH;
    }
    return limit;
}

enum status compaction_schedule_init(struct compaction_schedule *schedule)
{
    assert(schedule->geometry != NULL && schedule->trees != NULL);
    schedule->job_max = compaction_job_count_max(schedule->tree_count);
    schedule->released_max = compaction_released_max(schedule->geometry);
    schedule->jobs = memory_acquire((size_t)schedule->job_max * sizeof *schedule->jobs);
    schedule->job_trees = memory_acquire((size_t)schedule->job_max * sizeof(struct tree *));
    schedule->released = memory_acquire((size_t)schedule->released_max * sizeof(uint64_t));
    if (schedule->jobs != NULL && schedule->job_trees != NULL && schedule->released != NULL) {
        const enum status status = resource_pool_init(
            &schedule->resources, compaction_resource_windows(schedule->workers->thread_count),
            compaction_window_blocks(schedule->geometry) * schedule->geometry->block_size);
        if (status == STATUS_OK) {
            return STATUS_OK;
        }
    }
    memory_release(schedule->jobs, (size_t)schedule->job_max * sizeof *schedule->jobs);
    memory_release(schedule->job_trees, (size_t)schedule->job_max * sizeof(struct tree *));
    memory_release(schedule->released, (size_t)schedule->released_max * sizeof(uint64_t));
    return STATUS_NO_MEMORY;
}

void compaction_schedule_deinit(struct compaction_schedule *schedule)
{
    assert(!schedule->active);
    resource_pool_deinit(&schedule->resources);
    memory_release(schedule->jobs, (size_t)schedule->job_max * sizeof *schedule->jobs);
    memory_release(schedule->job_trees, (size_t)schedule->job_max * sizeof(struct tree *));
    memory_release(schedule->released, (size_t)schedule->released_max * sizeof(uint64_t));
    *schedule = (struct compaction_schedule){0};
}

/* ---- Choosing ----------------------------------------------------------------------------------
 */

/* The table of `level` that goes down in this half-bar, or NULL: at the level's limit the one with
 * the least overlap; below it, the first with too many tombstones, or with any. */
static const struct table_info *choose_source(const struct compaction_schedule *schedule,
                                              const struct tree *tree, uint32_t level)
{
    const bool purge = schedule->purge;
    const struct manifest_level *upper = &tree->levels[level];
    uint32_t overlap;
    if (upper->table_count >= level_limit(level)) {
        return manifest_level_least_overlap(upper, &tree->levels[level + 1], &overlap);
    }
    if (schedule->only_limits ||
        (purge ? tree->tombstone_any[level] : tree->tombstone_due[level]) == 0) {
        return NULL;
    }
    for (struct manifest_position position = manifest_level_first(upper);;
         position = manifest_level_next(upper, position)) {
        const struct table_info *table = manifest_level_at(upper, position);
        assert(table != NULL); /* One was counted. */
        if (purge ? table->tombstone_count > 0 : table_tombstones_due(table)) {
            return table;
        }
    }
}

/* Whether no level below `level` holds a key of [min, max]: a tombstone has nothing left to hide.
 */
static bool nothing_below(const struct tree *tree, uint32_t level, const struct key *min,
                          const struct key *max)
{
    struct manifest_position first;
    for (uint32_t below = level + 1; below < LEVEL_COUNT; below++) {
        if (manifest_level_overlap(&tree->levels[below], min, max, 1, &first) > 0) {
            return false;
        }
    }
    return true;
}

static void job_init(struct compaction_schedule *schedule, struct compaction_job *job,
                     const struct tree *tree, uint32_t level_target, uint64_t op)
{
    memset(job, 0, sizeof *job);
    job->job.run = compaction_job_run;
    job->geometry = schedule->geometry;
    job->grid = schedule->grid;
    job->resources = &schedule->resources;
    job->doorbell = schedule->doorbell;
    job->shape = tree->shape;
    job->level_target = (uint8_t)level_target;
    job->op = op;
}

static void key_min_max(const struct tree_shape *shape, struct key *min, struct key *max,
                        const struct key *low, const struct key *high)
{
    if (shape->ops->compare(low->bytes, min->bytes, shape->value_size) < 0) {
        *min = *low;
    }
    if (shape->ops->compare(high->bytes, max->bytes, shape->value_size) > 0) {
        *max = *high;
    }
}

/* Copies the tables of the target level that overlap [min, max], at most `limit`; returns how many
 * overlap in all (counted up to limit + 1). */
static uint32_t copy_targets(struct compaction_job *job, const struct tree *tree,
                             const struct key *min, const struct key *max, uint32_t limit)
{
    const struct manifest_level *level = &tree->levels[job->level_target];
    struct manifest_position position;
    const uint32_t count = manifest_level_overlap(level, min, max, limit + 1, &position);
    for (uint32_t i = 0; i < count && i < limit; i++) {
        job->targets[i] = *manifest_level_at(level, position);
        job->target_count += 1;
        position = manifest_level_next(level, position);
    }
    if (count > limit) {
        /* Only a source chosen for its tombstones can overlap more: it stops where the next one
         * begins, and keeps the rest. */
        job->source_partial = true;
        job->source_end = manifest_level_at(level, position)->key_min;
    }
    return count;
}

static void plan_inputs(struct compaction_job *job, uint64_t source_values, uint64_t *values,
                        uint64_t *blocks_released)
{
    *values = source_values;
    *blocks_released = job->from_memory ? 0 : job->source.block_count;
    for (uint32_t i = 0; i < job->target_count; i++) {
        *values += job->targets[i].value_count;
        *blocks_released += job->targets[i].block_count;
    }
    job->bytes_total = *values * job->shape.value_size;
}

static bool job_reserve(struct compaction_schedule *schedule, struct compaction_job *job,
                        uint64_t values, uint64_t blocks_released)
{
    assert(schedule->released_used + blocks_released <= schedule->released_max);
    job->released = schedule->released + schedule->released_used;
    job->released_max = (uint32_t)blocks_released;
    schedule->released_used += blocks_released;
    return free_set_reserve(schedule->free_set,
                            compaction_output_blocks_max(job->geometry, &job->shape, values),
                            &job->reservation);
}

/* A small table left alone at the end of level 0 would stay small for ever in a tree whose keys
 * only grow: merge with the neighbour while both are less than half a table. */
static void add_small_neighbour(struct compaction_job *job, const struct tree *tree,
                                const struct key *min, uint64_t source_values)
{
    const struct manifest_level *level = &tree->levels[0];
    const struct table_info *before = NULL;
    for (struct manifest_position position = manifest_level_first(level);
         manifest_level_at(level, position) != NULL;
         position = manifest_level_next(level, position)) { /* At most 9 tables. */
        const struct table_info *table = manifest_level_at(level, position);
        if (tree->shape.ops->compare(table->key_max.bytes, min->bytes, tree->shape.value_size) <
            0) {
            before = table;
        }
    }
    if (before != NULL &&
        (before->value_count + source_values) * 2 <= tree->shape.value_count_max) {
        job->targets[0] = *before;
        job->target_count = 1;
    }
}

/* The job reads the memory table's runs, newest first. */
static void lend_runs(struct compaction_job *job, const struct table_memory *memory)
{
    assert(memory->run_count > 0);
    job->from_memory = true;
    job->run_count = memory->run_count;
    for (uint32_t i = 0; i < memory->run_count; i++) {
        job->runs[i] = memory->runs[memory->run_count - 1 - i];
    }
    job->source.value_count = memory->value_count;
    job->source.tombstone_count = memory->tombstone_count;
}

/* Memory -> one table that is in no level. Its tombstones stay: the memory table has them still.
 * False: no free blocks. */
static bool plan_spill(struct compaction_schedule *schedule, struct tree *tree, uint64_t op)
{
    assert(tree->absorbing);
    struct compaction_job *job = &schedule->jobs[schedule->job_count];
    job_init(schedule, job, tree, 0, op);
    job->kind = COMPACTION_KIND_SPILL;
    lend_runs(job, &tree->immutable_table);
    uint64_t values, blocks;
    plan_inputs(job, tree->immutable_table.value_count, &values, &blocks);
    assert(blocks == 0); /* Nothing goes free by it. */
    blocks = compaction_output_blocks_max(job->geometry, &job->shape, values);
    if (!job_reserve(schedule, job, values, blocks)) {
        return false;
    }
    schedule->job_trees[schedule->job_count] = tree;
    schedule->job_count += 1;
    return true;
}

/* Memory -> level 0. False: no free blocks. */
static bool plan_memory(struct compaction_schedule *schedule, struct tree *tree, uint64_t op)
{
    const struct table_memory *memory = &tree->immutable_table;
    struct compaction_job *job = &schedule->jobs[schedule->job_count];
    job_init(schedule, job, tree, 0, op);
    lend_runs(job, memory);
    struct key min = memory->runs[0]->key_min;
    struct key max = memory->runs[0]->key_max;
    for (uint32_t i = 1; i < memory->run_count; i++) {
        key_min_max(&tree->shape, &min, &max, &memory->runs[i]->key_min, &memory->runs[i]->key_max);
    }
    if (tree->shape.value_size == tree->shape.key_size) { /* Keys of runs may carry the bit. */
        min.bytes[tree->shape.key_size - 8] &= 0x7f;
        max.bytes[tree->shape.key_size - 8] &= 0x7f;
    }
    const uint32_t overlap = copy_targets(job, tree, &min, &max, COMPACTION_TARGET_MAX);
    assert(overlap <= COMPACTION_TARGET_MAX); /* Level 0 holds at most 8 at a half-bar's start. */
    if (overlap == 0) {
        add_small_neighbour(job, tree, &min, memory->value_count);
    }
    for (uint32_t i = 0; i < job->target_count; i++) {
        key_min_max(&tree->shape, &min, &max, &job->targets[i].key_min, &job->targets[i].key_max);
    }
    job->drop_tombstones = nothing_below(tree, 0, &min, &max);
    uint64_t values, blocks;
    plan_inputs(job, memory->value_count, &values, &blocks);
    if (!job_reserve(schedule, job, values, blocks)) {
        return false;
    }
    tree->flushing = true;
    schedule->job_trees[schedule->job_count] = tree;
    schedule->job_count += 1;
    return true;
}

/* Level -> level + 1. False: no free blocks. */
static bool plan_level(struct compaction_schedule *schedule, struct tree *tree, uint32_t level,
                       uint64_t op)
{
    const struct table_info *source = choose_source(schedule, tree, level);
    if (source == NULL) {
        return true;
    }
    struct compaction_job *job = &schedule->jobs[schedule->job_count];
    job_init(schedule, job, tree, level + 1, op);
    job->source = *source;
    const uint32_t overlap =
        copy_targets(job, tree, &source->key_min, &source->key_max, COMPACTION_TARGET_MAX);
    struct key min = source->key_min;
    struct key max = source->key_max;
    for (uint32_t i = 0; i < job->target_count; i++) {
        key_min_max(&tree->shape, &min, &max, &job->targets[i].key_min, &job->targets[i].key_max);
    }
    job->drop_tombstones = nothing_below(tree, level + 1, &min, &max);
    /* With nothing to merge into, the table just changes level, unless that would carry tombstones
     * which have nothing left to hide. */
    if (overlap == 0 && !(job->drop_tombstones && source->tombstone_count > 0)) {
        job->kind = COMPACTION_KIND_MOVE;
        atomic_store_explicit(&job->state, COMPACTION_DONE, memory_order_relaxed);
    } else {
        uint64_t values, blocks;
        plan_inputs(job, source->value_count, &values, &blocks);
        if (!job_reserve(schedule, job, values, blocks)) {
            return false;
        }
    }
    schedule->job_trees[schedule->job_count] = tree;
    schedule->job_count += 1;
    return true;
}

/* A dropped tree: a few tables of its first level that has some. */
static void plan_discard(struct compaction_schedule *schedule, struct tree *tree, uint64_t op)
{
    for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
        if (tree->levels[level].table_count == 0) {
            continue;
        }
        struct compaction_job *job = &schedule->jobs[schedule->job_count];
        job_init(schedule, job, tree, level, op);
        job->kind = COMPACTION_KIND_DISCARD;
        uint64_t blocks = 0;
        for (struct manifest_position position = manifest_level_first(&tree->levels[level]);
             job->target_count < COMPACTION_TARGET_MAX;
             position = manifest_level_next(&tree->levels[level], position)) {
            const struct table_info *table = manifest_level_at(&tree->levels[level], position);
            if (table == NULL) {
                break;
            }
            job->targets[job->target_count] = *table;
            job->target_count += 1;
            blocks += table->block_count;
        }
        job->bytes_total = (uint64_t)job->target_count * schedule->geometry->block_size;
        const bool reserved = job_reserve(schedule, job, 0, blocks);
        assert(reserved); /* Nothing was asked for. */
        schedule->job_trees[schedule->job_count] = tree;
        schedule->job_count += 1;
        return;
    }
}

/* Trees in order of their ids: slots are reused, ids are not, and order reaches the disk. */
static struct tree *tree_after(const struct compaction_schedule *schedule, uint32_t tree_id)
{
    struct tree *next = NULL;
    for (uint32_t i = 0; i < schedule->tree_count; i++) {
        struct tree *tree = &schedule->trees[i];
        if (tree->used && tree->shape.tree_id > tree_id &&
            (next == NULL || tree->shape.tree_id < next->shape.tree_id)) {
            next = tree;
        }
    }
    return next;
}

static bool plan_pass(struct compaction_schedule *schedule, int level, uint64_t op)
{
    for (struct tree *tree = tree_after(schedule, 0); tree != NULL;
         tree = tree_after(schedule, tree->shape.tree_id)) {
        if (tree->dropping) {
            continue;
        }
        bool planned = true;
        if (level == LEVEL_MEMORY) {
            if (tree->immutable_table.run_count == 0) {
                continue;
            }
            if (tree->spilling) {
                planned = plan_spill(schedule, tree, op);
            } else if (!tree->absorbing) {
                planned = plan_memory(schedule, tree, op);
            }
        } else {
            planned = plan_level(schedule, tree, (uint32_t)level, op);
        }
        if (!planned) {
            return false;
        }
    }
    return true;
}

bool compaction_half_bar_commence(struct compaction_schedule *schedule, bool even, uint64_t op)
{
    assert(!schedule->active);
    schedule->job_count = 0;
    schedule->jobs_finished = 0;
    schedule->released_used = 0;
    schedule->bytes_total = 0;
    schedule->even = even;
    if (!manifest_log_half_bar_commence(schedule->manifest_log)) {
        return false;
    }
    for (int level = even ? LEVEL_MEMORY : 0; level < LEVEL_COUNT - 1; level += 2) {
        if (!plan_pass(schedule, level, op)) {
            schedule->active = true; /* The jobs planned so far are given up. */
            compaction_half_bar_cancel(schedule);
            return false;
        }
    }
    for (struct tree *tree = tree_after(schedule, 0); tree != NULL;
         tree = tree_after(schedule, tree->shape.tree_id)) {
        if (tree->dropping) {
            plan_discard(schedule, tree, op);
        }
    }
    assert(schedule->job_count <= schedule->job_max);
    schedule->active = true;
    for (uint32_t i = 0; i < schedule->job_count; i++) {
        struct compaction_job *job = &schedule->jobs[i];
        schedule->bytes_total += job->bytes_total;
        if (schedule->workers->thread_count > 0 && job->kind != COMPACTION_KIND_MOVE) {
            workers_submit(schedule->workers, &job->job);
        }
    }
    return true;
}

bool compaction_progress(struct compaction_schedule *schedule, uint32_t numerator,
                         uint32_t denominator)
{
    assert(schedule->active);
    assert(numerator <= denominator);
    const uint64_t target = (uint64_t)((u128)schedule->bytes_total * numerator / denominator);
    uint64_t done = 0;
    for (uint32_t i = 0; i < schedule->job_count; i++) {
        struct compaction_job *job = &schedule->jobs[i];
        if (schedule->workers->thread_count == 0 && !compaction_job_done(job) &&
            (done < target || numerator == denominator)) {
            compaction_job_advance(job, numerator == denominator ? UINT64_MAX : target - done);
        }
        done += atomic_load_explicit(&job->bytes_done, memory_order_relaxed);
    }
    while (schedule->jobs_finished < schedule->job_count &&
           compaction_job_done(&schedule->jobs[schedule->jobs_finished])) {
        schedule->jobs_finished += 1;
    }
    /* The last beat also waits for jobs without bytes left: their tables must be closed. */
    return schedule->jobs_finished == schedule->job_count ||
           (numerator < denominator && done >= target);
}

/* ---- Joining -----------------------------------------------------------------------------------
 */

static void remove_table(struct compaction_schedule *schedule, struct tree *tree,
                         const struct table_info *table)
{
    tree_remove_table(tree, schedule->arena, schedule->nodes, schedule->versions, table);
    manifest_log_append(schedule->manifest_log, table, MANIFEST_EVENT_REMOVE);
}

static void insert_table(struct compaction_schedule *schedule, struct tree *tree,
                         const struct table_info *table, enum manifest_event event)
{
    tree_insert_table(tree, schedule->arena, schedule->nodes, schedule->versions, table);
    manifest_log_append(schedule->manifest_log, table, event);
}

static void join_source(struct compaction_schedule *schedule, struct compaction_job *job,
                        struct tree *tree)
{
    if (job->from_memory) {
        assert(tree->flushing);
        tree->flushing = false;
        tree_clear_immutable(tree, schedule->arena, schedule->nodes, schedule->versions);
        return;
    }
    if (!job->source_partial) {
        remove_table(schedule, tree, &job->source);
        return;
    }
    struct table_info rest = job->source;
    assert(job->source_values_used < rest.value_count);
    rest.key_min = job->source_next;
    rest.value_count -= job->source_values_used;
    rest.tombstone_count -= job->source_tombstones_used;
    tree_update_table(tree, schedule->arena, schedule->nodes, schedule->versions, &job->source,
                      &rest);
    manifest_log_append(schedule->manifest_log, &rest, MANIFEST_EVENT_UPDATE);
}

static void join(struct compaction_schedule *schedule, struct compaction_job *job,
                 struct tree *tree)
{
    const uint32_t nodes_free = schedule->nodes->free_count;
    if (job->kind == COMPACTION_KIND_MOVE) {
        /* One update at the new level, never remove and insert: replayed backwards, the table is
         * where it was last. */
        struct table_info moved = job->source;
        tree_remove_table(tree, schedule->arena, schedule->nodes, schedule->versions, &job->source);
        moved.level = job->level_target;
        insert_table(schedule, tree, &moved, MANIFEST_EVENT_UPDATE);
        schedule->moved_count += 1;
        assert(schedule->nodes->free_count + COMPACTION_NODE_MAX >= nodes_free);
        return;
    }
    if (job->kind == COMPACTION_KIND_SPILL) {
        /* In no level and no log: the checkpoint names it, and gives up its blocks. */
        assert(tree->spilling && job->output_count == 1);
        free_set_forfeit(schedule->free_set, &job->reservation);
        schedule->spilled_count += 1;
        return;
    }
    if (job->kind == COMPACTION_KIND_MERGE) {
        join_source(schedule, job, tree);
        schedule->merged_count += 1;
    }
    for (uint32_t i = job->target_count; i > 0; i--) {
        remove_table(schedule, tree, &job->targets[i - 1]);
    }
    for (uint32_t i = 0; i < job->output_count; i++) {
        insert_table(schedule, tree, &job->outputs[i], MANIFEST_EVENT_INSERT);
    }
    assert(schedule->nodes->free_count + COMPACTION_NODE_MAX >= nodes_free);
    for (uint32_t i = 0; i < job->released_count; i++) {
        free_set_release(schedule->free_set, job->released[i]);
    }
    free_set_forfeit(schedule->free_set, &job->reservation);
}

uint32_t compaction_nodes_needed(const struct compaction_schedule *schedule)
{
    assert(schedule->active);
    return schedule->job_count * COMPACTION_NODE_MAX;
}

enum status compaction_half_bar_complete(struct compaction_schedule *schedule,
                                         uint64_t *bad_address, uint32_t *bad_tree_id)
{
    assert(schedule->active);
    assert(schedule->jobs_finished == schedule->job_count);
    assert(schedule->nodes->free_count >= compaction_nodes_needed(schedule));
    for (uint32_t i = 0; i < schedule->job_count; i++) {
        const struct compaction_job *job = &schedule->jobs[i];
        if (job->kind != COMPACTION_KIND_MOVE && job->status != STATUS_OK) {
            *bad_address = job->bad_address;
            *bad_tree_id = job->shape.tree_id;
            return job->status;
        }
    }
    for (uint32_t i = 0; i < schedule->job_count; i++) {
        join(schedule, &schedule->jobs[i], schedule->job_trees[i]);
    }
    for (uint32_t i = 0; i < schedule->tree_count; i++) {
        const struct tree *tree = &schedule->trees[i];
        for (uint32_t level = 0; tree->used && level < LEVEL_COUNT; level++) {
            /* An odd level may be one above its limit until the second half has run. */
            assert(tree->levels[level].table_count <=
                   level_limit(level) + (!schedule->even && level % 2 == 1));
        }
    }
    schedule->active = false;
    schedule->half_bar_count += 1;
    return STATUS_OK;
}

const struct compaction_job *compaction_spill_next(const struct compaction_schedule *schedule,
                                                   uint32_t *position)
{
    assert(!schedule->active);
    while (*position < schedule->job_count) {
        const struct compaction_job *job = &schedule->jobs[*position];
        *position += 1;
        if (job->kind == COMPACTION_KIND_SPILL) {
            return job;
        }
    }
    return NULL;
}

void compaction_half_bar_cancel(struct compaction_schedule *schedule)
{
    assert(schedule->active);
    for (uint32_t i = 0; i < schedule->job_count; i++) {
        struct compaction_job *job = &schedule->jobs[i];
        schedule->job_trees[i]->flushing = false;
        if (job->kind != COMPACTION_KIND_MOVE) {
            free_set_forfeit(schedule->free_set, &job->reservation);
        }
    }
    schedule->active = false;
}

/* ---- Estimates ---------------------------------------------------------------------------------
 */

uint64_t compaction_debt(const struct compaction_schedule *schedule, bool purge)
{
    uint64_t debt = 0;
    for (uint32_t i = 0; i < schedule->tree_count; i++) {
        const struct tree *tree = &schedule->trees[i];
        if (!tree->used) {
            continue;
        }
        const uint64_t table_size = (uint64_t)tree->shape.value_count_max * tree->shape.value_size;
        if (tree->dropping) {
            debt += tree_table_count(tree) * table_size;
            debt += (uint64_t)(tree->mutable_table.run_count + tree->immutable_table.run_count) *
                    RUN_SEGMENT_SIZE;
            continue;
        }
        if (tree->mutable_table.tombstone_count + tree->immutable_table.tombstone_count > 0) {
            debt += (tree->mutable_table.value_count + tree->immutable_table.value_count) *
                    tree->shape.value_size;
        }
        for (uint32_t level = 0; level < LEVEL_COUNT - 1; level++) {
            const uint64_t count = tree->levels[level].table_count;
            const uint64_t limit = level_limit(level);
            const uint64_t excess = count >= limit ? count - limit + 1 : 0;
            const uint64_t due = purge ? tree->tombstone_any[level] : tree->tombstone_due[level];
            debt += max_u64(excess, due) * table_size;
        }
    }
    return debt;
}

/* Whether the memory table's merge into level 0 may leave a table that is due there. */
static bool memory_may_make_due(const struct tree *tree)
{
    if (tree->immutable_table.run_count == 0) {
        return false;
    }
    uint64_t tombstones = tree->immutable_table.tombstone_count;
    const struct manifest_level *level = &tree->levels[0];
    for (struct manifest_position position = manifest_level_first(level);
         manifest_level_at(level, position) != NULL;
         position = manifest_level_next(level, position)) { /* At most 9 tables. */
        tombstones += manifest_level_at(level, position)->tombstone_count;
    }
    return tombstones > 0;
}

static bool level_is_even_target(int level)
{
    return level % 2 != 0; /* -1 (memory), 1, 3, 5 */
}

static void needs_add(struct compaction_needs *needs, int level, uint64_t blocks)
{
    if (level_is_even_target(level)) {
        needs->even_blocks += blocks;
        needs->even_jobs += 1;
    } else {
        needs->odd_blocks += blocks;
        needs->odd_jobs += 1;
    }
}

struct compaction_needs compaction_needs(const struct compaction_schedule *schedule,
                                         bool odd_only_limits)
{
    struct compaction_needs needs = {0};
    for (uint32_t i = 0; i < schedule->tree_count; i++) {
        const struct tree *tree = &schedule->trees[i];
        if (!tree->used || tree->dropping) {
            continue;
        }
        const struct tree_shape *shape = &tree->shape;
        const uint64_t table = shape->value_count_max;
        /* Whether a level takes part as it is now; then its outputs, moved tables among them, may
         * be due in the level below, which has its turn in the same bar. */
        bool above = memory_may_make_due(tree);
        uint64_t brought = tree->immutable_table.value_count; /* from above, before its turn */
        for (int level = LEVEL_MEMORY; level < LEVEL_COUNT - 1; level++) {
            uint64_t source = brought;
            if (level >= 0) {
                const uint64_t values = tree->level_values[level];
                source = min_u64(values + brought, table);
                /* This bar's outputs can fill a level that is not at its limit yet. */
                const bool limits = odd_only_limits && !level_is_even_target(level);
                const bool full =
                    tree->levels[level].table_count + 2 >= level_limit((uint32_t)level);
                const bool now = full || (!limits && tree->tombstone_any[level] > 0);
                const bool needed = now || (!limits && above);
                above = now;
                brought = now ? min_u64(values, table) : 0;
                if (!needed) {
                    continue;
                }
            }
            /* A level is a target in one half and a source in the other: until its turn comes, what
             * a merge may find there does not grow. */
            const uint64_t targets =
                min_u64(tree->level_values[level + 1], COMPACTION_TARGET_MAX * table);
            if (source + targets > 0) {
                needs_add(
                    &needs, level,
                    compaction_output_blocks_max(schedule->geometry, shape, source + targets));
            }
        }
    }
    return needs;
}

static uint64_t tree_values(const struct tree *tree)
{
    uint64_t values = tree->mutable_table.value_count + tree->immutable_table.value_count;
    for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
        values += tree->level_values[level];
    }
    return values;
}

uint64_t compaction_blocks_settling(const struct compaction_schedule *schedule, uint32_t *jobs,
                                    uint64_t *blocks_shared)
{
    uint64_t blocks = 0;
    *jobs = 0;
    *blocks_shared = 0;
    for (uint32_t i = 0; i < schedule->tree_count; i++) {
        const struct tree *tree = &schedule->trees[i];
        const uint64_t values = tree->used && !tree->dropping ? tree_values(tree) : 0;
        if (values == 0) {
            continue;
        }
        const struct geometry *geometry = schedule->geometry;
        const struct tree_shape *shape = &tree->shape;
        uint32_t sources = 2; /* memory, level 0, and so on to the deepest level with tables */
        for (uint32_t level = 1; level < LEVEL_COUNT - 1; level++) {
            sources = tree->levels[level].table_count > 0 ? level + 2 : sources;
        }
        /* One half-bar's targets are the other's sources: so each value is at most once among the
         * targets of both, and each job adds a table. Each may end in partly filled blocks. */
        const uint64_t table = min_u64(shape->value_count_max, values);
        const uint64_t targets = min_u64(values, sources * COMPACTION_TARGET_MAX * table);
        blocks +=
            compaction_output_blocks_max(geometry, shape, targets + sources * table) + 4 * sources;
        *jobs += sources;
        if (tree_table_count(tree) > COMPACTION_TARGET_MAX) { /* Else none overlaps so many. */
            *blocks_shared += sources * compaction_output_blocks_max(geometry, shape, table);
        }
    }
    return blocks;
}

uint64_t compaction_blocks_in_memory(const struct compaction_schedule *schedule)
{
    uint64_t blocks = 0;
    for (uint32_t i = 0; i < schedule->tree_count; i++) {
        const struct tree *tree = &schedule->trees[i];
        if (tree->used && !tree->dropping) {
            blocks += compaction_output_blocks_max(schedule->geometry, &tree->shape,
                                                   tree->mutable_table.value_count +
                                                       tree->immutable_table.value_count);
        }
    }
    return blocks;
}
