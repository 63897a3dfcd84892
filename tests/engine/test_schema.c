/* Goal: a spec, which comes from a client, is either refused with a reason or laid out as the
 * header says; and index keys sort as the values do. Method: a valid spec broken in one way at a
 * time (a table of cases); for every type, thousands of random pairs of values near each other and
 * at the edges, where memcmp of the keys must agree with a comparison of the values; random bytes
 * as specs, which must never crash. */
#include "engine/schema.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/object.h"
#include "tests/harness/prng.h"

static struct geometry geometry;
static struct groove_schema schema;
static char reason[256];

static void init(void)
{
    geometry = geometry_default(32768);
}

TestSuite(schema, .init = init, .timeout = 120);

static uint8_t add_field(struct groove_spec *spec, const char *name, const char *type)
{
    struct field_spec *field = &spec->fields[spec->field_count];
    snprintf(field->name, sizeof field->name, "%s", name);
    cr_assert(field_type_parse(type, field), "%s", type);
    return (uint8_t)spec->field_count++;
}

static void add_index(struct groove_spec *spec, const char *name, uint8_t flags, uint8_t count,
                      const uint8_t *fields)
{
    struct index_spec *index = &spec->indexes[spec->index_count++];
    snprintf(index->name, sizeof index->name, "%s", name);
    index->flags = flags;
    index->field_count = count;
    memcpy(index->fields, fields, count);
}

/* A groove with something of everything. */
static void users(struct groove_spec *spec)
{
    *spec = (struct groove_spec){.name = "users"};
    const uint8_t active = add_field(spec, "active", "bool");
    const uint8_t balance = add_field(spec, "balance", "i64");
    const uint8_t email = add_field(spec, "email", "text<100>");
    const uint8_t country = add_field(spec, "country", "bytes<2>");
    const uint8_t parent = add_field(spec, "parent", "u128");
    add_index(spec, "email", 0, 1, &email);
    add_index(spec, "parent", INDEX_FLAG_SPARSE, 1, &parent);
    add_index(spec, "place", INDEX_FLAG_UNIQUE, 3, (uint8_t[]){country, active, balance});
    add_index(spec, "country_email", 0, 2, (uint8_t[]){country, email});
}

Test(schema, lays_out_fields_and_indexes)
{
    struct groove_spec spec;
    users(&spec);
    cr_assert(eq(int, schema_build(&geometry, &spec, &schema, reason, sizeof reason), STATUS_OK),
              "%s", reason);

    const uint32_t offsets[] = {32, 40, 48, 148, 152};
    const uint32_t sizes[] = {1, 8, 100, 2, 16};
    for (int i = 0; i < 5; i++) {
        cr_assert(eq(u32, schema.fields[i].offset, offsets[i]));
        cr_assert(eq(u32, schema.fields[i].size, sizes[i]));
    }
    cr_assert(eq(u32, schema.object_size, 168));

    const uint8_t prefix_sizes[] = {24, 16, 16, 24};
    const uint8_t value_sizes[] = {24, 16, 11, 24};
    const uint8_t key_sizes[] = {32, 24, 16, 32}; /* `place` is unique: no timestamp. */
    const bool exact[] = {false, true, true, false};
    const uint32_t values_sizes[] = {100, 16, 11, 102};
    for (uint32_t i = 0; i < 4; i++) {
        cr_assert(eq(u8, schema.indexes[i].prefix_size, prefix_sizes[i]));
        cr_assert(eq(u8, schema.indexes[i].value_size, value_sizes[i]));
        cr_assert(eq(u8, schema.indexes[i].key_size, key_sizes[i]));
        cr_assert(eq(u32, schema_index_entry_size(&schema, i), prefix_sizes[i] + 8u));
        cr_assert(eq(int, schema.indexes[i].exact, exact[i]));
        cr_assert(eq(u32, schema_index_values_size(&schema, i), values_sizes[i]));
    }
    cr_assert(eq(int, schema_field(&schema, "country"), 3));
    cr_assert(eq(int, schema_field(&schema, "place"), -1));
    cr_assert(eq(int, schema_index(&schema, "place"), 2));
    cr_assert(eq(int, schema_index(&schema, "country"), -1));

    const uint32_t entry_size = 168 + 24 + 32 + 24 + 24 + 32; /* object, id, four indexes */
    uint32_t value_max = (uint32_t)(geometry.bar_memory_size / entry_size) +
                         2 * geometry.batch_event_max; /* A bar of this groove, and a batch. */
    const uint32_t shapes[][2] = {{8, 168}, {16, 24}, {32, 32}, {24, 24}};
    for (int i = 0; i < 4; i++) {
        const uint32_t max = table_value_max(&geometry, shapes[i][0], shapes[i][1]);
        value_max = max < value_max ? max : value_max;
    }
    cr_assert(eq(u32, schema.table_value_max, value_max));
    const uint32_t share = value_max / 8;
    cr_assert(eq(u32, schema.event_max,
                 share < geometry.batch_event_max ? share : geometry.batch_event_max));
}

