/* Where everything is in a file that is whole: an independent reading of docs/data-file.md. */
#pragma once

#include "engine/storage/block.h"
#include "engine/storage/superblock.h"
#include "tests/harness/disk_image.h"

enum { LAYOUT_BLOCK_MAX = 16 * 1024, LAYOUT_ENTRY_MAX = 1024, LAYOUT_FIELD_MAX = 2048 };

/* A block that the checkpoint uses. Blocks of these files are one sector each. */
struct layout_block {
    uint64_t address;
    uint64_t sector;
    enum block_type type;
    uint32_t tree_id; /* 0: of none */
    bool spilled;     /* of a table that is in no level */
    bool sessions;    /* some of the state's sessions are in it */
};

/* An entry of the journal that opening the file reads. */
struct layout_entry {
    uint64_t sequence;
    uint64_t offset; /* bytes from the start of the zone */
    uint64_t sector; /* of the file */
    uint32_t sector_count;
    bool seal;
};

/* A field that lies anywhere in a sector: as much of it as is in the first one. */
struct layout_field {
    const char *name;
    uint64_t sector;
    uint32_t offset, size;
};

struct layout {
    struct superblock superblock;
    uint64_t journal_sector, journal_sector_count;
    uint64_t grid_sector;
    struct layout_block blocks[LAYOUT_BLOCK_MAX];
    uint32_t block_count;
    struct layout_entry entries[LAYOUT_ENTRY_MAX];
    uint32_t entry_count;
    uint64_t table_count;
    uint32_t session_count, lane_count;                   /* in the checkpoint's state */
    struct layout_field session_fields[LAYOUT_FIELD_MAX]; /* of all of them, and of used lanes */
    uint32_t session_field_count;
    struct layout_field numbered_fields[LAYOUT_FIELD_MAX]; /* what numbers requests in entries */
    uint32_t numbered_field_count;
    uint32_t numbered_count; /* such requests */
};

/* Aborts when it finds what is not as documented. */
void layout_read(struct layout *layout, const struct image *image);
/* What is in this sector of the file; NULL: nothing that is needed. */
const struct layout_block *layout_block_at(const struct layout *layout, uint64_t sector);
const struct layout_entry *layout_entry_at(const struct layout *layout, uint64_t sector);
