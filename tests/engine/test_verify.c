/* Goal: a file that the forest left, cleanly or by a power cut, verifies clean; a file with
 * anything wrong does not, and what is wrong is named.
 * Method: verify_fixture.h; rot: one bit in every block of the grid in turn, in journal and
 * superblock. What no checksum sees is test_verify_surgery.c's. */
#include "engine/storage/journal.h"
#include "tests/engine/verify_fixture.h"

/* ---- Clean files -------------------------------------------------------------------------------
 */

Test(verify, a_formatted_file_is_clean, .init = setup, .fini = teardown)
{
    assert_clean();
    cr_assert(eq(u64, report.blocks_checked, 0));
    cr_assert(eq(u64, report.journal_entries, 0));
    cr_assert(eq(u64, report.grooves, 0));
    cr_assert(eq(u64, report.checkpoint_op, 0));
}

Test(verify, a_file_without_a_checkpoint_is_its_journal, .init = setup, .fini = teardown)
{
    write_history(1, 3);
    fixture_close(&fixture);
    assert_clean();
    cr_assert(eq(u64, report.blocks_checked, 0));
    cr_assert(eq(u64, report.journal_entries, 5)); /* Create, 3 writes, a seal. */
}

Test(verify, any_history_leaves_a_clean_file, .init = setup, .fini = teardown)
{
    for (uint64_t seed = 1; seed <= 6; seed++) {
        write_history(seed, 250);
        fixture_close(&fixture);
        assert_clean();
        cr_assert(gt(u64, report.checkpoint_op, 0));
        cr_assert(gt(u64, report.tables_checked, 4));
        cr_assert(gt(u64, report.values_checked, 0));
        cr_assert(gt(u64, report.journal_entries, 0));
        cr_assert(eq(u64, report.grooves, 1));
        cr_assert(gt(u64, report.bytes_checked, report.blocks_checked * 4096));
    }
}

Test(verify, several_levels_are_clean, .init = setup, .fini = teardown)
{
    write_deep_history(31);
    assert_clean();
    cr_assert(gt(u64, report.tables_checked, 10));
    cr_assert(gt(u64, report.values_checked, 4 * FILL_COUNT));
}

/* Before anybody opened it again. A torn copy of the superblock is damage that the open repairs. */
Test(verify, a_power_cut_leaves_a_clean_file, .init = setup, .fini = teardown)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        write_history(seed, 20 + (uint32_t)(seed * 13 % 60));
        fixture_crash(&fixture, seed);
        cr_assert(eq(int, verify(), STATUS_OK));
        for (uint64_t i = 0; i < problem_count; i++) {
            cr_assert(eq(int, strncmp(problems[i], "superblock: copy", 16), 0), "%s", problems[i]);
        }
    }
}

Test(verify, paying_debt_and_dropping_grooves_leaves_a_clean_file, .init = setup, .fini = teardown)
{
    write_history(7, 300);
    fixture_pay_debt(&fixture);
    fixture_close(&fixture);
    assert_clean();

    fixture_open(&fixture, 0, false);
    char name[NAME_SIZE] = "things";
    cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_GROOVE_DROP, name, NAME_SIZE),
                 REQUEST_RESULT_OK));
    fixture_create(&fixture); /* Of the same name, beside the one that is going. */
    for (uint32_t i = 0; i < 120; i++) {
        write_some();
    }
    fixture_close(&fixture);
    assert_clean();
}

Test(verify, a_torn_tail_is_no_problem, .init = setup, .fini = teardown)
{
    write_history(3, 40);
    fixture_close(&fixture);
    assert_clean();
    const uint64_t entries = report.journal_entries;

    /* The seal is the last entry; nothing behind it proves that it was ever whole. */
    uint64_t last = 0;
    uint64_t sequence = 0;
    for (uint64_t at = 0; at < fixture.geometry.journal_size; at += SECTOR_SIZE) {
        const struct journal_header *header =
            (const struct journal_header *)(fixture.sim.bytes +
                                            journal_zone_offset(&fixture.geometry) + at);
        if (header->offset == at && header->sequence > sequence) {
            sequence = header->sequence;
            last = at;
        }
    }
    sim_io_flip(&fixture.sim, journal_zone_offset(&fixture.geometry) + last + 200, 1);
    assert_clean();
    cr_assert(eq(u64, report.journal_entries, entries - 1));

    /* The same in the middle is damage. */
    sim_io_flip(&fixture.sim, journal_zone_offset(&fixture.geometry) + last + 200, 1);
    const struct superblock *superblock = (const struct superblock *)fixture.sim.bytes;
    sim_io_flip(
        &fixture.sim,
        journal_zone_offset(&fixture.geometry) + superblock->checkpoint.journal_offset + 200, 1);
    cr_assert(eq(int, verify(), STATUS_OK));
    assert_named("journal: entry");
    assert_named("later entries are whole");
}

