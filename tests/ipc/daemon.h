/* A daemon for tests: our listener, a bounded queue and one thread that answers, as the real one is
 * built. It serves PING, whose body says what to do:
 *
 *   'e' ...      echo the body
 *   'r' + u32    reply with a body of that many bytes (each the low byte of its position)
 *   'h' ...      hold the request until daemon_release, then echo
 *   'd' ...      drop it
 *   'i' ...      answered by the handler itself, on the listener's thread: BUSY
 *   'n'          reply with a u64: the manyth request it was that the handler was given
 *
 * Any other operation is echoed. And, beside it, the raw bytes of a client that misbehaves. */
#pragma once

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "ipc/client.h"
#include "ipc/listener.h"
#include "pool/clock.h"

#define UNUSED_OK __attribute__((unused))

/* Which listener daemons have: of each test, one runs with nng's, one with our own on a thread of
 * its own, and one with our own turned by the thread that answers, as the real daemon's is. */
static enum listener_kind daemon_kind;
static bool daemon_turned;

#define TEST_BOTH(suite, name, ...)                                                                \
    static void suite##_##name(void);                                                              \
    Test(suite##_nng, name, ##__VA_ARGS__)                                                         \
    {                                                                                              \
        daemon_kind = LISTENER_NNG;                                                                \
        suite##_##name();                                                                          \
    }                                                                                              \
    Test(suite##_native, name, ##__VA_ARGS__)                                                      \
    {                                                                                              \
        daemon_kind = LISTENER_NATIVE;                                                             \
        suite##_##name();                                                                          \
    }                                                                                              \
    Test(suite##_turned, name, ##__VA_ARGS__)                                                      \
    {                                                                                              \
        daemon_kind = LISTENER_NATIVE;                                                             \
        daemon_turned = true;                                                                      \
        suite##_##name();                                                                          \
    }                                                                                              \
    static void suite##_##name(void)

enum { DAEMON_MESSAGE_SIZE_MAX = PROTOCOL_HEADER_SIZE + (1 << 20) };

struct daemon {
    char directory[64];
    char path[96];
    struct listener *listener;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct exchange *head; /* oldest first */
    struct exchange **tail;
    struct exchange *held;
    uint32_t held_count;
    bool stopping;
    uint32_t last_uid;
    _Atomic uint64_t handled_count; /* requests that the handler was given */

    /* Of one that is turned. */
    struct doorbell doorbell;
    pthread_mutex_t turning; /* held by whoever is the listener's thread for now */
    _Atomic bool turning_wanted;
};

/* Waits up to ten seconds for a condition that another thread or the kernel brings about. */
#define EVENTUALLY(condition)                                                                      \
    ({                                                                                             \
        bool met = (condition);                                                                    \
        for (int tries = 0; !met && tries < 10000; tries++) {                                      \
            poll(NULL, 0, 1);                                                                      \
            met = (condition);                                                                     \
        }                                                                                          \
        met;                                                                                       \
    })

UNUSED_OK static uint32_t fd_count(void)
{
    DIR *directory = opendir("/proc/self/fd");
    cr_assert(directory != NULL);
    uint32_t count = 0;
    while (readdir(directory) != NULL) {
        count++;
    }
    closedir(directory);
    return count;
}

UNUSED_OK static uint32_t thread_count(void)
{
    DIR *tasks = opendir("/proc/self/task");
    uint32_t count = 0;
    while (readdir(tasks) != NULL) {
        count++;
    }
    closedir(tasks);
    return count;
}

static void daemon_echo(struct exchange *exchange)
{
    struct reply_header header =
        protocol_reply_header(&exchange->header, RESULT_OK, exchange->header.body_size);
    header.commit = 42;
    exchange_reply(exchange, &header, sizeof header, exchange_body(exchange),
                   exchange->header.body_size);
}

static void daemon_serve(struct daemon *daemon, struct exchange *exchange)
{
    const uint8_t *body = exchange_body(exchange);
    const uint8_t command =
        exchange->header.operation == OPERATION_PING && exchange->header.body_size > 0 ? body[0]
                                                                                       : 'e';
    daemon->last_uid = exchange->peer_uid;
    switch (command) {
    case 'r': {
        uint32_t size;
        memcpy(&size, body + 1, sizeof size);
        const struct reply_header header =
            protocol_reply_header(&exchange->header, RESULT_OK, size);
        /* A bigger buffer than needed: its end is cut off. */
        const uint32_t room = PROTOCOL_HEADER_SIZE + size + (size < 1000 ? 100 : 0);
        uint8_t *reply = exchange_reply_buffer(exchange, room);
        cr_assert(reply != NULL);
        memcpy(reply, &header, sizeof header);
        for (uint32_t i = 0; i < size; i++) {
            reply[sizeof header + i] = (uint8_t)i;
        }
        exchange_send(exchange, PROTOCOL_HEADER_SIZE + size);
        break;
    }
    case 'h':
        pthread_mutex_lock(&daemon->mutex);
        exchange->next = daemon->held;
        daemon->held = exchange;
        daemon->held_count++;
        pthread_mutex_unlock(&daemon->mutex);
        break;
    case 'd':
        exchange_drop(exchange);
        break;
    case 'n': {
        const uint64_t number = (uint64_t)(uintptr_t)exchange->context;
        const struct reply_header header =
            protocol_reply_header(&exchange->header, RESULT_OK, sizeof number);
        exchange_reply(exchange, &header, sizeof header, &number, sizeof number);
        break;
    }
    default:
        daemon_echo(exchange);
        break;
    }
}

/* With the mutex. Serves all that is queued. */
static void daemon_serve_all(struct daemon *daemon)
{
    while (daemon->head != NULL) {
        struct exchange *exchange = daemon->head;
        daemon->head = exchange->next;
        if (daemon->head == NULL) {
            daemon->tail = &daemon->head;
        }
        pthread_mutex_unlock(&daemon->mutex);
        daemon_serve(daemon, exchange);
        pthread_mutex_lock(&daemon->mutex);
    }
}

static void *daemon_run(void *context)
{
    struct daemon *daemon = context;
    pthread_mutex_lock(&daemon->mutex);
    for (daemon_serve_all(daemon); !daemon->stopping; daemon_serve_all(daemon)) {
        pthread_cond_wait(&daemon->changed, &daemon->mutex);
    }
    pthread_mutex_unlock(&daemon->mutex);
    return NULL;
}

/* The loop of a server that turns its listener. */
static void *daemon_turn(void *context)
{
    enum { SLEEP_NS = 20 * 1000 * 1000 };
    struct daemon *daemon = context;
    for (bool stopping = false; !stopping;) {
        pthread_mutex_lock(&daemon->turning);
        const uint64_t seen = doorbell_count(&daemon->doorbell);
        pthread_mutex_lock(&daemon->mutex);
        const bool any = daemon->head != NULL;
        daemon_serve_all(daemon);
        stopping = daemon->stopping;
        pthread_mutex_unlock(&daemon->mutex);
        listener_wait(daemon->listener, seen, any || stopping ? 0 : SLEEP_NS);
        pthread_mutex_unlock(&daemon->turning);
        while (daemon->turning_wanted) {
            poll(NULL, 0, 1);
        }
    }
    return NULL;
}

/* From here to daemon_turn_end the caller is the thread that turns the listener. */
static void daemon_turn_begin(struct daemon *daemon)
{
    daemon->turning_wanted = true;
    doorbell_ring(&daemon->doorbell);
    pthread_mutex_lock(&daemon->turning);
}

static void daemon_turn_end(struct daemon *daemon)
{
    pthread_mutex_unlock(&daemon->turning);
    daemon->turning_wanted = false;
}

/* Who turns the listener is the one who answers, too. */
UNUSED_OK static bool daemon_drain(struct daemon *daemon, uint32_t timeout_ms)
{
    if (!daemon_turned) {
        return listener_drain(daemon->listener, timeout_ms);
    }
    enum { STEP_MS = 2 };
    bool drained = false;
    for (uint32_t waited_ms = 0; !drained && waited_ms <= timeout_ms; waited_ms += STEP_MS) {
        daemon_turn_begin(daemon);
        pthread_mutex_lock(&daemon->mutex);
        daemon_serve_all(daemon);
        pthread_mutex_unlock(&daemon->mutex);
        drained = listener_drain(daemon->listener, STEP_MS);
        daemon_turn_end(daemon);
    }
    return drained;
}

/* Joins who answers, who answers all that is queued before, and stops the listener. */
UNUSED_OK static void daemon_listener_stop(struct daemon *daemon)
{
    pthread_mutex_lock(&daemon->mutex);
    daemon->stopping = true;
    pthread_cond_signal(&daemon->changed);
    pthread_mutex_unlock(&daemon->mutex);
    doorbell_ring(&daemon->doorbell);
    pthread_join(daemon->thread, NULL);
    listener_stop(daemon->listener);
    daemon->listener = NULL;
}

static void daemon_handle(void *context, struct exchange *exchange)
{
    struct daemon *daemon = context;
    exchange->context = (void *)(uintptr_t)++daemon->handled_count;
    cr_assert(exchange->header.magic == PROTOCOL_MAGIC);
    cr_assert(exchange->request_size == PROTOCOL_HEADER_SIZE + exchange->header.body_size);
    if (exchange->header.body_size > 0 && exchange_body(exchange)[0] == 'i' &&
        exchange->header.operation == OPERATION_PING) {
        exchange_reply_result(exchange, RESULT_BUSY, NULL);
        return;
    }
    pthread_mutex_lock(&daemon->mutex);
    exchange->next = NULL;
    *daemon->tail = exchange;
    daemon->tail = &exchange->next;
    pthread_cond_signal(&daemon->changed);
    pthread_mutex_unlock(&daemon->mutex);
}

UNUSED_OK static void daemon_directory(struct daemon *daemon)
{
    memset(daemon, 0, sizeof *daemon);
    strcpy(daemon->directory, "/tmp/holt-ipc-XXXXXX");
    cr_assert(mkdtemp(daemon->directory) != NULL);
    snprintf(daemon->path, sizeof daemon->path, "%s/socket", daemon->directory);
}

UNUSED_OK static void daemon_start_with(struct daemon *daemon, struct listener_options options)
{
    daemon->handled_count = 0;
    pthread_mutex_init(&daemon->mutex, NULL);
    pthread_cond_init(&daemon->changed, NULL);
    daemon->head = NULL;
    daemon->tail = &daemon->head;
    daemon->held = NULL;
    daemon->held_count = 0;
    daemon->stopping = false;
    doorbell_init(&daemon->doorbell);
    pthread_mutex_init(&daemon->turning, NULL);
    daemon->turning_wanted = false;
    options.kind = daemon_kind;
    options.doorbell = daemon_turned ? &daemon->doorbell : NULL;
    options.socket_path = daemon->path;
    if (options.message_size_max == 0) {
        options.message_size_max = DAEMON_MESSAGE_SIZE_MAX;
    }
    const char *reason;
    const enum status status =
        listener_start(&options, daemon_handle, daemon, &daemon->listener, &reason);
    cr_assert(status == STATUS_OK, "%s: %s", status_text(status), reason);
    cr_assert(pthread_create(&daemon->thread, NULL, daemon_turned ? daemon_turn : daemon_run,
                             daemon) == 0);
}

UNUSED_OK static void daemon_start(struct daemon *daemon)
{
    daemon_directory(daemon);
    daemon_start_with(daemon, (struct listener_options){0});
}

UNUSED_OK static void daemon_release(struct daemon *daemon)
{
    pthread_mutex_lock(&daemon->mutex);
    struct exchange *held = daemon->held;
    daemon->held = NULL;
    daemon->held_count = 0;
    pthread_mutex_unlock(&daemon->mutex);
    while (held != NULL) {
        struct exchange *next = held->next;
        daemon_echo(held);
        held = next;
    }
}

UNUSED_OK static uint32_t daemon_held(struct daemon *daemon)
{
    pthread_mutex_lock(&daemon->mutex);
    const uint32_t count = daemon->held_count;
    pthread_mutex_unlock(&daemon->mutex);
    return count;
}

/* The order of the real daemon: stop accepting, drain, join who answers, stop. */
UNUSED_OK static void daemon_stop(struct daemon *daemon)
{
    listener_stop_accepting(daemon->listener);
    daemon_release(daemon);
    cr_assert(daemon_drain(daemon, 5000));
    daemon_listener_stop(daemon);
    doorbell_deinit(&daemon->doorbell);
    pthread_mutex_destroy(&daemon->turning);
    pthread_cond_destroy(&daemon->changed);
    pthread_mutex_destroy(&daemon->mutex);
}

UNUSED_OK static void daemon_end(struct daemon *daemon)
{
    daemon_stop(daemon);
    unlink(daemon->path);
    cr_assert(rmdir(daemon->directory) == 0);
}

UNUSED_OK static struct client *daemon_client(const struct daemon *daemon)
{
    struct client *client;
    const enum client_status status = client_open(
        &(struct client_options){.socket_path = daemon->path, .connect_timeout_ms = 20 * 1000},
        &client);
    cr_assert(status == CLIENT_OK, "%s", client_status_text(status));
    return client;
}

/* One request on a new connection. */
UNUSED_OK static bool daemon_serves(const struct daemon *daemon)
{
    struct client *client;
    if (client_open(&(struct client_options){.socket_path = daemon->path}, &client) != CLIENT_OK) {
        return false;
    }
    struct client_reply reply;
    const bool served = client_call(client, OPERATION_PING, "e", 1, 5000, &reply) == CLIENT_OK &&
                        reply.result == RESULT_OK && reply.body_size == 1 && reply.body[0] == 'e';
    client_close(client);
    return served;
}

/* ---- Raw bytes ---------------------------------------------------------------------------------
 */

UNUSED_OK static int raw_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(fd >= 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Returns false when the peer has hung up. */
UNUSED_OK static bool raw_send(int fd, const void *bytes, size_t size)
{
    return send(fd, bytes, size, MSG_NOSIGNAL) == (ssize_t)size;
}

/* Exactly `size` bytes, or false. */
UNUSED_OK static bool raw_receive(int fd, void *bytes, size_t size)
{
    return recv(fd, bytes, size, MSG_WAITALL) == (ssize_t)size;
}

UNUSED_OK static int raw_greeted(const char *path)
{
    const int fd = raw_connect(path);
    cr_assert(fd >= 0);
    uint8_t greeting[8];
    cr_assert(raw_send(fd, "\0SP\0\0\x30\0\0", 8));
    cr_assert(raw_receive(fd, greeting, 8));
    cr_assert(memcmp(greeting, "\0SP\0\0\x31\0\0", 8) == 0);
    return fd;
}

UNUSED_OK static bool raw_frame(int fd, uint32_t id, const void *message, uint32_t size)
{
    uint8_t *frame = malloc(13 + size);
    const uint64_t whole = 4 + (uint64_t)size;
    frame[0] = 1;
    for (int i = 0; i < 8; i++) {
        frame[1 + i] = (uint8_t)(whole >> (56 - 8 * i));
    }
    id |= 0x80000000u;
    for (int i = 0; i < 4; i++) {
        frame[9 + i] = (uint8_t)(id >> (24 - 8 * i));
    }
    memcpy(frame + 13, message, size);
    const bool sent = raw_send(fd, frame, 13 + size);
    free(frame);
    return sent;
}

/* A whole PING; returns its size. */
UNUSED_OK static uint32_t raw_ping(uint8_t *message, uint64_t number, const void *body,
                                   uint32_t body_size)
{
    const struct request_header header = {.magic = PROTOCOL_MAGIC,
                                          .version = PROTOCOL_VERSION,
                                          .operation = OPERATION_PING,
                                          .number = number,
                                          .body_size = body_size};
    memcpy(message, &header, sizeof header);
    memcpy(message + sizeof header, body, body_size);
    return (uint32_t)sizeof header + body_size;
}
