/* Clients that insert one object of 128 bytes with each request, and measure how long the answer
 * takes. They do not care whether Holt answers or an echo.
 *
 *   ipc_load SOCKET --clients N --in-flight K --seconds S [--first NUMBER]
 *                   [--client holt|nng|libholt] [--echo]
 *
 * Ids are a function of --first, which must be new for each run on one file. --echo: there is no
 * groove to ask for, and libholt, which would ask, gives way to the client of the tools. One line
 * of JSON with the rate and the latencies goes to stdout. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>

#include "benchmarks/load/workload.h"
#include "ipc/client.h"
#include "ipc/libholt/holt.h"
#include "pool/base.h"
#include "pool/clock.h"

enum {
    CLIENT_COUNT_MAX = 256,
    IN_FLIGHT_MAX = 64,
    LATENCY_COUNT_MAX = 1 << 21, /* of one client */
    TIMEOUT_MS = 30 * 1000,
    BODY_SIZE = sizeof(struct wire_section) + sizeof(struct workload_object),
};

struct options {
    const char *socket_path;
    uint32_t client_count;
    uint32_t in_flight;
    uint32_t seconds;
    uint64_t first;
    bool nng;
    bool libholt;
    bool echo;
};

/* Belongs to its thread while that runs, else to main. */
struct worker {
    pthread_t thread;
    const struct options *options;
    uint32_t groove_id;
    uint64_t next; /* number of the next object */
    uint64_t busy_count;
    uint64_t *latency_ns; /* [LATENCY_COUNT_MAX], owned */
    uint32_t latency_count;
    const char *failure;
};

static _Atomic bool stop;

static uint64_t now_ns(void)
{
    return clock_monotonic_ns(&clock_system);
}

static void fill(struct worker *worker, uint8_t body[BODY_SIZE])
{
    const struct wire_section section = {
        .groove_id = worker->groove_id,
        .event_type = WIRE_EVENT_TYPE_INSERT,
        .event_count = 1,
    };
    struct workload_object object;
    workload_object(1, worker->next++, 0, &object);
    memcpy(body, &section, sizeof section);
    memcpy(body + sizeof section, &object, sizeof object);
}

/* Whether an answer says that the object is there now. BUSY is counted. */
static bool judge(struct worker *worker, uint32_t result, const uint8_t *body, uint32_t body_size,
                  uint64_t took_ns)
{
    if (result == RESULT_BUSY) {
        worker->busy_count += 1;
        return true;
    }
    struct write_reply write;
    if (result != RESULT_OK || body_size != sizeof write) {
        worker->failure = result_name(result);
        return false;
    }
    memcpy(&write, body, sizeof write);
    if (write.failure_count != 0) {
        worker->failure = "an object was there already: give another --first";
        return false;
    }
    if (worker->latency_count < LATENCY_COUNT_MAX) {
        worker->latency_ns[worker->latency_count++] = took_ns;
    }
    return true;
}

static void run_holt(struct worker *worker)
{
    struct {
        uint64_t number, sent_ns;
    } flights[IN_FLIGHT_MAX] = {0};
    struct client *client;
    enum client_status status =
        client_open(&(struct client_options){.socket_path = worker->options->socket_path}, &client);
    if (status != CLIENT_OK) {
        worker->failure = client_status_text(status);
        return;
    }
    while (worker->failure == NULL) {
        for (uint32_t i = 0; i < worker->options->in_flight && !atomic_load(&stop); i++) {
            if (flights[i].number == 0) {
                uint8_t body[BODY_SIZE];
                fill(worker, body);
                flights[i].sent_ns = now_ns();
                status = client_send(client, OPERATION_WRITE, body, sizeof body, TIMEOUT_MS,
                                     &flights[i].number);
                if (status != CLIENT_OK) {
                    worker->failure = client_status_text(status);
                    break;
                }
            }
        }
        if (worker->failure != NULL || client_in_flight(client) == 0) {
            break;
        }
        struct client_reply reply;
        status = client_receive(client, TIMEOUT_MS, &reply);
        if (status != CLIENT_OK) {
            worker->failure = client_status_text(status);
            break;
        }
        const uint64_t now = now_ns();
        for (uint32_t i = 0; i < worker->options->in_flight; i++) {
            if (flights[i].number == reply.number) {
                flights[i].number = 0;
                (void)judge(worker, reply.result, reply.body, reply.body_size,
                            now - flights[i].sent_ns);
            }
        }
    }
    client_close(client);
}

