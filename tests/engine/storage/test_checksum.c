/* Goal: the bytes on disk are the canonical XXH3-128, for ever, and the seed makes a difference.
 * Method: the published value for no input; a value of ours that pins what files already hold. */
#include "engine/storage/checksum.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

TestSuite(checksum, .timeout = 120);

Test(checksum, is_canonical_xxh3_128)
{
    char text[CHECKSUM_TEXT_SIZE];
    struct checksum checksum = checksum_of("", 0);
    checksum_format(&checksum, text);
    cr_assert(eq(str, text, "99aa06d3014798d86001c324468d497f"));
    checksum = checksum_of("holt", 4);
    checksum_format(&checksum, text);
    cr_assert(eq(str, text, "1de1fc4ed8d02b50b9acefc1a4496f70"));
}

Test(checksum, depends_on_the_seed_and_on_every_bit)
{
    uint8_t data[300] = {0};
    const struct checksum plain = checksum_of(data, sizeof data);
    const struct checksum zero = checksum_seeded(0, data, sizeof data);
    const struct checksum seeded = checksum_seeded(1, data, sizeof data);
    cr_assert(checksum_equal(&plain, &zero));
    cr_assert(not(checksum_equal(&plain, &seeded)));
    for (uint32_t bit = 0; bit < 8 * sizeof data; bit++) {
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        const struct checksum flipped = checksum_seeded(1, data, sizeof data);
        cr_assert(not(checksum_equal(&seeded, &flipped)));
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}
