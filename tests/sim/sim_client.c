#include "tests/sim/sim_client.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "engine/object.h"
#include "pool/base.h"
#include "tests/sim/sim.h"
#include "tests/sim/sim_scan.h"
#include "tests/sim/sim_threads.h"

enum { ROOM_MADE = 1 << 20, READ_ONLY_STEPS = 2000 };
static const uint64_t ns_per_ms = 1000ull * 1000;

/* ---- What may be said --------------------------------------------------------------------------
 */

/* Whether the daemon may say that it knows no such groove: it was not there all the while. What is
 * not durable yet does not count. */
static bool may_be_unknown(const struct sim_lane *lane, uint32_t groove_id)
{
    const struct sim_slot *slot = sim_model_slot(&sim->model, groove_id);
    return slot == NULL || sim_slot_groove(slot, lane->commit_sent) != groove_id ||
           sim_slot_groove(slot, UINT64_MAX) != groove_id;
}

static bool any_groove_may_be_unknown(const struct sim_lane *lane)
{
    const struct request_header header = sim_request_header(lane);
    const uint8_t *body = sim_request_body(lane);
    uint32_t groove_id;
    switch ((enum operation)header.operation) {
    case OPERATION_DROP_GROOVE: {
        const struct sim_slot *slot = sim_slot_named(body);
        return sim_slot_groove(slot, lane->commit_sent) == 0 ||
               sim_slot_groove(slot, UINT64_MAX) == 0;
    }
    case OPERATION_WRITE:
        for (uint32_t offset = 0; offset < header.body_size;) {
            struct wire_section section;
            memcpy(&section, body + offset, sizeof section);
            if (may_be_unknown(lane, section.groove_id)) {
                return true;
            }
            const struct sim_slot *slot = sim_model_slot(&sim->model, section.groove_id);
            offset += sim_section_size(&section, slot);
        }
        return false;
    default:
        memcpy(&groove_id, body, sizeof groove_id); /* LOOKUP, QUERY and COUNT begin with it. */
        return may_be_unknown(lane, groove_id);
    }
}

static bool groove_may_exist(const struct sim_lane *lane)
{
    const struct sim_slot *slot = sim_slot_named(sim_request_body(lane));
    return sim_slot_groove(slot, lane->commit_sent) != 0 || sim_slot_groove(slot, UINT64_MAX) != 0;
}

static bool changes(uint16_t operation)
{
    return sim_is_write(operation) || operation == OPERATION_OPEN_SESSION ||
           operation == OPERATION_CLOSE_SESSION;
}

/* A reply that is not OK, to a request that was in order: whether it may be. */
void sim_check_refusal(const struct sim_lane *lane, const struct reply_header *header)
{
    const struct request_header request = sim_request_header(lane);
    bool allowed = false;
    switch ((enum result)header->result) {
    case RESULT_UNKNOWN_GROOVE:
        allowed = any_groove_may_be_unknown(lane);
        break;
    case RESULT_GROOVE_EXISTS:
        allowed = request.operation == OPERATION_CREATE_GROOVE && groove_may_exist(lane);
        break;
    case RESULT_LIMIT: /* Trees that are being dropped still count. Of sessions it was checked. */
        allowed = request.operation == OPERATION_CREATE_GROOVE ||
                  request.operation == OPERATION_OPEN_SESSION;
        break;
    case RESULT_NO_SESSION: /* Checked when it was said. */
        allowed = sim_is_numbered(lane) || request.operation == OPERATION_CLOSE_SESSION;
        break;
    case RESULT_LANE_BUSY:
        allowed = request.operation == OPERATION_CLOSE_SESSION;
        break;
    case RESULT_BUSY:
        allowed = header->retry_after_ms > 0;
        break;
    case RESULT_EXPIRED:
        allowed = request.deadline_ms > 0;
        sim_count(SIM_REPLIES_EXPIRED);
        break;
    case RESULT_SHUTTING_DOWN:
        allowed = sim->life.stop_wanted;
        break;
    case RESULT_FULL:
        allowed = changes(request.operation) && (sim->life.no_space || sim_is_troubled());
        sim_count(SIM_REPLIES_FULL);
        if (sim_odds(1, 20)) { /* Somebody makes room. */
            sim->disk.size_limit = min_u64(sim->disk.size_limit + ROOM_MADE, sim_disk_capacity);
        }
        break;
    case RESULT_READ_ONLY:
        allowed = changes(request.operation) && sim_is_troubled();
        sim_count(SIM_REPLIES_READ_ONLY);
        if (sim->life.end_step != UINT64_MAX) { /* Some reads, then there is no more to see. */
            sim->life.end_step = min_u64(sim->life.end_step, sim->step + READ_ONLY_STEPS);
        }
        break;
    case RESULT_CORRUPT:
        allowed = sim_is_troubled();
        sim_count(SIM_REPLIES_CORRUPT);
        break;
    default:
        break;
    }
    if (!allowed) {
        sim_fail("request %" PRIu64 " (%s) was refused: %s", lane->number,
                 operation_name(request.operation), result_name(header->result));
    }
}

