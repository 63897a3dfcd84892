/* Goal: before a batch executes, everything it needs is known: one entry per id, right about what
 * exists and since when, with the old object of every id that changes; one owner per value that the
 * batch brings to a unique index; damage is confined to the ids it touches, and named. Method: a
 * forest with two grooves, one of them with a unique index, most of it on disk, beside a table
 * of objects; batches of random ids prefetched from the newest version by 0 to 3 readers, through a
 * cold cache of the test's own; every value block of the trees flipped in turn; a disk that is
 * gone. */
#include "engine/prefetch.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "engine/object.h"
#include "pool/base.h"
#include "pool/memory.h"
#include "tests/harness/forest_fixture.h"

enum {
    GROOVE_COUNT = 2,
    UNIQUE_GROOVE = 1,
    KEY_COUNT = 6000,
    CACHE_BLOCKS = 256,
    BODY_SIZE = 64 * 1024
};

struct row {
    bool exists;
    struct fixture_object object; /* timestamp and version included */
};

static struct forest_fixture fixture;
static uint32_t groove_ids[GROOVE_COUNT];
static struct row rows[GROOVE_COUNT][KEY_COUNT];
static struct prng prng;
static uint8_t body[BODY_SIZE];

static struct grid grid; /* a second look at the same disk */
static struct workers growers, readers;
static struct prefetch prefetch;
static struct batch batch;
static uint32_t keys[4096]; /* of the batch's events */

/* Batches as large as a few slices. */
static struct geometry geometry_of_test(void)
{
    struct geometry geometry = geometry_tiny();
    geometry.batch_size_max = 96 * 1024;
    geometry.batch_event_max = 800;
    geometry.bar_journal_size = 512 * 1024;
    geometry.bar_memory_size = 1024 * 1024;
    geometry.checkpoint_journal_size = 512 * 1024;
    geometry.journal_size = 8 * 1024 * 1024;
    const char *reason = "";
    cr_assert(eq(int, geometry_validate(&geometry, &reason), STATUS_OK), "%s", reason);
    return geometry;
}

/* Four values are each key's own. */
static uint64_t random_a(uint32_t key)
{
    return (uint64_t)key * 4 + prng_below(&prng, 4);
}

/* Ids of different grooves overlap. */
static void write_keys(uint32_t groove, enum event_type type, uint32_t first, uint32_t count,
                       uint32_t stride)
{
    static struct fixture_object objects[400];
    cr_assert(count <= array_count(objects));
    for (uint32_t i = 0; i < count; i++) {
        memset(&objects[i], 0, sizeof objects[i]);
        fixture_id(objects[i].id, first + i * stride);
        objects[i].a = random_a(first + i * stride);
        objects[i].b = groove;
    }
    const uint32_t size = fixture_body(body, groove_ids[groove], type, objects, count);
    cr_assert(
        eq(int, fixture_request(&fixture, REQUEST_KIND_WRITE, body, size), REQUEST_RESULT_OK));
    cr_assert(eq(u32, fixture.outcome.failure_count, 0));
    for (uint32_t i = 0; i < count; i++) {
        struct row *row = &rows[groove][first + i * stride];
        const uint64_t timestamp = fixture.outcome.timestamp + i;
        const uint64_t born = row->exists ? row->object.timestamp : timestamp;
        row->exists = type != EVENT_TYPE_REMOVE;
        row->object = objects[i];
        row->object.timestamp = born;
        row->object.version = timestamp;
    }
}

static void grid_up(void)
{
    cr_assert(eq(int,
                 grid_init(&grid, &fixture.sim.io, &fixture.geometry, CACHE_BLOCKS, &growers,
                           &fixture.doorbell),
                 STATUS_OK));
}

/* Forgets what was cached. */
static void grid_restart(void)
{
    grid_deinit(&grid);
    grid_up();
}

