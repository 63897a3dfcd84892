/* What a client is made of. All of it runs under one mutex, on the client's thread or on that of a
 * caller.
 *
 *   client.c      opening and closing
 *   call.c        what callers wait for          list.c
 *   message.c     what travels                   send.c       which calls make which message
 *   connection.c  bytes in, and their end        session.c    numbers for writes
 *   reply.c       answers, back to the calls     deadline.c   calls that have waited enough
 *   thread.c      the client's thread */
#pragma once

#include <assert.h>
#include <sys/types.h>
#include <sys/un.h>
#include <time.h>

#include "ipc/libholt/internal.h"
#include "ipc/sp.h"

enum {
    SLOT_COUNT = 128, /* messages under way */
    SLOT_BITS = 8,
    SLOT_OWN = 255, /* of HELLO and the like, which have none */
    DEADLINE_MS_DEFAULT = 10000,
    REQUEST_COUNT_MAX_DEFAULT = 4096,
    LANE_COUNT_DEFAULT = 4,
    HANDSHAKE_MS = 5000,
    ENVELOPE_SIZE = SP_FRAME_HEADER_SIZE + SP_REQUEST_ID_SIZE,
};
static_assert((int)SLOT_COUNT < (int)SLOT_OWN, "fits the request id");
#define DEADLINE_NS_NONE UINT64_MAX
#define NS_PER_MS UINT64_C(1000000)

struct call_list {
    struct call *oldest;
    struct call *newest;
};

enum message_state {
    MESSAGE_SENDING, /* in the queue to the socket; has a slot */
    MESSAGE_SENT,    /* has a slot */
    MESSAGE_AGAIN,   /* lost, to be sent again */
    MESSAGE_PARKED,  /* lost, and nobody asks for it any more */
};

struct message {
    struct message *next; /* in the list of its state */
    enum message_state state;
    uint16_t operation;
    bool numbered;
    int32_t lane; /* -1: a read */
    uint32_t slot;
    uint32_t generation; /* of the session that numbered it */
    uint32_t lost_count; /* sendings that were never answered */
    uint64_t number;
    uint32_t member_count;
    uint32_t frame_size;
    uint8_t *frame;         /* envelope, header, body; behind the members, in the same memory */
    struct call *members[]; /* [member_count]; NULL: it has gone */
};

struct message_list {
    struct message *oldest;
    struct message *newest;
};

enum connection_state {
    CONNECTION_NONE,
    CONNECTION_GREETING, /* connected, waiting for the daemon's greeting */
    CONNECTION_HELLO,    /* HELLO was sent */
    CONNECTION_SESSION,  /* OPEN_SESSION was sent, or is to be */
    CONNECTION_READY,
};

/* Who waits for what the daemon sends: at most one, for he may find the connection's end, and close
 * it. A thread that waits for its own call receives itself if nobody does: it saves the way through
 * another thread. When it has its answer and others wait for theirs, it wakes one of them to go
 * on. The client's thread receives when no caller can. */
enum receiver {
    RECEIVER_NOBODY,
    RECEIVER_OWN, /* the client's thread */
    RECEIVER_CALLER,
};

struct holt {
    pthread_t thread;
    pid_t pid;
    const volatile uint8_t *witness; /* 1 here, 0 in the child of a fork; NULL: ask for the pid */
    int wake_fd;                     /* wakes the client's thread: see `woken` */
    int kick_fd;                     /* makes a caller stop receiving */
    struct sockaddr_un address;
    bool join;
    bool session_kept; /* its client id was given: it outlives the client */
    uint32_t deadline_ms;
    uint32_t request_count_max;
    enum holt_session session;

    pthread_mutex_t mutex;
    pthread_cond_t changed; /* `opening` */
    /* Guarded by mutex from here on. */
    uint64_t open_deadline_ns;
    uint32_t reference_count; /* the client's own, and one of each write and read */
    bool opening;
    bool closing;
    bool closed; /* the thread is gone */
    bool woken;  /* the client's thread will look around: wake_fd is readable */
    bool broken; /* a send failed: the client's thread will hang up */
    struct holt_error open_error;

    enum connection_state state;
    enum receiver receiver;
    int fd;              /* -1: none; closed by who receives, or by the own thread if nobody does */
    uint64_t connect_ns; /* not before */
    uint64_t handshake_deadline_ns;  /* while neither NONE nor READY */
    struct holt_error connect_error; /* why there is no connection */
    uint32_t backoff_ms;
    uint8_t *buffer; /* the receiver's: received, not yet looked at: [start, end) of capacity */
    size_t capacity, start, end;

    struct hello_reply hello; /* zero before the first */
    uint8_t client_id[WIRE_ID_SIZE];
    uint32_t generation;
    uint32_t lane_count;
    uint32_t lane_count_wanted;
    bool session_wanted; /* writes are numbered: the first opens the session */
    bool session_open;
    bool session_old; /* the next OPEN_SESSION is the first with a given client id */
    bool lane_used[WIRE_LANE_COUNT_MAX];
    uint64_t lane_number[WIRE_LANE_COUNT_MAX]; /* the last that was used */

    struct call_list writes;    /* pending */
    struct call_list reads;     /* pending */
    struct call_list done;      /* with callbacks to be called */
    struct call *waiter_oldest; /* of threads that sleep until their call has come */
    struct call *waiter_newest;
    uint32_t call_count; /* not idle, not parked, not resolved */
    uint64_t writes_ns;  /* not before: somebody said BUSY */
    uint64_t reads_ns;
    uint64_t again_ns;
    uint64_t scan_ns; /* no deadline is earlier */
    uint64_t poll_ns; /* until when the client's thread sleeps at most */

