/* Goal: rows become the right images, and every wrong one is named by line and column while the
 * others go on. Method: small files in memory; random tables written with quotes and line breaks
 * and read back; every prefix of a file, which must never crash. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/csv_rows.h"
#include "server/value_text.h"
#include "tests/harness/prng.h"

TestSuite(csv_rows, .timeout = 120);

static struct shape shape;
static struct csv_rows rows;
static uint8_t image[OBJECT_SIZE_MAX];

/* name text<12> at 32, age u8 at 44, weight f64 at 48 */
static void setup(void)
{
    char error[SCHEMA_TEXT_ERROR_SIZE];
    cr_assert(schema_text_parse("people", "name text<12>, age u8, weight f64", &shape.spec, error));
    shape.object_size = 56;
    shape.event_max = 100;
    shape.offsets[0] = 32;
    shape.offsets[1] = 44;
    shape.offsets[2] = 48;
}

static bool begin(const char *text, size_t size, const struct csv_options *options)
{
    FILE *file = fmemopen((void *)text, size, "r");
    cr_assert_not_null(file);
    return csv_rows_init(&rows, file, &shape, options);
}

static void end(void)
{
    FILE *file = rows.file;
    csv_rows_deinit(&rows);
    fclose(file);
}

static bool begin_text(const char *text)
{
    static const struct csv_options options = {.name = "people.csv"};
    return begin(text, strlen(text), &options);
}

static void expect_row(const char *name, uint8_t age, double weight, uint64_t line)
{
    cr_assert_eq(csv_rows_next(&rows, image), CSV_RESULT_ROW, "%s", rows.error);
    double got;
    memcpy(&got, image + 48, sizeof got);
    cr_assert_eq(strncmp((char *)image + 32, name, 12), 0, "%.12s", image + 32);
    cr_assert_eq(image[44], age);
    cr_assert_eq(got, weight);
    cr_assert_eq(rows.row_line, line);
}

static void expect_bad(const char *says)
{
    cr_assert_eq(csv_rows_next(&rows, image), CSV_RESULT_BAD_ROW);
    cr_assert_not_null(strstr(rows.error, says), "%s", rows.error);
}

Test(csv_rows, columns_map_by_name_in_any_order, .init = setup)
{
    cr_assert(begin_text("weight,name,age\n1.5,Ada,36\n-2,\"Bob, \"\"B\"\"\",40\r\n3,c,0"), "%s",
              rows.error);
    expect_row("Ada", 36, 1.5, 2);
    uint8_t id[16];
    csv_row_id("people.csv", 1, id);
    cr_assert_arr_eq(image, id, 16);
    cr_assert_arr_eq(image + 16, (char[16]){0}, 16);
    expect_row("Bob, \"B\"", 40, -2, 3);
    csv_row_id("people.csv", 2, id);
    cr_assert_arr_eq(image, id, 16);
    expect_row("c", 0, 3, 4);
    cr_assert_eq(csv_rows_next(&rows, image), CSV_RESULT_END);
    cr_assert_eq(csv_rows_next(&rows, image), CSV_RESULT_END);
    end();
}

Test(csv_rows, lines_are_counted_through_quotes_and_blanks, .init = setup)
{
    cr_assert(begin_text("\xef\xbb\xbfname,age,weight\n\n\"a\r\nb\",1,1\n\n\nx,300,1\ny,2,2\n"),
              "%s", rows.error);
    expect_row("a\nb", 1, 1, 3);
    expect_bad("line 7: column age: '300': expected a whole number from 0 to 255");
    expect_row("y", 2, 2, 8);
    cr_assert_eq(rows.row_number, 3);
    end();
}

Test(csv_rows, bad_rows_are_named_and_skipped, .init = setup)
{
    cr_assert(begin_text("name,age,weight\n"
                         "a,1\n"
                         "b,1,1,1\n"
                         "c,,1\n"
                         "d,1,heavy\n"
                         "a name that is too long,1,1\n"
                         "\xff,1,1\n"
                         "good,1,1\n"));
    expect_bad("line 2: 2 cells, but the first line names 3 columns");
    expect_bad("line 3: 4 cells");
    expect_bad("line 4: column age: '': expected a whole number from 0 to 255 (--empty-is-zero");
    expect_bad("line 5: column weight: 'heavy'");
    expect_bad("line 6: column name: 'a name that is too long': text of 23 bytes does not fit");
    expect_bad("line 7: column name");
    expect_row("good", 1, 1, 8);
    end();
}

Test(csv_rows, wrong_headers_are_refused, .init = setup)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "is empty"},
        {"\n\n", "is empty"},
        {"name,age\n", "no column for the field 'weight'"},
        {"name,age,weight,shoe\n", "the column 'shoe' is not a field of 'people'"},
        {"name,age,weight,age\n", "the column 'age' is there twice"},
        {"\"name,age", "never closed"},
        {"name,age,weight\rAda,1,2\r", "carriage return"},
        {"\xff\xfen,a", "not text in UTF-8"},
        {"name,a\x1b[2Jge,weight\n", "not text in UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        static const struct csv_options options = {.name = "x"};
        /* fmemopen refuses an empty buffer, so a NUL is left outside of none. */
        FILE *file = tmpfile();
        fputs(cases[i].text, file);
        rewind(file);
        cr_assert_not(csv_rows_init(&rows, file, &shape, &options), "%s", cases[i].text);
        cr_assert_not_null(strstr(rows.error, cases[i].says), "%s", rows.error);
        csv_rows_deinit(&rows);
        fclose(file);
    }
}

