/* Goal: events do to objects, ids and indexes exactly what they say, within one batch and over
 * many, what is refused changes nothing, and what is taken back has not been. Method: random
 * batches, with ids that come several times, against a table of objects; stretches of them are
 * undone, and then all that they could have touched must be what it was, byte for byte; afterwards
 * every tree, flattened, must be what that table gives. Disks and prefetches are left out: entries
 * are filled in from the table. */
#include "engine/groove.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "engine/chain.h"
#include "engine/object.h"
#include "pool/base.h"
#include "pool/memory.h"
#include "tests/harness/catalog_fixture.h"
#include "tests/harness/prng.h"

enum {
    KEY_COUNT = 200,
    EVENT_MAX = 40,
    OBJECT_SIZE = 72,
    BATCHES = 30,
    FLAT_MAX = 8192,
    MEMORY_SIZE = 1 << 20,
    OWNER_MEMORY_SIZE = EVENT_MAX * KEY_SIZE_MAX,
    SENTINEL = 0xA5,
};

/* The layout of the groove's objects. */
struct thing {
    uint8_t id[16];
    uint64_t timestamp;
    uint64_t version;
    uint64_t a;
    uint32_t b;
    uint8_t flag;
    char note[20];
    uint8_t padding[7];
};
static_assert(sizeof(struct thing) == OBJECT_SIZE, "as the spec lays it out");

struct row {
    bool exists;
    struct thing thing;
};

static struct catalog_fixture fixture;
static struct catalog_groove *groove;
static struct prng prng;
static struct row rows[KEY_COUNT];
static uint8_t *memory, *scratch;
static uint64_t b_count; /* values that random things have in b */
static struct owner_list owners[INDEX_COUNT_MAX];
static uint8_t *owner_memory; /* [INDEX_COUNT_MAX * OWNER_MEMORY_SIZE] */
static struct groove_entry entries[KEY_COUNT];
static struct chain chain;

static void init(void)
{
    const struct geometry geometry = geometry_tiny();
    catalog_fixture_init(&fixture, &geometry);
    struct groove_spec spec = {.name = "things"};
    catalog_fixture_field(&spec, "a", FIELD_TYPE_U64, 8);
    catalog_fixture_field(&spec, "b", FIELD_TYPE_U32, 4);
    catalog_fixture_field(&spec, "flag", FIELD_TYPE_BOOL, 1);
    catalog_fixture_field(&spec, "note", FIELD_TYPE_TEXT, 20);
    catalog_fixture_index(&spec, "by_a", 0, 0);
    catalog_fixture_index(&spec, "by_b", 1, INDEX_FLAG_SPARSE);
    catalog_fixture_index(&spec, "by_note", 3, 0);
    groove = catalog_fixture_create(&fixture, &spec);
    cr_assert(eq(u32, groove->schema->schema.object_size, OBJECT_SIZE));
    cr_assert(eq(u32, groove->schema->schema.fields[3].offset, offsetof(struct thing, note)));
    memory = memory_acquire(MEMORY_SIZE);
    scratch = memory_acquire(MEMORY_SIZE);
    owner_memory = memory_acquire((size_t)INDEX_COUNT_MAX * OWNER_MEMORY_SIZE);
    cr_assert(ge(u32, geometry.batch_event_max, EVENT_MAX));
    cr_assert(eq(int, chain_init(&chain, &geometry), STATUS_OK));
    b_count = 3;
}

/* The same things, but no two may have the same a, nor the same b, unless that is zero. */
static void init_unique(void)
{
    struct groove_spec spec = groove->schema->schema.spec;
    strcpy(spec.name, "single");
    spec.indexes[0].flags = INDEX_FLAG_UNIQUE;
    spec.indexes[1].flags = INDEX_FLAG_UNIQUE | INDEX_FLAG_SPARSE;
    groove = catalog_fixture_create(&fixture, &spec);
    b_count = 12;
}

static void fini(void)
{
    memory_release(memory, MEMORY_SIZE);
    memory_release(scratch, MEMORY_SIZE);
    memory_release(owner_memory, (size_t)INDEX_COUNT_MAX * OWNER_MEMORY_SIZE);
    chain_deinit(&chain);
    catalog_fixture_deinit(&fixture);
}

TestSuite(groove, .init = init, .fini = fini, .timeout = 120);

static void make_id(uint8_t id[16], uint64_t key)
{
    struct prng ids;
    prng_init(&ids, key);
    prng_fill(&ids, id, 16);
}

