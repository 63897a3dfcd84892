#include "ipc/listener.h"

#include <assert.h>
#include <string.h>

#include "ipc/listener_internal.h"
#include "ipc/peers.h"
#include "ipc/socket_path.h"
#include "pool/clock.h"

enum {
    SOCKET_MODE_DEFAULT = 0600,
    EXCHANGE_COUNT_DEFAULT = 64,
    EXCHANGE_COUNT_MAX = 4096,
    CONNECTION_COUNT_MAX_DEFAULT = 256,
    CONNECTION_COUNT_MAX_LIMIT = 1 << 16,
    SEND_TIMEOUT_MS_DEFAULT = 500,
    RECEIVE_TIMEOUT_MS_DEFAULT = 10 * 1000,
    TIMEOUT_MS_MAX = 10 * 60 * 1000,
    MESSAGE_SIZE_MAX_LIMIT = 1 << 30,
    COUNT_PER_MS = 8, /* small requests that are done in a millisecond at least */
};

/* ---- Start and stop ----------------------------------------------------------------------------
 */

static uint32_t or_default(uint32_t value, uint32_t fallback)
{
    return value != 0 ? value : fallback;
}

static struct listener_options with_defaults(const struct listener_options *options)
{
    struct listener_options whole = *options;
    whole.socket_mode = or_default(whole.socket_mode, SOCKET_MODE_DEFAULT);
    whole.exchange_count = or_default(whole.exchange_count, EXCHANGE_COUNT_DEFAULT);
    whole.connection_count_max =
        or_default(whole.connection_count_max, CONNECTION_COUNT_MAX_DEFAULT);
    whole.send_timeout_ms = or_default(whole.send_timeout_ms, SEND_TIMEOUT_MS_DEFAULT);
    whole.receive_timeout_ms = or_default(whole.receive_timeout_ms, RECEIVE_TIMEOUT_MS_DEFAULT);
    return whole;
}

uint64_t listener_memory_size(const struct listener_options *options)
{
    const struct listener_options whole = with_defaults(options);
    return whole.kind == LISTENER_NATIVE
               ? listener_native_memory_size(&whole)
               : 2 * (uint64_t)whole.message_size_max * listener_exchange_count(&whole);
}

uint32_t listener_exchange_count(const struct listener_options *options)
{
    const struct listener_options whole = with_defaults(options);
    return whole.kind == LISTENER_NATIVE ? whole.exchange_count
                                         : peers_total_for(whole.exchange_count);
}

enum status listener_start(const struct listener_options *options, listener_handler *handler,
                           void *context, struct listener **listener, const char **reason)
{
    assert(options->socket_path != NULL);
    assert(handler != NULL);
    *listener = NULL;
    *reason = "";

    const struct listener_options whole = with_defaults(options);
    if (whole.message_size_max < PROTOCOL_HEADER_SIZE + WIRE_ERROR_TEXT_SIZE_MAX ||
        whole.message_size_max > MESSAGE_SIZE_MAX_LIMIT ||
        whole.exchange_count > EXCHANGE_COUNT_MAX ||
        whole.connection_count_max > CONNECTION_COUNT_MAX_LIMIT ||
        whole.send_timeout_ms > TIMEOUT_MS_MAX || whole.receive_timeout_ms > TIMEOUT_MS_MAX ||
        whole.socket_mode > 0777) {
        *reason = "a size, count, timeout or mode of the listener is out of range";
        return STATUS_INVALID;
    }
    const enum status status = socket_path_prepare(whole.socket_path, reason);
    if (status != STATUS_OK) {
        return status;
    }
    switch (whole.kind) {
    case LISTENER_NNG:
        return listener_nng_start(&whole, handler, context, listener, reason);
    case LISTENER_NATIVE:
        return listener_native_start(&whole, handler, context, listener, reason);
    }
    assert(false && "kind of listener");
    return STATUS_INVALID;
}

void listener_init(struct listener *listener, const struct listener_ops *ops,
                   const struct listener_options *options, listener_handler *handler, void *context)
{
    *listener = (struct listener){
        .ops = ops,
        .options = *options,
        .handler = handler,
        .handler_context = context,
    };
    doorbell_init(&listener->returned);
    atomic_init(&listener->accepting, true);
}

void listener_deinit(struct listener *listener)
{
    assert(atomic_load(&listener->given_count) == 0);
    doorbell_deinit(&listener->returned);
}

void listener_stop_accepting(struct listener *listener)
{
    atomic_store(&listener->accepting, false);
}

/* Who drains waits for this one: the server's thread has but one bell. */
static struct doorbell *returned_bell(struct listener *listener)
{
    struct doorbell *doorbell = listener->options.doorbell;
    return doorbell != NULL ? doorbell : &listener->returned;
}

