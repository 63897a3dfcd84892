#include "tests/sim/sim_threads.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

#include "pool/mutex.h"
#include "tests/sim/sim.h"

#if defined(__SANITIZE_ADDRESS__)
#define SIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIM_ASAN 1
#endif
#endif
#ifdef SIM_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

enum {
    STACK_SIZE = 1 << 20,
    STACK_DIRT = 12 * 1024, /* bytes that are not zero at first, as on a used stack */
    SLOW_ODDS = 12,         /* a slow fiber is passed over so often */
    STEP_NS = 300,          /* what a piece of work between two waits takes */
};
static const uint64_t heartbeat_ns =
    500ull * 1000 * 1000; /* waits as long as that are heartbeats */

struct fiber {
    jmp_buf context;
    uint8_t *stack; /* [STACK_SIZE] */
    void *fake_stack;
    void *(*run)(void *argument);
    void *argument;
    const char *name;
    bool of_daemon; /* not a client */
    bool begun, ended;
    const void *waits_for; /* NULL: ready at wake_ns */
    uint64_t wake_ns;      /* UINT64_MAX: only when woken */
    bool timed_out;
    bool heartbeat;
    enum lock_rank rank_held;
    bool allocation_forbidden;
};

static struct fiber fibers[SIM_FIBER_MAX];
static uint32_t fiber_count;
static struct fiber *current; /* NULL: the scheduler runs */
static uint32_t slow;         /* which fiber the scheduler neglects in this life */
static jmp_buf scheduler_context;
static ucontext_t scheduler_entry;
static enum lock_rank scheduler_rank;
static uint32_t lock_waiters;
#ifdef SIM_ASAN
static const void *scheduler_stack;
static size_t scheduler_stack_size;
static void *scheduler_fake_stack;
#endif

/* ---- Switching ---------------------------------------------------------------------------------
 *
 * A fiber is entered once by its ucontext, and from then on by jumps: those make no system call. */

static void leave(struct fiber *fiber)
{
#ifdef SIM_ASAN
    __sanitizer_start_switch_fiber(fiber->ended ? NULL : &fiber->fake_stack, scheduler_stack,
                                   scheduler_stack_size);
#endif
    if (_setjmp(fiber->context) == 0) {
        _longjmp(scheduler_context, 1);
    }
#ifdef SIM_ASAN
    __sanitizer_finish_switch_fiber(fiber->fake_stack, NULL, NULL);
#endif
}

static void fiber_main(void)
{
#ifdef SIM_ASAN
    __sanitizer_finish_switch_fiber(NULL, &scheduler_stack, &scheduler_stack_size);
#endif
    struct fiber *fiber = current;
    fiber->run(fiber->argument);
    fiber->ended = true;
    sim_wake(fiber, true);
    leave(fiber);
    assert(false && "an ended fiber was resumed");
}

static void enter(struct fiber *fiber)
{
    current = fiber;
#ifdef SIM_ASAN
    __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber->stack, STACK_SIZE);
#endif
    if (_setjmp(scheduler_context) == 0) {
        if (fiber->begun) {
            _longjmp(fiber->context, 1);
        }
        fiber->begun = true;
        ucontext_t context;
        getcontext(&context);
        context.uc_stack.ss_sp = fiber->stack;
        context.uc_stack.ss_size = STACK_SIZE;
        context.uc_link = NULL;
        makecontext(&context, fiber_main, 0);
        swapcontext(&scheduler_entry, &context); /* Never comes back here. */
    }
#ifdef SIM_ASAN
    __sanitizer_finish_switch_fiber(scheduler_fake_stack, NULL, NULL);
#endif
    current = NULL;
}

static uint32_t fiber_start(const char *name, bool of_daemon, void *(*run)(void *argument),
                            void *argument)
{
    assert(fiber_count < SIM_FIBER_MAX);
    struct fiber *fiber = &fibers[fiber_count];
    *fiber = (struct fiber){.run = run, .argument = argument, .name = name, .of_daemon = of_daemon};
    fiber->stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert(fiber->stack != MAP_FAILED);
    /* What is read before it is written differs between the two runs of a seed. */
    memset(fiber->stack + STACK_SIZE - STACK_DIRT, sim->shifted ? 0x5a : 0xa5, STACK_DIRT);
    fiber_count += 1;
    return fiber_count - 1;
}

void sim_fiber_start(const char *name, bool of_daemon, void *(*run)(void *argument), void *argument)
{
    (void)fiber_start(name, of_daemon, run, argument);
}

