/* Each user asks for each thing, and gets what the rules of access.sh say, no more and no less.
 *
 *   access_client SOCKET    as root; the daemon has the rules of access.sh and an empty store
 *
 * For every user a process becomes that user, connects, and tries every operation on every groove;
 * `expected_right` says by itself, in the words of the table below, what must come. Prints "ok" or
 * "not ok" with the user's name, one line each; exit code 1 if anything was wrong. */
#include <assert.h>
#include <grp.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ipc/client.h"
#include "pool/base.h"

enum { CALL_TIMEOUT_MS = 20 * 1000, OBJECT_SIZE = 40, ADMIN_UID = 3006, UNMAPPED_UID = 65534 };

enum right { NONE, READ, WRITE, ADMIN };

/* `ghost` does not exist, but the last user has a right on it. `public` is everybody's to read. */
enum groove { BOOKS, COINS, PUBLIC, GHOST, GROOVE_COUNT };
static const char *const groove_names[GROOVE_COUNT] = {"books", "coins", "public", "ghost"};
static uint32_t *groove_ids; /* [GROOVE_COUNT], shared by all processes */

static const struct user {
    const char *name;
    uint32_t uid;
    enum right everywhere;
    enum right on[GROOVE_COUNT];
} users[] = {
    {"the reader of one groove", 3001, NONE, {[BOOKS] = READ}},
    {"the writer of one groove", 3002, NONE, {[BOOKS] = WRITE}},
    {"the admin of one groove", 3003, NONE, {[BOOKS] = ADMIN}},
    {"the reader of all", 3004, READ, {0}},
    {"the writer of all", 3005, WRITE, {0}},
    {"the admin of all", ADMIN_UID, ADMIN, {0}},
    {"a user in no line", 3007, NONE, {0}},
    {"a user in two lines", 3008, NONE, {[BOOKS] = READ, [COINS] = WRITE}},
    {"a user by name", 1, NONE, {[COINS] = WRITE}},     /* daemon */
    {"a member of a group", 2, NONE, {[COINS] = READ}}, /* bin, of the group bin */
    {"the daemon's own user", 0, NONE, {0}},
    {"the admin of what is not there yet", 3009, NONE, {[GHOST] = ADMIN}},
};

static const char *doing; /* what is asked, for a message */
static bool all_good = true;

static enum right expected_right(const struct user *user, enum groove groove)
{
    enum right right = user->on[groove] > user->everywhere ? user->on[groove] : user->everywhere;
    return groove == PUBLIC && right == NONE ? READ : right;
}

static struct client *open_client(const char *path)
{
    struct client *client;
    const enum client_status status =
        client_open(&(struct client_options){.socket_path = path}, &client);
    if (status != CLIENT_OK) {
        printf("not ok uid %u connects: %s\n", geteuid(), client_status_text(status));
        exit(1);
    }
    return client;
}

static struct client_reply ask(struct client *client, enum operation operation, const void *body,
                               uint32_t body_size)
{
    struct client_reply reply;
    const enum client_status status =
        client_call(client, operation, body, body_size, CALL_TIMEOUT_MS, &reply);
    if (status != CLIENT_OK) {
        printf("not ok uid %u asks %s: %s\n", geteuid(), operation_name(operation),
               client_status_text(status));
        exit(1);
    }
    return reply;
}

static void expect(struct client *client, enum operation operation, const void *body,
                   uint32_t body_size, enum result expected)
{
    const struct client_reply reply = ask(client, operation, body, body_size);
    if (reply.result != expected) {
        printf("# uid %u, %s on %s: %s, not %s\n", geteuid(), operation_name(operation), doing,
               result_name(reply.result), result_name(expected));
        all_good = false;
    }
}

static struct wire_groove_spec spec_of(const char *name)
{
    struct wire_groove_spec spec = {.field_count = 1};
    memcpy(spec.name, name, strlen(name));
    memcpy(spec.fields[0].name, "size", 4);
    spec.fields[0].type = WIRE_FIELD_TYPE_U64;
    return spec;
}

/* One section that inserts an object under an id which nobody else uses. Returns its size. */
static uint32_t section(uint8_t *body, uint32_t groove_id)
{
    static uint32_t serial;
    const struct wire_section header = {
        .groove_id = groove_id, .event_type = WIRE_EVENT_TYPE_INSERT, .event_count = 1};
    const uint32_t uid = geteuid();
    memset(body, 0, sizeof header + OBJECT_SIZE);
    memcpy(body, &header, sizeof header);
    serial += 1;
    memcpy(body + sizeof header, &serial, sizeof serial);
    memcpy(body + sizeof header + 4, &uid, sizeof uid);
    body[sizeof header + 8] = 1;
    return (uint32_t)sizeof header + OBJECT_SIZE;
}

static uint64_t count_of(struct client *client, uint32_t groove_id)
{
    const struct query_request query = {.groove_id = groove_id, .index_id = WIRE_INDEX_NONE};
    const struct client_reply reply = ask(client, OPERATION_COUNT, &query, sizeof query);
    uint64_t count = UINT64_MAX;
    if (reply.result == RESULT_OK) {
        memcpy(&count, reply.body, sizeof count);
    }
    return count;
}

