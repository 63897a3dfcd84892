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

/* They have a quarter of the time: one of them is followed by three times as much for others. */
Test(dispatch, looks_that_take_long_leave_time_for_others, .init = setup, .fini = teardown)
{
    peer_uid = 1001;
    ask(OPERATION_PING, NULL, 0, RESULT_OK);
    peer_uid = 1000;
    struct fake *first = push(OPERATION_STAT, NULL, 0);
    struct fake *second = push(OPERATION_SCHEMA, NULL, 0);
    dispatch_take(&dispatch);
    const uint64_t begin_ns = now_ns;
    now_step_ns = 1000 * 1000;
    cr_assert(dispatch_submit(&dispatch));
    now_step_ns = 0;
    cr_assert(first->answered && !second->answered);
    const uint64_t next_ns = dispatch.long_look_next_ns;
    cr_assert_geq(next_ns, now_ns + 3 * 1000 * 1000);
    cr_assert_leq(next_ns, now_ns + 3 * (now_ns - begin_ns));
    for (uint32_t i = 0; i < 3; i++) {
        peer_uid = 1001;
        struct fake *ping = push(OPERATION_PING, NULL, 0);
        dispatch_take(&dispatch);
        cr_assert(dispatch_submit(&dispatch)); /* There is something to come back for. */
        cr_assert(ping->answered && !second->answered);
        cr_assert(dispatch_submit(&dispatch));
        cr_assert_not(second->answered);
        now_ns = i == 0 ? next_ns - 1 : now_ns;
    }
    now_ns = next_ns;
    cr_assert(dispatch_submit(&dispatch));
    cr_assert(second->answered);
    cr_assert_not(dispatch_submit(&dispatch));
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
    /* While both ask, each leaves one of the readers to others. */
    peer_uid = 1000;
    for (uint32_t i = 0; i < COUNT; i++) {
        push_count(groove_id);
    }
    cr_assert_eq(reads_begun(), config.readers - 1);
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

/* ---- Lookups ---- */

static struct fake *push_lookup(uint32_t groove_id, const uint8_t *ids, uint32_t id_count)
{
    uint8_t body[sizeof(struct lookup_request) + 32 * WIRE_ID_SIZE] = {0};
    const struct lookup_request lookup = {.groove_id = groove_id, .id_count = id_count};
    cr_assert_leq(id_count, 32);
    memcpy(body, &lookup, sizeof lookup);
    for (uint32_t i = 0; i < id_count; i++) {
        body[sizeof lookup + i * WIRE_ID_SIZE] = ids[i];
    }
    return push(OPERATION_LOOKUP, body, (uint32_t)sizeof lookup + id_count * WIRE_ID_SIZE);
}

static void one_submit(void)
{
    memory_forbid_allocation();
    dispatch_take(&dispatch);
    dispatch_submit(&dispatch);
    memory_allow_allocation();
}

/* Without a reader, though somebody else's reads wait for one; some in each turn, by users' turns.
 */
Test(dispatch, a_few_small_lookups_are_answered_in_each_turn, .init = setup_slots, .fini = teardown)
{
    enum { COUNT = 6, HERE = 4, SHARED = 2 };
    static uint8_t body[1 << 14];
    static const uint8_t ids[17] = {3, 99, 1, 2};
    peer_uid = 1000;
    const uint32_t groove_id = create_things();
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, 3, 1), RESULT_OK);
    peer_uid = 1002;
    push_count(groove_id);
    push_count(groove_id);
    peer_uid = 1000;
    struct fake *lookups[COUNT];
    for (uint32_t i = 0; i < COUNT; i++) {
        peer_id = i;
        lookups[i] = push_lookup(groove_id, ids, 4);
    }
    peer_uid = 1001;
    struct fake *other = push_lookup(groove_id, ids, 1);
    one_submit(); /* No tick: no reader runs. */
    uint32_t answered = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        answered += lookups[i]->answered;
    }
    cr_assert(other->answered);
    cr_assert_eq(answered, SHARED - 1);
    run();
    for (uint32_t i = 0; i < COUNT; i++) {
        struct objects_reply objects;
        cr_assert_eq(header_of(lookups[i]).result, RESULT_OK);
        memcpy(&objects, body_of(lookups[i]), sizeof objects);
        cr_assert_eq(objects.object_count, 3);
        cr_assert_eq(objects.object_size, OBJECT_SIZE);
        const uint8_t *images = body_of(lookups[i]) + sizeof objects;
        cr_assert_eq(images[0], 3);
        cr_assert_eq(images[OBJECT_SIZE], 1);
        cr_assert_eq(images[2 * OBJECT_SIZE], 2);
    }
    peer_uid = 1000;
    now_ns += 1100 * 1000 * 1000; /* Alone. */
    for (uint32_t i = 0; i < COUNT; i++) {
        lookups[i] = push_lookup(groove_id, ids, 1);
    }
    now_ns += 1100 * 1000 * 1000;
    one_submit();
    answered = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        answered += lookups[i]->answered;
    }
    cr_assert_eq(answered, HERE);
    run();
    /* What is longer goes to a reader. */
    static uint8_t many[17];
    memset(many, 1, sizeof many);
    struct fake *long_one = push_lookup(groove_id, many, sizeof many);
    one_submit();
    cr_assert_not(long_one->answered);
    run();
    cr_assert_eq(header_of(long_one).result, RESULT_OK);
}

