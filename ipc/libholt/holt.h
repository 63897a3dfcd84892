/* libholt: a client of the Holt object store.
 *
 *   struct holt *holt;
 *   struct holt_groove *cities;
 *   struct holt_write *write;
 *   struct holt_error error;
 *
 *   holt_open(NULL, &holt, &error);                          the socket is $HOLT_SOCKET's
 *   holt_groove_open(holt, "cities", 0, &cities, &error);
 *   holt_write_new(holt, &write);
 *   ... fill an object of holt_groove_object_size(cities) bytes: holt_object_set_id, holt_set_text
 *   holt_write_insert(write, cities, object);
 *   if (holt_write_commit(write, 0, &error) != HOLT_OK) puts(error.text);
 *
 * docs/clients.md is the tutorial, and examples/ beside this file has whole programs.
 *
 * Threads. One `struct holt` may be used by any number of threads at once; a write or a read
 * belongs to one thread at a time. A groove is never changed once it is open, so all may share it.
 * Each client has one thread of its own, which receives replies and calls callbacks; it blocks all
 * signals, and the library raises none. After fork() the child can only close its copy of a
 * client: everything else returns HOLT_FORKED.
 *
 * Deadlines are milliseconds from the call; 0 stands for the client's default. Until its deadline a
 * call waits for a daemon that is restarting, reconnects, and asks again when the daemon is busy.
 *
 * Exactly once. When the daemon has sessions, each write is numbered, and sent again with its
 * number over lost connections and restarts of the daemon until it has its answer. HOLT_UNKNOWN
 * says that the deadline came first: holt_write_resolve goes on asking. Without sessions a write is
 * sent once, and HOLT_UNKNOWN is final.
 *
 * Errors. Functions return an enum holt_status and, where they take one, fill a struct holt_error
 * with the same and a text for people; NULL is allowed. A pointer returned by way of an argument is
 * NULL unless the status is HOLT_OK. */
#ifndef HOLT_H
#define HOLT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HOLT_API __attribute__((visibility("default")))

/* How a call ended. 1 to 99 are the daemon's results, with the numbers and names of
 * docs/protocol.md: the request had no effect. From 100 on they are the library's. */
enum holt_status {
    HOLT_OK = 0,
    HOLT_BAD_MAGIC = 1,
    HOLT_BAD_VERSION = 2,
    HOLT_BAD_HEADER = 3,
    HOLT_BAD_OPERATION = 4,
    HOLT_BAD_BODY = 5,
    HOLT_TOO_BIG = 6,
    HOLT_UNKNOWN_GROOVE = 7,
    HOLT_UNKNOWN_INDEX = 8,
    HOLT_GROOVE_EXISTS = 9,
    HOLT_BAD_SCHEMA = 10,
    HOLT_LIMIT = 11,
    HOLT_BUSY = 12,
    HOLT_FULL = 13,
    HOLT_READ_ONLY = 14,
    HOLT_CORRUPT = 15,
    HOLT_SHUTTING_DOWN = 16,
    HOLT_STALE_SCHEMA = 17,
    HOLT_EXPIRED = 18,
    HOLT_DENIED = 19,
    HOLT_INTERNAL = 20,
    HOLT_OVERTAKEN = 21,
    HOLT_BUDGET = 22,
    HOLT_NO_SESSION = 23,
    HOLT_STALE_NUMBER = 24,
    HOLT_BAD_LANE = 25,
    HOLT_LANE_BUSY = 26,

