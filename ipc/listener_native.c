/* The listener of our own: the same bytes as nng's (sp.h), over epoll, by one thread: the server's,
 * whenever that calls listener_wait, or one of its own.
 *
 *   socket ──► input ──► slot ──► handler ──► the server ──► exchange_send ──► socket
 *              (of a     (request and                        │  by the thread that answers, if
 *           connection)   reply buffers)                     │  little is due on that connection;
 *                                                            └► else its queue, sent by the loop
 *
 *   FREE ──► RECEIVING ──► SERVED ──► SENDING ──► FREE          a slot
 *     (only long messages)   │  exchange_drop       ▲
 *                            └──────────────────────┘
 *
 * That thread, the loop, owns the epoll instance, the accepting and the receiving side of every
 * connection; it alone opens and closes descriptors. What others touch is under two locks:
 *
 * - connection.mutex guards the descriptor's sending side: whether it is open, and the queue of
 *   replies that the kernel has not taken. So a reply is never written to a descriptor that has
 *   become another's, and replies leave whole, one behind the other.
 * - listener.mutex guards the accounts: free slots, how many each connection holds, what the loop
 *   is to look at. The second is taken inside the first, never the other way round.
 *
 * A short message is received into its connection's input buffer, many of them with one call, and
 * copied to a slot when it is whole. A message too long for that buffer gets a slot when its header
 * is there, and is received in place; no more than half of the slots are lent in that way, each for
 * receive_timeout_ms at most, so that those who begin and do not finish delay long messages only.
 *
 * Fairness. A connection that has something to do stands in the ready list; its turn is one recv
 * and a few requests, then it goes to the end. One that lacks a slot stands in the waiting list and
 * is served first, oldest first, when slots come back. What part of the slots a connection may
 * have, and what part is kept for users who have none, is decided by peers.h; who may not take one
 * waits in its socket.
 *
 * Whoever answers sends, because waking the loop first costs a synchronous client more than all
 * else here. On a connection with many requests under way replies are left to the loop, which
 * gathers what has come meanwhile for one sendmsg.
 *
 * Edge-triggered, because then an event costs no epoll_ctl, neither for a connection that must wait
 * nor for one that has more to give than its turn: `readable` remembers what epoll said.
 * Writability is asked for only while replies are queued; it would otherwise be told after each
 * reply that a client reads.
 *
 * Memory is taken at start: slots with buffers for the largest messages, of which the pages are the
 * kernel's to give as they are used. The slot used last is lent first, so few of them ever are. */
#include "ipc/listener_internal.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "ipc/peers.h"
#include "ipc/socket_path.h"
#include "ipc/sp.h"
#include "pool/base.h"
#include "pool/clock.h"
#include "pool/memory.h"
#include "pool/mutex.h"

enum {
    INPUT_SIZE = 16 * 1024,  /* bytes; some tens of small requests with one recv */
    TURN_REQUEST_COUNT = 16, /* requests that a connection may give in one turn */
    TURN_ACCEPT_COUNT = 16,  /* connections accepted in one turn of the loop */
    EVENT_COUNT = 64,        /* events taken from epoll at once */
    GATHER_SLOT_COUNT = 64,  /* replies of one sendmsg */
    DIRECT_HELD_MAX = 4,     /* a connection that holds more has its replies gathered */
    CHECK_MS_MAX = 100,      /* timeouts are looked at so often, or four times in the shortest */
    SEND_FLAGS = MSG_NOSIGNAL | MSG_DONTWAIT,
};

enum slot_state {
    SLOT_FREE,
    SLOT_RECEIVING,
    SLOT_SERVED,
    SLOT_SENDING,
};

/* Whoever has a slot may touch it: the loop while RECEIVING, the server while SERVED, the holder of
 * its connection's mutex while it is queued for SENDING. */
struct slot {
    struct exchange exchange;
    _Atomic enum slot_state state;
    struct connection *connection;
    bool given; /* counted in given_count */

    uint8_t *request;    /* [message_size_max + SP_REQUEST_ID_SIZE]: words and message */
    uint8_t *reply;      /* [message_size_max] */
    uint32_t reply_room; /* bytes asked for; 0: none yet */
    uint32_t envelope_size;
    uint32_t reply_size; /* bytes */
    uint32_t sent_size;  /* of envelope and reply, so far */
    uint64_t queued_ns;  /* when it was to be sent */
    struct slot *next;   /* free, queued, or on its way back */

    uint8_t envelope[SP_FRAME_HEADER_SIZE + SP_WORD_COUNT_MAX * SP_REQUEST_ID_SIZE];
};

enum membership { IN_NO_LIST, IN_READY, IN_WAITING };

struct connection {
    struct mutex mutex; /* LOCK_RANK_CONNECTION; guards these, of which the loop may read `open` */
    bool open;
    bool broken;                              /* to be closed by the loop */
    int fd;                                   /* written by the loop */
    struct slot *queue_oldest, *queue_newest; /* replies not yet taken by the kernel */

    /* The loop's. */
    bool greeted;
    bool readable; /* there may be bytes in the socket */
    bool hung_up;  /* the peer will send no more: read up to the end */
    bool watched;  /* epoll is asked for writability */
    enum membership membership;
    struct connection *next; /* in that list, or of the unused */
    uint8_t *input;          /* [INPUT_SIZE]; received and not yet given: [start, end) */
    uint32_t start, end;
    struct slot *receiving; /* a long message on its way, or NULL */
    uint32_t received_size, expected_size;
    uint64_t deadline_ns;          /* of the greeting or of that message; 0: none */
    struct connection *taken_next; /* of the notices that it looks at */
    uint32_t peer_uid, peer_id;
    struct peer_user *user; /* in listener.peers, as long as this is in use */

