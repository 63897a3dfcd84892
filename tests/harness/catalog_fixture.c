#include "tests/harness/catalog_fixture.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    ARENA_SIZE = 64 * 1024 * 1024,
    RUN_COUNT = 4096,
    NODE_COUNT = 64,
    TREE_VERSION_COUNT = 4 * CATALOG_FIXTURE_TREE_MAX,
};

static void must(enum status status)
{
    if (status != STATUS_OK) {
        abort();
    }
}

void catalog_fixture_init(struct catalog_fixture *fixture, const struct geometry *geometry)
{
    memset(fixture, 0, sizeof *fixture);
    fixture->geometry = *geometry;
    must(run_arena_init(&fixture->arena, ARENA_SIZE, RUN_COUNT));
    must(node_pool_init(&fixture->nodes, NODE_COUNT));
    must(tree_version_pool_init(&fixture->tree_versions, TREE_VERSION_COUNT, TREE_VERSION_COUNT,
                                CATALOG_FIXTURE_NODE_MAX * LEVEL_COUNT));
    for (uint32_t i = 0; i < CATALOG_FIXTURE_TREE_MAX; i++) {
        fixture->trees[i].level_nodes = &fixture->level_nodes[i][0][0];
    }
    must(catalog_init(&fixture->catalog, &fixture->geometry, fixture->trees,
                      CATALOG_FIXTURE_NODE_MAX));
}

static void forget_all(struct catalog_fixture *fixture)
{
    struct catalog *catalog = &fixture->catalog;
    for (struct catalog_groove *groove = catalog_after(catalog, 0); groove != NULL;
         groove = catalog_after(catalog, 0)) {
        catalog_forget(catalog, groove, &fixture->arena, &fixture->nodes, &fixture->tree_versions);
    }
    catalog_deinit(catalog);
}

void catalog_fixture_deinit(struct catalog_fixture *fixture)
{
    forget_all(fixture);
    tree_version_pool_deinit(&fixture->tree_versions);
    node_pool_deinit(&fixture->nodes);
    run_arena_deinit(&fixture->arena);
}

void catalog_fixture_clear(struct catalog_fixture *fixture)
{
    forget_all(fixture);
    must(catalog_init(&fixture->catalog, &fixture->geometry, fixture->trees,
                      CATALOG_FIXTURE_NODE_MAX));
}

void catalog_fixture_field(struct groove_spec *spec, const char *name, enum field_type type,
                           uint32_t size)
{
    assert(spec->field_count < FIELD_COUNT_MAX);
    struct field_spec *field = &spec->fields[spec->field_count];
    strncpy(field->name, name, NAME_SIZE - 1);
    field->type = (uint8_t)type;
    field->size = size;
    spec->field_count += 1;
}

void catalog_fixture_index(struct groove_spec *spec, const char *name, uint8_t field, uint8_t flags)
{
    assert(spec->index_count < INDEX_COUNT_MAX);
    struct index_spec *index = &spec->indexes[spec->index_count];
    strncpy(index->name, name, NAME_SIZE - 1);
    index->field_count = 1;
    index->flags = flags;
    index->fields[0] = field;
    spec->index_count += 1;
}

struct catalog_groove *catalog_fixture_create(struct catalog_fixture *fixture,
                                              const struct groove_spec *spec)
{
    uint32_t groove_id;
    char reason[256];
    if (catalog_create(&fixture->catalog, spec, &groove_id, reason, sizeof reason) != CATALOG_OK) {
        abort();
    }
    return catalog_find(&fixture->catalog, groove_id);
}

void catalog_fixture_version(struct catalog_fixture *fixture, struct version *version)
{
    version->groove_count = 0;
    for (struct catalog_groove *groove = catalog_after(&fixture->catalog, 0); groove != NULL;
         groove = catalog_after(&fixture->catalog, groove->groove_id)) {
        if (groove->dropping) {
            continue;
        }
        struct groove_version *to = &version->grooves[version->groove_count];
        *to = (struct groove_version){
            .groove_id = groove->groove_id,
            .object_count = groove->object_count,
            .schema = groove->schema,
        };
        for (uint32_t i = 0; i < groove->tree_count; i++) {
            struct tree_version *tree =
                tree_version_acquire(groove->trees[i], &fixture->tree_versions);
            if (i == TREE_OBJECT) {
                to->object_tree = tree;
            } else if (i == TREE_ID) {
                to->id_tree = tree;
            } else {
                to->index_trees[i - TREE_INDEX] = tree;
            }
        }
        version->groove_count += 1;
    }
}

static void tree_release(struct catalog_fixture *fixture, struct tree_version *tree)
{
    tree_version_release(tree, &fixture->arena, &fixture->nodes, &fixture->tree_versions);
}

void catalog_fixture_version_release(struct catalog_fixture *fixture, struct version *version)
{
    for (uint32_t i = 0; i < version->groove_count; i++) {
        struct groove_version *groove = &version->grooves[i];
        tree_release(fixture, groove->object_tree);
        tree_release(fixture, groove->id_tree);
        for (uint32_t k = 0; k < groove->schema->schema.spec.index_count; k++) {
            tree_release(fixture, groove->index_trees[k]);
        }
    }
    version->groove_count = 0;
}
