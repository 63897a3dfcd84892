#include "server/access.h"

#include <assert.h>
#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool/base.h"
#include "server/schema_text.h"

enum { WORD_COUNT = 3 };

static const char *const right_names[] = {
    [ACCESS_READ] = "read",
    [ACCESS_WRITE] = "write",
    [ACCESS_ADMIN] = "admin",
};

const char *access_right_name(enum access_right right)
{
    assert(right >= ACCESS_READ && right <= ACCESS_ADMIN);
    return right_names[right];
}

bool access_is_unmapped(uint32_t uid)
{
    return uid == ACCESS_UID_UNMAPPED || uid == ACCESS_UID_ANY;
}

/* ---- Reading a line ----------------------------------------------------------------------------
 */

/* Cuts `text` into words. Returns how many there are; one that is too long counts as too many. */
static uint32_t words_cut(const char *text, char words[WORD_COUNT][ACCESS_WHO_SIZE])
{
    uint32_t count = 0;
    for (const char *at = text + strspn(text, " \t"); *at != '\0'; at += strspn(at, " \t")) {
        const size_t size = strcspn(at, " \t");
        if (count == WORD_COUNT || size >= ACCESS_WHO_SIZE) {
            return WORD_COUNT + 1;
        }
        memcpy(words[count], at, size);
        words[count][size] = '\0';
        count += 1;
        at += size;
    }
    return count;
}

/* What a line adds, until all of it is known to be right. */
struct addition {
    struct access_rules *rules;
    struct access_rule rule; /* but for its uid */
    uint32_t count;          /* of rules behind those that count */
};

/* False: there is no room. A user who is in a group twice is added once, and one without a number
 * of his own never. */
static bool addition_take(struct addition *addition, uint32_t uid)
{
    struct access_rules *rules = addition->rules;
    if (access_is_unmapped(uid)) {
        return true;
    }
    for (uint32_t i = 0; i < addition->count; i++) {
        if (rules->rules[rules->count + i].uid == uid) {
            return true;
        }
    }
    if (rules->count + addition->count == ACCESS_RULE_MAX) {
        return false;
    }
    struct access_rule *rule = &rules->rules[rules->count + addition->count];
    *rule = addition->rule;
    rule->uid = uid;
    addition->count += 1;
    return true;
}

static enum status refuse_full(char *error)
{
    snprintf(error, ACCESS_ERROR_SIZE,
             "there are more than %d rules; a group counts as many as it has members",
             (int)ACCESS_RULE_MAX);
    return STATUS_INVALID;
}

static enum status add_uid(struct addition *addition, uint32_t uid, const char *who, char *error)
{
    if (access_is_unmapped(uid)) {
        snprintf(error, ACCESS_ERROR_SIZE,
                 "%s is uid %" PRIu32 ", which stands for every user that has no number here, and "
                 "is never allowed anything",
                 who, uid);
        return STATUS_INVALID;
    }
    return addition_take(addition, uid) ? STATUS_OK : refuse_full(error);
}

static enum status add_number(struct addition *addition, const char *who, char *error)
{
    const char *digits = who + strlen("uid:");
    char *end = NULL;
    errno = 0;
    const unsigned long uid = strtoul(digits, &end, 10);
    if (digits[0] < '0' || digits[0] > '9' || *end != '\0' || errno != 0 || uid > UINT32_MAX) {
        snprintf(error, ACCESS_ERROR_SIZE, "'%s' is not a user; write uid:1000, for example", who);
        return STATUS_INVALID;
    }
    return add_uid(addition, (uint32_t)uid, who, error);
}

static enum status add_name(struct addition *addition, const char *who, char *error)
{
    const struct passwd *user = getpwnam(who);
    if (user == NULL) {
        snprintf(error, ACCESS_ERROR_SIZE,
                 "there is no user '%s' here; a number is written uid:1000, a group @%s", who, who);
        return STATUS_INVALID;
    }
    return add_uid(addition, user->pw_uid, who, error);
}

