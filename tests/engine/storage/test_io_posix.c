/* Goal: the real disk keeps the contract of io.h, the lock keeps two processes apart, and what is
 * not a data file is refused. Method: files in a fresh temporary directory; a limit on file size
 * stands in for a full disk. */
#include "engine/storage/io_posix.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/storage/limits.h"
#include "tests/harness/prng.h"

enum { SIZE = 8 * SECTOR_SIZE };

static char directory[64];
static char path[128];
static char other_path[128];
static struct io_posix io;
static _Alignas(4096) uint8_t written[SIZE];
static _Alignas(4096) uint8_t buffer[SIZE];

static void setup(void)
{
    struct prng prng;
    prng_init(&prng, 1);
    prng_fill(&prng, written, SIZE);
    strcpy(directory, "/tmp/holt_io_posix_XXXXXX");
    cr_assert(ne(ptr, mkdtemp(directory), NULL));
    snprintf(path, sizeof path, "%s/file", directory);
    snprintf(other_path, sizeof other_path, "%s/other", directory);
}

static void teardown(void)
{
    unlink(path);
    unlink(other_path);
    rmdir(directory);
}

TestSuite(io_posix, .init = setup, .fini = teardown, .timeout = 120);

Test(io_posix, what_is_written_is_read_after_reopening)
{
    uint64_t size = 1;
    cr_assert(eq(int, io_posix_open(&io, path, IO_POSIX_CREATE), STATUS_OK));
    cr_assert(eq(int, io_size(&io.io, &size), STATUS_OK));
    cr_assert(eq(u64, size, 0));
    cr_assert(eq(int, io_write(&io.io, SECTOR_SIZE, written, SIZE), STATUS_OK));
    cr_assert(eq(int, io_sync(&io.io), STATUS_OK));
    io_posix_close(&io);

    cr_assert(eq(int, io_posix_open(&io, path, IO_POSIX_OPEN), STATUS_OK));
    cr_assert(eq(int, io_size(&io.io, &size), STATUS_OK));
    cr_assert(eq(u64, size, SIZE + SECTOR_SIZE));
    cr_assert(eq(int, io_read(&io.io, SECTOR_SIZE, buffer, SIZE), STATUS_OK));
    cr_assert(eq(int, memcmp(buffer, written, SIZE), 0));
    cr_assert(eq(int, io_read(&io.io, 0, buffer, SECTOR_SIZE), STATUS_OK));
    cr_assert(eq(u8, buffer[17], 0));
    io_posix_close(&io);

    struct stat info;
    cr_assert(eq(int, stat(path, &info), 0));
    cr_assert(eq(int, info.st_mode & 0777, 0600));
}

Test(io_posix, reading_past_the_end_fails)
{
    cr_assert(eq(int, io_posix_open(&io, path, IO_POSIX_CREATE), STATUS_OK));
    cr_assert(eq(int, io_write(&io.io, 0, written, SIZE), STATUS_OK));
    cr_assert(eq(int, io_read(&io.io, SIZE, buffer, SECTOR_SIZE), STATUS_IO));
    cr_assert(eq(int, io_read(&io.io, SECTOR_SIZE, buffer, SIZE), STATUS_IO));
    cr_assert(eq(int, io_posix_errno(), ENODATA));
    cr_assert(eq(int, ftruncate(io.fd, SIZE - 100), 0));
    cr_assert(eq(int, io_read(&io.io, 0, buffer, SIZE), STATUS_IO));
    io_posix_close(&io);
}

Test(io_posix, reports_a_full_disk)
{
    signal(SIGXFSZ, SIG_IGN);
    cr_assert(eq(int, io_posix_open(&io, path, IO_POSIX_CREATE), STATUS_OK));
    struct rlimit limit;
    cr_assert(eq(int, getrlimit(RLIMIT_FSIZE, &limit), 0));
    const struct rlimit small = {.rlim_cur = 3 * SECTOR_SIZE, .rlim_max = limit.rlim_max};
    cr_assert(eq(int, setrlimit(RLIMIT_FSIZE, &small), 0));
    const enum status status = io_write(&io.io, 0, written, SIZE);
    cr_assert(eq(int, setrlimit(RLIMIT_FSIZE, &limit), 0));
    cr_assert(eq(int, status, STATUS_NO_SPACE));
    cr_assert(eq(int, io_write(&io.io, 0, written, SIZE), STATUS_OK));
    io_posix_close(&io);
}

Test(io_posix, lock_keeps_others_out)
{
    struct io_posix other;
    cr_assert(eq(int, io_posix_open(&io, path, IO_POSIX_CREATE), STATUS_OK));
    cr_assert(eq(int, io_posix_open(&other, path, IO_POSIX_OPEN), STATUS_LOCKED));
    cr_assert(eq(int, other.fd, -1));
    cr_assert(eq(int, io_posix_open(&other, path, IO_POSIX_READ_ONLY), STATUS_LOCKED));
    io_posix_close(&io);

    cr_assert(eq(int, io_posix_open(&io, path, IO_POSIX_READ_ONLY), STATUS_OK));
    cr_assert(eq(int, io_posix_open(&other, path, IO_POSIX_READ_ONLY), STATUS_OK));
    io_posix_close(&other);
    cr_assert(eq(int, io_posix_open(&other, path, IO_POSIX_OPEN), STATUS_LOCKED));
    io_posix_close(&io);
    cr_assert(eq(int, io_posix_open(&other, path, IO_POSIX_OPEN), STATUS_OK));
    io_posix_close(&other);
}

