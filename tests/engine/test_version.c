/* Goal: a version lives exactly as long as somebody can see it, and none is lost or given twice.
 * Method: random adds, publications, pins, unpins and collections against lists in plain arrays;
 * readers on threads pin what is published while the forest thread goes on. */
#include "engine/version.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <string.h>

#include "pool/base.h"
#include "pool/workers.h"
#include "tests/harness/prng.h"

enum { GROOVE_MAX = 4 };

static struct version_set set;
static struct doorbell bell;

static void init(void)
{
    doorbell_init(&bell);
    cr_assert(eq(int, version_set_init(&set, GROOVE_MAX, &bell), STATUS_OK));
}

static void fini(void)
{
    version_set_deinit(&set);
    doorbell_deinit(&bell);
}

TestSuite(version, .init = init, .fini = fini, .timeout = 120);

/* Gives every version back by hand, as the forest does when it ends. */
static void end(void)
{
    version_publish(&set, NULL);
    for (struct version *version = set.oldest; version != NULL;) {
        struct version *next = version->next;
        cr_assert(eq(u32, version->pin_count, 0));
        version_free(&set, version);
        version = next;
    }
    set.oldest = NULL;
    set.newest = NULL;
    cr_assert(eq(u32, set.free_count, VERSION_COUNT_MAX));
}

Test(version, grooves_are_found_by_id)
{
    struct version *version = version_add(&set);
    cr_assert(eq(ptr, (void *)version_groove(version, 1), NULL));
    for (uint32_t i = 0; i < GROOVE_MAX; i++) {
        version->grooves[i].groove_id = 3 * i + 1;
        version->groove_count += 1;
    }
    for (uint32_t id = 0; id < 3 * GROOVE_MAX + 3; id++) {
        const struct groove_version *groove = version_groove(version, id);
        cr_assert(eq(int, groove != NULL, id % 3 == 1 && id < 3 * GROOVE_MAX));
        cr_assert(groove == NULL || groove->groove_id == id);
    }
    end();
}

struct model {
    struct version *live[VERSION_COUNT_MAX]; /* oldest first */
    uint32_t pins[VERSION_COUNT_MAX];
    struct version_hold *holds[VERSION_COUNT_MAX]; /* one at most, which counts among the pins */
    bool revoked[VERSION_COUNT_MAX];
    struct version_hold pool[VERSION_COUNT_MAX];
    uint32_t count;
    uint32_t published; /* position in live; UINT32_MAX: none yet */
};

static void model_remove(struct model *model, uint32_t index)
{
    const size_t left = model->count - index - 1;
    memmove(model->live + index, model->live + index + 1, left * sizeof model->live[0]);
    memmove(model->pins + index, model->pins + index + 1, left * sizeof model->pins[0]);
    memmove(model->holds + index, model->holds + index + 1, left * sizeof model->holds[0]);
    memmove(model->revoked + index, model->revoked + index + 1, left * sizeof model->revoked[0]);
    model->count -= 1;
    cr_assert(model->published > index);
    model->published -= 1;
}

static void random_revocation(struct model *model)
{
    uint32_t index = 0;
    while (index < model->published && model->pins[index] == 0) {
        index += 1;
    }
    const bool revocable = index < model->published && !model->revoked[index];
    bool taken = false;
    if (revocable) {
        model->revoked[index] = true;
        struct version_hold *hold = model->holds[index];
        taken = hold != NULL && atomic_load(&hold->ticket.state) == READ_TICKET_OUTSIDE;
        model->pins[index] -= taken;
        model->holds[index] = taken ? NULL : hold;
        taken = model->pins[index] == 0;
        cr_assert(eq(int, version_revoke_oldest(&set), taken));
        if (hold != NULL && model->holds[index] == NULL) {
            cr_assert(not(read_ticket_enter(&hold->ticket)));
            version_hold_release(&set, hold); /* The reader notices. */
        }
    } else {
        cr_assert(not(version_revoke_oldest(&set)));
    }
}

