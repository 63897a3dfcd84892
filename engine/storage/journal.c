#include "engine/storage/journal.h"

#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "pool/base.h"
#include "pool/memory.h"

static_assert(offsetof(struct journal_header, checksum_body) == 16, "layout");
static_assert(offsetof(struct journal_header, sequence) == 48, "layout");
static_assert(offsetof(struct journal_header, request_count) == 88, "layout");
static_assert(offsetof(struct journal_header, zero) == 94, "layout");
static_assert(SECTOR_SIZE % JOURNAL_HEADER_SIZE == 0, "a header never straddles a sector");

static const uint8_t journal_zero[sizeof(((struct journal_header *)NULL)->zero)];

static void assert_invariants(const struct journal *journal)
{
    assert(journal->head < journal->zone_size);
    assert(journal->head % SECTOR_SIZE == 0);
    assert(journal->tail < journal->zone_size);
    assert(journal->tail % SECTOR_SIZE == 0);
    assert(!journal->empty || journal->head == journal->tail);
    assert(journal->sequence_next >= 1);
    (void)journal;
}

static uint64_t padded_size(uint64_t size)
{
    return align_up(size, SECTOR_SIZE);
}

/* Where an entry goes that follows what ends at head: it never straddles the end of the ring. */
static uint64_t place(const struct journal *journal, uint64_t size)
{
    const bool fits = journal->head + padded_size(size) <= journal->zone_size;
    return fits ? journal->head : 0;
}

static struct checksum header_checksum(const struct journal *journal,
                                       const struct journal_header *header)
{
    return checksum_seeded(journal->seed, (const uint8_t *)header + CHECKSUM_SIZE,
                           JOURNAL_HEADER_SIZE - CHECKSUM_SIZE);
}

/* Padding included: so a damaged sector is seen wherever it is. */
static struct checksum body_checksum(const struct journal *journal,
                                     const struct journal_header *header)
{
    return checksum_seeded(journal->seed, (const uint8_t *)header + JOURNAL_HEADER_SIZE,
                           padded_size(header->size) - JOURNAL_HEADER_SIZE);
}

/* Moves past an entry that is at its place. */
static void advance(struct journal *journal, const struct journal_header *header)
{
    assert(header->sequence == journal->sequence_next);
    assert(header->offset == place(journal, header->size));

    const uint64_t end = header->offset + padded_size(header->size);
    assert(end <= journal->zone_size);
    journal->head = end == journal->zone_size ? 0 : end;
    journal->empty = false;
    journal->sequence_next += 1;
    journal->parent = header->checksum_header;
    journal->sealed = header->kind == JOURNAL_KIND_SEAL;
    assert_invariants(journal);
}

enum status journal_format(struct io *io, const struct geometry *geometry,
                           void (*progress)(uint64_t done, uint64_t total, void *context),
                           void *context)
{
    void *zeros = memory_acquire(IO_SIZE_MAX);
    if (zeros == NULL) {
        return STATUS_NO_MEMORY;
    }
    const uint64_t zone_offset = journal_zone_offset(geometry);
    const uint64_t total = geometry->journal_size;
    enum status status = STATUS_OK;
    for (uint64_t done = 0; done < total && status == STATUS_OK;) {
        const uint64_t size = min_u64(total - done, IO_SIZE_MAX);
        status = io_write(io, zone_offset + done, zeros, size);
        done += size;
        if (status == STATUS_OK && progress != NULL) {
            progress(done, total, context);
        }
    }
    memory_release(zeros, IO_SIZE_MAX);
    return status == STATUS_OK ? io_sync(io) : status;
}

void journal_init(struct journal *journal, struct io *io, const struct geometry *geometry,
                  uint64_t seed, struct workers *workers, struct doorbell *doorbell,
                  const struct clock *clock)
{
    assert(workers->thread_count <= 1); /* Two could finish out of order. */

    *journal = (struct journal){
        .io = io,
        .workers = workers,
        .doorbell = doorbell,
        .clock = clock,
        .zone_offset = journal_zone_offset(geometry),
        .zone_size = geometry->journal_size,
        .seed = seed,
        .entry_size_max = journal_entry_size_max(geometry),
        .sequence_next = 1,
        .empty = true,
    };
    assert(journal->zone_size >= 2 * journal->entry_size_max);
    assert_invariants(journal);
}

/* ---- Recovery ----------------------------------------------------------------------------------
 */

void journal_recover_begin(struct journal *journal, uint64_t sequence, uint64_t offset,
                           const struct checksum *parent)
{
    assert(!journal->writing);
    journal->sequence_next = sequence;
    journal->head = offset;
    journal->tail = offset;
    journal->empty = true;
    journal->parent = *parent;
    journal->sealed = false;
    journal->window_size = 0;
    assert_invariants(journal);
}

