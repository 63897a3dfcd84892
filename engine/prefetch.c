#include "engine/prefetch.h"

#include <assert.h>
#include <string.h>

#include "engine/object.h"
#include "pool/base.h"
#include "pool/memory.h"

enum { ITEM_SIZE = 24, OBJECT_KEY_SIZE = 16 };
static_assert((int)ITEM_SIZE <= (int)KEY_SIZE_MAX, "one scratch for items and owner entries");

static uint64_t owner_max_of(const struct geometry *geometry)
{
    return (uint64_t)geometry->batch_event_max * INDEX_COUNT_MAX;
}

static uint64_t objects_size_of(const struct geometry *geometry)
{
    return batch_object_bytes_max(geometry) + (uint64_t)BATCH_GROUP_MAX * 64;
}

static uint64_t spares_size_of(const struct geometry *geometry)
{
    return (uint64_t)PREFETCH_SLICE_MAX * 3 * geometry->block_size;
}

uint64_t prefetch_memory_size(const struct geometry *geometry)
{
    const uint64_t per_event = ITEM_SIZE + KEY_SIZE_MAX + ID_VALUE_SIZE + 1 + 2 * OBJECT_KEY_SIZE;
    return geometry->batch_event_max * per_event + owner_max_of(geometry) * (KEY_SIZE_MAX + 1) +
           objects_size_of(geometry) + spares_size_of(geometry);
}

enum status prefetch_init(struct prefetch *prefetch, const struct geometry *geometry,
                          struct grid *grid, struct workers *readers, struct doorbell *doorbell)
{
    const size_t event_max = geometry->batch_event_max;
    *prefetch = (struct prefetch){
        .geometry = geometry,
        .grid = grid,
        .readers = readers,
        .doorbell = doorbell,
        .items = memory_acquire(event_max * ITEM_SIZE),
        .items_scratch = memory_acquire(event_max * KEY_SIZE_MAX),
        .id_values = memory_acquire(event_max * ID_VALUE_SIZE),
        .outcomes = memory_acquire(event_max),
        .object_keys = memory_acquire(event_max * OBJECT_KEY_SIZE),
        .object_keys_scratch = memory_acquire(event_max * OBJECT_KEY_SIZE),
        .objects = memory_acquire(objects_size_of(geometry)),
        .objects_size = objects_size_of(geometry),
        .owners = memory_acquire(owner_max_of(geometry) * KEY_SIZE_MAX),
        .owner_outcomes = memory_acquire(owner_max_of(geometry)),
        .spares = memory_acquire(spares_size_of(geometry)),
    };
    if (prefetch->items == NULL || prefetch->items_scratch == NULL || prefetch->id_values == NULL ||
        prefetch->outcomes == NULL || prefetch->object_keys == NULL ||
        prefetch->object_keys_scratch == NULL || prefetch->objects == NULL ||
        prefetch->owners == NULL || prefetch->owner_outcomes == NULL || prefetch->spares == NULL) {
        prefetch_deinit(prefetch);
        return STATUS_NO_MEMORY;
    }
    return STATUS_OK;
}

void prefetch_deinit(struct prefetch *prefetch)
{
    if (prefetch->geometry == NULL) {
        return;
    }
    assert(!prefetch->active);
    const size_t event_max = prefetch->geometry->batch_event_max;
    memory_release(prefetch->items, event_max * ITEM_SIZE);
    memory_release(prefetch->items_scratch, event_max * KEY_SIZE_MAX);
    memory_release(prefetch->id_values, event_max * ID_VALUE_SIZE);
    memory_release(prefetch->outcomes, event_max);
    memory_release(prefetch->object_keys, event_max * OBJECT_KEY_SIZE);
    memory_release(prefetch->object_keys_scratch, event_max * OBJECT_KEY_SIZE);
    memory_release(prefetch->objects, prefetch->objects_size);
    memory_release(prefetch->owners, owner_max_of(prefetch->geometry) * KEY_SIZE_MAX);
    memory_release(prefetch->owner_outcomes, owner_max_of(prefetch->geometry));
    memory_release(prefetch->spares, spares_size_of(prefetch->geometry));
    *prefetch = (struct prefetch){0};
}

