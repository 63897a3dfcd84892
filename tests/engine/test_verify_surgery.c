/* Goal: what no checksum sees, bugs, is found and named, too.
 * Method: verify_fixture.h; the image is edited in place, then every reference on the way up to the
 * superblock is made right again. */
#include "engine/catalog.h"
#include "engine/lsm/manifest_log.h"
#include "engine/object.h"
#include "tests/engine/verify_fixture.h"

enum {
    /* Trees of the first groove: object, id, by_a, by_bc, by_note. */
    OBJECT_TREE = 1,
    ID_TREE = 2,
    INDEX_TREE = 3,
    MANIFEST_BLOCK_MAX = 64,
};

static struct superblock *superblock_copy(uint32_t copy)
{
    return (struct superblock *)(void *)(fixture.sim.bytes + (size_t)copy * SECTOR_SIZE);
}

static struct checkpoint_state *checkpoint(void)
{
    return &superblock_copy(0)->checkpoint;
}

static void superblock_seal(void)
{
    struct superblock *first = superblock_copy(0);
    first->checkpoint_id = checkpoint_id_of(&first->checkpoint);
    first->checksum = checksum_of((const uint8_t *)first + 24, SECTOR_SIZE - 24);
    for (uint32_t copy = 1; copy < SUPERBLOCK_COPY_COUNT; copy++) {
        memcpy(superblock_copy(copy), first, sizeof *first);
        superblock_copy(copy)->copy = (uint8_t)copy;
    }
}

static struct block_reference reference_in(const void *bytes)
{
    struct block_reference reference;
    memcpy(&reference, bytes, sizeof reference);
    return reference;
}

/* Seals a trailer of one block again. */
static void trailer_seal(struct block_reference *first)
{
    cr_assert(eq(u64, reference_in(block_header(block_at(first->address))->metadata).address, 0));
    *first = block_seal(block_at(first->address), fixture.geometry.block_size);
    superblock_seal();
}

/* The manifest log, newest block first. */
static uint32_t manifest_blocks(uint64_t addresses[MANIFEST_BLOCK_MAX])
{
    const uint32_t count = (uint32_t)checkpoint()->manifest_block_count;
    cr_assert(le(u32, count, MANIFEST_BLOCK_MAX));
    struct block_reference reference = checkpoint()->manifest_newest;
    for (uint32_t i = 0; i < count; i++) {
        addresses[i] = reference.address;
        reference = reference_in(block_header(block_at(reference.address))->metadata);
    }
    return count;
}

static struct table_info *manifest_entry(uint64_t address, uint32_t i)
{
    return (struct table_info *)(void *)block_body(block_at(address)) + i;
}

static void manifest_seal(void)
{
    uint64_t addresses[MANIFEST_BLOCK_MAX];
    const uint32_t count = manifest_blocks(addresses);
    for (uint32_t i = count; i > 0; i--) {
        uint8_t *block = block_at(addresses[i - 1]);
        const struct block_reference reference = block_seal(block, fixture.geometry.block_size);
        if (i == 1) {
            checkpoint()->manifest_newest = reference;
        } else {
            memcpy(block_header(block_at(addresses[i - 2]))->metadata, &reference,
                   sizeof reference);
        }
    }
    superblock_seal();
}

/* Entries that decide about a live table; `visit` returns whether it wants to stop there. */
static struct table_info *find_table(bool (*wanted)(const struct table_info *table, void *context),
                                     void *context)
{
    static uint64_t seen[16 * 1024];
    uint32_t seen_count = 0;
    uint64_t addresses[MANIFEST_BLOCK_MAX];
    const uint32_t count = manifest_blocks(addresses);
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t j = block_header(block_at(addresses[i]))->value_count; j > 0; j--) {
            struct table_info *table = manifest_entry(addresses[i], j - 1);
            bool stale = false;
            for (uint32_t k = 0; k < seen_count; k++) {
                stale |= seen[k] == table->index.address;
            }
            if (stale) {
                continue;
            }
            seen[seen_count] = table->index.address;
            seen_count += 1;
            if (table->event != MANIFEST_EVENT_REMOVE && wanted(table, context)) {
                return table;
            }
        }
    }
    return NULL;
}

struct wanted_table {
    uint32_t tree_id;
    uint32_t level;
};

static bool is_wanted(const struct table_info *table, void *context)
{
    const struct wanted_table *wanted = context;
    return table->tree_id == wanted->tree_id && table->level == wanted->level;
}

