/* Goal: a numbered request takes effect once, and its repetitions get the same bytes.
 * Method: dispatch_fixture.h; each row of the table of sessions, over restarts too. */
#include "tests/server/dispatch_fixture.h"

static void as(uint8_t client, uint32_t lane, uint64_t number)
{
    sender.client = client;
    sender.lane = lane;
    sender.number = number;
}

static struct fake *open_session(uint8_t client, uint32_t lane_count, enum result result)
{
    const struct open_session_request open = {.lane_count = lane_count};
    as(client, 0, 7);
    return ask(OPERATION_OPEN_SESSION, &open, sizeof open, result);
}

static void expect_same_bytes(const struct fake *a, const struct fake *b)
{
    cr_assert(a->answered && b->answered);
    cr_assert_eq(a->reply_size, b->reply_size);
    cr_assert_arr_eq(a->reply, b->reply, a->reply_size);
}

static uint64_t commits(void)
{
    struct forest_stats stats;
    forest_stats(forest, &stats);
    return stats.commit_durable;
}

Test(dispatch, a_session_is_opened_once, .init = setup, .fini = teardown)
{
    struct hello_reply hello;
    memcpy(&hello, body_of(ask(OPERATION_HELLO, NULL, 0, RESULT_OK)), sizeof hello);
    cr_assert(hello.features & WIRE_FEATURE_SESSIONS);
    cr_assert_eq(hello.session_failure_max, SESSION_FAILURE_MAX);
    const uint32_t groove_id = create_things();

    peer_uid = 30;
    const struct fake *first = open_session(1, 3, RESULT_OK);
    static const uint8_t three_idle_lanes[8 + 3 * 8] = {3};
    cr_assert_eq(header_of(first).body_size, sizeof three_idle_lanes);
    cr_assert_arr_eq(body_of(first), three_idle_lanes, sizeof three_idle_lanes);
    cr_assert_eq(header_of(first).commit, commits());
    cr_assert_gt(header_of(first).timestamp, 0);

    uint8_t body[512];
    as(1, 2, 5);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 1), RESULT_OK);
    const uint64_t before = commits();
    const struct fake *again = open_session(1, 64, RESULT_OK);
    static const uint8_t one_has_written[8 + 3 * 8] = {3, [8 + 2 * 8] = 5};
    cr_assert_eq(header_of(again).body_size, sizeof one_has_written);
    cr_assert_arr_eq(body_of(again), one_has_written, sizeof one_has_written);
    cr_assert_eq(header_of(again).commit, 0);
    cr_assert_eq(commits(), before);
    peer_uid = 31;
    open_session(1, 3, RESULT_DENIED);
    as(1, 0, 9);
    ask(OPERATION_CLOSE_SESSION, NULL, 0, RESULT_DENIED);
    peer_uid = 30;

    /* Twice at once: one opens, the other finds it; and the session counts from then on. */
    const struct open_session_request open = {.lane_count = 1};
    as(2, 0, 1);
    const struct fake *twins[2];
    for (int i = 0; i < 2; i++) {
        twins[i] = push(OPERATION_OPEN_SESSION, &open, sizeof open);
    }
    run();
    cr_assert_gt(header_of(twins[0]).commit, 0);
    cr_assert_eq(header_of(twins[1]).commit, 0);
    cr_assert_arr_eq(body_of(twins[0]), body_of(twins[1]), 16);
    cr_assert_eq(header_of(ask(OPERATION_CLOSE_SESSION, NULL, 0, RESULT_OK)).commit, commits());
    ask(OPERATION_CLOSE_SESSION, NULL, 0, RESULT_NO_SESSION);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 2), RESULT_NO_SESSION);
}

