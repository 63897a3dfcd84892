/* holt_atlas: every part of a closed file is damaged in turn, and the file is opened and read.
 *
 * The files: one stopped cleanly, one left by a crash, each with three grooves, tables at several
 * levels, spilled tables, and a ring that has gone round. layout.h says what is where. Of each case
 * the verdict must be the right one:
 *
 *   no effect   nothing that is needed was damaged, and nothing is said to be
 *   repaired    a superblock copy: rewritten as it was
 *   refused     the file does not open, and the reason names the place
 *   contained   it opens; reads that need the block say CORRUPT and its address, others are right
 *   unread      it opens, and no read needs the block
 *   dropped     the one case that cannot be told from a torn write: the last entry of a journal
 *               that was not sealed
 *
 * and never a wrong answer, nor an answer without what was acknowledged. `forest_verify` must name
 * the block before the file is opened. Of damaged tables, some are then written over until merges
 * meet the damage: still nothing may be wrong, and nothing damaged may come back under a new
 * checksum. */
#include <assert.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/forest_internal.h"
#include "pool/base.h"
#include "pool/log.h"
#include "tests/atlas/layout.h"
#include "tests/harness/model_driver.h"
#include "tests/harness/processes.h"

enum {
    SECTOR_MAX = 16 * 1024,
    EVENT_MAX = 64 * 1024,
    ENTRY_MAX = 1024 * 1024,
    FILE_COUNT = 2,
    FAILURE_MAX = 10,
    DAMAGE_MAX = 1024, /* sectors of one case: the whole ring */
    COPY_STATES = 4,
};

static const uint64_t arena_size = UINT64_C(4) << 30; /* of address space */

static struct settings {
    uint64_t seed;
    uint32_t process_count;
    bool quick;    /* one pattern a place */
    uint64_t only; /* the one case to look at, counted from 1; 0: all */
} settings = {.seed = 1, .process_count = 2};

enum row {
    ROW_SUPERBLOCK_BYTE,
    ROW_SUPERBLOCK_COPIES,
    ROW_SUPERBLOCK_SLOTS,
    ROW_JOURNAL_ENTRY,
    ROW_JOURNAL_LAST,
    ROW_JOURNAL_SEAL,
    ROW_JOURNAL_GONE,
    ROW_JOURNAL_REST,
    ROW_FREE_SET,
    ROW_STATE,
    ROW_MANIFEST,
    ROW_INDEX,
    ROW_VALUE,
    ROW_FILTER,
    ROW_SPILL,
    ROW_SPILLED_TABLE,
    ROW_UNUSED,
    ROW_COUNT,
};
static const char *const row_names[ROW_COUNT] = {
    "superblock: a byte of a copy",
    "superblock: states of the copies",
    "superblock: copies in others' slots",
    "journal: an entry with others behind it",
    "journal: the last entry, not sealed",
    "journal: the seal",
    "journal: the whole ring",
    "journal: the rest of the ring",
    "grid: free set",
    "grid: state",
    "grid: manifest",
    "grid: table index",
    "grid: values",
    "grid: filter",
    "grid: list of spilled tables",
    "grid: a spilled table",
    "free blocks, and between the zones",
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
static const char *const verdict_names[VERDICT_COUNT] = {
    "no effect", "repaired", "refused", "contained", "unread", "dropped",
};

struct findings {
    uint64_t counts[ROW_COUNT][VERDICT_COUNT];
    uint64_t failures, churned, churn_refused;
    char looking_at[512];
};
static struct findings *findings; /* [PROCESS_COUNT_MAX] */
static struct findings *mine;

struct atlas_file {
    const char *name;
    struct driver_state state;
    struct layout layout;
    struct sector older[SECTOR_MAX]; /* what a sector held before, if that was something else */
};
static struct atlas_file files[FILE_COUNT];

static struct model_store store;
static struct sector_arena arena;
static struct model_driver checker;
static struct prng chance; /* seeded for each case */

static void must(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "atlas: %s: %s\n", what, checker.fixture.open_reason);
        abort();
    }
}

/* ---- The files ---------------------------------------------------------------------------------
 */

