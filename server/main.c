/* The executable: everything is a command (server/cli.h). */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "pool/status.h"
#include "server/cli.h"

/* Read by jemalloc, where it is linked, before main runs. Large messages come and go with every
 * batch: backed by huge pages they do not fault in 256 times each, which costs nng two thirds of
 * its throughput at 1 MiB. Few arenas, because few threads allocate; what is freed goes back to the
 * system in the background instead of staying in the container's bill. */
extern const char *malloc_conf;
const char *malloc_conf = "thp:always,narenas:4,background_thread:true,dirty_decay_ms:5000";

/* Who starts us may have closed standard streams. The next file or socket opened would then get
 * their numbers, and what is meant to be said would be written into it: a log line into the data
 * file. Opened the wrong way round, they refuse to be used, as closed ones do. */
static void hold_standard_streams(void)
{
    for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; stream++) {
        if (fcntl(stream, F_GETFD) == -1 &&
            open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY) != stream) {
            exit(status_exit_code(STATUS_IO));
        }
    }
}

int main(int argc, char **argv)
{
    hold_standard_streams();
    signal(SIGXFSZ, SIG_IGN); /* A limit on file sizes is then told like a full disk. */
    return cli_main(argc, argv);
}
