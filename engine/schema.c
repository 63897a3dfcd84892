#include "engine/schema.h"

#include <stdio.h>
#include <string.h>

#include "engine/object.h"

/* Every type, by its number. Numbers have a size of their own; that of bytes and text is chosen. */
struct type_info {
    const char *name;
    uint32_t size; /* bytes; 0 = chosen by the field */
    uint32_t alignment;
};

static const struct type_info types[] = {
    [FIELD_TYPE_U8] = {"u8", 1, 1},
    [FIELD_TYPE_U16] = {"u16", 2, 2},
    [FIELD_TYPE_U32] = {"u32", 4, 4},
    [FIELD_TYPE_U64] = {"u64", 8, 8},
    [FIELD_TYPE_U128] = {"u128", 16, 8},
    [FIELD_TYPE_I8] = {"i8", 1, 1},
    [FIELD_TYPE_I16] = {"i16", 2, 2},
    [FIELD_TYPE_I32] = {"i32", 4, 4},
    [FIELD_TYPE_I64] = {"i64", 8, 8},
    [FIELD_TYPE_F32] = {"f32", 4, 4},
    [FIELD_TYPE_F64] = {"f64", 8, 8},
    [FIELD_TYPE_BOOL] = {"bool", 1, 1},
    [FIELD_TYPE_BYTES] = {"bytes", 0, 1},
    [FIELD_TYPE_TEXT] = {"text", 0, 1},
    [FIELD_TYPE_TIMESTAMP] = {"timestamp", 8, 8},
};

enum {
    VARIABLE_SIZE_MAX = OBJECT_SIZE_MAX - OBJECT_HEADER_SIZE, /* of one bytes or text field */
    /* Events of one batch are at most this part of a table, so that a memory table that takes one
     * more batch than it should is still near its size. */
    TABLE_BATCHES_MIN = 8,
    OBJECTS_PER_BLOCK_MIN = 4, /* block header included */
};

/* ---- Checking a spec: every byte of it comes from a client ------------------------------------
 */

static bool name_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool name_valid(const char name[NAME_SIZE])
{
    if (!name_letter(name[0]) || name[NAME_SIZE - 1] != '\0') {
        return false;
    }
    uint32_t size = 1;
    while (name_letter(name[size]) || (name[size] >= '0' && name[size] <= '9')) {
        size += 1;
    }
    for (uint32_t i = size; i < NAME_SIZE; i++) {
        if (name[i] != '\0') {
            return false;
        }
    }
    return true;
}

static bool name_reserved(const char *name)
{
    return strcmp(name, "id") == 0 || strcmp(name, "timestamp") == 0 ||
           strcmp(name, "version") == 0;
}

static bool is_zero(const void *bytes, size_t size)
{
    const uint8_t *byte = bytes;
    for (size_t i = 0; i < size; i++) {
        if (byte[i] != 0) {
            return false;
        }
    }
    return true;
}

static bool has_chosen_size(uint8_t type)
{
    return type == FIELD_TYPE_BYTES || type == FIELD_TYPE_TEXT;
}

static uint32_t field_size(const struct field_spec *field)
{
    return has_chosen_size(field->type) ? field->size : types[field->type].size;
}

