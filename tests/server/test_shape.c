/* Goal: a SCHEMA reply becomes the shape it describes, and no reply, however wrong, is believed.
 * Method: build a reply from wire structs; every prefix and every mutated byte of it; query keys
 * against hand-made bytes. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/protocol.h"
#include "server/shape.h"
#include "tests/harness/prng.h"

TestSuite(shape, .timeout = 120);

static uint8_t body[1024];
static uint32_t body_size;
static struct shape shape;

static void append(const void *bytes, uint32_t size)
{
    memcpy(body + body_size, bytes, size);
    body_size += size;
}

static void setup(void)
{
    const struct schema_groove groove = {
        .name = "cities",
        .groove_id = 7,
        .object_size = 56,
        .event_count_max = 100,
        .field_count = 3,
        .index_count = 2,
        .object_count = 5,
    };
    const struct schema_field fields[] = {
        {.name = "name", .type = WIRE_FIELD_TYPE_TEXT, .size = 10, .offset = 32},
        {.name = "country", .type = WIRE_FIELD_TYPE_TEXT, .size = 2, .offset = 42},
        {.name = "lat", .type = WIRE_FIELD_TYPE_F64, .size = 8, .offset = 48},
    };
    const struct schema_index indexes[] = {
        {.name = "country", .index_id = 3, .field_count = 1, .fields = {1}},
        {.name = "both", .index_id = 4, .field_count = 2, .fields = {1, 0}},
    };
    body_size = 0;
    append(&groove, sizeof groove);
    append(fields, sizeof fields);
    append(indexes, sizeof indexes);
}

static bool decode(uint32_t size)
{
    uint32_t offset = 0;
    uint8_t *copy = malloc(size > 0 ? size : 1); /* So that ASan sees reads past the end. */
    memcpy(copy, body, size);
    const bool decoded = shape_decode(copy, size, &offset, &shape);
    free(copy);
    return decoded;
}

Test(shape, a_reply_is_decoded, .init = setup)
{
    cr_assert(decode(body_size));
    cr_assert_eq(shape.groove_id, 7);
    cr_assert_eq(shape.object_size, 56);
    cr_assert_eq(shape.spec.field_count, 3);
    cr_assert_eq(shape.offsets[2], 48);
    cr_assert_eq(shape.index_ids[1], 4);
    cr_assert_eq(shape_field(&shape, "lat", 3), 2);
    cr_assert_eq(shape_field(&shape, "la", 2), -1);
}

Test(shape, no_prefix_is_believed, .init = setup)
{
    for (uint32_t size = 0; size < body_size; size++) {
        cr_assert_not(decode(size));
    }
}

Test(shape, what_is_believed_can_be_printed, .init = setup)
{
    static uint8_t image[OBJECT_SIZE_MAX];
    static char text[1 << 16];
    memset(image, 'x', sizeof image);
    FILE *null = fopen("/dev/null", "w");
    for (uint64_t seed = 1; seed <= 3000; seed++) {
        struct prng prng;
        prng_init(&prng, seed);
        setup();
        body[prng_below(&prng, body_size)] = (uint8_t)prng_below(&prng, 256);
        if (decode(body_size)) {
            struct json_writer writer;
            json_writer_init(&writer, text, sizeof text);
            shape_object_json(&shape, image, &writer);
            cr_assert_not_null(json_writer_finish(&writer));
            shape_objects_table(&shape, image, 1, null);
        }
    }
    fclose(null);
}

Test(shape, conditions_find_their_index, .init = setup)
{
    static struct where where;
    static uint8_t key[QUERY_KEY_SIZE_MAX];
    char error[SCHEMA_TEXT_ERROR_SIZE];
    uint32_t key_size = 0;
    cr_assert(decode(body_size));
    cr_assert(where_parse("country = AD", &where, error));
    cr_assert_eq(shape_query_key(&shape, &where, key, &key_size, error), 0);
    cr_assert_eq(key_size, 2);
    cr_assert_arr_eq(key, "AD", 2);
    /* In any order; the key is in the index's. */
    cr_assert(where_parse("name = x and country = AD", &where, error));
    cr_assert_eq(shape_query_key(&shape, &where, key, &key_size, error), 1);
    cr_assert_eq(key_size, 12);
    cr_assert_arr_eq(key, "ADx\0\0\0\0\0\0\0\0\0", 12);

    cr_assert(where_parse("name = x", &where, error));
    cr_assert_eq(shape_query_key(&shape, &where, key, &key_size, error), -1);
    cr_assert_not_null(strstr(error, "both (country, name)"), "%s", error);
    cr_assert(where_parse("nam = x", &where, error));
    cr_assert_eq(shape_query_key(&shape, &where, key, &key_size, error), -1);
    cr_assert_not_null(strstr(error, "no field 'nam'"), "%s", error);
    cr_assert(where_parse("country = ADE", &where, error));
    cr_assert_eq(shape_query_key(&shape, &where, key, &key_size, error), -1);
    cr_assert_not_null(strstr(error, "does not fit"), "%s", error);
}

Test(shape, tables_line_up, .init = setup)
{
    uint8_t image[56] = {1};
    double lat = 1.5;
    memcpy(image + 32, "W\xc3\xb6rth\n", 7);
    memcpy(image + 42, "DE", 2);
    memcpy(image + 48, &lat, sizeof lat);
    cr_assert(decode(body_size));
    char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);
    shape_objects_table(&shape, image, 1, file);
    fclose(file);
    cr_assert_str_eq(text, "id  name    country  lat\n1   W\xc3\xb6rth?  DE       1.5\n");
    free(text);
}
