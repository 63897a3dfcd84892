/* `holt verify`: reads everything that a superblock leads to, and believes nothing.
 *
 *   superblock ── free set ─────────────────────────────┐
 *       ├──────── state ──► catalog: shapes of trees    ├─► every block in use is acquired, once,
 *       ├──────── manifest log ──► tables               │   and every acquired block is in use
 *       ├──────── spilled tables ────┴─► index ──► values, filters
 *       │                                  └─► objects = ids = entries of each index
 *       └──────── journal, from the checkpoint's entry to its end
 *
 * Each zone is checked as far as it can be read, whatever is wrong with the others. What needs
 * something that is damaged (the values of a table whose index is gone; the blocks that nothing
 * refers to, when some references could not be read) is left out: the damage itself is named.
 *
 * What the values of a groove's trees say of each other is verify_groove.c's subject.
 *
 * The state's other part, the sessions, refers to nothing; it is decoded.
 *
 * The file is read through an io that cannot write. */
#include "engine/verify_internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/batch.h"
#include "engine/lsm/filter.h"
#include "engine/object.h"
#include "engine/storage/journal.h"
#include "engine/storage/trailer.h"
#include "pool/base.h"
#include "pool/log.h"
#include "pool/memory.h"

enum {
    TABLE_INDEX_KEY_MAX_OFFSET = 24, /* in the metadata of an index block, engine/lsm/table.h */
    TABLE_BLOCK_COUNT_MIN = 3,       /* index, value, filter */
};

/* ---- An io that cannot write -------------------------------------------------------------------
 */

static enum status view_read(struct io *io, uint64_t offset, void *buffer, size_t size)
{
    return io_read(container_of(io, struct verify, io)->source, offset, buffer, size);
}

static enum status view_write(struct io *io, uint64_t offset, const void *buffer, size_t size)
{
    (void)io, (void)offset, (void)buffer, (void)size;
    assert(false && "verify must not write");
    return STATUS_DENIED;
}

/* Recovery of the journal syncs before it lets anyone append; here nobody will. */
static enum status view_sync(struct io *io)
{
    (void)io;
    return STATUS_OK;
}

static enum status view_size(struct io *io, uint64_t *size)
{
    return io_size(container_of(io, struct verify, io)->source, size);
}

static const struct io_ops view_ops = {view_read, view_write, view_sync, view_size};

/* ---- Telling -----------------------------------------------------------------------------------
 */

void verify_problem(struct verify *verify, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    verify->report->problems += 1;
    verify->problem(verify->context, text);
}

static uint64_t blocks_expected(const struct verify *verify)
{
    const uint64_t acquired = verify->checkpoint->blocks_acquired;
    return verify->free_set_known ? acquired - verify->free_set.releasing_count : acquired;
}

static void block_checked(struct verify *verify)
{
    struct verify_report *report = verify->report;
    report->blocks_checked += 1;
    report->bytes_checked += verify->geometry->block_size;
    if (verify->progress != NULL) {
        const uint64_t total = blocks_expected(verify);
        verify->progress(min_u64(report->blocks_checked, total), total, verify->context);
    }
}

/* ---- Which blocks are in use -------------------------------------------------------------------
 */

/* Notes that something refers to this block. */
static void reach(struct verify *verify, uint64_t address, const char *what)
{
    assert(address >= 1);
    if (address > verify->geometry->block_count_max) {
        verify_problem(
            verify, "grid: %s is said to be at address %llu, and the file has at most %llu", what,
            (unsigned long long)address, (unsigned long long)verify->geometry->block_count_max);
        return;
    }
    uint64_t *word = &verify->reached[(address - 1) / 64];
    const uint64_t bit = UINT64_C(1) << ((address - 1) % 64);
    if ((*word & bit) != 0) {
        verify_problem(verify,
                       "grid: two references lead to the block at address %llu; the second is %s",
                       (unsigned long long)address, what);
    }
    *word |= bit;
}

/* What the block at `address` says it is. */
static void block_describe(struct verify *verify, uint64_t address, char *text, size_t text_size)
{
    static const char *const types[] = {
        [BLOCK_TYPE_FREE_SET] = "free set", [BLOCK_TYPE_STATE] = "state",
        [BLOCK_TYPE_MANIFEST] = "manifest", [BLOCK_TYPE_INDEX] = "table index",
        [BLOCK_TYPE_VALUE] = "table value", [BLOCK_TYPE_FILTER] = "table filter",
        [BLOCK_TYPE_SPILL] = "spill",
    };
    const enum status status = grid_read_blocks(&verify->grid, address, 1, verify->single_block);
    const struct block_header *header = block_header_const(verify->single_block);
    if (status != STATUS_OK || header->type >= array_count(types) || types[header->type] == NULL) {
        snprintf(text, text_size, "unreadable, at address %llu", (unsigned long long)address);
    } else {
        snprintf(text, text_size, "a %s block of tree %u, at address %llu", types[header->type],
                 header->tree_id, (unsigned long long)address);
    }
}

