/* A disk in memory that fails, tears, rots and crashes on demand.
 *
 *   write ──► bytes (what reads see) ──sync──► durable (what survives sim_io_crash)
 *
 * Both images start as zeros. A crash throws every unsynced sector back to its durable content,
 * or keeps it, or mixes the two in units of SIM_IO_TEAR_SIZE, by a seed.
 *
 * Faults are armed ahead: "the n-th write from now", n = 1 being the next. Each fires once and
 * disarms itself, so a test can loop over n until nothing fires (sim_io_armed says whether a fault
 * is still waiting). All calls lock; the images may be read directly while no thread does I/O. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/storage/io.h"

/* Finer than any disk's sector, so that nothing can rest on a sector being written whole. */
enum { SIM_IO_TEAR_SIZE = 64 };

/* One armed fault; `countdown` 0 = not armed, 1 = the next operation. */
struct sim_io_fault {
    uint64_t countdown;
    uint64_t keep_size; /* bytes of a torn write that reach the disk */
    enum status status; /* what the operation returns */
};

struct sim_io;

/* One more opening of the file. */
struct sim_io_opening {
    struct io io; /* First member: the vtable casts back. */
    struct sim_io *sim;
    uint64_t errors_told;
};

struct sim_io {
    struct io io; /* First member: the vtable casts back. Hand &sim->io to the code under test. */
    pthread_mutex_t mutex; /* a leaf: nothing is called under it */

    uint8_t *bytes;        /* [capacity] what reads see, owned */
    uint8_t *durable;      /* [capacity] what was synced, owned */
    uint64_t size;         /* bytes in the file; a multiple of SECTOR_SIZE */
    uint64_t size_durable; /* as of the last sync */
    uint64_t size_limit;   /* writing past it is STATUS_NO_SPACE */
    uint64_t capacity;     /* bytes of both images */

    /* [capacity / SECTOR_SIZE] 0, or the sector is in unsynced_list: 1, or 2 when its write-back
     * has failed: then reads see it, syncs pass over it, and no crash keeps it. */
    uint8_t *unsynced;
    uint64_t *unsynced_list; /* [capacity / SECTOR_SIZE] sector numbers, oldest write first */
    uint64_t unsynced_count;

    pthread_cond_t changed;   /* of a held read: it is held, or let go */
    uint64_t hold_countdown;  /* reads until one is held; 0 = not armed */
    const char *hold_thread;  /* of threads whose names begin so */
    uint64_t held, let_go;    /* reads held so far, and of those let go */
    uint64_t spoil_countdown; /* reads until one is spoiled; 0 = not armed */
    struct sim_io_fault read_fault;
    bool reads_fail_after; /* the fault, once it fires, stays */
    bool reads_fail;
    struct sim_io_fault write_fault;
    struct sim_io_fault sync_fault;
    struct sim_io_fault power_fault; /* counts writes and syncs */
    struct sim_io_fault lose_fault;  /* counts syncs */
    uint64_t errors;                 /* write-backs that failed */
    uint64_t errors_told;            /* to sim.io */
    bool power_lost;                 /* every operation fails until sim_io_crash */

    uint64_t read_count; /* operations asked for since init, failed ones included */
    uint64_t write_count;
    uint64_t sync_count;
};

/* An empty file that may grow to `size_limit` bytes (a multiple of SECTOR_SIZE). Memory is taken
 * from the kernel page by page as it is touched, so a generous limit costs nothing. Aborts when
 * that fails. */
void sim_io_init(struct sim_io *sim, uint64_t size_limit);
void sim_io_deinit(struct sim_io *sim);

/* From now on the disk has room for `size_limit` bytes: at least the file's size, at most what
 * sim_io_init was given. */
void sim_io_limit(struct sim_io *sim, uint64_t size_limit);

/* The n-th operation of its kind from now returns `status` and does nothing. A failed sync leaves
 * everything unsynced. n = 0 disarms. */
void sim_io_fail_read(struct sim_io *sim, uint64_t n, enum status status);
/* The n-th read from now fails, and every one after it. n = 0 disarms. */
void sim_io_fail_reads(struct sim_io *sim, uint64_t n, enum status status);
void sim_io_fail_write(struct sim_io *sim, uint64_t n, enum status status);
void sim_io_fail_sync(struct sim_io *sim, uint64_t n, enum status status);

/* The n-th sync from now loses all that was written and not synced, as a kernel does when a
 * write-back fails: it is told once to each opening, at its next sync; later syncs succeed. */
void sim_io_lose_at_sync(struct sim_io *sim, uint64_t n);
/* Any number of them; they need no end. */
void sim_io_open_again(struct sim_io *sim, struct sim_io_opening *opening);

/* Of the n-th write from now only the first `keep_size` bytes reach the file, and it returns
 * `status`: STATUS_OK with keep_size 0 is a lost write that nobody was told of. */
void sim_io_tear_write(struct sim_io *sim, uint64_t n, uint64_t keep_size, enum status status);

/* The power goes at the n-th write or sync from now: that write still lands among the unsynced
 * ones (a sync does nothing), it and every later operation returns STATUS_IO until sim_io_crash
 * decides what survived. */
void sim_io_lose_power(struct sim_io *sim, uint64_t n);

/* The n-th read from now returns STATUS_OK with a flipped bit in every sector; the disk is whole.
 */
void sim_io_spoil_read(struct sim_io *sim, uint64_t n);

/* The n-th read from now, by a thread whose name begins so, does not return before sim_io_let_go: a
 * disk that takes its time. The next one may be armed while it is held. */
void sim_io_hold_read(struct sim_io *sim, uint64_t n, const char *thread);
/* Whether a read is held now. */
bool sim_io_holds(struct sim_io *sim);
void sim_io_let_go(struct sim_io *sim);

/* Whether any fault is armed and has not fired. */
bool sim_io_armed(struct sim_io *sim);

/* The machine stops and starts again: of the unsynced sectors, `seed` chooses which are kept, lost
 * or torn; the file's growth since the last sync is kept or lost as a whole. Faults are disarmed,
 * and what is left is durable. */
void sim_io_crash(struct sim_io *sim, uint64_t seed);

/* The same with every unsynced write lost, or kept. */
void sim_io_crash_lose_all(struct sim_io *sim);
void sim_io_crash_keep_all(struct sim_io *sim);

/* The process has ended, the machine has not, and another one opens the file. */
void sim_io_reopen(struct sim_io *sim);

/* Rot: flips the bits of `mask` in the byte at `offset`, on disk and in what is not yet synced. */
void sim_io_flip(struct sim_io *sim, uint64_t offset, uint8_t mask);

/* The file as reads see it, into `bytes` [sim->size]. */
void sim_io_save(struct sim_io *sim, uint8_t *bytes);
/* The file becomes `bytes`, all of it durable; `size` is a multiple of SECTOR_SIZE and within the
 * limit. Faults and counters stay. */
void sim_io_load(struct sim_io *sim, const uint8_t *bytes, uint64_t size);
