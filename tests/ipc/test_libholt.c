/* Goal: a call on libholt ends in what happened: executed once, not at all, or UNKNOWN, and UNKNOWN
 * is resolved. Whatever the daemon and the connection do, no call hangs past its deadline, no event
 * takes effect twice, nobody gets another's answer, and nothing a daemon sends can break the
 * client.
 *
 * Method: a daemon in this process that hangs up, stays silent, answers late, in pieces, in another
 * order, with BUSY or with noise (fake_daemon.h), and counts what it executes. The real daemon
 * meets the library in tests/system/clients.sh. */
#include "tests/ipc/fake_daemon.h"

#include "ipc/libholt/holt.h"

static struct fake fake_under_test;
static struct fake *const f = &fake_under_test;
static struct holt *holt;
static struct holt_groove *item;
static struct holt_error error;

TestSuite(libholt, .timeout = 60);

enum { BOTH = HOLT_FEATURE_SESSIONS | HOLT_FEATURE_CHAINS };

static enum holt_status open_with(struct holt_options options)
{
    if (options.socket_path == NULL) {
        options.socket_path = f->path;
    }
    memset(&error, 0, sizeof error);
    const enum holt_status status = holt_open(&options, &holt, &error);
    cr_assert((holt != NULL) == (status == HOLT_OK));
    cr_assert((error.text[0] == 0) == (status == HOLT_OK));
    cr_assert(status == HOLT_OK || error.status == status);
    return status;
}

#define OK(call)                                                                                   \
    do {                                                                                           \
        const enum holt_status call_status = (call);                                               \
        cr_assert(call_status == HOLT_OK, "%s: %s %s", #call, holt_status_name(call_status),       \
                  error.text);                                                                     \
    } while (0)

static void begin_with(uint64_t features, struct holt_options options)
{
    fake_start(f, features);
    OK(open_with(options));
    OK(holt_groove_open(holt, "item", 0, &item, &error));
}

static void end(void)
{
    holt_close(holt);
    holt_groove_close(item);
    fake_end(f);
}

static void fill(uint8_t *object, uint64_t id, uint64_t amount)
{
    memset(object, 0, FAKE_OBJECT_SIZE);
    holt_object_set_id(object, (struct holt_id){.low = id});
    OK(holt_set_unsigned(holt_groove_field(item, "amount"), object, amount));
}

static struct holt_write *write_of(uint64_t first_id, uint32_t count)
{
    struct holt_write *write;
    uint8_t object[FAKE_OBJECT_SIZE];
    OK(holt_write_new(holt, &write));
    for (uint32_t i = 0; i < count; i++) {
        fill(object, first_id + i, 1);
        OK(holt_write_insert(write, item, object));
    }
    return write;
}

static enum holt_status insert_one(uint64_t id, uint32_t deadline_ms)
{
    struct holt_write *write = write_of(id, 1);
    const enum holt_status status = holt_write_commit(write, deadline_ms, &error);
    holt_write_free(write);
    return status;
}

/* ---- Opening -----------------------------------------------------------------------------------
 */

Test(libholt, each_way_of_not_opening_is_named)
{
    fake_start(f, BOTH);
    cr_assert(open_with((struct holt_options){.socket_path = "/no/such/socket"}) == HOLT_NO_DAEMON);
    char path[200];
    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = 0;
    cr_assert(open_with((struct holt_options){.socket_path = path}) == HOLT_BAD_ARGUMENT);
    cr_assert(open_with((struct holt_options){.lane_count = 65}) == HOLT_BAD_ARGUMENT);
    cr_assert(open_with((struct holt_options){.reserved = {1}}) == HOLT_BAD_ARGUMENT);
    unsetenv("HOLT_SOCKET");
    cr_assert(holt_open(NULL, &holt, &error) == HOLT_BAD_ARGUMENT);
    setenv("HOLT_SOCKET", f->path, 1);
    OK(holt_open(NULL, &holt, &error));
    char version[33];
    holt_daemon_version(holt, version);
    cr_assert_str_eq(version, "fake");
    cr_assert(holt_features(holt) == BOTH);
    cr_assert(holt_has_session(holt));
    cr_assert(!f->session_open); /* Who only reads needs none. */
    OK(holt_groove_open(holt, "item", 0, &item, &error));
    OK(insert_one(1, 0));
    cr_assert(f->session_open);
    holt_close(holt);
    cr_assert(!f->session_open); /* A session that nobody needs is given back. */

    f->refuse_session = true;
    cr_assert(open_with((struct holt_options){.session = HOLT_SESSION_REQUIRED}) == HOLT_LIMIT);
    OK(open_with((struct holt_options){0}));
    cr_assert(insert_one(2, 0) == HOLT_LIMIT);
    OK(holt_ping(holt, 0, &error));
    f->refuse_session = false;
    OK(insert_one(2, 0));
    holt_close(holt);
    holt_groove_close(item);
    OK(open_with((struct holt_options){.session = HOLT_SESSION_OFF}));
    cr_assert(!holt_has_session(holt));
    holt_close(holt);
    f->features = 0;
    cr_assert(open_with((struct holt_options){.session = HOLT_SESSION_REQUIRED}) ==
              HOLT_NOT_SUPPORTED);
    fake_end(f);
    holt_close(NULL);
}

