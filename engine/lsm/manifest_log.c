/* The log is a sequence of entries, cut into blocks. It grows at the newest end and is released at
 * the oldest, only ever whole blocks and in order. From that follows all that replay needs:
 *
 *   Entries of one index address lie in the log in the order in which they happened, lives of the
 *   address one after the other: insert, updates, remove; insert, updates, remove; ... Compaction
 *   keeps it so: it copies to the end only the latest entry of a live table, so behind everything
 *   that ever happened to that address; and what it does not copy, it takes away from the oldest
 *   end. So, whatever prefix is gone, the newest entry that is left of an address is the truth
 *   about it, and all older ones are stale, of this life or of one before.
 *
 *   A remove in the blocks that are compacted can always be dropped: every entry of the life that
 *   it ends is older, so is in the same blocks or in blocks released before, and goes with it. (A
 *   copy of such an entry was made while the table lived, so before the remove was appended.)
 *
 * That is why replay from the newest end forgets no removed address when it meets its insert:
 * compaction may have taken the insert and left the remove, so forgetting could not bound the
 * memory, and the rule "the first sighting decides" needs no exception. Each address in memory has
 * an entry of its own in the log: the extent table is sized by the most entries a log may have.
 *
 * How long can the log get? Let T be table_count_max, E the entries of a block, M = ceil(T / E),
 * K = half_bar_block_max. While it has more than 2 M + K blocks (or fewer, when the half-bar before
 * closed fewer than K: those only are left alone), each half-bar compacts C = 2 A + 1 of them and
 * adds at most A of new entries; every second one adds one that its checkpoint leaves partly empty:
 * C / 2 a half-bar. Consider a pass over the x blocks that are there now beyond the newest K: it
 * takes at most x / C + 1 half-bars, in which each live table is copied at most once. At its end
 * the x have become at most M + x / 2 + C / 2 + 2, so what a pass begins with never exceeds 2 M + C
 * + 4 (the first one begins with 2 M + A + 1). Within a pass, before the dead entries are met, the
 * log is at most M / 2 + C / 2 + 2 longer. Together 5/2 M + 3/2 C + 6 + K. */
#include "engine/lsm/manifest_log.h"

#include <assert.h>
#include <string.h>

#include "pool/memory.h"

static_assert(BLOCK_HEADER_SIZE % _Alignof(struct table_info) == 0, "entries are aligned");

/* What an extent is while the log is replayed or verified. */
enum extent_mark {
    EXTENT_LIVE = 0,
    EXTENT_REMOVED, /* replay: the newest entry of this address is a remove */
    EXTENT_SEEN,    /* verify: the last entry met so far is the one the extent names */
    EXTENT_SHADOW,  /* verify: lives at this point of the past, but has no extent today */
};

/* ---- Extents: open addressing, linear probing, removal by shifting back ---------------------- */

static uint64_t extent_home(const struct manifest_log *log, uint64_t table_address)
{
    /* Fibonacci hashing: the high bits of the product depend on all bits of the address. */
    const uint32_t bits = (uint32_t)__builtin_ctzll(log->extent_slot_count);
    return (table_address * 0x9E3779B97F4A7C15u) >> (64 - bits);
}

static struct manifest_extent *extent_find(const struct manifest_log *log, uint64_t table_address)
{
    assert(table_address != 0);

    uint64_t slot = extent_home(log, table_address);
    while (log->extents[slot].table_address != 0) {
        if (log->extents[slot].table_address == table_address) {
            return &log->extents[slot];
        }
        slot = (slot + 1) & (log->extent_slot_count - 1);
    }
    return NULL;
}

/* An eighth of the slots stays empty, which bounds how long a search may be. */
static bool extents_full(const struct manifest_log *log)
{
    return log->extent_count >= log->extent_slot_count - log->extent_slot_count / 8;
}

static struct manifest_extent *extent_insert(struct manifest_log *log, uint64_t table_address)
{
    assert(table_address != 0);
    assert(!extents_full(log));