bool listener_drain(struct listener *listener, uint32_t timeout_ms)
{
    assert(!atomic_load(&listener->accepting));
    const uint64_t deadline_ns = clock_monotonic_ns(&clock_system) + timeout_ms * UINT64_C(1000000);
    for (;;) {
        const uint64_t seen = doorbell_count(returned_bell(listener));
        if (atomic_load(&listener->given_count) == 0) {
            return true;
        }
        const uint64_t now_ns = clock_monotonic_ns(&clock_system);
        if (now_ns >= deadline_ns) {
            return false;
        }
        if (listener->options.doorbell != NULL) {
            listener_wait(listener, seen, deadline_ns - now_ns);
        } else {
            doorbell_wait(&listener->returned, seen, deadline_ns - now_ns);
        }
    }
}

void listener_wait(struct listener *listener, uint64_t seen, uint64_t timeout_ns)
{
    assert(listener->options.doorbell != NULL);
    listener->ops->wait(listener, seen, timeout_ns);
}

void listener_stop(struct listener *listener)
{
    listener_stop_accepting(listener);
    listener->ops->stop(listener);
}

/* ---- Requests ----------------------------------------------------------------------------------
 */

void listener_give_back(struct listener *listener)
{
    const uint64_t before = atomic_fetch_sub(&listener->given_count, 1);
    assert(before > 0);
    if (!atomic_load(&listener->accepting)) {
        doorbell_ring(returned_bell(listener));
    }
}

/* As many as he may have in hand are there, so it takes about as long as they do. */
static void reply_over_share(struct exchange *exchange)
{
    static const char text[] = "this connection has as many requests in hand as it may";
    struct reply_header header =
        protocol_reply_header(&exchange->header, RESULT_BUSY, (uint32_t)strlen(text));
    header.retry_after_ms = 1 + exchange->listener->options.exchange_count / COUNT_PER_MS;
    exchange_reply(exchange, &header, sizeof header, text, header.body_size);
}

void listener_serve(struct exchange *exchange, bool may_have, bool *given)
{
    struct listener *listener = exchange->listener;
    *given = false;
    enum result result;
    if (!protocol_request_check(exchange->request, exchange->request_size,
                                listener->options.message_size_max, &exchange->header, &result)) {
        listener_count(&listener->bad_messages_total);
        exchange_reply_result(exchange, result, NULL);
        return;
    }
    if (!may_have) {
        listener_count(&listener->over_share_total);
        reply_over_share(exchange);
        return;
    }
    atomic_fetch_add(&listener->given_count, 1);
    if (!atomic_load(&listener->accepting)) {
        listener_give_back(listener);
        exchange_reply_result(exchange, RESULT_SHUTTING_DOWN, NULL);
        return;
    }
    *given = true;
    listener_count(&listener->requests_total);
    listener->handler(listener->handler_context, exchange);
}

/* ---- Replies -----------------------------------------------------------------------------------
 */

uint8_t *exchange_reply_buffer(struct exchange *exchange, uint32_t size)
{
    assert(size >= PROTOCOL_HEADER_SIZE);
    assert(size <= exchange->listener->options.message_size_max);
    return exchange->listener->ops->reply_buffer(exchange, size);
}

void exchange_send(struct exchange *exchange, uint32_t size)
{
    assert(size >= PROTOCOL_HEADER_SIZE);
    exchange->listener->ops->send(exchange, size);
}

void exchange_drop(struct exchange *exchange)
{
    listener_count(&exchange->listener->drops_total);
    exchange->listener->ops->drop(exchange);
}

void exchange_reply(struct exchange *exchange, const void *header, uint32_t header_size,
                    const void *body, uint32_t body_size)
{
    assert(header_size == PROTOCOL_HEADER_SIZE);
    assert(body != NULL || body_size == 0);

    const uint32_t size = header_size + body_size;
    uint8_t *reply = exchange_reply_buffer(exchange, size);
    if (reply == NULL) {
        exchange_drop(exchange);
        return;
    }
    memcpy(reply, header, header_size);
    if (body_size > 0) {
        memcpy(reply + header_size, body, body_size);
    }
    exchange_send(exchange, size);
}

void exchange_reply_result(struct exchange *exchange, enum result result, const char *text)
{
    const char *body = text != NULL ? text : result_text(result);
    const uint32_t body_size =
        result == RESULT_OK ? 0 : (uint32_t)strnlen(body, WIRE_ERROR_TEXT_SIZE_MAX);
    const struct reply_header header = protocol_reply_header(&exchange->header, result, body_size);
    exchange_reply(exchange, &header, sizeof header, body, body_size);
}

void listener_stats_read(struct listener *listener, struct listener_stats *stats)
{
    *stats = (struct listener_stats){
        .connections = atomic_load(&listener->connections),
        .connections_total = atomic_load(&listener->connections_total),
        .connections_refused = atomic_load(&listener->connections_refused),
        .requests_total = atomic_load(&listener->requests_total),
        .bad_messages_total = atomic_load(&listener->bad_messages_total),
        .over_share_total = atomic_load(&listener->over_share_total),
        .send_timeouts_total = atomic_load(&listener->send_timeouts_total),
        .receive_timeouts_total = atomic_load(&listener->receive_timeouts_total),
        .bad_frames_total = atomic_load(&listener->bad_frames_total),
        .accept_errors_total = atomic_load(&listener->accept_errors_total),
        .drops_total = atomic_load(&listener->drops_total),
        .exchanges_busy = atomic_load(&listener->given_count),
    };
}
