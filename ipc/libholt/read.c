/* Reads: lookups, queries by example, counts. */
#include <stdlib.h>
#include <string.h>

#include "ipc/libholt/internal.h"

struct holt_read {
    struct call call; /* First: the callback finds the read by it. */
    uint8_t *body;    /* [call.body_size], owned */
    holt_read_callback callback;
    void *context;
    struct objects_reply objects; /* of the reply; zero: none */
    uint64_t count;
};

enum holt_status holt_read_new(struct holt *holt, struct holt_read **read)
{
    *read = NULL;
    const enum holt_status status = client_check(holt, NULL);
    if (status != HOLT_OK) {
        return status;
    }
    struct holt_read *made = calloc(1, sizeof *made);
    if (made == NULL || !call_init(&made->call, holt, true)) {
        free(made);
        return HOLT_NO_MEMORY;
    }
    *read = made;
    return HOLT_OK;
}

void holt_read_free(struct holt_read *read)
{
    if (read != NULL) {
        call_deinit(&read->call);
        free(read->body);
        free(read);
    }
}

/* Room for a new body. NULL: no memory, or too much. */
static uint8_t *body_new(struct holt_read *read, uint16_t operation, size_t size)
{
    uint8_t *body = size <= UINT32_MAX / 2 ? malloc(size) : NULL;
    if (body != NULL) {
        free(read->body);
        read->body = body;
        read->call.operation = operation;
        read->call.body = body;
        read->call.body_size = (uint32_t)size;
    }
    return body;
}

enum holt_status holt_read_lookup(struct holt_read *read, const struct holt_groove *groove,
                                  const struct holt_id *ids, uint32_t id_count)
{
    if (id_count == 0) {
        return HOLT_BAD_ARGUMENT;
    }
    const struct lookup_request lookup = {.groove_id = groove->groove_id, .id_count = id_count};
    uint8_t *body =
        body_new(read, OPERATION_LOOKUP, sizeof lookup + (size_t)id_count * WIRE_ID_SIZE);
    if (body == NULL) {
        return HOLT_NO_MEMORY;
    }
    memcpy(body, &lookup, sizeof lookup);
    memcpy(body + sizeof lookup, ids, (size_t)id_count * WIRE_ID_SIZE);
    return HOLT_OK;
}

static enum holt_status set_query(struct holt_read *read, uint16_t operation,
                                  const struct holt_groove *groove, const struct holt_index *index,
                                  const void *example, uint32_t limit)
{
    struct query_request query = {
        .groove_id = groove->groove_id, .index_id = WIRE_INDEX_NONE, .limit = limit};
    if (index != NULL) {
        uint32_t position = 0;
        while (position < groove->index_count && &groove->indexes[position] != index) {
            position += 1;
        }
        if (position == groove->index_count || example == NULL) {
            return HOLT_BAD_ARGUMENT;
        }
        query.index_id = groove->index_ids[position];
        for (uint32_t i = 0; i < index->field_count; i++) {
            query.key_size += groove->fields[index->fields[i]].size;
        }
    }
    uint8_t *body = body_new(read, operation, sizeof query + query.key_size);
    if (body == NULL) {
        return HOLT_NO_MEMORY;
    }
    memcpy(body, &query, sizeof query);
    body += sizeof query;
    for (uint32_t i = 0; index != NULL && i < index->field_count; i++) {
        const struct holt_field *field = &groove->fields[index->fields[i]];
        memcpy(body, (const uint8_t *)example + field->offset, field->size);
        body += field->size;
    }
    return HOLT_OK;
}

enum holt_status holt_read_query(struct holt_read *read, const struct holt_groove *groove,
                                 const struct holt_index *index, const void *example,
                                 uint32_t limit)
{
    if (index == NULL) {
        return HOLT_BAD_ARGUMENT;
    }
    return set_query(read, OPERATION_QUERY, groove, index, example, limit);
}

enum holt_status holt_read_count(struct holt_read *read, const struct holt_groove *groove,
                                 const struct holt_index *index, const void *example)
{
    return set_query(read, OPERATION_COUNT, groove, index, example, 0);
}

/* ---- Running -----------------------------------------------------------------------------------
 */

/* Makes results of the reply; one that is none ends in HOLT_NOT_HOLT. */
static enum holt_status take_reply(struct holt_read *read, struct holt_error *error)
{
    struct outcome *outcome = &read->call.outcome;
    if (outcome->status != HOLT_OK) {
        return outcome->status;
    }
    bool good;
    if (read->call.operation == OPERATION_COUNT) {
        good = outcome->body_size == sizeof read->count;
        if (good) {
            memcpy(&read->count, outcome->body, sizeof read->count);
        }
    } else {
        good = outcome->body_size >= sizeof read->objects;
        if (good) {
            memcpy(&read->objects, outcome->body, sizeof read->objects);
            good = read->objects.object_size >= sizeof(struct wire_object_header) &&
                   outcome->body_size - sizeof read->objects ==
                       (uint64_t)read->objects.object_count * read->objects.object_size;
        }
    }
    if (!good) {
        read->objects = (struct objects_reply){0};
        outcome_clear(outcome);
        outcome->status = error_set(error, HOLT_NOT_HOLT, "the reply cannot be read");
    }
    return outcome->status;
}

