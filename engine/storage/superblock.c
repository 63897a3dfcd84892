#include "engine/storage/superblock.h"

#include <stddef.h>
#include <string.h>

#include "pool/base.h"

/* A quorum to open is half of the copies; a write must have one more than that. */
enum { QUORUM_OPEN = 2, QUORUM_WRITE = 3 };

enum { COVERED_OFFSET = offsetof(struct superblock, magic) };

static const uint8_t superblock_magic[8] = {'H', 'O', 'L', 'T', '\0', 'd', 'b', '\n'};

static_assert(COVERED_OFFSET == 24, "checksum, copy and its padding are not covered");
static_assert(sizeof(struct checkpoint_state) == 216, "no padding");
static_assert(SUPERBLOCK_COPY_COUNT == 2 * QUORUM_OPEN, "writes go in two halves of a quorum each");

static uint64_t copy_offset(uint32_t copy)
{
    assert(copy < SUPERBLOCK_COPY_COUNT);
    return superblock_zone_offset() + (uint64_t)copy * SECTOR_SIZE;
}

static struct checksum superblock_checksum(const struct superblock *superblock)
{
    return checksum_of((const uint8_t *)superblock + COVERED_OFFSET, SECTOR_SIZE - COVERED_OFFSET);
}

static bool has_magic(const struct superblock *superblock)
{
    return memcmp(superblock->magic, superblock_magic, sizeof(superblock_magic)) == 0;
}

static bool is_zero(const void *bytes, size_t size)
{
    const uint8_t *byte = bytes;
    uint8_t any = 0;
    for (size_t i = 0; i < size; i++) {
        any |= byte[i];
    }
    return any == 0;
}

static bool checksum_is_none(const struct checksum *checksum)
{
    return is_zero(checksum->bytes, CHECKSUM_SIZE);
}

struct checksum checkpoint_id_of(const struct checkpoint_state *checkpoint)
{
    struct checkpoint_state shared = *checkpoint;
    shared.journal_parent = (struct checksum){0};
    return checksum_of(&shared, sizeof(shared));
}

/* The four sectors as read, and what can be said of each by itself. */
struct copies {
    struct superblock *sectors; /* [SUPERBLOCK_COPY_COUNT], borrowed */
    bool valid[SUPERBLOCK_COPY_COUNT];
    bool any_magic;
    bool any_unreadable;
};

/* A sector that cannot be read is a bad copy, not a failure: that is what the others are for. */
static void copies_read(struct copies *copies, struct io *io, void *sector_buffer)
{
    assert((uintptr_t)sector_buffer % SECTOR_SIZE == 0);
    *copies = (struct copies){.sectors = sector_buffer};

    for (uint32_t i = 0; i < SUPERBLOCK_COPY_COUNT; i++) {
        struct superblock *sector = &copies->sectors[i];
        if (io_read(io, copy_offset(i), sector, SECTOR_SIZE) != STATUS_OK) {
            copies->any_unreadable = true;
            continue;
        }
        const struct checksum checksum = superblock_checksum(sector);
        copies->any_magic |= has_magic(sector);
        copies->valid[i] = has_magic(sector) && checksum_equal(&checksum, &sector->checksum) &&
                           sector->copy == i &&
                           is_zero(sector->copy_zero, sizeof(sector->copy_zero));
    }
}

/* How many copies are valid and the same as `checksum` says. */
static uint32_t copies_count(const struct copies *copies, const struct checksum *checksum)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < SUPERBLOCK_COPY_COUNT; i++) {
        count += copies->valid[i] && checksum_equal(&copies->sectors[i].checksum, checksum);
    }
    return count;
}

static enum status copy_write(struct io *io, struct superblock *sector, uint32_t copy)
{
    sector->copy = (uint8_t)copy;
    return io_write(io, copy_offset(copy), sector, SECTOR_SIZE);
}

static bool reference_is_none(const struct block_reference *reference)
{
    return reference->address == 0 && checksum_is_none(&reference->checksum);
}

static bool reference_fits(const struct block_reference *reference, uint64_t size,
                           uint64_t address_max)
{
    if (size == 0) {
        return reference_is_none(reference);
    }
    return reference->address >= 1 && reference->address <= address_max;
}