/* One problem for all blocks of a kind: a bitmap that went wrong is wrong in many places. */
struct block_tally {
    uint64_t count;
    uint64_t first; /* address */
};

static void tally(struct block_tally *blocks, uint64_t word, uint64_t word_index)
{
    if (word != 0 && blocks->count == 0) {
        blocks->first = word_index * 64 + (uint64_t)__builtin_ctzll(word) + 1;
    }
    blocks->count += (uint64_t)__builtin_popcountll(word);
}

static void tally_tell(struct verify *verify, const struct block_tally *blocks, const char *what)
{
    if (blocks->count > 0) {
        char text[96];
        block_describe(verify, blocks->first, text, sizeof text);
        verify_problem(verify, "free set: %llu blocks %s; the first is %s",
                       (unsigned long long)blocks->count, what, text);
    }
}

/* Free set = complement of what is reachable. */
static void check_reached(struct verify *verify)
{
    if (!verify->free_set_known) {
        return;
    }
    const struct free_set *set = &verify->free_set;
    struct block_tally not_acquired = {0};
    struct block_tally releasing = {0};
    struct block_tally unreachable = {0};
    for (uint64_t i = 0; i < set->word_count; i++) {
        const uint64_t reached = verify->reached[i];
        tally(&not_acquired, reached & ~set->acquired[i], i);
        tally(&releasing, reached & set->releasing[i], i);
        tally(&unreachable, set->acquired[i] & ~set->releasing[i] & ~reached, i);
    }
    tally_tell(verify, &not_acquired, "are in use and called free");
    tally_tell(verify, &releasing, "are in use and about to be freed");
    if (verify->reach_whole) {
        tally_tell(verify, &unreachable, "are called in use and nothing refers to them");
    }
}

/* ---- Trailers: free set, state, spilled tables
 * --------------------------------------------------------------
 */

struct trailer_visit {
    struct verify *verify;
    const char *what;
};

static void visit_trailer(const struct block_reference *reference, void *context)
{
    const struct trailer_visit *visit = context;
    reach(visit->verify, reference->address, visit->what);
    block_checked(visit->verify);
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

static void check_free_set(struct verify *verify)
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

static void check_state(struct verify *verify)
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

static void check_spill(struct verify *verify)
{
    const uint64_t size = verify->checkpoint->spill_size;
    if (read_trailer(verify, BLOCK_TYPE_SPILL, "spilled tables", &verify->checkpoint->spill,
                     size)) {
        memcpy(verify->spills, verify->trailer, size);
        verify->spill_count = (uint32_t)(size / sizeof(struct spill_entry));
        verify->spill_known = true;
    }
}

/* ---- Manifest log ------------------------------------------------------------------------------
 */

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
    reach(context, reference->address, "a manifest block");
    block_checked(context);
}

static void check_manifest_log(struct verify *verify)
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

/* ---- One table ---------------------------------------------------------------------------------
 */

struct table_check {
    struct verify *verify;
    const struct tree_shape *shape;
    const struct table_info *info;
    bool spilled; /* in no level: the info is of the list of spilled tables */
    struct table_index index;
    uint64_t problems_before;
    bool values_whole; /* every value block could be read */

    uint32_t window_first; /* value block */
    uint32_t window_count; /* blocks in the window */

    struct key last; /* key of the last value so far, as it stands there */
    bool have_last;
    uint64_t tombstone_count; /* of the whole table */
    uint64_t live_count;      /* from key_min on */
    uint64_t live_tombstone_count;

    bool filter_known; /* filter_block is the one of the current group */
};

__attribute__((format(printf, 2, 3))) static void table_problem(const struct table_check *check,
                                                                const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const unsigned long long address = check->info->index.address;
    if (check->spilled) {
        verify_problem(check->verify, "grid: %s, spilled table at address %llu: %s",
                       check->verify->tree_name, address, text);
    } else {
        verify_problem(check->verify, "grid: %s, level %u, table at address %llu: %s",
                       check->verify->tree_name, check->info->level, address, text);
    }
}

static const char *parent(const struct table_check *check)
{
    return check->spilled ? "list of spilled tables" : "manifest";
}

static int compare_keys(const struct table_check *check, const uint8_t *a, const uint8_t *b)
{
    return check->shape->ops->compare(a, b, check->shape->value_size);
}

