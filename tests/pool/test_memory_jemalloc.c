/* Goal: with jemalloc linked in, its statistics are the ones reported. Method: this file brings a
 * mallctl of its own, which finds the weak reference just as jemalloc's would and also runs under
 * the sanitizers. */
#include "pool/memory.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

int mallctl(const char *name, void *old, size_t *old_size, void *new_value, size_t new_size);

static uint64_t epoch;
static const char *version = "5.3.0-0-g0";
static bool broken;

int mallctl(const char *name, void *old, size_t *old_size, void *new_value, size_t new_size)
{
    cr_assert(eq(sz, *old_size, 8));
    if (broken) {
        return 2;
    }
    if (strcmp(name, "epoch") == 0) {
        cr_assert(eq(sz, new_size, sizeof epoch));
        cr_assert(ne(ptr, new_value, NULL));
        epoch += 1;
        memcpy(old, &epoch, sizeof epoch);
    } else if (strcmp(name, "version") == 0) {
        memcpy(old, &version, sizeof version);
    } else {
        const size_t value = strcmp(name, "stats.allocated") == 0  ? 1000 + epoch
                             : strcmp(name, "stats.resident") == 0 ? 5000 + epoch
                                                                   : 0;
        memcpy(old, &value, sizeof value);
    }
    return 0;
}

TestSuite(memory_jemalloc, .timeout = 120);

Test(memory_jemalloc, statistics_are_refreshed_and_read)
{
    struct memory_stats stats;

    for (uint64_t i = 1; i <= 3; i++) {
        memory_stats_read(&stats);
        cr_assert(eq(str, (char *)stats.allocator, "jemalloc 5.3.0-0-g0"));
        cr_assert(eq(u64, stats.allocated, 1000 + i));
        cr_assert(eq(u64, stats.resident, 5000 + i));
        cr_assert(gt(u64, stats.rss, 0));
    }
}

Test(memory_jemalloc, long_version_is_cut)
{
    struct memory_stats stats;
    char text[200] = {0};

    memset(text, 'x', sizeof text - 1);
    version = text;
    memory_stats_read(&stats);
    cr_assert(lt(sz, strlen(stats.allocator), 64));
}

Test(memory_jemalloc, refusal_gives_zero)
{
    struct memory_stats stats;

    broken = true;
    memory_stats_read(&stats);
    cr_assert(eq(u64, stats.allocated, 0));
    cr_assert(eq(u64, stats.resident, 0));
}
