/* Goal: what a daemon and a client promise does not wear off. Over a million requests of which
 * every twentieth is sent again, each takes effect once and none is lost; over these and ten
 * thousand connections neither process grows by memory, descriptors or threads.
 *
 *   endurance SOCKET PID [--requests N] [--reconnects N] [--slack KIB] [--label TEXT]
 *
 * Method: one client of libholt has sixteen *chains* under way, four of them threads that wait,
 * twelve driven by callbacks, through a proxy that hangs up and doubles (cutting_proxy.h). Each
 * chain owns one object of "counter" and knows its value and version. Its odd writes insert an
 * object into "log" and set the counter if its version is still the known one; its even writes set
 * the counter whatever it is. So a write that is lost, done twice or done late makes the next one
 * fail, and each must succeed. Now and then the counter is read: a read is never older than what
 * was acknowledged. In the end "log" must hold what was inserted.
 *
 * Then clients come and go at the daemon itself: one that only asks, one with a session and a
 * write, one that is killed in the middle of a request.
 *
 * What the processes hold is looked at ten times in each part, when nothing is under way. The
 * first half of each is for what fills up once (caches, arenas); between middle and end --slack
 * KiB may come. PID is the daemon's. The store must be new. Prints "ok NAME" or "not ok NAME" for
 * each thing that must hold. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "ipc/libholt/holt.h"
#include "tests/system/cutting_proxy.h"

enum {
    CHAIN_COUNT = 16,
    THREAD_COUNT = 4, /* chains that wait */
    ROUND_COUNT = 10,
    READ_EVERY = 16, /* writes of a chain that waits */
    HANG_UP_PERMILLE = 10,
    DOUBLE_PERMILLE = 40,
    AGAIN_PERCENT = 5,
    DEADLINE_MS = 60 * 1000,
    SETTLE_MS = 10 * 1000,
    POPULATE_MS = 60 * 1000,
    VISITOR_ID = 1000, /* the counter of those who come and go */
    RAW_FRAME_SIZE = 40,
};

struct chain {
    pthread_t thread;
    struct holt_write *write;
    uint64_t id; /* from 1 */
    uint64_t value;
    uint64_t version;
    uint64_t target; /* of value, in this round */
    uint64_t log_count;
};

struct held {
    uint64_t rss_kib;
    uint32_t fd_count;
    uint32_t thread_count;
};

static const char *socket_path;
static const char *label = "";
static int daemon_pid;
static uint64_t request_count = 20000;
static uint64_t reconnect_count = 300;
static uint64_t slack_kib = 256;

static struct holt *holt;
static struct holt_groove *counter_groove;
static struct holt_groove *log_groove;
static const struct holt_field *counter_field;
static const struct holt_field *log_field;
static struct chain chains[CHAIN_COUNT];
static struct cut_report *report;
static struct held idle; /* the daemon, before there are clients */
static bool failed;

/* Callbacks and threads end, main waits. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static uint32_t running_count;

static void judge(bool good, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void judge(bool good, const char *name, const char *format, ...)
{
    printf("%s %s%s", good ? "ok" : "not ok", label, name);
    if (format[0] != 0) {
        va_list arguments;
        va_start(arguments, format);
        printf(": ");
        vprintf(format, arguments);
        va_end(arguments);
    }
    printf("\n");
    fflush(stdout);
    failed |= !good;
}

/* There is no going on after it. */
static void give_up(const char *what, const char *why)
{
    judge(false, what, "%s", why);
    exit(1);
}

static void must(enum holt_status status, const struct holt_error *error, const char *what)
{
    if (status != HOLT_OK) {
        give_up(what, error->status == status ? error->text : holt_status_text(status));
    }
}

static uint64_t now_ms(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

/* ---- What a process holds ----------------------------------------------------------------------
 */

static uint32_t count_entries(int pid, const char *what)
{
    char path[64];
    uint32_t count = 0;
    snprintf(path, sizeof path, "/proc/%d/%s", pid, what);
    DIR *directory = opendir(path);
    if (directory == NULL) {
        give_up("the process can be looked at", path);
    }
    while (readdir(directory) != NULL) {
        count += 1;
    }
    closedir(directory);
    return count - 2; /* "." and ".." */
}

static struct held look_at(int pid)
{
    char path[64];
    char line[256];
    struct held held = {.fd_count = count_entries(pid, "fd"),
                        .thread_count = count_entries(pid, "task")};
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid); /* Exact; others are estimates. */
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        (void)sscanf(line, "Rss: %" SCNu64 " kB", &held.rss_kib);
    }
    if (file == NULL || held.rss_kib == 0) {
        give_up("the process can be looked at", path);
    }
    fclose(file);
    return held;
}

