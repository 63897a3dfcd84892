/* The client of kill_under_load.sh: loads a daemon, kills it, and tells whether what comes back is
 * what was acknowledged. It outlives the daemon and does what it reads from stdin, a line at a
 * time:
 *
 *   load PID   all workers write and read; after 50..400 ms PID is killed   "good 412 3"
 *              (acknowledged writes, writes that got no answer)
 *   kill PID   PID is killed within 60 ms, wherever it is                   "good"
 *   check      compares everything with what was acknowledged               "good 198340"
 *              (objects)
 *
 * or answers "bad" and says on stderr what is wrong.
 *
 * A worker is one connection with one request in flight, and batches of its own. A batch is 1..500
 * objects that are inserted, updated (to the next generation) and removed together, in one request
 * each. What is known of a batch is two fates: the one last acknowledged, and the one last sent.
 * They differ only if a write got no answer; after a kill the batch must have met one of the two,
 * and all its objects the same one. */
#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ipc/client.h"
#include "pool/base.h"
#include "tests/harness/prng.h"

enum {
    WORKER_COUNT = 4,
    BATCH_COUNT = 256, /* batches of a worker at a time */
    OBJECT_COUNT_MAX = 500,
    FILLER_SIZE = 80,
    ACKNOWLEDGEMENT_COUNT_MAX = 1 << 16, /* of a worker in one load */
    CALL_TIMEOUT_MS = 60 * 1000,
    LINE_SIZE = 64,
    US_PER_MS = 1000,
    CONTENT_CHANCE = 8, /* every so manyth batch is compared byte by byte */
};

/* As kill_under_load.sh creates it. */
struct object {
    struct wire_object_header header;
    uint64_t batch;
    uint32_t generation;
    uint32_t position;
    uint8_t filler[FILLER_SIZE]; /* a function of the three above */
};
static_assert(sizeof(struct object) == 128, "no padding");

struct fate {
    bool present;
    uint32_t generation; /* 0 when absent */
};

struct batch {
    uint64_t number; /* unique for ever; 0: this place is free */
    uint32_t object_count;
    struct fate acknowledged;
    struct fate sent;
};

struct acknowledgement {
    uint64_t commit;
    uint64_t timestamp;
    uint32_t event_count;
};

struct schema {
    uint32_t groove_id;
    uint32_t index_batch;
    uint32_t index_generation; /* (batch, generation) */
};

/* Belongs to its thread while one runs, else to main. */
struct worker {
    pthread_t thread;
    const struct schema *schema;
    struct client *client;
    struct prng prng;
    uint64_t batch_next; /* number of the next batch; the workers' numbers interleave */
    uint64_t commit_seen;
    uint64_t objects; /* found by the last check */
    uint32_t acknowledgement_count;
    uint32_t unanswered_count;
    struct batch batches[BATCH_COUNT];
    struct acknowledgement acknowledgements[ACKNOWLEDGEMENT_COUNT_MAX];
    uint8_t body[sizeof(struct wire_section) + OBJECT_COUNT_MAX * sizeof(struct object)];
};

static struct worker workers[WORKER_COUNT];
static struct acknowledgement all[WORKER_COUNT * ACKNOWLEDGEMENT_COUNT_MAX];
static const char *socket_path;
static _Atomic bool wrong;

static void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void complain(const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "%s\n", text);
    atomic_store(&wrong, true);
}

static void pause_us(uint64_t us)
{
    const struct timespec time = {.tv_sec = (time_t)(us / 1000000),
                                  .tv_nsec = (long)(us % 1000000) * 1000};
    nanosleep(&time, NULL);
}

/* ---- Asking ------------------------------------------------------------------------------------
 */

/* One request, sent again only while the daemon is busy. False: no answer, `*status` says why, or
 * one that is complained of. */
static bool call(struct client *client, enum operation operation, const void *body, uint32_t size,
                 struct client_reply *reply, enum client_status *status)
{
    for (;;) {
        *status = client_send(client, operation, body, size, CALL_TIMEOUT_MS, NULL);
        if (*status == CLIENT_OK) {
            *status = client_receive(client, CALL_TIMEOUT_MS, reply);
        }
        if (*status != CLIENT_OK) {
            return false;
        }
        if (reply->result == RESULT_OK) {
            return true;
        }
        if (reply->result != RESULT_BUSY) {
            complain("%s is refused: %s %.*s", operation_name(operation),
                     result_text(reply->result), (int)reply->body_size, (const char *)reply->body);
            return false;
        }
        pause_us((uint64_t)reply->retry_after_ms * US_PER_MS);
    }
}

