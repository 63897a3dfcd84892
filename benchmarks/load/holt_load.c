/* Loads a running daemon through its socket: inserts, updates and removes generated objects, and
 * tells how fast, how evenly, and what it cost the daemon.
 *
 *   main                     client threads [C]
 *   run_phase ── starts ──►  claim the next batch ─► send ─► up to K in flight ─► reply ─┐
 *     once a second STAT              ▲                                                  │
 *     and a line of progress          └──────────────────────────────────────────────────┘
 *   report ◄── joins
 *
 * Closed loop: a client sends the next batch when one of its K is answered. A batch is claimed by
 * its index, so what each batch holds does not depend on who sends it, and its latency has a place
 * of its own: latency_ns[batch_index]. It is the time from the first send to the reply that is not
 * BUSY, so what a client waits for the socket and for its turn counts.
 *
 * A round (all inserts, one update of everything, all removals) ends before the next one begins. */
#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "benchmarks/load/report.h"
#include "benchmarks/load/stat_sample.h"
#include "benchmarks/load/workload.h"
#include "ipc/client.h"
#include "pool/base.h"
#include "pool/clock.h"

enum {
    CLIENT_COUNT_MAX = 1024,
    IN_FLIGHT_MAX = 64,
    ROUND_COUNT_MAX = 1000,
    SECTION_SIZE = sizeof(struct wire_section),
    CALL_TIMEOUT_MS = 30 * 1000,
    STAT_TIMEOUT_MS = 2000,        /* While loads run: a sample less is no loss. */
    REPLY_TIMEOUT_MS = 120 * 1000, /* A daemon that takes longer is reported, not waited for. */
    BUSY_PAUSE_MS_MAX = 1000,
    PROGRESS_FILE_S = 10, /* seconds between the lines of progress, where it is not a terminal */
    SETTLE_POLL_MS = 100,
    SETTLE_POLL_COUNT = 10, /* polls in a row that find nothing going on */

    EXIT_USAGE = 64,
    EXIT_DATA = 65,
    EXIT_SOFTWARE = 70,
    EXIT_OS = 71,
    EXIT_TIMEOUT = 75,
};
static const uint64_t ns_per_second = 1000000000u;

struct options {
    const char *socket_path;
    const char *groove_name;
    uint64_t count;       /* objects */
    uint64_t first;       /* number of the first object */
    uint64_t batch_bytes; /* of a request's body, at most */
    uint64_t client_count;
    uint64_t in_flight; /* requests of one client */
    uint64_t index_count;
    uint64_t update_rounds;
    uint64_t seed;
    uint64_t settle_s; /* 0: do not wait for the daemon to settle */
    bool single;
    bool remove;
    bool json;
};

struct slot {
    bool used;
    uint64_t number; /* of the request, as last sent */
    uint64_t batch_index;
    uint32_t event_count;
    uint32_t body_size;
    uint64_t sent_ns; /* the first time */
    uint8_t *body;    /* [options.batch_bytes], owned */
};

struct load {
    struct options options;
    struct client *client; /* main's own, for everything but WRITE */
    struct hello_reply hello;
    uint32_t groove_id;
    uint32_t groove_event_count_max;
    bool created; /* the groove was made by this load */

    struct load_client *clients; /* [options.client_count], owned */

    /* The round that is running: written while no client thread runs. */
    struct phase *phase;
    uint64_t round;
    _Atomic uint64_t batch_next; /* index of the next batch to claim */
    _Atomic bool stop;           /* a client failed */

    struct report report;
};

/* Belongs to its thread while that runs, else to main. */
struct load_client {
    struct load *load;
    pthread_t thread;
    struct client *client;
    struct slot slots[IN_FLIGHT_MAX]; /* [options.in_flight] */
    uint32_t used_count;
    uint64_t finished_ns;
    enum client_status status; /* why it stopped, if not OK */
    enum result result;        /* likewise */
    uint32_t failure;          /* the first event result that was not OK, or 0 */
};

static uint64_t now_ns(void)
{
    return clock_monotonic_ns(&clock_system);
}

static void pause_ms(uint64_t ms)
{
    const struct timespec time = {.tv_sec = (time_t)(ms / 1000),
                                  .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&time, NULL);
}

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("holt_load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (memory == NULL) {
        say("out of memory");
        exit(EXIT_OS);
    }
    return memory;
}

