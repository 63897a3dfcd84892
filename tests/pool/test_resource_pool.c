/* Goal: loans are whole, disjoint and aligned, and misuse is a bug. Method: random loans of many
 * seeds against a model of who holds which block; two threads that both want more than half; and
 * a failing allocation by asking for more than the address space has. */
#include "pool/resource_pool.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "pool/memory.h"

enum { BLOCK_COUNT = 16, BLOCK_SIZE = 4096, LOAN_MAX = 8 };

static struct resource_pool pool;

static void setup(void)
{
    cr_assert(eq(int, resource_pool_init(&pool, BLOCK_COUNT, BLOCK_SIZE), STATUS_OK));
}

static void teardown(void)
{
    resource_pool_deinit(&pool);
    cr_assert(eq(u64, memory_acquired_size(), 0));
}

TestSuite(resource_pool, .init = setup, .fini = teardown, .timeout = 120);

struct loan {
    uint8_t *blocks[BLOCK_COUNT];
    uint32_t count;
    uint8_t tag;
};

static void fill(const struct loan *loan)
{
    for (uint32_t i = 0; i < loan->count; i++) {
        memset(loan->blocks[i], loan->tag, BLOCK_SIZE);
    }
}

/* Nobody else wrote into what this loan holds. */
static void check(const struct loan *loan)
{
    for (uint32_t i = 0; i < loan->count; i++) {
        cr_assert(eq(u64, (uintptr_t)loan->blocks[i] % BLOCK_SIZE, 0));
        for (uint32_t j = 0; j < BLOCK_SIZE; j += 64) {
            cr_assert(loan->blocks[i][j] == loan->tag);
        }
    }
}

Test(resource_pool, loans_are_whole_and_disjoint)
{
    for (unsigned seed = 0; seed < 30; seed++) {
        struct loan loans[LOAN_MAX] = {0};
        uint32_t free_count = BLOCK_COUNT;

        for (int step = 0; step < 200; step++) {
            struct loan *loan = &loans[(unsigned)rand_r(&seed) % LOAN_MAX];
            if (loan->count > 0) {
                check(loan);
                resource_pool_release(&pool, loan->blocks, loan->count);
                free_count += loan->count;
                loan->count = 0;
            } else {
                const uint32_t wanted = 1 + (unsigned)rand_r(&seed) % 7;
                const bool lent = resource_pool_try_acquire(&pool, loan->blocks, wanted);
                cr_assert(eq(int, lent, wanted <= free_count));
                if (lent) {
                    loan->count = wanted;
                    loan->tag = (uint8_t)(step + 1);
                    free_count -= wanted;
                    fill(loan);
                }
            }
            cr_assert(eq(u32, pool.free_count, free_count));
            cr_assert(le(u32, pool.free_count_min, free_count));
        }
        for (int i = 0; i < LOAN_MAX; i++) {
            if (loans[i].count > 0) {
                check(&loans[i]);
                resource_pool_release(&pool, loans[i].blocks, loans[i].count);
            }
        }
    }
}

Test(resource_pool, the_last_returned_is_lent_first)
{
    uint8_t *all[BLOCK_COUNT];
    uint8_t *again;

    resource_pool_acquire(&pool, all, BLOCK_COUNT);
    cr_assert(eq(u32, pool.free_count_min, 0));
    resource_pool_release(&pool, all, BLOCK_COUNT);
    resource_pool_acquire(&pool, &again, 1);
    cr_assert(eq(ptr, again, all[BLOCK_COUNT - 1]));
    resource_pool_release(&pool, &again, 1);
}

enum { ROUND_COUNT = 1000, MORE_THAN_HALF = BLOCK_COUNT / 2 + 1 };

static void *borrow_in_rounds(void *argument)
{
    struct loan loan = {.count = MORE_THAN_HALF, .tag = *(uint8_t *)argument};

    for (int i = 0; i < ROUND_COUNT; i++) {
        resource_pool_acquire(&pool, loan.blocks, loan.count);
        fill(&loan);
        check(&loan);
        resource_pool_release(&pool, loan.blocks, loan.count);
    }
    return NULL;
}

Test(resource_pool, two_that_want_more_than_half_take_turns)
{
    pthread_t threads[2];
    uint8_t tags[2] = {1, 2};

    for (int i = 0; i < 2; i++) {
        cr_assert(eq(int, pthread_create(&threads[i], NULL, borrow_in_rounds, &tags[i]), 0));
    }
    for (int i = 0; i < 2; i++) {
        cr_assert(eq(int, pthread_join(threads[i], NULL), 0));
    }
}

#if VERIFY /* Finding it takes a walk over the free blocks. */
Test(resource_pool, returning_twice_is_a_bug, .fini = NULL, .signal = SIGABRT)
{
    uint8_t *blocks[2];

    resource_pool_acquire(&pool, blocks, 2);
    resource_pool_release(&pool, &blocks[0], 1);
    resource_pool_release(&pool, &blocks[0], 1);
}
#endif

Test(resource_pool, returning_a_stranger_is_a_bug, .fini = NULL, .signal = SIGABRT)
{
    uint8_t *block;

    resource_pool_acquire(&pool, &block, 1);
    block += 64;
    resource_pool_release(&pool, &block, 1);
}

Test(resource_pool, wanting_more_than_there_is_is_a_bug, .fini = NULL, .signal = SIGABRT)
{
    uint8_t *blocks[BLOCK_COUNT + 1];

    resource_pool_acquire(&pool, blocks, BLOCK_COUNT + 1);
}

Test(resource_pool, deinit_with_a_loan_out_is_a_bug, .fini = NULL, .signal = SIGABRT)
{
    uint8_t *block;

    resource_pool_acquire(&pool, &block, 1);
    resource_pool_deinit(&pool);
}
