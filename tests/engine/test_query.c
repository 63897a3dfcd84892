/* Goal: lookups, queries and counts give exactly the objects that the groove holds, in the order
 * that was asked for, whatever lies where. Method: a groove with an exact, a composite, a sparse
 * and an inexact index, whose trees are built layer by layer from random inserts, updates and
 * removes, beside a plain array of objects; every read compared with a walk over that array. Then
 * bad requests, and damaged and unreadable blocks. */
#include "engine/query.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "engine/object.h"
#include "pool/memory.h"
#include "tests/harness/tree_model.h"

enum {
    OBJECT_MAX = 3000,
    INDEX_COUNT = 4,
    TREE_COUNT = 2 + INDEX_COUNT, /* object, id, indexes */
    IMAGE_SIZE = 96,
    COMMIT = 77,
    GROOVE_ID = 3,
};

/* Fields of the groove, where the layout puts them. */
enum { KIND_OFFSET = 32, SCORE_OFFSET = 36, PARENT_OFFSET = 40, NAME_OFFSET = 56 };

struct model_object {
    uint8_t image[IMAGE_SIZE];
    bool alive;
};

/* What one layer says about one tree. */
struct layer {
    uint8_t values[2 * OBJECT_MAX * IMAGE_SIZE];
    uint32_t count;
};

static struct tree_fixture fixture;
static struct tree_fixture_tree trees[TREE_COUNT];
static struct schema_object schema_object;
static struct groove_version groove;
static struct version version;
static struct read_request request;
static struct read_scratch scratch;
static struct prng prng, slice_prng;
static uint64_t yield_count;

static struct model_object objects[OBJECT_MAX];
static uint32_t object_count; /* dead ones included */
static uint64_t clock_now;
static struct layer layers[TREE_COUNT];
static uint8_t sort_memory[2 * OBJECT_MAX * IMAGE_SIZE];
static uint8_t input[OBJECT_MAX * 16];

static const struct groove_schema *schema(void)
{
    return &schema_object.schema;
}

static void make_schema(void)
{
    struct groove_spec spec = {.name = "things", .field_count = 4, .index_count = INDEX_COUNT};
    const char *fields[][2] = {
        {"kind", "u32"}, {"score", "i16"}, {"parent", "u128"}, {"name", "text<40>"}};
    for (int i = 0; i < 4; i++) {
        strcpy(spec.fields[i].name, fields[i][0]);
        cr_assert(field_type_parse(fields[i][1], &spec.fields[i]));
    }
    spec.indexes[0] = (struct index_spec){.name = "kind", .field_count = 1, .fields = {0}};
    spec.indexes[1] = (struct index_spec){.name = "kind_score", .field_count = 2, .fields = {0, 1}};
    spec.indexes[2] = (struct index_spec){
        .name = "parent", .field_count = 1, .fields = {2}, .flags = INDEX_FLAG_SPARSE};
    spec.indexes[3] = (struct index_spec){.name = "name", .field_count = 1, .fields = {3}};
    char reason[256];
    cr_assert(
        eq(int,
           schema_build(&fixture.geometry, &spec, &schema_object.schema, reason, sizeof reason),
           STATUS_OK),
        "%s", reason);
    cr_assert(eq(u32, schema()->object_size, IMAGE_SIZE));
    cr_assert(eq(u32, schema()->fields[3].offset, NAME_OFFSET));
    cr_assert(not(schema()->indexes[3].exact));
}

static void init(void)
{
    const struct geometry geometry = geometry_tiny();
    tree_fixture_init(&fixture, &geometry, 256);
    make_schema();
    cr_assert(eq(int, read_scratch_init(&scratch, &geometry), STATUS_OK));
    request.reply_capacity = OBJECT_MAX * IMAGE_SIZE + 50;
    request.reply = memory_acquire(request.reply_capacity);
    cr_assert(request.reply != NULL);
}

static void fini(void)
{
    memory_release(request.reply, request.reply_capacity);
    read_scratch_deinit(&scratch);
    tree_fixture_deinit(&fixture);
}

TestSuite(query, .init = init, .fini = fini, .timeout = 120);

/* ---- Building ---------------------------------------------------------------------------------
 */