/* The read saw a commit of which nobody has been told: whoever may have been it is told by now. */
static void await_witnesses(const struct sim_parcel *parcel)
{
    for (uint32_t i = 0; i < parcel->witness_count; i++) {
        const struct sim_lane *lane = &sim->front.lanes[parcel->witnesses[i].lane];
        while (lane->pending && lane->number == parcel->witnesses[i].number) {
            (void)sim_wait(&sim->front.pending_count, UINT64_MAX);
        }
    }
}

/* Of a read that was answered OK: the slot it saw, once the model knows that state. */
static const struct sim_slot *check_version(const struct sim_lane *lane,
                                            const struct sim_parcel *parcel, uint32_t groove_id)
{
    const uint64_t commit = sim_reply_header(parcel).commit;
    if (commit < lane->commit_sent) {
        sim_fail("read %" PRIu64 " saw commit %" PRIu64 ", but %" PRIu64
                 " had been acknowledged or read before it was asked",
                 lane->number, commit, lane->commit_sent);
    }
    if (commit > sim->front.commit_told) {
        await_witnesses(parcel);
    }
    sim->front.commit_seen = max_u64(sim->front.commit_seen, commit);
    sim->counters[SIM_READS_LATE] += commit < sim->model.commit;
    sim_count(SIM_READS);
    const struct sim_slot *slot = sim_model_slot(&sim->model, groove_id);
    if (slot == NULL || sim_slot_groove(slot, commit) != groove_id) {
        sim_fail("read %" PRIu64 " of groove %u at commit %" PRIu64
                 " was answered, but it did not exist",
                 lane->number, groove_id, commit);
    }
    return slot;
}

void sim_check_objects_header(const struct sim_lane *lane, const struct sim_parcel *parcel,
                              const struct sim_slot *slot, struct objects_reply *objects)
{
    const struct reply_header header = sim_reply_header(parcel);
    memcpy(objects, sim_reply_body(parcel), sizeof *objects);
    if (objects->object_size != slot->schema.object_size ||
        header.body_size !=
            sizeof *objects + (uint64_t)objects->object_count * objects->object_size) {
        sim_fail("read %" PRIu64 ": %u objects of %u bytes in a body of %u", lane->number,
                 objects->object_count, objects->object_size, header.body_size);
    }
}

static void check_object(const struct sim_lane *lane, uint64_t commit, const struct sim_slot *slot,
                         const struct sim_record *record, const uint8_t *image)
{
    const char *what = sim_model_differs(slot, record, image);
    if (what != NULL) {
        sim_fail("read %" PRIu64 " at commit %" PRIu64 ": %s of an object of %s is wrong",
                 lane->number, commit, what, slot->schema.spec.name);
    }
}

/* ---- LOOKUP ------------------------------------------------------------------------------------
 */

uint32_t sim_ids_per_lookup(const struct sim_slot *slot)
{
    return sim->swarm.geometry.batch_size_max / slot->schema.object_size;
}

