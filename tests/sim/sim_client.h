/* The clients: what they ask by chance, and what each answer must be.
 *
 * A read names the commit whose state it saw: it is compared with the model as of that commit, and
 * must not be older than any commit that was told or read before it was asked. A refusal must have
 * its reason. At the start of a life one lane scans everything (sim_scan.h) before the others go
 * on. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "tests/sim/sim_front.h"

enum sim_outcome {
    SIM_OUTCOME_ANSWERED,
    SIM_OUTCOME_REFUSED, /* and rightly */
    SIM_OUTCOME_GONE,    /* the daemon stops */
};

/* At the start of a life, in the child: a fiber for each lane. */
void sim_clients_start(void);
/* Whether this life's quota is reached. */
bool sim_clients_are_done(void);

/* Asks what the lane holds; of a refusal, sees whether it may be. If it is ANSWERED the caller
 * releases the parcel. */
enum sim_outcome sim_ask_and_sort(struct sim_lane *lane, struct sim_parcel **parcel);
void sim_check_refusal(const struct sim_lane *lane, const struct reply_header *header);

/* Ids of this slot that one LOOKUP may name. */
uint32_t sim_ids_per_lookup(const struct sim_slot *slot);
void sim_lookup_make(struct sim_lane *lane, const struct sim_slot *slot, uint32_t groove_id,
                     const uint32_t *keys, uint32_t count);
void sim_check_objects_header(const struct sim_lane *lane, const struct sim_parcel *parcel,
                              const struct sim_slot *slot, struct objects_reply *objects);
/* Ask and compare. `values` are classes of values, one for each field of the index. */
enum sim_outcome sim_do_count(struct sim_lane *lane, const struct sim_slot *slot,
                              uint32_t groove_id, uint32_t index, const uint64_t *values);
enum sim_outcome sim_do_query(struct sim_lane *lane, const struct sim_slot *slot,
                              uint32_t groove_id, uint32_t index, uint32_t limit,
                              const uint64_t *values);
