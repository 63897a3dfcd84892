/* What the calls of libholt stand on; holt.h is what its users see, client.h what is below.
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

#include "ipc/libholt/holt.h"
#include "ipc/protocol.h"

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
    bool counted;              /* keeps the client's memory; calls on a stack do not */
    struct call *next;         /* in a list of pending calls, or of those to call back */
    struct call *waiter_older; /* among the calls whose threads sleep */
    struct call *waiter_newer;

    /* Set before it begins; the body is the caller's, and stays until the call is done. */
    uint16_t operation;
    bool joinable; /* a WRITE that does not mind company */
    bool atomic;
    const uint8_t *body;
    uint32_t body_size;
    uint32_t event_count;
    uint32_t event_count_max; /* the least of its grooves' */

    /* Guarded by the client's mutex while the call is not idle. */
    enum call_state state;
    void (*done)(struct call *call); /* on the client's thread; NULL: a thread waits */
    bool lent;                       /* from submit until its caller is told */
    bool alone;                      /* was refused in company: the reason may be a companion */
    enum holt_status refusal;        /* the last answer that said to come again, or OK */
    uint64_t deadline_ns;
    struct message *message; /* SENT, PARKED */
    uint32_t first_event;    /* in the message */
    pthread_cond_t changed;
    struct outcome outcome;
    struct outcome late;
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

/* Begins a call whose fields are set. HOLT_OK: `done` will be called, on the client's thread. */
enum holt_status call_submit(struct call *call, void (*done)(struct call *call),
                             uint32_t deadline_ms, struct holt_error *error);
/* Begins it and waits; the outcome is then set, unless it could not be begun. */
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
