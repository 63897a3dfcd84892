/* One table: its entry in the manifest, its index block, each value and each filter. */
#include "engine/verify_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/lsm/filter.h"
#include "pool/base.h"

enum {
    TABLE_INDEX_KEY_MAX_OFFSET = 24, /* in the metadata of an index block, engine/lsm/table.h */
};

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
    verify_reach(verify, info->index.address, "a table index block");
    enum status status =
        grid_read_block(&verify->grid, &info->index, BLOCK_TYPE_INDEX, verify->index_block);
    if (status != STATUS_OK) {
        table_problem(check, "its index block: %s", status_text(status));
        return false;
    }
    verify_block_checked(verify);
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
    verify_reach(verify, reference.address, "a table value block");
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
            verify_block_checked(verify);
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
    verify_block_checked(verify);
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
    verify_reach(verify, reference.address, "a table filter block");
    const enum status status =
        grid_read_block(&verify->grid, &reference, BLOCK_TYPE_FILTER, verify->filter_block);
    if (status != STATUS_OK) {
        table_problem(check, "filter block %u at address %llu: %s", group,
                      (unsigned long long)reference.address, status_text(status));
        return false;
    }
    verify_block_checked(verify);
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
bool verify_table(struct verify *verify, const struct table_info *info, bool spilled)
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
