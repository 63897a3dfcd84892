/* Reads on their way: whose turn it is, to a reader's thread, and the reply from there; or, for
 * some small lookups in each turn, the answer from here. */
#include <assert.h>
#include <string.h>

#include "ipc/peers.h"
#include "pool/base.h"
#include "server/dispatch_internal.h"

static void reply_read(struct exchange *exchange, const struct read_request *read)
{
    struct reply reply;
    if (read->kind == READ_KIND_COUNT) {
        if (reply_begin(&reply, exchange, sizeof read->count)) {
            reply_append(&reply, &read->count, sizeof read->count);
            reply_send(&reply, read->commit, 0);
        }
        return;
    }
    const struct objects_reply objects = {
        .object_count = (uint32_t)read->count,
        .object_size = read->object_size,
    };
    assert(read->count * read->object_size == read->reply_size);
    if (reply_begin(&reply, exchange, (uint32_t)sizeof objects + read->reply_size)) {
        reply_append(&reply, &objects, sizeof objects);
        reply_append(&reply, read->reply, read->reply_size);
        reply_send(&reply, read->commit, 0);
    }
}

/* On a reader's thread, or here. */
static void read_done(struct read_request *read)
{
    struct exchange *exchange = read->context;
    struct dispatch_reading *reading = exchange->context;
    struct dispatch *dispatch = reading->dispatch;
    const bool forbidden = transport_begin(); /* This may be the forest thread. */
    if (read->result == REQUEST_RESULT_OK) {
        reply_read(exchange, read);
    } else {
        atomic_fetch_add_explicit(&dispatch->reads_refused_total, 1, memory_order_relaxed);
        if (read->result == REQUEST_RESULT_EXPIRED) {
            atomic_fetch_add_explicit(&dispatch->reads_expired_total, 1, memory_order_relaxed);
        }
        exchange_reply_result(exchange, dispatch_result(read->result), NULL);
    }
    transport_end(forbidden);
    struct doorbell *doorbell = dispatch->queue->doorbell;
    forest_read_release(dispatch->forest, read);
    atomic_fetch_sub_explicit(&reading->count, 1, memory_order_release);
    /* Pairs with the acquire in dispatch_is_idle. The forest thread joins the readers before it
     * takes anything apart, so the doorbell is still there. */
    atomic_fetch_sub_explicit(&dispatch->reads_in_progress, 1, memory_order_release);
    doorbell_ring(doorbell);
}

static void fill_read(const struct exchange *exchange, struct read_request *read)
{
    const uint8_t *body = exchange_body(exchange);
    const uint32_t body_size = exchange->header.body_size;
    read->context = (void *)exchange;
    read->done = read_done;
    read->deadline_ns = dispatch_deadline_of(exchange);
    if (exchange->header.operation == OPERATION_LOOKUP) {
        struct lookup_request lookup;
        assert(body_size >= sizeof lookup); /* protocol_request_check */
        memcpy(&lookup, body, sizeof lookup);
        read->kind = READ_KIND_LOOKUP;
        read->groove_id = lookup.groove_id;
        read->index = READ_INDEX_NONE;
        read->limit = 0;
        read->input = body + sizeof lookup;
        read->input_size = body_size - (uint32_t)sizeof lookup;
        return;
    }
    struct query_request query;
    assert(body_size >= sizeof query);
    memcpy(&query, body, sizeof query);
    read->kind = exchange->header.operation == OPERATION_QUERY ? READ_KIND_QUERY : READ_KIND_COUNT;
    read->groove_id = query.groove_id;
    read->index = query.index_id;
    read->limit = query.limit;
    read->input = body + sizeof query;
    read->input_size = query.key_size;
    assert(read->input_size <= body_size - sizeof query);
}

/* His entry, or one for him. */
static struct dispatch_reading *reading_of(struct dispatch *dispatch, uint32_t uid)
{
    struct dispatch_reading *unused = NULL;
    for (uint32_t i = 0; i < dispatch->config->read_slot_count; i++) {
        struct dispatch_reading *reading = &dispatch->readings[i];
        if (atomic_load_explicit(&reading->count, memory_order_acquire) == 0) {
            unused = unused == NULL ? reading : unused;
        } else if (reading->uid == uid) {
            return reading;
        }
    }
    if (unused != NULL) {
        unused->dispatch = dispatch;
        unused->uid = uid;
    }
    return unused;
}

/* Of the slots a user may take one more while he has less than three times what would stay free, as
 * of all that is shared (ipc/peers.h); a first one always. And while several users ask, he leaves
 * one of the readers to others, if there are two: what else he asks for waits here, where users
 * take turns, and not in the readers' queue. */
static bool may_read(const struct dispatch *dispatch, const struct dispatch_reading *reading)
{
    if (reading == NULL) {
        return false;
    }
    const uint32_t slots = dispatch->config->read_slot_count;
    const uint32_t busy = atomic_load_explicit(&dispatch->reads_in_progress, memory_order_relaxed);
    const uint32_t count = atomic_load_explicit(&reading->count, memory_order_relaxed);
    /* A slot may be free again before its reader has counted down: busy may be more than slots. */
    return count == 0 ||
           (busy < slots && count < PEERS_SHARE * (slots - busy - 1) &&
            (!dispatch_several_ask(dispatch) || count + 1 < dispatch->config->readers));
}

/* Answers the read whose turn it is, or gives it to the readers. False: there is no slot for it. */
static bool begin_read(struct dispatch *dispatch, struct dispatch_reading *reading)
{
    struct read_request *read = forest_read_acquire(dispatch->forest);
    if (read == NULL) {
        return false;
    }
    struct exchange *exchange = dispatch_pop(dispatch, &dispatch->reads);
    fill_read(exchange, read);
    exchange->context = reading;
    atomic_fetch_add_explicit(&reading->count, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&dispatch->reads_in_progress, 1, memory_order_relaxed);
    if (read->kind == READ_KIND_LOOKUP && dispatch->lookups_here_left > 0) {
        dispatch->lookups_here_left -= 1;
        if (forest_read_here(dispatch->forest, read)) {
            return true;
        }
    }
    forest_read_submit(dispatch->forest, read);
    return true;
}

/* Returns whether a read went anywhere: whose turn it is, but for those who have their share. */
bool dispatch_submit_read(struct dispatch *dispatch)
{
    for (uint32_t left = dispatch->reads.users.count; left > 0; left--) {
        struct exchange *exchange = fair_queue_peek(&dispatch->reads);
        if (dispatch_is_expired(dispatch, exchange)) {
            dispatch_pop(dispatch, &dispatch->reads);
            dispatch->expired_total += 1;
            dispatch_refuse(dispatch, exchange, RESULT_EXPIRED, NULL);
            return true;
        }
        const char *denied = gate_check(&dispatch->gate, exchange);
        if (denied != NULL) {
            dispatch_pop(dispatch, &dispatch->reads);
            dispatch_refuse(dispatch, exchange, RESULT_DENIED, denied);
            return true;
        }
        struct dispatch_reading *reading = reading_of(dispatch, exchange->peer_uid);
        if (may_read(dispatch, reading)) {
            return begin_read(dispatch, reading);
        }
        fair_queue_pass(&dispatch->reads);
    }
    return false;
}
