/* The client itself: connection, session, calls and messages. All of it runs under one mutex, on
 * the client's thread or on that of a caller, who sends what he has just asked for himself and, if
 * nobody else does, receives while he waits: the way through another thread would cost more than
 * all the rest. The client's thread connects, keeps the deadlines, calls back, and receives when no
 * caller does.
 *
 * When is a write's outcome known? `lost_count` counts the sendings that were never answered. While
 * it is 0, an answer that says to come again (BUSY) proves that nothing happened: the message is
 * taken apart, and its calls may form others. From then on the message stays as it is, with its
 * number, until an answer comes. A message that was not sent whole was not sent. */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "ipc/libholt/internal.h"
#include "ipc/sp.h"

enum {
    BACKOFF_MS_MIN = 5,
    BACKOFF_MS_MAX = 500,
    HANDSHAKE_MS = 5000,
    CLOSE_SESSION_MS = 1000,
    LANE_BUSY_MS = 10,
    PAUSE_MS_MAX = 1000,
    ENVELOPE_SIZE = SP_FRAME_HEADER_SIZE + SP_REQUEST_ID_SIZE,
    BUFFER_SIZE_MIN = 64 * 1024,
    MESSAGE_SIZE_MAX_FIRST = 64 * 1024, /* until HELLO told */
    MESSAGE_SIZE_MAX_LEAST = 4096,      /* a groove's description fits */
    JOIN_SIZE_MAX = 128 * 1024,         /* bytes of a message of several writes */
    SEND_IOV_COUNT = 16,
    SLOT_BITS = 8,
    SLOT_OWN = 255, /* of HELLO and the like, which have none */
};
static_assert((int)SLOT_COUNT < (int)SLOT_OWN, "fits the request id");

/* Numbers of a session that an earlier process used begin so far behind the last executed one that
 * none of those can be which that process had under way. */
#define LANE_NUMBER_GAP (UINT64_C(1) << 20)

static const uint64_t ns_per_ms = 1000000;

enum holt_status error_set(struct holt_error *error, enum holt_status status, const char *format,
                           ...)
{
    if (error == NULL) {
        return status;
    }
    error->status = status;
    if (format == NULL) {
        snprintf(error->text, sizeof error->text, "%s", holt_status_text(status));
        return status;
    }
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    return status;
}

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static uint64_t min_ns(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void outcome_clear(struct outcome *outcome)
{
    free(outcome->body);
    *outcome = (struct outcome){0};
}

enum holt_status client_check(const struct holt *holt, struct holt_error *error)
{
    return holt->pid == getpid() ? HOLT_OK : error_set(error, HOLT_FORKED, NULL);
}

/* ---- Lists -------------------------------------------------------------------------------------
 */

static void calls_push(struct call_list *list, struct call *call)
{
    call->next = NULL;
    if (list->oldest == NULL) {
        list->oldest = call;
    } else {
        list->newest->next = call;
    }
    list->newest = call;
}

static struct call *calls_pop(struct call_list *list)
{
    struct call *call = list->oldest;
    if (call != NULL) {
        list->oldest = call->next;
        call->next = NULL;
    }
    return call;
}

/* All of `front` before all of `list`. */
static void calls_prepend(struct call_list *list, struct call_list *front)
{
    if (front->oldest == NULL) {
        return;
    }
    if (list->oldest == NULL) {
        *list = *front;
    } else {
        front->newest->next = list->oldest;
        list->oldest = front->oldest;
    }
    *front = (struct call_list){0};
}

static void messages_push(struct message_list *list, struct message *message)
{
    message->next = NULL;
    if (list->oldest == NULL) {
        list->oldest = message;
    } else {
        list->newest->next = message;
    }
    list->newest = message;
}

static void messages_remove(struct message_list *list, struct message *message)
{
    struct message *before = NULL;
    for (struct message *at = list->oldest; at != message; at = at->next) {
        assert(at != NULL);
        before = at;
    }
    if (before == NULL) {
        list->oldest = message->next;
    } else {
        before->next = message->next;
    }
    if (list->newest == message) {
        list->newest = before;
    }
    message->next = NULL;
}

/* ---- Waking ------------------------------------------------------------------------------------
 */

static bool on_own_thread(const struct holt *holt)
{
    return pthread_equal(pthread_self(), holt->thread);
}

static void wake(struct holt *holt)
{
    if (!on_own_thread(holt)) {
        const uint64_t one = 1;
        /* Full means that it will wake up anyhow. */
        while (write(holt->wake_fd, &one, sizeof one) < 0 && errno == EINTR) {
        }
    }
}

/* ---- Calls that end ----------------------------------------------------------------------------
 */

static bool operation_writes(uint16_t operation)
{
    return operation == OPERATION_WRITE || operation == OPERATION_CREATE_GROOVE ||
           operation == OPERATION_DROP_GROOVE;
}

static void outcome_set(struct outcome *outcome, enum holt_status status, const char *text)
{
    outcome_clear(outcome);
    outcome->status = status;
    snprintf(outcome->text, sizeof outcome->text, "%s",
             text != NULL && text[0] != 0 ? text : holt_status_text(status));
}

/* Where the outcome of a call goes: what its caller was told must not change behind his back. */
static struct outcome *outcome_of(struct call *call)
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
        wake(holt);
    } else {
        call->lent = false;
        pthread_cond_signal(&call->changed);
    }
}

/* The call is in no list any more, and in no message, and its outcome is set. */
static void call_finish(struct holt *holt, struct call *call)
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

