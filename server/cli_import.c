/* Rows of a CSV file, in batches, several of them in flight.
 *
 *   row ─► image ─► [ batch being filled ] ─► sent ─► acknowledged: its rows are durable
 *
 * Ids are a function of the import's name and the row's number (or a column), and rows are
 * inserted, never overwritten. So whoever runs the same import again after an interruption
 * completes it: what is there already is told as such and counted, and nothing is doubled. A batch
 * is one request, which the daemon does wholly or not at all. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "pool/base.h"
#include "pool/clock.h"
#include "server/csv_rows.h"
#include "server/remote.h"

enum {
    IN_FLIGHT_DEFAULT = 4, /* enough to keep the journal busy; more only makes batches wait */
    IN_FLIGHT_MAX = 32,
    BATCH_DEFAULT = 2000, /* rows; larger ones gain nothing measurable */
    NAME_SIZE_MAX = 256,
    BAD_ROWS_SHOWN = 20,
};

struct batch {
    uint8_t *body;   /* [body_size_max]: one section header, then images */
    uint64_t *lines; /* [rows_max]: line of each row, for messages */
    uint32_t row_count;
    uint64_t number; /* of the request; 0 = not in flight */
};

struct import {
    struct remote *remote;
    const char *groove_name;
    const char *path;
    bool strict;
    bool json;

    struct shape shape;
    struct csv_rows rows;
    struct batch batches[IN_FLIGHT_MAX];
    uint32_t in_flight_max;
    uint32_t rows_max;      /* rows of a batch */
    uint32_t body_size_max; /* bytes of a batch */

    struct cli_progress progress;
    uint64_t file_size;
    uint64_t begin_ns;
    uint64_t rows_acknowledged; /* in acknowledged batches, failed ones not counted */
    uint64_t rows_there;        /* of them: were there before */
    uint64_t rows_bad;
    uint64_t batches_acknowledged;
    uint64_t commit; /* highest one acknowledged */
    int refusal;     /* exit code of the first thing that went wrong with a batch; said once */
    bool broken;     /* the connection gave out: nothing more is answered */
};

/* ---- Memory ------------------------------------------------------------------------------------
 */

static void release(struct import *import)
{
    for (uint32_t i = 0; i < IN_FLIGHT_MAX; i++) {
        free(import->batches[i].body);
        free(import->batches[i].lines);
    }
    free(import);
}

static bool acquire_batches(struct import *import)
{
    import->body_size_max =
        (uint32_t)sizeof(struct wire_section) + import->rows_max * import->shape.object_size;
    for (uint32_t i = 0; i < import->in_flight_max; i++) {
        struct batch *batch = &import->batches[i];
        batch->body = malloc(import->body_size_max);
        batch->lines = malloc(import->rows_max * sizeof *batch->lines);
        if (batch->body == NULL || batch->lines == NULL) {
            return false;
        }
    }
    return true;
}

/* ---- Telling -----------------------------------------------------------------------------------
 */

static void bad_row(struct import *import, const char *text)
{
    import->rows_bad += 1;
    if (import->rows_bad <= BAD_ROWS_SHOWN || import->strict) {
        cli_progress_end(&import->progress);
        fprintf(stderr, "%s, %s\n", import->path, text);
    } else if (import->rows_bad == BAD_ROWS_SHOWN + 1) {
        fprintf(stderr, "More bad rows follow; they are only counted.\n");
    }
}

static double seconds_since(uint64_t begin_ns)
{
    return (double)(clock_monotonic_ns(&clock_system) - begin_ns) / 1e9;
}

static void show_progress(struct import *import)
{
    char rows[32];
    char rate[32];
    char detail[100];
    const double seconds = seconds_since(import->begin_ns);
    const double done = (double)import->rows_acknowledged;
    snprintf(detail, sizeof detail, "%s rows, %s rows/s",
             cli_grouped(import->rows_acknowledged, rows),
             cli_grouped(seconds > 0 ? (uint64_t)(done / seconds) : 0, rate));
    cli_progress_show(&import->progress, import->rows.bytes_read, import->file_size, detail);
}

