/* Answers: which message each is of, and what its calls learn of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/libholt/client.h"
#include "ipc/sp.h"

enum {
    LANE_BUSY_MS = 10,
    PAUSE_MS_MAX = 1000,
};

/* A member's share of the failures of a WRITE, as a body of its own. False: no memory. */
static bool member_failures(struct call *call, struct outcome *outcome, const uint8_t *body,
                            const struct write_reply *write, bool shared)
{
    struct wire_failure failure;
    uint32_t count = 0;
    for (uint32_t i = 0; i < write->failure_count; i++) {
        memcpy(&failure, body + sizeof *write + i * sizeof failure, sizeof failure);
        if (failure.event_index - call->first_event < call->event_count) {
            count += 1;
        }
    }
    outcome->body_size = (uint32_t)(sizeof *write + count * sizeof failure);
    outcome->body = malloc(outcome->body_size);
    if (outcome->body == NULL) {
        return false;
    }
    const struct write_reply own = {.failure_count = count,
                                    .failure_total = shared ? count : write->failure_total};
    memcpy(outcome->body, &own, sizeof own);
    uint8_t *target = outcome->body + sizeof own;
    for (uint32_t i = 0; i < write->failure_count; i++) {
        memcpy(&failure, body + sizeof *write + i * sizeof failure, sizeof failure);
        failure.event_index -= call->first_event;
        if (failure.event_index < call->event_count) {
            memcpy(target, &failure, sizeof failure);
            target += sizeof failure;
        }
    }
    if (own.failure_total > 0) {
        outcome->status = HOLT_FAILURES;
        snprintf(outcome->text, sizeof outcome->text, "%u of %u events failed", own.failure_total,
                 call->event_count);
    }
    return true;
}

/* The answer of a WRITE must be one before anybody is told parts of it. */
static bool write_reply_check(const struct message *message, const uint8_t *body,
                              uint32_t body_size, struct write_reply *write)
{
    if (body_size < sizeof *write) {
        return false;
    }
    memcpy(write, body, sizeof *write);
    const bool shared = message->member_count > 1;
    return write->failure_total >= write->failure_count &&
           (!shared || write->failure_total == write->failure_count) &&
           body_size - sizeof *write ==
               (uint64_t)write->failure_count * sizeof(struct wire_failure);
}

/* OK. False: nonsense, the message is as it was. */
static bool message_answered(struct holt *holt, struct message *message,
                             const struct reply_header *header, const uint8_t *body)
{
    struct write_reply write = {0};
    if (message->operation == OPERATION_WRITE &&
        !write_reply_check(message, body, header->body_size, &write)) {
        return false;
    }
    for (uint32_t i = 0; i < message->member_count; i++) {
        struct call *call = message->members[i];
        if (call == NULL) {
            continue;
        }
        struct outcome *outcome = outcome_of(call);
        outcome_set(outcome, HOLT_OK, NULL);
        outcome->commit = header->commit;
        outcome->timestamp = header->timestamp + call->first_event;
        bool kept = true;
        if (message->operation == OPERATION_WRITE) {
            kept = member_failures(call, outcome, body, &write, message->member_count > 1);
        } else if (header->body_size > 0) {
            outcome->body = malloc(header->body_size);
            outcome->body_size = header->body_size;
            kept = outcome->body != NULL;
            if (kept) {
                memcpy(outcome->body, body, header->body_size);
            }
        }
        if (!kept) {
            outcome_set(outcome, message_is_read(message) ? HOLT_NO_MEMORY : HOLT_UNKNOWN,
                        "no memory for the reply");
        }
        call_finish(holt, call);
    }
    message_free(holt, message);
    return true;
}

