/* The write path. The happy path of a batch:
 *
 * - Requests are checked and copied into the gathering batch.
 * - When nothing is being prepared, and the journal is idle or the batch is large, it is resolved
 *   against the catalog and its prefetch is submitted.
 * - When everything is known, the batch before is durable, and its beats are paid: requests get
 *   commit numbers and timestamps, the journal entry is submitted, and beside that write the batch
 *   executes in memory: no I/O, no failure.
 *   A small entry on a quick disk, while nothing is read, is written by the forest thread itself
 *   after execution: waking another thread would take as long as half of the write.
 * - When the entry is durable, the version made after execution is published, and replies go out.
 *
 * What can go wrong does so before the journal: a request refused for damage, a full disk, or a
 * store that is read-only never becomes part of the history (a refused one may be in an entry that
 * others have, flagged). A failed journal write is fatal. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "engine/object.h"
#include "pool/base.h"
#include "pool/log.h"

enum {
    WRITE_HERE_SIZE_MAX = 64 * 1024, /* of an entry that the forest thread writes itself */
};

/* ---- Versions ----------------------------------------------------------------------------------
 */

bool forest_version_room(struct forest *forest)
{
    return forest->versions.free_count > 0 &&
           forest->tree_versions.tree_free_count >= forest->geometry.tree_count_max &&
           forest->tree_versions.manifest_free_count >= forest->geometry.tree_count_max;
}

struct version *forest_version_make(struct forest *forest)
{
    struct version *version = version_add(&forest->versions);
    version->commit = forest->commit_executed;
    version->timestamp = forest->timestamp;
    /* A join that is owed already frees what was released before the version was made. */
    version->horizon = atomic_load(&forest->horizon) + (forest->join_owed ? 1 : 0);
    for (struct catalog_groove *groove = catalog_after(&forest->catalog, 0); groove != NULL;
         groove = catalog_after(&forest->catalog, groove->groove_id)) {
        if (groove->dropping) {
            continue;
        }
        struct groove_version *copy = &version->grooves[version->groove_count];
        version->groove_count += 1;
        *copy = (struct groove_version){
            .groove_id = groove->groove_id,
            .object_count = groove->object_count,
            .schema = groove->schema,
            .object_tree = tree_version_acquire(groove->trees[TREE_OBJECT], &forest->tree_versions),
            .id_tree = tree_version_acquire(groove->trees[TREE_ID], &forest->tree_versions),
        };
        groove->schema->reference_count += 1;
        for (uint32_t i = TREE_INDEX; i < groove->tree_count; i++) {
            copy->index_trees[i - TREE_INDEX] =
                tree_version_acquire(groove->trees[i], &forest->tree_versions);
        }
    }
    return version;
}

static void tree_version_return(struct forest *forest, struct tree_version *version)
{
    if (version != NULL) {
        tree_version_release(version, &forest->arena, &forest->nodes, &forest->tree_versions);
    }
}

bool forest_versions_collect(struct forest *forest)
{
    bool collected = false;
    for (struct version *version = version_collect(&forest->versions); version != NULL;
         version = version_collect(&forest->versions)) {
        for (uint32_t i = 0; i < version->groove_count; i++) {
            struct groove_version *groove = &version->grooves[i];
            tree_version_return(forest, groove->object_tree);
            tree_version_return(forest, groove->id_tree);
            for (uint32_t index = 0; index < INDEX_COUNT_MAX; index++) {
                tree_version_return(forest, groove->index_trees[index]);
            }
            schema_object_release(&forest->catalog, groove->schema);
        }
        version_free(&forest->versions, version);
        collected = true;
    }
    return collected;
}

bool forest_versions_revoke(struct forest *forest)
{
    return version_revoke_oldest(&forest->versions) && forest_versions_collect(forest);
}

/* ---- Gathering ---------------------------------------------------------------------------------
 */

bool forest_may_add(struct forest *forest, enum request_kind kind, const uint8_t *body,
                    uint32_t size, enum request_result *result)
{
    assert(forest->phase == FOREST_READY);
    if (forest->read_only) {
        *result = REQUEST_RESULT_READ_ONLY;
        return false;
    }
    bool low;
    if (forest->full && request_space(kind, body, size) == REQUEST_SPACE_WRITE &&
        forest_space_judge(forest, REQUEST_SPACE_WRITE, forest->gathering, true, &low) !=
            SPACE_ACCEPT) {
        *result = REQUEST_RESULT_FULL;
        return false;
    }
    return true;
}

