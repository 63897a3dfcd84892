#include "tests/harness/crash_states.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/storage/limits.h"
#include "pool/base.h"

enum { UNSYNCED_MAX = 4096 };

enum fate { FATE_LOST, FATE_KEPT, FATE_TORN, FATE_COUNT };

struct making {
    const struct trace *trace;
    const struct crash_options *options;
    struct prng *prng;
    struct sector_arena *arena;
    crash_visit *visit;
    void *context;
    uint64_t visited;

    struct image durable;
    struct image image;              /* being made */
    uint64_t unsynced[UNSYNCED_MAX]; /* events, oldest first */
    uint32_t unsynced_count;
    uint8_t fates[UNSYNCED_MAX]; /* enum fate */
    struct crash_state state;
};

static void apply(struct image *image, const struct trace_event *event)
{
    for (uint32_t i = 0; i < event->count; i++) {
        image_set(image, event->index + i, &event->sectors[i]);
    }
}

/* Which pieces of a write arrive: those before a point, those behind it, or any. */
enum tear { TEAR_PREFIX, TEAR_SUFFIX, TEAR_ANY, TEAR_COUNT };

/* Finer than any disk's sector, too, so that nothing can rest on a sector being written whole. */
static const uint32_t piece_sizes[] = {64, 512, SECTOR_SIZE};

/* A piece of a write, beside what is there before it. */
struct piece {
    const uint8_t *arriving, *present;
};

static struct piece piece_at(const struct making *making, const struct trace_event *event,
                             uint64_t offset)
{
    const uint64_t sector = offset / SECTOR_SIZE;
    return (struct piece){
        .arriving = sector_bytes(&event->sectors[sector]) + offset % SECTOR_SIZE,
        .present =
            sector_bytes(&making->image.sectors[event->index + sector]) + offset % SECTOR_SIZE,
    };
}

/* How many pieces of this size the write changes. */
static uint64_t count_changes(const struct making *making, const struct trace_event *event,
                              uint32_t piece_size)
{
    uint64_t count = 0;
    for (uint64_t offset = 0; offset < (uint64_t)event->count * SECTOR_SIZE; offset += piece_size) {
        const struct piece piece = piece_at(making, event, offset);
        count += memcmp(piece.arriving, piece.present, piece_size) != 0;
    }
    return count;
}

/* Where it can, it leaves something out, and not all: in pieces small enough for that. */
static void apply_torn(struct making *making, const struct trace_event *event)
{
    struct prng *prng = making->prng;
    const enum tear tear = (enum tear)prng_below(prng, TEAR_COUNT);
    uint64_t size = prng_below(prng, array_count(piece_sizes));
    uint64_t changes = count_changes(making, event, piece_sizes[size]);
    while (changes < 2 && size > 0) {
        size -= 1;
        changes = count_changes(making, event, piece_sizes[size]);
    }
    const uint32_t piece_size = piece_sizes[size];
    const uint64_t cut = changes < 2 ? 0 : prng_range(prng, 1, changes - 1);
    uint64_t change = 0;
    for (uint32_t i = 0; i < event->count; i++) {
        uint8_t mixed[SECTOR_SIZE];
        for (uint32_t at = 0; at < SECTOR_SIZE; at += piece_size) {
            const struct piece piece = piece_at(making, event, (uint64_t)i * SECTOR_SIZE + at);
            const bool arrives = tear == TEAR_ANY ? prng_chance(prng, 1, 2)
                                                  : (change < cut) == (tear == TEAR_PREFIX);
            change += memcmp(piece.arriving, piece.present, piece_size) != 0;
            memcpy(mixed + at, arrives ? piece.arriving : piece.present, piece_size);
        }
        const struct sector sector = sector_make(making->arena, mixed);
        image_set(&making->image, event->index + i, &sector);
    }
}

/* The image that the fates make. */
static void emit(struct making *making, const char *what)
{
    const uint64_t arena_used = making->arena->used;
    image_copy(&making->image, &making->durable);
    uint32_t counts[FATE_COUNT] = {0};
    for (uint32_t i = 0; i < making->unsynced_count; i++) {
        const struct trace_event *event = &making->trace->events[making->unsynced[i]];
        if (making->fates[i] == FATE_TORN) {
            apply_torn(making, event);
        } else if (making->fates[i] == FATE_KEPT) {
            apply(&making->image, event);
        }
        counts[making->fates[i]] += 1;
    }
    struct crash_state *state = &making->state;
    state->image = &making->image;
    snprintf(state->what, sizeof state->what, "%s: of %u unsynced writes %u whole, %u torn", what,
             making->unsynced_count, counts[FATE_KEPT], counts[FATE_TORN]);
    making->visit(making->context, state);
    making->visited += 1;
    making->arena->used = arena_used;
}

