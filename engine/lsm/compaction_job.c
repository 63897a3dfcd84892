#include "engine/lsm/compaction_job.h"

#include <assert.h>
#include <string.h>

#include "engine/lsm/values.h"
#include "pool/base.h"

/* Values of the tables of one input, span by span. Blocks with adjacent addresses are read in one
 * call into the window. */
struct table_stream {
    const struct table_info *tables;
    uint32_t table_count;
    uint32_t table_index; /* next table to open */
    uint8_t *index_block;
    struct table_index index;
    bool open;            /* index is that of tables[table_index - 1] */
    uint32_t block_index; /* next value block of the open table */
    uint8_t *window;
    uint32_t window_count; /* blocks in the window */
    uint32_t window_used;
    struct values_cursor span;
    bool ended;
};

/* Values of the runs, merged into the window piece by piece. */
struct run_stream {
    struct values_cursor cursors[TABLE_MEMORY_RUN_MAX];
    struct run *runs[TABLE_MEMORY_RUN_MAX]; /* those not used up; newest first */
    uint64_t positions[TABLE_MEMORY_RUN_MAX];
    uint32_t count;
};

struct compaction_machine {
    struct table_stream source;
    struct table_stream targets;
    struct run_stream memory;
    struct table_builder builder;
    uint64_t steps;
};

uint32_t compaction_window_blocks(const struct geometry *geometry)
{
    const uint32_t blocks = IO_SIZE_MAX / geometry->block_size;
    return blocks > 8 ? blocks : 8; /* 5 single blocks, the builder's arrays and the machine fit. */
}

uint32_t compaction_output_blocks_max(const struct geometry *geometry,
                                      const struct tree_shape *shape, uint64_t value_count)
{
    if (value_count == 0) {
        return 0;
    }
    /* All tables but the last are full; a table's last value block and last filter may be partly
     * filled. */
    const uint64_t per_block = table_values_per_block(geometry, shape->value_size);
    const uint64_t tables = div_ceil(value_count, shape->value_count_max);
    const uint64_t values = div_ceil(value_count, per_block) + tables;
    const uint64_t filters =
        div_ceil(values, table_value_blocks_per_filter(geometry, shape->value_size)) + tables;
    return (uint32_t)(tables + values + filters);
}

static void list_released(struct compaction_job *job, uint64_t address)
{
    assert(job->released_count < job->released_max);
    job->released[job->released_count] = address;
    job->released_count += 1;
}

static void list_table(struct compaction_job *job, const struct table_index *index,
                       uint64_t index_address)
{
    list_released(job, index_address);
    for (uint32_t i = 0; i < index->value_block_count; i++) {
        list_released(job, table_index_value_reference(index, i).address);
    }
    for (uint32_t i = 0; i < index->filter_block_count; i++) {
        list_released(job, table_index_filter_reference(index, i).address);
    }
}

/* Reads and checks one index block, and lists the table's blocks for release. */
static enum status index_open(struct compaction_job *job, const struct table_info *table,
                              bool release, uint8_t *block, struct table_index *index)
{
    enum status status = grid_read_block(job->grid, &table->index, BLOCK_TYPE_INDEX, block);
    if (status == STATUS_OK) {
        status = table_index_decode(job->geometry, &job->shape, block, index);
    }
    const uint32_t block_count =
        status == STATUS_OK ? 1 + index->value_block_count + index->filter_block_count : 0;
    if (status != STATUS_OK || block_count != table->block_count) {
        job->bad_address = table->index.address;
        return status == STATUS_OK ? STATUS_CORRUPT : status;
    }
    if (release) {
        list_table(job, index, table->index.address);
    }
    return STATUS_OK;
}

static enum status stream_open_table(struct compaction_job *job, struct table_stream *stream)
{
    const struct table_info *table = &stream->tables[stream->table_index];
    /* A source that keeps its rest keeps its blocks: some are shared by both parts. */
    const bool release = !(table == &job->source && job->source_partial);
    const enum status status = index_open(job, table, release, stream->index_block, &stream->index);
    if (status != STATUS_OK) {
        return status;
    }
    stream->table_index += 1;
    stream->open = true;
    stream->window_count = 0;
    stream->window_used = 0;
    /* Values below key_min were merged down before (a partial source): skip whole blocks of them.
     */
    const uint32_t first =
        job->shape.ops->key_lower_bound(stream->index.first_keys, stream->index.value_block_count,
                                        job->shape.value_size, table->key_min.bytes);
    const bool starts_block =
        first < stream->index.value_block_count &&
        job->shape.ops->compare(stream->index.first_keys + (size_t)first * job->shape.key_size,
                                table->key_min.bytes, job->shape.value_size) == 0;
    stream->block_index = starts_block || first == 0 ? first : first - 1;
    return STATUS_OK;
}

