#include "engine/storage/grid.h"

#include <assert.h>

#include "pool/base.h"
#include "pool/memory.h"

static uint64_t usable_count(struct grid *grid)
{
    /* Pairs with the release store in grow_chunk: who sees an address usable sees its zeros. */
    return atomic_load_explicit(&grid->block_count, memory_order_acquire);
}

static uint64_t address_offset(const struct grid *grid, uint64_t address)
{
    assert(address >= 1);
    assert(address <= grid->block_count_max);
    return grid->zone_offset + (address - 1) * grid->block_size;
}

/* Whether blocks [address, address + count) exist. The address may come from a damaged disk. */
static bool range_is_usable(struct grid *grid, uint64_t address, uint32_t count)
{
    const uint64_t block_count = usable_count(grid);
    return address >= 1 && address <= block_count && count <= block_count - (address - 1);
}

static enum status write_zeros(struct io *io, const uint8_t *zeros, uint64_t offset, uint64_t size)
{
    while (size > 0) {
        const uint64_t piece = min_u64(size, IO_SIZE_MAX);
        const enum status status = io_write(io, offset, zeros, piece);
        if (status != STATUS_OK) {
            return status;
        }
        offset += piece;
        size -= piece;
    }
    return STATUS_OK;
}

/* One chunk more. Only the growth job, of which one runs at a time, changes block_count. */
static enum status grow_chunk(struct grid *grid)
{
    const uint64_t block_count = usable_count(grid);
    const uint64_t target = block_count + grid->chunk_block_count;
    assert(target <= grid->block_count_max);

    enum status status = write_zeros(grid->io, grid->zeros, address_offset(grid, block_count + 1),
                                     (target - block_count) * grid->block_size);
    if (status == STATUS_OK) {
        status = io_sync(grid->io);
    }
    if (status == STATUS_OK) {
        atomic_store_explicit(&grid->block_count, target, memory_order_release);
    }
    return status;
}

/* Growth job. Grows chunk by chunk, each usable as soon as it is synced; the target may be raised
 * while it runs. */
static void grow_run(struct job *job)
{
    struct grid *grid = ((struct grid_chunk_job *)job)->grid;
    struct doorbell *doorbell = grid->doorbell; /* The grid may be gone once growing is false. */

    mutex_lock(&grid->grow_mutex);
    assert(atomic_load(&grid->growing));
    assert(grid->grow_queued);
    grid->grow_queued = false;
    enum status status = STATUS_OK;
    while (status == STATUS_OK && usable_count(grid) < grid->grow_target) {
        mutex_unlock(&grid->grow_mutex);
        status = grow_chunk(grid);
        mutex_lock(&grid->grow_mutex);
        atomic_store(&grid->grow_status, status);
        const int error = pthread_cond_broadcast(&grid->grown);
        assert(error == 0);
        doorbell_ring(doorbell);
    }
    grid->grow_target = usable_count(grid);
    atomic_store(&grid->growing, false);
    const int error = pthread_cond_broadcast(&grid->grown);
    assert(error == 0);
    mutex_unlock(&grid->grow_mutex);
    doorbell_ring(doorbell);
}

/* Requires grow_mutex. Raises the target so that `block_count` blocks are within it, and starts the
 * job unless it runs. */
static void grow_request(struct grid *grid, uint64_t block_count)
{
    assert(block_count <= grid->block_count_max);
    const uint64_t target = align_up(block_count, grid->chunk_block_count);
    grid->grow_target = max_u64(grid->grow_target, target);
    if (!atomic_load(&grid->growing)) {
        atomic_store(&grid->growing, true);
        grid->grow_queued = true;
        workers_submit(grid->workers, &grid->grow_job.job);
    }
}

/* Requires grow_mutex and growth in progress. Returns after some progress, maybe none. */
static void grow_wait_step(struct grid *grid)
{
    assert(atomic_load(&grid->growing));
    if (grid->workers->thread_count == 0 && grid->grow_queued) {
        mutex_unlock(&grid->grow_mutex);
        (void)workers_run_one(grid->workers); /* False: another waiter was faster. */
        mutex_lock(&grid->grow_mutex);
    } else {
        mutex_wait(&grid->grow_mutex, &grid->grown);
    }
}

enum status grid_init(struct grid *grid, struct io *io, const struct geometry *geometry,
                      uint32_t cache_block_count, struct workers *workers,
                      struct doorbell *doorbell)
{
    assert(workers != NULL);
    assert(doorbell != NULL);
    assert(geometry->block_count_max % geometry->chunk_block_count == 0);

