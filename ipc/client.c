/* The socket never blocks; every wait is a poll with a deadline. While a request waits for room in
 * the socket, replies are taken in, so that a client with many requests in flight and a daemon that
 * waits for its replies to be read do not wait for each other. */
#include "ipc/client.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "ipc/sp.h"
#include "pool/base.h"
#include "pool/clock.h"
#include "pool/memory.h"

enum {
    /* The thread that lets us in may be writing to a disk that has stopped for some seconds. */
    CONNECT_TIMEOUT_MS_DEFAULT = 10 * 1000,
    MESSAGE_SIZE_MAX_DEFAULT = 4 << 20,
    MESSAGE_SIZE_MAX_LIMIT = 1 << 30,
    READ_AHEAD_SIZE = 64 * 1024, /* several small replies in one recv */
    BACKOFF_MS_MIN = 10,
    BACKOFF_MS_MAX = 500,
};

struct client {
    struct sockaddr_un address;
    uint32_t connect_timeout_ms;
    uint32_t message_size_max;
    uint8_t client_id[WIRE_ID_SIZE];

    int fd;             /* -1: not connected */
    uint64_t number;    /* of the last request */
    uint32_t in_flight; /* requests; 0 when not connected */

    /* Received and not yet given out: buffer[start..end). */
    uint8_t *buffer; /* [capacity], owned */
    size_t capacity; /* one largest frame and a read-ahead */
    size_t start;
    size_t end; /* start <= end <= capacity */
};

const char *client_status_text(enum client_status status)
{
    switch (status) {
#define X(name, exit_code, text)                                                                   \
    case name:                                                                                     \
        return text;
        CLIENT_STATUS_MAP(X)
#undef X
    }
    return "unknown status";
}

int client_status_exit_code(enum client_status status)
{
    switch (status) {
#define X(name, exit_code, text)                                                                   \
    case name:                                                                                     \
        return exit_code;
        CLIENT_STATUS_MAP(X)
#undef X
    }
    return 70;
}

/* ---- Time --------------------------------------------------------------------------------------
 */

static uint64_t now_ns(void)
{
    return clock_monotonic_ns(&clock_system);
}

static uint64_t deadline_after(uint32_t timeout_ms)
{
    return now_ns() + timeout_ms * UINT64_C(1000000);
}

/* Rounded up: 0 only when the deadline has passed. */
static uint32_t remaining_ms(uint64_t deadline_ns)
{
    const uint64_t now = now_ns();
    return now >= deadline_ns ? 0 : (uint32_t)div_ceil(deadline_ns - now, 1000000);
}

static void pause_ms(uint32_t ms)
{
    const struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&time, NULL); /* A signal may cut it short: the caller looks at its deadline. */
}

/* ---- Connection --------------------------------------------------------------------------------
 */

static void assert_invariants(const struct client *client)
{
    assert(client->start <= client->end);
    assert(client->end <= client->capacity);
    assert(client->fd >= 0 || client->in_flight == 0);
    assert(client->fd >= 0 || client->end == 0);
}

/* Whatever was in flight is not any more. */
static void disconnect(struct client *client)
{
    if (client->fd >= 0) {
        close(client->fd);
    }
    client->fd = -1;
    client->in_flight = 0;
    client->start = 0;
    client->end = 0;
}

/* Waits until the socket has one of `events` (an error counts as all of them). */
static enum client_status wait_for(const struct client *client, short events, uint64_t deadline_ns,
                                   short *got)
{
    for (;;) {
        struct pollfd pollfd = {.fd = client->fd, .events = events};
        const uint32_t wait_ms = remaining_ms(deadline_ns);
        const int count = poll(&pollfd, 1, (int)min_u64(wait_ms, INT32_MAX));
        if (count > 0) {
            *got = (pollfd.revents & (POLLERR | POLLHUP | POLLNVAL)) != 0 ? events : pollfd.revents;
            return CLIENT_OK;
        }
        if (count < 0 && errno != EINTR) {
            return CLIENT_IO;
        }
        if (count == 0 && wait_ms == 0) {
            return CLIENT_TIMEOUT;
        }
    }
}

