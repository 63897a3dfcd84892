/* The objects of a groove against its ids and its indexes.
 *
 * Objects and their entries are compared as multisets: how many, and the sum of their hashes. So
 * each tree is scanned once, in order, and a missing, a surplus and a wrong entry are all seen,
 * without a random read for each object. */
#include "engine/verify_internal.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "engine/lsm/filter.h"
#include "engine/object.h"
#include "pool/base.h"
#include "pool/memory.h"

/* Entries looked at together, 128 MiB at most. */
enum { DUPLICATE_ROW_MAX = 2 << 20 };

/* Entries of a tree without their order: equal counts and sums are equal multisets, but for an
 * accident of one in 2^128. */
struct multiset {
    uint64_t count;
    u128 sum; /* of XXH3-128 */
};

/* One groove, while its trees are walked: the object tree first. */
struct groove_check {
    struct verify *verify;
    const struct catalog_groove *groove;
    const struct groove_schema *schema;
    bool objects_known; /* the object tree was scanned to its end */
    uint64_t object_count;
    /* What the objects call for, by position of the tree; [TREE_OBJECT] is not used. */
    struct multiset expected[GROOVE_TREE_COUNT_MAX];
    struct multiset found; /* in the tree being scanned */
    uint32_t found_size;   /* bytes of each of its values */
    bool entries_differ;   /* the tree just scanned is not what the objects call for */
    uint64_t bad_count;    /* objects that make no sense */
    uint64_t bad_timestamp;
};

typedef void visit_value(void *context, const uint8_t *value);

/* The newest value of each key, tombstones left out. False: a block cannot be read any more. */
static bool scan(struct verify *verify, visit_value *visit, void *context)
{
    const uint32_t key_size = verify->tree_version.shape.key_size;
    struct key key_min = {0};
    struct key key_max = {0};
    memset(key_max.bytes, 0xff, key_size);
    scan_tree_open(&verify->scan, verify->geometry, &verify->grid, &verify->tree_version, &key_min,
                   &key_max, false, verify->scan_spare);
    const uint8_t *value = NULL;
    enum status status = scan_tree_next(&verify->scan, &value);
    while (status == STATUS_OK && value != NULL) {
        visit(context, value);
        status = scan_tree_next(&verify->scan, &value);
    }
    if (status != STATUS_OK) {
        verify_problem(
            verify, "grid: %s: the block at address %llu was whole and is not any more: %s",
            verify->tree_name, (unsigned long long)verify->scan.bad_address, status_text(status));
    }
    scan_tree_close(&verify->scan);
    return status == STATUS_OK;
}

/* ---- One groove: objects, ids, indexes ---------------------------------------------------------
 */

static void multiset_add(struct multiset *set, const uint8_t *bytes, uint32_t size)
{
    const struct checksum checksum = checksum_of(bytes, size);
    u128 hash;
    memcpy(&hash, checksum.bytes, sizeof hash);
    set->count += 1;
    set->sum += hash;
}

/* A live object; its fields lie where they lie in an image. */
static void visit_object(void *context, const uint8_t *value)
{
    struct groove_check *check = context;
    const uint64_t timestamp = load_u64_be(value);
    const uint64_t version = load_u64_be(value + 8);
    static const uint8_t id_zero[ID_SIZE];
    if (timestamp == 0 || version < timestamp || version > check->verify->checkpoint->timestamp ||
        memcmp(value + 16, id_zero, ID_SIZE) == 0 || !schema_image_valid(check->schema, value)) {
        check->bad_count += 1;
        check->bad_timestamp = timestamp;
    }
    check->object_count += 1;

    uint8_t id_value[ID_VALUE_SIZE];
    memcpy(id_value, value + 16, ID_SIZE);
    memcpy(id_value + ID_SIZE, value, 8);
    multiset_add(&check->expected[TREE_ID], id_value, ID_VALUE_SIZE);
    for (uint32_t i = 0; i < check->schema->spec.index_count; i++) {
        uint8_t key[KEY_SIZE_MAX];
        if (schema_index_key(check->schema, i, value, timestamp, key)) {
            multiset_add(&check->expected[TREE_INDEX + i], key,
                         schema_index_entry_size(check->schema, i));
        }
    }
}

