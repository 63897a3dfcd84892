/* A forest on a disk image, asked for things, beside the model of what it must then hold.
 *
 * The n-th request is the n-th commit, so the model knows what every commit did before it is
 * answered. While there are sessions, three of four requests belong to one and are numbered. All
 * that an answer says must be what the model says. Everything runs on the calling thread unless the
 * driver was opened with threads. */
#pragma once

#include "tests/harness/disk_image.h"
#include "tests/harness/forest_fixture.h"
#include "tests/harness/model_request.h"
#include "tests/harness/object_model.h"

enum { DRIVER_PENDING_MAX = 64 };

struct model_driver {
    struct forest_fixture fixture; /* First member: outcomes cast back. */
    struct image_io disk;
    struct model model;
    struct prng prng;
    _Atomic uint64_t issued, acknowledged; /* commits */
    uint64_t numbered_count, evicted_count;

    struct driver_pending {
        uint64_t commit;
        struct model_mark before;                       /* of the model's store */
        struct event_failure failures[MODEL_EVENT_MAX]; /* [failure_count], expected */
        uint32_t failure_count;
    } pending[DRIVER_PENDING_MAX];
    uint32_t pending_first, pending_count;
    bool atomic;                 /* so are writes that are submitted from now on */
    bool may_refuse;             /* the forest may refuse a request that is alone in flight */
    enum request_result refused; /* why it refused the last one; OK: it did not */
};

/* Tiny: 4-beat bars of 8 sectors of journal, a checkpoint at every bar's end, a ring of 480 KiB. */
struct geometry driver_geometry(void);

/* A formatted file, not yet open. */
void driver_init(struct model_driver *driver, struct sector_arena *arena, uint64_t sector_max,
                 struct model_store *store, uint64_t seed);
void driver_deinit(struct model_driver *driver);

/* What the disk holds, with what is known of it. */
struct driver_state {
    struct image image;
    struct model model;
    uint64_t commit;
    uint64_t now_ns;
};
void driver_save(const struct model_driver *driver, struct driver_state *state);

/* The machine stops, and is started again with `image` on its disk: driver_open opens that. */
void driver_stop(struct model_driver *driver, const struct image *image, uint64_t now_ns);
/* The same, with what is known of it, before it is opened. */
void driver_load(struct model_driver *driver, const struct driver_state *state);
/* False: it does not open; the fixture knows why. */
bool driver_open(struct model_driver *driver);
/* What opened is `model` as of the last commit that was recovered. */
void driver_recovered(struct model_driver *driver, const struct model *model);

/* Queues a write of `count` events of one type; does not wait. */
void driver_submit(struct model_driver *driver, uint32_t groove, enum event_type type,
                   const uint32_t *numbers, uint32_t count);
/* The same, and waits. What the forest refuses is taken back from the model; returns the result. */
enum request_result driver_write(struct model_driver *driver, uint32_t groove, enum event_type type,
                                 const uint32_t *numbers, uint32_t count);
/* Queues a request of guarded, linked sections to all grooves; does not wait. */
void driver_submit_chains(struct model_driver *driver);
void driver_create(struct model_driver *driver, uint32_t groove);
void driver_drop(struct model_driver *driver, uint32_t groove);
/* Opens the client's session, for which another one may have to go; or closes the one it has. */
void driver_session(struct model_driver *driver, uint32_t client);
/* What clients do that were not answered: sends again, in their order, the numbered requests of
 * `model` up to `commit` that were not recovered. Each is new to its lane. Those that rest on what
 * is gone, too, are left out. Returns how many. */
uint32_t driver_retry(struct model_driver *driver, const struct model *model, uint64_t commit);
/* Until everything is answered. */
void driver_settle(struct model_driver *driver);
/* Idle beats to the end of the bar, where a checkpoint is taken; and to its join. */
void driver_checkpoint(struct model_driver *driver, bool join);
/* What nobody asked for: merges, and what dropped grooves hold. */
void driver_pay_debt(struct model_driver *driver);

enum driver_reopen { DRIVER_REOPEN_CLEAN, DRIVER_REOPEN_KILLED };
/* Stops when everything is answered, sealed or not, and opens again. False: it does not open, or
 * something is missing. */
bool driver_reopen(struct model_driver *driver, enum driver_reopen how);
