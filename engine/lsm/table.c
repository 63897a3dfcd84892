#include "engine/lsm/table.h"

#include <assert.h>
#include <string.h>

#include "engine/lsm/filter.h"
#include "pool/base.h"

/* What an index block's metadata holds. */
struct index_metadata {
    uint64_t value_count;
    uint64_t tombstone_count;
    uint32_t value_block_count;
    uint32_t filter_block_count;
    struct key key_max;
    uint8_t zero[16];
};
static_assert(sizeof(struct index_metadata) == 72, "fills the metadata of a header");
static_assert(sizeof(struct index_metadata) == sizeof(((struct block_header *)0)->metadata),
              "fills the metadata of a header");

/* Offsets of the arrays in an index block's body. */
struct index_layout {
    uint32_t value_checksums;
    uint32_t value_addresses;
    uint32_t first_keys;
    uint32_t filter_checksums;
    uint32_t filter_addresses;
    uint32_t end;
};

static struct index_layout index_layout(uint32_t value_block_count, uint32_t filter_block_count,
                                        uint32_t key_size)
{
    struct index_layout layout = {0};
    layout.value_addresses = layout.value_checksums + value_block_count * CHECKSUM_SIZE;
    layout.first_keys = layout.value_addresses + value_block_count * 8;
    layout.filter_checksums = layout.first_keys + value_block_count * key_size;
    layout.filter_addresses = layout.filter_checksums + filter_block_count * CHECKSUM_SIZE;
    layout.end = layout.filter_addresses + filter_block_count * 8;
    return layout;
}

/* Bytes of a filter: the body, in whole buckets. */
static uint32_t filter_size(const struct geometry *geometry)
{
    return block_body_size(geometry) / 32 * 32;
}

/* Copies the key of `value` without its tombstone bit. */
static void copy_key(const struct tree_shape *shape, uint8_t *target, const uint8_t *value)
{
    memcpy(target, value, shape->key_size);
    if (shape->value_size == shape->key_size) {
        target[values_tombstone_offset(shape->key_size, shape->value_size)] &= 0x7f;
    }
}

/* A put and a tombstone of one key hash alike. */
static uint64_t hash_key(const struct tree_shape *shape, const uint8_t *value)
{
    uint8_t key[KEY_SIZE_MAX];
    copy_key(shape, key, value);
    return filter_hash(key, tree_shape_filter_size(shape));
}

/* ---- Building ----------------------------------------------------------------------------------
 */

/* Most value blocks that an index block can address, whatever the shape: the narrowest key, filters
 * not counted. */
static uint64_t scratch_block_max(const struct geometry *geometry)
{
    return block_body_size(geometry) / (sizeof(struct block_reference) + 8);
}

uint64_t table_builder_scratch_size(const struct geometry *geometry)
{
    return scratch_block_max(geometry) * (2 * sizeof(struct block_reference) + KEY_SIZE_MAX);
}

static void start_table(struct table_builder *builder)
{
    builder->value_count = 0;
    builder->filter_value_blocks = 0;
    builder->filter_used = false;
    builder->value_block_count = 0;
    builder->filter_block_count = 0;
    builder->info = (struct table_info){.tree_id = builder->shape->tree_id};
}

void table_builder_init(struct table_builder *builder, const struct geometry *geometry,
                        struct grid *grid, const struct tree_shape *shape,
                        struct reservation *reservation, uint64_t op, uint8_t *window,
                        uint32_t window_block_count, uint8_t *const blocks[3], uint8_t *scratch)
{
    assert(window_block_count > 0);
    assert(shape->value_count_max > 0);
    assert(shape->value_count_max <= table_value_max(geometry, shape->key_size, shape->value_size));
    assert(tree_shape_filter_size(shape) > 0);
    const uint64_t block_max = scratch_block_max(geometry);
    assert(table_value_block_max(geometry, shape->key_size, shape->value_size) <= block_max);
    assert((uintptr_t)scratch % 8 == 0);

    *builder = (struct table_builder){
        .geometry = geometry,
        .grid = grid,
        .shape = shape,
        .reservation = reservation,
        .op = op,
        .window = window,
        .window_block_count = window_block_count,
        .index_block = blocks[0],
        .filter_block = blocks[1],
        .value_block = blocks[2],
        .values_per_block = table_values_per_block(geometry, shape->value_size),
        .value_blocks_per_filter = table_value_blocks_per_filter(geometry, shape->value_size),
        .value_references = (struct block_reference *)(void *)scratch,
        .filter_references = (struct block_reference *)(void *)scratch + block_max,
        .first_keys = scratch + 2 * block_max * sizeof(struct block_reference),
    };
    start_table(builder);
}