/* What can be said of the manifest's entry by itself. */
static void check_info(struct table_check *check)
{
    static const uint8_t zeros[KEY_SIZE_MAX];
    const struct table_info *info = check->info;
    const uint32_t key_size = check->shape->key_size;
    if (info->value_count == 0 || info->tombstone_count > info->value_count ||
        info->value_count > check->shape->value_count_max ||
        info->block_count < TABLE_BLOCK_COUNT_MIN) {
        table_problem(check, "its entry in the %s is of an impossible size", parent(check));
    }
    if (memcmp(info->key_min.bytes + key_size, zeros, KEY_SIZE_MAX - key_size) != 0 ||
        memcmp(info->key_max.bytes + key_size, zeros, KEY_SIZE_MAX - key_size) != 0) {
        table_problem(check, "its keys in the %s are longer than the tree's %u bytes",
                      parent(check), key_size);
    }
    if (check->shape->value_size == key_size &&
        ((info->key_min.bytes[key_size - 8] | info->key_max.bytes[key_size - 8]) & 0x80) != 0) {
        table_problem(check, "its keys in the %s have a tombstone's bit", parent(check));
    }
}

/* Into verify->index_block. */
static bool load_index(struct table_check *check)
{
    struct verify *verify = check->verify;
    const struct table_info *info = check->info;
    reach(verify, info->index.address, "a table index block");
    enum status status =
        grid_read_block(&verify->grid, &info->index, BLOCK_TYPE_INDEX, verify->index_block);
    if (status != STATUS_OK) {
        table_problem(check, "its index block: %s", status_text(status));
        return false;
    }
    block_checked(verify);
    status = table_index_decode(verify->geometry, check->shape, verify->index_block, &check->index);
    if (status != STATUS_OK) {
        table_problem(check, "its index block is not of this tree, or its counts make no sense");
        return false;
    }
    const struct table_index *index = &check->index;
    struct key key_max;
    memcpy(&key_max, block_header_const(verify->index_block)->metadata + TABLE_INDEX_KEY_MAX_OFFSET,
           sizeof key_max);
    if (memcmp(&key_max, &info->key_max, sizeof key_max) != 0) {
        table_problem(check, "index block and %s disagree about its last key", parent(check));
    }
    if (1 + index->value_block_count + index->filter_block_count != info->block_count) {
        table_problem(check, "its index block names %u blocks, the %s %u",
                      1 + index->value_block_count + index->filter_block_count, parent(check),
                      info->block_count);
    }
    return true;
}

/* Value block `i`, verified; adjacent blocks are read in one call. NULL: it cannot be read. */
static const uint8_t *load_values(struct table_check *check, uint32_t i)
{
    struct verify *verify = check->verify;
    const size_t block_size = verify->geometry->block_size;
    const struct block_reference reference = table_index_value_reference(&check->index, i);
    reach(verify, reference.address, "a table value block");
    if (i >= check->window_first + check->window_count) {
        uint32_t count = 1;
        while (i + count < check->index.value_block_count && count < verify->window_block_count &&
               table_index_value_reference(&check->index, i + count).address ==
                   reference.address + count) {
            count += 1;
        }
        const enum status status =
            grid_read_blocks(&verify->grid, reference.address, count, verify->window);
        check->window_first = i;
        check->window_count = status == STATUS_OK ? count : 0;
    }
    if (i < check->window_first + check->window_count) {
        const uint8_t *block = verify->window + (i - check->window_first) * block_size;
        if (block_verify(block, verify->geometry->block_size, &reference, BLOCK_TYPE_VALUE) ==
            STATUS_OK) {
            block_checked(verify);
            return block;
        }
    }
    /* A second look at this block alone, before damage is declared. */
    const enum status status =
        grid_read_block(&verify->grid, &reference, BLOCK_TYPE_VALUE, verify->single_block);
    if (status != STATUS_OK) {
        table_problem(check, "value block %u at address %llu: %s", i,
                      (unsigned long long)reference.address, status_text(status));
        return NULL;
    }
    block_checked(verify);
    return verify->single_block;
}

static uint32_t filter_size(const struct verify *verify)
{
    return block_body_size(verify->geometry) / 32 * 32;
}

