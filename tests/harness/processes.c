#include "tests/harness/processes.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

void *processes_share(uint64_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        abort();
    }
    return memory;
}

bool processes_run(uint32_t count, bool (*run)(uint32_t number),
                   const char *(*looking_at)(uint32_t number))
{
    assert(count >= 1 && count <= PROCESS_COUNT_MAX);
    pid_t processes[PROCESS_COUNT_MAX];
    (void)fflush(stdout);
    for (uint32_t i = 0; i < count; i++) {
        processes[i] = fork();
        if (processes[i] < 0) {
            perror("fork");
            abort();
        }
        if (processes[i] == 0) {
            const bool done = run(i);
            exit(done ? 0 : 1);
        }
    }
    bool all = true;
    for (uint32_t i = 0; i < count; i++) {
        int status = 0;
        while (waitpid(processes[i], &status, 0) < 0) {
            if (errno != EINTR) {
                abort();
            }
        }
        if (!WIFEXITED(status) || WEXITSTATUS(status) > 1) {
            printf("FAILED: a process ended with status %#x, looking at %s\n", (unsigned)status,
                   looking_at(i));
        }
        all &= WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    return all;
}