    HOLT_UNKNOWN = 100,       /* a write was sent, and its outcome is not known */
    HOLT_FAILURES = 101,      /* a write was executed, and some of its events failed */
    HOLT_TIMEOUT = 102,       /* the deadline passed; the request had no effect */
    HOLT_NO_DAEMON = 103,     /* nobody answers on the socket; the request had no effect */
    HOLT_PERMISSION = 104,    /* this user may not open the socket */
    HOLT_NOT_HOLT = 105,      /* what answers is not a Holt daemon of this protocol version */
    HOLT_NOT_SUPPORTED = 106, /* the daemon lacks a feature that was asked for */
    HOLT_BAD_ARGUMENT = 107,
    HOLT_OUT_OF_RANGE = 108, /* a value does not fit its field */
    HOLT_WRONG_TYPE = 109,   /* a field is of another type */
    HOLT_NO_MEMORY = 110,
    HOLT_SYSTEM = 111,     /* the operating system reported an error; the text says which */
    HOLT_FORKED = 112,     /* the client was opened by another process */
    HOLT_CLOSED = 113,     /* the client is being closed; the request had no effect */
    HOLT_QUEUE_FULL = 114, /* as many calls are waiting as the options allow */
    HOLT_IN_USE = 115      /* the write or read was submitted and has not come back */
};

/* How one event of a write failed: the numbers of docs/protocol.md. */
enum holt_event_result {
    HOLT_EVENT_OK = 0,
    HOLT_EVENT_EXISTS = 1,
    HOLT_EVENT_NOT_FOUND = 2,
    HOLT_EVENT_ID_ZERO = 3,
    HOLT_EVENT_UNIQUE = 4,
    HOLT_EVENT_RESERVED_NOT_ZERO = 5,
    HOLT_EVENT_BAD_VALUE = 6,
    HOLT_EVENT_CORRUPT = 7,
    HOLT_EVENT_GUARD = 8,
    HOLT_EVENT_LINKED = 9
};

struct holt_error {
    enum holt_status status;
    char text[512];
};

/* "UNKNOWN_GROOVE" and an English phrase; of numbers not known "?" and a phrase. Never NULL. */
HOLT_API const char *holt_status_name(enum holt_status status);
HOLT_API const char *holt_status_text(enum holt_status status);
HOLT_API const char *holt_event_result_name(enum holt_event_result result);
HOLT_API const char *holt_event_result_text(enum holt_event_result result);
/* Of the library. */
HOLT_API const char *holt_library_version(void);

/* ---- Client ------------------------------------------------------------------------------------
 */

struct holt;

enum holt_session {
    HOLT_SESSION_AUTO = 0, /* if the daemon has them */
    HOLT_SESSION_OFF = 1,
    HOLT_SESSION_REQUIRED = 2 /* else HOLT_NOT_SUPPORTED */
};

#define HOLT_CLIENT_ID_SIZE 16
#define HOLT_DEADLINE_NONE UINT32_MAX

struct holt_options {
    const char *socket_path; /* NULL: the environment's HOLT_SOCKET */
    uint32_t wait_ms;        /* how long holt_open waits for a daemon that does not answer yet */
    uint32_t deadline_ms;    /* of calls that say 0; 0: 10000 */
    enum holt_session session;
    uint32_t lane_count;        /* writing messages under way at once, 1 to 64; 0: 4 */
    uint32_t request_count_max; /* calls waiting at once, of all threads; 0: 4096 */
    /* The session to go on with, as holt_client_id gave it, in this or an earlier process; one
     * process at a time. It stays open at holt_close. All zero: a new one, which ends with the
     * client. */
    uint8_t client_id[HOLT_CLIENT_ID_SIZE];
    bool no_join;         /* send each write as a message of its own */
    uint8_t reserved[63]; /* zero */
};

/* Connects. `options`: NULL or zeros are the defaults. The first write opens the session, if there
 * is to be one; HOLT_SESSION_REQUIRED: this does. */
HOLT_API enum holt_status holt_open(const struct holt_options *options, struct holt **holt,
                                    struct holt_error *error);

/* Ends what is under way: calls that wait return HOLT_CLOSED, or HOLT_UNKNOWN when they were sent.
 * All callbacks have been called when this returns, and it must not be called from one. Every
 * write, read and groove of the client is to be freed before or after, but not used. NULL: nothing.
 */
HOLT_API void holt_close(struct holt *holt);

