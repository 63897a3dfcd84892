/* Goal: a batch takes what fits and says why not otherwise; what it journals decodes to the same
 * requests; no bytes of an entry, whatever they are, make decoding read outside of them or believe
 * nonsense. Method: random requests, valid and broken, judged again by naive rules; every cut and
 * every changed byte of real entries, with the entry at the very end of memory; a forest reopened
 * over requests that were overtaken by others. */
#include "engine/batch.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forest_internal.h"
#include "engine/object.h"
#include "pool/base.h"
#include "tests/harness/catalog_fixture.h"
#include "tests/harness/forest_fixture.h"
#include "tests/harness/prng.h"

enum { GROOVE_COUNT = 3, REQUEST_MAX = 200 };

static struct catalog_fixture fixture;
static struct batch batch;
static struct catalog_groove *grooves[GROOVE_COUNT];
static uint8_t body[64 * 1024];

static void init(void)
{
    const struct geometry geometry = geometry_tiny();
    catalog_fixture_init(&fixture, &geometry);
    cr_assert(eq(int, batch_init(&batch, &fixture.geometry), STATUS_OK));
    for (uint32_t i = 0; i < GROOVE_COUNT; i++) {
        struct groove_spec spec = {0};
        spec.name[0] = (char)('a' + i);
        catalog_fixture_field(&spec, "a", FIELD_TYPE_U64, 8);
        catalog_fixture_field(&spec, "pad", FIELD_TYPE_BYTES, 1 + 300 * i);
        for (uint8_t k = 0; k < i; k++) {
            char name[NAME_SIZE] = {(char)('x' + k)};
            catalog_fixture_index(&spec, name, 0, 0);
        }
        grooves[i] = catalog_fixture_create(&fixture, &spec);
    }
}

static void fini(void)
{
    batch_deinit(&batch);
    catalog_fixture_deinit(&fixture);
}

TestSuite(batch, .init = init, .fini = fini, .timeout = 120);

/* Bytes of one event, as docs/protocol.md has them. */
static uint32_t event_size(const struct event_section *section, uint32_t object_size)
{
    const bool id = section->event_type == EVENT_TYPE_REMOVE || section->event_type == 5;
    return (section->guard == 3 ? 8 : 0) + (id ? 16 : object_size);
}

static uint32_t put_section(uint32_t size, const struct event_section *section,
                            uint32_t object_size, struct prng *prng)
{
    memcpy(body + size, section, sizeof *section);
    size += (uint32_t)sizeof *section;
    const uint32_t payload = section->event_count * event_size(section, object_size);
    cr_assert(size + payload <= sizeof body);
    prng_fill(prng, body + size, payload);
    return size + payload;
}

/* Appends a section of `count` events to body, at `size`. Returns the new size. */
static uint32_t add_section(uint32_t size, uint32_t groove_id, uint32_t object_size,
                            enum event_type type, uint32_t count, struct prng *prng)
{
    const struct event_section section = {
        .groove_id = groove_id,
        .event_type = (uint8_t)type,
        .event_count = count,
    };
    return put_section(size, &section, object_size, prng);
}

static uint32_t random_sections(struct prng *prng, uint32_t event_max, uint32_t *event_count)
{
    uint32_t size = 0;
    *event_count = 0;
    const uint32_t sections = (uint32_t)prng_range(prng, 1, 3);
    for (uint32_t i = 0; i < sections; i++) {
        const struct catalog_groove *groove = grooves[prng_below(prng, GROOVE_COUNT)];
        struct event_section section = {
            .groove_id = groove->groove_id,
            .event_type = (uint8_t)prng_range(prng, EVENT_TYPE_INSERT, EVENT_TYPE_CHECK),
            .flags = i + 1 < sections && prng_chance(prng, 1, 3) ? EVENT_SECTION_FLAG_LINKED : 0,
            .event_count = (uint32_t)prng_range(prng, 1, event_max),
        };
        section.guard =
            section.event_type == EVENT_TYPE_CHECK
                ? (uint8_t)prng_range(prng, EVENT_GUARD_ABSENT, EVENT_GUARD_VERSION)
                : (uint8_t)(prng_chance(prng, 1, 2) ? prng_below(prng, EVENT_GUARD_VERSION + 1)
                                                    : EVENT_GUARD_NONE);
        size = put_section(size, &section, groove->schema->schema.object_size, prng);
        *event_count += section.event_count;
    }
    return size;
}

