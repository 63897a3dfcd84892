/* Goal: while several users ask, none of them waits for more than a turn of each other one, for a
 * batch, for a look at the forest, or for a reader.
 * Method: dispatch_fixture.h; turns are counted in requests and batches, not in time. */
#include "tests/server/dispatch_fixture.h"

Test(dispatch, a_flood_of_writes_costs_another_user_one_turn, .init = setup, .fini = teardown)
{
    static uint8_t body[1 << 14];
    const uint32_t groove_id = create_things();
    const uint32_t size = make_insert(body, groove_id, 60, 1); /* 3 KB: five of them are a turn */
    struct fake *writes[30];
    peer_uid = 1000;
    for (uint32_t i = 0; i < 30; i++) {
        for (uint32_t event = 0; event < 60; event++) {
            body[sizeof(struct wire_section) + event * OBJECT_SIZE + 1] = (uint8_t)(i + 1);
        }
        peer_id = i % 10;
        writes[i] = push(OPERATION_WRITE, body, size);
    }
    peer_uid = 1001;
    peer_id = 50;
    struct fake *write = push(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 200));
    run();
    uint32_t before = 0;
    for (uint32_t i = 0; i < 30; i++) {
        before += header_of(writes[i]).commit < header_of(write).commit;
    }
    cr_assert_eq(before, 5);
}

/* One event, under an id that nothing else has. */
static struct fake *push_insert(uint32_t groove_id)
{
    static uint8_t body[256];
    static uint16_t serial;
    const uint32_t size = make_insert(body, groove_id, 1, 1);
    serial += 1;
    memcpy(body + sizeof(struct wire_section) + 1, &serial, sizeof serial);
    return push(OPERATION_WRITE, body, size);
}

/* Writes, and returns how many batches they took. */
static uint64_t batches_of(uint32_t groove_id, uint32_t write_count)
{
    struct forest_stats before;
    struct forest_stats after;
    forest_stats(forest, &before);
    for (uint32_t i = 0; i < write_count; i++) {
        push_insert(groove_id);
    }
    run();
    forest_stats(forest, &after);
    return after.journal_entries - before.journal_entries;
}

/* Whoever comes waits for the batch that gathers, too. */
Test(dispatch, a_user_has_a_share_of_a_batch_while_others_ask, .init = setup, .fini = teardown)
{
    enum { COUNT = 30, SHARE = 6 };
    peer_uid = 1000;
    const uint32_t groove_id = create_things();
    cr_assert_eq(batches_of(groove_id, COUNT), 1); /* He is alone. */
    peer_uid = 1001;
    ask(OPERATION_PING, NULL, 0, RESULT_OK);
    peer_uid = 1000;
    cr_assert_eq(batches_of(groove_id, COUNT), COUNT / SHARE);
    now_ns += 900 * 1000 * 1000;
    cr_assert_eq(batches_of(groove_id, COUNT), COUNT / SHARE);
    now_ns += 200 * 1000 * 1000;
    cr_assert_eq(batches_of(groove_id, COUNT), 1); /* Nobody else has asked for a second. */
}

Test(dispatch, who_comes_to_a_batch_that_others_have_their_share_of_is_let_in, .init = setup,
     .fini = teardown)
{
    enum { COUNT = 40, SHARE = 6 };
    struct fake *writes[COUNT];
    peer_uid = 1000;
    const uint32_t groove_id = create_things();
    peer_uid = 1001;
    ask(OPERATION_PING, NULL, 0, RESULT_OK);
    peer_uid = 1000;
    for (uint32_t i = 0; i < COUNT; i++) {
        peer_id = i % 7;
        writes[i] = push_insert(groove_id);
    }
    memory_forbid_allocation();
    dispatch_take(&dispatch);
    dispatch_submit(&dispatch);
    memory_allow_allocation();
    cr_assert_eq(dispatch.writes.count, COUNT - SHARE);
    peer_uid = 1001;
    struct fake *write = push_insert(groove_id);
    memory_forbid_allocation();
    dispatch_take(&dispatch);
    dispatch_submit(&dispatch);
    memory_allow_allocation();
    cr_assert_eq(dispatch.writes.count, COUNT - SHARE); /* He passed them. */
    run();
    uint32_t before = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        cr_assert_eq(header_of(writes[i]).result, RESULT_OK);
        before += header_of(writes[i]).commit < header_of(write).commit;
    }
    cr_assert_eq(before, SHARE);
}

