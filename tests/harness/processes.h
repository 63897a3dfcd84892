/* Work shared out to processes of this program, so that one which dies takes only itself. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { PROCESS_COUNT_MAX = 16 };

/* `size` bytes of zeros that all processes share. */
void *processes_share(uint64_t size);

/* Runs `run(number)` in `count` processes and waits for them; whether all returned true. Of one
 * that dies, `looking_at(number)` is printed: in shared memory, what it was doing. */
bool processes_run(uint32_t count, bool (*run)(uint32_t number),
                   const char *(*looking_at)(uint32_t number));
