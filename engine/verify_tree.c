/* One tree: the tables of its levels, and its spilled memory table. What was found whole is
 * attached, so that its values can be scanned. */
#include "engine/verify_internal.h"

#include <assert.h>

static void tree_begin(struct verify *verify, const struct tree_shape *shape)
{
    verify->tree_version = (struct tree_version){.shape = *shape, .manifest = &verify->manifest};
    for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
        manifest_level_init(&verify->manifest.levels[level],
                            verify->nodes + (size_t)level * verify->node_max, verify->node_max);
    }
}

/* Takes the table into its level, unless it overlaps what is there already. */
static bool level_insert(struct verify *verify, const struct table_info *info)
{
    struct manifest_level *level = &verify->manifest.levels[info->level];
    struct manifest_position position;
    if (manifest_level_overlap(level, &info->key_min, &info->key_max, 1, &position) > 0) {
        verify_problem(verify,
                       "manifest log: %s, level %u: the tables at addresses %llu and %llu overlap",
                       verify->tree_name, info->level,
                       (unsigned long long)manifest_level_at(level, position)->index.address,
                       (unsigned long long)info->index.address);
        return false;
    }
    manifest_level_insert(level, &verify->node_pool, info);
    return true;
}

/* Every table of the tree. False: something is wrong, and the tree is not fit to be scanned. */
static bool check_levels(struct verify *verify)
{
    const uint32_t tree_id = verify->tree_version.shape.tree_id;
    bool sound = true;
    for (uint64_t i = 0; i < verify->table_count; i++) {
        const struct table_info *info = &verify->tables[i];
        if (info->tree_id == tree_id && !level_insert(verify, info)) {
            sound = false;
            (void)verify_table(verify, info, false); /* In no level, but its blocks are in use. */
        }
    }
    for (uint32_t i = 0; i < LEVEL_COUNT; i++) {
        const struct manifest_level *level = &verify->manifest.levels[i];
        for (struct manifest_position position = manifest_level_first(level);
             manifest_level_at(level, position) != NULL;
             position = manifest_level_next(level, position)) {
            sound &= verify_table(verify, manifest_level_at(level, position), false);
        }
    }
    return sound;
}

/* ---- Spilled memory tables ---- */

static const struct spill_entry *spill_of(const struct verify *verify, uint32_t tree_id)
{
    for (uint32_t i = 0; i < verify->spill_count; i++) {
        if (verify->spills[i].table.tree_id == tree_id) {
            return &verify->spills[i];
        }
    }
    return NULL;
}

/* What the list says by itself: trees that are there, each once, in order, within half a bar. */
void verify_spills(struct verify *verify)
{
    uint64_t bytes = 0;
    uint32_t last_id = 0;
    for (uint32_t i = 0; i < verify->spill_count; i++) {
        const struct table_info *table = &verify->spills[i].table;
        const struct tree *tree = catalog_tree_for_id(&verify->catalog, table->tree_id);
        if (tree == NULL) {
            verify_problem(
                verify,
                "spilled tables: the table at address %llu is of tree %u, which no groove has",
                (unsigned long long)table->index.address, table->tree_id);
            verify->reach_whole = false;
        } else {
            bytes += verify->spills[i].value_count * tree->shape.value_size;
        }
        if (table->tree_id <= last_id) {
            verify_problem(verify, "spilled tables: tree %u comes behind tree %u", table->tree_id,
                           last_id);
        }
        last_id = table->tree_id;
    }
    if (bytes > verify->geometry->bar_memory_size / 2) {
        verify_problem(
            verify, "spilled tables: they hold %llu bytes of entries, a bar at most %llu",
            (unsigned long long)bytes, (unsigned long long)verify->geometry->bar_memory_size);
    }
}

/* Its blocks, as of a table of a level. */
static bool check_spilled_table(struct verify *verify, const struct catalog_groove *groove,
                                const struct tree *tree, const struct spill_entry *entry)
{
    const char *wrong = spill_entry_problem(verify->geometry, &tree->shape, tree->bar_value_max,
                                            verify->checkpoint->op, entry);
    if (wrong == NULL && groove->dropping) {
        wrong = "its groove is being dropped";
    }
    if (wrong != NULL) {
        verify_problem(verify, "grid: %s, spilled table at address %llu: %s", verify->tree_name,
                       (unsigned long long)entry->table.index.address, wrong);
    }
    if (entry->table.index.address - 1 >= verify->geometry->block_count_max) {
        verify->reach_whole = false;
        return false;
    }
    return verify_table(verify, &entry->table, true) && wrong == NULL;
}

/* Its values, above the levels of the tree being checked. `arena` is given back by
 * verify_tree_detach. */
static bool spill_attach(struct verify *verify, const struct spill_entry *entry,
                         struct run_arena *arena)
{
    const struct tree_shape *shape = &verify->tree_version.shape;
    const uint64_t segments = run_arena_segments(entry->table.value_count, shape->value_size, 1);
    enum status status = run_arena_init(arena, segments * RUN_SEGMENT_SIZE, 1);
    if (status != STATUS_OK) {
        verify_problem(verify, "grid: %s, spilled table: %s", verify->tree_name,
                       status_text(status));
        return false;
    }
    struct run *run;
    uint64_t bad_address;
    status = spill_load(verify->geometry, &verify->grid, shape, entry, verify->spill_blocks, arena,
                        NULL, NULL, &run, &bad_address);
    if (status != STATUS_OK) {
        verify_problem(
            verify,
            "grid: %s, spilled table at address %llu: the block at address %llu does not fit "
            "it: %s",
            verify->tree_name, (unsigned long long)entry->table.index.address,
            (unsigned long long)bad_address, status_text(status));
        run_arena_deinit(arena);
        return false;
    }
    verify->tree_version.runs[0] = run;
    verify->tree_version.run_count = 1;
    return true;
}

bool verify_tree(struct verify *verify, const struct catalog_groove *groove,
                 const struct tree *tree, struct run_arena *arena)
{
    tree_begin(verify, &tree->shape);
    bool sound = check_levels(verify) && verify->spill_known;
    const struct spill_entry *spill = spill_of(verify, tree->shape.tree_id);
    if (spill != NULL) {
        sound &= check_spilled_table(verify, groove, tree, spill);
        sound = sound && spill_attach(verify, spill, arena);
    }
    return sound;
}

bool verify_tree_attach(struct verify *verify, const struct tree_shape *shape,
                        struct run_arena *arena)
{
    tree_begin(verify, shape);
    for (uint64_t i = 0; i < verify->table_count; i++) {
        if (verify->tables[i].tree_id == shape->tree_id) {
            const bool fits = level_insert(verify, &verify->tables[i]);
            assert(fits); /* It did before. */
            (void)fits;
        }
    }
    const struct spill_entry *spill = spill_of(verify, shape->tree_id);
    return spill == NULL || spill_attach(verify, spill, arena);
}

void verify_tree_detach(struct verify *verify, struct run_arena *arena)
{
    if (verify->tree_version.run_count > 0) {
        verify->tree_version.run_count = 0;
        run_release(arena, verify->tree_version.runs[0]);
        run_arena_deinit(arena);
    }
    for (uint32_t level = 0; level < LEVEL_COUNT; level++) {
        manifest_level_clear(&verify->manifest.levels[level], &verify->node_pool);
    }
}
