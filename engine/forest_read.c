/* Reads: each on the version that was published last when it was submitted, on a reader's thread.
 */
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

static void answer_corrupt(struct read_request *request)
{
    request->result = REQUEST_RESULT_CORRUPT;
    request->count = 0;
    request->reply_size = 0;
}

/* A block that is not what its parent says may have been reused, if a join has freed what was
 * released after this version was made: then a newer version, published or about to be, has the
 * answer. Otherwise it is damaged. */
static void read_run(struct job *job)
{
    struct read_request *request = container_of(job, struct read_request, job);
    struct forest *forest = request->forest;
    for (;;) {
        const enum status status = query_run(&forest->geometry, &forest->grid, request->version,
                                             request, request->scratch);
        if (status == STATUS_OK) {
            break;
        }
        const bool overtaken = request->version->horizon < atomic_load(&forest->horizon);
        if (status == STATUS_IO || !overtaken) {
            LOG_ERROR(
                "forest.read_damaged", log_u64("groove", request->groove_id),
                log_u64("address", request->scratch->bad_address),
                log_text("why", status_text(status == STATUS_STALE ? STATUS_CORRUPT : status)),
                log_text("do", "run 'holt verify' on the file"));
            answer_corrupt(request);
            break;
        }
        version_unpin(&forest->versions, request->version);
        request->version = version_pin_published(&forest->versions);
    }
    version_unpin(&forest->versions, request->version);
    request->version = NULL;
    request->done(request);
}

void forest_read_submit(struct forest *forest, struct read_request *request)
{
    assert(forest->phase == FOREST_READY);
    assert(request->done != NULL);
    request->job.run = read_run;
    request->version = version_pin_published(&forest->versions);
    workers_submit(forest->options.readers, &request->job);
}
