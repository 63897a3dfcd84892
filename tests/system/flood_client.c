/* Others flood, do not read, die and connect for nothing, and a modest user is served as if they
 * did little; afterwards the daemon is what it was.
 *
 *   flood_client SOCKET DAEMON_PID
 *
 * The daemon is empty, has 512 requests and 1500 connections of a user, a send timeout of 100 ms.
 * How long an answer takes is the machine's to say, so what is counted is others' requests between
 * two of the modest user's: as many as a fair turn has, not as many as wait. As root the others are
 * another user; otherwise those counts, which need two users, are left out. Prints "ok" or "not ok"
 * with a sentence, one line each; exit code 1 if anything was wrong. */
#include <assert.h>
#include <dirent.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "benchmarks/ipc/attack.h"
#include "ipc/client.h"

enum {
    GREEDY_UID = 3101,
    MODEST_UID = 3102,
    CALL_TIMEOUT_MS = 60 * 1000,
    WAIT_MS = 20 * 1000,
    FILL_EVENTS = ATTACK_EVENT_MAX,
    SCANNED_COUNT = 40000, /* 1 MB of index entries: several turns of a reader */
    FIRST_SCANNED_ID = 1 << 20,
    MODEST_ID = 1 << 30,
    SAMPLE_COUNT = 41,
    /* Of what floods, 384 and more wait at any time. A share of each of two batches, and what is
     * done until the modest user's process asks again, are less than a third of that. */
    BETWEEN_MAX = 128,
    /* Counts: 12 would be in the readers' queue before any that comes, if nobody else were there.
     */
    COUNTS_BETWEEN_MAX = 8,
    KILL_ROUNDS = 100,
    KILLED_AT_ONCE = 10,
};

static const char *socket_path;
static const char *daemon_pid;
static uint32_t groove_id;
static struct client *modest; /* its requests are the modest user's, for its uid is the kernel's */
static bool all_good = true;

static void verdict(bool good, const char *text)
{
    printf("%s %s\n", good ? "ok" : "not ok", text);
    (void)fflush(stdout);
    all_good &= good;
}

static _Noreturn void end(const char *what, const char *why)
{
    printf("not ok %s: %s\n", what, why);
    exit(1);
}

static bool is_root(void)
{
    return getuid() == 0;
}

/* Connects as the modest user; this process stays whose it is. */
static struct client *open_modest(void)
{
    struct client *client;
    if (is_root() && seteuid(MODEST_UID) != 0) {
        end("seteuid", strerror(errno));
    }
    const enum client_status status =
        client_open(&(struct client_options){.socket_path = socket_path}, &client);
    if (is_root() && seteuid(0) != 0) {
        end("seteuid", strerror(errno));
    }
    if (status != CLIENT_OK) {
        end("the modest user connects", client_status_text(status));
    }
    return client;
}

static struct client_reply call(enum operation operation, const void *body, uint32_t body_size)
{
    for (;;) {
        struct client_reply reply;
        const enum client_status status =
            client_call(modest, operation, body, body_size, CALL_TIMEOUT_MS, &reply);
        if (status != CLIENT_OK) {
            end(operation_name(operation), client_status_text(status));
        }
        if (reply.result != RESULT_BUSY) {
            if (reply.result != RESULT_OK) {
                end(operation_name(operation), result_name(reply.result));
            }
            return reply;
        }
        (void)poll(NULL, 0, (int)reply.retry_after_ms);
    }
}

static struct client_reply ask(enum operation operation)
{
    uint8_t body[256];
    return call(operation, body, attack_body(body, operation, groove_id, MODEST_ID, 1));
}

/* A number of STAT's. */
static uint64_t stat_number(const char *name)
{
    char wanted[64];
    static char text[64 * 1024];
    const struct client_reply reply = call(OPERATION_STAT, NULL, 0);
    const size_t size = min_u64(reply.body_size, sizeof text - 1);
    memcpy(text, reply.body, size);
    text[size] = 0;
    (void)snprintf(wanted, sizeof wanted, "\"%s\":", name);
    const char *found = strstr(text, wanted);
    if (found == NULL) {
        end("STAT", name);
    }
    return strtoull(found + strlen(wanted), NULL, 10);
}

static void fill(void)
{
    static struct wire_groove_spec spec;
    static uint8_t body[ATTACK_BODY_MAX];
    struct create_groove_reply created;
    attack_groove_spec(&spec, "flooded");
    memcpy(&created, call(OPERATION_CREATE_GROOVE, &spec, sizeof spec).body, sizeof created);
    groove_id = created.groove_id;
    for (uint32_t done = 0; done < SCANNED_COUNT; done += FILL_EVENTS) {
        const uint32_t size =
            attack_write_body(body, groove_id, FIRST_SCANNED_ID + done, FILL_EVENTS, 1);
        (void)call(OPERATION_WRITE, body, size);
    }
    (void)ask(OPERATION_WRITE);
}

