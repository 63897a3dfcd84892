/* The two text questions that JSON, CSV and tables share: is this UTF-8, and what is the shortest
 * decimal that reads back as this float. Pure functions; any thread. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Bytes of the UTF-8 sequence at `text` (1..4), or 0 if there is no valid one within `size` bytes
 * (overlong forms, surrogates and values above U+10FFFF are not valid). */
size_t utf8_sequence(const uint8_t *text, size_t size);

/* Code points in valid UTF-8, which is close enough to columns on a terminal. */
size_t utf8_count(const char *text);

/* Offset of the first byte that is not part of valid UTF-8, or `size` if all is. */
size_t utf8_valid_size(const uint8_t *text, size_t size);

/* Shortest decimal that reads back as the same value; 32 bytes are enough. */
void number_text_f64(char *text, size_t text_size, double value);
void number_text_f32(char *text, size_t text_size, float value);