/* Whether the client's writes are numbered, and of which session they are. */
HOLT_API bool holt_has_session(struct holt *holt);
HOLT_API void holt_client_id(struct holt *holt, uint8_t client_id[HOLT_CLIENT_ID_SIZE]);

enum holt_feature { HOLT_FEATURE_SESSIONS = 1, HOLT_FEATURE_CHAINS = 2 };
/* The bits of enum holt_feature, and others, that the daemon told when it was last connected to. */
HOLT_API uint64_t holt_features(struct holt *holt);
/* Of the daemon; [32] with the NUL. */
HOLT_API void holt_daemon_version(struct holt *holt, char version[33]);

/* What the client did, for tests and the curious. */
struct holt_stats {
    uint64_t calls;       /* of the caller's */
    uint64_t messages;    /* sent, those sent again among them */
    uint64_t joined;      /* calls that shared a message with another */
    uint64_t sent_again;  /* messages sent again with the same number */
    uint64_t connections; /* made */
    uint64_t busy;        /* answers that said to come again later */
};
HOLT_API void holt_stats_read(struct holt *holt, struct holt_stats *stats);

HOLT_API enum holt_status holt_ping(struct holt *holt, uint32_t deadline_ms,
                                    struct holt_error *error);

/* The daemon's statistics, JSON; to be freed with holt_text_free. */
HOLT_API enum holt_status holt_stat(struct holt *holt, uint32_t deadline_ms, char **json,
                                    struct holt_error *error);
HOLT_API void holt_text_free(char *text);

/* ---- Ids and objects ---------------------------------------------------------------------------
 * An object is holt_groove_object_size bytes, at any address: its id, timestamp and version, then
 * its fields. */

struct holt_id {
    uint64_t low;
    uint64_t high;
};

/* A random id, which nobody else has. False: the system has no random numbers. */
HOLT_API bool holt_id_random(struct holt_id *id);

HOLT_API void holt_object_set_id(void *object, struct holt_id id);
HOLT_API struct holt_id holt_object_id(const void *object);
/* Given by the store: when the object was made, and when it was last changed; nanoseconds since
 * 1970, increasing. What they hold in a write does not matter. */
HOLT_API uint64_t holt_object_timestamp(const void *object);
HOLT_API uint64_t holt_object_version(const void *object);

enum holt_type {
    HOLT_TYPE_U8 = 1,
    HOLT_TYPE_U16 = 2,
    HOLT_TYPE_U32 = 3,
    HOLT_TYPE_U64 = 4,
    HOLT_TYPE_U128 = 5,
    HOLT_TYPE_I8 = 6,
    HOLT_TYPE_I16 = 7,
    HOLT_TYPE_I32 = 8,
    HOLT_TYPE_I64 = 9,
    HOLT_TYPE_F32 = 10,
    HOLT_TYPE_F64 = 11,
    HOLT_TYPE_BOOL = 12,
    HOLT_TYPE_BYTES = 13,
    HOLT_TYPE_TEXT = 14,
    HOLT_TYPE_TIMESTAMP = 15
};

/* "u64"; "?" of a type not known. */
HOLT_API const char *holt_type_name(enum holt_type type);

struct holt_field {
    char name[32];
    enum holt_type type;
    uint32_t size;   /* bytes */
    uint32_t offset; /* in an object */
};

/* Set a field of an object. HOLT_WRONG_TYPE, or HOLT_OUT_OF_RANGE when the value does not fit: the
 * object is as before. Unsigned takes u8 to u128, bool and timestamp; signed takes these and i8 to
 * i64; real takes f32 and f64. Bytes and text may be shorter than the field: zeros follow. Text
 * must be UTF-8 without NUL. */
HOLT_API enum holt_status holt_set_unsigned(const struct holt_field *field, void *object,
                                            uint64_t value);
HOLT_API enum holt_status holt_set_signed(const struct holt_field *field, void *object,
                                          int64_t value);