static enum status stream_load_window(struct compaction_job *job, struct table_stream *stream)
{
    const uint32_t window_max = compaction_window_blocks(job->geometry);
    const struct block_reference first =
        table_index_value_reference(&stream->index, stream->block_index);
    uint32_t count = 1;
    while (count < window_max && stream->block_index + count < stream->index.value_block_count &&
           table_index_value_reference(&stream->index, stream->block_index + count).address ==
               first.address + count) {
        count += 1;
    }
    if (grid_read_blocks(job->grid, first.address, count, stream->window) != STATUS_OK) {
        /* One block at a time then: a second look, and the address of the one that cannot be read.
         */
        const enum status status =
            grid_read_block(job->grid, &first, BLOCK_TYPE_VALUE, stream->window);
        if (status != STATUS_OK) {
            job->bad_address = first.address;
            return status;
        }
        count = 1;
    }
    stream->window_count = count;
    stream->window_used = 0;
    return STATUS_OK;
}

/* Cuts from the span what is outside of the table's key range or behind source_end. */
static void stream_trim(struct compaction_job *job, struct table_stream *stream,
                        const struct table_info *table)
{
    const struct values_ops *ops = job->shape.ops;
    const uint32_t value_size = job->shape.value_size;
    uint32_t count = (uint32_t)((size_t)(stream->span.end - stream->span.next) / value_size);
    const uint32_t skipped =
        ops->lower_bound(stream->span.next, count, value_size, table->key_min.bytes);
    stream->span.next += (size_t)skipped * value_size;
    count -= skipped;
    if (table == &job->source && job->source_partial) {
        const uint32_t kept =
            ops->lower_bound(stream->span.next, count, value_size, job->source_end.bytes);
        if (kept < count) {
            memset(&job->source_next, 0, sizeof job->source_next);
            memcpy(job->source_next.bytes, stream->span.next + (size_t)kept * value_size,
                   job->shape.key_size);
            if (value_size == job->shape.key_size) {
                job->source_next.bytes[value_size - 8] &= 0x7f; /* The tombstone bit is no key. */
            }
            stream->ended = true; /* Behind this span. */
        }
        stream->span.end = stream->span.next + (size_t)kept * value_size;
        job->source_values_used += kept;
        job->source_tombstones_used += ops->count_tombstones(stream->span.next, kept, value_size);
    }
}

/* Makes the span non-empty, unless the stream has ended. */
static enum status stream_refill(struct compaction_job *job, struct table_stream *stream)
{
    const uint32_t block_size = job->geometry->block_size;
    while (stream->span.next == stream->span.end && !stream->ended) {
        if (!stream->open || stream->block_index == stream->index.value_block_count) {
            if (stream->table_index == stream->table_count) {
                stream->ended = true;
                break;
            }
            const enum status status = stream_open_table(job, stream);
            if (status != STATUS_OK) {
                return status;
            }
        }
        if (stream->window_used == stream->window_count) {
            const enum status status = stream_load_window(job, stream);
            if (status != STATUS_OK) {
                return status;
            }
        }
        uint8_t *block = stream->window + (size_t)stream->window_used * block_size;
        const struct block_reference reference =
            table_index_value_reference(&stream->index, stream->block_index);
        uint32_t count = 0;
        enum status status = block_verify(block, block_size, &reference, BLOCK_TYPE_VALUE);
        if (status != STATUS_OK) { /* A second look, before damage is declared. */
            status = grid_read_block(job->grid, &reference, BLOCK_TYPE_VALUE, block);
        }
        if (status == STATUS_OK) {
            status = table_value_block_decode(job->geometry, &job->shape, block, &count);
        }
        if (status != STATUS_OK) {
            job->bad_address = reference.address;
            return status;
        }
        if (VERIFY) {
            assert(job->shape.ops->verify(block_body_const(block), count, job->shape.value_size));
        }
        stream->window_used += 1;
        stream->block_index += 1;
        stream->span.next = block_body_const(block);
        stream->span.end = stream->span.next + (size_t)count * job->shape.value_size;
        stream_trim(job, stream, &stream->tables[stream->table_index - 1]);
    }
    return STATUS_OK;
}

static void memory_begin(struct compaction_job *job, struct run_stream *memory)
{
    memory->count = job->run_count;
    for (uint32_t i = 0; i < job->run_count; i++) {
        memory->runs[i] = job->runs[i];
        memory->positions[i] = 0;
        memory->cursors[i] = (struct values_cursor){0};
    }
}