/* Whether the daemon still takes its memory, which it does beside all else. */
static bool is_populating(void)
{
    char path[300];
    char name[32];
    bool found = false;
    snprintf(path, sizeof path, "/proc/%d/task", daemon_pid);
    DIR *directory = opendir(path);
    for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;) {
        snprintf(path, sizeof path, "/proc/%d/task/%s/comm", daemon_pid, entry->d_name);
        FILE *file = fopen(path, "r");
        if (file != NULL) {
            found |= fgets(name, sizeof name, file) != NULL && strcmp(name, "holt-populate\n") == 0;
            fclose(file);
        }
    }
    if (directory == NULL) {
        give_up("the process can be looked at", path);
    }
    closedir(directory);
    return found;
}

static void wait_until_populated(void)
{
    const uint64_t deadline_ms = now_ms() + POPULATE_MS;
    while (is_populating()) {
        const struct timespec moment = {.tv_nsec = 10 * 1000 * 1000};
        nanosleep(&moment, NULL);
        if (now_ms() > deadline_ms) {
            give_up("the daemon takes its memory", "a minute was not enough");
        }
    }
}

/* Looks at the daemon until it holds no more descriptors and threads than `wanted`, for what a
 * client has hung up the daemon closes when it gets to it. */
static struct held settle(const struct held *wanted)
{
    const uint64_t deadline_ms = now_ms() + SETTLE_MS;
    struct held held = look_at(daemon_pid);
    while ((held.fd_count > wanted->fd_count || held.thread_count > wanted->thread_count) &&
           now_ms() < deadline_ms) {
        const struct timespec moment = {.tv_nsec = 2 * 1000 * 1000};
        nanosleep(&moment, NULL);
        held = look_at(daemon_pid);
    }
    return held;
}

static void held_header(const char *what)
{
    printf("# %s\n# %9s %8s | %10s %5s %7s | %10s %5s %7s\n", what, "done", "per s", "daemon KiB",
           "fds", "threads", "client KiB", "fds", "threads");
}

static void held_line(uint64_t done, double rate, const struct held *daemon,
                      const struct held *client)
{
    printf("# %9" PRIu64 " %8.0f | %10" PRIu64 " %5u %7u | %10" PRIu64 " %5u %7u\n", done, rate,
           daemon->rss_kib, daemon->fd_count, daemon->thread_count, client->rss_kib,
           client->fd_count, client->thread_count);
    fflush(stdout);
}

/* helds[0] is of the beginning, helds[n] of the end of round n. */
static void judge_flat(const char *who, const struct held helds[ROUND_COUNT + 1])
{
    char name[64];
    const struct held *first = &helds[0];
    const struct held *middle = &helds[ROUND_COUNT / 2];
    const struct held *last = &helds[ROUND_COUNT];
    snprintf(name, sizeof name, "%s: descriptors and threads as before", who);
    judge(last->fd_count == first->fd_count && last->thread_count == first->thread_count, name,
          "%u and %u, %u and %u at the end", first->fd_count, first->thread_count, last->fd_count,
          last->thread_count);
    snprintf(name, sizeof name, "%s: memory is flat", who);
    judge(last->rss_kib <= middle->rss_kib + slack_kib, name,
          "%" PRIu64 " KiB, in the middle %" PRIu64 ", at the end %" PRIu64, first->rss_kib,
          middle->rss_kib, last->rss_kib);
}

/* ---- Chains ------------------------------------------------------------------------------------
 */

/* The chain's next write. */
static void chain_fill(struct chain *chain)
{
    uint8_t counter[64] = {0};
    uint8_t entry[64] = {0};
    const uint64_t next = chain->value + 1;
    const bool odd = next % 2 == 1;
    holt_write_clear(chain->write);
    if (odd) {
        const struct holt_event insert = {
            .type = HOLT_INSERT, .groove = log_groove, .object = entry, .linked = true};
        holt_object_set_id(entry, (struct holt_id){.low = next, .high = chain->id});
        must(holt_set_unsigned(log_field, entry, next), NULL, "a write is made");
        must(holt_write_event(chain->write, &insert), NULL, "a write is made");
    }
    const struct holt_event set = {.type = odd ? HOLT_UPDATE : HOLT_UPSERT,
                                   .groove = counter_groove,
                                   .object = counter,
                                   .guard = odd ? HOLT_GUARD_VERSION : HOLT_GUARD_NONE,
                                   .version = odd ? chain->version : 0};
    holt_object_set_id(counter, (struct holt_id){.low = chain->id});
    must(holt_set_unsigned(counter_field, counter, next), NULL, "a write is made");
    must(holt_write_event(chain->write, &set), NULL, "a write is made");
}

