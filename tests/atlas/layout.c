#include "tests/atlas/layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/lsm/manifest_log.h"
#include "engine/lsm/spill.h"
#include "engine/storage/journal.h"
#include "pool/base.h"

static void must(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "layout: %s\n", what);
        abort();
    }
}

/* Adds the block that a reference leads to, and gives its bytes. */
static const struct block_header *add(struct layout *layout, const struct image *image,
                                      const struct block_reference *reference, enum block_type type,
                                      bool spilled)
{
    const uint64_t sector = layout->grid_sector + reference->address - 1;
    must(reference->address >= 1 && sector < image->sector_count, "a reference out of the file");
    must(layout->block_count < LAYOUT_BLOCK_MAX, "too many blocks");
    const uint8_t *bytes = sector_bytes(&image->sectors[sector]);
    const struct block_header *header = block_header_const(bytes);
    must(header->type == type && header->address == reference->address &&
             memcmp(&header->checksum, &reference->checksum, sizeof header->checksum) == 0,
         "a block is not what its parent says");
    layout->blocks[layout->block_count] = (struct layout_block){
        .address = reference->address,
        .sector = sector,
        .type = type,
        .tree_id = header->tree_id,
        .spilled = spilled,
    };
    layout->block_count += 1;
    return header;
}

static struct block_reference reference_in(const struct block_header *header)
{
    struct block_reference reference;
    memcpy(&reference, header->metadata, sizeof reference);
    return reference;
}

/* Follows the chain; its content goes to `bytes` unless that is NULL. */
static void read_trailer(struct layout *layout, const struct image *image,
                         struct block_reference reference, uint64_t size, enum block_type type,
                         uint8_t *bytes)
{
    for (uint64_t done = 0; done < size;) {
        const struct block_header *header = add(layout, image, &reference, type, false);
        const uint64_t part = header->size - BLOCK_HEADER_SIZE;
        must(part <= size - done, "a trailer is too long");
        if (bytes != NULL) {
            memcpy(bytes + done, block_body_const(header), part);
        }
        done += part;
        reference = reference_in(header);
    }
    must(reference.address == 0, "a trailer does not end");
}

static struct block_reference reference_at(const uint8_t *checksums, const uint8_t *addresses,
                                           uint32_t i)
{
    struct block_reference reference;
    memcpy(&reference.checksum, checksums + (size_t)i * 16, 16);
    memcpy(&reference.address, addresses + (size_t)i * 8, 8);
    return reference;
}

static void read_table(struct layout *layout, const struct image *image,
                       const struct table_info *table, bool spilled)
{
    const struct block_header *index = add(layout, image, &table->index, BLOCK_TYPE_INDEX, spilled);
    must(index->tree_id == table->tree_id, "a table of another tree");
    const uint32_t value_count = index->value_count;
    uint32_t filter_count;
    memcpy(&filter_count, index->metadata + 20, sizeof filter_count);
    const uint8_t *checksums = block_body_const(index);
    const uint8_t *addresses = checksums + (size_t)value_count * 16;
    for (uint32_t i = 0; i < value_count; i++) {
        const struct block_reference reference = reference_at(checksums, addresses, i);
        (void)add(layout, image, &reference, BLOCK_TYPE_VALUE, spilled);
    }
    checksums = addresses + (size_t)value_count * (8 + index->key_size);
    addresses = checksums + (size_t)filter_count * 16;
    for (uint32_t i = 0; i < filter_count; i++) {
        const struct block_reference reference = reference_at(checksums, addresses, i);
        (void)add(layout, image, &reference, BLOCK_TYPE_FILTER, spilled);
    }
    must(table->block_count == 1 + value_count + filter_count, "a table's blocks");
    layout->table_count += 1;
}

/* From the newest entry to the oldest: the first that names a table decides about it. */
static void read_manifest(struct layout *layout, const struct image *image)
{
    static uint8_t decided[LAYOUT_BLOCK_MAX];
    memset(decided, 0, sizeof decided);
    const struct checkpoint_state *checkpoint = &layout->superblock.checkpoint;
    struct block_reference reference = checkpoint->manifest_newest;
    for (uint64_t i = 0; i < checkpoint->manifest_block_count; i++) {
        const struct block_header *header =
            add(layout, image, &reference, BLOCK_TYPE_MANIFEST, false);
        for (uint32_t entry = header->value_count; entry > 0; entry--) {
            struct table_info table;
            memcpy(&table, block_body_const(header) + (size_t)(entry - 1) * sizeof table,
                   sizeof table);
            must(table.index.address < sizeof decided, "too many blocks");
            if (!decided[table.index.address] && table.event != MANIFEST_EVENT_REMOVE) {
                read_table(layout, image, &table, false);
            }
            decided[table.index.address] = 1;
        }
        reference = reference_in(header);
    }
    must(layout->table_count == checkpoint->table_count, "tables");
}

