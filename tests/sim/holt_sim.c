/* holt_sim: see tests/sim/sim.h.
 *
 *   holt_sim --seed N [--steps S] [--verbose]     one seed, once, with its trace
 *   holt_sim --seeds FIRST COUNT [--steps S]      each seed twice; the digests must agree
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/forest_internal.h"
#include "engine/storage/checksum.h"
#include "pool/base.h"
#include "pool/log.h"
#include "server/forest_thread.h"
#include "tests/sim/sim.h"
#include "tests/sim/sim_client.h"
#include "tests/sim/sim_threads.h"

enum {
    STEPS_DEFAULT = 40000,
    COVERED_SEEDS = 100, /* so many must have met everything */
    LIFE_STEPS_MAX = 6 * 1000 * 1000,
    STEPS_PER_LIFE = 1500,   /* at least, on average */
    PATIENCE_STEPS = 512,    /* between two looks at who has waited for too long */
    CLOCK_JUMP_ODDS = 30000, /* per step */
    VERIFY_ODDS = 3,
};
static const uint64_t stop_patience_ns = 300ull * 1000 * 1000 * 1000;
static const uint64_t year_ns = 365ull * 86400 * 1000 * 1000 * 1000;
static const uint64_t hour_ns = 3600ull * 1000 * 1000 * 1000;

struct sim *sim;

/* ---- Small things ------------------------------------------------------------------------------
 */

void sim_mix(uint64_t word)
{
    uint64_t digest = (sim->digest ^ word) * UINT64_C(0x9E3779B97F4A7C15);
    sim->digest = digest ^ (digest >> 29);
}

uint64_t sim_hash(const void *bytes, uint64_t size)
{
    const struct checksum checksum = checksum_of(bytes, size);
    uint64_t word;
    memcpy(&word, checksum.bytes, sizeof word);
    return word;
}

void sim_trace(const char *what, uint64_t a, uint64_t b, uint64_t c)
{
    sim_mix(a);
    sim_mix(b);
    sim_mix(c);
    if (sim->verbose) {
        printf("%" PRIu64 " %" PRIu64 ".%06" PRIu64 " %s %" PRIu64 " %" PRIu64 " %" PRIx64 "\n",
               sim->step, sim->now_ns / 1000000000, sim->now_ns / 1000 % 1000000, what, a, b, c);
    }
}

bool sim_chance(uint32_t chance)
{
    return chance > 0 && prng_below(&sim->prng, 1000 * 1000) < chance;
}

uint64_t sim_duration(uint64_t mean)
{
    const uint64_t usual = 1 + prng_below(&sim->prng, 2 * mean);
    return prng_below(&sim->prng, 200) == 0 ? usual * 40 : usual;
}

_Noreturn void sim_fail(const char *format, ...)
{
    va_list arguments;
    fflush(stdout);
    fprintf(stderr, "holt_sim: seed %" PRIu64 ", life %" PRIu64 ", step %" PRIu64 ": ", sim->seed,
            sim->life.number, sim->step);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    _exit(SIM_EXIT_FAILED);
}

_Noreturn static void child_exit(int code)
{
    fflush(stdout);
    _exit(code);
}

bool sim_is_troubled(void)
{
    return sim->life.faulted || sim_disk_is_damaged(&sim->disk);
}

_Noreturn void sim_end(enum sim_end end)
{
    assert(end != SIM_END_STOP);
    sim_trace(end == SIM_END_CUT ? "cut" : "kill", sim->disk.dirty_count, 0, 0);
    if (end == SIM_END_KILL) {
        sim_disk_kill(&sim->disk);
        child_exit(SIM_EXIT_KILLED);
    }
    if (!sim->life.recovered) {
        sim_count(SIM_CUTS_IN_RECOVERY);
    }
    sim_disk_cut(&sim->disk);
    child_exit(SIM_EXIT_CUT);
}

/* ---- What a seed is ----------------------------------------------------------------------------
 */

