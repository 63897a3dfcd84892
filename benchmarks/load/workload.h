/* What the load consists of: every object is a function of (seed, number, round), so that updates
 * and removals can name the ids of the inserts without anything being remembered.
 *
 *   object (128 bytes):  header 32 | owner u64 | kind u64 | due u64 | payload bytes<72>
 *
 * The three u64 are indexed, and stand for three kinds of index: `owner` takes a million values,
 * `kind` a thousand, `due` is different for almost every object. Ids are random, which is the worst
 * case for the id tree: every batch touches all of it. */
#pragma once

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "ipc/protocol.h"

enum {
    WORKLOAD_INDEX_COUNT_MAX = 3,
    WORKLOAD_PAYLOAD_SIZE = 72,
    WORKLOAD_OBJECT_SIZE = 128,
    WORKLOAD_OWNER_COUNT = 1000000,
    WORKLOAD_KIND_COUNT = 1000,
};

struct workload_object {
    struct wire_object_header header;
    uint64_t owner;
    uint64_t kind;
    uint64_t due;
    uint64_t payload[WORKLOAD_PAYLOAD_SIZE / 8];
};
static_assert(sizeof(struct workload_object) == WORKLOAD_OBJECT_SIZE, "no padding");

/* The finaliser of splitmix64: a bijection that maps 0 to 0. */
static inline uint64_t workload_mix(uint64_t word)
{
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9u;
    word = (word ^ word >> 27) * 0x94d049bb133111ebu;
    return word ^ word >> 31;
}

static const uint64_t workload_gamma = 0x9e3779b97f4a7c15u; /* splitmix64's step */

/* Ids of one seed differ in their low half, and none is zero: if the low half is, the high half is
 * the mix of gamma. */
static inline void workload_id(uint64_t seed, uint64_t number, uint8_t id[WIRE_ID_SIZE])
{
    const uint64_t low = workload_mix(workload_mix(seed) + number * workload_gamma);
    const uint64_t high = workload_mix(low ^ workload_gamma);
    memcpy(id, &low, sizeof low);
    memcpy(id + sizeof low, &high, sizeof high);
}

/* Object `number` as it is after `round` updates. */
static inline void workload_object(uint64_t seed, uint64_t number, uint64_t round,
                                   struct workload_object *object)
{
    uint64_t state = workload_mix(workload_mix(seed + 1) + number) + round;
    *object = (struct workload_object){0};
    workload_id(seed, number, object->header.id);
    object->owner = workload_mix(state += workload_gamma) % WORKLOAD_OWNER_COUNT;
    object->kind = workload_mix(state += workload_gamma) % WORKLOAD_KIND_COUNT;
    object->due = workload_mix(state += workload_gamma);
    for (uint32_t i = 0; i < WORKLOAD_PAYLOAD_SIZE / 8; i++) {
        object->payload[i] = workload_mix(state += workload_gamma);
    }
}

/* The groove of these objects, with the first `index_count` of their indexes. */
static inline void workload_spec(const char *groove_name, uint32_t index_count,
                                 struct wire_groove_spec *spec)
{
    static const char *const names[] = {"owner", "kind", "due", "payload"};
    assert(index_count <= WORKLOAD_INDEX_COUNT_MAX);
    *spec = (struct wire_groove_spec){.field_count = 4, .index_count = index_count};
    snprintf(spec->name, sizeof spec->name, "%s", groove_name);
    for (uint32_t i = 0; i < spec->field_count; i++) {
        snprintf(spec->fields[i].name, sizeof spec->fields[i].name, "%s", names[i]);
        spec->fields[i].type = WIRE_FIELD_TYPE_U64;
    }
    spec->fields[3].type = WIRE_FIELD_TYPE_BYTES;
    spec->fields[3].size = WORKLOAD_PAYLOAD_SIZE;
    for (uint32_t i = 0; i < index_count; i++) {
        snprintf(spec->indexes[i].name, sizeof spec->indexes[i].name, "%s", names[i]);
        spec->indexes[i].field_count = 1;
        spec->indexes[i].fields[0] = (uint8_t)i;
    }
}
