#include "engine/catalog.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "engine/object.h"
#include "pool/base.h"
#include "pool/memory.h"

static uint32_t groove_max_of(const struct geometry *geometry)
{
    return geometry->tree_count_max / 2; /* A groove has at least an object and an id tree. */
}

enum status catalog_init(struct catalog *catalog, const struct geometry *geometry,
                         struct tree *trees, uint32_t node_max)
{
    *catalog = (struct catalog){
        .geometry = geometry,
        .trees = trees,
        .node_max = node_max,
        .groove_max = groove_max_of(geometry),
        /* A schema outlives its groove in versions that readers still hold. */
        .schema_max = groove_max_of(geometry) * 2 + VERSION_COUNT_MAX,
        .next_groove_id = 1,
        .next_tree_id = 1,
    };
    catalog->grooves = memory_acquire((size_t)catalog->groove_max * sizeof *catalog->grooves);
    catalog->schemas = memory_acquire((size_t)catalog->schema_max * sizeof *catalog->schemas);
    if (catalog->grooves == NULL || catalog->schemas == NULL) {
        catalog_deinit(catalog);
        return STATUS_NO_MEMORY;
    }
    for (uint32_t i = 0; i < catalog->schema_max; i++) {
        catalog->schemas[i].free_next = catalog->schema_free;
        catalog->schema_free = &catalog->schemas[i];
    }
    return STATUS_OK;
}

void catalog_deinit(struct catalog *catalog)
{
    memory_release(catalog->grooves, (size_t)catalog->groove_max * sizeof *catalog->grooves);
    memory_release(catalog->schemas, (size_t)catalog->schema_max * sizeof *catalog->schemas);
    *catalog = (struct catalog){0};
}

struct catalog_groove *catalog_find(const struct catalog *catalog, uint32_t groove_id)
{
    for (uint32_t i = 0; i < catalog->groove_max; i++) {
        struct catalog_groove *groove = &catalog->grooves[i];
        if (groove->used && !groove->dropping && groove->groove_id == groove_id) {
            return groove;
        }
    }
    return NULL;
}

struct catalog_groove *catalog_find_name(const struct catalog *catalog, const char *name)
{
    for (uint32_t i = 0; i < catalog->groove_max; i++) {
        struct catalog_groove *groove = &catalog->grooves[i];
        if (groove->used && !groove->dropping &&
            strncmp(groove->schema->schema.spec.name, name, NAME_SIZE) == 0) {
            return groove;
        }
    }
    return NULL;
}

struct catalog_groove *catalog_after(const struct catalog *catalog, uint32_t groove_id)
{
    struct catalog_groove *next = NULL;
    for (uint32_t i = 0; i < catalog->groove_max; i++) {
        struct catalog_groove *groove = &catalog->grooves[i];
        if (groove->used && groove->groove_id > groove_id &&
            (next == NULL || groove->groove_id < next->groove_id)) {
            next = groove;
        }
    }
    return next;
}

struct tree *catalog_tree_for_id(const struct catalog *catalog, uint32_t tree_id)
{
    for (uint32_t i = 0; i < catalog->geometry->tree_count_max; i++) {
        struct tree *tree = &catalog->trees[i];
        if (tree->used && tree->shape.tree_id == tree_id) {
            return tree;
        }
    }
    return NULL;
}

static uint32_t free_tree_count(const struct catalog *catalog)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < catalog->geometry->tree_count_max; i++) {
        count += !catalog->trees[i].used;
    }
    return count;
}

static struct catalog_groove *free_groove(const struct catalog *catalog)
{
    for (uint32_t i = 0; i < catalog->groove_max; i++) {
        if (!catalog->grooves[i].used) {
            return &catalog->grooves[i];
        }
    }
    return NULL;
}

