/* Rows of a CSV file as object images, one call each.
 *
 * The first row names the columns; each must be a field of the groove. Whatever is wrong with a row
 * is said with its line and its column's name, and the next call goes on with the next row. Rows
 * are counted from 1, bad ones too, so that a row keeps its number when another one is repaired. */
#pragma once

#include <csv.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "server/shape.h"

enum {
    CSV_COLUMN_COUNT_MAX = 256,
    CSV_ROW_SIZE_MAX = 1 << 20, /* bytes; more means a quote that was never closed */
    CSV_ERROR_SIZE = 512,
};

struct csv_options {
    const char *name;      /* the import's name: part of every automatic id */
    const char *id_column; /* column that holds the ids; NULL: automatic */
    bool partial;       /* columns without a field are skipped, fields without a column are zero */
    bool empty_is_zero; /* an empty cell of a number field is zero, not an error */
};

enum csv_result {
    CSV_RESULT_ROW,
    CSV_RESULT_BAD_ROW, /* error says why; the next call goes on */
    CSV_RESULT_END,
    CSV_RESULT_BROKEN, /* error says why; nothing more can be read */
};

struct csv_rows {
    FILE *file; /* borrowed */
    const struct shape *shape;
    struct csv_options options;
    struct csv_parser parser;

    char *line; /* getline's */
    size_t line_capacity;
    uint64_t line_number; /* of the line last read */
    uint64_t row_line;    /* line on which the current row began */
    uint64_t row_number;  /* data rows so far */
    uint64_t bytes_read;

    uint8_t *cells; /* bytes of the current row's cells, one behind another; owned */
    size_t cells_capacity;
    size_t cells_size;
    uint32_t cell_offsets[CSV_COLUMN_COUNT_MAX + 1]; /* into cells */
    uint32_t cell_count;
    bool row_complete;
    bool too_many_cells;

    uint32_t column_count;
    char column_names[CSV_COLUMN_COUNT_MAX][64]; /* cut; for messages */
    int column_fields[CSV_COLUMN_COUNT_MAX];     /* field position; -1: skipped */
    int id_column;                               /* position; -1: automatic */
    char error[CSV_ERROR_SIZE];
};

/* Reads the header row. False: `rows->error` says what is wrong with it. Either way
 * csv_rows_deinit follows. */
bool csv_rows_init(struct csv_rows *rows, FILE *file, const struct shape *shape,
                   const struct csv_options *options);
void csv_rows_deinit(struct csv_rows *rows);

/* Fills image[shape->object_size] when the result is ROW. */
enum csv_result csv_rows_next(struct csv_rows *rows, uint8_t *image);

/* The id that row `row_number` of the import `name` always gets: XXH3-128 of both. */
void csv_row_id(const char *name, uint64_t row_number, uint8_t id[16]);
