/* Sessions in the model: which there were after each commit, and what each of their lanes
 * remembered. Clients are numbered; so are their lanes. Some sessions are wide, so that a few of
 * them fill the table of a tiny file and another one has to evict somebody. */
#pragma once

#include "tests/harness/object_model.h"

/* The first clients open sessions of few lanes; those from MODEL_CLIENT_WIDE on, the widest. */
enum { MODEL_CLIENT_WIDE = 3 };
uint32_t model_lane_count(uint32_t client);

/* As the client would sign it. */
struct request_session model_sign(uint32_t client, uint32_t lane, uint64_t number);

/* NULL: the client has none, or nothing was executed on the lane of the session it has. */
const struct model_entry *model_session(const struct model *model, uint32_t client,
                                        uint64_t commit);
const struct model_entry *model_lane(const struct model *model, uint32_t client, uint32_t lane,
                                     uint64_t commit);

void model_session_set(struct model *model, uint32_t client, uint64_t commit, bool exists);
void model_lane_set(struct model *model, uint32_t client, uint32_t lane, uint64_t commit,
                    const struct model_lane *last);

/* Which client's session gives way to one of `lane_count` lanes; MODEL_CLIENT_MAX: there is room.
 * Everything must have been told. */
uint32_t model_session_to_evict(const struct model *model, uint32_t lane_count, uint32_t lane_max);

/* Whether an idle forest has the sessions as of `commit`, no others, and answers each lane's last
 * number, and those beside it, as it must; `reason` says what not. */
bool model_compare_sessions(const struct model *model, uint64_t commit, struct forest *forest,
                            char *reason, size_t reason_size);
