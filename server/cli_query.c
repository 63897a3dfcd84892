#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "pool/base.h"
#include "server/objects.h"

static int query(struct remote *remote, const char *groove_name, const struct where *where,
                 uint32_t limit, bool json)
{
    static struct shape shape;
    static uint8_t body[sizeof(struct query_request) + QUERY_KEY_SIZE_MAX];
    struct hello_reply hello;
    int exit_code = remote_hello(remote, &hello);
    if (exit_code == CLI_GO_ON) {
        exit_code = remote_shape(remote, groove_name, &shape);
    }
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    struct query_request request = {.groove_id = shape.groove_id, .limit = limit};
    char error[SCHEMA_TEXT_ERROR_SIZE];
    const int index =
        shape_query_key(&shape, where, body + sizeof request, &request.key_size, error);
    if (index < 0) {
        cli_error(remote->command, "%s", error);
        return CLI_EXIT_DATA;
    }
    request.index_id = shape.index_ids[index];
    memcpy(body, &request, sizeof request);
    struct client_reply reply;
    exit_code = remote_call(remote, OPERATION_QUERY, body,
                            (uint32_t)sizeof request + request.key_size, groove_name, &reply);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    uint32_t count;
    const uint8_t *images = objects_decode(remote, &shape, &reply, &count);
    if (images == NULL) {
        return CLI_EXIT_RETRY;
    }
    objects_print(&shape, images, count, json);
    if (!json) {
        printf("%" PRIu32 " object%s, as of commit %" PRIu64 "\n", count, count == 1 ? "" : "s",
               reply.commit);
    }
    if (count == limit) {
        fprintf(stderr, "There may be more; --limit shows them.\n");
    } else if ((uint64_t)(count + 1) * shape.object_size > hello.batch_size_max) {
        fprintf(stderr, "There may be more, but a reply holds no more than these.\n");
    }
    return cli_flush(remote->command, CLI_EXIT_OK);
}

static int run(const struct cli_command *command, int argc, char **argv)
{
    static const char *const names[] = {"GROOVE"};
    static struct where where;
    const char *socket_path = NULL;
    const char *where_text = NULL;
    const char *limit_text = "20";
    bool json = false;
    const struct cli_option options[] = {
        {.name = "socket", .value = &socket_path},
        {.name = "where", .value = &where_text},
        {.name = "limit", .value = &limit_text},
        {.name = "json", .flag = &json},
    };
    const char *groove_name = NULL;
    int exit_code = cli_parse(command, argc, argv, options, (uint32_t)array_count(options), names,
                              1, 1, &groove_name, NULL);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    uint64_t limit;
    if (!cli_number(command, "--limit", limit_text, 1, UINT32_MAX, &limit)) {
        return CLI_EXIT_USAGE;
    }
    if (where_text == NULL) {
        return cli_usage(command, "say what to look for: --where 'country = \"AD\"'");
    }
    char error[SCHEMA_TEXT_ERROR_SIZE];
    if (!where_parse(where_text, &where, error)) {
        cli_error(command, "--where, %s", error);
        return CLI_EXIT_DATA;
    }
    struct remote remote;
    exit_code = remote_open(&remote, command, socket_path);
    if (exit_code == CLI_GO_ON) {
        exit_code = query(&remote, groove_name, &where, (uint32_t)limit, json);
        remote_close(&remote);
    }
    return exit_code;
}

const struct cli_command command_query = {
    .name = "query",
    .summary = "print objects by the values of an index",
    .help = "usage: holt query GROOVE --where CONDITION [--limit N] [--socket PATH] [--json]\n"
            "\n"
            "Prints the objects whose fields have these values, oldest first. The fields must be\n"
            "exactly those of one of the groove's indexes, in any order.\n"
            "\n"
            "  --where CONDITION    FIELD = VALUE, more with 'and'; values in quotes where they\n"
            "                       hold a space\n"
            "  --limit N            at most so many (20); a reply holds about 1 MiB of objects\n"
            "  --socket PATH        the daemon's socket (HOLT_SOCKET)\n"
            "  --json               one JSON object on each line\n"
            "\n"
            "examples:\n"
            "  holt query cities --where 'country = \"AD\"'\n"
            "  holt query cities --where 'country = AD and admin1 = 03' --limit 5 --json\n",
    .run = run,
};
