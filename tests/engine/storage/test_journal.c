/* Goal: recovery gives back every acknowledged entry, at most one more, in order, and refuses when
 * something in the middle is damaged; the ring never overwrites what is needed.
 * Method: a model that lists what was acknowledged; random appends, checkpoints, restarts and power
 * losses over many laps and seeds on the simulated disk, each history going on after its crashes;
 * then single damages and the corners of the wrap rule one by one. */
#include "engine/storage/journal.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <string.h>

#include "pool/base.h"
#include "tests/harness/prng.h"
#include "tests/harness/sim_io.h"

#ifdef __SANITIZE_THREAD__
enum { SEED_COUNT = 8 }; /* It looks for races; ASan's build has all the histories. */
#else
enum { SEED_COUNT = 40 };
#endif
enum { ENTRY_MAX = 4096, BUFFER_SIZE = 128 * 1024 };

static struct geometry geometry;
static struct sim_io sim;
static struct workers workers;
static struct doorbell doorbell;
static struct journal journal;
static uint64_t zone;
static _Alignas(4096) uint8_t buffer[BUFFER_SIZE];
static _Alignas(4096) uint8_t buffer_recovery[BUFFER_SIZE];

/* What was submitted: entry `sequence` at [sequence]. */
struct model_entry {
    struct checksum content; /* header and body as submitted */
    uint64_t offset;
    uint64_t size;
};
static struct model_entry model[ENTRY_MAX];

/* Where recovery starts. */
struct start {
    uint64_t sequence;
    uint64_t offset;
    struct checksum parent;
};
static struct start start;

static void setup(void)
{
    geometry = geometry_tiny();
    zone = journal_zone_offset(&geometry);
    cr_assert(le(u64, journal_entry_size_max(&geometry), BUFFER_SIZE));
    sim_io_init(&sim, zone + geometry.journal_size);
    doorbell_init(&doorbell);
    cr_assert(eq(int, workers_start(&workers, "journal", 0, 1), STATUS_OK));
    cr_assert(eq(int, journal_format(&sim.io, &geometry, NULL, NULL), STATUS_OK));
    journal_init(&journal, &sim.io, &geometry, 77, &workers, &doorbell, &clock_system);
    start = (struct start){.sequence = 1};
}

static void teardown(void)
{
    workers_join(&workers);
    doorbell_deinit(&doorbell);
    sim_io_deinit(&sim);
}

TestSuite(journal, .init = setup, .fini = teardown, .timeout = 120);

static struct journal_header *make_entry(uint64_t size, uint64_t seed)
{
    struct prng prng;
    prng_init(&prng, seed);
    prng_fill(&prng, buffer, align_up(size, SECTOR_SIZE));
    struct journal_header *header = (struct journal_header *)buffer;
    *header = (struct journal_header){
        .size = size,
        .commit = seed,
        .timestamp = 2 * seed,
        .request_count = size == JOURNAL_HEADER_SIZE ? 0 : 1,
        .kind = size == JOURNAL_HEADER_SIZE ? JOURNAL_KIND_SEAL : JOURNAL_KIND_BATCH,
    };
    return header;
}

/* Every other entry is written here. Waits; the entry is in the model whatever the outcome. */
static enum status append(uint64_t size)
{
    const uint64_t sequence = journal.sequence_next;
    const struct journal_header *header = make_entry(size, sequence * 1000 + size);
    journal_append(&journal, buffer);
    if (sequence % 2 == 0) {
        journal_write(&journal);
    } else {
        journal_hand_over(&journal);
    }
    cr_assert(eq(u64, header->sequence, sequence));
    model[sequence] = (struct model_entry){
        .content = checksum_of(buffer, size), .offset = header->offset, .size = size};
    enum status status = STATUS_CLOSED;
    journal_wait(&journal);
    cr_assert(journal_reap(&journal, &status));
    cr_assert(not(journal.writing));
    return status;
}

