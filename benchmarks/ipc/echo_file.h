/* The durable part of a durable echo: a ring of bytes in a file that is there already, written with
 * one durable call for each batch, as the journal of a store with nothing else to do would be. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "pool/base.h"
#include "pool/clock.h"
#include "pool/memory.h"

enum {
    ECHO_ALIGNMENT = 4096,
    ECHO_FILE_SIZE = 64 << 20,
    ECHO_BATCH_SIZE_MAX = 1 << 20,
};

struct echo_file {
    int fd;
    uint64_t offset;
    uint8_t *batch; /* [ECHO_BATCH_SIZE_MAX], owned */
    uint32_t batch_size;
    uint64_t write_count;
    uint64_t request_count;
    uint64_t write_ns_max;
    uint64_t write_ns_total;
};

static inline void echo_fail(const char *what)
{
    perror(what);
    exit(1);
}

static inline void echo_file_open(struct echo_file *file, const char *path)
{
    *file = (struct echo_file){.batch = memory_acquire(ECHO_BATCH_SIZE_MAX)};
    file->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
    if (file->fd < 0 || file->batch == NULL) {
        echo_fail(path);
    }
    for (uint64_t at = 0; at < ECHO_FILE_SIZE; at += ECHO_BATCH_SIZE_MAX) {
        if (pwrite(file->fd, file->batch, ECHO_BATCH_SIZE_MAX, (off_t)at) != ECHO_BATCH_SIZE_MAX) {
            echo_fail(path);
        }
    }
    if (fsync(file->fd) != 0) {
        echo_fail(path);
    }
}

/* A benchmark has not so much in flight that it does not fit. */
static inline void echo_file_add(struct echo_file *file, const void *bytes, uint32_t size)
{
    if (size > ECHO_BATCH_SIZE_MAX - file->batch_size) {
        errno = ENOBUFS;
        echo_fail("a batch of more than 1 MiB");
    }
    memcpy(file->batch + file->batch_size, bytes, size);
    file->batch_size += size;
    file->request_count += 1;
}

/* One durable write of what was added. */
static inline void echo_file_write(struct echo_file *file)
{
    const uint64_t size = align_up(file->batch_size, ECHO_ALIGNMENT);
    if (file->offset + size > ECHO_FILE_SIZE) {
        file->offset = 0;
    }
    const struct iovec iov = {.iov_base = file->batch, .iov_len = size};
    const uint64_t begin_ns = clock_monotonic_ns(&clock_system);
    if (pwritev2(file->fd, &iov, 1, (off_t)file->offset, RWF_DSYNC) != (ssize_t)size) {
        echo_fail("write");
    }
    const uint64_t took_ns = clock_monotonic_ns(&clock_system) - begin_ns;
    file->write_ns_max = max_u64(file->write_ns_max, took_ns);
    file->write_ns_total += took_ns;
    file->write_count += 1;
    file->offset += size;
    file->batch_size = 0;
}

static inline void echo_file_report(const struct echo_file *file)
{
    printf("{\"writes\":%lu,\"requests\":%lu,\"write_mean_us\":%.1f,\"write_max_us\":%.1f}\n",
           file->write_count, file->request_count,
           file->write_count == 0 ? 0
                                  : (double)file->write_ns_total / 1e3 / (double)file->write_count,
           (double)file->write_ns_max / 1e3);
    fflush(stdout);
}
