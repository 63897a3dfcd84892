/* Goal: every operation of the wire reaches the forest and comes back as docs/protocol.md says,
 * once, with the right result; nothing is lost when the forest asks to wait.
 * Method: dispatch_fixture.h. Whose turn it is, rights and sessions have tests of their own:
 * test_dispatch_turns.c, test_dispatch_rights.c, test_dispatch_sessions.c. */
#include <jansson.h>
#include <stdio.h>

#include "server/stat_text.h"
#include "tests/harness/prng.h"
#include "tests/server/dispatch_fixture.h"

Test(dispatch, hello_and_ping_answer_at_once, .init = setup, .fini = teardown)
{
    struct fake *fake = ask(OPERATION_HELLO, NULL, 0, RESULT_OK);
    struct hello_reply hello;
    memcpy(&hello, body_of(fake), sizeof hello);
    cr_assert_eq(hello.batch_size_max, geometry_tiny().batch_size_max);
    cr_assert_eq(hello.batch_event_max, geometry_tiny().batch_event_max);
    cr_assert_eq(hello.exchange_count, config.exchange_count);
    cr_assert_str_eq(hello.version, HOLT_VERSION);
    cr_assert(hello.features & WIRE_FEATURE_CHAINS);
    fake = ask(OPERATION_PING, "echo", 4, RESULT_OK);
    cr_assert_arr_eq(body_of(fake), "echo", 4);
}

Test(dispatch, schema_describes_what_was_created, .init = setup, .fini = teardown)
{
    struct schema_reply schema;
    memcpy(&schema, body_of(ask(OPERATION_SCHEMA, NULL, 0, RESULT_OK)), sizeof schema);
    cr_assert_eq(schema.groove_count, 0);
    const uint32_t groove_id = create_things();
    const uint8_t *body = body_of(ask(OPERATION_SCHEMA, NULL, 0, RESULT_OK));
    memcpy(&schema, body, sizeof schema);
    cr_assert_eq(schema.groove_count, 1);
    struct schema_groove groove;
    struct schema_field fields[2];
    struct schema_index indexes[2];
    memcpy(&groove, body + sizeof schema, sizeof groove);
    memcpy(fields, body + sizeof schema + sizeof groove, sizeof fields);
    memcpy(indexes, body + sizeof schema + sizeof groove + sizeof fields, sizeof indexes);
    cr_assert_str_eq(groove.name, "things");
    cr_assert_eq(groove.groove_id, groove_id);
    cr_assert_eq(groove.object_size, OBJECT_SIZE);
    cr_assert_gt(groove.event_count_max, 0);
    cr_assert_str_eq(fields[1].name, "size");
    cr_assert_eq(fields[1].offset, 40);
    cr_assert_eq(fields[1].size, 4);
    cr_assert_str_eq(indexes[0].name, "name");
    cr_assert_eq(indexes[1].index_id, 1);
    cr_assert_eq(indexes[1].fields[0], 1);
}

