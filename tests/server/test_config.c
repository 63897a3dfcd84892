/* Goal: each source overrides the one before it, and every wrong value is refused with its name.
 * Method: a fake environment, small files, and tables of good and bad values. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/config.h"

TestSuite(config, .timeout = 120);

static struct config config;
static char error[CONFIG_ERROR_SIZE];

static enum config_key key_of(const char *name)
{
    return config_key_find(name, strlen(name));
}

static char *no_environment(const char *name)
{
    (void)name;
    return NULL;
}

static char *some_environment(const char *name)
{
    static char readers[] = "7";
    static char mode[] = "0660";
    if (strcmp(name, "HOLT_READERS") == 0) {
        return readers;
    }
    return strcmp(name, "HOLT_SOCKET_MODE") == 0 ? mode : NULL;
}

static char *bad_environment(const char *name)
{
    static char cache[] = "lots";
    return strcmp(name, "HOLT_CACHE") == 0 ? cache : NULL;
}

/* Loads `text` as a configuration file. */
static enum status load(const char *text)
{
    char path[] = "/tmp/test_config_XXXXXX";
    const int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    config_init(&config);
    const enum status status = config_load_file(&config, path, error);
    unlink(path);
    return status;
}

Test(config, defaults_are_valid_and_derived)
{
    config_init(&config);
    cr_assert_eq(config_load_environment(&config, no_environment, error), STATUS_OK);
    cr_assert_eq(config_finish(&config, "x/cities.holt", 2, error), STATUS_OK);
    cr_assert_str_eq(config.socket_path, "x/cities.holt.sock");
    cr_assert_eq(config.socket_mode, 0600);
    cr_assert_eq(config.workers, 1);
    cr_assert_eq(config.readers, 2);
    cr_assert_eq(config.cache_size, 256ull << 20);
    cr_assert_eq(config.log_format, LOG_FORMAT_LOGFMT);
    cr_assert_eq(config.log_level, LOG_LEVEL_INFO);
}

Test(config, workers_follow_the_processors)
{
    const uint32_t processors[] = {1, 2, 3, 5, 64};
    const uint32_t workers[] = {1, 1, 2, 4, 4};
    for (int i = 0; i < 5; i++) {
        config_init(&config);
        cr_assert_eq(config_finish(&config, "f", processors[i], error), STATUS_OK);
        cr_assert_eq(config.workers, workers[i]);
    }
}

Test(config, later_sources_win_and_are_remembered)
{
    cr_assert_eq(load("readers = 3\ncache = 1G\nworkers=0\n"), STATUS_OK, "%s", error);
    cr_assert_eq(config_load_environment(&config, some_environment, error), STATUS_OK);
    cr_assert_eq(config_set(&config, CONFIG_CACHE, "8M", CONFIG_FLAG, error), STATUS_OK);
    cr_assert_eq(config_finish(&config, "f", 8, error), STATUS_OK);
    cr_assert_eq(config.readers, 7);
    cr_assert_eq(config.cache_size, 8u << 20);
    cr_assert_eq(config.workers, 0);
    cr_assert_eq(config.socket_mode, 0660);
    cr_assert_eq(config.source[CONFIG_READERS], CONFIG_ENVIRONMENT);
    cr_assert_eq(config.source[CONFIG_CACHE], CONFIG_FLAG);
    cr_assert_eq(config.source[CONFIG_WORKERS], CONFIG_FILE);
    cr_assert_eq(config.source[CONFIG_READS], CONFIG_DEFAULT);
}

Test(config, files_may_hold_comments_and_quotes)
{
    cr_assert_eq(load("# all\n; of\n\n  socket = \"/a b#c.sock\"  # here\n cache = 64M ; more\n"
                      "\tlog-format =json\r\n"),
                 STATUS_OK, "%s", error);
    cr_assert_str_eq(config.socket_path, "/a b#c.sock");
    cr_assert_eq(config.cache_size, 64u << 20);
    cr_assert_eq(config.log_format, LOG_FORMAT_JSON);
}

Test(config, wrong_files_name_the_line)
{
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"cache = 64M\nreeders = 2\n", "line 2: there is no option 'reeders'"},
        {"readers\n", "line 1: expected 'key = value'"},
        {"readers = 2\nreaders = 3\n", "line 2: the option 'readers' is set twice"},
        {"socket = \"/a\n", "line 1: the quote of 'socket' is not closed"},
        {"socket = \"/a\" b\n", "line 1: the quote of 'socket' is not closed"},
        {"\n\ncache = 1\n", "line 3: cache is '1', but must be a size"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert_eq(load(cases[i].text), STATUS_INVALID);
        cr_assert_not_null(strstr(error, cases[i].expected), "%s", error);
    }
    config_init(&config);
    cr_assert_eq(config_load_file(&config, "/nonexistent/file", error), STATUS_NOT_FOUND);
    cr_assert_not_null(strstr(error, "/nonexistent/file"));
}

