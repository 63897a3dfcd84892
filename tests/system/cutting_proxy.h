/* Stands between a client and the daemon and does to a part of the writes what a network and a
 * nervous client would: it hangs up before a request, behind it, or in place of its answer, and
 * sends requests twice, at once or when they are answered. What is sent twice must be answered
 * alike; the client is given one of the answers.
 *
 * A process of its own, one thread. Of each connection it knows the frames (ipc/sp.h) and of these
 * the headers (ipc/protocol.h). Copies travel under the request's SP id with one bit more. */
#pragma once

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "ipc/protocol.h"
#include "ipc/sp.h"

enum {
    CUT_CONNECTIONS_MAX = 8,
    CUT_BUFFER_SIZE = 1 << 18,
    CUT_FRAME_MAX = 4096, /* of a write that something is done to, and of its answer */
    CUT_PENDING_MAX = 64,
    CUT_ENVELOPE_SIZE = SP_FRAME_HEADER_SIZE + SP_REQUEST_ID_SIZE,
};
#define CUT_COPY_BIT (1u << 30)

/* Shared with whoever started it. */
struct cut_report {
    _Atomic uint64_t writes;         /* seen, those that were sent again among them */
    _Atomic uint64_t hung_up;        /* connections ended in the middle of a write */
    _Atomic uint64_t doubled;        /* writes sent twice */
    _Atomic uint64_t equal;          /* of these, answered with the same bytes */
    _Atomic uint64_t busy;           /* of these, one of the answers was to come again later */
    _Atomic uint64_t different;      /* a lie */
    _Atomic uint64_t not_understood; /* frames; there should be none */
};

struct cut_options {
    const char *path;        /* where to listen */
    const char *daemon_path; /* where the daemon does */
    uint32_t hang_up_permille;
    uint32_t double_permille;
    struct cut_report *report;
};

enum cut_fate {
    CUT_FATE_NONE,
    CUT_FATE_HANG_UP_BEFORE,
    CUT_FATE_HANG_UP_BEHIND,
    CUT_FATE_LOSE_ANSWER,
    CUT_FATE_DOUBLE_NOW,
    CUT_FATE_DOUBLE_LATE, /* when it is answered */
};

/* A write that something is done to, until its answers are there. */
struct cut_pending {
    enum cut_fate fate; /* NONE: free */
    uint32_t id;
    uint8_t frame[CUT_FRAME_MAX]; /* of a late double: what is to be sent again */
    uint32_t frame_size;
    uint8_t answer[CUT_FRAME_MAX]; /* the first that came; [answer_size], 0: none */
    uint32_t answer_size;
};

struct cut_side {
    int fd;
    bool greeted;
    uint8_t *buffer; /* [CUT_BUFFER_SIZE], owned */
    size_t size;
};

struct cut_connection {
    bool open;
    struct cut_side client;
    struct cut_side daemon;
    struct cut_pending pending[CUT_PENDING_MAX];
};

struct cut_proxy {
    struct cut_options options;
    uint64_t random;
    struct cut_connection connections[CUT_CONNECTIONS_MAX];
};

static inline uint32_t cut_random(struct cut_proxy *proxy, uint32_t bound)
{
    proxy->random ^= proxy->random << 13;
    proxy->random ^= proxy->random >> 7;
    proxy->random ^= proxy->random << 17;
    return (uint32_t)((proxy->random >> 32) % bound);
}

static inline void cut_close(struct cut_connection *connection)
{
    close(connection->client.fd);
    close(connection->daemon.fd);
    connection->open = false;
}

static inline bool cut_send(int fd, const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        const ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) {
            continue;
        }
        if (sent <= 0) {
            return false;
        }
        bytes += sent;
        size -= (size_t)sent;
    }
    return true;
}