/* What a request would add, by the plainest reading of the format. */
static enum request_result naive_judge(const uint8_t *bytes, uint32_t size)
{
    const struct geometry *geometry = &fixture.geometry;
    if (size > geometry->batch_size_max) {
        return REQUEST_RESULT_TOO_BIG;
    }
    uint64_t events = 0, objects = 0;
    uint64_t by_groove[GROOVE_COUNT] = {0};
    bool linked = false;
    uint32_t at = 0;
    while (at < size) {
        struct event_section section;
        if (size - at < sizeof section) {
            return REQUEST_RESULT_MALFORMED;
        }
        memcpy(&section, bytes + at, sizeof section);
        at += (uint32_t)sizeof section;
        if (section.event_type < 1 || section.event_type > 5 || section.flags > 1 ||
            section.guard > 3 || (section.event_type == 5 && section.guard == 0) ||
            section.zero != 0 || section.zero_2 != 0 || section.event_count == 0) {
            return REQUEST_RESULT_MALFORMED;
        }
        linked = section.flags == 1;
        uint32_t i = 0;
        while (i < GROOVE_COUNT &&
               (grooves[i]->dropping || grooves[i]->groove_id != section.groove_id)) {
            i += 1;
        }
        if (i == GROOVE_COUNT) {
            return REQUEST_RESULT_UNKNOWN_GROOVE;
        }
        const struct groove_schema *schema = &grooves[i]->schema->schema;
        const uint64_t payload = event_size(&section, schema->object_size);
        if (payload * section.event_count > size - at) {
            return REQUEST_RESULT_MALFORMED;
        }
        at += (uint32_t)(payload * section.event_count);
        events += section.event_count;
        by_groove[i] += section.event_count;
        objects += (uint64_t)section.event_count * schema->object_size;
        if (by_groove[i] > schema->event_max || events > geometry->batch_event_max) {
            return REQUEST_RESULT_TOO_BIG;
        }
    }
    if (events == 0 || linked) {
        return REQUEST_RESULT_MALFORMED;
    }
    return objects > batch_object_bytes_max(geometry) ? REQUEST_RESULT_TOO_BIG : REQUEST_RESULT_OK;
}

static enum batch_admission add(enum request_kind kind, uint32_t size, enum request_result *result)
{
    return batch_add(&batch, &fixture.catalog, kind, false, body, size, NULL, false, result);
}

Test(batch, requests_are_judged_as_naive_rules_say)
{
    struct prng prng;
    prng_init(&prng, 1);
    uint32_t accepted = 0, refused = 0;
    for (int i = 0; i < 40000; i++) {
        uint32_t events;
        uint32_t size = random_sections(&prng, prng_chance(&prng, 1, 20) ? 40 : 4, &events);
        if (prng_chance(&prng, 1, 2)) { /* Broken somewhere, near a section header if need be. */
            const uint32_t range = prng_chance(&prng, 1, 2) ? 16 : size;
            body[prng_below(&prng, range)] ^= (uint8_t)(1u << prng_below(&prng, 8));
        }
        if (prng_chance(&prng, 1, 8)) {
            size = (uint32_t)prng_below(&prng, size);
        }
        batch_reset(&batch);
        enum request_result result;
        const enum request_result expected = naive_judge(body, size);
        const enum batch_admission admission = add(REQUEST_KIND_WRITE, size, &result);
        cr_assert(eq(int, result, expected));
        cr_assert(eq(int, admission, expected == REQUEST_RESULT_OK ? BATCH_ADDED : BATCH_REFUSED));
        accepted += admission == BATCH_ADDED;
        refused += admission == BATCH_REFUSED;
    }
    cr_assert(accepted > 1000 && refused > 1000);
}

