/* Sources are numbered from the newest to the oldest: runs first, then levels 0 to 6. Each shows a
 * span of values that are in memory (a run's segment, a level's value block), already cut at
 * key_max, so that moving on inside a span is one addition. The heap orders sources by (key,
 * number): of equal keys the newest value comes up first, and the others are passed over behind it.
 */
#include "engine/lsm/scan_tree.h"

#include <assert.h>
#include <string.h>

static uint32_t value_size(const struct scan_tree *scan)
{
    return scan->tree->shape.value_size;
}

static int compare(const struct scan_tree *scan, const uint8_t *a, const uint8_t *b)
{
    const struct tree_shape *shape = &scan->tree->shape;
    return shape->ops->compare(a, b, shape->value_size);
}

/* Shows `count` values of a source, less those past key_max. */
static void source_show(const struct scan_tree *scan, struct scan_source *source,
                        const uint8_t *values, uint32_t count)
{
    const struct tree_shape *shape = &scan->tree->shape;
    const uint32_t size = shape->value_size;

    uint32_t shown = count;
    if (count > 0 && compare(scan, values + (size_t)(count - 1) * size, scan->key_max.bytes) >= 0) {
        shown = shape->ops->lower_bound(values, count, size, scan->key_max.bytes);
        if (compare(scan, values + (size_t)shown * size, scan->key_max.bytes) == 0) {
            shown += 1;
        }
        source->ended = true;
    }
    source->cursor = (struct values_cursor){
        .next = values,
        .end = values + (size_t)shown * size,
    };
}

static enum status run_refill(const struct scan_tree *scan, struct scan_source *source)
{
    if (source->run_index == source->run->value_count) {
        source->ended = true;
        return STATUS_OK;
    }
    uint32_t count = 0;
    const uint8_t *values = run_span(source->run, source->run_index, &count);
    assert(count > 0);
    const enum status status = read_ticket_spend(scan->ticket, (uint64_t)count * value_size(scan));
    if (status != STATUS_OK) {
        return status;
    }
    source->run_index += count;
    source_show(scan, source, values, count);
    return STATUS_OK;
}

static void level_close_table(struct scan_source *source)
{
    assert(source->reader_open);
    table_reader_close(&source->reader);
    source->reader_open = false;
}

/* Shows what block block_index holds from value `value_index` on. */
static enum status level_show_block(struct scan_tree *scan, struct scan_source *source,
                                    uint32_t value_index)
{
    const uint8_t *values = NULL;
    uint32_t count = 0;
    const enum status status =
        table_reader_block(&source->reader, source->block_index, &values, &count);
    if (status != STATUS_OK) {
        return status;
    }
    assert(value_index < count);
    source->block_index += 1;
    scan->blocks_read += 1;
    source_show(scan, source, values + (size_t)value_index * value_size(scan), count - value_index);
    return STATUS_OK;
}

/* Opens the table at the source's position and shows its first values in range, if it has any. */
static enum status level_open_table(struct scan_tree *scan, struct scan_source *source,
                                    const struct table_info *table, uint8_t *spare)
{
    const struct tree_shape *shape = &scan->tree->shape;
    table_reader_open(&source->reader, scan->geometry, scan->grid, shape, table, spare);
    source->reader.ticket = scan->ticket;
    source->reader_open = true;

    /* A table that begins within the range has something in it: no filter need be asked. It begins
     * at key_min, even if its first blocks hold smaller keys: those were merged down already. */
    const bool begins_inside = compare(scan, table->key_min.bytes, scan->key_min.bytes) > 0;
    const uint8_t *from = begins_inside ? table->key_min.bytes : scan->key_min.bytes;
    uint32_t value_index = 0;
    const enum status status = table_reader_seek(
        &source->reader, from, scan->prefix && !begins_inside, &source->block_index, &value_index);
    if (status != STATUS_OK) {
        return status;
    }
    if (source->block_index == source->reader.index.value_block_count) {
        return STATUS_OK;
    }
    return level_show_block(scan, source, value_index);
}

static enum status level_refill(struct scan_tree *scan, struct scan_source *source, uint8_t *spare)
{
    if (source->reader_open) {
        if (source->block_index < source->reader.index.value_block_count) {
            return level_show_block(scan, source, 0);
        }
        level_close_table(source);
        source->position = manifest_level_next(source->level, source->position);
    }
    const struct table_info *table = manifest_level_at(source->level, source->position);
    if (table == NULL || compare(scan, table->key_min.bytes, scan->key_max.bytes) > 0) {
        source->ended = true;
        return STATUS_OK;
    }
    return level_open_table(scan, source, table, spare);
}

static bool source_is_empty(const struct scan_source *source)
{
    return source->cursor.next == source->cursor.end;
}

/* Until the source shows a value, or is ended and empty (its blocks are then given back). */
static enum status source_refill(struct scan_tree *scan, struct scan_source *source)
{
    while (source_is_empty(source) && !source->ended) {
        if (source->run != NULL) {
            const enum status status = run_refill(scan, source);
            if (status != STATUS_OK) {
                return status;
            }
            continue;
        }
        const ptrdiff_t level = source->level - scan->tree->manifest->levels;
        const enum status status = level_refill(
            scan, source, scan->spare + (size_t)level * 3 * scan->geometry->block_size);
        if (status != STATUS_OK) {
            scan->bad_address = source->reader.bad_address; /* If it is for a block's sake. */
            return status;
        }
    }
    if (source_is_empty(source) && source->reader_open) {
        level_close_table(source);
    }
    return STATUS_OK;
}

/* ---- The heap ---------------------------------------------------------------------------------
 */