    /* Guarded by listener.mutex; who answers may look at `held`, as a hint. */
    _Atomic uint32_t held; /* slots */
    bool gone;             /* closed; unused again when nothing is held */
    bool noticed;          /* in the list of notices */
    struct connection *notice_next;
};

struct connection_list {
    struct connection *oldest, *newest;
    uint32_t count;
};

struct listener_native {
    struct listener base;
    pthread_t thread;
    int listen_fd, epoll_fd, wake_fd; /* -1: not open */
    bool started;                     /* the socket is there and the loop may run */
    _Atomic bool stopping;
    struct socket_identity identity; /* of the socket at `path`, while listen_fd is open */
    char path[SOCKET_PATH_SIZE];

    struct slot *slots; /* [slot_count], owned */
    uint8_t *messages;  /* [messages_size], owned; the slots' buffers */
    uint64_t messages_size;
    struct connection *connections; /* [connection_slots], owned: all that may be open, and as many
                                       closed ones as there may be slots that still refer to them */
    uint8_t *inputs;                /* [connection_slots x INPUT_SIZE], owned */
    uint32_t slot_count;
    uint32_t connection_slots;

    struct mutex mutex; /* LOCK_RANK_LISTENER; guards from here ... */
    struct peers peers;
    struct slot *free;
    struct connection *notices; /* connections that the loop must look at */
    uint64_t returned_count;    /* slots that came back so far */
    uint32_t free_count;
    bool asleep;  /* the loop is, or is about to be, and nobody has woken it */
    bool wanting; /* it waits for slots, too */
    /* ... to here. */

    /* The loop's. */
    bool starving;      /* somebody waits although he holds nothing: no slot was free */
    bool waiting_stale; /* what somebody waits for may have come */
    struct connection *unused;
    struct connection_list ready, waiting;
    uint64_t returned_seen;
    uint64_t check_ns; /* between checks */
    uint64_t check_next_ns;
    uint32_t receiving_count; /* slots RECEIVING */
    uint32_t timed_count;     /* connections with a deadline, and connections watched */
    uint32_t peer_id_next;
    bool accept_ready;  /* there may be somebody to accept */
    bool accept_paused; /* for want of descriptors or memory, until the next check */
};

static const uint64_t ns_per_ms = 1000000;

static struct listener_native *native_of(struct listener *listener)
{
    return container_of(listener, struct listener_native, base);
}

static struct slot *slot_of(struct exchange *exchange)
{
    struct slot *slot = container_of(exchange, struct slot, exchange);
    assert(atomic_load(&slot->state) == SLOT_SERVED); /* Answered twice? */
    assert(slot->connection != NULL);
    return slot;
}

static uint64_t now_ns(void)
{
    return clock_monotonic_ns(&clock_system);
}

static void list_push(struct connection_list *list, struct connection *connection,
                      enum membership membership)
{
    assert(connection->membership == IN_NO_LIST);
    connection->membership = membership;
    connection->next = NULL;
    if (list->newest == NULL) {
        list->oldest = connection;
    } else {
        list->newest->next = connection;
    }
    list->newest = connection;
    list->count += 1;
}

static struct connection *list_pop(struct connection_list *list)
{
    struct connection *connection = list->oldest;
    assert(connection != NULL);
    assert(connection->membership != IN_NO_LIST);
    list->oldest = connection->next;
    if (list->oldest == NULL) {
        list->newest = NULL;
    }
    list->count -= 1;
    connection->membership = IN_NO_LIST;
    connection->next = NULL;
    return connection;
}

/* ---- Accounts: with listener.mutex --------------------------------------------------------------
 */

static void wake(struct listener_native *listener)
{
    const uint64_t one = 1;
    const ssize_t written = write(listener->wake_fd, &one, sizeof one);
    assert(written == sizeof one); /* The counter is never near its end: it is read each time. */
    (void)written;
}

/* A loop that is awake looks at the accounts before it sleeps. */
static void wake_locked(struct listener_native *listener)
{
    if (!listener->asleep) {
        return;
    }
    listener->asleep = false;
    wake(listener);
}

static void notice_locked(struct listener_native *listener, struct connection *connection)
{
    if (!connection->noticed) {
        connection->noticed = true;
        connection->notice_next = listener->notices;
        listener->notices = connection;
    }
    wake_locked(listener);
}

/* Takes back slots that are linked by `next`. Nothing of them or of their connections may be
 * touched by the caller afterwards, and nothing of the listener, for whoever waits for the last
 * reply may take it apart: all that is said to others is said before the lock is given back. */
static void slots_return(struct listener_native *listener, struct slot *first)
{
    if (first == NULL) {
        return;
    }
    mutex_lock(&listener->mutex);
    while (first != NULL) {
        struct slot *slot = first;
        struct connection *connection = slot->connection;
        first = slot->next;
        assert(connection->held > 0);
        assert(listener->free_count < listener->slot_count);
        assert(connection->user->held >= connection->held);
        connection->held -= 1;
        connection->user->held -= 1;
        if (connection->gone && connection->held == 0) {
            notice_locked(listener, connection);
        }
        if (slot->given) {
            slot->given = false;
            listener_give_back(&listener->base);
        }
        slot->connection = NULL;
        atomic_store(&slot->state, SLOT_FREE);
        slot->next = listener->free;
        listener->free = slot;
        listener->free_count += 1;
        listener->returned_count += 1;
    }
    if (listener->wanting) {
        wake_locked(listener);
    }
    mutex_unlock(&listener->mutex);
}

