/* The journal's scanner, on a ring of entries that are mostly almost right.
 *
 * Input: where recovery starts, then entries, 16 bytes each, written one over another:
 *
 *   u8 flags     bit 0: follows the entry before it (place, sequence, parent)
 *                bit 1: its checksums are not made right
 *                bit 2: a byte of its body is flipped afterwards
 *   u8 sector, u8 sequence     unless it follows
 *   u8 kind, u16 size, u8 request_count, u8 patch_at, u64 patch
 *              the patch is xored over the header before the checksums are made
 *
 * What recovery gives must be entries that follow each other; an end is one only if nothing later
 * is whole, damage only if there is something later or at odds. After an end, what is appended is
 * found by the next recovery, behind what was found before. */
#include <assert.h>
#include <stdlib.h>

#include "engine/storage/journal.h"
#include "pool/base.h"
#include "pool/memory.h"
#include "tests/fuzz/fuzz.h"
#include "tests/harness/sim_io.h"

enum { SECTOR_COUNT = 48, DISK_SIZE = 1 << 20, FOUND_MAX = 4 * SECTOR_COUNT };
static const uint64_t secret = 0x5eed;

struct found {
    uint64_t sequence, offset, size;
    struct checksum checksum;
};

static struct geometry geometry;
static struct sim_io sim;
static struct doorbell doorbell;
static struct workers worker;
static struct journal journal;
static uint8_t *buffer; /* [journal_entry_size_max] */
static uint8_t *ring;   /* [SECTOR_COUNT * SECTOR_SIZE] */

static struct checksum header_checksum(const struct journal_header *header)
{
    return checksum_seeded(secret, &header->checksum_body,
                           sizeof *header - sizeof header->checksum_header);
}

static uint64_t padded(uint64_t size)
{
    return align_up(size, SECTOR_SIZE);
}

static bool is_authentic(const struct journal_header *header, uint64_t offset)
{
    const struct checksum checksum = header_checksum(header);
    return header->sequence > 0 && header->offset == offset &&
           checksum_equal(&checksum, &header->checksum_header);
}

static void entry_write(struct fuzz_input *input, struct journal_header *last)
{
    const uint8_t flags = fuzz_u8(input);
    const uint8_t sector = fuzz_u8(input);
    const uint8_t sequence = fuzz_u8(input);
    struct journal_header header = {
        .kind = fuzz_u8(input),
        .size = fuzz_u16(input),
        .request_count = fuzz_u8(input),
        .offset = sector % SECTOR_COUNT * (uint64_t)SECTOR_SIZE,
        .sequence = sequence,
        .commit = 1,
        .timestamp = 1,
    };
    const uint32_t patch_at = fuzz_u8(input);
    const uint64_t patch = fuzz_u64(input);
    const uint64_t zone_size = geometry.journal_size;
    header.size = max_u64(header.size, JOURNAL_HEADER_SIZE);
    if ((flags & 1) != 0) {
        header.sequence = last->sequence + 1;
        header.parent = last->checksum_header;
        header.offset = (last->offset + padded(last->size)) % zone_size;
    }
    if (header.offset + padded(header.size) > zone_size) {
        header.offset = 0;
    }
    const uint64_t at = header.offset;
    const uint64_t size = header.size;
    uint8_t *entry = ring + at;
    memset(entry, 0, padded(size));
    memset(entry + sizeof header, (int)header.sequence, size - sizeof header);
    for (uint32_t i = 0; i < sizeof patch; i++) {
        const uint32_t offset =
            CHECKSUM_SIZE + (patch_at + i) % (JOURNAL_HEADER_SIZE - CHECKSUM_SIZE);
        ((uint8_t *)&header)[offset] ^= (uint8_t)(patch >> (8 * i));
    }
    if ((flags & 2) == 0) {
        header.checksum_body =
            checksum_seeded(secret, entry + sizeof header, padded(size) - sizeof header);
        header.checksum_header = header_checksum(&header);
    }
    memcpy(entry, &header, sizeof header);
    if ((flags & 4) != 0) {
        entry[padded(size) - 1] ^= 1;
    }
    /* What follows, follows what was meant. */
    *last = header;
    last->offset = at;
    last->size = size;
}

