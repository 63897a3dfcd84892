#include "server/stat_text.h"

#include <assert.h>
#include <string.h>
#include <unistd.h>

#include "pool/memory.h"
#include "server/dispatch.h"
#include "server/json_writer.h"
#include "server/schema_text.h"

enum { GROOVE_TEXT_SIZE = 8192 }; /* 32 fields and 16 indexes of 31-byte names */

static const uint64_t ns_per_us = 1000;

static void write_text(struct json_writer *writer, const char *name, const char *text)
{
    json_text(writer, name, text, strlen(text));
}

static void write_forest(struct json_writer *writer, const struct forest_stats *stats)
{
    char checkpoint_id[CHECKSUM_TEXT_SIZE];

    json_object_begin(writer, "commits");
    json_u64(writer, "executed", stats->commit_executed);
    json_u64(writer, "durable", stats->commit_durable);
    json_u64(writer, "timestamp", stats->timestamp);
    json_u64(writer, "op", stats->op);
    json_object_end(writer);

    json_object_begin(writer, "checkpoint");
    checksum_format(&stats->checkpoint_id, checkpoint_id);
    write_text(writer, "id", checkpoint_id);
    json_u64(writer, "op", stats->checkpoint_op);
    json_u64(writer, "count", stats->checkpoint_count);
    json_u64(writer, "superblock_sequence", stats->superblock_sequence);
    json_object_end(writer);

    json_object_begin(writer, "journal");
    json_u64(writer, "used", stats->journal_used);
    json_u64(writer, "size", stats->journal_size);
    json_u64(writer, "entries", stats->journal_entries);
    json_u64(writer, "bytes_written", stats->journal_bytes_written);
    json_u64(writer, "write_mean_us", stats->journal_write_ns / ns_per_us);
    json_u64(writer, "write_max_us", stats->journal_write_ns_max / ns_per_us);
    json_object_end(writer);

    json_object_begin(writer, "grid");
    json_u64(writer, "block_size", stats->geometry.block_size);
    json_u64(writer, "blocks_acquired", stats->blocks_acquired);
    json_u64(writer, "blocks_released", stats->blocks_released);
    json_u64(writer, "blocks_grown", stats->blocks_grown);
    json_u64(writer, "blocks_max", stats->blocks_max);
    json_u64(writer, "blocks_kept", stats->blocks_kept);
    json_u64(writer, "blocks_written", stats->blocks_written);
    json_u64(writer, "blocks_read", stats->blocks_read);
    json_object_end(writer);

    json_object_begin(writer, "cache");
    json_u64(writer, "hits", stats->cache_hits);
    json_u64(writer, "misses", stats->cache_misses);
    json_u64(writer, "blocks", stats->cache_blocks);
    json_object_end(writer);

    json_object_begin(writer, "tables");
    json_u64(writer, "count", stats->tables);
    json_u64(writer, "max", stats->tables_max);
    json_array_begin(writer, "by_level");
    for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
        json_u64(writer, NULL, stats->tables_by_level[level]);
    }
    json_array_end(writer);
    json_object_end(writer);

    json_object_begin(writer, "compaction");
    json_u64(writer, "debt_bytes", stats->debt_bytes);
    json_u64(writer, "half_bars", stats->half_bar_count);
    json_u64(writer, "absorbed_bars", stats->absorbed_bars);
    json_u64(writer, "spilled_tables", stats->spilled_tables);
    json_u64(writer, "beat_overrun_total", stats->beat_overrun_total);
    json_u64(writer, "beat_wait_ns_max", stats->beat_wait_ns_max);
    json_u64(writer, "beat_wait_ns_total", stats->beat_wait_ns_total);
    json_object_end(writer);
}

static void write_sessions(struct json_writer *writer, const struct dispatch *dispatch,
                           const struct forest_stats *stats)
{
    json_object_begin(writer, "sessions");
    json_u64(writer, "count", stats->sessions);
    json_u64(writer, "max", stats->sessions_max);
    json_u64(writer, "lanes", stats->session_lanes);
    json_u64(writer, "lanes_max", stats->session_lanes_max);
    json_u64(writer, "evicted_total", stats->sessions_evicted_total);
    json_u64(writer, "replays_total", dispatch->replays_total);
    json_u64(writer, "attached_total", dispatch->attached_total);
    json_object_end(writer);
}

static void write_reads(struct json_writer *writer, const struct forest_stats *stats)
{
    json_object_begin(writer, "reads");
    json_u64(writer, "versions", stats->versions);
    json_u64(writer, "versions_max", stats->versions_max);
    json_u64(writer, "versions_revoked_total", stats->versions_revoked_total);
    json_u64(writer, "here_total", stats->reads_here_total);
    json_u64(writer, "gave_way_total", stats->reads_gave_way_total);
    json_u64(writer, "restarted_total", stats->reads_restarted_total);
    json_u64(writer, "overtaken_total", stats->reads_overtaken_total);
    json_u64(writer, "over_budget_total", stats->reads_over_budget_total);
    json_object_end(writer);
}