Test(schema, groove_without_fields_is_fine)
{
    const struct groove_spec spec = {.name = "_"};
    cr_assert(eq(int, schema_build(&geometry, &spec, &schema, reason, sizeof reason), STATUS_OK));
    cr_assert(eq(u32, schema.object_size, 32));
}

Test(schema, numbers_may_leave_their_size_out)
{
    struct groove_spec spec;
    users(&spec);
    spec.fields[1].size = 0;
    cr_assert(eq(int, schema_build(&geometry, &spec, &schema, reason, sizeof reason), STATUS_OK));
    cr_assert(eq(u32, schema.fields[1].size, 8));
}

/* Each breaks the valid spec in one way; the reason must hold the word. */
struct refusal {
    int number;
    char word[32];
};

ParameterizedTestParameters(schema, refuses)
{
    static struct refusal refusals[] = {
        {0, "groove's name"},     {1, "groove's name"},   {2, "groove's name"},
        {3, "fields are too"},    {4, "indexes are too"}, {5, "behind the last"},
        {6, "behind the last"},   {7, "field 2"},         {8, "reserved"},
        {9, "given twice"},       {10, "unknown type"},   {11, "unknown type"},
        {12, "reserved bytes"},   {13, "1 to 4064"},      {14, "1 to 4064"},
        {15, "always has"},       {16, "index 1"},        {17, "reserved"},
        {18, "given twice"},      {19, "1 to 4"},         {20, "1 to 4"},
        {21, "unknown flags"},    {22, "unused bytes"},   {23, "unused bytes"},
        {24, "names field 5"},    {25, "twice"},          {26, "more than 24"},
        {27, "cannot be unique"}, {28, "at most 4096"},   {29, "groove's name"},
        {30, "more than 24"},
    };
    return cr_make_param_array(struct refusal, refusals, array_count(refusals));
}

