/* The session: its id, when it opens, and what becomes of its writes when it is gone. */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "ipc/libholt/client.h"

/* Numbers of a session that an earlier process used begin so far behind the last executed one that
 * none of those can be which that process had under way. */
#define LANE_NUMBER_GAP (UINT64_C(1) << 20)

void session_begin(struct holt *holt)
{
    const struct open_session_request request = {.lane_count = holt->lane_count_wanted};
    assert(holt->state == CONNECTION_READY || holt->state == CONNECTION_HELLO);
    holt->state = CONNECTION_SESSION;
    holt->handshake_deadline_ns = now_ns() + HANDSHAKE_MS * NS_PER_MS;
    if (!message_send_own(holt, OPERATION_OPEN_SESSION, &request, sizeof request)) {
        holt->broken = true; /* No memory: another time. Who receives will hang up. */
    }
}

bool session_choose_id(struct holt *holt)
{
    holt->session_old = false;
    memset(holt->lane_number, 0, sizeof holt->lane_number);
    return getrandom(holt->client_id, sizeof holt->client_id, 0) == (ssize_t)sizeof holt->client_id;
}

void session_lost(struct holt *holt, uint32_t generation)
{
    if (generation != holt->generation) {
        return; /* It has a successor already. */
    }
    holt->generation += 1;
    holt->session_open = false;
    holt->session_kept = false;
    if (!session_choose_id(holt)) {
        connection_fail(holt, HOLT_SYSTEM, "no random numbers");
    }
}

void session_void(struct holt *holt)
{
    holt->session_open = false;
    struct message *message;
    while ((message = holt->again.oldest) != NULL) {
        messages_remove(&holt->again, message);
        message_end(holt, message, HOLT_UNKNOWN, "the daemon has no sessions any more");
    }
    while ((message = holt->parked.oldest) != NULL) {
        messages_remove(&holt->parked, message);
        message_end(holt, message, HOLT_UNKNOWN, "the daemon has no sessions any more");
    }
}

/* There is to be no session, so no write can be sent. */
static void session_refused(struct holt *holt, enum holt_status status, const char *text)
{
    if (holt->opening) {
        connection_refuse(holt, status, text);
        return;
    }
    struct call *call;
    while ((call = calls_pop(&holt->writes)) != NULL) {
        call_end(holt, call, status, text);
    }
    connection_ready(holt);
}

void session_handle_reply(struct holt *holt, const struct reply_header *header, const uint8_t *body)
{
    if (header->result == RESULT_BUSY || header->result == RESULT_SHUTTING_DOWN) {
        connection_fail(holt, HOLT_NO_DAEMON, result_text(header->result));
        return;
    }
    if (header->result != RESULT_OK) {
        char text[sizeof((struct holt_error *)0)->text];
        snprintf(text, sizeof text, "no session: %.*s", (int)header->body_size, (const char *)body);
        session_refused(holt, (enum holt_status)header->result, text);
        return;
    }
    struct session_reply session;
    if (header->body_size < sizeof session) {
        connection_refuse(holt, HOLT_NOT_HOLT, NULL);
        return;
    }
    memcpy(&session, body, sizeof session);
    if (session.lane_count == 0 || session.lane_count > WIRE_LANE_COUNT_MAX ||
        header->body_size != sizeof session + session.lane_count * sizeof(uint64_t)) {
        connection_refuse(holt, HOLT_NOT_HOLT, NULL);
        return;
    }
    for (uint32_t i = 0; i < session.lane_count; i++) {
        uint64_t number;
        memcpy(&number, body + sizeof session + i * sizeof number, sizeof number);
        if (holt->session_old) {
            number += LANE_NUMBER_GAP;
        }
        if (number > holt->lane_number[i]) {
            holt->lane_number[i] = number;
        }
    }
    holt->session_old = false;
    holt->session_open = true;
    holt->lane_count = holt->lane_count_wanted;
    if (holt->lane_count > session.lane_count) {
        holt->lane_count = session.lane_count;
    }
    connection_ready(holt);
}
