/* Goal: no data race and no wrong byte, however readers, fillers that fail, inserters and eviction
 * interleave. Method: threads pin random blocks of a set larger than the cache and compare every
 * byte they were lent. Run under -fsanitize=thread. */
#include "engine/storage/block_cache.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "tests/harness/prng.h"

enum {
    THREAD_COUNT = 4,
    EVENT_COUNT = 6000,
    BLOCK_SIZE = 4096,
    NUMBER_COUNT = 500, /* blocks; the cache has 256 slots */
    HELD_MAX = 8,       /* pins of one thread */
};

static struct block_cache cache;
static _Alignas(4096) uint8_t blocks[NUMBER_COUNT][BLOCK_SIZE];
static struct block_reference references[NUMBER_COUNT];
static _Atomic uint64_t gets;

static void *thread_main(void *argument)
{
    struct prng prng;
    prng_init(&prng, (uint64_t)(uintptr_t)argument);
    struct block_pin held[HELD_MAX] = {0};
    for (int event = 0; event < EVENT_COUNT; event++) {
        struct block_pin *pin = &held[prng_below(&prng, HELD_MAX)];
        if (pin->slot != NULL) {
            block_cache_put(&cache, pin);
        }
        /* A few blocks are wanted by all, so that waiting happens. */
        const uint64_t number = prng_below(&prng, prng_chance(&prng, 1, 2) ? 8 : NUMBER_COUNT);
        if (prng_chance(&prng, 1, 8)) {
            block_cache_insert(&cache, &references[number], blocks[number]);
            continue;
        }
        uint8_t *buffer;
        atomic_fetch_add(&gets, 1);
        switch (block_cache_get(&cache, &references[number], pin, &buffer)) {
        case BLOCK_CACHE_HIT:
            break;
        case BLOCK_CACHE_MISS:
            if (prng_chance(&prng, 1, 4)) {
                memset(buffer, 0xEE, BLOCK_SIZE);
                block_cache_abandon(&cache, pin);
            } else {
                memcpy(buffer, blocks[number], BLOCK_SIZE);
                block_cache_filled(&cache, pin);
            }
            break;
        case BLOCK_CACHE_FULL:
            break;
        }
        if (pin->slot != NULL) {
            assert(memcmp(pin->data, blocks[number], BLOCK_SIZE) == 0);
        }
    }
    for (int i = 0; i < HELD_MAX; i++) {
        if (held[i].slot != NULL) {
            block_cache_put(&cache, &held[i]);
        }
    }
    return NULL;
}

int main(void)
{
    struct prng prng;
    prng_init(&prng, 1);
    for (uint64_t i = 0; i < NUMBER_COUNT; i++) {
        *block_header(blocks[i]) =
            (struct block_header){.address = i + 1, .size = BLOCK_SIZE, .type = BLOCK_TYPE_VALUE};
        prng_fill(&prng, block_body(blocks[i]), BLOCK_SIZE - BLOCK_HEADER_SIZE);
        references[i] = block_seal(blocks[i], BLOCK_SIZE);
    }
    const enum status status = block_cache_init(&cache, 1, BLOCK_SIZE);
    assert(status == STATUS_OK);

    pthread_t threads[THREAD_COUNT];
    for (uintptr_t i = 0; i < THREAD_COUNT; i++) {
        const int error = pthread_create(&threads[i], NULL, thread_main, (void *)i);
        assert(error == 0);
    }
    for (int i = 0; i < THREAD_COUNT; i++) {
        const int error = pthread_join(threads[i], NULL);
        assert(error == 0);
    }

    struct block_cache_stats stats;
    block_cache_stats_read(&cache, &stats);
    assert(stats.hit_count + stats.miss_count == atomic_load(&gets));
    block_cache_deinit(&cache);
    return 0;
}
