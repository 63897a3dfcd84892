/* Goal: a level is a sorted array of disjoint tables, and what a snapshot shared never changes.
 * Method: two levels and a few snapshots of each take random inserts, removes and updates over
 * many seeds; each is compared with a plain array, and so is every question that can be asked.
 * Built with VERIFY, the level checks order, disjointness and the fill of its nodes by itself. */
#include "engine/lsm/manifest_level.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <string.h>

#include "tests/harness/prng.h"

enum {
    TABLE_MAX = 700,
    NODE_MAX = 2 * (TABLE_MAX / (NODE_MERGE_MAX + 1)) + 2,
    SNAPSHOT_COUNT = 3,
    LEVEL_COUNT_TESTED = 2,
    POOL_COUNT = LEVEL_COUNT_TESTED * (SNAPSHOT_COUNT + 1) * NODE_MAX + NODE_CHANGE_MAX,
    SEED_COUNT = 24,
    STEP_COUNT = 4000,
};

struct model {
    struct table_info tables[TABLE_MAX];
    uint32_t count;
};

/* A level and the array that it should be equal to. */
struct subject {
    struct manifest_level level;
    struct manifest_node *nodes[NODE_MAX];
    struct model model;
};

static struct node_pool pool;
static struct subject subjects[LEVEL_COUNT_TESTED];
static struct subject snapshots[LEVEL_COUNT_TESTED][SNAPSHOT_COUNT];
static struct prng prng;
static uint64_t key_space;  /* keys are below this */
static uint32_t key_offset; /* where in the key the number is */
static uint64_t address_next;

static void setup(void)
{
    cr_assert(node_pool_init(&pool, POOL_COUNT) == STATUS_OK);
    for (int i = 0; i < LEVEL_COUNT_TESTED; i++) {
        manifest_level_init(&subjects[i].level, subjects[i].nodes, NODE_MAX);
        for (int j = 0; j < SNAPSHOT_COUNT; j++) {
            manifest_level_init(&snapshots[i][j].level, snapshots[i][j].nodes, NODE_MAX);
        }
    }
}

static void teardown(void)
{
    node_pool_deinit(&pool);
}

TestSuite(manifest_level, .init = setup, .fini = teardown, .timeout = 120);

static struct key key_of(uint64_t number)
{
    struct key key = {{0}};
    for (uint32_t i = 0; i < 8; i++) {
        key.bytes[key_offset + i] = (uint8_t)(number >> (56 - 8 * i));
    }
    return key;
}

static uint64_t number_of(const struct key *key)
{
    return key_load_u64(key->bytes + key_offset);
}

static struct table_info table_of(uint64_t min, uint64_t max)
{
    address_next += 1;
    struct table_info table;
    memset(&table, 0, sizeof table);
    table.key_min = key_of(min);
    table.key_max = key_of(max);
    table.index.address = address_next;
    table.value_count = prng_next(&prng);
    table.tree_id = 1;
    return table;
}

/* Index of the first table with key_max >= number. */
static uint32_t model_seek(const struct model *model, uint64_t number)
{
    uint32_t i = 0;
    while (i < model->count && number_of(&model->tables[i].key_max) < number) {
        i += 1;
    }
    return i;
}

static uint32_t model_overlap(const struct model *model, uint64_t min, uint64_t max)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < model->count; i++) {
        count += number_of(&model->tables[i].key_min) <= max &&
                 number_of(&model->tables[i].key_max) >= min;
    }
    return count;
}

static bool same(const struct table_info *table, const struct model *model, uint32_t index)
{
    if (index == model->count) {
        return table == NULL;
    }
    return table != NULL && memcmp(table, &model->tables[index], sizeof *table) == 0;
}

static void check_tables(const struct subject *subject)
{
    cr_assert(manifest_level_verify(&subject->level));
    cr_assert(eq(u64, subject->level.table_count, subject->model.count));
    struct manifest_position at = manifest_level_first(&subject->level);
    for (uint32_t i = 0; i < subject->model.count; i++) {
        cr_assert(same(manifest_level_at(&subject->level, at), &subject->model, i));
        at = manifest_level_next(&subject->level, at);
    }
    cr_assert(manifest_level_at(&subject->level, at) == NULL);
}

