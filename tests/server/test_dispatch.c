/* Goal: every operation of the wire reaches the forest and comes back as docs/protocol.md says,
 * once, with the right result; nothing is lost when the forest asks to wait.
 * Method: a real forest on a disk in memory, inline teams, and a front-end made of arrays: the
 * functions of ipc/listener.h are defined here instead of being linked. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/forest_internal.h"
#include "engine/object.h"
#include "pool/log.h"
#include "pool/memory.h"
#include "server/dispatch.h"
#include "server/schema_text.h"
#include "server/stat_text.h"
#include "tests/harness/prng.h"
#include "tests/harness/sim_io.h"

TestSuite(dispatch, .timeout = 120);

/* ---- The front-end ---- */

enum { REPLY_SIZE_MAX = 1 << 20, EXCHANGE_COUNT = 200, FAKE_MAX = 8192 };

struct fake {
    struct exchange exchange; /* First member: exchanges cast back. */
    uint8_t *request;         /* owned; freed with the answer, so that ASan sees later reads */
    uint8_t *reply;           /* owned */
    uint32_t reply_size;
    bool answered;
};

static struct fake fakes[FAKE_MAX];
static uint32_t fake_count;

static void answer(struct fake *fake)
{
    cr_assert_not(fake->answered, "answered twice");
    fake->answered = true;
    free(fake->request);
    fake->request = NULL;
}

uint8_t *exchange_reply_buffer(struct exchange *exchange, uint32_t size)
{
    struct fake *fake = (struct fake *)exchange;
    cr_assert_leq(size, REPLY_SIZE_MAX);
    fake->reply = malloc(size);
    return fake->reply;
}

void exchange_send(struct exchange *exchange, uint32_t size)
{
    struct fake *fake = (struct fake *)exchange;
    fake->reply_size = size;
    answer(fake);
}

void exchange_reply(struct exchange *exchange, const void *header, uint32_t header_size,
                    const void *body, uint32_t body_size)
{
    struct fake *fake = (struct fake *)exchange;
    fake->reply = malloc(header_size + body_size);
    memcpy(fake->reply, header, header_size);
    memcpy(fake->reply + header_size, body, body_size);
    fake->reply_size = header_size + body_size;
    answer(fake);
}

void exchange_reply_result(struct exchange *exchange, enum result result, const char *text)
{
    const char *body = text != NULL ? text : result_text(result);
    const struct reply_header header =
        protocol_reply_header(&exchange->header, result, (uint32_t)strlen(body));
    exchange_reply(exchange, &header, sizeof header, body, (uint32_t)strlen(body));
}

void exchange_drop(struct exchange *exchange)
{
    answer((struct fake *)exchange);
}

void listener_stats_read(struct listener *listener, struct listener_stats *stats)
{
    (void)listener;
    *stats = (struct listener_stats){.connections = 3};
}

/* ---- The daemon around it ---- */

static struct sim_io sim;
static struct doorbell doorbell;
static struct workers compactors, journal_worker, growth_worker, readers;
static struct forest *forest;
static struct request_queue queue;
static struct config config;
static struct dispatch dispatch;
static uint64_t now_ns = 1000;
static uint32_t peer_uid, peer_id; /* of who asks */
static uint32_t read_slot_count = 2;
static bool opened;

static uint64_t now(void *context)
{
    (void)context;
    return now_ns;
}

static const struct clock test_clock = {now, now, NULL};

static void on_open(void *context, enum status status, const struct forest_open_report *report,
                    const char *reason)
{
    (void)context;
    (void)report;
    cr_assert_eq(status, STATUS_OK, "%s", reason);
    opened = true;
}

static void setup(void)
{
    enum { CAPACITY = 4096, SIZE_LIMIT = 64 << 20 };
    const struct geometry geometry = geometry_tiny();
    const uint8_t file_id[16] = {1};
    char error[CONFIG_ERROR_SIZE];
    char reason[256];
    enum status status;
    sim_io_init(&sim, SIZE_LIMIT);
    doorbell_init(&doorbell);
    cr_assert_eq(forest_format(&sim.io, &geometry, file_id, 7, NULL, NULL), STATUS_OK);
    cr_assert_eq(workers_start(&compactors, "compact", 0, CAPACITY), STATUS_OK);
    cr_assert_eq(workers_start(&journal_worker, "journal", 0, CAPACITY), STATUS_OK);
    cr_assert_eq(workers_start(&growth_worker, "growth", 0, CAPACITY), STATUS_OK);
    cr_assert_eq(workers_start(&readers, "read", 0, CAPACITY), STATUS_OK);
    const struct forest_options options = {
        .io = &sim.io,
        .clock = &test_clock,
        .doorbell = &doorbell,
        .compactors = &compactors,
        .journal_worker = &journal_worker,
        .growth_worker = &growth_worker,
        .readers = &readers,
        .cache_size = 4 << 20,
        .read_slot_count = read_slot_count,
        .on_committed = dispatch_committed,
    };
    forest = forest_init(&options, &status, reason, sizeof reason);
    cr_assert_not_null(forest, "%s", reason);
    forest_open(forest, on_open, NULL);
    while (!opened) {
        forest_tick(forest);
    }
    config_init(&config);
    cr_assert_eq(config_finish(&config, "test.holt", 1, error), STATUS_OK);
    cr_assert_eq(request_queue_init(&queue, &doorbell, EXCHANGE_COUNT, 16 << 20), STATUS_OK);
    cr_assert_eq(dispatch_init(&dispatch, forest, &queue, &config, &test_clock), STATUS_OK);
    dispatch.listener = (struct listener *)&sim; /* Only asked whether it is there. */
    dispatch.message_size_max = dispatch_message_size_max(&geometry);
}

/* As the forest thread does, without allocating. */
static void run(void)
{
    bool any = true;
    memory_forbid_allocation();
    while (any || !dispatch_is_idle(&dispatch) || !forest_is_idle(forest)) {
        any = dispatch_take(&dispatch);
        any |= dispatch_submit(&dispatch);
        any |= forest_tick(forest);
    }
    memory_allow_allocation();
}

static void teardown(void)
{
    run();
    dispatch_deinit(&dispatch);
    request_queue_deinit(&queue);
    forest_deinit(forest);
    workers_join(&readers);
    workers_join(&growth_worker);
    workers_join(&journal_worker);
    workers_join(&compactors);
    doorbell_deinit(&doorbell);
    sim_io_deinit(&sim);
    for (uint32_t i = 0; i < fake_count; i++) {
        cr_assert(fakes[i].answered);
        free(fakes[i].reply);
    }
}

/* Whose the next requests are; client 0: nobody's. */
static struct {
    uint8_t client;
    uint32_t lane, deadline_ms;
    uint64_t number;
} sender;

/* Queues a request; run() answers it. */
static struct fake *push_flagged(enum operation operation, uint32_t flags, const void *body,
                                 uint32_t body_size)
{
    cr_assert_lt(fake_count, FAKE_MAX);
    struct fake *fake = &fakes[fake_count++];
    const struct request_header header = {
        .magic = PROTOCOL_MAGIC,
        .version = PROTOCOL_VERSION,
        .operation = (uint16_t)operation,
        .number = sender.client != 0 ? sender.number : 100 + fake_count,
        .client_id = {sender.client},
        .lane = sender.lane,
        .deadline_ms = sender.deadline_ms,
        .body_size = body_size,
        .flags = flags,
    };
    const uint32_t size = PROTOCOL_HEADER_SIZE + body_size;
    fake->request = malloc(size);
    memcpy(fake->request, &header, sizeof header);
    if (body_size > 0) {
        memcpy(fake->request + sizeof header, body, body_size);
    }
    enum result result;
    cr_assert(
        protocol_request_check(fake->request, size, 1 << 20, &fake->exchange.header, &result));
    fake->exchange.request = fake->request;
    fake->exchange.request_size = size;
    fake->exchange.received_ns = now_ns;
    fake->exchange.peer_uid = peer_uid;
    fake->exchange.peer_id = peer_id;
    uint32_t retry_after_ms;
    cr_assert(request_queue_push(&queue, &fake->exchange, &retry_after_ms));
    return fake;
}

static struct fake *push(enum operation operation, const void *body, uint32_t body_size)
{
    return push_flagged(operation, 0, body, body_size);
}

static struct reply_header header_of(const struct fake *fake)
{
    struct reply_header header;
    cr_assert(fake->answered);
    cr_assert(protocol_reply_check(fake->reply, fake->reply_size, &header));
    cr_assert_eq(header.number, fake->exchange.header.number);
    cr_assert_eq(header.operation, fake->exchange.header.operation);
    return header;
}

static const uint8_t *body_of(const struct fake *fake)
{
    return fake->reply + PROTOCOL_HEADER_SIZE;
}