/* Whether this header was written by us, for this place: of any age, its body not looked at. */
static bool header_is_authentic(const struct journal *journal, const struct journal_header *header,
                                uint64_t offset)
{
    if (header->offset != offset || header->sequence == 0) {
        return false; /* Nearly every sector of a scan ends here, unhashed. */
    }
    const struct checksum checksum = header_checksum(journal, header);
    return checksum_equal(&checksum, &header->checksum_header);
}

/* Whether an authentic header of the expected sequence is one that journal_append could have
 * written next. A crash cannot make one that is not: then history itself is at odds. */
static bool header_is_next(const struct journal *journal, const struct journal_header *header)
{
    if (header->size < JOURNAL_HEADER_SIZE || header->size > journal->entry_size_max ||
        header->offset != place(journal, header->size) ||
        !journal_has_room(journal, header->size)) {
        return false;
    }
    const bool is_batch = header->kind == JOURNAL_KIND_BATCH && header->request_count >= 1 &&
                          header->request_count <= BATCH_REQUEST_MAX;
    const bool is_seal = header->kind == JOURNAL_KIND_SEAL && header->request_count == 0 &&
                         header->size == JOURNAL_HEADER_SIZE;
    const bool flags_known =
        is_batch ? (header->flags & ~JOURNAL_FLAG_LOW) == 0 : header->flags == 0;
    return (is_batch || is_seal) && flags_known &&
           checksum_equal(&header->parent, &journal->parent) &&
           memcmp(header->zero, journal_zero, sizeof(journal_zero)) == 0;
}

/* The window takes the back half of the buffer, entries that fit are copied to the front: one read
 * call for many small entries, which is most of the time that a replay takes. */
static uint64_t window_start(const struct journal *journal)
{
    return align_up(journal->entry_size_max / 2, SECTOR_SIZE);
}

static bool window_covers(const struct journal *journal, const void *buffer, uint64_t offset)
{
    return journal->window_buffer == buffer && offset >= journal->window_offset &&
           offset < journal->window_offset + journal->window_size;
}

static enum status window_fill(struct journal *journal, uint8_t *buffer, uint64_t offset)
{
    const uint64_t start = window_start(journal);
    uint64_t size = min_u64(journal->entry_size_max - start, journal->zone_size - offset);
    journal->window_size = 0; /* Nothing, should the read fail. */
    enum status status = io_read(journal->io, journal->zone_offset + offset, buffer + start, size);
    if (status != STATUS_OK && size > SECTOR_SIZE) {
        /* What was asked for ahead may be what cannot be read: that is named when it is needed. */
        size = SECTOR_SIZE;
        status = io_read(journal->io, journal->zone_offset + offset, buffer + start, size);
    }
    if (status == STATUS_OK) {
        journal->window_buffer = buffer;
        journal->window_offset = offset;
        journal->window_size = size;
    }
    return status;
}

enum candidate {
    CANDIDATE_NONE,    /* no authentic header of the expected sequence */
    CANDIDATE_WHOLE,   /* the next entry, in the buffer */
    CANDIDATE_TORN,    /* its header, but another body */
    CANDIDATE_AT_ODDS, /* an authentic header that cannot be next */
};

/* Loads what is at `offset`, one of the two places where the next entry may be. */
static enum status candidate_load(struct journal *journal, uint8_t *buffer, uint64_t offset,
                                  bool fresh, enum candidate *candidate)
{
    if (fresh || !window_covers(journal, buffer, offset)) {
        const enum status status = window_fill(journal, buffer, offset);
        if (status != STATUS_OK) {
            return status;
        }
    }
    const uint8_t *source = buffer + window_start(journal) + (offset - journal->window_offset);
    const uint64_t available = journal->window_offset + journal->window_size - offset;
    assert(available >= SECTOR_SIZE);
    memcpy(buffer, source, SECTOR_SIZE);

    const struct journal_header *header = (const struct journal_header *)(const void *)buffer;
    if (!header_is_authentic(journal, header, offset) ||
        header->sequence != journal->sequence_next) {
        *candidate = CANDIDATE_NONE;
        return STATUS_OK;
    }
    if (!header_is_next(journal, header)) {
        *candidate = CANDIDATE_AT_ODDS;
        return STATUS_OK;
    }

    const uint64_t size = padded_size(header->size);
    const uint64_t copied = min_u64(size, available);
    assert(copied <= window_start(journal));
    memcpy(buffer, source, copied);
    if (copied < size) {
        journal->window_size = 0; /* The rest of a large entry overwrites it. */
        const enum status status = io_read(journal->io, journal->zone_offset + offset + copied,
                                           buffer + copied, size - copied);
        if (status != STATUS_OK) {
            return status;
        }
    }
    const struct checksum checksum = body_checksum(journal, header);
    *candidate =
        checksum_equal(&checksum, &header->checksum_body) ? CANDIDATE_WHOLE : CANDIDATE_TORN;
    return STATUS_OK;
}

