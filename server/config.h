/* What `holt start` can be told, and the only home of the defaults.
 *
 *   default  <  configuration file  <  environment  <  flags          (the later wins)
 *
 * One table (config_options) gives every option its flag, its variable, its key in the file, its
 * default, its bounds and its help, so that none of them can be forgotten. The file is lines of
 * `key = value`; # and ; start a comment; a value may stand in double quotes. An unknown key, a
 * doubled one or a value out of bounds is an error that names the file and the line. Only the file
 * may hold, and more than once, `allow = ...` (access.h). */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/listener.h"
#include "pool/log.h"
#include "pool/status.h"
#include "server/access.h"

enum config_source { CONFIG_DEFAULT, CONFIG_FILE, CONFIG_ENVIRONMENT, CONFIG_FLAG };

/* The options, in the order of the help. */
enum config_key {
    CONFIG_SOCKET,
    CONFIG_SOCKET_MODE,
    CONFIG_LISTENER,
    CONFIG_WORKERS,
    CONFIG_READERS,
    CONFIG_CACHE,
    CONFIG_READS,
    CONFIG_READ_BUDGET,
    CONFIG_REQUESTS,
    CONFIG_CONNECTIONS,
    CONFIG_SEND_TIMEOUT_MS,
    CONFIG_DRAIN_TIMEOUT_MS,
    CONFIG_SESSION_IDLE,
    CONFIG_LOG_FORMAT,
    CONFIG_LOG_LEVEL,
    CONFIG_KEY_COUNT,
};

struct config_option {
    const char *name;     /* "socket-mode": --socket-mode, HOLT_SOCKET_MODE, socket-mode = ... */
    const char *argument; /* what the help shows for the value: "PATH", "N" */
    const char *fallback; /* the default as text; "" = derived by config_finish */
    const char *help;     /* one line */
};
extern const struct config_option config_options[CONFIG_KEY_COUNT];

struct config {
    char data_path[PATH_MAX];
    char socket_path[PATH_MAX]; /* default: data_path with ".sock" behind it */
    uint32_t socket_mode;       /* permission bits */
    enum listener_kind listener;
    uint32_t workers;              /* threads that compact; 0 = inline */
    uint32_t readers;              /* threads that read, >= 1 */
    uint64_t cache_size;           /* bytes of the block cache */
    uint32_t read_slot_count;      /* reads in progress at once */
    uint64_t read_budget_size;     /* bytes one query or count may look through, 0 = any */
    uint32_t exchange_count;       /* requests in the daemon at once */
    uint32_t connection_count_max; /* connections at once */
    uint32_t send_timeout_ms;
    uint32_t drain_timeout_ms; /* at a stop: how long replies may take to leave */
    uint64_t session_idle_ns;  /* a session that wrote nothing for so long may be evicted */
    enum log_format log_format;
    enum log_level log_level;
    enum config_source source[CONFIG_KEY_COUNT]; /* where each value came from */
    struct access_rules access;                  /* the file's `allow` lines */
};

enum { CONFIG_ERROR_SIZE = 512 };

/* All defaults. */
void config_init(struct config *config);

/* The option with this name, or CONFIG_KEY_COUNT. */
enum config_key config_key_find(const char *name, size_t name_size);

/* STATUS_INVALID: `error` (CONFIG_ERROR_SIZE bytes) says what the option accepts. */
MUST_CHECK enum status config_set(struct config *config, enum config_key key, const char *value,
                                  enum config_source source, char *error);

/* STATUS_NOT_FOUND, STATUS_DENIED, STATUS_IO; STATUS_INVALID names the line. */
MUST_CHECK enum status config_load_file(struct config *config, const char *path, char *error);

/* Reads HOLT_<NAME> of every option through `get` (getenv). STATUS_INVALID names the variable. */
MUST_CHECK enum status config_load_environment(struct config *config,
                                               char *(*get)(const char *name), char *error);

/* Derives what was left open, from the data file's path and the processors this process may use,
 * and checks what concerns several options. STATUS_INVALID. */
MUST_CHECK enum status config_finish(struct config *config, const char *data_path,
                                     uint32_t processor_count, char *error);

const char *config_source_text(enum config_source source);