static void choose_geometry(struct geometry *geometry, bool bulk)
{
    const char *reason;
    do {
        *geometry = geometry_tiny();
        geometry->block_size = sim_odds(4, 5) ? 4096 : 8192;
        geometry->bar_beats = 4 + 2 * (uint32_t)sim_below(4);
        geometry->tree_count_max = 10 + (uint32_t)sim_below(15);
        geometry->batch_size_max = SECTOR_SIZE * (2 + (uint32_t)sim_below(3));
        geometry->batch_event_max = 8 + (uint32_t)sim_below(57);
        geometry->bar_journal_size = geometry->batch_size_max * (4ull + sim_below(6));
        geometry->bar_memory_size = geometry->batch_size_max * (4ull + sim_below(12));
        geometry->checkpoint_journal_size = SECTOR_SIZE * (1 + sim_below(64));
        if (bulk) { /* Full batches, small tables: level 2 after some hundred requests. */
            geometry->batch_size_max = SECTOR_SIZE * 2;
            geometry->batch_event_max = 20;
            geometry->bar_journal_size = geometry->batch_size_max * 4ull;
            geometry->bar_memory_size = geometry->batch_size_max * 4ull;
        }
        geometry->block_count_max = 64 * 1024 * 1024 / geometry->block_size;
        /* As little as may be: the ring laps. */
        const uint64_t entry = journal_entry_size_max(geometry);
        geometry->journal_size = geometry->checkpoint_journal_size +
                                 3 * (geometry->bar_journal_size + entry) + 2 * entry +
                                 SECTOR_SIZE * sim_below(8);
    } while (geometry_validate(geometry, &reason) != STATUS_OK);
}

/* One kind of fault, or several, or none: what always happens together hides what does not. */
static void choose_faults(struct sim_swarm *swarm)
{
    if (sim_odds(1, 3)) {
        return;
    }
    swarm->read_error_chance = sim_odds(1, 4) ? (uint32_t)sim_below(20000) : 0;
    swarm->read_flip_chance = sim_odds(1, 4) ? (uint32_t)sim_below(20000) : 0;
    swarm->write_error_chance = sim_odds(1, 4) ? (uint32_t)sim_below(4000) : 0;
    swarm->sync_error_chance = sim_odds(1, 4) ? (uint32_t)sim_below(6000) : 0;
    swarm->lost_chance = sim_odds(1, 4) ? (uint32_t)sim_below(20000) : 0;
    swarm->misdirect_chance = sim_odds(1, 4) ? (uint32_t)sim_below(20000) : 0;
    swarm->rot_chance = sim_odds(1, 4) ? (uint32_t)sim_below(1000) : 0;
}

static void choose_swarm(struct sim_swarm *swarm)
{
    static const uint32_t tear_sizes[] = {64, 512, SECTOR_SIZE};
    static const uint64_t life_steps[] = {400, 3000, 12000, 40000};
    *swarm = (struct sim_swarm){
        .workers_max = (uint32_t)sim_below(5),
        .readers_max = 1 + (uint32_t)sim_below(3),
        .lane_count = 1 + (uint32_t)sim_below(SIM_LANE_MAX),
        .preempt_chance = sim_odds(1, 4) ? 0 : 1000 * (uint32_t)sim_below(100),
        .spurious_chance = sim_odds(1, 2) ? 0 : 20 * 1000,
        .read_ns = 1000 * (1 + sim_below(200)),
        .write_ns = 1000 * (1 + sim_below(300)),
        .sync_ns = 1000 * (1 + sim_below(sim_odds(1, 4) ? 20000 : 500)),
        .tear_size = tear_sizes[sim_below(array_count(tear_sizes))],
        .think_ns = 1000 * (1 + sim_below(sim_odds(1, 3) ? 5000 : 100)),
        .silence_chance = sim_odds(1, 2) ? 1000 + 1000 * (uint32_t)sim_below(30) : 0,
        .life_steps = life_steps[sim_below(array_count(life_steps))],
        .end_weights = {1 + (uint32_t)sim_below(6), (uint32_t)sim_below(4), (uint32_t)sim_below(3)},
        .size_limit = sim_disk_capacity,
    };
    swarm->session_width = 1 + (uint32_t)sim_below(3);
    swarm->wide = sim_odds(1, 4);
    if (swarm->wide) {
        swarm->session_width = 1;
        swarm->lane_count = 6 + (uint32_t)sim_below(SIM_LANE_MAX - 5);
    }
    swarm->bulk = sim_odds(1, 8);
    if (swarm->bulk) {
        swarm->life_steps = life_steps[array_count(life_steps) - 1]; /* A scan takes its time. */
    }
    choose_geometry(&swarm->geometry, swarm->bulk);
    choose_faults(swarm);
    if (sim_odds(1, 6) && !swarm->bulk) { /* Which is to grow. */
        swarm->size_limit = grid_zone_offset(&swarm->geometry) +
                            swarm->geometry.block_size * (64ull + sim_below(2000));
        swarm->size_limit -= swarm->size_limit % SECTOR_SIZE;
    }
}

