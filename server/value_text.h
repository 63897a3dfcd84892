/* Field values and ids between text, as people and CSV files write them, and the bytes of an object
 * image. For the command line; pure functions.
 *
 *   type               read                                     written
 *   u8..u64 i8..i64    decimal                                  decimal
 *   u128, id           decimal, 0x hexadecimal, UUID            decimal below 2^64, else 0x + 32
 * digits f32 f64            as strtod                                shortest that reads back the
 * same bool               true false 1 0                           true false bytes<N>           2N
 * hexadecimal digits or fewer           2N hexadecimal digits text<N>            UTF-8, at most N
 * bytes, no NUL           as it is timestamp          nanoseconds, or
 * 2026-11-22[T13:00:00[.123456789]][Z]   the latter, in UTC */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/schema.h"
#include "server/json_writer.h"

enum {
    ID_TEXT_SIZE = 40,                         /* bytes that hold any id as text, with its NUL */
    VALUE_TEXT_SIZE = 2 * OBJECT_SIZE_MAX + 1, /* bytes that hold any value as text */
};

/* Bytes that values of this field take in an image. */
uint32_t value_size(const struct field_spec *field);

/* Writes value_size(field) bytes. False: `reason` (reason_size bytes) says what was expected;
 * the bytes are then undefined. */
bool value_parse(const struct field_spec *field, const char *text, size_t text_size, uint8_t *value,
                 char *reason, size_t reason_size);
/* `text` has VALUE_TEXT_SIZE bytes. */
void value_format(const struct field_spec *field, const uint8_t *value, char *text);
/* Numbers and booleans as such; u128, bytes, text and timestamps as strings. */
void value_json(const struct field_spec *field, const char *name, const uint8_t *value,
                struct json_writer *writer);

/* 16 bytes, little-endian. False: not an id; zero is one here, the caller decides. */
bool id_parse(const char *text, size_t text_size, uint8_t id[16]);
void id_format(const uint8_t id[16], char text[ID_TEXT_SIZE]);

/* "32K", "1M", "2G" or plain bytes, with an optional B or iB. False: not a size, or too large. */
bool size_parse(const char *text, uint64_t *size);
/* "90s", "15m", "24h", "7d", or plain seconds. False: not a time, or too large. */
bool duration_parse(const char *text, uint64_t *ns);
/* The shortest exact form, of whole seconds. */
void duration_format(uint64_t ns, char *text, size_t text_size);
/* The shortest exact form ("32K"), or one decimal ("1.5G") where there is none. */
void size_format(uint64_t size, char *text, size_t text_size);
