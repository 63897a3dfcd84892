/* What others cost a user who is modest: one who floods, who asks for long scans, who does not read
 * what he asked for, who dies, who connects for nothing.
 *
 *   fair_load SOCKET [ROUNDS [MILLISECONDS [NAME]]]
 *
 * Exit code 2: beside some attack his median was more than twice what it is alone, or twice what
 * the machine alone makes of it.
 *
 * The modest user asks one thing at a time, a write and a lookup by turns, alone and beside each
 * attack (or those whose name has NAME in it), in rounds that alternate. Run as root the two are
 * different users, otherwise two processes of one. An attack is given the processors last; what it
 * takes from them and from the disk all the same is seen in a durable echo that the modest user
 * asks in the same turns: a process of his own at the other end of a socket, which does one durable
 * write, or none. So what the daemon adds is the ratio of his answers less that of the echo's, and
 * he is within bounds while his median is at most twice its own alone, or twice as many times that
 * as the echo's is its own: 2 x max(1, the echo's ratio). */
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "benchmarks/ipc/attack.h"
#include "benchmarks/ipc/echo_file.h"
#include "ipc/client.h"

enum {
    GREEDY_UID = 30001,
    MODEST_UID = 30002,
    LATENCY_MAX = 1 << 18, /* of one thing asked, in all rounds beside one attack */
    TIMEOUT_MS = 60 * 1000,
    SCANNED_COUNT = 400 * 1000, /* objects that a long scan passes */
    FILL_EVENTS = 4000,
    FIRST_SCANNED_ID = 1 << 20,
    MODEST_ID = 1 << 30,
};

enum asked { ASKED_WRITE, ASKED_READ, ASKED_ECHO_WRITE, ASKED_ECHO, ASKED_COUNT };
enum phase { PHASE_ALONE, PHASE_BESIDE, PHASE_COUNT };

static const struct attack attacks[] = {
    {"one connection, 1000 writes deep", ATTACK_FLOOD, OPERATION_WRITE, 1, 1000, 1, 0},
    {"200 connections, 4 writes deep", ATTACK_FLOOD, OPERATION_WRITE, 200, 4, 1, 0},
    {"8 connections, 4 writes of 51 KB deep", ATTACK_FLOOD, OPERATION_WRITE, 8, 4, ATTACK_EVENT_MAX,
     0},
    {"200 connections, 4 lookups deep", ATTACK_FLOOD, OPERATION_LOOKUP, 200, 4, 1, 0},
    {"32 connections, 8 lookups deep", ATTACK_FLOOD, OPERATION_LOOKUP, 32, 8, 1, 0},
    {"8 connections, 2 long counts deep", ATTACK_FLOOD, OPERATION_COUNT, 8, 2, 0, 0},
    {"8 connections, 2 queries of 1 MiB deep", ATTACK_FLOOD, OPERATION_QUERY, 8, 2, 0, 0},
    {"32 connections, 8 STAT deep", ATTACK_FLOOD, OPERATION_STAT, 32, 8, 0, 0},
    {"32 that do not read 1 MiB each", ATTACK_DEAF, OPERATION_QUERY, 32, 2, 0, 0},
    {"clients that die at each byte", ATTACK_DIE, OPERATION_WRITE, 1, 1, 1, 0},
    {"connect and close", ATTACK_STORM, OPERATION_PING, 1, 1, 0, 0},
    {"1000 idle, 1000 that write", ATTACK_FLOOD, OPERATION_WRITE, 1000, 1, 1, 1000},
};

static const char *socket_path;
static uint32_t groove_id;

/* Written by the modest user's process. */
struct latencies {
    uint32_t count[PHASE_COUNT];
    uint32_t busy[PHASE_COUNT];
    uint64_t ns[PHASE_COUNT][ASKED_COUNT][LATENCY_MAX];
};
static struct latencies *latencies; /* shared */

static _Noreturn void end(const char *what, const char *why)
{
    fprintf(stderr, "fair_load: %s: %s\n", what, why);
    exit(1);
}

static void become(uint32_t uid)
{
    if (geteuid() == 0 && (setresgid(uid, uid, uid) != 0 || setresuid(uid, uid, uid) != 0)) {
        end("setresuid", "refused");
    }
}

static struct client *open_client(void)
{
    struct client *client;
    const enum client_status status =
        client_open(&(struct client_options){.socket_path = socket_path}, &client);
    if (status != CLIENT_OK) {
        end("connect", client_status_text(status));
    }
    return client;
}

