/* Who is connected, by user, and what share of connections and exchanges each may have.
 *
 * Of what there is of a thing, somebody may take one more while he holds less than PEERS_SHARE
 * times what would stay free. So one alone gets three quarters, two a bit more than two fifths
 * each, three a bit less than a third, and a newcomer always finds one, until there are more greedy
 * ones than things. There is a third more of connections (and of the exchanges of nng) than was
 * asked for, so that a user alone has all that he was promised.
 *
 * Exchanges are shared among connections by this rule. And while more than one user is connected,
 * the last eighth of them is for users who hold less than is left of it: connections are cheap, so
 * that by the number of his connections alone a user could have every one.
 *
 * A user is an entry that stays where it is while he has a connection, or an exchange of one that
 * is closed. The caller sees to it that one thread at a time is in here. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "pool/status.h"

enum { PEERS_SHARE = 3, PEERS_KEPT_PART = 8 };

struct peer_user {
    uint32_t uid;
    uint32_t connections;
    uint32_t held; /* exchanges, counted by the caller. Both 0: the entry is free */
};

struct peers {
    struct peer_user *users; /* [user_max], owned; those from user_end on were never used */
    uint32_t user_max;
    uint32_t user_end;
    uint32_t connected_user_count;
    uint32_t connection_count;
    uint32_t connection_total; /* fixed at init, as are the next two */
    uint32_t connection_user_max;
    uint32_t exchange_count;
};

/* How many of a thing there must be that a user alone may have `count`. */
uint32_t peers_total_for(uint32_t count);

/* Connections: `connection_user_max` of one user, peers_total_for() of all. Exchanges: as many as
 * are given. STATUS_NO_MEMORY: nothing to deinit. */
MUST_CHECK enum status peers_init(struct peers *peers, uint32_t connection_user_max,
                                  uint32_t exchange_count);
/* Of zeros: does nothing. */
void peers_deinit(struct peers *peers);
uint64_t peers_memory_size(uint32_t connection_user_max, uint32_t exchange_count);

/* NULL: this user has his share of connections. */
struct peer_user *peers_connect(struct peers *peers, uint32_t uid);
void peers_disconnect(struct peers *peers, struct peer_user *user);

/* The user with this number if he is connected, or NULL. */
struct peer_user *peers_find(struct peers *peers, uint32_t uid);

/* Whether a connection of `user` that holds so many exchanges may take one more of those that are
 * free. */
bool peers_may_hold(const struct peers *peers, const struct peer_user *user,
                    uint32_t connection_held, uint32_t free_count);
