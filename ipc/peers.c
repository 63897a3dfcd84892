#include "ipc/peers.h"

#include <assert.h>
#include <stddef.h>

#include "pool/base.h"
#include "pool/memory.h"

uint32_t peers_total_for(uint32_t count)
{
    return count + (uint32_t)div_ceil(count, PEERS_SHARE);
}

/* Each user has a connection, or an exchange that he has not got back yet. */
static uint32_t user_max_for(uint32_t connection_user_max, uint32_t exchange_count)
{
    return peers_total_for(connection_user_max) + exchange_count;
}

enum status peers_init(struct peers *peers, uint32_t connection_user_max, uint32_t exchange_count)
{
    assert(connection_user_max > 0);
    assert(exchange_count > 0);

    *peers = (struct peers){
        .user_max = user_max_for(connection_user_max, exchange_count),
        .connection_total = peers_total_for(connection_user_max),
        .connection_user_max = connection_user_max,
        .exchange_count = exchange_count,
    };
    peers->users = memory_acquire(peers->user_max * sizeof *peers->users);
    return peers->users != NULL ? STATUS_OK : STATUS_NO_MEMORY;
}

void peers_deinit(struct peers *peers)
{
    memory_release(peers->users, peers->user_max * sizeof *peers->users);
    *peers = (struct peers){0};
}

uint64_t peers_memory_size(uint32_t connection_user_max, uint32_t exchange_count)
{
    return user_max_for(connection_user_max, exchange_count) * sizeof(struct peer_user);
}

static bool is_free(const struct peer_user *user)
{
    return user->connections == 0 && user->held == 0;
}

/* His entry, connected or not; NULL: he has none. */
static struct peer_user *entry_find(struct peers *peers, uint32_t uid)
{
    for (uint32_t i = 0; i < peers->user_end; i++) {
        if (peers->users[i].uid == uid && !is_free(&peers->users[i])) {
            return &peers->users[i];
        }
    }
    return NULL;
}

static struct peer_user *entry_make(struct peers *peers, uint32_t uid)
{
    uint32_t i = 0;
    while (i < peers->user_end && !is_free(&peers->users[i])) {
        i += 1;
    }
    assert(i < peers->user_max);
    peers->user_end = (uint32_t)max_u64(peers->user_end, i + 1);
    peers->users[i] = (struct peer_user){.uid = uid};
    return &peers->users[i];
}

struct peer_user *peers_connect(struct peers *peers, uint32_t uid)
{
    assert(peers->connection_count <= peers->connection_total);

    struct peer_user *user = entry_find(peers, uid);
    const uint32_t has = user != NULL ? user->connections : 0;
    const uint32_t left = peers->connection_total - peers->connection_count;
    if (left == 0 || has >= peers->connection_user_max ||
        (has > 0 && has >= PEERS_SHARE * (left - 1))) {
        return NULL;
    }
    if (user == NULL) {
        user = entry_make(peers, uid);
    }
    peers->connected_user_count += has == 0;
    peers->connection_count += 1;
    user->connections += 1;
    return user;
}

void peers_disconnect(struct peers *peers, struct peer_user *user)
{
    assert(user->connections > 0);
    assert(peers->connection_count > 0);
    user->connections -= 1;
    peers->connection_count -= 1;
    if (user->connections == 0) {
        assert(peers->connected_user_count > 0);
        peers->connected_user_count -= 1;
    }
}

struct peer_user *peers_find(struct peers *peers, uint32_t uid)
{
    struct peer_user *user = entry_find(peers, uid);
    return user != NULL && user->connections > 0 ? user : NULL;
}

bool peers_may_hold(const struct peers *peers, const struct peer_user *user,
                    uint32_t connection_held, uint32_t free_count)
{
    assert(free_count <= peers->exchange_count);
    assert(connection_held <= user->held);

    const uint32_t kept = peers->connected_user_count > 1
                              ? (uint32_t)div_ceil(peers->exchange_count, PEERS_KEPT_PART)
                              : 0;
    if (free_count <= kept) {
        return user->held < free_count;
    }
    return connection_held == 0 || connection_held < PEERS_SHARE * (free_count - kept - 1);
}