/* Starts a fresh journal and recovers; returns the first sequence that is not there. */
static uint64_t recover(enum journal_recovery *outcome, enum status *status, uint64_t *bad_offset)
{
    journal_init(&journal, &sim.io, &geometry, 77, &workers, &doorbell, &clock_system);
    journal_recover_begin(&journal, start.sequence, start.offset, &start.parent);
    uint64_t sequence = start.sequence;
    while (true) {
        *status = journal_recover_next(&journal, buffer_recovery, outcome, bad_offset);
        if (*status != STATUS_OK || *outcome != JOURNAL_RECOVERY_ENTRY) {
            return sequence;
        }
        const struct journal_header *header = (struct journal_header *)buffer_recovery;
        const struct checksum content = checksum_of(buffer_recovery, header->size);
        cr_assert(eq(u64, header->sequence, sequence));
        cr_assert(eq(u64, header->size, model[sequence].size));
        cr_assert(eq(u64, header->offset, model[sequence].offset));
        cr_assert(checksum_equal(&content, &model[sequence].content));
        sequence += 1;
    }
}

static uint64_t recover_cleanly(enum journal_recovery expected)
{
    enum journal_recovery outcome = JOURNAL_RECOVERY_ENTRY;
    enum status status = STATUS_CLOSED;
    uint64_t bad_offset = 0;
    const uint64_t sequence = recover(&outcome, &status, &bad_offset);
    cr_assert(eq(int, status, STATUS_OK));
    cr_assert(eq(int, outcome, expected));
    return sequence;
}

static void expect_damage(uint64_t sequence_expected, uint64_t offset_expected)
{
    enum journal_recovery outcome = JOURNAL_RECOVERY_ENTRY;
    enum status status = STATUS_CLOSED;
    uint64_t bad_offset = 0;
    const uint64_t sequence = recover(&outcome, &status, &bad_offset);
    cr_assert(eq(int, status, STATUS_CORRUPT));
    cr_assert(eq(u64, sequence, sequence_expected));
    cr_assert(eq(u64, bad_offset, offset_expected));
}

static void checkpoint_here(void)
{
    start = (struct start){journal.sequence_next, journal.head, journal.parent};
    journal_advance_tail(&journal, start.offset);
}

/* The rule of the ring, sector by sector. */
static bool naive_has_room(uint64_t size)
{
    static bool live[4096];
    const uint64_t count = geometry.journal_size / SECTOR_SIZE;
    const uint64_t head = journal.head / SECTOR_SIZE;
    const uint64_t sectors = div_ceil(size, SECTOR_SIZE);
    memset(live, 0, sizeof live);
    for (uint64_t i = 0; i < journal_used(&journal) / SECTOR_SIZE; i++) {
        live[(journal.tail / SECTOR_SIZE + i) % count] = true;
    }
    uint64_t first = head;
    if (head + sectors > count) {
        for (uint64_t i = head; i < count; i++) {
            if (live[i]) {
                return false;
            }
        }
        first = 0;
    }
    for (uint64_t i = first; i < first + sectors; i++) {
        if (live[i]) {
            return false;
        }
    }
    /* A wrapped entry must not reach where the skipped end begins either. */
    return first == head || sectors <= head;
}

static uint64_t random_size(struct prng *prng)
{
    switch (prng_below(prng, 4)) {
    case 0:
        return JOURNAL_HEADER_SIZE;
    case 1:
        return prng_range(prng, JOURNAL_HEADER_SIZE + 1, 3 * SECTOR_SIZE);
    case 2:
        return SECTOR_SIZE * prng_range(prng, 1, journal_entry_size_max(&geometry) / SECTOR_SIZE);
    default:
        return prng_range(prng, JOURNAL_HEADER_SIZE + 1, journal_entry_size_max(&geometry));
    }
}

/* One history with restarts and crashes, over several laps of the ring. */
static void run_history(uint64_t seed, uint64_t step_count)
{
    struct prng prng;
    prng_init(&prng, seed);
    for (uint64_t step = 0; step < step_count; step++) {
        const uint64_t size = random_size(&prng);
        cr_assert(eq(int, journal_has_room(&journal, size), naive_has_room(size)));
        if (!journal_has_room(&journal, size) || prng_chance(&prng, 1, 12)) {
            checkpoint_here();
        }
        if (!journal_has_room(&journal, size)) {
            continue; /* Full to the last sector. */
        }
        const bool crash = prng_chance(&prng, 1, 6);
        if (crash) {
            sim_io_lose_power(&sim, prng_range(&prng, 1, 2));
        }
        const uint64_t acknowledged = journal.sequence_next;
        const enum status status = append(size);
        cr_assert(eq(int, status, crash ? STATUS_IO : STATUS_OK));
        if (crash) {
            enum journal_recovery outcome = JOURNAL_RECOVERY_ENTRY;
            enum status recover_status = STATUS_CLOSED;
            uint64_t bad_offset = 0;
            sim_io_crash(&sim, prng_next(&prng));
            const uint64_t next = recover(&outcome, &recover_status, &bad_offset);
            cr_assert(eq(int, recover_status, STATUS_OK), "seed %lu step %lu", seed, step);
            cr_assert(next == acknowledged || next == acknowledged + 1);
            cr_assert(next == acknowledged || outcome == JOURNAL_RECOVERY_END);
        } else if (prng_chance(&prng, 1, 10)) {
            const uint64_t next = recover_cleanly(JOURNAL_RECOVERY_END);
            cr_assert(eq(u64, next, acknowledged + 1));
            cr_assert(eq(int, journal.sealed, size == JOURNAL_HEADER_SIZE));
        }
    }
}