static void put(uint32_t tree, const uint8_t *value, bool tombstone)
{
    const struct tree_shape *shape = &trees[tree].version.shape;
    struct layer *layer = &layers[tree];
    uint8_t *target = layer->values + (size_t)layer->count * shape->value_size;
    cr_assert(layer->count < sizeof layer->values / shape->value_size);
    memcpy(target, value, shape->value_size);
    if (tombstone) {
        value_set_tombstone(target, shape->key_size, shape->value_size);
    }
    layer->count += 1;
}

static void put_object(const uint8_t *image, bool tombstone)
{
    uint8_t value[IMAGE_SIZE];
    object_value_from_image(value, image, IMAGE_SIZE, load_u64_le(image + 16),
                            load_u64_le(image + 24));
    put(0, value, tombstone);
}

static void put_id(const uint8_t *image, bool tombstone)
{
    uint8_t value[ID_VALUE_SIZE];
    id_reverse(value, image);
    store_u64_be(value + ID_SIZE, load_u64_le(image + 16));
    put(1, value, tombstone);
}

static void put_index(uint32_t index, const uint8_t *image, bool tombstone)
{
    uint8_t key[KEY_SIZE_MAX];
    if (schema_index_key(schema(), index, image, load_u64_le(image + 16), key)) {
        put(2 + index, key, tombstone);
    }
}

/* Few kinds, scores and parents, so that queries find many; names that share their first bytes. */
static void random_fields(uint8_t *image)
{
    memset(image + 32, 0, IMAGE_SIZE - 32);
    image[KIND_OFFSET] = (uint8_t)prng_below(&prng, 3);
    const int16_t score = (int16_t)(prng_below(&prng, 5)) - 2;
    memcpy(image + SCORE_OFFSET, &score, 2);
    image[PARENT_OFFSET + prng_below(&prng, 16)] = (uint8_t)prng_below(&prng, 4);
    memset(image + NAME_OFFSET, 'n', 30);
    image[NAME_OFFSET + prng_below(&prng, 30)] = (uint8_t)prng_range(&prng, 'a', 'c');
    cr_assert(schema_image_valid(schema(), image));
}

static void insert_object(void)
{
    struct model_object *object = &objects[object_count++];
    memset(object, 0, sizeof *object);
    object->alive = true;
    prng_fill(&prng, object->image, ID_SIZE);
    object->image[0] |= 1;
    clock_now += prng_range(&prng, 1, 1000);
    store_u64_le(object->image + 16, clock_now);
    store_u64_le(object->image + 24, clock_now);
    random_fields(object->image);
    put_object(object->image, false);
    put_id(object->image, false);
    for (uint32_t i = 0; i < INDEX_COUNT; i++) {
        put_index(i, object->image, false);
    }
}

static void remove_object(struct model_object *object)
{
    object->alive = false;
    put_object(object->image, true);
    put_id(object->image, true);
    for (uint32_t i = 0; i < INDEX_COUNT; i++) {
        put_index(i, object->image, true);
    }
}

static void update_object(struct model_object *object)
{
    struct model_object old = *object;
    clock_now += 1;
    store_u64_le(object->image + 24, clock_now);
    random_fields(object->image);
    put_object(object->image, false);
    for (uint32_t i = 0; i < INDEX_COUNT; i++) {
        uint8_t old_key[KEY_SIZE_MAX] = {0};
        uint8_t new_key[KEY_SIZE_MAX] = {0};
        const uint64_t timestamp = load_u64_le(object->image + 16);
        const bool had = schema_index_key(schema(), i, old.image, timestamp, old_key);
        const bool has = schema_index_key(schema(), i, object->image, timestamp, new_key);
        if (had && has && memcmp(old_key, new_key, sizeof old_key) == 0) {
            continue;
        }
        put_index(i, old.image, true);
        put_index(i, object->image, false);
    }
}

/* Sorts what was put and makes it the newest layer of each tree: tables at `level`, or a run. */
static void seal_layer(uint32_t level)
{
    for (uint32_t t = 0; t < TREE_COUNT; t++) {
        const struct tree_shape *shape = &trees[t].version.shape;
        struct layer *layer = &layers[t];
        if (layer->count == 0) {
            continue;
        }
        shape->ops->sort(layer->values, sort_memory, layer->count, shape->value_size);
        cr_assert(shape->ops->verify(layer->values, layer->count, shape->value_size));
        if (level < LEVEL_COUNT) {
            const uint32_t table_values =
                (uint32_t)min_u64(layer->count / 3 + 1, shape->value_count_max);
            tree_fixture_add_tables(&fixture, &trees[t], level, layer->values, layer->count,
                                    table_values, 0);
        } else {
            tree_fixture_add_run(&fixture, &trees[t], layer->values, layer->count);
        }
        layer->count = 0;
    }
}

