#include "server/text.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t utf8_sequence(const uint8_t *text, size_t size)
{
    assert(text != NULL);

    if (size == 0) {
        return 0;
    }
    const uint8_t lead = text[0];
    if (lead < 0x80) {
        return 1;
    }
    /* Table 3-7 of the Unicode standard: only the second byte's range depends on the first. */
    size_t sequence_size;
    uint8_t second_min = 0x80;
    uint8_t second_max = 0xbf;
    if (lead >= 0xc2 && lead <= 0xdf) {
        sequence_size = 2;
    } else if (lead >= 0xe0 && lead <= 0xef) {
        sequence_size = 3;
        second_min = lead == 0xe0 ? 0xa0 : 0x80;
        second_max = lead == 0xed ? 0x9f : 0xbf;
    } else if (lead >= 0xf0 && lead <= 0xf4) {
        sequence_size = 4;
        second_min = lead == 0xf0 ? 0x90 : 0x80;
        second_max = lead == 0xf4 ? 0x8f : 0xbf;
    } else {
        return 0;
    }
    if (size < sequence_size || text[1] < second_min || text[1] > second_max) {
        return 0;
    }
    for (size_t i = 2; i < sequence_size; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return sequence_size;
}

size_t utf8_count(const char *text)
{
    size_t count = 0;
    for (; *text != '\0'; text++) {
        count += ((unsigned char)*text & 0xc0) != 0x80;
    }
    return count;
}

size_t utf8_valid_size(const uint8_t *text, size_t size)
{
    size_t at = 0;
    while (at < size) {
        const size_t sequence_size = utf8_sequence(text + at, size - at);
        if (sequence_size == 0) {
            break;
        }
        at += sequence_size;
    }
    return at;
}

void number_text_f64(char *text, size_t text_size, double value)
{
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, text_size, "%.*g", digits, value);
        if (isnan(value) || strtod(text, NULL) == value) {
            break;
        }
    }
}

void number_text_f32(char *text, size_t text_size, float value)
{
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, text_size, "%.*g", digits, (double)value);
        if (isnan(value) || strtof(text, NULL) == value) {
            break;
        }
    }
}