static struct client_reply call(struct client *client, enum operation operation, const void *body,
                                uint32_t body_size)
{
    struct client_reply reply;
    const enum client_status status =
        client_call(client, operation, body, body_size, TIMEOUT_MS, &reply);
    if (status != CLIENT_OK || (reply.result != RESULT_OK && reply.result != RESULT_BUSY)) {
        end(operation_name(operation),
            status != CLIENT_OK ? client_status_text(status) : result_name(reply.result));
    }
    return reply;
}

/* ---- The echo ----------------------------------------------------------------------------------
 */

/* Returns the end to ask at; the process is killed with this one. */
static int echo_start(void)
{
    int ends[2];
    char path[200];
    (void)snprintf(path, sizeof path, "%s.echo", socket_path);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) {
        end("socketpair", strerror(errno));
    }
    const pid_t child = fork();
    if (child < 0) {
        end("fork", strerror(errno));
    }
    if (child > 0) {
        close(ends[1]);
        return ends[0];
    }
    close(ends[0]);
    static struct echo_file file;
    echo_file_open(&file, path);
    (void)unlink(path);
    uint8_t bytes[ATTACK_OBJECT_SIZE];
    while (recv(ends[1], bytes, sizeof bytes, MSG_WAITALL) == sizeof bytes) {
        if (bytes[0] == ASKED_ECHO_WRITE) {
            echo_file_add(&file, bytes, sizeof bytes);
            echo_file_write(&file);
        }
        if (send(ends[1], bytes, sizeof bytes, MSG_NOSIGNAL) != sizeof bytes) {
            break;
        }
    }
    _exit(0);
}

static void echo_ask(int echo, enum asked asked)
{
    uint8_t bytes[ATTACK_OBJECT_SIZE] = {(uint8_t)asked};
    if (send(echo, bytes, sizeof bytes, MSG_NOSIGNAL) != sizeof bytes ||
        recv(echo, bytes, sizeof bytes, MSG_WAITALL) != sizeof bytes) {
        end("the echo", "ended early");
    }
}

/* ---- The modest user ---------------------------------------------------------------------------
 */

static void ask(struct client *client, int echo, enum asked asked, enum phase phase)
{
    uint8_t body[256];
    const enum operation operation = asked == ASKED_WRITE ? OPERATION_WRITE : OPERATION_LOOKUP;
    if (asked == ASKED_ECHO || asked == ASKED_ECHO_WRITE) {
        echo_ask(echo, asked);
        return;
    }
    const uint32_t body_size = attack_body(body, operation, groove_id, MODEST_ID, 1);
    for (;;) {
        const struct client_reply reply = call(client, operation, body, body_size);
        if (reply.result == RESULT_OK) {
            return;
        }
        latencies->busy[phase] += 1;
        usleep(reply.retry_after_ms * 1000);
    }
}

static _Noreturn void modest_run(int echo, enum phase phase, uint32_t ms)
{
    become(MODEST_UID);
    struct client *client = open_client();
    const uint64_t end_ns = clock_monotonic_ns(&clock_system) + ms * UINT64_C(1000000);
    uint32_t *count = &latencies->count[phase];
    while (clock_monotonic_ns(&clock_system) < end_ns && *count < LATENCY_MAX) {
        for (enum asked asked = 0; asked < ASKED_COUNT; asked++) {
            const uint64_t begin_ns = clock_monotonic_ns(&clock_system);
            ask(client, echo, asked, phase);
            latencies->ns[phase][asked][*count] = clock_monotonic_ns(&clock_system) - begin_ns;
        }
        *count += 1;
    }
    _exit(0);
}

static void measure(int echo, enum phase phase, uint32_t ms)
{
    const pid_t child = fork();
    if (child == 0) {
        modest_run(echo, phase, ms);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
        end("the modest user", "ended early");
    }
}

/* ---- Rounds ------------------------------------------------------------------------------------
 */

static pid_t attack_start(const struct attack *attack)
{
    const pid_t child = fork();
    if (child != 0) {
        return child;
    }
    become(GREEDY_UID);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* If the modest user has no luck. */
    (void)!nice(19);
    attack_run(attack, socket_path, groove_id);
}