/* The table of docs/protocol.md, section 7, row by row. */
Test(dispatch, each_row_of_the_table_of_sessions, .init = setup, .fini = teardown)
{
    const uint32_t groove_id = create_things();
    uint8_t body[512];
    const uint32_t size = make_insert(body, groove_id, 2, 1);
    as(1, 0, 3);
    ask(OPERATION_WRITE, body, size, RESULT_NO_SESSION);
    open_session(1, 2, RESULT_OK);
    peer_uid = 12;
    as(1, 0, 3);
    ask(OPERATION_WRITE, body, size, RESULT_DENIED);
    peer_uid = 0;
    as(1, 2, 3);
    ask(OPERATION_WRITE, body, size, RESULT_BAD_LANE);
    as(1, 0, 0);
    ask(OPERATION_WRITE, body, size, RESULT_BAD_LANE);

    as(1, 0, 3);
    const struct fake *first = ask(OPERATION_WRITE, body, size, RESULT_OK);
    const uint64_t before = commits();
    const struct fake *second = ask(OPERATION_WRITE, body, size, RESULT_OK);
    expect_same_bytes(first, second);
    cr_assert_eq(commits(), before, "nothing was executed");
    /* A number is never used for a second request: whatever comes under it gets that reply. */
    const char name[NAME_SIZE] = "things";
    expect_same_bytes(first, ask(OPERATION_DROP_GROOVE, name, sizeof name, RESULT_OK));
    cr_assert_eq(commits(), before);
    as(1, 0, 2);
    ask(OPERATION_WRITE, body, size, RESULT_STALE_NUMBER);

    /* Thrice at once, and another number between: one execution, three replies. */
    const uint32_t third_size = make_insert(body, groove_id, 3, 10);
    struct fake *fakes_of[4];
    for (int i = 0; i < 4; i++) {
        as(1, 1, i == 2 ? 9 : 8);
        fakes_of[i] = push(OPERATION_WRITE, body, third_size);
    }
    run();
    cr_assert_eq(header_of(fakes_of[0]).result, RESULT_OK);
    cr_assert_eq(header_of(fakes_of[2]).result, RESULT_LANE_BUSY);
    expect_same_bytes(fakes_of[0], fakes_of[1]);
    expect_same_bytes(fakes_of[0], fakes_of[3]);
    cr_assert_eq(commits(), before + 1);
    as(1, 1, 9); /* What was refused stays so, though the lane is free now; */
    ask(OPERATION_WRITE, body, third_size, RESULT_LANE_BUSY);
    as(1, 1, 8); /* what was executed is told on. */
    expect_same_bytes(fakes_of[0], ask(OPERATION_WRITE, body, third_size, RESULT_OK));

    /* Too late once is too late for good; the next number is a new request. */
    as(1, 0, 4);
    sender.deadline_ms = 5;
    struct fake *late = push(OPERATION_WRITE, body, third_size);
    now_ns += 6 * 1000 * 1000;
    run();
    cr_assert_eq(header_of(late).result, RESULT_EXPIRED);
    sender.deadline_ms = 0;
    ask(OPERATION_WRITE, body, third_size, RESULT_EXPIRED);
    as(1, 0, 5);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id + 5, 1, 1), RESULT_UNKNOWN_GROOVE);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 50), RESULT_UNKNOWN_GROOVE);
    as(1, 0, 4);
    ask(OPERATION_WRITE, body, third_size, RESULT_STALE_NUMBER);
    as(1, 0, 3);
    expect_same_bytes(first, ask(OPERATION_WRITE, body, size, RESULT_OK));

    /* A repetition is answered, however late. */
    sender.deadline_ms = 1;
    struct fake *repeated = push(OPERATION_WRITE, body, size);
    now_ns += 6 * 1000 * 1000;
    run();
    expect_same_bytes(first, repeated);
    sender.deadline_ms = 0;

    /* What only reads does not care. */
    as(77, 1000, 0);
    ask(OPERATION_PING, NULL, 0, RESULT_OK);
    cr_assert_geq(dispatch.replays_total, 5);
    cr_assert_eq(dispatch.attached_total, 2);
}

Test(dispatch, grooves_are_made_and_dropped_once, .init = setup, .fini = teardown)
{
    static struct groove_spec spec;
    char error[SCHEMA_TEXT_ERROR_SIZE];
    cr_assert(schema_text_parse("once", "size u32", &spec, error));
    open_session(1, 1, RESULT_OK);
    as(1, 0, 1);
    const struct fake *made = ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_OK);
    cr_assert_eq(header_of(made).body_size, sizeof(struct create_groove_reply));
    expect_same_bytes(made, ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_OK));
    as(1, 0, 2);
    ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_GROOVE_EXISTS);
    ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_GROOVE_EXISTS);
    const char name[NAME_SIZE] = "once";
    as(1, 0, 3);
    const struct fake *dropped = ask(OPERATION_DROP_GROOVE, name, sizeof name, RESULT_OK);
    cr_assert_eq(header_of(dropped).body_size, 0);
    as(0, 0, 0);
    ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_OK);
    as(1, 0, 3);
    expect_same_bytes(dropped, ask(OPERATION_DROP_GROOVE, name, sizeof name, RESULT_OK));
    as(0, 0, 0);
    ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_GROOVE_EXISTS); /* It is still there. */
}

Test(dispatch, a_session_remembers_some_failures_and_counts_all, .init = setup, .fini = teardown)
{
    enum { COUNT = SESSION_FAILURE_MAX + 3 };
    const uint32_t groove_id = create_things();
    static uint8_t body[16 + COUNT * OBJECT_SIZE];
    const uint32_t size = make_insert(body, groove_id, COUNT, 1);
    ask(OPERATION_WRITE, body, size, RESULT_OK);
    struct write_reply write;
    const struct fake *all = ask(OPERATION_WRITE, body, size, RESULT_OK);
    memcpy(&write, body_of(all), sizeof write);
    cr_assert_eq(write.failure_count, COUNT);
    cr_assert_eq(write.failure_total, COUNT);
    open_session(1, 1, RESULT_OK);
    as(1, 0, 1);
    const struct fake *some = ask(OPERATION_WRITE, body, size, RESULT_OK);
    memcpy(&write, body_of(some), sizeof write);
    cr_assert_eq(write.failure_count, SESSION_FAILURE_MAX);
    cr_assert_eq(write.failure_total, COUNT);
    const uint32_t listed = SESSION_FAILURE_MAX * (uint32_t)sizeof(struct wire_failure);
    cr_assert_eq(header_of(some).body_size, sizeof write + listed);
    cr_assert_arr_eq(body_of(some) + sizeof write, body_of(all) + sizeof write, listed);
    expect_same_bytes(some, ask(OPERATION_WRITE, body, size, RESULT_OK));
}

