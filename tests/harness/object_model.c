#include "tests/harness/object_model.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "pool/base.h"
#include "tests/harness/model_request.h"
#include "tests/harness/session_model.h"

enum { PAD_SIZE = 896, INDEX_BY_A = 0, INDEX_BY_BC, INDEX_BY_NOTE, INDEX_BY_CODE };
enum { GROOVE_PADDED = 0, GROOVE_CODED = 1 };

enum { NOTE_SIZE = 16 };

static const char notes[MODEL_NOTE_COUNT][NOTE_SIZE] = {
    "", "ash", "beech tree", "beech tree 2", "oak", /* The index sees 8 bytes: two are alike. */
};

/* ---- History -----------------------------------------------------------------------------------
 */

void model_store_init(struct model_store *store, uint32_t entry_max, uint32_t request_max)
{
    *store = (struct model_store){
        .entries = malloc(entry_max * sizeof(struct model_entry)),
        .entry_count = 1,
        .entry_max = entry_max,
        .requests = malloc(request_max * sizeof(struct model_request)),
        .request_max = request_max,
    };
    if (store->entries == NULL || store->requests == NULL) {
        abort();
    }
}

void model_store_deinit(struct model_store *store)
{
    free(store->entries);
    free(store->requests);
    *store = (struct model_store){0};
}

struct model_mark model_store_mark(const struct model_store *store)
{
    return (struct model_mark){store->entry_count, store->request_count};
}

void model_store_rewind(struct model_store *store, const struct model_mark *mark)
{
    assert(mark->entry_count <= store->entry_count && mark->request_count <= store->request_count);
    store->entry_count = mark->entry_count;
    store->request_count = mark->request_count;
}

void model_init(struct model *model, struct model_store *store)
{
    *model = (struct model){.store = store};
}

static uint32_t entry_at(const struct model *model, uint32_t head, uint64_t commit)
{
    while (head != 0 && model->store->entries[head].commit > commit) {
        head = model->store->entries[head].before;
    }
    return head;
}

void model_branch(struct model *branch, const struct model *model, uint64_t commit)
{
    branch->store = model->store;
    for (uint32_t client = 0; client < MODEL_CLIENT_MAX; client++) {
        branch->session_heads[client] = entry_at(model, model->session_heads[client], commit);
        for (uint32_t lane = 0; lane < SESSION_LANE_MAX; lane++) {
            branch->lane_heads[client][lane] =
                entry_at(model, model->lane_heads[client][lane], commit);
        }
    }
    for (uint32_t groove = 0; groove < MODEL_GROOVE_MAX; groove++) {
        branch->groove_heads[groove] = entry_at(model, model->groove_heads[groove], commit);
        for (uint32_t number = 0; number < MODEL_OBJECT_MAX; number++) {
            branch->heads[groove][number] = entry_at(model, model->heads[groove][number], commit);
        }
    }
}

const struct model_entry *model_at(const struct model *model, uint32_t head, uint64_t commit)
{
    const uint32_t index = entry_at(model, head, commit);
    return index == 0 ? NULL : &model->store->entries[index];
}

static const struct model_entry *existing(const struct model *model, uint32_t head, uint64_t commit)
{
    const struct model_entry *entry = model_at(model, head, commit);
    return entry != NULL && entry->exists ? entry : NULL;
}

const struct model_entry *model_groove(const struct model *model, uint32_t groove, uint64_t commit)
{
    assert(groove < MODEL_GROOVE_MAX);
    return existing(model, model->groove_heads[groove], commit);
}

const struct model_entry *model_object(const struct model *model, uint32_t groove, uint32_t number,
                                       uint64_t commit)
{
    assert(groove < MODEL_GROOVE_MAX && number < MODEL_OBJECT_MAX);
    const struct model_entry *of_groove = model_groove(model, groove, commit);
    const struct model_entry *entry = existing(model, model->heads[groove][number], commit);
    /* A groove that was dropped and made again has none of its objects. */
    return of_groove != NULL && entry != NULL && entry->commit > of_groove->commit ? entry : NULL;
}

struct model_entry *model_add(struct model *model, uint32_t *head, enum model_kind kind,
                              uint64_t commit)
{
    struct model_store *store = model->store;
    if (store->entry_count == store->entry_max) {
        abort();
    }
    struct model_entry *entry = &store->entries[store->entry_count];
    *entry = (struct model_entry){
        .head = head, .before = *head, .kind = kind, .exists = true, .commit = commit};
    *head = store->entry_count;
    store->entry_count += 1;
    return entry;
}