    *grid = (struct grid){
        .io = io,
        .doorbell = doorbell,
        .workers = workers,
        .zone_offset = grid_zone_offset(geometry),
        .block_size = geometry->block_size,
        .chunk_block_count = geometry->chunk_block_count,
        .block_count_max = geometry->block_count_max,
        .grow_mutex = MUTEX_INITIALIZER(LOCK_RANK_GRID),
        .grown = PTHREAD_COND_INITIALIZER,
        .grow_job = {.job = {.run = grow_run}, .grid = grid},
    };

    uint64_t size;
    enum status status = io_size(io, &size);
    if (status != STATUS_OK) {
        goto deinit_mutex;
    }
    const uint64_t chunk_size = (uint64_t)grid->chunk_block_count * grid->block_size;
    const uint64_t chunk_count =
        size > grid->zone_offset ? (size - grid->zone_offset) / chunk_size : 0;
    grid->block_count = min_u64(chunk_count * grid->chunk_block_count, grid->block_count_max);

    grid->zeros = memory_acquire(IO_SIZE_MAX);
    if (grid->zeros == NULL) {
        status = STATUS_NO_MEMORY;
        goto deinit_mutex;
    }
    status = block_cache_init(&grid->cache, cache_block_count, grid->block_size);
    if (status != STATUS_OK) {
        goto release_zeros;
    }
    return STATUS_OK;

release_zeros:
    memory_release(grid->zeros, IO_SIZE_MAX);
deinit_mutex:
    (void)pthread_cond_destroy(&grid->grown);
    mutex_deinit(&grid->grow_mutex);
    *grid = (struct grid){0};
    return status;
}

void grid_deinit(struct grid *grid)
{
    mutex_lock(&grid->grow_mutex);
    while (atomic_load(&grid->growing)) {
        grow_wait_step(grid);
    }
    mutex_unlock(&grid->grow_mutex);

    block_cache_deinit(&grid->cache);
    memory_release(grid->zeros, IO_SIZE_MAX);
    const int error = pthread_cond_destroy(&grid->grown);
    assert(error == 0);
    mutex_deinit(&grid->grow_mutex);
    *grid = (struct grid){0};
}

enum status grid_format(struct io *io, const struct geometry *geometry)
{
    uint8_t *zeros = memory_acquire(IO_SIZE_MAX);
    if (zeros == NULL) {
        return STATUS_NO_MEMORY;
    }
    enum status status = write_zeros(io, zeros, grid_zone_offset(geometry),
                                     (uint64_t)geometry->chunk_block_count * geometry->block_size);
    memory_release(zeros, IO_SIZE_MAX);
    if (status == STATUS_OK) {
        status = io_sync(io);
    }
    return status;
}

void grid_grow_ahead(struct grid *grid, uint64_t address_max, uint64_t ahead)
{
    assert(address_max <= grid->block_count_max);

    const uint64_t wanted = address_max + min_u64(ahead, grid->block_count_max - address_max);
    if (wanted <= usable_count(grid) || grid_sync_failed(grid)) {
        return;
    }
    mutex_lock(&grid->grow_mutex);
    if (wanted > usable_count(grid)) {
        grow_request(grid, wanted);
    }
    mutex_unlock(&grid->grow_mutex);
}

enum status grid_wait_usable(struct grid *grid, uint64_t address)
{
    assert(address >= 1);
    assert(address <= grid->block_count_max);
    if (address <= usable_count(grid)) {
        return STATUS_OK;
    }

    enum status status = STATUS_OK;
    mutex_lock(&grid->grow_mutex);
    while (address > usable_count(grid)) {
        if (!atomic_load(&grid->growing)) {
            /* The last try failed, before us or for us: trying again is the forest's decision. */
            status = atomic_load(&grid->grow_status);
            if (status == STATUS_OK && grid_sync_failed(grid)) {
                status = STATUS_IO;
            }
            if (status != STATUS_OK) {
                break;
            }
        }
        grow_request(grid, address);
        grow_wait_step(grid);
    }
    mutex_unlock(&grid->grow_mutex);
    return status;
}

enum status grid_read_blocks(struct grid *grid, uint64_t address, uint32_t count, uint8_t *buffer)
{
    assert(count > 0);
    if (!range_is_usable(grid, address, count)) {
        return STATUS_CORRUPT;
    }
    uint64_t offset = address_offset(grid, address);
    uint64_t size = (uint64_t)count * grid->block_size;
    while (size > 0) {
        const uint64_t piece = min_u64(size, IO_SIZE_MAX);
        const enum status status = io_read(grid->io, offset, buffer, piece);
        if (status != STATUS_OK) {
            return status;
        }
        offset += piece;
        buffer += piece;
        size -= piece;
    }
    atomic_fetch_add_explicit(&grid->blocks_read, count, memory_order_relaxed);
    return STATUS_OK;
}