static void write_some(struct model_driver *driver, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t numbers[4];
        const uint32_t first = (uint32_t)prng_below(&driver->prng, 240);
        for (uint32_t j = 0; j < 4; j++) {
            numbers[j] = first + j;
        }
        for (uint32_t groove = 0; groove < MODEL_GROOVE_MAX; groove++) {
            const bool remove = prng_chance(&driver->prng, 1, 4);
            (void)driver_write(driver, groove, remove ? EVENT_TYPE_REMOVE : EVENT_TYPE_UPSERT,
                               numbers, 4);
        }
    }
}

static void note_older(struct atlas_file *file, const struct trace *trace)
{
    static struct sector present[SECTOR_MAX];
    memset(present, 0, sizeof present);
    for (uint64_t i = 0; i < trace->event_count; i++) {
        const struct trace_event *event = &trace->events[i];
        for (uint32_t j = 0; j < event->count; j++) {
            const uint64_t sector = event->index + j;
            if (event->sectors[j].hash != present[sector].hash) {
                file->older[sector] = present[sector];
                present[sector] = event->sectors[j];
            }
        }
    }
}

static void make_file(struct atlas_file *file, const char *name, bool sealed)
{
    static struct trace trace;
    struct model_driver *driver = &checker;
    file->name = name;
    driver_init(driver, &arena, SECTOR_MAX, &store, settings.seed);
    trace_init(&trace, SECTOR_MAX, EVENT_MAX);
    image_io_record(&driver->disk, &trace, &driver->acknowledged, &driver->issued);
    must(fixture_try_open(&driver->fixture, 0, false), "open");
    for (uint32_t groove = 0; groove < MODEL_GROOVE_MAX; groove++) {
        driver_create(driver, groove);
    }
    for (uint32_t first = 0; first < 1200; first += 4) {
        const uint32_t numbers[4] = {first, first + 1, first + 2, first + 3};
        (void)driver_write(driver, first < 600 ? 0 : 1, EVENT_TYPE_INSERT, numbers, 4);
    }
    for (uint32_t i = 0; i < 6; i++) {
        write_some(driver, 8);
        driver_checkpoint(driver, true);
    }
    for (uint32_t i = 0; i < 30; i++) { /* Bars of little: their checkpoints spill. */
        const uint32_t number = (uint32_t)prng_below(&driver->prng, 240);
        (void)driver_write(driver, i % MODEL_GROOVE_MAX, EVENT_TYPE_UPSERT, &number, 1);
    }
    driver_settle(driver);
    if (sealed) {
        forest_seal(driver->fixture.forest);
        driver_settle(driver);
    }
    driver_save(driver, &file->state);
    image_io_record_end(&driver->disk);
    note_older(file, &trace);
    layout_read(&file->layout, &file->state.image);
    const struct layout *layout = &file->layout;
    struct forest_stats stats;
    forest_stats(driver->fixture.forest, &stats);
    printf("%s: %u blocks in use, %" PRIu64 " tables, by level %" PRIu64 " %" PRIu64 " %" PRIu64
           ", %" PRIu64 " bytes of spilled tables, %u entries to replay\n",
           name, layout->block_count, layout->table_count, stats.tables_by_level[0],
           stats.tables_by_level[1], stats.tables_by_level[2],
           layout->superblock.checkpoint.spill_size, layout->entry_count);
    must(stats.tables_by_level[0] > 0 && stats.tables_by_level[1] > 0, "fewer than two levels");
    must(layout->superblock.checkpoint.spill_size > 0, "nothing was spilled");
    must(layout->superblock.checkpoint.manifest_block_count > 1, "one manifest block");
    must(layout->entry_count > 2 && layout->entries[layout->entry_count - 1].seal == sealed,
         "the end of the journal");
    trace_deinit(&trace);
    driver_deinit(driver);
}

/* ---- One case ----------------------------------------------------------------------------------
 */

struct damage {
    enum row row;
    const char *pattern;
    uint64_t place;  /* sector, and */
    uint32_t detail; /* byte or field, for the report */
    uint64_t sectors[DAMAGE_MAX];
    struct sector replacements[DAMAGE_MAX];
    uint32_t count;
    uint64_t addresses[2]; /* of the damaged blocks; 0: none */
    uint32_t verdicts;     /* bit set of those that are right */
};

enum {
    MAY_NO_EFFECT = 1 << VERDICT_NO_EFFECT,
    MAY_REPAIR = 1 << VERDICT_REPAIRED,
    MAY_REFUSE = 1 << VERDICT_REFUSED,
    MAY_CONTAIN = 1 << VERDICT_CONTAINED | 1 << VERDICT_UNREAD,
    MAY_DROP = 1 << VERDICT_DROPPED,
};

