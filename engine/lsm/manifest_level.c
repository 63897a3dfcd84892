/* A level is an array of pointers to sorted nodes, so finding is two binary searches, and a change
 * moves at most one node's tables and the pointers behind it.
 *
 *   nodes:  [ 1 4 9 ] [ 12 20 21 33 ] [ 40 ]          neighbours together hold > NODE_MERGE_MAX
 *               \________ shared with a snapshot: copied before the level changes it
 *
 * Why not a B-tree: a level of 100,000 tables is 3,000 pointers, 24 KiB to move in the worst case,
 * once for each table that a compaction makes. */
#include "engine/lsm/manifest_level.h"

#include <assert.h>
#include <string.h>

#include "pool/base.h"

static bool less(const struct key *a, const struct key *b)
{
    /* Keys are zero padded, so all 32 bytes order as the tree's key_size bytes do. */
    return key_less(a->bytes, b->bytes, KEY_SIZE_MAX);
}

/* O(1); the whole of it is manifest_level_verify. */
static void assert_invariants(const struct manifest_level *level)
{
    assert(level->nodes != NULL);
    assert(level->node_count <= level->node_max);
    assert(level->node_count <= level->table_count);
    assert(level->table_count <= (uint64_t)level->node_count * NODE_TABLE_MAX);
}

static void verify_if_asked(const struct manifest_level *level)
{
    if (VERIFY) {
        assert(manifest_level_verify(level));
    }
}

void manifest_level_init(struct manifest_level *level, struct manifest_node **nodes,
                         uint32_t node_max)
{
    assert(level != NULL);
    assert(nodes != NULL);

    *level = (struct manifest_level){.nodes = nodes, .node_max = node_max};
}

void manifest_level_clear(struct manifest_level *level, struct node_pool *pool)
{
    assert_invariants(level);

    for (uint32_t i = 0; i < level->node_count; i++) {
        node_pool_release(pool, level->nodes[i]);
        level->nodes[i] = NULL;
    }
    level->node_count = 0;
    level->table_count = 0;
}

static void node_pointer_insert(struct manifest_level *level, uint32_t index,
                                struct manifest_node *node)
{
    assert(index <= level->node_count);
    assert(level->node_count < level->node_max);

    memmove(&level->nodes[index + 1], &level->nodes[index],
            (level->node_count - index) * sizeof level->nodes[0]);
    level->nodes[index] = node;
    level->node_count += 1;
}

static void node_pointer_remove(struct manifest_level *level, uint32_t index)
{
    assert(index < level->node_count);

    level->node_count -= 1;
    memmove(&level->nodes[index], &level->nodes[index + 1],
            (level->node_count - index) * sizeof level->nodes[0]);
    level->nodes[level->node_count] = NULL;
}

/* The node at `index`, made ours alone: a snapshot that shares it keeps the old one. */
static struct manifest_node *node_own(struct manifest_level *level, struct node_pool *pool,
                                      uint32_t index)
{
    assert(index < level->node_count);

    struct manifest_node *shared = level->nodes[index];
    if (shared->reference_count == 1) {
        return shared;
    }
    struct manifest_node *node = node_pool_acquire(pool);
    node->table_count = shared->table_count;
    memcpy(node->tables, shared->tables, shared->table_count * sizeof shared->tables[0]);
    level->nodes[index] = node;
    node_pool_release(pool, shared);
    return node;
}

static void node_tables_insert(struct manifest_node *node, uint32_t index,
                               const struct table_info *table)
{
    assert(node->reference_count == 1);
    assert(index <= node->table_count);
    assert(node->table_count < NODE_TABLE_MAX);

    memmove(&node->tables[index + 1], &node->tables[index],
            (node->table_count - index) * sizeof node->tables[0]);
    node->tables[index] = *table;
    node->table_count += 1;
}

/* Merges the nodes at `index` and `index + 1`, if both exist and fit. One of them is ours alone: a
 * change has just made it so; the other is only read. */
