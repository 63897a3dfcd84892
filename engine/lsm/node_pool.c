#include "engine/lsm/node_pool.h"

#include <assert.h>
#include <string.h>

#include "pool/memory.h"

enum status node_pool_init(struct node_pool *pool, uint32_t node_count)
{
    assert(pool != NULL);
    assert(node_count >= NODE_CHANGE_MAX);

    struct manifest_node *nodes = memory_acquire((size_t)node_count * sizeof(struct manifest_node));
    if (nodes == NULL) {
        return STATUS_NO_MEMORY;
    }
    *pool = (struct node_pool){
        .nodes = nodes,
        .node_count = node_count,
        .free_count = node_count,
        .free_count_min = node_count,
    };
    /* Linked so that the lowest node is lent first: memory is touched only as the forest grows. */
    for (uint32_t i = node_count; i > 0; i--) {
        nodes[i - 1].free_next = pool->free;
        pool->free = &nodes[i - 1];
    }
    return STATUS_OK;
}

void node_pool_deinit(struct node_pool *pool)
{
    assert(pool->nodes != NULL);
    assert(pool->free_count == pool->node_count);

    memory_release(pool->nodes, (size_t)pool->node_count * sizeof(struct manifest_node));
    memset(pool, 0, sizeof *pool);
}

struct manifest_node *node_pool_acquire(struct node_pool *pool)
{
    assert(pool->free_count > 0);
    assert(pool->free != NULL);

    struct manifest_node *node = pool->free;
    assert(node->reference_count == 0);
    pool->free = node->free_next;
    pool->free_count -= 1;
    if (pool->free_count < pool->free_count_min) {
        pool->free_count_min = pool->free_count;
    }
    assert((pool->free == NULL) == (pool->free_count == 0));

    node->reference_count = 1;
    node->table_count = 0;
    node->free_next = NULL;
    return node;
}

void node_pool_reference(struct manifest_node *node)
{
    assert(node->reference_count > 0);
    assert(node->reference_count < UINT32_MAX);

    node->reference_count += 1;
}

void node_pool_release(struct node_pool *pool, struct manifest_node *node)
{
    assert(node >= pool->nodes && node < pool->nodes + pool->node_count);
    assert(node->reference_count > 0);
    assert(node->free_next == NULL);

    node->reference_count -= 1;
    if (node->reference_count > 0) {
        return;
    }
    assert(pool->free_count < pool->node_count);
    node->free_next = pool->free;
    pool->free = node;
    pool->free_count += 1;
}
