/* Rows of a CSV file: a byte of options, then the file. Every row ends as an image that the engine
 * would accept, or is named bad. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "server/csv_rows.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct shape shape;
    static struct groove_schema schema;
    static struct csv_rows rows;
    struct fuzz_input input = {data, size};
    char error[SCHEMA_TEXT_ERROR_SIZE];
    uint8_t image[OBJECT_SIZE_MAX];
    const uint8_t flags = fuzz_u8(&input);

    memset(&shape, 0, sizeof shape);
    const bool parsed = schema_text_parse(
        "people", "name text<12>, age u8, weight f64, alive bool, at timestamp, raw bytes<5>",
        &shape.spec, error);
    assert(parsed);
    const struct geometry geometry = geometry_tiny();
    const enum status status = schema_build(&geometry, &shape.spec, &schema, error, sizeof error);
    assert(status == STATUS_OK);
    shape.object_size = schema.object_size;
    shape.event_max = schema.event_max;
    for (uint32_t i = 0; i < shape.spec.field_count; i++) {
        shape.offsets[i] = schema.fields[i].offset;
    }
    const struct csv_options options = {
        .name = "people.csv",
        .id_column = (flags & 1) != 0 ? "key" : NULL,
        .partial = (flags & 2) != 0,
        .empty_is_zero = (flags & 4) != 0,
    };
    /* fmemopen does not open nothing. */
    FILE *file = input.size > 0 ? fmemopen((void *)(uintptr_t)input.data, input.size, "r")
                                : fopen("/dev/null", "re");
    assert(file != NULL);
    if (csv_rows_init(&rows, file, &shape, &options)) {
        enum csv_result result;
        uint64_t row_count = 0;
        while ((result = csv_rows_next(&rows, image)) == CSV_RESULT_ROW ||
               result == CSV_RESULT_BAD_ROW) {
            row_count += 1;
            assert(rows.row_number == row_count);
            assert(row_count <= input.size + 1);
            assert(result == CSV_RESULT_BAD_ROW || schema_image_valid(&schema, image));
        }
    }
    csv_rows_deinit(&rows);
    fclose(file);
    return 0;
}
