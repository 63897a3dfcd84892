/* The executable: everything is a command (server/cli.h). */
#include "server/cli.h"

/* Read by jemalloc, where it is linked, before main runs. Large messages come and go with every
 * batch: backed by huge pages they do not fault in 256 times each, which costs nng two thirds of
 * its throughput at 1 MiB. Few arenas, because few threads allocate; what is freed goes back to the
 * system in the background instead of staying in the container's bill. */
extern const char *malloc_conf;
const char *malloc_conf = "thp:always,narenas:4,background_thread:true,dirty_decay_ms:5000";

int main(int argc, char **argv)
{
    return cli_main(argc, argv);
}
