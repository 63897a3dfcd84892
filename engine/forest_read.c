/* Reads: each on the version that was published last when it began, on a reader's thread, or for a
 * few ids that memory knows on the forest thread. */
#include <assert.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "engine/object.h"
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

uint32_t forest_reads_busy(struct forest *forest)
{
    mutex_lock(&forest->read_mutex);
    const uint32_t count = forest->reads_busy;
    mutex_unlock(&forest->read_mutex);
    return count;
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

/* A turn of a read, from its beginning or from where it gave way. */
static enum status run_turn(struct forest *forest, struct read_request *request)
{
    struct read_scratch *scratch = request->scratch;
    struct version_hold *hold = &scratch->hold;
    if (request->progress.gave_way) {
        request->progress.gave_way = false;
        if (!read_ticket_enter(&hold->ticket)) {
            query_abandon(scratch);
            return STATUS_REVOKED;
        }
        hold->ticket.slice_size = 0;
        return query_resume(&forest->geometry, &forest->grid, hold->version, request, scratch);
    }
    /* A lookup is bounded by its ids. */
    const uint64_t work_size_max =
        request->kind == READ_KIND_LOOKUP ? 0 : forest->options.read_budget_size;
    version_hold_published(&forest->versions, hold, work_size_max);
    request->progress.horizon = hold->version->horizon;
    /* While none is newer than the one before, the journal is about to publish one. */
    request->progress.newer = hold->version->commit > request->progress.commit;
    request->progress.commit = hold->version->commit;
    return query_run(&forest->geometry, &forest->grid, hold->version, request, scratch);
}

/* Goes on as long as nobody waits for a reader. STATUS_YIELD: it has given way, and belongs to
 * whoever goes on with it. While it waits it is outside its version, as one that waits for a block.
 */
static enum status run_on(struct forest *forest, struct read_request *request)
{
    struct read_scratch *scratch = request->scratch;
    struct version_hold *hold = &scratch->hold;
    enum status status = run_turn(forest, request);
    while (status == STATUS_YIELD) {
        if (workers_are_wanted(forest->options.readers)) {
            if (read_ticket_leave(&hold->ticket)) {
                request->progress.gave_way = true;
                atomic_fetch_add(&forest->reads_gave_way_total, 1);
                workers_submit(forest->options.readers, &request->job);
                return STATUS_YIELD;
            }
            query_abandon(scratch);
            return STATUS_REVOKED;
        }
        hold->ticket.slice_size = 0;
        status = query_resume(&forest->geometry, &forest->grid, hold->version, request, scratch);
    }
    return status;
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
    if (!request->progress.gave_way && request->deadline_ns != 0 &&
        clock_monotonic_ns(forest->options.clock) > request->deadline_ns) {
        refuse(request, REQUEST_RESULT_EXPIRED);
        request->done(request);
        return;
    }
    for (;;) {
        const enum status status = run_on(forest, request);
        if (status == STATUS_YIELD) {
            return;
        }
        version_hold_release(&forest->versions, &request->scratch->hold);
        if (status == STATUS_OK) {
            break;
        }
        if (status == STATUS_BUDGET) {
            atomic_fetch_add(&forest->reads_over_budget_total, 1);
            refuse(request, REQUEST_RESULT_BUDGET);
            break;
        }
        const bool overtaken =
            status == STATUS_REVOKED ||
            (status == STATUS_STALE && request->progress.horizon < atomic_load(&forest->horizon));
        if (!overtaken) {
            refuse_damaged(request, status);
            break;
        }
        const bool newer = request->progress.newer;
        if (newer && request->progress.restarts == READ_RESTART_MAX) {
            atomic_fetch_add(&forest->reads_overtaken_total, 1);
            refuse(request, REQUEST_RESULT_OVERTAKEN);
            break;
        }
        request->progress.restarts += newer;
        atomic_fetch_add(&forest->reads_restarted_total, newer);
    }
    request->done(request);
}

void forest_read_submit(struct forest *forest, struct read_request *request)
{
    assert(forest->phase == FOREST_READY);
    assert(request->done != NULL);
    request->job.run = read_run;
    memset(&request->progress, 0, sizeof request->progress);
    workers_submit(forest->options.readers, &request->job);
}

/* Whatever is not an answer, a damaged block too, is found again by the reader, who knows what it
 * means. */
bool forest_read_here(struct forest *forest, struct read_request *request)
{
    assert(forest->phase == FOREST_READY);
    assert(request->done != NULL);
    if (request->kind != READ_KIND_LOOKUP ||
        request->input_size > READ_HERE_ID_MAX * (uint32_t)ID_SIZE) {
        return false;
    }
    struct version_hold *hold = &request->scratch->hold;
    version_hold_published(&forest->versions, hold, 0);
    read_ticket_init_no_wait(&hold->ticket);
    const enum status status =
        query_run(&forest->geometry, &forest->grid, hold->version, request, request->scratch);
    assert(status != STATUS_YIELD); /* So few are less than a slice. */
    version_hold_release(&forest->versions, hold);
    if (status != STATUS_OK) {
        return false;
    }
    atomic_fetch_add(&forest->reads_here_total, 1);
    request->done(request);
    return true;
}
