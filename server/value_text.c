#include "server/value_text.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pool/base.h"
#include "server/text.h"

enum { NUMBER_TEXT_MAX = 400 }; /* bytes; the longest exact double has some 320 */

static const uint64_t ns_per_second = 1000ull * 1000 * 1000;

uint32_t value_size(const struct field_spec *field)
{
    switch ((enum field_type)field->type) {
    case FIELD_TYPE_U8:
    case FIELD_TYPE_I8:
    case FIELD_TYPE_BOOL:
        return 1;
    case FIELD_TYPE_U16:
    case FIELD_TYPE_I16:
        return 2;
    case FIELD_TYPE_U32:
    case FIELD_TYPE_I32:
    case FIELD_TYPE_F32:
        return 4;
    case FIELD_TYPE_U64:
    case FIELD_TYPE_I64:
    case FIELD_TYPE_F64:
    case FIELD_TYPE_TIMESTAMP:
        return 8;
    case FIELD_TYPE_U128:
        return 16;
    case FIELD_TYPE_BYTES:
    case FIELD_TYPE_TEXT:
        return field->size;
    }
    assert(false && "field type");
    return 0;
}

static uint64_t load_word(const uint8_t *value, uint32_t size)
{
    uint64_t word = 0;
    assert(size <= sizeof word);
    memcpy(&word, value, size);
    return word;
}

static int64_t load_signed(const uint8_t *value, uint32_t size)
{
    const uint32_t shift = 64 - 8 * size;
    return (int64_t)(load_word(value, size) << shift) >> shift;
}

static int digit_of(char character)
{
    if (character >= '0' && character <= '9') {
        return character - '0';
    }
    if (character >= 'a' && character <= 'f') {
        return character - 'a' + 10;
    }
    if (character >= 'A' && character <= 'F') {
        return character - 'A' + 10;
    }
    return -1;
}

static bool parse_digits(const char *text, size_t size, unsigned base, u128 *result)
{
    if (size == 0) {
        return false;
    }
    const u128 value_max = ~(u128)0;
    u128 value = 0;
    for (size_t i = 0; i < size; i++) {
        const int digit = digit_of(text[i]);
        if (digit < 0 || (unsigned)digit >= base) {
            return false;
        }
        if (value > (value_max - (unsigned)digit) / base) {
            return false;
        }
        value = value * base + (unsigned)digit;
    }
    *result = value;
    return true;
}

static bool parse_uuid(const char *text, u128 *result)
{
    char digits[32];
    size_t count = 0;
    for (size_t i = 0; i < 36; i++) {
        if (i == 8 || i == 13 || i == 18 || i == 23) {
            if (text[i] != '-') {
                return false;
            }
        } else {
            digits[count++] = text[i];
        }
    }
    return parse_digits(digits, sizeof digits, 16, result);
}

static bool parse_u128(const char *text, size_t size, u128 *result)
{
    if (size > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
        return parse_digits(text + 2, size - 2, 16, result);
    }
    if (size == 36) {
        return parse_uuid(text, result);
    }
    return parse_digits(text, size, 10, result);
}

bool id_parse(const char *text, size_t text_size, uint8_t id[16])
{
    u128 value;
    if (!parse_u128(text, text_size, &value)) {
        return false;
    }
    memcpy(id, &value, sizeof value);
    return true;
}

void id_format(const uint8_t id[16], char text[ID_TEXT_SIZE])
{
    u128 value;
    memcpy(&value, id, sizeof value);
    const uint64_t high = (uint64_t)(value >> 64);
    const uint64_t low = (uint64_t)value;
    if (high == 0) {
        snprintf(text, ID_TEXT_SIZE, "%" PRIu64, low);
    } else {
        snprintf(text, ID_TEXT_SIZE, "0x%016" PRIx64 "%016" PRIx64, high, low);
    }
}

