/* JSON text into a fixed buffer: what the forest thread, which allocates nothing, answers with.
 *
 *   json_writer_init -> json_object_begin -> json_u64("op", n) ... -> json_object_end
 *
 * Members inside an object have a name, elements of an array and the root have NULL. When the
 * buffer is full the writer stops writing and `overflow` stays set: the caller looks once, at the
 * end. Not reentrant; any thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSON_DEPTH_MAX = 8 };

struct json_writer {
    char *buffer;                     /* [capacity], borrowed; NUL-terminated once finished */
    size_t capacity;                  /* bytes, >= 1 */
    size_t size;                      /* bytes written, < capacity */
    uint32_t depth;                   /* open objects and arrays, <= JSON_DEPTH_MAX */
    bool in_object[JSON_DEPTH_MAX];   /* by depth: members need names */
    bool follows[JSON_DEPTH_MAX + 1]; /* by depth: a value was written, the next needs a comma */
    bool overflow;
};

void json_writer_init(struct json_writer *writer, char *buffer, size_t capacity);

void json_object_begin(struct json_writer *writer, const char *name);
void json_object_end(struct json_writer *writer);
void json_array_begin(struct json_writer *writer, const char *name);
void json_array_end(struct json_writer *writer);

/* Text up to `size` bytes or the first NUL. Bytes that are not UTF-8 become U+FFFD. */
void json_text(struct json_writer *writer, const char *name, const char *text, size_t size);
void json_u64(struct json_writer *writer, const char *name, uint64_t value);
void json_i64(struct json_writer *writer, const char *name, int64_t value);
/* NaN and infinities, which JSON lacks, become null. */
void json_f64(struct json_writer *writer, const char *name, double value);
void json_f32(struct json_writer *writer, const char *name, float value);
void json_bool(struct json_writer *writer, const char *name, bool value);

/* Requires: every object and array ended. Returns the text, or NULL when it did not fit. */
const char *json_writer_finish(struct json_writer *writer);
