#include <assert.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool/base.h"
#include "server/cli.h"
#include "server/forest_thread.h"
#include "server/json_writer.h"
#include "server/value_text.h"

enum { PLAN_TEXT_SIZE = 64 * 1024 + ACCESS_RULE_MAX * 1024 };

/* Processors that this process may run on: what a container was given, not what the machine has. */
static uint32_t processor_count(void)
{
    cpu_set_t set;
    const int count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return count > 0 ? (uint32_t)count : 1;
}

/* Defaults, file, environment, flags, in this order. False: said what is wrong. */
static int configure(const struct cli_command *command, const char *data_path,
                     const char *config_path, const char *const *values, struct config *config)
{
    char error[CONFIG_ERROR_SIZE];
    config_init(config);
    if (config_path == NULL) {
        config_path = getenv("HOLT_CONFIG");
    }
    if (config_path != NULL && config_path[0] == '\0') {
        return cli_usage(command, "the path of the configuration file (--config, HOLT_CONFIG) is "
                                  "empty");
    }
    if (config_path != NULL) {
        const enum status status = config_load_file(config, config_path, error);
        if (status != STATUS_OK) {
            cli_error(command, "%s", error);
            return status == STATUS_INVALID ? CLI_EXIT_USAGE : status_exit_code(status);
        }
    }
    if (config_load_environment(config, getenv, error) != STATUS_OK) {
        return cli_usage(command, "%s", error);
    }
    for (enum config_key key = 0; key < CONFIG_KEY_COUNT; key++) {
        if (values[key] != NULL &&
            config_set(config, key, values[key], CONFIG_FLAG, error) != STATUS_OK) {
            return cli_usage(command, "--%s", error);
        }
    }
    if (config_finish(config, data_path, processor_count(), error) != STATUS_OK) {
        return cli_usage(command, "%s", error);
    }
    return CLI_GO_ON;
}

/* The value of an option as it would be written in a file. */
static void option_text(const struct config *config, enum config_key key, char *text, size_t size)
{
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    switch (key) {
    case CONFIG_SOCKET:
        snprintf(text, size, "%s", config->socket_path);
        break;
    case CONFIG_SOCKET_MODE:
        snprintf(text, size, "%04" PRIo32, config->socket_mode);
        break;
    case CONFIG_LISTENER:
        snprintf(text, size, "%s", listener_kind_name(config->listener));
        break;
    case CONFIG_WORKERS:
        snprintf(text, size, "%" PRIu32, config->workers);
        break;
    case CONFIG_READERS:
        snprintf(text, size, "%" PRIu32, config->readers);
        break;
    case CONFIG_CACHE:
        size_format(config->cache_size, text, size);
        break;
    case CONFIG_READS:
        snprintf(text, size, "%" PRIu32, config->read_slot_count);
        break;
    case CONFIG_READ_BUDGET:
        size_format(config->read_budget_size, text, size);
        break;
    case CONFIG_REQUESTS:
        snprintf(text, size, "%" PRIu32, config->exchange_count);
        break;
    case CONFIG_CONNECTIONS:
        snprintf(text, size, "%" PRIu32, config->connection_count_max);
        break;
    case CONFIG_SEND_TIMEOUT_MS:
        snprintf(text, size, "%" PRIu32, config->send_timeout_ms);
        break;
    case CONFIG_DRAIN_TIMEOUT_MS:
        snprintf(text, size, "%" PRIu32, config->drain_timeout_ms);
        break;
    case CONFIG_SESSION_IDLE:
        duration_format(config->session_idle_ns, text, size);
        break;
    case CONFIG_LOG_FORMAT:
        snprintf(text, size, "%s", config->log_format == LOG_FORMAT_JSON ? "json" : "logfmt");
        break;
    case CONFIG_LOG_LEVEL:
        snprintf(text, size, "%s", levels[config->log_level]);
        break;
    case CONFIG_KEY_COUNT:
        assert(false && "config key");
        break;
    }
}

/* A rule as it counts: the user's number beside the words of its line. */
static void rule_text(const struct access_rule *rule, char *text, size_t size)
{
    char uid[16] = "";
    if (rule->uid != ACCESS_UID_ANY) {
        snprintf(uid, sizeof uid, " (%" PRIu32 ")", rule->uid);
    }
    snprintf(text, size, "%s%s %s %s", rule->who, uid, access_right_name(rule->right),
             rule->groove[0] != '\0' ? rule->groove : "*");
}