/* A read, which must see what was acknowledged to this worker. */
static bool read_call(struct worker *worker, enum operation operation, const void *body,
                      uint32_t size, struct client_reply *reply, enum client_status *status)
{
    if (!call(worker->client, operation, body, size, reply, status)) {
        return false;
    }
    if (reply->commit < worker->commit_seen) {
        complain("a read saw commit %" PRIu64 ", but %" PRIu64 " was acknowledged before",
                 reply->commit, worker->commit_seen);
        return false;
    }
    worker->commit_seen = reply->commit;
    return true;
}

/* Objects of the batch; of one generation, if one is given. */
static bool count(struct worker *worker, uint64_t number, const uint32_t *generation,
                  uint64_t *objects, enum client_status *status)
{
    const struct query_request request = {
        .groove_id = worker->schema->groove_id,
        .index_id =
            generation == NULL ? worker->schema->index_batch : worker->schema->index_generation,
        .key_size = sizeof number + (generation == NULL ? 0 : sizeof *generation),
    };
    uint8_t body[sizeof request + sizeof number + sizeof *generation];
    memcpy(body, &request, sizeof request);
    memcpy(body + sizeof request, &number, sizeof number);
    if (generation != NULL) {
        memcpy(body + sizeof request + sizeof number, generation, sizeof *generation);
    }
    struct client_reply reply;
    if (!read_call(worker, OPERATION_COUNT, body, (uint32_t)sizeof request + request.key_size,
                   &reply, status)) {
        return false;
    }
    if (reply.body_size != sizeof *objects) {
        complain("COUNT has a body of %" PRIu32 " bytes", reply.body_size);
        return false;
    }
    memcpy(objects, reply.body, sizeof *objects);
    return true;
}

/* ---- Writing -----------------------------------------------------------------------------------
 */

static void object_make(uint64_t batch, uint32_t generation, uint32_t position,
                        struct object *object)
{
    struct prng prng;
    prng_init(&prng, batch * 1000003 + generation * 1009 + position);
    *object = (struct object){.batch = batch, .generation = generation, .position = position};
    prng_fill(&prng, object->filler, sizeof object->filler);

    /* Scattered, so that a batch's ids fall all over the id tree. */
    const uint64_t high = (batch * 1024 + position) * UINT64_C(0x9E3779B97F4A7C15);
    const uint64_t low = batch * 1024 + position;
    memcpy(object->header.id, &low, sizeof low);
    memcpy(object->header.id + sizeof low, &high, sizeof high);
}

static uint32_t body_fill(struct worker *worker, const struct batch *batch,
                          enum wire_event_type type)
{
    const struct wire_section section = {
        .groove_id = worker->schema->groove_id,
        .event_type = (uint8_t)type,
        .event_count = batch->object_count,
    };
    const uint32_t payload_size =
        type == WIRE_EVENT_TYPE_REMOVE ? WIRE_ID_SIZE : (uint32_t)sizeof(struct object);
    memcpy(worker->body, &section, sizeof section);
    uint8_t *payload = worker->body + sizeof section;
    for (uint32_t i = 0; i < batch->object_count; i++) {
        struct object object;
        object_make(batch->number, batch->sent.generation, i, &object);
        memcpy(payload, &object, payload_size); /* The id stands first. */
        payload += payload_size;
    }
    return (uint32_t)(payload - worker->body);
}

/* Takes `batch` to the fate it has been given. False: no answer, or a bad one. */
static bool batch_write(struct worker *worker, struct batch *batch, enum wire_event_type type,
                        enum client_status *status)
{
    assert(worker->acknowledgement_count < ACKNOWLEDGEMENT_COUNT_MAX);
    struct client_reply reply;
    if (!call(worker->client, OPERATION_WRITE, worker->body, body_fill(worker, batch, type), &reply,
              status)) {
        worker->unanswered_count += *status != CLIENT_OK;
        return false;
    }
    batch->acknowledged = batch->sent;

    struct write_reply failures = {.failure_count = UINT32_MAX};
    if (reply.body_size >= sizeof failures) {
        memcpy(&failures, reply.body, sizeof failures);
    }
    if (failures.failure_count != 0) {
        complain("batch %" PRIu64 ": event type %d failed for %" PRIu32 " of %" PRIu32 " objects",
                 batch->number, (int)type, failures.failure_count, batch->object_count);
        return false;
    }
    if (reply.commit <= worker->commit_seen) {
        complain("batch %" PRIu64 " got commit %" PRIu64 ", but %" PRIu64 " was seen before",
                 batch->number, reply.commit, worker->commit_seen);
        return false;
    }
    worker->commit_seen = reply.commit;
    worker->acknowledgements[worker->acknowledgement_count] = (struct acknowledgement){
        .commit = reply.commit,
        .timestamp = reply.timestamp,
        .event_count = batch->object_count,
    };
    worker->acknowledgement_count += 1;
    return true;
}