Test(dispatch, writes_and_reads_go_through, .init = setup, .fini = teardown)
{
    static uint8_t body[4096];
    const uint32_t groove_id = create_things();
    struct fake *fake = ask(OPERATION_WRITE, body, make_insert(body, groove_id, 10, 1), RESULT_OK);
    const uint64_t commit = header_of(fake).commit;
    struct write_reply write;
    memcpy(&write, body_of(fake), sizeof write);
    cr_assert_eq(write.failure_count, 0);
    cr_assert_gt(header_of(fake).timestamp, 0);

    /* The last three again, and seven new: failures name the events. */
    fake = ask(OPERATION_WRITE, body, make_insert(body, groove_id, 10, 8), RESULT_OK);
    memcpy(&write, body_of(fake), sizeof write);
    cr_assert_eq(write.failure_count, 3);
    struct wire_failure failures[3];
    memcpy(failures, body_of(fake) + sizeof write, sizeof failures);
    for (uint32_t i = 0; i < 3; i++) {
        cr_assert_eq(failures[i].event_index, i);
        cr_assert_eq(failures[i].result, WIRE_EVENT_RESULT_EXISTS);
    }
    cr_assert_gt(header_of(fake).commit, commit);

    const struct lookup_request lookup = {.groove_id = groove_id, .id_count = 3};
    uint8_t ids[sizeof lookup + 3 * 16] = {0};
    memcpy(ids, &lookup, sizeof lookup);
    ids[sizeof lookup] = 5;
    ids[sizeof lookup + 16] = 200;
    ids[sizeof lookup + 32] = 1;
    fake = ask(OPERATION_LOOKUP, ids, sizeof ids, RESULT_OK);
    struct objects_reply objects;
    memcpy(&objects, body_of(fake), sizeof objects);
    cr_assert_eq(objects.object_count, 2);
    cr_assert_eq(objects.object_size, OBJECT_SIZE);
    cr_assert_eq(body_of(fake)[sizeof objects], 5);
    cr_assert_eq(body_of(fake)[sizeof objects + OBJECT_SIZE], 1);
    cr_assert_geq(header_of(fake).commit, commit);

    uint8_t key[sizeof(struct query_request) + 8] = {0};
    struct query_request query = {.groove_id = groove_id, .limit = 3, .key_size = 8};
    memcpy(key, &query, sizeof query);
    memcpy(key + sizeof query, "odd", 3);
    fake = ask(OPERATION_QUERY, key, sizeof key, RESULT_OK);
    memcpy(&objects, body_of(fake), sizeof objects);
    cr_assert_eq(objects.object_count, 3);
    query.limit = 0;
    memcpy(key, &query, sizeof query);
    fake = ask(OPERATION_COUNT, key, sizeof key, RESULT_OK);
    uint64_t count;
    memcpy(&count, body_of(fake), sizeof count);
    cr_assert_eq(count, 9); /* Ids 2, 4, .., 10, then 11, 13, 15, 17. */
    query = (struct query_request){.groove_id = groove_id, .index_id = WIRE_INDEX_NONE};
    fake = ask(OPERATION_COUNT, &query, sizeof query, RESULT_OK);
    memcpy(&count, body_of(fake), sizeof count);
    cr_assert_eq(count, 17);
}

Test(dispatch, a_value_that_is_taken_is_a_failure_of_its_own, .init = setup, .fini = teardown)
{
    static uint8_t body[4096];
    const uint32_t groove_id =
        create_groove("singles", "name text<8>, size u32, index name, unique index size");
    const uint8_t *schema = body_of(ask(OPERATION_SCHEMA, NULL, 0, RESULT_OK));
    struct schema_index indexes[2];
    memcpy(indexes,
           schema + sizeof(struct schema_reply) + sizeof(struct schema_groove) +
               2 * sizeof(struct schema_field),
           sizeof indexes);
    cr_assert_eq(indexes[1].flags, WIRE_INDEX_FLAG_UNIQUE);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, 3, 1), RESULT_OK); /* Sizes 0 to 2. */
    const uint32_t size = make_insert(body, groove_id, 5, 3);                  /* 0 to 4; id 3. */
    struct fake *fake = ask(OPERATION_WRITE, body, size, RESULT_OK);
    struct write_reply write;
    memcpy(&write, body_of(fake), sizeof write);
    cr_assert_eq(write.failure_count, 3);
    static const uint32_t results[] = {WIRE_EVENT_RESULT_EXISTS, WIRE_EVENT_RESULT_UNIQUE,
                                       WIRE_EVENT_RESULT_UNIQUE};
    for (uint32_t i = 0; i < 3; i++) {
        struct wire_failure failure;
        memcpy(&failure, body_of(fake) + sizeof write + i * sizeof failure, sizeof failure);
        cr_assert_eq(failure.event_index, i);
        cr_assert_eq(failure.result, results[i], "%s", wire_event_result_name(failure.result));
    }
}

/* ---- Guards and chains ---- */

/* Appends a section of one event to body; `image` is an object, of which an id is the beginning. */
static uint32_t add_event(uint8_t *body, uint32_t size, uint32_t groove_id, uint8_t type,
                          uint8_t flags, uint8_t guard, uint64_t version, const uint8_t *image)
{
    const struct wire_section section = {
        .groove_id = groove_id,
        .event_type = type,
        .flags = flags,
        .guard = guard,
        .event_count = 1,
    };
    memcpy(body + size, &section, sizeof section);
    size += (uint32_t)sizeof section;
    if (guard == WIRE_GUARD_VERSION) {
        memcpy(body + size, &version, sizeof version);
        size += (uint32_t)sizeof version;
    }
    const bool id = type == WIRE_EVENT_TYPE_REMOVE || type == WIRE_EVENT_TYPE_CHECK;
    const uint32_t payload = id ? WIRE_ID_SIZE : OBJECT_SIZE;
    memcpy(body + size, image, payload);
    return size + payload;
}

