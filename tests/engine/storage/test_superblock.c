/* Goal: whatever single crash or bad copy befalls the root, open gives the old state or the new
 * one, whole, and never guesses. Method: all 4^4 states of the copies against the rule in words,
 * power loss at every I/O of a write and of a repair, each starting state with none or one copy
 * bad. */
#include "engine/storage/superblock.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <string.h>

#include "tests/harness/prng.h"
#include "tests/harness/sim_io.h"

enum { COPIES = SUPERBLOCK_COPY_COUNT, ZONE = COPIES * SECTOR_SIZE, CRASH_SEEDS = 40 };

static struct sim_io sim;
static _Alignas(4096) uint8_t sectors[ZONE];
static _Alignas(4096) struct superblock old_image[COPIES];   /* sequence 1, as formatted */
static _Alignas(4096) struct superblock new_image[COPIES];   /* sequence 2 */
static _Alignas(4096) struct superblock newer_image[COPIES]; /* sequence 3 */
static struct superblock superblock;
static struct superblock_open_report report;
static const uint8_t file_id[16] = "sixteen letters";

static enum status open_image(const struct superblock image[COPIES], bool repair)
{
    sim_io_load(&sim, (const uint8_t *)image, ZONE);
    memset(&superblock, 0xEE, sizeof superblock);
    return superblock_open(&sim.io, sectors, repair, &superblock, &report);
}

static struct checkpoint_state checkpoint_of(uint64_t op)
{
    return (struct checkpoint_state){
        .op = op,
        .journal_sequence = op + 1,
        .journal_offset = op * SECTOR_SIZE,
        .journal_parent = {{(uint8_t)op}},
        .commit = op,
        .timestamp = 1000 * op,
        .manifest_newest = {.address = op, .checksum = {{1}}},
        .manifest_block_count = 1,
        .blocks_acquired = op,
        .address_max = op,
    };
}

static void write_next(uint64_t op, struct superblock image[COPIES])
{
    const struct checkpoint_state checkpoint = checkpoint_of(op);
    cr_assert(eq(int, superblock_write(&sim.io, sectors, &superblock, &checkpoint), STATUS_OK));
    cr_assert(eq(u64, sim.unsynced_count, 0));
    sim_io_save(&sim, (uint8_t *)image);
}

static void setup(void)
{
    const struct geometry geometry = geometry_tiny();
    sim_io_init(&sim, 1 << 20);
    cr_assert(eq(int, superblock_format(&sim.io, &geometry, file_id, 42), STATUS_OK));
    cr_assert(eq(u64, sim.unsynced_count, 0));
    sim_io_save(&sim, (uint8_t *)old_image);
    cr_assert(eq(int, open_image(old_image, false), STATUS_OK));
    write_next(10, new_image);
    write_next(20, newer_image);
}

static void teardown(void)
{
    sim_io_deinit(&sim);
}

TestSuite(superblock, .init = setup, .fini = teardown, .timeout = 120);

Test(superblock, formatted_file_opens_empty)
{
    const struct geometry geometry = geometry_tiny();
    cr_assert(eq(int, open_image(old_image, true), STATUS_OK));
    cr_assert(eq(u64, superblock.sequence, 1));
    cr_assert(eq(u64, superblock.journal_seed, 42));
    cr_assert(eq(u64, superblock.checkpoint.op, 0));
    cr_assert(eq(u64, superblock.checkpoint.journal_sequence, 1));
    cr_assert(eq(int, memcmp(superblock.file_id, file_id, 16), 0));
    cr_assert(eq(int, memcmp(&superblock.geometry, &geometry, sizeof geometry), 0));
    cr_assert(eq(u8, report.copies_valid, 4));
    cr_assert(eq(u8, report.copies_repaired, 0));
    cr_assert(eq(ptr, (void *)report.problem, NULL));
}

Test(superblock, write_links_to_its_parent)
{
    cr_assert(eq(int, open_image(newer_image, false), STATUS_OK));
    const struct checkpoint_state expected = checkpoint_of(20);
    const struct checksum id = checkpoint_id_of(&expected);
    cr_assert(eq(u64, superblock.sequence, 3));
    cr_assert(checksum_equal(&superblock.parent, &new_image[0].checksum));
    cr_assert(checksum_equal(&new_image[0].parent, &old_image[0].checksum));
    cr_assert(checksum_equal(&superblock.checkpoint_id, &id));
    cr_assert(eq(int, memcmp(&superblock.checkpoint, &expected, sizeof expected), 0));
    for (int i = 1; i < COPIES; i++) {
        cr_assert(checksum_equal(&newer_image[i].checksum, &newer_image[0].checksum));
        cr_assert(eq(u8, newer_image[i].copy, (uint8_t)i));
    }
}