static void *start_late(void *context)
{
    poll(NULL, 0, 30);
    fake_listen(context);
    return NULL;
}

Test(libholt, opening_waits_for_a_daemon_if_asked_to)
{
    fake_start(f, 0);
    fake_kill(f);
    cr_assert(open_with((struct holt_options){.wait_ms = 20}) == HOLT_NO_DAEMON);
    pthread_t thread;
    pthread_create(&thread, NULL, start_late, f);
    OK(open_with((struct holt_options){.wait_ms = 10000}));
    pthread_join(thread, NULL);
    holt_close(holt);
    fake_end(f);
}

Test(libholt, a_stranger_is_told_from_a_daemon)
{
    fake_start(f, 0);
    fake_kill(f);
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, f->path);
    cr_assert(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    cr_assert(listen(fd, 1) == 0);
    pid_t child = fork();
    if (child == 0) {
        const int peer = accept(fd, NULL, NULL);
        (void)!write(peer, "SSH-2.0-OpenSSH\r\n", 17);
        pause();
    }
    cr_assert(open_with((struct holt_options){.wait_ms = 10000}) == HOLT_NOT_HOLT);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(fd);
    unlink(f->path);
    rmdir(f->directory);
}

/* ---- One thing after another -------------------------------------------------------------------
 */

Test(libholt, writes_tell_their_failures_and_stamps)
{
    begin_with(BOTH, (struct holt_options){0});
    struct holt_write *write = write_of(10, 3);
    OK(holt_write_commit(write, 0, &error));
    cr_assert(holt_write_timestamp(write) == 1000000);
    cr_assert(holt_write_commit_number(write) == 1);
    cr_assert(holt_write_failure_count(write) == 0);
    holt_write_clear(write);
    uint8_t object[FAKE_OBJECT_SIZE];
    for (uint64_t id = 12; id < 14; id++) {
        fill(object, id, 1);
        OK(holt_write_insert(write, item, object));
    }
    OK(holt_write_remove(write, item, (struct holt_id){.low = 99}));
    cr_assert(holt_write_event_count(write) == 3);
    cr_assert(holt_write_commit(write, 0, &error) == HOLT_FAILURES);
    cr_assert_str_eq(error.text, "2 of 3 events failed");
    cr_assert(holt_write_failure_total(write) == 2);
    struct holt_failure failure = holt_write_failure(write, 0);
    cr_assert(failure.event_index == 0 && failure.result == HOLT_EVENT_EXISTS);
    failure = holt_write_failure(write, 1);
    cr_assert(failure.event_index == 2 && failure.result == HOLT_EVENT_NOT_FOUND);
    cr_assert(holt_write_failure(write, 2).result == HOLT_EVENT_OK);
    cr_assert(holt_write_timestamp(write) == 1000003);
    holt_write_free(write);

    const struct holt_id ids[] = {{.low = 12}};
    struct holt_read *read;
    OK(holt_lookup(holt, item, ids, 1, 0, &read, &error));
    cr_assert(holt_read_object_count(read) == 1);
    cr_assert(holt_object_id(holt_read_object(read, 0)).low == 12);
    cr_assert(holt_read_object(read, 1) == NULL);
    holt_read_free(read);
    uint64_t count;
    OK(holt_count(holt, item, NULL, NULL, 0, &count, &error));
    cr_assert(count == 4);
    cr_assert(holt_count(holt, item, "by_name", object, 0, &count, &error) == HOLT_UNKNOWN_INDEX);
    OK(holt_ping(holt, 0, &error));
    char **names;
    uint32_t name_count;
    OK(holt_groove_names(holt, 0, &names, &name_count, &error));
    cr_assert(name_count == 1 && strcmp(names[0], "item") == 0 && names[1] == NULL);
    holt_names_free(names);
    struct holt_groove *none;
    cr_assert(holt_groove_open(holt, "nothing", 0, &none, &error) == HOLT_UNKNOWN_GROOVE);
    cr_assert(f->max_deadline_ms <= 10000 && f->max_deadline_ms > 9000);
    end();
}

