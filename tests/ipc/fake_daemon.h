/* A daemon of a few hundred lines, for tests of clients: one groove in memory, sessions as
 * docs/protocol.md has them, and faults on demand. One thread; it answers what it has whole, and
 * may hang up, stay silent, answer late, in pieces and in another order, at each request.
 *
 * The groove "item" (id 7): objects of 48 bytes, `amount` u64 at 32 and `label` text<8> at 40, an
 * index by_label. What is kept of each object is how often it was inserted: once, or the test
 * fails. */
#pragma once

#include "ipc/sp.h"
#include "tests/harness/prng.h"
#include "tests/ipc/daemon.h"

enum {
    FAKE_CONNECTIONS_MAX = 16,
    FAKE_IDS_MAX = 1 << 16,
    FAKE_LATE_MAX = 64,
    FAKE_LANES_MAX = 64,
    FAKE_GROOVE = 7,
    FAKE_OBJECT_SIZE = 48,
    FAKE_MESSAGE_SIZE_MAX = 1 << 16,
    FAKE_BUFFER_SIZE = 1 << 20,
    FAKE_EVENTS_MAX = 100,
};

struct fake_connection {
    int fd; /* -1: none */
    bool greeted;
    uint8_t *buffer;
    size_t size;
};

struct fake_late {
    int connection;
    uint8_t *frame;
    uint32_t size;
};

struct fake {
    char directory[64];
    char path[96];
    int listener;
    pthread_t thread;
    pthread_mutex_t mutex;
    _Atomic bool stopping;

    /* What the test asks for; any time. */
    _Atomic uint64_t features;
    _Atomic uint32_t fault_percent; /* requests that meet a fault */
    _Atomic bool hold;              /* WRITEs are executed, and not answered until it is false */
    _Atomic uint32_t busy_count;    /* the next so many are answered BUSY */
    _Atomic uint32_t lose_count;    /* the next so many WRITEs are executed, their answer is lost */
    _Atomic bool refuse_session;    /* OPEN_SESSION: LIMIT */
    _Atomic bool forget_sessions;   /* once */
    _Atomic bool hang_up;           /* once: all connections */
    _Atomic bool garbage;           /* answers are noise */
    _Atomic uint32_t deny_amount;   /* a WRITE with this amount in it is refused whole: DENIED */

    /* What it saw; under the mutex, or after the end. */
    struct prng prng;
    struct fake_connection connections[FAKE_CONNECTIONS_MAX];
    struct fake_late late[FAKE_LATE_MAX];
    uint32_t late_count;
    bool session_open;
    uint8_t client_id[WIRE_ID_SIZE];
    uint32_t lane_count;
    uint64_t lane_number[FAKE_LANES_MAX];
    uint8_t *lane_reply[FAKE_LANES_MAX];
    uint32_t lane_reply_size[FAKE_LANES_MAX];
    uint8_t inserted[FAKE_IDS_MAX];
    uint64_t commit;
    uint64_t timestamp;
    _Atomic uint32_t write_count; /* WRITE messages executed */
    _Atomic uint32_t event_count;
    _Atomic uint32_t atomic_count;
    _Atomic uint32_t request_count;
    _Atomic uint32_t double_count; /* ids inserted that were there */
    _Atomic uint32_t max_deadline_ms;
};

/* ---- Bodies ------------------------------------------------------------------------------------
 */

static uint32_t fake_schema(uint8_t *body)
{
    const struct schema_reply header = {.groove_count = 1};
    const struct schema_groove groove = {.name = "item",
                                         .groove_id = FAKE_GROOVE,
                                         .object_size = FAKE_OBJECT_SIZE,
                                         .event_count_max = FAKE_EVENTS_MAX,
                                         .field_count = 2,
                                         .index_count = 1};
    const struct schema_field fields[2] = {
        {.name = "amount", .type = WIRE_FIELD_TYPE_U64, .size = 8, .offset = 32},
        {.name = "label", .type = WIRE_FIELD_TYPE_TEXT, .size = 8, .offset = 40},
    };
    const struct schema_index index = {.name = "by_label", .field_count = 1, .fields = {1}};
    uint8_t *at = body;
    memcpy(at, &header, sizeof header);
    at += sizeof header;
    memcpy(at, &groove, sizeof groove);
    at += sizeof groove;
    memcpy(at, fields, sizeof fields);
    at += sizeof fields;
    memcpy(at, &index, sizeof index);
    return (uint32_t)(at + sizeof index - body);
}