static bool errno_is_lost(int error)
{
    return error == EPIPE || error == ECONNRESET;
}

/* Reads once what is there, at most `size` bytes. CLIENT_OK with *received = 0: nothing yet. */
static enum client_status receive_some(const struct client *client, uint8_t *bytes, size_t size,
                                       size_t *received)
{
    assert(size > 0);
    *received = 0;
    const ssize_t count = recv(client->fd, bytes, size, 0);
    if (count > 0) {
        *received = (size_t)count;
        return CLIENT_OK;
    }
    if (count == 0) {
        return CLIENT_LOST;
    }
    if (errno == EAGAIN || errno == EINTR) {
        return CLIENT_OK;
    }
    return errno_is_lost(errno) ? CLIENT_LOST : CLIENT_IO;
}

static enum client_status greet(const struct client *client, uint64_t deadline_ns)
{
    /* A new socket has room for 8 bytes, so this is all or nothing. */
    const ssize_t sent = send(client->fd, sp_greeting_request, SP_GREETING_SIZE, MSG_NOSIGNAL);
    if (sent != SP_GREETING_SIZE) {
        return sent < 0 && errno_is_lost(errno) ? CLIENT_LOST : CLIENT_IO;
    }
    uint8_t greeting[SP_GREETING_SIZE];
    size_t size = 0;
    while (size < SP_GREETING_SIZE) {
        short got;
        enum client_status status = wait_for(client, POLLIN, deadline_ns, &got);
        if (status != CLIENT_OK) {
            return status;
        }
        size_t received;
        status = receive_some(client, greeting + size, SP_GREETING_SIZE - size, &received);
        if (status != CLIENT_OK) {
            return status;
        }
        size += received;
        if (memcmp(greeting, sp_greeting_reply, size) != 0) {
            return CLIENT_NOT_HOLT;
        }
    }
    return CLIENT_OK;
}

static enum client_status connect_status(int error)
{
    switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ELOOP:
        return CLIENT_NO_SOCKET;
    case ECONNREFUSED: /* Also what a regular file gives. */
        return CLIENT_NOBODY;
    case EACCES:
    case EPERM:
        return CLIENT_DENIED;
    case EPROTOTYPE: /* A socket of another kind. */
        return CLIENT_NOT_HOLT;
    default:
        return CLIENT_IO;
    }
}

/* One attempt. */
static enum client_status connect_once(struct client *client, uint64_t deadline_ns)
{
    assert(client->fd < 0);
    client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->fd < 0) {
        return CLIENT_IO;
    }
    while (connect(client->fd, (const struct sockaddr *)&client->address, sizeof client->address) !=
           0) {
        if (errno == EINTR) {
            continue;
        }
        if (errno != EAGAIN) {
            const enum client_status status = connect_status(errno);
            disconnect(client);
            return status;
        }
        /* The daemon's queue of connections is full; nothing tells when it no longer is. */
        if (remaining_ms(deadline_ns) == 0) {
            disconnect(client);
            return CLIENT_TIMEOUT;
        }
        pause_ms(BACKOFF_MS_MIN);
    }
    const enum client_status status = greet(client, deadline_ns);
    if (status != CLIENT_OK) {
        disconnect(client);
    }
    return status;
}

/* Attempts with growing pauses while the daemon may be restarting. */
static enum client_status reconnect(struct client *client, uint64_t deadline_ns)
{
    uint32_t backoff_ms = BACKOFF_MS_MIN;
    for (;;) {
        const uint64_t attempt_deadline_ns =
            min_u64(deadline_ns, deadline_after(client->connect_timeout_ms));
        const enum client_status status = connect_once(client, attempt_deadline_ns);
        if (status != CLIENT_NO_SOCKET && status != CLIENT_NOBODY && status != CLIENT_LOST) {
            return status;
        }
        const uint32_t left_ms = remaining_ms(deadline_ns);
        if (left_ms == 0) {
            return status;
        }
        pause_ms((uint32_t)min_u64(backoff_ms, left_ms));
        backoff_ms = (uint32_t)min_u64(2 * (uint64_t)backoff_ms, BACKOFF_MS_MAX);
    }
}

