/* Goal: a filter never denies a key that was added, and seldom admits one that was not.
 * Method: random keys of every width and several filter sizes, filled to FILTER_BITS_PER_KEY. */
#include "engine/lsm/filter.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

#include "engine/storage/limits.h"
#include "pool/base.h"
#include "tests/harness/prng.h"

enum { FILTER_SIZE_MAX = 32768 };

static uint8_t filter[FILTER_SIZE_MAX];

static uint64_t random_hash(struct prng *prng, uint32_t key_size)
{
    uint8_t key[32];
    prng_fill(prng, key, key_size);
    return filter_hash(key, key_size);
}

Test(filter, full_filter_finds_all_and_little_else, .timeout = 120)
{
    static const uint32_t sizes[] = {32, 3968, 16256, FILTER_SIZE_MAX};
    for (uint32_t key_size = 8; key_size <= 32; key_size += 8) {
        for (size_t i = 0; i < array_count(sizes); i++) {
            const uint32_t size = sizes[i];
            const uint32_t key_count = size * 8 / FILTER_BITS_PER_KEY;
            struct prng prng;
            memset(filter, 0, sizeof filter);
            prng_init(&prng, key_size);
            for (uint32_t k = 0; k < key_count; k++) {
                filter_add(filter, size, random_hash(&prng, key_size));
            }

            prng_init(&prng, key_size);
            for (uint32_t k = 0; k < key_count; k++) {
                cr_assert(filter_may_contain(filter, size, random_hash(&prng, key_size)));
            }
            uint32_t false_count = 0;
            for (uint32_t k = 0; k < 20000; k++) {
                false_count += filter_may_contain(filter, size, random_hash(&prng, key_size));
            }
            cr_assert(lt(u32, false_count, 20000 / 200)); /* 0.5 %; the theory says about 0.1 */
        }
    }
}

Test(filter, empty_filter_contains_nothing, .timeout = 120)
{
    struct prng prng;
    prng_init(&prng, 1);
    for (uint32_t k = 0; k < 1000; k++) {
        cr_assert(not(filter_may_contain(filter, FILTER_SIZE_MAX, random_hash(&prng, 16))));
    }
}

/* The bits are a file format: they must not change with compiler, flags or library version. */
Test(filter, bits_are_the_documented_ones, .timeout = 120)
{
    static const uint8_t key[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    const uint64_t hash = filter_hash(key, sizeof key);
    cr_assert(eq(u64, hash, 0x3a1c2d7c85af88f8u));
    filter_add(filter, 96, hash);
    uint32_t bit_count = 0;
    for (uint32_t i = 0; i < 96; i++) {
        bit_count += (uint32_t)__builtin_popcount(filter[i]);
    }
    cr_assert(eq(u32, bit_count, 8));
    const uint64_t bucket = (hash >> 32) * 3 >> 32;
    uint32_t word;
    memcpy(&word, filter + bucket * 32, 4);
    cr_assert(eq(u32, word, (uint32_t)1 << ((uint32_t)hash * 0x47b6137bu >> 27)));
}
