/* What every part of the verification leans on: how problems are told, and which blocks are in use.
 *
 * Each part says of each block that it comes to by what it was referred to. In the end the free set
 * must be the complement: a block in use is acquired, once, and an acquired block is in use. */
#include "engine/verify_internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#include "pool/base.h"

void verify_problem(struct verify *verify, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    verify->report->problems += 1;
    verify->problem(verify->context, text);
}

uint64_t verify_blocks_expected(const struct verify *verify)
{
    const uint64_t acquired = verify->checkpoint->blocks_acquired;
    return verify->free_set_known ? acquired - verify->free_set.releasing_count : acquired;
}

void verify_block_checked(struct verify *verify)
{
    struct verify_report *report = verify->report;
    report->blocks_checked += 1;
    report->bytes_checked += verify->geometry->block_size;
    if (verify->progress != NULL) {
        const uint64_t total = verify_blocks_expected(verify);
        verify->progress(min_u64(report->blocks_checked, total), total, verify->context);
    }
}

/* Notes that something refers to this block. */
void verify_reach(struct verify *verify, uint64_t address, const char *what)
{
    assert(address >= 1);
    if (address > verify->geometry->block_count_max) {
        verify_problem(
            verify, "grid: %s is said to be at address %llu, and the file has at most %llu", what,
            (unsigned long long)address, (unsigned long long)verify->geometry->block_count_max);
        return;
    }
    uint64_t *word = &verify->reached[(address - 1) / 64];
    const uint64_t bit = UINT64_C(1) << ((address - 1) % 64);
    if ((*word & bit) != 0) {
        verify_problem(verify,
                       "grid: two references lead to the block at address %llu; the second is %s",
                       (unsigned long long)address, what);
    }
    *word |= bit;
}

/* What the block at `address` says it is. */
static void block_describe(struct verify *verify, uint64_t address, char *text, size_t text_size)
{
    static const char *const types[] = {
        [BLOCK_TYPE_FREE_SET] = "free set", [BLOCK_TYPE_STATE] = "state",
        [BLOCK_TYPE_MANIFEST] = "manifest", [BLOCK_TYPE_INDEX] = "table index",
        [BLOCK_TYPE_VALUE] = "table value", [BLOCK_TYPE_FILTER] = "table filter",
        [BLOCK_TYPE_SPILL] = "spill",
    };
    const enum status status = grid_read_blocks(&verify->grid, address, 1, verify->single_block);
    const struct block_header *header = block_header_const(verify->single_block);
    if (status != STATUS_OK || header->type >= array_count(types) || types[header->type] == NULL) {
        snprintf(text, text_size, "unreadable, at address %llu", (unsigned long long)address);
    } else {
        snprintf(text, text_size, "a %s block of tree %u, at address %llu", types[header->type],
                 header->tree_id, (unsigned long long)address);
    }
}

/* One problem for all blocks of a kind: a bitmap that went wrong is wrong in many places. */
struct block_tally {
    uint64_t count;
    uint64_t first; /* address */
};

static void tally(struct block_tally *blocks, uint64_t word, uint64_t word_index)
{
    if (word != 0 && blocks->count == 0) {
        blocks->first = word_index * 64 + (uint64_t)__builtin_ctzll(word) + 1;
    }
    blocks->count += (uint64_t)__builtin_popcountll(word);
}

static void tally_tell(struct verify *verify, const struct block_tally *blocks, const char *what)
{
    if (blocks->count > 0) {
        char text[96];
        block_describe(verify, blocks->first, text, sizeof text);
        verify_problem(verify, "free set: %llu blocks %s; the first is %s",
                       (unsigned long long)blocks->count, what, text);
    }
}

/* Free set = complement of what is reachable. */
void verify_reached(struct verify *verify)
{
    if (!verify->free_set_known) {
        return;
    }
    const struct free_set *set = &verify->free_set;
    struct block_tally not_acquired = {0};
    struct block_tally releasing = {0};
    struct block_tally unreachable = {0};
    for (uint64_t i = 0; i < set->word_count; i++) {
        const uint64_t reached = verify->reached[i];
        tally(&not_acquired, reached & ~set->acquired[i], i);
        tally(&releasing, reached & set->releasing[i], i);
        tally(&unreachable, set->acquired[i] & ~set->releasing[i] & ~reached, i);
    }
    tally_tell(verify, &not_acquired, "are in use and called free");
    tally_tell(verify, &releasing, "are in use and about to be freed");
    if (verify->reach_whole) {
        tally_tell(verify, &unreachable, "are called in use and nothing refers to them");
    }
}