/* A table of the tree's highest level that has one: nothing on disk is newer than its values. */
static struct table_info *newest_table(uint32_t tree_id)
{
    for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
        struct table_info *table = find_table(is_wanted, &(struct wanted_table){tree_id, level});
        if (table != NULL) {
            return table;
        }
    }
    cr_fail("tree %u has no table", tree_id);
    return NULL;
}

/* The parts of an index block. */
static uint8_t *index_of(const struct table_info *table)
{
    return block_at(table->index.address);
}

static uint32_t value_blocks(const struct table_info *table)
{
    return block_header(index_of(table))->value_count;
}

static uint32_t filter_blocks(const struct table_info *table)
{
    uint32_t count;
    memcpy(&count, block_header(index_of(table))->metadata + 20, sizeof count);
    return count;
}

static uint8_t *value_addresses(const struct table_info *table)
{
    return block_body(index_of(table)) + (size_t)value_blocks(table) * 16;
}

static uint8_t *first_keys(const struct table_info *table)
{
    return value_addresses(table) + (size_t)value_blocks(table) * 8;
}

static uint8_t *filter_checksums(const struct table_info *table)
{
    return first_keys(table) +
           (size_t)value_blocks(table) * block_header(index_of(table))->key_size;
}

static uint8_t *child(const uint8_t *addresses, uint32_t i)
{
    return block_at(load_u64_le(addresses + (size_t)i * 8));
}

static uint8_t *value_block(const struct table_info *table, uint32_t i)
{
    return child(value_addresses(table), i);
}

static uint8_t *filter_block(const struct table_info *table, uint32_t i)
{
    return child(filter_checksums(table) + (size_t)filter_blocks(table) * 16, i);
}

/* From the values up. */
static void table_seal(struct table_info *table)
{
    const uint32_t block_size = fixture.geometry.block_size;
    for (uint32_t i = 0; i < value_blocks(table); i++) {
        const struct block_reference reference = block_seal(value_block(table, i), block_size);
        memcpy(block_body(index_of(table)) + (size_t)i * 16, &reference.checksum, 16);
    }
    for (uint32_t i = 0; i < filter_blocks(table); i++) {
        const struct block_reference reference = block_seal(filter_block(table, i), block_size);
        memcpy(filter_checksums(table) + (size_t)i * 16, &reference.checksum, 16);
    }
    table->index = block_seal(index_of(table), block_size);
    manifest_seal();
}

/* The first value, from the manifest's key_min on, that is no tombstone. */
static uint8_t *live_value(const struct table_info *table)
{
    for (uint32_t i = 0; i < value_blocks(table); i++) {
        const struct block_header *header = block_header(value_block(table, i));
        for (uint32_t j = 0; j < header->value_count; j++) {
            uint8_t *value = block_body(value_block(table, i)) + (size_t)j * header->value_size;
            if (memcmp(value, table->key_min.bytes, header->key_size) >= 0 &&
                !value_is_tombstone(value, header->key_size, header->value_size)) {
                return value;
            }
        }
    }
    cr_fail("only tombstones");
    return NULL;
}

static void edit_object_field(void)
{
    struct table_info *table = newest_table(OBJECT_TREE);
    live_value(table)[32] ^= 1;
    table_seal(table);
}

static void edit_object_version(void)
{
    struct table_info *table = newest_table(OBJECT_TREE);
    store_u64_be(live_value(table) + 8, UINT64_C(1) << 62);
    table_seal(table);
}

static void edit_object_text(void)
{
    struct table_info *table = newest_table(OBJECT_TREE);
    live_value(table)[48] = 0xff; /* No UTF-8. */
    table_seal(table);
}

static void edit_id_timestamp(void)
{
    struct table_info *table = newest_table(ID_TREE);
    live_value(table)[23] ^= 1;
    table_seal(table);
}

static void edit_id_tombstone(void)
{
    struct table_info *table = newest_table(ID_TREE);
    value_set_tombstone(live_value(table), 16, 24);
    table_seal(table);
}

/* A tombstone that is counted everywhere: only the objects tell. */
static void edit_index_tombstone(void)
{
    struct table_info *table = newest_table(INDEX_TREE);
    value_set_tombstone(live_value(table), 16, 16);
    uint64_t count = load_u64_le(block_header(index_of(table))->metadata + 8);
    store_u64_le(block_header(index_of(table))->metadata + 8, count + 1);
    table->tombstone_count += 1;
    table_seal(table);
}

