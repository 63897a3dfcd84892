/* Goal: nodes are lent, shared and come back exactly once each.
 * Method: exhaust a small pool, share nodes, and break the contract on purpose. */
#include "engine/lsm/node_pool.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>

enum { NODE_COUNT = 5 };

static struct node_pool pool;

static void setup(void)
{
    cr_assert(node_pool_init(&pool, NODE_COUNT) == STATUS_OK);
}

static void teardown(void)
{
    node_pool_deinit(&pool);
}

TestSuite(node_pool, .init = setup, .fini = teardown, .timeout = 120);

Test(node_pool, lends_each_node_once_and_takes_all_back)
{
    struct manifest_node *nodes[NODE_COUNT];
    for (int round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < NODE_COUNT; i++) {
            nodes[i] = node_pool_acquire(&pool);
            cr_assert(eq(u32, nodes[i]->reference_count, 1));
            cr_assert(eq(u32, nodes[i]->table_count, 0));
            for (uint32_t j = 0; j < i; j++) {
                cr_assert(nodes[i] != nodes[j]);
            }
            nodes[i]->table_count = i;
        }
        cr_assert(eq(u32, pool.free_count, 0));
        for (uint32_t i = 0; i < NODE_COUNT; i++) {
            node_pool_release(&pool, nodes[i]);
        }
        cr_assert(eq(u32, pool.free_count, NODE_COUNT));
        cr_assert(eq(u32, pool.free_count_min, 0));
    }
}

Test(node_pool, shared_node_comes_back_with_its_last_reference)
{
    struct manifest_node *node = node_pool_acquire(&pool);
    node_pool_reference(node);
    node_pool_reference(node);
    node_pool_release(&pool, node);
    node_pool_release(&pool, node);
    cr_assert(eq(u32, pool.free_count, NODE_COUNT - 1));
    node_pool_release(&pool, node);
    cr_assert(eq(u32, pool.free_count, NODE_COUNT));
}

Test(node_pool, empty_pool_refuses, .signal = SIGABRT)
{
    for (uint32_t i = 0; i <= NODE_COUNT; i++) {
        (void)node_pool_acquire(&pool);
    }
}

Test(node_pool, node_is_not_released_twice, .signal = SIGABRT)
{
    struct manifest_node *node = node_pool_acquire(&pool);
    node_pool_release(&pool, node);
    node_pool_release(&pool, node);
}

Test(node_pool, deinit_wants_every_node_back, .signal = SIGABRT)
{
    (void)node_pool_acquire(&pool);
    node_pool_deinit(&pool);
}
