/* Goal: no ring is lost and a wait ends when it should. Method: rings before the wait, timeouts of
 * zero and more, two threads that can only go on if each hears the other, and one of them at an
 * eventfd. */
#include "pool/doorbell.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "pool/clock.h"

static struct doorbell bell;
static struct doorbell answer;

static void setup(void)
{
    doorbell_init(&bell);
    doorbell_init(&answer);
}

static void teardown(void)
{
    doorbell_deinit(&answer);
    doorbell_deinit(&bell);
}

TestSuite(doorbell, .init = setup, .fini = teardown, .timeout = 120);

Test(doorbell, ring_before_the_wait_is_heard)
{
    const uint64_t seen = doorbell_count(&bell);

    doorbell_ring(&bell);
    doorbell_wait(&bell, seen, DOORBELL_WAIT_FOREVER);
    cr_assert(eq(u64, doorbell_count(&bell), seen + 1));
}

Test(doorbell, timeout_ends_the_wait)
{
    const uint64_t timeouts_ns[] = {0, 1, 5000000};

    for (int i = 0; i < 3; i++) {
        const uint64_t start_ns = clock_monotonic_ns(&clock_system);
        doorbell_wait(&bell, 0, timeouts_ns[i]);
        cr_assert(ge(u64, clock_monotonic_ns(&clock_system) - start_ns, timeouts_ns[i]));
    }
    cr_assert(eq(u64, doorbell_count(&bell), 0));
}

Test(doorbell, waiting_for_a_ring_of_the_future_is_a_bug, .fini = NULL, .signal = SIGABRT)
{
    doorbell_wait(&bell, 1, 0);
}

enum { ROUND_COUNT = 2000 };

static void *answer_each_ring(void *argument)
{
    (void)argument;
    for (uint64_t i = 0; i < ROUND_COUNT; i++) {
        doorbell_wait(&bell, i, DOORBELL_WAIT_FOREVER);
        doorbell_ring(&answer);
    }
    return NULL;
}

Test(doorbell, two_threads_hear_each_other)
{
    pthread_t thread;
    cr_assert(eq(int, pthread_create(&thread, NULL, answer_each_ring, NULL), 0));
    for (uint64_t i = 0; i < ROUND_COUNT; i++) {
        doorbell_ring(&bell);
        /* Alternately without an end and with one that is far away. */
        doorbell_wait(&answer, i, i % 2 ? DOORBELL_WAIT_FOREVER : UINT64_C(3600000000000));
        cr_assert(eq(u64, doorbell_count(&answer), i + 1));
    }
    cr_assert(eq(int, pthread_join(thread, NULL), 0));
}

static void *wait_for_the_first_ring(void *argument)
{
    (void)argument;
    doorbell_wait(&bell, 0, DOORBELL_WAIT_FOREVER);
    return NULL;
}

static bool sleeps(void)
{
    for (int i = 0; i < 10000 && atomic_load(&bell.sleeper) != DOORBELL_WAITING; i++) {
        poll(NULL, 0, 1);
    }
    return atomic_load(&bell.sleeper) == DOORBELL_WAITING;
}

/* A ringer whose ring was heard before he came to wake the sleeper wakes him from his next sleep,
 * for nothing: the second half of doorbell_ring. Then the sleeper must say again that he sleeps. */
Test(doorbell, a_ringer_who_is_late_does_not_make_the_next_ring_unheard)
{
    pthread_t thread;
    cr_assert(eq(int, pthread_create(&thread, NULL, wait_for_the_first_ring, NULL), 0));
    cr_assert(sleeps());
    mutex_lock(&bell.mutex);
    atomic_store(&bell.sleeper, DOORBELL_AWAKE);
    mutex_unlock(&bell.mutex);
    pthread_cond_signal(&bell.rung);
    cr_assert(sleeps());
    doorbell_ring(&bell);
    cr_assert(eq(int, pthread_join(thread, NULL), 0));
}

/* ---- Beside descriptors ------------------------------------------------------------------------
 */

static bool is_readable(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    return poll(&poll_fd, 1, 0) == 1;
}

Test(doorbell, who_polls_is_rung_by_his_descriptor_and_only_while_he_polls)
{
    const int fd = eventfd(0, EFD_NONBLOCK);
    doorbell_set_poll_fd(&bell, fd);
    doorbell_ring(&bell);
    cr_assert(not(is_readable(fd))); /* Nobody sleeps. */
    cr_assert(not(doorbell_poll_begin(&bell, 0)));
    doorbell_poll_end(&bell);

    cr_assert(doorbell_poll_begin(&bell, 1));
    cr_assert(not(is_readable(fd)));
    doorbell_ring(&bell);
    cr_assert(is_readable(fd));
    doorbell_ring(&bell);
    uint64_t written;
    cr_assert(eq(long, read(fd, &written, sizeof written), sizeof written));
    cr_assert(eq(u64, written, 1)); /* The first one woke him. */
    doorbell_poll_end(&bell);

    doorbell_set_poll_fd(&bell, -1);
    const uint64_t seen = doorbell_count(&bell);
    doorbell_ring(&bell);
    doorbell_wait(&bell, seen, DOORBELL_WAIT_FOREVER); /* As ever. */
    close(fd);
}

static void *answer_each_ring_by_poll(void *argument)
{
    struct pollfd poll_fd = {.fd = *(int *)argument, .events = POLLIN};
    for (uint64_t i = 0; i < ROUND_COUNT; i++) {
        while (doorbell_poll_begin(&bell, i)) {
            uint64_t count;
            cr_assert(eq(int, poll(&poll_fd, 1, -1), 1));
            cr_assert(eq(long, read(poll_fd.fd, &count, sizeof count), sizeof count));
        }
        doorbell_poll_end(&bell);
        doorbell_ring(&answer);
    }
    return NULL;
}

Test(doorbell, a_thread_that_polls_hears_each_ring)
{
    int fd = eventfd(0, 0);
    doorbell_set_poll_fd(&bell, fd);
    pthread_t thread;
    cr_assert(eq(int, pthread_create(&thread, NULL, answer_each_ring_by_poll, &fd), 0));
    for (uint64_t i = 0; i < ROUND_COUNT; i++) {
        doorbell_ring(&bell);
        doorbell_wait(&answer, i, DOORBELL_WAIT_FOREVER);
    }
    cr_assert(eq(int, pthread_join(thread, NULL), 0));
    close(fd);
}