static void edit_order(void)
{
    struct table_info *table = newest_table(ID_TREE);
    uint8_t *values = block_body(value_block(table, 0));
    uint8_t swap[24];
    memcpy(swap, values + 24, 24);
    memcpy(values + 24, values + 48, 24);
    memcpy(values + 48, swap, 24);
    table_seal(table);
}

static void edit_first_key(void)
{
    struct table_info *table = newest_table(ID_TREE);
    first_keys(table)[15] ^= 1;
    table_seal(table);
}

static void edit_value_count(void)
{
    struct table_info *table = newest_table(ID_TREE);
    struct block_header *header = block_header(value_block(table, value_blocks(table) - 1));
    cr_assert(gt(u32, header->value_count, 1));
    header->value_count -= 1;
    header->size -= header->value_size;
    table_seal(table);
}

static void edit_value_tree(void)
{
    struct table_info *table = newest_table(ID_TREE);
    block_header(value_block(table, 0))->tree_id = INDEX_TREE;
    table_seal(table);
}

static void edit_value_block_twice(void)
{
    struct table_info *table = newest_table(ID_TREE);
    cr_assert(gt(u32, value_blocks(table), 1));
    memcpy(value_addresses(table) + 8, value_addresses(table), 8);
    table_seal(table);
}

static void edit_filter(void)
{
    struct table_info *table = newest_table(INDEX_TREE);
    memset(block_body(filter_block(table, 0)), 0, 1024);
    table_seal(table);
}

static void edit_filter_count(void)
{
    struct table_info *table = newest_table(INDEX_TREE);
    block_header(filter_block(table, 0))->value_count += 1;
    table_seal(table);
}

static void edit_index_tree(void)
{
    struct table_info *table = newest_table(ID_TREE);
    block_header(index_of(table))->tree_id = INDEX_TREE;
    table_seal(table);
}

static void edit_index_key_max(void)
{
    struct table_info *table = newest_table(ID_TREE);
    memset(block_header(index_of(table))->metadata + 24, 0xff, 16);
    table_seal(table);
}

static void edit_index_tombstones(void)
{
    struct table_info *table = newest_table(ID_TREE);
    uint8_t *count = block_header(index_of(table))->metadata + 8;
    store_u64_le(count, load_u64_le(count) + 1);
    table_seal(table);
}

static void edit_manifest_values(void)
{
    newest_table(OBJECT_TREE)->value_count -= 1;
    manifest_seal();
}

static void edit_manifest_no_values(void)
{
    struct table_info *table = newest_table(OBJECT_TREE);
    table->value_count = 0;
    manifest_seal();
}

static void edit_manifest_key_min(void)
{
    struct table_info *table = newest_table(ID_TREE); /* Random ids: no two are neighbours. */
    table->key_min.bytes[15] += 1;
    manifest_seal();
}

static void edit_manifest_key_max(void)
{
    struct table_info *table = newest_table(ID_TREE);
    table->key_max.bytes[15] ^= 1;
    memcpy(block_header(index_of(table))->metadata + 24, &table->key_max, sizeof table->key_max);
    table_seal(table);
}

static void edit_manifest_key_padding(void)
{
    newest_table(ID_TREE)->key_max.bytes[31] = 1;
    manifest_seal();
}

static void edit_manifest_key_tombstone(void)
{
    struct table_info *table = newest_table(INDEX_TREE);
    table->key_max.bytes[8] |= 0x80;
    memcpy(block_header(index_of(table))->metadata + 24, &table->key_max, sizeof table->key_max);
    table_seal(table);
}

static void edit_manifest_block_count(void)
{
    newest_table(ID_TREE)->block_count += 1;
    manifest_seal();
}

static void edit_manifest_tree(void)
{
    newest_table(ID_TREE)->tree_id = 99;
    manifest_seal();
}

static void edit_manifest_range(void)
{
    struct table_info *table = newest_table(OBJECT_TREE); /* One of several at its level. */
    memset(table->key_min.bytes, 0, 8);
    memset(table->key_max.bytes, 0xff, 8);
    manifest_seal();
}

static void edit_manifest_event(void)
{
    newest_table(ID_TREE)->event = MANIFEST_EVENT_REMOVE;
    manifest_seal();
}

static void edit_table_count_less(void)
{
    checkpoint()->table_count -= 1;
    superblock_seal();
}

