/* What the daemon should hold: every state it was ever in, by commit.
 *
 * A slot is a name for a groove with one schema; it may be created and dropped many times. Each of
 * its keys has a chain of records, newest first. Writes are applied in the order of their commits;
 * a read names the commit whose state it saw, and is compared with the state as of that commit. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/event.h"
#include "engine/schema.h"

enum {
    SIM_SLOT_COUNT = 3,
    SIM_KEY_MAX = 16 * 1024, /* keys of a slot */
    SIM_OBJECT_MAX = 512,
    SIM_PERIOD_MAX = 512, /* creations and drops of a slot */
    SIM_FAILURE_MAX = 256,
};

/* A timestamp that nobody has been told: of a write that was in flight when the power went. */
#define SIM_UNKNOWN UINT64_MAX

struct sim_record {
    uint32_t older; /* in the arena; 0: none */
    uint32_t key;
    uint8_t slot;
    bool exists;
    uint64_t commit; /* it holds from this on */
    uint64_t timestamp, version;
    uint64_t hash;   /* of the image */
    uint8_t image[]; /* [object_size], with timestamp and version zero */
};

struct sim_slot {
    struct groove_schema schema;
    uint32_t key_count;
    uint32_t value_count;         /* distinct values of a field */
    bool bulk;                    /* many small objects, written in full batches */
    bool unique;                  /* it has a unique index */
    bool sequential;              /* ids ascend; else they are spread */
    uint32_t newest[SIM_KEY_MAX]; /* record in the arena; 0: never written */
    struct {
        uint64_t commit;    /* from this on */
        uint32_t groove_id; /* 0: there is no groove; UINT32_MAX: not told yet */
    } periods[SIM_PERIOD_MAX];
    uint32_t period_count;
};

struct sim_model {
    struct sim_slot slots[SIM_SLOT_COUNT];
    uint8_t *arena; /* [sim_arena_size] */
    uint64_t arena_used;
    uint64_t commit;    /* last one applied */
    uint64_t timestamp; /* last one told */
};

void sim_model_map(struct sim_model *model);
/* New slots, by chance. */
void sim_model_reset(struct sim_model *model, const struct geometry *geometry);
/* Room for more. When there is none a run ends early. */
bool sim_model_has_room(const struct sim_model *model);

void sim_model_id(const struct sim_slot *slot, uint32_t key, uint8_t id[16]);
/* A random object of this key. */
void sim_model_object(const struct sim_slot *slot, uint32_t key, uint8_t *image);
/* The value that field `field` has in value class `value`. */
void sim_model_value(const struct sim_slot *slot, uint32_t field, uint64_t value, uint8_t *bytes);

/* The groove's id as of a commit; 0: there was none. */
uint32_t sim_slot_groove(const struct sim_slot *slot, uint64_t commit);
/* The slot of this groove id, whenever it lived; NULL: nobody's. */
struct sim_slot *sim_model_slot(struct sim_model *model, uint32_t groove_id);
/* The record of a key as of a commit; NULL: there was no such object. */
struct sim_record *sim_model_find(struct sim_model *model, const struct sim_slot *slot,
                                  uint32_t key, uint64_t commit);

/* One write of the history. `timestamp` may be SIM_UNKNOWN. Fills `failures` [SIM_FAILURE_MAX] and
 * returns how many events failed. */
uint32_t sim_model_write(struct sim_model *model, const uint8_t *body, uint32_t size, bool atomic,
                         uint64_t commit, uint64_t timestamp, struct event_failure *failures);
void sim_model_create(struct sim_model *model, struct sim_slot *slot, uint64_t commit,
                      uint32_t groove_id);
void sim_model_drop(struct sim_model *model, struct sim_slot *slot, uint64_t commit);

/* Whether the object's fields of this index are those of `key` (values as they stand in images). */
bool sim_model_matches(const struct sim_slot *slot, uint32_t index, const uint8_t *image,
                       const uint8_t *key);
/* Of an image, whatever its timestamp and version. */
uint64_t sim_model_hash(const struct sim_slot *slot, const uint8_t *image);
/* Whether `image`, as the daemon told it, is that of the record. NULL, or what is wrong. */
const char *sim_model_differs(const struct sim_slot *slot, const struct sim_record *record,
                              const uint8_t *image);
