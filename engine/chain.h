/* Takes back a chain of events when one of them has failed: all of them happen or none.
 *
 *   begin --note, apply--> event --note, apply--> event ... one fails --undo--> as at the begin
 *
 * Why undo, and not try first and apply later: an event must see those before it in its chain, in
 * entries, owner lists and values that are found by pointer. What events change is little, and of
 * three kinds: entries (kept here, before each event), values behind the ends of the groups'
 * buffers (cut off), and owners of unique values (told by the values that are cut off).
 *
 * Forest thread only. */
#pragma once

#include <stdint.h>

#include "engine/batch.h"
#include "engine/groove.h"

struct chain_change {
    struct groove_entry *entry;
    struct groove_entry before;
};

struct chain {
    struct chain_change *changes; /* [change_max], owned; in the order of events */
    uint32_t change_max;          /* the most events of a request */
    uint32_t change_count;
    uint32_t groups_marked; /* a bit for each group that the chain has touched */
    struct groove_mark marks[BATCH_GROUP_MAX];
};
static_assert((int)BATCH_GROUP_MAX <= 32, "a bit for each group");

uint64_t chain_memory_size(const struct geometry *geometry);
MUST_CHECK enum status chain_init(struct chain *chain, const struct geometry *geometry);
void chain_deinit(struct chain *chain);

void chain_begin(struct chain *chain);
/* Before an event of this group is applied to this entry. */
void chain_note(struct chain *chain, uint32_t group, const struct groove_write *write,
                struct groove_entry *entry);
/* As at chain_begin. `writes` are those of all groups, by their index. */
void chain_undo(struct chain *chain, struct groove_write *writes);
