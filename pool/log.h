/* One line an event, on stderr, as logfmt or JSON lines.
 *
 *   LOG_INFO("journal.recovered", log_u64("entries", n), log_text("file", path));
 *   -> time=2026-11-22T13:00:00.123Z level=info event=journal.recovered entries=12 file=/x
 *
 * A line is built on the stack and leaves in one write(2), so lines of several threads never mix
 * and logging allocates nothing. What does not fit LOG_LINE_MAX is left out and the line says
 * cut=true. A line that cannot be written is lost: there is nobody to tell. Any thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pool/status.h"

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };
enum log_format { LOG_FORMAT_LOGFMT, LOG_FORMAT_JSON };
enum { LOG_LINE_MAX = 4096 };

enum log_kind { LOG_KIND_U64, LOG_KIND_I64, LOG_KIND_HEX, LOG_KIND_F64, LOG_KIND_TEXT };

struct log_field {
    const char *name; /* constant, [a-z0-9_]+ */
    enum log_kind kind;
    union {
        uint64_t u64;
        int64_t i64;
        double f64;
        const char *text; /* any bytes up to NUL; escaped; NULL prints as empty */
    } value;
};

static inline struct log_field log_u64(const char *name, uint64_t value)
{
    return (struct log_field){.name = name, .kind = LOG_KIND_U64, .value = {.u64 = value}};
}

static inline struct log_field log_i64(const char *name, int64_t value)
{
    return (struct log_field){.name = name, .kind = LOG_KIND_I64, .value = {.i64 = value}};
}

static inline struct log_field log_hex(const char *name, uint64_t value)
{
    return (struct log_field){.name = name, .kind = LOG_KIND_HEX, .value = {.u64 = value}};
}

static inline struct log_field log_f64(const char *name, double value)
{
    return (struct log_field){.name = name, .kind = LOG_KIND_F64, .value = {.f64 = value}};
}

static inline struct log_field log_text(const char *name, const char *value)
{
    return (struct log_field){.name = name, .kind = LOG_KIND_TEXT, .value = {.text = value}};
}

/* Process-wide, before any thread starts. Default: logfmt, info and above, fd 2. */
void log_configure(enum log_format format, enum log_level level_min, int fd);

void log_event(enum log_level level, const char *event, const struct log_field *fields,
               uint32_t field_count);

/* At least one field; use LOG_x0 for none. */
#define LOG_AT(level, event, ...)                                                                  \
    log_event(                                                                                     \
        (level), (event), (const struct log_field[]){__VA_ARGS__},                                 \
        (uint32_t)(sizeof((const struct log_field[]){__VA_ARGS__}) / sizeof(struct log_field)))
#define LOG_DEBUG(event, ...) LOG_AT(LOG_LEVEL_DEBUG, event, __VA_ARGS__)
#define LOG_INFO(event, ...) LOG_AT(LOG_LEVEL_INFO, event, __VA_ARGS__)
#define LOG_WARN(event, ...) LOG_AT(LOG_LEVEL_WARN, event, __VA_ARGS__)
#define LOG_ERROR(event, ...) LOG_AT(LOG_LEVEL_ERROR, event, __VA_ARGS__)
#define LOG_DEBUG0(event) log_event(LOG_LEVEL_DEBUG, (event), NULL, 0)
#define LOG_INFO0(event) log_event(LOG_LEVEL_INFO, (event), NULL, 0)
#define LOG_WARN0(event) log_event(LOG_LEVEL_WARN, (event), NULL, 0)
#define LOG_ERROR0(event) log_event(LOG_LEVEL_ERROR, (event), NULL, 0)

/* Unrecoverable world: logs `event` with `what`, `advice` and the status text at error level, then
 * _exit(status_exit_code(status)). Not for our own bugs (assert) nor for bad requests (reply). */
_Noreturn void fatal(enum status status, const char *event, const char *what, const char *advice);