    uint64_t slot = extent_home(log, table_address);
    while (log->extents[slot].table_address != 0) {
        assert(log->extents[slot].table_address != table_address);
        slot = (slot + 1) & (log->extent_slot_count - 1);
    }
    log->extents[slot] = (struct manifest_extent){.table_address = table_address};
    log->extent_count += 1;
    return &log->extents[slot];
}

static void extent_remove(struct manifest_log *log, struct manifest_extent *extent)
{
    const uint64_t mask = log->extent_slot_count - 1;
    uint64_t hole = (uint64_t)(extent - log->extents);
    assert(hole <= mask);
    assert(extent->table_address != 0);

    /* Whoever is further from home than the hole is from here moves into the hole. */
    for (uint64_t slot = (hole + 1) & mask; log->extents[slot].table_address != 0;
         slot = (slot + 1) & mask) {
        const uint64_t home = extent_home(log, log->extents[slot].table_address);
        if (((slot - home) & mask) >= ((slot - hole) & mask)) {
            log->extents[hole] = log->extents[slot];
            hole = slot;
        }
    }
    log->extents[hole] = (struct manifest_extent){.table_address = 0};
    assert(log->extent_count > 0);
    log->extent_count -= 1;
}

/* ---- Lifecycle ------------------------------------------------------------------------------- */

static void assert_invariants(const struct manifest_log *log)
{
    assert(log->block_count <= log->block_max);
    assert(log->block_first < log->block_max);
    assert(log->open_count < log->entries_per_block);
    assert((log->open_count == 0) == (log->open_address == 0));
    assert(log->pending_count <= log->pending_max);
    assert(log->table_count <= log->table_count_max);
    assert(log->extent_count == log->table_count);
    assert(log->read_count <= log->compact_blocks_max);
    assert(log->read_count == 0 || log->reserved);
}

static void memory_release_all(struct manifest_log *log)
{
    const size_t block_size = log->geometry->block_size;
    memory_release(log->extents, log->extent_slot_count * sizeof log->extents[0]);
    memory_release(log->read_blocks, log->compact_blocks_max * block_size);
    memory_release(log->pending_addresses, log->pending_max * sizeof log->pending_addresses[0]);
    memory_release(log->pending, log->pending_max * block_size);
    memory_release(log->open_block, block_size);
    memory_release(log->blocks, log->block_max * sizeof log->blocks[0]);
}

enum status manifest_log_init(struct manifest_log *log, const struct geometry *geometry,
                              struct grid *grid, struct free_set *free_set, struct workers *workers,
                              struct doorbell *doorbell, const struct manifest_log_options *options)
{
    assert(options->append_blocks_max > 0);
    assert(options->append_blocks_max < UINT32_MAX / 16);
    assert(options->table_count_max > 0);

    const uint32_t append_blocks_max = options->append_blocks_max;
    const uint32_t compact_blocks_max = 2 * append_blocks_max + 1;
    const uint32_t entries_per_block =
        block_body_size(geometry) / (uint32_t)sizeof(struct table_info);
    assert(entries_per_block > 0);
    /* Entries of a half-bar fill at most A + C blocks and what was open before; with a checkpoint
     * the rest of them is closed, too. */
    const uint32_t half_bar_block_max = append_blocks_max + compact_blocks_max + 1;

    const uint64_t live_block_max = div_ceil(options->table_count_max, entries_per_block);
    const uint64_t block_max =
        3 * live_block_max + 2 * (uint64_t)compact_blocks_max + 6 + half_bar_block_max;
    assert(block_max <= UINT32_MAX);
    uint64_t extent_slot_count = 16;
    while (extent_slot_count - extent_slot_count / 8 <= block_max * entries_per_block) {
        extent_slot_count *= 2;
    }
    /* Verify keeps the tables of the past beside those of today. */
    assert(2 * options->table_count_max < extent_slot_count - extent_slot_count / 8);