Test(libholt, writes_that_make_no_sense_are_refused_here)
{
    begin_with(HOLT_FEATURE_SESSIONS, (struct holt_options){0});
    struct holt_write *write;
    uint8_t object[FAKE_OBJECT_SIZE];
    OK(holt_write_new(holt, &write));
    cr_assert(holt_write_commit(write, 0, &error) == HOLT_BAD_ARGUMENT);
    fill(object, 1, 1);
    struct holt_event event = {.type = HOLT_INSERT, .groove = item};
    cr_assert(holt_write_event(write, &event) == HOLT_BAD_ARGUMENT);
    event = (struct holt_event){.type = HOLT_CHECK, .groove = item};
    cr_assert(holt_write_event(write, &event) == HOLT_BAD_ARGUMENT);
    event = (struct holt_event){.type = 6, .groove = item, .object = object};
    cr_assert(holt_write_event(write, &event) == HOLT_BAD_ARGUMENT);
    event =
        (struct holt_event){.type = HOLT_INSERT, .groove = item, .object = object, .linked = true};
    OK(holt_write_event(write, &event));
    cr_assert(holt_write_commit(write, 0, &error) == HOLT_BAD_ARGUMENT);
    OK(holt_write_insert(write, item, object));
    cr_assert(holt_write_commit(write, 0, &error) == HOLT_NOT_SUPPORTED); /* No chains there. */
    holt_write_clear(write);
    for (uint32_t i = 0; i <= FAKE_EVENTS_MAX; i++) {
        OK(holt_write_insert(write, item, object));
    }
    cr_assert(holt_write_commit(write, 0, &error) == HOLT_TOO_BIG);
    cr_assert(holt_write_resolve(write, 0, &error) == HOLT_OK); /* Nothing is unknown. */
    holt_write_free(write);
    cr_assert(f->write_count == 0);
    end();
}

Test(libholt, fields_take_what_fits_them)
{
    const struct holt_field u8 = {.type = HOLT_TYPE_U8, .size = 1, .offset = 32};
    const struct holt_field i16 = {.type = HOLT_TYPE_I16, .size = 2, .offset = 34};
    const struct holt_field i64 = {.type = HOLT_TYPE_I64, .size = 8, .offset = 40};
    const struct holt_field u128 = {.type = HOLT_TYPE_U128, .size = 16, .offset = 48};
    const struct holt_field f32 = {.type = HOLT_TYPE_F32, .size = 4, .offset = 64};
    const struct holt_field boolean = {.type = HOLT_TYPE_BOOL, .size = 1, .offset = 68};
    const struct holt_field text = {.type = HOLT_TYPE_TEXT, .size = 4, .offset = 72};
    const struct holt_field bytes = {.type = HOLT_TYPE_BYTES, .size = 4, .offset = 76};
    uint8_t object[80] = {0};
    uint64_t number;
    int64_t sign;
    double real;
    cr_assert(holt_set_unsigned(&u8, object, 255) == HOLT_OK && object[32] == 255);
    cr_assert(holt_set_unsigned(&u8, object, 256) == HOLT_OUT_OF_RANGE && object[32] == 255);
    cr_assert(holt_set_signed(&u8, object, -1) == HOLT_OUT_OF_RANGE);
    cr_assert(holt_set_unsigned(&boolean, object, 2) == HOLT_OUT_OF_RANGE);
    cr_assert(holt_set_unsigned(&boolean, object, 1) == HOLT_OK);
    cr_assert(holt_set_signed(&i16, object, -32768) == HOLT_OK);
    cr_assert(holt_get_signed(&i16, object, &sign) == HOLT_OK && sign == -32768);
    cr_assert(holt_get_unsigned(&i16, object, &number) == HOLT_OUT_OF_RANGE);
    cr_assert(holt_set_signed(&i16, object, -32769) == HOLT_OUT_OF_RANGE);
    cr_assert(holt_set_signed(&i16, object, 32768) == HOLT_OUT_OF_RANGE);
    cr_assert(holt_set_signed(&i64, object, INT64_MIN) == HOLT_OK);
    cr_assert(holt_get_signed(&i64, object, &sign) == HOLT_OK && sign == INT64_MIN);
    cr_assert(holt_set_unsigned(&i64, object, UINT64_MAX) == HOLT_OUT_OF_RANGE);
    cr_assert(holt_set_u128(&u128, object, (struct holt_id){.low = 1, .high = 2}) == HOLT_OK);
    cr_assert(holt_get_unsigned(&u128, object, &number) == HOLT_OUT_OF_RANGE);
    cr_assert(holt_set_unsigned(&u128, object, 5) == HOLT_OK);
    cr_assert(holt_get_unsigned(&u128, object, &number) == HOLT_OK && number == 5);
    cr_assert(holt_set_real(&f32, object, 1e300) == HOLT_OUT_OF_RANGE);
    cr_assert(holt_set_real(&f32, object, 0.5) == HOLT_OK);
    cr_assert(holt_get_real(&f32, object, &real) == HOLT_OK && real == 0.5);
    cr_assert(holt_set_real(&u8, object, 1) == HOLT_WRONG_TYPE);
    cr_assert(holt_set_text(&u8, object, "x") == HOLT_WRONG_TYPE);
    cr_assert(holt_set_text(&text, object, "abcd") == HOLT_OK);
    cr_assert(holt_set_text(&text, object, "\xc3\xa9") == HOLT_OK);
    const void *got;
    size_t size;
    cr_assert(holt_get_bytes(&text, object, &got, &size) == HOLT_OK && size == 2);
    cr_assert(memcmp(object + 72, "\xc3\xa9\0\0", 4) == 0);
    const char *const bad[] = {"abcde",    "\xc3",         "\xff",
                               "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert(holt_set_text(&text, object, bad[i]) == HOLT_OUT_OF_RANGE, "%zu", i);
    }
    cr_assert(holt_set_bytes(&text, object, "a\0b", 3) == HOLT_OUT_OF_RANGE);
    cr_assert(holt_set_bytes(&bytes, object, "a\0\xff", 3) == HOLT_OK);
    cr_assert(holt_get_bytes(&bytes, object, &got, &size) == HOLT_OK && size == 4);
    cr_assert(holt_set_signed(&text, object, -1) == HOLT_WRONG_TYPE);
}

