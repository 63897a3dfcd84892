/* Opening a data file whose every checksum is right and whose contents are not.
 *
 * A small file is made once: a groove with a unique index, some bars, checkpoints, and a journal
 * behind the last of them. An input changes it, 8 bytes a change:
 *
 *   u8 what    modulo 9: a superblock field, a block of type 1..6, a journal entry, a block of type
 * 7 u8 how     modulo 5: xor u8, set u8, set u32, add a signed byte to u64, set u64 to a small one;
 *              bit 7: do not make the checksums right again, so it is plain damage
 *   u8 which   of that kind, counted from the newest
 *   u8 zone    of it: 0 header, 1 the first 256 bytes behind it, else anywhere
 *   u16 at, u16 value
 *
 * Then all checksums are computed again, from the leaves up to the superblock and along the
 * journal. `holt verify` and opening must both end with a status. If the file opens, everything is
 * read; if verify had no complaint, all of it must read, and writing must go on. */
#include <assert.h>
#include <stdlib.h>

#include "engine/lsm/spill.h"
#include "engine/lsm/table.h"
#include "engine/storage/journal.h"
#include "engine/storage/superblock.h"
#include "engine/storage/trailer.h"
#include "pool/base.h"
#include "pool/memory.h"
#include "tests/fuzz/fuzz.h"
#include "tests/harness/forest_fixture.h"

enum {
    NODE_MAX = 1024,
    ENTRY_MAX = 1024,
    BODY_SIZE = 8192,
    BATCH_OBJECT_COUNT = 60,
    BATCH_COUNT = 60,
    CHANGE_MAX = 8,
    KIND_COUNT = 9, /* 0 superblock, 1..6 enum block_type, 7 journal, 8 BLOCK_TYPE_SPILL */
    KIND_JOURNAL = 7,
    KIND_SPILL = 8,
};

/* A block in use, and what it refers to. */
struct node {
    uint64_t address;
    uint8_t type;
    bool damaged; /* by this input: its checksum stays as it is */
};

static struct forest_fixture fixture;
static uint8_t *image; /* the file as it was made */
static uint8_t *copy;  /* as this input has it */
static uint64_t image_size;
static struct geometry geometry;
static struct node nodes[NODE_MAX]; /* what refers to a block stands before it */
static uint32_t node_count;
static uint64_t entries[ENTRY_MAX]; /* offsets in the file, in order */
static uint32_t entry_count;

/* ---- The file --------------------------------------------------------------------------------
 */

static uint8_t *block_at(uint8_t *file, uint64_t address)
{
    const uint64_t offset = grid_zone_offset(&geometry) + (address - 1) * geometry.block_size;
    const bool there = address >= 1 && address <= geometry.block_count_max &&
                       offset + geometry.block_size <= image_size;
    return there ? file + offset : NULL;
}

static void node_add(uint64_t address)
{
    const uint8_t *block = block_at(image, address);
    assert(block != NULL && node_count < NODE_MAX);
    nodes[node_count++] = (struct node){address, block_header_const(block)->type, false};
}

/* The reference in a block's metadata: of the next in its chain. */
static struct block_reference chained(const uint8_t *block)
{
    struct block_reference reference;
    memcpy(&reference, block_header_const(block)->metadata, sizeof reference);
    return reference;
}

static void chain_add(struct block_reference reference, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        node_add(reference.address);
        reference = chained(block_at(image, reference.address));
    }
}

/* The arrays of an index block: checksums and addresses of its value blocks, then of its filters.
 */
struct index_arrays {
    uint8_t *checksums[2];
    uint8_t *addresses[2];
    uint32_t counts[2];
};

static bool index_arrays(uint8_t *block, struct index_arrays *arrays)
{
    const struct block_header *header = block_header(block);
    uint8_t *at = block_body(block);
    memcpy(arrays->counts, header->metadata + 16, sizeof arrays->counts);
    const uint64_t size =
        (uint64_t)arrays->counts[0] * (24u + header->key_size) + (uint64_t)arrays->counts[1] * 24u;
    if (size > block_body_size(&geometry)) {
        return false;
    }
    for (int i = 0; i < 2; i++) {
        arrays->checksums[i] = at;
        arrays->addresses[i] = at + arrays->counts[i] * (size_t)CHECKSUM_SIZE;
        at = arrays->addresses[i] + arrays->counts[i] * sizeof(uint64_t);
        at += i == 0 ? arrays->counts[0] * (size_t)header->key_size : 0;
    }
    return true;
}

