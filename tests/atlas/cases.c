/* All cases: every place of a file, damaged in every way. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "pool/base.h"
#include "tests/atlas/atlas.h"
#include "tests/harness/campaign.h"

static uint64_t case_count;

/* A case of one sector, whose bytes are those of the file, changed by the caller. */
struct changed {
    _Alignas(8) uint8_t bytes[SECTOR_SIZE];
};

static void take(struct changed *changed, const struct atlas_file *file, uint64_t sector)
{
    memcpy(changed->bytes, sector_bytes(&file->state.image.sectors[sector]), SECTOR_SIZE);
}

static void add_change(struct damage *damage, uint64_t sector, const struct changed *changed)
{
    damage->sectors[damage->count] = sector;
    damage->replacements[damage->count] = sector_make(&atlas_arena, changed->bytes);
    damage->count += 1;
}

static void flip(struct changed *changed, uint32_t first, uint32_t end)
{
    const uint64_t byte = prng_range(&case_chance, first, end - 1);
    changed->bytes[byte] ^= (uint8_t)(1u << prng_below(&case_chance, 8));
}

static void add_unreadable(struct damage *damage, uint64_t sector)
{
    damage->unreadable = true;
    damage->pattern = "cannot be read";
    damage->sectors[damage->count] = sector;
    damage->replacements[damage->count] = sector_unreadable();
    damage->count += 1;
}

static uint64_t arena_used;

static void begin_case(void)
{
    case_count += 1;
    prng_init(&case_chance, campaign_settings.seed * 1000003 + case_count);
    arena_used = atlas_arena.used;
}

/* Everything that a case took of the arena is given back with it. */
static void end_case(const struct atlas_file *file, const struct damage *damage)
{
    atlas_judge(file, damage, case_count);
    atlas_arena.used = arena_used;
}

/* In a quick run one of so many places gets this case. */
static bool is_due(uint64_t place, uint32_t stride)
{
    return atlas_quick == 0 || place % stride == 0;
}

static void superblock_bytes(const struct atlas_file *file)
{
    for (uint32_t copy = 0; copy < SUPERBLOCK_COPY_COUNT; copy++) {
        for (uint32_t byte = 0; byte < SECTOR_SIZE; byte++) {
            /* Quick: what is not reserved, and some of the rest; another copy for each byte. */
            if (atlas_quick != 0 &&
                (byte % SUPERBLOCK_COPY_COUNT != copy || (byte >= 384 && byte % 61 != 0))) {
                continue;
            }
            begin_case();
            struct damage damage = {.row = ROW_SUPERBLOCK_BYTE,
                                    .pattern = "a bit flips",
                                    .place = copy,
                                    .detail = byte,
                                    .verdicts = MAY_REPAIR};
            struct changed changed;
            take(&changed, file, copy);
            flip(&changed, byte, byte + 1);
            add_change(&damage, copy, &changed);
            end_case(file, &damage);
        }
    }
}

static void superblock_copies(const struct atlas_file *file)
{
    enum { INTACT, OLD, GARBAGE, ZERO };
    for (uint32_t number = 0;
         number < ATLAS_COPY_STATES * ATLAS_COPY_STATES * ATLAS_COPY_STATES * ATLAS_COPY_STATES;
         number++) {
        begin_case();
        struct damage damage = {.row = ROW_SUPERBLOCK_COPIES,
                                .pattern = "copies intact, old, garbage, zero (base 4)",
                                .detail = number};
        uint32_t counts[ATLAS_COPY_STATES] = {0};
        for (uint32_t copy = 0, rest = number; copy < SUPERBLOCK_COPY_COUNT;
             copy++, rest /= ATLAS_COPY_STATES) {
            const uint32_t kind = rest % ATLAS_COPY_STATES;
            struct changed changed;
            take(&changed, file, copy);
            if (kind == OLD) {
                atlas_must(file->older[copy].bytes != NULL, "no older superblock");
                memcpy(changed.bytes, sector_bytes(&file->older[copy]), SECTOR_SIZE);
            } else if (kind == GARBAGE) {
                prng_fill(&case_chance, changed.bytes, SECTOR_SIZE);
            } else if (kind == ZERO) {
                memset(changed.bytes, 0, SECTOR_SIZE);
            }
            counts[kind] += 1;
            add_change(&damage, copy, &changed);
        }
        /* Two old copies and no two new ones are what a crash leaves while the superblock is being
         * written: the older checkpoint is opened, if what it needs is still there, and the journal
         * leads from it to the same state. */
        damage.verdicts = counts[INTACT] == SUPERBLOCK_COPY_COUNT ? MAY_NO_EFFECT
                          : counts[INTACT] >= 2                   ? MAY_REPAIR
                          : counts[OLD] >= 2 ? MAY_REPAIR | MAY_REFUSE | MAY_NO_EFFECT
                                             : MAY_REFUSE;
        end_case(file, &damage);
    }
}