static void check_questions(const struct subject *subject)
{
    const struct manifest_level *level = &subject->level;
    const struct model *model = &subject->model;
    for (int i = 0; i < 20; i++) {
        const uint64_t min = prng_below(&prng, key_space);
        const uint64_t max = prng_range(&prng, min, key_space - 1);
        const struct key key_min = key_of(min);
        const struct key key_max = key_of(max);

        const uint32_t index = model_seek(model, min);
        const struct manifest_position at = manifest_level_seek(level, &key_min);
        cr_assert(same(manifest_level_at(level, at), model, index));

        const bool held = index < model->count && number_of(&model->tables[index].key_min) <= min;
        cr_assert(same(manifest_level_find(level, &key_min), model, held ? index : model->count));

        const uint32_t limit = (uint32_t)prng_below(&prng, 12);
        const uint32_t expected = model_overlap(model, min, max);
        struct manifest_position first;
        cr_assert(eq(u32, manifest_level_overlap(level, &key_min, &key_max, limit, &first),
                     expected < limit ? expected : limit));
        cr_assert(same(manifest_level_at(level, first), model, index));
        cr_assert(eq(u32, manifest_level_overlap(level, &key_min, &key_max, TABLE_MAX, &first),
                     expected));
    }
}

static void check_least_overlap(const struct subject *upper, const struct subject *lower)
{
    uint32_t least_index = upper->model.count;
    uint32_t least_count = UINT32_MAX;
    for (uint32_t i = 0; i < upper->model.count; i++) {
        const struct table_info *table = &upper->model.tables[i];
        const uint32_t count =
            model_overlap(&lower->model, number_of(&table->key_min), number_of(&table->key_max));
        if (count < least_count) {
            least_index = i;
            least_count = count;
        }
    }
    uint32_t overlap_count = 12345;
    const struct table_info *least =
        manifest_level_least_overlap(&upper->level, &lower->level, &overlap_count);
    cr_assert(same(least, &upper->model, least_index));
    cr_assert(eq(u32, overlap_count, upper->model.count == 0 ? 0 : least_count));
}

/* Puts a table of random width into the gap at a random place, if there is one. */
static void insert_random(struct subject *subject)
{
    struct model *model = &subject->model;
    const uint64_t min = prng_below(&prng, key_space);
    const uint32_t index = model_seek(model, min);
    uint64_t limit = key_space - 1;
    if (index < model->count) {
        const uint64_t min_next = number_of(&model->tables[index].key_min);
        if (min_next <= min) {
            return;
        }
        limit = min_next - 1;
    }
    if (model->count == TABLE_MAX) {
        return;
    }
    const uint64_t width = prng_below(&prng, 24);
    const struct table_info table = table_of(min, min + width < limit ? min + width : limit);
    manifest_level_insert(&subject->level, &pool, &table);

    memmove(&model->tables[index + 1], &model->tables[index],
            (model->count - index) * sizeof model->tables[0]);
    model->tables[index] = table;
    model->count += 1;
}

static void remove_at(struct subject *subject, uint32_t index)
{
    struct model *model = &subject->model;
    const struct table_info table = model->tables[index];
    manifest_level_remove(&subject->level, &pool, &table);
    model->count -= 1;
    memmove(&model->tables[index], &model->tables[index + 1],
            (model->count - index) * sizeof model->tables[0]);
}

static void update_random(struct subject *subject)
{
    struct model *model = &subject->model;
    struct table_info *table = &model->tables[prng_below(&prng, model->count)];
    table->key_min =
        key_of(prng_range(&prng, number_of(&table->key_min), number_of(&table->key_max)));
    table->value_count = prng_next(&prng);
    manifest_level_update(&subject->level, &pool, table);
}

static void snapshot_retake(int level_index)
{
    struct subject *snapshot = &snapshots[level_index][prng_below(&prng, SNAPSHOT_COUNT)];
    check_tables(snapshot);
    manifest_level_clear(&snapshot->level, &pool);
    snapshot->model.count = 0;
    if (prng_chance(&prng, 3, 4)) {
        manifest_level_share(&subjects[level_index].level, &snapshot->level);
        snapshot->model = subjects[level_index].model;
    }
}

static void clear_all(void)
{
    for (int i = 0; i < LEVEL_COUNT_TESTED; i++) {
        manifest_level_clear(&subjects[i].level, &pool);
        subjects[i].model.count = 0;
        for (int j = 0; j < SNAPSHOT_COUNT; j++) {
            check_tables(&snapshots[i][j]);
            manifest_level_clear(&snapshots[i][j].level, &pool);
            snapshots[i][j].model.count = 0;
        }
    }
    cr_assert(eq(u32, pool.free_count, POOL_COUNT));
}

