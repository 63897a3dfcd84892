/* What is sent, and when: pending calls become messages as far as there are lanes and slots, small
 * writes several in one, and messages become bytes as far as the socket takes them. */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "ipc/libholt/client.h"
#include "ipc/sp.h"

enum {
    JOIN_SIZE_MAX = 128 * 1024, /* bytes of a message of several writes */
    SEND_IOV_COUNT = 16,
};

static void message_send(struct holt *holt, struct message *message)
{
    uint32_t request_id;
    if (message->slot == SLOT_OWN) {
        request_id = SLOT_OWN;
    } else {
        assert(holt->slots[message->slot] == message);
        holt->slot_use[message->slot] += 1;
        request_id = holt->slot_use[message->slot] << SLOT_BITS | message->slot;
    }
    sp_store(message->frame + SP_FRAME_HEADER_SIZE, request_id | sp_request_id_flag,
             SP_REQUEST_ID_SIZE);
    message->state = MESSAGE_SENDING;
    messages_push(&holt->sending, message);
    holt->stats.messages += 1;
}

void connection_flush(struct holt *holt)
{
    while (holt->sending.oldest != NULL && !holt->broken && holt->fd >= 0) {
        struct iovec iov[SEND_IOV_COUNT];
        size_t count = 0;
        size_t skip = holt->sent_size;
        for (struct message *message = holt->sending.oldest;
             message != NULL && count < SEND_IOV_COUNT; message = message->next) {
            iov[count].iov_base = message->frame + skip;
            iov[count].iov_len = message->frame_size - skip;
            count += 1;
            skip = 0;
        }
        const struct msghdr header = {.msg_iov = iov, .msg_iovlen = count};
        const ssize_t result = sendmsg(holt->fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (result < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno != EAGAIN) {
                holt->broken = true;
            }
            return;
        }
        holt->sent_size += (size_t)result;
        while (holt->sending.oldest != NULL &&
               holt->sent_size >= holt->sending.oldest->frame_size) {
            struct message *message = holt->sending.oldest;
            holt->sent_size -= message->frame_size;
            messages_remove(&holt->sending, message);
            message->state = MESSAGE_SENT;
            if (message->slot == SLOT_OWN) {
                message_free(holt, message); /* Its answer is known by its operation. */
            }
        }
    }
}

bool message_send_own(struct holt *holt, uint16_t operation, const void *body, uint32_t body_size)
{
    struct message *message = message_new(holt, operation, 0, body_size);
    if (message == NULL) {
        return false;
    }
    if (body_size > 0) {
        memcpy(message->frame + ENVELOPE_SIZE + PROTOCOL_HEADER_SIZE, body, body_size);
    }
    message_write_header(holt, message);
    message_send(holt, message);
    connection_flush(holt);
    return true;
}

static bool lane_find(const struct holt *holt, int32_t *lane)
{
    for (uint32_t i = 0; i < holt->lane_count; i++) {
        if (!holt->lane_used[i]) {
            *lane = (int32_t)i;
            return true;
        }
    }
    return false;
}

/* How many of the pending writes make the next message. */
static uint32_t joined_count(const struct holt *holt)
{
    const struct call *first = holt->writes.oldest;
    if (!holt->join || !first->joinable || first->alone) {
        return 1;
    }
    uint64_t size_max = holt->hello.batch_size_max;
    if (size_max > JOIN_SIZE_MAX) {
        size_max = JOIN_SIZE_MAX;
    }
    uint64_t event_max = holt->hello.batch_event_max;
    if (holt->session_open && event_max > holt->hello.session_failure_max) {
        event_max = holt->hello.session_failure_max; /* Each caller is owed all of his failures. */
    }
    uint64_t size = 0;
    uint64_t event_count = 0;
    uint32_t count = 0;
    for (const struct call *call = first; call != NULL; call = call->next) {
        if (!call->joinable || call->alone) {
            break;
        }
        size += call->body_size;
        event_count += call->event_count;
        if (event_max > call->event_count_max) {
            event_max = call->event_count_max;
        }
        if (size > size_max || event_count > event_max) {
            break;
        }
        count += 1;
    }
    return count > 0 ? count : 1;
}

