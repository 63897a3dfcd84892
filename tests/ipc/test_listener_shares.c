/* Goal: who connects is who he says, and leaves connections and exchanges for others; and the rules
 * that only our own listener has (turns, deadlines, no descriptors) hold.
 * Method: connections of several users, by real uids; wire_fixture.h. */
#include <sys/resource.h>
#include <sys/syscall.h>

#include "tests/ipc/wire_fixture.h"

/* ---- Users -------------------------------------------------------------------------------------
 */

/* A socket that others than root can reach. */
static void start_for_all(struct listener_options options)
{
    daemon_directory(d);
    cr_assert(chmod(d->directory, 0755) == 0);
    options.socket_mode = 0666;
    daemon_start_with(d, options);
}

/* What connects in between does so as this user. The system call is this thread's alone, unlike
 * libc's function of that name: the daemon's threads stay who they are. */
static void be(uint32_t uid)
{
    cr_assert(syscall(SYS_setresuid, -1, uid, -1) == 0);
}

static int greeted_as(uint32_t uid)
{
    be(uid);
    const int fd = raw_greeted(d->path);
    be(0);
    return fd;
}

/* Whether a connection of this user is let in, and served. */
static bool enters(uint32_t uid, int *fd)
{
    uint8_t frame[128];
    uint8_t greeting[SP_GREETING_SIZE];
    be(uid);
    *fd = raw_connect(d->path);
    be(0);
    (void)raw_send(*fd, sp_greeting_request, SP_GREETING_SIZE);
    if (!raw_receive(*fd, greeting, sizeof greeting) ||
        !raw_send(*fd, frame, frame_ping(frame, 1, "echo", 4))) {
        close(*fd);
        return false;
    }
    uint8_t reply[HEAD_SIZE + sizeof(struct reply_header) + 4];
    const bool served = raw_receive(*fd, reply, sizeof reply);
    if (!served) {
        close(*fd);
    }
    return served;
}

TEST_BOTH(wire, the_uid_is_that_of_whoever_connects)
{
    static const uint32_t uids[] = {0, 1, 1000, 65534, 4000000000};
    start_for_all((struct listener_options){0});
    for (uint32_t i = 0; i < 5; i++) {
        int fd;
        cr_assert(enters(uids[i], &fd));
        cr_assert(d->last_uid == uids[i]);
        close(fd);
    }
    daemon_end(d);
}

TEST_BOTH(wire, a_user_leaves_connections_for_others)
{
    enum { MAX = 6 }; /* 8 in all */
    start_for_all((struct listener_options){.connection_count_max = MAX});
    int fds[MAX];
    int other, third, fd;
    for (uint32_t i = 0; i < MAX; i++) {
        cr_assert(enters(1000, &fds[i]));
    }
    cr_assert(!enters(1000, &fd));
    cr_assert(enters(1001, &other));
    cr_assert(!enters(1001, &fd)); /* The last one is for somebody new. */
    cr_assert(!enters(1000, &fd));
    cr_assert(enters(1002, &third));
    cr_assert(!enters(1003, &fd));
    cr_assert(stats().connections_refused == 4);
    cr_assert(stats().connections == MAX + 2);
    for (uint32_t i = 0; i < MAX; i++) {
        close(fds[i]);
    }
    cr_assert(EVENTUALLY(stats().connections == 2));
    cr_assert(enters(1003, &fd));
    close(fd);
    close(other);
    close(third);
    cr_assert(EVENTUALLY(stats().connections == 0));
    daemon_end(d);
}

/* By the number of his connections a user could have every exchange, if an eighth of them were not
 * kept for others. */