enum client_status client_open(const struct client_options *options, struct client **client)
{
    assert(options->socket_path != NULL);
    *client = NULL;
    const size_t path_size = strlen(options->socket_path);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (path_size == 0 || path_size >= sizeof address.sun_path) {
        return CLIENT_BAD_PATH;
    }
    memcpy(address.sun_path, options->socket_path, path_size);

    struct client *opened = memory_acquire(sizeof *opened);
    if (opened == NULL) {
        return CLIENT_NO_MEMORY;
    }
    *opened = (struct client){
        .address = address,
        .fd = -1,
        .connect_timeout_ms = options->connect_timeout_ms != 0 ? options->connect_timeout_ms
                                                               : CONNECT_TIMEOUT_MS_DEFAULT,
        .message_size_max =
            options->message_size_max != 0 ? options->message_size_max : MESSAGE_SIZE_MAX_DEFAULT,
    };
    assert(opened->message_size_max >= PROTOCOL_HEADER_SIZE);
    assert(opened->message_size_max <= MESSAGE_SIZE_MAX_LIMIT);
    memcpy(opened->client_id, options->client_id, sizeof opened->client_id);

    opened->capacity =
        SP_FRAME_HEADER_SIZE + SP_REQUEST_ID_SIZE + opened->message_size_max + READ_AHEAD_SIZE;
    opened->buffer = memory_acquire(opened->capacity);
    if (opened->buffer == NULL) {
        memory_release(opened, sizeof *opened);
        return CLIENT_NO_MEMORY;
    }
    const enum client_status status =
        connect_once(opened, deadline_after(opened->connect_timeout_ms));
    if (status != CLIENT_OK) {
        client_close(opened);
        return status;
    }
    assert_invariants(opened);
    *client = opened;
    return CLIENT_OK;
}

void client_close(struct client *client)
{
    if (client == NULL) {
        return;
    }
    disconnect(client);
    memory_release(client->buffer, client->capacity);
    memory_release(client, sizeof *client);
}

uint32_t client_in_flight(const struct client *client)
{
    return client->in_flight;
}

/* ---- Requests ----------------------------------------------------------------------------------
 */

/* Takes in what has arrived, as far as there is room. */
static enum client_status absorb(struct client *client)
{
    if (client->start > 0) {
        memmove(client->buffer, client->buffer + client->start, client->end - client->start);
        client->end -= client->start;
        client->start = 0;
    }
    if (client->end == client->capacity) {
        return CLIENT_OK;
    }
    size_t received;
    const enum client_status status = receive_some(client, client->buffer + client->end,
                                                   client->capacity - client->end, &received);
    client->end += received;
    return status;
}

/* Sends iov[2] whole. CLIENT_TIMEOUT: none of it was sent. CLIENT_LOST: maybe a part, not all. */
static enum client_status transmit(struct client *client, struct iovec iov[2], uint64_t deadline_ns)
{
    bool begun = false;
    while (iov[0].iov_len + iov[1].iov_len > 0) {
        const struct msghdr message = {.msg_iov = iov, .msg_iovlen = 2};
        const ssize_t count = sendmsg(client->fd, &message, MSG_NOSIGNAL);
        if (count >= 0) {
            size_t sent = (size_t)count;
            begun = true;
            for (int i = 0; i < 2; i++) {
                const size_t part = min_u64(sent, iov[i].iov_len);
                iov[i].iov_base = (uint8_t *)iov[i].iov_base + part;
                iov[i].iov_len -= part;
                sent -= part;
            }
            assert(sent == 0);
            continue;
        }
        if (errno == EINTR) {
            continue;
        }
        if (errno != EAGAIN) {
            return errno_is_lost(errno) ? CLIENT_LOST : CLIENT_IO;
        }
        /* Without room for replies only their reader can help, and it is our caller. */
        const bool room = client->end - client->start < client->capacity;
        const short events = room ? POLLIN | POLLOUT : POLLOUT;
        short got;
        enum client_status status = wait_for(client, events, deadline_ns, &got);
        if (status == CLIENT_OK && (got & POLLIN) != 0) {
            status = absorb(client);
        }
        if (status != CLIENT_OK) {
            /* Half a request leaves nothing to do but to hang up. */
            return status == CLIENT_TIMEOUT && begun ? CLIENT_LOST : status;
        }
    }
    return CLIENT_OK;
}

