#include "server/cli.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pool/base.h"
#include "pool/clock.h"

enum {
    SUGGESTION_DISTANCE_MAX = 2,
    NAME_TEXT_MAX = 40, /* bytes of a flag or command that a suggestion is sought for */
    BAR_WIDTH = 30,
};

static const uint64_t bar_interval_ns = 100ull * 1000 * 1000;
static const uint64_t line_interval_ns = 2000ull * 1000 * 1000;

static const struct cli_command *const commands[] = {
    &command_format, &command_start, &command_create,  &command_drop, &command_import,
    &command_get,    &command_query, &command_count,   &command_stat, &command_ping,
    &command_verify, &command_help,  &command_version,
};

/* Edits (insert, delete, replace) between two short words. */
static uint32_t edit_distance(const char *from, const char *to)
{
    const size_t to_size = strlen(to);
    uint32_t row[NAME_TEXT_MAX + 1];
    assert(to_size <= NAME_TEXT_MAX);

    for (uint32_t i = 0; i <= to_size; i++) {
        row[i] = i;
    }
    for (uint32_t line = 0; from[line] != '\0'; line++) {
        uint32_t diagonal = row[0];
        row[0] = line + 1;
        for (uint32_t i = 0; i < to_size; i++) {
            const uint32_t replace = diagonal + (from[line] != to[i]);
            const uint32_t other = 1 + (row[i] < row[i + 1] ? row[i] : row[i + 1]);
            diagonal = row[i + 1];
            row[i + 1] = replace < other ? replace : other;
        }
    }
    return row[to_size];
}

static bool is_close(const char *typed, const char *name)
{
    return strlen(typed) <= NAME_TEXT_MAX && edit_distance(typed, name) <= SUGGESTION_DISTANCE_MAX;
}

static const struct cli_command *find_command(const char *name)
{
    for (size_t i = 0; i < array_count(commands); i++) {
        if (strcmp(commands[i]->name, name) == 0) {
            return commands[i];
        }
    }
    return NULL;
}

static int refuse_command(const char *name)
{
    fprintf(stderr, "holt: there is no command '%s'", name);
    for (size_t i = 0; i < array_count(commands); i++) {
        if (is_close(name, commands[i]->name)) {
            fprintf(stderr, "; did you mean '%s'?", commands[i]->name);
            break;
        }
    }
    fprintf(stderr, "\n'holt help' lists them.\n");
    return CLI_EXIT_USAGE;
}

int cli_help(const char *command_name)
{
    if (command_name != NULL) {
        const struct cli_command *command = find_command(command_name);
        if (command == NULL) {
            return refuse_command(command_name);
        }
        fputs(command->help, stdout);
        return cli_flush(command, CLI_EXIT_OK);
    }
    printf("Holt keeps typed objects with indexes in one file, for the services of one host.\n\n"
           "usage: holt COMMAND [...]\n\n");
    for (size_t i = 0; i < array_count(commands); i++) {
        printf("  %-8s %s\n", commands[i]->name, commands[i]->summary);
    }
    printf("\n'holt help COMMAND' tells more. A first run:\n\n"
           "  holt format /tmp/first.holt\n"
           "  holt start /tmp/first.holt &\n"
           "  export HOLT_SOCKET=/tmp/first.holt.sock\n"
           "  holt ping --wait 10\n"
           "  holt create cities 'name text<100>, country text<2>, index country'\n"
           "  holt import cities cities.csv --partial\n"
           "  holt query cities --where 'country = \"AD\"' --limit 5\n");
    return cli_flush(&command_help, CLI_EXIT_OK);
}

int cli_main(int argc, char **argv)
{
    if (argc < 2) {
        cli_help(NULL);
        return CLI_EXIT_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        return cli_help(NULL);
    }
    if (strcmp(name, "--version") == 0) {
        name = command_version.name;
    }
    const struct cli_command *command = find_command(name);
    if (command == NULL) {
        return refuse_command(name);
    }
    return command->run(command, argc - 1, argv + 1);
}

