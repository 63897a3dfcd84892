#include "server/cli.h"

static int run(const struct cli_command *command, int argc, char **argv)
{
    static const char *const names[] = {"COMMAND"};
    const char *arguments[1] = {0};
    uint32_t argument_count = 0;
    const int exit_code =
        cli_parse(command, argc, argv, NULL, 0, names, 0, 1, arguments, &argument_count);
    return exit_code != CLI_GO_ON ? exit_code : cli_help(arguments[0]);
}

const struct cli_command command_help = {
    .name = "help",
    .summary = "list the commands, or explain one",
    .help = "usage: holt help [COMMAND]\n",
    .run = run,
};