/* The loop takes a slot for a connection, or learns that it must wait for one. */
static struct slot *slot_acquire(struct listener_native *listener, struct connection *connection,
                                 bool is_long, bool has_waited)
{
    if (is_long && listener->receiving_count >= max_u64(listener->slot_count / 2, 1)) {
        return NULL;
    }
    if (listener->starving && !has_waited) {
        return NULL; /* What has come back since belongs to those who waited for it. */
    }
    struct slot *slot = NULL;
    mutex_lock(&listener->mutex);
    if (listener->free_count == 0) {
        listener->starving = true;
    } else if (peers_may_hold(&listener->peers, connection->user, connection->held,
                              listener->free_count)) {
        slot = listener->free;
        listener->free = slot->next;
        listener->free_count -= 1;
        connection->held += 1;
        connection->user->held += 1;
    }
    mutex_unlock(&listener->mutex);
    if (slot != NULL) {
        assert(atomic_load(&slot->state) == SLOT_FREE);
        assert(!slot->given);
        atomic_store(&slot->state, SLOT_RECEIVING);
        slot->next = NULL;
        slot->connection = connection;
    }
    return slot;
}

/* ---- Sending: with connection.mutex -------------------------------------------------------------
 */

/* Hands the kernel what it takes of the queue at once. Slots whose replies have left whole are
 * moved to the front of *sent. */
static void queue_send(struct connection *connection, struct slot **sent)
{
    struct iovec iov[2 * GATHER_SLOT_COUNT];
    uint32_t iov_count = 0;
    const struct slot *slot = connection->queue_oldest;
    for (uint32_t i = 0; slot != NULL && i < GATHER_SLOT_COUNT; i++) {
        uint32_t skip = slot->sent_size;
        if (skip < slot->envelope_size) {
            iov[iov_count].iov_base = (uint8_t *)(uintptr_t)slot->envelope + skip;
            iov[iov_count].iov_len = slot->envelope_size - skip;
            iov_count += 1;
            skip = 0;
        } else {
            skip -= slot->envelope_size;
        }
        iov[iov_count].iov_base = slot->reply + skip;
        iov[iov_count].iov_len = slot->reply_size - skip;
        iov_count += 1;
        slot = slot->next;
    }
    assert(iov_count > 0);
    const struct msghdr message = {.msg_iov = iov, .msg_iovlen = iov_count};
    const ssize_t count = sendmsg(connection->fd, &message, SEND_FLAGS);
    if (count < 0) {
        connection->broken |= errno != EAGAIN && errno != EINTR && errno != ENOBUFS;
        return;
    }
    size_t left = (size_t)count;
    while (left > 0) {
        struct slot *oldest = connection->queue_oldest;
        assert(oldest != NULL); /* The kernel takes no more than it was given. */
        const uint32_t size = oldest->envelope_size + oldest->reply_size;
        const size_t part = min_u64(left, size - oldest->sent_size);
        oldest->sent_size += (uint32_t)part;
        left -= part;
        if (oldest->sent_size < size) {
            assert(left == 0);
            break;
        }
        connection->queue_oldest = oldest->next;
        if (connection->queue_oldest == NULL) {
            connection->queue_newest = NULL;
        }
        oldest->next = *sent;
        *sent = oldest;
    }
}

static uint8_t *native_reply_buffer(struct exchange *exchange, uint32_t size)
{
    struct slot *slot = slot_of(exchange);
    assert(slot->reply_room == 0);
    slot->reply_room = size;
    return slot->reply;
}

static void native_send(struct exchange *exchange, uint32_t size)
{
    struct slot *slot = slot_of(exchange);
    struct listener_native *listener = native_of(exchange->listener);
    struct connection *connection = slot->connection;
    assert(size <= slot->reply_room);
    sp_frame_header(slot->envelope, slot->envelope_size - SP_FRAME_HEADER_SIZE + (uint64_t)size);
    slot->reply_size = size;
    slot->sent_size = 0;
    slot->next = NULL;
    slot->queued_ns = now_ns();
    atomic_store(&slot->state, SLOT_SENDING);

    struct slot *sent = NULL;
    mutex_lock(&connection->mutex);
    if (!connection->open || connection->broken) {
        sent = slot; /* Nobody is there to read it. */
    } else if (connection->queue_oldest != NULL) {
        connection->queue_newest->next = slot; /* The loop knows of the queue already. */
        connection->queue_newest = slot;
    } else {
        connection->queue_oldest = slot;
        connection->queue_newest = slot;
        if (atomic_load_explicit(&connection->held, memory_order_relaxed) <= DIRECT_HELD_MAX) {
            queue_send(connection, &sent);
        }
        if (sent == NULL) {
            /* Under the connection's lock still: the loop, which may send the rest now and with
             * that end what the server waits for before it stops us, must come after us. */
            mutex_lock(&listener->mutex);
            notice_locked(listener, connection);
            mutex_unlock(&listener->mutex);
        }
    }
    mutex_unlock(&connection->mutex);
    slots_return(listener, sent);
}

static void native_drop(struct exchange *exchange)
{
    struct slot *slot = slot_of(exchange);
    struct listener_native *listener = native_of(exchange->listener);
    struct connection *connection = slot->connection;
    mutex_lock(&connection->mutex);
    if (connection->open) {
        connection->broken = true;
        mutex_lock(&listener->mutex);
        notice_locked(listener, connection);
        mutex_unlock(&listener->mutex);
    }
    mutex_unlock(&connection->mutex);
    atomic_store(&slot->state, SLOT_SENDING);
    slot->next = NULL;
    slots_return(listener, slot);
}

/* ---- Connections: the loop ----------------------------------------------------------------------
 */

static void deadline_set(struct listener_native *listener, struct connection *connection)
{
    assert(connection->deadline_ns == 0);
    connection->deadline_ns = now_ns() + listener->base.options.receive_timeout_ms * ns_per_ms;
    listener->timed_count += 1;
}

static void deadline_clear(struct listener_native *listener, struct connection *connection)
{
    if (connection->deadline_ns != 0) {
        connection->deadline_ns = 0;
        assert(listener->timed_count > 0);
        listener->timed_count -= 1;
    }
}

/* Asks epoll for writability, or no longer. It tells at once what is true already, so asking again
 * is a way to be told again. False: the kernel refuses, and nobody would hear of the socket. */
