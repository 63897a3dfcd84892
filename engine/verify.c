/* `holt verify`: reads everything that a superblock leads to, and believes nothing.
 *
 *   superblock ── free set ─────────────────────────────┐
 *       ├──────── state ──► catalog: shapes of trees    ├─► every block in use is acquired, once,
 *       ├──────── manifest log ──► tables               │   and every acquired block is in use
 *       │                            └─► index ──► values, filters
 *       │                                  └─► objects = ids = entries of each index
 *       └──────── journal, from the checkpoint's entry to its end
 *
 * Each zone is checked as far as it can be read, whatever is wrong with the others. What needs
 * something that is damaged (the values of a table whose index is gone; the blocks that nothing
 * refers to, when some references could not be read) is left out: the damage itself is named.
 *
 * Objects and their entries are compared as multisets: how many, and the sum of their hashes. So
 * each tree is scanned once, in order, and a missing, a surplus and a wrong entry are all seen,
 * without a random read for each object.
 *
 * The file is read through an io that cannot write. */
#include "engine/forest.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/batch.h"
#include "engine/catalog.h"
#include "engine/lsm/filter.h"
#include "engine/lsm/manifest_log.h"
#include "engine/lsm/scan_tree.h"
#include "engine/object.h"
#include "engine/storage/free_set.h"
#include "engine/storage/grid.h"
#include "engine/storage/journal.h"
#include "engine/storage/trailer.h"
#include "pool/base.h"
#include "pool/log.h"
#include "pool/memory.h"

enum {
    ALLOCATION_MAX = 24,
    TABLE_INDEX_KEY_MAX_OFFSET = 24, /* in the metadata of an index block, engine/lsm/table.h */
    TABLE_BLOCK_COUNT_MIN = 3,       /* index, value, filter */
};

/* Entries of a tree without their order: equal counts and sums are equal multisets, but for an
 * accident of one in 2^128. */
struct multiset {
    uint64_t count;
    u128 sum; /* of XXH3-128 */
};

struct verify {
    struct io io; /* First member: its functions cast back. Reads `source`, never writes. */
    struct io *source;
    void (*problem)(void *context, const char *text);
    void (*progress)(uint64_t done, uint64_t total, void *context);
    void *context;
    struct verify_report *report;

    struct {
        void *memory;
        size_t size;
    } allocations[ALLOCATION_MAX];
    uint32_t allocation_count;
    bool allocation_failed;

    struct superblock superblock;
    const struct geometry *geometry;           /* of the superblock */
    const struct checkpoint_state *checkpoint; /* likewise */

    struct doorbell doorbell;
    struct workers workers; /* no threads */
    struct grid grid;
    struct free_set free_set;
    bool free_set_known;
    uint64_t *reached; /* [block_count_max / 64] bit set = something refers to the block */
    bool reach_whole;  /* no reference was left out because its parent could not be read */

    struct tree *trees;                /* [tree_count_max]: shapes only, their levels stay empty */
    struct manifest_node **tree_nodes; /* [tree_count_max * LEVEL_COUNT], never used */
    struct catalog catalog;
    bool catalog_known;
    struct manifest_log manifest_log;
    struct table_info *tables; /* [checkpoint.table_count] */
    uint64_t table_count;

    /* The tree being checked. */
    struct tree_version tree_version;
    struct manifest_version manifest; /* its levels */
    struct manifest_node **nodes;     /* [LEVEL_COUNT * node_max] */
    uint32_t node_max;
    struct node_pool node_pool;
    char tree_name[160];

    uint8_t *trailer;      /* [the larger of free_set_size and state_size] */
    uint8_t *index_block;  /* [block_size] each */
    uint8_t *filter_block; /* */
    uint8_t *single_block; /* */
    uint8_t *window;       /* [window_block_count * block_size] value blocks read in one call */
    uint32_t window_block_count;
    uint8_t *scan_spare; /* [LEVEL_COUNT * 3 * block_size] */
    uint8_t *entry;      /* [journal_entry_size_max] */
    struct scan_tree scan;
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

__attribute__((format(printf, 2, 3))) static void problem(struct verify *verify, const char *format,
                                                          ...)
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
        problem(verify, "grid: %s is said to be at address %llu, and the file has at most %llu",
                what, (unsigned long long)address,
                (unsigned long long)verify->geometry->block_count_max);
        return;
    }
    uint64_t *word = &verify->reached[(address - 1) / 64];
    const uint64_t bit = UINT64_C(1) << ((address - 1) % 64);
    if ((*word & bit) != 0) {
        problem(verify, "grid: two references lead to the block at address %llu; the second is %s",
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
        problem(verify, "free set: %llu blocks %s; the first is %s",
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

/* ---- Trailers: free set and state --------------------------------------------------------------
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
        problem(verify, "%s: the block at address %llu: %s", what, (unsigned long long)bad_address,
                status_text(status));
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
        problem(verify, "free set: its %llu bytes are not the encoding of a set",
                (unsigned long long)checkpoint->free_set_size);
        return;
    }
    verify->free_set_known = true;
    if (verify->free_set.acquired_count != checkpoint->blocks_acquired) {
        problem(verify, "free set: it calls %llu blocks acquired, the superblock %llu",
                (unsigned long long)verify->free_set.acquired_count,
                (unsigned long long)checkpoint->blocks_acquired);
    }
    if (verify->free_set.address_max > checkpoint->address_max) {
        problem(verify, "free set: address %llu is acquired, above the superblock's limit of %llu",
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
    const enum status status =
        catalog_decode(&verify->catalog, verify->trailer, checkpoint->state_size, &commit,
                       &timestamp, reason, sizeof reason);
    if (status != STATUS_OK) {
        problem(verify, "state: the catalog makes no sense: %s", reason);
        return;
    }
    verify->catalog_known = true;
    if (commit != checkpoint->commit || timestamp != checkpoint->timestamp) {
        problem(verify,
                "state: it is that of commit %llu, timestamp %llu, the superblock's of commit "
                "%llu, timestamp %llu",
                (unsigned long long)commit, (unsigned long long)timestamp,
                (unsigned long long)checkpoint->commit, (unsigned long long)checkpoint->timestamp);
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
            problem(verify, "manifest log: more tables than the %llu that the superblock counts",
                    (unsigned long long)checkpoint->table_count);
        } else {
            problem(verify,
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
        problem(verify,
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
    problem(check->verify, "grid: %s, level %u, table at address %llu: %s",
            check->verify->tree_name, check->info->level,
            (unsigned long long)check->info->index.address, text);
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
        table_problem(check, "its entry in the manifest is of an impossible size");
    }
    if (memcmp(info->key_min.bytes + key_size, zeros, KEY_SIZE_MAX - key_size) != 0 ||
        memcmp(info->key_max.bytes + key_size, zeros, KEY_SIZE_MAX - key_size) != 0) {
        table_problem(check, "its keys in the manifest are longer than the tree's %u bytes",
                      key_size);
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
        table_problem(check, "index block and manifest disagree about its last key");
    }
    if (1 + index->value_block_count + index->filter_block_count != info->block_count) {
        table_problem(check, "its index block names %u blocks, the manifest %u",
                      1 + index->value_block_count + index->filter_block_count, info->block_count);
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
        wrong = "is not of this tree, or its counts make no sense";
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
    check->report_values:;
}
