#include "server/csv_rows.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "server/text.h"
#include "server/value_text.h"

enum { IMPORT_NAME_SIZE_MAX = 256 }; /* bytes that count; command lines are checked for it */

void csv_row_id(const char *name, uint64_t row_number, uint8_t id[16])
{
    uint8_t input[IMPORT_NAME_SIZE_MAX + 1 + sizeof row_number];
    const size_t name_size = strlen(name);
    assert(name_size <= IMPORT_NAME_SIZE_MAX);

    memcpy(input, name, name_size + 1); /* Its NUL keeps "a" + row and "a1" + row apart. */
    memcpy(input + name_size + 1, &row_number, sizeof row_number);
    const XXH128_hash_t hash = XXH3_128bits(input, name_size + 1 + sizeof row_number);
    memcpy(id, &hash.low64, sizeof hash.low64);
    memcpy(id + sizeof hash.low64, &hash.high64, sizeof hash.high64);
    if (hash.low64 == 0 && hash.high64 == 0) {
        id[0] = 1; /* Zero is not an id. */
    }
}

__attribute__((format(printf, 2, 3))) static void set_error(struct csv_rows *rows,
                                                            const char *format, ...)
{
    const int size =
        snprintf(rows->error, sizeof rows->error, "line %" PRIu64 ": ", rows->row_line);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(rows->error + size, sizeof rows->error - (size_t)size, format, arguments);
    va_end(arguments);
}

static void on_cell(void *text, size_t size, void *context)
{
    struct csv_rows *rows = context;
    if (rows->cell_count == CSV_COLUMN_COUNT_MAX) {
        rows->too_many_cells = true;
        return;
    }
    /* The file's bytes bound the cells': a row is refused beyond CSV_ROW_SIZE_MAX. */
    assert(size <= rows->cells_capacity - rows->cells_size);
    if (size > 0) {
        memcpy(rows->cells + rows->cells_size, text, size);
    }
    rows->cells_size += size;
    rows->cell_count += 1;
    rows->cell_offsets[rows->cell_count] = (uint32_t)rows->cells_size;
}

static void on_row(int terminator, void *context)
{
    struct csv_rows *rows = context;
    (void)terminator;
    rows->row_complete = true;
}

/* Spaces around a cell belong to its value: only quotes are taken off. */
static int never_space(unsigned char character)
{
    (void)character;
    return 0;
}

/* Only the line feed ends a row, so that one line can never hold two. */
static int line_feed(unsigned char character)
{
    return character == '\n';
}

/* Reads lines until a row is complete. Fed line by line, so that line numbers are exact although a
 * quoted cell may span lines. */
static enum csv_result read_row(struct csv_rows *rows)
{
    rows->cell_count = 0;
    rows->cells_size = 0;
    rows->row_complete = false;
    rows->too_many_cells = false;
    rows->row_line = rows->line_number + 1;
    size_t row_size = 0;
    while (!rows->row_complete) {
        errno = 0;
        const ssize_t got = getline(&rows->line, &rows->line_capacity, rows->file);
        if (got < 0) {
            if (ferror(rows->file)) {
                set_error(rows, "cannot be read: %s", strerror(errno));
                return CSV_RESULT_BROKEN;
            }
            csv_set_opts(&rows->parser, CSV_STRICT | CSV_STRICT_FINI);
            if (csv_fini(&rows->parser, on_cell, on_row, rows) != 0) {
                set_error(rows, "a quote opened here is never closed");
                return CSV_RESULT_BROKEN;
            }
            return rows->row_complete ? CSV_RESULT_ROW : CSV_RESULT_END;
        }
        size_t size = (size_t)got;
        char *text = rows->line;
        rows->line_number += 1;
        rows->bytes_read += size;
        if (rows->line_number == 1 && size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
            text += 3; /* The mark that some programs put before UTF-8. */
            size -= 3;
        }
        if (size >= 2 && text[size - 2] == '\r' && text[size - 1] == '\n') {
            text[size - 2] = '\n';
            size -= 1;
        }
        row_size += size;
        if (row_size > CSV_ROW_SIZE_MAX) {
            set_error(rows,
                      "this row is longer than %d bytes; most likely a quote in it is never closed",
                      CSV_ROW_SIZE_MAX);
            return CSV_RESULT_BROKEN;
        }
        if (csv_parse(&rows->parser, text, size, on_cell, on_row, rows) != size) {
            set_error(rows, "%s", csv_strerror(csv_error(&rows->parser)));
            return CSV_RESULT_BROKEN;
        }
        if (!rows->row_complete && rows->cell_count == 0 && rows->parser.quoted == 0 &&
            rows->parser.entry_pos == 0) {
            rows->row_line = rows->line_number + 1; /* An empty line is no row. */
            row_size = 0;
        }
    }
    return CSV_RESULT_ROW;
}