/* The filter of value blocks [group * G, (group + 1) * G), into verify->filter_block. */
static bool load_filter(struct table_check *check, uint32_t group)
{
    struct verify *verify = check->verify;
    const struct block_reference reference = table_index_filter_reference(&check->index, group);
    reach(verify, reference.address, "a table filter block");
    const enum status status =
        grid_read_block(&verify->grid, &reference, BLOCK_TYPE_FILTER, verify->filter_block);
    if (status != STATUS_OK) {
        table_problem(check, "filter block %u at address %llu: %s", group,
                      (unsigned long long)reference.address, status_text(status));
        return false;
    }
    block_checked(verify);
    const struct block_header *header = block_header_const(verify->filter_block);
    const uint32_t blocks_per_filter =
        table_value_blocks_per_filter(verify->geometry, check->shape->value_size);
    const uint64_t covered =
        min_u64(blocks_per_filter, check->index.value_block_count - group * blocks_per_filter);
    if (header->tree_id != check->shape->tree_id || header->key_size != check->shape->key_size ||
        header->value_size != check->shape->value_size ||
        header->size != BLOCK_HEADER_SIZE + filter_size(verify) || header->value_count != covered) {
        table_problem(check, "filter block %u at address %llu is not of this table", group,
                      (unsigned long long)reference.address);
        return false;
    }
    return true;
}

/* Every key, tombstones included, must be let through. */
static void check_filter(const struct table_check *check, uint32_t block_index,
                         const uint8_t *values, uint32_t count)
{
    const struct tree_shape *shape = check->shape;
    const uint8_t *filter = block_body_const(check->verify->filter_block);
    const uint32_t size = filter_size(check->verify);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t key[KEY_SIZE_MAX];
        memcpy(key, values + (size_t)i * shape->value_size, shape->key_size);
        if (shape->key_size == shape->value_size) { /* The tombstone bit is no key. */
            key[shape->key_size - 8] &= 0x7f;
        }
        if (!filter_may_contain(filter, size, filter_hash(key, tree_shape_filter_size(shape)))) {
            table_problem(check, "its filter denies key %u of value block %u", i, block_index);
            return;
        }
    }
}

static void check_values(struct table_check *check, uint32_t block_index, const uint8_t *block)
{
    const struct tree_shape *shape = check->shape;
    const struct values_ops *ops = shape->ops;
    const struct table_index *index = &check->index;
    const uint32_t value_size = shape->value_size;
    const uint64_t per_block = table_values_per_block(check->verify->geometry, value_size);
    const uint64_t expected =
        min_u64(per_block, index->value_count - (uint64_t)block_index * per_block);
    uint32_t count = 0;
    const enum status status =
        table_value_block_decode(check->verify->geometry, shape, block, &count);
    const uint8_t *values = block_body_const(block);
    const char *wrong = NULL;
    if (status != STATUS_OK) {
        wrong = "is not of this tree, or its counts or keys make no sense";
    } else if (count != expected) {
        wrong = "has another number of values than the index says";
    } else if (!ops->verify(values, count, value_size)) {
        wrong = "has keys that do not ascend";
    } else if (compare_keys(check, values, index->first_keys + block_index * shape->key_size) !=
               0) {
        wrong = "does not begin with the key that the index says";
    } else if (check->have_last && compare_keys(check, check->last.bytes, values) >= 0) {
        wrong = "does not begin above the last key of the block before";
    }
    if (wrong != NULL) {
        table_problem(check, "value block %u at address %llu %s", block_index,
                      (unsigned long long)block_header_const(block)->address, wrong);
        check->values_whole = false;
        check->have_last = false;
        return;
    }
    memcpy(check->last.bytes, values + (size_t)(count - 1) * value_size, shape->key_size);
    check->have_last = true;
    check->verify->report->values_checked += count;

    /* What lies below key_min was merged down already and is no part of the table any more. */
    const uint32_t dead = ops->lower_bound(values, count, value_size, check->info->key_min.bytes);
    const uint8_t *live = values + (size_t)dead * value_size;
    if (dead < count && check->live_count == 0 && check->values_whole &&
        compare_keys(check, live, check->info->key_min.bytes) != 0) {
        table_problem(check, "the %s's first key is not that of a value", parent(check));
    }
    check->tombstone_count += ops->count_tombstones(values, count, value_size);
    check->live_count += count - dead;
    check->live_tombstone_count += ops->count_tombstones(live, count - dead, value_size);
    if (check->filter_known) {
        check_filter(check, block_index, values, count);
    }
}

