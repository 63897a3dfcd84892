/* Where a listener's socket is: what may be found there, and what may be removed.
 *
 *   nothing               ours to use
 *   a dead socket of ours removed: whoever asks holds the lock of its data file, so that nobody
 *                         else can be about to serve there
 *   anything else         left alone, by name */
#pragma once

#include <stdint.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "pool/status.h"

enum { SOCKET_PATH_SIZE = sizeof(((struct sockaddr_un *)NULL)->sun_path) /* with the NUL */ };

/* Makes sure that nothing, or only a dead socket of ours that is then removed, is at `path`. The
 * statuses are those of listener_start; `reason` (constant text) says them in a sentence. */
MUST_CHECK enum status socket_path_prepare(const char *path, const char **reason);

/* A socket made at a path, as it was then: what socket_path_remove goes by. */
struct socket_identity {
    dev_t device;
    ino_t inode;
};

/* A listening stream socket at a prepared `path`, with the permission bits `mode` from its first
 * connection on. STATUS_LOCKED: somebody was quicker. STATUS_DENIED, STATUS_NO_MEMORY, STATUS_IO:
 * nothing is left behind. */
MUST_CHECK enum status socket_path_listen(const char *path, uint32_t mode, int *fd,
                                          struct socket_identity *identity, const char **reason);

/* Removes what is at `path` if it is still that socket. */
void socket_path_remove(const char *path, const struct socket_identity *identity);