enum forest_admission forest_batch_add(struct forest *forest, enum request_kind kind, bool atomic,
                                       const uint8_t *body, uint32_t size,
                                       const struct request_session *session, void *context,
                                       enum request_result *result, const char **reason)
{
    assert(kind <= REQUEST_KIND_GROOVE_DROP || kind == REQUEST_KIND_SESSION_OPEN ||
           kind == REQUEST_KIND_SESSION_CLOSE);
    *reason = NULL;
    if (!forest_may_add(forest, kind, body, size, result)) {
        return FOREST_REFUSED;
    }
    const enum batch_admission admission = batch_add(forest->gathering, &forest->catalog, kind,
                                                     atomic, body, size, context, false, result);
    switch (admission) {
    case BATCH_ADDED:
        if (session != NULL) {
            forest_session_begin(forest, session, context);
        }
        return FOREST_ADDED;
    case BATCH_FULL:
        return FOREST_LATER;
    case BATCH_REFUSED:
        break;
    }
    if (forest->catalog_commit > forest->commit_durable) {
        return FOREST_LATER; /* It may be refused for something that a crash would undo. */
    }
    *reason = kind == REQUEST_KIND_GROOVE_CREATE ? forest->gathering->reason : NULL;
    return FOREST_REFUSED;
}

static void add_internal(struct forest *forest, struct batch *batch, enum request_kind kind,
                         uint64_t value)
{
    enum request_result result;
    const enum batch_admission admission =
        batch_add(batch, &forest->catalog, kind, false, (const uint8_t *)&value, sizeof value, NULL,
                  true, &result);
    assert(admission == BATCH_ADDED);
}

void forest_share(struct forest *forest, bool shared)
{
    forest->shared = shared;
}

uint64_t forest_gathering_number(const struct forest *forest)
{
    return forest->gathering_number;
}

bool forest_is_idle(const struct forest *forest)
{
    return forest->gathering->request_count == 0 && forest->preparing == NULL &&
           forest->committing == NULL && !forest->sealing && forest->beats_owed == 0;
}

/* Blocks that idle bars would free, beyond what each of their checkpoints releases itself. */
static uint64_t floating_debt(const struct forest *forest)
{
    const struct free_set *set = &forest->free_set;
    const uint64_t floating = set->released_count - forest->trailer_count + set->releasing_count;
    const uint64_t kept = 4ull * forest->trailer_count + 8;
    return floating > kept ? floating - kept : 0;
}

uint64_t forest_debt(const struct forest *forest)
{
    uint64_t debt = compaction_debt(&forest->schedule, forest->full) +
                    (forest->full ? floating_debt(forest) * forest->geometry.block_size : 0) +
                    manifest_log_debt(&forest->manifest_log) * forest->geometry.block_size;
    for (struct catalog_groove *groove = catalog_after(&forest->catalog, 0); groove != NULL;
         groove = catalog_after(&forest->catalog, groove->groove_id)) {
        /* Until its end is journaled, which may still need a bar to begin. */
        debt += groove->dropping ? RUN_SEGMENT_SIZE : 0;
    }
    return debt;
}

/* Idle beats of one step: to the half-bar's end at most, and together no more merging than one beat
 * at full load brings entries, so that a request which comes meanwhile waits for one beat, not for
 * half a bar of them. Any number leads to the same trees: it is journaled. */
static uint64_t debt_step(const struct forest *forest)
{
    const struct geometry *geometry = &forest->geometry;
    const uint32_t half = geometry->bar_beats / 2;
    const uint64_t work_max = geometry->bar_memory_size / geometry->bar_beats;
    const uint64_t rest = half - forest->beat % half;
    const uint64_t beats = work_max * half / max_u64(forest->schedule.bytes_total, 1);
    return max_u64(min_u64(beats, rest), 1);
}

/* One step of what is owed, as the only request of `batch`. False: nothing is, or there is no room
 * for it. */
