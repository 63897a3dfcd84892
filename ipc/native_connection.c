/* Connections from accept to close: by the loop alone.
 *
 * Edge-triggered, because then an event costs no epoll_ctl, neither for a connection that must wait
 * nor for one that has more to give than its turn: `readable` remembers what epoll said.
 * Writability is asked for only while replies are queued; it would otherwise be told after each
 * reply that a client reads. */
#include "ipc/native_internal.h"

#include <assert.h>
#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

void native_list_push(struct connection_list *list, struct connection *connection,
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

struct connection *native_list_pop(struct connection_list *list)
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

void native_deadline_set(struct listener_native *listener, struct connection *connection)
{
    assert(connection->deadline_ns == 0);
    connection->deadline_ns =
        native_now_ns() + listener->base.options.receive_timeout_ms * ns_per_ms;
    listener->timed_count += 1;
}

void native_deadline_clear(struct listener_native *listener, struct connection *connection)
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

void native_ready(struct listener_native *listener, struct connection *connection)
{
    if (connection->membership == IN_NO_LIST) {
        native_list_push(&listener->ready, connection, IN_READY);
    }
}

void native_connection_recycle(struct listener_native *listener, struct connection *connection)
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

void native_connection_close(struct listener_native *listener, struct connection *connection)
{
    assert(connection->open);
    const int fd = connection->fd;
    connection->ended = false;
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
    native_deadline_clear(listener, connection);
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
    native_slots_return(listener, returning);
    atomic_fetch_sub(&listener->base.connections, 1);
    native_connection_recycle(listener, connection);
}

void native_connection_end(struct listener_native *listener, struct connection *connection)
{
    assert(connection->open);
    connection->ended = true;
    if (connection->membership == IN_NO_LIST) {
        native_list_push(&listener->closing, connection, IN_CLOSING);
    } else if (connection->membership == IN_WAITING) {
        listener->waiting_stale = true; /* To take it out. */
    }
}

void native_close_one(struct listener_native *listener)
{
    struct connection *connection = native_list_pop(&listener->closing);
    if (connection->open) {
        native_connection_close(listener, connection);
    } else {
        native_connection_recycle(listener, connection);
    }
}

void native_connection_flush(struct listener_native *listener, struct connection *connection)
{
    struct slot *sent = NULL;
    mutex_lock(&connection->mutex);
    const bool any = connection->queue_oldest != NULL;
    if (any) {
        native_queue_send(connection, &sent);
    }
    const bool more = connection->queue_oldest != NULL;
    const bool broken = connection->broken;
    mutex_unlock(&connection->mutex);
    native_slots_return(listener, sent);
    if (broken || ((more || connection->watched) && !watch(listener, connection, more))) {
        native_connection_close(listener, connection);
    }
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
    native_deadline_set(listener, connection);
    atomic_fetch_add(&base->connections, 1);
}

void native_accept(struct listener_native *listener)
{
    if (!may_accept(listener)) {
        return;
    }
    const int fd = accept4(listener->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        connection_open(listener, fd);
    } else if (errno == EAGAIN) {
        listener->accept_ready = false;
    } else if (errno != EINTR && errno != ECONNABORTED) {
        /* Descriptors or memory are used up. Those who want in wait in the kernel; we serve whom we
         * have, and try again at the next check. */
        listener_count(&listener->base.accept_errors_total);
        listener->accept_paused = true;
    }
}