static void format(void)
{
    uint8_t file_id[16];
    prng_fill(&sim->prng, file_id, sizeof file_id);
    sim_disk_reset(&sim->disk);
    const enum status status = forest_format(sim_disk_io(), &sim->swarm.geometry, file_id,
                                             prng_next(&sim->prng), NULL, NULL);
    if (status != STATUS_OK) {
        sim_fail("format: %s", status_text(status));
    }
    sim->disk.size_limit = max_u64(sim->swarm.size_limit, sim->disk.size);
    sim->disk.size_durable = sim->disk.size;
}

/* ---- In the child ------------------------------------------------------------------------------
 */

static struct forest *forest; /* the daemon's; to look at only */
static uint64_t checkpoint_count_seen;
static struct config config;
static enum status daemon_status;
static bool daemon_ended;

struct forest *__real_forest_init(const struct forest_options *options, enum status *status,
                                  char *reason, size_t reason_size);
struct forest *__wrap_forest_init(const struct forest_options *options, enum status *status,
                                  char *reason, size_t reason_size);
struct forest *__wrap_forest_init(const struct forest_options *options, enum status *status,
                                  char *reason, size_t reason_size)
{
    forest = __real_forest_init(options, status, reason, reason_size);
    return forest;
}

void __real_forest_deinit(struct forest *to_deinit);
void __wrap_forest_deinit(struct forest *to_deinit);
void __wrap_forest_deinit(struct forest *to_deinit)
{
    forest = NULL;
    __real_forest_deinit(to_deinit);
}

/* ---- One journal, one outcome ----
 */

static uint64_t word_of(const struct checksum *checksum)
{
    uint64_t word;
    memcpy(&word, checksum->bytes, sizeof word);
    return word;
}

/* Of the last entry that was executed; begun anew if another one had its place. */
static struct sim_consequence *consequence_of(const struct forest *of, bool *known)
{
    const uint64_t sequence = of->journal.sequence_next - 1;
    const uint64_t entry = word_of(&of->journal.parent);
    struct sim_consequence *consequence = &sim->consequences[sequence % SIM_CONSEQUENCE_MAX];
    *known = consequence->sequence == sequence && consequence->entry == entry;
    if (!*known) {
        *consequence = (struct sim_consequence){.sequence = sequence, .entry = entry};
    }
    return consequence;
}

static void expect_same(const char *what, uint64_t sequence, uint64_t before, uint64_t now)
{
    if (before != now) {
        sim_fail("journal entry %" PRIu64 " led to %s %" PRIx64 " once, and now to %" PRIx64,
                 sequence, what, before, now);
    }
}

/* Of the batch whose entry is being written. */
static void note_refusals(const struct forest *of)
{
    for (uint32_t i = 0; of->committing != NULL && i < of->committing->request_count; i++) {
        const struct batch_request *request = &of->committing->requests[i];
        if (!request->internal &&
            (request->result == REQUEST_RESULT_FULL || request->result == REQUEST_RESULT_CORRUPT)) {
            sim_front_note_refused(request->context);
        }
    }
}

void __real_forest_beats_count(struct forest *of, uint64_t entry_size, uint64_t idle_beats);
void __wrap_forest_beats_count(struct forest *of, uint64_t entry_size, uint64_t idle_beats);
void __wrap_forest_beats_count(struct forest *of, uint64_t entry_size, uint64_t idle_beats)
{
    __real_forest_beats_count(of, entry_size, idle_beats);
    note_refusals(of);
    bool known;
    struct sim_consequence *consequence = consequence_of(of, &known);
    const uint64_t op = of->op + of->beats_owed;
    if (known) {
        expect_same("op", consequence->sequence, consequence->op, op);
        sim_count(SIM_REPLAYED);
    }
    consequence->op = op;
    if (!of->bar_replayed) { /* What came before that bar is not known to a recovery. */
        const uint64_t words[] = {of->bar_journal_used, of->bar_memory_used,
                                  of->journal_since_checkpoint, of->memory_since_checkpoint};
        const uint64_t counters = sim_hash(words, sizeof words);
        if (known && consequence->counters != 0) {
            expect_same("counters", consequence->sequence, consequence->counters, counters);
        }
        consequence->counters = counters;
    }
}

