/* Goal: a reference finds exactly its own block or nothing; a miss is filled once while others
 * wait; pinned blocks stay; a full shard says so. Method: sealed blocks whose bytes follow from a
 * number, so that every hit can be compared. More threads: stress_block_cache.c, under TSan. */
#include "engine/storage/block_cache.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "tests/harness/prng.h"

enum { BLOCK_SIZE = 4096, SLOT_COUNT = 16 * BLOCK_CACHE_SHARD_COUNT, NUMBER_MAX = 2000 };

static struct block_cache cache;
static _Alignas(4096) uint8_t scratch[BLOCK_SIZE];

/* Block `number` of generation `generation`, at address number + 1. */
static struct block_reference make_block(uint8_t *block, uint64_t number, uint8_t generation)
{
    memset(block, 0, BLOCK_SIZE);
    *block_header(block) = (struct block_header){
        .address = number + 1,
        .op = 1,
        .size = BLOCK_HEADER_SIZE + 64,
        .type = BLOCK_TYPE_VALUE,
    };
    memset(block_body(block), generation, 64);
    return block_seal(block, BLOCK_SIZE);
}

static void setup(void)
{
    cr_assert(eq(int, block_cache_init(&cache, SLOT_COUNT, BLOCK_SIZE), STATUS_OK));
}

static void teardown(void)
{
    block_cache_deinit(&cache);
}

TestSuite(block_cache, .init = setup, .fini = teardown, .timeout = 120);

/* Asks for the block and fills it on a miss; the pin is the caller's to put back. */
static enum block_cache_outcome get_or_fill(uint64_t number, uint8_t generation,
                                            struct block_pin *pin)
{
    uint8_t *buffer = NULL;
    const struct block_reference reference = make_block(scratch, number, generation);
    const enum block_cache_outcome outcome = block_cache_get(&cache, &reference, pin, &buffer);
    if (outcome == BLOCK_CACHE_MISS) {
        cr_assert(eq(ptr, buffer, (void *)pin->data));
        memcpy(buffer, scratch, BLOCK_SIZE);
        block_cache_filled(&cache, pin);
    }
    if (outcome == BLOCK_CACHE_FULL) {
        cr_assert(eq(ptr, pin->slot, NULL));
        cr_assert(eq(ptr, (void *)pin->data, NULL));
    } else {
        cr_assert(eq(int, memcmp(pin->data, scratch, BLOCK_SIZE), 0));
    }
    return outcome;
}

Test(block_cache, filled_block_is_found_again)
{
    struct block_pin first, second;
    cr_assert(eq(int, get_or_fill(7, 1, &first), BLOCK_CACHE_MISS));
    cr_assert(eq(int, get_or_fill(7, 1, &second), BLOCK_CACHE_HIT));
    cr_assert(eq(ptr, (void *)first.data, (void *)second.data));
    block_cache_put(&cache, &first);
    block_cache_put(&cache, &second);
    cr_assert(eq(ptr, second.slot, NULL));

    struct block_cache_stats stats;
    block_cache_stats_read(&cache, &stats);
    cr_assert(eq(u64, stats.hit_count, 1));
    cr_assert(eq(u64, stats.miss_count, 1));
    cr_assert(eq(u64, stats.slot_count, SLOT_COUNT));
}

Test(block_cache, reused_address_never_answers_for_the_old_block)
{
    struct block_pin older, newer;
    cr_assert(eq(int, get_or_fill(7, 1, &older), BLOCK_CACHE_MISS));
    cr_assert(eq(int, get_or_fill(7, 2, &newer), BLOCK_CACHE_MISS));
    cr_assert(ne(ptr, (void *)older.data, (void *)newer.data));
    block_cache_put(&cache, &older);
    block_cache_put(&cache, &newer);
    cr_assert(eq(int, get_or_fill(7, 1, &older), BLOCK_CACHE_HIT));
    cr_assert(eq(int, get_or_fill(7, 2, &newer), BLOCK_CACHE_HIT));
    block_cache_put(&cache, &older);
    block_cache_put(&cache, &newer);
}