static enum catalog_refusal check(const struct catalog *catalog, const struct groove_spec *spec,
                                  struct groove_schema *schema, char *reason, size_t reason_size)
{
    if (schema_build(catalog->geometry, spec, schema, reason, reason_size) != STATUS_OK) {
        return CATALOG_BAD_SCHEMA;
    }
    if (catalog_find_name(catalog, spec->name) != NULL) {
        snprintf(reason, reason_size, "a groove named '%.31s' exists", spec->name);
        return CATALOG_EXISTS;
    }
    const uint32_t tree_count = 2 + spec->index_count;
    if (free_groove(catalog) == NULL || free_tree_count(catalog) < tree_count) {
        snprintf(reason, reason_size,
                 "the groove needs %u trees and %u of %u are free: drop a groove, or format a file "
                 "with a higher tree limit",
                 tree_count, free_tree_count(catalog), catalog->geometry->tree_count_max);
        return CATALOG_LIMIT;
    }
    return CATALOG_OK;
}

enum catalog_refusal catalog_check(const struct catalog *catalog, const struct groove_spec *spec,
                                   char *reason, size_t reason_size)
{
    struct groove_schema schema;
    return check(catalog, spec, &schema, reason, reason_size);
}

static void tree_shape_of(const struct groove_schema *schema, uint32_t position, uint32_t tree_id,
                          struct tree_shape *shape)
{
    const bool by_key = position < TREE_INDEX || schema_index_unique(schema, position - TREE_INDEX);
    *shape = (struct tree_shape){
        .tree_id = tree_id,
        .value_count_max = schema->table_value_max,
        .filter_kind = by_key ? FILTER_KIND_KEY : FILTER_KIND_PREFIX,
    };
    if (position == TREE_OBJECT) {
        shape->key_size = 8;
        shape->value_size = (uint16_t)schema->object_size;
    } else if (position == TREE_ID) {
        shape->key_size = ID_SIZE;
        shape->value_size = ID_VALUE_SIZE;
    } else {
        shape->key_size = schema->indexes[position - TREE_INDEX].key_size;
        shape->value_size = (uint16_t)schema_index_entry_size(schema, position - TREE_INDEX);
    }
    shape->ops = values_ops_for(shape->key_size, shape->value_size);
}

/* Fills a free slot with a groove whose schema is built; `tree_ids` [2 + index_count]. */
static struct catalog_groove *groove_add(struct catalog *catalog,
                                         const struct groove_schema *schema, uint32_t groove_id,
                                         const uint32_t *tree_ids)
{
    struct catalog_groove *groove = free_groove(catalog);
    struct schema_object *object = catalog->schema_free;
    assert(groove != NULL && object != NULL);
    catalog->schema_free = object->free_next;
    object->reference_count = 1;
    object->schema = *schema;
    *groove = (struct catalog_groove){
        .used = true,
        .groove_id = groove_id,
        .tree_count = TREE_INDEX + schema->spec.index_count,
        .schema = object,
    };
    /* An update of an indexed field is two entries of one event. */
    const uint32_t bar_value_max = schema->table_value_max - 2 * schema->event_max;
    uint32_t slot = 0;
    for (uint32_t i = 0; i < groove->tree_count; i++) {
        while (catalog->trees[slot].used) {
            slot += 1;
            assert(slot < catalog->geometry->tree_count_max);
        }
        struct tree_shape shape;
        tree_shape_of(schema, i, tree_ids[i], &shape);
        tree_init(&catalog->trees[slot], &shape, bar_value_max, catalog->node_max);
        groove->trees[i] = &catalog->trees[slot];
    }
    return groove;
}

enum catalog_refusal catalog_create(struct catalog *catalog, const struct groove_spec *spec,
                                    uint32_t *groove_id, char *reason, size_t reason_size)
{
    struct groove_schema schema;
    const enum catalog_refusal refusal = check(catalog, spec, &schema, reason, reason_size);
    if (refusal != CATALOG_OK) {
        return refusal;
    }
    uint32_t tree_ids[GROOVE_TREE_COUNT_MAX] = {0};
    for (uint32_t i = 0; i < TREE_INDEX + schema.spec.index_count; i++) {
        tree_ids[i] = catalog->next_tree_id;
        catalog->next_tree_id += 1;
    }
    *groove_id = catalog->next_groove_id;
    catalog->next_groove_id += 1;
    (void)groove_add(catalog, &schema, *groove_id, tree_ids);
    return CATALOG_OK;
}

