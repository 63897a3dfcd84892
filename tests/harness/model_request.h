/* A request as a client makes it: its bytes follow from it, so it can be sent again; and what the
 * model says that it does. */
#pragma once

#include "tests/harness/object_model.h"

enum { MODEL_SECTION_MAX = 4 };

struct model_section {
    uint32_t groove, groove_id;
    enum event_type type;
    enum event_guard_kind guard;
    bool linked;
    uint32_t event_first, event_count;
};

struct model_request {
    enum request_kind kind; /* of those that clients number */
    uint32_t groove;        /* that is made or dropped */
    bool atomic;
    struct model_section sections[MODEL_SECTION_MAX];
    uint32_t section_count;
    struct model_request_event {
        uint32_t number;
        struct model_fields fields;
        uint64_t version; /* that its guard asks for */
    } events[MODEL_EVENT_MAX];
    uint32_t event_count;

    uint64_t number; /* 0: of no session */
    uint32_t client, lane;
};

enum { MODEL_BODY_MAX = 16 * 1024 };
/* Returns the size. */
uint32_t model_request_body(const struct model_request *request, uint8_t body[MODEL_BODY_MAX]);

/* Another section of a write, of objects with random fields. */
struct model_section *model_request_section(struct model_request *request,
                                            const struct model *model, uint32_t groove,
                                            enum event_type type, const uint32_t *numbers,
                                            uint32_t count, struct prng *prng);
/* A write of up to three sections with guards, most of them linked, to objects of low numbers. */
void model_request_chains(struct model_request *request, const struct model *model,
                          struct prng *prng);

/* What the forest must do, as this commit. Returns how many events fail, listed in `failures`. */
uint32_t model_request_apply(const struct model_request *request, struct model *model,
                             uint64_t commit, struct event_failure failures[MODEL_EVENT_MAX]);
/* Whether the grooves that it speaks of are those that the model has. */
bool model_request_fits(const struct model_request *request, const struct model *model);