Test(dispatch, a_flood_of_looks_costs_another_user_one_of_them_and_writes_none, .init = setup,
     .fini = teardown)
{
    static uint8_t body[4096];
    const uint32_t groove_id = create_things();
    struct fake *looks[60];
    peer_uid = 1000;
    for (uint32_t i = 0; i < 60; i++) {
        looks[i] = push(i % 2 == 0 ? OPERATION_STAT : OPERATION_SCHEMA, NULL, 0);
    }
    peer_uid = 1001;
    struct fake *ping = push(OPERATION_PING, "well?", 5);
    struct fake *write = push(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 1));
    dispatch_take(&dispatch);
    for (uint32_t turn = 1; turn <= 2; turn++) {
        cr_assert(dispatch_submit(&dispatch));
        cr_assert_eq(dispatch.writes.count, 0); /* It is in a batch. */
        uint32_t answered = 0;
        for (uint32_t i = 0; i < 60; i++) {
            answered += looks[i]->answered;
        }
        cr_assert_eq(answered, turn); /* One of those that take long, in a turn of the loop. */
    }
    cr_assert(ping->answered);
    cr_assert_not(dispatch_is_idle(&dispatch));
    run();
    cr_assert(looks[59]->answered && write->answered);
}

static struct fake *push_count(uint32_t groove_id)
{
    const struct query_request query = {.groove_id = groove_id, .index_id = WIRE_INDEX_NONE};
    return push(OPERATION_COUNT, &query, sizeof query);
}

/* Reads that were pushed and go to the forest now. */
static uint32_t reads_begun(void)
{
    const uint32_t before = dispatch.reads.count;
    memory_forbid_allocation();
    dispatch_take(&dispatch);
    const uint32_t waiting = dispatch.reads.count;
    dispatch_submit(&dispatch);
    memory_allow_allocation();
    cr_assert_eq(before, 0);
    return waiting - dispatch.reads.count;
}

static void setup_slots(void)
{
    read_slot_count = 8;
    setup();
    config.read_slot_count = read_slot_count;
    config.readers = 3;
}

Test(dispatch, a_user_leaves_readers_for_others, .init = setup_slots, .fini = teardown)
{
    enum { COUNT = 10, ALONE = 6 };
    peer_uid = 1000;
    const uint32_t groove_id = create_things();
    for (uint32_t i = 0; i < COUNT; i++) {
        peer_id = i;
        push_count(groove_id);
    }
    cr_assert_eq(reads_begun(), ALONE);
    peer_uid = 1001;
    struct fake *read = push_count(groove_id);
    memory_forbid_allocation();
    dispatch_take(&dispatch);
    dispatch_submit(&dispatch);
    memory_allow_allocation();
    cr_assert_eq(dispatch.reads.count, COUNT - ALONE); /* He passed them. */
    run();
    cr_assert_eq(header_of(read).result, RESULT_OK);
    /* While both ask, none has more in the readers' queue than there are readers. */
    peer_uid = 1000;
    for (uint32_t i = 0; i < COUNT; i++) {
        push_count(groove_id);
    }
    cr_assert_eq(reads_begun(), config.readers);
    run();
    now_ns += 1100 * 1000 * 1000;
    for (uint32_t i = 0; i < COUNT; i++) {
        push_count(groove_id);
    }
    cr_assert_eq(reads_begun(), ALONE);
    run();
}

Test(dispatch, every_user_gets_a_reader_while_there_is_one, .init = setup_slots, .fini = teardown)
{
    enum { USER_COUNT = 12 };
    peer_uid = 1000;
    const uint32_t groove_id = create_things();
    struct fake *reads[USER_COUNT];
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < USER_COUNT; i++) {
            peer_uid = 2000 + i;
            push_count(groove_id);
            reads[i] = push_count(groove_id);
        }
        cr_assert_eq(reads_begun(), read_slot_count);
        run();
        for (uint32_t i = 0; i < USER_COUNT; i++) {
            cr_assert_eq(header_of(reads[i]).result, RESULT_OK);
        }
    }
}