/* ---- On a reader -------------------------------------------------------------------------------
 */

static void lookup_begin(const struct prefetch_slice *slice, struct lookup *lookup,
                         const struct tree_version *tree)
{
    *lookup = (struct lookup){
        .geometry = slice->prefetch->geometry,
        .grid = slice->prefetch->grid,
        .tree = tree,
        .spare = slice->spare,
        .ticket = slice->ticket,
    };
}

/* REVOKED, as the ticket says: it would have to wait. What is damaged or unreadable is an outcome.
 */
static enum status run_lookup(struct prefetch_slice *slice, struct lookup *lookup)
{
    const enum status status = lookup_run(lookup, false);
    assert(status == STATUS_OK || status == STATUS_REVOKED);
    slice->unreadable |= lookup->unreadable;
    if (lookup->bad_address != 0) {
        slice->bad_address = lookup->bad_address;
    }
    return status;
}

/* Which ids exist, and since when. */
static enum status find_ids(struct prefetch_slice *slice)
{
    struct prefetch *prefetch = slice->prefetch;
    struct groove_entry *entries = prefetch->batch->entries + slice->entry_first;
    uint8_t *values = prefetch->id_values + (size_t)slice->entry_first * ID_VALUE_SIZE;
    uint8_t *outcomes = prefetch->outcomes + slice->entry_first;
    struct lookup lookup;
    lookup_begin(slice, &lookup, slice->groove->id_tree);
    lookup.keys = entries[0].key;
    lookup.key_stride = sizeof *entries;
    lookup.key_count = slice->entry_count;
    lookup.values = values;
    lookup.value_stride = ID_VALUE_SIZE;
    lookup.outcomes = outcomes;
    const enum status status = run_lookup(slice, &lookup);
    for (uint32_t i = 0; status == STATUS_OK && i < slice->entry_count; i++) {
        entries[i].exists = outcomes[i] == LOOKUP_FOUND;
        entries[i].damaged = outcomes[i] == LOOKUP_DAMAGED;
        if (entries[i].exists) {
            entries[i].timestamp =
                load_u64_be(values + (size_t)i * ID_VALUE_SIZE + ID_SIZE) & ~(1ull << 63);
        }
    }
    return status;
}

/* The objects that the batch changes. */
static enum status find_objects(struct prefetch_slice *slice)
{
    struct prefetch *prefetch = slice->prefetch;
    struct groove_entry *entries = prefetch->batch->entries + slice->entry_first;
    uint8_t *keys = prefetch->object_keys + (size_t)slice->entry_first * OBJECT_KEY_SIZE;
    uint8_t *scratch = prefetch->object_keys_scratch + (size_t)slice->entry_first * OBJECT_KEY_SIZE;
    uint8_t *outcomes = prefetch->outcomes + slice->entry_first;
    uint32_t count = 0;
    for (uint32_t i = 0; i < slice->entry_count; i++) {
        if (entries[i].exists && entries[i].wants_object) {
            store_u64_be(keys + (size_t)count * OBJECT_KEY_SIZE, entries[i].timestamp);
            store_u64_be(keys + (size_t)count * OBJECT_KEY_SIZE + 8, i);
            count += 1;
        }
    }
    if (count == 0) {
        return STATUS_OK;
    }
    values_ops_for(8, OBJECT_KEY_SIZE)->sort(keys, scratch, count, OBJECT_KEY_SIZE);
    const uint32_t object_size = slice->groove->schema->schema.object_size;
    struct lookup lookup;
    lookup_begin(slice, &lookup, slice->groove->object_tree);
    lookup.keys = keys;
    lookup.key_stride = OBJECT_KEY_SIZE;
    lookup.key_count = count;
    lookup.values = slice->objects;
    lookup.value_stride = object_size;
    lookup.outcomes = outcomes;
    const enum status status = run_lookup(slice, &lookup);
    for (uint32_t i = 0; status == STATUS_OK && i < count; i++) {
        struct groove_entry *entry = &entries[load_u64_be(keys + (size_t)i * OBJECT_KEY_SIZE + 8)];
        /* An id without its object is damage, too: they are written together. */
        entry->damaged = outcomes[i] != LOOKUP_FOUND;
        entry->object = slice->objects + (size_t)i * object_size;
    }
    return status;
}