/* Fields before `position` are valid. */
static bool check_field(const struct groove_spec *spec, uint32_t position, char *reason,
                        size_t reason_size)
{
    const struct field_spec *field = &spec->fields[position];
    if (!name_valid(field->name)) {
        snprintf(reason, reason_size,
                 "the name of field %u is not valid: use a letter or '_', then letters, digits and "
                 "'_', at most %d bytes, zero padded",
                 position + 1, NAME_SIZE - 1);
        return false;
    }
    if (name_reserved(field->name)) {
        snprintf(reason, reason_size,
                 "field name '%s' is reserved: every object has an id, a timestamp and a version; "
                 "choose another name",
                 field->name);
        return false;
    }
    for (uint32_t i = 0; i < position; i++) {
        if (strcmp(spec->fields[i].name, field->name) == 0) {
            snprintf(reason, reason_size, "field '%s' is given twice: rename or leave out one",
                     field->name);
            return false;
        }
    }
    if (field->type == 0 || field->type >= array_count(types)) {
        snprintf(reason, reason_size,
                 "field '%s' has the unknown type %u: use one of the types %d to %d", field->name,
                 field->type, FIELD_TYPE_U8, FIELD_TYPE_TIMESTAMP);
        return false;
    }
    if (!is_zero(field->zero, sizeof field->zero)) {
        snprintf(reason, reason_size, "reserved bytes of field '%s' are not zero: set them to 0",
                 field->name);
        return false;
    }
    if (has_chosen_size(field->type)) {
        if (field->size < 1 || field->size > VARIABLE_SIZE_MAX) {
            snprintf(reason, reason_size,
                     "field '%s' has a size of %u bytes: %s takes 1 to %d bytes", field->name,
                     field->size, types[field->type].name, VARIABLE_SIZE_MAX);
            return false;
        }
    } else if (field->size != 0 && field->size != types[field->type].size) {
        snprintf(reason, reason_size,
                 "field '%s' has a size of %u bytes, but %s always has %u: give 0 or %u",
                 field->name, field->size, types[field->type].name, types[field->type].size,
                 types[field->type].size);
        return false;
    }
    return true;
}

/* Indexes before `position` and all fields are valid. */
static bool check_index(const struct groove_spec *spec, uint32_t position, char *reason,
                        size_t reason_size)
{
    const struct index_spec *index = &spec->indexes[position];
    if (!name_valid(index->name)) {
        snprintf(reason, reason_size,
                 "the name of index %u is not valid: use a letter or '_', then letters, digits and "
                 "'_', at most %d bytes, zero padded",
                 position + 1, NAME_SIZE - 1);
        return false;
    }
    if (name_reserved(index->name)) {
        snprintf(reason, reason_size,
                 "index name '%s' is reserved: ids and timestamps are always indexed; choose "
                 "another name",
                 index->name);
        return false;
    }
    for (uint32_t i = 0; i < position; i++) {
        if (strcmp(spec->indexes[i].name, index->name) == 0) {
            snprintf(reason, reason_size, "index '%s' is given twice: rename or leave out one",
                     index->name);
            return false;
        }
    }
    if (index->field_count < 1 || index->field_count > INDEX_FIELD_COUNT_MAX) {
        snprintf(reason, reason_size, "index '%s' has %u fields: give it 1 to %d", index->name,
                 index->field_count, INDEX_FIELD_COUNT_MAX);
        return false;
    }
    if ((index->flags & ~(INDEX_FLAG_UNIQUE | INDEX_FLAG_SPARSE)) != 0) {
        snprintf(reason, reason_size,
                 "index '%s' has unknown flags (0x%02x): use unique (1), sparse (2) or both",
                 index->name, index->flags);
        return false;
    }
    const uint32_t unused = INDEX_FIELD_COUNT_MAX - index->field_count;
    if (!is_zero(index->zero, sizeof index->zero) ||
        !is_zero(index->fields + index->field_count, unused)) {
        snprintf(reason, reason_size, "unused bytes of index '%s' are not zero: set them to 0",
                 index->name);
        return false;
    }
    for (uint32_t i = 0; i < index->field_count; i++) {
        if (index->fields[i] >= spec->field_count) {
            snprintf(reason, reason_size,
                     "index '%s' names field %u, but the groove has %u fields (counted from 0)",
                     index->name, index->fields[i], spec->field_count);
            return false;
        }
        for (uint32_t j = 0; j < i; j++) {
            if (index->fields[i] == index->fields[j]) {
                snprintf(reason, reason_size, "index '%s' names field '%s' twice: leave out one",
                         index->name, spec->fields[index->fields[i]].name);
                return false;
            }
        }
    }
    return true;
}

