#include "server/request_queue.h"

#include <assert.h>
#include <stddef.h>

#include "pool/base.h"
#include "pool/memory.h"

enum {
    /* What the forest thread does in a millisecond at least, on disks as they are: large writes
     * take bytes, small ones their share of a batch. */
    SIZE_PER_MS = 64 * 1024,
    COUNT_PER_MS = 8,
};

static void assert_invariants(const struct request_queue *queue)
{
    assert(queue->count <= queue->count_max);
    assert(queue->size <= queue->size_max);
    assert(queue->user_count <= queue->count);
    assert((queue->count == 0) == (queue->user_count == 0));
    assert((queue->oldest == NULL) == (queue->newest == NULL));
    assert(queue->oldest == NULL || queue->count > 0);
    assert(queue->newest == NULL || queue->newest->next == NULL);
}

enum status request_queue_init(struct request_queue *queue, struct doorbell *doorbell,
                               uint32_t count_max, uint64_t size_max)
{
    assert(queue != NULL);
    assert(doorbell != NULL);
    assert(count_max > 0);
    assert(size_max > 0);

    *queue = (struct request_queue){
        .mutex = MUTEX_INITIALIZER(LOCK_RANK_REQUEST_QUEUE),
        .doorbell = doorbell,
        .users = memory_acquire(count_max * sizeof *queue->users),
        .count_max = count_max,
        .size_max = size_max,
    };
    if (queue->users == NULL) {
        mutex_deinit(&queue->mutex);
        return STATUS_NO_MEMORY;
    }
    return STATUS_OK;
}

void request_queue_deinit(struct request_queue *queue)
{
    assert(queue->count == 0);

    memory_release(queue->users, queue->count_max * sizeof *queue->users);
    mutex_deinit(&queue->mutex);
    *queue = (struct request_queue){0};
}

/* ---- With the lock -----------------------------------------------------------------------------
 */

/* NULL: nothing of him waits. */
static struct request_queue_user *user_find(struct request_queue *queue, uint32_t uid)
{
    for (uint32_t i = 0; i < queue->user_count; i++) {
        if (queue->users[i].uid == uid) {
            return &queue->users[i];
        }
    }
    return NULL;
}

static bool has_room(const struct request_queue *queue, const struct request_queue_user *user,
                     uint32_t size)
{
    if (queue->count == queue->count_max || size > queue->size_max - queue->size) {
        return false;
    }
    return size <= REQUEST_QUEUE_SMALL || user == NULL ||
           user->size + size <= REQUEST_QUEUE_SHARE * (queue->size_max - queue->size - size);
}

static void count_in(struct request_queue *queue, struct request_queue_user *user,
                     const struct exchange *exchange)
{
    if (user == NULL) {
        assert(queue->user_count < queue->count_max);
        user = &queue->users[queue->user_count];
        queue->user_count += 1;
        *user = (struct request_queue_user){.uid = exchange->peer_uid};
    }
    user->count += 1;
    user->size += exchange->request_size;
    queue->count += 1;
    queue->size += exchange->request_size;
}

static void append(struct request_queue *queue, struct exchange *exchange)
{
    exchange->next = NULL;
    if (queue->newest == NULL) {
        queue->oldest = exchange;
    } else {
        queue->newest->next = exchange;
    }
    queue->newest = exchange;
}

static uint32_t retry_after_ms(const struct request_queue *queue)
{
    const uint64_t ms = 1 + queue->size / SIZE_PER_MS + queue->count / COUNT_PER_MS;
    return (uint32_t)min_u64(ms, REQUEST_QUEUE_RETRY_MS_MAX);
}

/* ---- Calls -------------------------------------------------------------------------------------
 */

bool request_queue_push(struct request_queue *queue, struct exchange *exchange,
                        uint32_t *retry_after)
{
    assert(exchange != NULL);

    mutex_lock(&queue->mutex);
    assert_invariants(queue);
    struct request_queue_user *user = user_find(queue, exchange->peer_uid);
    const bool pushed = has_room(queue, user, exchange->request_size);
    if (pushed) {
        count_in(queue, user, exchange);
        append(queue, exchange);
        assert_invariants(queue);
    } else {
        queue->refused_total += 1;
        *retry_after = retry_after_ms(queue);
    }
    mutex_unlock(&queue->mutex);

    if (pushed) {
        doorbell_ring(queue->doorbell);
    }
    return pushed;
}

struct exchange *request_queue_take_all(struct request_queue *queue)
{
    mutex_lock(&queue->mutex);
    assert_invariants(queue);
    struct exchange *oldest = queue->oldest;
    queue->oldest = NULL;
    queue->newest = NULL;
    mutex_unlock(&queue->mutex);
    return oldest;
}

void request_queue_leave(struct request_queue *queue, const struct exchange *exchange)
{
    mutex_lock(&queue->mutex);
    assert_invariants(queue);
    struct request_queue_user *user = user_find(queue, exchange->peer_uid);
    assert(user != NULL);
    assert(user->count > 0);
    assert(user->size >= exchange->request_size);
    user->count -= 1;
    user->size -= exchange->request_size;
    if (user->count == 0) {
        assert(user->size == 0);
        queue->user_count -= 1;
        *user = queue->users[queue->user_count];
    }
    queue->count -= 1;
    queue->size -= exchange->request_size;
    assert_invariants(queue);
    mutex_unlock(&queue->mutex);
}

void request_queue_stats_read(struct request_queue *queue, struct request_queue_stats *stats)
{
    mutex_lock(&queue->mutex);
    *stats = (struct request_queue_stats){
        .count = queue->count,
        .count_max = queue->count_max,
        .size = queue->size,
        .size_max = queue->size_max,
        .refused_total = queue->refused_total,
    };
    mutex_unlock(&queue->mutex);
}
