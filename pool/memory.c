#include "pool/memory.h"

#include <assert.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pool/mutex.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; Debian 12's headers have it, older ones do not */
#endif

enum { ALIGNMENT = 4096 };

static _Atomic uint64_t acquired_size; /* Statistics only: nothing is ordered by it. */
static _Thread_local bool allocation_forbidden;

/* jemalloc's control interface, or NULL where jemalloc is not linked in. */
__attribute__((weak)) int mallctl(const char *name, void *old, size_t *old_size, void *new_value,
                                  size_t new_size);

/* jemalloc's extended malloc, likewise: it knows which of its pages are zero already, so that large
 * pieces need not be touched here. */
__attribute__((weak)) void *mallocx(size_t size, int flags);
enum { MALLOCX_ALIGN_4096 = 12, MALLOCX_ZEROED = 0x40 }; /* MALLOCX_LG_ALIGN(12), MALLOCX_ZERO */

/* What memory_populate walks. */
enum { REGION_COUNT_MAX = 1024, REGION_SIZE_MIN = 1 << 20, POPULATE_STEP = 8 << 20 };
static struct {
    uint8_t *memory;
    size_t size;
    bool populated; /* or somebody is at it */
} regions[REGION_COUNT_MAX];
static struct mutex regions_mutex = MUTEX_INITIALIZER(LOCK_RANK_MEMORY);

/* `from` NULL: takes a free slot for (memory, size). Otherwise: the slot of `from` becomes that. A
 * region that finds no slot is only populated later, by its use. */
static void region_replace(const void *from, void *memory, size_t size)
{
    mutex_lock(&regions_mutex);
    for (uint32_t i = 0; i < REGION_COUNT_MAX; i++) {
        if (regions[i].memory == from) {
            regions[i].memory = memory;
            regions[i].size = size;
            regions[i].populated = false;
            break;
        }
    }
    mutex_unlock(&regions_mutex);
}

static void *allocate_zeroed(size_t size)
{
    if (mallocx != NULL) {
        return mallocx(size, MALLOCX_ALIGN_4096 | MALLOCX_ZEROED);
    }
    void *memory = NULL;
    if (posix_memalign(&memory, ALIGNMENT, size) != 0) {
        return NULL;
    }
    memset(memory, 0, size);
    return memory;
}

void *memory_acquire(size_t size)
{
    if (size == 0) {
        return NULL;
    }
    void *memory = allocate_zeroed(size);
    if (memory == NULL) {
        return NULL;
    }
    if (size >= REGION_SIZE_MIN) {
        region_replace(NULL, memory, size);
    }
    atomic_fetch_add_explicit(&acquired_size, size, memory_order_relaxed);
    return memory;
}

void memory_populate(const _Atomic bool *stop)
{
    for (uint32_t i = 0; i < REGION_COUNT_MAX; i++) {
        mutex_lock(&regions_mutex);
        uint8_t *memory = regions[i].populated ? NULL : regions[i].memory;
        const size_t size = regions[i].size;
        regions[i].populated = true;
        mutex_unlock(&regions_mutex);
        for (size_t done = 0; memory != NULL && done < size; done += POPULATE_STEP) {
            if (atomic_load_explicit(stop, memory_order_relaxed)) {
                return;
            }
            const size_t step = size - done < POPULATE_STEP ? size - done : POPULATE_STEP;
            /* Kernels before 5.14 refuse: then pages come as they are used. */
            if (madvise(memory + done, step & ~(size_t)(ALIGNMENT - 1), MADV_POPULATE_WRITE) != 0) {
                return;
            }
        }
    }
}

void memory_release(void *memory, size_t size)
{
    if (memory == NULL) {
        return;
    }
    assert(size > 0);
    const uint64_t before = atomic_fetch_sub_explicit(&acquired_size, size, memory_order_relaxed);
    assert(before >= size);
    if (size >= REGION_SIZE_MIN) {
        region_replace(memory, NULL, 0);
    }
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