static bool heap_less(const struct scan_tree *scan, uint16_t a, uint16_t b)
{
    const int order = compare(scan, scan->sources[a].cursor.next, scan->sources[b].cursor.next);
    return order != 0 ? order < 0 : a < b;
}

static void heap_sift_down(struct scan_tree *scan, uint32_t position)
{
    uint16_t *heap = scan->heap;
    const uint16_t moving = heap[position];
    for (;;) {
        uint32_t child = 2 * position + 1;
        if (child >= scan->heap_count) {
            break;
        }
        if (child + 1 < scan->heap_count && heap_less(scan, heap[child + 1], heap[child])) {
            child += 1;
        }
        if (heap_less(scan, moving, heap[child])) {
            break;
        }
        heap[position] = heap[child];
        position = child;
    }
    heap[position] = moving;
}

static enum status heap_fill(struct scan_tree *scan)
{
    assert(scan->heap_count == 0);
    for (uint32_t i = 0; i < scan->source_count; i++) {
        const enum status status = source_refill(scan, &scan->sources[i]);
        if (status != STATUS_OK) {
            return status;
        }
        if (!source_is_empty(&scan->sources[i])) {
            scan->heap[scan->heap_count++] = (uint16_t)i;
        }
    }
    for (uint32_t i = scan->heap_count / 2; i > 0; i--) {
        heap_sift_down(scan, i - 1);
    }
    return STATUS_OK;
}

/* Moves the top source on by one value. */
static enum status heap_advance(struct scan_tree *scan)
{
    assert(scan->heap_count > 0);
    struct scan_source *source = &scan->sources[scan->heap[0]];
    assert(!source_is_empty(source));
    source->cursor.next += value_size(scan);
    const enum status status = source_refill(scan, source);
    if (status != STATUS_OK) {
        return status;
    }
    if (source_is_empty(source)) {
        scan->heap_count -= 1;
        scan->heap[0] = scan->heap[scan->heap_count];
    }
    if (scan->heap_count > 0) {
        heap_sift_down(scan, 0);
    }
    return STATUS_OK;
}

/* ---- The scan ---------------------------------------------------------------------------------
 */

void scan_tree_open(struct scan_tree *scan, const struct geometry *geometry, struct grid *grid,
                    const struct tree_version *tree, const struct key *key_min,
                    const struct key *key_max, bool prefix, uint8_t *spare)
{
    assert(tree->manifest != NULL);
    assert(tree->run_count <= 2 * TABLE_MEMORY_RUN_MAX);
    assert(!prefix ||
           memcmp(key_min->bytes, key_max->bytes, tree_shape_filter_size(&tree->shape)) == 0);
    assert(spare != NULL);

    scan->geometry = geometry;
    scan->grid = grid;
    scan->tree = tree;
    scan->key_min = *key_min;
    scan->key_max = *key_max;
    scan->prefix = prefix;
    scan->spare = spare;
    scan->source_count = 0;
    scan->ticket = NULL;
    scan->blocks_read = 0;
    scan->bad_address = 0;
    scan->heap_count = 0;
    scan->started = false;
    scan->top_used = false;
    scan->have_last = false;

    const struct tree_shape *shape = &tree->shape;
    if (shape->key_size == shape->value_size) { /* The manifest compares without tombstone bits. */
        scan->key_min.bytes[shape->key_size - 8] &= 0x7F;
        scan->key_max.bytes[shape->key_size - 8] &= 0x7F;
    }
    for (uint32_t i = 0; i < tree->run_count; i++) {
        scan->sources[scan->source_count++] = (struct scan_source){
            .run = tree->runs[i],
            .run_index = run_lower_bound(tree->runs[i], shape, scan->key_min.bytes, 0),
        };
    }
    for (uint32_t i = 0; i < LEVEL_COUNT; i++) {
        const struct manifest_level *level = &tree->manifest->levels[i];
        if (level->table_count > 0) {
            scan->sources[scan->source_count++] = (struct scan_source){
                .level = level,
                .position = manifest_level_seek(level, &scan->key_min),
            };
        }
    }
    assert(scan->source_count <= SCAN_SOURCE_MAX);
}

enum status scan_tree_next(struct scan_tree *scan, const uint8_t **value)
{
    const struct tree_shape *shape = &scan->tree->shape;
    enum status status = STATUS_OK;
    *value = NULL;
    if (read_ticket_slice_over(scan->ticket)) {
        return STATUS_YIELD;
    }
    if (!scan->started) {
        scan->started = true;
        status = heap_fill(scan);
    } else if (scan->top_used) {
        scan->top_used = false;
        status = heap_advance(scan);
    }

    while (status == STATUS_OK && scan->heap_count > 0) {
        const uint8_t *top = scan->sources[scan->heap[0]].cursor.next;
        const int order = scan->have_last ? compare(scan, scan->last.bytes, top) : -1;
        assert(order <= 0); /* Sources are sorted. */
        if (order != 0) {
            memcpy(scan->last.bytes, top, shape->key_size);
            scan->have_last = true;
            if (!value_is_tombstone(top, shape->key_size, shape->value_size)) {
                scan->top_used = true;
                *value = top;
                return STATUS_OK;
            }
        }
        if (read_ticket_slice_over(scan->ticket)) {
            return STATUS_YIELD; /* What is on top is known as passed over. */
        }
        status = heap_advance(scan);
    }
    return status;
}

void scan_tree_close(struct scan_tree *scan)
{
    for (uint32_t i = 0; i < scan->source_count; i++) {
        if (scan->sources[i].reader_open) {
            level_close_table(&scan->sources[i]);
        }
    }
    scan->source_count = 0;
    scan->heap_count = 0;
}