/* The answer to it. */
static void chain_advance(struct chain *chain, enum holt_status status)
{
    if (status != HOLT_OK) {
        char why[700];
        const struct holt_failure failure = holt_write_failure(chain->write, 0);
        snprintf(why, sizeof why, "chain %" PRIu64 ", write %" PRIu64 ": %s, %s (%s)", chain->id,
                 chain->value + 1, holt_status_name(status), holt_write_text(chain->write),
                 holt_event_result_name(failure.result));
        give_up("each write takes effect once", why);
    }
    const uint64_t event_count = holt_write_event_count(chain->write);
    chain->value += 1;
    chain->version = holt_write_timestamp(chain->write) + event_count - 1;
    chain->log_count += event_count - 1;
}

static void chain_ended(void)
{
    pthread_mutex_lock(&mutex);
    running_count -= 1;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&mutex);
}

static void chain_submit(struct chain *chain);

static void chain_done(void *context, struct holt_write *write, enum holt_status status)
{
    struct chain *chain = context;
    (void)write;
    chain_advance(chain, status);
    if (chain->value < chain->target) {
        chain_submit(chain);
    } else {
        chain_ended();
    }
}

static void chain_submit(struct chain *chain)
{
    struct holt_error error;
    chain_fill(chain);
    must(holt_write_submit(chain->write, DEADLINE_MS, chain_done, chain, &error), &error,
         "a write is submitted");
}

/* What is read is what was acknowledged. */
static void chain_read(const struct chain *chain)
{
    const struct holt_id id = {.low = chain->id};
    struct holt_read *read;
    struct holt_error error;
    uint64_t value = 0;
    must(holt_lookup(holt, counter_groove, &id, 1, DEADLINE_MS, &read, &error), &error,
         "a counter is read");
    const void *object = holt_read_object(read, 0);
    if (object == NULL || holt_get_unsigned(counter_field, object, &value) != HOLT_OK ||
        value != chain->value || holt_object_version(object) != chain->version) {
        char why[100];
        snprintf(why, sizeof why, "chain %" PRIu64 ": %" PRIu64 " was read, %" PRIu64 " written",
                 chain->id, value, chain->value);
        give_up("a read sees what was acknowledged", why);
    }
    holt_read_free(read);
}

static void *chain_run(void *context)
{
    struct chain *chain = context;
    while (chain->value < chain->target) {
        struct holt_error error;
        chain_fill(chain);
        enum holt_status status = holt_write_commit(chain->write, DEADLINE_MS, &error);
        while (status == HOLT_UNKNOWN) {
            status = holt_write_resolve(chain->write, DEADLINE_MS, &error);
        }
        chain_advance(chain, status);
        if (chain->value % READ_EVERY == 0) {
            chain_read(chain);
        }
    }
    chain_ended();
    return NULL;
}

/* Each chain to its target. */
static void chains_run(void)
{
    running_count = CHAIN_COUNT;
    for (uint32_t i = THREAD_COUNT; i < CHAIN_COUNT; i++) {
        chain_submit(&chains[i]);
    }
    for (uint32_t i = 0; i < THREAD_COUNT; i++) {
        if (pthread_create(&chains[i].thread, NULL, chain_run, &chains[i]) != 0) {
            give_up("a thread starts", strerror(errno));
        }
    }
    pthread_mutex_lock(&mutex);
    while (running_count > 0) {
        pthread_cond_wait(&changed, &mutex);
    }
    pthread_mutex_unlock(&mutex);
    for (uint32_t i = 0; i < THREAD_COUNT; i++) {
        pthread_join(chains[i].thread, NULL);
    }
}

/* ---- The two parts -----------------------------------------------------------------------------
 */

static void groove_make(const char *name, struct holt_groove **groove,
                        const struct holt_field **field)
{
    struct holt_error error;
    const struct holt_field_spec value = {.name = "value", .type = HOLT_TYPE_U64};
    const struct holt_groove_spec spec = {.name = name, .fields = &value, .field_count = 1};
    must(holt_groove_create(holt, &spec, 0, &error), &error, name);
    must(holt_groove_open(holt, name, 0, groove, &error), &error, name);
    *field = holt_groove_field(*groove, "value");
}

