#include "engine/groove.h"

#include <assert.h>
#include <string.h>

#include "engine/object.h"
#include "pool/base.h"

/* Entries of one event in one tree: an update of an indexed field removes one and puts one. */
static uint32_t entries_per_event(uint32_t position)
{
    return position < TREE_INDEX ? 1 : 2;
}

static uint64_t buffer_size(uint32_t position, uint32_t value_size, uint32_t event_count)
{
    return align_up((uint64_t)event_count * entries_per_event(position) * value_size, 64);
}

uint64_t groove_write_size(const struct groove_schema *schema, uint32_t event_count)
{
    uint64_t size = buffer_size(TREE_OBJECT, schema->object_size, event_count) +
                    buffer_size(TREE_ID, ID_VALUE_SIZE, event_count);
    for (uint32_t i = 0; i < schema->spec.index_count; i++) {
        size += buffer_size(TREE_INDEX + i, schema_index_entry_size(schema, i), event_count);
    }
    return size;
}

void groove_write_begin(struct groove_write *write, struct catalog_groove *groove,
                        uint32_t event_count, struct owner_list *owners, uint8_t *memory)
{
    assert(groove->used && !groove->dropping);
    *write = (struct groove_write){.groove = groove, .event_max = event_count, .owners = owners};
    for (uint32_t i = 0; i < groove->tree_count; i++) {
        write->trees[i].values = memory;
        memory += buffer_size(i, groove->trees[i]->shape.value_size, event_count);
    }
}

static uint8_t *append(struct groove_write *write, uint32_t position)
{
    const uint32_t index = write->trees[position].count;
    assert(index < write->event_max * entries_per_event(position));
    write->trees[position].count += 1;
    return write->trees[position].values +
           (size_t)index * write->groove->trees[position]->shape.value_size;
}

static void put_id(struct groove_write *write, const uint8_t *key, uint64_t timestamp,
                   bool tombstone)
{
    uint8_t *value = append(write, TREE_ID);
    memcpy(value, key, ID_SIZE);
    store_u64_be(value + ID_SIZE, timestamp);
    if (tombstone) {
        value_set_tombstone(value, ID_SIZE, ID_VALUE_SIZE);
    }
}

static void put_index(struct groove_write *write, uint32_t index, const uint8_t *entry,
                      bool tombstone)
{
    const struct tree_shape *shape = &write->groove->trees[TREE_INDEX + index]->shape;
    uint8_t *value = append(write, TREE_INDEX + index);
    memcpy(value, entry, shape->value_size);
    if (tombstone) {
        value_set_tombstone(value, shape->key_size, shape->value_size);
    }
}

/* Index entries from `before` to `after`; either may be NULL. Both are stored values: fields lie
 * where they lie in an image. */
static void change_indexes(struct groove_write *write, const uint8_t *before, const uint8_t *after,
                           uint64_t timestamp)
{
    const struct groove_schema *schema = &write->groove->schema->schema;
    for (uint32_t i = 0; i < schema->spec.index_count; i++) {
        const bool unique = schema_index_unique(schema, i);
        uint8_t entry_before[KEY_SIZE_MAX];
        uint8_t entry_after[KEY_SIZE_MAX];
        const bool had =
            before != NULL && schema_index_key(schema, i, before, timestamp, entry_before);
        const bool has =
            after != NULL && schema_index_key(schema, i, after, timestamp, entry_after);
        if (had && has &&
            memcmp(entry_before, entry_after, schema_index_entry_size(schema, i)) == 0) {
            continue;
        }
        if (had) {
            put_index(write, i, entry_before, true);
            if (unique) {
                owner_list_release(&write->owners[i], entry_before, timestamp);
            }
        }
        if (has) {
            put_index(write, i, entry_after, false);
            if (unique) {
                owner_list_claim(&write->owners[i], entry_after, timestamp);
            }
        }
    }
}

/* Whether another object has what `image` brings to a unique index. */
static bool value_taken(const struct groove_write *write, const uint8_t *image,
                        const struct groove_entry *entry)
{
    const struct groove_schema *schema = &write->groove->schema->schema;
    const uint64_t own = entry->exists ? entry->timestamp : OWNER_NONE;
    for (uint32_t i = 0; i < schema->spec.index_count; i++) {
        uint8_t wanted[KEY_SIZE_MAX];
        if (schema_index_unique(schema, i) && schema_index_key(schema, i, image, 0, wanted)) {
            const uint64_t owner = owner_list_find(&write->owners[i], wanted);
            assert(owner != OWNER_UNKNOWN); /* Such requests were refused. */
            if (owner != OWNER_NONE && owner != own) {
                return true;
            }
        }
    }
    return false;
}

static void apply_insert(struct groove_write *write, const uint8_t *image,
                         struct groove_entry *entry, uint64_t timestamp)
{
    uint8_t *value = append(write, TREE_OBJECT);
    object_value_from_image(value, image, write->groove->schema->schema.object_size, timestamp,
                            timestamp);
    put_id(write, entry->key, timestamp, false);
    change_indexes(write, NULL, value, timestamp);
    entry->exists = true;
    entry->timestamp = timestamp;
    entry->object = value;
    write->groove->object_count += 1;
}

/* The object keeps its timestamp (its key); the version tells when it changed. */
static void apply_update(struct groove_write *write, const uint8_t *image,
                         struct groove_entry *entry, uint64_t timestamp)
{
    assert(entry->object != NULL); /* Prefetched: the entry wants it. */
    uint8_t *value = append(write, TREE_OBJECT);
    object_value_from_image(value, image, write->groove->schema->schema.object_size,
                            entry->timestamp, timestamp);
    change_indexes(write, entry->object, value, entry->timestamp);
    entry->object = value;
}

