/* Goal: a client says what is wrong in words that name the cure, survives restarts of the daemon,
 * never takes one reply for another, and never repeats what may have happened.
 *
 * Method: our listener where the peer is good; sockets that a thread of the test plays by script
 * where it is not. */
#include "tests/harness/prng.h"
#include "tests/ipc/daemon.h"

static struct daemon daemon_under_test;
static struct daemon *const d = &daemon_under_test;

TestSuite(client, .timeout = 120);

static enum client_status open_at(const char *path, uint32_t timeout_ms)
{
    struct client *client;
    const enum client_status status = client_open(
        &(struct client_options){.socket_path = path, .connect_timeout_ms = timeout_ms}, &client);
    cr_assert((client != NULL) == (status == CLIENT_OK));
    cr_assert(strlen(client_status_text(status)) > 0);
    cr_assert((client_status_exit_code(status) == 0) == (status == CLIENT_OK));
    client_close(client);
    return status;
}

/* A socket that listens at the test's path. */
static int listen_raw(void)
{
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, d->path);
    unlink(d->path);
    cr_assert(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    cr_assert(listen(fd, 8) == 0);
    return fd;
}

Test(client, each_way_of_not_connecting_is_named)
{
    daemon_directory(d);
    cr_assert(open_at(d->path, 0) == CLIENT_NO_SOCKET);
    char path[256];
    snprintf(path, sizeof path, "%s/no/such", d->directory);
    cr_assert(open_at(path, 0) == CLIENT_NO_SOCKET);
    cr_assert(open_at("", 0) == CLIENT_BAD_PATH);
    memset(path, 'x', 108);
    path[108] = 0;
    cr_assert(open_at(path, 0) == CLIENT_BAD_PATH);

    int fd = listen_raw();
    close(fd);
    cr_assert(open_at(d->path, 0) == CLIENT_NOBODY);
    if (geteuid() != 0) { /* Nothing is denied to root. */
        cr_assert(chmod(d->path, 0) == 0);
        cr_assert(open_at(d->path, 0) == CLIENT_DENIED);
    }
    unlink(d->path);
    FILE *file = fopen(d->path, "w");
    fclose(file);
    cr_assert(open_at(d->path, 0) == CLIENT_NOBODY);
    unlink(d->path);

    fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, d->path);
    cr_assert(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    cr_assert(listen(fd, 1) == 0);
    cr_assert(open_at(d->path, 0) == CLIENT_NOT_HOLT);
    close(fd);

    fd = listen_raw(); /* Connects, but nobody says a word. */
    cr_assert(open_at(d->path, 50) == CLIENT_TIMEOUT);
    close(fd);
    unlink(d->path);
    cr_assert(rmdir(d->directory) == 0);
}

/* ---- A peer by script --------------------------------------------------------------------------
 */

struct script {
    pthread_t thread;
    int listener;
    uint8_t send_first[64]; /* in place of a greeting */
    uint32_t send_first_size;
    uint8_t *reply; /* to each request, with its SP id and number put in; NULL: hang up */
    uint32_t reply_size;
    uint32_t id_xor;       /* spoils the SP id */
    uint32_t chunk;        /* bytes sent at a time; 0: all */
    _Atomic uint32_t seen; /* whole requests */
    uint32_t accept_count; /* connections to serve */
};

static void script_connection(struct script *script, int fd)
{
    uint8_t greeting[8];
    if (!raw_send(fd, script->send_first, script->send_first_size) ||
        !raw_receive(fd, greeting, sizeof greeting)) {
        return;
    }
    for (;;) {
        uint8_t head[13 + PROTOCOL_HEADER_SIZE];
        if (!raw_receive(fd, head, sizeof head)) {
            return;
        }
        struct request_header request;
        memcpy(&request, head + 13, sizeof request);
        uint8_t body[256];
        cr_assert(request.body_size <= sizeof body);
        if (request.body_size > 0 && !raw_receive(fd, body, request.body_size)) {
            return;
        }
        script->seen++;
        if (script->reply == NULL) {
            return;
        }
        uint8_t frame[1024];
        cr_assert(script->reply_size <= sizeof frame);
        memcpy(frame, script->reply, script->reply_size);
        uint32_t id;
        memcpy(&id, head + 9, 4);
        id ^= script->id_xor;
        memcpy(frame + 9, &id, 4);
        memcpy(frame + 13 + offsetof(struct reply_header, number), &request.number, 8);
        const uint32_t chunk = script->chunk != 0 ? script->chunk : script->reply_size;
        for (uint32_t at = 0; at < script->reply_size; at += chunk) {
            const uint32_t left = script->reply_size - at;
            if (!raw_send(fd, frame + at, left < chunk ? left : chunk)) {
                return;
            }
        }
    }
}

static void *script_run(void *context)
{
    struct script *script = context;
    for (uint32_t i = 0; i < script->accept_count; i++) {
        const int fd = accept(script->listener, NULL, NULL);
        if (fd < 0) {
            break;
        }
        script_connection(script, fd);
        close(fd);
    }
    return NULL;
}

