/* Goal: jobs that borrow from one resource pool neither race nor deadlock, and the doorbell of the
 * thread that waits for them loses no ring. Method: bursts of jobs with loans of every size over a
 * team of threads; run under -fsanitize=thread. A plain program: threads are its whole subject. */
#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "pool/base.h"
#include "pool/doorbell.h"
#include "pool/resource_pool.h"
#include "pool/workers.h"

enum {
    THREAD_COUNT = 4,
    BURST_COUNT = 60,
    JOB_COUNT = 40, /* in each burst */
    BLOCK_COUNT = 8,
    BLOCK_SIZE = 4096
};

struct borrower {
    struct job job;
    uint32_t block_count;
    uint64_t bytes_written;
};

static struct workers workers;
static struct resource_pool pool;
static struct doorbell done;
static _Atomic uint32_t done_count;

static void borrow(struct job *job)
{
    struct borrower *borrower = container_of(job, struct borrower, job);
    uint8_t *blocks[BLOCK_COUNT];

    resource_pool_acquire(&pool, blocks, borrower->block_count);
    for (uint32_t i = 0; i < borrower->block_count; i++) {
        memset(blocks[i], (int)borrower->block_count, BLOCK_SIZE);
        borrower->bytes_written += BLOCK_SIZE;
    }
    resource_pool_release(&pool, blocks, borrower->block_count);

    /* Releases what was written; the ring alone would not, for an earlier ring may have woken the
     * reader. */
    atomic_fetch_add(&done_count, 1);
    doorbell_ring(&done);
}

int main(void)
{
    static struct borrower borrowers[JOB_COUNT];

    doorbell_init(&done);
    enum status status = resource_pool_init(&pool, BLOCK_COUNT, BLOCK_SIZE);
    assert(status == STATUS_OK);
    status = workers_start(&workers, "stress", THREAD_COUNT, JOB_COUNT);
    assert(status == STATUS_OK);

    for (uint32_t burst = 0; burst < BURST_COUNT; burst++) {
        atomic_store(&done_count, 0);
        for (uint32_t i = 0; i < JOB_COUNT; i++) {
            borrowers[i] = (struct borrower){
                .job = {borrow},
                .block_count = 1 + (burst + i) % BLOCK_COUNT,
            };
            workers_submit(&workers, &borrowers[i].job);
        }
        for (;;) {
            const uint64_t seen = doorbell_count(&done);
            if (atomic_load(&done_count) == JOB_COUNT) {
                break;
            }
            doorbell_wait(&done, seen, DOORBELL_WAIT_FOREVER);
        }
        for (uint32_t i = 0; i < JOB_COUNT; i++) {
            const uint64_t expected = (uint64_t)borrowers[i].block_count * BLOCK_SIZE;
            assert(borrowers[i].bytes_written == expected);
        }
    }

    workers_join(&workers);
    resource_pool_deinit(&pool);
    doorbell_deinit(&done);
    return 0;
}
