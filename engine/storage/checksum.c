#include "engine/storage/checksum.h"

#include <assert.h>
#include <xxhash.h>

static_assert(sizeof(XXH128_canonical_t) == CHECKSUM_SIZE, "the canonical form is what we keep");

static struct checksum checksum_canonical(XXH128_hash_t hash)
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    struct checksum checksum;
    memcpy(checksum.bytes, canonical.digest, CHECKSUM_SIZE);
    return checksum;
}

struct checksum checksum_of(const void *data, size_t size)
{
    return checksum_canonical(XXH3_128bits(data, size));
}

struct checksum checksum_seeded(uint64_t seed, const void *data, size_t size)
{
    return checksum_canonical(XXH3_128bits_withSeed(data, size, seed));
}

void checksum_format(const struct checksum *checksum, char text[CHECKSUM_TEXT_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < CHECKSUM_SIZE; i++) {
        text[2 * i] = digits[checksum->bytes[i] >> 4];
        text[2 * i + 1] = digits[checksum->bytes[i] & 15];
    }
    text[2 * CHECKSUM_SIZE] = '\0';
}