/* Whether a checkpoint whose checksum is right also makes sense: what follows it relies on this. */
static const char *checkpoint_problem(const struct checkpoint_state *checkpoint,
                                      const struct geometry *geometry)
{
    if (checkpoint->address_max > geometry->block_count_max ||
        checkpoint->blocks_acquired > checkpoint->address_max) {
        return "its checkpoint uses more blocks than the file may have";
    }
    if (checkpoint->journal_sequence == 0 || checkpoint->journal_offset >= geometry->journal_size ||
        checkpoint->journal_offset % SECTOR_SIZE != 0) {
        return "its checkpoint points outside the journal";
    }
    if (!reference_fits(&checkpoint->manifest_newest, checkpoint->manifest_block_count,
                        checkpoint->address_max) ||
        !reference_fits(&checkpoint->free_set, checkpoint->free_set_size,
                        checkpoint->address_max) ||
        !reference_fits(&checkpoint->state, checkpoint->state_size, checkpoint->address_max)) {
        return "its checkpoint points outside the grid";
    }
    return NULL;
}

static const char *superblock_problem(const struct superblock *superblock)
{
    const struct checksum id = checkpoint_id_of(&superblock->checkpoint);
    if (!checksum_equal(&id, &superblock->checkpoint_id)) {
        return "its checkpoint is not the one that its id names";
    }
    if (superblock->sequence == 0 ||
        (superblock->sequence == 1) != checksum_is_none(&superblock->parent)) {
        return "its sequence and its parent contradict each other";
    }
    if (superblock->zero != 0 || !is_zero(superblock->reserved, sizeof(superblock->reserved))) {
        return "bytes that must be zero are not";
    }
    return checkpoint_problem(&superblock->checkpoint, &superblock->geometry);
}

