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

/* nng takes a closed listener and its connections apart on a thread of its own, some time after
 * nng_close has returned. A test that ends at once is caught in the middle of that, now and then;
 * what is really lost would show in the descriptors, which the tests of the listener count. */
const char *__lsan_default_suppressions(void);

const char *__lsan_default_suppressions(void)
{
    return "leak:nni_listener_create\n"
           "leak:nni_listener_start\n"
           "leak:ipc_listener_doaccept\n";
}

/* A list of the suppressions used would go to where reports go, and be taken for one. */
const char *__lsan_default_options(void);

const char *__lsan_default_options(void)
{
    return "print_suppressions=0";
}