    const size_t block_size = geometry->block_size;
    *log = (struct manifest_log){
        .geometry = geometry,
        .grid = grid,
        .free_set = free_set,
        .workers = workers,
        .doorbell = doorbell,
        .entries_per_block = entries_per_block,
        .append_blocks_max = append_blocks_max,
        .compact_blocks_max = compact_blocks_max,
        .half_bar_block_max = half_bar_block_max,
        .block_max = (uint32_t)block_max,
        .pending_max = half_bar_block_max,
        .extent_slot_count = extent_slot_count,
        .table_count_max = options->table_count_max,
        .blocks = memory_acquire(block_max * sizeof(struct block_reference)),
        .open_block = memory_acquire(block_size),
        .pending = memory_acquire(half_bar_block_max * block_size),
        .pending_addresses = memory_acquire(half_bar_block_max * sizeof(uint64_t)),
        .read_blocks = memory_acquire(compact_blocks_max * block_size),
        .extents = memory_acquire(extent_slot_count * sizeof(struct manifest_extent)),
    };
    if (log->blocks == NULL || log->open_block == NULL || log->pending == NULL ||
        log->pending_addresses == NULL || log->read_blocks == NULL || log->extents == NULL) {
        memory_release_all(log);
        return STATUS_NO_MEMORY;
    }
    return STATUS_OK;
}

void manifest_log_deinit(struct manifest_log *log)
{
    assert_invariants(log);
    assert(!log->reserved);

    memory_release_all(log);
    memset(log, 0, sizeof *log);
}

/* Until the read job is done, its blocks are its own. */
static void read_wait(struct manifest_log *log)
{
    assert(log->read_count > 0);

    for (;;) {
        const uint64_t seen = doorbell_count(log->doorbell);
        /* Pairs with the release in read_job_run: what it read and its status are visible. */
        if (atomic_load_explicit(&log->read_done, memory_order_acquire)) {
            return;
        }
        if (!workers_run_one(log->workers)) {
            doorbell_wait(log->doorbell, seen, DOORBELL_WAIT_FOREVER);
        }
    }
}

static void reservation_forfeit(struct manifest_log *log)
{
    assert(log->reserved);
    free_set_forfeit(log->free_set, &log->reservation);
    log->reserved = false;
    log->read_count = 0;
    log->half_bar_entry_count = 0;
}

void manifest_log_reset(struct manifest_log *log)
{
    if (log->read_count > 0) {
        read_wait(log);
    }
    if (log->reserved) {
        reservation_forfeit(log);
    }
    memset(log->extents, 0, log->extent_slot_count * sizeof log->extents[0]);
    log->extent_count = 0;
    log->table_count = 0;
    log->block_first = 0;
    log->block_count = 0;
    log->recent_count = 0;
    log->open_count = 0;
    log->open_address = 0;
    log->pending_count = 0;
    assert_invariants(log);
}

/* ---- Blocks ---------------------------------------------------------------------------------- */

/* The reference of the i-th oldest closed block. */
static struct block_reference *reference_at(const struct manifest_log *log, uint32_t i)
{
    assert(i < log->block_max);
    return &log->blocks[((uint64_t)log->block_first + i) % log->block_max];
}

static const struct table_info *entries_of(const uint8_t *block)
{
    return (const struct table_info *)(const void *)block_body_const(block);
}

static struct block_reference block_before(const uint8_t *block)
{
    struct block_reference before;
    memcpy(&before, block_header_const(block)->metadata, sizeof before);
    return before;
}

static bool entry_makes_sense(const struct manifest_log *log, const struct table_info *entry)
{
    static const uint8_t zero[sizeof entry->zero];
    return entry->event >= MANIFEST_EVENT_INSERT && entry->event <= MANIFEST_EVENT_REMOVE &&
           entry->level < LEVEL_COUNT && entry->tree_id != 0 && entry->index.address != 0 &&
           entry->index.address <= log->geometry->block_count_max &&
           !key_less(entry->key_max.bytes, entry->key_min.bytes, KEY_SIZE_MAX) &&
           memcmp(entry->zero, zero, sizeof zero) == 0;
}

static bool block_makes_sense(const struct manifest_log *log, const uint8_t *block)
{
    const struct block_header *header = block_header_const(block);
    if (header->value_count == 0 || header->value_count > log->entries_per_block ||
        header->size != BLOCK_HEADER_SIZE + header->value_count * sizeof(struct table_info)) {
        return false;
    }
    for (uint32_t i = 0; i < header->value_count; i++) {
        if (!entry_makes_sense(log, &entries_of(block)[i])) {
            return false;
        }
    }
    return true;
}