static int compare(const void *left, const void *right)
{
    const uint64_t a = *(const uint64_t *)left;
    const uint64_t b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

struct quantiles {
    double p50, p99, max; /* us */
};

static struct quantiles quantiles_of(enum phase phase, enum asked asked)
{
    uint64_t *ns = latencies->ns[phase][asked];
    const uint32_t count = latencies->count[phase];
    qsort(ns, count, sizeof *ns, compare);
    return (struct quantiles){
        .p50 = (double)ns[count / 2] / 1e3,
        .p99 = (double)ns[count * 99 / 100] / 1e3,
        .max = (double)ns[count - 1] / 1e3,
    };
}

static const double ratio_max = 2; /* of medians, for each time that the echo's is its own alone */

/* Returns whether what was asked for stayed within bounds. */
static bool print(const char *name, enum asked asked, enum asked echo)
{
    const struct quantiles alone = quantiles_of(PHASE_ALONE, asked);
    const struct quantiles beside = quantiles_of(PHASE_BESIDE, asked);
    const struct quantiles echo_alone = quantiles_of(PHASE_ALONE, echo);
    const struct quantiles echo_beside = quantiles_of(PHASE_BESIDE, echo);
    const double ratio = beside.p50 / alone.p50;
    const double echo_ratio = echo_beside.p50 / echo_alone.p50;
    const double bound = ratio_max * (echo_ratio > 1 ? echo_ratio : 1);
    printf("    %-6s %7.0f %7.0f %8.0f  %7.0f %7.0f %8.0f  %5.1f %5.1f  %5.1f %5.1f  %5.1f\n", name,
           alone.p50, alone.p99, alone.max, beside.p50, beside.p99, beside.max, ratio,
           beside.p99 / alone.p99, echo_ratio, echo_beside.p99 / echo_alone.p99, bound);
    return ratio <= bound;
}

/* Returns whether the modest user stayed within bounds. */
static bool run(const struct attack *attack, int echo, uint32_t rounds, uint32_t ms)
{
    memset(latencies->count, 0, sizeof latencies->count);
    memset(latencies->busy, 0, sizeof latencies->busy);
    for (uint32_t round = 0; round < rounds; round++) {
        measure(echo, PHASE_ALONE, ms);
        const pid_t child = attack_start(attack);
        usleep(200 * 1000); /* So that it is under way. */
        measure(echo, PHASE_BESIDE, ms);
        int status;
        if (child < 0 || waitpid(child, &status, WNOHANG) != 0) {
            end(attack->name, "ended early");
        }
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        usleep(100 * 1000); /* What is left of it in the daemon. */
    }
    printf("%s\n", attack->name);
    const bool writes_within = print("write", ASKED_WRITE, ASKED_ECHO_WRITE);
    const bool lookups_within = print("lookup", ASKED_READ, ASKED_ECHO);
    printf("    within 2x (of what the echo did): write %s, lookup %s\n",
           writes_within ? "yes" : "no", lookups_within ? "yes" : "no");
    if (latencies->busy[PHASE_BESIDE] > 0) {
        printf("    told BUSY %" PRIu32 " times\n", latencies->busy[PHASE_BESIDE]);
    }
    fflush(stdout);
    return writes_within && lookups_within;
}

/* ---- Main --------------------------------------------------------------------------------------
 */

static void fill(void)
{
    static struct wire_groove_spec spec;
    static uint8_t body[sizeof(struct wire_section) + FILL_EVENTS * ATTACK_OBJECT_SIZE];
    struct create_groove_reply created;
    struct client *client = open_client();
    attack_groove_spec(&spec, "fair");
    memcpy(&created, call(client, OPERATION_CREATE_GROOVE, &spec, sizeof spec).body,
           sizeof created);
    groove_id = created.groove_id;
    for (uint32_t done = 0; done < SCANNED_COUNT; done += FILL_EVENTS) {
        const uint32_t size =
            attack_write_body(body, groove_id, FIRST_SCANNED_ID + done, FILL_EVENTS, 1);
        while (call(client, OPERATION_WRITE, body, size).result == RESULT_BUSY) {
        }
    }
    client_close(client);
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 5) {
        fprintf(stderr, "usage: fair_load SOCKET [ROUNDS [MILLISECONDS [NAME]]]\n");
        return 64;
    }
    socket_path = argv[1];
    const uint32_t rounds = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 3;
    const uint32_t ms = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 1000;
    const char *name = argc > 4 ? argv[4] : "";
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    latencies =
        mmap(NULL, sizeof *latencies, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (latencies == MAP_FAILED) {
        end("mmap", strerror(errno));
    }
    fill();
    const int echo = echo_start();
    echo_ask(echo, ASKED_ECHO); /* Its file is there. */
    printf("    %-6s %24s  %24s  %11s  %11s  %5s\n", "", "alone: p50 p99 max us",
           "beside: p50 p99 max us", "x p50, p99", "echo x", "bound");
    bool within = true;
    for (size_t i = 0; i < array_count(attacks); i++) {
        if (strstr(attacks[i].name, name) != NULL) {
            within &= run(&attacks[i], echo, rounds, ms);
        }
    }
    return within ? 0 : 2;
}