static bool watch(struct listener_native *listener, struct connection *connection, bool watched)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = connection};
    if (watched) {
        event.events |= EPOLLOUT;
    }
    if (watched && !connection->watched) {
        listener->timed_count += 1;
    } else if (!watched && connection->watched) {
        listener->timed_count -= 1;
    }
    connection->watched = watched;
    return epoll_ctl(listener->epoll_fd, EPOLL_CTL_MOD, connection->fd, &event) == 0;
}

static void ready(struct listener_native *listener, struct connection *connection)
{
    if (connection->membership == IN_NO_LIST) {
        list_push(&listener->ready, connection, IN_READY);
    }
}

/* A closed connection is unused once nothing refers to it. */
static void connection_recycle(struct listener_native *listener, struct connection *connection)
{
    assert(!connection->open);
    if (connection->membership != IN_NO_LIST) {
        return;
    }
    mutex_lock(&listener->mutex);
    const bool unused = connection->gone && connection->held == 0 && !connection->noticed;
    if (unused) {
        connection->gone = false;
    }
    mutex_unlock(&listener->mutex);
    if (unused) {
        connection->next = listener->unused;
        listener->unused = connection;
    }
}

static void connection_close(struct listener_native *listener, struct connection *connection)
{
    assert(connection->open);
    const int fd = connection->fd;
    /* Said aloud: a process forked from this one may keep the socket open. */
    (void)epoll_ctl(listener->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    (void)shutdown(fd, SHUT_RDWR);

    mutex_lock(&connection->mutex);
    connection->open = false;
    connection->fd = -1;
    struct slot *returning = connection->queue_oldest;
    connection->queue_oldest = NULL;
    connection->queue_newest = NULL;
    mutex_unlock(&connection->mutex);
    close(fd);

    if (connection->watched) {
        connection->watched = false;
        listener->timed_count -= 1;
    }
    deadline_clear(listener, connection);
    if (connection->receiving != NULL) {
        connection->receiving->next = returning;
        returning = connection->receiving;
        connection->receiving = NULL;
        listener->receiving_count -= 1;
        listener->waiting_stale = true;
    }
    if (connection->membership == IN_WAITING) {
        listener->waiting_stale = true; /* To take it out. */
    }
    mutex_lock(&listener->mutex);
    connection->gone = true;
    peers_disconnect(&listener->peers, connection->user);
    mutex_unlock(&listener->mutex);
    slots_return(listener, returning);
    atomic_fetch_sub(&listener->base.connections, 1);
    connection_recycle(listener, connection);
}

/* All the places for connections are taken: whoever comes is refused. */
static bool is_full(const struct listener_native *listener)
{
    return atomic_load(&listener->base.connections) >= listener->peers.connection_total;
}

/* Whether somebody can be accepted, or refused. Between two turns of the loop all places may be
 * taken by connections just closed. */
static bool may_accept(const struct listener_native *listener)
{
    return listener->accept_ready && !listener->accept_paused &&
           (listener->unused != NULL || is_full(listener));
}

/* Whose it is; his place among the connections, or NULL: he has his share. */
static struct peer_user *user_enter(struct listener_native *listener, uint32_t uid)
{
    mutex_lock(&listener->mutex);
    struct peer_user *user = peers_connect(&listener->peers, uid);
    mutex_unlock(&listener->mutex);
    return user;
}

/* Greets, and has epoll tell of what comes. A new socket has room for the greeting; a peer that is
 * gone already takes none. */
static bool socket_begin(struct listener_native *listener, int fd, struct connection *connection)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = connection};
    if (send(fd, sp_greeting_reply, SP_GREETING_SIZE, SEND_FLAGS) != SP_GREETING_SIZE) {
        return false;
    }
    if (epoll_ctl(listener->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        listener_count(&listener->base.accept_errors_total);
        return false;
    }
    return true;
}

static void connection_open(struct listener_native *listener, int fd)
{
    struct listener *base = &listener->base;
    listener_count(&base->connections_total);
    struct ucred peer;
    socklen_t peer_size = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_size) != 0) {
        close(fd); /* Nobody to serve for. */
        return;
    }
    struct peer_user *user = user_enter(listener, peer.uid);
    if (user == NULL) {
        listener_count(&base->connections_refused);
        close(fd);
        return;
    }
    struct connection *connection = listener->unused;
    assert(connection != NULL); /* may_accept */
    if (!socket_begin(listener, fd, connection)) {
        mutex_lock(&listener->mutex);
        peers_disconnect(&listener->peers, user);
        mutex_unlock(&listener->mutex);
        close(fd);
        return;
    }
    listener->unused = connection->next;
    assert(connection->membership == IN_NO_LIST);
    assert(connection->held == 0);
    assert(connection->receiving == NULL);
    connection->next = NULL;
    connection->greeted = false;
    connection->readable = false;
    connection->hung_up = false;
    connection->start = 0;
    connection->end = 0;
    connection->user = user;
    connection->peer_uid = peer.uid;
    connection->peer_id = listener->peer_id_next++;
    mutex_lock(&connection->mutex);
    connection->fd = fd;
    connection->broken = false;
    connection->open = true;
    mutex_unlock(&connection->mutex);
    deadline_set(listener, connection);
    atomic_fetch_add(&base->connections, 1);
}

static void accept_some(struct listener_native *listener)
{
    for (uint32_t i = 0; i < TURN_ACCEPT_COUNT && may_accept(listener); i++) {
        const int fd = accept4(listener->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            connection_open(listener, fd);
        } else if (errno == EAGAIN) {
            listener->accept_ready = false;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            /* Descriptors or memory are used up. Those who want in wait in the kernel; we serve
             * whom we have, and try again at the next check. */
            listener_count(&listener->base.accept_errors_total);
            listener->accept_paused = true;
        }
    }
}

/* ---- Receiving: the loop ------------------------------------------------------------------------
 */

