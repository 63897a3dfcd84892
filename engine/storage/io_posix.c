#include "engine/storage/io_posix.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/storage/limits.h"
#include "pool/base.h"

/* A process that has just been killed may hold its lock for a moment longer: 50 tries 5 ms apart
 * are the 250 ms of the contract. */
enum { LOCK_TRY_COUNT = 50, LOCK_TRY_INTERVAL_NS = 5 * 1000 * 1000 };

static _Thread_local int last_errno;

int io_posix_errno(void)
{
    return last_errno;
}

/* Remembers errno and says what it means to us. */
static enum status fail(int error)
{
    last_errno = error;
    switch (error) {
    case ENOENT:
    case ENOTDIR:
        return STATUS_NOT_FOUND;
    case EEXIST:
        return STATUS_EXISTS;
    case EACCES:
    case EPERM:
    case EROFS:
        return STATUS_DENIED;
    case EISDIR:
    case ENXIO: /* a socket, or a device without a driver */
        return STATUS_INVALID;
    case ENOSPC:
    case EDQUOT:
    case EFBIG: /* RLIMIT_FSIZE, or the file system's own limit */
        return STATUS_NO_SPACE;
    case EWOULDBLOCK:
        return STATUS_LOCKED;
    default:
        return STATUS_IO;
    }
}

static void assert_aligned(uint64_t offset, const void *buffer, size_t size)
{
    assert(offset % SECTOR_SIZE == 0);
    assert((uintptr_t)buffer % SECTOR_SIZE == 0);
    assert(size % SECTOR_SIZE == 0);
    assert(size > 0);
    assert(offset <= (uint64_t)INT64_MAX - size);
    (void)offset;
    (void)buffer;
    (void)size;
}

static enum status posix_read(struct io *io, uint64_t offset, void *buffer, size_t size)
{
    const struct io_posix *posix = container_of(io, struct io_posix, io);
    assert_aligned(offset, buffer, size);

    size_t done = 0;
    while (done < size) {
        const ssize_t got =
            pread(posix->fd, (uint8_t *)buffer + done, size - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            (void)fail(errno);
            return STATUS_IO;
        }
        if (got % SECTOR_SIZE != 0 || got == 0) {
            last_errno = ENODATA; /* the file ends within the range */
            return STATUS_IO;
        }
        done += (size_t)got;
    }
    return STATUS_OK;
}

static enum status posix_write(struct io *io, uint64_t offset, const void *buffer, size_t size)
{
    const struct io_posix *posix = container_of(io, struct io_posix, io);
    assert_aligned(offset, buffer, size);

    size_t done = 0;
    while (done < size) {
        const ssize_t put =
            pwrite(posix->fd, (const uint8_t *)buffer + done, size - done, (off_t)(offset + done));
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put < 0) {
            return fail(errno) == STATUS_NO_SPACE ? STATUS_NO_SPACE : STATUS_IO;
        }
        /* Only whole sectors count: O_DIRECT cannot go on in the middle of one. A regular file
         * takes less than a sector only where space or a limit ends. */
        const size_t sectors = (size_t)put / SECTOR_SIZE * SECTOR_SIZE;
        if (sectors == 0) {
            return fail(ENOSPC);
        }
        done += sectors;
    }
    return STATUS_OK;
}

static enum status posix_sync(struct io *io)
{
    const struct io_posix *posix = container_of(io, struct io_posix, io);

    /* Never repeated, not even after EINTR: a second call may report success for pages that the
     * first one dropped. fdatasync covers a changed file size, too. */
    if (fdatasync(posix->fd) != 0) {
        return fail(errno) == STATUS_NO_SPACE ? STATUS_NO_SPACE : STATUS_IO;
    }
    return STATUS_OK;
}

static enum status posix_size(struct io *io, uint64_t *size)
{
    const struct io_posix *posix = container_of(io, struct io_posix, io);
    struct stat info;

    if (fstat(posix->fd, &info) != 0) {
        (void)fail(errno);
        return STATUS_IO;
    }
    *size = (uint64_t)info.st_size;
    return STATUS_OK;
}

static const struct io_ops posix_ops = {
    .read = posix_read,
    .write = posix_write,
    .sync = posix_sync,
    .size = posix_size,
};

static enum status lock_file(int fd, bool shared)
{
    const int operation = (shared ? LOCK_SH : LOCK_EX) | LOCK_NB;
    for (int i = 0; i < LOCK_TRY_COUNT; i++) {
        if (flock(fd, operation) == 0) {
            return STATUS_OK;
        }
        if (errno != EWOULDBLOCK && errno != EINTR) {
            (void)fail(errno);
            return STATUS_IO;
        }
        const struct timespec interval = {.tv_nsec = LOCK_TRY_INTERVAL_NS};
        nanosleep(&interval, NULL); /* Woken early by a signal: one try sooner, no harm. */
    }
    return fail(EWOULDBLOCK);
}