static void read_spills(struct layout *layout, const struct image *image)
{
    static struct spill_entry entries[64];
    const struct checkpoint_state *checkpoint = &layout->superblock.checkpoint;
    must(checkpoint->spill_size <= sizeof entries, "too many spilled tables");
    read_trailer(layout, image, checkpoint->spill, checkpoint->spill_size, BLOCK_TYPE_SPILL,
                 (uint8_t *)entries);
    for (uint64_t i = 0; i < checkpoint->spill_size / sizeof entries[0]; i++) {
        read_table(layout, image, &entries[i].table, true);
    }
}

static void note_field(struct layout_field *fields, uint32_t *count, const char *name,
                       uint64_t sector, uint64_t offset, uint32_t size)
{
    must(*count < LAYOUT_FIELD_MAX, "too many fields");
    sector += offset / SECTOR_SIZE;
    offset %= SECTOR_SIZE;
    fields[*count] = (struct layout_field){
        .name = name,
        .sector = sector,
        .offset = (uint32_t)offset,
        .size = (uint32_t)min_u64(size, SECTOR_SIZE - offset),
    };
    *count += 1;
}

/* ---- State -------------------------------------------------------------------------------------
 */

enum { CATALOG_SIZE = 32, GROOVE_SIZE = 2056, SESSION_SIZE = 32, LANE_SIZE = 40 };

struct field_name {
    const char *name;
    uint32_t offset, size;
};
static const struct field_name session_names[] = {
    {"client_id", 0, 16},
    {"uid", 16, 4},
    {"lane_count", 20, 4},
    {"the session's timestamp", 24, 8},
};
static const struct field_name lane_names[] = {
    {"number", 0, 8},     {"commit", 8, 8},       {"timestamp", 16, 8}, {"failure_total", 24, 4},
    {"groove_id", 28, 4}, {"object_size", 32, 4}, {"kind", 36, 1},      {"failure_count", 37, 1},
};

/* The state's content, in the blocks from `block_first` on. */
struct state {
    struct layout *layout;
    uint32_t block_first;
    uint8_t bytes[128 * 1024];
    uint64_t size;
};

static uint32_t load_u32(const struct state *state, uint64_t at)
{
    uint32_t value;
    must(at + sizeof value <= state->size, "the state is too short");
    memcpy(&value, state->bytes + at, sizeof value);
    return value;
}

static struct layout_block *state_block(const struct state *state, uint64_t at, uint64_t *offset)
{
    const uint64_t capacity = SECTOR_SIZE - BLOCK_HEADER_SIZE;
    *offset = BLOCK_HEADER_SIZE + at % capacity;
    return &state->layout->blocks[state->block_first + at / capacity];
}

static void note_state_fields(struct state *state, uint64_t at, const struct field_name *names,
                              uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t offset;
        const struct layout_block *block = state_block(state, at + names[i].offset, &offset);
        note_field(state->layout->session_fields, &state->layout->session_field_count,
                   names[i].name, block->sector, offset, names[i].size);
    }
}

/* Returns where the next lane begins. */
static uint64_t read_lane(struct state *state, uint64_t at)
{
    static const struct field_name failures = {"a failure", LANE_SIZE, 8};
    must(at + LANE_SIZE <= state->size, "a lane is cut short");
    const uint32_t failure_count = state->bytes[at + 37];
    uint64_t number;
    memcpy(&number, state->bytes + at, sizeof number);
    if (number != 0) {
        note_state_fields(state, at, lane_names, array_count(lane_names));
    }
    if (failure_count > 0) {
        note_state_fields(state, at, &failures, 1);
    }
    return at + LANE_SIZE + failure_count * UINT64_C(8);
}

/* Behind the catalog. */
static void read_sessions(struct state *state)
{
    struct layout *layout = state->layout;
    uint64_t at = CATALOG_SIZE + load_u32(state, 24) * (uint64_t)GROOVE_SIZE;
    const uint64_t first = at;
    const uint32_t session_count = load_u32(state, at);
    const uint32_t lane_count = load_u32(state, at + 4);
    at += 8;
    for (; layout->session_count < session_count; layout->session_count++) {
        const uint32_t lanes = load_u32(state, at + 20);
        note_state_fields(state, at, session_names, array_count(session_names));
        at += SESSION_SIZE;
        for (uint32_t i = 0; i < lanes; i++) {
            at = read_lane(state, at);
        }
        layout->lane_count += lanes;
    }
    must(at == state->size && layout->lane_count == lane_count, "the state's sessions");
    for (at = first; at < state->size; at++) {
        uint64_t offset;
        state_block(state, at, &offset)->sessions = true;
    }
}

static void read_state(struct layout *layout, const struct image *image)
{
    static struct state state;
    const struct checkpoint_state *checkpoint = &layout->superblock.checkpoint;
    state.layout = layout;
    state.block_first = layout->block_count;
    state.size = checkpoint->state_size;
    must(state.size <= sizeof state.bytes, "the state is too long");
    read_trailer(layout, image, checkpoint->state, state.size, BLOCK_TYPE_STATE, state.bytes);
    read_sessions(&state);
}