void catalog_drop(struct catalog_groove *groove)
{
    assert(groove->used && !groove->dropping);
    groove->dropping = true;
}

bool catalog_groove_is_empty(const struct catalog_groove *groove)
{
    for (uint32_t i = 0; i < groove->tree_count; i++) {
        if (!tree_is_empty(groove->trees[i]) || !groove->trees[i]->dropping) {
            return false;
        }
    }
    return true;
}

void schema_object_release(struct catalog *catalog, struct schema_object *schema)
{
    assert(schema->reference_count > 0);
    schema->reference_count -= 1;
    if (schema->reference_count == 0) {
        schema->free_next = catalog->schema_free;
        catalog->schema_free = schema;
    }
}

void catalog_forget(struct catalog *catalog, struct catalog_groove *groove, struct run_arena *arena,
                    struct node_pool *nodes, struct tree_version_pool *versions)
{
    assert(groove->used);
    for (uint32_t i = 0; i < groove->tree_count; i++) {
        tree_deinit(groove->trees[i], arena, nodes, versions);
    }
    schema_object_release(catalog, groove->schema);
    *groove = (struct catalog_groove){0};
}

/* ---- Encoding ----------------------------------------------------------------------------------
 */

uint64_t catalog_encoded_size_max(const struct geometry *geometry)
{
    return CATALOG_HEADER_SIZE + (uint64_t)groove_max_of(geometry) * CATALOG_GROOVE_SIZE;
}

static void store_u32(uint8_t *bytes, uint32_t value)
{
    memcpy(bytes, &value, sizeof value);
}

