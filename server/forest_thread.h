/* The daemon: the one thread that owns the forest, and what it needs around it.
 *
 *   lock the data file ─► plan, check memory ─► start the teams ─► recover ─► listen ─► serve
 *   SIGTERM, SIGINT    ─► stop accepting ─► finish what is in flight ─► seal ─► join ─► close
 *
 * The order of the first two lines is a promise: whoever does not hold the lock of the data file
 * never touches the socket. The calling thread becomes the forest thread. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "engine/forest.h"
#include "server/config.h"

enum { FOREST_THREAD_REASON_SIZE = 1024 };

/* What a daemon would take, without starting one. */
struct daemon_plan {
    struct geometry geometry;
    struct forest_plan forest;
    uint64_t message_size_max; /* bytes of one message */
    uint64_t message_size; /* bytes of all messages in the daemon, as listener_memory_size says */
    uint64_t total_size;   /* of the forest and the messages */
    uint64_t memory_limit; /* bytes: of the container or the machine; 0 = unknown */
};

/* Reads the geometry from the data file, under a shared lock. On failure `reason`
 * (FOREST_THREAD_REASON_SIZE bytes) says what was found and what to do. */
MUST_CHECK enum status forest_thread_plan(const struct config *config, struct daemon_plan *plan,
                                          char *reason);

/* Serves until a signal stops it. STATUS_OK: it was stopped cleanly. Else it could not start, and
 * `reason` says so. What goes wrong later is fatal() or a log line. */
MUST_CHECK enum status forest_thread_run(const struct config *config, char *reason);