Test(config, lines_of_access_add_up)
{
    cr_assert_eq(load("allow = uid:7 read books\n\n  allow=\"* read public\" # all\nreaders = 3\n"
                      "allow = uid:7 write coins ; and more\n"),
                 STATUS_OK, "%s", error);
    cr_assert_eq(config.readers, 3);
    cr_assert_eq(config.access.count, 3);
    cr_assert_eq(config.access.rules[0].line, 1);
    cr_assert_eq(config.access.rules[1].line, 3);
    cr_assert_eq(config.access.rules[1].uid, ACCESS_UID_ANY);
    cr_assert_eq(config.access.rules[2].line, 5);
    cr_assert_str_eq(config.access.rules[2].groove, "coins");
    cr_assert_eq(load("cache = 64M\n"), STATUS_OK, "%s", error);
    cr_assert_eq(config.access.count, 0);
}

Test(config, wrong_lines_of_access_name_the_line)
{
    cr_assert_eq(load("allow = uid:7 read books\nallow = uid:8 reed books\n"), STATUS_INVALID);
    cr_assert_not_null(strstr(error, "line 2: 'reed' is not a right"), "%s", error);
    cr_assert_eq(load("\nallow = nemo-nobody read books\n"), STATUS_INVALID);
    cr_assert_not_null(strstr(error, "line 2: there is no user 'nemo-nobody'"), "%s", error);
    cr_assert_eq(load("allow = \"uid:7 read books\n"), STATUS_INVALID);
    cr_assert_not_null(strstr(error, "line 1: the quote of 'allow' is not closed"), "%s", error);
    cr_assert_eq(config_key_find("allow", 5), CONFIG_KEY_COUNT); /* No flag, no variable. */
}

Test(config, wrong_variables_are_named)
{
    config_init(&config);
    cr_assert_eq(config_load_environment(&config, bad_environment, error), STATUS_INVALID);
    cr_assert_not_null(strstr(error, "HOLT_CACHE"), "%s", error);
}

Test(config, idleness_is_a_time_within_bounds)
{
    const uint64_t second = 1000ull * 1000 * 1000;
    config_init(&config);
    cr_assert_eq(config.session_idle_ns, 86400 * second);
    cr_assert_eq(config_set(&config, CONFIG_SESSION_IDLE, "1s", CONFIG_FLAG, error), STATUS_OK);
    cr_assert_eq(config.session_idle_ns, second);
    cr_assert_eq(config_set(&config, CONFIG_SESSION_IDLE, "3650d", CONFIG_FLAG, error), STATUS_OK);
    static const char *const bad[] = {"0", "", "3651d", "soon"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert_eq(config_set(&config, CONFIG_SESSION_IDLE, bad[i], CONFIG_FLAG, error),
                     STATUS_INVALID);
    }
}

Test(config, the_listener_has_two_names)
{
    config_init(&config);
    cr_assert_eq(config.listener, LISTENER_NATIVE);
    cr_assert_eq(config_set(&config, CONFIG_LISTENER, "native", CONFIG_FLAG, error), STATUS_OK);
    cr_assert_eq(config.listener, LISTENER_NATIVE);
    cr_assert_eq(config_set(&config, CONFIG_LISTENER, "nng", CONFIG_FLAG, error), STATUS_OK);
    cr_assert_eq(config.listener, LISTENER_NNG);
    cr_assert_str_eq(listener_kind_name(LISTENER_NATIVE), "native");
    cr_assert_str_eq(listener_kind_name(LISTENER_NNG), "nng");
}

Test(config, wrong_values_are_refused)
{
    static const struct {
        const char *name, *value;
    } cases[] = {
        {"workers", "17"},     {"workers", "-1"},       {"workers", ""},
        {"workers", "2x"},     {"readers", "0"},        {"readers", "33"},
        {"cache", "1M"},       {"cache", "1P"},         {"cache", "-5M"},
        {"cache", ""},         {"socket", ""},          {"socket-mode", "8"},
        {"socket-mode", "0"},  {"socket-mode", "1777"}, {"log-format", "xml"},
        {"listener", "zmq"},   {"listener", ""},        {"listener", "nng "},
        {"log-level", "loud"}, {"requests", "1e3"},     {"reads", "99999999999999999999"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        config_init(&config);
        const enum config_key key = key_of(cases[i].name);
        cr_assert_neq(key, CONFIG_KEY_COUNT);
        cr_assert_eq(config_set(&config, key, cases[i].value, CONFIG_FLAG, error), STATUS_INVALID,
                     "%s = %s", cases[i].name, cases[i].value);
        cr_assert_eq(strncmp(error, cases[i].name, strlen(cases[i].name)), 0, "%s", error);
        cr_assert_eq(config.source[key], CONFIG_DEFAULT);
    }
}

Test(config, a_socket_path_that_cannot_be_is_refused)
{
    char longest[200];
    config_init(&config);
    memset(longest, 'a', 107);
    longest[107] = '\0';
    cr_assert_eq(config_set(&config, CONFIG_SOCKET, longest, CONFIG_FLAG, error), STATUS_OK);
    cr_assert_eq(config_finish(&config, longest, 2, error), STATUS_INVALID);
    cr_assert_not_null(strstr(error, "same path"));
    longest[107] = 'a';
    longest[108] = '\0';
    cr_assert_eq(config_set(&config, CONFIG_SOCKET, longest, CONFIG_FLAG, error), STATUS_INVALID);
    config_init(&config);
    longest[103] = '\0';
    cr_assert_eq(config_finish(&config, longest, 2, error), STATUS_INVALID);
    cr_assert_not_null(strstr(error, "--socket"));
    config_init(&config);
    longest[102] = '\0';
    cr_assert_eq(config_finish(&config, longest, 2, error), STATUS_OK);
}