static void build(uint64_t seed)
{
    prng_init(&prng, seed);
    free_set_reset(&fixture.free_set);
    object_count = 0;
    clock_now = 1000;
    tree_fixture_tree_init(&fixture, &trees[0], 10, 8, IMAGE_SIZE, FILTER_KIND_KEY);
    tree_fixture_tree_init(&fixture, &trees[1], 11, ID_SIZE, ID_VALUE_SIZE, FILTER_KIND_KEY);
    for (uint32_t i = 0; i < INDEX_COUNT; i++) {
        const uint32_t key_size = schema()->indexes[i].prefix_size + 8u;
        tree_fixture_tree_init(&fixture, &trees[2 + i], 12 + i, key_size, key_size,
                               FILTER_KIND_PREFIX);
    }
    const uint32_t layer_size = (uint32_t)prng_range(&prng, 1, 300);
    for (uint32_t layer = 0; layer < LEVEL_COUNT + 3; layer++) {
        const uint32_t before = object_count;
        for (uint32_t i = 0; i < before; i++) {
            if (objects[i].alive && prng_chance(&prng, 1, 10)) {
                remove_object(&objects[i]);
            } else if (objects[i].alive && prng_chance(&prng, 1, 10)) {
                update_object(&objects[i]);
            }
        }
        for (uint32_t i = 0; i < layer_size; i++) {
            insert_object();
        }
        seal_layer(layer < LEVEL_COUNT ? LEVEL_COUNT - 1 - layer : LEVEL_COUNT);
    }

    groove = (struct groove_version){
        .groove_id = GROOVE_ID,
        .schema = &schema_object,
        .object_tree = &trees[0].version,
        .id_tree = &trees[1].version,
    };
    for (uint32_t i = 0; i < INDEX_COUNT; i++) {
        groove.index_trees[i] = &trees[2 + i].version;
    }
    for (uint32_t i = 0; i < object_count; i++) {
        groove.object_count += objects[i].alive;
    }
    version =
        (struct version){.pin_count = 1, .commit = COMMIT, .groove_count = 1, .grooves = &groove};
}

static void drop(void)
{
    for (uint32_t t = 0; t < TREE_COUNT; t++) {
        tree_fixture_tree_deinit(&fixture, &trees[t]);
    }
}

/* ---- Asking -----------------------------------------------------------------------------------
 */

/* Reads give way after little or much. */
static void slice_begin(void)
{
    scratch.hold.ticket.slice_size =
        prng_chance(&slice_prng, 1, 4)
            ? 0
            : READ_SLICE_SIZE - 1 - prng_below(&slice_prng, 8 * READ_SLICE_KEY_SIZE);
}

static enum status run(enum read_kind kind, uint32_t index, uint32_t limit, uint32_t input_size)
{
    request.kind = kind;
    request.groove_id = GROOVE_ID;
    request.index = index;
    request.limit = limit;
    request.input = input;
    request.input_size = input_size;
    request.result = REQUEST_RESULT_SHUTTING_DOWN;
    memset(request.reply, 0xEE, request.reply_capacity);
    slice_begin();
    enum status status = query_run(&fixture.geometry, &fixture.grid, &version, &request, &scratch);
    while (status == STATUS_YIELD) {
        yield_count += 1;
        if (yield_count % 8 == 0) { /* From the beginning. */
            query_abandon(&scratch);
            request.result = REQUEST_RESULT_SHUTTING_DOWN;
            memset(request.reply, 0xEE, request.reply_capacity);
            scratch.hold.ticket.slice_size = 0;
            status = query_run(&fixture.geometry, &fixture.grid, &version, &request, &scratch);
            continue;
        }
        slice_begin();
        status = query_resume(&fixture.geometry, &fixture.grid, &version, &request, &scratch);
    }
    return status;
}

static void check_reply_frame(uint64_t count)
{
    cr_assert(eq(int, request.result, REQUEST_RESULT_OK));
    cr_assert(eq(u64, request.count, count));
    cr_assert(eq(u64, request.commit, COMMIT));
    cr_assert(eq(u32, request.object_size, IMAGE_SIZE));
    cr_assert(eq(u32, request.reply_size, (uint32_t)count * IMAGE_SIZE));
    cr_assert(eq(u8, request.reply[request.reply_size], 0xEE)); /* Nothing behind the end. */
}