void __real_forest_checkpoint_encode(struct forest *of);
void __wrap_forest_checkpoint_encode(struct forest *of);
void __wrap_forest_checkpoint_encode(struct forest *of)
{
    __real_forest_checkpoint_encode(of);
    bool known;
    struct sim_consequence *consequence = consequence_of(of, &known);
    const struct checksum id = checkpoint_id_of(&of->checkpoint.state);
    if (consequence->checkpoint != 0) {
        expect_same("checkpoint", consequence->sequence, consequence->checkpoint, word_of(&id));
        sim_count(SIM_REPEATED);
    }
    consequence->checkpoint = word_of(&id);
}

_Noreturn void __wrap_fatal(enum status status, const char *event, const char *what,
                            const char *advice);
_Noreturn void __wrap_fatal(enum status status, const char *event, const char *what,
                            const char *advice)
{
    snprintf(sim->refusal, sizeof sim->refusal, "%s: %s (%s)", event, what, advice);
    sim->refusal_status = (uint32_t)status;
    sim_trace("fatal", (uint64_t)status, 0, 0);
    sim_disk_kill(&sim->disk);
    child_exit(SIM_EXIT_FATAL);
}

static void on_problem(void *context, const char *text)
{
    /* A cut amid the four copies leaves one torn; the next open mends it. */
    if (strncmp(text, "superblock: copy ", 17) != 0) {
        sim_fail("verify: %s", text);
    }
    (void)context;
}

/* What `holt verify` would say of the disk as it is. */
static void verify(void)
{
    struct verify_report report;
    if (sim_disk_is_damaged(&sim->disk)) {
        return;
    }
    const enum status status = forest_verify(sim_disk_io(), on_problem, NULL, NULL, &report);
    if (status != STATUS_OK && status != STATUS_CORRUPT) {
        sim_fail("verify: %s", status_text(status));
    }
    sim_trace("verified", report.blocks_checked, report.values_checked, report.checkpoint_op);
    sim_count(SIM_VERIFIES);
}

static void watch_forest(void)
{
    if (forest == NULL || forest->checkpoint_count == checkpoint_count_seen) {
        return;
    }
    checkpoint_count_seen = forest->checkpoint_count;
    sim_count(SIM_CHECKPOINTS);
    for (uint32_t i = 0; i < forest->geometry.tree_count_max; i++) {
        for (uint32_t level = 0; forest->trees[i].used && level < LEVEL_COUNT; level++) {
            if (forest->trees[i].levels[level].table_count > 0 && level > sim->level_max) {
                sim->level_max = level;
            }
        }
    }
    sim_trace("checkpoint", forest->checkpoint_op, forest->superblock_sequence, sim->level_max);
    if (sim_odds(1, VERIFY_ODDS)) {
        verify();
    }
}

static void want_stop(void)
{
    sim_trace("stop", 0, 0, 0);
    sim->life.stop_wanted = true;
    sim->life.stop_ns = sim->now_ns;
    sim_wake(&sim->life.stop_wanted, true);
}

void sim_step(void)
{
    struct sim_life *life = &sim->life;
    if (sim->step >= life->end_step && !life->stop_wanted) {
        if (life->end != SIM_END_STOP) {
            sim_end(life->end);
        }
        want_stop();
    }
    if (life->end_step == UINT64_MAX && !life->stop_wanted && sim_clients_are_done()) {
        want_stop();
    }
    if (life->faults && sim_chance(sim->swarm.rot_chance)) {
        sim_disk_rot(&sim->disk);
    }
    if (sim_below(CLOCK_JUMP_ODDS) == 0) {
        sim->realtime_offset_ns += sim_below(10 * 1000 * 1000) - 5 * 1000 * 1000;
    }
    if (sim->step % PATIENCE_STEPS == 0) {
        sim_front_check_patience();
        if (life->stop_wanted && sim->now_ns > life->stop_ns + stop_patience_ns) {
            sim_fail("the daemon does not stop");
        }
        if (sim->step - life->step_begin > LIFE_STEPS_MAX) {
            sim_fail("this life does not end");
        }
    }
    watch_forest();
}