static void assert_failures(const struct fake *fake, const struct wire_failure *expected,
                            uint32_t count)
{
    struct write_reply write;
    cr_assert_eq(header_of(fake).result, RESULT_OK);
    memcpy(&write, body_of(fake), sizeof write);
    cr_assert_eq(write.failure_count, count);
    cr_assert_eq(write.failure_total, count);
    cr_assert_eq(header_of(fake).body_size, sizeof write + count * sizeof *expected);
    cr_assert(count == 0 ||
              memcmp(body_of(fake) + sizeof write, expected, count * sizeof *expected) == 0);
}

Test(dispatch, guards_and_chains_go_through, .init = setup, .fini = teardown)
{
    static uint8_t body[4096];
    uint8_t image[OBJECT_SIZE], other[OBJECT_SIZE];
    const uint32_t things = create_things();
    const uint32_t more = create_groove("more", "name text<8>, size u32, index name, index size");
    make_object(image, 1, "one", 1);
    make_object(other, 2, "two", 2);
    uint32_t size = add_event(body, 0, things, WIRE_EVENT_TYPE_INSERT, WIRE_SECTION_FLAG_LINKED,
                              WIRE_GUARD_ABSENT, 0, image);
    size = add_event(body, size, more, WIRE_EVENT_TYPE_INSERT, 0, WIRE_GUARD_NONE, 0, image);
    struct fake *fake = ask(OPERATION_WRITE, body, size, RESULT_OK);
    assert_failures(fake, NULL, 0);
    const uint64_t version = header_of(fake).timestamp + 1; /* of the one in `more` */

    /* The second time its guard fails, and takes the other with it. */
    size = add_event(body, 0, more, WIRE_EVENT_TYPE_INSERT, WIRE_SECTION_FLAG_LINKED,
                     WIRE_GUARD_NONE, 0, other);
    size = add_event(body, size, things, WIRE_EVENT_TYPE_INSERT, 0, WIRE_GUARD_ABSENT, 0, image);
    size = add_event(body, size, things, WIRE_EVENT_TYPE_INSERT, 0, WIRE_GUARD_NONE, 0, other);
    assert_failures(
        ask(OPERATION_WRITE, body, size, RESULT_OK),
        (struct wire_failure[]){{0, WIRE_EVENT_RESULT_LINKED}, {1, WIRE_EVENT_RESULT_GUARD}}, 2);

    /* Compare and set, and what a client does not link, an atomic request does. */
    size = add_event(body, 0, more, WIRE_EVENT_TYPE_UPDATE, 0, WIRE_GUARD_VERSION, version, image);
    size =
        add_event(body, size, more, WIRE_EVENT_TYPE_REMOVE, 0, WIRE_GUARD_VERSION, version, image);
    fake = push_flagged(OPERATION_WRITE, WIRE_REQUEST_FLAG_ATOMIC, body, size);
    run();
    assert_failures(
        fake, (struct wire_failure[]){{0, WIRE_EVENT_RESULT_LINKED}, {1, WIRE_EVENT_RESULT_GUARD}},
        2);
    assert_failures(ask(OPERATION_WRITE, body, size, RESULT_OK),
                    (struct wire_failure[]){{1, WIRE_EVENT_RESULT_GUARD}}, 1);
    const struct query_request query = {.groove_id = more, .index_id = WIRE_INDEX_NONE};
    uint64_t count;
    memcpy(&count, body_of(ask(OPERATION_COUNT, &query, sizeof query, RESULT_OK)), sizeof count);
    cr_assert_eq(count, 1);

    /* A chain must have an end; here only the engine can tell where the section ends. */
    size = add_event(body, 0, more, WIRE_EVENT_TYPE_UPSERT, WIRE_SECTION_FLAG_LINKED,
                     WIRE_GUARD_NONE, 0, image);
    ask(OPERATION_WRITE, body, size, RESULT_BAD_BODY);
}

enum { CLIENT_COUNT = 16, INCREMENT_COUNT = 12 };

/* A client of the counter: reads it, and writes one more if it is still what was read. */
struct counting {
    struct fake *fake; /* its request under way; NULL: none */
    bool writing;
    uint32_t done, beaten;
};