/* ---- What the daemon has -----------------------------------------------------------------------
 */

/* Entries of /proc/PID/NAME: "fd" or "task". */
static uint32_t count_of(const char *name)
{
    char path[100];
    (void)snprintf(path, sizeof path, "/proc/%s/%s", daemon_pid, name);
    DIR *directory = opendir(path);
    if (directory == NULL) {
        end(path, strerror(errno));
    }
    uint32_t count = 0;
    for (const struct dirent *entry = readdir(directory); entry != NULL;
         entry = readdir(directory)) {
        count += entry->d_name[0] != '.';
    }
    closedir(directory);
    return count;
}

/* Until nobody but the modest user is connected, and what belonged to others is given back. */
static void expect_as_before(const char *after, uint32_t fds, uint32_t threads)
{
    char text[200];
    const uint64_t end_ns = clock_monotonic_ns(&clock_system) + WAIT_MS * UINT64_C(1000000);
    while ((stat_number("connections") > 1 || stat_number("exchanges_busy") > 1 ||
            count_of("fd") > fds || count_of("task") > threads) &&
           clock_monotonic_ns(&clock_system) < end_ns) {
        (void)poll(NULL, 0, 10);
    }
    (void)snprintf(text, sizeof text,
                   "after %s: %" PRIu64 " connections, %u of %u descriptors, %u of %u threads",
                   after, stat_number("connections"), count_of("fd"), fds, count_of("task"),
                   threads);
    verdict(stat_number("connections") == 1 && count_of("fd") <= fds && count_of("task") <= threads,
            text);
}

/* ---- Floods ------------------------------------------------------------------------------------
 */

static void become_greedy(void)
{
    if (is_root() && (setresgid(GREEDY_UID, GREEDY_UID, GREEDY_UID) != 0 ||
                      setresuid(GREEDY_UID, GREEDY_UID, GREEDY_UID) != 0)) {
        attack_end("setresuid");
    }
    (void)!nice(19);
}

static pid_t start(const struct attack *attack)
{
    const pid_t child = fork();
    if (child == 0) {
        become_greedy();
        attack_run(attack, socket_path, groove_id);
    }
    if (child < 0) {
        end("fork", strerror(errno));
    }
    return child;
}

static void stop(pid_t child, const char *name)
{
    if (waitpid(child, NULL, WNOHANG) != 0) {
        end(name, "it ended by itself");
    }
    (void)kill(child, SIGKILL);
    (void)waitpid(child, NULL, 0);
}

static int compare(const void *left, const void *right)
{
    const uint64_t a = *(const uint64_t *)left;
    const uint64_t b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

/* How many others' requests there are between two of the modest user's, in the median: of writes by
 * the numbers of their commits, of reads by what the daemon says it has taken. */
static uint64_t others_between(const struct attack *attack, enum operation asked)
{
    uint64_t samples[SAMPLE_COUNT];
    if (asked == OPERATION_WRITE && attack->operation == OPERATION_WRITE) {
        uint64_t before = ask(OPERATION_WRITE).commit;
        for (uint32_t i = 0; i < SAMPLE_COUNT; i++) {
            const uint64_t commit = ask(OPERATION_WRITE).commit;
            samples[i] = commit - before - 1;
            before = commit;
        }
    } else {
        for (uint32_t i = 0; i < SAMPLE_COUNT; i++) {
            const uint64_t before = stat_number(operation_name(attack->operation));
            (void)ask(asked);
            samples[i] = stat_number(operation_name(attack->operation)) - before;
        }
    }
    qsort(samples, SAMPLE_COUNT, sizeof samples[0], compare);
    return samples[SAMPLE_COUNT / 2];
}

static void flood(const struct attack *attack, enum operation asked, uint64_t between_max)
{
    char text[200];
    const pid_t child = start(attack);
    const uint64_t begun = stat_number(operation_name(attack->operation));
    const uint64_t enough =
        begun + 4 * (uint64_t)attack->connections * attack->in_flight; /* It is under way. */
    while (stat_number(operation_name(attack->operation)) < enough) {
        (void)ask(asked);
    }
    const uint64_t between = others_between(attack, asked);
    stop(child, attack->name);
    (void)snprintf(text, sizeof text,
                   "%s: %" PRIu64 " of others' between two %ss of the modest user", attack->name,
                   between, operation_name(asked));
    verdict(!is_root() || between <= between_max, text);
}

/* ---- Others ------------------------------------------------------------------------------------
 */

static void deaf(void)
{
    static const struct attack attack = {
        "16 that do not read", ATTACK_DEAF, OPERATION_QUERY, 16, 4, 0, 0};
    char text[200];
    const uint64_t before = stat_number("send_timeouts");
    const pid_t child = start(&attack);
    const uint64_t end_ns = clock_monotonic_ns(&clock_system) + WAIT_MS * UINT64_C(1000000);
    uint32_t served = 0;
    while (stat_number("send_timeouts") < before + 2ull * attack.connections &&
           clock_monotonic_ns(&clock_system) < end_ns) {
        (void)ask(served % 2 == 0 ? OPERATION_WRITE : OPERATION_LOOKUP);
        served += 1;
    }
    stop(child, attack.name);
    (void)snprintf(text, sizeof text, "%s lose their connections, %u requests are served meanwhile",
                   attack.name, served);
    verdict(stat_number("send_timeouts") >= before + 2ull * attack.connections && served > 0, text);
}

/* The modest user is served until the child ends. */
static void serve_until_end(pid_t child, const char *name)
{
    char text[200];
    int status = 0;
    uint32_t served = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
        (void)ask(served % 2 == 0 ? OPERATION_WRITE : OPERATION_LOOKUP);
        served += 1;
    }
    (void)snprintf(text, sizeof text, "%s: %u requests are served meanwhile", name, served);
    verdict(WIFEXITED(status) && WEXITSTATUS(status) == 0 && served > 0, text);
}

