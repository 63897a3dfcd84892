/* A deterministic simulation of the whole daemon: one seed, one OS thread, one outcome.
 *
 *   holt_sim (parent)      for each seed: format a disk, then lives, one forked child each
 *     └─ child             the real daemon (forest_thread_run) and its clients, all on fibers
 *          sim_threads     pthreads, locks and clocks of the daemon, run by a seeded scheduler
 *          sim_disk        what is behind engine/storage/io.h: slow, lossy, lying
 *          sim_front       what is behind ipc/listener.h: wire bytes in, wire bytes out
 *          sim_session     what may be said of sessions
 *          sim_client      who asks, and compares the answers
 *          sim_scan        the full comparison that a life begins with
 *          sim_model       what every answer must be
 *
 * Everything that outlives a life (disk, model, clients, chance) lies in memory that parent and
 * children share, in `struct sim`. A child ends when the power is cut, when it is killed, when the
 * daemon stops or refuses to start, or when something is wrong; the parent judges which of these
 * was allowed, and starts the next life on what is left.
 *
 * The digest takes in every choice of the scheduler, every byte of I/O and every message, so that
 * two runs of a seed that agree in it were the same run. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/storage/limits.h"
#include "tests/harness/prng.h"
#include "tests/sim/sim_disk.h"
#include "tests/sim/sim_front.h"
#include "tests/sim/sim_model.h"

/* How a child ended. Not one of the codes of pool/status.h. */
enum {
    SIM_EXIT_STOPPED = 100, /* a clean stop */
    SIM_EXIT_CUT,           /* the power went */
    SIM_EXIT_KILLED,        /* the process was killed, the machine goes on */
    SIM_EXIT_FATAL,         /* the daemon called fatal() */
    SIM_EXIT_REFUSED,       /* the daemon did not start: sim->refusal says why */
    SIM_EXIT_FAILED,        /* something is wrong, and has been said */
};

/* What a life is to end with, unless something else ends it before. */
enum sim_end { SIM_END_CUT, SIM_END_KILL, SIM_END_STOP };

/* X(name, text). Counted over all lives; a hundred seeds must leave none at zero. */
#define SIM_COUNTER_MAP(X)                                                                         \
    X(LIVES, "lives")                                                                              \
    X(CUTS, "power cuts")                                                                          \
    X(CUTS_IN_RECOVERY, "power cuts in recovery")                                                  \
    X(KILLS, "kills")                                                                              \
    X(STOPS, "clean stops")                                                                        \
    X(STEPS, "steps of the scheduler")                                                             \
    X(REQUESTS, "requests answered")                                                               \
    X(WRITES, "writes committed")                                                                  \
    X(EVENTS, "events committed")                                                                  \
    X(GUARDS_HELD, "guards that held")                                                             \
    X(GUARDS_FAILED, "guards that did not hold")                                                   \
    X(CHAINS_UNDONE, "chains taken back")                                                          \
    X(NUMBERED, "numbered writes executed")                                                        \
    X(DOUBLED, "numbered writes whose repetition got the same bytes")                              \
    X(RESENT_DONE, "numbered writes sent again after a life: done already")                        \
    X(RESENT_NEW, "numbered writes sent again after a life: done now")                             \
    X(SESSIONS_CLOSED, "sessions closed")                                                          \
    X(SESSIONS_EVICTED, "sessions missed by their clients: evicted")                               \
    X(SESSIONS_REFUSED, "sessions refused: no lane is left")                                       \
    X(CREATES, "grooves created")                                                                  \
    X(DROPS, "grooves dropped")                                                                    \
    X(READS, "reads compared with the model")                                                      \
    X(READS_LATE, "reads of a version no longer the newest")                                       \
    X(AUDITS, "full scans")                                                                        \
    X(PENDING_KEPT, "writes kept that nobody had been told of")                                    \
    X(PENDING_LOST, "writes lost that nobody had been told of")                                    \
    X(REPLAYED, "entries executed again, to the same effect")                                      \
    X(REPEATED, "checkpoints made again, to the byte")                                             \
    X(VERIFIES, "offline verifications")                                                           \
    X(CHECKPOINTS, "checkpoints")                                                                  \
    X(JOURNAL_LAPS, "laps of the journal")                                                         \
    X(CHUNKS, "growths of the file")                                                               \
    X(LEVEL_2, "seeds that reached level 2")                                                       \
    X(SEEDS_CHECKPOINTS, "seeds with 4 checkpoints and more")                                      \
    X(SECTORS_LOST, "sectors lost at a cut")                                                       \
    X(SECTORS_TORN, "sectors torn at a cut")                                                       \
    X(READ_ERRORS, "reads that failed")                                                            \
    X(READ_FLIPS, "reads with a flipped bit")                                                      \
    X(WRITE_ERRORS, "writes that failed")                                                          \
    X(SYNC_ERRORS, "syncs that failed")                                                            \
    X(NO_SPACE, "writes without space")                                                            \
    X(LOST, "writes lost in silence")                                                              \
    X(MISDIRECTED, "writes that went elsewhere")                                                   \
    X(ROT, "sectors that rotted")                                                                  \
    X(HEALED, "sectors put right again")                                                           \
    X(REPLIES_CORRUPT, "replies CORRUPT")                                                          \
    X(REPLIES_READ_ONLY, "replies READ_ONLY")                                                      \
    X(REPLIES_FULL, "replies FULL")                                                                \
    X(REPLIES_EXPIRED, "replies EXPIRED")                                                          \
    X(FATALS, "fatal ends")                                                                        \
    X(REFUSALS, "refusals to open")