TEST_BOTH(wire, a_user_with_many_connections_leaves_exchanges_for_others)
{
    enum { COUNT = 60, EXCHANGES = 16 };
    start_for_all((struct listener_options){.exchange_count = EXCHANGES});
    struct client *modest = daemon_client(d);
    call_echo(modest, 10);
    int fds[COUNT];
    uint8_t frame[128];
    for (uint32_t i = 0; i < COUNT; i++) {
        fds[i] = greeted_as(1000);
        cr_assert(raw_send(fds[i], frame, frame_ping(frame, i, "hold", 4)));
    }
    const uint32_t all = daemon_kind == LISTENER_NNG ? 22 : 16;
    const uint32_t most = all - (all + 7) / 8;
    cr_assert(EVENTUALLY(daemon_held(d) == most));
    for (uint32_t i = 0; i < 200; i++) {
        /* nng gives an exchange back a moment after its reply; who asks on could have two. */
        cr_assert(EVENTUALLY(stats().exchanges_busy == most));
        call_echo(modest, 10);
    }
    cr_assert(daemon_held(d) == most);
    uint32_t busy = 0;
    for (uint32_t i = 0; i < COUNT; i++) { /* In what order they leave is not said. */
        uint8_t head[HEAD_SIZE];
        struct reply_header reply;
        uint8_t body[WIRE_ERROR_TEXT_SIZE_MAX];
        while (recv(fds[i], head, 1, MSG_PEEK | MSG_DONTWAIT) != 1) {
            daemon_release(d);
            poll(NULL, 0, 1);
        }
        cr_assert(raw_receive(fds[i], head, sizeof head));
        cr_assert(raw_receive(fds[i], &reply, sizeof reply));
        cr_assert(raw_receive(fds[i], body, reply.body_size));
        cr_assert(reply.result == RESULT_OK || reply.result == RESULT_BUSY);
        cr_assert((reply.retry_after_ms > 0) == (reply.result == RESULT_BUSY));
        busy += reply.result == RESULT_BUSY;
        close(fds[i]);
    }
    cr_assert(busy == (daemon_kind == LISTENER_NNG ? COUNT - most : 0), "%u", busy);
    cr_assert(stats().over_share_total == busy);
    client_close(modest);
    cr_assert(EVENTUALLY(stats().exchanges_busy == 0));
    daemon_end(d);
}

/* With nng, which hands a context whatever comes, what is beyond a connection's share is answered
 * at once; a client that does as it is told gets all it asked for. */
Test(wire_nng, a_peer_beyond_its_share_is_told_so)
{
    enum { COUNT = 300, EXCHANGES = 16, ALL = 22 };
    daemon_kind = LISTENER_NNG;
    daemon_directory(d);
    daemon_start_with(d, (struct listener_options){.exchange_count = EXCHANGES});
    struct client *greedy = daemon_client(d);
    struct client *modest = daemon_client(d);
    for (uint32_t i = 0; i < COUNT; i++) {
        cr_assert(client_send(greedy, OPERATION_PING, "h", 1, 5000, NULL) == CLIENT_OK);
    }
    struct client_reply reply;
    for (uint32_t i = 0; i < COUNT - EXCHANGES - 1; i++) {
        cr_assert(client_receive(greedy, 5000, &reply) == CLIENT_OK);
        cr_assert(reply.result == RESULT_BUSY);
        cr_assert(reply.retry_after_ms > 0);
        cr_assert(reply.body_size > 0);
    }
    const uint32_t held = daemon_held(d);
    cr_assert(held >= EXCHANGES && held < ALL, "%u", held);
    for (uint32_t i = 0; i < 100; i++) {
        call_echo(modest, 10);
    }
    while (client_in_flight(greedy) > 0) {
        daemon_release(d);
        const enum client_status status = client_receive(greedy, 1, &reply);
        cr_assert(status == CLIENT_OK || status == CLIENT_TIMEOUT);
    }
    client_close(greedy);
    client_close(modest);
    daemon_end(d);
}

/* ---- Rules of the native listener --------------------------------------------------------------
 */

static void native_start(struct listener_options options)
{
    daemon_kind = LISTENER_NATIVE;
    daemon_directory(d);
    daemon_start_with(d, options);
}

