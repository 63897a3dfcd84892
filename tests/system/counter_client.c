/* Sixteen clients of end_to_end.sh that count together, over a daemon that may be killed meanwhile:
 *
 *   counter_client SOCKET COUNTERS TICKETS RUN COUNT
 *
 * COUNTERS and TICKETS are grooves of one field, a u64; TICKETS has an index on it. An increment is
 * one chain over both: a ticket is made with what was read plus one, and the counter is set to
 * that, if its version is still what was read. So there must be one ticket for each value that the
 * counter ever had; and who got no answer finds out by his ticket, once another daemon answers,
 * whether he has counted. RUN makes ticket ids unique.
 *
 * When each client has counted COUNT times it prints the counter, the number of tickets, and how
 * many values have not exactly one. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/client.h"

enum { CLIENT_COUNT = 16, CALL_TIMEOUT_MS = 60 * 1000, BODY_SIZE = 256 };

struct object {
    struct wire_object_header header;
    uint64_t value;
};
static_assert(sizeof(struct object) == 40, "no padding");

static const char *socket_path;
static uint32_t counters, tickets; /* groove ids */
static uint64_t run;
static uint32_t increment_count;
static _Atomic bool wrong;

static void complain(uint64_t number, const char *what, uint64_t value)
{
    fprintf(stderr, "client %" PRIu64 ": %s %" PRIu64 "\n", number, what, value);
    atomic_store(&wrong, true);
}

/* A read; whatever becomes of the daemon, it is asked again. */
static bool ask(struct client *client, enum operation operation, const void *body, uint32_t size,
                struct client_reply *reply)
{
    enum client_status status;
    do {
        status = client_call(client, operation, body, size, CALL_TIMEOUT_MS, reply);
    } while (status == CLIENT_LOST || (status == CLIENT_OK && reply->result == RESULT_BUSY));
    if (status != CLIENT_OK || reply->result != RESULT_OK) {
        fprintf(stderr, "%s: %s, %s\n", operation_name(operation), client_status_text(status),
                status == CLIENT_OK ? result_name(reply->result) : "no answer");
        return false;
    }
    return true;
}

/* False: there is no such object, or no answer at all. */
static bool look_up(struct client *client, uint32_t groove_id, const uint64_t id[2],
                    struct object *object)
{
    uint8_t body[sizeof(struct lookup_request) + WIRE_ID_SIZE];
    const struct lookup_request lookup = {.groove_id = groove_id, .id_count = 1};
    struct client_reply reply;
    memcpy(body, &lookup, sizeof lookup);
    memcpy(body + sizeof lookup, id, WIRE_ID_SIZE);
    if (!ask(client, OPERATION_LOOKUP, body, sizeof body, &reply)) {
        atomic_store(&wrong, true);
        return false;
    }
    struct objects_reply objects;
    memcpy(&objects, reply.body, sizeof objects);
    if (objects.object_count == 1) {
        memcpy(object, reply.body + sizeof objects, sizeof *object);
    }
    return objects.object_count == 1;
}

static uint32_t put(uint8_t *body, uint32_t size, const struct wire_section *section,
                    const uint64_t *version, const struct object *object)
{
    memcpy(body + size, section, sizeof *section);
    size += (uint32_t)sizeof *section;
    if (version != NULL) {
        memcpy(body + size, version, sizeof *version);
        size += (uint32_t)sizeof *version;
    }
    memcpy(body + size, object, sizeof *object);
    return size + (uint32_t)sizeof *object;
}

static const uint64_t counter_id[2] = {1, 0};

static uint32_t make_increment(uint8_t body[BODY_SIZE], const struct object *counter,
                               const uint64_t ticket_id[2])
{
    const uint64_t version = counter->header.version;
    struct object next = {.value = counter->value + 1};
    const struct wire_section update = {
        .groove_id = counters,
        .event_type = WIRE_EVENT_TYPE_UPDATE,
        .guard = WIRE_GUARD_VERSION,
        .event_count = 1,
    };
    const struct wire_section insert = {
        .groove_id = tickets,
        .event_type = WIRE_EVENT_TYPE_INSERT,
        .flags = WIRE_SECTION_FLAG_LINKED,
        .event_count = 1,
    };
    /* The ticket first: it is there until the update behind it fails. */
    memcpy(next.header.id, ticket_id, WIRE_ID_SIZE);
    uint32_t size = put(body, 0, &insert, NULL, &next);
    memcpy(next.header.id, counter_id, WIRE_ID_SIZE);
    return put(body, size, &update, &version, &next);
}

/* Whether it was counted, as the reply says. */
static bool counted(uint64_t number, const struct client_reply *reply)
{
    struct write_reply write;
    memcpy(&write, reply->body, sizeof write);
    if (write.failure_count == 0) {
        return true;
    }
    struct wire_failure failures[2] = {{0}};
    if (write.failure_count == 2) {
        memcpy(failures, reply->body + sizeof write, sizeof failures);
    }
    const bool overtaken = failures[0].result == WIRE_EVENT_RESULT_LINKED &&
                           failures[1].result == WIRE_EVENT_RESULT_GUARD;
    if (!overtaken) {
        complain(number, "a chain failed with", failures[0].result * 100 + failures[1].result);
    }
    return false;
}