enum sim_counter {
#define X(name, text) SIM_##name,
    SIM_COUNTER_MAP(X)
#undef X
        SIM_COUNTER_COUNT
};

/* What the seed chose, once. Chances are per million. */
struct sim_swarm {
    struct geometry geometry;
    uint32_t workers_max, readers_max; /* each life chooses up to these */
    bool bulk;                         /* one slot grows large, through several levels */
    uint32_t lane_count;
    uint32_t session_width;              /* clients that share a session */
    bool wide;                           /* more lanes of sessions than there may be */
    uint32_t preempt_chance;             /* that a lock taken or given back yields */
    uint32_t spurious_chance;            /* that a wait returns early */
    uint64_t read_ns, write_ns, sync_ns; /* mean latencies */
    uint32_t tear_size;                  /* bytes that a cut keeps or loses together */
    uint64_t think_ns;                   /* mean pause of a client */
    uint32_t silence_chance;             /* that it is a long one */
    uint64_t life_steps;                 /* mean steps until a life ends */
    uint32_t end_weights[3];             /* by enum sim_end */
    uint32_t read_error_chance, read_flip_chance, write_error_chance, sync_error_chance;
    uint32_t lost_chance, misdirect_chance; /* per write to the grid */
    uint32_t rot_chance;                    /* per step */
    uint64_t size_limit;                    /* bytes of the disk before the last lives */
};

/* This life. */
struct sim_life {
    uint64_t number;
    uint32_t workers, readers;
    uint64_t end_step; /* UINT64_MAX: when the clients have done their share */
    enum sim_end end;
    bool end_at_superblock;    /* or soon after the first write to the superblock that follows half
                                * of its steps */
    uint32_t journal_slowness; /* factor: the journal's calls take so much longer */
    uint32_t grid_slowness;    /* and those of everything else */
    bool faults;               /* chance may fail, lose and flip */
    bool faulted;              /* it did, in a way that the daemon may have to give up for */
    bool no_space;             /* the disk was full */
    bool stop_wanted;          /* SIGTERM was sent */
    uint64_t stop_ns;          /* when */
    bool recovered;            /* the daemon listens */
    bool audited;              /* and was found to hold what it must */
    uint64_t step_begin;
    uint64_t recovered_step;
};

/* What followed from one journal entry. The journal alone decides it, so whoever executes the entry
 * again, in recovery, must arrive at the same. */
struct sim_consequence {
    uint64_t sequence;
    uint64_t entry;      /* of the entry's checksum, which is chained to all before it */
    uint64_t op;         /* after its beats */
    uint64_t counters;   /* hashed: how far the bar and the interval have come; 0: not known */
    uint64_t checkpoint; /* of the id of the one that was encoded behind it; 0: none yet */
};
enum { SIM_CONSEQUENCE_MAX = 1 << 14 }; /* by sequence, modulo */

struct sim {
    uint64_t seed;
    uint64_t step; /* of the scheduler, over all lives */
    uint64_t now_ns;
    uint64_t realtime_offset_ns; /* what the wall clock is ahead of now_ns */
    uint64_t realtime_ns_max;    /* the latest that it ever said */
    uint64_t digest;
    struct prng prng;
    bool verbose;
    bool shifted; /* the second run of a pair: the same, at other addresses */
    struct sim_swarm swarm;
    struct sim_life life;
    uint64_t counters[SIM_COUNTER_COUNT];
    uint32_t level_max;
    char refusal[1024];      /* SIM_EXIT_REFUSED: the daemon's words */
    uint32_t refusal_status; /* enum status of that, or of fatal() */
    struct sim_consequence consequences[SIM_CONSEQUENCE_MAX];
    struct sim_disk disk;
    struct sim_front front;
    struct sim_model model;
};

extern struct sim *sim;

/* By this run's chance: 0 .. bound - 1; true `numerator` times out of `denominator`. */
static inline uint64_t sim_below(uint64_t bound)
{
    return prng_below(&sim->prng, bound);
}

static inline bool sim_odds(uint64_t numerator, uint64_t denominator)
{
    return prng_chance(&sim->prng, numerator, denominator);
}

/* Into the digest; with --verbose also a line on stdout. */
void sim_trace(const char *what, uint64_t a, uint64_t b, uint64_t c);
/* Into the digest only. */
void sim_mix(uint64_t word);
uint64_t sim_hash(const void *bytes, uint64_t size);

static inline void sim_count(enum sim_counter counter)
{
    sim->counters[counter] += 1;
}

/* True `chance` times in a million. */
bool sim_chance(uint32_t chance);
/* Around `mean`, now and then much more; never 0. */
uint64_t sim_duration(uint64_t mean);

/* Something is wrong: says what, with the seed and the step, and ends the child. */
__attribute__((format(printf, 1, 2))) _Noreturn void sim_fail(const char *format, ...);

/* The power goes, or the process is killed, now. */
_Noreturn void sim_end(enum sim_end end);

/* Once per step: what chance and this life's plan bring. */
void sim_step(void);

/* A fault that may make the daemon refuse, fail or give up has happened, or still is there. */
bool sim_is_troubled(void);