static void merge_if_small(struct manifest_level *level, struct node_pool *pool, uint32_t index)
{
    if (index + 1 >= level->node_count) {
        return;
    }
    struct manifest_node *lower = level->nodes[index];
    struct manifest_node *upper = level->nodes[index + 1];
    const uint32_t table_count = lower->table_count + upper->table_count;
    if (table_count > NODE_MERGE_MAX) {
        return;
    }
    assert(lower->reference_count == 1 || upper->reference_count == 1);

    if (lower->reference_count == 1) {
        memcpy(&lower->tables[lower->table_count], upper->tables,
               upper->table_count * sizeof upper->tables[0]);
        lower->table_count = table_count;
        node_pointer_remove(level, index + 1);
        node_pool_release(pool, upper);
    } else {
        memmove(&upper->tables[lower->table_count], upper->tables,
                upper->table_count * sizeof upper->tables[0]);
        memcpy(upper->tables, lower->tables, lower->table_count * sizeof lower->tables[0]);
        upper->table_count = table_count;
        node_pointer_remove(level, index);
        node_pool_release(pool, lower);
    }
}

/* Splits the full node at `index` at `split`: what is behind it goes to a new node. */
static void node_split(struct manifest_level *level, struct node_pool *pool, uint32_t index,
                       uint32_t split)
{
    struct manifest_node *lower = node_own(level, pool, index);
    assert(lower->table_count == NODE_TABLE_MAX);
    assert(split > 0 && split < NODE_TABLE_MAX);

    struct manifest_node *upper = node_pool_acquire(pool);
    upper->table_count = lower->table_count - split;
    memcpy(upper->tables, &lower->tables[split], upper->table_count * sizeof upper->tables[0]);
    lower->table_count = split;
    node_pointer_insert(level, index + 1, upper);
}

void manifest_level_insert(struct manifest_level *level, struct node_pool *pool,
                           const struct table_info *table)
{
    assert_invariants(level);
    assert(!less(&table->key_max, &table->key_min));
    assert(table->index.address != 0);
    if (VERIFY) {
        struct manifest_position first;
        const uint32_t overlap_count =
            manifest_level_overlap(level, &table->key_min, &table->key_max, 1, &first);
        assert(overlap_count == 0);
    }

    level->table_count += 1;
    if (level->node_count == 0) {
        node_pointer_insert(level, 0, node_pool_acquire(pool));
        node_tables_insert(level->nodes[0], 0, table);
        verify_if_asked(level);
        return;
    }

    struct manifest_position at = manifest_level_seek(level, &table->key_max);
    if (at.node_index == level->node_count) { /* Behind all: goes to the end of the last node. */
        at.node_index = level->node_count - 1;
        at.table_index = level->nodes[at.node_index]->table_count;
    }
    if (level->nodes[at.node_index]->table_count < NODE_TABLE_MAX) {
        node_tables_insert(node_own(level, pool, at.node_index), at.table_index, table);
        verify_if_asked(level);
        return;
    }
    if (at.table_index == NODE_TABLE_MAX) { /* Tables that come in key order fill their nodes. */
        assert(at.node_index + 1 == level->node_count);
        node_pointer_insert(level, level->node_count, node_pool_acquire(pool));
        node_tables_insert(level->nodes[level->node_count - 1], 0, table);
        verify_if_asked(level);
        return;
    }

    const uint32_t split = NODE_TABLE_MAX / 2;
    node_split(level, pool, at.node_index, split);
    const bool in_upper = at.table_index > split;
    node_tables_insert(level->nodes[at.node_index + in_upper],
                       in_upper ? at.table_index - split : at.table_index, table);
    /* A half may fit with the neighbour that the whole did not fit with. Upper half first: merging
     * the lower one moves the pointers behind it. */
    merge_if_small(level, pool, at.node_index + 1);
    if (at.node_index > 0) {
        merge_if_small(level, pool, at.node_index - 1);
    }
    verify_if_asked(level);
}

