#include "pool/log.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "pool/clock.h"

/* Written before any thread starts, read-only afterwards. */
static enum log_format format = LOG_FORMAT_LOGFMT;
static enum log_level level_min = LOG_LEVEL_INFO;
static int log_fd = STDERR_FILENO;

/* Kept free at the end of a line: the closing quote, cut mark, brace and newline. */
enum { LINE_TAIL_SIZE = 16, LINE_BODY_MAX = LOG_LINE_MAX - LINE_TAIL_SIZE };

struct line {
    char bytes[LOG_LINE_MAX];
    size_t size; /* <= LINE_BODY_MAX until the tail is written */
    bool cut;    /* Something did not fit; nothing more is put. */
};

static const char *const level_names[] = {
    [LOG_LEVEL_DEBUG] = "debug",
    [LOG_LEVEL_INFO] = "info",
    [LOG_LEVEL_WARN] = "warn",
    [LOG_LEVEL_ERROR] = "error",
};

/* All of `bytes` or, when they do not fit below `limit`, nothing and the line is cut. */
static void put_bytes(struct line *line, const char *bytes, size_t size, size_t limit)
{
    if (line->cut || line->size + size > limit) {
        line->cut = true;
        return;
    }
    memcpy(line->bytes + line->size, bytes, size);
    line->size += size;
}

static void put(struct line *line, const char *text)
{
    put_bytes(line, text, strlen(text), LINE_BODY_MAX);
}

__attribute__((format(printf, 2, 3))) static void put_formatted(struct line *line,
                                                                const char *pattern, ...)
{
    char text[64];
    va_list arguments;
    va_start(arguments, pattern);
    const int size = vsnprintf(text, sizeof text, pattern, arguments);
    va_end(arguments);
    assert(size >= 0 && (size_t)size < sizeof text);
    put(line, text);
}

/* Bytes of the well-formed, printable UTF-8 character at `text`; 0 if there is none. Control
 * characters are not printable, those of 0x80..0x9f included: a terminal would obey them. */
static size_t utf8_printable_size(const unsigned char *text)
{
    const unsigned char first = text[0];
    if (first < 0x80) {
        return first >= 0x20 && first != 0x7f;
    }
    const size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4) {
        return 0;
    }
    uint32_t point = first & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        if ((text[i] & 0xc0) != 0x80) { /* Stops at the NUL, too. */
            return 0;
        }
        point = point << 6 | (text[i] & 0x3fu);
    }
    static const uint32_t point_min[] = {[2] = 0xa0, [3] = 0x800, [4] = 0x10000};
    const bool surrogate = point >= 0xd800 && point <= 0xdfff;
    return point < point_min[size] || surrogate || point > 0x10ffff ? 0 : size;
}

/* Bytes that are not printable UTF-8 appear as \u00XX in JSON and \xXX in logfmt. */
static void put_escaped(struct line *line, const char *text)
{
    const unsigned char *rest = (const unsigned char *)text;
    while (*rest != '\0' && !line->cut) {
        const size_t size = utf8_printable_size(rest);
        if (size == 0) {
            put_formatted(line, format == LOG_FORMAT_JSON ? "\\u%04x" : "\\x%02x", *rest);
            rest += 1;
            continue;
        }
        if (*rest == '"' || *rest == '\\') {
            const char escaped[] = {'\\', (char)*rest};
            put_bytes(line, escaped, sizeof escaped, LINE_BODY_MAX);
        } else {
            put_bytes(line, (const char *)rest, size, LINE_BODY_MAX);
        }
        rest += size;
    }
}

static bool is_bare_word(const char *text)
{
    for (const unsigned char *rest = (const unsigned char *)text; *rest != '\0'; rest++) {
        if (*rest <= ' ' || *rest >= 0x7f || *rest == '"' || *rest == '=' || *rest == '\\') {
            return false;
        }
    }
    return text[0] != '\0';
}

static void put_text(struct line *line, const char *text)
{
    if (text == NULL) {
        text = "";
    }
    if (format == LOG_FORMAT_LOGFMT && is_bare_word(text) &&
        line->size + strlen(text) <= LINE_BODY_MAX) {
        put(line, text);
        return;
    }
    if (line->cut) {
        return;
    }
    put(line, "\"");
    const bool opened = !line->cut;
    put_escaped(line, text);
    if (opened) { /* Into the tail if must be: an open quote would swallow the rest. */
        const bool cut = line->cut;
        line->cut = false;
        put_bytes(line, "\"", 1, LOG_LINE_MAX);
        line->cut = cut;
    }
}