void model_groove_set(struct model *model, uint32_t groove, uint64_t commit, bool exists)
{
    assert(groove < MODEL_GROOVE_MAX);
    model_add(model, &model->groove_heads[groove], MODEL_GROOVE, commit)->exists = exists;
}

/* Whether another object has this code. */
static bool code_is_taken(const struct model *model, uint32_t groove, uint32_t own, uint32_t code,
                          uint64_t commit)
{
    for (uint32_t number = 0; number < MODEL_OBJECT_MAX; number++) {
        const struct model_entry *entry =
            number == own ? NULL : model_object(model, groove, number, commit);
        if (entry != NULL && entry->fields.code == code) {
            return true;
        }
    }
    return false;
}

/* The version of what was not yet told of is nobody's to ask for. */
static bool guard_holds(struct event_guard guard, const struct model_entry *old)
{
    switch (guard.kind) {
    case EVENT_GUARD_NONE:
        return true;
    case EVENT_GUARD_ABSENT:
        return old == NULL;
    case EVENT_GUARD_PRESENT:
        return old != NULL;
    case EVENT_GUARD_VERSION:
        assert(guard.version != 0);
        return old != NULL && old->version == guard.version;
    }
    abort();
}

enum event_result model_event(struct model *model, uint32_t groove, uint32_t number,
                              enum event_type type, struct event_guard guard,
                              const struct model_fields *fields, uint64_t commit, uint32_t event)
{
    const struct model_entry *old = model_object(model, groove, number, commit);
    if (!guard_holds(guard, old)) {
        return EVENT_RESULT_GUARD;
    }
    if (type == EVENT_TYPE_CHECK) {
        return EVENT_RESULT_OK;
    }
    if (type == EVENT_TYPE_INSERT && old != NULL) {
        return EVENT_RESULT_EXISTS;
    }
    if ((type == EVENT_TYPE_UPDATE || type == EVENT_TYPE_REMOVE) && old == NULL) {
        return EVENT_RESULT_NOT_FOUND;
    }
    if (groove == GROOVE_CODED && type != EVENT_TYPE_REMOVE &&
        code_is_taken(model, groove, number, fields->code, commit)) {
        return EVENT_RESULT_UNIQUE;
    }
    struct model_entry *entry =
        model_add(model, &model->heads[groove][number], MODEL_OBJECT, commit);
    entry->event = event;
    entry->exists = type != EVENT_TYPE_REMOVE;
    entry->fields = *fields;
    entry->made = old == NULL;
    return EVENT_RESULT_OK;
}

void model_undo(struct model *model, uint32_t first)
{
    struct model_store *store = model->store;
    while (store->entry_count > first) {
        store->entry_count -= 1;
        const struct model_entry *entry = &store->entries[store->entry_count];
        assert(*entry->head == store->entry_count);
        *entry->head = entry->before;
    }
}

void model_told(struct model *model, uint32_t first, const struct request_outcome *outcome)
{
    struct model_entry *entries = model->store->entries;
    for (uint32_t i = first; i < model->store->entry_count; i++) {
        struct model_entry *entry = &entries[i];
        if (entry->commit != outcome->commit) {
            continue;
        }
        entry->timestamp = outcome->timestamp;
        switch (entry->kind) {
        case MODEL_OBJECT:
            entry->version = outcome->timestamp + entry->event;
            entry->timestamp = entry->made ? entry->version : entries[entry->before].timestamp;
            break;
        case MODEL_GROOVE:
            entry->groove_id = outcome->groove_id;
            break;
        case MODEL_LANE:
            entry->lane.groove_id = outcome->groove_id;
            entry->lane.object_size = outcome->object_size;
            break;
        case MODEL_SESSION:
            break;
        }
    }
}

/* ---- Objects -----------------------------------------------------------------------------------
 */

void model_spec(struct groove_spec *spec, uint32_t groove)
{
    static const char *const names[MODEL_GROOVE_MAX] = {"logs", "things", "brief"};
    assert(groove < MODEL_GROOVE_MAX);
    fixture_spec(spec, names[groove]);
    struct field_spec *field = &spec->fields[spec->field_count];
    if (groove == GROOVE_PADDED) {
        *field = (struct field_spec){.name = "pad", .type = FIELD_TYPE_BYTES, .size = PAD_SIZE};
        spec->field_count += 1;
    } else if (groove == GROOVE_CODED) {
        *field = (struct field_spec){.name = "code", .type = FIELD_TYPE_U64, .size = 8};
        spec->indexes[spec->index_count] = (struct index_spec){
            .name = "by_code",
            .field_count = 1,
            .flags = INDEX_FLAG_UNIQUE,
            .fields = {(uint8_t)spec->field_count},
        };
        spec->field_count += 1;
        spec->index_count += 1;
    }
}