static void assert_invariants(const struct table_builder *builder)
{
    assert(builder->value_count <= builder->values_per_block);
    assert(builder->info.value_count + builder->value_count <= builder->shape->value_count_max);
    assert(builder->window_used <= builder->window_block_count);
    assert(builder->filter_value_blocks < builder->value_blocks_per_filter);
    assert(builder->filter_block_count * builder->value_blocks_per_filter +
               builder->filter_value_blocks ==
           builder->value_block_count);
}

uint8_t *table_builder_space(struct table_builder *builder, uint32_t *capacity)
{
    assert_invariants(builder);
    const uint64_t block_left = builder->values_per_block - builder->value_count;
    const uint64_t table_left =
        builder->shape->value_count_max - builder->info.value_count - builder->value_count;
    *capacity = (uint32_t)min_u64(block_left, table_left);
    return block_body(builder->value_block) +
           (size_t)builder->value_count * builder->shape->value_size;
}

void table_builder_appended(struct table_builder *builder, uint32_t count)
{
    /* All blocks but a table's last are full. */
    assert(builder->info.value_count ==
           (uint64_t)builder->value_block_count * builder->values_per_block);
    builder->value_count += count;
    assert_invariants(builder);
}

bool table_builder_block_full(const struct table_builder *builder)
{
    return builder->value_count == builder->values_per_block;
}

bool table_builder_table_full(const struct table_builder *builder)
{
    return builder->info.value_count + builder->value_count == builder->shape->value_count_max;
}

bool table_builder_table_empty(const struct table_builder *builder)
{
    return builder->info.value_count == 0 && builder->value_count == 0;
}

enum status table_builder_flush(struct table_builder *builder)
{
    if (builder->window_used == 0) {
        return STATUS_OK;
    }
    const uint32_t count = builder->window_used;
    builder->window_used = 0;
    return grid_write_blocks(builder->grid, builder->window_address, count, builder->window);
}

/* Adds a sealed block to the window, which is written first if it has no place for it. */
static enum status window_add(struct table_builder *builder, uint64_t address, const uint8_t *block)
{
    if (builder->window_used == builder->window_block_count ||
        address != builder->window_address + builder->window_used) {
        const enum status status = table_builder_flush(builder);
        if (status != STATUS_OK) {
            return status;
        }
    }
    if (builder->window_used == 0) {
        builder->window_address = address;
    }
    const uint32_t block_size = builder->geometry->block_size;
    memcpy(builder->window + (size_t)builder->window_used * block_size, block, block_size);
    builder->window_used += 1;
    return STATUS_OK;
}

/* Takes an address for `block`, whose body is complete, and completes and seals the header. */
static struct block_reference seal(struct table_builder *builder, uint8_t *block,
                                   enum block_type type, uint32_t value_count, uint32_t body_size,
                                   const struct index_metadata *metadata)
{
    assert(body_size <= block_body_size(builder->geometry));
    struct block_header *header = block_header(block);
    *header = (struct block_header){
        .address = reservation_acquire(builder->reservation),
        .op = builder->op,
        .size = BLOCK_HEADER_SIZE + body_size,
        .tree_id = builder->shape->tree_id,
        .key_size = builder->shape->key_size,
        .value_size = builder->shape->value_size,
        .value_count = value_count,
        .type = (uint8_t)type,
    };
    if (metadata != NULL) {
        memcpy(header->metadata, metadata, sizeof *metadata);
    }
    return block_seal(block, builder->geometry->block_size);
}

/* Adds the values of the current block. */
static void filter_add_values(struct table_builder *builder)
{
    const struct tree_shape *shape = builder->shape;
    uint8_t *filter = block_body(builder->filter_block);
    const uint32_t size = filter_size(builder->geometry);
    if (builder->filter_value_blocks == 0) {
        memset(filter, 0, size);
        builder->filter_used = false;
    }
    const uint32_t hashed_size = tree_shape_filter_size(shape);
    const uint8_t *value = block_body(builder->value_block);
    for (uint32_t i = 0; i < builder->value_count; i++, value += shape->value_size) {
        /* Values of one prefix are neighbours: all but the first would set the same bits. */
        if (shape->filter_kind == FILTER_KIND_PREFIX && i > 0 &&
            memcmp(value, value - shape->value_size, hashed_size) == 0) {
            continue;
        }
        const uint64_t hash = hash_key(shape, value);
        if (builder->filter_used && hash == builder->filter_hash_last) {
            continue;
        }
        filter_add(filter, size, hash);
        builder->filter_used = true;
        builder->filter_hash_last = hash;
    }
}

