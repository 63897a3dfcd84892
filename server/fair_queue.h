/* Requests that wait, and whose turn it is.
 *
 *                  ┌► user ─┬► connection ─► [ oldest ... newest ]
 *   rotation ──────┤        └► connection ─► [ ... ]                 push: behind its connection's
 *   of users       └► user ──► connection ─► [ ... ]                 peek, pop: at whose turn it is
 *
 * Deficit round robin, twice. The users who have something waiting take turns; a turn is worth
 * FAIR_QUEUE_CREDIT. Within a user's turn his connections take turns in the same way. So whoever
 * floods, over however many connections, delays another user by one turn and one request, and
 * another connection of his own likewise. What a request costs is its bytes, but at least cost_min:
 * sixteen small ones make a turn, and one of a megabyte is saved for over sixty-four. Who cannot
 * pay for his next request goes to the end of the rotation and keeps what he has; so nobody
 * starves, and who sends little never waits for all that another one has saved up for.
 *
 * Who comes anew goes to the end with the credit of one turn; who has nothing waiting is forgotten.
 * Why not by time stamps (fair queueing by virtual finish): those who come and go would have to be
 * remembered, or they starve whoever saves. Within a connection the order is kept.
 *
 * All memory is taken at init. One thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "ipc/listener.h"
#include "pool/status.h"

enum {
    FAIR_QUEUE_CREDIT = 16 * 1024,
    FAIR_QUEUE_COST_SMALL = FAIR_QUEUE_CREDIT / 16,
    FAIR_QUEUE_COST_TURN = FAIR_QUEUE_CREDIT,
};

struct fair_flow;

struct fair_rotation {
    struct fair_flow *head, *tail; /* the head's turn it is; NULL: empty */
    uint32_t count;
};

/* A user or a connection that has something waiting. */
struct fair_flow {
    uint32_t key;    /* uid, or peer id */
    uint64_t credit; /* bytes, less than what its next request costs, or less than a turn more */
    struct fair_flow *next;           /* in its rotation, or unused */
    struct fair_rotation connections; /* of a user */
    struct exchange *oldest, *newest; /* of a connection, through exchange.next */
};

struct fair_queue {
    struct fair_flow *flows; /* [2 * count_max], owned */
    struct fair_flow *unused;
    struct fair_rotation users;
    uint32_t cost_min;
    uint32_t count; /* requests, <= count_max */
    uint32_t count_max;
};

/* `cost_min`, 1 to FAIR_QUEUE_CREDIT: what a request costs however small it is.
 * STATUS_NO_MEMORY: nothing to deinit. */
MUST_CHECK enum status fair_queue_init(struct fair_queue *queue, uint32_t count_max,
                                       uint32_t cost_min);
/* Requires: empty. Of zeros: does nothing. */
void fair_queue_deinit(struct fair_queue *queue);

/* Requires: count < count_max. */
void fair_queue_push(struct fair_queue *queue, struct exchange *exchange);

/* Whose turn it is; NULL: nobody waits. The same one until it is popped or passed, whoever comes
 * meanwhile. */
struct exchange *fair_queue_peek(struct fair_queue *queue);

/* Ends the turn of the user whose turn it is, who keeps what he has left: he cannot be served now.
 * Requires: not empty. */
void fair_queue_pass(struct fair_queue *queue);

/* Takes out what fair_queue_peek says. Requires: not empty. */
struct exchange *fair_queue_pop(struct fair_queue *queue);
