/* What a load measured, and how it is told. */
#pragma once

#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "benchmarks/load/stat_sample.h"
#include "ipc/protocol.h"
#include "pool/base.h"

enum { PHASE_COUNT = 3 };

/* All rounds of one kind, as they are reported. */
struct phase {
    const char *name;
    enum wire_event_type event_type;
    uint64_t round_count;
    uint32_t payload_size; /* bytes of one event */
    uint64_t events_per_batch;
    uint64_t batch_count;   /* of one round */
    uint64_t *latency_ns;   /* [round_count * batch_count]; 0: not acknowledged. Owned */
    uint64_t latency_count; /* of those acknowledged; set, and they sorted, when the phase ended */
    uint64_t elapsed_ns;
    _Atomic uint64_t event_count;   /* acknowledged, without those that failed */
    _Atomic uint64_t failure_count; /* events that failed */
    _Atomic uint64_t busy_count;    /* requests sent again because the queue was full */
};

/* Owned by main; the atomics of the running phase are also its clients'. */
struct report {
    struct phase phases[PHASE_COUNT];
    struct stat_sample before;
    struct stat_sample last;
    bool sampled; /* `before` and `last` are set */

    /* The most ever seen. */
    uint64_t rss_max; /* bytes */
    uint64_t blocks_live_max;
    uint64_t tables_by_level_max[STAT_LEVEL_COUNT_MAX];

    bool counted;
    uint64_t objects; /* as the daemon counts them at the end; valid if counted */
    bool settled;
    uint64_t settle_ns; /* how long it took; valid if settled */
};