/* One recv. False: the connection is at its end. */
static bool receive(struct connection *connection, uint8_t *bytes, uint32_t room, uint32_t *size)
{
    assert(room > 0);
    *size = 0;
    const ssize_t count = recv(connection->fd, bytes, room, MSG_DONTWAIT);
    if (count > 0) {
        *size = (uint32_t)count;
        /* A stream that gave less than was asked for is empty, and tells when it no longer is. */
        connection->readable = *size == room || connection->hung_up;
        return true;
    }
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
        connection->readable = errno == EINTR;
        return true;
    }
    return false;
}

/* The slot's buffer holds a whole frame of `size` bytes: words, then a message. False: it is not
 * one, and the slot is back. */
static bool request_give(struct listener_native *listener, struct slot *slot, uint32_t size)
{
    uint32_t words_size = 0;
    bool is_last = false;
    while (!is_last && words_size < SP_WORD_COUNT_MAX * SP_REQUEST_ID_SIZE) {
        if (size - words_size < SP_REQUEST_ID_SIZE) {
            slots_return(listener, slot);
            return false;
        }
        is_last = (slot->request[words_size] & 0x80) != 0;
        words_size += SP_REQUEST_ID_SIZE;
    }
    if (!is_last) {
        slots_return(listener, slot); /* Too many forwarders: ignored, as nng does. */
        return true;
    }
    const struct connection *connection = slot->connection;
    memcpy(slot->envelope + SP_FRAME_HEADER_SIZE, slot->request, words_size);
    slot->envelope_size = SP_FRAME_HEADER_SIZE + words_size;
    slot->reply_room = 0;
    slot->exchange = (struct exchange){
        .request = slot->request + words_size,
        .request_size = size - words_size,
        .peer_uid = connection->peer_uid,
        .peer_id = connection->peer_id,
        .received_ns = now_ns(),
        .listener = &listener->base,
    };
    atomic_store(&slot->state, SLOT_SERVED);
    listener_serve(&slot->exchange, true, &slot->given);
    return true;
}

enum frame { FRAME_PART, FRAME_WHOLE, FRAME_LONG, FRAME_BAD };

/* What is at the beginning of the input; *size is what follows the frame's header. */
static enum frame frame_look(const struct connection *connection, uint32_t message_size_max,
                             uint32_t *size)
{
    const uint8_t *frame = connection->input + connection->start;
    const uint32_t available = connection->end - connection->start;
    if (available > 0 && frame[0] != SP_FRAME_MARK) {
        return FRAME_BAD;
    }
    if (available < SP_FRAME_HEADER_SIZE) {
        return FRAME_PART;
    }
    const uint64_t told = sp_load(frame + 1, 8);
    if (told < SP_REQUEST_ID_SIZE || told > SP_REQUEST_ID_SIZE + (uint64_t)message_size_max) {
        return FRAME_BAD;
    }
    *size = (uint32_t)told;
    if (SP_FRAME_HEADER_SIZE + told > INPUT_SIZE) {
        return FRAME_LONG;
    }
    return available < SP_FRAME_HEADER_SIZE + told ? FRAME_PART : FRAME_WHOLE;
}

static bool greeting_take(struct listener_native *listener, struct connection *connection)
{
    assert(connection->start == 0);
    const uint32_t size = (uint32_t)min_u64(connection->end, SP_GREETING_SIZE);
    if (memcmp(connection->input, sp_greeting_request, size) != 0) {
        return false;
    }
    if (size == SP_GREETING_SIZE) {
        connection->greeted = true;
        connection->start = SP_GREETING_SIZE;
        deadline_clear(listener, connection);
    }
    return true;
}

/* The header of a long message is there: the rest goes straight to its slot. */
static void long_begin(struct listener_native *listener, struct connection *connection,
                       struct slot *slot, uint32_t size)
{
    const uint8_t *bytes = connection->input + connection->start + SP_FRAME_HEADER_SIZE;
    connection->received_size =
        connection->end - connection->start - (uint32_t)SP_FRAME_HEADER_SIZE;
    connection->expected_size = size;
    assert(connection->received_size < size);
    memcpy(slot->request, bytes, connection->received_size);
    connection->start = 0;
    connection->end = 0;
    connection->receiving = slot;
    listener->receiving_count += 1;
    deadline_set(listener, connection);
}

static struct slot *long_end(struct listener_native *listener, struct connection *connection)
{
    struct slot *slot = connection->receiving;
    connection->receiving = NULL;
    listener->receiving_count -= 1;
    listener->waiting_stale = true;
    deadline_clear(listener, connection);
    return slot;
}

enum turn {
    TURN_IDLE, /* epoll tells when there is more */
    TURN_MORE, /* there is more to do */
    TURN_WAIT, /* it lacks a slot */
    TURN_END,  /* the connection is at its end, or speaks no SP */
};

