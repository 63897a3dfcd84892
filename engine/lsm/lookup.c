/* The keys are walked once through each run and each level, newest first; a key that is resolved
 * (found, deleted, or not to be told) is passed over from then on, and the walk ends when none is
 * left. What is known of a key stands in its outcome alone, so nothing else need be remembered. */
#include "engine/lsm/lookup.h"

#include <assert.h>
#include <string.h>

#include "engine/lsm/filter.h"

/* In outcomes[] while lookup_run is at work: no run or table has had the key so far. */
enum { UNRESOLVED = 0xFF };

/* Keys that go through all runs together: their hashes lie on the stack. Many, so that a run's
 * filter, once in the processor's cache, answers for many. */
enum { CHUNK_KEYS = 4096 };

/* Keys between asking memory for a filter's bucket and looking at it. */
enum { TOUCH_DISTANCE = 8 };

/* The keys not yet resolved are among [first, end). */
struct walk {
    struct lookup *lookup;
    const struct tree_shape *shape;
    uint32_t first;
    uint32_t end;
    uint32_t chunk_first; /* hashes[i - chunk_first] is key i's, in FILTER_KIND_KEY trees */
    const uint64_t *hashes;
};

static const uint8_t *key_at(const struct lookup *lookup, uint32_t i)
{
    return lookup->keys + (size_t)i * lookup->key_stride;
}

static int compare(const struct walk *walk, const uint8_t *a, const uint8_t *b)
{
    return walk->shape->ops->compare(a, b, walk->shape->value_size);
}

/* The newest value of key i is this one. */
static void resolve(struct walk *walk, uint32_t i, const uint8_t *value)
{
    struct lookup *lookup = walk->lookup;
    assert(lookup->outcomes[i] == UNRESOLVED);
    if (value_is_tombstone(value, walk->shape->key_size, walk->shape->value_size)) {
        lookup->outcomes[i] = LOOKUP_ABSENT;
    } else {
        memcpy(lookup->values + (size_t)i * lookup->value_stride, value, walk->shape->value_size);
        lookup->outcomes[i] = LOOKUP_FOUND;
    }
}

/* Cuts resolved keys off both ends. False: all are resolved. */
static bool walk_narrow(struct walk *walk)
{
    const uint8_t *outcomes = walk->lookup->outcomes;
    while (walk->first < walk->end && outcomes[walk->first] != UNRESOLVED) {
        walk->first += 1;
    }
    while (walk->first < walk->end && outcomes[walk->end - 1] != UNRESOLVED) {
        walk->end -= 1;
    }
    return walk->first < walk->end;
}

static void walk_run(struct walk *walk, const struct run *run)
{
    const struct lookup *lookup = walk->lookup;
    if (compare(walk, key_at(lookup, walk->end - 1), run->key_min.bytes) < 0 ||
        compare(walk, key_at(lookup, walk->first), run->key_max.bytes) > 0) {
        return;
    }
    uint64_t position = 0;
    for (uint32_t i = walk->first; i < walk->end; i++) {
        if (walk->hashes != NULL && i + TOUCH_DISTANCE < walk->end) {
            run_touch(run, walk->hashes[i + TOUCH_DISTANCE - walk->chunk_first]);
        }
        if (lookup->outcomes[i] != UNRESOLVED) {
            continue;
        }
        const uint8_t *key = key_at(lookup, i);
        if (walk->hashes != NULL && !run_may_contain(run, walk->hashes[i - walk->chunk_first])) {
            continue;
        }
        position = run_lower_bound(run, walk->shape, key, position);
        if (position == run->value_count) {
            return;
        }
        const uint8_t *value = run_value(run, position);
        if (compare(walk, value, key) == 0) {
            resolve(walk, i, value);
        }
    }
}

/* Chunk by chunk, so that hashing happens once per key and not once per key and run. */
static enum status walk_runs(struct walk *walk, const struct tree_version *tree)
{
    uint64_t hashes[CHUNK_KEYS];
    for (uint32_t first = 0; first < walk->lookup->key_count; first += CHUNK_KEYS) {
        const uint32_t left = walk->lookup->key_count - first;
        walk->first = first;
        walk->end = first + (left < CHUNK_KEYS ? left : CHUNK_KEYS);
        walk->chunk_first = first;
        walk->hashes = NULL;
        if (walk->shape->filter_kind == FILTER_KIND_KEY && tree->run_count > 0) {
            for (uint32_t i = walk->first; i < walk->end; i++) {
                hashes[i - first] = filter_hash(key_at(walk->lookup, i), walk->shape->key_size);
            }
            walk->hashes = hashes;
        }
        for (uint32_t i = 0; i < tree->run_count && walk_narrow(walk); i++) {
            const enum status status = read_ticket_spend(walk->lookup->ticket, 0);
            if (status != STATUS_OK) {
                return status;
            }
            walk_run(walk, tree->runs[i]);
        }
    }
    walk->hashes = NULL;
    walk->first = 0;
    walk->end = walk->lookup->key_count;
    return STATUS_OK;
}