/* Those whom the group lists, and those whose own group it is. */
static enum status add_group(struct addition *addition, const char *who, char *error)
{
    const struct group *group = getgrnam(who + 1);
    if (group == NULL) {
        snprintf(error, ACCESS_ERROR_SIZE, "there is no group '%s' here", who + 1);
        return STATUS_INVALID;
    }
    const gid_t gid = group->gr_gid;
    bool fits = true;
    for (char *const *member = group->gr_mem; *member != NULL && fits; member++) {
        const struct passwd *user = getpwnam(*member);
        fits = user == NULL || addition_take(addition, user->pw_uid);
    }
    setpwent();
    for (const struct passwd *user = getpwent(); user != NULL && fits; user = getpwent()) {
        fits = user->pw_gid != gid || addition_take(addition, user->pw_uid);
    }
    endpwent();
    if (!fits) {
        return refuse_full(error);
    }
    if (addition->count == 0) {
        snprintf(error, ACCESS_ERROR_SIZE, "the group '%s' has no members, so this allows nobody",
                 who + 1);
        return STATUS_INVALID;
    }
    return STATUS_OK;
}

static enum status add_who(struct addition *addition, const char *who, char *error)
{
    if (strcmp(who, "*") == 0) {
        struct access_rules *rules = addition->rules;
        if (rules->count == ACCESS_RULE_MAX) {
            return refuse_full(error);
        }
        rules->rules[rules->count] = addition->rule;
        rules->rules[rules->count].uid = ACCESS_UID_ANY;
        addition->count = 1;
        return STATUS_OK;
    }
    if (who[0] == '@') {
        return add_group(addition, who, error);
    }
    return strncmp(who, "uid:", strlen("uid:")) == 0 ? add_number(addition, who, error)
                                                     : add_name(addition, who, error);
}

static bool right_parse(const char *text, enum access_right *right)
{
    for (enum access_right each = ACCESS_READ; each <= ACCESS_ADMIN; each++) {
        if (strcmp(text, right_names[each]) == 0) {
            *right = each;
            return true;
        }
    }
    return false;
}

enum status access_add(struct access_rules *rules, const char *text, uint32_t line, char *error)
{
    assert(rules->count <= ACCESS_RULE_MAX);

    char words[WORD_COUNT][ACCESS_WHO_SIZE];
    if (words_cut(text, words) != WORD_COUNT) {
        snprintf(error, ACCESS_ERROR_SIZE,
                 "'%.100s' must be three words: who (a user, uid:N, @GROUP or *), the right (read, "
                 "write or admin), and a groove or *",
                 text);
        return STATUS_INVALID;
    }
    const char *who = words[0];
    const char *groove = words[2];
    struct addition addition = {.rules = rules, .rule = {.line = line}};
    if (!right_parse(words[1], &addition.rule.right)) {
        snprintf(error, ACCESS_ERROR_SIZE, "'%s' is not a right; there are read, write and admin",
                 words[1]);
        return STATUS_INVALID;
    }
    if (strcmp(groove, "*") != 0) {
        if (!schema_name_valid(groove)) {
            snprintf(error, ACCESS_ERROR_SIZE,
                     "'%s' cannot be a groove's name; * means all of them", groove);
            return STATUS_INVALID;
        }
        memcpy(addition.rule.groove, groove, strlen(groove));
    }
    memcpy(addition.rule.who, who, strlen(who));
    const enum status status = add_who(&addition, who, error);
    if (status == STATUS_OK) {
        assert(addition.count > 0);
        rules->count += addition.count;
    }
    assert(rules->count <= ACCESS_RULE_MAX);
    return status;
}

/* ---- Asking ------------------------------------------------------------------------------------
 */

static bool rule_gives(const struct access_rule *rule, uint32_t uid, enum access_right right)
{
    return rule->right >= right && (rule->uid == uid || rule->uid == ACCESS_UID_ANY);
}

bool access_allows(const struct access_rules *rules, uint32_t uid, enum access_right right,
                   const char *groove)
{
    assert(right >= ACCESS_READ && right <= ACCESS_ADMIN);

    if (access_is_unmapped(uid)) {
        return false;
    }
    for (uint32_t i = 0; i < rules->count; i++) {
        const struct access_rule *rule = &rules->rules[i];
        if (rule_gives(rule, uid, right) &&
            (rule->groove[0] == '\0' ||
             (groove != NULL && memcmp(rule->groove, groove, NAME_SIZE) == 0))) {
            return true;
        }
    }
    return rules->count == 0;
}

bool access_allows_some(const struct access_rules *rules, uint32_t uid, enum access_right right)
{
    assert(right >= ACCESS_READ && right <= ACCESS_ADMIN);

    if (access_is_unmapped(uid)) {
        return false;
    }
    for (uint32_t i = 0; i < rules->count; i++) {
        if (rule_gives(&rules->rules[i], uid, right)) {
            return true;
        }
    }
    return rules->count == 0;
}
