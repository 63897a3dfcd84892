/* Clients whose history can be checked (tests/harness/history.h).
 *
 *   history_client load SOCKET FILE SEED MS   clients write and read side by side for MS, or until
 *                                             the daemon is gone; what they saw goes behind FILE
 *   history_client final SOCKET FILE          reads every key, by id and by index
 *   history_client check FILE                 "good N operations", or says what cannot be; exit 1
 *
 * There are KEY_COUNT keys. A write puts new values into some and removes others, in one request; a
 * read looks keys up by id, or asks the index for a group of them. One more client writes ballast
 * in large batches, so that there are checkpoints and merges. SEED is part of every value: no two
 * loads of one file may have the same. The groove is `cells`, as fault_runs.sh creates it. */
#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ipc/client.h"
#include "pool/base.h"
#include "tests/harness/history.h"
#include "tests/harness/prng.h"

enum {
    CLIENT_COUNT = 4, /* the last one writes ballast */
    KEY_COUNT = 64,
    GROUP_COUNT = 8,
    WRITE_KEY_MAX = 4,
    READ_KEY_MAX = 8,
    BALLAST_KEY_FIRST = 1000,
    BALLAST_KEY_COUNT = 20000,
    BALLAST_BATCH_MAX = 400,
    CALL_TIMEOUT_MS = 20 * 1000,
    BODY_SIZE = 64 * 1024,
};

static const uint64_t ns_per_ms = 1000 * 1000;

struct object {
    struct wire_object_header header;
    uint32_t key;
    uint32_t grp;
    uint64_t value;
    uint8_t filler[80];
};
static_assert(sizeof(struct object) == 128, "no padding");

struct worker {
    pthread_t thread;
    uint32_t number;
    uint64_t value_next;
    struct client *client;
    struct prng prng;
    struct history history;
    uint64_t written, unanswered, refused, read, damaged;
    bool lost;
    uint8_t body[BODY_SIZE];
};

static struct worker workers[CLIENT_COUNT];
static const char *socket_path;
static uint32_t groove_id;
static uint32_t ballast_batch; /* objects, <= BALLAST_BATCH_MAX */
static uint64_t stop_ns;
static _Atomic bool wrong;

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000 * ns_per_ms + (uint64_t)time.tv_nsec;
}

static void complain(const char *what, uint32_t result)
{
    fprintf(stderr, "history_client: %s: %s\n", what, result_text(result));
    atomic_store(&wrong, true);
}

static void id_make(uint32_t key, uint8_t id[WIRE_ID_SIZE])
{
    const uint64_t high = (key + 1) * UINT64_C(0x9E3779B97F4A7C15);
    const uint64_t low = key + 1;
    memcpy(id, &low, sizeof low);
    memcpy(id + sizeof low, &high, sizeof high);
}

/* ---- One request -------------------------------------------------------------------------------
 */

enum answer { ANSWER_OK, ANSWER_NO_EFFECT, ANSWER_NONE };

/* Sends the body and fills in `op`'s times and numbers. */
static enum answer ask(struct worker *worker, enum operation operation, uint32_t size,
                       struct history_op *op, struct client_reply *reply)
{
    op->client = worker->number;
    op->begin_ns = now_ns();
    op->end_ns = HISTORY_UNANSWERED;
    enum client_status status =
        client_send(worker->client, operation, worker->body, size, CALL_TIMEOUT_MS, NULL);
    if (status == CLIENT_OK) {
        status = client_receive(worker->client, CALL_TIMEOUT_MS, reply);
    }
    if (status != CLIENT_OK) {
        worker->lost = true;
        if (status != CLIENT_LOST && status != CLIENT_NO_SOCKET && status != CLIENT_NOBODY) {
            fprintf(stderr, "history_client: %s\n", client_status_text(status));
        }
        return ANSWER_NONE;
    }
    op->end_ns = now_ns();
    op->commit = reply->commit;
    switch (reply->result) {
    case RESULT_OK:
        return ANSWER_OK;
    case RESULT_BUSY:
    case RESULT_FULL:
    case RESULT_READ_ONLY:
    case RESULT_EXPIRED:
        worker->refused += 1;
        return ANSWER_NO_EFFECT;
    case RESULT_SHUTTING_DOWN:
        worker->lost = true;
        return ANSWER_NO_EFFECT;
    case RESULT_CORRUPT:
        worker->damaged += 1;
        return ANSWER_NO_EFFECT;
    default:
        complain(operation_name(operation), reply->result);
        worker->lost = true;
        return ANSWER_NO_EFFECT;
    }
}

