/* Goal: each operation wants its right, and what one may not see cannot be told from what is not
 * there.
 * Method: dispatch_fixture.h, with requests of different users. */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pool/log.h"
#include "tests/server/dispatch_fixture.h"

enum { OWNER = 7, READER = 1000, WRITER = 1001, STRANGER = 1002 };

static void allow(const char *text)
{
    char error[ACCESS_ERROR_SIZE];
    cr_assert_eq(access_add(&config.access, text, 1, error), STATUS_OK, "%s", error);
}

/* Asks as somebody else than the owner, who is put back. */
static struct fake *ask_as(uint32_t uid, enum operation operation, const void *body,
                           uint32_t body_size, enum result result)
{
    peer_uid = uid;
    struct fake *fake = ask(operation, body, body_size, result);
    peer_uid = OWNER;
    return fake;
}

static void setup_rights(void)
{
    setup();
    allow("uid:7 admin *");
    allow("uid:1000 read things");
    allow("uid:1001 write things");
    peer_uid = OWNER;
}

Test(dispatch, each_operation_wants_its_right, .init = setup_rights, .fini = teardown)
{
    static uint8_t body[4096];
    static struct groove_spec spec;
    char error[SCHEMA_TEXT_ERROR_SIZE];
    char name[WIRE_NAME_SIZE] = "things";
    const uint32_t groove_id = create_things();
    const struct query_request query = {.groove_id = groove_id, .index_id = WIRE_INDEX_NONE};
    const struct lookup_request lookup = {.groove_id = groove_id, .id_count = 1};
    uint8_t ids[sizeof lookup + 16] = {0};
    memcpy(ids, &lookup, sizeof lookup);
    ids[sizeof lookup] = 5;
    uint8_t key[sizeof query + 8] = {0};
    memcpy(key, &(struct query_request){.groove_id = groove_id, .key_size = 8}, sizeof query);
    cr_assert(schema_text_parse("things", "a u8", &spec, error));

    static const uint32_t users[] = {READER, WRITER, STRANGER};
    for (uint32_t i = 0; i < 3; i++) {
        const enum result reads = users[i] == STRANGER ? RESULT_DENIED : RESULT_OK;
        const enum result writes = users[i] == WRITER ? RESULT_OK : RESULT_DENIED;
        ask_as(users[i], OPERATION_LOOKUP, ids, sizeof ids, reads);
        ask_as(users[i], OPERATION_COUNT, &query, sizeof query, reads);
        ask_as(users[i], OPERATION_QUERY, key, sizeof key, reads);
        ask_as(users[i], OPERATION_SCHEMA, NULL, 0, reads);
        ask_as(users[i], OPERATION_STAT, NULL, 0, reads);
        ask_as(users[i], OPERATION_WRITE, body, make_insert(body, groove_id, 2, 1), writes);
        ask_as(users[i], OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_DENIED);
        ask_as(users[i], OPERATION_DROP_GROOVE, name, sizeof name, RESULT_DENIED);
        ask_as(users[i], OPERATION_HELLO, NULL, 0, RESULT_OK);
        ask_as(users[i], OPERATION_PING, "well?", 5, RESULT_OK);
    }
    uint64_t count = 0;
    memcpy(&count, body_of(ask(OPERATION_COUNT, &query, sizeof query, RESULT_OK)), sizeof count);
    cr_assert_eq(count, 2);
    cr_assert(says(
        ask_as(READER, OPERATION_WRITE, body, make_insert(body, groove_id, 1, 1), RESULT_DENIED),
        "uid 1000 may not do this: it lacks the right 'write' on groove "));
    cr_assert(says(ask_as(WRITER, OPERATION_DROP_GROOVE, name, sizeof name, RESULT_DENIED),
                   "'admin' on the groove 'things'"));
}

