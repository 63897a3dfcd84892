/* Why an operation could not be done. Contract violations are not statuses: they assert. */
#pragma once

#define MUST_CHECK __attribute__((warn_unused_result))

/* X(code, exit code of a process that ends because of it, text). Exit codes follow sysexits.h
 * where one fits; docs/operations.md lists them. */
#define STATUS_MAP(X)                                                                              \
    X(STATUS_OK, 0, "ok")                                                                          \
    X(STATUS_NO_MEMORY, 71, "out of memory at startup")                                            \
    X(STATUS_IO, 74, "the operating system reported an I/O error")                                 \
    X(STATUS_NO_SPACE, 73, "no space is left for the data file")                                   \
    X(STATUS_CORRUPT, 76, "stored data failed its checksum")                                       \
    X(STATUS_VERSION, 78, "the data file or peer has another version")                             \
    X(STATUS_INVALID, 65, "malformed input")                                                       \
    X(STATUS_OVERLOADED, 75, "a bounded queue is full, retry later")                               \
    X(STATUS_LOCKED, 75, "another process holds the lock")                                         \
    X(STATUS_NOT_FOUND, 66, "not found")                                                           \
    X(STATUS_EXISTS, 73, "exists already")                                                         \
    X(STATUS_DENIED, 77, "permission denied")                                                      \
    X(STATUS_UNSUPPORTED, 78, "not supported here")                                                \
    X(STATUS_STALE, 75, "the version being read was overtaken, read again")                        \
    X(STATUS_REVOKED, 75, "the version being read was taken back, read again")                     \
    X(STATUS_BUDGET, 75, "the work that one read may do is spent")                                 \
    X(STATUS_YIELD, 75, "a long read gave way to others, and can go on")                           \
    X(STATUS_CLOSED, 69, "shutting down")

enum status {
#define X(code, exit_code, text) code,
    STATUS_MAP(X)
#undef X
};

/* A constant English phrase; never NULL. */
const char *status_text(enum status status);

/* The process exit code that tells `status`. */
int status_exit_code(enum status status);