static void visit_entry(void *context, const uint8_t *value)
{
    struct groove_check *check = context;
    multiset_add(&check->found, value, check->found_size);
}

static void check_objects(struct groove_check *check)
{
    struct verify *verify = check->verify;
    check->objects_known = scan(verify, visit_object, check);
    if (check->bad_count > 0) {
        verify_problem(
            verify,
            "grid: %s: %llu objects have times, an id or fields that cannot be; the last has "
            "timestamp %llu",
            verify->tree_name, (unsigned long long)check->bad_count,
            (unsigned long long)check->bad_timestamp);
    }
    if (check->objects_known && check->object_count != check->groove->object_count) {
        verify_problem(verify, "state: %s holds %llu objects, the state says %llu",
                       verify->tree_name, (unsigned long long)check->object_count,
                       (unsigned long long)check->groove->object_count);
    }
}

static void check_entries(struct groove_check *check, uint32_t position)
{
    struct verify *verify = check->verify;
    check->entries_differ = false;
    check->found = (struct multiset){0};
    check->found_size = verify->tree_version.shape.value_size;
    if (!scan(verify, visit_entry, check)) {
        return;
    }
    const struct multiset *expected = &check->expected[position];
    check->entries_differ =
        check->found.count != expected->count || check->found.sum != expected->sum;
    if (check->found.count != expected->count) {
        verify_problem(verify, "grid: %s holds %llu entries, the objects call for %llu",
                       verify->tree_name, (unsigned long long)check->found.count,
                       (unsigned long long)expected->count);
    } else if (check->found.sum != expected->sum) {
        verify_problem(verify,
                       "grid: %s holds %llu entries as it should, but some are not those of the "
                       "objects",
                       verify->tree_name, (unsigned long long)check->found.count);
    }
}

/* ---- Objects that share what must be unique ----------------------------------------------------
 *
 * A unique index has one entry per value. So where it agrees with the objects, no two of them share
 * a value; only where it does not must they be searched: all entries that the objects call for,
 * sorted, as many at once as memory allows, which parts of the values by their hash make few
 * enough. */

struct duplicate_search {
    const struct groove_schema *schema;
    uint32_t index;
    uint32_t entry_size;
    uint64_t part, part_count;
    uint8_t *rows; /* [row_max * entry_size] entries of this part */
    uint64_t row_max;
    uint64_t row_count;
    uint64_t found; /* objects with a value that an older one has */
    uint64_t older_timestamp, newer_timestamp;
};

static void visit_row(void *context, const uint8_t *value)
{
    struct duplicate_search *search = context;
    uint8_t entry[KEY_SIZE_MAX];
    if (!schema_index_key(search->schema, search->index, value, load_u64_be(value), entry)) {
        return;
    }
    const uint32_t prefix_size = search->schema->indexes[search->index].prefix_size;
    /* A part that overflows all the same does so by values that are the same. */
    if (filter_hash(entry, prefix_size) % search->part_count == search->part &&
        search->row_count < search->row_max) {
        memcpy(search->rows + search->row_count * search->entry_size, entry, search->entry_size);
        search->row_count += 1;
    }
}

static void search_rows(struct duplicate_search *search, uint8_t *scratch)
{
    const uint32_t prefix_size = search->schema->indexes[search->index].prefix_size;
    values_ops_for(prefix_size, search->entry_size)
        ->sort(search->rows, scratch, (uint32_t)search->row_count, search->entry_size);
    for (uint64_t i = 1; i < search->row_count; i++) {
        const uint8_t *row = search->rows + i * search->entry_size;
        const uint8_t *before = row - search->entry_size;
        if (memcmp(before, row, prefix_size) == 0) {
            search->found += 1;
            search->older_timestamp = load_u64_be(before + prefix_size);
            search->newer_timestamp = load_u64_be(row + prefix_size);
        }
    }
}

