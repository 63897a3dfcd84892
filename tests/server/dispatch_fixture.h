/* The daemon's dispatch for tests: a real forest on a disk in memory, inline teams, and a front-end
 * made of arrays: the functions of ipc/listener.h are defined here instead of being linked. So this
 * is included by the one source of a test program. */
#pragma once

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "engine/object.h"
#include "pool/memory.h"
#include "server/dispatch.h"
#include "server/schema_text.h"
#include "tests/harness/sim_io.h"

#define UNUSED_OK __attribute__((unused))

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
static uint64_t now_step_ns;       /* that each look at the clock takes */
static uint32_t peer_uid, peer_id; /* of who asks */
static uint32_t read_slot_count = 2;
static bool opened;

static uint64_t now(void *context)
{
    (void)context;
    now_ns += now_step_ns;
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

UNUSED_OK static bool says(const struct fake *fake, const char *text)
{
    return memmem(body_of(fake), header_of(fake).body_size, text, strlen(text)) != NULL;
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
