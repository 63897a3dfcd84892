#include "engine/storage/limits.h"

#include <assert.h>
#include <stddef.h>

#include "pool/base.h"

/* An index block spends this on each block it points to, beside a value block's first key. */
enum { REFERENCE_SIZE = 24 };

enum {
    KIB = 1024,
    MIB = 1024 * 1024,
    KEY_SIZE_MIN = 8,
    KEY_SIZE_MAX_ON_DISK = 32,
    JOURNAL_ENTRY_HEADER_SIZE = 128,
    SUPERBLOCK_SECTORS = 4,
    JOURNAL_ZONE_ALIGNMENT = 64 * KIB,
    GRID_ZONE_ALIGNMENT = MIB,
    CHUNK_BLOCKS_MIN = 64, /* one word of the free set's bitmaps */
    /* One object of the largest size and its section header must fit. */
    BATCH_SIZE_MIN = 2 * OBJECT_SIZE_MAX,
    BATCH_SIZE_LIMIT = 16 * MIB,
    BATCH_EVENT_LIMIT = 1 << 16,
    /* What sizes are derived from: objects of this size, under 8-byte timestamps. */
    REFERENCE_OBJECT_SIZE = 128,
    REFERENCE_KEY_SIZE = 8,
};

/* The free set keeps three bits a block in memory: 96 MiB at this limit. */
static const uint64_t block_count_limit = UINT64_C(1) << 28;
static const uint64_t journal_size_limit = UINT64_C(1) << 40;
static const uint64_t bar_size_limit = UINT64_C(1) << 38;

/* Defaults stop following the table's capacity here: a table's grows with the square of the block
 * size, to 34 GB for 1 MiB blocks, and nobody wants three of those in memory. Blocks of 64 KiB and
 * less stay below it. */
static const uint64_t table_size_default_max = 128 * MIB;

static_assert(BLOCK_HEADER_SIZE < BLOCK_SIZE_MIN, "a block has a body");
static_assert(BLOCK_SIZE_MIN % SECTOR_SIZE == 0, "blocks are whole sectors");
static_assert(IO_SIZE_MAX % SECTOR_SIZE == 0, "calls are whole sectors");
static_assert(BLOCK_SIZE_MIN / 4 >= OBJECT_SIZE_MIN, "the smallest object fits the smallest block");
static_assert(BLOCK_SIZE_MIN - BLOCK_HEADER_SIZE >=
                  2 * (REFERENCE_SIZE + KEY_SIZE_MAX_ON_DISK + REFERENCE_SIZE),
              "the smallest index block holds more than one value block of any shape");
static_assert(SUPERBLOCK_SECTORS * SECTOR_SIZE <= JOURNAL_ZONE_ALIGNMENT,
              "the journal begins at the first boundary");

static bool table_fits(uint64_t body_size, uint64_t key_size, uint64_t blocks_per_filter,
                       uint64_t value_block_count)
{
    const uint64_t filter_block_count = div_ceil(value_block_count, blocks_per_filter);
    return value_block_count * (REFERENCE_SIZE + key_size) + filter_block_count * REFERENCE_SIZE <=
           body_size;
}

/* Bytes of the values in a full table of reference objects. */
static uint64_t reference_table_size(const struct geometry *geometry)
{
    return (uint64_t)table_value_max(geometry, REFERENCE_KEY_SIZE, REFERENCE_OBJECT_SIZE) *
           REFERENCE_OBJECT_SIZE;
}

/* What the ring must hold: the interval that calls for a checkpoint; the bar before it, which its
 * replay starts with; the bar in which the call is noticed; and the bar within which its superblock
 * becomes durable. Each bar may end an entry late. At its end the ring loses up to one entry to the
 * rule that none straddles it, and one more is being written. */
static uint64_t journal_size_min(const struct geometry *geometry)
{
    const uint64_t entry_size_max = journal_entry_size_max(geometry);
    return geometry->checkpoint_journal_size + 3 * (geometry->bar_journal_size + entry_size_max) +
           2 * entry_size_max;
}

static uint64_t power_of_two_at_most(uint64_t value)
{
    assert(value > 0);
    uint64_t power = 1;
    while (power <= value / 2) {
        power *= 2;
    }
    return power;
}

/* At 128-byte objects with three indexes: 131,072 of them. */
static const uint64_t bar_memory_default_max = 32 * MIB;

struct geometry geometry_default(uint32_t block_size)
{
    assert(is_power_of_two(block_size));
    assert(block_size >= BLOCK_SIZE_MIN && block_size <= BLOCK_SIZE_MAX);