static enum status filter_finish(struct table_builder *builder)
{
    assert(builder->filter_value_blocks > 0);
    const struct block_reference reference =
        seal(builder, builder->filter_block, BLOCK_TYPE_FILTER, builder->filter_value_blocks,
             filter_size(builder->geometry), NULL);
    builder->filter_references[builder->filter_block_count] = reference;
    builder->filter_block_count += 1;
    builder->filter_value_blocks = 0;
    block_cache_insert(&builder->grid->cache, &reference, builder->filter_block);
    return window_add(builder, reference.address, builder->filter_block);
}

enum status table_builder_block_finish(struct table_builder *builder)
{
    assert_invariants(builder);
    assert(builder->value_count > 0);
    const struct tree_shape *shape = builder->shape;
    const uint32_t count = builder->value_count;
    const uint8_t *values = block_body(builder->value_block);
    const uint8_t *last = values + (size_t)(count - 1) * shape->value_size;
    uint8_t *first_key = builder->first_keys + (size_t)builder->value_block_count * shape->key_size;
    struct table_info *info = &builder->info;

    copy_key(shape, first_key, values);
    if (VERIFY) {
        assert(shape->ops->verify(values, count, shape->value_size));
        assert(builder->value_block_count == 0 ||
               shape->ops->compare(info->key_max.bytes, values, shape->value_size) < 0);
    }
    if (builder->value_block_count == 0) {
        copy_key(shape, info->key_min.bytes, values);
    }
    copy_key(shape, info->key_max.bytes, last);
    info->value_count += count;
    info->tombstone_count += shape->ops->count_tombstones(values, count, shape->value_size);

    filter_add_values(builder);
    const struct block_reference reference = seal(builder, builder->value_block, BLOCK_TYPE_VALUE,
                                                  count, count * shape->value_size, NULL);
    builder->value_references[builder->value_block_count] = reference;
    builder->value_block_count += 1;
    builder->filter_value_blocks += 1;
    builder->value_count = 0;
    enum status status = window_add(builder, reference.address, builder->value_block);
    if (status == STATUS_OK && builder->filter_value_blocks == builder->value_blocks_per_filter) {
        status = filter_finish(builder);
    }
    return status;
}

static enum status index_finish(struct table_builder *builder)
{
    const struct tree_shape *shape = builder->shape;
    const uint32_t value_blocks = builder->value_block_count;
    const uint32_t filter_blocks = builder->filter_block_count;
    const struct index_layout layout = index_layout(value_blocks, filter_blocks, shape->key_size);
    uint8_t *body = block_body(builder->index_block);
    for (uint32_t i = 0; i < value_blocks; i++) {
        const struct block_reference *reference = &builder->value_references[i];
        memcpy(body + layout.value_checksums + i * CHECKSUM_SIZE, &reference->checksum,
               CHECKSUM_SIZE);
        memcpy(body + layout.value_addresses + i * 8, &reference->address, 8);
    }
    memcpy(body + layout.first_keys, builder->first_keys, (size_t)value_blocks * shape->key_size);
    for (uint32_t i = 0; i < filter_blocks; i++) {
        const struct block_reference *reference = &builder->filter_references[i];
        memcpy(body + layout.filter_checksums + i * CHECKSUM_SIZE, &reference->checksum,
               CHECKSUM_SIZE);
        memcpy(body + layout.filter_addresses + i * 8, &reference->address, 8);
    }

    const struct index_metadata metadata = {
        .value_count = builder->info.value_count,
        .tombstone_count = builder->info.tombstone_count,
        .value_block_count = value_blocks,
        .filter_block_count = filter_blocks,
        .key_max = builder->info.key_max,
    };
    builder->info.index =
        seal(builder, builder->index_block, BLOCK_TYPE_INDEX, value_blocks, layout.end, &metadata);
    builder->info.block_count = 1 + value_blocks + filter_blocks;
    if (VERIFY) {
        struct table_index index;
        const enum status status =
            table_index_decode(builder->geometry, shape, builder->index_block, &index);
        assert(status == STATUS_OK);
    }
    block_cache_insert(&builder->grid->cache, &builder->info.index, builder->index_block);
    return window_add(builder, builder->info.index.address, builder->index_block);
}