/* Whether any sector of the ring holds the authentic header of a later entry than the one expected.
 * Its body does not matter: an entry is begun only when the one before it is durable. */
static enum status scan_for_later(struct journal *journal, uint8_t *buffer, bool *found,
                                  uint64_t *bad_offset)
{
    uint64_t chunk_size = min_u64(journal->entry_size_max, IO_SIZE_MAX);
    uint64_t size = 0;
    journal->window_size = 0;
    *found = false;
    for (uint64_t start = 0; start < journal->zone_size && !*found; start += size) {
        size = min_u64(chunk_size, journal->zone_size - start);
        const enum status status = io_read(journal->io, journal->zone_offset + start, buffer, size);
        if (status != STATUS_OK && size > SECTOR_SIZE) {
            chunk_size = SECTOR_SIZE; /* The one that cannot be read is to be named. */
            size = 0;
            continue;
        }
        if (status != STATUS_OK) { /* It may be the later entry. */
            *bad_offset = start;
            return status;
        }
        for (uint64_t i = 0; i < size; i += SECTOR_SIZE) {
            const struct journal_header *header =
                (const struct journal_header *)(const void *)(buffer + i);
            *found |= header->sequence > journal->sequence_next &&
                      header_is_authentic(journal, header, start + i);
        }
    }
    return STATUS_OK;
}

/* Nothing whole is at the expected place, `suspect` is where something was: is that the end? */
static enum status judge_end(struct journal *journal, uint8_t *buffer, bool torn, uint64_t suspect,
                             enum journal_recovery *outcome, uint64_t *bad_offset)
{
    bool later = false;
    enum status status = scan_for_later(journal, buffer, &later, bad_offset);
    if (status != STATUS_OK) {
        return status;
    }
    if (later) {
        *bad_offset = suspect;
        return STATUS_CORRUPT;
    }
    *outcome = torn ? JOURNAL_RECOVERY_TORN : JOURNAL_RECOVERY_END;
    /* The last entry may have been read from a cache above the disk, left by a process that was
     * killed before its sync. The next append would then be durable without its parent. */
    status = io_sync(journal->io);
    if (status != STATUS_OK) {
        *bad_offset = suspect;
    }
    return status;
}

enum status journal_recover_next(struct journal *journal, void *buffer,
                                 enum journal_recovery *outcome, uint64_t *bad_offset)
{
    assert(!journal->writing);
    assert((uintptr_t)buffer % SECTOR_SIZE == 0);
    assert_invariants(journal);

    /* At head; or at the start, if it did not fit before the end. Both places are asked even when
     * the first holds a torn header: that may be of an attempt which an earlier recovery dropped,
     * before an entry of the same sequence but another size went to the other place. */
    const uint64_t places[2] = {journal->head, 0};
    const int place_count = journal->head == 0 ? 1 : 2;
    bool torn = false;
    uint64_t suspect = journal->head;
    for (int fresh = 0; fresh <= 1; fresh++) {
        torn = false;
        for (int i = 0; i < place_count; i++) {
            enum candidate candidate = CANDIDATE_NONE;
            const enum status status =
                candidate_load(journal, buffer, places[i], fresh == 1, &candidate);
            if (status != STATUS_OK) {
                *bad_offset = places[i];
                return status;
            }
            if (candidate == CANDIDATE_WHOLE) {
                advance(journal, buffer);
                *outcome = JOURNAL_RECOVERY_ENTRY;
                return STATUS_OK;
            }
            if (candidate == CANDIDATE_AT_ODDS && fresh == 1) {
                *bad_offset = places[i];
                return STATUS_CORRUPT;
            }
            if (candidate == CANDIDATE_TORN) {
                torn = true;
                suspect = places[i];
            }
        }
    }
    return judge_end(journal, buffer, torn, suspect, outcome, bad_offset);
}

/* ---- Appending ---------------------------------------------------------------------------------
 */

bool journal_has_room(const struct journal *journal, uint64_t size)
{
    const uint64_t padded = padded_size(size);
    const bool before_end = journal->head + padded <= journal->zone_size;
    if (journal->empty) {
        return before_end || padded <= journal->head;
    }
    if (journal->head > journal->tail) {
        return before_end || padded <= journal->tail;
    }
    return journal->head + padded <= journal->tail; /* head == tail: full */
}

