/* The client's thread: it connects, keeps the deadlines, calls back, and receives when no caller
 * does. */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "ipc/libholt/client.h"

enum { CLOSE_SESSION_MS = 1000 };

bool client_on_own_thread(const struct holt *holt)
{
    return pthread_equal(pthread_self(), holt->thread);
}

void client_wake(struct holt *holt)
{
    if (!holt->woken && !client_on_own_thread(holt)) {
        const uint64_t one = 1;
        holt->woken = true;
        while (write(holt->wake_fd, &one, sizeof one) < 0 && errno == EINTR) {
        }
    }
}

void event_drain(int event_fd)
{
    uint64_t count;
    while (read(event_fd, &count, sizeof count) < 0 && errno == EINTR) {
    }
}

int timeout_ms_until(uint64_t until_ns)
{
    if (until_ns == DEADLINE_NS_NONE) {
        return -1;
    }
    const uint64_t now = now_ns();
    const uint64_t left_ms = until_ns > now ? (until_ns - now + NS_PER_MS - 1) / NS_PER_MS : 0;
    return left_ms > 3600000 ? 3600000 : (int)left_ms;
}

/* Calls what is to be called, without the mutex. */
static void run_done(struct holt *holt)
{
    struct call *call;
    while ((call = calls_pop(&holt->done)) != NULL) {
        assert(call->lent);
        call->lent = false;
        if (call->state == CALL_DONE) {
            call->state = CALL_IDLE;
        }
        pthread_mutex_unlock(&holt->mutex);
        call->done(call);
        pthread_mutex_lock(&holt->mutex);
    }
}

static bool wants_connection(const struct holt *holt)
{
    return holt->opening || holt->writes.oldest != NULL || holt->reads.oldest != NULL ||
           holt->again.oldest != NULL;
}

uint64_t client_next_ns(const struct holt *holt)
{
    uint64_t next = holt->scan_ns;
    if (holt->state == CONNECTION_NONE) {
        if (wants_connection(holt)) {
            next = min_ns(next, holt->connect_ns);
        }
        return next;
    }
    if (holt->state != CONNECTION_READY) {
        return min_ns(next, holt->handshake_deadline_ns);
    }
    const uint64_t now = now_ns();
    if (holt->writes.oldest != NULL && holt->writes_ns > now) {
        next = min_ns(next, holt->writes_ns);
    }
    if (holt->reads.oldest != NULL && holt->reads_ns > now) {
        next = min_ns(next, holt->reads_ns);
    }
    if (holt->again.oldest != NULL && holt->again_ns > now) {
        next = min_ns(next, holt->again_ns);
    }
    return next;
}