/* Who has the values in this slice's share of one list. */
static enum status find_owners(struct prefetch_slice *slice, uint32_t index)
{
    struct owner_list *list = &slice->owners[index];
    const uint32_t first = (uint32_t)((uint64_t)list->count * slice->part / slice->part_count);
    const uint32_t end = (uint32_t)((uint64_t)list->count * (slice->part + 1) / slice->part_count);
    const uint8_t *outcomes = slice->prefetch->owner_outcomes + list->first + first;
    struct lookup lookup;
    lookup_begin(slice, &lookup, slice->groove->index_trees[index]);
    /* Found values are entries with the same key: they may be written where the keys are. */
    lookup.keys = owner_list_entry(list, first);
    lookup.key_stride = list->entry_size;
    lookup.key_count = end - first;
    lookup.values = owner_list_entry(list, first);
    lookup.value_stride = list->entry_size;
    lookup.outcomes = slice->prefetch->owner_outcomes + list->first + first;
    const enum status status = run_lookup(slice, &lookup);
    for (uint32_t i = 0; status == STATUS_OK && i < end - first; i++) {
        if (outcomes[i] == LOOKUP_DAMAGED) {
            owner_list_set(list, first + i, OWNER_UNKNOWN);
            slice->owner_unknown = true;
        }
    }
    return status;
}

/* May be done twice: the second time finds what the first one found, and more. */
static void slice_find(struct prefetch_slice *slice)
{
    slice->bad_address = 0;
    slice->unreadable = false;
    slice->owner_unknown = false;
    slice->status = find_ids(slice);
    if (slice->status == STATUS_OK) {
        slice->status = find_objects(slice);
    }
    const struct groove_schema *schema = &slice->groove->schema->schema;
    for (uint32_t i = 0; i < schema->spec.index_count && slice->status == STATUS_OK; i++) {
        if (schema_index_unique(schema, i)) {
            slice->status = find_owners(slice, i);
        }
    }
}

static void slice_run(struct job *job)
{
    struct prefetch_slice *slice = container_of(job, struct prefetch_slice, job);
    slice_find(slice);
    /* Pairs with prefetch_done. */
    struct doorbell *doorbell = slice->prefetch->doorbell;
    if (atomic_fetch_sub_explicit(&slice->prefetch->slices_left, 1, memory_order_acq_rel) == 1) {
        doorbell_ring(doorbell);
    }
}

/* ---- On the forest thread ----------------------------------------------------------------------
 */

/* Sorts the events of a group by id; one entry per id, which every event of that id points to. */
static void build_entries(struct prefetch *prefetch, struct batch_group *group, uint8_t group_index)
{
    struct batch *batch = prefetch->batch;
    uint8_t *items = prefetch->items + (size_t)group->item_first * ITEM_SIZE;
    uint8_t *scratch = prefetch->items_scratch + (size_t)group->item_first * ITEM_SIZE;
    uint32_t count = 0;
    for (uint32_t i = 0; i < batch->event_count; i++) {
        if (batch->events[i].group == group_index) {
            id_reverse(items + (size_t)count * ITEM_SIZE, batch->events[i].payload);
            store_u64_be(items + (size_t)count * ITEM_SIZE + ID_SIZE, i);
            count += 1;
        }
    }
    assert(count == group->event_count);
    values_ops_for(ID_SIZE, ITEM_SIZE)->sort(items, scratch, count, ITEM_SIZE);

    struct groove_entry *entries = batch->entries + group->item_first;
    group->entry_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *item = items + (size_t)i * ITEM_SIZE;
        const bool repeated =
            i > 0 && memcmp(entries[group->entry_count - 1].key, item, ID_SIZE) == 0;
        if (!repeated) {
            struct groove_entry *entry = &entries[group->entry_count];
            *entry = (struct groove_entry){0};
            memcpy(entry->key, item, ID_SIZE);
            group->entry_count += 1;
        }
        struct batch_event *event = &batch->events[load_u64_be(item + ID_SIZE)];
        event->entry = group->item_first + group->entry_count - 1;
        /* An insert finds nothing to change, a check changes nothing. */
        batch->entries[event->entry].wants_object |=
            event->guard == EVENT_GUARD_VERSION ||
            (event->type != EVENT_TYPE_INSERT && event->type != EVENT_TYPE_CHECK);
    }
}