static void random_thing(struct thing *thing, uint64_t key)
{
    memset(thing, 0, sizeof *thing);
    make_id(thing->id, key);
    thing->a = prng_below(&prng, 20);
    thing->b = (uint32_t)prng_below(&prng, b_count); /* 0 is left out of its index. */
    thing->flag = (uint8_t)prng_below(&prng, 2);
    const uint64_t length = prng_below(&prng, 20);
    for (uint64_t i = 0; i < length; i++) {
        thing->note[i] = (char)('a' + prng_below(&prng, 2));
    }
}

/* Whether a row other than this one has what must be the thing's alone. */
static bool model_taken(const struct row *row, const struct thing *thing)
{
    const struct groove_schema *schema = &groove->schema->schema;
    for (uint64_t key = 0; key < KEY_COUNT; key++) {
        const struct thing *other = &rows[key].thing;
        if (!rows[key].exists || &rows[key] == row) {
            continue;
        }
        if ((schema_index_unique(schema, 0) && other->a == thing->a) ||
            (schema_index_unique(schema, 1) && other->b == thing->b && thing->b != 0)) {
            return true;
        }
    }
    return false;
}

/* What one event must answer; the row changes with it. */
static enum event_result model_apply(enum event_type type, struct event_guard guard,
                                     struct row *row, const struct thing *thing, uint64_t timestamp)
{
    if (load_u64_le(thing->id) == 0 && load_u64_le(thing->id + 8) == 0) {
        return EVENT_RESULT_ID_ZERO;
    }
    if ((guard.kind == EVENT_GUARD_ABSENT && row->exists) ||
        (guard.kind == EVENT_GUARD_PRESENT && !row->exists) ||
        (guard.kind == EVENT_GUARD_VERSION &&
         (!row->exists || row->thing.version != guard.version))) {
        return EVENT_RESULT_GUARD;
    }
    if (type == EVENT_TYPE_CHECK) {
        return EVENT_RESULT_OK;
    }
    if (type == EVENT_TYPE_REMOVE) {
        const bool existed = row->exists;
        row->exists = false;
        return existed ? EVENT_RESULT_OK : EVENT_RESULT_NOT_FOUND;
    }
    if (thing->timestamp != 0 || thing->version != 0) {
        return EVENT_RESULT_RESERVED_NOT_ZERO;
    }
    if (thing->flag > 1) {
        return EVENT_RESULT_BAD_VALUE;
    }
    if (type == EVENT_TYPE_INSERT && row->exists) {
        return EVENT_RESULT_EXISTS;
    }
    if (type == EVENT_TYPE_UPDATE && !row->exists) {
        return EVENT_RESULT_NOT_FOUND;
    }
    if (model_taken(row, thing)) {
        return EVENT_RESULT_UNIQUE;
    }
    const uint64_t born = row->exists ? row->thing.timestamp : timestamp;
    row->exists = true;
    row->thing = *thing;
    row->thing.timestamp = born;
    row->thing.version = timestamp;
    return EVENT_RESULT_OK;
}

/* What the prefetch would have found. `object` has room for the stored value. */
static void fill_entry(struct groove_entry *entry, const struct row *row, uint64_t key,
                       uint8_t *object)
{
    uint8_t id[16];
    make_id(id, key);
    *entry = (struct groove_entry){.exists = row->exists};
    id_reverse(entry->key, id);
    if (row->exists) {
        entry->timestamp = row->thing.timestamp;
        entry->wants_object = true;
        object_value_from_image(object, (const uint8_t *)&row->thing, OBJECT_SIZE,
                                row->thing.timestamp, row->thing.version);
        entry->object = object;
    }
}

/* What the prefetch would have found of the values of these things. */
static void fill_owners(const struct thing *things, uint32_t count)
{
    const struct groove_schema *schema = &groove->schema->schema;
    for (uint32_t i = 0; i < schema->spec.index_count; i++) {
        if (!schema_index_unique(schema, i)) {
            continue;
        }
        uint8_t found[KEY_SIZE_MAX];
        struct owner_list *list = &owners[i];
        owner_list_begin(list, schema->indexes[i].prefix_size,
                         owner_memory + (size_t)i * OWNER_MEMORY_SIZE);
        for (uint32_t k = 0; k < count; k++) {
            if (schema_index_key(schema, i, (const uint8_t *)&things[k], 0, found)) {
                owner_list_add(list, found);
            }
        }
        owner_list_seal(list, scratch);
        for (uint64_t key = 0; key < KEY_COUNT; key++) {
            if (!rows[key].exists ||
                !schema_index_key(schema, i, (const uint8_t *)&rows[key].thing, 0, found)) {
                continue;
            }
            for (uint32_t k = 0; k < list->count; k++) {
                if (memcmp(owner_list_entry(list, k), found, list->prefix_size) == 0) {
                    owner_list_set(list, k, rows[key].thing.timestamp);
                }
            }
        }
    }
}

