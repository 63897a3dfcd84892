/* Runs one read request on one pinned version.
 *
 *   LOOKUP  ids ──sort──► id tree ──timestamps, sorted──► object tree ──► images, in request order
 *   QUERY   values ──prefix──► index tree, scanned ──timestamps──► object tree ──► images
 *   COUNT   the groove's own count, or the length of that scan
 *
 * An index that is not exact holds only the first bytes of its last field: what the scan finds is
 * compared with the object before it is given out or counted.
 *
 * Work goes in batches of keys, so the memory of a read is fixed however much it asks for. */
#pragma once

#include <stdint.h>

#include "engine/forest.h"
#include "engine/lsm/scan_tree.h"
#include "engine/storage/grid.h"
#include "engine/version.h"
#include "pool/status.h"

enum {
    /* Keys looked up at once: sorted together, they pass each block of a tree once. */
    READ_BATCH_MAX = 2048,
    /* Bytes for the objects of one batch: all of it for objects of 128 bytes, 64 of the largest. */
    READ_VALUES_SIZE = 256 * 1024,
};

/* Entries of the two lists that LOOKUP sorts. */
struct read_id {
    uint8_t id[16];    /* as the id tree's keys */
    uint64_t position; /* in the batch */
};

struct read_timestamp {
    uint8_t timestamp[8]; /* as the object tree's keys */
    uint64_t position;    /* of its image in the reply, counted from the batch's first */
};

/* All memory of one read slot. One read at a time. */
struct read_scratch {
    struct version_hold hold; /* on the version that is read; its ticket bounds the read */
    struct scan_tree scan;
    uint8_t *memory; /* [memory_size], owned; all that follows lies in it */
    uint64_t memory_size;
    uint8_t *scan_spare;   /* [LEVEL_COUNT * 3 * block_size] */
    uint8_t *lookup_spare; /* [3 * block_size] */
    struct read_id *ids;   /* [READ_BATCH_MAX] */
    struct read_id *ids_sort;
    uint8_t *id_values;                /* [READ_BATCH_MAX * ID_VALUE_SIZE] */
    struct read_timestamp *timestamps; /* [READ_BATCH_MAX] */
    struct read_timestamp *timestamps_sort;
    uint8_t *outcomes; /* [READ_BATCH_MAX] enum lookup_outcome */
    uint8_t *objects;  /* [READ_VALUES_SIZE] values of the object tree */

    uint32_t ids_done;    /* of a LOOKUP, so far */
    uint64_t bad_address; /* of the block that did not fit, when query_run said STATUS_STALE */
};

/* Bytes that read_scratch_init acquires, for the memory plan. */
uint64_t read_scratch_size(const struct geometry *geometry);
/* STATUS_NO_MEMORY: needs no deinit. */
MUST_CHECK enum status read_scratch_init(struct read_scratch *scratch,
                                         const struct geometry *geometry);
void read_scratch_deinit(struct read_scratch *scratch);

/* A reader's thread, or the forest's own. The caller keeps `version` pinned. Fills result, commit,
 * count, object_size, reply and reply_size; when the result is not OK, count and sizes are 0:
 *   MALFORMED       input of the wrong size, an id of zero
 *   TOO_BIG         LOOKUP of more ids than objects fit into a reply
 *   UNKNOWN_GROOVE, UNKNOWN_INDEX
 *   CORRUPT         two trees of the groove contradict each other
 * LOOKUP takes no index and no limit. QUERY and COUNT for zero on a sparse index find nothing.
 *
 * STATUS_STALE: a block was not what it should be (scratch->bad_address): reused under this
 * version, or damaged if the version is not behind the reuse horizon. STATUS_IO: reading failed.
 * STATUS_REVOKED, STATUS_BUDGET: as scratch->hold.ticket says; when revoked, the version may be
 * gone. In all these cases the request may be run again, on a newer version or on the same one.
 *
 * STATUS_YIELD: the ticket's slice is over. Either query_resume, with a new slice, goes on, or
 * query_abandon ends it. */
MUST_CHECK enum status query_run(const struct geometry *geometry, struct grid *grid,
                                 const struct version *version, struct read_request *request,
                                 struct read_scratch *scratch);
MUST_CHECK enum status query_resume(const struct geometry *geometry, struct grid *grid,
                                    const struct version *version, struct read_request *request,
                                    struct read_scratch *scratch);
void query_abandon(struct read_scratch *scratch);