/* Digits, "-", "T" and friends: reads exactly `count` digits into *number. */
static bool take_number(const char **at, const char *end, size_t count, int *number)
{
    u128 value;
    if ((size_t)(end - *at) < count || !parse_digits(*at, count, 10, &value)) {
        return false;
    }
    *at += count;
    *number = (int)value;
    return true;
}

static bool take_character(const char **at, const char *end, const char *accepted)
{
    if (*at < end && **at != '\0' && strchr(accepted, **at) != NULL) {
        *at += 1;
        return true;
    }
    return false;
}

static bool parse_timestamp(const char *text, size_t size, uint64_t *result)
{
    u128 value;
    if (parse_digits(text, size, 10, &value)) {
        *result = (uint64_t)value;
        return value <= UINT64_MAX;
    }
    const char *at = text;
    const char *end = text + size;
    struct tm time = {0};
    if (!take_number(&at, end, 4, &time.tm_year) || !take_character(&at, end, "-") ||
        !take_number(&at, end, 2, &time.tm_mon) || !take_character(&at, end, "-") ||
        !take_number(&at, end, 2, &time.tm_mday)) {
        return false;
    }
    uint64_t ns = 0;
    if (take_character(&at, end, "Tt ")) {
        if (!take_number(&at, end, 2, &time.tm_hour) || !take_character(&at, end, ":") ||
            !take_number(&at, end, 2, &time.tm_min) || !take_character(&at, end, ":") ||
            !take_number(&at, end, 2, &time.tm_sec)) {
            return false;
        }
        if (take_character(&at, end, ".")) {
            uint64_t unit = ns_per_second;
            int digit;
            if (!take_number(&at, end, 1, &digit)) {
                return false;
            }
            do {
                unit /= 10;
                ns += unit * (uint64_t)digit;
            } while (unit > 1 && take_number(&at, end, 1, &digit));
        }
    }
    take_character(&at, end, "Zz");
    if (at != end) {
        return false;
    }
    time.tm_year -= 1900;
    time.tm_mon -= 1;
    const struct tm asked = time;
    const time_t seconds = timegm(&time); /* Normalises: February 30 comes back as March. */
    if (seconds < 0 || time.tm_mday != asked.tm_mday || time.tm_mon != asked.tm_mon ||
        time.tm_hour != asked.tm_hour || time.tm_min != asked.tm_min ||
        time.tm_sec != asked.tm_sec || (uint64_t)seconds > UINT64_MAX / ns_per_second - 1) {
        return false;
    }
    *result = (uint64_t)seconds * ns_per_second + ns;
    return true;
}

static bool refuse(char *reason, size_t reason_size, const char *expected)
{
    snprintf(reason, reason_size, "%s", expected);
    return false;
}

static bool parse_unsigned(const struct field_spec *field, const char *text, size_t text_size,
                           uint8_t *value, char *reason, size_t reason_size)
{
    const uint32_t size = value_size(field);
    const uint64_t value_max = UINT64_MAX >> (64 - 8 * size);
    u128 number;
    if (!parse_digits(text, text_size, 10, &number) || number > value_max) {
        snprintf(reason, reason_size, "expected a whole number from 0 to %" PRIu64, value_max);
        return false;
    }
    memcpy(value, &number, size);
    return true;
}

static bool parse_signed(const struct field_spec *field, const char *text, size_t text_size,
                         uint8_t *value, char *reason, size_t reason_size)
{
    const uint32_t size = value_size(field);
    const uint64_t value_max = (UINT64_MAX >> (64 - 8 * size)) / 2;
    const bool negative = text_size > 0 && text[0] == '-';
    const size_t sign_size = negative || (text_size > 0 && text[0] == '+') ? 1 : 0;
    u128 number;
    if (!parse_digits(text + sign_size, text_size - sign_size, 10, &number) ||
        number > (u128)value_max + negative) {
        snprintf(reason, reason_size, "expected a whole number from -%" PRIu64 " to %" PRIu64,
                 value_max + 1, value_max);
        return false;
    }
    if (negative) {
        number = -number;
    }
    memcpy(value, &number, size);
    return true;
}