static void random_step(struct model *model, struct prng *prng)
{
    const uint32_t chosen = model->count > 0 ? (uint32_t)prng_below(prng, model->count) : 0;
    switch (prng_below(prng, 9)) {
    case 0:
    case 1:
        if (model->count < VERSION_COUNT_MAX) {
            struct version *version = version_add(&set);
            for (uint32_t i = 0; i < model->count; i++) {
                cr_assert(version != model->live[i]);
            }
            cr_assert(version->groove_count == 0 && version->pin_count == 0);
            model->live[model->count] = version;
            model->pins[model->count] = 0;
            model->holds[model->count] = NULL;
            model->revoked[model->count] = false;
            model->count += 1;
        }
        break;
    case 2: /* Versions become durable in order. */
        if (model->count > 0 &&
            (model->published == UINT32_MAX || model->published + 1 < model->count)) {
            model->published = model->published == UINT32_MAX ? 0 : model->published + 1;
            version_publish(&set, model->live[model->published]);
        }
        break;
    case 3:
        if (model->published != UINT32_MAX && model->holds[model->published] == NULL) {
            struct version_hold *hold = model->pool;
            while (hold->version != NULL) {
                hold += 1;
            }
            version_hold_published(&set, hold, 0);
            cr_assert(eq(ptr, hold->version, model->live[model->published]));
            model->holds[model->published] = hold;
            model->pins[model->published] += 1;
        }
        break;
    case 4:
        if (model->count > 0 && model->pins[chosen] > (model->holds[chosen] != NULL)) {
            const uint64_t rings = doorbell_count(&bell);
            version_unpin(&set, model->live[chosen]);
            model->pins[chosen] -= 1;
            const bool last = model->pins[chosen] == 0 && chosen != model->published;
            cr_assert(eq(u64, doorbell_count(&bell) - rings, last));
        } else if (model->count > 0 && chosen + 1 == model->count) {
            version_pin(&set, model->live[chosen]); /* The writer's prefetch. */
            model->pins[chosen] += 1;
        }
        break;
    case 5: /* A reader ends, in any state. */
        if (model->count > 0 && model->holds[chosen] != NULL) {
            const uint64_t rings = doorbell_count(&bell);
            version_hold_release(&set, model->holds[chosen]);
            model->holds[chosen] = NULL;
            model->pins[chosen] -= 1;
            const bool last = model->pins[chosen] == 0 && chosen != model->published;
            cr_assert(eq(u64, doorbell_count(&bell) - rings, last));
        }
        break;
    case 6: /* A reader goes and comes. */
        if (model->count > 0 && model->holds[chosen] != NULL) {
            struct read_ticket *ticket = &model->holds[chosen]->ticket;
            const bool outside = atomic_load(&ticket->state) == READ_TICKET_OUTSIDE;
            const bool moved = outside ? read_ticket_enter(ticket) : read_ticket_leave(ticket);
            cr_assert(eq(int, moved, !model->revoked[chosen]));
        }
        break;
    case 7:
        if (model->published != UINT32_MAX) {
            random_revocation(model);
        }
        break;
    default: {
        /* A version that is not published yet cannot be seen, but will be. */
        if (model->published == UINT32_MAX) {
            break;
        }
        struct version *version = version_collect(&set);
        uint32_t index = 0;
        while (index < model->published && model->pins[index] > 0) {
            index += 1;
        }
        cr_assert(eq(int, version != NULL, index < model->published));
        if (version != NULL) {
            cr_assert(eq(ptr, version, model->live[index]));
            version_free(&set, version);
            model_remove(model, index);
        }
    }
    }
    cr_assert(eq(u32, set.free_count, VERSION_COUNT_MAX - model->count));
}

Test(version, random_lives_agree_with_the_model)
{
    for (uint64_t seed = 0; seed < 30; seed++) {
        struct prng prng;
        prng_init(&prng, seed);
        struct model model = {.published = UINT32_MAX};
        for (int i = 0; i < 3000; i++) {
            random_step(&model, &prng);
        }
        for (uint32_t i = 0; i < model.count; i++) {
            if (model.holds[i] != NULL) {
                version_hold_release(&set, model.holds[i]);
                model.pins[i] -= 1;
            }
            while (model.pins[i] > 0) {
                version_unpin(&set, model.live[i]);
                model.pins[i] -= 1;
            }
        }
        end();
    }
}

enum { READER_COUNT = 3, READS = 20000 };

struct reader {
    struct job job;
    _Atomic bool done;
    uint64_t commit_last;
    bool wrong;
};

/* What a reader sees only grows, and does not change while it is pinned. */
static void reader_run(struct job *job)
{
    struct reader *reader = container_of(job, struct reader, job);
    for (int i = 0; i < READS; i++) {
        struct version_hold hold = {0};
        version_hold_published(&set, &hold, 0);
        const struct version *version = hold.version;
        const uint64_t commit = version->commit;
        reader->wrong |= commit < reader->commit_last || version->timestamp != 2 * commit;
        reader->commit_last = commit;
        if (read_ticket_leave(&hold.ticket) && read_ticket_enter(&hold.ticket)) {
            reader->wrong |= version->commit != commit;
        }
        version_hold_release(&set, &hold);
    }
    atomic_store(&reader->done, true);
    doorbell_ring(&bell);
}

Test(version, readers_on_threads_see_whole_versions_in_order)
{
    static struct reader readers[READER_COUNT];
    struct workers workers;
    cr_assert(eq(int, workers_start(&workers, "reader", READER_COUNT, READER_COUNT), STATUS_OK));
    struct version *first = version_add(&set);
    first->commit = 0;
    first->timestamp = 0;
    version_publish(&set, first);
    for (int i = 0; i < READER_COUNT; i++) {
        readers[i].job.run = reader_run;
        workers_submit(&workers, &readers[i].job);
    }
    uint64_t commit = 0;
    for (int left = READER_COUNT; left > 0;) {
        const uint64_t seen = doorbell_count(&bell);
        (void)version_revoke_oldest(&set);
        struct version *old = version_collect(&set);
        if (old != NULL) {
            old->commit = UINT64_MAX; /* Poison: nobody may be looking. */
            old->timestamp = 0;
            version_free(&set, old);
        }
        if (set.free_count > 0) {
            commit += 1;
            struct version *version = version_add(&set);
            version->commit = commit;
            version->timestamp = 2 * commit;
            version_publish(&set, version);
        } else if (old == NULL) {
            doorbell_wait(&bell, seen, DOORBELL_WAIT_FOREVER);
        }
        left = 0;
        for (int i = 0; i < READER_COUNT; i++) {
            left += !atomic_load(&readers[i].done);
        }
    }
    workers_join(&workers);
    for (int i = 0; i < READER_COUNT; i++) {
        cr_assert(not(readers[i].wrong));
    }
    end();
}

Test(version, one_more_than_there_are_is_a_bug, .signal = SIGABRT)
{
    for (int i = 0; i <= VERSION_COUNT_MAX; i++) {
        (void)version_add(&set);
    }
}

Test(version, unpinning_what_nobody_pinned_is_a_bug, .signal = SIGABRT)
{
    version_unpin(&set, version_add(&set));
}

Test(version, pinning_before_anything_is_published_is_a_bug, .signal = SIGABRT)
{
    struct version_hold hold = {0};
    version_hold_published(&set, &hold, 0);
}

Test(version, ending_with_a_live_version_is_a_bug, .signal = SIGABRT)
{
    (void)version_add(&set);
    version_set_deinit(&set);
}
