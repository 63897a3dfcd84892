/* The command line: arguments, one a line. Every command but those that format, start or wait, in
 * an empty directory without a daemon. Whatever is typed, the exit code is one of those that
 * docs/operations.md promises. */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "pool/base.h"
#include "server/cli.h"
#include "tests/fuzz/fuzz.h"

enum { ARGUMENT_COUNT_MAX = 24, ARGUMENT_SIZE = 2048 };

/* Nothing outside the directory may be named, and nothing may be waited for. */
static bool is_harmless(const char *argument)
{
    static const char *const excluded[] = {"start", "format", "ping"};
    for (size_t i = 0; i < array_count(excluded); i++) {
        if (strcmp(argument, excluded[i]) == 0) {
            return false;
        }
    }
    return strchr(argument, '/') == NULL && strcmp(argument, "-") != 0;
}

static void enter_directory(void)
{
    static bool entered;
    char path[] = "/tmp/holt-fuzz-cli.XXXXXX";
    if (entered) {
        return;
    }
    if (mkdtemp(path) == NULL || chdir(path) != 0) {
        abort();
    }
    rmdir(path); /* We are in it all the same, and nobody can leave anything here. */
    unsetenv("HOLT_SOCKET");
    unsetenv("HOLT_CONFIG");
    entered = true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char arguments[ARGUMENT_COUNT_MAX][ARGUMENT_SIZE];
    char *argv[ARGUMENT_COUNT_MAX + 2] = {(char[]){"holt"}};
    struct fuzz_input input = {data, size};
    int argc = 1;
    enter_directory();
    while (input.size > 0 && argc <= ARGUMENT_COUNT_MAX) {
        char *argument = arguments[argc - 1];
        fuzz_text(&input, '\n', argument, ARGUMENT_SIZE);
        if (!is_harmless(argument)) {
            return 0;
        }
        argv[argc++] = argument;
    }
    const int exit_code = cli_main(argc, argv);
    assert(exit_code == 0 || (exit_code >= 64 && exit_code <= 78));
    return 0;
}