struct verify_notes {
    uint64_t problems;
    bool named; /* one of them names a damaged block */
    char first[200];
    const struct damage *damage;
};

static bool names_address(const char *text, const uint64_t addresses[2])
{
    for (int i = 0; i < 2; i++) {
        char name[40];
        const int size = snprintf(name, sizeof name, "address %" PRIu64, addresses[i]);
        const char *found = addresses[i] == 0 ? NULL : strstr(text, name);
        while (found != NULL && found[size] >= '0' && found[size] <= '9') {
            found = strstr(found + 1, name); /* A longer number. */
        }
        if (found != NULL) {
            return true;
        }
    }
    return false;
}

static void on_problem(void *context, const char *text)
{
    struct verify_notes *notes = context;
    if (notes->problems == 0) {
        snprintf(notes->first, sizeof notes->first, "%s", text);
    }
    notes->problems += 1;
    notes->named |= names_address(text, notes->damage->addresses);
}

static void fail(const char *why)
{
    printf("FAILED: %s\n        %s\n", why, mine->looking_at);
    fflush(stdout);
    mine->failures += 1;
    if (mine->failures >= FAILURE_MAX) {
        exit(1);
    }
}

/* What the reason of a refusal must say. */
static bool names_place(const struct damage *damage, const char *reason)
{
    if (damage->addresses[0] != 0) {
        return names_address(reason, damage->addresses);
    }
    if (damage->row <= ROW_SUPERBLOCK_SLOTS) {
        /* On an older checkpoint whose blocks or entries are gone: these are named. */
        return strstr(reason, "superblock") != NULL || strstr(reason, "journal: entry") != NULL ||
               strstr(reason, "address") != NULL;
    }
    return strstr(reason, "journal: entry") != NULL && strstr(reason, "offset") != NULL;
}

/* Whether `forest_verify`, which changes nothing, sees what there is to see. */
static const char *verify_first(const struct damage *damage, char *why, size_t why_size)
{
    struct verify_notes notes = {.damage = damage};
    struct verify_report report;
    const enum status status = forest_verify(&checker.disk.io, on_problem, NULL, &notes, &report);
    const bool clean = status == STATUS_OK && notes.problems == 0;
    if (damage->addresses[0] != 0 && !notes.named) {
        snprintf(why, why_size, "verify does not name the block: %llu problems; %s",
                 (unsigned long long)notes.problems, notes.first);
        return why;
    }
    if (damage->verdicts == MAY_NO_EFFECT && !clean) {
        snprintf(why, why_size, "verify finds what is not wrong: %s", notes.first);
        return why;
    }
    if (damage->verdicts == MAY_REFUSE && clean) {
        return "verify finds nothing";
    }
    return NULL;
}

/* Writes until merges have met everything, then stops and opens again. Refusals are in order. */
static const char *churn(const struct damage *damage, struct model_check *check)
{
    mine->churned += 1;
    checker.may_refuse = true;
    for (uint32_t i = 0; i < 40; i++) {
        uint32_t numbers[4];
        const uint32_t first = (uint32_t)prng_below(&chance, i % 2 == 0 ? 240 : 1200);
        for (uint32_t j = 0; j < 4; j++) {
            numbers[j] = first + j;
        }
        const enum request_result result =
            driver_write(&checker, i % MODEL_GROOVE_MAX,
                         i % 5 == 4 ? EVENT_TYPE_REMOVE : EVENT_TYPE_UPSERT, numbers, 4);
        if (result == REQUEST_RESULT_READ_ONLY) {
            mine->churn_refused += 1;
            break;
        }
        if (result != REQUEST_RESULT_OK && result != REQUEST_RESULT_CORRUPT) {
            return "a write is refused for another reason than damage";
        }
    }
    driver_settle(&checker);
    checker.may_refuse = false;
    if (!model_compare(&checker.model, atomic_load(&checker.issued), &checker.fixture, check)) {
        return check->reason;
    }
    image_io_kill(&checker.disk);
    forest_reset(checker.fixture.forest);
    image_io_revive(&checker.disk);
    if (!fixture_try_reopen(&checker.fixture)) {
        snprintf(check->reason, sizeof check->reason, "later: %.200s", checker.fixture.open_reason);
        return names_place(damage, checker.fixture.open_reason) ? NULL : check->reason;
    }
    return model_compare(&checker.model, atomic_load(&checker.issued), &checker.fixture, check)
               ? NULL
               : check->reason;
}

