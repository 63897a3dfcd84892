#include "engine/storage/block_cache.h"

#include <assert.h>
#include <string.h>

#include "pool/base.h"
#include "pool/memory.h"

/* State of a slot, with the call of each arrow:
 *
 *            get (miss), insert               filled, insert
 *   EMPTY ────────────────────► FILLING ─────────────────────► READY
 *     ▲                            │                             │
 *     ├────────── abandon ─────────┘                             │
 *     └───────────────────── evicted by get, insert ─────────────┘
 *
 * FILLING: exactly one pin, the filler's, who alone touches the bytes. READY: the bytes do not
 * change until the slot is evicted, which needs pin_count 0. */
enum slot_state { SLOT_EMPTY = 0, SLOT_FILLING, SLOT_READY };

enum { SLOTS_PER_SHARD_MIN = 16 };

/* Guarded by the shard's mutex; `reference` may also be read by whoever holds a pin. */
struct block_cache_slot {
    struct block_reference reference;
    uint32_t pin_count;
    uint32_t chain_next; /* slot index + 1 of the next in the bucket; 0 = end */
    enum slot_state state;
    bool referenced; /* since the hand came by last */
};

/* A checksum is a good hash already. Shard and bucket use different bits of it. */
static uint64_t hash_of(const struct block_reference *reference)
{
    uint64_t hash;
    memcpy(&hash, reference->checksum.bytes, sizeof hash);
    return hash ^ (reference->address * UINT64_C(0x9E3779B97F4A7C15));
}

static struct block_cache_shard *shard_of(struct block_cache *cache,
                                          const struct block_reference *reference)
{
    return &cache->shards[hash_of(reference) >> 32 & (BLOCK_CACHE_SHARD_COUNT - 1)];
}

static uint32_t *bucket_of(const struct block_cache_shard *shard,
                           const struct block_reference *reference)
{
    return &shard->buckets[hash_of(reference) & (shard->bucket_count - 1)];
}

static uint8_t *slot_data(const struct block_cache *cache, const struct block_cache_shard *shard,
                          const struct block_cache_slot *slot)
{
    return shard->memory + (size_t)(slot - shard->slots) * cache->block_size;
}

static void shard_deinit(struct block_cache_shard *shard, uint32_t block_size)
{
    memory_release(shard->slots, (size_t)shard->slot_count * sizeof *shard->slots);
    memory_release(shard->buckets, (size_t)shard->bucket_count * sizeof *shard->buckets);
    memory_release(shard->memory, (size_t)shard->slot_count * block_size);
    const int error = pthread_cond_destroy(&shard->filled);
    assert(error == 0);
    mutex_deinit(&shard->mutex);
}

/* On STATUS_NO_MEMORY the shard is as before. */
static enum status shard_init(struct block_cache_shard *shard, uint32_t slot_count,
                              uint32_t block_size)
{
    uint32_t bucket_count = 1;
    while (bucket_count < slot_count) {
        bucket_count *= 2;
    }
    *shard = (struct block_cache_shard){
        .mutex = MUTEX_INITIALIZER(LOCK_RANK_BLOCK_CACHE),
        .filled = PTHREAD_COND_INITIALIZER,
        .slot_count = slot_count,
        .bucket_count = bucket_count,
    };
    shard->slots = memory_acquire((size_t)slot_count * sizeof *shard->slots);
    shard->buckets = memory_acquire((size_t)bucket_count * sizeof *shard->buckets);
    shard->memory = memory_acquire((size_t)slot_count * block_size);
    if (shard->slots == NULL || shard->buckets == NULL || shard->memory == NULL) {
        shard_deinit(shard, block_size);
        return STATUS_NO_MEMORY;
    }
    return STATUS_OK;
}

enum status block_cache_init(struct block_cache *cache, uint32_t block_count, uint32_t block_size)
{
    static_assert((BLOCK_CACHE_SHARD_COUNT & (BLOCK_CACHE_SHARD_COUNT - 1)) == 0, "a mask");
    assert(is_power_of_two(block_size));
    assert(block_size >= BLOCK_SIZE_MIN);
    assert(block_count <= UINT32_MAX / 2); /* Bucket counts are powers of two above it. */

    *cache = (struct block_cache){.block_size = block_size};
    const uint32_t slot_count =
        (uint32_t)max_u64(SLOTS_PER_SHARD_MIN, div_ceil(block_count, BLOCK_CACHE_SHARD_COUNT));
    for (uint32_t i = 0; i < BLOCK_CACHE_SHARD_COUNT; i++) {
        const enum status status = shard_init(&cache->shards[i], slot_count, block_size);
        if (status != STATUS_OK) {
            while (i > 0) {
                i -= 1;
                shard_deinit(&cache->shards[i], block_size);
            }
            *cache = (struct block_cache){0};
            return status;
        }
    }
    return STATUS_OK;
}