static void call_end(struct holt *holt, struct call *call, enum holt_status status,
                     const char *text)
{
    outcome_set(outcome_of(call), status, text);
    call_finish(holt, call);
}

/* Its caller is told UNKNOWN; the call remains a member of its message. */
static void call_park(struct holt *holt, struct call *call)
{
    assert(call->state == CALL_SENT);
    assert(call->message != NULL);
    outcome_set(&call->outcome, HOLT_UNKNOWN, NULL);
    call->state = CALL_PARKED;
    call_tell(holt, call);
}

/* ---- Messages ----------------------------------------------------------------------------------
 */

static bool message_is_read(const struct message *message)
{
    return message->lane < 0;
}

static void message_header(const struct message *message, struct request_header *header)
{
    memcpy(header, message->frame + ENVELOPE_SIZE, sizeof *header);
}

static void message_free(struct holt *holt, struct message *message)
{
    if (message->lane >= 0) {
        assert(holt->lane_used[message->lane]);
        holt->lane_used[message->lane] = false;
    }
    free(message);
}

static void message_leave_slot(struct holt *holt, struct message *message)
{
    if (message->slot != SLOT_OWN) {
        assert(holt->slots[message->slot] == message);
        holt->slots[message->slot] = NULL;
        holt->slot_count -= 1;
    }
}

/* With room for `member_count` members and a body, whose envelope and header are written, but for
 * the request id. NULL: no memory. */
static struct message *message_new(struct holt *holt, uint16_t operation, uint32_t member_count,
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

/* The header again, with what is left until the deadline. */
static void message_write_header(struct holt *holt, struct message *message)
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
        const uint64_t left_ms = deadline_ns > now ? (deadline_ns - now) / ns_per_ms : 0;
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

/* There must be one. */
static void message_take_slot(struct holt *holt, struct message *message)
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

/* Ends all its calls in one way, and the message. It is in no list. */
static void message_end(struct holt *holt, struct message *message, enum holt_status status,
                        const char *text)
{
    for (uint32_t i = 0; i < message->member_count; i++) {
        if (message->members[i] != NULL) {
            call_end(holt, message->members[i], status, text);
        }
    }
    message_free(holt, message);
}

/* Nothing of it happened: its calls are as if it had never been. It is in no list. `refusal`: what
 * callers learn whose deadline comes before another answer. */
static void message_dissolve(struct holt *holt, struct message *message, enum holt_status refusal,
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

static bool message_has_waiting(const struct message *message)
{
    return message_deadline_ns(message) != 0;
}

static bool message_has_members(const struct message *message)
{
    for (uint32_t i = 0; i < message->member_count; i++) {
        if (message->members[i] != NULL) {
            return true;
        }
    }
    return false;
}

static void message_remove_member(struct message *message, struct call *call)
{
    uint32_t i = 0;
    while (message->members[i] != call) {
        i += 1;
        assert(i < message->member_count);
    }
    message->members[i] = NULL;
    call->message = NULL;
}

/* Its answer will not come: the connection is gone. It is in no list and has no slot. `whole`: it
 * may have been received. */
static void message_lost(struct holt *holt, struct message *message, bool whole)
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

/* ---- Sending -----------------------------------------------------------------------------------
 */

/* Writes to the socket what it takes. */
static void flush(struct holt *holt)
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

/* HELLO and the like: no call waits for these. */
static bool send_own(struct holt *holt, uint16_t operation, const void *body, uint32_t body_size)
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
    flush(holt);
    return true;
}

static void session_begin(struct holt *holt)
{
    const struct open_session_request request = {.lane_count = holt->lane_count_wanted};
    assert(holt->state == CONNECTION_READY || holt->state == CONNECTION_HELLO);
    holt->state = CONNECTION_SESSION;
    holt->handshake_deadline_ns = now_ns() + HANDSHAKE_MS * ns_per_ms;
    if (!send_own(holt, OPERATION_OPEN_SESSION, &request, sizeof request)) {
        holt->broken = true; /* No memory: another time. Who receives will hang up. */
    }
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

/* Sends what may be sent now. */
static void pump(struct holt *holt)
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
    flush(holt);
}

/* ---- Connection --------------------------------------------------------------------------------
 */

static bool is_connected(const struct holt *holt)
{
    return holt->state == CONNECTION_READY;
}

/* There is no connection, and this is why. `status` HOLT_OK: keeps the reason there was. */
static void disconnect(struct holt *holt, enum holt_status status, const char *text)
{
    if (holt->fd >= 0) {
        close(holt->fd);
    }
    const bool was_ready = is_connected(holt);
    holt->fd = -1;
    holt->broken = false;
    holt->state = CONNECTION_NONE;
    holt->start = 0;
    holt->end = 0;
    error_set(&holt->connect_error, status, text != NULL ? "%s" : NULL, text);
    const uint64_t now = now_ns();
    holt->backoff_ms = was_ready || holt->backoff_ms == 0 ? BACKOFF_MS_MIN : 2 * holt->backoff_ms;
    if (holt->backoff_ms > BACKOFF_MS_MAX) {
        holt->backoff_ms = BACKOFF_MS_MAX;
    }
    holt->connect_ns = was_ready ? now : now + holt->backoff_ms * ns_per_ms;

    while (holt->sending.oldest != NULL) {
        struct message *message = holt->sending.oldest;
        messages_remove(&holt->sending, message);
        if (message->slot == SLOT_OWN) {
            message_free(holt, message);
        }
    }
    holt->sent_size = 0;
    /* From the last slot to the first, for those that are taken apart go to the front. */
    for (uint32_t i = SLOT_COUNT; i-- > 0;) {
        struct message *message = holt->slots[i];
        if (message != NULL) {
            message_leave_slot(holt, message);
            message_lost(holt, message, message->state == MESSAGE_SENT);
        }
    }
    assert(holt->slot_count == 0);
}

static void connection_failed(struct holt *holt, enum holt_status status, const char *text)
{
    char words[sizeof holt->connect_error.text];
    snprintf(words, sizeof words, "%.107s: %.380s", holt->address.sun_path,
             text != NULL ? text : holt_status_text(status));
    disconnect(holt, status, words);
}

static enum holt_status connect_status(int error)
{
    switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ELOOP:
    case ECONNREFUSED:
    case EAGAIN: /* The daemon's queue of connections is full. */
        return HOLT_NO_DAEMON;
    case EACCES:
    case EPERM:
        return HOLT_PERMISSION;
    case EPROTOTYPE:
        return HOLT_NOT_HOLT;
    default:
        return HOLT_SYSTEM;
    }
}

