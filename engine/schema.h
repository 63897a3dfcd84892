/* What an object of a groove looks like, and how its index keys are made.
 *
 * A groove_spec is what a client asks for, and what the journal and the checkpoint keep; a
 * groove_schema is everything that follows from it. An object image is
 *
 *   offset size
 *        0   16  id         u128, from the client, not zero
 *       16    8  timestamp  u64, given by the engine when the object is made
 *       24    8  version    u64, timestamp of the event that last changed it
 *       32    .  fields in the order of the spec, each at the next multiple of its alignment
 *                (its size for numbers, at most 8; 1 for bool, bytes and text); then zeros up to
 *                a multiple of 8
 *
 * all little-endian. */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/lsm/key.h"
#include "engine/storage/limits.h"
#include "pool/status.h"

enum {
    NAME_SIZE = 32, /* zero padded; [A-Za-z_][A-Za-z0-9_]*, at most 31 bytes */
    FIELD_COUNT_MAX = 32,
    INDEX_COUNT_MAX = 16,
    INDEX_FIELD_COUNT_MAX = 4,
    INDEX_PREFIX_SIZE_MAX = 24,
    GROOVE_TREE_COUNT_MAX = 2 + INDEX_COUNT_MAX,
};

enum field_type {
    FIELD_TYPE_U8 = 1,
    FIELD_TYPE_U16,
    FIELD_TYPE_U32,
    FIELD_TYPE_U64,
    FIELD_TYPE_U128,
    FIELD_TYPE_I8,
    FIELD_TYPE_I16,
    FIELD_TYPE_I32,
    FIELD_TYPE_I64,
    FIELD_TYPE_F32,
    FIELD_TYPE_F64,
    FIELD_TYPE_BOOL,
    FIELD_TYPE_BYTES,
    FIELD_TYPE_TEXT,
    FIELD_TYPE_TIMESTAMP,
};

enum index_flag {
    INDEX_FLAG_UNIQUE = 1, /* at most one object per value: no two agree in all its fields */
    INDEX_FLAG_SPARSE = 2, /* leaves out objects whose (first) field is zero */
};

struct field_spec {
    char name[NAME_SIZE];
    uint8_t type; /* enum field_type */
    uint8_t zero[3];
    uint32_t size; /* bytes of BYTES and TEXT; 0 or the type's own size for the others */
};
static_assert(sizeof(struct field_spec) == 40, "on disk and on the wire");

struct index_spec {
    char name[NAME_SIZE];
    uint8_t field_count;                   /* 1..INDEX_FIELD_COUNT_MAX */
    uint8_t flags;                         /* enum index_flag */
    uint8_t fields[INDEX_FIELD_COUNT_MAX]; /* positions in groove_spec.fields; unused: 0 */
    uint8_t zero[2];
};
static_assert(sizeof(struct index_spec) == 40, "on disk and on the wire");

struct groove_spec {
    char name[NAME_SIZE];
    uint32_t field_count;
    uint32_t index_count;
    struct field_spec fields[FIELD_COUNT_MAX];
    struct index_spec indexes[INDEX_COUNT_MAX];
};
static_assert(sizeof(struct groove_spec) == 1960, "on disk and on the wire");

struct field_layout {
    uint32_t offset; /* in the object image */
    uint32_t size;
};

struct index_layout {
    uint8_t prefix_size; /* 8, 16 or 24: field bytes, zero padded at the end */
    uint8_t value_size;  /* bytes of fields in it, <= prefix_size */
    uint8_t key_size;    /* of its tree's keys: the prefix and a timestamp; the prefix if unique */
    bool exact;          /* false: the last text or bytes field was cut; queries recheck */
};

struct groove_schema {
    struct groove_spec spec;
    uint32_t object_size;
    struct field_layout fields[FIELD_COUNT_MAX];
    struct index_layout indexes[INDEX_COUNT_MAX];
    uint32_t table_value_max; /* values of one table of any of its trees: a bar's and a batch's */
    uint32_t event_max;       /* most events of this groove in one batch */
};

/* Checks and derives. STATUS_INVALID: `reason` (size bytes) says what is wrong and what to do. */
MUST_CHECK enum status schema_build(const struct geometry *geometry, const struct groove_spec *spec,
                                    struct groove_schema *schema, char *reason, size_t reason_size);

/* Position of the field or index with this name, or -1. */
int schema_field(const struct groove_schema *schema, const char *name);
int schema_index(const struct groove_schema *schema, const char *name);

/* "u32", "text<100>"... */
void field_type_format(const struct field_spec *field, char *text, size_t text_size);
/* The reverse: sets type and size. False: not a type. */
bool field_type_parse(const char *text, struct field_spec *field);

static inline bool schema_index_unique(const struct groove_schema *schema, uint32_t index)
{
    return (schema->spec.indexes[index].flags & INDEX_FLAG_UNIQUE) != 0;
}

/* Bytes of an entry: the prefix and the timestamp of the object. An ordinary index's entries are
 * all key. A unique one's have the prefix as key: its tree maps a value to the one object that has
 * it, as the id tree does ids, so that whoever asks for the owner of a value asks for one key, and
 * tombstones of earlier owners are older values of that key. */
static inline uint32_t schema_index_entry_size(const struct groove_schema *schema, uint32_t index)
{
    return schema->indexes[index].prefix_size + 8u;
}

/* Entry of `image` in index `index`: prefix_size bytes that sort as the field values do
 * (big-endian; signed numbers with the sign flipped; floats in IEEE total order; text and bytes as
 * they are), then the timestamp, big-endian. Returns false, key untouched, when the index is sparse
 * and leaves the object out. */
bool schema_index_key(const struct groove_schema *schema, uint32_t index, const uint8_t *image,
                      uint64_t timestamp, uint8_t *key);
/* The prefix alone, of values given as they stand in an image, one behind another
 * (schema_index_values_size bytes in all). */
void schema_index_prefix(const struct groove_schema *schema, uint32_t index, const uint8_t *values,
                         uint8_t *prefix);
uint32_t schema_index_values_size(const struct groove_schema *schema, uint32_t index);
/* Whether the image's fields of this index equal `values` (the recheck of an inexact index). */
bool schema_index_matches(const struct groove_schema *schema, uint32_t index, const uint8_t *image,
                          const uint8_t *values);

/* Whether field bytes are acceptable: bool 0 or 1, text UTF-8 with only zeros behind its end,
 * padding zero. */
bool schema_image_valid(const struct groove_schema *schema, const uint8_t *image);