uint32_t model_object_size(uint32_t groove)
{
    static_assert(FIXTURE_OBJECT_SIZE + PAD_SIZE == MODEL_OBJECT_SIZE_MAX, "as the spec has it");
    return groove == GROOVE_PADDED  ? MODEL_OBJECT_SIZE_MAX
           : groove == GROOVE_CODED ? FIXTURE_OBJECT_SIZE + sizeof(uint64_t)
                                    : FIXTURE_OBJECT_SIZE;
}

void model_id(uint8_t id[16], uint32_t groove, uint32_t number)
{
    fixture_id(id, (uint64_t)groove * MODEL_OBJECT_MAX + number);
}

void model_image(uint8_t *image, uint32_t groove, uint32_t number,
                 const struct model_fields *fields, uint64_t timestamp, uint64_t version)
{
    struct fixture_object object = {
        .timestamp = timestamp,
        .version = version,
        .a = fields->a,
        .b = fields->b,
        .c = fields->c,
    };
    model_id(object.id, groove, number);
    memcpy(object.note, notes[fields->note], NOTE_SIZE);
    memcpy(image, &object, sizeof object);
    if (groove == GROOVE_CODED) {
        const uint64_t code = fields->code;
        memcpy(image + sizeof object, &code, sizeof code);
        return;
    }
    uint64_t word = fields->salt;
    for (uint32_t offset = sizeof object; offset < model_object_size(groove); offset += 8) {
        word = word * UINT64_C(6364136223846793005) + 1442695040888963407u;
        memcpy(image + offset, &word, 8);
    }
}

void model_fields_random(struct model_fields *fields, struct prng *prng)
{
    *fields = (struct model_fields){
        .a = (uint32_t)prng_below(prng, MODEL_A_COUNT),
        .b = (uint32_t)prng_below(prng, MODEL_B_COUNT),
        .c = (uint32_t)prng_below(prng, MODEL_C_COUNT),
        .note = (uint32_t)prng_below(prng, MODEL_NOTE_COUNT),
        .code = (uint32_t)prng_below(prng, MODEL_CODE_COUNT),
        .salt = prng_next(prng),
    };
}

/* ---- Comparing ---------------------------------------------------------------------------------
 */

struct present {
    const struct model_entry *entry;
    uint32_t number;
};

struct look {
    const struct model *model;
    uint64_t commit;
    struct forest_fixture *fixture;
    struct model_check *check;
    uint32_t groove, groove_id;
    struct present present[MODEL_OBJECT_MAX]; /* what must be there, by timestamp */
    uint32_t present_count;
};

static bool wrong(struct look *look, const char *what, uint64_t value, uint64_t actual,
                  uint64_t expected)
{
    snprintf(look->check->reason, sizeof look->check->reason,
             "commit %llu, groove %u: %s %llu: %llu, not %llu", (unsigned long long)look->commit,
             look->groove, what, (unsigned long long)value, (unsigned long long)actual,
             (unsigned long long)expected);
    return false;
}

/* One read; NULL when it said CORRUPT and that is allowed, or when it is wrong (a reason is set).
 */
static struct read_request *read_one(struct look *look, enum read_kind kind, uint32_t index,
                                     const void *input, uint32_t input_size)
{
    struct model_check *check = look->check;
    struct read_request *request =
        fixture_read(look->fixture, kind, look->groove_id, index, input, input_size);
    check->reads += 1;
    if (request->result == REQUEST_RESULT_OK) {
        if (request->commit == look->commit) {
            return request;
        }
        (void)wrong(look, "a read at", request->commit, request->commit, look->commit);
    } else if (request->result == REQUEST_RESULT_CORRUPT && check->may_be_corrupt) {
        check->corrupt_reads += 1;
        const uint64_t address = request->scratch->bad_address;
        if (check->damaged[0] != 0 &&
            (address == 0 || (address != check->damaged[0] && address != check->damaged[1]))) {
            (void)wrong(look, "a read names address", address, address, check->damaged[0]);
        }
    } else {
        (void)wrong(look, "a read of index", index, request->result, REQUEST_RESULT_OK);
    }
    forest_read_release(look->fixture->forest, request);
    return NULL;
}