static bool parse_float(const struct field_spec *field, const char *text, size_t text_size,
                        uint8_t *value, char *reason, size_t reason_size)
{
    char copy[NUMBER_TEXT_MAX];
    if (text_size == 0 || text_size >= sizeof copy || text[0] == ' ') {
        return refuse(reason, reason_size, "expected a number such as 42.5 or 1e9");
    }
    memcpy(copy, text, text_size);
    copy[text_size] = '\0';
    char *end = NULL;
    errno = 0;
    if (field->type == FIELD_TYPE_F32) {
        const float number = strtof(copy, &end);
        memcpy(value, &number, sizeof number);
        if (errno == ERANGE && isinf(number)) {
            return refuse(reason, reason_size, "expected a number that an f32 can hold");
        }
    } else {
        const double number = strtod(copy, &end);
        memcpy(value, &number, sizeof number);
        if (errno == ERANGE && isinf(number)) {
            return refuse(reason, reason_size, "expected a number that an f64 can hold");
        }
    }
    if (end != copy + text_size) {
        return refuse(reason, reason_size, "expected a number such as 42.5 or 1e9");
    }
    return true;
}

static bool parse_bool(const char *text, size_t text_size, uint8_t *value, char *reason,
                       size_t reason_size)
{
    if ((text_size == 4 && memcmp(text, "true", 4) == 0) || (text_size == 1 && text[0] == '1')) {
        *value = 1;
        return true;
    }
    if ((text_size == 5 && memcmp(text, "false", 5) == 0) || (text_size == 1 && text[0] == '0')) {
        *value = 0;
        return true;
    }
    return refuse(reason, reason_size, "expected true, false, 1 or 0");
}

static bool parse_bytes(const struct field_spec *field, const char *text, size_t text_size,
                        uint8_t *value, char *reason, size_t reason_size)
{
    if (text_size % 2 != 0 || text_size > 2 * (size_t)field->size) {
        snprintf(reason, reason_size,
                 "expected an even number of hexadecimal digits, at most %" PRIu32,
                 2 * field->size);
        return false;
    }
    memset(value, 0, field->size);
    for (size_t i = 0; i < text_size; i += 2) {
        const int high = digit_of(text[i]);
        const int low = digit_of(text[i + 1]);
        if (high < 0 || low < 0) {
            return refuse(reason, reason_size, "expected hexadecimal digits");
        }
        value[i / 2] = (uint8_t)(high * 16 + low);
    }
    return true;
}

static bool parse_text(const struct field_spec *field, const char *text, size_t text_size,
                       uint8_t *value, char *reason, size_t reason_size)
{
    if (text_size > field->size) {
        snprintf(reason, reason_size, "text of %zu bytes does not fit into text<%" PRIu32 ">",
                 text_size, field->size);
        return false;
    }
    const size_t valid_size = utf8_valid_size((const uint8_t *)text, text_size);
    if (valid_size < text_size) {
        snprintf(reason, reason_size, "byte %zu is not UTF-8; convert the file first (iconv)",
                 valid_size + 1);
        return false;
    }
    if (memchr(text, '\0', text_size) != NULL) {
        return refuse(reason, reason_size, "text must not contain a NUL byte");
    }
    memcpy(value, text, text_size);
    memset(value + text_size, 0, field->size - text_size);
    return true;
}

