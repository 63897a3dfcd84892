#include "tests/sim/sim_scan.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/object.h"
#include "pool/base.h"
#include "tests/sim/sim.h"
#include "tests/sim/sim_client.h"

enum { SCANNED_VALUES = 9 };

/* What the daemon holds: of each slot its groove, and of each key its object. */
struct found_object {
    bool exists;
    uint64_t timestamp, version, hash;
};
struct found {
    uint32_t groove_id; /* 0: none */
    struct found_object objects[SIM_KEY_MAX];
};
static struct found found[SIM_SLOT_COUNT];

static bool scan_schema(struct sim_lane *lane)
{
    sim_request_begin(lane, OPERATION_SCHEMA);
    struct sim_parcel *parcel;
    if (sim_ask_and_sort(lane, &parcel) != SIM_OUTCOME_ANSWERED) {
        return false;
    }
    const uint8_t *body = sim_reply_body(parcel);
    struct schema_reply schema;
    memcpy(&schema, body, sizeof schema);
    body += sizeof schema;
    for (uint32_t i = 0; i < schema.groove_count; i++) {
        struct schema_groove groove;
        memcpy(&groove, body, sizeof groove);
        body += sizeof groove + groove.field_count * sizeof(struct schema_field) +
                groove.index_count * sizeof(struct schema_index);
        const struct sim_slot *slot = sim_slot_named(groove.name);
        if (slot == NULL || found[slot - sim->model.slots].groove_id != 0 ||
            groove.object_size != slot->schema.object_size ||
            groove.event_count_max != slot->schema.event_max ||
            groove.field_count != slot->schema.spec.field_count ||
            groove.index_count != slot->schema.spec.index_count) {
            sim_fail("the schema tells of a groove %s that nobody made so", groove.name);
        }
        found[slot - sim->model.slots].groove_id = groove.groove_id;
    }
    sim_parcel_release(parcel);
    return true;
}

/* All keys of a slot into `found`. The commit seen goes to *commit. */
static bool scan_slot(struct sim_lane *lane, uint32_t slot_index, uint64_t *commit)
{
    const struct sim_slot *slot = &sim->model.slots[slot_index];
    struct found *into = &found[slot_index];
    const uint32_t step = (uint32_t)min_u64(sim_ids_per_lookup(slot), 128);
    for (uint32_t first = 0; first < slot->key_count; first += step) {
        uint32_t keys[128];
        const uint32_t count = (uint32_t)min_u64(step, slot->key_count - first);
        for (uint32_t i = 0; i < count; i++) {
            keys[i] = first + i;
        }
        sim_lookup_make(lane, slot, into->groove_id, keys, count);
        struct sim_parcel *parcel;
        /* The model does not know of the groove yet if nobody was told of its creation. */
        parcel = sim_ask(lane);
        if (parcel == NULL) {
            return false;
        }
        const struct reply_header header = sim_reply_header(parcel);
        if (header.result != RESULT_OK) {
            if (header.result == RESULT_UNKNOWN_GROOVE) {
                sim_fail("%s is in the schema, but not to be read", slot->schema.spec.name);
            }
            sim_check_refusal(lane, &header);
            sim_parcel_release(parcel);
            return false;
        }
        if (header.commit < sim->front.commit_seen) {
            sim_fail("recovered to commit %" PRIu64 ", but %" PRIu64 " was acknowledged or read",
                     header.commit, sim->front.commit_seen);
        }
        *commit = header.commit;
        struct objects_reply objects;
        sim_check_objects_header(lane, parcel, slot, &objects);
        const uint8_t *image = sim_reply_body(parcel) + sizeof objects;
        uint32_t taken = 0;
        for (uint32_t i = 0; i < count && taken < objects.object_count; i++) {
            uint8_t id[WIRE_ID_SIZE];
            sim_model_id(slot, keys[i], id);
            if (memcmp(id, image, WIRE_ID_SIZE) == 0) {
                into->objects[keys[i]] = (struct found_object){
                    .exists = true,
                    .timestamp = load_u64_le(image + 16),
                    .version = load_u64_le(image + 24),
                    .hash = sim_model_hash(slot, image),
                };
                image += objects.object_size;
                taken += 1;
            }
        }
        if (taken != objects.object_count) {
            sim_fail("read %" PRIu64 " of %s: objects that were not asked for", lane->number,
                     slot->schema.spec.name);
        }
        sim_parcel_release(parcel);
    }
    return true;
}

