#include "server/request_queue.h"

#include <assert.h>
#include <stddef.h>

static void assert_invariants(const struct request_queue *queue)
{
    assert(queue->count <= queue->count_max);
    assert(queue->size <= queue->size_max);
    assert((queue->count == 0) == (queue->oldest == NULL));
    assert((queue->oldest == NULL) == (queue->newest == NULL));
    assert(queue->newest == NULL || queue->newest->next == NULL);
}

void request_queue_init(struct request_queue *queue, struct doorbell *doorbell, uint32_t count_max,
                        uint64_t size_max)
{
    assert(queue != NULL);
    assert(doorbell != NULL);
    assert(count_max > 0);
    assert(size_max > 0);

    *queue = (struct request_queue){
        .mutex = MUTEX_INITIALIZER(LOCK_RANK_REQUEST_QUEUE),
        .doorbell = doorbell,
        .count_max = count_max,
        .size_max = size_max,
    };
}

void request_queue_deinit(struct request_queue *queue)
{
    assert(queue->count == 0);

    mutex_deinit(&queue->mutex);
    *queue = (struct request_queue){0};
}

bool request_queue_push(struct request_queue *queue, struct exchange *exchange)
{
    assert(exchange != NULL);

    mutex_lock(&queue->mutex);
    assert_invariants(queue);
    const bool pushed =
        queue->count < queue->count_max && exchange->request_size <= queue->size_max - queue->size;
    if (pushed) {
        exchange->next = NULL;
        if (queue->newest == NULL) {
            queue->oldest = exchange;
        } else {
            queue->newest->next = exchange;
        }
        queue->newest = exchange;
        queue->count += 1;
        queue->size += exchange->request_size;
        assert_invariants(queue);
    } else {
        queue->refused_total += 1;
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
    queue->count = 0;
    queue->size = 0;
    mutex_unlock(&queue->mutex);
    return oldest;
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