void sim_lookup_make(struct sim_lane *lane, const struct sim_slot *slot, uint32_t groove_id,
                     const uint32_t *keys, uint32_t count)
{
    sim_request_begin(lane, OPERATION_LOOKUP);
    const struct lookup_request lookup = {.groove_id = groove_id, .id_count = count};
    sim_request_put(lane, &lookup, sizeof lookup);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t id[WIRE_ID_SIZE];
        sim_model_id(slot, keys[i], id);
        sim_request_put(lane, id, sizeof id);
    }
}

static void check_lookup(const struct sim_lane *lane, const struct sim_parcel *parcel,
                         uint32_t groove_id, const uint32_t *keys, uint32_t count)
{
    const struct sim_slot *slot = check_version(lane, parcel, groove_id);
    const uint64_t commit = sim_reply_header(parcel).commit;
    struct objects_reply objects;
    sim_check_objects_header(lane, parcel, slot, &objects);
    const uint8_t *image = sim_reply_body(parcel) + sizeof objects;
    uint32_t found = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct sim_record *record = sim_model_find(&sim->model, slot, keys[i], commit);
        if (record == NULL) {
            continue;
        }
        if (found == objects.object_count) {
            sim_fail("read %" PRIu64 " at commit %" PRIu64 ": key %u of %s is missing",
                     lane->number, commit, keys[i], slot->schema.spec.name);
        }
        check_object(lane, commit, slot, record, image + (size_t)found * objects.object_size);
        found += 1;
    }
    if (found != objects.object_count) {
        sim_fail("read %" PRIu64 " at commit %" PRIu64 ": %u objects of %s, %u expected",
                 lane->number, commit, objects.object_count, slot->schema.spec.name, found);
    }
}

/* ---- QUERY and COUNT ---------------------------------------------------------------------------
 */

/* Returns the size of the key: one value for each field of the index. */
static uint32_t make_key(const struct sim_slot *slot, uint32_t index, const uint64_t *values,
                         uint8_t *key)
{
    const struct index_spec *spec = &slot->schema.spec.indexes[index];
    uint32_t size = 0;
    for (uint32_t i = 0; i < spec->field_count; i++) {
        sim_model_value(slot, spec->fields[i], values[i], key + size);
        size += slot->schema.fields[spec->fields[i]].size;
    }
    return size;
}

static void make_query(struct sim_lane *lane, uint16_t operation, uint32_t groove_id,
                       uint32_t index, uint32_t limit, const uint8_t *key, uint32_t key_size)
{
    sim_request_begin(lane, operation);
    const struct query_request query = {
        .groove_id = groove_id,
        .index_id = index,
        .limit = limit,
        .key_size = key_size,
    };
    sim_request_put(lane, &query, sizeof query);
    sim_request_put(lane, key, key_size);
}

static bool in_result(const struct sim_slot *slot, uint32_t index, const struct sim_record *record,
                      const uint8_t *key)
{
    return record != NULL &&
           (index == WIRE_INDEX_NONE || sim_model_matches(slot, index, record->image, key));
}

static void check_count(const struct sim_lane *lane, const struct sim_parcel *parcel,
                        uint32_t groove_id, uint32_t index, const uint8_t *key)
{
    const struct sim_slot *slot = check_version(lane, parcel, groove_id);
    const struct reply_header header = sim_reply_header(parcel);
    uint64_t expected = 0;
    for (uint32_t i = 0; i < slot->key_count; i++) {
        expected +=
            in_result(slot, index, sim_model_find(&sim->model, slot, i, header.commit), key);
    }
    uint64_t count = 0;
    if (header.body_size == sizeof count) {
        memcpy(&count, sim_reply_body(parcel), sizeof count);
    }
    if (header.body_size != sizeof count || count != expected) {
        sim_fail("count %" PRIu64 " at commit %" PRIu64 " of %s, index %d: %" PRIu64 ", %" PRIu64
                 " expected",
                 lane->number, header.commit, slot->schema.spec.name, (int)index, count, expected);
    }
}

