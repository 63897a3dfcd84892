/* The two small languages of the command line: what a groove looks like, and what a query asks for.
 *
 *   groove:  item {"," item}
 *   item:    NAME TYPE                                     a field:  name text<100>
 *          | ["unique"] ["sparse"] "index" index
 *   index:   NAME                                          index country      (of the field
 * country) | [NAME] "(" NAME {"," NAME} ")"                index by_admin (country, admin1)
 *
 *   where:   NAME "=" VALUE {"and" NAME "=" VALUE}         country = "AD" and admin1 = "03"
 *   VALUE:   "quoted" or 'quoted', with \ before a quote or a \, or a bare word up to a space
 *
 * Line breaks count as spaces; a trailing comma is allowed. Errors name the column, show the line
 * and say what would be right. Pure functions. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/schema.h"

enum {
    SCHEMA_TEXT_ERROR_SIZE = 1024, /* bytes; enough for the excerpt, the caret and the advice */
    WHERE_TERM_MAX = INDEX_FIELD_COUNT_MAX,
    WHERE_VALUE_SIZE_MAX = 2 * OBJECT_SIZE_MAX,
};

/* What the text says, with `name`. False: `error` (SCHEMA_TEXT_ERROR_SIZE bytes) tells. What needs
 * arithmetic (sizes, key bytes) is left to schema_build, in the daemon. */
bool schema_text_parse(const char *name, const char *text, struct groove_spec *spec, char *error);

/* The text that parses back to `spec`: "name text<100>, index country". False: does not fit. */
bool schema_text_format(const struct groove_spec *spec, char *text, size_t text_size);

/* Whether `name` can name a groove, a field or an index. */
bool schema_name_valid(const char *name);

struct where_term {
    char name[NAME_SIZE];
    char value[WHERE_VALUE_SIZE_MAX + 1]; /* unquoted; NUL-terminated */
    uint32_t value_size;                  /* bytes */
};

struct where {
    struct where_term terms[WHERE_TERM_MAX];
    uint32_t term_count; /* 1..WHERE_TERM_MAX */
};

/* As schema_text_parse. */
bool where_parse(const char *text, struct where *where, char *error);
