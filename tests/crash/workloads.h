/* What is done to a file while every write and sync is recorded, to be crashed everywhere. */
#pragma once

#include "tests/harness/disk_image.h"
#include "tests/harness/object_model.h"

enum { WORKLOAD_LENGTH_MAX = 3, WORKLOAD_SECTOR_MAX = 16 * 1024, WORKLOAD_EVENT_MAX = 64 * 1024 };

/* One that was recorded. */
struct workload {
    char name[120];
    const struct trace *trace;
    const struct model *model; /* of all that was asked for, and answered */
    uint64_t now_ns;           /* when it ended */
    uint32_t lookup_stride;    /* how closely its states are looked at */
};

/* Makes the files that short workloads begin with. `store` is borrowed for good. */
void workloads_init(struct model_store *store, uint64_t seed);

/* All workloads of up to `length` steps, on each starting file; of the longest, those in which
 * sessions come or go first, if they do. Each is valid during its call. */
void workloads_short(uint32_t length, void (*crash)(const struct workload *workload));

/* Fills until three levels are in use; on the way updates, removes, idles, makes and drops a
 * groove, opens, closes and evicts sessions, is stopped and killed. On one thread; or with threads,
 * and a slow grid, so that journal entries go by while a checkpoint is written. */
void workload_long(struct workload *workload, uint32_t batch_count, bool threads);