static void apply_remove(struct groove_write *write, struct groove_entry *entry)
{
    assert(entry->object != NULL);
    const uint32_t object_size = write->groove->schema->schema.object_size;
    uint8_t *value = append(write, TREE_OBJECT);
    memset(value, 0, object_size);
    store_u64_be(value, entry->timestamp);
    value_set_tombstone(value, 8, object_size);
    put_id(write, entry->key, entry->timestamp, true);
    change_indexes(write, entry->object, NULL, entry->timestamp);
    entry->exists = false;
    entry->object = NULL;
    assert(write->groove->object_count > 0);
    write->groove->object_count -= 1;
}

static bool guard_holds(struct event_guard guard, const struct groove_entry *entry)
{
    switch (guard.kind) {
    case EVENT_GUARD_NONE:
        return true;
    case EVENT_GUARD_ABSENT:
        return !entry->exists;
    case EVENT_GUARD_PRESENT:
        return entry->exists;
    case EVENT_GUARD_VERSION:
        assert(!entry->exists || entry->object != NULL); /* Prefetched: the entry wants it. */
        return entry->exists && object_value_version(entry->object) == guard.version;
    }
    assert(false && "guard");
    return false;
}

static bool is_zero(const uint8_t *bytes, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

enum event_result groove_write_event(struct groove_write *write, enum event_type type,
                                     struct event_guard guard, const uint8_t *payload,
                                     struct groove_entry *entry, uint64_t timestamp)
{
    assert(!entry->damaged); /* Such requests are refused before they are journaled. */
    assert(type != EVENT_TYPE_CHECK || guard.kind != EVENT_GUARD_NONE);
    if (is_zero(payload, ID_SIZE)) {
        return EVENT_RESULT_ID_ZERO;
    }
    if (!guard_holds(guard, entry)) {
        return EVENT_RESULT_GUARD;
    }
    if (type == EVENT_TYPE_CHECK) {
        return EVENT_RESULT_OK;
    }
    if (type == EVENT_TYPE_REMOVE) {
        if (!entry->exists) {
            return EVENT_RESULT_NOT_FOUND;
        }
        apply_remove(write, entry);
        return EVENT_RESULT_OK;
    }
    if (!is_zero(payload + ID_SIZE, OBJECT_HEADER_SIZE - ID_SIZE)) {
        return EVENT_RESULT_RESERVED_NOT_ZERO;
    }
    if (!schema_image_valid(&write->groove->schema->schema, payload)) {
        return EVENT_RESULT_BAD_VALUE;
    }
    if (type == EVENT_TYPE_INSERT && entry->exists) {
        return EVENT_RESULT_EXISTS;
    }
    if (type == EVENT_TYPE_UPDATE && !entry->exists) {
        return EVENT_RESULT_NOT_FOUND;
    }
    if (value_taken(write, payload, entry)) {
        return EVENT_RESULT_UNIQUE;
    }
    if (entry->exists) {
        apply_update(write, payload, entry, timestamp);
    } else {
        apply_insert(write, payload, entry, timestamp);
    }
    return EVENT_RESULT_OK;
}

void groove_write_mark(const struct groove_write *write, struct groove_mark *mark)
{
    for (uint32_t i = 0; i < write->groove->tree_count; i++) {
        mark->counts[i] = write->trees[i].count;
    }
    mark->object_count = write->groove->object_count;
}

/* The values that were put into a unique index tell who claimed and released what, in order. */
static void undo_owners(struct groove_write *write, uint32_t index, uint32_t first)
{
    const struct tree_shape *shape = &write->groove->trees[TREE_INDEX + index]->shape;
    for (uint32_t i = write->trees[TREE_INDEX + index].count; i > first; i--) {
        const uint8_t *value =
            write->trees[TREE_INDEX + index].values + (size_t)(i - 1) * shape->value_size;
        const uint64_t timestamp = load_u64_be(value + shape->key_size) & ~(1ull << 63);
        if (value_is_tombstone(value, shape->key_size, shape->value_size)) {
            owner_list_release_undo(&write->owners[index], value, timestamp);
        } else {
            owner_list_claim_undo(&write->owners[index], value, timestamp);
        }
    }
}

void groove_write_undo(struct groove_write *write, const struct groove_mark *mark)
{
    const struct groove_schema *schema = &write->groove->schema->schema;
    for (uint32_t i = 0; i < write->groove->tree_count; i++) {
        assert(write->trees[i].count >= mark->counts[i]);
        if (i >= TREE_INDEX && schema_index_unique(schema, i - TREE_INDEX)) {
            undo_owners(write, i - TREE_INDEX, mark->counts[i]);
        }
        write->trees[i].count = mark->counts[i];
    }
    write->groove->object_count = mark->object_count;
}

uint64_t groove_write_finish(struct groove_write *write, uint8_t *scratch, struct run_arena *arena,
                             struct node_pool *nodes, struct tree_version_pool *versions)
{
    uint64_t size = 0;
    for (uint32_t i = 0; i < write->groove->tree_count; i++) {
        struct tree *tree = write->groove->trees[i];
        const struct tree_shape *shape = &tree->shape;
        uint32_t count = write->trees[i].count;
        if (count == 0) {
            continue;
        }
        shape->ops->sort(write->trees[i].values, scratch, count, shape->value_size);
        count = shape->ops->dedupe(write->trees[i].values, count, shape->value_size);
        tree_add_run(tree, arena, nodes, versions,
                     run_build(arena, shape, write->trees[i].values, count));
        size += (uint64_t)count * shape->value_size;
    }
    return size;
}