static void check_query(const struct sim_lane *lane, const struct sim_parcel *parcel,
                        uint32_t groove_id, uint32_t index, uint32_t limit, const uint8_t *key)
{
    const struct sim_slot *slot = check_version(lane, parcel, groove_id);
    const uint64_t commit = sim_reply_header(parcel).commit;
    struct objects_reply objects;
    sim_check_objects_header(lane, parcel, slot, &objects);
    const uint32_t most = sim_ids_per_lookup(slot);
    const uint8_t *image = sim_reply_body(parcel) + sizeof objects;
    uint64_t expected = 0;
    uint64_t found = 0; /* of those expected, in the reply */
    for (uint32_t i = 0; i < slot->key_count; i++) {
        const struct sim_record *record = sim_model_find(&sim->model, slot, i, commit);
        if (!in_result(slot, index, record, key)) {
            continue;
        }
        expected += 1;
        for (uint32_t at = 0; at < objects.object_count; at++) {
            const uint8_t *candidate = image + (size_t)at * objects.object_size;
            if (memcmp(candidate, record->image, WIRE_ID_SIZE) == 0) {
                check_object(lane, commit, slot, record, candidate);
                found += 1;
            }
        }
    }
    for (uint32_t at = 1; at < objects.object_count; at++) {
        const uint8_t *candidate = image + (size_t)at * objects.object_size;
        if (load_u64_le(candidate + 16) <= load_u64_le(candidate - objects.object_size + 16)) {
            sim_fail("query %" PRIu64 " at commit %" PRIu64 " of %s: out of order", lane->number,
                     commit, slot->schema.spec.name);
        }
    }
    const uint64_t wanted = min_u64(expected, limit == 0 ? most : min_u64(limit, most));
    if (found != objects.object_count || found != wanted) {
        sim_fail("query %" PRIu64 " at commit %" PRIu64 " of %s, index %u: %u objects, %" PRIu64
                 " of them right, %" PRIu64 " expected",
                 lane->number, commit, slot->schema.spec.name, index, objects.object_count, found,
                 wanted);
    }
}

/* ---- What a client asks ------------------------------------------------------------------------
 */

/* A slot that has a groove, by what has been told; NULL: none has. */
static struct sim_slot *live_slot(uint32_t *groove_id)
{
    uint32_t first = (uint32_t)sim_below(SIM_SLOT_COUNT);
    if (sim->swarm.bulk && sim_odds(9, 10)) {
        first = 0;
    }
    for (uint32_t i = 0; i < SIM_SLOT_COUNT; i++) {
        struct sim_slot *slot = &sim->model.slots[(first + i) % SIM_SLOT_COUNT];
        *groove_id = sim_slot_groove(slot, UINT64_MAX);
        if (*groove_id != 0) {
            return slot;
        }
    }
    return NULL;
}

/* Asks; of a refusal, sees whether it may be. The caller releases the parcel if it is ANSWERED. */
enum sim_outcome sim_ask_and_sort(struct sim_lane *lane, struct sim_parcel **parcel)
{
    *parcel = sim_ask(lane);
    if (*parcel == NULL) {
        return SIM_OUTCOME_GONE;
    }
    if ((*parcel)->dropped) {
        sim_fail("request %" PRIu64 " was dropped", lane->number);
    }
    const struct reply_header header = sim_reply_header(*parcel);
    if (header.result == RESULT_OK) {
        return SIM_OUTCOME_ANSWERED;
    }
    sim_check_refusal(lane, &header);
    sim_parcel_release(*parcel);
    return header.result == RESULT_SHUTTING_DOWN ? SIM_OUTCOME_GONE : SIM_OUTCOME_REFUSED;
}

static enum sim_outcome do_lookup(struct sim_lane *lane, const struct sim_slot *slot,
                                  uint32_t groove_id, const uint32_t *keys, uint32_t count)
{
    struct sim_parcel *parcel;
    sim_lookup_make(lane, slot, groove_id, keys, count);
    const enum sim_outcome outcome = sim_ask_and_sort(lane, &parcel);
    if (outcome == SIM_OUTCOME_ANSWERED) {
        check_lookup(lane, parcel, groove_id, keys, count);
        sim_parcel_release(parcel);
    }
    return outcome;
}

