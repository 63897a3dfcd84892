#include "server/config.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forest.h"
#include "pool/base.h"
#include "server/value_text.h"

enum {
    LINE_SIZE_MAX = 8192,
    SOCKET_PATH_SIZE_MAX = 107, /* bytes: sun_path of Linux, less its NUL */
    WORKERS_MAX = 16,
    READERS_MAX = 32,
    WORKERS_DEFAULT_MAX = 4, /* more compactors than this only help disks faster than any we met */
};

const struct config_option config_options[CONFIG_KEY_COUNT] = {
    [CONFIG_SOCKET] = {"socket", "PATH", "", "Unix socket to serve on (FILE.sock)"},
    [CONFIG_SOCKET_MODE] = {"socket-mode", "OCTAL", "0600",
                            "permissions of the socket: who may connect"},
    [CONFIG_LISTENER] = {"listener", "native|nng", "native",
                         "who speaks on the socket; clients see no difference"},
    [CONFIG_WORKERS] = {"workers", "N", "", "compaction threads, 0..16 (processors - 1, 1..4)"},
    [CONFIG_READERS] = {"readers", "N", "2", "threads that read, 1..32"},
    [CONFIG_CACHE] = {"cache", "SIZE", "256M", "block cache, 4M..1T"},
    [CONFIG_READS] = {"reads", "N", "16", "reads in progress at once, 1..256"},
    [CONFIG_READ_BUDGET] = {"read-budget", "SIZE", "16G",
                            "what one query or count may look through, 1M..1T; 0: any"},
    [CONFIG_REQUESTS] = {"requests", "N", "64", "requests in the daemon at once, 1..1024"},
    [CONFIG_CONNECTIONS] = {"connections", "N", "256", "connections at once, 1..4096"},
    [CONFIG_SEND_TIMEOUT_MS] = {"send-timeout-ms", "N", "500",
                                "a client that does not read its reply for so long is dropped"},
    [CONFIG_DRAIN_TIMEOUT_MS] = {"drain-timeout-ms", "N", "5000",
                                 "at a stop: how long the last replies may take to leave"},
    [CONFIG_SESSION_IDLE] =
        {"session-idle", "TIME", "24h",
         "how long a session must be idle to be evicted for another, 1s..3650d"},
    [CONFIG_LOG_FORMAT] = {"log-format", "logfmt|json", "logfmt", "one line an event, on stderr"},
    [CONFIG_LOG_LEVEL] = {"log-level", "LEVEL", "info", "debug, info, warn or error"},
};

static enum status refuse(char *error, enum config_key key, const char *value, const char *expected)
{
    snprintf(error, CONFIG_ERROR_SIZE, "%s is '%.100s', but must be %s", config_options[key].name,
             value, expected);
    return STATUS_INVALID;
}

static enum status set_number(enum config_key key, const char *value, uint32_t min, uint32_t max,
                              uint32_t *number, char *error)
{
    char expected[80];
    char *end = NULL;
    errno = 0;
    const unsigned long parsed = strtoul(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end != '\0' || errno != 0 || parsed < min ||
        parsed > max) {
        snprintf(expected, sizeof expected, "a whole number from %" PRIu32 " to %" PRIu32, min,
                 max);
        return refuse(error, key, value, expected);
    }
    *number = (uint32_t)parsed;
    return STATUS_OK;
}