static void *daemon_run(void *argument)
{
    (void)argument;
    daemon_status = forest_thread_run(&config, sim->refusal);
    daemon_ended = true;
    return NULL;
}

static bool daemon_has_ended(void)
{
    return daemon_ended;
}

_Noreturn static void child(void)
{
    char error[CONFIG_ERROR_SIZE];
    log_configure(LOG_FORMAT_LOGFMT, sim->verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR,
                  sim->verbose ? STDOUT_FILENO : open("/dev/null", O_WRONLY | O_CLOEXEC));
    if (sim_odds(1, VERIFY_ODDS)) {
        verify();
    }
    config_init(&config);
    const enum status status = config_finish(&config, "simulated.holt", 1, error);
    assert(status == STATUS_OK);
    (void)status;
    config.workers = sim->life.workers;
    config.readers = sim->life.readers;
    config.cache_size = 1 << 20;
    config.session_idle_ns = sim_session_idle_ns;
    config.read_slot_count = 1 + (uint32_t)sim_below(4);
    config.exchange_count = 4 + (uint32_t)sim_below(13);
    sim_fiber_start("forest", true, daemon_run, NULL);
    sim_clients_start();
    sim_schedule(daemon_has_ended);
    if (daemon_status != STATUS_OK) {
        sim->refusal_status = (uint32_t)daemon_status;
        sim_trace("refused", (uint64_t)daemon_status, 0, 0);
        child_exit(SIM_EXIT_REFUSED);
    }
    sim_trace("stopped", 0, 0, 0);
    child_exit(SIM_EXIT_STOPPED);
}

/* ---- In the parent -----------------------------------------------------------------------------
 */

/* Where a life may go wrong without anybody being to blame. */
static bool judge(int code)
{
    static const struct {
        int code;
        enum sim_counter counter;
    } ends[] = {
        {SIM_EXIT_STOPPED, SIM_STOPS},    {SIM_EXIT_CUT, SIM_CUTS},
        {SIM_EXIT_KILLED, SIM_KILLS},     {SIM_EXIT_FATAL, SIM_FATALS},
        {SIM_EXIT_REFUSED, SIM_REFUSALS},
    };
    for (size_t i = 0; i < array_count(ends); i++) {
        if (ends[i].code != code) {
            continue;
        }
        sim_count(ends[i].counter);
        if ((code != SIM_EXIT_FATAL && code != SIM_EXIT_REFUSED) || sim_is_troubled()) {
            return true;
        }
        fprintf(stderr,
                "holt_sim: seed %" PRIu64 ", life %" PRIu64 ", step %" PRIu64
                ": the daemon %s without a reason: %s: %s\n",
                sim->seed, sim->life.number, sim->step,
                code == SIM_EXIT_FATAL ? "gave up" : "refused to open",
                status_text((enum status)sim->refusal_status), sim->refusal);
        return false;
    }
    if (code != SIM_EXIT_FAILED) { /* Which has spoken for itself. */
        fprintf(stderr,
                "holt_sim: seed %" PRIu64 ", life %" PRIu64 ", step %" PRIu64 ": exit code %d\n",
                sim->seed, sim->life.number, sim->step, code);
    }
    return false;
}

/* One life in a child. Returns its exit code; 0: it failed, which has been said. */
static int live(void)
{
    fflush(stdout);
    fflush(stderr);
    const pid_t pid = fork();
    if (pid == 0) {
        child();
    }
    int status = 0;
    while (pid < 0 || waitpid(pid, &status, 0) < 0) {
        if (pid < 0 || errno != EINTR) {
            perror("holt_sim: fork");
            return 0;
        }
    }
    sim_count(SIM_LIVES);
    if (WIFSIGNALED(status)) {
        fprintf(stderr,
                "holt_sim: seed %" PRIu64 ", life %" PRIu64 ", step %" PRIu64
                ": the daemon died of signal %d\n",
                sim->seed, sim->life.number, sim->step, WTERMSIG(status));
        return 0;
    }
    return judge(WEXITSTATUS(status)) ? WEXITSTATUS(status) : 0;
}

