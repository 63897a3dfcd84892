/* Goal: JSON that any parser reads back to what was written, and no byte past the buffer.
 * Method: exact texts for the grammar; jansson as the judge of random documents; every capacity
 * from one byte up for the bound. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <string.h>

#include "server/json_writer.h"
#include "tests/harness/prng.h"

TestSuite(json_writer, .timeout = 120);

static void write_sample(struct json_writer *writer)
{
    json_object_begin(writer, NULL);
    json_u64(writer, "a", 18446744073709551615u);
    json_i64(writer, "b", INT64_MIN);
    json_array_begin(writer, "c");
    json_bool(writer, NULL, true);
    json_f64(writer, NULL, 0.1);
    json_object_begin(writer, NULL);
    json_object_end(writer);
    json_array_end(writer);
    json_text(writer, "d", "x\"\\\n\x01", 5);
    json_object_end(writer);
}

static const char sample[] = "{\"a\":18446744073709551615,\"b\":-9223372036854775808,"
                             "\"c\":[true,0.1,{}],\"d\":\"x\\\"\\\\\\u000a\\u0001\"}";

Test(json_writer, writes_objects_arrays_and_escapes)
{
    char buffer[256];
    struct json_writer writer;
    json_writer_init(&writer, buffer, sizeof buffer);
    write_sample(&writer);
    cr_assert_str_eq(json_writer_finish(&writer), sample);
}

Test(json_writer, every_capacity_is_respected)
{
    for (size_t capacity = 1; capacity <= sizeof sample + 1; capacity++) {
        char buffer[256];
        memset(buffer, 0x5a, sizeof buffer);
        struct json_writer writer;
        json_writer_init(&writer, buffer, capacity);
        write_sample(&writer);
        const char *done = json_writer_finish(&writer);
        cr_assert_eq(done != NULL, capacity >= sizeof sample, "capacity %zu", capacity);
        for (size_t i = capacity; i < sizeof buffer; i++) {
            cr_assert_eq(buffer[i], 0x5a);
        }
    }
}

Test(json_writer, what_json_lacks_is_null)
{
    char buffer[64];
    struct json_writer writer;
    json_writer_init(&writer, buffer, sizeof buffer);
    json_array_begin(&writer, NULL);
    json_f64(&writer, NULL, NAN);
    json_f64(&writer, NULL, -INFINITY);
    json_f32(&writer, NULL, INFINITY);
    json_array_end(&writer);
    cr_assert_str_eq(json_writer_finish(&writer), "[null,null,null]");
}

Test(json_writer, bytes_that_are_not_utf8_become_the_replacement_character)
{
    char buffer[128];
    struct json_writer writer;
    json_writer_init(&writer, buffer, sizeof buffer);
    json_text(&writer, NULL, "a\xff\xc3\xa4\xed\xa0\x80z\0hidden", 16);
    json_error_t error;
    const char *done = json_writer_finish(&writer);
    json_t *root = json_loads(done, JSON_DECODE_ANY, &error);
    cr_assert_not_null(root, "%s: %s", done, error.text);
    cr_assert_str_eq(json_string_value(root),
                     "a\xef\xbf\xbd\xc3\xa4\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz");
    json_decref(root);
}

Test(json_writer, random_texts_and_numbers_read_back)
{
    for (uint64_t seed = 1; seed <= 500; seed++) {
        struct prng prng;
        prng_init(&prng, seed);
        char text[32];
        for (size_t i = 0; i < sizeof text; i++) {
            text[i] = (char)prng_below(&prng, 256);
        }
        uint64_t bits = prng_next(&prng);
        double number;
        memcpy(&number, &bits, sizeof number);
        const int64_t whole = (int64_t)prng_next(&prng);

        char buffer[1024];
        struct json_writer writer;
        json_writer_init(&writer, buffer, sizeof buffer);
        json_array_begin(&writer, NULL);
        json_text(&writer, NULL, text, sizeof text);
        json_f64(&writer, NULL, number);
        json_i64(&writer, NULL, whole);
        json_array_end(&writer);
        json_error_t error;
        const char *done = json_writer_finish(&writer);
        json_t *root = json_loads(done, 0, &error);
        cr_assert_not_null(root, "seed %llu: %s", (unsigned long long)seed, error.text);
        if (isfinite(number)) {
            cr_assert(json_number_value(json_array_get(root, 1)) == number);
        }
        cr_assert_eq(json_integer_value(json_array_get(root, 2)), whole);
        json_decref(root);
    }
}

Test(json_writer, a_member_without_a_name_is_a_bug, .signal = SIGABRT)
{
    char buffer[64];
    struct json_writer writer;
    json_writer_init(&writer, buffer, sizeof buffer);
    json_object_begin(&writer, NULL);
    json_u64(&writer, NULL, 1);
}