/* Executes a WRITE; the body of its reply, or RESULT_DENIED. */
static enum result fake_write(struct fake *fake, const struct request_header *request,
                              const uint8_t *body, uint8_t *reply, uint32_t *reply_size,
                              uint32_t *event_count)
{
    struct write_reply head = {0};
    struct wire_failure failures[FAKE_EVENTS_MAX];
    uint32_t index = 0;
    uint32_t at = 0;
    const uint32_t refused = fake->deny_amount;
    for (int pass = refused != 0 ? 0 : 1; pass < 2; pass++) {
        index = 0;
        for (at = 0; at < request->body_size;) {
            struct wire_section section;
            cr_assert(request->body_size - at >= sizeof section);
            memcpy(&section, body + at, sizeof section);
            at += (uint32_t)sizeof section;
            const bool image = section.event_type <= WIRE_EVENT_TYPE_UPDATE;
            const uint32_t size = (image ? FAKE_OBJECT_SIZE : WIRE_ID_SIZE) +
                                  (section.guard == WIRE_GUARD_VERSION ? 8 : 0);
            for (uint32_t i = 0; i < section.event_count; i++, index++, at += size) {
                const uint8_t *payload = body + at + (section.guard == WIRE_GUARD_VERSION ? 8 : 0);
                uint64_t id;
                uint64_t amount = 0;
                memcpy(&id, payload, sizeof id);
                if (image) {
                    memcpy(&amount, payload + 32, sizeof amount);
                }
                cr_assert(at + size <= request->body_size);
                cr_assert(id < FAKE_IDS_MAX);
                if (pass == 0) {
                    if (amount == refused) {
                        return RESULT_DENIED;
                    }
                    continue;
                }
                uint32_t result = 0;
                if (section.event_type == WIRE_EVENT_TYPE_INSERT) {
                    if (fake->inserted[id] != 0) {
                        result = WIRE_EVENT_RESULT_EXISTS;
                        fake->double_count++;
                    } else {
                        fake->inserted[id] = 1;
                    }
                } else if (section.event_type == WIRE_EVENT_TYPE_REMOVE) {
                    result = fake->inserted[id] != 0 ? 0 : WIRE_EVENT_RESULT_NOT_FOUND;
                    fake->inserted[id] = 0;
                }
                if (result != 0) {
                    head.failure_total++;
                    failures[head.failure_count++] =
                        (struct wire_failure){.event_index = index, .result = result};
                }
            }
        }
    }
    cr_assert(at == request->body_size);
    cr_assert(index <= FAKE_EVENTS_MAX);
    fake->write_count++;
    fake->event_count += index;
    fake->atomic_count += (request->flags & WIRE_REQUEST_FLAG_ATOMIC) != 0;
    memcpy(reply, &head, sizeof head);
    memcpy(reply + sizeof head, failures, head.failure_count * sizeof failures[0]);
    *reply_size = (uint32_t)(sizeof head + head.failure_count * sizeof failures[0]);
    *event_count = index;
    return RESULT_OK;
}

static uint32_t fake_session(const struct fake *fake, uint8_t *body)
{
    const struct session_reply session = {.lane_count = fake->lane_count};
    memcpy(body, &session, sizeof session);
    memcpy(body + sizeof session, fake->lane_number, fake->lane_count * sizeof(uint64_t));
    return (uint32_t)(sizeof session + fake->lane_count * sizeof(uint64_t));
}

static enum result fake_open_session(struct fake *fake, const struct request_header *request,
                                     const uint8_t *body)
{
    if (fake->refuse_session) {
        return RESULT_LIMIT;
    }
    if (!fake->session_open || memcmp(fake->client_id, request->client_id, WIRE_ID_SIZE) != 0) {
        struct open_session_request open;
        cr_assert(request->body_size == sizeof open);
        memcpy(&open, body, sizeof open);
        fake->session_open = true;
        fake->lane_count = open.lane_count;
        memcpy(fake->client_id, request->client_id, WIRE_ID_SIZE);
        memset(fake->lane_number, 0, sizeof fake->lane_number);
    }
    return RESULT_OK;
}