/* ---- Journal -----------------------------------------------------------------------------------
 */

static const struct journal_header *journal_header_at(const struct layout *layout,
                                                      const struct image *image, uint64_t offset)
{
    const uint64_t sector = layout->journal_sector + offset / SECTOR_SIZE;
    return (const struct journal_header *)(const void *)sector_bytes(&image->sectors[sector]);
}

/* The headers of its requests: whose they are, and which. */
static void read_entry(struct layout *layout, const struct image *image,
                       const struct layout_entry *entry)
{
    static const struct field_name names[] = {
        {"lane", 12, 4}, {"client_id", 16, 16}, {"number", 32, 8}};
    enum { REQUEST_SIZE = 48, ENTRY_SIZE_MAX = 64 * 1024 };
    static uint8_t bytes[ENTRY_SIZE_MAX];
    must(entry->sector_count <= ENTRY_SIZE_MAX / SECTOR_SIZE, "a large entry");
    for (uint32_t i = 0; i < entry->sector_count; i++) {
        memcpy(bytes + i * SECTOR_SIZE, sector_bytes(&image->sectors[entry->sector + i]),
               SECTOR_SIZE);
    }
    uint32_t request_count;
    memcpy(&request_count, bytes + 88, sizeof request_count);
    uint64_t at = JOURNAL_HEADER_SIZE;
    for (uint32_t i = 0; i < request_count; i++) {
        uint32_t size;
        uint64_t number;
        memcpy(&size, bytes + at, sizeof size);
        memcpy(&number, bytes + at + 32, sizeof number);
        for (uint32_t k = 0; k < array_count(names) && number != 0; k++) {
            note_field(layout->numbered_fields, &layout->numbered_field_count, names[k].name,
                       entry->sector, at + names[k].offset, names[k].size);
        }
        layout->numbered_count += number != 0;
        at += REQUEST_SIZE + align_up(size, 8);
    }
}

static void read_journal(struct layout *layout, const struct image *image)
{
    const struct checkpoint_state *checkpoint = &layout->superblock.checkpoint;
    const uint64_t zone_size = layout->superblock.geometry.journal_size;
    uint64_t offset = checkpoint->journal_offset;
    for (uint64_t sequence = checkpoint->journal_sequence;; sequence++) {
        const struct journal_header *header = journal_header_at(layout, image, offset);
        if (header->sequence != sequence || header->offset != offset) {
            offset = 0; /* It did not fit before the end. */
            header = journal_header_at(layout, image, offset);
        }
        if (header->sequence != sequence || header->offset != offset) {
            return;
        }
        must(layout->entry_count < LAYOUT_ENTRY_MAX, "too many entries");
        layout->entries[layout->entry_count] = (struct layout_entry){
            .sequence = sequence,
            .offset = offset,
            .sector = layout->journal_sector + offset / SECTOR_SIZE,
            .sector_count = (uint32_t)div_ceil(header->size, SECTOR_SIZE),
            .seal = header->kind == JOURNAL_KIND_SEAL,
        };
        read_entry(layout, image, &layout->entries[layout->entry_count]);
        layout->entry_count += 1;
        offset = (offset + align_up(header->size, SECTOR_SIZE)) % zone_size;
    }
}

void layout_read(struct layout *layout, const struct image *image)
{
    memset(layout, 0, sizeof *layout);
    memcpy(&layout->superblock, sector_bytes(&image->sectors[0]), sizeof layout->superblock);
    const struct geometry *geometry = &layout->superblock.geometry;
    must(geometry->block_size == SECTOR_SIZE, "blocks are not sectors");
    layout->journal_sector = 65536 / SECTOR_SIZE;
    layout->journal_sector_count = geometry->journal_size / SECTOR_SIZE;
    layout->grid_sector = align_up(65536 + geometry->journal_size, 1024 * 1024) / SECTOR_SIZE;
    const struct checkpoint_state *checkpoint = &layout->superblock.checkpoint;
    read_trailer(layout, image, checkpoint->free_set, checkpoint->free_set_size,
                 BLOCK_TYPE_FREE_SET, NULL);
    read_state(layout, image);
    read_manifest(layout, image);
    read_spills(layout, image);
    read_journal(layout, image);
}

const struct layout_block *layout_block_at(const struct layout *layout, uint64_t sector)
{
    for (uint32_t i = 0; i < layout->block_count; i++) {
        if (layout->blocks[i].sector == sector) {
            return &layout->blocks[i];
        }
    }
    return NULL;
}

const struct layout_entry *layout_entry_at(const struct layout *layout, uint64_t sector)
{
    for (uint32_t i = 0; i < layout->entry_count; i++) {
        const struct layout_entry *entry = &layout->entries[i];
        if (sector >= entry->sector && sector < entry->sector + entry->sector_count) {
            return entry;
        }
    }
    return NULL;
}
