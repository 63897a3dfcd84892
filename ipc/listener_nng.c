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
 * nng gives a request to whichever context is free, and asks nobody. So there are a third more
 * slots than requests were asked for, and what a connection or a user may not have by the rules of
 * peers.h is answered BUSY at once: a free context is always there for others, and nng is never the
 * queue. Connections are refused in the same way, in ADD_PRE, where the peer's uid is known
 * already.
 *
 * Rules that nng 1.5.2 imposes, beside those repaired in nng_repairs.c:
 * - A context receives again only after its send has ended (nng issue 1702).
 * - Every operation is stopped before contexts and the socket are closed; a callback that re-arms
 *   while the socket closes uses freed memory.
 * - NNG_OPT_RECVMAXSZ is without limit unless set, counts the 4 bytes of the request id, and must
 *   be set before the listener starts. A bigger message costs its sender the connection.
 * - nng unlinks whatever it finds at the socket's path, so the path is looked at first
 *   (socket_path.c).
 * - A reply that the kernel does not take at once waits in its connection, not in its context; the
 *   next reply for that connection waits in its context, and that is what send_timeout_ms ends. So
 *   a peer that reads nothing holds one reply of memory, and holds up others send_timeout_ms at
 *   most. */
#include "ipc/listener_internal.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/transport/ipc/ipc.h>

#include "ipc/nng_repairs.h"
#include "ipc/peers.h"
#include "ipc/socket_path.h"
#include "ipc/sp.h"
#include "pool/base.h"
#include "pool/clock.h"
#include "pool/memory.h"
#include "pool/mutex.h"

enum slot_state {
    SLOT_IDLE,
    SLOT_RECEIVING,
    SLOT_SERVED,
    SLOT_SENDING,
    SLOT_STOPPED,
};

struct slot {
    struct exchange exchange;
    nng_ctx context;
    nng_aio *aio;
    nng_pipe pipe;       /* the connection of the request */
    nng_msg *request;    /* owned while SERVED */
    nng_msg *reply;      /* owned while SERVED; nng's while SENDING */
    uint32_t reply_size; /* bytes of the reply buffer */
    bool given;          /* counted in given_count */
    _Atomic enum slot_state state;
    struct peer_user *holder; /* counted in its `held`; NULL: in nobody's. From here on: guarded by
                                 listener_nng.mutex */
    int held_pipe;            /* its id */
};

/* A connection that was let in. */
struct pipe {
    int id; /* > 0 */
    struct peer_user *user;
};

struct listener_nng {
    struct listener base;
    nng_socket socket;
    bool socket_open;

    struct slot *slots; /* [slot_count], owned */
    uint32_t slot_count;
    uint32_t slots_open; /* of them, with a context and an aio */

    struct mutex mutex; /* LOCK_RANK_LISTENER; nng is never called under it. Guards from here on. */
    struct peers peers;
    struct pipe *pipes; /* [peers.connection_total] of which pipe_count are used, owned */
    uint32_t pipe_count;
    uint32_t held_count; /* slots with a holder */
};

static struct listener_nng *listener_nng_of(struct listener *listener)
{
    return container_of(listener, struct listener_nng, base);
}