/* Reads of another connection than the writer's own would wait for the disk with the forest thread.
 */
Test(dispatch, reads_beside_a_writer_keep_the_forest_thread_from_the_disk, .init = setup,
     .fini = teardown)
{
    static const uint8_t id = 1;
    const uint32_t groove_id = create_things();
    peer_id = 1;
    push_insert(groove_id);
    one_submit();
    push_lookup(groove_id, &id, 1);
    one_submit();
    cr_assert_not(forest->shared); /* Who asks for one thing at a time waits for nothing else. */
    peer_id = 2;
    push_lookup(groove_id, &id, 1);
    one_submit();
    cr_assert(forest->shared);
    now_ns += 9 * 1000 * 1000;
    one_submit();
    cr_assert(forest->shared);
    now_ns += 2 * 1000 * 1000;
    one_submit();
    cr_assert_not(forest->shared);
}

/* ---- Large writes ---- */

/* 10 KB. */
static struct fake *push_large(uint32_t groove_id)
{
    enum { COUNT = 60, SIZE = 168 };
    static uint8_t body[sizeof(struct wire_section) + COUNT * SIZE];
    static uint16_t serial;
    const struct wire_section section = {
        .groove_id = groove_id, .event_type = WIRE_EVENT_TYPE_INSERT, .event_count = COUNT};
    serial += 1;
    memcpy(body, &section, sizeof section);
    for (uint32_t i = 0; i < COUNT; i++) {
        uint8_t *image = body + sizeof section + i * SIZE;
        memset(image, 0, SIZE);
        image[0] = (uint8_t)(i + 1);
        memcpy(image + 1, &serial, sizeof serial);
    }
    return push(OPERATION_WRITE, body, sizeof body);
}

static uint32_t create_wide(void)
{
    static struct groove_spec spec;
    char error[SCHEMA_TEXT_ERROR_SIZE];
    cr_assert(schema_text_parse("wide", "size u64, pad bytes<128>", &spec, error));
    struct create_groove_reply created;
    memcpy(&created, body_of(ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_OK)),
           sizeof created);
    cr_assert_eq(created.object_size, 168);
    return created.groove_id;
}

static void one_turn(void)
{
    one_submit();
    memory_forbid_allocation();
    forest_tick(forest);
    memory_allow_allocation();
}

/* Between two batches with large writes there is one for what has come meanwhile: so who asks for
 * something small waits for one of the large ones at most. */
Test(dispatch, large_writes_let_small_ones_between, .init = setup, .fini = teardown)
{
    enum { LARGE_COUNT = 12, SMALL_COUNT = 4 };
    struct fake *large[LARGE_COUNT];
    struct fake *small[SMALL_COUNT];
    peer_uid = 1000;
    const uint32_t wide_id = create_wide();
    const uint32_t groove_id = create_things();
    peer_uid = 1001;
    ask(OPERATION_PING, NULL, 0, RESULT_OK);
    peer_uid = 1000;
    for (uint32_t i = 0; i < LARGE_COUNT; i++) {
        peer_id = i % 5;
        large[i] = push_large(wide_id);
    }
    for (uint32_t i = 0; i < SMALL_COUNT; i++) {
        while (forest->committing == NULL) { /* A large one is under way. */
            one_turn();
        }
        const uint64_t commit = forest->commit_executed;
        one_submit();
        cr_assert_eq(forest->gathering->request_count, 0); /* None that would be in the way. */
        peer_uid = 1001;
        small[i] = push_insert(groove_id);
        while (!small[i]->answered) {
            one_turn();
        }
        cr_assert_eq(header_of(small[i]).result, RESULT_OK);
        cr_assert_eq(header_of(small[i]).commit, commit + 1);
    }
    run(); /* Those that are left wait for nothing that does not come. */
    for (uint32_t i = 0; i < LARGE_COUNT; i++) {
        cr_assert_eq(header_of(large[i]).result, RESULT_OK);
    }
}

/* While he is alone, one need not let anybody before him. */
Test(dispatch, large_writes_of_one_user_wait_for_nobody, .init = setup, .fini = teardown)
{
    peer_uid = 1000;
    const uint32_t wide_id = create_wide();
    push_large(wide_id);
    while (forest->committing == NULL) {
        one_turn();
    }
    push_large(wide_id);
    one_submit();
    cr_assert_eq(forest->gathering->request_count, 1);
    run();
}