/* ---- Deriving ---------------------------------------------------------------------------------
 */

static bool layout_fields(const struct geometry *geometry, struct groove_schema *schema,
                          char *reason, size_t reason_size)
{
    uint64_t offset = OBJECT_HEADER_SIZE;
    for (uint32_t i = 0; i < schema->spec.field_count; i++) {
        const struct field_spec *field = &schema->spec.fields[i];
        offset = align_up(offset, types[field->type].alignment);
        schema->fields[i] =
            (struct field_layout){.offset = (uint32_t)offset, .size = field_size(field)};
        offset += schema->fields[i].size;
    }
    const uint64_t object_size = align_up(offset, 8);
    const uint64_t object_size_max =
        min_u64(OBJECT_SIZE_MAX, geometry->block_size / OBJECTS_PER_BLOCK_MIN);
    if (object_size > object_size_max) {
        snprintf(reason, reason_size,
                 "an object would have %llu bytes, but a store with blocks of %u bytes takes at "
                 "most %llu: make fields smaller or fewer, or format with larger blocks",
                 (unsigned long long)object_size, geometry->block_size,
                 (unsigned long long)object_size_max);
        return false;
    }
    schema->object_size = (uint32_t)object_size;
    assert(schema->object_size >= OBJECT_SIZE_MIN);
    return true;
}

static bool layout_index(struct groove_schema *schema, uint32_t position, char *reason,
                         size_t reason_size)
{
    const struct index_spec *index = &schema->spec.indexes[position];
    bool exact = true;
    uint32_t used = 0;
    for (uint32_t i = 0; i < index->field_count; i++) {
        const struct field_spec *field = &schema->spec.fields[index->fields[i]];
        const uint32_t room = INDEX_PREFIX_SIZE_MAX - used;
        const uint32_t size = field_size(field);
        if (size <= room) {
            used += size;
            continue;
        }
        const bool may_be_cut = i + 1 == index->field_count && has_chosen_size(field->type);
        if (!may_be_cut || room == 0) {
            snprintf(
                reason, reason_size,
                "the fields of index '%s' have more than %d bytes together: leave out '%s', or "
                "put one text or bytes field last, of which the bytes that fit are indexed",
                index->name, INDEX_PREFIX_SIZE_MAX, field->name);
            return false;
        }
        used = INDEX_PREFIX_SIZE_MAX;
        exact = false;
    }
    const bool unique = schema_index_unique(schema, position);
    if (!exact && unique) {
        snprintf(reason, reason_size,
                 "index '%s' cannot be unique: only %d bytes of its fields are indexed; make the "
                 "last field shorter or drop the flag",
                 index->name, INDEX_PREFIX_SIZE_MAX);
        return false;
    }
    assert(used >= 1 && used <= INDEX_PREFIX_SIZE_MAX);
    schema->indexes[position] = (struct index_layout){
        .prefix_size = (uint8_t)align_up(used, 8),
        .value_size = (uint8_t)used,
        .key_size = (uint8_t)(align_up(used, 8) + (unique ? 0 : 8)),
        .exact = exact,
    };
    return true;
}

static bool derive_limits(const struct geometry *geometry, struct groove_schema *schema,
                          char *reason, size_t reason_size)
{
    uint64_t entry_size = schema->object_size + ID_VALUE_SIZE; /* of one object, over all trees */
    uint64_t value_max = min_u64(table_value_max(geometry, 8, schema->object_size),
                                 table_value_max(geometry, ID_SIZE, ID_VALUE_SIZE));
    for (uint32_t i = 0; i < schema->spec.index_count; i++) {
        const uint32_t index_entry_size = schema_index_entry_size(schema, i);
        value_max = min_u64(
            value_max, table_value_max(geometry, schema->indexes[i].key_size, index_entry_size));
        entry_size += index_entry_size;
    }
    /* No larger than what one bar brings when all of it is this groove's, and a batch: a table that
     * bars fill by half would make levels of half tables. */
    value_max = min_u64(value_max,
                        geometry->bar_memory_size / entry_size + 2ull * geometry->batch_event_max);
    schema->table_value_max = (uint32_t)value_max;
    schema->event_max = (uint32_t)min_u64(geometry->batch_event_max, value_max / TABLE_BATCHES_MIN);
    if (schema->event_max < 1) {
        snprintf(reason, reason_size,
                 "a table would hold %u objects of %u bytes, too few for a batch: make objects "
                 "smaller, or format with larger blocks",
                 schema->table_value_max, schema->object_size);
        return false;
    }
    return true;
}