Test(superblock, checkpoint_id_leaves_out_what_one_file_alone_has)
{
    struct checkpoint_state a = checkpoint_of(5);
    struct checkpoint_state b = a;
    b.journal_parent.bytes[3] ^= 1;
    struct checksum id_a = checkpoint_id_of(&a);
    struct checksum id_b = checkpoint_id_of(&b);
    cr_assert(checksum_equal(&id_a, &id_b));
    b.commit += 1;
    id_b = checkpoint_id_of(&b);
    cr_assert(not(checksum_equal(&id_a, &id_b)));
}

enum copy_state { COPY_NEW, COPY_OLD, COPY_GARBAGE, COPY_MISPLACED, COPY_STATES };

/* Garbage that has lost even the magic, or that has one bit wrong. */
static void garbage(struct superblock *sector, bool with_magic)
{
    if (with_magic) {
        *sector = newer_image[0];
        sector->checkpoint.commit ^= 1;
    } else {
        memset(sector, 0x5A, sizeof *sector);
    }
}

Test(superblock, every_state_of_the_copies_opens_by_the_rule)
{
    static _Alignas(4096) struct superblock image[COPIES];
    for (uint32_t combination = 0; combination < 2 * 4 * 4 * 4 * 4; combination++) {
        const bool with_magic = combination >= 256;
        uint32_t counts[COPY_STATES] = {0};
        for (uint32_t i = 0; i < COPIES; i++) {
            const enum copy_state state = combination >> (2 * i) & 3;
            counts[state] += 1;
            switch (state) {
            case COPY_NEW:
                image[i] = newer_image[i];
                break;
            case COPY_OLD:
                image[i] = new_image[i];
                break;
            case COPY_GARBAGE:
                garbage(&image[i], with_magic);
                break;
            default:
                image[i] = newer_image[(i + 1) % COPIES];
                break;
            }
        }
        const enum status status = open_image(image, true);
        const bool any_magic = with_magic || counts[COPY_GARBAGE] < COPIES;
        if (counts[COPY_NEW] >= 2 || counts[COPY_OLD] >= 2) {
            const enum copy_state winner = counts[COPY_NEW] >= 2 ? COPY_NEW : COPY_OLD;
            const struct superblock *winning = winner == COPY_NEW ? newer_image : new_image;
            cr_assert(eq(int, status, STATUS_OK));
            cr_assert(eq(u64, superblock.sequence, winning->sequence));
            cr_assert(eq(u32, report.copies_valid, counts[winner]));
            cr_assert(eq(u32, report.copies_repaired, COPIES - counts[winner]));
            cr_assert(eq(int, memcmp(sim.durable, winning, ZONE), 0));
        } else {
            cr_assert(eq(int, status, any_magic ? STATUS_CORRUPT : STATUS_INVALID));
            cr_assert(ne(ptr, (void *)report.problem, NULL));
            cr_assert(eq(int, memcmp(sim.durable, image, ZONE), 0));
        }
    }
}

Test(superblock, nothing_is_written_without_repair)
{
    static _Alignas(4096) struct superblock image[COPIES];
    memcpy(image, newer_image, ZONE);
    garbage(&image[2], false);
    cr_assert(eq(int, open_image(image, false), STATUS_OK));
    cr_assert(eq(u8, report.copies_valid, 3));
    cr_assert(eq(u8, report.copies_repaired, 0));
    cr_assert(eq(int, memcmp(sim.bytes, image, ZONE), 0));
}

/* After a crash: open, which repairs, must give one of two states, and the same when repeated. */
static uint64_t check_after_crash(uint64_t sequence_min)
{
    const enum status status = superblock_open(&sim.io, sectors, true, &superblock, &report);
    cr_assert(eq(int, status, STATUS_OK));
    cr_assert(superblock.sequence == 2 || superblock.sequence == 3);
    cr_assert(ge(u64, superblock.sequence, sequence_min));
    const uint64_t sequence = superblock.sequence;
    cr_assert(eq(int, superblock_open(&sim.io, sectors, false, &superblock, &report), STATUS_OK));
    cr_assert(eq(u64, superblock.sequence, sequence));
    cr_assert(eq(u8, report.copies_valid, 4));
    return sequence;
}