/* NULL: what was found is the model's newest state. Else the first thing that is not, in words. */
static const char *difference(void)
{
    static char text[200];
    for (uint32_t i = 0; i < SIM_SLOT_COUNT; i++) {
        const struct sim_slot *slot = &sim->model.slots[i];
        const uint32_t groove_id = sim_slot_groove(slot, UINT64_MAX);
        if (groove_id == UINT32_MAX ? found[i].groove_id == 0 : groove_id != found[i].groove_id) {
            snprintf(text, sizeof text, "%s is groove %u, %u expected", slot->schema.spec.name,
                     found[i].groove_id, groove_id);
            return text;
        }
        for (uint32_t key = 0; key < slot->key_count; key++) {
            const struct found_object *object = &found[i].objects[key];
            const struct sim_record *record = sim_model_find(&sim->model, slot, key, UINT64_MAX);
            const char *what = NULL;
            if (object->exists != (record != NULL)) {
                what = record != NULL ? "is missing" : "should not be there";
            } else if (record != NULL && object->hash != record->hash) {
                what = "a field is wrong";
            } else if (record != NULL && record->timestamp != SIM_UNKNOWN &&
                       object->timestamp != record->timestamp) {
                what = "its timestamp is wrong";
            } else if (record != NULL && record->version != SIM_UNKNOWN &&
                       object->version != record->version) {
                what = "its version is wrong";
            }
            if (what != NULL) {
                snprintf(text, sizeof text, "key %u of %s: %s", key, slot->schema.spec.name, what);
                return text;
            }
        }
    }
    return NULL;
}

/* Whether each section's groove is there, by the model's newest state. */
static bool grooves_exist(const struct sim_lane *lane)
{
    const struct request_header header = sim_request_header(lane);
    for (uint32_t offset = 0; offset < header.body_size;) {
        struct wire_section section;
        memcpy(&section, sim_request_body(lane) + offset, sizeof section);
        const struct sim_slot *slot = sim_model_slot(&sim->model, section.groove_id);
        if (sim_slot_groove(slot, UINT64_MAX) != section.groove_id) {
            return false;
        }
        offset += sim_section_size(&section, slot);
    }
    return true;
}

/* One write that nobody was told of, as if it had happened. */
static void assume(struct sim_lane *lane, uint64_t commit)
{
    struct sim_model *model = &sim->model;
    const struct request_header request = sim_request_header(lane);
    struct event_failure failures[SIM_FAILURE_MAX];
    if (request.operation == OPERATION_WRITE) {
        if (grooves_exist(lane)) { /* Else it was refused. */
            lane->kept_failure_count =
                sim_model_write(model, sim_request_body(lane), request.body_size,
                                request.flags != 0, commit, SIM_UNKNOWN, failures);
            memcpy(lane->kept_failures, failures,
                   min_u64(lane->kept_failure_count, SESSION_FAILURE_MAX) * sizeof failures[0]);
            lane->kept = true;
        }
        return;
    }
    struct sim_slot *slot = sim_slot_named(sim_request_body(lane));
    const bool exists = sim_slot_groove(slot, UINT64_MAX) != 0;
    if (request.operation == OPERATION_CREATE_GROOVE && !exists) {
        sim_model_create(model, slot, commit, UINT32_MAX);
        lane->kept = true;
    } else if (request.operation == OPERATION_DROP_GROOVE && exists) {
        sim_model_drop(model, slot, commit);
        lane->kept = true;
    }
}

/* The model learns what only the daemon knew: numbers and times of what it kept. */
static void adopt(void)
{
    for (uint32_t i = 0; i < SIM_SLOT_COUNT; i++) {
        struct sim_slot *slot = &sim->model.slots[i];
        if (sim_slot_groove(slot, UINT64_MAX) == UINT32_MAX) {
            slot->periods[slot->period_count - 1].groove_id = found[i].groove_id;
        }
        for (uint32_t key = 0; key < slot->key_count; key++) {
            struct sim_record *record = sim_model_find(&sim->model, slot, key, UINT64_MAX);
            if (record == NULL) {
                continue;
            }
            const struct found_object *object = &found[i].objects[key];
            if ((record->timestamp == SIM_UNKNOWN || record->version == SIM_UNKNOWN) &&
                object->version <= sim->model.timestamp) {
                sim_fail("key %u of %s was written at %" PRIu64
                         ", a time told of another write before it",
                         key, slot->schema.spec.name, object->version);
            }
            record->timestamp = object->timestamp;
            record->version = object->version;
        }
    }
}