/* A random list of ids: living, dead, unknown, repeated, in no order. */
static void check_lookup(uint32_t id_count)
{
    static uint32_t expected[OBJECT_MAX];
    uint32_t expected_count = 0;
    for (uint32_t i = 0; i < id_count; i++) {
        const uint32_t n = (uint32_t)prng_below(&prng, object_count);
        memcpy(input + (size_t)i * ID_SIZE, objects[n].image, ID_SIZE);
        if (prng_chance(&prng, 1, 8)) {
            input[(size_t)i * ID_SIZE + 15] ^= 0x80;
        } else if (objects[n].alive) {
            expected[expected_count++] = n;
        }
    }
    cr_assert(eq(int, run(READ_KIND_LOOKUP, 0, 0, id_count * ID_SIZE), STATUS_OK));
    check_reply_frame(expected_count);
    for (uint32_t i = 0; i < expected_count; i++) {
        cr_assert(memcmp(request.reply + (size_t)i * IMAGE_SIZE, objects[expected[i]].image,
                         IMAGE_SIZE) == 0);
    }
}

/* The values of a random object for this index, or ones that no object has. Returns their size. */
static uint32_t choose_values(uint32_t index)
{
    uint8_t image[IMAGE_SIZE] = {0};
    memcpy(image, objects[prng_below(&prng, object_count)].image, IMAGE_SIZE);
    if (prng_chance(&prng, 1, 6)) {
        image[KIND_OFFSET + 3] = 9;
        image[PARENT_OFFSET + 15] = 9;
        image[NAME_OFFSET + 29] = 'z';
    }
    uint32_t size = 0;
    for (uint32_t i = 0; i < schema()->spec.indexes[index].field_count; i++) {
        const struct field_layout *field =
            &schema()->fields[schema()->spec.indexes[index].fields[i]];
        memcpy(input + size, image + field->offset, field->size);
        size += field->size;
    }
    return size;
}

/* Whether object n belongs to the answer, the plain way. */
static bool expects(uint32_t index, uint32_t n)
{
    static const uint8_t zeros[16];
    if (!objects[n].alive || (index == 2 && memcmp(input, zeros, 16) == 0)) {
        return false; /* The sparse index holds no zeros. */
    }
    const uint8_t *image = objects[n].image;
    switch (index) {
    case 0:
        return memcmp(image + KIND_OFFSET, input, 4) == 0;
    case 1:
        return memcmp(image + KIND_OFFSET, input, 6) == 0;
    case 2:
        return memcmp(image + PARENT_OFFSET, input, 16) == 0;
    default:
        return memcmp(image + NAME_OFFSET, input, 40) == 0;
    }
}

static enum status check_query(uint32_t index, uint32_t limit)
{
    const uint32_t input_size = choose_values(index);
    enum status status = run(READ_KIND_QUERY, index, limit, input_size);
    if (status != STATUS_OK) {
        return status;
    }
    const uint32_t room = request.reply_capacity / IMAGE_SIZE;
    const uint32_t max = limit > 0 && limit < room ? limit : room;
    uint32_t matches = 0;
    for (uint32_t n = 0; n < object_count; n++) { /* By timestamp, as they were inserted. */
        if (expects(index, n)) {
            if (matches < max) {
                cr_assert(memcmp(request.reply + (size_t)matches * IMAGE_SIZE, objects[n].image,
                                 IMAGE_SIZE) == 0);
            }
            matches += 1;
        }
    }
    check_reply_frame(matches < max ? matches : max);

    status = run(READ_KIND_COUNT, index, 0, input_size);
    if (status == STATUS_OK) {
        cr_assert(eq(u64, request.count, matches));
        cr_assert(eq(u32, request.reply_size, 0));
    }
    return status;
}

Test(query, agrees_with_the_model)
{
    for (uint64_t seed = 0; seed < 12; seed++) {
        build(seed);
        check_lookup(0);
        check_lookup(1);
        check_lookup(object_count / 2 + 1);
        for (int i = 0; i < 10; i++) {
            for (uint32_t index = 0; index < INDEX_COUNT; index++) {
                const uint32_t limit = (uint32_t)prng_below(&prng, 20) * (i % 2 == 0);
                cr_assert(eq(int, check_query(index, limit), STATUS_OK));
            }
        }
        cr_assert(eq(int, run(READ_KIND_COUNT, READ_INDEX_NONE, 0, 0), STATUS_OK));
        cr_assert(eq(u64, request.count, groove.object_count));
        drop();
    }
    cr_assert(gt(u64, yield_count, 60));
}

