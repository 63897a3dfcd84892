/* A groove as a client sees it: decoded from a SCHEMA reply, used to build and print objects and to
 * make query keys. For the command line; pure functions. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/schema.h"
#include "server/json_writer.h"
#include "server/schema_text.h"

struct shape {
    struct groove_spec spec;
    uint32_t groove_id;
    uint32_t object_size; /* bytes of an object image */
    uint32_t event_max;   /* most events of this groove in one write */
    uint64_t object_count;
    uint32_t offsets[FIELD_COUNT_MAX];   /* of each field in the image */
    uint32_t index_ids[INDEX_COUNT_MAX]; /* as requests name them */
};

/* Decodes the groove at *offset of an untrusted SCHEMA body and moves *offset behind it. False:
 * the bytes are not a groove. */
bool shape_decode(const uint8_t *body, uint32_t body_size, uint32_t *offset, struct shape *shape);

/* Position of the field with this name (name_size bytes), or -1. */
int shape_field(const struct shape *shape, const char *name, size_t name_size);

enum { QUERY_KEY_SIZE_MAX = INDEX_FIELD_COUNT_MAX * OBJECT_SIZE_MAX };

/* The position of the index whose fields are exactly those of `where`, in any order, and the key:
 * their values as they stand in an image, in index order. -1: `error` (SCHEMA_TEXT_ERROR_SIZE
 * bytes) says which indexes there are. */
int shape_query_key(const struct shape *shape, const struct where *where, uint8_t *key,
                    uint32_t *key_size, char *error);

/* {"id": "...", "timestamp": "...", "version": N, fields...} as one element or the root. */
void shape_object_json(const struct shape *shape, const uint8_t *image, struct json_writer *writer);

/* Objects as a table on `file`: a header, then a row each, columns as wide as they need be but at
 * most 40. Image bytes that are not text to a terminal (control characters) print as '?'. */
void shape_objects_table(const struct shape *shape, const uint8_t *images, uint32_t count,
                         FILE *file);
