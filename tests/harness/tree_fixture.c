#include "tests/harness/tree_fixture.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "pool/memory.h"

enum {
    GRID_BLOCKS = 1024,
    ARENA_SIZE = 64 * 1024 * 1024,
    RUN_COUNT = 1024,
    NODE_COUNT = 256,
};

static void must(enum status status)
{
    if (status != STATUS_OK) {
        abort();
    }
}

static void *must_acquire(uint64_t size)
{
    void *memory = memory_acquire(size);
    if (memory == NULL) {
        abort();
    }
    return memory;
}

void tree_fixture_init(struct tree_fixture *fixture, const struct geometry *geometry,
                       uint32_t cache_block_count)
{
    memset(fixture, 0, sizeof *fixture);
    fixture->geometry = *geometry;
    fixture->cache_block_count = cache_block_count;
    assert(geometry->block_count_max >= GRID_BLOCKS);
    sim_io_init(&fixture->sim,
                grid_zone_offset(geometry) + geometry->block_count_max * geometry->block_size);
    doorbell_init(&fixture->doorbell);
    must(workers_start(&fixture->workers, "grow", 0, 1));
    must(grid_format(&fixture->sim.io, geometry));
    must(grid_init(&fixture->grid, &fixture->sim.io, geometry, cache_block_count, &fixture->workers,
                   &fixture->doorbell));
    must(free_set_init(&fixture->free_set, geometry->block_count_max));
    must(run_arena_init(&fixture->arena, ARENA_SIZE, RUN_COUNT));
    must(node_pool_init(&fixture->nodes, NODE_COUNT));
    fixture->blocks_size = (TREE_FIXTURE_WINDOW + 3) * (uint64_t)geometry->block_size;
    fixture->blocks = must_acquire(fixture->blocks_size);
    fixture->scratch_size = table_builder_scratch_size(geometry);
    fixture->scratch = must_acquire(fixture->scratch_size);
}

void tree_fixture_deinit(struct tree_fixture *fixture)
{
    memory_release(fixture->scratch, fixture->scratch_size);
    memory_release(fixture->blocks, fixture->blocks_size);
    node_pool_deinit(&fixture->nodes);
    run_arena_deinit(&fixture->arena);
    free_set_deinit(&fixture->free_set);
    grid_deinit(&fixture->grid);
    workers_join(&fixture->workers);
    doorbell_deinit(&fixture->doorbell);
    sim_io_deinit(&fixture->sim);
}

void tree_fixture_forget(struct tree_fixture *fixture)
{
    grid_deinit(&fixture->grid);
    must(grid_init(&fixture->grid, &fixture->sim.io, &fixture->geometry, fixture->cache_block_count,
                   &fixture->workers, &fixture->doorbell));
}

/* Slots are reserved for blocks that do not exist, and never filled. Enough tries for the hash to
 * have met every shard many times more often than it has slots. */
void tree_fixture_crowd(struct tree_fixture *fixture)
{
    assert(fixture->crowd_count == 0);
    tree_fixture_forget(fixture);
    for (uint64_t i = 0; i < 32 * TREE_FIXTURE_CACHE_MAX; i++) {
        struct block_reference reference = {.address = fixture->geometry.block_count_max + 1 + i};
        memcpy(reference.checksum.bytes, &i, sizeof i);
        struct block_pin pin;
        uint8_t *buffer;
        if (block_cache_get(&fixture->grid.cache, &reference, &pin, &buffer) == BLOCK_CACHE_MISS) {
            assert(fixture->crowd_count < TREE_FIXTURE_CACHE_MAX);
            fixture->crowd[fixture->crowd_count++] = pin;
        }
    }
}

void tree_fixture_uncrowd(struct tree_fixture *fixture)
{
    for (uint32_t i = 0; i < fixture->crowd_count; i++) {
        block_cache_abandon(&fixture->grid.cache, &fixture->crowd[i]);
    }
    fixture->crowd_count = 0;
}

void tree_fixture_cut(struct tree_fixture *fixture, uint64_t block_count)
{
    assert(fixture->size_uncut == 0);
    tree_fixture_forget(fixture);
    must(grid_sync(&fixture->grid));
    fixture->size_uncut = fixture->sim.size;
    fixture->sim.size = fixture->grid.zone_offset + block_count * fixture->geometry.block_size;
    fixture->sim.size_durable = fixture->sim.size;
    assert(fixture->sim.size <= fixture->size_uncut);
}

void tree_fixture_restore(struct tree_fixture *fixture)
{
    assert(fixture->size_uncut > 0);
    fixture->sim.size = fixture->size_uncut;
    fixture->sim.size_durable = fixture->size_uncut;
    fixture->size_uncut = 0;
}

