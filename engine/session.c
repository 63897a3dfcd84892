#include "engine/session.h"

#include <stdio.h>
#include <string.h>

#include "pool/base.h"
#include "pool/memory.h"

enum { TABLE_HEADER_SIZE = 8 };

/* A session in an encoded table. */
struct session_record {
    uint8_t client_id[CLIENT_ID_SIZE];
    uint32_t uid;
    uint32_t lane_count;
    uint64_t timestamp;
};
static_assert(sizeof(struct session_record) == 32, "on disk");
static_assert(SESSION_FAILURE_MAX <= UINT8_MAX, "lane_record.failure_count");

/* ---- Table -------------------------------------------------------------------------------------
 */

static void assert_invariants(const struct session_table *table)
{
    assert(table->session_count <= table->session_max);
    assert(table->lane_count <= table->lane_max);
    assert(table->session_count <= table->lane_count);
    if (VERIFY) {
        uint32_t lane_first = 0;
        for (uint32_t i = 0; i < table->session_count; i++) {
            const struct session *session = &table->sessions[i];
            assert(i == 0 || memcmp(session[-1].client_id, session->client_id, CLIENT_ID_SIZE) < 0);
            assert(session->lane_first == lane_first);
            lane_first += session->lane_count;
        }
        assert(lane_first == table->lane_count);
    }
}

uint64_t session_table_memory_size(const struct geometry *geometry)
{
    return session_count_max(geometry) * sizeof(struct session) +
           session_lane_count_max(geometry) * sizeof(struct session_lane);
}

enum status session_table_init(struct session_table *table, const struct geometry *geometry)
{
    *table = (struct session_table){
        .session_max = session_count_max(geometry),
        .lane_max = session_lane_count_max(geometry),
    };
    table->sessions = memory_acquire(table->session_max * sizeof *table->sessions);
    table->lanes = memory_acquire(table->lane_max * sizeof *table->lanes);
    if (table->sessions == NULL || table->lanes == NULL) {
        session_table_deinit(table);
        return STATUS_NO_MEMORY;
    }
    return STATUS_OK;
}

void session_table_deinit(struct session_table *table)
{
    memory_release(table->sessions, table->session_max * sizeof *table->sessions);
    memory_release(table->lanes, table->lane_max * sizeof *table->lanes);
    *table = (struct session_table){0};
}

void session_table_reset(struct session_table *table)
{
    table->session_count = 0;
    table->lane_count = 0;
}

/* Where a session of this id is, or belongs. */
static uint32_t position_of(const struct session_table *table,
                            const uint8_t client_id[CLIENT_ID_SIZE])
{
    uint32_t first = 0, end = table->session_count;
    while (first < end) {
        const uint32_t middle = first + (end - first) / 2;
        if (memcmp(table->sessions[middle].client_id, client_id, CLIENT_ID_SIZE) < 0) {
            first = middle + 1;
        } else {
            end = middle;
        }
    }
    return first;
}

struct session *session_find(const struct session_table *table,
                             const uint8_t client_id[CLIENT_ID_SIZE])
{
    const uint32_t position = position_of(table, client_id);
    if (position == table->session_count ||
        memcmp(table->sessions[position].client_id, client_id, CLIENT_ID_SIZE) != 0) {
        return NULL;
    }
    return &table->sessions[position];
}

struct session_lane *session_lane(const struct session_table *table, const struct session *session,
                                  uint32_t lane)
{
    assert(lane < session->lane_count);
    assert(session->lane_first + lane < table->lane_count);
    return &table->lanes[session->lane_first + lane];
}

bool session_is_busy(const struct session_table *table, const struct session *session)
{
    for (uint32_t lane = 0; lane < session->lane_count; lane++) {
        if (session_lane(table, session, lane)->under_way != 0) {
            return true;
        }
    }
    return false;
}

bool session_table_has_room(const struct session_table *table, uint32_t lane_count)
{
    return table->session_count < table->session_max &&
           lane_count <= table->lane_max - table->lane_count;
}

void session_open(struct session_table *table, const uint8_t client_id[CLIENT_ID_SIZE],
                  uint32_t uid, uint32_t lane_count, uint64_t timestamp, uint64_t commit)
{
    assert(lane_count >= 1 && lane_count <= SESSION_LANE_MAX);
    assert(session_table_has_room(table, lane_count));
    assert(session_find(table, client_id) == NULL);

    const uint32_t position = position_of(table, client_id);
    const uint32_t behind = table->session_count - position;
    struct session *session = &table->sessions[position];
    const uint32_t lane_first = behind > 0 ? session->lane_first : table->lane_count;
    memmove(session + 1, session, behind * sizeof *session);
    for (uint32_t i = 1; i <= behind; i++) {
        session[i].lane_first += lane_count;
    }
    struct session_lane *lanes = &table->lanes[lane_first];
    memmove(lanes + lane_count, lanes, (table->lane_count - lane_first) * sizeof *lanes);
    memset(lanes, 0, lane_count * sizeof *lanes);
    *session = (struct session){
        .uid = uid,
        .lane_count = lane_count,
        .timestamp = timestamp,
        .lane_first = lane_first,
        .commit = commit,
    };
    memcpy(session->client_id, client_id, CLIENT_ID_SIZE);
    table->session_count += 1;
    table->lane_count += lane_count;
    assert_invariants(table);
}

