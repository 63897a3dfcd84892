#include "tests/harness/disk_image.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <xxhash.h>

#include "engine/storage/limits.h"
#include "pool/base.h"

static const uint8_t zeros[SECTOR_SIZE];

static void *map_zeros(uint64_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        abort();
    }
    return memory;
}

/* ---- Bytes -------------------------------------------------------------------------------------
 */

void sector_arena_init(struct sector_arena *arena, uint64_t capacity)
{
    *arena = (struct sector_arena){.memory = map_zeros(capacity), .capacity = capacity};
}

void sector_arena_deinit(struct sector_arena *arena)
{
    munmap(arena->memory, arena->capacity);
    *arena = (struct sector_arena){0};
}

void *sector_arena_take(struct sector_arena *arena, uint64_t size)
{
    const uint64_t used = align_up(arena->used, 64);
    if (size > arena->capacity - used) {
        abort();
    }
    arena->used = used + size;
    return arena->memory + used;
}

/* ---- Images ------------------------------------------------------------------------------------
 */

void image_init(struct image *image, uint64_t sector_max)
{
    *image = (struct image){
        .sectors = map_zeros(sector_max * sizeof(struct sector)),
        .sector_max = sector_max,
    };
}

void image_deinit(struct image *image)
{
    munmap(image->sectors, image->sector_max * sizeof(struct sector));
    *image = (struct image){0};
}

void image_copy(struct image *to, const struct image *from)
{
    assert(to->sector_max == from->sector_max);
    const uint64_t count = max_u64(to->sector_count, from->sector_count);
    memcpy(to->sectors, from->sectors, count * sizeof(struct sector));
    to->sector_count = from->sector_count;
    to->sum = from->sum;
}

/* A sector's part in the sum depends on its place. */
static uint64_t placed(uint64_t index, uint64_t hash)
{
    if (hash == 0) {
        return 0;
    }
    uint64_t mixed = (hash ^ (index + 1) * UINT64_C(0x9E3779B97F4A7C15));
    mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94D049BB133111EB);
    return mixed ^ (mixed >> 31);
}

void image_set(struct image *image, uint64_t index, const struct sector *sector)
{
    assert(index < image->sector_max);
    image->sum -= placed(index, image->sectors[index].hash);
    image->sum += placed(index, sector->hash);
    image->sectors[index] = *sector;
    image->sector_count = max_u64(image->sector_count, index + 1);
}

uint64_t image_hash(const struct image *image)
{
    return image->sum + placed(UINT64_MAX - 1, image->sector_count + 1);
}

struct sector sector_make(struct sector_arena *arena, const uint8_t *bytes)
{
    if (memcmp(bytes, zeros, SECTOR_SIZE) == 0) {
        return (struct sector){0};
    }
    uint8_t *copy = sector_arena_take(arena, SECTOR_SIZE);
    memcpy(copy, bytes, SECTOR_SIZE);
    const uint64_t hash = XXH3_64bits(copy, SECTOR_SIZE);
    return (struct sector){.bytes = copy, .hash = hash == 0 ? 1 : hash};
}

static const uint8_t unreadable[1];

struct sector sector_unreadable(void)
{
    return (struct sector){.bytes = unreadable, .hash = UINT64_C(0xBAD5EC7012345678)};
}

bool sector_is_unreadable(const struct sector *sector)
{
    return sector->bytes == unreadable;
}

const uint8_t *sector_bytes(const struct sector *sector)
{
    assert(!sector_is_unreadable(sector));
    return sector->bytes != NULL ? sector->bytes : zeros;
}

/* ---- What happened -----------------------------------------------------------------------------
 */

void trace_init(struct trace *trace, uint64_t sector_max, uint64_t event_max)
{
    *trace = (struct trace){
        .events = map_zeros(event_max * sizeof(struct trace_event)),
        .event_max = event_max,
    };
    image_init(&trace->base, sector_max);
}

void trace_deinit(struct trace *trace)
{
    munmap(trace->events, trace->event_max * sizeof(struct trace_event));
    image_deinit(&trace->base);
    *trace = (struct trace){0};
}

/* Requires the disk's mutex. */
static struct trace_event *trace_add(struct image_io *disk, enum trace_kind kind)
{
    struct trace *trace = disk->trace;
    assert(trace->event_count < trace->event_max);
    struct trace_event *event = &trace->events[trace->event_count];
    trace->event_count += 1;
    *event = (struct trace_event){
        .kind = kind,
        .acknowledged = atomic_load(disk->acknowledged),
        .issued = atomic_load(disk->issued),
    };
    return event;
}

/* ---- An image as a disk ------------------------------------------------------------------------
 */

/* Where this thread has written since its last sync. */
static _Thread_local uint8_t zones_written;

static struct image_io *disk_of(struct io *io)
{
    return container_of(io, struct image_io, io);
}

static void disk_lock(struct image_io *disk)
{
    const int error = pthread_mutex_lock(&disk->mutex);
    assert(error == 0);
    (void)error;
}

static void disk_unlock(struct image_io *disk)
{
    const int error = pthread_mutex_unlock(&disk->mutex);
    assert(error == 0);
    (void)error;
}

static enum status disk_read(struct io *io, uint64_t offset, void *buffer, size_t size)
{
    struct image_io *disk = disk_of(io);
    assert(offset % SECTOR_SIZE == 0 && size % SECTOR_SIZE == 0 && size > 0);
    const uint64_t index = offset / SECTOR_SIZE;
    const uint64_t count = size / SECTOR_SIZE;
    uint8_t *bytes = buffer;