static void check_counts(const struct table_check *check)
{
    const struct table_info *info = check->info;
    if (check->tombstone_count != check->index.tombstone_count) {
        table_problem(check, "it has %llu tombstones, its index block says %llu",
                      (unsigned long long)check->tombstone_count,
                      (unsigned long long)check->index.tombstone_count);
    }
    if (check->live_count != info->value_count ||
        check->live_tombstone_count != info->tombstone_count) {
        table_problem(check,
                      "from its first key on it has %llu values, %llu of them tombstones, the "
                      "%s says %llu and %llu",
                      (unsigned long long)check->live_count,
                      (unsigned long long)check->live_tombstone_count, parent(check),
                      (unsigned long long)info->value_count,
                      (unsigned long long)info->tombstone_count);
    }
    if (compare_keys(check, check->last.bytes, info->key_max.bytes) != 0) {
        table_problem(check, "the %s's last key is not that of its last value", parent(check));
    }
}

/* False: something is wrong with it, and has been told. */
static bool check_table(struct verify *verify, const struct table_info *info, bool spilled)
{
    struct table_check check = {
        .verify = verify,
        .shape = &verify->tree_version.shape,
        .info = info,
        .spilled = spilled,
        .problems_before = verify->report->problems,
        .values_whole = true,
    };
    check_info(&check);
    if (!load_index(&check)) {
        verify->reach_whole = false; /* What it points to is unknown. */
        return false;
    }
    const uint32_t blocks_per_filter =
        table_value_blocks_per_filter(verify->geometry, check.shape->value_size);
    for (uint32_t i = 0; i < check.index.value_block_count; i++) {
        if (i % blocks_per_filter == 0) {
            check.filter_known = load_filter(&check, i / blocks_per_filter);
        }
        const uint8_t *block = load_values(&check, i);
        if (block == NULL) {
            check.values_whole = false;
            check.have_last = false;
        } else {
            check_values(&check, i, block);
        }
    }
    if (check.values_whole) {
        check_counts(&check);
    }
    verify->report->tables_checked += 1;
    return verify->report->problems == check.problems_before;
}

/* ---- One tree ----------------------------------------------------------------------------------
 */

static void tree_begin(struct verify *verify, const struct tree_shape *shape)
{
    verify->tree_version = (struct tree_version){.shape = *shape, .manifest = &verify->manifest};
    for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
        manifest_level_init(&verify->manifest.levels[level],
                            verify->nodes + (size_t)level * verify->node_max, verify->node_max);
    }
}

static void tree_end(struct verify *verify)
{
    for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
        manifest_level_clear(&verify->manifest.levels[level], &verify->node_pool);
    }
}

/* Takes the table into its level, unless it overlaps what is there already. */
static bool level_insert(struct verify *verify, const struct table_info *info)
{
    struct manifest_level *level = &verify->manifest.levels[info->level];
    struct manifest_position position;
    if (manifest_level_overlap(level, &info->key_min, &info->key_max, 1, &position) > 0) {
        verify_problem(verify,
                       "manifest log: %s, level %u: the tables at addresses %llu and %llu overlap",
                       verify->tree_name, info->level,
                       (unsigned long long)manifest_level_at(level, position)->index.address,
                       (unsigned long long)info->index.address);
        return false;
    }
    manifest_level_insert(level, &verify->node_pool, info);
    return true;
}

/* Every table of the tree. False: something is wrong, and the tree is not fit to be scanned. */
static bool check_tree(struct verify *verify)
{
    const uint32_t tree_id = verify->tree_version.shape.tree_id;
    bool sound = true;
    for (uint64_t i = 0; i < verify->table_count; i++) {
        const struct table_info *info = &verify->tables[i];
        if (info->tree_id == tree_id && !level_insert(verify, info)) {
            sound = false;
            (void)check_table(verify, info, false); /* In no level, but its blocks are in use. */
        }
    }
    for (uint32_t i = 0; i < LEVEL_COUNT; i++) {
        const struct manifest_level *level = &verify->manifest.levels[i];
        for (struct manifest_position position = manifest_level_first(level);
             manifest_level_at(level, position) != NULL;
             position = manifest_level_next(level, position)) {
            sound &= check_table(verify, manifest_level_at(level, position), false);
        }
    }
    return sound;
}

/* ---- A tree's spilled memory table -------------------------------------------------------------
 */

static const struct spill_entry *spill_of(const struct verify *verify, uint32_t tree_id)
{
    for (uint32_t i = 0; i < verify->spill_count; i++) {
        if (verify->spills[i].table.tree_id == tree_id) {
            return &verify->spills[i];
        }
    }
    return NULL;
}

