/* The listener over nng's REP protocol: one context and one asynchronous operation per exchange.
 *
 *                 slot_receive                     handler
 *   IDLE ───────► RECEIVING ──── a request ──────► SERVED ──── exchange_send ────► SENDING
 *                  │   ▲                             or exchange_drop; the         │  │
 *                  │   │                             listener for a bad message    │  │
 *                  │   └───────────────── the reply has left, or cannot ───────────┘  │
 *                  └──────────────► STOPPED ◄────────── the operation was stopped ────┘
 *
 * A slot belongs to nng while RECEIVING or SENDING (slot_event is called when that ends) and to the
 * server while SERVED; whoever has it may touch it, nobody else, so slots need no lock. The state
 * is set before the call that hands a slot over, because the answer may come at once on another
 * thread.
 *
 * Rules that nng 1.5.2 imposes, beside those repaired in nng_repairs.c:
 * - A context receives again only after its send has ended (nng issue 1702).
 * - Every operation is stopped before contexts and the socket are closed; a callback that re-arms
 *   while the socket closes uses freed memory.
 * - NNG_OPT_RECVMAXSZ is without limit unless set, counts the 4 bytes of the request id, and must
 *   be set before the listener starts. A bigger message costs its sender the connection.
 * - nng unlinks whatever it finds at the socket's path, so the path is looked at first.
 * - A reply that the kernel does not take at once waits in its connection, not in its context; the
 *   next reply for that connection waits in its context, and that is what send_timeout_ms ends. So
 *   a peer that reads nothing holds one reply of memory, and holds up others send_timeout_ms at
 *   most. */
#include "ipc/listener.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/transport/ipc/ipc.h>

#include "ipc/client.h"
#include "ipc/nng_repairs.h"
#include "pool/base.h"
#include "pool/clock.h"
#include "pool/doorbell.h"
#include "pool/memory.h"

enum {
    SOCKET_MODE_DEFAULT = 0600,
    EXCHANGE_COUNT_DEFAULT = 64,
    EXCHANGE_COUNT_MAX = 4096,
    CONNECTION_COUNT_MAX_DEFAULT = 256,
    SEND_TIMEOUT_MS_DEFAULT = 500,
    SEND_TIMEOUT_MS_MAX = 60 * 1000,
    MESSAGE_SIZE_MAX_LIMIT = 1 << 30,
    PROBE_TIMEOUT_MS = 1000, /* for whoever may be alive at the path to answer */
    SOCKET_PATH_SIZE = sizeof(((struct sockaddr_un *)NULL)->sun_path), /* with the NUL */
    SP_REQUEST_ID_SIZE = 4,
};

enum slot_state {
    SLOT_IDLE,
    SLOT_RECEIVING,
    SLOT_SERVED,
    SLOT_SENDING,
    SLOT_STOPPED,
};

struct slot {
    struct exchange exchange;
    struct listener *listener;
    nng_ctx context;
    nng_aio *aio;
    nng_pipe pipe;       /* the connection of the request */
    nng_msg *request;    /* owned while SERVED */
    nng_msg *reply;      /* owned while SERVED; nng's while SENDING */
    uint32_t reply_size; /* bytes of the reply buffer */
    bool given;          /* counted in given_count */
    _Atomic enum slot_state state;
};

struct listener {
    nng_socket socket;
    bool socket_open;
    listener_handler *handler;
    void *handler_context;
    uint32_t message_size_max;
    uint32_t connection_count_max;
    nng_duration send_timeout_ms;

    struct slot *slots; /* [slot_count], owned */
    uint32_t slot_count;
    uint32_t slots_open; /* of them, with a context and an aio */

    /* Both sequentially consistent: a thread counts a request in and then asks whether requests are
     * still taken; stopping says no and then looks at the count. One of the two sees the other. */
    _Atomic bool accepting;
    _Atomic uint64_t given_count; /* requests of the handler whose replies have not left */
    struct doorbell returned;     /* rung when given_count falls while not accepting */