/* One of the writes that libholt has under way; the callback begins the next. */
struct flight {
    struct worker *worker;
    struct holt_groove *groove;
    struct holt_write *write;
    uint64_t sent_ns;
    _Atomic uint32_t *left; /* flights that have not landed for good */
};

/* False: no more, or it failed. */
static bool flight_judge(struct flight *flight, enum holt_status status)
{
    struct worker *worker = flight->worker;
    if (status != HOLT_OK) {
        worker->failure = holt_status_name(status);
        return false;
    }
    if (worker->latency_count < LATENCY_COUNT_MAX) {
        worker->latency_ns[worker->latency_count++] = now_ns() - flight->sent_ns;
    }
    return !atomic_load(&stop);
}

static enum holt_status flight_fill(struct flight *flight)
{
    struct workload_object object;
    workload_object(1, flight->worker->next++, 0, &object);
    holt_write_clear(flight->write);
    flight->sent_ns = now_ns();
    return holt_write_insert(flight->write, flight->groove, &object);
}

static void flight_landed(void *context, struct holt_write *write, enum holt_status status)
{
    struct flight *flight = context;
    if (flight_judge(flight, status)) {
        status = flight_fill(flight);
        if (status == HOLT_OK) {
            status = holt_write_submit(write, TIMEOUT_MS, flight_landed, flight, NULL);
        }
        if (status == HOLT_OK) {
            return;
        }
        flight->worker->failure = holt_status_name(status);
    }
    atomic_fetch_sub(flight->left, 1);
}

/* As a program would use it: one at a time with commit, more with submit. */
static void run_libholt(struct worker *worker)
{
    struct flight flights[IN_FLIGHT_MAX];
    const uint32_t count = worker->options->in_flight;
    _Atomic uint32_t left = count;
    struct holt *holt;
    struct holt_groove *groove = NULL;
    enum holt_status status =
        holt_open(&(struct holt_options){.socket_path = worker->options->socket_path}, &holt, NULL);
    if (status == HOLT_OK) {
        status = holt_groove_open(holt, "load", 0, &groove, NULL);
    }
    for (uint32_t i = 0; i < count && status == HOLT_OK; i++) {
        flights[i] = (struct flight){.worker = worker, .groove = groove, .left = &left};
        status = holt_write_new(holt, &flights[i].write);
    }
    if (status != HOLT_OK) {
        worker->failure = holt_status_name(status);
        return; /* The program ends with it. */
    }
    if (count == 1) {
        do {
            status = flight_fill(&flights[0]);
            if (status == HOLT_OK) {
                status = holt_write_commit(flights[0].write, TIMEOUT_MS, NULL);
            }
        } while (flight_judge(&flights[0], status));
    } else {
        for (uint32_t i = 0; i < count; i++) {
            status = flight_fill(&flights[i]);
            if (status == HOLT_OK) {
                status = holt_write_submit(flights[i].write, TIMEOUT_MS, flight_landed, &flights[i],
                                           NULL);
            }
            if (status != HOLT_OK) {
                worker->failure = holt_status_name(status);
                return;
            }
        }
        while (atomic_load(&left) > 0) {
            const struct timespec moment = {.tv_nsec = 10 * 1000 * 1000};
            nanosleep(&moment, NULL);
        }
    }
    struct holt_stats stats;
    holt_stats_read(holt, &stats);
    worker->busy_count += stats.busy;
    for (uint32_t i = 0; i < count; i++) {
        holt_write_free(flights[i].write);
    }
    holt_groove_close(groove);
    holt_close(holt);
}