/* Reads a closed block that is on disk into `buffer`. Any thread: changes nothing in the log. */
static enum status block_load(const struct manifest_log *log,
                              const struct block_reference *reference, uint8_t *buffer)
{
    struct block_pin pin;
    const enum status status =
        grid_get_block(log->grid, reference, BLOCK_TYPE_MANIFEST, buffer, &pin);
    if (status != STATUS_OK) {
        return status;
    }
    if (pin.data != buffer) {
        memcpy(buffer, pin.data, log->geometry->block_size);
    }
    grid_put_block(log->grid, &pin);
    return block_makes_sense(log, buffer) ? STATUS_OK : STATUS_CORRUPT;
}

/* Seals the open block and hands it to the writer's queue. */
static void open_block_close(struct manifest_log *log)
{
    assert(log->open_count > 0);
    assert(log->open_address != 0);
    assert(log->block_count < log->block_max);
    assert(log->pending_count < log->pending_max);

    const struct block_reference none = {.address = 0};
    const struct block_reference *before =
        log->block_count == 0 ? &none : reference_at(log, log->block_count - 1);
    struct block_header *header = block_header(log->open_block);
    *header = (struct block_header){
        .address = log->open_address,
        .size = BLOCK_HEADER_SIZE + log->open_count * (uint32_t)sizeof(struct table_info),
        .value_count = log->open_count,
        .type = BLOCK_TYPE_MANIFEST,
    };
    memcpy(header->metadata, before, sizeof *before);
    *reference_at(log, log->block_count) = block_seal(log->open_block, log->geometry->block_size);
    log->block_count += 1;
    if (VERIFY) {
        assert(block_makes_sense(log, log->open_block));
    }

    memcpy(log->pending + (size_t)log->pending_count * log->geometry->block_size, log->open_block,
           log->geometry->block_size);
    log->pending_addresses[log->pending_count] = log->open_address;
    log->pending_count += 1;

    log->open_count = 0;
    log->open_address = 0;
}

/* Puts one entry into the open block. Returns its block's address and its place there. */
static void entry_append(struct manifest_log *log, const struct table_info *table,
                         enum manifest_event event, uint64_t *block_address, uint32_t *entry_index)
{
    assert(log->reserved);

    if (log->open_count == 0) {
        log->open_address = reservation_acquire(&log->reservation);
    }
    *block_address = log->open_address;
    *entry_index = log->open_count;

    struct table_info *entries = (struct table_info *)(void *)block_body(log->open_block);
    entries[log->open_count] = *table;
    entries[log->open_count].event = (uint8_t)event;
    assert(entry_makes_sense(log, &entries[log->open_count]));
    log->open_count += 1;
    if (log->open_count == log->entries_per_block) {
        open_block_close(log);
    }
}

/* ---- The half-bar ---------------------------------------------------------------------------- */

/* On a worker. Reads `blocks` at the oldest end, which nobody moves until read_done; the forest
 * thread may add references at the other end meanwhile. */
static void read_job_run(struct job *job)
{
    struct manifest_log *log = container_of(job, struct manifest_log, read_job);

    log->read_status = STATUS_OK;
    for (uint32_t i = 0; i < log->read_count && log->read_status == STATUS_OK; i++) {
        const struct block_reference *reference = reference_at(log, i);
        log->read_status =
            block_load(log, reference, log->read_blocks + (size_t)i * log->geometry->block_size);
        log->read_bad_address = reference->address;
    }
    struct doorbell *doorbell = log->doorbell;
    /* Pairs with the acquire in read_wait. From here on the log is the forest thread's. */
    atomic_store_explicit(&log->read_done, true, memory_order_release);
    doorbell_ring(doorbell);
}

/* How many of the oldest blocks to compact: a function of the log alone, so that every run and
 * every replay compacts the same. What the half-bar before closed is left alone: it may not be on
 * disk yet. */
