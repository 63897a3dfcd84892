/* Requests in, replies out: what the server sees of a front-end.
 *
 *           handler (listener thread)            exchange_reply / exchange_drop (any thread)
 *   wire ──► [ exchange ] ─────────► the server ──────────────────────────────► wire
 *                ▲                                                               │
 *                └──────────── receives again once the reply has left ◄──────────┘
 *
 * Exchanges are made at start: they bound the requests in the daemon. Users, and the connections of
 * a user, share them (peers.h); a request beyond its share waits in its socket (native), or is
 * answered BUSY (nng, which asks nobody before it gives one). A message is checked
 * (protocol_request_check) before the handler sees it; a malformed one is answered here. Replies
 * leave asynchronously: a peer that does not read its reply within send_timeout_ms loses its
 * connection, and nobody else waits for it. No transport's type is named here: listener_nng.c and
 * listener_native.c stand behind it, by a table of functions (listener_internal.h). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "ipc/protocol.h"
#include "pool/doorbell.h"
#include "pool/status.h"

struct listener;

/* Two listeners that speak the same bytes. Any nng REQ client is served by both. */
enum listener_kind {
    LISTENER_NNG,    /* nng's REP socket, with our repairs */
    LISTENER_NATIVE, /* our own, over epoll, on the thread of the server */
};

static inline const char *listener_kind_name(enum listener_kind kind)
{
    return kind == LISTENER_NATIVE ? "native" : "nng";
}

struct listener_options {
    enum listener_kind kind;
    const char *socket_path;       /* absolute or relative; its directory must exist */
    uint32_t socket_mode;          /* permission bits; 0: 0600 */
    uint32_t message_size_max;     /* bytes of a request or a reply, header included */
    uint32_t exchange_count;       /* 0: 64. What a user alone may have in hand with nng, and a
                                      connection three quarters of with the native one */
    uint32_t connection_count_max; /* 0: 256, of one user; of all a third more. Others are closed
                                      as they come */
    uint32_t send_timeout_ms;      /* 0: 500 */
    uint32_t receive_timeout_ms;   /* 0: 10000; for a greeting, and for a message that is too long
                                      for the receive buffer. nng has its own for the former */
    struct doorbell *doorbell;     /* of the thread that calls listener_wait; NULL: nobody does, and
                                      the native one gets a thread of its own */
};

/* One request on its way through the server. The server owns it from the call of the handler until
 * it calls exchange_reply, exchange_send or exchange_drop, and then must not touch it again. */
struct exchange {
    struct request_header header; /* checked */
    const uint8_t *request;       /* the whole message, header included; any alignment */
    uint32_t request_size;        /* PROTOCOL_HEADER_SIZE + header.body_size */
    uint32_t peer_uid;            /* of the process that connected, from the kernel */
    uint32_t peer_id;             /* of the connection; not reused soon */
    uint64_t received_ns;         /* CLOCK_MONOTONIC, for deadlines and latencies */

    struct exchange *next; /* the server's, to queue it; untouched here */
    void *context;         /* likewise */

    struct listener *listener; /* whose it is */
};

static inline const uint8_t *exchange_body(const struct exchange *exchange)
{
    return exchange->request + PROTOCOL_HEADER_SIZE;
}

/* On a listener's thread, or within listener_wait. Must only look and enqueue: while it runs nobody
 * is served. It may reply at once (BUSY). */
typedef void listener_handler(void *context, struct exchange *exchange);

/* Binds the socket and serves. Whoever calls it already holds the lock of its data file, so a
 * dead daemon's socket at the path may be replaced; anything else there is left alone:
 *
 *   STATUS_EXISTS: a file, directory or symlink, or another user's socket, is at the path.
 *   STATUS_LOCKED: somebody answers there.
 *   STATUS_NOT_FOUND: no such directory. STATUS_DENIED: not ours to write in.
 *   STATUS_INVALID: a path over 107 bytes, or a size out of range.
 *   STATUS_NO_MEMORY, STATUS_IO.
 *
 * `reason` (constant text) then says it in a sentence; `listener` is NULL. */
MUST_CHECK enum status listener_start(const struct listener_options *options,
                                      listener_handler *handler, void *context,
                                      struct listener **listener, const char **reason);

/* Bytes of memory that a listener with these options may take: the native one at start, nng by the
 * message. */
uint64_t listener_memory_size(const struct listener_options *options);

/* Requests that the server may be given at once by a listener with these options: a third more than
 * exchange_count with nng. */
uint32_t listener_exchange_count(const struct listener_options *options);

/* The thread of options.doorbell, in place of doorbell_wait and as often as it turns: serves what
 * has come, if that is not the work of the listener's own threads; and if there is nothing, sleeps
 * until something comes, the doorbell's count is not `seen`, or `timeout_ns` has passed (0: does
 * not sleep). One thread that receives, executes and answers is not waked for each, and a waking
 * across processors takes as long as a small request does in all. */
void listener_wait(struct listener *listener, uint64_t seen, uint64_t timeout_ns);

/* Any thread, more than once. From now on requests are answered SHUTTING_DOWN without the handler;
 * those it already has go on. */
void listener_stop_accepting(struct listener *listener);

/* The thread of options.doorbell, after listener_stop_accepting: waits until the server has
 * answered all it was given and the answers have left. False: `timeout_ms` passed first. */
MUST_CHECK bool listener_drain(struct listener *listener, uint32_t timeout_ms);

/* Closes every connection, removes the socket, joins the listener's threads, frees. Requires that
 * the server holds no exchange. A server that cannot promise that (drain timed out) ends with _exit
 * instead, which is safe: what was sent is in the kernel. */
void listener_stop(struct listener *listener);

/* Any thread that owns the exchange; none of these blocks.
 *
 * Room for a reply of `size` bytes (header and body, at most message_size_max), to be filled in
 * place; the request stays readable. NULL: out of memory, the exchange is still yours. Once per
 * exchange. */
uint8_t *exchange_reply_buffer(struct exchange *exchange, uint32_t size);
/* Sends the first `size` bytes of the buffer. */
void exchange_send(struct exchange *exchange, uint32_t size);

/* Copies and sends. `body` may be NULL when body_size is 0. Without memory for it: drops. */
void exchange_reply(struct exchange *exchange, const void *header, uint32_t header_size,
                    const void *body, uint32_t body_size);

/* The short form: `result` and, when it is not OK, a text for people (NULL: result_text). */
void exchange_reply_result(struct exchange *exchange, enum result result, const char *text);

/* Closes the peer's connection and answers nothing. */
void exchange_drop(struct exchange *exchange);

struct listener_stats {
    uint64_t connections; /* now */
    uint64_t connections_total;
    uint64_t connections_refused;    /* over a user's share of them */
    uint64_t requests_total;         /* given to the handler */
    uint64_t bad_messages_total;     /* answered here because malformed */
    uint64_t over_share_total;       /* answered here with BUSY; 0 with the native one */
    uint64_t send_timeouts_total;    /* connections closed because their peer did not read */
    uint64_t receive_timeouts_total; /* ... did not send what it had begun */
    uint64_t bad_frames_total;       /* ... does not speak SP, or sent too much; 0 with nng */
    uint64_t accept_errors_total;    /* times that accepting had to pause; 0 with nng */
    uint64_t drops_total;            /* exchange_drop, and replies without memory */
    uint64_t exchanges_busy;         /* now: with the server or being sent */
};
/* Any thread. The numbers are each true, not of one instant. */
void listener_stats_read(struct listener *listener, struct listener_stats *stats);
