#include "tests/harness/sim_io.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/storage/limits.h"
#include "pool/base.h"
#include "tests/harness/prng.h"

enum { LOST = 2 }; /* in unsynced[] */

static void sim_lock(struct sim_io *sim)
{
    const int error = pthread_mutex_lock(&sim->mutex);
    assert(error == 0);
    (void)error;
}

static void sim_unlock(struct sim_io *sim)
{
    assert(sim->size <= sim->size_limit);
    assert(sim->size_durable <= sim->size);
    assert(sim->size % SECTOR_SIZE == 0);
    const int error = pthread_mutex_unlock(&sim->mutex);
    assert(error == 0);
    (void)error;
}

static struct sim_io *sim_of(struct io *io)
{
    return container_of(io, struct sim_io, io);
}

static void assert_aligned(uint64_t offset, const void *buffer, size_t size)
{
    assert(offset % SECTOR_SIZE == 0);
    assert((uintptr_t)buffer % SECTOR_SIZE == 0);
    assert(size % SECTOR_SIZE == 0);
    assert(size > 0);
    (void)offset;
    (void)buffer;
    (void)size;
}

/* Whether the calling thread's name begins so. */
static bool thread_is(const char *name)
{
    char own[16] = "";
    (void)pthread_getname_np(pthread_self(), own, sizeof own);
    return strncmp(own, name, strlen(name)) == 0;
}

static bool countdown_fires(uint64_t *countdown)
{
    if (*countdown == 0) {
        return false;
    }
    *countdown -= 1;
    return *countdown == 0;
}

/* Counts one operation towards `fault`; true when this is the one that it hits. */
static bool fault_fires(struct sim_io_fault *fault)
{
    return countdown_fires(&fault->countdown);
}

/* Copies into what reads see and remembers the touched sectors. A torn write's keep_size need not
 * be whole sectors: the rest of its last sector keeps what it had. */
static void write_unsynced(struct sim_io *sim, uint64_t offset, const void *buffer, uint64_t size)
{
    if (size == 0) {
        return;
    }
    memcpy(sim->bytes + offset, buffer, size);
    const uint64_t sector_end = div_ceil(offset + size, SECTOR_SIZE);
    for (uint64_t sector = offset / SECTOR_SIZE; sector < sector_end; sector++) {
        if (!sim->unsynced[sector]) {
            sim->unsynced_list[sim->unsynced_count] = sector;
            sim->unsynced_count += 1;
        }
        sim->unsynced[sector] = 1;
    }
    sim->size = max_u64(sim->size, sector_end * SECTOR_SIZE);
}

static enum status sim_read(struct io *io, uint64_t offset, void *buffer, size_t size)
{
    struct sim_io *sim = sim_of(io);
    assert_aligned(offset, buffer, size);

    sim_lock(sim);
    enum status status = STATUS_OK;
    sim->read_count += 1;
    if (sim->hold_countdown > 0 && thread_is(sim->hold_thread) &&
        countdown_fires(&sim->hold_countdown)) {
        const uint64_t number = ++sim->held;
        while (sim->let_go < number) {
            pthread_cond_wait(&sim->changed, &sim->mutex);
        }
    }
    const bool spoiled = countdown_fires(&sim->spoil_countdown);
    if (sim->power_lost) {
        status = STATUS_IO;
    } else if (fault_fires(&sim->read_fault) || sim->reads_fail) {
        sim->reads_fail = sim->reads_fail_after;
        status = sim->read_fault.status;
    } else if (offset > sim->size || size > sim->size - offset) {
        status = STATUS_IO;
    } else {
        memcpy(buffer, sim->bytes + offset, size);
    }
    for (size_t i = 0; spoiled && i < size; i += SECTOR_SIZE) {
        ((uint8_t *)buffer)[i + SECTOR_SIZE / 2] ^= 1;
    }
    sim_unlock(sim);
    return status;
}

static enum status sim_write(struct io *io, uint64_t offset, const void *buffer, size_t size)
{
    struct sim_io *sim = sim_of(io);
    assert_aligned(offset, buffer, size);