static struct slot *slot_of(struct exchange *exchange)
{
    struct slot *slot = container_of(exchange, struct slot, exchange);
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

/* Whether the connection may have this request in hand beside those it has. */
static bool slot_hold(struct slot *slot, uint32_t uid)
{
    struct listener_nng *listener = listener_nng_of(slot->exchange.listener);
    const int pipe = nng_pipe_id(slot->pipe);
    assert(slot->holder == NULL);
    mutex_lock(&listener->mutex);
    struct peer_user *user = peers_find(&listener->peers, uid);
    uint32_t held = 0;
    for (uint32_t i = 0; i < listener->slot_count; i++) {
        held += listener->slots[i].holder != NULL && listener->slots[i].held_pipe == pipe;
    }
    /* One of them may have been answered, and not be back from its sending: who asks one thing at a
     * time must not be told that he asks too much. No user: he has just hung up, and nobody will
     * read the answer. */
    const uint32_t in_hand = held > 0 ? held - 1 : 0;
    const bool may = user != NULL && peers_may_hold(&listener->peers, user, in_hand,
                                                    listener->slot_count - listener->held_count);
    if (may) {
        slot->holder = user;
        slot->held_pipe = pipe;
        user->held += 1;
        listener->held_count += 1;
    }
    mutex_unlock(&listener->mutex);
    return may;
}

static void slot_let_go(struct slot *slot)
{
    struct listener_nng *listener = listener_nng_of(slot->exchange.listener);
    mutex_lock(&listener->mutex);
    if (slot->holder != NULL) {
        assert(slot->holder->held > 0);
        assert(listener->held_count > 0);
        slot->holder->held -= 1;
        slot->holder = NULL;
        listener->held_count -= 1;
    }
    mutex_unlock(&listener->mutex);
}

/* The request has been answered, or never will be. */
static void slot_return(struct slot *slot)
{
    slot_let_go(slot);
    if (slot->given) {
        slot->given = false;
        listener_give_back(slot->exchange.listener);
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
    nng_aio_set_timeout(slot->aio, (nng_duration)slot->exchange.listener->options.send_timeout_ms);
    nng_ctx_send(slot->context, slot->aio);
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
    struct listener *listener = slot->exchange.listener;
    slot->request = request;
    slot->pipe = pipe;
    slot->exchange = (struct exchange){
        .request = nng_msg_body(request),
        .request_size = (uint32_t)nng_msg_len(request), /* <= message_size_max, by RECVMAXSZ */
        .peer_uid = (uint32_t)peer_uid,
        .peer_id = (uint32_t)nng_pipe_id(pipe),
        .received_ns = clock_monotonic_ns(&clock_system),
        .listener = listener,
    };
    assert(slot->exchange.request_size <= listener->options.message_size_max);
    atomic_store(&slot->state, SLOT_SERVED);
    listener_serve(&slot->exchange, slot_hold(slot, (uint32_t)peer_uid), &slot->given);
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
        listener_count(&slot->exchange.listener->send_timeouts_total);
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

static uint8_t *reply_buffer(struct exchange *exchange, uint32_t size)
{
    struct slot *slot = slot_of(exchange);
    assert(slot->reply == NULL);

    if (nng_msg_alloc(&slot->reply, size) != 0) {
        slot->reply = NULL;
        return NULL;
    }
    slot->reply_size = size;
    return nng_msg_body(slot->reply);
}

static void reply_send(struct exchange *exchange, uint32_t size)
{
    struct slot *slot = slot_of(exchange);
    assert(slot->reply != NULL);
    assert(size <= slot->reply_size);

    const int error = nng_msg_chop(slot->reply, slot->reply_size - size);
    assert(error == 0);
    nng_msg_free(slot->request);
    slot->request = NULL;
    slot_send(slot);
}

/* The slot goes back through the callback of a send, like all others, so that whoever waits for the
 * last one in listener_drain knows that no thread of the server is still in here. The connection is
 * gone by then, and nng discards what is sent to it: the request's own message, emptied, which
 * costs no memory. */
static void request_drop(struct exchange *exchange)
{
    struct slot *slot = slot_of(exchange);
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
    struct listener_nng *listener = context;
    listener_count(&listener->base.connections_total);
    uint64_t uid;
    if (nng_pipe_get_uint64(pipe, NNG_OPT_IPC_PEER_UID, &uid) != 0) {
        nng_pipe_close(pipe); /* Gone already: nobody to serve for. */
        return;
    }
    mutex_lock(&listener->mutex);
    struct peer_user *user = peers_connect(&listener->peers, (uint32_t)uid);
    if (user != NULL) {
        assert(listener->pipe_count < listener->peers.connection_total);
        listener->pipes[listener->pipe_count] =
            (struct pipe){.id = nng_pipe_id(pipe), .user = user};
        listener->pipe_count += 1;
    }
    mutex_unlock(&listener->mutex);
    if (user == NULL) {
        listener_count(&listener->base.connections_refused);
        nng_pipe_close(pipe);
        return;
    }
    atomic_fetch_add(&listener->base.connections, 1);
}

static void pipe_removed(nng_pipe pipe, nng_pipe_ev event, void *context)
{
    assert(event == NNG_PIPE_EV_REM_POST);
    (void)event;
    struct listener_nng *listener = context;
    const int id = nng_pipe_id(pipe);
    uint32_t i = 0;
    mutex_lock(&listener->mutex);
    while (i < listener->pipe_count && listener->pipes[i].id != id) {
        i += 1;
    }
    const bool was_in = i < listener->pipe_count;
    if (was_in) {
        peers_disconnect(&listener->peers, listener->pipes[i].user);
        listener->pipe_count -= 1;
        listener->pipes[i] = listener->pipes[listener->pipe_count];
    }
    mutex_unlock(&listener->mutex);
    if (was_in) {
        const uint64_t before = atomic_fetch_sub(&listener->base.connections, 1);
        assert(before > 0);
    }
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

static int slots_open(struct listener_nng *listener)
{
    for (uint32_t i = 0; i < listener->slot_count; i++) {
        struct slot *slot = &listener->slots[i];
        slot->exchange.listener = &listener->base;
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
static int socket_open(struct listener_nng *listener)
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
    const struct listener_options *options = &listener->base.options;
    char url[SOCKET_PATH_SIZE + 8];
    const int url_size = snprintf(url, sizeof url, "ipc://%s", options->socket_path);
    assert(url_size > 0 && (size_t)url_size < sizeof url);
    nng_listener accept;
    error = nng_listener_create(&accept, listener->socket, url);
    if (error != 0) {
        return error;
    }
    error = nng_listener_set_size(accept, NNG_OPT_RECVMAXSZ,
                                  options->message_size_max + SP_REQUEST_ID_SIZE);
    if (error != 0) {
        return error;
    }
    error = nng_listener_set_int(accept, NNG_OPT_IPC_PERMISSIONS, (int)options->socket_mode);
    if (error != 0) {
        return error;
    }
    for (uint32_t i = 0; i < listener->slot_count; i++) {
        slot_receive(&listener->slots[i]);
    }
    return nng_listener_start(accept, 0);
}

static void listener_release(struct listener_nng *listener)
{
    memory_release(listener->pipes, listener->peers.connection_total * sizeof *listener->pipes);
    memory_release(listener->slots, listener->slot_count * sizeof *listener->slots);
    peers_deinit(&listener->peers);
    memory_release(listener, sizeof *listener);
}

/* Ends every operation, then what they stand on. */
static void listener_close(struct listener_nng *listener)
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
    listener_deinit(&listener->base);
    mutex_deinit(&listener->mutex);
    listener_release(listener);
}

static void nng_stop(struct listener *listener)
{
    listener_close(listener_nng_of(listener));
}

/* nng's threads serve. */
static void nng_wait(struct listener *listener, uint64_t seen, uint64_t timeout_ns)
{
    if (timeout_ns > 0) {
        doorbell_wait(listener->options.doorbell, seen, timeout_ns);
    }
}

static const struct listener_ops nng_ops = {
    .stop = nng_stop,
    .wait = nng_wait,
    .reply_buffer = reply_buffer,
    .send = reply_send,
    .drop = request_drop,
};

enum status listener_nng_start(const struct listener_options *options, listener_handler *handler,
                               void *context, struct listener **listener, const char **reason)
{
    struct listener_nng *started = memory_acquire(sizeof *started);
    if (started == NULL) {
        *reason = "not enough memory for the listener";
        return STATUS_NO_MEMORY;
    }
    started->slot_count = peers_total_for(options->exchange_count);
    started->slots = memory_acquire(started->slot_count * sizeof *started->slots);
    started->pipes =
        memory_acquire(peers_total_for(options->connection_count_max) * sizeof *started->pipes);
    if (peers_init(&started->peers, options->connection_count_max, started->slot_count) !=
            STATUS_OK ||
        started->slots == NULL || started->pipes == NULL) {
        listener_release(started);
        *reason = "not enough memory for the exchanges of the listener";
        return STATUS_NO_MEMORY;
    }
    started->mutex = (struct mutex)MUTEX_INITIALIZER(LOCK_RANK_LISTENER);
    listener_init(&started->base, &nng_ops, options, handler, context);

    const int error = socket_open(started);
    if (error != 0) {
        listener_close(started);
        return status_of_nng(error, reason);
    }
    *listener = &started->base;
    return STATUS_OK;
}