Test(block_cache, abandoned_block_is_absent)
{
    struct block_pin pin;
    uint8_t *buffer;
    const struct block_reference reference = make_block(scratch, 3, 1);
    cr_assert(eq(int, block_cache_get(&cache, &reference, &pin, &buffer), BLOCK_CACHE_MISS));
    memset(buffer, 0xAB, BLOCK_SIZE); /* What a failed read may leave. */
    block_cache_abandon(&cache, &pin);
    cr_assert(eq(int, get_or_fill(3, 1, &pin), BLOCK_CACHE_MISS));
    block_cache_put(&cache, &pin);
}

Test(block_cache, pinned_blocks_stay_and_full_shards_say_so)
{
    static struct block_pin pins[NUMBER_MAX];
    uint64_t pinned_count = 0;
    uint64_t full_count = 0;
    for (uint64_t i = 0; i < NUMBER_MAX; i++) {
        full_count += get_or_fill(i, 1, &pins[i]) == BLOCK_CACHE_FULL;
        pinned_count += pins[i].slot != NULL;
    }
    cr_assert(eq(u64, pinned_count, SLOT_COUNT)); /* Every slot was used. */
    cr_assert(eq(u64, full_count, NUMBER_MAX - SLOT_COUNT));

    for (uint64_t i = 0; i < NUMBER_MAX; i++) { /* A full cache still finds, and inserts nothing. */
        struct block_pin pin;
        if (pins[i].slot != NULL) {
            cr_assert(eq(int, get_or_fill(i, 1, &pin), BLOCK_CACHE_HIT));
            block_cache_put(&cache, &pin);
        } else {
            const struct block_reference reference = make_block(scratch, i, 1);
            block_cache_insert(&cache, &reference, scratch);
            cr_assert(eq(int, get_or_fill(i, 1, &pin), BLOCK_CACHE_FULL));
        }
    }
    for (uint64_t i = 0; i < NUMBER_MAX; i++) {
        if (pins[i].slot != NULL) {
            block_cache_put(&cache, &pins[i]);
        }
    }
    struct block_pin pin; /* With the pins gone there is room again. */
    for (uint64_t i = 0; i < NUMBER_MAX; i++) {
        cr_assert(ne(int, get_or_fill(i, 2, &pin), BLOCK_CACHE_FULL));
        block_cache_put(&cache, &pin);
    }
}

Test(block_cache, eviction_spares_what_is_used)
{
    struct block_pin pin;
    uint64_t hot_miss_count = 0;
    for (uint64_t i = 0; i < NUMBER_MAX; i++) {
        hot_miss_count += get_or_fill(0, 1, &pin) == BLOCK_CACHE_MISS;
        block_cache_put(&cache, &pin);
        const struct block_reference reference = make_block(scratch, i + 1, 1);
        block_cache_insert(&cache, &reference, scratch);
    }
    cr_assert(le(u64, hot_miss_count, 2)); /* The first; and one if the hand just passed. */
}

Test(block_cache, inserted_block_is_found_and_insert_is_idempotent)
{
    struct block_pin pin, again;
    const struct block_reference reference = make_block(scratch, 5, 1);
    block_cache_insert(&cache, &reference, scratch);
    cr_assert(eq(int, get_or_fill(5, 1, &pin), BLOCK_CACHE_HIT));
    block_cache_insert(&cache, &reference, scratch);
    cr_assert(eq(int, get_or_fill(5, 1, &again), BLOCK_CACHE_HIT));
    cr_assert(eq(ptr, (void *)pin.data, (void *)again.data));
    block_cache_put(&cache, &pin);
    block_cache_put(&cache, &again);
}

struct waiter {
    struct block_reference reference;
    enum block_cache_outcome outcome;
    struct block_pin pin;
    uint8_t *buffer;
    atomic_bool started;
};

static void *waiter_main(void *argument)
{
    struct waiter *waiter = argument;
    atomic_store(&waiter->started, true);
    waiter->outcome = block_cache_get(&cache, &waiter->reference, &waiter->pin, &waiter->buffer);
    return NULL;
}