static uint8_t *bodies[REQUEST_MAX];
static uint32_t sizes[REQUEST_MAX];
static bool atomics[REQUEST_MAX];

static void bodies_free(uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        free(bodies[i]);
    }
}

/* Random writes until one does not fit; they stay in `bodies`. */
static uint32_t gather(struct prng *prng, uint32_t event_max)
{
    batch_reset(&batch);
    uint32_t count = 0;
    while (count < REQUEST_MAX) {
        uint32_t events;
        const uint32_t size = random_sections(prng, event_max, &events);
        enum request_result result;
        atomics[count] = prng_chance(prng, 1, 4);
        const enum batch_admission admission =
            batch_add(&batch, &fixture.catalog, REQUEST_KIND_WRITE, atomics[count], body, size,
                      NULL, false, &result);
        if (admission == BATCH_REFUSED) {
            continue; /* Too many for any batch. */
        }
        if (admission == BATCH_FULL) { /* So it must fit an empty one. */
            struct batch other;
            cr_assert(eq(int, batch_init(&other, &fixture.geometry), STATUS_OK));
            cr_assert(eq(int,
                         batch_add(&other, &fixture.catalog, REQUEST_KIND_WRITE, false, body, size,
                                   NULL, false, &result),
                         BATCH_ADDED));
            batch_deinit(&other);
            break;
        }
        bodies[count] = malloc(size);
        memcpy(bodies[count], body, size);
        sizes[count] = size;
        count += 1;
    }
    return count;
}

static void entry_finish(void)
{
    memset(batch.buffer, 0, JOURNAL_HEADER_SIZE);
    struct journal_header *header = (struct journal_header *)(void *)batch.buffer;
    header->size = batch.size;
    header->request_count = batch.request_count;
    header->kind = JOURNAL_KIND_BATCH;
}

/* Events come in the order of requests and sections; groups are adjacent and hold them all. */
static void check_resolved(uint32_t request_count)
{
    cr_assert(eq(u32, batch.request_count, request_count));
    uint32_t event = 0;
    for (uint32_t i = 0; i < request_count; i++) {
        const struct batch_request *request = &batch.requests[i];
        cr_assert(eq(u32, request->header->size, sizes[i]));
        cr_assert(eq(int, memcmp(request->body, bodies[i], sizes[i]), 0));
        cr_assert(eq(u32, request->event_first, event));
        for (uint32_t at = 0; at < sizes[i];) {
            struct event_section section;
            memcpy(&section, bodies[i] + at, sizeof section);
            at += (uint32_t)sizeof section;
            const struct catalog_groove *groove = catalog_find(&fixture.catalog, section.groove_id);
            const uint32_t version_size = section.guard == EVENT_GUARD_VERSION ? 8 : 0;
            for (uint32_t k = 0; k < section.event_count; k++) {
                const struct batch_event *found = &batch.events[event++];
                const uint8_t *payload = request->body + at + version_size;
                cr_assert(eq(u8, found->type, section.event_type));
                cr_assert(eq(ptr, (void *)found->payload, (void *)payload));
                cr_assert(eq(ptr, batch.groups[found->group].groove, (void *)groove));
                const struct event_guard guard = batch_event_guard(found);
                cr_assert(eq(int, guard.kind, section.guard));
                cr_assert(
                    eq(u64, guard.version, version_size > 0 ? load_u64_le(request->body + at) : 0));
                at += event_size(&section, groove->schema->schema.object_size);
                const bool last = at == sizes[i];
                cr_assert(eq(int, found->linked, !last && (section.flags == 1 || atomics[i])));
            }
        }
    }
    cr_assert(eq(u32, batch.event_count, event));
    uint32_t item_first = 0;
    uint64_t objects = 0, writes = 0;
    for (uint32_t i = 0; i < batch.group_count; i++) {
        const struct batch_group *group = &batch.groups[i];
        cr_assert(eq(u32, group->item_first, item_first));
        cr_assert(group->object_first % 64 == 0);
        cr_assert(group->object_first >= objects);
        item_first += group->event_count;
        const struct groove_schema *schema = &group->groove->schema->schema;
        objects = group->object_first + (uint64_t)group->event_count * schema->object_size;
        writes += groove_write_size(schema, group->event_count);
    }
    cr_assert(eq(u32, item_first, event));
    cr_assert(objects <= batch_object_bytes_max(&fixture.geometry) + BATCH_GROUP_MAX * 64);
    cr_assert(writes <= batch.write_bytes);
    cr_assert(writes <= batch_write_bytes_max(&fixture.geometry));
}

