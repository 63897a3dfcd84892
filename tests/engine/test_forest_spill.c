/* Goal: a forest that is fed by a trickle keeps its small memory tables in memory over checkpoints,
 * writes far fewer blocks for it, loses nothing by any power cut, gives the blocks back, and names
 * what is damaged. Method: small batches against a naive model, power cuts at every few writes,
 * counters that say that tables really were spilled; every block of a spill flipped in turn; the
 * list of spilled tables edited and sealed again. */
#include "tests/harness/forest_fixture.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "engine/lsm/spill.h"
#include "pool/base.h"

enum { KEY_COUNT = 2000, BATCH_MAX = 60, A_COUNT = 40, TREES = 10 };

static struct forest_fixture fixture;
static struct prng prng;
static uint32_t bar_value_max; /* of every tree of the groove */
static bool exists[KEY_COUNT];
static struct fixture_object model[KEY_COUNT];

TestSuite(forest_spill, .timeout = 120);

static void setup(uint64_t seed)
{
    const struct geometry geometry = geometry_tiny();
    fixture_init(&fixture, &geometry);
    memset(exists, 0, sizeof exists);
    prng_init(&prng, seed);
}

static void make_object(struct fixture_object *object, uint64_t key)
{
    memset(object, 0, sizeof *object);
    fixture_id(object->id, key);
    object->a = prng_below(&prng, A_COUNT);
    object->b = (uint32_t)prng_below(&prng, 5);
    object->c = (uint32_t)prng_below(&prng, 3);
    object->note[0] = (char)('a' + prng_below(&prng, 4));
}

/* Keys [first, first + count): upserted, or removed if they are there. */
static void write(bool remove, uint64_t first, uint32_t count)
{
    static uint8_t body[16 * 1024];
    static struct fixture_object objects[BATCH_MAX];
    cr_assert(le(u32, count, BATCH_MAX));
    for (uint32_t i = 0; i < count; i++) {
        make_object(&objects[i], first + i);
    }
    const enum event_type type = remove ? EVENT_TYPE_REMOVE : EVENT_TYPE_UPSERT;
    uint32_t size = 0;
    if (remove) { /* Ids alone, one behind another. */
        const struct event_section section = {
            .groove_id = fixture.groove_id, .event_type = (uint8_t)type, .event_count = count};
        memcpy(body, &section, sizeof section);
        size = sizeof section;
        for (uint32_t i = 0; i < count; i++, size += 16) {
            memcpy(body + size, objects[i].id, 16);
        }
    } else {
        size = fixture_body(body, fixture.groove_id, type, objects, count);
    }
    cr_assert(
        eq(int, fixture_request(&fixture, REQUEST_KIND_WRITE, body, size), REQUEST_RESULT_OK));
    for (uint32_t i = 0; i < count; i++) {
        exists[first + i] = !remove;
        model[first + i] = objects[i];
    }
}

/* One to three keys somewhere. */
static void trickle(uint32_t remove_percent)
{
    const uint32_t count = (uint32_t)prng_range(&prng, 1, 3);
    write(prng_chance(&prng, remove_percent, 100), prng_below(&prng, KEY_COUNT - count), count);
}

static struct forest_stats stats_now(void)
{
    struct forest_stats stats;
    forest_stats(fixture.forest, &stats);
    return stats;
}

static void check_model(void)
{
    static uint8_t ids[100 * 16];
    static struct fixture_object objects[100];
    uint64_t by_a[A_COUNT] = {0};
    uint64_t total = 0;
    for (uint64_t first = 0; first < KEY_COUNT; first += 100) {
        for (uint64_t i = 0; i < 100; i++) {
            fixture_id(ids + i * 16, first + i);
        }
        const uint32_t count = fixture_lookup(&fixture, ids, 100, objects, 100);
        uint32_t found = 0;
        for (uint64_t i = first; i < first + 100; i++) {
            if (!exists[i]) {
                continue;
            }
            cr_assert(found < count, "key %lu is missing", (unsigned long)i);
            cr_assert(eq(int, memcmp(objects[found].id, model[i].id, 16), 0));
            cr_assert(eq(int, memcmp(&objects[found].a, &model[i].a, 32), 0));
            found += 1;
            by_a[model[i].a] += 1;
            total += 1;
        }
        cr_assert(eq(u32, found, count));
    }
    cr_assert(eq(u64, fixture_count(&fixture, READ_INDEX_NONE, NULL, 0), total));
    for (uint64_t a = 0; a < A_COUNT; a++) {
        cr_assert(eq(u64, fixture_count(&fixture, 0, &a, 8), by_a[a]), "a = %lu", (unsigned long)a);
    }
}

