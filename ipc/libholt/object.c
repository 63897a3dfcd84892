/* Objects: their bytes, by field. All numbers are little-endian, as this machine's are
 * (ipc/protocol.h sees to it). */
#include <float.h>
#include <math.h>
#include <string.h>
#include <sys/random.h>

#include "ipc/libholt/internal.h"

bool holt_id_random(struct holt_id *id)
{
    do {
        if (getrandom(id, sizeof *id, 0) != (ssize_t)sizeof *id) {
            return false;
        }
    } while (id->low == 0 && id->high == 0);
    return true;
}

void holt_object_set_id(void *object, struct holt_id id)
{
    memcpy(object, &id, sizeof id);
}

struct holt_id holt_object_id(const void *object)
{
    struct holt_id id;
    memcpy(&id, object, sizeof id);
    return id;
}

static uint64_t load(const void *bytes, uint32_t size)
{
    uint64_t value = 0;
    memcpy(&value, bytes, size);
    return value;
}

uint64_t holt_object_timestamp(const void *object)
{
    return load((const uint8_t *)object + offsetof(struct wire_object_header, timestamp), 8);
}

uint64_t holt_object_version(const void *object)
{
    return load((const uint8_t *)object + offsetof(struct wire_object_header, version), 8);
}

static uint8_t *place(const struct holt_field *field, void *object)
{
    return (uint8_t *)object + field->offset;
}

static const uint8_t *const_place(const struct holt_field *field, const void *object)
{
    return (const uint8_t *)object + field->offset;
}

static bool is_unsigned(enum holt_type type)
{
    return (type >= HOLT_TYPE_U8 && type <= HOLT_TYPE_U64) || type == HOLT_TYPE_TIMESTAMP;
}

static bool is_signed(enum holt_type type)
{
    return type >= HOLT_TYPE_I8 && type <= HOLT_TYPE_I64;
}

/* The greatest value of an unsigned type, or of a signed one without its sign. */
static uint64_t greatest(const struct holt_field *field)
{
    const uint64_t all = UINT64_MAX >> (64 - 8 * field->size);
    return is_signed(field->type) ? all / 2 : all;
}

enum holt_status holt_set_unsigned(const struct holt_field *field, void *object, uint64_t value)
{
    if (field->type == HOLT_TYPE_U128) {
        return holt_set_u128(field, object, (struct holt_id){.low = value});
    }
    if (field->type == HOLT_TYPE_BOOL) {
        if (value > 1) {
            return HOLT_OUT_OF_RANGE;
        }
    } else if (!is_unsigned(field->type) && !is_signed(field->type)) {
        return HOLT_WRONG_TYPE;
    } else if (value > greatest(field)) {
        return HOLT_OUT_OF_RANGE;
    }
    memcpy(place(field, object), &value, field->size);
    return HOLT_OK;
}

enum holt_status holt_set_signed(const struct holt_field *field, void *object, int64_t value)
{
    if (value >= 0) {
        return holt_set_unsigned(field, object, (uint64_t)value);
    }
    if (!is_signed(field->type)) {
        const bool number = is_unsigned(field->type) || field->type == HOLT_TYPE_U128 ||
                            field->type == HOLT_TYPE_BOOL;
        return number ? HOLT_OUT_OF_RANGE : HOLT_WRONG_TYPE;
    }
    if (value < -(int64_t)greatest(field) - 1) {
        return HOLT_OUT_OF_RANGE;
    }
    memcpy(place(field, object), &value, field->size);
    return HOLT_OK;
}

enum holt_status holt_set_u128(const struct holt_field *field, void *object, struct holt_id value)
{
    if (field->type != HOLT_TYPE_U128) {
        return HOLT_WRONG_TYPE;
    }
    memcpy(place(field, object), &value, sizeof value);
    return HOLT_OK;
}

enum holt_status holt_set_real(const struct holt_field *field, void *object, double value)
{
    if (field->type == HOLT_TYPE_F64) {
        memcpy(place(field, object), &value, sizeof value);
        return HOLT_OK;
    }
    if (field->type != HOLT_TYPE_F32) {
        return HOLT_WRONG_TYPE;
    }
    if (isfinite(value) && fabs(value) > (double)FLT_MAX) {
        return HOLT_OUT_OF_RANGE;
    }
    const float narrow = (float)value;
    memcpy(place(field, object), &narrow, sizeof narrow);
    return HOLT_OK;
}

/* The least code point of a sequence of this many bytes. */
static const uint32_t code_least[] = {0, 0, 0x80, 0x800, 0x10000};