/* Gives every run a non-empty cursor, and drops those that are used up. */
static void memory_refill(struct run_stream *memory, uint32_t value_size)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < memory->count; i++) {
        struct run *run = memory->runs[i];
        struct values_cursor cursor = memory->cursors[i];
        uint64_t position = memory->positions[i];
        if (cursor.next == cursor.end) {
            if (position == run->value_count) {
                continue;
            }
            uint32_t count;
            cursor.next = run_span(run, position, &count);
            cursor.end = cursor.next + (size_t)count * value_size;
            position += count;
        }
        memory->runs[kept] = run;
        memory->cursors[kept] = cursor;
        memory->positions[kept] = position;
        kept += 1;
    }
    memory->count = kept;
}

/* The next merged piece of the runs, staged in the source's window. */
static void memory_next_span(struct compaction_job *job, struct compaction_machine *machine)
{
    struct table_stream *source = &machine->source;
    const uint32_t value_size = job->shape.value_size;
    const uint32_t capacity = (uint32_t)((size_t)compaction_window_blocks(job->geometry) *
                                         job->geometry->block_size / value_size);
    uint32_t staged = 0;
    while (staged < capacity) {
        memory_refill(&machine->memory, value_size);
        if (machine->memory.count == 0) {
            source->ended = true;
            break;
        }
        struct values_merge_many merge = {
            .cursors = machine->memory.cursors,
            .cursor_count = machine->memory.count,
            .output = source->window + (size_t)staged * value_size,
            .output_capacity = capacity - staged,
        };
        job->shape.ops->merge_many(&merge, value_size);
        staged += merge.output_count;
    }
    source->span.next = source->window;
    source->span.end = source->window + (size_t)staged * value_size;
}

static enum status source_refill(struct compaction_job *job, struct compaction_machine *machine)
{
    struct table_stream *source = &machine->source;
    if (!job->from_memory) {
        return stream_refill(job, source);
    }
    if (source->span.next == source->span.end && !source->ended) {
        memory_next_span(job, machine);
    }
    return STATUS_OK;
}

static uint32_t span_count(const struct table_stream *stream, uint32_t value_size)
{
    return (uint32_t)((size_t)(stream->span.end - stream->span.next) / value_size);
}

/* Fills `output` from the two spans; at least one is not empty, and one that is empty has ended. */
static uint32_t merge_spans(struct compaction_job *job, struct compaction_machine *machine,
                            uint8_t *output, uint32_t capacity)
{
    const uint32_t value_size = job->shape.value_size;
    struct values_merge merge = {
        .newer = machine->source.span.next,
        .older = machine->targets.span.next,
        .output = output,
        .newer_count = span_count(&machine->source, value_size),
        .older_count = span_count(&machine->targets, value_size),
        .output_capacity = capacity,
    };
    if (merge.newer_count > 0 && merge.older_count > 0) {
        job->shape.ops->merge(&merge, value_size);
    } else {
        struct values_cursor *only =
            merge.newer_count > 0 ? &machine->source.span : &machine->targets.span;
        const uint32_t count = (uint32_t)min_u64(capacity, merge.newer_count + merge.older_count);
        memcpy(output, only->next, (size_t)count * value_size);
        merge.output_count = count;
        merge.newer_used = merge.newer_count > 0 ? count : 0;
        merge.older_used = merge.newer_count > 0 ? 0 : count;
    }
    /* A side that is used up has no span to move in. */
    if (merge.newer_used > 0) {
        machine->source.span.next += (size_t)merge.newer_used * value_size;
    }
    if (merge.older_used > 0) {
        machine->targets.span.next += (size_t)merge.older_used * value_size;
    }
    atomic_fetch_add_explicit(&job->bytes_done,
                              (uint64_t)(merge.newer_used + merge.older_used) * value_size,
                              memory_order_relaxed);
    return merge.output_count;
}

static enum status table_close(struct compaction_job *job, struct table_builder *builder)
{
    assert(job->output_count < COMPACTION_OUTPUT_MAX);
    struct table_info *output = &job->outputs[job->output_count];
    const enum status status = table_builder_table_finish(builder, output);
    output->level = job->level_target;
    output->snapshot_min = job->op;
    job->output_count += 1;
    if (job->kind == COMPACTION_KIND_SPILL && status == STATUS_OK) {
        struct table_index index; /* The builder's index block is still as it was written. */
        const enum status decoded =
            table_index_decode(job->geometry, &job->shape, builder->index_block, &index);
        assert(decoded == STATUS_OK);
        list_table(job, &index, output->index.address);
    }
    return status;
}

