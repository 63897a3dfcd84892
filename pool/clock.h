/* Time is passed in, never taken: tests and the simulator bring their own. */
#pragma once

#include <stdint.h>

struct clock {
    uint64_t (*monotonic_ns)(void *context); /* For timeouts and measurements. Any thread. */
    uint64_t (*realtime_ns)(void *context);  /* Since 1970; may jump. Any thread. */
    void *context;
};

/* CLOCK_MONOTONIC and CLOCK_REALTIME. */
extern const struct clock clock_system;

static inline uint64_t clock_monotonic_ns(const struct clock *clock)
{
    return clock->monotonic_ns(clock->context);
}

static inline uint64_t clock_realtime_ns(const struct clock *clock)
{
    return clock->realtime_ns(clock->context);
}