Test(batch, gathered_requests_survive_the_journal)
{
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct prng prng;
        prng_init(&prng, seed);
        const uint32_t count = gather(&prng, seed % 4 == 0 ? 12 : 1);
        cr_assert(count > 0);
        cr_assert(batch.size <= journal_entry_size_max(&fixture.geometry));
        entry_finish();
        batch_resolve(&batch, &fixture.catalog);
        check_resolved(count);
        const uint64_t write_bytes = batch.write_bytes;
        cr_assert(eq(int, batch_decode(&batch, &fixture.catalog), STATUS_OK));
        cr_assert(eq(u64, batch.write_bytes, write_bytes));
        batch_resolve(&batch, &fixture.catalog);
        check_resolved(count);
        bodies_free(count);
    }
}

Test(batch, whatever_decodes_is_within_every_limit)
{
    /* The same requests over and over, until the geometry's limits are passed. */
    struct prng prng;
    prng_init(&prng, 3);
    const uint32_t count = gather(&prng, 1);
    entry_finish();
    struct journal_header *header = (struct journal_header *)(void *)batch.buffer;
    const uint64_t requests_size = batch.size - JOURNAL_HEADER_SIZE;
    cr_assert(header->size + requests_size <= journal_entry_size_max(&fixture.geometry));
    memcpy(batch.buffer + header->size, batch.buffer + JOURNAL_HEADER_SIZE, requests_size);
    header->size += requests_size;
    header->request_count *= 2;
    cr_assert(eq(int, batch_decode(&batch, &fixture.catalog), STATUS_CORRUPT));
    bodies_free(count);
}

/* ---- Damage ------------------------------------------------------------------------------------
 */

/* Decodes an entry that ends where its memory ends. What is accepted must resolve. */
static bool decodes(const uint8_t *entry, uint64_t size)
{
    struct batch tight = batch;
    tight.buffer = malloc(size);
    memcpy(tight.buffer, entry, size);
    const enum status status = batch_decode(&tight, &fixture.catalog);
    cr_assert(status == STATUS_OK || status == STATUS_CORRUPT);
    if (status == STATUS_OK) {
        const uint32_t events = tight.event_count;
        cr_assert(events <= fixture.geometry.batch_event_max);
        batch_resolve(&tight, &fixture.catalog);
        cr_assert(eq(u32, tight.event_count, events));
        for (uint32_t i = 0; i < tight.event_count; i++) {
            const struct batch_event *event = &tight.events[i];
            const struct event_section section = {.event_type = event->type};
            const uint8_t *end =
                event->payload +
                event_size(&section, tight.groups[event->group].groove->schema->schema.object_size);
            cr_assert(event->payload > tight.buffer && end <= tight.buffer + size);
            (void)batch_event_guard(event); /* Reads what stands before it. */
        }
    }
    free(tight.buffer);
    return status == STATUS_OK;
}

static void damage_everywhere(uint32_t refused_percent_min)
{
    const uint64_t size = batch.size;
    uint8_t *entry = malloc(size);
    entry_finish();
    memcpy(entry, batch.buffer, size);
    struct journal_header *header = (struct journal_header *)(void *)entry;
    cr_assert(decodes(entry, size));
    for (uint64_t cut = JOURNAL_HEADER_SIZE; cut < size; cut++) {
        header->size = cut;
        cr_assert(not(decodes(entry, cut)), "cut at %lu of %lu", (unsigned long)cut,
                  (unsigned long)size);
    }
    header->size = size;
    static const uint8_t masks[] = {0x01, 0x02, 0x04, 0x10, 0x80, 0xff};
    uint64_t refused = 0;
    for (uint64_t at = JOURNAL_HEADER_SIZE; at < size; at++) {
        for (size_t i = 0; i < array_count(masks); i++) {
            entry[at] ^= masks[i];
            refused += !decodes(entry, size);
            entry[at] ^= masks[i];
        }
    }
    cr_assert(refused * 100 >=
              refused_percent_min * array_count(masks) * (size - JOURNAL_HEADER_SIZE));
    const uint32_t request_count = header->request_count;
    for (uint32_t count = 0; count < 3 * request_count; count++) {
        header->request_count = count;
        cr_assert(eq(int, decodes(entry, size), count == request_count));
    }
    header->request_count = UINT32_MAX;
    cr_assert(not(decodes(entry, size)));
    free(entry);
}

