/* Goal: the catalog finds what was created and nothing else, ids are never reused, what is encoded
 * decodes to the same, and bytes that are not such an encoding are refused.
 * Method: random creates, drops and forgets against a plain list; encode, decode, encode again;
 * every byte of an encoding changed in turn: either refused, or the encoding of another catalog. */
#include "engine/catalog.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "pool/base.h"
#include "pool/memory.h"
#include "tests/harness/catalog_fixture.h"
#include "tests/harness/prng.h"

enum { MODEL_MAX = 128, STEPS = 400 };

static struct catalog_fixture fixture;
static struct catalog_fixture copy;
static char reason[256];

static void init(void)
{
    const struct geometry geometry = geometry_tiny();
    catalog_fixture_init(&fixture, &geometry);
    catalog_fixture_init(&copy, &geometry);
}

static void fini(void)
{
    catalog_fixture_deinit(&copy);
    catalog_fixture_deinit(&fixture);
}

TestSuite(catalog, .init = init, .fini = fini, .timeout = 120);

static void make_spec(struct groove_spec *spec, const char *name, uint32_t index_count)
{
    memset(spec, 0, sizeof *spec);
    strncpy(spec->name, name, NAME_SIZE - 1);
    catalog_fixture_field(spec, "a", FIELD_TYPE_U64, 8);
    catalog_fixture_field(spec, "b", FIELD_TYPE_TEXT, 20);
    for (uint32_t i = 0; i < index_count; i++) {
        char index_name[NAME_SIZE];
        snprintf(index_name, sizeof index_name, "by_%u", i);
        catalog_fixture_index(spec, index_name, (uint8_t)(i % 2), 0);
    }
}

struct model_groove {
    char name[NAME_SIZE];
    uint32_t id;
    uint32_t tree_count;
    bool dropping;
};

struct model {
    struct model_groove grooves[MODEL_MAX];
    uint32_t count;
    uint32_t tree_id_next, groove_id_next;
};

static void check_against(const struct model *model)
{
    const struct catalog *catalog = &fixture.catalog;
    const struct catalog_groove *groove = catalog_after(catalog, 0);
    uint32_t tree_total = 0;
    for (uint32_t i = 0; i < model->count; i++) { /* By id: as they were created. */
        const struct model_groove *expected = &model->grooves[i];
        cr_assert(groove != NULL);
        cr_assert(eq(u32, groove->groove_id, expected->id));
        cr_assert(eq(u32, groove->tree_count, expected->tree_count));
        cr_assert(eq(int, groove->dropping, expected->dropping));
        cr_assert(eq(ptr, (void *)catalog_find(catalog, expected->id),
                     expected->dropping ? NULL : (void *)groove));
        const struct catalog_groove *named = catalog_find_name(catalog, expected->name);
        cr_assert(expected->dropping ? named != groove : named == groove);
        for (uint32_t k = 0; k < groove->tree_count; k++) {
            const struct tree *tree = groove->trees[k];
            cr_assert(tree->used);
            cr_assert(
                eq(ptr, (void *)catalog_tree_for_id(catalog, tree->shape.tree_id), (void *)tree));
            cr_assert(k == 0 || tree->shape.tree_id == groove->trees[k - 1]->shape.tree_id + 1);
        }
        tree_total += groove->tree_count;
        groove = catalog_after(catalog, groove->groove_id);
    }
    cr_assert(groove == NULL);
    uint32_t used = 0;
    for (uint32_t i = 0; i < fixture.geometry.tree_count_max; i++) {
        used += fixture.trees[i].used;
    }
    cr_assert(eq(u32, used, tree_total));
}

