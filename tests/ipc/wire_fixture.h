/* A daemon and its raw peers, for the tests of what a listener does with bytes and peers. Where a
 * test needs bytes to have arrived it asks the kernel (SIOCOUTQ); where it needs a bound on waiting
 * it counts what others were given meanwhile, not time. */
#pragma once

#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "ipc/sp.h"
#include "tests/ipc/daemon.h"

static struct daemon daemon_under_test;
static struct daemon *const d = &daemon_under_test;

TestSuite(wire_nng, .timeout = 120);
TestSuite(wire_native, .timeout = 120);
TestSuite(wire_turned, .timeout = 120);

enum { HEAD_SIZE = SP_FRAME_HEADER_SIZE + SP_REQUEST_ID_SIZE };

static struct listener_stats stats(void)
{
    struct listener_stats stats;
    listener_stats_read(d->listener, &stats);
    return stats;
}

/* Whether the peer has taken all that was sent to it. */
static bool taken(int fd)
{
    int waiting = -1;
    cr_assert(ioctl(fd, SIOCOUTQ, &waiting) == 0);
    return waiting == 0;
}

/* A whole frame with a PING; returns its size. */
static uint32_t frame_ping(uint8_t *frame, uint32_t id, const void *body, uint32_t body_size)
{
    const uint32_t size = raw_ping(frame + HEAD_SIZE, id, body, body_size);
    sp_frame_header(frame, SP_REQUEST_ID_SIZE + (uint64_t)size);
    sp_store(frame + SP_FRAME_HEADER_SIZE, sp_request_id_flag | id, SP_REQUEST_ID_SIZE);
    return HEAD_SIZE + size;
}

static bool is_closed(int fd)
{
    uint8_t bytes[64];
    ssize_t count;
    do {
        count = recv(fd, bytes, sizeof bytes, 0);
    } while (count > 0);
    return count == 0 || errno == ECONNRESET;
}

static void call_echo(struct client *client, uint32_t size)
{
    uint8_t *body = malloc(size + 1);
    memset(body, 'e', size + 1);
    struct client_reply reply;
    const enum client_status status =
        client_call(client, OPERATION_PING, body, size, 20000, &reply);
    cr_assert(status == CLIENT_OK, "%s", client_status_text(status));
    cr_assert(reply.result == RESULT_OK);
    cr_assert(reply.body_size == size);
    cr_assert(size == 0 || memcmp(reply.body, body, size) == 0);
    free(body);
}
