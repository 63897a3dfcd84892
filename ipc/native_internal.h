/* struct listener_native: for the files of the listener of our own; others see listener.h. It
 * speaks the same bytes as nng's (sp.h), over epoll, by one thread: the server's, whenever that
 * calls listener_wait, or one of its own.
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
 * The files, each of which calls those above it only:
 *
 *   native_slots.c       the accounts: who has which slots, and what the loop is to look at
 *   native_send.c        replies to the socket, by whichever thread answers
 *   native_connection.c  connections from accept to close
 *   native_receive.c     requests from the socket
 *   native_loop.c        one turn after the other: whose, and how long to sleep
 *   listener_native.c    start and stop */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "ipc/listener_internal.h"
#include "ipc/peers.h"
#include "ipc/socket_path.h"
#include "ipc/sp.h"
#include "pool/base.h"
#include "pool/clock.h"
#include "pool/mutex.h"

enum {
    INPUT_SIZE = 16 * 1024, /* bytes; some tens of small requests with one recv */
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

enum membership { IN_NO_LIST, IN_READY, IN_WAITING, IN_CLOSING };

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
    bool ended;    /* nothing of it is of use any more: it is to be closed, when there is time */
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
    const struct peer_user *refused_user; /* who was refused a slot last for his share, and */
    uint32_t refused_held;                /* what that connection held; NULL: not in this walk */
    struct connection *unused;
    struct connection_list ready, waiting, closing;
    uint64_t returned_seen;
    uint64_t check_ns; /* between checks */
    uint64_t check_next_ns;
    uint32_t receiving_count; /* slots RECEIVING */
    uint32_t timed_count;     /* connections with a deadline, and connections watched */
    uint32_t peer_id_next;
    uint32_t given_count; /* requests, in this turn */
    uint32_t
        put_off_count;  /* turns since somebody was let in or seen off, for requests came first */
    bool accept_ready;  /* there may be somebody to accept */
    bool accept_paused; /* for want of descriptors or memory, until the next check */
};

static const uint64_t ns_per_ms = 1000000;
static inline struct listener_native *native_of(struct listener *listener)
{
    return container_of(listener, struct listener_native, base);
}

static inline uint64_t native_now_ns(void)
{
    return clock_monotonic_ns(&clock_system);
}

/* native_slots.c: any thread. */
void native_wake(struct listener_native *listener);
/* With listener.mutex: the loop shall look at this connection. */
void native_notice_locked(struct listener_native *listener, struct connection *connection);
/* Takes back slots that are linked by `next`. Nothing of them or of their connections may be
 * touched by the caller afterwards, and nothing of the listener, for whoever waits for the last
 * reply may take it apart. */
void native_slots_return(struct listener_native *listener, struct slot *first);
/* The loop takes a slot for a connection, or learns that it must wait for one (NULL). */
struct slot *native_slot_acquire(struct listener_native *listener, struct connection *connection,
                                 bool is_long, bool has_waited);

/* native_send.c: three of the listener's functions, and with connection.mutex the queue's. */
uint8_t *native_reply_buffer(struct exchange *exchange, uint32_t size);
void native_send(struct exchange *exchange, uint32_t size);
void native_drop(struct exchange *exchange);
/* Hands the kernel what it takes of the queue at once. Slots whose replies have left whole are
 * moved to the front of *sent. */
void native_queue_send(struct connection *connection, struct slot **sent);

/* native_connection.c: the loop. */
void native_list_push(struct connection_list *list, struct connection *connection,
                      enum membership membership);
struct connection *native_list_pop(struct connection_list *list);
/* Of the greeting, or of a long message. */
void native_deadline_set(struct listener_native *listener, struct connection *connection);
void native_deadline_clear(struct listener_native *listener, struct connection *connection);
/* It has something to do, unless it waits for a slot. */
void native_ready(struct listener_native *listener, struct connection *connection);
/* Sends what is queued, and has epoll tell when there is room for the rest. */
void native_connection_flush(struct listener_native *listener, struct connection *connection);
void native_connection_close(struct listener_native *listener, struct connection *connection);
/* The same, but when there is time for it. */
void native_connection_end(struct listener_native *listener, struct connection *connection);
/* Closes one of those. */
void native_close_one(struct listener_native *listener);
/* A closed connection is unused once nothing refers to it. */
void native_connection_recycle(struct listener_native *listener, struct connection *connection);
/* Lets in one of those who wait at the door. */
void native_accept(struct listener_native *listener);

/* native_receive.c: the loop. One recv and at most `request_count` requests of a connection that is
 * in no list. */
void native_connection_serve(struct listener_native *listener, struct connection *connection,
                             uint32_t request_count, bool has_waited);

/* native_loop.c: listener_wait, and a thread that does nothing else. */
void native_wait(struct listener *base, uint64_t seen, uint64_t timeout_ns);
void *native_loop_run(void *context);