static bool batch_insert(struct worker *worker, struct batch *batch, enum client_status *status)
{
    *batch = (struct batch){
        .number = worker->batch_next,
        .object_count = (uint32_t)prng_range(&worker->prng, 1, OBJECT_COUNT_MAX),
        .sent = {.present = true, .generation = 1},
    };
    worker->batch_next += WORKER_COUNT;
    return batch_write(worker, batch, WIRE_EVENT_TYPE_INSERT, status);
}

/* Reads what this worker wrote. */
static bool batch_read(struct worker *worker, const struct batch *batch, enum client_status *status)
{
    const bool present = batch->acknowledged.present;
    uint64_t objects;
    if (!count(worker, batch->number, present ? &batch->acknowledged.generation : NULL, &objects,
               status)) {
        return false;
    }
    const uint32_t wanted = present ? batch->object_count : 0;
    if (objects != wanted) {
        complain("batch %" PRIu64 ": a read under load found %" PRIu64 " of %" PRIu32 " objects",
                 batch->number, objects, wanted);
        return false;
    }
    return true;
}

/* One random thing with one random batch. */
static bool step(struct worker *worker, enum client_status *status)
{
    struct batch *batch = &worker->batches[prng_below(&worker->prng, BATCH_COUNT)];
    const uint64_t dice = prng_below(&worker->prng, 10);
    if (batch->number == 0) {
        return batch_insert(worker, batch, status);
    }
    if (!batch->acknowledged.present || dice < 2) {
        return batch_read(worker, batch, status);
    }
    if (dice < 8) {
        batch->sent.generation += 1;
        return batch_write(worker, batch, WIRE_EVENT_TYPE_UPDATE, status);
    }
    batch->sent = (struct fate){0};
    return batch_write(worker, batch, WIRE_EVENT_TYPE_REMOVE, status);
}

static void *load_run(void *context)
{
    struct worker *worker = context;
    enum client_status status = CLIENT_OK;
    worker->acknowledgement_count = 0;
    worker->unanswered_count = 0;
    while (step(worker, &status)) {
    }
    if (status != CLIENT_OK && status != CLIENT_LOST) {
        complain("under load: %s", client_status_text(status));
    }
    return NULL;
}

/* ---- Checking ----------------------------------------------------------------------------------
 */

/* Compares the batch's objects with what was written. */
static bool content_check(struct worker *worker, const struct batch *batch,
                          enum client_status *status)
{
    const struct query_request request = {
        .groove_id = worker->schema->groove_id,
        .index_id = worker->schema->index_batch,
        .key_size = sizeof batch->number,
    };
    uint8_t body[sizeof request + sizeof batch->number];
    memcpy(body, &request, sizeof request);
    memcpy(body + sizeof request, &batch->number, sizeof batch->number);
    struct client_reply reply;
    if (!read_call(worker, OPERATION_QUERY, body, sizeof body, &reply, status)) {
        return false;
    }
    if (reply.body_size !=
        sizeof(struct objects_reply) + batch->object_count * sizeof(struct object)) {
        complain("batch %" PRIu64 ": a query returns %" PRIu32 " bytes for %" PRIu32 " objects",
                 batch->number, reply.body_size, batch->object_count);
        return false;
    }
    for (uint32_t i = 0; i < batch->object_count; i++) {
        struct object wanted;
        struct object found;
        object_make(batch->number, batch->acknowledged.generation, i, &wanted);
        memcpy(&found, reply.body + sizeof(struct objects_reply) + i * sizeof found, sizeof found);
        wanted.header.timestamp = found.header.timestamp;
        wanted.header.version = found.header.version;
        if (memcmp(&found, &wanted, sizeof found) != 0 || found.header.timestamp == 0 ||
            found.header.version < found.header.timestamp) {
            complain("batch %" PRIu64 ": object %" PRIu32 " is not what was written", batch->number,
                     i);
            return false;
        }
    }
    return true;
}

static bool fate_equal(struct fate a, struct fate b)
{
    return a.present == b.present && a.generation == b.generation;
}

