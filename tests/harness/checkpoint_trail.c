#include "tests/harness/checkpoint_trail.h"

#include <assert.h>

#include "pool/base.h"

void checkpoint_trail_note(struct checkpoint_trail *trail, uint64_t op,
                           const struct checksum *checkpoint_id)
{
    if (trail->count > 0 && trail->ops[trail->count - 1] >= op) {
        return;
    }
    assert(trail->count < CHECKPOINT_TRAIL_MAX);
    trail->ops[trail->count] = op;
    trail->ids[trail->count] = *checkpoint_id;
    trail->count += 1;
}

bool checkpoint_trail_agrees(const struct checkpoint_trail *base,
                             const struct checkpoint_trail *other, uint32_t *position)
{
    const uint32_t count = (uint32_t)min_u64(base->count, other->count);
    for (*position = 0; *position < count; *position += 1) {
        if (other->ops[*position] != base->ops[*position] ||
            !checksum_equal(&other->ids[*position], &base->ids[*position])) {
            return false;
        }
    }
    return count + 1 >= base->count;
}