    sim_lock(sim);
    enum status status = STATUS_OK;
    sim->write_count += 1;
    const bool power_fires = fault_fires(&sim->power_fault);
    if (sim->power_lost) {
        status = STATUS_IO;
    } else if (offset > sim->size_limit || size > sim->size_limit - offset) {
        status = STATUS_NO_SPACE;
    } else if (fault_fires(&sim->write_fault)) {
        write_unsynced(sim, offset, buffer, min_u64(sim->write_fault.keep_size, size));
        status = sim->write_fault.status;
    } else {
        write_unsynced(sim, offset, buffer, size);
    }
    if (power_fires) {
        sim->power_lost = true;
        status = STATUS_IO;
    }
    sim_unlock(sim);
    return status;
}

static void sync_locked(struct sim_io *sim)
{
    uint64_t lost_count = 0;
    for (uint64_t i = 0; i < sim->unsynced_count; i++) {
        const uint64_t sector = sim->unsynced_list[i];
        if (sim->unsynced[sector] == LOST) {
            sim->unsynced_list[lost_count] = sector;
            lost_count += 1;
            continue;
        }
        memcpy(sim->durable + sector * SECTOR_SIZE, sim->bytes + sector * SECTOR_SIZE, SECTOR_SIZE);
        sim->unsynced[sector] = 0;
    }
    sim->unsynced_count = lost_count;
    sim->size_durable = sim->size;
}

static void lose_locked(struct sim_io *sim)
{
    for (uint64_t i = 0; i < sim->unsynced_count; i++) {
        sim->unsynced[sim->unsynced_list[i]] = LOST;
    }
    sim->errors += 1;
}

static enum status sync_as(struct sim_io *sim, uint64_t *errors_told)
{
    sim_lock(sim);
    enum status status = STATUS_OK;
    sim->sync_count += 1;
    if (fault_fires(&sim->power_fault)) {
        sim->power_lost = true;
    }
    if (sim->power_lost) {
        status = STATUS_IO;
    } else if (fault_fires(&sim->sync_fault)) {
        status = sim->sync_fault.status;
    } else {
        if (fault_fires(&sim->lose_fault)) {
            lose_locked(sim);
        }
        sync_locked(sim);
        status = *errors_told < sim->errors ? STATUS_IO : STATUS_OK;
        *errors_told = sim->errors;
    }
    sim_unlock(sim);
    return status;
}

static enum status sim_sync(struct io *io)
{
    return sync_as(sim_of(io), &sim_of(io)->errors_told);
}

static enum status sim_size(struct io *io, uint64_t *size)
{
    struct sim_io *sim = sim_of(io);

    sim_lock(sim);
    const enum status status = sim->power_lost ? STATUS_IO : STATUS_OK;
    *size = sim->size;
    sim_unlock(sim);
    return status;
}

static const struct io_ops sim_ops = {
    .read = sim_read,
    .write = sim_write,
    .sync = sim_sync,
    .size = sim_size,
};

static struct sim_io_opening *opening_of(struct io *io)
{
    return container_of(io, struct sim_io_opening, io);
}

static enum status again_read(struct io *io, uint64_t offset, void *buffer, size_t size)
{
    return sim_read(&opening_of(io)->sim->io, offset, buffer, size);
}

static enum status again_write(struct io *io, uint64_t offset, const void *buffer, size_t size)
{
    return sim_write(&opening_of(io)->sim->io, offset, buffer, size);
}

static enum status again_sync(struct io *io)
{
    return sync_as(opening_of(io)->sim, &opening_of(io)->errors_told);
}

static enum status again_size(struct io *io, uint64_t *size)
{
    return sim_size(&opening_of(io)->sim->io, size);
}

static const struct io_ops again_ops = {
    .read = again_read,
    .write = again_write,
    .sync = again_sync,
    .size = again_size,
};

void sim_io_open_again(struct sim_io *sim, struct sim_io_opening *opening)
{
    sim_lock(sim);
    *opening = (struct sim_io_opening){
        .io = {.ops = &again_ops, .first = &sim->io},
        .sim = sim,
        .errors_told = sim->errors,
    };
    sim_unlock(sim);
}

static void *map_zeros(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        abort();
    }
    return memory;
}