static const char *cell(const struct csv_rows *rows, uint32_t index, size_t *size)
{
    assert(index < rows->cell_count);
    *size = rows->cell_offsets[index + 1] - rows->cell_offsets[index];
    return (const char *)rows->cells + rows->cell_offsets[index];
}

/* What is no CSV file of ours shows in its first line. Also keeps bytes that a terminal would obey
 * out of messages. */
static bool check_name(struct csv_rows *rows, const char *name, size_t size)
{
    if (memchr(name, '\r', size) != NULL) {
        set_error(rows, "lines end with a carriage return alone; convert the file first "
                        "(tr '\\r' '\\n')");
        return false;
    }
    bool is_text = utf8_valid_size((const uint8_t *)name, size) == size;
    for (size_t i = 0; i < size; i++) {
        is_text &= (unsigned char)name[i] >= ' ' || name[i] == '\t' || name[i] == '\n';
    }
    if (!is_text) {
        set_error(rows, "this is not text in UTF-8; convert the file first (iconv)");
    }
    return is_text;
}

static bool map_columns(struct csv_rows *rows)
{
    const struct shape *shape = rows->shape;
    bool mapped[FIELD_COUNT_MAX] = {false};
    bool any_mapped = false;

    rows->column_count = rows->cell_count;
    for (uint32_t i = 0; i < rows->column_count; i++) {
        size_t size;
        const char *name = cell(rows, i, &size);
        if (!check_name(rows, name, size)) {
            return false;
        }
        snprintf(rows->column_names[i], sizeof rows->column_names[i], "%.*s",
                 (int)(size > 63 ? 63 : size), name);
        const char *id_column = rows->options.id_column;
        if (id_column != NULL && strlen(id_column) == size && memcmp(id_column, name, size) == 0) {
            rows->id_column = (int)i;
        }
        const int field = shape_field(shape, name, size);
        rows->column_fields[i] = field;
        if (field >= 0 && mapped[field]) {
            set_error(rows, "the column '%s' is there twice", rows->column_names[i]);
            return false;
        }
        if (field >= 0) {
            mapped[field] = true;
            any_mapped = true;
        } else if (rows->id_column != (int)i && !rows->options.partial) {
            set_error(rows,
                      "the column '%s' is not a field of '%s'; rename it, or use --partial to "
                      "skip it",
                      rows->column_names[i], shape->spec.name);
            return false;
        }
    }
    if (rows->options.id_column != NULL && rows->id_column < 0) {
        set_error(rows, "there is no column '%.64s' for --id", rows->options.id_column);
        return false;
    }
    if (!any_mapped && rows->id_column < 0 && shape->spec.field_count > 0) {
        set_error(rows,
                  "no column is a field of '%s', not even with --partial; the first line must name "
                  "them as the groove does, with commas between",
                  shape->spec.name);
        return false;
    }
    for (uint32_t i = 0; i < shape->spec.field_count && !rows->options.partial; i++) {
        if (!mapped[i]) {
            set_error(rows,
                      "no column for the field '%s'; add one, or use --partial to leave it zero",
                      shape->spec.fields[i].name);
            return false;
        }
    }
    return true;
}