Test(journal, acknowledged_entries_survive_any_history_of_crashes)
{
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        sim_io_crash_keep_all(&sim);
        cr_assert(eq(int, journal_format(&sim.io, &geometry, NULL, NULL), STATUS_OK));
        journal_init(&journal, &sim.io, &geometry, 77, &workers, &doorbell, &clock_system);
        start = (struct start){.sequence = 1};
        run_history(seed, 300);
    }
}

Test(journal, empty_ring_ends_cleanly)
{
    cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_END), 1));
    cr_assert(eq(u64, journal_used(&journal), 0));
    cr_assert(eq(int, append(5000), STATUS_OK));
    cr_assert(eq(u64, journal_used(&journal), 8192));
    cr_assert(eq(u64, journal.written_bytes, 8192));
    cr_assert(eq(u64, journal.written_count, 1));
    cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_END), 2));
}

/* Brings head to `sectors` before the end of the ring, with nothing live. */
static void fill_to(uint64_t sectors)
{
    const uint64_t target = geometry.journal_size - sectors * SECTOR_SIZE;
    while (journal.head < target) {
        cr_assert(eq(int, append(min_u64(16 * SECTOR_SIZE, target - journal.head)), STATUS_OK));
        checkpoint_here();
    }
}

Test(journal, entry_that_does_not_fit_before_the_end_goes_to_the_start)
{
    fill_to(2);
    cr_assert(eq(int, append(3 * SECTOR_SIZE), STATUS_OK));
    cr_assert(eq(u64, model[journal.sequence_next - 1].offset, 0));
    cr_assert(eq(u64, journal_used(&journal), 5 * SECTOR_SIZE));
    const uint64_t next = journal.sequence_next;
    cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_END), next));
    cr_assert(eq(u64, journal.head, 3 * SECTOR_SIZE));
    cr_assert(eq(u64, journal_used(&journal), 5 * SECTOR_SIZE));
}

Test(journal, entry_that_just_fits_stays_at_the_end)
{
    fill_to(2);
    cr_assert(eq(int, append(2 * SECTOR_SIZE), STATUS_OK));
    cr_assert(eq(u64, journal.head, 0));
    cr_assert(eq(int, append(SECTOR_SIZE), STATUS_OK));
    const uint64_t next = journal.sequence_next;
    cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_END), next));
}

Test(journal, ring_can_be_filled_to_the_last_sector)
{
    fill_to(1);
    cr_assert(eq(int, append(SECTOR_SIZE), STATUS_OK));
    checkpoint_here();
    cr_assert(eq(u64, journal.head, 0));
    const uint64_t count = geometry.journal_size / (16 * SECTOR_SIZE);
    for (uint64_t i = 0; i < count; i++) {
        cr_assert(journal_has_room(&journal, 16 * SECTOR_SIZE));
        cr_assert(eq(int, append(16 * SECTOR_SIZE), STATUS_OK));
    }
    cr_assert(eq(u64, journal_used(&journal), geometry.journal_size));
    cr_assert(not(journal_has_room(&journal, JOURNAL_HEADER_SIZE)));
    const uint64_t next = journal.sequence_next;
    cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_END), next));
    cr_assert(eq(u64, journal_used(&journal), geometry.journal_size));
    journal_advance_tail(&journal, 16 * SECTOR_SIZE);
    cr_assert(journal_has_room(&journal, 16 * SECTOR_SIZE));
    cr_assert(not(journal_has_room(&journal, 17 * SECTOR_SIZE)));
}