void session_close(struct session_table *table, struct session *session)
{
    assert(session >= table->sessions && session < table->sessions + table->session_count);
    assert(!session_is_busy(table, session));

    const uint32_t lane_count = session->lane_count;
    struct session_lane *lanes = &table->lanes[session->lane_first];
    const uint32_t lanes_behind = table->lane_count - session->lane_first - lane_count;
    memmove(lanes, lanes + lane_count, lanes_behind * sizeof *lanes);
    const uint32_t behind = table->session_count - 1 - (uint32_t)(session - table->sessions);
    memmove(session, session + 1, behind * sizeof *session);
    for (uint32_t i = 0; i < behind; i++) {
        session[i].lane_first -= lane_count;
    }
    table->session_count -= 1;
    table->lane_count -= lane_count;
    assert_invariants(table);
}

const struct session *session_to_evict(const struct session_table *table, uint32_t lane_count,
                                       uint64_t timestamp)
{
    const struct session *idlest = NULL;
    uint32_t session_count = 0;
    uint32_t lanes_free = table->lane_max - table->lane_count;
    for (uint32_t i = 0; i < table->session_count; i++) {
        const struct session *session = &table->sessions[i];
        if (session->timestamp > timestamp || session_is_busy(table, session)) {
            continue;
        }
        session_count += 1;
        lanes_free += session->lane_count;
        if (idlest == NULL || session->timestamp < idlest->timestamp) {
            idlest = session;
        }
    }
    const bool enough = table->session_count - session_count < table->session_max;
    return enough && lane_count <= lanes_free ? idlest : NULL;
}

/* ---- Encoding ----------------------------------------------------------------------------------
 */

enum {
    LANE_ENCODED_SIZE_MAX =
        sizeof(struct lane_record) + SESSION_FAILURE_MAX * sizeof(struct event_failure),
};

uint64_t session_encoded_size_max(const struct geometry *geometry)
{
    return TABLE_HEADER_SIZE + session_count_max(geometry) * sizeof(struct session_record) +
           session_lane_count_max(geometry) * (uint64_t)LANE_ENCODED_SIZE_MAX;
}

uint64_t session_encoded_size_of(uint32_t lane_count)
{
    return sizeof(struct session_record) + lane_count * (uint64_t)LANE_ENCODED_SIZE_MAX;
}

uint64_t session_encoded_size_bound(const struct session_table *table)
{
    return TABLE_HEADER_SIZE + table->session_count * sizeof(struct session_record) +
           table->lane_count * (uint64_t)LANE_ENCODED_SIZE_MAX;
}

static uint8_t *put(uint8_t *at, const void *bytes, size_t size)
{
    memcpy(at, bytes, size);
    return at + size;
}

uint64_t session_table_encode(const struct session_table *table, uint8_t *buffer)
{
    assert_invariants(table);
    uint8_t *at = buffer;
    at = put(at, &table->session_count, sizeof table->session_count);
    at = put(at, &table->lane_count, sizeof table->lane_count);
    for (uint32_t i = 0; i < table->session_count; i++) {
        const struct session *session = &table->sessions[i];
        struct session_record record = {
            .uid = session->uid,
            .lane_count = session->lane_count,
            .timestamp = session->timestamp,
        };
        memcpy(record.client_id, session->client_id, CLIENT_ID_SIZE);
        at = put(at, &record, sizeof record);
        for (uint32_t k = 0; k < session->lane_count; k++) {
            const struct session_lane *lane = session_lane(table, session, k);
            at = put(at, &lane->last, sizeof lane->last);
            at = put(at, lane->failures, lane->last.failure_count * sizeof lane->failures[0]);
        }
    }
    const uint64_t size = (uint64_t)(at - buffer);
    assert(size <= session_encoded_size_bound(table));
    return size;
}

/* Bytes that are left to decode. */
struct reader {
    const uint8_t *at;
    uint64_t left;
};

static bool take(struct reader *reader, void *bytes, uint64_t size)
{
    if (reader->left < size) {
        return false;
    }
    memcpy(bytes, reader->at, size);
    reader->at += size;
    reader->left -= size;
    return true;
}