/* More ids than one batch has, in a groove of its own size. */
Test(query, lookup_goes_over_several_batches)
{
    uint64_t seed = 50;
    for (build(seed); object_count < READ_BATCH_MAX + 100; build(++seed)) {
        drop();
    }
    check_lookup(object_count);
    drop();
}

Test(query, stops_when_the_reply_is_full)
{
    build(3);
    const uint32_t capacity = request.reply_capacity;
    request.reply_capacity = fixture.geometry.block_size; /* 42 images */
    for (int i = 0; i < 10; i++) {
        cr_assert(eq(int, check_query(0, 0), STATUS_OK));
        cr_assert(eq(int, check_query(3, 0), STATUS_OK));
    }
    const uint32_t room = request.reply_capacity / IMAGE_SIZE;
    check_lookup(room);
    memset(input, 1, sizeof input);
    cr_assert(eq(int, run(READ_KIND_LOOKUP, 0, 0, (room + 1) * ID_SIZE), STATUS_OK));
    cr_assert(eq(int, request.result, REQUEST_RESULT_TOO_BIG));
    request.reply_capacity = capacity;
    drop();
}

static void check_refused(enum request_result result)
{
    cr_assert(eq(int, request.result, result));
    cr_assert(eq(u64, request.commit, COMMIT));
    cr_assert(eq(u64, request.count, 0));
    cr_assert(eq(u32, request.object_size, 0));
    cr_assert(eq(u32, request.reply_size, 0));
}

Test(query, refuses_what_makes_no_sense)
{
    build(1);
    memset(input, 1, sizeof input);
    cr_assert(eq(int, run(READ_KIND_LOOKUP, 0, 0, 17), STATUS_OK));
    check_refused(REQUEST_RESULT_MALFORMED);
    memset(input + 16, 0, 16);
    cr_assert(eq(int, run(READ_KIND_LOOKUP, 0, 0, 48), STATUS_OK));
    check_refused(REQUEST_RESULT_MALFORMED);
    cr_assert(eq(int, run(READ_KIND_QUERY, INDEX_COUNT, 0, 4), STATUS_OK));
    check_refused(REQUEST_RESULT_UNKNOWN_INDEX);
    cr_assert(eq(int, run(READ_KIND_QUERY, READ_INDEX_NONE, 0, 0), STATUS_OK));
    check_refused(REQUEST_RESULT_UNKNOWN_INDEX);
    cr_assert(eq(int, run(READ_KIND_COUNT, INDEX_COUNT, 0, 4), STATUS_OK));
    check_refused(REQUEST_RESULT_UNKNOWN_INDEX);
    for (uint32_t index = 0; index < INDEX_COUNT; index++) {
        const uint32_t size = schema_index_values_size(schema(), index);
        cr_assert(eq(int, run(READ_KIND_QUERY, index, 0, size - 1), STATUS_OK));
        check_refused(REQUEST_RESULT_MALFORMED);
        cr_assert(eq(int, run(READ_KIND_COUNT, index, 0, size + 1), STATUS_OK));
        check_refused(REQUEST_RESULT_MALFORMED);
    }
    cr_assert(eq(int, run(READ_KIND_COUNT, READ_INDEX_NONE, 0, 1), STATUS_OK));
    check_refused(REQUEST_RESULT_MALFORMED);
    version.groove_count = 0;
    cr_assert(eq(int, run(READ_KIND_COUNT, READ_INDEX_NONE, 0, 0), STATUS_OK));
    check_refused(REQUEST_RESULT_UNKNOWN_GROOVE);
    drop();
}

