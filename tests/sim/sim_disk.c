#include "tests/sim/sim_disk.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/storage/io_posix.h"
#include "engine/storage/limits.h"
#include "pool/base.h"
#include "server/data_file.h"
#include "tests/sim/sim.h"
#include "tests/sim/sim_threads.h"

enum {
    IN_FLIGHT_MAX = 48,
    FLIP_STEPS = 400, /* between two reads that are falsified: a second look sees the truth */
    AT_SUPERBLOCK_STEPS = 60,
    DAMAGE_SOME = 6, /* no new damage while there is so much */
};

static const uint64_t sector_none = UINT64_MAX;

/* Writes whose time is not over. The child's own: a cut of the power is made there. */
struct in_flight {
    uint64_t offset;
    const uint8_t *buffer; /* NULL: free */
    uint64_t size;
};
static struct in_flight in_flight[IN_FLIGHT_MAX];

static uint8_t *map_shared(uint64_t size)
{
    void *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        abort();
    }
    return memory;
}

static uint64_t sector_count(void)
{
    return sim_disk_capacity / SECTOR_SIZE;
}

void sim_disk_map(struct sim_disk *disk)
{
    *disk = (struct sim_disk){
        .bytes = map_shared(sim_disk_capacity),
        .durable = map_shared(sim_disk_capacity),
        .dirty_seen = (uint64_t *)(void *)map_shared(sector_count() * 8),
        .dirty = (uint64_t *)(void *)map_shared(sector_count() * 8),
        .damage_bytes = map_shared((uint64_t)SIM_DAMAGE_MAX * 2 * SECTOR_SIZE),
    };
}

void sim_disk_reset(struct sim_disk *disk)
{
    madvise(disk->bytes, sim_disk_capacity, MADV_REMOVE);
    madvise(disk->durable, sim_disk_capacity, MADV_REMOVE);
    madvise(disk->dirty_seen, sector_count() * 8, MADV_REMOVE);
    *disk = (struct sim_disk){
        .bytes = disk->bytes,
        .durable = disk->durable,
        .dirty_seen = disk->dirty_seen,
        .dirty = disk->dirty,
        .damage_bytes = disk->damage_bytes,
        .size_limit = sim_disk_capacity,
        .journal_begin = journal_zone_offset(&sim->swarm.geometry),
        .journal_end = journal_zone_offset(&sim->swarm.geometry) + sim->swarm.geometry.journal_size,
    };
}

/* ---- Sectors -----------------------------------------------------------------------------------
 */

static const uint8_t *sector_at(const struct sim_disk *disk, uint64_t sector)
{
    return disk->bytes + sector * SECTOR_SIZE;
}

static bool in_grid(const struct sim_disk *disk, uint64_t offset)
{
    return offset >= disk->journal_end;
}

static void persist_sector(struct sim_disk *disk, uint64_t sector)
{
    memcpy(disk->durable + sector * SECTOR_SIZE, disk->bytes + sector * SECTOR_SIZE, SECTOR_SIZE);
    disk->size_durable = max_u64(disk->size_durable, (sector + 1) * SECTOR_SIZE);
}

static void dirty_remove(struct sim_disk *disk, uint64_t index)
{
    disk->dirty_seen[disk->dirty[index]] = 0;
    disk->dirty_count -= 1;
    disk->dirty[index] = disk->dirty[disk->dirty_count];
}

/* Sectors of these were written, and now rightly hold what was wrong there before, zeros mostly. */
static void damage_forget(struct sim_disk *disk, uint64_t sector_begin, uint64_t sector_end)
{
    for (uint32_t i = 0; i < disk->damage_count; i++) {
        struct sim_damage *damage = &disk->damages[i];
        if (damage->sector >= sector_begin && damage->sector < sector_end &&
            memcmp(sector_at(disk, damage->sector), damage->bad, SECTOR_SIZE) == 0) {
            damage->sector = sector_none;
        }
    }
}

/* `size` bytes, of which the last sector may be a part, land. */
static void land(struct sim_disk *disk, uint64_t offset, const uint8_t *buffer, uint64_t size)
{
    if (size == 0) {
        return;
    }
    disk->write_number += 1;
    const uint64_t sector_end = div_ceil(offset + size, SECTOR_SIZE);
    for (uint64_t sector = offset / SECTOR_SIZE; sector < sector_end; sector++) {
        if (disk->dirty_seen[sector] == 0) {
            disk->dirty[disk->dirty_count] = sector;
            disk->dirty_count += 1;
        } else if (disk->syncs_in_flight > 0 || sim_odds(1, 2)) {
            /* What landed before this may be durable by now; a sync that has been called for it
             * will say so. */
            persist_sector(disk, sector);
        }
        disk->dirty_seen[sector] = disk->write_number;
    }
    memcpy(disk->bytes + offset, buffer, size);
    disk->size = max_u64(disk->size, sector_end * SECTOR_SIZE);
    damage_forget(disk, offset / SECTOR_SIZE, sector_end);
}

