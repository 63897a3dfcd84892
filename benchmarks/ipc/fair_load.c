/* What a user who floods costs another one. The modest user asks one thing at a time, a write and a
 * read by turns, alone and then beside a flood of each shape; how long the answers take is
 * compared.
 *
 *   fair_load SOCKET [SECONDS]
 *
 * Run as root the two are different users, otherwise two processes of one. The flood sends again
 * what is answered, and waits as long as it is told when that is BUSY. It is given the processors
 * last, so that what is measured is what it costs in the daemon. */
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ipc/client.h"
#include "pool/base.h"
#include "pool/clock.h"

enum {
    GREEDY_UID = 30001,
    MODEST_UID = 30002,
    OBJECT_SIZE = 128,
    EVENT_MAX = 400,
    LATENCY_MAX = 1 << 18,
    TIMEOUT_MS = 60 * 1000,
    KIND_COUNT = 2, /* a write, a read */
};

static const struct shape {
    const char *name;
    enum operation operation;
    uint32_t connections, in_flight, events;
} shapes[] = {
    {"one connection, 1000 writes deep", OPERATION_WRITE, 1, 1000, 1},
    {"200 connections, 4 writes deep", OPERATION_WRITE, 200, 4, 1},
    {"8 connections, 4 writes of 51 KB deep", OPERATION_WRITE, 8, 4, EVENT_MAX},
    {"32 connections, 8 lookups deep", OPERATION_LOOKUP, 32, 8, 1},
    {"32 connections, 8 STAT deep", OPERATION_STAT, 32, 8, 0},
};

static const char *socket_path;
static uint32_t groove_id;

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

/* Ids from `first` on: the same objects again and again, so that the store does not grow. */
static uint32_t make_body(const struct shape *shape, uint64_t first, uint8_t *body)
{
    if (shape->operation == OPERATION_STAT) {
        return 0;
    }
    if (shape->operation == OPERATION_LOOKUP) {
        const struct lookup_request lookup = {.groove_id = groove_id, .id_count = 1};
        memcpy(body, &lookup, sizeof lookup);
        memset(body + sizeof lookup, 0, WIRE_ID_SIZE);
        memcpy(body + sizeof lookup, &first, sizeof first);
        return (uint32_t)sizeof lookup + WIRE_ID_SIZE;
    }
    const struct wire_section section = {
        .groove_id = groove_id, .event_type = WIRE_EVENT_TYPE_UPSERT, .event_count = shape->events};
    memcpy(body, &section, sizeof section);
    for (uint32_t i = 0; i < shape->events; i++) {
        uint8_t *image = body + sizeof section + (size_t)i * OBJECT_SIZE;
        const uint64_t id = first + i;
        memset(image, 0, OBJECT_SIZE);
        memcpy(image, &id, sizeof id);
    }
    return (uint32_t)sizeof section + shape->events * OBJECT_SIZE;
}

/* ---- The flood ---------------------------------------------------------------------------------
 */

struct flood {
    const struct shape *shape;
    uint64_t first;
};

static void *flood_run(void *context)
{
    const struct flood *flood = context;
    const struct shape *shape = flood->shape;
    uint8_t *body = malloc(sizeof(struct wire_section) + EVENT_MAX * OBJECT_SIZE);
    if (body == NULL) {
        end("malloc", "out of memory");
    }
    const uint32_t body_size = make_body(shape, flood->first, body);
    struct client *client = open_client();
    uint64_t pause_end_ns = 0; /* It goes on reading meanwhile. */
    for (;;) {
        struct client_reply reply;
        enum client_status status = CLIENT_OK;
        uint64_t now_ns = clock_monotonic_ns(&clock_system);
        if (client_in_flight(client) == 0 && now_ns < pause_end_ns) {
            usleep((useconds_t)((pause_end_ns - now_ns) / 1000 + 1));
            now_ns = pause_end_ns;
        }
        while (status == CLIENT_OK && now_ns >= pause_end_ns &&
               client_in_flight(client) < shape->in_flight) {
            status = client_send(client, shape->operation, body, body_size, TIMEOUT_MS, NULL);
        }
        if (status == CLIENT_OK) {
            status = client_receive(client, TIMEOUT_MS, &reply);
        }
        if (status != CLIENT_OK) {
            end("the flood", client_status_text(status));
        }
        if (reply.result == RESULT_BUSY) {
            pause_end_ns =
                clock_monotonic_ns(&clock_system) + reply.retry_after_ms * UINT64_C(1000000);
        }
    }
    return NULL;
}

static pid_t flood_start(const struct shape *shape)
{
    const pid_t child = fork();
    if (child != 0) {
        return child;
    }
    become(GREEDY_UID);
    (void)!nice(19);
    static struct flood floods[256];
    for (uint32_t i = 0; i < shape->connections; i++) {
        pthread_t thread;
        floods[i] = (struct flood){.shape = shape, .first = 1 + i * (uint64_t)EVENT_MAX};
        if (pthread_create(&thread, NULL, flood_run, &floods[i]) != 0) {
            end("pthread_create", "refused");
        }
    }
    pause();
    _exit(0);
}