/* The prefix that an event brings to a unique index. False: none. */
static bool value_brought(const struct groove_schema *schema, uint32_t index,
                          const struct batch_event *event, uint8_t entry[KEY_SIZE_MAX])
{
    return !event_has_id_only(event->type) &&
           schema_index_key(schema, index, event->payload, 0, entry);
}

/* One list per unique index, of what the group's events bring. */
static void build_owners(struct prefetch *prefetch, struct batch_group *group, uint8_t group_index)
{
    const struct batch *batch = prefetch->batch;
    const struct groove_schema *schema = &group->groove->schema->schema;
    for (uint32_t index = 0; index < schema->spec.index_count; index++) {
        struct owner_list *list = &group->owners[index];
        if (!schema_index_unique(schema, index)) {
            continue;
        }
        owner_list_begin(list, schema->indexes[index].prefix_size,
                         prefetch->owners + (size_t)prefetch->owner_count * KEY_SIZE_MAX);
        list->first = prefetch->owner_count;
        for (uint32_t i = 0; i < batch->event_count; i++) {
            uint8_t entry[KEY_SIZE_MAX];
            if (batch->events[i].group == group_index &&
                value_brought(schema, index, &batch->events[i], entry)) {
                owner_list_add(list, entry);
            }
        }
        assert(list->count <= group->event_count);
        owner_list_seal(list, prefetch->items_scratch);
        prefetch->owner_count += list->count;
        assert(prefetch->owner_count <= owner_max_of(prefetch->geometry));
    }
}

static void add_slices(struct prefetch *prefetch, struct batch_group *group, uint32_t slices_free)
{
    const struct groove_version *groove = version_groove(prefetch->version, group->groove_id);
    assert(groove != NULL); /* The catalog and the newest version agree. */
    const uint32_t object_size = groove->schema->schema.object_size;
    const uint64_t wanted = div_ceil(group->entry_count, PREFETCH_SLICE_KEYS_MIN);
    const uint64_t teams =
        prefetch->readers->thread_count > 0 ? prefetch->readers->thread_count : 1;
    const uint64_t slice_count = min_u64(min_u64(wanted, teams), slices_free);
    const uint32_t keys_per_slice = (uint32_t)div_ceil(group->entry_count, slice_count);
    const uint32_t part_count = (uint32_t)div_ceil(group->entry_count, keys_per_slice);
    for (uint32_t first = 0; first < group->entry_count; first += keys_per_slice) {
        assert(prefetch->slice_count < PREFETCH_SLICE_MAX);
        struct prefetch_slice *slice = &prefetch->slices[prefetch->slice_count];
        *slice = (struct prefetch_slice){
            .job = {.run = slice_run},
            .prefetch = prefetch,
            .owners = group->owners,
            .groove = groove,
            .entry_first = group->item_first + first,
            .entry_count = (uint32_t)min_u64(keys_per_slice, group->entry_count - first),
            .part = first / keys_per_slice,
            .part_count = part_count,
            .objects = prefetch->objects + group->object_first + (uint64_t)first * object_size,
            .spare = prefetch->spares +
                     (size_t)prefetch->slice_count * 3 * prefetch->geometry->block_size,
        };
        prefetch->slice_count += 1;
    }
}

/* Looks for what few keys need without waiting for anything; how many slices would have to wait.
 * Their status is REVOKED. */
