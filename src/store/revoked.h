/* Tokens that are void before they end: one by its jti, or all that a user has had until a moment. Durable in
 * the catalog, in memory for whoever checks tokens.
 *
 *   CATALOG_REVOKED_TOKENS   jti       u8 format (1) | zigzag expires_s, revoked_s
 *   CATALOG_REVOKED_USERS    user id   the same
 *
 * An entry is kept until the token it is about would have ended anyway (expires_s and REVOKED_GRACE_S, the
 * most leeway that can be configured, later); then the next revocation drops it. There are at most
 * REVOKED_MAX.
 *
 * Threading: any. The set changes on the committer, after the commit is durable. */
#ifndef KALAMDB_STORE_REVOKED_H
#define KALAMDB_STORE_REVOKED_H

#include "store/store.h"

#define REVOKED_MAX 250000
#define REVOKED_GRACE_S 3600

enum revoked_kind { REVOKED_TOKEN, REVOKED_USER };
struct revocation {
    enum revoked_kind kind;
    struct str id; /* 1 to 255 bytes */
    int64_t expires_s;
    int64_t revoked_s; /* REVOKED_USER: tokens issued in this second or before are void */
};

struct revoke_op {
    struct commit_op op;    /* first */
    struct revocation what; /* what.id lives as long as the op */
    void (*done)(struct revoke_op *op, enum err err, const struct errctx *ec); /* on the committer */
    struct store *store;                                                       /* private from here */
    struct buf dropped;
};
/* In effect, and durable, when done is called with ERR_OK. Of two for the same the later end counts.
 * TOO_LARGE: REVOKED_MAX are there. After OUTCOME_UNKNOWN it is in effect until the store is opened again,
 * then if it came to be stored. */
void store_revoke(struct store *s, struct revoke_op *op);

/* `jti` ptr NULL: the token has none; issued_s INT64_MIN: it does not say. Changes count in store_erasures.
 */
bool store_token_revoked(struct store *s, struct str user_id, struct str jti, int64_t issued_s);
/* Calls fn for each entry, under a lock: it must not call the store. False ends it. */
void store_revocations(struct store *s, bool (*fn)(void *arg, const struct revocation *r), void *arg);

#endif