static void counting_read(struct counting *client, uint32_t groove_id)
{
    const struct lookup_request lookup = {.groove_id = groove_id, .id_count = 1};
    uint8_t body[sizeof lookup + WIRE_ID_SIZE] = {0};
    memcpy(body, &lookup, sizeof lookup);
    body[sizeof lookup] = 1;
    client->writing = false;
    client->fake = push(OPERATION_LOOKUP, body, sizeof body);
}

static void counting_write(struct counting *client, uint32_t groove_id)
{
    uint8_t body[256], image[OBJECT_SIZE];
    uint64_t version;
    uint32_t value;
    memcpy(image, body_of(client->fake) + sizeof(struct objects_reply), sizeof image);
    memcpy(&version, image + 24, sizeof version);
    memcpy(&value, image + 40, sizeof value);
    make_object(image, 1, "counter", value + 1);
    const uint32_t size = add_event(body, 0, groove_id, WIRE_EVENT_TYPE_UPDATE, 0,
                                    WIRE_GUARD_VERSION, version, image);
    client->writing = true;
    client->fake = push(OPERATION_WRITE, body, size);
}

static void counting_step(struct counting *client, uint32_t groove_id)
{
    if (client->fake == NULL) {
        if (client->done < INCREMENT_COUNT) {
            counting_read(client, groove_id);
        }
    } else if (client->fake->answered && !client->writing) {
        counting_write(client, groove_id);
    } else if (client->fake->answered) {
        struct write_reply write;
        memcpy(&write, body_of(client->fake), sizeof write);
        if (write.failure_count == 0) {
            client->done += 1;
        } else {
            assert_failures(client->fake, (struct wire_failure[]){{0, WIRE_EVENT_RESULT_GUARD}}, 1);
            client->beaten += 1;
        }
        client->fake = NULL;
    }
}

Test(dispatch, a_counter_that_many_clients_compare_and_set_is_exact, .init = setup,
     .fini = teardown)
{
    struct counting clients[CLIENT_COUNT] = {{0}};
    uint8_t body[256], image[OBJECT_SIZE];
    struct prng prng;
    const uint32_t groove_id = create_things();
    make_object(image, 1, "counter", 0);
    uint32_t size =
        add_event(body, 0, groove_id, WIRE_EVENT_TYPE_INSERT, 0, WIRE_GUARD_NONE, 0, image);
    assert_failures(ask(OPERATION_WRITE, body, size, RESULT_OK), NULL, 0);
    prng_init(&prng, 16);
    uint32_t done = 0, beaten = 0;
    while (done < CLIENT_COUNT * INCREMENT_COUNT) {
        counting_step(&clients[prng_below(&prng, CLIENT_COUNT)], groove_id);
        if (prng_chance(&prng, 1, 3)) { /* Now and then the daemon gets a step further. */
            memory_forbid_allocation();
            (void)dispatch_take(&dispatch);
            (void)dispatch_submit(&dispatch);
            (void)forest_tick(forest);
            memory_allow_allocation();
        }
        done = 0;
        beaten = 0;
        for (uint32_t i = 0; i < CLIENT_COUNT; i++) {
            done += clients[i].done;
            beaten += clients[i].beaten;
        }
    }
    run();
    cr_assert_gt(beaten, CLIENT_COUNT); /* They were in each other's way. */
    struct counting reader = {0};
    counting_read(&reader, groove_id);
    run();
    uint32_t value;
    memcpy(&value, body_of(reader.fake) + sizeof(struct objects_reply) + 40, sizeof value);
    cr_assert_eq(value, CLIENT_COUNT * INCREMENT_COUNT);
}

