#include "tests/sim/sim_session.h"

#include <inttypes.h>
#include <string.h>

#include "pool/base.h"
#include "tests/sim/sim.h"

enum { CLIENT_ID_SESSION = 5, CLIENT_ID_GENERATION = 8 }; /* where in a client id */

void sim_sessions_init(void)
{
    const struct sim_swarm *swarm = &sim->swarm;
    for (uint32_t i = 0; i < SIM_LANE_MAX; i++) {
        struct sim_session *session = &sim->front.sessions[i];
        const uint32_t some = (uint32_t)sim_below(4);
        const uint32_t lane_count =
            swarm->wide ? WIRE_LANE_COUNT_MAX - some : swarm->session_width + some;
        *session = (struct sim_session){
            .lane_count = lane_count,
            .stride = (uint32_t)max_u64((lane_count - 1) / swarm->session_width, 1),
        };
    }
}

void sim_sessions_begin_life(void)
{
    for (uint32_t i = 0; i < SIM_LANE_MAX; i++) {
        struct sim_session *session = &sim->front.sessions[i];
        if (session->under_way > 0) {
            session->state = SIM_SESSION_UNKNOWN;
        }
        session->under_way = 0;
        session->opens = 0;
        session->writers = 0;
    }
}

static uint32_t index_of(const struct sim_lane *lane)
{
    return (uint32_t)(lane - sim->front.lanes) / sim->swarm.session_width;
}

struct sim_session *sim_session_of(const struct sim_lane *lane)
{
    return &sim->front.sessions[index_of(lane)];
}

uint32_t sim_session_lane_number(const struct sim_lane *lane)
{
    return (uint32_t)(lane - sim->front.lanes) % sim->swarm.session_width *
           sim_session_of(lane)->stride;
}

void sim_session_client_id(const struct sim_lane *lane, uint8_t client_id[WIRE_ID_SIZE])
{
    memset(client_id, 0, WIRE_ID_SIZE);
    client_id[CLIENT_ID_SESSION] = (uint8_t)(1 + index_of(lane));
    memcpy(client_id + CLIENT_ID_GENERATION, &sim_session_of(lane)->generation, sizeof(uint32_t));
}

/* The client of this session's lane; NULL: nobody writes on it. */
static struct sim_lane *client_of(const struct sim_session *session, uint32_t lane_number)
{
    const uint32_t member = lane_number / session->stride;
    const uint32_t lane =
        (uint32_t)(session - sim->front.sessions) * sim->swarm.session_width + member;
    return lane_number % session->stride == 0 && member < sim->swarm.session_width &&
                   lane < sim->swarm.lane_count
               ? &sim->front.lanes[lane]
               : NULL;
}

bool sim_session_is_usable(const struct sim_lane *lane)
{
    const struct sim_session *session = sim_session_of(lane);
    return session->state == SIM_SESSION_PRESENT && session->opens == 0;
}

bool sim_session_may_be_opened(const struct sim_lane *lane)
{
    const struct sim_session *session = sim_session_of(lane);
    if (session->state == SIM_SESSION_ABSENT) {
        return true;
    }
    for (uint32_t i = 0; i < session->lane_count; i++) {
        const struct sim_lane *client = client_of(session, i);
        if (client != NULL && client->unanswered) {
            return false;
        }
    }
    return session->writers == 0 && session->under_way == 0;
}

/* Whether the request names the session as it is known now, and not one before it. */
static bool is_current(const struct sim_lane *lane)
{
    uint8_t client_id[WIRE_ID_SIZE];
    const struct request_header request = sim_request_header(lane);
    sim_session_client_id(lane, client_id);
    return memcmp(client_id, request.client_id, sizeof client_id) == 0;
}

/* Nobody has written for so long that it may be evicted: by the latest that the clock ever said. */
static bool may_be_evicted(const struct sim_session *session)
{
    return session->timestamp + sim_session_idle_ns <= sim->realtime_ns_max;
}

static void forget_lanes(struct sim_session *session)
{
    for (uint32_t i = 0; i < session->lane_count; i++) {
        struct sim_lane *client = client_of(session, i);
        if (client != NULL) {
            client->executed = 0;
        }
    }
}

static void end(struct sim_session *session)
{
    session->state = SIM_SESSION_ABSENT;
    session->generation += 1;
    session->timestamp = 0;
    forget_lanes(session);
}

static void check_evicted(const struct sim_session *session)
{
    if (session->state != SIM_SESSION_PRESENT) {
        return;
    }
    if (!may_be_evicted(session)) {
        sim_fail("session %td is gone, of which something happened at %" PRIu64
                 ", and the clock said %" PRIu64 " at most",
                 session - sim->front.sessions, session->timestamp, sim->realtime_ns_max);
    }
    sim_count(SIM_SESSIONS_EVICTED);
}