static void on_problem(void *context, const char *text)
{
    (void)context;
    cr_assert(false, "%s", text);
}

static void verify_clean(void)
{
    struct verify_report report;
    cr_assert(eq(int, forest_verify(&fixture.sim.io, on_problem, NULL, NULL, &report), STATUS_OK));
}

/* ---- Nothing is lost ---------------------------------------------------------------------------
 */

static void run_trickle(uint64_t seed, uint32_t worker_count, bool threads)
{
    setup(seed);
    fixture_open(&fixture, worker_count, threads);
    fixture_create(&fixture);
    uint64_t spilled = 0;
    uint64_t loaded = 0; /* opens that found a spill */
    for (int round = 0; round < 24; round++) {
        const uint64_t writes = prng_range(&prng, 1, 60);
        for (uint64_t i = 0; i < writes; i++) {
            trickle(round % 4 == 3 ? 60 : 15);
        }
        if (round % 6 == 5) { /* Bars that are not small, so that tables merge as well. */
            for (uint64_t key = 0; key < 600; key += BATCH_MAX) {
                write(false, key, BATCH_MAX);
            }
        }
        if (round % 12 == 11) {
            fixture_pay_debt(&fixture);
        }
        spilled += stats_now().spilled_tables;
        if (round % 3 == 0) {
            fixture_close(&fixture);
            verify_clean();
        } else {
            fixture_crash(&fixture, prng_next(&prng));
        }
        fixture_open(&fixture, worker_count, threads);
        loaded += fixture.open_report.spilled_table_count > 0;
        cr_assert(fixture_find(&fixture));
        check_model();
    }
    cr_assert(gt(u64, spilled, 10));
    cr_assert(gt(u64, loaded, 5));
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

Test(forest_spill, a_trickle_over_power_cuts_agrees_with_the_model_inline)
{
    for (uint64_t seed = 0; seed < 2; seed++) {
        run_trickle(seed, 0, false);
    }
}

Test(forest_spill, a_trickle_over_power_cuts_agrees_with_the_model_with_threads)
{
    run_trickle(10, 2, true);
}

/* Wherever in the two bars behind a checkpoint with a spill the power goes. */
Test(forest_spill, a_power_cut_after_any_write_finds_everything)
{
    setup(20);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    for (int i = 0; i < 150; i++) {
        trickle(20);
    }
    uint64_t loaded = 0;
    for (uint64_t i = 0; i < 90; i++) {
        trickle(20);
        fixture_settle(&fixture);
        fixture_crash(&fixture, i);
        fixture_open(&fixture, 0, false);
        loaded += fixture.open_report.spilled_table_count > 0;
        if (i % 10 == 0) {
            check_model();
        }
    }
    check_model();
    cr_assert(gt(u64, loaded, 30));
    fixture_close(&fixture);
    verify_clean();
    fixture_deinit(&fixture);
}

/* ---- What it is for ----------------------------------------------------------------------------
 */

/* Single updates, here and there, of 2,000 objects that are in the levels already: what merges cost
 * most for. Merging the memory tables at each checkpoint, as was done before they were spilled,
 * wrote MERGED blocks for this very load. */
Test(forest_spill, a_trickle_writes_few_blocks)
{
    enum { WRITES = 3000, MERGED = 2054 };
    setup(30);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    for (int round = 0; round < 6; round++) {
        for (uint64_t key = 0; key + BATCH_MAX <= KEY_COUNT; key += BATCH_MAX) {
            write(false, key, BATCH_MAX);
        }
    }
    const struct forest_stats before = stats_now();
    for (int i = 0; i < WRITES; i++) {
        write(false, prng_below(&prng, KEY_COUNT), 1);
    }
    fixture_settle(&fixture);
    const struct forest_stats after = stats_now();
    const uint64_t written = after.blocks_written - before.blocks_written;
    cr_assert(gt(u64, after.checkpoint_count - before.checkpoint_count, 15));
    cr_assert(gt(u64, after.spilled_tables - before.spilled_tables, 5));
    cr_assert(lt(u64, written * 3, MERGED * 2));
    fixture_close(&fixture);
    verify_clean();
    fixture_deinit(&fixture);
}

/* ---- The blocks come back ----------------------------------------------------------------------
 */

static void assert_empty(void)
{
    const struct forest_stats stats = stats_now();
    cr_assert(eq(u64, stats.debt_bytes, 0));
    cr_assert(eq(u64, stats.tables, 0));
    cr_assert(lt(u64, stats.blocks_acquired - stats.blocks_released, 20));
}

/* Slowly filled and slowly emptied: what is left in memory then are tombstones, spilled ones. */
Test(forest_spill, a_forest_emptied_by_a_trickle_holds_no_blocks)
{
    setup(40);
    fixture_open(&fixture, 1, true);
    fixture_create(&fixture);
    for (int round = 0; round < 3; round++) {
        for (uint64_t key = 0; key < 200; key++) {
            write(false, key, 1);
        }
        for (uint64_t key = 0; key < 200; key++) {
            write(true, key, 1);
        }
        fixture_settle(&fixture);
        cr_assert(gt(u64, stats_now().spilled_tables, 0));
        if (round > 0) { /* Debt that was in the spill. */
            fixture_crash(&fixture, (uint64_t)round);
            fixture_open(&fixture, 1, true);
        }
        cr_assert(gt(u64, stats_now().debt_bytes, 0));
        fixture_pay_debt(&fixture);
        assert_empty();
        fixture_crash(&fixture, 100 + (uint64_t)round);
        fixture_open(&fixture, 1, true);
        assert_empty();
        check_model();
    }
    fixture_close(&fixture);
    verify_clean();
    fixture_deinit(&fixture);
}

/* Dropped before, in and behind the bar whose end spills its trees. */
Test(forest_spill, a_groove_dropped_around_a_spill_gives_everything_back)
{
    char name[NAME_SIZE] = "things";
    setup(50);
    fixture_open(&fixture, 0, false);
    uint64_t spilled = 0;
    for (uint64_t round = 0; round < 30; round++) {
        memset(exists, 0, sizeof exists);
        fixture_create(&fixture);
        for (uint64_t i = 0; i < 100 + round * 3; i++) {
            trickle(10);
        }
        spilled += stats_now().spilled_tables;
        cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_GROOVE_DROP, name, sizeof name),
                     REQUEST_RESULT_OK));
        if (round % 3 != 0) {
            fixture_settle(&fixture);
            fixture_crash(&fixture, round);
            fixture_open(&fixture, 0, false);
            cr_assert(not(fixture_find(&fixture)));
        }
        fixture_pay_debt(&fixture);
        assert_empty();
    }
    cr_assert(gt(u64, spilled, 30));
    fixture_close(&fixture);
    verify_clean();
    fixture_deinit(&fixture);
}

