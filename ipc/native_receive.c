/* Requests from the socket: by the loop alone.
 *
 * A short message is received into its connection's input buffer, many of them with one call, and
 * copied to a slot when it is whole. A message too long for that buffer gets a slot when its header
 * is there, and is received in place; no more than half of the slots are lent in that way, each for
 * receive_timeout_ms at most, so that those who begin and do not finish delay long messages only.
 */
#include "ipc/native_internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "pool/base.h"

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
            native_slots_return(listener, slot);
            return false;
        }
        is_last = (slot->request[words_size] & 0x80) != 0;
        words_size += SP_REQUEST_ID_SIZE;
    }
    if (!is_last) {
        native_slots_return(listener, slot); /* Too many forwarders: ignored, as nng does. */
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
        .received_ns = native_now_ns(),
        .listener = &listener->base,
    };
    atomic_store(&slot->state, SLOT_SERVED);
    listener->given_count += 1;
    listener_serve(&slot->exchange, true, &slot->given);
    return true;
}

enum frame {
    FRAME_PART,     /* more must be received */
    FRAME_WHOLE,    /* it is in the input */
    FRAME_LONG,     /* its header is there, and it fits no input */
    FRAME_RECEIVED, /* a long one, whole in its slot */
    FRAME_BAD,
};

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
        native_deadline_clear(listener, connection);
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
    native_deadline_set(listener, connection);
}

static struct slot *long_end(struct listener_native *listener, struct connection *connection)
{
    struct slot *slot = connection->receiving;
    connection->receiving = NULL;
    listener->receiving_count -= 1;
    listener->waiting_stale = true;
    native_deadline_clear(listener, connection);
    return slot;
}

/* What comes next; *size is what follows the frame's header. */
static enum frame next_frame(struct listener_native *listener, struct connection *connection,
                             uint32_t *size)
{
    if (connection->receiving != NULL) {
        *size = connection->expected_size;
        return connection->received_size < *size ? FRAME_PART : FRAME_RECEIVED;
    }
    if (!connection->greeted && !greeting_take(listener, connection)) {
        return FRAME_BAD;
    }
    if (!connection->greeted) {
        return FRAME_PART;
    }
    return frame_look(connection, listener->base.options.message_size_max, size);
}

/* One recv, to where what is on its way belongs. False: the connection is at its end. */
static bool receive_more(struct connection *connection)
{
    uint32_t size;
    if (connection->receiving != NULL) {
        uint8_t *rest = connection->receiving->request + connection->received_size;
        if (!receive(connection, rest, connection->expected_size - connection->received_size,
                     &size)) {
            return false;
        }
        connection->received_size += size;
        return true;
    }
    const uint32_t kept = connection->end - connection->start;
    memmove(connection->input, connection->input + connection->start, kept);
    connection->start = 0;
    connection->end = kept;
    if (!receive(connection, connection->input + kept, INPUT_SIZE - kept, &size)) {
        return false;
    }
    connection->end += size;
    return true;
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
    uint32_t given_count = 0;
    bool received = false;
    for (;;) {
        uint32_t size = 0;
        struct slot *slot = NULL;
        const enum frame frame = next_frame(listener, connection, &size);
        switch (frame) {
        case FRAME_BAD:
            listener_count(&listener->base.bad_frames_total);
            return TURN_END;
        case FRAME_PART:
            if (received || !connection->readable) {
                return connection->readable ? TURN_MORE : TURN_IDLE;
            }
            received = true;
            if (!receive_more(connection)) {
                return TURN_END;
            }
            continue;
        case FRAME_RECEIVED:
            slot = long_end(listener, connection);
            break;
        case FRAME_LONG:
        case FRAME_WHOLE:
            if (given_count == request_count) {
                return TURN_MORE;
            }
            slot = native_slot_acquire(listener, connection, frame == FRAME_LONG, has_waited);
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

void native_connection_serve(struct listener_native *listener, struct connection *connection,
                             uint32_t request_count, bool has_waited)
{
    if (!connection->open) {
        native_connection_recycle(listener, connection);
        return;
    }
    if (connection->ended) {
        native_connection_end(listener, connection);
        return;
    }
    switch (connection_turn(listener, connection, request_count, has_waited)) {
    case TURN_IDLE:
        break;
    case TURN_MORE:
        native_ready(listener, connection);
        break;
    case TURN_WAIT:
        native_list_push(&listener->waiting, connection, IN_WAITING);
        break;
    case TURN_END:
        native_connection_end(listener, connection);
        break;
    }
}
