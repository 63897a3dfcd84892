/* Which grooves exist, with their trees and counters: what requests can read or change outside of
 * the trees.
 *
 * Tree and groove ids count up and are never reused, so no old block can be taken for a new tree's.
 * The state as of the *start of the last bar* goes into each checkpoint, because that bar is
 * replayed from the journal; catalog_encode is called at each bar's start for that reason.
 *
 * Encoded, little-endian:
 *   0 8 commit   8 8 timestamp   16 4 next_groove_id   20 4 next_tree_id   24 4 groove_count   28 4
 * zero then per groove, by id: 0 4 groove_id   4 4 flags (1 = dropping)   8 8 object_count 16 4
 * tree_count   20 4 * GROOVE_TREE_COUNT_MAX tree ids (object, id, indexes; unused: 0) 92 4 zero 96
 * 1960 struct groove_spec
 *
 * Forest thread only. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/lsm/tree.h"
#include "engine/schema.h"
#include "engine/version.h"
#include "pool/status.h"

enum {
    TREE_OBJECT = 0, /* positions in catalog_groove.trees */
    TREE_ID = 1,
    TREE_INDEX = 2, /* and up */
    CATALOG_HEADER_SIZE = 32,
    CATALOG_GROOVE_SIZE = 96 + 1960,
};

struct catalog_groove {
    bool used;
    bool dropping;
    bool forget_requested; /* the request that ends it is on its way; not state */
    uint32_t groove_id;
    uint64_t object_count;
    uint32_t tree_count; /* 2 + indexes */
    struct schema_object *schema;
    struct tree *trees[GROOVE_TREE_COUNT_MAX];
};

struct catalog {
    const struct geometry *geometry;
    struct tree *trees; /* [geometry->tree_count_max] slots, shared with the schedule */
    uint32_t node_max;
    struct catalog_groove *grooves; /* [groove_max] */
    uint32_t groove_max;
    struct schema_object *schemas; /* [schema_max] */
    struct schema_object *schema_free;
    uint32_t schema_max;
    uint32_t next_groove_id;
    uint32_t next_tree_id;
};

MUST_CHECK enum status catalog_init(struct catalog *catalog, const struct geometry *geometry,
                                    struct tree *trees, uint32_t node_max);
void catalog_deinit(struct catalog *catalog);

/* NULL: no such groove, or it is being dropped. */
struct catalog_groove *catalog_find(const struct catalog *catalog, uint32_t groove_id);
struct catalog_groove *catalog_find_name(const struct catalog *catalog, const char *name);
/* The groove with the lowest id above `groove_id`, dropping ones included; NULL at the end. */
struct catalog_groove *catalog_after(const struct catalog *catalog, uint32_t groove_id);

enum catalog_refusal {
    CATALOG_OK,
    CATALOG_EXISTS,
    CATALOG_BAD_SCHEMA,
    CATALOG_LIMIT,
};
/* Whether `spec` could be created now; `reason` says why not. */
enum catalog_refusal catalog_check(const struct catalog *catalog, const struct groove_spec *spec,
                                   char *reason, size_t reason_size);
/* Creates it; the same checks. *groove_id on OK. */
enum catalog_refusal catalog_create(struct catalog *catalog, const struct groove_spec *spec,
                                    uint32_t *groove_id, char *reason, size_t reason_size);
/* Marks it and its trees as dropping. */
void catalog_drop(struct catalog_groove *groove);
bool catalog_groove_is_empty(const struct catalog_groove *groove);
/* Ends a dropping groove whose trees are empty. */
void catalog_forget(struct catalog *catalog, struct catalog_groove *groove, struct run_arena *arena,
                    struct node_pool *nodes, struct tree_version_pool *versions);

struct tree *catalog_tree_for_id(const struct catalog *catalog, uint32_t tree_id);

void schema_object_release(struct catalog *catalog, struct schema_object *schema);

uint64_t catalog_encoded_size_max(const struct geometry *geometry);
/* Bytes of the catalog that `buffer` begins with; 0: not one. */
uint64_t catalog_encoded_size(const uint8_t *buffer, uint64_t size);
/* Returns the size. */
uint64_t catalog_encode(const struct catalog *catalog, uint64_t commit, uint64_t timestamp,
                        uint8_t *buffer);
/* Into an empty catalog. STATUS_CORRUPT: the bytes make no sense, `reason` says why. */
MUST_CHECK enum status catalog_decode(struct catalog *catalog, const uint8_t *buffer, uint64_t size,
                                      uint64_t *commit, uint64_t *timestamp, char *reason,
                                      size_t reason_size);