/* Asks the caller who receives to leave that to others. */
static void kick_caller(const struct holt *holt)
{
    const uint64_t one = 1;
    while (write(holt->kick_fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

static void connection_turn(struct holt *holt, uint64_t now)
{
    const bool late = holt->state != CONNECTION_NONE && holt->state != CONNECTION_READY &&
                      now >= holt->handshake_deadline_ns;
    if ((holt->broken || late) && holt->receiver == RECEIVER_CALLER) {
        kick_caller(holt); /* He alone may be waiting on the socket that is to be closed. */
        return;
    }
    if (holt->broken) {
        connection_receive(holt); /* What was answered before. */
        if (holt->broken) {
            connection_fail(holt, HOLT_NO_DAEMON, "the connection was lost");
        }
    }
    if (late && holt->state != CONNECTION_NONE) {
        connection_fail(holt, HOLT_NO_DAEMON, "what listens there does not answer");
    }
    if (holt->state == CONNECTION_NONE && wants_connection(holt) && now >= holt->connect_ns) {
        connection_begin(holt);
    }
    if (holt->opening && holt->state == CONNECTION_NONE && now >= holt->open_deadline_ns) {
        holt->opening = false;
        holt->closing = true;
        holt->open_error = holt->connect_error;
        pthread_cond_broadcast(&holt->changed);
    }
}

/* Sleeps until something happens, and takes in what came. */
static void wait_and_receive(struct holt *holt, uint64_t until_ns)
{
    struct pollfd fds[2] = {{.fd = holt->wake_fd, .events = POLLIN}, {.fd = holt->fd}};
    const bool expects = holt->state != CONNECTION_READY || holt->slot_count > 0 || holt->closing;
    assert(holt->receiver != RECEIVER_OWN);
    bool own = holt->fd >= 0 && expects && holt->receiver == RECEIVER_NOBODY;
    struct call *heir = own ? call_heir(holt) : NULL;
    if (heir != NULL) {
        pthread_cond_signal(&heir->changed);
        own = false;
    }
    if (own) {
        holt->receiver = RECEIVER_OWN;
        fds[1].events |= POLLIN;
    }
    if (holt->fd >= 0 && holt->sending.oldest != NULL) {
        fds[1].events |= POLLOUT;
    }
    holt->poll_ns = until_ns;
    const int timeout_ms = timeout_ms_until(until_ns);
    pthread_mutex_unlock(&holt->mutex);
    const int count = poll(fds, fds[1].events != 0 ? 2 : 1, timeout_ms);
    pthread_mutex_lock(&holt->mutex);
    if (count > 0 && fds[0].revents != 0) {
        event_drain(holt->wake_fd);
        holt->woken = false;
    }
    if (own) {
        assert(holt->receiver == RECEIVER_OWN);
        holt->receiver = RECEIVER_NOBODY;
        if (count > 0 && fds[1].revents != 0) {
            connection_receive(holt);
        }
    }
}

static void close_calls(struct holt *holt)
{
    struct call *call;
    while ((call = calls_pop(&holt->writes)) != NULL) {
        call_end(holt, call, HOLT_CLOSED, NULL);
    }
    while ((call = calls_pop(&holt->reads)) != NULL) {
        call_end(holt, call, HOLT_CLOSED, NULL);
    }
    struct message *message;
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        message = holt->slots[i];
        for (uint32_t j = 0; message != NULL && j < message->member_count; j++) {
            call = message->members[j];
            if (call != NULL) {
                message->members[j] = NULL;
                call_end(holt, call, message_is_read(message) ? HOLT_CLOSED : HOLT_UNKNOWN, NULL);
            }
        }
    }
    struct message_list *lists[] = {&holt->again, &holt->parked};
    for (int i = 0; i < 2; i++) {
        while ((message = lists[i]->oldest) != NULL) {
            messages_remove(lists[i], message);
            message_end(holt, message, HOLT_UNKNOWN, NULL);
        }
    }
}

/* A session that nobody will use again is given back, if the daemon takes it. One with a write that
 * nobody knows the outcome of is left to the daemon's idle time, for it may be asked again. */
static void close_session(struct holt *holt, bool unresolved)
{
    if (!holt->session_open || holt->session_kept || unresolved ||
        holt->state != CONNECTION_READY ||
        !message_send_own(holt, OPERATION_CLOSE_SESSION, NULL, 0)) {
        return;
    }
    const uint64_t deadline_ns = now_ns() + CLOSE_SESSION_MS * NS_PER_MS;
    while (holt->session_open && holt->state == CONNECTION_READY && !holt->broken &&
           now_ns() < deadline_ns) {
        connection_flush(holt);
        wait_and_receive(holt, deadline_ns);
    }
}

static bool has_unresolved(const struct holt *holt)
{
    for (uint32_t i = 0; i < WIRE_LANE_COUNT_MAX; i++) {
        if (holt->lane_used[i]) {
            return true;
        }
    }
    return false;
}

void *client_run(void *context)
{
    struct holt *holt = context;
    pthread_mutex_lock(&holt->mutex);
    while (!holt->closing) {
        const uint64_t now = now_ns();
        if (now >= holt->scan_ns) {
            client_scan(holt, now);
        }
        connection_turn(holt, now);
        client_pump(holt);
        if (holt->done.oldest != NULL) {
            run_done(holt);
        } else if (!holt->closing && (!holt->broken || holt->receiver == RECEIVER_CALLER)) {
            wait_and_receive(holt, client_next_ns(holt));
        }
    }
    while (holt->receiver == RECEIVER_CALLER) {
        kick_caller(holt);
        pthread_cond_wait(&holt->changed, &holt->mutex);
    }
    const bool unresolved = has_unresolved(holt);
    close_calls(holt);
    run_done(holt);
    close_session(holt, unresolved);
    connection_end(holt, HOLT_CLOSED, NULL);
    run_done(holt);
    holt->closed = true;
    pthread_mutex_unlock(&holt->mutex);
    return NULL;
}