    disk_lock(disk);
    bool readable = index + count <= disk->image.sector_count && !disk->dead;
    for (uint64_t i = 0; readable && i < count; i++) {
        const struct sector *sector = &disk->image.sectors[index + i];
        readable = !sector_is_unreadable(sector);
        if (readable) {
            memcpy(bytes + i * SECTOR_SIZE, sector_bytes(sector), SECTOR_SIZE);
        }
    }
    disk_unlock(disk);
    atomic_fetch_add_explicit(&disk->read_count, 1, memory_order_relaxed);
    return readable ? STATUS_OK : STATUS_IO;
}

/* Takes its time, so that what other threads do meanwhile is between this call and the last. */
static void linger(struct image_io *disk)
{
    static _Atomic uint64_t count;
    if (disk->latency_us_max > 0) {
        const uint64_t number = atomic_fetch_add(&count, 1) * UINT64_C(0x9E3779B97F4A7C15);
        const uint64_t latency_ns = (number >> 32) % (disk->latency_us_max * UINT64_C(1000));
        nanosleep(&(struct timespec){.tv_nsec = (long)latency_ns}, NULL);
    }
}

static enum status disk_write(struct io *io, uint64_t offset, const void *buffer, size_t size)
{
    struct image_io *disk = disk_of(io);
    assert(offset % SECTOR_SIZE == 0 && size % SECTOR_SIZE == 0 && size > 0);
    const uint64_t index = offset / SECTOR_SIZE;
    const uint64_t count = size / SECTOR_SIZE;
    const uint8_t *bytes = buffer;
    const bool journal = index >= disk->journal_first && index < disk->journal_end;

    if (!journal) {
        linger(disk);
    }
    disk_lock(disk);
    enum status status = STATUS_OK;
    if (disk->dead) {
        status = STATUS_IO;
    } else if (index + count > disk->image.sector_max) {
        status = STATUS_NO_SPACE;
    } else {
        struct sector *sectors = sector_arena_take(disk->arena, count * sizeof *sectors);
        for (uint64_t i = 0; i < count; i++) {
            sectors[i] = sector_make(disk->arena, bytes + i * SECTOR_SIZE);
            image_set(&disk->image, index + i, &sectors[i]);
        }
        if (disk->trace != NULL) {
            struct trace_event *event = trace_add(disk, TRACE_WRITE);
            event->zones = journal ? TRACE_ZONE_JOURNAL : TRACE_ZONE_REST;
            event->index = index;
            event->count = (uint32_t)count;
            event->sectors = sectors;
        }
        zones_written = journal ? TRACE_ZONE_JOURNAL : TRACE_ZONE_REST;
    }
    disk_unlock(disk);
    return status;
}

static enum status disk_sync(struct io *io)
{
    struct image_io *disk = disk_of(io);
    if (zones_written == TRACE_ZONE_REST) {
        linger(disk);
    }
    disk_lock(disk);
    const enum status status = disk->dead ? STATUS_IO : STATUS_OK;
    if (status == STATUS_OK && disk->trace != NULL) {
        trace_add(disk, TRACE_SYNC)->zones =
            zones_written == 0 ? (uint8_t)TRACE_ZONE_ALL : zones_written;
    }
    zones_written = 0;
    disk_unlock(disk);
    return status;
}

static enum status disk_size(struct io *io, uint64_t *size)
{
    struct image_io *disk = disk_of(io);
    disk_lock(disk);
    *size = disk->image.sector_count * SECTOR_SIZE;
    const enum status status = disk->dead ? STATUS_IO : STATUS_OK;
    disk_unlock(disk);
    return status;
}

static const struct io_ops disk_ops = {
    .read = disk_read,
    .write = disk_write,
    .sync = disk_sync,
    .size = disk_size,
};

void image_io_init(struct image_io *disk, uint64_t sector_max, struct sector_arena *arena,
                   uint64_t journal_first, uint64_t journal_end)
{
    *disk = (struct image_io){
        .io = {.ops = &disk_ops},
        .mutex = PTHREAD_MUTEX_INITIALIZER,
        .arena = arena,
        .journal_first = journal_first,
        .journal_end = journal_end,
    };
    image_init(&disk->image, sector_max);
}

void image_io_deinit(struct image_io *disk)
{
    image_deinit(&disk->image);
    pthread_mutex_destroy(&disk->mutex);
    *disk = (struct image_io){0};
}

void image_io_kill(struct image_io *disk)
{
    disk_lock(disk);
    disk->dead = true;
    disk_unlock(disk);
}

void image_io_revive(struct image_io *disk)
{
    disk_lock(disk);
    disk->dead = false;
    atomic_store(&disk->io.sync_failed, false);
    disk_unlock(disk);
}

void image_io_load(struct image_io *disk, const struct image *image)
{
    image_copy(&disk->image, image);
    image_io_revive(disk);
}

void image_io_record(struct image_io *disk, struct trace *trace,
                     const _Atomic uint64_t *acknowledged, const _Atomic uint64_t *issued)
{
    assert(disk->trace == NULL);
    trace->event_count = 0;
    image_copy(&trace->base, &disk->image);
    disk->trace = trace;
    disk->acknowledged = acknowledged;
    disk->issued = issued;
}

void image_io_record_end(struct image_io *disk)
{
    disk->trace->acknowledged_after = atomic_load(disk->acknowledged);
    disk->trace->issued_after = atomic_load(disk->issued);
    disk->trace = NULL;
}