/* ---- Rot ---------------------------------------------------------------------------------------
 */

Test(verify, one_flipped_bit_in_any_block_is_named, .init = setup, .fini = teardown)
{
    write_history(11, 90);
    fixture_close(&fixture);
    assert_clean();
    const uint64_t in_use = report.blocks_checked;
    const struct superblock *superblock = (const struct superblock *)fixture.sim.bytes;
    uint64_t named_count = 0;
    uint64_t named_by_type[BLOCK_TYPE_SPILL + 1] = {0};
    for (uint64_t address = 1; address <= superblock->checkpoint.address_max; address++) {
        const uint64_t offset = (uint64_t)(block_at(address) - fixture.sim.bytes);
        if (offset >= fixture.sim.size) {
            break;
        }
        const uint8_t type = block_header(block_at(address))->type;
        const uint64_t at = offset + prng_below(&prng, fixture.geometry.block_size);
        const uint8_t mask = (uint8_t)(1u << prng_below(&prng, 8));
        sim_io_flip(&fixture.sim, at, mask);
        cr_assert(eq(int, verify(), STATUS_OK));
        sim_io_flip(&fixture.sim, at, mask);
        if (problem_count == 0) {
            continue; /* Nobody reads it: free, or about to be. */
        }
        char text[32];
        snprintf(text, sizeof text, "address %llu", (unsigned long long)address);
        assert_named(text);
        cr_assert(not(named("nothing refers to them")));
        named_count += 1;
        named_by_type[type] += 1;
    }
    cr_assert(eq(u64, named_count, in_use));
    for (int type = BLOCK_TYPE_FREE_SET; type <= BLOCK_TYPE_SPILL; type++) {
        cr_assert(gt(u64, named_by_type[type], 0), "type %d", type);
    }
    assert_clean();
}

Test(verify, superblock_copies_are_named_until_too_few_are_left, .init = setup, .fini = teardown)
{
    write_history(5, 60);
    fixture_close(&fixture);
    sim_io_flip(&fixture.sim, 2 * SECTOR_SIZE + 1000, 4);
    cr_assert(eq(int, verify(), STATUS_OK));
    cr_assert(eq(u64, problem_count, 1));
    assert_named("superblock: copy 2 at offset 8192");
    sim_io_flip(&fixture.sim, 16, 1); /* It now believes to be copy 1. */
    cr_assert(eq(int, verify(), STATUS_OK));
    cr_assert(eq(u64, problem_count, 2));
    sim_io_flip(&fixture.sim, SECTOR_SIZE + 30, 1);
    cr_assert(eq(int, verify(), STATUS_CORRUPT));
    cr_assert(eq(u64, problem_count, 1));
    assert_named("superblock: fewer than 2");
}

Test(verify, what_is_no_data_file_is_refused)
{
    sim_io_init(&fixture.sim, 16 * 1024 * 1024);
    cr_assert(eq(int, verify(), STATUS_INVALID));
    assert_named("superblock: too short");
    static uint8_t zeros[4 * 1024 * 1024];
    sim_io_load(&fixture.sim, zeros, sizeof zeros);
    cr_assert(eq(int, verify(), STATUS_INVALID));
    assert_named("not a Holt data file");
    sim_io_deinit(&fixture.sim);
}

/* A read that fails once is repeated, or becomes a problem; never a crash, never a write. */
Test(verify, any_failing_read_is_survived, .init = setup, .fini = teardown)
{
    write_history(13, 90);
    fixture_close(&fixture);
    bool fired = true;
    for (uint64_t n = 1; fired; n += 1 + n / 40) {
        sim_io_fail_read(&fixture.sim, n, STATUS_IO);
        const enum status status = verify();
        fired = !sim_io_armed(&fixture.sim);
        sim_io_fail_read(&fixture.sim, 0, STATUS_OK);
        cr_assert(status == STATUS_OK || problem_count > 0);
    }
    assert_clean();
}

Test(verify, a_file_cut_short_is_named, .init = setup, .fini = teardown)
{
    write_history(17, 90);
    fixture_close(&fixture);
    static uint8_t bytes[64 * 1024 * 1024];
    cr_assert(le(u64, fixture.sim.size, sizeof bytes));
    sim_io_save(&fixture.sim, bytes);
    const uint64_t size = grid_zone_offset(&fixture.geometry) + (uint64_t)64 * 4096;
    sim_io_load(&fixture.sim, bytes, size);
    cr_assert(eq(int, verify(), STATUS_OK));
    cr_assert(gt(u64, problem_count, 0));
    sim_io_load(&fixture.sim, bytes, journal_zone_offset(&fixture.geometry) + 8 * SECTOR_SIZE);
    cr_assert(eq(int, verify(), STATUS_OK));
    assert_named("journal: entry");
}