enum sim_outcome sim_do_count(struct sim_lane *lane, const struct sim_slot *slot,
                              uint32_t groove_id, uint32_t index, const uint64_t *values)
{
    uint8_t key[2 * SIM_OBJECT_MAX];
    struct sim_parcel *parcel;
    const uint32_t size = index == WIRE_INDEX_NONE ? 0 : make_key(slot, index, values, key);
    make_query(lane, OPERATION_COUNT, groove_id, index, 0, key, size);
    const enum sim_outcome outcome = sim_ask_and_sort(lane, &parcel);
    if (outcome == SIM_OUTCOME_ANSWERED) {
        check_count(lane, parcel, groove_id, index, key);
        sim_parcel_release(parcel);
    }
    return outcome;
}

enum sim_outcome sim_do_query(struct sim_lane *lane, const struct sim_slot *slot,
                              uint32_t groove_id, uint32_t index, uint32_t limit,
                              const uint64_t *values)
{
    uint8_t key[2 * SIM_OBJECT_MAX];
    struct sim_parcel *parcel;
    const uint32_t size = make_key(slot, index, values, key);
    make_query(lane, OPERATION_QUERY, groove_id, index, limit, key, size);
    const enum sim_outcome outcome = sim_ask_and_sort(lane, &parcel);
    if (outcome == SIM_OUTCOME_ANSWERED) {
        check_query(lane, parcel, groove_id, index, limit, key);
        sim_parcel_release(parcel);
    }
    return outcome;
}

static enum sim_outcome random_read(struct sim_lane *lane)
{
    uint32_t groove_id;
    const struct sim_slot *slot = live_slot(&groove_id);
    if (slot == NULL) {
        return SIM_OUTCOME_REFUSED;
    }
    const uint32_t index_count = slot->schema.spec.index_count;
    const uint64_t values[2] = {sim_below(slot->value_count + 1u),
                                sim_below(slot->value_count + 1u)};
    /* Of many objects a count is slow to make up. */
    const uint64_t kind = slot->bulk && sim_odds(19, 20) ? 0 : sim_below(index_count > 0 ? 4 : 2);
    if (kind == 0) {
        uint32_t keys[64];
        const uint32_t most = (uint32_t)min_u64(array_count(keys), sim_ids_per_lookup(slot));
        const uint32_t count = 1 + (uint32_t)sim_below(most);
        for (uint32_t i = 0; i < count; i++) {
            keys[i] = (uint32_t)sim_below(slot->key_count);
        }
        return do_lookup(lane, slot, groove_id, keys, count);
    }
    if (kind == 1) {
        return sim_do_count(lane, slot, groove_id, WIRE_INDEX_NONE, values);
    }
    const uint32_t index = (uint32_t)sim_below(index_count);
    if (kind == 2) {
        return sim_do_count(lane, slot, groove_id, index, values);
    }
    return sim_do_query(lane, slot, groove_id, index,
                        sim_odds(1, 2) ? 0 : 1 + (uint32_t)sim_below(20), values);
}

/* Compared when it is told. */
static enum sim_outcome send_write(struct sim_lane *lane)
{
    struct sim_session *session = sim_session_of(lane);
    struct sim_parcel *parcel;
    session->writers += sim_is_numbered(lane);
    const enum sim_outcome outcome = sim_ask_and_sort(lane, &parcel);
    session->writers -= sim_is_numbered(lane);
    if (outcome == SIM_OUTCOME_ANSWERED) {
        sim_parcel_release(parcel);
    }
    return outcome;
}

static enum sim_outcome ask_write(struct sim_lane *lane)
{
    lane->resent = false;
    lane->kept = false;
    if (sim_session_is_usable(lane) && sim_odds(1, 2)) {
        sim_request_identify(lane);
    }
    enum sim_outcome outcome = send_write(lane);
    if (outcome == SIM_OUTCOME_ANSWERED && sim_is_numbered(lane) && sim_odds(1, 10)) {
        outcome = send_write(lane); /* The reply went astray. */
    }
    return outcome;
}

static uint8_t random_type(void)
{
    const uint64_t choice = sim_below(8 + sim->front.remove_weight);
    return choice < 4    ? WIRE_EVENT_TYPE_INSERT
           : choice < 6  ? WIRE_EVENT_TYPE_UPSERT
           : choice == 6 ? WIRE_EVENT_TYPE_UPDATE
                         : WIRE_EVENT_TYPE_REMOVE;
}

