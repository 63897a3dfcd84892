/* Goal: both listeners take the same bytes in whatever pieces they come, keep peers apart, and are
 * as they were when thousands of peers have come and gone.
 * Method: raw sockets beside good clients of the daemon of daemon.h; wire_fixture.h. */
#include <sys/resource.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>

#include "pool/memory.h"
#include "tests/ipc/wire_fixture.h"

enum { INPUT_SIZE = 16 * 1024 }; /* of a connection of the native listener */

/* The reply to `id`, an echo of a body that begins with `first`. */
static void expect_echo(int fd, uint32_t id, uint8_t first, uint32_t body_size)
{
    uint8_t head[HEAD_SIZE];
    struct reply_header reply;
    cr_assert(raw_receive(fd, head, sizeof head));
    cr_assert(head[0] == SP_FRAME_MARK);
    cr_assert(sp_load(head + 1, 8) == SP_REQUEST_ID_SIZE + sizeof reply + (uint64_t)body_size);
    cr_assert(sp_load(head + SP_FRAME_HEADER_SIZE, 4) == (sp_request_id_flag | id));
    cr_assert(raw_receive(fd, &reply, sizeof reply));
    cr_assert(reply.result == RESULT_OK, "%s", result_name(reply.result));
    cr_assert(reply.number == id);
    cr_assert(reply.body_size == body_size);
    uint8_t *body = malloc(body_size + 1);
    cr_assert(body_size == 0 || raw_receive(fd, body, body_size));
    cr_assert(body_size == 0 || body[0] == first);
    free(body);
}

/* ---- Pieces ------------------------------------------------------------------------------------
 */

/* The greeting counts as the first 8 bytes. */
TEST_BOTH(wire, every_prefix_may_be_the_last_word_or_be_continued)
{
    daemon_start(d);
    struct client *client = daemon_client(d);
    uint8_t bytes[256];
    memcpy(bytes, sp_greeting_request, SP_GREETING_SIZE);
    const uint32_t size = SP_GREETING_SIZE + frame_ping(bytes + SP_GREETING_SIZE, 7, "echo", 4);
    int fds[256];
    for (uint32_t prefix = 0; prefix < size; prefix++) {
        const int fd = raw_connect(d->path);
        cr_assert(raw_send(fd, bytes, prefix));
        close(fd);
        fds[prefix] = raw_connect(d->path); /* Another stops there for a while. */
        cr_assert(raw_send(fds[prefix], bytes, prefix));
        call_echo(client, 10);
    }
    cr_assert(EVENTUALLY(taken(fds[size - 1])));
    for (uint32_t prefix = 0; prefix < size; prefix++) {
        cr_assert(raw_send(fds[prefix], bytes + prefix, size - prefix));
        uint8_t greeting[SP_GREETING_SIZE];
        cr_assert(raw_receive(fds[prefix], greeting, sizeof greeting));
        expect_echo(fds[prefix], 7, 'e', 4);
        close(fds[prefix]);
    }
    call_echo(client, 10);
    cr_assert(EVENTUALLY(stats().connections == 1));
    client_close(client);
    daemon_end(d);
}

TEST_BOTH(wire, a_frame_may_come_in_two_pieces_or_in_single_bytes)
{
    daemon_start(d);
    const int fd = raw_greeted(d->path);
    uint8_t frame[256];
    uint32_t size = frame_ping(frame, 1, "echo", 4);
    for (uint32_t split = 1; split < size; split++) {
        size = frame_ping(frame, split, "echo", 4);
        cr_assert(raw_send(fd, frame, split));
        cr_assert(EVENTUALLY(taken(fd)));
        cr_assert(raw_send(fd, frame + split, size - split));
        expect_echo(fd, split, 'e', 4);
    }
    for (uint32_t i = 0; i < size; i++) {
        cr_assert(raw_send(fd, frame + i, 1));
        cr_assert(EVENTUALLY(taken(fd)));
    }
    expect_echo(fd, size - 1, 'e', 4);
    close(fd);
    daemon_end(d);
}