/* Of the oldest pending calls. False: no memory. */
static bool message_form(struct holt *holt, struct call_list *pending, uint32_t count, int32_t lane)
{
    uint32_t body_size = 0;
    const struct call *call = pending->oldest;
    for (uint32_t i = 0; i < count; i++) {
        body_size += call->body_size;
        call = call->next;
    }
    struct message *message = message_new(holt, pending->oldest->operation, count, body_size);
    if (message == NULL) {
        return false;
    }
    uint8_t *body = message->frame + ENVELOPE_SIZE + PROTOCOL_HEADER_SIZE;
    uint32_t event_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct call *member = calls_pop(pending);
        assert(member->state == CALL_PENDING);
        message->members[i] = member;
        member->state = CALL_SENT;
        member->message = message;
        member->first_event = event_count;
        event_count += member->event_count;
        if (member->body_size > 0) {
            memcpy(body, member->body, member->body_size);
            body += member->body_size;
        }
    }
    if (count > 1) {
        holt->stats.joined += count;
    }
    message->lane = lane;
    if (lane >= 0) {
        assert(!holt->lane_used[lane]);
        holt->lane_used[lane] = true;
        message->numbered = holt->session_open;
        if (message->numbered) {
            holt->lane_number[lane] += 1;
            message->number = holt->lane_number[lane];
        }
    }
    message_take_slot(holt, message);
    message_write_header(holt, message);
    message_send(holt, message);
    return true;
}

/* The oldest pending call cannot be sent for want of memory. */
static void pending_fail(struct holt *holt, struct call_list *pending)
{
    call_end(holt, calls_pop(pending), HOLT_NO_MEMORY, NULL);
}

static void message_header(const struct message *message, struct request_header *header)
{
    memcpy(header, message->frame + ENVELOPE_SIZE, sizeof *header);
}

/* The deadline in the header of what is sent again; number and body are as they were. */
static void message_again(struct holt *holt, struct message *message)
{
    struct request_header before;
    struct request_header header;
    message_header(message, &before);
    message_write_header(holt, message);
    message_header(message, &header);
    before.deadline_ms = header.deadline_ms;
    memcpy(message->frame + ENVELOPE_SIZE, &before, sizeof before);
}

void client_pump(struct holt *holt)
{
    if (holt->state == CONNECTION_READY && !holt->broken && holt->writes.oldest != NULL &&
        holt->session_wanted && !holt->session_open) {
        session_begin(holt);
    }
    if (holt->state == CONNECTION_READY && !holt->broken) {
        const bool waiting =
            holt->again.oldest != NULL || holt->writes.oldest != NULL || holt->reads.oldest != NULL;
        const uint64_t now = waiting ? now_ns() : 0;
        while (holt->again.oldest != NULL && now >= holt->again_ns &&
               holt->slot_count < SLOT_COUNT) {
            struct message *message = holt->again.oldest;
            messages_remove(&holt->again, message);
            message_take_slot(holt, message);
            message_again(holt, message);
            message_send(holt, message);
            holt->stats.sent_again += 1;
        }
        int32_t lane;
        while (holt->writes.oldest != NULL && now >= holt->writes_ns &&
               holt->slot_count < SLOT_COUNT && lane_find(holt, &lane)) {
            if (!message_form(holt, &holt->writes, joined_count(holt), lane)) {
                pending_fail(holt, &holt->writes);
            }
        }
        while (holt->reads.oldest != NULL && now >= holt->reads_ns &&
               holt->slot_count < SLOT_COUNT) {
            if (!message_form(holt, &holt->reads, 1, -1)) {
                pending_fail(holt, &holt->reads);
            }
        }
    }
    connection_flush(holt);
}