/* Of all blocks one after the other: whatever is answered is right, the rest is STALE. */
Test(query, damaged_block_is_stale)
{
    build(4);
    uint32_t stale_count = 0;
    const uint64_t blocks = fixture.free_set.acquired_count;
    for (uint64_t address = 1; address <= blocks; address++) {
        const uint64_t offset = fixture.grid.zone_offset +
                                (address - 1) * fixture.geometry.block_size +
                                prng_below(&prng, fixture.geometry.block_size);
        tree_fixture_forget(&fixture);
        fixture.sim.bytes[offset] ^= 1;
        for (uint32_t index = 0; index < INDEX_COUNT; index++) {
            const enum status status = check_query(index, 0);
            if (status != STATUS_OK) {
                cr_assert(eq(int, status, STATUS_STALE));
                cr_assert(eq(u64, scratch.bad_address, address));
                stale_count += 1;
            }
        }
        fixture.sim.bytes[offset] ^= 1;
    }
    cr_assert(stale_count > 10);
    drop();
}

Test(query, unreadable_block_is_told)
{
    build(5);
    uint32_t failed_count = 0;
    const uint64_t blocks = fixture.free_set.acquired_count;
    for (uint64_t n = 0; n < blocks; n++) {
        tree_fixture_cut(&fixture, n);
        const enum status status = check_query((uint32_t)(n % INDEX_COUNT), 0);
        if (status != STATUS_OK) {
            cr_assert(eq(int, status, STATUS_IO));
            failed_count += 1;
        }
        tree_fixture_restore(&fixture);
    }
    cr_assert(failed_count > 10);
    drop();
}

/* Index and id entries whose object is not there. */
Test(query, contradiction_between_trees_is_corrupt)
{
    build(6);
    struct tree_version empty = trees[0].version;
    struct manifest_version no_tables = {.reference_count = 1};
    empty.run_count = 0;
    empty.manifest = &no_tables;
    groove.object_tree = &empty;
    for (uint32_t i = 0; i < object_count; i++) {
        memcpy(input + (size_t)i * ID_SIZE, objects[i].image, ID_SIZE);
    }
    cr_assert(eq(int, run(READ_KIND_LOOKUP, 0, 0, object_count * ID_SIZE), STATUS_OK));
    check_refused(REQUEST_RESULT_CORRUPT);
    memset(input, 0, 4);
    cr_assert(eq(int, run(READ_KIND_QUERY, 0, 0, 4), STATUS_OK));
    check_refused(REQUEST_RESULT_CORRUPT);
    drop();
}

Test(query, full_cache_leaves_the_spare_blocks)
{
    build(7);
    tree_fixture_crowd(&fixture);
    check_lookup(object_count);
    for (uint32_t index = 0; index < INDEX_COUNT; index++) {
        cr_assert(eq(int, check_query(index, 0), STATUS_OK));
    }
    tree_fixture_uncrowd(&fixture);
    drop();
}

/* Asked to give up before it has begun, a read that finds anything gives up at its first look. */
Test(query, a_revoked_read_gives_up)
{
    static const enum read_kind kinds[] = {READ_KIND_LOOKUP, READ_KIND_QUERY, READ_KIND_COUNT};
    build(3);
    uint32_t revoked = 0;
    for (int i = 0; i < 60; i++) {
        const enum read_kind kind = kinds[i % 3];
        uint32_t input_size = ID_SIZE;
        if (kind == READ_KIND_LOOKUP) {
            memcpy(input, objects[prng_below(&prng, object_count)].image, ID_SIZE);
        } else {
            input_size = choose_values(0);
        }
        read_ticket_init(&scratch.hold.ticket, 0);
        cr_assert(eq(int, run(kind, 0, 0, input_size), STATUS_OK));
        const uint64_t count = request.count;
        cr_assert(not(read_ticket_revoke(&scratch.hold.ticket)));
        const enum status status = run(kind, 0, 0, input_size);
        cr_assert(status == STATUS_REVOKED || (status == STATUS_OK && count == 0));
        revoked += status == STATUS_REVOKED;
    }
    cr_assert(revoked > 30);
    drop();
}

Test(query, scratch_size_is_what_it_takes)
{
    struct read_scratch other;
    const uint64_t before = memory_acquired_size();
    cr_assert(eq(int, read_scratch_init(&other, &fixture.geometry), STATUS_OK));
    cr_assert(eq(u64, memory_acquired_size() - before, read_scratch_size(&fixture.geometry)));
    read_scratch_deinit(&other);
    cr_assert(eq(u64, memory_acquired_size(), before));
}

Test(query, reply_smaller_than_a_block_is_a_bug, .signal = SIGABRT)
{
    build(8);
    request.reply_capacity = 100;
    (void)!run(READ_KIND_COUNT, READ_INDEX_NONE, 0, 0);
}