/* ---- Exactly once ------------------------------------------------------------------------------
 */

enum { STORM_THREADS = 4, STORM_WRITES = 150 };

static void storm_done(void *context, struct holt_write *write, enum holt_status status)
{
    (void)write;
    *(_Atomic int *)context = (int)status;
}

static void *storm(void *context)
{
    const uint64_t first = (uint64_t)(uintptr_t)context * STORM_WRITES * 2;
    for (uint64_t i = 0; i < STORM_WRITES; i++) {
        struct holt_error why;
        struct holt_write *write = write_of(1 + first + 2 * i, 2);
        if (i % 16 == 5) { /* Some go by the client's thread, which then receives for all. */
            _Atomic int done = -1;
            OK(holt_write_submit(write, 60000, storm_done, (void *)&done, &why));
            cr_assert(EVENTUALLY(done != -1));
            cr_assert(done == HOLT_OK);
        } else {
            const enum holt_status status = holt_write_commit(write, 60000, &why);
            cr_assert(status == HOLT_OK, "%s: %s", holt_status_name(status), why.text);
        }
        holt_write_free(write);
        if (i % 8 == 0) {
            const struct holt_id ids[] = {{.low = 1 + first + i}};
            struct holt_read *read;
            cr_assert(holt_lookup(holt, item, ids, 1, 60000, &read, &why) == HOLT_OK);
            cr_assert(holt_object_id(holt_read_object(read, 0)).low == ids[0].low);
            holt_read_free(read);
        }
    }
    return NULL;
}