Test(dispatch, a_full_table_takes_a_session_for_one_that_is_idle, .init = setup, .fini = teardown)
{
    struct forest_stats stats;
    forest_stats(forest, &stats);
    cr_assert_lt(stats.sessions_max, 250);
    const uint8_t count = (uint8_t)stats.sessions_max;
    const uint32_t groove_id = create_things();
    for (uint8_t client = 1; client <= count; client++) {
        now_ns += 1000;
        open_session(client, 1, RESULT_OK);
    }
    now_ns += config.session_idle_ns / 2;
    const uint8_t one_more = (uint8_t)(count + 1);
    cr_assert(says(open_session(one_more, 1, RESULT_LIMIT), "idle"));
    uint8_t body[512];
    as(1, 0, 1);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 1), RESULT_OK);
    open_session(2, 1, RESULT_OK); /* To ask is not to write. */
    now_ns += config.session_idle_ns / 2;
    open_session(one_more, 1, RESULT_OK);
    as(2, 0, 1);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 2), RESULT_NO_SESSION);
    as(1, 0, 2);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 2), RESULT_OK);
    cr_assert(says(ask(OPERATION_STAT, NULL, 0, RESULT_OK), "\"evicted_total\":1,"));
}

Test(dispatch, a_restart_changes_no_byte_of_a_reply, .init = setup, .fini = teardown)
{
    static struct groove_spec spec;
    char error[SCHEMA_TEXT_ERROR_SIZE];
    cr_assert(schema_text_parse("things", "name text<8>, size u32", &spec, error));
    open_session(1, 3, RESULT_OK);
    as(1, 0, 1);
    const struct fake *created = ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_OK);
    struct create_groove_reply groove;
    memcpy(&groove, body_of(created), sizeof groove);
    uint8_t body[512];
    const uint32_t size = make_insert(body, groove.groove_id, 4, 1);
    as(1, 1, 1);
    ask(OPERATION_WRITE, body, size, RESULT_OK);
    as(1, 1, 2);
    const struct fake *failed = ask(OPERATION_WRITE, body, size, RESULT_OK);
    cr_assert_eq(header_of(failed).body_size, 8 + 4 * 8);
    as(1, 2, 1);
    ask(OPERATION_WRITE, body, make_insert(body, groove.groove_id + 1, 1, 1),
        RESULT_UNKNOWN_GROOVE);

    forest_reset(forest);
    opened = false;
    forest_open(forest, on_open, NULL);
    while (!opened) {
        forest_tick(forest);
    }
    as(1, 0, 1);
    expect_same_bytes(created, ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_OK));
    as(1, 1, 2);
    expect_same_bytes(
        failed, ask(OPERATION_WRITE, body, make_insert(body, groove.groove_id, 4, 1), RESULT_OK));
    as(1, 1, 1);
    ask(OPERATION_WRITE, body, size, RESULT_STALE_NUMBER);
    const struct fake *found = open_session(1, 3, RESULT_OK);
    static const uint8_t numbers[8 + 3 * 8] = {3, [8] = 1, [16] = 2};
    cr_assert_arr_eq(body_of(found), numbers, sizeof numbers);
}

/* Damage is found while the request is in a batch. */
Test(dispatch, who_is_attached_is_refused_with_the_first, .init = setup, .fini = teardown)
{
    const uint32_t groove_id = create_things();
    open_session(1, 1, RESULT_OK);
    uint8_t body[512];
    const uint32_t size = make_insert(body, groove_id, 1, 1);
    as(1, 0, 1);
    const struct fake *twins[2];
    for (int i = 0; i < 2; i++) {
        twins[i] = push(OPERATION_WRITE, body, size);
    }
    cr_assert(dispatch_take(&dispatch) && dispatch_submit(&dispatch));
    cr_assert_eq(dispatch.attached_total, 1);
    forest->read_only = true;
    run();
    cr_assert_eq(header_of(twins[0]).result, RESULT_READ_ONLY);
    expect_same_bytes(twins[0], twins[1]);
    forest->read_only = false; /* This process has said no to this number; */
    ask(OPERATION_WRITE, body, size, RESULT_READ_ONLY);
    as(1, 0, 2); /* and to nothing else. */
    ask(OPERATION_WRITE, body, size, RESULT_OK);
    ask(OPERATION_CLOSE_SESSION, NULL, 0, RESULT_OK);
}