/* nng's own client, one request at a time. */
static void run_nng(struct worker *worker)
{
    char url[256];
    nng_socket socket;
    snprintf(url, sizeof url, "ipc://%s", worker->options->socket_path);
    int error = nng_req0_open(&socket);
    if (error == 0) {
        error = nng_socket_set_ms(socket, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE);
    }
    if (error == 0) {
        error = nng_dial(socket, url, NULL, 0);
    }
    uint64_t number = 0;
    while (error == 0 && worker->failure == NULL && !atomic_load(&stop)) {
        uint8_t body[BODY_SIZE];
        fill(worker, body);
        const struct request_header header = {
            .magic = PROTOCOL_MAGIC,
            .version = PROTOCOL_VERSION,
            .operation = OPERATION_WRITE,
            .number = ++number,
            .body_size = sizeof body,
        };
        nng_msg *message;
        const uint64_t sent_ns = now_ns();
        error = nng_msg_alloc(&message, sizeof header + sizeof body);
        if (error != 0) {
            break;
        }
        memcpy(nng_msg_body(message), &header, sizeof header);
        memcpy((uint8_t *)nng_msg_body(message) + sizeof header, body, sizeof body);
        error = nng_sendmsg(socket, message, 0);
        if (error != 0) {
            nng_msg_free(message);
            break;
        }
        error = nng_recvmsg(socket, &message, 0);
        if (error != 0) {
            break;
        }
        struct reply_header reply;
        if (protocol_reply_check(nng_msg_body(message), nng_msg_len(message), &reply)) {
            (void)judge(worker, reply.result, (uint8_t *)nng_msg_body(message) + sizeof reply,
                        reply.body_size, now_ns() - sent_ns);
        } else {
            worker->failure = "not a reply";
        }
        nng_msg_free(message);
    }
    if (error != 0) {
        worker->failure = nng_strerror(error);
    }
    nng_close(socket);
}

static void *run(void *context)
{
    struct worker *worker = context;
    if (worker->options->nng) {
        run_nng(worker);
    } else if (worker->options->libholt && !worker->options->echo) {
        run_libholt(worker);
    } else {
        run_holt(worker);
    }
    return NULL;
}

/* The id of the groove that holt_load makes; 0: there is none. */
static uint32_t groove_id_of(const char *socket_path)
{
    struct client *client;
    struct client_reply reply;
    if (client_open(&(struct client_options){.socket_path = socket_path}, &client) != CLIENT_OK) {
        return 0;
    }
    uint32_t groove_id = 0;
    struct schema_reply schema = {0};
    if (client_call(client, OPERATION_SCHEMA, NULL, 0, TIMEOUT_MS, &reply) == CLIENT_OK &&
        reply.body_size >= sizeof schema) {
        memcpy(&schema, reply.body, sizeof schema);
        uint32_t at = sizeof schema;
        for (uint32_t i = 0; i < schema.groove_count && groove_id == 0; i++) {
            struct schema_groove groove;
            memcpy(&groove, reply.body + at, sizeof groove);
            at += (uint32_t)(sizeof groove + groove.field_count * sizeof(struct schema_field) +
                             groove.index_count * sizeof(struct schema_index));
            if (strcmp(groove.name, "load") == 0 && groove.object_size == WORKLOAD_OBJECT_SIZE) {
                groove_id = groove.groove_id;
            }
        }
    }
    client_close(client);
    return groove_id;
}

