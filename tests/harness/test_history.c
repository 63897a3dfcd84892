/* Goal: the checker of client histories finds what a broken store shows, and accepts all that a
 * good one may. Method: two dozen short bad histories, each of one kind, and next to each the good
 * one that differs least; random histories of a simulated store with several clients, whose writes
 * may stay unanswered and happen or not, which must pass, and each of them with one thing spoiled.
 */
#include "tests/harness/history.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdlib.h>
#include <string.h>

#include "pool/base.h"
#include "tests/harness/prng.h"

TestSuite(history, .timeout = 60);

/* Lines as in a file: w|r CLIENT BEGIN END COMMIT TIMESTAMP EVENTS KEY=VALUE...
 * Values of a write are unique; 0 = removed, not there. */
struct bad_case {
    char name[64];
    char says[64];  /* a part of what the checker says */
    char good[512]; /* what a good store may show, or "" */
    char bad[512];
    bool whole;
};

static struct bad_case cases[] = {
    {"lost acknowledgement", "not what commit 2 did",
     "w 1 10 20 1 100 1 5=11\nw 1 30 40 2 200 1 5=12\nr 2 50 60 2 0 0 5=12\n",
     "w 1 10 20 1 100 1 5=11\nw 1 30 40 2 200 1 5=12\nr 2 50 60 2 0 0 5=11\n", false},
    {"lost first write", "does not find key 5", "w 1 10 20 1 100 1 5=11\nr 2 50 60 1 0 0 5=11\n",
     "w 1 10 20 1 100 1 5=11\nr 2 50 60 1 0 0 5=0\n", false},
    {"acknowledgement forgotten after a restart", "was known before it began",
     "w 1 10 20 7 100 1 5=11\nr 1 30 40 7 0 0 5=11\n",
     "w 1 10 20 7 100 1 5=11\nr 1 30 40 6 0 0 5=0\n", false},
    {"commit number given again after a restart", "given twice",
     "w 1 10 20 7 100 1 5=11\nw 1 30 40 8 200 1 6=12\n",
     "w 1 10 20 7 100 1 5=11\nw 1 15 40 7 200 1 6=12\n", false},
    {"number goes back", "was known before it began",
     "w 1 10 20 7 100 1 5=11\nw 2 30 40 8 200 1 6=12\n",
     "w 1 10 20 7 200 1 5=11\nw 2 30 40 6 100 1 6=12\n", false},
    {"write has the number of an earlier read", "was known before it began",
     "r 1 10 20 7 0 0 5=0\nw 2 30 40 8 200 1 6=12\n",
     "r 1 10 20 7 0 0 5=0\nw 2 30 40 7 200 1 6=12\n", false},
    {"stale read by number", "was known before it began",
     "w 1 10 20 3 100 1 5=11\nr 2 15 40 2 0 0 5=0\n",
     "w 1 10 20 3 100 1 5=11\nr 2 25 40 2 0 0 5=0\n", false},
    {"stale read under a fresh number", "not what commit 3 did",
     "w 1 10 20 2 100 1 5=11\nw 1 30 40 3 200 1 5=12\nr 2 35 60 2 0 0 5=11\n",
     "w 1 10 20 2 100 1 5=11\nw 1 30 40 3 200 1 5=12\nr 2 35 60 3 0 0 5=11\n", false},
    {"two reads of one client go back", "was known before it began",
     "w 1 10 90 3 100 1 5=11\nr 2 20 30 3 0 0 5=11\nr 2 40 50 3 0 0 5=11\n",
     "w 1 10 90 3 100 1 5=11\nr 2 20 30 3 0 0 5=11\nr 2 40 50 2 0 0 5=0\n", false},
    {"one state, two answers", "does not find key 5",
     "w 1 10 90 3 100 1 5=11\nr 2 20 30 3 0 0 5=11\nr 3 20 30 2 0 0 5=0\n",
     "w 1 10 90 3 100 1 5=11\nr 2 20 30 3 0 0 5=11\nr 3 20 30 3 0 0 5=0\n", false},
    {"read from the future by number", "not what commit 2 did",
     "w 1 10 20 2 100 1 5=11\nw 1 30 40 3 200 1 5=12\nr 2 35 60 3 0 0 5=12\n",
     "w 1 10 20 2 100 1 5=11\nw 1 30 40 3 200 1 5=12\nr 2 35 60 2 0 0 5=12\n", false},
    {"read before it was written", "after it ended", "w 1 30 - 0 0 1 5=11\nr 2 10 35 3 0 0 5=11\n",
     "w 1 30 - 0 0 1 5=11\nr 2 10 20 3 0 0 5=11\n", false},
    {"double effect of an answered write", "not what commit 3 did",
     "w 1 10 20 2 100 1 5=11\nw 2 30 40 3 200 1 5=12\nr 3 50 60 3 0 0 5=12\n"
     "r 3 70 80 4 0 0 5=12\n",
     "w 1 10 20 2 100 1 5=11\nw 2 30 40 3 200 1 5=12\nr 3 50 60 3 0 0 5=12\n"
     "r 3 70 80 4 0 0 5=11\n",
     false},
    {"double effect of an unanswered write", "no place for the whole of it",
     "w 1 10 - 0 0 1 5=11\nr 3 25 26 2 0 0 5=11\nw 2 30 40 3 200 1 5=12\nr 3 50 60 3 0 0 5=12\n"
     "r 3 70 80 4 0 0 5=12\n",
     "w 1 10 - 0 0 1 5=11\nr 3 25 26 2 0 0 5=11\nw 2 30 40 3 200 1 5=12\nr 3 50 60 3 0 0 5=12\n"
     "r 3 70 80 4 0 0 5=11\n",
     false},
    {"removed object comes back", "not what commit 3 did",
     "w 1 10 20 2 100 1 5=11\nw 1 30 40 3 200 1 5=0\nr 2 50 60 3 0 0 5=0\n",
     "w 1 10 20 2 100 1 5=11\nw 1 30 40 3 200 1 5=0\nr 2 50 60 3 0 0 5=11\n", false},
    {"value never written", "nobody wrote", "w 1 10 20 2 100 1 5=11\nr 2 50 60 2 0 0 5=11\n",
     "w 1 10 20 2 100 1 5=11\nr 2 50 60 2 0 0 5=99\n", false},
    {"value of another key", "nobody wrote",
     "w 1 10 20 2 100 2 5=11 6=12\nr 2 50 60 2 0 0 5=11 6=12\n",
     "w 1 10 20 2 100 2 5=11 6=12\nr 2 50 60 2 0 0 5=12 6=11\n", false},
    {"answered write by half", "does not find key 6",
     "w 1 10 20 2 100 2 5=11 6=12\nr 2 50 60 2 0 0 5=11 6=12\n",
     "w 1 10 20 2 100 2 5=11 6=12\nr 2 50 60 2 0 0 5=11 6=0\n", false},
    {"unanswered write by half", "no place for the whole of it",
     "w 1 10 - 0 0 2 5=11 6=12\nr 2 50 60 2 0 0 5=11 6=12\n",
     "w 1 10 - 0 0 2 5=11 6=12\nr 2 50 60 2 0 0 5=11 6=0\n", false},
    {"unanswered write comes and goes", "no place for the whole of it",
     "w 1 10 - 0 0 1 5=11\nr 2 50 60 2 0 0 5=0\nr 2 70 80 3 0 0 5=11\n",
     "w 1 10 - 0 0 1 5=11\nr 2 50 60 2 0 0 5=11\nr 2 70 80 3 0 0 5=0\nr 2 90 91 4 0 0 5=11\n",
     false},
    {"unanswered write is gone again", "no place for the whole of it",
     "w 1 10 - 0 0 1 5=11\nr 2 50 60 2 0 0 5=11\nr 2 70 80 3 0 0 5=11\n",
     "w 1 10 - 0 0 1 5=11\nr 2 50 60 2 0 0 5=11\nr 2 70 80 3 0 0 5=0\n", false},
    {"unanswered write seen where all numbers are given", "no place for the whole of it",
     "w 1 10 - 0 0 1 5=11\nw 2 10 40 1 100 1 6=12\nw 2 41 42 3 200 1 6=13\nr 2 50 60 3 0 0 5=11\n",
     "w 1 10 - 0 0 1 5=11\nw 2 10 40 1 100 1 6=12\nw 2 41 42 2 200 1 6=13\nr 2 50 60 2 0 0 5=11\n",
     false},
    {"unanswered write before it began", "no place for the whole of it",
     "w 2 10 20 2 100 1 6=12\nw 1 30 - 0 0 1 5=11\nr 2 50 60 3 0 0 5=11\n",
     "w 2 10 20 3 100 1 6=12\nw 1 30 - 0 0 1 5=11\nr 2 15 60 2 0 0 5=11\n", false},
    {"gap in commits", "are missing",
     "w 1 10 20 1 100 1 5=11\nw 2 10 - 0 0 1 6=12\nw 1 30 40 3 200 1 5=13\n",
     "w 1 10 20 1 100 1 5=11\nw 2 10 - 0 0 1 6=12\nw 1 30 40 4 200 1 5=13\n", true},
    {"timestamps overlap", "has timestamp", "w 1 10 20 1 100 5 5=11\nw 1 30 40 2 105 1 5=12\n",
     "w 1 10 20 1 100 5 5=11\nw 1 30 40 2 104 1 5=12\n", false},
    {"no number", "no commit number", "w 1 10 20 1 100 1 5=11\n", "w 1 10 20 0 100 1 5=11\n",
     false},
    {"not a history", "line 2", "w 1 10 20 1 100 1 5=11\n",
     "w 1 10 20 1 100 1 5=11\nw 1 10 20 1 100 1 5=\n", false},
};

