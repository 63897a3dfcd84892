#include "engine/lsm/run.h"

#include <assert.h>
#include <string.h>

#include "engine/lsm/filter.h"
#include "pool/base.h"
#include "pool/memory.h"

static_assert(RUN_SEGMENT_SIZE % sizeof(uint8_t *) == 0, "directories are whole");

enum status run_arena_init(struct run_arena *arena, uint64_t memory_size, uint32_t run_count_max)
{
    assert(run_count_max > 0);
    *arena = (struct run_arena){
        .segment_count = memory_size / RUN_SEGMENT_SIZE,
        .run_count_max = run_count_max,
    };
    assert(arena->segment_count > 0);
    arena->memory = memory_acquire(arena->segment_count * RUN_SEGMENT_SIZE);
    if (arena->memory == NULL) {
        return STATUS_NO_MEMORY;
    }
    arena->runs = memory_acquire(run_count_max * sizeof(struct run));
    if (arena->runs == NULL) {
        memory_release(arena->memory, arena->segment_count * RUN_SEGMENT_SIZE);
        *arena = (struct run_arena){0};
        return STATUS_NO_MEMORY;
    }

    for (uint32_t i = run_count_max; i > 0; i--) {
        arena->runs[i - 1].free_next = arena->free_runs;
        arena->free_runs = &arena->runs[i - 1];
    }
    arena->free_segment_count = arena->segment_count;
    arena->free_segment_count_min = arena->segment_count;
    arena->free_run_count = run_count_max;
    return STATUS_OK;
}

void run_arena_deinit(struct run_arena *arena)
{
    assert(arena->free_run_count == arena->run_count_max);
    assert(arena->free_segment_count == arena->segment_count);
    memory_release(arena->runs, arena->run_count_max * sizeof(struct run));
    memory_release(arena->memory, arena->segment_count * RUN_SEGMENT_SIZE);
    *arena = (struct run_arena){0};
}

uint64_t run_arena_segments(uint64_t value_count, uint32_t value_size, uint32_t run_count)
{
    assert(value_size > 0);
    assert(value_size <= RUN_SEGMENT_SIZE);
    const uint64_t used_run_count = min_u64(value_count, run_count);
    if (used_run_count == 0) {
        return 0;
    }
    /* The worst way to deal n things out to r boxes of size b, none empty: all but one box holds
     * one thing more than fills it. Of values to segments, then of segments to directories. */
    const uint64_t values_per_segment = RUN_SEGMENT_SIZE / value_size;
    const uint64_t segment_count =
        (value_count - used_run_count) / values_per_segment + used_run_count;
    const uint64_t directory_count =
        (segment_count - used_run_count) / RUN_SEGMENTS_PER_DIRECTORY + used_run_count;
    const uint64_t filter_count = value_count / RUN_FILTER_VALUES + used_run_count;
    return segment_count + directory_count + filter_count;
}

bool run_arena_has_room(const struct run_arena *arena, uint64_t value_count, uint32_t value_size,
                        uint32_t run_count)
{
    const uint64_t used_run_count = min_u64(value_count, run_count);
    if (used_run_count == 0) {
        return value_count == 0;
    }
    return used_run_count <= arena->free_run_count &&
           run_arena_segments(value_count, value_size, run_count) <= arena->free_segment_count;
}

static uint8_t *segment_acquire(struct run_arena *arena)
{
    assert(arena->free_segment_count > 0); /* run_arena_has_room said so */
    uint8_t *segment = arena->free_segments;
    if (segment != NULL) {
        memcpy(&arena->free_segments, segment, sizeof(uint8_t *));
    } else {
        assert(arena->fresh_segment < arena->segment_count);
        segment = arena->memory + arena->fresh_segment * RUN_SEGMENT_SIZE;
        arena->fresh_segment += 1;
    }
    arena->free_segment_count -= 1;
    if (arena->free_segment_count < arena->free_segment_count_min) {
        arena->free_segment_count_min = arena->free_segment_count;
    }
    return segment;
}

static void segment_release(struct run_arena *arena, uint8_t *segment)
{
    assert(segment >= arena->memory);
    assert(segment < arena->memory + arena->segment_count * RUN_SEGMENT_SIZE);
    assert((size_t)(segment - arena->memory) % RUN_SEGMENT_SIZE == 0);
    assert(arena->free_segment_count < arena->segment_count);
    memcpy(segment, &arena->free_segments, sizeof(uint8_t *));
    arena->free_segments = segment;
    arena->free_segment_count += 1;
}

static struct run *run_acquire(struct run_arena *arena, uint32_t value_size)
{
    assert(value_size > 0);
    assert(value_size <= RUN_SEGMENT_SIZE);
    struct run *run = arena->free_runs;
    assert(run != NULL); /* run_arena_has_room said so */
    assert(run->reference_count == 0);
    arena->free_runs = run->free_next;
    arena->free_run_count -= 1;
    *run = (struct run){
        .reference_count = 1,
        .values_per_segment = RUN_SEGMENT_SIZE / value_size,
        .value_size = value_size,
    };
    return run;
}

