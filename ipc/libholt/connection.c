/* The connection: how it begins and ends, and the frames that come of it. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ipc/libholt/client.h"
#include "ipc/sp.h"

enum {
    BACKOFF_MS_MIN = 5,
    BACKOFF_MS_MAX = 500,
    BUFFER_SIZE_MIN = 64 * 1024,
    MESSAGE_SIZE_MAX_FIRST = 64 * 1024, /* until HELLO told */
    MESSAGE_SIZE_MAX_LEAST = 4096,      /* a groove's description fits */
};

void connection_end(struct holt *holt, enum holt_status status, const char *text)
{
    if (holt->fd >= 0) {
        close(holt->fd);
    }
    const bool was_ready = holt->state == CONNECTION_READY;
    holt->fd = -1;
    holt->broken = false;
    holt->state = CONNECTION_NONE;
    holt->start = 0;
    holt->end = 0;
    error_set(&holt->connect_error, status, text != NULL ? "%s" : NULL, text);
    const uint64_t now = now_ns();
    holt->backoff_ms = was_ready || holt->backoff_ms == 0 ? BACKOFF_MS_MIN : 2 * holt->backoff_ms;
    if (holt->backoff_ms > BACKOFF_MS_MAX) {
        holt->backoff_ms = BACKOFF_MS_MAX;
    }
    holt->connect_ns = was_ready ? now : now + holt->backoff_ms * NS_PER_MS;

    while (holt->sending.oldest != NULL) {
        struct message *message = holt->sending.oldest;
        messages_remove(&holt->sending, message);
        if (message->slot == SLOT_OWN) {
            message_free(holt, message);
        }
    }
    holt->sent_size = 0;
    /* From the last slot to the first, for those that are taken apart go to the front. */
    for (uint32_t i = SLOT_COUNT; i-- > 0;) {
        struct message *message = holt->slots[i];
        if (message != NULL) {
            message_leave_slot(holt, message);
            message_lost(holt, message, message->state == MESSAGE_SENT);
        }
    }
    assert(holt->slot_count == 0);
}

void connection_fail(struct holt *holt, enum holt_status status, const char *text)
{
    char words[sizeof holt->connect_error.text];
    snprintf(words, sizeof words, "%.107s: %.380s", holt->address.sun_path,
             text != NULL ? text : holt_status_text(status));
    connection_end(holt, status, words);
}

void connection_refuse(struct holt *holt, enum holt_status status, const char *text)
{
    connection_fail(holt, status, text);
    if (holt->opening) {
        holt->open_deadline_ns = 0;
    }
}

static enum holt_status connect_status(int error)
{
    switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ELOOP:
    case ECONNREFUSED:
    case EAGAIN: /* The daemon's queue of connections is full. */
        return HOLT_NO_DAEMON;
    case EACCES:
    case EPERM:
        return HOLT_PERMISSION;
    case EPROTOTYPE:
        return HOLT_NOT_HOLT;
    default:
        return HOLT_SYSTEM;
    }
}

void connection_begin(struct holt *holt)
{
    assert(holt->state == CONNECTION_NONE);
    holt->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (holt->fd < 0) {
        connection_fail(holt, HOLT_SYSTEM, strerror(errno));
        return;
    }
    int result;
    do {
        result = connect(holt->fd, (const struct sockaddr *)&holt->address, sizeof holt->address);
    } while (result != 0 && errno == EINTR);
    if (result != 0) {
        const enum holt_status status = connect_status(errno);
        connection_fail(holt, status, status == HOLT_NO_DAEMON ? NULL : strerror(errno));
        return;
    }
    /* A new socket has room for so little. */
    if (send(holt->fd, sp_greeting_request, SP_GREETING_SIZE, MSG_NOSIGNAL) != SP_GREETING_SIZE) {
        connection_fail(holt, HOLT_NO_DAEMON, NULL);
        return;
    }
    holt->state = CONNECTION_GREETING;
    holt->handshake_deadline_ns = now_ns() + HANDSHAKE_MS * NS_PER_MS;
    holt->stats.connections += 1;
    if (!message_send_own(holt, OPERATION_HELLO, NULL, 0)) {
        connection_fail(holt, HOLT_NO_MEMORY, NULL);
    }
}

void connection_ready(struct holt *holt)
{
    holt->state = CONNECTION_READY;
    holt->backoff_ms = 0;
    if (holt->opening) {
        holt->opening = false;
        pthread_cond_broadcast(&holt->changed);
    }
}