enum status schema_build(const struct geometry *geometry, const struct groove_spec *spec,
                         struct groove_schema *schema, char *reason, size_t reason_size)
{
    assert(geometry != NULL && spec != NULL && schema != NULL);
    assert(reason != NULL && reason_size > 0);
    reason[0] = '\0';

    if (!name_valid(spec->name)) {
        snprintf(reason, reason_size,
                 "the groove's name is not valid: use a letter or '_', then letters, digits and "
                 "'_', at most %d bytes, zero padded",
                 NAME_SIZE - 1);
        return STATUS_INVALID;
    }
    if (spec->field_count > FIELD_COUNT_MAX) {
        snprintf(reason, reason_size, "%u fields are too many: a groove has at most %d",
                 spec->field_count, FIELD_COUNT_MAX);
        return STATUS_INVALID;
    }
    if (spec->index_count > INDEX_COUNT_MAX) {
        snprintf(reason, reason_size, "%u indexes are too many: a groove has at most %d",
                 spec->index_count, INDEX_COUNT_MAX);
        return STATUS_INVALID;
    }
    const uint32_t fields_unused = FIELD_COUNT_MAX - spec->field_count;
    const uint32_t indexes_unused = INDEX_COUNT_MAX - spec->index_count;
    if (!is_zero(spec->fields + spec->field_count, fields_unused * sizeof spec->fields[0]) ||
        !is_zero(spec->indexes + spec->index_count, indexes_unused * sizeof spec->indexes[0])) {
        snprintf(reason, reason_size,
                 "bytes behind the last field or index are not zero: set them to 0");
        return STATUS_INVALID;
    }
    for (uint32_t i = 0; i < spec->field_count; i++) {
        if (!check_field(spec, i, reason, reason_size)) {
            return STATUS_INVALID;
        }
    }
    for (uint32_t i = 0; i < spec->index_count; i++) {
        if (!check_index(spec, i, reason, reason_size)) {
            return STATUS_INVALID;
        }
    }

    *schema = (struct groove_schema){.spec = *spec};
    if (!layout_fields(geometry, schema, reason, reason_size)) {
        return STATUS_INVALID;
    }
    for (uint32_t i = 0; i < spec->index_count; i++) {
        if (!layout_index(schema, i, reason, reason_size)) {
            return STATUS_INVALID;
        }
    }
    if (!derive_limits(geometry, schema, reason, reason_size)) {
        return STATUS_INVALID;
    }
    assert(schema->object_size % 8 == 0);
    assert(schema->table_value_max >= TABLE_BATCHES_MIN * schema->event_max);
    return STATUS_OK;
}

/* ---- Names and types --------------------------------------------------------------------------
 */

int schema_field(const struct groove_schema *schema, const char *name)
{
    for (uint32_t i = 0; i < schema->spec.field_count; i++) {
        if (strcmp(schema->spec.fields[i].name, name) == 0) {
            return (int)i;
        }
    }
    return -1;
}

int schema_index(const struct groove_schema *schema, const char *name)
{
    for (uint32_t i = 0; i < schema->spec.index_count; i++) {
        if (strcmp(schema->spec.indexes[i].name, name) == 0) {
            return (int)i;
        }
    }
    return -1;
}

