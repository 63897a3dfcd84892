/* A durable echo over a listener of Holt's, nng's unless told otherwise: one thread that takes all
 * requests there are, writes them with one durable call, and answers. What a store behind that
 * listener could reach at best; ends by SIGTERM.
 *
 *   echo_listener SOCKET FILE [nng|native] */
#include <pthread.h>
#include <signal.h>

#include "benchmarks/ipc/echo_file.h"
#include "ipc/listener.h"
#include "pool/doorbell.h"

static struct doorbell doorbell;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct exchange *oldest;
static struct exchange **newest = &oldest;
static _Atomic bool stopping;

static void handle(void *context, struct exchange *exchange)
{
    (void)context;
    exchange->next = NULL;
    pthread_mutex_lock(&mutex);
    *newest = exchange;
    newest = &exchange->next;
    pthread_mutex_unlock(&mutex);
    doorbell_ring(&doorbell);
}

static struct exchange *take_all(void)
{
    pthread_mutex_lock(&mutex);
    struct exchange *taken = oldest;
    oldest = NULL;
    newest = &oldest;
    pthread_mutex_unlock(&mutex);
    return taken;
}

static void *serve(void *context)
{
    struct echo_file *file = context;
    while (!atomic_load(&stopping)) {
        const uint64_t seen = doorbell_count(&doorbell);
        struct exchange *batch = take_all();
        if (batch == NULL) {
            doorbell_wait(&doorbell, seen, DOORBELL_WAIT_FOREVER);
            continue;
        }
        for (struct exchange *each = batch; each != NULL; each = each->next) {
            echo_file_add(file, each->request, each->request_size);
        }
        echo_file_write(file);
        while (batch != NULL) {
            struct exchange *exchange = batch;
            batch = exchange->next;
            const struct write_reply body = {0};
            const struct reply_header header =
                protocol_reply_header(&exchange->header, RESULT_OK, sizeof body);
            exchange_reply(exchange, &header, sizeof header, &body, sizeof body);
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: echo_listener SOCKET FILE [nng|native]\n");
        return 64;
    }
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    static struct echo_file file;
    echo_file_open(&file, argv[2]);
    doorbell_init(&doorbell);
    pthread_t thread;
    if (pthread_create(&thread, NULL, serve, &file) != 0) {
        echo_fail("thread");
    }
    const struct listener_options options = {
        .kind = argc == 4 && strcmp(argv[3], "native") == 0 ? LISTENER_NATIVE : LISTENER_NNG,
        .socket_path = argv[1],
        .message_size_max = 16 * 1024,
    };
    struct listener *listener;
    const char *reason;
    if (listener_start(&options, handle, NULL, &listener, &reason) != STATUS_OK) {
        fprintf(stderr, "%s\n", reason);
        return 1;
    }
    int received;
    sigwait(&signals, &received);
    listener_stop_accepting(listener);
    const bool drained = listener_drain(listener, 1000);
    atomic_store(&stopping, true);
    doorbell_ring(&doorbell);
    pthread_join(thread, NULL);
    echo_file_report(&file);
    if (!drained) {
        _exit(1);
    }
    listener_stop(listener);
    return 0;
}