void tree_fixture_tree_init(struct tree_fixture *fixture, struct tree_fixture_tree *tree,
                            uint32_t tree_id, uint32_t key_size, uint32_t value_size,
                            enum filter_kind filter_kind)
{
    memset(tree, 0, sizeof *tree);
    for (uint32_t i = 0; i < LEVEL_COUNT; i++) {
        manifest_level_init(&tree->manifest.levels[i], tree->nodes[i], TREE_FIXTURE_NODE_MAX);
    }
    tree->manifest.reference_count = 1;
    tree->version = (struct tree_version){
        .reference_count = 1,
        .manifest = &tree->manifest,
        .shape =
            {
                .ops = values_ops_for(key_size, value_size),
                .tree_id = tree_id,
                .key_size = (uint16_t)key_size,
                .value_size = (uint16_t)value_size,
                .value_count_max = table_value_max(&fixture->geometry, key_size, value_size),
                .filter_kind = filter_kind,
            },
    };
}

void tree_fixture_tree_deinit(struct tree_fixture *fixture, struct tree_fixture_tree *tree)
{
    for (uint32_t i = 0; i < LEVEL_COUNT; i++) {
        manifest_level_clear(&tree->manifest.levels[i], &fixture->nodes);
    }
    for (uint32_t i = 0; i < tree->version.run_count; i++) {
        run_release(&fixture->arena, tree->version.runs[i]);
    }
    memset(tree, 0, sizeof *tree);
}

void tree_fixture_add_run(struct tree_fixture *fixture, struct tree_fixture_tree *tree,
                          const uint8_t *values, uint32_t count)
{
    struct tree_version *version = &tree->version;
    assert(version->run_count < 2 * TABLE_MEMORY_RUN_MAX);
    memmove(version->runs + 1, version->runs, version->run_count * sizeof version->runs[0]);
    version->runs[0] = run_build(&fixture->arena, &version->shape, values, count);
    version->run_count += 1;
}

/* The key of a value, as the manifest holds keys. */
static struct key table_key(const struct tree_shape *shape, const uint8_t *value)
{
    struct key key = {0};
    memcpy(key.bytes, value, shape->key_size);
    if (shape->key_size == shape->value_size) {
        key.bytes[shape->key_size - 8] &= 0x7F;
    }
    return key;
}

static void append_values(struct table_builder *builder, const uint8_t *values, uint32_t count,
                          uint32_t value_size)
{
    uint32_t done = 0;
    while (done < count) {
        uint32_t capacity = 0;
        uint8_t *space = table_builder_space(builder, &capacity);
        if (capacity == 0) {
            assert(!table_builder_table_full(builder));
            must(table_builder_block_finish(builder));
            continue;
        }
        const uint32_t piece = (uint32_t)min_u64(capacity, count - done);
        memcpy(space, values + (size_t)done * value_size, (size_t)piece * value_size);
        table_builder_appended(builder, piece);
        done += piece;
    }
}

void tree_fixture_add_tables(struct tree_fixture *fixture, struct tree_fixture_tree *tree,
                             uint32_t level, const uint8_t *values, uint32_t count,
                             uint32_t table_value_count, uint32_t hidden)
{
    const struct tree_shape *shape = &tree->version.shape;
    const struct geometry *geometry = &fixture->geometry;
    assert(count > 0 && level < LEVEL_COUNT);
    assert(table_value_count > 0 && table_value_count <= shape->value_count_max);
    assert(hidden < count && hidden < table_value_count);

    struct reservation reservation;
    const uint32_t table_count = (uint32_t)div_ceil(count, table_value_count);
    const uint32_t block_count =
        table_count *
        table_block_max(geometry, shape->key_size, shape->value_size, table_value_count);
    if (!free_set_reserve(&fixture->free_set, block_count, &reservation)) {
        abort();
    }
    uint8_t *spare = fixture->blocks + TREE_FIXTURE_WINDOW * (size_t)geometry->block_size;
    uint8_t *const blocks[3] = {spare, spare + geometry->block_size,
                                spare + 2 * (size_t)geometry->block_size};
    struct table_builder builder;
    grid_grow_ahead(&fixture->grid, fixture->free_set.address_max, 0);
    table_builder_init(&builder, geometry, &fixture->grid, shape, &reservation, 1, fixture->blocks,
                       TREE_FIXTURE_WINDOW, blocks, fixture->scratch);
    for (uint32_t done = 0; done < count;) {
        const uint32_t piece = (uint32_t)min_u64(table_value_count, count - done);
        append_values(&builder, values + (size_t)done * shape->value_size, piece,
                      shape->value_size);
        struct table_info info;
        must(table_builder_table_finish(&builder, &info));
        info.level = (uint8_t)level;
        info.snapshot_min = 1;
        if (done == 0 && hidden > 0) {
            info.key_min = table_key(shape, values + (size_t)hidden * shape->value_size);
        }
        manifest_level_insert(&tree->manifest.levels[level], &fixture->nodes, &info);
        done += piece;
    }
    must(table_builder_flush(&builder));
    free_set_forfeit(&fixture->free_set, &reservation);
}