Test(libholt, each_write_takes_effect_once_in_a_storm_of_faults)
{
    begin_with(BOTH, (struct holt_options){.lane_count = 3});
    f->fault_percent = 12;
    pthread_t threads[STORM_THREADS];
    for (uintptr_t i = 0; i < STORM_THREADS; i++) {
        pthread_create(&threads[i], NULL, storm, (void *)i);
    }
    for (int i = 0; i < 5; i++) { /* Restarts of the daemon in between. */
        poll(NULL, 0, 20);
        fake_kill(f);
        fake_listen(f);
    }
    for (int i = 0; i < STORM_THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    f->fault_percent = 0;
    struct holt_stats stats;
    holt_stats_read(holt, &stats);
    cr_assert(f->double_count == 0);
    cr_assert(f->event_count == STORM_THREADS * STORM_WRITES * 2);
    for (uint32_t id = 1; id <= STORM_THREADS * STORM_WRITES * 2; id++) {
        cr_assert(f->inserted[id] == 1, "%u", id);
    }
    cr_assert(stats.sent_again > 0);
    cr_assert(stats.connections > 5);
    end();
}

Test(libholt, an_unknown_outcome_is_resolved)
{
    begin_with(BOTH, (struct holt_options){.lane_count = 1});
    f->hold = true;
    struct holt_write *write = write_of(1, 1);
    cr_assert(holt_write_commit(write, 30, &error) == HOLT_UNKNOWN);
    cr_assert(holt_write_status(write) == HOLT_UNKNOWN);
    cr_assert(holt_write_commit(write, 30, &error) == HOLT_IN_USE); /* It could happen twice. */
    cr_assert(holt_write_resolve(write, 10, &error) == HOLT_UNKNOWN);
    cr_assert(insert_one(2, 20) == HOLT_TIMEOUT); /* The only lane is taken. */
    f->hang_up = true;
    f->hold = false;
    OK(holt_write_resolve(write, 0, &error));
    cr_assert(holt_write_timestamp(write) == 1000000);
    cr_assert(f->write_count == 1);
    OK(insert_one(2, 0));

    /* The answer comes while nobody waits for it. */
    f->hold = true;
    holt_write_clear(write);
    uint8_t object[FAKE_OBJECT_SIZE];
    fill(object, 2, 1);
    OK(holt_write_insert(write, item, object));
    cr_assert(holt_write_commit(write, 20, &error) == HOLT_UNKNOWN);
    f->hold = false;
    OK(holt_ping(holt, 0, &error));
    cr_assert(EVENTUALLY(insert_one(3, 100) == HOLT_OK));
    cr_assert(holt_write_status(write) == HOLT_UNKNOWN); /* As it was told. */
    cr_assert(holt_write_resolve(write, 0, &error) == HOLT_FAILURES);
    cr_assert(holt_write_failure(write, 0).result == HOLT_EVENT_EXISTS);

    /* One that is given up gives its lane back. */
    f->hold = true;
    holt_write_clear(write);
    fill(object, 4, 1);
    OK(holt_write_insert(write, item, object));
    cr_assert(holt_write_commit(write, 20, &error) == HOLT_UNKNOWN);
    f->hang_up = true;
    holt_write_free(write);
    f->hold = false;
    OK(insert_one(5, 0));
    cr_assert(f->double_count == 1);
    end();
}

Test(libholt, without_a_session_a_write_is_sent_once)
{
    begin_with(0, (struct holt_options){0});
    f->lose_count = 1;
    cr_assert(insert_one(1, 0) == HOLT_UNKNOWN);
    cr_assert(f->write_count == 1);
    OK(insert_one(2, 0));
    f->busy_count = 3; /* These were answered, so nothing happened: again. */
    OK(insert_one(3, 0));
    f->hold = true;
    struct holt_write *write = write_of(4, 1);
    cr_assert(holt_write_commit(write, 20, &error) == HOLT_UNKNOWN);
    f->hold = false;
    cr_assert(holt_write_resolve(write, 1000, &error) == HOLT_UNKNOWN);
    holt_write_free(write);
    cr_assert(f->double_count == 0);
    end();
}

Test(libholt, a_session_that_is_gone_has_a_successor)
{
    begin_with(BOTH, (struct holt_options){0});
    uint8_t before[HOLT_CLIENT_ID_SIZE];
    uint8_t after[HOLT_CLIENT_ID_SIZE];
    holt_client_id(holt, before);
    OK(insert_one(1, 0));
    f->forget_sessions = true;
    cr_assert(EVENTUALLY(!f->forget_sessions));
    OK(insert_one(2, 0)); /* It was the first sending, so nothing happened. */
    holt_client_id(holt, after);
    cr_assert(memcmp(before, after, sizeof before) != 0);
    /* One that was sent before its session ended: nobody can tell. */
    f->hold = true;
    struct holt_write *write = write_of(3, 1);
    cr_assert(holt_write_commit(write, 20, &error) == HOLT_UNKNOWN);
    f->forget_sessions = true;
    f->hang_up = true;
    cr_assert(EVENTUALLY(!f->hang_up));
    f->hold = false;
    cr_assert(holt_write_resolve(write, 0, &error) == HOLT_UNKNOWN);
    cr_assert(strstr(error.text, "session") != NULL);
    holt_write_free(write);
    OK(insert_one(4, 0));
    cr_assert(f->double_count == 0);
    end();
}

Test(libholt, a_saved_client_id_goes_on_behind_its_numbers)
{
    uint8_t id[HOLT_CLIENT_ID_SIZE] = {1, 2, 3};
    struct holt_options options = {.lane_count = 1};
    memcpy(options.client_id, id, sizeof id);
    begin_with(BOTH, options);
    OK(insert_one(1, 0));
    holt_close(holt);
    cr_assert(f->session_open); /* Its owner may come back. */
    const uint64_t number = f->lane_number[0];
    OK(open_with(options));
    holt_client_id(holt, id);
    cr_assert(memcmp(id, options.client_id, sizeof id) == 0);
    OK(insert_one(2, 0));
    cr_assert(f->lane_number[0] > number + 1000);
    cr_assert(f->double_count == 0);
    end();
}

Test(libholt, busy_is_waited_for_until_the_deadline)
{
    begin_with(BOTH, (struct holt_options){0});
    f->busy_count = 5;
    OK(insert_one(1, 0));
    f->busy_count = 3;
    OK(holt_ping(holt, 0, &error));
    f->busy_count = UINT32_MAX;
    /* The deadline may also come between a sending and its answer. */
    cr_assert(EVENTUALLY(insert_one(2, 30) == HOLT_BUSY));
    cr_assert(EVENTUALLY(holt_ping(holt, 30, &error) == HOLT_BUSY));
    f->busy_count = 0;
    cr_assert(f->inserted[2] == 0);
    fake_kill(f);
    cr_assert(insert_one(3, 30) == HOLT_NO_DAEMON);
    cr_assert(strstr(error.text, f->path) != NULL);
    fake_listen(f);
    OK(insert_one(4, 0));
    end();
}

/* ---- Many at once ------------------------------------------------------------------------------
 */

enum { CROWD = 64 };

struct crowd {
    struct holt_write *writes[CROWD];
    _Atomic uint32_t done;
    enum holt_status statuses[CROWD];
};

static void crowd_done(void *context, struct holt_write *write, enum holt_status status)
{
    struct crowd *crowd = context;
    for (uint32_t i = 0; i < CROWD; i++) {
        if (crowd->writes[i] == write) {
            crowd->statuses[i] = status;
        }
    }
    crowd->done++;
}

static void crowd_submit(struct crowd *crowd)
{
    for (uint32_t i = 0; i < CROWD; i++) {
        OK(holt_write_submit(crowd->writes[i], 0, crowd_done, crowd, &error));
    }
    cr_assert(holt_write_submit(crowd->writes[CROWD - 1], 0, crowd_done, crowd, &error) ==
              HOLT_IN_USE);
    f->hold = false;
    cr_assert(EVENTUALLY(crowd->done == CROWD));
}

static void crowd_free(struct crowd *crowd)
{
    for (uint32_t i = 0; i < CROWD; i++) {
        holt_write_free(crowd->writes[i]);
    }
}

static void crowd_shares_messages(uint64_t features)
{
    begin_with(features, (struct holt_options){.lane_count = 2});
    OK(insert_one(1000 + 30, 0)); /* So that one of them fails. */
    f->hold = true;
    struct crowd crowd = {0};
    for (uint32_t i = 0; i < CROWD; i++) {
        crowd.writes[i] = write_of(1000 + i, 1);
        OK(holt_write_remove(crowd.writes[i], item, (struct holt_id){.low = 1000 + i}));
        if (i % 7 == 3 && (features & HOLT_FEATURE_CHAINS) != 0) {
            holt_write_set_atomic(crowd.writes[i], true);
        }
    }
    crowd_submit(&crowd);
    struct holt_stats stats;
    holt_stats_read(holt, &stats);
    cr_assert(stats.joined > CROWD / 2, "%lu", stats.joined);
    cr_assert(f->write_count < CROWD / 2, "%u", f->write_count);
    cr_assert(f->atomic_count == ((features & HOLT_FEATURE_CHAINS) != 0 ? 9 : 0));
    cr_assert(f->event_count == 2 * CROWD + 1);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < CROWD; i++) {
        cr_assert(crowd.statuses[i] == (i == 30 ? HOLT_FAILURES : HOLT_OK), "%u", i);
        cr_assert(holt_write_failure_count(crowd.writes[i]) == (i == 30));
        sum += holt_write_timestamp(crowd.writes[i]) - 1000001;
    }
    cr_assert(holt_write_failure(crowd.writes[30], 0).event_index == 0);
    cr_assert(sum == (uint64_t)CROWD * (CROWD - 1)); /* 0, 2, 4 ...: each its own. */
    crowd_free(&crowd);
    end();
}