ParameterizedTest(struct refusal *refusal, schema, refuses)
{
    struct groove_spec spec;
    users(&spec);
    struct field_spec *field = &spec.fields[1];
    struct index_spec *index = &spec.indexes[0];
    switch (refusal->number) {
    case 0:
        spec.name[0] = '\0';
        break;
    case 1:
        spec.name[0] = '7';
        break;
    case 2:
        spec.name[20] = 'x'; /* behind the end */
        break;
    case 3:
        spec.field_count = FIELD_COUNT_MAX + 1;
        break;
    case 4:
        spec.index_count = UINT32_MAX;
        break;
    case 5:
        spec.fields[31].size = 1;
        break;
    case 6:
        spec.indexes[15].zero[1] = 1;
        break;
    case 7:
        field->name[1] = '-';
        break;
    case 8:
        memcpy(field->name, "version", 8);
        break;
    case 9:
        memcpy(field->name, "active", 7);
        field->name[7] = '\0';
        break;
    case 10:
        field->type = 0;
        break;
    case 11:
        field->type = FIELD_TYPE_TIMESTAMP + 1;
        break;
    case 12:
        field->zero[2] = 1;
        break;
    case 13:
        spec.fields[2].size = 0;
        break;
    case 14:
        spec.fields[2].size = 4065;
        break;
    case 15:
        field->size = 4;
        break;
    case 16:
        memset(index->name, 'a', NAME_SIZE);
        break;
    case 17:
        memcpy(index->name, "id\0\0\0", 5);
        break;
    case 18:
        memcpy(spec.indexes[1].name, "email\0", 6);
        break;
    case 19:
        index->field_count = 0;
        break;
    case 20:
        index->field_count = 5;
        break;
    case 21:
        index->flags = 4;
        break;
    case 22:
        index->zero[0] = 1;
        break;
    case 23:
        index->fields[1] = 1;
        break;
    case 24:
        index->fields[0] = 5;
        break;
    case 25:
        spec.indexes[2].fields[1] = spec.indexes[2].fields[0];
        break;
    case 26: /* a long text that is not the last field */
        index->field_count = 2;
        index->fields[1] = 1;
        break;
    case 27:
        index->flags = INDEX_FLAG_UNIQUE;
        break;
    case 28:
        spec.fields[2].size = 4064;
        break;
    case 29:
        spec.name[0] = (char)0xC3;
        break;
    case 30: /* u128 + i64, and no room is left for one byte of text */
        *index = (struct index_spec){.name = "full", .field_count = 3, .fields = {4, 1, 2}};
        break;
    default:
        cr_fatal("no such case");
    }
    cr_assert(
        eq(int, schema_build(&geometry, &spec, &schema, reason, sizeof reason), STATUS_INVALID));
    cr_assert(strstr(reason, refusal->word) != NULL, "case %d: %s", refusal->number, reason);
}

Test(schema, object_must_fit_four_times_into_a_block)
{
    geometry = geometry_tiny();
    struct groove_spec spec = {.name = "g"};
    add_field(&spec, "body", "bytes<992>");
    cr_assert(eq(int, schema_build(&geometry, &spec, &schema, reason, sizeof reason), STATUS_OK),
              "%s", reason);
    cr_assert(eq(u32, schema.object_size, 1024));
    cr_assert(schema.event_max >= 1);
    spec.fields[0].size = 993;
    cr_assert(
        eq(int, schema_build(&geometry, &spec, &schema, reason, sizeof reason), STATUS_INVALID));
    cr_assert(strstr(reason, "larger blocks") != NULL, "%s", reason);
}

Test(schema, random_bytes_never_crash)
{
    struct prng prng;
    prng_init(&prng, 1);
    for (int i = 0; i < 20000; i++) {
        struct groove_spec spec;
        users(&spec);
        const uint32_t changes = (uint32_t)prng_range(&prng, 1, 3);
        for (uint32_t j = 0; j < changes; j++) {
            const size_t used = offsetof(struct groove_spec, fields) + 5 * sizeof spec.fields[0];
            const size_t offset = prng_chance(&prng, 1, 2)
                                      ? prng_below(&prng, used)
                                      : offsetof(struct groove_spec, indexes) +
                                            prng_below(&prng, 4 * sizeof spec.indexes[0]);
            ((uint8_t *)&spec)[offset] = (uint8_t)prng_below(&prng, 256);
        }
        const enum status status = schema_build(&geometry, &spec, &schema, reason, sizeof reason);
        cr_assert(status == STATUS_OK || (status == STATUS_INVALID && reason[0] != '\0'));
        if (status == STATUS_OK) {
            cr_assert(schema.object_size >= 32 && schema.object_size <= 4096);
            cr_assert(schema.event_max >= 1);
        }
    }
}

Test(schema, types_parse_and_format)
{
    const char *good[] = {"u8",
                          "u16",
                          "u32",
                          "u64",
                          "u128",
                          "i8",
                          "i16",
                          "i32",
                          "i64",
                          "f32",
                          "f64",
                          "bool",
                          "timestamp",
                          "text<1>",
                          "text<100>",
                          "bytes<4064>",
                          "bytes<999999999>"};
    for (size_t i = 0; i < array_count(good); i++) {
        struct field_spec field = {0};
        char text[32];
        cr_assert(field_type_parse(good[i], &field), "%s", good[i]);
        field_type_format(&field, text, sizeof text);
        cr_assert(eq(str, text, (char *)good[i]));
    }
    const char *bad[] = {"",         "u",         "u9",        "u128 ",    "U8",
                         "text",     "text<>",    "text<0>",   "text<01>", "text<1",
                         "text<1>>", "bytes<-1>", "bytes<1x>", "u8<1>",    "text<4294967297>",
                         "bool1"};
    for (size_t i = 0; i < array_count(bad); i++) {
        struct field_spec field = {0};
        cr_assert(not(field_type_parse(bad[i], &field)), "%s", bad[i]);
        cr_assert(eq(u8, field.type, 0));
    }
}

