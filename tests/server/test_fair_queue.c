/* Goal: whoever floods, over however many connections and however deep, costs another user one turn
 * and one request, and another connection of his own likewise; what is large is served in its turn;
 * the order of a connection is kept.
 * Method: the bounds counted in requests and bytes, never in time; and random traffic against the
 * same rule written with arrays. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "server/fair_queue.h"
#include "tests/harness/prng.h"

TestSuite(fair_queue, .timeout = 120);

enum { COUNT_MAX = 2000, SMALL = 100, LARGE = 1 << 20, TURN_COUNT = 16 };

static struct fair_queue queue;
static struct exchange exchanges[COUNT_MAX];
static uint32_t used;

static void setup(void)
{
    cr_assert_eq(fair_queue_init(&queue, COUNT_MAX, FAIR_QUEUE_COST_SMALL), STATUS_OK);
}

static void teardown(void)
{
    while (queue.count > 0) {
        fair_queue_pop(&queue);
    }
    fair_queue_deinit(&queue);
}

static struct exchange *push(uint32_t uid, uint32_t peer_id, uint32_t size)
{
    cr_assert_lt(used, COUNT_MAX);
    struct exchange *exchange = &exchanges[used++];
    *exchange = (struct exchange){.peer_uid = uid, .peer_id = peer_id, .request_size = size};
    fair_queue_push(&queue, exchange);
    return exchange;
}

/* How many others are served before this one. */
static uint32_t served_before(const struct exchange *exchange)
{
    uint32_t count = 0;
    while (fair_queue_pop(&queue) != exchange) {
        count += 1;
    }
    return count;
}

Test(fair_queue, one_connection_is_served_in_order, .init = setup, .fini = teardown)
{
    cr_assert_null(fair_queue_peek(&queue));
    static const uint32_t sizes[] = {1, LARGE, 5000, 0, FAIR_QUEUE_CREDIT, FAIR_QUEUE_CREDIT + 1,
                                     7};
    for (uint32_t i = 0; i < 7; i++) {
        push(1, 1, sizes[i]);
    }
    for (uint32_t i = 0; i < 7; i++) {
        cr_assert_eq(fair_queue_peek(&queue), &exchanges[i]);
        cr_assert_eq(fair_queue_pop(&queue), &exchanges[i]);
        cr_assert_null(exchanges[i].next);
    }
    cr_assert_null(fair_queue_peek(&queue));
}

Test(fair_queue, what_is_seen_stays_until_it_is_taken, .init = setup, .fini = teardown)
{
    struct exchange *large = push(1, 1, LARGE);
    cr_assert_eq(fair_queue_peek(&queue), large);
    push(2, 2, SMALL); /* who comes later and asks for less */
    push(1, 3, SMALL);
    for (uint32_t i = 0; i < 200; i++) {
        cr_assert_eq(fair_queue_peek(&queue), large);
    }
    cr_assert_eq(fair_queue_pop(&queue), large);
}

Test(fair_queue, a_flood_over_many_connections_costs_another_user_one_turn, .init = setup,
     .fini = teardown)
{
    for (uint32_t connection = 0; connection < 150; connection++) {
        for (uint32_t i = 0; i < 10; i++) {
            push(1000, connection, SMALL);
        }
    }
    for (uint32_t i = 0; i < 5; i++) { /* Wherever in its turn the flood is. */
        for (uint32_t k = 0; k < i * 5; k++) {
            fair_queue_pop(&queue);
        }
        cr_assert_leq(served_before(push(1001, 500 + i, SMALL)), TURN_COUNT);
    }
}

Test(fair_queue, a_deep_pipeline_costs_another_connection_one_turn, .init = setup, .fini = teardown)
{
    for (uint32_t i = 0; i < 1000; i++) {
        push(1000, 1, SMALL);
    }
    fair_queue_pop(&queue);
    for (uint32_t i = 0; i < 10; i++) {
        cr_assert_leq(served_before(push(1000, 2, SMALL)), TURN_COUNT);
    }
}