/* What the list says by itself: trees that are there, each once, in order, within half a bar. */
static void check_spill_list(struct verify *verify)
{
    uint64_t bytes = 0;
    uint32_t last_id = 0;
    for (uint32_t i = 0; i < verify->spill_count; i++) {
        const struct table_info *table = &verify->spills[i].table;
        const struct tree *tree = catalog_tree_for_id(&verify->catalog, table->tree_id);
        if (tree == NULL) {
            verify_problem(
                verify,
                "spilled tables: the table at address %llu is of tree %u, which no groove has",
                (unsigned long long)table->index.address, table->tree_id);
            verify->reach_whole = false;
        } else {
            bytes += verify->spills[i].value_count * tree->shape.value_size;
        }
        if (table->tree_id <= last_id) {
            verify_problem(verify, "spilled tables: tree %u comes behind tree %u", table->tree_id,
                           last_id);
        }
        last_id = table->tree_id;
    }
    if (bytes > verify->geometry->bar_memory_size / 2) {
        verify_problem(
            verify, "spilled tables: they hold %llu bytes of entries, a bar at most %llu",
            (unsigned long long)bytes, (unsigned long long)verify->geometry->bar_memory_size);
    }
}

/* Its blocks, as of a table of a level. */
static bool check_spilled_table(struct verify *verify, const struct catalog_groove *groove,
                                const struct tree *tree, const struct spill_entry *entry)
{
    const char *wrong = spill_entry_problem(verify->geometry, &tree->shape, tree->bar_value_max,
                                            verify->checkpoint->op, entry);
    if (wrong == NULL && groove->dropping) {
        wrong = "its groove is being dropped";
    }
    if (wrong != NULL) {
        verify_problem(verify, "grid: %s, spilled table at address %llu: %s", verify->tree_name,
                       (unsigned long long)entry->table.index.address, wrong);
    }
    if (entry->table.index.address - 1 >= verify->geometry->block_count_max) {
        verify->reach_whole = false;
        return false;
    }
    return check_table(verify, &entry->table, true) && wrong == NULL;
}

/* Its values, above the levels of the tree being checked. `arena` is given back by spill_detach. */
static bool spill_attach(struct verify *verify, const struct spill_entry *entry,
                         struct run_arena *arena)
{
    const struct tree_shape *shape = &verify->tree_version.shape;
    const uint64_t segments = run_arena_segments(entry->table.value_count, shape->value_size, 1);
    enum status status = run_arena_init(arena, segments * RUN_SEGMENT_SIZE, 1);
    if (status != STATUS_OK) {
        verify_problem(verify, "grid: %s, spilled table: %s", verify->tree_name,
                       status_text(status));
        return false;
    }
    struct run *run;
    uint64_t bad_address;
    status = spill_load(verify->geometry, &verify->grid, shape, entry, verify->spill_blocks, arena,
                        NULL, NULL, &run, &bad_address);
    if (status != STATUS_OK) {
        verify_problem(
            verify,
            "grid: %s, spilled table at address %llu: the block at address %llu does not fit "
            "it: %s",
            verify->tree_name, (unsigned long long)entry->table.index.address,
            (unsigned long long)bad_address, status_text(status));
        run_arena_deinit(arena);
        return false;
    }
    verify->tree_version.runs[0] = run;
    verify->tree_version.run_count = 1;
    return true;
}

static void spill_detach(struct verify *verify, struct run_arena *arena)
{
    if (verify->tree_version.run_count > 0) {
        verify->tree_version.run_count = 0;
        run_release(arena, verify->tree_version.runs[0]);
        run_arena_deinit(arena);
    }
}

bool verify_tree_attach(struct verify *verify, const struct tree_shape *shape,
                        struct run_arena *arena)
{
    tree_begin(verify, shape);
    for (uint64_t i = 0; i < verify->table_count; i++) {
        if (verify->tables[i].tree_id == shape->tree_id) {
            const bool fits = level_insert(verify, &verify->tables[i]);
            assert(fits); /* It did before. */
            (void)fits;
        }
    }
    const struct spill_entry *spill = spill_of(verify, shape->tree_id);
    return spill == NULL || spill_attach(verify, spill, arena);
}

void verify_tree_detach(struct verify *verify, struct run_arena *arena)
{
    spill_detach(verify, arena);
    tree_end(verify);
}

/* ---- One groove ------------------------------------------------------------------------------
 */

static void tree_name(const struct groove_check *check, uint32_t position, char *text,
                      size_t text_size)
{
    const uint32_t tree_id = check->groove->trees[position]->shape.tree_id;
    const struct groove_spec *spec = &check->schema->spec;
    if (position < TREE_INDEX) {
        snprintf(text, text_size, "%s tree %u of groove '%s'",
                 position == TREE_OBJECT ? "object" : "id", tree_id, spec->name);
    } else {
        snprintf(text, text_size, "tree %u of index '%s' of groove '%s'", tree_id,
                 spec->indexes[position - TREE_INDEX].name, spec->name);
    }
}