/* ---- Damage ------------------------------------------------------------------------------------
 */

static void damage_note(struct sim_disk *disk, uint64_t sector, const uint8_t *good,
                        const uint8_t *bad)
{
    if (memcmp(good, bad, SECTOR_SIZE) == 0) {
        return;
    }
    assert(disk->damage_count < SIM_DAMAGE_MAX);
    uint8_t *bytes = disk->damage_bytes + (size_t)disk->damage_count * 2 * SECTOR_SIZE;
    memcpy(bytes, good, SECTOR_SIZE);
    memcpy(bytes + SECTOR_SIZE, bad, SECTOR_SIZE);
    disk->damages[disk->damage_count] =
        (struct sim_damage){.sector = sector, .good = bytes, .bad = bytes + SECTOR_SIZE};
    disk->damage_count += 1;
    sim->life.faulted = true;
}

bool sim_disk_is_damaged(const struct sim_disk *disk)
{
    for (uint32_t i = 0; i < disk->damage_count; i++) {
        const struct sim_damage *damage = &disk->damages[i];
        if (damage->sector != sector_none &&
            memcmp(sector_at(disk, damage->sector), damage->bad, SECTOR_SIZE) == 0) {
            return true;
        }
    }
    return false;
}

uint32_t sim_disk_heal(struct sim_disk *disk)
{
    uint32_t healed = 0;
    while (disk->damage_count > 0) {
        disk->damage_count -= 1;
        const struct sim_damage *damage = &disk->damages[disk->damage_count];
        if (damage->sector == sector_none) {
            continue;
        }
        uint8_t *bytes = disk->bytes + damage->sector * SECTOR_SIZE;
        if (memcmp(bytes, damage->bad, SECTOR_SIZE) == 0) {
            memcpy(bytes, damage->good, SECTOR_SIZE);
            memcpy(disk->durable + damage->sector * SECTOR_SIZE, damage->good, SECTOR_SIZE);
            healed += 1;
        }
    }
    return healed;
}

/* Whether `count` more damaged sectors are wanted. */
static bool damage_is_welcome(const struct sim_disk *disk, uint64_t count)
{
    return sim->life.faults && disk->damage_count < DAMAGE_SOME &&
           disk->damage_count + count <= SIM_DAMAGE_MAX;
}

static bool is_recent_in_journal(const struct sim_disk *disk, uint64_t offset)
{
    for (uint32_t i = 0; i < SIM_JOURNAL_RECENT; i++) {
        const uint64_t begin = disk->journal_recent[i].offset;
        if (offset >= begin && offset < begin + disk->journal_recent[i].size) {
            return true;
        }
    }
    return false;
}

static bool sector_is_zero(const uint8_t *bytes)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, SECTOR_SIZE - 1) == 0;
}

void sim_disk_rot(struct sim_disk *disk)
{
    uint64_t sector = sim_below(disk->size / SECTOR_SIZE);
    const uint64_t zone = sim_below(8);
    if (zone == 0) {
        sector = sim_below(disk->journal_begin / SECTOR_SIZE);
    } else if (zone == 1) {
        sector = (disk->journal_begin + sim_below(disk->journal_end - disk->journal_begin)) /
                 SECTOR_SIZE;
    }
    const uint64_t offset = sector * SECTOR_SIZE;
    if (!damage_is_welcome(disk, 1) || disk->dirty_seen[sector] != 0 ||
        sector_is_zero(sector_at(disk, sector)) || is_recent_in_journal(disk, offset)) {
        return;
    }
    uint8_t good[SECTOR_SIZE];
    uint8_t *bytes = disk->bytes + offset;
    memcpy(good, bytes, SECTOR_SIZE);
    const uint64_t at = sim_below(SECTOR_SIZE);
    if (sim_odds(3, 4)) {
        bytes[at] ^= (uint8_t)(1u << sim_below(8));
    } else {
        memset(bytes + at, sim_odds(1, 2) ? 0 : 0xff, SECTOR_SIZE - at);
    }
    memcpy(disk->durable + offset, bytes, SECTOR_SIZE);
    damage_note(disk, sector, good, bytes);
    sim_count(SIM_ROT);
    sim_trace("rot", offset, at, disk->damage_count);
}

/* ---- Time ----
 */