HOLT_API enum holt_status holt_set_u128(const struct holt_field *field, void *object,
                                        struct holt_id value);
HOLT_API enum holt_status holt_set_real(const struct holt_field *field, void *object, double value);
HOLT_API enum holt_status holt_set_bytes(const struct holt_field *field, void *object,
                                         const void *bytes, size_t size);
HOLT_API enum holt_status holt_set_text(const struct holt_field *field, void *object,
                                        const char *text);

/* And get it. HOLT_OUT_OF_RANGE: the value does not fit what it was asked as. The bytes of a field
 * stay where they are; those of a text are told without the zeros at its end, and have no NUL. */
HOLT_API enum holt_status holt_get_unsigned(const struct holt_field *field, const void *object,
                                            uint64_t *value);
HOLT_API enum holt_status holt_get_signed(const struct holt_field *field, const void *object,
                                          int64_t *value);
HOLT_API enum holt_status holt_get_u128(const struct holt_field *field, const void *object,
                                        struct holt_id *value);
HOLT_API enum holt_status holt_get_real(const struct holt_field *field, const void *object,
                                        double *value);
HOLT_API enum holt_status holt_get_bytes(const struct holt_field *field, const void *object,
                                         const void **bytes, size_t *size);

/* ---- Grooves -----------------------------------------------------------------------------------
 */

struct holt_groove;

enum holt_index_flag { HOLT_INDEX_UNIQUE = 1, HOLT_INDEX_SPARSE = 2 };

struct holt_index {
    char name[32];
    uint32_t field_count;
    uint32_t fields[4]; /* positions among the groove's fields */
    uint32_t flags;     /* enum holt_index_flag */
};

struct holt_field_spec {
    const char *name;
    enum holt_type type;
    uint32_t size; /* of bytes and text; of others 0 */
};

struct holt_index_spec {
    const char *name;
    const char *fields[4]; /* names; unused: NULL */
    uint32_t flags;        /* enum holt_index_flag */
};

struct holt_groove_spec {
    const char *name;
    const struct holt_field_spec *fields; /* [field_count], at most 32 */
    uint32_t field_count;
    const struct holt_index_spec *indexes; /* [index_count], at most 16 */
    uint32_t index_count;
};

HOLT_API enum holt_status holt_groove_create(struct holt *holt, const struct holt_groove_spec *spec,
                                             uint32_t deadline_ms, struct holt_error *error);
HOLT_API enum holt_status holt_groove_drop(struct holt *holt, const char *name,
                                           uint32_t deadline_ms, struct holt_error *error);

/* Reads what the groove is like now. Whoever drops a groove and makes another opens it anew. */
HOLT_API enum holt_status holt_groove_open(struct holt *holt, const char *name,
                                           uint32_t deadline_ms, struct holt_groove **groove,
                                           struct holt_error *error);
/* NULL: nothing. */
HOLT_API void holt_groove_close(struct holt_groove *groove);

/* The names of all grooves: names[i] is of the i-th; `names` is one piece of memory, to be freed
 * with holt_names_free. */
HOLT_API enum holt_status holt_groove_names(struct holt *holt, uint32_t deadline_ms, char ***names,
                                            uint32_t *count, struct holt_error *error);
HOLT_API void holt_names_free(char **names);

HOLT_API const char *holt_groove_name(const struct holt_groove *groove);
HOLT_API uint32_t holt_groove_object_size(const struct holt_groove *groove);
HOLT_API uint32_t holt_groove_event_count_max(const struct holt_groove *groove); /* in a write */
HOLT_API uint32_t holt_groove_field_count(const struct holt_groove *groove);
HOLT_API uint32_t holt_groove_index_count(const struct holt_groove *groove);
/* By position or name; NULL: there is none. They live as long as the groove. */
HOLT_API const struct holt_field *holt_groove_field_at(const struct holt_groove *groove,
                                                       uint32_t position);
HOLT_API const struct holt_field *holt_groove_field(const struct holt_groove *groove,
                                                    const char *name);
