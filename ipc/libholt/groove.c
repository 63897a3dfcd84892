/* Grooves, and what is asked about the store as a whole. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/libholt/internal.h"

/* A call on this stack, whose reply is looked at by the caller: outcome_clear it. */
static enum holt_status ask(struct holt *holt, uint16_t operation, const void *body,
                            uint32_t body_size, uint32_t deadline_ms, struct outcome *outcome,
                            struct holt_error *error)
{
    *outcome = (struct outcome){0};
    enum holt_status status = client_check(holt, error);
    if (status != HOLT_OK) {
        return status;
    }
    struct call call;
    if (!call_init(&call, holt, false)) {
        return error_set(error, HOLT_NO_MEMORY, NULL);
    }
    call.operation = operation;
    call.body = body;
    call.body_size = body_size;
    status = call_run(&call, deadline_ms, error);
    if (status == HOLT_OK) {
        *outcome = call.outcome;
        call.outcome = (struct outcome){0};
    }
    call_deinit(&call);
    return status;
}

enum holt_status holt_ping(struct holt *holt, uint32_t deadline_ms, struct holt_error *error)
{
    struct outcome outcome;
    const enum holt_status status =
        ask(holt, OPERATION_PING, NULL, 0, deadline_ms, &outcome, error);
    outcome_clear(&outcome);
    return status;
}

enum holt_status holt_stat(struct holt *holt, uint32_t deadline_ms, char **json,
                           struct holt_error *error)
{
    struct outcome outcome;
    *json = NULL;
    enum holt_status status = ask(holt, OPERATION_STAT, NULL, 0, deadline_ms, &outcome, error);
    if (status != HOLT_OK) {
        return status;
    }
    char *text = malloc((size_t)outcome.body_size + 1);
    if (text == NULL) {
        status = error_set(error, HOLT_NO_MEMORY, NULL);
    } else {
        if (outcome.body_size > 0) {
            memcpy(text, outcome.body, outcome.body_size);
        }
        text[outcome.body_size] = 0;
        *json = text;
    }
    outcome_clear(&outcome);
    return status;
}

void holt_text_free(char *text)
{
    free(text);
}

/* ---- Making and dropping -----------------------------------------------------------------------
 */

/* False: too long, or none. What else is wrong with a name the daemon tells. */
static bool name_copy(char target[WIRE_NAME_SIZE], const char *name)
{
    memset(target, 0, WIRE_NAME_SIZE);
    if (name == NULL || strlen(name) >= WIRE_NAME_SIZE) {
        return false;
    }
    memcpy(target, name, strlen(name) + 1);
    return true;
}

static enum holt_status index_wire(const struct holt_groove_spec *spec,
                                   const struct holt_index_spec *index,
                                   struct wire_index_spec *wire, struct holt_error *error)
{
    if (!name_copy(wire->name, index->name)) {
        return error_set(error, HOLT_BAD_ARGUMENT, "a name has 1 to 31 bytes");
    }
    if (index->flags > (HOLT_INDEX_UNIQUE | HOLT_INDEX_SPARSE)) {
        return error_set(error, HOLT_BAD_ARGUMENT, "index %s: no such flags", index->name);
    }
    wire->flags = (uint8_t)index->flags;
    for (uint32_t i = 0; i < WIRE_INDEX_FIELD_COUNT_MAX && index->fields[i] != NULL; i++) {
        uint32_t position = 0;
        while (position < spec->field_count &&
               (spec->fields[position].name == NULL ||
                strcmp(spec->fields[position].name, index->fields[i]) != 0)) {
            position += 1;
        }
        if (position == spec->field_count) {
            return error_set(error, HOLT_BAD_ARGUMENT, "index %s: there is no field %.31s",
                             index->name, index->fields[i]);
        }
        wire->fields[i] = (uint8_t)position;
        wire->field_count += 1;
    }
    return HOLT_OK;
}

enum holt_status holt_groove_create(struct holt *holt, const struct holt_groove_spec *spec,
                                    uint32_t deadline_ms, struct holt_error *error)
{
    struct wire_groove_spec wire = {.field_count = spec->field_count,
                                    .index_count = spec->index_count};
    if (spec->field_count > WIRE_FIELD_COUNT_MAX || spec->index_count > WIRE_INDEX_COUNT_MAX) {
        return error_set(error, HOLT_BAD_ARGUMENT, "a groove has at most %d fields and %d indexes",
                         WIRE_FIELD_COUNT_MAX, WIRE_INDEX_COUNT_MAX);
    }
    if (!name_copy(wire.name, spec->name)) {
        return error_set(error, HOLT_BAD_ARGUMENT, "a name has 1 to 31 bytes");
    }
    for (uint32_t i = 0; i < spec->field_count; i++) {
        if (!name_copy(wire.fields[i].name, spec->fields[i].name)) {
            return error_set(error, HOLT_BAD_ARGUMENT, "a name has 1 to 31 bytes");
        }
        if ((unsigned)spec->fields[i].type > UINT8_MAX) {
            return error_set(error, HOLT_BAD_ARGUMENT, "no such type");
        }
        wire.fields[i].type = (uint8_t)spec->fields[i].type;
        wire.fields[i].size = spec->fields[i].size;
    }
    for (uint32_t i = 0; i < spec->index_count; i++) {
        const enum holt_status status =
            index_wire(spec, &spec->indexes[i], &wire.indexes[i], error);
        if (status != HOLT_OK) {
            return status;
        }
    }
    struct outcome outcome;
    const enum holt_status status =
        ask(holt, OPERATION_CREATE_GROOVE, &wire, sizeof wire, deadline_ms, &outcome, error);
    outcome_clear(&outcome);
    return status;
}

