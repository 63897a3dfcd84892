/* The superblock: its copies, and whether its numbers can be. Memory is taken by them. */
#include "engine/verify_internal.h"

#include <string.h>

#include "pool/log.h"
#include "pool/memory.h"

/* Whether one of the four sectors is a whole superblock, of whatever sequence. */
static bool copy_is_whole(const struct superblock *sector, const struct superblock *chosen,
                          uint32_t copy)
{
    static const uint8_t zeros[sizeof sector->copy_zero];
    const size_t covered = offsetof(struct superblock, magic);
    const struct checksum checksum =
        checksum_of((const uint8_t *)sector + covered, SECTOR_SIZE - covered);
    return checksum_equal(&checksum, &sector->checksum) && sector->copy == copy &&
           memcmp(sector->copy_zero, zeros, sizeof zeros) == 0 &&
           memcmp(sector->magic, chosen->magic, sizeof sector->magic) == 0;
}

/* A quorum was found. Copies that are older (or newer, alone) are what a crash leaves; copies that
 * are not whole are damage, though the next open repairs it. */
static void check_copies(struct verify *verify, const struct superblock *sectors)
{
    for (uint32_t i = 0; i < SUPERBLOCK_COPY_COUNT; i++) {
        const uint64_t offset = superblock_zone_offset() + (uint64_t)i * SECTOR_SIZE;
        if (!copy_is_whole(&sectors[i], &verify->superblock, i)) {
            verify_problem(
                verify,
                "superblock: copy %u at offset %llu is damaged; opening the file repairs it", i,
                (unsigned long long)offset);
        } else if (!checksum_equal(&sectors[i].checksum, &verify->superblock.checksum)) {
            LOG_INFO("verify.superblock_copy", log_u64("copy", i),
                     log_u64("sequence", sectors[i].sequence),
                     log_text("note", "of another checkpoint; opening rewrites it"));
        }
    }
}

/* Numbers whose checksum is right and that still cannot be; memory is taken by them. */
static const char *checkpoint_problem(const struct checkpoint_state *checkpoint,
                                      const struct geometry *geometry)
{
    const bool empty = checkpoint->manifest_block_count == 0 && checkpoint->table_count == 0 &&
                       checkpoint->free_set_size == 0 && checkpoint->state_size == 0 &&
                       checkpoint->spill_size == 0 && checkpoint->blocks_acquired == 0;
    if (checkpoint->op == 0 && !empty) {
        return "a file without a checkpoint has blocks";
    }
    if (checkpoint->op % geometry->bar_beats != 0) {
        return "the checkpoint is not at the end of a bar";
    }
    if (checkpoint->free_set_size > geometry->block_count_max / 8 * 2) {
        return "the free set is larger than the grid can be";
    }
    if (checkpoint->state_size >
        catalog_encoded_size_max(geometry) + session_encoded_size_max(geometry)) {
        return "the state is larger than the largest catalog with the most sessions";
    }
    if (checkpoint->spill_size > spill_size_max(geometry) ||
        checkpoint->spill_size % sizeof(struct spill_entry) != 0) {
        return "the list of spilled tables is of an impossible size";
    }
    if (checkpoint->manifest_block_count > checkpoint->blocks_acquired ||
        checkpoint->table_count > checkpoint->blocks_acquired / TABLE_BLOCK_COUNT_MIN) {
        return "the checkpoint counts more tables or manifest blocks than blocks";
    }
    return NULL;
}

enum status verify_superblock(struct verify *verify)
{
    struct superblock *sectors = memory_acquire(SUPERBLOCK_COPY_COUNT * sizeof *sectors);
    if (sectors == NULL) {
        verify_problem(verify, "memory: %s", status_text(STATUS_NO_MEMORY));
        return STATUS_NO_MEMORY;
    }
    struct superblock_open_report report;
    enum status status = superblock_open(&verify->io, sectors, false, &verify->superblock, &report);
    if (status == STATUS_VERSION) {
        verify_problem(verify, "superblock: format version %u, this program reads version %u",
                       verify->superblock.version, SUPERBLOCK_VERSION);
    } else if (status != STATUS_OK) {
        verify_problem(verify, "superblock: %s",
                       report.problem != NULL ? report.problem : status_text(status));
    } else {
        const char *reason =
            checkpoint_problem(&verify->superblock.checkpoint, &verify->superblock.geometry);
        if (reason != NULL) {
            verify_problem(verify, "superblock: %s", reason);
            status = STATUS_CORRUPT;
        } else {
            check_copies(verify, sectors);
            verify->report->bytes_checked += SUPERBLOCK_COPY_COUNT * SECTOR_SIZE;
            verify->report->checkpoint_id = verify->superblock.checkpoint_id;
            verify->report->checkpoint_op = verify->superblock.checkpoint.op;
        }
    }
    memory_release(sectors, SUPERBLOCK_COPY_COUNT * sizeof *sectors);
    return status;
}
