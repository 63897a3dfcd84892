/* Replies to the socket, by whichever thread answers.
 *
 * Whoever answers sends, because waking the loop first costs a synchronous client more than all
 * else here. On a connection with many requests under way replies are left to the loop, which
 * gathers what has come meanwhile for one sendmsg. */
#include "ipc/native_internal.h"

#include <assert.h>
#include <errno.h>
#include <sys/uio.h>

#include "pool/base.h"

enum {
    GATHER_SLOT_COUNT = 64, /* replies of one sendmsg */
    DIRECT_HELD_MAX = 4,    /* a connection that holds more has its replies gathered */
};

static struct slot *slot_of(struct exchange *exchange)
{
    struct slot *slot = container_of(exchange, struct slot, exchange);
    assert(atomic_load(&slot->state) == SLOT_SERVED); /* Answered twice? */
    assert(slot->connection != NULL);
    return slot;
}

void native_queue_send(struct connection *connection, struct slot **sent)
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

uint8_t *native_reply_buffer(struct exchange *exchange, uint32_t size)
{
    struct slot *slot = slot_of(exchange);
    assert(slot->reply_room == 0);
    slot->reply_room = size;
    return slot->reply;
}

void native_send(struct exchange *exchange, uint32_t size)
{
    struct slot *slot = slot_of(exchange);
    struct listener_native *listener = native_of(exchange->listener);
    struct connection *connection = slot->connection;
    assert(size <= slot->reply_room);
    sp_frame_header(slot->envelope, slot->envelope_size - SP_FRAME_HEADER_SIZE + (uint64_t)size);
    slot->reply_size = size;
    slot->sent_size = 0;
    slot->next = NULL;
    slot->queued_ns = native_now_ns();
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
            native_queue_send(connection, &sent);
        }
        if (sent == NULL) {
            /* Under the connection's lock still: the loop, which may send the rest now and with
             * that end what the server waits for before it stops us, must come after us. */
            mutex_lock(&listener->mutex);
            native_notice_locked(listener, connection);
            mutex_unlock(&listener->mutex);
        }
    }
    mutex_unlock(&connection->mutex);
    native_slots_return(listener, sent);
}

void native_drop(struct exchange *exchange)
{
    struct slot *slot = slot_of(exchange);
    struct listener_native *listener = native_of(exchange->listener);
    struct connection *connection = slot->connection;
    mutex_lock(&connection->mutex);
    if (connection->open) {
        connection->broken = true;
        mutex_lock(&listener->mutex);
        native_notice_locked(listener, connection);
        mutex_unlock(&listener->mutex);
    }
    mutex_unlock(&connection->mutex);
    atomic_store(&slot->state, SLOT_SENDING);
    slot->next = NULL;
    native_slots_return(listener, slot);
}
