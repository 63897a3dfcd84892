/* The one door through which the engine takes memory: at start, by the plan, never after.
 *
 * In release builds jemalloc is the allocator (linked into the executable); sanitizer builds use
 * their own. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* `size` zeroed bytes, aligned to 4096 (O_DIRECT needs it), or NULL. size 0 gives NULL. */
void *memory_acquire(size_t size);
/* NULL is allowed. `size` as acquired. */
void memory_release(void *memory, size_t size);

/* Touches every page of what is held in pieces of 1 MiB and more, and no call has touched before,
 * without changing a byte, so that no page fault or shortage waits for the request that first needs
 * it. Takes a second per GiB where the kernel must clear the pages, so a thread of its own does it
 * beside recovery. Any thread, several at once share the work; nothing may be released meanwhile.
 * `stop` ends it early. */
void memory_populate(const _Atomic bool *stop);

/* Bytes now held through memory_acquire by the whole process. */
uint64_t memory_acquired_size(void);

struct memory_stats {
    const char *allocator; /* "jemalloc 5.3.0..." or "libc" */
    uint64_t allocated;    /* bytes; 0 where the allocator does not tell */
    uint64_t resident;     /* bytes; 0 likewise */
    uint64_t rss;          /* bytes, from /proc/self/statm */
};
void memory_stats_read(struct memory_stats *stats);

/* Debugging aid: from now on an allocation by this thread aborts, in builds that define
 * HOLT_ALLOCATION_GUARD (they interpose malloc and friends); elsewhere these do nothing. */
void memory_forbid_allocation(void);
void memory_allow_allocation(void);

/* What the guard asks (pool/allocation_guard.c): has this thread been forbidden to allocate? */
bool memory_allocation_forbidden(void);
