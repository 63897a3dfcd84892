/* Calls: what callers wait for. A thread that calls sends what it has just asked for itself and, if
 * nobody else does, receives while it waits: the way through another thread would cost more than
 * all the rest. */
#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "ipc/libholt/client.h"

static bool operation_writes(uint16_t operation)
{
    return operation == OPERATION_WRITE || operation == OPERATION_CREATE_GROOVE ||
           operation == OPERATION_DROP_GROOVE;
}

void outcome_clear(struct outcome *outcome)
{
    free(outcome->body);
    *outcome = (struct outcome){0};
}

void outcome_set(struct outcome *outcome, enum holt_status status, const char *text)
{
    outcome_clear(outcome);
    outcome->status = status;
    snprintf(outcome->text, sizeof outcome->text, "%s",
             text != NULL && text[0] != 0 ? text : holt_status_text(status));
}

struct outcome *outcome_of(struct call *call)
{
    return call->state == CALL_PARKED ? &call->late : &call->outcome;
}

/* Its outcome is set: on to whoever waits for it. */
static void call_tell(struct holt *holt, struct call *call)
{
    assert(call->lent);
    assert(holt->call_count > 0);
    holt->call_count -= 1;
    if (call->done != NULL) {
        calls_push(&holt->done, call);
        client_wake(holt);
    } else {
        call->lent = false;
        pthread_cond_signal(&call->changed);
    }
}

void call_finish(struct holt *holt, struct call *call)
{
    call->message = NULL;
    if (call->state == CALL_PARKED) {
        call->state = CALL_RESOLVED;
        return;
    }
    assert(call->state == CALL_PENDING || call->state == CALL_SENT);
    call->state = CALL_DONE;
    call_tell(holt, call);
}

void call_end(struct holt *holt, struct call *call, enum holt_status status, const char *text)
{
    outcome_set(outcome_of(call), status, text);
    call_finish(holt, call);
}

void call_park(struct holt *holt, struct call *call)
{
    assert(call->state == CALL_SENT);
    assert(call->message != NULL);
    outcome_set(&call->outcome, HOLT_UNKNOWN, NULL);
    call->state = CALL_PARKED;
    call_tell(holt, call);
}

bool call_init(struct call *call, struct holt *holt, bool counted)
{
    *call = (struct call){.holt = holt, .counted = counted};
    if (pthread_cond_init(&call->changed, NULL) != 0) {
        return false;
    }
    if (counted) {
        pthread_mutex_lock(&holt->mutex);
        holt->reference_count += 1;
        pthread_mutex_unlock(&holt->mutex);
    }
    return true;
}

/* What is left of a message that lost a member. */
static void message_tidy(struct holt *holt, struct message *message)
{
    if (message_has_members(message)) {
        return;
    }
    if (message->state == MESSAGE_AGAIN || message->state == MESSAGE_PARKED) {
        messages_remove(message->state == MESSAGE_AGAIN ? &holt->again : &holt->parked, message);
        message_free(holt, message);
    }
}

void call_forget(struct call *call)
{
    struct holt *holt = call->holt;
    pthread_mutex_lock(&holt->mutex);
    assert(!call->lent); /* It was submitted, and has not come back. */
    if (call->state == CALL_PARKED) {
        struct message *message = call->message;
        message_remove_member(message, call);
        message_tidy(holt, message);
        if (holt->writes.oldest != NULL) {
            client_wake(holt); /* There may be a lane for it now. */
        }
    }
    call->state = CALL_IDLE;
    outcome_clear(&call->late);
    pthread_mutex_unlock(&holt->mutex);
}

void call_deinit(struct call *call)
{
    struct holt *holt = call->holt;
    if (client_check(holt, NULL) != HOLT_OK) {
        outcome_clear(&call->outcome); /* In the child of a fork the mutex may be anybody's. */
        return;
    }
    call_forget(call);
    outcome_clear(&call->outcome);
    pthread_cond_destroy(&call->changed);
    if (call->counted) {
        client_release(holt);
    }
}

