/* One case: the damaged file is verified, opened, read whole, and of some written over. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "tests/atlas/atlas.h"
#include "tests/harness/campaign.h"

struct prng case_chance;

struct verify_notes {
    uint64_t problems;
    bool named; /* one of them names a damaged block */
    char first[200];
    const struct damage *damage;
};

/* Whether the text has this number behind this word. */
static bool names(const char *text, const char *word, uint64_t number)
{
    char name[40];
    const int size = snprintf(name, sizeof name, "%s %" PRIu64, word, number);
    const char *found = strstr(text, name);
    while (found != NULL && found[size] >= '0' && found[size] <= '9') {
        found = strstr(found + 1, name); /* A longer number. */
    }
    return found != NULL;
}

static bool names_address(const char *text, const uint64_t addresses[2])
{
    return (addresses[0] != 0 && names(text, "address", addresses[0])) ||
           (addresses[1] != 0 && names(text, "address", addresses[1]));
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

/* A sector of the journal that cannot be read, or the entry that it is of. */
static bool names_sector(const struct atlas_file *file, uint64_t sector, const char *reason)
{
    const struct layout *layout = &file->layout;
    const struct layout_entry *entry = layout_entry_at(layout, sector);
    return names(reason, "offset", (sector - layout->journal_sector) * SECTOR_SIZE) ||
           (entry != NULL && names(reason, "offset", entry->offset));
}

/* What the reason of a refusal must say. */
static bool names_place(const struct atlas_file *file, const struct damage *damage,
                        const char *reason)
{
    if (damage->addresses[0] != 0) {
        return names_address(reason, damage->addresses);
    }
    if (damage->row <= ROW_SUPERBLOCK_SLOTS) {
        /* On an older checkpoint whose blocks or entries are gone: these are named. */
        return strstr(reason, "superblock") != NULL || strstr(reason, "journal: entry") != NULL ||
               strstr(reason, "address") != NULL;
    }
    return strstr(reason, "journal: entry") != NULL && strstr(reason, "offset") != NULL &&
           (!damage->unreadable || damage->row == ROW_JOURNAL_GONE ||
            names_sector(file, damage->place, reason));
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
static const char *churn(const struct atlas_file *file, const struct damage *damage,
                         struct model_check *check)
{
    campaign_count(COUNTER_CHURNED, 1);
    checker.may_refuse = true;
    for (uint32_t i = 0; i < 40; i++) {
        uint32_t numbers[4];
        const uint32_t first = (uint32_t)prng_below(&case_chance, i % 2 == 0 ? 240 : 1200);
        for (uint32_t j = 0; j < 4; j++) {
            numbers[j] = first + j;
        }
        const enum request_result result =
            driver_write(&checker, i % MODEL_GROOVE_MAX,
                         i % 5 == 4 ? EVENT_TYPE_REMOVE : EVENT_TYPE_UPSERT, numbers, 4);
        if (result == REQUEST_RESULT_READ_ONLY) {
            campaign_count(COUNTER_CHURN_REFUSED, 1);
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
        return names_place(file, damage, checker.fixture.open_reason) ? NULL : check->reason;
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
        if (!names_place(file, damage, checker.fixture.open_reason)) {
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
    driver_recovered(&checker, &file->state.model);
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
    return NULL;
}

/* What is left to see of a file that was read whole. */
static const char *look_again(const struct atlas_file *file, const struct damage *damage,
                              struct model_check *check, enum verdict verdict)
{
    const bool as_before = damage->row == ROW_SUPERBLOCK_BYTE ||
                           (damage->row == ROW_SUPERBLOCK_COPIES && damage->unreadable);
    for (uint32_t i = 0; i < damage->count && as_before; i++) {
        const uint64_t sector = damage->sectors[i];
        if (checker.disk.image.sectors[sector].hash != file->state.image.sectors[sector].hash) {
            return "the copy was rewritten, but not as it was";
        }
    }
    if (verdict != VERDICT_DROPPED) {
        return NULL;
    }
    if (driver_retry(&checker, &file->state.model, file->state.commit) != 1) {
        return "what was dropped cannot be sent again";
    }
    campaign_count(COUNTER_RETRIED, 1);
    return model_compare(&checker.model, atomic_load(&checker.issued), &checker.fixture, check)
               ? NULL
               : check->reason;
}

void atlas_judge(const struct atlas_file *file, const struct damage *damage, uint64_t number)
{
    if (!campaign_is_mine(number)) {
        return;
    }
    static struct image image;
    if (image.sectors == NULL) {
        image_init(&image, ATLAS_SECTOR_MAX);
    }
    image_copy(&image, &file->state.image);
    for (uint32_t i = 0; i < damage->count; i++) {
        image_set(&image, damage->sectors[i], &damage->replacements[i]);
    }
    if (image_hash(&image) == image_hash(&file->state.image)) {
        return; /* What replaces it is the same. */
    }
    campaign_look_at("%s; %s; %s, sector %" PRIu64 ", %u; addresses %" PRIu64 ", %" PRIu64
                     "; --only %" PRIu64,
                     file->name, atlas_row_name(damage->row), damage->pattern, damage->place,
                     damage->detail, damage->addresses[0], damage->addresses[1], number);
    const uint64_t arena_used = atlas_arena.used;
    const struct model_mark mark = model_store_mark(file->state.model.store);
    driver_stop(&checker, &image, file->state.now_ns);
    prng_init(&checker.prng, campaign_settings.seed + number);

    struct model_check check = {.lookup_stride = 1, .prng = &case_chance};
    enum verdict verdict = VERDICT_COUNT;
    const char *problem = verify_first(damage, check.reason, sizeof check.reason);
    if (problem == NULL) {
        problem = open_and_read(file, damage, &check, &verdict);
    }
    if (problem == NULL && (damage->verdicts >> verdict & 1) == 0) {
        snprintf(check.reason, sizeof check.reason, "the verdict is '%s': %.200s",
                 atlas_verdict_name(verdict), checker.fixture.open_reason);
        problem = check.reason;
    }
    if (problem == NULL && verdict != VERDICT_REFUSED) {
        problem = look_again(file, damage, &check, verdict);
    }
    if (problem == NULL) {
        const uint32_t counter = damage->unreadable ? COUNTER_UNREADABLE : COUNTER_DAMAGED;
        campaign_count(counter + damage->row * VERDICT_COUNT + verdict, 1);
        const bool table = (damage->verdicts & MAY_CONTAIN) != 0 && verdict != VERDICT_REFUSED;
        if (table && (atlas_quick == 0 || number / campaign_settings.process_count % 8 == 0)) {
            problem = churn(file, damage, &check);
        }
    }
    if (problem != NULL) {
        campaign_fail(problem);
    }
    model_store_rewind(file->state.model.store, &mark);
    atlas_arena.used = arena_used;
}
