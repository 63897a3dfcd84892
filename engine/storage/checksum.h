/* XXH3-128 (libxxhash): not against forgers, but the seeded form, with a secret seed, keeps a
 * client's bytes from ever looking like a journal entry. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { CHECKSUM_SIZE = 16 };

/* Canonical (big-endian) XXH3-128 bytes, the same on every machine. All zero = "none". */
struct checksum {
    uint8_t bytes[CHECKSUM_SIZE];
};

struct checksum checksum_of(const void *data, size_t size);
struct checksum checksum_seeded(uint64_t seed, const void *data, size_t size);

static inline bool checksum_equal(const struct checksum *a, const struct checksum *b)
{
    return memcmp(a->bytes, b->bytes, CHECKSUM_SIZE) == 0;
}

/* Lower-case hex, NUL terminated. */
enum { CHECKSUM_TEXT_SIZE = 2 * CHECKSUM_SIZE + 1 };
void checksum_format(const struct checksum *checksum, char text[CHECKSUM_TEXT_SIZE]);
