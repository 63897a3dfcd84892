/* Which blocks of the grid are free.
 *
 *   free --reserve/acquire--> acquired --release--> released --checkpoint--> releasing --join-->
 * free
 *
 * - Jobs on other threads must get addresses that depend on nothing but their own sequence. So the
 *   forest thread reserves, in a fixed order, a range of whole bitmap words that holds exactly
 *   enough free blocks; the job acquires the lowest free block of its own range, touching no word
 *   of another; at the end the forest thread forfeits what was not used.
 * - A released block is still named by the last durable checkpoint. free_set_checkpoint() (as the
 *   next checkpoint is encoded) turns released into releasing; free_set_join(), at a fixed op after
 *   it, when that checkpoint is known to be durable, frees them. Recovery repeats the join at the
 *   same op; opening frees nothing.
 * - Availability (how far the file has grown) never steers an address: the lowest free block is
 *   taken, and who takes it waits for the file to have grown that far. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "pool/status.h"

struct free_set {
    uint64_t *acquired;       /* [word_count] bit set = not free */
    uint64_t *released;       /* [word_count] subset of acquired: released in this interval */
    uint64_t *releasing;      /* [word_count] subset of acquired: to be freed at the next join */
    uint64_t block_count_max; /* bits; multiple of 64 */
    uint64_t word_count;
    /* Counts are the forest thread's: what an owner takes is folded in when it is forfeited. */
    uint64_t acquired_count; /* bits set in acquired; excludes what open reservations took */
    uint64_t released_count;
    uint64_t releasing_count;
    uint64_t reserve_word;      /* no reservation may begin below this word while any is open */
    uint32_t reservation_count; /* open */
    uint64_t address_max; /* highest address ever acquired or reserved: the file must reach it */
    /* Search summary: searches skip shards with nothing to give. */
    uint32_t *shard_free; /* [shard_count] free blocks per shard of 4096, without the words of open
                           * reservations */
    uint64_t shard_count;
};

/* A loan of free blocks to one owner. Plain data; hand it to the job by value or pointer. */
struct reservation {
    struct free_set *free_set;
    uint64_t word_first;
    uint64_t word_end;       /* exclusive; word_first == word_end: empty reservation */
    uint64_t word_cursor;    /* lowest word that may still hold a free block */
    uint32_t block_count;    /* promised */
    uint32_t acquired_count; /* <= block_count; written by the owner's thread only */
};

MUST_CHECK enum status free_set_init(struct free_set *set, uint64_t block_count_max);
void free_set_deinit(struct free_set *set);
/* The state after init: everything free. */
void free_set_reset(struct free_set *set);

/* Forest thread. False: fewer than `block_count` blocks are left within block_count_max; nothing
 * changed. block_count 0 gives an empty reservation. Every reservation is forfeited in the end, an
 * empty or used up one too; words of one that is forfeited stay out of reach until none is open. */
MUST_CHECK bool free_set_reserve(struct free_set *set, uint32_t block_count,
                                 struct reservation *reservation);
/* The reservation's owner, any thread, no lock needed. Address >= 1. Asserts that the promise is
 * not exceeded. */
uint64_t reservation_acquire(struct reservation *reservation);
/* Forest thread, after the owner is done (joined). Unused blocks are free again. */
void free_set_forfeit(struct free_set *set, struct reservation *reservation);

/* Forest thread, at any time, reservations open or not. Asserts that the block is acquired and not
 * released already. */
void free_set_release(struct free_set *set, uint64_t address);

/* released -> releasing. Requires that nothing is releasing and no reservation is open. */
void free_set_checkpoint(struct free_set *set);
/* releasing -> free. Requires no open reservation. */
void free_set_join(struct free_set *set);

bool free_set_is_free(const struct free_set *set, uint64_t address);
bool free_set_is_released(const struct free_set *set, uint64_t address); /* or releasing */
/* Free blocks with address <= address_limit: how much is in hand in a file that has grown to it.
 * Forest thread. While reservations are open, only what may still be reserved is counted (words
 * from reserve_word on), so that the answer does not depend on how far their owners are. */
uint64_t free_set_count_free_below(const struct free_set *set, uint64_t address_limit);

/* Logical content for checkpoints: two raw bitmaps, `acquired` then `releasing`, each cut after
 * the last word that holds a set bit of `acquired` (so the size follows the file, not the limit).
 * encode requires that nothing is in `released` and no reservation is open. */
uint64_t free_set_encoded_size(const struct free_set *set);
void free_set_encode(const struct free_set *set, uint8_t *buffer);
/* STATUS_CORRUPT: size or bits do not make sense (releasing not within acquired, past the limit).
 * The set is then reset. After OK address_max is the highest address acquired; a caller who kept
 * the one of the encoded set (which may be higher: reserved, not acquired) puts it back. Requires
 * no open reservation. */
MUST_CHECK enum status free_set_decode(struct free_set *set, const uint8_t *buffer, uint64_t size);