/* ---- One client thread -------------------------------------------------------------------------
 */

/* Writes batch `batch_index` of the running round into `slot`. */
static void fill_batch(const struct load *load, uint64_t batch_index, struct slot *slot)
{
    const struct phase *phase = load->phase;
    const uint64_t begin = batch_index * phase->events_per_batch;
    assert(begin < load->options.count);
    const uint64_t event_count = min_u64(phase->events_per_batch, load->options.count - begin);
    const struct wire_section section = {
        .groove_id = load->groove_id,
        .event_type = (uint8_t)phase->event_type,
        .event_count = (uint32_t)event_count,
    };
    memcpy(slot->body, &section, sizeof section);
    uint8_t *payload = slot->body + SECTION_SIZE;
    for (uint64_t i = 0; i < event_count; i++) {
        const uint64_t number = load->options.first + begin + i;
        if (phase->event_type == WIRE_EVENT_TYPE_REMOVE) {
            workload_id(load->options.seed, number, payload);
        } else {
            struct workload_object object;
            workload_object(load->options.seed, number, load->round, &object);
            memcpy(payload, &object, sizeof object);
        }
        payload += phase->payload_size;
    }
    slot->batch_index = batch_index;
    slot->event_count = (uint32_t)event_count;
    slot->body_size = (uint32_t)(payload - slot->body);
    assert(slot->body_size <= load->options.batch_bytes);
}

static void send_batch(struct load_client *client, struct slot *slot)
{
    client->status = client_send(client->client, OPERATION_WRITE, slot->body, slot->body_size,
                                 REPLY_TIMEOUT_MS, &slot->number);
}

/* Claims batches and sends them until K are in flight or none is left. */
static void send_more(struct load_client *client)
{
    struct load *load = client->load;
    for (uint32_t i = 0; i < load->options.in_flight && client->status == CLIENT_OK; i++) {
        struct slot *slot = &client->slots[i];
        if (slot->used || atomic_load(&load->stop)) {
            continue;
        }
        const uint64_t batch_index = atomic_fetch_add(&load->batch_next, 1);
        if (batch_index >= load->phase->batch_count) {
            return;
        }
        fill_batch(load, batch_index, slot);
        slot->sent_ns = now_ns();
        send_batch(client, slot);
        slot->used = client->status == CLIENT_OK;
        client->used_count += slot->used;
    }
}

/* How many events of an answered batch failed, in *failure_count. False: the reply is not what it
 * should be. */
static bool take_failures(struct load_client *client, const struct client_reply *reply,
                          uint32_t *failure_count)
{
    struct write_reply head;
    struct wire_failure failure;
    if (reply->body_size < sizeof head) {
        return false;
    }
    memcpy(&head, reply->body, sizeof head);
    if (reply->body_size != sizeof head + (size_t)head.failure_count * sizeof failure) {
        return false;
    }
    if (head.failure_count > 0) {
        memcpy(&failure, reply->body + sizeof head, sizeof failure);
        client->failure = client->failure == 0 ? failure.result : client->failure;
    }
    *failure_count = head.failure_count;
    return true;
}

static void take_reply(struct load_client *client, const struct client_reply *reply)
{
    struct load *load = client->load;
    struct phase *phase = load->phase;
    struct slot *slot = NULL;
    for (uint32_t i = 0; i < load->options.in_flight; i++) {
        if (client->slots[i].used && client->slots[i].number == reply->number) {
            slot = &client->slots[i];
        }
    }
    if (slot == NULL) {
        client->status = CLIENT_NOT_HOLT;
        return;
    }
    if (reply->result == RESULT_BUSY) {
        atomic_fetch_add(&phase->busy_count, 1);
        pause_ms(min_u64(reply->retry_after_ms, BUSY_PAUSE_MS_MAX));
        send_batch(client, slot);
        return;
    }
    uint32_t failure_count;
    slot->used = false;
    client->used_count -= 1;
    if (reply->result != RESULT_OK) {
        client->result = reply->result;
    } else if (!take_failures(client, reply, &failure_count) || failure_count > slot->event_count) {
        client->status = CLIENT_NOT_HOLT;
    } else {
        const uint64_t place =
            (load->round - (phase->event_type == WIRE_EVENT_TYPE_UPDATE)) * phase->batch_count +
            slot->batch_index;
        phase->latency_ns[place] = now_ns() - slot->sent_ns;
        atomic_fetch_add(&phase->event_count, slot->event_count - failure_count);
        atomic_fetch_add(&phase->failure_count, failure_count);
    }
}