void block_cache_deinit(struct block_cache *cache)
{
    for (uint32_t i = 0; i < BLOCK_CACHE_SHARD_COUNT; i++) {
        struct block_cache_shard *shard = &cache->shards[i];
        for (uint32_t j = 0; j < shard->slot_count; j++) {
            assert(shard->slots[j].pin_count == 0);
            assert(shard->slots[j].state != SLOT_FILLING);
        }
        shard_deinit(shard, cache->block_size);
    }
    *cache = (struct block_cache){0};
}

static struct block_cache_slot *shard_find(const struct block_cache_shard *shard,
                                           const struct block_reference *reference)
{
    uint32_t next = *bucket_of(shard, reference);
    while (next != 0) {
        struct block_cache_slot *slot = &shard->slots[next - 1];
        assert(slot->state != SLOT_EMPTY);
        if (slot->reference.address == reference->address &&
            checksum_equal(&slot->reference.checksum, &reference->checksum)) {
            return slot;
        }
        next = slot->chain_next;
    }
    return NULL;
}

static void shard_link(struct block_cache_shard *shard, struct block_cache_slot *slot)
{
    uint32_t *bucket = bucket_of(shard, &slot->reference);
    slot->chain_next = *bucket;
    *bucket = (uint32_t)(slot - shard->slots) + 1;
}

static void shard_unlink(struct block_cache_shard *shard, struct block_cache_slot *slot)
{
    uint32_t *link = bucket_of(shard, &slot->reference);
    const uint32_t self = (uint32_t)(slot - shard->slots) + 1;
    while (*link != self) {
        assert(*link != 0); /* A slot in use is in its chain. */
        link = &shard->slots[*link - 1].chain_next;
    }
    *link = slot->chain_next;
    slot->chain_next = 0;
}

/* An empty slot, evicted if need be; NULL when all are pinned. Two rounds of the hand: the first
 * may find every slot referenced, the second then finds none. */
static struct block_cache_slot *shard_evict(struct block_cache_shard *shard)
{
    for (uint32_t step = 0; step < 2 * shard->slot_count; step++) {
        struct block_cache_slot *slot = &shard->slots[shard->hand];
        shard->hand = shard->hand + 1 == shard->slot_count ? 0 : shard->hand + 1;
        if (slot->pin_count > 0) {
            continue;
        }
        assert(slot->state != SLOT_FILLING);
        if (slot->state == SLOT_EMPTY) {
            return slot;
        }
        if (slot->referenced) {
            slot->referenced = false;
            continue;
        }
        shard_unlink(shard, slot);
        *slot = (struct block_cache_slot){0};
        return slot;
    }
    return NULL;
}

/* Gives `slot` to the one who fills it. */
static void shard_commence_fill(struct block_cache_shard *shard, struct block_cache_slot *slot,
                                const struct block_reference *reference)
{
    assert(slot->state == SLOT_EMPTY);
    assert(slot->pin_count == 0);
    *slot = (struct block_cache_slot){
        .reference = *reference,
        .pin_count = 1,
        .state = SLOT_FILLING,
    };
    shard_link(shard, slot);
}

/* Locks the shard of a pinned slot. Its reference is stable: the pin keeps it from eviction. */
static struct block_cache_shard *lock_shard_of_pin(struct block_cache *cache,
                                                   const struct block_pin *pin)
{
    assert(pin->slot != NULL);
    struct block_cache_shard *shard = shard_of(cache, &pin->slot->reference);
    assert(pin->slot >= shard->slots);
    assert(pin->slot < shard->slots + shard->slot_count);
    assert(pin->data == slot_data(cache, shard, pin->slot));
    mutex_lock(&shard->mutex);
    assert(pin->slot->pin_count > 0);
    return shard;
}

/* Whether the bytes still are what the reference promises: a pin lends them read-only. */
static bool data_is_intact(const struct block_cache *cache, const uint8_t *data,
                           const struct block_reference *reference)
{
    const struct checksum checksum =
        checksum_of(data + CHECKSUM_SIZE, cache->block_size - CHECKSUM_SIZE);
    return checksum_equal(&checksum, &reference->checksum);
}

/* With the shard's lock. */
static void shard_pin(struct block_cache_shard *shard, struct block_cache_slot *slot)
{
    slot->pin_count += 1;
    slot->referenced = true;
    shard->hit_count += 1;
}

bool block_cache_find(struct block_cache *cache, const struct block_reference *reference,
                      struct block_pin *pin)
{
    assert(reference->address >= 1);
    *pin = (struct block_pin){0};
    struct block_cache_shard *shard = shard_of(cache, reference);
    mutex_lock(&shard->mutex);
    struct block_cache_slot *slot = shard_find(shard, reference);
    const bool found = slot != NULL && slot->state != SLOT_FILLING;
    if (found) {
        shard_pin(shard, slot);
    }
    mutex_unlock(&shard->mutex);
    if (found) {
        *pin = (struct block_pin){.data = slot_data(cache, shard, slot), .slot = slot};
        assert(!VERIFY || data_is_intact(cache, pin->data, reference));
    }
    return found;
}