/* Not OK. */
static void message_refused(struct holt *holt, struct message *message,
                            const struct reply_header *header, const char *text)
{
    const enum holt_status status = (enum holt_status)header->result;
    uint32_t pause_ms = header->retry_after_ms;
    if (!message_has_members(message) && header->result != RESULT_NO_SESSION) {
        message_free(holt, message);
        return;
    }
    switch (header->result) {
    case RESULT_BUSY:
    case RESULT_SHUTTING_DOWN:
    case RESULT_LANE_BUSY: {
        holt->stats.busy += 1;
        if (pause_ms == 0) {
            pause_ms = LANE_BUSY_MS;
        }
        if (pause_ms > PAUSE_MS_MAX) {
            pause_ms = PAUSE_MS_MAX; /* It holds up everybody. */
        }
        const uint64_t later_ns = now_ns() + pause_ms * NS_PER_MS;
        if (message->lost_count > 0 && header->result != RESULT_LANE_BUSY) {
            message->state = message_has_waiting(message) ? MESSAGE_AGAIN : MESSAGE_PARKED;
            messages_push(message->state == MESSAGE_AGAIN ? &holt->again : &holt->parked, message);
            holt->again_ns = later_ns;
            return;
        }
        if (message_is_read(message)) {
            holt->reads_ns = later_ns;
        } else {
            holt->writes_ns = later_ns;
        }
        message_dissolve(holt, message, status, false);
        return;
    }
    case RESULT_NO_SESSION:
        if (message->numbered) {
            const uint32_t generation = message->generation;
            if (message->lost_count > 0) {
                message_end(holt, message, HOLT_UNKNOWN,
                            "the session ended before the write's outcome was told");
            } else {
                message_dissolve(holt, message, status, false);
            }
            session_lost(holt, generation);
            return;
        }
        break;
    case RESULT_STALE_NUMBER:
        if (message->numbered) {
            const bool current = message->generation == holt->generation;
            message_end(holt, message, message->lost_count > 0 ? HOLT_UNKNOWN : status,
                        "another process uses the same session");
            if (current && holt->state == CONNECTION_READY) {
                session_begin(holt); /* It tells how far the lanes are. */
            }
            return;
        }
        break;
    default:
        if (message->member_count > 1) {
            message_dissolve(holt, message, HOLT_OK, true); /* One may be to blame. */
            return;
        }
        break;
    }
    message_end(holt, message, status, text);
}

bool reply_handle(struct holt *holt, uint32_t request_id, const uint8_t *bytes, size_t size)
{
    struct reply_header header;
    if (!protocol_reply_check(bytes, size, &header)) {
        return false;
    }
    const uint8_t *body = bytes + PROTOCOL_HEADER_SIZE;
    const uint32_t slot = request_id & ((1u << SLOT_BITS) - 1);
    if (slot == SLOT_OWN) {
        if (header.operation == OPERATION_HELLO && holt->state == CONNECTION_HELLO) {
            connection_handle_hello(holt, &header, body);
        } else if (header.operation == OPERATION_OPEN_SESSION &&
                   holt->state == CONNECTION_SESSION) {
            session_handle_reply(holt, &header, body);
        } else if (header.operation == OPERATION_CLOSE_SESSION && holt->closing) {
            holt->session_open = false;
        } else {
            return false;
        }
        return true;
    }
    struct message *message = slot < SLOT_COUNT ? holt->slots[slot] : NULL;
    if (message == NULL || message->state != MESSAGE_SENT || header.number != message->number ||
        header.operation != message->operation ||
        request_id != ((holt->slot_use[slot] << SLOT_BITS | slot) & ~sp_request_id_flag)) {
        return false;
    }
    if (header.result == RESULT_OK) {
        message_leave_slot(holt, message);
        if (!message_answered(holt, message, &header, body)) {
            message_lost(holt, message, true);
            return false;
        }
        return true;
    }
    char text[sizeof((struct holt_error *)0)->text];
    snprintf(text, sizeof text, "%.*s", (int)header.body_size, (const char *)body);
    message_leave_slot(holt, message);
    message_refused(holt, message, &header, text);
    return true;
}
