/* What each fuzz target exports, under libFuzzer's names, and how it takes its input apart.
 *
 * A target is one function from bytes to nothing: it must not crash, hang, leak, or break what it
 * asserts, whatever the bytes are. libFuzzer looks for such bytes (`./dev fuzz`); fuzz_replay.c
 * runs those that are kept in tests/fuzz/corpus/<target>, in every build. What was once found
 * stays there.
 *
 * State between two inputs is not allowed: an input alone must do what it did when it was found. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Takes from the front. What is not there is zero, so every prefix of an input is one, too. */
struct fuzz_input {
    const uint8_t *data;
    size_t size;
};

static inline size_t fuzz_take(struct fuzz_input *input, void *bytes, size_t size)
{
    const size_t taken = size < input->size ? size : input->size;
    memset(bytes, 0, size);
    if (taken > 0) {
        memcpy(bytes, input->data, taken);
        input->data += taken;
        input->size -= taken;
    }
    return taken;
}

static inline uint8_t fuzz_u8(struct fuzz_input *input)
{
    uint8_t value;
    fuzz_take(input, &value, sizeof value);
    return value;
}

static inline uint16_t fuzz_u16(struct fuzz_input *input)
{
    uint16_t value;
    fuzz_take(input, &value, sizeof value);
    return value;
}

static inline uint32_t fuzz_u32(struct fuzz_input *input)
{
    uint32_t value;
    fuzz_take(input, &value, sizeof value);
    return value;
}

static inline uint64_t fuzz_u64(struct fuzz_input *input)
{
    uint64_t value;
    fuzz_take(input, &value, sizeof value);
    return value;
}

/* Text up to the next `separator` or the end, which is taken, too; cut to what `text` holds.
 * Always NUL-terminated. */
static inline size_t fuzz_text(struct fuzz_input *input, uint8_t separator, char *text,
                               size_t text_size)
{
    size_t count = 0;
    size_t kept = 0;
    while (count < input->size && input->data[count] != separator) {
        if (kept + 1 < text_size) {
            text[kept++] = (char)input->data[count];
        }
        count += 1;
    }
    text[kept] = '\0';
    count += count < input->size;
    input->data += count;
    input->size -= count;
    return kept;
}