static uint64_t address_at(const struct index_arrays *arrays, int kind, uint32_t i)
{
    uint64_t address;
    memcpy(&address, arrays->addresses[kind] + i * sizeof address, sizeof address);
    return address;
}

static bool node_known(uint64_t address)
{
    for (uint32_t i = 0; i < node_count; i++) {
        if (nodes[i].address == address) {
            return true;
        }
    }
    return false;
}

static void table_add(const struct table_info *table)
{
    uint8_t *block = block_at(image, table->index.address);
    struct index_arrays arrays;
    if (block == NULL || node_known(table->index.address) ||
        block_verify(block, geometry.block_size, &table->index, BLOCK_TYPE_INDEX) != STATUS_OK ||
        !index_arrays(block, &arrays)) {
        return; /* Removed since, and its blocks used again. */
    }
    node_add(table->index.address);
    for (int kind = 0; kind < 2; kind++) {
        for (uint32_t i = 0; i < arrays.counts[kind]; i++) {
            node_add(address_at(&arrays, kind, i));
        }
    }
}

static void tables_add(const uint8_t *manifest)
{
    const struct table_info *tables = (const void *)block_body_const(manifest);
    for (uint32_t i = 0; i < block_header_const(manifest)->value_count; i++) {
        table_add(&tables[i]);
    }
}

static void file_walk(void)
{
    const struct superblock *superblock = (const void *)image;
    const struct checkpoint_state *checkpoint = &superblock->checkpoint;
    chain_add(checkpoint->free_set,
              trailer_block_count(geometry.block_size, checkpoint->free_set_size));
    chain_add(checkpoint->state, trailer_block_count(geometry.block_size, checkpoint->state_size));
    assert(trailer_block_count(geometry.block_size, checkpoint->spill_size) == 1);
    chain_add(checkpoint->spill, 1);
    const struct spill_entry *spills =
        (const void *)block_body_const(block_at(image, checkpoint->spill.address));
    for (uint32_t i = 0; i < checkpoint->spill_size / sizeof *spills; i++) {
        table_add(&spills[i].table);
    }
    const uint32_t manifest_first = node_count;
    chain_add(checkpoint->manifest_newest, checkpoint->manifest_block_count);
    const uint32_t manifest_end = node_count;
    for (uint32_t i = manifest_first; i < manifest_end; i++) {
        tables_add(block_at(image, nodes[i].address));
    }
    assert(node_count > manifest_end); /* There are tables. */

    uint64_t offset = checkpoint->journal_offset;
    uint64_t sequence = checkpoint->journal_sequence;
    const uint64_t zone = journal_zone_offset(&geometry);
    while (entry_count < ENTRY_MAX) {
        const struct journal_header *header = (const void *)(image + zone + offset);
        if (header->sequence != sequence && offset != 0) {
            offset = 0;
            header = (const void *)(image + zone);
        }
        if (header->sequence != sequence) {
            break;
        }
        entries[entry_count++] = zone + offset;
        offset += align_up(header->size, SECTOR_SIZE);
        offset = offset == geometry.journal_size ? 0 : offset;
        sequence += 1;
    }
    assert(entry_count > 0);
}

static void objects_fill(struct fixture_object *objects, uint64_t first, uint32_t count)
{
    memset(objects, 0, count * sizeof *objects);
    for (uint32_t i = 0; i < count; i++) {
        fixture_id(objects[i].id, first + i);
        objects[i].a = (first + i) % 50;
        objects[i].b = (uint32_t)(first + i) % 7;
        objects[i].c = (uint32_t)(first + i);
        objects[i].note[0] = (char)('a' + i % 3);
    }
}

static struct request_session sessions[2];

static void objects_write(enum event_type type, uint64_t first, uint32_t count)
{
    static uint8_t body[BODY_SIZE];
    struct fixture_object objects[BATCH_OBJECT_COUNT];
    objects_fill(objects, first, count);
    const uint32_t size = fixture_body(body, fixture.groove_id, type, objects, count);
    sessions[0].lane = (uint32_t)(first % 2);
    sessions[0].number += 1;
    fixture.session = &sessions[0];
    const enum request_result result = fixture_request(&fixture, REQUEST_KIND_WRITE, body, size);
    fixture.session = NULL;
    assert(result == REQUEST_RESULT_OK);
}

