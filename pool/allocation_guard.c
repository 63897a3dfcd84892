/* Replaces malloc and its family by functions that abort where memory_forbid_allocation was called
 * and are glibc's otherwise. Built only with HOLT_ALLOCATION_GUARD, and never with another
 * allocator: `free` stays glibc's.
 *
 * A stopped process shows the culprit in its backtrace, allocations inside libc included. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pool/memory.h"

/* glibc's own names of what is replaced here. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

static void write_text(const char *text)
{
    const ssize_t written = write(STDERR_FILENO, text, strlen(text));
    (void)written; /* About to abort: nobody is left to tell. */
}

static void check(const char *function)
{
    if (memory_allocation_forbidden()) {
        write_text("allocation after init, in ");
        write_text(function);
        write_text("\n");
        abort();
    }
}

void *malloc(size_t size)
{
    check("malloc");
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    check("calloc");
    return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
    check("realloc");
    return __libc_realloc(memory, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    check("aligned_alloc");
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **memory, size_t alignment, size_t size)
{
    check("posix_memalign");
    void *result = __libc_memalign(alignment, size);
    if (result == NULL) {
        return ENOMEM;
    }
    *memory = result;
    return 0;
}

/* glibc's version builds its message with malloc, which would hide the failed assertion behind the
 * guard's own complaint. */
void __assert_fail(const char *assertion, const char *file, unsigned int line, const char *function)
{
    char digits[12];
    size_t start = sizeof digits - 1;
    digits[start] = '\0';
    do {
        start -= 1;
        digits[start] = (char)('0' + line % 10);
        line /= 10;
    } while (line > 0);

    const char *parts[] = {file,      ":",          &digits[start], ": ", function, ": Assertion `",
                           assertion, "' failed.\n"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        write_text(parts[i]);
    }
    abort();
}
