/* Goal: crash_states makes every image that a crash can leave, and none that it cannot: what was
 * synced stays, what was not comes and goes, zones are synced apart. Method: traces by hand, each
 * sector filled with one byte, and the images they give. */
#include "tests/harness/crash_states.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

#include "engine/storage/limits.h"

enum { SECTOR_MAX = 16, EVENT_MAX = 16, JOURNAL_FIRST = 8, IMAGE_MAX = 256 };

static struct sector_arena disk_arena, state_arena;
static struct image_io disk;
static struct trace trace;
static _Atomic uint64_t acknowledged, issued;

/* What was seen: the first byte of each sector, and whether a sector held more than one. */
static struct seen {
    uint8_t bytes[SECTOR_MAX];
    bool mixed;
    uint64_t sector_count, event, commit_min, commit_max;
} seen[IMAGE_MAX];
static uint32_t seen_count;

static void setup(void)
{
    sector_arena_init(&disk_arena, UINT64_C(1) << 30);
    sector_arena_init(&state_arena, UINT64_C(1) << 30);
    image_io_init(&disk, SECTOR_MAX, &disk_arena, JOURNAL_FIRST, SECTOR_MAX);
    trace_init(&trace, SECTOR_MAX, EVENT_MAX);
    image_io_record(&disk, &trace, &acknowledged, &issued);
}

static void teardown(void)
{
    trace_deinit(&trace);
    image_io_deinit(&disk);
    sector_arena_deinit(&disk_arena);
    sector_arena_deinit(&state_arena);
}

TestSuite(crash_states, .init = setup, .fini = teardown, .timeout = 30);

static void write_sectors(uint64_t first, uint32_t count, uint8_t byte)
{
    static _Alignas(SECTOR_SIZE) uint8_t bytes[4 * SECTOR_SIZE];
    memset(bytes, byte, sizeof bytes);
    cr_assert(
        eq(int, io_write(&disk.io, first * SECTOR_SIZE, bytes, count * SECTOR_SIZE), STATUS_OK));
}

static void sync_disk(void)
{
    cr_assert(eq(int, io_sync(&disk.io), STATUS_OK));
}

static void note(void *context, const struct crash_state *state)
{
    (void)context;
    cr_assert(seen_count < IMAGE_MAX);
    struct seen *entry = &seen[seen_count];
    seen_count += 1;
    *entry = (struct seen){
        .sector_count = state->image->sector_count,
        .event = state->event,
        .commit_min = state->commit_min,
        .commit_max = state->commit_max,
    };
    for (uint32_t i = 0; i < SECTOR_MAX; i++) {
        const uint8_t *bytes = sector_bytes(&state->image->sectors[i]);
        entry->bytes[i] = bytes[0];
        entry->mixed |= memcmp(bytes, bytes + 1, SECTOR_SIZE - 1) != 0;
    }
}

static void enumerate(const struct crash_options *options)
{
    struct prng prng;
    prng_init(&prng, 7);
    image_io_record_end(&disk);
    const uint64_t visited = crash_states(&trace, options, &prng, &state_arena, note, NULL);
    cr_assert(eq(u64, visited, seen_count));
}

static const struct crash_options whole = {.all_max = 8, .stride = 1};

/* How many states after `event` have these first bytes in the first three sectors. */
static uint32_t count_states(uint64_t event, uint8_t a, uint8_t b, uint8_t c)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < seen_count; i++) {
        count += seen[i].event == event && seen[i].bytes[0] == a && seen[i].bytes[1] == b &&
                 seen[i].bytes[2] == c;
    }
    return count;
}

Test(crash_states, every_combination_of_unsynced_writes_is_made)
{
    write_sectors(0, 1, 1);
    write_sectors(1, 1, 2);
    write_sectors(0, 1, 3); /* Over the first. */
    enumerate(&whole);
    cr_assert(eq(u32, seen_count, 2 + 4 + 8));
    cr_assert(eq(u32, count_states(2, 0, 0, 0), 1));
    cr_assert(eq(u32, count_states(2, 1, 0, 0), 1));
    cr_assert(eq(u32, count_states(2, 3, 0, 0), 2)); /* With and without what it hides. */
    cr_assert(eq(u32, count_states(2, 0, 2, 0), 1));
    cr_assert(eq(u32, count_states(2, 3, 2, 0), 2));
}