static uint32_t load_u32(const uint8_t *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

uint64_t catalog_encoded_size(const uint8_t *buffer, uint64_t size)
{
    if (size < CATALOG_HEADER_SIZE) {
        return 0;
    }
    const uint64_t catalog_size =
        CATALOG_HEADER_SIZE + load_u32(buffer + 24) * (uint64_t)CATALOG_GROOVE_SIZE;
    return catalog_size <= size ? catalog_size : 0;
}

uint64_t catalog_encode(const struct catalog *catalog, uint64_t commit, uint64_t timestamp,
                        uint8_t *buffer)
{
    uint32_t groove_count = 0;
    uint8_t *at = buffer + CATALOG_HEADER_SIZE;
    for (struct catalog_groove *groove = catalog_after(catalog, 0); groove != NULL;
         groove = catalog_after(catalog, groove->groove_id)) {
        memset(at, 0, 96);
        store_u32(at, groove->groove_id);
        store_u32(at + 4, groove->dropping ? 1 : 0);
        store_u64_le(at + 8, groove->object_count);
        store_u32(at + 16, groove->tree_count);
        for (uint32_t i = 0; i < groove->tree_count; i++) {
            store_u32(at + 20 + (size_t)4 * i, groove->trees[i]->shape.tree_id);
        }
        memcpy(at + 96, &groove->schema->schema.spec, sizeof(struct groove_spec));
        at += CATALOG_GROOVE_SIZE;
        groove_count += 1;
    }
    store_u64_le(buffer, commit);
    store_u64_le(buffer + 8, timestamp);
    store_u32(buffer + 16, catalog->next_groove_id);
    store_u32(buffer + 20, catalog->next_tree_id);
    store_u32(buffer + 24, groove_count);
    store_u32(buffer + 28, 0);
    return (uint64_t)(at - buffer);
}

static enum status decode_groove(struct catalog *catalog, const uint8_t *at, uint32_t id_before,
                                 char *reason, size_t reason_size)
{
    const uint32_t groove_id = load_u32(at);
    const uint32_t flags = load_u32(at + 4);
    const uint32_t tree_count = load_u32(at + 16);
    struct groove_spec spec;
    memcpy(&spec, at + 96, sizeof spec);
    struct groove_schema schema;
    if (groove_id <= id_before || groove_id >= catalog->next_groove_id || flags > 1) {
        snprintf(reason, reason_size, "state: groove id %u out of order", groove_id);
        return STATUS_CORRUPT;
    }
    if (schema_build(catalog->geometry, &spec, &schema, reason, reason_size) != STATUS_OK) {
        return STATUS_CORRUPT;
    }
    if (flags == 0 && catalog_find_name(catalog, spec.name) != NULL) {
        snprintf(reason, reason_size, "state: groove %u could not have been created", groove_id);
        return STATUS_CORRUPT;
    }
    if (tree_count != TREE_INDEX + spec.index_count || free_tree_count(catalog) < tree_count ||
        free_groove(catalog) == NULL) {
        snprintf(reason, reason_size, "state: groove %u has an impossible number of trees",
                 groove_id);
        return STATUS_CORRUPT;
    }
    bool zero = load_u32(at + 92) == 0;
    for (uint32_t i = tree_count; i < GROOVE_TREE_COUNT_MAX; i++) {
        zero &= load_u32(at + 20 + (size_t)4 * i) == 0;
    }
    if (!zero) {
        snprintf(reason, reason_size,
                 "state: groove %u has bytes that are not zero where nothing is", groove_id);
        return STATUS_CORRUPT;
    }
    uint32_t tree_ids[GROOVE_TREE_COUNT_MAX];
    for (uint32_t i = 0; i < tree_count; i++) {
        tree_ids[i] = load_u32(at + 20 + (size_t)4 * i);
        const bool repeated = i > 0 && tree_ids[i] <= tree_ids[i - 1];
        if (tree_ids[i] == 0 || tree_ids[i] >= catalog->next_tree_id || repeated ||
            catalog_tree_for_id(catalog, tree_ids[i]) != NULL) {
            snprintf(reason, reason_size, "state: groove %u has an impossible tree id %u",
                     groove_id, tree_ids[i]);
            return STATUS_CORRUPT;
        }
    }
    struct catalog_groove *groove = groove_add(catalog, &schema, groove_id, tree_ids);
    groove->object_count = load_u64_le(at + 8);
    groove->dropping = flags == 1;
    return STATUS_OK;
}

enum status catalog_decode(struct catalog *catalog, const uint8_t *buffer, uint64_t size,
                           uint64_t *commit, uint64_t *timestamp, char *reason, size_t reason_size)
{
    if (size < CATALOG_HEADER_SIZE || (size - CATALOG_HEADER_SIZE) % CATALOG_GROOVE_SIZE != 0 ||
        load_u32(buffer + 24) != (size - CATALOG_HEADER_SIZE) / CATALOG_GROOVE_SIZE) {
        snprintf(reason, reason_size, "state: %llu bytes do not fit its groove count",
                 (unsigned long long)size);
        return STATUS_CORRUPT;
    }
    *commit = load_u64_le(buffer);
    *timestamp = load_u64_le(buffer + 8);
    catalog->next_groove_id = load_u32(buffer + 16);
    catalog->next_tree_id = load_u32(buffer + 20);
    if (catalog->next_groove_id == 0 || catalog->next_tree_id == 0 || load_u32(buffer + 28) != 0) {
        snprintf(reason, reason_size, "state: ids start at 1, and zero is zero");
        return STATUS_CORRUPT;
    }
    uint32_t id_before = 0;
    for (uint64_t at = CATALOG_HEADER_SIZE; at < size; at += CATALOG_GROOVE_SIZE) {
        const enum status status =
            decode_groove(catalog, buffer + at, id_before, reason, reason_size);
        if (status != STATUS_OK) {
            return status;
        }
        id_before = load_u32(buffer + at);
    }
    return STATUS_OK;
}