bool sim_on_fiber(void)
{
    return current != NULL;
}

void sim_yield(void)
{
    sim_sleep(0);
}

void sim_sleep(uint64_t ns)
{
    struct fiber *fiber = current;
    assert(fiber != NULL);
    fiber->waits_for = NULL;
    fiber->wake_ns = sim->now_ns + ns;
    fiber->heartbeat = false;
    leave(fiber);
}

bool sim_wait(const void *what, uint64_t deadline_ns)
{
    struct fiber *fiber = current;
    assert(fiber != NULL && what != NULL);
    fiber->waits_for = what;
    fiber->wake_ns = deadline_ns;
    fiber->heartbeat = deadline_ns != UINT64_MAX && deadline_ns > sim->now_ns + heartbeat_ns;
    fiber->timed_out = false;
    leave(fiber);
    return !fiber->timed_out;
}

void sim_wake(const void *what, bool all)
{
    const uint32_t first = fiber_count == 0 ? 0 : (uint32_t)sim_below(fiber_count);
    for (uint32_t i = 0; i < fiber_count; i++) {
        struct fiber *fiber = &fibers[(first + i) % fiber_count];
        if (fiber->waits_for == what && !fiber->ended) {
            fiber->waits_for = NULL;
            fiber->wake_ns = sim->now_ns;
            if (!all) {
                return;
            }
        }
    }
}

/* ---- Scheduling --------------------------------------------------------------------------------
 */

static bool fiber_is_ready(const struct fiber *fiber)
{
    return !fiber->ended && fiber->wake_ns <= sim->now_ns;
}

static uint32_t ready_list(uint32_t *list)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < fiber_count; i++) {
        if (fiber_is_ready(&fibers[i])) {
            list[count++] = i;
        }
    }
    return count;
}

static void who_waits(void)
{
    for (uint32_t i = 0; i < fiber_count; i++) {
        const struct fiber *fiber = &fibers[i];
        if (!fiber->ended) {
            fprintf(stderr, "holt_sim: fiber %u, %s, %s, until %" PRIu64 "\n", i, fiber->name,
                    fiber->waits_for != NULL ? "waits" : "sleeps", fiber->wake_ns);
        }
    }
}

/* Whether a thread of the daemon has something coming that is no heartbeat: a call of the disk. */
static bool daemon_is_busy(void)
{
    for (uint32_t i = 0; i < fiber_count; i++) {
        const struct fiber *fiber = &fibers[i];
        if (!fiber->ended && fiber->of_daemon && fiber->wake_ns != UINT64_MAX &&
            !fiber->heartbeat) {
            return true;
        }
    }
    return false;
}

/* Nobody can go on before the next timer: time passes. */
static void advance_time(void)
{
    struct fiber *next = NULL;
    for (uint32_t i = 0; i < fiber_count; i++) {
        struct fiber *fiber = &fibers[i];
        if (!fiber->ended && fiber->wake_ns != UINT64_MAX &&
            (next == NULL || fiber->wake_ns < next->wake_ns)) {
            next = fiber;
        }
    }
    if (next == NULL) {
        who_waits();
        sim_fail("deadlock: every thread waits for another");
    }
    if (next->heartbeat && sim_front_is_waiting() && !daemon_is_busy()) {
        who_waits();
        sim_fail("requests wait, and only a heartbeat would wake the forest thread: a ring was "
                 "forgotten");
    }
    sim->now_ns = next->wake_ns;
}

static void resume(uint32_t index)
{
    struct fiber *fiber = &fibers[index];
    if (fiber->waits_for != NULL) {
        fiber->timed_out = true;
        fiber->waits_for = NULL;
    }
    fiber->wake_ns = UINT64_MAX;
    sim_mix(index);
    enter(fiber);
}

void sim_schedule(bool (*done)(void))
{
    slow = (uint32_t)sim_below(SIM_FIBER_MAX);
    while (!done()) {
        sim->step += 1;
        sim->now_ns += STEP_NS;
        sim_step();
        uint32_t ready[SIM_FIBER_MAX];
        uint32_t count = ready_list(ready);
        while (count == 0) {
            advance_time();
            count = ready_list(ready);
        }
        uint32_t choice = ready[sim_below(count)];
        if (choice == slow && sim_below(SLOW_ODDS) > 0) {
            choice = ready[sim_below(count)];
        }
        resume(choice);
    }
}

/* ---- Locks -------------------------------------------------------------------------------------
 */

static void may_preempt(void)
{
    if (current != NULL && sim_chance(sim->swarm.preempt_chance)) {
        sim_yield();
    }
}