    const uint64_t chunk_block_count = max_u64(64 * MIB / block_size, CHUNK_BLOCKS_MIN);
    const uint64_t terabyte = UINT64_C(1) << 40;
    struct geometry geometry = {
        .block_size = block_size,
        .bar_beats = 32,
        .tree_count_max = 64,
        .chunk_block_count = (uint32_t)chunk_block_count,
        .batch_size_max = MIB,
        .batch_event_max = 8192,
        .block_count_max = min_u64(terabyte / block_size, UINT64_C(1) << 26),
    };
    if (block_size < 32 * KIB) {
        const uint64_t values =
            table_value_max(&geometry, REFERENCE_KEY_SIZE, REFERENCE_OBJECT_SIZE);
        const uint64_t events = min_u64(power_of_two_at_most(values / 8), 8192);
        const uint64_t size = align_up(events * REFERENCE_OBJECT_SIZE + 64 * KIB, 4 * KIB);
        geometry.batch_event_max = (uint32_t)events;
        geometry.batch_size_max = (uint32_t)min_u64(MIB, max_u64(32 * KIB, size));
    }
    const uint64_t table_size = min_u64(reference_table_size(&geometry), table_size_default_max);
    const uint64_t batch_size = geometry.batch_size_max;
    /* A bar is what recovery may have to replay two and a half times, so it is no larger than
     * bar_memory_default_max; the objects of its entries are about half of their bytes, and a
     * quarter is left for the sectors that batches do not fill. Small entries absorb into memory
     * for three bars of journal before they call for a checkpoint. */
    geometry.bar_memory_size =
        max_u64(min_u64(3 * table_size, bar_memory_default_max), 4 * batch_size);
    geometry.bar_journal_size =
        align_up(max_u64(geometry.bar_memory_size / 8 * 5, 4 * batch_size), SECTOR_SIZE);
    geometry.checkpoint_journal_size = max_u64(3 * geometry.bar_journal_size, 16 * MIB);
    geometry.journal_size = align_up(journal_size_min(&geometry), MIB);
    return geometry;
}

struct geometry geometry_tiny(void)
{
    struct geometry geometry = {
        .block_size = 4 * KIB,
        .bar_beats = 4,
        .tree_count_max = 16,
        .chunk_block_count = 64,
        .batch_size_max = 16 * KIB,
        .batch_event_max = 64,
        .bar_journal_size = 256 * KIB,
        .bar_memory_size = 512 * KIB,
        .checkpoint_journal_size = 256 * KIB,
        .block_count_max = 64 * 1024,
    };
    geometry.journal_size = align_up(journal_size_min(&geometry), MIB);
    return geometry;
}

/* The first relation that does not hold, or NULL. Later checks rely on the bounds of earlier ones:
 * nothing here can overflow. */
static const char *geometry_problem(const struct geometry *geometry)
{
    if (!is_power_of_two(geometry->block_size) || geometry->block_size < BLOCK_SIZE_MIN ||
        geometry->block_size > BLOCK_SIZE_MAX) {
        return "block_size must be a power of two from 4 KiB to 1 MiB";
    }
    if (geometry->bar_beats < 4 || geometry->bar_beats > 64 || geometry->bar_beats % 2 != 0) {
        return "bar_beats must be even, from 4 to 64";
    }
    if (geometry->tree_count_max < 8 || geometry->tree_count_max > TREE_COUNT_LIMIT) {
        return "tree_count_max must be from 8 to 256";
    }
    if (geometry->batch_size_max < BATCH_SIZE_MIN || geometry->batch_size_max > BATCH_SIZE_LIMIT ||
        geometry->batch_size_max % SECTOR_SIZE != 0) {
        return "batch_size_max must be a multiple of 4 KiB from 8 KiB to 16 MiB";
    }
    if (geometry->batch_event_max < 1 || geometry->batch_event_max > BATCH_EVENT_LIMIT) {
        return "batch_event_max must be from 1 to 65536";
    }
    if (geometry->batch_event_max >
        table_value_max(geometry, REFERENCE_KEY_SIZE, REFERENCE_OBJECT_SIZE) / 4) {
        return "batch_event_max must be at most a quarter of the 128-byte objects that fit one "
               "table: lower it or take larger blocks";
    }
    if (geometry->bar_journal_size > bar_size_limit || geometry->bar_memory_size > bar_size_limit ||
        geometry->checkpoint_journal_size > bar_size_limit) {
        return "bar_journal_size, bar_memory_size and checkpoint_journal_size must be at most "
               "256 GiB";
    }
    if (geometry->bar_journal_size < 4 * (uint64_t)geometry->batch_size_max ||
        geometry->bar_journal_size % SECTOR_SIZE != 0) {
        return "bar_journal_size must be a multiple of 4 KiB and at least 4 times batch_size_max";
    }
    if (geometry->bar_memory_size < 4 * (uint64_t)geometry->batch_size_max) {
        return "bar_memory_size must be at least 4 times batch_size_max";
    }
    if (geometry->checkpoint_journal_size == 0 ||
        geometry->checkpoint_journal_size % SECTOR_SIZE != 0) {
        return "checkpoint_journal_size must be a multiple of 4 KiB, not 0";
    }
    if (geometry->journal_size > journal_size_limit || geometry->journal_size % SECTOR_SIZE != 0) {
        return "journal_size must be a multiple of 4 KiB and at most 1 TiB";
    }
    if (geometry->journal_size < journal_size_min(geometry)) {
        return "journal_size must be at least checkpoint_journal_size + 3 times bar_journal_size + "
               "5 times the largest journal entry";
    }
    if (geometry->chunk_block_count == 0 || geometry->chunk_block_count % CHUNK_BLOCKS_MIN != 0) {
        return "chunk_block_count must be a multiple of 64, not 0";
    }
    if (geometry->block_count_max == 0 || geometry->block_count_max > block_count_limit ||
        geometry->block_count_max % geometry->chunk_block_count != 0) {
        return "block_count_max must be a multiple of chunk_block_count, not 0, and at most 2^28";
    }
    return NULL;
}