/* Whether the waiter sleeps already or comes late, the outcome must be the same. */
static void start_waiter(struct waiter *waiter, pthread_t *thread)
{
    cr_assert(eq(int, pthread_create(thread, NULL, waiter_main, waiter), 0));
    while (!atomic_load(&waiter->started)) {
        sched_yield();
    }
}

Test(block_cache, others_wait_for_the_filler)
{
    static struct waiter waiter;
    pthread_t thread;
    struct block_pin pin;
    uint8_t *buffer;
    waiter.reference = make_block(scratch, 9, 1);
    cr_assert(eq(int, block_cache_get(&cache, &waiter.reference, &pin, &buffer), BLOCK_CACHE_MISS));
    start_waiter(&waiter, &thread);
    memcpy(buffer, scratch, BLOCK_SIZE);
    block_cache_filled(&cache, &pin);
    cr_assert(eq(int, pthread_join(thread, NULL), 0));
    cr_assert(eq(int, waiter.outcome, BLOCK_CACHE_HIT));
    cr_assert(eq(ptr, (void *)waiter.pin.data, buffer));
    block_cache_put(&cache, &pin);
    block_cache_put(&cache, &waiter.pin);
}

Test(block_cache, waiter_takes_over_from_a_filler_that_gives_up)
{
    static struct waiter waiter;
    pthread_t thread;
    struct block_pin pin;
    uint8_t *buffer;
    waiter.reference = make_block(scratch, 9, 1);
    cr_assert(eq(int, block_cache_get(&cache, &waiter.reference, &pin, &buffer), BLOCK_CACHE_MISS));
    start_waiter(&waiter, &thread);
    block_cache_abandon(&cache, &pin);
    cr_assert(eq(int, pthread_join(thread, NULL), 0));
    cr_assert(eq(int, waiter.outcome, BLOCK_CACHE_MISS));
    memcpy(waiter.buffer, scratch, BLOCK_SIZE);
    block_cache_filled(&cache, &waiter.pin);
    block_cache_put(&cache, &waiter.pin);
}

Test(block_cache, random_use_agrees_with_what_was_put_in)
{
    enum { HELD_MAX = 100 };
    static struct block_pin held[HELD_MAX];
    struct prng prng;
    prng_init(&prng, 4);
    for (int event = 0; event < 20000; event++) {
        struct block_pin *pin = &held[prng_below(&prng, HELD_MAX)];
        if (pin->slot != NULL) {
            block_cache_put(&cache, pin);
        }
        const uint64_t number = prng_below(&prng, 600);
        const uint8_t generation = (uint8_t)prng_below(&prng, 2);
        if (prng_chance(&prng, 1, 4)) {
            const struct block_reference reference = make_block(scratch, number, generation);
            block_cache_insert(&cache, &reference, scratch);
        } else {
            (void)get_or_fill(number, generation, pin); /* Compares the bytes. */
        }
    }
    for (int i = 0; i < HELD_MAX; i++) {
        if (held[i].slot != NULL) {
            block_cache_put(&cache, &held[i]);
        }
    }
}

Test(block_cache, leaking_a_pin_is_a_bug, .fini = NULL, .signal = SIGABRT)
{
    struct block_pin pin;
    (void)get_or_fill(1, 1, &pin);
    block_cache_deinit(&cache);
}

Test(block_cache, filling_with_another_block_is_a_bug, .fini = NULL, .signal = SIGABRT)
{
    struct block_pin pin;
    uint8_t *buffer;
    const struct block_reference reference = make_block(scratch, 1, 1);
    (void)block_cache_get(&cache, &reference, &pin, &buffer);
    (void)make_block(buffer, 2, 1);
    block_cache_filled(&cache, &pin);
}

Test(block_cache, putting_twice_is_a_bug, .fini = NULL, .signal = SIGABRT)
{
    struct block_pin pin;
    (void)get_or_fill(1, 1, &pin);
    struct block_pin copy = pin;
    block_cache_put(&cache, &pin);
    block_cache_put(&cache, &copy);
}
