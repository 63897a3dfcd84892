/* A program that looks at very many cases, shared out to processes, so that a case which ends the
 * process (an assertion, a fatal error) takes only that one with it.
 *
 * Each process counts what it has seen, and says which case it is looking at, in memory that all of
 * them share: so of one that dies its parent can name the case. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* A flag of the command line: --name NUMBER, or --name alone. */
struct campaign_option {
    const char *name;
    uint64_t *value; /* set to 1 if the flag stands alone */
    uint64_t min, max;
    int base; /* of the number; 0: the flag stands alone */
};

/* Which every campaign has. */
struct campaign_settings {
    uint64_t seed;          /* --seed */
    uint64_t process_count; /* --processes */
    uint64_t only;          /* --only: the one case to look at, 0: all */
    uint64_t parts, part;   /* --parts, --part: of so many parts of all cases this one, from 0 */
};
extern struct campaign_settings campaign_settings;

/* False: usage was printed. `only_base` is that of the numbers of cases. */
bool campaign_parse(int argc, char **argv, int only_base, const struct campaign_option *options,
                    uint32_t option_count);

/* Before the processes begin: this one may count and fail, too. */
void campaign_begin(uint32_t counter_count);
/* Whether the case of this number is this process's to look at. */
bool campaign_is_mine(uint64_t number);
void campaign_count(uint32_t counter, uint64_t more);
/* What is being looked at, should it fail. */
void campaign_look_at(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* What was looked at last is wrong. After a few of these the process gives up. */
void campaign_fail(const char *why);

/* Runs `run` in all processes. Whether nothing failed. */
bool campaign_run(void (*run)(void));
/* Of all processes. */
uint64_t campaign_total(uint32_t counter);
uint64_t campaign_failures(void);
uint64_t campaign_seconds(void);
