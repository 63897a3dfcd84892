/* Keys: fixed-width byte strings that sort as unsigned big-endian integers.
 *
 * Why big-endian: fields concatenate into composite keys, a prefix of bytes is a prefix of the
 * order, and one rule (memcmp order) holds for every tree. Why not call memcmp: gcc 12 emits a
 * library call even for 16 constant bytes; a byte-swapping load and an integer compare is ~2x
 * faster (benchmarks/micro/bench_values.c). */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "pool/base.h"

enum { KEY_SIZE_MAX = 32 }; /* bytes */

/* A key of any tree, as control-plane code (manifest, scans, ranges) holds it: the tree's
 * key_size bytes, then zeros. Never used in per-value loops. */
struct key {
    uint8_t bytes[KEY_SIZE_MAX];
};

static inline uint64_t key_load_u64(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return __builtin_bswap64(word);
}

static inline u128 key_load_u128(const uint8_t *bytes)
{
    return (u128)key_load_u64(bytes) << 64 | key_load_u64(bytes + 8);
}

/* Whether key a < key b. With a constant key_size all but one arm folds away. */
__attribute__((always_inline)) static inline bool key_less(const uint8_t *a, const uint8_t *b,
                                                           uint32_t key_size)
{
    switch (key_size) {
    case 8:
        return key_load_u64(a) < key_load_u64(b);
    case 16:
        return key_load_u128(a) < key_load_u128(b);
    case 24:
        return key_load_u128(a) != key_load_u128(b) ? key_load_u128(a) < key_load_u128(b)
                                                    : key_load_u64(a + 16) < key_load_u64(b + 16);
    case 32:
        return key_load_u128(a) != key_load_u128(b) ? key_load_u128(a) < key_load_u128(b)
                                                    : key_load_u128(a + 16) < key_load_u128(b + 16);
    default:
        assert(false && "key_size must be 8, 16, 24 or 32");
        __builtin_unreachable();
    }
}
