#include "pool/clock.h"

#include <assert.h>
#include <stddef.h>
#include <time.h>

static uint64_t read_ns(clockid_t id)
{
    struct timespec now;
    const int error = clock_gettime(id, &now);
    assert(error == 0);
    assert(now.tv_sec >= 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t system_monotonic_ns(void *context)
{
    assert(context == NULL);
    return read_ns(CLOCK_MONOTONIC);
}

static uint64_t system_realtime_ns(void *context)
{
    assert(context == NULL);
    return read_ns(CLOCK_REALTIME);
}

const struct clock clock_system = {
    .monotonic_ns = system_monotonic_ns,
    .realtime_ns = system_realtime_ns,
    .context = NULL,
};
