/* Who owns the values that a batch wants to put into a unique index.
 *
 *   images of the batch --prefixes, sorted--> values --prefetch--> owners now --execution-->
 * changed
 *
 * A list holds every value that an event of the batch brings, once, with the timestamp of the live
 * object that has it. The prefetch finds the owners as of the batch before; execution keeps them up
 * to date, event by event, so that requests of one batch see each other's changes without any I/O.
 * Values that no event brings are of no interest and not in it.
 *
 * An entry is what the index's tree stores: prefix, then timestamp (big-endian). Memory is borrowed
 * from the prefetch until the batch has executed. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/lsm/values.h"

static const uint64_t OWNER_NONE = 0;
/* The block that would tell is damaged. */
static const uint64_t OWNER_UNKNOWN = UINT64_MAX;

struct owner_list {
    const struct values_ops *ops; /* of keys of prefix_size, values of entry_size */
    uint8_t *entries;             /* [count], borrowed; sorted by prefix once sealed */
    uint32_t prefix_size;
    uint32_t entry_size;
    uint32_t count;
    uint32_t first; /* entries of the batch's lists before this one */
};

/* An empty list; `memory` has room for as many entries as will be added. */
void owner_list_begin(struct owner_list *list, uint32_t prefix_size, uint8_t *memory);
/* Adds a value, owned by nobody so far; `prefix` is prefix_size bytes. */
void owner_list_add(struct owner_list *list, const uint8_t *prefix);
/* Sorted, each value once. `scratch` has room for what was added. */
void owner_list_seal(struct owner_list *list, uint8_t *scratch);

uint8_t *owner_list_entry(const struct owner_list *list, uint32_t i);
uint64_t owner_list_owner(const struct owner_list *list, uint32_t i);
void owner_list_set(struct owner_list *list, uint32_t i, uint64_t timestamp);

/* The owner of a value that is in the list (asserted). */
uint64_t owner_list_find(const struct owner_list *list, const uint8_t *prefix);
/* The object of `timestamp` now has this value, which is in the list and no other's (asserted). */
void owner_list_claim(struct owner_list *list, const uint8_t *prefix, uint64_t timestamp);
/* It has it no more. The value need not be in the list, nor its. */
void owner_list_release(struct owner_list *list, const uint8_t *prefix, uint64_t timestamp);
/* Take the same call back, when all later ones have been. */
void owner_list_claim_undo(struct owner_list *list, const uint8_t *prefix, uint64_t timestamp);
void owner_list_release_undo(struct owner_list *list, const uint8_t *prefix, uint64_t timestamp);