/* Sometimes something that must be refused. */
static void spoil(struct thing *thing)
{
    switch (prng_below(&prng, 20)) {
    case 0:
        memset(thing->id, 0, sizeof thing->id);
        break;
    case 1:
        thing->timestamp = 1;
        break;
    case 2:
        thing->version = 1ull << 40;
        break;
    case 3:
        thing->flag = 2;
        break;
    default:
        break;
    }
}

static uint32_t results[EVENT_RESULT_LINKED + 1]; /* how often each was seen */
static uint32_t undone_count;

/* Mostly one that holds. */
static struct event_guard random_guard(enum event_type type, const struct row *row)
{
    if (type != EVENT_TYPE_CHECK && prng_chance(&prng, 1, 2)) {
        return (struct event_guard){EVENT_GUARD_NONE, 0};
    }
    struct event_guard guard = {EVENT_GUARD_ABSENT, 0};
    if (row->exists == prng_chance(&prng, 5, 6)) {
        guard.kind = prng_chance(&prng, 1, 3) ? EVENT_GUARD_PRESENT : EVENT_GUARD_VERSION;
    }
    if (guard.kind == EVENT_GUARD_VERSION) {
        guard.version = row->thing.version;
        if (prng_chance(&prng, 1, 5)) {
            guard.version = row->thing.timestamp;
        } else if (prng_chance(&prng, 1, 5)) {
            guard.version ^= 1ull << prng_below(&prng, 64);
        }
    }
    return guard;
}

/* What a chain can touch, as it was at its begin. */
static struct {
    bool open;
    struct row rows[KEY_COUNT];
    struct groove_entry entries[KEY_COUNT];
    uint8_t owners[INDEX_COUNT_MAX * OWNER_MEMORY_SIZE];
    uint32_t counts[GROOVE_TREE_COUNT_MAX];
    uint64_t object_count;
} before;

static void chain_open(const struct groove_write *write)
{
    chain_begin(&chain);
    before.open = true;
    memcpy(before.rows, rows, sizeof rows);
    memcpy(before.entries, entries, sizeof entries);
    memcpy(before.owners, owner_memory, sizeof before.owners);
    for (uint32_t i = 0; i < groove->tree_count; i++) {
        before.counts[i] = write->trees[i].count;
    }
    before.object_count = groove->object_count;
}

static void chain_close(struct groove_write *write, bool undo)
{
    before.open = false;
    if (!undo) {
        return;
    }
    chain_undo(&chain, write);
    undone_count += 1;
    memcpy(rows, before.rows, sizeof rows);
    cr_assert(eq(int, memcmp(entries, before.entries, sizeof entries), 0));
    cr_assert(eq(int, memcmp(owner_memory, before.owners, sizeof before.owners), 0));
    for (uint32_t i = 0; i < groove->tree_count; i++) {
        cr_assert(eq(u32, write->trees[i].count, before.counts[i]));
    }
    cr_assert(eq(u64, groove->object_count, before.object_count));
}