/* One recv and at most `request_count` requests. */
static enum turn connection_turn(struct listener_native *listener, struct connection *connection,
                                 uint32_t request_count, bool has_waited)
{
    const uint32_t message_size_max = listener->base.options.message_size_max;
    uint32_t given_count = 0;
    bool received = false;
    for (;;) {
        uint8_t *bytes = NULL; /* where more may be received */
        uint32_t room = 0;
        uint32_t size = 0;
        enum frame frame = FRAME_PART;
        if (connection->receiving != NULL) {
            bytes = connection->receiving->request + connection->received_size;
            room = connection->expected_size - connection->received_size;
        } else {
            if (!connection->greeted && !greeting_take(listener, connection)) {
                frame = FRAME_BAD;
            } else if (connection->greeted) {
                frame = frame_look(connection, message_size_max, &size);
            }
            if (frame == FRAME_PART) {
                const uint32_t kept = connection->end - connection->start;
                memmove(connection->input, connection->input + connection->start, kept);
                connection->start = 0;
                connection->end = kept;
                bytes = connection->input + kept;
                room = INPUT_SIZE - kept;
            }
        }

        struct slot *slot = NULL;
        switch (frame) {
        case FRAME_BAD:
            listener_count(&listener->base.bad_frames_total);
            return TURN_END;
        case FRAME_PART:
            if (received || !connection->readable) {
                return connection->readable ? TURN_MORE : TURN_IDLE;
            }
            received = true;
            if (!receive(connection, bytes, room, &size)) {
                return TURN_END;
            }
            if (connection->receiving == NULL) {
                connection->end += size;
                continue;
            }
            connection->received_size += size;
            if (connection->received_size < connection->expected_size) {
                continue;
            }
            size = connection->expected_size;
            slot = long_end(listener, connection);
            break;
        case FRAME_LONG:
        case FRAME_WHOLE:
            if (given_count == request_count) {
                return TURN_MORE;
            }
            slot = slot_acquire(listener, connection, frame == FRAME_LONG, has_waited);
            if (slot == NULL) {
                return TURN_WAIT;
            }
            if (frame == FRAME_LONG) {
                long_begin(listener, connection, slot, size);
                continue;
            }
            memcpy(slot->request, connection->input + connection->start + SP_FRAME_HEADER_SIZE,
                   size);
            connection->start += SP_FRAME_HEADER_SIZE + size;
            break;
        }
        given_count += 1;
        if (!request_give(listener, slot, size)) {
            listener_count(&listener->base.bad_frames_total);
            return TURN_END;
        }
    }
}

static void connection_serve(struct listener_native *listener, struct connection *connection,
                             uint32_t request_count, bool has_waited)
{
    if (!connection->open) {
        connection_recycle(listener, connection);
        return;
    }
    switch (connection_turn(listener, connection, request_count, has_waited)) {
    case TURN_IDLE:
        break;
    case TURN_MORE:
        ready(listener, connection);
        break;
    case TURN_WAIT:
        list_push(&listener->waiting, connection, IN_WAITING);
        break;
    case TURN_END:
        connection_close(listener, connection);
        break;
    }
}

/* ---- The loop ----------------------------------------------------------------------------------
 */

/* Sends what is queued, and has epoll tell when there is room for the rest. */
static void connection_flush(struct listener_native *listener, struct connection *connection)
{
    struct slot *sent = NULL;
    mutex_lock(&connection->mutex);
    const bool any = connection->queue_oldest != NULL;
    if (any) {
        queue_send(connection, &sent);
    }
    const bool more = connection->queue_oldest != NULL;
    const bool broken = connection->broken;
    mutex_unlock(&connection->mutex);
    slots_return(listener, sent);
    if (broken || ((more || connection->watched) && !watch(listener, connection, more))) {
        connection_close(listener, connection);
    }
}

static void event_take(struct listener_native *listener, const struct epoll_event *event)
{
    if (event->data.ptr == &listener->listen_fd) {
        listener->accept_ready = true;
        return;
    }
    if (event->data.ptr == &listener->wake_fd) {
        uint64_t count;
        const ssize_t size = read(listener->wake_fd, &count, sizeof count);
        (void)size; /* What it woke us for is found in the accounts. */
        return;
    }
    struct connection *connection = event->data.ptr;
    if (!connection->open) {
        return; /* Closed by an event before this one. */
    }
    if ((event->events & (EPOLLHUP | EPOLLERR)) != 0) {
        connection_close(listener, connection); /* Nobody is there to read a reply. */
        return;
    }
    if ((event->events & (EPOLLIN | EPOLLRDHUP)) != 0) {
        connection->readable = true;
        connection->hung_up |= (event->events & EPOLLRDHUP) != 0;
        ready(listener, connection);
    }
    if ((event->events & EPOLLOUT) != 0) {
        connection_flush(listener, connection);
    }
}

/* Looks at what others have left for the loop. */
static void notices_take(struct listener_native *listener)
{
    mutex_lock(&listener->mutex);
    listener->asleep = false;
    listener->wanting = false;
    listener->waiting_stale |= listener->returned_seen != listener->returned_count;
    listener->returned_seen = listener->returned_count;
    struct connection *notices = listener->notices;
    listener->notices = NULL;
    for (struct connection *each = notices; each != NULL; each = each->notice_next) {
        each->noticed = false;
        each->taken_next = each->notice_next; /* It may be noticed anew while we look. */
    }
    mutex_unlock(&listener->mutex);

    while (notices != NULL) {
        struct connection *connection = notices;
        notices = connection->taken_next;
        if (connection->open) {
            connection_flush(listener, connection);
        } else {
            connection_recycle(listener, connection);
        }
    }
}

/* Each goes once through the list, which so keeps its order. */
static void waiting_serve(struct listener_native *listener)
{
    if (!listener->waiting_stale) {
        return;
    }
    listener->waiting_stale = false;
    listener->starving = false;
    const uint32_t count = listener->waiting.count;
    for (uint32_t i = 0; i < count; i++) {
        struct connection *connection = list_pop(&listener->waiting);
        if (connection->open && listener->starving) {
            list_push(&listener->waiting, connection, IN_WAITING);
        } else {
            connection_serve(listener, connection, 1, true);
        }
    }
}

static void ready_serve(struct listener_native *listener)
{
    const uint32_t count = listener->ready.count;
    for (uint32_t i = 0; i < count; i++) {
        connection_serve(listener, list_pop(&listener->ready), TURN_REQUEST_COUNT, false);
    }
}

