/* Goal: derived sizes are what a naive count gives, defaults hold for every block size, and every
 * relation that validation promises is refused when broken. */
#include "engine/storage/limits.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/parameterized.h>
#include <stddef.h>
#include <string.h>

#include "pool/base.h"

TestSuite(limits, .timeout = 120);

/* Largest n by counting up: value blocks fill filter blocks one after the other. */
static uint32_t naive_value_block_max(const struct geometry *geometry, uint32_t key_size,
                                      uint32_t value_size)
{
    const uint32_t body = geometry->block_size - 128;
    const uint32_t values_per_block = body / value_size;
    const uint32_t per_filter = body * 8 / 16 / values_per_block;
    uint32_t used = 0;
    uint32_t count = 0;
    while (true) {
        const uint32_t filter = count % per_filter == 0 ? 24 : 0;
        if (used + 24 + key_size + filter > body) {
            return count;
        }
        used += 24 + key_size + filter;
        count += 1;
    }
}

Test(limits, tables_hold_what_their_index_can_address)
{
    for (uint32_t block_size = BLOCK_SIZE_MIN; block_size <= BLOCK_SIZE_MAX; block_size *= 2) {
        const struct geometry geometry = geometry_default(block_size);
        for (uint32_t key_size = 8; key_size <= 32; key_size += 8) {
            for (uint32_t value_size = key_size; value_size <= min_u64(4096, block_size / 4);
                 value_size += value_size < 256 ? 8 : 312) {
                const uint32_t blocks = table_value_block_max(&geometry, key_size, value_size);
                cr_assert(eq(u32, blocks, naive_value_block_max(&geometry, key_size, value_size)));
                const uint32_t values = table_value_max(&geometry, key_size, value_size);
                const uint32_t per_block = table_values_per_block(&geometry, value_size);
                const uint32_t per_filter = table_value_blocks_per_filter(&geometry, value_size);
                cr_assert(eq(u32, values, blocks * per_block));
                cr_assert(le(u32, per_filter * per_block * 16, block_body_size(&geometry) * 8));
                cr_assert(eq(u32, table_block_max(&geometry, key_size, value_size, values),
                             1 + blocks + (blocks + per_filter - 1) / per_filter));
                cr_assert(eq(u32, table_block_max(&geometry, key_size, value_size, 1), 3));
                if (per_block < values) {
                    cr_assert(eq(
                        u32, table_block_max(&geometry, key_size, value_size, per_block + 1), 4));
                }
            }
        }
    }
}

Test(limits, defaults_are_valid_for_every_block_size)
{
    for (uint32_t block_size = BLOCK_SIZE_MIN; block_size <= BLOCK_SIZE_MAX; block_size *= 2) {
        const struct geometry geometry = geometry_default(block_size);
        const char *reason = "";
        cr_assert(eq(int, geometry_validate(&geometry, &reason), STATUS_OK), "%u: %s", block_size,
                  reason);
        cr_assert(eq(u64, grid_zone_offset(&geometry) % (1 << 20), 0));
        cr_assert(eq(u64, grid_zone_offset(&geometry) % block_size, 0));
        cr_assert(ge(u64, grid_zone_offset(&geometry),
                     journal_zone_offset(&geometry) + geometry.journal_size));
        cr_assert(eq(u64, journal_entry_size_max(&geometry) % SECTOR_SIZE, 0));
        cr_assert(gt(u64, journal_entry_size_max(&geometry), geometry.batch_size_max));
    }
    const struct geometry tiny = geometry_tiny();
    const char *reason = "";
    cr_assert(eq(int, geometry_validate(&tiny, &reason), STATUS_OK), "%s", reason);
}