/* Asks and expects the result. */
static struct fake *ask(enum operation operation, const void *body, uint32_t body_size,
                        enum result result)
{
    struct fake *fake = push(operation, body, body_size);
    run();
    cr_assert_eq(header_of(fake).result, result, "%s: %s", operation_name(operation),
                 result_name(header_of(fake).result));
    return fake;
}

/* name text<8> at 32, size u32 at 40; object_size 48 */
static uint32_t create_groove(const char *name, const char *schema)
{
    static struct groove_spec spec;
    char error[SCHEMA_TEXT_ERROR_SIZE];
    cr_assert(schema_text_parse(name, schema, &spec, error));
    struct fake *fake = ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_OK);
    struct create_groove_reply created;
    memcpy(&created, body_of(fake), sizeof created);
    cr_assert_eq(header_of(fake).body_size, sizeof created);
    cr_assert_eq(created.object_size, 48);
    cr_assert_gt(header_of(fake).commit, 0);
    return created.groove_id;
}

static uint32_t create_things(void)
{
    return create_groove("things", "name text<8>, size u32, index name, index size");
}

enum { OBJECT_SIZE = 48 };

static void make_object(uint8_t *image, uint8_t id, const char *name, uint32_t size)
{
    memset(image, 0, OBJECT_SIZE);
    image[0] = id;
    memcpy(image + 32, name, strlen(name));
    memcpy(image + 40, &size, sizeof size);
}

static uint32_t make_insert(uint8_t *body, uint32_t groove_id, uint32_t count, uint8_t first_id)
{
    const struct wire_section section = {
        .groove_id = groove_id,
        .event_type = WIRE_EVENT_TYPE_INSERT,
        .event_count = count,
    };
    memcpy(body, &section, sizeof section);
    for (uint32_t i = 0; i < count; i++) {
        make_object(body + sizeof section + i * OBJECT_SIZE, (uint8_t)(first_id + i),
                    i % 2 == 0 ? "even" : "odd", i);
    }
    return (uint32_t)sizeof section + count * OBJECT_SIZE;
}

/* ---- Tests ---- */

Test(dispatch, hello_and_ping_answer_at_once, .init = setup, .fini = teardown)
{
    struct fake *fake = ask(OPERATION_HELLO, NULL, 0, RESULT_OK);
    struct hello_reply hello;
    memcpy(&hello, body_of(fake), sizeof hello);
    cr_assert_eq(hello.batch_size_max, geometry_tiny().batch_size_max);
    cr_assert_eq(hello.batch_event_max, geometry_tiny().batch_event_max);
    cr_assert_eq(hello.exchange_count, config.exchange_count);
    cr_assert_str_eq(hello.version, HOLT_VERSION);
    cr_assert(hello.features & WIRE_FEATURE_CHAINS);
    fake = ask(OPERATION_PING, "echo", 4, RESULT_OK);
    cr_assert_arr_eq(body_of(fake), "echo", 4);
}

Test(dispatch, schema_describes_what_was_created, .init = setup, .fini = teardown)
{
    struct schema_reply schema;
    memcpy(&schema, body_of(ask(OPERATION_SCHEMA, NULL, 0, RESULT_OK)), sizeof schema);
    cr_assert_eq(schema.groove_count, 0);
    const uint32_t groove_id = create_things();
    const uint8_t *body = body_of(ask(OPERATION_SCHEMA, NULL, 0, RESULT_OK));
    memcpy(&schema, body, sizeof schema);
    cr_assert_eq(schema.groove_count, 1);
    struct schema_groove groove;
    struct schema_field fields[2];
    struct schema_index indexes[2];
    memcpy(&groove, body + sizeof schema, sizeof groove);
    memcpy(fields, body + sizeof schema + sizeof groove, sizeof fields);
    memcpy(indexes, body + sizeof schema + sizeof groove + sizeof fields, sizeof indexes);
    cr_assert_str_eq(groove.name, "things");
    cr_assert_eq(groove.groove_id, groove_id);
    cr_assert_eq(groove.object_size, OBJECT_SIZE);
    cr_assert_gt(groove.event_count_max, 0);
    cr_assert_str_eq(fields[1].name, "size");
    cr_assert_eq(fields[1].offset, 40);
    cr_assert_eq(fields[1].size, 4);
    cr_assert_str_eq(indexes[0].name, "name");
    cr_assert_eq(indexes[1].index_id, 1);
    cr_assert_eq(indexes[1].fields[0], 1);
}

Test(dispatch, writes_and_reads_go_through, .init = setup, .fini = teardown)
{
    static uint8_t body[4096];
    const uint32_t groove_id = create_things();
    struct fake *fake = ask(OPERATION_WRITE, body, make_insert(body, groove_id, 10, 1), RESULT_OK);
    const uint64_t commit = header_of(fake).commit;
    struct write_reply write;
    memcpy(&write, body_of(fake), sizeof write);
    cr_assert_eq(write.failure_count, 0);
    cr_assert_gt(header_of(fake).timestamp, 0);

    /* The last three again, and seven new: failures name the events. */
    fake = ask(OPERATION_WRITE, body, make_insert(body, groove_id, 10, 8), RESULT_OK);
    memcpy(&write, body_of(fake), sizeof write);
    cr_assert_eq(write.failure_count, 3);
    struct wire_failure failures[3];
    memcpy(failures, body_of(fake) + sizeof write, sizeof failures);
    for (uint32_t i = 0; i < 3; i++) {
        cr_assert_eq(failures[i].event_index, i);
        cr_assert_eq(failures[i].result, WIRE_EVENT_RESULT_EXISTS);
    }
    cr_assert_gt(header_of(fake).commit, commit);

    const struct lookup_request lookup = {.groove_id = groove_id, .id_count = 3};
    uint8_t ids[sizeof lookup + 3 * 16] = {0};
    memcpy(ids, &lookup, sizeof lookup);
    ids[sizeof lookup] = 5;
    ids[sizeof lookup + 16] = 200;
    ids[sizeof lookup + 32] = 1;
    fake = ask(OPERATION_LOOKUP, ids, sizeof ids, RESULT_OK);
    struct objects_reply objects;
    memcpy(&objects, body_of(fake), sizeof objects);
    cr_assert_eq(objects.object_count, 2);
    cr_assert_eq(objects.object_size, OBJECT_SIZE);
    cr_assert_eq(body_of(fake)[sizeof objects], 5);
    cr_assert_eq(body_of(fake)[sizeof objects + OBJECT_SIZE], 1);
    cr_assert_geq(header_of(fake).commit, commit);

    uint8_t key[sizeof(struct query_request) + 8] = {0};
    struct query_request query = {.groove_id = groove_id, .limit = 3, .key_size = 8};
    memcpy(key, &query, sizeof query);
    memcpy(key + sizeof query, "odd", 3);
    fake = ask(OPERATION_QUERY, key, sizeof key, RESULT_OK);
    memcpy(&objects, body_of(fake), sizeof objects);
    cr_assert_eq(objects.object_count, 3);
    query.limit = 0;
    memcpy(key, &query, sizeof query);
    fake = ask(OPERATION_COUNT, key, sizeof key, RESULT_OK);
    uint64_t count;
    memcpy(&count, body_of(fake), sizeof count);
    cr_assert_eq(count, 9); /* Ids 2, 4, .., 10, then 11, 13, 15, 17. */
    query = (struct query_request){.groove_id = groove_id, .index_id = WIRE_INDEX_NONE};
    fake = ask(OPERATION_COUNT, &query, sizeof query, RESULT_OK);
    memcpy(&count, body_of(fake), sizeof count);
    cr_assert_eq(count, 17);
}

Test(dispatch, a_value_that_is_taken_is_a_failure_of_its_own, .init = setup, .fini = teardown)
{
    static uint8_t body[4096];
    const uint32_t groove_id =
        create_groove("singles", "name text<8>, size u32, index name, unique index size");
    const uint8_t *schema = body_of(ask(OPERATION_SCHEMA, NULL, 0, RESULT_OK));
    struct schema_index indexes[2];
    memcpy(indexes,
           schema + sizeof(struct schema_reply) + sizeof(struct schema_groove) +
               2 * sizeof(struct schema_field),
           sizeof indexes);
    cr_assert_eq(indexes[1].flags, WIRE_INDEX_FLAG_UNIQUE);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, 3, 1), RESULT_OK); /* Sizes 0 to 2. */
    const uint32_t size = make_insert(body, groove_id, 5, 3);                  /* 0 to 4; id 3. */
    struct fake *fake = ask(OPERATION_WRITE, body, size, RESULT_OK);
    struct write_reply write;
    memcpy(&write, body_of(fake), sizeof write);
    cr_assert_eq(write.failure_count, 3);
    static const uint32_t results[] = {WIRE_EVENT_RESULT_EXISTS, WIRE_EVENT_RESULT_UNIQUE,
                                       WIRE_EVENT_RESULT_UNIQUE};
    for (uint32_t i = 0; i < 3; i++) {
        struct wire_failure failure;
        memcpy(&failure, body_of(fake) + sizeof write + i * sizeof failure, sizeof failure);
        cr_assert_eq(failure.event_index, i);
        cr_assert_eq(failure.result, results[i], "%s", wire_event_result_name(failure.result));
    }
}