void field_type_format(const struct field_spec *field, char *text, size_t text_size)
{
    assert(field->type > 0 && field->type < array_count(types));
    if (has_chosen_size(field->type)) {
        snprintf(text, text_size, "%s<%u>", types[field->type].name, field->size);
    } else {
        snprintf(text, text_size, "%s", types[field->type].name);
    }
}

/* "<100>" -> 100; 0: not of this form. At most 9 digits: what is too large is refused by
 * schema_build, which says why. */
static uint32_t parse_size(const char *text)
{
    if (text[0] != '<' || text[1] < '1' || text[1] > '9') {
        return 0;
    }
    uint32_t size = 0;
    uint32_t offset = 1;
    while (offset <= 9 && text[offset] >= '0' && text[offset] <= '9') {
        size = size * 10 + (uint32_t)(text[offset] - '0');
        offset += 1;
    }
    return strcmp(text + offset, ">") == 0 ? size : 0;
}

bool field_type_parse(const char *text, struct field_spec *field)
{
    for (uint8_t type = FIELD_TYPE_U8; type < (uint8_t)array_count(types); type++) {
        const size_t name_size = strlen(types[type].name);
        uint32_t size = 0;
        if (!has_chosen_size(type)) {
            size = strcmp(text, types[type].name) == 0 ? types[type].size : 0;
        } else if (strncmp(text, types[type].name, name_size) == 0) {
            size = parse_size(text + name_size);
        }
        if (size > 0) {
            field->type = type;
            field->size = size;
            return true;
        }
    }
    return false;
}

/* ---- Keys -------------------------------------------------------------------------------------
 */

/* Writes `size` bytes (at most the field's own size) that sort as the field's values do. */
static void key_write_field(uint8_t *key, const uint8_t *bytes, uint8_t type, uint32_t size)
{
    if (has_chosen_size(type)) {
        memcpy(key, bytes, size);
        return;
    }
    assert(size == types[type].size); /* Only bytes and text are ever cut. */
    for (uint32_t i = 0; i < size; i++) {
        key[i] = bytes[size - 1 - i];
    }
    switch (type) {
    case FIELD_TYPE_I8:
    case FIELD_TYPE_I16:
    case FIELD_TYPE_I32:
    case FIELD_TYPE_I64:
        key[0] ^= 0x80; /* Negative numbers come first. */
        break;
    case FIELD_TYPE_F32:
    case FIELD_TYPE_F64: {
        /* IEEE 754 total order: a larger magnitude comes later among positive numbers, and
         * earlier among negative ones. */
        const bool negative = (key[0] & 0x80) != 0;
        for (uint32_t i = 0; i < size; i++) {
            key[i] = negative ? (uint8_t)~key[i] : key[i];
        }
        key[0] ^= negative ? 0 : 0x80;
        break;
    }
    default:
        break;
    }
}

/* One field of an index into a prefix of which *used bytes are filled. */
static void prefix_add_field(const struct groove_schema *schema, uint32_t index, uint32_t field,
                             const uint8_t *bytes, uint8_t *prefix, uint32_t *used)
{
    const uint32_t room = schema->indexes[index].value_size - *used;
    const uint32_t size = (uint32_t)min_u64(schema->fields[field].size, room);
    key_write_field(prefix + *used, bytes, schema->spec.fields[field].type, size);
    *used += size;
}

bool schema_index_key(const struct groove_schema *schema, uint32_t index, const uint8_t *image,
                      uint64_t timestamp, uint8_t *key)
{
    assert(index < schema->spec.index_count);
    assert((timestamp >> 63) == 0); /* The top bit is the tombstone's. */
    const struct index_spec *spec = &schema->spec.indexes[index];
    const struct index_layout *layout = &schema->indexes[index];

    const struct field_layout *first = &schema->fields[spec->fields[0]];
    if ((spec->flags & INDEX_FLAG_SPARSE) != 0 && is_zero(image + first->offset, first->size)) {
        return false;
    }
    uint32_t used = 0;
    for (uint32_t i = 0; i < spec->field_count; i++) {
        const uint32_t field = spec->fields[i];
        prefix_add_field(schema, index, field, image + schema->fields[field].offset, key, &used);
    }
    assert(used == layout->value_size);
    memset(key + used, 0, layout->prefix_size - used);
    store_u64_be(key + layout->prefix_size, timestamp);
    return true;
}

