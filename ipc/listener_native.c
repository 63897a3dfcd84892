/* The listener of our own from start to stop: its memory, its descriptors, its thread. How it works
 * is told in native_internal.h.
 *
 * Memory is taken at start: slots with buffers for the largest messages, of which the pages are the
 * kernel's to give as they are used. */
#include "ipc/native_internal.h"

#include <assert.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "pool/base.h"
#include "pool/memory.h"

enum {
    CHECK_MS_MAX = 100, /* timeouts are looked at so often, or four times in the shortest */
};

/* Ends whatever was begun; the loop has not been started, or has ended here. */
static void native_close(struct listener_native *listener)
{
    if (listener->started) {
        for (uint32_t i = 0; i < listener->connection_slots; i++) {
            if (listener->connections[i].open) {
                native_connection_close(listener, &listener->connections[i]);
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
        native_wake(listener); /* Asleep or about to be: it looks once more. */
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
         pthread_create(&listener->thread, NULL, native_loop_run, listener) != 0)) {
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