/* ---- Guards and chains ---- */

/* Appends a section of one event to body; `image` is an object, of which an id is the beginning. */
static uint32_t add_event(uint8_t *body, uint32_t size, uint32_t groove_id, uint8_t type,
                          uint8_t flags, uint8_t guard, uint64_t version, const uint8_t *image)
{
    const struct wire_section section = {
        .groove_id = groove_id,
        .event_type = type,
        .flags = flags,
        .guard = guard,
        .event_count = 1,
    };
    memcpy(body + size, &section, sizeof section);
    size += (uint32_t)sizeof section;
    if (guard == WIRE_GUARD_VERSION) {
        memcpy(body + size, &version, sizeof version);
        size += (uint32_t)sizeof version;
    }
    const bool id = type == WIRE_EVENT_TYPE_REMOVE || type == WIRE_EVENT_TYPE_CHECK;
    const uint32_t payload = id ? WIRE_ID_SIZE : OBJECT_SIZE;
    memcpy(body + size, image, payload);
    return size + payload;
}

static void assert_failures(const struct fake *fake, const struct wire_failure *expected,
                            uint32_t count)
{
    struct write_reply write;
    cr_assert_eq(header_of(fake).result, RESULT_OK);
    memcpy(&write, body_of(fake), sizeof write);
    cr_assert_eq(write.failure_count, count);
    cr_assert_eq(write.failure_total, count);
    cr_assert_eq(header_of(fake).body_size, sizeof write + count * sizeof *expected);
    cr_assert(count == 0 ||
              memcmp(body_of(fake) + sizeof write, expected, count * sizeof *expected) == 0);
}

Test(dispatch, guards_and_chains_go_through, .init = setup, .fini = teardown)
{
    static uint8_t body[4096];
    uint8_t image[OBJECT_SIZE], other[OBJECT_SIZE];
    const uint32_t things = create_things();
    const uint32_t more = create_groove("more", "name text<8>, size u32, index name, index size");
    make_object(image, 1, "one", 1);
    make_object(other, 2, "two", 2);
    uint32_t size = add_event(body, 0, things, WIRE_EVENT_TYPE_INSERT, WIRE_SECTION_FLAG_LINKED,
                              WIRE_GUARD_ABSENT, 0, image);
    size = add_event(body, size, more, WIRE_EVENT_TYPE_INSERT, 0, WIRE_GUARD_NONE, 0, image);
    struct fake *fake = ask(OPERATION_WRITE, body, size, RESULT_OK);
    assert_failures(fake, NULL, 0);
    const uint64_t version = header_of(fake).timestamp + 1; /* of the one in `more` */

    /* The second time its guard fails, and takes the other with it. */
    size = add_event(body, 0, more, WIRE_EVENT_TYPE_INSERT, WIRE_SECTION_FLAG_LINKED,
                     WIRE_GUARD_NONE, 0, other);
    size = add_event(body, size, things, WIRE_EVENT_TYPE_INSERT, 0, WIRE_GUARD_ABSENT, 0, image);
    size = add_event(body, size, things, WIRE_EVENT_TYPE_INSERT, 0, WIRE_GUARD_NONE, 0, other);
    assert_failures(
        ask(OPERATION_WRITE, body, size, RESULT_OK),
        (struct wire_failure[]){{0, WIRE_EVENT_RESULT_LINKED}, {1, WIRE_EVENT_RESULT_GUARD}}, 2);

    /* Compare and set, and what a client does not link, an atomic request does. */
    size = add_event(body, 0, more, WIRE_EVENT_TYPE_UPDATE, 0, WIRE_GUARD_VERSION, version, image);
    size =
        add_event(body, size, more, WIRE_EVENT_TYPE_REMOVE, 0, WIRE_GUARD_VERSION, version, image);
    fake = push_flagged(OPERATION_WRITE, WIRE_REQUEST_FLAG_ATOMIC, body, size);
    run();
    assert_failures(
        fake, (struct wire_failure[]){{0, WIRE_EVENT_RESULT_LINKED}, {1, WIRE_EVENT_RESULT_GUARD}},
        2);
    assert_failures(ask(OPERATION_WRITE, body, size, RESULT_OK),
                    (struct wire_failure[]){{1, WIRE_EVENT_RESULT_GUARD}}, 1);
    const struct query_request query = {.groove_id = more, .index_id = WIRE_INDEX_NONE};
    uint64_t count;
    memcpy(&count, body_of(ask(OPERATION_COUNT, &query, sizeof query, RESULT_OK)), sizeof count);
    cr_assert_eq(count, 1);

    /* A chain must have an end; here only the engine can tell where the section ends. */
    size = add_event(body, 0, more, WIRE_EVENT_TYPE_UPSERT, WIRE_SECTION_FLAG_LINKED,
                     WIRE_GUARD_NONE, 0, image);
    ask(OPERATION_WRITE, body, size, RESULT_BAD_BODY);
}

enum { CLIENT_COUNT = 16, INCREMENT_COUNT = 12 };

/* A client of the counter: reads it, and writes one more if it is still what was read. */
struct counting {
    struct fake *fake; /* its request under way; NULL: none */
    bool writing;
    uint32_t done, beaten;
};

static void counting_read(struct counting *client, uint32_t groove_id)
{
    const struct lookup_request lookup = {.groove_id = groove_id, .id_count = 1};
    uint8_t body[sizeof lookup + WIRE_ID_SIZE] = {0};
    memcpy(body, &lookup, sizeof lookup);
    body[sizeof lookup] = 1;
    client->writing = false;
    client->fake = push(OPERATION_LOOKUP, body, sizeof body);
}

static void counting_write(struct counting *client, uint32_t groove_id)
{
    uint8_t body[256], image[OBJECT_SIZE];
    uint64_t version;
    uint32_t value;
    memcpy(image, body_of(client->fake) + sizeof(struct objects_reply), sizeof image);
    memcpy(&version, image + 24, sizeof version);
    memcpy(&value, image + 40, sizeof value);
    make_object(image, 1, "counter", value + 1);
    const uint32_t size = add_event(body, 0, groove_id, WIRE_EVENT_TYPE_UPDATE, 0,
                                    WIRE_GUARD_VERSION, version, image);
    client->writing = true;
    client->fake = push(OPERATION_WRITE, body, size);
}

static void counting_step(struct counting *client, uint32_t groove_id)
{
    if (client->fake == NULL) {
        if (client->done < INCREMENT_COUNT) {
            counting_read(client, groove_id);
        }
    } else if (client->fake->answered && !client->writing) {
        counting_write(client, groove_id);
    } else if (client->fake->answered) {
        struct write_reply write;
        memcpy(&write, body_of(client->fake), sizeof write);
        if (write.failure_count == 0) {
            client->done += 1;
        } else {
            assert_failures(client->fake, (struct wire_failure[]){{0, WIRE_EVENT_RESULT_GUARD}}, 1);
            client->beaten += 1;
        }
        client->fake = NULL;
    }
}

Test(dispatch, a_counter_that_many_clients_compare_and_set_is_exact, .init = setup,
     .fini = teardown)
{
    struct counting clients[CLIENT_COUNT] = {{0}};
    uint8_t body[256], image[OBJECT_SIZE];
    struct prng prng;
    const uint32_t groove_id = create_things();
    make_object(image, 1, "counter", 0);
    uint32_t size =
        add_event(body, 0, groove_id, WIRE_EVENT_TYPE_INSERT, 0, WIRE_GUARD_NONE, 0, image);
    assert_failures(ask(OPERATION_WRITE, body, size, RESULT_OK), NULL, 0);
    prng_init(&prng, 16);
    uint32_t done = 0, beaten = 0;
    while (done < CLIENT_COUNT * INCREMENT_COUNT) {
        counting_step(&clients[prng_below(&prng, CLIENT_COUNT)], groove_id);
        if (prng_chance(&prng, 1, 3)) { /* Now and then the daemon gets a step further. */
            memory_forbid_allocation();
            (void)dispatch_take(&dispatch);
            (void)dispatch_submit(&dispatch);
            (void)forest_tick(forest);
            memory_allow_allocation();
        }
        done = 0;
        beaten = 0;
        for (uint32_t i = 0; i < CLIENT_COUNT; i++) {
            done += clients[i].done;
            beaten += clients[i].beaten;
        }
    }
    run();
    cr_assert_gt(beaten, CLIENT_COUNT); /* They were in each other's way. */
    struct counting reader = {0};
    counting_read(&reader, groove_id);
    run();
    uint32_t value;
    memcpy(&value, body_of(reader.fake) + sizeof(struct objects_reply) + 40, sizeof value);
    cr_assert_eq(value, CLIENT_COUNT * INCREMENT_COUNT);
}