static inline int compare_u64(const void *a, const void *b)
{
    const uint64_t left = *(const uint64_t *)a;
    const uint64_t right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

/* Sorts the latencies of the acknowledged batches to the front. */
static inline void phase_finish(struct phase *phase)
{
    const uint64_t count = phase->round_count * phase->batch_count;
    phase->latency_count = 0;
    for (uint64_t i = 0; i < count; i++) {
        if (phase->latency_ns[i] != 0) {
            phase->latency_ns[phase->latency_count] = phase->latency_ns[i];
            phase->latency_count += 1;
        }
    }
    if (phase->latency_count > 0) {
        qsort(phase->latency_ns, phase->latency_count, sizeof *phase->latency_ns, compare_u64);
    }
}

/* The latency that `part` of the batches did not exceed, in ms. */
static inline double latency_ms(const struct phase *phase, double part)
{
    if (phase->latency_count == 0) {
        return 0;
    }
    const uint64_t rank = (uint64_t)(part * (double)phase->latency_count);
    return (double)phase->latency_ns[min_u64(rank, phase->latency_count - 1)] / 1e6;
}

static inline double latency_ratio(const struct phase *phase)
{
    const double median = latency_ms(phase, 0.5);
    return median == 0 ? 0 : latency_ms(phase, 1) / median;
}

static inline double events_per_s(const struct phase *phase)
{
    return phase->elapsed_ns == 0
               ? 0
               : (double)atomic_load(&phase->event_count) * 1e9 / (double)phase->elapsed_ns;
}

static inline uint32_t levels_in_use(const struct report *report)
{
    uint32_t count = 0;
    for (uint32_t level = 0; level < STAT_LEVEL_COUNT_MAX; level++) {
        count += report->tables_by_level_max[level] > 0;
    }
    return count;
}

struct written {
    uint64_t blocks;
    double grid_gb;
    double journal_gb;
    double amplification; /* bytes of grid and journal for one of the events' */
};

static inline struct written written_by(const struct report *report)
{
    uint64_t event_bytes = 0;
    for (uint32_t i = 0; i < PHASE_COUNT; i++) {
        event_bytes += atomic_load(&report->phases[i].event_count) * report->phases[i].payload_size;
    }
    const uint64_t blocks = report->last.blocks_written - report->before.blocks_written;
    const uint64_t grid = blocks * report->last.block_size;
    const uint64_t journal =
        report->last.journal_bytes_written - report->before.journal_bytes_written;
    return (struct written){
        .blocks = blocks,
        .grid_gb = (double)grid / 1e9,
        .journal_gb = (double)journal / 1e9,
        .amplification = event_bytes == 0 ? 0 : (double)(grid + journal) / (double)event_bytes,
    };
}

static inline void report_text(const struct report *report)
{
    printf("%-8s %12s %9s %11s %9s %9s %9s %9s %9s %8s %7s\n", "phase", "objects", "seconds",
           "objects/s", "batches", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "max/p50", "busy");
    for (uint32_t i = 0; i < PHASE_COUNT; i++) {
        const struct phase *phase = &report->phases[i];
        if (phase->round_count > 0) {
            printf("%-8s %12" PRIu64 " %9.2f %11.0f %9" PRIu64
                   " %9.2f %9.2f %9.2f %9.2f %8.1f %7" PRIu64 "\n",
                   phase->name, atomic_load(&phase->event_count), (double)phase->elapsed_ns / 1e9,
                   events_per_s(phase), phase->latency_count, latency_ms(phase, 0.5),
                   latency_ms(phase, 0.99), latency_ms(phase, 0.999), latency_ms(phase, 1),
                   latency_ratio(phase), atomic_load(&phase->busy_count));
        }
    }
    const struct stat_sample *last = &report->last;
    const struct written written = written_by(report);
    printf("\n");
    if (report->counted) {
        printf("%-16s %" PRIu64 "\n", "objects now", report->objects);
    }
    printf("%-16s %" PRIu64 "\n", "checkpoints", last->checkpoints - report->before.checkpoints);
    printf("%-16s %" PRIu32 "  (tables at most:", "levels in use", levels_in_use(report));
    for (uint32_t level = 0; level < last->level_count; level++) {
        printf(" %" PRIu64, report->tables_by_level_max[level]);
    }
    printf(")\n%-16s %" PRIu64 " blocks of %" PRIu64
           ", %.2f GB; journal %.2f GB; amplification %.2f\n",
           "written", written.blocks, last->block_size, written.grid_gb, written.journal_gb,
           written.amplification);
    printf("%-16s %" PRIu64 " blocks (%" PRIu64 " at most), and %" PRIu64
           " that wait for a checkpoint; file %.2f GB\n",
           "live", stat_blocks_live(last), report->blocks_live_max, last->blocks_released,
           (double)(last->blocks_grown * last->block_size) / 1e9);
    printf("%-16s %.1f MiB at most; planned for the forest %.1f MiB\n", "memory",
           (double)report->rss_max / 1048576, (double)last->memory_plan / 1048576);
    printf("%-16s %" PRIu64 " over plan; longest wait %.2f ms; %" PRIu64 " bars absorbed\n",
           "beats", last->beat_overruns - report->before.beat_overruns,
           (double)last->beat_wait_ns_max / 1e6,
           last->absorbed_bars - report->before.absorbed_bars);
    printf("%-16s %.1f MB owed", "compaction", (double)last->debt_bytes / 1e6);
    if (report->settled) {
        printf("; settled in %.1f s", (double)report->settle_ns / 1e9);
    }
    printf("\n");
}

/* One flat object with names that are found once, so that sed can read it. */
static inline void report_json(const struct report *report)
{
    const struct stat_sample *last = &report->last;
    const struct written written = written_by(report);
    printf("{");
    for (uint32_t i = 0; i < PHASE_COUNT; i++) {
        const struct phase *phase = &report->phases[i];
        const char *name = phase->name;
        if (phase->round_count > 0) {
            printf("\"%s_objects\":%" PRIu64 ",\"%s_seconds\":%.3f,\"%s_per_s\":%.0f,"
                   "\"%s_batches\":%" PRIu64 ",\"%s_p50_ms\":%.3f,\"%s_p99_ms\":%.3f,"
                   "\"%s_p999_ms\":%.3f,\"%s_max_ms\":%.3f,\"%s_max_ratio\":%.2f,"
                   "\"%s_busy\":%" PRIu64 ",\"%s_failures\":%" PRIu64 ",",
                   name, atomic_load(&phase->event_count), name, (double)phase->elapsed_ns / 1e9,
                   name, events_per_s(phase), name, phase->latency_count, name,
                   latency_ms(phase, 0.5), name, latency_ms(phase, 0.99), name,
                   latency_ms(phase, 0.999), name, latency_ms(phase, 1), name, latency_ratio(phase),
                   name, atomic_load(&phase->busy_count), name, atomic_load(&phase->failure_count));
        }
    }
    printf("\"objects\":%" PRIu64 ",\"checkpoints\":%" PRIu64 ",\"levels\":%" PRIu32
           ",\"tables_by_level\":[",
           report->objects, last->checkpoints - report->before.checkpoints, levels_in_use(report));
    for (uint32_t level = 0; level < last->level_count; level++) {
        printf("%s%" PRIu64, level == 0 ? "" : ",", report->tables_by_level_max[level]);
    }
    printf("],\"block_size\":%" PRIu64 ",\"blocks_written\":%" PRIu64 ",\"grid_gb\":%.3f,"
           "\"journal_gb\":%.3f,\"amplification\":%.3f,\"blocks_live\":%" PRIu64
           ",\"blocks_live_max\":%" PRIu64 ",\"blocks_released\":%" PRIu64
           ",\"blocks_grown\":%" PRIu64,
           last->block_size, written.blocks, written.grid_gb, written.journal_gb,
           written.amplification, stat_blocks_live(last), report->blocks_live_max,
           last->blocks_released, last->blocks_grown);
    printf(",\"rss_max\":%" PRIu64 ",\"memory_plan\":%" PRIu64 ",\"beat_overruns\":%" PRIu64
           ",\"beat_wait_max_ms\":%.3f,\"absorbed_bars\":%" PRIu64 ",\"debt_bytes\":%" PRIu64
           ",\"settle_s\":%.2f,\"settled\":%s}\n",
           report->rss_max, last->memory_plan, last->beat_overruns - report->before.beat_overruns,
           (double)last->beat_wait_ns_max / 1e6, last->absorbed_bars - report->before.absorbed_bars,
           last->debt_bytes, (double)report->settle_ns / 1e9, report->settled ? "true" : "false");
}