enum status table_builder_table_finish(struct table_builder *builder, struct table_info *info)
{
    assert(!table_builder_table_empty(builder));
    enum status status = STATUS_OK;
    if (builder->value_count > 0) {
        status = table_builder_block_finish(builder);
    }
    if (status == STATUS_OK && builder->filter_value_blocks > 0) {
        status = filter_finish(builder);
    }
    if (status == STATUS_OK) {
        status = index_finish(builder);
    }
    if (status != STATUS_OK) {
        return status;
    }
    assert(builder->info.tombstone_count <= builder->info.value_count);
    *info = builder->info;
    start_table(builder);
    return STATUS_OK;
}

/* ---- Decoding ----------------------------------------------------------------------------------
 */

static bool header_fits(const struct tree_shape *shape, const struct block_header *header)
{
    return header->tree_id == shape->tree_id && header->key_size == shape->key_size &&
           header->value_size == shape->value_size;
}

static bool addresses_fit(const struct geometry *geometry, const uint8_t *addresses, uint32_t count)
{
    bool fit = true;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t address;
        memcpy(&address, addresses + (size_t)i * 8, 8);
        fit &= address - 1 < geometry->block_count_max; /* 0 wraps around: too large. */
    }
    return fit;
}

static bool first_keys_ascend(const struct tree_shape *shape, const struct table_index *index)
{
    for (uint32_t i = 1; i < index->value_block_count; i++) {
        const uint8_t *key = index->first_keys + (size_t)i * shape->key_size;
        if (shape->ops->compare(key - shape->key_size, key, shape->value_size) >= 0) {
            return false;
        }
    }
    return true;
}

enum status table_index_decode(const struct geometry *geometry, const struct tree_shape *shape,
                               const uint8_t *block, struct table_index *index)
{
    static const uint8_t zeros[KEY_SIZE_MAX];
    const struct block_header *header = block_header_const(block);
    assert(header->type == BLOCK_TYPE_INDEX); /* block_verify has seen to that. */
    if (!header_fits(shape, header)) {
        return STATUS_CORRUPT;
    }
    struct index_metadata metadata;
    memcpy(&metadata, header->metadata, sizeof metadata);
    const uint32_t value_blocks = metadata.value_block_count;
    const uint32_t filter_blocks = metadata.filter_block_count;
    const uint64_t values_per_block = table_values_per_block(geometry, shape->value_size);

    /* In this order: the limit on value blocks keeps the sums that follow from overflowing. */
    if (value_blocks < 1 ||
        value_blocks > table_value_block_max(geometry, shape->key_size, shape->value_size) ||
        value_blocks != header->value_count ||
        filter_blocks !=
            div_ceil(value_blocks, table_value_blocks_per_filter(geometry, shape->value_size)) ||
        metadata.value_count <= (value_blocks - 1) * values_per_block ||
        metadata.value_count > value_blocks * values_per_block ||
        metadata.tombstone_count > metadata.value_count) {
        return STATUS_CORRUPT;
    }
    const struct index_layout layout = index_layout(value_blocks, filter_blocks, shape->key_size);
    if (header->size != BLOCK_HEADER_SIZE + layout.end ||
        memcmp(metadata.zero, zeros, sizeof metadata.zero) != 0 ||
        memcmp(metadata.key_max.bytes + shape->key_size, zeros, KEY_SIZE_MAX - shape->key_size) !=
            0) {
        return STATUS_CORRUPT;
    }

    const uint8_t *body = block_body_const(block);
    *index = (struct table_index){
        .value_checksums = (const struct checksum *)(body + layout.value_checksums),
        .value_addresses = body + layout.value_addresses,
        .first_keys = body + layout.first_keys,
        .filter_checksums = (const struct checksum *)(body + layout.filter_checksums),
        .filter_addresses = body + layout.filter_addresses,
        .value_block_count = value_blocks,
        .filter_block_count = filter_blocks,
        .value_count = metadata.value_count,
        .tombstone_count = metadata.tombstone_count,
    };
    const uint8_t *last_first_key = index->first_keys + (value_blocks - 1) * shape->key_size;
    if (!addresses_fit(geometry, index->value_addresses, value_blocks) ||
        !addresses_fit(geometry, index->filter_addresses, filter_blocks) ||
        shape->ops->compare(last_first_key, metadata.key_max.bytes, shape->value_size) > 0) {
        return STATUS_CORRUPT;
    }
    if (VERIFY && !first_keys_ascend(shape, index)) {
        return STATUS_CORRUPT;
    }
    return STATUS_OK;
}