static bool add_debt(struct forest *forest, struct batch *batch)
{
    if (!forest_space_suffices(forest, REQUEST_SPACE_NONE, batch) && forest->full) {
        return false;
    }
    for (struct catalog_groove *groove = catalog_after(&forest->catalog, 0); groove != NULL;
         groove = catalog_after(&forest->catalog, groove->groove_id)) {
        if (groove->dropping && catalog_groove_is_empty(groove)) {
            add_internal(forest, batch, REQUEST_KIND_GROOVE_FORGET, groove->groove_id);
            return true;
        }
    }
    if (forest_debt(forest) == 0) {
        return false;
    }
    add_internal(forest, batch, REQUEST_KIND_IDLE, debt_step(forest));
    return true;
}

bool forest_pay_debt(struct forest *forest)
{
    assert(forest->phase == FOREST_READY);
    return forest_is_idle(forest) && !forest->read_only && add_debt(forest, forest->gathering);
}

void forest_seal(struct forest *forest)
{
    assert(forest->phase == FOREST_READY);
    if (!forest_is_idle(forest) || forest->journal.sealed || forest->commit_executed == 0) {
        return;
    }
    memset(forest->seal_buffer, 0, SECTOR_SIZE);
    struct journal_header *header = (struct journal_header *)(void *)forest->seal_buffer;
    header->size = JOURNAL_HEADER_SIZE;
    header->commit = forest->commit_executed + 1;
    header->timestamp = forest->timestamp;
    header->kind = JOURNAL_KIND_SEAL;
    if (!journal_has_room(&forest->journal, header->size)) {
        return; /* The next checkpoint makes room; a seal is never needed. */
    }
    journal_append(&forest->journal, forest->seal_buffer);
    journal_hand_over(&forest->journal);
    forest->sealing = true;
    forest->bar_journal_used += SECTOR_SIZE;
    forest->journal_since_checkpoint += SECTOR_SIZE;
}

/* ---- Preparing ---------------------------------------------------------------------------------
 */

void forest_prefetch_begin(struct forest *forest, struct batch *batch)
{
    batch_resolve(batch, &forest->catalog);
    forest->prefetch_version = forest->versions.newest;
    version_pin(&forest->versions, forest->prefetch_version);
    prefetch_submit(&forest->prefetch, batch, forest->prefetch_version);
    forest->stage = BATCH_STAGE_PREFETCHING;
}

bool forest_prefetch_reap(struct forest *forest)
{
    enum status status;
    uint64_t bad_address = 0;
    if (forest->stage != BATCH_STAGE_PREFETCHING ||
        !prefetch_done(&forest->prefetch, &status, &bad_address)) {
        return false;
    }
    version_unpin(&forest->versions, forest->prefetch_version);
    forest->prefetch_version = NULL;
    forest->stage = BATCH_STAGE_PREPARED;
    struct batch *batch = forest->preparing;
    bool damaged = false;
    for (uint32_t i = 0; i < batch->request_count; i++) {
        struct batch_request *request = &batch->requests[i];
        if (request->header->kind != REQUEST_KIND_WRITE || batch_request_refused(request)) {
            continue;
        }
        bool refuse = false;
        for (uint32_t event = 0; event < request->header->event_count && !refuse; event++) {
            refuse = batch->entries[batch->events[request->event_first + event].entry].damaged;
        }
        if (refuse) {
            damaged = true;
            batch_request_refuse(request, REQUEST_RESULT_CORRUPT);
        }
    }
    if (damaged) {
        forest->bad_status = status == STATUS_OK ? STATUS_CORRUPT : status;
        forest->bad_address = bad_address;
        LOG_ERROR("forest.prefetch_damaged", log_u64("address", bad_address),
                  log_text("why", status_text(forest->bad_status)),
                  log_text("do", "the requests that need it are refused: run 'holt verify'"));
    }
    return true;
}

static struct batch *batch_unused(struct forest *forest)
{
    for (uint32_t i = 0; i < array_count(forest->batches); i++) {
        struct batch *batch = &forest->batches[i];
        if (batch != forest->gathering && batch != forest->preparing &&
            batch != forest->committing) {
            return batch;
        }
    }
    assert(false && "three batches, three roles");
    __builtin_unreachable();
}

