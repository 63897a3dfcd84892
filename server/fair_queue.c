#include "server/fair_queue.h"

#include <assert.h>
#include <stddef.h>

#include "pool/base.h"
#include "pool/memory.h"

/* ---- Rotations ---------------------------------------------------------------------------------
 */

static struct fair_flow *rotation_find(const struct fair_rotation *rotation, uint32_t key)
{
    struct fair_flow *flow = rotation->head;
    while (flow != NULL && flow->key != key) {
        flow = flow->next;
    }
    return flow;
}

static void rotation_append(struct fair_rotation *rotation, struct fair_flow *flow)
{
    flow->next = NULL;
    if (rotation->tail == NULL) {
        assert(rotation->head == NULL);
        rotation->head = flow;
    } else {
        rotation->tail->next = flow;
    }
    rotation->tail = flow;
    rotation->count += 1;
}

static struct fair_flow *rotation_take_head(struct fair_rotation *rotation)
{
    struct fair_flow *flow = rotation->head;
    assert(flow != NULL);
    rotation->head = flow->next;
    if (rotation->head == NULL) {
        rotation->tail = NULL;
    }
    assert(rotation->count > 0);
    rotation->count -= 1;
    flow->next = NULL;
    return flow;
}

/* The head's turn is over; its next one is worth as much again. */
static void rotation_advance(struct fair_rotation *rotation)
{
    struct fair_flow *flow = rotation_take_head(rotation);
    flow->credit += FAIR_QUEUE_CREDIT;
    rotation_append(rotation, flow);
}

/* Its own, or a new one at the end. */
static struct fair_flow *flow_for(struct fair_queue *queue, struct fair_rotation *rotation,
                                  uint32_t key)
{
    struct fair_flow *flow = rotation_find(rotation, key);
    if (flow == NULL) {
        flow = queue->unused;
        assert(flow != NULL); /* Two for each request that may wait. */
        queue->unused = flow->next;
        *flow = (struct fair_flow){.key = key, .credit = FAIR_QUEUE_CREDIT};
        rotation_append(rotation, flow);
    }
    return flow;
}

static void rotation_forget_head(struct fair_queue *queue, struct fair_rotation *rotation)
{
    struct fair_flow *flow = rotation_take_head(rotation);
    assert(flow->oldest == NULL);
    assert(flow->connections.head == NULL);
    flow->next = queue->unused;
    queue->unused = flow;
}

/* ---- The queue ---------------------------------------------------------------------------------
 */

enum status fair_queue_init(struct fair_queue *queue, uint32_t count_max, uint32_t cost_min)
{
    assert(count_max > 0);
    assert(cost_min > 0 && cost_min <= FAIR_QUEUE_CREDIT);

    *queue = (struct fair_queue){.count_max = count_max, .cost_min = cost_min};
    const size_t flow_count = 2 * (size_t)count_max;
    queue->flows = memory_acquire(flow_count * sizeof *queue->flows);
    if (queue->flows == NULL) {
        return STATUS_NO_MEMORY;
    }
    for (size_t i = 0; i < flow_count; i++) {
        queue->flows[i].next = queue->unused;
        queue->unused = &queue->flows[i];
    }
    return STATUS_OK;
}

void fair_queue_deinit(struct fair_queue *queue)
{
    assert(queue->count == 0);
    memory_release(queue->flows, 2 * (size_t)queue->count_max * sizeof *queue->flows);
    *queue = (struct fair_queue){0};
}

void fair_queue_push(struct fair_queue *queue, struct exchange *exchange)
{
    assert(queue->count < queue->count_max);

    struct fair_flow *user = flow_for(queue, &queue->users, exchange->peer_uid);
    struct fair_flow *connection = flow_for(queue, &user->connections, exchange->peer_id);
    exchange->next = NULL;
    if (connection->oldest == NULL) {
        connection->oldest = exchange;
    } else {
        connection->newest->next = exchange;
    }
    connection->newest = exchange;
    queue->count += 1;
}

static uint64_t cost_of(const struct fair_queue *queue, const struct exchange *exchange)
{
    return max_u64(exchange->request_size, queue->cost_min);
}

/* Each time round everybody gets a turn's worth, so both loops end. */
struct exchange *fair_queue_peek(struct fair_queue *queue)
{
    if (queue->count == 0) {
        return NULL;
    }
    for (;;) {
        struct fair_flow *user = queue->users.head;
        const struct fair_flow *connection = user->connections.head;
        const uint64_t cost = cost_of(queue, connection->oldest);
        if (connection->credit < cost) {
            rotation_advance(&user->connections);
        } else if (user->credit < cost) {
            rotation_advance(&queue->users);
        } else {
            return connection->oldest;
        }
    }
}

void fair_queue_pass(struct fair_queue *queue)
{
    assert(queue->count > 0);
    rotation_append(&queue->users, rotation_take_head(&queue->users));
}

struct exchange *fair_queue_pop(struct fair_queue *queue)
{
    struct exchange *exchange = fair_queue_peek(queue);
    assert(exchange != NULL);

    struct fair_flow *user = queue->users.head;
    struct fair_flow *connection = user->connections.head;
    const uint64_t cost = cost_of(queue, exchange);
    connection->credit -= cost;
    user->credit -= cost;
    connection->oldest = exchange->next;
    exchange->next = NULL;
    queue->count -= 1;
    if (connection->oldest == NULL) {
        connection->newest = NULL;
        rotation_forget_head(queue, &user->connections);
    }
    if (user->connections.head == NULL) {
        rotation_forget_head(queue, &queue->users);
    }
    return exchange;
}
