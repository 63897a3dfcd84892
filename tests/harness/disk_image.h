/* Disks made of shared sectors: two images that differ in a few sectors cost a few pointers, so a
 * test may look at many thousands of them.
 *
 *   image      which bytes each sector has; a hash that is kept up to date as sectors change
 *   arena      where the bytes are; they are never changed, only given up together
 *   image_io   an image as a disk: writes go to new sectors, and to a trace if there is one
 *   trace      every write and sync in the order in which they happened, with the bytes
 *
 * Nothing here fails but reads of sectors that are unreadable, and for want of memory, which
 * aborts.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/storage/io.h"

/* ---- Bytes -------------------------------------------------------------------------------------
 */

struct sector_arena {
    uint8_t *memory; /* [capacity], touched as it is used */
    uint64_t capacity;
    uint64_t used; /* set it back to give up what came after */
};

void sector_arena_init(struct sector_arena *arena, uint64_t capacity);
void sector_arena_deinit(struct sector_arena *arena);
/* `size` bytes, aligned to 64, not cleared. */
void *sector_arena_take(struct sector_arena *arena, uint64_t size);

/* ---- Images ------------------------------------------------------------------------------------
 */

struct sector {
    const uint8_t *bytes; /* [SECTOR_SIZE]; NULL: zeros */
    uint64_t hash;        /* of the bytes; 0 for zeros */
};

struct image {
    struct sector *sectors; /* [sector_max] */
    uint64_t sector_max;
    uint64_t sector_count; /* the size of the file; what is beyond is zeros */
    uint64_t sum;          /* of the hashes of all sectors, each with its place */
};

void image_init(struct image *image, uint64_t sector_max);
void image_deinit(struct image *image);
/* `to` becomes what `from` is. Both of the same sector_max. */
void image_copy(struct image *to, const struct image *from);
/* The file grows to hold it. */
void image_set(struct image *image, uint64_t index, const struct sector *sector);
/* Equal images have equal hashes; others do not, but for an accident. */
uint64_t image_hash(const struct image *image);

/* A sector of these bytes, copied to the arena unless they are zeros. */
struct sector sector_make(struct sector_arena *arena, const uint8_t *bytes);
/* A sector that cannot be read until it is written again. It has no bytes. */
struct sector sector_unreadable(void);
bool sector_is_unreadable(const struct sector *sector);
/* Its bytes, of zeros too. */
const uint8_t *sector_bytes(const struct sector *sector);

/* ---- What happened -----------------------------------------------------------------------------
 */

enum trace_kind { TRACE_WRITE, TRACE_SYNC };

/* Syncs are counted for a part of the file: see trace_event.zones. */
enum trace_zone { TRACE_ZONE_JOURNAL = 1, TRACE_ZONE_REST = 2, TRACE_ZONE_ALL = 3 };

struct trace_event {
    enum trace_kind kind;
    uint8_t zones;  /* enum trace_zone: of a write, where it went; of a sync, what it may cover */
    uint64_t index; /* of a write's first sector */
    uint32_t count;
    struct sector *sectors; /* [count], in the arena */
    uint64_t acknowledged;  /* when it began: the last commit that someone had been told of */
    uint64_t issued;        /* the last commit that someone had asked for */
};

/* Callers only ever rely on a sync for what they themselves wrote: the journal for its entries, who
 * writes checkpoints for the grid and the superblock. So a sync of a thread that wrote to the
 * journal last covers only the journal, and likewise; it covers all when its thread wrote nothing
 * since its last sync. That is less than a disk does: whoever gets by with it needs no more. */
struct trace {
    struct image base; /* before the first event; all of it durable */
    struct trace_event *events;
    uint64_t event_count, event_max;
    uint64_t acknowledged_after, issued_after; /* when it was closed */
};

void trace_init(struct trace *trace, uint64_t sector_max, uint64_t event_max);
void trace_deinit(struct trace *trace);

/* ---- An image as a disk ------------------------------------------------------------------------
 */

struct image_io {
    struct io io; /* First member: the vtable casts back. */
    pthread_mutex_t mutex;
    struct image image;
    struct sector_arena *arena;                    /* borrowed */
    uint64_t journal_first, journal_end;           /* sectors */
    struct trace *trace;                           /* borrowed; NULL: nothing is recorded */
    const _Atomic uint64_t *acknowledged, *issued; /* read for the trace */
    uint32_t latency_us_max; /* of writes and syncs outside the journal; 0: none */
    bool dead;               /* every call fails and leaves no trace: the process was killed */
    _Atomic uint64_t read_count;
};

/* An empty file. */
void image_io_init(struct image_io *disk, uint64_t sector_max, struct sector_arena *arena,
                   uint64_t journal_first, uint64_t journal_end);
void image_io_deinit(struct image_io *disk);
/* The process that used it dies: every call fails and leaves no trace, until it is revived. */
void image_io_kill(struct image_io *disk);
void image_io_revive(struct image_io *disk);
/* The disk becomes `image`, for a new process. */
void image_io_load(struct image_io *disk, const struct image *image);
/* From now on events go to `trace`, which is emptied. */
void image_io_record(struct image_io *disk, struct trace *trace,
                     const _Atomic uint64_t *acknowledged, const _Atomic uint64_t *issued);
/* The trace is complete. */
void image_io_record_end(struct image_io *disk);
