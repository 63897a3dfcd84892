/* Goal: the shared arithmetic holds at its edges. Method: small exhaustive ranges. */
#include "pool/base.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>

TestSuite(base, .timeout = 120);

Test(base, rounding_agrees_with_counting)
{
    for (uint64_t alignment = 1; alignment <= 17; alignment++) {
        uint64_t multiple = 0;
        for (uint64_t value = 0; value <= 100; value++) {
            if (multiple < value) {
                multiple += alignment;
            }
            cr_assert(eq(u64, align_up(value, alignment), multiple));
            cr_assert(eq(u64, div_ceil(value, alignment), multiple / alignment));
        }
    }
    cr_assert(eq(u64, div_ceil(UINT64_MAX, 2), UINT64_C(1) << 63));
}

Test(base, powers_of_two_have_one_bit)
{
    for (uint64_t value = 0; value < 5000; value++) {
        cr_assert(eq(int, is_power_of_two(value), __builtin_popcountll(value) == 1));
    }
}

Test(base, smaller_and_larger)
{
    cr_assert(eq(u64, min_u64(1, UINT64_MAX), 1));
    cr_assert(eq(u64, max_u64(1, UINT64_MAX), UINT64_MAX));
}

Test(base, container_is_found_from_its_member)
{
    struct outer {
        uint64_t before;
        uint32_t member;
    } outer;

    cr_assert(eq(ptr, container_of(&outer.member, struct outer, member), &outer));
}

Test(base, no_alignment_is_a_bug, .signal = SIGABRT)
{
    (void)align_up(1, 0);
}
