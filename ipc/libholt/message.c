/* Messages: calls on their way, one or several in each.
 *
 * When is a write's outcome known? `lost_count` counts the sendings that were never answered. While
 * it is 0, an answer that says to come again (BUSY) proves that nothing happened: the message is
 * taken apart, and its calls may form others. From then on the message stays as it is, with its
 * number, until an answer comes. A message that was not sent whole was not sent. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/libholt/client.h"
#include "ipc/sp.h"

bool message_is_read(const struct message *message)
{
    return message->lane < 0;
}

struct message *message_new(struct holt *holt, uint16_t operation, uint32_t member_count,
                            uint32_t body_size)
{
    const size_t members_size = member_count * sizeof(struct call *);
    const uint32_t frame_size = ENVELOPE_SIZE + PROTOCOL_HEADER_SIZE + body_size;
    struct message *message = malloc(sizeof *message + members_size + frame_size);
    if (message == NULL) {
        return NULL;
    }
    *message = (struct message){
        .operation = operation,
        .lane = -1,
        .slot = SLOT_OWN,
        .generation = holt->generation,
        .number = holt->stats.messages + 1,
        .member_count = member_count,
        .frame_size = frame_size,
        .frame = (uint8_t *)message + sizeof *message + members_size,
    };
    sp_frame_header(message->frame, frame_size - SP_FRAME_HEADER_SIZE);
    return message;
}

void message_free(struct holt *holt, struct message *message)
{
    if (message->lane >= 0) {
        assert(holt->lane_used[message->lane]);
        holt->lane_used[message->lane] = false;
    }
    free(message);
}

void message_take_slot(struct holt *holt, struct message *message)
{
    assert(holt->slot_count < SLOT_COUNT);
    uint32_t slot = 0;
    while (holt->slots[slot] != NULL) {
        slot += 1;
    }
    holt->slots[slot] = message;
    holt->slot_count += 1;
    message->slot = slot;
}

void message_leave_slot(struct holt *holt, struct message *message)
{
    if (message->slot != SLOT_OWN) {
        assert(holt->slots[message->slot] == message);
        holt->slots[message->slot] = NULL;
        holt->slot_count -= 1;
    }
}

static uint64_t message_deadline_ns(const struct message *message)
{
    uint64_t deadline_ns = 0;
    for (uint32_t i = 0; i < message->member_count; i++) {
        const struct call *call = message->members[i];
        if (call != NULL && call->state == CALL_SENT && call->deadline_ns > deadline_ns) {
            deadline_ns = call->deadline_ns;
        }
    }
    return deadline_ns;
}

bool message_has_waiting(const struct message *message)
{
    return message_deadline_ns(message) != 0;
}

bool message_has_members(const struct message *message)
{
    for (uint32_t i = 0; i < message->member_count; i++) {
        if (message->members[i] != NULL) {
            return true;
        }
    }
    return false;
}

void message_remove_member(struct message *message, struct call *call)
{
    uint32_t i = 0;
    while (message->members[i] != call) {
        i += 1;
        assert(i < message->member_count);
    }
    message->members[i] = NULL;
    call->message = NULL;
}

void message_write_header(struct holt *holt, struct message *message)
{
    struct request_header header = {
        .magic = PROTOCOL_MAGIC,
        .version = PROTOCOL_VERSION,
        .operation = message->operation,
        .number = message->number,
        .body_size = message->frame_size - ENVELOPE_SIZE - PROTOCOL_HEADER_SIZE,
    };
    const uint64_t deadline_ns = message_deadline_ns(message);
    if (message->member_count > 0 && deadline_ns != DEADLINE_NS_NONE) {
        const uint64_t now = now_ns();
        const uint64_t left_ms = deadline_ns > now ? (deadline_ns - now) / NS_PER_MS : 0;
        header.deadline_ms = left_ms == 0 ? 1 : left_ms > UINT32_MAX ? 0 : (uint32_t)left_ms;
    }
    if (message->numbered) {
        header.lane = (uint32_t)message->lane;
    }
    if (message->numbered || message->operation == OPERATION_OPEN_SESSION ||
        message->operation == OPERATION_CLOSE_SESSION) {
        memcpy(header.client_id, holt->client_id, sizeof header.client_id);
    }
    if (message->member_count == 1 && message->members[0] != NULL && message->members[0]->atomic) {
        header.flags = WIRE_REQUEST_FLAG_ATOMIC;
    }
    memcpy(message->frame + ENVELOPE_SIZE, &header, sizeof header);
}

void message_end(struct holt *holt, struct message *message, enum holt_status status,
                 const char *text)
{
    for (uint32_t i = 0; i < message->member_count; i++) {
        if (message->members[i] != NULL) {
            call_end(holt, message->members[i], status, text);
        }
    }
    message_free(holt, message);
}

void message_dissolve(struct holt *holt, struct message *message, enum holt_status refusal,
                      bool alone)
{
    const bool read = message_is_read(message);
    struct call_list front = {0};
    for (uint32_t i = 0; i < message->member_count; i++) {
        struct call *call = message->members[i];
        if (call == NULL) {
            continue;
        }
        if (call->state == CALL_PARKED) {
            call_end(holt, call, refusal != HOLT_OK ? refusal : HOLT_TIMEOUT, NULL);
            continue;
        }
        assert(call->state == CALL_SENT);
        call->state = CALL_PENDING;
        call->message = NULL;
        call->alone |= alone;
        if (refusal != HOLT_OK) {
            call->refusal = refusal;
        }
        calls_push(&front, call);
    }
    calls_prepend(read ? &holt->reads : &holt->writes, &front);
    message_free(holt, message);
}

void message_lost(struct holt *holt, struct message *message, bool whole)
{
    if (message->member_count == 0 || !message_has_members(message)) {
        message_free(holt, message);
        return;
    }
    if (whole) {
        message->lost_count += 1;
    }
    if (message_is_read(message) || message->lost_count == 0) {
        message_dissolve(holt, message, HOLT_OK, false);
    } else if (!message->numbered) {
        message_end(holt, message, HOLT_UNKNOWN,
                    "the connection was lost before the answer came; without a session a write is "
                    "not sent again");
    } else if (message_has_waiting(message)) {
        message->state = MESSAGE_AGAIN;
        messages_push(&holt->again, message);
    } else {
        message->state = MESSAGE_PARKED;
        messages_push(&holt->parked, message);
    }
}