/* A torn attempt at one of the two places must not hide the entry that went to the other later. */
Test(journal, dropped_attempt_does_not_hide_what_followed)
{
    const uint64_t sizes[2] = {2 * SECTOR_SIZE, 3 * SECTOR_SIZE};
    for (int first = 0; first < 2; first++) {
        fill_to(2);
        const uint64_t sequence = journal.sequence_next;
        sim_io_tear_write(&sim, 1, SECTOR_SIZE, STATUS_IO);
        cr_assert(eq(int, append(sizes[first]), STATUS_IO));
        cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_TORN), sequence));
        cr_assert(eq(int, append(sizes[1 - first]), STATUS_OK));
        cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_END), sequence + 1));
        cr_assert(eq(int, append(5000), STATUS_OK));
        cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_END), sequence + 2));
        checkpoint_here();
    }
}

Test(journal, damage_before_a_later_entry_is_refused_and_named)
{
    fill_to(30);
    const uint64_t first = journal.sequence_next;
    const uint64_t head = journal.head;
    const uint64_t sizes[] = {5000, 60000, 20 * SECTOR_SIZE, 200, 70000};
    for (uint64_t i = 0; i < array_count(sizes); i++) {
        cr_assert(eq(int, append(sizes[i]), STATUS_OK));
    }
    cr_assert(eq(u64, start.offset, head));
    struct prng prng;
    prng_init(&prng, 5);
    bool wrapped = false;
    for (uint64_t i = 0; i + 1 < array_count(sizes); i++) {
        const struct model_entry *entry = &model[first + i];
        /* Without a header nothing says that the entry had wrapped: then the end is named. */
        const uint64_t place =
            i == 0 ? head
                   : model[first + i - 1].offset + align_up(model[first + i - 1].size, SECTOR_SIZE);
        wrapped |= entry->offset == 0;
        for (int try = 0; try < 40; try++) {
            const uint64_t at = try < 20 ? prng_below(&prng, JOURNAL_HEADER_SIZE)
                                         : prng_range(&prng, JOURNAL_HEADER_SIZE,
                                                      align_up(entry->size, SECTOR_SIZE) - 1);
            const uint8_t mask = (uint8_t)(1 << prng_below(&prng, 8));
            sim_io_flip(&sim, zone + entry->offset + at, mask);
            expect_damage(first + i, at < JOURNAL_HEADER_SIZE ? place : entry->offset);
            sim_io_flip(&sim, zone + entry->offset + at, mask);
        }
    }
    cr_assert(wrapped);
    cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_END), first + array_count(sizes)));
}

Test(journal, damaged_last_entry_is_a_torn_tail_until_sealed)
{
    cr_assert(eq(int, append(5000), STATUS_OK));
    cr_assert(eq(int, append(9000), STATUS_OK));
    sim_io_flip(&sim, zone + model[2].offset + 8999, 1);
    cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_TORN), 2));
    sim_io_flip(&sim, zone + model[2].offset + 8999, 1);
    sim_io_flip(&sim, zone + model[2].offset + 50, 1);
    cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_END), 2));
    sim_io_flip(&sim, zone + model[2].offset + 50, 1);

    cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_END), 3));
    cr_assert(not(journal.sealed));
    cr_assert(eq(int, append(JOURNAL_HEADER_SIZE), STATUS_OK));
    cr_assert(journal.sealed);
    cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_END), 4));
    cr_assert(journal.sealed);
    sim_io_flip(&sim, zone + model[2].offset + 8999, 1);
    expect_damage(2, model[2].offset);
    sim_io_flip(&sim, zone + model[2].offset + 8999, 1);
    sim_io_flip(&sim, zone + model[2].offset + 50, 1);
    expect_damage(2, model[2].offset);
}

Test(journal, damage_of_several_entries_in_a_row_is_refused)
{
    for (int i = 0; i < 4; i++) {
        cr_assert(eq(int, append(5000), STATUS_OK));
    }
    sim_io_flip(&sim, zone + model[2].offset, 1);
    sim_io_flip(&sim, zone + model[3].offset, 1);
    sim_io_flip(&sim, zone + model[4].offset + 4999, 1); /* its header alone is proof enough */
    expect_damage(2, model[2].offset);
}

