/* A durable echo with nothing between it and the kernel: one thread, epoll, SP frames. What it
 * reads in one round is a batch: one durable write, then an answer to each request, as Holt would
 * answer a write. What a store on this machine could reach at best; ends by SIGTERM.
 *
 *   echo_raw SOCKET FILE */
#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "benchmarks/ipc/echo_file.h"
#include "ipc/protocol.h"
#include "ipc/sp.h"

enum {
    INPUT_SIZE = 64 * 1024,
    FD_COUNT_MAX = 1024,
    EVENT_COUNT = 256,
    ANSWER_COUNT_MAX = 512, /* of one connection in one batch */
    HEAD_SIZE = SP_FRAME_HEADER_SIZE + SP_REQUEST_ID_SIZE,
    REPLY_SIZE = HEAD_SIZE + sizeof(struct reply_header) + sizeof(struct write_reply),
};

struct connection {
    bool greeted;
    uint32_t size;
    uint32_t answer_size;
    uint8_t input[INPUT_SIZE];
    uint8_t answers[ANSWER_COUNT_MAX * REPLY_SIZE];
};

static struct connection *connections[FD_COUNT_MAX];
static struct echo_file file;

static void hang_up(int fd)
{
    free(connections[fd]);
    connections[fd] = NULL;
    close(fd);
}

/* Adds the requests in the input to the batch, and their answers to those to be given. */
static bool take(struct connection *connection)
{
    uint32_t start = 0;
    if (!connection->greeted) {
        if (connection->size < SP_GREETING_SIZE) {
            return true;
        }
        connection->greeted = true;
        start = SP_GREETING_SIZE;
    }
    while (connection->size - start >= SP_FRAME_HEADER_SIZE) {
        const uint8_t *frame = connection->input + start;
        const uint64_t size = sp_load(frame + 1, 8);
        if (size < SP_REQUEST_ID_SIZE + sizeof(struct request_header) ||
            size > INPUT_SIZE - SP_FRAME_HEADER_SIZE) {
            return false;
        }
        if (connection->size - start < SP_FRAME_HEADER_SIZE + size) {
            break;
        }
        if (connection->answer_size + REPLY_SIZE > sizeof connection->answers) {
            return false;
        }
        echo_file_add(&file, frame + SP_FRAME_HEADER_SIZE, (uint32_t)size);
        struct request_header request;
        memcpy(&request, frame + HEAD_SIZE, sizeof request);
        const struct reply_header reply =
            protocol_reply_header(&request, RESULT_OK, sizeof(struct write_reply));
        uint8_t *answer = connection->answers + connection->answer_size;
        memset(answer, 0, REPLY_SIZE);
        sp_frame_header(answer, REPLY_SIZE - SP_FRAME_HEADER_SIZE);
        memcpy(answer + SP_FRAME_HEADER_SIZE, frame + SP_FRAME_HEADER_SIZE, SP_REQUEST_ID_SIZE);
        memcpy(answer + HEAD_SIZE, &reply, sizeof reply);
        connection->answer_size += REPLY_SIZE;
        start += SP_FRAME_HEADER_SIZE + (uint32_t)size;
    }
    memmove(connection->input, connection->input + start, connection->size - start);
    connection->size -= start;
    return true;
}

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    unlink(path);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(fd, SOMAXCONN) != 0) {
        echo_fail(path);
    }
    return fd;
}

static void accept_one(int epoll_fd, int listen_fd)
{
    const int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        return;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (fd >= FD_COUNT_MAX) {
        close(fd);
        return;
    }
    connections[fd] = calloc(1, sizeof *connections[fd]);
    if (connections[fd] == NULL || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0 ||
        send(fd, sp_greeting_reply, SP_GREETING_SIZE, MSG_NOSIGNAL) != SP_GREETING_SIZE) {
        echo_fail("accept");
    }
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: echo_raw SOCKET FILE\n");
        return 64;
    }
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    const int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
    echo_file_open(&file, argv[2]);
    const int listen_fd = listen_at(argv[1]);
    const int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    const int fixed[] = {listen_fd, signal_fd};
    for (uint32_t i = 0; i < array_count(fixed); i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fixed[i]};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fixed[i], &event) != 0) {
            echo_fail("epoll_ctl");
        }
    }
    for (;;) {
        struct epoll_event events[EVENT_COUNT];
        const int count = epoll_wait(epoll_fd, events, EVENT_COUNT, -1);
        for (int i = 0; i < count; i++) {
            const int fd = events[i].data.fd;
            if (fd == signal_fd) {
                echo_file_report(&file);
                unlink(argv[1]);
                return 0;
            }
            if (fd == listen_fd) {
                accept_one(epoll_fd, listen_fd);
                continue;
            }
            struct connection *connection = connections[fd];
            const ssize_t got = recv(fd, connection->input + connection->size,
                                     INPUT_SIZE - connection->size, MSG_DONTWAIT);
            if (got > 0) {
                connection->size += (uint32_t)got;
            }
            if (got == 0 || (got < 0 && errno != EAGAIN) || !take(connection)) {
                hang_up(fd);
            }
        }
        if (file.batch_size == 0) {
            continue;
        }
        echo_file_write(&file);
        for (int i = 0; i < count; i++) {
            const int fd = events[i].data.fd;
            struct connection *connection = connections[fd];
            if (fd == listen_fd || connection == NULL || connection->answer_size == 0) {
                continue;
            }
            /* Clients of a benchmark read their replies. */
            if (send(fd, connection->answers, connection->answer_size, MSG_NOSIGNAL) !=
                (ssize_t)connection->answer_size) {
                hang_up(fd);
                continue;
            }
            connection->answer_size = 0;
        }
    }
}
