/* Clients that take more than their part, or misbehave: what benchmarks/ipc/fair_load.c measures
 * the cost of for somebody else, and tests/system/flood_client.c counts. Raw bytes over one epoll,
 * so that an attack costs the machine little beside what it costs the daemon.
 *
 *   FLOOD    keeps so many requests in flight on so many connections; waits as it is told by BUSY
 *   DEAF     the same, and never reads an answer; comes back when its connection is closed
 *   DIE      connects, sends the first n bytes of greeting and request, hangs up; for each n
 *   STORM    connects and hangs up */
#pragma once

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "ipc/protocol.h"
#include "ipc/sp.h"
#include "pool/base.h"
#include "pool/clock.h"

enum {
    ATTACK_OBJECT_SIZE = 128,
    ATTACK_EVENT_MAX = 400,
    ATTACK_HEAD_SIZE = SP_FRAME_HEADER_SIZE + SP_REQUEST_ID_SIZE + PROTOCOL_HEADER_SIZE,
    ATTACK_BODY_MAX = sizeof(struct wire_section) + ATTACK_EVENT_MAX * ATTACK_OBJECT_SIZE,
};

enum attack_kind { ATTACK_FLOOD, ATTACK_DEAF, ATTACK_DIE, ATTACK_STORM };

struct attack {
    const char *name;
    enum attack_kind kind;
    enum operation operation;
    uint32_t connections, in_flight;
    uint32_t events;           /* of a write; ids of a lookup: 1 */
    uint32_t idle_connections; /* beside those, greeted and silent */
};

/* The groove that all of this is about: `same` is indexed. */
static inline void attack_groove_spec(struct wire_groove_spec *spec, const char *name)
{
    *spec = (struct wire_groove_spec){.field_count = 2, .index_count = 1};
    (void)snprintf(spec->name, sizeof spec->name, "%s", name);
    (void)snprintf(spec->fields[0].name, sizeof spec->fields[0].name, "same");
    spec->fields[0].type = WIRE_FIELD_TYPE_U64;
    (void)snprintf(spec->fields[1].name, sizeof spec->fields[1].name, "payload");
    spec->fields[1].type = WIRE_FIELD_TYPE_BYTES;
    spec->fields[1].size = ATTACK_OBJECT_SIZE - sizeof(struct wire_object_header) - 8;
    (void)snprintf(spec->indexes[0].name, sizeof spec->indexes[0].name, "by_same");
    spec->indexes[0].field_count = 1;
}

/* Of objects with the ids from `first` on and this value of `same`. Returns its size. */
static inline uint32_t attack_write_body(uint8_t *body, uint32_t groove_id, uint64_t first,
                                         uint32_t count, uint64_t same)
{
    const struct wire_section section = {
        .groove_id = groove_id, .event_type = WIRE_EVENT_TYPE_UPSERT, .event_count = count};
    memcpy(body, &section, sizeof section);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *image = body + sizeof section + (size_t)i * ATTACK_OBJECT_SIZE;
        const uint64_t id = first + i;
        memset(image, 0, ATTACK_OBJECT_SIZE);
        memcpy(image, &id, sizeof id);
        memcpy(image + sizeof(struct wire_object_header), &same, sizeof same);
    }
    return (uint32_t)sizeof section + count * ATTACK_OBJECT_SIZE;
}

/* What `operation` asks for: a write of `events` objects from `first` on, a lookup of that id, a
 * query or count of all whose `same` is 1. Returns its size. */
static inline uint32_t attack_body(uint8_t *body, enum operation operation, uint32_t groove_id,
                                   uint64_t first, uint32_t events)
{
    if (operation == OPERATION_WRITE) {
        return attack_write_body(body, groove_id, first, events, 0);
    }
    if (operation == OPERATION_LOOKUP) {
        const struct lookup_request lookup = {.groove_id = groove_id, .id_count = 1};
        memcpy(body, &lookup, sizeof lookup);
        memset(body + sizeof lookup, 0, WIRE_ID_SIZE);
        memcpy(body + sizeof lookup, &first, sizeof first);
        return (uint32_t)sizeof lookup + WIRE_ID_SIZE;
    }
    if (operation == OPERATION_QUERY || operation == OPERATION_COUNT) {
        const struct query_request query = {.groove_id = groove_id, .key_size = 8};
        const uint64_t same = 1;
        memcpy(body, &query, sizeof query);
        memcpy(body + sizeof query, &same, sizeof same);
        return (uint32_t)sizeof query + 8;
    }
    return 0;
}

/* ---- One connection ----------------------------------------------------------------------------
 */