Test(crash_states, what_was_synced_stays)
{
    write_sectors(0, 1, 1);
    sync_disk();
    write_sectors(1, 1, 2);
    enumerate(&whole);
    cr_assert(eq(u32, seen_count, 2 + 1 + 2));
    cr_assert(eq(u32, count_states(1, 1, 0, 0), 1));
    cr_assert(eq(u32, count_states(2, 1, 0, 0), 1));
    cr_assert(eq(u32, count_states(2, 1, 2, 0), 1));
}

Test(crash_states, a_sync_covers_only_the_zone_that_its_thread_wrote)
{
    write_sectors(0, 1, 1);
    write_sectors(JOURNAL_FIRST, 1, 2);
    sync_disk();
    sync_disk(); /* Nothing was written since: this one covers all. */
    enumerate(&whole);
    uint32_t without = 0;
    for (uint32_t i = 0; i < seen_count; i++) {
        if (seen[i].event == 2) {
            cr_assert(eq(u8, seen[i].bytes[JOURNAL_FIRST], 2));
            without += seen[i].bytes[0] == 0;
        }
    }
    cr_assert(eq(u32, without, 1));
    cr_assert(eq(u32, count_states(3, 1, 0, 0), 1));
    cr_assert(eq(u32, count_states(3, 0, 0, 0), 0));
}

Test(crash_states, a_state_knows_what_was_acknowledged_before_the_next_event)
{
    issued = 1;
    write_sectors(0, 1, 1);
    sync_disk();
    acknowledged = 1;
    issued = 2;
    write_sectors(1, 1, 2);
    acknowledged = 2;
    enumerate(&whole);
    for (uint32_t i = 0; i < seen_count; i++) {
        cr_assert(eq(u64, seen[i].commit_min, seen[i].event));
        cr_assert(eq(u64, seen[i].commit_max, seen[i].event == 2 ? 2 : 1));
    }
}

Test(crash_states, writes_are_torn_between_sectors_and_within)
{
    write_sectors(0, 3, 9);
    const struct crash_options torn = {.torn = 160, .stride = 1};
    enumerate(&torn);
    uint32_t mixed = 0, apart = 0;
    for (uint32_t i = 0; i < seen_count; i++) {
        mixed += seen[i].mixed;
        apart += !seen[i].mixed && seen[i].bytes[0] != seen[i].bytes[2];
    }
    cr_assert(mixed > 10 && apart > 5);
    cr_assert(eq(u64, state_arena.used, 0)); /* Torn sectors are given up after each call. */
}

Test(crash_states, many_writes_are_lost_and_kept_one_by_one)
{
    for (uint32_t i = 0; i < 6; i++) {
        write_sectors(i, 1, (uint8_t)(i + 1));
    }
    const struct crash_options few = {.all_max = 2, .one_max = 8, .random = 5, .stride = 1};
    enumerate(&few);
    uint32_t alone = 0, missing = 0;
    for (uint32_t i = 0; i < seen_count; i++) {
        uint32_t present = 0;
        for (uint32_t j = 0; j < 6; j++) {
            present += seen[i].bytes[j] != 0;
        }
        alone += seen[i].event == 5 && present == 1;
        missing += seen[i].event == 5 && present == 5;
    }
    cr_assert(alone >= 6 && missing >= 6);
}

Test(crash_states, growth_that_was_lost_leaves_the_file_short)
{
    write_sectors(0, 1, 1);
    sync_disk();
    write_sectors(5, 1, 2);
    enumerate(&whole);
    cr_assert(eq(u64, seen[seen_count - 2].sector_count, 1));
    cr_assert(eq(u64, seen[seen_count - 1].sector_count, 6));
}

Test(crash_states, equal_images_have_equal_hashes)
{
    struct image other;
    image_init(&other, SECTOR_MAX);
    write_sectors(2, 1, 7);
    write_sectors(4, 1, 8);
    const uint8_t *seven = disk.image.sectors[2].bytes;
    image_set(&other, 4, &disk.image.sectors[4]);
    cr_assert(ne(u64, image_hash(&other), image_hash(&disk.image)));
    const struct sector sector = sector_make(&disk_arena, seven);
    image_set(&other, 2, &sector);
    cr_assert(eq(u64, image_hash(&other), image_hash(&disk.image)));
    image_set(&other, 1, &sector);
    cr_assert(ne(u64, image_hash(&other), image_hash(&disk.image)));
    image_io_record_end(&disk);
    image_deinit(&other);
}