/* Small batches wait for the journal, so that requests which come meanwhile share the entry. */
static bool worth_preparing(const struct forest *forest)
{
    return !forest->journal.writing ||
           forest->gathering->request_bytes * 4 >= forest->geometry.batch_size_max ||
           forest->gathering->event_count * 4 >= forest->geometry.batch_event_max;
}

static uint32_t requests_accepted(const struct batch *batch)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < batch->request_count; i++) {
        count += !batch_request_refused(&batch->requests[i]);
    }
    return count;
}

/* The request of the batch that asks for most. */
static enum request_space batch_space(const struct batch *batch)
{
    enum request_space most = REQUEST_SPACE_NONE;
    for (uint32_t i = 0; i < batch->request_count; i++) {
        const struct batch_request *request = &batch->requests[i];
        if (!batch_request_refused(request) && request->space > most) {
            most = request->space;
        }
    }
    return most;
}

static void refuse_for_space(struct batch *batch, enum request_space space)
{
    for (uint32_t i = 0; i < batch->request_count; i++) {
        struct batch_request *request = &batch->requests[i];
        if (!batch_request_refused(request) && request->space == space) {
            batch_request_refuse(request, REQUEST_RESULT_FULL);
        }
    }
}

/* What goes on its way now: what has gathered, less what there is no room for; or first a step of
 * what is owed, when removes have to wait for merges to carry older tombstones down. Nothing takes
 * blocks between here and the commit. NULL: nothing, the file is growing. */
static struct batch *choose_batch(struct forest *forest)
{
    struct batch *batch = forest->gathering;
    if (forest->read_only) {
        return batch; /* All of it will be refused; debt cannot be paid any more. */
    }
    for (;;) {
        const enum request_space space = batch_space(batch);
        switch (forest_space_judge(forest, space, batch, false, &forest->preparing_low)) {
        case SPACE_ACCEPT:
            return batch;
        case SPACE_WAIT:
            return NULL;
        case SPACE_REFUSE:
            break;
        }
        forest->full = true;
        struct batch *debt = batch_unused(forest);
        batch_reset(debt);
        if (space == REQUEST_SPACE_REMOVE && add_debt(forest, debt)) {
            return debt;
        }
        refuse_for_space(batch, space);
        if (requests_accepted(batch) == 0) {
            return batch;
        }
    }
}

static bool prepare(struct forest *forest)
{
    if (forest->preparing != NULL || forest->gathering->request_count == 0 ||
        forest->beats_owed > 0 || !worth_preparing(forest)) {
        return false;
    }
    struct batch *batch = choose_batch(forest);
    if (batch == NULL) {
        /* Without a thread of its own growth goes on with the next tick. */
        return forest->options.growth_worker->thread_count == 0;
    }
    forest->preparing = batch;
    if (batch == forest->gathering) {
        forest->gathering = batch_unused(forest);
        forest->gathering_number += 1;
        batch_reset(forest->gathering);
    }
    forest_prefetch_begin(forest, batch);
    return true;
}

/* ---- Replies -----------------------------------------------------------------------------------
 */

static void reply(struct forest *forest, const struct batch *batch,
                  const struct batch_request *request)
{
    if (request->internal) {
        return;
    }
    uint32_t failure_count = request->failure_count;
    if (batch_request_numbered(request)) {
        forest_session_end(forest, request->header);
        failure_count = (uint32_t)min_u64(failure_count, SESSION_FAILURE_MAX);
    }
    const struct request_outcome outcome = {
        .kind = (enum request_kind)request->header->kind,
        .result = request->result,
        .commit = request->commit,
        .timestamp = request->timestamp,
        .failures = batch->failures + request->failure_first,
        .failure_count = failure_count,
        .failure_total = request->failure_count,
        .groove_id = request->groove_id,
        .object_size = request->object_size,
        .reason = batch->reason[0] != '\0' ? batch->reason : NULL,
    };
    forest->options.on_committed(request->context, &outcome);
}

static void refuse_all(struct forest *forest, enum request_result result)
{
    struct batch *batch = forest->preparing;
    assert(batch != NULL);
    for (uint32_t i = 0; i < batch->request_count; i++) {
        if (!batch_request_refused(&batch->requests[i])) {
            batch_request_refuse(&batch->requests[i], result);
        }
        reply(forest, batch, &batch->requests[i]);
    }
    batch_reset(batch);
    forest->preparing = NULL;
    forest->stage = BATCH_STAGE_NONE;
}