static void script_start(struct script *script)
{
    daemon_directory(d);
    script->listener = listen_raw();
    if (script->send_first_size == 0) {
        memcpy(script->send_first, "\0SP\0\0\x31\0\0", 8);
        script->send_first_size = 8;
    }
    if (script->accept_count == 0) {
        script->accept_count = 1;
    }
    cr_assert(pthread_create(&script->thread, NULL, script_run, script) == 0);
}

static void script_end(struct script *script)
{
    shutdown(script->listener, SHUT_RDWR);
    pthread_join(script->thread, NULL);
    close(script->listener);
    unlink(d->path);
    cr_assert(rmdir(d->directory) == 0);
}

/* A good reply to a PING: SP head, header, `body_size` bytes. */
static uint32_t good_reply(uint8_t *frame, uint32_t body_size)
{
    memset(frame, 0, 13 + PROTOCOL_HEADER_SIZE + body_size);
    frame[0] = 1;
    const uint32_t size = 4 + PROTOCOL_HEADER_SIZE + body_size;
    frame[7] = (uint8_t)(size >> 8);
    frame[8] = (uint8_t)size;
    const struct request_header request = {.operation = OPERATION_PING};
    const struct reply_header header = protocol_reply_header(&request, RESULT_OK, body_size);
    memcpy(frame + 13, &header, sizeof header);
    return 13 + PROTOCOL_HEADER_SIZE + body_size;
}

Test(client, a_peer_that_greets_otherwise_is_not_holt)
{
    static const char *const greetings[] = {"HTTP/1.1 400 Bad Request\r\n",
                                            "SSH-2.0-OpenSSH_9.2\r\n", "\0SP\0\0\x50\0\0",
                                            "\0SP\1\0\x31\0\0"};
    for (int i = 0; i < 4; i++) {
        struct script script = {.send_first_size = i < 2 ? 12 : 8};
        memcpy(script.send_first, greetings[i], script.send_first_size);
        script_start(&script);
        cr_assert(open_at(d->path, 1000) == CLIENT_NOT_HOLT, "%d", i);
        script_end(&script);
    }
}

Test(client, a_reply_in_single_bytes_is_put_together)
{
    uint8_t frame[1024];
    struct script script = {.reply = frame, .reply_size = good_reply(frame, 40), .chunk = 1};
    script_start(&script);
    struct client *client = daemon_client(d);
    for (int i = 0; i < 20; i++) {
        struct client_reply reply;
        cr_assert(client_call(client, OPERATION_PING, NULL, 0, 5000, &reply) == CLIENT_OK);
        cr_assert(reply.body_size == 40);
        cr_assert(reply.number == (uint64_t)(i + 1));
    }
    client_close(client);
    script_end(&script);
}

Test(client, replies_that_are_none_are_not_believed)
{
    uint8_t frame[1024];
    for (int spoiled = 0; spoiled < 7; spoiled++) {
        struct script script = {.reply = frame, .reply_size = good_reply(frame, 8)};
        switch (spoiled) {
        case 0:
            frame[0] = 2; /* type of frame */
            break;
        case 1:
            frame[1] = 1; /* size: beyond all limits */
            break;
        case 2:
            frame[8] = 20; /* size: less than a header */
            frame[7] = 0;
            break;
        case 3:
            frame[13] = 'X'; /* magic */
            break;
        case 4:
            frame[13 + offsetof(struct reply_header, body_size)] = 9;
            break;
        case 5:
            script.id_xor = 0x01000000; /* another request's */
            break;
        default:
            frame[13 + 4] = 2; /* version, with an OK */
            break;
        }
        script_start(&script);
        struct client *client = daemon_client(d);
        struct client_reply reply;
        const enum client_status status =
            client_call(client, OPERATION_PING, NULL, 0, 5000, &reply);
        cr_assert(status == CLIENT_NOT_HOLT, "%d: %s", spoiled, client_status_text(status));
        cr_assert(client_in_flight(client) == 0);
        client_close(client);
        script_end(&script);
    }
}

Test(client, every_changed_byte_of_a_reply_is_survived)
{
    uint8_t frame[1024];
    const uint32_t size = good_reply(frame, 8);
    for (uint32_t at = 0; at < size; at++) {
        if (at >= 9 && at < 13) {
            continue; /* put in by the script */
        }
        good_reply(frame, 8);
        frame[at] ^= 0x41;
        struct script script = {.reply = frame, .reply_size = size};
        script_start(&script);
        struct client *client = daemon_client(d);
        struct client_reply reply;
        /* A size that grew leaves it waiting for the rest. */
        const enum client_status status = client_call(client, OPERATION_PING, NULL, 0, 20, &reply);
        cr_assert(status == CLIENT_OK || status == CLIENT_NOT_HOLT || status == CLIENT_TIMEOUT);
        client_close(client);
        script_end(&script);
    }
}

/* ---- Again or not again ------------------------------------------------------------------------
 */

Test(client, a_lost_write_is_not_repeated)
{
    struct script script = {.reply = NULL, .accept_count = 5};
    script_start(&script);
    struct client *client = daemon_client(d);
    struct client_reply reply;
    cr_assert(client_call(client, OPERATION_WRITE, "12345678", 8, 3000, &reply) == CLIENT_LOST);
    cr_assert(script.seen == 1);
    client_close(client);
    script_end(&script);
}

