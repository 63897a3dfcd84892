/* Finds out, before a batch executes, all that execution will need to know: which of its ids exist,
 * and the old objects of those that change. The only I/O of the write path; done by readers, in
 * slices of sorted ids, on the version that the batch before left.
 *
 *   events --sort by id--> entries (one per id) --slices--> readers: id tree, then object tree
 *
 * The forest thread owns everything until prefetch_submit, and again once prefetch_done. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/batch.h"
#include "engine/lsm/lookup.h"
#include "engine/version.h"
#include "pool/doorbell.h"
#include "pool/workers.h"

enum { PREFETCH_SLICE_MAX = 16, PREFETCH_SLICE_KEYS_MIN = 256 };

struct prefetch_slice {
    struct job job; /* First member: run casts back. */
    struct prefetch *prefetch;
    const struct batch_group *group;
    const struct groove_version *groove;
    uint32_t entry_first; /* absolute index into batch.entries and the arrays below */
    uint32_t entry_count;
    uint8_t *objects; /* where this slice's old objects go */
    uint8_t *spare;   /* [3 * block_size] */
    enum status status;
    uint64_t bad_address;
};

struct prefetch {
    const struct geometry *geometry;
    struct grid *grid;
    struct workers *readers;
    struct doorbell *doorbell;

    struct batch *batch;
    const struct version *version;
    uint8_t *items;         /* [batch_event_max * 24] (id, event) to sort */
    uint8_t *items_scratch; /* the same, for the sort */
    uint8_t *id_values;     /* [batch_event_max * ID_VALUE_SIZE] */
    uint8_t *outcomes;      /* [batch_event_max] */
    uint8_t *object_keys;   /* [batch_event_max * 16] (timestamp, entry) to sort */
    uint8_t *object_keys_scratch;
    uint8_t *objects; /* [objects_size] */
    uint64_t objects_size;
    uint8_t *spares; /* [PREFETCH_SLICE_MAX * 3 * block_size] */
    struct prefetch_slice slices[PREFETCH_SLICE_MAX];
    uint32_t slice_count;
    _Atomic uint32_t slices_left; /* release by readers, acquire by prefetch_done */
    bool active;
};

uint64_t prefetch_memory_size(const struct geometry *geometry);
MUST_CHECK enum status prefetch_init(struct prefetch *prefetch, const struct geometry *geometry,
                                     struct grid *grid, struct workers *readers,
                                     struct doorbell *doorbell);
void prefetch_deinit(struct prefetch *prefetch);

/* `batch` is resolved; `version` is the newest, pinned by the caller until done. */
void prefetch_submit(struct prefetch *prefetch, struct batch *batch, const struct version *version);
/* True once everything is known: then batch.entries is complete, and damaged entries are marked.
 * STATUS_IO through *status: reading failed. */
bool prefetch_done(struct prefetch *prefetch, enum status *status, uint64_t *bad_address);