Test(libholt, small_writes_share_messages)
{
    crowd_shares_messages(0);
}

Test(libholt, numbered_writes_share_messages_too)
{
    crowd_shares_messages(BOTH);
}

Test(libholt, a_refused_companion_harms_nobody)
{
    begin_with(BOTH, (struct holt_options){.lane_count = 1});
    f->deny_amount = 13;
    f->hold = true;
    struct crowd crowd = {0};
    for (uint32_t i = 0; i < CROWD; i++) {
        OK(holt_write_new(holt, &crowd.writes[i]));
        uint8_t object[FAKE_OBJECT_SIZE];
        fill(object, 100 + i, i == 20 ? 13 : 1);
        OK(holt_write_insert(crowd.writes[i], item, object));
    }
    crowd_submit(&crowd);
    for (uint32_t i = 0; i < CROWD; i++) {
        cr_assert(crowd.statuses[i] == (i == 20 ? HOLT_DENIED : HOLT_OK), "%u", i);
        cr_assert(f->inserted[100 + i] == (i != 20));
    }
    cr_assert(f->double_count == 0);
    crowd_free(&crowd);
    end();
}

Test(libholt, each_write_alone_if_so_wished)
{
    begin_with(BOTH, (struct holt_options){.lane_count = 1, .no_join = true});
    f->hold = true;
    struct crowd crowd = {0};
    for (uint32_t i = 0; i < CROWD; i++) {
        crowd.writes[i] = write_of(1 + i, 1);
    }
    crowd_submit(&crowd);
    cr_assert(f->write_count == CROWD);
    crowd_free(&crowd);
    end();
}

static _Atomic uint32_t reads_done;
static _Atomic uint32_t refused_inside;

static void read_done(void *context, struct holt_read *read, enum holt_status status)
{
    const uint64_t id = (uint64_t)(uintptr_t)context;
    cr_assert(status == HOLT_OK);
    cr_assert(holt_object_id(holt_read_object(read, 0)).low == id);
    if (holt_ping(holt, 0, NULL) == HOLT_BAD_ARGUMENT) { /* It would wait for itself. */
        refused_inside++;
    }
    holt_read_free(read);
    reads_done++;
}

Test(libholt, reads_in_flight_get_their_own_answers)
{
    begin_with(BOTH, (struct holt_options){0});
    f->fault_percent = 20;
    for (uint64_t i = 1; i <= 300; i++) {
        struct holt_read *read;
        OK(holt_read_new(holt, &read));
        const struct holt_id id = {.low = i};
        OK(holt_read_lookup(read, item, &id, 1));
        OK(holt_read_submit(read, 50000, read_done, (void *)(uintptr_t)i, &error));
    }
    cr_assert(EVENTUALLY(reads_done == 300));
    cr_assert(refused_inside == 300);
    f->fault_percent = 0;
    end();
}

static void free_done(void *context, struct holt_write *write, enum holt_status status)
{
    *(_Atomic enum holt_status *)context = status;
    holt_write_free(write);
}