enum holt_status holt_groove_drop(struct holt *holt, const char *name, uint32_t deadline_ms,
                                  struct holt_error *error)
{
    char wire[WIRE_NAME_SIZE];
    if (!name_copy(wire, name)) {
        return error_set(error, HOLT_BAD_ARGUMENT, "a name has 1 to 31 bytes");
    }
    struct outcome outcome;
    const enum holt_status status =
        ask(holt, OPERATION_DROP_GROOVE, wire, sizeof wire, deadline_ms, &outcome, error);
    outcome_clear(&outcome);
    return status;
}

/* ---- Reading the schema ------------------------------------------------------------------------
 */

struct cursor {
    const uint8_t *bytes;
    size_t left;
};

static bool take(struct cursor *cursor, void *target, size_t size)
{
    if (cursor->left < size) {
        return false;
    }
    memcpy(target, cursor->bytes, size);
    cursor->bytes += size;
    cursor->left -= size;
    return true;
}

static bool field_usable(const struct holt_field *field, uint32_t object_size)
{
    static const uint8_t sizes[] = {0, 1, 2, 4, 8, 16, 1, 2, 4, 8, 4, 8, 1, 0, 0, 8};
    const uint32_t type = (uint32_t)field->type;
    if (type >= sizeof sizes || type == 0 || field->size == 0 || field->size > object_size ||
        field->offset > object_size - field->size) {
        return false;
    }
    return sizes[type] == 0 || sizes[type] == field->size;
}

/* False: the schema is cut short. `usable`: the groove has nothing that this library does not know.
 */
static bool take_groove(struct cursor *cursor, struct holt_groove *groove, bool *usable)
{
    struct schema_groove header;
    if (!take(cursor, &header, sizeof header)) {
        return false;
    }
    memset(groove, 0, sizeof *groove);
    memcpy(groove->name, header.name, sizeof groove->name - 1);
    groove->groove_id = header.groove_id;
    groove->object_size = header.object_size;
    groove->event_count_max = header.event_count_max;
    groove->field_count = header.field_count;
    groove->index_count = header.index_count;
    if (header.field_count > WIRE_FIELD_COUNT_MAX || header.index_count > WIRE_INDEX_COUNT_MAX) {
        return false;
    }
    *usable = header.object_size >= sizeof(struct wire_object_header);
    for (uint32_t i = 0; i < header.field_count; i++) {
        struct schema_field wire;
        if (!take(cursor, &wire, sizeof wire)) {
            return false;
        }
        struct holt_field *field = &groove->fields[i];
        memcpy(field->name, wire.name, sizeof field->name - 1);
        field->type = (enum holt_type)wire.type;
        field->size = wire.size;
        field->offset = wire.offset;
        *usable &= field_usable(field, header.object_size);
    }
    for (uint32_t i = 0; i < header.index_count; i++) {
        struct schema_index wire;
        if (!take(cursor, &wire, sizeof wire)) {
            return false;
        }
        struct holt_index *index = &groove->indexes[i];
        memcpy(index->name, wire.name, sizeof index->name - 1);
        index->field_count = wire.field_count;
        index->flags = wire.flags;
        groove->index_ids[i] = wire.index_id;
        *usable &= wire.field_count > 0 && wire.field_count <= WIRE_INDEX_FIELD_COUNT_MAX;
        for (uint32_t j = 0; j < WIRE_INDEX_FIELD_COUNT_MAX; j++) {
            index->fields[j] = wire.fields[j];
            *usable &= wire.fields[j] < header.field_count || j >= wire.field_count;
        }
    }
    return true;
}

/* Begins to read the reply to SCHEMA. False: nonsense. */
static bool schema_begin(const struct outcome *outcome, struct cursor *cursor, uint32_t *count)
{
    struct schema_reply header;
    *cursor = (struct cursor){.bytes = outcome->body, .left = outcome->body_size};
    if (!take(cursor, &header, sizeof header) ||
        header.groove_count > outcome->body_size / sizeof(struct schema_groove)) {
        return false;
    }
    *count = header.groove_count;
    return true;
}