HOLT_API const struct holt_index *holt_groove_index_at(const struct holt_groove *groove,
                                                       uint32_t position);
HOLT_API const struct holt_index *holt_groove_index(const struct holt_groove *groove,
                                                    const char *name);

/* ---- Writes ------------------------------------------------------------------------------------
 * A write is a list of events that take effect in their order, at once, seen by nobody in halves.
 * An event that fails leaves the others alone, unless they are linked or the write is atomic. */

struct holt_write;

enum holt_event_type {
    HOLT_INSERT = 1, /* the id must be absent */
    HOLT_UPSERT = 2,
    HOLT_UPDATE = 3, /* the id must be present */
    HOLT_REMOVE = 4, /* the id must be present */
    HOLT_CHECK = 5   /* changes nothing: fails unless its guard holds */
};

/* A condition on the object of the event's id, as the events before have left it. */
enum holt_guard {
    HOLT_GUARD_NONE = 0,
    HOLT_GUARD_ABSENT = 1,
    HOLT_GUARD_PRESENT = 2,
    HOLT_GUARD_VERSION = 3 /* its version is `version` */
};

struct holt_event {
    enum holt_event_type type;
    const struct holt_groove *groove;
    const void *object; /* of insert, upsert and update; copied */
    struct holt_id id;  /* of remove and check */
    enum holt_guard guard;
    uint64_t version;
    bool linked; /* with the event after it: both happen, or none */
};

struct holt_failure {
    uint32_t event_index; /* which event of the write, from 0 */
    enum holt_event_result result;
};

HOLT_API enum holt_status holt_write_new(struct holt *holt, struct holt_write **write);
/* At any time but between holt_write_submit and its callback. An unknown outcome can no longer be
 * resolved then. NULL: nothing. */
HOLT_API void holt_write_free(struct holt_write *write);
/* Empties it: no events, no results, not atomic; for the next use. */
HOLT_API void holt_write_clear(struct holt_write *write);

HOLT_API enum holt_status holt_write_event(struct holt_write *write,
                                           const struct holt_event *event);
HOLT_API enum holt_status holt_write_insert(struct holt_write *write,
                                            const struct holt_groove *groove, const void *object);
HOLT_API enum holt_status holt_write_upsert(struct holt_write *write,
                                            const struct holt_groove *groove, const void *object);
HOLT_API enum holt_status holt_write_update(struct holt_write *write,
                                            const struct holt_groove *groove, const void *object);
HOLT_API enum holt_status holt_write_remove(struct holt_write *write,
                                            const struct holt_groove *groove, struct holt_id id);
/* All events happen, or none. */
HOLT_API void holt_write_set_atomic(struct holt_write *write, bool atomic);
HOLT_API uint32_t holt_write_event_count(const struct holt_write *write);

/* Executes it, durably. HOLT_FAILURES: executed, see holt_write_failure. HOLT_UNKNOWN: see
 * holt_write_resolve. All else: it had no effect, and may be committed again. */
HOLT_API enum holt_status holt_write_commit(struct holt_write *write, uint32_t deadline_ms,
                                            struct holt_error *error);

/* Called once for each successful submit, on the client's thread, with what holt_write_commit
 * would have returned. It must not wait, nor make calls that wait, but may submit and free. */
typedef void (*holt_write_callback)(void *context, struct holt_write *write,
                                    enum holt_status status);

/* Begins what holt_write_commit does. The write is lent until the callback, also called when the
 * deadline passes. Not HOLT_OK: nothing was begun, and no callback comes. */
HOLT_API enum holt_status holt_write_submit(struct holt_write *write, uint32_t deadline_ms,
                                            holt_write_callback callback, void *context,
                                            struct holt_error *error);

/* After HOLT_UNKNOWN: asks on, and returns what holt_write_commit would have. Without a session,
 * or when the session has ended, HOLT_UNKNOWN again. Until then the write keeps its lane. */