/* ---- Writing -----------------------------------------------------------------------------------
 */

static uint8_t *section_add(uint8_t *at, enum wire_event_type type,
                            const struct history_cell *cells, uint32_t cell_count, bool removed)
{
    struct wire_section section = {.groove_id = groove_id, .event_type = (uint8_t)type};
    uint8_t *payload = at + sizeof section;
    for (uint32_t i = 0; i < cell_count; i++) {
        if ((cells[i].value == 0) != removed) {
            continue;
        }
        struct object object = {
            .key = cells[i].key,
            .grp = cells[i].key % GROUP_COUNT,
            .value = cells[i].value,
        };
        id_make(cells[i].key, object.header.id);
        const size_t size = removed ? WIRE_ID_SIZE : sizeof object;
        memcpy(payload, &object, size); /* The id stands first. */
        payload += size;
        section.event_count += 1;
    }
    if (section.event_count == 0) {
        return at;
    }
    memcpy(at, &section, sizeof section);
    return payload;
}

/* An event that failed had no effect; only a removal of nothing may fail while nothing is damaged.
 * Takes such cells out. Events are the upserts in order, then the removals. */
static void failures_drop(struct worker *worker, const struct client_reply *reply,
                          struct history_op *op, struct history_cell *cells)
{
    struct write_reply failures = {0};
    if (reply->body_size < sizeof failures) {
        complain("the reply to a write is too short", RESULT_BAD_BODY);
        return;
    }
    memcpy(&failures, reply->body, sizeof failures);
    uint32_t positions[WRITE_KEY_MAX];
    uint32_t position_count = 0;
    for (int removed = 0; removed < 2; removed++) {
        for (uint32_t i = 0; i < op->cell_count; i++) {
            if ((cells[i].value == 0) == (removed == 1)) {
                positions[position_count++] = i;
            }
        }
    }
    bool dropped[WRITE_KEY_MAX] = {false};
    for (uint32_t i = 0; i < failures.failure_count; i++) {
        struct wire_failure failure;
        memcpy(&failure, reply->body + sizeof failures + i * sizeof failure, sizeof failure);
        if (failure.result == WIRE_EVENT_RESULT_CORRUPT) {
            worker->damaged += 1;
            dropped[positions[failure.event_index]] = true;
        } else if (failure.result != WIRE_EVENT_RESULT_NOT_FOUND ||
                   cells[positions[failure.event_index]].value != 0) {
            fprintf(stderr, "history_client: an event failed: %s\n",
                    wire_event_result_text(failure.result));
            atomic_store(&wrong, true);
        }
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < op->cell_count; i++) {
        if (!dropped[i]) {
            cells[kept++] = cells[i];
        }
    }
    op->cell_count = kept;
}

