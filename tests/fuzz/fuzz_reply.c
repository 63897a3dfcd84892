/* What a client makes of a daemon's answer, which it trusts no more than the daemon trusts a
 * request: header, schema, and objects of that schema as JSON and as a table.
 *
 * Input: a byte (1: the rest is a message with its header; else the body of a SCHEMA reply, and
 * images of objects behind it). */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "ipc/protocol.h"
#include "server/shape.h"
#include "tests/fuzz/fuzz.h"

enum { IMAGE_COUNT = 3, JSON_SIZE = 1 << 16 };

static void show(const struct shape *shape, const uint8_t *images)
{
    static char text[JSON_SIZE];
    static FILE *nowhere;
    struct json_writer writer;
    json_writer_init(&writer, text, sizeof text);
    shape_object_json(shape, images, &writer);
    (void)json_writer_finish(&writer);
    if (nowhere == NULL) {
        nowhere = fopen("/dev/null", "we");
        assert(nowhere != NULL);
    }
    shape_objects_table(shape, images, IMAGE_COUNT, nowhere);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct shape shape;
    struct fuzz_input input = {data, size};
    if (fuzz_u8(&input) == 1) {
        struct reply_header header;
        if (protocol_reply_check(input.data, input.size, &header)) {
            assert(header.body_size == input.size - PROTOCOL_HEADER_SIZE);
            (void)result_text(header.result);
            (void)operation_name(header.operation);
        }
        return 0;
    }
    struct schema_reply schema = {0};
    if (input.size < sizeof schema) {
        return 0;
    }
    memcpy(&schema, input.data, sizeof schema);
    uint32_t offset = sizeof schema;
    for (uint32_t i = 0; i < schema.groove_count; i++) {
        if (!shape_decode(input.data, (uint32_t)input.size, &offset, &shape)) {
            return 0;
        }
        assert(offset <= input.size);
        uint8_t images[IMAGE_COUNT * OBJECT_SIZE_MAX] = {0};
        const size_t left = input.size - offset;
        const size_t images_size = IMAGE_COUNT * (size_t)shape.object_size;
        memcpy(images, input.data + offset, left < images_size ? left : images_size);
        show(&shape, images);
    }
    return 0;
}