    struct message_list sending;
    size_t sent_size; /* of the oldest of `sending` */
    struct message_list again;
    struct message_list parked;
    struct message *slots[SLOT_COUNT];
    uint32_t slot_count;           /* used */
    uint32_t slot_use[SLOT_COUNT]; /* goes into the request id, to tell one use from the next */
    struct holt_stats stats;
};

static inline uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static inline uint64_t min_ns(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- client.c -----------------------------------------------------------------------------------
 */

/* One who keeps the client's memory does so no longer. Not under the mutex. */
void client_release(struct holt *holt);

/* ---- list.c -------------------------------------------------------------------------------------
 */

void calls_push(struct call_list *list, struct call *call);
struct call *calls_pop(struct call_list *list);
/* All of `front` before all of `list`. */
void calls_prepend(struct call_list *list, struct call_list *front);
void messages_push(struct message_list *list, struct message *message);
void messages_remove(struct message_list *list, struct message *message);

/* ---- call.c -------------------------------------------------------------------------------------
 */

void outcome_set(struct outcome *outcome, enum holt_status status, const char *text);
/* Where the outcome of a call goes: what its caller was told must not change behind his back. */
struct outcome *outcome_of(struct call *call);
/* The call is in no list any more, and in no message, and its outcome is set. */
void call_finish(struct holt *holt, struct call *call);
void call_end(struct holt *holt, struct call *call, enum holt_status status, const char *text);
/* Its caller is told UNKNOWN; the call remains a member of its message. */
void call_park(struct holt *holt, struct call *call);
/* A sleeping caller who may receive in place of the client's thread; NULL: there is none. */
struct call *call_heir(const struct holt *holt);

/* ---- message.c ----------------------------------------------------------------------------------
 */

/* Writes have lanes. */
bool message_is_read(const struct message *message);
/* With room for `member_count` members and a body, whose envelope and header are written, but for
 * the request id. NULL: no memory. */
struct message *message_new(struct holt *holt, uint16_t operation, uint32_t member_count,
                            uint32_t body_size);
/* Gives its lane back. */
void message_free(struct holt *holt, struct message *message);
/* There must be a free one. */
void message_take_slot(struct holt *holt, struct message *message);
void message_leave_slot(struct holt *holt, struct message *message);
/* Whether a caller waits for it, and whether anybody may still ask what came of it. */
bool message_has_waiting(const struct message *message);
bool message_has_members(const struct message *message);
void message_remove_member(struct message *message, struct call *call);
/* The header again, with what is left until the deadline. */
void message_write_header(struct holt *holt, struct message *message);
/* Ends all its calls in one way, and the message. It is in no list. */
void message_end(struct holt *holt, struct message *message, enum holt_status status,
                 const char *text);
/* Nothing of it happened: its calls are as if it had never been. It is in no list. `refusal`: what
 * callers learn whose deadline comes before another answer. */
void message_dissolve(struct holt *holt, struct message *message, enum holt_status refusal,
                      bool alone);
/* Its answer will not come: the connection is gone. It is in no list and has no slot. `whole`: it
 * may have been received. */
void message_lost(struct holt *holt, struct message *message, bool whole);

/* ---- send.c -------------------------------------------------------------------------------------
 */

/* Writes to the socket what it takes. */
void connection_flush(struct holt *holt);
/* HELLO and the like: no call waits for these. */
bool message_send_own(struct holt *holt, uint16_t operation, const void *body, uint32_t body_size);
/* Sends what may be sent now. */
void client_pump(struct holt *holt);

/* ---- connection.c -------------------------------------------------------------------------------
 */

/* There is no connection, and this is why. `status` HOLT_OK: keeps the reason there was. */
void connection_end(struct holt *holt, enum holt_status status, const char *text);
/* The same, with the socket's path before the text; NULL: the status' own. */
void connection_fail(struct holt *holt, enum holt_status status, const char *text);
/* The same; and opening will not succeed by trying again. */
void connection_refuse(struct holt *holt, enum holt_status status, const char *text);
/* Connects, greets and says HELLO, or fails. */
void connection_begin(struct holt *holt);
/* From now on calls are sent. */
void connection_ready(struct holt *holt);
void connection_handle_hello(struct holt *holt, const struct reply_header *header,
                             const uint8_t *body);
/* Takes in what there is. Only for who is the receiver, or when nobody is. */
void connection_receive(struct holt *holt);

/* ---- session.c ----------------------------------------------------------------------------------
 */

/* Sends OPEN_SESSION. */
void session_begin(struct holt *holt);
/* A new client id. False: no random numbers. */
bool session_choose_id(struct holt *holt);
/* The daemon does not know the session, and never will again. */
void session_lost(struct holt *holt, uint32_t generation);
/* The daemon has no sessions any more, but there are writes that only a session can bring to an
 * end. */
void session_void(struct holt *holt);
void session_handle_reply(struct holt *holt, const struct reply_header *header,
                          const uint8_t *body);

/* ---- reply.c ------------------------------------------------------------------------------------
 */

/* One message. False: nonsense. */
bool reply_handle(struct holt *holt, uint32_t request_id, const uint8_t *bytes, size_t size);

/* ---- deadline.c ---------------------------------------------------------------------------------
 */

/* Ends the calls whose deadline has passed, and finds the next deadline. */
void client_scan(struct holt *holt, uint64_t now);

/* ---- thread.c -----------------------------------------------------------------------------------
 */

bool client_on_own_thread(const struct holt *holt);
/* Makes the client's thread look around. */
void client_wake(struct holt *holt);
void event_drain(int event_fd);
/* For poll: -1 is for ever. */
int timeout_ms_until(uint64_t until_ns);
/* When there is something to do that no event tells of. */
uint64_t client_next_ns(const struct holt *holt);
void *client_run(void *context);