Test(io_posix, create_refuses_what_exists_and_leaves_it_alone)
{
    cr_assert(eq(int, io_posix_open(&io, path, IO_POSIX_CREATE), STATUS_OK));
    cr_assert(eq(int, io_write(&io.io, 0, written, SIZE), STATUS_OK));
    io_posix_close(&io);
    cr_assert(eq(int, io_posix_open(&io, path, IO_POSIX_CREATE), STATUS_EXISTS));
    cr_assert(eq(int, io_posix_errno(), EEXIST));
    struct stat info;
    cr_assert(eq(int, stat(path, &info), 0));
    cr_assert(eq(i64, info.st_size, SIZE));
}

Test(io_posix, refuses_what_is_not_a_data_file)
{
    cr_assert(eq(int, io_posix_open(&io, path, IO_POSIX_OPEN), STATUS_NOT_FOUND));
    cr_assert(eq(int, io_posix_open(&io, directory, IO_POSIX_OPEN), STATUS_INVALID));
    cr_assert(eq(int, io_posix_open(&io, directory, IO_POSIX_READ_ONLY), STATUS_INVALID));
    cr_assert(eq(int, io_posix_open(&io, "/dev/null", IO_POSIX_OPEN), STATUS_INVALID));
    cr_assert(eq(int, mkfifo(other_path, 0600), 0));
    cr_assert(eq(int, io_posix_open(&io, other_path, IO_POSIX_OPEN), STATUS_INVALID));
    cr_assert(eq(int, io_posix_open(&io, other_path, IO_POSIX_READ_ONLY), STATUS_INVALID));
    cr_assert(eq(int, unlink(other_path), 0));

    cr_assert(eq(int, io_posix_open(&io, path, IO_POSIX_CREATE), STATUS_OK));
    io_posix_close(&io);
    cr_assert(eq(int, link(path, other_path), 0));
    cr_assert(eq(int, io_posix_open(&io, path, IO_POSIX_OPEN), STATUS_INVALID));
}

Test(io_posix, lock_dies_with_its_process)
{
    cr_assert(eq(int, io_posix_open(&io, path, IO_POSIX_CREATE), STATUS_OK));
    io_posix_close(&io);
    const pid_t child = fork();
    if (child == 0) {
        _exit(io_posix_open(&io, path, IO_POSIX_OPEN) == STATUS_OK ? 0 : 1);
    }
    int exit_status = -1;
    cr_assert(eq(int, waitpid(child, &exit_status, 0), child));
    cr_assert(eq(int, exit_status, 0));
    cr_assert(eq(int, io_posix_open(&io, path, IO_POSIX_OPEN), STATUS_OK));
    io_posix_close(&io);
}

Test(io_posix, a_second_opening_is_of_the_same_file)
{
    struct io_posix again;
    cr_assert(eq(int, io_posix_open(&io, path, IO_POSIX_CREATE), STATUS_OK));
    cr_assert(eq(int, io_write(&io.io, 0, written, SIZE), STATUS_OK));
    cr_assert(eq(int, io_posix_open_again(&again, &io, path), STATUS_OK));
    cr_assert(ne(int, again.fd, io.fd));
    cr_assert(eq(int, again.direct, io.direct));
    cr_assert(eq(int, io_read(&again.io, 0, buffer, SIZE), STATUS_OK));
    cr_assert(eq(int, memcmp(buffer, written, SIZE), 0));
    cr_assert(eq(int, io_sync(&again.io), STATUS_OK));
    io_posix_close(&again); /* The lock stays with the first. */
    struct io_posix other;
    cr_assert(eq(int, io_posix_open(&other, path, IO_POSIX_OPEN), STATUS_LOCKED));

    cr_assert(eq(int, rename(path, other_path), 0));
    cr_assert(eq(int, io_posix_open_again(&again, &io, path), STATUS_NOT_FOUND));
    cr_assert(eq(int, io_posix_open(&other, path, IO_POSIX_CREATE), STATUS_OK));
    io_posix_close(&other);
    cr_assert(eq(int, io_posix_open_again(&again, &io, path), STATUS_INVALID));
    io_posix_close(&io);
}

Test(io_posix, unaligned_access_is_a_bug, .signal = SIGABRT)
{
    cr_assert(eq(int, io_posix_open(&io, path, IO_POSIX_CREATE), STATUS_OK));
    unlink(path);
    rmdir(directory);
    (void)!io_write(&io.io, 512, written, SECTOR_SIZE);
}
