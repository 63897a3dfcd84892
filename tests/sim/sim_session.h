/* The sessions of the clients, as these know them, and what may be said of one.
 *
 * One to three clients share a session, each on a lane of its own. Lanes between theirs stay
 * unused; where sessions are wide, there are more of them than the daemon has lanes for all.
 *
 *   ABSENT ──open──► PRESENT ──close, or evicted while nobody wrote──► ABSENT, under another id
 *      └──── a life ends while an open or a close is on its way ────► UNKNOWN
 *
 * An id is not used again for another session, so what was said of its numbers stays said. Whoever
 * opens what may be there sees to it that no numbered write of the session is on its way: what is
 * evicted just then would come back without its memory. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "ipc/protocol.h"

struct sim_lane;

/* The daemon's --session-idle: longer than a repetition is on its way. */
static const uint64_t sim_session_idle_ns = 30ull * 1000 * 1000 * 1000;

enum sim_session_state { SIM_SESSION_ABSENT, SIM_SESSION_PRESENT, SIM_SESSION_UNKNOWN };

struct sim_session {
    enum sim_session_state state;
    uint32_t lane_count;
    uint32_t stride;     /* lanes from one client's to the next one's */
    uint32_t generation; /* of its id */
    uint32_t opens;      /* by clients that wait for the reply */
    uint32_t writers;    /* clients that send a numbered write, or a repetition */
    uint32_t under_way;  /* opens and closes without a reply */
    uint64_t timestamp;  /* of the last thing that is known to have happened in it */
};

/* At the start of a seed: all are absent; and of a life. */
void sim_sessions_init(void);
void sim_sessions_begin_life(void);

struct sim_session *sim_session_of(const struct sim_lane *lane);
/* The lane of its session that this client writes on. */
uint32_t sim_session_lane_number(const struct sim_lane *lane);
void sim_session_client_id(const struct sim_lane *lane, uint8_t client_id[WIRE_ID_SIZE]);
/* Whether a numbered write may begin. */
bool sim_session_is_usable(const struct sim_lane *lane);
bool sim_session_may_be_opened(const struct sim_lane *lane);

/* A reply to OPEN_SESSION, CLOSE_SESSION, or a numbered write leaves the daemon. */
void sim_session_told_open(const struct sim_lane *lane, const struct reply_header *header,
                           const uint8_t *body);
void sim_session_told_close(const struct sim_lane *lane, const struct reply_header *header);
void sim_session_told_write(struct sim_lane *lane, const struct reply_header *header);
