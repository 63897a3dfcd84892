#include "pool/resource_pool.h"

#include <assert.h>
#include <stddef.h>

#include "pool/base.h"
#include "pool/memory.h"

enum { PAGE_SIZE = 4096 }; /* O_DIRECT wants each block aligned to it. */

static size_t memory_size(const struct resource_pool *pool)
{
    return (size_t)pool->block_count * pool->block_size;
}

static size_t free_stack_size(const struct resource_pool *pool)
{
    return pool->block_count * sizeof *pool->free;
}

/* Called at the start of every critical section. */
static void assert_invariants(const struct resource_pool *pool)
{
    assert(pool->block_count > 0);
    assert(pool->free_count <= pool->block_count);
    assert(pool->free_count_min <= pool->free_count);
}

static void assert_is_on_loan(const struct resource_pool *pool, const uint8_t *block)
{
    assert(block >= pool->memory);
    const size_t offset = (size_t)(block - pool->memory);
    assert(offset < memory_size(pool));
    assert(offset % pool->block_size == 0);
    if (VERIFY) {
        for (uint32_t i = 0; i < pool->free_count; i++) {
            assert(pool->free[i] != block);
        }
    }
}

enum status resource_pool_init(struct resource_pool *pool, uint32_t block_count,
                               uint32_t block_size)
{
    assert(block_count > 0);
    assert(block_size > 0 && block_size % PAGE_SIZE == 0);

    *pool = (struct resource_pool){
        .mutex = MUTEX_INITIALIZER(LOCK_RANK_RESOURCE_POOL),
        .returned = PTHREAD_COND_INITIALIZER,
        .block_size = block_size,
        .block_count = block_count,
        .free_count = block_count,
        .free_count_min = block_count,
    };
    pool->memory = memory_acquire(memory_size(pool));
    if (pool->memory == NULL) {
        return STATUS_NO_MEMORY;
    }
    pool->free = memory_acquire(free_stack_size(pool));
    if (pool->free == NULL) {
        memory_release(pool->memory, memory_size(pool));
        return STATUS_NO_MEMORY;
    }
    /* The lowest block on top, so that a pool that is large enough by far stays in few pages. */
    for (uint32_t i = 0; i < block_count; i++) {
        pool->free[i] = pool->memory + (size_t)(block_count - 1 - i) * block_size;
    }
    assert_invariants(pool);
    return STATUS_OK;
}

void resource_pool_deinit(struct resource_pool *pool)
{
    assert_invariants(pool);
    assert(pool->free_count == pool->block_count);
    const int error = pthread_cond_destroy(&pool->returned);
    assert(error == 0); /* A waiter is still blocked in acquire. */
    mutex_deinit(&pool->mutex);
    memory_release(pool->free, free_stack_size(pool));
    memory_release(pool->memory, memory_size(pool));
    *pool = (struct resource_pool){0};
}

/* Lends `count` blocks, which are known to be free. The mutex is held. */
static void lend(struct resource_pool *pool, uint8_t **blocks, uint32_t count)
{
    assert(count <= pool->free_count);
    for (uint32_t i = 0; i < count; i++) {
        pool->free_count -= 1;
        blocks[i] = pool->free[pool->free_count];
        assert(blocks[i] != NULL);
        pool->free[pool->free_count] = NULL;
    }
    if (pool->free_count < pool->free_count_min) {
        pool->free_count_min = pool->free_count;
    }
}

bool resource_pool_try_acquire(struct resource_pool *pool, uint8_t **blocks, uint32_t count)
{
    assert(count > 0 && count <= pool->block_count);

    mutex_lock(&pool->mutex);
    assert_invariants(pool);
    const bool lent = count <= pool->free_count;
    if (lent) {
        lend(pool, blocks, count);
    }
    mutex_unlock(&pool->mutex);
    return lent;
}

void resource_pool_acquire(struct resource_pool *pool, uint8_t **blocks, uint32_t count)
{
    assert(count > 0 && count <= pool->block_count);

    mutex_lock(&pool->mutex);
    assert_invariants(pool);
    while (pool->free_count < count) {
        mutex_wait(&pool->mutex, &pool->returned);
    }
    lend(pool, blocks, count);
    mutex_unlock(&pool->mutex);
}

void resource_pool_release(struct resource_pool *pool, uint8_t *const *blocks, uint32_t count)
{
    assert(count > 0 && count <= pool->block_count);

    mutex_lock(&pool->mutex);
    assert_invariants(pool);
    assert(count <= pool->block_count - pool->free_count);
    for (uint32_t i = 0; i < count; i++) {
        assert_is_on_loan(pool, blocks[i]);
        assert(pool->free[pool->free_count] == NULL);
        pool->free[pool->free_count] = blocks[i];
        pool->free_count += 1;
    }
    /* All waiters: the one that a single signal would wake may want more than this. */
    pthread_cond_broadcast(&pool->returned);
    mutex_unlock(&pool->mutex);
}
