/* The accounts of the listener of our own: who has which slots, and what the loop is to look at.
 * All of it is under listener.mutex.
 *
 * The slot used last is lent first, so few of the pages of their buffers are ever touched. What
 * part of the slots a connection may have, and what part is kept for users who have none, is
 * decided by peers.h. */
#include "ipc/native_internal.h"

#include <assert.h>
#include <unistd.h>

#include "pool/base.h"

void native_wake(struct listener_native *listener)
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
    native_wake(listener);
}

void native_notice_locked(struct listener_native *listener, struct connection *connection)
{
    if (!connection->noticed) {
        connection->noticed = true;
        connection->notice_next = listener->notices;
        listener->notices = connection;
    }
    wake_locked(listener);
}

/* All that is said to others is said before the lock is given back: afterwards the listener may be
 * gone. */
void native_slots_return(struct listener_native *listener, struct slot *first)
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
            native_notice_locked(listener, connection);
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

struct slot *native_slot_acquire(struct listener_native *listener, struct connection *connection,
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
    } else {
        listener->refused_user = connection->user;
        listener->refused_held = connection->held;
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