static void check_groove(struct verify *verify, const struct catalog_groove *groove)
{
    struct groove_check check = {
        .verify = verify,
        .groove = groove,
        .schema = &groove->schema->schema,
    };
    for (uint32_t i = 0; i < groove->tree_count; i++) {
        tree_name(&check, i, verify->tree_name, sizeof verify->tree_name);
        tree_begin(verify, &groove->trees[i]->shape);
        bool sound = check_tree(verify) && verify->spill_known;
        const struct spill_entry *spill = spill_of(verify, groove->trees[i]->shape.tree_id);
        struct run_arena arena = {0};
        if (spill != NULL) {
            sound &= check_spilled_table(verify, groove, groove->trees[i], spill);
            sound = sound && spill_attach(verify, spill, &arena);
        }
        /* Of a groove that is being dropped some tables are gone already. */
        const bool comparable = sound && !groove->dropping;
        if (comparable && i == TREE_OBJECT) {
            verify_objects(&check);
        } else if (comparable && check.objects_known) {
            verify_entries(&check, i);
        }
        verify_tree_detach(verify, &arena);
        if (comparable && i >= TREE_INDEX && check.entries_differ &&
            schema_index_unique(check.schema, i - TREE_INDEX)) {
            verify_duplicates(&check, i - TREE_INDEX);
        }
    }
    verify->report->grooves += !groove->dropping;
}

static void check_grooves(struct verify *verify)
{
    if (!verify->catalog_known) {
        verify->reach_whole = false; /* Without shapes no table can be read. */
        return;
    }
    for (uint64_t i = 0; i < verify->table_count; i++) {
        const struct table_info *info = &verify->tables[i];
        if (catalog_tree_for_id(&verify->catalog, info->tree_id) == NULL) {
            verify_problem(verify,
                           "manifest log: the table at address %llu is of tree %u, which no "
                           "groove has",
                           (unsigned long long)info->index.address, info->tree_id);
            verify->reach_whole = false;
        }
    }
    check_spill_list(verify);
    for (const struct catalog_groove *groove = catalog_after(&verify->catalog, 0); groove != NULL;
         groove = catalog_after(&verify->catalog, groove->groove_id)) {
        check_groove(verify, groove);
    }
}

/* ---- Journal -----------------------------------------------------------------------------------
 */

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

static void check_journal(struct verify *verify)
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

/* ---- Superblock --------------------------------------------------------------------------------
 */

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

static enum status open_superblock(struct verify *verify)
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

/* ---- Lifecycle ---------------------------------------------------------------------------------
 */

/* Zeroed; given back by release_all. */
static void *take(struct verify *verify, size_t size)
{
    assert(verify->allocation_count < VERIFY_ALLOCATION_MAX);
    void *memory = memory_acquire(max_u64(size, 1));
    verify->allocations[verify->allocation_count].memory = memory;
    verify->allocations[verify->allocation_count].size = max_u64(size, 1);
    verify->allocation_count += 1;
    verify->allocation_failed |= memory == NULL;
    return memory;
}

static void release_all(struct verify *verify)
{
    while (verify->allocation_count > 0) {
        verify->allocation_count -= 1;
        memory_release(verify->allocations[verify->allocation_count].memory,
                       verify->allocations[verify->allocation_count].size);
    }
}

static enum status take_all(struct verify *verify)
{
    const struct geometry *geometry = verify->geometry;
    const struct checkpoint_state *checkpoint = verify->checkpoint;
    const size_t block_size = geometry->block_size;
    const size_t tree_count = geometry->tree_count_max;
    verify->window_block_count = (uint32_t)max_u64(IO_SIZE_MAX / block_size, 1);
    verify->node_max = manifest_level_node_max(checkpoint->table_count);
    verify->reached = take(verify, geometry->block_count_max / 64 * sizeof(uint64_t));
    verify->trees = take(verify, tree_count * sizeof(struct tree));
    verify->tree_nodes = take(verify, tree_count * LEVEL_COUNT * sizeof(struct manifest_node *));
    verify->tables = take(verify, checkpoint->table_count * sizeof(struct table_info));
    verify->nodes =
        take(verify, (size_t)LEVEL_COUNT * verify->node_max * sizeof(struct manifest_node *));
    verify->spills = take(verify, checkpoint->spill_size);
    verify->trailer =
        take(verify, max_u64(max_u64(checkpoint->free_set_size, checkpoint->state_size),
                             checkpoint->spill_size));
    verify->index_block = take(verify, block_size);
    verify->filter_block = take(verify, block_size);
    verify->single_block = take(verify, block_size);
    verify->window = take(verify, verify->window_block_count * block_size);
    verify->scan_spare = take(verify, LEVEL_COUNT * 3 * block_size);
    verify->spill_blocks = take(verify, 2 * block_size);
    verify->entry = take(verify, journal_entry_size_max(geometry));
    if (verify->allocation_failed) {
        return STATUS_NO_MEMORY;
    }
    for (size_t i = 0; i < tree_count; i++) {
        verify->trees[i].level_nodes = verify->tree_nodes + i * LEVEL_COUNT;
    }
    return STATUS_OK;
}