/* Finds out what became of the batch, and holds it against what was said. */
static bool batch_check(struct worker *worker, struct batch *batch, enum client_status *status)
{
    const struct fate fates[] = {batch->acknowledged, batch->sent};
    uint64_t objects;
    if (!count(worker, batch->number, NULL, &objects, status)) {
        return false;
    }
    struct fate found = {.present = objects > 0};
    for (uint32_t i = 0; i < array_count(fates) && found.generation == 0; i++) {
        uint64_t same;
        if (!fates[i].present) {
            continue;
        }
        if (!count(worker, batch->number, &fates[i].generation, &same, status)) {
            return false;
        }
        if (same != 0 && (same != objects || objects != batch->object_count)) {
            complain("batch %" PRIu64 " of %" PRIu32 " objects is there by half: %" PRIu64
                     " by batch, %" PRIu64 " by generation %" PRIu32,
                     batch->number, batch->object_count, objects, same, fates[i].generation);
            return false;
        }
        found.generation = same == 0 ? 0 : fates[i].generation;
    }
    if (!fate_equal(found, batch->acknowledged) && !fate_equal(found, batch->sent)) {
        complain("batch %" PRIu64 " of %" PRIu32 " objects: acknowledged %s %" PRIu32
                 ", sent %s %" PRIu32 ", found %" PRIu64 " objects of generation %" PRIu32,
                 batch->number, batch->object_count,
                 batch->acknowledged.present ? "generation" : "absence",
                 batch->acknowledged.generation, batch->sent.present ? "generation" : "absence",
                 batch->sent.generation, objects, found.generation);
        return false;
    }
    batch->acknowledged = found;
    batch->sent = found;
    worker->objects += objects;
    if (!found.present) {
        batch->number = 0; /* Should it come back, the total would tell. */
        return true;
    }
    return prng_below(&worker->prng, CONTENT_CHANCE) != 0 || content_check(worker, batch, status);
}

static void *check_run(void *context)
{
    struct worker *worker = context;
    enum client_status status = CLIENT_OK;
    bool good = true;
    worker->objects = 0;
    for (uint32_t i = 0; i < BATCH_COUNT && good; i++) {
        struct batch *batch = &worker->batches[i];
        good = batch->number == 0 || batch_check(worker, batch, &status);
    }
    if (status != CLIENT_OK) {
        complain("while checking: %s", client_status_text(status));
    }
    return NULL;
}

static int acknowledgement_compare(const void *a, const void *b)
{
    const struct acknowledgement *left = a;
    const struct acknowledgement *right = b;
    return (left->commit > right->commit) - (left->commit < right->commit);
}

/* What was acknowledged in one load, over all workers, in the order of commits: no number is given
 * twice, and each commit's timestamps end before the next one's begin. */
static uint32_t acknowledgements_check(void)
{
    uint32_t all_count = 0;
    for (uint32_t i = 0; i < WORKER_COUNT; i++) {
        memcpy(all + all_count, workers[i].acknowledgements,
               workers[i].acknowledgement_count * sizeof *all);
        all_count += workers[i].acknowledgement_count;
    }
    qsort(all, all_count, sizeof *all, acknowledgement_compare);
    for (uint32_t i = 1; i < all_count; i++) {
        if (all[i].commit == all[i - 1].commit ||
            all[i].timestamp < all[i - 1].timestamp + all[i - 1].event_count) {
            complain("commit %" PRIu64 " has timestamp %" PRIu64 " after commit %" PRIu64
                     " with %" PRIu64 " and %" PRIu32 " events",
                     all[i].commit, all[i].timestamp, all[i - 1].commit, all[i - 1].timestamp,
                     all[i - 1].event_count);
            break;
        }
    }
    return all_count;
}

/* ---- Commands ----------------------------------------------------------------------------------
 */

static struct client *open_client(void)
{
    struct client *client = NULL;
    const struct client_options options = {.socket_path = socket_path};
    const enum client_status status = client_open(&options, &client);
    if (status != CLIENT_OK) {
        complain("%s: %s", socket_path, client_status_text(status));
    }
    return client;
}

/* Each worker on a thread and a new connection. Nobody has seen more than the newest commit that
 * any of them saw, and all must see it from now on: numbers are never given again. */
static void start(void *(*run)(void *))
{
    uint64_t commit_seen = 0;
    for (uint32_t i = 0; i < WORKER_COUNT; i++) {
        commit_seen = max_u64(commit_seen, workers[i].commit_seen);
    }
    for (uint32_t i = 0; i < WORKER_COUNT; i++) {
        workers[i].commit_seen = commit_seen;
        workers[i].client = open_client();
    }
    for (uint32_t i = 0; i < WORKER_COUNT && !atomic_load(&wrong); i++) {
        if (pthread_create(&workers[i].thread, NULL, run, &workers[i]) != 0) {
            abort();
        }
    }
}

