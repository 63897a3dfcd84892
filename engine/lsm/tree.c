#include "engine/lsm/tree.h"

#include <assert.h>
#include <string.h>

#include "pool/memory.h"

enum status tree_version_pool_init(struct tree_version_pool *pool, uint32_t tree_count,
                                   uint32_t manifest_count, uint32_t node_max)
{
    assert(tree_count > 0 && manifest_count > 0 && node_max > 0);

    *pool = (struct tree_version_pool){
        .tree_count = tree_count,
        .manifest_count = manifest_count,
        .node_max = node_max,
    };
    pool->trees = memory_acquire((size_t)tree_count * sizeof *pool->trees);
    pool->manifests = memory_acquire((size_t)manifest_count * sizeof *pool->manifests);
    pool->nodes =
        memory_acquire((size_t)manifest_count * node_max * sizeof(struct manifest_node *));
    if (pool->trees == NULL || pool->manifests == NULL || pool->nodes == NULL) {
        tree_version_pool_deinit(pool);
        return STATUS_NO_MEMORY;
    }
    for (uint32_t i = 0; i < tree_count; i++) {
        pool->trees[i].free_next = pool->tree_free;
        pool->tree_free = &pool->trees[i];
    }
    pool->tree_free_count = tree_count;
    for (uint32_t i = 0; i < manifest_count; i++) {
        pool->manifests[i].nodes = pool->nodes + (size_t)i * node_max;
        pool->manifests[i].free_next = pool->manifest_free;
        pool->manifest_free = &pool->manifests[i];
    }
    pool->manifest_free_count = manifest_count;
    return STATUS_OK;
}

void tree_version_pool_deinit(struct tree_version_pool *pool)
{
    if (pool->tree_free != NULL) {
        assert(pool->tree_free_count == pool->tree_count);
        assert(pool->manifest_free_count == pool->manifest_count);
    }
    memory_release(pool->trees, (size_t)pool->tree_count * sizeof *pool->trees);
    memory_release(pool->manifests, (size_t)pool->manifest_count * sizeof *pool->manifests);
    memory_release(pool->nodes,
                   (size_t)pool->manifest_count * pool->node_max * sizeof(struct manifest_node *));
    *pool = (struct tree_version_pool){0};
}

static void manifest_version_release(struct manifest_version *manifest, struct node_pool *nodes,
                                     struct tree_version_pool *versions)
{
    assert(manifest->reference_count > 0);
    manifest->reference_count -= 1;
    if (manifest->reference_count > 0) {
        return;
    }
    for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
        manifest_level_clear(&manifest->levels[level], nodes);
    }
    manifest->free_next = versions->manifest_free;
    versions->manifest_free = manifest;
    versions->manifest_free_count += 1;
}

static struct manifest_version *manifest_version_acquire(struct tree *tree,
                                                         struct tree_version_pool *versions)
{
    if (tree->manifest_version == NULL) {
        struct manifest_version *manifest = versions->manifest_free;
        assert(manifest != NULL); /* The forest checks for room before it commits. */
        versions->manifest_free = manifest->free_next;
        versions->manifest_free_count -= 1;
        manifest->reference_count = 1; /* The tree's own. */
        uint32_t used = 0;
        for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
            const uint32_t node_count = tree->levels[level].node_count;
            assert(used + node_count <= versions->node_max);
            manifest_level_init(&manifest->levels[level], manifest->nodes + used, node_count);
            manifest_level_share(&tree->levels[level], &manifest->levels[level]);
            used += node_count;
        }
        tree->manifest_version = manifest;
    }
    tree->manifest_version->reference_count += 1;
    return tree->manifest_version;
}

static void version_invalidate(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                               struct tree_version_pool *versions)
{
    if (tree->version != NULL) {
        tree_version_release(tree->version, arena, nodes, versions);
        tree->version = NULL;
    }
}

static void levels_changed(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                           struct tree_version_pool *versions)
{
    version_invalidate(tree, arena, nodes, versions);
    if (tree->manifest_version != NULL) {
        manifest_version_release(tree->manifest_version, nodes, versions);
        tree->manifest_version = NULL;
    }
}