static enum status set_value(struct config *config, enum config_key key, const char *value,
                             char *error)
{
    switch (key) {
    case CONFIG_SOCKET:
        if (value[0] == '\0' || strlen(value) > SOCKET_PATH_SIZE_MAX) {
            return refuse(error, key, value, "a path of 1 to 107 bytes");
        }
        snprintf(config->socket_path, sizeof config->socket_path, "%s", value);
        return STATUS_OK;
    case CONFIG_SOCKET_MODE: {
        char *end = NULL;
        const unsigned long mode = strtoul(value, &end, 8);
        if (value[0] < '0' || value[0] > '7' || *end != '\0' || mode > 0777 ||
            (mode & 0600) != 0600) {
            return refuse(error, key, value, "octal permissions that let the owner in: 0600, 0660");
        }
        config->socket_mode = (uint32_t)mode;
        return STATUS_OK;
    }
    case CONFIG_LISTENER:
        if (strcmp(value, "nng") != 0 && strcmp(value, "native") != 0) {
            return refuse(error, key, value, "nng or native");
        }
        config->listener = strcmp(value, "nng") == 0 ? LISTENER_NNG : LISTENER_NATIVE;
        return STATUS_OK;
    case CONFIG_WORKERS:
        return set_number(key, value, 0, WORKERS_MAX, &config->workers, error);
    case CONFIG_READERS:
        return set_number(key, value, 1, READERS_MAX, &config->readers, error);
    case CONFIG_CACHE: {
        uint64_t size;
        if (!size_parse(value, &size) || size < (4ull << 20) || size > (1ull << 40)) {
            return refuse(error, key, value, "a size from 4M to 1T, such as 256M");
        }
        config->cache_size = size;
        return STATUS_OK;
    }
    case CONFIG_READS:
        return set_number(key, value, 1, FOREST_READ_SLOT_MAX, &config->read_slot_count, error);
    case CONFIG_READ_BUDGET: {
        uint64_t size;
        if (!size_parse(value, &size) ||
            (size != 0 && (size < (1ull << 20) || size > (1ull << 40)))) {
            return refuse(error, key, value, "0, or a size from 1M to 1T, such as 16G");
        }
        config->read_budget_size = size;
        return STATUS_OK;
    }
    case CONFIG_REQUESTS:
        return set_number(key, value, 1, 1024, &config->exchange_count, error);
    case CONFIG_CONNECTIONS:
        return set_number(key, value, 1, 4096, &config->connection_count_max, error);
    case CONFIG_SEND_TIMEOUT_MS:
        return set_number(key, value, 10, 600000, &config->send_timeout_ms, error);
    case CONFIG_DRAIN_TIMEOUT_MS:
        return set_number(key, value, 0, 600000, &config->drain_timeout_ms, error);
    case CONFIG_SESSION_IDLE: {
        uint64_t ns;
        const uint64_t second = 1000ull * 1000 * 1000;
        if (!duration_parse(value, &ns) || ns < second || ns > 3650ull * 86400 * second) {
            return refuse(error, key, value, "a time from 1s to 3650d, such as 24h");
        }
        config->session_idle_ns = ns;
        return STATUS_OK;
    }
    case CONFIG_LOG_FORMAT:
        if (strcmp(value, "logfmt") != 0 && strcmp(value, "json") != 0) {
            return refuse(error, key, value, "logfmt or json");
        }
        config->log_format = value[0] == 'j' ? LOG_FORMAT_JSON : LOG_FORMAT_LOGFMT;
        return STATUS_OK;
    case CONFIG_LOG_LEVEL: {
        static const char *const levels[] = {"debug", "info", "warn", "error"};
        for (uint32_t i = 0; i < array_count(levels); i++) {
            if (strcmp(value, levels[i]) == 0) {
                config->log_level = (enum log_level)i;
                return STATUS_OK;
            }
        }
        return refuse(error, key, value, "debug, info, warn or error");
    }
    case CONFIG_KEY_COUNT:
        break;
    }
    assert(false && "config key");
    return STATUS_INVALID;
}

void config_init(struct config *config)
{
    char error[CONFIG_ERROR_SIZE];

    *config = (struct config){0};
    for (enum config_key key = 0; key < CONFIG_KEY_COUNT; key++) {
        if (config_options[key].fallback[0] != '\0') {
            const enum status status = set_value(config, key, config_options[key].fallback, error);
            assert(status == STATUS_OK);
            (void)status;
        }
    }
}

enum config_key config_key_find(const char *name, size_t name_size)
{
    enum config_key key = 0;
    while (key < CONFIG_KEY_COUNT && (strlen(config_options[key].name) != name_size ||
                                      memcmp(config_options[key].name, name, name_size) != 0)) {
        key++;
    }
    return key;
}

enum status config_set(struct config *config, enum config_key key, const char *value,
                       enum config_source source, char *error)
{
    assert(config != NULL);
    assert(key < CONFIG_KEY_COUNT);
    assert(value != NULL);
    assert(error != NULL);

    const enum status status = set_value(config, key, value, error);
    if (status == STATUS_OK) {
        config->source[key] = source;
    }
    return status;
}

/* Cuts spaces from both ends, in place. */
static char *trim(char *text)
{
    text += strspn(text, " \t\r\n");
    size_t size = strlen(text);
    while (size > 0 && strchr(" \t\r\n", text[size - 1]) != NULL) {
        size -= 1;
    }
    text[size] = '\0';
    return text;
}

/* A value in quotes is taken as it is; else a comment behind it is cut. False: a quote is open. */
static bool unquote(char **value)
{
    char *text = trim(*value);
    if (text[0] == '"') {
        char *close = strchr(text + 1, '"');
        if (close == NULL) {
            return false;
        }
        const char *rest = trim(close + 1);
        if (*rest != '\0' && *rest != '#' && *rest != ';') {
            return false;
        }
        *close = '\0';
        *value = text + 1;
        return true;
    }
    for (char *at = text; *at != '\0'; at++) {
        if ((*at == '#' || *at == ';') && (at == text || at[-1] == ' ' || at[-1] == '\t')) {
            *at = '\0';
            break;
        }
    }
    *value = trim(text);
    return true;
}

