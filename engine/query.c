#include "engine/query.h"

#include <assert.h>
#include <string.h>

#include "engine/lsm/lookup.h"
#include "engine/object.h"
#include "pool/log.h"
#include "pool/memory.h"

static_assert(sizeof(struct read_id) == 24,
              "sorted by the kernel for 16-byte keys, 24-byte values");
static_assert(sizeof(struct read_timestamp) == 16, "sorted by the kernel for 8-byte keys");
static_assert((uint32_t)READ_VALUES_SIZE >= (uint32_t)OBJECT_SIZE_MAX,
              "a batch holds at least one object");

/* ---- Memory -----------------------------------------------------------------------------------
 */

/* Hands out `size` bytes of the scratch, or with memory == NULL only counts them. */
static void *carve(uint8_t *memory, uint64_t *used, uint64_t size)
{
    void *part = memory != NULL ? memory + *used : NULL;
    *used += align_up(size, SECTOR_SIZE); /* Spare blocks are read into with O_DIRECT. */
    return part;
}

/* Lays the scratch out; returns its size. */
static uint64_t layout(struct read_scratch *scratch, const struct geometry *geometry,
                       uint8_t *memory)
{
    const uint64_t block_size = geometry->block_size;
    uint64_t used = 0;
    scratch->scan_spare = carve(memory, &used, LEVEL_COUNT * 3 * block_size);
    scratch->lookup_spare = carve(memory, &used, 3 * block_size);
    scratch->ids = carve(memory, &used, READ_BATCH_MAX * sizeof(struct read_id));
    scratch->ids_sort = carve(memory, &used, READ_BATCH_MAX * sizeof(struct read_id));
    scratch->id_values = carve(memory, &used, READ_BATCH_MAX * ID_VALUE_SIZE);
    scratch->timestamps = carve(memory, &used, READ_BATCH_MAX * sizeof(struct read_timestamp));
    scratch->timestamps_sort = carve(memory, &used, READ_BATCH_MAX * sizeof(struct read_timestamp));
    scratch->outcomes = carve(memory, &used, READ_BATCH_MAX);
    scratch->objects = carve(memory, &used, READ_VALUES_SIZE);
    return used;
}

uint64_t read_scratch_size(const struct geometry *geometry)
{
    struct read_scratch scratch;
    return layout(&scratch, geometry, NULL);
}

enum status read_scratch_init(struct read_scratch *scratch, const struct geometry *geometry)
{
    memset(scratch, 0, sizeof *scratch);
    const uint64_t size = read_scratch_size(geometry);
    uint8_t *memory = memory_acquire(size);
    if (memory == NULL) {
        return STATUS_NO_MEMORY;
    }
    scratch->memory = memory;
    scratch->memory_size = layout(scratch, geometry, memory);
    assert(scratch->memory_size == size);
    return STATUS_OK;
}

void read_scratch_deinit(struct read_scratch *scratch)
{
    memory_release(scratch->memory, scratch->memory_size);
    memset(scratch, 0, sizeof *scratch);
}

/* ---- What all reads share ---------------------------------------------------------------------
 */

/* One read at work. */
struct query {
    const struct geometry *geometry;
    struct grid *grid;
    const struct groove_version *groove;
    const struct groove_schema *schema;
    struct read_request *request;
    struct read_scratch *scratch;
};

static enum status refuse(struct query *query, enum request_result result)
{
    struct read_request *request = query->request;
    request->result = result;
    request->count = 0;
    request->object_size = 0;
    request->reply_size = 0;
    return STATUS_OK;
}

/* Two trees of one groove must agree, and every block was verified: this is a fault of ours that
 * has reached the disk. The reader is told, and so is the log. */
static enum status refuse_contradiction(struct query *query, uint64_t timestamp)
{
    LOG_ERROR("query.object_missing", log_u64("groove", query->groove->groove_id),
              log_u64("timestamp", timestamp), log_u64("commit", query->request->commit));
    return refuse(query, REQUEST_RESULT_CORRUPT);
}

/* Objects that a reply can hold. */
static uint32_t reply_object_max(const struct query *query)
{
    return query->request->reply_capacity / query->schema->object_size;
}

/* Objects that one batch can hold. */
static uint32_t batch_object_max(const struct query *query)
{
    return (uint32_t)min_u64(READ_BATCH_MAX, READ_VALUES_SIZE / query->schema->object_size);
}

static enum status run_lookup(struct query *query, struct lookup *lookup)
{
    lookup->geometry = query->geometry;
    lookup->grid = query->grid;
    lookup->spare = query->scratch->lookup_spare;
    lookup->ticket = &query->scratch->hold.ticket;
    lookup->outcomes = query->scratch->outcomes;
    query->scratch->hold.ticket.slice_size += (uint64_t)lookup->key_count * READ_SLICE_KEY_SIZE;
    const enum status status = lookup_run(lookup, true);
    query->scratch->bad_address = lookup->bad_address; /* If it is for a block's sake. */
    return status;
}

