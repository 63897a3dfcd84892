#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "engine/forest.h"
#include "pool/base.h"
#include "server/cli.h"
#include "server/data_file.h"
#include "server/value_text.h"

enum { REASON_SIZE = 1024 };

static void show_progress(uint64_t done, uint64_t total, void *context)
{
    cli_progress_show(context, done, total, "");
}

/* Hours of writing; and the interval between checkpoints, a part of it, must stay within what
 * geometry_validate allows. */
static const uint64_t journal_size_max = 256ull << 30;

/* A larger ring lets checkpoints be rarer: all that is gained goes to the interval between them. */
static void widen_journal(struct geometry *geometry, uint64_t journal_size)
{
    if (journal_size > geometry->journal_size) {
        geometry->checkpoint_journal_size +=
            (journal_size - geometry->journal_size) / SECTOR_SIZE * SECTOR_SIZE;
    }
    geometry->journal_size = journal_size;
}

/* Reads the flags into a geometry. False: said what is wrong. */
static bool choose_geometry(const struct cli_command *command, const char *block_size_text,
                            const char *journal_size_text, struct geometry *geometry)
{
    uint64_t block_size = 32ull * 1024;
    if (block_size_text != NULL &&
        (!size_parse(block_size_text, &block_size) || !is_power_of_two(block_size) ||
         block_size < BLOCK_SIZE_MIN || block_size > BLOCK_SIZE_MAX)) {
        cli_usage(command, "--block-size is '%s', but must be a power of two from 4K to 1M",
                  block_size_text);
        return false;
    }
    *geometry = geometry_default((uint32_t)block_size);
    if (journal_size_text != NULL) {
        uint64_t journal_size;
        const uint64_t journal_size_min = geometry->journal_size;
        char least[32];
        char most[32];
        size_format(journal_size_min, least, sizeof least);
        size_format(journal_size_max, most, sizeof most);
        if (!size_parse(journal_size_text, &journal_size) || journal_size < journal_size_min ||
            journal_size > journal_size_max || journal_size % SECTOR_SIZE != 0) {
            cli_usage(command,
                      "--journal-size is '%s', but must be a multiple of 4K, from %s (with these "
                      "blocks) to %s",
                      journal_size_text, least, most);
            return false;
        }
        widen_journal(geometry, journal_size);
    }
    const char *reason = NULL;
    const enum status status = geometry_validate(geometry, &reason);
    assert(status == STATUS_OK); /* By the bounds above. */
    (void)status;
    return true;
}

static int format(const struct cli_command *command, const char *path,
                  const struct geometry *geometry)
{
    uint8_t file_id[16];
    uint64_t journal_seed;
    if (getrandom(file_id, sizeof file_id, 0) != (ssize_t)sizeof file_id ||
        getrandom(&journal_seed, sizeof journal_seed, 0) != (ssize_t)sizeof journal_seed) {
        cli_error(command, "the system has no random numbers to give");
        return status_exit_code(STATUS_IO);
    }
    struct io_posix io;
    char reason[REASON_SIZE];
    enum status status = data_file_open(&io, path, IO_POSIX_CREATE, reason, sizeof reason);
    if (status != STATUS_OK) {
        cli_error(command, "%s", reason);
        return status_exit_code(status);
    }
    struct cli_progress progress;
    cli_progress_init(&progress, "format");
    status = forest_format(&io.io, geometry, file_id, journal_seed, show_progress, &progress);
    cli_progress_end(&progress);
    io_posix_close(&io);
    if (status != STATUS_OK) {
        cli_error(command, "%s could not be written: %s; it was removed again", path,
                  status_text(status));
        unlink(path);
        return status_exit_code(status);
    }
    return CLI_GO_ON;
}

static int run(const struct cli_command *command, int argc, char **argv)
{
    static const char *const names[] = {"FILE"};
    const char *block_size = NULL;
    const char *journal_size = NULL;
    bool json = false;
    const struct cli_option options[] = {
        {.name = "block-size", .value = &block_size},
        {.name = "journal-size", .value = &journal_size},
        {.name = "json", .flag = &json},
    };
    const char *path = NULL;
    int exit_code = cli_parse(command, argc, argv, options, (uint32_t)array_count(options), names,
                              1, 1, &path, NULL);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    struct geometry geometry;
    if (!choose_geometry(command, block_size, journal_size, &geometry)) {
        return CLI_EXIT_USAGE;
    }
    exit_code = format(command, path, &geometry);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    if (json) {
        printf("{\"block_size\":%" PRIu32 ",\"journal_size\":%" PRIu64
               ",\"tree_count_max\":%" PRIu32 "}\n",
               geometry.block_size, geometry.journal_size, geometry.tree_count_max);
    } else {
        char block_text[32];
        char journal_text[32];
        size_format(geometry.block_size, block_text, sizeof block_text);
        size_format(geometry.journal_size, journal_text, sizeof journal_text);
        printf("%s is ready: blocks of %s, a journal of %s, room for %" PRIu32
               " trees.\nNext: holt start %s\n",
               path, block_text, journal_text, geometry.tree_count_max, path);
    }
    return cli_flush(command, CLI_EXIT_OK);
}

const struct cli_command command_format = {
    .name = "format",
    .summary = "make a new, empty data file",
    .help = "usage: holt format FILE [--block-size SIZE] [--journal-size SIZE] [--json]\n"
            "\n"
            "Makes a new data file. A file that is there already is never overwritten.\n"
            "\n"
            "  --block-size SIZE    unit of the file, 4K to 1M, a power of two (32K)\n"
            "  --journal-size SIZE  ring that takes every write first; a longer one makes\n"
            "                       checkpoints rarer and recovery longer (as short as it can be)\n"
            "  --json               print the geometry as JSON\n"
            "\n"
            "examples:\n"
            "  holt format /var/lib/holt/cities.holt\n"
            "  holt format cities.holt --block-size 64K\n",
    .run = run,
};