/* The whole reply into `reply`, header first; its size. */
static uint32_t fake_execute(struct fake *fake, const struct request_header *request,
                             const uint8_t *body, uint8_t *reply)
{
    static const uint8_t nobody[WIRE_ID_SIZE];
    const bool writes = request->operation == OPERATION_WRITE;
    const bool numbered = writes && memcmp(request->client_id, nobody, WIRE_ID_SIZE) != 0;
    struct reply_header header = protocol_reply_header(request, RESULT_OK, 0);
    uint8_t *target = reply + sizeof header;
    uint32_t size = 0;
    enum result result = RESULT_OK;
    uint32_t event_count = 0;
    if (numbered) {
        if (!fake->session_open || memcmp(fake->client_id, request->client_id, WIRE_ID_SIZE) != 0) {
            result = RESULT_NO_SESSION;
        } else if (request->lane >= fake->lane_count || request->number == 0) {
            result = RESULT_BAD_LANE;
        } else if (request->number < fake->lane_number[request->lane]) {
            result = RESULT_STALE_NUMBER;
        } else if (request->number == fake->lane_number[request->lane]) {
            memcpy(reply, fake->lane_reply[request->lane], fake->lane_reply_size[request->lane]);
            return fake->lane_reply_size[request->lane];
        }
    }
    if (result == RESULT_OK) {
        switch ((int)request->operation) {
        case OPERATION_HELLO: {
            const struct hello_reply hello = {.features = fake->features,
                                              .message_size_max = FAKE_MESSAGE_SIZE_MAX,
                                              .batch_size_max = FAKE_MESSAGE_SIZE_MAX / 2,
                                              .batch_event_max = FAKE_EVENTS_MAX,
                                              .exchange_count = 64,
                                              .session_failure_max = 40,
                                              .version = "fake"};
            memcpy(target, &hello, sizeof hello);
            size = sizeof hello;
            break;
        }
        case OPERATION_SCHEMA:
            size = fake_schema(target);
            break;
        case OPERATION_WRITE:
            result = fake_write(fake, request, body, target, &size, &event_count);
            if (result == RESULT_OK) {
                header.commit = ++fake->commit;
                header.timestamp = fake->timestamp;
                fake->timestamp += event_count;
            }
            break;
        case OPERATION_COUNT: {
            uint64_t count = 0;
            for (uint32_t i = 0; i < FAKE_IDS_MAX; i++) {
                count += fake->inserted[i];
            }
            memcpy(target, &count, sizeof count);
            size = sizeof count;
            break;
        }
        case OPERATION_LOOKUP: {
            const struct objects_reply objects = {.object_count = 1,
                                                  .object_size = FAKE_OBJECT_SIZE};
            memset(target, 0, sizeof objects + FAKE_OBJECT_SIZE);
            memcpy(target, &objects, sizeof objects);
            memcpy(target + sizeof objects, body + sizeof(struct lookup_request), WIRE_ID_SIZE);
            size = (uint32_t)sizeof objects + FAKE_OBJECT_SIZE;
            break;
        }
        case OPERATION_OPEN_SESSION:
            result = fake_open_session(fake, request, body);
            size = result == RESULT_OK ? fake_session(fake, target) : 0;
            break;
        case OPERATION_CLOSE_SESSION:
            fake->session_open = false;
            break;
        default:
            memcpy(target, body, request->body_size);
            size = request->body_size;
            break;
        }
    }
    header.result = result;
    header.body_size = size;
    memcpy(reply, &header, sizeof header);
    size += (uint32_t)sizeof header;
    if (numbered && result == RESULT_OK) {
        free(fake->lane_reply[request->lane]);
        fake->lane_reply[request->lane] = malloc(size);
        memcpy(fake->lane_reply[request->lane], reply, size);
        fake->lane_reply_size[request->lane] = size;
        fake->lane_number[request->lane] = request->number;
    }
    return size;
}

/* ---- Connections -------------------------------------------------------------------------------
 */

static void fake_hang_up(struct fake *fake, int connection)
{
    if (fake->connections[connection].fd >= 0) {
        close(fake->connections[connection].fd);
    }
    fake->connections[connection].fd = -1;
    for (uint32_t i = 0; i < fake->late_count;) {
        if (fake->late[i].connection == connection) {
            free(fake->late[i].frame);
            fake->late[i] = fake->late[--fake->late_count];
        } else {
            i++;
        }
    }
}

static void fake_send(struct fake *fake, int connection, const uint8_t *frame, uint32_t size)
{
    const uint32_t piece = prng_chance(&fake->prng, fake->fault_percent, 100)
                               ? (uint32_t)prng_range(&fake->prng, 1, 40)
                               : size;
    for (uint32_t at = 0; at < size; at += piece) {
        const uint32_t left = size - at < piece ? size - at : piece;
        if (send(fake->connections[connection].fd, frame + at, left, MSG_NOSIGNAL) !=
            (ssize_t)left) {
            fake_hang_up(fake, connection);
            return;
        }
    }
}