static void *client_run(void *context)
{
    struct load_client *client = context;
    bool good = true;
    while (good) {
        send_more(client);
        if (client->status == CLIENT_OK && client->used_count == 0) {
            break;
        }
        struct client_reply reply;
        if (client->status == CLIENT_OK) {
            client->status = client_receive(client->client, REPLY_TIMEOUT_MS, &reply);
        }
        if (client->status == CLIENT_OK) {
            take_reply(client, &reply);
        }
        good = client->status == CLIENT_OK && client->result == RESULT_OK;
    }
    if (!good) {
        atomic_store(&client->load->stop, true);
    }
    client->finished_ns = now_ns();
    return NULL;
}

/* ---- Asking the daemon -------------------------------------------------------------------------
 */

/* Asks until the queue is not full. False: said what is wrong, *exit_code is set. */
static bool call(struct load *load, enum operation operation, const void *body, uint32_t body_size,
                 struct client_reply *reply, int *exit_code)
{
    for (;;) {
        const enum client_status status =
            client_call(load->client, operation, body, body_size, CALL_TIMEOUT_MS, reply);
        if (status != CLIENT_OK) {
            say("%s: %s", operation_name(operation), client_status_text(status));
            *exit_code = client_status_exit_code(status);
            return false;
        }
        if (reply->result != RESULT_BUSY) {
            return true;
        }
        pause_ms(min_u64(reply->retry_after_ms, BUSY_PAUSE_MS_MAX));
    }
}

static bool refused(enum operation operation, const struct client_reply *reply, int *exit_code)
{
    if (reply->result == RESULT_OK) {
        return false;
    }
    say("%s: %s %.*s", operation_name(operation), result_text(reply->result), (int)reply->body_size,
        (const char *)reply->body);
    *exit_code = EXIT_DATA;
    return true;
}

/* False: no sample. The daemon had no time, or it is another process than the one that the load
 * began with, whose counters tell nothing. */
static bool sample(struct load *load)
{
    struct client_reply reply;
    struct stat_sample now;
    if (client_call(load->client, OPERATION_STAT, NULL, 0, STAT_TIMEOUT_MS, &reply) != CLIENT_OK ||
        reply.result != RESULT_OK ||
        !stat_sample_parse((const char *)reply.body, reply.body_size, &now) ||
        (load->report.sampled && now.pid != load->report.before.pid)) {
        return false;
    }
    load->report.last = now;
    load->report.blocks_live_max = max_u64(load->report.blocks_live_max, stat_blocks_live(&now));
    load->report.rss_max = max_u64(load->report.rss_max, max_u64(now.rss, stat_rss_max(now.pid)));
    for (uint32_t level = 0; level < now.level_count; level++) {
        load->report.tables_by_level_max[level] =
            max_u64(load->report.tables_by_level_max[level], now.tables_by_level[level]);
    }
    return true;
}

/* Makes the groove, or takes the one that is there, and finds its number and limits. */
static bool open_groove(struct load *load, int *exit_code)
{
    struct wire_groove_spec spec;
    struct client_reply reply;
    workload_spec(load->options.groove_name, (uint32_t)load->options.index_count, &spec);
    if (!call(load, OPERATION_CREATE_GROOVE, &spec, sizeof spec, &reply, exit_code)) {
        return false;
    }
    load->created = reply.result == RESULT_OK;
    if (reply.result != RESULT_GROOVE_EXISTS &&
        refused(OPERATION_CREATE_GROOVE, &reply, exit_code)) {
        return false;
    }
    if (!call(load, OPERATION_SCHEMA, NULL, 0, &reply, exit_code) ||
        refused(OPERATION_SCHEMA, &reply, exit_code)) {
        return false;
    }
    struct schema_reply head = {0};
    struct schema_groove groove;
    size_t offset = sizeof head;
    if (reply.body_size >= sizeof head) {
        memcpy(&head, reply.body, sizeof head);
    }
    for (uint32_t i = 0; i < head.groove_count && offset + sizeof groove <= reply.body_size; i++) {
        memcpy(&groove, reply.body + offset, sizeof groove);
        if (memcmp(groove.name, spec.name, sizeof spec.name) == 0) {
            load->groove_id = groove.groove_id;
            load->groove_event_count_max = groove.event_count_max;
            if (groove.object_size != WORKLOAD_OBJECT_SIZE ||
                groove.field_count != spec.field_count || groove.index_count != spec.index_count) {
                say("the groove '%s' is there already, with other fields; --groove names another",
                    spec.name);
                *exit_code = EXIT_DATA;
                return false;
            }
            return true;
        }
        offset += sizeof groove + groove.field_count * sizeof(struct schema_field) +
                  groove.index_count * sizeof(struct schema_index);
    }
    say("the daemon's schema does not have '%s'", spec.name);
    *exit_code = EXIT_SOFTWARE;
    return false;
}

