/* The plainest model of a few grooves over time: what every object was after each commit. And of
 * sessions: which there were, and what each lane remembered (session_model.h).
 *
 *   heads[object] -> newest entry -> the one before -> ... -> none      entries only grow
 *
 * So one model answers for any commit of its history, and a branch of it (what happened after a
 * crash) is a copy of the heads.
 *
 * Objects are numbered in each groove; an object's bytes follow from a few words (model_image), and
 * its indexes have few values, so that every value of every index can be asked for. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/storage/limits.h"
#include "tests/harness/forest_fixture.h"

enum {
    MODEL_GROOVE_MAX = 3,
    MODEL_OBJECT_MAX = 2600, /* of one groove */
    MODEL_A_COUNT = 13,
    MODEL_B_COUNT = 3,
    MODEL_C_COUNT = 2,
    MODEL_NOTE_COUNT = 5, /* the first is empty: not in the sparse index */
    MODEL_CODE_COUNT = 1024,
    MODEL_OBJECT_SIZE_MAX = 960,
    MODEL_EVENT_MAX = 8, /* of one request */
    MODEL_CLIENT_MAX = 8,
};

/* What an object's bytes are made of. */
struct model_fields {
    uint32_t a, b, c, note;
    uint32_t code; /* in the second groove, where no two objects have the same */
    uint64_t salt; /* of what no index sees */
};

/* What a lane remembers of its last request. */
struct model_lane {
    uint64_t number;
    enum request_kind kind;
    uint32_t failure_count;
    struct event_failure failures[MODEL_EVENT_MAX];
    uint32_t groove_id, object_size; /* of a groove that was made; 0 until the outcome tells */
    uint32_t request;                /* of the store: what was sent */
};

enum model_kind { MODEL_OBJECT, MODEL_GROOVE, MODEL_SESSION, MODEL_LANE };

struct model_entry {
    uint32_t *head;  /* whose newest it was when it was added */
    uint32_t before; /* index of the same thing's entry before; 0 = none */
    uint32_t event;  /* of its request */
    enum model_kind kind;
    bool exists;
    uint64_t commit;
    uint64_t timestamp; /* 0 until the outcome tells; of an object, that of the one that made it */
    union {
        struct {
            bool made; /* it did not exist before */
            struct model_fields fields;
            uint64_t version; /* 0 until the outcome tells */
        };
        uint32_t groove_id; /* likewise */
        uint32_t lane_count;
        struct model_lane lane;
    };
};

struct model_request;

struct model_store {
    struct model_entry *entries; /* [entry_max], the first is not used */
    uint32_t entry_count, entry_max;
    struct model_request *requests; /* [request_max], those that lanes remember */
    uint32_t request_count, request_max;
};

struct model {
    struct model_store *store; /* shared by branches, borrowed */
    uint32_t heads[MODEL_GROOVE_MAX][MODEL_OBJECT_MAX];
    uint32_t groove_heads[MODEL_GROOVE_MAX]; /* whether the groove exists */
    uint32_t session_heads[MODEL_CLIENT_MAX];
    uint32_t lane_heads[MODEL_CLIENT_MAX][SESSION_LANE_MAX];
};

void model_store_init(struct model_store *store, uint32_t entry_max, uint32_t request_max);
void model_store_deinit(struct model_store *store);

/* How full a store was, to give up what came after. */
struct model_mark {
    uint32_t entry_count, request_count;
};
struct model_mark model_store_mark(const struct model_store *store);
/* Of what models said meanwhile, only copies of before still hold. */
void model_store_rewind(struct model_store *store, const struct model_mark *mark);

/* Nothing exists. */
void model_init(struct model *model, struct model_store *store);
/* `branch` knows of `model` what was committed up to `commit`. */
void model_branch(struct model *branch, const struct model *model, uint64_t commit);

/* The groove's entry, or the object's, as of `commit`; NULL: it does not exist. */
const struct model_entry *model_groove(const struct model *model, uint32_t groove, uint64_t commit);
const struct model_entry *model_object(const struct model *model, uint32_t groove, uint32_t number,
                                       uint64_t commit);

/* For session_model.c: a new entry of this commit, the newest of `head`; and the newest as of
 * `commit`, NULL: there is none. */
struct model_entry *model_add(struct model *model, uint32_t *head, enum model_kind kind,
                              uint64_t commit);
const struct model_entry *model_at(const struct model *model, uint32_t head, uint64_t commit);

void model_groove_set(struct model *model, uint32_t groove, uint64_t commit, bool exists);
/* Applies one event as the forest must, and says what it must answer. `event` is its index. */
enum event_result model_event(struct model *model, uint32_t groove, uint32_t number,
                              enum event_type type, struct event_guard guard,
                              const struct model_fields *fields, uint64_t commit, uint32_t event);
/* Takes back all entries from `first` on, which were all added through this model. */
void model_undo(struct model *model, uint32_t first);
/* Entries from `first` on learn what the outcome of their commit tells: times, and ids of grooves.
 */
void model_told(struct model *model, uint32_t first, const struct request_outcome *outcome);

/* Names and layouts: the first groove has objects of 960 bytes, the second of 72, with a unique
 * index, the third of 64. */
void model_spec(struct groove_spec *spec, uint32_t groove);
uint32_t model_object_size(uint32_t groove);
void model_id(uint8_t id[16], uint32_t groove, uint32_t number);
/* The object image of `protocol.md`; times 0 as a client sends it. */
void model_image(uint8_t *image, uint32_t groove, uint32_t number,
                 const struct model_fields *fields, uint64_t timestamp, uint64_t version);
void model_fields_random(struct model_fields *fields, struct prng *prng);

/* How thorough a look is, and what it found. */
struct model_check {
    uint32_t lookup_stride; /* 1: every object is looked up; n: one of n, beginning anywhere */
    struct prng *prng;
    bool may_be_corrupt; /* a read may say CORRUPT instead of the answer */
    uint64_t reads, corrupt_reads;
    uint64_t damaged[2]; /* if not 0: the addresses that such a read must name one of */
    char reason[256];    /* why it is wrong */
};

/* Reads everything from an open forest that is idle: every session and lane, every groove, every
 * object by id, every value of every index, counts. Whether all of it is as of `commit`. */
bool model_compare(const struct model *model, uint64_t commit, struct forest_fixture *fixture,
                   struct model_check *check);
