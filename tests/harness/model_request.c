#include "tests/harness/model_request.h"

#include <assert.h>
#include <string.h>

#include "pool/base.h"

/* ---- Making ------------------------------------------------------------------------------------
 */

struct model_section *model_request_section(struct model_request *request,
                                            const struct model *model, uint32_t groove,
                                            enum event_type type, const uint32_t *numbers,
                                            uint32_t count, struct prng *prng)
{
    assert(request->kind == REQUEST_KIND_WRITE);
    assert(request->section_count < MODEL_SECTION_MAX);
    assert(count >= 1 && count <= MODEL_EVENT_MAX - request->event_count);
    struct model_section *section = &request->sections[request->section_count];
    request->section_count += 1;
    *section = (struct model_section){
        .groove = groove,
        .groove_id = model_groove(model, groove, UINT64_MAX)->groove_id,
        .type = type,
        .event_first = request->event_count,
        .event_count = count,
    };
    for (uint32_t i = 0; i < count; i++) {
        struct model_request_event *event = &request->events[request->event_count];
        request->event_count += 1;
        *event = (struct model_request_event){.number = numbers[i]};
        model_fields_random(&event->fields, prng);
    }
    return section;
}

/* The version that the object has, if it was told, or none that ever was. */
static uint64_t version_of(const struct model *model, uint32_t groove, uint32_t number)
{
    const struct model_entry *object = model_object(model, groove, number, UINT64_MAX);
    return object != NULL && object->version != 0 ? object->version : 1;
}

void model_request_chains(struct model_request *request, const struct model *model,
                          struct prng *prng)
{
    enum { NUMBER_COUNT = 40, SECTION_EVENT_MAX = 2, SECTION_COUNT = 3 };
    *request = (struct model_request){
        .kind = REQUEST_KIND_WRITE,
        .atomic = prng_chance(prng, 1, 4),
    };
    for (uint32_t i = 0; i < SECTION_COUNT; i++) {
        const uint32_t groove = (uint32_t)prng_below(prng, MODEL_GROOVE_MAX);
        if (model_groove(model, groove, UINT64_MAX) == NULL) {
            continue;
        }
        uint32_t numbers[SECTION_EVENT_MAX];
        /* Large objects are in the first groove. */
        const uint32_t count = groove == 0 ? 1 : (uint32_t)prng_range(prng, 1, SECTION_EVENT_MAX);
        for (uint32_t k = 0; k < count; k++) {
            numbers[k] = (uint32_t)prng_below(prng, NUMBER_COUNT);
        }
        const enum event_type type =
            (enum event_type)prng_range(prng, EVENT_TYPE_INSERT, EVENT_TYPE_CHECK);
        struct model_section *section =
            model_request_section(request, model, groove, type, numbers, count, prng);
        section->guard = (enum event_guard_kind)prng_range(
            prng, type == EVENT_TYPE_CHECK ? EVENT_GUARD_ABSENT : EVENT_GUARD_NONE,
            EVENT_GUARD_VERSION);
        section->linked = prng_chance(prng, 2, 3);
        for (uint32_t k = 0; k < count; k++) {
            request->events[section->event_first + k].version =
                version_of(model, groove, numbers[k]);
        }
    }
    if (request->section_count > 0) { /* There is nothing behind it. */
        request->sections[request->section_count - 1].linked = false;
    }
}

/* ---- Its bytes ---------------------------------------------------------------------------------
 */

static uint8_t *put(uint8_t *at, const void *bytes, size_t size)
{
    memcpy(at, bytes, size);
    return at + size;
}

