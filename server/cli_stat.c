#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "pool/base.h"
#include "server/remote.h"
#include "server/value_text.h"

/* The number at root[object][name]; 0 if a daemon of another version lacks it. */
static uint64_t number(const json_t *root, const char *object, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(json_object_get(root, object), name));
}

static const char *text(const json_t *root, const char *name)
{
    const char *value = json_string_value(json_object_get(root, name));
    return value != NULL ? value : "?";
}

static const char *size_of(uint64_t size, char buffer[32])
{
    size_format(size, buffer, 32);
    return buffer;
}

static void print_access(const json_t *root)
{
    const json_t *denied = json_object_get(json_object_get(root, "access"), "denied_total");
    const uint64_t rules = number(root, "access", "rules");
    uint64_t total = 0;
    const char *name;
    json_t *count;
    json_object_foreach((json_t *)denied, name, count)
    {
        total += (uint64_t)json_integer_value(count);
    }
    if (rules == 0) {
        printf("access      whoever may open the socket may do everything");
    } else {
        printf("access      %" PRIu64 " rules", rules);
    }
    printf("; %" PRIu64 " requests denied\n", total);
}

static void print_grooves(const json_t *root)
{
    const json_t *grooves = json_object_get(root, "grooves");
    size_t index;
    json_t *groove;
    if (json_array_size(grooves) == 0) {
        printf("\nno grooves yet; 'holt create' makes one\n");
        return;
    }
    printf("\n%-31s %15s %8s  schema\n", "groove", "objects", "bytes");
    json_array_foreach((json_t *)grooves, index, groove)
    {
        char objects[32];
        printf(
            "%-31s %15s %8" PRIu64 "  %s\n", text(groove, "name"),
            cli_grouped((uint64_t)json_integer_value(json_object_get(groove, "objects")), objects),
            (uint64_t)json_integer_value(json_object_get(groove, "object_size")),
            text(groove, "schema"));
    }
}