static void plan_life(bool last, bool mild)
{
    const uint64_t number = sim->life.number + 1;
    const struct sim_swarm *swarm = &sim->swarm;
    uint32_t weights = 0;
    for (size_t i = 0; i < array_count(swarm->end_weights); i++) {
        weights += swarm->end_weights[i];
    }
    uint64_t choice = sim_below(weights);
    enum sim_end end = SIM_END_CUT;
    while (choice >= swarm->end_weights[end]) {
        choice -= swarm->end_weights[end];
        end += 1;
    }
    const uint32_t slowness = swarm->sync_ns < 1000 * 1000 ? 30 : 2; /* Within patience. */
    sim->life = (struct sim_life){
        .number = number,
        .workers = (uint32_t)sim_below(swarm->workers_max + 1u),
        .readers = 1 + (uint32_t)sim_below(swarm->readers_max),
        .end = last ? SIM_END_STOP : end,
        .end_step = last ? UINT64_MAX : sim->step + sim_duration(swarm->life_steps),
        .end_at_superblock = !last && sim_odds(1, 3),
        .journal_slowness = sim_odds(1, 5) ? slowness : 1,
        .grid_slowness = sim_odds(1, 5) ? slowness : 1,
        .faults = !last && !mild && sim_odds(3, 4),
        .step_begin = sim->step,
    };
    sim->front.quota = swarm->lane_count * 5;
    if (last || mild || sim_odds(1, 2)) {
        sim->counters[SIM_HEALED] += sim_disk_heal(&sim->disk);
    }
    if (last) {
        sim->disk.size_limit = sim_disk_capacity;
    }
    if (sim_odds(1, 4)) { /* Somebody sets the clock, maybe back. */
        sim->realtime_offset_ns = 50 * year_ns + sim_below(year_ns);
    } else if (swarm->wide && sim_odds(1, 2)) { /* Or it was right, and some time has gone by. */
        sim->realtime_offset_ns = sim->realtime_ns_max - sim->now_ns + sim_below(hour_ns);
    }
    sim_trace("life", number, (uint64_t)sim->life.end, sim->life.end_step);
}

/* Lives until the steps are used up, then two without faults, then a last look. */
static bool run_lives(uint64_t steps)
{
    bool mild = false;
    const uint64_t lives_max = 4 + steps / STEPS_PER_LIFE;
    while (sim->step < steps && sim->life.number < lives_max && sim_model_has_room(&sim->model)) {
        plan_life(false, mild);
        const int code = live();
        if (code == 0) {
            return false;
        }
        mild = code == SIM_EXIT_REFUSED || !sim->life.recovered;
        if (code != SIM_EXIT_CUT && sim_odds(1, 3)) {
            sim_disk_cut(&sim->disk);
        }
    }
    for (int i = 0; i < 2; i++) {
        plan_life(true, true);
        const int code = live();
        if (code == 0) {
            return false;
        }
        if (code != SIM_EXIT_STOPPED) {
            fprintf(stderr, "holt_sim: seed %" PRIu64 ": no clean stop at the end\n", sim->seed);
            return false;
        }
    }
    return true;
}

/* Returns whether all was well; the digest then is of the whole run. */
static bool run(uint64_t seed, uint64_t steps, bool shifted, uint64_t *digest)
{
    struct sim_disk disk = sim->disk;
    struct sim_model model = sim->model;
    const bool verbose = sim->verbose;
    memset(sim, 0, sizeof *sim);
    sim->disk = disk;
    sim->model = model;
    sim->verbose = verbose;
    sim->seed = seed;
    sim->shifted = shifted;
    sim->now_ns = 1000 * 1000 * 1000;
    sim->realtime_offset_ns = 54 * year_ns;
    prng_init(&sim->prng, seed);
    choose_swarm(&sim->swarm);
    sim_sessions_init();
    format();
    sim_model_reset(&sim->model, &sim->swarm.geometry);
    const bool well = run_lives(sim->swarm.bulk ? 4 * steps : steps);
    sim->counters[SIM_STEPS] = sim->step;
    sim->counters[SIM_LEVEL_2] = sim->level_max >= 2;
    sim->counters[SIM_SEEDS_CHECKPOINTS] = sim->counters[SIM_CHECKPOINTS] >= 4;
    *digest = sim->digest;
    return well;
}