static inline struct cut_pending *cut_pending_find(struct cut_connection *connection, uint32_t id)
{
    for (uint32_t i = 0; i < CUT_PENDING_MAX; i++) {
        struct cut_pending *pending = &connection->pending[i];
        if (pending->fate != CUT_FATE_NONE && pending->id == id) {
            return pending;
        }
    }
    return NULL;
}

static inline struct cut_pending *cut_pending_add(struct cut_connection *connection,
                                                  enum cut_fate fate, uint32_t id)
{
    for (uint32_t i = 0; i < CUT_PENDING_MAX; i++) {
        struct cut_pending *pending = &connection->pending[i];
        if (pending->fate == CUT_FATE_NONE) {
            pending->fate = fate;
            pending->id = id;
            pending->frame_size = 0;
            pending->answer_size = 0;
            return pending;
        }
    }
    return NULL;
}

/* Of a frame that is small enough to keep. */
static inline bool cut_is_numbered_write(const uint8_t *frame, size_t size)
{
    static const uint8_t nobody[WIRE_ID_SIZE];
    struct request_header header;
    if (size < CUT_ENVELOPE_SIZE + sizeof header || size > CUT_FRAME_MAX) {
        return false;
    }
    memcpy(&header, frame + CUT_ENVELOPE_SIZE, sizeof header);
    return header.operation == OPERATION_WRITE &&
           memcmp(header.client_id, nobody, sizeof nobody) != 0;
}

static inline enum cut_fate cut_choose(struct cut_proxy *proxy)
{
    const uint32_t roll = cut_random(proxy, 1000);
    if (roll < proxy->options.hang_up_permille) {
        return CUT_FATE_HANG_UP_BEFORE + (enum cut_fate)cut_random(proxy, 3);
    }
    if (roll < proxy->options.hang_up_permille + proxy->options.double_permille) {
        return CUT_FATE_DOUBLE_NOW + (enum cut_fate)cut_random(proxy, 2);
    }
    return CUT_FATE_NONE;
}

static inline bool cut_send_copy(struct cut_connection *connection, uint8_t *frame, size_t size,
                                 uint32_t id)
{
    sp_store(frame + SP_FRAME_HEADER_SIZE, id | CUT_COPY_BIT, SP_REQUEST_ID_SIZE);
    return cut_send(connection->daemon.fd, frame, size);
}

/* A whole frame of the client's. False: the connection is to end. */
static inline bool cut_request(struct cut_proxy *proxy, struct cut_connection *connection,
                               uint8_t *frame, size_t size)
{
    struct cut_report *report = proxy->options.report;
    const uint32_t id = (uint32_t)sp_load(frame + SP_FRAME_HEADER_SIZE, SP_REQUEST_ID_SIZE);
    if ((id & CUT_COPY_BIT) != 0) {
        report->not_understood += 1;
        return false;
    }
    if (!cut_is_numbered_write(frame, size)) {
        return cut_send(connection->daemon.fd, frame, size);
    }
    report->writes += 1;
    const enum cut_fate fate = cut_choose(proxy);
    struct cut_pending *pending = NULL;
    if (fate >= CUT_FATE_LOSE_ANSWER) {
        pending = cut_pending_add(connection, fate, id);
    }
    if (fate == CUT_FATE_HANG_UP_BEFORE) {
        report->hung_up += 1;
        return false;
    }
    bool good = cut_send(connection->daemon.fd, frame, size);
    if (fate == CUT_FATE_HANG_UP_BEHIND) {
        report->hung_up += 1;
        return false;
    }
    if (good && pending != NULL && fate == CUT_FATE_DOUBLE_NOW) {
        report->doubled += 1;
        good = cut_send_copy(connection, frame, size, id);
    } else if (pending != NULL && fate == CUT_FATE_DOUBLE_LATE) {
        memcpy(pending->frame, frame, size);
        pending->frame_size = (uint32_t)size;
    }
    return good;
}

static inline bool cut_is_busy(const uint8_t *frame)
{
    struct reply_header header;
    memcpy(&header, frame + CUT_ENVELOPE_SIZE, sizeof header);
    return header.result == RESULT_BUSY;
}