/* ---- Keys -------------------------------------------------------------------------------------
 */

/* How the values themselves compare: the model of what keys must do. */
static int compare_values(uint8_t type, const uint8_t *a, const uint8_t *b, uint32_t size)
{
    if (type == FIELD_TYPE_BYTES || type == FIELD_TYPE_TEXT) {
        return memcmp(a, b, size);
    }
    u128 x = 0;
    u128 y = 0;
    memcpy(&x, a, size);
    memcpy(&y, b, size);
    switch (type) {
    case FIELD_TYPE_I8:
        return (int8_t)x < (int8_t)y ? -1 : (int8_t)x > (int8_t)y;
    case FIELD_TYPE_I16:
        return (int16_t)x < (int16_t)y ? -1 : (int16_t)x > (int16_t)y;
    case FIELD_TYPE_I32:
        return (int32_t)x < (int32_t)y ? -1 : (int32_t)x > (int32_t)y;
    case FIELD_TYPE_I64:
        return (int64_t)x < (int64_t)y ? -1 : (int64_t)x > (int64_t)y;
    case FIELD_TYPE_F32:
    case FIELD_TYPE_F64: {
        double p;
        double q;
        float p32;
        float q32;
        memcpy(&p32, a, 4);
        memcpy(&q32, b, 4);
        if (type == FIELD_TYPE_F32) {
            p = p32;
            q = q32;
        } else {
            memcpy(&p, a, 8);
            memcpy(&q, b, 8);
        }
        /* -NaN < -inf < ... < -0 < +0 < ... < +inf < +NaN; numbers by <, the rest by rank. */
        const int p_rank = isnan(p) ? (signbit(p) ? -1 : 1) : 0;
        const int q_rank = isnan(q) ? (signbit(q) ? -1 : 1) : 0;
        if (p_rank != q_rank) {
            return p_rank < q_rank ? -1 : 1;
        }
        if (p_rank != 0) { /* NaNs of one sign: by payload, larger further from zero */
            return x == y ? 0 : (x < y) == (p_rank > 0) ? -1 : 1;
        }
        if (p == 0 && q == 0) {
            return (signbit(p) == 0) - (signbit(q) == 0);
        }
        return p < q ? -1 : p > q;
    }
    default:
        return x < y ? -1 : x > y;
    }
}

static int sign(int value)
{
    return (value > 0) - (value < 0);
}

/* Bytes that make collisions and edges likely: floats at their ends, small integers, extremes. */
static void random_value(struct prng *prng, uint8_t type, uint8_t *bytes, uint32_t size)
{
    static const double doubles[] = {0.0,       -0.0, 1.5,    -1.5,   INFINITY,
                                     -INFINITY, NAN,  5e-324, -5e-324};
    prng_fill(prng, bytes, size);
    if (type == FIELD_TYPE_BOOL) {
        bytes[0] &= 1;
    }
    if (prng_chance(prng, 1, 2)) {
        return;
    }
    if (type == FIELD_TYPE_F64 || type == FIELD_TYPE_F32) {
        double value = doubles[prng_below(prng, array_count(doubles))];
        value = prng_chance(prng, 1, 2) ? value : copysign(value, -1.0);
        const float narrow = (float)value;
        memcpy(bytes, type == FIELD_TYPE_F64 ? (const void *)&value : (const void *)&narrow, size);
    } else if (type != FIELD_TYPE_BOOL) {
        memset(bytes, prng_chance(prng, 1, 2) ? 0 : 0xFF, size);
        bytes[prng_below(prng, size)] = (uint8_t)prng_below(prng, 3);
        if (prng_chance(prng, 1, 2)) {
            bytes[size - 1] ^= 0x80;
        }
    }
}