bool csv_rows_init(struct csv_rows *rows, FILE *file, const struct shape *shape,
                   const struct csv_options *options)
{
    assert(file != NULL);
    assert(shape != NULL);
    assert(options->name != NULL);

    *rows = (struct csv_rows){
        .file = file, .shape = shape, .options = *options, .id_column = -1, .row_line = 1};
    if (csv_init(&rows->parser, 0) != 0) {
        set_error(rows, "out of memory");
        return false;
    }
    csv_set_space_func(&rows->parser, never_space);
    csv_set_term_func(&rows->parser, line_feed);
    rows->cells_capacity = CSV_ROW_SIZE_MAX;
    rows->cells = malloc(rows->cells_capacity);
    if (rows->cells == NULL) {
        set_error(rows, "out of memory");
        return false;
    }
    switch (read_row(rows)) {
    case CSV_RESULT_END:
        set_error(rows, "the file is empty; its first line must name the columns");
        return false;
    case CSV_RESULT_ROW:
        break;
    case CSV_RESULT_BAD_ROW:
    case CSV_RESULT_BROKEN:
        return false;
    }
    if (rows->too_many_cells) {
        set_error(rows, "more than %d columns", CSV_COLUMN_COUNT_MAX);
        return false;
    }
    return map_columns(rows);
}

void csv_rows_deinit(struct csv_rows *rows)
{
    csv_free(&rows->parser);
    free(rows->line);
    free(rows->cells);
    *rows = (struct csv_rows){0};
}

static bool convert_id(struct csv_rows *rows, uint8_t *image)
{
    if (rows->id_column < 0) {
        csv_row_id(rows->options.name, rows->row_number, image);
        return true;
    }
    size_t size;
    const char *text = cell(rows, (uint32_t)rows->id_column, &size);
    static const uint8_t zero[16];
    if (!id_parse(text, size, image) || memcmp(image, zero, sizeof zero) == 0) {
        set_error(rows, "column %s: '%.*s' is not an id: a number from 1, 0x..., or a UUID",
                  rows->column_names[rows->id_column], (int)(size > 60 ? 60 : size), text);
        return false;
    }
    return true;
}

static bool convert_cells(struct csv_rows *rows, uint8_t *image)
{
    const struct shape *shape = rows->shape;
    for (uint32_t i = 0; i < rows->column_count; i++) {
        if (rows->column_fields[i] < 0) {
            continue;
        }
        const struct field_spec *field = &shape->spec.fields[rows->column_fields[i]];
        size_t size;
        const char *text = cell(rows, i, &size);
        const bool may_be_empty = field->type == FIELD_TYPE_TEXT ||
                                  field->type == FIELD_TYPE_BYTES || rows->options.empty_is_zero;
        if (size == 0 && may_be_empty) {
            continue;
        }
        char reason[256];
        if (!value_parse(field, text, size, image + shape->offsets[rows->column_fields[i]], reason,
                         sizeof reason)) {
            set_error(rows, "column %s: '%.*s': %s%s", rows->column_names[i],
                      (int)(size > 60 ? 60 : size), text, reason,
                      size == 0 ? " (--empty-is-zero accepts empty cells)" : "");
            return false;
        }
    }
    return true;
}

enum csv_result csv_rows_next(struct csv_rows *rows, uint8_t *image)
{
    const enum csv_result result = read_row(rows);
    if (result != CSV_RESULT_ROW) {
        return result;
    }
    rows->row_number += 1;
    if (rows->too_many_cells || rows->cell_count != rows->column_count) {
        set_error(rows, "%s%" PRIu32 " cells, but the first line names %" PRIu32 " columns",
                  rows->too_many_cells ? "over " : "", rows->cell_count, rows->column_count);
        return CSV_RESULT_BAD_ROW;
    }
    memset(image, 0, rows->shape->object_size);
    if (!convert_id(rows, image) || !convert_cells(rows, image)) {
        return CSV_RESULT_BAD_ROW;
    }
    return CSV_RESULT_ROW;
}
