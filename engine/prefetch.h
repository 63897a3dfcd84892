/* Finds out, before a batch executes, all that execution will need to know: which of its ids exist,
 * the old objects of those that change, and who owns what it brings to unique indexes. The only I/O
 * of the write path; done by readers, in slices of sorted keys, on the version that the batch
 * before left. What a few keys need and memory holds is looked up by the forest thread itself.
 *
 *   events --sort by id--> entries (one per id) --slices--> readers: id tree, then object tree
 *          --sort by value--> owner lists -----------------------> index trees
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

enum {
    PREFETCH_SLICE_MAX = 16,
    PREFETCH_SLICE_KEYS_MIN = 256,
    /* Keys of a batch that are looked up in place, if all that it takes is in memory: some tens of
     * microseconds, which is what handing them to a reader and back would take. */
    PREFETCH_HERE_KEYS_MAX = 64,
};

struct prefetch_slice {
    struct job job; /* First member: run casts back. */
    struct prefetch *prefetch;
    const struct groove_version *groove;
    struct read_ticket *ticket; /* NULL: it may wait for blocks */
    struct owner_list *owners;  /* of the slice's group */
    uint32_t entry_first;       /* absolute index into batch.entries and the arrays below */
    uint32_t entry_count;
    uint32_t part, part_count; /* its share of each owner list: part of part_count */
    uint8_t *objects;          /* where this slice's old objects go */
    uint8_t *spare;            /* [3 * block_size] */
    enum status status;        /* OK; or REVOKED, while it waits for a reader */
    uint64_t bad_address;
    bool unreadable;    /* some block was not read, rather than damaged */
    bool owner_unknown; /* of some value */
};

struct prefetch {
    const struct geometry *geometry;
    struct grid *grid;
    struct workers *readers;
    struct doorbell *doorbell;

    struct batch *batch;
    const struct version *version;
    uint8_t *items;         /* [batch_event_max * 24] (id, event) to sort */
    uint8_t *items_scratch; /* [batch_event_max * 32] for these sorts and those of owner lists */
    uint8_t *id_values;     /* [batch_event_max * ID_VALUE_SIZE] */
    uint8_t *outcomes;      /* [batch_event_max] */
    uint8_t *object_keys;   /* [batch_event_max * 16] (timestamp, entry) to sort */
    uint8_t *object_keys_scratch;
    uint8_t *objects; /* [objects_size] */
    uint64_t objects_size;
    uint8_t *owners;         /* [batch_event_max * INDEX_COUNT_MAX * 32] entries of owner lists */
    uint32_t owner_count;    /* entries of all lists of the batch */
    uint8_t *owner_outcomes; /* [batch_event_max * INDEX_COUNT_MAX] */
    uint8_t *spares;         /* [PREFETCH_SLICE_MAX * 3 * block_size] */
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
/* True once everything is known: then batch.entries and the owner lists are complete, and damaged
 * entries are marked; those, too, that some event wants to give a value whose owner is unknown.
 * *bad_address is set to a block that is to blame; STATUS_IO through *status: not all of them were
 * damaged, some could not be read. */
bool prefetch_done(struct prefetch *prefetch, enum status *status, uint64_t *bad_address);