/* One index more than a fixture's: no two objects have the same number. */
static void groove_make(void)
{
    struct groove_spec spec;
    fixture_spec(&spec, "things");
    spec.indexes[spec.index_count] = (struct index_spec){
        .name = "by_number", .field_count = 1, .flags = INDEX_FLAG_UNIQUE, .fields = {2}};
    spec.index_count += 1;
    const enum request_result result =
        fixture_request(&fixture, REQUEST_KIND_GROOVE_CREATE, &spec, sizeof spec);
    assert(result == REQUEST_RESULT_OK);
    fixture.groove_id = fixture.outcome.groove_id;
}

/* One that writes, with failures, and one that never does. */
static void sessions_open(void)
{
    for (uint32_t i = 0; i < array_count(sessions); i++) {
        sessions[i] = (struct request_session){.client_id = {9, (uint8_t)i}, .uid = i};
        const enum request_result result = fixture_session_open(&fixture, &sessions[i], 2 + i, 1);
        assert(result == REQUEST_RESULT_OK);
    }
}

static void file_make(void)
{
    geometry = geometry_tiny();
    geometry.block_count_max = 4096;
    geometry.tree_count_max = 8;
    fixture_init(&fixture, &geometry);
    fixture_open(&fixture, 0, false);
    groove_make();
    sessions_open();
    for (uint64_t i = 0; i < BATCH_COUNT; i++) {
        objects_write(EVENT_TYPE_INSERT, i * BATCH_OBJECT_COUNT, BATCH_OBJECT_COUNT);
    }
    for (uint64_t i = 0; i < BATCH_COUNT; i += 3) {
        objects_write(EVENT_TYPE_REMOVE, i * BATCH_OBJECT_COUNT, BATCH_OBJECT_COUNT / 2);
    }
    fixture_pay_debt(&fixture);
    objects_write(EVENT_TYPE_INSERT, BATCH_COUNT * BATCH_OBJECT_COUNT, BATCH_OBJECT_COUNT);
    const struct superblock *superblock = (const void *)fixture.sim.bytes;
    for (uint64_t i = 0; superblock->checkpoint.spill_size == 0; i++) {
        objects_write(i % 2 == 0 ? EVENT_TYPE_UPSERT : EVENT_TYPE_INSERT, i * 7, 1);
        fixture_settle(&fixture);
    }
    fixture_close(&fixture);
    image_size = fixture.sim.size;
    image = memory_acquire(image_size);
    copy = memory_acquire(image_size);
    assert(image != NULL && copy != NULL);
    sim_io_save(&fixture.sim, image);
    file_walk();
}

/* ---- Changing it -------------------------------------------------------------------------------
 */

static uint8_t *changed_area(uint8_t kind, uint8_t which, uint32_t *size, uint32_t *header_size,
                             struct node **node)
{
    *node = NULL;
    if (kind == 0) {
        *size = offsetof(struct superblock, reserved);
        *header_size = *size;
        return copy;
    }
    if (kind == KIND_JOURNAL) {
        uint8_t *entry = copy + entries[entry_count - 1 - which % entry_count];
        *size = (uint32_t)((struct journal_header *)(void *)entry)->size;
        *header_size = JOURNAL_HEADER_SIZE;
        /* Another change may have made it impossible. */
        *size = (uint32_t)min_u64(max_u64(*size, JOURNAL_HEADER_SIZE), SECTOR_SIZE);
        return entry;
    }
    const uint8_t type = kind == KIND_SPILL ? BLOCK_TYPE_SPILL : kind;
    uint32_t left = which;
    for (int lap = 0; lap < 2; lap++) {
        uint32_t seen = 0;
        for (uint32_t i = 0; i < node_count; i++) {
            if (nodes[i].type != type) {
                continue;
            }
            if (seen == left) {
                *node = &nodes[i];
                *size = geometry.block_size;
                *header_size = BLOCK_HEADER_SIZE;
                return block_at(copy, nodes[i].address);
            }
            seen += 1;
        }
        if (seen == 0) {
            return NULL;
        }
        left %= seen;
    }
    return NULL;
}

