/* Repairs of nng, made at link time.
 *
 * The executable links the static libnng.a with -Wl,--wrap=F for each function F below, so that
 * every reference to F, nng's own included, reaches __wrap_F here, and the original is __real_F.
 * Each repair has a regression test in tests/ipc/test_listener.c that fails without it.
 *
 *   function        defect in nng                                         versions that need it
 *   nni_aio_begin   An operation on a stopped aio is refused but never    1.5.2 .. 1.7.3 (the
 * reaper completed. A client that dies with several requests   deadlock; not in 1.11), and in
 * flight, or while a large reply is being sent,      1.12 (nng_close hangs) then stops nng's reaper
 * for ever: no connection is freed again; and nng_close hangs under traffic. sendmsg         EPIPE
 * while greeting a peer that has already gone     before 1.6.0 ends the accept loop for ever (nng
 * issue 1518). ECONNRESET, which means the same, does not. readv           End of file while being
 * greeted pauses the accept     1.5.2 loop for 100 ms. ECONNRESET does not. sysconf         No
 * defect: nng_repairs.h.                             before nng_init_set_parameter
 *
 * Why not patch the library: a distribution's package is what gets security fixes. Why not the
 * shared library: nni_aio_begin is internal to it, and cannot be wrapped there. */
#include "ipc/nng_repairs.h"

#include <assert.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <nng/nng.h>

/* nni_aio_begin and nni_aio_finish_error are internals of exactly this version. Before raising it:
 * read the table above against the new one's history and run tests/ipc/test_listener.c. */
static_assert(NNG_MAJOR_VERSION == 1 && NNG_MINOR_VERSION == 5 && NNG_PATCH_VERSION == 2,
              "the repairs are made for nng 1.5.2");

/* Of nng, not in its headers. */
void nni_aio_finish_error(nng_aio *aio, int error);

int __real_nni_aio_begin(nng_aio *aio);
int __wrap_nni_aio_begin(nng_aio *aio);
ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __real_readv(int fd, const struct iovec *buffers, int count);
ssize_t __wrap_readv(int fd, const struct iovec *buffers, int count);
long __real_sysconf(int name);
long __wrap_sysconf(int name);

static _Thread_local bool one_processor;

void nng_repairs_pretend_one_processor(bool on)
{
    assert(one_processor != on);
    one_processor = on;
}

int __wrap_nni_aio_begin(nng_aio *aio)
{
    const int error = __real_nni_aio_begin(aio);
    if (error != 0) {
        nni_aio_finish_error(aio, error);
    }
    return error;
}

/* For all of the process: whoever sends on a stream treats the two alike. */
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
    const ssize_t sent = __real_sendmsg(fd, message, flags);
    if (sent < 0 && errno == EPIPE) {
        errno = ECONNRESET;
    }
    return sent;
}

/* For sockets only: the end of a file stays the end of a file. */
ssize_t __wrap_readv(int fd, const struct iovec *buffers, int count)
{
    const ssize_t received = __real_readv(fd, buffers, count);
    if (received == 0 && count > 0 && buffers[0].iov_len > 0) {
        struct stat stat;
        if (fstat(fd, &stat) == 0 && S_ISSOCK(stat.st_mode)) {
            errno = ECONNRESET;
            return -1;
        }
    }
    return received;
}

long __wrap_sysconf(int name)
{
    if (one_processor && name == _SC_NPROCESSORS_ONLN) {
        return 1;
    }
    return __real_sysconf(name);
}
