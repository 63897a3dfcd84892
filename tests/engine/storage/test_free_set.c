/* Goal: addresses are the lowest free ones of disjoint ranges, whatever the order in which owners
 * use them; released blocks come back exactly at the join; counts and the encoded form are exact.
 * Method: a model that keeps one byte per block and searches it naively, driven by random sequences
 * of every operation. Threads are the business of stress_free_set.c. */
#include "engine/storage/free_set.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/parameterized.h>
#include <signal.h>
#include <string.h>

#include "pool/base.h"
#include "tests/harness/prng.h"

enum {
    BLOCK_COUNT = 4096 + 64 * 10, /* one whole shard and a part of another */
    RESERVATION_MAX = 6,
    EVENT_COUNT = 4000,
    BUFFER_SIZE = BLOCK_COUNT / 4,
};

enum state { STATE_FREE = 0, STATE_ACQUIRED, STATE_RELEASED, STATE_RELEASING };

struct model_reservation {
    struct reservation real;
    uint64_t word_first;
    uint64_t word_end;
    uint32_t left; /* promised and not acquired yet */
    bool open;
};

static struct free_set set;
static struct prng prng;
static uint8_t states[BLOCK_COUNT]; /* of address index + 1 */
static struct model_reservation reservations[RESERVATION_MAX];
static uint64_t model_reserve_word;
static uint8_t buffer[BUFFER_SIZE];
static uint8_t buffer_again[BUFFER_SIZE];

static void setup(void)
{
    cr_assert(eq(int, free_set_init(&set, BLOCK_COUNT), STATUS_OK));
}

static void teardown(void)
{
    free_set_deinit(&set);
}

TestSuite(free_set, .init = setup, .fini = teardown, .timeout = 120);

static uint32_t open_count(void)
{
    uint32_t count = 0;
    for (int i = 0; i < RESERVATION_MAX; i++) {
        count += reservations[i].open;
    }
    return count;
}

static uint64_t count_state(enum state state, uint64_t first, uint64_t end)
{
    uint64_t count = 0;
    for (uint64_t i = first; i < end; i++) {
        count += states[i] == state;
    }
    return count;
}

static void model_reserve(struct model_reservation *reservation, uint32_t block_count)
{
    uint64_t word = model_reserve_word;
    while (word < BLOCK_COUNT / 64 && block_count > 0 &&
           count_state(STATE_FREE, word * 64, word * 64 + 64) == 0) {
        word += 1;
    }
    const uint64_t first = word;
    while (word < BLOCK_COUNT / 64 &&
           count_state(STATE_FREE, first * 64, word * 64) < block_count) {
        word += 1;
    }
    const bool fits = count_state(STATE_FREE, first * 64, word * 64) >= block_count;

    cr_assert(eq(int, free_set_reserve(&set, block_count, &reservation->real), fits));
    if (fits) {
        reservation->open = true;
        reservation->word_first = first;
        reservation->word_end = word;
        reservation->left = block_count;
        model_reserve_word = word;
    }
}

static void model_acquire(struct model_reservation *reservation)
{
    uint64_t bit = reservation->word_first * 64;
    while (states[bit] != STATE_FREE) {
        bit += 1;
    }
    cr_assert(lt(u64, bit, reservation->word_end * 64));
    cr_assert(eq(u64, reservation_acquire(&reservation->real), bit + 1));
    cr_assert(le(u64, bit + 1, set.address_max));
    states[bit] = STATE_ACQUIRED;
    reservation->left -= 1;
}

static void model_forfeit(struct model_reservation *reservation)
{
    free_set_forfeit(&set, &reservation->real);
    reservation->open = false;
    if (open_count() == 0) {
        model_reserve_word = 0;
    }
}

static void model_release(void)
{
    const uint64_t start = prng_below(&prng, BLOCK_COUNT);
    for (uint64_t i = 0; i < BLOCK_COUNT; i++) {
        const uint64_t bit = (start + i) % BLOCK_COUNT;
        if (states[bit] == STATE_ACQUIRED) {
            free_set_release(&set, bit + 1);
            states[bit] = STATE_RELEASED;
            return;
        }
    }
}

/* Everything that can be asked, against the model. */
static void check_all(void)
{
    for (uint64_t bit = 0; bit < BLOCK_COUNT; bit++) {
        cr_assert(eq(int, free_set_is_free(&set, bit + 1), states[bit] == STATE_FREE));
        cr_assert(eq(int, free_set_is_released(&set, bit + 1),
                     states[bit] == STATE_RELEASED || states[bit] == STATE_RELEASING));
    }
    const uint64_t limit = prng_range(&prng, 0, BLOCK_COUNT + 100);
    const uint64_t first = min_u64(model_reserve_word * 64, BLOCK_COUNT);
    const uint64_t end = min_u64(limit, BLOCK_COUNT);
    cr_assert(eq(u64, free_set_count_free_below(&set, limit),
                 first < end ? count_state(STATE_FREE, first, end) : 0));
    cr_assert(eq(u64, set.released_count, count_state(STATE_RELEASED, 0, BLOCK_COUNT)));
    cr_assert(eq(u64, set.releasing_count, count_state(STATE_RELEASING, 0, BLOCK_COUNT)));
    if (open_count() == 0) {
        cr_assert(
            eq(u64, set.acquired_count, BLOCK_COUNT - count_state(STATE_FREE, 0, BLOCK_COUNT)));
    }
}