Test(batch, no_cut_or_changed_byte_of_writes_is_believed_blindly)
{
    for (uint64_t seed = 0; seed < 10; seed++) {
        struct prng prng;
        prng_init(&prng, 1000 + seed);
        batch_reset(&batch);
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t events;
            const uint32_t size = random_sections(&prng, 2, &events);
            enum request_result result;
            cr_assert(eq(int, add(REQUEST_KIND_WRITE, size, &result), BATCH_ADDED));
        }
        if (seed % 2 == 1) {
            batch_request_refuse(&batch.requests[seed % 4], REQUEST_RESULT_CORRUPT);
        }
        damage_everywhere(1); /* Most bytes are payload: any value will do. */
    }
}

Test(batch, no_cut_or_changed_byte_of_other_requests_is_believed_blindly)
{
    struct groove_spec spec = {.name = "made"};
    catalog_fixture_field(&spec, "a", FIELD_TYPE_U64, 8);
    catalog_fixture_field(&spec, "b", FIELD_TYPE_TEXT, 30);
    catalog_fixture_index(&spec, "by_b", 1, 0);
    enum request_result result;
    memcpy(body, &spec, sizeof spec);
    batch_reset(&batch);
    cr_assert(eq(int, add(REQUEST_KIND_GROOVE_CREATE, sizeof spec, &result), BATCH_ADDED));
    damage_everywhere(50);

    memset(body, 0, NAME_SIZE);
    body[0] = 'b';
    batch_reset(&batch);
    cr_assert(eq(int, add(REQUEST_KIND_GROOVE_DROP, NAME_SIZE, &result), BATCH_ADDED));
    damage_everywhere(10); /* Behind its end, a name may be followed by anything. */

    memset(body, 0, 8);
    body[0] = 1;
    batch_reset(&batch);
    cr_assert(eq(int, add(REQUEST_KIND_IDLE, 8, &result), BATCH_ADDED));
    damage_everywhere(10);

    catalog_drop(grooves[0]);
    store_u64_le(body, grooves[0]->groove_id);
    batch_reset(&batch);
    cr_assert(eq(int, add(REQUEST_KIND_GROOVE_FORGET, 8, &result), BATCH_ADDED));
    damage_everywhere(30); /* Every other groove is refused. */
}