void cli_error(const struct cli_command *command, const char *format, ...)
{
    fprintf(stderr, "holt %s: ", command->name);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

int cli_usage(const struct cli_command *command, const char *format, ...)
{
    fprintf(stderr, "holt %s: ", command->name);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n'holt %s --help' shows how it is used.\n", command->name);
    return CLI_EXIT_USAGE;
}

static int refuse_flag(const struct cli_command *command, const char *name,
                       const struct cli_option *options, uint32_t option_count)
{
    for (uint32_t i = 0; i < option_count; i++) {
        if (is_close(name, options[i].name)) {
            return cli_usage(command, "there is no flag --%s; did you mean --%s?", name,
                             options[i].name);
        }
    }
    return cli_usage(command, "there is no flag --%s", name);
}

/* Reads the flag at argv[*at] and its value; moves *at behind what was used. */
static int parse_flag(const struct cli_command *command, int argc, char **argv, int *at,
                      const struct cli_option *options, uint32_t option_count, bool *seen)
{
    char name[NAME_TEXT_MAX + 1];
    const char *text = argv[*at] + 2;
    const char *equals = strchr(text, '=');
    const size_t size = equals != NULL ? (size_t)(equals - text) : strlen(text);
    snprintf(name, sizeof name, "%.*s", (int)(size > NAME_TEXT_MAX ? NAME_TEXT_MAX : size), text);
    *at += 1;

    for (uint32_t i = 0; i < option_count; i++) {
        const struct cli_option *option = &options[i];
        if (strcmp(option->name, name) != 0) {
            continue;
        }
        if (seen[i]) {
            return cli_usage(command, "--%s is given twice", name);
        }
        seen[i] = true;
        if (option->flag != NULL) {
            if (equals != NULL) {
                return cli_usage(command, "--%s takes no value", name);
            }
            *option->flag = true;
            return CLI_GO_ON;
        }
        if (equals != NULL) {
            *option->value = equals + 1;
        } else if (*at < argc) {
            *option->value = argv[(*at)++];
        } else {
            return cli_usage(command, "--%s needs a value", name);
        }
        return CLI_GO_ON;
    }
    return refuse_flag(command, name, options, option_count);
}

int cli_parse(const struct cli_command *command, int argc, char **argv,
              const struct cli_option *options, uint32_t option_count, const char *const *names,
              uint32_t argument_min, uint32_t argument_max, const char **arguments,
              uint32_t *argument_count)
{
    assert(option_count <= CLI_OPTION_COUNT_MAX);
    assert(argument_min <= argument_max);

    bool seen[CLI_OPTION_COUNT_MAX] = {false};
    bool flags_end = false;
    uint32_t count = 0;
    for (int at = 1; at < argc;) {
        const char *text = argv[at];
        if (flags_end || text[0] != '-' || text[1] == '\0' || (text[1] >= '0' && text[1] <= '9')) {
            if (count == argument_max) {
                return cli_usage(command, "'%s' is one argument too many", text);
            }
            if (text[0] == '\0') {
                return cli_usage(command, "%s is empty; is a variable of the shell not set?",
                                 count < argument_min ? names[count] : "an argument");
            }
            arguments[count++] = text;
            at += 1;
        } else if (strcmp(text, "--") == 0) {
            flags_end = true;
            at += 1;
        } else if (strcmp(text, "--help") == 0 || strcmp(text, "-h") == 0) {
            return cli_help(command->name);
        } else if (text[1] != '-') {
            return cli_usage(command, "there is no flag %s; flags have two dashes", text);
        } else {
            const int exit_code = parse_flag(command, argc, argv, &at, options, option_count, seen);
            if (exit_code != CLI_GO_ON) {
                return exit_code;
            }
        }
    }
    if (count < argument_min) {
        return cli_usage(command, "%s is missing", names[count]);
    }
    if (argument_count != NULL) {
        *argument_count = count;
    }
    return CLI_GO_ON;
}

bool cli_number(const struct cli_command *command, const char *option, const char *text,
                uint64_t min, uint64_t max, uint64_t *number)
{
    char *end = NULL;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value < min ||
        value > max) {
        cli_usage(command, "%s is '%s', but must be a whole number from %" PRIu64 " to %" PRIu64,
                  option, text, min, max);
        return false;
    }
    *number = value;
    return true;
}

const char *cli_grouped(uint64_t number, char text[32])
{
    char digits[32];
    const int count = snprintf(digits, sizeof digits, "%" PRIu64, number);
    int size = 0;
    for (int i = 0; i < count; i++) {
        if (i > 0 && (count - i) % 3 == 0) {
            text[size++] = ',';
        }
        text[size++] = digits[i];
    }
    text[size] = '\0';
    return text;
}

int cli_flush(const struct cli_command *command, int exit_code)
{
    if (fflush(stdout) != 0 || ferror(stdout)) {
        cli_error(command, "the output could not be written: %s", strerror(errno));
        return status_exit_code(STATUS_IO);
    }
    return exit_code;
}

void cli_progress_init(struct cli_progress *progress, const char *label)
{
    const uint64_t now_ns = clock_monotonic_ns(&clock_system);
    *progress = (struct cli_progress){
        .label = label,
        .terminal = isatty(STDERR_FILENO) == 1,
        .started_ns = now_ns,
        .printed_ns = now_ns,
    };
}

void cli_progress_show(struct cli_progress *progress, uint64_t done, uint64_t total,
                       const char *detail)
{
    const uint64_t now_ns = clock_monotonic_ns(&clock_system);
    const uint64_t interval_ns = progress->terminal ? bar_interval_ns : line_interval_ns;
    if (now_ns - progress->printed_ns < interval_ns) {
        return;
    }
    progress->printed_ns = now_ns;
    const double share = total == 0 ? 0 : (double)done / (double)total;
    if (!progress->terminal) {
        fprintf(stderr, "%s: %.0f %% %s\n", progress->label, share * 100, detail);
        return;
    }
    const int filled = share >= 1 ? BAR_WIDTH : (int)(share * BAR_WIDTH);
    char bar[BAR_WIDTH + 1];
    memset(bar, '.', BAR_WIDTH);
    memset(bar, '#', (size_t)filled);
    bar[BAR_WIDTH] = '\0';
    fprintf(stderr, "\r\033[K%s [%s] %3.0f %% %s", progress->label, bar, share * 100, detail);
    fflush(stderr);
    progress->drawn = true;
}

void cli_progress_end(struct cli_progress *progress)
{
    if (progress->drawn) {
        fputs("\r\033[K", stderr);
        progress->drawn = false;
    }
}