/* Where the run's next values go; *capacity > 0 of them fit. Adds a segment when all are full. */
static uint8_t *run_space(struct run_arena *arena, struct run *run, uint32_t *capacity)
{
    const uint64_t segment_index = run->value_count / run->values_per_segment;
    const uint32_t segment_used = (uint32_t)(run->value_count % run->values_per_segment);
    const uint64_t directory_index = segment_index / RUN_SEGMENTS_PER_DIRECTORY;
    const uint64_t slot = segment_index % RUN_SEGMENTS_PER_DIRECTORY;
    assert(directory_index < RUN_DIRECTORY_COUNT);

    if (segment_used == 0) {
        if (slot == 0) {
            assert(run->directory[directory_index] == NULL);
            run->directory[directory_index] = (uint8_t **)(void *)segment_acquire(arena);
        }
        run->directory[directory_index][slot] = segment_acquire(arena);
    }
    *capacity = run->values_per_segment - segment_used;
    return run->directory[directory_index][slot] + (size_t)segment_used * run->value_size;
}

/* `count` values were written where run_space said. */
static void run_appended(struct run *run, const struct tree_shape *shape, const uint8_t *values,
                         uint32_t count)
{
    run->value_count += count;
    run->tombstone_count += shape->ops->count_tombstones(values, count, run->value_size);
}

struct run *run_begin(struct run_arena *arena, const struct tree_shape *shape)
{
    return run_acquire(arena, shape->value_size);
}

void run_append(struct run_arena *arena, struct run *run, const struct tree_shape *shape,
                const uint8_t *values, uint64_t count)
{
    while (count > 0) {
        uint32_t capacity;
        uint8_t *space = run_space(arena, run, &capacity);
        const uint32_t step = (uint32_t)min_u64(capacity, count);
        memcpy(space, values, (size_t)step * run->value_size);
        run_appended(run, shape, space, step);
        values += (size_t)step * run->value_size;
        count -= step;
    }
}

/* Which of the run's filters a key belongs to: bits that filter_add does not use alike. */
static uint32_t filter_index(const struct run *run, uint64_t hash)
{
    const uint64_t mixed = (hash ^ (hash >> 29)) * 0x9E3779B97F4A7C15u >> 32;
    return (uint32_t)(mixed * run->filter_count >> 32);
}

bool run_may_contain(const struct run *run, uint64_t hash)
{
    return run->filter_count == 0 ||
           filter_may_contain(run->filters[filter_index(run, hash)], RUN_SEGMENT_SIZE, hash);
}

void run_touch(const struct run *run, uint64_t hash)
{
    if (run->filter_count > 0) {
        filter_touch(run->filters[filter_index(run, hash)], RUN_SEGMENT_SIZE, hash);
    }
}

static void build_filters(struct run_arena *arena, struct run *run, const struct tree_shape *shape)
{
    const uint64_t count = div_ceil(run->value_count, RUN_FILTER_VALUES);
    if (shape->filter_kind != FILTER_KIND_KEY || run->value_count < RUN_FILTER_VALUES_MIN ||
        count > RUN_FILTER_MAX || arena->free_segment_count < count) {
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        run->filters[i] = segment_acquire(arena);
        memset(run->filters[i], 0, RUN_SEGMENT_SIZE);
    }
    run->filter_count = (uint32_t)count;
    uint32_t span_count;
    for (uint64_t index = 0; index < run->value_count; index += span_count) {
        const uint8_t *value = run_span(run, index, &span_count);
        for (uint32_t i = 0; i < span_count; i++, value += run->value_size) {
            const uint64_t hash = filter_hash(value, shape->key_size);
            filter_add(run->filters[filter_index(run, hash)], RUN_SEGMENT_SIZE, hash);
        }
    }
}

void run_end(struct run_arena *arena, struct run *run, const struct tree_shape *shape)
{
    build_filters(arena, run, shape);
    assert(run->value_count > 0);
    assert(run->tombstone_count <= run->value_count);
    memcpy(run->key_min.bytes, run_value(run, 0), shape->key_size);
    memcpy(run->key_max.bytes, run_value(run, run->value_count - 1), shape->key_size);
    if (VERIFY) {
        uint32_t count;
        for (uint64_t index = 0; index < run->value_count; index += count) {
            const uint8_t *span = run_span(run, index, &count);
            assert(shape->ops->verify(span, count, run->value_size));
            assert(index == 0 ||
                   shape->ops->compare(run_value(run, index - 1), span, run->value_size) < 0);
        }
    }
}

