/* Reads: each on the version that was published last when it began, on a reader's thread. */
#include <assert.h>

#include "engine/forest_internal.h"
#include "pool/base.h"
#include "pool/log.h"

struct read_request *forest_read_acquire(struct forest *forest)
{
    mutex_lock(&forest->read_mutex);
    struct read_request *request = forest->read_free;
    if (request != NULL) {
        forest->read_free = request->free_next;
        forest->reads_busy += 1;
        request->free_next = NULL;
        request->deadline_ns = 0;
    }
    mutex_unlock(&forest->read_mutex);
    return request;
}

void forest_read_release(struct forest *forest, struct read_request *request)
{
    mutex_lock(&forest->read_mutex);
    assert(forest->reads_busy > 0);
    forest->reads_busy -= 1;
    request->free_next = forest->read_free;
    forest->read_free = request;
    mutex_unlock(&forest->read_mutex);
    doorbell_ring(forest->doorbell);
}

static void refuse(struct read_request *request, enum request_result result)
{
    request->result = result;
    request->count = 0;
    request->object_size = 0;
    request->reply_size = 0;
}

static void refuse_damaged(struct read_request *request, enum status status)
{
    LOG_ERROR("forest.read_damaged", log_u64("groove", request->groove_id),
              log_u64("address", request->scratch->bad_address),
              log_text("why", status_text(status == STATUS_STALE ? STATUS_CORRUPT : status)),
              log_text("do", "run 'holt verify' on the file"));
    refuse(request, REQUEST_RESULT_CORRUPT);
}

/* It may have waited for its reader for long, and is not begun when nobody waits for it any more.
 *
 * A block that is not what its parent says may have been reused, if a join has freed what was
 * released after this version was made: then a newer version, published or about to be, has the
 * answer. Otherwise it is damaged. */
static void read_run(struct job *job)
{
    struct read_request *request = container_of(job, struct read_request, job);
    struct forest *forest = request->forest;
    struct version_hold *hold = &request->scratch->hold;
    if (request->deadline_ns != 0 &&
        clock_monotonic_ns(forest->options.clock) > request->deadline_ns) {
        refuse(request, REQUEST_RESULT_EXPIRED);
        request->done(request);
        return;
    }
    /* A lookup is bounded by its ids. */
    const uint64_t work_size_max =
        request->kind == READ_KIND_LOOKUP ? 0 : forest->options.read_budget_size;
    uint64_t commit = 0;
    for (uint32_t restarts = 0;;) {
        version_hold_published(&forest->versions, hold, work_size_max);
        const uint64_t horizon = hold->version->horizon;
        /* While none is newer than the one before, the journal is about to publish one. */
        const bool newer = hold->version->commit > commit;
        commit = hold->version->commit;
        const enum status status =
            query_run(&forest->geometry, &forest->grid, hold->version, request, request->scratch);
        version_hold_release(&forest->versions, hold);
        if (status == STATUS_OK) {
            break;
        }
        if (status == STATUS_BUDGET) {
            atomic_fetch_add(&forest->reads_over_budget_total, 1);
            refuse(request, REQUEST_RESULT_BUDGET);
            break;
        }
        const bool overtaken = status == STATUS_REVOKED ||
                               (status == STATUS_STALE && horizon < atomic_load(&forest->horizon));
        if (!overtaken) {
            refuse_damaged(request, status);
            break;
        }
        if (newer && restarts == READ_RESTART_MAX) {
            atomic_fetch_add(&forest->reads_overtaken_total, 1);
            refuse(request, REQUEST_RESULT_OVERTAKEN);
            break;
        }
        restarts += newer;
        atomic_fetch_add(&forest->reads_restarted_total, newer);
    }
    request->done(request);
}

void forest_read_submit(struct forest *forest, struct read_request *request)
{
    assert(forest->phase == FOREST_READY);
    assert(request->done != NULL);
    request->job.run = read_run;
    workers_submit(forest->options.readers, &request->job);
}