Test(journal, clients_bytes_are_never_taken_for_an_entry)
{
    cr_assert(eq(int, append(5000), STATUS_OK));
    /* A whole entry as it would be, made by somebody who does not know the seed. */
    make_entry(2 * SECTOR_SIZE, 9);
    struct journal_header *forged = (struct journal_header *)(buffer + SECTOR_SIZE);
    *forged = (struct journal_header){
        .sequence = 8,
        .offset = journal.head + SECTOR_SIZE,
        .size = 200,
        .request_count = 1,
        .kind = JOURNAL_KIND_BATCH,
    };
    forged->checksum_header = checksum_seeded(78, (uint8_t *)forged + 16, 112);
    journal_append(&journal, buffer);
    journal_hand_over(&journal);
    model[2] = (struct model_entry){.content = checksum_of(buffer, 2 * SECTOR_SIZE),
                                    .offset = 2 * SECTOR_SIZE,
                                    .size = 2 * SECTOR_SIZE};
    journal_wait(&journal);
    cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_END), 3));

    /* With the seed it would have been believed. */
    forged->checksum_header = checksum_seeded(77, (uint8_t *)forged + 16, 112);
    cr_assert(eq(int, io_write(&sim.io, zone + forged->offset, buffer + SECTOR_SIZE, SECTOR_SIZE),
                 STATUS_OK));
    expect_damage(2, model[2].offset);
}

Test(journal, another_history_is_refused)
{
    for (int i = 0; i < 3; i++) {
        cr_assert(eq(int, append(5000), STATUS_OK));
    }
    checkpoint_here();
    cr_assert(eq(int, append(5000), STATUS_OK));
    start.parent.bytes[0] ^= 1;
    expect_damage(4, model[4].offset);
    start.parent.bytes[0] ^= 1;
    start.sequence = 3;
    expect_damage(3, start.offset);
}

/* Header fields that no submit could have written, under a right checksum. */
Test(journal, impossible_headers_are_refused)
{
    for (int what = 0; what < 9; what++) {
        cr_assert(eq(int, append(5000), STATUS_OK));
        const uint64_t sequence = journal.sequence_next - 1;
        struct journal_header *header = (struct journal_header *)buffer;
        switch (what) {
        case 0:
            header->size = JOURNAL_HEADER_SIZE - 1;
            break;
        case 1:
            header->size = journal_entry_size_max(&geometry) + 1;
            break;
        case 2:
            header->size = UINT64_MAX;
            break;
        case 3:
            header->kind = 3;
            break;
        case 4:
            header->kind = JOURNAL_KIND_SEAL;
            break;
        case 5:
            header->request_count = 0;
            break;
        case 6:
            header->request_count = BATCH_REQUEST_MAX + 1;
            break;
        case 7:
            header->flags = 2;
            break;
        default:
            header->zero[33] = 1;
            break;
        }
        header->checksum_header = checksum_seeded(77, buffer + 16, 112);
        cr_assert(
            eq(int, io_write(&sim.io, zone + header->offset, buffer, SECTOR_SIZE), STATUS_OK));
        expect_damage(sequence, model[sequence].offset);
        cr_assert(eq(int, journal_format(&sim.io, &geometry, NULL, NULL), STATUS_OK));
        journal_init(&journal, &sim.io, &geometry, 77, &workers, &doorbell, &clock_system);
    }
}

Test(journal, recovered_entries_are_durable_before_anything_is_appended)
{
    cr_assert(eq(int, append(5000), STATUS_OK));
    sim_io_fail_sync(&sim, 1, STATUS_IO); /* The process dies of it; the bytes are in a cache. */
    cr_assert(eq(int, append(5000), STATUS_IO));
    sim_io_reopen(&sim);
    cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_END), 3));
    sim_io_crash_lose_all(&sim);
    cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_END), 3));
}

Test(journal, failures_of_the_disk_are_passed_on)
{
    sim_io_fail_write(&sim, 1, STATUS_NO_SPACE);
    cr_assert(eq(int, append(5000), STATUS_NO_SPACE));

    journal_init(&journal, &sim.io, &geometry, 77, &workers, &doorbell, &clock_system);
    cr_assert(eq(int, append(70000), STATUS_OK));
    for (uint64_t n = 1, fired = true; fired; n++) {
        enum journal_recovery outcome = JOURNAL_RECOVERY_ENTRY;
        enum status status = STATUS_CLOSED;
        uint64_t bad_offset = UINT64_MAX;
        sim_io_fail_reads(&sim, n, STATUS_IO);
        (void)recover(&outcome, &status, &bad_offset);
        fired = !sim_io_armed(&sim);
        cr_assert(eq(int, status, fired ? STATUS_IO : STATUS_OK));
        cr_assert(bad_offset == UINT64_MAX || fired); /* Where, in the zone. */
        cr_assert(bad_offset < geometry.journal_size || !fired);
        sim_io_fail_reads(&sim, 0, STATUS_OK);
    }
    enum journal_recovery outcome = JOURNAL_RECOVERY_ENTRY;
    enum status status = STATUS_CLOSED;
    uint64_t bad_offset = 0;
    sim_io_fail_sync(&sim, 1, STATUS_IO);
    (void)recover(&outcome, &status, &bad_offset);
    cr_assert(eq(int, status, STATUS_IO));
}

