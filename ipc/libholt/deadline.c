/* Deadlines: calls end when theirs has passed. */
#include "ipc/libholt/client.h"

/* Why a call that was never sent, or that is only to come again, came to nothing. */
static void pending_expire(struct holt *holt, struct call *call)
{
    if (call->refusal != HOLT_OK) {
        call_end(holt, call, call->refusal, NULL);
    } else if (holt->state != CONNECTION_READY && holt->connect_error.status != HOLT_OK) {
        call_end(holt, call, holt->connect_error.status, holt->connect_error.text);
    } else {
        call_end(holt, call, HOLT_TIMEOUT, NULL);
    }
}

static void pending_scan(struct holt *holt, struct call_list *list, uint64_t now)
{
    struct call_list kept = {0};
    struct call *call;
    while ((call = calls_pop(list)) != NULL) {
        if (now >= call->deadline_ns) {
            pending_expire(holt, call);
        } else {
            holt->scan_ns = min_ns(holt->scan_ns, call->deadline_ns);
            calls_push(&kept, call);
        }
    }
    *list = kept;
}

static void message_scan(struct holt *holt, struct message *message, uint64_t now)
{
    for (uint32_t i = 0; i < message->member_count; i++) {
        struct call *call = message->members[i];
        if (call == NULL || call->state != CALL_SENT) {
            continue;
        }
        if (now < call->deadline_ns) {
            holt->scan_ns = min_ns(holt->scan_ns, call->deadline_ns);
        } else if (message->numbered) {
            call_park(holt, call);
        } else {
            message_remove_member(message, call);
            call_end(holt, call, message_is_read(message) ? HOLT_TIMEOUT : HOLT_UNKNOWN, NULL);
        }
    }
}

void client_scan(struct holt *holt, uint64_t now)
{
    holt->scan_ns = DEADLINE_NS_NONE;
    pending_scan(holt, &holt->writes, now);
    pending_scan(holt, &holt->reads, now);
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        if (holt->slots[i] != NULL) {
            message_scan(holt, holt->slots[i], now);
        }
    }
    struct message_list kept = {0};
    struct message *message;
    while ((message = holt->again.oldest) != NULL) {
        messages_remove(&holt->again, message);
        message_scan(holt, message, now);
        if (message_has_waiting(message)) {
            messages_push(&kept, message);
        } else {
            message->state = MESSAGE_PARKED;
            messages_push(&holt->parked, message);
        }
    }
    holt->again = kept;
}