/* Each set of copies that cannot be read. */
static void superblock_unreadable(const struct atlas_file *file)
{
    for (uint32_t mask = 1; mask < 1u << SUPERBLOCK_COPY_COUNT; mask++) {
        begin_case();
        struct damage damage = {.row = ROW_SUPERBLOCK_COPIES, .detail = mask};
        for (uint32_t copy = 0; copy < SUPERBLOCK_COPY_COUNT; copy++) {
            if ((mask >> copy & 1) != 0) {
                add_unreadable(&damage, copy);
            }
        }
        damage.verdicts = damage.count <= 2 ? MAY_REPAIR : MAY_REFUSE;
        end_case(file, &damage);
    }
}

/* Writes that went astray: each slot holds the copy meant for it, or for another. A copy counts
 * only where it belongs. */
static void superblock_slots(const struct atlas_file *file)
{
    for (uint32_t number = 0;
         number < ATLAS_COPY_STATES * ATLAS_COPY_STATES * ATLAS_COPY_STATES * ATLAS_COPY_STATES;
         number++) {
        begin_case();
        struct damage damage = {.row = ROW_SUPERBLOCK_SLOTS,
                                .pattern = "whose copy is in each slot (base 4)",
                                .detail = number};
        uint32_t at_home = 0;
        for (uint32_t slot = 0, rest = number; slot < SUPERBLOCK_COPY_COUNT;
             slot++, rest /= SUPERBLOCK_COPY_COUNT) {
            struct changed changed;
            take(&changed, file, rest % SUPERBLOCK_COPY_COUNT);
            at_home += rest % SUPERBLOCK_COPY_COUNT == slot;
            add_change(&damage, slot, &changed);
        }
        damage.verdicts = at_home == SUPERBLOCK_COPY_COUNT ? MAY_NO_EFFECT
                          : at_home >= 2                   ? MAY_REPAIR
                                                           : MAY_REFUSE;
        end_case(file, &damage);
    }
}

enum pattern {
    PATTERN_FLIP,
    PATTERN_FLIP_END, /* padding, where there is some */
    PATTERN_ZERO,
    PATTERN_OLDER, /* a write that was lost */
    PATTERN_SWAP,  /* with another of its kind: two writes that went astray */
    PATTERN_TORN,
    PATTERN_ONES,
    PATTERN_FIELD, /* and on: one for each field of the header */
};
static const char *const pattern_names[] = {
    "a bit flips",    "a bit flips in the padding",       "zeroed",
    "an older write", "swapped with another of its kind", "torn between older and newer",
    "all ones",
};

struct field {
    const char *name;
    uint32_t offset, size;
};
#define FIELD(type, name)                                                                          \
    {                                                                                              \
#name, offsetof(struct type, name), sizeof(((struct type *)NULL)->name)                    \
    }
static const struct field block_fields[] = {
    FIELD(block_header, checksum),   FIELD(block_header, address),
    FIELD(block_header, op),         FIELD(block_header, size),
    FIELD(block_header, tree_id),    FIELD(block_header, key_size),
    FIELD(block_header, value_size), FIELD(block_header, value_count),
    FIELD(block_header, type),       FIELD(block_header, version),
    FIELD(block_header, zero),       FIELD(block_header, metadata),
};
static const struct field journal_fields[] = {
    FIELD(journal_header, checksum_header), FIELD(journal_header, checksum_body),
    FIELD(journal_header, parent),          FIELD(journal_header, sequence),
    FIELD(journal_header, offset),          FIELD(journal_header, size),
    FIELD(journal_header, commit),          FIELD(journal_header, timestamp),
    FIELD(journal_header, request_count),   FIELD(journal_header, kind),
    FIELD(journal_header, flags),           FIELD(journal_header, zero),
};

/* Changes one sector after a pattern; `other` is the sector to swap with, or 0; `used` its bytes in
 * use. False: the pattern does not apply. */