static void init(void)
{
    const struct geometry geometry = geometry_of_test();
    prng_init(&prng, 4);
    fixture_init(&fixture, &geometry);
    fixture_open(&fixture, 0, false);
    for (uint32_t i = 0; i < GROOVE_COUNT; i++) {
        struct groove_spec spec;
        fixture_spec(&spec, i == 0 ? "zero" : "one");
        spec.indexes[0].flags = i == UNIQUE_GROOVE ? INDEX_FLAG_UNIQUE : 0;
        cr_assert(eq(int, fixture_request(&fixture, REQUEST_KIND_GROOVE_CREATE, &spec, sizeof spec),
                     REQUEST_RESULT_OK));
        groove_ids[i] = fixture.outcome.groove_id;
    }
    /* Every third key is never there; a few are removed, some changed again. */
    for (uint32_t i = 0; i < GROOVE_COUNT; i++) {
        for (uint32_t first = 0; first < KEY_COUNT; first += 900) {
            const uint32_t count = (uint32_t)min_u64(300, (KEY_COUNT - first) / 3);
            write_keys(i, EVENT_TYPE_INSERT, first, count, 3);
            write_keys(i, EVENT_TYPE_INSERT, first + 1, count, 3);
        }
        write_keys(i, EVENT_TYPE_REMOVE, 300, 100, 3);
    }
    fixture_pay_debt(&fixture); /* Tombstones are debt: what memory holds goes to disk. */
    for (uint32_t i = 0; i < GROOVE_COUNT; i++) {
        write_keys(i, EVENT_TYPE_UPDATE, 1, 200, 6);
        write_keys(i, EVENT_TYPE_REMOVE, 900, 50, 3);
    }
    fixture_settle(&fixture);
    cr_assert(eq(int, workers_start(&growers, "grow", 0, 4), STATUS_OK));
    grid_up();
    cr_assert(eq(int, batch_init(&batch, &fixture.geometry), STATUS_OK));
    struct forest_stats stats;
    forest_stats(fixture.forest, &stats);
    cr_assert(stats.tables > 4, "%lu tables", (unsigned long)stats.tables);
}

static void fini(void)
{
    batch_deinit(&batch);
    grid_deinit(&grid);
    workers_join(&growers);
    fixture_close(&fixture);
    fixture_deinit(&fixture);
}

TestSuite(prefetch, .init = init, .fini = fini, .timeout = 120);

static void team_up(uint32_t reader_count)
{
    cr_assert(
        eq(int, workers_start(&readers, "reader", reader_count, PREFETCH_SLICE_MAX), STATUS_OK));
    cr_assert(eq(int,
                 prefetch_init(&prefetch, &fixture.geometry, &grid, &readers, &fixture.doorbell),
                 STATUS_OK));
}

static void team_down(void)
{
    workers_join(&readers);
    prefetch_deinit(&prefetch);
}

/* ---- Batches -----------------------------------------------------------------------------------
 */

static uint32_t key_count;

/* One request of one section; `keys` remembers what its events are about. False: full. */
static bool add_section(uint32_t groove, enum event_type type, uint32_t count, uint32_t key_range)
{
    struct event_section section = {
        .groove_id = groove_ids[groove],
        .event_type = (uint8_t)type,
        .event_count = count,
    };
    if (type == EVENT_TYPE_CHECK || prng_chance(&prng, 1, 3)) {
        section.guard = (uint8_t)prng_range(&prng, EVENT_GUARD_ABSENT, EVENT_GUARD_VERSION);
    }
    memcpy(body, &section, sizeof section);
    uint32_t size = (uint32_t)sizeof section;
    for (uint32_t i = 0; i < count; i++) {
        struct fixture_object object = {0};
        const uint32_t key = (uint32_t)prng_below(&prng, key_range);
        fixture_id(object.id, key);
        const uint32_t other = (uint32_t)prng_below(&prng, key_range); /* Often one that has it. */
        const struct row *row = &rows[UNIQUE_GROOVE][other];
        object.a = row->exists ? row->object.a : random_a(other);
        keys[key_count + i] = key;
        if (section.guard == EVENT_GUARD_VERSION) {
            store_u64_le(body + size, rows[groove][key].object.version);
            size += 8;
        }
        const uint32_t payload = event_has_id_only(section.event_type) ? ID_SIZE : sizeof object;
        memcpy(body + size, &object, payload);
        size += payload;
    }
    enum request_result result;
    if (batch_add(&batch, &fixture.forest->catalog, REQUEST_KIND_WRITE, false, body, size, NULL,
                  false, &result) != BATCH_ADDED) {
        return false;
    }
    key_count += count;
    return true;
}

static void random_batch(uint32_t request_max, uint32_t event_max, uint32_t key_range)
{
    batch_reset(&batch);
    key_count = 0;
    const uint32_t requests = (uint32_t)prng_range(&prng, 1, request_max);
    for (uint32_t i = 0; i < requests; i++) {
        if (!add_section((uint32_t)prng_below(&prng, GROOVE_COUNT),
                         (enum event_type)prng_range(&prng, EVENT_TYPE_INSERT, EVENT_TYPE_CHECK),
                         (uint32_t)prng_range(&prng, 1, event_max), key_range)) {
            break;
        }
    }
    batch_resolve(&batch, &fixture.forest->catalog);
    cr_assert(eq(u32, batch.event_count, key_count));
}

