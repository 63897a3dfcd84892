#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ipc/libholt/internal.h"

#define LIBRARY_STATUS_MAP(X)                                                                      \
    X(UNKNOWN, "the write was sent, and its outcome is not known")                                 \
    X(FAILURES, "the write was executed, and some of its events failed")                           \
    X(TIMEOUT, "the deadline passed")                                                              \
    X(NO_DAEMON, "nobody answers on the socket: is the daemon running, is the path right?")        \
    X(PERMISSION, "this user may not open the socket")                                             \
    X(NOT_HOLT, "what answers on the socket is not a Holt daemon of this protocol version")        \
    X(NOT_SUPPORTED, "the daemon lacks a feature that was asked for")                              \
    X(BAD_ARGUMENT, "an argument is wrong")                                                        \
    X(OUT_OF_RANGE, "the value does not fit")                                                      \
    X(WRONG_TYPE, "the field is of another type")                                                  \
    X(NO_MEMORY, "out of memory")                                                                  \
    X(SYSTEM, "the operating system reported an error")                                            \
    X(FORKED, "the client was opened by another process: open one after fork()")                   \
    X(CLOSED, "the client is being closed")                                                        \
    X(QUEUE_FULL, "as many calls are waiting as the client's options allow")                       \
    X(IN_USE, "it was submitted and has not come back")

const char *holt_status_name(enum holt_status status)
{
    switch (status) {
#define X(name, text)                                                                              \
    case HOLT_##name:                                                                              \
        return #name;
        LIBRARY_STATUS_MAP(X)
#undef X
    default: {
        const char *name = result_name((uint32_t)status);
        return strcmp(name, "UNKNOWN") == 0 ? "?" : name; /* UNKNOWN is the library's. */
    }
    }
}

const char *holt_status_text(enum holt_status status)
{
    switch (status) {
#define X(name, text)                                                                              \
    case HOLT_##name:                                                                              \
        return text;
        LIBRARY_STATUS_MAP(X)
#undef X
    default:
        return result_text((uint32_t)status);
    }
}

const char *holt_event_result_name(enum holt_event_result result)
{
    const char *name = wire_event_result_name((uint32_t)result);
    return strcmp(name, "UNKNOWN") == 0 ? "?" : name;
}

const char *holt_event_result_text(enum holt_event_result result)
{
    return wire_event_result_text((uint32_t)result);
}

const char *holt_library_version(void)
{
    return HOLT_VERSION;
}

const char *holt_type_name(enum holt_type type)
{
    static const char *const names[] = {
        "?",   "u8",  "u16", "u32", "u64",  "u128",  "i8",   "i16",
        "i32", "i64", "f32", "f64", "bool", "bytes", "text", "timestamp",
    };
    return (unsigned)type < sizeof names / sizeof names[0] ? names[type] : names[0];
}

enum holt_status error_set(struct holt_error *error, enum holt_status status, const char *format,
                           ...)
{
    if (error == NULL) {
        return status;
    }
    error->status = status;
    if (format == NULL) {
        snprintf(error->text, sizeof error->text, "%s", holt_status_text(status));
        return status;
    }
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    return status;
}