/* Closes connections whose time is over. */
static void check(struct listener_native *listener, uint64_t now)
{
    const uint64_t send_timeout_ns = listener->base.options.send_timeout_ms * ns_per_ms;
    listener->check_next_ns = now + listener->check_ns;
    listener->accept_paused = false;
    for (uint32_t i = 0; i < listener->connection_slots && listener->timed_count > 0; i++) {
        struct connection *connection = &listener->connections[i];
        if (!connection->open) {
            continue;
        }
        bool over = false;
        if (connection->deadline_ns != 0 && now >= connection->deadline_ns) {
            listener_count(&listener->base.receive_timeouts_total);
            over = true;
        } else if (connection->watched) {
            mutex_lock(&connection->mutex);
            const struct slot *oldest = connection->queue_oldest;
            over = oldest != NULL && now >= oldest->queued_ns + send_timeout_ns;
            mutex_unlock(&connection->mutex);
            if (over) {
                listener_count(&listener->base.send_timeouts_total);
            }
        }
        if (over) {
            connection_close(listener, connection);
        }
    }
}

/* The loop is about to sleep: whoever has something for it must wake it from here on. False: there
 * is something already. */
static bool fall_asleep(struct listener_native *listener)
{
    mutex_lock(&listener->mutex);
    const bool stale = listener->returned_seen != listener->returned_count;
    listener->wanting = listener->waiting.count > 0;
    listener->asleep = listener->notices == NULL && !(listener->wanting && stale);
    const bool asleep = listener->asleep;
    mutex_unlock(&listener->mutex);
    return asleep;
}

/* How long the loop may sleep, at most `timeout_ms` (-1: for ever): not at all while there is
 * something to do. */
static int sleep_ms(struct listener_native *listener, int timeout_ms)
{
    if (timeout_ms == 0 || listener->ready.count > 0 || listener->waiting_stale ||
        (listener->accept_ready && !listener->accept_paused) || !fall_asleep(listener)) {
        return 0;
    }
    if (listener->timed_count == 0 && !listener->accept_paused) {
        return timeout_ms;
    }
    const uint64_t now = now_ns();
    const uint64_t check_ms =
        now >= listener->check_next_ns ? 0 : div_ceil(listener->check_next_ns - now, ns_per_ms);
    return timeout_ms < 0 ? (int)check_ms : (int)min_u64(check_ms, (uint64_t)timeout_ms);
}

/* One turn: sleeps until there is something to do, then does it. */
static void loop_turn(struct listener_native *listener, uint64_t seen, int timeout_ms)
{
    struct doorbell *doorbell = listener->base.options.doorbell;
    struct epoll_event events[EVENT_COUNT];
    if (doorbell != NULL && timeout_ms != 0 && !doorbell_poll_begin(doorbell, seen)) {
        timeout_ms = 0;
    }
    const int count =
        epoll_wait(listener->epoll_fd, events, EVENT_COUNT, sleep_ms(listener, timeout_ms));
    assert(count >= 0 || errno == EINTR);
    if (doorbell != NULL) {
        doorbell_poll_end(doorbell);
    }
    for (int i = 0; i < count; i++) {
        event_take(listener, &events[i]);
    }
    notices_take(listener);
    waiting_serve(listener);
    ready_serve(listener);
    accept_some(listener);
    if (listener->timed_count > 0 || listener->accept_paused) {
        const uint64_t now = now_ns();
        if (now >= listener->check_next_ns) {
            check(listener, now);
        }
    }
}

static void *loop_run(void *context)
{
    struct listener_native *listener = context;
    (void)pthread_setname_np(pthread_self(), "holt-listen");
    memory_forbid_allocation();
    while (!atomic_load(&listener->stopping)) {
        loop_turn(listener, 0, -1);
    }
    return NULL;
}

static void native_wait(struct listener *base, uint64_t seen, uint64_t timeout_ns)
{
    struct listener_native *listener = native_of(base);
    const uint64_t timeout_ms = div_ceil(timeout_ns, ns_per_ms);
    loop_turn(listener, seen, (int)min_u64(timeout_ms, INT32_MAX));
    /* What the server makes a batch of is all that has come and has slots, not a part of it. */
    const uint32_t turn_count_max = listener->slot_count / TURN_REQUEST_COUNT;
    for (uint32_t i = 0; i < turn_count_max && listener->ready.count > 0; i++) {
        loop_turn(listener, seen, 0);
    }
}

/* ---- Start and stop ----------------------------------------------------------------------------
 */

/* Ends whatever was begun; the loop has not been started, or has ended here. */
static void native_close(struct listener_native *listener)
{
    if (listener->started) {
        for (uint32_t i = 0; i < listener->connection_slots; i++) {
            if (listener->connections[i].open) {
                connection_close(listener, &listener->connections[i]);
            }
        }
        /* Whoever gave back the last slot may be about to leave this lock. */
        mutex_lock(&listener->mutex);
        assert(listener->free_count == listener->slot_count); /* Does the server still hold one? */
        mutex_unlock(&listener->mutex);
        for (uint32_t i = 0; i < listener->connection_slots; i++) {
            mutex_deinit(&listener->connections[i].mutex);
        }
    }
    if (listener->listen_fd >= 0) {
        socket_path_remove(listener->path, &listener->identity);
        close(listener->listen_fd);
    }
    if (listener->epoll_fd >= 0) {
        close(listener->epoll_fd);
    }
    if (listener->wake_fd >= 0) {
        close(listener->wake_fd);
    }
    mutex_deinit(&listener->mutex);
    listener_deinit(&listener->base);
    peers_deinit(&listener->peers);
    memory_release(listener->inputs, (size_t)listener->connection_slots * INPUT_SIZE);
    memory_release(listener->connections,
                   listener->connection_slots * sizeof *listener->connections);
    memory_release(listener->messages, listener->messages_size);
    memory_release(listener->slots, listener->slot_count * sizeof *listener->slots);
    memory_release(listener, sizeof *listener);
}

static void native_stop(struct listener *base)
{
    struct listener_native *listener = native_of(base);
    struct doorbell *doorbell = base->options.doorbell;
    if (doorbell != NULL) {
        doorbell_set_poll_fd(doorbell, -1);
    } else {
        atomic_store(&listener->stopping, true);
        wake(listener); /* Asleep or about to be: it looks once more. */
        pthread_join(listener->thread, NULL);
    }
    native_close(listener);
}

