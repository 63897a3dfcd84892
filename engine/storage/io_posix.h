/* pread / pwrite with O_DIRECT: the baseline that works in every container. */
#pragma once

#include "engine/storage/io.h"

struct io_posix {
    struct io io; /* First member: the vtable casts back. */
    int fd;
    bool direct; /* false: O_DIRECT was refused (some file systems); buffered + fdatasync */
};

enum io_posix_mode {
    IO_POSIX_CREATE,    /* O_CREAT | O_EXCL, mode 0600; for format. STATUS_EXISTS. */
    IO_POSIX_OPEN,      /* read and write, locked */
    IO_POSIX_READ_ONLY, /* for offline tools; shared lock */
};

/* Opens a regular file and takes flock on it (exclusive, or shared when read-only), retrying the
 * lock for up to 250 ms. Refuses what is not a regular file, and a file with several hard links.
 * STATUS_LOCKED: another process has it. STATUS_NOT_FOUND, STATUS_EXISTS, STATUS_DENIED,
 * STATUS_INVALID (not a regular file / several links), STATUS_IO: logged with errno's text by the
 * caller through io_posix_error(). On error nothing is left open. After OPEN the file and, for
 * CREATE, its directory are synced before anything is read. */
MUST_CHECK enum status io_posix_open(struct io_posix *io, const char *path,
                                     enum io_posix_mode mode);
/* Opens the file behind `first`, which `path` must still name, once more: for reading and writing,
 * without a lock of its own. What a sync of either is told of failures, both know. `first` outlives
 * it. STATUS_INVALID: the path names another file by now. Else as
 * above. */
MUST_CHECK enum status io_posix_open_again(struct io_posix *io, struct io_posix *first,
                                           const char *path);
void io_posix_close(struct io_posix *io);

/* errno of this thread's last failed io_posix call. */
int io_posix_errno(void);
