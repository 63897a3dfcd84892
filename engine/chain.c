#include "engine/chain.h"

#include <assert.h>

#include "pool/memory.h"

uint64_t chain_memory_size(const struct geometry *geometry)
{
    return geometry->batch_event_max * sizeof(struct chain_change);
}

enum status chain_init(struct chain *chain, const struct geometry *geometry)
{
    *chain = (struct chain){
        .changes = memory_acquire(chain_memory_size(geometry)),
        .change_max = geometry->batch_event_max,
    };
    return chain->changes != NULL ? STATUS_OK : STATUS_NO_MEMORY;
}

void chain_deinit(struct chain *chain)
{
    memory_release(chain->changes, chain->change_max * sizeof *chain->changes);
    *chain = (struct chain){0};
}

void chain_begin(struct chain *chain)
{
    chain->change_count = 0;
    chain->groups_marked = 0;
}

void chain_note(struct chain *chain, uint32_t group, const struct groove_write *write,
                struct groove_entry *entry)
{
    assert(group < BATCH_GROUP_MAX);
    assert(chain->change_count < chain->change_max);
    if ((chain->groups_marked & 1u << group) == 0) {
        chain->groups_marked |= 1u << group;
        groove_write_mark(write, &chain->marks[group]);
    }
    chain->changes[chain->change_count] = (struct chain_change){.entry = entry, .before = *entry};
    chain->change_count += 1;
}

void chain_undo(struct chain *chain, struct groove_write *writes)
{
    while (chain->change_count > 0) { /* An entry that came several times was first seen first. */
        chain->change_count -= 1;
        const struct chain_change *change = &chain->changes[chain->change_count];
        *change->entry = change->before;
    }
    for (uint32_t group = 0; group < BATCH_GROUP_MAX; group++) {
        if ((chain->groups_marked & 1u << group) != 0) {
            groove_write_undo(&writes[group], &chain->marks[group]);
        }
    }
    chain->groups_marked = 0;
}
