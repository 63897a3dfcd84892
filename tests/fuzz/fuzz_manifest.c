/* Replay of the manifest log, from blocks whose checksums are right and whose contents are
 * anything.
 *
 * Input: u8 table_count (255: as many as live), u8 block_count (255: as many as there are), then
 * blocks, oldest first: u8 entry_count, and for each entry
 *
 *   u8 table, u8 event, u8 level, u8 tree, u8 patch_at, u32 patch
 *
 * where the patch is xored over the entry's bytes; entry_count with bit 7 set: then a u8 and a u32
 * are xored over the block's header likewise. When the log opens, its live tables are those that a
 * plain replay in the order of time says, and its own chronological check agrees. */
#include <assert.h>
#include <stdlib.h>

#include "engine/lsm/manifest_log.h"
#include "pool/base.h"
#include "pool/memory.h"
#include "tests/fuzz/fuzz.h"
#include "tests/harness/sim_io.h"

enum {
    BLOCK_MAX = 6,
    TABLE_COUNT_MAX = 40,
    TABLE_ADDRESS_FIRST = 20,
    DISK_SIZE = 4 << 20,
    CACHE_BLOCK_COUNT = 8,
    APPEND_BLOCKS_MAX = 2,
    LIVE_MAX = BLOCK_MAX * 32,
    AS_IT_IS = 255,
};

struct live {
    uint64_t address;
    struct checksum checksum;
    uint8_t level;
    bool removed;
    bool visited;
};

static struct live lives[LIVE_MAX];
static uint32_t live_count;

static struct live *live_find(uint64_t address)
{
    for (uint32_t i = 0; i < live_count; i++) {
        if (lives[i].address == address) {
            return &lives[i];
        }
    }
    return NULL;
}

static void live_note(const struct table_info *entry)
{
    struct live *live = live_find(entry->index.address);
    if (live == NULL) {
        live = &lives[live_count++];
    }
    *live = (struct live){
        .address = entry->index.address,
        .checksum = entry->index.checksum,
        .level = entry->level,
        .removed = entry->event == MANIFEST_EVENT_REMOVE,
    };
}

static enum status visit(void *context, const struct table_info *table)
{
    uint64_t *visit_count = context;
    struct live *live = live_find(table->index.address);
    assert(live != NULL && !live->removed && !live->visited);
    assert(live->level == table->level && table->event == 0);
    assert(checksum_equal(&live->checksum, &table->index.checksum));
    live->visited = true;
    *visit_count += 1;
    return STATUS_OK;
}

static void patch(struct fuzz_input *input, void *bytes, uint32_t size)
{
    const uint32_t at = fuzz_u8(input);
    const uint32_t value = fuzz_u32(input);
    for (uint32_t i = 0; i < sizeof value; i++) {
        ((uint8_t *)bytes)[(at + i) % size] ^= (uint8_t)(value >> (8 * i));
    }
}

static struct block_reference block_make(struct fuzz_input *input, uint8_t *block,
                                         const struct geometry *geometry, uint64_t address,
                                         const struct block_reference *before)
{
    const uint32_t entry_max = block_body_size(geometry) / (uint32_t)sizeof(struct table_info);
    const uint8_t control = fuzz_u8(input);
    const uint32_t entry_count = (uint32_t)min_u64(control & 127u, entry_max);
    memset(block, 0, geometry->block_size);
    struct block_header *header = block_header(block);
    *header = (struct block_header){
        .address = address,
        .size = (uint32_t)(BLOCK_HEADER_SIZE + entry_count * sizeof(struct table_info)),
        .value_count = entry_count,
        .type = BLOCK_TYPE_MANIFEST,
        .version = BLOCK_VERSION,
    };
    memcpy(header->metadata, before, sizeof *before);
    for (uint32_t i = 0; i < entry_count; i++) {
        const uint64_t table_address = TABLE_ADDRESS_FIRST + fuzz_u8(input);
        struct table_info entry = {
            .index = {.address = table_address, .checksum = {{1, (uint8_t)table_address}}},
            .value_count = 10,
            .block_count = 3,
        };
        entry.event = fuzz_u8(input) % 4;
        entry.level = fuzz_u8(input) % (LEVEL_COUNT + 1);
        entry.tree_id = fuzz_u8(input) % 9u;
        entry.key_max.bytes[0] = 1;
        patch(input, &entry, sizeof entry);
        memcpy(block_body(block) + i * sizeof entry, &entry, sizeof entry);
        live_note(&entry);
    }
    if ((control & 128) != 0) {
        patch(input, &header->address, (uint32_t)(sizeof *header - CHECKSUM_SIZE));
    }
    header->checksum = checksum_of(block + CHECKSUM_SIZE, geometry->block_size - CHECKSUM_SIZE);
    return (struct block_reference){address, header->checksum};
}