static void random_batch(uint64_t *timestamp)
{
    static uint8_t objects[KEY_COUNT][OBJECT_SIZE];
    static struct thing things[EVENT_MAX];
    static uint64_t keys[EVENT_MAX];
    for (uint64_t key = 0; key < KEY_COUNT; key++) {
        fill_entry(&entries[key], &rows[key], key, objects[key]);
    }
    const uint32_t count = (uint32_t)prng_range(&prng, 1, EVENT_MAX);
    const uint64_t range = prng_chance(&prng, 1, 3) ? 4 : KEY_COUNT; /* The same ids again. */
    const uint64_t size = groove_write_size(&groove->schema->schema, count);
    cr_assert(size < MEMORY_SIZE - 64);
    memset(memory + size, SENTINEL, 64);
    for (uint32_t i = 0; i < count; i++) {
        keys[i] = prng_below(&prng, range);
        random_thing(&things[i], keys[i]);
        spoil(&things[i]);
    }
    fill_owners(things, count);
    struct groove_write write;
    groove_write_begin(&write, groove, count, owners, memory);
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t key = keys[i];
        const enum event_type type =
            (enum event_type)prng_range(&prng, EVENT_TYPE_INSERT, EVENT_TYPE_CHECK);
        const struct event_guard guard = random_guard(type, &rows[key]);
        *timestamp += 1;
        if (!before.open && prng_chance(&prng, 1, 5)) {
            chain_open(&write);
        }
        if (before.open) {
            chain_note(&chain, 0, &write, &entries[key]);
        }
        const enum event_result expected =
            model_apply(type, guard, &rows[key], &things[i], *timestamp);
        const enum event_result actual = groove_write_event(
            &write, type, guard, (const uint8_t *)&things[i], &entries[key], *timestamp);
        cr_assert(eq(int, actual, expected), "event of type %d", (int)type);
        results[actual] += 1;
        cr_assert(eq(int, entries[key].exists, rows[key].exists));
        if (before.open && (i + 1 == count || prng_chance(&prng, 1, 4))) {
            chain_close(&write, prng_chance(&prng, 1, 2));
        }
    }
    uint64_t empty_before = 0, empty_after = 0;
    for (uint32_t i = 0; i < groove->tree_count; i++) {
        empty_before += groove->trees[i]->mutable_table.run_count == 0;
    }
    const uint64_t added = groove_write_finish(&write, scratch, &fixture.arena, &fixture.nodes,
                                               &fixture.tree_versions);
    for (uint32_t i = 0; i < groove->tree_count; i++) {
        empty_after += groove->trees[i]->mutable_table.run_count == 0;
    }
    cr_assert(le(u64, added, size));
    cr_assert(le(u64, empty_after, empty_before));
    for (int i = 0; i < 64; i++) {
        cr_assert(eq(u8, memory[size + (uint64_t)i], SENTINEL));
    }
}

/* ---- Trees against the table -------------------------------------------------------------------
 */

static uint8_t flat[FLAT_MAX * OBJECT_SIZE], flat_scratch[FLAT_MAX * OBJECT_SIZE];
static uint8_t wanted[FLAT_MAX * OBJECT_SIZE];

/* All values of a tree's runs, the newest of each key, without tombstones. */
static uint32_t flatten(const struct tree *tree)
{
    const struct tree_shape *shape = &tree->shape;
    uint32_t count = 0;
    for (uint32_t i = 0; i < tree->mutable_table.run_count; i++) {
        const struct run *run = tree->mutable_table.runs[i];
        for (uint64_t k = 0; k < run->value_count; k++) {
            cr_assert(count < FLAT_MAX);
            memcpy(flat + (size_t)count * shape->value_size, run_value(run, k), shape->value_size);
            count += 1;
        }
    }
    shape->ops->sort(flat, flat_scratch, count, shape->value_size);
    count = shape->ops->dedupe(flat, count, shape->value_size);
    return shape->ops->drop_tombstones(flat, count, shape->value_size);
}

static void check_tree(uint32_t position)
{
    const struct tree *tree = groove->trees[position];
    const uint32_t value_size = tree->shape.value_size;
    uint32_t count = 0;
    for (uint64_t key = 0; key < KEY_COUNT; key++) {
        const struct thing *thing = &rows[key].thing;
        if (!rows[key].exists) {
            continue;
        }
        uint8_t *value = wanted + (size_t)count * value_size;
        memset(value, 0, value_size);
        if (position == TREE_OBJECT) {
            object_value_from_image(value, (const uint8_t *)thing, OBJECT_SIZE, thing->timestamp,
                                    thing->version);
        } else if (position == TREE_ID) {
            id_reverse(value, thing->id);
            store_u64_be(value + ID_SIZE, thing->timestamp);
        } else if (!schema_index_key(&groove->schema->schema, position - TREE_INDEX,
                                     (const uint8_t *)thing, thing->timestamp, value)) {
            continue;
        }
        count += 1;
    }
    tree->shape.ops->sort(wanted, flat_scratch, count, value_size);
    cr_assert(eq(u32, flatten(tree), count), "tree %u", position);
    cr_assert(eq(int, memcmp(flat, wanted, (size_t)count * value_size), 0), "tree %u", position);
}

