/* Goal: what is acquired is populated, also what came after others were; nothing twice.
 * Method: an allocator whose pages are there when touched only (where jemalloc's place is), and the
 * kernel's word on which are. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pool/memory.h"

TestSuite(memory_populate, .timeout = 120);

enum { SIZE = 4 << 20, PAGE = 4096 };

void *mallocx(size_t size, int flags);
void *mallocx(size_t size, int flags)
{
    (void)flags;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static size_t resident(void *memory)
{
    static unsigned char pages[SIZE / PAGE];
    size_t count = 0;
    /* Not by its name: ThreadSanitizer has a mincore of its own, which fails. */
    cr_assert(eq(long, syscall(SYS_mincore, memory, (size_t)SIZE, pages), 0));
    for (size_t i = 0; i < SIZE / PAGE; i++) {
        count += pages[i] & 1;
    }
    return count;
}

Test(memory_populate, what_comes_later_is_populated_by_a_later_call)
{
    const _Atomic bool never = false;
    uint8_t *first = memory_acquire(SIZE);
    memory_populate(&never);
    if (resident(first) == 0) {
        cr_skip("the kernel does not know MADV_POPULATE_WRITE");
    }
    cr_assert(eq(sz, resident(first), SIZE / PAGE));
    uint8_t *second = memory_acquire(SIZE);
    cr_assert(eq(sz, resident(second), 0));
    cr_assert(eq(int, madvise(first, SIZE, MADV_DONTNEED), 0));
    memory_populate(&never);
    cr_assert(eq(sz, resident(second), SIZE / PAGE));
    cr_assert(eq(sz, resident(first), 0)); /* It was the first call's. */
}

Test(memory_populate, whoever_says_stop_is_obeyed)
{
    const _Atomic bool always = true;
    uint8_t *memory = memory_acquire(SIZE);
    memory_populate(&always);
    cr_assert(eq(sz, resident(memory), 0));
}