static struct block_reference reference_at(const struct checksum *checksums,
                                           const uint8_t *addresses, uint32_t i)
{
    struct block_reference reference = {.checksum = checksums[i]};
    memcpy(&reference.address, addresses + (size_t)i * 8, 8);
    assert(reference.address > 0);
    return reference;
}

struct block_reference table_index_value_reference(const struct table_index *index, uint32_t i)
{
    assert(i < index->value_block_count);
    return reference_at(index->value_checksums, index->value_addresses, i);
}

struct block_reference table_index_filter_reference(const struct table_index *index, uint32_t i)
{
    assert(i < index->filter_block_count);
    return reference_at(index->filter_checksums, index->filter_addresses, i);
}

enum status table_value_block_decode(const struct geometry *geometry,
                                     const struct tree_shape *shape, const uint8_t *block,
                                     uint32_t *count)
{
    const struct block_header *header = block_header_const(block);
    assert(header->type == BLOCK_TYPE_VALUE); /* block_verify has seen to that. */
    if (!header_fits(shape, header) || header->value_count < 1 ||
        header->value_count > table_values_per_block(geometry, shape->value_size) ||
        header->size != BLOCK_HEADER_SIZE + header->value_count * shape->value_size) {
        return STATUS_CORRUPT;
    }
    if (VERIFY &&
        !shape->ops->verify(block_body_const(block), header->value_count, shape->value_size)) {
        return STATUS_CORRUPT;
    }
    *count = header->value_count;
    return STATUS_OK;
}

/* ---- Looking things up -------------------------------------------------------------------------
 */

void table_reader_open(struct table_reader *reader, const struct geometry *geometry,
                       struct grid *grid, const struct tree_shape *shape,
                       const struct table_info *info, uint8_t *spare)
{
    assert(info->tree_id == shape->tree_id);
    assert(info->index.address > 0);
    *reader = (struct table_reader){
        .geometry = geometry,
        .grid = grid,
        .shape = shape,
        .info = *info,
        .spare = spare,
    };
}

static void unpin(struct table_reader *reader, struct block_pin *pin, bool *open)
{
    if (*open) {
        grid_put_block(reader->grid, pin);
        *open = false;
    }
}

void table_reader_close(struct table_reader *reader)
{
    unpin(reader, &reader->value_pin, &reader->value_open);
    unpin(reader, &reader->filter_pin, &reader->filter_open);
    unpin(reader, &reader->index_pin, &reader->index_open);
}

/* What each kind of block uses of `spare`. */
enum spare_index { SPARE_INDEX, SPARE_FILTER, SPARE_VALUE };

/* Pins another block in place of the one that `pin` holds, if any. */
static enum status repin(struct table_reader *reader, const struct block_reference *reference,
                         enum block_type type, enum spare_index spare_index, struct block_pin *pin,
                         bool *open)
{
    unpin(reader, pin, open);
    const uint64_t block_size = reader->geometry->block_size;
    enum status status = read_ticket_spend(reader->ticket, block_size);
    if (status != STATUS_OK) {
        return status;
    }
    const bool found = grid_find_block(reader->grid, reference, type, pin, &status);
    if (!found) {
        if (!read_ticket_leave(reader->ticket)) {
            return STATUS_REVOKED;
        }
        uint8_t *spare = reader->spare + (size_t)spare_index * block_size;
        status = grid_get_block(reader->grid, reference, type, spare, pin);
    }
    *open = status == STATUS_OK;
    if (status != STATUS_OK) {
        reader->bad_address = reference->address;
    }
    if (!found && !read_ticket_enter(reader->ticket)) {
        unpin(reader, pin, open);
        return STATUS_REVOKED;
    }
    return status;
}

