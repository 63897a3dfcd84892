/* The command line: one table of commands, one way to read flags, one way to complain.
 *
 * Each command lives in cli_<name>.c and exports its struct cli_command. A command prints its
 * result on stdout, everything else on stderr, and returns the exit code (docs/operations.md). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pool/status.h"

enum {
    CLI_EXIT_OK = 0,
    CLI_EXIT_USAGE = 64,     /* the command line is wrong */
    CLI_EXIT_DATA = 65,      /* what was given to process is wrong: rows, schema, query */
    CLI_EXIT_NOT_FOUND = 66, /* a file, groove or object is not there */
    CLI_EXIT_SERVICE = 69,   /* no daemon answers */
    CLI_EXIT_SOFTWARE = 70,
    CLI_EXIT_CREATE = 73, /* something is there already, or no space is left */
    CLI_EXIT_RETRY = 75,  /* try again later */
    CLI_EXIT_CORRUPT = 76,
    CLI_OPTION_COUNT_MAX = 32,
};

struct cli_command {
    const char *name;
    const char *summary; /* one line, for the list of commands */
    const char *help;    /* all that --help prints: usage, what it does, flags, examples */
    int (*run)(const struct cli_command *command, int argc, char **argv); /* argv[0] is its name */
};

extern const struct cli_command command_format, command_start, command_create, command_drop,
    command_import, command_get, command_query, command_count, command_stat, command_verify,
    command_ping, command_version, command_help;

/* Parses and runs the whole command line; returns the exit code of the process. */
int cli_main(int argc, char **argv);

/* Prints all commands, or the help of one. */
int cli_help(const char *command_name);

/* One flag. Exactly one of `value` and `flag` is set. */
struct cli_option {
    const char *name;   /* "socket" for --socket */
    const char **value; /* --socket VALUE or --socket=VALUE */
    bool *flag;         /* --json */
};

enum { CLI_GO_ON = -1 };

/* Reads flags (in any place; "--" ends them) and positional arguments. Returns CLI_GO_ON, or the
 * exit code: help was asked for, or the usage is wrong and that was said. `names` are what the
 * positional arguments are called, those behind the first `argument_min` optional. */
int cli_parse(const struct cli_command *command, int argc, char **argv,
              const struct cli_option *options, uint32_t option_count, const char *const *names,
              uint32_t argument_min, uint32_t argument_max, const char **arguments,
              uint32_t *argument_count);

/* "holt NAME: message" on stderr. */
__attribute__((format(printf, 2, 3))) void cli_error(const struct cli_command *command,
                                                     const char *format, ...);
/* The same, with where to find help. Returns CLI_EXIT_USAGE. */
__attribute__((format(printf, 2, 3))) int cli_usage(const struct cli_command *command,
                                                    const char *format, ...);

/* A whole number within bounds. False: said so, as a usage error. */
bool cli_number(const struct cli_command *command, const char *option, const char *text,
                uint64_t min, uint64_t max, uint64_t *number);

/* "171,075". Text has at least 32 bytes. */
const char *cli_grouped(uint64_t number, char text[32]);

/* Flushes stdout; an output that could not be written is an error. */
int cli_flush(const struct cli_command *command, int exit_code);

/* A bar on a terminal, a line every few seconds elsewhere; on stderr. */
struct cli_progress {
    const char *label;
    bool terminal;
    uint64_t started_ns;
    uint64_t printed_ns;
    bool drawn; /* a bar stands on the terminal's last line */
};
void cli_progress_init(struct cli_progress *progress, const char *label);
/* `detail` is printed behind the bar; may be "". Cheap when called often. */
void cli_progress_show(struct cli_progress *progress, uint64_t done, uint64_t total,
                       const char *detail);
/* Removes the bar. */
void cli_progress_end(struct cli_progress *progress);