Test(superblock, write_survives_power_loss_at_every_step)
{
    static _Alignas(4096) struct superblock image[COPIES];
    const struct checkpoint_state checkpoint = checkpoint_of(20);
    uint32_t opened[2] = {0};
    for (uint32_t bad = 0; bad <= COPIES; bad++) { /* COPIES: none is */
        for (uint64_t step = 1, fired = true; fired; step++) {
            for (uint64_t seed = 0; seed < CRASH_SEEDS; seed++) {
                memcpy(image, new_image, ZONE);
                cr_assert(eq(int, open_image(image, false), STATUS_OK));
                if (bad < COPIES) {
                    sim_io_flip(&sim, bad * SECTOR_SIZE + 777, 1);
                }
                sim_io_lose_power(&sim, step);
                const enum status status =
                    superblock_write(&sim.io, sectors, &superblock, &checkpoint);
                fired = !sim_io_armed(&sim);
                cr_assert(eq(int, status, fired ? STATUS_IO : STATUS_OK));
                sim_io_crash(&sim, seed);
                opened[check_after_crash(fired ? 2 : 3) - 2] += 1;
            }
        }
    }
    cr_assert(gt(u32, opened[0], 100));
    cr_assert(gt(u32, opened[1], 100));
}

Test(superblock, repair_survives_power_loss_at_every_step)
{
    static _Alignas(4096) struct superblock image[COPIES];
    for (uint32_t good = 1; good < 16; good++) {
        if (__builtin_popcount(good) < 2) {
            continue;
        }
        for (int i = 0; i < COPIES; i++) {
            image[i] = (good >> i & 1) ? newer_image[i] : new_image[i];
        }
        for (uint64_t step = 1, fired = true; fired; step++) {
            for (uint64_t seed = 0; seed < CRASH_SEEDS; seed++) {
                sim_io_load(&sim, (uint8_t *)image, ZONE);
                sim_io_lose_power(&sim, step);
                const enum status status =
                    superblock_open(&sim.io, sectors, true, &superblock, &report);
                fired = !sim_io_armed(&sim);
                cr_assert(eq(int, status, fired ? STATUS_IO : STATUS_OK));
                sim_io_crash(&sim, seed);
                cr_assert(eq(u64, check_after_crash(3), 3));
            }
        }
    }
}

Test(superblock, one_copy_may_be_unreadable_or_lost)
{
    const struct checkpoint_state checkpoint = checkpoint_of(20);
    for (uint64_t n = 1; n <= COPIES; n++) {
        sim_io_load(&sim, (uint8_t *)new_image, ZONE);
        sim_io_fail_read(&sim, n, STATUS_IO);
        cr_assert(
            eq(int, superblock_open(&sim.io, sectors, false, &superblock, &report), STATUS_OK));
        cr_assert(eq(u8, report.copies_valid, 3));

        sim_io_tear_write(&sim, n, 0, STATUS_OK);
        cr_assert(eq(int, superblock_write(&sim.io, sectors, &superblock, &checkpoint), STATUS_OK));
        cr_assert(eq(u64, superblock.sequence, 3));
    }
}

Test(superblock, write_needs_three_copies_to_verify)
{
    const struct checkpoint_state checkpoint = checkpoint_of(20);
    cr_assert(eq(int, open_image(new_image, false), STATUS_OK));
    sim_io_tear_write(&sim, 1, 0, STATUS_OK);
    sim_io_fail_read(&sim, COPIES + 2, STATUS_IO); /* of those that read back */
    cr_assert(
        eq(int, superblock_write(&sim.io, sectors, &superblock, &checkpoint), STATUS_CORRUPT));
    cr_assert(eq(u64, superblock.sequence, 2));
}

