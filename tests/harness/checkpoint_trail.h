/* The checkpoints of one run, to be compared with those of another run of the same requests.
 *
 * In a forest_fixture's on_checkpoint, call checkpoint_trail_note. Test's thread only. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/storage/checksum.h"

enum { CHECKPOINT_TRAIL_MAX = 256 };

struct checkpoint_trail {
    uint64_t ops[CHECKPOINT_TRAIL_MAX];
    struct checksum ids[CHECKPOINT_TRAIL_MAX];
    uint32_t count;
};

/* Adds a checkpoint; one that is made again, by replay after a crash, is not added again. */
void checkpoint_trail_note(struct checkpoint_trail *trail, uint64_t op,
                           const struct checksum *checkpoint_id);

/* Whether `other` has what `base` has, but perhaps for the last one, whose join may still be on its
 * way when a run ends. False: *position is the first that differs, or is missing. */
bool checkpoint_trail_agrees(const struct checkpoint_trail *base,
                             const struct checkpoint_trail *other, uint32_t *position);
