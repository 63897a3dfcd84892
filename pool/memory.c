#include "pool/memory.h"

#include <assert.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ALIGNMENT = 4096 };

static _Atomic uint64_t acquired_size; /* Statistics only: nothing is ordered by it. */
static _Thread_local bool allocation_forbidden;

/* jemalloc's control interface, or NULL where jemalloc is not linked in. */
__attribute__((weak)) int mallctl(const char *name, void *old, size_t *old_size, void *new_value,
                                  size_t new_size);

void *memory_acquire(size_t size)
{
    if (size == 0) {
        return NULL;
    }
    void *memory = NULL;
    if (posix_memalign(&memory, ALIGNMENT, size) != 0) {
        return NULL;
    }
    /* Touches every page on purpose: what the plan promises is taken from the machine now, and no
     * page fault or shortage waits for the first request that needs it. */
    memset(memory, 0, size);
    atomic_fetch_add_explicit(&acquired_size, size, memory_order_relaxed);
    return memory;
}

void memory_release(void *memory, size_t size)
{
    if (memory == NULL) {
        return;
    }
    assert(size > 0);
    const uint64_t before = atomic_fetch_sub_explicit(&acquired_size, size, memory_order_relaxed);
    assert(before >= size);
    free(memory);
}

uint64_t memory_acquired_size(void)
{
    return atomic_load_explicit(&acquired_size, memory_order_relaxed);
}

/* One statistic of jemalloc in bytes; 0 if it has none of that name. */
static uint64_t read_mallctl(const char *name)
{
    size_t value = 0;
    size_t size = sizeof value;
    if (mallctl(name, &value, &size, NULL, 0) != 0) {
        return 0;
    }
    return value;
}

/* Resident bytes of the process; 0 if /proc does not tell. Without stdio, which would allocate. */
static uint64_t read_rss(void)
{
    char text[128];
    const int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    const ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    if (size <= 0) {
        return 0;
    }
    text[size] = '\0';

    char *resident = strchr(text, ' '); /* "total resident shared ...", in pages */
    if (resident == NULL) {
        return 0;
    }
    return strtoull(resident, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE);
}

void memory_stats_read(struct memory_stats *stats)
{
    *stats = (struct memory_stats){.allocator = "libc", .rss = read_rss()};
    if (mallctl == NULL) {
        return;
    }

    static _Thread_local char allocator[64] = "jemalloc ";
    const char *version = "";
    size_t size = sizeof version;
    if (mallctl("version", (void *)&version, &size, NULL, 0) == 0) {
        const size_t prefix_size = strlen("jemalloc ");
        allocator[prefix_size] = '\0';
        strncat(allocator, version, sizeof allocator - prefix_size - 1);
    }
    stats->allocator = allocator;

    uint64_t epoch = 1; /* Writing it refreshes the statistics. */
    size = sizeof epoch;
    if (mallctl("epoch", &epoch, &size, &epoch, size) == 0) {
        stats->allocated = read_mallctl("stats.allocated");
        stats->resident = read_mallctl("stats.resident");
    }
}

void memory_forbid_allocation(void)
{
    allocation_forbidden = true;
}

void memory_allow_allocation(void)
{
    allocation_forbidden = false;
}

bool memory_allocation_forbidden(void)
{
    return allocation_forbidden;
}
