/* Goal: every value survives text and back; everything else is refused with what was expected.
 * Method: random values of each type through format and parse; tables of good and bad texts. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "server/text.h"
#include "server/value_text.h"
#include "tests/harness/prng.h"

TestSuite(value_text, .timeout = 120);

static bool parse(enum field_type type, uint32_t size, const char *text, uint8_t *value)
{
    const struct field_spec field = {.type = (uint8_t)type, .size = size};
    char reason[256] = "";
    const bool parsed = value_parse(&field, text, strlen(text), value, reason, sizeof reason);
    cr_assert_eq(parsed, reason[0] == '\0', "%s: %s", text, reason);
    return parsed;
}

Test(value_text, random_values_of_every_type_read_back)
{
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct prng prng;
        prng_init(&prng, seed);
        for (enum field_type type = FIELD_TYPE_U8; type <= FIELD_TYPE_TIMESTAMP; type++) {
            const struct field_spec field = {.type = (uint8_t)type, .size = 24};
            uint8_t value[32];
            uint8_t again[32];
            char text[VALUE_TEXT_SIZE];
            char reason[256] = "";
            const uint32_t size = value_size(&field);
            for (uint32_t i = 0; i < size; i++) {
                value[i] = (uint8_t)prng_below(&prng, 256);
            }
            if (type == FIELD_TYPE_BOOL) {
                value[0] &= 1;
            } else if (type == FIELD_TYPE_TEXT) {
                const uint32_t used = (uint32_t)prng_below(&prng, size + 1);
                memset(value, 0, size);
                for (uint32_t i = 0; i < used; i++) {
                    value[i] = (uint8_t)(1 + prng_below(&prng, 127));
                }
            } else if (type == FIELD_TYPE_F32) {
                float number;
                memcpy(&number, value, 4);
                if (isnan(number)) {
                    continue;
                }
            } else if (type == FIELD_TYPE_F64) {
                double number;
                memcpy(&number, value, 8);
                if (isnan(number)) {
                    continue;
                }
            }
            value_format(&field, value, text);
            cr_assert(value_parse(&field, text, strlen(text), again, reason, sizeof reason),
                      "seed %d type %d '%s': %s", (int)seed, type, text, reason);
            cr_assert_arr_eq(value, again, size, "seed %d type %d '%s'", (int)seed, type, text);
        }
    }
}

Test(value_text, bounds_of_whole_numbers)
{
    static const struct {
        enum field_type type;
        const char *text;
        bool good;
    } cases[] = {
        {FIELD_TYPE_U8, "255", true},
        {FIELD_TYPE_U8, "256", false},
        {FIELD_TYPE_U8, "-1", false},
        {FIELD_TYPE_U8, "", false},
        {FIELD_TYPE_U8, " 1", false},
        {FIELD_TYPE_U8, "1 ", false},
        {FIELD_TYPE_U8, "0x10", false},
        {FIELD_TYPE_I8, "-128", true},
        {FIELD_TYPE_I8, "-129", false},
        {FIELD_TYPE_I8, "127", true},
        {FIELD_TYPE_I8, "+127", true},
        {FIELD_TYPE_I8, "128", false},
        {FIELD_TYPE_I8, "-", false},
        {FIELD_TYPE_U16, "65535", true},
        {FIELD_TYPE_U16, "65536", false},
        {FIELD_TYPE_U64, "18446744073709551615", true},
        {FIELD_TYPE_U64, "18446744073709551616", false},
        {FIELD_TYPE_I64, "-9223372036854775808", true},
        {FIELD_TYPE_I64, "9223372036854775808", false},
        {FIELD_TYPE_U128, "340282366920938463463374607431768211455", true},
        {FIELD_TYPE_U128, "340282366920938463463374607431768211456", false},
        {FIELD_TYPE_U128, "0x0123456789abcdefABCDEF", true},
        {FIELD_TYPE_U128, "0x", false},
        {FIELD_TYPE_U128, "123e4567-e89b-12d3-a456-426614174000", true},
        {FIELD_TYPE_U128, "123e4567xe89b-12d3-a456-426614174000", false},
        {FIELD_TYPE_F64, "1e308", true},
        {FIELD_TYPE_F64, "1e309", false},
        {FIELD_TYPE_F64, "inf", true},
        {FIELD_TYPE_F64, "1,5", false},
        {FIELD_TYPE_F64, "", false},
        {FIELD_TYPE_F32, "1e39", false},
        {FIELD_TYPE_BOOL, "true", true},
        {FIELD_TYPE_BOOL, "0", true},
        {FIELD_TYPE_BOOL, "yes", false},
        {FIELD_TYPE_BYTES, "00ff", true},
        {FIELD_TYPE_BYTES, "00f", false},
        {FIELD_TYPE_BYTES, "00zz", false},
        {FIELD_TYPE_BYTES, "000000000000000000", false},
        {FIELD_TYPE_TEXT, "12345678", true},
        {FIELD_TYPE_TEXT, "123456789", false},
        {FIELD_TYPE_TEXT, "\xff", false},
        {FIELD_TYPE_TIMESTAMP, "0", true},
        {FIELD_TYPE_TIMESTAMP, "2026-11-22", true},
        {FIELD_TYPE_TIMESTAMP, "2026-11-22T13:00:00Z", true},
        {FIELD_TYPE_TIMESTAMP, "2026-11-22 13:00:00.123456789", true},
        {FIELD_TYPE_TIMESTAMP, "2026-02-30", false},
        {FIELD_TYPE_TIMESTAMP, "2026-13-01", false},
        {FIELD_TYPE_TIMESTAMP, "1969-12-31", false},
        {FIELD_TYPE_TIMESTAMP, "2026-11-22T25:00:00Z", false},
        {FIELD_TYPE_TIMESTAMP, "2026-11-22T13:00:00.", false},
        {FIELD_TYPE_TIMESTAMP, "2026-11-22T13:00", false},
        {FIELD_TYPE_TIMESTAMP, "9999-01-01", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t value[16];
        cr_assert_eq(parse(cases[i].type, 8, cases[i].text, value), cases[i].good, "%s",
                     cases[i].text);
    }
}

Test(value_text, known_values)
{
    uint8_t value[16];
    uint64_t ns;
    cr_assert(parse(FIELD_TYPE_TIMESTAMP, 0, "2026-11-22T13:00:00.5Z", value));
    memcpy(&ns, value, sizeof ns);
    cr_assert_eq(ns, 1795352400500000000u);
    cr_assert(parse(FIELD_TYPE_U128, 0, "123e4567-e89b-12d3-a456-426614174000", value));
    cr_assert_eq(value[15], 0x12); /* Little-endian. */
    cr_assert_eq(value[0], 0x00);
    char id[ID_TEXT_SIZE];
    id_format(value, id);
    cr_assert_str_eq(id, "0x123e4567e89b12d3a456426614174000");
}