static void change(struct fuzz_input *input)
{
    const uint8_t what = fuzz_u8(input) % KIND_COUNT;
    const uint8_t how = fuzz_u8(input);
    const uint8_t which = fuzz_u8(input);
    const uint8_t zone = fuzz_u8(input);
    uint32_t at = fuzz_u16(input);
    const uint16_t value = fuzz_u16(input);
    uint32_t size, header_size;
    struct node *node;
    uint8_t *area = changed_area(what, which, &size, &header_size, &node);
    if (area == NULL) {
        return;
    }
    if (zone == 0) {
        at %= header_size;
    } else if (zone == 1) {
        at = header_size + at % 256;
    }
    at %= size - (uint32_t)sizeof(uint64_t) + 1;
    const uint32_t value_u32 = value * 0x10001u;
    uint64_t value_u64;
    memcpy(&value_u64, area + at, sizeof value_u64);
    switch (how % 128 % 5) {
    case 0:
        area[at] ^= (uint8_t)value;
        break;
    case 1:
        area[at] = (uint8_t)value;
        break;
    case 2:
        memcpy(area + at, &value_u32, sizeof value_u32);
        break;
    case 3:
        value_u64 += (uint64_t)(int64_t)(int8_t)value;
        memcpy(area + at, &value_u64, sizeof value_u64);
        break;
    default:
        value_u64 = value;
        memcpy(area + at, &value_u64, sizeof value_u64);
        break;
    }
    if ((how & 128) != 0 && node != NULL) {
        node->damaged = true;
    }
}

/* ---- Making checksums right --------------------------------------------------------------------
 */

static void reference_mend(void *address, void *checksum)
{
    uint64_t value;
    memcpy(&value, address, sizeof value);
    const uint8_t *block = block_at(copy, value);
    if (block != NULL) {
        memcpy(checksum, &block_header_const(block)->checksum, CHECKSUM_SIZE);
    }
}

static void reference_at_mend(uint8_t *reference)
{
    reference_mend(reference, reference + sizeof(uint64_t));
}

static void node_mend(const struct node *node)
{
    uint8_t *block = block_at(copy, node->address);
    struct block_header *header = block_header(block);
    struct index_arrays arrays;
    if (node->type == BLOCK_TYPE_FREE_SET || node->type == BLOCK_TYPE_STATE ||
        node->type == BLOCK_TYPE_MANIFEST || node->type == BLOCK_TYPE_SPILL) {
        reference_at_mend(header->metadata);
    }
    if (node->type == BLOCK_TYPE_MANIFEST) {
        const uint32_t entry_max = block_body_size(&geometry) / (uint32_t)sizeof(struct table_info);
        for (uint32_t i = 0; i < header->value_count && i < entry_max; i++) {
            struct table_info *table = (struct table_info *)(void *)block_body(block) + i;
            reference_mend(&table->index.address, &table->index.checksum);
        }
    }
    if (node->type == BLOCK_TYPE_SPILL) {
        struct spill_entry *spills = (void *)block_body(block);
        for (uint32_t i = 0; i < geometry.tree_count_max; i++) {
            reference_mend(&spills[i].table.index.address, &spills[i].table.index.checksum);
        }
    }
    if (node->type == BLOCK_TYPE_INDEX && index_arrays(block, &arrays)) {
        for (int kind = 0; kind < 2; kind++) {
            for (uint32_t i = 0; i < arrays.counts[kind]; i++) {
                reference_mend(arrays.addresses[kind] + i * sizeof(uint64_t),
                               arrays.checksums[kind] + i * (size_t)CHECKSUM_SIZE);
            }
        }
    }
    if (!node->damaged) {
        header->checksum =
            checksum_of((uint8_t *)header + CHECKSUM_SIZE, geometry.block_size - CHECKSUM_SIZE);
    }
}

static void journal_mend(uint64_t seed)
{
    struct checksum parent = {{0}};
    for (uint32_t i = 0; i < entry_count; i++) {
        struct journal_header *header = (void *)(copy + entries[i]);
        const uint64_t end = journal_zone_offset(&geometry) + geometry.journal_size;
        const uint64_t size = align_up(
            min_u64(max_u64(header->size, JOURNAL_HEADER_SIZE), end - entries[i]), SECTOR_SIZE);
        if (i > 0) {
            header->parent = parent;
        }
        header->checksum_body = checksum_seeded(seed, header + 1, size - JOURNAL_HEADER_SIZE);
        header->checksum_header =
            checksum_seeded(seed, &header->checksum_body, JOURNAL_HEADER_SIZE - CHECKSUM_SIZE);
        parent = header->checksum_header;
    }
}