static bool spilling(void)
{
    bool any = false;
    for (uint32_t i = 0; i < fixture.geometry.tree_count_max; i++) {
        any |= fixture.forest->trees[i].used && fixture.forest->trees[i].spilling;
    }
    return any;
}

/* Its jobs planned, and perhaps done: deinit asserts that every loan comes back. */
Test(forest_spill, a_reset_while_tables_are_being_spilled_recovers)
{
    setup(60);
    for (uint32_t round = 0; round < 6; round++) {
        fixture_open(&fixture, round % 3, round % 3 > 0);
        if (round == 0) {
            fixture_create(&fixture);
        }
        do {
            trickle(10);
        } while (!spilling());
        fixture_crash(&fixture, round);
        fixture_open(&fixture, 0, false);
        check_model();
        fixture_close(&fixture);
    }
    verify_clean();
    fixture_deinit(&fixture);
}

/* ---- Damage ------------------------------------------------------------------------------------
 */

static struct superblock *superblock_copy(uint32_t copy)
{
    return (struct superblock *)(void *)(fixture.sim.bytes + (size_t)copy * SECTOR_SIZE);
}

static struct checkpoint_state *checkpoint(void)
{
    return &superblock_copy(0)->checkpoint;
}

static uint64_t offset_of(uint64_t address)
{
    return grid_zone_offset(&fixture.geometry) + (address - 1) * fixture.geometry.block_size;
}

static uint8_t *block_at(uint64_t address)
{
    return fixture.sim.bytes + offset_of(address);
}

static uint32_t entry_count(void)
{
    return (uint32_t)(checkpoint()->spill_size / sizeof(struct spill_entry));
}

static struct spill_entry *entry_at(uint32_t i)
{
    return (struct spill_entry *)(void *)block_body(block_at(checkpoint()->spill.address)) + i;
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

/* A trailer of one block, edited, and what leads to it. */
static void trailer_seal(struct block_reference *first)
{
    *first = block_seal(block_at(first->address), fixture.geometry.block_size);
    superblock_seal();
}

/* Another groove beside `things`, that no model follows. */
static uint32_t create_other(void)
{
    struct groove_spec spec;
    fixture_spec(&spec, "others");
    cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_GROOVE_CREATE, &spec, sizeof spec),
                 REQUEST_RESULT_OK));
    return fixture.outcome.groove_id;
}