static void edit_table_count_more(void)
{
    checkpoint()->table_count += 1;
    superblock_seal();
}

static uint8_t *state_body(void)
{
    return block_body(block_at(checkpoint()->state.address));
}

static void edit_object_count(void)
{
    uint8_t *count = state_body() + CATALOG_HEADER_SIZE + 8;
    store_u64_le(count, load_u64_le(count) + 1);
    trailer_seal(&checkpoint()->state);
}

static void edit_state_flags(void)
{
    state_body()[CATALOG_HEADER_SIZE + 4] = 7;
    trailer_seal(&checkpoint()->state);
}

static void edit_state_commit(void)
{
    store_u64_le(state_body(), load_u64_le(state_body()) + 1);
    trailer_seal(&checkpoint()->state);
}

/* Word 0 of `acquired`, or of `releasing` behind it. */
static uint8_t *free_set_byte(bool releasing, uint64_t address)
{
    return block_body(block_at(checkpoint()->free_set.address)) +
           (releasing ? checkpoint()->free_set_size / 2 : 0) + (address - 1) / 8;
}

static void edit_free_set_lost(void)
{
    const uint64_t address = newest_table(ID_TREE)->index.address;
    *free_set_byte(false, address) &= (uint8_t) ~(1u << ((address - 1) % 8));
    checkpoint()->blocks_acquired -= 1;
    trailer_seal(&checkpoint()->free_set);
}

static void edit_free_set_leak(void)
{
    for (uint64_t address = 1; address <= checkpoint()->address_max; address++) {
        uint8_t *byte = free_set_byte(false, address);
        const uint8_t bit = (uint8_t)(1u << ((address - 1) % 8));
        if ((*byte & bit) == 0) {
            *byte |= bit;
            checkpoint()->blocks_acquired += 1;
            trailer_seal(&checkpoint()->free_set);
            return;
        }
    }
    cr_fail("no block is free");
}

static void edit_free_set_releasing(void)
{
    const uint64_t address = newest_table(ID_TREE)->index.address;
    *free_set_byte(true, address) |= (uint8_t)(1u << ((address - 1) % 8));
    trailer_seal(&checkpoint()->free_set);
}

static void edit_free_set_shape(void)
{
    const uint64_t address = newest_table(ID_TREE)->index.address;
    *free_set_byte(true, address) |= (uint8_t)(1u << ((address - 1) % 8));
    *free_set_byte(false, address) &= (uint8_t) ~(1u << ((address - 1) % 8));
    trailer_seal(&checkpoint()->free_set);
}

static void edit_blocks_acquired(void)
{
    checkpoint()->blocks_acquired -= 1;
    superblock_seal();
}

static void edit_journal_sequence(void)
{
    checkpoint()->journal_sequence += 1;
    superblock_seal();
}

static void edit_journal_commit(void)
{
    checkpoint()->commit += 1;
    superblock_seal();
}

static void edit_state_reference(void)
{
    checkpoint()->state = checkpoint()->free_set;
    superblock_seal();
}