/* What recovery gives from `start` on. */
static enum status recover(const struct found *start, struct found *found, uint32_t *found_count,
                           enum journal_recovery *outcome, uint64_t *bad_offset)
{
    *found_count = 0;
    journal_init(&journal, &sim.io, &geometry, secret, &worker, &doorbell, &clock_system);
    journal_recover_begin(&journal, start->sequence, start->offset, &start->checksum);
    for (;;) {
        const enum status status = journal_recover_next(&journal, buffer, outcome, bad_offset);
        if (status != STATUS_OK || *outcome != JOURNAL_RECOVERY_ENTRY) {
            return status;
        }
        const struct journal_header *header = (const struct journal_header *)(const void *)buffer;
        const struct checksum body =
            checksum_seeded(secret, header + 1, padded(header->size) - sizeof *header);
        const struct found *before = *found_count > 0 ? &found[*found_count - 1] : NULL;
        assert(is_authentic(header, header->offset));
        assert(checksum_equal(&body, &header->checksum_body));
        assert(header->sequence == start->sequence + *found_count);
        assert(
            checksum_equal(&header->parent, before != NULL ? &before->checksum : &start->checksum));
        assert(*found_count < SECTOR_COUNT);
        found[*found_count] =
            (struct found){header->sequence, header->offset, header->size, header->checksum_header};
        *found_count += 1;
    }
}

/* Whether the ring has the header of an entry that is later than the one expected, or is the one
 * expected. */
static void ring_search(uint64_t sequence, bool *later, bool *expected)
{
    *later = false;
    *expected = false;
    for (uint64_t offset = 0; offset < geometry.journal_size; offset += SECTOR_SIZE) {
        const struct journal_header *header =
            (const struct journal_header *)(const void *)(ring + offset);
        if (is_authentic(header, offset)) {
            *later |= header->sequence > sequence;
            *expected |= header->sequence == sequence;
        }
    }
}

static void append(const struct found *start, struct found *found, uint32_t found_count)
{
    struct found again[FOUND_MAX];
    uint32_t again_count;
    enum journal_recovery outcome;
    uint64_t bad_offset;
    enum status status;
    struct journal_header *header = (struct journal_header *)(void *)buffer;
    const uint64_t size = JOURNAL_HEADER_SIZE + 5000;
    if (!journal_has_room(&journal, size)) {
        return;
    }
    memset(buffer, 0xa5, size);
    *header = (struct journal_header){
        .size = size, .commit = 1, .timestamp = 1, .request_count = 1, .kind = JOURNAL_KIND_BATCH};
    journal_append(&journal, buffer);
    journal_hand_over(&journal);
    journal_wait(&journal);
    const bool reaped = journal_reap(&journal, &status);
    assert(reaped && status == STATUS_OK);
    const struct checksum appended = header->checksum_header;

    status = recover(start, again, &again_count, &outcome, &bad_offset);
    assert(status == STATUS_OK && outcome == JOURNAL_RECOVERY_END);
    assert(again_count == found_count + 1);
    for (uint32_t i = 0; i < found_count; i++) {
        assert(checksum_equal(&again[i].checksum, &found[i].checksum));
    }
    assert(checksum_equal(&again[found_count].checksum, &appended));
}

static void setup(void)
{
    geometry = geometry_tiny();
    geometry.journal_size = SECTOR_COUNT * SECTOR_SIZE;
    sim_io_init(&sim, DISK_SIZE);
    doorbell_init(&doorbell);
    const enum status status = workers_start(&worker, "journal", 0, 2);
    assert(status == STATUS_OK);
    buffer = memory_acquire(journal_entry_size_max(&geometry));
    ring = memory_acquire(geometry.journal_size);
    assert(buffer != NULL && ring != NULL);
}

static void teardown(void)
{
    memory_release(ring, geometry.journal_size);
    memory_release(buffer, journal_entry_size_max(&geometry));
    workers_join(&worker);
    doorbell_deinit(&doorbell);
    sim_io_deinit(&sim);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct found found[FOUND_MAX];
    struct journal_header last = {0};
    struct fuzz_input input = {data, size};
    setup();
    struct found start = {.sequence = 1u + fuzz_u8(&input)};
    start.offset = fuzz_u8(&input) % SECTOR_COUNT * (uint64_t)SECTOR_SIZE;
    last.sequence = start.sequence - 1;
    last.offset = start.offset;
    while (input.size > 0) {
        entry_write(&input, &last);
    }
    enum status status =
        io_write(&sim.io, journal_zone_offset(&geometry), ring, geometry.journal_size);
    assert(status == STATUS_OK);

    uint32_t found_count;
    enum journal_recovery outcome = JOURNAL_RECOVERY_ENTRY;
    uint64_t bad_offset = UINT64_MAX;
    status = recover(&start, found, &found_count, &outcome, &bad_offset);
    bool later, expected;
    ring_search(journal.sequence_next, &later, &expected);
    if (status == STATUS_OK) {
        assert(!later);
        append(&start, found, found_count);
    } else {
        assert(status == STATUS_CORRUPT);
        assert(bad_offset < geometry.journal_size);
        assert(later || expected);
    }
    teardown();
    return 0;
}