/* What a request that is allowed comes to. */
static enum result when_there(enum groove groove)
{
    return groove == GHOST ? RESULT_UNKNOWN_GROOVE : RESULT_OK;
}

/* Whoever has a right on `ghost` alone has none by its number: nothing has that name yet. */
static enum right right_by_number(const struct user *user, enum groove groove)
{
    return groove == GHOST ? user->everywhere : expected_right(user, groove);
}

static void try_reads(struct client *client, const struct user *user, enum groove groove)
{
    const enum result expected =
        right_by_number(user, groove) >= READ ? when_there(groove) : RESULT_DENIED;
    uint8_t lookup[sizeof(struct lookup_request) + WIRE_ID_SIZE] = {0};
    memcpy(lookup, &(struct lookup_request){.groove_id = groove_ids[groove], .id_count = 1},
           sizeof(struct lookup_request));
    lookup[sizeof(struct lookup_request)] = 1;
    expect(client, OPERATION_LOOKUP, lookup, sizeof lookup, expected);
    struct query_request query = {.groove_id = groove_ids[groove], .index_id = WIRE_INDEX_NONE};
    expect(client, OPERATION_COUNT, &query, sizeof query, expected);
    query.index_id = 5; /* none has so many */
    expect(client, OPERATION_QUERY, &query, sizeof query,
           expected == RESULT_OK ? RESULT_UNKNOWN_INDEX : expected);
}

static void try_writes(struct client *client, const struct user *user, enum groove groove)
{
    uint8_t body[512];
    const bool allowed = right_by_number(user, groove) >= WRITE;
    const enum result expected = allowed ? when_there(groove) : RESULT_DENIED;
    expect(client, OPERATION_WRITE, body, section(body, groove_ids[groove]), expected);

    /* What is wrong with a section must not tell whether its groove is there. */
    const uint32_t size = section(body, groove_ids[groove]);
    expect(client, OPERATION_WRITE, body, size - 8,
           expected == RESULT_OK ? RESULT_BAD_BODY : expected);

    /* A second section needs the right on its own groove; else nothing of the first happens. */
    for (enum groove second = BOOKS; second < GROOVE_COUNT; second++) {
        const bool both = allowed && right_by_number(user, second) >= WRITE;
        uint32_t two = section(body, groove_ids[groove]);
        two += section(body + two, groove_ids[second]);
        const enum result result = !both                             ? RESULT_DENIED
                                   : when_there(groove) != RESULT_OK ? RESULT_UNKNOWN_GROOVE
                                                                     : when_there(second);
        const uint64_t before = count_of(client, groove_ids[groove]);
        expect(client, OPERATION_WRITE, body, two, result);
        const uint64_t after = count_of(client, groove_ids[groove]);
        const uint64_t more = result != RESULT_OK ? 0 : groove == second ? 2 : 1;
        if (before != UINT64_MAX && after - before != more) {
            printf("# uid %u, two sections: %" PRIu64 " objects became %" PRIu64 "\n", geteuid(),
                   before, after);
            all_good = false;
        }
    }
}

static void try_admin(struct client *client, const struct user *user, enum groove groove)
{
    const bool allowed = expected_right(user, groove) >= ADMIN;
    const char *name = groove_names[groove];
    const struct wire_groove_spec spec = spec_of(name);
    char padded[WIRE_NAME_SIZE] = {0};
    memcpy(padded, name, strlen(name));
    if (groove == GHOST) {
        expect(client, OPERATION_DROP_GROOVE, padded, sizeof padded,
               allowed ? RESULT_UNKNOWN_GROOVE : RESULT_DENIED);
        expect(client, OPERATION_CREATE_GROOVE, &spec, sizeof spec,
               allowed ? RESULT_OK : RESULT_DENIED);
        expect(client, OPERATION_DROP_GROOVE, padded, sizeof padded,
               allowed ? RESULT_OK : RESULT_DENIED);
        return;
    }
    expect(client, OPERATION_CREATE_GROOVE, &spec, sizeof spec,
           allowed ? RESULT_GROOVE_EXISTS : RESULT_DENIED);
    if (!allowed) { /* Else it would be gone for the others: that was tried with the ghost. */
        expect(client, OPERATION_DROP_GROOVE, padded, sizeof padded, RESULT_DENIED);
    }
}

