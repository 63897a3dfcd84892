#include "ipc/libholt/client.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WITNESS_SIZE = 4096 }; /* the kernel wipes pages */

/* getpid is a system call, and each request asks several times. A kernel that knows no such pages
 * leaves it at that. */
static void witness_make(struct holt *holt)
{
    uint8_t *page =
        mmap(NULL, WITNESS_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return;
    }
    if (madvise(page, WITNESS_SIZE, MADV_WIPEONFORK) != 0) {
        munmap(page, WITNESS_SIZE);
        return;
    }
    *page = 1;
    holt->witness = page;
}

enum holt_status client_check(const struct holt *holt, struct holt_error *error)
{
    const bool own = holt->witness != NULL ? *holt->witness == 1 : holt->pid == getpid();
    return own ? HOLT_OK : error_set(error, HOLT_FORKED, NULL);
}

static void holt_free(struct holt *holt)
{
    pthread_cond_destroy(&holt->changed);
    pthread_mutex_destroy(&holt->mutex);
    if (holt->witness != NULL) {
        munmap((void *)holt->witness, WITNESS_SIZE);
    }
    free(holt->buffer);
    free(holt);
}

void client_release(struct holt *holt)
{
    pthread_mutex_lock(&holt->mutex);
    assert(holt->reference_count > 0);
    holt->reference_count -= 1;
    const bool last = holt->reference_count == 0;
    pthread_mutex_unlock(&holt->mutex);
    if (last) {
        holt_free(holt);
    }
}

static enum holt_status options_check(const struct holt_options *options, const char **path,
                                      struct holt_error *error)
{
    *path = options->socket_path != NULL ? options->socket_path : getenv("HOLT_SOCKET");
    if (*path == NULL || (*path)[0] == 0) {
        return error_set(error, HOLT_BAD_ARGUMENT,
                         "no socket: neither the options nor HOLT_SOCKET name one");
    }
    if (strlen(*path) >= sizeof((struct sockaddr_un *)0)->sun_path) {
        return error_set(error, HOLT_BAD_ARGUMENT, "the socket's path is longer than 107 bytes");
    }
    if (options->lane_count > WIRE_LANE_COUNT_MAX) {
        return error_set(error, HOLT_BAD_ARGUMENT, "a session has at most %d lanes",
                         WIRE_LANE_COUNT_MAX);
    }
    if ((unsigned)options->session > HOLT_SESSION_REQUIRED) {
        return error_set(error, HOLT_BAD_ARGUMENT, "no such kind of session");
    }
    for (size_t i = 0; i < sizeof options->reserved; i++) {
        if (options->reserved[i] != 0) {
            return error_set(error, HOLT_BAD_ARGUMENT, "reserved options are not zero");
        }
    }
    return HOLT_OK;
}

static struct holt *holt_allocate(const struct holt_options *options, const char *path)
{
    struct holt *holt = calloc(1, sizeof *holt);
    if (holt == NULL) {
        return NULL;
    }
    holt->pid = getpid();
    holt->address.sun_family = AF_UNIX;
    memcpy(holt->address.sun_path, path, strlen(path));
    holt->deadline_ms = options->deadline_ms != 0 ? options->deadline_ms : DEADLINE_MS_DEFAULT;
    holt->session = options->session;
    holt->request_count_max =
        options->request_count_max != 0 ? options->request_count_max : REQUEST_COUNT_MAX_DEFAULT;
    holt->join = !options->no_join;
    holt->lane_count_wanted = options->lane_count != 0 ? options->lane_count : LANE_COUNT_DEFAULT;
    holt->lane_count = holt->lane_count_wanted;
    holt->reference_count = 1;
    holt->opening = true;
    holt->open_deadline_ns = now_ns() + options->wait_ms * NS_PER_MS;
    holt->fd = -1;
    holt->scan_ns = DEADLINE_NS_NONE;
    for (size_t i = 0; i < sizeof options->client_id; i++) {
        holt->session_kept |= options->client_id[i] != 0;
    }
    memcpy(holt->client_id, options->client_id, sizeof holt->client_id);
    holt->session_old = holt->session_kept;
    if (pthread_mutex_init(&holt->mutex, NULL) != 0) {
        goto free_holt;
    }
    if (pthread_cond_init(&holt->changed, NULL) != 0) {
        pthread_mutex_destroy(&holt->mutex);
        goto free_holt;
    }
    witness_make(holt);
    return holt;

free_holt:
    free(holt);
    return NULL;
}