TEST_BOTH(wire, many_frames_in_one_write_are_each_answered)
{
    enum { COUNT = 400, BODY_SIZE = 40 };
    daemon_directory(d);
    daemon_start_with(d, (struct listener_options){.exchange_count = COUNT});
    const int fd = raw_greeted(d->path);
    static uint8_t bytes[COUNT * (HEAD_SIZE + PROTOCOL_HEADER_SIZE + BODY_SIZE)];
    uint8_t body[BODY_SIZE];
    memset(body, 'e', sizeof body);
    for (uint32_t round = 0; round < 5; round++) {
        uint32_t size = 0;
        for (uint32_t i = 0; i < COUNT; i++) {
            size += frame_ping(bytes + size, i, body, sizeof body);
        }
        cr_assert(size > 2 * INPUT_SIZE);
        cr_assert(raw_send(fd, bytes, size));
        bool answered[COUNT] = {false};
        for (uint32_t i = 0; i < COUNT; i++) {
            uint8_t reply[HEAD_SIZE + sizeof(struct reply_header) + BODY_SIZE];
            cr_assert(raw_receive(fd, reply, sizeof reply));
            const uint32_t id =
                (uint32_t)sp_load(reply + SP_FRAME_HEADER_SIZE, 4) & ~sp_request_id_flag;
            cr_assert(id < COUNT && !answered[id]);
            answered[id] = true;
        }
    }
    close(fd);
    daemon_end(d);
}

/* Lengths at which the native listener takes another way, with a neighbour before and behind, cut
 * at places around the same boundary. */
TEST_BOTH(wire, frames_around_the_size_of_the_input_come_whole)
{
    daemon_start(d);
    const int fd = raw_greeted(d->path);
    const uint32_t overhead = HEAD_SIZE + PROTOCOL_HEADER_SIZE;
    static uint8_t bytes[4 * INPUT_SIZE];
    static uint8_t body[2 * INPUT_SIZE];
    memset(body, 'e', sizeof body);
    for (int32_t shift = -2; shift <= 2; shift++) {
        const uint32_t body_size = (uint32_t)((int32_t)(INPUT_SIZE - overhead) + shift);
        const uint32_t cuts[] = {overhead + 1, overhead + 5 + 9, INPUT_SIZE - 1,
                                 INPUT_SIZE,   INPUT_SIZE + 1,   INPUT_SIZE + overhead + 4};
        for (uint32_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
            uint32_t size = frame_ping(bytes, 1, "echo", 4);
            size += frame_ping(bytes + size, 2, body, body_size);
            size += frame_ping(bytes + size, 3, "echo", 4);
            cr_assert(raw_send(fd, bytes, cuts[i]));
            cr_assert(EVENTUALLY(taken(fd)));
            cr_assert(raw_send(fd, bytes + cuts[i], size - cuts[i]));
            uint32_t seen = 0;
            for (uint32_t reply = 0; reply < 3; reply++) {
                uint8_t head[HEAD_SIZE];
                cr_assert(raw_receive(fd, head, sizeof head));
                const uint32_t reply_size = (uint32_t)sp_load(head + 1, 8) - SP_REQUEST_ID_SIZE;
                const uint32_t id = (uint32_t)sp_load(head + SP_FRAME_HEADER_SIZE, 4) & 3;
                cr_assert(reply_size == PROTOCOL_HEADER_SIZE + (id == 2 ? body_size : 4));
                static uint8_t rest[2 * INPUT_SIZE];
                cr_assert(raw_receive(fd, rest, reply_size));
                seen |= 1u << id;
            }
            cr_assert(seen == 0xe);
        }
    }
    close(fd);
    daemon_end(d);
}

/* What forwarders put before the id comes back with it; from the ninth word on nobody answers, and
 * words without an end are no message. */