/* A block is written where it says it belongs, or the parent will never find it. */
static void assert_sealed(const struct grid *grid, uint64_t address, const uint8_t *block)
{
    assert(block_header_const(block)->address == address);
    if (VERIFY) {
        const struct checksum checksum =
            checksum_of(block + CHECKSUM_SIZE, grid->block_size - CHECKSUM_SIZE);
        assert(checksum_equal(&checksum, &block_header_const(block)->checksum));
    }
}

enum status grid_write_blocks(struct grid *grid, uint64_t address, uint32_t count,
                              const uint8_t *buffer)
{
    assert(count > 0);
    for (uint32_t i = 0; i < count; i++) {
        assert_sealed(grid, address + i, buffer + (size_t)i * grid->block_size);
    }
    enum status status = grid_wait_usable(grid, address + count - 1);
    if (status != STATUS_OK) {
        return status;
    }
    uint64_t offset = address_offset(grid, address);
    uint64_t size = (uint64_t)count * grid->block_size;
    while (size > 0) {
        const uint64_t piece = min_u64(size, IO_SIZE_MAX);
        status = io_write(grid->io, offset, buffer, piece);
        if (status != STATUS_OK) {
            return status;
        }
        offset += piece;
        buffer += piece;
        size -= piece;
    }
    atomic_fetch_add_explicit(&grid->blocks_written, count, memory_order_relaxed);
    return STATUS_OK;
}

enum status grid_sync(struct grid *grid)
{
    return io_sync(grid->io);
}

bool grid_sync_failed(struct grid *grid)
{
    return io_sync_failed(grid->io);
}

enum status grid_read_block(struct grid *grid, const struct block_reference *reference,
                            enum block_type type, uint8_t *buffer)
{
    enum status status = STATUS_OK;
    for (int attempt = 0; attempt < 2; attempt++) { /* A second look, before damage is declared. */
        status = grid_read_blocks(grid, reference->address, 1, buffer);
        if (status == STATUS_OK) {
            status = block_verify(buffer, grid->block_size, reference, type);
        }
        if (status == STATUS_OK) {
            break;
        }
    }
    return status;
}

/* The parent may be wrong about its child. */
static enum status check_type(struct grid *grid, enum block_type type, struct block_pin *pin)
{
    if (block_header_const(pin->data)->type == type) {
        return STATUS_OK;
    }
    block_cache_put(&grid->cache, pin);
    return STATUS_CORRUPT;
}

bool grid_find_block(struct grid *grid, const struct block_reference *reference,
                     enum block_type type, struct block_pin *pin, enum status *status)
{
    *pin = (struct block_pin){0};
    if (!range_is_usable(grid, reference->address, 1) ||
        !block_cache_find(&grid->cache, reference, pin)) {
        return false;
    }
    *status = check_type(grid, type, pin);
    return true;
}

enum status grid_get_block(struct grid *grid, const struct block_reference *reference,
                           enum block_type type, uint8_t *spare, struct block_pin *pin)
{
    assert(spare != NULL);
    *pin = (struct block_pin){0};
    if (!range_is_usable(grid, reference->address, 1)) {
        return STATUS_CORRUPT;
    }

    enum status status = STATUS_OK;
    uint8_t *buffer = NULL;
    switch (block_cache_get(&grid->cache, reference, pin, &buffer)) {
    case BLOCK_CACHE_HIT:
        status = check_type(grid, type, pin);
        break;
    case BLOCK_CACHE_MISS:
        status = grid_read_block(grid, reference, type, buffer);
        if (status == STATUS_OK) {
            block_cache_filled(&grid->cache, pin);
        } else {
            block_cache_abandon(&grid->cache, pin);
        }
        break;
    case BLOCK_CACHE_FULL:
        status = grid_read_block(grid, reference, type, spare);
        if (status == STATUS_OK) {
            *pin = (struct block_pin){.data = spare};
        }
        break;
    }
    assert((status == STATUS_OK) == (pin->data != NULL));
    return status;
}

void grid_put_block(struct grid *grid, struct block_pin *pin)
{
    assert(pin->data != NULL);
    if (pin->slot != NULL) {
        block_cache_put(&grid->cache, pin);
    }
    *pin = (struct block_pin){0};
}