static enum lock_rank *rank_held(void)
{
    return current != NULL ? &current->rank_held : &scheduler_rank;
}

static void lock(struct mutex *mutex)
{
    while (pthread_mutex_trylock(&mutex->handle) != 0) {
        assert(current != NULL); /* The scheduler looks at nothing that a fiber may hold. */
        lock_waiters += 1;
        (void)sim_wait(mutex, UINT64_MAX);
        lock_waiters -= 1;
    }
}

void __wrap_mutex_lock(struct mutex *mutex);
void __wrap_mutex_lock(struct mutex *mutex)
{
    assert(mutex->rank > *rank_held());
    may_preempt();
    lock(mutex);
    mutex->rank_outer = *rank_held();
    *rank_held() = mutex->rank;
}

static void unlock(struct mutex *mutex)
{
    const int error = pthread_mutex_unlock(&mutex->handle);
    assert(error == 0);
    if (lock_waiters > 0) {
        sim_wake(mutex, true);
    }
}

void __wrap_mutex_unlock(struct mutex *mutex);
void __wrap_mutex_unlock(struct mutex *mutex)
{
    assert(mutex->rank == *rank_held());
    *rank_held() = mutex->rank_outer;
    unlock(mutex);
    may_preempt();
}

/* False: the deadline has passed. */
static bool wait(struct mutex *mutex, pthread_cond_t *condition, uint64_t deadline_ns)
{
    assert(current != NULL);
    assert(mutex->rank == current->rank_held);
    const enum lock_rank rank_outer = mutex->rank_outer;
    unlock(mutex);
    struct fiber *fiber = current;
    bool in_time;
    if (sim_chance(sim->swarm.spurious_chance)) {
        sim_yield();
        in_time = true;
    } else {
        in_time = sim_wait(condition, deadline_ns);
    }
    lock(mutex);
    mutex->rank_outer = rank_outer;
    assert(fiber == current);
    return in_time;
}

void __wrap_mutex_wait(struct mutex *mutex, pthread_cond_t *condition);
void __wrap_mutex_wait(struct mutex *mutex, pthread_cond_t *condition)
{
    (void)wait(mutex, condition, UINT64_MAX);
}

bool __wrap_mutex_wait_until(struct mutex *mutex, pthread_cond_t *condition,
                             const struct timespec *deadline);
bool __wrap_mutex_wait_until(struct mutex *mutex, pthread_cond_t *condition,
                             const struct timespec *deadline)
{
    return wait(mutex, condition,
                (uint64_t)deadline->tv_sec * 1000000000u + (uint64_t)deadline->tv_nsec);
}

int __wrap_pthread_cond_signal(pthread_cond_t *condition);
int __wrap_pthread_cond_signal(pthread_cond_t *condition)
{
    sim_wake(condition, false);
    return 0;
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *condition);
int __wrap_pthread_cond_broadcast(pthread_cond_t *condition)
{
    sim_wake(condition, true);
    return 0;
}

int __wrap_pthread_cond_destroy(pthread_cond_t *condition);
int __wrap_pthread_cond_destroy(pthread_cond_t *condition)
{
    for (uint32_t i = 0; i < fiber_count; i++) {
        assert(fibers[i].ended || fibers[i].waits_for != condition);
    }
    return 0;
}

/* ---- Threads, signals, time --------------------------------------------------------------------
 */

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*run)(void *argument), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*run)(void *argument), void *argument)
{
    assert(attributes == NULL);
    *thread = (pthread_t)fiber_start("thread", true, run, argument) + 1;
    return 0;
}

static struct fiber *fiber_of(pthread_t thread)
{
    assert(thread >= 1 && thread <= fiber_count);
    return &fibers[thread - 1];
}

int __wrap_pthread_join(pthread_t thread, void **result);
int __wrap_pthread_join(pthread_t thread, void **result)
{
    struct fiber *fiber = fiber_of(thread);
    assert(result == NULL);
    while (!fiber->ended) {
        (void)sim_wait(fiber, UINT64_MAX);
    }
    return 0;
}

/* Only of the signal thread, which waits in sigwait or has not begun to. */
int __wrap_pthread_cancel(pthread_t thread);
int __wrap_pthread_cancel(pthread_t thread)
{
    struct fiber *fiber = fiber_of(thread);
    fiber->ended = true;
    sim_wake(fiber, true);
    return 0;
}

