/* A reply that is built in the transport's own buffer. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "ipc/listener.h"

struct reply {
    struct exchange *exchange;
    uint8_t *bytes; /* [size_max], the transport's */
    uint32_t size_max;
    uint32_t size; /* with the header, whose place is kept */
};

/* Any thread that owns the exchange, between transport_begin and transport_end.
 *
 * False: the transport has no memory; the connection is closed, the client asks again. */
bool reply_begin(struct reply *reply, struct exchange *exchange, uint32_t body_size_max);
void reply_append(struct reply *reply, const void *bytes, uint32_t size);
void reply_send(struct reply *reply, uint64_t commit, uint64_t timestamp);
/* All of it at once, and needs no transport_begin. */
void reply_body(struct exchange *exchange, const void *body, uint32_t body_size);

/* The forest thread allocates nothing, the transport does: per message, and is let to. Between
 * these two; the end takes what the begin returned. */
bool transport_begin(void);
void transport_end(bool forbidden);