static void print_counters(const uint64_t *counters)
{
    static const char *const texts[] = {
#define X(name, text) text,
        SIM_COUNTER_MAP(X)
#undef X
    };
    for (uint32_t i = 0; i < SIM_COUNTER_COUNT; i++) {
        printf("%12" PRIu64 "  %s\n", counters[i], texts[i]);
    }
}

/* A simulation that never meets something says nothing about it. */
static bool is_covered(const uint64_t *counters)
{
    for (uint32_t i = 0; i < SIM_COUNTER_COUNT; i++) {
        if (counters[i] == 0) {
            return false;
        }
    }
    return true;
}

static int run_seeds(uint64_t first, uint64_t count, uint64_t steps)
{
    uint64_t totals[SIM_COUNTER_COUNT] = {0};
    uint64_t failures = 0;
    for (uint64_t seed = first; seed < first + count; seed++) {
        uint64_t digests[2];
        bool well = run(seed, steps, false, &digests[0]);
        for (uint32_t i = 0; i < SIM_COUNTER_COUNT; i++) {
            totals[i] += sim->counters[i];
        }
        if (well) {
            well = run(seed, steps, true, &digests[1]);
            if (well && digests[0] != digests[1]) {
                fprintf(stderr, "holt_sim: seed %" PRIu64 ": its two runs differ\n", seed);
                well = false;
            }
        }
        if (!well) {
            failures += 1;
            printf("FAILED  seed %" PRIu64 ": holt_sim --seed %" PRIu64 " --steps %" PRIu64
                   " --verbose\n",
                   seed, seed, steps);
        } else {
            printf("ok      seed %" PRIu64 " %016" PRIx64 "\n", seed, digests[0]);
        }
    }
    print_counters(totals);
    printf("%" PRIu64 " seeds twice, %" PRIu64 " failed\n", count, failures);
    if (count >= COVERED_SEEDS && !is_covered(totals)) {
        printf("FAILED  something was never met, see the zeros\n");
        return 1;
    }
    return failures == 0 ? 0 : 1;
}

static int usage(void)
{
    fprintf(stderr, "usage: holt_sim --seed N [--steps S] [--verbose]\n"
                    "       holt_sim --seeds FIRST COUNT [--steps S]\n");
    return 2;
}

static bool number(const char *text, uint64_t *value)
{
    char *end = NULL;
    errno = 0;
    *value = text != NULL ? strtoull(text, &end, 10) : 0;
    return text != NULL && *end == '\0' && errno == 0 && end != text;
}

int main(int argc, char **argv)
{
    uint64_t first = 0;
    uint64_t count = 0;
    uint64_t steps = STEPS_DEFAULT;
    bool verbose = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && number(argv[i + 1], &first)) {
            i += 1;
        } else if (strcmp(argv[i], "--seeds") == 0 && i + 2 < argc && number(argv[i + 1], &first) &&
                   number(argv[i + 2], &count)) {
            i += 2;
        } else if (strcmp(argv[i], "--steps") == 0 && number(argv[i + 1], &steps)) {
            i += 1;
        } else if (strcmp(argv[i], "--verbose") == 0) {
            verbose = true;
        } else {
            return usage();
        }
    }
    sim = mmap(NULL, sizeof *sim, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (sim == MAP_FAILED) {
        perror("holt_sim: memory");
        return 1;
    }
    sim->verbose = verbose;
    setvbuf(stdout, NULL, _IOLBF, 0); /* The last lines of a child that dies, too. */
    sim_disk_map(&sim->disk);
    sim_model_map(&sim->model);
    if (count > 0) {
        return run_seeds(first, count, steps);
    }
    uint64_t digest;
    const bool well = run(first, steps, false, &digest);
    print_counters(sim->counters);
    printf("%s seed %" PRIu64 " %016" PRIx64 "\n", well ? "ok     " : "FAILED ", first, digest);
    return well ? 0 : 1;
}