/* ---- Executing ---------------------------------------------------------------------------------
 */

static void add_failure(struct batch *batch, struct batch_request *request, uint32_t event_index,
                        enum event_result result)
{
    assert(result != EVENT_RESULT_OK);
    assert(batch->failure_count < batch->geometry->batch_event_max);
    batch->failures[batch->failure_count] = (struct event_failure){
        .event_index = event_index,
        .result = (uint32_t)result,
    };
    batch->failure_count += 1;
    request->failure_count += 1;
}

/* The events first..end - 1 of the request: one that stands alone, or a chain. */
static void execute_chain(struct forest *forest, struct batch *batch, struct batch_request *request,
                          uint32_t first, uint32_t end)
{
    chain_begin(&forest->chain);
    for (uint32_t i = first; i < end; i++) {
        const struct batch_event *event = &batch->events[request->event_first + i];
        struct groove_write *write = &forest->writes[event->group];
        struct groove_entry *entry = &batch->entries[event->entry];
        if (end - first > 1) { /* What fails alone has changed nothing. */
            chain_note(&forest->chain, event->group, write, entry);
        }
        const enum event_result result =
            groove_write_event(write, event->type, batch_event_guard(event), event->payload, entry,
                               request->timestamp + i);
        if (result != EVENT_RESULT_OK) {
            chain_undo(&forest->chain, forest->writes);
            for (uint32_t k = first; k < end; k++) {
                add_failure(batch, request, k, k == i ? result : EVENT_RESULT_LINKED);
            }
            return;
        }
    }
}

static void execute_write(struct forest *forest, struct batch *batch, struct batch_request *request)
{
    request->failure_first = batch->failure_count;
    const struct batch_event *events = &batch->events[request->event_first];
    const uint32_t count = request->header->event_count;
    for (uint32_t first = 0; first < count;) {
        uint32_t end = first + 1;
        while (events[end - 1].linked) {
            assert(end < count); /* The last one is linked to nothing. */
            end += 1;
        }
        execute_chain(forest, batch, request, first, end);
        first = end;
    }
}

static void execute_create(struct forest *forest, struct batch *batch,
                           struct batch_request *request)
{
    struct groove_spec spec;
    memcpy(&spec, request->body, sizeof spec);
    switch (catalog_create(&forest->catalog, &spec, &request->groove_id, batch->reason,
                           sizeof batch->reason)) {
    case CATALOG_OK:
        request->object_size =
            catalog_find(&forest->catalog, request->groove_id)->schema->schema.object_size;
        break;
    case CATALOG_EXISTS:
        request->result = REQUEST_RESULT_GROOVE_EXISTS;
        break;
    case CATALOG_BAD_SCHEMA:
        request->result = REQUEST_RESULT_BAD_SCHEMA;
        break;
    case CATALOG_LIMIT:
        request->result = REQUEST_RESULT_LIMIT;
        break;
    }
}

static void execute_request(struct forest *forest, struct batch *batch,
                            struct batch_request *request)
{
    switch ((enum request_kind)request->header->kind) {
    case REQUEST_KIND_WRITE:
        execute_write(forest, batch, request);
        break;
    case REQUEST_KIND_GROOVE_CREATE:
        execute_create(forest, batch, request);
        break;
    case REQUEST_KIND_GROOVE_DROP: {
        struct catalog_groove *groove =
            catalog_find_name(&forest->catalog, (const char *)request->body);
        if (groove == NULL) {
            request->result = REQUEST_RESULT_UNKNOWN_GROOVE;
        } else {
            catalog_drop(groove);
        }
        break;
    }
    case REQUEST_KIND_GROOVE_FORGET: {
        const uint64_t groove_id = load_u64_le(request->body);
        struct catalog_groove *groove = catalog_after(&forest->catalog, (uint32_t)groove_id - 1);
        assert(groove != NULL && groove->groove_id == groove_id && groove->dropping);
        catalog_forget(&forest->catalog, groove, &forest->arena, &forest->nodes,
                       &forest->tree_versions);
        break;
    }
    case REQUEST_KIND_IDLE:
        batch->idle_beats = load_u64_le(request->body);
        break;
    case REQUEST_KIND_SESSION_OPEN:
    case REQUEST_KIND_SESSION_CLOSE:
    case REQUEST_KIND_SESSION_EVICT:
        forest_session_execute(forest, request);
        break;
    }
}

