#include "tests/harness/history.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "pool/base.h"

/* ---- Keeping -----------------------------------------------------------------------------------
 */

static void *grown(void *array, size_t count, size_t *capacity, size_t element_size)
{
    if (count <= *capacity) {
        return array;
    }
    *capacity = 2 * count;
    void *larger = realloc(array, *capacity * element_size);
    if (larger == NULL) {
        abort();
    }
    return larger;
}

static void *array_of(size_t count, size_t element_size)
{
    void *array = calloc(count > 0 ? count : 1, element_size);
    if (array == NULL) {
        abort();
    }
    return array;
}

void history_init(struct history *history)
{
    *history = (struct history){0};
}

void history_deinit(struct history *history)
{
    free(history->ops);
    free(history->cells);
    *history = (struct history){0};
}

void history_add(struct history *history, const struct history_op *op,
                 const struct history_cell *cells)
{
    assert(op->cell_count <= HISTORY_CELL_COUNT_MAX);
    history->ops =
        grown(history->ops, history->op_count + 1, &history->op_capacity, sizeof *history->ops);
    history->cells = grown(history->cells, history->cell_count + op->cell_count,
                           &history->cell_capacity, sizeof *history->cells);
    struct history_op *kept = &history->ops[history->op_count++];
    *kept = *op;
    kept->cell_first = history->cell_count;
    if (op->cell_count > 0) {
        memcpy(history->cells + history->cell_count, cells, op->cell_count * sizeof *cells);
    }
    history->cell_count += op->cell_count;
}

/* w CLIENT BEGIN END COMMIT TIMESTAMP EVENTS KEY=VALUE ...        END "-": no answer */
void history_print(FILE *file, const struct history_op *op, const struct history_cell *cells)
{
    fprintf(file, "%c %" PRIu32 " %" PRIu64, op->write ? 'w' : 'r', op->client, op->begin_ns);
    if (op->end_ns == HISTORY_UNANSWERED) {
        fputs(" -", file);
    } else {
        fprintf(file, " %" PRIu64, op->end_ns);
    }
    fprintf(file, " %" PRIu64 " %" PRIu64 " %" PRIu32, op->commit, op->timestamp, op->event_count);
    for (uint32_t i = 0; i < op->cell_count; i++) {
        fprintf(file, " %" PRIu32 "=%" PRIu64, cells[i].key, cells[i].value);
    }
    fputc('\n', file);
}

static bool line_parse(const char *line, struct history_op *op, struct history_cell *cells)
{
    char kind;
    char end[24];
    int used = 0;
    *op = (struct history_op){0};
    if (sscanf(line, "%c %" SCNu32 " %" SCNu64 " %23s %" SCNu64 " %" SCNu64 " %" SCNu32 "%n", &kind,
               &op->client, &op->begin_ns, end, &op->commit, &op->timestamp, &op->event_count,
               &used) != 7 ||
        (kind != 'w' && kind != 'r')) {
        return false;
    }
    char *end_end = end + 1;
    op->end_ns = strcmp(end, "-") == 0 ? HISTORY_UNANSWERED : strtoull(end, &end_end, 10);
    op->write = kind == 'w';
    const char *at = line + used;
    int cell_size;
    while (op->cell_count < HISTORY_CELL_COUNT_MAX &&
           sscanf(at, " %" SCNu32 "=%" SCNu64 "%n", &cells[op->cell_count].key,
                  &cells[op->cell_count].value, &cell_size) == 2) {
        at += cell_size;
        op->cell_count += 1;
    }
    return *end_end == '\0' && op->begin_ns <= op->end_ns && strcmp(at, "\n") == 0;
}

bool history_load(struct history *history, FILE *file, char error[HISTORY_ERROR_SIZE])
{
    char *line = NULL;
    size_t capacity = 0;
    uint64_t number = 0;
    bool good = true;
    while (good && getline(&line, &capacity, file) > 0) {
        struct history_op op;
        struct history_cell cells[HISTORY_CELL_COUNT_MAX];
        number += 1;
        good = line_parse(line, &op, cells);
        if (good) {
            history_add(history, &op, cells);
        }
    }
    if (!good) {
        snprintf(error, HISTORY_ERROR_SIZE, "line %" PRIu64 " is not an operation", number);
    }
    free(line);
    return good;
}

/* ---- Checking ----------------------------------------------------------------------------------
 */

/* What a write left of a key. */
struct place {
    uint32_t key;
    bool answered;
    uint64_t commit; /* 0 if not answered */
    uint64_t value;
    const struct history_op *op;
};

/* What a read saw of a key. */
struct sight {
    uint32_t key;
    uint64_t value;
    const struct history_op *op;
    uint64_t writer_commit; /* the answered write that is seen; UINT64_MAX: an unanswered one */
};

