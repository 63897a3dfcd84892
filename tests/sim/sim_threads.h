/* The daemon's threads as fibers of one OS thread.
 *
 * The functions of pool/mutex.h, and those of pthreads, clocks and signals that the daemon calls,
 * are replaced at link time (--wrap, see CMakeLists.txt). A fiber gives way where a thread could be
 * interrupted to any effect: at I/O, at locks, at waits. Which fiber goes on is the scheduler's
 * choice, by chance; time passes when nobody can. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { SIM_FIBER_MAX = 48 };

/* One more fiber, ready to run; of the daemon, or a client's. */
void sim_fiber_start(const char *name, bool of_daemon, void *(*run)(void *argument),
                     void *argument);

/* Whether the caller runs on a fiber, and so may wait. */
bool sim_on_fiber(void);

/* The calling fiber gives way. */
void sim_yield(void);
void sim_sleep(uint64_t ns);
/* Until somebody wakes `what`, or `deadline_ns` has come: then false. */
bool sim_wait(const void *what, uint64_t deadline_ns);
void sim_wake(const void *what, bool all);

/* Runs fibers until `done` says so. Ends the child when this life is to end, and fails when nobody
 * can ever go on. */
void sim_schedule(bool (*done)(void));