Test(schema, keys_sort_as_values_do)
{
    const char *type_names[] = {"u8",  "u16",  "u32",      "u64",      "u128",
                                "i8",  "i16",  "i32",      "i64",      "f32",
                                "f64", "bool", "bytes<7>", "text<24>", "timestamp"};
    struct prng prng;
    prng_init(&prng, 2);
    for (size_t t = 0; t < array_count(type_names); t++) {
        struct groove_spec spec = {.name = "g"};
        const uint8_t field = add_field(&spec, "f", type_names[t]);
        add_index(&spec, "i", 0, 1, &field);
        cr_assert(
            eq(int, schema_build(&geometry, &spec, &schema, reason, sizeof reason), STATUS_OK));
        const uint32_t size = schema.fields[0].size;
        const uint32_t key_size = schema.indexes[0].prefix_size + 8u;
        for (int i = 0; i < 4000; i++) {
            uint8_t images[2][64] = {{0}};
            uint8_t keys[2][KEY_SIZE_MAX];
            uint64_t timestamps[2];
            for (int j = 0; j < 2; j++) {
                random_value(&prng, spec.fields[0].type, images[j] + 32, size);
                timestamps[j] = prng_next(&prng) >> 1;
                cr_assert(schema_index_key(&schema, 0, images[j], timestamps[j], keys[j]));
                uint8_t prefix[INDEX_PREFIX_SIZE_MAX];
                schema_index_prefix(&schema, 0, images[j] + 32, prefix);
                cr_assert(memcmp(prefix, keys[j], key_size - 8) == 0);
                cr_assert(load_u64_be(keys[j] + key_size - 8) == timestamps[j]);
            }
            int expected =
                compare_values(spec.fields[0].type, images[0] + 32, images[1] + 32, size);
            const bool equal = schema_index_matches(&schema, 0, images[0], images[1] + 32);
            cr_assert(eq(int, equal, expected == 0), "%s", type_names[t]);
            if (expected == 0) {
                expected = timestamps[0] < timestamps[1] ? -1 : timestamps[0] > timestamps[1];
            }
            cr_assert(sign(memcmp(keys[0], keys[1], key_size)) == sign(expected), "%s",
                      type_names[t]);
        }
    }
}

Test(schema, composite_keys_sort_field_by_field)
{
    struct groove_spec spec = {.name = "g"};
    const uint8_t fields[] = {add_field(&spec, "a", "i16"), add_field(&spec, "b", "f32"),
                              add_field(&spec, "c", "text<40>")};
    add_index(&spec, "i", 0, 3, fields);
    cr_assert(eq(int, schema_build(&geometry, &spec, &schema, reason, sizeof reason), STATUS_OK));
    cr_assert(not(schema.indexes[0].exact));
    struct prng prng;
    prng_init(&prng, 3);
    for (int i = 0; i < 20000; i++) {
        uint8_t images[2][128] = {{0}};
        uint8_t keys[2][KEY_SIZE_MAX];
        for (int j = 0; j < 2; j++) {
            images[j][schema.fields[0].offset] = (uint8_t)prng_below(&prng, 2);
            images[j][schema.fields[0].offset + 1] = prng_chance(&prng, 1, 2) ? 0xFF : 0;
            const float b = (float)prng_below(&prng, 3) - 1.0f;
            memcpy(images[j] + schema.fields[1].offset, &b, 4);
            memset(images[j] + schema.fields[2].offset, 'x', 30);
            images[j][schema.fields[2].offset + prng_below(&prng, 30)] = 'y';
            cr_assert(schema_index_key(&schema, 0, images[j], 7, keys[j]));
        }
        int expected = 0;
        for (int f = 0; f < 3 && expected == 0; f++) {
            /* Of the text only the bytes that fit: 24 - 2 - 4. */
            const uint32_t size = f == 2 ? 18 : schema.fields[f].size;
            expected = compare_values(spec.fields[f].type, images[0] + schema.fields[f].offset,
                                      images[1] + schema.fields[f].offset, size);
        }
        cr_assert(sign(memcmp(keys[0], keys[1], 32)) == sign(expected));

        /* Two that share their key may still differ: that is what the recheck is for. */
        uint8_t values[46];
        memcpy(values, images[1] + schema.fields[0].offset, 2);
        memcpy(values + 2, images[1] + schema.fields[1].offset, 4);
        memcpy(values + 6, images[1] + schema.fields[2].offset, 40);
        cr_assert(schema_index_matches(&schema, 0, images[0], values) ==
                  (memcmp(images[0] + 32, images[1] + 32, schema.object_size - 32) == 0));
    }
}

