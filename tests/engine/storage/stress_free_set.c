/* Goal: owners on four threads get the addresses that one thread would get, and no word is shared
 * by two writers. Method: many rounds of four reservations, used by four threads at once while the
 * forest thread releases blocks, against a second set used in order. Run under -fsanitize=thread.
 */
#include "engine/storage/free_set.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

#include "tests/harness/prng.h"

enum {
    OWNER_COUNT = 4,
    ROUND_COUNT = 60,
    BLOCK_COUNT = 64 * 1024,
    RESERVE_MAX = 3000,
    RELEASE_COUNT = 800,
};

struct owner {
    struct reservation reservation;
    uint32_t acquire_count;
    uint64_t addresses[RESERVE_MAX];
};

static struct free_set sets[2]; /* threaded, sequential */
static struct owner owners[2][OWNER_COUNT];
static uint8_t encoded[2][BLOCK_COUNT / 4];
static uint64_t live[BLOCK_COUNT]; /* acquired and not released */
static uint64_t live_count;

static void *owner_main(void *argument)
{
    struct owner *owner = argument;
    for (uint32_t i = 0; i < owner->acquire_count; i++) {
        owner->addresses[i] = reservation_acquire(&owner->reservation);
    }
    return NULL;
}

static void run_round(struct prng *prng)
{
    pthread_t threads[OWNER_COUNT];
    uint64_t release[RELEASE_COUNT];

    for (int i = 0; i < OWNER_COUNT; i++) {
        const uint32_t block_count = (uint32_t)prng_range(prng, 0, RESERVE_MAX);
        const uint32_t acquire_count = (uint32_t)prng_range(prng, 0, block_count);
        for (int which = 0; which < 2; which++) {
            struct owner *owner = &owners[which][i];
            const bool reserved = free_set_reserve(&sets[which], block_count, &owner->reservation);
            assert(reserved);
            owner->acquire_count = acquire_count;
        }
    }
    uint32_t release_count = 0;
    while (release_count < RELEASE_COUNT && live_count > 0) {
        const uint64_t i = prng_below(prng, live_count);
        release[release_count++] = live[i];
        live[i] = live[--live_count];
    }

    for (int i = 0; i < OWNER_COUNT; i++) {
        const int error = pthread_create(&threads[i], NULL, owner_main, &owners[0][i]);
        assert(error == 0);
    }
    for (uint32_t i = 0; i < release_count; i++) {
        free_set_release(&sets[0], release[i]);
    }
    const uint64_t in_hand = free_set_count_free_below(&sets[0], BLOCK_COUNT / 2);
    for (int i = 0; i < OWNER_COUNT; i++) {
        const int error = pthread_join(threads[i], NULL);
        assert(error == 0);
    }

    assert(free_set_count_free_below(&sets[1], BLOCK_COUNT / 2) == in_hand);
    for (int i = OWNER_COUNT; i-- > 0;) {
        (void)owner_main(&owners[1][i]);
    }
    for (uint32_t i = 0; i < release_count; i++) {
        free_set_release(&sets[1], release[i]);
    }

    for (int i = 0; i < OWNER_COUNT; i++) {
        struct owner *threaded = &owners[0][i];
        struct owner *sequential = &owners[1][i];
        const uint32_t count = threaded->acquire_count;
        assert(memcmp(threaded->addresses, sequential->addresses,
                      count * sizeof threaded->addresses[0]) == 0);
        memcpy(&live[live_count], threaded->addresses, count * sizeof live[0]);
        live_count += count;
        free_set_forfeit(&sets[0], &threaded->reservation);
        free_set_forfeit(&sets[1], &sequential->reservation);
    }
    for (int which = 0; which < 2; which++) {
        free_set_join(&sets[which]);
        free_set_checkpoint(&sets[which]);
        free_set_encode(&sets[which], encoded[which]);
    }
    const uint64_t size = free_set_encoded_size(&sets[0]);
    assert(size == free_set_encoded_size(&sets[1]));
    assert(memcmp(encoded[0], encoded[1], size) == 0);
}

int main(void)
{
    struct prng prng;
    prng_init(&prng, 1);
    for (int which = 0; which < 2; which++) {
        const enum status status = free_set_init(&sets[which], BLOCK_COUNT);
        assert(status == STATUS_OK);
    }
    for (int round = 0; round < ROUND_COUNT; round++) {
        if (live_count > BLOCK_COUNT / 2) { /* Start over, so that a round always fits. */
            free_set_reset(&sets[0]);
            free_set_reset(&sets[1]);
            live_count = 0;
        }
        run_round(&prng);
    }
    free_set_deinit(&sets[0]);
    free_set_deinit(&sets[1]);
    return 0;
}