static bool count_objects(struct load *load, int *exit_code)
{
    const struct query_request request = {.groove_id = load->groove_id,
                                          .index_id = WIRE_INDEX_NONE};
    struct client_reply reply;
    if (!call(load, OPERATION_COUNT, &request, sizeof request, &reply, exit_code) ||
        refused(OPERATION_COUNT, &reply, exit_code)) {
        return false;
    }
    if (reply.body_size != sizeof load->report.objects) {
        say("COUNT: the answer is not a number");
        *exit_code = EXIT_SOFTWARE;
        return false;
    }
    memcpy(&load->report.objects, reply.body, sizeof load->report.objects);
    load->report.counted = true;
    return true;
}

/* Waits until no compaction is owed and the store has stood still for a second. */
static bool settle(struct load *load, int *exit_code)
{
    const uint64_t begin_ns = now_ns();
    uint64_t op = 0;
    uint32_t quiet_count = 0;
    while (quiet_count < SETTLE_POLL_COUNT) {
        if (now_ns() - begin_ns > load->options.settle_s * ns_per_second) {
            say("after %" PRIu64 " s %" PRIu64 " bytes of compaction are still owed",
                load->options.settle_s, load->report.last.debt_bytes);
            *exit_code = EXIT_TIMEOUT;
            return false;
        }
        if (!sample(load)) {
            say("STAT: no answer, or not one of this version");
            *exit_code = EXIT_SOFTWARE;
            return false;
        }
        const bool quiet = load->report.last.debt_bytes == 0 && load->report.last.op == op;
        quiet_count = quiet ? quiet_count + 1 : 0;
        op = load->report.last.op;
        pause_ms(SETTLE_POLL_MS);
    }
    load->report.settle_ns = now_ns() - begin_ns;
    load->report.settled = true;
    return true;
}

/* ---- Rounds ------------------------------------------------------------------------------------
 */

static void show_progress(const struct load *load, uint64_t begin_ns, bool end)
{
    const struct phase *phase = load->phase;
    const bool terminal = isatty(STDERR_FILENO) == 1;
    const uint64_t elapsed_ns = now_ns() - begin_ns;
    if (!terminal && !end && elapsed_ns / ns_per_second % PROGRESS_FILE_S != 0) {
        return;
    }
    const uint64_t before =
        (load->round - (phase->event_type == WIRE_EVENT_TYPE_UPDATE)) * load->options.count;
    const uint64_t done = atomic_load(&phase->event_count) - before;
    char round[32] = "";
    if (phase->round_count > 1) {
        snprintf(round, sizeof round, " %" PRIu64, load->round);
    }
    fprintf(stderr,
            "%s%s%s: %" PRIu64 " of %" PRIu64 " (%.0f %%), %.0f/s, %" PRIu64
            " checkpoints, %.2f GB written%s%s",
            terminal ? "\r" : "", phase->name, round, done, load->options.count,
            100.0 * (double)done / (double)load->options.count,
            (double)done * 1e9 / (double)max_u64(elapsed_ns, 1),
            load->report.last.checkpoints - load->report.before.checkpoints,
            (double)((load->report.last.blocks_written - load->report.before.blocks_written) *
                     load->report.last.block_size) /
                1e9,
            terminal ? "\033[K" : "", terminal && !end ? "" : "\n");
}