void sim_io_init(struct sim_io *sim, uint64_t size_limit)
{
    assert(size_limit > 0);
    assert(size_limit % SECTOR_SIZE == 0);

    const uint64_t sector_count = size_limit / SECTOR_SIZE;
    *sim = (struct sim_io){
        .io = {.ops = &sim_ops},
        .mutex = PTHREAD_MUTEX_INITIALIZER,
        .changed = PTHREAD_COND_INITIALIZER,
        .bytes = map_zeros(size_limit),
        .durable = map_zeros(size_limit),
        .size_limit = size_limit,
        .capacity = size_limit,
        .unsynced = map_zeros(sector_count),
        .unsynced_list = map_zeros(sector_count * sizeof(uint64_t)),
    };
}

void sim_io_deinit(struct sim_io *sim)
{
    const uint64_t sector_count = sim->capacity / SECTOR_SIZE;
    munmap(sim->bytes, sim->capacity);
    munmap(sim->durable, sim->capacity);
    munmap(sim->unsynced, sector_count);
    munmap(sim->unsynced_list, sector_count * sizeof(uint64_t));
    pthread_mutex_destroy(&sim->mutex);
    pthread_cond_destroy(&sim->changed);
    *sim = (struct sim_io){0};
}

static void fault_arm(struct sim_io *sim, struct sim_io_fault *fault, uint64_t n,
                      uint64_t keep_size, enum status status)
{
    sim_lock(sim);
    *fault = (struct sim_io_fault){.countdown = n, .keep_size = keep_size, .status = status};
    sim_unlock(sim);
}

void sim_io_limit(struct sim_io *sim, uint64_t size_limit)
{
    assert(size_limit <= sim->capacity);

    sim_lock(sim);
    assert(size_limit >= sim->size);
    sim->size_limit = size_limit;
    sim_unlock(sim);
}

void sim_io_fail_read(struct sim_io *sim, uint64_t n, enum status status)
{
    fault_arm(sim, &sim->read_fault, n, 0, status);
    sim_lock(sim);
    sim->reads_fail = false;
    sim->reads_fail_after = false;
    sim_unlock(sim);
}

void sim_io_fail_reads(struct sim_io *sim, uint64_t n, enum status status)
{
    sim_io_fail_read(sim, n, status);
    sim_lock(sim);
    sim->reads_fail_after = n > 0;
    sim_unlock(sim);
}

void sim_io_fail_write(struct sim_io *sim, uint64_t n, enum status status)
{
    fault_arm(sim, &sim->write_fault, n, 0, status);
}

void sim_io_fail_sync(struct sim_io *sim, uint64_t n, enum status status)
{
    fault_arm(sim, &sim->sync_fault, n, 0, status);
}

void sim_io_lose_at_sync(struct sim_io *sim, uint64_t n)
{
    fault_arm(sim, &sim->lose_fault, n, 0, STATUS_IO);
}

void sim_io_tear_write(struct sim_io *sim, uint64_t n, uint64_t keep_size, enum status status)
{
    fault_arm(sim, &sim->write_fault, n, keep_size, status);
}

void sim_io_lose_power(struct sim_io *sim, uint64_t n)
{
    fault_arm(sim, &sim->power_fault, n, 0, STATUS_IO);
}

void sim_io_spoil_read(struct sim_io *sim, uint64_t n)
{
    sim_lock(sim);
    sim->spoil_countdown = n;
    sim_unlock(sim);
}

void sim_io_hold_read(struct sim_io *sim, uint64_t n, const char *thread)
{
    sim_lock(sim);
    sim->hold_thread = thread;
    sim->hold_countdown = n;
    sim_unlock(sim);
}

bool sim_io_holds(struct sim_io *sim)
{
    sim_lock(sim);
    const bool holds = sim->held > sim->let_go;
    sim_unlock(sim);
    return holds;
}

void sim_io_let_go(struct sim_io *sim)
{
    sim_lock(sim);
    sim->let_go = sim->held;
    pthread_cond_broadcast(&sim->changed);
    sim_unlock(sim);
}

bool sim_io_armed(struct sim_io *sim)
{
    sim_lock(sim);
    const bool armed = sim->spoil_countdown > 0 || sim->read_fault.countdown > 0 ||
                       sim->write_fault.countdown > 0 || sim->sync_fault.countdown > 0 ||
                       sim->lose_fault.countdown > 0 || sim->power_fault.countdown > 0;
    sim_unlock(sim);
    return armed;
}