Test(dispatch, refusals_have_their_result, .init = setup, .fini = teardown)
{
    static struct groove_spec spec;
    static uint8_t body[1 << 16];
    char name[WIRE_NAME_SIZE] = "things";
    char error[SCHEMA_TEXT_ERROR_SIZE];
    const uint32_t groove_id = create_things();
    cr_assert(schema_text_parse("things", "a u8", &spec, error));
    ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_GROOVE_EXISTS);
    spec.name[0] = '9';
    struct fake *fake = ask(OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_BAD_SCHEMA);
    cr_assert_gt(header_of(fake).body_size, 0);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id + 100, 1, 1), RESULT_UNKNOWN_GROOVE);
    const uint32_t count = geometry_tiny().batch_size_max / OBJECT_SIZE + 1;
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, count, 1), RESULT_TOO_BIG);
    ask(OPERATION_WRITE, body, make_insert(body, groove_id, 2, 1) - 8, RESULT_BAD_BODY);

    uint8_t key[sizeof(struct query_request) + 8] = {0};
    struct query_request query = {.groove_id = groove_id, .index_id = 2, .key_size = 8};
    memcpy(key, &query, sizeof query);
    ask(OPERATION_QUERY, key, sizeof key, RESULT_UNKNOWN_INDEX);
    query = (struct query_request){.groove_id = groove_id, .index_id = 1, .key_size = 8};
    memcpy(key, &query, sizeof query);
    ask(OPERATION_QUERY, key, sizeof key, RESULT_BAD_BODY);
    query = (struct query_request){.groove_id = 99, .index_id = WIRE_INDEX_NONE};
    ask(OPERATION_COUNT, &query, sizeof query, RESULT_UNKNOWN_GROOVE);
    ask(OPERATION_DROP_GROOVE, name, sizeof name, RESULT_OK);
    ask(OPERATION_DROP_GROOVE, name, sizeof name, RESULT_UNKNOWN_GROOVE);
}

Test(dispatch, more_than_a_batch_and_its_slots_wait_their_turn, .init = setup, .fini = teardown)
{
    static uint8_t body[1 << 14];
    const uint32_t groove_id = create_things();
    const uint32_t size = make_insert(body, groove_id, 60, 1);
    const struct query_request query = {.groove_id = groove_id, .index_id = WIRE_INDEX_NONE};
    struct fake *writes[15];
    for (uint32_t i = 0; i < 15; i++) {
        for (uint32_t event = 0; event < 60; event++) {
            body[sizeof(struct wire_section) + event * OBJECT_SIZE + 1] = (uint8_t)(i + 1);
        }
        writes[i] = push(OPERATION_WRITE, body, size);
        push(OPERATION_COUNT, &query, sizeof query);
    }
    run();
    uint64_t commit = 0;
    for (uint32_t i = 0; i < 15; i++) {
        cr_assert_eq(header_of(writes[i]).result, RESULT_OK);
        cr_assert_gt(header_of(writes[i]).commit, commit);
        commit = header_of(writes[i]).commit;
    }
    uint64_t count;
    memcpy(&count, body_of(ask(OPERATION_COUNT, &query, sizeof query, RESULT_OK)), sizeof count);
    cr_assert_eq(count, 15 * 60);
}

Test(dispatch, what_is_too_late_is_not_begun, .init = setup, .fini = teardown)
{
    static uint8_t body[4096];
    const uint32_t groove_id = create_things();
    const struct query_request query = {.groove_id = groove_id, .index_id = WIRE_INDEX_NONE};
    struct fake *write = push(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 1));
    struct fake *read = push(OPERATION_COUNT, &query, sizeof query);
    write->exchange.header.deadline_ms = 5;
    read->exchange.header.deadline_ms = 5;
    now_ns += 6 * 1000 * 1000;
    run();
    cr_assert_eq(header_of(write).result, RESULT_EXPIRED);
    cr_assert_eq(header_of(read).result, RESULT_EXPIRED);
    uint64_t count = 1;
    memcpy(&count, body_of(ask(OPERATION_COUNT, &query, sizeof query, RESULT_OK)), sizeof count);
    cr_assert_eq(count, 0);
}

/* Wherever a request waits when its deadline passes: for a batch that has room, for a reader, for
 * an answer from here. What is in a batch has been begun. */