/* A chain that went on would have no end. */
Test(batch, no_chain_leaves_its_request)
{
    struct prng prng;
    prng_init(&prng, 8);
    const uint32_t object_size = grooves[0]->schema->schema.object_size;
    struct event_section section = {
        .groove_id = grooves[0]->groove_id,
        .event_type = EVENT_TYPE_INSERT,
        .flags = EVENT_SECTION_FLAG_LINKED,
        .event_count = 2,
    };
    enum request_result result;
    uint32_t size = put_section(0, &section, object_size, &prng);
    cr_assert(eq(int, add(REQUEST_KIND_WRITE, size, &result), BATCH_REFUSED));
    cr_assert(eq(int, result, REQUEST_RESULT_MALFORMED));
    section.flags = 0;
    section.event_count = 1;
    size = put_section(size, &section, object_size, &prng);
    cr_assert(eq(int, add(REQUEST_KIND_WRITE, size, &result), BATCH_ADDED));

    /* The same in an entry: changed behind our back, and with a flag that is not a write's. */
    struct event_section *last = (struct event_section *)(void *)(batch.requests[0].body + size -
                                                                  object_size - sizeof section);
    entry_finish();
    cr_assert(eq(int, batch_decode(&batch, &fixture.catalog), STATUS_OK));
    last->flags = EVENT_SECTION_FLAG_LINKED;
    cr_assert(eq(int, batch_decode(&batch, &fixture.catalog), STATUS_CORRUPT));
    last->flags = 0;
    batch.requests[0].header->flags = BATCH_FLAG_ATOMIC;
    cr_assert(eq(int, batch_decode(&batch, &fixture.catalog), STATUS_OK));
    batch.requests[0].header->flags = 4;
    cr_assert(eq(int, batch_decode(&batch, &fixture.catalog), STATUS_CORRUPT));
    batch_reset(&batch);
    memset(body, 0, 8);
    cr_assert(eq(int, add(REQUEST_KIND_IDLE, 8, &result), BATCH_ADDED));
    entry_finish();
    cr_assert(eq(int, batch_decode(&batch, &fixture.catalog), STATUS_OK));
    batch.requests[0].header->flags = BATCH_FLAG_ATOMIC;
    cr_assert(eq(int, batch_decode(&batch, &fixture.catalog), STATUS_CORRUPT));
}

/* A full store takes requests that only remove, or only ask. */
Test(batch, what_writes_nothing_takes_no_room)
{
    struct prng prng;
    prng_init(&prng, 9);
    const uint32_t object_size = grooves[0]->schema->schema.object_size;
    struct event_section section = {
        .groove_id = grooves[0]->groove_id, .event_type = EVENT_TYPE_REMOVE, .event_count = 3};
    uint32_t size = 0;
    for (uint8_t guard = EVENT_GUARD_NONE; guard <= EVENT_GUARD_VERSION; guard++) {
        section.guard = guard;
        section.event_type = EVENT_TYPE_REMOVE;
        size = put_section(size, &section, object_size, &prng);
        if (guard != EVENT_GUARD_NONE) {
            section.event_type = EVENT_TYPE_CHECK;
            size = put_section(size, &section, object_size, &prng);
        }
        cr_assert(eq(int, request_space(REQUEST_KIND_WRITE, body, size), REQUEST_SPACE_REMOVE));
        cr_assert(eq(int, request_space(REQUEST_KIND_WRITE, body, size - 1), REQUEST_SPACE_WRITE));
    }
    section.event_type = EVENT_TYPE_UPDATE;
    size = put_section(size, &section, object_size, &prng);
    cr_assert(eq(int, request_space(REQUEST_KIND_WRITE, body, size), REQUEST_SPACE_WRITE));
}

/* ---- Requests that change the catalog ----------------------------------------------------------
 */

Test(batch, what_changes_the_catalog_stands_alone)
{
    struct prng prng;
    prng_init(&prng, 5);
    enum request_result result;
    uint8_t name[NAME_SIZE] = {'a'};
    batch_reset(&batch);
    cr_assert(eq(int,
                 batch_add(&batch, &fixture.catalog, REQUEST_KIND_GROOVE_DROP, false, name,
                           sizeof name, NULL, false, &result),
                 BATCH_ADDED));
    const uint32_t size =
        add_section(0, grooves[1]->groove_id, grooves[1]->schema->schema.object_size,
                    EVENT_TYPE_INSERT, 1, &prng);
    cr_assert(eq(int, add(REQUEST_KIND_WRITE, size, &result), BATCH_FULL));
    batch_reset(&batch);
    cr_assert(eq(int, add(REQUEST_KIND_WRITE, size, &result), BATCH_ADDED));
    cr_assert(eq(int,
                 batch_add(&batch, &fixture.catalog, REQUEST_KIND_GROOVE_DROP, false, name,
                           sizeof name, NULL, false, &result),
                 BATCH_FULL));
}

