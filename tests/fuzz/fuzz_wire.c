/* Requests as they come off the wire, against a live forest.
 *
 * Input: requests, one behind another:
 *
 *   u8 flags   bit 0: the body is a whole message, header included, as a hostile peer sends it
 *              bit 1: everything so far is answered before the next one comes
 *              bit 2: the peer's deadline is over before the forest looks
 *              bit 3: a write is atomic
 *              bits 4 to 7: the connection, of which each user has four
 *   u8 operation; with bit 7 it names a session: u8 client, u8 lane, u8 number behind the size
 *   u16 body size, body
 *
 * Each must be answered once, by a reply that a client accepts; and the file that is left must be
 * one that `holt verify` finds no problem in, and that opens again. The front-end is made of
 * arrays: the functions of ipc/listener.h are defined here. */
#include <assert.h>
#include <stdlib.h>

#include "engine/forest.h"
#include "pool/base.h"
#include "server/dispatch.h"
#include "tests/fuzz/fuzz.h"
#include "tests/harness/sim_io.h"

enum {
    EXCHANGE_COUNT = 48,
    DISK_SIZE = 32 << 20,
    CACHE_SIZE = 1 << 18,
    REQUEST_SIZE_MAX = 1 << 15,
    READ_SLOT_COUNT = 2,
    QUEUE_SIZE = 16 << 20,
    DEADLINE_MS = 5,
};

static const uint64_t step_ns = 1000;
static const uint64_t ns_per_ms = 1000 * 1000;

/* ---- The front-end -----------------------------------------------------------------------------
 */

struct fake {
    struct exchange exchange; /* First member: exchanges cast back. */
    uint8_t *request;         /* owned; freed with the answer, so that ASan sees later reads */
    uint8_t *reply;           /* owned */
    bool answered;
};

static struct fake fakes[EXCHANGE_COUNT];
static uint32_t fake_count;
static uint32_t message_size_max;

static void answer(struct fake *fake)
{
    assert(!fake->answered);
    fake->answered = true;
    free(fake->request);
    fake->request = NULL;
}

uint8_t *exchange_reply_buffer(struct exchange *exchange, uint32_t size)
{
    struct fake *fake = (struct fake *)exchange;
    assert(fake->reply == NULL && size <= message_size_max);
    fake->reply = malloc(size);
    return fake->reply;
}

void exchange_send(struct exchange *exchange, uint32_t size)
{
    struct fake *fake = (struct fake *)exchange;
    struct reply_header header;
    const bool good = protocol_reply_check(fake->reply, size, &header);
    assert(good);
    assert(header.number == exchange->header.number);
    assert(header.operation == exchange->header.operation);
    answer(fake);
}

void exchange_reply(struct exchange *exchange, const void *header, uint32_t header_size,
                    const void *body, uint32_t body_size)
{
    uint8_t *reply = exchange_reply_buffer(exchange, header_size + body_size);
    memcpy(reply, header, header_size);
    if (body_size > 0) {
        memcpy(reply + header_size, body, body_size);
    }
    exchange_send(exchange, header_size + body_size);
}

void exchange_reply_result(struct exchange *exchange, enum result result, const char *text)
{
    const char *body = text != NULL ? text : result_text(result);
    const uint32_t size = (uint32_t)strlen(body);
    const struct reply_header header = protocol_reply_header(&exchange->header, result, size);
    assert(size <= WIRE_ERROR_TEXT_SIZE_MAX);
    exchange_reply(exchange, &header, sizeof header, body, size);
}

void exchange_drop(struct exchange *exchange)
{
    (void)exchange;
    assert(false && "the daemon drops nobody while there is memory");
}

void listener_stats_read(struct listener *listener, struct listener_stats *stats)
{
    (void)listener;
    *stats = (struct listener_stats){.connections = 1};
}

/* ---- The daemon around it ----------------------------------------------------------------------
 */

static struct sim_io sim;
static struct doorbell doorbell;
static struct workers compactors, journal_worker, growth_worker, readers;
static struct forest *forest;
static struct request_queue queue;
static struct config config;
static struct dispatch dispatch;
static uint64_t now_ns;
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
    (void)context, (void)report, (void)reason;
    assert(status == STATUS_OK);
    opened = true;
}

static void forest_start(const struct geometry *geometry)
{
    struct workers *const teams[] = {&compactors, &journal_worker, &growth_worker, &readers};
    const uint32_t capacity = forest_queue_capacity(geometry, READ_SLOT_COUNT);
    char reason[256];
    enum status status;
    for (size_t i = 0; i < array_count(teams); i++) {
        status = workers_start(teams[i], "team", 0, capacity);
        assert(status == STATUS_OK);
    }
    const struct forest_options options = {
        .io = &sim.io,
        .clock = &test_clock,
        .doorbell = &doorbell,
        .compactors = &compactors,
        .journal_worker = &journal_worker,
        .growth_worker = &growth_worker,
        .readers = &readers,
        .cache_size = CACHE_SIZE,
        .read_slot_count = READ_SLOT_COUNT,
        .on_committed = dispatch_committed,
    };
    forest = forest_init(&options, &status, reason, sizeof reason);
    assert(forest != NULL);
}

static void forest_recover(void)
{
    opened = false;
    forest_open(forest, on_open, NULL);
    while (!opened) {
        forest_tick(forest);
    }
}