Test(schema, sparse_index_leaves_zero_out)
{
    struct groove_spec spec;
    users(&spec);
    cr_assert(eq(int, schema_build(&geometry, &spec, &schema, reason, sizeof reason), STATUS_OK));
    uint8_t image[168] = {0};
    uint8_t key[KEY_SIZE_MAX];
    memset(key, 0xAA, sizeof key);
    cr_assert(not(schema_index_key(&schema, 1, image, 1, key)));
    cr_assert(eq(u8, key[0], 0xAA));
    cr_assert(schema_index_key(&schema, 0, image, 1, key));
    image[schema.fields[4].offset + 15] = 1;
    cr_assert(schema_index_key(&schema, 1, image, 1, key));
    cr_assert(eq(u8, key[0], 1));
}

/* ---- Values -----------------------------------------------------------------------------------
 */

Test(schema, image_padding_and_bool_are_checked)
{
    struct groove_spec spec;
    users(&spec);
    cr_assert(eq(int, schema_build(&geometry, &spec, &schema, reason, sizeof reason), STATUS_OK));
    for (uint32_t offset = 0; offset < schema.object_size; offset++) {
        uint8_t image[168] = {0};
        image[offset] = 2;
        const bool header = offset < 32;
        const bool number = (offset >= 40 && offset < 48) || offset >= 152;
        const bool bytes = offset == 148 || offset == 149;
        const bool text_start = offset == 48;
        cr_assert(schema_image_valid(&schema, image) == (header || number || bytes || text_start),
                  "offset %u", offset);
    }
    uint8_t image[168] = {0};
    image[32] = 1;
    cr_assert(schema_image_valid(&schema, image));
}

Test(schema, text_must_be_utf8)
{
    struct groove_spec spec = {.name = "g"};
    add_field(&spec, "t", "text<8>");
    cr_assert(eq(int, schema_build(&geometry, &spec, &schema, reason, sizeof reason), STATUS_OK));
    const struct {
        const char bytes[9];
        bool valid;
    } cases[] = {
        {"", true},
        {"abcdefgh", true},
        {"\xC3\xA9", true},
        {"abcdefg\xC3", false},  /* cut */
        {"\xC0\x80", false},     /* overlong */
        {"\xE0\x80\x80", false}, /* overlong */
        {"\xE0\xA0\x80", true},
        {"\xED\xA0\x80", false}, /* surrogate */
        {"\xED\x9F\xBF", true},
        {"\xF0\x80\x80\x80", false}, /* overlong */
        {"\xF0\x9F\x8C\xB2\xF0\x9F\x8C\xB2", true},
        {"\xF4\x8F\xBF\xBF", true},
        {"\xF4\x90\x80\x80", false}, /* past U+10FFFF */
        {"\xF5\x80\x80\x80", false},
        {"\x80", false},
        {"\xFF", false},
        {"a\0b", false},     /* something behind the end */
        {"\xE2\x82", false}, /* ends within a sequence */
    };
    for (size_t i = 0; i < array_count(cases); i++) {
        uint8_t image[40] = {0};
        memcpy(image + 32, cases[i].bytes, 8);
        cr_assert(schema_image_valid(&schema, image) == cases[i].valid, "case %zu", i);
    }
}

Test(schema, index_out_of_range_is_a_bug, .signal = SIGABRT)
{
    const struct groove_spec spec = {.name = "g"};
    cr_assert(eq(int, schema_build(&geometry, &spec, &schema, reason, sizeof reason), STATUS_OK));
    (void)schema_index_values_size(&schema, 0);
}