/* One piece of output, at most a block. *finished: there is nothing more to do. */
static enum status merge_step(struct compaction_job *job, bool *finished)
{
    struct compaction_machine *machine = job->machine;
    struct table_builder *builder = &machine->builder;
    enum status status = source_refill(job, machine);
    if (status != STATUS_OK) {
        return status;
    }
    status = stream_refill(job, &machine->targets);
    if (status != STATUS_OK) {
        return status;
    }
    const uint32_t value_size = job->shape.value_size;
    if (span_count(&machine->source, value_size) + span_count(&machine->targets, value_size) == 0) {
        *finished = true;
        if (!table_builder_table_empty(builder)) {
            status = table_close(job, builder);
            if (status != STATUS_OK) {
                return status;
            }
        }
        return table_builder_flush(builder);
    }
    uint32_t capacity;
    uint8_t *output = table_builder_space(builder, &capacity);
    assert(capacity > 0);
    uint32_t count = merge_spans(job, machine, output, capacity);
    if (job->drop_tombstones) {
        count = job->shape.ops->drop_tombstones(output, count, value_size);
    }
    table_builder_appended(builder, count);
    if (table_builder_table_full(builder)) {
        return table_close(job, builder);
    }
    return table_builder_block_full(builder) ? table_builder_block_finish(builder) : STATUS_OK;
}

static void machine_begin(struct compaction_job *job)
{
    resource_pool_acquire(job->resources, job->loan, COMPACTION_LOAN_COUNT);
    const uint32_t block_size = job->geometry->block_size;
    uint8_t *single = job->loan[3];
    uint8_t *const builder_blocks[3] = {
        single + 2 * (size_t)block_size,
        single + 3 * (size_t)block_size,
        single + 4 * (size_t)block_size,
    };
    uint8_t *scratch = single + 5 * (size_t)block_size;
    const size_t scratch_size = align_up(table_builder_scratch_size(job->geometry), 64);
    const size_t window_size = (size_t)compaction_window_blocks(job->geometry) * block_size;
    assert(5 * (size_t)block_size + scratch_size + sizeof *job->machine <= window_size);

    struct compaction_machine *machine =
        (struct compaction_machine *)(void *)(scratch + scratch_size);
    memset(machine, 0, sizeof *machine);
    job->machine = machine;
    machine->source.tables = &job->source;
    machine->source.table_count = job->from_memory || job->kind == COMPACTION_KIND_DISCARD ? 0 : 1;
    machine->source.window = job->loan[1];
    machine->source.index_block = single;
    machine->targets.tables = job->targets;
    machine->targets.table_count = job->target_count;
    machine->targets.window = job->loan[2];
    machine->targets.index_block = single + block_size;
    if (job->from_memory) {
        memory_begin(job, &machine->memory);
    }
    table_builder_init(&machine->builder, job->geometry, job->grid, &job->shape, &job->reservation,
                       job->op, job->loan[0], compaction_window_blocks(job->geometry),
                       builder_blocks, scratch);
}

static void finish(struct compaction_job *job, enum status status)
{
    job->status = status;
    if (job->machine != NULL) {
        job->machine = NULL;
        resource_pool_release(job->resources, job->loan, COMPACTION_LOAN_COUNT);
    }
    atomic_store_explicit(&job->bytes_done, job->bytes_total, memory_order_relaxed);
    struct doorbell *doorbell = job->doorbell;
    /* Pairs with compaction_job_done: the results are visible to who sees DONE. From then on the
     * job is the forest thread's, to plan anew: not a byte of it may be looked at here. */
    atomic_store_explicit(&job->state, COMPACTION_DONE, memory_order_release);
    doorbell_ring(doorbell);
}

/* A dropped tree's tables: only their index blocks are read. */
static enum status discard(struct compaction_job *job)
{
    struct table_index index;
    for (uint32_t i = 0; i < job->target_count; i++) {
        const enum status status =
            index_open(job, &job->targets[i], true, job->machine->targets.index_block, &index);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

enum { STEPS_PER_RING = 64 }; /* about 2 MiB of 32 KiB blocks */

void compaction_job_advance(struct compaction_job *job, uint64_t bytes_target)
{
    assert(!compaction_job_done(job));
    assert(job->kind != COMPACTION_KIND_MOVE); /* Done when planned. */
    if (job->machine == NULL) {
        machine_begin(job);
        atomic_store_explicit(&job->state, COMPACTION_RUNNING, memory_order_relaxed);
    }
    if (job->kind == COMPACTION_KIND_DISCARD) {
        finish(job, discard(job));
        return;
    }
    while (atomic_load_explicit(&job->bytes_done, memory_order_relaxed) < bytes_target ||
           bytes_target >= job->bytes_total) {
        bool finished = false;
        const enum status status = merge_step(job, &finished);
        if (status != STATUS_OK || finished) {
            finish(job, status);
            return;
        }
        job->machine->steps += 1;
        if (job->machine->steps % STEPS_PER_RING == 0) {
            doorbell_ring(job->doorbell);
        }
    }
}

void compaction_job_run(struct job *job)
{
    compaction_job_advance(container_of(job, struct compaction_job, job), UINT64_MAX);
}