static void random_create(struct model *model, struct prng *prng)
{
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "groove_%u", (uint32_t)prng_below(prng, 12));
    const uint32_t index_count = (uint32_t)prng_below(prng, 5);
    struct groove_spec spec;
    make_spec(&spec, name, index_count);
    uint32_t trees_used = 0;
    bool taken = false;
    for (uint32_t i = 0; i < model->count; i++) {
        trees_used += model->grooves[i].tree_count;
        taken |= !model->grooves[i].dropping && strcmp(model->grooves[i].name, name) == 0;
    }
    const bool fits = trees_used + 2 + index_count <= fixture.geometry.tree_count_max;
    const enum catalog_refusal expected = taken  ? CATALOG_EXISTS
                                          : fits ? CATALOG_OK
                                                 : CATALOG_LIMIT;
    uint32_t groove_id = 0;
    cr_assert(eq(int, catalog_check(&fixture.catalog, &spec, reason, sizeof reason), expected));
    cr_assert(eq(int, catalog_create(&fixture.catalog, &spec, &groove_id, reason, sizeof reason),
                 expected));
    if (expected == CATALOG_OK) {
        struct model_groove *groove = &model->grooves[model->count++];
        *groove = (struct model_groove){.id = model->groove_id_next, .tree_count = 2 + index_count};
        memcpy(groove->name, name, sizeof name);
        cr_assert(eq(u32, groove_id, groove->id));
        const struct catalog_groove *made = catalog_find(&fixture.catalog, groove_id);
        cr_assert(eq(u32, made->trees[0]->shape.tree_id, model->tree_id_next));
        model->groove_id_next += 1;
        model->tree_id_next += groove->tree_count;
    }
}

static void random_step(struct model *model, struct prng *prng)
{
    if (model->count == 0 || prng_chance(prng, 1, 2)) {
        random_create(model, prng);
        return;
    }
    const uint32_t i = (uint32_t)prng_below(prng, model->count);
    struct model_groove *chosen = &model->grooves[i];
    if (!chosen->dropping) {
        catalog_drop(catalog_find(&fixture.catalog, chosen->id));
        chosen->dropping = true;
        return;
    }
    struct catalog_groove *groove = catalog_after(&fixture.catalog, chosen->id - 1);
    cr_assert(not(catalog_groove_is_empty(groove))); /* Its trees have not been told yet. */
    for (uint32_t k = 0; k < groove->tree_count; k++) {
        groove->trees[k]->dropping = true;
    }
    cr_assert(catalog_groove_is_empty(groove));
    catalog_forget(&fixture.catalog, groove, &fixture.arena, &fixture.nodes,
                   &fixture.tree_versions);
    model->count -= 1;
    memmove(chosen, chosen + 1, (model->count - i) * sizeof *chosen);
}

static uint8_t *encoded_acquire(void)
{
    uint8_t *bytes = memory_acquire(catalog_encoded_size_max(&fixture.geometry));
    cr_assert(bytes != NULL);
    return bytes;
}

static void encoded_release(uint8_t *bytes)
{
    memory_release(bytes, catalog_encoded_size_max(&fixture.geometry));
}

/* Decodes into `copy`, which is empty; whatever is accepted must encode to the same bytes. */
static bool decodes(const uint8_t *bytes, uint64_t size)
{
    uint64_t commit, timestamp;
    catalog_fixture_clear(&copy);
    reason[0] = '\0';
    const enum status status =
        catalog_decode(&copy.catalog, bytes, size, &commit, &timestamp, reason, sizeof reason);
    if (status != STATUS_OK) {
        cr_assert(eq(int, status, STATUS_CORRUPT));
        cr_assert(reason[0] != '\0');
        return false;
    }
    uint8_t *again = encoded_acquire();
    cr_assert(eq(u64, catalog_encode(&copy.catalog, commit, timestamp, again), size));
    cr_assert(eq(int, memcmp(again, bytes, size), 0), "what was accepted is another's encoding");
    encoded_release(again);
    return true;
}

