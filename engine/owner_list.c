#include "engine/owner_list.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "engine/object.h"
#include "engine/storage/limits.h"
#include "pool/base.h"

void owner_list_begin(struct owner_list *list, uint32_t prefix_size, uint8_t *memory)
{
    assert(memory != NULL);
    *list = (struct owner_list){
        .ops = values_ops_for(prefix_size, prefix_size + 8),
        .entries = memory,
        .prefix_size = prefix_size,
        .entry_size = prefix_size + 8,
    };
}

void owner_list_add(struct owner_list *list, const uint8_t *prefix)
{
    uint8_t *entry = owner_list_entry(list, list->count);
    memcpy(entry, prefix, list->prefix_size);
    store_u64_be(entry + list->prefix_size, OWNER_NONE);
    list->count += 1;
}

void owner_list_seal(struct owner_list *list, uint8_t *scratch)
{
    list->ops->sort(list->entries, scratch, list->count, list->entry_size);
    list->count = list->ops->dedupe(list->entries, list->count, list->entry_size);
}

uint8_t *owner_list_entry(const struct owner_list *list, uint32_t i)
{
    return list->entries + (size_t)i * list->entry_size;
}

uint64_t owner_list_owner(const struct owner_list *list, uint32_t i)
{
    assert(i < list->count);
    return load_u64_be(owner_list_entry(list, i) + list->prefix_size);
}

void owner_list_set(struct owner_list *list, uint32_t i, uint64_t timestamp)
{
    assert(i < list->count);
    store_u64_be(owner_list_entry(list, i) + list->prefix_size, timestamp);
}

/* Its place, or count. */
static uint32_t place(const struct owner_list *list, const uint8_t *prefix)
{
    if (VERIFY) {
        assert(list->ops->verify(list->entries, list->count, list->entry_size));
    }
    const uint32_t i = list->ops->lower_bound(list->entries, list->count, list->entry_size, prefix);
    const bool found =
        i < list->count && memcmp(owner_list_entry(list, i), prefix, list->prefix_size) == 0;
    return found ? i : list->count;
}

uint64_t owner_list_find(const struct owner_list *list, const uint8_t *prefix)
{
    const uint32_t i = place(list, prefix);
    assert(i < list->count); /* Every image of the batch was gathered. */
    return owner_list_owner(list, i);
}

void owner_list_claim(struct owner_list *list, const uint8_t *prefix, uint64_t timestamp)
{
    assert(timestamp != OWNER_NONE && timestamp != OWNER_UNKNOWN);
    const uint32_t i = place(list, prefix);
    assert(i < list->count);
    assert(owner_list_owner(list, i) == OWNER_NONE || owner_list_owner(list, i) == timestamp);
    owner_list_set(list, i, timestamp);
}

void owner_list_release(struct owner_list *list, const uint8_t *prefix, uint64_t timestamp)
{
    const uint32_t i = place(list, prefix);
    /* Another's: unknown, so the requests that bring the value were refused; or object and index
     * contradict each other on disk, which is for verify to say. */
    if (i < list->count && owner_list_owner(list, i) == timestamp) {
        owner_list_set(list, i, OWNER_NONE);
    }
}

void owner_list_claim_undo(struct owner_list *list, const uint8_t *prefix, uint64_t timestamp)
{
    const uint32_t i = place(list, prefix);
    assert(i < list->count);
    assert(owner_list_owner(list, i) == timestamp);
    owner_list_set(list, i, OWNER_NONE);
}

void owner_list_release_undo(struct owner_list *list, const uint8_t *prefix, uint64_t timestamp)
{
    const uint32_t i = place(list, prefix);
    /* Unless it was another's, which the release let be. */
    if (i < list->count && owner_list_owner(list, i) == OWNER_NONE) {
        owner_list_set(list, i, timestamp);
    }
}
