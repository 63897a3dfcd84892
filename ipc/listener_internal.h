/* What every listener is made of, whatever it stands on: options, accounts, and the functions that
 * differ. A listener embeds `struct listener` at its beginning; its exchanges carry a pointer to
 * it, so that a call on an exchange finds its way by one indirect call. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "ipc/listener.h"
#include "pool/doorbell.h"

/* The calls of listener.h of the same names, which check what they are given before. */
struct listener_ops {
    void (*stop)(struct listener *listener); /* not accepting any more */
    void (*wait)(struct listener *listener, uint64_t seen, uint64_t timeout_ns);
    uint8_t *(*reply_buffer)(struct exchange *exchange, uint32_t size);
    void (*send)(struct exchange *exchange, uint32_t size);
    void (*drop)(struct exchange *exchange);
};

struct listener {
    const struct listener_ops *ops;
    struct listener_options options; /* without zeros; socket_path is the caller's, only at start */
    listener_handler *handler;
    void *handler_context;

    /* Both sequentially consistent: a thread counts a request in and then asks whether requests are
     * still taken; stopping says no and then looks at the count. One of the two sees the other. */
    _Atomic bool accepting;
    _Atomic uint64_t given_count; /* requests of the handler whose replies have not left */
    struct doorbell returned;     /* rung when given_count falls while not accepting, if the options
                                     name no doorbell */

    _Atomic uint64_t connections;
    _Atomic uint64_t connections_total;
    _Atomic uint64_t connections_refused;
    _Atomic uint64_t requests_total;
    _Atomic uint64_t bad_messages_total;
    _Atomic uint64_t over_share_total;
    _Atomic uint64_t send_timeouts_total;
    _Atomic uint64_t receive_timeouts_total;
    _Atomic uint64_t bad_frames_total;
    _Atomic uint64_t accept_errors_total;
    _Atomic uint64_t drops_total;
};

/* The path is prepared, the options are checked. As listener_start. */
MUST_CHECK enum status listener_nng_start(const struct listener_options *options,
                                          listener_handler *handler, void *context,
                                          struct listener **listener, const char **reason);
MUST_CHECK enum status listener_native_start(const struct listener_options *options,
                                             listener_handler *handler, void *context,
                                             struct listener **listener, const char **reason);
/* Bytes that it takes at start. */
uint64_t listener_native_memory_size(const struct listener_options *options);

void listener_init(struct listener *listener, const struct listener_ops *ops,
                   const struct listener_options *options, listener_handler *handler,
                   void *context);
/* Requires: every reply has left. */
void listener_deinit(struct listener *listener);

/* A message has come: checks it, answers what is wrong, or gives it to the handler; BUSY if its
 * sender has as many in hand as he may. Of `exchange` all but the header is set. *given tells,
 * before anybody else has the exchange, whether it was counted: listener_give_back is then due once
 * its reply has left, or never will. */
void listener_serve(struct exchange *exchange, bool may_have, bool *given);
void listener_give_back(struct listener *listener);

/* Counters are only ever looked at: no order is needed. */
static inline void listener_count(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}