/* NO_SESSION was said to a request that names it. */
static void told_gone(const struct sim_lane *lane)
{
    struct sim_session *session = sim_session_of(lane);
    if (!is_current(lane)) {
        return;
    }
    if (session->state == SIM_SESSION_ABSENT) {
        sim_fail("request %" PRIu64 " was sent to a session that is not open", lane->number);
    }
    check_evicted(session);
    end(session);
}

/* Opening and closing are commits like others, but nothing that the model knows. */
static void take_commit(const struct reply_header *header)
{
    struct sim_front *front = &sim->front;
    if (header->commit <= front->commit_told || header->timestamp <= sim->model.timestamp) {
        sim_fail("commit %" PRIu64 " opened or closed a session out of turn", header->commit);
    }
    front->commit_told = header->commit;
    front->commit_seen = max_u64(front->commit_seen, header->commit);
    sim->model.timestamp = header->timestamp;
}

/* No lane may be left, if all that could be there are. */
static void check_limit(const struct sim_session *refused)
{
    uint32_t lane_count = refused->lane_count;
    for (uint32_t i = 0; i < SIM_LANE_MAX; i++) {
        const struct sim_session *session = &sim->front.sessions[i];
        if (session != refused &&
            (session->state != SIM_SESSION_ABSENT || session->under_way > 0)) {
            lane_count += session->lane_count;
        }
    }
    if (lane_count <= session_lane_count_max(&sim->swarm.geometry)) {
        sim_fail("a session of %u lanes was refused, and all have %u", refused->lane_count,
                 lane_count);
    }
    sim_count(SIM_SESSIONS_REFUSED);
}

void sim_session_told_open(const struct sim_lane *lane, const struct reply_header *header,
                           const uint8_t *body)
{
    struct sim_session *session = sim_session_of(lane);
    session->under_way -= 1;
    if (header->result == RESULT_LIMIT) {
        check_limit(session);
    }
    if (header->result != RESULT_OK) {
        return;
    }
    if (header->commit > 0) {
        take_commit(header);
        check_evicted(session);
        forget_lanes(session);
        session->timestamp = header->timestamp;
    } else if (session->state == SIM_SESSION_ABSENT) {
        sim_fail("request %" PRIu64 " found a session that nobody opened", lane->number);
    }
    session->state = SIM_SESSION_PRESENT;

    struct session_reply reply;
    uint64_t numbers[WIRE_LANE_COUNT_MAX];
    const uint32_t size = session->lane_count * (uint32_t)sizeof numbers[0];
    memcpy(&reply, body, sizeof reply);
    if (header->body_size != sizeof reply + size || reply.lane_count != session->lane_count) {
        sim_fail("a session of %u lanes was answered with %u bytes, %u lanes", session->lane_count,
                 header->body_size, reply.lane_count);
    }
    memcpy(numbers, body + sizeof reply, size);
    for (uint32_t i = 0; i < session->lane_count; i++) {
        const struct sim_lane *client = client_of(session, i);
        const uint64_t expected = client != NULL ? client->executed : 0;
        if (numbers[i] != expected) {
            sim_fail("lane %u of a session has executed number %" PRIu64 ", %" PRIu64 " expected",
                     i, numbers[i], expected);
        }
    }
}

void sim_session_told_close(const struct sim_lane *lane, const struct reply_header *header)
{
    struct sim_session *session = sim_session_of(lane);
    session->under_way -= 1;
    if (header->result == RESULT_NO_SESSION) {
        told_gone(lane);
    } else if (header->result == RESULT_OK) {
        if (!is_current(lane)) {
            sim_fail("request %" PRIu64 " closed a session that had ended", lane->number);
        }
        take_commit(header);
        end(session);
        sim_count(SIM_SESSIONS_CLOSED);
    } else if (header->result == RESULT_LANE_BUSY && session->writers == 0) {
        sim_fail("request %" PRIu64 " could not close a session: nobody writes", lane->number);
    }
}

void sim_session_told_write(struct sim_lane *lane, const struct reply_header *header)
{
    struct sim_session *session = sim_session_of(lane);
    if (header->result == RESULT_NO_SESSION) {
        if (lane->pending) {
            sim_fail("request %" PRIu64 " was executing when its session went", lane->number);
        }
        told_gone(lane);
        lane->unanswered = false;
    } else if (header->result == RESULT_OK) {
        if (!is_current(lane) || session->state == SIM_SESSION_ABSENT) {
            sim_fail("request %" PRIu64 " was answered by a session that had ended", lane->number);
        }
        session->state = SIM_SESSION_PRESENT;
        session->timestamp = max_u64(session->timestamp, header->timestamp);
    }
}
