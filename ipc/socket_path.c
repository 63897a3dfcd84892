#include "ipc/socket_path.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ipc/client.h"

enum {
    PROBE_TIMEOUT_MS = 1000, /* for whoever may be alive at the path to answer */
};

/* Whether the directory that `path` names a file in is there and ours to write. */
static enum status directory_check(const char *path, const char **reason)
{
    char directory[SOCKET_PATH_SIZE];
    const char *slash = strrchr(path, '/');
    const size_t size = slash == NULL ? 1 : slash == path ? 1 : (size_t)(slash - path);
    memcpy(directory, slash == NULL ? "." : path, size);
    directory[size] = 0;

    struct stat stat_buffer;
    if (stat(directory, &stat_buffer) != 0 || !S_ISDIR(stat_buffer.st_mode)) {
        *reason = "the directory of the socket path does not exist: make it, or choose another";
        return STATUS_NOT_FOUND;
    }
    if (access(directory, W_OK | X_OK) != 0) {
        *reason = "this user may not make a socket in the directory of the socket path";
        return STATUS_DENIED;
    }
    return STATUS_OK;
}

/* Asks, as a client would, whether anybody serves at `path`. A bare connect would tell as much, and
 * would stop the other daemon's accept loop if it were one without our repairs. */
static bool somebody_answers(const char *path)
{
    struct client *client;
    const enum client_status opened =
        client_open(&(struct client_options){.socket_path = path,
                                             .connect_timeout_ms = PROBE_TIMEOUT_MS,
                                             .message_size_max =
                                                 PROTOCOL_HEADER_SIZE + WIRE_ERROR_TEXT_SIZE_MAX},
                    &client);
    if (opened != CLIENT_OK) {
        return opened != CLIENT_NOBODY && opened != CLIENT_NO_SOCKET;
    }
    struct client_reply reply;
    const enum client_status asked =
        client_call(client, OPERATION_PING, NULL, 0, PROBE_TIMEOUT_MS, &reply);
    (void)asked; /* Whatever it says, or does not: it took our connection. */
    client_close(client);
    return true;
}

enum status socket_path_prepare(const char *path, const char **reason)
{
    const size_t size = strlen(path);
    if (size == 0 || size >= SOCKET_PATH_SIZE) {
        *reason = "a socket path has 1 to 107 bytes: choose a shorter one";
        return STATUS_INVALID;
    }
    const enum status status = directory_check(path, reason);
    if (status != STATUS_OK) {
        return status;
    }
    struct stat found;
    if (lstat(path, &found) != 0) {
        if (errno == ENOENT) {
            return STATUS_OK;
        }
        *reason = "the socket path cannot be examined";
        return STATUS_IO;
    }
    if (!S_ISSOCK(found.st_mode)) {
        *reason =
            "something that is not a socket is at the socket path, and is left alone: move it "
            "away, or choose another path";
        return STATUS_EXISTS;
    }
    if (found.st_uid != geteuid()) {
        *reason = "a socket of another user is at the socket path, and is left alone";
        return STATUS_EXISTS;
    }
    if (somebody_answers(path)) {
        *reason = "another process serves on the socket path: stop it, or choose another path";
        return STATUS_LOCKED;
    }
    if (unlink(path) != 0 && errno != ENOENT) {
        *reason = "the socket that a dead daemon left cannot be removed";
        return STATUS_DENIED;
    }
    return STATUS_OK;
}

static enum status status_of_errno(int error, const char **reason)
{
    switch (error) {
    case EADDRINUSE:
        *reason = "another process took the socket path just now";
        return STATUS_LOCKED;
    case EACCES:
    case EPERM:
    case EROFS:
        *reason = "the operating system does not permit a socket at the socket path";
        return STATUS_DENIED;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
        *reason = "not enough memory or file descriptors for the socket";
        return STATUS_NO_MEMORY;
    default:
        *reason = "the operating system refuses to make the socket";
        return STATUS_IO;
    }
}

/* The mode is set between bind and listen: before listen nobody is let in, whatever the umask. */
enum status socket_path_listen(const char *path, uint32_t mode, int *fd,
                               struct socket_identity *identity, const char **reason)
{
    const size_t size = strlen(path);
    assert(size > 0 && size < SOCKET_PATH_SIZE);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, size);

    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (*fd < 0) {
        return status_of_errno(errno, reason);
    }
    if (bind(*fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        const enum status status = status_of_errno(errno, reason);
        close(*fd);
        return status;
    }
    struct stat made;
    if (chmod(path, mode) != 0 || lstat(path, &made) != 0 || listen(*fd, SOMAXCONN) != 0) {
        const enum status status = status_of_errno(errno, reason);
        unlink(path);
        close(*fd);
        return status;
    }
    *identity = (struct socket_identity){.device = made.st_dev, .inode = made.st_ino};
    return STATUS_OK;
}

void socket_path_remove(const char *path, const struct socket_identity *identity)
{
    struct stat found;
    if (lstat(path, &found) == 0 && S_ISSOCK(found.st_mode) && found.st_dev == identity->device &&
        found.st_ino == identity->inode) {
        unlink(path);
    }
}