static void check_same_trees(void)
{
    for (uint32_t id = 1; id < fixture.catalog.next_tree_id; id++) {
        const struct tree *ours = catalog_tree_for_id(&fixture.catalog, id);
        const struct tree *theirs = catalog_tree_for_id(&copy.catalog, id);
        cr_assert(eq(int, ours != NULL, theirs != NULL));
        if (ours != NULL) {
            cr_assert(eq(int, memcmp(&ours->shape, &theirs->shape, sizeof ours->shape), 0));
            cr_assert(eq(u32, ours->bar_value_max, theirs->bar_value_max));
        }
    }
}

Test(catalog, random_histories_agree_with_the_model_and_survive_encoding)
{
    uint8_t *bytes = encoded_acquire();
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct prng prng;
        prng_init(&prng, seed);
        catalog_fixture_clear(&fixture);
        struct model model = {.tree_id_next = 1, .groove_id_next = 1};
        for (int i = 0; i < STEPS; i++) {
            random_step(&model, &prng);
            check_against(&model);
            if (i % 20 == 0) {
                struct catalog_groove *groove = catalog_after(&fixture.catalog, 0);
                if (groove != NULL) {
                    groove->object_count = prng_next(&prng);
                }
                const uint64_t size = catalog_encode(&fixture.catalog, (uint64_t)i, 77, bytes);
                cr_assert(size <= catalog_encoded_size_max(&fixture.geometry));
                cr_assert(decodes(bytes, size), "%s", reason);
                check_same_trees();
            }
        }
    }
    encoded_release(bytes);
}

/* Two grooves and gaps in the ids. */
static uint64_t encode_two(uint8_t *bytes)
{
    struct groove_spec spec;
    const char *names[] = {"gone", "a1", "a2", "dropped"};
    for (uint32_t i = 0; i < array_count(names); i++) {
        make_spec(&spec, names[i], i);
        (void)catalog_fixture_create(&fixture, &spec);
    }
    catalog_drop(catalog_find_name(&fixture.catalog, "dropped"));
    catalog_forget(&fixture.catalog, catalog_find_name(&fixture.catalog, "gone"), &fixture.arena,
                   &fixture.nodes, &fixture.tree_versions);
    return catalog_encode(&fixture.catalog, 10, 20, bytes);
}

Test(catalog, every_changed_byte_is_refused_or_means_something_else)
{
    static const uint8_t masks[] = {0x01, 0x03, 0x80, 0xff};
    uint8_t *bytes = encoded_acquire();
    const uint64_t size = encode_two(bytes);
    uint64_t refused = 0;
    for (uint64_t at = 0; at < size; at++) {
        for (size_t i = 0; i < array_count(masks); i++) {
            bytes[at] ^= masks[i];
            refused += !decodes(bytes, size);
            bytes[at] ^= masks[i];
        }
    }
    cr_assert(refused > size / 2 * array_count(masks), "%lu of %lu", (unsigned long)refused,
              (unsigned long)(size * array_count(masks)));
    cr_assert(decodes(bytes, size), "%s", reason);
    encoded_release(bytes);
}

Test(catalog, every_other_size_is_refused)
{
    uint8_t *bytes = encoded_acquire();
    const uint64_t size = encode_two(bytes);
    for (uint64_t cut = 0; cut < size; cut++) {
        cr_assert(not(decodes(bytes, cut)), "%lu bytes", (unsigned long)cut);
    }
    encoded_release(bytes);
}