static enum holt_status prepare(struct holt_read *read, struct holt_error *error)
{
    if (read->body == NULL) {
        return error_set(error, HOLT_BAD_ARGUMENT, "nothing is to be read");
    }
    struct hello_reply hello;
    const enum holt_status status = client_check(read->call.holt, error);
    if (status != HOLT_OK) {
        return status;
    }
    client_limits(read->call.holt, &hello);
    if (read->call.body_size > hello.message_size_max - PROTOCOL_HEADER_SIZE) {
        return error_set(error, HOLT_TOO_BIG, NULL);
    }
    read->objects = (struct objects_reply){0};
    read->count = 0;
    return HOLT_OK;
}

enum holt_status holt_read_run(struct holt_read *read, uint32_t deadline_ms,
                               struct holt_error *error)
{
    enum holt_status status = prepare(read, error);
    if (status == HOLT_OK) {
        status = call_run(&read->call, deadline_ms, error);
    }
    return status == HOLT_OK ? take_reply(read, error) : status;
}

static void read_done(struct call *call)
{
    struct holt_read *read = (struct holt_read *)call;
    read->callback(read->context, read, take_reply(read, NULL));
}

enum holt_status holt_read_submit(struct holt_read *read, uint32_t deadline_ms,
                                  holt_read_callback callback, void *context,
                                  struct holt_error *error)
{
    if (callback == NULL) {
        return error_set(error, HOLT_BAD_ARGUMENT, "no callback");
    }
    read->callback = callback;
    read->context = context;
    const enum holt_status status = prepare(read, error);
    return status == HOLT_OK ? call_submit(&read->call, read_done, deadline_ms, error) : status;
}

/* ---- Results -----------------------------------------------------------------------------------
 */

enum holt_status holt_read_status(const struct holt_read *read)
{
    return read->call.outcome.status;
}

const char *holt_read_text(const struct holt_read *read)
{
    return read->call.outcome.text;
}

uint64_t holt_read_commit_number(const struct holt_read *read)
{
    return read->call.outcome.commit;
}

uint32_t holt_read_object_count(const struct holt_read *read)
{
    return read->objects.object_count;
}

const void *holt_read_object(const struct holt_read *read, uint32_t position)
{
    if (position >= read->objects.object_count) {
        return NULL;
    }
    return read->call.outcome.body + sizeof read->objects +
           (size_t)position * read->objects.object_size;
}

uint64_t holt_read_count_value(const struct holt_read *read)
{
    return read->count;
}

/* ---- In one call -------------------------------------------------------------------------------
 */

/* Gives out a read that has its results, or frees it. */
static enum holt_status finish(struct holt_read *read, enum holt_status status,
                               uint32_t deadline_ms, struct holt_read **result,
                               struct holt_error *error)
{
    status = status == HOLT_OK ? holt_read_run(read, deadline_ms, error)
                               : error_set(error, status, NULL);
    if (status == HOLT_OK) {
        *result = read;
    } else {
        holt_read_free(read);
    }
    return status;
}

enum holt_status holt_lookup(struct holt *holt, const struct holt_groove *groove,
                             const struct holt_id *ids, uint32_t id_count, uint32_t deadline_ms,
                             struct holt_read **read, struct holt_error *error)
{
    struct holt_read *made;
    *read = NULL;
    enum holt_status status = holt_read_new(holt, &made);
    if (status != HOLT_OK) {
        return error_set(error, status, NULL);
    }
    status = holt_read_lookup(made, groove, ids, id_count);
    return finish(made, status, deadline_ms, read, error);
}

enum holt_status holt_query(struct holt *holt, const struct holt_groove *groove, const char *index,
                            const void *example, uint32_t limit, uint32_t deadline_ms,
                            struct holt_read **read, struct holt_error *error)
{
    struct holt_read *made;
    *read = NULL;
    const struct holt_index *found = holt_groove_index(groove, index);
    if (found == NULL) {
        return error_set(error, HOLT_UNKNOWN_INDEX, "groove %s has no index %.100s", groove->name,
                         index);
    }
    enum holt_status status = holt_read_new(holt, &made);
    if (status != HOLT_OK) {
        return error_set(error, status, NULL);
    }
    status = holt_read_query(made, groove, found, example, limit);
    return finish(made, status, deadline_ms, read, error);
}

enum holt_status holt_count(struct holt *holt, const struct holt_groove *groove, const char *index,
                            const void *example, uint32_t deadline_ms, uint64_t *count,
                            struct holt_error *error)
{
    struct holt_read *made;
    struct holt_read *read;
    *count = 0;
    const struct holt_index *found = index != NULL ? holt_groove_index(groove, index) : NULL;
    if (index != NULL && found == NULL) {
        return error_set(error, HOLT_UNKNOWN_INDEX, "groove %s has no index %.100s", groove->name,
                         index);
    }
    enum holt_status status = holt_read_new(holt, &made);
    if (status != HOLT_OK) {
        return error_set(error, status, NULL);
    }
    status = holt_read_count(made, groove, found, example);
    status = finish(made, status, deadline_ms, &read, error);
    if (status == HOLT_OK) {
        *count = read->count;
        holt_read_free(read);
    }
    return status;
}
