#include "server/json_writer.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "server/text.h"

static void put(struct json_writer *writer, const char *text, size_t size)
{
    if (writer->overflow || size >= writer->capacity - writer->size) {
        writer->overflow = true; /* One byte stays for the NUL. */
        return;
    }
    memcpy(writer->buffer + writer->size, text, size);
    writer->size += size;
}

static void put_text(struct json_writer *writer, const char *text)
{
    put(writer, text, strlen(text));
}

static void put_string(struct json_writer *writer, const char *text, size_t size)
{
    put_text(writer, "\"");
    size_t at = 0;
    while (at < size && text[at] != '\0') {
        const unsigned char byte = (unsigned char)text[at];
        const size_t sequence_size = utf8_sequence((const uint8_t *)text + at, size - at);
        char escape[8];
        if (sequence_size == 0) {
            put_text(writer, "\\ufffd");
            at += 1;
            continue;
        }
        if (byte == '"' || byte == '\\') {
            snprintf(escape, sizeof escape, "\\%c", byte);
            put_text(writer, escape);
        } else if (byte < 0x20 || byte == 0x7f) {
            snprintf(escape, sizeof escape, "\\u%04x", byte);
            put_text(writer, escape);
        } else {
            put(writer, text + at, sequence_size);
        }
        at += sequence_size;
    }
    put_text(writer, "\"");
}

/* The comma and the name that come before a value. */
static void put_prefix(struct json_writer *writer, const char *name)
{
    if (writer->follows[writer->depth]) {
        put_text(writer, ",");
    }
    writer->follows[writer->depth] = true;
    const bool in_object = writer->depth > 0 && writer->in_object[writer->depth - 1];
    assert(in_object == (name != NULL));
    if (name != NULL) {
        put_string(writer, name, strlen(name));
        put_text(writer, ":");
    }
}

static void begin(struct json_writer *writer, const char *name, bool object)
{
    put_prefix(writer, name);
    assert(writer->depth < JSON_DEPTH_MAX);
    put_text(writer, object ? "{" : "[");
    writer->in_object[writer->depth] = object;
    writer->depth += 1;
    writer->follows[writer->depth] = false;
}

static void end(struct json_writer *writer, bool object)
{
    assert(writer->depth > 0);
    assert(writer->in_object[writer->depth - 1] == object);
    writer->depth -= 1;
    put_text(writer, object ? "}" : "]");
}

void json_writer_init(struct json_writer *writer, char *buffer, size_t capacity)
{
    assert(buffer != NULL);
    assert(capacity >= 1);

    *writer = (struct json_writer){.buffer = buffer, .capacity = capacity};
}

void json_object_begin(struct json_writer *writer, const char *name)
{
    begin(writer, name, true);
}

void json_object_end(struct json_writer *writer)
{
    end(writer, true);
}

void json_array_begin(struct json_writer *writer, const char *name)
{
    begin(writer, name, false);
}

void json_array_end(struct json_writer *writer)
{
    end(writer, false);
}

void json_text(struct json_writer *writer, const char *name, const char *text, size_t size)
{
    assert(text != NULL);

    put_prefix(writer, name);
    put_string(writer, text, size);
}

void json_u64(struct json_writer *writer, const char *name, uint64_t value)
{
    char number[32];
    snprintf(number, sizeof number, "%" PRIu64, value);
    put_prefix(writer, name);
    put_text(writer, number);
}

void json_i64(struct json_writer *writer, const char *name, int64_t value)
{
    char number[32];
    snprintf(number, sizeof number, "%" PRId64, value);
    put_prefix(writer, name);
    put_text(writer, number);
}

void json_f64(struct json_writer *writer, const char *name, double value)
{
    char number[40];
    put_prefix(writer, name);
    if (!isfinite(value)) {
        put_text(writer, "null");
        return;
    }
    number_text_f64(number, sizeof number, value);
    put_text(writer, number);
}

void json_f32(struct json_writer *writer, const char *name, float value)
{
    char number[40];
    put_prefix(writer, name);
    if (!isfinite(value)) {
        put_text(writer, "null");
        return;
    }
    number_text_f32(number, sizeof number, value);
    put_text(writer, number);
}

void json_bool(struct json_writer *writer, const char *name, bool value)
{
    put_prefix(writer, name);
    put_text(writer, value ? "true" : "false");
}

const char *json_writer_finish(struct json_writer *writer)
{
    assert(writer->depth == 0);
    assert(writer->size < writer->capacity);

    if (writer->overflow) {
        return NULL;
    }
    writer->buffer[writer->size] = '\0';
    return writer->buffer;
}
