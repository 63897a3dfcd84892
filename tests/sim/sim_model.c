#include "tests/sim/sim_model.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/object.h"
#include "pool/base.h"
#include "tests/sim/sim.h"

static const uint64_t arena_size = 256ull * 1024 * 1024;
static const uint64_t arena_margin = 1024 * 1024; /* more than a few requests take */

enum { RECORD_ALIGNMENT = 8, NOT_TOLD = UINT32_MAX };

void sim_model_map(struct sim_model *model)
{
    *model = (struct sim_model){0};
    model->arena = mmap(NULL, arena_size, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (model->arena == MAP_FAILED) {
        abort();
    }
}

/* ---- Schemas -----------------------------------------------------------------------------------
 */

static void random_field(struct field_spec *field, uint32_t position)
{
    static const uint8_t types[] = {
        FIELD_TYPE_U8,   FIELD_TYPE_U16,   FIELD_TYPE_U32,  FIELD_TYPE_U64,
        FIELD_TYPE_U128, FIELD_TYPE_I8,    FIELD_TYPE_I16,  FIELD_TYPE_I32,
        FIELD_TYPE_I64,  FIELD_TYPE_F32,   FIELD_TYPE_F64,  FIELD_TYPE_U32,
        FIELD_TYPE_BOOL, FIELD_TYPE_BYTES, FIELD_TYPE_TEXT, FIELD_TYPE_TIMESTAMP,
    };
    snprintf(field->name, sizeof field->name, "field_%u", position);
    field->type = types[sim_below(array_count(types))];
    if (field->type == FIELD_TYPE_BYTES || field->type == FIELD_TYPE_TEXT) {
        field->size = 1 + (uint32_t)sim_below(sim_odds(1, 4) ? 60 : 20);
    }
}

static void random_index(const struct groove_spec *spec, struct index_spec *index,
                         uint32_t position)
{
    snprintf(index->name, sizeof index->name, "index_%u", position);
    index->flags = sim_odds(1, 3) ? INDEX_FLAG_SPARSE : 0;
    index->flags |= sim_odds(1, 5) ? INDEX_FLAG_UNIQUE : 0;
    index->field_count = (uint8_t)(1 + sim_below(spec->field_count > 1 ? 2 : 1));
    index->fields[0] = (uint8_t)sim_below(spec->field_count);
    if (index->field_count == 2) {
        index->fields[1] = (uint8_t)((index->fields[0] + 1 + sim_below(spec->field_count - 1)) %
                                     spec->field_count);
    }
}

static void random_spec(struct groove_spec *spec, uint32_t slot)
{
    *spec = (struct groove_spec){0};
    snprintf(spec->name, sizeof spec->name, "groove_%u", slot);
    spec->field_count = 1 + (uint32_t)sim_below(4);
    for (uint32_t i = 0; i < spec->field_count; i++) {
        random_field(&spec->fields[i], i);
    }
    if (sim_odds(1, 4)) { /* Large objects now and then. */
        struct field_spec *field = &spec->fields[spec->field_count];
        snprintf(field->name, sizeof field->name, "bulk");
        field->type = FIELD_TYPE_BYTES;
        field->size = 100 + (uint32_t)sim_below(250);
    }
    spec->index_count = (uint32_t)sim_below(4);
    for (uint32_t i = 0; i < spec->index_count; i++) {
        random_index(spec, &spec->indexes[i], i);
    }
    spec->field_count += spec->fields[spec->field_count].type != 0;
}

enum { BULK_OBJECT_MIN = 100, BULK_OBJECT_MAX = 220 };

/* A table holds one bar of a groove: large objects and many indexes make small tables, and so many
 * levels of few objects. */
static bool slot_is_wanted(const struct sim_slot *slot)
{
    const uint32_t size = slot->schema.object_size;
    if (!slot->bulk) {
        return size <= SIM_OBJECT_MAX;
    }
    return size >= BULK_OBJECT_MIN && size <= BULK_OBJECT_MAX && !slot->unique &&
           slot->schema.spec.index_count >= 2;
}

void sim_model_reset(struct sim_model *model, const struct geometry *geometry)
{
    madvise(model->arena, model->arena_used, MADV_REMOVE);
    *model = (struct sim_model){.arena = model->arena, .arena_used = RECORD_ALIGNMENT};
    for (uint32_t i = 0; i < SIM_SLOT_COUNT; i++) {
        struct sim_slot *slot = &model->slots[i];
        struct groove_spec spec;
        char reason[256];
        slot->bulk = i == 0 && sim->swarm.bulk;
        do {
            random_spec(&spec, i);
            slot->unique = false;
            for (uint32_t index = 0; index < spec.index_count; index++) {
                slot->unique |= (spec.indexes[index].flags & INDEX_FLAG_UNIQUE) != 0;
            }
        } while (schema_build(geometry, &spec, &slot->schema, reason, sizeof reason) != STATUS_OK ||
                 !slot_is_wanted(slot));
        slot->key_count = slot->bulk       ? SIM_KEY_MAX - (uint32_t)sim_below(4 * 1024)
                          : sim_odds(1, 4) ? 8
                          : sim_odds(1, 3) ? 1000 + (uint32_t)sim_below(3000)
                                           : 100 + (uint32_t)sim_below(500);
        slot->value_count = slot->unique ? slot->key_count * 2 : 2 + (uint32_t)sim_below(6);
        slot->sequential = sim_odds(1, 3);
        assert(slot->key_count <= SIM_KEY_MAX);
    }
}

bool sim_model_has_room(const struct sim_model *model)
{
    for (uint32_t i = 0; i < SIM_SLOT_COUNT; i++) {
        if (model->slots[i].period_count + SIM_LANE_MAX >= SIM_PERIOD_MAX) {
            return false;
        }
    }
    return model->arena_used + arena_margin < arena_size;
}

/* ---- Objects -----------------------------------------------------------------------------------
 */

void sim_model_id(const struct sim_slot *slot, uint32_t key, uint8_t id[16])
{
    struct prng prng;
    prng_init(&prng, key);
    store_u64_le(id, key + 1ull);
    store_u64_le(id + 8, slot->sequential ? 0 : prng_next(&prng)); /* What sorts first. */
}

/* The key of an id; UINT32_MAX: none has it. */
static uint32_t key_of(const struct sim_slot *slot, const uint8_t *id)
{
    const uint64_t key = load_u64_le(id) - 1;
    uint8_t whole[16];
    if (key >= slot->key_count) {
        return UINT32_MAX;
    }
    sim_model_id(slot, (uint32_t)key, whole);
    return memcmp(whole, id, sizeof whole) == 0 ? (uint32_t)key : UINT32_MAX;
}

void sim_model_value(const struct sim_slot *slot, uint32_t field, uint64_t value, uint8_t *bytes)
{
    const uint32_t size = slot->schema.fields[field].size;
    memset(bytes, 0, size);
    if (value == 0) {
        return; /* What a sparse index leaves out. */
    }
    switch (slot->schema.spec.fields[field].type) {
    case FIELD_TYPE_BOOL:
        bytes[0] = value % 2;
        break;
    case FIELD_TYPE_TEXT: /* Values that share their first bytes, and some shorter ones. */
        memset(bytes, 'a', value % 3 == 2 ? 1 : size);
        if (value % 3 != 2) {
            bytes[size - 1] = (uint8_t)('a' + value % 26);
            bytes[size / 2] = (uint8_t)('a' + value / 26 % 26);
        }
        bytes[0] = (uint8_t)('a' + value % 2);
        break;
    case FIELD_TYPE_BYTES:
        memset(bytes, (int)(value % 2), size);
        bytes[size - 1] = (uint8_t)value;
        bytes[size / 2] = (uint8_t)(value >> 8);
        break;
    case FIELD_TYPE_F32: {
        const float number = (float)value - 3.5f;
        memcpy(bytes, &number, sizeof number);
        break;
    }
    case FIELD_TYPE_F64: {
        const double number = (double)value * 1e10 - 3e10;
        memcpy(bytes, &number, sizeof number);
        break;
    }
    default: /* Numbers: both ends of their range. */
        memset(bytes, value % 2 == 0 ? 0xff : 0, size);
        memcpy(bytes, &value, size > 2 ? 2 : 1);
        break;
    }
}

void sim_model_object(const struct sim_slot *slot, uint32_t key, uint8_t *image)
{
    memset(image, 0, slot->schema.object_size);
    sim_model_id(slot, key, image);
    for (uint32_t i = 0; i < slot->schema.spec.field_count; i++) {
        sim_model_value(slot, i, sim_below(slot->value_count),
                        image + slot->schema.fields[i].offset);
    }
}

/* ---- History -----------------------------------------------------------------------------------
 */

uint32_t sim_slot_groove(const struct sim_slot *slot, uint64_t commit)
{
    for (uint32_t i = slot->period_count; i > 0; i--) {
        if (slot->periods[i - 1].commit <= commit) {
            return slot->periods[i - 1].groove_id;
        }
    }
    return 0;
}

struct sim_slot *sim_model_slot(struct sim_model *model, uint32_t groove_id)
{
    for (uint32_t i = 0; i < SIM_SLOT_COUNT; i++) {
        struct sim_slot *slot = &model->slots[i];
        for (uint32_t period = 0; period < slot->period_count; period++) {
            if (slot->periods[period].groove_id == groove_id) {
                return slot;
            }
        }
    }
    return NULL;
}

static struct sim_record *record_at(struct sim_model *model, uint32_t offset)
{
    return (struct sim_record *)(void *)(model->arena + offset);
}

struct sim_record *sim_model_find(struct sim_model *model, const struct sim_slot *slot,
                                  uint32_t key, uint64_t commit)
{
    assert(key < slot->key_count);
    uint32_t offset = slot->newest[key];
    while (offset != 0 && record_at(model, offset)->commit > commit) {
        offset = record_at(model, offset)->older;
    }
    struct sim_record *record = offset != 0 ? record_at(model, offset) : NULL;
    return record != NULL && record->exists ? record : NULL;
}

static uint64_t record_size(const struct sim_slot *slot)
{
    return align_up(sizeof(struct sim_record) + slot->schema.object_size, RECORD_ALIGNMENT);
}

static struct sim_record *record_add(struct sim_model *model, struct sim_slot *slot, uint32_t key,
                                     uint64_t commit)
{
    const uint64_t size = record_size(slot);
    assert(model->arena_used + size <= arena_size);
    struct sim_record *record = record_at(model, (uint32_t)model->arena_used);
    *record = (struct sim_record){
        .older = slot->newest[key],
        .key = key,
        .slot = (uint8_t)(slot - model->slots),
        .commit = commit,
    };
    slot->newest[key] = (uint32_t)model->arena_used;
    model->arena_used += size;
    return record;
}

/* Takes back all records from `first` on. */
static void records_undo(struct sim_model *model, uint64_t first)
{
    for (uint64_t offset = first; offset < model->arena_used;) {
        const struct sim_record *record = record_at(model, (uint32_t)offset);
        struct sim_slot *slot = &model->slots[record->slot];
        if (record->older < first) { /* Of several of one key the oldest knows what was before. */
            slot->newest[record->key] = record->older;
        }
        offset += record_size(slot);
    }
    model->arena_used = first;
}

/* Whether another object has a value of `image` that a unique index gives out once. */
static bool value_is_taken(struct sim_model *model, const struct sim_slot *slot, uint32_t own,
                           const uint8_t *image)
{
    const struct groove_schema *schema = &slot->schema;
    for (uint32_t index = 0; index < schema->spec.index_count; index++) {
        const struct index_spec *spec = &schema->spec.indexes[index];
        uint8_t key[2 * SIM_OBJECT_MAX];
        uint32_t size = 0;
        for (uint32_t i = 0; i < spec->field_count; i++) {
            const struct field_layout *field = &schema->fields[spec->fields[i]];
            memcpy(key + size, image + field->offset, field->size);
            size += field->size;
        }
        if ((spec->flags & INDEX_FLAG_UNIQUE) == 0 || !sim_model_matches(slot, index, image, key)) {
            continue; /* The latter: a sparse index leaves it out. */
        }
        for (uint32_t other = 0; other < slot->key_count; other++) {
            const struct sim_record *record =
                other == own ? NULL : sim_model_find(model, slot, other, UINT64_MAX);
            if (record != NULL && sim_model_matches(slot, index, record->image, key)) {
                return true;
            }
        }
    }
    return false;
}

static bool guard_holds(const struct event_section *section, const uint8_t *payload,
                        const struct sim_record *record)
{
    switch ((enum event_guard_kind)section->guard) {
    case EVENT_GUARD_NONE:
        break;
    case EVENT_GUARD_ABSENT:
        return record == NULL;
    case EVENT_GUARD_PRESENT:
        return record != NULL;
    case EVENT_GUARD_VERSION: /* Nobody can ask for one that nobody was told. */
        return record != NULL && record->version == load_u64_le(payload - 8);
    }
    return true;
}

static enum event_result apply(struct sim_model *model, struct sim_slot *slot,
                               const struct event_section *section, const uint8_t *payload,
                               uint64_t commit, uint64_t timestamp)
{
    const enum event_type type = (enum event_type)section->event_type;
    static const uint8_t zero[16];
    if (memcmp(payload, zero, 16) == 0) {
        return EVENT_RESULT_ID_ZERO;
    }
    const uint32_t key = key_of(slot, payload);
    assert(key != UINT32_MAX);
    const struct sim_record *before = sim_model_find(model, slot, key, UINT64_MAX);
    if (!guard_holds(section, payload, before)) {
        return EVENT_RESULT_GUARD;
    }
    if (type == EVENT_TYPE_CHECK) {
        return EVENT_RESULT_OK;
    }
    if (type == EVENT_TYPE_REMOVE) {
        if (before == NULL) {
            return EVENT_RESULT_NOT_FOUND;
        }
        record_add(model, slot, key, commit);
        return EVENT_RESULT_OK;
    }
    if (memcmp(payload + 16, zero, 16) != 0) {
        return EVENT_RESULT_RESERVED_NOT_ZERO;
    }
    if (!schema_image_valid(&slot->schema, payload)) {
        return EVENT_RESULT_BAD_VALUE;
    }
    if (type == EVENT_TYPE_INSERT && before != NULL) {
        return EVENT_RESULT_EXISTS;
    }
    if (type == EVENT_TYPE_UPDATE && before == NULL) {
        return EVENT_RESULT_NOT_FOUND;
    }
    if (slot->unique && value_is_taken(model, slot, key, payload)) {
        return EVENT_RESULT_UNIQUE;
    }
    const uint64_t born = before != NULL ? before->timestamp : timestamp;
    struct sim_record *record = record_add(model, slot, key, commit);
    record->exists = true;
    record->timestamp = born;
    record->version = timestamp;
    record->hash = sim_model_hash(slot, payload);
    memcpy(record->image, payload, slot->schema.object_size);
    return EVENT_RESULT_OK;
}

/* A write that is being applied. */
struct application {
    struct event_failure *failures; /* [SIM_FAILURE_MAX] */
    uint32_t failure_count;
    uint32_t number; /* of the next event */
    /* The chain that it belongs to; one alone is a chain, too. */
    uint32_t chain_first;
    uint64_t chain_records; /* where they begin in the arena */
    bool chain_goes_on, chain_failed;
};

static void add_failure(struct application *application, uint32_t number, enum event_result result)
{
    assert(application->failure_count < SIM_FAILURE_MAX);
    application->failures[application->failure_count] =
        (struct event_failure){.event_index = number, .result = (uint32_t)result};
    application->failure_count += 1;
    sim->counters[SIM_GUARDS_FAILED] += result == EVENT_RESULT_GUARD;
}

static void apply_to_chain(struct sim_model *model, struct sim_slot *slot,
                           struct application *application, const struct event_section *section,
                           const uint8_t *payload, uint64_t commit, uint64_t timestamp)
{
    const uint32_t number = application->number;
    if (!application->chain_goes_on) {
        application->chain_first = number;
        application->chain_records = model->arena_used;
        application->chain_failed = false;
    }
    if (application->chain_failed) {
        add_failure(application, number, EVENT_RESULT_LINKED);
        return;
    }
    const enum event_result result =
        apply(model, slot, section, payload, commit,
              timestamp == SIM_UNKNOWN ? SIM_UNKNOWN : timestamp + number);
    if (result == EVENT_RESULT_OK) {
        sim->counters[SIM_GUARDS_HELD] += section->guard != EVENT_GUARD_NONE;
        return;
    }
    sim->counters[SIM_CHAINS_UNDONE] += model->arena_used > application->chain_records;
    records_undo(model, application->chain_records);
    for (uint32_t i = application->chain_first; i < number; i++) {
        add_failure(application, i, EVENT_RESULT_LINKED);
    }
    add_failure(application, number, result);
    application->chain_failed = true;
}

uint32_t sim_model_write(struct sim_model *model, const uint8_t *body, uint32_t size, bool atomic,
                         uint64_t commit, uint64_t timestamp, struct event_failure *failures)
{
    assert(commit >= model->commit);
    model->commit = commit;
    struct application application = {.failures = failures};
    for (uint32_t offset = 0; offset < size;) {
        struct event_section section;
        memcpy(&section, body + offset, sizeof section);
        offset += (uint32_t)sizeof section;
        struct sim_slot *slot = sim_model_slot(model, section.groove_id);
        assert(slot != NULL);
        const uint32_t guard_size = section.guard == EVENT_GUARD_VERSION ? 8 : 0;
        const bool id =
            section.event_type == EVENT_TYPE_REMOVE || section.event_type == EVENT_TYPE_CHECK;
        for (uint32_t i = 0; i < section.event_count; i++) {
            apply_to_chain(model, slot, &application, &section, body + offset + guard_size, commit,
                           timestamp);
            offset += guard_size + (id ? ID_SIZE : slot->schema.object_size);
            application.number += 1;
            application.chain_goes_on = atomic || section.flags != 0;
        }
    }
    return application.failure_count;
}

static void period_add(struct sim_model *model, struct sim_slot *slot, uint64_t commit,
                       uint32_t groove_id)
{
    assert(commit >= model->commit);
    assert(slot->period_count < SIM_PERIOD_MAX);
    model->commit = commit;
    slot->periods[slot->period_count].commit = commit;
    slot->periods[slot->period_count].groove_id = groove_id;
    slot->period_count += 1;
}

void sim_model_create(struct sim_model *model, struct sim_slot *slot, uint64_t commit,
                      uint32_t groove_id)
{
    assert(groove_id != 0);
    assert(sim_slot_groove(slot, UINT64_MAX) == 0);
    period_add(model, slot, commit, groove_id);
}

void sim_model_drop(struct sim_model *model, struct sim_slot *slot, uint64_t commit)
{
    assert(sim_slot_groove(slot, UINT64_MAX) != 0);
    period_add(model, slot, commit, 0);
    for (uint32_t key = 0; key < slot->key_count; key++) {
        if (sim_model_find(model, slot, key, UINT64_MAX) != NULL) {
            record_add(model, slot, key, commit);
        }
    }
}

/* ---- Comparing ---------------------------------------------------------------------------------
 */

bool sim_model_matches(const struct sim_slot *slot, uint32_t index, const uint8_t *image,
                       const uint8_t *key)
{
    const struct groove_schema *schema = &slot->schema;
    const struct index_spec *spec = &schema->spec.indexes[index];
    for (uint32_t i = 0; i < spec->field_count; i++) {
        const struct field_layout *field = &schema->fields[spec->fields[i]];
        if (memcmp(image + field->offset, key, field->size) != 0) {
            return false;
        }
        if (i == 0 && (spec->flags & INDEX_FLAG_SPARSE) != 0) {
            bool any = false;
            for (uint32_t byte = 0; byte < field->size; byte++) {
                any |= key[byte] != 0;
            }
            if (!any) {
                return false;
            }
        }
        key += field->size;
    }
    return true;
}

uint64_t sim_model_hash(const struct sim_slot *slot, const uint8_t *image)
{
    return sim_hash(image + OBJECT_HEADER_SIZE, slot->schema.object_size - OBJECT_HEADER_SIZE) ^
           sim_hash(image, ID_SIZE);
}

const char *sim_model_differs(const struct sim_slot *slot, const struct sim_record *record,
                              const uint8_t *image)
{
    const uint64_t timestamp = load_u64_le(image + 16);
    const uint64_t version = load_u64_le(image + 24);
    if (memcmp(image, record->image, 16) != 0) {
        return "the id";
    }
    if (memcmp(image + OBJECT_HEADER_SIZE, record->image + OBJECT_HEADER_SIZE,
               slot->schema.object_size - OBJECT_HEADER_SIZE) != 0) {
        return "a field";
    }
    if (record->timestamp != SIM_UNKNOWN ? timestamp != record->timestamp : timestamp == 0) {
        return "the timestamp";
    }
    if (record->version != SIM_UNKNOWN ? version != record->version : version < timestamp) {
        return "the version";
    }
    return NULL;
}
