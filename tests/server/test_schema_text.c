/* Goal: what --help promises parses, prints back the same, and mistakes point at their column.
 * Method: whole examples; a table of errors; random specs through format and parse; every prefix
 * and random mutations of a valid text, which must be refused or parsed, never crash. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "server/schema_text.h"
#include "tests/harness/prng.h"

TestSuite(schema_text, .timeout = 120);

static struct groove_spec spec;
static char error[SCHEMA_TEXT_ERROR_SIZE];

static const char cities[] =
    "name text<100>, lat f64, lng f64, country text<2>,\n admin1 text<8>, "
    "index country, index by_admin (country, admin1), unique sparse index (lat,lng),";

Test(schema_text, the_example_parses)
{
    cr_assert(schema_text_parse("cities", cities, &spec, error), "%s", error);
    cr_assert_str_eq(spec.name, "cities");
    cr_assert_eq(spec.field_count, 5);
    cr_assert_eq(spec.fields[0].type, FIELD_TYPE_TEXT);
    cr_assert_eq(spec.fields[0].size, 100);
    cr_assert_eq(spec.fields[1].type, FIELD_TYPE_F64);
    cr_assert_str_eq(spec.fields[4].name, "admin1");
    cr_assert_eq(spec.index_count, 3);
    cr_assert_str_eq(spec.indexes[0].name, "country");
    cr_assert_eq(spec.indexes[0].field_count, 1);
    cr_assert_eq(spec.indexes[0].fields[0], 3);
    cr_assert_str_eq(spec.indexes[1].name, "by_admin");
    cr_assert_eq(spec.indexes[1].field_count, 2);
    cr_assert_eq(spec.indexes[1].fields[1], 4);
    cr_assert_str_eq(spec.indexes[2].name, "lat_lng");
    cr_assert_eq(spec.indexes[2].flags, INDEX_FLAG_UNIQUE | INDEX_FLAG_SPARSE);
}

Test(schema_text, mistakes_point_at_their_column)
{
    static const struct {
        const char *text, *column, *says;
    } cases[] = {
        {"name txt<100>", "column 6:", "'txt<100>' is not a type"},
        {"name text", "column 6:", "text<100>"},
        {"name", "column 5:", "needs a type"},
        {"name, lat f64", "column 5:", "needs a type"},
        {"a u8 b u8", "column 6:", "expected ','"},
        {"a u8, a u8", "column 7:", "there already"},
        {"a u8, index b", "column 13:", "no field 'b'"},
        {"a u8, index x (a, b)", "column 19:", "no field 'b'"},
        {"a u8, index x (a", "column 17:", "')'"},
        {"a u8, unique a", "column 14:", "expected 'index'"},
        {"a u8, index a, index a", "column 16:", "there already"},
        {"9a u8", "column 1:", "name of a field"},
        {"a_name_that_is_longer_than_31_byt u8", "column 1:", "31 bytes"},
        {"a u8,, b u8", "column 6:", "name of a field"},
        {"a u8, index x (a,a,a,a,a)", "column 24:", "at most 4"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert_not(schema_text_parse("g", cases[i].text, &spec, error), "%s", cases[i].text);
        cr_assert_eq(strncmp(error, cases[i].column, strlen(cases[i].column)), 0, "%s: %s",
                     cases[i].text, error);
        cr_assert_not_null(strstr(error, cases[i].says), "%s: %s", cases[i].text, error);
        cr_assert_not_null(strchr(error, '^'));
    }
}

Test(schema_text, groove_names_are_checked)
{
    cr_assert_not(schema_text_parse("my-groove", "a u8", &spec, error));
    cr_assert_not(schema_text_parse("", "a u8", &spec, error));
    cr_assert(schema_text_parse("_g1", "", &spec, error));
}

Test(schema_text, limits_are_checked)
{
    char text[2000] = "";
    for (int i = 0; i < FIELD_COUNT_MAX; i++) {
        char field[20];
        snprintf(field, sizeof field, "f%d u8,", i);
        strcat(text, field);
    }
    cr_assert(schema_text_parse("g", text, &spec, error), "%s", error);
    strcat(text, "one_more u8");
    cr_assert_not(schema_text_parse("g", text, &spec, error));
    cr_assert_not_null(strstr(error, "at most 32 fields"));
}

Test(schema_text, specs_survive_their_text)
{
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct prng prng;
        prng_init(&prng, seed);
        struct groove_spec original = {.name = "g"};
        original.field_count = 1 + (uint32_t)prng_below(&prng, FIELD_COUNT_MAX);
        for (uint32_t i = 0; i < original.field_count; i++) {
            struct field_spec *field = &original.fields[i];
            const uint32_t type = 1 + (uint32_t)prng_below(&prng, FIELD_TYPE_TIMESTAMP);
            struct field_spec written = {
                .type = (uint8_t)type,
                .size = 1 + (uint32_t)prng_below(&prng, 200),
            };
            char text[NAME_SIZE];
            field_type_format(&written, text, sizeof text);
            cr_assert(field_type_parse(text, field));
            snprintf(field->name, sizeof field->name, "a_long_field_name_%u", i);
        }
        original.index_count = (uint32_t)prng_below(&prng, INDEX_COUNT_MAX + 1);
        for (uint32_t i = 0; i < original.index_count; i++) {
            struct index_spec *index = &original.indexes[i];
            snprintf(index->name, sizeof index->name, "i%u", i);
            index->flags = (uint8_t)prng_below(&prng, 4);
            index->field_count = (uint8_t)(1 + prng_below(&prng, INDEX_FIELD_COUNT_MAX));
            for (uint32_t field = 0; field < index->field_count; field++) {
                index->fields[field] = (uint8_t)prng_below(&prng, original.field_count);
            }
        }
        char text[8192];
        cr_assert(schema_text_format(&original, text, sizeof text));
        cr_assert(schema_text_parse("g", text, &spec, error), "%s\n%s", text, error);
        cr_assert_arr_eq((char *)&spec, (char *)&original, sizeof spec, "seed %d: %s", (int)seed,
                         text);
        char small[100];
        for (size_t size = 1; size < sizeof small && size <= strlen(text); size++) {
            cr_assert_not(schema_text_format(&original, small, size));
        }
    }
}

Test(schema_text, mangled_texts_never_crash)
{
    char text[sizeof cities];
    for (size_t size = 0; size < sizeof cities; size++) {
        memcpy(text, cities, sizeof cities);
        text[size] = '\0';
        (void)schema_text_parse("g", text, &spec, error);
    }
    for (uint64_t seed = 1; seed <= 3000; seed++) {
        struct prng prng;
        prng_init(&prng, seed);
        memcpy(text, cities, sizeof cities);
        for (int i = 0; i < 3; i++) {
            text[prng_below(&prng, sizeof cities - 1)] = (char)prng_below(&prng, 256);
        }
        (void)schema_text_parse("g", text, &spec, error);
        static struct where where;
        (void)where_parse(text, &where, error);
    }
}

static struct where where;

Test(schema_text, conditions_parse)
{
    cr_assert(where_parse("country = \"AD\" and admin1='0\\'3'  AND x==a-b.c", &where, error), "%s",
              error);
    cr_assert_eq(where.term_count, 3);
    cr_assert_str_eq(where.terms[0].name, "country");
    cr_assert_str_eq(where.terms[0].value, "AD");
    cr_assert_str_eq(where.terms[1].value, "0'3");
    cr_assert_str_eq(where.terms[2].value, "a-b.c");
    cr_assert(where_parse("a=\"\"", &where, error));
    cr_assert_eq(where.terms[0].value_size, 0);
    cr_assert(where_parse("a = -12.5", &where, error));
    cr_assert_str_eq(where.terms[0].value, "-12.5");
}

Test(schema_text, wrong_conditions_point_at_their_column)
{
    static const struct {
        const char *text, *column, *says;
    } cases[] = {
        {"", "column 1:", "name of a field"},
        {"country", "column 8:", "expected '='"},
        {"country =", "column 10:", "expected a value"},
        {"country = \"AD", "column 11:", "never closed"},
        {"country = \"AD\" or x = 1", "column 16:", "expected 'and'"},
        {"a = 1 and a = 2", "column 11:", "twice"},
        {"a = 1 and", "column 10:", "name of a field"},
        {"a=1 and b=1 and c=1 and d=1 and e=1", "column 33:", "at most 4"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert_not(where_parse(cases[i].text, &where, error), "%s", cases[i].text);
        cr_assert_eq(strncmp(error, cases[i].column, strlen(cases[i].column)), 0, "%s: %s",
                     cases[i].text, error);
        cr_assert_not_null(strstr(error, cases[i].says), "%s: %s", cases[i].text, error);
    }
}