static bool failures_valid(const struct session_lane *lane)
{
    for (uint32_t i = 0; i < lane->last.failure_count; i++) {
        const struct event_failure *failure = &lane->failures[i];
        if (failure->result == EVENT_RESULT_OK || failure->result > EVENT_RESULT_MAX ||
            (i > 0 && failure->event_index <= failure[-1].event_index)) {
            return false;
        }
    }
    return true;
}

/* Whether it can be what a request left that was executed by the session before `timestamp`. */
static bool lane_valid(const struct session_lane *lane, uint64_t commit, uint64_t timestamp)
{
    static const struct lane_record none;
    const struct lane_record *last = &lane->last;
    if (last->number == 0) {
        return memcmp(last, &none, sizeof none) == 0;
    }
    const bool write = last->kind == REQUEST_KIND_WRITE;
    const bool create = last->kind == REQUEST_KIND_GROOVE_CREATE;
    return (write || create || last->kind == REQUEST_KIND_GROOVE_DROP) && last->zero[0] == 0 &&
           last->zero[1] == 0 && last->commit >= 1 && last->commit <= commit &&
           last->timestamp >= 1 && last->timestamp <= timestamp &&
           last->failure_count == min_u64(last->failure_total, SESSION_FAILURE_MAX) &&
           (write || last->failure_total == 0) && create == (last->groove_id != 0) &&
           create == (last->object_size != 0) &&
           (!create ||
            (last->object_size >= OBJECT_SIZE_MIN && last->object_size <= OBJECT_SIZE_MAX)) &&
           failures_valid(lane);
}

static bool decode_lane(struct session_lane *lane, struct reader *reader, uint64_t commit,
                        uint64_t timestamp)
{
    memset(lane, 0, sizeof *lane);
    return take(reader, &lane->last, sizeof lane->last) &&
           lane->last.failure_count <= SESSION_FAILURE_MAX &&
           take(reader, lane->failures, lane->last.failure_count * sizeof lane->failures[0]) &&
           lane_valid(lane, commit, timestamp);
}

static const char *decode_session(struct session_table *table, struct reader *reader,
                                  uint64_t commit, uint64_t timestamp)
{
    static const uint8_t no_client[CLIENT_ID_SIZE];
    struct session_record record;
    if (!take(reader, &record, sizeof record)) {
        return "it is cut short";
    }
    struct session *session = &table->sessions[table->session_count];
    const uint8_t *before = table->session_count > 0 ? session[-1].client_id : no_client;
    if (memcmp(before, record.client_id, CLIENT_ID_SIZE) >= 0) {
        return "its client id is out of order";
    }
    if (record.lane_count < 1 || record.lane_count > SESSION_LANE_MAX ||
        record.lane_count > table->lane_max - table->lane_count) {
        return "it has an impossible number of lanes";
    }
    if (record.timestamp < 1 || record.timestamp > timestamp) {
        return "its time is not in the past";
    }
    *session = (struct session){
        .uid = record.uid,
        .lane_count = record.lane_count,
        .timestamp = record.timestamp,
        .lane_first = table->lane_count,
    };
    memcpy(session->client_id, record.client_id, CLIENT_ID_SIZE);
    for (uint32_t i = 0; i < record.lane_count; i++) {
        if (!decode_lane(&table->lanes[table->lane_count + i], reader, commit, record.timestamp)) {
            return "a lane holds what no request leaves";
        }
    }
    table->session_count += 1;
    table->lane_count += record.lane_count;
    return NULL;
}

enum status session_table_decode(struct session_table *table, const uint8_t *buffer, uint64_t size,
                                 uint64_t commit, uint64_t timestamp, char *reason,
                                 size_t reason_size)
{
    assert(table->session_count == 0 && table->lane_count == 0);
    struct reader reader = {buffer, size};
    uint32_t session_count = 0, lane_count = 0;
    if (!take(&reader, &session_count, sizeof session_count) ||
        !take(&reader, &lane_count, sizeof lane_count) || session_count > table->session_max) {
        snprintf(reason, reason_size, "state: %llu bytes do not fit %u sessions",
                 (unsigned long long)size, session_count);
        return STATUS_CORRUPT;
    }
    for (uint32_t i = 0; i < session_count; i++) {
        const char *problem = decode_session(table, &reader, commit, timestamp);
        if (problem != NULL) {
            snprintf(reason, reason_size, "state: session %u of %u: %s", i + 1, session_count,
                     problem);
            return STATUS_CORRUPT;
        }
    }
    if (reader.left != 0 || table->lane_count != lane_count) {
        snprintf(reason, reason_size,
                 "state: its sessions are not as many bytes or lanes as it says");
        return STATUS_CORRUPT;
    }
    assert_invariants(table);
    return STATUS_OK;
}