/* Where an unanswered write may be: after `low`, up to `high`. */
struct bounds {
    uint64_t low;
    uint64_t high; /* UINT64_MAX: nobody saw it */
};

struct check {
    const struct history *history;
    char *error;
    const struct history_op **writes; /* answered, by commit */
    size_t write_count;
    struct place *places; /* by key, answered before not, then commit */
    size_t place_count;
    struct place *values; /* of values other than 0, by value */
    size_t value_count;
    struct sight *sights; /* by key, then the read's commit */
    size_t sight_count;
    struct bounds *bounds;  /* [op_count] of unanswered writes */
    uint64_t *ended_before; /* [op_count] the highest number of what ended before it began */
    const struct history_op **by_begin, **by_end; /* answered; by_begin has all */
};

__attribute__((format(printf, 2, 3))) static bool wrong(const struct check *check,
                                                        const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(check->error, HISTORY_ERROR_SIZE, format, arguments);
    va_end(arguments);
    return false;
}

static bool is_answered(const struct history_op *op)
{
    return op->end_ns != HISTORY_UNANSWERED;
}

static size_t index_of(const struct check *check, const struct history_op *op)
{
    return (size_t)(op - check->history->ops);
}

static int compare(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

static int by_commit(const void *a, const void *b)
{
    const struct history_op *const *left = a;
    const struct history_op *const *right = b;
    return compare((*left)->commit, (*right)->commit);
}

static int by_begin(const void *a, const void *b)
{
    const struct history_op *const *left = a;
    const struct history_op *const *right = b;
    return compare((*left)->begin_ns, (*right)->begin_ns);
}

static int by_end(const void *a, const void *b)
{
    const struct history_op *const *left = a;
    const struct history_op *const *right = b;
    return compare((*left)->end_ns, (*right)->end_ns);
}

static int by_place(const void *a, const void *b)
{
    const struct place *left = a;
    const struct place *right = b;
    const int key = compare(left->key, right->key);
    const int answered = compare(right->answered, left->answered);
    return key != 0 ? key : answered != 0 ? answered : compare(left->commit, right->commit);
}

static int by_value(const void *a, const void *b)
{
    const struct place *left = a;
    const struct place *right = b;
    const int value = compare(left->value, right->value);
    return value != 0 ? value : compare(left->key, right->key);
}

static int by_sight(const void *a, const void *b)
{
    const struct sight *left = a;
    const struct sight *right = b;
    const int key = compare(left->key, right->key);
    return key != 0 ? key : compare(left->op->commit, right->op->commit);
}

/* Takes the history apart. */
static void sort_out(struct check *check)
{
    const struct history *history = check->history;
    for (size_t i = 0; i < history->op_count; i++) {
        const struct history_op *op = &history->ops[i];
        check->by_begin[i] = op;
        if (op->write && is_answered(op)) {
            check->writes[check->write_count++] = op;
        }
        for (uint32_t j = 0; j < op->cell_count; j++) {
            const struct history_cell *cell = &history->cells[op->cell_first + j];
            if (op->write) {
                const struct place place = {cell->key, is_answered(op), op->commit, cell->value,
                                            op};
                check->places[check->place_count++] = place;
                if (cell->value != 0) {
                    check->values[check->value_count++] = place;
                }
            } else if (is_answered(op)) {
                check->sights[check->sight_count++] = (struct sight){cell->key, cell->value, op, 0};
            }
        }
        check->bounds[i] = (struct bounds){0, UINT64_MAX};
    }
    qsort(check->writes, check->write_count, sizeof(void *), by_commit);
    qsort(check->by_begin, history->op_count, sizeof(void *), by_begin);
    memcpy(check->by_end, check->by_begin, history->op_count * sizeof(void *));
    qsort(check->by_end, history->op_count, sizeof(void *), by_end);
    qsort(check->places, check->place_count, sizeof *check->places, by_place);
    qsort(check->values, check->value_count, sizeof *check->values, by_value);
    qsort(check->sights, check->sight_count, sizeof *check->sights, by_sight);
}

/* Numbers and timestamps of writes. */
static bool check_numbers(const struct check *check, bool whole)
{
    for (size_t i = 0; i < check->write_count; i++) {
        const struct history_op *op = check->writes[i];
        const struct history_op *before = i > 0 ? check->writes[i - 1] : NULL;
        if (op->commit == 0) {
            return wrong(check, "client %" PRIu32 ": a write was given no commit number",
                         op->client);
        }
        if (before != NULL && before->commit == op->commit) {
            return wrong(check,
                         "commit %" PRIu64 " was given twice, to clients %" PRIu32 " and %" PRIu32,
                         op->commit, before->client, op->client);
        }
        if (before != NULL && op->timestamp < before->timestamp + before->event_count) {
            return wrong(check,
                         "commit %" PRIu64 " has timestamp %" PRIu64 ", but commit %" PRIu64
                         " has %" PRIu64 " and %" PRIu32 " events",
                         op->commit, op->timestamp, before->commit, before->timestamp,
                         before->event_count);
        }
    }
    size_t unanswered_count = 0;
    for (size_t i = 0; i < check->history->op_count; i++) {
        unanswered_count += check->history->ops[i].write && !is_answered(&check->history->ops[i]);
    }
    if (whole && check->write_count > 0) {
        const uint64_t missing = check->writes[check->write_count - 1]->commit - check->write_count;
        if (missing > unanswered_count) {
            return wrong(check,
                         "%" PRIu64 " commit numbers are missing, and only %zu writes got no "
                         "answer",
                         missing, unanswered_count);
        }
    }
    return true;
}

/* What ended before something began is not after it. */
static bool check_time(struct check *check)
{
    const struct history *history = check->history;
    size_t ended = 0;
    uint64_t highest = 0;
    for (size_t i = 0; i < history->op_count; i++) {
        const struct history_op *op = check->by_begin[i];
        while (ended < history->op_count && check->by_end[ended]->end_ns < op->begin_ns) {
            highest = max_u64(highest, check->by_end[ended]->commit);
            ended += 1;
        }
        check->ended_before[index_of(check, op)] = highest;
        if (!is_answered(op)) {
            continue;
        }
        if (op->write ? op->commit <= highest : op->commit < highest) {
            return wrong(check,
                         "client %" PRIu32 ": a %s has number %" PRIu64 ", but %" PRIu64
                         " was known before it began",
                         op->client, op->write ? "write" : "read", op->commit, highest);
        }
    }
    return true;
}

/* How many places stand before those of `key` that are unanswered, or answered after `commit`. */
static size_t places_up_to(const struct check *check, uint32_t key, uint64_t commit)
{
    size_t low = 0;
    size_t high = check->place_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const struct place *place = &check->places[middle];
        const bool counts =
            place->key < key || (place->key == key && place->answered && place->commit <= commit);
        low = counts ? middle + 1 : low;
        high = counts ? high : middle;
    }
    return low;
}

