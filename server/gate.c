#include "server/gate.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "pool/log.h"

static const uint64_t log_interval_ns = 1000ull * 1000 * 1000;

static_assert((int)GATE_LACK_READ + ACCESS_READ == (int)ACCESS_READ, "in the same order");
static_assert((int)GATE_LACK_ADMIN + ACCESS_READ == (int)ACCESS_ADMIN, "in the same order");

void gate_init(struct gate *gate, const struct access_rules *rules, const struct forest *forest,
               const struct clock *clock)
{
    assert(rules != NULL);
    assert(forest != NULL);
    *gate = (struct gate){.rules = rules, .forest = forest, .clock = clock};
}

const char *gate_lack_name(enum gate_lack lack)
{
    static const char *const names[] = {
#define X(name, text) [GATE_LACK_##name] = (text),
        GATE_LACK_MAP(X)
#undef X
    };
    assert(lack < GATE_LACK_COUNT);
    return names[lack];
}

/* ---- Denials -----------------------------------------------------------------------------------
 */

/* At most one line a second, whoever knocks how often; it says how many it stands for. */
static void denial_log(struct gate *gate, const struct exchange *exchange, enum gate_lack lack,
                       const char *about)
{
    const uint64_t now_ns = clock_monotonic_ns(gate->clock);
    gate->unlogged_count += 1;
    if (gate->logged_ns != 0 && now_ns - gate->logged_ns < log_interval_ns) {
        return;
    }
    LOG_WARN("access.denied", log_u64("uid", exchange->peer_uid),
             log_text("operation", operation_name(exchange->header.operation)),
             log_text("lacks", gate_lack_name(lack)), log_text("on", about),
             log_u64("count", gate->unlogged_count));
    gate->logged_ns = now_ns;
    gate->unlogged_count = 0;
}

/* `about` says what the right would have to be on. */
static const char *deny(struct gate *gate, const struct exchange *exchange, enum gate_lack lack,
                        const char *about)
{
    gate->denied_total[lack] += 1;
    denial_log(gate, exchange, lack, about);
    if (lack == GATE_LACK_IDENTITY) {
        snprintf(gate->text, sizeof gate->text,
                 "uid %" PRIu32 " stands for every user that has no number on the daemon's side, "
                 "and may do nothing",
                 exchange->peer_uid);
    } else {
        snprintf(gate->text, sizeof gate->text,
                 "uid %" PRIu32 " may not do this: it lacks the right '%s' on %s (the 'allow' "
                 "lines of the daemon's configuration)",
                 exchange->peer_uid, lack == GATE_LACK_ANY ? "read" : gate_lack_name(lack), about);
    }
    return gate->text;
}

static const char *deny_right(struct gate *gate, const struct exchange *exchange,
                              enum access_right right, const char *about)
{
    return deny(gate, exchange, (enum gate_lack)(right - ACCESS_READ), about);
}

static const char *deny_number(struct gate *gate, const struct exchange *exchange,
                               enum access_right right, uint32_t groove_id)
{
    char about[32];
    snprintf(about, sizeof about, "groove %" PRIu32, groove_id);
    return deny_right(gate, exchange, right, about);
}

/* ---- By operation ------------------------------------------------------------------------------
 */

/* The name that a groove_spec and the body of a DROP_GROOVE begin with. */
static const char *check_name(struct gate *gate, const struct exchange *exchange)
{
    char groove[NAME_SIZE];
    assert(exchange->header.body_size >= sizeof groove); /* protocol_request_check */
    memcpy(groove, exchange_body(exchange), sizeof groove);
    if (access_allows(gate->rules, exchange->peer_uid, ACCESS_ADMIN, groove)) {
        return NULL;
    }
    char about[NAME_SIZE + 16] = "the groove '";
    char *at = about + strlen(about);
    for (uint32_t i = 0; i < NAME_SIZE && groove[i] != '\0'; i++) {
        *at++ = (char)(groove[i] > ' ' && groove[i] < 0x7f ? groove[i] : '?');
    }
    memcpy(at, "'", 2);
    return deny_right(gate, exchange, ACCESS_ADMIN, about);
}

static const char *check_read(struct gate *gate, const struct exchange *exchange)
{
    uint32_t groove_id; /* what LOOKUP, QUERY and COUNT begin with */
    static_assert(offsetof(struct lookup_request, groove_id) == 0, "first");
    static_assert(offsetof(struct query_request, groove_id) == 0, "first");
    assert(exchange->header.body_size >= sizeof groove_id); /* protocol_request_check */
    memcpy(&groove_id, exchange_body(exchange), sizeof groove_id);
    const struct groove_schema *schema = forest_groove_schema(gate->forest, groove_id);
    const char *name = schema != NULL ? schema->spec.name : NULL;
    return access_allows(gate->rules, exchange->peer_uid, ACCESS_READ, name)
               ? NULL
               : deny_number(gate, exchange, ACCESS_READ, groove_id);
}

struct write_walk {
    const struct access_rules *rules;
    uint32_t uid;
    uint32_t denied_id;
};

static bool section_allowed(void *context, uint32_t groove_id, const struct groove_schema *schema)
{
    struct write_walk *walk = context;
    const char *name = schema != NULL ? schema->spec.name : NULL;
    if (access_allows(walk->rules, walk->uid, ACCESS_WRITE, name)) {
        return true;
    }
    walk->denied_id = groove_id;
    return false;
}

/* The walk ends early where the body makes no sense: the forest refuses the whole of it then. */
static const char *check_write(struct gate *gate, const struct exchange *exchange)
{
    struct write_walk walk = {.rules = gate->rules, .uid = exchange->peer_uid};
    return forest_write_walk(gate->forest, exchange_body(exchange), exchange->header.body_size,
                             section_allowed, &walk)
               ? NULL
               : deny_number(gate, exchange, ACCESS_WRITE, walk.denied_id);
}

const char *gate_check(struct gate *gate, const struct exchange *exchange)
{
    if (access_is_unmapped(exchange->peer_uid)) {
        return deny(gate, exchange, GATE_LACK_IDENTITY, "this daemon");
    }
    if (gate->rules->count == 0) {
        return NULL;
    }
    switch ((enum operation)exchange->header.operation) {
    case OPERATION_HELLO:
    case OPERATION_PING:
        return NULL;
    case OPERATION_STAT:
    case OPERATION_SCHEMA:
        return access_allows_some(gate->rules, exchange->peer_uid, ACCESS_READ)
                   ? NULL
                   : deny(gate, exchange, GATE_LACK_ANY, "any groove");
    case OPERATION_CREATE_GROOVE:
    case OPERATION_DROP_GROOVE:
        return check_name(gate, exchange);
    case OPERATION_WRITE:
        return check_write(gate, exchange);
    case OPERATION_OPEN_SESSION:
        return access_allows_some(gate->rules, exchange->peer_uid, ACCESS_WRITE)
                   ? NULL
                   : deny(gate, exchange, GATE_LACK_WRITE, "any groove");
    case OPERATION_CLOSE_SESSION: /* One's own: the session knows whose it is. */
        return NULL;
    case OPERATION_LOOKUP:
    case OPERATION_QUERY:
    case OPERATION_COUNT:
        return check_read(gate, exchange);
    }
    assert(false && "operation");
    return "";
}

bool gate_shows(const struct gate *gate, uint32_t uid, const char *groove)
{
    return access_allows(gate->rules, uid, ACCESS_READ, groove);
}
