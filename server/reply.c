#include "server/reply.h"

#include <assert.h>
#include <string.h>

#include "pool/memory.h"

bool reply_begin(struct reply *reply, struct exchange *exchange, uint32_t body_size_max)
{
    const uint32_t size_max = PROTOCOL_HEADER_SIZE + body_size_max;
    *reply = (struct reply){
        .exchange = exchange,
        .bytes = exchange_reply_buffer(exchange, size_max),
        .size_max = size_max,
        .size = PROTOCOL_HEADER_SIZE,
    };
    if (reply->bytes == NULL) {
        exchange_drop(exchange);
        return false;
    }
    return true;
}

void reply_append(struct reply *reply, const void *bytes, uint32_t size)
{
    assert(size <= reply->size_max - reply->size);
    if (size > 0) {
        memcpy(reply->bytes + reply->size, bytes, size);
    }
    reply->size += size;
}

void reply_send(struct reply *reply, uint64_t commit, uint64_t timestamp)
{
    struct reply_header header = protocol_reply_header(&reply->exchange->header, RESULT_OK,
                                                       reply->size - PROTOCOL_HEADER_SIZE);
    header.commit = commit;
    header.timestamp = timestamp;
    memcpy(reply->bytes, &header, sizeof header);
    exchange_send(reply->exchange, reply->size);
}

bool transport_begin(void)
{
    const bool forbidden = memory_allocation_forbidden();
    memory_allow_allocation();
    return forbidden;
}

void transport_end(bool forbidden)
{
    if (forbidden) {
        memory_forbid_allocation();
    }
}

void reply_body(struct exchange *exchange, const void *body, uint32_t body_size)
{
    struct reply reply;
    const bool forbidden = transport_begin();
    if (reply_begin(&reply, exchange, body_size)) {
        reply_append(&reply, body, body_size);
        reply_send(&reply, 0, 0);
    }
    transport_end(forbidden);
}