static void print_stat(const json_t *root)
{
    char a[32];
    char b[32];
    char c[32];
    const uint64_t uptime_s =
        (uint64_t)json_integer_value(json_object_get(root, "uptime_ns")) / 1000000000;
    const uint64_t block_size = number(root, "grid", "block_size");
    const uint64_t hits = number(root, "cache", "hits");
    const uint64_t reads = hits + number(root, "cache", "misses");

    printf("holt %s, pid %" PRIu64 ", up %" PRIu64 "h %02" PRIu64 "m %02" PRIu64 "s\n",
           text(root, "version"), (uint64_t)json_integer_value(json_object_get(root, "pid")),
           uptime_s / 3600, uptime_s / 60 % 60, uptime_s % 60);
    printf("file        %s\n", text(root, "file"));
    printf("state       %s%s\n",
           json_is_true(json_object_get(root, "read_only")) ? "READ-ONLY (damage was found) "
                                                            : "writable",
           json_is_true(json_object_get(root, "full")) ? ", FULL (writes are refused)" : "");
    printf("commits     %s durable\n", cli_grouped(number(root, "commits", "durable"), a));
    printf("checkpoint  op %" PRIu64 ", %" PRIu64 " since start\n",
           number(root, "checkpoint", "op"), number(root, "checkpoint", "count"));
    printf("journal     %s of %s used, a write takes %" PRIu64 " us\n",
           size_of(number(root, "journal", "used"), a), size_of(number(root, "journal", "size"), b),
           number(root, "journal", "write_mean_us"));
    printf("grid        %s in use, %s to be reused, file grown to %s\n",
           size_of(number(root, "grid", "blocks_acquired") * block_size, a),
           size_of(number(root, "grid", "blocks_released") * block_size, b),
           size_of(number(root, "grid", "blocks_grown") * block_size, c));
    printf("tables      %" PRIu64 " of at most %" PRIu64 "\n", number(root, "tables", "count"),
           number(root, "tables", "max"));
    printf("cache       %s blocks, %.1f %% of reads hit\n",
           cli_grouped(number(root, "cache", "blocks"), a),
           reads == 0 ? 0.0 : 100.0 * (double)hits / (double)reads);
    printf("compaction  %s owed; %" PRIu64 " beats over plan, longest wait %.1f ms\n",
           size_of(number(root, "compaction", "debt_bytes"), a),
           number(root, "compaction", "beat_overrun_total"),
           (double)number(root, "compaction", "beat_wait_ns_max") / 1e6);
    char d[32];
    printf("memory      %s resident, plan %s and up to %s of messages, limit %s\n",
           size_of(number(root, "memory", "rss"), a), size_of(number(root, "memory", "plan"), b),
           size_of(number(root, "memory", "messages_max"), d),
           size_of(number(root, "memory", "limit"), c));
    printf("requests    %" PRIu64 " busy, %" PRIu64 " expired, %" PRIu64 " refused; %" PRIu64
           " of %" PRIu64 " at work\n",
           number(root, "requests", "busy"), number(root, "requests", "expired"),
           number(root, "requests", "refused"), number(root, "listener", "exchanges_busy"),
           number(root, "listener", "exchanges_max"));
    printf("sessions    %" PRIu64 " of at most %" PRIu64 ", %" PRIu64 " of %" PRIu64
           " lanes; %" PRIu64 " repetitions answered\n",
           number(root, "sessions", "count"), number(root, "sessions", "max"),
           number(root, "sessions", "lanes"), number(root, "sessions", "lanes_max"),
           number(root, "sessions", "replays_total") + number(root, "sessions", "attached_total"));
    printf("reads       %" PRIu64 " started again for writes, %" PRIu64 " given up, %" PRIu64
           " over budget\n",
           number(root, "reads", "restarted_total"), number(root, "reads", "overtaken_total"),
           number(root, "reads", "over_budget_total"));
    printf("clients     %" PRIu64 " connected, %" PRIu64 " dropped for not reading\n",
           number(root, "listener", "connections"), number(root, "listener", "send_timeouts"));
    print_access(root);
    print_grooves(root);
}

static int stat_show(struct remote *remote, bool json)
{
    struct client_reply reply;
    const int exit_code = remote_call(remote, OPERATION_STAT, NULL, 0, NULL, &reply);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    if (json) {
        printf("%.*s\n", (int)reply.body_size, (const char *)reply.body);
        return cli_flush(remote->command, CLI_EXIT_OK);
    }
    json_error_t error;
    json_t *root = json_loadb((const char *)reply.body, reply.body_size, 0, &error);
    if (root == NULL) {
        cli_error(remote->command, "the daemon's answer is not JSON: %s", error.text);
        return CLI_EXIT_SOFTWARE;
    }
    print_stat(root);
    json_decref(root);
    return cli_flush(remote->command, CLI_EXIT_OK);
}

static int run(const struct cli_command *command, int argc, char **argv)
{
    const char *socket_path = NULL;
    bool json = false;
    const struct cli_option options[] = {
        {.name = "socket", .value = &socket_path},
        {.name = "json", .flag = &json},
    };
    int exit_code = cli_parse(command, argc, argv, options, (uint32_t)array_count(options), NULL, 0,
                              0, NULL, NULL);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    struct remote remote;
    exit_code = remote_open(&remote, command, socket_path);
    if (exit_code == CLI_GO_ON) {
        exit_code = stat_show(&remote, json);
        remote_close(&remote);
    }
    return exit_code;
}

const struct cli_command command_stat = {
    .name = "stat",
    .summary = "show the daemon's state, limits and grooves",
    .help = "usage: holt stat [--socket PATH] [--json]\n"
            "\n"
            "  --socket PATH    the daemon's socket (HOLT_SOCKET)\n"
            "  --json           all numbers, as JSON\n"
            "\n"
            "example:\n"
            "  holt stat --json | jq .journal\n",
    .run = run,
};