TEST_BOTH(wire, words_before_the_request_id_come_back)
{
    daemon_start(d);
    const int fd = raw_greeted(d->path);
    uint8_t message[128];
    const uint32_t message_size = raw_ping(message, 5, "echo", 4);
    for (uint32_t word_count = 1; word_count <= SP_WORD_COUNT_MAX + 2; word_count++) {
        uint8_t frame[256];
        const uint32_t words_size = 4 * word_count;
        sp_frame_header(frame, words_size + (uint64_t)message_size);
        for (uint32_t i = 0; i < word_count; i++) {
            const uint32_t word = 0x01020304u * (i + 1);
            sp_store(frame + SP_FRAME_HEADER_SIZE + 4 * i,
                     i + 1 < word_count ? word & ~sp_request_id_flag : word | sp_request_id_flag,
                     4);
        }
        memcpy(frame + SP_FRAME_HEADER_SIZE + words_size, message, message_size);
        cr_assert(raw_send(fd, frame, SP_FRAME_HEADER_SIZE + words_size + message_size));
        if (word_count > SP_WORD_COUNT_MAX) {
            continue;
        }
        uint8_t reply[256];
        const uint32_t reply_size =
            SP_FRAME_HEADER_SIZE + words_size + (uint32_t)sizeof(struct reply_header) + 4;
        cr_assert(raw_receive(fd, reply, reply_size));
        cr_assert(memcmp(reply + SP_FRAME_HEADER_SIZE, frame + SP_FRAME_HEADER_SIZE, words_size) ==
                  0);
    }
    cr_assert(raw_frame(fd, 5, message, message_size)); /* The next one is answered again. */
    expect_echo(fd, 5, 'e', 4);
    static const uint8_t endless[] = {1, 0, 0, 0, 0, 0, 0, 0, 6, 1, 2, 3, 4, 5, 6};
    cr_assert(raw_send(fd, endless, sizeof endless));
    cr_assert(is_closed(fd));
    close(fd);
    daemon_end(d);
}

TEST_BOTH(wire, what_is_no_greeting_or_no_frame_ends_the_connection)
{
    daemon_start(d);
    struct client *client = daemon_client(d);
    for (uint32_t at = 0; at < SP_GREETING_SIZE; at++) {
        uint8_t greeting[SP_GREETING_SIZE];
        memcpy(greeting, sp_greeting_request, sizeof greeting);
        greeting[at] ^= 0x41;
        const int fd = raw_connect(d->path);
        cr_assert(raw_send(fd, greeting, sizeof greeting));
        cr_assert(is_closed(fd), "byte %u", at);
        close(fd);
    }
    for (uint32_t size = 0; size < SP_REQUEST_ID_SIZE; size++) {
        uint8_t frame[16] = {0};
        sp_frame_header(frame, size);
        const int fd = raw_greeted(d->path);
        cr_assert(raw_send(fd, frame, SP_FRAME_HEADER_SIZE + size));
        cr_assert(is_closed(fd), "size %u", size);
        close(fd);
    }
    for (uint32_t mark = 0; mark < 256; mark += 51) {
        const uint8_t frame[9] = {(uint8_t)mark, 0, 0, 0, 0, 0, 0, 0, 80};
        const int fd = raw_greeted(d->path);
        cr_assert(raw_send(fd, frame, sizeof frame));
        cr_assert(is_closed(fd), "mark %u", mark);
        close(fd);
    }
    call_echo(client, 10);
    cr_assert(daemon_kind == LISTENER_NNG ||
              stats().bad_frames_total == SP_GREETING_SIZE + SP_REQUEST_ID_SIZE + 6);
    client_close(client);
    daemon_end(d);
}

/* A client that is nng's own, as it comes. */
TEST_BOTH(wire, an_nng_client_is_served)
{
    enum { COUNT = 8, ROUNDS = 20 };
    daemon_start(d);
    char url[128];
    snprintf(url, sizeof url, "ipc://%s", d->path);
    nng_socket socket;
    nng_ctx contexts[COUNT];
    nng_aio *aios[COUNT];
    cr_assert(nng_req0_open(&socket) == 0);
    cr_assert(nng_socket_set_ms(socket, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE) == 0);
    cr_assert(nng_dial(socket, url, NULL, 0) == 0);
    for (uint32_t i = 0; i < COUNT; i++) {
        cr_assert(nng_ctx_open(&contexts[i], socket) == 0);
        cr_assert(nng_aio_alloc(&aios[i], NULL, NULL) == 0);
        nng_aio_set_timeout(aios[i], 20000);
    }
    static uint8_t body[1 << 20];
    memset(body, 'e', sizeof body);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t sizes[COUNT];
        for (uint32_t i = 0; i < COUNT; i++) {
            sizes[i] = (round * COUNT + i) % 31 == 30 ? 1 << 20 : 1 + 997 * i * round;
            nng_msg *request;
            cr_assert(nng_msg_alloc(&request, PROTOCOL_HEADER_SIZE + sizes[i]) == 0);
            (void)raw_ping(nng_msg_body(request), i, body, sizes[i]);
            nng_aio_set_msg(aios[i], request);
            nng_ctx_send(contexts[i], aios[i]);
        }
        for (uint32_t i = 0; i < COUNT; i++) {
            nng_aio_wait(aios[i]);
            cr_assert(nng_aio_result(aios[i]) == 0);
            nng_ctx_recv(contexts[i], aios[i]);
        }
        for (uint32_t i = 0; i < COUNT; i++) {
            nng_aio_wait(aios[i]);
            cr_assert(nng_aio_result(aios[i]) == 0, "%s", nng_strerror(nng_aio_result(aios[i])));
            nng_msg *reply = nng_aio_get_msg(aios[i]);
            struct reply_header header;
            cr_assert(nng_msg_len(reply) == sizeof header + sizes[i]);
            memcpy(&header, nng_msg_body(reply), sizeof header);
            cr_assert(header.result == RESULT_OK && header.number == i);
            nng_msg_free(reply);
        }
    }
    cr_assert(stats().requests_total == COUNT * ROUNDS);
    for (uint32_t i = 0; i < COUNT; i++) {
        nng_aio_free(aios[i]);
        nng_ctx_close(contexts[i]);
    }
    nng_close(socket);
    daemon_end(d);
}