static bool check_text(const char *text, bool whole, char *error)
{
    struct history history;
    FILE *file = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
    cr_assert_not_null(file);
    history_init(&history);
    const bool good = history_load(&history, file, error) && history_check(&history, whole, error);
    history_deinit(&history);
    fclose(file);
    return good;
}

ParameterizedTestParameters(history, bad_histories_are_told_and_their_neighbours_pass)
{
    return cr_make_param_array(struct bad_case, cases, array_count(cases));
}

ParameterizedTest(struct bad_case *one, history, bad_histories_are_told_and_their_neighbours_pass,
                  .timeout = 60)
{
    char error[HISTORY_ERROR_SIZE] = "";
    cr_assert(check_text(one->good, one->whole, error), "%s: %s", one->name, error);
    cr_assert_not(check_text(one->bad, one->whole, error), "%s", one->name);
    cr_assert_not_null(strstr(error, one->says), "%s: %s", one->name, error);
}

/* ---- A simulated store -------------------------------------------------------------------------
 */

enum { KEY_COUNT = 12, CLIENT_COUNT = 4, OP_COUNT = 400, CELL_MAX = 4 };

struct simulated {
    struct history history;
    uint64_t values[KEY_COUNT];
    uint64_t commit;
    uint64_t now;
    uint64_t value_next;
};