static void connect_begin(struct holt *holt)
{
    assert(holt->state == CONNECTION_NONE);
    holt->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (holt->fd < 0) {
        connection_failed(holt, HOLT_SYSTEM, strerror(errno));
        return;
    }
    int result;
    do {
        result = connect(holt->fd, (const struct sockaddr *)&holt->address, sizeof holt->address);
    } while (result != 0 && errno == EINTR);
    if (result != 0) {
        const enum holt_status status = connect_status(errno);
        connection_failed(holt, status, status == HOLT_NO_DAEMON ? NULL : strerror(errno));
        return;
    }
    /* A new socket has room for so little. */
    if (send(holt->fd, sp_greeting_request, SP_GREETING_SIZE, MSG_NOSIGNAL) != SP_GREETING_SIZE) {
        connection_failed(holt, HOLT_NO_DAEMON, NULL);
        return;
    }
    holt->state = CONNECTION_GREETING;
    holt->handshake_deadline_ns = now_ns() + HANDSHAKE_MS * ns_per_ms;
    holt->stats.connections += 1;
    if (!send_own(holt, OPERATION_HELLO, NULL, 0)) {
        connection_failed(holt, HOLT_NO_MEMORY, NULL);
    }
}

static void connection_ready(struct holt *holt)
{
    holt->state = CONNECTION_READY;
    holt->backoff_ms = 0;
    if (holt->opening) {
        holt->opening = false;
        pthread_cond_broadcast(&holt->changed);
    }
}

/* Opening will not succeed by trying again. */
static void open_fail(struct holt *holt, enum holt_status status, const char *text)
{
    connection_failed(holt, status, text);
    if (holt->opening) {
        holt->open_deadline_ns = 0;
    }
}

static bool session_id_new(struct holt *holt)
{
    holt->session_old = false;
    memset(holt->lane_number, 0, sizeof holt->lane_number);
    return getrandom(holt->client_id, sizeof holt->client_id, 0) == (ssize_t)sizeof holt->client_id;
}

/* The daemon does not know the session, and never will again. */
static void session_lost(struct holt *holt, uint32_t generation)
{
    if (generation != holt->generation) {
        return; /* It has a successor already. */
    }
    holt->generation += 1;
    holt->session_open = false;
    holt->session_kept = false;
    if (!session_id_new(holt)) {
        connection_failed(holt, HOLT_SYSTEM, "no random numbers");
    }
}

/* The daemon has no sessions any more, but there are writes that only a session can bring to an
 * end. */
static void session_void(struct holt *holt)
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

static void handle_hello(struct holt *holt, const struct reply_header *header, const uint8_t *body)
{
    if (header->version != PROTOCOL_VERSION || header->result == RESULT_BAD_VERSION) {
        char words[100];
        snprintf(words, sizeof words, "the daemon speaks version %u of the protocol, not %u",
                 header->version, PROTOCOL_VERSION);
        open_fail(holt, HOLT_NOT_HOLT, words);
        return;
    }
    if (header->result != RESULT_OK) { /* BUSY, or stopping */
        connection_failed(holt, HOLT_NO_DAEMON, result_text(header->result));
        return;
    }
    struct hello_reply hello;
    if (header->body_size != sizeof hello) {
        open_fail(holt, HOLT_NOT_HOLT, NULL);
        return;
    }
    memcpy(&hello, body, sizeof hello);
    if (hello.message_size_max < MESSAGE_SIZE_MAX_LEAST ||
        hello.batch_size_max > hello.message_size_max) {
        open_fail(holt, HOLT_NOT_HOLT, NULL);
        return;
    }
    hello.version[sizeof hello.version - 1] = 0;
    holt->hello = hello;
    const bool sessions = (hello.features & WIRE_FEATURE_SESSIONS) != 0;
    if (!sessions) {
        session_void(holt);
    }
    holt->session_wanted = sessions && holt->session != HOLT_SESSION_OFF;
    if (holt->session != HOLT_SESSION_REQUIRED || holt->session_open) {
        connection_ready(holt); /* The first write opens the session: who only reads needs none. */
    } else if (sessions) {
        session_begin(holt);
    } else {
        open_fail(holt, HOLT_NOT_SUPPORTED, "the daemon has no sessions");
    }
}

/* There is to be no session, so no write can be sent. */
static void session_refused(struct holt *holt, enum holt_status status, const char *text)
{
    if (holt->opening) {
        open_fail(holt, status, text);
        return;
    }
    struct call *call;
    while ((call = calls_pop(&holt->writes)) != NULL) {
        call_end(holt, call, status, text);
    }
    connection_ready(holt);
}