static void print_rules(const struct access_rules *access)
{
    if (access->count == 0) {
        printf("  %-18s %-32s %s\n", "allow", "everything to whoever connects", "default");
    }
    for (uint32_t i = 0; i < access->count; i++) {
        char text[ACCESS_WHO_SIZE + NAME_SIZE + 32];
        rule_text(&access->rules[i], text, sizeof text);
        printf("  %-18s %-32s file, line %" PRIu32 "\n", "allow", text, access->rules[i].line);
    }
}

static void print_size(const char *name, uint64_t size, const char *derived)
{
    char text[32];
    size_format(size, text, sizeof text);
    printf("  %-28s %10s  %s\n", name, text, derived);
}

static void print_plan(const struct config *config, const struct daemon_plan *plan)
{
    printf("configuration of %s\n", config->data_path);
    for (enum config_key key = 0; key < CONFIG_KEY_COUNT; key++) {
        char text[PATH_MAX];
        option_text(config, key, text, sizeof text);
        printf("  %-18s %-32s %s\n", config_options[key].name, text,
               config_source_text(config->source[key]));
    }
    print_rules(&config->access);
    printf("\ngeometry, chosen by holt format\n");
    print_size("block", plan->geometry.block_size, "unit of the file");
    print_size("journal", plan->geometry.journal_size, "ring that takes every write first");
    print_size("batch", plan->geometry.batch_size_max, "most request bytes in one journal entry");
    printf("  %-28s %10" PRIu32 "  most events in one journal entry\n", "batch events",
           plan->geometry.batch_event_max);
    printf("  %-28s %10" PRIu32 "  trees alive at once\n", "trees", plan->geometry.tree_count_max);

    printf("\nmemory, taken at start\n");
    for (uint32_t i = 0; i < plan->forest.item_count; i++) {
        const struct forest_plan_item *item = &plan->forest.items[i];
        print_size(item->name, item->size, item->derived);
    }
    print_size("forest, in all", plan->forest.total_size, "");
    print_size("messages, at most", plan->message_size,
               config->listener == LISTENER_NATIVE
                   ? "requests x a request and a reply of the largest size, and input buffers"
                   : "requests, and a third more, x a request and a reply of the largest size");
    print_size("limit", plan->memory_limit,
               plan->memory_limit == 0 ? "unknown" : "of the container or the machine");

    printf("\npace\n");
    print_size("one beat waits at most for", plan->forest.beat_work_max, "bytes of merge work");
    printf("  %-28s %10" PRIu32 "  blocks lent to compaction; one job needs %" PRIu32 "\n",
           "resource pool", plan->forest.resource_pool_blocks, plan->forest.resource_pool_minimum);
}

static void print_plan_json(const struct config *config, const struct daemon_plan *plan)
{
    static char text[PLAN_TEXT_SIZE];
    struct json_writer writer;
    json_writer_init(&writer, text, sizeof text);
    json_object_begin(&writer, NULL);
    json_object_begin(&writer, "configuration");
    for (enum config_key key = 0; key < CONFIG_KEY_COUNT; key++) {
        char value[PATH_MAX];
        const char *source = config_source_text(config->source[key]);
        option_text(config, key, value, sizeof value);
        json_object_begin(&writer, config_options[key].name);
        json_text(&writer, "value", value, sizeof value);
        json_text(&writer, "source", source, strlen(source));
        json_object_end(&writer);
    }
    json_object_end(&writer);
    json_array_begin(&writer, "access");
    for (uint32_t i = 0; i < config->access.count; i++) {
        const struct access_rule *rule = &config->access.rules[i];
        const char *right = access_right_name(rule->right);
        json_object_begin(&writer, NULL);
        json_text(&writer, "who", rule->who, sizeof rule->who);
        if (rule->uid != ACCESS_UID_ANY) {
            json_u64(&writer, "uid", rule->uid);
        }
        json_text(&writer, "right", right, strlen(right));
        json_text(&writer, "groove", rule->groove[0] != '\0' ? rule->groove : "*", NAME_SIZE);
        json_u64(&writer, "line", rule->line);
        json_object_end(&writer);
    }
    json_array_end(&writer);
    json_array_begin(&writer, "memory");
    for (uint32_t i = 0; i < plan->forest.item_count; i++) {
        const struct forest_plan_item *item = &plan->forest.items[i];
        json_object_begin(&writer, NULL);
        json_text(&writer, "name", item->name, strlen(item->name));
        json_u64(&writer, "size", item->size);
        json_text(&writer, "derived", item->derived, strlen(item->derived));
        json_object_end(&writer);
    }
    json_array_end(&writer);
    json_u64(&writer, "forest_size", plan->forest.total_size);
    json_u64(&writer, "message_size", plan->message_size);
    json_u64(&writer, "memory_limit", plan->memory_limit);
    json_u64(&writer, "block_size", plan->geometry.block_size);
    json_u64(&writer, "journal_size", plan->geometry.journal_size);
    json_u64(&writer, "batch_size_max", plan->geometry.batch_size_max);
    json_u64(&writer, "batch_event_max", plan->geometry.batch_event_max);
    json_u64(&writer, "tree_count_max", plan->geometry.tree_count_max);
    json_u64(&writer, "beat_work_max", plan->forest.beat_work_max);
    json_u64(&writer, "resource_pool_blocks", plan->forest.resource_pool_blocks);
    json_u64(&writer, "resource_pool_minimum", plan->forest.resource_pool_minimum);
    json_object_end(&writer);
    const char *done = json_writer_finish(&writer);
    assert(done != NULL);
    puts(done);
}