/* Fetches the objects of scratch->timestamps[first .. first + count), sorted, into
 * scratch->objects. */
static enum status fetch_objects(struct query *query, uint32_t first, uint32_t count)
{
    assert(count <= batch_object_max(query));
    struct lookup lookup = {
        .tree = query->groove->object_tree,
        .keys = query->scratch->timestamps[first].timestamp,
        .key_stride = sizeof(struct read_timestamp),
        .key_count = count,
        .values = query->scratch->objects,
        .value_stride = query->schema->object_size,
    };
    return run_lookup(query, &lookup);
}

static const uint8_t *fetched_object(const struct query *query, uint32_t i)
{
    return query->scratch->objects + (size_t)i * query->schema->object_size;
}

/* ---- LOOKUP -----------------------------------------------------------------------------------
 */

/* Looks `count` ids up in the id tree; the timestamps found, and their places among the images of
 * this batch in request order, go to scratch->timestamps, sorted. */
static enum status find_timestamps(struct query *query, const uint8_t *input, uint32_t count,
                                   uint32_t *found_count)
{
    struct read_scratch *scratch = query->scratch;
    for (uint32_t i = 0; i < count; i++) {
        id_reverse(scratch->ids[i].id, input + (size_t)i * ID_SIZE);
        scratch->ids[i].position = i;
    }
    values_ops_for(ID_SIZE, sizeof(struct read_id))
        ->sort(scratch->ids[0].id, scratch->ids_sort[0].id, count, sizeof(struct read_id));

    struct lookup lookup = {
        .tree = query->groove->id_tree,
        .keys = scratch->ids[0].id,
        .key_stride = sizeof(struct read_id),
        .key_count = count,
        .values = scratch->id_values,
        .value_stride = ID_VALUE_SIZE,
    };
    const enum status status = run_lookup(query, &lookup);
    if (status != STATUS_OK) {
        return status;
    }

    /* Back to the request's order, where an image's place is the number of those found before it.
     * timestamps_sort serves as the table by position; zero = absent. */
    memset(scratch->timestamps_sort, 0, count * sizeof(struct read_timestamp));
    for (uint32_t i = 0; i < count; i++) {
        if (scratch->outcomes[i] == LOOKUP_FOUND) {
            memcpy(scratch->timestamps_sort[scratch->ids[i].position].timestamp,
                   scratch->id_values + (size_t)i * ID_VALUE_SIZE + ID_SIZE, 8);
        } else {
            assert(scratch->outcomes[i] == LOOKUP_ABSENT); /* Misfits end the lookup. */
        }
    }
    uint32_t found = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (load_u64_be(scratch->timestamps_sort[i].timestamp) != 0) {
            scratch->timestamps[found] = scratch->timestamps_sort[i];
            scratch->timestamps[found].position = found;
            found += 1;
        }
    }
    values_ops_for(8, sizeof(struct read_timestamp))
        ->sort(scratch->timestamps[0].timestamp, scratch->timestamps_sort[0].timestamp, found,
               sizeof(struct read_timestamp));
    *found_count = found;
    return STATUS_OK;
}

/* One batch of ids: their images go to the end of the reply. Sets the result to CORRUPT when an id
 * has no object. */
static enum status lookup_batch(struct query *query, const uint8_t *input, uint32_t count)
{
    struct read_request *request = query->request;
    const uint32_t object_size = query->schema->object_size;
    uint32_t found_count = 0;
    enum status status = find_timestamps(query, input, count, &found_count);
    if (status != STATUS_OK) {
        return status;
    }
    uint8_t *images = request->reply + request->reply_size;
    uint32_t done = 0;
    while (done < found_count) {
        const uint32_t batch = (uint32_t)min_u64(found_count - done, batch_object_max(query));
        status = fetch_objects(query, done, batch);
        if (status != STATUS_OK) {
            return status;
        }
        for (uint32_t i = 0; i < batch; i++) {
            const struct read_timestamp *entry = &query->scratch->timestamps[done + i];
            if (query->scratch->outcomes[i] != LOOKUP_FOUND) {
                return refuse_contradiction(query, load_u64_be(entry->timestamp));
            }
            object_image_from_value(images + (size_t)entry->position * object_size,
                                    fetched_object(query, i), object_size);
        }
        done += batch;
    }
    request->count += found_count;
    request->reply_size += found_count * object_size;
    assert(request->reply_size <= request->reply_capacity);
    return STATUS_OK;
}

