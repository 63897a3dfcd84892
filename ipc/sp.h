/* The envelope of every message: SP request/reply over a stream socket (docs/protocol.md, section
 * 1). All of it that REQ and REP need; numbers are big-endian.
 *
 *   greeting, both ways   00 'S' 'P' 00  protocol (2 bytes: 0x0030 REQ, 0x0031 REP)  00 00
 *   message               01  size (8 bytes)  request id (4 bytes, top bit set)  body (size - 4)
 *
 * A request that came through forwarders has further words in front of its id, without the top bit:
 * whom to give the reply to. The reply carries them all, as they were. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum {
    SP_GREETING_SIZE = 8,
    SP_FRAME_HEADER_SIZE = 9,
    SP_REQUEST_ID_SIZE = 4,
    SP_WORD_COUNT_MAX = 8, /* the id and what forwarders put before it; nng's limit, too */
    SP_FRAME_MARK = 1,
};

static const uint8_t sp_greeting_request[SP_GREETING_SIZE] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};
static const uint8_t sp_greeting_reply[SP_GREETING_SIZE] = {0, 'S', 'P', 0, 0, 0x31, 0, 0};
static const uint32_t sp_request_id_flag = 0x80000000u;

static inline void sp_store(uint8_t *bytes, uint64_t value, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(value >> 8 * (size - 1 - i));
    }
}

static inline uint64_t sp_load(const uint8_t *bytes, uint32_t size)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < size; i++) {
        value = value << 8 | bytes[i];
    }
    return value;
}

/* `size` counts all that follows the frame's header. */
static inline void sp_frame_header(uint8_t header[SP_FRAME_HEADER_SIZE], uint64_t size)
{
    header[0] = SP_FRAME_MARK;
    sp_store(header + 1, size, 8);
}