/* A number that names a groove which one may not see is answered as one that names none. */
Test(dispatch, what_one_may_not_see_cannot_be_told_from_what_is_not_there, .init = setup_rights,
     .fini = teardown)
{
    static uint8_t body[4096];
    static struct groove_spec spec;
    char error[SCHEMA_TEXT_ERROR_SIZE];
    create_things();
    const uint32_t groove_id = create_groove("secrets", "name text<8>, size u32, index name");
    cr_assert_eq(groove_id, 2);
    cr_assert(schema_text_parse("secrets", "a u8", &spec, error));
    const struct {
        enum operation operation;
        uint32_t size; /* of the write */
    } tries[] = {
        {OPERATION_COUNT, 0},
        {OPERATION_WRITE, sizeof(struct wire_section) + OBJECT_SIZE},
        {OPERATION_WRITE, sizeof(struct wire_section) + OBJECT_SIZE - 8}, /* not its size */
    };
    static const uint32_t users[] = {READER, WRITER, STRANGER};
    for (uint32_t i = 0; i < 3; i++) {
        for (uint32_t k = 0; k < 3; k++) {
            struct fake *fakes_of[2]; /* of groove 2, and of groove 3 */
            for (uint32_t n = 0; n < 2; n++) {
                const struct query_request query = {.groove_id = groove_id + n,
                                                    .index_id = WIRE_INDEX_NONE};
                make_insert(body, groove_id + n, 1, 1);
                fakes_of[n] =
                    tries[k].operation == OPERATION_WRITE
                        ? ask_as(users[i], OPERATION_WRITE, body, tries[k].size, RESULT_DENIED)
                        : ask_as(users[i], OPERATION_COUNT, &query, sizeof query, RESULT_DENIED);
                char number[16];
                const int size = snprintf(number, sizeof number, "groove %u", groove_id + n);
                char *at = memmem(fakes_of[n]->reply + PROTOCOL_HEADER_SIZE,
                                  fakes_of[n]->reply_size - PROTOCOL_HEADER_SIZE, number, size);
                cr_assert_not_null(at);
                at[size - 1] = '?';
                fakes_of[n]->reply[8] = 0; /* the request's number */
            }
            cr_assert_eq(fakes_of[0]->reply_size, fakes_of[1]->reply_size);
            cr_assert_arr_eq(fakes_of[0]->reply, fakes_of[1]->reply, fakes_of[0]->reply_size);
        }
        ask_as(users[i], OPERATION_CREATE_GROOVE, &spec, sizeof spec, RESULT_DENIED);
    }
    ask(OPERATION_WRITE, body, make_insert(body, groove_id + 1, 1, 1), RESULT_UNKNOWN_GROOVE);
}

Test(dispatch, a_write_needs_its_right_on_every_groove, .init = setup_rights, .fini = teardown)
{
    static uint8_t body[4096];
    const uint32_t things = create_things();
    const uint32_t others = create_groove("others", "name text<8>, size u32, index name");
    const struct query_request query = {.groove_id = things, .index_id = WIRE_INDEX_NONE};
    uint32_t size = make_insert(body, things, 3, 1);
    size += make_insert(body + size, others, 2, 1);
    ask_as(WRITER, OPERATION_WRITE, body, size, RESULT_DENIED);
    uint64_t count = 1;
    memcpy(&count, body_of(ask(OPERATION_COUNT, &query, sizeof query, RESULT_OK)), sizeof count);
    cr_assert_eq(count, 0);
    size = make_insert(body, things, 3, 1);
    size += make_insert(body + size, things, 2, 10);
    ask_as(WRITER, OPERATION_WRITE, body, size, RESULT_OK);
    allow("uid:1001 write others");
    size = make_insert(body, things, 3, 20);
    size += make_insert(body + size, others, 2, 20);
    ask_as(WRITER, OPERATION_WRITE, body, size, RESULT_OK);
    memcpy(&count, body_of(ask(OPERATION_COUNT, &query, sizeof query, RESULT_OK)), sizeof count);
    cr_assert_eq(count, 8);
    /* Of a groove that is gone, too, there is only what is said of those that never were. */
    char name[WIRE_NAME_SIZE] = "others";
    ask(OPERATION_DROP_GROOVE, name, sizeof name, RESULT_OK);
    ask_as(WRITER, OPERATION_WRITE, body, size, RESULT_DENIED);
    ask(OPERATION_WRITE, body, size, RESULT_UNKNOWN_GROOVE);
}

