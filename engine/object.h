/* Object images as clients see them, and values as trees store them.
 *
 * Object tree value: timestamp (8, big-endian: the key) | version (8, big-endian; top bit =
 * tombstone) | id (16, big-endian) | the image's fields from offset 32 on, unchanged.
 * Id tree value: id (16, big-endian: the key) | timestamp (8, big-endian; top bit = tombstone).
 * Index tree value: the key (engine/schema.h), which is all of it. */
#pragma once

#include <stdint.h>
#include <string.h>

#include "engine/lsm/key.h"

enum { ID_SIZE = 16, ID_VALUE_SIZE = 24 };

static inline uint64_t load_u64_be(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return __builtin_bswap64(word);
}

static inline void store_u64_be(uint8_t *bytes, uint64_t value)
{
    value = __builtin_bswap64(value);
    memcpy(bytes, &value, sizeof value);
}

static inline uint64_t load_u64_le(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

static inline void store_u64_le(uint8_t *bytes, uint64_t value)
{
    memcpy(bytes, &value, sizeof value);
}

/* Image id (little-endian) <-> key bytes (big-endian). */
static inline void id_reverse(uint8_t *to, const uint8_t *from)
{
    store_u64_be(to, load_u64_le(from + 8));
    store_u64_be(to + 8, load_u64_le(from));
}

static inline void object_value_from_image(uint8_t *value, const uint8_t *image, uint32_t size,
                                           uint64_t timestamp, uint64_t version)
{
    store_u64_be(value, timestamp);
    store_u64_be(value + 8, version);
    id_reverse(value + 16, image);
    memcpy(value + 32, image + 32, size - 32);
}

static inline uint64_t object_value_version(const uint8_t *value)
{
    return load_u64_be(value + 8) & ~(1ull << 63);
}

static inline void object_image_from_value(uint8_t *image, const uint8_t *value, uint32_t size)
{
    id_reverse(image, value + 16);
    store_u64_le(image + 16, load_u64_be(value));
    store_u64_le(image + 24, object_value_version(value));
    memcpy(image + 32, value + 32, size - 32);
}