/* ---- Peers beside each other -------------------------------------------------------------------
 */

TEST_BOTH(wire, slow_senders_of_long_messages_interleave)
{
    enum { PEER_COUNT = 8, BODY_SIZE = 100000, PIECE = 7919 };
    daemon_start(d);
    struct client *client = daemon_client(d);
    static uint8_t frame[BODY_SIZE + 128];
    static uint8_t body[BODY_SIZE];
    int fds[PEER_COUNT];
    for (uint32_t i = 0; i < PEER_COUNT; i++) {
        fds[i] = raw_greeted(d->path);
    }
    memset(body, 'e', sizeof body);
    const uint32_t size = frame_ping(frame, 3, body, sizeof body);
    for (uint32_t at = 0; at < size; at += PIECE) {
        for (uint32_t i = 0; i < PEER_COUNT; i++) {
            cr_assert(raw_send(fds[i], frame + at, size - at < PIECE ? size - at : PIECE));
        }
        call_echo(client, 10);
    }
    for (uint32_t i = 0; i < PEER_COUNT; i++) {
        expect_echo(fds[i], 3, 'e', BODY_SIZE);
        close(fds[i]);
    }
    client_close(client);
    daemon_end(d);
}

TEST_BOTH(wire, replies_leave_in_any_order)
{
    enum { COUNT = 12 };
    daemon_start(d);
    struct client *client = daemon_client(d);
    for (uint32_t i = 0; i < COUNT; i++) {
        cr_assert(client_send(client, OPERATION_PING, "h", 1, 5000, NULL) == CLIENT_OK);
        cr_assert(EVENTUALLY(daemon_held(d) == i + 1));
    }
    daemon_release(d); /* the last first */
    for (uint32_t i = 0; i < COUNT; i++) {
        struct client_reply reply;
        cr_assert(client_receive(client, 5000, &reply) == CLIENT_OK);
        cr_assert(reply.number == COUNT - i || daemon_kind == LISTENER_NNG);
    }
    client_close(client);
    daemon_end(d);
}

/* More than the socket holds is due, and the reader takes it in small pieces: whole and unmixed. */
TEST_BOTH(wire, large_replies_to_a_slow_reader_are_whole)
{
    enum { COUNT = 12, BODY_SIZE = 256 * 1024 };
    daemon_directory(d);
    daemon_start_with(d, (struct listener_options){.send_timeout_ms = 60000});
    const int fd = raw_greeted(d->path);
    uint8_t command[5] = {'r'};
    const uint32_t body_size = BODY_SIZE;
    memcpy(command + 1, &body_size, sizeof body_size);
    uint8_t frame[128];
    for (uint32_t i = 0; i < COUNT; i++) {
        const uint32_t size = frame_ping(frame, i, command, sizeof command);
        cr_assert(raw_send(fd, frame, size));
    }
    static uint8_t reply[PROTOCOL_HEADER_SIZE + BODY_SIZE];
    uint32_t seen = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        uint8_t head[HEAD_SIZE];
        cr_assert(raw_receive(fd, head, sizeof head));
        cr_assert(sp_load(head + 1, 8) == SP_REQUEST_ID_SIZE + sizeof reply);
        seen |= 1u << (sp_load(head + SP_FRAME_HEADER_SIZE, 4) & 31);
        for (uint32_t at = 0; at < sizeof reply;) {
            const ssize_t count = recv(fd, reply + at, 5000 + 1000 * i, 0);
            cr_assert(count > 0);
            if (at + (uint32_t)count > sizeof reply) { /* Into the next: not so much of it. */
                cr_assert(false, "read over the end");
            }
            at += (uint32_t)count;
            if (sizeof reply - at < 5000 + 1000 * i && at < sizeof reply) {
                cr_assert(raw_receive(fd, reply + at, sizeof reply - at));
                at = sizeof reply;
            }
        }
        for (uint32_t k = 0; k < BODY_SIZE; k++) {
            cr_assert(reply[PROTOCOL_HEADER_SIZE + k] == (uint8_t)k);
        }
    }
    cr_assert(seen == (1u << COUNT) - 1);
    close(fd);
    daemon_end(d);
}