static void write_cells(struct worker *worker)
{
    struct history_cell cells[WRITE_KEY_MAX];
    struct client_reply reply;
    const uint32_t count = (uint32_t)prng_range(&worker->prng, 1, WRITE_KEY_MAX);
    const uint32_t first = (uint32_t)prng_below(&worker->prng, KEY_COUNT);
    for (uint32_t i = 0; i < count; i++) {
        cells[i].key = (first + i * 17) % KEY_COUNT;
        cells[i].value = prng_chance(&worker->prng, 1, 5) ? 0 : worker->value_next++;
    }
    struct history_op op = {.write = true, .event_count = count, .cell_count = count};
    uint8_t *end = section_add(worker->body, WIRE_EVENT_TYPE_UPSERT, cells, count, false);
    end = section_add(end, WIRE_EVENT_TYPE_REMOVE, cells, count, true);
    const enum answer answer =
        ask(worker, OPERATION_WRITE, (uint32_t)(end - worker->body), &op, &reply);
    if (answer == ANSWER_OK) {
        op.timestamp = reply.timestamp;
        failures_drop(worker, &reply, &op, cells);
        worker->written += 1;
    }
    if (answer == ANSWER_NONE) {
        worker->unanswered += 1;
    }
    if (answer != ANSWER_NO_EFFECT) {
        history_add(&worker->history, &op, cells);
    }
}

static void write_ballast(struct worker *worker)
{
    struct client_reply reply;
    struct history_op op = {.write = true, .event_count = ballast_batch};
    const bool remove = prng_chance(&worker->prng, 1, 4);
    const struct wire_section section = {
        .groove_id = groove_id,
        .event_type = remove ? WIRE_EVENT_TYPE_REMOVE : WIRE_EVENT_TYPE_UPSERT,
        .event_count = ballast_batch,
    };
    memcpy(worker->body, &section, sizeof section);
    uint8_t *payload = worker->body + sizeof section;
    const uint32_t first = (uint32_t)prng_below(&worker->prng, BALLAST_KEY_COUNT - ballast_batch);
    for (uint32_t i = 0; i < ballast_batch; i++) {
        struct object object = {
            .key = BALLAST_KEY_FIRST + first + i,
            .grp = GROUP_COUNT + first % 100,
            .value = worker->value_next,
        };
        id_make(object.key, object.header.id);
        prng_fill(&worker->prng, object.filler, sizeof object.filler);
        const size_t size = remove ? WIRE_ID_SIZE : sizeof object;
        memcpy(payload, &object, size);
        payload += size;
    }
    const enum answer answer =
        ask(worker, OPERATION_WRITE, (uint32_t)(payload - worker->body), &op, &reply);
    if (answer == ANSWER_OK) {
        op.timestamp = reply.timestamp;
        worker->written += 1;
    }
    if (answer != ANSWER_NO_EFFECT) {
        history_add(&worker->history, &op, NULL);
    }
}

/* ---- Reading -----------------------------------------------------------------------------------
 */

/* Asks, and fills in what was found of the keys in `cells`. */
static bool read_cells(struct worker *worker, enum operation operation, uint32_t size,
                       struct history_cell *cells, uint32_t count)
{
    struct client_reply reply;
    struct history_op op = {.cell_count = count};
    if (ask(worker, operation, size, &op, &reply) != ANSWER_OK) {
        return false;
    }
    struct objects_reply objects = {0};
    if (reply.body_size < sizeof objects) {
        complain("the reply to a read is too short", RESULT_BAD_BODY);
        return false;
    }
    memcpy(&objects, reply.body, sizeof objects);
    if (objects.object_size != sizeof(struct object) ||
        reply.body_size != sizeof objects + objects.object_count * sizeof(struct object)) {
        complain("the reply to a read has another size", RESULT_BAD_BODY);
        return false;
    }
    for (uint32_t i = 0; i < objects.object_count; i++) {
        struct object object;
        uint8_t id[WIRE_ID_SIZE];
        memcpy(&object, reply.body + sizeof objects + i * sizeof object, sizeof object);
        id_make(object.key, id);
        uint32_t at = 0;
        while (at < count && cells[at].key != object.key) {
            at += 1;
        }
        if (at == count || cells[at].value != 0 || object.value == 0 ||
            object.grp != object.key % GROUP_COUNT ||
            memcmp(id, object.header.id, sizeof id) != 0) {
            complain("a read found an object twice, or one that it did not ask for",
                     RESULT_BAD_BODY);
            return false;
        }
        cells[at].value = object.value;
    }
    history_add(&worker->history, &op, cells);
    worker->read += 1;
    return true;
}