bool value_parse(const struct field_spec *field, const char *text, size_t text_size, uint8_t *value,
                 char *reason, size_t reason_size)
{
    assert(field != NULL);
    assert(text != NULL);

    switch ((enum field_type)field->type) {
    case FIELD_TYPE_U8:
    case FIELD_TYPE_U16:
    case FIELD_TYPE_U32:
    case FIELD_TYPE_U64:
        return parse_unsigned(field, text, text_size, value, reason, reason_size);
    case FIELD_TYPE_U128:
        if (!id_parse(text, text_size, value)) {
            return refuse(reason, reason_size,
                          "expected a decimal number below 2^128, 0x..., or a UUID");
        }
        return true;
    case FIELD_TYPE_I8:
    case FIELD_TYPE_I16:
    case FIELD_TYPE_I32:
    case FIELD_TYPE_I64:
        return parse_signed(field, text, text_size, value, reason, reason_size);
    case FIELD_TYPE_F32:
    case FIELD_TYPE_F64:
        return parse_float(field, text, text_size, value, reason, reason_size);
    case FIELD_TYPE_BOOL:
        return parse_bool(text, text_size, value, reason, reason_size);
    case FIELD_TYPE_BYTES:
        return parse_bytes(field, text, text_size, value, reason, reason_size);
    case FIELD_TYPE_TEXT:
        return parse_text(field, text, text_size, value, reason, reason_size);
    case FIELD_TYPE_TIMESTAMP: {
        uint64_t ns;
        if (!parse_timestamp(text, text_size, &ns)) {
            return refuse(reason, reason_size,
                          "expected nanoseconds since 1970 or a time such as 2026-11-22T13:00:00Z");
        }
        memcpy(value, &ns, sizeof ns);
        return true;
    }
    }
    assert(false && "field type");
    return false;
}

static void format_timestamp(uint64_t ns, char *text, size_t text_size)
{
    const time_t seconds = (time_t)(ns / ns_per_second);
    const uint64_t fraction = ns % ns_per_second;
    struct tm time;
    char date[40];
    gmtime_r(&seconds, &time);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &time);
    if (fraction == 0) {
        snprintf(text, text_size, "%sZ", date);
    } else {
        snprintf(text, text_size, "%s.%09" PRIu64 "Z", date, fraction);
    }
}

void value_format(const struct field_spec *field, const uint8_t *value, char *text)
{
    const uint32_t size = value_size(field);

    switch ((enum field_type)field->type) {
    case FIELD_TYPE_U8:
    case FIELD_TYPE_U16:
    case FIELD_TYPE_U32:
    case FIELD_TYPE_U64:
        snprintf(text, VALUE_TEXT_SIZE, "%" PRIu64, load_word(value, size));
        break;
    case FIELD_TYPE_U128:
        id_format(value, text);
        break;
    case FIELD_TYPE_I8:
    case FIELD_TYPE_I16:
    case FIELD_TYPE_I32:
    case FIELD_TYPE_I64:
        snprintf(text, VALUE_TEXT_SIZE, "%" PRId64, load_signed(value, size));
        break;
    case FIELD_TYPE_F32: {
        float number;
        memcpy(&number, value, sizeof number);
        number_text_f32(text, VALUE_TEXT_SIZE, number);
        break;
    }
    case FIELD_TYPE_F64: {
        double number;
        memcpy(&number, value, sizeof number);
        number_text_f64(text, VALUE_TEXT_SIZE, number);
        break;
    }
    case FIELD_TYPE_BOOL:
        snprintf(text, VALUE_TEXT_SIZE, "%s", *value != 0 ? "true" : "false");
        break;
    case FIELD_TYPE_BYTES:
        for (uint32_t i = 0; i < size; i++) {
            snprintf(text + 2 * (size_t)i, 3, "%02x", value[i]);
        }
        break;
    case FIELD_TYPE_TEXT:
        memcpy(text, value, size);
        text[size] = '\0';
        break;
    case FIELD_TYPE_TIMESTAMP:
        format_timestamp(load_word(value, size), text, VALUE_TEXT_SIZE);
        break;
    }
}

void value_json(const struct field_spec *field, const char *name, const uint8_t *value,
                struct json_writer *writer)
{
    const uint32_t size = value_size(field);
    char text[VALUE_TEXT_SIZE];

