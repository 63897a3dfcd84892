/* The loop: what it looks at in one turn, in what order, and how long it may sleep.
 *
 * Fairness. A connection that has something to do stands in the ready list; its turn is one recv
 * and a few requests, then it goes to the end. One that lacks a slot stands in the waiting list and
 * is served first, oldest first, when slots come back; meanwhile it waits in its socket. To let one
 * in, or to see one off, takes as long as some small requests: one in a turn, and in turns that
 * bring requests not before it was put off for some. */
#include "ipc/native_internal.h"

#include <assert.h>
#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "pool/base.h"
#include "pool/memory.h"

enum {
    TURN_REQUEST_COUNT = 16, /* requests that a connection may give in one turn */
    EVENT_COUNT = 64,        /* events taken from epoll at once */
    PUT_OFF_MAX = 4,         /* turns */
};

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
        native_connection_end(listener, connection); /* Nobody is there to read a reply. */
        return;
    }
    if ((event->events & (EPOLLIN | EPOLLRDHUP)) != 0) {
        connection->readable = true;
        connection->hung_up |= (event->events & EPOLLRDHUP) != 0;
        native_ready(listener, connection);
    }
    if ((event->events & EPOLLOUT) != 0) {
        native_connection_flush(listener, connection);
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
            native_connection_flush(listener, connection);
        } else {
            native_connection_recycle(listener, connection);
        }
    }
}

/* Each goes once through the list, which so keeps its order. Of a thousand connections of one user
 * all but a few are told by the answer to one of them: one that holds as much as another one that
 * was refused for his share would be refused, too. (Slots that come back meanwhile make the list
 * stale again.) */
static void waiting_serve(struct listener_native *listener)
{
    if (!listener->waiting_stale) {
        return;
    }
    listener->waiting_stale = false;
    listener->starving = false;
    listener->refused_user = NULL;
    const uint32_t count = listener->waiting.count;
    for (uint32_t i = 0; i < count; i++) {
        struct connection *connection = native_list_pop(&listener->waiting);
        if (connection->open && !connection->ended &&
            (listener->starving || (connection->user == listener->refused_user &&
                                    connection->held >= listener->refused_held))) {
            native_list_push(&listener->waiting, connection, IN_WAITING);
        } else {
            native_connection_serve(listener, connection, 1, true);
        }
    }
}

static void ready_serve(struct listener_native *listener)
{
    const uint32_t count = listener->ready.count;
    for (uint32_t i = 0; i < count; i++) {
        native_connection_serve(listener, native_list_pop(&listener->ready), TURN_REQUEST_COUNT,
                                false);
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
            native_connection_close(listener, connection);
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
    if (timeout_ms == 0 || listener->ready.count > 0 || listener->closing.count > 0 ||
        listener->waiting_stale || (listener->accept_ready && !listener->accept_paused) ||
        !fall_asleep(listener)) {
        return 0;
    }
    if (listener->timed_count == 0 && !listener->accept_paused) {
        return timeout_ms;
    }
    const uint64_t now = native_now_ns();
    const uint64_t check_ms =
        now >= listener->check_next_ns ? 0 : div_ceil(listener->check_next_ns - now, ns_per_ms);
    return timeout_ms < 0 ? (int)check_ms : (int)min_u64(check_ms, (uint64_t)timeout_ms);
}

/* Who gave a request comes before who comes and goes; and who goes before who comes, who might find
 * all places taken. */
static void door_serve(struct listener_native *listener)
{
    if (listener->given_count > 0 && listener->put_off_count < PUT_OFF_MAX) {
        listener->put_off_count += 1;
        return;
    }
    listener->put_off_count = 0;
    if (listener->closing.count > 0) {
        native_close_one(listener);
    } else {
        native_accept(listener);
    }
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
    listener->given_count = 0;
    for (int i = 0; i < count; i++) {
        event_take(listener, &events[i]);
    }
    notices_take(listener);
    waiting_serve(listener);
    ready_serve(listener);
    door_serve(listener);
    if (listener->timed_count > 0 || listener->accept_paused) {
        const uint64_t now = native_now_ns();
        if (now >= listener->check_next_ns) {
            check(listener, now);
        }
    }
}

void *native_loop_run(void *context)
{
    struct listener_native *listener = context;
    (void)pthread_setname_np(pthread_self(), "holt-listen");
    memory_forbid_allocation();
    while (!atomic_load(&listener->stopping)) {
        loop_turn(listener, 0, -1);
    }
    return NULL;
}

void native_wait(struct listener *base, uint64_t seen, uint64_t timeout_ns)
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