Test(wire_native, one_peer_holds_three_quarters_at_most)
{
    native_start((struct listener_options){.exchange_count = 8});
    struct client *greedy = daemon_client(d);
    struct client *modest = daemon_client(d);
    for (int i = 0; i < 100; i++) {
        cr_assert(client_send(greedy, OPERATION_PING, "h", 1, 5000, NULL) == CLIENT_OK);
    }
    cr_assert(EVENTUALLY(daemon_held(d) == 6));
    for (int i = 0; i < 100; i++) {
        call_echo(modest, 10);
    }
    cr_assert(daemon_held(d) == 6);

    struct client *second = daemon_client(d);
    for (int i = 0; i < 100; i++) {
        cr_assert(client_send(second, OPERATION_PING, "h", 1, 5000, NULL) == CLIENT_OK);
    }
    cr_assert(EVENTUALLY(daemon_held(d) == 7)); /* One is left for who comes. */
    for (int i = 0; i < 100; i++) {
        call_echo(modest, 10);
    }
    cr_assert(daemon_held(d) == 7);
    while (client_in_flight(greedy) + client_in_flight(second) > 0) {
        daemon_release(d);
        struct client_reply reply;
        struct client *each = client_in_flight(greedy) > 0 ? greedy : second;
        const enum client_status status = client_receive(each, 1, &reply);
        cr_assert(status == CLIENT_OK || status == CLIENT_TIMEOUT);
    }
    client_close(greedy);
    client_close(second);
    client_close(modest);
    daemon_end(d);
}

/* With more greedy peers than exchanges each gets its turn, in order. */
Test(wire_native, peers_without_an_exchange_are_served_in_order)
{
    enum { PEER_COUNT = 10, EACH = 5 };
    native_start((struct listener_options){.exchange_count = 2});
    struct client *blocker = daemon_client(d);
    cr_assert(client_send(blocker, OPERATION_PING, "h", 1, 5000, NULL) == CLIENT_OK);
    cr_assert(EVENTUALLY(daemon_held(d) == 1));
    struct client *second = daemon_client(d);
    cr_assert(client_send(second, OPERATION_PING, "h", 1, 5000, NULL) == CLIENT_OK);
    cr_assert(EVENTUALLY(daemon_held(d) == 2)); /* None is left. */

    struct client *peers[PEER_COUNT];
    for (uint32_t i = 0; i < PEER_COUNT; i++) {
        peers[i] = daemon_client(d);
        for (uint32_t k = 0; k < EACH; k++) {
            cr_assert(client_send(peers[i], OPERATION_PING, "n", 1, 5000, NULL) == CLIENT_OK);
        }
    }
    poll(NULL, 0, 20); /* So that they wait already: not needed for the outcome. */
    daemon_release(d);
    uint64_t first_max = 0;
    uint64_t last_min = UINT64_MAX;
    for (uint32_t i = 0; i < PEER_COUNT; i++) {
        for (uint32_t k = 0; k < EACH; k++) {
            struct client_reply reply;
            cr_assert(client_receive(peers[i], 5000, &reply) == CLIENT_OK);
            uint64_t number;
            cr_assert(reply.body_size == sizeof number);
            memcpy(&number, reply.body, sizeof number);
            first_max = k == 0 && number > first_max ? number : first_max;
            last_min = k == EACH - 1 && number < last_min ? number : last_min;
        }
        client_close(peers[i]);
    }
    /* Everybody's first is served before anybody's fifth. */
    cr_assert(first_max < last_min, "%lu, %lu", first_max, last_min);
    client_close(blocker);
    client_close(second);
    daemon_end(d);
}

struct flood {
    pthread_t thread;
    const char *path;
    _Atomic bool *stop;
};

static void *flood_run(void *context)
{
    enum { IN_FLIGHT = 500 };
    struct flood *flood = context;
    struct client *client;
    struct client_reply reply;
    cr_assert(client_open(&(struct client_options){.socket_path = flood->path}, &client) ==
              CLIENT_OK);
    while (!*flood->stop) {
        while (client_in_flight(client) < IN_FLIGHT) {
            cr_assert(client_send(client, OPERATION_PING, "e", 1, 20000, NULL) == CLIENT_OK);
        }
        cr_assert(client_receive(client, 20000, &reply) == CLIENT_OK);
    }
    client_close(client);
    return NULL;
}

/* A request that is in its socket is begun within two turns of everybody else, however long that
 * takes: at most 16 requests of each flooding peer a turn, and one that each of them waited for. */