void tree_init(struct tree *tree, const struct tree_shape *shape, uint32_t bar_value_max,
               uint32_t node_max)
{
    assert(!tree->used);
    assert(shape->tree_id > 0);
    assert(bar_value_max > 0 && bar_value_max < shape->value_count_max);

    struct manifest_node **level_nodes = tree->level_nodes;
    assert(level_nodes != NULL);
    *tree = (struct tree){
        .used = true,
        .shape = *shape,
        .bar_value_max = bar_value_max,
        .level_nodes = level_nodes,
    };
    for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
        manifest_level_init(&tree->levels[level], level_nodes + (size_t)level * node_max, node_max);
    }
}

void tree_deinit(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                 struct tree_version_pool *versions)
{
    assert(tree->used);
    assert(!tree->flushing);
    levels_changed(tree, arena, nodes, versions);
    table_memory_clear(&tree->mutable_table, arena);
    table_memory_clear(&tree->immutable_table, arena);
    for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
        manifest_level_clear(&tree->levels[level], nodes);
    }
    *tree = (struct tree){.level_nodes = tree->level_nodes};
}

bool tree_has_room_for_run(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                           struct tree_version_pool *versions)
{
    assert(tree->used);
    struct table_memory *mutable_table = &tree->mutable_table;
    struct table_memory *immutable_table = &tree->immutable_table;
    assert(!tree->absorbing || !tree->flushing); /* A job reads the runs that it writes. */
    for (;;) {
        const uint32_t absorbed = tree->absorbing ? immutable_table->run_count : 0;
        if (mutable_table->run_count + absorbed < TABLE_MEMORY_RUN_MAX) {
            return true;
        }
        version_invalidate(tree, arena, nodes, versions); /* It keeps the runs that are merged. */
        struct table_memory *table =
            absorbed > mutable_table->run_count ? immutable_table : mutable_table;
        if (!table_memory_merge_smallest(table, arena, &tree->shape)) {
            return false;
        }
    }
}

void tree_add_run(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                  struct tree_version_pool *versions, struct run *run)
{
    assert(tree->used);
    assert(!tree->dropping);
    version_invalidate(tree, arena, nodes, versions);
    table_memory_add(&tree->mutable_table, arena, &tree->shape, run);
    assert(tree->mutable_table.value_count <= tree->shape.value_count_max);
}

void tree_clear_immutable(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                          struct tree_version_pool *versions)
{
    version_invalidate(tree, arena, nodes, versions);
    table_memory_clear(&tree->immutable_table, arena);
}

void tree_clear_memory(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                       struct tree_version_pool *versions)
{
    tree_clear_immutable(tree, arena, nodes, versions);
    table_memory_clear(&tree->mutable_table, arena);
}

void tree_restore_immutable(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                            struct tree_version_pool *versions, struct run *run,
                            uint64_t value_count, uint64_t tombstone_count)
{
    assert(tree->used);
    assert(!tree->dropping);
    assert(value_count <= tree->shape.value_count_max);
    version_invalidate(tree, arena, nodes, versions);
    table_memory_restore(&tree->immutable_table, run, value_count, tombstone_count);
}

void tree_swap(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
               struct tree_version_pool *versions)
{
    assert(tree->used);
    assert(!tree->flushing);
    version_invalidate(tree, arena, nodes, versions);
    if (tree->absorbing) {
        table_memory_absorb(&tree->immutable_table, &tree->mutable_table, arena, &tree->shape);
        tree->absorbing = false;
        tree->spilling = false;
    } else {
        assert(!tree->spilling);
        assert(tree->immutable_table.run_count == 0);
        tree->immutable_table = tree->mutable_table;
        tree->mutable_table = (struct table_memory){0};
    }
    assert(tree->mutable_table.run_count == 0);
    assert(tree->immutable_table.value_count <= tree->shape.value_count_max);
}

bool table_tombstones_due(const struct table_info *table)
{
    return table->tombstone_count * 4 > table->value_count;
}