static void print_summary(struct import *import)
{
    const double seconds = seconds_since(import->begin_ns);
    const uint64_t rows_new = import->rows_acknowledged - import->rows_there;
    const uint64_t rate = seconds > 0 ? (uint64_t)((double)import->rows_acknowledged / seconds) : 0;
    cli_progress_end(&import->progress);
    if (import->json) {
        printf("{\"groove\":\"%s\",\"acknowledged\":%" PRIu64 ",\"inserted\":%" PRIu64
               ",\"already_there\":%" PRIu64 ",\"bad\":%" PRIu64 ",\"batches\":%" PRIu64
               ",\"commit\":%" PRIu64 ",\"seconds\":%.3f,\"rows_per_second\":%" PRIu64 "}\n",
               import->groove_name, import->rows_acknowledged, rows_new, import->rows_there,
               import->rows_bad, import->batches_acknowledged, import->commit, seconds, rate);
        return;
    }
    char acknowledged[32];
    char inserted[32];
    char there[32];
    char rate_text[32];
    printf("acknowledged %s rows in %.2f s (%s rows/s): %s inserted, %s already there; "
           "%" PRIu64 " bad\n",
           cli_grouped(import->rows_acknowledged, acknowledged), seconds,
           cli_grouped(rate, rate_text), cli_grouped(rows_new, inserted),
           cli_grouped(import->rows_there, there), import->rows_bad);
}

/* ---- Batches -----------------------------------------------------------------------------------
 */

static int refuse_write(struct import *import, enum client_status status)
{
    cli_progress_end(&import->progress);
    import->broken = true;
    if (import->refusal == CLI_EXIT_OK) {
        import->refusal = remote_refuse_status(import->remote, status);
    }
    return import->refusal;
}

static int send_batch(struct import *import, struct batch *batch)
{
    const struct wire_section section = {
        .groove_id = import->shape.groove_id,
        .event_type = WIRE_EVENT_TYPE_INSERT,
        .event_count = batch->row_count,
    };
    memcpy(batch->body, &section, sizeof section);
    const uint32_t size = (uint32_t)sizeof section + batch->row_count * import->shape.object_size;
    const enum client_status status =
        client_send(import->remote->client, OPERATION_WRITE, batch->body, size, REMOTE_TIMEOUT_MS,
                    &batch->number);
    if (status != CLIENT_OK) {
        batch->number = 0;
        return refuse_write(import, status);
    }
    return CLI_GO_ON;
}

/* Counts an acknowledged batch and names the rows that were refused. */
static int take_outcome(struct import *import, struct batch *batch,
                        const struct client_reply *reply)
{
    struct write_reply write = {0};
    if (reply->body_size >= sizeof write) {
        memcpy(&write, reply->body, sizeof write);
    }
    if (reply->body_size !=
        sizeof write + (uint64_t)write.failure_count * sizeof(struct wire_failure)) {
        cli_error(import->remote->command, "the daemon's answer cannot be understood");
        return CLI_EXIT_SOFTWARE;
    }
    uint32_t refused = 0;
    for (uint32_t i = 0; i < write.failure_count; i++) {
        struct wire_failure failure;
        memcpy(&failure, reply->body + sizeof write + i * sizeof failure, sizeof failure);
        if (failure.result == WIRE_EVENT_RESULT_EXISTS) {
            import->rows_there += 1;
            continue;
        }
        refused += 1;
        if (failure.event_index < batch->row_count) {
            char text[200];
            snprintf(text, sizeof text, "line %" PRIu64 ": %s", batch->lines[failure.event_index],
                     wire_event_result_text(failure.result));
            bad_row(import, text);
        }
    }
    import->rows_acknowledged += batch->row_count - refused;
    import->batches_acknowledged += 1;
    import->commit = max_u64(import->commit, reply->commit);
    batch->row_count = 0;
    return import->strict && refused > 0 ? CLI_EXIT_DATA : CLI_GO_ON;
}

static struct batch *batch_of(struct import *import, uint64_t number)
{
    for (uint32_t i = 0; i < import->in_flight_max; i++) {
        if (import->batches[i].number == number) {
            return &import->batches[i];
        }
    }
    return NULL;
}

/* Waits for one batch to be acknowledged. A busy daemon is asked again after the pause it names. */
static int receive_batch(struct import *import)
{
    assert(client_in_flight(import->remote->client) > 0);

    struct client_reply reply;
    const enum client_status status =
        client_receive(import->remote->client, REMOTE_TIMEOUT_MS, &reply);
    if (status != CLIENT_OK) {
        return refuse_write(import, status);
    }
    struct batch *batch = batch_of(import, reply.number);
    if (batch == NULL) {
        cli_error(import->remote->command, "the daemon answers a request that was not sent");
        return CLI_EXIT_SOFTWARE;
    }
    batch->number = 0;
    if (reply.result == RESULT_BUSY) {
        remote_pause(reply.retry_after_ms);
        return send_batch(import, batch);
    }
    if (reply.result != RESULT_OK) {
        cli_progress_end(&import->progress);
        if (import->refusal == CLI_EXIT_OK) {
            import->refusal = remote_refuse_result(import->remote, &reply, import->groove_name);
        }
        return import->refusal;
    }
    const int exit_code = take_outcome(import, batch, &reply);
    show_progress(import);
    return exit_code;
}

