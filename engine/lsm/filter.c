#include "engine/lsm/filter.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

enum {
    WORD_COUNT = 8,   /* of 32 bits in a bucket */
    BUCKET_SIZE = 32, /* bytes: half a cache line, so a lookup costs one miss */
};

/* Odd multipliers of the published split-block filter; each spreads the same 32 bits of hash to
 * another bit of its word. They are part of the file format. */
static const uint32_t salts[WORD_COUNT] = {0x47b6137b, 0x44974d91, 0x8824ad5b, 0xa2b7289d,
                                           0x705495c7, 0x2df1424b, 0x9efc4947, 0x5c6bfb31};

struct bucket {
    uint32_t words[WORD_COUNT]; /* little-endian on disk */
};
static_assert(sizeof(struct bucket) == BUCKET_SIZE, "no padding");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "blocks hold words as memory does");

uint64_t filter_hash(const uint8_t *key, uint32_t size)
{
    assert(size > 0);
    return XXH3_64bits(key, size);
}

/* The high half of the hash chooses the bucket (scaled, no division), the low half the bits. */
static uint64_t bucket_offset(uint32_t size, uint64_t hash)
{
    assert(size > 0);
    assert(size % BUCKET_SIZE == 0);
    const uint64_t bucket_index = (hash >> 32) * (size / BUCKET_SIZE) >> 32;
    return bucket_index * BUCKET_SIZE;
}

/* The bit of word `word` that this hash sets. */
static uint32_t bit_of(uint64_t hash, int word)
{
    return (uint32_t)1 << ((uint32_t)hash * salts[word] >> 27);
}

void filter_add(uint8_t *filter, uint32_t size, uint64_t hash)
{
    uint8_t *const bytes = filter + bucket_offset(size, hash);
    struct bucket bucket;
    memcpy(&bucket, bytes, BUCKET_SIZE);
    for (int i = 0; i < WORD_COUNT; i++) {
        bucket.words[i] |= bit_of(hash, i);
    }
    memcpy(bytes, &bucket, BUCKET_SIZE);
}

void filter_touch(const uint8_t *filter, uint32_t size, uint64_t hash)
{
    __builtin_prefetch(filter + bucket_offset(size, hash));
}

bool filter_may_contain(const uint8_t *filter, uint32_t size, uint64_t hash)
{
    const uint8_t *const bytes = filter + bucket_offset(size, hash);
    struct bucket bucket;
    memcpy(&bucket, bytes, BUCKET_SIZE);
    /* Most questions are about absent keys, and two words answer five of six of those. */
    uint32_t missing = 0;
    for (int i = 0; i < 2; i++) {
        missing |= bit_of(hash, i) & ~bucket.words[i];
    }
    if (missing != 0) {
        return false;
    }
    for (int i = 2; i < WORD_COUNT; i++) {
        missing |= bit_of(hash, i) & ~bucket.words[i];
    }
    return missing == 0;
}