/* ---- The modest user ---------------------------------------------------------------------------
 */

struct measured {
    double p50_us[KIND_COUNT], p99_us[KIND_COUNT];
    uint64_t count;
};

static int compare(const void *left, const void *right)
{
    const uint64_t a = *(const uint64_t *)left;
    const uint64_t b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static void modest_run(uint32_t seconds, int out)
{
    static uint64_t latency_ns[KIND_COUNT][LATENCY_MAX];
    static const struct shape kinds[KIND_COUNT] = {{"", OPERATION_WRITE, 1, 1, 1},
                                                   {"", OPERATION_LOOKUP, 1, 1, 1}};
    struct measured measured = {0};
    become(MODEST_UID);
    struct client *client = open_client();
    const uint64_t end_ns = clock_monotonic_ns(&clock_system) + seconds * UINT64_C(1000000000);
    while (clock_monotonic_ns(&clock_system) < end_ns && measured.count < LATENCY_MAX) {
        for (uint32_t kind = 0; kind < KIND_COUNT; kind++) {
            uint8_t body[256];
            struct client_reply reply;
            const uint32_t body_size = make_body(&kinds[kind], 1u << 30, body);
            const uint64_t begin_ns = clock_monotonic_ns(&clock_system);
            const enum client_status status =
                client_call(client, kinds[kind].operation, body, body_size, TIMEOUT_MS, &reply);
            latency_ns[kind][measured.count] = clock_monotonic_ns(&clock_system) - begin_ns;
            if (status != CLIENT_OK || reply.result != RESULT_OK) {
                end("the modest user",
                    status != CLIENT_OK ? client_status_text(status) : result_name(reply.result));
            }
        }
        measured.count += 1;
    }
    client_close(client);
    for (uint32_t kind = 0; kind < KIND_COUNT && measured.count > 0; kind++) {
        qsort(latency_ns[kind], measured.count, sizeof latency_ns[kind][0], compare);
        measured.p50_us[kind] = (double)latency_ns[kind][measured.count / 2] / 1e3;
        measured.p99_us[kind] = (double)latency_ns[kind][measured.count * 99 / 100] / 1e3;
    }
    if (write(out, &measured, sizeof measured) != sizeof measured) {
        end("pipe", "refused");
    }
}

static struct measured measure(uint32_t seconds)
{
    struct measured measured;
    int ends[2];
    if (pipe(ends) != 0) {
        end("pipe", "refused");
    }
    const pid_t child = fork();
    if (child == 0) {
        modest_run(seconds, ends[1]);
        _exit(0);
    }
    close(ends[1]);
    if (child < 0 || read(ends[0], &measured, sizeof measured) != sizeof measured) {
        end("the modest user", "ended early");
    }
    waitpid(child, NULL, 0);
    close(ends[0]);
    return measured;
}

/* ---- Main --------------------------------------------------------------------------------------
 */

static void make_groove(void)
{
    static struct wire_groove_spec spec = {.name = "fair", .field_count = 1};
    struct create_groove_reply created;
    struct client_reply reply;
    memcpy(spec.fields[0].name, "payload", 7);
    spec.fields[0].type = WIRE_FIELD_TYPE_BYTES;
    spec.fields[0].size = OBJECT_SIZE - sizeof(struct wire_object_header);
    struct client *client = open_client();
    const enum client_status status =
        client_call(client, OPERATION_CREATE_GROOVE, &spec, sizeof spec, TIMEOUT_MS, &reply);
    if (status != CLIENT_OK || reply.result != RESULT_OK) {
        end("create", status != CLIENT_OK ? client_status_text(status) : result_name(reply.result));
    }
    memcpy(&created, reply.body, sizeof created);
    groove_id = created.groove_id;
    client_close(client);
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: fair_load SOCKET [SECONDS]\n");
        return 64;
    }
    socket_path = argv[1];
    const uint32_t seconds = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 3;
    make_groove();
    printf("%-40s %21s %21s %21s %21s\n", "", "write p50 us", "write p99 us", "read p50 us",
           "read p99 us");
    for (size_t i = 0; i < array_count(shapes); i++) {
        const struct measured alone = measure(seconds);
        const pid_t flood = flood_start(&shapes[i]);
        usleep(300 * 1000); /* So that it is under way; it need not be. */
        const struct measured beside = measure(seconds);
        kill(flood, SIGKILL);
        waitpid(flood, NULL, 0);
        printf("%-40s", shapes[i].name);
        for (uint32_t kind = 0; kind < KIND_COUNT; kind++) {
            printf(" %6.0f %6.0f x%5.1f", alone.p50_us[kind], beside.p50_us[kind],
                   beside.p50_us[kind] / alone.p50_us[kind]);
            printf("  %6.0f %6.0f x%5.1f ", alone.p99_us[kind], beside.p99_us[kind],
                   beside.p99_us[kind] / alone.p99_us[kind]);
        }
        printf("\n");
        fflush(stdout);
    }
    return 0;
}