static enum status run(uint64_t *bad_address)
{
    enum status status;
    *bad_address = 0;
    prefetch_submit(&prefetch, &batch, fixture.forest->versions.newest);
    for (;;) {
        const uint64_t seen = doorbell_count(&fixture.doorbell);
        if (prefetch_done(&prefetch, &status, bad_address)) {
            return status;
        }
        if (!workers_run_one(&readers)) {
            doorbell_wait(&fixture.doorbell, seen, DOORBELL_WAIT_FOREVER);
        }
    }
}

static uint32_t groove_of(const struct batch_event *event)
{
    return batch.groups[event->group].groove_id == groove_ids[0] ? 0 : 1;
}

/* Entries of a group ascend, without repetitions: one per id. */
static void check_groups(void)
{
    for (uint32_t i = 0; i < batch.group_count; i++) {
        const struct batch_group *group = &batch.groups[i];
        cr_assert(group->entry_count <= group->event_count);
        for (uint32_t k = 1; k < group->entry_count; k++) {
            const struct groove_entry *entry = &batch.entries[group->item_first + k];
            cr_assert(memcmp(entry[-1].key, entry->key, ID_SIZE) < 0);
        }
    }
}

/* Whether some event of the batch changes this entry, or asks for its version. */
static bool wanted(uint32_t entry)
{
    for (uint32_t i = 0; i < batch.event_count; i++) {
        const struct batch_event *event = &batch.events[i];
        const bool changes = event->type == EVENT_TYPE_UPSERT || event->type == EVENT_TYPE_UPDATE ||
                             event->type == EVENT_TYPE_REMOVE;
        if (event->entry == entry && (changes || event->guard == EVENT_GUARD_VERSION)) {
            return true;
        }
    }
    return false;
}

/* Whether some event brings this value. */
static bool brought(uint32_t group, uint64_t a)
{
    for (uint32_t i = 0; i < batch.event_count; i++) {
        struct fixture_object object;
        const struct batch_event *event = &batch.events[i];
        if (event->group == group && !event_has_id_only(event->type)) {
            memcpy(&object, event->payload, sizeof object);
            if (object.a == a) {
                return true;
            }
        }
    }
    return false;
}

/* The values that the batch brings to the unique index, each once, and whose they are. Those of
 * unknown owner must have marked the entries that want them. */
static void check_owners(void)
{
    for (uint32_t i = 0; i < batch.group_count; i++) {
        const struct batch_group *group = &batch.groups[i];
        if (group->groove_id != groove_ids[UNIQUE_GROOVE]) {
            continue;
        }
        const struct owner_list *list = &group->owners[0];
        for (uint32_t k = 0; k < list->count; k++) {
            const uint64_t a = load_u64_be(owner_list_entry(list, k));
            const struct row *row = &rows[UNIQUE_GROOVE][a / 4];
            const uint64_t owner = owner_list_owner(list, k);
            cr_assert(k == 0 || load_u64_be(owner_list_entry(list, k - 1)) < a);
            cr_assert(brought(i, a));
            if (owner != OWNER_UNKNOWN) {
                const bool owned = row->exists && row->object.a == a;
                cr_assert(eq(u64, owner, owned ? row->object.timestamp : OWNER_NONE));
            }
        }
        for (uint32_t k = 0; k < batch.event_count; k++) {
            const struct batch_event *event = &batch.events[k];
            if (event->group != i || event_has_id_only(event->type)) {
                continue;
            }
            struct fixture_object object;
            memcpy(&object, event->payload, sizeof object);
            uint8_t prefix[8];
            store_u64_be(prefix, object.a);
            cr_assert(owner_list_find(list, prefix) != OWNER_UNKNOWN ||
                      batch.entries[event->entry].damaged);
        }
    }
}

/* Returns how many entries are damaged; all others must be right. */
static uint32_t check_entries(void)
{
    uint32_t damaged = 0;
    check_groups();
    check_owners();
    for (uint32_t i = 0; i < batch.event_count; i++) {
        const struct batch_event *event = &batch.events[i];
        const struct groove_entry *entry = &batch.entries[event->entry];
        const struct row *row = &rows[groove_of(event)][keys[i]];
        uint8_t id[ID_SIZE], key[ID_SIZE];
        fixture_id(id, keys[i]);
        id_reverse(key, id);
        cr_assert(eq(int, memcmp(entry->key, key, ID_SIZE), 0));
        if (entry->damaged) {
            damaged += 1;
            continue;
        }
        cr_assert(eq(int, entry->exists, row->exists), "key %u", keys[i]);
        const bool wants = wanted(event->entry);
        cr_assert(eq(int, entry->wants_object, wants));
        if (row->exists) {
            cr_assert(eq(u64, entry->timestamp, row->object.timestamp));
        }
        cr_assert(eq(int, entry->object != NULL, row->exists && wants));
        if (entry->object != NULL) {
            struct fixture_object image;
            object_image_from_value((uint8_t *)&image, entry->object, FIXTURE_OBJECT_SIZE);
            cr_assert(eq(int, memcmp(&image, &row->object, sizeof image), 0), "key %u", keys[i]);
        }
    }
    return damaged;
}