static uint32_t compact_block_count(const struct manifest_log *log)
{
    const uint64_t live_block_count = div_ceil(log->table_count, log->entries_per_block);
    assert(log->recent_count <= log->block_count);
    if (log->block_count <= 2 * live_block_count + log->recent_count) {
        return 0;
    }
    return (uint32_t)min_u64(log->compact_blocks_max, log->block_count - log->recent_count);
}

uint64_t manifest_log_debt(const struct manifest_log *log)
{
    const uint64_t kept = 2 * div_ceil(log->table_count, log->entries_per_block);
    return log->block_count > kept ? log->block_count - kept : 0;
}

bool manifest_log_half_bar_commence(struct manifest_log *log)
{
    assert_invariants(log);
    assert(!log->reserved);
    assert(log->pending_count == 0);
    assert(log->half_bar_entry_count == 0);

    if (!free_set_reserve(log->free_set, log->half_bar_block_max, &log->reservation)) {
        return false;
    }
    log->reserved = true;
    log->read_count = compact_block_count(log);
    if (log->read_count > 0) {
        log->read_job = (struct job){.run = read_job_run};
        atomic_store_explicit(&log->read_done, false, memory_order_relaxed);
        workers_submit(log->workers, &log->read_job);
    }
    return true;
}

void manifest_log_append(struct manifest_log *log, const struct table_info *table,
                         enum manifest_event event)
{
    assert_invariants(log);
    assert(log->reserved);
    assert(table->event == 0);
    assert(log->half_bar_entry_count < (uint64_t)log->append_blocks_max * log->entries_per_block);

    struct manifest_extent *extent = extent_find(log, table->index.address);
    if (event == MANIFEST_EVENT_INSERT) {
        assert(extent == NULL);
        assert(log->table_count < log->table_count_max);
        extent = extent_insert(log, table->index.address);
        log->table_count += 1;
    }
    assert(extent != NULL);
    log->half_bar_entry_count += 1;
    entry_append(log, table, event, &extent->block_address, &extent->entry);
    if (event == MANIFEST_EVENT_REMOVE) {
        extent_remove(log, extent);
        log->table_count -= 1;
    }
}

/* Appends again what is still the latest of a live table in the oldest block, which is `block`, and
 * gives that block up. */
static void oldest_block_compact(struct manifest_log *log, const uint8_t *block)
{
    const uint64_t address = reference_at(log, 0)->address;
    assert(block_header_const(block)->address == address);

    for (uint32_t i = 0; i < block_header_const(block)->value_count; i++) {
        struct table_info table = entries_of(block)[i];
        struct manifest_extent *extent = extent_find(log, table.index.address);
        const bool latest =
            extent != NULL && extent->block_address == address && extent->entry == i;
        if (latest) {
            const enum manifest_event event = (enum manifest_event)table.event;
            assert(event != MANIFEST_EVENT_REMOVE);
            table.event = 0;
            entry_append(log, &table, event, &extent->block_address, &extent->entry);
        }
    }
    free_set_release(log->free_set, address);
    *reference_at(log, 0) = (struct block_reference){.address = 0};
    log->block_first = (log->block_first + 1) % log->block_max;
    log->block_count -= 1;
}

enum status manifest_log_half_bar_complete(struct manifest_log *log, bool checkpoint,
                                           uint64_t *bad_address)
{
    assert_invariants(log);
    assert(log->reserved);

    enum status status = STATUS_OK;
    if (log->read_count > 0) {
        read_wait(log);
        status = log->read_status;
    }
    if (status == STATUS_OK) {
        for (uint32_t i = 0; i < log->read_count; i++) {
            oldest_block_compact(log, log->read_blocks + (size_t)i * log->geometry->block_size);
        }
    } else {
        *bad_address = log->read_bad_address;
    }
    if (checkpoint && log->open_count > 0) {
        open_block_close(log);
    }
    log->recent_count = log->pending_count; /* Nothing was pending when the half-bar began. */
    reservation_forfeit(log);
    assert_invariants(log);
    return status;
}

