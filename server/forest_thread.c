#include "server/forest_thread.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "engine/storage/io_posix.h"
#include "ipc/listener.h"
#include "pool/base.h"
#include "pool/log.h"
#include "pool/memory.h"
#include "pool/workers.h"
#include "server/data_file.h"
#include "server/dispatch.h"
#include "server/request_queue.h"
#include "server/value_text.h"

enum {
    DRAIN_STEP_MS = 20,
    EXIT_STOPPED_TWICE = 75, /* a second signal: gone at once, the journal recovers */
};

/* A heartbeat against a ring that somebody forgot: nothing relies on it. */
static const uint64_t heartbeat_ns = 1000ull * 1000 * 1000;
static const uint64_t signal_repeat_ns = 1000ull * 1000 * 1000;
static const uint64_t silence_ns = 100ull * 1000 * 1000; /* ten times a slow disk's sync */
static const uint64_t journal_wait_ns_max = 500ull * 1000;
static const uint64_t ns_per_ms = 1000ull * 1000;

struct daemon {
    const struct config *config;
    struct io_posix io;
    struct io_posix
        journal_io; /* the same file, so that the journal hears of failed syncs itself */
    struct doorbell doorbell;
    struct workers compactors, journal_worker, growth_worker, readers;
    struct request_queue queue;
    struct dispatch dispatch;
    struct forest *forest;
    struct listener *listener;
    struct daemon_plan plan;

    bool open_done; /* set by on_open, as the two below */
    enum status open_status;
    char *reason; /* [FOREST_THREAD_REASON_SIZE], the caller's */

    pthread_t populate_threads[2]; /* for what recovery needs, and for the listener's */
    uint32_t populate_count;
    _Atomic bool populate_stop;
    pthread_t signal_thread;
    _Atomic int signal; /* the one that stops us, or 0; release by its thread, acquire by ours */
};

/* ---- Memory ------------------------------------------------------------------------------------
 */

