/* Goal: the system clock tells time, and a clock of one's own is what is asked. */
#include "pool/clock.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <time.h>

TestSuite(clock, .timeout = 120);

Test(clock, monotonic_never_goes_back)
{
    uint64_t before = clock_monotonic_ns(&clock_system);
    for (int i = 0; i < 10000; i++) {
        const uint64_t now = clock_monotonic_ns(&clock_system);
        cr_assert(ge(u64, now, before));
        before = now;
    }
}

Test(clock, realtime_is_that_of_the_machine)
{
    const uint64_t second = (uint64_t)time(NULL);
    const uint64_t now_ns = clock_realtime_ns(&clock_system);

    cr_assert(ge(u64, now_ns / 1000000000 + 1, second));
    cr_assert(le(u64, now_ns / 1000000000, second + 60));
}

static uint64_t read_context(void *context)
{
    uint64_t *ticks = context;
    *ticks += 1;
    return *ticks;
}

Test(clock, own_clock_gets_its_context)
{
    uint64_t ticks = 41;
    const struct clock clock = {read_context, read_context, &ticks};

    cr_assert(eq(u64, clock_monotonic_ns(&clock), 42));
    cr_assert(eq(u64, clock_realtime_ns(&clock), 43));
}