/* Position of the table with this key_max and index address; it must be there. */
static struct manifest_position position_of(const struct manifest_level *level,
                                            const struct table_info *table)
{
    const struct manifest_position position = manifest_level_seek(level, &table->key_max);
    const struct table_info *found = manifest_level_at(level, position);
    assert(found != NULL);
    assert(found->index.address == table->index.address);
    assert(memcmp(&found->key_max, &table->key_max, sizeof table->key_max) == 0);
    return position;
}

void manifest_level_remove(struct manifest_level *level, struct node_pool *pool,
                           const struct table_info *table)
{
    assert_invariants(level);
    const struct manifest_position at = position_of(level, table);
    assert(memcmp(&manifest_level_at(level, at)->key_min, &table->key_min, sizeof table->key_min) ==
           0);

    level->table_count -= 1;
    if (level->nodes[at.node_index]->table_count == 1) {
        struct manifest_node *emptied = level->nodes[at.node_index];
        node_pointer_remove(level, at.node_index);
        node_pool_release(pool, emptied);
        /* Both neighbours hold at least NODE_MERGE_MAX: nothing to merge. */
        verify_if_asked(level);
        return;
    }
    struct manifest_node *node = node_own(level, pool, at.node_index);
    node->table_count -= 1;
    memmove(&node->tables[at.table_index], &node->tables[at.table_index + 1],
            (node->table_count - at.table_index) * sizeof node->tables[0]);
    merge_if_small(level, pool, at.node_index);
    if (at.node_index > 0) {
        merge_if_small(level, pool, at.node_index - 1);
    }
    verify_if_asked(level);
}

void manifest_level_update(struct manifest_level *level, struct node_pool *pool,
                           const struct table_info *table)
{
    assert_invariants(level);
    assert(!less(&table->key_max, &table->key_min));

    const struct manifest_position at = position_of(level, table);
    assert(!less(&table->key_min, &manifest_level_at(level, at)->key_min));
    node_own(level, pool, at.node_index)->tables[at.table_index] = *table;
    verify_if_asked(level);
}

void manifest_level_share(const struct manifest_level *level, struct manifest_level *snapshot)
{
    assert_invariants(level);
    assert(snapshot->node_count == 0);
    assert(snapshot->table_count == 0);
    assert(snapshot->node_max >= level->node_count);

    for (uint32_t i = 0; i < level->node_count; i++) {
        node_pool_reference(level->nodes[i]);
        snapshot->nodes[i] = level->nodes[i];
    }
    snapshot->node_count = level->node_count;
    snapshot->table_count = level->table_count;
}

struct manifest_position manifest_level_first(const struct manifest_level *level)
{
    (void)level; /* An empty level's end is its first position, too. */
    return (struct manifest_position){0, 0};
}

struct manifest_position manifest_level_seek(const struct manifest_level *level,
                                             const struct key *key)
{
    uint32_t node_index = 0; /* First node whose last key_max is not less than key. */
    for (uint32_t end = level->node_count; node_index < end;) {
        const uint32_t middle = node_index + (end - node_index) / 2;
        const struct manifest_node *node = level->nodes[middle];
        if (less(&node->tables[node->table_count - 1].key_max, key)) {
            node_index = middle + 1;
        } else {
            end = middle;
        }
    }
    if (node_index == level->node_count) {
        return (struct manifest_position){node_index, 0};
    }
    const struct manifest_node *node = level->nodes[node_index];
    uint32_t table_index = 0;
    for (uint32_t end = node->table_count; table_index < end;) {
        const uint32_t middle = table_index + (end - table_index) / 2;
        if (less(&node->tables[middle].key_max, key)) {
            table_index = middle + 1;
        } else {
            end = middle;
        }
    }
    assert(table_index < node->table_count);
    return (struct manifest_position){node_index, table_index};
}

const struct table_info *manifest_level_at(const struct manifest_level *level,
                                           struct manifest_position position)
{
    if (position.node_index == level->node_count) {
        assert(position.table_index == 0);
        return NULL;
    }
    assert(position.node_index < level->node_count);
    const struct manifest_node *node = level->nodes[position.node_index];
    assert(position.table_index < node->table_count);
    return &node->tables[position.table_index];
}