/* The name of a new file is durable only once its directory is. */
static enum status sync_directory(const char *path)
{
    char directory[PATH_MAX];
    const char *slash = strrchr(path, '/');
    const size_t size = slash == NULL ? 0 : (size_t)(slash - path);
    if (size >= sizeof(directory)) {
        return fail(ENAMETOOLONG);
    }
    memcpy(directory, path, size);
    directory[size] = '\0';
    if (slash == NULL) {
        directory[0] = '.';
        directory[1] = '\0';
    } else if (size == 0) {
        directory[0] = '/';
        directory[1] = '\0';
    }

    const int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return fail(errno);
    }
    const int error = fsync(fd) == 0 ? 0 : errno;
    close(fd);
    return error == 0 ? STATUS_OK : fail(error);
}

/* Asked for here and not in open(2): a file system that refuses O_DIRECT would leave the file
 * created behind the error. */
static enum status set_direct(struct io_posix *io)
{
    const int flags = fcntl(io->fd, F_GETFL);
    if (flags < 0) {
        return fail(errno);
    }
    io->direct = fcntl(io->fd, F_SETFL, (flags & ~O_NONBLOCK) | O_DIRECT) == 0;
    if (!io->direct && fcntl(io->fd, F_SETFL, flags & ~O_NONBLOCK) != 0) {
        return fail(errno);
    }
    return STATUS_OK;
}

/* Everything after open(2): what it is, the lock, O_DIRECT, the first sync. */
static enum status prepare(struct io_posix *io, const char *path, enum io_posix_mode mode)
{
    struct stat info;
    if (fstat(io->fd, &info) != 0) {
        return fail(errno);
    }
    if (!S_ISREG(info.st_mode) || info.st_nlink > 1) {
        last_errno = EINVAL;
        return STATUS_INVALID;
    }
    enum status status = lock_file(io->fd, mode == IO_POSIX_READ_ONLY);
    if (status != STATUS_OK) {
        return status;
    }
    status = set_direct(io);
    if (status != STATUS_OK) {
        return status;
    }
    if (mode == IO_POSIX_READ_ONLY) {
        return STATUS_OK;
    }
    /* What a killed process wrote and did not sync would be read back now and could still be lost
     * later: make it durable before anybody relies on it. */
    if (fsync(io->fd) != 0) {
        return fail(errno);
    }
    return mode == IO_POSIX_CREATE ? sync_directory(path) : STATUS_OK;
}

enum status io_posix_open(struct io_posix *io, const char *path, enum io_posix_mode mode)
{
    /* O_NONBLOCK: opening a FIFO by mistake must fail, not hang. */
    int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    flags |= mode == IO_POSIX_READ_ONLY ? O_RDONLY : O_RDWR;
    flags |= mode == IO_POSIX_CREATE ? O_CREAT | O_EXCL : 0;

    *io = (struct io_posix){.io = {.ops = &posix_ops}, .fd = open(path, flags, 0600)};
    if (io->fd < 0) {
        return fail(errno);
    }
    const enum status status = prepare(io, path, mode);
    if (status != STATUS_OK) {
        if (mode == IO_POSIX_CREATE) {
            unlink(path); /* Ours, and empty: O_EXCL made it. */
        }
        close(io->fd);
        io->fd = -1;
    }
    return status;
}

enum status io_posix_open_again(struct io_posix *io, struct io_posix *first, const char *path)
{
    assert(first->fd >= 0);
    const int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_RDWR;
    *io =
        (struct io_posix){.io = {.ops = &posix_ops, .first = &first->io}, .fd = open(path, flags)};
    if (io->fd < 0) {
        return fail(errno);
    }
    struct stat info;
    struct stat info_first;
    enum status status = STATUS_OK;
    if (fstat(io->fd, &info) != 0 || fstat(first->fd, &info_first) != 0) {
        status = fail(errno);
    } else if (info.st_dev != info_first.st_dev || info.st_ino != info_first.st_ino) {
        last_errno = EINVAL;
        status = STATUS_INVALID;
    } else {
        status = set_direct(io);
    }
    if (status != STATUS_OK) {
        close(io->fd);
        io->fd = -1;
    }
    return status;
}

void io_posix_close(struct io_posix *io)
{
    assert(io->fd >= 0);
    close(io->fd); /* Gives up the lock; all that had to be durable was synced. */
    *io = (struct io_posix){.fd = -1};
}