static enum client_status submit(struct client *client, enum operation operation, const void *body,
                                 uint32_t body_size, uint64_t deadline_ns, uint32_t told_ms)
{
    assert_invariants(client);
    assert(body != NULL || body_size == 0);
    if (body_size > client->message_size_max - PROTOCOL_HEADER_SIZE) {
        return CLIENT_TOO_BIG;
    }
    if (client->fd < 0) {
        const enum client_status status = reconnect(client, deadline_ns);
        if (status != CLIENT_OK) {
            return status;
        }
    }
    client->number += 1;
    struct request_header header = {
        .magic = PROTOCOL_MAGIC,
        .version = PROTOCOL_VERSION,
        .operation = (uint16_t)operation,
        .number = client->number,
        .deadline_ms = told_ms,
        .body_size = body_size,
    };
    memcpy(header.client_id, client->client_id, sizeof header.client_id);

    uint8_t head[SP_FRAME_HEADER_SIZE + SP_REQUEST_ID_SIZE + PROTOCOL_HEADER_SIZE];
    sp_frame_header(head, SP_REQUEST_ID_SIZE + PROTOCOL_HEADER_SIZE + (uint64_t)body_size);
    sp_store(head + SP_FRAME_HEADER_SIZE, sp_request_id_flag | (uint32_t)client->number,
             SP_REQUEST_ID_SIZE);
    memcpy(head + SP_FRAME_HEADER_SIZE + SP_REQUEST_ID_SIZE, &header, sizeof header);

    struct iovec iov[2] = {
        {.iov_base = head, .iov_len = sizeof head},
        {.iov_base = (void *)(uintptr_t)body, .iov_len = body_size}, /* only read */
    };
    const enum client_status status = transmit(client, iov, deadline_ns);
    if (status == CLIENT_OK) {
        client->in_flight += 1;
    } else if (status != CLIENT_TIMEOUT) {
        disconnect(client);
    }
    assert_invariants(client);
    return status;
}

enum client_status client_send(struct client *client, enum operation operation, const void *body,
                               uint32_t body_size, uint32_t timeout_ms, uint64_t *number)
{
    const enum client_status status =
        submit(client, operation, body, body_size, deadline_after(timeout_ms), 0);
    if (status == CLIENT_OK && number != NULL) {
        *number = client->number;
    }
    return status;
}

/* ---- Replies -----------------------------------------------------------------------------------
 */

/* Takes one whole frame out of the buffer. False: there is none yet; *status says whether there can
 * be one. */
