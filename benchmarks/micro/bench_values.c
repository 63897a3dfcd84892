/* Nanoseconds per value of the kernels over sorted arrays, by shape of tree.
 *
 * Method: VALUE_COUNT values in all, keys random (of keys of 24 and 32 bytes the first 16 take 256
 * different values, as in an index over a field with few), best of ROUND_COUNT rounds. lower_bound
 * is per search of a random key of the array. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "engine/lsm/values.h"
#include "pool/base.h"

enum { VALUE_COUNT = 4096, VALUE_SIZE_MAX = 256, INPUT_MAX = 32, ROUND_COUNT = 31 };

static uint8_t values[VALUE_COUNT * VALUE_SIZE_MAX];
static uint8_t inputs[VALUE_COUNT * VALUE_SIZE_MAX];
static uint8_t work[VALUE_COUNT * VALUE_SIZE_MAX];
static uint8_t scratch[VALUE_COUNT * VALUE_SIZE_MAX];
static uint64_t random_state = 1;
static volatile uint64_t sink;

static uint64_t random_next(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return random_state ^ random_state >> 29;
}

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void fill_random(uint32_t key_size, uint32_t value_size)
{
    for (uint32_t i = 0; i < VALUE_COUNT; i++) {
        uint8_t *value = values + (size_t)i * value_size;
        for (uint32_t offset = 0; offset < value_size; offset += 8) {
            const uint64_t word = random_next();
            memcpy(value + offset, &word, 8);
        }
        if (key_size > 16) {
            memset(value, 0, 15);
            memset(value + 8, value[15], 7);
        }
    }
}

/* Deals the sorted values out to `input_count` sorted inputs at random, one behind the other. */
static void deal(uint32_t value_size, uint32_t input_count, struct values_cursor *cursors)
{
    static uint8_t owner[VALUE_COUNT];
    for (uint32_t i = 0; i < VALUE_COUNT; i++) {
        owner[i] = (uint8_t)(random_next() >> 32 & (input_count - 1));
    }
    uint8_t *next = inputs;
    for (uint32_t input = 0; input < input_count; input++) {
        cursors[input].next = next;
        for (uint32_t i = 0; i < VALUE_COUNT; i++) {
            if (owner[i] == input) {
                memcpy(next, values + (size_t)i * value_size, value_size);
                next += value_size;
            }
        }
        cursors[input].end = next;
    }
}

static double bench_sort(const struct values_ops *ops, uint32_t value_size)
{
    uint64_t best = UINT64_MAX;
    for (int round = 0; round < ROUND_COUNT; round++) {
        memcpy(work, values, (size_t)VALUE_COUNT * value_size);
        const uint64_t start = now_ns();
        ops->sort(work, scratch, VALUE_COUNT, value_size);
        best = min_u64(best, now_ns() - start);
    }
    return (double)best / VALUE_COUNT;
}

static double bench_lower_bound(const struct values_ops *ops, uint32_t value_size)
{
    uint64_t best = UINT64_MAX;
    for (int round = 0; round < ROUND_COUNT; round++) {
        uint64_t sum = 0;
        const uint64_t start = now_ns();
        for (uint32_t i = 0; i < VALUE_COUNT; i++) {
            const uint32_t wanted = i * 2654435761u % VALUE_COUNT;
            sum += ops->lower_bound(values, VALUE_COUNT, value_size,
                                    values + (size_t)wanted * value_size);
        }
        best = min_u64(best, now_ns() - start);
        sink = sum;
    }
    return (double)best / VALUE_COUNT;
}

static double bench_merge(const struct values_ops *ops, uint32_t value_size)
{
    struct values_cursor cursors[2];
    deal(value_size, 2, cursors);
    uint64_t best = UINT64_MAX;
    uint32_t output_count = 0;
    for (int round = 0; round < ROUND_COUNT; round++) {
        struct values_merge merge = {
            .newer = cursors[0].next,
            .older = cursors[1].next,
            .output = work,
            .newer_count = (uint32_t)((size_t)(cursors[0].end - cursors[0].next) / value_size),
            .older_count = (uint32_t)((size_t)(cursors[1].end - cursors[1].next) / value_size),
            .output_capacity = VALUE_COUNT,
        };
        const uint64_t start = now_ns();
        ops->merge(&merge, value_size);
        best = min_u64(best, now_ns() - start);
        output_count = merge.output_count;
    }
    return (double)best / output_count;
}

static double bench_merge_many(const struct values_ops *ops, uint32_t value_size,
                               uint32_t input_count)
{
    struct values_cursor cursors[INPUT_MAX];
    deal(value_size, input_count, cursors);
    uint64_t best = UINT64_MAX;
    uint32_t output_count = 1;
    for (int round = 0; round < ROUND_COUNT; round++) {
        struct values_cursor used[INPUT_MAX];
        memcpy(used, cursors, sizeof used);
        struct values_merge_many merge = {
            .cursors = used,
            .cursor_count = input_count,
            .output = work,
            .output_capacity = VALUE_COUNT,
        };
        const uint64_t start = now_ns();
        ops->merge_many(&merge, value_size);
        best = min_u64(best, now_ns() - start);
        output_count = merge.output_count;
    }
    return (double)best / output_count;
}

int main(void)
{
    static const struct {
        uint32_t key_size, value_size;
    } shapes[] = {{8, 16},   {8, 128}, {8, 200}, {16, 16}, {16, 24}, {16, 32},
                  {16, 128}, {24, 24}, {24, 32}, {24, 64}, {32, 32}};

    printf("%-8s %8s %12s %8s %8s %8s %8s\n", "ns/value", "sort", "lower_bound", "merge", "many 2",
           "many 8", "many 32");
    for (size_t i = 0; i < array_count(shapes); i++) {
        const uint32_t value_size = shapes[i].value_size;
        const struct values_ops *ops = values_ops_for(shapes[i].key_size, value_size);
        fill_random(shapes[i].key_size, value_size);
        const double sort_ns = bench_sort(ops, value_size);
        ops->sort(values, scratch, VALUE_COUNT, value_size);

        char name[16];
        snprintf(name, sizeof name, "%u/%u", shapes[i].key_size, value_size);
        printf("%-8s %8.1f %12.1f", name, sort_ns, bench_lower_bound(ops, value_size));
        printf(" %8.1f %8.1f %8.1f %8.1f\n", bench_merge(ops, value_size),
               bench_merge_many(ops, value_size, 2), bench_merge_many(ops, value_size, 8),
               bench_merge_many(ops, value_size, 32));
    }
    return 0;
}