static void check_all(void)
{
    uint64_t total = 0;
    for (uint64_t key = 0; key < KEY_COUNT; key++) {
        total += rows[key].exists;
    }
    cr_assert(eq(u64, groove->object_count, total));
    for (uint32_t i = 0; i < groove->tree_count; i++) {
        check_tree(i);
    }
}

static void random_batches_from_nothing(void)
{
    for (uint64_t seed = 0; seed < 25; seed++) {
        prng_init(&prng, seed);
        memset(rows, 0, sizeof rows);
        groove->object_count = 0;
        for (uint32_t i = 0; i < groove->tree_count; i++) {
            tree_clear_memory(groove->trees[i], &fixture.arena, &fixture.nodes,
                              &fixture.tree_versions);
        }
        uint64_t timestamp = 1000;
        for (int i = 0; i < BATCHES; i++) {
            random_batch(&timestamp);
            check_all();
        }
    }
}

Test(groove, random_batches_agree_with_the_table)
{
    random_batches_from_nothing();
    cr_assert(eq(u32, results[EVENT_RESULT_UNIQUE], 0));
    cr_assert(results[EVENT_RESULT_GUARD] > 500, "%u", results[EVENT_RESULT_GUARD]);
    cr_assert(undone_count > 500, "%u", undone_count);
}

Test(groove, random_batches_on_unique_indexes_agree_with_the_table)
{
    init_unique();
    random_batches_from_nothing();
    cr_assert(results[EVENT_RESULT_UNIQUE] > 1000, "%u", results[EVENT_RESULT_UNIQUE]);
    cr_assert(results[EVENT_RESULT_OK] > 1000, "%u", results[EVENT_RESULT_OK]);
    cr_assert(undone_count > 500, "%u", undone_count);
}

/* ---- One event at a time -----------------------------------------------------------------------
 */

static struct groove_write one;
static struct groove_entry entry;

static enum event_result apply(enum event_type type, const struct thing *thing, uint64_t timestamp)
{
    const struct event_guard guard = {EVENT_GUARD_NONE, 0};
    return groove_write_event(&one, type, guard, (const uint8_t *)thing, &entry, timestamp);
}

static void begin(struct thing *thing)
{
    prng_init(&prng, 1);
    random_thing(thing, 7);
    thing->b = 1;
    entry = (struct groove_entry){0};
    id_reverse(entry.key, thing->id);
    groove_write_begin(&one, groove, EVENT_MAX, owners, memory);
}

Test(groove, an_update_that_changes_no_indexed_field_leaves_the_indexes_alone)
{
    struct thing thing;
    begin(&thing);
    cr_assert(eq(int, apply(EVENT_TYPE_INSERT, &thing, 10), EVENT_RESULT_OK));
    thing.flag ^= 1;
    cr_assert(eq(int, apply(EVENT_TYPE_UPDATE, &thing, 11), EVENT_RESULT_OK));
    cr_assert(eq(u32, one.trees[TREE_OBJECT].count, 2));
    cr_assert(eq(u32, one.trees[TREE_ID].count, 1));
    for (uint32_t i = TREE_INDEX; i < groove->tree_count; i++) {
        cr_assert(eq(u32, one.trees[i].count, 1));
    }
    thing.a += 1;
    cr_assert(eq(int, apply(EVENT_TYPE_UPDATE, &thing, 12), EVENT_RESULT_OK));
    cr_assert(eq(u32, one.trees[TREE_INDEX].count, 3)); /* Away from one value, to another. */
    cr_assert(eq(u32, one.trees[TREE_INDEX + 1].count, 1));
    cr_assert(eq(u32, one.trees[TREE_INDEX + 2].count, 1));
}

Test(groove, an_update_keeps_the_timestamp_and_moves_the_version)
{
    struct thing thing;
    begin(&thing);
    (void)apply(EVENT_TYPE_INSERT, &thing, 10);
    (void)apply(EVENT_TYPE_UPSERT, &thing, 15);
    struct thing image;
    object_image_from_value((uint8_t *)&image, entry.object, OBJECT_SIZE);
    cr_assert(eq(u64, image.timestamp, 10));
    cr_assert(eq(u64, image.version, 15));
    image.timestamp = 0;
    image.version = 0;
    cr_assert(eq(int, memcmp(&image, &thing, sizeof thing), 0));
}

