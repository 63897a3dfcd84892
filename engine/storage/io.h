/* Block I/O behind a small table of functions, so that tests and the simulator plug in a faulty
 * disk. Blocking: who must not block hands the call to a worker.
 *
 * Offsets, sizes and buffers are multiples of SECTOR_SIZE (asserted): O_DIRECT needs it. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pool/status.h"

struct io;

struct io_ops {
    /* Any thread. Reads all of `size` or fails. STATUS_IO: the device failed, or the range is
     * past the end of the file. */
    enum status (*read)(struct io *io, uint64_t offset, void *buffer, size_t size);
    /* Any thread. Writes all or fails; may extend the file. STATUS_NO_SPACE, STATUS_IO. */
    enum status (*write)(struct io *io, uint64_t offset, const void *buffer, size_t size);
    /* Any thread. What was written before is on stable storage when this returns OK. After a
     * failure nothing is known, whoever wrote it: io_sync never succeeds again. */
    enum status (*sync)(struct io *io);
    /* Bytes in the file. */
    enum status (*size)(struct io *io, uint64_t *size);
};

struct io {
    const struct io_ops *ops;
    struct io *first; /* another opening of the same file, whose sync_failed counts; or NULL */
    _Atomic bool sync_failed; /* once, for good */
};

MUST_CHECK static inline enum status io_read(struct io *io, uint64_t offset, void *buffer,
                                             size_t size)
{
    return io->ops->read(io, offset, buffer, size);
}

MUST_CHECK static inline enum status io_write(struct io *io, uint64_t offset, const void *buffer,
                                              size_t size)
{
    return io->ops->write(io, offset, buffer, size);
}

/* The kernel tells of a failed write once to each opening of the file, to one caller of sync,
 * whosever write it was; and a device may tell of a failed flush but one of them. So what one is
 * told all are told; and who cannot wait for the news of another has an opening of its own. Any
 * thread. */
static inline _Atomic bool *io_sync_memory(struct io *io)
{
    return io->first != NULL ? &io->first->sync_failed : &io->sync_failed;
}

static inline bool io_sync_failed(struct io *io)
{
    return atomic_load(io_sync_memory(io));
}

MUST_CHECK static inline enum status io_sync(struct io *io)
{
    if (io_sync_failed(io)) {
        return STATUS_IO;
    }
    const enum status status = io->ops->sync(io);
    if (status != STATUS_OK) {
        atomic_store(io_sync_memory(io), true);
        return status;
    }
    /* Another one may have failed meanwhile, and taken the bad news of our writes with it. */
    return io_sync_failed(io) ? STATUS_IO : STATUS_OK;
}

MUST_CHECK static inline enum status io_size(struct io *io, uint64_t *size)
{
    return io->ops->size(io, size);
}