/* Smaller than tiny: most of an input's time is the clearing of memory. */
static struct geometry geometry_least(void)
{
    struct geometry geometry = geometry_tiny();
    geometry.block_count_max = 4096;
    geometry.tree_count_max = 8;
    return geometry;
}

static void setup(void)
{
    const struct geometry geometry = geometry_least();
    const uint8_t file_id[16] = {1};
    char error[CONFIG_ERROR_SIZE];
    now_ns = step_ns;
    sim_io_init(&sim, DISK_SIZE);
    doorbell_init(&doorbell);
    enum status status = forest_format(&sim.io, &geometry, file_id, 7, NULL, NULL);
    assert(status == STATUS_OK);
    forest_start(&geometry);
    forest_recover();
    config_init(&config);
    status = config_finish(&config, "test.holt", 1, error);
    assert(status == STATUS_OK);
    status = request_queue_init(&queue, &doorbell, EXCHANGE_COUNT, QUEUE_SIZE);
    assert(status == STATUS_OK);
    status = dispatch_init(&dispatch, forest, &queue, &config, &test_clock);
    assert(status == STATUS_OK);
    dispatch.listener = (struct listener *)&sim; /* Only asked whether it is there. */
    message_size_max = dispatch_message_size_max(&geometry);
    dispatch.message_size_max = message_size_max;
}

static void run(void)
{
    bool any = true;
    while (any || !dispatch_is_idle(&dispatch) || !forest_is_idle(forest)) {
        any = dispatch_take(&dispatch);
        any |= dispatch_submit(&dispatch);
        any |= forest_tick(forest);
    }
    for (uint32_t i = 0; i < fake_count; i++) {
        assert(fakes[i].answered);
    }
}

static void on_problem(void *context, const char *text)
{
    (void)context, (void)text;
    assert(false && "verify finds a problem");
}

static void teardown(void)
{
    run();
    dispatch_deinit(&dispatch);
    request_queue_deinit(&queue);

    struct verify_report report;
    const enum status status = forest_verify(&sim.io, on_problem, NULL, NULL, &report);
    assert(status == STATUS_OK && report.problems == 0);
    forest_reset(forest);
    forest_recover();
    forest_deinit(forest);
    workers_join(&readers);
    workers_join(&growth_worker);
    workers_join(&journal_worker);
    workers_join(&compactors);
    doorbell_deinit(&doorbell);
    sim_io_deinit(&sim);
    for (uint32_t i = 0; i < fake_count; i++) {
        free(fakes[i].reply);
        fakes[i] = (struct fake){0};
    }
    fake_count = 0;
}

/* As the listener does with a message. */
static void push(const uint8_t *message, uint32_t size, uint64_t received_ns, uint8_t peer)
{
    struct fake *fake = &fakes[fake_count++];
    enum result result = RESULT_OK;
    fake->request = malloc(size > 0 ? size : 1);
    assert(fake->request != NULL);
    memcpy(fake->request, message, size);
    fake->exchange.request = fake->request;
    fake->exchange.request_size = size;
    fake->exchange.received_ns = received_ns;
    fake->exchange.peer_uid = peer / 4;
    fake->exchange.peer_id = peer;
    if (!protocol_request_check(fake->request, size, message_size_max, &fake->exchange.header,
                                &result)) {
        assert(result != RESULT_OK);
        exchange_reply_result(&fake->exchange, result, NULL);
        return;
    }
    assert(fake->exchange.header.body_size == size - PROTOCOL_HEADER_SIZE);
    uint32_t retry_after_ms;
    if (!request_queue_push(&queue, &fake->exchange, &retry_after_ms)) {
        exchange_reply_result(&fake->exchange, RESULT_BUSY, NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t message[PROTOCOL_HEADER_SIZE + REQUEST_SIZE_MAX];
    struct fuzz_input input = {data, size};
    setup();
    while (input.size > 0 && fake_count < EXCHANGE_COUNT) {
        const uint8_t flags = fuzz_u8(&input);
        const uint8_t operation = fuzz_u8(&input);
        struct request_header header = {
            .magic = PROTOCOL_MAGIC,
            .version = PROTOCOL_VERSION,
            .operation = operation & 0x7f,
            .number = 100 + fake_count,
            .deadline_ms = (flags & 4) != 0 ? DEADLINE_MS : 0,
            .body_size = fuzz_u16(&input) % REQUEST_SIZE_MAX,
        };
        if ((flags & 8) != 0 && header.operation == OPERATION_WRITE) {
            header.flags = WIRE_REQUEST_FLAG_ATOMIC;
        }
        if (operation > 0x7f) { /* Few of each, so that they meet. */
            header.client_id[0] = 1 + fuzz_u8(&input) % 3;
            header.lane = fuzz_u8(&input) % 4;
            header.number = fuzz_u8(&input) % 8;
        }
        uint32_t message_size = 0;
        if ((flags & 1) == 0) {
            memcpy(message, &header, sizeof header);
            message_size = sizeof header;
        }
        fuzz_take(&input, message + message_size, header.body_size);
        push(message, message_size + header.body_size, now_ns, flags >> 4);
        now_ns += (flags & 4) != 0 ? 2 * DEADLINE_MS * ns_per_ms : step_ns;
        if ((flags & 2) != 0) {
            run();
        }
    }
    teardown();
    return 0;
}