/* The journal has an opening of its own, so its calls can be told from others. */
static uint64_t latency(const struct io *io, uint64_t mean)
{
    const bool journal = io->first != NULL;
    return sim_duration(mean) * (journal ? sim->life.journal_slowness : sim->life.grid_slowness);
}

/* A life may have to end while a checkpoint is under way. */
static void end_soon(const struct sim_disk *disk, uint64_t offset)
{
    struct sim_life *life = &sim->life;
    if (life->end_at_superblock && offset < disk->journal_begin &&
        2 * sim->step >= life->step_begin + life->end_step) {
        life->end_at_superblock = false;
        life->end_step = min_u64(life->end_step, sim->step + 1 + sim_below(AT_SUPERBLOCK_STEPS));
    }
}

/* ---- Calls -------------------------------------------------------------------------------------
 */

static enum status disk_read(struct io *io, uint64_t offset, void *buffer, size_t size)
{
    struct sim_disk *disk = &sim->disk;
    assert(offset % SECTOR_SIZE == 0 && size % SECTOR_SIZE == 0 && size > 0);
    assert((uintptr_t)buffer % SECTOR_SIZE == 0);
    if (sim_on_fiber()) {
        sim_trace("read", offset, size, 0);
        sim_sleep(latency(io, sim->swarm.read_ns));
    }
    if (offset > disk->size || size > disk->size - offset) {
        return STATUS_IO;
    }
    if (sim_on_fiber() && sim->life.faults && sim_chance(sim->swarm.read_error_chance)) {
        sim_count(SIM_READ_ERRORS);
        sim->life.faulted = true;
        sim_trace("read fails", offset, size, 0);
        memset(buffer, 0xee, size);
        return STATUS_IO;
    }
    memcpy(buffer, disk->bytes + offset, size);
    if (sim_on_fiber() && sim->life.faults && sim->step > disk->flip_step + FLIP_STEPS &&
        sim_chance(sim->swarm.read_flip_chance)) {
        disk->flip_step = sim->step;
        ((uint8_t *)buffer)[sim_below(size)] ^= (uint8_t)(1u << sim_below(8));
        sim_count(SIM_READ_FLIPS);
        sim->life.faulted = true;
        sim_trace("read lies", offset, size, 0);
    }
    return STATUS_OK;
}

static struct in_flight *take_off(uint64_t offset, const void *buffer, uint64_t size)
{
    for (uint32_t i = 0; i < IN_FLIGHT_MAX; i++) {
        if (in_flight[i].buffer == NULL) {
            in_flight[i] = (struct in_flight){offset, buffer, size};
            return &in_flight[i];
        }
    }
    assert(false && "more writes than threads");
    __builtin_unreachable();
}

static void note_journal(struct sim_disk *disk, uint64_t offset, uint64_t size)
{
    if (offset < disk->journal_last) {
        sim_count(SIM_JOURNAL_LAPS);
    }
    disk->journal_last = offset;
    if (disk->journal_recent[0].offset == offset) {
        disk->journal_recent[0].size = size; /* The one before never became whole. */
        return;
    }
    memmove(&disk->journal_recent[1], &disk->journal_recent[0],
            (SIM_JOURNAL_RECENT - 1) * sizeof disk->journal_recent[0]);
    disk->journal_recent[0].offset = offset;
    disk->journal_recent[0].size = size;
}

/* The write is said to be done, and is not. */
static void lose(struct sim_disk *disk, uint64_t offset, const uint8_t *buffer, uint64_t size)
{
    for (uint64_t done = 0; done < size; done += SECTOR_SIZE) {
        const uint64_t sector = (offset + done) / SECTOR_SIZE;
        damage_note(disk, sector, buffer + done, sector_at(disk, sector));
    }
}

