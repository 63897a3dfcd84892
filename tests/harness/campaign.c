#include "tests/harness/campaign.h"

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "pool/base.h"

enum {
    PROCESS_COUNT_MAX = 16,
    FAILURE_MAX = 5, /* after which a process stops */
    COUNTER_MAX = 256,
    OPTION_MAX = 16,
};

struct campaign_settings campaign_settings = {.seed = 1, .process_count = 2, .parts = 1};

/* What a process tells the others. */
struct findings {
    uint64_t counts[COUNTER_MAX];
    uint64_t failures;
    char looking_at[512];
};
static struct findings *findings; /* [PROCESS_COUNT_MAX], in memory that processes share */
static struct findings *mine;
static uint32_t counter_count;
static time_t begun;

/* ---- The command line --------------------------------------------------------------------------
 */

static bool take_number(const struct campaign_option *option, const char *text)
{
    char *end = NULL;
    *option->value = strtoull(text, &end, option->base);
    return end != text && *end == '\0' && *option->value >= option->min &&
           *option->value <= option->max;
}

static bool take_options(int argc, char **argv, const struct campaign_option *options,
                         const struct option *names)
{
    int index = 0;
    for (int found; (found = getopt_long(argc, argv, "", names, &index)) != -1;) {
        if (found != 0) {
            return false;
        }
        if (options[index].base == 0) {
            *options[index].value = 1;
        } else if (!take_number(&options[index], optarg)) {
            return false;
        }
    }
    return optind == argc;
}

bool campaign_parse(int argc, char **argv, int only_base, const struct campaign_option *options,
                    uint32_t option_count)
{
    const struct campaign_option common[] = {
        {"seed", &campaign_settings.seed, 0, UINT64_MAX, 10},
        {"processes", &campaign_settings.process_count, 1, PROCESS_COUNT_MAX, 10},
        {"only", &campaign_settings.only, 0, UINT64_MAX, only_base},
        {"parts", &campaign_settings.parts, 1, UINT64_MAX, 10},
        {"part", &campaign_settings.part, 0, UINT64_MAX, 10},
    };
    struct campaign_option all[OPTION_MAX];
    struct option names[OPTION_MAX + 1] = {0};
    const uint32_t count = (uint32_t)array_count(common) + option_count;
    assert(count <= OPTION_MAX);
    memcpy(all, common, sizeof common);
    memcpy(all + array_count(common), options, option_count * sizeof *options);
    for (uint32_t i = 0; i < count; i++) {
        names[i].name = all[i].name;
        names[i].has_arg = all[i].base == 0 ? no_argument : required_argument;
    }
    if (take_options(argc, argv, all, names)) {
        return true;
    }
    printf("usage: %s", argv[0]);
    for (uint32_t i = 0; i < count; i++) {
        printf(" [--%s%s]", all[i].name, all[i].base == 0 ? "" : " N");
    }
    printf("\n");
    return false;
}

/* ---- Cases -------------------------------------------------------------------------------------
 */

static time_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec;
}

void campaign_begin(uint32_t count)
{
    assert(count <= COUNTER_MAX);
    counter_count = count;
    findings = mmap(NULL, PROCESS_COUNT_MAX * sizeof *findings, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (findings == MAP_FAILED) {
        abort();
    }
    mine = &findings[0];
    begun = now();
}

bool campaign_is_mine(uint64_t number)
{
    const uint64_t process_count = campaign_settings.process_count;
    return number % process_count == (uint64_t)(mine - findings) &&
           number / process_count % campaign_settings.parts == campaign_settings.part &&
           (campaign_settings.only == 0 || campaign_settings.only == number);
}

void campaign_count(uint32_t counter, uint64_t more)
{
    assert(counter < counter_count);
    mine->counts[counter] += more;
}

void campaign_look_at(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(mine->looking_at, sizeof mine->looking_at, format, arguments);
    va_end(arguments);
}

void campaign_fail(const char *why)
{
    printf("FAILED: %s\n        %s\n", why, mine->looking_at);
    (void)fflush(stdout);
    mine->failures += 1;
    if (mine->failures >= FAILURE_MAX) {
        exit(1);
    }
}

/* ---- Processes ---------------------------------------------------------------------------------
 */

static pid_t process_start(uint32_t number, void (*run)(void))
{
    const pid_t process = fork();
    if (process < 0) {
        perror("fork");
        abort();
    }
    if (process == 0) {
        mine = &findings[number];
        run();
        exit(mine->failures == 0 ? 0 : 1);
    }
    return process;
}

/* Whether it ended well. */
static bool process_wait(uint32_t number, pid_t process)
{
    int status = 0;
    while (waitpid(process, &status, 0) < 0) {
        if (errno != EINTR) {
            abort();
        }
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) > 1) {
        printf("FAILED: a process ended with status %#x, looking at %s\n", (unsigned)status,
               findings[number].looking_at);
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool campaign_run(void (*run)(void))
{
    pid_t processes[PROCESS_COUNT_MAX];
    bool all = true;
    (void)fflush(stdout);
    for (uint32_t i = 0; i < campaign_settings.process_count; i++) {
        processes[i] = process_start(i, run);
    }
    for (uint32_t i = 0; i < campaign_settings.process_count; i++) {
        all &= process_wait(i, processes[i]);
    }
    return all;
}

uint64_t campaign_total(uint32_t counter)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < PROCESS_COUNT_MAX; i++) {
        total += findings[i].counts[counter];
    }
    return total;
}

uint64_t campaign_failures(void)
{
    uint64_t failures = 0;
    for (uint32_t i = 0; i < PROCESS_COUNT_MAX; i++) {
        failures += findings[i].failures;
    }
    return failures;
}

uint64_t campaign_seconds(void)
{
    return (uint64_t)(now() - begun);
}