Test(wire_native, a_flood_delays_others_by_two_turns_at_most)
{
    enum { FLOOD_COUNT = 3, CALLS = 150, BOUND = 2 * FLOOD_COUNT * (16 + 1) };
    native_start((struct listener_options){.exchange_count = 1024, .message_size_max = 4096});
    _Atomic bool stop = false;
    struct flood floods[FLOOD_COUNT];
    for (int i = 0; i < FLOOD_COUNT; i++) {
        floods[i] = (struct flood){.path = d->path, .stop = &stop};
        pthread_create(&floods[i].thread, NULL, flood_run, &floods[i]);
    }
    cr_assert(EVENTUALLY(d->handled_count > 1000));
    struct client *client = daemon_client(d);
    uint64_t waited_max = 0;
    for (int i = 0; i < CALLS; i++) {
        cr_assert(client_send(client, OPERATION_PING, "n", 1, 20000, NULL) == CLIENT_OK);
        const uint64_t sent_at = d->handled_count;
        struct client_reply reply;
        cr_assert(client_receive(client, 20000, &reply) == CLIENT_OK);
        uint64_t begun_at;
        cr_assert(reply.body_size == sizeof begun_at);
        memcpy(&begun_at, reply.body, sizeof begun_at);
        const uint64_t waited = begun_at > sent_at ? begun_at - sent_at : 0;
        waited_max = waited > waited_max ? waited : waited_max;
    }
    stop = true;
    for (int i = 0; i < FLOOD_COUNT; i++) {
        pthread_join(floods[i].thread, NULL);
    }
    cr_assert(waited_max <= BOUND, "%lu", waited_max);
    client_close(client);
    daemon_end(d);
}

Test(wire_native, long_messages_that_stall_delay_long_messages_only)
{
    enum { PEER_COUNT = 10 };
    native_start((struct listener_options){.exchange_count = 8, .receive_timeout_ms = 400});
    struct client *client = daemon_client(d);
    int fds[PEER_COUNT];
    uint8_t head[SP_FRAME_HEADER_SIZE + 100] = {0};
    sp_frame_header(head, 500000);
    for (int i = 0; i < PEER_COUNT; i++) {
        fds[i] = raw_greeted(d->path);
        cr_assert(raw_send(fds[i], head, sizeof head));
    }
    cr_assert(EVENTUALLY(taken(fds[PEER_COUNT - 1])));
    for (int i = 0; i < 50; i++) {
        call_echo(client, 10);
    }
    call_echo(client, 500000); /* Waits for those before it to lose their time. */
    for (int i = 0; i < PEER_COUNT; i++) {
        cr_assert(is_closed(fds[i]));
        close(fds[i]);
    }
    cr_assert(stats().receive_timeouts_total == PEER_COUNT);
    cr_assert(EVENTUALLY(stats().connections == 1));
    client_close(client);
    daemon_end(d);
}

Test(wire_native, who_does_not_greet_is_closed)
{
    native_start((struct listener_options){.receive_timeout_ms = 100});
    struct client *client = daemon_client(d); /* May be silent for as long as it likes. */
    const int silent = raw_connect(d->path);
    const int half = raw_connect(d->path);
    cr_assert(raw_send(half, sp_greeting_request, 7));
    cr_assert(is_closed(silent));
    cr_assert(is_closed(half));
    cr_assert(stats().receive_timeouts_total == 2);
    call_echo(client, 10);
    cr_assert(stats().connections_total == 3);
    close(silent);
    close(half);
    client_close(client);
    daemon_end(d);
}

