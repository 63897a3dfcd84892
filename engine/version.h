/* The forest after one commit, frozen: every read runs on one of these.
 *
 * A version is made by the forest thread after each batch has executed, and published when the
 * batch is durable. Readers pin the published one (under the mutex), use it, unpin it. Everything
 * in it is immutable; what it references is returned by the forest thread once nobody pins it and
 * it is no longer the newest.
 *
 * Memory is for the writer first: when it is short of some, the oldest version that readers hold is
 * revoked, and they start again on the published one. A reader that waits for the disk loses its
 * hold at once, one that computes gives it back within some thousand values (read_ticket.h); so
 * the writer never waits for a reader's I/O. Neither the published version nor the newest is ever
 * revoked: without readers those two are all there is, and memory is sized for them. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/lsm/read_ticket.h"
#include "engine/lsm/tree_version.h"
#include "engine/schema.h"
#include "pool/doorbell.h"
#include "pool/mutex.h"
#include "pool/status.h"

enum { VERSION_COUNT_MAX = 32, GROOVE_COUNT_MAX = TREE_COUNT_LIMIT / 2 };

/* A schema that versions share; reference count belongs to the forest thread. */
struct schema_object {
    uint32_t reference_count;
    struct schema_object *free_next;
    struct groove_schema schema;
};

struct groove_version {
    uint32_t groove_id;
    uint64_t object_count;
    struct schema_object *schema;
    struct tree_version *object_tree; /* timestamp -> object */
    struct tree_version *id_tree;     /* id -> timestamp */
    struct tree_version *index_trees[INDEX_COUNT_MAX];
};

struct version {
    uint32_t pin_count;         /* guarded by version_set.mutex; holds included */
    struct version_hold *holds; /* likewise */
    bool revoked;               /* forest thread */
    struct version *next;       /* live versions, oldest first; forest thread */
    uint64_t commit;
    uint64_t timestamp;
    uint64_t horizon; /* joins that free nothing it references: those done when it was made, and one
                         that was owed. A misfit read under a newer horizon is reuse, not damage */
    uint32_t groove_count;
    struct groove_version *grooves; /* [groove_count], by groove id; dropping ones are not listed */
};

/* A reader's hold on the version it reads. */
struct version_hold {
    struct read_ticket ticket;
    struct version *version;   /* NULL: none */
    struct version_hold *next; /* on the same version; guarded by version_set.mutex */
};

/* NULL if there is none. */
const struct groove_version *version_groove(const struct version *version, uint32_t groove_id);

/* All versions. The forest thread makes, publishes and collects; any thread pins and unpins. */
struct version_set {
    struct mutex mutex;        /* LOCK_RANK_VERSION: pin counts and `published` */
    struct doorbell *doorbell; /* rung when the last pin of an old version goes */
    struct version *published; /* newest durable one */
    struct version *oldest;    /* live versions; forest thread */
    struct version *newest;
    struct version *free;
    uint32_t free_count;
    uint64_t revoked_total;         /* forest thread */
    struct version *versions;       /* [VERSION_COUNT_MAX] */
    struct groove_version *grooves; /* [VERSION_COUNT_MAX * groove_max] */
    uint32_t groove_max;
};

MUST_CHECK enum status version_set_init(struct version_set *set, uint32_t groove_max,
                                        struct doorbell *doorbell);
void version_set_deinit(struct version_set *set);

/* Forest thread: an empty version to fill in, the newest of all; never NULL (asserted: the caller
 * has looked at free_count). */
struct version *version_add(struct version_set *set);
/* Forest thread. */
void version_publish(struct version_set *set, struct version *version);
/* Forest thread. Takes the oldest version that nobody can see any more out of the set, for the
 * caller to return what it references, then version_free. NULL: none. A slow reader thus keeps
 * the version it reads, not those that came after it. */
struct version *version_collect(struct version_set *set);
void version_free(struct version_set *set, struct version *version);

/* Forest thread. Revokes the oldest version that readers hold, unless one is revoked already and
 * its readers are about to give it back. True: nobody holds it any more, version_collect will find
 * it. False: nothing to revoke, or wait for the doorbell. */
bool version_revoke_oldest(struct version_set *set);

/* Any thread. Holds the published version, until revoked or released; the reader is inside. */
void version_hold_published(struct version_set *set, struct version_hold *hold,
                            uint64_t work_size_max);
/* In any state of the ticket. */
void version_hold_release(struct version_set *set, struct version_hold *hold);

/* Forest thread: pins what is never revoked, the newest version. */
void version_pin(struct version_set *set, struct version *version);
void version_unpin(struct version_set *set, struct version *version);