Test(csv_rows, partial_files_and_empty_cells_are_accepted_when_asked, .init = setup)
{
    static const char text[] = "shoe,age,name\n42,,Ada\n";
    const struct csv_options options = {.name = "x", .partial = true, .empty_is_zero = true};
    cr_assert(begin(text, strlen(text), &options), "%s", rows.error);
    expect_row("Ada", 0, 0, 2);
    end();
}

/* What would make objects of nothing but zeros. */
Test(csv_rows, partial_files_have_a_field_of_the_groove, .init = setup)
{
    static const char *const texts[] = {"Name,Age\nAda,1\n", "name;age\nAda;1\n",
                                        "name\tage\nAda\t1\n"};
    static const struct csv_options options = {.name = "x", .partial = true};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        cr_assert_not(begin(texts[i], strlen(texts[i]), &options), "%s", texts[i]);
        cr_assert_not_null(strstr(rows.error, "no column is a field of 'people'"), "%s",
                           rows.error);
        end();
    }
    static const struct csv_options with_ids = {.name = "x", .partial = true, .id_column = "key"};
    cr_assert(begin("key\n7\n", 6, &with_ids), "%s", rows.error);
    expect_row("", 0, 0, 2);
    end();
}

Test(csv_rows, ids_may_come_from_a_column, .init = setup)
{
    static const char text[] = "key,name,age,weight\n17,a,1,1\n0,b,1,1\nx,c,1,1\n"
                               "123e4567-e89b-12d3-a456-426614174000,d,1,1\n";
    const struct csv_options options = {.name = "x", .id_column = "key"};
    cr_assert(begin(text, strlen(text), &options), "%s", rows.error);
    expect_row("a", 1, 1, 2);
    cr_assert_eq(image[0], 17);
    expect_bad("line 3: column key: '0' is not an id");
    expect_bad("line 4: column key: 'x' is not an id");
    expect_row("d", 1, 1, 5);
    end();
    const struct csv_options wrong = {.name = "x", .id_column = "id", .partial = true};
    cr_assert_not(begin(text, strlen(text), &wrong));
    cr_assert_not_null(strstr(rows.error, "no column 'id'"));
    end();
}

Test(csv_rows, an_open_quote_ends_the_file_not_the_memory, .init = setup)
{
    const size_t size = CSV_ROW_SIZE_MAX + 1000;
    char *text = malloc(size + 1);
    memset(text, 'x', size);
    for (size_t i = 100; i < size; i += 100) {
        text[i] = '\n';
    }
    memcpy(text, "name,age,weight\n\"", 17);
    text[size] = '\0';
    cr_assert(begin_text(text));
    cr_assert_eq(csv_rows_next(&rows, image), CSV_RESULT_BROKEN);
    cr_assert_not_null(strstr(rows.error, "never closed"), "%s", rows.error);
    end();
    free(text);
}

Test(csv_rows, row_ids_differ_by_name_and_row)
{
    uint8_t a[16];
    uint8_t b[16];
    csv_row_id("a", 1, a);
    csv_row_id("a", 1, b);
    cr_assert_arr_eq(a, b, 16);
    csv_row_id("a", 2, b);
    cr_assert_arr_neq(a, b, 16);
    csv_row_id("a1", 1, b);
    cr_assert_arr_neq(a, b, 16);
}

Test(csv_rows, random_tables_read_back, .init = setup)
{
    static const char alphabet[] = "ab,\"\n' ;\xc3\xa4";
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct prng prng;
        prng_init(&prng, seed);
        char text[8192] = "name,age,weight\n";
        char names[50][13] = {{0}};
        size_t size = strlen(text);
        const uint32_t count = (uint32_t)prng_below(&prng, 50);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t name_size = 0;
            const uint32_t letters = (uint32_t)prng_below(&prng, 6);
            text[size++] = '"';
            for (uint32_t letter = 0; letter < letters; letter++) {
                const uint32_t at = (uint32_t)prng_below(&prng, 9);
                const uint32_t bytes = at == 8 ? 2 : 1;
                for (uint32_t byte = 0; byte < bytes; byte++) {
                    names[i][name_size++] = alphabet[at + byte];
                    text[size++] = alphabet[at + byte];
                    if (alphabet[at + byte] == '"') {
                        text[size++] = '"';
                    }
                }
            }
            size += (size_t)sprintf(text + size, "\",%u,%u\n", i, i * 2);
        }
        text[size] = '\0';
        cr_assert(begin_text(text), "%s", rows.error);
        for (uint32_t i = 0; i < count; i++) {
            cr_assert_eq(csv_rows_next(&rows, image), CSV_RESULT_ROW, "seed %d: %s", (int)seed,
                         rows.error);
            cr_assert_eq(strncmp((char *)image + 32, names[i], 12), 0, "seed %d", (int)seed);
            cr_assert_eq(image[44], i);
        }
        cr_assert_eq(csv_rows_next(&rows, image), CSV_RESULT_END);
        end();
    }
}

Test(csv_rows, no_prefix_crashes, .init = setup)
{
    static const char text[] = "name,age,weight\n\"a\"\"\n,\",1,1\nb,2,2\r\n,\"\",\"";
    static const struct csv_options options = {.name = "x"};
    for (size_t size = 1; size <= strlen(text); size++) {
        if (begin(text, size, &options)) {
            for (enum csv_result result = CSV_RESULT_ROW;
                 result == CSV_RESULT_ROW || result == CSV_RESULT_BAD_ROW;) {
                result = csv_rows_next(&rows, image);
            }
        }
        end();
    }
}