Test(dispatch, schema_and_stat_show_what_one_may_read, .init = setup_rights, .fini = teardown)
{
    create_things();
    create_groove("secrets", "name text<8>, size u32, index name");
    struct schema_reply schema;
    memcpy(&schema, body_of(ask_as(READER, OPERATION_SCHEMA, NULL, 0, RESULT_OK)), sizeof schema);
    cr_assert_eq(schema.groove_count, 1);
    struct fake *fake = ask_as(READER, OPERATION_STAT, NULL, 0, RESULT_OK);
    cr_assert(says(fake, "\"things\""));
    cr_assert_not(says(fake, "secrets"));
    memcpy(&schema, body_of(ask(OPERATION_SCHEMA, NULL, 0, RESULT_OK)), sizeof schema);
    cr_assert_eq(schema.groove_count, 2);
    cr_assert(says(ask(OPERATION_STAT, NULL, 0, RESULT_OK), "secrets"));
}

Test(dispatch, the_unmapped_user_may_nothing, .init = setup, .fini = teardown)
{
    static uint8_t body[4096];
    const uint32_t groove_id = create_things();
    static const uint32_t unmapped[] = {65534, UINT32_MAX};
    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < 2; i++) {
            peer_uid = unmapped[i];
            ask(OPERATION_HELLO, NULL, 0, RESULT_DENIED);
            ask(OPERATION_PING, "well?", 5, RESULT_DENIED);
            ask(OPERATION_STAT, NULL, 0, RESULT_DENIED);
            ask(OPERATION_SCHEMA, NULL, 0, RESULT_DENIED);
            ask(OPERATION_WRITE, body, make_insert(body, groove_id, 1, 1), RESULT_DENIED);
            const struct query_request query = {.groove_id = groove_id,
                                                .index_id = WIRE_INDEX_NONE};
            cr_assert(
                says(ask(OPERATION_COUNT, &query, sizeof query, RESULT_DENIED), "stands for"));
        }
        allow("* admin *"); /* Not then either. */
    }
    cr_assert_eq(dispatch.gate.denied_total[GATE_LACK_IDENTITY], 24);
}

static uint32_t log_lines(int fd, char *text, size_t text_size)
{
    const ssize_t size = pread(fd, text, text_size - 1, 0);
    cr_assert_geq(size, 0);
    text[size] = '\0';
    uint32_t count = 0;
    for (const char *at = text; (at = strstr(at, "event=access.denied")) != NULL; at++) {
        count += 1;
    }
    return count;
}

Test(dispatch, denials_are_counted_and_logged_once_a_second, .init = setup_rights, .fini = teardown)
{
    static char text[1 << 14];
    const int fd = memfd_create("log", MFD_CLOEXEC);
    cr_assert_geq(fd, 0);
    log_configure(LOG_FORMAT_LOGFMT, LOG_LEVEL_INFO, fd);
    const struct query_request query = {.groove_id = 5, .index_id = WIRE_INDEX_NONE};
    for (uint32_t i = 0; i < 50; i++) { /* Two seconds and some. */
        ask_as(STRANGER, OPERATION_COUNT, &query, sizeof query, RESULT_DENIED);
        now_ns += 45 * 1000 * 1000;
    }
    cr_assert_eq(log_lines(fd, text, sizeof text), 3, "%s", text);
    cr_assert_not_null(
        strstr(text, "uid=1002 operation=COUNT lacks=read on=\"groove 5\" count=1\n"), "%s", text);
    cr_assert_not_null(strstr(text, "count=23\n"), "%s", text);
    char name[WIRE_NAME_SIZE] = "a\nb\x01"
                                "c";
    now_ns += 1000ull * 1000 * 1000;
    ask_as(STRANGER, OPERATION_DROP_GROOVE, name, sizeof name, RESULT_DENIED);
    cr_assert_eq(log_lines(fd, text, sizeof text), 4);
    cr_assert_not_null(strstr(text, "'a?b?c'"), "%s", text);
    ask_as(STRANGER, OPERATION_STAT, NULL, 0, RESULT_DENIED);
    log_configure(LOG_FORMAT_LOGFMT, LOG_LEVEL_INFO, 2);

    struct fake *fake = ask(OPERATION_STAT, NULL, 0, RESULT_OK);
    cr_assert(says(fake, "\"access\":{\"rules\":3,\"denied_total\":{\"read\":50,\"write\":0,"
                         "\"admin\":1,\"any\":1,\"identity\":0}}"));
    close(fd);
}
