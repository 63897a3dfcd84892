/* holt_atlas: every part of a closed file is damaged in turn, and the file is opened and read.
 *
 * The files: one stopped cleanly, one left by a crash, each with three grooves, tables at several
 * levels, spilled tables, a table of sessions that one had to leave, and a ring that has gone
 * round. layout.h says what is where. Bytes change, or a sector cannot be read. Of each case the
 * verdict must be the right one:
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
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "pool/base.h"
#include "pool/log.h"
#include "tests/atlas/atlas.h"
#include "tests/harness/campaign.h"
#include "tests/harness/session_model.h"

enum { EVENT_MAX = 64 * 1024, ENTRY_MAX = 1024 * 1024, REQUEST_MAX = 16 * 1024 };

static const uint64_t arena_size = UINT64_C(4) << 30; /* of address space */

struct model_driver checker;
struct sector_arena atlas_arena;
uint64_t atlas_quick;

static struct model_store store;
static struct atlas_file files[ATLAS_FILE_COUNT];

void atlas_must(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "atlas: %s: %s\n", what, checker.fixture.open_reason);
        abort();
    }
}

const char *atlas_row_name(enum row row)
{
    static const char *const names[ROW_COUNT] = {
#define ROW(name, text) text,
        ATLAS_ROWS(ROW)
#undef ROW
    };
    return names[row];
}

const char *atlas_verdict_name(enum verdict verdict)
{
    static const char *const names[VERDICT_COUNT] = {
        "no effect", "repaired", "refused", "contained", "unread", "dropped",
    };
    return names[verdict];
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
        driver_submit_chains(driver);
        driver_settle(driver);
    }
}