    switch ((enum field_type)field->type) {
    case FIELD_TYPE_U8:
    case FIELD_TYPE_U16:
    case FIELD_TYPE_U32:
    case FIELD_TYPE_U64:
        json_u64(writer, name, load_word(value, size));
        break;
    case FIELD_TYPE_I8:
    case FIELD_TYPE_I16:
    case FIELD_TYPE_I32:
    case FIELD_TYPE_I64:
        json_i64(writer, name, load_signed(value, size));
        break;
    case FIELD_TYPE_F32: {
        float number;
        memcpy(&number, value, sizeof number);
        json_f32(writer, name, number);
        break;
    }
    case FIELD_TYPE_F64: {
        double number;
        memcpy(&number, value, sizeof number);
        json_f64(writer, name, number);
        break;
    }
    case FIELD_TYPE_BOOL:
        json_bool(writer, name, *value != 0);
        break;
    case FIELD_TYPE_U128:
    case FIELD_TYPE_BYTES:
    case FIELD_TYPE_TEXT:
    case FIELD_TYPE_TIMESTAMP:
        value_format(field, value, text);
        json_text(writer, name, text, strlen(text));
        break;
    }
}

static const char size_units[] = "KMGT";

bool size_parse(const char *text, uint64_t *size)
{
    size_t digit_count = strspn(text, "0123456789");
    u128 value;
    if (digit_count == 0 || !parse_digits(text, digit_count, 10, &value)) {
        return false;
    }
    const char *at = text + digit_count;
    uint32_t shift = 0;
    if (*at != '\0') {
        const char upper = *at >= 'a' && *at <= 'z' ? (char)(*at - 'a' + 'A') : *at;
        const char *unit = strchr(size_units, upper);
        if (unit != NULL) {
            shift = 10 * (uint32_t)(unit - size_units + 1);
            at += 1;
            if (at[0] == 'i' && at[1] == 'B') {
                at += 1;
            }
        }
        if (*at == 'B') {
            at += 1;
        }
    }
    if (*at != '\0' || value > (UINT64_MAX >> shift)) {
        return false;
    }
    *size = (uint64_t)value << shift;
    return true;
}

/* Seconds, and what they are called, the longest last. */
static const struct {
    char name;
    uint64_t seconds;
} durations[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};

bool duration_parse(const char *text, uint64_t *ns)
{
    const size_t digit_count = strspn(text, "0123456789");
    u128 value;
    if (digit_count == 0 || !parse_digits(text, digit_count, 10, &value)) {
        return false;
    }
    const char *at = text + digit_count;
    uint64_t unit = *at == '\0' ? 1 : 0;
    for (size_t i = 0; i < array_count(durations); i++) {
        if (at[0] == durations[i].name && at[1] == '\0') {
            unit = durations[i].seconds;
        }
    }
    if (unit == 0 || value > UINT64_MAX / (unit * ns_per_second)) {
        return false;
    }
    *ns = (uint64_t)value * unit * ns_per_second;
    return true;
}

void duration_format(uint64_t ns, char *text, size_t text_size)
{
    const uint64_t seconds = ns / ns_per_second;
    assert(ns % ns_per_second == 0);
    size_t unit = array_count(durations) - 1;
    while (unit > 0 && (seconds == 0 || seconds % durations[unit].seconds != 0)) {
        unit -= 1;
    }
    snprintf(text, text_size, "%" PRIu64 "%c", seconds / durations[unit].seconds,
             durations[unit].name);
}

void size_format(uint64_t size, char *text, size_t text_size)
{
    uint64_t unit = 1;
    int unit_index = -1;
    while (unit_index + 1 < (int)strlen(size_units) && size / unit >= 1024) {
        unit *= 1024;
        unit_index += 1;
    }
    if (unit_index < 0) {
        snprintf(text, text_size, "%" PRIu64, size);
    } else if (size % unit == 0) {
        snprintf(text, text_size, "%" PRIu64 "%c", size / unit, size_units[unit_index]);
    } else {
        snprintf(text, text_size, "%.1f%c", (double)size / (double)unit, size_units[unit_index]);
    }
}
