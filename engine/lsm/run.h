/* Runs: immutable sorted arrays of values in memory, made of segments from one arena that all trees
 * share. A memory table is a list of them.
 *
 *   run.directory[d] -> directory segment: [segment_size / 8] pointers -> value segments
 *
 * Segments are of one size, so the arena never fragments: room for n bytes is room for any run of
 * n bytes (plus one partly filled segment and its directory). Everything here belongs to the forest
 * thread, except reading: a run's values may be read by any thread that holds a version (or a job)
 * that the forest thread keeps referenced for it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/lsm/key.h"
#include "engine/lsm/tree_shape.h"
#include "engine/storage/limits.h"
#include "pool/status.h"

enum {
    RUN_SEGMENT_SIZE = 16384,
    RUN_DIRECTORY_COUNT = 16,
    RUN_SEGMENTS_PER_DIRECTORY = RUN_SEGMENT_SIZE / 8,
    RUN_FILTER_MAX = 8,          /* filter segments of one run */
    RUN_FILTER_VALUES_MIN = 256, /* below, a search costs no more than the filter */
    RUN_FILTER_VALUES = RUN_SEGMENT_SIZE * 8 / FILTER_BITS_PER_KEY, /* keys of one segment */
};

struct run {
    uint32_t reference_count; /* forest thread only */
    uint32_t values_per_segment;
    uint32_t value_size;
    uint32_t tombstone_count;
    uint64_t value_count;
    struct key key_min; /* key bytes only, zero padded; as the first and last values hold them */
    struct key key_max;
    uint8_t **directory[RUN_DIRECTORY_COUNT];
    /* Of trees that are searched by whole keys: a filter (filter.h), because a batch asks every run
     * for every one of its ids and nearly all are absent. */
    uint8_t *filters[RUN_FILTER_MAX];
    uint32_t filter_count;
    struct run *free_next;
};

struct run_arena {
    uint8_t *memory;        /* [segment_count * RUN_SEGMENT_SIZE] */
    uint8_t *free_segments; /* intrusive list through the first 8 bytes */
    struct run *runs;       /* [run_count_max] */
    struct run *free_runs;
    uint64_t segment_count;
    uint64_t fresh_segment; /* from here on never used, so never touched and in no list */
    uint64_t free_segment_count;
    uint64_t free_segment_count_min; /* low-water mark, for stat */
    uint32_t run_count_max;
    uint32_t free_run_count;
    /* Of what is free: kept for the runs of the batch that executes. Merges leave it alone. */
    uint64_t promised_segment_count;
    uint32_t promised_run_count;
};

MUST_CHECK enum status run_arena_init(struct run_arena *arena, uint64_t memory_size,
                                      uint32_t run_count_max);
/* Asserts that every run came back. */
void run_arena_deinit(struct run_arena *arena);

/* Segments that runs of `value_count` values in total, in at most `run_count` runs, take at most.
 */
uint64_t run_arena_segments(uint64_t value_count, uint32_t value_size, uint32_t run_count);
/* Whether runs of `value_count` values in total, in at most `run_count` runs, can be made now. */
bool run_arena_has_room(const struct run_arena *arena, uint64_t value_count, uint32_t value_size,
                        uint32_t run_count);

/* A run of `count` > 0 sorted, strictly ascending values (asserted under VERIFY), copied. One
 * reference. Room is the caller's contract (asserted). */
struct run *run_build(struct run_arena *arena, const struct tree_shape *shape,
                      const uint8_t *values, uint32_t count);
/* The same piece by piece: begin, any number of appends (sorted on, asserted under VERIFY at the
 * end), end. A run that is given up between them is released like any other. */
struct run *run_begin(struct run_arena *arena, const struct tree_shape *shape);
void run_append(struct run_arena *arena, struct run *run, const struct tree_shape *shape,
                const uint8_t *values, uint64_t count);
void run_end(struct run_arena *arena, struct run *run, const struct tree_shape *shape);
/* A run with all keys of both; `newer` wins. The inputs keep their references. One reference. */
struct run *run_merge(struct run_arena *arena, const struct tree_shape *shape,
                      const struct run *newer, const struct run *older);

void run_reference(struct run *run);
/* Drops one; at zero the segments return to the arena. */
void run_release(struct run_arena *arena, struct run *run);

/* Any thread, from here on. */
static inline const uint8_t *run_segment(const struct run *run, uint64_t segment_index)
{
    return run->directory[segment_index / RUN_SEGMENTS_PER_DIRECTORY]
                         [segment_index % RUN_SEGMENTS_PER_DIRECTORY];
}

static inline const uint8_t *run_value(const struct run *run, uint64_t index)
{
    return run_segment(run, index / run->values_per_segment) +
           (size_t)(index % run->values_per_segment) * run->value_size;
}

/* Whether the run may hold the key with this filter_hash. */
bool run_may_contain(const struct run *run, uint64_t hash);
/* That will be asked soon: memory is slower than asking. */
void run_touch(const struct run *run, uint64_t hash);

/* Values in memory from `index` on, to the end of its segment. index < value_count. */
const uint8_t *run_span(const struct run *run, uint64_t index, uint32_t *count);

/* Index of the first value whose key is not less than `key` (bare key bytes), or value_count.
 * `from` is where to start (values before it are known to be less): the search gallops from there,
 * so walking a sorted list of keys through a run costs little. */
uint64_t run_lower_bound(const struct run *run, const struct tree_shape *shape, const uint8_t *key,
                         uint64_t from);
