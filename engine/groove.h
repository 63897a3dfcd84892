/* Applies the events of one batch to one groove: objects, ids and index entries, in memory.
 *
 * The prefetch has found out what there is to know of every id of the batch, so nothing here does
 * I/O or fails: an event either applies or gets a result code. New values gather in one buffer per
 * tree, in time order; at the end each buffer is sorted, newest wins, and becomes a run of its
 * tree. An index changes only by difference: an entry is removed and put only if the key changed.
 *
 * Forest thread only. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/catalog.h"
#include "engine/event.h"
#include "engine/owner_list.h"

/* What is known of one id: first from the prefetch, then as the batch's own events change it. */
struct groove_entry {
    uint8_t key[16];       /* id, big-endian: as the id tree has it */
    const uint8_t *object; /* stored value, if exists and wanted; else NULL */
    uint64_t timestamp;    /* if exists */
    bool exists;
    bool wants_object; /* some event of the batch changes it, or asks for its version */
    bool damaged;      /* a block it depends on is damaged */
};

struct groove_write {
    struct catalog_groove *groove;
    uint32_t event_max;        /* events of this groove in the batch */
    struct owner_list *owners; /* [INDEX_COUNT_MAX], borrowed; used where the index is unique */
    struct {
        uint8_t *values; /* borrowed from the batch's arena */
        uint32_t count;
    } trees[GROOVE_TREE_COUNT_MAX];
};

/* Bytes that `event_count` events of this groove can need of the batch's arena. */
uint64_t groove_write_size(const struct groove_schema *schema, uint32_t event_count);

/* `memory` has groove_write_size() bytes. `owners` say who has what the events bring. */
void groove_write_begin(struct groove_write *write, struct catalog_groove *groove,
                        uint32_t event_count, struct owner_list *owners, uint8_t *memory);

/* `payload` is the object image, or the id of a remove or check. `timestamp` is the event's own. */
enum event_result groove_write_event(struct groove_write *write, enum event_type type,
                                     struct event_guard guard, const uint8_t *payload,
                                     struct groove_entry *entry, uint64_t timestamp);

/* How far a groove's events had come. */
struct groove_mark {
    uint32_t counts[GROOVE_TREE_COUNT_MAX]; /* of values, by tree */
    uint64_t object_count;
};
void groove_write_mark(const struct groove_write *write, struct groove_mark *mark);
/* As if no event had come after the mark; but the entries are the caller's to put back. */
void groove_write_undo(struct groove_write *write, const struct groove_mark *mark);

/* Sorts and hands the values to the trees. `scratch` is as large as the largest buffer. Returns the
 * bytes of entries added over all trees. */
uint64_t groove_write_finish(struct groove_write *write, uint8_t *scratch, struct run_arena *arena,
                             struct node_pool *nodes, struct tree_version_pool *versions);