Test(dispatch, refusals_have_their_result, .init = setup, .fini = teardown)
{
    static struct groove_spec spec;
    static uint8_t body[1 << 16];
    char name[WIRE_NAME_SIZE] = "things";
    char error[SCHEMA_TEXT_ERROR_SIZE];
    const uint32_t groove_id = create_things();
    cr_assert(schema_text_parse("things", "a u8", &spec, error));
    ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_GROOVE_EXISTS);
    spec.name[0] = '9';
    struct fake *fake = ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_BAD_SCHEMA);
    cr_assert_gt(header_of(fake).body_size, 0);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id + 100, 1, 1), RESULT_UNKNOWN_GROOVE);
    const uint32_t count = geometry_tiny().batch_size_max / OBJECT_SIZE + 1;
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, count, 1), RESULT_TOO_BIG);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, 2, 1) - 8, RESULT_BAD_BODY);

    uint8_t key[sizeof(struct query_request) + 8] = {0};
    struct query_request query = {.groove_id = groove_id, .index_id = 2, .key_size = 8};
    memcpy(key, &query, sizeof query);
    ask(OPERATION_QUERY, key, sizeof key, RESULT_UNKNOWN_INDEX);
    query = (struct query_request){.groove_id = groove_id, .index_id = 1, .key_size = 8};
    memcpy(key, &query, sizeof query);
    ask(OPERATION_QUERY, key, sizeof key, RESULT_BAD_BODY);
    query = (struct query_request){.groove_id = 99, .index_id = WIRE_INDEX_NONE};
    ask(OPERATION_COUNT, &query, sizeof query, RESULT_UNKNOWN_GROOVE);
    ask(OPERATION_DROP_GROOVE, name, sizeof name, RESULT_OK);
    ask(OPERATION_DROP_GROOVE, name, sizeof name, RESULT_UNKNOWN_GROOVE);
}

Test(dispatch, more_than_a_batch_and_its_slots_wait_their_turn, .init = setup, .fini = teardown)
{
    static uint8_t body[1 << 14];
    const uint32_t groove_id = create_things();
    const uint32_t size = make_insert(body, groove_id, 60, 1);
    const struct query_request query = {.groove_id = groove_id, .index_id = WIRE_INDEX_NONE};
    struct fake *writes[15];
    for (uint32_t i = 0; i < 15; i++) {
        for (uint32_t event = 0; event < 60; event++) {
            body[sizeof(struct wire_section) + event * OBJECT_SIZE + 1] = (uint8_t)(i + 1);
        }
        writes[i] = push(OPERATION_WRITE, body, size);
        push(OPERATION_COUNT, &query, sizeof query);
    }
    run();
    uint64_t commit = 0;
    for (uint32_t i = 0; i < 15; i++) {
        cr_assert_eq(header_of(writes[i]).result, RESULT_OK);
        cr_assert_gt(header_of(writes[i]).commit, commit);
        commit = header_of(writes[i]).commit;
    }
    uint64_t count;
    memcpy(&count, body_of(ask(OPERATION_COUNT, &query, sizeof query, RESULT_OK)), sizeof count);
    cr_assert_eq(count, 15 * 60);
}

Test(dispatch, what_is_too_late_is_not_begun, .init = setup, .fini = teardown)
{
    static uint8_t body[4096];
    const uint32_t groove_id = create_things();
    const struct query_request query = {.groove_id = groove_id, .index_id = WIRE_INDEX_NONE};
    struct fake *write = push(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 1));
    struct fake *read = push(OPERATION_COUNT, &query, sizeof query);
    write->exchange.header.deadline_ms = 5;
    read->exchange.header.deadline_ms = 5;
    now_ns += 6 * 1000 * 1000;
    run();
    cr_assert_eq(header_of(write).result, RESULT_EXPIRED);
    cr_assert_eq(header_of(read).result, RESULT_EXPIRED);
    uint64_t count = 1;
    memcpy(&count, body_of(ask(OPERATION_COUNT, &query, sizeof query, RESULT_OK)), sizeof count);
    cr_assert_eq(count, 0);
}

/* Wherever a request waits when its deadline passes: for a batch that has room, for a reader, for
 * an answer from here. What is in a batch has been begun. */
Test(dispatch, what_becomes_too_late_while_it_waits_is_not_begun, .init = setup, .fini = teardown)
{
    enum { COUNT = 16 };
    static uint8_t body[1 << 14];
    const uint32_t groove_id = create_things();
    const struct query_request query = {.groove_id = groove_id, .index_id = WIRE_INDEX_NONE};
    const uint32_t size = make_insert(body, groove_id, 60, 1);
    struct fake *writes[COUNT];
    struct fake *reads[COUNT];
    struct fake *pings[COUNT + 1];
    for (uint32_t i = 0; i < COUNT; i++) {
        for (uint32_t event = 0; event < 60; event++) {
            body[sizeof(struct wire_section) + event * OBJECT_SIZE + 1] = (uint8_t)(i + 1);
        }
        writes[i] = push(OPERATION_WRITE, body, size);
        writes[i]->exchange.header.deadline_ms = 5;
        reads[i] = push(OPERATION_COUNT, &query, sizeof query);
        reads[i]->exchange.header.deadline_ms = 5;
    }
    for (uint32_t i = 0; i <= COUNT; i++) {
        pings[i] = push(OPERATION_PING, NULL, 0);
        pings[i]->exchange.header.deadline_ms = 5;
    }
    memory_forbid_allocation();
    dispatch_take(&dispatch);
    dispatch_submit(&dispatch);
    memory_allow_allocation();
    const uint32_t begun = COUNT - dispatch.writes.count;
    cr_assert(begun > 0 && begun < COUNT, "%u", begun);
    cr_assert_eq(dispatch.reads.count, COUNT - 2); /* Two have slots, and wait for a reader. */
    cr_assert_eq(dispatch.looks.count, 1);
    now_ns += 6 * 1000 * 1000;
    run();
    for (uint32_t i = 0; i < COUNT; i++) {
        cr_assert_eq(header_of(writes[i]).result, i < begun ? RESULT_OK : RESULT_EXPIRED);
        cr_assert_eq(header_of(reads[i]).result, RESULT_EXPIRED);
    }
    for (uint32_t i = 0; i <= COUNT; i++) {
        cr_assert_eq(header_of(pings[i]).result, i < COUNT ? RESULT_OK : RESULT_EXPIRED);
    }
    uint64_t count = 0;
    memcpy(&count, body_of(ask(OPERATION_COUNT, &query, sizeof query, RESULT_OK)), sizeof count);
    cr_assert_eq(count, 60 * begun);
    char expired[40];
    snprintf(expired, sizeof expired, "\"expired\":%u,", COUNT - begun + COUNT + 1);
    struct fake *stat = ask(OPERATION_STAT, NULL, 0, RESULT_OK);
    cr_assert_not_null(memmem(body_of(stat), header_of(stat).body_size, expired, strlen(expired)));
}

Test(dispatch, stat_is_json_and_counts, .init = setup, .fini = teardown)
{
    create_things();
    struct fake *fake = ask(OPERATION_STAT, NULL, 0, RESULT_OK);
    json_error_t error;
    json_t *root = json_loadb((const char *)body_of(fake), header_of(fake).body_size, 0, &error);
    cr_assert_not_null(root, "%s", error.text);
    const json_t *requests = json_object_get(json_object_get(root, "requests"), "total");
    cr_assert_eq(json_integer_value(json_object_get(requests, "CREATE_GROOVE")), 1);
    cr_assert_eq(json_integer_value(json_object_get(requests, "STAT")), 1);
    cr_assert_eq(
        json_integer_value(json_object_get(json_object_get(root, "listener"), "connections")), 3);
    const json_t *groove = json_array_get(json_object_get(root, "grooves"), 0);
    cr_assert_str_eq(json_string_value(json_object_get(groove, "name")), "things");
    json_decref(root);
}

Test(dispatch, the_largest_stat_fits, .init = setup, .fini = teardown)
{
    static struct groove_spec spec;
    static struct groove_schema schema;
    for (uint32_t i = 0; i < FIELD_COUNT_MAX; i++) {
        snprintf(spec.fields[i].name, NAME_SIZE, "field_with_the_longest_name__%02u", i);
        spec.fields[i].type = FIELD_TYPE_TEXT;
        spec.fields[i].size = 4064;
    }
    for (uint32_t i = 0; i < INDEX_COUNT_MAX; i++) {
        snprintf(spec.indexes[i].name, NAME_SIZE, "index_with_the_longest_name__%02u", i);
        spec.indexes[i].field_count = INDEX_FIELD_COUNT_MAX;
        spec.indexes[i].flags = INDEX_FLAG_UNIQUE | INDEX_FLAG_SPARSE;
    }
    memset(spec.name, 'g', NAME_SIZE - 1);
    spec.field_count = FIELD_COUNT_MAX;
    spec.index_count = INDEX_COUNT_MAX;
    schema.spec = spec;
    for (uint32_t i = 0; i < DISPATCH_GROOVE_COUNT_MAX; i++) {
        dispatch.grooves[i] = (struct forest_groove_info){
            .groove_id = UINT32_MAX,
            .object_count = UINT64_MAX,
            .schema = &schema,
        };
    }
    memset(config.data_path, 1, sizeof config.data_path - 1);
    memset(config.socket_path, 1, sizeof config.socket_path - 1);
    cr_assert_not_null(
        stat_text(&dispatch, DISPATCH_GROOVE_COUNT_MAX, dispatch.text, DISPATCH_TEXT_SIZE));
}

