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

static const struct journal_header *journal_header_at(const struct layout *layout,
                                                      const struct image *image, uint64_t offset)
{
    const uint64_t sector = layout->journal_sector + offset / SECTOR_SIZE;
    return (const struct journal_header *)(const void *)sector_bytes(&image->sectors[sector]);
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
    read_trailer(layout, image, checkpoint->state, checkpoint->state_size, BLOCK_TYPE_STATE, NULL);
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

const char *layout_type_name(enum block_type type)
{
    switch (type) {
    case BLOCK_TYPE_FREE_SET:
        return "free set";
    case BLOCK_TYPE_STATE:
        return "state";
    case BLOCK_TYPE_MANIFEST:
        return "manifest";
    case BLOCK_TYPE_INDEX:
        return "table index";
    case BLOCK_TYPE_VALUE:
        return "values";
    case BLOCK_TYPE_FILTER:
        return "filter";
    case BLOCK_TYPE_SPILL:
        return "spill list";
    }
    return "unknown";
}
