#include "server/shape.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "engine/object.h"
#include "ipc/protocol.h"
#include "server/text.h"
#include "server/value_text.h"

enum {
    COLUMN_WIDTH_MAX = 40, /* code points */
    COLUMN_COUNT_MAX = FIELD_COUNT_MAX + 1,
};

static bool name_decode(const char *wire, char *name)
{
    memcpy(name, wire, NAME_SIZE);
    return name[NAME_SIZE - 1] == '\0' && schema_name_valid(name);
}

/* Copies the next `size` bytes of the body; false past its end. */
static bool take(const uint8_t *body, uint32_t body_size, uint32_t *offset, void *to, uint32_t size)
{
    if (body_size - *offset < size) {
        return false;
    }
    memcpy(to, body + *offset, size);
    *offset += size;
    return true;
}

static bool decode_field(const struct schema_field *wire, struct shape *shape, uint32_t field_index)
{
    struct field_spec *field = &shape->spec.fields[field_index];
    if (!name_decode(wire->name, field->name) || wire->type < FIELD_TYPE_U8 ||
        wire->type > FIELD_TYPE_TIMESTAMP) {
        return false;
    }
    field->type = wire->type;
    field->size = wire->size;
    shape->offsets[field_index] = wire->offset;
    return wire->size > 0 && wire->size <= OBJECT_SIZE_MAX && wire->size == value_size(field) &&
           wire->offset >= OBJECT_HEADER_SIZE && wire->offset <= shape->object_size &&
           wire->size <= shape->object_size - wire->offset;
}

static bool decode_index(const struct schema_index *wire, struct shape *shape, uint32_t index)
{
    struct index_spec *spec = &shape->spec.indexes[index];
    if (!name_decode(wire->name, spec->name) || wire->field_count == 0 ||
        wire->field_count > INDEX_FIELD_COUNT_MAX) {
        return false;
    }
    spec->field_count = wire->field_count;
    spec->flags = wire->flags;
    for (uint32_t i = 0; i < wire->field_count; i++) {
        if (wire->fields[i] >= shape->spec.field_count) {
            return false;
        }
        spec->fields[i] = wire->fields[i];
    }
    shape->index_ids[index] = wire->index_id;
    return true;
}

bool shape_decode(const uint8_t *body, uint32_t body_size, uint32_t *offset, struct shape *shape)
{
    assert(*offset <= body_size);

    *shape = (struct shape){0};
    struct schema_groove groove;
    if (!take(body, body_size, offset, &groove, sizeof groove) ||
        !name_decode(groove.name, shape->spec.name) || groove.field_count > FIELD_COUNT_MAX ||
        groove.index_count > INDEX_COUNT_MAX || groove.object_size < OBJECT_SIZE_MIN ||
        groove.object_size > OBJECT_SIZE_MAX || groove.event_count_max == 0) {
        return false;
    }
    shape->groove_id = groove.groove_id;
    shape->object_size = groove.object_size;
    shape->event_max = groove.event_count_max;
    shape->object_count = groove.object_count;
    shape->spec.field_count = groove.field_count;
    shape->spec.index_count = groove.index_count;
    for (uint32_t i = 0; i < groove.field_count; i++) {
        struct schema_field field;
        if (!take(body, body_size, offset, &field, sizeof field) ||
            !decode_field(&field, shape, i)) {
            return false;
        }
    }
    for (uint32_t i = 0; i < groove.index_count; i++) {
        struct schema_index index;
        if (!take(body, body_size, offset, &index, sizeof index) ||
            !decode_index(&index, shape, i)) {
            return false;
        }
    }
    return true;
}

int shape_field(const struct shape *shape, const char *name, size_t name_size)
{
    for (uint32_t i = 0; i < shape->spec.field_count; i++) {
        const char *field_name = shape->spec.fields[i].name;
        if (strlen(field_name) == name_size && memcmp(field_name, name, name_size) == 0) {
            return (int)i;
        }
    }
    return -1;
}

/* Whether the index's fields are those of `where`; terms[i] is then the term of its i-th field. */
static bool index_fits(const struct shape *shape, const struct index_spec *index,
                       const struct where *where, const struct where_term **terms)
{
    if (index->field_count != where->term_count) {
        return false;
    }
    for (uint32_t i = 0; i < index->field_count; i++) {
        terms[i] = NULL;
        for (uint32_t term = 0; term < where->term_count; term++) {
            if (strcmp(where->terms[term].name, shape->spec.fields[index->fields[i]].name) == 0) {
                terms[i] = &where->terms[term];
            }
        }
        if (terms[i] == NULL) {
            return false;
        }
    }
    return true;
}

static void describe_indexes(const struct shape *shape, char *error)
{
    size_t size =
        (size_t)snprintf(error, SCHEMA_TEXT_ERROR_SIZE,
                         "no index of '%s' covers exactly these fields; it has:", shape->spec.name);
    for (uint32_t i = 0; i < shape->spec.index_count; i++) {
        const struct index_spec *index = &shape->spec.indexes[i];
        size +=
            (size_t)snprintf(error + size, SCHEMA_TEXT_ERROR_SIZE - size, "\n  %s (", index->name);
        for (uint32_t field = 0; field < index->field_count; field++) {
            if (size >= SCHEMA_TEXT_ERROR_SIZE) {
                return;
            }
            size += (size_t)snprintf(error + size, SCHEMA_TEXT_ERROR_SIZE - size, "%s%s",
                                     field > 0 ? ", " : "",
                                     shape->spec.fields[index->fields[field]].name);
        }
        if (size + 2 > SCHEMA_TEXT_ERROR_SIZE) {
            return;
        }
        error[size++] = ')';
        error[size] = '\0';
    }
    if (shape->spec.index_count == 0) {
        snprintf(error + size, SCHEMA_TEXT_ERROR_SIZE - size, " none");
    }
}

