/* What every client command does with the daemon: find it, ask it, explain its answer.
 *
 * Each function says on stderr what went wrong and what to do next, and returns the exit code;
 * CLI_GO_ON means that all is well. */
#pragma once

#include <stdint.h>

#include "ipc/client.h"
#include "server/cli.h"
#include "server/shape.h"

enum { REMOTE_TIMEOUT_MS = 30000, REMOTE_MESSAGE_SIZE_MAX = 4 << 20 };

struct remote {
    const struct cli_command *command;
    const char *socket_path; /* borrowed */
    struct client *client;   /* owned */
};

/* `socket_path` is that of --socket; NULL: HOLT_SOCKET. */
int remote_open(struct remote *remote, const struct cli_command *command, const char *socket_path);
void remote_close(struct remote *remote);

/* Waits as a busy daemon asked for. */
void remote_pause(uint32_t milliseconds);

/* One request, again while the daemon is busy; the reply's body is valid until the next call.
 * `about` (may be NULL) is what an error names: the groove. */
int remote_call(struct remote *remote, enum operation operation, const void *body,
                uint32_t body_size, const char *about, struct client_reply *reply);

/* The two ways not to succeed, said on stderr. Both return an exit code. */
int remote_refuse_status(const struct remote *remote, enum client_status status);
int remote_refuse_result(const struct remote *remote, const struct client_reply *reply,
                         const char *about);

int remote_hello(struct remote *remote, struct hello_reply *hello);
/* The shape of one groove; an unknown one: those that there are. */
int remote_shape(struct remote *remote, const char *groove_name, struct shape *shape);