static enum status check_ids(struct query *query)
{
    const struct read_request *request = query->request;
    if (request->input_size % ID_SIZE != 0) {
        return refuse(query, REQUEST_RESULT_MALFORMED);
    }
    const uint32_t id_count = request->input_size / ID_SIZE;
    if (id_count > reply_object_max(query)) {
        return refuse(query, REQUEST_RESULT_TOO_BIG);
    }
    for (uint32_t i = 0; i < id_count; i++) {
        const uint8_t *id = request->input + (size_t)i * ID_SIZE;
        if (load_u64_le(id) == 0 && load_u64_le(id + 8) == 0) {
            return refuse(query, REQUEST_RESULT_MALFORMED);
        }
    }
    return STATUS_OK;
}

static enum status run_ids(struct query *query, bool resumed)
{
    const struct read_request *request = query->request;
    struct read_scratch *scratch = query->scratch;
    if (!resumed) {
        scratch->ids_done = 0;
        const enum status status = check_ids(query);
        if (status != STATUS_OK || request->result != REQUEST_RESULT_OK) {
            return status;
        }
    }
    const uint32_t id_count = request->input_size / ID_SIZE;
    while (scratch->ids_done < id_count) {
        if (read_ticket_slice_over(&scratch->hold.ticket)) {
            return STATUS_YIELD;
        }
        const uint32_t batch = (uint32_t)min_u64(id_count - scratch->ids_done, READ_BATCH_MAX);
        const enum status status =
            lookup_batch(query, request->input + (size_t)scratch->ids_done * ID_SIZE, batch);
        if (status != STATUS_OK || request->result != REQUEST_RESULT_OK) {
            return status;
        }
        scratch->ids_done += batch;
    }
    return STATUS_OK;
}

/* ---- QUERY and COUNT --------------------------------------------------------------------------
 */

static void open_prefix_scan(struct query *query)
{
    const struct read_request *request = query->request;
    const struct tree_version *tree = query->groove->index_trees[request->index];
    const struct index_layout *layout = &query->schema->indexes[request->index];
    assert(tree != NULL && tree->shape.key_size == layout->key_size);

    struct key key_min = {0};
    schema_index_prefix(query->schema, request->index, request->input, key_min.bytes);
    struct key key_max = key_min;
    if (layout->key_size > layout->prefix_size) { /* The top bit is a tombstone's. */
        store_u64_be(key_max.bytes + layout->prefix_size, UINT64_MAX >> 1);
    }
    scan_tree_open(&query->scratch->scan, query->geometry, query->grid, tree, &key_min, &key_max,
                   true, query->scratch->scan_spare);
    query->scratch->scan.ticket = &query->scratch->hold.ticket;
}

/* The next value of the scan; its timestamp, as key bytes, is at the end of it. */
static enum status scan_next(struct query *query, const uint8_t **value)
{
    const enum status status = scan_tree_next(&query->scratch->scan, value);
    query->scratch->bad_address = query->scratch->scan.bad_address; /* Likewise. */
    return status == STATUS_CORRUPT ? STATUS_STALE : status;
}

/* Up to `max` more timestamps of the scan, ascending; fewer at its end, or with STATUS_YIELD. */
static enum status gather_timestamps(struct query *query, uint32_t max, uint32_t *count)
{
    const uint32_t prefix_size = query->schema->indexes[query->request->index].prefix_size;
    *count = 0;
    while (*count < max) {
        const uint8_t *value = NULL;
        const enum status status = scan_next(query, &value);
        if (status != STATUS_OK) {
            return status;
        }
        if (value == NULL) {
            return STATUS_OK;
        }
        memcpy(query->scratch->timestamps[*count].timestamp, value + prefix_size, 8);
        *count += 1;
    }
    return STATUS_OK;
}

/* Counts those of the fetched objects that match and, for QUERY, appends their images. */
static enum status take_matches(struct query *query, uint32_t count)
{
    struct read_request *request = query->request;
    const uint32_t object_size = query->schema->object_size;
    const bool exact = query->schema->indexes[request->index].exact;
    for (uint32_t i = 0; i < count; i++) {
        if (query->scratch->outcomes[i] != LOOKUP_FOUND) {
            return refuse_contradiction(query,
                                        load_u64_be(query->scratch->timestamps[i].timestamp));
        }
        uint8_t image[OBJECT_SIZE_MAX];
        object_image_from_value(image, fetched_object(query, i), object_size);
        if (!exact && !schema_index_matches(query->schema, request->index, image, request->input)) {
            continue;
        }
        if (request->kind == READ_KIND_QUERY) {
            memcpy(request->reply + request->reply_size, image, object_size);
            request->reply_size += object_size;
        }
        request->count += 1;
    }
    return STATUS_OK;
}

/* Scan, objects, recheck, batch by batch, until `wanted` objects are taken or the scan ends. Gives
 * way between two batches: what was gathered by then is taken first. A batch is no more than one
 * slice; timestamps ascend, so larger ones would pass few blocks less often. */