static void write_other(uint32_t groove_id)
{
    uint8_t body[128];
    struct fixture_object object;
    make_object(&object, prng_below(&prng, KEY_COUNT));
    const uint32_t size = fixture_body(body, groove_id, EVENT_TYPE_UPSERT, &object, 1);
    cr_assert(
        eq(int, fixture_request(&fixture, REQUEST_KIND_WRITE, body, size), REQUEST_RESULT_OK));
}

/* A closed file whose checkpoint spilled all trees of two grooves, 1 to 10. */
static void make_spill(uint64_t seed)
{
    setup(seed);
    fixture_open(&fixture, 0, false);
    fixture_create(&fixture);
    const uint32_t other = create_other();
    while (checkpoint()->spill_size < TREES * sizeof(struct spill_entry)) {
        trickle(5);
        write_other(other);
        fixture_settle(&fixture);
    }
    bar_value_max = fixture.forest->trees[0].bar_value_max;
    fixture_close(&fixture);
    cr_assert(eq(u32, entry_count(), TREES));
}

static void assert_refused(const char *a, const char *b)
{
    cr_assert(not(fixture_try_open(&fixture, 0, false)));
    cr_assert(eq(int, fixture.open_status, STATUS_CORRUPT));
    cr_assert(strstr(fixture.open_reason, a) != NULL, "'%s' is not in: %s", a, fixture.open_reason);
    cr_assert(strstr(fixture.open_reason, b) != NULL, "'%s' is not in: %s", b, fixture.open_reason);
}

static void flip_and_open(uint64_t address, const char *what)
{
    char place[48];
    snprintf(place, sizeof place, "at address %llu", (unsigned long long)address);
    const uint64_t at = offset_of(address) + prng_below(&prng, fixture.geometry.block_size);
    sim_io_flip(&fixture.sim, at, 0x10);
    assert_refused(what, place);
    sim_io_flip(&fixture.sim, at, 0x10);
}