Test(libholt, closing_ends_what_is_under_way)
{
    begin_with(BOTH, (struct holt_options){.lane_count = 1, .request_count_max = 3});
    f->hold = true;
    _Atomic enum holt_status sent = HOLT_OK;
    _Atomic enum holt_status waiting = HOLT_OK;
    OK(holt_write_submit(write_of(1, 1), 0, free_done, (void *)&sent, &error));
    cr_assert(EVENTUALLY(f->write_count == 1));
    struct holt_write *second = write_of(2, 1);
    OK(holt_write_submit(second, 0, free_done, (void *)&waiting, &error));
    struct holt_write *parked = write_of(3, 1);
    cr_assert(holt_write_commit(parked, 1, &error) == HOLT_TIMEOUT);
    _Atomic enum holt_status third = HOLT_OK;
    OK(holt_write_submit(parked, 0, free_done, (void *)&third, &error));
    struct holt_write *refused = write_of(4, 1);
    cr_assert(holt_write_commit(refused, 0, &error) == HOLT_QUEUE_FULL);
    holt_close(holt);
    cr_assert(sent == HOLT_UNKNOWN);
    cr_assert(waiting == HOLT_CLOSED);
    cr_assert(third == HOLT_CLOSED);
    holt_write_free(refused); /* Behind its client. */
    holt_groove_close(item);
    fake_end(f);
}

static void *wait_for_close(void *context)
{
    struct holt_error why;
    struct holt_write *write = write_of(1, 1);
    *(_Atomic int *)context = (int)holt_write_commit(write, HOLT_DEADLINE_NONE, &why);
    holt_write_free(write);
    return NULL;
}

Test(libholt, closing_ends_the_wait_of_other_threads)
{
    begin_with(BOTH, (struct holt_options){.lane_count = 1});
    f->hold = true;
    _Atomic int statuses[2] = {-1, -1};
    pthread_t threads[2];
    pthread_create(&threads[0], NULL, wait_for_close, (void *)&statuses[0]); /* It receives. */
    cr_assert(EVENTUALLY(f->write_count == 1));
    pthread_create(&threads[1], NULL, wait_for_close, (void *)&statuses[1]); /* It has no lane. */
    struct holt_stats stats = {0};
    cr_assert(EVENTUALLY((holt_stats_read(holt, &stats), stats.calls == 3)), "%lu", stats.calls);
    holt_close(holt);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    cr_assert(statuses[0] == HOLT_UNKNOWN);
    cr_assert(statuses[1] == HOLT_CLOSED);
    holt_groove_close(item);
    fake_end(f);
}

Test(libholt, the_child_of_a_fork_is_told_so)
{
    begin_with(BOTH, (struct holt_options){0});
    struct holt_write *write = write_of(1, 1);
    const pid_t child = fork();
    if (child == 0) {
        struct holt_write *other;
        bool good = holt_write_commit(write, 0, &error) == HOLT_FORKED;
        good &= holt_ping(holt, 0, &error) == HOLT_FORKED;
        good &= holt_write_new(holt, &other) == HOLT_FORKED;
        good &= strstr(error.text, "fork") != NULL;
        holt_close(holt);
        _exit(good ? 0 : 1);
    }
    int code;
    cr_assert(waitpid(child, &code, 0) == child);
    cr_assert(WIFEXITED(code) && WEXITSTATUS(code) == 0);
    OK(holt_write_commit(write, 0, &error));
    holt_write_free(write);
    end();
}

/* ---- What it costs -----------------------------------------------------------------------------
 * Counts of what is expensive: messages, and threads that are woken. */

enum { TALK_WRITES = 400, TALKERS = 4, RELAY_WRITES = 4000 };

/* The newest thread of this process: they are listed as they were made. */
static int newest_thread(void)
{
    DIR *directory = opendir("/proc/self/task");
    int newest = 0;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        newest = atoi(entry->d_name);
    }
    closedir(directory);
    return newest;
}

/* How often it has slept. */
static uint64_t sleep_count(int thread)
{
    char path[64];
    char line[128];
    unsigned long count = UINT64_MAX;
    snprintf(path, sizeof path, "/proc/self/task/%d/status", thread);
    FILE *file = fopen(path, "r");
    cr_assert(file != NULL);
    while (fgets(line, sizeof line, file) != NULL) {
        sscanf(line, "voluntary_ctxt_switches: %lu", &count);
    }
    fclose(file);
    cr_assert(count != UINT64_MAX);
    return count;
}

static void *talk(void *context)
{
    const uint64_t first = 1 + (uint64_t)(uintptr_t)context * TALK_WRITES;
    for (uint64_t i = 0; i < TALK_WRITES; i++) {
        struct holt_error why;
        struct holt_write *write = write_of(first + i, 1);
        cr_assert(holt_write_commit(write, 60000, &why) == HOLT_OK, "%s", why.text);
        holt_write_free(write);
    }
    return NULL;
}

Test(libholt, a_caller_alone_wakes_nobody)
{
    begin_with(BOTH, (struct holt_options){0});
    const int thread = newest_thread();
    OK(insert_one(TALKERS * TALK_WRITES + 1, 0));
    const uint64_t before = sleep_count(thread);
    talk(NULL);
    const uint64_t slept = sleep_count(thread) - before;
    cr_assert(slept < TALK_WRITES / 20, "the client's thread woke %lu times", slept);
    end();
}