/* Some are guarded; now and then one only asks. */
static void random_guard(struct wire_section *section)
{
    if (sim_odds(1, 4)) {
        section->guard = (uint8_t)(1 + sim_below(WIRE_GUARD_VERSION));
        if (sim_odds(1, 4)) {
            section->event_type = WIRE_EVENT_TYPE_CHECK;
        }
    }
}

/* A key of which the guard would hold now, by what has been told; or any, after a few tries. */
static uint32_t guarded_key(const struct sim_slot *slot, uint8_t guard, uint64_t *version)
{
    uint32_t key = 0;
    for (uint32_t tries = 0; tries < 4; tries++) {
        key = (uint32_t)sim_below(slot->key_count);
        const struct sim_record *record = sim_model_find(&sim->model, slot, key, UINT64_MAX);
        if (record != NULL && guard == WIRE_GUARD_VERSION && record->version != SIM_UNKNOWN) {
            *version = record->version;
        }
        if (guard == WIRE_GUARD_NONE || (guard == WIRE_GUARD_ABSENT) == (record == NULL)) {
            break;
        }
    }
    return key;
}

/* Mostly good events; now and then one that must fail for what it says. */
static void put_event(struct sim_lane *lane, const struct sim_slot *slot,
                      const struct wire_section *section)
{
    uint8_t image[SIM_OBJECT_MAX];
    uint64_t version = 1;
    sim_model_object(slot, guarded_key(slot, section->guard, &version), image);
    if (sim_odds(1, 200)) {
        memset(image, 0, WIRE_ID_SIZE);
    } else if (sim_odds(1, 200)) {
        image[WIRE_ID_SIZE + sim_below(16)] = 1; /* timestamp or version */
    }
    if (section->guard == WIRE_GUARD_VERSION) {
        sim_request_put(lane, &version, sizeof version);
    }
    const bool id = section->event_type == WIRE_EVENT_TYPE_REMOVE ||
                    section->event_type == WIRE_EVENT_TYPE_CHECK;
    sim_request_put(lane, image, id ? WIRE_ID_SIZE : slot->schema.object_size);
}

static enum sim_outcome random_write(struct sim_lane *lane)
{
    const struct geometry *geometry = &sim->swarm.geometry;
    sim_request_begin(lane, OPERATION_WRITE);
    const uint32_t section_count = sim_odds(1, 4) ? 1 + (uint32_t)sim_below(3) : 1;
    sim_request_flag(lane, sim_odds(1, sim->swarm.bulk ? 100 : 10) ? WIRE_REQUEST_FLAG_ATOMIC : 0);
    for (uint32_t i = 0; i < section_count; i++) {
        struct wire_section section = {.event_type = random_type()};
        const struct sim_slot *slot = live_slot(&section.groove_id);
        if (slot == NULL) {
            return SIM_OUTCOME_REFUSED;
        }
        const uint64_t bytes_left = geometry->batch_size_max / section_count;
        if (!slot->bulk) {
            random_guard(&section);
            section.flags = i + 1 < section_count && sim_odds(1, 2) ? WIRE_SECTION_FLAG_LINKED : 0;
        }
        const uint64_t guard_size = section.guard == WIRE_GUARD_VERSION ? sizeof(uint64_t) : 0;
        const uint64_t most =
            min_u64(min_u64(slot->schema.event_max, geometry->batch_event_max) / section_count,
                    (bytes_left - sizeof section) / (slot->schema.object_size + guard_size));
        const uint64_t usual = sim_odds(1, 3) ? most : min_u64(most, 6);
        section.event_count =
            (uint32_t)(slot->bulk ? max_u64(most, 1) : 1 + sim_below(max_u64(usual, 1)));
        sim_request_put(lane, &section, sizeof section);
        for (uint32_t event = 0; event < section.event_count; event++) {
            put_event(lane, slot, &section);
        }
    }
    return ask_write(lane);
}

static enum sim_outcome do_create(struct sim_lane *lane, const struct sim_slot *slot)
{
    sim_request_begin(lane, OPERATION_CREATE_GROOVE);
    sim_request_put(lane, &slot->schema.spec, sizeof slot->schema.spec);
    return ask_write(lane);
}