static void fake_send_late(struct fake *fake)
{
    while (fake->late_count > 0 && !fake->hold) {
        const uint32_t i = (uint32_t)prng_below(&fake->prng, fake->late_count);
        const struct fake_late late = fake->late[i];
        fake->late[i] = fake->late[--fake->late_count];
        fake_send(fake, late.connection, late.frame, late.size);
        free(late.frame);
    }
}

/* One whole request. */
static void fake_request(struct fake *fake, int connection, const uint8_t *frame, uint32_t size)
{
    struct request_header request;
    enum result result;
    const bool good = size >= 4 && protocol_request_check(frame + 4, size - 4,
                                                          FAKE_MESSAGE_SIZE_MAX, &request, &result);
    cr_assert(good, "%s", result_name(result));
    const bool session =
        request.operation == OPERATION_OPEN_SESSION || request.operation == OPERATION_CLOSE_SESSION;
    fake->request_count++;
    if (request.deadline_ms > fake->max_deadline_ms) {
        fake->max_deadline_ms = request.deadline_ms;
    }
    static uint8_t reply[13 + FAKE_MESSAGE_SIZE_MAX];
    const bool writes = request.operation == OPERATION_WRITE;
    uint64_t fault =
        prng_chance(&fake->prng, fake->fault_percent, 100) ? 1 + prng_below(&fake->prng, 4) : 0;
    if (writes && fake->lose_count > 0) {
        fake->lose_count--;
        fault = 2;
    }
    uint32_t reply_size;
    if (fault == 1) {
        fake_hang_up(fake, connection);
        return;
    }
    const bool own = request.operation == OPERATION_HELLO || session;
    if (fault == 3 || (fake->busy_count > 0 && !own)) {
        if (fake->busy_count > 0 && !own) {
            fake->busy_count--;
        }
        struct reply_header busy = protocol_reply_header(&request, RESULT_BUSY, 0);
        busy.retry_after_ms = 1;
        memcpy(reply + 13, &busy, sizeof busy);
        reply_size = sizeof busy;
    } else {
        reply_size = fake_execute(fake, &request, frame + 4 + PROTOCOL_HEADER_SIZE, reply + 13);
    }
    if (fault == 2) {
        fake_hang_up(fake, connection);
        return;
    }
    if (fake->garbage && !own) {
        const uint32_t flips = (uint32_t)prng_range(&fake->prng, 1, 8);
        for (uint32_t i = 0; i < flips; i++) {
            reply[13 + prng_below(&fake->prng, reply_size)] ^=
                (uint8_t)(1u << prng_below(&fake->prng, 8));
        }
        reply_size -=
            (uint32_t)prng_below(&fake->prng, 2) * (uint32_t)prng_below(&fake->prng, reply_size);
    }
    sp_frame_header(reply, 4 + (uint64_t)reply_size);
    memcpy(reply + 9, frame, 4);
    reply_size += 13;
    if ((fault == 4 || (fake->hold && writes)) && fake->late_count < FAKE_LATE_MAX) {
        struct fake_late *late = &fake->late[fake->late_count++];
        *late = (struct fake_late){
            .connection = connection, .frame = malloc(reply_size), .size = reply_size};
        memcpy(late->frame, reply, reply_size);
        return;
    }
    fake_send(fake, connection, reply, reply_size);
}

static void fake_read(struct fake *fake, int i)
{
    struct fake_connection *connection = &fake->connections[i];
    const ssize_t got = recv(connection->fd, connection->buffer + connection->size,
                             FAKE_BUFFER_SIZE - connection->size, MSG_DONTWAIT);
    if (got <= 0) {
        fake_hang_up(fake, i);
        return;
    }
    connection->size += (size_t)got;
    size_t at = 0;
    if (!connection->greeted && connection->size >= SP_GREETING_SIZE) {
        cr_assert(memcmp(connection->buffer, sp_greeting_request, SP_GREETING_SIZE) == 0);
        connection->greeted = true;
        at = SP_GREETING_SIZE;
        fake_send(fake, i, sp_greeting_reply, SP_GREETING_SIZE);
    }
    while (connection->greeted && connection->fd >= 0 && connection->size - at >= 13) {
        const uint64_t size = sp_load(connection->buffer + at + 1, 8);
        cr_assert(connection->buffer[at] == 1);
        cr_assert(size <= 4 + FAKE_MESSAGE_SIZE_MAX);
        if (connection->size - at < 9 + size) {
            break;
        }
        fake_request(fake, i, connection->buffer + at + 9, (uint32_t)size);
        at += 9 + size;
    }
    if (connection->fd >= 0) {
        memmove(connection->buffer, connection->buffer + at, connection->size - at);
        connection->size -= at;
    }
}

