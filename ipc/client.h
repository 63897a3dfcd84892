/* A synchronous client of the Holt daemon: connects, asks, waits, reconnects.
 *
 *   struct client *client;
 *   enum client_status status = client_open(&(struct client_options){.socket_path = path},
 * &client); struct client_reply reply; status = client_call(client, OPERATION_STAT, NULL, 0, 5000,
 * &reply); if (status == CLIENT_OK && reply.result == RESULT_OK) ... reply.body, reply.body_size
 * ... client_close(client);
 *
 * Two kinds of failure: client_status says that no answer came, reply.result that the answer is no.
 * A request whose answer did not come may or may not have happened (CLIENT_TIMEOUT, CLIENT_LOST);
 * every other client_status means that it did not.
 *
 * Several requests may be in flight on one client (client_send, client_receive); replies come in
 * any order and say which request they answer. One thread per client at a time. All memory is taken
 * by client_open. It speaks SP over AF_UNIX itself (docs/protocol.md), and needs no library. */
#pragma once

#include <stdint.h>

#include "ipc/protocol.h"
#include "pool/status.h"

/* X(name, exit code of a command that ends because of it, text) */
#define CLIENT_STATUS_MAP(X)                                                                       \
    X(CLIENT_OK, 0, "ok")                                                                          \
    X(CLIENT_NO_SOCKET, 69, "there is no such socket: is the daemon running, is the path right?")  \
    X(CLIENT_NOBODY, 69, "nobody listens on this socket: the daemon is not running")               \
    X(CLIENT_DENIED, 77, "permission denied: this user may not open the socket")                   \
    X(CLIENT_NOT_HOLT, 76, "what answers on this socket is not a Holt daemon of this version")     \
    X(CLIENT_TIMEOUT, 75, "no answer in time")                                                     \
    X(CLIENT_LOST, 75, "the connection was lost before the answer came")                           \
    X(CLIENT_TOO_BIG, 65, "the request is bigger than a message may be")                           \
    X(CLIENT_BAD_PATH, 64, "a socket path has 1 to 107 bytes")                                     \
    X(CLIENT_NO_MEMORY, 71, "out of memory")                                                       \
    X(CLIENT_IO, 74, "the operating system reported an error on the socket")

enum client_status {
#define X(name, exit_code, text) name,
    CLIENT_STATUS_MAP(X)
#undef X
};

/* A constant English phrase; never NULL. */
const char *client_status_text(enum client_status status);
/* The process exit code that tells `status` (sysexits.h). */
int client_status_exit_code(enum client_status status);

struct client;

struct client_options {
    const char *socket_path;
    uint32_t connect_timeout_ms; /* 0: 10,000 */
    uint32_t message_size_max;   /* bytes, header included; 0: 4 MiB. Larger replies: NOT_HOLT */
    uint8_t client_id[WIRE_ID_SIZE]; /* zero: anonymous */
};

struct client_reply {
    uint64_t number; /* of the request it answers */
    uint16_t operation;
    enum result result; /* numbers of a newer daemon are passed on as they are */
    uint64_t commit;
    uint64_t timestamp;
    uint32_t retry_after_ms;
    uint32_t body_size;
    const uint8_t *body; /* any alignment; valid until the next call on this client */
};

/* Connects once, without retrying. On failure `client` is NULL. */
MUST_CHECK enum client_status client_open(const struct client_options *options,
                                          struct client **client);
/* NULL is allowed. */
void client_close(struct client *client);

/* Asks and waits for the answer, at most `timeout_ms` in all; the daemon is told the same deadline.
 *
 * A lost connection is made anew, with growing pauses, as long as time is left (so a restart of the
 * daemon passes unnoticed). A request is sent again only if it certainly had no effect: it was not
 * sent yet, or it reads. Requires: nothing else in flight. */
MUST_CHECK enum client_status client_call(struct client *client, enum operation operation,
                                          const void *body, uint32_t body_size, uint32_t timeout_ms,
                                          struct client_reply *reply);

/* Sends one request and returns as soon as the kernel has it; `number` (may be NULL) is its own.
 * Reconnects first if the connection is lost and nothing is in flight. On failure it is not in
 * flight, and after CLIENT_LOST neither is anything else. */
MUST_CHECK enum client_status client_send(struct client *client, enum operation operation,
                                          const void *body, uint32_t body_size, uint32_t timeout_ms,
                                          uint64_t *number);

/* Waits for the next reply. CLIENT_TIMEOUT: none yet, all stay in flight. CLIENT_LOST, NOT_HOLT,
 * IO: none will come, nothing is in flight any more. Requires: something in flight. */
MUST_CHECK enum client_status client_receive(struct client *client, uint32_t timeout_ms,
                                             struct client_reply *reply);

/* Requests sent whose reply was not received. */
uint32_t client_in_flight(const struct client *client);