/* False: a client failed, as it says itself. */
static bool run_round(struct load *load, struct phase *phase, uint64_t round)
{
    load->phase = phase;
    load->round = round;
    atomic_store(&load->batch_next, 0);
    const uint64_t begin_ns = now_ns();
    uint64_t end_ns = begin_ns;
    struct timespec wake; /* CLOCK_REALTIME is what pthread_timedjoin_np goes by. */
    clock_gettime(CLOCK_REALTIME, &wake);
    for (uint32_t i = 0; i < load->options.client_count; i++) {
        if (pthread_create(&load->clients[i].thread, NULL, client_run, &load->clients[i]) != 0) {
            say("cannot start thread %" PRIu32, i);
            exit(EXIT_OS);
        }
    }
    for (uint32_t i = 0; i < load->options.client_count; i++) {
        wake.tv_sec += 1;
        while (pthread_timedjoin_np(load->clients[i].thread, NULL, &wake) == ETIMEDOUT) {
            if (!atomic_load(&load->stop)) {
                (void)!sample(load);
            }
            show_progress(load, begin_ns, false);
            clock_gettime(CLOCK_REALTIME, &wake);
            wake.tv_sec += 1;
        }
        end_ns = max_u64(end_ns, load->clients[i].finished_ns);
    }
    phase->elapsed_ns += end_ns - begin_ns;
    show_progress(load, begin_ns, true);
    return !atomic_load(&load->stop);
}

static bool run_phase(struct load *load, struct phase *phase)
{
    const uint64_t first_round = phase->event_type == WIRE_EVENT_TYPE_UPDATE ? 1 : 0;
    bool good = true;
    for (uint64_t i = 0; i < phase->round_count && good; i++) {
        good = run_round(load, phase, first_round + i);
    }
    phase_finish(phase);
    return good;
}

static void plan_phase(struct load *load, struct phase *phase, const char *name,
                       enum wire_event_type event_type, uint64_t round_count)
{
    const struct options *options = &load->options;
    const uint32_t payload_size =
        event_type == WIRE_EVENT_TYPE_REMOVE ? WIRE_ID_SIZE : WORKLOAD_OBJECT_SIZE;
    uint64_t events = (options->batch_bytes - SECTION_SIZE) / payload_size;
    events = min_u64(events, min_u64(load->hello.batch_event_max, load->groove_event_count_max));
    events = options->single ? 1 : max_u64(events, 1);
    const uint64_t batch_count = div_ceil(options->count, events);
    phase->name = name;
    phase->event_type = event_type;
    phase->round_count = options->count > 0 ? round_count : 0;
    phase->payload_size = payload_size;
    phase->events_per_batch = events;
    phase->batch_count = batch_count;
    if (phase->round_count > 0) {
        phase->latency_ns = allocate(round_count * batch_count, sizeof *phase->latency_ns);
    }
}

/* ---- The whole ---------------------------------------------------------------------------------
 */

static bool open_clients(struct load *load, int *exit_code)
{
    const struct options *options = &load->options;
    load->clients = allocate(options->client_count, sizeof *load->clients);
    for (uint32_t i = 0; i < options->client_count; i++) {
        struct load_client *client = &load->clients[i];
        client->load = load;
        const enum client_status status =
            client_open(&(struct client_options){.socket_path = options->socket_path,
                                                 .message_size_max = load->hello.message_size_max},
                        &client->client);
        if (status != CLIENT_OK) {
            say("client %" PRIu32 ": %s", i, client_status_text(status));
            *exit_code = client_status_exit_code(status);
            return false;
        }
        for (uint32_t k = 0; k < options->in_flight; k++) {
            client->slots[k].body = allocate(1, options->batch_bytes);
        }
    }
    return true;
}