Test(prefetch, entries_agree_with_the_table_for_any_number_of_readers)
{
    uint32_t sliced = 0;
    for (uint32_t reader_count = 0; reader_count <= 3; reader_count++) {
        team_up(reader_count);
        for (int i = 0; i < 50; i++) {
            static const uint32_t ranges[] = {3, 100, KEY_COUNT};
            random_batch(8, i % 3 == 0 ? 300 : 20, ranges[prng_below(&prng, 3)]);
            uint64_t bad_address;
            cr_assert(eq(int, run(&bad_address), STATUS_OK));
            cr_assert(eq(u64, bad_address, 0));
            cr_assert(eq(u32, check_entries(), 0));
            sliced += prefetch.slice_count > batch.group_count;
        }
        team_down();
    }
    cr_assert(sliced > 5, "%u", sliced);
}

Test(prefetch, a_batch_without_events_is_done_at_once)
{
    team_up(0);
    batch_reset(&batch);
    batch_resolve(&batch, &fixture.forest->catalog);
    prefetch_submit(&prefetch, &batch, fixture.forest->versions.newest);
    enum status status;
    uint64_t bad_address = 0;
    cr_assert(prefetch_done(&prefetch, &status, &bad_address));
    cr_assert(eq(int, status, STATUS_OK));
    team_down();
}

/* What a reader found before is in the cache: then nobody is asked. */
Test(prefetch, what_few_keys_need_is_found_in_memory_without_a_reader)
{
    team_up(0);
    uint32_t asked = 0;
    for (int i = 0; i < 60; i++) {
        random_batch(2, 20, i % 2 == 0 ? KEY_COUNT : 300);
        grid_restart();
        uint64_t bad_address;
        cr_assert(eq(int, run(&bad_address), STATUS_OK)); /* Partly here, partly by a reader. */
        cr_assert(eq(u32, check_entries(), 0));

        enum status status;
        prefetch_submit(&prefetch, &batch, fixture.forest->versions.newest);
        const bool here = atomic_load(&prefetch.slices_left) == 0;
        cr_assert(eq(int, here, batch.event_count <= PREFETCH_HERE_KEYS_MAX));
        while (!prefetch_done(&prefetch, &status, &bad_address)) {
            cr_assert(workers_run_one(&readers));
            asked += 1;
        }
        cr_assert(eq(int, status, STATUS_OK));
        cr_assert(eq(u32, check_entries(), 0));
    }
    cr_assert(eq(u32, asked, 0));

    random_batch(4, 200, KEY_COUNT); /* More than a few. */
    while (batch.event_count <= 2 * PREFETCH_HERE_KEYS_MAX) {
        random_batch(4, 200, KEY_COUNT);
    }
    prefetch_submit(&prefetch, &batch, fixture.forest->versions.newest);
    cr_assert(gt(u32, atomic_load(&prefetch.slices_left), 0));
    uint64_t bad_address;
    enum status status;
    while (!prefetch_done(&prefetch, &status, &bad_address)) {
        cr_assert(workers_run_one(&readers));
    }
    cr_assert(eq(u32, check_entries(), 0));
    team_down();
}

/* ---- Damage ------------------------------------------------------------------------------------
 */

enum { BLOCK_MAX = 4096 };
static uint64_t value_blocks[BLOCK_MAX];

/* The value blocks of a tree, over all levels. */
static uint32_t list_value_blocks(const struct tree_version *tree)
{
    uint32_t count = 0;
    uint8_t *block = memory_acquire(fixture.geometry.block_size);
    for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
        const struct manifest_level *tables = &tree->manifest->levels[level];
        for (struct manifest_position at = manifest_level_first(tables);
             manifest_level_at(tables, at) != NULL; at = manifest_level_next(tables, at)) {
            struct table_index index;
            cr_assert(eq(int,
                         grid_read_block(&grid, &manifest_level_at(tables, at)->index,
                                         BLOCK_TYPE_INDEX, block),
                         STATUS_OK));
            cr_assert(eq(int, table_index_decode(&fixture.geometry, &tree->shape, block, &index),
                         STATUS_OK));
            for (uint32_t i = 0; i < index.value_block_count && count < BLOCK_MAX; i++) {
                value_blocks[count++] = table_index_value_reference(&index, i).address;
            }
        }
    }
    memory_release(block, fixture.geometry.block_size);
    return count;
}