static void write_durably(struct journal *journal)
{
    const uint64_t begin_ns = clock_monotonic_ns(journal->clock);
    enum status status =
        io_write(journal->io, journal->write_offset, journal->write_buffer, journal->write_size);
    if (status == STATUS_OK) {
        status = io_sync(journal->io);
    }
    journal->write_status = status;
    journal->write_took_ns = clock_monotonic_ns(journal->clock) - begin_ns;
}

/* On the journal thread; or on the forest thread, when the team has no thread. */
static void write_run(struct job *job)
{
    struct journal *journal = container_of(job, struct journal, job);
    struct doorbell *doorbell = journal->doorbell;
    write_durably(journal);
    /* Pairs with the acquire in write_is_done. From here on the journal is not ours to touch. */
    atomic_store_explicit(&journal->write_done, true, memory_order_release);
    doorbell_ring(doorbell);
}

static bool write_is_done(struct journal *journal)
{
    return atomic_load_explicit(&journal->write_done, memory_order_acquire);
}

void journal_append(struct journal *journal, void *buffer)
{
    struct journal_header *header = buffer;
    assert(!journal->writing);
    assert((uintptr_t)buffer % SECTOR_SIZE == 0);
    assert(header->size >= JOURNAL_HEADER_SIZE);
    assert(header->size <= journal->entry_size_max);
    assert(header->kind == JOURNAL_KIND_BATCH || header->kind == JOURNAL_KIND_SEAL);
    assert((header->kind == JOURNAL_KIND_SEAL) == (header->request_count == 0));
    assert(header->request_count <= BATCH_REQUEST_MAX);
    assert(header->kind == JOURNAL_KIND_BATCH || header->size == JOURNAL_HEADER_SIZE);
    assert(journal_has_room(journal, header->size));
    assert_invariants(journal);

    const uint64_t size = padded_size(header->size);
    memset((uint8_t *)buffer + header->size, 0, size - header->size);
    memset(header->zero, 0, sizeof(header->zero));
    header->parent = journal->parent;
    header->sequence = journal->sequence_next;
    header->offset = place(journal, header->size);
    header->checksum_body = body_checksum(journal, header);
    header->checksum_header = header_checksum(journal, header);
    assert(header_is_next(journal, header)); /* What recovery will ask. */

    journal->write_buffer = buffer;
    journal->write_offset = journal->zone_offset + header->offset;
    journal->write_size = size;
    journal->writing = true;
    atomic_store_explicit(&journal->write_done, false, memory_order_relaxed);
    advance(journal, header);
}

void journal_hand_over(struct journal *journal)
{
    assert(journal->writing && !write_is_done(journal));
    journal->job = (struct job){.run = write_run};
    workers_submit(journal->workers, &journal->job);
}

void journal_write(struct journal *journal)
{
    assert(journal->writing && !write_is_done(journal));
    write_durably(journal);
    atomic_store_explicit(&journal->write_done, true, memory_order_relaxed); /* Our own news. */
}

bool journal_reap(struct journal *journal, enum status *status)
{
    if (!journal->writing) {
        return false;
    }
    while (!write_is_done(journal)) {
        if (!workers_run_one(journal->workers)) {
            return false;
        }
    }
    journal->writing = false;
    journal->write_ns = journal->write_ns - journal->write_ns / 8 + journal->write_took_ns / 8;
    journal->write_ns_max = max_u64(journal->write_ns_max, journal->write_took_ns);
    journal->written_bytes += journal->write_size;
    journal->written_count += 1;
    *status = journal->write_status;
    return true;
}

void journal_wait(struct journal *journal)
{
    while (journal->writing) {
        const uint64_t seen = doorbell_count(journal->doorbell);
        if (write_is_done(journal)) {
            return;
        }
        if (!workers_run_one(journal->workers)) {
            doorbell_wait(journal->doorbell, seen, DOORBELL_WAIT_FOREVER);
        }
    }
}

void journal_advance_tail(struct journal *journal, uint64_t offset)
{
    assert(offset < journal->zone_size);
    assert(offset % SECTOR_SIZE == 0);
    if (offset == journal->tail) {
        return; /* In a ring that is full to the last sector it is head, too: then keep all. */
    }
    assert(!journal->empty);
    const uint64_t distance = (offset + journal->zone_size - journal->tail) % journal->zone_size;
    assert(distance <= journal_used(journal));
    (void)distance;

    journal->tail = offset;
    journal->empty = offset == journal->head;
    assert_invariants(journal);
}

uint64_t journal_used(const struct journal *journal)
{
    if (journal->empty) {
        return 0;
    }
    if (journal->head > journal->tail) {
        return journal->head - journal->tail;
    }
    return journal->zone_size - journal->tail + journal->head;
}