static bool write_goes_wrong(struct sim_disk *disk, uint64_t offset, const uint8_t *buffer,
                             uint64_t size)
{
    const uint64_t count = size / SECTOR_SIZE;
    const uint64_t grid_sectors =
        (disk->size - min_u64(disk->size, disk->journal_end)) / SECTOR_SIZE;
    if (!in_grid(disk, offset) || offset + size > disk->size ||
        !damage_is_welcome(disk, 2 * count)) {
        return false;
    }
    if (sim_chance(sim->swarm.lost_chance)) {
        lose(disk, offset, buffer, size);
        sim_count(SIM_LOST);
        sim_trace("write lost", offset, size, 0);
        return true;
    }
    if (!sim_chance(sim->swarm.misdirect_chance)) {
        return false;
    }
    const uint64_t victim = disk->journal_end + sim_below(grid_sectors - count + 1) * SECTOR_SIZE;
    if (victim + size > offset && offset + size > victim) {
        return false; /* The two overlap. */
    }
    lose(disk, offset, buffer, size);
    static uint8_t before[IO_SIZE_MAX]; /* The forest thread may be the one that writes. */
    assert(size <= sizeof before);
    memcpy(before, disk->bytes + victim, size);
    land(disk, victim, buffer, size);
    for (uint64_t done = 0; done < size; done += SECTOR_SIZE) {
        damage_note(disk, (victim + done) / SECTOR_SIZE, before + done, buffer + done);
        persist_sector(disk, (victim + done) / SECTOR_SIZE);
    }
    /* Durable now: a cut must not tear what is known as damage into what is not. */
    for (uint64_t i = 0; i < disk->dirty_count;) {
        const uint64_t at = disk->dirty[i] * SECTOR_SIZE;
        if (at >= victim && at < victim + size) {
            dirty_remove(disk, i);
        } else {
            i += 1;
        }
    }
    sim_count(SIM_MISDIRECTED);
    sim_trace("write misdirected", offset, size, victim);
    return true;
}

static enum status disk_write(struct io *io, uint64_t offset, const void *buffer, size_t size)
{
    struct sim_disk *disk = &sim->disk;
    assert(offset % SECTOR_SIZE == 0 && size % SECTOR_SIZE == 0 && size > 0);
    assert((uintptr_t)buffer % SECTOR_SIZE == 0);
    if (!sim_on_fiber()) { /* The format. */
        land(disk, offset, buffer, size);
        return STATUS_OK;
    }
    const uint64_t hash = sim_hash(buffer, size);
    sim_trace("write", offset, size, hash);
    const bool journal = offset >= disk->journal_begin && offset < disk->journal_end;
    if (journal) {
        note_journal(disk, offset, size);
    }
    end_soon(disk, offset);
    struct in_flight *flight = take_off(offset, buffer, size);
    sim_sleep(latency(io, sim->swarm.write_ns));
    flight->buffer = NULL;
    if (sim_hash(buffer, size) != hash) {
        sim_fail("%zu bytes at offset %llu changed while they were being written", size,
                 (unsigned long long)offset);
    }
    if (offset + size > disk->size_limit) {
        sim_count(SIM_NO_SPACE);
        sim->life.no_space = true;
        return STATUS_NO_SPACE;
    }
    if (sim->life.faults && sim_chance(sim->swarm.write_error_chance)) {
        /* Some of it may have landed all the same. */
        land(disk, offset, buffer, sim_below(size / SECTOR_SIZE + 1) * SECTOR_SIZE);
        sim_count(SIM_WRITE_ERRORS);
        sim->life.faulted = true;
        sim_trace("write fails", offset, size, 0);
        return STATUS_IO;
    }
    if (!write_goes_wrong(disk, offset, buffer, size)) {
        if (offset + size > disk->size) {
            sim_count(SIM_CHUNKS);
        }
        land(disk, offset, buffer, size);
    }
    return STATUS_OK;
}

static void sync_until(struct sim_disk *disk, uint64_t write_number)
{
    for (uint64_t i = 0; i < disk->dirty_count;) {
        const uint64_t sector = disk->dirty[i];
        if (disk->dirty_seen[sector] <= write_number) {
            persist_sector(disk, sector);
            dirty_remove(disk, i);
        } else {
            i += 1;
        }
    }
}

/* After a failure nothing is known: each sector is durable now, still on its way, or gone. */
static void sync_fail(struct sim_disk *disk)
{
    for (uint64_t i = 0; i < disk->dirty_count;) {
        const uint64_t sector = disk->dirty[i];
        switch (sim_below(3)) {
        case 0:
            persist_sector(disk, sector);
            dirty_remove(disk, i);
            break;
        case 1:
            memcpy(disk->bytes + sector * SECTOR_SIZE, disk->durable + sector * SECTOR_SIZE,
                   SECTOR_SIZE);
            dirty_remove(disk, i);
            break;
        default:
            i += 1;
            break;
        }
    }
}

static enum status disk_sync(struct io *io)
{
    struct sim_disk *disk = &sim->disk;
    if (!sim_on_fiber()) {
        sync_until(disk, disk->write_number);
        return STATUS_OK;
    }
    const uint64_t write_number = disk->write_number;
    const uint64_t size = disk->size;
    sim_trace("sync", write_number, size, disk->dirty_count);
    disk->syncs_in_flight += 1;
    sim_sleep(latency(io, sim->swarm.sync_ns));
    disk->syncs_in_flight -= 1;
    if (sim->life.faults && sim_chance(sim->swarm.sync_error_chance)) {
        sync_fail(disk);
        sim_count(SIM_SYNC_ERRORS);
        sim->life.faulted = true;
        sim_trace("sync fails", write_number, 0, 0);
        return STATUS_IO;
    }
    sync_until(disk, write_number);
    disk->size_durable = max_u64(disk->size_durable, size);
    return STATUS_OK;
}

