/* Who may do what: the `allow` lines of the configuration file.
 *
 *   allow = WHO RIGHT GROOVE
 *
 *   WHO      a user's name, uid:N, @GROUP (its members), or * (every user)
 *   RIGHT    read: look at objects
 *            write: that, and change them
 *            admin: that, and make and drop the groove
 *   GROOVE   a groove's name, whether there is one of that name or not, or * (all, now and later)
 *
 * Without a line, whoever may open the socket may do everything. With one or more, what no line
 * allows is denied, to root and to the daemon's own user too.
 *
 * A user is a number: the effective uid that the kernel noted when the client connected. Names and
 * groups are resolved once, when the line is read; the kernel tells a server of no supplementary
 * groups, so membership is looked up, not asked for. Users that the kernel cannot express here (of
 * another user namespace, or another host's) all have the same number, which is therefore nobody's:
 * it is never allowed anything, lines or not.
 *
 * Not durable state: what is allowed is a matter of this process, and never of the data file. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/schema.h"
#include "pool/status.h"

enum access_right {
    ACCESS_READ = 1, /* each includes those before it */
    ACCESS_WRITE,
    ACCESS_ADMIN,
};

enum {
    ACCESS_RULE_MAX = 256, /* a group counts as many as it has members */
    ACCESS_WHO_SIZE = 64,  /* with the NUL; longer names are refused */
    ACCESS_ERROR_SIZE = 256,
    ACCESS_UID_UNMAPPED = 65534, /* the kernel's overflowuid, unless somebody has changed it */
};
#define ACCESS_UID_ANY UINT32_MAX /* (uid_t)-1 is no user's, so it can stand for all */

struct access_rule {
    uint32_t uid; /* or ACCESS_UID_ANY */
    enum access_right right;
    char groove[NAME_SIZE];    /* zero padded; all zero: every groove */
    char who[ACCESS_WHO_SIZE]; /* as written */
    uint32_t line;             /* of the configuration file */
};

/* All zero: no line. */
struct access_rules {
    struct access_rule rules[ACCESS_RULE_MAX]; /* [count], in the order of the file */
    uint32_t count;
};

/* Adds what `text`, the value of an `allow` line, says. STATUS_INVALID: nothing is added, and
 * `error` (ACCESS_ERROR_SIZE bytes) says why. */
MUST_CHECK enum status access_add(struct access_rules *rules, const char *text, uint32_t line,
                                  char *error);

/* Whether this number stands for users that have none here. */
bool access_is_unmapped(uint32_t uid);

/* `groove` is a zero-padded name, or NULL for a groove that does not exist: only a right on all
 * covers it, so that nobody else can tell it from one that he may not see. */
bool access_allows(const struct access_rules *rules, uint32_t uid, enum access_right right,
                   const char *groove);
/* ... on any groove, existing or not. */
bool access_allows_some(const struct access_rules *rules, uint32_t uid, enum access_right right);

const char *access_right_name(enum access_right right);