enum holt_status holt_groove_open(struct holt *holt, const char *name, uint32_t deadline_ms,
                                  struct holt_groove **groove, struct holt_error *error)
{
    struct outcome outcome;
    *groove = NULL;
    if (name == NULL) {
        return error_set(error, HOLT_BAD_ARGUMENT, "a groove has a name");
    }
    enum holt_status status = ask(holt, OPERATION_SCHEMA, NULL, 0, deadline_ms, &outcome, error);
    if (status != HOLT_OK) {
        return status;
    }
    struct holt_groove *found = malloc(sizeof *found);
    struct cursor cursor;
    uint32_t count = 0;
    status = error_set(error, HOLT_UNKNOWN_GROOVE, "there is no groove %.100s", name);
    if (found == NULL) {
        status = error_set(error, HOLT_NO_MEMORY, NULL);
    } else if (!schema_begin(&outcome, &cursor, &count)) {
        status = error_set(error, HOLT_NOT_HOLT, "the schema cannot be read");
    }
    for (uint32_t i = 0; i < count; i++) {
        bool usable = true;
        if (!take_groove(&cursor, found, &usable)) {
            status = error_set(error, HOLT_NOT_HOLT, "the schema cannot be read");
            break;
        }
        if (strcmp(found->name, name) == 0) {
            status =
                usable ? HOLT_OK
                       : error_set(error, HOLT_NOT_SUPPORTED,
                                   "groove %.31s has fields that this library does not know", name);
            break;
        }
    }
    outcome_clear(&outcome);
    if (status == HOLT_OK) {
        *groove = found;
    } else {
        free(found);
    }
    return status;
}

void holt_groove_close(struct holt_groove *groove)
{
    free(groove);
}

enum holt_status holt_groove_names(struct holt *holt, uint32_t deadline_ms, char ***names,
                                   uint32_t *count, struct holt_error *error)
{
    struct outcome outcome;
    *names = NULL;
    *count = 0;
    enum holt_status status = ask(holt, OPERATION_SCHEMA, NULL, 0, deadline_ms, &outcome, error);
    if (status != HOLT_OK) {
        return status;
    }
    struct cursor cursor;
    uint32_t all = 0;
    if (!schema_begin(&outcome, &cursor, &all)) {
        outcome_clear(&outcome);
        return error_set(error, HOLT_NOT_HOLT, "the schema cannot be read");
    }
    /* The pointers, then the texts that they point to. */
    const size_t pointers_size = ((size_t)all + 1) * sizeof(char *);
    char **list = malloc(pointers_size + (size_t)all * WIRE_NAME_SIZE);
    if (list == NULL) {
        outcome_clear(&outcome);
        return error_set(error, HOLT_NO_MEMORY, NULL);
    }
    for (uint32_t i = 0; i < all && status == HOLT_OK; i++) {
        struct holt_groove groove;
        bool usable;
        if (!take_groove(&cursor, &groove, &usable)) {
            status = error_set(error, HOLT_NOT_HOLT, "the schema cannot be read");
        } else {
            list[i] = (char *)list + pointers_size + (size_t)i * WIRE_NAME_SIZE;
            memcpy(list[i], groove.name, WIRE_NAME_SIZE);
        }
    }
    outcome_clear(&outcome);
    if (status != HOLT_OK) {
        free(list);
        return status;
    }
    list[all] = NULL;
    *names = list;
    *count = all;
    return HOLT_OK;
}

void holt_names_free(char **names)
{
    free(names);
}

/* ---- What it is like ---------------------------------------------------------------------------
 */

const char *holt_groove_name(const struct holt_groove *groove)
{
    return groove->name;
}

uint32_t holt_groove_object_size(const struct holt_groove *groove)
{
    return groove->object_size;
}

uint32_t holt_groove_event_count_max(const struct holt_groove *groove)
{
    return groove->event_count_max;
}

uint32_t holt_groove_field_count(const struct holt_groove *groove)
{
    return groove->field_count;
}

uint32_t holt_groove_index_count(const struct holt_groove *groove)
{
    return groove->index_count;
}

const struct holt_field *holt_groove_field_at(const struct holt_groove *groove, uint32_t position)
{
    return position < groove->field_count ? &groove->fields[position] : NULL;
}

const struct holt_field *holt_groove_field(const struct holt_groove *groove, const char *name)
{
    for (uint32_t i = 0; i < groove->field_count; i++) {
        if (strcmp(groove->fields[i].name, name) == 0) {
            return &groove->fields[i];
        }
    }
    return NULL;
}

const struct holt_index *holt_groove_index_at(const struct holt_groove *groove, uint32_t position)
{
    return position < groove->index_count ? &groove->indexes[position] : NULL;
}

const struct holt_index *holt_groove_index(const struct holt_groove *groove, const char *name)
{
    for (uint32_t i = 0; i < groove->index_count; i++) {
        if (strcmp(groove->indexes[i].name, name) == 0) {
            return &groove->indexes[i];
        }
    }
    return NULL;
}