/* The last answered write to `key` up to `commit`; NULL: none. */
static const struct place *place_at(const struct check *check, uint32_t key, uint64_t commit)
{
    const size_t end = places_up_to(check, key, commit);
    const struct place *place = end > 0 ? &check->places[end - 1] : NULL;
    return place != NULL && place->key == key && place->answered ? place : NULL;
}

static const struct place *writer_of(const struct check *check, uint32_t key, uint64_t value)
{
    const struct place wanted = {.key = key, .value = value};
    return bsearch(&wanted, check->values, check->value_count, sizeof wanted, by_value);
}

/* Whether the key may have been removed by a write that got no answer. */
static bool removed_unanswered(const struct check *check, const struct sight *sight)
{
    for (size_t i = places_up_to(check, sight->key, UINT64_MAX);
         i < check->place_count && check->places[i].key == sight->key; i++) {
        const struct place *place = &check->places[i];
        if (place->value == 0 && place->op->begin_ns <= sight->op->end_ns) {
            return true;
        }
    }
    return false;
}

static bool check_sight(struct check *check, struct sight *sight)
{
    const struct history_op *read = sight->op;
    const struct place *last = place_at(check, sight->key, read->commit);
    const uint64_t last_commit = last != NULL ? last->commit : 0;
    const bool expected = sight->value == (last != NULL ? last->value : 0);
    if (expected && sight->value != 0) {
        sight->writer_commit = last_commit;
        return true;
    }
    if (sight->value == 0) {
        /* Removals have no value of their own: it may have been any. */
        const bool maybe_other = removed_unanswered(check, sight);
        sight->writer_commit = maybe_other ? UINT64_MAX : last_commit;
        if (!expected && !maybe_other) {
            return wrong(check,
                         "a read of commit %" PRIu64 " does not find key %" PRIu32
                         ", which commit %" PRIu64 " wrote and nobody removed",
                         read->commit, sight->key, last_commit);
        }
        return true;
    }
    const struct place *writer = writer_of(check, sight->key, sight->value);
    if (writer == NULL) {
        return wrong(check,
                     "a read of commit %" PRIu64 " finds %" PRIu64 " in key %" PRIu32
                     ", which nobody wrote there",
                     read->commit, sight->value, sight->key);
    }
    if (writer->op->begin_ns > read->end_ns) {
        return wrong(check,
                     "a read of commit %" PRIu64 " finds in key %" PRIu32
                     " what was written after it ended",
                     read->commit, sight->key);
    }
    if (is_answered(writer->op)) {
        return wrong(check,
                     "a read of commit %" PRIu64 " finds in key %" PRIu32 " what commit %" PRIu64
                     " wrote, not what commit %" PRIu64 " did",
                     read->commit, sight->key, writer->commit, last_commit);
    }
    sight->writer_commit = UINT64_MAX;
    struct bounds *bounds = &check->bounds[index_of(check, writer->op)];
    bounds->low = max_u64(bounds->low, last_commit);
    bounds->high = min_u64(bounds->high, read->commit);
    return true;
}

