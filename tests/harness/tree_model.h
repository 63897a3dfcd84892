/* A tree of random layers beside the plainest model of what it holds.
 *
 * Keys are numbered: ordinal 0, 1, 2 ... in key order. The model is one array by ordinal; building
 * writes layer after layer, oldest first, both to the tree and, overwriting, to the array. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "tests/harness/prng.h"
#include "tests/harness/tree_fixture.h"

enum { TREE_MODEL_ORDINAL_MAX = 3000 };

struct tree_model {
    uint32_t key_size;
    uint32_t value_size;
    uint32_t ordinal_count;
    uint32_t group_size; /* keys that share all but their last 8 bytes; used where key_size > 8 */
    uint32_t tags[TREE_MODEL_ORDINAL_MAX]; /* layer that wrote it, counted from 1; 0 = absent */
};

void tree_model_init(struct tree_model *model, uint32_t key_size, uint32_t value_size,
                     uint32_t ordinal_count, uint32_t group_size);
/* `gap` true: a key that is in no tree, right before the ordinal's own. */
void tree_model_key(const struct tree_model *model, uint32_t ordinal, bool gap, uint8_t *key);
void tree_model_value(const struct tree_model *model, uint32_t ordinal, uint32_t tag,
                      uint8_t *value);
/* Fills an empty tree of this shape and the model. At most `run_count_max` runs. */
void tree_model_build(struct tree_model *model, struct tree_fixture *fixture,
                      struct tree_fixture_tree *tree, struct prng *prng, uint32_t run_count_max);