Test(forest_spill, a_damaged_block_of_a_spill_is_named_and_nothing_is_opened)
{
    make_spill(70);
    flip_and_open(checkpoint()->spill.address, "the list of spilled tables");
    for (uint32_t i = 0; i < entry_count(); i++) {
        char what[48];
        const struct table_info table = entry_at(i)->table;
        snprintf(what, sizeof what, "the spilled table of tree %u", table.tree_id);
        flip_and_open(table.index.address, what);
        const uint8_t *index = block_at(table.index.address);
        const uint32_t value_blocks = block_header_const(index)->value_count;
        for (uint32_t block = 0; block < value_blocks; block++) {
            uint64_t address;
            memcpy(&address, block_body_const(index) + value_blocks * 16 + block * 8, 8);
            flip_and_open(address, what);
        }
    }
    fixture_open(&fixture, 0, false);
    check_model();
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

static void edit_tree_unknown(void)
{
    entry_at(TREES - 1)->table.tree_id = 99;
    trailer_seal(&checkpoint()->spill);
}

static void edit_order(void)
{
    const struct spill_entry first = *entry_at(0);
    *entry_at(0) = *entry_at(1);
    *entry_at(1) = first;
    trailer_seal(&checkpoint()->spill);
}

static void edit_twice(void)
{
    *entry_at(1) = *entry_at(0);
    trailer_seal(&checkpoint()->spill);
}

static void edit_dropping(void)
{
    block_body(block_at(checkpoint()->state.address))[32 + 4] = 1; /* flags of the first groove */
    trailer_seal(&checkpoint()->state);
}

static void edit_level(void)
{
    entry_at(2)->table.level = 3;
    trailer_seal(&checkpoint()->spill);
}

static void edit_counts(void)
{
    entry_at(2)->value_count = 1;
    trailer_seal(&checkpoint()->spill);
}

/* Each table could be, all together could not. */
static void edit_bar(void)
{
    for (uint32_t i = 0; i < TREES; i++) {
        entry_at(i)->value_count = bar_value_max / 2;
    }
    trailer_seal(&checkpoint()->spill);
}

static void edit_table_of_another(void)
{
    entry_at(1)->table.index = entry_at(0)->table.index;
    trailer_seal(&checkpoint()->spill);
}

static uint8_t *free_set_byte(bool releasing, uint64_t address)
{
    return block_body(block_at(checkpoint()->free_set.address)) +
           (releasing ? checkpoint()->free_set_size / 2 : 0) + (address - 1) / 8;
}

static void edit_free(void)
{
    const uint64_t address = entry_at(3)->table.index.address;
    *free_set_byte(false, address) &= (uint8_t) ~(1u << ((address - 1) % 8));
    checkpoint()->blocks_acquired -= 1;
    trailer_seal(&checkpoint()->free_set);
}

static void edit_releasing(void)
{
    const uint64_t address = entry_at(3)->table.index.address;
    *free_set_byte(true, address) |= (uint8_t)(1u << ((address - 1) % 8));
    trailer_seal(&checkpoint()->free_set);
}

static void edit_trailer_free(void)
{
    const uint64_t address = checkpoint()->state.address;
    *free_set_byte(false, address) &= (uint8_t) ~(1u << ((address - 1) % 8));
    checkpoint()->blocks_acquired -= 1;
    trailer_seal(&checkpoint()->free_set);
}

static void edit_size(void)
{
    checkpoint()->spill_size -= sizeof(struct spill_entry);
    superblock_seal();
}

static void edit_size_odd(void)
{
    checkpoint()->spill_size -= 8;
    superblock_seal();
}

static void edit_size_huge(void)
{
    checkpoint()->spill_size = UINT64_C(1) << 40;
    superblock_seal();
}

static const struct {
    const char *name;
    void (*edit)(void);
    const char *expected;
    const char *verified; /* what verify says */
} surgeries[] = {
    {"tree", edit_tree_unknown, "no groove has it", "is of tree 99, which no groove has"},
    {"order", edit_order, "out of order", "comes behind tree"},
    {"twice", edit_twice, "out of order", "comes behind tree"},
    {"dropping", edit_dropping, "of a groove that is gone", "its groove is being dropped"},
    {"level", edit_level, "not as a checkpoint leaves it", "not as a checkpoint leaves it"},
    {"counts", edit_counts, "not those of a small memory table", "a small memory table"},
    {"bar", edit_bar, "more was spilled than half of a bar", "bytes of entries, a bar at most"},
    {"table", edit_table_of_another, "spilled table of tree 2", "two references lead"},
    {"free", edit_free, "spilled table of tree 4", "are in use and called free"},
    {"releasing", edit_releasing, "spilled table of tree 4", "are in use and about to be freed"},
    {"trailer", edit_trailer_free, "a trailer that the free set", "are in use and called free"},
    {"size", edit_size, "the list of spilled tables", "spilled tables: the block at address"},
    {"odd size", edit_size_odd, "impossible checkpoint", "of an impossible size"},
    {"huge size", edit_size_huge, "impossible checkpoint", "of an impossible size"},
};

struct told {
    char text[16][512];
    uint32_t count;
};

static void on_told(void *context, const char *text)
{
    struct told *told = context;
    if (told->count < array_count(told->text)) {
        snprintf(told->text[told->count], sizeof told->text[0], "%s", text);
        told->count += 1;
    }
}

static void assert_verified(const char *name, const char *expected)
{
    static struct told told;
    struct verify_report report;
    told.count = 0;
    const enum status status = forest_verify(&fixture.sim.io, on_told, NULL, &told, &report);
    cr_assert(status == STATUS_OK || status == STATUS_CORRUPT);
    bool named = false;
    for (uint32_t i = 0; i < told.count; i++) {
        named |= strstr(told.text[i], expected) != NULL;
    }
    cr_expect(named, "%s: '%s' was not told; the first of %u: %s", name, expected, told.count,
              told.count > 0 ? told.text[0] : "none");
}

Test(forest_spill, a_list_that_no_checksum_belies_is_checked_field_by_field)
{
    static uint8_t bytes[32 * 1024 * 1024];
    make_spill(71);
    const uint64_t size = fixture.sim.size;
    cr_assert(le(u64, size, sizeof bytes));
    sim_io_save(&fixture.sim, bytes);
    for (uint32_t i = 0; i < array_count(surgeries); i++) {
        sim_io_load(&fixture.sim, bytes, size);
        surgeries[i].edit();
        assert_verified(surgeries[i].name, surgeries[i].verified);
        assert_refused(surgeries[i].expected, "");
    }
    sim_io_load(&fixture.sim, bytes, size);
    fixture_open(&fixture, 0, false);
    check_model();
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}