/* A place of the file that cannot be read; 0: none. */
static uint64_t unreadable;
static const struct io_ops *whole_ops;

static enum status read_around(struct io *io, uint64_t offset, void *bytes, size_t size)
{
    const bool touched = unreadable > 0 && unreadable >= offset && unreadable < offset + size;
    return touched ? STATUS_IO : whole_ops->read(io, offset, bytes, size);
}

/* The value blocks of a tree, one after another: a bit flips, or the block cannot be read. */
static void damage_each(const struct tree_version *tree, uint32_t step, bool flip)
{
    uint32_t hit = 0;
    const uint32_t count = list_value_blocks(tree);
    cr_assert(count > 5);
    for (uint32_t i = 0; i < count; i += step) {
        const uint64_t offset = grid_zone_offset(&fixture.geometry) +
                                (value_blocks[i] - 1) * fixture.geometry.block_size +
                                prng_below(&prng, fixture.geometry.block_size);
        random_batch(4, 200, KEY_COUNT);
        sim_io_flip(&fixture.sim, offset, flip ? 0x20 : 0);
        unreadable = flip ? 0 : offset;
        grid_restart();
        uint64_t bad_address;
        const enum status status = run(&bad_address);
        const uint32_t damaged = check_entries();
        cr_assert(eq(int, status, damaged > 0 && !flip ? STATUS_IO : STATUS_OK));
        cr_assert(eq(u64, bad_address, damaged > 0 ? value_blocks[i] : 0));
        hit += damaged > 0;
        sim_io_flip(&fixture.sim, offset, flip ? 0x20 : 0);
        unreadable = 0;
        grid_restart();
        cr_assert(eq(int, run(&bad_address), STATUS_OK));
        cr_assert(eq(u32, check_entries(), 0));
    }
    cr_assert(hit > 3, "%u of %u", hit, count);
}

Test(prefetch, damage_marks_the_ids_it_touches_and_no_other)
{
    whole_ops = fixture.sim.io.ops;
    struct io_ops ops = *whole_ops;
    ops.read = read_around;
    fixture.sim.io.ops = &ops;
    for (uint32_t round = 0; round < 4; round++) {
        const bool flip = round % 2 == 0;
        team_up(round / 2 * 2);
        const struct groove_version *groove =
            version_groove(fixture.forest->versions.newest, groove_ids[1]);
        damage_each(groove->id_tree, 2, flip);
        damage_each(groove->object_tree, 2, flip);
        damage_each(groove->index_trees[0], 1, flip);
        team_down();
    }
    fixture.sim.io.ops = whole_ops;
}

Test(prefetch, a_disk_that_is_gone_is_told)
{
    team_up(2);
    random_batch(4, 200, KEY_COUNT);
    grid_restart();
    cr_assert(eq(int, grid_sync(&grid), STATUS_OK));
    const uint64_t size = fixture.sim.size;
    fixture.sim.size = grid_zone_offset(&fixture.geometry);
    fixture.sim.size_durable = fixture.sim.size;
    uint64_t bad_address;
    cr_assert(eq(int, run(&bad_address), STATUS_IO));
    cr_assert(gt(u32, check_entries(), 0));
    fixture.sim.size = size;
    fixture.sim.size_durable = size;
    cr_assert(eq(int, run(&bad_address), STATUS_OK));
    cr_assert(eq(u32, check_entries(), 0));
    team_down();
}

/* ---- Contracts ---------------------------------------------------------------------------------
 */

Test(prefetch, two_at_once_is_a_bug, .signal = SIGABRT)
{
    team_up(0);
    random_batch(1, 10, 100);
    prefetch_submit(&prefetch, &batch, fixture.forest->versions.newest);
    prefetch_submit(&prefetch, &batch, fixture.forest->versions.newest);
}

Test(prefetch, ending_before_it_is_done_is_a_bug, .signal = SIGABRT)
{
    team_up(0);
    random_batch(1, 10, 100);
    prefetch_submit(&prefetch, &batch, fixture.forest->versions.newest);
    prefetch_deinit(&prefetch);
}