/* Room for the log that the superblock counts: manifest_log keeps 7 A + 10 blocks and more, where A
 * is append_blocks_max. */
static enum status init_manifest_log(struct verify *verify)
{
    const struct manifest_log_options options = {
        .append_blocks_max = (uint32_t)(verify->checkpoint->manifest_block_count / 7) + 1,
        .table_count_max = max_u64(verify->checkpoint->table_count, 1),
    };
    return manifest_log_init(&verify->manifest_log, verify->geometry, &verify->grid,
                             &verify->free_set, &verify->workers, &verify->doorbell, &options);
}

/* A tree is spread over all levels at worst, so that each has its share of half-filled nodes. */
static enum status init_node_pool(struct verify *verify)
{
    return node_pool_init(&verify->node_pool,
                          verify->node_max + LEVEL_COUNT * manifest_level_node_max(0));
}

static void walk(struct verify *verify)
{
    verify->reach_whole = true;
    check_free_set(verify);
    check_state(verify);
    check_spill(verify);
    check_manifest_log(verify);
    check_grooves(verify);
    check_reached(verify);
    check_journal(verify);
    if (verify->progress != NULL) {
        const uint64_t total = blocks_expected(verify);
        verify->progress(total, total, verify->context);
    }
}

static enum status init_and_walk(struct verify *verify)
{
    verify->geometry = &verify->superblock.geometry;
    verify->checkpoint = &verify->superblock.checkpoint;
    enum status status = take_all(verify);
    if (status != STATUS_OK) {
        return status;
    }
    status = workers_start(&verify->workers, "verify", 0, 1);
    if (status != STATUS_OK) {
        return status;
    }
    doorbell_init(&verify->doorbell);
    status = grid_init(&verify->grid, &verify->io, verify->geometry, 0, &verify->workers,
                       &verify->doorbell);
    if (status != STATUS_OK) {
        goto deinit_doorbell;
    }
    status = free_set_init(&verify->free_set, verify->geometry->block_count_max);
    if (status != STATUS_OK) {
        goto deinit_grid;
    }
    status = catalog_init(&verify->catalog, verify->geometry, verify->trees, 1);
    if (status != STATUS_OK) {
        goto deinit_free_set;
    }
    status = session_table_init(&verify->sessions, verify->geometry);
    if (status != STATUS_OK) {
        goto deinit_catalog;
    }
    status = init_node_pool(verify);
    if (status != STATUS_OK) {
        goto deinit_sessions;
    }
    status = init_manifest_log(verify);
    if (status != STATUS_OK) {
        goto deinit_node_pool;
    }
    walk(verify);
    manifest_log_deinit(&verify->manifest_log);

deinit_node_pool:
    node_pool_deinit(&verify->node_pool);
deinit_sessions:
    session_table_deinit(&verify->sessions);
deinit_catalog:
    catalog_deinit(&verify->catalog);
deinit_free_set:
    free_set_deinit(&verify->free_set);
deinit_grid:
    grid_deinit(&verify->grid);
deinit_doorbell:
    doorbell_deinit(&verify->doorbell);
    workers_join(&verify->workers);
    return status;
}

enum status forest_verify(struct io *io, void (*problem_told)(void *context, const char *text),
                          void (*progress)(uint64_t done, uint64_t total, void *context),
                          void *context, struct verify_report *report)
{
    assert(problem_told != NULL);
    *report = (struct verify_report){0};
    struct verify *verify = memory_acquire(sizeof *verify);
    if (verify == NULL) {
        report->problems = 1;
        problem_told(context, "verify cannot start: no memory");
        return STATUS_NO_MEMORY;
    }
    verify->io.ops = &view_ops;
    verify->source = io;
    verify->problem = problem_told;
    verify->progress = progress;
    verify->context = context;
    verify->report = report;
    enum status status = open_superblock(verify);
    if (status == STATUS_OK) {
        status = init_and_walk(verify);
        if (status != STATUS_OK) {
            verify_problem(verify, "verify cannot start: %s", status_text(status));
        }
    }
    release_all(verify);
    memory_release(verify, sizeof *verify);
    return status;
}