static void call_set_deadline(struct holt *holt, struct call *call, uint32_t deadline_ms)
{
    if (deadline_ms == 0) {
        deadline_ms = holt->deadline_ms;
    }
    call->deadline_ns =
        deadline_ms == HOLT_DEADLINE_NONE ? DEADLINE_NS_NONE : now_ns() + deadline_ms * NS_PER_MS;
    holt->scan_ns = min_ns(holt->scan_ns, call->deadline_ns);
}

/* Sends what can be sent, on the caller's thread; the client's has to see to the rest. Not from a
 * callback: when all that are due have been called, the client's thread sends what they submitted,
 * together. */
static void pump_and_wake(struct holt *holt)
{
    if (client_on_own_thread(holt)) {
        return;
    }
    client_pump(holt);
    if (holt->state != CONNECTION_READY || holt->sending.oldest != NULL || holt->broken ||
        client_next_ns(holt) < holt->poll_ns) {
        client_wake(holt);
    }
}

/* Whether the thread that waits for `call` may receive: what it sent is on its way, and nobody else
 * does. */
static bool may_receive(const struct holt *holt, const struct call *call)
{
    return call->lent && call->state == CALL_SENT && holt->receiver == RECEIVER_NOBODY &&
           holt->state == CONNECTION_READY && holt->sending.oldest == NULL && !holt->broken &&
           !holt->closing;
}

struct call *call_heir(const struct holt *holt)
{
    struct call *call = holt->waiter_oldest;
    while (call != NULL && !may_receive(holt, call)) {
        call = call->waiter_newer;
    }
    return call;
}

/* Sees to it that somebody receives, if there is something to come. */
static void see_to_answers(struct holt *holt)
{
    if (holt->receiver == RECEIVER_NOBODY && holt->slot_count > 0) {
        struct call *heir = call_heir(holt);
        if (heir != NULL) {
            pthread_cond_signal(&heir->changed);
        } else {
            client_wake(holt);
        }
    }
}

/* The caller's thread sleeps until its call has come, or until it is to receive. */
static void sleep_on(struct holt *holt, struct call *call)
{
    see_to_answers(holt);
    call->waiter_newer = NULL;
    call->waiter_older = holt->waiter_newest;
    if (call->waiter_older != NULL) {
        call->waiter_older->waiter_newer = call;
    } else {
        holt->waiter_oldest = call;
    }
    holt->waiter_newest = call;
    pthread_cond_wait(&call->changed, &holt->mutex);
    if (call->waiter_older != NULL) {
        call->waiter_older->waiter_newer = call->waiter_newer;
    } else {
        holt->waiter_oldest = call->waiter_newer;
    }
    if (call->waiter_newer != NULL) {
        call->waiter_newer->waiter_older = call->waiter_older;
    } else {
        holt->waiter_newest = call->waiter_older;
    }
}

/* Under the mutex. */
static enum holt_status call_begin(struct holt *holt, struct call *call,
                                   void (*done)(struct call *call), uint32_t deadline_ms,
                                   struct holt_error *error)
{
    if (call->state != CALL_IDLE || call->lent) {
        return error_set(error, HOLT_IN_USE, NULL);
    }
    if (holt->closing || holt->closed) {
        return error_set(error, HOLT_CLOSED, NULL);
    }
    if (holt->call_count >= holt->request_count_max) {
        return error_set(error, HOLT_QUEUE_FULL, NULL);
    }
    outcome_clear(&call->outcome);
    call->done = done;
    call->state = CALL_PENDING;
    call->lent = true;
    call->alone = false;
    call->refusal = HOLT_OK;
    call->first_event = 0;
    call_set_deadline(holt, call, deadline_ms);
    holt->call_count += 1;
    holt->stats.calls += 1;
    calls_push(operation_writes(call->operation) ? &holt->writes : &holt->reads, call);
    pump_and_wake(holt);
    return HOLT_OK;
}

enum holt_status call_submit(struct call *call, void (*done)(struct call *call),
                             uint32_t deadline_ms, struct holt_error *error)
{
    struct holt *holt = call->holt;
    assert(done != NULL);
    enum holt_status status = client_check(holt, error);
    if (status != HOLT_OK) {
        return status;
    }
    pthread_mutex_lock(&holt->mutex);
    status = call_begin(holt, call, done, deadline_ms, error);
    if (status == HOLT_OK) {
        see_to_answers(holt);
    }
    pthread_mutex_unlock(&holt->mutex);
    return status;
}