/* A flood of large requests costs one of them: what was saved up for it. */
Test(fair_queue, a_flood_of_large_requests_costs_one_of_them, .init = setup, .fini = teardown)
{
    for (uint32_t i = 0; i < 100; i++) {
        push(1000, i % 20, LARGE);
    }
    for (uint32_t i = 0; i < 20; i++) {
        cr_assert_leq(served_before(push(1001, 99, SMALL)), 1);
    }
}

/* Two who always ask for little, and come again as soon as they are served, do not starve one who
 * asks for much: nobody may be passed over for ever. */
Test(fair_queue, those_who_come_again_and_again_do_not_starve_the_large, .init = setup,
     .fini = teardown)
{
    const struct exchange *large = push(1, 1, LARGE);
    for (uint32_t i = 0; i < 3; i++) {
        push(2 + i, 2 + i, SMALL);
    }
    uint32_t others = 0;
    for (;;) {
        struct exchange *exchange = fair_queue_pop(&queue);
        if (exchange == large) {
            break;
        }
        fair_queue_push(&queue, exchange);
        others += 1;
    }
    /* In each of its 64 turns, each of the others had one, worth at most 16 small requests. */
    cr_assert_leq(others, LARGE / FAIR_QUEUE_CREDIT * 3 * TURN_COUNT, "%u", others);
    cr_assert_geq(others, LARGE / FAIR_QUEUE_CREDIT - 1, "%u", others);
}

/* While two users have enough waiting, they get the same bytes, whatever they ask in. */
Test(fair_queue, users_get_the_same_bytes_over_any_span, .init = setup, .fini = teardown)
{
    enum { SIZE_MAX_A = 200 * 1024, SIZE_B = 2000, SPREAD = 2 * (SIZE_MAX_A + FAIR_QUEUE_CREDIT) };
    struct prng prng;
    prng_init(&prng, 7);
    int64_t balance = 0;
    int64_t lowest = 0;
    int64_t highest = 0;
    for (uint32_t i = 0; i < 30; i++) {
        push(1, i, 1 + (uint32_t)prng_below(&prng, SIZE_MAX_A));
        push(2, 100, SIZE_B); /* all on one connection, against thirty */
    }
    for (uint32_t i = 0; i < 20000; i++) {
        struct exchange *exchange = fair_queue_pop(&queue);
        balance += exchange->peer_uid == 1 ? (int64_t)exchange->request_size : -SIZE_B;
        lowest = balance < lowest ? balance : lowest;
        highest = balance > highest ? balance : highest;
        fair_queue_push(&queue, exchange); /* He asks the same again. */
    }
    cr_assert_leq(highest - lowest, SPREAD, "%ld", highest - lowest);
}

Test(fair_queue, who_is_passed_keeps_his_place_among_the_others, .init = setup, .fini = teardown)
{
    struct exchange *first = push(1, 1, SMALL);
    struct exchange *second = push(2, 2, SMALL);
    struct exchange *third = push(3, 3, SMALL);
    fair_queue_pass(&queue);
    cr_assert_eq(fair_queue_peek(&queue), second);
    fair_queue_pass(&queue);
    cr_assert_eq(fair_queue_peek(&queue), third);
    fair_queue_pass(&queue);
    cr_assert_eq(fair_queue_pop(&queue), first); /* All were: it is as before. */
    cr_assert_eq(fair_queue_pop(&queue), second);
    cr_assert_eq(queue.users.count, 1);
}

/* ---- Against a model ---- */

/* The rule with arrays: who has something waiting is in `flows`, in the order of turns. */
struct model_flow {
    uint32_t key;
    uint64_t credit;
    struct model_flow *flows; /* connections of a user */
    struct exchange *requests[64];
    uint32_t flow_count, request_count;
};

enum { MODEL_USERS = 5, MODEL_CONNECTIONS = 4 };

static struct model_flow model;

static struct model_flow *model_find(struct model_flow *parent, uint32_t key)
{
    for (uint32_t i = 0; i < parent->flow_count; i++) {
        if (parent->flows[i].key == key) {
            return &parent->flows[i];
        }
    }
    if (parent->flows == NULL) {
        parent->flows = calloc(16, sizeof *parent->flows);
    }
    struct model_flow *flow = &parent->flows[parent->flow_count++];
    *flow = (struct model_flow){.key = key, .credit = FAIR_QUEUE_CREDIT};
    return flow;
}