    _Atomic uint64_t connections;
    _Atomic uint64_t connections_total;
    _Atomic uint64_t connections_refused;
    _Atomic uint64_t requests_total;
    _Atomic uint64_t bad_messages_total;
    _Atomic uint64_t send_timeouts_total;
    _Atomic uint64_t drops_total;
};

/* Counters are only ever looked at: no order is needed. */
static void count(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static struct slot *slot_of(struct exchange *exchange)
{
    struct slot *slot = container_of(exchange, struct slot, exchange);
    assert(slot->listener != NULL);
    assert(atomic_load(&slot->state) == SLOT_SERVED); /* Answered twice? */
    assert(slot->request != NULL);
    return slot;
}

/* ---- Slots -------------------------------------------------------------------------------------
 */

/* The slot leaves the calling thread. */
static void slot_receive(struct slot *slot)
{
    assert(slot->request == NULL);
    assert(slot->reply == NULL);
    atomic_store(&slot->state, SLOT_RECEIVING);
    nng_aio_set_timeout(slot->aio, NNG_DURATION_INFINITE);
    nng_ctx_recv(slot->context, slot->aio);
}

/* The request has been answered, or never will be. */
static void slot_return(struct slot *slot)
{
    if (!slot->given) {
        return;
    }
    slot->given = false;
    struct listener *listener = slot->listener;
    const uint64_t before = atomic_fetch_sub(&listener->given_count, 1);
    assert(before > 0);
    if (!atomic_load(&listener->accepting)) {
        doorbell_ring(&listener->returned);
    }
}

/* The slot leaves the calling thread. */
static void slot_send(struct slot *slot)
{
    assert(slot->request == NULL);
    assert(slot->reply != NULL);
    nng_aio_set_msg(slot->aio, slot->reply);
    slot->reply = NULL;
    atomic_store(&slot->state, SLOT_SENDING);
    nng_aio_set_timeout(slot->aio, slot->listener->send_timeout_ms);
    nng_ctx_send(slot->context, slot->aio);
}

static void slot_serve(struct slot *slot)
{
    struct listener *listener = slot->listener;
    struct exchange *exchange = &slot->exchange;
    enum result result;
    if (!protocol_request_check(exchange->request, exchange->request_size,
                                listener->message_size_max, &exchange->header, &result)) {
        count(&listener->bad_messages_total);
        exchange_reply_result(exchange, result, NULL);
        return;
    }
    slot->given = true;
    atomic_fetch_add(&listener->given_count, 1);
    if (!atomic_load(&listener->accepting)) {
        slot_return(slot);
        exchange_reply_result(exchange, RESULT_SHUTTING_DOWN, NULL);
        return;
    }
    count(&listener->requests_total);
    listener->handler(listener->handler_context, exchange);
}

static void slot_received(struct slot *slot)
{
    const int error = nng_aio_result(slot->aio);
    if (error == NNG_ECLOSED || error == NNG_ECANCELED) {
        atomic_store(&slot->state, SLOT_STOPPED);
        return;
    }
    if (error != 0) {
        slot_receive(slot);
        return;
    }
    nng_msg *request = nng_aio_get_msg(slot->aio);
    nng_aio_set_msg(slot->aio, NULL);
    assert(request != NULL);

    /* Fails when the peer is gone already: nobody to serve, and no uid to serve for. */
    uint64_t peer_uid;
    const nng_pipe pipe = nng_msg_get_pipe(request);
    if (nng_pipe_get_uint64(pipe, NNG_OPT_IPC_PEER_UID, &peer_uid) != 0) {
        nng_msg_free(request);
        slot_receive(slot);
        return;
    }
    slot->request = request;
    slot->pipe = pipe;
    slot->exchange = (struct exchange){
        .request = nng_msg_body(request),
        .request_size = (uint32_t)nng_msg_len(request), /* <= message_size_max, by RECVMAXSZ */
        .peer_uid = (uint32_t)peer_uid,
        .peer_id = (uint32_t)nng_pipe_id(pipe),
        .received_ns = clock_monotonic_ns(&clock_system),
    };
    assert(slot->exchange.request_size <= slot->listener->message_size_max);
    atomic_store(&slot->state, SLOT_SERVED);
    slot_serve(slot);
}

static void slot_sent(struct slot *slot)
{
    const int error = nng_aio_result(slot->aio);
    if (error != 0) {
        /* nng keeps the message of a send that succeeded and leaves us that of one that failed. */
        nng_msg *reply = nng_aio_get_msg(slot->aio);
        assert(reply != NULL);
        nng_aio_set_msg(slot->aio, NULL);
        nng_msg_free(reply);
    }
    if (error == NNG_ETIMEDOUT) {
        count(&slot->listener->send_timeouts_total);
        nng_pipe_close(slot->pipe);
    }
    slot_return(slot);
    if (error == NNG_ECLOSED || error == NNG_ECANCELED) {
        atomic_store(&slot->state, SLOT_STOPPED);
        return;
    }
    slot_receive(slot);
}

/* nng's callback, on one of its threads: what the slot was waiting for has ended. */
static void slot_event(void *context)
{
    struct slot *slot = context;
    switch (atomic_load(&slot->state)) {
    case SLOT_RECEIVING:
        slot_received(slot);
        break;
    case SLOT_SENDING:
        slot_sent(slot);
        break;
    case SLOT_IDLE:
    case SLOT_SERVED:
    case SLOT_STOPPED:
        assert(false && "nothing was begun in this state");
    }
}

/* ---- Replies -----------------------------------------------------------------------------------
 */

uint8_t *exchange_reply_buffer(struct exchange *exchange, uint32_t size)
{
    struct slot *slot = slot_of(exchange);
    assert(slot->reply == NULL);
    assert(size >= PROTOCOL_HEADER_SIZE);
    assert(size <= slot->listener->message_size_max);

    if (nng_msg_alloc(&slot->reply, size) != 0) {
        slot->reply = NULL;
        return NULL;
    }
    slot->reply_size = size;
    return nng_msg_body(slot->reply);
}

void exchange_send(struct exchange *exchange, uint32_t size)
{
    struct slot *slot = slot_of(exchange);
    assert(slot->reply != NULL);
    assert(size >= PROTOCOL_HEADER_SIZE);
    assert(size <= slot->reply_size);

    const int error = nng_msg_chop(slot->reply, slot->reply_size - size);
    assert(error == 0);
    nng_msg_free(slot->request);
    slot->request = NULL;
    slot_send(slot);
}

void exchange_reply(struct exchange *exchange, const void *header, uint32_t header_size,
                    const void *body, uint32_t body_size)
{
    assert(header_size == PROTOCOL_HEADER_SIZE);
    assert(body != NULL || body_size == 0);

    const uint32_t size = header_size + body_size;
    uint8_t *reply = exchange_reply_buffer(exchange, size);
    if (reply == NULL) {
        exchange_drop(exchange);
        return;
    }
    memcpy(reply, header, header_size);
    if (body_size > 0) {
        memcpy(reply + header_size, body, body_size);
    }
    exchange_send(exchange, size);
}

void exchange_reply_result(struct exchange *exchange, enum result result, const char *text)
{
    const char *body = text != NULL ? text : result_text(result);
    const uint32_t body_size =
        result == RESULT_OK ? 0 : (uint32_t)strnlen(body, WIRE_ERROR_TEXT_SIZE_MAX);
    const struct reply_header header = protocol_reply_header(&exchange->header, result, body_size);
    exchange_reply(exchange, &header, sizeof header, body, body_size);
}

/* The slot goes back through the callback of a send, like all others, so that whoever waits for the
 * last one in listener_drain knows that no thread of the server is still in here. The connection is
 * gone by then, and nng discards what is sent to it: the request's own message, emptied, which
 * costs no memory. */
void exchange_drop(struct exchange *exchange)
{
    struct slot *slot = slot_of(exchange);
    count(&slot->listener->drops_total);
    if (slot->reply != NULL) {
        nng_msg_free(slot->reply);
        slot->reply = NULL;
    }
    nng_pipe_close(slot->pipe);
    nng_msg_clear(slot->request);
    slot->reply = slot->request;
    slot->request = NULL;
    slot_send(slot);
}

/* ---- Start -------------------------------------------------------------------------------------
 */

/* nng calls these with its locks held: count, and no more. Every pipe of ADD_PRE comes to REM_POST,
 * those closed in ADD_PRE too. */
static void pipe_added(nng_pipe pipe, nng_pipe_ev event, void *context)
{
    assert(event == NNG_PIPE_EV_ADD_PRE);
    (void)event;
    struct listener *listener = context;
    count(&listener->connections_total);
    const uint64_t others = atomic_fetch_add(&listener->connections, 1);
    if (others >= listener->connection_count_max) {
        count(&listener->connections_refused);
        nng_pipe_close(pipe);
    }
}

static void pipe_removed(nng_pipe pipe, nng_pipe_ev event, void *context)
{
    assert(event == NNG_PIPE_EV_REM_POST);
    (void)pipe;
    (void)event;
    struct listener *listener = context;
    const uint64_t before = atomic_fetch_sub(&listener->connections, 1);
    assert(before > 0);
}

/* Whether the directory that `path` names a file in is there and ours to write. */
static enum status directory_check(const char *path, const char **reason)
{
    char directory[SOCKET_PATH_SIZE];
    const char *slash = strrchr(path, '/');
    const size_t size = slash == NULL ? 1 : slash == path ? 1 : (size_t)(slash - path);
    memcpy(directory, slash == NULL ? "." : path, size);
    directory[size] = 0;

    struct stat stat_buffer;
    if (stat(directory, &stat_buffer) != 0 || !S_ISDIR(stat_buffer.st_mode)) {
        *reason = "the directory of the socket path does not exist: make it, or choose another";
        return STATUS_NOT_FOUND;
    }
    if (access(directory, W_OK | X_OK) != 0) {
        *reason = "this user may not make a socket in the directory of the socket path";
        return STATUS_DENIED;
    }
    return STATUS_OK;
}

/* Asks, as a client would, whether anybody serves at `path`. A bare connect would tell as much, and
 * would stop the other daemon's accept loop if it were one without our repairs. */
static bool somebody_answers(const char *path)
{
    struct client *client;
    const enum client_status opened =
        client_open(&(struct client_options){.socket_path = path,
                                             .connect_timeout_ms = PROBE_TIMEOUT_MS,
                                             .message_size_max =
                                                 PROTOCOL_HEADER_SIZE + WIRE_ERROR_TEXT_SIZE_MAX},
                    &client);
    if (opened != CLIENT_OK) {
        return opened != CLIENT_NOBODY && opened != CLIENT_NO_SOCKET;
    }
    struct client_reply reply;
    const enum client_status asked =
        client_call(client, OPERATION_PING, NULL, 0, PROBE_TIMEOUT_MS, &reply);
    (void)asked; /* Whatever it says, or does not: it took our connection. */
    client_close(client);
    return true;
}

/* Makes sure that nothing, or only a dead socket of ours that is then removed, is at `path`. */
static enum status path_prepare(const char *path, const char **reason)
{
    const size_t size = strlen(path);
    if (size == 0 || size >= SOCKET_PATH_SIZE) {
        *reason = "a socket path has 1 to 107 bytes: choose a shorter one";
        return STATUS_INVALID;
    }
    const enum status status = directory_check(path, reason);
    if (status != STATUS_OK) {
        return status;
    }
    struct stat found;
    if (lstat(path, &found) != 0) {
        if (errno == ENOENT) {
            return STATUS_OK;
        }
        *reason = "the socket path cannot be examined";
        return STATUS_IO;
    }
    if (!S_ISSOCK(found.st_mode)) {
        *reason =
            "something that is not a socket is at the socket path, and is left alone: move it "
            "away, or choose another path";
        return STATUS_EXISTS;
    }
    if (found.st_uid != geteuid()) {
        *reason = "a socket of another user is at the socket path, and is left alone";
        return STATUS_EXISTS;
    }
    if (somebody_answers(path)) {
        *reason = "another process serves on the socket path: stop it, or choose another path";
        return STATUS_LOCKED;
    }
    if (unlink(path) != 0 && errno != ENOENT) {
        *reason = "the socket that a dead daemon left cannot be removed";
        return STATUS_DENIED;
    }
    return STATUS_OK;
}

static enum status status_of_nng(int error, const char **reason)
{
    switch (error) {
    case NNG_ENOMEM:
        *reason = "not enough memory or file descriptors for the socket";
        return STATUS_NO_MEMORY;
    case NNG_EADDRINUSE:
        *reason = "another process took the socket path just now";
        return STATUS_LOCKED;
    case NNG_EPERM:
        *reason = "the operating system does not permit a socket at the socket path";
        return STATUS_DENIED;
    default:
        *reason = nng_strerror(error);
        return STATUS_IO;
    }
}

static int slots_open(struct listener *listener)
{
    for (uint32_t i = 0; i < listener->slot_count; i++) {
        struct slot *slot = &listener->slots[i];
        slot->listener = listener;
        atomic_init(&slot->state, SLOT_IDLE);
        int error = nng_ctx_open(&slot->context, listener->socket);
        if (error != 0) {
            return error;
        }
        error = nng_aio_alloc(&slot->aio, slot_event, slot);
        if (error != 0) {
            nng_ctx_close(slot->context);
            return error;
        }
        listener->slots_open += 1;
    }
    return 0;
}

/* 0 or nng's error. */
static int socket_open(struct listener *listener, const char *path, uint32_t mode)
{
    nng_repairs_pretend_one_processor(true);
    int error = nng_rep0_open(&listener->socket);
    nng_repairs_pretend_one_processor(false);
    if (error != 0) {
        return error;
    }
    listener->socket_open = true;

    error = nng_pipe_notify(listener->socket, NNG_PIPE_EV_ADD_PRE, pipe_added, listener);
    if (error != 0) {
        return error;
    }
    error = nng_pipe_notify(listener->socket, NNG_PIPE_EV_REM_POST, pipe_removed, listener);
    if (error != 0) {
        return error;
    }
    error = slots_open(listener);
    if (error != 0) {
        return error;
    }
    char url[SOCKET_PATH_SIZE + 8];
    const int url_size = snprintf(url, sizeof url, "ipc://%s", path);
    assert(url_size > 0 && (size_t)url_size < sizeof url);
    nng_listener accept;
    error = nng_listener_create(&accept, listener->socket, url);
    if (error != 0) {
        return error;
    }
    error = nng_listener_set_size(accept, NNG_OPT_RECVMAXSZ,
                                  listener->message_size_max + SP_REQUEST_ID_SIZE);
    if (error != 0) {
        return error;
    }
    error = nng_listener_set_int(accept, NNG_OPT_IPC_PERMISSIONS, (int)mode);
    if (error != 0) {
        return error;
    }
    for (uint32_t i = 0; i < listener->slot_count; i++) {
        slot_receive(&listener->slots[i]);
    }
    return nng_listener_start(accept, 0);
}

/* Ends every operation, then what they stand on. */
static void listener_close(struct listener *listener)
{
    for (uint32_t i = 0; i < listener->slots_open; i++) {
        nng_aio_stop(listener->slots[i].aio);
    }
    for (uint32_t i = 0; i < listener->slots_open; i++) {
        struct slot *slot = &listener->slots[i];
        const enum slot_state state = atomic_load(&slot->state);
        assert(state == SLOT_STOPPED || state == SLOT_IDLE); /* Does the server still hold it? */
        assert(slot->request == NULL);
        assert(slot->reply == NULL);
        nng_ctx_close(slot->context);
    }
    if (listener->socket_open) {
        nng_close(listener->socket);
    }
    for (uint32_t i = 0; i < listener->slots_open; i++) {
        nng_aio_free(listener->slots[i].aio);
    }
    assert(atomic_load(&listener->given_count) == 0);
    doorbell_deinit(&listener->returned);
    memory_release(listener->slots, listener->slot_count * sizeof *listener->slots);
    memory_release(listener, sizeof *listener);
}

enum status listener_start(const struct listener_options *options, listener_handler *handler,
                           void *context, struct listener **listener, const char **reason)
{
    assert(options->socket_path != NULL);
    assert(handler != NULL);
    *listener = NULL;
    *reason = "";

    const uint32_t slot_count =
        options->exchange_count != 0 ? options->exchange_count : EXCHANGE_COUNT_DEFAULT;
    const uint32_t send_timeout_ms =
        options->send_timeout_ms != 0 ? options->send_timeout_ms : SEND_TIMEOUT_MS_DEFAULT;
    const uint32_t mode = options->socket_mode != 0 ? options->socket_mode : SOCKET_MODE_DEFAULT;
    if (options->message_size_max < PROTOCOL_HEADER_SIZE + WIRE_ERROR_TEXT_SIZE_MAX ||
        options->message_size_max > MESSAGE_SIZE_MAX_LIMIT || slot_count > EXCHANGE_COUNT_MAX ||
        send_timeout_ms > SEND_TIMEOUT_MS_MAX || mode > 0777) {
        *reason = "a size, count, timeout or mode of the listener is out of range";
        return STATUS_INVALID;
    }
    const enum status status = path_prepare(options->socket_path, reason);
    if (status != STATUS_OK) {
        return status;
    }
    struct listener *started = memory_acquire(sizeof *started);
    if (started == NULL) {
        *reason = "not enough memory for the listener";
        return STATUS_NO_MEMORY;
    }
    started->slots = memory_acquire(slot_count * sizeof *started->slots);
    if (started->slots == NULL) {
        memory_release(started, sizeof *started);
        *reason = "not enough memory for the exchanges of the listener";
        return STATUS_NO_MEMORY;
    }
    started->slot_count = slot_count;
    started->handler = handler;
    started->handler_context = context;
    started->message_size_max = options->message_size_max;
    started->connection_count_max = options->connection_count_max != 0
                                        ? options->connection_count_max
                                        : CONNECTION_COUNT_MAX_DEFAULT;
    started->send_timeout_ms = (nng_duration)send_timeout_ms;
    doorbell_init(&started->returned);
    atomic_init(&started->accepting, true);

    const int error = socket_open(started, options->socket_path, mode);
    if (error != 0) {
        listener_close(started);
        return status_of_nng(error, reason);
    }
    *listener = started;
    return STATUS_OK;
}

/* ---- Stop --------------------------------------------------------------------------------------
 */

void listener_stop_accepting(struct listener *listener)
{
    atomic_store(&listener->accepting, false);
}

bool listener_drain(struct listener *listener, uint32_t timeout_ms)
{
    assert(!atomic_load(&listener->accepting));
    const uint64_t deadline_ns = clock_monotonic_ns(&clock_system) + timeout_ms * UINT64_C(1000000);
    for (;;) {
        const uint64_t seen = doorbell_count(&listener->returned);
        if (atomic_load(&listener->given_count) == 0) {
            return true;
        }
        const uint64_t now_ns = clock_monotonic_ns(&clock_system);
        if (now_ns >= deadline_ns) {
            return false;
        }
        doorbell_wait(&listener->returned, seen, deadline_ns - now_ns);
    }
}

void listener_stop(struct listener *listener)
{
    listener_stop_accepting(listener);
    listener_close(listener);
}

void listener_stats_read(struct listener *listener, struct listener_stats *stats)
{
    *stats = (struct listener_stats){
        .connections = atomic_load(&listener->connections),
        .connections_total = atomic_load(&listener->connections_total),
        .connections_refused = atomic_load(&listener->connections_refused),
        .requests_total = atomic_load(&listener->requests_total),
        .bad_messages_total = atomic_load(&listener->bad_messages_total),
        .send_timeouts_total = atomic_load(&listener->send_timeouts_total),
        .drops_total = atomic_load(&listener->drops_total),
        .exchanges_busy = atomic_load(&listener->given_count),
    };
}
