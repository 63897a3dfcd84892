/* What the superblock refers to: the trailers (free set, state, list of spilled tables) and the
 * manifest log. The state's catalog says of what shape trees are, the log which tables they have;
 * its sessions refer to nothing and are decoded. */
#include "engine/verify_internal.h"

#include <assert.h>
#include <string.h>

#include "engine/storage/trailer.h"

/* ---- Trailers ---- */

struct trailer_visit {
    struct verify *verify;
    const char *what;
};

static void visit_trailer(const struct block_reference *reference, void *context)
{
    const struct trailer_visit *visit = context;
    verify_reach(visit->verify, reference->address, visit->what);
    verify_block_checked(visit->verify);
}

/* Into verify->trailer. False: it cannot be read. */
static bool read_trailer(struct verify *verify, enum block_type type, const char *what,
                         const struct block_reference *first, uint64_t size)
{
    struct trailer_visit visit = {verify, what};
    uint64_t bad_address = 0;
    const enum status status =
        trailer_read(&verify->grid, type, first, verify->trailer, size, verify->single_block,
                     visit_trailer, &visit, &bad_address);
    if (status != STATUS_OK) {
        verify_problem(verify, "%s: the block at address %llu: %s", what,
                       (unsigned long long)bad_address, status_text(status));
        verify->reach_whole = false;
    }
    return status == STATUS_OK;
}

void verify_free_set(struct verify *verify)
{
    const struct checkpoint_state *checkpoint = verify->checkpoint;
    if (!read_trailer(verify, BLOCK_TYPE_FREE_SET, "free set", &checkpoint->free_set,
                      checkpoint->free_set_size)) {
        return;
    }
    const enum status status =
        free_set_decode(&verify->free_set, verify->trailer, checkpoint->free_set_size);
    if (status != STATUS_OK) {
        verify_problem(verify, "free set: its %llu bytes are not the encoding of a set",
                       (unsigned long long)checkpoint->free_set_size);
        return;
    }
    verify->free_set_known = true;
    if (verify->free_set.acquired_count != checkpoint->blocks_acquired) {
        verify_problem(verify, "free set: it calls %llu blocks acquired, the superblock %llu",
                       (unsigned long long)verify->free_set.acquired_count,
                       (unsigned long long)checkpoint->blocks_acquired);
    }
    if (verify->free_set.address_max > checkpoint->address_max) {
        verify_problem(verify,
                       "free set: address %llu is acquired, above the superblock's limit of %llu",
                       (unsigned long long)verify->free_set.address_max,
                       (unsigned long long)checkpoint->address_max);
    }
}

void verify_state(struct verify *verify)
{
    const struct checkpoint_state *checkpoint = verify->checkpoint;
    if (!read_trailer(verify, BLOCK_TYPE_STATE, "state", &checkpoint->state,
                      checkpoint->state_size)) {
        return;
    }
    if (checkpoint->op == 0) {
        verify->catalog_known = true; /* Just formatted: no grooves. */
        return;
    }
    uint64_t commit = 0;
    uint64_t timestamp = 0;
    char reason[256] = "";
    const uint64_t catalog_size = catalog_encoded_size(verify->trailer, checkpoint->state_size);
    enum status status = catalog_decode(&verify->catalog, verify->trailer, catalog_size, &commit,
                                        &timestamp, reason, sizeof reason);
    if (status != STATUS_OK) {
        verify_problem(verify, "state: the catalog makes no sense: %s", reason);
        return;
    }
    verify->catalog_known = true;
    if (commit != checkpoint->commit || timestamp != checkpoint->timestamp) {
        verify_problem(
            verify,
            "state: it is that of commit %llu, timestamp %llu, the superblock's of commit "
            "%llu, timestamp %llu",
            (unsigned long long)commit, (unsigned long long)timestamp,
            (unsigned long long)checkpoint->commit, (unsigned long long)checkpoint->timestamp);
    }
    status = session_table_decode(&verify->sessions, verify->trailer + catalog_size,
                                  checkpoint->state_size - catalog_size, commit, timestamp, reason,
                                  sizeof reason);
    if (status != STATUS_OK) {
        verify_problem(verify, "state: the sessions make no sense: %s", reason);
    }
    verify->report->sessions = verify->sessions.session_count;
}

void verify_spill_list(struct verify *verify)
{
    const uint64_t size = verify->checkpoint->spill_size;
    if (read_trailer(verify, BLOCK_TYPE_SPILL, "spilled tables", &verify->checkpoint->spill,
                     size)) {
        memcpy(verify->spills, verify->trailer, size);
        verify->spill_count = (uint32_t)(size / sizeof(struct spill_entry));
        verify->spill_known = true;
    }
}

/* ---- Manifest log ---- */

static enum status visit_table(void *context, const struct table_info *table)
{
    struct verify *verify = context;
    assert(verify->table_count < verify->manifest_log.table_count_max);
    verify->tables[verify->table_count] = *table;
    verify->table_count += 1;
    return STATUS_OK;
}

static void visit_manifest_block(void *context, const struct block_reference *reference)
{
    verify_reach(context, reference->address, "a manifest block");
    verify_block_checked(context);
}

void verify_manifest_log(struct verify *verify)
{
    const struct checkpoint_state *checkpoint = verify->checkpoint;
    uint64_t bad_address = 0;
    const enum status status = manifest_log_open(
        &verify->manifest_log, &checkpoint->manifest_newest, checkpoint->manifest_block_count,
        checkpoint->table_count, visit_table, verify, &bad_address);
    if (status != STATUS_OK) {
        verify->table_count = 0;
        verify->reach_whole = false;
        if (status == STATUS_NO_MEMORY) { /* Room is made for what the superblock counts. */
            verify_problem(verify,
                           "manifest log: more tables than the %llu that the superblock counts",
                           (unsigned long long)checkpoint->table_count);
        } else {
            verify_problem(
                verify,
                "manifest log: the block at address %llu cannot be read, or does not fit what "
                "the superblock counts (%llu blocks, %llu tables): %s; no table was checked",
                (unsigned long long)bad_address,
                (unsigned long long)checkpoint->manifest_block_count,
                (unsigned long long)checkpoint->table_count, status_text(status));
        }
        return;
    }
    manifest_log_blocks(&verify->manifest_log, visit_manifest_block, verify);
    if (!manifest_log_verify(&verify->manifest_log)) {
        verify_problem(verify,
                       "manifest log: replayed from the oldest block (newest at address %llu) it "
                       "gives other tables than from the newest",
                       (unsigned long long)checkpoint->manifest_newest.address);
    }
}
