/* The journal, from the checkpoint's entry to its end: whether each entry follows from those
 * before. */
#include "engine/verify_internal.h"

#include <string.h>

#include "engine/batch.h"
#include "engine/storage/journal.h"
#include "pool/base.h"
#include "pool/log.h"

/* Where the entries so far have brought the forest. */
struct journal_position {
    uint64_t commit;
    uint64_t timestamp;
};

/* Whether the entry's requests fill it, and its numbers follow from those before. */
static bool entry_follows(const struct journal_header *header, const uint8_t *entry,
                          struct journal_position *position)
{
    if (header->commit != position->commit + 1) {
        return false;
    }
    if (header->kind == JOURNAL_KIND_SEAL) {
        return true;
    }
    if (header->timestamp <= position->timestamp) {
        return false;
    }
    uint64_t timestamp = header->timestamp;
    uint64_t at = JOURNAL_HEADER_SIZE;
    for (uint32_t i = 0; i < header->request_count; i++) {
        struct batch_request_header request;
        if (header->size - at < sizeof request) {
            return false;
        }
        memcpy(&request, entry + at, sizeof request);
        at += sizeof request;
        if (header->size - at < align_up(request.size, 8)) {
            return false;
        }
        at += align_up(request.size, 8);
        if ((request.flags & BATCH_FLAG_REFUSED) == 0) {
            position->commit += 1;
            timestamp += max_u64(request.event_count, 1);
        }
    }
    position->timestamp = timestamp - 1;
    return at == header->size;
}

void verify_journal(struct verify *verify)
{
    const struct checkpoint_state *checkpoint = verify->checkpoint;
    struct verify_report *report = verify->report;
    struct journal journal;
    journal_init(&journal, &verify->io, verify->geometry, verify->superblock.journal_seed,
                 &verify->workers, &verify->doorbell, &clock_system);
    journal_recover_begin(&journal, checkpoint->journal_sequence, checkpoint->journal_offset,
                          &checkpoint->journal_parent);
    struct journal_position position = {checkpoint->commit, checkpoint->timestamp};
    enum journal_recovery outcome = JOURNAL_RECOVERY_ENTRY;
    for (;;) {
        uint64_t bad_offset = journal.head;
        const enum status status =
            journal_recover_next(&journal, verify->entry, &outcome, &bad_offset);
        if (status != STATUS_OK) {
            verify_problem(verify, "journal: entry %llu at offset %llu of the zone: %s%s",
                           (unsigned long long)journal.sequence_next,
                           (unsigned long long)bad_offset, status_text(status),
                           status == STATUS_CORRUPT ? ", and later entries are whole" : "");
            return;
        }
        if (outcome != JOURNAL_RECOVERY_ENTRY) {
            break;
        }
        const struct journal_header *header =
            (const struct journal_header *)(const void *)verify->entry;
        report->journal_entries += 1;
        report->bytes_checked += align_up(header->size, SECTOR_SIZE);
        if (!entry_follows(header, verify->entry, &position)) {
            verify_problem(
                verify,
                "journal: entry %llu at offset %llu of the zone does not follow from what came "
                "before",
                (unsigned long long)header->sequence, (unsigned long long)header->offset);
            return;
        }
    }
    if (checkpoint->op > 0 && report->journal_entries == 0) {
        /* The last bar of a checkpoint lives in the journal alone. */
        verify_problem(verify,
                       "journal: entry %llu at offset %llu of the zone is missing, and the "
                       "checkpoint needs it",
                       (unsigned long long)checkpoint->journal_sequence,
                       (unsigned long long)checkpoint->journal_offset);
    } else if (outcome == JOURNAL_RECOVERY_TORN) {
        LOG_INFO("verify.torn_tail", log_u64("sequence", journal.sequence_next),
                 log_u64("offset", journal.head),
                 log_text("note", "the last entry was never finished; opening drops it"));
    }
}