/* What the runs of a batch take of the arena, generously: bytes, and in how many runs. */
static uint64_t batch_room(const struct batch *batch)
{
    return 2 * batch->write_bytes + RUN_SEGMENT_SIZE;
}

static uint32_t batch_room_runs(const struct batch *batch)
{
    return 3 * batch->group_count * GROOVE_TREE_COUNT_MAX + 3;
}

void forest_execute(struct forest *forest, struct batch *batch, uint64_t timestamp_first,
                    uint64_t entry_size, bool low)
{
    forest->low = low;
    /* What merges of the first trees take must not be missing for the last ones. */
    forest->arena.promised_segment_count =
        run_arena_segments(batch_room(batch), 1, batch_room_runs(batch));
    forest->arena.promised_run_count = batch_room_runs(batch);
    uint8_t *memory = forest->write_memory;
    for (uint32_t i = 0; i < batch->group_count; i++) {
        struct batch_group *group = &batch->groups[i];
        if (group->event_count > 0) {
            groove_write_begin(&forest->writes[i], group->groove, group->event_count, group->owners,
                               memory);
            memory += groove_write_size(&group->groove->schema->schema, group->event_count);
        }
    }
    uint64_t timestamp = timestamp_first;
    for (uint32_t i = 0; i < batch->request_count; i++) {
        struct batch_request *request = &batch->requests[i];
        if (batch_request_refused(request)) {
            continue;
        }
        forest->commit_executed += 1;
        request->commit = forest->commit_executed;
        request->timestamp = timestamp;
        if (request->header->kind != REQUEST_KIND_WRITE &&
            request->header->kind < REQUEST_KIND_SESSION_OPEN) {
            forest->catalog_commit = request->commit;
        }
        timestamp += max_u64(request->header->event_count, 1);
        execute_request(forest, batch, request);
        if (batch_request_numbered(request)) {
            forest_session_executed(forest, batch, request);
        }
    }
    forest->timestamp = timestamp - 1;
    for (uint32_t i = 0; i < batch->group_count; i++) {
        if (batch->groups[i].event_count > 0) {
            const uint64_t bytes =
                groove_write_finish(&forest->writes[i], forest->sort_scratch, &forest->arena,
                                    &forest->nodes, &forest->tree_versions);
            forest->bar_memory_used += bytes;
            forest->memory_since_checkpoint += bytes;
        }
    }
    forest->arena.promised_segment_count = 0;
    forest->arena.promised_run_count = 0;
    forest->purge = low && batch->idle_beats > 0;
    forest_beats_count(forest, align_up(entry_size, SECTOR_SIZE), batch->idle_beats);
}

/* ---- Committing --------------------------------------------------------------------------------
 */

bool forest_run_room(struct forest *forest)
{
    for (uint32_t i = 0; i < forest->geometry.tree_count_max; i++) {
        struct tree *tree = &forest->trees[i];
        if (tree->used && !tree->dropping &&
            !tree_has_room_for_run(tree, &forest->arena, &forest->nodes, &forest->tree_versions)) {
            return false;
        }
    }
    return true;
}

/* Room in memory for the batch's runs, and for the versions that will see them. What is missing is
 * held by readers of old versions, who can be made to give it back. */
static bool memory_room(struct forest *forest, const struct batch *batch)
{
    return forest_version_room(forest) && forest_run_room(forest) &&
           run_arena_has_room(&forest->arena, batch_room(batch), 1, batch_room_runs(batch));
}

/* Whether the forest thread writes the entry itself. Nobody must wait for it meanwhile: reads
 * under way will want to be answered, and large batches to be gathered; and a slow disk, or one
 * that is so for a while, is the journal thread's. */
static bool may_write_here(struct forest *forest, const struct batch *batch)
{
    const uint64_t wait_ns_max = forest->options.journal_wait_ns_max;
    return wait_ns_max > 0 && !forest->shared && forest->journal.write_ns <= wait_ns_max &&
           batch->size <= WRITE_HERE_SIZE_MAX && forest_reads_busy(forest) == 0;
}

