/* Keeps LeakSanitizer to our own code; linked into Criterion executables under ASan only.
 *
 * Criterion runs every test in a worker process, which it starts under another name. The process
 * that directs them runs nothing of ours, but leaks a little of its own now and then: after tests
 * that end by a signal, for one. */
#include <errno.h>
#include <string.h>

/* LeakSanitizer asks this at the end of a process. */
int __lsan_is_turned_off(void);

int __lsan_is_turned_off(void)
{
    return strcmp(program_invocation_short_name, "boxfort-worker") != 0;
}