/* The object tree is sound: it has been scanned before. */
static void name_duplicates(struct groove_check *check, uint32_t index)
{
    struct verify *verify = check->verify;
    const struct tree_shape *shape = &check->groove->trees[TREE_OBJECT]->shape;
    struct duplicate_search search = {
        .schema = check->schema,
        .index = index,
        .entry_size = schema_index_entry_size(check->schema, index),
        .row_max = min_u64(max_u64(check->object_count, 1), DUPLICATE_ROW_MAX),
    };
    search.part_count = check->object_count <= search.row_max
                            ? 1
                            : div_ceil(check->object_count, search.row_max / 4 * 3);
    const size_t rows_size = search.row_max * search.entry_size;
    search.rows = memory_acquire(2 * rows_size);
    if (search.rows == NULL) {
        verify_problem(verify, "memory: %s", status_text(STATUS_NO_MEMORY));
        return;
    }
    struct run_arena arena = {0};
    bool whole = verify_tree_attach(verify, shape, &arena);
    for (search.part = 0; search.part < search.part_count && whole; search.part++) {
        search.row_count = 0;
        whole = scan(verify, visit_row, &search);
        search_rows(&search, search.rows + rows_size);
    }
    verify_tree_detach(verify, &arena);
    memory_release(search.rows, 2 * rows_size);
    if (search.found > 0) {
        verify_problem(
            verify,
            "grid: %s is unique, and %llu objects have a value that an older one has; the last "
            "pair has timestamps %llu and %llu",
            verify->tree_name, (unsigned long long)search.found,
            (unsigned long long)search.older_timestamp, (unsigned long long)search.newer_timestamp);
    }
}

/* ---- Every groove ---- */

static void tree_name(const struct groove_check *check, uint32_t position, char *text,
                      size_t text_size)
{
    const uint32_t tree_id = check->groove->trees[position]->shape.tree_id;
    const struct groove_spec *spec = &check->schema->spec;
    if (position < TREE_INDEX) {
        snprintf(text, text_size, "%s tree %u of groove '%s'",
                 position == TREE_OBJECT ? "object" : "id", tree_id, spec->name);
    } else {
        snprintf(text, text_size, "tree %u of index '%s' of groove '%s'", tree_id,
                 spec->indexes[position - TREE_INDEX].name, spec->name);
    }
}

static void check_groove(struct verify *verify, const struct catalog_groove *groove)
{
    struct groove_check check = {
        .verify = verify,
        .groove = groove,
        .schema = &groove->schema->schema,
    };
    for (uint32_t i = 0; i < groove->tree_count; i++) {
        tree_name(&check, i, verify->tree_name, sizeof verify->tree_name);
        struct run_arena arena = {0};
        const bool sound = verify_tree(verify, groove, groove->trees[i], &arena);
        /* Of a groove that is being dropped some tables are gone already. */
        const bool comparable = sound && !groove->dropping;
        if (comparable && i == TREE_OBJECT) {
            check_objects(&check);
        } else if (comparable && check.objects_known) {
            check_entries(&check, i);
        }
        verify_tree_detach(verify, &arena);
        if (comparable && i >= TREE_INDEX && check.entries_differ &&
            schema_index_unique(check.schema, i - TREE_INDEX)) {
            name_duplicates(&check, i - TREE_INDEX);
        }
    }
    verify->report->grooves += !groove->dropping;
}

void verify_grooves(struct verify *verify)
{
    if (!verify->catalog_known) {
        verify->reach_whole = false; /* Without shapes no table can be read. */
        return;
    }
    for (uint64_t i = 0; i < verify->table_count; i++) {
        const struct table_info *info = &verify->tables[i];
        if (catalog_tree_for_id(&verify->catalog, info->tree_id) == NULL) {
            verify_problem(verify,
                           "manifest log: the table at address %llu is of tree %u, which no "
                           "groove has",
                           (unsigned long long)info->index.address, info->tree_id);
            verify->reach_whole = false;
        }
    }
    verify_spills(verify);
    for (const struct catalog_groove *groove = catalog_after(&verify->catalog, 0); groove != NULL;
         groove = catalog_after(&verify->catalog, groove->groove_id)) {
        check_groove(verify, groove);
    }
}