static void all_share(struct making *making, enum fate fate)
{
    memset(making->fates, (int)fate, making->unsynced_count);
}

/* Each of the first `fate_count` fates is as likely. */
static void by_chance(struct making *making, uint32_t fate_count)
{
    for (uint32_t i = 0; i < making->unsynced_count; i++) {
        making->fates[i] = (uint8_t)prng_below(making->prng, fate_count);
    }
}

static void emit_subsets(struct making *making)
{
    const uint32_t count = making->unsynced_count;
    const struct crash_options *options = making->options;
    if (count <= options->all_max) {
        for (uint32_t mask = 0; mask < UINT32_C(1) << count; mask++) {
            for (uint32_t i = 0; i < count; i++) {
                making->fates[i] = (mask >> i & 1) != 0 ? FATE_KEPT : FATE_LOST;
            }
            emit(making, "each combination");
        }
        return;
    }
    all_share(making, FATE_LOST);
    emit(making, "none");
    all_share(making, FATE_KEPT);
    emit(making, "all");
    for (uint32_t i = 0; i < options->one_max && i < count; i++) {
        /* The newest first, which the states after earlier events do not have; then any. */
        const uint32_t one = i == 0 || count <= options->one_max
                                 ? count - 1 - i
                                 : (uint32_t)prng_below(making->prng, count);
        all_share(making, FATE_LOST);
        making->fates[one] = FATE_KEPT;
        emit(making, "one alone");
        all_share(making, FATE_KEPT);
        making->fates[one] = FATE_LOST;
        emit(making, "all but one");
    }
    for (uint32_t i = 0; i < options->random; i++) {
        by_chance(making, FATE_TORN);
        emit(making, "by chance");
    }
}

static void emit_torn(struct making *making)
{
    const uint32_t count = making->unsynced_count;
    for (uint32_t i = 0; i < making->options->torn; i++) {
        switch (prng_below(making->prng, 4)) {
        case 0:
            all_share(making, FATE_LOST);
            break;
        case 1:
            all_share(making, FATE_KEPT);
            break;
        case 2:
            by_chance(making, FATE_TORN);
            break;
        default:
            by_chance(making, FATE_COUNT);
            break;
        }
        const bool newest = prng_chance(making->prng, 3, 4);
        making->fates[newest ? count - 1 : prng_below(making->prng, count)] = FATE_TORN;
        emit(making, "torn");
    }
}

static void happen(struct making *making, uint64_t number)
{
    const struct trace_event *event = &making->trace->events[number];
    if (event->kind == TRACE_WRITE) {
        assert(making->unsynced_count < UNSYNCED_MAX);
        making->unsynced[making->unsynced_count] = number;
        making->unsynced_count += 1;
        return;
    }
    uint32_t left = 0;
    for (uint32_t i = 0; i < making->unsynced_count; i++) {
        const struct trace_event *write = &making->trace->events[making->unsynced[i]];
        if ((write->zones & event->zones) != 0) {
            apply(&making->durable, write);
        } else {
            making->unsynced[left] = making->unsynced[i];
            left += 1;
        }
    }
    making->unsynced_count = left;
}

uint64_t crash_states(const struct trace *trace, const struct crash_options *options,
                      struct prng *prng, struct sector_arena *arena, crash_visit *visit,
                      void *context)
{
    struct making *making = calloc(1, sizeof *making);
    if (making == NULL) {
        abort();
    }
    making->trace = trace;
    making->options = options;
    making->prng = prng;
    making->arena = arena;
    making->visit = visit;
    making->context = context;
    image_init(&making->durable, trace->base.sector_max);
    image_init(&making->image, trace->base.sector_max);
    image_copy(&making->durable, &trace->base);
    for (uint64_t i = 0; i < trace->event_count; i++) {
        happen(making, i);
        if (options->stride > 1 && !prng_chance(prng, 1, options->stride)) {
            continue;
        }
        making->state.event = i;
        making->state.commit_max = trace->events[i].issued;
        making->state.commit_min = i + 1 < trace->event_count ? trace->events[i + 1].acknowledged
                                                              : trace->acknowledged_after;
        emit_subsets(making);
        if (trace->events[i].kind == TRACE_WRITE) {
            emit_torn(making);
        }
    }
    const uint64_t visited = making->visited;
    image_deinit(&making->durable);
    image_deinit(&making->image);
    free(making);
    return visited;
}
