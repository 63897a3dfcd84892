/* What of a forest is in memory: a catalog, its trees, and the pools that they live on. No disk, no
 * threads. Everything aborts when it cannot be done. */
#pragma once

#include "engine/catalog.h"
#include "engine/groove.h"
#include "engine/version.h"

enum { CATALOG_FIXTURE_TREE_MAX = TREE_COUNT_LIMIT, CATALOG_FIXTURE_NODE_MAX = 8 };

struct catalog_fixture {
    struct geometry geometry;
    struct run_arena arena;
    struct node_pool nodes;
    struct tree_version_pool tree_versions;
    struct tree trees[CATALOG_FIXTURE_TREE_MAX]; /* [geometry.tree_count_max] */
    struct manifest_node
        *level_nodes[CATALOG_FIXTURE_TREE_MAX][LEVEL_COUNT][CATALOG_FIXTURE_NODE_MAX];
    struct catalog catalog;
};

void catalog_fixture_init(struct catalog_fixture *fixture, const struct geometry *geometry);
/* Drops and forgets every groove; asserts that all memory came back. */
void catalog_fixture_deinit(struct catalog_fixture *fixture);
/* An empty catalog on empty trees, as after catalog_fixture_init. */
void catalog_fixture_clear(struct catalog_fixture *fixture);

void catalog_fixture_field(struct groove_spec *spec, const char *name, enum field_type type,
                           uint32_t size);
/* An index on one field, by its position. */
void catalog_fixture_index(struct groove_spec *spec, const char *name, uint8_t field,
                           uint8_t flags);
/* Creates it and gives the groove. */
struct catalog_groove *catalog_fixture_create(struct catalog_fixture *fixture,
                                              const struct groove_spec *spec);

/* Fills `version` with the grooves as they are. */
void catalog_fixture_version(struct catalog_fixture *fixture, struct version *version);
void catalog_fixture_version_release(struct catalog_fixture *fixture, struct version *version);