static uint8_t *put_section(uint8_t *at, const struct model_request *request,
                            const struct model_section *section)
{
    const struct event_section header = {
        .groove_id = section->groove_id,
        .event_type = (uint8_t)section->type,
        .flags = section->linked ? EVENT_SECTION_FLAG_LINKED : 0,
        .guard = (uint8_t)section->guard,
        .event_count = section->event_count,
    };
    at = put(at, &header, sizeof header);
    for (uint32_t i = 0; i < section->event_count; i++) {
        const struct model_request_event *event = &request->events[section->event_first + i];
        uint8_t image[MODEL_OBJECT_SIZE_MAX];
        model_image(image, section->groove, event->number, &event->fields, 0, 0);
        at = put(at, &event->version, event_guard_size(header.guard));
        at = put(at, image,
                 event_has_id_only(header.event_type) ? 16 : model_object_size(section->groove));
    }
    return at;
}

uint32_t model_request_body(const struct model_request *request, uint8_t body[MODEL_BODY_MAX])
{
    struct groove_spec spec;
    uint8_t *at = body;
    switch (request->kind) {
    case REQUEST_KIND_GROOVE_CREATE:
        model_spec(&spec, request->groove);
        at = put(at, &spec, sizeof spec);
        break;
    case REQUEST_KIND_GROOVE_DROP:
        model_spec(&spec, request->groove);
        at = put(at, spec.name, NAME_SIZE);
        break;
    default:
        assert(request->kind == REQUEST_KIND_WRITE && request->section_count > 0);
        for (uint32_t i = 0; i < request->section_count; i++) {
            at = put_section(at, request, &request->sections[i]);
        }
        break;
    }
    assert((size_t)(at - body) <= MODEL_BODY_MAX);
    return (uint32_t)(at - body);
}

/* ---- What it does ------------------------------------------------------------------------------
 */

static enum event_result apply_event(const struct model_request *request, struct model *model,
                                     uint32_t index, uint64_t commit)
{
    const struct model_section *section = request->sections;
    while (index >= section->event_first + section->event_count) {
        section += 1;
    }
    const struct model_request_event *event = &request->events[index];
    const struct event_guard guard = {section->guard, event->version};
    return model_event(model, section->groove, event->number, section->type, guard, &event->fields,
                       commit, index);
}

/* Whether the event happens only together with the one behind it. */
static bool is_linked(const struct model_request *request, uint32_t index)
{
    if (request->atomic) {
        return index + 1 < request->event_count;
    }
    const struct model_section *section = request->sections;
    while (index >= section->event_first + section->event_count) {
        section += 1;
    }
    return section->linked;
}

uint32_t model_request_apply(const struct model_request *request, struct model *model,
                             uint64_t commit, struct event_failure failures[MODEL_EVENT_MAX])
{
    if (request->kind != REQUEST_KIND_WRITE) {
        model_groove_set(model, request->groove, commit,
                         request->kind == REQUEST_KIND_GROOVE_CREATE);
        return 0;
    }
    uint32_t failure_count = 0;
    for (uint32_t first = 0; first < request->event_count;) {
        uint32_t end = first + 1;
        while (is_linked(request, end - 1)) {
            end += 1;
        }
        const uint32_t before = model->store->entry_count;
        for (uint32_t i = first; i < end; i++) {
            const enum event_result result = apply_event(request, model, i, commit);
            if (result == EVENT_RESULT_OK) {
                continue;
            }
            model_undo(model, before);
            for (uint32_t k = first; k < end; k++) {
                failures[failure_count] = (struct event_failure){
                    .event_index = k,
                    .result = (uint32_t)(k == i ? result : EVENT_RESULT_LINKED),
                };
                failure_count += 1;
            }
            break;
        }
        first = end;
    }
    return failure_count;
}

bool model_request_fits(const struct model_request *request, const struct model *model)
{
    if (request->kind != REQUEST_KIND_WRITE) {
        const bool there = model_groove(model, request->groove, UINT64_MAX) != NULL;
        return there == (request->kind == REQUEST_KIND_GROOVE_DROP);
    }
    for (uint32_t i = 0; i < request->section_count; i++) {
        const struct model_section *section = &request->sections[i];
        const struct model_entry *groove = model_groove(model, section->groove, UINT64_MAX);
        if (groove == NULL || groove->groove_id != section->groove_id) {
            return false;
        }
    }
    return true;
}