/* ---- Turns ---- */

Test(dispatch, a_flood_of_writes_costs_another_user_one_turn, .init = setup, .fini = teardown)
{
    static uint8_t body[1 << 14];
    const uint32_t groove_id = create_things();
    const uint32_t size = make_insert(body, groove_id, 60, 1); /* 3 KB: five of them are a turn */
    struct fake *writes[30];
    peer_uid = 1000;
    for (uint32_t i = 0; i < 30; i++) {
        for (uint32_t event = 0; event < 60; event++) {
            body[sizeof(struct wire_section) + event * OBJECT_SIZE + 1] = (uint8_t)(i + 1);
        }
        peer_id = i % 10;
        writes[i] = push(OPERATION_WRITE, body, size);
    }
    peer_uid = 1001;
    peer_id = 50;
    struct fake *write = push(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 200));
    run();
    uint32_t before = 0;
    for (uint32_t i = 0; i < 30; i++) {
        before += header_of(writes[i]).commit < header_of(write).commit;
    }
    cr_assert_eq(before, 5);
}

/* One event, under an id that nothing else has. */
static struct fake *push_insert(uint32_t groove_id)
{
    static uint8_t body[256];
    static uint16_t serial;
    const uint32_t size = make_insert(body, groove_id, 1, 1);
    serial += 1;
    memcpy(body + sizeof(struct wire_section) + 1, &serial, sizeof serial);
    return push(OPERATION_WRITE, body, size);
}

/* Writes, and returns how many batches they took. */
static uint64_t batches_of(uint32_t groove_id, uint32_t write_count)
{
    struct forest_stats before;
    struct forest_stats after;
    forest_stats(forest, &before);
    for (uint32_t i = 0; i < write_count; i++) {
        push_insert(groove_id);
    }
    run();
    forest_stats(forest, &after);
    return after.journal_entries - before.journal_entries;
}

/* Whoever comes waits for the batch that gathers, too. */
Test(dispatch, a_user_has_a_share_of_a_batch_while_others_ask, .init = setup, .fini = teardown)
{
    enum { COUNT = 30, SHARE = 6 };
    peer_uid = 1000;
    const uint32_t groove_id = create_things();
    cr_assert_eq(batches_of(groove_id, COUNT), 1); /* He is alone. */
    peer_uid = 1001;
    ask(OPERATION_PING, NULL, 0, RESULT_OK);
    peer_uid = 1000;
    cr_assert_eq(batches_of(groove_id, COUNT), COUNT / SHARE);
    now_ns += 900 * 1000 * 1000;
    cr_assert_eq(batches_of(groove_id, COUNT), COUNT / SHARE);
    now_ns += 200 * 1000 * 1000;
    cr_assert_eq(batches_of(groove_id, COUNT), 1); /* Nobody else has asked for a second. */
}

Test(dispatch, who_comes_to_a_batch_that_others_have_their_share_of_is_let_in, .init = setup,
     .fini = teardown)
{
    enum { COUNT = 40, SHARE = 6 };
    struct fake *writes[COUNT];
    peer_uid = 1000;
    const uint32_t groove_id = create_things();
    peer_uid = 1001;
    ask(OPERATION_PING, NULL, 0, RESULT_OK);
    peer_uid = 1000;
    for (uint32_t i = 0; i < COUNT; i++) {
        peer_id = i % 7;
        writes[i] = push_insert(groove_id);
    }
    memory_forbid_allocation();
    dispatch_take(&dispatch);
    dispatch_submit(&dispatch);
    memory_allow_allocation();
    cr_assert_eq(dispatch.writes.count, COUNT - SHARE);
    peer_uid = 1001;
    struct fake *write = push_insert(groove_id);
    memory_forbid_allocation();
    dispatch_take(&dispatch);
    dispatch_submit(&dispatch);
    memory_allow_allocation();
    cr_assert_eq(dispatch.writes.count, COUNT - SHARE); /* He passed them. */
    run();
    uint32_t before = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        cr_assert_eq(header_of(writes[i]).result, RESULT_OK);
        before += header_of(writes[i]).commit < header_of(write).commit;
    }
    cr_assert_eq(before, SHARE);
}

Test(dispatch, a_flood_of_looks_costs_another_user_one_of_them_and_writes_none, .init = setup,
     .fini = teardown)
{
    static uint8_t body[4096];
    const uint32_t groove_id = create_things();
    struct fake *looks[60];
    peer_uid = 1000;
    for (uint32_t i = 0; i < 60; i++) {
        looks[i] = push(i % 2 == 0 ? OPERATION_STAT : OPERATION_SCHEMA, NULL, 0);
    }
    peer_uid = 1001;
    struct fake *ping = push(OPERATION_PING, "well?", 5);
    struct fake *write = push(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 1));
    dispatch_take(&dispatch);
    for (uint32_t turn = 1; turn <= 2; turn++) {
        cr_assert(dispatch_submit(&dispatch));
        cr_assert_eq(dispatch.writes.count, 0); /* It is in a batch. */
        uint32_t answered = 0;
        for (uint32_t i = 0; i < 60; i++) {
            answered += looks[i]->answered;
        }
        cr_assert_eq(answered, turn); /* One of those that take long, in a turn of the loop. */
    }
    cr_assert(ping->answered);
    cr_assert_not(dispatch_is_idle(&dispatch));
    run();
    cr_assert(looks[59]->answered && write->answered);
}

static struct fake *push_count(uint32_t groove_id)
{
    const struct query_request query = {.groove_id = groove_id, .index_id = WIRE_INDEX_NONE};
    return push(OPERATION_COUNT, &query, sizeof query);
}

/* Reads that were pushed and go to the forest now. */
static uint32_t reads_begun(void)
{
    const uint32_t before = dispatch.reads.count;
    memory_forbid_allocation();
    dispatch_take(&dispatch);
    const uint32_t waiting = dispatch.reads.count;
    dispatch_submit(&dispatch);
    memory_allow_allocation();
    cr_assert_eq(before, 0);
    return waiting - dispatch.reads.count;
}

static void setup_slots(void)
{
    read_slot_count = 8;
    setup();
    config.read_slot_count = read_slot_count;
    config.readers = 3;
}

Test(dispatch, a_user_leaves_readers_for_others, .init = setup_slots, .fini = teardown)
{
    enum { COUNT = 10, ALONE = 6 };
    peer_uid = 1000;
    const uint32_t groove_id = create_things();
    for (uint32_t i = 0; i < COUNT; i++) {
        peer_id = i;
        push_count(groove_id);
    }
    cr_assert_eq(reads_begun(), ALONE);
    peer_uid = 1001;
    struct fake *read = push_count(groove_id);
    memory_forbid_allocation();
    dispatch_take(&dispatch);
    dispatch_submit(&dispatch);
    memory_allow_allocation();
    cr_assert_eq(dispatch.reads.count, COUNT - ALONE); /* He passed them. */
    run();
    cr_assert_eq(header_of(read).result, RESULT_OK);
    /* While both ask, none has more in the readers' queue than there are readers. */
    peer_uid = 1000;
    for (uint32_t i = 0; i < COUNT; i++) {
        push_count(groove_id);
    }
    cr_assert_eq(reads_begun(), config.readers);
    run();
    now_ns += 1100 * 1000 * 1000;
    for (uint32_t i = 0; i < COUNT; i++) {
        push_count(groove_id);
    }
    cr_assert_eq(reads_begun(), ALONE);
    run();
}

Test(dispatch, every_user_gets_a_reader_while_there_is_one, .init = setup_slots, .fini = teardown)
{
    enum { USER_COUNT = 12 };
    peer_uid = 1000;
    const uint32_t groove_id = create_things();
    struct fake *reads[USER_COUNT];
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < USER_COUNT; i++) {
            peer_uid = 2000 + i;
            push_count(groove_id);
            reads[i] = push_count(groove_id);
        }
        cr_assert_eq(reads_begun(), read_slot_count);
        run();
        for (uint32_t i = 0; i < USER_COUNT; i++) {
            cr_assert_eq(header_of(reads[i]).result, RESULT_OK);
        }
    }
}

/* ---- Rights ---- */

enum { OWNER = 7, READER = 1000, WRITER = 1001, STRANGER = 1002 };