static uint32_t find_here(struct prefetch *prefetch)
{
    uint32_t key_count = 0;
    for (uint32_t i = 0; i < prefetch->slice_count; i++) {
        key_count += prefetch->slices[i].entry_count;
    }
    uint32_t waiting_count = 0;
    for (uint32_t i = 0; i < prefetch->slice_count; i++) {
        struct prefetch_slice *slice = &prefetch->slices[i];
        slice->status = STATUS_REVOKED;
        if (key_count <= PREFETCH_HERE_KEYS_MAX) {
            struct read_ticket ticket;
            read_ticket_init_no_wait(&ticket);
            slice->ticket = &ticket;
            slice_find(slice);
            slice->ticket = NULL;
        }
        waiting_count += slice->status == STATUS_REVOKED;
    }
    return waiting_count;
}

void prefetch_submit(struct prefetch *prefetch, struct batch *batch, const struct version *version)
{
    assert(!prefetch->active);
    prefetch->batch = batch;
    prefetch->version = version;
    prefetch->slice_count = 0;
    prefetch->owner_count = 0;
    prefetch->active = true;
    uint32_t groups_left = 0;
    for (uint32_t i = 0; i < batch->group_count; i++) {
        groups_left += batch->groups[i].event_count > 0;
    }
    /* At least one slice is left for each group still to come. */
    static_assert((int)BATCH_GROUP_MAX <= (int)PREFETCH_SLICE_MAX, "a slice per group");
    for (uint32_t i = 0; i < batch->group_count; i++) {
        struct batch_group *group = &batch->groups[i];
        if (group->event_count > 0) {
            build_entries(prefetch, group, (uint8_t)i);
            build_owners(prefetch, group, (uint8_t)i);
            groups_left -= 1;
            add_slices(prefetch, group, PREFETCH_SLICE_MAX - prefetch->slice_count - groups_left);
        }
    }
    uint32_t left = find_here(prefetch);
    atomic_store_explicit(&prefetch->slices_left, left, memory_order_relaxed);
    for (uint32_t i = 0; left > 0; i++) {
        assert(i < prefetch->slice_count);
        if (prefetch->slices[i].status == STATUS_REVOKED) { /* Not yet a reader's: nobody writes. */
            /* Before all reads: every writer waits for it. */
            workers_submit_first(prefetch->readers, &prefetch->slices[i].job);
            left -= 1;
        }
    }
}

/* Entries that may not be executed, because an event wants to give them a value that nobody knows
 * to be free. */
static void mark_unknown_owners(struct batch *batch)
{
    for (uint32_t i = 0; i < batch->event_count; i++) {
        const struct batch_event *event = &batch->events[i];
        const struct batch_group *group = &batch->groups[event->group];
        const struct groove_schema *schema = &group->groove->schema->schema;
        for (uint32_t index = 0; index < schema->spec.index_count; index++) {
            uint8_t entry[KEY_SIZE_MAX];
            if (schema_index_unique(schema, index) && value_brought(schema, index, event, entry) &&
                owner_list_find(&group->owners[index], entry) == OWNER_UNKNOWN) {
                batch->entries[event->entry].damaged = true;
            }
        }
    }
}

bool prefetch_done(struct prefetch *prefetch, enum status *status, uint64_t *bad_address)
{
    assert(prefetch->active);
    if (atomic_load_explicit(&prefetch->slices_left, memory_order_acquire) > 0) {
        return false;
    }
    *status = STATUS_OK;
    bool owner_unknown = false;
    for (uint32_t i = 0; i < prefetch->slice_count; i++) {
        owner_unknown |= prefetch->slices[i].owner_unknown;
        if (prefetch->slices[i].bad_address != 0) {
            *bad_address = prefetch->slices[i].bad_address;
        }
        assert(prefetch->slices[i].status == STATUS_OK);
        if (prefetch->slices[i].unreadable) {
            *status = STATUS_IO;
        }
    }
    if (owner_unknown) {
        mark_unknown_owners(prefetch->batch);
    }
    prefetch->active = false;
    return true;
}