static void chains_make(void)
{
    struct holt_error error;
    groove_make("counter", &counter_groove, &counter_field);
    groove_make("log", &log_groove, &log_field);
    for (uint32_t i = 0; i < CHAIN_COUNT; i++) {
        uint8_t object[64] = {0};
        struct chain *chain = &chains[i];
        chain->id = i + 1;
        must(holt_write_new(holt, &chain->write), NULL, "a write is made");
        holt_object_set_id(object, (struct holt_id){.low = chain->id});
        must(holt_write_insert(chain->write, counter_groove, object), NULL, "a write is made");
        must(holt_write_commit(chain->write, DEADLINE_MS, &error), &error, "a counter is made");
        chain->version = holt_write_timestamp(chain->write);
    }
}

static void judge_counts(uint64_t log_wanted)
{
    struct holt_error error;
    uint64_t log_count = 0;
    uint64_t counter_count = 0;
    for (uint32_t i = 0; i < CHAIN_COUNT; i++) {
        chain_read(&chains[i]);
    }
    must(holt_count(holt, log_groove, NULL, NULL, DEADLINE_MS, &log_count, &error), &error,
         "the log is counted");
    must(holt_count(holt, counter_groove, NULL, NULL, DEADLINE_MS, &counter_count, &error), &error,
         "the counters are counted");
    judge(log_count == log_wanted && counter_count == CHAIN_COUNT,
          "none was lost, none took effect twice", "%" PRIu64 " of %" PRIu64 " in the log",
          log_count, log_wanted);
}

static void requests_part(void)
{
    struct held daemon[ROUND_COUNT + 1];
    struct held client[ROUND_COUNT + 1];
    char cut_path[120];
    struct holt_error error;
    snprintf(cut_path, sizeof cut_path, "%s.cut", socket_path);
    const pid_t proxy = cut_start(&(struct cut_options){.path = cut_path,
                                                        .daemon_path = socket_path,
                                                        .hang_up_permille = HANG_UP_PERMILLE,
                                                        .double_permille = DOUBLE_PERMILLE,
                                                        .report = report});
    if (proxy < 0) {
        give_up("the proxy starts", strerror(errno));
    }
    const struct holt_options options = {.socket_path = cut_path,
                                         .wait_ms = DEADLINE_MS,
                                         .session = HOLT_SESSION_REQUIRED,
                                         .lane_count = CHAIN_COUNT,
                                         .no_join = true};
    must(holt_open(&options, &holt, &error), &error, "a client is opened");
    chains_make();

    const uint64_t per_round =
        (request_count + CHAIN_COUNT * ROUND_COUNT - 1) / ((uint64_t)CHAIN_COUNT * ROUND_COUNT);
    daemon[0] = look_at(daemon_pid);
    client[0] = look_at(getpid());
    held_header("requests");
    held_line(0, 0, &daemon[0], &client[0]);
    uint64_t done = 0;
    for (uint32_t round = 1; round <= ROUND_COUNT; round++) {
        const uint64_t begin_ms = now_ms();
        for (uint32_t i = 0; i < CHAIN_COUNT; i++) {
            chains[i].target += per_round;
        }
        chains_run();
        done += per_round * CHAIN_COUNT;
        const uint64_t took_ms = now_ms() - begin_ms;
        daemon[round] = settle(&daemon[0]);
        client[round] = look_at(getpid());
        held_line(done, (double)(per_round * CHAIN_COUNT) * 1000 / (double)(took_ms + 1),
                  &daemon[round], &client[round]);
    }
    struct holt_stats stats;
    holt_stats_read(holt, &stats);
    uint64_t log_wanted = 0;
    for (uint32_t i = 0; i < CHAIN_COUNT; i++) {
        log_wanted += chains[i].log_count;
    }
    judge_counts(log_wanted);
    const uint64_t again = stats.sent_again + report->doubled;
    judge(again * 100 >= done * AGAIN_PERCENT, "as many were sent again as should be",
          "%" PRIu64 " of %" PRIu64 "; %" PRIu64 " connections", again, done, stats.connections);
    judge(report->different == 0 && report->not_understood == 0 && report->equal > 0,
          "what is sent twice is answered alike",
          "%" PRIu64 ", and %" PRIu64 " BUSY; %" PRIu64 " otherwise", report->equal, report->busy,
          report->different);
    judge_flat("daemon, requests", daemon);
    judge_flat("client, requests", client);
    for (uint32_t i = 0; i < CHAIN_COUNT; i++) {
        holt_write_free(chains[i].write);
    }
    holt_close(holt);
    kill(proxy, SIGKILL);
    waitpid(proxy, NULL, 0);
    unlink(cut_path);
}