/* What was found must be the state after some of the writes that were on their way. Where there is
 * no groove to read no reply names the commit (`named`): it is at least the given one, and each of
 * the writes that were kept has one of its own. */
static void scan_resolve(uint64_t commit, bool named)
{
    struct sim_front *front = &sim->front;
    char first[200];
    const char *what = difference();
    snprintf(first, sizeof first, "%s", what != NULL ? what : "");
    uint32_t kept = 0;
    while (what != NULL) {
        if (kept == front->pending_count) {
            sim_fail("after recovery, at commit %" PRIu64 " (acknowledged: %" PRIu64
                     ", %u more on their way): %s; with all of them: %s",
                     commit, front->commit_told, front->pending_count, first, what);
        }
        assume(&front->lanes[front->pending[kept]], commit);
        kept += 1;
        what = difference();
    }
    if (named && commit < front->commit_told + kept) {
        sim_fail("recovered to commit %" PRIu64 ", but %" PRIu64 " and %u more are there", commit,
                 front->commit_told, kept);
    }
    commit = max_u64(commit, front->commit_told + kept);
    sim->counters[SIM_PENDING_KEPT] += kept;
    sim->counters[SIM_PENDING_LOST] += front->pending_count - kept;
    adopt();
    for (uint32_t i = 0; i < SIM_LANE_MAX; i++) {
        front->lanes[i].pending = false;
        front->lanes[i].resent = front->lanes[i].unanswered;
    }
    front->pending_count = 0;
    front->commit_found = commit;
    front->commit_told = commit;
    front->commit_seen = commit;
    sim_trace("scanned", commit, kept, 0);
}

/* Counts, and queries of every value of every index, as any client would. */
static bool scan_indexes(struct sim_lane *lane, const struct sim_slot *slot, uint32_t groove_id)
{
    const uint64_t none[2] = {0, 0};
    if (sim_do_count(lane, slot, groove_id, WIRE_INDEX_NONE, none) != SIM_OUTCOME_ANSWERED) {
        return false;
    }
    for (uint32_t index = 0; index < slot->schema.spec.index_count; index++) {
        /* All values, or some of many. */
        const bool pairs = slot->schema.spec.indexes[index].field_count == 2;
        const uint32_t first_count = min_u64(slot->value_count + 1u, SCANNED_VALUES);
        const uint32_t second_count = pairs ? first_count : 1;
        for (uint64_t first = 0; first < first_count; first++) {
            for (uint64_t second = 0; second < second_count; second++) {
                const bool all = first_count > slot->value_count;
                const uint64_t values[2] = {all ? first : sim_below(slot->value_count + 1u),
                                            all ? second : sim_below(slot->value_count + 1u)};
                if ((sim_odds(3, 4) ? sim_do_count(lane, slot, groove_id, index, values)
                                    : sim_do_query(lane, slot, groove_id, index, 0, values)) !=
                    SIM_OUTCOME_ANSWERED) {
                    return false;
                }
            }
        }
    }
    return true;
}

bool sim_scan(struct sim_lane *lane)
{
    for (uint32_t i = 0; i < SIM_SLOT_COUNT; i++) {
        found[i].groove_id = 0;
        memset(found[i].objects, 0, sim->model.slots[i].key_count * sizeof found[i].objects[0]);
    }
    if (!scan_schema(lane)) {
        return false;
    }
    uint64_t commit = sim->front.commit_seen;
    bool seen = false;
    for (uint32_t i = 0; i < SIM_SLOT_COUNT; i++) {
        if (found[i].groove_id != 0) {
            seen = true;
            if (!scan_slot(lane, i, &commit)) {
                return false;
            }
        }
    }
    scan_resolve(commit, seen);
    for (uint32_t i = 0; i < SIM_SLOT_COUNT; i++) {
        if (found[i].groove_id != 0 &&
            !scan_indexes(lane, &sim->model.slots[i], found[i].groove_id)) {
            return false;
        }
    }
    sim_count(SIM_AUDITS);
    return true;
}
