#include "engine/lsm/spill.h"

#include <assert.h>
#include <string.h>

#include "pool/base.h"

enum { TABLE_BLOCK_COUNT_MIN = 3 }; /* index, value, filter */

uint64_t spill_size_max(const struct geometry *geometry)
{
    return geometry->tree_count_max * sizeof(struct spill_entry);
}

/* As keys stand in a table_info: no longer than the tree's, and without a tombstone's bit. */
static bool key_fits(const struct tree_shape *shape, const struct key *key)
{
    static const uint8_t zeros[KEY_SIZE_MAX];
    const uint32_t key_size = shape->key_size;
    return memcmp(key->bytes + key_size, zeros, KEY_SIZE_MAX - key_size) == 0 &&
           (shape->value_size > key_size || (key->bytes[key_size - 8] & 0x80) == 0);
}

const char *spill_entry_problem(const struct geometry *geometry, const struct tree_shape *shape,
                                uint32_t bar_value_max, uint64_t op,
                                const struct spill_entry *entry)
{
    static const uint8_t zeros[sizeof entry->table.zero];
    const struct table_info *table = &entry->table;
    assert(table->tree_id == shape->tree_id);
    if (table->level != 0 || table->event != 0 || table->snapshot_min != op + 1 ||
        memcmp(table->zero, zeros, sizeof zeros) != 0) {
        return "it is not as a checkpoint leaves it";
    }
    if (table->index.address - 1 >= geometry->block_count_max) { /* 0 wraps around: too large. */
        return "its address is outside of the grid";
    }
    if (!key_fits(shape, &table->key_min) || !key_fits(shape, &table->key_max) ||
        shape->ops->compare(table->key_min.bytes, table->key_max.bytes, shape->value_size) > 0) {
        return "its keys make no sense";
    }
    if (table->value_count == 0 || table->tombstone_count > table->value_count ||
        table->block_count < TABLE_BLOCK_COUNT_MIN) {
        return "it is of an impossible size";
    }
    if (entry->value_count < table->value_count || entry->value_count > bar_value_max / 2 ||
        entry->tombstone_count < table->tombstone_count ||
        entry->value_count - table->value_count < entry->tombstone_count - table->tombstone_count) {
        return "its counts are not those of a small memory table";
    }
    return NULL;
}

struct spill_reader {
    const struct geometry *geometry;
    const struct tree_shape *shape;
    const struct spill_entry *entry;
    struct table_index index;
    struct run_arena *arena;
    struct run *run;
};

static enum status read_index(struct spill_reader *reader, struct grid *grid, uint8_t *block)
{
    const struct table_info *table = &reader->entry->table;
    enum status status = grid_read_block(grid, &table->index, BLOCK_TYPE_INDEX, block);
    if (status == STATUS_OK) {
        status = table_index_decode(reader->geometry, reader->shape, block, &reader->index);
    }
    if (status != STATUS_OK) {
        return status;
    }
    const struct table_index *index = &reader->index;
    return 1 + index->value_block_count + index->filter_block_count == table->block_count &&
                   index->value_count == table->value_count &&
                   index->tombstone_count == table->tombstone_count
               ? STATUS_OK
               : STATUS_CORRUPT;
}

/* Behind what the run has already. */
static enum status append_block(struct spill_reader *reader, uint32_t block_index,
                                const uint8_t *block)
{
    const struct tree_shape *shape = reader->shape;
    const uint8_t *values = block_body_const(block);
    struct run *run = reader->run;
    uint32_t count = 0;
    const enum status status = table_value_block_decode(reader->geometry, shape, block, &count);
    if (status != STATUS_OK) {
        return status;
    }
    const uint8_t *last = run->value_count > 0 ? run_value(run, run->value_count - 1) : NULL;
    if (count > reader->entry->table.value_count - run->value_count ||
        !shape->ops->verify(values, count, shape->value_size) ||
        shape->ops->compare(values,
                            reader->index.first_keys + (size_t)block_index * shape->key_size,
                            shape->value_size) != 0 ||
        (last != NULL && shape->ops->compare(last, values, shape->value_size) >= 0)) {
        return STATUS_CORRUPT;
    }
    run_append(reader->arena, run, shape, values, count);
    return STATUS_OK;
}

/* All values are in: they are as many as the entry says, from its first key to its last. */
static bool run_fits(const struct spill_reader *reader)
{
    const struct tree_shape *shape = reader->shape;
    const struct table_info *table = &reader->entry->table;
    const struct run *run = reader->run;
    return run->value_count == table->value_count &&
           run->tombstone_count == table->tombstone_count &&
           shape->ops->compare(run_value(run, 0), table->key_min.bytes, shape->value_size) == 0 &&
           shape->ops->compare(run_value(run, run->value_count - 1), table->key_max.bytes,
                               shape->value_size) == 0;
}

static enum status read_values(struct spill_reader *reader, struct grid *grid, uint8_t *block,
                               uint64_t *bad_address)
{
    for (uint32_t i = 0; i < reader->index.value_block_count; i++) {
        const struct block_reference reference = table_index_value_reference(&reader->index, i);
        enum status status = grid_read_block(grid, &reference, BLOCK_TYPE_VALUE, block);
        if (status == STATUS_OK) {
            status = append_block(reader, i, block);
        }
        if (status != STATUS_OK) {
            *bad_address = reference.address;
            return status;
        }
    }
    return run_fits(reader) ? STATUS_OK : STATUS_CORRUPT;
}

static bool visit_blocks(const struct spill_reader *reader,
                         bool (*visit)(void *context, uint64_t address), void *context,
                         uint64_t *bad_address)
{
    const struct table_index *index = &reader->index;
    *bad_address = reader->entry->table.index.address;
    bool accepted = visit(context, *bad_address);
    for (uint32_t i = 0; accepted && i < index->value_block_count; i++) {
        *bad_address = table_index_value_reference(index, i).address;
        accepted = visit(context, *bad_address);
    }
    for (uint32_t i = 0; accepted && i < index->filter_block_count; i++) {
        *bad_address = table_index_filter_reference(index, i).address;
        accepted = visit(context, *bad_address);
    }
    return accepted;
}

enum status spill_load(const struct geometry *geometry, struct grid *grid,
                       const struct tree_shape *shape, const struct spill_entry *entry,
                       uint8_t *blocks, struct run_arena *arena,
                       bool (*visit)(void *context, uint64_t address), void *context,
                       struct run **run, uint64_t *bad_address)
{
    struct spill_reader reader = {
        .geometry = geometry,
        .shape = shape,
        .entry = entry,
        .arena = arena,
    };
    *run = NULL;
    *bad_address = entry->table.index.address;
    enum status status = read_index(&reader, grid, blocks);
    if (status != STATUS_OK) {
        return status;
    }
    if (visit != NULL && !visit_blocks(&reader, visit, context, bad_address)) {
        return STATUS_CORRUPT;
    }
    *bad_address = entry->table.index.address;
    if (!run_arena_has_room(arena, entry->table.value_count, shape->value_size, 1)) {
        return STATUS_NO_MEMORY;
    }
    reader.run = run_begin(arena, shape);
    status = read_values(&reader, grid, blocks + geometry->block_size, bad_address);
    if (status != STATUS_OK) {
        run_release(arena, reader.run);
        return status;
    }
    run_end(arena, reader.run, shape);
    *run = reader.run;
    return STATUS_OK;
}
