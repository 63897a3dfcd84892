/* Goal: a list knows each value once, whose it is now, and nothing of values that were never asked
 * for. Method: random values of every width against an array indexed by the value; claims and
 * releases by owners that come and go. */
#include "engine/owner_list.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <string.h>

#include "engine/lsm/key.h"
#include "tests/harness/prng.h"

enum { VALUE_COUNT = 60, ADD_MAX = 200 };

static struct owner_list list;
static struct prng prng;
static uint8_t memory[ADD_MAX * KEY_SIZE_MAX], scratch[ADD_MAX * KEY_SIZE_MAX];
static bool listed[VALUE_COUNT];
static uint64_t owners[VALUE_COUNT]; /* of every value, listed or not */

TestSuite(owner_list, .timeout = 60);

/* Differs from its neighbours in the first or the last byte. */
static const uint8_t *prefix_of(uint32_t value)
{
    static uint8_t prefix[KEY_SIZE_MAX];
    memset(prefix, 0, sizeof prefix);
    prefix[value % 2 == 0 ? 0 : list.prefix_size - 1] = (uint8_t)(value + 1);
    return prefix;
}

static void build(uint32_t prefix_size, uint32_t add_count)
{
    memset(listed, 0, sizeof listed);
    memset(owners, 0, sizeof owners);
    owner_list_begin(&list, prefix_size, memory);
    for (uint32_t i = 0; i < add_count; i++) {
        const uint32_t value = (uint32_t)prng_below(&prng, VALUE_COUNT);
        owner_list_add(&list, prefix_of(value));
        listed[value] = true;
    }
    owner_list_seal(&list, scratch);
}

static void check(void)
{
    uint32_t count = 0;
    for (uint32_t value = 0; value < VALUE_COUNT; value++) {
        count += listed[value];
        if (listed[value]) {
            cr_assert(eq(u64, owner_list_find(&list, prefix_of(value)), owners[value]));
        }
    }
    cr_assert(eq(u32, list.count, count));
}

Test(owner_list, values_are_known_once_and_follow_their_owners)
{
    for (uint64_t seed = 0; seed < 60; seed++) {
        prng_init(&prng, seed);
        build(8 + 8 * (uint32_t)(seed % 3), (uint32_t)prng_range(&prng, 0, ADD_MAX));
        check();
        for (uint64_t timestamp = 1; timestamp < 300; timestamp++) {
            const uint32_t value = (uint32_t)prng_below(&prng, VALUE_COUNT);
            if (owners[value] != OWNER_NONE) {
                owner_list_release(&list, prefix_of(value), owners[value]);
                owners[value] = OWNER_NONE;
            } else if (listed[value]) {
                owner_list_claim(&list, prefix_of(value), timestamp);
                owners[value] = timestamp;
            } else { /* Somebody has it, and nobody in this batch asks. */
                owners[value] = timestamp;
            }
            check();
        }
    }
}

Test(owner_list, what_another_has_is_not_released)
{
    prng_init(&prng, 7);
    build(16, ADD_MAX);
    owner_list_set(&list, 0, 5);
    owner_list_set(&list, 1, OWNER_UNKNOWN);
    uint8_t first[KEY_SIZE_MAX], second[KEY_SIZE_MAX];
    memcpy(first, owner_list_entry(&list, 0), 24);
    memcpy(second, owner_list_entry(&list, 1), 24);
    owner_list_release(&list, first, 6);
    owner_list_release(&list, second, 6);
    cr_assert(eq(u64, owner_list_find(&list, first), 5));
    cr_assert(eq(u64, owner_list_find(&list, second), OWNER_UNKNOWN));
    owner_list_claim(&list, first, 5); /* Its own, again. */
    cr_assert(eq(u64, owner_list_owner(&list, 0), 5));
}

/* Any stretch of claims and releases, taken back from its end, leaves the list as it was. */
Test(owner_list, calls_are_taken_back_one_by_one)
{
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct {
            uint32_t value;
            uint64_t timestamp;
            bool claim;
        } calls[40];
        uint8_t before[ADD_MAX * KEY_SIZE_MAX];
        prng_init(&prng, 100 + seed);
        build(8 + 8 * (uint32_t)(seed % 3), (uint32_t)prng_range(&prng, 0, ADD_MAX));
        const size_t size = (size_t)list.count * list.entry_size;
        memcpy(before, list.entries, size);
        uint32_t count = 0;
        for (uint32_t i = 0; i < array_count(calls); i++) {
            const uint32_t value = (uint32_t)prng_below(&prng, VALUE_COUNT);
            calls[count].value = value;
            calls[count].claim = owners[value] == OWNER_NONE;
            if (!calls[count].claim) {
                calls[count].timestamp = owners[value];
                owner_list_release(&list, prefix_of(value), owners[value]);
                owners[value] = OWNER_NONE;
            } else if (listed[value]) {
                calls[count].timestamp = 1000 + i;
                owner_list_claim(&list, prefix_of(value), 1000 + i);
                owners[value] = 1000 + i;
            } else { /* Somebody has it, and nobody in this batch asks. */
                owners[value] = 1000 + i;
                continue;
            }
            count += 1;
        }
        while (count > 0) {
            count -= 1;
            const uint8_t *prefix = prefix_of(calls[count].value);
            if (calls[count].claim) {
                owner_list_claim_undo(&list, prefix, calls[count].timestamp);
            } else {
                owner_list_release_undo(&list, prefix, calls[count].timestamp);
            }
        }
        cr_assert(eq(int, memcmp(list.entries, before, size), 0));
    }
}

Test(owner_list, a_release_that_changed_nothing_is_taken_back_to_nothing)
{
    prng_init(&prng, 7);
    build(16, ADD_MAX);
    owner_list_set(&list, 0, 5);
    owner_list_set(&list, 1, OWNER_UNKNOWN);
    for (uint32_t i = 0; i < 2; i++) {
        const uint64_t owner = owner_list_owner(&list, i);
        owner_list_release(&list, owner_list_entry(&list, i), 6);
        owner_list_release_undo(&list, owner_list_entry(&list, i), 6);
        cr_assert(eq(u64, owner_list_owner(&list, i), owner));
    }
}

Test(owner_list, taking_back_another_s_claim_is_a_bug, .signal = SIGABRT)
{
    prng_init(&prng, 1);
    build(8, 10);
    owner_list_set(&list, 0, 5);
    owner_list_claim_undo(&list, owner_list_entry(&list, 0), 6);
}

Test(owner_list, asking_for_a_value_that_was_not_gathered_is_a_bug, .signal = SIGABRT)
{
    build(8, 0);
    (void)owner_list_find(&list, prefix_of(3));
}

Test(owner_list, taking_what_another_has_is_a_bug, .signal = SIGABRT)
{
    prng_init(&prng, 1);
    build(8, 10);
    owner_list_set(&list, 0, 5);
    owner_list_claim(&list, owner_list_entry(&list, 0), 6);
}