enum status geometry_validate(const struct geometry *geometry, const char **reason)
{
    const char *problem = geometry_problem(geometry);
    if (problem != NULL) {
        *reason = problem;
        return STATUS_INVALID;
    }
    return STATUS_OK;
}

uint32_t block_body_size(const struct geometry *geometry)
{
    assert(geometry->block_size >= BLOCK_SIZE_MIN);
    assert(geometry->block_size <= BLOCK_SIZE_MAX);
    return geometry->block_size - BLOCK_HEADER_SIZE;
}

uint32_t table_values_per_block(const struct geometry *geometry, uint32_t value_size)
{
    assert(value_size >= KEY_SIZE_MIN);
    assert(value_size <= block_body_size(geometry));
    return block_body_size(geometry) / value_size;
}

uint32_t table_value_blocks_per_filter(const struct geometry *geometry, uint32_t value_size)
{
    const uint32_t filter_keys = block_body_size(geometry) * 8 / FILTER_BITS_PER_KEY;
    const uint32_t blocks = filter_keys / table_values_per_block(geometry, value_size);
    static_assert(KEY_SIZE_MIN * 8 >= FILTER_BITS_PER_KEY, "a filter covers a block of any values");
    assert(blocks >= 1);
    return blocks;
}

uint32_t table_value_block_max(const struct geometry *geometry, uint32_t key_size,
                               uint32_t value_size)
{
    assert(key_size >= KEY_SIZE_MIN && key_size <= KEY_SIZE_MAX_ON_DISK);
    assert(key_size % 8 == 0);
    assert(value_size >= key_size);

    /* n * (24 + key_size) + ceil(n / G) * 24 <= body. Without the ceil the largest n is the
     * quotient below; with it, a little less. */
    const uint64_t body_size = block_body_size(geometry);
    const uint64_t blocks_per_filter = table_value_blocks_per_filter(geometry, value_size);
    uint64_t count = body_size * blocks_per_filter /
                     (blocks_per_filter * (REFERENCE_SIZE + key_size) + REFERENCE_SIZE);
    while (!table_fits(body_size, key_size, blocks_per_filter, count)) {
        count -= 1;
    }
    assert(count >= 1);
    assert(!table_fits(body_size, key_size, blocks_per_filter, count + 1));
    return (uint32_t)count;
}

uint32_t table_value_max(const struct geometry *geometry, uint32_t key_size, uint32_t value_size)
{
    const uint64_t count = (uint64_t)table_value_block_max(geometry, key_size, value_size) *
                           table_values_per_block(geometry, value_size);
    assert(count <= UINT32_MAX);
    return (uint32_t)count;
}

uint32_t table_block_max(const struct geometry *geometry, uint32_t key_size, uint32_t value_size,
                         uint32_t value_count)
{
    assert(value_count >= 1);
    assert(value_count <= table_value_max(geometry, key_size, value_size));

    const uint64_t value_blocks =
        div_ceil(value_count, table_values_per_block(geometry, value_size));
    const uint64_t filter_blocks =
        div_ceil(value_blocks, table_value_blocks_per_filter(geometry, value_size));
    return (uint32_t)(1 + value_blocks + filter_blocks);
}

uint32_t session_lane_count_max(const struct geometry *geometry)
{
    static_assert(BLOCK_SIZE_MIN / 16 >= SESSION_LANE_MAX,
                  "the smallest file has the largest session");
    return (uint32_t)min_u64(geometry->block_size / 16, SESSION_LANE_COUNT_LIMIT);
}

uint32_t session_count_max(const struct geometry *geometry)
{
    return session_lane_count_max(geometry) / 2;
}

uint64_t superblock_zone_offset(void)
{
    return 0;
}

uint64_t superblock_zone_size(void)
{
    return SUPERBLOCK_SECTORS * SECTOR_SIZE;
}

uint64_t journal_zone_offset(const struct geometry *geometry)
{
    (void)geometry; /* The same for every geometry: it must be found before one is known. */
    return align_up(superblock_zone_offset() + superblock_zone_size(), JOURNAL_ZONE_ALIGNMENT);
}

uint64_t grid_zone_offset(const struct geometry *geometry)
{
    const uint64_t journal_end = journal_zone_offset(geometry) + geometry->journal_size;
    return align_up(journal_end, max_u64(GRID_ZONE_ALIGNMENT, geometry->block_size));
}

uint64_t journal_entry_size_max(const struct geometry *geometry)
{
    return align_up(JOURNAL_ENTRY_HEADER_SIZE + (uint64_t)geometry->batch_size_max +
                        (uint64_t)BATCH_REQUEST_MAX * JOURNAL_REQUEST_HEADER_MAX,
                    SECTOR_SIZE);
}