static void handle_session(struct holt *holt, const struct reply_header *header,
                           const uint8_t *body)
{
    if (header->result == RESULT_BUSY || header->result == RESULT_SHUTTING_DOWN) {
        connection_failed(holt, HOLT_NO_DAEMON, result_text(header->result));
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
        open_fail(holt, HOLT_NOT_HOLT, NULL);
        return;
    }
    memcpy(&session, body, sizeof session);
    if (session.lane_count == 0 || session.lane_count > WIRE_LANE_COUNT_MAX ||
        header->body_size != sizeof session + session.lane_count * sizeof(uint64_t)) {
        open_fail(holt, HOLT_NOT_HOLT, NULL);
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

/* ---- Replies -----------------------------------------------------------------------------------
 */

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
        const uint64_t later_ns = now_ns() + pause_ms * ns_per_ms;
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

/* One message. False: nonsense. */
static bool handle_reply(struct holt *holt, uint32_t request_id, const uint8_t *bytes, size_t size)
{
    struct reply_header header;
    if (!protocol_reply_check(bytes, size, &header)) {
        return false;
    }
    const uint8_t *body = bytes + PROTOCOL_HEADER_SIZE;
    const uint32_t slot = request_id & ((1u << SLOT_BITS) - 1);
    if (slot == SLOT_OWN) {
        if (header.operation == OPERATION_HELLO && holt->state == CONNECTION_HELLO) {
            handle_hello(holt, &header, body);
        } else if (header.operation == OPERATION_OPEN_SESSION &&
                   holt->state == CONNECTION_SESSION) {
            handle_session(holt, &header, body);
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

/* Makes room for `size` more bytes. */
static bool buffer_reserve(struct holt *holt, size_t size)
{
    if (holt->start > 0 && holt->capacity - holt->end < size) {
        memmove(holt->buffer, holt->buffer + holt->start, holt->end - holt->start);
        holt->end -= holt->start;
        holt->start = 0;
    }
    if (holt->capacity - holt->end >= size) {
        return true;
    }
    const size_t capacity = holt->end + size;
    uint8_t *buffer = realloc(holt->buffer, capacity);
    if (buffer == NULL) {
        return false;
    }
    holt->buffer = buffer;
    holt->capacity = capacity;
    return true;
}

/* Takes whole frames out of the buffer. False: it has hung up. */
static bool take_frames(struct holt *holt)
{
    if (holt->state == CONNECTION_GREETING) {
        if (holt->end - holt->start < SP_GREETING_SIZE) {
            return true;
        }
        if (memcmp(holt->buffer + holt->start, sp_greeting_reply, SP_GREETING_SIZE) != 0) {
            open_fail(holt, HOLT_NOT_HOLT, NULL);
            return false;
        }
        holt->start += SP_GREETING_SIZE;
        holt->state = CONNECTION_HELLO;
    }
    while (holt->end - holt->start >= ENVELOPE_SIZE) {
        const uint8_t *frame = holt->buffer + holt->start;
        const uint64_t size = sp_load(frame + 1, 8);
        const uint64_t size_max =
            SP_REQUEST_ID_SIZE + (holt->hello.message_size_max > 0 ? holt->hello.message_size_max
                                                                   : MESSAGE_SIZE_MAX_FIRST);
        if (frame[0] != SP_FRAME_MARK || size < SP_REQUEST_ID_SIZE || size > size_max) {
            open_fail(holt, HOLT_NOT_HOLT, NULL);
            return false;
        }
        const size_t whole = SP_FRAME_HEADER_SIZE + (size_t)size;
        if (holt->end - holt->start < whole) {
            if (!buffer_reserve(holt, whole - (holt->end - holt->start))) {
                connection_failed(holt, HOLT_NO_MEMORY, NULL);
                return false;
            }
            return true;
        }
        const uint32_t id = (uint32_t)sp_load(frame + SP_FRAME_HEADER_SIZE, SP_REQUEST_ID_SIZE);
        const int fd = holt->fd;
        holt->start += whole;
        if ((id & sp_request_id_flag) == 0 ||
            !handle_reply(holt, id & ~sp_request_id_flag, frame + ENVELOPE_SIZE,
                          whole - ENVELOPE_SIZE)) {
            open_fail(holt, HOLT_NOT_HOLT, "an answer that is none of the protocol's");
            return false;
        }
        if (holt->fd != fd) {
            return false; /* The answer was a reason to hang up. */
        }
    }
    return true;
}

static void receive(struct holt *holt)
{
    for (;;) {
        if (!buffer_reserve(holt, holt->end == holt->capacity ? BUFFER_SIZE_MIN : 1)) {
            connection_failed(holt, HOLT_NO_MEMORY, NULL);
            return;
        }
        const size_t room = holt->capacity - holt->end;
        const ssize_t size = recv(holt->fd, holt->buffer + holt->end, room, MSG_DONTWAIT);
        if (size < 0 && errno == EINTR) {
            continue;
        }
        if (size < 0 && errno == EAGAIN) {
            return;
        }
        if (size <= 0) {
            connection_failed(holt, HOLT_NO_DAEMON, "the connection was lost");
            return;
        }
        holt->end += (size_t)size;
        if (!take_frames(holt)) {
            return;
        }
        if (holt->start == holt->end) {
            holt->start = 0;
            holt->end = 0;
        }
        if ((size_t)size < room) {
            return;
        }
    }
}

/* ---- Deadlines ---------------------------------------------------------------------------------
 */

/* Why a call that was never sent, or that is only to come again, came to nothing. */
static void pending_expire(struct holt *holt, struct call *call)
{
    if (call->refusal != HOLT_OK) {
        call_end(holt, call, call->refusal, NULL);
    } else if (!is_connected(holt) && holt->connect_error.status != HOLT_OK) {
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

/* Ends the calls whose deadline has passed, and finds the next deadline. */
static void scan(struct holt *holt, uint64_t now)
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

/* ---- The client's thread -----------------------------------------------------------------------
 */

/* Calls what is to be called, without the mutex. */
static void run_done(struct holt *holt)
{
    struct call *call;
    while ((call = calls_pop(&holt->done)) != NULL) {
        assert(call->lent);
        call->lent = false;
        if (call->state == CALL_DONE) {
            call->state = CALL_IDLE;
        }
        pthread_mutex_unlock(&holt->mutex);
        call->done(call);
        pthread_mutex_lock(&holt->mutex);
    }
}

static bool wants_connection(const struct holt *holt)
{
    return holt->opening || holt->writes.oldest != NULL || holt->reads.oldest != NULL ||
           holt->again.oldest != NULL;
}

/* When there is something to do that no event tells of. */
static uint64_t next_ns(const struct holt *holt)
{
    uint64_t next = holt->scan_ns;
    if (holt->state == CONNECTION_NONE) {
        if (wants_connection(holt)) {
            next = min_ns(next, holt->connect_ns);
        }
        return next;
    }
    if (holt->state != CONNECTION_READY) {
        return min_ns(next, holt->handshake_deadline_ns);
    }
    const uint64_t now = now_ns();
    if (holt->writes.oldest != NULL && holt->writes_ns > now) {
        next = min_ns(next, holt->writes_ns);
    }
    if (holt->reads.oldest != NULL && holt->reads_ns > now) {
        next = min_ns(next, holt->reads_ns);
    }
    if (holt->again.oldest != NULL && holt->again_ns > now) {
        next = min_ns(next, holt->again_ns);
    }
    return next;
}

/* Asks the caller who receives to leave that to others. */
static void kick_caller(const struct holt *holt)
{
    const uint64_t one = 1;
    while (write(holt->kick_fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

static void connection_turn(struct holt *holt, uint64_t now)
{
    const bool late = holt->state != CONNECTION_NONE && holt->state != CONNECTION_READY &&
                      now >= holt->handshake_deadline_ns;
    if ((holt->broken || late) && holt->receiver == RECEIVER_CALLER) {
        kick_caller(holt); /* He alone may be waiting on the socket that is to be closed. */
        return;
    }
    if (holt->broken) {
        receive(holt); /* What was answered before. */
        if (holt->broken) {
            connection_failed(holt, HOLT_NO_DAEMON, "the connection was lost");
        }
    }
    if (late && holt->state != CONNECTION_NONE) {
        connection_failed(holt, HOLT_NO_DAEMON, "what listens there does not answer");
    }
    if (holt->state == CONNECTION_NONE && wants_connection(holt) && now >= holt->connect_ns) {
        connect_begin(holt);
    }
    if (holt->opening && holt->state == CONNECTION_NONE && now >= holt->open_deadline_ns) {
        holt->opening = false;
        holt->closing = true;
        holt->open_error = holt->connect_error;
        pthread_cond_broadcast(&holt->changed);
    }
}

static void drain(int event_fd)
{
    uint64_t count;
    while (read(event_fd, &count, sizeof count) < 0 && errno == EINTR) {
    }
}

/* For poll: -1 is for ever. */
static int timeout_until(uint64_t until_ns)
{
    if (until_ns == DEADLINE_NS_NONE) {
        return -1;
    }
    const uint64_t now = now_ns();
    const uint64_t left_ms = until_ns > now ? (until_ns - now + ns_per_ms - 1) / ns_per_ms : 0;
    return left_ms > 3600000 ? 3600000 : (int)left_ms;
}

/* Sleeps until something happens, and takes in what came. */
static void wait_and_receive(struct holt *holt, uint64_t until_ns)
{
    struct pollfd fds[2] = {{.fd = holt->wake_fd, .events = POLLIN}, {.fd = holt->fd}};
    const bool expects = holt->state != CONNECTION_READY || holt->slot_count > 0 || holt->closing;
    assert(holt->receiver != RECEIVER_OWN);
    const bool own = holt->fd >= 0 && expects && holt->receiver == RECEIVER_NOBODY;
    if (own) {
        holt->receiver = RECEIVER_OWN;
        fds[1].events |= POLLIN;
    }
    if (holt->fd >= 0 && holt->sending.oldest != NULL) {
        fds[1].events |= POLLOUT;
    }
    holt->poll_ns = until_ns;
    const int timeout_ms = timeout_until(until_ns);
    pthread_mutex_unlock(&holt->mutex);
    const int count = poll(fds, fds[1].events != 0 ? 2 : 1, timeout_ms);
    pthread_mutex_lock(&holt->mutex);
    if (count > 0 && fds[0].revents != 0) {
        drain(holt->wake_fd);
    }
    if (own) {
        assert(holt->receiver == RECEIVER_OWN);
        holt->receiver = RECEIVER_NOBODY;
        if (count > 0 && fds[1].revents != 0) {
            receive(holt);
        }
    }
}

static void close_calls(struct holt *holt)
{
    struct call *call;
    while ((call = calls_pop(&holt->writes)) != NULL) {
        call_end(holt, call, HOLT_CLOSED, NULL);
    }
    while ((call = calls_pop(&holt->reads)) != NULL) {
        call_end(holt, call, HOLT_CLOSED, NULL);
    }
    struct message *message;
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        message = holt->slots[i];
        for (uint32_t j = 0; message != NULL && j < message->member_count; j++) {
            call = message->members[j];
            if (call != NULL) {
                message->members[j] = NULL;
                call_end(holt, call, message_is_read(message) ? HOLT_CLOSED : HOLT_UNKNOWN, NULL);
            }
        }
    }
    struct message_list *lists[] = {&holt->again, &holt->parked};
    for (int i = 0; i < 2; i++) {
        while ((message = lists[i]->oldest) != NULL) {
            messages_remove(lists[i], message);
            message_end(holt, message, HOLT_UNKNOWN, NULL);
        }
    }
}

/* A session that nobody will use again is given back, if the daemon takes it. One with a write that
 * nobody knows the outcome of is left to the daemon's idle time, for it may be asked again. */
static void close_session(struct holt *holt, bool unresolved)
{
    if (!holt->session_open || holt->session_kept || unresolved ||
        holt->state != CONNECTION_READY || !send_own(holt, OPERATION_CLOSE_SESSION, NULL, 0)) {
        return;
    }
    const uint64_t deadline_ns = now_ns() + CLOSE_SESSION_MS * ns_per_ms;
    while (holt->session_open && holt->state == CONNECTION_READY && !holt->broken &&
           now_ns() < deadline_ns) {
        flush(holt);
        wait_and_receive(holt, deadline_ns);
    }
}

static bool has_unresolved(const struct holt *holt)
{
    for (uint32_t i = 0; i < WIRE_LANE_COUNT_MAX; i++) {
        if (holt->lane_used[i]) {
            return true;
        }
    }
    return false;
}

static void *client_run(void *context)
{
    struct holt *holt = context;
    pthread_mutex_lock(&holt->mutex);
    while (!holt->closing) {
        const uint64_t now = now_ns();
        if (now >= holt->scan_ns) {
            scan(holt, now);
        }
        connection_turn(holt, now);
        pump(holt);
        if (holt->done.oldest != NULL) {
            run_done(holt);
        } else if (!holt->closing && (!holt->broken || holt->receiver == RECEIVER_CALLER)) {
            wait_and_receive(holt, next_ns(holt));
        }
    }
    while (holt->receiver == RECEIVER_CALLER) {
        kick_caller(holt);
        pthread_cond_wait(&holt->changed, &holt->mutex);
    }
    const bool unresolved = has_unresolved(holt);
    close_calls(holt);
    run_done(holt);
    close_session(holt, unresolved);
    disconnect(holt, HOLT_CLOSED, NULL);
    run_done(holt);
    holt->closed = true;
    pthread_mutex_unlock(&holt->mutex);
    return NULL;
}

/* ---- Calls -------------------------------------------------------------------------------------
 */

static void holt_free(struct holt *holt)
{
    pthread_cond_destroy(&holt->changed);
    pthread_mutex_destroy(&holt->mutex);
    free(holt->buffer);
    free(holt);
}

static void release(struct holt *holt)
{
    pthread_mutex_lock(&holt->mutex);
    assert(holt->reference_count > 0);
    holt->reference_count -= 1;
    const bool last = holt->reference_count == 0;
    pthread_mutex_unlock(&holt->mutex);
    if (last) {
        holt_free(holt);
    }
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
            wake(holt); /* There may be a lane for it now. */
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
        release(holt);
    }
}

static void call_set_deadline(struct holt *holt, struct call *call, uint32_t deadline_ms)
{
    if (deadline_ms == 0) {
        deadline_ms = holt->deadline_ms;
    }
    call->deadline_ns =
        deadline_ms == HOLT_DEADLINE_NONE ? DEADLINE_NS_NONE : now_ns() + deadline_ms * ns_per_ms;
    holt->scan_ns = min_ns(holt->scan_ns, call->deadline_ns);
}

/* Sends what can be sent, on the caller's thread; the client's has to see to the rest. `receives`:
 * the caller will see to what is answered, if nobody else does. */
static void pump_and_wake(struct holt *holt, bool receives)
{
    pump(holt);
    const bool unheard = !receives && holt->receiver == RECEIVER_NOBODY && holt->slot_count > 0;
    const bool rest = holt->state != CONNECTION_READY || holt->sending.oldest != NULL ||
                      holt->broken || next_ns(holt) < holt->poll_ns;
    if (rest || unheard) {
        wake(holt);
    }
}

enum holt_status call_submit(struct call *call, uint32_t deadline_ms, struct holt_error *error)
{
    struct holt *holt = call->holt;
    enum holt_status status = client_check(holt, error);
    if (status != HOLT_OK) {
        return status;
    }
    if (call->done == NULL && on_own_thread(holt)) {
        return error_set(error, HOLT_BAD_ARGUMENT, "a callback must not wait");
    }
    pthread_mutex_lock(&holt->mutex);
    if (call->state != CALL_IDLE || call->lent) {
        status = error_set(error, HOLT_IN_USE, NULL);
    } else if (holt->closing || holt->closed) {
        status = error_set(error, HOLT_CLOSED, NULL);
    } else if (holt->call_count >= holt->request_count_max) {
        status = error_set(error, HOLT_QUEUE_FULL, NULL);
    } else {
        const bool writes = operation_writes(call->operation);
        outcome_clear(&call->outcome);
        call->state = CALL_PENDING;
        call->lent = true;
        call->alone = false;
        call->refusal = HOLT_OK;
        call->first_event = 0;
        call_set_deadline(holt, call, deadline_ms);
        holt->call_count += 1;
        holt->stats.calls += 1;
        calls_push(writes ? &holt->writes : &holt->reads, call);
        pump_and_wake(holt, call->done == NULL);
    }
    pthread_mutex_unlock(&holt->mutex);
    return status;
}

/* Whether the thread that waits for `call` may receive: what it sent is on its way, and nobody else
 * does. */
static bool may_receive(const struct holt *holt, const struct call *call)
{
    return call->lent && call->state == CALL_SENT && holt->receiver == RECEIVER_NOBODY &&
           holt->state == CONNECTION_READY && holt->sending.oldest == NULL && !holt->broken &&
           !holt->closing;
}

/* Waits for the next answer, whosoever it is, or until the call's deadline. */
static void receive_once(struct holt *holt, const struct call *call)
{
    struct pollfd fds[2] = {{.fd = holt->fd, .events = POLLIN},
                            {.fd = holt->kick_fd, .events = POLLIN}};
    const uint64_t deadline_ns = call->deadline_ns;
    const int timeout_ms = timeout_until(deadline_ns);
    assert(holt->receiver == RECEIVER_NOBODY);
    holt->receiver = RECEIVER_CALLER;
    pthread_mutex_unlock(&holt->mutex);
    const int count = poll(fds, 2, timeout_ms);
    pthread_mutex_lock(&holt->mutex);
    assert(holt->receiver == RECEIVER_CALLER);
    holt->receiver = RECEIVER_NOBODY;
    if (count > 0 && fds[1].revents != 0) {
        drain(holt->kick_fd);
    }
    if (holt->closing) {
        pthread_cond_broadcast(&holt->changed);
        return;
    }
    if (count > 0 && fds[0].revents != 0) {
        receive(holt);
    }
    const uint64_t now = now_ns();
    if (now >= deadline_ns) {
        scan(holt, now);
    }
    pump_and_wake(holt, may_receive(holt, call));
}

enum holt_status call_wait(struct call *call, struct holt_error *error)
{
    struct holt *holt = call->holt;
    assert(call->done == NULL);
    pthread_mutex_lock(&holt->mutex);
    while (call->lent) {
        if (may_receive(holt, call)) {
            receive_once(holt, call);
        } else {
            pthread_cond_wait(&call->changed, &holt->mutex);
        }
    }
    if (call->state == CALL_DONE) {
        call->state = CALL_IDLE;
    }
    pthread_mutex_unlock(&holt->mutex);
    if (call->outcome.status != HOLT_OK) {
        error_set(error, call->outcome.status, "%s", call->outcome.text);
    }
    return call->outcome.status;
}

enum holt_status call_run(struct call *call, uint32_t deadline_ms, struct holt_error *error)
{
    const enum holt_status status = call_submit(call, deadline_ms, error);
    return status == HOLT_OK ? call_wait(call, error) : status;
}

enum holt_status call_resolve(struct call *call, uint32_t deadline_ms, struct holt_error *error)
{
    struct holt *holt = call->holt;
    const enum holt_status status = client_check(holt, error);
    if (status != HOLT_OK) {
        return status;
    }
    if (on_own_thread(holt)) {
        return error_set(error, HOLT_BAD_ARGUMENT, "a callback must not wait");
    }
    pthread_mutex_lock(&holt->mutex);
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
        pump_and_wake(holt, true);
    } else if (call->state == CALL_RESOLVED) {
        outcome_clear(&call->outcome);
        call->outcome = call->late;
        call->late = (struct outcome){0};
        call->state = CALL_IDLE;
    }
    pthread_mutex_unlock(&holt->mutex);
    return call_wait(call, error);
}

/* ---- Opening and closing -----------------------------------------------------------------------
 */

static enum holt_status options_check(const struct holt_options *options, const char **path,
                                      struct holt_error *error)
{
    *path = options->socket_path != NULL ? options->socket_path : getenv("HOLT_SOCKET");
    if (*path == NULL || (*path)[0] == 0) {
        return error_set(error, HOLT_BAD_ARGUMENT,
                         "no socket: neither the options nor HOLT_SOCKET name one");
    }
    if (strlen(*path) >= sizeof((struct sockaddr_un *)0)->sun_path) {
        return error_set(error, HOLT_BAD_ARGUMENT, "the socket's path is longer than 107 bytes");
    }
    if (options->lane_count > WIRE_LANE_COUNT_MAX) {
        return error_set(error, HOLT_BAD_ARGUMENT, "a session has at most %d lanes",
                         WIRE_LANE_COUNT_MAX);
    }
    if ((unsigned)options->session > HOLT_SESSION_REQUIRED) {
        return error_set(error, HOLT_BAD_ARGUMENT, "no such kind of session");
    }
    for (size_t i = 0; i < sizeof options->reserved; i++) {
        if (options->reserved[i] != 0) {
            return error_set(error, HOLT_BAD_ARGUMENT, "reserved options are not zero");
        }
    }
    return HOLT_OK;
}

static struct holt *holt_allocate(const struct holt_options *options, const char *path)
{
    struct holt *holt = calloc(1, sizeof *holt);
    if (holt == NULL) {
        return NULL;
    }
    holt->pid = getpid();
    holt->address.sun_family = AF_UNIX;
    memcpy(holt->address.sun_path, path, strlen(path));
    holt->deadline_ms = options->deadline_ms != 0 ? options->deadline_ms : DEADLINE_MS_DEFAULT;
    holt->session = options->session;
    holt->request_count_max =
        options->request_count_max != 0 ? options->request_count_max : REQUEST_COUNT_MAX_DEFAULT;
    holt->join = !options->no_join;
    holt->lane_count_wanted = options->lane_count != 0 ? options->lane_count : LANE_COUNT_DEFAULT;
    holt->lane_count = holt->lane_count_wanted;
    holt->reference_count = 1;
    holt->opening = true;
    holt->open_deadline_ns = now_ns() + options->wait_ms * ns_per_ms;
    holt->fd = -1;
    holt->scan_ns = DEADLINE_NS_NONE;
    for (size_t i = 0; i < sizeof options->client_id; i++) {
        holt->session_kept |= options->client_id[i] != 0;
    }
    memcpy(holt->client_id, options->client_id, sizeof holt->client_id);
    holt->session_old = holt->session_kept;
    if (pthread_mutex_init(&holt->mutex, NULL) != 0) {
        free(holt);
        return NULL;
    }
    if (pthread_cond_init(&holt->changed, NULL) != 0) {
        pthread_mutex_destroy(&holt->mutex);
        free(holt);
        return NULL;
    }
    return holt;
}

/* The client's thread takes no signals: they are for the program's own. */
static int start_thread(struct holt *holt)
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_mutex_lock(&holt->mutex); /* Until holt->thread is written. */
    const int result = pthread_create(&holt->thread, NULL, client_run, holt);
    pthread_mutex_unlock(&holt->mutex);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

static void close_event_fds(const struct holt *holt)
{
    if (holt->wake_fd >= 0) {
        close(holt->wake_fd);
    }
    if (holt->kick_fd >= 0) {
        close(holt->kick_fd);
    }
}

enum holt_status holt_open(const struct holt_options *options, struct holt **holt,
                           struct holt_error *error)
{
    static const struct holt_options defaults;
    const char *path;
    *holt = NULL;
    if (options == NULL) {
        options = &defaults;
    }
    const enum holt_status status = options_check(options, &path, error);
    if (status != HOLT_OK) {
        return status;
    }
    struct holt *opened = holt_allocate(options, path);
    if (opened == NULL) {
        return error_set(error, HOLT_NO_MEMORY, NULL);
    }
    opened->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    opened->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const char *lacks = NULL;
    int why = errno;
    if (opened->wake_fd < 0 || opened->kick_fd < 0) {
        lacks = "event descriptor";
    } else if (!opened->session_kept && !session_id_new(opened)) {
        why = errno;
        lacks = "random numbers";
    } else {
        why = start_thread(opened);
        lacks = why != 0 ? "thread" : NULL;
    }
    if (lacks != NULL) {
        close_event_fds(opened);
        holt_free(opened);
        return error_set(error, HOLT_SYSTEM, "no %s: %s", lacks, strerror(why));
    }
    pthread_mutex_lock(&opened->mutex);
    while (opened->opening) {
        pthread_cond_wait(&opened->changed, &opened->mutex);
    }
    const bool failed = opened->closing;
    if (failed) {
        error_set(error, opened->open_error.status, "%s", opened->open_error.text);
    }
    const enum holt_status result = failed ? opened->open_error.status : HOLT_OK;
    pthread_mutex_unlock(&opened->mutex);
    if (failed) {
        holt_close(opened);
        return result;
    }
    *holt = opened;
    return HOLT_OK;
}

void holt_close(struct holt *holt)
{
    if (holt == NULL) {
        return;
    }
    if (client_check(holt, NULL) != HOLT_OK) {
        /* The child's copy: nobody else is there to use these, and the rest may be half done. */
        close_event_fds(holt);
        if (holt->fd >= 0) {
            close(holt->fd);
        }
        return;
    }
    assert(!on_own_thread(holt));
    pthread_mutex_lock(&holt->mutex);
    holt->closing = true;
    wake(holt);
    pthread_mutex_unlock(&holt->mutex);
    pthread_join(holt->thread, NULL);
    close_event_fds(holt);
    release(holt);
}

bool holt_has_session(struct holt *holt)
{
    pthread_mutex_lock(&holt->mutex);
    const bool numbered = holt->session_wanted;
    pthread_mutex_unlock(&holt->mutex);
    return numbered;
}

void holt_client_id(struct holt *holt, uint8_t client_id[HOLT_CLIENT_ID_SIZE])
{
    pthread_mutex_lock(&holt->mutex);
    memcpy(client_id, holt->client_id, HOLT_CLIENT_ID_SIZE);
    pthread_mutex_unlock(&holt->mutex);
}

void client_limits(struct holt *holt, struct hello_reply *hello)
{
    pthread_mutex_lock(&holt->mutex);
    *hello = holt->hello;
    pthread_mutex_unlock(&holt->mutex);
}

uint64_t holt_features(struct holt *holt)
{
    struct hello_reply hello;
    client_limits(holt, &hello);
    return hello.features;
}

void holt_daemon_version(struct holt *holt, char version[33])
{
    struct hello_reply hello;
    client_limits(holt, &hello);
    memcpy(version, hello.version, sizeof hello.version);
    version[32] = 0;
}

void holt_stats_read(struct holt *holt, struct holt_stats *stats)
{
    pthread_mutex_lock(&holt->mutex);
    *stats = holt->stats;
    pthread_mutex_unlock(&holt->mutex);
}