/* The client's thread takes no signals: they are for the program's own. */
static int start_thread(struct holt *holt)
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_mutex_lock(&holt->mutex); /* Until holt->thread is written. */
    const int result = pthread_create(&holt->thread, NULL, client_run, holt);
    pthread_mutex_unlock(&holt->mutex);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

static void close_event_fds(const struct holt *holt)
{
    if (holt->wake_fd >= 0) {
        close(holt->wake_fd);
    }
    if (holt->kick_fd >= 0) {
        close(holt->kick_fd);
    }
}

enum holt_status holt_open(const struct holt_options *options, struct holt **holt,
                           struct holt_error *error)
{
    static const struct holt_options defaults;
    const char *path;
    *holt = NULL;
    if (options == NULL) {
        options = &defaults;
    }
    const enum holt_status status = options_check(options, &path, error);
    if (status != HOLT_OK) {
        return status;
    }
    struct holt *opened = holt_allocate(options, path);
    if (opened == NULL) {
        return error_set(error, HOLT_NO_MEMORY, NULL);
    }
    opened->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    opened->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const char *lacks = NULL;
    int why = errno;
    if (opened->wake_fd < 0 || opened->kick_fd < 0) {
        lacks = "event descriptor";
    } else if (!opened->session_kept && !session_choose_id(opened)) {
        why = errno;
        lacks = "random numbers";
    } else {
        why = start_thread(opened);
        lacks = why != 0 ? "thread" : NULL;
    }
    if (lacks != NULL) {
        close_event_fds(opened);
        holt_free(opened);
        return error_set(error, HOLT_SYSTEM, "no %s: %s", lacks, strerror(why));
    }
    pthread_mutex_lock(&opened->mutex);
    while (opened->opening) {
        pthread_cond_wait(&opened->changed, &opened->mutex);
    }
    const bool failed = opened->closing;
    if (failed) {
        error_set(error, opened->open_error.status, "%s", opened->open_error.text);
    }
    const enum holt_status result = failed ? opened->open_error.status : HOLT_OK;
    pthread_mutex_unlock(&opened->mutex);
    if (failed) {
        holt_close(opened);
        return result;
    }
    *holt = opened;
    return HOLT_OK;
}

void holt_close(struct holt *holt)
{
    if (holt == NULL) {
        return;
    }
    if (client_check(holt, NULL) != HOLT_OK) {
        /* The child's copy: nobody else is there to use these, and the rest may be half done. */
        close_event_fds(holt);
        if (holt->fd >= 0) {
            close(holt->fd);
        }
        return;
    }
    assert(!client_on_own_thread(holt));
    pthread_mutex_lock(&holt->mutex);
    holt->closing = true;
    client_wake(holt);
    pthread_mutex_unlock(&holt->mutex);
    pthread_join(holt->thread, NULL);
    close_event_fds(holt);
    client_release(holt);
}

bool holt_has_session(struct holt *holt)
{
    pthread_mutex_lock(&holt->mutex);
    const bool numbered = holt->session_wanted;
    pthread_mutex_unlock(&holt->mutex);
    return numbered;
}

void holt_client_id(struct holt *holt, uint8_t client_id[HOLT_CLIENT_ID_SIZE])
{
    pthread_mutex_lock(&holt->mutex);
    memcpy(client_id, holt->client_id, HOLT_CLIENT_ID_SIZE);
    pthread_mutex_unlock(&holt->mutex);
}

void client_limits(struct holt *holt, struct hello_reply *hello)
{
    pthread_mutex_lock(&holt->mutex);
    *hello = holt->hello;
    pthread_mutex_unlock(&holt->mutex);
}

uint64_t holt_features(struct holt *holt)
{
    struct hello_reply hello;
    client_limits(holt, &hello);
    return hello.features;
}

void holt_daemon_version(struct holt *holt, char version[33])
{
    struct hello_reply hello;
    client_limits(holt, &hello);
    memcpy(version, hello.version, sizeof hello.version);
    version[32] = 0;
}

void holt_stats_read(struct holt *holt, struct holt_stats *stats)
{
    pthread_mutex_lock(&holt->mutex);
    *stats = holt->stats;
    pthread_mutex_unlock(&holt->mutex);
}
