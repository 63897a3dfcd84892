#include "engine/version.h"

#include <assert.h>

#include "pool/memory.h"

const struct groove_version *version_groove(const struct version *version, uint32_t groove_id)
{
    for (uint32_t i = 0; i < version->groove_count; i++) {
        if (version->grooves[i].groove_id == groove_id) {
            return &version->grooves[i];
        }
    }
    return NULL;
}

enum status version_set_init(struct version_set *set, uint32_t groove_max,
                             struct doorbell *doorbell)
{
    *set = (struct version_set){
        .mutex = MUTEX_INITIALIZER(LOCK_RANK_VERSION),
        .doorbell = doorbell,
        .groove_max = groove_max,
    };
    set->versions = memory_acquire(VERSION_COUNT_MAX * sizeof *set->versions);
    set->grooves = memory_acquire((size_t)VERSION_COUNT_MAX * groove_max * sizeof *set->grooves);
    if (set->versions == NULL || set->grooves == NULL) {
        version_set_deinit(set);
        return STATUS_NO_MEMORY;
    }
    for (uint32_t i = 0; i < VERSION_COUNT_MAX; i++) {
        set->versions[i].grooves = set->grooves + (size_t)i * groove_max;
        set->versions[i].next = set->free;
        set->free = &set->versions[i];
    }
    set->free_count = VERSION_COUNT_MAX;
    return STATUS_OK;
}

void version_set_deinit(struct version_set *set)
{
    assert(set->oldest == NULL); /* All collected. */
    mutex_deinit(&set->mutex);
    memory_release(set->versions, VERSION_COUNT_MAX * sizeof *set->versions);
    memory_release(set->grooves,
                   (size_t)VERSION_COUNT_MAX * set->groove_max * sizeof *set->grooves);
    *set = (struct version_set){0};
}

struct version *version_add(struct version_set *set)
{
    struct version *version = set->free;
    assert(version != NULL);
    set->free = version->next;
    set->free_count -= 1;
    version->next = NULL;
    version->pin_count = 0;
    version->holds = NULL;
    version->revoked = false;
    version->groove_count = 0;
    if (set->newest == NULL) {
        set->oldest = version;
    } else {
        set->newest->next = version;
    }
    set->newest = version;
    return version;
}

void version_publish(struct version_set *set, struct version *version)
{
    mutex_lock(&set->mutex);
    set->published = version;
    mutex_unlock(&set->mutex);
}

struct version *version_collect(struct version_set *set)
{
    /* Nobody can pin one that is older than the published one, so a count of zero stays zero. */
    struct version *before = NULL;
    mutex_lock(&set->mutex);
    struct version *version = set->oldest;
    while (version != NULL && version != set->published && version->pin_count > 0) {
        before = version;
        version = version->next;
    }
    const bool found = version != NULL && version != set->published && version != set->newest;
    mutex_unlock(&set->mutex);
    if (!found) {
        return NULL;
    }
    if (before == NULL) {
        set->oldest = version->next;
    } else {
        before->next = version->next;
    }
    return version;
}

void version_free(struct version_set *set, struct version *version)
{
    version->next = set->free;
    set->free = version;
    set->free_count += 1;
}

void version_hold_published(struct version_set *set, struct version_hold *hold,
                            uint64_t work_size_max)
{
    assert(hold->version == NULL);
    read_ticket_init(&hold->ticket, work_size_max);
    mutex_lock(&set->mutex);
    struct version *version = set->published;
    assert(version != NULL);
    assert(!version->revoked);
    version->pin_count += 1;
    hold->version = version;
    hold->next = version->holds;
    version->holds = hold;
    mutex_unlock(&set->mutex);
}

/* Under the mutex. */
static void unlink_hold(struct version_hold *hold)
{
    struct version *version = hold->version;
    struct version_hold **link = &version->holds;
    while (*link != hold) {
        assert(*link != NULL);
        link = &(*link)->next;
    }
    *link = hold->next;
    hold->next = NULL;
    assert(version->pin_count > 0);
    version->pin_count -= 1;
}

void version_hold_release(struct version_set *set, struct version_hold *hold)
{
    bool last = false;
    mutex_lock(&set->mutex);
    /* Revoking changes the state under the mutex, too. */
    if (atomic_load_explicit(&hold->ticket.state, memory_order_relaxed) != READ_TICKET_TAKEN) {
        assert(hold->version != NULL);
        unlink_hold(hold);
        last = hold->version->pin_count == 0 && hold->version != set->published;
    }
    hold->version = NULL;
    mutex_unlock(&set->mutex);
    if (last) {
        doorbell_ring(set->doorbell);
    }
}

bool version_revoke_oldest(struct version_set *set)
{
    bool taken = false;
    mutex_lock(&set->mutex);
    struct version *version = set->oldest;
    while (version != set->published && version->pin_count == 0) {
        version = version->next;
    }
    /* One at a time: what it gives back may be enough. */
    if (version != set->published && version != set->newest && !version->revoked) {
        version->revoked = true;
        set->revoked_total += 1;
        struct version_hold *next = NULL;
        for (struct version_hold *hold = version->holds; hold != NULL; hold = next) {
            next = hold->next;
            if (read_ticket_revoke(&hold->ticket)) {
                unlink_hold(hold);
            }
        }
        taken = version->pin_count == 0;
    }
    mutex_unlock(&set->mutex);
    return taken;
}

void version_pin(struct version_set *set, struct version *version)
{
    mutex_lock(&set->mutex);
    version->pin_count += 1;
    mutex_unlock(&set->mutex);
}

void version_unpin(struct version_set *set, struct version *version)
{
    mutex_lock(&set->mutex);
    assert(version->pin_count > 0);
    version->pin_count -= 1;
    const bool last = version->pin_count == 0 && version != set->published;
    mutex_unlock(&set->mutex);
    if (last) {
        doorbell_ring(set->doorbell);
    }
}