int __wrap_pthread_setname_np(pthread_t thread, const char *name);
int __wrap_pthread_setname_np(pthread_t thread, const char *name)
{
    if (!pthread_equal(thread, pthread_self())) { /* A fiber may name itself: it has no id. */
        (void)fiber_of(thread);
    }
    assert(strlen(name) < 16);
    return 0;
}

int __wrap_pthread_sigmask(int how, const sigset_t *set, sigset_t *old_set);
int __wrap_pthread_sigmask(int how, const sigset_t *set, sigset_t *old_set)
{
    (void)how;
    (void)set;
    if (old_set != NULL) {
        sigemptyset(old_set);
    }
    return 0;
}

static bool stop_taken;

int __wrap_sigwait(const sigset_t *set, int *received);
int __wrap_sigwait(const sigset_t *set, int *received)
{
    (void)set;
    while (!sim->life.stop_wanted || stop_taken) {
        (void)sim_wait(&sim->life.stop_wanted, UINT64_MAX);
    }
    stop_taken = true;
    *received = SIGTERM;
    return 0;
}

int __wrap_clock_gettime(clockid_t id, struct timespec *now);
int __wrap_clock_gettime(clockid_t id, struct timespec *now)
{
    const uint64_t ns = sim->now_ns + (id == CLOCK_REALTIME ? sim->realtime_offset_ns : 0);
    if (id == CLOCK_REALTIME && ns > sim->realtime_ns_max) {
        sim->realtime_ns_max = ns;
    }
    now->tv_sec = (time_t)(ns / 1000000000u);
    now->tv_nsec = (long)(ns % 1000000000u);
    return 0;
}

/* ---- Memory ------------------------------------------------------------------------------------
 *
 * What the daemon takes at start comes from one reservation of large pages, which are zero without
 * a fault for each 4 KiB of them: half of a life's time went there. The second run of a seed takes
 * it from the other end, so that the order of addresses is another. Under ASan, which wants to see
 * every piece, it is the daemon's own. */

void *__real_memory_acquire(size_t size);
void __real_memory_release(void *memory, size_t size);

#ifndef SIM_ASAN
enum { LARGE_PAGE = 2 * 1024 * 1024 };
static const size_t reservation_size = 1024ull * 1024 * 1024;
static uint8_t *reservation;
static size_t reservation_used;

static void *map_private(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert(memory != MAP_FAILED);
    return memory;
}

static void *take(size_t size)
{
    if (reservation == NULL) {
        uint8_t *memory = map_private(reservation_size + LARGE_PAGE);
        reservation = memory + (LARGE_PAGE - (uintptr_t)memory % LARGE_PAGE) % LARGE_PAGE;
        madvise(reservation, reservation_size, MADV_HUGEPAGE); /* Small pages do, too. */
    }
    const size_t whole = (size + SECTOR_SIZE - 1) / SECTOR_SIZE * SECTOR_SIZE;
    assert(reservation_used + whole <= reservation_size);
    reservation_used += whole;
    return sim->shifted ? reservation + reservation_size - reservation_used
                        : reservation + reservation_used - whole;
}
#endif

void *__wrap_memory_acquire(size_t size);
void *__wrap_memory_acquire(size_t size)
{
#ifdef SIM_ASAN
    return __real_memory_acquire(size);
#else
    if (size == 0) {
        return NULL;
    }
    return current != NULL ? take(size) : map_private(size);
#endif
}

void __wrap_memory_release(void *memory, size_t size);
void __wrap_memory_release(void *memory, size_t size)
{
#ifdef SIM_ASAN
    __real_memory_release(memory, size);
#else
    const uint8_t *bytes = memory;
    const bool reserved =
        reservation != NULL && bytes >= reservation && bytes < reservation + reservation_size;
    if (memory != NULL && !reserved) {
        munmap(memory, size);
    }
#endif
}

void __wrap_memory_populate(const _Atomic bool *stop);
void __wrap_memory_populate(const _Atomic bool *stop)
{
    (void)stop; /* It changes no byte, and takes time. */
}

/* The guard is per thread, so here per fiber. */
static bool *allocation_forbidden(void)
{
    static bool of_scheduler;
    return current != NULL ? &current->allocation_forbidden : &of_scheduler;
}

void __wrap_memory_forbid_allocation(void);
void __wrap_memory_forbid_allocation(void)
{
    *allocation_forbidden() = true;
}

void __wrap_memory_allow_allocation(void);
void __wrap_memory_allow_allocation(void)
{
    *allocation_forbidden() = false;
}

bool __wrap_memory_allocation_forbidden(void);
bool __wrap_memory_allocation_forbidden(void)
{
    return *allocation_forbidden();
}