Test(wire_native, without_descriptors_those_connected_are_served_and_others_wait)
{
    enum { PEER_COUNT = 20, SPARE = 5 };
    daemon_directory(d);
    int gate[2];
    int back[2];
    cr_assert(pipe(gate) == 0);
    cr_assert(pipe(back) == 0);
    const pid_t child = fork(); /* Its descriptors are not ours. */
    cr_assert(child >= 0);
    if (child == 0) {
        uint8_t go;
        int fds[PEER_COUNT];
        bool good = read(gate[0], &go, 1) == 1;
        for (int i = 0; i < PEER_COUNT; i++) {
            fds[i] = raw_connect(d->path);
            good &= raw_send(fds[i], sp_greeting_request, SP_GREETING_SIZE);
        }
        good &= write(back[1], "c", 1) == 1;
        for (int i = 0; i < PEER_COUNT; i++) { /* The last ones when the limit is up again. */
            uint8_t greeting[SP_GREETING_SIZE];
            good &= raw_receive(fds[i], greeting, sizeof greeting);
        }
        _exit(good ? 0 : 1);
    }
    daemon_kind = LISTENER_NATIVE;
    daemon_start_with(d, (struct listener_options){0});
    struct client *client = daemon_client(d);
    call_echo(client, 10);
    struct rlimit limit;
    cr_assert(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    const struct rlimit low = {.rlim_cur = fd_count() - 3 + SPARE, .rlim_max = limit.rlim_max};
    cr_assert(setrlimit(RLIMIT_NOFILE, &low) == 0);
    cr_assert(write(gate[1], "g", 1) == 1);
    uint8_t connected;
    cr_assert(read(back[0], &connected, 1) == 1);
    cr_assert(EVENTUALLY(stats().accept_errors_total > 1));
    cr_assert(stats().connections <= 1 + SPARE);
    for (int i = 0; i < 20; i++) {
        call_echo(client, 10);
    }
    cr_assert(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int wait_status;
    cr_assert(waitpid(child, &wait_status, 0) == child);
    cr_assert(WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0, "%x", wait_status);
    cr_assert(EVENTUALLY(stats().connections == 1));
    cr_assert(stats().connections_total == 1 + PEER_COUNT);
    cr_assert(daemon_serves(d));
    client_close(client);
    for (int i = 0; i < 2; i++) {
        close(gate[i]);
        close(back[i]);
    }
    daemon_end(d);
}

/* Turns the listener by hand, so that what comes in one turn is known. */
static void turn_until_greeted(int fd)
{
    uint8_t greeting[SP_GREETING_SIZE];
    cr_assert(raw_send(fd, sp_greeting_request, SP_GREETING_SIZE));
    size_t received = 0;
    for (int turns = 0; received < sizeof greeting && turns < 1000; turns++) {
        listener_wait(d->listener, 0, 0);
        const ssize_t size =
            recv(fd, greeting + received, sizeof greeting - received, MSG_DONTWAIT);
        received += size > 0 ? (size_t)size : 0;
    }
    cr_assert(received == sizeof greeting);
}

Test(wire_native, requests_come_before_who_comes_and_goes)
{
    enum { PUT_OFF = 4 };
    daemon_directory(d);
    d->tail = &d->head;
    doorbell_init(&d->doorbell);
    const struct listener_options options = {.kind = LISTENER_NATIVE,
                                             .socket_path = d->path,
                                             .message_size_max = DAEMON_MESSAGE_SIZE_MAX,
                                             .doorbell = &d->doorbell};
    const char *reason;
    cr_assert(listener_start(&options, daemon_handle, d, &d->listener, &reason) == STATUS_OK);
    const int busy = raw_connect(d->path);
    const int going = raw_connect(d->path);
    turn_until_greeted(busy);
    turn_until_greeted(going);
    cr_assert(stats().connections == 2);

    close(going);
    const int coming = raw_connect(d->path);
    uint8_t frame[128];
    const uint32_t size = frame_ping(frame, 1, "inline", 6);
    for (uint32_t i = 1; i <= PUT_OFF; i++) {
        cr_assert(raw_send(busy, frame, size));
        listener_wait(d->listener, 0, 0);
        cr_assert(d->handled_count == i);
        cr_assert(stats().connections == 2, "after %u turns", i);
    }
    cr_assert(raw_send(busy, frame, size));
    listener_wait(d->listener, 0, 0);
    cr_assert(stats().connections == 1); /* Not for ever; and who goes makes room for who comes. */
    cr_assert(stats().connections_total == 2);
    listener_wait(d->listener, 0, 0);
    cr_assert(stats().connections == 2);
    cr_assert(d->handled_count == PUT_OFF + 1);
    close(busy);
    close(coming);
    listener_stop(d->listener);
    doorbell_deinit(&d->doorbell);
    cr_assert(rmdir(d->directory) == 0);
}

Test(wire_native, another_socket_at_the_path_is_not_removed)
{
    native_start((struct listener_options){0});
    cr_assert(unlink(d->path) == 0);
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, d->path);
    cr_assert(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    daemon_stop(d);
    cr_assert(access(d->path, F_OK) == 0);
    close(fd);
    cr_assert(unlink(d->path) == 0);
    cr_assert(rmdir(d->directory) == 0);
}
