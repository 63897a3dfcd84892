#include "engine/storage/free_set.h"

#include <assert.h>
#include <string.h>

#include "pool/base.h"
#include "pool/memory.h"

enum {
    WORD_BITS = 64,
    SHARD_BITS = 4096,
    SHARD_WORDS = SHARD_BITS / WORD_BITS,
};

/* Encoded bitmaps are little-endian words, copied as they are. */
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the data file is little-endian");

/* The owner of a reservation writes words of `acquired` while the forest thread may look at the
 * same word (free_set_release, free_set_is_free). Nobody decides anything by what such a look says
 * about the owner's blocks, so relaxed order is enough: it only keeps the access whole. */
static uint64_t word_load(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static void word_store(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static uint32_t popcount(uint64_t word)
{
    return (uint32_t)__builtin_popcountll(word);
}

static bool bit_get(const uint64_t *words, uint64_t address)
{
    const uint64_t bit = address - 1;
    return (word_load(&words[bit / WORD_BITS]) >> (bit % WORD_BITS) & 1) != 0;
}

/* Recomputes every count. Requires no open reservation. */
static void assert_counts(const struct free_set *set)
{
    assert(set->reservation_count == 0);

    uint64_t acquired_count = 0;
    uint64_t released_count = 0;
    uint64_t releasing_count = 0;
    for (uint64_t shard = 0; shard < set->shard_count; shard++) {
        uint32_t shard_free = 0;
        const uint64_t word_end = min_u64((shard + 1) * SHARD_WORDS, set->word_count);
        for (uint64_t i = shard * SHARD_WORDS; i < word_end; i++) {
            assert((set->released[i] & ~set->acquired[i]) == 0);
            assert((set->releasing[i] & ~set->acquired[i]) == 0);
            assert((set->released[i] & set->releasing[i]) == 0);
            acquired_count += popcount(set->acquired[i]);
            released_count += popcount(set->released[i]);
            releasing_count += popcount(set->releasing[i]);
            shard_free += popcount(~set->acquired[i]);
        }
        assert(shard_free == set->shard_free[shard]);
    }
    assert(acquired_count == set->acquired_count);
    assert(released_count == set->released_count);
    assert(releasing_count == set->releasing_count);
}

enum status free_set_init(struct free_set *set, uint64_t block_count_max)
{
    assert(block_count_max > 0);
    assert(block_count_max % WORD_BITS == 0);

    const uint64_t word_count = block_count_max / WORD_BITS;
    *set = (struct free_set){
        .block_count_max = block_count_max,
        .word_count = word_count,
        .shard_count = div_ceil(word_count, SHARD_WORDS),
    };
    set->acquired = memory_acquire(word_count * sizeof *set->acquired);
    set->released = memory_acquire(word_count * sizeof *set->released);
    set->releasing = memory_acquire(word_count * sizeof *set->releasing);
    set->shard_free = memory_acquire(set->shard_count * sizeof *set->shard_free);
    if (set->acquired == NULL || set->released == NULL || set->releasing == NULL ||
        set->shard_free == NULL) {
        free_set_deinit(set);
        return STATUS_NO_MEMORY;
    }
    free_set_reset(set);
    return STATUS_OK;
}

void free_set_deinit(struct free_set *set)
{
    assert(set->reservation_count == 0);

    memory_release(set->acquired, set->word_count * sizeof *set->acquired);
    memory_release(set->released, set->word_count * sizeof *set->released);
    memory_release(set->releasing, set->word_count * sizeof *set->releasing);
    memory_release(set->shard_free, set->shard_count * sizeof *set->shard_free);
    *set = (struct free_set){0};
}

void free_set_reset(struct free_set *set)
{
    memset(set->acquired, 0, set->word_count * sizeof *set->acquired);
    memset(set->released, 0, set->word_count * sizeof *set->released);
    memset(set->releasing, 0, set->word_count * sizeof *set->releasing);
    for (uint64_t shard = 0; shard < set->shard_count; shard++) {
        const uint64_t words = min_u64(SHARD_WORDS, set->word_count - shard * SHARD_WORDS);
        set->shard_free[shard] = (uint32_t)(words * WORD_BITS);
    }
    set->acquired_count = 0;
    set->released_count = 0;
    set->releasing_count = 0;
    set->reserve_word = 0;
    set->reservation_count = 0;
    set->address_max = 0;
}

/* First word from `word` on that has a free block, or word_count. Requires word >= reserve_word:
 * no owner writes there, and the summary of every shard that begins there is exact. */
static uint64_t find_free_word(const struct free_set *set, uint64_t word)
{
    assert(word >= set->reserve_word);

    while (word < set->word_count) {
        if (word % SHARD_WORDS == 0 && set->shard_free[word / SHARD_WORDS] == 0) {
            word += SHARD_WORDS;
        } else if (set->acquired[word] == UINT64_MAX) {
            word += 1;
        } else {
            return word;
        }
    }
    return set->word_count;
}

/* Address of the `rank`-th free block (1 = lowest) of word `word`. */
static uint64_t nth_free_address(const struct free_set *set, uint64_t word, uint32_t rank)
{
    uint64_t free = ~set->acquired[word];
    assert(rank >= 1);
    assert(rank <= popcount(free));
    for (; rank > 1; rank--) {
        free &= free - 1;
    }
    return word * WORD_BITS + (uint64_t)__builtin_ctzll(free) + 1;
}

bool free_set_reserve(struct free_set *set, uint32_t block_count, struct reservation *reservation)
{
    assert(reservation != NULL);
    assert(set->reservation_count > 0 || set->reserve_word == 0);
    assert(set->reservation_count < UINT32_MAX);

    const uint64_t word_first =
        block_count == 0 ? set->reserve_word : find_free_word(set, set->reserve_word);
    uint64_t word_end = word_first;
    uint64_t free_count = 0; /* in [word_first, word_end) */
    uint64_t address_max = 0;
    while (free_count < block_count) {
        const uint64_t word = find_free_word(set, word_end);
        if (word == set->word_count) {
            return false;
        }
        const uint32_t word_free = popcount(~set->acquired[word]);
        if (free_count + word_free >= block_count) {
            address_max = nth_free_address(set, word, (uint32_t)(block_count - free_count));
        }
        free_count += word_free;
        word_end = word + 1;
    }

    /* The summary leaves out the words of open reservations: their owners change them unseen.
     * free_set_forfeit puts back what is still free. */
    for (uint64_t i = word_first; i < word_end; i++) {
        set->shard_free[i / SHARD_WORDS] -= popcount(~set->acquired[i]);
    }
    set->reserve_word = word_end;
    set->reservation_count += 1;
    set->address_max = max_u64(set->address_max, address_max);
    assert(set->address_max <= set->block_count_max);

    *reservation = (struct reservation){
        .free_set = set,
        .word_first = word_first,
        .word_end = word_end,
        .word_cursor = word_first,
        .block_count = block_count,
    };
    return true;
}

uint64_t reservation_acquire(struct reservation *reservation)
{
    const struct free_set *set = reservation->free_set;
    assert(set != NULL);
    assert(reservation->acquired_count < reservation->block_count);

    uint64_t word = reservation->word_cursor;
    assert(word >= reservation->word_first);
    while (set->acquired[word] == UINT64_MAX) { /* Ends: the range holds what was promised. */
        word += 1;
        assert(word < reservation->word_end);
    }
    assert(word < reservation->word_end);

    const uint64_t bits = set->acquired[word];
    const uint32_t bit = (uint32_t)__builtin_ctzll(~bits);
    word_store(&set->acquired[word], bits | UINT64_C(1) << bit);

    reservation->word_cursor = word;
    reservation->acquired_count += 1;
    return word * WORD_BITS + bit + 1;
}

void free_set_forfeit(struct free_set *set, struct reservation *reservation)
{
    assert(reservation->free_set == set);
    assert(reservation->acquired_count <= reservation->block_count);
    assert(reservation->word_end <= set->reserve_word);
    assert(set->reservation_count > 0);

    for (uint64_t i = reservation->word_first; i < reservation->word_end; i++) {
        set->shard_free[i / SHARD_WORDS] += popcount(~set->acquired[i]);
        assert(set->shard_free[i / SHARD_WORDS] <= SHARD_BITS);
    }
    set->acquired_count += reservation->acquired_count;
    assert(set->acquired_count <= set->block_count_max);

    /* Words given back stay out of reach until the last reservation is closed: otherwise the next
     * one's range would depend on which owner finished first. */
    set->reservation_count -= 1;
    if (set->reservation_count == 0) {
        set->reserve_word = 0;
    }
    *reservation = (struct reservation){0};
}

void free_set_release(struct free_set *set, uint64_t address)
{
    assert(address >= 1);
    assert(address <= set->block_count_max);
    assert(bit_get(set->acquired, address));
    assert(!bit_get(set->released, address));
    assert(!bit_get(set->releasing, address));

    const uint64_t bit = address - 1;
    set->released[bit / WORD_BITS] |= UINT64_C(1) << (bit % WORD_BITS);
    set->released_count += 1;
}

void free_set_checkpoint(struct free_set *set)
{
    assert(set->releasing_count == 0);
    assert(set->reservation_count == 0);

    uint64_t *const empty = set->releasing;
    set->releasing = set->released;
    set->releasing_count = set->released_count;
    set->released = empty;
    set->released_count = 0;
    if (VERIFY) {
        assert_counts(set);
    }
}

void free_set_join(struct free_set *set)
{
    assert(set->reservation_count == 0);

    for (uint64_t i = 0; i < set->word_count; i++) {
        const uint64_t freed = set->releasing[i];
        if (freed == 0) {
            continue;
        }
        assert((freed & ~set->acquired[i]) == 0);
        set->acquired[i] &= ~freed;
        set->releasing[i] = 0;
        set->shard_free[i / SHARD_WORDS] += popcount(freed);
        set->acquired_count -= popcount(freed);
        set->releasing_count -= popcount(freed);
    }
    assert(set->releasing_count == 0);
    if (VERIFY) {
        assert_counts(set);
    }
}

bool free_set_is_free(const struct free_set *set, uint64_t address)
{
    assert(address >= 1);
    assert(address <= set->block_count_max);
    return !bit_get(set->acquired, address);
}

bool free_set_is_released(const struct free_set *set, uint64_t address)
{
    assert(address >= 1);
    assert(address <= set->block_count_max);
    return bit_get(set->released, address) || bit_get(set->releasing, address);
}

uint64_t free_set_count_free_below(const struct free_set *set, uint64_t address_limit)
{
    const uint64_t bit_limit = min_u64(address_limit, set->block_count_max);
    const uint64_t word_limit = bit_limit / WORD_BITS; /* Whole words below the limit. */

    uint64_t free_count = 0;
    uint64_t word = set->reserve_word;
    while (word < word_limit) {
        if (word % SHARD_WORDS == 0 && word + SHARD_WORDS <= word_limit) {
            free_count += set->shard_free[word / SHARD_WORDS];
            word += SHARD_WORDS;
        } else {
            free_count += popcount(~set->acquired[word]);
            word += 1;
        }
    }
    if (word == word_limit && bit_limit % WORD_BITS != 0) {
        const uint64_t mask = (UINT64_C(1) << (bit_limit % WORD_BITS)) - 1;
        free_count += popcount(~set->acquired[word] & mask);
    }
    return free_count;
}

/* Words of `acquired` up to the last that is not zero. */
static uint64_t encoded_word_count(const struct free_set *set)
{
    uint64_t word_count = set->word_count;
    while (word_count > 0 && set->acquired[word_count - 1] == 0) {
        word_count -= 1;
    }
    return word_count;
}

uint64_t free_set_encoded_size(const struct free_set *set)
{
    assert(set->reservation_count == 0);
    return encoded_word_count(set) * 2 * sizeof(uint64_t);
}

void free_set_encode(const struct free_set *set, uint8_t *buffer)
{
    assert(set->released_count == 0);
    assert(set->reservation_count == 0);

    const uint64_t bitmap_size = encoded_word_count(set) * sizeof(uint64_t);
    if (bitmap_size == 0) {
        return;
    }
    memcpy(buffer, set->acquired, bitmap_size);
    memcpy(buffer + bitmap_size, set->releasing, bitmap_size);
}

enum status free_set_decode(struct free_set *set, const uint8_t *buffer, uint64_t size)
{
    assert(set->reservation_count == 0);
    free_set_reset(set);
    if (size == 0) {
        return STATUS_OK;
    }
    if (size % (2 * sizeof(uint64_t)) != 0 || size / (2 * sizeof(uint64_t)) > set->word_count) {
        return STATUS_CORRUPT;
    }

    const uint64_t bitmap_size = size / 2;
    const uint64_t word_count = bitmap_size / sizeof(uint64_t);
    memcpy(set->acquired, buffer, bitmap_size);
    memcpy(set->releasing, buffer + bitmap_size, bitmap_size);
    for (uint64_t i = 0; i < word_count; i++) {
        if ((set->releasing[i] & ~set->acquired[i]) != 0) {
            free_set_reset(set);
            return STATUS_CORRUPT;
        }
        set->shard_free[i / SHARD_WORDS] -= popcount(set->acquired[i]);
        set->acquired_count += popcount(set->acquired[i]);
        set->releasing_count += popcount(set->releasing[i]);
    }
    const uint64_t last = set->acquired[word_count - 1];
    if (last == 0) { /* There is one encoding of a set: this is not it. */
        free_set_reset(set);
        return STATUS_CORRUPT;
    }
    set->address_max = word_count * WORD_BITS - (uint64_t)__builtin_clzll(last);
    assert(free_set_encoded_size(set) == size);
    if (VERIFY) {
        assert_counts(set);
    }
    return STATUS_OK;
}
