#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "pool/base.h"
#include "server/remote.h"
#include "server/schema_text.h"

/* The wire's struct has the same layout (server/dispatch.c asserts it). */
static int create(struct remote *remote, const struct groove_spec *spec, bool json)
{
    struct client_reply reply;
    const int exit_code =
        remote_call(remote, OPERATION_CREATE_GROOVE, spec, sizeof *spec, spec->name, &reply);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    struct create_groove_reply created = {0};
    memcpy(&created, reply.body, min_u64(reply.body_size, sizeof created));
    if (json) {
        printf("{\"name\":\"%s\",\"id\":%" PRIu32 ",\"object_size\":%" PRIu32 ",\"commit\":%" PRIu64
               "}\n",
               spec->name, created.groove_id, created.object_size, reply.commit);
    } else {
        printf("created %s: objects of %" PRIu32 " bytes, %" PRIu32 " fields, %" PRIu32
               " indexes (commit %" PRIu64 ")\n",
               spec->name, created.object_size, spec->field_count, spec->index_count, reply.commit);
    }
    return cli_flush(remote->command, CLI_EXIT_OK);
}

static int run(const struct cli_command *command, int argc, char **argv)
{
    static const char *const names[] = {"GROOVE", "the SCHEMA"};
    const char *socket_path = NULL;
    bool json = false;
    const struct cli_option options[] = {
        {.name = "socket", .value = &socket_path},
        {.name = "json", .flag = &json},
    };
    const char *arguments[2];
    int exit_code = cli_parse(command, argc, argv, options, (uint32_t)array_count(options), names,
                              2, 2, arguments, NULL);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    static struct groove_spec spec;
    char error[SCHEMA_TEXT_ERROR_SIZE];
    if (!schema_text_parse(arguments[0], arguments[1], &spec, error)) {
        cli_error(command, "%s", error);
        return CLI_EXIT_DATA;
    }
    struct remote remote;
    exit_code = remote_open(&remote, command, socket_path);
    if (exit_code == CLI_GO_ON) {
        exit_code = create(&remote, &spec, json);
        remote_close(&remote);
    }
    return exit_code;
}

const struct cli_command command_create = {
    .name = "create",
    .summary = "make a groove: a kind of object, with its fields and indexes",
    .help =
        "usage: holt create GROOVE SCHEMA [--socket PATH] [--json]\n"
        "\n"
        "Makes a groove. The schema is a list of fields and indexes, with commas between them:\n"
        "\n"
        "  NAME TYPE                        a field\n"
        "  index NAME                       an index of the field NAME\n"
        "  index [NAME] (FIELD, FIELD)      an index of up to 4 fields that share 24 bytes\n"
        "  sparse index ...                 leaves out objects whose first field is zero\n"
        "  unique index ...                 no two objects agree in all its fields\n"
        "  unique sparse index ...          the same, but for those that are left out\n"
        "\n"
        "Types: u8 u16 u32 u64 u128 i8 i16 i32 i64 f32 f64 bool timestamp text<N> bytes<N>, where\n"
        "N is the most bytes a value has. Every object has an id of 128 bits besides. A text or\n"
        "bytes field that is longer than what is left of an index's 24 bytes may be its last one,\n"
        "unless the index is unique.\n"
        "\n"
        "  --socket PATH    the daemon's socket (HOLT_SOCKET)\n"
        "  --json           print the result as JSON\n"
        "\n"
        "examples:\n"
        "  holt create cities 'name text<100>, lat f64, lng f64, country text<2>,\n"
        "                      admin1 text<8>, admin2 text<32>,\n"
        "                      index country, index by_admin (country, admin1), index name'\n"
        "  holt create users 'login text<24>, age u8, unique index login, sparse index age'\n",
    .run = run,
};