static void level_count_in(struct tree *tree, const struct table_info *table)
{
    tree->tombstone_due[table->level] += table_tombstones_due(table);
    tree->tombstone_any[table->level] += table->tombstone_count > 0;
    tree->level_values[table->level] += table->value_count;
}

static void level_count_out(struct tree *tree, const struct table_info *table)
{
    assert(tree->tombstone_due[table->level] >= table_tombstones_due(table));
    assert(tree->tombstone_any[table->level] >= (table->tombstone_count > 0));
    assert(tree->level_values[table->level] >= table->value_count);
    tree->tombstone_due[table->level] -= table_tombstones_due(table);
    tree->tombstone_any[table->level] -= table->tombstone_count > 0;
    tree->level_values[table->level] -= table->value_count;
}

void tree_insert_table(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                       struct tree_version_pool *versions, const struct table_info *table)
{
    assert(tree->used);
    assert(table->tree_id == tree->shape.tree_id);
    assert(table->level < LEVEL_COUNT);
    levels_changed(tree, arena, nodes, versions);
    manifest_level_insert(&tree->levels[table->level], nodes, table);
    level_count_in(tree, table);
}

void tree_remove_table(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                       struct tree_version_pool *versions, const struct table_info *table)
{
    assert(tree->used);
    assert(table->level < LEVEL_COUNT);
    levels_changed(tree, arena, nodes, versions);
    manifest_level_remove(&tree->levels[table->level], nodes, table);
    level_count_out(tree, table);
}

void tree_update_table(struct tree *tree, struct run_arena *arena, struct node_pool *nodes,
                       struct tree_version_pool *versions, const struct table_info *before,
                       const struct table_info *table)
{
    assert(tree->used);
    assert(table->level == before->level);
    assert(table->index.address == before->index.address);
    levels_changed(tree, arena, nodes, versions);
    manifest_level_update(&tree->levels[table->level], nodes, table);
    level_count_out(tree, before);
    level_count_in(tree, table);
}

uint64_t tree_table_count(const struct tree *tree)
{
    uint64_t count = 0;
    for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
        count += tree->levels[level].table_count;
    }
    return count;
}

bool tree_is_empty(const struct tree *tree)
{
    return tree_table_count(tree) == 0 && tree->mutable_table.run_count == 0 &&
           tree->immutable_table.run_count == 0;
}

static void version_append_runs(struct tree_version *version, const struct table_memory *table)
{
    for (uint32_t i = table->run_count; i > 0;
         i--) { /* Stored oldest first; wanted newest first. */
        struct run *run = table->runs[i - 1];
        run_reference(run);
        version->runs[version->run_count] = run;
        version->run_count += 1;
    }
}

struct tree_version *tree_version_acquire(struct tree *tree, struct tree_version_pool *versions)
{
    assert(tree->used);
    if (tree->version == NULL) {
        struct tree_version *version = versions->tree_free;
        assert(version != NULL); /* The forest checks for room before it commits. */
        versions->tree_free = version->free_next;
        versions->tree_free_count -= 1;
        version->reference_count = 1; /* The tree's own. */
        version->shape = tree->shape;
        version->run_count = 0;
        version_append_runs(version, &tree->mutable_table);
        version_append_runs(version, &tree->immutable_table);
        version->manifest = manifest_version_acquire(tree, versions);
        tree->version = version;
    }
    tree->version->reference_count += 1;
    return tree->version;
}

void tree_version_release(struct tree_version *version, struct run_arena *arena,
                          struct node_pool *nodes, struct tree_version_pool *versions)
{
    assert(version->reference_count > 0);
    version->reference_count -= 1;
    if (version->reference_count > 0) {
        return;
    }
    for (uint32_t i = 0; i < version->run_count; i++) {
        run_release(arena, version->runs[i]);
    }
    manifest_version_release(version->manifest, nodes, versions);
    version->run_count = 0;
    version->free_next = versions->tree_free;
    versions->tree_free = version;
    versions->tree_free_count += 1;
}