static const struct surgery {
    const char *name;
    void (*edit)(void);
    const char *expected;
} surgeries[] = {
    {"field of an object", edit_object_field, "tree 3 of index 'by_a' of groove 'things' holds"},
    {"version of an object", edit_object_version, "times, an id or fields that cannot be"},
    {"text of an object", edit_object_text, "times, an id or fields that cannot be"},
    {"timestamp of an id", edit_id_timestamp, "but some are not those of the objects"},
    {"tombstone of an id", edit_id_tombstone, "tombstones, its index block says"},
    {"tombstone of an entry", edit_index_tombstone, "entries, the objects call for"},
    /* Said in other words by builds that look at every key when a block is decoded. */
    {"order of values", edit_order, "value block 0 at address"},
    {"first key", edit_first_key, "does not begin with the key that the index says"},
    {"number of values", edit_value_count, "has another number of values than the index says"},
    {"tree of a value block", edit_value_tree, "is not of this tree"},
    {"value block twice", edit_value_block_twice, "two references lead to the block"},
    {"filter", edit_filter, "its filter denies key"},
    {"filter's count", edit_filter_count, "is not of this table"},
    {"tree of an index block", edit_index_tree, "its index block is not of this tree"},
    {"last key in the index", edit_index_key_max, "disagree about its last key"},
    {"tombstones in the index", edit_index_tombstones, "tombstones, its index block says"},
    {"values in the manifest", edit_manifest_values, "the manifest says"},
    {"no values in the manifest", edit_manifest_no_values, "of an impossible size"},
    {"first key in the manifest", edit_manifest_key_min, "first key is not that of a value"},
    {"last key in the manifest", edit_manifest_key_max, "last key is not that of its last value"},
    {"key too long", edit_manifest_key_padding, "longer than the tree's 16 bytes"},
    {"key with a tombstone's bit", edit_manifest_key_tombstone, "have a tombstone's bit"},
    {"blocks in the manifest", edit_manifest_block_count, "blocks, the manifest"},
    {"tree in the manifest", edit_manifest_tree, "is of tree 99, which no groove has"},
    {"range in the manifest", edit_manifest_range, " overlap"},
    {"removed in the manifest", edit_manifest_event, "manifest log: the block at address"},
    {"tables in the superblock, less", edit_table_count_less, "manifest log: more tables"},
    {"tables in the superblock, more", edit_table_count_more, "no table was checked"},
    {"object count", edit_object_count, "objects, the state says"},
    {"flags of a groove", edit_state_flags, "state: the catalog makes no sense"},
    {"commit of the state", edit_state_commit, "state: it is that of commit"},
    {"used block called free", edit_free_set_lost, "are in use and called free"},
    {"leaked block", edit_free_set_leak, "nothing refers to them"},
    {"used block about to be freed", edit_free_set_releasing, "are in use and about to be freed"},
    {"free block about to be freed", edit_free_set_shape, "are not the encoding of a set"},
    {"blocks acquired", edit_blocks_acquired, "blocks acquired, the superblock"},
    {"first entry of the journal", edit_journal_sequence, "journal: entry"},
    {"commit of the journal", edit_journal_commit, "does not follow from what came before"},
    {"reference of the state", edit_state_reference, "state: the block at address"},
};

/* A compaction that stops early leaves a table's first values where they are, dead, and raises its
 * key_min. Here nobody merged them down, so only the objects miss them. */
Test(verify, values_below_a_raised_first_key_are_dead, .init = setup, .fini = teardown)
{
    write_history(29, 220);
    fixture_close(&fixture);
    assert_clean();
    struct table_info *table = newest_table(ID_TREE);
    const uint8_t *values = block_body(value_block(table, 0));
    const uint32_t dead = 5;
    for (uint32_t i = 0; i < dead; i++) {
        table->value_count -= 1;
        table->tombstone_count -= value_is_tombstone(values + (size_t)i * 24, 16, 24);
    }
    memcpy(table->key_min.bytes, values + (size_t)dead * 24, 16);
    manifest_seal();
    cr_assert(eq(int, verify(), STATUS_OK));
    cr_assert(eq(u64, problem_count, 1), "%s", problems[0]);
    assert_named("id tree 2 of groove 'things' holds");
}

Test(verify, what_no_checksum_sees_is_named, .init = setup, .fini = teardown)
{
    static uint8_t bytes[64 * 1024 * 1024];
    write_deep_history(23);
    assert_clean();
    const uint64_t size = fixture.sim.size;
    cr_assert(le(u64, size, sizeof bytes));
    sim_io_save(&fixture.sim, bytes);
    for (uint32_t i = 0; i < array_count(surgeries); i++) {
        sim_io_load(&fixture.sim, bytes, size);
        surgeries[i].edit();
        cr_assert(eq(int, verify(), STATUS_OK), "%s", surgeries[i].name);
        cr_expect(named(surgeries[i].expected), "%s: '%s' is not among %llu problems, first: %s",
                  surgeries[i].name, surgeries[i].expected, (unsigned long long)problem_count,
                  problem_count > 0 ? problems[0] : "none");
    }
}

/* Two live objects of one value: the index, which has room for one of them, and the objects do not
 * agree; and why is said, too. */