Test(batch, what_cannot_change_the_catalog_is_refused_with_a_reason)
{
    enum request_result result;
    struct groove_spec spec;
    memset(&spec, 0, sizeof spec);
    spec.name[0] = 'a';
    catalog_fixture_field(&spec, "a", FIELD_TYPE_U64, 8);
    memcpy(body, &spec, sizeof spec);
    cr_assert(eq(int, add(REQUEST_KIND_GROOVE_CREATE, sizeof spec, &result), BATCH_REFUSED));
    cr_assert(eq(int, result, REQUEST_RESULT_GROOVE_EXISTS));
    cr_assert(batch.reason[0] != '\0');
    cr_assert(eq(int, add(REQUEST_KIND_GROOVE_CREATE, sizeof spec - 1, &result), BATCH_REFUSED));
    cr_assert(eq(int, result, REQUEST_RESULT_MALFORMED));

    spec.name[0] = '1';
    memcpy(body, &spec, sizeof spec);
    cr_assert(eq(int, add(REQUEST_KIND_GROOVE_CREATE, sizeof spec, &result), BATCH_REFUSED));
    cr_assert(eq(int, result, REQUEST_RESULT_BAD_SCHEMA));

    spec.name[0] = 'z';
    for (char i = 0; i < INDEX_COUNT_MAX; i++) {
        char name[NAME_SIZE] = {'k', (char)('a' + i)};
        catalog_fixture_index(&spec, name, 0, 0);
    }
    memcpy(body, &spec, sizeof spec);
    cr_assert(eq(int, add(REQUEST_KIND_GROOVE_CREATE, sizeof spec, &result), BATCH_REFUSED));
    cr_assert(eq(int, result, REQUEST_RESULT_LIMIT));

    memset(body, 'a', NAME_SIZE);
    cr_assert(eq(int, add(REQUEST_KIND_GROOVE_DROP, NAME_SIZE, &result), BATCH_REFUSED));
    cr_assert(eq(int, result, REQUEST_RESULT_MALFORMED));
    body[1] = 'x';
    body[2] = '\0';
    body[NAME_SIZE - 1] = '\0';
    cr_assert(eq(int, add(REQUEST_KIND_GROOVE_DROP, NAME_SIZE, &result), BATCH_REFUSED));
    cr_assert(eq(int, result, REQUEST_RESULT_UNKNOWN_GROOVE));
    cr_assert(eq(u32, batch.request_count, 0));
}

/* A batch gathers while the one before it is still on its way: what it is checked against may have
 * changed when it executes. What can no longer be done must not be journaled as if it were. */
Test(batch, requests_that_were_overtaken_are_refused_when_resolved)
{
    struct prng prng;
    prng_init(&prng, 6);
    enum request_result result;
    uint32_t size = add_section(0, grooves[0]->groove_id, grooves[0]->schema->schema.object_size,
                                EVENT_TYPE_INSERT, 2, &prng);
    cr_assert(eq(int, add(REQUEST_KIND_WRITE, size, &result), BATCH_ADDED));
    size = add_section(0, grooves[1]->groove_id, grooves[1]->schema->schema.object_size,
                       EVENT_TYPE_INSERT, 3, &prng);
    cr_assert(eq(int, add(REQUEST_KIND_WRITE, size, &result), BATCH_ADDED));
    catalog_drop(grooves[0]);
    batch_resolve(&batch, &fixture.catalog);
    cr_assert(batch_request_refused(&batch.requests[0]));
    cr_assert(eq(int, batch.requests[0].result, REQUEST_RESULT_UNKNOWN_GROOVE));
    cr_assert(not(batch_request_refused(&batch.requests[1])));
    cr_assert(eq(u32, batch.event_count, 3));
    entry_finish();
    cr_assert(eq(int, batch_decode(&batch, &fixture.catalog), STATUS_OK));

    struct groove_spec spec;
    memset(&spec, 0, sizeof spec);
    spec.name[0] = 'n';
    catalog_fixture_field(&spec, "a", FIELD_TYPE_U64, 8);
    memcpy(body, &spec, sizeof spec);
    batch_reset(&batch);
    cr_assert(eq(int, add(REQUEST_KIND_GROOVE_CREATE, sizeof spec, &result), BATCH_ADDED));
    struct catalog_groove *made = catalog_fixture_create(&fixture, &spec);
    batch_resolve(&batch, &fixture.catalog);
    cr_assert(batch_request_refused(&batch.requests[0]));
    cr_assert(eq(int, batch.requests[0].result, REQUEST_RESULT_GROOVE_EXISTS));
    cr_assert(batch.reason[0] != '\0');

    uint8_t name[NAME_SIZE] = {'n'};
    memcpy(body, name, sizeof name);
    batch_reset(&batch);
    cr_assert(eq(int, add(REQUEST_KIND_GROOVE_DROP, NAME_SIZE, &result), BATCH_ADDED));
    catalog_drop(made);
    batch_resolve(&batch, &fixture.catalog);
    cr_assert(batch_request_refused(&batch.requests[0]));
    cr_assert(eq(int, batch.requests[0].result, REQUEST_RESULT_UNKNOWN_GROOVE));
}