static inline void cut_keep(struct cut_pending *pending, const uint8_t *frame, size_t size)
{
    memcpy(pending->answer, frame, size);
    pending->answer_size = (uint32_t)size;
}

/* Both answers to one number are there. Keeps the one that the client is to have: BUSY says that
 * nothing happened, and must not be told if the other was executed. */
static inline void cut_compare(struct cut_report *report, struct cut_pending *pending,
                               const uint8_t *frame, size_t size)
{
    if (cut_is_busy(pending->answer) || cut_is_busy(frame)) {
        report->busy += 1;
        if (cut_is_busy(pending->answer)) {
            cut_keep(pending, frame, size);
        }
    } else if (size == pending->answer_size &&
               memcmp(pending->answer + CUT_ENVELOPE_SIZE, frame + CUT_ENVELOPE_SIZE,
                      size - CUT_ENVELOPE_SIZE) == 0) {
        report->equal += 1;
    } else {
        report->different += 1;
    }
    sp_store(pending->answer + SP_FRAME_HEADER_SIZE, pending->id, SP_REQUEST_ID_SIZE);
}

/* A whole frame of the daemon's. False: the connection is to end. */
static inline bool cut_answer(struct cut_proxy *proxy, struct cut_connection *connection,
                              const uint8_t *frame, size_t size)
{
    struct cut_report *report = proxy->options.report;
    const uint32_t id = (uint32_t)sp_load(frame + SP_FRAME_HEADER_SIZE, SP_REQUEST_ID_SIZE);
    struct cut_pending *pending = cut_pending_find(connection, id & ~CUT_COPY_BIT);
    if (pending == NULL) {
        return cut_send(connection->client.fd, frame, size);
    }
    if (size > CUT_FRAME_MAX || size < CUT_ENVELOPE_SIZE + sizeof(struct reply_header)) {
        report->not_understood += 1;
        return false;
    }
    if (pending->fate == CUT_FATE_LOSE_ANSWER) {
        report->hung_up += 1;
        return false;
    }
    if (pending->answer_size == 0) {
        cut_keep(pending, frame, size);
        if (pending->fate == CUT_FATE_DOUBLE_NOW) {
            return true;
        }
        if (!cut_is_busy(frame)) {
            report->doubled += 1;
            return cut_send_copy(connection, pending->frame, pending->frame_size, pending->id);
        }
    } else {
        cut_compare(report, pending, frame, size);
    }
    pending->fate = CUT_FATE_NONE;
    return cut_send(connection->client.fd, pending->answer, pending->answer_size);
}

/* Takes in what there is, and passes whole frames on. False: the connection is to end. */
static inline bool cut_pass(struct cut_proxy *proxy, struct cut_connection *connection,
                            struct cut_side *from)
{
    const struct cut_side *to =
        from == &connection->client ? &connection->daemon : &connection->client;
    const ssize_t got =
        recv(from->fd, from->buffer + from->size, CUT_BUFFER_SIZE - from->size, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return true;
    }
    if (got <= 0) {
        return false;
    }
    from->size += (size_t)got;
    size_t at = 0;
    if (!from->greeted && from->size >= SP_GREETING_SIZE) {
        from->greeted = true;
        at = SP_GREETING_SIZE;
        if (!cut_send(to->fd, from->buffer, at)) {
            return false;
        }
    }
    while (from->greeted && from->size - at >= CUT_ENVELOPE_SIZE) {
        uint8_t *frame = from->buffer + at;
        const uint64_t rest = sp_load(frame + 1, 8);
        if (frame[0] != SP_FRAME_MARK || rest > CUT_BUFFER_SIZE - SP_FRAME_HEADER_SIZE) {
            proxy->options.report->not_understood += 1;
            return false;
        }
        const size_t size = SP_FRAME_HEADER_SIZE + (size_t)rest;
        if (from->size - at < size) {
            break;
        }
        const bool good = from == &connection->client ? cut_request(proxy, connection, frame, size)
                                                      : cut_answer(proxy, connection, frame, size);
        if (!good) {
            return false;
        }
        at += size;
    }
    memmove(from->buffer, from->buffer + at, from->size - at);
    from->size -= at;
    return true;
}