/* Waits for the next answer, whosoever it is, or until the call's deadline. */
static void receive_once(struct holt *holt, const struct call *call)
{
    struct pollfd fds[2] = {{.fd = holt->fd, .events = POLLIN},
                            {.fd = holt->kick_fd, .events = POLLIN}};
    const uint64_t deadline_ns = call->deadline_ns;
    const int timeout_ms = timeout_ms_until(deadline_ns);
    assert(holt->receiver == RECEIVER_NOBODY);
    holt->receiver = RECEIVER_CALLER;
    pthread_mutex_unlock(&holt->mutex);
    const int count = poll(fds, 2, timeout_ms);
    pthread_mutex_lock(&holt->mutex);
    assert(holt->receiver == RECEIVER_CALLER);
    holt->receiver = RECEIVER_NOBODY;
    if (count > 0 && fds[1].revents != 0) {
        event_drain(holt->kick_fd);
    }
    if (holt->closing) {
        pthread_cond_broadcast(&holt->changed);
        return;
    }
    if (count > 0 && fds[0].revents != 0) {
        connection_receive(holt);
    }
    const uint64_t now = now_ns();
    if (now >= deadline_ns) {
        client_scan(holt, now);
    }
    pump_and_wake(holt);
}

/* Until the call has come. Gives up the mutex for good. */
static enum holt_status wait_and_unlock(struct holt *holt, struct call *call,
                                        struct holt_error *error)
{
    while (call->lent) {
        if (may_receive(holt, call)) {
            receive_once(holt, call);
        } else {
            sleep_on(holt, call);
        }
    }
    if (call->state == CALL_DONE) {
        call->state = CALL_IDLE;
    }
    see_to_answers(holt);
    pthread_mutex_unlock(&holt->mutex);
    if (call->outcome.status != HOLT_OK) {
        error_set(error, call->outcome.status, "%s", call->outcome.text);
    }
    return call->outcome.status;
}

/* Whether the caller may wait here. */
static enum holt_status wait_check(const struct holt *holt, struct holt_error *error)
{
    const enum holt_status status = client_check(holt, error);
    if (status == HOLT_OK && client_on_own_thread(holt)) {
        return error_set(error, HOLT_BAD_ARGUMENT, "a callback must not wait");
    }
    return status;
}

enum holt_status call_run(struct call *call, uint32_t deadline_ms, struct holt_error *error)
{
    struct holt *holt = call->holt;
    enum holt_status status = wait_check(holt, error);
    if (status != HOLT_OK) {
        return status;
    }
    pthread_mutex_lock(&holt->mutex);
    status = call_begin(holt, call, NULL, deadline_ms, error);
    if (status != HOLT_OK) {
        pthread_mutex_unlock(&holt->mutex);
        return status;
    }
    return wait_and_unlock(holt, call, error);
}

enum holt_status call_resolve(struct call *call, uint32_t deadline_ms, struct holt_error *error)
{
    struct holt *holt = call->holt;
    const enum holt_status status = wait_check(holt, error);
    if (status != HOLT_OK) {
        return status;
    }
    pthread_mutex_lock(&holt->mutex);
    if (call->lent) {
        pthread_mutex_unlock(&holt->mutex);
        return error_set(error, HOLT_IN_USE, NULL);
    }
    call->done = NULL;
    if (call->state == CALL_PARKED) {
        struct message *message = call->message;
        call->state = CALL_SENT;
        call->lent = true;
        holt->call_count += 1;
        call_set_deadline(holt, call, deadline_ms);
        if (message->state == MESSAGE_PARKED) {
            messages_remove(&holt->parked, message);
            message->state = MESSAGE_AGAIN;
            messages_push(&holt->again, message);
        }
        pump_and_wake(holt);
    } else if (call->state == CALL_RESOLVED) {
        outcome_clear(&call->outcome);
        call->outcome = call->late;
        call->late = (struct outcome){0};
        call->state = CALL_IDLE;
    }
    return wait_and_unlock(holt, call, error);
}