static enum sim_outcome do_drop(struct sim_lane *lane, const struct sim_slot *slot)
{
    sim_request_begin(lane, OPERATION_DROP_GROOVE);
    sim_request_put(lane, slot->schema.spec.name, WIRE_NAME_SIZE);
    return ask_write(lane);
}

/* Requests that are wrong, each with the result it must have. */
static enum sim_outcome wrong_request(struct sim_lane *lane)
{
    uint32_t groove_id;
    const struct sim_slot *slot = live_slot(&groove_id);
    if (slot == NULL) {
        return SIM_OUTCOME_REFUSED;
    }
    const uint32_t keys[1] = {0};
    sim_lookup_make(lane, slot, groove_id, keys, 1);
    struct request_header header = sim_request_header(lane);
    header.deadline_ms = 0;
    enum result expected = RESULT_OK;
    switch (sim_below(6)) {
    case 0:
        header.flags = 1;
        expected = RESULT_BAD_HEADER;
        break;
    case 1:
        header.body_size += 1;
        expected = RESULT_BAD_HEADER;
        break;
    case 2:
        header.operation = OPERATION_CLOSE_SESSION + 1 + (uint16_t)sim_below(100);
        expected = RESULT_BAD_OPERATION;
        break;
    case 3: /* A lookup's body is no write. */
        header.operation = OPERATION_WRITE;
        expected = RESULT_BAD_BODY;
        break;
    case 4: { /* An id of zero. */
        memset(lane->request + lane->request_size - WIRE_ID_SIZE, 0, WIRE_ID_SIZE);
        expected = RESULT_BAD_BODY;
        break;
    }
    default: {
        const uint32_t nobody = 1000 * 1000;
        memcpy(lane->request + PROTOCOL_HEADER_SIZE, &nobody, sizeof nobody);
        expected = RESULT_UNKNOWN_GROOVE;
        break;
    }
    }
    memcpy(lane->request, &header, sizeof header);
    struct sim_parcel *parcel = sim_ask(lane);
    if (parcel == NULL) {
        return SIM_OUTCOME_GONE;
    }
    const struct reply_header reply = sim_reply_header(parcel);
    const bool unknown = reply.result == RESULT_UNKNOWN_GROOVE && may_be_unknown(lane, groove_id);
    const bool given_up = (reply.result == RESULT_SHUTTING_DOWN && sim->life.stop_wanted) ||
                          reply.result == RESULT_BUSY;
    if (reply.result != expected && !unknown && !given_up) {
        sim_fail("wrong request %" PRIu64 ": %s, %s expected", lane->number,
                 result_name(reply.result), result_name(expected));
    }
    sim_parcel_release(parcel);
    return SIM_OUTCOME_ANSWERED;
}

static enum sim_outcome small_talk(struct sim_lane *lane)
{
    static const uint16_t operations[] = {OPERATION_HELLO, OPERATION_PING, OPERATION_STAT,
                                          OPERATION_SCHEMA};
    const uint16_t operation = operations[sim_below(array_count(operations))];
    sim_request_begin(lane, operation);
    if (operation == OPERATION_PING) {
        sim_request_put(lane, "are you there", 13);
    }
    struct sim_parcel *parcel;
    const enum sim_outcome outcome = sim_ask_and_sort(lane, &parcel);
    if (outcome == SIM_OUTCOME_ANSWERED) {
        if (operation == OPERATION_PING &&
            (sim_reply_header(parcel).body_size != 13 ||
             memcmp(sim_reply_body(parcel), "are you there", 13) != 0)) {
            sim_fail("a ping came back changed");
        }
        sim_parcel_release(parcel);
    }
    return outcome;
}

static enum sim_outcome random_request(struct sim_lane *lane)
{
    struct sim_slot *slot = &sim->model.slots[sim_below(SIM_SLOT_COUNT)];
    if (sim_slot_groove(slot, UINT64_MAX) == 0 ? sim_odds(1, 6) : sim_odds(1, 1000)) {
        return do_create(lane, slot);
    }
    if (sim_odds(1, slot->bulk ? 40000 : 1000)) {
        return do_drop(lane, slot);
    }
    const uint64_t choice = sim_below(100);
    return choice < 62   ? random_write(lane)
           : choice < 96 ? random_read(lane)
           : choice < 98 ? small_talk(lane)
                         : wrong_request(lane);
}