Test(superblock, failures_of_the_disk_are_passed_on)
{
    const struct checkpoint_state checkpoint = checkpoint_of(20);
    for (uint64_t n = 1; n <= COPIES; n++) {
        cr_assert(eq(int, open_image(new_image, false), STATUS_OK));
        sim_io_fail_write(&sim, n, STATUS_NO_SPACE);
        cr_assert(
            eq(int, superblock_write(&sim.io, sectors, &superblock, &checkpoint), STATUS_NO_SPACE));
        cr_assert(eq(u64, superblock.sequence, 2));
    }
    for (uint64_t n = 1; n <= 2; n++) {
        cr_assert(eq(int, open_image(new_image, false), STATUS_OK));
        sim_io_fail_sync(&sim, n, STATUS_IO);
        cr_assert(eq(int, superblock_write(&sim.io, sectors, &superblock, &checkpoint), STATUS_IO));
    }
    sim_io_load(&sim, (uint8_t *)new_image, 2 * SECTOR_SIZE);
    cr_assert(
        eq(int, superblock_open(&sim.io, sectors, false, &superblock, &report), STATUS_INVALID));
}

static void reseal(struct superblock image[COPIES], int first, int end)
{
    for (int i = first; i < end; i++) {
        image[i].checkpoint_id = checkpoint_id_of(&image[i].checkpoint);
        image[i].checksum = checksum_of((uint8_t *)&image[i] + 24, SECTOR_SIZE - 24);
    }
}

Test(superblock, quorums_must_be_parent_and_child)
{
    static _Alignas(4096) struct superblock image[COPIES];
    memcpy(image, newer_image, ZONE);
    memcpy(image + 2, new_image + 2, ZONE / 2);
    cr_assert(eq(int, open_image(image, false), STATUS_OK));
    memcpy(image + 2, old_image + 2, ZONE / 2); /* a grandparent */
    cr_assert(eq(int, open_image(image, true), STATUS_CORRUPT));
    memcpy(image + 2, newer_image + 2, ZONE / 2); /* a twin */
    image[2].checkpoint.commit = image[3].checkpoint.commit = 99;
    reseal(image, 2, 4);
    cr_assert(eq(int, open_image(image, true), STATUS_CORRUPT));
    memcpy(image + 2, new_image + 2, ZONE / 2); /* a stranger one sequence before */
    image[2].checkpoint.commit = image[3].checkpoint.commit = 99;
    reseal(image, 2, 4);
    cr_assert(eq(int, open_image(image, true), STATUS_CORRUPT));
    cr_assert(eq(int, memcmp(sim.bytes, image, ZONE), 0));
}

Test(superblock, another_version_is_named)
{
    static _Alignas(4096) struct superblock image[COPIES];
    memcpy(image, newer_image, ZONE);
    for (int i = 0; i < COPIES; i++) {
        image[i].version = 7;
    }
    reseal(image, 0, COPIES);
    cr_assert(eq(int, open_image(image, true), STATUS_VERSION));
    cr_assert(eq(u32, superblock.version, 7));
}

Test(superblock, right_checksum_does_not_excuse_wrong_fields)
{
    static _Alignas(4096) struct superblock image[COPIES];
    for (int what = 0; what < 8; what++) {
        memcpy(image, newer_image, ZONE);
        for (int i = 0; i < COPIES; i++) {
            struct superblock *copy = &image[i];
            switch (what) {
            case 0:
                copy->geometry.block_size = 100;
                break;
            case 1:
                copy->reserved[sizeof copy->reserved - 1] = 1;
                break;
            case 2:
                copy->checkpoint.journal_offset = copy->geometry.journal_size;
                break;
            case 3:
                copy->checkpoint.journal_sequence = 0;
                break;
            case 4:
                copy->checkpoint.manifest_newest.address = 21;
                break;
            case 5:
                copy->checkpoint.free_set.address = 1; /* of size 0 */
                break;
            case 6:
                copy->checkpoint.address_max = copy->geometry.block_count_max + 1;
                break;
            default:
                copy->parent = (struct checksum){0};
                break;
            }
        }
        reseal(image, 0, COPIES);
        cr_assert(eq(int, open_image(image, true), what == 0 ? STATUS_INVALID : STATUS_CORRUPT));
        cr_assert(ne(ptr, (void *)report.problem, NULL));
    }
    memcpy(image, newer_image, ZONE);
    for (int i = 0; i < COPIES; i++) {
        image[i].checkpoint_id.bytes[0] ^= 1;
        image[i].checksum = checksum_of((uint8_t *)&image[i] + 24, SECTOR_SIZE - 24);
    }
    cr_assert(eq(int, open_image(image, true), STATUS_CORRUPT));
}

Test(superblock, checkpoint_that_goes_back_is_a_bug, .signal = SIGABRT)
{
    const struct checkpoint_state checkpoint = checkpoint_of(19);
    (void)!superblock_write(&sim.io, sectors, &superblock, &checkpoint);
}