void schema_index_prefix(const struct groove_schema *schema, uint32_t index, const uint8_t *values,
                         uint8_t *prefix)
{
    assert(index < schema->spec.index_count);
    const struct index_spec *spec = &schema->spec.indexes[index];
    const struct index_layout *layout = &schema->indexes[index];

    uint32_t used = 0;
    for (uint32_t i = 0; i < spec->field_count; i++) {
        const uint32_t field = spec->fields[i];
        prefix_add_field(schema, index, field, values, prefix, &used);
        values += schema->fields[field].size;
    }
    assert(used == layout->value_size);
    memset(prefix + used, 0, layout->prefix_size - used);
}

uint32_t schema_index_values_size(const struct groove_schema *schema, uint32_t index)
{
    assert(index < schema->spec.index_count);
    const struct index_spec *spec = &schema->spec.indexes[index];
    uint32_t size = 0;
    for (uint32_t i = 0; i < spec->field_count; i++) {
        size += schema->fields[spec->fields[i]].size;
    }
    return size;
}

bool schema_index_matches(const struct groove_schema *schema, uint32_t index, const uint8_t *image,
                          const uint8_t *values)
{
    assert(index < schema->spec.index_count);
    const struct index_spec *spec = &schema->spec.indexes[index];
    for (uint32_t i = 0; i < spec->field_count; i++) {
        const struct field_layout *field = &schema->fields[spec->fields[i]];
        if (memcmp(image + field->offset, values, field->size) != 0) {
            return false;
        }
        values += field->size;
    }
    return true;
}

/* ---- Values -----------------------------------------------------------------------------------
 */

/* Bytes of the UTF-8 sequence at `text`, of which `size` > 0 bytes may be read; 0 = not valid.
 * The ranges are those of the Unicode standard, table 3-7: no overlong forms, no surrogates,
 * nothing past U+10FFFF. */
static uint32_t utf8_sequence(const uint8_t *text, uint32_t size)
{
    const uint8_t lead = text[0];
    if (lead < 0x80) {
        return 1;
    }
    if (lead < 0xC2 || lead > 0xF4) {
        return 0;
    }
    const uint32_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (length > size) {
        return 0;
    }
    const uint8_t second_min = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const uint8_t second_max = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (text[1] < second_min || text[1] > second_max) {
        return 0;
    }
    for (uint32_t i = 2; i < length; i++) {
        if ((text[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    return length;
}

static bool text_valid(const uint8_t *text, uint32_t size)
{
    uint32_t offset = 0;
    while (offset < size && text[offset] != 0) {
        const uint32_t length = utf8_sequence(text + offset, size - offset);
        if (length == 0) {
            return false;
        }
        offset += length;
    }
    return is_zero(text + offset, size - offset);
}

bool schema_image_valid(const struct groove_schema *schema, const uint8_t *image)
{
    uint32_t end = OBJECT_HEADER_SIZE;
    for (uint32_t i = 0; i < schema->spec.field_count; i++) {
        const struct field_layout *field = &schema->fields[i];
        const uint8_t *bytes = image + field->offset;
        if (!is_zero(image + end, field->offset - end)) {
            return false;
        }
        const uint8_t type = schema->spec.fields[i].type;
        if (type == FIELD_TYPE_BOOL && bytes[0] > 1) {
            return false;
        }
        if (type == FIELD_TYPE_TEXT && !text_valid(bytes, field->size)) {
            return false;
        }
        end = field->offset + field->size;
    }
    assert(end <= schema->object_size);
    return is_zero(image + end, schema->object_size - end);
}