Test(limits, defaults_of_32_kib_blocks)
{
    const struct geometry geometry = geometry_default(32768);
    cr_assert(eq(u32, table_values_per_block(&geometry, 128), 255));
    cr_assert(eq(u32, table_value_max(&geometry, 8, 128), 1008 * 255));
    cr_assert(eq(u32, geometry.chunk_block_count, 2048));
    cr_assert(eq(u32, geometry.batch_size_max, 1 << 20));
    cr_assert(eq(u32, geometry.batch_event_max, 8192));
    cr_assert(eq(u64, geometry.bar_memory_size >> 20, 32));
    cr_assert(eq(u64, geometry.bar_journal_size >> 20, 20));
    cr_assert(eq(u64, geometry.block_count_max, 1 << 25));
    cr_assert(eq(u64, journal_zone_offset(&geometry), 65536));
    cr_assert(eq(u64, superblock_zone_offset(), 0));
    cr_assert(eq(u64, superblock_zone_size(), 16384));
}

enum field { U32_FIELD, U64_FIELD };

struct broken_case {
    char field[24]; /* the reason must name it */
    int offset;
    int kind;
    uint64_t value;
};

#define BREAK32(name, value)                                                                       \
    {                                                                                              \
#name, offsetof(struct geometry, name), U32_FIELD, value                                   \
    }
#define BREAK64(name, value)                                                                       \
    {                                                                                              \
#name, offsetof(struct geometry, name), U64_FIELD, value                                   \
    }

ParameterizedTestParameters(limits_broken, is_refused_with_its_name)
{
    static struct broken_case cases[] = {
        BREAK32(block_size, 0),
        BREAK32(block_size, 2048),
        BREAK32(block_size, 12288),
        BREAK32(block_size, 2 << 20),
        BREAK32(bar_beats, 0),
        BREAK32(bar_beats, 2),
        BREAK32(bar_beats, 5),
        BREAK32(bar_beats, 66),
        BREAK32(tree_count_max, 7),
        BREAK32(tree_count_max, 257),
        BREAK32(chunk_block_count, 0),
        BREAK32(chunk_block_count, 65),
        BREAK32(chunk_block_count, 4294967232u),
        BREAK32(batch_size_max, 0),
        BREAK32(batch_size_max, 4096),
        BREAK32(batch_size_max, 16384 + 8),
        BREAK32(batch_size_max, 4294963200u),
        BREAK32(batch_event_max, 0),
        BREAK32(batch_event_max, 946),
        BREAK32(batch_event_max, 4294967295u),
        BREAK64(journal_size, 0),
        BREAK64(journal_size, 1 << 20),
        BREAK64(journal_size, (8 << 20) + 512),
        BREAK64(journal_size, UINT64_MAX - 4095),
        BREAK64(bar_journal_size, 0),
        BREAK64(bar_journal_size, 32768),
        BREAK64(bar_journal_size, (256 << 10) + 8),
        BREAK64(bar_journal_size, UINT64_MAX - 4095),
        BREAK64(bar_memory_size, 0),
        BREAK64(bar_memory_size, UINT64_MAX),
        BREAK64(checkpoint_journal_size, 0),
        BREAK64(checkpoint_journal_size, 4095),
        BREAK64(checkpoint_journal_size, UINT64_MAX - 4095),
        BREAK64(block_count_max, 0),
        BREAK64(block_count_max, 100),
        BREAK64(block_count_max, UINT64_C(1) << 29),
        BREAK64(block_count_max, UINT64_MAX - 63),
    };
    return cr_make_param_array(struct broken_case, cases, array_count(cases));
}

ParameterizedTest(struct broken_case *broken, limits_broken, is_refused_with_its_name,
                  .timeout = 120)
{
    struct geometry geometry = geometry_tiny();
    const uint32_t value = (uint32_t)broken->value;
    if (broken->kind == U32_FIELD) {
        memcpy((char *)&geometry + broken->offset, &value, sizeof value);
    } else {
        memcpy((char *)&geometry + broken->offset, &broken->value, sizeof broken->value);
    }
    const char *reason = "";
    cr_assert(eq(int, geometry_validate(&geometry, &reason), STATUS_INVALID), "%s", broken->field);
    cr_assert(ne(ptr, (void *)strstr(reason, broken->field), NULL), "%s: %s", broken->field,
              reason);
}