/* The least of the machine's memory and the container's limits (cgroup v2, and v1's file). */
static uint64_t memory_limit_read(void)
{
    static const char *const paths[] = {"/sys/fs/cgroup/memory.max",
                                        "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
    struct sysinfo info;
    uint64_t limit = 0;
    if (sysinfo(&info) == 0) {
        limit = (uint64_t)info.totalram * info.mem_unit;
    }
    for (size_t i = 0; i < array_count(paths); i++) {
        FILE *file = fopen(paths[i], "re");
        if (file == NULL) {
            continue;
        }
        uint64_t value;
        if (fscanf(file, "%" SCNu64, &value) == 1 && value > 0 && (limit == 0 || value < limit)) {
            limit = value; /* "max" is not a number and sets none. */
        }
        fclose(file);
    }
    return limit;
}

static struct forest_options options_for(struct daemon *daemon)
{
    return (struct forest_options){
        .io = &daemon->io.io,
        .journal_io = &daemon->journal_io.io,
        .clock = &clock_system,
        .doorbell = &daemon->doorbell,
        .compactors = &daemon->compactors,
        .journal_worker = &daemon->journal_worker,
        .growth_worker = &daemon->growth_worker,
        .readers = &daemon->readers,
        .cache_size = daemon->config->cache_size,
        .read_slot_count = daemon->config->read_slot_count,
        .journal_wait_ns_max = journal_wait_ns_max,
        .read_budget_size = daemon->config->read_budget_size,
        .on_committed = dispatch_committed,
    };
}

static struct listener_options listener_options_for(struct daemon *daemon)
{
    const struct config *config = daemon->config;
    return (struct listener_options){
        .kind = config->listener,
        .socket_path = config->socket_path,
        .socket_mode = config->socket_mode,
        .message_size_max = (uint32_t)daemon->plan.message_size_max,
        .exchange_count = config->exchange_count,
        .connection_count_max = config->connection_count_max,
        .send_timeout_ms = config->send_timeout_ms,
        .doorbell = &daemon->doorbell,
    };
}

static void plan_fill(struct daemon *daemon)
{
    struct daemon_plan *plan = &daemon->plan;
    const struct forest_options options = options_for(daemon);
    forest_plan(&plan->geometry, &options, &plan->forest);
    plan->message_size_max = dispatch_message_size_max(&plan->geometry);
    const struct listener_options listener = listener_options_for(daemon);
    plan->message_size = listener_memory_size(&listener);
    plan->total_size = plan->forest.total_size + plan->message_size;
    plan->memory_limit = memory_limit_read();
}

/* Only what is taken for good must fit: messages come and go. */
static enum status plan_check(const struct daemon_plan *plan, char *reason)
{
    if (plan->memory_limit == 0 || plan->forest.total_size <= plan->memory_limit) {
        return STATUS_OK;
    }
    char total[32];
    char limit[32];
    size_format(plan->forest.total_size, total, sizeof total);
    size_format(plan->memory_limit, limit, sizeof limit);
    snprintf(reason, FOREST_THREAD_REASON_SIZE,
             "this needs %s of memory, but only %s are there for it; "
             "give it a smaller --cache, or raise the container's limit ('--plan' lists all)",
             total, limit);
    return STATUS_NO_MEMORY;
}

enum status forest_thread_plan(const struct config *config, struct daemon_plan *plan, char *reason)
{
    struct daemon *daemon = memory_acquire(sizeof *daemon);
    if (daemon == NULL) {
        snprintf(reason, FOREST_THREAD_REASON_SIZE, "out of memory");
        return STATUS_NO_MEMORY;
    }
    daemon->config = config;
    daemon->compactors.thread_count = config->workers; /* Planned for, not started. */
    daemon->readers.thread_count = config->readers;
    daemon->journal_worker.thread_count = 1;
    daemon->growth_worker.thread_count = 1;
    enum status status = data_file_open(&daemon->io, config->data_path, IO_POSIX_READ_ONLY, reason,
                                        FOREST_THREAD_REASON_SIZE);
    if (status == STATUS_OK) {
        status = data_file_geometry(&daemon->io.io, config->data_path, &daemon->plan.geometry,
                                    reason, FOREST_THREAD_REASON_SIZE);
        if (status == STATUS_OK) {
            plan_fill(daemon);
            *plan = daemon->plan;
        }
        io_posix_close(&daemon->io);
    }
    memory_release(daemon, sizeof *daemon);
    return status;
}

/* ---- Signals -----------------------------------------------------------------------------------
 */

static sigset_t stop_signals(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    return signals;
}

/* A thread that waits for signals instead of a handler: a handler could not ring the doorbell. */
static void *signal_run(void *context)
{
    struct daemon *daemon = context;
    const sigset_t signals = stop_signals();
    int received = 0;
    sigwait(&signals, &received);
    atomic_store_explicit(&daemon->signal, received, memory_order_release);
    doorbell_ring(&daemon->doorbell);
    /* `timeout` and terminals signal the process and its group: that is one wish, said twice. */
    const uint64_t begin_ns = clock_monotonic_ns(&clock_system);
    do {
        sigwait(&signals, &received);
    } while (clock_monotonic_ns(&clock_system) - begin_ns < signal_repeat_ns);
    LOG_WARN("stop.forced", log_text("why", "a second signal; the journal will recover"));
    _exit(EXIT_STOPPED_TWICE);
}

static bool stop_wanted(const struct daemon *daemon)
{
    return atomic_load_explicit(&daemon->signal, memory_order_acquire) != 0;
}

/* ---- Start -------------------------------------------------------------------------------------
 */

static void on_open(void *context, enum status status, const struct forest_open_report *report,
                    const char *why)
{
    struct daemon *daemon = context;
    daemon->open_done = true;
    daemon->open_status = status;
    if (status != STATUS_OK) {
        snprintf(daemon->reason, FOREST_THREAD_REASON_SIZE,
                 "%.300s cannot be recovered: %.400s. %s; nothing was changed",
                 daemon->config->data_path, why != NULL ? why : status_text(status),
                 status == STATUS_IO
                     ? "That is the device, or what is above it, not the data: look "
                       "at the system's log, and start again"
                     : "'holt verify' says what else is damaged");
        return;
    }
    LOG_INFO("forest.recovered", log_u64("checkpoint_op", report->checkpoint_op),
             log_u64("tables", report->table_count), log_u64("entries", report->entries_replayed),
             log_u64("requests", report->requests_replayed),
             log_u64("events", report->events_replayed),
             log_u64("torn_tail", report->torn_tail ? 1 : 0),
             log_u64("superblock_copies_repaired", report->copies_repaired),
             log_f64("open_ms", (double)report->open_ns / 1e6),
             log_f64("replay_ms", (double)report->replay_ns / 1e6));
}

static enum status start_teams(struct daemon *daemon)
{
    const struct config *config = daemon->config;
    const uint32_t capacity =
        forest_queue_capacity(&daemon->plan.geometry, config->read_slot_count);
    enum status status = workers_start(&daemon->compactors, "compact", config->workers, capacity);
    if (status != STATUS_OK) {
        return status;
    }
    status = workers_start(&daemon->journal_worker, "journal", 1, capacity);
    if (status != STATUS_OK) {
        goto join_compactors;
    }
    status = workers_start(&daemon->growth_worker, "growth", 1, capacity);
    if (status != STATUS_OK) {
        goto join_journal;
    }
    status = workers_start(&daemon->readers, "read", config->readers, capacity);
    if (status != STATUS_OK) {
        goto join_growth;
    }
    return STATUS_OK;

join_growth:
    workers_join(&daemon->growth_worker);
join_journal:
    workers_join(&daemon->journal_worker);
join_compactors:
    workers_join(&daemon->compactors);
    return status;
}

static void join_teams(struct daemon *daemon)
{
    workers_join(&daemon->readers);
    workers_join(&daemon->growth_worker);
    workers_join(&daemon->journal_worker);
    workers_join(&daemon->compactors);
}

static enum status recover(struct daemon *daemon)
{
    forest_open(daemon->forest, on_open, daemon);
    while (!daemon->open_done) {
        const uint64_t seen = doorbell_count(&daemon->doorbell);
        if (!forest_tick(daemon->forest)) {
            doorbell_wait(&daemon->doorbell, seen, heartbeat_ns);
        }
    }
    return daemon->open_status;
}

/* On a listener's thread. */
static void on_request(void *context, struct exchange *exchange)
{
    struct daemon *daemon = context;
    uint32_t retry_after_ms;
    if (!request_queue_push(&daemon->queue, exchange, &retry_after_ms)) {
        struct reply_header header = protocol_reply_header(&exchange->header, RESULT_BUSY, 0);
        header.retry_after_ms = retry_after_ms;
        exchange_reply(exchange, &header, sizeof header, NULL, 0);
    }
}

/* Whoever may write in a directory may put something else where our file is, unless the sticky bit
 * keeps names for their owners. Not refused: volumes of containers come like that, and there the
 * mount decides who sees them at all. */
static void warn_of_directory(const char *path)
{
    char directory[PATH_MAX] = ".";
    struct stat found;
    const char *slash = strrchr(path, '/');
    if (slash != NULL) {
        snprintf(directory, sizeof directory, "%.*s", slash == path ? 1 : (int)(slash - path),
                 path);
    }
    if (stat(directory, &found) == 0 && (found.st_mode & S_IWOTH) != 0 &&
        (found.st_mode & S_ISVTX) == 0) {
        LOG_WARN("directory.open", log_text("path", path), log_text("directory", directory),
                 log_text("why", "every user may replace what is in this directory"),
                 log_text("do", "chmod o-w, or o+t"));
    }
}

static void warn_of_surroundings(const struct daemon *daemon)
{
    const struct config *config = daemon->config;
    warn_of_directory(config->data_path);
    warn_of_directory(config->socket_path);
    if (access_is_unmapped(geteuid())) {
        LOG_WARN("access.nobody", log_u64("uid", geteuid()),
                 log_text("why", "this uid stands for every user without a number here, so whoever "
                                 "has it is denied everything, the daemon's own user too"),
                 log_text("do", "run the daemon as a user of its own"));
    }
}

static enum status start_listener(struct daemon *daemon)
{
    const struct config *config = daemon->config;
    const struct listener_options options = listener_options_for(daemon);
    const char *why = NULL;
    const enum status status =
        listener_start(&options, on_request, daemon, &daemon->listener, &why);
    if (status != STATUS_OK) {
        snprintf(daemon->reason, FOREST_THREAD_REASON_SIZE,
                 "cannot listen on %.300s: %.300s (--socket names the path%s)", config->socket_path,
                 why != NULL ? why : status_text(status),
                 config->source[CONFIG_SOCKET] == CONFIG_ENVIRONMENT
                     ? "; this one is from HOLT_SOCKET"
                     : "");
    }
    return status;
}

/* ---- Service -----------------------------------------------------------------------------------
 */

/* One turn of the loop. Returns whether anything was done. */
static bool turn(struct daemon *daemon)
{
    bool any = dispatch_take(&daemon->dispatch);
    any |= dispatch_submit(&daemon->dispatch);
    any |= forest_tick(daemon->forest);
    return any;
}

/* What an idle forest does with its time: pays what it owes (compaction, dropped grooves), and when
 * nothing is owed seals the journal. Returns whether there is something to tick for. */
static bool use_silence(struct daemon *daemon)
{
    if (forest_pay_debt(daemon->forest)) {
        return true;
    }
    forest_seal(daemon->forest);
    return !forest_is_idle(daemon->forest);
}

/* Silence begins when nothing was done for a while, and lasts until something is asked: a client
 * that asks one thing at a time leaves gaps that are not idleness. */
static void serve(struct daemon *daemon)
{
    uint64_t active_ns = clock_monotonic_ns(&clock_system);
    bool silent = false;
    while (!stop_wanted(daemon)) {
        const uint64_t seen = doorbell_count(&daemon->doorbell);
        const uint64_t taken_total = daemon->dispatch.taken_total;
        bool any = turn(daemon);
        if (daemon->dispatch.taken_total != taken_total) {
            silent = false;
        }
        any |= silent && forest_is_idle(daemon->forest) && use_silence(daemon);
        const uint64_t now_ns = clock_monotonic_ns(&clock_system);
        if (any) {
            active_ns = now_ns;
        } else if (!silent && forest_is_idle(daemon->forest) && now_ns - active_ns >= silence_ns) {
            silent = true;
            continue;
        }
        listener_wait(daemon->listener, seen, any ? 0 : silent ? heartbeat_ns : silence_ns);
    }
}

/* Turns the loop until nothing is in hand. */
static void finish(struct daemon *daemon)
{
    for (;;) {
        const uint64_t seen = doorbell_count(&daemon->doorbell);
        const bool any = turn(daemon);
        if (!any && dispatch_is_idle(&daemon->dispatch) && forest_is_idle(daemon->forest)) {
            return;
        }
        listener_wait(daemon->listener, seen, any ? 0 : heartbeat_ns);
    }
}

/* Ticks until the forest rests: what its contract asks for before it is taken apart. */
static void settle(struct daemon *daemon)
{
    while (!forest_is_idle(daemon->forest)) {
        const uint64_t seen = doorbell_count(&daemon->doorbell);
        if (!forest_tick(daemon->forest)) {
            doorbell_wait(&daemon->doorbell, seen, heartbeat_ns);
        }
    }
}

/* Answers all that was accepted, then seals the journal. False: some replies have not left in time,
 * so threads may still be in the listener, and it must not be taken apart. */
static bool stop(struct daemon *daemon)
{
    const uint64_t begin_ns = clock_monotonic_ns(&clock_system);
    const uint64_t timeout_ns = daemon->config->drain_timeout_ms * ns_per_ms;
    LOG_INFO("stop.begin", log_u64("signal", (uint64_t)atomic_load_explicit(&daemon->signal,
                                                                            memory_order_acquire)));
    listener_stop_accepting(daemon->listener);
    finish(daemon);
    /* A handler that was under way when the listener stopped accepting may push after we looked, so
     * draining and finishing take turns. */
    bool drained = listener_drain(daemon->listener, DRAIN_STEP_MS);
    while (!drained && clock_monotonic_ns(&clock_system) - begin_ns < timeout_ns) {
        finish(daemon);
        drained = listener_drain(daemon->listener, DRAIN_STEP_MS);
    }
    finish(daemon);
    forest_seal(daemon->forest);
    settle(daemon);
    return drained;
}

/* ---- Pages -------------------------------------------------------------------------------------
 */

static void *populate_run(void *context)
{
    struct daemon *daemon = context;
    (void)pthread_setname_np(pthread_self(), "holt-populate");
    memory_populate(&daemon->populate_stop);
    return NULL;
}

/* Whatever memory is held by now, beside recovery or service: clearing a GiB of pages takes the
 * kernel a second. Without the thread each page comes with the first request that needs it. */
static void populate_begin(struct daemon *daemon)
{
    assert(daemon->populate_count < array_count(daemon->populate_threads));
    pthread_t *thread = &daemon->populate_threads[daemon->populate_count];
    daemon->populate_count += pthread_create(thread, NULL, populate_run, daemon) == 0;
}

/* Before any of that memory is released. */
static void populate_end(struct daemon *daemon)
{
    atomic_store(&daemon->populate_stop, true);
    for (; daemon->populate_count > 0; daemon->populate_count--) {
        pthread_join(daemon->populate_threads[daemon->populate_count - 1], NULL);
    }
}

/* ---- Life --------------------------------------------------------------------------------------
 */

static enum status start_and_serve(struct daemon *daemon)
{
    enum status status = dispatch_init(&daemon->dispatch, daemon->forest, &daemon->queue,
                                       daemon->config, &clock_system);
    if (status != STATUS_OK) {
        snprintf(daemon->reason, FOREST_THREAD_REASON_SIZE, "out of memory");
        return status;
    }
    daemon->dispatch.message_size_max = (uint32_t)daemon->plan.message_size_max;
    daemon->dispatch.memory_limit = daemon->plan.memory_limit;
    daemon->dispatch.message_size = daemon->plan.message_size;
    status = recover(daemon);
    if (status != STATUS_OK) {
        dispatch_deinit(&daemon->dispatch);
        return status;
    }
    warn_of_surroundings(daemon);
    status = start_listener(daemon);
    if (status != STATUS_OK) {
        settle(daemon);
        dispatch_deinit(&daemon->dispatch);
        return status;
    }
    daemon->dispatch.listener = daemon->listener;
    populate_begin(daemon);
    LOG_INFO("daemon.ready", log_text("file", daemon->config->data_path),
             log_text("socket", daemon->config->socket_path),
             log_text("listener", listener_kind_name(daemon->config->listener)),
             log_u64("access_rules", daemon->config->access.count),
             log_u64("pid", (uint64_t)getpid()));

    memory_forbid_allocation();
    serve(daemon);
    const bool drained = stop(daemon);
    memory_allow_allocation();
    LOG_INFO("daemon.stopped", log_u64("drained", drained ? 1 : 0));
    if (!drained) {
        unlink(daemon->config->socket_path);
        _exit(EXIT_SUCCESS); /* Safe: everything acknowledged is durable, the journal sealed. */
    }
    populate_end(daemon);
    listener_stop(daemon->listener);
    dispatch_deinit(&daemon->dispatch);
    return STATUS_OK;
}

/* With the data file locked. */
static enum status run_locked(struct daemon *daemon)
{
    enum status status =
        data_file_geometry(&daemon->io.io, daemon->config->data_path, &daemon->plan.geometry,
                           daemon->reason, FOREST_THREAD_REASON_SIZE);
    if (status != STATUS_OK) {
        return status;
    }
    status = start_teams(daemon);
    if (status != STATUS_OK) {
        snprintf(daemon->reason, FOREST_THREAD_REASON_SIZE,
                 "the threads could not be started; give fewer with --workers and --readers, or "
                 "raise the limit of processes (ulimit -u, pids.max)");
        return status;
    }
    plan_fill(daemon);
    status = plan_check(&daemon->plan, daemon->reason);
    if (status != STATUS_OK) {
        join_teams(daemon);
        return status;
    }
    /* A quarter of what the exchanges could hold at most: a burst of full batches is told BUSY
     * while there is still room for everybody's small requests. */
    const struct listener_options listener = listener_options_for(daemon);
    const uint32_t request_max = listener_exchange_count(&listener);
    const uint64_t queue_size =
        daemon->plan.message_size_max * max_u64(daemon->config->exchange_count / 4, 1);
    status = request_queue_init(&daemon->queue, &daemon->doorbell, request_max, queue_size);
    if (status != STATUS_OK) {
        snprintf(daemon->reason, FOREST_THREAD_REASON_SIZE, "out of memory");
        join_teams(daemon);
        return status;
    }
    const struct forest_options options = options_for(daemon);
    char why[FOREST_THREAD_REASON_SIZE / 2] = "";
    daemon->forest = forest_init(&options, &status, why, sizeof why);
    if (daemon->forest == NULL) {
        snprintf(daemon->reason, FOREST_THREAD_REASON_SIZE, "%.300s: %.500s",
                 daemon->config->data_path, why[0] != '\0' ? why : status_text(status));
        request_queue_deinit(&daemon->queue);
        join_teams(daemon);
        return status;
    }
    populate_begin(daemon);
    status = start_and_serve(daemon);
    populate_end(daemon);
    /* Teams first: a reader may still be on its way out of the callback that made us idle. */
    join_teams(daemon);
    forest_deinit(daemon->forest);
    request_queue_deinit(&daemon->queue);
    return status;
}

enum status forest_thread_run(const struct config *config, char *reason)
{
    struct daemon *daemon = memory_acquire(sizeof *daemon);
    if (daemon == NULL) {
        snprintf(reason, FOREST_THREAD_REASON_SIZE, "out of memory");
        return STATUS_NO_MEMORY;
    }
    daemon->config = config;
    daemon->reason = reason;
    enum status status = data_file_open(&daemon->io, config->data_path, IO_POSIX_OPEN, reason,
                                        FOREST_THREAD_REASON_SIZE);
    if (status != STATUS_OK) {
        memory_release(daemon, sizeof *daemon);
        return status;
    }
    status = io_posix_open_again(&daemon->journal_io, &daemon->io, config->data_path);
    if (status != STATUS_OK) {
        snprintf(reason, FOREST_THREAD_REASON_SIZE, "%.300s cannot be opened once more: %s",
                 config->data_path, strerror(io_posix_errno()));
        io_posix_close(&daemon->io);
        memory_release(daemon, sizeof *daemon);
        return status;
    }

    /* Before any thread, so that all inherit it and only the signal thread gets them. */
    const sigset_t signals = stop_signals();
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    doorbell_init(&daemon->doorbell);
    if (pthread_create(&daemon->signal_thread, NULL, signal_run, daemon) != 0) {
        snprintf(reason, FOREST_THREAD_REASON_SIZE, "a thread could not be started");
        status = STATUS_NO_MEMORY;
    } else {
        status = run_locked(daemon);
        pthread_cancel(daemon->signal_thread); /* It only ever waits in sigwait. */
        pthread_join(daemon->signal_thread, NULL);
    }
    doorbell_deinit(&daemon->doorbell);
    io_posix_close(&daemon->journal_io);
    io_posix_close(&daemon->io);
    memory_release(daemon, sizeof *daemon);
    return status;
}