static bool same_object(struct look *look, const uint8_t *actual, uint32_t number,
                        const struct model_entry *entry)
{
    uint8_t image[MODEL_OBJECT_SIZE_MAX];
    model_image(image, look->groove, number, &entry->fields, entry->timestamp, entry->version);
    return memcmp(image, actual, model_object_size(look->groove)) == 0;
}

static bool compare_lookups(struct look *look)
{
    enum { BATCH = 8 }; /* What a reply of the smallest batch holds of large objects. */
    uint8_t ids[BATCH * 16];
    const uint32_t stride = look->check->lookup_stride;
    uint32_t number = stride > 1 ? (uint32_t)prng_below(look->check->prng, stride) : 0;
    while (number < MODEL_OBJECT_MAX) {
        uint32_t numbers[BATCH];
        uint32_t count = 0;
        for (; count < BATCH && number < MODEL_OBJECT_MAX; number += stride) {
            /* Of those that never were, a few. */
            if (look->model->heads[look->groove][number] != 0 || number % 64 == 0) {
                model_id(ids + (size_t)count * 16, look->groove, number);
                numbers[count] = number;
                count += 1;
            }
        }
        if (count == 0) {
            break;
        }
        struct read_request *request =
            read_one(look, READ_KIND_LOOKUP, READ_INDEX_NONE, ids, count * 16);
        if (request == NULL) {
            if (look->check->reason[0] != '\0') {
                return false;
            }
            continue;
        }
        uint64_t found = 0;
        bool same = true;
        for (uint32_t i = 0; i < count && same; i++) {
            const struct model_entry *entry =
                model_object(look->model, look->groove, numbers[i], look->commit);
            if (entry != NULL) {
                same = found < request->count &&
                       same_object(look, request->reply + found * model_object_size(look->groove),
                                   numbers[i], entry);
                found += 1;
                same = same || wrong(look, "lookup of object", numbers[i], 0, 1);
            }
        }
        if (same && found != request->count) {
            same = wrong(look, "lookups before object", number, request->count, found);
        }
        forest_read_release(look->fixture->forest, request);
        if (!same) {
            return false;
        }
    }
    return true;
}

static bool matches(const struct model_fields *fields, uint32_t index, uint32_t value)
{
    switch (index) {
    case INDEX_BY_A:
        return fields->a == value;
    case INDEX_BY_BC:
        return fields->b * MODEL_C_COUNT + fields->c == value;
    case INDEX_BY_NOTE:
        return fields->note == value;
    default:
        return fields->code == value;
    }
}

/* How many have this value, and those of them, in order, that a reply holds. */
static bool compare_value(struct look *look, uint32_t index, uint32_t value, const void *input,
                          uint32_t input_size)
{
    struct read_request *request = read_one(look, READ_KIND_QUERY, index, input, input_size);
    bool same = request != NULL || look->check->reason[0] == '\0';
    uint64_t expected = 0;
    for (uint32_t i = 0; i < look->present_count && same; i++) {
        const struct present *present = &look->present[i];
        if (!matches(&present->entry->fields, index, value)) {
            continue;
        }
        if (request != NULL && expected < request->count) {
            const uint8_t *actual = request->reply + expected * model_object_size(look->groove);
            same = same_object(look, actual, present->number, present->entry) ||
                   wrong(look, "query's object", expected, 0, present->number);
        }
        expected += 1;
    }
    if (request != NULL) {
        const uint64_t capacity = request->reply_capacity / model_object_size(look->groove);
        if (same && request->count != min_u64(expected, capacity)) {
            same = wrong(look, "query of index", index, request->count, expected);
        }
        forest_read_release(look->fixture->forest, request);
    }
    if (!same) {
        return false;
    }
    request = read_one(look, READ_KIND_COUNT, index, input, input_size);
    if (request == NULL) {
        return look->check->reason[0] == '\0';
    }
    same = request->count == expected ||
           wrong(look, "count of index", index, request->count, expected);
    forest_read_release(look->fixture->forest, request);
    return same;
}

static bool compare_code(struct look *look, uint32_t code)
{
    const uint64_t input = code;
    return compare_value(look, INDEX_BY_CODE, code, &input, sizeof input);
}

