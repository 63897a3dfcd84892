/* The front-end and the clients behind it, in place of ipc/listener_nng.c.
 *
 * A lane is a client that asks one thing at a time, on a fiber of its own: it makes a request,
 * hands the bytes to the daemon's handler as a transport would, waits for the reply, and compares
 * it with the model. What a reply says counts from the moment the daemon sends it.
 *
 * At the start of a life one lane scans everything before
 * the others may go on: what is there must be the model's state after so many of the writes that
 * were on their way, in their order. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "ipc/protocol.h"

enum {
    SIM_LANE_MAX = 12,
    SIM_SCANNER = SIM_LANE_MAX,  /* the lane that scans; it never writes */
    SIM_REQUEST_MAX = 24 * 1024, /* bytes of a request */
};

/* One lane. What it asked lies here, for it may be asked about in the next life. */
struct sim_lane {
    uint8_t request[SIM_REQUEST_MAX];
    uint32_t request_size;
    uint64_t number;      /* of the request, as sent */
    uint64_t commit_sent; /* front.commit_seen when it was sent */
    uint64_t sent_ns;
    bool pending; /* a write that the daemon has taken in hand, and not spoken of yet */
};

struct sim_front {
    struct sim_lane lanes[SIM_LANE_MAX + 1];
    uint32_t pending[SIM_LANE_MAX]; /* lanes, in the order in which the daemon took their writes */
    uint32_t pending_count;
    uint64_t number_next;
    uint64_t commit_told;    /* highest commit that a reply to a write named */
    uint64_t commit_seen;    /* the same of any reply that has arrived */
    uint32_t remove_weight;  /* this life's inclination */
    uint32_t answered_count; /* in this life */
    uint32_t quota;          /* so many make it done */
};

/* At the start of a life, in the child. */
void sim_front_start(void);
/* Whether the daemon owes anybody a reply. */
bool sim_front_is_waiting(void);
/* Whether this life's quota is reached. */
bool sim_front_is_done(void);
/* Fails when a request has not been answered for far too long. */
void sim_front_check_patience(void);