/* The names that SCHEMA tells, and those that STAT does. */
static void try_looking(struct client *client, const struct user *user)
{
    doing = "the store";
    struct client_reply reply = ask(client, OPERATION_SCHEMA, NULL, 0);
    for (enum groove groove = BOOKS; groove < GROOVE_COUNT; groove++) {
        const bool shown =
            reply.result == RESULT_OK && memmem(reply.body, reply.body_size, groove_names[groove],
                                                strlen(groove_names[groove])) != NULL;
        if (shown != (groove != GHOST && expected_right(user, groove) >= READ)) {
            printf("# uid %u, SCHEMA: %s is %sshown\n", user->uid, groove_names[groove],
                   shown ? "" : "not ");
            all_good = false;
        }
    }
    reply = ask(client, OPERATION_STAT, NULL, 0);
    for (enum groove groove = BOOKS; groove < GROOVE_COUNT; groove++) {
        char quoted[40];
        snprintf(quoted, sizeof quoted, "\"%s\"", groove_names[groove]);
        const bool shown = reply.result == RESULT_OK &&
                           memmem(reply.body, reply.body_size, quoted, strlen(quoted)) != NULL;
        if (shown != (groove != GHOST && expected_right(user, groove) >= READ)) {
            printf("# uid %u, STAT: %s is %sshown\n", user->uid, groove_names[groove],
                   shown ? "" : "not ");
            all_good = false;
        }
    }
    expect(client, OPERATION_HELLO, NULL, 0, RESULT_OK);
    expect(client, OPERATION_PING, "?", 1, RESULT_OK);
}

static void become(uint32_t uid)
{
    const gid_t gid = uid;
    if (setgroups(1, &gid) != 0 || setresgid(gid, gid, gid) != 0 || setresuid(uid, uid, uid) != 0) {
        perror("not ok become another user");
        exit(1);
    }
}

static void be_user(const char *path, const struct user *user)
{
    become(user->uid);
    struct client *client = open_client(path);
    try_looking(client, user);
    for (enum groove groove = BOOKS; groove < GROOVE_COUNT; groove++) {
        doing = groove_names[groove];
        try_reads(client, user, groove);
        try_writes(client, user, groove);
        try_admin(client, user, groove);
    }
    client_close(client);
}

/* Denied by its number, whatever a line for every user says. */
static void be_unmapped(const char *path, const struct user *user)
{
    (void)user;
    become(UNMAPPED_UID);
    doing = "anything";
    struct client *client = open_client(path);
    uint8_t body[512];
    char name[WIRE_NAME_SIZE] = "public";
    const struct wire_groove_spec spec = spec_of("public");
    uint8_t lookup[sizeof(struct lookup_request) + WIRE_ID_SIZE] = {0};
    memcpy(lookup, &(struct lookup_request){.groove_id = groove_ids[PUBLIC], .id_count = 1},
           sizeof(struct lookup_request));
    const struct query_request query = {.groove_id = groove_ids[PUBLIC],
                                        .index_id = WIRE_INDEX_NONE};
    expect(client, OPERATION_HELLO, NULL, 0, RESULT_DENIED);
    expect(client, OPERATION_PING, "?", 1, RESULT_DENIED);
    expect(client, OPERATION_STAT, NULL, 0, RESULT_DENIED);
    expect(client, OPERATION_SCHEMA, NULL, 0, RESULT_DENIED);
    expect(client, OPERATION_LOOKUP, lookup, sizeof lookup, RESULT_DENIED);
    expect(client, OPERATION_COUNT, &query, sizeof query, RESULT_DENIED);
    expect(client, OPERATION_WRITE, body, section(body, groove_ids[PUBLIC]), RESULT_DENIED);
    expect(client, OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_DENIED);
    expect(client, OPERATION_DROP_GROOVE, name, sizeof name, RESULT_DENIED);
    client_close(client);
}

/* Makes the grooves, and leaves their numbers for all. */
static void be_maker(const char *path, const struct user *user)
{
    (void)user;
    become(ADMIN_UID);
    struct client *client = open_client(path);
    for (enum groove groove = BOOKS; groove < GHOST; groove++) {
        const struct wire_groove_spec spec = spec_of(groove_names[groove]);
        const struct client_reply reply = ask(client, OPERATION_CREATE_GROOVE, &spec, sizeof spec);
        struct create_groove_reply created = {0};
        all_good &= reply.result == RESULT_OK && reply.body_size == sizeof created;
        memcpy(&created, reply.body, min_u64(reply.body_size, sizeof created));
        all_good &= created.object_size == OBJECT_SIZE;
        groove_ids[groove] = created.groove_id;
    }
    client_close(client);
}

static bool in_a_process(const char *path, const struct user *user,
                         void (*run)(const char *path, const struct user *user))
{
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        run(path, user);
        fflush(stdout);
        _exit(all_good ? 0 : 1);
    }
    int status = -1;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
           WEXITSTATUS(status) == 0;
}

static bool report(const char *name, bool good)
{
    printf("%sok %s\n", good ? "" : "not ", name);
    return good;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: access_client SOCKET\n");
        return 64;
    }
    groove_ids = mmap(NULL, GROOVE_COUNT * sizeof *groove_ids, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (groove_ids == MAP_FAILED) {
        perror("access_client");
        return 1;
    }
    groove_ids[GHOST] = 999;
    bool good = report("the grooves are made", in_a_process(argv[1], NULL, be_maker));
    for (size_t i = 0; i < array_count(users) && good; i++) {
        good = report(users[i].name, in_a_process(argv[1], &users[i], be_user));
    }
    good = report("the unmapped user", in_a_process(argv[1], NULL, be_unmapped)) && good;
    return good ? 0 : 1;
}