static bool frame_take(struct client *client, struct client_reply *reply,
                       enum client_status *status)
{
    *status = CLIENT_OK;
    const uint8_t *frame = client->buffer + client->start;
    const size_t available = client->end - client->start;
    if (available < SP_FRAME_HEADER_SIZE + SP_REQUEST_ID_SIZE) {
        return false;
    }
    const uint64_t size = sp_load(frame + 1, 8);
    if (frame[0] != SP_FRAME_MARK || size < SP_REQUEST_ID_SIZE + PROTOCOL_HEADER_SIZE ||
        size > SP_REQUEST_ID_SIZE + (uint64_t)client->message_size_max) {
        *status = CLIENT_NOT_HOLT;
        return false;
    }
    if (available < SP_FRAME_HEADER_SIZE + size) {
        return false;
    }
    const uint32_t request_id = (uint32_t)sp_load(frame + SP_FRAME_HEADER_SIZE, SP_REQUEST_ID_SIZE);
    const uint8_t *message = frame + SP_FRAME_HEADER_SIZE + SP_REQUEST_ID_SIZE;
    struct reply_header header;
    if (!protocol_reply_check(message, size - SP_REQUEST_ID_SIZE, &header) ||
        request_id != (sp_request_id_flag | (uint32_t)header.number)) {
        *status = CLIENT_NOT_HOLT;
        return false;
    }
    *reply = (struct client_reply){
        .number = header.number,
        .operation = header.operation,
        .result = (enum result)header.result,
        .commit = header.commit,
        .timestamp = header.timestamp,
        .retry_after_ms = header.retry_after_ms,
        .body_size = header.body_size,
        .body = message + PROTOCOL_HEADER_SIZE,
    };
    client->start += SP_FRAME_HEADER_SIZE + size;
    return true;
}

static enum client_status receive_until(struct client *client, uint64_t deadline_ns,
                                        struct client_reply *reply)
{
    assert_invariants(client);
    assert(client->in_flight > 0);
    for (;;) {
        enum client_status status;
        if (frame_take(client, reply, &status)) {
            client->in_flight -= 1;
            return CLIENT_OK;
        }
        if (status == CLIENT_OK) {
            short got;
            status = wait_for(client, POLLIN, deadline_ns, &got);
            if (status == CLIENT_TIMEOUT) {
                return CLIENT_TIMEOUT;
            }
        }
        if (status == CLIENT_OK) {
            status = absorb(client);
        }
        if (status != CLIENT_OK) {
            disconnect(client);
            return status;
        }
    }
}

enum client_status client_receive(struct client *client, uint32_t timeout_ms,
                                  struct client_reply *reply)
{
    return receive_until(client, deadline_after(timeout_ms), reply);
}

/* Whether doing it twice is the same as doing it once. */
static bool operation_reads(enum operation operation)
{
    switch (operation) {
    case OPERATION_HELLO:
    case OPERATION_PING:
    case OPERATION_STAT:
    case OPERATION_SCHEMA:
    case OPERATION_LOOKUP:
    case OPERATION_QUERY:
    case OPERATION_COUNT:
        return true;
    case OPERATION_CREATE_GROOVE:
    case OPERATION_DROP_GROOVE:
    case OPERATION_WRITE:
    case OPERATION_OPEN_SESSION:
    case OPERATION_CLOSE_SESSION:
        return false;
    }
    return false;
}

enum client_status client_call(struct client *client, enum operation operation, const void *body,
                               uint32_t body_size, uint32_t timeout_ms, struct client_reply *reply)
{
    assert(client->in_flight == 0);
    const uint64_t deadline_ns = deadline_after(timeout_ms);
    uint32_t backoff_ms = BACKOFF_MS_MIN;
    for (;;) {
        enum client_status status =
            submit(client, operation, body, body_size, deadline_ns, remaining_ms(deadline_ns));
        bool again = status == CLIENT_LOST; /* A request that did not leave whole did nothing. */
        if (status == CLIENT_OK) {
            status = receive_until(client, deadline_ns, reply);
            again = status == CLIENT_LOST && operation_reads(operation);
        }
        if (status == CLIENT_OK && reply->number != client->number) {
            status = CLIENT_NOT_HOLT; /* Nothing else was asked on this connection. */
        }
        if (status == CLIENT_TIMEOUT || status == CLIENT_NOT_HOLT) {
            disconnect(client); /* A late answer must not meet the next question. */
        }
        const uint32_t left_ms = remaining_ms(deadline_ns);
        if (!again || left_ms == 0) {
            return status;
        }
        pause_ms((uint32_t)min_u64(backoff_ms, left_ms));
        backoff_ms = (uint32_t)min_u64(2 * (uint64_t)backoff_ms, BACKOFF_MS_MAX);
    }
}