static bool increment(struct client *client, uint64_t number, uint64_t ticket)
{
    const uint64_t ticket_id[2] = {ticket, run << 32 | number};
    struct object counter, made;
    uint8_t body[BODY_SIZE];
    struct client_reply reply;
    if (!look_up(client, counters, counter_id, &counter)) {
        complain(number, "there is no counter", 0);
        return false;
    }
    const uint32_t size = make_increment(body, &counter, ticket_id);
    const enum client_status status =
        client_call(client, OPERATION_WRITE, body, size, CALL_TIMEOUT_MS, &reply);
    if (status == CLIENT_OK && reply.result == RESULT_OK) {
        return counted(number, &reply);
    }
    if (status == CLIENT_OK && reply.result == RESULT_BUSY) {
        return false;
    }
    if (status != CLIENT_LOST) {
        complain(number, client_status_text(status), status == CLIENT_OK ? reply.result : 0);
        return false;
    }
    /* It has happened if, and only if, its ticket is there: the daemon that could still do it is
     * dead. */
    return look_up(client, tickets, ticket_id, &made);
}

static void *count(void *argument)
{
    const uint64_t number = (uint64_t)(uintptr_t)argument + 1;
    const struct client_options options = {.socket_path = socket_path};
    struct client *client;
    const enum client_status status = client_open(&options, &client);
    if (status != CLIENT_OK) {
        complain(number, client_status_text(status), 0);
        return NULL;
    }
    for (uint32_t done = 0; done < increment_count && !atomic_load(&wrong);) {
        done += increment(client, number, done + 1);
    }
    client_close(client);
    return NULL;
}

/* Makes the counter if there is none, and tells what there is. */
static bool begin(struct client *client)
{
    const struct wire_section insert = {
        .groove_id = counters,
        .event_type = WIRE_EVENT_TYPE_INSERT,
        .event_count = 1,
    };
    struct object counter = {.value = 0};
    uint8_t body[BODY_SIZE];
    struct client_reply reply;
    memcpy(counter.header.id, counter_id, WIRE_ID_SIZE);
    return ask(client, OPERATION_WRITE, body, put(body, 0, &insert, NULL, &counter), &reply);
}

/* Tickets with this value; all of them if it is NULL. */
static bool ask_tickets(struct client *client, const uint64_t *value, uint64_t *ticket_count)
{
    const struct query_request query = {
        .groove_id = tickets,
        .index_id = value != NULL ? 0 : WIRE_INDEX_NONE,
        .key_size = value != NULL ? sizeof *value : 0,
    };
    uint8_t body[sizeof query + sizeof *value];
    struct client_reply reply;
    memcpy(body, &query, sizeof query);
    if (value != NULL) {
        memcpy(body + sizeof query, value, sizeof *value);
    }
    if (!ask(client, OPERATION_COUNT, body, (uint32_t)sizeof query + query.key_size, &reply)) {
        return false;
    }
    memcpy(ticket_count, reply.body, sizeof *ticket_count);
    return true;
}

static bool end(struct client *client)
{
    struct object counter;
    uint64_t all, one, odd = 0;
    if (!look_up(client, counters, counter_id, &counter) || !ask_tickets(client, NULL, &all)) {
        return false;
    }
    for (uint64_t value = 1; value <= counter.value; value++) {
        if (!ask_tickets(client, &value, &one)) {
            return false;
        }
        odd += one != 1;
    }
    printf("%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", counter.value, all, odd);
    return true;
}

/* The id of the groove of this name; 0: there is none. */
static uint32_t find_groove(struct client *client, const char *name)
{
    struct client_reply reply;
    struct schema_reply schema;
    uint32_t offset = sizeof schema;
    if (!ask(client, OPERATION_SCHEMA, NULL, 0, &reply)) {
        return 0;
    }
    memcpy(&schema, reply.body, sizeof schema);
    for (uint32_t i = 0; i < schema.groove_count; i++) {
        struct schema_groove groove;
        memcpy(&groove, reply.body + offset, sizeof groove);
        if (strncmp(groove.name, name, sizeof groove.name) == 0 &&
            groove.object_size == sizeof(struct object)) {
            return groove.groove_id;
        }
        offset += (uint32_t)(sizeof groove + groove.field_count * sizeof(struct schema_field) +
                             groove.index_count * sizeof(struct schema_index));
    }
    fprintf(stderr, "there is no groove %s\n", name);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: counter_client SOCKET COUNTERS TICKETS RUN COUNT\n");
        return 64;
    }
    socket_path = argv[1];
    run = strtoull(argv[4], NULL, 10);
    increment_count = (uint32_t)strtoul(argv[5], NULL, 10);
    const struct client_options options = {.socket_path = socket_path};
    struct client *client;
    if (client_open(&options, &client) != CLIENT_OK) {
        fprintf(stderr, "%s: no daemon\n", socket_path);
        return 69;
    }
    counters = find_groove(client, argv[2]);
    tickets = find_groove(client, argv[3]);
    if (counters == 0 || tickets == 0 || !begin(client)) {
        return 65;
    }
    pthread_t threads[CLIENT_COUNT];
    for (uintptr_t i = 0; i < CLIENT_COUNT; i++) {
        if (pthread_create(&threads[i], NULL, count, (void *)i) != 0) {
            return 71;
        }
    }
    for (uintptr_t i = 0; i < CLIENT_COUNT; i++) {
        pthread_join(threads[i], NULL);
    }
    const bool good = !atomic_load(&wrong) && end(client);
    client_close(client);
    return good ? 0 : 1;
}