static bool read_by_id(struct worker *worker, uint32_t first, uint32_t step, uint32_t count)
{
    struct history_cell cells[READ_KEY_MAX] = {{0}};
    const struct lookup_request request = {.groove_id = groove_id, .id_count = count};
    memcpy(worker->body, &request, sizeof request);
    for (uint32_t i = 0; i < count; i++) {
        cells[i].key = (first + i * step) % KEY_COUNT;
        id_make(cells[i].key, worker->body + sizeof request + i * WIRE_ID_SIZE);
    }
    return read_cells(worker, OPERATION_LOOKUP, (uint32_t)sizeof request + count * WIRE_ID_SIZE,
                      cells, count);
}

static bool read_by_group(struct worker *worker, uint32_t group)
{
    struct history_cell cells[KEY_COUNT / GROUP_COUNT] = {{0}};
    const struct query_request request = {
        .groove_id = groove_id, .index_id = 0, .key_size = sizeof group};
    memcpy(worker->body, &request, sizeof request);
    memcpy(worker->body + sizeof request, &group, sizeof group);
    for (uint32_t i = 0; i < array_count(cells); i++) {
        cells[i].key = group + i * GROUP_COUNT;
    }
    return read_cells(worker, OPERATION_QUERY, sizeof request + sizeof group, cells,
                      (uint32_t)array_count(cells));
}

/* ---- Running -----------------------------------------------------------------------------------
 */

static bool connect_worker(struct worker *worker)
{
    const struct client_options options = {.socket_path = socket_path,
                                           .connect_timeout_ms = CALL_TIMEOUT_MS};
    const enum client_status status = client_open(&options, &worker->client);
    if (status != CLIENT_OK) {
        fprintf(stderr, "history_client: no connection: %s\n", client_status_text(status));
    }
    return status == CLIENT_OK;
}

static void *worker_run(void *context)
{
    struct worker *worker = context;
    while (!worker->lost && now_ns() < stop_ns && !atomic_load(&wrong)) {
        const uint64_t dice = prng_below(&worker->prng, 4);
        if (worker->number == CLIENT_COUNT - 1) {
            write_ballast(worker);
        } else if (dice < 2) {
            write_cells(worker);
        } else if (dice == 2) {
            read_by_id(worker, (uint32_t)prng_below(&worker->prng, KEY_COUNT),
                       (uint32_t)prng_range(&worker->prng, 0, 3) * 2 + 1, READ_KEY_MAX);
        } else {
            read_by_group(worker, (uint32_t)prng_below(&worker->prng, GROUP_COUNT));
        }
    }
    return NULL;
}

static void histories_save(const char *path)
{
    FILE *file = fopen(path, "ae");
    if (file == NULL) {
        perror(path);
        exit(74);
    }
    for (uint32_t i = 0; i < CLIENT_COUNT; i++) {
        const struct history *history = &workers[i].history;
        for (size_t j = 0; j < history->op_count; j++) {
            history_print(file, &history->ops[j], history->cells + history->ops[j].cell_first);
        }
    }
    if (fclose(file) != 0) {
        perror(path);
        exit(74);
    }
}