Test(verify, objects_that_share_what_must_be_unique_are_named, .init = setup, .fini = teardown)
{
    static struct fixture_object objects[BATCH_MAX];
    fixture_open(&fixture, 0, false);
    struct groove_spec spec;
    fixture_spec(&spec, "things");
    spec.indexes[0].flags = INDEX_FLAG_UNIQUE;
    cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_GROOVE_CREATE, &spec, sizeof spec),
                 REQUEST_RESULT_OK));
    fixture.groove_id = fixture.outcome.groove_id;
    for (uint64_t key = 0; key < 4000; key += BATCH_MAX) {
        for (uint32_t i = 0; i < BATCH_MAX; i++) {
            objects[i] = (struct fixture_object){.a = key + i};
            fixture_id(objects[i].id, key + i);
        }
        submit(EVENT_TYPE_INSERT, objects, BATCH_MAX);
        cr_assert(eq(u32, fixture.outcome.failure_count, 0));
    }
    fixture_close(&fixture);
    assert_clean();

    struct table_info *table = newest_table(OBJECT_TREE);
    uint8_t *first = live_value(table);
    uint8_t *second = first + FIXTURE_OBJECT_SIZE;
    cr_assert(eq(u64, load_u64_le(second + 32), load_u64_le(first + 32) + 1));
    store_u64_le(second + 32, load_u64_le(first + 32));
    char pair[64];
    snprintf(pair, sizeof pair, "timestamps %llu and %llu", (unsigned long long)load_u64_be(first),
             (unsigned long long)load_u64_be(second));
    table_seal(table);
    cr_assert(eq(int, verify(), STATUS_OK));
    cr_assert(eq(u64, problem_count, 2), "%s", problems[0]);
    assert_named("tree 3 of index 'by_a' of groove 'things' is unique, and 1 objects have a value");
    assert_named(pair);

    /* A value that nobody else has is a wrong entry, and no more. */
    store_u64_le(second + 32, UINT64_C(1) << 40);
    table_seal(table);
    cr_assert(eq(int, verify(), STATUS_OK));
    cr_assert(eq(u64, problem_count, 1), "%s", problems[0]);
    assert_named("but some are not those of the objects");
}

/* The same when one of the two is in the spill: what was inserted one by one, behind a bar. */
Test(verify, a_spilled_object_that_shares_what_must_be_unique_is_named, .init = setup,
     .fini = teardown)
{
    static struct fixture_object objects[BATCH_MAX];
    fixture_open(&fixture, 0, false);
    struct groove_spec spec;
    fixture_spec(&spec, "things");
    spec.indexes[0].flags = INDEX_FLAG_UNIQUE;
    cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_GROOVE_CREATE, &spec, sizeof spec),
                 REQUEST_RESULT_OK));
    fixture.groove_id = fixture.outcome.groove_id;
    uint64_t key = 0;
    for (; key < 4000; key += BATCH_MAX) {
        for (uint32_t i = 0; i < BATCH_MAX; i++) {
            objects[i] = (struct fixture_object){.a = key + i};
            fixture_id(objects[i].id, key + i);
        }
        submit(EVENT_TYPE_INSERT, objects, BATCH_MAX);
    }
    const uint64_t spilled_key = key + 20;
    struct forest_stats stats;
    do {
        objects[0] = (struct fixture_object){.a = key};
        fixture_id(objects[0].id, key);
        submit(EVENT_TYPE_INSERT, objects, 1);
        fixture_settle(&fixture);
        key += 1;
        forest_stats(fixture.forest, &stats);
    } while (key <= spilled_key || stats.spilled_tables < 3 * 5);
    fixture_close(&fixture);
    assert_clean();

    struct table_info *table = newest_table(OBJECT_TREE);
    store_u64_le(live_value(table) + 32, spilled_key);
    table_seal(table);
    cr_assert(eq(int, verify(), STATUS_OK));
    assert_named("tree 3 of index 'by_a' of groove 'things' is unique, and 1 objects have a value");
}

static void assert_impossible(const char *expected)
{
    superblock_seal();
    cr_assert(eq(int, verify(), STATUS_CORRUPT));
    assert_named(expected);
}

Test(verify, an_impossible_checkpoint_is_refused, .init = setup, .fini = teardown)
{
    checkpoint()->op = 3;
    assert_impossible("not at the end of a bar");
    checkpoint()->op = 0;
    checkpoint()->table_count = 1;
    assert_impossible("without a checkpoint has blocks");
    checkpoint()->op = 4;
    assert_impossible("more tables or manifest blocks than blocks");
    checkpoint()->table_count = 0;
    checkpoint()->address_max = 64;
    checkpoint()->state.address = 1;
    checkpoint()->state_size = UINT64_C(1) << 40;
    assert_impossible("larger than the largest catalog");
    checkpoint()->state_size = 1;
    checkpoint()->free_set.address = 1;
    checkpoint()->free_set_size = UINT64_C(1) << 40;
    assert_impossible("larger than the grid");
}
