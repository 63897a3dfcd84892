#include <stdio.h>
#include <string.h>

#include "pool/base.h"
#include "server/objects.h"
#include "server/value_text.h"

enum { GET_ID_MAX = 1000 };

/* A reply may hold fewer objects than ids fit a request, so ids go in portions. */
enum { GET_ID_BATCH = 128 };

static int get(struct remote *remote, const char *groove_name, const uint8_t *ids,
               uint32_t id_count, bool json)
{
    static struct shape shape;
    int exit_code = remote_shape(remote, groove_name, &shape);
    uint32_t found = 0;
    for (uint32_t first = 0; exit_code == CLI_GO_ON && first < id_count; first += GET_ID_BATCH) {
        const uint32_t batch = (uint32_t)min_u64(id_count - first, GET_ID_BATCH);
        uint8_t body[sizeof(struct lookup_request) + (size_t)GET_ID_BATCH * WIRE_ID_SIZE];
        const struct lookup_request lookup = {.groove_id = shape.groove_id, .id_count = batch};
        memcpy(body, &lookup, sizeof lookup);
        memcpy(body + sizeof lookup, ids + (size_t)first * WIRE_ID_SIZE,
               (size_t)batch * WIRE_ID_SIZE);
        struct client_reply reply;
        exit_code =
            remote_call(remote, OPERATION_LOOKUP, body,
                        (uint32_t)sizeof lookup + batch * WIRE_ID_SIZE, groove_name, &reply);
        if (exit_code != CLI_GO_ON) {
            break;
        }
        uint32_t count;
        const uint8_t *images = objects_decode(remote, &shape, &reply, &count);
        if (images == NULL) {
            return CLI_EXIT_RETRY;
        }
        if (count > 0) {
            objects_print(&shape, images, count, json);
        }
        found += count;
    }
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    if (found < id_count) {
        cli_error(remote->command, "%u of %u ids are not in '%s'", id_count - found, id_count,
                  groove_name);
    }
    return cli_flush(remote->command, found < id_count ? CLI_EXIT_NOT_FOUND : CLI_EXIT_OK);
}

static int run(const struct cli_command *command, int argc, char **argv)
{
    static const char *const names[] = {"GROOVE", "an ID"};
    static const char *arguments[1 + GET_ID_MAX];
    static uint8_t ids[GET_ID_MAX * WIRE_ID_SIZE];
    const char *socket_path = NULL;
    bool json = false;
    const struct cli_option options[] = {
        {.name = "socket", .value = &socket_path},
        {.name = "json", .flag = &json},
    };
    uint32_t argument_count = 0;
    int exit_code = cli_parse(command, argc, argv, options, (uint32_t)array_count(options), names,
                              2, 1 + GET_ID_MAX, arguments, &argument_count);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    const uint32_t id_count = argument_count - 1;
    for (uint32_t i = 0; i < id_count; i++) {
        static const uint8_t zero[WIRE_ID_SIZE];
        const char *text = arguments[1 + i];
        uint8_t *id = ids + (size_t)i * WIRE_ID_SIZE;
        if (!id_parse(text, strlen(text), id) || memcmp(id, zero, sizeof zero) == 0) {
            return cli_usage(command, "'%s' is not an id: a number from 1, 0x..., or a UUID", text);
        }
    }
    struct remote remote;
    exit_code = remote_open(&remote, command, socket_path);
    if (exit_code == CLI_GO_ON) {
        exit_code = get(&remote, arguments[0], ids, id_count, json);
        remote_close(&remote);
    }
    return exit_code;
}

const struct cli_command command_get = {
    .name = "get",
    .summary = "print objects by their ids",
    .help = "usage: holt get GROOVE ID... [--socket PATH] [--json]\n"
            "\n"
            "Prints the objects with these ids, in this order. An id is a decimal number, 0x and\n"
            "hexadecimal digits, or a UUID; at most 1000 of them. Exit code 66 when one of them\n"
            "is not there.\n"
            "\n"
            "  --socket PATH    the daemon's socket (HOLT_SOCKET)\n"
            "  --json           one JSON object on each line\n"
            "\n"
            "example:\n"
            "  holt get users 17 18 --json\n",
    .run = run,
};