static int compare_u64(const void *a, const void *b)
{
    const uint64_t left = *(const uint64_t *)a;
    const uint64_t right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

static void report(struct worker *workers, uint32_t count, uint64_t elapsed_ns)
{
    uint64_t total = 0;
    uint64_t busy = 0;
    for (uint32_t i = 0; i < count; i++) {
        total += workers[i].latency_count;
        busy += workers[i].busy_count;
    }
    uint64_t *all = calloc(total + 1, sizeof *all);
    if (all == NULL) {
        exit(71);
    }
    uint64_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        memcpy(all + at, workers[i].latency_ns, workers[i].latency_count * sizeof *all);
        at += workers[i].latency_count;
    }
    qsort(all, total, sizeof *all, compare_u64);
    static const struct {
        const char *name;
        double part;
    } parts[] = {{"p50_us", 0.5}, {"p99_us", 0.99}, {"p999_us", 0.999}, {"max_us", 1}};
    printf("{\"requests\":%" PRIu64 ",\"busy\":%" PRIu64 ",\"rate\":%.0f", total, busy,
           (double)total * 1e9 / (double)elapsed_ns);
    for (uint32_t i = 0; i < array_count(parts); i++) {
        const uint64_t rank = (uint64_t)(parts[i].part * (double)total);
        printf(",\"%s\":%.1f", parts[i].name,
               total == 0 ? 0 : (double)all[min_u64(rank, total - 1)] / 1e3);
    }
    printf("}\n");
    free(all);
}

static bool parse(int argc, char **argv, struct options *options)
{
    *options = (struct options){.client_count = 1, .in_flight = 1, .seconds = 3};
    if (argc < 2) {
        return false;
    }
    options->socket_path = argv[1];
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--echo") == 0) {
            options->echo = true;
            continue;
        }
        if (i + 1 == argc) {
            return false;
        }
        const char *name = argv[i++];
        const uint64_t number = strtoull(argv[i], NULL, 10);
        if (strcmp(name, "--clients") == 0) {
            options->client_count = (uint32_t)number;
        } else if (strcmp(name, "--in-flight") == 0) {
            options->in_flight = (uint32_t)number;
        } else if (strcmp(name, "--seconds") == 0) {
            options->seconds = (uint32_t)number;
        } else if (strcmp(name, "--first") == 0) {
            options->first = number;
        } else if (strcmp(name, "--client") == 0) {
            options->nng = strcmp(argv[i], "nng") == 0;
            options->libholt = strcmp(argv[i], "libholt") == 0;
        } else {
            return false;
        }
    }
    return options->client_count >= 1 && options->client_count <= CLIENT_COUNT_MAX &&
           options->in_flight >= 1 && options->in_flight <= IN_FLIGHT_MAX &&
           options->seconds >= 1 && (!options->nng || options->in_flight == 1);
}

int main(int argc, char **argv)
{
    static struct options options;
    static struct worker workers[CLIENT_COUNT_MAX];
    if (!parse(argc, argv, &options)) {
        fprintf(stderr, "usage: ipc_load SOCKET [--clients N] [--in-flight K] [--seconds S] "
                        "[--first NUMBER] [--client holt|nng|libholt] [--echo]\n");
        return 64;
    }
    const uint32_t groove_id = options.echo ? 1 : groove_id_of(options.socket_path);
    if (groove_id == 0) {
        fprintf(stderr, "ipc_load: there is no groove 'load'; holt_load makes one\n");
        return 66;
    }
    for (uint32_t i = 0; i < options.client_count; i++) {
        workers[i] = (struct worker){
            .options = &options,
            .groove_id = groove_id,
            .next = options.first + i * UINT64_C(1000000000),
            .latency_ns = malloc(LATENCY_COUNT_MAX * sizeof(uint64_t)),
        };
        if (workers[i].latency_ns == NULL) {
            return 71;
        }
    }
    const uint64_t begin_ns = now_ns();
    for (uint32_t i = 0; i < options.client_count; i++) {
        if (pthread_create(&workers[i].thread, NULL, run, &workers[i]) != 0) {
            return 71;
        }
    }
    const struct timespec time = {.tv_sec = options.seconds};
    nanosleep(&time, NULL);
    atomic_store(&stop, true);
    const uint64_t elapsed_ns = now_ns() - begin_ns;
    for (uint32_t i = 0; i < options.client_count; i++) {
        pthread_join(workers[i].thread, NULL);
        if (workers[i].failure != NULL) {
            fprintf(stderr, "ipc_load: %s\n", workers[i].failure);
            return 1;
        }
    }
    report(workers, options.client_count, elapsed_ns);
    return 0;
}
