/* Lets Criterion 2.4.1 start under ThreadSanitizer; linked into those executables only.
 *
 * Criterion's BoxFort looks for three unmapped pages at random addresses with mincore() and then
 * maps its arena there, MAP_FIXED | MAP_SHARED. Under TSan nearly the whole address space is
 * reserved as shadow memory, so every probe fails and it gives up: "Could not initialize
 * inheritable arena" (Criterion issue 274). Here mincore() calls every page free, and such a
 * mapping is moved into the range that TSan leaves to applications. */
#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOT_SANITIZED __attribute__((no_sanitize_thread, visibility("default")))

/* TSan's shadow on x86-64 lies below APPLICATION_MIN; from there up is ours to map. */
enum { ATTEMPT_MAX = 64, SLOT_SHIFT = 24, SLOT_MASK = 0x3fff, SLOT_STEP = 97 };
static const uintptr_t SHADOW_MIN = 0x200000000000;
static const uintptr_t APPLICATION_MIN = 0x7e8000000000;

NOT_SANITIZED int mincore(void *start, size_t size, unsigned char *residency)
{
    (void)start;
    (void)size;
    (void)residency;
    errno = ENOMEM;
    return -1;
}

NOT_SANITIZED void *mmap64(void *start, size_t size, int protection, int flags, int fd,
                           off64_t offset)
{
    const uintptr_t wanted = (uintptr_t)start;
    const int arena_flags = MAP_FIXED | MAP_SHARED;
    const int moved_flags = (flags & ~MAP_FIXED) | MAP_FIXED_NOREPLACE;

    if ((flags & arena_flags) != arena_flags || fd < 0 || wanted < SHADOW_MIN ||
        wanted >= APPLICATION_MIN) {
        return (void *)syscall(SYS_mmap, start, size, protection, flags, fd, offset);
    }
    for (uintptr_t i = 0; i < ATTEMPT_MAX; i++) {
        const uintptr_t slot = ((wanted >> SLOT_SHIFT) + i * SLOT_STEP) & SLOT_MASK;
        const uintptr_t moved = APPLICATION_MIN + (slot << SLOT_SHIFT);
        const long result = syscall(SYS_mmap, moved, size, protection, moved_flags, fd, offset);
        if (result != -1) {
            return (void *)result;
        }
    }
    return MAP_FAILED;
}
