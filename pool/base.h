/* The few words of arithmetic that every module shares, and nothing else. */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

__extension__ typedef unsigned __int128 u128;

/* The struct of `type` whose field `member` is at `pointer`. */
#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

#define array_count(array) (sizeof(array) / sizeof((array)[0]))

static inline bool is_power_of_two(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

/* `value` rounded up to a multiple of `alignment`, any positive number. */
static inline uint64_t align_up(uint64_t value, uint64_t alignment)
{
    assert(alignment > 0);
    return (value + alignment - 1) / alignment * alignment;
}

static inline uint64_t div_ceil(uint64_t numerator, uint64_t denominator)
{
    assert(denominator > 0);
    return numerator / denominator + (numerator % denominator != 0);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}
