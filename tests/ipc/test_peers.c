/* Goal: a user alone has all that was promised; several leave each other a share, and whoever comes
 * next finds a place; the accounts are those of who is there.
 * Method: the shares by filling up, and random comings and goings against an array. */
#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>

#include "ipc/peers.h"
#include "tests/harness/prng.h"

TestSuite(peers, .timeout = 120);

static struct peers peers;

static void start(uint32_t connection_user_max, uint32_t exchange_count)
{
    cr_assert_eq(peers_init(&peers, connection_user_max, exchange_count), STATUS_OK);
}

/* How many connections the user gets. */
static uint32_t fill(uint32_t uid)
{
    uint32_t count = 0;
    while (peers_connect(&peers, uid) != NULL) {
        count += 1;
    }
    return count;
}

Test(peers, a_user_alone_has_what_was_promised)
{
    for (uint32_t count = 1; count < 300; count++) {
        start(count, 1);
        cr_assert_eq(fill(7), count);
        cr_assert_geq(peers.connection_total - count, 1);
        peers_deinit(&peers);
        /* The same of exchanges, held by one connection. */
        start(1, peers_total_for(count));
        struct peer_user *user = peers_connect(&peers, 7);
        uint32_t held = 0;
        while (peers_may_hold(&peers, user, held, peers_total_for(count) - held)) {
            held += 1;
            user->held += 1;
        }
        cr_assert_geq(held, count);
        cr_assert_lt(held, peers_total_for(count));
        peers_deinit(&peers);
    }
}

Test(peers, greedy_users_leave_a_place_for_the_next)
{
    start(60, 1); /* 80 in all */
    static const uint32_t expected[] = {60, 15, 3, 1, 1, 0};
    for (uint32_t i = 0; i < 6; i++) {
        cr_assert_eq(fill(100 + i), expected[i], "user %u", i);
    }
    cr_assert_eq(peers.connected_user_count, 5);
    struct peer_user *first = peers_find(&peers, 100);
    peers_disconnect(&peers, first);
    peers_disconnect(&peers, first);
    cr_assert_eq(fill(105), 1); /* The place behind that one is kept for somebody new. */
    cr_assert_eq(fill(106), 1);
    cr_assert_null(peers_connect(&peers, 107));
    cr_assert_null(peers_find(&peers, 107));
    peers_deinit(&peers);
}

Test(peers, two_who_are_greedy_at_the_same_time_get_as_much)
{
    start(60, 1);
    uint32_t count[2] = {0};
    for (uint32_t i = 0; i < 200; i++) {
        count[i % 2] += peers_connect(&peers, i % 2) != NULL;
    }
    cr_assert_eq(count[0] - count[1], count[0] > count[1] ? 1 : 0);
    cr_assert_geq(count[1], 33);
    cr_assert_leq(count[0], 35);
    peers_deinit(&peers);
}

/* Exchanges: shared by connections; and a part is for users who hold little, once there are two. */
Test(peers, many_connections_are_one_user)
{
    enum { EXCHANGES = 64, KEPT = 8 };
    start(200, EXCHANGES);
    struct peer_user *greedy = peers_connect(&peers, 1);
    uint32_t held = 0;
    while (peers_may_hold(&peers, greedy, 0, EXCHANGES - held)) { /* each by another connection */
        held += 1;
        greedy->held += 1;
    }
    cr_assert_eq(held, EXCHANGES); /* He is alone. */
    struct peer_user *modest = peers_connect(&peers, 2);
    cr_assert_not(peers_may_hold(&peers, modest, 0, 0));
    for (uint32_t free_count = 1; free_count <= KEPT; free_count++) {
        cr_assert_not(peers_may_hold(&peers, greedy, 0, free_count));
        cr_assert(peers_may_hold(&peers, modest, 0, free_count));
    }
    /* Of the part that is kept each takes half of what is left. */
    uint32_t kept_free = KEPT;
    for (; peers_may_hold(&peers, modest, 0, kept_free); kept_free--) {
        modest->held += 1;
    }
    cr_assert_eq(modest->held, KEPT / 2);
    struct peer_user *third = peers_connect(&peers, 3);
    cr_assert(peers_may_hold(&peers, third, 0, kept_free));
    peers_disconnect(&peers, third);
    modest->held = 0;
    cr_assert(peers_may_hold(&peers, greedy, 0, KEPT + 1));
    cr_assert_not(peers_may_hold(&peers, greedy, 1, KEPT + 1));
    cr_assert(peers_may_hold(&peers, greedy, 1, KEPT + 2));
    greedy->held = 0;
    peers_disconnect(&peers, modest);
    cr_assert_eq(peers.connected_user_count, 1);
    peers_deinit(&peers);
}

Test(peers, an_entry_stays_while_its_exchanges_are_out)
{
    start(3, 8);
    struct peer_user *user = peers_connect(&peers, 1);
    user->held = 2;
    peers_disconnect(&peers, user);
    cr_assert_null(peers_find(&peers, 1));
    cr_assert_neq(peers_connect(&peers, 2), user);
    cr_assert_eq(peers_connect(&peers, 1), user); /* He comes back to what is his. */
    cr_assert_eq(user->held, 2);
    peers_disconnect(&peers, user);
    user->held = 0;
    cr_assert_eq(peers_connect(&peers, 3), user);
    peers_deinit(&peers);
}

Test(peers, random_comings_and_goings_are_counted)
{
    enum { USERS = 12, STEPS = 50 * 1000, MAX = 9 };
    uint32_t connections[USERS] = {0};
    uint32_t total = 0;
    struct prng prng;
    prng_init(&prng, 3);
    start(MAX, 4);
    for (uint32_t step = 0; step < STEPS; step++) {
        const uint32_t uid = (uint32_t)prng_below(&prng, USERS);
        const bool more = prng_chance(&prng, step / 1000 % 2 == 0 ? 6 : 4, 10);
        struct peer_user *user = peers_find(&peers, uid);
        cr_assert_eq(user != NULL, connections[uid] > 0);
        if (more) {
            const uint32_t left = peers_total_for(MAX) - total;
            const bool may = left > 0 && connections[uid] < MAX &&
                             (connections[uid] == 0 || connections[uid] < 3 * (left - 1));
            user = peers_connect(&peers, uid);
            cr_assert_eq(user != NULL, may);
            connections[uid] += may;
            total += may;
        } else if (user != NULL) {
            peers_disconnect(&peers, user);
            connections[uid] -= 1;
            total -= 1;
        }
        uint32_t connected = 0;
        for (uint32_t i = 0; i < USERS; i++) {
            connected += connections[i] > 0;
        }
        cr_assert_eq(peers.connected_user_count, connected);
        cr_assert_eq(peers.connection_count, total);
        cr_assert(user == NULL || (user->uid == uid && user->connections == connections[uid]));
    }
    peers_deinit(&peers);
}

Test(peers, leaving_twice_is_a_bug, .signal = SIGABRT)
{
    start(3, 1);
    struct peer_user *user = peers_connect(&peers, 1);
    peers_disconnect(&peers, user);
    peers_disconnect(&peers, user);
}
