/* What the parts of dispatch share: dispatch.c takes requests and answers what needs no I/O,
 * dispatch_write.c and dispatch_read.c submit the others. */
#pragma once

#include "server/dispatch.h"
#include "server/fair_queue.h"
#include "server/reply.h"

/* Takes out whose turn it is: from here on it does not wait. */
struct exchange *dispatch_pop(struct dispatch *dispatch, struct fair_queue *waiting);
/* Answers with `result`, which is not OK, and a text for people (NULL: result_text). */
void dispatch_refuse(struct dispatch *dispatch, struct exchange *exchange, enum result result,
                     const char *text);
/* CLOCK_MONOTONIC; 0: none. */
uint64_t dispatch_deadline_of(const struct exchange *exchange);
bool dispatch_is_expired(const struct dispatch *dispatch, const struct exchange *exchange);

/* Whether more than one user has asked for something within a second. */
bool dispatch_several_ask(const struct dispatch *dispatch);

/* Return whether the write, or read, whose turn it is went anywhere. */
bool dispatch_submit_write(struct dispatch *dispatch);
bool dispatch_submit_read(struct dispatch *dispatch);