/* The codes of as many objects as are looked up, and some that no object may have. */
static bool compare_codes(struct look *look)
{
    enum { OTHERS_STEP = 64 };
    const uint32_t stride = look->check->lookup_stride;
    for (uint32_t i = 0; i < look->present_count; i += stride) {
        if (!compare_code(look, look->present[i].entry->fields.code)) {
            return false;
        }
    }
    for (uint32_t code = (uint32_t)prng_below(look->check->prng, OTHERS_STEP);
         code < MODEL_CODE_COUNT; code += OTHERS_STEP) {
        if (!compare_code(look, code)) {
            return false;
        }
    }
    return true;
}

static bool compare_indexes(struct look *look)
{
    for (uint32_t a = 0; a < MODEL_A_COUNT; a++) {
        const uint64_t input = a;
        if (!compare_value(look, INDEX_BY_A, a, &input, sizeof input)) {
            return false;
        }
    }
    for (uint32_t value = 0; value < MODEL_B_COUNT * MODEL_C_COUNT; value++) {
        const uint32_t input[2] = {value / MODEL_C_COUNT, value % MODEL_C_COUNT};
        if (!compare_value(look, INDEX_BY_BC, value, input, sizeof input)) {
            return false;
        }
    }
    for (uint32_t note = 1; note < MODEL_NOTE_COUNT; note++) {
        if (!compare_value(look, INDEX_BY_NOTE, note, notes[note], NOTE_SIZE)) {
            return false;
        }
    }
    if (look->groove == GROOVE_CODED && !compare_codes(look)) {
        return false;
    }
    struct read_request *request = read_one(look, READ_KIND_COUNT, READ_INDEX_NONE, NULL, 0);
    if (request == NULL) {
        return look->check->reason[0] == '\0';
    }
    const bool same = request->count == look->present_count ||
                      wrong(look, "count", 0, request->count, look->present_count);
    forest_read_release(look->fixture->forest, request);
    return same;
}

static int by_timestamp(const void *a, const void *b)
{
    const uint64_t left = ((const struct present *)a)->entry->timestamp;
    const uint64_t right = ((const struct present *)b)->entry->timestamp;
    return (left > right) - (left < right);
}

static void gather_present(struct look *look)
{
    look->present_count = 0;
    bool sorted = true;
    for (uint32_t number = 0; number < MODEL_OBJECT_MAX; number++) {
        const struct model_entry *entry =
            model_object(look->model, look->groove, number, look->commit);
        if (entry != NULL) {
            struct present *present = &look->present[look->present_count];
            *present = (struct present){.entry = entry, .number = number};
            sorted &= look->present_count == 0 || by_timestamp(present - 1, present) < 0;
            look->present_count += 1;
        }
    }
    if (!sorted) {
        qsort(look->present, look->present_count, sizeof look->present[0], by_timestamp);
    }
}

/* The groove's id if the forest has it, else 0. */
static uint32_t find_groove(struct forest_fixture *fixture, const char *name)
{
    struct forest_groove_info grooves[16];
    const uint32_t count = forest_grooves(fixture->forest, grooves, array_count(grooves));
    for (uint32_t i = 0; i < count; i++) {
        if (!grooves[i].dropping && strcmp(grooves[i].schema->spec.name, name) == 0) {
            return grooves[i].groove_id;
        }
    }
    return 0;
}

bool model_compare(const struct model *model, uint64_t commit, struct forest_fixture *fixture,
                   struct model_check *check)
{
    static struct look look;
    look.model = model;
    look.commit = commit;
    look.fixture = fixture;
    look.check = check;
    check->reason[0] = '\0';
    if (!model_compare_sessions(model, commit, fixture->forest, check->reason,
                                sizeof check->reason)) {
        return false;
    }
    for (uint32_t groove = 0; groove < MODEL_GROOVE_MAX; groove++) {
        struct groove_spec spec;
        model_spec(&spec, groove);
        look.groove = groove;
        look.groove_id = find_groove(fixture, spec.name);
        const bool expected = model_groove(model, groove, commit) != NULL;
        if ((look.groove_id != 0) != expected) {
            return wrong(&look, "groove of id", look.groove_id, look.groove_id != 0, expected);
        }
        if (!expected) {
            continue;
        }
        gather_present(&look);
        if (!compare_lookups(&look) || !compare_indexes(&look)) {
            return false;
        }
    }
    return true;
}