struct block_reference manifest_log_newest(const struct manifest_log *log)
{
    assert(log->open_count == 0);
    if (log->block_count == 0) {
        return (struct block_reference){.address = 0};
    }
    return *reference_at(log, log->block_count - 1);
}

uint32_t manifest_log_take_pending(struct manifest_log *log, uint8_t *buffer, uint64_t *addresses,
                                   uint32_t max)
{
    const size_t block_size = log->geometry->block_size;
    const uint32_t count = (uint32_t)min_u64(log->pending_count, max);
    const uint32_t rest = log->pending_count - count;
    if (count == 0) {
        return 0;
    }
    memcpy(buffer, log->pending, count * block_size);
    memcpy(addresses, log->pending_addresses, count * sizeof addresses[0]);
    memmove(log->pending, log->pending + count * block_size, rest * block_size);
    memmove(log->pending_addresses, log->pending_addresses + count, rest * sizeof addresses[0]);
    log->pending_count = rest;
    return count;
}

/* ---- Replay ---------------------------------------------------------------------------------- */

/* Takes over one entry, unless a newer one of its address has been met. */
static enum status entry_replay(struct manifest_log *log, const struct table_info *entry,
                                uint64_t block_address, uint32_t entry_index,
                                enum status (*visit)(void *context, const struct table_info *table),
                                void *context)
{
    if (extent_find(log, entry->index.address) != NULL) {
        return STATUS_OK;
    }
    struct manifest_extent *extent = extent_insert(log, entry->index.address);
    if (entry->event == MANIFEST_EVENT_REMOVE) {
        extent->mark = EXTENT_REMOVED;
        return STATUS_OK;
    }
    if (log->table_count == log->table_count_max) {
        return STATUS_NO_MEMORY;
    }
    log->table_count += 1;
    extent->block_address = block_address;
    extent->entry = entry_index;
    struct table_info table = *entry;
    table.event = 0;
    return visit(context, &table);
}

/* Drops the extents of removed tables. A removal moves extents back, but never over `slot` to where
 * the loop has been, except from the start of the array to its end: they are looked at twice. */
static void extents_drop_removed(struct manifest_log *log)
{
    for (uint64_t slot = 0; slot < log->extent_slot_count; slot++) {
        struct manifest_extent *extent = &log->extents[slot];
        while (extent->table_address != 0 && extent->mark == EXTENT_REMOVED) {
            extent_remove(log, extent);
        }
    }
}

static enum status
blocks_replay(struct manifest_log *log, const struct block_reference *newest, uint32_t block_count,
              enum status (*visit)(void *context, const struct table_info *table), void *context,
              uint64_t *bad_address)
{
    struct block_reference reference = *newest;
    for (uint32_t i = block_count; i > 0; i--) {
        *bad_address = reference.address;
        uint8_t *block = log->read_blocks;
        enum status status = block_load(log, &reference, block);
        for (uint32_t j = status == STATUS_OK ? block_header_const(block)->value_count : 0;
             j > 0 && status == STATUS_OK; j--) {
            status = entry_replay(log, &entries_of(block)[j - 1], reference.address, j - 1, visit,
                                  context);
        }
        if (status != STATUS_OK) {
            return status;
        }
        log->blocks[i - 1] = reference;
        log->block_count += 1;
        reference = block_before(block);
        const bool linked =
            reference.address != 0 && reference.address <= log->geometry->block_count_max;
        if (i > 1 && !linked) {
            return STATUS_CORRUPT; /* *bad_address is the block whose link leads nowhere. */
        }
    }
    return STATUS_OK;
}

enum status manifest_log_open(struct manifest_log *log, const struct block_reference *newest,
                              uint64_t block_count, uint64_t table_count,
                              enum status (*visit)(void *context, const struct table_info *table),
                              void *context, uint64_t *bad_address)
{
    assert_invariants(log);
    assert(!log->reserved);
    assert(log->block_count == 0);
    assert(log->open_count == 0);
    assert(log->table_count == 0);

    *bad_address = newest->address;
    if ((newest->address == 0) != (block_count == 0) ||
        newest->address > log->geometry->block_count_max) {
        return STATUS_CORRUPT;
    }
    if (block_count > log->block_max) {
        return STATUS_NO_MEMORY;
    }
    enum status status =
        blocks_replay(log, newest, (uint32_t)block_count, visit, context, bad_address);
    if (status == STATUS_OK) {
        extents_drop_removed(log);
        if (log->table_count != table_count) {
            *bad_address = newest->address;
            status = STATUS_CORRUPT;
        }
    }
    if (status != STATUS_OK) {
        manifest_log_reset(log);
        return status;
    }
    *bad_address = 0;
    assert_invariants(log);
    return STATUS_OK;
}

