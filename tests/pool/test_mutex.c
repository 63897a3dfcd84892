/* Goal: the lock order is enforced and a timed wait ends. Method: each order, right and wrong, on
 * one thread. */
#include "pool/mutex.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>

static struct mutex outer = MUTEX_INITIALIZER(LOCK_RANK_GRID);
static struct mutex inner = MUTEX_INITIALIZER(LOCK_RANK_JOB_QUEUE);

TestSuite(mutex, .timeout = 120);

Test(mutex, increasing_rank_nests)
{
    for (int i = 0; i < 3; i++) {
        mutex_lock(&outer);
        mutex_lock(&inner);
        mutex_unlock(&inner);
        mutex_lock(&inner);
        mutex_unlock(&inner);
        mutex_unlock(&outer);
    }
    mutex_deinit(&inner);
    mutex_deinit(&outer);
}

Test(mutex, decreasing_rank_is_a_bug, .signal = SIGABRT)
{
    mutex_lock(&inner);
    mutex_lock(&outer);
}

Test(mutex, locking_twice_is_a_bug, .signal = SIGABRT)
{
    mutex_lock(&outer);
    mutex_lock(&outer);
}

Test(mutex, unlocking_out_of_order_is_a_bug, .signal = SIGABRT)
{
    mutex_lock(&outer);
    mutex_lock(&inner);
    mutex_unlock(&outer);
}

Test(mutex, waiting_without_the_lock_is_a_bug, .signal = SIGABRT)
{
    pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
    mutex_wait(&outer, &condition);
}

Test(mutex, timed_wait_ends_and_still_holds_the_lock)
{
    pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
    const struct timespec past = {.tv_sec = 1};

    mutex_lock(&outer);
    mutex_lock(&inner);
    cr_assert(not(mutex_wait_until(&inner, &condition, &past)));
    mutex_unlock(&inner);
    mutex_unlock(&outer);
}
