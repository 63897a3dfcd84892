/* What the parts of holt_atlas share: the files, and one case of damage to one of them. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "tests/atlas/layout.h"
#include "tests/harness/model_driver.h"

enum {
    ATLAS_SECTOR_MAX = 16 * 1024,
    ATLAS_FILE_COUNT = 2,
    ATLAS_COPY_STATES = 4,
    DAMAGE_MAX = 1024, /* sectors of one case: the whole ring */
};

struct atlas_file {
    const char *name;
    struct driver_state state;
    struct layout layout;
    struct sector older[ATLAS_SECTOR_MAX]; /* what a sector held before, if something else */
};

/* ROW(name, text) */
#define ATLAS_ROWS(ROW)                                                                            \
    ROW(SUPERBLOCK_BYTE, "superblock: a byte of a copy")                                           \
    ROW(SUPERBLOCK_COPIES, "superblock: states of the copies")                                     \
    ROW(SUPERBLOCK_SLOTS, "superblock: copies in others' slots")                                   \
    ROW(JOURNAL_ENTRY, "journal: an entry with others behind it")                                  \
    ROW(JOURNAL_NUMBERED, "journal: what numbers a request")                                       \
    ROW(JOURNAL_LAST, "journal: the last entry, not sealed")                                       \
    ROW(JOURNAL_SEAL, "journal: the seal")                                                         \
    ROW(JOURNAL_GONE, "journal: the whole ring")                                                   \
    ROW(JOURNAL_REST, "journal: the rest of the ring")                                             \
    ROW(FREE_SET, "grid: free set")                                                                \
    ROW(CATALOG, "grid: state, the catalog")                                                       \
    ROW(SESSIONS, "grid: state, the sessions")                                                     \
    ROW(MANIFEST, "grid: manifest")                                                                \
    ROW(INDEX, "grid: table index")                                                                \
    ROW(VALUE, "grid: values")                                                                     \
    ROW(FILTER, "grid: filter")                                                                    \
    ROW(SPILL, "grid: list of spilled tables")                                                     \
    ROW(SPILLED_TABLE, "grid: a spilled table")                                                    \
    ROW(UNUSED, "free blocks, and between the zones")

enum row {
#define ROW(name, text) ROW_##name,
    ATLAS_ROWS(ROW)
#undef ROW
        ROW_COUNT,
};

enum verdict {
    VERDICT_NO_EFFECT,
    VERDICT_REPAIRED,
    VERDICT_REFUSED,
    VERDICT_CONTAINED,
    VERDICT_UNREAD,
    VERDICT_DROPPED,
    VERDICT_COUNT,
};
/* Sets of those that are right. */
enum {
    MAY_NO_EFFECT = 1 << VERDICT_NO_EFFECT,
    MAY_REPAIR = 1 << VERDICT_REPAIRED,
    MAY_REFUSE = 1 << VERDICT_REFUSED,
    MAY_CONTAIN = 1 << VERDICT_CONTAINED | 1 << VERDICT_UNREAD,
    MAY_DROP = 1 << VERDICT_DROPPED,
};

struct damage {
    enum row row;
    const char *pattern;
    bool unreadable; /* the sectors have no bytes, reading them fails */
    uint64_t place;  /* sector, and */
    uint32_t detail; /* byte or field, for the report */
    uint64_t sectors[DAMAGE_MAX];
    struct sector replacements[DAMAGE_MAX];
    uint32_t count;
    uint64_t addresses[2]; /* of the damaged blocks; 0: none */
    uint32_t verdicts;     /* those that are right */
};

enum atlas_counter {
    COUNTER_DAMAGED = 0, /* and one for each row and verdict; likewise: */
    COUNTER_UNREADABLE = ROW_COUNT * VERDICT_COUNT,
    COUNTER_CHURNED = 2 * ROW_COUNT * VERDICT_COUNT, /* written over, after that */
    COUNTER_CHURN_REFUSED,                           /* of those, now read-only */
    COUNTER_RETRIED,                                 /* numbered requests that were dropped */
    COUNTER_COUNT,
};

/* The forest that looks at damaged files. */
extern struct model_driver checker;
extern struct sector_arena atlas_arena;
extern uint64_t atlas_quick;    /* one pattern a place */
extern struct prng case_chance; /* seeded for each case */

const char *atlas_row_name(enum row row);
const char *atlas_verdict_name(enum verdict verdict);
void atlas_must(bool condition, const char *what);

/* cases.c: damages every place of the file, case by case. */
void atlas_all_cases(const struct atlas_file *file);
/* judge.c: verifies, opens and reads the damaged file; fails unless the verdict is right. */
void atlas_judge(const struct atlas_file *file, const struct damage *damage, uint64_t number);
