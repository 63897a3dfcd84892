/* Goal: order, both bounds, and nothing lost between pushers and the one that takes.
 * Method: single-threaded cases for the contract; four pushers against one taker for the rest. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "server/request_queue.h"

TestSuite(request_queue, .timeout = 120);

enum { COUNT_MAX = 8, SIZE_MAX_TEST = 1000 };

static struct doorbell doorbell;
static struct request_queue queue;

static void setup(void)
{
    doorbell_init(&doorbell);
    request_queue_init(&queue, &doorbell, COUNT_MAX, SIZE_MAX_TEST);
}

static void teardown(void)
{
    request_queue_deinit(&queue);
    doorbell_deinit(&doorbell);
}

Test(request_queue, keeps_order_and_rings, .init = setup, .fini = teardown)
{
    struct exchange exchanges[3] = {{.request_size = 1}, {.request_size = 2}, {.request_size = 3}};
    const uint64_t seen = doorbell_count(&doorbell);
    for (int i = 0; i < 3; i++) {
        cr_assert(request_queue_push(&queue, &exchanges[i]));
    }
    cr_assert_eq(doorbell_count(&doorbell), seen + 3);
    struct exchange *taken = request_queue_take_all(&queue);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(taken, &exchanges[i]);
        taken = taken->next;
    }
    cr_assert_null(taken);
    cr_assert_null(request_queue_take_all(&queue));
}

Test(request_queue, a_full_count_refuses_and_recovers, .init = setup, .fini = teardown)
{
    struct exchange exchanges[COUNT_MAX + 1] = {0};
    for (int i = 0; i < COUNT_MAX; i++) {
        cr_assert(request_queue_push(&queue, &exchanges[i]));
    }
    const uint64_t seen = doorbell_count(&doorbell);
    cr_assert_not(request_queue_push(&queue, &exchanges[COUNT_MAX]));
    cr_assert_eq(doorbell_count(&doorbell), seen);
    struct request_queue_stats stats;
    request_queue_stats_read(&queue, &stats);
    cr_assert_eq(stats.count, COUNT_MAX);
    cr_assert_eq(stats.refused_total, 1);
    request_queue_take_all(&queue);
    cr_assert(request_queue_push(&queue, &exchanges[COUNT_MAX]));
    request_queue_take_all(&queue);
}

Test(request_queue, full_bytes_refuse_the_big_and_take_the_small, .init = setup, .fini = teardown)
{
    struct exchange first = {.request_size = SIZE_MAX_TEST - 10};
    struct exchange big = {.request_size = 11};
    struct exchange small = {.request_size = 10};
    cr_assert(request_queue_push(&queue, &first));
    cr_assert_not(request_queue_push(&queue, &big));
    cr_assert(request_queue_push(&queue, &small));
    struct request_queue_stats stats;
    request_queue_stats_read(&queue, &stats);
    cr_assert_eq(stats.size, stats.size_max);
    request_queue_take_all(&queue);
}

enum { PUSHERS = 4, PUSHES = 5000 };

static void *push_many(void *context)
{
    struct exchange *exchanges = context;
    for (int i = 0; i < PUSHES; i++) {
        exchanges[i].peer_id = (uint32_t)i;
        exchanges[i].request_size = 1;
        while (!request_queue_push(&queue, &exchanges[i])) {
            sched_yield();
        }
    }
    return NULL;
}

Test(request_queue, several_pushers_lose_nothing_and_keep_their_order, .init = setup,
     .fini = teardown)
{
    static struct exchange exchanges[PUSHERS][PUSHES];
    pthread_t threads[PUSHERS];
    for (int i = 0; i < PUSHERS; i++) {
        for (int j = 0; j < PUSHES; j++) {
            exchanges[i][j].peer_uid = (uint32_t)i;
        }
        cr_assert_eq(pthread_create(&threads[i], NULL, push_many, exchanges[i]), 0);
    }
    uint32_t next[PUSHERS] = {0};
    uint32_t total = 0;
    while (total < PUSHERS * PUSHES) {
        const uint64_t seen = doorbell_count(&doorbell);
        struct exchange *exchange = request_queue_take_all(&queue);
        if (exchange == NULL) {
            doorbell_wait(&doorbell, seen, 1000000000);
        }
        for (; exchange != NULL; exchange = exchange->next) {
            cr_assert_eq(exchange->peer_id, next[exchange->peer_uid]);
            next[exchange->peer_uid] += 1;
            total += 1;
        }
    }
    for (int i = 0; i < PUSHERS; i++) {
        pthread_join(threads[i], NULL);
    }
}

Test(request_queue, an_abandoned_request_is_a_bug, .init = setup, .signal = SIGABRT)
{
    struct exchange exchange = {0};
    if (request_queue_push(&queue, &exchange)) {
        request_queue_deinit(&queue);
    }
}