static void superblock_mend(void)
{
    struct superblock *superblock = (void *)copy;
    struct checkpoint_state *checkpoint = &superblock->checkpoint;
    reference_at_mend((uint8_t *)&checkpoint->free_set);
    reference_at_mend((uint8_t *)&checkpoint->state);
    reference_at_mend((uint8_t *)&checkpoint->spill);
    reference_at_mend((uint8_t *)&checkpoint->manifest_newest);
    superblock->checkpoint_id = checkpoint_id_of(checkpoint);
    superblock->checksum = checksum_of(superblock->magic, SECTOR_SIZE - 24);
    for (uint8_t i = 0; i < SUPERBLOCK_COPY_COUNT; i++) {
        struct superblock *other = (void *)(copy + i * (size_t)SECTOR_SIZE);
        memmove(other, superblock, sizeof *other);
        other->copy = i;
    }
}

static void file_change(struct fuzz_input *input)
{
    memcpy(copy, image, image_size);
    for (uint32_t i = 0; i < node_count; i++) {
        nodes[i].damaged = false;
    }
    for (int i = 0; i < CHANGE_MAX && input->size > 0; i++) {
        change(input);
    }
    for (uint32_t i = node_count; i > 0; i--) {
        node_mend(&nodes[i - 1]);
    }
    journal_mend(((const struct superblock *)(const void *)copy)->journal_seed);
    superblock_mend();
    sim_io_load(&fixture.sim, copy, image_size);
}

/* ---- Looking at it -----------------------------------------------------------------------------
 */

static void on_problem(void *context, const char *text)
{
    assert(strlen(text) > 0);
    *(bool *)context = true;
}

static void read_done(struct read_request *request)
{
    *(bool *)request->context = true;
}

static enum request_result read_one(enum read_kind kind, uint32_t groove_id, uint32_t index,
                                    const void *input, uint32_t input_size)
{
    bool done = false;
    struct read_request *request = forest_read_acquire(fixture.forest);
    assert(request != NULL);
    request->kind = kind;
    request->groove_id = groove_id;
    request->index = index;
    request->limit = 0;
    request->input = input;
    request->input_size = input_size;
    request->done = read_done;
    request->context = &done;
    forest_read_submit(fixture.forest, request);
    while (!done) {
        if (!workers_run_one(&fixture.readers)) {
            forest_tick(fixture.forest);
        }
    }
    const enum request_result result = request->result;
    forest_read_release(fixture.forest, request);
    return result;
}

/* Reads by every index of every groove. False: some of it was damaged. */
static bool read_all(void)
{
    static const uint8_t values[SECTOR_SIZE];
    struct forest_groove_info grooves[8];
    const uint32_t groove_count = forest_grooves(fixture.forest, grooves, array_count(grooves));
    bool whole = true;
    for (uint32_t i = 0; i < min_u64(groove_count, array_count(grooves)); i++) {
        const struct groove_schema *schema = grooves[i].schema;
        if (grooves[i].dropping) {
            continue;
        }
        uint8_t ids[BATCH_OBJECT_COUNT * 16];
        for (uint32_t j = 0; j < BATCH_OBJECT_COUNT; j++) {
            fixture_id(ids + j * 16, j * 37);
        }
        whole &= read_one(READ_KIND_LOOKUP, grooves[i].groove_id, READ_INDEX_NONE, ids,
                          sizeof ids) == REQUEST_RESULT_OK;
        whole &= read_one(READ_KIND_COUNT, grooves[i].groove_id, READ_INDEX_NONE, NULL, 0) ==
                 REQUEST_RESULT_OK;
        for (uint32_t j = 0; j < schema->spec.index_count; j++) {
            const uint32_t size = schema_index_values_size(schema, j);
            whole &= read_one(READ_KIND_QUERY, grooves[i].groove_id, j, values, size) ==
                     REQUEST_RESULT_OK;
            whole &= read_one(READ_KIND_COUNT, grooves[i].groove_id, j, values, size) ==
                     REQUEST_RESULT_OK;
        }
    }
    return whole;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    if (image == NULL) {
        file_make();
    }
    file_change(&input);

    struct verify_report report;
    bool complained = false;
    const enum status status =
        forest_verify(&fixture.sim.io, on_problem, NULL, &complained, &report);
    if (fixture_try_open(&fixture, 0, false)) {
        const bool whole = read_all();
        if (status == STATUS_OK && !complained) {
            assert(whole);
            if (fixture_find(&fixture)) {
                for (uint64_t i = 0; i < 10; i++) {
                    objects_write(EVENT_TYPE_UPSERT, i * 100, BATCH_OBJECT_COUNT);
                }
            }
            fixture_close(&fixture);
        } else {
            fixture_crash(&fixture, 1);
        }
    } else {
        assert(fixture.open_status != STATUS_OK);
        assert(strlen(fixture.open_reason) > 0);
    }
    return 0;
}