Test(value_text, text_is_zero_padded)
{
    uint8_t value[8];
    memset(value, 0xff, sizeof value);
    cr_assert(parse(FIELD_TYPE_TEXT, 8, "ab", value));
    cr_assert_arr_eq(value, "ab\0\0\0\0\0\0", 8);
}

Test(value_text, sizes)
{
    static const struct {
        const char *text;
        uint64_t size;
    } good[] = {{"0", 0},         {"17", 17},          {"4K", 4096},       {"4KiB", 4096},
                {"1m", 1u << 20}, {"3GB", 3ull << 30}, {"2T", 2ull << 40}, {"5B", 5}};
    static const char *const bad[] = {"",   "K", "4KK", "-1", "1.5G", "4 K", "99999999999999T",
                                      "4iB"};
    uint64_t size;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        cr_assert(size_parse(good[i].text, &size), "%s", good[i].text);
        cr_assert_eq(size, good[i].size, "%s", good[i].text);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert_not(size_parse(bad[i], &size), "%s", bad[i]);
    }
    char text[32];
    size_format(4096, text, sizeof text);
    cr_assert_str_eq(text, "4K");
    size_format(1536, text, sizeof text);
    cr_assert_str_eq(text, "1.5K");
    size_format(1000, text, sizeof text);
    cr_assert_str_eq(text, "1000");
    size_format(UINT64_MAX, text, sizeof text);
    cr_assert_str_eq(text, "16777216.0T");
}

Test(value_text, durations_are_whole_seconds_of_any_unit)
{
    static const struct {
        const char *text;
        uint64_t seconds;
        const char *again;
    } good[] = {
        {"0", 0, "0s"},       {"1", 1, "1s"},       {"90s", 90, "90s"},
        {"15m", 900, "15m"},  {"24h", 86400, "1d"}, {"25h", 90000, "25h"},
        {"7d", 604800, "7d"}, {"120s", 120, "2m"},  {"213503d", 18446659200, "213503d"},
    };
    static const char *const bad[] = {"",   "s",    "-1", "1.5h", "1 h",    "1hs",
                                      "1w", "0x1s", "h1", "1H",   "213504d"};
    uint64_t ns;
    char text[32];
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        cr_assert(duration_parse(good[i].text, &ns), "%s", good[i].text);
        cr_assert_eq(ns, good[i].seconds * 1000000000, "%s", good[i].text);
        duration_format(ns, text, sizeof text);
        cr_assert_str_eq(text, good[i].again);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert_not(duration_parse(bad[i], &ns), "%s", bad[i]);
    }
}

Test(value_text, utf8_is_what_the_standard_says)
{
    static const struct {
        const char *text;
        size_t valid;
    } cases[] = {
        {"abc", 3},
        {"\xc3\xa4", 2},
        {"\xe2\x82\xac", 3},
        {"\xf0\x9f\x8c\xb3", 4},
        {"\xc0\x80", 0},
        {"\xe0\x80\x80", 0},
        {"\xed\xa0\x80", 0},
        {"\xf4\x90\x80\x80", 0},
        {"\xf5\x80", 0},
        {"a\xc3", 1},
        {"\x80", 0},
        {"\xe2\x82", 0},
        {"\xf0\x8f\x80\x80", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert_eq(utf8_valid_size((const uint8_t *)cases[i].text, strlen(cases[i].text)),
                     cases[i].valid, "case %zu", i);
    }
    cr_assert_eq(utf8_count("a\xc3\xa4\xe2\x82\xac"), 3);
}