Test(dispatch, what_becomes_too_late_while_it_waits_is_not_begun, .init = setup, .fini = teardown)
{
    enum { COUNT = 16 };
    static uint8_t body[1 << 14];
    const uint32_t groove_id = create_things();
    const struct query_request query = {.groove_id = groove_id, .index_id = WIRE_INDEX_NONE};
    const uint32_t size = make_insert(body, groove_id, 60, 1);
    struct fake *writes[COUNT];
    struct fake *reads[COUNT];
    struct fake *pings[COUNT + 1];
    for (uint32_t i = 0; i < COUNT; i++) {
        for (uint32_t event = 0; event < 60; event++) {
            body[sizeof(struct wire_section) + event * OBJECT_SIZE + 1] = (uint8_t)(i + 1);
        }
        writes[i] = push(OPERATION_WRITE, body, size);
        writes[i]->exchange.header.deadline_ms = 5;
        reads[i] = push(OPERATION_COUNT, &query, sizeof query);
        reads[i]->exchange.header.deadline_ms = 5;
    }
    for (uint32_t i = 0; i <= COUNT; i++) {
        pings[i] = push(OPERATION_PING, NULL, 0);
        pings[i]->exchange.header.deadline_ms = 5;
    }
    memory_forbid_allocation();
    dispatch_take(&dispatch);
    dispatch_submit(&dispatch);
    memory_allow_allocation();
    const uint32_t begun = COUNT - dispatch.writes.count;
    cr_assert(begun > 0 && begun < COUNT, "%u", begun);
    cr_assert_eq(dispatch.reads.count, COUNT - 2); /* Two have slots, and wait for a reader. */
    cr_assert_eq(dispatch.looks.count, 1);
    now_ns += 6 * 1000 * 1000;
    run();
    for (uint32_t i = 0; i < COUNT; i++) {
        cr_assert_eq(header_of(writes[i]).result, i < begun ? RESULT_OK : RESULT_EXPIRED);
        cr_assert_eq(header_of(reads[i]).result, RESULT_EXPIRED);
    }
    for (uint32_t i = 0; i <= COUNT; i++) {
        cr_assert_eq(header_of(pings[i]).result, i < COUNT ? RESULT_OK : RESULT_EXPIRED);
    }
    uint64_t count = 0;
    memcpy(&count, body_of(ask(OPERATION_COUNT, &query, sizeof query, RESULT_OK)), sizeof count);
    cr_assert_eq(count, 60 * begun);
    char expired[40];
    snprintf(expired, sizeof expired, "\"expired\":%u,", COUNT - begun + COUNT + 1);
    struct fake *stat = ask(OPERATION_STAT, NULL, 0, RESULT_OK);
    cr_assert_not_null(memmem(body_of(stat), header_of(stat).body_size, expired, strlen(expired)));
}

Test(dispatch, stat_is_json_and_counts, .init = setup, .fini = teardown)
{
    create_things();
    struct fake *fake = ask(OPERATION_STAT, NULL, 0, RESULT_OK);
    json_error_t error;
    json_t *root = json_loadb((const char *)body_of(fake), header_of(fake).body_size, 0, &error);
    cr_assert_not_null(root, "%s", error.text);
    const json_t *requests = json_object_get(json_object_get(root, "requests"), "total");
    cr_assert_eq(json_integer_value(json_object_get(requests, "CREATE_GROOVE")), 1);
    cr_assert_eq(json_integer_value(json_object_get(requests, "STAT")), 1);
    cr_assert_eq(
        json_integer_value(json_object_get(json_object_get(root, "listener"), "connections")), 3);
    const json_t *groove = json_array_get(json_object_get(root, "grooves"), 0);
    cr_assert_str_eq(json_string_value(json_object_get(groove, "name")), "things");
    json_decref(root);
}

Test(dispatch, the_largest_stat_fits, .init = setup, .fini = teardown)
{
    static struct groove_spec spec;
    static struct groove_schema schema;
    for (uint32_t i = 0; i < FIELD_COUNT_MAX; i++) {
        snprintf(spec.fields[i].name, NAME_SIZE, "field_with_the_longest_name__%02u", i);
        spec.fields[i].type = FIELD_TYPE_TEXT;
        spec.fields[i].size = 4064;
    }
    for (uint32_t i = 0; i < INDEX_COUNT_MAX; i++) {
        snprintf(spec.indexes[i].name, NAME_SIZE, "index_with_the_longest_name__%02u", i);
        spec.indexes[i].field_count = INDEX_FIELD_COUNT_MAX;
        spec.indexes[i].flags = INDEX_FLAG_UNIQUE | INDEX_FLAG_SPARSE;
    }
    memset(spec.name, 'g', NAME_SIZE - 1);
    spec.field_count = FIELD_COUNT_MAX;
    spec.index_count = INDEX_COUNT_MAX;
    schema.spec = spec;
    for (uint32_t i = 0; i < DISPATCH_GROOVE_COUNT_MAX; i++) {
        dispatch.grooves[i] = (struct forest_groove_info){
            .groove_id = UINT32_MAX,
            .object_count = UINT64_MAX,
            .schema = &schema,
        };
    }
    memset(config.data_path, 1, sizeof config.data_path - 1);
    memset(config.socket_path, 1, sizeof config.socket_path - 1);
    cr_assert_not_null(
        stat_text(&dispatch, DISPATCH_GROOVE_COUNT_MAX, dispatch.text, DISPATCH_TEXT_SIZE));
}
