/* What a reader may still do with the version it reads, and how much work it may still spend.
 *
 *   INSIDE ───leave───► OUTSIDE ──enter──► INSIDE   the reader, around every block it waits for
 *   INSIDE ───revoke──► ASKED                      it gives up when it looks next
 *   OUTSIDE ──revoke──► TAKEN                      at once: what it read from is gone
 *
 * Why two ways: the writer must not wait for a reader that waits for a disk. While a reader is
 * outside it touches nothing of its version, so the version can be taken from under it; while it is
 * inside it runs on a processor and looks at the ticket every few thousand values.
 *
 * A reader without a ticket (NULL: the writer's own prefetch, the offline verification) is never
 * interrupted. */
#pragma once

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pool/status.h"

enum read_ticket_state {
    READ_TICKET_INSIDE = 0,
    READ_TICKET_OUTSIDE,
    READ_TICKET_ASKED,
    READ_TICKET_TAKEN,
};

/* What a read may do before it asks whether others wait for its thread, and what a key that is
 * looked up counts: a fraction of a millisecond of one processor, but for lists of ids, which are
 * looked up some thousands at once. */
enum { READ_SLICE_SIZE = 256 * 1024, READ_SLICE_KEY_SIZE = 1024 };

struct read_ticket {
    _Atomic uint32_t state; /* enum read_ticket_state */
    uint64_t work_size;     /* bytes looked through so far; the reader's, as the next two */
    uint64_t work_size_max; /* 0: no limit */
    uint64_t slice_size;    /* bytes since it last asked whether somebody waits */
    bool may_not_wait;      /* it gives up instead */
};

static inline void read_ticket_init(struct read_ticket *ticket, uint64_t work_size_max)
{
    atomic_store_explicit(&ticket->state, READ_TICKET_INSIDE, memory_order_relaxed);
    ticket->work_size = 0;
    ticket->work_size_max = work_size_max;
    ticket->slice_size = 0;
    ticket->may_not_wait = false;
}

/* For the thread that must not wait: whoever reads with it is answered from memory, or gives up. */
static inline void read_ticket_init_no_wait(struct read_ticket *ticket)
{
    read_ticket_init(ticket, 0);
    ticket->may_not_wait = true;
}

/* Time to ask. Never without a ticket. */
static inline bool read_ticket_slice_over(const struct read_ticket *ticket)
{
    return ticket != NULL && ticket->slice_size >= READ_SLICE_SIZE;
}

static inline bool read_ticket_change(struct read_ticket *ticket, enum read_ticket_state from,
                                      enum read_ticket_state to)
{
    uint32_t expected = from;
    /* Release: what a leaving reader has read is read before the version goes. Acquire: pairs with
     * it, on the forest thread. */
    return atomic_compare_exchange_strong_explicit(&ticket->state, &expected, to,
                                                   memory_order_acq_rel, memory_order_relaxed);
}

/* The reader, inside, before it looks through `size` more bytes. STATUS_REVOKED: give up, and give
 * the version back. STATUS_BUDGET: the work it may do is spent. */
MUST_CHECK static inline enum status read_ticket_spend(struct read_ticket *ticket, uint64_t size)
{
    if (ticket == NULL) {
        return STATUS_OK;
    }
    const uint32_t state = atomic_load_explicit(&ticket->state, memory_order_relaxed);
    assert(state == READ_TICKET_INSIDE || state == READ_TICKET_ASKED);
    if (state == READ_TICKET_ASKED) {
        return STATUS_REVOKED;
    }
    ticket->work_size += size;
    ticket->slice_size += size;
    return ticket->work_size_max > 0 && ticket->work_size > ticket->work_size_max ? STATUS_BUDGET
                                                                                  : STATUS_OK;
}

/* The reader, inside, before it waits. False: it was asked to give up, or may not wait, and is
 * still inside. */
MUST_CHECK static inline bool read_ticket_leave(struct read_ticket *ticket)
{
    return ticket == NULL || (!ticket->may_not_wait &&
                              read_ticket_change(ticket, READ_TICKET_INSIDE, READ_TICKET_OUTSIDE));
}

/* The reader, outside. False: the version was taken, not a byte of it may be looked at. */
MUST_CHECK static inline bool read_ticket_enter(struct read_ticket *ticket)
{
    return ticket == NULL || read_ticket_change(ticket, READ_TICKET_OUTSIDE, READ_TICKET_INSIDE);
}

/* The forest thread. True: taken; false: the reader was asked, and will give up. */
MUST_CHECK static inline bool read_ticket_revoke(struct read_ticket *ticket)
{
    for (;;) { /* A reader may come and go between the two. */
        if (read_ticket_change(ticket, READ_TICKET_OUTSIDE, READ_TICKET_TAKEN)) {
            return true;
        }
        if (read_ticket_change(ticket, READ_TICKET_INSIDE, READ_TICKET_ASKED)) {
            return false;
        }
    }
}
