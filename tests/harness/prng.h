/* xoshiro256** (Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2018),
 * seeded by splitmix64: the same seed gives the same test on every machine. */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct prng {
    uint64_t state[4];
};

/* Any seed is good, 0 included; neighbouring seeds give unrelated sequences. */
static inline void prng_init(struct prng *prng, uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        seed += 0x9E3779B97F4A7C15u;
        uint64_t word = seed;
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9u;
        word = (word ^ (word >> 27)) * 0x94D049BB133111EBu;
        prng->state[i] = word ^ (word >> 31);
    }
}

static inline uint64_t prng_next(struct prng *prng)
{
    uint64_t *state = prng->state;
    const uint64_t scrambled = state[1] * 5;
    const uint64_t result = ((scrambled << 7) | (scrambled >> 57)) * 9;
    const uint64_t shifted = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= shifted;
    state[3] = (state[3] << 45) | (state[3] >> 19);
    return result;
}

/* 0 .. bound - 1. The bias of the modulo is far below what a test could see. */
static inline uint64_t prng_below(struct prng *prng, uint64_t bound)
{
    assert(bound > 0);
    return prng_next(prng) % bound;
}

/* min .. max, both included. */
static inline uint64_t prng_range(struct prng *prng, uint64_t min, uint64_t max)
{
    assert(min <= max);
    assert(max - min < UINT64_MAX);
    return min + prng_below(prng, max - min + 1);
}

/* True `numerator` times out of `denominator`. */
static inline bool prng_chance(struct prng *prng, uint64_t numerator, uint64_t denominator)
{
    assert(numerator <= denominator);
    return prng_below(prng, denominator) < numerator;
}

static inline void prng_fill(struct prng *prng, void *bytes, size_t size)
{
    uint8_t *byte = bytes;
    uint64_t word = 0;
    for (size_t i = 0; i < size; i++) {
        if (i % sizeof(word) == 0) {
            word = prng_next(prng);
        }
        byte[i] = (uint8_t)word;
        word >>= 8;
    }
}