/* Opens and reads. NULL, or what is wrong; else *verdict. */
static const char *open_and_read(const struct atlas_file *file, const struct damage *damage,
                                 struct model_check *check, enum verdict *verdict)
{
    if (!fixture_try_reopen(&checker.fixture)) {
        *verdict = VERDICT_REFUSED;
        if (!names_place(damage, checker.fixture.open_reason)) {
            snprintf(check->reason, sizeof check->reason, "the refusal names another place: %.200s",
                     checker.fixture.open_reason);
            return check->reason;
        }
        return NULL;
    }
    const uint64_t commit = checker.fixture.forest->commit_durable;
    const bool dropped = commit + 1 == file->state.commit && (damage->verdicts & MAY_DROP) != 0;
    if (commit != file->state.commit && !dropped) {
        snprintf(check->reason, sizeof check->reason,
                 "it opens to commit %" PRIu64 ", not %" PRIu64, commit, file->state.commit);
        return check->reason;
    }
    model_branch(&checker.model, &file->state.model, commit);
    atomic_store(&checker.issued, commit);
    atomic_store(&checker.acknowledged, commit);
    check->may_be_corrupt = damage->addresses[0] != 0;
    memcpy(check->damaged, damage->addresses, sizeof check->damaged);
    if (!model_compare(&checker.model, commit, &checker.fixture, check)) {
        return check->reason;
    }
    const bool repaired = checker.fixture.open_report.copies_repaired > 0;
    *verdict = dropped                     ? VERDICT_DROPPED
               : check->corrupt_reads > 0  ? VERDICT_CONTAINED
               : damage->addresses[0] != 0 ? VERDICT_UNREAD
               : repaired                  ? VERDICT_REPAIRED
                                           : VERDICT_NO_EFFECT;
    for (uint32_t i = 0; i < damage->count && damage->row == ROW_SUPERBLOCK_BYTE; i++) {
        const uint64_t sector = damage->sectors[i];
        if (checker.disk.image.sectors[sector].hash != file->state.image.sectors[sector].hash) {
            return "the copy was rewritten, but not as it was";
        }
    }
    return NULL;
}

static void run_case(const struct atlas_file *file, const struct damage *damage, uint64_t number)
{
    if (number % settings.process_count != (uint64_t)(mine - findings) ||
        (settings.only != 0 && settings.only != number)) {
        return;
    }
    static struct image image;
    if (image.sectors == NULL) {
        image_init(&image, SECTOR_MAX);
    }
    image_copy(&image, &file->state.image);
    for (uint32_t i = 0; i < damage->count; i++) {
        image_set(&image, damage->sectors[i], &damage->replacements[i]);
    }
    if (image_hash(&image) == image_hash(&file->state.image)) {
        return; /* What replaces it is the same. */
    }
    snprintf(mine->looking_at, sizeof mine->looking_at,
             "%s; %s; %s, sector %" PRIu64 ", %u; addresses %" PRIu64 ", %" PRIu64
             "; --only %" PRIu64,
             file->name, row_names[damage->row], damage->pattern, damage->place, damage->detail,
             damage->addresses[0], damage->addresses[1], number);
    const uint64_t arena_used = arena.used;
    const uint32_t entry_count = store.entry_count;
    image_io_kill(&checker.disk);
    if (checker.fixture.forest != NULL) {
        forest_reset(checker.fixture.forest);
    }
    image_io_load(&checker.disk, &image);
    checker.fixture.now_ns = file->state.now_ns;
    prng_init(&checker.prng, settings.seed + number);

    struct model_check check = {.lookup_stride = 1, .prng = &chance};
    enum verdict verdict = VERDICT_COUNT;
    const char *problem = verify_first(damage, check.reason, sizeof check.reason);
    if (problem == NULL) {
        problem = open_and_read(file, damage, &check, &verdict);
    }
    if (problem == NULL && (damage->verdicts >> verdict & 1) == 0) {
        snprintf(check.reason, sizeof check.reason, "the verdict is '%s': %.200s",
                 verdict_names[verdict], checker.fixture.open_reason);
        problem = check.reason;
    }
    if (problem == NULL) {
        mine->counts[damage->row][verdict] += 1;
        const bool table = (damage->verdicts & MAY_CONTAIN) != 0 && verdict != VERDICT_REFUSED;
        if (table && (!settings.quick || number / settings.process_count % 8 == 0)) {
            problem = churn(damage, &check);
        }
    }
    if (problem != NULL) {
        fail(problem);
    }
    store.entry_count = entry_count;
    arena.used = arena_used;
}