/* Where reads fail, in the file. */
static uint64_t unreadable;
static const struct io_ops *sim_io_ops;

static enum status read_around(struct io *io, uint64_t offset, void *bytes, size_t size)
{
    (void)io;
    const bool touched = unreadable >= offset && unreadable < offset + size;
    return touched ? STATUS_IO : sim_io_ops->read(&sim.io, offset, bytes, size);
}

Test(journal, a_sector_that_cannot_be_read_is_named)
{
    enum { LARGE = 3 * SECTOR_SIZE, SMALL_COUNT = 10 };
    cr_assert(eq(int, append(LARGE), STATUS_OK));
    for (int i = 0; i < SMALL_COUNT; i++) {
        cr_assert(eq(int, append(300), STATUS_OK));
    }
    sim_io_ops = sim.io.ops;
    struct io_ops ops = *sim_io_ops;
    ops.read = read_around;
    sim.io.ops = &ops;
    for (uint64_t offset = 0; offset < geometry.journal_size; offset += SECTOR_SIZE) {
        enum journal_recovery outcome = JOURNAL_RECOVERY_ENTRY;
        enum status status = STATUS_CLOSED;
        uint64_t bad_offset = UINT64_MAX;
        unreadable = zone + offset;
        const uint64_t sequence = recover(&outcome, &status, &bad_offset);
        cr_assert(eq(int, status, STATUS_IO));
        /* An entry by where it begins; and nothing is given up before what cannot be read. */
        cr_assert(eq(u64, bad_offset, offset < LARGE ? 0 : offset));
        const uint64_t entry = offset < LARGE ? 1 : 2 + (offset - LARGE) / SECTOR_SIZE;
        cr_assert(eq(u64, sequence, min_u64(entry, 2 + SMALL_COUNT)));
    }
    sim.io.ops = sim_io_ops;
    cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_END), 2 + SMALL_COUNT));
}

Test(journal, a_sync_that_failed_for_somebody_else_failed_for_all)
{
    cr_assert(eq(int, append(5000), STATUS_OK));
    sim_io_fail_sync(&sim, 1, STATUS_IO);
    cr_assert(eq(int, io_sync(&sim.io), STATUS_IO)); /* Of a superblock, say. */
    cr_assert(eq(int, append(5000), STATUS_IO));
    cr_assert(io_sync_failed(&sim.io));
}

Test(journal, small_entries_are_read_many_at_a_time)
{
    for (int i = 0; i < 200; i++) {
        cr_assert(eq(int, append(300), STATUS_OK));
    }
    const uint64_t before = sim.read_count;
    cr_assert(eq(u64, recover_cleanly(JOURNAL_RECOVERY_END), 201));
    const uint64_t scan = div_ceil(geometry.journal_size, journal_entry_size_max(&geometry));
    cr_assert(lt(u64, sim.read_count - before, 40 + scan));
}

Test(journal, recovery_does_not_depend_on_what_happens_to_the_buffer)
{
    for (int i = 0; i < 50; i++) {
        cr_assert(eq(int, append(300), STATUS_OK));
    }
    journal_init(&journal, &sim.io, &geometry, 77, &workers, &doorbell, &clock_system);
    journal_recover_begin(&journal, 1, 0, &start.parent);
    for (uint64_t i = 1; i <= 50; i++) {
        enum journal_recovery outcome;
        uint64_t bad_offset;
        uint8_t *which = i % 3 == 0 ? buffer : buffer_recovery;
        cr_assert(eq(int, journal_recover_next(&journal, which, &outcome, &bad_offset), STATUS_OK));
        cr_assert(eq(int, outcome, JOURNAL_RECOVERY_ENTRY));
        cr_assert(eq(u64, ((struct journal_header *)which)->sequence, i));
        memset(buffer_recovery, 0xAB, BUFFER_SIZE);
    }
}

