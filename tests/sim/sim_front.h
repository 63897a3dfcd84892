/* The front-end, in place of ipc/listener_nng.c and its kin: what simulated clients hand to the
 * daemon, and what it says.
 *
 * A lane is a client that asks one thing at a time. Its request goes as bytes to the daemon's
 * handler, as a transport would hand it over. A reply to a write counts from the moment the daemon
 * sends it: the model follows there, in the order of commits. Replies to reads are compared by who
 * asked (sim_client.h).
 *
 * Half of the writes are numbered, in sessions (sim_session.h). Their frames are now and then
 * doubled, the second one a while later; and what the end of a life leaves without an answer is
 * sent again in the next, the same bytes. Every reply to one number must be the same, and the model
 * takes each number once. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "ipc/listener.h"
#include "tests/sim/sim_model.h"
#include "tests/sim/sim_session.h"

enum {
    SIM_LANE_MAX = 12,
    SIM_SCANNER = SIM_LANE_MAX,  /* the lane that scans; it never writes */
    SIM_REQUEST_MAX = 24 * 1024, /* bytes of a request */
    SIM_ALIGNMENT_MAX = 8,       /* requests reach the daemon at any address */
};

/* One lane. What it asked lies here, for it may be asked about in the next life. */
struct sim_lane {
    uint8_t request[SIM_REQUEST_MAX];
    uint32_t request_size;
    uint64_t number;      /* of the request, as sent */
    uint64_t commit_sent; /* front.commit_seen when it was sent */
    uint64_t sent_ns;
    bool pending; /* a write that the daemon has taken in hand, and not spoken of yet */

    bool unanswered;      /* a numbered write was sent, and nothing definite was said of it */
    bool resent;          /* in another life than at first */
    bool kept;            /* the scan found it done */
    uint64_t told_number; /* the last numbered write that was answered for good... */
    uint64_t told_hash;   /* ... and all bytes of the answer; of a refusal, its result */
    uint64_t executed;    /* number of the last one that the session has executed for it */
    uint32_t kept_failure_count;
    struct event_failure kept_failures[SESSION_FAILURE_MAX]; /* what the model says of a kept one */
};

struct sim_front {
    struct sim_lane lanes[SIM_LANE_MAX + 1];
    struct sim_session sessions[SIM_LANE_MAX];
    uint32_t pending[SIM_LANE_MAX]; /* lanes, in the order in which the daemon took their writes */
    uint32_t pending_count;
    uint64_t number_next;
    uint64_t commit_told;    /* highest commit that a reply to a write named */
    uint64_t commit_seen;    /* the same of any reply that has arrived */
    uint64_t commit_found;   /* what the life began with: higher ones are executed in it */
    uint32_t remove_weight;  /* this life's inclination */
    uint32_t answered_count; /* in this life */
    uint32_t quota;          /* so many make it done */
};

/* One request on its way. It keeps the reply until its lane has read it. */
struct sim_parcel {
    struct exchange exchange; /* First member: exchanges cast back. */
    uint8_t bytes[SIM_REQUEST_MAX + SIM_ALIGNMENT_MAX];
    uint8_t *reply; /* [reply_capacity], kept for the next */
    uint32_t reply_capacity;
    uint32_t reply_size;
    uint32_t lane;
    bool used;
    bool handed; /* to the daemon */
    bool answered;
    bool dropped;
    uint32_t witness_count; /* writes that were pending when it was answered */
    struct {
        uint32_t lane;
        uint64_t number;
    } witnesses[SIM_LANE_MAX];
};

/* Begins a request in the lane; its body is put behind, piece by piece. */
void sim_request_begin(struct sim_lane *lane, uint16_t operation);
void sim_request_put(struct sim_lane *lane, const void *bytes, uint32_t size);
void sim_request_flag(struct sim_lane *lane, uint32_t flags);
/* The request belongs to the lane's session. */
void sim_request_identify(struct sim_lane *lane);
bool sim_is_numbered(const struct sim_lane *lane);
struct request_header sim_request_header(const struct sim_lane *lane);
const uint8_t *sim_request_body(const struct sim_lane *lane);
bool sim_is_write(uint16_t operation);
/* Sends it and waits for the reply, on the lane's fiber. NULL: the daemon is gone. */
struct sim_parcel *sim_ask(struct sim_lane *lane);
struct reply_header sim_reply_header(const struct sim_parcel *parcel);
const uint8_t *sim_reply_body(const struct sim_parcel *parcel);
void sim_parcel_release(struct sim_parcel *parcel);

/* The slot that a groove of this name is; NULL: none of ours. */
struct sim_slot *sim_slot_named(const void *name);
/* Bytes of a section of a write with its payloads. */
uint32_t sim_section_size(const struct wire_section *section, const struct sim_slot *slot);

/* Whether the daemon owes anybody a reply. */
bool sim_front_is_waiting(void);
/* Fails when a request has not been answered for far too long. */
void sim_front_check_patience(void);
/* The request of this exchange was refused for want of space or for damage when the batch that it
 * is in was journaled: it will have no effect, though its reply leaves with the others. */
void sim_front_note_refused(void *exchange);