static bool apply_pattern(struct damage *damage, const struct atlas_file *file, uint64_t sector,
                          uint64_t other, uint32_t used, uint32_t pattern,
                          const struct field *fields, uint32_t field_count)
{
    struct changed changed;
    take(&changed, file, sector);
    damage->place = sector;
    damage->pattern =
        pattern < PATTERN_FIELD ? pattern_names[pattern] : fields[pattern - PATTERN_FIELD].name;
    const uint8_t *older = sector_bytes(&file->older[sector]);
    switch (pattern) {
    case PATTERN_FLIP:
        flip(&changed, 0, used);
        break;
    case PATTERN_FLIP_END:
        if (used == SECTOR_SIZE) {
            return false;
        }
        flip(&changed, used, SECTOR_SIZE);
        break;
    case PATTERN_ZERO:
        memset(changed.bytes, 0, SECTOR_SIZE);
        break;
    case PATTERN_OLDER:
        memcpy(changed.bytes, older, SECTOR_SIZE);
        break;
    case PATTERN_SWAP: {
        if (other == 0) {
            return false;
        }
        struct changed partner;
        take(&partner, file, other);
        add_change(damage, other, &changed);
        add_change(damage, sector, &partner);
        return true;
    }
    case PATTERN_TORN:
        for (uint32_t piece = 0; piece < SECTOR_SIZE; piece += 512) {
            if (prng_chance(&case_chance, 1, 2)) {
                memcpy(changed.bytes + piece, older + piece, 512);
            }
        }
        break;
    case PATTERN_ONES:
        memset(changed.bytes, 0xff, SECTOR_SIZE);
        break;
    default: {
        const struct field *field = &fields[pattern - PATTERN_FIELD];
        if (pattern - PATTERN_FIELD >= field_count) {
            return false;
        }
        flip(&changed, field->offset, field->offset + field->size);
        break;
    }
    }
    add_change(damage, sector, &changed);
    return true;
}

/* Calls for the patterns of the place of this number: all, or one. */
static bool pattern_is_due(uint32_t pattern, uint32_t pattern_count, uint64_t place)
{
    return atlas_quick == 0 || place % pattern_count == pattern;
}

/* Of damage to this entry: the row, and what may come of it. */
static struct damage journal_damage(const struct layout *layout, const struct layout_entry *entry)
{
    const bool newest = entry == &layout->entries[layout->entry_count - 1];
    return (struct damage){
        .row = !newest       ? ROW_JOURNAL_ENTRY
               : entry->seal ? ROW_JOURNAL_SEAL
                             : ROW_JOURNAL_LAST,
        .verdicts = !newest       ? MAY_REFUSE
                    : entry->seal ? MAY_NO_EFFECT
                                  : MAY_DROP,
    };
}

static void journal_sector(const struct atlas_file *file, const struct layout_entry *entry,
                           uint32_t part, uint32_t pattern)
{
    const struct layout *layout = &file->layout;
    const struct layout_entry *newest = &layout->entries[layout->entry_count - 1];
    begin_case();
    struct damage damage = journal_damage(layout, entry);
    damage.detail = part;
    const struct layout_entry *other =
        &layout->entries[prng_below(&case_chance, layout->entry_count)];
    if (entry + 1 >= newest && other + 1 >= newest) {
        other = entry; /* Both gone, the journal seems to end before them. */
    }
    if (pattern == PATTERN_SWAP && other != entry) {
        damage.verdicts = MAY_REFUSE;
        damage.row = ROW_JOURNAL_ENTRY;
    }
    if (apply_pattern(&damage, file, entry->sector + part, other != entry ? other->sector : 0,
                      part == 0 ? JOURNAL_HEADER_SIZE : SECTOR_SIZE, pattern, journal_fields,
                      array_count(journal_fields))) {
        end_case(file, &damage);
    }
}

static void journal_entries(const struct atlas_file *file)
{
    const struct layout *layout = &file->layout;
    const uint32_t pattern_count = PATTERN_FIELD + (uint32_t)array_count(journal_fields);
    for (uint32_t i = 0; i < layout->entry_count; i++) {
        const struct layout_entry *entry = &layout->entries[i];
        for (uint32_t part = 0; part < entry->sector_count; part++) {
            for (uint32_t pattern = 0; pattern < pattern_count; pattern++) {
                /* The newest entries are few, and the most interesting ones: all patterns. */
                if ((i + 2 < layout->entry_count &&
                     !pattern_is_due(pattern, pattern_count, i + part)) ||
                    (pattern >= PATTERN_FIELD && part != 0)) {
                    continue;
                }
                journal_sector(file, entry, part, pattern);
            }
        }
    }
}

/* Every sector of the ring, for each is looked at before the journal's end is believed: what cannot
 * be read may be what proves it wrong. */