struct attack_connection {
    int fd; /* -1: not connected */
    uint32_t in_flight;
    uint8_t *frame; /* [frame_size], owned: one request, sent again and again */
    uint32_t frame_size;
    uint32_t sent_size; /* of a frame that the kernel took in part */
    uint8_t head[ATTACK_HEAD_SIZE];
    uint32_t head_size; /* of the answer that comes, so far */
    uint64_t left;      /* bytes of its body still to come */
    uint64_t pause_end_ns;
};

static inline _Noreturn void attack_end(const char *what)
{
    perror(what);
    _exit(1);
}

/* -1: refused. */
static inline int attack_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strnlen(path, sizeof address.sun_path - 1));
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        attack_end("socket");
    }
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static inline bool attack_greet(int fd)
{
    uint8_t greeting[SP_GREETING_SIZE];
    return send(fd, sp_greeting_request, sizeof greeting, MSG_NOSIGNAL) == sizeof greeting &&
           recv(fd, greeting, sizeof greeting, MSG_WAITALL) == sizeof greeting;
}

static inline void attack_frame(struct attack_connection *connection, enum operation operation,
                                uint32_t groove_id, uint64_t first, uint32_t events)
{
    static uint8_t body[ATTACK_BODY_MAX];
    const struct request_header header = {
        .magic = PROTOCOL_MAGIC,
        .version = PROTOCOL_VERSION,
        .operation = (uint16_t)operation,
        .number = 1,
        .body_size = attack_body(body, operation, groove_id, first, events),
    };
    connection->frame_size = ATTACK_HEAD_SIZE + header.body_size;
    connection->frame = malloc(connection->frame_size);
    if (connection->frame == NULL) {
        attack_end("malloc");
    }
    uint8_t *at = connection->frame;
    sp_frame_header(at, SP_REQUEST_ID_SIZE + sizeof header + header.body_size);
    sp_store(at + SP_FRAME_HEADER_SIZE, sp_request_id_flag | 1, SP_REQUEST_ID_SIZE);
    memcpy(at + SP_FRAME_HEADER_SIZE + SP_REQUEST_ID_SIZE, &header, sizeof header);
    memcpy(at + ATTACK_HEAD_SIZE, body, header.body_size);
}

/* False: the connection is at its end. */
static inline bool attack_send(struct attack_connection *connection, uint32_t in_flight)
{
    while (connection->in_flight < in_flight &&
           (connection->sent_size > 0 ||
            clock_monotonic_ns(&clock_system) >= connection->pause_end_ns)) {
        const ssize_t size =
            send(connection->fd, connection->frame + connection->sent_size,
                 connection->frame_size - connection->sent_size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (size < 0) {
            return errno == EAGAIN || errno == EINTR;
        }
        connection->sent_size += (uint32_t)size;
        if (connection->sent_size == connection->frame_size) {
            connection->sent_size = 0;
            connection->in_flight += 1;
        }
    }
    return true;
}

static inline void attack_answered(struct attack_connection *connection)
{
    struct reply_header header;
    memcpy(&header, connection->head + SP_FRAME_HEADER_SIZE + SP_REQUEST_ID_SIZE, sizeof header);
    if (header.magic != PROTOCOL_MAGIC || connection->in_flight == 0) {
        attack_end("the daemon speaks nonsense");
    }
    connection->in_flight -= 1;
    if (header.result == RESULT_BUSY) {
        connection->pause_end_ns =
            clock_monotonic_ns(&clock_system) + header.retry_after_ms * UINT64_C(1000000);
    } else if (header.result != RESULT_OK) {
        fprintf(stderr, "attack: %s\n", result_name((enum result)header.result));
        _exit(1);
    }
    connection->head_size = 0;
}

/* False: the connection is at its end. */
static inline bool attack_receive(struct attack_connection *connection)
{
    static uint8_t input[256 * 1024];
    for (;;) {
        const ssize_t size = recv(connection->fd, input, sizeof input, MSG_DONTWAIT);
        if (size <= 0) {
            return size < 0 && (errno == EAGAIN || errno == EINTR);
        }
        for (size_t at = 0; at < (size_t)size;) {
            if (connection->head_size < ATTACK_HEAD_SIZE) {
                const size_t part =
                    min_u64((size_t)size - at, ATTACK_HEAD_SIZE - connection->head_size);
                memcpy(connection->head + connection->head_size, input + at, part);
                connection->head_size += (uint32_t)part;
                at += part;
                if (connection->head_size < ATTACK_HEAD_SIZE) {
                    break;
                }
                connection->left =
                    sp_load(connection->head + 1, 8) - SP_REQUEST_ID_SIZE - PROTOCOL_HEADER_SIZE;
            }
            const size_t part = min_u64((size_t)size - at, connection->left);
            connection->left -= part;
            at += part;
            if (connection->left == 0) {
                attack_answered(connection);
            }
        }
    }
}

/* ---- Attacks -----------------------------------------------------------------------------------
 */

static inline void attack_join(const char *path, int epoll_fd, struct attack_connection *connection)
{
    if (connection->fd >= 0) {
        close(connection->fd);
    }
    connection->in_flight = 0;
    connection->sent_size = 0;
    connection->head_size = 0;
    connection->left = 0;
    connection->fd = attack_connect(path);
    if (connection->fd >= 0 && !attack_greet(connection->fd)) {
        close(connection->fd);
        connection->fd = -1;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = connection};
    if (connection->fd >= 0 && epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connection->fd, &event) != 0) {
        attack_end("epoll_ctl");
    }
}