static int run(const struct cli_command *command, int argc, char **argv)
{
    static const char *const names[] = {"FILE"};
    static struct config config;
    const char *values[CONFIG_KEY_COUNT] = {0};
    const char *config_path = NULL;
    bool plan_only = false;
    bool json = false;
    struct cli_option options[CONFIG_KEY_COUNT + 3] = {
        {.name = "config", .value = &config_path},
        {.name = "plan", .flag = &plan_only},
        {.name = "json", .flag = &json},
    };
    for (enum config_key key = 0; key < CONFIG_KEY_COUNT; key++) {
        options[3 + key] =
            (struct cli_option){.name = config_options[key].name, .value = &values[key]};
    }
    const char *path = NULL;
    int exit_code = cli_parse(command, argc, argv, options, (uint32_t)array_count(options), names,
                              1, 1, &path, NULL);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    if (json && !plan_only) {
        return cli_usage(command, "--json goes with --plan; for the log say --log-format json");
    }
    exit_code = configure(command, path, config_path, values, &config);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    char reason[FOREST_THREAD_REASON_SIZE] = "";
    enum status status;
    if (plan_only) {
        static struct daemon_plan plan;
        status = forest_thread_plan(&config, &plan, reason);
        if (status == STATUS_OK) {
            (json ? print_plan_json : print_plan)(&config, &plan);
            return cli_flush(command, CLI_EXIT_OK);
        }
    } else {
        log_configure(config.log_format, config.log_level, 2);
        status = forest_thread_run(&config, reason);
    }
    if (status != STATUS_OK) {
        cli_error(command, "%s", reason[0] != '\0' ? reason : status_text(status));
    }
    return status_exit_code(status);
}

const struct cli_command command_start = {
    .name = "start",
    .summary = "serve a data file on a Unix socket, in the foreground",
    .help =
        "usage: holt start FILE [flags]\n"
        "\n"
        "Serves FILE until SIGTERM or SIGINT, which let everything in flight finish. Every flag\n"
        "is also an environment variable (--cache: HOLT_CACHE) and a key of the configuration\n"
        "file (cache = 1G); flags win over the environment, the environment over the file.\n"
        "\n"
        "  --config PATH            configuration file: lines of key = value (HOLT_CONFIG). Its\n"
        "                           lines 'allow = WHO read|write|admin GROOVE' say who may do "
        "what\n"
        "  --plan [--json]          print configuration, memory and limits, and do not start\n"
        "  --socket PATH            Unix socket to serve on (FILE.sock)\n"
        "  --socket-mode OCTAL      permissions of the socket (0600)\n"
        "  --listener native|nng    who speaks on the socket, with the same bytes (native)\n"
        "  --workers N              compaction threads, 0 to 16 (processors - 1, at most 4)\n"
        "  --readers N              threads that read, 1 to 32 (2)\n"
        "  --cache SIZE             block cache, 4M to 1T (256M)\n"
        "  --reads N                reads in progress at once, 1 to 256 (16)\n"
        "  --read-budget SIZE       what one query or count may look through, 1M to 1T; 0: any "
        "(16G)\n"
        "  --requests N             requests in the daemon at once, 1 to 1024 (64)\n"
        "  --connections N          connections at once, 1 to 4096 (256)\n"
        "  --send-timeout-ms N      drops a client that does not read its reply (500)\n"
        "  --drain-timeout-ms N     time for the last replies at a stop (5000)\n"
        "  --log-format F           logfmt or json (logfmt)\n"
        "  --log-level L            debug, info, warn or error (info)\n"
        "\n"
        "examples:\n"
        "  holt start cities.holt\n"
        "  holt start cities.holt --plan\n"
        "  holt start /var/lib/holt/cities.holt --socket /run/holt/cities.sock --cache 1G\n",
    .run = run,
};