/* Damage that no single byte makes. */
Test(catalog, grooves_that_cannot_stand_beside_each_other_are_refused)
{
    uint8_t *bytes = encoded_acquire();
    const uint64_t size = encode_two(bytes);
    uint8_t *first = bytes + CATALOG_HEADER_SIZE;
    uint8_t *second = first + CATALOG_GROOVE_SIZE;
    uint8_t saved[CATALOG_GROOVE_SIZE];

    memcpy(saved, second, sizeof saved);
    memcpy(second, first, sizeof saved); /* The same groove twice. */
    cr_assert(not(decodes(bytes, size)));
    memcpy(second, saved, 4); /* Its trees twice. */
    cr_assert(not(decodes(bytes, size)));
    memcpy(second, saved, 96); /* Its name twice; but the number of trees is the other's. */
    memcpy(second + 96, saved + 96, sizeof saved - 96);
    memcpy(second + 96, first + 96, NAME_SIZE);
    cr_assert(not(decodes(bytes, size)), "two grooves of one name");
    memcpy(second, saved, sizeof saved);

    memcpy(saved, first, sizeof saved);
    memmove(first, second, CATALOG_GROOVE_SIZE); /* Out of order. */
    memcpy(second, saved, sizeof saved);
    cr_assert(not(decodes(bytes, size)));
    encoded_release(bytes);
}

/* As the id tree: a value and, behind it, whose it is. */
Test(catalog, a_unique_index_has_its_value_as_key_before_and_after_encoding)
{
    struct groove_spec spec;
    make_spec(&spec, "one", 2);
    spec.indexes[0].flags = INDEX_FLAG_UNIQUE;
    (void)catalog_fixture_create(&fixture, &spec);
    uint8_t *bytes = encoded_acquire();
    const uint64_t size = catalog_encode(&fixture.catalog, 0, 0, bytes);
    for (int round = 0; round < 2; round++) {
        const struct catalog_groove *groove = catalog_find_name(&fixture.catalog, "one");
        cr_assert(groove != NULL);
        const struct tree_shape *unique = &groove->trees[TREE_INDEX]->shape;
        const struct tree_shape *plain = &groove->trees[TREE_INDEX + 1]->shape;
        const uint8_t *prefix_sizes = (const uint8_t[]){
            groove->schema->schema.indexes[0].prefix_size,
            groove->schema->schema.indexes[1].prefix_size,
        };
        cr_assert(eq(u32, unique->key_size, prefix_sizes[0]));
        cr_assert(eq(u32, unique->value_size, prefix_sizes[0] + 8u));
        cr_assert(eq(int, unique->filter_kind, FILTER_KIND_KEY));
        cr_assert(eq(u32, plain->key_size, prefix_sizes[1] + 8u));
        cr_assert(eq(u32, plain->value_size, prefix_sizes[1] + 8u));
        cr_assert(eq(int, plain->filter_kind, FILTER_KIND_PREFIX));
        cr_assert(decodes(bytes, size));
    }
    encoded_release(bytes);
}

Test(catalog, a_schema_lives_as_long_as_a_version_holds_it)
{
    struct groove_spec spec;
    make_spec(&spec, "held", 0);
    struct catalog_groove *groove = catalog_fixture_create(&fixture, &spec);
    struct schema_object *schema = groove->schema;
    schema->reference_count += 1;
    catalog_forget(&fixture.catalog, groove, &fixture.arena, &fixture.nodes,
                   &fixture.tree_versions);
    make_spec(&spec, "next", 0);
    groove = catalog_fixture_create(&fixture, &spec);
    cr_assert(groove->schema != schema);
    cr_assert(eq(str, schema->schema.spec.name, "held"));
    schema_object_release(&fixture.catalog, schema);
    make_spec(&spec, "last", 0);
    cr_assert(eq(ptr, catalog_fixture_create(&fixture, &spec)->schema, schema));
}

Test(catalog, dropping_twice_is_a_bug, .signal = SIGABRT)
{
    struct groove_spec spec;
    make_spec(&spec, "once", 0);
    struct catalog_groove *groove = catalog_fixture_create(&fixture, &spec);
    catalog_drop(groove);
    catalog_drop(groove);
}

Test(catalog, releasing_a_schema_too_often_is_a_bug, .signal = SIGABRT)
{
    struct groove_spec spec;
    make_spec(&spec, "once", 0);
    struct catalog_groove *groove = catalog_fixture_create(&fixture, &spec);
    schema_object_release(&fixture.catalog, groove->schema);
    schema_object_release(&fixture.catalog, groove->schema);
}
