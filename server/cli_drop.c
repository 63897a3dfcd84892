#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "pool/base.h"
#include "server/remote.h"

static int drop(struct remote *remote, const char *groove_name)
{
    char name[WIRE_NAME_SIZE] = {0};
    struct client_reply reply;
    memcpy(name, groove_name, strnlen(groove_name, sizeof name - 1)); /* Zero padded. */
    const int exit_code =
        remote_call(remote, OPERATION_DROP_GROOVE, name, sizeof name, groove_name, &reply);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    printf("dropped %s (commit %" PRIu64 "); its space comes back in the background\n", groove_name,
           reply.commit);
    return cli_flush(remote->command, CLI_EXIT_OK);
}

static int run(const struct cli_command *command, int argc, char **argv)
{
    static const char *const names[] = {"GROOVE"};
    const char *socket_path = NULL;
    const struct cli_option options[] = {{.name = "socket", .value = &socket_path}};
    const char *groove_name = NULL;
    int exit_code = cli_parse(command, argc, argv, options, (uint32_t)array_count(options), names,
                              1, 1, &groove_name, NULL);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    if (!schema_name_valid(groove_name)) {
        return cli_usage(command, "'%s' is not the name of a groove", groove_name);
    }
    struct remote remote;
    exit_code = remote_open(&remote, command, socket_path);
    if (exit_code == CLI_GO_ON) {
        exit_code = drop(&remote, groove_name);
        remote_close(&remote);
    }
    return exit_code;
}

const struct cli_command command_drop = {
    .name = "drop",
    .summary = "remove a groove with all its objects",
    .help = "usage: holt drop GROOVE [--socket PATH]\n"
            "\n"
            "Removes a groove, its objects and its indexes at once. It cannot be undone.\n"
            "\n"
            "  --socket PATH    the daemon's socket (HOLT_SOCKET)\n"
            "\n"
            "example:\n"
            "  holt drop cities\n",
    .run = run,
};