/* Key i as the manifest holds keys. */
static struct key manifest_key(const struct walk *walk, uint32_t i)
{
    const struct tree_shape *shape = walk->shape;
    struct key key = {0};
    memcpy(key.bytes, key_at(walk->lookup, i), shape->key_size);
    if (shape->key_size == shape->value_size) {
        key.bytes[shape->key_size - 8] &= 0x7F;
    }
    return key;
}

/* Asks the open table for key i. What is damaged or unreadable is an outcome for the writer; other
 * failures are statuses. */
static enum status ask_table(struct walk *walk, struct table_reader *reader, uint32_t i,
                             bool may_be_stale)
{
    struct lookup *lookup = walk->lookup;
    const uint8_t *value = NULL;
    const enum status status = table_reader_find(reader, key_at(lookup, i), &value);
    if (status == STATUS_CORRUPT || status == STATUS_IO) {
        lookup->bad_address = reader->bad_address;
        lookup->unreadable |= status == STATUS_IO;
        if (may_be_stale) {
            return status == STATUS_IO ? STATUS_IO : STATUS_STALE;
        }
        /* Older values below would be a lie: the damaged block may hold a newer one. */
        lookup->outcomes[i] = LOOKUP_DAMAGED;
        return STATUS_OK;
    }
    if (status == STATUS_OK && value != NULL) {
        resolve(walk, i, value);
    }
    return status;
}

static enum status walk_level(struct walk *walk, const struct manifest_level *level,
                              bool may_be_stale)
{
    const struct lookup *lookup = walk->lookup;
    struct table_reader reader; /* Stays open while successive keys are of one table. */
    bool reader_open = false;
    enum status status = STATUS_OK;
    for (uint32_t i = walk->first; i < walk->end && status == STATUS_OK; i++) {
        if (lookup->outcomes[i] != UNRESOLVED) {
            continue;
        }
        const struct key key = manifest_key(walk, i);
        if (reader_open && compare(walk, key.bytes, reader.info.key_max.bytes) > 0) {
            table_reader_close(&reader);
            reader_open = false;
        }
        if (!reader_open) {
            const struct table_info *table = manifest_level_find(level, &key);
            if (table == NULL) {
                continue;
            }
            table_reader_open(&reader, lookup->geometry, lookup->grid, walk->shape, table,
                              lookup->spare);
            reader.ticket = lookup->ticket;
            reader_open = true;
        }
        assert(compare(walk, key.bytes, reader.info.key_min.bytes) >= 0); /* Keys ascend. */
        status = ask_table(walk, &reader, i, may_be_stale);
    }
    if (reader_open) {
        table_reader_close(&reader);
    }
    return status;
}

enum status lookup_run(struct lookup *lookup, bool may_be_stale)
{
    lookup->bad_address = 0;
    lookup->unreadable = false;
    if (lookup->key_count == 0) {
        return STATUS_OK;
    }
    const struct tree_version *tree = lookup->tree;
    assert(tree != NULL && tree->manifest != NULL);
    assert(lookup->key_stride >= tree->shape.key_size);
    assert(lookup->value_stride >= tree->shape.value_size);

    struct walk walk = {
        .lookup = lookup,
        .shape = &tree->shape,
        .end = lookup->key_count,
    };
    if (VERIFY) {
        for (uint32_t i = 1; i < lookup->key_count; i++) {
            assert(compare(&walk, key_at(lookup, i - 1), key_at(lookup, i)) <= 0);
        }
    }
    memset(lookup->outcomes, UNRESOLVED, lookup->key_count);

    enum status status = walk_runs(&walk, tree);
    if (status != STATUS_OK) {
        return status;
    }
    for (uint32_t i = 0; i < LEVEL_COUNT && walk_narrow(&walk); i++) {
        const struct manifest_level *level = &tree->manifest->levels[i];
        status = level->table_count > 0 ? walk_level(&walk, level, may_be_stale) : STATUS_OK;
        if (status != STATUS_OK) {
            return status;
        }
    }
    for (uint32_t i = walk.first; i < walk.end; i++) {
        if (lookup->outcomes[i] == UNRESOLVED) {
            lookup->outcomes[i] = LOOKUP_ABSENT;
        }
    }
    return STATUS_OK;
}
