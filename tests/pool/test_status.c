/* Goal: every status has a text of its own and an exit code that a shell can tell from success.
 * Method: walk the list. */
#include "pool/status.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

TestSuite(status, .timeout = 120);

static const enum status all[] = {
#define X(code, exit_code, text) code,
    STATUS_MAP(X)
#undef X
};
enum { STATUS_COUNT = sizeof all / sizeof all[0] };

Test(status, texts_are_distinct)
{
    for (int i = 0; i < STATUS_COUNT; i++) {
        cr_assert(gt(sz, strlen(status_text(all[i])), 0));
        for (int j = 0; j < i; j++) {
            cr_assert(ne(str, (char *)status_text(all[i]), (char *)status_text(all[j])));
        }
    }
}

Test(status, only_ok_exits_with_zero)
{
    cr_assert(eq(int, status_exit_code(STATUS_OK), 0));
    for (int i = 1; i < STATUS_COUNT; i++) {
        /* sysexits.h: 64..78; 1 and 2 belong to usage errors and 126 up to the shell. */
        cr_assert(ge(int, status_exit_code(all[i]), 64));
        cr_assert(le(int, status_exit_code(all[i]), 78));
    }
}

Test(status, numbers_from_outside_the_list_are_survived)
{
    cr_assert(eq(str, (char *)status_text((enum status)1000), "unknown status"));
    cr_assert(eq(int, status_exit_code((enum status)1000), 70));
}