/* ---- All cases ---------------------------------------------------------------------------------
 */

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
    damage->replacements[damage->count] = sector_make(&arena, changed->bytes);
    damage->count += 1;
}

static void flip(struct changed *changed, uint32_t first, uint32_t end)
{
    const uint64_t byte = prng_range(&chance, first, end - 1);
    changed->bytes[byte] ^= (uint8_t)(1u << prng_below(&chance, 8));
}

static void begin_case(void)
{
    case_count += 1;
    prng_init(&chance, settings.seed * 1000003 + case_count);
}

/* Everything that a case took of the arena is given back with it. */
static void end_case(const struct atlas_file *file, struct damage *damage, uint64_t arena_used)
{
    run_case(file, damage, case_count);
    arena.used = arena_used;
}

static void superblock_bytes(const struct atlas_file *file)
{
    for (uint32_t copy = 0; copy < SUPERBLOCK_COPY_COUNT; copy++) {
        for (uint32_t byte = 0; byte < SECTOR_SIZE; byte++) {
            /* Quick: what is not reserved, and some of the rest; another copy for each byte. */
            if (settings.quick &&
                (byte % SUPERBLOCK_COPY_COUNT != copy || (byte >= 384 && byte % 61 != 0))) {
                continue;
            }
            const uint64_t arena_used = arena.used;
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
            end_case(file, &damage, arena_used);
        }
    }
}