/* Bytes of the two buffers of a slot, each at its own page. */
static uint64_t slot_messages_size(uint32_t message_size_max)
{
    enum { PAGE = 4096 };
    return align_up(message_size_max + (uint64_t)SP_REQUEST_ID_SIZE, PAGE) +
           align_up(message_size_max, PAGE);
}

static enum status memory_take(struct listener_native *listener)
{
    const struct listener_options *options = &listener->base.options;
    const uint64_t slot_size = slot_messages_size(options->message_size_max);
    const enum status status =
        peers_init(&listener->peers, options->connection_count_max, options->exchange_count);
    if (status != STATUS_OK) {
        return status;
    }
    listener->slot_count = options->exchange_count;
    listener->connection_slots =
        peers_total_for(options->connection_count_max) + options->exchange_count;
    listener->messages_size = slot_size * listener->slot_count;
    listener->slots = memory_acquire(listener->slot_count * sizeof *listener->slots);
    listener->messages = memory_acquire(listener->messages_size);
    listener->connections =
        memory_acquire(listener->connection_slots * sizeof *listener->connections);
    listener->inputs = memory_acquire((size_t)listener->connection_slots * INPUT_SIZE);
    if (listener->slots == NULL || listener->messages == NULL || listener->connections == NULL ||
        listener->inputs == NULL) {
        return STATUS_NO_MEMORY;
    }
    for (uint32_t i = 0; i < listener->connection_slots; i++) {
        struct connection *connection = &listener->connections[i];
        connection->mutex = (struct mutex)MUTEX_INITIALIZER(LOCK_RANK_CONNECTION);
        connection->fd = -1;
        connection->input = listener->inputs + (size_t)i * INPUT_SIZE;
        connection->next = listener->unused;
        listener->unused = connection;
    }
    for (uint32_t i = 0; i < listener->slot_count; i++) {
        struct slot *slot = &listener->slots[i];
        atomic_init(&slot->state, SLOT_FREE);
        slot->request = listener->messages + i * slot_size;
        slot->reply =
            listener->messages + (i + 1) * slot_size - align_up(options->message_size_max, 4096);
        slot->next = listener->free;
        listener->free = slot;
    }
    listener->free_count = listener->slot_count;
    return STATUS_OK;
}

static enum status loop_start(struct listener_native *listener, const char **reason)
{
    listener->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    listener->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct epoll_event wake = {.events = EPOLLIN, .data.ptr = &listener->wake_fd};
    struct epoll_event accept = {.events = EPOLLIN | EPOLLET, .data.ptr = &listener->listen_fd};
    if (listener->epoll_fd < 0 || listener->wake_fd < 0 ||
        epoll_ctl(listener->epoll_fd, EPOLL_CTL_ADD, listener->wake_fd, &wake) != 0) {
        *reason = "not enough memory or file descriptors for the listener";
        return STATUS_NO_MEMORY;
    }
    const struct listener_options *options = &listener->base.options;
    const enum status status = socket_path_listen(
        listener->path, options->socket_mode, &listener->listen_fd, &listener->identity, reason);
    if (status != STATUS_OK) {
        listener->listen_fd = -1;
        return status;
    }
    if (epoll_ctl(listener->epoll_fd, EPOLL_CTL_ADD, listener->listen_fd, &accept) != 0 ||
        (options->doorbell == NULL &&
         pthread_create(&listener->thread, NULL, loop_run, listener) != 0)) {
        *reason = "not enough memory or threads for the listener";
        return STATUS_NO_MEMORY;
    }
    if (options->doorbell != NULL) {
        doorbell_set_poll_fd(options->doorbell, listener->wake_fd);
    }
    listener->started = true;
    return STATUS_OK;
}

static const struct listener_ops native_ops = {
    .stop = native_stop,
    .wait = native_wait,
    .reply_buffer = native_reply_buffer,
    .send = native_send,
    .drop = native_drop,
};

enum status listener_native_start(const struct listener_options *options, listener_handler *handler,
                                  void *context, struct listener **listener, const char **reason)
{
    struct listener_native *started = memory_acquire(sizeof *started);
    if (started == NULL) {
        *reason = "not enough memory for the listener";
        return STATUS_NO_MEMORY;
    }
    started->listen_fd = -1;
    started->epoll_fd = -1;
    started->wake_fd = -1;
    started->mutex = (struct mutex)MUTEX_INITIALIZER(LOCK_RANK_LISTENER);
    atomic_init(&started->stopping, false);
    listener_init(&started->base, &native_ops, options, handler, context);
    memcpy(started->path, options->socket_path, strlen(options->socket_path));
    const uint32_t timeout_ms_min =
        (uint32_t)min_u64(options->send_timeout_ms, options->receive_timeout_ms);
    started->check_ns = min_u64(max_u64(timeout_ms_min / 4, 1), CHECK_MS_MAX) * ns_per_ms;

    enum status status = memory_take(started);
    if (status != STATUS_OK) {
        *reason =
            "not enough memory for the buffers of the listener: fewer requests or connections";
    } else {
        status = loop_start(started, reason);
    }
    if (status != STATUS_OK) {
        native_close(started);
        return status;
    }
    *listener = &started->base;
    return STATUS_OK;
}

uint64_t listener_native_memory_size(const struct listener_options *options)
{
    const uint64_t connection_slots =
        peers_total_for(options->connection_count_max) + (uint64_t)options->exchange_count;
    return peers_memory_size(options->connection_count_max, options->exchange_count) +
           options->exchange_count *
               (slot_messages_size(options->message_size_max) + sizeof(struct slot)) +
           connection_slots * (INPUT_SIZE + sizeof(struct connection)) +
           sizeof(struct listener_native);
}
