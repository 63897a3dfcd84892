#include "tests/harness/tree_model.h"

#include <assert.h>
#include <string.h>

enum { VALUE_SIZE_LIMIT = 128 };

static uint8_t layer_values[TREE_MODEL_ORDINAL_MAX * VALUE_SIZE_LIMIT];
static uint32_t layer_ordinals[TREE_MODEL_ORDINAL_MAX];

static void store_be(uint8_t *bytes, uint64_t value)
{
    value = __builtin_bswap64(value);
    memcpy(bytes, &value, sizeof value);
}

void tree_model_init(struct tree_model *model, uint32_t key_size, uint32_t value_size,
                     uint32_t ordinal_count, uint32_t group_size)
{
    assert(ordinal_count > 0 && ordinal_count <= TREE_MODEL_ORDINAL_MAX);
    assert(value_size <= VALUE_SIZE_LIMIT && group_size > 0);
    memset(model, 0, sizeof *model);
    model->key_size = key_size;
    model->value_size = value_size;
    model->ordinal_count = ordinal_count;
    model->group_size = group_size;
}

void tree_model_key(const struct tree_model *model, uint32_t ordinal, bool gap, uint8_t *key)
{
    memset(key, 0, model->key_size);
    if (model->key_size == 8) {
        store_be(key, 2 * (uint64_t)ordinal + 3 - gap);
        return;
    }
    store_be(key + model->key_size - 16, ordinal / model->group_size + 1);
    store_be(key + model->key_size - 8, 2 * (uint64_t)(ordinal % model->group_size) + 3 - gap);
}

void tree_model_value(const struct tree_model *model, uint32_t ordinal, uint32_t tag,
                      uint8_t *value)
{
    tree_model_key(model, ordinal, false, value);
    for (uint32_t i = model->key_size; i < model->value_size; i++) {
        value[i] = (uint8_t)(tag + ordinal + i) & 0x7F;
    }
}

/* One layer's values, some of them tombstones. Returns how many. */
static uint32_t make_layer(const struct tree_model *model, struct prng *prng, uint32_t tag,
                           uint64_t density_percent, uint64_t tombstone_percent)
{
    uint32_t count = 0;
    for (uint32_t ordinal = 0; ordinal < model->ordinal_count; ordinal++) {
        if (prng_chance(prng, density_percent, 100)) {
            uint8_t *value = layer_values + (size_t)count * model->value_size;
            tree_model_value(model, ordinal, tag, value);
            if (prng_chance(prng, tombstone_percent, 100)) {
                value_set_tombstone(value, model->key_size, model->value_size);
            }
            layer_ordinals[count++] = ordinal;
        }
    }
    return count;
}

static void overwrite(struct tree_model *model, uint32_t tag, uint32_t from, uint32_t count)
{
    for (uint32_t i = from; i < count; i++) {
        const uint8_t *value = layer_values + (size_t)i * model->value_size;
        const bool tombstone = value_is_tombstone(value, model->key_size, model->value_size);
        model->tags[layer_ordinals[i]] = tombstone ? 0 : tag;
    }
}

void tree_model_build(struct tree_model *model, struct tree_fixture *fixture,
                      struct tree_fixture_tree *tree, struct prng *prng, uint32_t run_count_max)
{
    static const uint64_t densities[] = {2, 25, 90};
    static const uint64_t tombstones[] = {0, 25, 90};
    uint32_t tag = 0;
    for (uint32_t level = LEVEL_COUNT; level > 0; level--) {
        tag += 1;
        const uint32_t count = make_layer(model, prng, tag, densities[prng_below(prng, 3)],
                                          tombstones[prng_below(prng, 3)]);
        if (count == 0 || prng_chance(prng, 1, 2)) {
            continue;
        }
        const uint32_t table_values =
            (uint32_t)prng_range(prng, count / 20 + 1, count / 20 + 1 + count);
        const uint32_t table_values_max =
            (uint32_t)min_u64(table_values, tree->version.shape.value_count_max);
        const uint32_t first_count = (uint32_t)min_u64(count, table_values_max);
        const uint32_t hidden =
            prng_chance(prng, 1, 3) ? (uint32_t)prng_below(prng, first_count) : 0;
        tree_fixture_add_tables(fixture, tree, level - 1, layer_values, count, table_values_max,
                                hidden);
        overwrite(model, tag, hidden, count);
    }
    const uint32_t run_count =
        run_count_max == 0 ? 0 : (uint32_t)prng_below(prng, run_count_max + 1);
    for (uint32_t i = 0; i < run_count; i++) {
        tag += 1;
        const uint64_t density = run_count > 10 ? 1 : densities[prng_below(prng, 3)];
        const uint32_t count =
            make_layer(model, prng, tag, density, tombstones[prng_below(prng, 3)]);
        if (count > 0) {
            tree_fixture_add_run(fixture, tree, layer_values, count);
            overwrite(model, tag, 0, count);
        }
    }
}