static void allow(const char *text)
{
    char error[ACCESS_ERROR_SIZE];
    cr_assert_eq(access_add(&config.access, text, 1, error), STATUS_OK, "%s", error);
}

/* Asks as somebody else than the owner, who is put back. */
static struct fake *ask_as(uint32_t uid, enum operation operation, const void *body,
                           uint32_t body_size, enum result result)
{
    peer_uid = uid;
    struct fake *fake = ask(operation, body, body_size, result);
    peer_uid = OWNER;
    return fake;
}

static void setup_rights(void)
{
    setup();
    allow("uid:7 admin *");
    allow("uid:1000 read things");
    allow("uid:1001 write things");
    peer_uid = OWNER;
}

static bool says(const struct fake *fake, const char *text)
{
    return memmem(body_of(fake), header_of(fake).body_size, text, strlen(text)) != NULL;
}

Test(dispatch, each_operation_wants_its_right, .init = setup_rights, .fini = teardown)
{
    static uint8_t body[4096];
    static struct groove_spec spec;
    char error[SCHEMA_TEXT_ERROR_SIZE];
    char name[WIRE_NAME_SIZE] = "things";
    const uint32_t groove_id = create_things();
    const struct query_request query = {.groove_id = groove_id, .index_id = WIRE_INDEX_NONE};
    const struct lookup_request lookup = {.groove_id = groove_id, .id_count = 1};
    uint8_t ids[sizeof lookup + 16] = {0};
    memcpy(ids, &lookup, sizeof lookup);
    ids[sizeof lookup] = 5;
    uint8_t key[sizeof query + 8] = {0};
    memcpy(key, &(struct query_request){.groove_id = groove_id, .key_size = 8}, sizeof query);
    cr_assert(schema_text_parse("things", "a u8", &spec, error));

    static const uint32_t users[] = {READER, WRITER, STRANGER};
    for (uint32_t i = 0; i < 3; i++) {
        const enum result reads = users[i] == STRANGER ? RESULT_DENIED : RESULT_OK;
        const enum result writes = users[i] == WRITER ? RESULT_OK : RESULT_DENIED;
        ask_as(users[i], OPERATION_LOOKUP, ids, sizeof ids, reads);
        ask_as(users[i], OPERATION_COUNT, &query, sizeof query, reads);
        ask_as(users[i], OPERATION_QUERY, key, sizeof key, reads);
        ask_as(users[i], OPERATION_SCHEMA, NULL, 0, reads);
        ask_as(users[i], OPERATION_STAT, NULL, 0, reads);
        ask_as(users[i], OPERATION_WRITE, body, make_insert(body, groove_id, 2, 1), writes);
        ask_as(users[i], OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_DENIED);
        ask_as(users[i], OPERATION_DROP_GROOVE, name, sizeof name, RESULT_DENIED);
        ask_as(users[i], OPERATION_HELLO, NULL, 0, RESULT_OK);
        ask_as(users[i], OPERATION_PING, "well?", 5, RESULT_OK);
    }
    uint64_t count = 0;
    memcpy(&count, body_of(ask(OPERATION_COUNT, &query, sizeof query, RESULT_OK)), sizeof count);
    cr_assert_eq(count, 2);
    cr_assert(says(
        ask_as(READER, OPERATION_WRITE, body, make_insert(body, groove_id, 1, 1), RESULT_DENIED),
        "uid 1000 may not do this: it lacks the right 'write' on groove "));
    cr_assert(says(ask_as(WRITER, OPERATION_DROP_GROOVE, name, sizeof name, RESULT_DENIED),
                   "'admin' on the groove 'things'"));
}

/* A number that names a groove which one may not see is answered as one that names none. */
Test(dispatch, what_one_may_not_see_cannot_be_told_from_what_is_not_there, .init = setup_rights,
     .fini = teardown)
{
    static uint8_t body[4096];
    static struct groove_spec spec;
    char error[SCHEMA_TEXT_ERROR_SIZE];
    create_things();
    const uint32_t groove_id = create_groove("secrets", "name text<8>, size u32, index name");
    cr_assert_eq(groove_id, 2);
    cr_assert(schema_text_parse("secrets", "a u8", &spec, error));
    const struct {
        enum operation operation;
        uint32_t size; /* of the write */
    } tries[] = {
        {OPERATION_COUNT, 0},
        {OPERATION_WRITE, sizeof(struct wire_section) + OBJECT_SIZE},
        {OPERATION_WRITE, sizeof(struct wire_section) + OBJECT_SIZE - 8}, /* not its size */
    };
    static const uint32_t users[] = {READER, WRITER, STRANGER};
    for (uint32_t i = 0; i < 3; i++) {
        for (uint32_t k = 0; k < 3; k++) {
            struct fake *fakes_of[2]; /* of groove 2, and of groove 3 */
            for (uint32_t n = 0; n < 2; n++) {
                const struct query_request query = {.groove_id = groove_id + n,
                                                    .index_id = WIRE_INDEX_NONE};
                make_insert(body, groove_id + n, 1, 1);
                fakes_of[n] =
                    tries[k].operation == OPERATION_WRITE
                        ? ask_as(users[i], OPERATION_WRITE, body, tries[k].size, RESULT_DENIED)
                        : ask_as(users[i], OPERATION_COUNT, &query, sizeof query, RESULT_DENIED);
                char number[16];
                const int size = snprintf(number, sizeof number, "groove %u", groove_id + n);
                char *at = memmem(fakes_of[n]->reply + PROTOCOL_HEADER_SIZE,
                                  fakes_of[n]->reply_size - PROTOCOL_HEADER_SIZE, number, size);
                cr_assert_not_null(at);
                at[size - 1] = '?';
                fakes_of[n]->reply[8] = 0; /* the request's number */
            }
            cr_assert_eq(fakes_of[0]->reply_size, fakes_of[1]->reply_size);
            cr_assert_arr_eq(fakes_of[0]->reply, fakes_of[1]->reply, fakes_of[0]->reply_size);
        }
        ask_as(users[i], OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_DENIED);
    }
    ask(OPERATION_WRITE, body, make_insert(body, groove_id + 1, 1, 1), RESULT_UNKNOWN_GROOVE);
}

Test(dispatch, a_write_needs_its_right_on_every_groove, .init = setup_rights, .fini = teardown)
{
    static uint8_t body[4096];
    const uint32_t things = create_things();
    const uint32_t others = create_groove("others", "name text<8>, size u32, index name");
    const struct query_request query = {.groove_id = things, .index_id = WIRE_INDEX_NONE};
    uint32_t size = make_insert(body, things, 3, 1);
    size += make_insert(body + size, others, 2, 1);
    ask_as(WRITER, OPERATION_WRITE, body, size, RESULT_DENIED);
    uint64_t count = 1;
    memcpy(&count, body_of(ask(OPERATION_COUNT, &query, sizeof query, RESULT_OK)), sizeof count);
    cr_assert_eq(count, 0);
    size = make_insert(body, things, 3, 1);
    size += make_insert(body + size, things, 2, 10);
    ask_as(WRITER, OPERATION_WRITE, body, size, RESULT_OK);
    allow("uid:1001 write others");
    size = make_insert(body, things, 3, 20);
    size += make_insert(body + size, others, 2, 20);
    ask_as(WRITER, OPERATION_WRITE, body, size, RESULT_OK);
    memcpy(&count, body_of(ask(OPERATION_COUNT, &query, sizeof query, RESULT_OK)), sizeof count);
    cr_assert_eq(count, 8);
    /* Of a groove that is gone, too, there is only what is said of those that never were. */
    char name[WIRE_NAME_SIZE] = "others";
    ask(OPERATION_DROP_GROOVE, name, sizeof name, RESULT_OK);
    ask_as(WRITER, OPERATION_WRITE, body, size, RESULT_DENIED);
    ask(OPERATION_WRITE, body, size, RESULT_UNKNOWN_GROOVE);
}

Test(dispatch, schema_and_stat_show_what_one_may_read, .init = setup_rights, .fini = teardown)
{
    create_things();
    create_groove("secrets", "name text<8>, size u32, index name");
    struct schema_reply schema;
    memcpy(&schema, body_of(ask_as(READER, OPERATION_SCHEMA, NULL, 0, RESULT_OK)), sizeof schema);
    cr_assert_eq(schema.groove_count, 1);
    struct fake *fake = ask_as(READER, OPERATION_STAT, NULL, 0, RESULT_OK);
    cr_assert(says(fake, "\"things\""));
    cr_assert_not(says(fake, "secrets"));
    memcpy(&schema, body_of(ask(OPERATION_SCHEMA, NULL, 0, RESULT_OK)), sizeof schema);
    cr_assert_eq(schema.groove_count, 2);
    cr_assert(says(ask(OPERATION_STAT, NULL, 0, RESULT_OK), "secrets"));
}

