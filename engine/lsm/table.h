/* A table on disk: sorted value blocks, filter blocks, and one index block that points to them.
 *
 * Index block, body: arrays sized for what is there, n = value_block_count, f = filter_block_count,
 * K = key_size:
 *
 *   - n * 16  checksums of value blocks
 *   - n * 8   addresses of value blocks
 *   - n * K   first key of each value block
 *   - f * 16  checksums of filter blocks
 *   - f * 8   addresses of filter blocks
 *
 * Index block, metadata (offset, size):
 *
 *   -  0  8  value_count
 *   -  8  8  tombstone_count
 *   - 16  4  value_block_count
 *   - 20  4  filter_block_count
 *   - 24 32  key_max, zero padded
 *   - 56 16  zero
 *
 * header.value_count = value_block_count. Value block: header.value_count values from the body's
 * start. Filter block: body (cut to a multiple of 32 bytes) is the filter of value blocks
 * [i * G, (i + 1) * G), G = table_value_blocks_per_filter(); header.value_count = how many of them
 * there are. All value blocks but a table's last are full. First keys and key_max have no tombstone
 * bit; filters hash keys without it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/lsm/key.h"
#include "engine/lsm/read_ticket.h"
#include "engine/lsm/tree_shape.h"
#include "engine/storage/block.h"
#include "engine/storage/free_set.h"
#include "engine/storage/grid.h"
#include "pool/status.h"

/* A table as the manifest knows it. Also the manifest log's entry: 128 bytes, little-endian. */
struct table_info {
    struct key key_min; /* first and last key, tombstones included; tombstone bit cleared */
    struct key key_max;
    struct block_reference index; /* 24 bytes */
    uint64_t snapshot_min;        /* op from which it is visible */
    uint64_t value_count;         /* tombstones included */
    uint64_t tombstone_count;
    uint32_t tree_id;
    uint32_t block_count; /* index + value + filter */
    uint8_t level;        /* 0..6 */
    uint8_t event;        /* enum manifest_event in the log; 0 in memory */
    uint8_t zero[6];
};
static_assert(sizeof(struct table_info) == 128, "no padding");

/* ---- Building: a compaction job's output -------------------------------------------------------
 *
 * The window is a run of adjacent blocks in memory: finished blocks gather there as long as their
 * addresses are adjacent, and leave in one write. */
struct table_builder {
    const struct geometry *geometry;
    struct grid *grid;
    const struct tree_shape *shape;
    struct reservation *reservation; /* addresses come from here, in order */
    uint64_t op;                     /* goes into every block */

    uint8_t *window; /* [window_block_count * block_size], borrowed */
    uint32_t window_block_count;
    uint32_t window_used;    /* finished blocks waiting to be written */
    uint64_t window_address; /* of the first */

    uint8_t *index_block; /* borrowed: one block each */
    uint8_t *filter_block;
    uint8_t *value_block; /* being filled: append values here */
    uint32_t value_count; /* values in value_block */

    uint32_t values_per_block;
    uint32_t value_blocks_per_filter;
    uint32_t filter_value_blocks; /* value blocks in filter_block */
    uint64_t filter_hash_last;
    bool filter_used;

    /* Scratch for the index: arrays at their final size are only known at the end. */
    struct block_reference *value_references; /* [table_value_block_max], borrowed */
    struct block_reference *filter_references;
    uint8_t *first_keys; /* [table_value_block_max * KEY_SIZE_MAX], borrowed */
    uint32_t value_block_count;
    uint32_t filter_block_count;

    struct table_info info; /* of the table being built */
};

/* Bytes of `scratch` for the arrays above, for any shape of this geometry. */
uint64_t table_builder_scratch_size(const struct geometry *geometry);

/* `blocks` are 3 spare blocks (index, filter, value). All is borrowed until the last flush. */
void table_builder_init(struct table_builder *builder, const struct geometry *geometry,
                        struct grid *grid, const struct tree_shape *shape,
                        struct reservation *reservation, uint64_t op, uint8_t *window,
                        uint32_t window_block_count, uint8_t *const blocks[3], uint8_t *scratch);

/* Where the next values go, and how many fit into the current block and table. 0: call
 * table_builder_block_finish (block full) or table_builder_table_finish (table full). */