/* The pinned block turned out not to be what its parent says. */
static enum status reject(struct table_reader *reader, struct block_pin *pin, bool *open)
{
    reader->bad_address = block_header_const(pin->data)->address;
    unpin(reader, pin, open);
    return STATUS_CORRUPT;
}

static enum status pin_index(struct table_reader *reader)
{
    if (reader->index_open) {
        return STATUS_OK;
    }
    const struct tree_shape *shape = reader->shape;
    enum status status = repin(reader, &reader->info.index, BLOCK_TYPE_INDEX, SPARE_INDEX,
                               &reader->index_pin, &reader->index_open);
    if (status != STATUS_OK) {
        return status;
    }
    const uint8_t *block = reader->index_pin.data;
    status = table_index_decode(reader->geometry, shape, block, &reader->index);
    if (status != STATUS_OK) {
        return reject(reader, &reader->index_pin, &reader->index_open);
    }
    /* A compaction that stops early raises info.key_min, so that one may lie behind the first key.
     */
    struct index_metadata metadata;
    memcpy(&metadata, block_header_const(block)->metadata, sizeof metadata);
    if (memcmp(&metadata.key_max, &reader->info.key_max, sizeof(struct key)) != 0 ||
        shape->ops->compare(reader->index.first_keys, reader->info.key_min.bytes,
                            shape->value_size) > 0) {
        return reject(reader, &reader->index_pin, &reader->index_open);
    }
    return STATUS_OK;
}

static enum status pin_value(struct table_reader *reader, uint32_t block_index)
{
    assert(reader->index_open);
    assert(block_index < reader->index.value_block_count);
    if (reader->value_open && reader->value_index == block_index) {
        return STATUS_OK;
    }
    const struct tree_shape *shape = reader->shape;
    const struct table_index *index = &reader->index;
    const struct block_reference reference = table_index_value_reference(index, block_index);
    enum status status = repin(reader, &reference, BLOCK_TYPE_VALUE, SPARE_VALUE,
                               &reader->value_pin, &reader->value_open);
    if (status != STATUS_OK) {
        return status;
    }
    uint32_t count;
    status = table_value_block_decode(reader->geometry, shape, reader->value_pin.data, &count);
    if (status != STATUS_OK) {
        return reject(reader, &reader->value_pin, &reader->value_open);
    }
    const uint64_t values_per_block = table_values_per_block(reader->geometry, shape->value_size);
    const uint64_t values_left = index->value_count - block_index * values_per_block;
    if (count != min_u64(values_per_block, values_left) ||
        shape->ops->compare(block_body_const(reader->value_pin.data),
                            index->first_keys + (size_t)block_index * shape->key_size,
                            shape->value_size) != 0) {
        return reject(reader, &reader->value_pin, &reader->value_open);
    }
    reader->value_index = block_index;
    reader->value_count = count;
    return STATUS_OK;
}

/* *may_contain: whether the filter of value block `block_index` admits `key`. */
static enum status ask_filter(struct table_reader *reader, uint32_t block_index, const uint8_t *key,
                              bool *may_contain)
{
    assert(reader->index_open);
    const struct tree_shape *shape = reader->shape;
    const uint32_t size = filter_size(reader->geometry);
    const uint32_t blocks_per_filter =
        table_value_blocks_per_filter(reader->geometry, shape->value_size);
    const uint32_t filter_index = block_index / blocks_per_filter;
    if (!reader->filter_open || reader->filter_index != filter_index) {
        const struct block_reference reference =
            table_index_filter_reference(&reader->index, filter_index);
        const enum status status = repin(reader, &reference, BLOCK_TYPE_FILTER, SPARE_FILTER,
                                         &reader->filter_pin, &reader->filter_open);
        if (status != STATUS_OK) {
            return status;
        }
        const struct block_header *header = block_header_const(reader->filter_pin.data);
        const uint32_t blocks_left =
            reader->index.value_block_count - filter_index * blocks_per_filter;
        if (!header_fits(shape, header) || header->size != BLOCK_HEADER_SIZE + size ||
            header->value_count != min_u64(blocks_per_filter, blocks_left)) {
            return reject(reader, &reader->filter_pin, &reader->filter_open);
        }
        reader->filter_index = filter_index;
    }
    *may_contain =
        filter_may_contain(block_body_const(reader->filter_pin.data), size, hash_key(shape, key));
    return STATUS_OK;
}

