/* Goal: a line allows what it says to whom it says it, and every other line is refused with the
 * reason; what is allowed is what a reading of the lines in words gives.
 * Method: tables of lines, users and groups that every Debian has, and random rules against a model
 * that keeps a table of users, grooves and rights. */
#include <criterion/criterion.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

#include "server/access.h"
#include "tests/harness/prng.h"

TestSuite(access, .timeout = 120);

static struct access_rules rules;
static char error[ACCESS_ERROR_SIZE];

static void add(const char *text, uint32_t line)
{
    cr_assert_eq(access_add(&rules, text, line, error), STATUS_OK, "%s: %s", text, error);
}

/* Names as grooves have them: padded with zeros. */
static const char *padded(const char *name)
{
    static char groove[NAME_SIZE];
    memset(groove, 0, sizeof groove);
    memcpy(groove, name, strlen(name));
    return groove;
}

static bool allows(uint32_t uid, enum access_right right, const char *groove)
{
    return access_allows(&rules, uid, right, padded(groove));
}

Test(access, without_a_line_everybody_may_do_everything)
{
    cr_assert(allows(0, ACCESS_ADMIN, "books"));
    cr_assert(allows(1000, ACCESS_ADMIN, "books"));
    cr_assert(access_allows(&rules, 1000, ACCESS_ADMIN, NULL));
    cr_assert(access_allows_some(&rules, 1000, ACCESS_ADMIN));
    cr_assert_not(allows(ACCESS_UID_UNMAPPED, ACCESS_READ, "books"));
    cr_assert_not(access_allows_some(&rules, UINT32_MAX, ACCESS_READ));
}

Test(access, a_line_denies_whatever_it_does_not_allow)
{
    add("uid:1000 write books", 7);
    cr_assert_eq(rules.count, 1);
    cr_assert_eq(rules.rules[0].line, 7);
    cr_assert_str_eq(rules.rules[0].who, "uid:1000");
    cr_assert(allows(1000, ACCESS_READ, "books"));
    cr_assert(allows(1000, ACCESS_WRITE, "books"));
    cr_assert_not(allows(1000, ACCESS_ADMIN, "books"));
    cr_assert_not(allows(1000, ACCESS_READ, "book"));
    cr_assert_not(allows(1000, ACCESS_READ, "bookshelf"));
    cr_assert_not(access_allows(&rules, 1000, ACCESS_READ, NULL));
    cr_assert_not(allows(1001, ACCESS_READ, "books"));
    cr_assert_not(allows(0, ACCESS_READ, "books")); /* Not even root. */
    cr_assert(access_allows_some(&rules, 1000, ACCESS_WRITE));
    cr_assert_not(access_allows_some(&rules, 1000, ACCESS_ADMIN));
    cr_assert_not(access_allows_some(&rules, 0, ACCESS_READ));
}

Test(access, everybody_is_everybody_with_a_number)
{
    add(" *\tread  * ", 1);
    cr_assert(allows(0, ACCESS_READ, "books"));
    cr_assert(access_allows(&rules, 4294967294, ACCESS_READ, NULL));
    cr_assert_not(allows(0, ACCESS_WRITE, "books"));
    cr_assert_not(allows(ACCESS_UID_UNMAPPED, ACCESS_READ, "books"));
    cr_assert_not(allows(UINT32_MAX, ACCESS_READ, "books"));
    cr_assert_not(access_allows(&rules, UINT32_MAX, ACCESS_READ, NULL));
}

Test(access, names_and_groups_become_numbers)
{
    add("root admin *", 1);
    cr_assert_eq(rules.rules[0].uid, 0);
    const struct passwd *bin = getpwnam("bin");
    cr_assert_not_null(bin);
    const uint32_t uid = bin->pw_uid;
    add("bin read books", 2);
    cr_assert_eq(rules.rules[1].uid, uid);
    add("@bin write coins", 3); /* Its own group: the group's list need not name it. */
    cr_assert(allows(uid, ACCESS_WRITE, "coins"));
    cr_assert_not(allows(uid, ACCESS_WRITE, "books"));
    for (uint32_t i = 2; i < rules.count; i++) {
        cr_assert_eq(rules.rules[i].line, 3);
        cr_assert_str_eq(rules.rules[i].who, "@bin");
        for (uint32_t k = 2; k < i; k++) {
            cr_assert_neq(rules.rules[i].uid, rules.rules[k].uid, "a member twice");
        }
    }
}