static void superblock_copies(const struct atlas_file *file)
{
    enum { INTACT, OLD, GARBAGE, ZERO };
    for (uint32_t number = 0; number < COPY_STATES * COPY_STATES * COPY_STATES * COPY_STATES;
         number++) {
        const uint64_t arena_used = arena.used;
        begin_case();
        struct damage damage = {.row = ROW_SUPERBLOCK_COPIES,
                                .pattern = "copies intact, old, garbage, zero (base 4)",
                                .detail = number};
        uint32_t counts[COPY_STATES] = {0};
        for (uint32_t copy = 0, rest = number; copy < SUPERBLOCK_COPY_COUNT;
             copy++, rest /= COPY_STATES) {
            const uint32_t kind = rest % COPY_STATES;
            struct changed changed;
            take(&changed, file, copy);
            if (kind == OLD) {
                must(file->older[copy].bytes != NULL, "no older superblock");
                memcpy(changed.bytes, sector_bytes(&file->older[copy]), SECTOR_SIZE);
            } else if (kind == GARBAGE) {
                prng_fill(&chance, changed.bytes, SECTOR_SIZE);
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
        end_case(file, &damage, arena_used);
    }
}

/* Writes that went astray: each slot holds the copy meant for it, or for another. A copy counts
 * only where it belongs. */
static void superblock_slots(const struct atlas_file *file)
{
    for (uint32_t number = 0; number < COPY_STATES * COPY_STATES * COPY_STATES * COPY_STATES;
         number++) {
        const uint64_t arena_used = arena.used;
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
        end_case(file, &damage, arena_used);
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
            if (prng_chance(&chance, 1, 2)) {
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
    return !settings.quick || place % pattern_count == pattern;
}

static void journal_entries(const struct atlas_file *file)
{
    const struct layout *layout = &file->layout;
    const uint32_t pattern_count = PATTERN_FIELD + (uint32_t)array_count(journal_fields);
    const struct layout_entry *newest = &layout->entries[layout->entry_count - 1];
    for (uint32_t i = 0; i < layout->entry_count; i++) {
        const struct layout_entry *entry = &layout->entries[i];
        for (uint32_t part = 0; part < entry->sector_count; part++) {
            for (uint32_t pattern = 0; pattern < pattern_count; pattern++) {
                const bool first = part == 0;
                /* The newest entries are few, and the most interesting ones: all patterns. */
                if ((i + 2 < layout->entry_count &&
                     !pattern_is_due(pattern, pattern_count, i + part)) ||
                    (pattern >= PATTERN_FIELD && !first)) {
                    continue;
                }
                const uint64_t arena_used = arena.used;
                begin_case();
                struct damage damage = {.row = entry != newest ? ROW_JOURNAL_ENTRY
                                               : entry->seal   ? ROW_JOURNAL_SEAL
                                                               : ROW_JOURNAL_LAST,
                                        .detail = part};
                damage.verdicts = entry != newest ? MAY_REFUSE
                                  : entry->seal   ? MAY_NO_EFFECT
                                                  : MAY_DROP;
                const struct layout_entry *other =
                    &layout->entries[prng_below(&chance, layout->entry_count)];
                if (entry + 1 >= newest && other + 1 >= newest) {
                    other = entry; /* Both gone, the journal seems to end before them. */
                }
                if (pattern == PATTERN_SWAP && other != entry) {
                    damage.verdicts = MAY_REFUSE;
                    damage.row = ROW_JOURNAL_ENTRY;
                }
                if (apply_pattern(&damage, file, entry->sector + part,
                                  other != entry ? other->sector : 0,
                                  first ? JOURNAL_HEADER_SIZE : SECTOR_SIZE, pattern,
                                  journal_fields, array_count(journal_fields))) {
                    run_case(file, &damage, case_count);
                }
                arena.used = arena_used;
            }
        }
    }
}

/* The ring as it was at format, as it was a lap ago, and as another file's: nothing in it can be
 * told from the end of a journal but by what the checkpoint needs of it. */
static void journal_gone(const struct atlas_file *file)
{
    static const char *const names[] = {"zeroed", "an older write", "garbage"};
    const struct layout *layout = &file->layout;
    must(layout->journal_sector_count <= DAMAGE_MAX, "the ring is larger than a case");
    for (uint32_t kind = 0; kind < array_count(names); kind++) {
        const uint64_t arena_used = arena.used;
        begin_case();
        struct damage damage = {.row = ROW_JOURNAL_GONE,
                                .pattern = names[kind],
                                .place = layout->journal_sector,
                                .verdicts = MAY_REFUSE};
        for (uint64_t i = 0; i < layout->journal_sector_count; i++) {
            const uint64_t sector = layout->journal_sector + i;
            struct changed changed = {0};
            if (kind == 1) {
                memcpy(changed.bytes, sector_bytes(&file->older[sector]), SECTOR_SIZE);
            } else if (kind == 2) {
                prng_fill(&chance, changed.bytes, SECTOR_SIZE);
            }
            add_change(&damage, sector, &changed);
        }
        end_case(file, &damage, arena_used);
    }
}

static enum row row_of(const struct layout_block *block)
{
    switch (block->type) {
    case BLOCK_TYPE_FREE_SET:
        return ROW_FREE_SET;
    case BLOCK_TYPE_STATE:
        return ROW_STATE;
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
    const uint32_t first = (uint32_t)prng_below(&chance, layout->block_count);
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
            if (!pattern_is_due(pattern, pattern_count, i)) {
                continue;
            }
            const uint64_t arena_used = arena.used;
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
                run_case(file, &damage, case_count);
            }
            arena.used = arena_used;
        }
    }
}

/* Sectors that nothing needs: garbage in them, and what they held before. */
static void unused(const struct atlas_file *file)
{
    const struct layout *layout = &file->layout;
    const uint64_t journal_end = layout->journal_sector + layout->journal_sector_count;
    for (uint64_t sector = SUPERBLOCK_COPY_COUNT; sector < file->state.image.sector_count;
         sector++) {
        if (layout_block_at(layout, sector) != NULL || layout_entry_at(layout, sector) != NULL ||
            (settings.quick && sector % 16 != 0)) {
            continue;
        }
        const bool journal = sector >= layout->journal_sector && sector < journal_end;
        for (int older = 0; older <= 1; older++) {
            const uint64_t arena_used = arena.used;
            begin_case();
            struct damage damage = {.row = journal ? ROW_JOURNAL_REST : ROW_UNUSED,
                                    .pattern = older == 1 ? "an older write" : "garbage",
                                    .place = sector,
                                    .verdicts = MAY_NO_EFFECT};
            struct changed changed;
            prng_fill(&chance, changed.bytes, SECTOR_SIZE);
            if (older == 1) {
                memcpy(changed.bytes, sector_bytes(&file->older[sector]), SECTOR_SIZE);
            }
            add_change(&damage, sector, &changed);
            end_case(file, &damage, arena_used);
        }
    }
}

/* ---- Processes ---------------------------------------------------------------------------------
 */

static const char *looking_at(uint32_t number)
{
    return findings[number].looking_at;
}

static bool run_process(uint32_t number)
{
    mine = &findings[number];
    driver_init(&checker, &arena, SECTOR_MAX, &store, settings.seed);
    must(fixture_try_open(&checker.fixture, 0, false), "open");
    for (uint32_t i = 0; i < FILE_COUNT; i++) {
        superblock_bytes(&files[i]);
        superblock_copies(&files[i]);
        superblock_slots(&files[i]);
        journal_entries(&files[i]);
        journal_gone(&files[i]);
        blocks(&files[i]);
        unused(&files[i]);
    }
    return mine->failures == 0;
}

static void print_table(const struct findings *total)
{
    printf("%-42s %9s", "zone", "cases");
    for (int verdict = 0; verdict < VERDICT_COUNT; verdict++) {
        printf(" %9s", verdict_names[verdict]);
    }
    printf("\n");
    for (int row = 0; row < ROW_COUNT; row++) {
        uint64_t cases = 0;
        for (int verdict = 0; verdict < VERDICT_COUNT; verdict++) {
            cases += total->counts[row][verdict];
        }
        printf("%-42s %9" PRIu64, row_names[row], cases);
        for (int verdict = 0; verdict < VERDICT_COUNT; verdict++) {
            printf(" %9" PRIu64, total->counts[row][verdict]);
        }
        printf("\n");
    }
}

static bool parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},
        {"processes", required_argument, NULL, 'p'},
        {"only", required_argument, NULL, 'o'},
        {"quick", no_argument, NULL, 'q'},
        {0},
    };
    int letter;
    while ((letter = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (letter) {
        case 's':
            settings.seed = strtoull(optarg, NULL, 10);
            break;
        case 'p':
            settings.process_count = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'o':
            settings.only = strtoull(optarg, NULL, 10);
            break;
        case 'q':
            settings.quick = true;
            break;
        default:
            return false;
        }
    }
    return optind == argc && settings.process_count >= 1 &&
           settings.process_count <= PROCESS_COUNT_MAX;
}