Test(client, a_lost_read_is_repeated_until_its_deadline)
{
    struct script script = {.reply = NULL, .accept_count = 100};
    script_start(&script);
    struct client *client = daemon_client(d);
    struct client_reply reply;
    const enum client_status status = client_call(client, OPERATION_STAT, NULL, 0, 300, &reply);
    cr_assert(status == CLIENT_LOST || status == CLIENT_TIMEOUT, "%s", client_status_text(status));
    cr_assert(script.seen > 1);
    client_close(client);
    script_end(&script);
}

Test(client, a_restart_between_two_calls_goes_unnoticed)
{
    daemon_start(d);
    struct client *client = daemon_client(d);
    for (int i = 0; i < 20; i++) {
        struct client_reply reply;
        /* A write, too: one that could not be sent is sent again. */
        const uint8_t write[32] = {1, 0, 0, 0, WIRE_EVENT_TYPE_REMOVE, 0, 0, 0, 1};
        enum client_status status =
            client_call(client, OPERATION_WRITE, write, sizeof write, 5000, &reply);
        cr_assert(status == CLIENT_OK, "%s", client_status_text(status));
        cr_assert(reply.result == RESULT_OK);
        daemon_stop(d);
        status = client_call(client, OPERATION_WRITE, write, sizeof write, 20, &reply);
        cr_assert(status == CLIENT_NO_SOCKET || status == CLIENT_NOBODY, "%s",
                  client_status_text(status));
        daemon_start_with(d, (struct listener_options){0});
    }
    client_close(client);
    daemon_end(d);
}

Test(client, a_late_reply_does_not_answer_the_next_question)
{
    daemon_start(d);
    struct client *client = daemon_client(d);
    struct client_reply reply;
    for (int i = 0; i < 10; i++) {
        cr_assert(client_call(client, OPERATION_PING, "hold", 4, 20, &reply) == CLIENT_TIMEOUT);
        cr_assert(EVENTUALLY(daemon_held(d) == 1));
        daemon_release(d);
        cr_assert(client_call(client, OPERATION_PING, "echo", 4, 5000, &reply) == CLIENT_OK);
        cr_assert(reply.body_size == 4 && memcmp(reply.body, "echo", 4) == 0);
    }
    client_close(client);
    daemon_end(d);
}

Test(client, a_timeout_of_receive_leaves_the_request_in_flight)
{
    daemon_start(d);
    struct client *client = daemon_client(d);
    struct client_reply reply;
    uint64_t number;
    cr_assert(client_send(client, OPERATION_PING, "hold", 4, 1000, &number) == CLIENT_OK);
    cr_assert(client_receive(client, 20, &reply) == CLIENT_TIMEOUT);
    cr_assert(client_in_flight(client) == 1);
    cr_assert(EVENTUALLY(daemon_held(d) == 1));
    daemon_release(d);
    cr_assert(client_receive(client, 5000, &reply) == CLIENT_OK);
    cr_assert(reply.number == number);
    client_close(client);
    daemon_end(d);
}

/* Requests and replies together exceed what the sockets hold: who sends must also take in. */
Test(client, large_requests_in_flight_do_not_lock_up)
{
    enum { IN_FLIGHT = 12, SIZE = 256 * 1024 };
    daemon_start(d);
    struct client *client = daemon_client(d);
    uint8_t *body = malloc(SIZE);
    memset(body, 'e', SIZE);
    for (int i = 0; i < IN_FLIGHT; i++) {
        const enum client_status status =
            client_send(client, OPERATION_PING, body, SIZE, 5000, NULL);
        cr_assert(status == CLIENT_OK, "%d: %s", i, client_status_text(status));
    }
    for (int i = 0; i < IN_FLIGHT; i++) {
        struct client_reply reply;
        cr_assert(client_receive(client, 5000, &reply) == CLIENT_OK);
        cr_assert(reply.body_size == SIZE && memcmp(reply.body, body, SIZE) == 0);
    }
    free(body);
    client_close(client);
    daemon_end(d);
}

Test(client, a_request_over_the_limit_is_not_sent)
{
    daemon_start(d);
    struct client *client;
    cr_assert(
        client_open(&(struct client_options){.socket_path = d->path, .message_size_max = 1000},
                    &client) == CLIENT_OK);
    struct client_reply reply;
    static const uint8_t body[1000] = {'e'};
    cr_assert(client_call(client, OPERATION_PING, body, 937, 1000, &reply) == CLIENT_TOO_BIG);
    cr_assert(client_call(client, OPERATION_PING, body, 936, 1000, &reply) == CLIENT_OK);
    client_close(client);
    daemon_end(d);
}

Test(client, receiving_with_nothing_in_flight_is_a_bug, .signal = SIGABRT)
{
    struct script script = {.reply = NULL};
    script_start(&script);
    struct client *client = daemon_client(d);
    unlink(d->path);
    rmdir(d->directory);
    struct client_reply reply;
    cr_assert(client_receive(client, 10, &reply) == CLIENT_OK);
}
