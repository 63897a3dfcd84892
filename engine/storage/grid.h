/* The blocks of the data file: reading, writing, growing.
 *
 * Address a >= 1 lies at grid_zone_offset + (a - 1) * block_size. The file grows by whole chunks,
 * written with zeros and synced by a worker ahead of need (a journal sync beside writes to
 * unwritten extents costs twice as much; beside a growing file, three times). Growth is timing, so
 * it never decides an address: whoever holds an address past the grown end waits.
 *
 * Growth that fails leaves a usable grid of the size it had, says so in grow_status and is tried
 * again when next asked for. A sync that fails is for good (engine/storage/io.h): from then on no
 * growth succeeds, and the owner must stop (grid_sync_failed). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/storage/block.h"
#include "engine/storage/block_cache.h"
#include "engine/storage/io.h"
#include "pool/doorbell.h"
#include "pool/status.h"
#include "pool/workers.h"

struct grid_chunk_job {
    struct job job; /* First member: `run` casts back. */
    struct grid *grid;
};

struct grid {
    struct io *io;
    struct block_cache cache;
    struct doorbell *doorbell; /* rung when a chunk is done */
    struct workers *workers;   /* run the growth job; its own team of one (or none) */
    uint64_t zone_offset;
    uint32_t block_size;
    uint32_t chunk_block_count;
    uint64_t block_count_max;

    _Atomic uint64_t block_count; /* usable now: whole, synced chunks; only grows. Stored (release)
                                   * by the growth job, before anyone is given those addresses */
    struct mutex grow_mutex;      /* LOCK_RANK_GRID; guards the start and end of growth */
    pthread_cond_t grown;         /* a chunk is usable, or growth has ended */
    struct grid_chunk_job grow_job;
    uint8_t *zeros;                  /* [IO_SIZE_MAX], aligned, owned; only zeros */
    uint64_t grow_target;            /* blocks wanted; guarded by grow_mutex */
    bool grow_queued;                /* the job has not begun; guarded by grow_mutex */
    _Atomic bool growing;            /* queued or running; written under grow_mutex */
    _Atomic enum status grow_status; /* NO_SPACE or IO of the last try; OK again when one works */

    _Atomic uint64_t blocks_written; /* for stat and benchmarks */
    _Atomic uint64_t blocks_read;
};

/* Opens on a file that holds whole chunks; a partial one at the end is not used (growth rewrites
 * it). STATUS_NO_MEMORY, STATUS_IO. */
MUST_CHECK enum status grid_init(struct grid *grid, struct io *io, const struct geometry *geometry,
                                 uint32_t cache_block_count, struct workers *workers,
                                 struct doorbell *doorbell);
/* Waits for growth in progress. Asserts that no block is pinned. */
void grid_deinit(struct grid *grid);

/* For format: the first chunk, zero-written; syncs. */
MUST_CHECK enum status grid_format(struct io *io, const struct geometry *geometry);

/* Forest thread. Asks that addresses up to `address_max` plus `ahead` blocks become usable; starts
 * the growth job when needed and none runs. Cheap; called every beat. */
void grid_grow_ahead(struct grid *grid, uint64_t address_max, uint64_t ahead);
/* Any thread but the growth worker. Blocks until `address` is usable, asking for growth if nobody
 * has. STATUS_NO_SPACE, STATUS_IO: growth failed (it is retried by the next grid_grow_ahead, not
 * here). With growth workers of 0 threads it runs the growth itself. */
MUST_CHECK enum status grid_wait_usable(struct grid *grid, uint64_t address);

/* Any thread, blocking, past the cache. `count` adjacent blocks from `address`, any number; split
 * into calls of IO_SIZE_MAX. Reading does not verify (block_verify does). STATUS_CORRUPT: the file
 * does not reach that far. STATUS_IO. */
MUST_CHECK enum status grid_read_blocks(struct grid *grid, uint64_t address, uint32_t count,
                                        uint8_t *buffer);
/* Waits for the addresses to be usable first (statuses of grid_wait_usable). The blocks are sealed,
 * for these addresses. STATUS_IO: what reached the disk is unknown; writing again may help. */
MUST_CHECK enum status grid_write_blocks(struct grid *grid, uint64_t address, uint32_t count,
                                         const uint8_t *buffer);
/* Any thread, blocking. What was written before is on stable storage. STATUS_IO stays. */
MUST_CHECK enum status grid_sync(struct grid *grid);
/* Any thread. Whether a sync of the file, anybody's, has ever failed: nothing written since the one
 * before may be called durable, in any zone. */
bool grid_sync_failed(struct grid *grid);

/* Any thread, blocking, past the cache: one block into `buffer`, verified. STATUS_CORRUPT and
 * STATUS_IO as grid_get_block. */
MUST_CHECK enum status grid_read_block(struct grid *grid, const struct block_reference *reference,
                                       enum block_type type, uint8_t *buffer);

/* Any thread, blocking. Reads through the cache and verifies. STATUS_CORRUPT: not what the parent
 * pointed to (checked twice: the read is repeated once before damage is declared). STATUS_IO: twice
 * the device could not read it. On both the pin is empty. When the cache has no room the block is
 * read into `spare` (one block, aligned, owned by the caller), and the pin points there with slot
 * NULL. */
MUST_CHECK enum status grid_get_block(struct grid *grid, const struct block_reference *reference,
                                      enum block_type type, uint8_t *spare, struct block_pin *pin);
/* Any thread, never waits: the block if it is in the cache. False: it is not. *status is OK, or
 * CORRUPT with an empty pin. */
MUST_CHECK bool grid_find_block(struct grid *grid, const struct block_reference *reference,
                                enum block_type type, struct block_pin *pin, enum status *status);
void grid_put_block(struct grid *grid, struct block_pin *pin);