struct run *run_build(struct run_arena *arena, const struct tree_shape *shape,
                      const uint8_t *values, uint32_t count)
{
    assert(count > 0);
    assert(run_arena_has_room(arena, count, shape->value_size, 1));
    struct run *run = run_begin(arena, shape);
    run_append(arena, run, shape, values, count);
    run_end(arena, run, shape);
    assert(run->value_count == count);
    return run;
}

struct run *run_merge(struct run_arena *arena, const struct tree_shape *shape,
                      const struct run *newer, const struct run *older)
{
    assert(newer != older);
    assert(newer->value_size == shape->value_size);
    assert(older->value_size == shape->value_size);
    struct run *run = run_begin(arena, shape);
    uint64_t newer_index = 0;
    uint64_t older_index = 0;

    while (newer_index < newer->value_count && older_index < older->value_count) {
        struct values_merge merge;
        merge.newer = run_span(newer, newer_index, &merge.newer_count);
        merge.older = run_span(older, older_index, &merge.older_count);
        merge.output = run_space(arena, run, &merge.output_capacity);
        shape->ops->merge(&merge, shape->value_size);
        assert(merge.output_count > 0);
        run_appended(run, shape, merge.output, merge.output_count);
        newer_index += merge.newer_used;
        older_index += merge.older_used;
    }
    while (newer_index < newer->value_count) {
        uint32_t count;
        const uint8_t *span = run_span(newer, newer_index, &count);
        run_append(arena, run, shape, span, count);
        newer_index += count;
    }
    while (older_index < older->value_count) {
        uint32_t count;
        const uint8_t *span = run_span(older, older_index, &count);
        run_append(arena, run, shape, span, count);
        older_index += count;
    }
    run_end(arena, run, shape);
    assert(run->value_count >= max_u64(newer->value_count, older->value_count));
    assert(run->value_count <= newer->value_count + older->value_count);
    return run;
}

void run_reference(struct run *run)
{
    assert(run->reference_count > 0);
    assert(run->reference_count < UINT32_MAX);
    run->reference_count += 1;
}

void run_release(struct run_arena *arena, struct run *run)
{
    assert(run >= arena->runs && run < arena->runs + arena->run_count_max);
    assert(run->reference_count > 0);
    run->reference_count -= 1;
    if (run->reference_count > 0) {
        return;
    }
    const uint64_t segment_count = div_ceil(run->value_count, run->values_per_segment);
    for (uint64_t i = 0; i < segment_count; i++) {
        segment_release(
            arena, run->directory[i / RUN_SEGMENTS_PER_DIRECTORY][i % RUN_SEGMENTS_PER_DIRECTORY]);
    }
    for (uint32_t i = 0; i < RUN_DIRECTORY_COUNT && run->directory[i] != NULL; i++) {
        segment_release(arena, (uint8_t *)run->directory[i]);
    }
    for (uint32_t i = 0; i < run->filter_count; i++) {
        segment_release(arena, run->filters[i]);
    }
    *run = (struct run){.free_next = arena->free_runs};
    arena->free_runs = run;
    arena->free_run_count += 1;
    assert(arena->free_run_count <= arena->run_count_max);
}

const uint8_t *run_span(const struct run *run, uint64_t index, uint32_t *count)
{
    assert(index < run->value_count);
    const uint32_t segment_used = (uint32_t)(index % run->values_per_segment);
    *count = (uint32_t)min_u64(run->values_per_segment - segment_used, run->value_count - index);
    return run_value(run, index);
}

uint64_t run_lower_bound(const struct run *run, const struct tree_shape *shape, const uint8_t *key,
                         uint64_t from)
{
    assert(from <= run->value_count);
    assert(run->value_size == shape->value_size);
    const struct values_ops *ops = shape->ops;
    const uint32_t value_size = run->value_size;

    /* Invariant: values before `low` are less than the key, those from `high` on are not. */
    uint64_t low = from;
    uint64_t high = run->value_count;
    for (uint64_t step = 1; low + step <= high; step *= 2) {
        const uint64_t probe = low + step - 1;
        if (ops->compare(run_value(run, probe), key, value_size) >= 0) {
            high = probe;
            break;
        }
        low = probe + 1;
    }
    if (low == high) {
        return low;
    }

    uint64_t segment_first = low / run->values_per_segment;
    uint64_t segment_last = (high - 1) / run->values_per_segment;
    while (segment_first < segment_last) {
        const uint64_t middle = segment_first + (segment_last - segment_first + 1) / 2;
        if (ops->compare(run_segment(run, middle), key, value_size) < 0) {
            segment_first = middle;
            low = middle * run->values_per_segment;
        } else {
            segment_last = middle - 1;
            high = middle * run->values_per_segment;
        }
    }
    assert(high - low <= run->values_per_segment);
    return low + ops->lower_bound(run_value(run, low), (uint32_t)(high - low), value_size, key);
}