static void join(void)
{
    for (uint32_t i = 0; i < WORKER_COUNT; i++) {
        if (workers[i].thread != 0) {
            pthread_join(workers[i].thread, NULL);
        }
        client_close(workers[i].client);
        workers[i].thread = 0;
        workers[i].client = NULL;
    }
}

static void load(pid_t pid, struct prng *prng)
{
    start(load_run);
    pause_us(prng_range(prng, 50 * US_PER_MS, 400 * US_PER_MS));
    kill(pid, SIGKILL);
    join();
    uint32_t unanswered_count = 0;
    for (uint32_t i = 0; i < WORKER_COUNT; i++) {
        unanswered_count += workers[i].unanswered_count;
    }
    const uint32_t acknowledged_count = acknowledgements_check();
    if (!atomic_load(&wrong)) {
        printf("good %" PRIu32 " %" PRIu32 "\n", acknowledged_count, unanswered_count);
    }
}

static void check(void)
{
    start(check_run);
    join();
    uint64_t wanted = 0;
    for (uint32_t i = 0; i < WORKER_COUNT; i++) {
        wanted += workers[i].objects;
    }
    const struct query_request request = {.groove_id = workers[0].schema->groove_id,
                                          .index_id = WIRE_INDEX_NONE};
    struct client *client = open_client();
    struct client_reply reply;
    enum client_status status;
    uint64_t found = 0;
    if (client != NULL &&
        call(client, OPERATION_COUNT, &request, sizeof request, &reply, &status) &&
        reply.body_size == sizeof found) {
        memcpy(&found, reply.body, sizeof found);
    }
    client_close(client);
    if (found != wanted && !atomic_load(&wrong)) {
        complain("the groove has %" PRIu64 " objects, its batches %" PRIu64, found, wanted);
    }
    if (!atomic_load(&wrong)) {
        printf("good %" PRIu64 "\n", found);
    }
}

/* The one groove there is, and its two indexes in the order of their creation. */
static bool read_schema(struct schema *schema)
{
    struct client *client = open_client();
    struct client_reply reply;
    enum client_status status;
    struct schema_groove groove = {0};
    struct schema_index indexes[2];
    bool good = client != NULL && call(client, OPERATION_SCHEMA, NULL, 0, &reply, &status) &&
                reply.body_size > sizeof(struct schema_reply) + sizeof groove;
    if (good) {
        memcpy(&groove, reply.body + sizeof(struct schema_reply), sizeof groove);
        good = groove.object_size == sizeof(struct object) && groove.field_count == 4 &&
               groove.index_count == 2 && groove.event_count_max >= OBJECT_COUNT_MAX &&
               reply.body_size == sizeof(struct schema_reply) + sizeof groove +
                                      4 * sizeof(struct schema_field) + sizeof indexes;
    }
    if (good) {
        memcpy(indexes, reply.body + reply.body_size - sizeof indexes, sizeof indexes);
        *schema = (struct schema){
            .groove_id = groove.groove_id,
            .index_batch = indexes[0].index_id,
            .index_generation = indexes[1].index_id,
        };
    }
    client_close(client);
    return good;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: kill_client SOCKET SEED, and commands on stdin\n");
        return 64;
    }
    socket_path = argv[1];
    const uint64_t seed = strtoull(argv[2], NULL, 10);
    struct schema schema;
    if (!read_schema(&schema)) {
        fprintf(stderr, "the daemon has not the one groove that this is for\n");
        return 65;
    }
    struct prng prng;
    prng_init(&prng, seed);
    for (uint32_t i = 0; i < WORKER_COUNT; i++) {
        workers[i].schema = &schema;
        workers[i].batch_next = i + 1;
        prng_init(&workers[i].prng, prng_next(&prng));
    }

    char line[LINE_SIZE];
    while (!atomic_load(&wrong) && fgets(line, sizeof line, stdin) != NULL) {
        int pid = 0;
        if (sscanf(line, "load %d", &pid) == 1) {
            load(pid, &prng);
        } else if (sscanf(line, "kill %d", &pid) == 1) {
            pause_us(prng_below(&prng, 60 * US_PER_MS));
            kill(pid, SIGKILL);
            puts("good");
        } else if (strcmp(line, "check\n") == 0) {
            check();
        } else {
            complain("what is '%s'?", line);
        }
        if (atomic_load(&wrong)) {
            puts("bad");
        }
        fflush(stdout);
    }
    return atomic_load(&wrong) ? 1 : 0;
}