Test(access, wrong_lines_are_refused_and_add_nothing)
{
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"", "three words"},
        {"uid:1", "three words"},
        {"uid:1 read", "three words"},
        {"uid:1 read a b", "three words"},
        {"uid:1 Read a", "'Read' is not a right"},
        {"uid:1 readwrite a", "is not a right"},
        {"uid:1 read 9a", "'9a' cannot be a groove's name"},
        {"uid:1 read a-b", "cannot be a groove's name"},
        {"uid:1 read **", "cannot be a groove's name"},
        {"uid:1 read this_name_has_thirty_two_bytes__", "cannot be a groove's name"},
        {"uid: read a", "'uid:' is not a user"},
        {"uid:-1 read a", "is not a user"},
        {"uid:0x10 read a", "is not a user"},
        {"uid:4294967296 read a", "is not a user"},
        {"uid:99999999999999999999 read a", "is not a user"},
        {"uid:65534 read a", "never allowed"},
        {"uid:4294967295 read a", "never allowed"},
        {"nemo-nobody read a", "no user 'nemo-nobody'"},
        {"@nemo-nobody read a", "no group 'nemo-nobody'"},
        {"@ read a", "no group ''"},
        {"a_name_of_a_user_that_is_longer_than_any_system_lets_it_be_______ read a", "three words"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        error[0] = '\0';
        cr_assert_eq(access_add(&rules, cases[i].text, 1, error), STATUS_INVALID, "%s",
                     cases[i].text);
        cr_assert_not_null(strstr(error, cases[i].expected), "%s: %s", cases[i].text, error);
        cr_assert_eq(rules.count, 0);
    }
}

Test(access, there_is_room_for_so_many_rules_and_no_more)
{
    for (uint32_t i = 0; i < ACCESS_RULE_MAX; i++) {
        char text[64];
        snprintf(text, sizeof text, "uid:%u read g%u", i, i);
        add(text, i + 1);
    }
    static const char *const more[] = {"uid:7 read a", "* read a", "@bin read a", "bin read a"};
    for (size_t i = 0; i < sizeof more / sizeof more[0]; i++) {
        cr_assert_eq(access_add(&rules, more[i], 1, error), STATUS_INVALID);
        cr_assert_not_null(strstr(error, "256"), "%s", error);
        cr_assert_eq(rules.count, ACCESS_RULE_MAX);
    }
    cr_assert(allows(ACCESS_RULE_MAX - 1, ACCESS_READ, "g255"));
    cr_assert_not(allows(7, ACCESS_READ, "a"));
}

/* Rows are users, the last of them everybody; columns are grooves, the last of them all. */
enum { USER_COUNT = 6, GROOVE_COUNT = 5, ROUNDS = 300 };

Test(access, random_rules_allow_what_a_table_says)
{
    static const char *const grooves[GROOVE_COUNT] = {"a", "b", "ab", "A", "*"};
    static const uint32_t uids[USER_COUNT] = {0, 1, 1000, 65533, 65535, ACCESS_UID_ANY};
    struct prng prng;
    prng_init(&prng, 1);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t table[USER_COUNT][GROOVE_COUNT] = {{0}};
        memset(&rules, 0, sizeof rules);
        const uint32_t count = 1 + (uint32_t)prng_below(&prng, 12);
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t user = (uint32_t)prng_below(&prng, USER_COUNT);
            const uint32_t groove = (uint32_t)prng_below(&prng, GROOVE_COUNT);
            const uint32_t right = 1 + (uint32_t)prng_below(&prng, 3);
            char who[32] = "*";
            if (uids[user] != ACCESS_UID_ANY) {
                snprintf(who, sizeof who, "uid:%u", uids[user]);
            }
            char text[80];
            snprintf(text, sizeof text, "%s %s %s", who, access_right_name(right), grooves[groove]);
            add(text, i);
            table[user][groove] = right > table[user][groove] ? right : table[user][groove];
        }
        for (uint32_t user = 0; user + 1 < USER_COUNT; user++) {
            uint32_t some = 0;
            for (uint32_t groove = 0; groove < GROOVE_COUNT; groove++) {
                uint32_t right = 0; /* The most of four cells. */
                for (uint32_t k = 0; k < 4; k++) {
                    const uint32_t cell = table[k % 2 == 0 ? user : USER_COUNT - 1]
                                               [k / 2 == 0 ? groove : GROOVE_COUNT - 1];
                    right = cell > right ? cell : right;
                }
                some = right > some ? right : some;
                for (enum access_right each = ACCESS_READ; each <= ACCESS_ADMIN; each++) {
                    const bool allowed = groove + 1 == GROOVE_COUNT
                                             ? access_allows(&rules, uids[user], each, NULL)
                                             : allows(uids[user], each, grooves[groove]);
                    cr_assert_eq(allowed, right >= each, "round %u, user %u, groove %u", round,
                                 user, groove);
                }
            }
            for (enum access_right each = ACCESS_READ; each <= ACCESS_ADMIN; each++) {
                cr_assert_eq(access_allows_some(&rules, uids[user], each), some >= each);
            }
        }
    }
}