/* How many of the numbers first..last were given to answered writes. */
static uint64_t given_count(const struct check *check, uint64_t first, uint64_t last)
{
    uint64_t counts[2];
    const uint64_t limits[2] = {first, last + 1};
    for (int i = 0; i < 2; i++) {
        size_t low = 0;
        size_t high = check->write_count;
        while (low < high) {
            const size_t middle = low + (high - low) / 2;
            const bool below = check->writes[middle]->commit < limits[i];
            low = below ? middle + 1 : low;
            high = below ? high : middle;
        }
        counts[i] = low;
    }
    return counts[1] - counts[0];
}

static bool is_free(const struct check *check, uint64_t first, uint64_t last)
{
    return first <= last && given_count(check, first, last) < last - first + 1;
}

/* How many sights are of lower keys. */
static size_t sights_before(const struct check *check, uint32_t key)
{
    size_t low = 0;
    size_t high = check->sight_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const bool below = check->sights[middle].key < key;
        low = below ? middle + 1 : low;
        high = below ? high : middle;
    }
    return low;
}

static int by_low(const void *a, const void *b)
{
    const struct bounds *left = a;
    const struct bounds *right = b;
    return compare(left->low, right->low);
}

/* A read that sees an earlier write in a key says where the unanswered write is not: between that
 * write and the read. What is left must hold a number that nobody else has. */
static bool check_unanswered(const struct check *check, const struct history_op *op)
{
    const struct bounds bounds = check->bounds[index_of(check, op)];
    if (bounds.high == UINT64_MAX) {
        return true; /* Nobody saw it: it need not have happened. */
    }
    struct bounds *barred = array_of(check->sight_count, sizeof *barred);
    size_t barred_count = 0;
    for (uint32_t i = 0; i < op->cell_count; i++) {
        const struct history_cell *cell = &check->history->cells[op->cell_first + i];
        for (size_t j = sights_before(check, cell->key);
             j < check->sight_count && check->sights[j].key == cell->key; j++) {
            const struct sight *sight = &check->sights[j];
            if (sight->value != cell->value && sight->writer_commit != UINT64_MAX) {
                barred[barred_count++] = (struct bounds){sight->writer_commit, sight->op->commit};
            }
        }
    }
    qsort(barred, barred_count, sizeof *barred, by_low);
    uint64_t next = max_u64(bounds.low, check->ended_before[index_of(check, op)]) + 1;
    bool fits = false;
    for (size_t i = 0; i < barred_count && !fits; i++) {
        if (barred[i].low > next) {
            fits = is_free(check, next, min_u64(barred[i].low - 1, bounds.high));
        }
        next = max_u64(next, barred[i].high + 1);
    }
    fits = fits || is_free(check, next, bounds.high);
    free(barred);
    return fits || wrong(check,
                         "client %" PRIu32 ": a write without an answer, of key %" PRIu32
                         " and others, was seen up to commit %" PRIu64
                         ", but there is no place for the whole of it",
                         op->client, check->history->cells[op->cell_first].key, bounds.high);
}

bool history_check(const struct history *history, bool whole, char error[HISTORY_ERROR_SIZE])
{
    const size_t op_count = history->op_count;
    struct check check = {
        .history = history,
        .error = error,
        .writes = array_of(op_count, sizeof(void *)),
        .places = array_of(history->cell_count, sizeof(struct place)),
        .values = array_of(history->cell_count, sizeof(struct place)),
        .sights = array_of(history->cell_count, sizeof(struct sight)),
        .bounds = array_of(op_count, sizeof(struct bounds)),
        .ended_before = array_of(op_count, sizeof(uint64_t)),
        .by_begin = array_of(op_count, sizeof(void *)),
        .by_end = array_of(op_count, sizeof(void *)),
    };
    sort_out(&check);
    bool good = check_numbers(&check, whole) && check_time(&check);
    for (size_t i = 0; i < check.sight_count && good; i++) {
        good = check_sight(&check, &check.sights[i]);
    }
    for (size_t i = 0; i < op_count && good; i++) {
        const struct history_op *op = &history->ops[i];
        good = !op->write || is_answered(op) || check_unanswered(&check, op);
    }
    free(check.writes);
    free(check.places);
    free(check.values);
    free(check.sights);
    free(check.bounds);
    free(check.ended_before);
    free(check.by_begin);
    free(check.by_end);
    return good;
}