Test(journal, format_zeroes_everything_and_tells_how_far_it_is)
{
    static _Alignas(4096) uint8_t old[SECTOR_SIZE];
    memset(old, 'x', sizeof old);
    cr_assert(eq(int,
                 io_write(&sim.io, zone + geometry.journal_size - SECTOR_SIZE, old, SECTOR_SIZE),
                 STATUS_OK));
    cr_assert(eq(int, journal_format(&sim.io, &geometry, NULL, NULL), STATUS_OK));
    cr_assert(eq(u8, sim.durable[zone + geometry.journal_size - 1], 0));
    cr_assert(eq(u64, sim.size, zone + geometry.journal_size));
    sim_io_fail_write(&sim, 2, STATUS_NO_SPACE);
    cr_assert(eq(int, journal_format(&sim.io, &geometry, NULL, NULL), STATUS_NO_SPACE));
    sim_io_fail_sync(&sim, 1, STATUS_IO);
    cr_assert(eq(int, journal_format(&sim.io, &geometry, NULL, NULL), STATUS_IO));
}

static void progress_count(uint64_t done, uint64_t total, void *context)
{
    uint64_t *last = context;
    cr_assert(lt(u64, *last, done));
    cr_assert(eq(u64, total, geometry.journal_size));
    *last = done;
}

Test(journal, format_progress_ends_at_the_total)
{
    uint64_t last = 0;
    cr_assert(eq(int, journal_format(&sim.io, &geometry, progress_count, &last), STATUS_OK));
    cr_assert(eq(u64, last, geometry.journal_size));
}

Test(journal, reap_reports_nothing_when_nothing_is_in_flight)
{
    enum status status = STATUS_CLOSED;
    journal_wait(&journal);
    cr_assert(not(journal_reap(&journal, &status)));
    cr_assert(eq(int, status, STATUS_CLOSED));
}

Test(journal, journal_thread_writes_while_the_owner_waits)
{
    struct workers thread;
    cr_assert(eq(int, workers_start(&thread, "journal", 1, 1), STATUS_OK));
    journal_init(&journal, &sim.io, &geometry, 77, &thread, &doorbell, &clock_system);
    for (int i = 0; i < 300; i++) {
        if (journal_used(&journal) > geometry.journal_size / 2) {
            checkpoint_here();
        }
        cr_assert(eq(int, append(5000), STATUS_OK));
    }
    sim_io_fail_sync(&sim, 1, STATUS_IO);
    cr_assert(eq(int, append(5000), STATUS_IO));
    workers_join(&thread);
}

Test(journal, second_write_in_flight_is_a_bug, .signal = SIGABRT)
{
    make_entry(5000, 1);
    journal_append(&journal, buffer);
    journal_hand_over(&journal);
    journal_append(&journal, buffer);
}

/* Each look at it is `*step_ns` later than the one before. */
static uint64_t stepping_ns(void *step_ns)
{
    static uint64_t now_ns;
    now_ns += *(const uint64_t *)step_ns;
    return now_ns;
}

Test(journal, the_mean_of_what_writes_take_follows_the_last_ones)
{
    uint64_t step_ns = 800000;
    const struct clock clock = {.monotonic_ns = stepping_ns, .context = &step_ns};
    journal_init(&journal, &sim.io, &geometry, 77, &workers, &doorbell, &clock);
    cr_assert(eq(u64, journal.write_ns, 0)); /* Nothing known: taken for quick. */
    cr_assert(eq(int, append(5000), STATUS_OK));
    cr_assert(eq(u64, journal.write_ns, 100000));
    for (int i = 0; i < 40; i++) {
        checkpoint_here();
        cr_assert(eq(int, append(5000), STATUS_OK));
    }
    cr_assert(journal.write_ns > 750000 && journal.write_ns <= 800000);
    step_ns = 1000;
    for (int i = 0; i < 40; i++) {
        checkpoint_here();
        cr_assert(eq(int, append(5000), STATUS_OK));
    }
    cr_assert(lt(u64, journal.write_ns, 10000));
}

Test(journal, append_without_room_is_a_bug, .signal = SIGABRT)
{
    while (true) {
        (void)append(60000);
    }
}