static bool open_load(struct load *load, int *exit_code)
{
    struct options *options = &load->options;
    struct client_reply reply;
    const enum client_status status =
        client_open(&(struct client_options){.socket_path = options->socket_path}, &load->client);
    if (status != CLIENT_OK) {
        say("%s: %s", options->socket_path, client_status_text(status));
        *exit_code = client_status_exit_code(status);
        return false;
    }
    if (!call(load, OPERATION_HELLO, NULL, 0, &reply, exit_code) ||
        refused(OPERATION_HELLO, &reply, exit_code)) {
        return false;
    }
    if (reply.body_size != sizeof load->hello) {
        say("HELLO: not an answer of this version");
        *exit_code = EXIT_SOFTWARE;
        return false;
    }
    memcpy(&load->hello, reply.body, sizeof load->hello);
    if (!open_groove(load, exit_code)) {
        return false;
    }
    options->batch_bytes = min_u64(options->batch_bytes, load->hello.batch_size_max);
    if (options->single) {
        options->batch_bytes = SECTION_SIZE + WORKLOAD_OBJECT_SIZE;
    }
    if (!open_clients(load, exit_code)) {
        return false;
    }
    if (!sample(load)) {
        say("STAT: no answer, or not one of this version");
        *exit_code = EXIT_SOFTWARE;
        return false;
    }
    load->report.before = load->report.last;
    load->report.sampled = true;
    plan_phase(load, &load->report.phases[0], "insert", WIRE_EVENT_TYPE_INSERT, 1);
    plan_phase(load, &load->report.phases[1], "update", WIRE_EVENT_TYPE_UPDATE,
               options->update_rounds);
    plan_phase(load, &load->report.phases[2], "remove", WIRE_EVENT_TYPE_REMOVE,
               options->remove ? 1 : 0);
    return true;
}

static void close_load(struct load *load)
{
    for (uint32_t i = 0; load->clients != NULL && i < load->options.client_count; i++) {
        for (uint32_t k = 0; k < load->options.in_flight; k++) {
            free(load->clients[i].slots[k].body);
        }
        client_close(load->clients[i].client);
    }
    free(load->clients);
    for (uint32_t i = 0; i < PHASE_COUNT; i++) {
        free(load->report.phases[i].latency_ns);
    }
    client_close(load->client);
}

/* Says what went wrong in the clients and with single events. Returns the exit code. */
static int tell_failures(const struct load *load)
{
    int exit_code = EXIT_SUCCESS;
    for (uint32_t i = 0; i < load->options.client_count && exit_code == EXIT_SUCCESS; i++) {
        const struct load_client *client = &load->clients[i];
        if (client->status != CLIENT_OK) {
            say("%s: %s", load->phase->name, client_status_text(client->status));
            exit_code = client_status_exit_code(client->status);
        } else if (client->result != RESULT_OK) {
            say("%s: %s", load->phase->name, result_text(client->result));
            exit_code = EXIT_DATA;
        } else if (client->failure != 0) {
            say("events failed, one of them: %s", wire_event_result_text(client->failure));
            exit_code = EXIT_DATA;
        }
    }
    return exit_code;
}

/* The store and this program must agree on how many objects there are. */
static bool check_count(const struct load *load)
{
    const uint64_t expected = load->options.remove ? 0 : load->options.count;
    if (load->created && load->report.objects != expected) {
        say("the daemon counts %" PRIu64 " objects, but there are %" PRIu64, load->report.objects,
            expected);
        return false;
    }
    return true;
}

static int run(struct load *load)
{
    int exit_code = EXIT_SUCCESS;
    if (open_load(load, &exit_code)) {
        bool good = true;
        for (uint32_t i = 0; i < PHASE_COUNT && good; i++) {
            good = run_phase(load, &load->report.phases[i]);
        }
        exit_code = tell_failures(load);
        if (good) {
            (void)!sample(load);
            if ((load->options.settle_s > 0 && !settle(load, &exit_code)) ||
                !count_objects(load, &exit_code) || !check_count(load)) {
                exit_code = exit_code == EXIT_SUCCESS ? EXIT_DATA : exit_code;
            }
        }
        (load->options.json ? report_json : report_text)(&load->report);
    }
    close_load(load);
    return exit_code;
}

/* ---- Command line ------------------------------------------------------------------------------
 */

static const char usage[] =
    "usage: holt_load SOCKET [flags]\n"
    "\n"
    "Loads the daemon at SOCKET with generated objects of 128 bytes and random ids.\n"
    "\n"
    "  --count N            objects (1000000); with 0 it only waits, see --settle\n"
    "  --first N            number of the first; others have other ids (0)\n"
    "  --seed S             other ids and other contents (1)\n"
    "  --groove NAME        made if it is not there (load)\n"
    "  --indexes I          of the groove, 0 to 3 (3)\n"
    "  --batch-bytes SIZE   of one request, at most what the daemon takes (1M)\n"
    "  --single             one object a request\n"
    "  --clients C          threads, each with a connection (2)\n"
    "  --in-flight K        requests of one client at once (2)\n"
    "  --update-rounds R    then update all objects R times (0)\n"
    "  --remove             then remove them all\n"
    "  --settle S           then wait until no compaction is owed, at most S seconds (0)\n"
    "  --json               print one JSON object\n"
    "\n"
    "Exit code 65 when a request or an event was refused, 75 when the connection was lost.\n";