static enum status disk_size(struct io *io, uint64_t *size)
{
    (void)io;
    *size = sim->disk.size;
    return STATUS_OK;
}

static const struct io_ops disk_ops = {disk_read, disk_write, disk_sync, disk_size};
static struct io disk_io = {.ops = &disk_ops};

struct io *sim_disk_io(void)
{
    return &disk_io;
}

/* The daemon's own way to its file, at link time. */
enum status __wrap_data_file_open(struct io_posix *io, const char *path, enum io_posix_mode mode,
                                  char *reason, size_t reason_size);
enum status __wrap_data_file_open(struct io_posix *io, const char *path, enum io_posix_mode mode,
                                  char *reason, size_t reason_size)
{
    (void)path;
    (void)reason;
    (void)reason_size;
    assert(mode == IO_POSIX_OPEN);
    *io = (struct io_posix){.io = {.ops = &disk_ops}, .fd = -1, .direct = true};
    return io_sync(&io->io); /* As io_posix_open does. */
}

enum status __wrap_io_posix_open_again(struct io_posix *io, struct io_posix *first,
                                       const char *path);
enum status __wrap_io_posix_open_again(struct io_posix *io, struct io_posix *first,
                                       const char *path)
{
    (void)path;
    *io =
        (struct io_posix){.io = {.ops = &disk_ops, .first = &first->io}, .fd = -1, .direct = true};
    return STATUS_OK;
}

void __wrap_io_posix_close(struct io_posix *io);
void __wrap_io_posix_close(struct io_posix *io)
{
    *io = (struct io_posix){0};
}

/* ---- The end of a life -------------------------------------------------------------------------
 */

/* Lands any part of what was on its way, in the given units. */
static void land_some(struct sim_disk *disk, uint64_t unit)
{
    for (uint32_t i = 0; i < IN_FLIGHT_MAX; i++) {
        const struct in_flight *flight = &in_flight[i];
        if (flight->buffer == NULL || sim_odds(1, 3) ||
            flight->offset + flight->size > disk->size_limit) {
            continue;
        }
        const uint64_t odds = sim_below(4);
        for (uint64_t done = 0; done < flight->size; done += SECTOR_SIZE) {
            uint8_t sector[SECTOR_SIZE];
            memcpy(sector, disk->bytes + flight->offset + done, SECTOR_SIZE);
            for (uint64_t part = 0; part < SECTOR_SIZE; part += unit) {
                if (sim_below(4) <= odds) {
                    memcpy(sector + part, flight->buffer + done + part, unit);
                }
            }
            land(disk, flight->offset + done, sector, SECTOR_SIZE);
        }
    }
}

void sim_disk_cut(struct sim_disk *disk)
{
    const uint64_t unit = sim->swarm.tear_size;
    land_some(disk, unit);
    const uint64_t mood = sim_below(4); /* 0: loses all; 1: keeps all; else each its own */
    const bool growth_lost = mood == 0 || (mood > 1 && sim_odds(1, 2));
    while (disk->dirty_count > 0) {
        const uint64_t sector = disk->dirty[0];
        uint8_t *bytes = disk->bytes + sector * SECTOR_SIZE;
        uint8_t *durable = disk->durable + sector * SECTOR_SIZE;
        const uint64_t fate = mood < 2 ? 1 - mood : sim_below(5);
        bool torn = false;
        for (uint64_t part = 0; part < SECTOR_SIZE; part += unit) {
            const bool lost = growth_lost && sector * SECTOR_SIZE >= disk->size_durable;
            if (lost || fate == 1 || fate == 2 || (fate == 4 && sim_odds(1, 2))) {
                memcpy(bytes + part, durable + part, unit);
                torn |= fate == 4;
            }
        }
        sim->counters[SIM_SECTORS_LOST] += fate == 1 || fate == 2;
        sim->counters[SIM_SECTORS_TORN] += torn;
        memcpy(durable, bytes, SECTOR_SIZE);
        dirty_remove(disk, 0);
    }
    if (growth_lost) {
        disk->size = disk->size_durable;
    }
    disk->size_durable = disk->size;
    disk->syncs_in_flight = 0;
}

void sim_disk_kill(struct sim_disk *disk)
{
    land_some(disk, SECTOR_SIZE);
    disk->syncs_in_flight = 0;
}