/* The block that holds `key` if the table does, for keys not less than info.key_min; *at_start: it
 * is that block's first. */
static uint32_t locate(const struct table_reader *reader, const uint8_t *key, bool *at_start)
{
    const struct tree_shape *shape = reader->shape;
    const struct table_index *index = &reader->index;
    const uint32_t bound = shape->ops->key_lower_bound(index->first_keys, index->value_block_count,
                                                       shape->value_size, key);
    *at_start = bound < index->value_block_count &&
                shape->ops->compare(index->first_keys + (size_t)bound * shape->key_size, key,
                                    shape->value_size) == 0;
    assert(bound > 0 || *at_start); /* pin_index: the first key is not above key_min. */
    return *at_start ? bound : bound - 1;
}

enum status table_reader_find(struct table_reader *reader, const uint8_t *key,
                              const uint8_t **value)
{
    const struct tree_shape *shape = reader->shape;
    const struct values_ops *ops = shape->ops;
    *value = NULL;
    if (ops->compare(key, reader->info.key_min.bytes, shape->value_size) < 0 ||
        ops->compare(key, reader->info.key_max.bytes, shape->value_size) > 0) {
        return STATUS_OK;
    }
    enum status status = pin_index(reader);
    if (status != STATUS_OK) {
        return status;
    }
    bool at_start;
    const uint32_t block_index = locate(reader, key, &at_start);
    if (!at_start && shape->filter_kind == FILTER_KIND_KEY) {
        bool may_contain;
        status = ask_filter(reader, block_index, key, &may_contain);
        if (status != STATUS_OK || !may_contain) {
            return status;
        }
    }
    status = pin_value(reader, block_index);
    if (status != STATUS_OK) {
        return status;
    }
    const uint8_t *values = block_body_const(reader->value_pin.data);
    const uint32_t i = ops->lower_bound(values, reader->value_count, shape->value_size, key);
    const uint8_t *found = values + (size_t)i * shape->value_size;
    if (i < reader->value_count && ops->compare(found, key, shape->value_size) == 0) {
        *value = found;
    }
    return STATUS_OK;
}

enum status table_reader_seek(struct table_reader *reader, const uint8_t *key, bool prefix,
                              uint32_t *block_index, uint32_t *value_index)
{
    const struct tree_shape *shape = reader->shape;
    const struct values_ops *ops = shape->ops;
    enum status status = pin_index(reader);
    if (status != STATUS_OK) {
        return status;
    }
    const struct table_index *index = &reader->index;
    *block_index = index->value_block_count;
    *value_index = 0;
    if (ops->compare(key, reader->info.key_max.bytes, shape->value_size) > 0) {
        return STATUS_OK;
    }
    /* What lies below key_min is no part of the table any more. */
    const bool below = ops->compare(key, reader->info.key_min.bytes, shape->value_size) < 0;
    const uint8_t *from = below ? reader->info.key_min.bytes : key;
    bool at_start;
    const uint32_t block = locate(reader, from, &at_start);
    if (at_start) {
        *block_index = block;
        return STATUS_OK;
    }
    if (prefix) {
        bool may_contain;
        status = ask_filter(reader, block, key, &may_contain);
        if (status != STATUS_OK) {
            return status;
        }
        if (!may_contain) {
            /* Not in this block, but the next may begin with it, under another filter. */
            const uint32_t next = block + 1;
            if (next < index->value_block_count &&
                memcmp(index->first_keys + (size_t)next * shape->key_size, key,
                       tree_shape_filter_size(shape)) == 0) {
                *block_index = next;
            }
            return STATUS_OK;
        }
    }
    status = pin_value(reader, block);
    if (status != STATUS_OK) {
        return status;
    }
    const uint32_t i = ops->lower_bound(block_body_const(reader->value_pin.data),
                                        reader->value_count, shape->value_size, from);
    *block_index = i < reader->value_count ? block : block + 1;
    *value_index = i < reader->value_count ? i : 0;
    return STATUS_OK;
}

enum status table_reader_block(struct table_reader *reader, uint32_t block_index,
                               const uint8_t **values, uint32_t *count)
{
    enum status status = pin_index(reader);
    if (status == STATUS_OK) {
        status = pin_value(reader, block_index);
    }
    if (status != STATUS_OK) {
        return status;
    }
    *values = block_body_const(reader->value_pin.data);
    *count = reader->value_count;
    return STATUS_OK;
}