/* A number with an optional K, M or G (of 1024). */
static bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *number)
{
    static const char units[] = "KMG";
    char *end;
    errno = 0;
    *number = strtoull(text, &end, 10);
    const char *unit = *end == '\0' ? NULL : strchr(units, *end);
    if (unit != NULL) {
        const uint64_t factor = UINT64_C(1024) << 10 * (unit - units);
        if (*number > UINT64_MAX / factor) {
            return false;
        }
        *number *= factor;
        end += 1;
    }
    return errno == 0 && *text >= '0' && *text <= '9' && *end == '\0' && *number >= min &&
           *number <= max;
}

static int parse_options(int argc, char **argv, struct options *options)
{
    enum { FLAG_SINGLE = 200, FLAG_REMOVE, FLAG_JSON, FLAG_GROOVE, FLAG_HELP };
    const struct {
        uint64_t *number;
        uint64_t min;
        uint64_t max;
    } numbers[] = {
        {&options->count, 0, UINT32_MAX},
        {&options->first, 0, UINT64_MAX / 2},
        {&options->seed, 0, UINT64_MAX / 2},
        {&options->index_count, 0, WORKLOAD_INDEX_COUNT_MAX},
        {&options->batch_bytes, SECTION_SIZE + WORKLOAD_OBJECT_SIZE, 1 << 30},
        {&options->client_count, 1, CLIENT_COUNT_MAX},
        {&options->in_flight, 1, IN_FLIGHT_MAX},
        {&options->update_rounds, 0, ROUND_COUNT_MAX},
        {&options->settle_s, 0, 86400},
    };
    static const struct option flags[] = {
        {"count", required_argument, NULL, 0},
        {"first", required_argument, NULL, 1},
        {"seed", required_argument, NULL, 2},
        {"indexes", required_argument, NULL, 3},
        {"batch-bytes", required_argument, NULL, 4},
        {"clients", required_argument, NULL, 5},
        {"in-flight", required_argument, NULL, 6},
        {"update-rounds", required_argument, NULL, 7},
        {"settle", required_argument, NULL, 8},
        {"single", no_argument, NULL, FLAG_SINGLE},
        {"remove", no_argument, NULL, FLAG_REMOVE},
        {"json", no_argument, NULL, FLAG_JSON},
        {"groove", required_argument, NULL, FLAG_GROOVE},
        {"help", no_argument, NULL, FLAG_HELP},
        {0},
    };
    int flag;
    int flag_index = 0;
    while ((flag = getopt_long(argc, argv, "h", flags, &flag_index)) != -1) {
        switch (flag) {
        case FLAG_SINGLE:
            options->single = true;
            break;
        case FLAG_REMOVE:
            options->remove = true;
            break;
        case FLAG_JSON:
            options->json = true;
            break;
        case FLAG_GROOVE:
            options->groove_name = optarg;
            break;
        case FLAG_HELP:
        case 'h':
            fputs(usage, stdout);
            exit(EXIT_SUCCESS);
        case '?':
            fputs(usage, stderr);
            return EXIT_USAGE;
        default:
            assert((size_t)flag < array_count(numbers));
            if (!parse_number(optarg, numbers[flag].min, numbers[flag].max, numbers[flag].number)) {
                say("--%s is '%s', but must be a number from %" PRIu64 " to %" PRIu64,
                    flags[flag_index].name, optarg, numbers[flag].min, numbers[flag].max);
                return EXIT_USAGE;
            }
        }
    }
    if (optind != argc - 1 || strlen(options->groove_name) >= WIRE_NAME_SIZE) {
        fputs(usage, stderr);
        return EXIT_USAGE;
    }
    options->socket_path = argv[optind];
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    static struct load load = {
        .options = {.groove_name = "load",
                    .count = 1000000,
                    .seed = 1,
                    .batch_bytes = 1 << 20,
                    .client_count = 2,
                    .in_flight = 2,
                    .index_count = WORKLOAD_INDEX_COUNT_MAX},
    };
    const int exit_code = parse_options(argc, argv, &load.options);
    return exit_code != EXIT_SUCCESS ? exit_code : run(&load);
}