/* Each operation takes effect at one moment between its begin and its end. Clients overlap because
 * begin and end lie random distances around that moment, but not with themselves. */
static void simulate(struct simulated *store, struct prng *prng)
{
    uint64_t free_from[CLIENT_COUNT] = {0};
    *store = (struct simulated){.now = 1000, .value_next = 1};
    history_init(&store->history);
    for (uint32_t i = 0; i < OP_COUNT; i++) {
        struct history_cell cells[CELL_MAX];
        const uint32_t client = (uint32_t)prng_below(prng, CLIENT_COUNT);
        store->now = max_u64(store->now + prng_range(prng, 1, 50), free_from[client] + 1);
        struct history_op op = {
            .client = client,
            .write = prng_chance(prng, 1, 2),
            .begin_ns = max_u64(store->now - prng_below(prng, 200), free_from[client] + 1),
            .end_ns = store->now + prng_below(prng, 200),
            .cell_count = (uint32_t)prng_range(prng, 1, CELL_MAX),
        };
        free_from[client] = op.end_ns;
        const uint32_t first = (uint32_t)prng_below(prng, KEY_COUNT);
        for (uint32_t j = 0; j < op.cell_count; j++) {
            cells[j].key = (first + 5 * j) % KEY_COUNT;
            cells[j].value = store->values[cells[j].key];
            if (op.write) {
                cells[j].value = prng_chance(prng, 1, 5) ? 0 : store->value_next++;
            }
        }
        const bool answered = !op.write || !prng_chance(prng, 1, 10);
        const bool happens = answered || prng_chance(prng, 1, 2);
        if (op.write && happens) {
            store->commit += 1;
            for (uint32_t j = 0; j < op.cell_count; j++) {
                store->values[cells[j].key] = cells[j].value;
            }
        }
        op.commit = store->commit;
        if (op.write) {
            op.event_count = op.cell_count;
            op.timestamp = store->commit * 10;
        }
        if (!answered) {
            op.end_ns = HISTORY_UNANSWERED;
            op.commit = 0;
            op.timestamp = 0;
        }
        history_add(&store->history, &op, cells);
    }
}

