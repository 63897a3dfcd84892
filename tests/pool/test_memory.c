/* Goal: what is acquired is zero, aligned and counted, and the guard bites where it is built in.
 * Method: sizes around the page, and every door to the allocator that the guard watches. */
#include "pool/memory.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

TestSuite(memory, .timeout = 120);

Test(memory, acquired_is_zero_aligned_and_counted)
{
    const size_t sizes[] = {1, 7, 4095, 4096, 4097, 1 << 20};
    enum { SIZE_COUNT = sizeof sizes / sizeof sizes[0] };
    uint8_t *memories[SIZE_COUNT];
    uint64_t total = 0;

    for (int round = 0; round < 3; round++) { /* Later rounds get what earlier ones dirtied. */
        for (int i = 0; i < SIZE_COUNT; i++) {
            memories[i] = memory_acquire(sizes[i]);
            cr_assert(ne(ptr, memories[i], NULL));
            cr_assert(eq(u64, (uintptr_t)memories[i] % 4096, 0));
            for (size_t j = 0; j < sizes[i]; j++) {
                cr_assert(memories[i][j] == 0);
            }
            memset(memories[i], 0xff, sizes[i]);
            total += sizes[i];
            cr_assert(eq(u64, memory_acquired_size(), total));
        }
        for (int i = 0; i < SIZE_COUNT; i++) {
            memory_release(memories[i], sizes[i]);
            total -= sizes[i];
            cr_assert(eq(u64, memory_acquired_size(), total));
        }
    }
    cr_assert(eq(u64, total, 0));
}

Test(memory, nothing_is_a_size_too)
{
    cr_assert(eq(ptr, memory_acquire(0), NULL));
    memory_release(NULL, 0);
    cr_assert(eq(u64, memory_acquired_size(), 0));
}

Test(memory, releasing_more_than_was_acquired_is_a_bug, .signal = SIGABRT)
{
    memory_release(memory_acquire(8), 9);
}

Test(memory, stats_without_jemalloc_tell_what_the_kernel_knows)
{
    struct memory_stats stats;

    memory_stats_read(&stats);
    cr_assert(eq(str, (char *)stats.allocator, "libc"));
    cr_assert(eq(u64, stats.allocated, 0));
    cr_assert(eq(u64, stats.resident, 0));
    cr_assert(gt(u64, stats.rss, 4096));
}

#ifdef HOLT_ALLOCATION_GUARD

/* Volatile, or the compiler leaves out an allocation that nobody uses. */
static void *volatile allocated;

Test(memory, guard_stops_malloc, .signal = SIGABRT)
{
    memory_forbid_allocation();
    allocated = malloc(8);
}

Test(memory, guard_stops_calloc, .signal = SIGABRT)
{
    memory_forbid_allocation();
    allocated = calloc(1, 8);
}

Test(memory, guard_stops_realloc, .signal = SIGABRT)
{
    void *memory = malloc(8);
    memory_forbid_allocation();
    allocated = realloc(memory, 16);
}

Test(memory, guard_stops_aligned_alloc, .signal = SIGABRT)
{
    memory_forbid_allocation();
    allocated = aligned_alloc(64, 64);
}

Test(memory, guard_stops_acquire, .signal = SIGABRT)
{
    memory_forbid_allocation();
    allocated = memory_acquire(8);
}

Test(memory, guard_sees_into_libc, .signal = SIGABRT)
{
    memory_forbid_allocation();
    allocated = strdup("text");
}

#endif

Test(memory, allowed_again_is_allowed_and_freeing_always_is)
{
    void *memory = malloc(8);

    memory_forbid_allocation();
    cr_assert(memory_allocation_forbidden());
    free(memory);
    struct memory_stats stats;
    memory_stats_read(&stats); /* Must not allocate either. */
    memory_allow_allocation();
    cr_assert(not(memory_allocation_forbidden()));
    free(aligned_alloc(64, 64));
    free(realloc(calloc(1, 8), 16));
}