/* UTF-8 without NUL: no overlong forms, no surrogates, nothing past U+10FFFF. */
static bool is_text(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size;) {
        const uint8_t lead = bytes[i];
        const uint32_t count = lead < 0x80   ? 1
                               : lead < 0xc0 ? 0
                               : lead < 0xe0 ? 2
                               : lead < 0xf0 ? 3
                               : lead < 0xf8 ? 4
                                             : 0;
        if (lead == 0 || count == 0 || count > size - i) {
            return false;
        }
        uint32_t code = count == 1 ? lead : lead & (0xffu >> (count + 1));
        for (uint32_t j = 1; j < count; j++) {
            if ((bytes[i + j] & 0xc0) != 0x80) {
                return false;
            }
            code = code << 6 | (bytes[i + j] & 0x3fu);
        }
        if (code < code_least[count] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) {
            return false;
        }
        i += count;
    }
    return true;
}

enum holt_status holt_set_bytes(const struct holt_field *field, void *object, const void *bytes,
                                size_t size)
{
    if (field->type != HOLT_TYPE_BYTES && field->type != HOLT_TYPE_TEXT) {
        return HOLT_WRONG_TYPE;
    }
    if (size > field->size || (field->type == HOLT_TYPE_TEXT && !is_text(bytes, size))) {
        return HOLT_OUT_OF_RANGE;
    }
    if (size > 0) {
        memmove(place(field, object), bytes, size);
    }
    memset(place(field, object) + size, 0, field->size - size);
    return HOLT_OK;
}

enum holt_status holt_set_text(const struct holt_field *field, void *object, const char *text)
{
    return holt_set_bytes(field, object, text, strlen(text));
}

enum holt_status holt_get_unsigned(const struct holt_field *field, const void *object,
                                   uint64_t *value)
{
    *value = 0;
    if (field->type == HOLT_TYPE_U128) {
        struct holt_id wide;
        memcpy(&wide, const_place(field, object), sizeof wide);
        if (wide.high != 0) {
            return HOLT_OUT_OF_RANGE;
        }
        *value = wide.low;
        return HOLT_OK;
    }
    if (is_signed(field->type)) {
        int64_t number;
        const enum holt_status status = holt_get_signed(field, object, &number);
        if (status != HOLT_OK || number < 0) {
            return HOLT_OUT_OF_RANGE;
        }
        *value = (uint64_t)number;
        return HOLT_OK;
    }
    if (!is_unsigned(field->type) && field->type != HOLT_TYPE_BOOL) {
        return HOLT_WRONG_TYPE;
    }
    *value = load(const_place(field, object), field->size);
    return HOLT_OK;
}

enum holt_status holt_get_signed(const struct holt_field *field, const void *object, int64_t *value)
{
    *value = 0;
    if (is_signed(field->type)) {
        const uint32_t shift = 64 - 8 * field->size;
        /* Up to the sign and down again, which repeats it. */
        *value = (int64_t)(load(const_place(field, object), field->size) << shift) >> shift;
        return HOLT_OK;
    }
    uint64_t number;
    const enum holt_status status = holt_get_unsigned(field, object, &number);
    if (status != HOLT_OK) {
        return status;
    }
    if (number > INT64_MAX) {
        return HOLT_OUT_OF_RANGE;
    }
    *value = (int64_t)number;
    return HOLT_OK;
}

enum holt_status holt_get_u128(const struct holt_field *field, const void *object,
                               struct holt_id *value)
{
    *value = (struct holt_id){0};
    if (field->type != HOLT_TYPE_U128) {
        return HOLT_WRONG_TYPE;
    }
    memcpy(value, const_place(field, object), sizeof *value);
    return HOLT_OK;
}

enum holt_status holt_get_real(const struct holt_field *field, const void *object, double *value)
{
    *value = 0;
    if (field->type == HOLT_TYPE_F64) {
        memcpy(value, const_place(field, object), sizeof *value);
        return HOLT_OK;
    }
    if (field->type != HOLT_TYPE_F32) {
        return HOLT_WRONG_TYPE;
    }
    float narrow;
    memcpy(&narrow, const_place(field, object), sizeof narrow);
    *value = (double)narrow;
    return HOLT_OK;
}

enum holt_status holt_get_bytes(const struct holt_field *field, const void *object,
                                const void **bytes, size_t *size)
{
    *bytes = NULL;
    *size = 0;
    if (field->type != HOLT_TYPE_BYTES && field->type != HOLT_TYPE_TEXT) {
        return HOLT_WRONG_TYPE;
    }
    *bytes = const_place(field, object);
    *size = field->size;
    while (field->type == HOLT_TYPE_TEXT && *size > 0 &&
           const_place(field, object)[*size - 1] == 0) {
        *size -= 1;
    }
    return HOLT_OK;
}
