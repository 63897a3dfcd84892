/* A forest on a disk image, asked for things, beside the model of what it must then hold.
 *
 * The n-th request is the n-th commit, so the model knows what every commit did before it is
 * answered. Everything runs on the calling thread unless the driver was opened with threads. */
#pragma once

#include "tests/harness/disk_image.h"
#include "tests/harness/forest_fixture.h"
#include "tests/harness/object_model.h"

enum { DRIVER_PENDING_MAX = 64 };

struct model_driver {
    struct forest_fixture fixture; /* First member: outcomes cast back. */
    struct image_io disk;
    struct model model;
    struct prng prng;
    _Atomic uint64_t issued, acknowledged; /* commits */

    struct driver_pending {
        uint64_t commit;
        uint32_t entry_first;   /* of the model's store */
        uint32_t failure_count; /* expected */
        bool creates;           /* the entry is of a groove that is made */
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
void driver_state_deinit(struct driver_state *state);
/* The disk and the model become what was saved; the forest is not touched. */
void driver_load(struct model_driver *driver, const struct driver_state *state);

/* Queues a write of `count` events of one type; does not wait. */
void driver_submit(struct model_driver *driver, uint32_t groove, enum event_type type,
                   const uint32_t *numbers, uint32_t count);
/* The same, and waits. What the forest refuses is taken back from the model; returns the result. */
enum request_result driver_write(struct model_driver *driver, uint32_t groove, enum event_type type,
                                 const uint32_t *numbers, uint32_t count);
void driver_create(struct model_driver *driver, uint32_t groove);
void driver_drop(struct model_driver *driver, uint32_t groove);
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