/* A batch that is not in flight; waits for one if need be. NULL: *exit_code says why not. */
static struct batch *free_batch(struct import *import, int *exit_code)
{
    for (;;) {
        struct batch *batch = batch_of(import, 0);
        if (batch != NULL) {
            return batch;
        }
        *exit_code = receive_batch(import);
        if (*exit_code != CLI_GO_ON) {
            return NULL;
        }
    }
}

/* Waits for everything in flight, whatever has happened: what the daemon acknowledges is counted.
 */
static int drain(struct import *import)
{
    int exit_code = CLI_GO_ON;
    while (!import->broken && client_in_flight(import->remote->client) > 0) {
        const int outcome = receive_batch(import);
        if (outcome != CLI_GO_ON && exit_code == CLI_GO_ON) {
            exit_code = outcome;
        }
    }
    return exit_code;
}

/* ---- The import --------------------------------------------------------------------------------
 */

/* Sends all rows. Returns why it stopped, or CLI_GO_ON at the end of the file. */
static int send_rows(struct import *import)
{
    int exit_code = CLI_GO_ON;
    struct batch *batch = free_batch(import, &exit_code);
    while (batch != NULL) {
        uint8_t *image = batch->body + sizeof(struct wire_section) +
                         (size_t)batch->row_count * import->shape.object_size;
        const enum csv_result result = csv_rows_next(&import->rows, image);
        switch (result) {
        case CSV_RESULT_ROW:
            batch->lines[batch->row_count++] = import->rows.row_line;
            break;
        case CSV_RESULT_BAD_ROW:
        case CSV_RESULT_BROKEN:
            bad_row(import, import->rows.error);
            break;
        case CSV_RESULT_END:
            break;
        }
        const bool stop =
            result == CSV_RESULT_BROKEN || (result == CSV_RESULT_BAD_ROW && import->strict);
        const bool end = stop || result == CSV_RESULT_END;
        if (batch->row_count == import->rows_max || (end && batch->row_count > 0)) {
            exit_code = send_batch(import, batch);
            if (exit_code != CLI_GO_ON) {
                return exit_code;
            }
            batch = end ? NULL : free_batch(import, &exit_code);
        }
        if (end) {
            return stop ? CLI_EXIT_DATA : CLI_GO_ON;
        }
    }
    return exit_code;
}

static int import_rows(struct import *import)
{
    import->begin_ns = clock_monotonic_ns(&clock_system);
    cli_progress_init(&import->progress, import->groove_name);
    int exit_code = send_rows(import);
    const int drained = drain(import);
    if (exit_code == CLI_GO_ON) {
        exit_code = drained;
    }
    print_summary(import);
    if (exit_code == CLI_GO_ON) {
        exit_code = import->rows_bad > 0 ? CLI_EXIT_DATA : CLI_EXIT_OK;
        if (import->rows_bad > 0) {
            fprintf(stderr,
                    "The bad rows are not in '%s'; repair them in place and run the same "
                    "import again: what is there is not doubled.\n",
                    import->groove_name);
        }
    } else {
        fprintf(stderr,
                "The import is not complete. %s it again with the same name: it goes on, "
                "and nothing is doubled.\n",
                exit_code == CLI_EXIT_DATA ? "Repair the file in place and import" : "Run");
    }
    return cli_flush(import->remote->command, exit_code);
}

struct import_flags {
    const char *socket_path, *id, *batch, *in_flight, *name;
    bool partial, empty_is_zero, strict, json;
};

/* How many rows a batch has: what was asked for, within what the daemon takes. */
static int choose_batch(struct import *import, const struct import_flags *flags)
{
    struct hello_reply hello;
    const int exit_code = remote_hello(import->remote, &hello);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    const uint64_t by_size =
        (hello.batch_size_max - sizeof(struct wire_section)) / import->shape.object_size;
    const uint64_t rows_most =
        min_u64(min_u64(by_size, import->shape.event_max), hello.batch_event_max);
    uint64_t rows = min_u64(BATCH_DEFAULT, rows_most);
    uint64_t in_flight = IN_FLIGHT_DEFAULT;
    if (flags->batch != NULL &&
        !cli_number(import->remote->command, "--batch", flags->batch, 1, rows_most, &rows)) {
        return CLI_EXIT_USAGE;
    }
    if (flags->in_flight != NULL && !cli_number(import->remote->command, "--in-flight",
                                                flags->in_flight, 1, IN_FLIGHT_MAX, &in_flight)) {
        return CLI_EXIT_USAGE;
    }
    import->rows_max = (uint32_t)rows;
    import->in_flight_max = (uint32_t)in_flight;
    return CLI_GO_ON;
}