HOLT_API enum holt_status holt_write_resolve(struct holt_write *write, uint32_t deadline_ms,
                                             struct holt_error *error);

/* Results of the last commit, submit or resolve. Event n has the timestamp holt_write_timestamp +
 * n, which is the version of the object that it wrote. */
HOLT_API enum holt_status holt_write_status(const struct holt_write *write);
HOLT_API const char *holt_write_text(const struct holt_write *write);
HOLT_API uint64_t holt_write_commit_number(const struct holt_write *write);
HOLT_API uint64_t holt_write_timestamp(const struct holt_write *write);
/* Failures that are listed, in the order of events, and how many there were: more only when a
 * numbered write had more than the daemon keeps. */
HOLT_API uint32_t holt_write_failure_count(const struct holt_write *write);
HOLT_API uint32_t holt_write_failure_total(const struct holt_write *write);
HOLT_API struct holt_failure holt_write_failure(const struct holt_write *write, uint32_t position);

/* ---- Reads -------------------------------------------------------------------------------------
 */

struct holt_read;

HOLT_API enum holt_status holt_read_new(struct holt *holt, struct holt_read **read);
/* At any time but between holt_read_submit and its callback. NULL: nothing. */
HOLT_API void holt_read_free(struct holt_read *read);

/* What to read; the last of these counts. */

/* Objects by id. */
HOLT_API enum holt_status holt_read_lookup(struct holt_read *read, const struct holt_groove *groove,
                                           const struct holt_id *ids, uint32_t id_count);
/* Objects that have the values of `example` in all fields of an index, in order of timestamp.
 * `limit` 0: as many as a reply holds, which may be fewer than there are. */
HOLT_API enum holt_status holt_read_query(struct holt_read *read, const struct holt_groove *groove,
                                          const struct holt_index *index, const void *example,
                                          uint32_t limit);
/* How many; `index` NULL: of the whole groove. */
HOLT_API enum holt_status holt_read_count(struct holt_read *read, const struct holt_groove *groove,
                                          const struct holt_index *index, const void *example);

HOLT_API enum holt_status holt_read_run(struct holt_read *read, uint32_t deadline_ms,
                                        struct holt_error *error);

/* As holt_write_callback. */
typedef void (*holt_read_callback)(void *context, struct holt_read *read, enum holt_status status);
HOLT_API enum holt_status holt_read_submit(struct holt_read *read, uint32_t deadline_ms,
                                           holt_read_callback callback, void *context,
                                           struct holt_error *error);

/* Results. Objects live until the read is run again or freed; of a lookup, absent ones are left
 * out. The commit is the one whose state was seen. */
HOLT_API enum holt_status holt_read_status(const struct holt_read *read);
HOLT_API const char *holt_read_text(const struct holt_read *read);
HOLT_API uint64_t holt_read_commit_number(const struct holt_read *read);
HOLT_API uint32_t holt_read_object_count(const struct holt_read *read);
HOLT_API const void *holt_read_object(const struct holt_read *read, uint32_t position);
HOLT_API uint64_t holt_read_count_value(const struct holt_read *read);

/* The three in one call each: makes a read, runs it. A count needs no result to be freed. */
HOLT_API enum holt_status holt_lookup(struct holt *holt, const struct holt_groove *groove,
                                      const struct holt_id *ids, uint32_t id_count,
                                      uint32_t deadline_ms, struct holt_read **read,
                                      struct holt_error *error);
HOLT_API enum holt_status holt_query(struct holt *holt, const struct holt_groove *groove,
                                     const char *index, const void *example, uint32_t limit,
                                     uint32_t deadline_ms, struct holt_read **read,
                                     struct holt_error *error);
HOLT_API enum holt_status holt_count(struct holt *holt, const struct holt_groove *groove,
                                     const char *index, const void *example, uint32_t deadline_ms,
                                     uint64_t *count, struct holt_error *error);

#ifdef __cplusplus
}
#endif

#endif