void connection_handle_hello(struct holt *holt, const struct reply_header *header,
                             const uint8_t *body)
{
    if (header->version != PROTOCOL_VERSION || header->result == RESULT_BAD_VERSION) {
        char words[100];
        snprintf(words, sizeof words, "the daemon speaks version %u of the protocol, not %u",
                 header->version, PROTOCOL_VERSION);
        connection_refuse(holt, HOLT_NOT_HOLT, words);
        return;
    }
    if (header->result != RESULT_OK) { /* BUSY, or stopping */
        connection_fail(holt, HOLT_NO_DAEMON, result_text(header->result));
        return;
    }
    struct hello_reply hello;
    if (header->body_size != sizeof hello) {
        connection_refuse(holt, HOLT_NOT_HOLT, NULL);
        return;
    }
    memcpy(&hello, body, sizeof hello);
    if (hello.message_size_max < MESSAGE_SIZE_MAX_LEAST ||
        hello.batch_size_max > hello.message_size_max) {
        connection_refuse(holt, HOLT_NOT_HOLT, NULL);
        return;
    }
    hello.version[sizeof hello.version - 1] = 0;
    holt->hello = hello;
    const bool sessions = (hello.features & WIRE_FEATURE_SESSIONS) != 0;
    if (!sessions) {
        session_void(holt);
    }
    holt->session_wanted = sessions && holt->session != HOLT_SESSION_OFF;
    if (holt->session != HOLT_SESSION_REQUIRED || holt->session_open) {
        connection_ready(holt); /* The first write opens the session: who only reads needs none. */
    } else if (sessions) {
        session_begin(holt);
    } else {
        connection_refuse(holt, HOLT_NOT_SUPPORTED, "the daemon has no sessions");
    }
}

/* Makes room for `size` more bytes. */
static bool buffer_reserve(struct holt *holt, size_t size)
{
    if (holt->start > 0 && holt->capacity - holt->end < size) {
        memmove(holt->buffer, holt->buffer + holt->start, holt->end - holt->start);
        holt->end -= holt->start;
        holt->start = 0;
    }
    if (holt->capacity - holt->end >= size) {
        return true;
    }
    const size_t capacity = holt->end + size;
    uint8_t *buffer = realloc(holt->buffer, capacity);
    if (buffer == NULL) {
        return false;
    }
    holt->buffer = buffer;
    holt->capacity = capacity;
    return true;
}

/* Takes whole frames out of the buffer. False: it has hung up. */
static bool take_frames(struct holt *holt)
{
    if (holt->state == CONNECTION_GREETING) {
        if (holt->end - holt->start < SP_GREETING_SIZE) {
            return true;
        }
        if (memcmp(holt->buffer + holt->start, sp_greeting_reply, SP_GREETING_SIZE) != 0) {
            connection_refuse(holt, HOLT_NOT_HOLT, NULL);
            return false;
        }
        holt->start += SP_GREETING_SIZE;
        holt->state = CONNECTION_HELLO;
    }
    while (holt->end - holt->start >= ENVELOPE_SIZE) {
        const uint8_t *frame = holt->buffer + holt->start;
        const uint64_t size = sp_load(frame + 1, 8);
        const uint64_t size_max =
            SP_REQUEST_ID_SIZE + (holt->hello.message_size_max > 0 ? holt->hello.message_size_max
                                                                   : MESSAGE_SIZE_MAX_FIRST);
        if (frame[0] != SP_FRAME_MARK || size < SP_REQUEST_ID_SIZE || size > size_max) {
            connection_refuse(holt, HOLT_NOT_HOLT, NULL);
            return false;
        }
        const size_t whole = SP_FRAME_HEADER_SIZE + (size_t)size;
        if (holt->end - holt->start < whole) {
            if (!buffer_reserve(holt, whole - (holt->end - holt->start))) {
                connection_fail(holt, HOLT_NO_MEMORY, NULL);
                return false;
            }
            return true;
        }
        const uint32_t id = (uint32_t)sp_load(frame + SP_FRAME_HEADER_SIZE, SP_REQUEST_ID_SIZE);
        const int fd = holt->fd;
        holt->start += whole;
        if ((id & sp_request_id_flag) == 0 ||
            !reply_handle(holt, id & ~sp_request_id_flag, frame + ENVELOPE_SIZE,
                          whole - ENVELOPE_SIZE)) {
            connection_refuse(holt, HOLT_NOT_HOLT, "an answer that is none of the protocol's");
            return false;
        }
        if (holt->fd != fd) {
            return false; /* The answer was a reason to hang up. */
        }
    }
    return true;
}

void connection_receive(struct holt *holt)
{
    for (;;) {
        if (!buffer_reserve(holt, holt->end == holt->capacity ? BUFFER_SIZE_MIN : 1)) {
            connection_fail(holt, HOLT_NO_MEMORY, NULL);
            return;
        }
        const size_t room = holt->capacity - holt->end;
        const ssize_t size = recv(holt->fd, holt->buffer + holt->end, room, MSG_DONTWAIT);
        if (size < 0 && errno == EINTR) {
            continue;
        }
        if (size < 0 && errno == EAGAIN) {
            return;
        }
        if (size <= 0) {
            connection_fail(holt, HOLT_NO_DAEMON, "the connection was lost");
            return;
        }
        holt->end += (size_t)size;
        if (!take_frames(holt)) {
            return;
        }
        if (holt->start == holt->end) {
            holt->start = 0;
            holt->end = 0;
        }
        if ((size_t)size < room) {
            return;
        }
    }
}
