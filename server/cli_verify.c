#include <inttypes.h>
#include <stdio.h>

#include "engine/forest.h"
#include "pool/base.h"
#include "server/cli.h"
#include "server/data_file.h"
#include "server/json_writer.h"

enum { REASON_SIZE = 1024, PROBLEM_TEXT_SIZE = 4096 };

struct verify {
    struct cli_progress progress;
    bool json;
};

static void on_problem(void *context, const char *text)
{
    struct verify *verify = context;
    cli_progress_end(&verify->progress);
    if (verify->json) {
        char buffer[PROBLEM_TEXT_SIZE];
        struct json_writer writer;
        json_writer_init(&writer, buffer, sizeof buffer);
        json_object_begin(&writer, NULL);
        json_text(&writer, "problem", text, 500); /* Escaped, at most six times that. */
        json_object_end(&writer);
        puts(json_writer_finish(&writer));
    } else {
        printf("problem: %s\n", text);
    }
}

static void on_progress(uint64_t done, uint64_t total, void *context)
{
    struct verify *verify = context;
    cli_progress_show(&verify->progress, done, total, "");
}

static void print_report(const struct verify *verify, const char *path,
                         const struct verify_report *report)
{
    char id[CHECKSUM_TEXT_SIZE];
    checksum_format(&report->checkpoint_id, id);
    if (verify->json) {
        printf("{\"problems\":%" PRIu64 ",\"blocks\":%" PRIu64 ",\"bytes\":%" PRIu64
               ",\"tables\":%" PRIu64 ",\"values\":%" PRIu64 ",\"grooves\":%" PRIu64
               ",\"sessions\":%" PRIu64 ",\"journal_entries\":%" PRIu64
               ",\"checkpoint_op\":%" PRIu64 ",\"checkpoint_id\":\"%s\"}\n",
               report->problems, report->blocks_checked, report->bytes_checked,
               report->tables_checked, report->values_checked, report->grooves, report->sessions,
               report->journal_entries, report->checkpoint_op, id);
        return;
    }
    char blocks[32];
    char values[32];
    printf("%s: %s blocks, %" PRIu64 " tables, %s values, %" PRIu64 " grooves, %" PRIu64
           " journal entries\ncheckpoint %s at op %" PRIu64 "\n",
           path, cli_grouped(report->blocks_checked, blocks), report->tables_checked,
           cli_grouped(report->values_checked, values), report->grooves, report->journal_entries,
           id, report->checkpoint_op);
    if (report->problems == 0) {
        printf("no problems\n");
    } else {
        printf("%" PRIu64 " problem%s; restore the file from a backup\n", report->problems,
               report->problems == 1 ? "" : "s");
    }
}

static int run(const struct cli_command *command, int argc, char **argv)
{
    static const char *const names[] = {"FILE"};
    struct verify verify = {0};
    const struct cli_option options[] = {{.name = "json", .flag = &verify.json}};
    const char *path = NULL;
    const int exit_code = cli_parse(command, argc, argv, options, (uint32_t)array_count(options),
                                    names, 1, 1, &path, NULL);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    struct io_posix io;
    char reason[REASON_SIZE];
    enum status status = data_file_open(&io, path, IO_POSIX_READ_ONLY, reason, sizeof reason);
    if (status != STATUS_OK) {
        cli_error(command, "%s", reason);
        return status_exit_code(status);
    }
    struct geometry geometry;
    status = data_file_geometry(&io.io, path, &geometry, reason, sizeof reason);
    if (status != STATUS_OK) {
        io_posix_close(&io);
        cli_error(command, "%s", reason);
        return status_exit_code(status);
    }
    struct verify_report report = {0};
    cli_progress_init(&verify.progress, "verify");
    status = forest_verify(&io.io, on_problem, on_progress, &verify, &report);
    cli_progress_end(&verify.progress);
    io_posix_close(&io);
    if (status != STATUS_OK && report.problems == 0) {
        cli_error(command, "%s: %s", path, status_text(status));
        return status_exit_code(status);
    }
    print_report(&verify, path, &report);
    return cli_flush(command, report.problems == 0 ? CLI_EXIT_OK : CLI_EXIT_CORRUPT);
}

const struct cli_command command_verify = {
    .name = "verify",
    .summary = "check every byte of a data file that no daemon serves",
    .help =
        "usage: holt verify FILE [--json]\n"
        "\n"
        "Reads everything that the data file refers to and checks it: checksums, order, counts,\n"
        "filters, free space, indexes against objects, the journal. Changes nothing. The daemon\n"
        "must be stopped. Exit code 76 when something is wrong; each problem is named.\n"
        "\n"
        "  --json    one JSON object for each problem, then one for the totals\n"
        "\n"
        "example:\n"
        "  holt verify cities.holt\n",
    .run = run,
};