static inline _Noreturn void attack_flood(const struct attack *attack, const char *path,
                                          uint32_t groove_id)
{
    enum { EVENT_COUNT = 64, LOOK_MS = 1 };
    const int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct attack_connection *connections = calloc(attack->connections, sizeof *connections);
    if (epoll_fd < 0 || connections == NULL) {
        attack_end("attack");
    }
    for (uint32_t i = 0; i < attack->idle_connections; i++) {
        const int fd = attack_connect(path);
        if (fd < 0 || !attack_greet(fd)) {
            attack_end("an idle connection");
        }
    }
    for (uint32_t i = 0; i < attack->connections; i++) {
        attack_frame(&connections[i], attack->operation, groove_id,
                     1 + i * (uint64_t)ATTACK_EVENT_MAX, attack->events);
        connections[i].fd = -1;
    }
    for (;;) {
        struct epoll_event events[EVENT_COUNT];
        const int count = epoll_wait(epoll_fd, events, EVENT_COUNT, LOOK_MS);
        for (int i = 0; i < count; i++) {
            struct attack_connection *connection = events[i].data.ptr;
            if ((attack->kind == ATTACK_FLOOD && !attack_receive(connection)) ||
                !attack_send(connection, attack->in_flight) ||
                (events[i].events & (EPOLLHUP | EPOLLERR)) != 0) {
                attack_join(path, epoll_fd, connection);
            }
        }
        if (count > 0) {
            continue;
        }
        for (uint32_t i = 0; i < attack->connections; i++) { /* Those that are to come, or wait. */
            if (connections[i].fd < 0 || !attack_send(&connections[i], attack->in_flight)) {
                attack_join(path, epoll_fd, &connections[i]);
            }
        }
    }
}

static inline void attack_die_once(const char *path, const struct attack_connection *connection,
                                   uint32_t size)
{
    uint8_t bytes[SP_GREETING_SIZE + ATTACK_HEAD_SIZE + 1024];
    const int fd = attack_connect(path);
    if (fd < 0) {
        return;
    }
    assert(connection->frame_size <= sizeof bytes - SP_GREETING_SIZE);
    memcpy(bytes, sp_greeting_request, SP_GREETING_SIZE);
    memcpy(bytes + SP_GREETING_SIZE, connection->frame, connection->frame_size);
    (void)!send(fd, bytes, size, MSG_NOSIGNAL);
    if (size % 2 == 0) { /* Half of them once they have been let in. */
        uint8_t greeting[SP_GREETING_SIZE];
        (void)!recv(fd, greeting, sizeof greeting, MSG_WAITALL);
    }
    close(fd);
}

/* `count` of them; 0: for ever. */
static inline void attack_die(const char *path, uint32_t groove_id, uint32_t count)
{
    struct attack_connection connection = {0};
    attack_frame(&connection, OPERATION_WRITE, groove_id, 1, 1);
    const uint32_t whole = SP_GREETING_SIZE + connection.frame_size;
    for (uint32_t i = 0; count == 0 || i < count; i++) {
        attack_die_once(path, &connection, i % (whole + 1));
    }
    free(connection.frame);
}

static inline void attack_storm(const char *path, uint32_t count)
{
    for (uint32_t i = 0; count == 0 || i < count; i++) {
        const int fd = attack_connect(path);
        if (fd >= 0) {
            close(fd);
        }
    }
}

/* Until it is killed. */
static inline _Noreturn void attack_run(const struct attack *attack, const char *path,
                                        uint32_t groove_id)
{
    switch (attack->kind) {
    case ATTACK_FLOOD:
    case ATTACK_DEAF:
        attack_flood(attack, path, groove_id);
    case ATTACK_DIE:
        attack_die(path, groove_id, 0);
        break;
    case ATTACK_STORM:
        attack_storm(path, 0);
        break;
    }
    _exit(1);
}