struct manifest_position manifest_level_next(const struct manifest_level *level,
                                             struct manifest_position position)
{
    assert(position.node_index < level->node_count);
    assert(position.table_index < level->nodes[position.node_index]->table_count);

    if (position.table_index + 1 < level->nodes[position.node_index]->table_count) {
        return (struct manifest_position){position.node_index, position.table_index + 1};
    }
    return (struct manifest_position){position.node_index + 1, 0};
}

const struct table_info *manifest_level_find(const struct manifest_level *level,
                                             const struct key *key)
{
    const struct table_info *table = manifest_level_at(level, manifest_level_seek(level, key));
    return table != NULL && !less(key, &table->key_min) ? table : NULL;
}

uint32_t manifest_level_overlap(const struct manifest_level *level, const struct key *min,
                                const struct key *max, uint32_t limit,
                                struct manifest_position *first)
{
    assert(!less(max, min));

    *first = manifest_level_seek(level, min);
    struct manifest_position position = *first;
    uint32_t count = 0;
    while (count < limit) {
        const struct table_info *table = manifest_level_at(level, position);
        if (table == NULL || less(max, &table->key_min)) {
            break;
        }
        count += 1;
        position = manifest_level_next(level, position);
    }
    return count;
}

const struct table_info *manifest_level_least_overlap(const struct manifest_level *upper,
                                                      const struct manifest_level *lower,
                                                      uint32_t *overlap_count)
{
    /* Both ends of the overlap only move forward as the upper tables ascend. */
    struct manifest_position begin = manifest_level_first(lower);
    struct manifest_position end = begin;
    const struct table_info *begin_table = manifest_level_at(lower, begin);
    const struct table_info *end_table = begin_table;
    uint32_t begin_index = 0;
    uint32_t end_index = 0;

    const struct table_info *least = NULL;
    uint32_t least_count = UINT32_MAX;
    struct manifest_position at = manifest_level_first(upper);
    for (const struct table_info *table = manifest_level_at(upper, at);
         table != NULL && least_count > 0; table = manifest_level_at(upper, at)) {
        while (begin_table != NULL && less(&begin_table->key_max, &table->key_min)) {
            begin = manifest_level_next(lower, begin);
            begin_table = manifest_level_at(lower, begin);
            begin_index += 1;
        }
        while (end_table != NULL && !less(&table->key_max, &end_table->key_min)) {
            end = manifest_level_next(lower, end);
            end_table = manifest_level_at(lower, end);
            end_index += 1;
        }
        /* A lower table between two upper ones is passed by both ends, or by neither. */
        assert(begin_index <= end_index);
        if (end_index - begin_index < least_count) {
            least = table;
            least_count = end_index - begin_index;
        }
        at = manifest_level_next(upper, at);
    }
    *overlap_count = least == NULL ? 0 : least_count;
    return least;
}

bool manifest_level_verify(const struct manifest_level *level)
{
    const struct table_info *before = NULL;
    uint64_t table_count = 0;
    if (level->node_count > level->node_max) {
        return false;
    }
    for (uint32_t i = 0; i < level->node_count; i++) {
        const struct manifest_node *node = level->nodes[i];
        if (node->reference_count == 0 || node->table_count == 0 ||
            node->table_count > NODE_TABLE_MAX) {
            return false;
        }
        if (i > 0 && level->nodes[i - 1]->table_count + node->table_count <= NODE_MERGE_MAX) {
            return false;
        }
        for (uint32_t j = 0; j < node->table_count; j++) {
            const struct table_info *table = &node->tables[j];
            if (less(&table->key_max, &table->key_min)) {
                return false;
            }
            if (before != NULL && !less(&before->key_max, &table->key_min)) {
                return false;
            }
            before = table;
        }
        table_count += node->table_count;
    }
    return table_count == level->table_count;
}