static void fake_accept(struct fake *fake)
{
    const int fd = accept(fake->listener, NULL, NULL);
    for (int i = 0; i < FAKE_CONNECTIONS_MAX && fd >= 0; i++) {
        struct fake_connection *connection = &fake->connections[i];
        if (connection->fd < 0) {
            if (connection->buffer == NULL) {
                connection->buffer = malloc(FAKE_BUFFER_SIZE);
            }
            connection->fd = fd;
            connection->greeted = false;
            connection->size = 0;
            return;
        }
    }
    close(fd);
}

static void *fake_run(void *context)
{
    struct fake *fake = context;
    while (!fake->stopping) {
        struct pollfd fds[FAKE_CONNECTIONS_MAX + 1];
        for (int i = 0; i < FAKE_CONNECTIONS_MAX; i++) {
            fds[i] = (struct pollfd){.fd = fake->connections[i].fd, .events = POLLIN};
        }
        fds[FAKE_CONNECTIONS_MAX] = (struct pollfd){.fd = fake->listener, .events = POLLIN};
        const int count = poll(fds, FAKE_CONNECTIONS_MAX + 1, 1);
        pthread_mutex_lock(&fake->mutex);
        if (fake->forget_sessions) {
            fake->forget_sessions = false;
            fake->session_open = false;
        }
        for (int i = 0; fake->hang_up && i < FAKE_CONNECTIONS_MAX; i++) {
            fake_hang_up(fake, i);
            fds[i].revents = 0;
        }
        fake->hang_up = false;
        for (int i = 0; count > 0 && i < FAKE_CONNECTIONS_MAX; i++) {
            if (fds[i].revents != 0 && fake->connections[i].fd >= 0) {
                fake_read(fake, i);
            }
        }
        if (fds[FAKE_CONNECTIONS_MAX].revents != 0) {
            fake_accept(fake);
        }
        if (count == 0 || prng_chance(&fake->prng, 1, 4)) {
            fake_send_late(fake);
        }
        pthread_mutex_unlock(&fake->mutex);
    }
    return NULL;
}

static void fake_listen(struct fake *fake)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    fake->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    strcpy(address.sun_path, fake->path);
    unlink(fake->path);
    cr_assert(bind(fake->listener, (struct sockaddr *)&address, sizeof address) == 0);
    cr_assert(listen(fake->listener, 16) == 0);
    fake->stopping = false;
    cr_assert(pthread_create(&fake->thread, NULL, fake_run, fake) == 0);
}

static void fake_start(struct fake *fake, uint64_t features)
{
    memset(fake, 0, sizeof *fake);
    strcpy(fake->directory, "/tmp/holt-fake-XXXXXX");
    cr_assert(mkdtemp(fake->directory) != NULL);
    snprintf(fake->path, sizeof fake->path, "%s/socket", fake->directory);
    pthread_mutex_init(&fake->mutex, NULL);
    prng_init(&fake->prng, 7);
    fake->features = features;
    fake->timestamp = 1000000;
    for (int i = 0; i < FAKE_CONNECTIONS_MAX; i++) {
        fake->connections[i].fd = -1;
    }
    fake_listen(fake);
}

/* The state outlives it, as a data file does. */
static void fake_kill(struct fake *fake)
{
    fake->stopping = true;
    pthread_join(fake->thread, NULL);
    for (int i = 0; i < FAKE_CONNECTIONS_MAX; i++) {
        fake_hang_up(fake, i);
    }
    close(fake->listener);
    unlink(fake->path);
}

static void fake_end(struct fake *fake)
{
    fake_kill(fake);
    for (int i = 0; i < FAKE_CONNECTIONS_MAX; i++) {
        free(fake->connections[i].buffer);
    }
    for (int i = 0; i < FAKE_LANES_MAX; i++) {
        free(fake->lane_reply[i]);
    }
    pthread_mutex_destroy(&fake->mutex);
    cr_assert(rmdir(fake->directory) == 0);
}
