/* A ring of batches: one durable write per batch, before any of its replies leave.
 *
 *   |entry|entry|entry|seal|                     |entry|entry|      offset 0 .. journal_size
 *                          ^ head (next write)   ^ tail (oldest that recovery may need)
 *
 * Entries start at sector boundaries and never straddle the end of the ring: what does not fit
 * goes to offset 0. Each carries its sequence number and its parent's checksum, and is checksummed
 * with the file's secret seed.
 *
 * Entry header (128 bytes, then `size` - 128 bytes of body, zero padded to the sector):
 *   offset size
 *        0   16  checksum_header  over bytes [16, 128), seeded
 *       16   16  checksum_body    over the body (padding included), seeded
 *       32   16  parent           checksum_header of the entry before; zero for sequence 1
 *       48    8  sequence         1..
 *       56    8  offset           where this entry believes it is, in the zone
 *       64    8  size             bytes, header included, padding not
 *       72    8  commit           first commit number in it (last + 1 when it has none)
 *       80    8  timestamp        first timestamp given to its events
 *       88    4  request_count    requests in the body
 *       92    1  kind             enum journal_kind
 *       93    1  flags            JOURNAL_FLAG_LOW
 *       94   34  zero
 *
 * Recovery reads on from the checkpoint's entry. A bad entry with nothing valid of a higher
 * sequence anywhere in the ring is a torn tail, never acknowledged, and is dropped; otherwise it
 * is damage: refused and named, never truncated. A seal (an entry without requests, written when
 * the journal goes idle and at a clean stop) thus proves the entry before it. */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/storage/checksum.h"
#include "engine/storage/io.h"
#include "engine/storage/limits.h"
#include "pool/clock.h"
#include "pool/doorbell.h"
#include "pool/job_queue.h"
#include "pool/status.h"
#include "pool/workers.h"

enum { JOURNAL_HEADER_SIZE = 128 };

enum journal_kind {
    JOURNAL_KIND_BATCH = 1,
    JOURNAL_KIND_SEAL = 2,
};

/* Free blocks were scarce when the entry was made. How many there are depends on how far the file
 * has grown, which is timing: what follows from it must be in the journal. */
enum { JOURNAL_FLAG_LOW = 1 };

struct journal_header {
    struct checksum checksum_header;
    struct checksum checksum_body;
    struct checksum parent;
    uint64_t sequence;
    uint64_t offset;
    uint64_t size;
    uint64_t commit;
    uint64_t timestamp;
    uint32_t request_count;
    uint8_t kind;
    uint8_t flags;
    uint8_t zero[34];
};
static_assert(sizeof(struct journal_header) == JOURNAL_HEADER_SIZE, "no padding");

struct journal {
    struct io *io;
    struct workers *workers;   /* one thread, or none (then the waiter runs the write) */
    struct doorbell *doorbell; /* rung when a write is durable */
    const struct clock *clock;
    uint64_t zone_offset;
    uint64_t zone_size;
    uint64_t seed;
    uint64_t entry_size_max;

    uint64_t sequence_next;
    uint64_t head;          /* offset of the next entry */
    uint64_t tail;          /* offset of the oldest entry that is still needed */
    bool empty;             /* head == tail because nothing is needed, not because it is full */
    struct checksum parent; /* checksum_header of the entry before the next */
    bool sealed;            /* the last entry is a seal */

    /* The one write in flight. */
    struct job job;
    const void *write_buffer;
    uint64_t write_offset;
    uint64_t write_size;
    bool writing;             /* forest thread's view: submitted and not yet reaped */
    _Atomic bool write_done;  /* set by the worker (release) */
    enum status write_status; /* valid once write_done */
    uint64_t write_took_ns;   /* likewise */
    uint64_t write_ns;        /* that a write takes: a mean in which the last ones count most */
    uint64_t write_ns_max;    /* since open, for stat */
    uint64_t written_bytes;   /* since open, for stat */
    uint64_t written_count;

    /* Recovery only: bytes read ahead, kept in the back half of the caller's buffer. A hint: what
     * does not verify from here is read again before it is judged. */
    const void *window_buffer;
    uint64_t window_offset; /* in the zone */
    uint64_t window_size;   /* 0: nothing */
};

/* Zeroes the zone and syncs; `progress(done, total, context)` may be NULL. */
MUST_CHECK enum status
journal_format(struct io *io, const struct geometry *geometry,
               void (*progress)(uint64_t done, uint64_t total, void *context), void *context);

void journal_init(struct journal *journal, struct io *io, const struct geometry *geometry,
                  uint64_t seed, struct workers *workers, struct doorbell *doorbell,
                  const struct clock *clock);

/* Where recovery starts: the entry `sequence` at `offset` whose parent is `parent`. The tail. */
void journal_recover_begin(struct journal *journal, uint64_t sequence, uint64_t offset,
                           const struct checksum *parent);

enum journal_recovery {
    JOURNAL_RECOVERY_ENTRY, /* one more entry is in `buffer` */
    JOURNAL_RECOVERY_END,   /* clean end: the journal is ready for append */
    JOURNAL_RECOVERY_TORN,  /* a torn tail was dropped: ready for append, too */
};

/* Reads the next entry into `buffer` (journal_entry_size_max bytes, aligned). On ENTRY the header
 * at buffer[0] and its body are verified, and the journal has advanced past it. Best given the same
 * buffer each time: behind the entry it keeps what was read ahead. END and TORN sync first, so that
 * nothing recovered can be lost after something new was appended. STATUS_CORRUPT: damage before a
 * later valid entry. STATUS_IO: reading or syncing failed, which says nothing of what is there. In
 * both cases *bad_offset says where (zone offset). */
MUST_CHECK enum status journal_recover_next(struct journal *journal, void *buffer,
                                            enum journal_recovery *outcome, uint64_t *bad_offset);

/* Forest thread. Completes header.{checksums, parent, sequence, offset} of the entry in `buffer`
 * (size, commit, timestamp, request_count, kind, flags and body set by the caller; buffer aligned,
 * with room for the padding, lent until journal_reap says it is durable). It is in flight from here
 * on; journal_hand_over or journal_write must follow. Requires: no write in flight, and room
 * (journal_has_room). */
void journal_append(struct journal *journal, void *buffer);

/* Forest thread. The journal thread writes what was appended, beside whatever is done meanwhile. */
void journal_hand_over(struct journal *journal);

/* Forest thread. Writes what was appended, and blocks for as long: two changes of thread less,
 * which for a disk that is quick (write_ns) and a caller with nothing else to do is a third of
 * what a small write takes. */
void journal_write(struct journal *journal);

/* Whether an entry of `size` bytes fits before the tail. By the sizing of limits.h it always does
 * in live operation; the caller asserts. */
bool journal_has_room(const struct journal *journal, uint64_t size);

/* Forest thread. True once, when the write in flight has become durable; `*status` is its outcome
 * (not OK: fatal to the caller). False: none in flight or not done yet. */
bool journal_reap(struct journal *journal, enum status *status);

/* Forest thread. Blocks until journal_reap would return true (or nothing is in flight). */
void journal_wait(struct journal *journal);

/* Forest thread. After the checkpoint that starts replay at `offset` is durable: what is older may
 * be overwritten. */
void journal_advance_tail(struct journal *journal, uint64_t offset);

/* Bytes between tail and head. */
uint64_t journal_used(const struct journal *journal);