uint8_t *table_builder_space(struct table_builder *builder, uint32_t *capacity);
/* `count` values were written there. */
void table_builder_appended(struct table_builder *builder, uint32_t count);
bool table_builder_block_full(const struct table_builder *builder);
bool table_builder_table_full(const struct table_builder *builder);
bool table_builder_table_empty(const struct table_builder *builder);
/* Seals the value block (not empty), adds it to filter and index. */
MUST_CHECK enum status table_builder_block_finish(struct table_builder *builder);
/* Finishes the current block if not empty, the filter and the index, and gives the table's info
 * (level, snapshot_min to be set by the caller). Ready for the next table. Requires: not empty. */
MUST_CHECK enum status table_builder_table_finish(struct table_builder *builder,
                                                  struct table_info *info);
/* Writes what waits in the window. Call after the last table. */
MUST_CHECK enum status table_builder_flush(struct table_builder *builder);

/* ---- Reading one block each; input from disk is checked, never trusted -------------------------
 */

/* A verified index block, decoded in place: pointers into the block. */
struct table_index {
    const struct checksum *value_checksums;
    const uint8_t *value_addresses; /* unaligned little-endian u64 */
    const uint8_t *first_keys;      /* key_size apart */
    const struct checksum *filter_checksums;
    const uint8_t *filter_addresses;
    uint32_t value_block_count;
    uint32_t filter_block_count;
    uint64_t value_count;
    uint64_t tombstone_count;
};

/* STATUS_CORRUPT: the block's checksum was right, but its counts or shape do not fit `shape`. */
MUST_CHECK enum status table_index_decode(const struct geometry *geometry,
                                          const struct tree_shape *shape, const uint8_t *block,
                                          struct table_index *index);
struct block_reference table_index_value_reference(const struct table_index *index, uint32_t i);
struct block_reference table_index_filter_reference(const struct table_index *index, uint32_t i);
/* Checks shape and count of a verified value block; *count values start at block_body. */
MUST_CHECK enum status table_value_block_decode(const struct geometry *geometry,
                                                const struct tree_shape *shape,
                                                const uint8_t *block, uint32_t *count);

/* ---- Looking things up in one table, through the cache (readers) -------------------------------
 *
 * Keeps the last index, filter and value block pinned, so that sorted keys cost one pin each per
 * block, not per key. One thread. STATUS_REVOKED, STATUS_BUDGET: as the ticket says; then only
 * table_reader_close is left. */
struct table_reader {
    const struct geometry *geometry;
    struct grid *grid;
    const struct tree_shape *shape;
    struct table_info info;
    uint8_t *spare; /* [3 * block_size], borrowed: for blocks the cache has no room for */
    struct read_ticket *ticket; /* NULL after open; the owner may set it */
    struct block_pin index_pin, filter_pin, value_pin;
    bool index_open, filter_open, value_open;
    struct table_index index;
    uint32_t filter_index, value_index; /* which filter / value block is pinned */
    uint32_t value_count;               /* in the pinned value block */
    uint64_t bad_address;               /* set when a call returned STATUS_CORRUPT or STATUS_IO */
};

void table_reader_open(struct table_reader *reader, const struct geometry *geometry,
                       struct grid *grid, const struct tree_shape *shape,
                       const struct table_info *info, uint8_t *spare);
void table_reader_close(struct table_reader *reader);

/* *value: the value of `key` (bare key bytes), tombstones included, valid until the next call; NULL
 * when the table does not have it. Uses the filter when filter_kind is KEY. */
MUST_CHECK enum status table_reader_find(struct table_reader *reader, const uint8_t *key,
                                         const uint8_t **value);

/* Position of the first value not less than `key`: block and index in it. Past the last value:
 * *block_index == value_block_count. With `prefix` (whoever asks wants only keys that agree with
 * `key` in what the filter hashes) the filter may end the search early, also with *block_index ==
 * value_block_count. */
MUST_CHECK enum status table_reader_seek(struct table_reader *reader, const uint8_t *key,
                                         bool prefix, uint32_t *block_index, uint32_t *value_index);
/* Values of value block `block_index`, pinned until the next call. */
MUST_CHECK enum status table_reader_block(struct table_reader *reader, uint32_t block_index,
                                          const uint8_t **values, uint32_t *count);