static void journal_unreadable(const struct atlas_file *file)
{
    const struct layout *layout = &file->layout;
    for (uint64_t i = 0; i < layout->journal_sector_count; i++) {
        const uint64_t sector = layout->journal_sector + i;
        const struct layout_entry *entry = layout_entry_at(layout, sector);
        if (entry == NULL && !is_due(i, 16)) {
            continue;
        }
        begin_case();
        struct damage damage = {.row = ROW_JOURNAL_REST};
        if (entry != NULL) {
            damage = journal_damage(layout, entry);
        }
        damage.verdicts = MAY_REFUSE;
        damage.place = sector;
        add_unreadable(&damage, sector);
        end_case(file, &damage);
    }
}

/* A bit of a field that lies anywhere. */
static void flip_field(const struct atlas_file *file, const struct layout_field *field,
                       struct damage *damage)
{
    struct changed changed;
    take(&changed, file, field->sector);
    flip(&changed, field->offset, field->offset + field->size);
    damage->pattern = field->name;
    damage->place = field->sector;
    damage->detail = field->offset;
    add_change(damage, field->sector, &changed);
    end_case(file, damage);
}

/* What says whose request it is, and which: in the journal, and in the checkpoint's sessions. */
static void session_fields(const struct atlas_file *file)
{
    const struct layout *layout = &file->layout;
    for (uint32_t i = 0; i < layout->numbered_field_count; i++) {
        const struct layout_field *field = &layout->numbered_fields[i];
        begin_case();
        struct damage damage = journal_damage(layout, layout_entry_at(layout, field->sector));
        damage.row = damage.row == ROW_JOURNAL_ENTRY ? ROW_JOURNAL_NUMBERED : damage.row;
        flip_field(file, field, &damage);
    }
    for (uint32_t i = 0; i < layout->session_field_count; i++) {
        const struct layout_field *field = &layout->session_fields[i];
        begin_case();
        struct damage damage = {
            .row = ROW_SESSIONS,
            .addresses = {layout_block_at(layout, field->sector)->address},
            .verdicts = MAY_REFUSE,
        };
        flip_field(file, field, &damage);
    }
}

/* The ring as it was at format, as it was a lap ago, and as another file's: nothing in it can be
 * told from the end of a journal but by what the checkpoint needs of it. */
static void journal_gone(const struct atlas_file *file)
{
    enum { ZEROED, OLDER, GARBAGE, UNREADABLE };
    static const char *const names[] = {"zeroed", "an older write", "garbage", "cannot be read"};
    const struct layout *layout = &file->layout;
    atlas_must(layout->journal_sector_count <= DAMAGE_MAX, "the ring is larger than a case");
    for (uint32_t kind = 0; kind < array_count(names); kind++) {
        begin_case();
        struct damage damage = {.row = ROW_JOURNAL_GONE,
                                .pattern = names[kind],
                                .place = layout->journal_sector,
                                .verdicts = MAY_REFUSE};
        for (uint64_t i = 0; i < layout->journal_sector_count; i++) {
            const uint64_t sector = layout->journal_sector + i;
            struct changed changed = {0};
            if (kind == UNREADABLE) {
                add_unreadable(&damage, sector);
                continue;
            }
            if (kind == OLDER) {
                memcpy(changed.bytes, sector_bytes(&file->older[sector]), SECTOR_SIZE);
            } else if (kind == GARBAGE) {
                prng_fill(&case_chance, changed.bytes, SECTOR_SIZE);
            }
            add_change(&damage, sector, &changed);
        }
        end_case(file, &damage);
    }
}

static enum row row_of(const struct layout_block *block)
{
    switch (block->type) {
    case BLOCK_TYPE_FREE_SET:
        return ROW_FREE_SET;
    case BLOCK_TYPE_STATE:
        return block->sessions ? ROW_SESSIONS : ROW_CATALOG;
    case BLOCK_TYPE_MANIFEST:
        return ROW_MANIFEST;
    case BLOCK_TYPE_SPILL:
        return ROW_SPILL;
    case BLOCK_TYPE_INDEX:
        return block->spilled ? ROW_SPILLED_TABLE : ROW_INDEX;
    case BLOCK_TYPE_VALUE:
        return block->spilled ? ROW_SPILLED_TABLE : ROW_VALUE;
    case BLOCK_TYPE_FILTER:
        return block->spilled ? ROW_SPILLED_TABLE : ROW_FILTER;
    }
    abort();
}

/* What opening needs is refused when it is damaged; a table's blocks may also stop a replay. The
 * filters of spilled tables are for nobody but verify. */
static uint32_t verdicts_of(const struct layout_block *block)
{
    switch (row_of(block)) {
    case ROW_INDEX:
    case ROW_VALUE:
    case ROW_FILTER:
        return MAY_CONTAIN | MAY_REFUSE;
    case ROW_SPILLED_TABLE:
        return block->type == BLOCK_TYPE_FILTER ? MAY_CONTAIN : MAY_REFUSE;
    default:
        return MAY_REFUSE;
    }
}