static enum status load_line(struct config *config, char *line, uint32_t line_number, bool *seen,
                             char *error)
{
    char *text = trim(line);
    if (text[0] == '\0' || text[0] == '#' || text[0] == ';') {
        return STATUS_OK;
    }
    char *equals = strchr(text, '=');
    if (equals == NULL) {
        snprintf(error, CONFIG_ERROR_SIZE, "expected 'key = value', found '%.100s'", text);
        return STATUS_INVALID;
    }
    *equals = '\0';
    const char *name = trim(text);
    char *value = equals + 1;
    if (!unquote(&value)) {
        snprintf(error, CONFIG_ERROR_SIZE, "the quote of '%.60s' is not closed", name);
        return STATUS_INVALID;
    }
    if (strcmp(name, "allow") == 0) {
        static_assert((int)ACCESS_ERROR_SIZE <= (int)CONFIG_ERROR_SIZE, "one buffer for both");
        return access_add(&config->access, value, line_number, error);
    }
    const enum config_key key = config_key_find(name, strlen(name));
    if (key == CONFIG_KEY_COUNT) {
        snprintf(error, CONFIG_ERROR_SIZE,
                 "there is no option '%.60s'; 'holt start --help' lists them", name);
        return STATUS_INVALID;
    }
    if (seen[key]) {
        snprintf(error, CONFIG_ERROR_SIZE, "the option '%s' is set twice", name);
        return STATUS_INVALID;
    }
    seen[key] = true;
    return config_set(config, key, value, CONFIG_FILE, error);
}

enum status config_load_file(struct config *config, const char *path, char *error)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        snprintf(error, CONFIG_ERROR_SIZE, "cannot read %.200s: %s", path, strerror(errno));
        return errno == ENOENT ? STATUS_NOT_FOUND : errno == EACCES ? STATUS_DENIED : STATUS_IO;
    }
    enum status status = STATUS_OK;
    bool seen[CONFIG_KEY_COUNT] = {false};
    char line[LINE_SIZE_MAX];
    uint32_t line_number = 0;
    while (status == STATUS_OK && fgets(line, sizeof line, file) != NULL) {
        char problem[CONFIG_ERROR_SIZE];
        line_number += 1;
        if (strlen(line) + 1 == sizeof line) {
            snprintf(problem, sizeof problem, "the line is too long");
            status = STATUS_INVALID;
        } else {
            status = load_line(config, line, line_number, seen, problem);
        }
        if (status != STATUS_OK) {
            snprintf(error, CONFIG_ERROR_SIZE, "%.200s, line %" PRIu32 ": %.250s", path,
                     line_number, problem);
        }
    }
    if (status == STATUS_OK && ferror(file)) {
        snprintf(error, CONFIG_ERROR_SIZE, "cannot read %.200s: %s", path, strerror(errno));
        status = STATUS_IO;
    }
    fclose(file);
    return status;
}

enum status config_load_environment(struct config *config, char *(*get)(const char *name),
                                    char *error)
{
    for (enum config_key key = 0; key < CONFIG_KEY_COUNT; key++) {
        char name[40];
        const int size = snprintf(name, sizeof name, "HOLT_%s", config_options[key].name);
        assert(size > 0 && size < (int)sizeof name);
        for (int i = 5; i < size; i++) {
            if (name[i] == '-') {
                name[i] = '_';
            } else if (name[i] >= 'a' && name[i] <= 'z') {
                name[i] = (char)(name[i] - 'a' + 'A');
            }
        }
        const char *value = get(name);
        if (value == NULL) {
            continue;
        }
        char problem[CONFIG_ERROR_SIZE];
        if (config_set(config, key, value, CONFIG_ENVIRONMENT, problem) != STATUS_OK) {
            snprintf(error, CONFIG_ERROR_SIZE, "environment variable %s: %.400s", name, problem);
            return STATUS_INVALID;
        }
    }
    return STATUS_OK;
}

enum status config_finish(struct config *config, const char *data_path, uint32_t processor_count,
                          char *error)
{
    assert(data_path != NULL);
    assert(processor_count > 0);

    if (data_path[0] == '\0' || strlen(data_path) >= sizeof config->data_path) {
        snprintf(error, CONFIG_ERROR_SIZE, "the path of the data file is empty or too long");
        return STATUS_INVALID;
    }
    snprintf(config->data_path, sizeof config->data_path, "%s", data_path);

    if (config->source[CONFIG_SOCKET] == CONFIG_DEFAULT) {
        if (strlen(data_path) + strlen(".sock") > SOCKET_PATH_SIZE_MAX) {
            snprintf(error, CONFIG_ERROR_SIZE,
                     "%.200s.sock is longer than the 107 bytes a socket path may have; "
                     "give a shorter one with --socket",
                     data_path);
            return STATUS_INVALID;
        }
        memcpy(config->socket_path, data_path, strlen(data_path));
        memcpy(config->socket_path + strlen(data_path), ".sock", sizeof ".sock");
    }
    if (strcmp(config->socket_path, config->data_path) == 0) {
        snprintf(error, CONFIG_ERROR_SIZE,
                 "the socket and the data file are the same path, %.200s; "
                 "give another one with --socket",
                 data_path);
        return STATUS_INVALID;
    }
    if (config->source[CONFIG_WORKERS] == CONFIG_DEFAULT) {
        const uint64_t spare = processor_count > 1 ? processor_count - 1 : 1;
        config->workers = (uint32_t)min_u64(spare, WORKERS_DEFAULT_MAX);
    }
    return STATUS_OK;
}

const char *config_source_text(enum config_source source)
{
    switch (source) {
    case CONFIG_DEFAULT:
        return "default";
    case CONFIG_FILE:
        return "file";
    case CONFIG_ENVIRONMENT:
        return "environment";
    case CONFIG_FLAG:
        return "flag";
    }
    return "unknown";
}
