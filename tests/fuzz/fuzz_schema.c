/* The small languages of the command line: schemas, conditions, values, ids, sizes.
 *
 * Input: a byte that chooses, then text. What parses is written and parsed again, and must be the
 * same. */
#include <assert.h>
#include <stdlib.h>

#include "pool/base.h"
#include "server/schema_text.h"
#include "server/shape.h"
#include "server/value_text.h"
#include "tests/fuzz/fuzz.h"

enum { TEXT_SIZE = 1 << 14 };

static void fuzz_groove(struct fuzz_input *input)
{
    static struct groove_spec spec, again;
    static struct groove_schema schema;
    static char text[TEXT_SIZE], written[TEXT_SIZE];
    char error[SCHEMA_TEXT_ERROR_SIZE];
    char reason[256];
    fuzz_text(input, 0, text, sizeof text);
    if (!schema_text_parse("things", text, &spec, error)) {
        assert(strlen(error) > 0);
        return;
    }
    const struct geometry geometry = geometry_tiny();
    if (schema_build(&geometry, &spec, &schema, reason, sizeof reason) != STATUS_OK) {
        assert(strlen(reason) > 0);
    }
    if (schema_text_format(&spec, written, sizeof written)) {
        const bool parsed = schema_text_parse("things", written, &again, error);
        assert(parsed);
        assert(memcmp(&spec, &again, sizeof spec) == 0);
    }
}

/* Raw bytes as a spec, as they come in a request. */
static void fuzz_spec(struct fuzz_input *input)
{
    static struct groove_spec spec;
    static struct groove_schema schema;
    char reason[256];
    const struct geometry geometry = geometry_tiny();
    fuzz_take(input, &spec, sizeof spec);
    if (schema_build(&geometry, &spec, &schema, reason, sizeof reason) != STATUS_OK) {
        assert(strlen(reason) > 0);
        return;
    }
    uint8_t image[OBJECT_SIZE_MAX];
    fuzz_take(input, image, sizeof image);
    (void)schema_image_valid(&schema, image);
    for (uint32_t i = 0; i < schema.spec.index_count; i++) {
        uint8_t key[KEY_SIZE_MAX];
        (void)schema_index_key(&schema, i, image, 1, key);
    }
}

static void fuzz_where(struct fuzz_input *input)
{
    static struct where where;
    static struct shape shape;
    static char text[TEXT_SIZE];
    static uint8_t key[QUERY_KEY_SIZE_MAX];
    char error[SCHEMA_TEXT_ERROR_SIZE];
    uint32_t key_size;
    fuzz_text(input, 0, text, sizeof text);
    if (!where_parse(text, &where, error)) {
        assert(strlen(error) > 0);
        return;
    }
    assert(where.term_count >= 1 && where.term_count <= WHERE_TERM_MAX);
    memset(&shape, 0, sizeof shape);
    const bool parsed = schema_text_parse("things",
                                          "a text<12>, b u32, c f64, d bool, e timestamp, f i8, "
                                          "g u128, h bytes<9>, index a, index (b, c), index d, "
                                          "index e, index (f, b), index g, index h",
                                          &shape.spec, error);
    assert(parsed);
    (void)shape_query_key(&shape, &where, key, &key_size, error);
}

static void fuzz_value(struct fuzz_input *input)
{
    static char text[TEXT_SIZE];
    static char written[VALUE_TEXT_SIZE];
    static uint8_t value[OBJECT_SIZE_MAX], again[OBJECT_SIZE_MAX];
    char reason[256];
    struct field_spec field = {
        .name = "field",
        .type = (uint8_t)(FIELD_TYPE_U8 + fuzz_u8(input) % FIELD_TYPE_TIMESTAMP),
        .size = 1u + fuzz_u8(input),
    };
    if (field.type != FIELD_TYPE_BYTES && field.type != FIELD_TYPE_TEXT) {
        field.size = 0;
    }
    const size_t size = fuzz_text(input, 0, text, sizeof text);
    if (!value_parse(&field, text, size, value, reason, sizeof reason)) {
        return;
    }
    value_format(&field, value, written);
    const bool parsed = value_parse(&field, written, strlen(written), again, reason, sizeof reason);
    assert(parsed);
    assert(memcmp(value, again, value_size(&field)) == 0);
}

static void fuzz_small(struct fuzz_input *input)
{
    static char text[TEXT_SIZE];
    char written[ID_TEXT_SIZE];
    uint8_t id[16], id_again[16];
    uint64_t number, again;
    struct field_spec field = {0};
    const size_t text_size = fuzz_text(input, 0, text, sizeof text);
    (void)schema_name_valid(text);
    (void)field_type_parse(text, &field);
    if (id_parse(text, text_size, id)) {
        id_format(id, written);
        const bool parsed = id_parse(written, strlen(written), id_again);
        assert(parsed && memcmp(id, id_again, sizeof id) == 0);
    }
    if (size_parse(text, &number)) {
        size_format(number, written, sizeof written);
        if (strchr(written, '.') == NULL) {
            const bool parsed = size_parse(written, &again);
            assert(parsed && again == number);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const parts[])(struct fuzz_input *) = {fuzz_groove, fuzz_spec, fuzz_where,
                                                         fuzz_value, fuzz_small};
    struct fuzz_input input = {data, size};
    const uint8_t part = fuzz_u8(&input);
    /* Letters choose, so that seeds can be written by hand. */
    parts[(part >= 'a' ? part - 'a' : part) % array_count(parts)](&input);
    return 0;
}