enum block_cache_outcome block_cache_get(struct block_cache *cache,
                                         const struct block_reference *reference,
                                         struct block_pin *pin, uint8_t **buffer)
{
    assert(reference->address >= 1);
    *pin = (struct block_pin){0};
    *buffer = NULL;

    struct block_cache_shard *shard = shard_of(cache, reference);
    mutex_lock(&shard->mutex);
    struct block_cache_slot *slot = shard_find(shard, reference);
    while (slot != NULL && slot->state == SLOT_FILLING) {
        mutex_wait(&shard->mutex, &shard->filled);
        slot = shard_find(shard, reference); /* The filler may have given up, or it was evicted. */
    }

    enum block_cache_outcome outcome = BLOCK_CACHE_FULL;
    if (slot != NULL) {
        shard_pin(shard, slot);
        outcome = BLOCK_CACHE_HIT;
    } else {
        shard->miss_count += 1;
        slot = shard_evict(shard);
        if (slot != NULL) {
            shard_commence_fill(shard, slot, reference);
            outcome = BLOCK_CACHE_MISS;
        }
    }
    mutex_unlock(&shard->mutex);

    if (slot != NULL) {
        uint8_t *data = slot_data(cache, shard, slot);
        *pin = (struct block_pin){.data = data, .slot = slot};
        if (outcome == BLOCK_CACHE_MISS) {
            *buffer = data;
        } else if (VERIFY) {
            assert(data_is_intact(cache, data, reference));
        }
    }
    return outcome;
}

void block_cache_filled(struct block_cache *cache, struct block_pin *pin)
{
    const struct block_reference *reference = &pin->slot->reference;
    assert(block_header_const(pin->data)->address == reference->address);
    assert(checksum_equal(&block_header_const(pin->data)->checksum, &reference->checksum));
    if (VERIFY) {
        assert(data_is_intact(cache, pin->data, reference));
    }

    struct block_cache_shard *shard = lock_shard_of_pin(cache, pin);
    struct block_cache_slot *slot = pin->slot;
    assert(slot->state == SLOT_FILLING);
    assert(slot->pin_count == 1);
    slot->state = SLOT_READY;
    slot->referenced = true;
    const int error = pthread_cond_broadcast(&shard->filled);
    assert(error == 0);
    mutex_unlock(&shard->mutex);
}

void block_cache_abandon(struct block_cache *cache, struct block_pin *pin)
{
    struct block_cache_shard *shard = lock_shard_of_pin(cache, pin);
    struct block_cache_slot *slot = pin->slot;
    assert(slot->state == SLOT_FILLING);
    assert(slot->pin_count == 1);
    shard_unlink(shard, slot);
    *slot = (struct block_cache_slot){0};
    const int error = pthread_cond_broadcast(&shard->filled); /* One of the waiters fills it. */
    assert(error == 0);
    mutex_unlock(&shard->mutex);
    *pin = (struct block_pin){0};
}

void block_cache_put(struct block_cache *cache, struct block_pin *pin)
{
    struct block_cache_shard *shard = lock_shard_of_pin(cache, pin);
    assert(pin->slot->state == SLOT_READY);
    pin->slot->pin_count -= 1;
    mutex_unlock(&shard->mutex);
    *pin = (struct block_pin){0};
}

void block_cache_insert(struct block_cache *cache, const struct block_reference *reference,
                        const uint8_t *block)
{
    assert(reference->address >= 1);

    struct block_cache_shard *shard = shard_of(cache, reference);
    mutex_lock(&shard->mutex);
    struct block_cache_slot *slot = NULL;
    if (shard_find(shard, reference) == NULL) {
        slot = shard_evict(shard);
        if (slot != NULL) {
            shard_commence_fill(shard, slot, reference);
        }
    }
    mutex_unlock(&shard->mutex);
    if (slot == NULL) {
        return;
    }

    /* The copy is as slow as a small read: it is made like one, outside the lock. */
    uint8_t *data = slot_data(cache, shard, slot);
    memcpy(data, block, cache->block_size);
    struct block_pin pin = {.data = data, .slot = slot};
    block_cache_filled(cache, &pin);
    block_cache_put(cache, &pin);
}

void block_cache_stats_read(struct block_cache *cache, struct block_cache_stats *stats)
{
    *stats = (struct block_cache_stats){0};
    for (uint32_t i = 0; i < BLOCK_CACHE_SHARD_COUNT; i++) {
        struct block_cache_shard *shard = &cache->shards[i];
        mutex_lock(&shard->mutex);
        stats->hit_count += shard->hit_count;
        stats->miss_count += shard->miss_count;
        stats->slot_count += shard->slot_count;
        mutex_unlock(&shard->mutex);
    }
}