enum status superblock_format(struct io *io, const struct geometry *geometry,
                              const uint8_t file_id[16], uint64_t journal_seed)
{
    const char *reason = NULL;
    const enum status geometry_status = geometry_validate(geometry, &reason);
    assert(geometry_status == STATUS_OK);
    (void)geometry_status;

    _Alignas(SECTOR_SIZE) struct superblock superblock = {
        .version = SUPERBLOCK_VERSION,
        .sequence = 1,
        .journal_seed = journal_seed,
        .geometry = *geometry,
        .checkpoint = {.journal_sequence = 1},
    };
    memcpy(superblock.magic, superblock_magic, sizeof(superblock_magic));
    memcpy(superblock.file_id, file_id, sizeof(superblock.file_id));
    superblock.checkpoint_id = checkpoint_id_of(&superblock.checkpoint);
    superblock.checksum = superblock_checksum(&superblock);
    assert(superblock_problem(&superblock) == NULL);

    for (uint32_t i = 0; i < SUPERBLOCK_COPY_COUNT; i++) {
        const enum status status = copy_write(io, &superblock, i);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return io_sync(io);
}

/* Chooses the quorum of the highest sequence. Four copies hold at most two quorums. */
static const struct superblock *copies_choose(const struct copies *copies, const char **problem)
{
    const struct superblock *chosen = NULL;
    const struct superblock *lower = NULL;
    for (uint32_t i = 0; i < SUPERBLOCK_COPY_COUNT; i++) {
        const struct superblock *sector = &copies->sectors[i];
        if (!copies->valid[i] || copies_count(copies, &sector->checksum) < QUORUM_OPEN ||
            (chosen != NULL && checksum_equal(&chosen->checksum, &sector->checksum))) {
            continue;
        }
        if (chosen == NULL) {
            chosen = sector;
        } else if (sector->sequence > chosen->sequence) {
            lower = chosen;
            chosen = sector;
        } else {
            lower = sector;
        }
    }
    if (chosen == NULL) {
        *problem = "fewer than 2 of the 4 superblock copies are whole and agree";
        return NULL;
    }
    /* A write cannot begin before the one before it is verified, so two quorums are neighbours. */
    if (lower != NULL && (chosen->sequence != lower->sequence + 1 ||
                          !checksum_equal(&chosen->parent, &lower->checksum))) {
        *problem = "two superblock quorums are not parent and child";
        return NULL;
    }
    return chosen;
}

/* Rewrites what is not like `superblock`, one copy at a time. A copy of the chosen quorum is never
 * touched, so whatever a crash leaves of the others, the quorum stands. */
static enum status copies_repair(struct copies *copies, struct io *io,
                                 const struct superblock *superblock,
                                 struct superblock_open_report *report)
{
    for (uint32_t i = 0; i < SUPERBLOCK_COPY_COUNT; i++) {
        struct superblock *sector = &copies->sectors[i];
        if (copies->valid[i] && checksum_equal(&sector->checksum, &superblock->checksum)) {
            continue;
        }
        *sector = *superblock;
        enum status status = copy_write(io, sector, i);
        if (status == STATUS_OK) {
            status = io_sync(io);
        }
        if (status != STATUS_OK) {
            report->problem = "a bad superblock copy could not be rewritten";
            return status;
        }
        report->copies_repaired += 1;
    }
    return STATUS_OK;
}

enum status superblock_open(struct io *io, void *sector_buffer, bool repair,
                            struct superblock *superblock, struct superblock_open_report *report)
{
    *report = (struct superblock_open_report){0};

    uint64_t size = 0;
    const enum status size_status = io_size(io, &size);
    if (size_status != STATUS_OK) {
        report->problem = "the size of the file cannot be had";
        return size_status;
    }
    if (size < superblock_zone_offset() + superblock_zone_size()) {
        report->problem = "too short for a Holt data file";
        return STATUS_INVALID;
    }

    struct copies copies;
    copies_read(&copies, io, sector_buffer);
    const struct superblock *chosen = copies_choose(&copies, &report->problem);
    if (chosen == NULL) {
        if (copies.any_unreadable) {
            report->problem = "superblock copies cannot be read";
            return STATUS_IO;
        }
        if (!copies.any_magic) {
            report->problem = "not a Holt data file";
            return STATUS_INVALID;
        }
        return STATUS_CORRUPT;
    }

    *superblock = *chosen;
    superblock->copy = 0; /* In memory it is none of the four. */
    report->copies_valid = (uint8_t)copies_count(&copies, &superblock->checksum);
    if (superblock->version != SUPERBLOCK_VERSION) {
        report->problem = "written by another version of Holt";
        return STATUS_VERSION;
    }
    if (geometry_validate(&superblock->geometry, &report->problem) != STATUS_OK) {
        return STATUS_INVALID;
    }
    report->problem = superblock_problem(superblock);
    if (report->problem != NULL) {
        return STATUS_CORRUPT;
    }
    return repair ? copies_repair(&copies, io, superblock, report) : STATUS_OK;
}

/* Copies that are not what is on disk now, then the others. A torn write may take both copies of
 * the half being written: the old quorum is then in the other half, or already not needed. With
 * one copy bad before, 0 1 2 3 would leave a moment with one whole old copy and no whole new one.
 */
static void copies_order(const struct copies *copies, const struct checksum *current,
                         uint32_t order[SUPERBLOCK_COPY_COUNT])
{
    uint32_t count = 0;
    for (int good = 0; good <= 1; good++) {
        for (uint32_t i = 0; i < SUPERBLOCK_COPY_COUNT; i++) {
            const bool is_good =
                copies->valid[i] && checksum_equal(&copies->sectors[i].checksum, current);
            if (is_good == (good == 1)) {
                order[count] = i;
                count += 1;
            }
        }
    }
    assert(count == SUPERBLOCK_COPY_COUNT);
}

enum status superblock_write(struct io *io, void *sector_buffer, struct superblock *superblock,
                             const struct checkpoint_state *checkpoint)
{
    assert(superblock_problem(superblock) == NULL);
    assert(checkpoint_problem(checkpoint, &superblock->geometry) == NULL);
    assert(checkpoint->op >= superblock->checkpoint.op);

    struct copies copies;
    uint32_t order[SUPERBLOCK_COPY_COUNT];
    copies_read(&copies, io, sector_buffer);
    copies_order(&copies, &superblock->checksum, order);

    struct superblock *next = &copies.sectors[0];
    *next = *superblock;
    next->sequence += 1;
    next->parent = superblock->checksum;
    next->checkpoint = *checkpoint;
    next->checkpoint_id = checkpoint_id_of(checkpoint);
    next->checksum = superblock_checksum(next);
    const struct checksum checksum = next->checksum;

    for (uint32_t i = 0; i < SUPERBLOCK_COPY_COUNT; i++) {
        enum status status = copy_write(io, next, order[i]);
        if (status == STATUS_OK && (i + 1) % QUORUM_OPEN == 0) {
            status = io_sync(io);
        }
        if (status != STATUS_OK) {
            return status;
        }
    }

    copies_read(&copies, io, sector_buffer);
    if (copies_count(&copies, &checksum) < QUORUM_WRITE) {
        return STATUS_CORRUPT;
    }
    for (uint32_t i = 0; i < SUPERBLOCK_COPY_COUNT; i++) {
        if (copies.valid[i] && checksum_equal(&copies.sectors[i].checksum, &checksum)) {
            *superblock = copies.sectors[i];
        }
    }
    superblock->copy = 0;
    assert(superblock_problem(superblock) == NULL);
    return STATUS_OK;
}