/* Whether the daemon has the groove, perhaps among others; says its id. */
static bool groove_find(struct client *client)
{
    struct client_reply reply;
    struct schema_reply schema;
    if (client_call(client, OPERATION_SCHEMA, NULL, 0, CALL_TIMEOUT_MS, &reply) != CLIENT_OK ||
        reply.result != RESULT_OK || reply.body_size < sizeof schema) {
        return false;
    }
    memcpy(&schema, reply.body, sizeof schema);
    uint64_t at = sizeof schema;
    for (uint32_t i = 0; i < schema.groove_count; i++) {
        struct schema_groove groove;
        if (at + sizeof groove > reply.body_size) {
            return false;
        }
        memcpy(&groove, reply.body + at, sizeof groove);
        if (strcmp(groove.name, "cells") == 0) {
            groove_id = groove.groove_id;
            ballast_batch = (uint32_t)min_u64(groove.event_count_max, BALLAST_BATCH_MAX);
            return groove.object_size == sizeof(struct object) && groove.index_count == 1;
        }
        at += sizeof groove + groove.field_count * sizeof(struct schema_field) +
              groove.index_count * sizeof(struct schema_index);
    }
    return false;
}

static int load(const char *path, uint64_t seed, uint64_t ms)
{
    struct prng prng;
    prng_init(&prng, seed);
    stop_ns = now_ns() + ms * ns_per_ms;
    bool connected = true;
    for (uint32_t i = 0; i < CLIENT_COUNT; i++) {
        workers[i].number = i;
        workers[i].value_next = (seed << 32) + ((uint64_t)(i + 1) << 28);
        prng_init(&workers[i].prng, prng_next(&prng));
        history_init(&workers[i].history);
        connected = connected && connect_worker(&workers[i]);
    }
    if (connected && groove_find(workers[0].client)) {
        for (uint32_t i = 0; i < CLIENT_COUNT; i++) {
            if (pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]) != 0) {
                abort();
            }
        }
    }
    struct worker sum = {0};
    for (uint32_t i = 0; i < CLIENT_COUNT; i++) {
        if (workers[i].thread != 0) {
            pthread_join(workers[i].thread, NULL);
        }
        client_close(workers[i].client);
        sum.written += workers[i].written;
        sum.unanswered += workers[i].unanswered;
        sum.read += workers[i].read;
        sum.refused += workers[i].refused;
        sum.damaged += workers[i].damaged;
    }
    histories_save(path);
    printf("%" PRIu64 " written, %" PRIu64 " unanswered, %" PRIu64 " read, %" PRIu64
           " refused, %" PRIu64 " damaged\n",
           sum.written, sum.unanswered, sum.read, sum.refused, sum.damaged);
    return atomic_load(&wrong) ? 1 : 0;
}

static int final(const char *path)
{
    struct worker *worker = &workers[0];
    history_init(&worker->history);
    bool good = connect_worker(worker) && groove_find(worker->client);
    for (uint32_t i = 0; i < KEY_COUNT && good; i += READ_KEY_MAX) {
        good = read_by_id(worker, i, 1, READ_KEY_MAX);
    }
    for (uint32_t i = 0; i < GROUP_COUNT && good; i++) {
        good = read_by_group(worker, i);
    }
    client_close(worker->client);
    histories_save(path);
    if (!good) {
        fprintf(stderr, "history_client: not everything could be read\n");
    }
    return good && !atomic_load(&wrong) ? 0 : 1;
}

static int check(const char *path)
{
    struct history history;
    char error[HISTORY_ERROR_SIZE];
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        perror(path);
        return 66;
    }
    history_init(&history);
    const bool good = history_load(&history, file, error) && history_check(&history, false, error);
    fclose(file);
    if (good) {
        printf("good %zu operations\n", history.op_count);
    } else {
        printf("%s\n", error);
    }
    history_deinit(&history);
    return good ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc == 6 && strcmp(argv[1], "load") == 0) {
        socket_path = argv[2];
        return load(argv[3], strtoull(argv[4], NULL, 10), strtoull(argv[5], NULL, 10));
    }
    if (argc == 4 && strcmp(argv[1], "final") == 0) {
        socket_path = argv[2];
        return final(argv[3]);
    }
    if (argc == 3 && strcmp(argv[1], "check") == 0) {
        return check(argv[2]);
    }
    fprintf(stderr, "usage: history_client load SOCKET FILE SEED MS | final SOCKET FILE | "
                    "check FILE\n");
    return 64;
}