static void put_f64(struct line *line, double value)
{
    if (isfinite(value)) {
        put_formatted(line, "%.9g", value);
    } else if (format == LOG_FORMAT_JSON) {
        put(line, "null"); /* JSON knows no other. */
    } else {
        put(line, isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
    }
}

static void put_value(struct line *line, const struct log_field *field)
{
    switch (field->kind) {
    case LOG_KIND_U64:
        put_formatted(line, "%ju", (uintmax_t)field->value.u64);
        return;
    case LOG_KIND_I64:
        put_formatted(line, "%jd", (intmax_t)field->value.i64);
        return;
    case LOG_KIND_HEX:
        put_formatted(line, format == LOG_FORMAT_JSON ? "\"0x%jx\"" : "0x%jx",
                      (uintmax_t)field->value.u64);
        return;
    case LOG_KIND_F64:
        put_f64(line, field->value.f64);
        return;
    case LOG_KIND_TEXT:
        put_text(line, field->value.text);
        return;
    }
    assert(false);
}

static void put_name(struct line *line, const char *name)
{
    assert(name != NULL && name[0] != '\0');
    if (format == LOG_FORMAT_JSON) {
        put(line, line->size == 0 ? "{\"" : ",\"");
        put(line, name);
        put(line, "\":");
    } else {
        put(line, line->size == 0 ? "" : " ");
        put(line, name);
        put(line, "=");
    }
}

/* The field, or nothing of it and the line is cut; only a text may stand cut. */
static void put_field(struct line *line, const struct log_field *field)
{
    const size_t start = line->size;

    put_name(line, field->name);
    const size_t value_start = line->size;
    if (!line->cut) {
        put_value(line, field);
    }
    if (line->cut && (field->kind != LOG_KIND_TEXT || line->size == value_start)) {
        line->size = start;
    }
}

/* Civil date of a day since 1970-01-01, by Howard Hinnant's days-to-civil: years that begin in
 * March put the leap day last. Not gmtime_r, which reads the environment and may allocate. */
static void put_time(struct line *line, uint64_t realtime_ns)
{
    const uint64_t ms = realtime_ns / 1000000;
    const uint64_t second = ms / 1000;
    const uint64_t days = second / 86400 + 719468; /* since 0000-03-01 */
    const uint64_t era = days / 146097;            /* of 400 years */
    const uint64_t day_of_era = days % 146097;
    const uint64_t year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    const uint64_t day_of_year =
        day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    const uint64_t march_month = (5 * day_of_year + 2) / 153; /* 0 = March */
    const uint64_t day = day_of_year - (153 * march_month + 2) / 5 + 1;
    const uint64_t month = march_month < 10 ? march_month + 3 : march_month - 9;
    const uint64_t year = era * 400 + year_of_era + (month <= 2);

    const char *quote = format == LOG_FORMAT_JSON ? "\"" : "";
    put_name(line, "time");
    put_formatted(line, "%s%04u-%02u-%02uT%02u:%02u:%02u.%03uZ%s", quote, (unsigned)year,
                  (unsigned)month, (unsigned)day, (unsigned)(second / 3600 % 24),
                  (unsigned)(second / 60 % 60), (unsigned)(second % 60), (unsigned)(ms % 1000),
                  quote);
}

void log_configure(enum log_format new_format, enum log_level new_level_min, int fd)
{
    assert(fd >= 0);
    format = new_format;
    level_min = new_level_min;
    log_fd = fd;
}

void log_event(enum log_level level, const char *event, const struct log_field *fields,
               uint32_t field_count)
{
    assert(event != NULL);
    assert(fields != NULL || field_count == 0);
    if (level < level_min) {
        return;
    }

    struct line line;
    line.size = 0;
    line.cut = false;
    put_time(&line, clock_realtime_ns(&clock_system));
    const struct log_field level_field = log_text("level", level_names[level]);
    const struct log_field event_field = log_text("event", event);
    put_field(&line, &level_field);
    put_field(&line, &event_field);
    for (uint32_t i = 0; i < field_count && !line.cut; i++) {
        put_field(&line, &fields[i]);
    }

    const bool json = format == LOG_FORMAT_JSON;
    const char *cut = !line.cut ? "" : json ? ",\"cut\":true" : " cut=true";
    line.cut = false;
    put_bytes(&line, cut, strlen(cut), LOG_LINE_MAX);
    put_bytes(&line, json ? "}\n" : "\n", json ? 2 : 1, LOG_LINE_MAX);
    assert(!line.cut); /* LINE_TAIL_SIZE was kept free for this. */

    const int error = errno; /* Callers often log before they look at it. */
    ssize_t written;
    do {
        written = write(log_fd, line.bytes, line.size);
    } while (written < 0 && errno == EINTR);
    errno = error;
}

_Noreturn void fatal(enum status status, const char *event, const char *what, const char *advice)
{
    assert(status != STATUS_OK);
    LOG_ERROR(event, log_text("what", what), log_text("advice", advice),
              log_text("status", status_text(status)));
    _exit(status_exit_code(status));
}
