/* What a load wants to know of the daemon, out of the JSON of STAT.
 *
 * No JSON library: the text is our own daemon's, whose objects of numbers hold no further objects,
 * so a number is found by the name of its object and its own. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { STAT_LEVEL_COUNT_MAX = 16 };

struct stat_sample {
    uint64_t pid;
    uint64_t op;
    uint64_t checkpoints; /* since the daemon started, as all that is counted here */
    uint64_t block_size;  /* bytes */
    uint64_t blocks_written;
    uint64_t blocks_read;
    uint64_t blocks_acquired;
    uint64_t blocks_released; /* of those acquired: waiting for a checkpoint to be free */
    uint64_t blocks_grown;
    uint64_t journal_bytes_written;
    uint64_t journal_entries;
    uint64_t debt_bytes;
    uint64_t absorbed_bars;
    uint64_t beat_overruns;
    uint64_t beat_wait_ns_max;
    uint64_t beat_wait_ns_total;
    uint64_t rss;         /* bytes */
    uint64_t memory_plan; /* bytes */
    uint64_t level_count; /* of tables_by_level */
    uint64_t tables_by_level[STAT_LEVEL_COUNT_MAX];
};

/* Blocks that the newest state needs. */
static inline uint64_t stat_blocks_live(const struct stat_sample *sample)
{
    return sample->blocks_acquired - sample->blocks_released;
}

/* The value behind `"name":` in text[0..size), or NULL. */
static inline const char *stat_find(const char *text, size_t size, const char *name)
{
    char key[64];
    const int key_size = snprintf(key, sizeof key, "\"%s\":", name);
    const char *found = memmem(text, size, key, (size_t)key_size);
    return found == NULL ? NULL : found + key_size;
}

/* Reads digits from *cursor on, up to `end`. */
static inline uint64_t stat_digits(const char **cursor, const char *end)
{
    uint64_t number = 0;
    while (*cursor < end && **cursor >= '0' && **cursor <= '9') {
        number = number * 10 + (uint64_t)(**cursor - '0');
        *cursor += 1;
    }
    return number;
}

/* The bytes of the object called `name`: *begin..*end. */
static inline bool stat_object(const char *text, size_t size, const char *name, const char **begin,
                               const char **end)
{
    *begin = stat_find(text, size, name);
    *end = *begin == NULL ? NULL : memchr(*begin, '}', size - (size_t)(*begin - text));
    return *end != NULL;
}

/* False: the text is not what this version's daemon says; `sample` is then partly filled. */
static inline bool stat_sample_parse(const char *text, size_t size, struct stat_sample *sample)
{
    const struct {
        const char *object;
        const char *name;
        uint64_t *number;
    } numbers[] = {
        {"commits", "op", &sample->op},
        {"checkpoint", "count", &sample->checkpoints},
        {"grid", "block_size", &sample->block_size},
        {"grid", "blocks_written", &sample->blocks_written},
        {"grid", "blocks_read", &sample->blocks_read},
        {"grid", "blocks_acquired", &sample->blocks_acquired},
        {"grid", "blocks_released", &sample->blocks_released},
        {"grid", "blocks_grown", &sample->blocks_grown},
        {"journal", "bytes_written", &sample->journal_bytes_written},
        {"journal", "entries", &sample->journal_entries},
        {"compaction", "debt_bytes", &sample->debt_bytes},
        {"compaction", "absorbed_bars", &sample->absorbed_bars},
        {"compaction", "beat_overrun_total", &sample->beat_overruns},
        {"compaction", "beat_wait_ns_max", &sample->beat_wait_ns_max},
        {"compaction", "beat_wait_ns_total", &sample->beat_wait_ns_total},
        {"memory", "rss", &sample->rss},
        {"memory", "plan", &sample->memory_plan},
    };
    const char *begin;
    const char *end;
    *sample = (struct stat_sample){0};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (!stat_object(text, size, numbers[i].object, &begin, &end)) {
            return false;
        }
        const char *value = stat_find(begin, (size_t)(end - begin), numbers[i].name);
        if (value == NULL) {
            return false;
        }
        *numbers[i].number = stat_digits(&value, end);
    }

    const char *value = stat_find(text, size, "pid");
    if (value == NULL) {
        return false;
    }
    sample->pid = stat_digits(&value, text + size);

    if (!stat_object(text, size, "tables", &begin, &end)) {
        return false;
    }
    value = stat_find(begin, (size_t)(end - begin), "by_level");
    if (value == NULL) {
        return false;
    }
    while (value < end && *value != ']' && sample->level_count < STAT_LEVEL_COUNT_MAX) {
        value += 1; /* The bracket, then each comma. */
        sample->tables_by_level[sample->level_count] = stat_digits(&value, end);
        sample->level_count += 1;
    }
    return true;
}

/* The most memory that process `pid` has had resident, in bytes; 0 when that cannot be told from
 * here (another machine or container). */
static inline uint64_t stat_rss_max(uint64_t pid)
{
    char path[64];
    char line[256];
    unsigned long long kib = 0;
    bool is_holt = false;
    snprintf(path, sizeof path, "/proc/%llu/status", (unsigned long long)pid);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return 0;
    }
    while (fgets(line, sizeof line, file) != NULL) {
        is_holt = is_holt || strncmp(line, "Name:\tholt", 10) == 0;
        if (sscanf(line, "VmHWM: %llu kB", &kib) == 1) {
            break;
        }
    }
    fclose(file);
    return is_holt ? kib * 1024 : 0;
}
