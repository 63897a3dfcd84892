#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "pool/base.h"
#include "server/remote.h"

static int count(struct remote *remote, const char *groove_name, const struct where *where,
                 bool json)
{
    static struct shape shape;
    static uint8_t body[sizeof(struct query_request) + QUERY_KEY_SIZE_MAX];
    int exit_code = remote_shape(remote, groove_name, &shape);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    struct query_request request = {.groove_id = shape.groove_id, .index_id = WIRE_INDEX_NONE};
    if (where != NULL) {
        char error[SCHEMA_TEXT_ERROR_SIZE];
        const int index =
            shape_query_key(&shape, where, body + sizeof request, &request.key_size, error);
        if (index < 0) {
            cli_error(remote->command, "%s", error);
            return CLI_EXIT_DATA;
        }
        request.index_id = shape.index_ids[index];
    }
    memcpy(body, &request, sizeof request);
    struct client_reply reply;
    exit_code = remote_call(remote, OPERATION_COUNT, body,
                            (uint32_t)sizeof request + request.key_size, groove_name, &reply);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    uint64_t number = 0;
    if (reply.body_size != sizeof number) {
        cli_error(remote->command, "the daemon's answer is not a number; 'holt version' tells "
                                   "whether it is another version");
        return CLI_EXIT_SOFTWARE;
    }
    memcpy(&number, reply.body, sizeof number);
    if (json) {
        printf("{\"count\":%" PRIu64 ",\"commit\":%" PRIu64 "}\n", number, reply.commit);
    } else {
        printf("%" PRIu64 "\n", number);
    }
    return cli_flush(remote->command, CLI_EXIT_OK);
}

static int run(const struct cli_command *command, int argc, char **argv)
{
    static const char *const names[] = {"GROOVE"};
    static struct where where;
    const char *socket_path = NULL;
    const char *where_text = NULL;
    bool json = false;
    const struct cli_option options[] = {
        {.name = "socket", .value = &socket_path},
        {.name = "where", .value = &where_text},
        {.name = "json", .flag = &json},
    };
    const char *groove_name = NULL;
    int exit_code = cli_parse(command, argc, argv, options, (uint32_t)array_count(options), names,
                              1, 1, &groove_name, NULL);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    char error[SCHEMA_TEXT_ERROR_SIZE];
    if (where_text != NULL && !where_parse(where_text, &where, error)) {
        cli_error(command, "--where, %s", error);
        return CLI_EXIT_DATA;
    }
    struct remote remote;
    exit_code = remote_open(&remote, command, socket_path);
    if (exit_code == CLI_GO_ON) {
        exit_code = count(&remote, groove_name, where_text != NULL ? &where : NULL, json);
        remote_close(&remote);
    }
    return exit_code;
}

const struct cli_command command_count = {
    .name = "count",
    .summary = "count the objects of a groove, or those with some values",
    .help =
        "usage: holt count GROOVE [--where CONDITION] [--socket PATH] [--json]\n"
        "\n"
        "Prints how many objects there are. With --where, as for 'holt query', the fields must\n"
        "be exactly those of one of the groove's indexes.\n"
        "\n"
        "  --where CONDITION    FIELD = VALUE, more with 'and'\n"
        "  --socket PATH        the daemon's socket (HOLT_SOCKET)\n"
        "  --json               print as JSON, with the commit that was seen\n"
        "\n"
        "examples:\n"
        "  holt count cities\n"
        "  holt count cities --where 'country = \"AD\" and admin1 = \"03\"'\n",
    .run = run,
};