static void revert(struct sim_io *sim, uint64_t offset, uint64_t size)
{
    memcpy(sim->bytes + offset, sim->durable + offset, size);
}

/* What is in `bytes` now becomes the disk after the crash. */
static void crash_complete(struct sim_io *sim)
{
    for (uint64_t i = 0; i < sim->unsynced_count; i++) {
        const uint64_t sector = sim->unsynced_list[i];
        if (sim->unsynced[sector] == LOST) {
            revert(sim, sector * SECTOR_SIZE, SECTOR_SIZE);
            sim->unsynced[sector] = 1;
        }
    }
    sim->io.sync_failed = false;
    sync_locked(sim);
    sim->spoil_countdown = 0;
    sim->reads_fail = false;
    sim->reads_fail_after = false;
    sim->lose_fault = (struct sim_io_fault){0};
    sim->read_fault = (struct sim_io_fault){0};
    sim->write_fault = (struct sim_io_fault){0};
    sim->sync_fault = (struct sim_io_fault){0};
    sim->power_fault = (struct sim_io_fault){0};
    sim->power_lost = false;
}

/* Back to the size of the last sync. What was beyond was never durable, so it is zeros there. */
static void revert_growth(struct sim_io *sim)
{
    for (uint64_t i = 0; i < sim->unsynced_count; i++) {
        const uint64_t offset = sim->unsynced_list[i] * SECTOR_SIZE;
        if (offset >= sim->size_durable) {
            revert(sim, offset, SECTOR_SIZE);
        }
    }
    sim->size = sim->size_durable;
}

void sim_io_crash(struct sim_io *sim, uint64_t seed)
{
    struct prng prng;
    prng_init(&prng, seed);

    sim_lock(sim);
    for (uint64_t i = 0; i < sim->unsynced_count; i++) {
        const uint64_t offset = sim->unsynced_list[i] * SECTOR_SIZE;
        const uint64_t fate = prng_below(&prng, 5); /* 0, 1: lost; 2, 3: kept; 4: torn */
        for (uint64_t part = 0; part < SECTOR_SIZE; part += SIM_IO_TEAR_SIZE) {
            if (fate < 2 || (fate == 4 && prng_chance(&prng, 1, 2))) {
                revert(sim, offset + part, SIM_IO_TEAR_SIZE);
            }
        }
    }
    if (prng_chance(&prng, 1, 2)) {
        revert_growth(sim);
    }
    crash_complete(sim);
    sim_unlock(sim);
}

void sim_io_crash_lose_all(struct sim_io *sim)
{
    sim_lock(sim);
    for (uint64_t i = 0; i < sim->unsynced_count; i++) {
        revert(sim, sim->unsynced_list[i] * SECTOR_SIZE, SECTOR_SIZE);
    }
    sim->size = sim->size_durable;
    crash_complete(sim);
    sim_unlock(sim);
}

void sim_io_crash_keep_all(struct sim_io *sim)
{
    sim_lock(sim);
    crash_complete(sim);
    sim_unlock(sim);
}

void sim_io_reopen(struct sim_io *sim)
{
    sim_lock(sim);
    sim->io.sync_failed = false;
    sim_unlock(sim);
}

void sim_io_flip(struct sim_io *sim, uint64_t offset, uint8_t mask)
{
    sim_lock(sim);
    assert(offset < sim->size);
    sim->bytes[offset] ^= mask;
    sim->durable[offset] ^= mask;
    sim_unlock(sim);
}

void sim_io_save(struct sim_io *sim, uint8_t *bytes)
{
    sim_lock(sim);
    memcpy(bytes, sim->bytes, sim->size);
    sim_unlock(sim);
}

void sim_io_load(struct sim_io *sim, const uint8_t *bytes, uint64_t size)
{
    assert(size <= sim->size_limit);
    assert(size % SECTOR_SIZE == 0);

    sim_lock(sim);
    sync_locked(sim);
    if (size < sim->size) {
        memset(sim->bytes + size, 0, sim->size - size);
        memset(sim->durable + size, 0, sim->size - size);
    }
    memcpy(sim->bytes, bytes, size);
    memcpy(sim->durable, bytes, size);
    sim->size = size;
    sim->size_durable = size;
    sim_unlock(sim);
}
