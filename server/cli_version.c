#include <stdio.h>

#include "engine/storage/superblock.h"
#include "ipc/protocol.h"
#include "server/cli.h"

static int run(const struct cli_command *command, int argc, char **argv)
{
    bool json = false;
    const struct cli_option options[] = {{.name = "json", .flag = &json}};
    const int exit_code = cli_parse(command, argc, argv, options, 1, NULL, 0, 0, NULL, NULL);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    printf(json ? "{\"version\":\"%s\",\"protocol\":%d,\"data_file\":%d}\n"
                : "holt %s (protocol %d, data file format %d)\n",
           HOLT_VERSION, PROTOCOL_VERSION, SUPERBLOCK_VERSION);
    return cli_flush(command, CLI_EXIT_OK);
}

const struct cli_command command_version = {
    .name = "version",
    .summary = "print the versions of the program, the protocol and the data file",
    .help = "usage: holt version [--json]\n",
    .run = run,
};