/* Another block of the same type, if there is one. */
static const struct layout_block *block_alike(const struct layout *layout,
                                              const struct layout_block *block)
{
    const uint32_t first = (uint32_t)prng_below(&case_chance, layout->block_count);
    for (uint32_t i = 0; i < layout->block_count; i++) {
        const struct layout_block *other = &layout->blocks[(first + i) % layout->block_count];
        if (other != block && other->type == block->type) {
            return other;
        }
    }
    return NULL;
}

static void blocks(const struct atlas_file *file)
{
    const struct layout *layout = &file->layout;
    const uint32_t pattern_count = PATTERN_FIELD + (uint32_t)array_count(block_fields);
    for (uint32_t i = 0; i < layout->block_count; i++) {
        const struct layout_block *block = &layout->blocks[i];
        const struct block_header *header =
            block_header_const(sector_bytes(&file->state.image.sectors[block->sector]));
        for (uint32_t pattern = 0; pattern < pattern_count; pattern++) {
            /* Of what opening needs there are few blocks: several patterns of each. */
            const bool table = (verdicts_of(block) & MAY_CONTAIN) != 0 || block->spilled;
            if (!pattern_is_due(pattern, pattern_count, i) && (table || pattern % 4 != i % 4)) {
                continue;
            }
            begin_case();
            struct damage damage = {.row = row_of(block),
                                    .addresses = {block->address},
                                    .verdicts = verdicts_of(block)};
            const struct layout_block *other = block_alike(layout, block);
            if (pattern == PATTERN_SWAP && other != NULL) {
                damage.addresses[1] = other->address;
                damage.verdicts |= verdicts_of(other);
            }
            if (apply_pattern(&damage, file, block->sector, other != NULL ? other->sector : 0,
                              header->size, pattern, block_fields, array_count(block_fields))) {
                end_case(file, &damage);
            }
        }
    }
}

/* Quick: what opening needs, and some of the tables. */
static void blocks_unreadable(const struct atlas_file *file)
{
    const struct layout *layout = &file->layout;
    for (uint32_t i = 0; i < layout->block_count; i++) {
        const struct layout_block *block = &layout->blocks[i];
        if ((verdicts_of(block) & MAY_CONTAIN) != 0 && !is_due(i, 8)) {
            continue;
        }
        begin_case();
        struct damage damage = {.row = row_of(block),
                                .place = block->sector,
                                .addresses = {block->address},
                                .verdicts = verdicts_of(block)};
        add_unreadable(&damage, block->sector);
        end_case(file, &damage);
    }
}

/* Sectors that nothing needs: garbage in them, what they held before, and nothing at all. */
static void unused(const struct atlas_file *file)
{
    const struct layout *layout = &file->layout;
    const uint64_t journal_end = layout->journal_sector + layout->journal_sector_count;
    for (uint64_t sector = SUPERBLOCK_COPY_COUNT; sector < file->state.image.sector_count;
         sector++) {
        if (layout_block_at(layout, sector) != NULL || layout_entry_at(layout, sector) != NULL ||
            !is_due(sector, 16)) {
            continue;
        }
        const bool journal = sector >= layout->journal_sector && sector < journal_end;
        for (int older = 0; older <= 1; older++) {
            begin_case();
            struct damage damage = {.row = journal ? ROW_JOURNAL_REST : ROW_UNUSED,
                                    .pattern = older == 1 ? "an older write" : "garbage",
                                    .place = sector,
                                    .verdicts = MAY_NO_EFFECT};
            struct changed changed;
            prng_fill(&case_chance, changed.bytes, SECTOR_SIZE);
            if (older == 1) {
                memcpy(changed.bytes, sector_bytes(&file->older[sector]), SECTOR_SIZE);
            }
            add_change(&damage, sector, &changed);
            end_case(file, &damage);
        }
        if (!journal && is_due(sector, 256)) {
            begin_case();
            struct damage damage = {.row = ROW_UNUSED, .place = sector, .verdicts = MAY_NO_EFFECT};
            add_unreadable(&damage, sector);
            end_case(file, &damage);
        }
    }
}

void atlas_all_cases(const struct atlas_file *file)
{
    superblock_bytes(file);
    superblock_copies(file);
    superblock_slots(file);
    superblock_unreadable(file);
    journal_entries(file);
    journal_gone(file);
    journal_unreadable(file);
    session_fields(file);
    blocks(file);
    blocks_unreadable(file);
    unused(file);
}
