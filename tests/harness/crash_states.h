/* What a disk may hold after a crash: from a trace of writes and syncs, image after image.
 *
 * After each event the unsynced writes may have reached the disk or not, in any combination; and
 * one or several may have arrived in part, in units of 4096, 512 or 64 bytes. All combinations are
 * made where there are few unsynced writes; else none, all, each one alone, all but one, and some
 * by chance. */
#pragma once

#include "tests/harness/disk_image.h"
#include "tests/harness/prng.h"

struct crash_state {
    const struct image *image; /* valid during the call */
    uint64_t event;      /* the last that had happened; event_count of the trace: before all */
    uint64_t commit_min; /* acknowledged before the next event */
    uint64_t commit_max; /* issued before this one */
    char what[160];      /* which writes had arrived */
};

struct crash_options {
    uint32_t all_max; /* unsynced writes of which all combinations are made */
    uint32_t one_max; /* unsynced writes of which each alone, and all but each, is made */
    uint32_t random;  /* combinations by chance */
    uint32_t torn;    /* images with a torn write; the others lost, kept, mixed, or torn, too */
    uint32_t stride;  /* one of so many events is taken, by chance; 1: all */
};

typedef void crash_visit(void *context, const struct crash_state *state);

/* `arena` keeps torn sectors during each call. Returns how many states were visited, equal ones
 * counted each time. */
uint64_t crash_states(const struct trace *trace, const struct crash_options *options,
                      struct prng *prng, struct sector_arena *arena, crash_visit *visit,
                      void *context);
