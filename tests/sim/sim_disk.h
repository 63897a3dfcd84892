/* A disk in shared memory: what is behind engine/storage/io.h in a simulation.
 *
 *   write ── latency ──► bytes (what reads see) ── sync ── latency ──► durable (survives a cut)
 *
 * Each call of a fiber takes time, in which others run. A write lands when its time is over; a cut
 * before that leaves any part of it. A sync makes durable what had landed when it was called; what
 * lands later may be lost by a cut, or not. A cut keeps, loses or tears every sector that is not
 * durable, in units of swarm.tear_size.
 *
 * Damage (a write lost or gone elsewhere, rot) is remembered, sector by sector, with the bytes that
 * should be there: sim_disk_heal puts right what has not been overwritten since. So a simulation
 * can go on after a refusal, and show that nothing else was lost. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/storage/io.h"

enum {
    SIM_DAMAGE_MAX = 64,
    SIM_JOURNAL_RECENT = 6, /* of the last writes to the journal, none rots: see sim_disk_rot */
};

static const uint64_t sim_disk_capacity = 96ull * 1024 * 1024; /* bytes */

struct sim_damage {
    uint64_t sector;
    uint8_t *good; /* [SECTOR_SIZE] in shared memory, as `bad` */
    uint8_t *bad;
};

struct sim_disk {
    uint8_t *bytes;       /* [sim_disk_capacity] */
    uint8_t *durable;     /* likewise */
    uint64_t *dirty_seen; /* [sectors] number of the write that dirtied it last; 0: durable */
    uint64_t *dirty;      /* [sectors] list of the dirty ones */
    uint64_t dirty_count;
    uint64_t size;         /* bytes in the file */
    uint64_t size_durable; /* bytes in the file after a cut, at least */
    uint64_t size_limit;   /* room on the disk, bytes */
    uint64_t write_number;
    uint32_t syncs_in_flight;
    uint64_t journal_begin, journal_end; /* zones, bytes; set by sim_disk_format */
    uint64_t journal_last;               /* offset of the last write to the journal */
    struct {
        uint64_t offset, size;
    } journal_recent[SIM_JOURNAL_RECENT];
    struct sim_damage damages[SIM_DAMAGE_MAX];
    uint32_t damage_count;
    uint8_t *damage_bytes; /* [SIM_DAMAGE_MAX * 2 * SECTOR_SIZE] */
    uint64_t flip_step;    /* of the last read that was falsified */
};

/* Empty, with memory for all time. In the parent. */
void sim_disk_map(struct sim_disk *disk);
/* Empty again. */
void sim_disk_reset(struct sim_disk *disk);
/* What the daemon opens. */
struct io *sim_disk_io(void);

/* The end of a life: of what is not durable some is kept, some lost, some torn. */
void sim_disk_cut(struct sim_disk *disk);
/* The process is gone, the machine is not: writes on their way land or not. */
void sim_disk_kill(struct sim_disk *disk);

/* One sector rots: in the grid, in one copy of the superblock, or in the journal, but not where
 * nobody could tell it from a torn write (docs/data-file.md): in its last entries. */
void sim_disk_rot(struct sim_disk *disk);
/* All known damage is mended. Returns how many sectors had it still. */
uint32_t sim_disk_heal(struct sim_disk *disk);
/* Whether any of it is still there. */
bool sim_disk_is_damaged(const struct sim_disk *disk);