int main(int argc, char **argv)
{
    if (!parse(argc, argv)) {
        printf("usage: holt_atlas [--quick] [--seed N] [--processes N] [--only CASE]\n");
        return 2;
    }
    /* Thousands of damaged blocks are in order here, and each would be logged many times. */
    const int null_device = open("/dev/null", O_WRONLY);
    log_configure(LOG_FORMAT_LOGFMT, LOG_LEVEL_ERROR, null_device);
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    findings = processes_share(PROCESS_COUNT_MAX * sizeof *findings);
    mine = &findings[0];
    model_store_init(&store, ENTRY_MAX);
    sector_arena_init(&arena, arena_size);
    make_file(&files[0], "stopped cleanly", true);
    make_file(&files[1], "left by a crash", false);

    const bool done = processes_run(settings.process_count, run_process, looking_at);
    struct findings total = {0};
    uint64_t cases = 0;
    for (uint32_t i = 0; i < settings.process_count; i++) {
        for (int row = 0; row < ROW_COUNT; row++) {
            for (int verdict = 0; verdict < VERDICT_COUNT; verdict++) {
                total.counts[row][verdict] += findings[i].counts[row][verdict];
                cases += findings[i].counts[row][verdict];
            }
        }
        total.failures += findings[i].failures;
        total.churned += findings[i].churned;
        total.churn_refused += findings[i].churn_refused;
    }
    print_table(&total);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%" PRIu64 " cases, %" PRIu64 " failures; %" PRIu64 " written over, of which %" PRIu64
           " became read-only; %lld s\n",
           cases, total.failures, total.churned, total.churn_refused,
           (long long)(end.tv_sec - start.tv_sec));
    /* All states of the copies of each file but the one that is intact. */
    const uint64_t *copies = total.counts[ROW_SUPERBLOCK_COPIES];
    const uint64_t states = COPY_STATES * COPY_STATES * COPY_STATES * COPY_STATES - 1;
    const bool complete = settings.only != 0 || copies[VERDICT_REPAIRED] + copies[VERDICT_REFUSED] +
                                                        copies[VERDICT_NO_EFFECT] ==
                                                    FILE_COUNT * states;
    return done && total.failures == 0 && complete ? 0 : 1;
}