static void convert(enum state from, enum state to)
{
    for (uint64_t bit = 0; bit < BLOCK_COUNT; bit++) {
        if (states[bit] == from) {
            states[bit] = to;
        }
    }
}

/* Checkpoint, encode, and decode into the same set: nothing may change. */
static void checkpoint_and_reload(void)
{
    if (set.releasing_count > 0) {
        free_set_join(&set);
        convert(STATE_RELEASING, STATE_FREE);
    }
    free_set_checkpoint(&set);
    convert(STATE_RELEASED, STATE_RELEASING);

    const uint64_t size = free_set_encoded_size(&set);
    cr_assert(le(u64, size, sizeof buffer));
    free_set_encode(&set, buffer);
    if (prng_chance(&prng, 1, 2)) {
        const uint64_t address_max = set.address_max;
        cr_assert(eq(int, free_set_decode(&set, buffer, size), STATUS_OK));
        cr_assert(le(u64, set.address_max, address_max));
        cr_assert(eq(u64, free_set_encoded_size(&set), size));
        free_set_encode(&set, buffer_again);
        cr_assert(eq(int, memcmp(buffer, buffer_again, size), 0));
    }
}

static void run_sequence(uint64_t seed)
{
    prng_init(&prng, seed);
    /* Some seeds keep the set nearly full, some nearly empty. */
    const uint64_t release_weight = prng_range(&prng, 5, 45);
    for (int event = 0; event < EVENT_COUNT; event++) {
        struct model_reservation *reservation = &reservations[prng_below(&prng, RESERVATION_MAX)];
        const uint64_t dice = prng_below(&prng, 100);
        if (dice < release_weight) {
            model_release();
        } else if (!reservation->open) {
            const uint64_t bound = prng_chance(&prng, 1, 8) ? BLOCK_COUNT + 1 : 200;
            model_reserve(reservation, (uint32_t)prng_below(&prng, bound));
        } else if (dice >= 96) {
            model_forfeit(reservation);
        } else {
            for (uint64_t i = prng_below(&prng, 20); i > 0 && reservation->left > 0; i--) {
                model_acquire(reservation);
            }
        }
        if (event % 500 == 499) {
            check_all(); /* With reservations open. */
            for (int i = 0; i < RESERVATION_MAX; i++) {
                if (reservations[i].open) {
                    model_forfeit(&reservations[i]);
                }
            }
            check_all();
            checkpoint_and_reload();
            check_all();
            if (prng_chance(&prng, 1, 2)) {
                free_set_join(&set);
                convert(STATE_RELEASING, STATE_FREE);
                check_all();
            }
        }
    }
    for (int i = 0; i < RESERVATION_MAX; i++) {
        if (reservations[i].open) {
            model_forfeit(&reservations[i]);
        }
    }
}

ParameterizedTestParameters(free_set, random_sequences_agree_with_the_model)
{
    static uint64_t seeds[12];
    for (uint64_t i = 0; i < array_count(seeds); i++) {
        seeds[i] = i;
    }
    return cr_make_param_array(uint64_t, seeds, array_count(seeds));
}

ParameterizedTest(uint64_t *seed, free_set, random_sequences_agree_with_the_model)
{
    run_sequence(*seed);
}

Test(free_set, addresses_do_not_depend_on_the_order_of_acquisition)
{
    struct reservation reservation_a, reservation_b;
    uint64_t addresses[2][2][10];
    for (int order = 0; order < 2; order++) {
        free_set_reset(&set);
        cr_assert(free_set_reserve(&set, 10, &reservation_a));
        cr_assert(free_set_reserve(&set, 10, &reservation_b));
        struct reservation *turns[2] = {&reservation_a, &reservation_b};
        for (int turn = 0; turn < 2; turn++) {
            const int which = turn ^ order;
            for (int i = 0; i < 10; i++) {
                addresses[order][which][i] = reservation_acquire(turns[which]);
            }
        }
        free_set_forfeit(&set, turns[order]);
        free_set_forfeit(&set, turns[1 - order]);
    }
    cr_assert(eq(int, memcmp(addresses[0], addresses[1], sizeof addresses[0]), 0));
}

Test(free_set, words_of_a_forfeited_reservation_wait_for_the_last_one)
{
    struct reservation early, late, next;
    cr_assert(free_set_reserve(&set, 64, &early));
    cr_assert(free_set_reserve(&set, 64, &late));
    free_set_forfeit(&set, &early);

    cr_assert(free_set_reserve(&set, 1, &next));
    cr_assert(eq(u64, reservation_acquire(&next), 129));
    free_set_forfeit(&set, &next);
    free_set_forfeit(&set, &late);

    cr_assert(free_set_reserve(&set, 1, &next));
    cr_assert(eq(u64, reservation_acquire(&next), 1));
    free_set_forfeit(&set, &next);
}

