/* Opening the data file for a command, with every refusal explained. */
#pragma once

#include <stddef.h>

#include "engine/storage/io_posix.h"
#include "engine/storage/limits.h"

/* As io_posix_open; on failure `reason` names the file, the cause and what to do. */
MUST_CHECK enum status data_file_open(struct io_posix *io, const char *path,
                                      enum io_posix_mode mode, char *reason, size_t reason_size);

/* Reads the superblock and repairs nothing. Statuses as superblock_open, with `reason`. */
MUST_CHECK enum status data_file_geometry(struct io *io, const char *path,
                                          struct geometry *geometry, char *reason,
                                          size_t reason_size);