/* ---- Verification ---------------------------------------------------------------------------- */

/* The history as it happened: what lives at this point is either EXTENT_SEEN or a shadow. False:
 * the past has more tables than there ever can be. */
static bool entries_follow(struct manifest_log *log, const struct table_info *entries,
                           uint32_t count, uint64_t block_address)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct table_info *entry = &entries[i];
        struct manifest_extent *extent = extent_find(log, entry->index.address);
        const bool shadow = extent != NULL && extent->mark == EXTENT_SHADOW;
        const bool removed = entry->event == MANIFEST_EVENT_REMOVE;
        if (extent != NULL && !shadow) {
            const bool named =
                !removed && extent->block_address == block_address && extent->entry == i;
            extent->mark = named ? EXTENT_SEEN : EXTENT_LIVE;
        } else if (removed && shadow) {
            extent_remove(log, extent);
        } else if (!removed && !shadow) {
            if (extents_full(log)) {
                return false;
            }
            extent_insert(log, entry->index.address)->mark = EXTENT_SHADOW;
        }
    }
    return true;
}

/* Whether every extent was seen and no shadow is left; takes all marks away. */
static bool extents_settle(struct manifest_log *log)
{
    bool agree = true;
    for (uint64_t slot = 0; slot < log->extent_slot_count; slot++) {
        struct manifest_extent *extent = &log->extents[slot];
        while (extent->table_address != 0 && extent->mark == EXTENT_SHADOW) {
            extent_remove(log, extent);
            agree = false;
        }
        if (extent->table_address != 0) {
            agree = agree && extent->mark == EXTENT_SEEN;
            extent->mark = EXTENT_LIVE;
        }
    }
    return agree && log->extent_count == log->table_count;
}

/* A closed block: from among the pending ones, else from disk into the read buffer. NULL: it cannot
 * be read. */
static const uint8_t *closed_block(struct manifest_log *log,
                                   const struct block_reference *reference)
{
    for (uint32_t i = 0; i < log->pending_count; i++) {
        if (log->pending_addresses[i] == reference->address) {
            return log->pending + (size_t)i * log->geometry->block_size;
        }
    }
    return block_load(log, reference, log->read_blocks) == STATUS_OK ? log->read_blocks : NULL;
}

bool manifest_log_verify(struct manifest_log *log)
{
    assert_invariants(log);
    assert(!log->reserved);

    bool agree = true;
    for (uint32_t i = 0; i < log->block_count && agree; i++) {
        const struct block_reference *reference = reference_at(log, i);
        const uint8_t *block = closed_block(log, reference);
        if (block == NULL) {
            agree = false;
            break;
        }
        if (i > 0) {
            const struct block_reference before = block_before(block);
            agree = memcmp(&before, reference_at(log, i - 1), sizeof before) == 0;
        }
        agree = agree && entries_follow(log, entries_of(block),
                                        block_header_const(block)->value_count, reference->address);
    }
    if (agree && log->open_count > 0) {
        agree =
            entries_follow(log, entries_of(log->open_block), log->open_count, log->open_address);
    }
    agree = extents_settle(log) && agree;
    assert_invariants(log);
    return agree;
}

void manifest_log_blocks(const struct manifest_log *log,
                         void (*visit)(void *context, const struct block_reference *reference),
                         void *context)
{
    for (uint32_t i = 0; i < log->block_count; i++) {
        visit(context, reference_at(log, i));
    }
}

bool manifest_log_has_table(const struct manifest_log *log, uint64_t table_address)
{
    return extent_find(log, table_address) != NULL;
}
