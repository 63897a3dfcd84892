/* What clients saw, and whether a store that keeps its promises could have shown them that.
 *
 * Clients write and read keys; every value is written once, so a value names its writer. Replies
 * carry numbers: a write's commit, and for a read the commit whose state it saw. So the order of
 * all is known and need not be searched for; the check sorts, and looks once
 * more at the reads of its keys for each write that got no answer:
 *
 *   - no commit number is given twice; timestamps rise with commits
 *   - what ended before something else began is not after it: a later write has a higher number, a
 *     later read none that is lower
 *   - each read shows, for each key, what the last write to it up to the read's number left
 *   - a write that got no answer happened wholly or not at all: what was seen of it must fit one
 *     place in the order
 *   - `whole`: no number is missing that no unanswered write can have
 *
 * The numbers are the store's word and are not believed: they are held against the clients' own
 * clock and values. Times are of one monotonic clock. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { HISTORY_ERROR_SIZE = 512, HISTORY_CELL_COUNT_MAX = 64 };

#define HISTORY_UNANSWERED UINT64_MAX

/* A key and what was written to or seen of it; value 0 = not there. */
struct history_cell {
    uint64_t value;
    uint32_t key;
};

struct history_op {
    bool write;
    uint32_t client;
    uint32_t event_count; /* of a write: how many timestamps it takes */
    uint32_t cell_count;
    uint64_t begin_ns, end_ns; /* HISTORY_UNANSWERED: no answer came; commit, timestamp are 0 */
    uint64_t commit;
    uint64_t timestamp; /* of a write */
    size_t cell_first;  /* in history.cells */
};

struct history {
    struct history_op *ops; /* owned, as cells */
    size_t op_count, op_capacity;
    struct history_cell *cells;
    size_t cell_count, cell_capacity;
};

void history_init(struct history *history);
void history_deinit(struct history *history);

/* `op->cell_count` cells are copied; cell_first is set here. */
void history_add(struct history *history, const struct history_op *op,
                 const struct history_cell *cells);

/* One line of text for an op, and back. False: the file is not a history; `error` says where. */
void history_print(FILE *file, const struct history_op *op, const struct history_cell *cells);
bool history_load(struct history *history, FILE *file, char error[HISTORY_ERROR_SIZE]);

/* False: `error` names the first thing that cannot be. */
bool history_check(const struct history *history, bool whole, char error[HISTORY_ERROR_SIZE]);
