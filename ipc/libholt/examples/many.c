/* Many writes under way at once, from one thread: as each is acknowledged, its callback sends the
 * next. Each takes effect exactly once, even if the daemon is killed and started again meanwhile.
 *
 *   ./many COUNT */
#include <holt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { IN_FLIGHT = 64, DEADLINE_MS = 60000 };

static struct holt *holt;
static struct holt_groove *events;
static uint64_t count; /* to be written */

/* The callbacks run on the client's thread, main waits. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static uint64_t begun;
static uint64_t ended;
static uint64_t failed;

static void begin_next(struct holt_write *write);

/* One write has come back. It may be used again at once. */
static void done(void *context, struct holt_write *write, enum holt_status status)
{
    (void)context;
    pthread_mutex_lock(&mutex);
    ended += 1;
    if (status != HOLT_OK) {
        failed += 1;
        fprintf(stderr, "%s: %s\n", holt_status_name(status), holt_write_text(write));
    }
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&mutex);
    begin_next(write);
}

static void begin_next(struct holt_write *write)
{
    pthread_mutex_lock(&mutex);
    const uint64_t number = begun < count ? ++begun : 0;
    pthread_mutex_unlock(&mutex);
    if (number == 0) {
        holt_write_free(write);
        return;
    }
    uint64_t object[6] = {number}; /* The id, then zeros; `number` is the first field. */
    struct holt_error error;
    holt_write_clear(write);
    enum holt_status status =
        holt_set_unsigned(holt_groove_field(events, "number"), object, number);
    if (status == HOLT_OK) {
        status = holt_write_insert(write, events, object);
    }
    if (status == HOLT_OK) {
        status = holt_write_submit(write, DEADLINE_MS, done, NULL, &error);
    }
    if (status != HOLT_OK) { /* Nothing was begun, so no callback comes. */
        fprintf(stderr, "%s\n", holt_status_text(status));
        exit(1);
    }
}

int main(int argc, char **argv)
{
    struct holt_error error;
    count = argc == 2 ? strtoull(argv[1], NULL, 10) : 1000;
    if (holt_open(NULL, &holt, &error) != HOLT_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    const struct holt_field_spec fields[] = {{.name = "number", .type = HOLT_TYPE_U64}};
    const struct holt_groove_spec spec = {.name = "event", .fields = fields, .field_count = 1};
    const enum holt_status status = holt_groove_create(holt, &spec, 0, &error);
    if ((status != HOLT_OK && status != HOLT_GROOVE_EXISTS) ||
        holt_groove_open(holt, "event", 0, &events, &error) != HOLT_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    for (int i = 0; i < IN_FLIGHT; i++) {
        struct holt_write *write;
        if (holt_write_new(holt, &write) != HOLT_OK) {
            return 1;
        }
        begin_next(write);
    }
    pthread_mutex_lock(&mutex);
    while (ended < count) {
        pthread_cond_wait(&changed, &mutex);
    }
    pthread_mutex_unlock(&mutex);
    struct holt_stats stats;
    holt_stats_read(holt, &stats);
    printf("%llu written, %llu failed; %llu messages, %llu sent again, %llu connections\n",
           (unsigned long long)ended, (unsigned long long)failed,
           (unsigned long long)stats.messages, (unsigned long long)stats.sent_again,
           (unsigned long long)stats.connections);
    holt_close(holt);
    holt_groove_close(events);
    return failed > 0;
}