Test(groove, what_is_refused_leaves_no_trace)
{
    struct thing thing;
    begin(&thing);
    cr_assert(eq(int, apply(EVENT_TYPE_UPDATE, &thing, 10), EVENT_RESULT_NOT_FOUND));
    cr_assert(eq(int, apply(EVENT_TYPE_REMOVE, &thing, 11), EVENT_RESULT_NOT_FOUND));
    thing.flag = 7;
    cr_assert(eq(int, apply(EVENT_TYPE_UPSERT, &thing, 12), EVENT_RESULT_BAD_VALUE));
    thing.padding[3] = 1;
    thing.flag = 0;
    cr_assert(eq(int, apply(EVENT_TYPE_UPSERT, &thing, 12), EVENT_RESULT_BAD_VALUE));
    for (uint32_t i = 0; i < groove->tree_count; i++) {
        cr_assert(eq(u32, one.trees[i].count, 0));
    }
    cr_assert(eq(
        u64,
        groove_write_finish(&one, scratch, &fixture.arena, &fixture.nodes, &fixture.tree_versions),
        0));
    cr_assert(tree_is_empty(groove->trees[TREE_OBJECT]));
    cr_assert(eq(u64, groove->object_count, 0));
}

Test(groove, the_worst_events_fit_the_memory_they_are_given)
{
    /* Updates of every indexed field: two entries in each index for every event. */
    struct thing thing;
    begin(&thing);
    (void)apply(EVENT_TYPE_INSERT, &thing, 10);
    for (uint32_t i = 1; i < EVENT_MAX; i++) {
        thing.a += 1;
        thing.b += 1;
        thing.note[0] = (char)('a' + i % 26);
        cr_assert(eq(int, apply(EVENT_TYPE_UPDATE, &thing, 10 + i), EVENT_RESULT_OK));
    }
    uint64_t size = 0;
    for (uint32_t i = 0; i < groove->tree_count; i++) {
        const uint32_t value_size = groove->trees[i]->shape.value_size;
        const uint8_t *end = one.trees[i].values + (size_t)one.trees[i].count * value_size;
        cr_assert(i + 1 == groove->tree_count || end <= one.trees[i + 1].values);
        size = (uint64_t)(end - memory);
    }
    cr_assert(le(u64, size, groove_write_size(&groove->schema->schema, EVENT_MAX)));
}

/* ---- Contracts ---------------------------------------------------------------------------------
 */

Test(groove, an_event_on_a_damaged_entry_is_a_bug, .signal = SIGABRT)
{
    struct thing thing;
    begin(&thing);
    entry.damaged = true;
    (void)apply(EVENT_TYPE_INSERT, &thing, 10);
}

Test(groove, a_version_without_the_object_is_a_bug, .signal = SIGABRT)
{
    struct thing thing;
    begin(&thing);
    entry.exists = true;
    const struct event_guard guard = {EVENT_GUARD_VERSION, 3};
    (void)groove_write_event(&one, EVENT_TYPE_INSERT, guard, (const uint8_t *)&thing, &entry, 10);
}

Test(groove, a_check_of_nothing_is_a_bug, .signal = SIGABRT)
{
    struct thing thing;
    begin(&thing);
    (void)apply(EVENT_TYPE_CHECK, &thing, 10);
}

Test(groove, an_update_without_the_old_object_is_a_bug, .signal = SIGABRT)
{
    struct thing thing;
    begin(&thing);
    entry.exists = true;
    entry.timestamp = 3;
    (void)apply(EVENT_TYPE_UPDATE, &thing, 10);
}

Test(groove, writing_to_a_dropped_groove_is_a_bug, .signal = SIGABRT)
{
    catalog_drop(groove);
    groove_write_begin(&one, groove, EVENT_MAX, owners, memory);
}

Test(groove, more_events_than_announced_is_a_bug, .signal = SIGABRT)
{
    struct thing thing;
    begin(&thing);
    groove_write_begin(&one, groove, 1, owners, memory);
    (void)apply(EVENT_TYPE_INSERT, &thing, 10);
    (void)apply(EVENT_TYPE_UPDATE, &thing, 11);
}

Test(groove, a_value_whose_owner_is_unknown_is_a_bug, .signal = SIGABRT)
{
    init_unique();
    struct thing thing;
    begin(&thing);
    fill_owners(&thing, 1);
    owner_list_set(&owners[0], 0, OWNER_UNKNOWN);
    (void)apply(EVENT_TYPE_INSERT, &thing, 10);
}