static enum status take_objects(struct query *query, uint64_t wanted)
{
    const struct read_request *request = query->request;
    while (request->count < wanted) {
        const uint32_t batch_max =
            (uint32_t)min_u64(batch_object_max(query), READ_SLICE_SIZE / READ_SLICE_KEY_SIZE);
        const uint32_t max = (uint32_t)min_u64(wanted - request->count, batch_max);
        uint32_t count = 0;
        const enum status gathered = gather_timestamps(query, max, &count);
        enum status status = gathered == STATUS_YIELD ? STATUS_OK : gathered;
        if (status == STATUS_OK && count > 0) {
            status = fetch_objects(query, 0, count);
        }
        if (status == STATUS_OK) {
            status = take_matches(query, count);
        }
        if (status != STATUS_OK || request->result != REQUEST_RESULT_OK) {
            return status;
        }
        if (count < max) {
            return gathered;
        }
    }
    return STATUS_OK;
}

/* An exact index knows the count without its objects. */
static enum status count_scan(struct query *query)
{
    for (;;) {
        const uint8_t *value = NULL;
        const enum status status = scan_next(query, &value);
        if (status != STATUS_OK || value == NULL) {
            return status;
        }
        query->request->count += 1;
    }
}

static enum status run_index(struct query *query, bool resumed)
{
    struct read_request *request = query->request;
    if (!resumed) {
        if (request->index >= query->schema->spec.index_count) {
            return refuse(query, REQUEST_RESULT_UNKNOWN_INDEX);
        }
        if (request->input_size != schema_index_values_size(query->schema, request->index)) {
            return refuse(query, REQUEST_RESULT_MALFORMED);
        }
        open_prefix_scan(query);
    }
    enum status status = STATUS_OK;
    if (request->kind == READ_KIND_QUERY) {
        const uint64_t limit = request->limit == 0 ? UINT64_MAX : request->limit;
        status = take_objects(query, min_u64(limit, reply_object_max(query)));
    } else if (query->schema->indexes[request->index].exact) {
        status = count_scan(query);
    } else {
        status = take_objects(query, UINT64_MAX);
    }
    if (status != STATUS_YIELD) {
        scan_tree_close(&query->scratch->scan);
    }
    return status;
}

static enum status run_count(struct query *query, bool resumed)
{
    struct read_request *request = query->request;
    if (request->index != READ_INDEX_NONE) {
        return run_index(query, resumed);
    }
    assert(!resumed); /* The groove knows. */
    if (request->input_size != 0) {
        return refuse(query, REQUEST_RESULT_MALFORMED);
    }
    request->count = query->groove->object_count;
    return STATUS_OK;
}

static enum status run(struct query *query, bool resumed)
{
    const struct read_request *request = query->request;
    assert(request->reply != NULL && request->reply_capacity >= query->geometry->block_size);
    assert(request->input != NULL || request->input_size == 0);

    switch (request->kind) {
    case READ_KIND_LOOKUP:
        return run_ids(query, resumed);
    case READ_KIND_QUERY:
        return run_index(query, resumed);
    case READ_KIND_COUNT:
        return run_count(query, resumed);
    }
    assert(false && "read_kind is checked where the request enters");
    __builtin_unreachable();
}

/* Without groove and schema, if the version has none of that id. */
static struct query query_of(const struct geometry *geometry, struct grid *grid,
                             const struct version *version, struct read_request *request,
                             struct read_scratch *scratch)
{
    const struct groove_version *groove = version_groove(version, request->groove_id);
    return (struct query){
        .geometry = geometry,
        .grid = grid,
        .groove = groove,
        .schema = groove != NULL ? &groove->schema->schema : NULL,
        .request = request,
        .scratch = scratch,
    };
}

enum status query_run(const struct geometry *geometry, struct grid *grid,
                      const struct version *version, struct read_request *request,
                      struct read_scratch *scratch)
{
    struct query query = query_of(geometry, grid, version, request, scratch);
    scratch->bad_address = 0;
    request->commit = version->commit;
    if (query.groove == NULL) {
        return refuse(&query, REQUEST_RESULT_UNKNOWN_GROOVE);
    }
    request->result = REQUEST_RESULT_OK;
    request->count = 0;
    request->object_size = query.schema->object_size;
    request->reply_size = 0;
    return run(&query, false);
}

enum status query_resume(const struct geometry *geometry, struct grid *grid,
                         const struct version *version, struct read_request *request,
                         struct read_scratch *scratch)
{
    struct query query = query_of(geometry, grid, version, request, scratch);
    assert(query.groove != NULL);
    assert(request->result == REQUEST_RESULT_OK);
    assert(request->commit == version->commit);
    assert(!read_ticket_slice_over(&scratch->hold.ticket));
    return run(&query, true);
}

void query_abandon(struct read_scratch *scratch)
{
    scan_tree_close(&scratch->scan);
}