/* ---- Lanes -------------------------------------------------------------------------------------
 */

static void think(void)
{
    if (sim_chance(sim->swarm.silence_chance)) {
        sim_sleep(ns_per_ms * (150 + sim_below(3000))); /* The daemon uses it: debt, the seal. */
    } else {
        sim_sleep(sim_duration(sim->swarm.think_ns));
    }
}

/* While something is broken the scan cannot be made: this life is over, the next one mends it. */
static void scan_gives_up(void)
{
    sim_trace("scan gives up", sim->disk.damage_count, sim->life.faulted, 0);
    sim_end(SIM_END_KILL);
}

static void *scanner_run(void *argument)
{
    while (!sim->life.recovered) {
        (void)sim_wait(&sim->life.recovered, UINT64_MAX);
    }
    if (sim_scan(argument)) {
        sim->life.audited = true;
        sim_wake(&sim->life.audited, true);
    } else if (!sim->life.stop_wanted) {
        scan_gives_up();
    }
    return NULL;
}

/* What nothing definite was said of is sent again, the same bytes, until something is. */
static enum sim_outcome send_again(struct sim_lane *lane)
{
    enum sim_outcome outcome = SIM_OUTCOME_ANSWERED;
    while (lane->unanswered && outcome != SIM_OUTCOME_GONE) {
        outcome = send_write(lane);
        think();
    }
    return outcome;
}

static enum sim_outcome open_session(struct sim_lane *lane)
{
    struct sim_session *session = sim_session_of(lane);
    const struct open_session_request open = {.lane_count = session->lane_count};
    sim_request_begin(lane, OPERATION_OPEN_SESSION);
    sim_request_identify(lane);
    sim_request_put(lane, &open, sizeof open);
    session->opens += 1;
    session->under_way += 1;
    const enum sim_outcome outcome = send_write(lane);
    session->opens -= 1;
    return outcome;
}

/* Whatever the others do with it. */
static enum sim_outcome close_session(struct sim_lane *lane)
{
    sim_request_begin(lane, OPERATION_CLOSE_SESSION);
    sim_request_identify(lane);
    sim_session_of(lane)->under_way += 1;
    return send_write(lane);
}

static enum sim_outcome tend_session(struct sim_lane *lane)
{
    const struct sim_session *session = sim_session_of(lane);
    const bool present = session->state == SIM_SESSION_PRESENT;
    if (sim_session_may_be_opened(lane) && sim_odds(1, present ? 200 : 4)) {
        return open_session(lane);
    }
    if (present && session->under_way == 0 && sim_odds(1, 250)) {
        return close_session(lane);
    }
    return SIM_OUTCOME_ANSWERED;
}

static void *lane_run(void *argument)
{
    struct sim_lane *lane = argument;
    while (!sim->life.audited) {
        (void)sim_wait(&sim->life.audited, UINT64_MAX);
    }
    for (;;) {
        think();
        enum sim_outcome outcome = send_again(lane);
        if (outcome != SIM_OUTCOME_GONE) {
            outcome = tend_session(lane);
        }
        if (outcome == SIM_OUTCOME_GONE || random_request(lane) == SIM_OUTCOME_GONE) {
            return NULL;
        }
    }
}

void sim_clients_start(void)
{
    struct sim_front *front = &sim->front;
    front->answered_count = 0;
    sim_sessions_begin_life();
    front->remove_weight = sim_odds(1, 3) && !sim->swarm.bulk ? 12 : (uint32_t)sim_below(3);
    sim_fiber_start("scanner", false, scanner_run, &front->lanes[SIM_SCANNER]);
    for (uint32_t i = 0; i < sim->swarm.lane_count; i++) {
        sim_fiber_start("client", false, lane_run, &front->lanes[i]);
    }
}

bool sim_clients_are_done(void)
{
    return sim->life.audited && sim->front.answered_count >= sim->front.quota;
}