static uint64_t block_offset(const struct geometry *geometry, uint64_t address)
{
    return grid_zone_offset(geometry) + (address - 1) * geometry->block_size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sim_io sim;
    struct geometry geometry = geometry_tiny();
    struct doorbell doorbell;
    struct workers growers, readers;
    struct grid grid;
    struct free_set free_set;
    struct manifest_log log;
    struct fuzz_input input = {data, size};
    geometry.block_count_max = 1024;
    geometry.journal_size = 1 << 20;

    live_count = 0;
    sim_io_init(&sim, DISK_SIZE);
    doorbell_init(&doorbell);
    enum status status = workers_start(&growers, "grow", 0, 4);
    assert(status == STATUS_OK);
    status = workers_start(&readers, "read", 0, 4);
    assert(status == STATUS_OK);
    status = grid_format(&sim.io, &geometry);
    assert(status == STATUS_OK);
    status = grid_init(&grid, &sim.io, &geometry, CACHE_BLOCK_COUNT, &growers, &doorbell);
    assert(status == STATUS_OK);
    status = free_set_init(&free_set, geometry.block_count_max);
    assert(status == STATUS_OK);
    const struct manifest_log_options options = {APPEND_BLOCKS_MAX, TABLE_COUNT_MAX};
    status = manifest_log_init(&log, &geometry, &grid, &free_set, &readers, &doorbell, &options);
    assert(status == STATUS_OK);

    uint8_t *block = memory_acquire(geometry.block_size);
    assert(block != NULL);
    struct block_reference newest = {0};
    uint64_t table_count = fuzz_u8(&input);
    uint64_t block_count = fuzz_u8(&input);
    uint64_t made_count = 0;
    while (input.size > 0 && made_count < BLOCK_MAX) {
        made_count += 1;
        newest = block_make(&input, block, &geometry, made_count, &newest);
        status = io_write(&sim.io, block_offset(&geometry, made_count), block, geometry.block_size);
        assert(status == STATUS_OK);
    }
    uint64_t living = 0;
    for (uint32_t i = 0; i < live_count; i++) {
        living += !lives[i].removed;
    }
    table_count = table_count == AS_IT_IS ? living : table_count;
    block_count = block_count == AS_IT_IS ? made_count : block_count;

    uint64_t visit_count = 0;
    uint64_t bad_address = 0;
    status = manifest_log_open(&log, &newest, block_count, table_count, visit, &visit_count,
                               &bad_address);
    if (status == STATUS_OK) {
        assert(visit_count == table_count && log.table_count == table_count);
        assert(block_count < made_count || living == table_count);
        assert(manifest_log_verify(&log));
    } else {
        assert(status == STATUS_CORRUPT || status == STATUS_NO_MEMORY);
        assert(log.block_count == 0 && log.table_count == 0);
    }

    memory_release(block, geometry.block_size);
    manifest_log_reset(&log);
    manifest_log_deinit(&log);
    free_set_deinit(&free_set);
    grid_deinit(&grid);
    workers_join(&readers);
    workers_join(&growers);
    doorbell_deinit(&doorbell);
    sim_io_deinit(&sim);
    return 0;
}
