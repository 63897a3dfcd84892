/* A forest on a disk in memory, with teams of any size, a clock that only tests move, and one
 * groove.
 *
 * The groove `things` has 64-byte objects: a u64 (index by_a), b u32 and c u32 (index by_bc on
 * both), note text<16> (index by_note, cut to 8... see fixture_spec). Requests are made one at a
 * time or queued; outcomes are counted and kept. */
#pragma once

#include "engine/forest.h"
#include "tests/harness/prng.h"
#include "tests/harness/sim_io.h"

enum { FIXTURE_OBJECT_SIZE = 64, FIXTURE_SIZE_LIMIT = 160 * 1024 * 1024 };

struct fixture_object {
    uint8_t id[16];
    uint64_t timestamp;
    uint64_t version;
    uint64_t a;
    uint32_t b;
    uint32_t c;
    char note[16];
};

struct forest_fixture {
    struct sim_io sim;
    struct io *io; /* &sim.io, unless a test puts another disk there between two opens */
    uint64_t cache_size;
    struct sim_io_opening journal_opening;
    struct geometry geometry;
    struct doorbell doorbell;
    struct workers compactors, journal_worker, growth_worker, readers;
    struct clock clock;
    uint64_t now_ns;
    struct forest *forest;
    uint32_t groove_id;
    uint64_t read_budget_size;             /* for the next open; likewise: */
    uint64_t journal_wait_ns_max;          /* the forest thread writes small entries itself */
    bool atomic;                           /* so are writes that are submitted from now on */
    const struct request_session *session; /* whose what is submitted is; NULL: nobody's */

    /* The last open. */
    bool opened;
    enum status open_status;
    struct forest_open_report open_report;
    char open_reason[512];

    /* Outcomes so far. */
    uint64_t outcome_count;
    struct request_outcome outcome; /* the last one; failures copied */
    struct event_failure failures[8192];

    /* Called with every outcome of a request that entered a batch, in their order, if set. */
    void (*on_outcome)(struct forest_fixture *fixture, const struct request_outcome *outcome);

    /* Called once for the checkpoint found by an open, and right after every join of one, if set:
     * until the next join the superblock on disk is that checkpoint's, and nothing it leads to
     * changes. */
    void (*on_checkpoint)(struct forest_fixture *fixture, uint64_t op,
                          const struct checksum *checkpoint_id);
    uint64_t checkpoint_op_seen;
};

/* An empty formatted file. */
void fixture_init(struct forest_fixture *fixture, const struct geometry *geometry);
void fixture_deinit(struct forest_fixture *fixture);

/* Opens with W workers (and a thread each for journal, growth and readers if `threads`). Asserts
 * success unless `may_fail`. */
void fixture_open(struct forest_fixture *fixture, uint32_t worker_count, bool threads);
bool fixture_try_open(struct forest_fixture *fixture, uint32_t worker_count, bool threads);
/* The open forest, or what a failed one left, is given up as it is, and opened again on what `io`
 * holds now: a file of the same geometry. A tenth of the time that taking all memory anew costs.
 * The teams stay. When it cannot be opened, the forest stays to be reopened or discarded. */
bool fixture_try_reopen(struct forest_fixture *fixture);
/* Ends without finishing anything; may follow a failed fixture_try_reopen. */
void fixture_discard(struct forest_fixture *fixture);
/* Clean: everything finished, sealed. */
void fixture_close(struct forest_fixture *fixture);
/* Power cut: `seed` chooses what unsynced writes survive. */
void fixture_crash(struct forest_fixture *fixture, uint64_t seed);

/* One pass over the event loop: ticks until nothing moves. */
void fixture_tick(struct forest_fixture *fixture);
/* Until idle. */
void fixture_settle(struct forest_fixture *fixture);
/* Until no debt is left, with idle ops. */
void fixture_pay_debt(struct forest_fixture *fixture);

/* Queues a request, waiting for room; does not wait for its outcome. */
void fixture_submit(struct forest_fixture *fixture, enum request_kind kind, const void *body,
                    uint32_t size);
/* Queues and waits for the outcome. Refusals at the door become outcomes, too. */
enum request_result fixture_request(struct forest_fixture *fixture, enum request_kind kind,
                                    const void *body, uint32_t size);

/* Opens or closes the session of `session`, and waits for the outcome. */
enum request_result fixture_session_open(struct forest_fixture *fixture,
                                         const struct request_session *session, uint32_t lane_count,
                                         uint64_t idle_ns);
enum request_result fixture_session_close(struct forest_fixture *fixture,
                                          const struct request_session *session);

void fixture_spec(struct groove_spec *spec, const char *name);
/* Creates `things` and remembers its id. */
void fixture_create(struct forest_fixture *fixture);
/* Finds its id in a reopened forest; false: there is none. */
bool fixture_find(struct forest_fixture *fixture);

/* A write body of one section. Returns its size. */
uint32_t fixture_body(uint8_t *body, uint32_t groove_id, enum event_type type,
                      const struct fixture_object *objects, uint32_t count);
void fixture_id(uint8_t id[16], uint64_t number);

/* Blocking; any result. The caller releases it (forest_read_release). */
struct read_request *fixture_read(struct forest_fixture *fixture, enum read_kind kind,
                                  uint32_t groove_id, uint32_t index, const void *input,
                                  uint32_t input_size);

/* Blocking reads of `things` that must succeed. */
uint64_t fixture_count(struct forest_fixture *fixture, uint32_t index, const void *values,
                       uint32_t values_size);
/* Returns how many; objects is [max]. */
uint32_t fixture_lookup(struct forest_fixture *fixture, const uint8_t *ids, uint32_t id_count,
                        struct fixture_object *objects, uint32_t max);
uint32_t fixture_query(struct forest_fixture *fixture, uint32_t index, const void *values,
                       uint32_t values_size, struct fixture_object *objects, uint32_t max);
