#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pool/base.h"
#include "pool/clock.h"
#include "server/remote.h"

enum { POLL_INTERVAL_NS = 20 * 1000 * 1000 };

static const uint64_t ns_per_second = 1000ull * 1000 * 1000;

/* Waits until something listens on the socket, or the time is over. What is wrong then is said by
 * the attempt that follows. */
static void wait_for_socket(const char *socket_path, uint64_t seconds)
{
    const uint64_t begin_ns = clock_monotonic_ns(&clock_system);
    const struct client_options options = {.socket_path = socket_path};
    while (clock_monotonic_ns(&clock_system) - begin_ns < seconds * ns_per_second) {
        struct client *client = NULL;
        const enum client_status status = client_open(&options, &client);
        client_close(client);
        if (status != CLIENT_NO_SOCKET && status != CLIENT_NOBODY) {
            return;
        }
        const struct timespec interval = {.tv_nsec = POLL_INTERVAL_NS};
        nanosleep(&interval, NULL);
    }
}

static int ping(struct remote *remote, bool json)
{
    static const char body[] = "ping";
    struct hello_reply hello;
    int exit_code = remote_hello(remote, &hello);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    struct client_reply reply;
    const uint64_t begin_ns = clock_monotonic_ns(&clock_system);
    exit_code = remote_call(remote, OPERATION_PING, body, sizeof body, NULL, &reply);
    const uint64_t took_ns = clock_monotonic_ns(&clock_system) - begin_ns;
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    if (reply.body_size != sizeof body || memcmp(reply.body, body, sizeof body) != 0) {
        cli_error(remote->command, "the daemon answers, but not what it was sent");
        return CLI_EXIT_SOFTWARE;
    }
    printf(json ? "{\"version\":\"%s\",\"latency_us\":%.0f}\n" : "holt %s answers in %.0f us\n",
           hello.version, (double)took_ns / 1e3);
    return cli_flush(remote->command, CLI_EXIT_OK);
}

static int run(const struct cli_command *command, int argc, char **argv)
{
    const char *socket_path = NULL;
    const char *wait_text = "0";
    bool json = false;
    const struct cli_option options[] = {
        {.name = "socket", .value = &socket_path},
        {.name = "wait", .value = &wait_text},
        {.name = "json", .flag = &json},
    };
    int exit_code = cli_parse(command, argc, argv, options, (uint32_t)array_count(options), NULL, 0,
                              0, NULL, NULL);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    uint64_t seconds;
    if (!cli_number(command, "--wait", wait_text, 0, 3600, &seconds)) {
        return CLI_EXIT_USAGE;
    }
    const char *path = socket_path != NULL ? socket_path : getenv("HOLT_SOCKET");
    if (seconds > 0 && path != NULL) {
        wait_for_socket(path, seconds);
    }
    struct remote remote;
    exit_code = remote_open(&remote, command, socket_path);
    if (exit_code == CLI_GO_ON) {
        exit_code = ping(&remote, json);
        remote_close(&remote);
    }
    return exit_code;
}

const struct cli_command command_ping = {
    .name = "ping",
    .summary = "ask the daemon whether it is well, by a real request",
    .help = "usage: holt ping [--wait SECONDS] [--socket PATH] [--json]\n"
            "\n"
            "Sends a request through the daemon's queue and its forest thread, and waits for the\n"
            "answer: a health check. Exit code 0 only when it came.\n"
            "\n"
            "  --wait SECONDS    wait so long for a daemon that is still starting (0)\n"
            "  --socket PATH     the daemon's socket (HOLT_SOCKET)\n"
            "  --json            print as JSON\n"
            "\n"
            "example:\n"
            "  holt ping --wait 10 --socket /run/holt/cities.sock\n",
    .run = run,
};
