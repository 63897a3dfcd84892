/* Whether the user who sent a request may do what it asks for: what dispatch wants to know before
 * it hands anything to the forest. access.h has the rules; this applies them to requests, and
 * counts and logs what it denies.
 *
 *   HELLO, PING       everybody: they tell nothing of the store, and health checks need them
 *   SCHEMA, STAT      whoever may do anything at all; they show the grooves that he may read
 *   LOOKUP, QUERY, COUNT    read, on the groove
 *   WRITE             write, on the groove of every section
 *   CREATE_GROOVE, DROP_GROOVE    admin, on the name
 *   OPEN_SESSION      write, on any groove at all; CLOSE_SESSION needs no right, it ends one's own
 *
 * The unmapped user may nothing of all this. A groove that does not exist is one that nobody but
 * those with a right on all grooves may touch: so from an answer nobody can tell whether there is
 * what he may not see.
 *
 * Here and not in the listeners' threads, because which groove a number names is the forest's to
 * say. Forest thread only. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/forest.h"
#include "ipc/listener.h"
#include "pool/clock.h"
#include "server/access.h"

/* X(NAME, text): what was lacking. */
#define GATE_LACK_MAP(X)                                                                           \
    X(READ, "read")                                                                                \
    X(WRITE, "write")                                                                              \
    X(ADMIN, "admin")                                                                              \
    X(ANY, "any")           /* SCHEMA and STAT, of who has no right at all */                      \
    X(IDENTITY, "identity") /* the unmapped user */

enum gate_lack {
#define X(name, text) GATE_LACK_##name,
    GATE_LACK_MAP(X)
#undef X
        GATE_LACK_COUNT,
};

enum { GATE_TEXT_SIZE = 256 };

struct gate {
    const struct access_rules *rules; /* borrowed, as all pointers here */
    const struct forest *forest;
    const struct clock *clock;
    uint64_t denied_total[GATE_LACK_COUNT];
    uint64_t logged_ns;      /* when a denial was logged last, monotonic; 0: never */
    uint64_t unlogged_count; /* denials since */
    char text[GATE_TEXT_SIZE];
};

void gate_init(struct gate *gate, const struct access_rules *rules, const struct forest *forest,
               const struct clock *clock);

/* NULL: the request may pass. Otherwise why not, for the client to read; valid until the next call.
 * Of bodies it needs no more than protocol_request_check has checked. */
const char *gate_check(struct gate *gate, const struct exchange *exchange);

/* Whether SCHEMA and STAT show this user the groove of this name (zero padded). */
bool gate_shows(const struct gate *gate, uint32_t uid, const char *groove);

const char *gate_lack_name(enum gate_lack lack);