static void model_drop_first(struct model_flow *parent)
{
    free(parent->flows[0].flows);
    memmove(parent->flows, parent->flows + 1, (parent->flow_count - 1) * sizeof *parent->flows);
    parent->flow_count -= 1;
}

static void model_to_the_end(struct model_flow *parent)
{
    struct model_flow first = parent->flows[0];
    first.credit += FAIR_QUEUE_CREDIT;
    memmove(parent->flows, parent->flows + 1, (parent->flow_count - 1) * sizeof *parent->flows);
    parent->flows[parent->flow_count - 1] = first;
}

static struct exchange *model_pop(void)
{
    for (;;) {
        struct model_flow *user = &model.flows[0];
        struct model_flow *connection = &user->flows[0];
        struct exchange *exchange = connection->requests[0];
        const uint64_t cost = exchange->request_size > FAIR_QUEUE_COST_SMALL
                                  ? exchange->request_size
                                  : FAIR_QUEUE_COST_SMALL;
        if (connection->credit < cost) {
            model_to_the_end(user);
            continue;
        }
        if (user->credit < cost) {
            model_to_the_end(&model);
            continue;
        }
        connection->credit -= cost;
        user->credit -= cost;
        connection->request_count -= 1;
        memmove(connection->requests, connection->requests + 1,
                connection->request_count * sizeof(struct exchange *));
        if (connection->request_count == 0) {
            model_drop_first(user);
        }
        if (user->flow_count == 0) {
            model_drop_first(&model);
        }
        return exchange;
    }
}

Test(fair_queue, random_traffic_is_served_as_the_rule_says, .init = setup, .fini = teardown)
{
    enum { STEPS = 100 * 1000, POOL = 60 };
    static const uint32_t sizes[] = {0, 64, 1023, 1024, 1025, 4000, 16383, 16384, 16385, 70000};
    struct exchange *unused[POOL];
    struct prng prng;
    prng_init(&prng, 42);
    for (uint32_t i = 0; i < POOL; i++) {
        unused[i] = &exchanges[i];
    }
    uint32_t unused_count = POOL;
    uint32_t pops = 0;
    for (uint32_t step = 0; step < STEPS; step++) {
        const bool fill = step / 500 % 2 == 0; /* Now more come, now more go. */
        if (unused_count > 0 && prng_chance(&prng, fill ? 6 : 4, 10)) {
            struct exchange *exchange = unused[--unused_count];
            exchange->peer_uid = (uint32_t)prng_below(&prng, MODEL_USERS);
            exchange->peer_id =
                exchange->peer_uid * 100 + (uint32_t)prng_below(&prng, MODEL_CONNECTIONS);
            exchange->request_size = sizes[prng_below(&prng, 10)];
            fair_queue_push(&queue, exchange);
            struct model_flow *user = model_find(&model, exchange->peer_uid);
            struct model_flow *connection = model_find(user, exchange->peer_id);
            connection->requests[connection->request_count++] = exchange;
        } else if (queue.count > 0) {
            struct exchange *expected = model_pop();
            if (prng_chance(&prng, 1, 3)) {
                cr_assert_eq(fair_queue_peek(&queue), expected);
            }
            cr_assert_eq(fair_queue_pop(&queue), expected, "step %u", step);
            unused[unused_count++] = expected;
            pops += 1;
        }
        cr_assert_eq(queue.count, POOL - unused_count);
    }
    cr_assert_gt(pops, STEPS / 3);
}

Test(fair_queue, every_flow_may_be_another_users, .init = setup, .fini = teardown)
{
    for (uint32_t round = 0; round < 3; round++) {
        used = 0;
        for (uint32_t i = 0; i < COUNT_MAX; i++) {
            push(i, COUNT_MAX - i, SMALL);
        }
        for (uint32_t i = 0; i < COUNT_MAX; i++) {
            cr_assert_eq(fair_queue_pop(&queue), &exchanges[i]);
        }
    }
}

Test(fair_queue, one_more_than_there_may_be_is_a_bug, .signal = SIGABRT)
{
    if (fair_queue_init(&queue, 1, 1) == STATUS_OK) {
        push(1, 1, SMALL);
        push(1, 1, SMALL);
    }
}