Test(libholt, callers_receive_for_each_other)
{
    begin_with(BOTH, (struct holt_options){.no_join = true});
    const int thread = newest_thread();
    OK(insert_one(TALKERS * TALK_WRITES + 1, 0));
    const uint64_t before = sleep_count(thread);
    pthread_t threads[TALKERS];
    for (uintptr_t i = 0; i < TALKERS; i++) {
        pthread_create(&threads[i], NULL, talk, (void *)i);
    }
    for (int i = 0; i < TALKERS; i++) {
        pthread_join(threads[i], NULL);
    }
    const uint64_t slept = sleep_count(thread) - before;
    cr_assert(slept < TALKERS * TALK_WRITES / 10, "the client's thread woke %lu times", slept);
    cr_assert(f->event_count == TALKERS * TALK_WRITES + 1);
    cr_assert(f->double_count == 0);
    end();
}

struct relay {
    _Atomic uint64_t next;
    _Atomic uint32_t ended;
};

/* As each write comes back it is used for the next. */
static void relay_done(void *context, struct holt_write *write, enum holt_status status)
{
    struct relay *relay = context;
    uint8_t object[FAKE_OBJECT_SIZE];
    const uint64_t id = relay->next++;
    cr_assert(status == HOLT_OK);
    if (id > RELAY_WRITES) {
        holt_write_free(write);
        relay->ended++;
        return;
    }
    fill(object, id, 1);
    holt_write_clear(write);
    OK(holt_write_insert(write, item, object));
    OK(holt_write_submit(write, 60000, relay_done, relay, NULL));
}

Test(libholt, what_callbacks_submit_shares_messages)
{
    begin_with(BOTH, (struct holt_options){0});
    struct relay relay = {.next = 1 + CROWD};
    for (uint32_t i = 0; i < CROWD; i++) {
        struct holt_write *write = write_of(1 + i, 1);
        OK(holt_write_submit(write, 60000, relay_done, &relay, &error));
    }
    cr_assert(EVENTUALLY(relay.ended == CROWD));
    cr_assert(f->event_count == RELAY_WRITES);
    cr_assert(f->double_count == 0);
    cr_assert(f->write_count < RELAY_WRITES / 16, "%u messages", f->write_count);
    end();
}

/* ---- Noise -------------------------------------------------------------------------------------
 */

Test(libholt, noise_for_an_answer_breaks_nothing)
{
    begin_with(0, (struct holt_options){0});
    f->garbage = true;
    for (uint32_t i = 0; i < 400; i++) {
        struct holt_read *read;
        struct holt_groove *groove;
        const struct holt_id id = {.low = 1 + i};
        struct holt_write *write = write_of(1 + i, 2);
        holt_write_commit(write, 20, &error);
        holt_write_free(write);
        if (holt_lookup(holt, item, &id, 1, 5, &read, &error) == HOLT_OK) {
            holt_read_free(read);
        }
        if (holt_groove_open(holt, "item", 5, &groove, &error) == HOLT_OK) {
            holt_groove_close(groove);
        }
    }
    f->garbage = false;
    OK(holt_ping(holt, 0, &error));
    end();
}

Test(libholt, descriptors_are_flat_over_connections)
{
    begin_with(BOTH, (struct holt_options){0});
    OK(insert_one(1, 0));
    const uint32_t count = fd_count();
    struct holt_stats stats;
    for (uint32_t i = 0; i < 200; i++) {
        f->hang_up = true;
        cr_assert(EVENTUALLY(!f->hang_up));
        OK(insert_one(2 + i, 0));
    }
    holt_stats_read(holt, &stats);
    cr_assert(stats.connections >= 200);
    cr_assert(EVENTUALLY(fd_count() == count), "%u, not %u", fd_count(), count);
    for (uint32_t i = 0; i < 20; i++) {
        struct holt *other;
        OK(holt_open(&(struct holt_options){.socket_path = f->path}, &other, &error));
        holt_close(other);
    }
    cr_assert(EVENTUALLY(fd_count() == count), "%u, not %u", fd_count(), count);
    cr_assert(f->double_count == 0);
    end();
}

Test(libholt, names_and_texts_are_complete)
{
    for (int status = 0; status <= HOLT_LANE_BUSY; status++) {
        cr_assert_str_eq(holt_status_name((enum holt_status)status), result_name((uint32_t)status));
    }
    for (int status = HOLT_UNKNOWN; status <= HOLT_IN_USE; status++) {
        cr_assert(strcmp(holt_status_name((enum holt_status)status), "?") != 0);
    }
    cr_assert_str_eq(holt_status_name((enum holt_status)77), "?");
    cr_assert_str_eq(holt_event_result_name(HOLT_EVENT_LINKED), "LINKED");
    cr_assert_str_eq(holt_event_result_name((enum holt_event_result)99), "?");
    cr_assert_str_eq(holt_type_name(HOLT_TYPE_TIMESTAMP), "timestamp");
    cr_assert_str_eq(holt_type_name((enum holt_type)16), "?");
    cr_assert(strlen(holt_library_version()) > 0);
}