int shape_query_key(const struct shape *shape, const struct where *where, uint8_t *key,
                    uint32_t *key_size, char *error)
{
    assert(where->term_count > 0);

    for (uint32_t i = 0; i < where->term_count; i++) {
        const char *name = where->terms[i].name;
        if (shape_field(shape, name, strlen(name)) < 0) {
            snprintf(error, SCHEMA_TEXT_ERROR_SIZE, "'%s' has no field '%s'; %s", shape->spec.name,
                     name,
                     strcmp(name, "id") == 0 ? "'holt get' finds objects by their ids"
                                             : "'holt stat' lists its fields");
            return -1;
        }
    }
    for (uint32_t i = 0; i < shape->spec.index_count; i++) {
        const struct index_spec *index = &shape->spec.indexes[i];
        const struct where_term *terms[INDEX_FIELD_COUNT_MAX];
        if (!index_fits(shape, index, where, terms)) {
            continue;
        }
        *key_size = 0;
        for (uint32_t field_index = 0; field_index < index->field_count; field_index++) {
            const struct field_spec *field = &shape->spec.fields[index->fields[field_index]];
            const struct where_term *term = terms[field_index];
            char reason[256];
            assert(*key_size + value_size(field) <= QUERY_KEY_SIZE_MAX);
            if (!value_parse(field, term->value, term->value_size, key + *key_size, reason,
                             sizeof reason)) {
                snprintf(error, SCHEMA_TEXT_ERROR_SIZE, "'%s' = '%.60s': %s", field->name,
                         term->value, reason);
                return -1;
            }
            *key_size += value_size(field);
        }
        return (int)i;
    }
    describe_indexes(shape, error);
    return -1;
}

void shape_object_json(const struct shape *shape, const uint8_t *image, struct json_writer *writer)
{
    static const struct field_spec timestamp = {.type = FIELD_TYPE_TIMESTAMP};
    char id[ID_TEXT_SIZE];

    json_object_begin(writer, NULL);
    id_format(image, id);
    json_text(writer, "id", id, sizeof id);
    value_json(&timestamp, "timestamp", image + ID_SIZE, writer);
    json_u64(writer, "version", load_u64_le(image + ID_SIZE + 8));
    for (uint32_t i = 0; i < shape->spec.field_count; i++) {
        const struct field_spec *field = &shape->spec.fields[i];
        value_json(field, field->name, image + shape->offsets[i], writer);
    }
    json_object_end(writer);
}

/* The text of column 0 (the id) or of field column - 1; text has VALUE_TEXT_SIZE bytes. Cut to
 * COLUMN_WIDTH_MAX code points; returns how many it has. */
static size_t cell_text(const struct shape *shape, const uint8_t *image, uint32_t column,
                        char *text)
{
    if (column == 0) {
        id_format(image, text);
    } else {
        value_format(&shape->spec.fields[column - 1], image + shape->offsets[column - 1], text);
    }
    size_t count = 0;
    for (char *at = text; *at != '\0'; at++) {
        if (((unsigned char)*at & 0xc0) == 0x80) {
            continue;
        }
        if (count == COLUMN_WIDTH_MAX) {
            *at = '\0';
            break;
        }
        if ((unsigned char)*at < 0x20 || *at == 0x7f) {
            *at = '?';
        }
        count += 1;
    }
    return count;
}

void shape_objects_table(const struct shape *shape, const uint8_t *images, uint32_t count,
                         FILE *file)
{
    const uint32_t column_count = shape->spec.field_count + 1;
    size_t widths[COLUMN_COUNT_MAX];
    char text[VALUE_TEXT_SIZE];

    for (uint32_t column = 0; column < column_count; column++) {
        widths[column] = column == 0 ? strlen("id") : strlen(shape->spec.fields[column - 1].name);
        for (uint32_t row = 0; row < count; row++) {
            const size_t width =
                cell_text(shape, images + (size_t)row * shape->object_size, column, text);
            widths[column] = width > widths[column] ? width : widths[column];
        }
    }
    for (uint32_t column = 0; column < column_count; column++) {
        const char *name = column == 0 ? "id" : shape->spec.fields[column - 1].name;
        fprintf(file, "%s%s%*s", column > 0 ? "  " : "", name,
                column + 1 < column_count ? (int)(widths[column] - strlen(name)) : 0, "");
    }
    fputc('\n', file);
    for (uint32_t row = 0; row < count; row++) {
        for (uint32_t column = 0; column < column_count; column++) {
            const size_t width =
                cell_text(shape, images + (size_t)row * shape->object_size, column, text);
            fprintf(file, "%s%s%*s", column > 0 ? "  " : "", text,
                    column + 1 < column_count ? (int)(widths[column] - width) : 0, "");
        }
        fputc('\n', file);
    }
}
