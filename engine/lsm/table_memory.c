#include "engine/lsm/table_memory.h"

#include <assert.h>
#include <string.h>

enum { MERGE_FRACTION = 32 }; /* runs grow by merging up to 1/32 of a table */

static void assert_invariants(const struct table_memory *table)
{
    assert(table->run_count <= TABLE_MEMORY_RUN_MAX);
    assert(table->tombstone_count <= table->value_count);
    if (VERIFY) {
        uint64_t value_count = 0;
        uint64_t tombstone_count = 0;
        for (uint32_t i = 0; i < table->run_count; i++) {
            assert(table->runs[i]->reference_count > 0);
            value_count += table->runs[i]->value_count;
            tombstone_count += table->runs[i]->tombstone_count;
        }
        assert(table->value_count >= value_count);
        assert(table->tombstone_count >= tombstone_count);
    }
}

/* Merges runs[index] and runs[index + 1] into one. */
static void merge_neighbours(struct table_memory *table, struct run_arena *arena,
                             const struct tree_shape *shape, uint32_t index)
{
    assert(index + 1 < table->run_count);
    struct run *older = table->runs[index];
    struct run *newer = table->runs[index + 1];
    struct run *merged = run_merge(arena, shape, newer, older);

    run_release(arena, older);
    run_release(arena, newer);

    table->runs[index] = merged;
    table->run_count -= 1;
    memmove(&table->runs[index + 1], &table->runs[index + 2],
            (table->run_count - index - 1) * sizeof(struct run *));
    table->runs[table->run_count] = NULL;
}

static uint64_t neighbours_value_count(const struct table_memory *table, uint32_t index)
{
    return table->runs[index]->value_count + table->runs[index + 1]->value_count;
}

/* A merge needs room for its output beside its inputs, which readers may keep, and beside what is
 * promised to the batch; when the arena is that full, the runs stay as they are. */
static bool may_merge(const struct table_memory *table, const struct run_arena *arena,
                      const struct tree_shape *shape, uint32_t index)
{
    const uint64_t value_count = neighbours_value_count(table, index);
    return arena->free_run_count > arena->promised_run_count &&
           arena->free_segment_count >= arena->promised_segment_count +
                                            run_arena_segments(value_count, shape->value_size, 1);
}

/* Whether the newest run and the one before it are due: alike in size (so each value is merged
 * log(n) times at most), and small. */
static bool merge_is_due(const struct table_memory *table, const struct run_arena *arena,
                         const struct tree_shape *shape)
{
    if (table->run_count < 2) {
        return false;
    }
    const uint32_t last = table->run_count - 1;
    return table->runs[last - 1]->value_count < 2 * table->runs[last]->value_count &&
           neighbours_value_count(table, last - 1) <= shape->value_count_max / MERGE_FRACTION &&
           may_merge(table, arena, shape, last - 1);
}

static uint32_t smallest_neighbours(const struct table_memory *table)
{
    assert(table->run_count >= 2);
    uint32_t smallest = 0;
    for (uint32_t i = 1; i + 1 < table->run_count; i++) {
        if (neighbours_value_count(table, i) < neighbours_value_count(table, smallest)) {
            smallest = i;
        }
    }
    return smallest;
}

static bool has_too_many_runs(const struct table_memory *table, const struct tree_shape *shape)
{
    return table->run_count >
           TABLE_MEMORY_RUN_SPARE + table->value_count * shape->value_size / TABLE_MEMORY_RUN_BYTES;
}

bool table_memory_merge_smallest(struct table_memory *table, struct run_arena *arena,
                                 const struct tree_shape *shape)
{
    const uint32_t smallest = smallest_neighbours(table);
    if (!run_arena_has_room(arena, neighbours_value_count(table, smallest), shape->value_size, 1)) {
        return false;
    }
    merge_neighbours(table, arena, shape, smallest);
    return true;
}

/* Takes over the reference; the counts are the caller's. */
static void push(struct table_memory *table, struct run_arena *arena,
                 const struct tree_shape *shape, struct run *run)
{
    assert(run->value_count > 0);
    assert(run->value_size == shape->value_size);

    if (table->run_count == TABLE_MEMORY_RUN_MAX) {
        const bool merged = table_memory_merge_smallest(table, arena, shape);
        assert(merged); /* tree_has_room_for_run saw to it that there is room, or no need. */
        (void)merged;
    }
    table->runs[table->run_count] = run;
    table->run_count += 1;
    while (merge_is_due(table, arena, shape)) {
        merge_neighbours(table, arena, shape, table->run_count - 2);
    }
    while (has_too_many_runs(table, shape)) {
        const uint32_t smallest = smallest_neighbours(table);
        if (!may_merge(table, arena, shape, smallest)) {
            return;
        }
        merge_neighbours(table, arena, shape, smallest);
    }
}

void table_memory_add(struct table_memory *table, struct run_arena *arena,
                      const struct tree_shape *shape, struct run *run)
{
    assert_invariants(table);
    table->value_count += run->value_count;
    table->tombstone_count += run->tombstone_count;
    push(table, arena, shape, run);
    assert_invariants(table);
}

void table_memory_absorb(struct table_memory *older, struct table_memory *newer,
                         struct run_arena *arena, const struct tree_shape *shape)
{
    assert(older != newer);
    assert_invariants(older);
    assert_invariants(newer);
    older->value_count += newer->value_count;
    older->tombstone_count += newer->tombstone_count;
    for (uint32_t i = 0; i < newer->run_count; i++) {
        push(older, arena, shape, newer->runs[i]);
    }
    assert_invariants(older);
    *newer = (struct table_memory){0};
}

void table_memory_restore(struct table_memory *table, struct run *run, uint64_t value_count,
                          uint64_t tombstone_count)
{
    assert(table->run_count == 0);
    assert(table->value_count == 0);
    assert(run->value_count <= value_count);
    assert(run->tombstone_count <= tombstone_count);
    table->runs[0] = run;
    table->run_count = 1;
    table->value_count = value_count;
    table->tombstone_count = tombstone_count;
    assert_invariants(table);
}

void table_memory_clear(struct table_memory *table, struct run_arena *arena)
{
    assert_invariants(table);
    for (uint32_t i = 0; i < table->run_count; i++) {
        run_release(arena, table->runs[i]);
    }
    *table = (struct table_memory){0};
}