/* Clients that are killed with requests in flight: of writes, and of answers too large for their
 * socket. */
static void kill_clients(void)
{
    static const struct attack kinds[] = {
        {"", ATTACK_FLOOD, OPERATION_WRITE, 2, 8, 1, 0},
        {"", ATTACK_FLOOD, OPERATION_QUERY, 1, 2, 0, 0},
        {"", ATTACK_DEAF, OPERATION_QUERY, 1, 4, 0, 0},
    };
    for (uint32_t round = 0; round < KILL_ROUNDS; round++) {
        pid_t clients[KILLED_AT_ONCE];
        for (uint32_t i = 0; i < KILLED_AT_ONCE; i++) {
            clients[i] = fork();
            if (clients[i] == 0) {
                attack_run(&kinds[i < 2 ? 1 + i : 0], socket_path, groove_id);
            }
        }
        (void)poll(NULL, 0, 1 + (int)(round % 8)); /* Any moment will do for a death. */
        for (uint32_t i = 0; i < KILLED_AT_ONCE; i++) {
            int status = 0;
            (void)kill(clients[i], SIGKILL);
            (void)waitpid(clients[i], &status, 0);
            if (!WIFSIGNALED(status)) {
                _exit(1);
            }
        }
    }
}

int main(int argc, char **argv)
{
    static const struct attack writes = {
        "100 connections, 8 writes deep", ATTACK_FLOOD, OPERATION_WRITE, 100, 8, 1, 0};
    static const struct attack lookups = {
        "100 connections, 8 lookups deep", ATTACK_FLOOD, OPERATION_LOOKUP, 100, 8, 1, 0};
    static const struct attack counts = {
        "16 connections, 2 long counts deep", ATTACK_FLOOD, OPERATION_COUNT, 16, 2, 0, 0};
    static const struct attack many = {
        "1000 idle, 400 that write", ATTACK_FLOOD, OPERATION_WRITE, 400, 1, 1, 1000};
    if (argc != 3) {
        fprintf(stderr, "usage: flood_client SOCKET DAEMON_PID\n");
        return 64;
    }
    socket_path = argv[1];
    daemon_pid = argv[2];
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    modest = open_modest();
    fill();
    const uint32_t fds = count_of("fd");
    const uint32_t threads = count_of("task");

    flood(&writes, OPERATION_WRITE, BETWEEN_MAX);
    flood(&lookups, OPERATION_LOOKUP, BETWEEN_MAX);
    flood(&counts, OPERATION_LOOKUP, COUNTS_BETWEEN_MAX);
    flood(&many, OPERATION_WRITE, BETWEEN_MAX);
    expect_as_before("floods", fds, threads);
    deaf();
    expect_as_before("those who do not read", fds, threads);

    pid_t child = fork();
    if (child == 0) {
        become_greedy();
        attack_die(socket_path, groove_id, 1000);
        _exit(0);
    }
    serve_until_end(child, "1000 that die at each byte");
    child = fork();
    if (child == 0) {
        become_greedy();
        attack_storm(socket_path, 2000);
        _exit(0);
    }
    serve_until_end(child, "2000 that connect and hang up");
    child = fork();
    if (child == 0) {
        become_greedy();
        kill_clients();
        _exit(0);
    }
    serve_until_end(child, "1000 that are killed with requests in flight");
    expect_as_before("those who died", fds, threads);
    client_close(modest);
    return all_good ? 0 : 1;
}