static inline void cut_accept(struct cut_proxy *proxy, int listener)
{
    const int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0) {
        return;
    }
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, proxy->options.daemon_path);
    const int daemon = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct cut_connection *connection = proxy->connections;
    while (connection < proxy->connections + CUT_CONNECTIONS_MAX && connection->open) {
        connection += 1;
    }
    if (connection == proxy->connections + CUT_CONNECTIONS_MAX || daemon < 0 ||
        connect(daemon, (const struct sockaddr *)&address, sizeof address) != 0) {
        close(daemon);
        close(client);
        return;
    }
    connection->open = true;
    connection->client.fd = client;
    connection->daemon.fd = daemon;
    struct cut_side *sides[] = {&connection->client, &connection->daemon};
    for (int i = 0; i < 2; i++) {
        sides[i]->greeted = false;
        sides[i]->size = 0;
    }
    for (uint32_t i = 0; i < CUT_PENDING_MAX; i++) {
        connection->pending[i].fate = CUT_FATE_NONE;
    }
}

/* Until it is killed. */
static inline void cut_run(struct cut_proxy *proxy, int listener)
{
    for (;;) {
        struct pollfd fds[2 * CUT_CONNECTIONS_MAX + 1];
        for (uint32_t i = 0; i < CUT_CONNECTIONS_MAX; i++) {
            const struct cut_connection *connection = &proxy->connections[i];
            fds[2 * i] = (struct pollfd){.fd = connection->open ? connection->client.fd : -1,
                                         .events = POLLIN};
            fds[2 * i + 1] = (struct pollfd){.fd = connection->open ? connection->daemon.fd : -1,
                                             .events = POLLIN};
        }
        fds[2 * CUT_CONNECTIONS_MAX] = (struct pollfd){.fd = listener, .events = POLLIN};
        if (poll(fds, 2 * CUT_CONNECTIONS_MAX + 1, -1) < 0) {
            continue;
        }
        for (uint32_t i = 0; i < CUT_CONNECTIONS_MAX; i++) {
            struct cut_connection *connection = &proxy->connections[i];
            if ((fds[2 * i].revents != 0 && !cut_pass(proxy, connection, &connection->client)) ||
                (fds[2 * i + 1].revents != 0 &&
                 !cut_pass(proxy, connection, &connection->daemon))) {
                cut_close(connection);
            }
        }
        if (fds[2 * CUT_CONNECTIONS_MAX].revents != 0) {
            cut_accept(proxy, listener);
        }
    }
}

/* Its process, which listens when this returns and dies with the caller's; -1: errno says why. */
static inline pid_t cut_start(const struct cut_options *options)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(options->path) >= sizeof address.sun_path ||
        strlen(options->daemon_path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(address.sun_path, options->path);
    const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (const struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, CUT_CONNECTIONS_MAX) != 0) {
        return -1;
    }
    const pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct cut_proxy *proxy = calloc(1, sizeof *proxy);
        if (proxy == NULL) {
            _exit(71);
        }
        proxy->options = *options;
        proxy->random = 88172645463325252u;
        for (uint32_t i = 0; i < CUT_CONNECTIONS_MAX; i++) {
            proxy->connections[i].client.buffer = malloc(CUT_BUFFER_SIZE);
            proxy->connections[i].daemon.buffer = malloc(CUT_BUFFER_SIZE);
            if (proxy->connections[i].client.buffer == NULL ||
                proxy->connections[i].daemon.buffer == NULL) {
                _exit(71);
            }
        }
        cut_run(proxy, listener);
    }
    close(listener);
    return pid;
}