Test(dispatch, the_unmapped_user_may_nothing, .init = setup, .fini = teardown)
{
    static uint8_t body[4096];
    const uint32_t groove_id = create_things();
    static const uint32_t unmapped[] = {65534, UINT32_MAX};
    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < 2; i++) {
            peer_uid = unmapped[i];
            ask(OPERATION_HELLO, NULL, 0, RESULT_DENIED);
            ask(OPERATION_PING, "well?", 5, RESULT_DENIED);
            ask(OPERATION_STAT, NULL, 0, RESULT_DENIED);
            ask(OPERATION_SCHEMA, NULL, 0, RESULT_DENIED);
            ask(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 1), RESULT_DENIED);
            const struct query_request query = {.groove_id = groove_id,
                                                .index_id = WIRE_INDEX_NONE};
            cr_assert(
                says(ask(OPERATION_COUNT, &query, sizeof query, RESULT_DENIED), "stands for"));
        }
        allow("* admin *"); /* Not then either. */
    }
    cr_assert_eq(dispatch.gate.denied_total[GATE_LACK_IDENTITY], 24);
}

static uint32_t log_lines(int fd, char *text, size_t text_size)
{
    const ssize_t size = pread(fd, text, text_size - 1, 0);
    cr_assert_geq(size, 0);
    text[size] = '\0';
    uint32_t count = 0;
    for (const char *at = text; (at = strstr(at, "event=access.denied")) != NULL; at++) {
        count += 1;
    }
    return count;
}

Test(dispatch, denials_are_counted_and_logged_once_a_second, .init = setup_rights, .fini = teardown)
{
    static char text[1 << 14];
    const int fd = memfd_create("log", MFD_CLOEXEC);
    cr_assert_geq(fd, 0);
    log_configure(LOG_FORMAT_LOGFMT, LOG_LEVEL_INFO, fd);
    const struct query_request query = {.groove_id = 5, .index_id = WIRE_INDEX_NONE};
    for (uint32_t i = 0; i < 50; i++) { /* Two seconds and some. */
        ask_as(STRANGER, OPERATION_COUNT, &query, sizeof query, RESULT_DENIED);
        now_ns += 45 * 1000 * 1000;
    }
    cr_assert_eq(log_lines(fd, text, sizeof text), 3, "%s", text);
    cr_assert_not_null(
        strstr(text, "uid=1002 operation=COUNT lacks=read on=\"groove 5\" count=1\n"), "%s", text);
    cr_assert_not_null(strstr(text, "count=23\n"), "%s", text);
    char name[WIRE_NAME_SIZE] = "a\nb\x01"
                                "c";
    now_ns += 1000ull * 1000 * 1000;
    ask_as(STRANGER, OPERATION_DROP_GROOVE, name, sizeof name, RESULT_DENIED);
    cr_assert_eq(log_lines(fd, text, sizeof text), 4);
    cr_assert_not_null(strstr(text, "'a?b?c'"), "%s", text);
    ask_as(STRANGER, OPERATION_STAT, NULL, 0, RESULT_DENIED);
    log_configure(LOG_FORMAT_LOGFMT, LOG_LEVEL_INFO, 2);

    struct fake *fake = ask(OPERATION_STAT, NULL, 0, RESULT_OK);
    cr_assert(says(fake, "\"access\":{\"rules\":3,\"denied_total\":{\"read\":50,\"write\":0,"
                         "\"admin\":1,\"any\":1,\"identity\":0}}"));
    close(fd);
}

/* ---- Sessions ---- */

static void as(uint8_t client, uint32_t lane, uint64_t number)
{
    sender.client = client;
    sender.lane = lane;
    sender.number = number;
}

static struct fake *open_session(uint8_t client, uint32_t lane_count, enum result result)
{
    const struct open_session_request open = {.lane_count = lane_count};
    as(client, 0, 7);
    return ask(OPERATION_OPEN_SESSION, &open, sizeof open, result);
}

static void expect_same_bytes(const struct fake *a, const struct fake *b)
{
    cr_assert(a->answered && b->answered);
    cr_assert_eq(a->reply_size, b->reply_size);
    cr_assert_arr_eq(a->reply, b->reply, a->reply_size);
}

static uint64_t commits(void)
{
    struct forest_stats stats;
    forest_stats(forest, &stats);
    return stats.commit_durable;
}

Test(dispatch, a_session_is_opened_once, .init = setup, .fini = teardown)
{
    struct hello_reply hello;
    memcpy(&hello, body_of(ask(OPERATION_HELLO, NULL, 0, RESULT_OK)), sizeof hello);
    cr_assert(hello.features & WIRE_FEATURE_SESSIONS);
    cr_assert_eq(hello.session_failure_max, SESSION_FAILURE_MAX);
    const uint32_t groove_id = create_things();

    peer_uid = 30;
    const struct fake *first = open_session(1, 3, RESULT_OK);
    static const uint8_t three_idle_lanes[8 + 3 * 8] = {3};
    cr_assert_eq(header_of(first).body_size, sizeof three_idle_lanes);
    cr_assert_arr_eq(body_of(first), three_idle_lanes, sizeof three_idle_lanes);
    cr_assert_eq(header_of(first).commit, commits());
    cr_assert_gt(header_of(first).timestamp, 0);

    uint8_t body[512];
    as(1, 2, 5);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 1), RESULT_OK);
    const uint64_t before = commits();
    const struct fake *again = open_session(1, 64, RESULT_OK);
    static const uint8_t one_has_written[8 + 3 * 8] = {3, [8 + 2 * 8] = 5};
    cr_assert_eq(header_of(again).body_size, sizeof one_has_written);
    cr_assert_arr_eq(body_of(again), one_has_written, sizeof one_has_written);
    cr_assert_eq(header_of(again).commit, 0);
    cr_assert_eq(commits(), before);
    peer_uid = 31;
    open_session(1, 3, RESULT_DENIED);
    as(1, 0, 9);
    ask(OPERATION_CLOSE_SESSION, NULL, 0, RESULT_DENIED);
    peer_uid = 30;

    /* Twice at once: one opens, the other finds it; and the session counts from then on. */
    const struct open_session_request open = {.lane_count = 1};
    as(2, 0, 1);
    const struct fake *twins[2];
    for (int i = 0; i < 2; i++) {
        twins[i] = push(OPERATION_OPEN_SESSION, &open, sizeof open);
    }
    run();
    cr_assert_gt(header_of(twins[0]).commit, 0);
    cr_assert_eq(header_of(twins[1]).commit, 0);
    cr_assert_arr_eq(body_of(twins[0]), body_of(twins[1]), 16);
    cr_assert_eq(header_of(ask(OPERATION_CLOSE_SESSION, NULL, 0, RESULT_OK)).commit, commits());
    ask(OPERATION_CLOSE_SESSION, NULL, 0, RESULT_NO_SESSION);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 2), RESULT_NO_SESSION);
}

/* The table of docs/protocol.md, section 7, row by row. */
Test(dispatch, each_row_of_the_table_of_sessions, .init = setup, .fini = teardown)
{
    const uint32_t groove_id = create_things();
    uint8_t body[512];
    const uint32_t size = make_insert(body, groove_id, 2, 1);
    as(1, 0, 3);
    ask(OPERATION_WRITE, body, size, RESULT_NO_SESSION);
    open_session(1, 2, RESULT_OK);
    peer_uid = 12;
    as(1, 0, 3);
    ask(OPERATION_WRITE, body, size, RESULT_DENIED);
    peer_uid = 0;
    as(1, 2, 3);
    ask(OPERATION_WRITE, body, size, RESULT_BAD_LANE);
    as(1, 0, 0);
    ask(OPERATION_WRITE, body, size, RESULT_BAD_LANE);

    as(1, 0, 3);
    const struct fake *first = ask(OPERATION_WRITE, body, size, RESULT_OK);
    const uint64_t before = commits();
    const struct fake *second = ask(OPERATION_WRITE, body, size, RESULT_OK);
    expect_same_bytes(first, second);
    cr_assert_eq(commits(), before, "nothing was executed");
    /* A number is never used for a second request: whatever comes under it gets that reply. */
    const char name[NAME_SIZE] = "things";
    expect_same_bytes(first, ask(OPERATION_DROP_GROOVE, name, sizeof name, RESULT_OK));
    cr_assert_eq(commits(), before);
    as(1, 0, 2);
    ask(OPERATION_WRITE, body, size, RESULT_STALE_NUMBER);

    /* Thrice at once, and another number between: one execution, three replies. */
    const uint32_t third_size = make_insert(body, groove_id, 3, 10);
    struct fake *fakes_of[4];
    for (int i = 0; i < 4; i++) {
        as(1, 1, i == 2 ? 9 : 8);
        fakes_of[i] = push(OPERATION_WRITE, body, third_size);
    }
    run();
    cr_assert_eq(header_of(fakes_of[0]).result, RESULT_OK);
    cr_assert_eq(header_of(fakes_of[2]).result, RESULT_LANE_BUSY);
    expect_same_bytes(fakes_of[0], fakes_of[1]);
    expect_same_bytes(fakes_of[0], fakes_of[3]);
    cr_assert_eq(commits(), before + 1);
    as(1, 1, 9); /* What was refused stays so, though the lane is free now; */
    ask(OPERATION_WRITE, body, third_size, RESULT_LANE_BUSY);
    as(1, 1, 8); /* what was executed is told on. */
    expect_same_bytes(fakes_of[0], ask(OPERATION_WRITE, body, third_size, RESULT_OK));

    /* Too late once is too late for good; the next number is a new request. */
    as(1, 0, 4);
    sender.deadline_ms = 5;
    struct fake *late = push(OPERATION_WRITE, body, third_size);
    now_ns += 6 * 1000 * 1000;
    run();
    cr_assert_eq(header_of(late).result, RESULT_EXPIRED);
    sender.deadline_ms = 0;
    ask(OPERATION_WRITE, body, third_size, RESULT_EXPIRED);
    as(1, 0, 5);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id + 5, 1, 1), RESULT_UNKNOWN_GROOVE);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 50), RESULT_UNKNOWN_GROOVE);
    as(1, 0, 4);
    ask(OPERATION_WRITE, body, third_size, RESULT_STALE_NUMBER);
    as(1, 0, 3);
    expect_same_bytes(first, ask(OPERATION_WRITE, body, size, RESULT_OK));

    /* A repetition is answered, however late. */
    sender.deadline_ms = 1;
    struct fake *repeated = push(OPERATION_WRITE, body, size);
    now_ns += 6 * 1000 * 1000;
    run();
    expect_same_bytes(first, repeated);
    sender.deadline_ms = 0;

    /* What only reads does not care. */
    as(77, 1000, 0);
    ask(OPERATION_PING, NULL, 0, RESULT_OK);
    cr_assert_geq(dispatch.replays_total, 5);
    cr_assert_eq(dispatch.attached_total, 2);
}