/* Two requests of which the first waits, prepared, while the second gathers: readers hold on to one
 * version after the other until there is no room for another. */
static void submit_pair(struct forest_fixture *forest, enum request_kind kind, const void *bytes,
                        uint32_t size)
{
    struct version_hold held[VERSION_COUNT_MAX] = {0}; /* Inside, and not looking. */
    uint32_t held_count = 0;
    while (forest_version_room(forest->forest)) {
        cr_assert(held_count < VERSION_COUNT_MAX);
        version_hold_published(&forest->forest->versions, &held[held_count], 0);
        held_count += 1;
        struct fixture_object absent = {.id = {1}};
        const uint32_t body_size =
            fixture_body(body, forest->groove_id, EVENT_TYPE_REMOVE, &absent, 1);
        cr_assert(eq(int, fixture_request(forest, REQUEST_KIND_WRITE, body, body_size),
                     REQUEST_RESULT_OK));
    }
    const uint64_t before = forest->outcome_count;
    fixture_submit(forest, kind, bytes, size);
    fixture_tick(forest);
    fixture_submit(forest, kind, bytes, size);
    fixture_tick(forest);
    cr_assert(eq(u64, forest->outcome_count, before));
    for (uint32_t i = 0; i < held_count; i++) {
        version_hold_release(&forest->forest->versions, &held[i]);
    }
    fixture_settle(forest);
    cr_assert(eq(u64, forest->outcome_count, before + 2));
}

Test(batch, a_forest_whose_requests_were_overtaken_opens_again)
{
    static struct forest_fixture forest;
    const struct geometry geometry = geometry_tiny();
    fixture_init(&forest, &geometry);
    fixture_open(&forest, 0, false);
    fixture_create(&forest);
    struct groove_spec spec;
    fixture_spec(&spec, "late");
    uint8_t name[NAME_SIZE];
    memcpy(name, spec.name, sizeof name);
    /* Each pair is in flight at once: the second is checked before the first has executed. */
    submit_pair(&forest, REQUEST_KIND_GROOVE_CREATE, &spec, sizeof spec);
    cr_assert(eq(int, forest.outcome.result, REQUEST_RESULT_GROOVE_EXISTS));
    submit_pair(&forest, REQUEST_KIND_GROOVE_DROP, name, sizeof name);
    cr_assert(eq(int, forest.outcome.result, REQUEST_RESULT_UNKNOWN_GROOVE));
    fixture_close(&forest);
    cr_assert(fixture_try_open(&forest, 0, false), "%s", forest.open_reason);
    cr_assert(fixture_find(&forest));
    struct forest_groove_info info[8];
    cr_assert(eq(u32, forest_grooves(forest.forest, info, array_count(info)), 2));
    cr_assert(eq(int, info[1].dropping, true));
    fixture_close(&forest);
    fixture_deinit(&forest);
}

Test(batch, refusing_with_a_success_is_a_bug, .signal = SIGABRT)
{
    struct prng prng;
    prng_init(&prng, 5);
    enum request_result result;
    const uint32_t size =
        add_section(0, grooves[0]->groove_id, grooves[0]->schema->schema.object_size,
                    EVENT_TYPE_INSERT, 1, &prng);
    (void)add(REQUEST_KIND_WRITE, size, &result);
    batch_request_refuse(&batch.requests[0], REQUEST_RESULT_OK);
}
