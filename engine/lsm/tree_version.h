/* What one tree holds, frozen: for readers, and for the writer's own prefetch. */
#pragma once

#include "engine/lsm/manifest_level.h"
#include "engine/lsm/run.h"
#include "engine/lsm/table_memory.h"
#include "engine/lsm/tree_shape.h"

/* The tables of all levels; shared by the tree_versions between two changes of the manifest. */
struct manifest_version {
    uint32_t reference_count; /* forest thread only */
    struct manifest_version *free_next;
    struct manifest_level levels[LEVEL_COUNT];
    struct manifest_node **nodes; /* memory of all levels' node lists */
};

/* Immutable while referenced. Reference counts belong to the forest thread; others read only. */
struct tree_version {
    uint32_t reference_count;
    struct tree_version *free_next;
    struct tree_shape shape;
    struct run *runs[2 * TABLE_MEMORY_RUN_MAX]; /* newest first: mutable's, then immutable's */
    uint32_t run_count;
    struct manifest_version *manifest; /* below the runs: level 0 is newer than level 1, ... */
};