Test(history, random_histories_of_a_good_store_pass)
{
    char error[HISTORY_ERROR_SIZE] = "";
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct simulated store;
        struct prng prng;
        prng_init(&prng, seed);
        simulate(&store, &prng);
        cr_assert(history_check(&store.history, true, error), "seed %llu: %s",
                  (unsigned long long)seed, error);
        history_deinit(&store.history);
    }
}

/* A read of a wrong value, a lost write, a number off by one: nearly all must be seen. Not quite
 * all can be: a write that nobody reads again may be lost. */
Test(history, random_histories_with_one_thing_spoiled_are_told)
{
    enum { SEED_COUNT = 300 };
    char error[HISTORY_ERROR_SIZE] = "";
    uint32_t told[3] = {0};
    uint32_t spoiled[3] = {0};
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        struct simulated store;
        struct prng prng;
        prng_init(&prng, seed);
        simulate(&store, &prng);
        struct history_op *op = &store.history.ops[prng_range(&prng, 20, OP_COUNT - 1)];
        uint32_t how;
        if (op->end_ns == HISTORY_UNANSWERED) {
            history_deinit(&store.history);
            continue;
        }
        struct history_cell *cell = &store.history.cells[op->cell_first];
        if (!op->write) {
            how = 0;
            const uint64_t before = cell->value;
            cell->value = before > 1 ? before - 1 : store.value_next;
        } else if (seed % 2 == 0) {
            how = 1;
            op->commit -= 1;
        } else {
            how = 2;
            cell->value = store.value_next; /* What it wrote was another thing. */
        }
        spoiled[how] += 1;
        told[how] += !history_check(&store.history, true, error);
        history_deinit(&store.history);
    }
    cr_assert_gt(spoiled[0], 50);
    cr_assert_gt(spoiled[1], 30);
    cr_assert_gt(spoiled[2], 30);
    cr_assert_geq(told[0] * 100, spoiled[0] * 98, "%u of %u", told[0], spoiled[0]);
    cr_assert_geq(told[1] * 10, spoiled[1] * 9, "%u of %u", told[1], spoiled[1]);
    cr_assert_geq(told[2] * 10, spoiled[2] * 4, "%u of %u", told[2], spoiled[2]);
}

Test(history, what_is_written_to_a_file_is_read_again)
{
    struct simulated store;
    struct history again;
    struct prng prng;
    char error[HISTORY_ERROR_SIZE];
    prng_init(&prng, 7);
    simulate(&store, &prng);
    FILE *file = tmpfile();
    cr_assert_not_null(file);
    for (size_t i = 0; i < store.history.op_count; i++) {
        const struct history_op *op = &store.history.ops[i];
        history_print(file, op, store.history.cells + op->cell_first);
    }
    rewind(file);
    history_init(&again);
    cr_assert(history_load(&again, file, error), "%s", error);
    cr_assert_eq(again.op_count, store.history.op_count);
    cr_assert_eq(again.cell_count, store.history.cell_count);
    for (size_t i = 0; i < again.op_count; i++) {
        cr_assert_eq(again.ops[i].begin_ns, store.history.ops[i].begin_ns);
        cr_assert_eq(again.ops[i].end_ns, store.history.ops[i].end_ns);
        cr_assert_eq(again.ops[i].commit, store.history.ops[i].commit);
        cr_assert_eq(again.ops[i].write, store.history.ops[i].write);
    }
    for (size_t i = 0; i < again.cell_count; i++) {
        cr_assert_eq(again.cells[i].key, store.history.cells[i].key);
        cr_assert_eq(again.cells[i].value, store.history.cells[i].value);
    }
    history_deinit(&again);
    history_deinit(&store.history);
    fclose(file);
}