static void note_older(struct atlas_file *file, const struct trace *trace)
{
    static struct sector present[ATLAS_SECTOR_MAX];
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

/* As many of the widest as there is room for; the others have to take the place of one of these. */
static void make_sessions(struct model_driver *driver)
{
    enum { WIDE_COUNT = 4 };
    for (uint32_t i = 0; i < WIDE_COUNT; i++) {
        driver_session(driver, MODEL_CLIENT_WIDE + i);
    }
    for (uint32_t client = 0; client < MODEL_CLIENT_WIDE; client++) {
        driver_session(driver, client);
    }
    atlas_must(driver->evicted_count > 0, "no session was evicted");
}

static void make_file(struct atlas_file *file, const char *name, bool sealed)
{
    static struct trace trace;
    struct model_driver *driver = &checker;
    file->name = name;
    driver_init(driver, &atlas_arena, ATLAS_SECTOR_MAX, &store, campaign_settings.seed);
    trace_init(&trace, ATLAS_SECTOR_MAX, EVENT_MAX);
    image_io_record(&driver->disk, &trace, &driver->acknowledged, &driver->issued);
    atlas_must(fixture_try_open(&driver->fixture, 0, false), "open");
    for (uint32_t groove = 0; groove < MODEL_GROOVE_MAX; groove++) {
        driver_create(driver, groove);
    }
    make_sessions(driver);
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
    for (uint64_t numbered = driver->numbered_count; driver->numbered_count == numbered;) {
        const uint32_t number = 7; /* The last entry is one that a client would send again. */
        (void)driver_write(driver, 1, EVENT_TYPE_UPSERT, &number, 1);
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
           ", %" PRIu64 " bytes of spilled tables, %u sessions of %u lanes, %u entries to replay "
           "with %u numbered requests\n",
           name, layout->block_count, layout->table_count, stats.tables_by_level[0],
           stats.tables_by_level[1], stats.tables_by_level[2],
           layout->superblock.checkpoint.spill_size, layout->session_count, layout->lane_count,
           layout->entry_count, layout->numbered_count);
    atlas_must(stats.tables_by_level[0] > 0 && stats.tables_by_level[1] > 0,
               "fewer than two levels");
    atlas_must(layout->superblock.checkpoint.spill_size > 0, "nothing was spilled");
    atlas_must(layout->superblock.checkpoint.manifest_block_count > 1, "one manifest block");
    atlas_must(layout->entry_count > 2 && layout->entries[layout->entry_count - 1].seal == sealed,
               "the end of the journal");
    atlas_must(layout->session_count == stats.sessions && layout->lane_count == stats.session_lanes,
               "other sessions are in the state");
    atlas_must(layout->numbered_count > 2, "few requests have numbers");
    trace_deinit(&trace);
    driver_deinit(driver);
}

/* ---- All of it ---------------------------------------------------------------------------------
 */

static void run(void)
{
    driver_init(&checker, &atlas_arena, ATLAS_SECTOR_MAX, &store, campaign_settings.seed);
    atlas_must(driver_open(&checker), "open");
    for (uint32_t i = 0; i < ATLAS_FILE_COUNT; i++) {
        atlas_all_cases(&files[i]);
    }
}

/* Returns how many cases there were. */
static uint64_t print_table(const char *name, uint32_t counter)
{
    uint64_t total = 0;
    printf("%-42s %9s", name, "cases");
    for (int verdict = 0; verdict < VERDICT_COUNT; verdict++) {
        printf(" %9s", atlas_verdict_name((enum verdict)verdict));
    }
    printf("\n");
    for (int row = 0; row < ROW_COUNT; row++) {
        uint64_t counts[VERDICT_COUNT];
        uint64_t cases = 0;
        for (int verdict = 0; verdict < VERDICT_COUNT; verdict++) {
            counts[verdict] = campaign_total(counter);
            cases += counts[verdict];
            counter += 1;
        }
        if (cases > 0) {
            printf("%-42s %9" PRIu64, atlas_row_name((enum row)row), cases);
            for (int verdict = 0; verdict < VERDICT_COUNT; verdict++) {
                printf(" %9" PRIu64, counts[verdict]);
            }
            printf("\n");
        }
        total += cases;
    }
    return total;
}

/* All states of the superblock's copies were made, but the one that is intact. */
static bool copies_complete(void)
{
    const uint64_t states =
        ATLAS_COPY_STATES * ATLAS_COPY_STATES * ATLAS_COPY_STATES * ATLAS_COPY_STATES - 1;
    uint64_t cases = 0;
    for (uint32_t verdict = 0; verdict < VERDICT_COUNT; verdict++) {
        cases += campaign_total(ROW_SUPERBLOCK_COPIES * VERDICT_COUNT + verdict);
    }
    return campaign_settings.only != 0 || campaign_settings.parts > 1 ||
           cases == ATLAS_FILE_COUNT * states;
}

int main(int argc, char **argv)
{
    const struct campaign_option options[] = {{"quick", &atlas_quick, 0, 1, 0}};
    if (!campaign_parse(argc, argv, 10, options, array_count(options))) {
        return 2;
    }
    /* Thousands of damaged blocks are in order here, and each would be logged many times. */
    const int null_device = open("/dev/null", O_WRONLY);
    log_configure(LOG_FORMAT_LOGFMT, LOG_LEVEL_ERROR, null_device);
    campaign_begin(COUNTER_COUNT);
    model_store_init(&store, ENTRY_MAX, REQUEST_MAX);
    sector_arena_init(&atlas_arena, arena_size);
    make_file(&files[0], "stopped cleanly", true);
    make_file(&files[1], "left by a crash", false);

    const bool passed = campaign_run(run);
    uint64_t cases = print_table("damaged", COUNTER_DAMAGED);
    cases += print_table("unreadable", COUNTER_UNREADABLE);
    printf("%" PRIu64 " cases, %" PRIu64 " failures; %" PRIu64 " requests were dropped and sent "
           "again; %" PRIu64 " files written over, of which %" PRIu64 " became read-only; %" PRIu64
           " s\n",
           cases, campaign_failures(), campaign_total(COUNTER_RETRIED),
           campaign_total(COUNTER_CHURNED), campaign_total(COUNTER_CHURN_REFUSED),
           campaign_seconds());
    return passed && copies_complete() ? 0 : 1;
}