Test(manifest_level, agrees_with_a_sorted_array_while_snapshots_stand)
{
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        prng_init(&prng, seed);
        key_space = seed % 2 == 0 ? 20000 : 300;
        key_offset = (uint32_t)(seed % 4) * 8;
        uint32_t insert_chance = 5;
        for (int step = 0; step < STEP_COUNT; step++) {
            const int level_index = (int)prng_below(&prng, LEVEL_COUNT_TESTED);
            struct subject *subject = &subjects[level_index];
            if (prng_chance(&prng, 1, 200)) { /* Grow for a while, then shrink, ... */
                insert_chance = (uint32_t)prng_range(&prng, 1, 9);
            }
            if (prng_chance(&prng, 1, 20)) {
                snapshot_retake(level_index);
            } else if (subject->model.count > 0 && prng_chance(&prng, 1, 5)) {
                update_random(subject);
            } else if (subject->model.count == 0 || prng_chance(&prng, insert_chance, 10)) {
                insert_random(subject);
            } else {
                remove_at(subject, (uint32_t)prng_below(&prng, subject->model.count));
            }
            if (step % 100 == 0) {
                check_tables(subject);
                check_questions(subject);
                check_least_overlap(&subjects[0], &subjects[1]);
                check_least_overlap(&subjects[1], &subjects[0]);
            }
        }
        clear_all();
    }
}

Test(manifest_level, tables_in_key_order_fill_their_nodes)
{
    key_space = 2 * TABLE_MAX;
    struct subject *subject = &subjects[0];
    for (uint64_t i = 0; i < TABLE_MAX; i++) {
        const struct table_info table = table_of(2 * i, 2 * i + 1);
        manifest_level_insert(&subject->level, &pool, &table);
        subject->model.tables[i] = table;
        subject->model.count += 1;
    }
    check_tables(subject);
    cr_assert(
        eq(u32, subject->level.node_count, (TABLE_MAX + NODE_TABLE_MAX - 1) / NODE_TABLE_MAX));
    clear_all();
}

Test(manifest_level, needs_no_more_nodes_than_promised_when_thinned_out)
{
    prng_init(&prng, 1);
    key_space = 2 * TABLE_MAX;
    struct subject *subject = &subjects[0];
    for (uint64_t i = TABLE_MAX; i > 0; i--) { /* Descending: every split leaves halves. */
        const struct table_info table = table_of(2 * i - 2, 2 * i - 1);
        manifest_level_insert(&subject->level, &pool, &table);
        subject->model.tables[i - 1] = table;
        subject->model.count += 1;
        cr_assert(le(u32, subject->level.node_count,
                     manifest_level_node_max(subject->level.table_count)));
    }
    while (subject->model.count > 0) {
        remove_at(subject, (uint32_t)prng_below(&prng, subject->model.count));
        cr_assert(le(u32, subject->level.node_count,
                     manifest_level_node_max(subject->level.table_count)));
    }
    cr_assert(eq(u32, subject->level.node_count, 0));
    cr_assert(eq(u32, pool.free_count, POOL_COUNT));
}

Test(manifest_level, change_of_a_shared_full_node_takes_two_nodes)
{
    key_space = 4 * TABLE_MAX;
    struct subject *subject = &subjects[0];
    for (uint64_t i = 0; i < NODE_TABLE_MAX; i++) {
        const struct table_info table = table_of(4 * i, 4 * i + 1);
        manifest_level_insert(&subject->level, &pool, &table);
        subject->model.tables[i] = table;
    }
    subject->model.count = NODE_TABLE_MAX;
    manifest_level_share(&subject->level, &snapshots[0][0].level);
    snapshots[0][0].model = subject->model;

    const uint32_t free_count = pool.free_count;
    const struct table_info table = table_of(42, 43);
    manifest_level_insert(&subject->level, &pool, &table);
    cr_assert(eq(u32, pool.free_count, free_count - NODE_CHANGE_MAX));
    cr_assert(eq(u64, subject->level.table_count, NODE_TABLE_MAX + 1));
    clear_all();
}

Test(manifest_level, snapshot_of_an_empty_level_needs_no_room)
{
    struct manifest_level snapshot;
    manifest_level_init(&snapshot, snapshots[0][0].nodes, 0);
    manifest_level_share(&subjects[0].level, &snapshot);
    const struct key key = key_of(1);
    cr_assert(manifest_level_at(&snapshot, manifest_level_first(&snapshot)) == NULL);
    cr_assert(manifest_level_find(&snapshot, &key) == NULL);
    manifest_level_clear(&snapshot, &pool);
}

Test(manifest_level, overlapping_insert_is_a_bug, .signal = SIGABRT)
{
    const struct table_info wide = table_of(10, 20);
    const struct table_info inner = table_of(12, 13);
    manifest_level_insert(&subjects[0].level, &pool, &wide);
    manifest_level_insert(&subjects[0].level, &pool, &inner);
}

Test(manifest_level, removing_an_absent_table_is_a_bug, .signal = SIGABRT)
{
    const struct table_info present = table_of(10, 20);
    const struct table_info absent = table_of(10, 20); /* Same range, another index block. */
    manifest_level_insert(&subjects[0].level, &pool, &present);
    manifest_level_remove(&subjects[0].level, &pool, &absent);
}