static bool commit(struct forest *forest)
{
    struct batch *batch = forest->preparing;
    if (forest->stage != BATCH_STAGE_PREPARED || forest->committing != NULL || forest->sealing ||
        forest->beats_owed > 0) {
        return false;
    }
    if (forest->read_only) {
        refuse_all(forest, REQUEST_RESULT_READ_ONLY);
        return true;
    }
    if (requests_accepted(batch) == 0) {
        refuse_all(forest, REQUEST_RESULT_CORRUPT); /* Each keeps the result it has. */
        return true;
    }
    if (!memory_room(forest, batch)) {
        return forest_versions_revoke(forest);
    }
    const uint64_t timestamp =
        max_u64(clock_realtime_ns(forest->options.clock), forest->timestamp + 1);
    memset(batch->buffer, 0, JOURNAL_HEADER_SIZE);
    struct journal_header *header = (struct journal_header *)(void *)batch->buffer;
    header->size = batch->size;
    header->commit = forest->commit_executed + 1;
    header->timestamp = timestamp;
    header->request_count = batch->request_count;
    header->kind = JOURNAL_KIND_BATCH;
    header->flags = forest->preparing_low ? JOURNAL_FLAG_LOW : 0;
    assert(journal_has_room(&forest->journal, batch->size)); /* By the sizing of limits.h. */
    journal_append(&forest->journal, batch->buffer);
    const bool here = may_write_here(forest, batch);
    if (!here) {
        journal_hand_over(&forest->journal);
    }
    forest->committing = batch;
    forest->preparing = NULL;
    forest->stage = BATCH_STAGE_NONE;
    forest_execute(forest, batch, timestamp, batch->size, forest->preparing_low);
    forest->committing_version = forest_version_make(forest);
    if (here) {
        journal_write(&forest->journal);
    }
    return true;
}

/* Whosever sync it was: nothing can become durable any more, so nothing would ever be answered. */
static void stop_if_sync_failed(struct forest *forest)
{
    if (grid_sync_failed(&forest->grid)) {
        fatal(STATUS_IO, "forest.sync",
              "the data file could not be synced; what reached the disk is unknown",
              "check the disk; restarting recovers every acknowledged request");
    }
}

static bool reap_journal(struct forest *forest)
{
    enum status status;
    if (!journal_reap(&forest->journal, &status)) {
        return false;
    }
    stop_if_sync_failed(forest); /* It may have failed for us. */
    if (status != STATUS_OK) {
        fatal(status, "forest.journal",
              "the journal could not be written or synced; what reached the disk is unknown",
              "check the disk; restarting recovers every acknowledged request");
    }
    forest->sequence_durable = forest->journal.sequence_next - 1;
    if (forest->sealing) {
        forest->sealing = false;
        return true;
    }
    struct batch *batch = forest->committing;
    assert(batch != NULL);
    forest->commit_durable = forest->committing_version->commit;
    version_publish(&forest->versions, forest->committing_version);
    forest->committing_version = NULL;
    for (uint32_t i = 0; i < batch->request_count; i++) {
        reply(forest, batch, &batch->requests[i]);
    }
    batch_reset(batch);
    forest->committing = NULL;
    return true;
}

bool forest_commit_tick(struct forest *forest)
{
    stop_if_sync_failed(forest);
    bool progressed = reap_journal(forest);
    progressed |= forest_versions_collect(forest);
    progressed |= forest_beat_tick(forest);
    progressed |= forest_checkpoint_tick(forest);
    if (progressed && forest->shared) {
        return true; /* Who has been answered may ask again, and others may have asked meanwhile. */
    }
    if (!forest->read_only || forest->preparing != NULL || forest->gathering->request_count > 0) {
        progressed |= prepare(forest);
        progressed |= forest_prefetch_reap(forest);
        progressed |= commit(forest);
    }
    if (forest->space.wanted && forest_is_idle(forest)) {
        /* A step for each refused write, which will come again: it need not wait for silence. */
        forest->space.wanted = false;
        progressed |= forest_pay_debt(forest);
    }
    return progressed;
}