Test(free_set, refused_reservation_changes_nothing)
{
    struct reservation reservation;
    cr_assert(not(free_set_reserve(&set, BLOCK_COUNT + 1, &reservation)));
    cr_assert(eq(u64, set.address_max, 0));
    cr_assert(free_set_reserve(&set, BLOCK_COUNT, &reservation));
    for (uint64_t address = 1; address <= BLOCK_COUNT; address++) {
        cr_assert(eq(u64, reservation_acquire(&reservation), address));
    }
    free_set_forfeit(&set, &reservation);
    cr_assert(eq(u64, set.acquired_count, BLOCK_COUNT));
    cr_assert(not(free_set_reserve(&set, 1, &reservation)));
    cr_assert(free_set_reserve(&set, 0, &reservation));
    free_set_forfeit(&set, &reservation);
}

Test(free_set, address_max_is_the_last_promised_address)
{
    struct reservation reservation;
    cr_assert(free_set_reserve(&set, 70, &reservation));
    cr_assert(eq(u64, set.address_max, 70));
    cr_assert(eq(u64, reservation_acquire(&reservation), 1));
    free_set_forfeit(&set, &reservation);
    cr_assert(free_set_reserve(&set, 70, &reservation));
    cr_assert(eq(u64, set.address_max, 71));
    free_set_forfeit(&set, &reservation);
}

Test(free_set, nonsense_is_refused_by_decode_and_leaves_an_empty_set)
{
    struct reservation reservation;
    cr_assert(free_set_reserve(&set, 100, &reservation));
    for (int i = 0; i < 100; i++) {
        (void)reservation_acquire(&reservation);
    }
    free_set_forfeit(&set, &reservation);
    free_set_release(&set, 7);
    free_set_checkpoint(&set);
    const uint64_t size = free_set_encoded_size(&set);
    cr_assert(eq(u64, size, 32));
    free_set_encode(&set, buffer);

    memcpy(buffer_again, buffer, size);
    buffer_again[31] = 0x80; /* Releasing address 128, which is not acquired. */
    cr_assert(eq(int, free_set_decode(&set, buffer_again, size), STATUS_CORRUPT));
    cr_assert(eq(u64, set.acquired_count, 0));
    cr_assert(eq(u64, free_set_count_free_below(&set, BLOCK_COUNT), BLOCK_COUNT));

    cr_assert(eq(int, free_set_decode(&set, buffer, size - 8), STATUS_CORRUPT));
    cr_assert(eq(int, free_set_decode(&set, buffer, 12), STATUS_CORRUPT));
    memset(buffer_again, 0, sizeof buffer_again);
    cr_assert(
        eq(int, free_set_decode(&set, buffer_again, 16), STATUS_CORRUPT)); /* Not canonical. */
    static uint8_t large[BUFFER_SIZE + 16];
    memset(large, 0xFF, sizeof large);
    cr_assert(eq(int, free_set_decode(&set, large, sizeof large), STATUS_CORRUPT));

    cr_assert(eq(int, free_set_decode(&set, NULL, 0), STATUS_OK));
    cr_assert(eq(u64, set.acquired_count, 0));
    cr_assert(eq(int, free_set_decode(&set, buffer, size), STATUS_OK));
    cr_assert(eq(u64, set.acquired_count, 100));
    cr_assert(eq(u64, set.releasing_count, 1));
    cr_assert(eq(u64, set.address_max, 100));
}

Test(free_set, acquiring_beyond_the_promise_is_a_bug, .fini = NULL, .signal = SIGABRT)
{
    struct reservation reservation;
    cr_assert(free_set_reserve(&set, 1, &reservation));
    (void)reservation_acquire(&reservation);
    (void)reservation_acquire(&reservation);
}

Test(free_set, releasing_a_free_block_is_a_bug, .fini = NULL, .signal = SIGABRT)
{
    free_set_release(&set, 1);
}

Test(free_set, releasing_twice_is_a_bug, .fini = NULL, .signal = SIGABRT)
{
    struct reservation reservation;
    cr_assert(free_set_reserve(&set, 1, &reservation));
    const uint64_t address = reservation_acquire(&reservation);
    free_set_forfeit(&set, &reservation);
    free_set_release(&set, address);
    free_set_checkpoint(&set);
    free_set_release(&set, address);
}

Test(free_set, checkpoint_with_an_open_reservation_is_a_bug, .fini = NULL, .signal = SIGABRT)
{
    struct reservation reservation;
    cr_assert(free_set_reserve(&set, 1, &reservation));
    free_set_checkpoint(&set);
}

Test(free_set, second_checkpoint_before_the_join_is_a_bug, .fini = NULL, .signal = SIGABRT)
{
    struct reservation reservation;
    cr_assert(free_set_reserve(&set, 1, &reservation));
    free_set_release(&set, reservation_acquire(&reservation));
    free_set_forfeit(&set, &reservation);
    free_set_checkpoint(&set);
    free_set_checkpoint(&set);
}
