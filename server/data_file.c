#include "server/data_file.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/storage/superblock.h"
#include "pool/memory.h"

enum status data_file_open(struct io_posix *io, const char *path, enum io_posix_mode mode,
                           char *reason, size_t reason_size)
{
    assert(path != NULL);
    assert(reason != NULL);

    const enum status status = io_posix_open(io, path, mode);
    switch (status) {
    case STATUS_OK:
        break;
    case STATUS_LOCKED:
        snprintf(reason, reason_size,
                 "%.300s is in use by another process (a daemon, or holt verify); one at a time. "
                 "'fuser %.300s' names it",
                 path, path);
        break;
    case STATUS_NOT_FOUND:
        if (mode == IO_POSIX_CREATE) {
            snprintf(reason, reason_size,
                     "%.300s cannot be made: its directory does not exist, or takes no files",
                     path);
        } else {
            snprintf(reason, reason_size, "there is no %.300s; 'holt format %.300s' makes one",
                     path, path);
        }
        break;
    case STATUS_EXISTS:
        snprintf(reason, reason_size,
                 "%.300s is there already, and is left alone; give another path, or remove it",
                 path);
        break;
    case STATUS_DENIED:
        snprintf(reason, reason_size, "%.300s: permission denied; whose %s is it? (ls -ld)", path,
                 mode == IO_POSIX_CREATE ? "directory" : "file");
        break;
    case STATUS_INVALID:
        snprintf(reason, reason_size,
                 "%.300s is not a regular file, or has several hard links; "
                 "a data file is one file under one name",
                 path);
        break;
    default:
        snprintf(reason, reason_size, "%.300s: %s", path, strerror(io_posix_errno()));
        break;
    }
    return status;
}

/* A copy that was cut off, for example. Said here, where it is known: whoever reads behind the end
 * of the file later sees an error of the disk. */
static enum status check_size(const char *path, const struct superblock *superblock, uint64_t size,
                              char *reason, size_t reason_size)
{
    const struct geometry *geometry = &superblock->geometry;
    /* Blocks in use may lie higher, but not in less. */
    const uint64_t size_min =
        grid_zone_offset(geometry) + superblock->checkpoint.blocks_acquired * geometry->block_size;
    if (size >= size_min) {
        return STATUS_OK;
    }
    snprintf(reason, reason_size,
             "%.300s is cut off: it has %" PRIu64 " bytes, but needs at least %" PRIu64
             "; restore it from a backup",
             path, size, size_min);
    return STATUS_CORRUPT;
}

enum status data_file_geometry(struct io *io, const char *path, struct geometry *geometry,
                               char *reason, size_t reason_size)
{
    enum { BUFFER_SIZE = SUPERBLOCK_COPY_COUNT * SECTOR_SIZE };
    uint64_t size;
    enum status status = io_size(io, &size);
    if (status != STATUS_OK) {
        snprintf(reason, reason_size, "%.300s: its size cannot be read", path);
        return status;
    }
    if (size < BUFFER_SIZE) {
        snprintf(reason, reason_size,
                 "%.300s is not a Holt data file: it has only %" PRIu64
                 " bytes; 'holt format' makes one",
                 path, size);
        return STATUS_INVALID;
    }
    struct superblock *superblock = memory_acquire(sizeof *superblock);
    uint8_t *buffer = memory_acquire(BUFFER_SIZE);
    if (superblock == NULL || buffer == NULL) {
        snprintf(reason, reason_size, "out of memory");
        status = STATUS_NO_MEMORY;
        goto release;
    }
    struct superblock_open_report report = {0};
    status = superblock_open(io, buffer, false, superblock, &report);
    if (status == STATUS_OK) {
        *geometry = superblock->geometry;
        status = check_size(path, superblock, size, reason, reason_size);
    } else if (status == STATUS_VERSION) {
        snprintf(reason, reason_size,
                 "%.300s has format version %" PRIu32 ", this holt reads %d; use the holt that "
                 "wrote it",
                 path, superblock->version, SUPERBLOCK_VERSION);
    } else if (status == STATUS_INVALID) {
        snprintf(reason, reason_size, "%.300s is not a Holt data file: %s", path,
                 report.problem != NULL ? report.problem : "it has no superblock");
    } else {
        snprintf(reason, reason_size, "%.300s: %s%s", path,
                 report.problem != NULL ? report.problem : status_text(status),
                 status == STATUS_CORRUPT ? "; restore it from a backup" : "");
    }

release:
    memory_release(buffer, BUFFER_SIZE);
    memory_release(superblock, sizeof *superblock);
    return status;
}