/* Half a frame, and gone. */
static void visit_and_die(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    uint8_t bytes[SP_GREETING_SIZE + RAW_FRAME_SIZE] = {0};
    strcpy(address.sun_path, socket_path);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        give_up("a visitor connects", strerror(errno));
    }
    memcpy(bytes, sp_greeting_request, SP_GREETING_SIZE);
    sp_frame_header(bytes + SP_GREETING_SIZE, 1000);
    if (!cut_send(fd, bytes, sizeof bytes)) {
        give_up("a visitor sends", strerror(errno));
    }
    close(fd);
}

static void visit(uint64_t number)
{
    struct holt_error error;
    const struct holt_options options = {.socket_path = socket_path, .wait_ms = DEADLINE_MS};
    if (number % 3 == 2) {
        visit_and_die();
        return;
    }
    must(holt_open(&options, &holt, &error), &error, "a visitor connects");
    if (number % 3 == 0) {
        must(holt_ping(holt, DEADLINE_MS, &error), &error, "a visitor asks");
    } else {
        struct holt_write *write;
        uint8_t object[64] = {0};
        holt_object_set_id(object, (struct holt_id){.low = VISITOR_ID});
        must(holt_set_unsigned(counter_field, object, number), NULL, "a visitor's write is made");
        must(holt_write_new(holt, &write), NULL, "a visitor's write is made");
        must(holt_write_upsert(write, counter_groove, object), NULL, "a visitor's write is made");
        must(holt_write_commit(write, DEADLINE_MS, &error), &error, "a visitor writes");
        holt_write_free(write);
    }
    holt_close(holt);
}

/* How many the daemon has; whoever asks has none. */
static uint64_t sessions_open(void)
{
    static const char key[] = "\"sessions\":{\"count\":";
    struct holt_error error;
    char *json;
    const struct holt_options options = {.socket_path = socket_path};
    must(holt_open(&options, &holt, &error), &error, "a client is opened");
    must(holt_stat(holt, DEADLINE_MS, &json, &error), &error, "the daemon tells");
    const char *found = strstr(json, key);
    if (found == NULL) {
        give_up("the daemon tells how many sessions there are", json);
    }
    const uint64_t count = strtoull(found + strlen(key), NULL, 10);
    holt_text_free(json);
    holt_close(holt);
    return count;
}

static void reconnects_part(void)
{
    struct held daemon[ROUND_COUNT + 1];
    struct held client[ROUND_COUNT + 1];
    for (uint64_t i = 0; i < 3; i++) {
        visit(i); /* What a client makes once is there from now on. */
    }
    daemon[0] = settle(&idle);
    client[0] = look_at(getpid());
    held_header("clients that come and go");
    held_line(0, 0, &daemon[0], &client[0]);
    const uint64_t per_round = (reconnect_count + ROUND_COUNT - 1) / ROUND_COUNT;
    uint64_t done = 0;
    for (uint32_t round = 1; round <= ROUND_COUNT; round++) {
        const uint64_t begin_ms = now_ms();
        for (uint64_t i = 0; i < per_round; i++) {
            visit(done++);
        }
        const uint64_t took_ms = now_ms() - begin_ms;
        daemon[round] = settle(&daemon[0]);
        client[round] = look_at(getpid());
        held_line(done, (double)per_round * 1000 / (double)(took_ms + 1), &daemon[round],
                  &client[round]);
    }
    judge_flat("daemon, reconnects", daemon);
    judge_flat("client, reconnects", client);
    const uint64_t sessions = sessions_open();
    judge(sessions == 0, "no session is left", "%" PRIu64, sessions);
}

static bool parse(int argc, char **argv)
{
    if (argc < 3 || argc % 2 == 0) {
        return false;
    }
    socket_path = argv[1];
    daemon_pid = atoi(argv[2]);
    for (int i = 3; i < argc; i += 2) {
        const uint64_t number = strtoull(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--requests") == 0) {
            request_count = number;
        } else if (strcmp(argv[i], "--reconnects") == 0) {
            reconnect_count = number;
        } else if (strcmp(argv[i], "--slack") == 0) {
            slack_kib = number;
        } else if (strcmp(argv[i], "--label") == 0) {
            label = argv[i + 1];
        } else {
            return false;
        }
    }
    return daemon_pid > 0 && request_count > 0 && reconnect_count > 0;
}

int main(int argc, char **argv)
{
    if (!parse(argc, argv)) {
        fprintf(stderr, "usage: endurance SOCKET PID [--requests N] [--reconnects N] "
                        "[--slack KIB] [--label TEXT]\n");
        return 64;
    }
    report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (report == MAP_FAILED) {
        return 71;
    }
    wait_until_populated();
    idle = look_at(daemon_pid);
    requests_part();
    reconnects_part();
    holt_groove_close(counter_groove);
    holt_groove_close(log_groove);
    return failed;
}