static int import_file(struct import *import, FILE *file, const struct import_flags *flags)
{
    int exit_code = remote_shape(import->remote, import->groove_name, &import->shape);
    if (exit_code == CLI_GO_ON) {
        exit_code = choose_batch(import, flags);
    }
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    if (!acquire_batches(import)) {
        cli_error(import->remote->command, "out of memory; give a smaller --batch");
        return status_exit_code(STATUS_NO_MEMORY);
    }
    const char *slash = strrchr(import->path, '/');
    const struct csv_options options = {
        .name = flags->name != NULL ? flags->name
                : slash != NULL     ? slash + 1
                                    : import->path,
        .id_column = flags->id != NULL && strcmp(flags->id, "auto") != 0 ? flags->id : NULL,
        .partial = flags->partial,
        .empty_is_zero = flags->empty_is_zero,
    };
    if (strlen(options.name) > NAME_SIZE_MAX) {
        return cli_usage(import->remote->command, "the import's name is too long; give a --name of "
                                                  "at most 256 bytes");
    }
    struct stat info;
    import->file_size = fstat(fileno(file), &info) == 0 ? (uint64_t)info.st_size : 0;
    if (csv_rows_init(&import->rows, file, &import->shape, &options)) {
        exit_code = import_rows(import);
    } else {
        cli_error(import->remote->command, "%s, %s", import->path, import->rows.error);
        exit_code = CLI_EXIT_DATA;
    }
    csv_rows_deinit(&import->rows);
    return exit_code;
}

static int run(const struct cli_command *command, int argc, char **argv)
{
    static const char *const names[] = {"GROOVE", "FILE.csv"};
    struct import_flags flags = {0};
    const struct cli_option options[] = {
        {.name = "socket", .value = &flags.socket_path},
        {.name = "id", .value = &flags.id},
        {.name = "name", .value = &flags.name},
        {.name = "batch", .value = &flags.batch},
        {.name = "in-flight", .value = &flags.in_flight},
        {.name = "partial", .flag = &flags.partial},
        {.name = "empty-is-zero", .flag = &flags.empty_is_zero},
        {.name = "strict", .flag = &flags.strict},
        {.name = "json", .flag = &flags.json},
    };
    const char *arguments[2];
    int exit_code = cli_parse(command, argc, argv, options, (uint32_t)array_count(options), names,
                              2, 2, arguments, NULL);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    FILE *file = fopen(arguments[1], "re");
    if (file == NULL) {
        cli_error(command, "cannot read %s: %s", arguments[1], strerror(errno));
        return CLI_EXIT_NOT_FOUND;
    }
    struct import *import = calloc(1, sizeof *import);
    if (import == NULL) {
        fclose(file);
        cli_error(command, "out of memory");
        return status_exit_code(STATUS_NO_MEMORY);
    }
    struct remote remote;
    exit_code = remote_open(&remote, command, flags.socket_path);
    if (exit_code == CLI_GO_ON) {
        import->remote = &remote;
        import->groove_name = arguments[0];
        import->path = arguments[1];
        import->strict = flags.strict;
        import->json = flags.json;
        exit_code = import_file(import, file, &flags);
        remote_close(&remote);
    }
    release(import);
    fclose(file);
    return exit_code;
}

const struct cli_command command_import = {
    .name = "import",
    .summary = "insert the rows of a CSV file into a groove",
    .help =
        "usage: holt import GROOVE FILE.csv [flags]\n"
        "\n"
        "Inserts a row as an object. The first line names the columns, which are fields of the\n"
        "groove. Every row has an id that depends only on the import's name and the row's number,\n"
        "so an import that was interrupted is completed by running it again. Rows that do not fit\n"
        "their fields are named with line and column and left out; the exit code is then 65.\n"
        "\n"
        "  --id auto|COLUMN    where ids come from: name and row number, or a column (auto)\n"
        "  --name NAME         name of this import (the file's name)\n"
        "  --batch N           rows in one request, which happens wholly or not at all (2000)\n"
        "  --in-flight N       requests on their way at once, 1 to 32 (4)\n"
        "  --partial           skip columns without a field; leave fields without a column zero\n"
        "  --empty-is-zero     an empty cell of a number field is zero, not an error\n"
        "  --strict            stop at the first bad row\n"
        "  --socket PATH       the daemon's socket (HOLT_SOCKET)\n"
        "  --json              print the result as JSON\n"
        "\n"
        "examples:\n"
        "  holt import cities cities.csv\n"
        "  holt import users users.csv --id user_id --strict\n",
    .run = run,
};
