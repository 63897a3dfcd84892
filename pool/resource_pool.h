/* A fixed set of aligned blocks lent to jobs: the memory bound of compaction.
 *
 * All blocks are taken at init. A job takes its whole loan at once (all or nothing), so two jobs
 * can never each hold half of what both need. A worker that cannot get its loan sleeps until one
 * is returned. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "pool/mutex.h"
#include "pool/status.h"

struct resource_pool {
    struct mutex mutex; /* LOCK_RANK_RESOURCE_POOL */
    pthread_cond_t returned;
    uint8_t *memory; /* [block_count * block_size], page aligned, owned */
    uint8_t **free;  /* [block_count] stack of free blocks: LIFO, so loans are cache-warm */
    uint32_t block_size;
    uint32_t block_count;
    uint32_t free_count;
    uint32_t free_count_min; /* low-water mark, for stat */
};

MUST_CHECK enum status resource_pool_init(struct resource_pool *pool, uint32_t block_count,
                                          uint32_t block_size);
/* Asserts that every block came back. */
void resource_pool_deinit(struct resource_pool *pool);

/* Any thread. Fills blocks[count] and returns true, or takes nothing and returns false. */
MUST_CHECK bool resource_pool_try_acquire(struct resource_pool *pool, uint8_t **blocks,
                                          uint32_t count);
/* Any thread. Sleeps until the loan can be had whole. Requires count <= block_count. */
void resource_pool_acquire(struct resource_pool *pool, uint8_t **blocks, uint32_t count);
void resource_pool_release(struct resource_pool *pool, uint8_t *const *blocks, uint32_t count);