TEST_BOTH(wire, a_thousand_connections_are_served)
{
    enum { COUNT = 1000 };
    daemon_directory(d);
    daemon_start_with(d, (struct listener_options){.connection_count_max = COUNT});
    struct rlimit limit;
    cr_assert(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    cr_assert(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    const uint32_t count =
        limit.rlim_cur < 2 * COUNT + 100 ? (uint32_t)(limit.rlim_cur - 100) / 2 : COUNT;
    const uint32_t fds_before = fd_count();
    static int fds[COUNT];
    for (uint32_t i = 0; i < count; i++) {
        fds[i] = raw_greeted(d->path);
    }
    cr_assert(EVENTUALLY(stats().connections == count));
    uint8_t frame[128];
    for (uint32_t round = 0; round < 3; round++) {
        const uint32_t size = frame_ping(frame, round, "echo", 4);
        for (uint32_t i = 0; i < count; i++) {
            cr_assert(raw_send(fds[i], frame, size));
        }
        for (uint32_t i = 0; i < count; i++) {
            expect_echo(fds[i], round, 'e', 4);
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        close(fds[i]);
    }
    cr_assert(EVENTUALLY(stats().connections == 0));
    cr_assert(EVENTUALLY(fd_count() <= fds_before));
    daemon_end(d);
}

static uint64_t rss(void)
{
    struct memory_stats memory;
    memory_stats_read(&memory);
    return memory.rss;
}

TEST_BOTH(wire, descriptors_threads_and_memory_are_flat_over_thousands_of_connections)
{
    enum { WARM = 500, COUNT = 4000 };
    daemon_directory(d);
    daemon_start_with(d, (struct listener_options){.connection_count_max = 1024});
    uint32_t fds = 0;
    uint32_t threads = 0;
    uint64_t resident = 0;
    uint8_t frame[1024];
    uint8_t body[700];
    memset(body, 'e', sizeof body);
    for (uint32_t i = 0; i < COUNT; i++) {
        if (i == WARM) {
            cr_assert(EVENTUALLY(stats().connections == 0));
            fds = fd_count();
            threads = thread_count();
            resident = rss();
        }
        if (i % 100 == 0) { /* nng takes its time to clear away. */
            cr_assert(EVENTUALLY(stats().connections < 100));
        }
        const int fd = raw_greeted(d->path);
        const uint32_t size = frame_ping(frame, i, body, sizeof body);
        for (uint32_t k = 0; k < i % 4; k++) { /* Some hang up with a request under way. */
            cr_assert(raw_send(fd, frame, size));
        }
        if (i % 4 == 1) {
            expect_echo(fd, i, 'e', sizeof body);
        }
        close(fd);
    }
    cr_assert(daemon_serves(d));
    cr_assert(EVENTUALLY(stats().connections == 0));
    cr_assert(EVENTUALLY(fd_count() <= fds));
    cr_assert(thread_count() == threads);
#ifndef __SANITIZE_ADDRESS__ /* which keeps what was freed for a while */
    const uint64_t grown = rss() > resident ? rss() - resident : 0;
    cr_assert(grown < 12u << 20, "%lu bytes more", grown); /* A leak of 4 KiB each would be seen. */
#else
    (void)resident;
#endif
    daemon_end(d);
}

/* ---- Death -------------------------------------------------------------------------------------
 */

/* What a client does in its life, one step after the other; it is killed behind step `last`. */
static void live_until(const char *path, uint32_t last)
{
    uint8_t frame[128];
    const uint32_t size = frame_ping(frame, 1, "echo", 4);
    static const uint8_t large[5] = {'r', 0, 0, 8, 0}; /* 512 KiB */
    static uint8_t bytes[64 * 1024];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    for (uint32_t step = 0; step <= last; step++) {
        bool good = true;
        switch (step) {
        case 0:
            good = connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
            break;
        case 1:
            good = raw_send(fd, sp_greeting_request, 5);
            break;
        case 2:
            good = raw_send(fd, sp_greeting_request + 5, 3);
            break;
        case 3:
            good = raw_receive(fd, bytes, SP_GREETING_SIZE);
            break;
        case 4:
            good = raw_send(fd, frame, 11);
            break;
        case 5:
            good = raw_send(fd, frame + 11, size - 11);
            break;
        case 6:
            good = raw_receive(fd, bytes, HEAD_SIZE);
            break;
        case 7:
            good = raw_receive(fd, bytes, sizeof(struct reply_header) + 4);
            break;
        case 8:
            for (int i = 0; i < 5; i++) {
                good &= raw_send(fd, frame, size);
            }
            break;
        case 9:
            good = raw_send(fd, frame, frame_ping(frame, 1, large, sizeof large));
            break;
        case 10:
            good = raw_receive(fd, bytes, sizeof bytes);
            break;
        default: /* the beginning of a long message */
            sp_frame_header(frame, 400000);
            good = raw_send(fd, frame, size);
            break;
        }
        if (!good) {
            _exit(1);
        }
    }
    raise(SIGKILL);
}

TEST_BOTH(wire, clients_may_die_behind_every_step)
{
    enum { STEP_COUNT = 12, ROUNDS = 8 };
    daemon_directory(d);
    int gate[2];
    cr_assert(pipe(gate) == 0);
    const pid_t parent = fork(); /* A process without the daemon's threads and descriptors. */
    cr_assert(parent >= 0);
    if (parent == 0) {
        uint8_t go;
        if (read(gate[0], &go, 1) != 1) {
            _exit(1);
        }
        for (uint32_t i = 0; i < STEP_COUNT * ROUNDS; i++) {
            const pid_t child = fork();
            if (child == 0) {
                live_until(d->path, i % STEP_COUNT);
            }
            int wait_status;
            waitpid(child, &wait_status, 0);
            if (!WIFSIGNALED(wait_status)) {
                _exit(2);
            }
        }
        _exit(0);
    }
    daemon_start_with(d, (struct listener_options){0});
    struct client *client = daemon_client(d);
    call_echo(client, 10);
    const uint32_t fds = fd_count();
    cr_assert(write(gate[1], "g", 1) == 1);
    int wait_status = 0;
    while (waitpid(parent, &wait_status, WNOHANG) == 0) {
        call_echo(client, 100);
    }
    cr_assert(WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0, "%x", wait_status);
    cr_assert(EVENTUALLY(stats().connections == 1));
    cr_assert(EVENTUALLY(stats().exchanges_busy == 0));
    cr_assert(EVENTUALLY(fd_count() <= fds));
    call_echo(client, 10);
    client_close(client);
    close(gate[0]);
    close(gate[1]);
    daemon_end(d);
}

TEST_BOTH(wire, a_listener_may_stop_while_a_reply_waits_for_its_reader)
{
    daemon_directory(d);
    daemon_start_with(d, (struct listener_options){.send_timeout_ms = 60000});
    const int fd = raw_greeted(d->path);
    static const uint8_t command[5] = {'r', 0, 0, 15, 0}; /* 960 KiB */
    uint8_t frame[128];
    for (uint32_t i = 0; i < 3; i++) {
        const uint32_t size = frame_ping(frame, i, command, sizeof command);
        cr_assert(raw_send(fd, frame, size));
    }
    int waiting = 0;
    cr_assert(EVENTUALLY(ioctl(fd, FIONREAD, &waiting) == 0 && waiting > 100000));
    cr_assert(EVENTUALLY(stats().requests_total == 3));
    listener_stop_accepting(d->listener);
    cr_assert(!daemon_drain(d, 20));
    daemon_listener_stop(d);
    cr_assert(is_closed(fd));
    close(fd);
    cr_assert(access(d->path, F_OK) != 0);
    cr_assert(rmdir(d->directory) == 0);
}
