/* Verified blocks in memory, shared by readers, prefetch and jobs; keyed by (address, checksum), so
 * a reused address can never answer for the block that was there before.
 *
 * Fixed number of slots, CLOCK eviction among unpinned ones, split in shards with a lock each.
 * A slot is pinned while its reference count is not zero. The cache never reads: block_cache_get
 * either finds, or reserves a slot that the caller fills (others asking for it meanwhile wait). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/storage/block.h"
#include "pool/mutex.h"
#include "pool/status.h"

enum { BLOCK_CACHE_SHARD_COUNT = 16 };

struct block_cache_slot; /* see block_cache.c */

struct block_cache_shard {
    struct mutex mutex; /* LOCK_RANK_BLOCK_CACHE */
    pthread_cond_t filled;
    struct block_cache_slot *slots; /* [slot_count] */
    uint32_t *buckets;              /* hash chains */
    uint8_t *memory;                /* [slot_count * block_size] */
    uint32_t slot_count;
    uint32_t bucket_count;
    uint32_t hand;
    uint64_t hit_count;
    uint64_t miss_count;
};

struct block_cache {
    struct block_cache_shard shards[BLOCK_CACHE_SHARD_COUNT];
    uint32_t block_size;
};

/* `block_count` slots in all, at least 16 per shard are made. STATUS_NO_MEMORY. */
MUST_CHECK enum status block_cache_init(struct block_cache *cache, uint32_t block_count,
                                        uint32_t block_size);
/* Asserts that nothing is pinned. */
void block_cache_deinit(struct block_cache *cache);

/* A pinned block. data is read-only, valid until block_cache_put. */
struct block_pin {
    const uint8_t *data;
    struct block_cache_slot *slot;
};

enum block_cache_outcome {
    BLOCK_CACHE_HIT,  /* pin is valid */
    BLOCK_CACHE_MISS, /* fill `*buffer`, then call block_cache_filled or block_cache_abandon */
    BLOCK_CACHE_FULL, /* every slot of the shard is pinned: read into memory of your own */
};

/* Any thread. */
enum block_cache_outcome block_cache_get(struct block_cache *cache,
                                         const struct block_reference *reference,
                                         struct block_pin *pin, uint8_t **buffer);
/* Any thread. Pins the block if it is there, and never waits. False: it is not, or not yet. */
bool block_cache_find(struct block_cache *cache, const struct block_reference *reference,
                      struct block_pin *pin);
void block_cache_filled(struct block_cache *cache, struct block_pin *pin);
void block_cache_abandon(struct block_cache *cache, struct block_pin *pin);
void block_cache_put(struct block_cache *cache, struct block_pin *pin);

/* Any thread. Copies a sealed block in, unpinned, if it is absent and a slot can be had. */
void block_cache_insert(struct block_cache *cache, const struct block_reference *reference,
                        const uint8_t *block);

struct block_cache_stats {
    uint64_t hit_count, miss_count, slot_count;
};
void block_cache_stats_read(struct block_cache *cache, struct block_cache_stats *stats);
