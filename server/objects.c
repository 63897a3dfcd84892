#include "server/objects.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum {
    OBJECT_JSON_SIZE = 64 * 1024
}; /* an object of 4 KiB, each byte at most 6 characters, names */

const uint8_t *objects_decode(struct remote *remote, const struct shape *shape,
                              const struct client_reply *reply, uint32_t *count)
{
    struct objects_reply objects = {0};
    if (reply->body_size >= sizeof objects) {
        memcpy(&objects, reply->body, sizeof objects);
    }
    if (objects.object_size != shape->object_size ||
        reply->body_size - sizeof objects != (uint64_t)objects.object_count * objects.object_size) {
        /* No object says its size as well, so an empty reply is one of this shape. */
        if (reply->body_size == sizeof objects && objects.object_count == 0) {
            *count = 0;
            return reply->body + sizeof objects;
        }
        cli_error(
            remote->command,
            "the objects have another shape than 'holt stat' told a moment ago; run it again");
        return NULL;
    }
    *count = objects.object_count;
    return reply->body + sizeof objects;
}

void objects_print(const struct shape *shape, const uint8_t *images, uint32_t count, bool json)
{
    if (!json) {
        shape_objects_table(shape, images, count, stdout);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        char text[OBJECT_JSON_SIZE];
        struct json_writer writer;
        json_writer_init(&writer, text, sizeof text);
        shape_object_json(shape, images + (size_t)i * shape->object_size, &writer);
        const char *done = json_writer_finish(&writer);
        assert(done != NULL);
        puts(done);
    }
}
