/* Goal: order, both bounds, shares, and nothing lost between pushers and the one that takes.
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
    cr_assert_eq(request_queue_init(&queue, &doorbell, COUNT_MAX, SIZE_MAX_TEST), STATUS_OK);
}

static void teardown(void)
{
    request_queue_deinit(&queue);
    doorbell_deinit(&doorbell);
}

static bool push(struct exchange *exchange)
{
    uint32_t retry_after_ms = 0;
    const bool pushed = request_queue_push(&queue, exchange, &retry_after_ms);
    cr_assert_eq(retry_after_ms > 0, !pushed);
    return pushed;
}

/* Takes all and has them leave. Returns how many there were. */
static uint32_t empty(void)
{
    uint32_t count = 0;
    for (struct exchange *exchange = request_queue_take_all(&queue); exchange != NULL; count++) {
        struct exchange *next = exchange->next;
        request_queue_leave(&queue, exchange);
        exchange = next;
    }
    return count;
}

Test(request_queue, keeps_order_and_rings, .init = setup, .fini = teardown)
{
    struct exchange exchanges[3] = {{.request_size = 1}, {.request_size = 2}, {.request_size = 3}};
    const uint64_t seen = doorbell_count(&doorbell);
    for (int i = 0; i < 3; i++) {
        cr_assert(push(&exchanges[i]));
    }
    cr_assert_eq(doorbell_count(&doorbell), seen + 3);
    struct exchange *taken = request_queue_take_all(&queue);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(taken, &exchanges[i]);
        request_queue_leave(&queue, taken);
        taken = taken->next;
    }
    cr_assert_null(taken);
    cr_assert_null(request_queue_take_all(&queue));
}

Test(request_queue, a_full_count_refuses_and_recovers, .init = setup, .fini = teardown)
{
    struct exchange exchanges[COUNT_MAX + 1] = {0};
    for (int i = 0; i < COUNT_MAX; i++) {
        cr_assert(push(&exchanges[i]));
    }
    const uint64_t seen = doorbell_count(&doorbell);
    cr_assert_not(push(&exchanges[COUNT_MAX]));
    cr_assert_eq(doorbell_count(&doorbell), seen);
    struct request_queue_stats stats;
    request_queue_stats_read(&queue, &stats);
    cr_assert_eq(stats.count, COUNT_MAX);
    cr_assert_eq(stats.refused_total, 1);
    empty();
    cr_assert(push(&exchanges[COUNT_MAX]));
    empty();
}

Test(request_queue, full_bytes_refuse_the_big_and_take_the_small, .init = setup, .fini = teardown)
{
    struct exchange first = {.request_size = SIZE_MAX_TEST - 10};
    struct exchange big = {.request_size = 11};
    struct exchange small = {.request_size = 10};
    cr_assert(push(&first));
    cr_assert_not(push(&big));
    cr_assert(push(&small));
    struct request_queue_stats stats;
    request_queue_stats_read(&queue, &stats);
    cr_assert_eq(stats.size, stats.size_max);
    empty();
}

Test(request_queue, what_was_taken_counts_until_it_leaves, .init = setup, .fini = teardown)
{
    struct exchange exchanges[COUNT_MAX + 1] = {0};
    for (int i = 0; i < COUNT_MAX; i++) {
        exchanges[i].peer_uid = (uint32_t)i % 3;
        cr_assert(push(&exchanges[i]));
    }
    cr_assert_eq(request_queue_take_all(&queue), &exchanges[0]);
    cr_assert_not(push(&exchanges[COUNT_MAX]));
    request_queue_leave(&queue, &exchanges[3]);
    cr_assert(push(&exchanges[COUNT_MAX]));
    cr_assert_eq(request_queue_take_all(&queue), &exchanges[COUNT_MAX]);
    for (int i = 0; i <= COUNT_MAX; i++) {
        if (i != 3) {
            request_queue_leave(&queue, &exchanges[i]);
        }
    }
}

/* ---- Shares ---- */

enum { UNIT = 2 * REQUEST_QUEUE_SMALL, UNIT_COUNT = 28 };

static void setup_large(void)
{
    doorbell_init(&doorbell);
    cr_assert_eq(request_queue_init(&queue, &doorbell, 100, UNIT_COUNT * UNIT), STATUS_OK);
}

/* How many requests of one unit a user gets in. */
static uint32_t fill(struct exchange *exchanges, uint32_t uid)
{
    uint32_t count = 0;
    exchanges[0] = (struct exchange){.peer_uid = uid, .request_size = UNIT};
    while (push(&exchanges[count])) {
        count += 1;
        exchanges[count] = (struct exchange){.peer_uid = uid, .request_size = UNIT};
    }
    return count;
}

Test(request_queue, large_requests_leave_room_for_the_next_user, .init = setup_large,
     .fini = teardown)
{
    static struct exchange exchanges[4][UNIT_COUNT + 1];
    cr_assert_eq(fill(exchanges[0], 10), UNIT_COUNT * 3 / 4);
    cr_assert_eq(fill(exchanges[1], 11), 5); /* Three quarters of what is left, and so on. */
    cr_assert_eq(fill(exchanges[2], 12), 1);
    cr_assert_eq(fill(exchanges[3], 13), 1); /* The first of somebody new needs no share. */
    cr_assert_eq(empty(), 28);
    cr_assert_eq(fill(exchanges[0], 10), UNIT_COUNT * 3 / 4);
    struct exchange small[40];
    for (int i = 0; i < 14; i++) { /* His own small ones come in to the end. */
        small[i] = (struct exchange){.peer_uid = 10, .request_size = REQUEST_QUEUE_SMALL};
        cr_assert(push(&small[i]), "%d", i);
    }
    small[14] = small[13];
    cr_assert_not(push(&small[14]));
    empty();
}

Test(request_queue, the_pause_grows_with_what_waits, .init = setup_large, .fini = teardown)
{
    static struct exchange exchanges[2][UNIT_COUNT + 1];
    struct exchange huge = {.peer_uid = 9, .request_size = UNIT_COUNT * UNIT + 1};
    uint32_t empty_ms = 0;
    uint32_t full_ms = 0;
    cr_assert_not(request_queue_push(&queue, &huge, &empty_ms));
    fill(exchanges[0], 10);
    cr_assert_not(request_queue_push(&queue, &huge, &full_ms));
    cr_assert_eq(empty_ms, 1);
    cr_assert_eq(full_ms, 1 + 21 * UNIT / (64 * 1024) + 21 / 8);
    struct request_queue_stats stats;
    request_queue_stats_read(&queue, &stats);
    cr_assert_eq(stats.refused_total, 3);
    empty();
}

enum { PUSHERS = 4, PUSHES = 5000 };

static void *push_many(void *context)
{
    struct exchange *exchanges = context;
    for (int i = 0; i < PUSHES; i++) {
        exchanges[i].peer_id = (uint32_t)i;
        exchanges[i].request_size = 1;
        while (!push(&exchanges[i])) {
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
            request_queue_leave(&queue, exchange);
        }
    }
    for (int i = 0; i < PUSHERS; i++) {
        pthread_join(threads[i], NULL);
    }
}

Test(request_queue, an_abandoned_request_is_a_bug, .init = setup, .signal = SIGABRT)
{
    struct exchange exchange = {0};
    uint32_t retry_after_ms;
    if (request_queue_push(&queue, &exchange, &retry_after_ms)) {
        request_queue_deinit(&queue);
    }
}
