/* What distinguishes one tree from another, for code that handles trees of every shape. */
#pragma once

#include <stdint.h>

#include "engine/lsm/values.h"

enum filter_kind {
    FILTER_KIND_KEY,    /* whole keys: object, id and unique trees */
    FILTER_KIND_PREFIX, /* the key without its last 8 bytes (the timestamp): index trees */
};

struct tree_shape {
    const struct values_ops *ops; /* values_ops_for(key_size, value_size) */
    uint32_t tree_id;             /* >= 1, never reused */
    uint16_t key_size;
    uint16_t value_size;
    uint32_t value_count_max; /* values of one table; one bar and one batch fit */
    enum filter_kind filter_kind;
};

/* Bytes of a key that the filter hashes. */
static inline uint32_t tree_shape_filter_size(const struct tree_shape *shape)
{
    return shape->filter_kind == FILTER_KIND_KEY ? shape->key_size : shape->key_size - 8u;
}
