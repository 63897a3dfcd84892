/* What the parts of libholt share; holt.h is what its users see.
 *
 *   holt_write, holt_read, holt_groove_create ...   each has a call
 *   call ──► pending ──► message ──► slot ──► reply ──► done
 *             ▲                    │ refused for now (BUSY): taken apart
 *             └────────────────────┘ lost: numbered writes, as they stand
 *
 * A call is what a caller waits for; a message is what travels. A message of small writes may have
 * several calls as its members. A writing message has a lane from when it is made until its outcome
 * is known, whether it is numbered or not, so lanes also bound the writes under way. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/un.h>

#include "ipc/libholt/holt.h"
#include "ipc/protocol.h"

enum {
    SLOT_COUNT = 128, /* messages under way */
    DEADLINE_MS_DEFAULT = 10000,
    REQUEST_COUNT_MAX_DEFAULT = 4096,
    LANE_COUNT_DEFAULT = 4,
};
#define DEADLINE_NS_NONE UINT64_MAX

/* What a caller learns. */
struct outcome {
    enum holt_status status;
    char text[sizeof((struct holt_error *)0)->text];
    uint64_t commit;
    uint64_t timestamp;
    uint8_t *body; /* of the reply, [body_size]; owned */
    uint32_t body_size;
};

enum call_state {
    CALL_IDLE,     /* nothing is under way; `outcome` is the caller's */
    CALL_PENDING,  /* in a list of pending calls */
    CALL_SENT,     /* member of a message */
    CALL_PARKED,   /* member of a message, its caller was told UNKNOWN */
    CALL_RESOLVED, /* was parked; `late` is what came of it */
    CALL_DONE,     /* has an outcome, its caller has not been told */
};

struct call {
    struct holt *holt;
    bool counted;      /* keeps the client's memory; calls on a stack do not */
    struct call *next; /* in a list of pending calls, or of those to call back */

    /* Set before call_submit; the body is the caller's, and stays until the call is done. */
    uint16_t operation;
    bool joinable; /* a WRITE that does not mind company */
    bool atomic;
    const uint8_t *body;
    uint32_t body_size;
    uint32_t event_count;
    uint32_t event_count_max;        /* the least of its grooves' */
    void (*done)(struct call *call); /* on the client's thread; NULL: a thread waits */

    /* Guarded by the client's mutex while the call is not idle. */
    enum call_state state;
    bool lent;                /* from submit until its caller is told */
    bool alone;               /* was refused in company: the reason may be a companion */
    enum holt_status refusal; /* the last answer that said to come again, or OK */
    uint64_t deadline_ns;
    struct message *message; /* SENT, PARKED */
    uint32_t first_event;    /* in the message */
    pthread_cond_t changed;
    struct outcome outcome;
    struct outcome late;
};

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
 * another thread. */
enum receiver {
    RECEIVER_NOBODY,
    RECEIVER_OWN, /* the client's thread */
    RECEIVER_CALLER,
};

struct holt {
    pthread_t thread;
    pid_t pid;
    int wake_fd; /* wakes the client's thread */
    int kick_fd; /* makes a caller stop receiving */
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
    bool broken; /* a send failed: the client's thread will hang up */
    struct holt_error open_error;

    enum connection_state state;
    enum receiver receiver;
    int fd;              /* -1: none; closed by who receives, or by the own thread if nobody does */
    uint64_t connect_ns; /* not before */
    uint64_t handshake_deadline_ns;  /* while neither NONE nor READY */
    struct holt_error connect_error; /* why there is no connection */
    uint32_t backoff_ms;
    uint8_t *buffer; /* received, not yet looked at: [start, end) of capacity */
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

    struct call_list writes; /* pending */
    struct call_list reads;  /* pending */
    struct call_list done;   /* with callbacks to be called */
    uint32_t call_count;     /* not idle, not parked, not resolved */
    uint64_t writes_ns;      /* not before: somebody said BUSY */
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

/* Fills `error`, if there is one; returns `status`. `format` NULL: the status' own text. */
enum holt_status error_set(struct holt_error *error, enum holt_status status, const char *format,
                           ...) __attribute__((format(printf, 3, 4)));

/* HOLT_FORKED in another process than the client's. */
enum holt_status client_check(const struct holt *holt, struct holt_error *error);

/* Sets up an idle call. False: no memory. With `counted`, it keeps the client's memory. */
bool call_init(struct call *call, struct holt *holt, bool counted);
/* From any thread, but not between submit and done. */
void call_deinit(struct call *call);

/* Begins a call whose fields are set. HOLT_OK: `done` will be called, or call_wait is to be. */
enum holt_status call_submit(struct call *call, uint32_t deadline_ms, struct holt_error *error);
/* Waits for a call without `done`, whose outcome is then set. */
enum holt_status call_wait(struct call *call, struct holt_error *error);
/* Submit and wait. */
enum holt_status call_run(struct call *call, uint32_t deadline_ms, struct holt_error *error);
/* Goes on with a call whose outcome is UNKNOWN. */
enum holt_status call_resolve(struct call *call, uint32_t deadline_ms, struct holt_error *error);
/* Forgets a parked call. The outcome stays. */
void call_forget(struct call *call);

/* Limits of the daemon, from its HELLO. */
void client_limits(struct holt *holt, struct hello_reply *hello);

void outcome_clear(struct outcome *outcome);

/* ---- Grooves -----------------------------------------------------------------------------------
 */

struct holt_groove {
    char name[WIRE_NAME_SIZE];
    uint32_t groove_id;
    uint32_t object_size;
    uint32_t event_count_max;
    uint32_t field_count;
    uint32_t index_count;
    struct holt_field fields[WIRE_FIELD_COUNT_MAX];
    struct holt_index indexes[WIRE_INDEX_COUNT_MAX];
    uint32_t index_ids[WIRE_INDEX_COUNT_MAX];
};