Test(dispatch, grooves_are_made_and_dropped_once, .init = setup, .fini = teardown)
{
    static struct groove_spec spec;
    char error[SCHEMA_TEXT_ERROR_SIZE];
    cr_assert(schema_text_parse("once", "size u32", &spec, error));
    open_session(1, 1, RESULT_OK);
    as(1, 0, 1);
    const struct fake *made = ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_OK);
    cr_assert_eq(header_of(made).body_size, sizeof(struct create_groove_reply));
    expect_same_bytes(made, ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_OK));
    as(1, 0, 2);
    ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_GROOVE_EXISTS);
    ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_GROOVE_EXISTS);
    const char name[NAME_SIZE] = "once";
    as(1, 0, 3);
    const struct fake *dropped = ask(OPERATION_DROP_GROOVE, name, sizeof name, RESULT_OK);
    cr_assert_eq(header_of(dropped).body_size, 0);
    as(0, 0, 0);
    ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_OK);
    as(1, 0, 3);
    expect_same_bytes(dropped, ask(OPERATION_DROP_GROOVE, name, sizeof name, RESULT_OK));
    as(0, 0, 0);
    ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_GROOVE_EXISTS); /* It is still there. */
}

Test(dispatch, a_session_remembers_some_failures_and_counts_all, .init = setup, .fini = teardown)
{
    enum { COUNT = SESSION_FAILURE_MAX + 3 };
    const uint32_t groove_id = create_things();
    static uint8_t body[16 + COUNT * OBJECT_SIZE];
    const uint32_t size = make_insert(body, groove_id, COUNT, 1);
    ask(OPERATION_WRITE, body, size, RESULT_OK);
    struct write_reply write;
    const struct fake *all = ask(OPERATION_WRITE, body, size, RESULT_OK);
    memcpy(&write, body_of(all), sizeof write);
    cr_assert_eq(write.failure_count, COUNT);
    cr_assert_eq(write.failure_total, COUNT);
    open_session(1, 1, RESULT_OK);
    as(1, 0, 1);
    const struct fake *some = ask(OPERATION_WRITE, body, size, RESULT_OK);
    memcpy(&write, body_of(some), sizeof write);
    cr_assert_eq(write.failure_count, SESSION_FAILURE_MAX);
    cr_assert_eq(write.failure_total, COUNT);
    const uint32_t listed = SESSION_FAILURE_MAX * (uint32_t)sizeof(struct wire_failure);
    cr_assert_eq(header_of(some).body_size, sizeof write + listed);
    cr_assert_arr_eq(body_of(some) + sizeof write, body_of(all) + sizeof write, listed);
    expect_same_bytes(some, ask(OPERATION_WRITE, body, size, RESULT_OK));
}

Test(dispatch, a_full_table_takes_a_session_for_one_that_is_idle, .init = setup, .fini = teardown)
{
    struct forest_stats stats;
    forest_stats(forest, &stats);
    cr_assert_lt(stats.sessions_max, 250);
    const uint8_t count = (uint8_t)stats.sessions_max;
    const uint32_t groove_id = create_things();
    for (uint8_t client = 1; client <= count; client++) {
        now_ns += 1000;
        open_session(client, 1, RESULT_OK);
    }
    now_ns += config.session_idle_ns / 2;
    const uint8_t one_more = (uint8_t)(count + 1);
    cr_assert(says(open_session(one_more, 1, RESULT_LIMIT), "idle"));
    uint8_t body[512];
    as(1, 0, 1);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 1), RESULT_OK);
    open_session(2, 1, RESULT_OK); /* To ask is not to write. */
    now_ns += config.session_idle_ns / 2;
    open_session(one_more, 1, RESULT_OK);
    as(2, 0, 1);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 2), RESULT_NO_SESSION);
    as(1, 0, 2);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 2), RESULT_OK);
    cr_assert(says(ask(OPERATION_STAT, NULL, 0, RESULT_OK), "\"evicted_total\":1,"));
}

Test(dispatch, a_restart_changes_no_byte_of_a_reply, .init = setup, .fini = teardown)
{
    static struct groove_spec spec;
    char error[SCHEMA_TEXT_ERROR_SIZE];
    cr_assert(schema_text_parse("things", "name text<8>, size u32", &spec, error));
    open_session(1, 3, RESULT_OK);
    as(1, 0, 1);
    const struct fake *created = ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_OK);
    struct create_groove_reply groove;
    memcpy(&groove, body_of(created), sizeof groove);
    uint8_t body[512];
    const uint32_t size = make_insert(body, groove.groove_id, 4, 1);
    as(1, 1, 1);
    ask(OPERATION_WRITE, body, size, RESULT_OK);
    as(1, 1, 2);
    const struct fake *failed = ask(OPERATION_WRITE, body, size, RESULT_OK);
    cr_assert_eq(header_of(failed).body_size, 8 + 4 * 8);
    as(1, 2, 1);
    ask(OPERATION_WRITE, body, make_insert(body, groove.groove_id + 1, 1, 1),
        RESULT_UNKNOWN_GROOVE);

    forest_reset(forest);
    opened = false;
    forest_open(forest, on_open, NULL);
    while (!opened) {
        forest_tick(forest);
    }
    as(1, 0, 1);
    expect_same_bytes(created, ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_OK));
    as(1, 1, 2);
    expect_same_bytes(
        failed, ask(OPERATION_WRITE, body, make_insert(body, groove.groove_id, 4, 1), RESULT_OK));
    as(1, 1, 1);
    ask(OPERATION_WRITE, body, size, RESULT_STALE_NUMBER);
    const struct fake *found = open_session(1, 3, RESULT_OK);
    static const uint8_t numbers[8 + 3 * 8] = {3, [8] = 1, [16] = 2};
    cr_assert_arr_eq(body_of(found), numbers, sizeof numbers);
}

/* Damage is found while the request is in a batch. */
Test(dispatch, who_is_attached_is_refused_with_the_first, .init = setup, .fini = teardown)
{
    const uint32_t groove_id = create_things();
    open_session(1, 1, RESULT_OK);
    uint8_t body[512];
    const uint32_t size = make_insert(body, groove_id, 1, 1);
    as(1, 0, 1);
    const struct fake *twins[2];
    for (int i = 0; i < 2; i++) {
        twins[i] = push(OPERATION_WRITE, body, size);
    }
    cr_assert(dispatch_take(&dispatch) && dispatch_submit(&dispatch));
    cr_assert_eq(dispatch.attached_total, 1);
    forest->read_only = true;
    run();
    cr_assert_eq(header_of(twins[0]).result, RESULT_READ_ONLY);
    expect_same_bytes(twins[0], twins[1]);
    forest->read_only = false; /* This process has said no to this number; */
    ask(OPERATION_WRITE, body, size, RESULT_READ_ONLY);
    as(1, 0, 2); /* and to nothing else. */
    ask(OPERATION_WRITE, body, size, RESULT_OK);
    ask(OPERATION_CLOSE_SESSION, NULL, 0, RESULT_OK);
}