static void write_memory(struct json_writer *writer, const struct dispatch *dispatch,
                         const struct forest_stats *stats)
{
    struct memory_stats memory;
    memory_stats_read(&memory);
    json_object_begin(writer, "memory");
    json_u64(writer, "plan", stats->memory_plan);
    json_u64(writer, "messages_max", dispatch->message_size);
    json_u64(writer, "limit", dispatch->memory_limit);
    write_text(writer, "allocator", memory.allocator);
    json_u64(writer, "allocated", memory.allocated);
    json_u64(writer, "resident", memory.resident);
    json_u64(writer, "rss", memory.rss);
    json_u64(writer, "segments", stats->memory_segments);
    json_u64(writer, "segments_free", stats->memory_segments_free);
    json_u64(writer, "segments_free_min", stats->memory_segments_min);
    json_object_end(writer);
}

static void write_requests(struct json_writer *writer, struct dispatch *dispatch)
{
    static const enum operation operations[] = {
#define X(name, number) OPERATION_##name,
        OPERATION_MAP(X)
#undef X
    };
    struct request_queue_stats queue;
    struct listener_stats listener;
    request_queue_stats_read(dispatch->queue, &queue);
    listener_stats_read(dispatch->listener, &listener);

    json_object_begin(writer, "requests");
    json_object_begin(writer, "total");
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++) {
        json_u64(writer, operation_name(operations[i]), dispatch->requests_total[operations[i]]);
    }
    json_object_end(writer);
    json_u64(writer, "refused",
             dispatch->refused_total +
                 atomic_load_explicit(&dispatch->reads_refused_total, memory_order_relaxed));
    json_u64(writer, "expired",
             dispatch->expired_total +
                 atomic_load_explicit(&dispatch->reads_expired_total, memory_order_relaxed));
    json_u64(writer, "busy", queue.refused_total);
    json_u64(writer, "queued", queue.count);
    json_u64(writer, "queued_max", queue.count_max);
    json_u64(writer, "queued_bytes", queue.size);
    json_u64(writer, "queued_bytes_max", queue.size_max);
    json_u64(writer, "writes_waiting", dispatch->writes.count);
    json_u64(writer, "reads_waiting", dispatch->reads.count);
    json_u64(writer, "looks_waiting", dispatch->looks.count);
    json_object_end(writer);

    json_object_begin(writer, "listener");
    write_text(writer, "kind", listener_kind_name(dispatch->config->listener));
    json_u64(writer, "connections", listener.connections);
    json_u64(writer, "connections_total", listener.connections_total);
    json_u64(writer, "connections_refused", listener.connections_refused);
    json_u64(writer, "bad_messages", listener.bad_messages_total);
    json_u64(writer, "over_share", listener.over_share_total);
    json_u64(writer, "bad_frames", listener.bad_frames_total);
    json_u64(writer, "send_timeouts", listener.send_timeouts_total);
    json_u64(writer, "receive_timeouts", listener.receive_timeouts_total);
    json_u64(writer, "accept_errors", listener.accept_errors_total);
    json_u64(writer, "drops", listener.drops_total);
    json_u64(writer, "exchanges_busy", listener.exchanges_busy);
    json_u64(writer, "exchanges_max", dispatch->config->exchange_count);
    json_object_end(writer);
}

static void write_access(struct json_writer *writer, const struct dispatch *dispatch)
{
    json_object_begin(writer, "access");
    json_u64(writer, "rules", dispatch->gate.rules->count);
    json_object_begin(writer, "denied_total");
    for (enum gate_lack lack = 0; lack < GATE_LACK_COUNT; lack++) {
        json_u64(writer, gate_lack_name(lack), dispatch->gate.denied_total[lack]);
    }
    json_object_end(writer);
    json_object_end(writer);
}

static void write_groove(struct json_writer *writer, const struct forest_groove_info *info)
{
    char text[GROOVE_TEXT_SIZE];
    const bool fits = schema_text_format(&info->schema->spec, text, sizeof text);
    assert(fits);
    (void)fits;

    json_object_begin(writer, NULL);
    json_text(writer, "name", info->schema->spec.name, NAME_SIZE);
    json_u64(writer, "id", info->groove_id);
    json_u64(writer, "objects", info->object_count);
    json_u64(writer, "object_size", info->schema->object_size);
    write_text(writer, "schema", text);
    json_object_end(writer);
}

const char *stat_text(struct dispatch *dispatch, uint32_t groove_count, char *text,
                      size_t text_size)
{
    struct forest_stats stats;
    struct json_writer writer;
    forest_stats(dispatch->forest, &stats);
    json_writer_init(&writer, text, text_size);

    json_object_begin(&writer, NULL);
    write_text(&writer, "version", HOLT_VERSION);
    json_u64(&writer, "pid", (uint64_t)getpid());
    json_u64(&writer, "uptime_ns", clock_monotonic_ns(dispatch->clock) - dispatch->started_ns);
    write_text(&writer, "file", dispatch->config->data_path);
    write_text(&writer, "socket", dispatch->config->socket_path);
    json_bool(&writer, "read_only", stats.read_only);
    json_bool(&writer, "full", stats.full);
    json_bool(&writer, "low", stats.low);
    write_forest(&writer, &stats);
    write_sessions(&writer, dispatch, &stats);
    write_reads(&writer, &stats);
    write_memory(&writer, dispatch, &stats);
    write_requests(&writer, dispatch);
    write_access(&writer, dispatch);
    json_array_begin(&writer, "grooves");
    for (uint32_t i = 0; i < groove_count; i++) {
        write_groove(&writer, &dispatch->grooves[i]);
    }
    json_array_end(&writer);
    json_object_end(&writer);
    return json_writer_finish(&writer);
}
