#include "store/revoked.h"
#include "store/erase_int.h"
#include <stdlib.h>

enum { RECORD_FORMAT = 1, BUCKETS_MIN = 64, SCAN_KEYS = 256, DROP_MAX = 1000 };

struct revoked_entry {
    struct revoked_entry *next;
    int64_t expires_s, revoked_s;
    uint8_t kind;
    uint8_t len;
    char id[];
};

/* ---- the set ------------------------------------------------------------------------------------------ */

void revoked_init(struct revoked *set)
{
    pthread_rwlock_init(&set->lock, NULL);
}

void revoked_release(struct revoked *set)
{
    for (size_t i = 0; i < set->nbuckets; i++)
        for (struct revoked_entry *e = set->buckets[i], *next; e != NULL; e = next) {
            next = e->next;
            free(e);
        }
    free(set->buckets);
    pthread_rwlock_destroy(&set->lock);
}

static size_t slot(size_t n, enum revoked_kind kind, struct str id)
{
    return (str_hash(id) + kind) % n;
}

static struct revoked_entry **find(struct revoked *set, enum revoked_kind kind, struct str id)
{
    struct revoked_entry **link = &set->buckets[slot(set->nbuckets, kind, id)];
    while (*link != NULL && ((*link)->kind != kind || !str_eq(str_n((*link)->id, (*link)->len), id)))
        link = &(*link)->next;
    return link;
}

static void grow(struct revoked *set)
{
    size_t n = set->nbuckets == 0 ? BUCKETS_MIN : set->nbuckets * 2;
    struct revoked_entry **buckets = calloc(n, sizeof *buckets);
    if (buckets == NULL)
        return; /* longer chains */
    for (size_t i = 0; i < set->nbuckets; i++)
        for (struct revoked_entry *e = set->buckets[i], *next; e != NULL; e = next) {
            next = e->next;
            struct revoked_entry **to = &buckets[slot(n, e->kind, str_n(e->id, e->len))];
            e->next = *to;
            *to = e;
        }
    free(set->buckets);
    set->buckets = buckets;
    set->nbuckets = n;
}

static enum err set_put(struct revoked *set, const struct revocation *r, struct errctx *ec)
{
    enum err err = ERR_OK;
    pthread_rwlock_wrlock(&set->lock);
    if (set->count >= set->nbuckets)
        grow(set);
    struct revoked_entry **link = set->nbuckets > 0 ? find(set, r->kind, r->id) : NULL;
    struct revoked_entry *e = link != NULL ? *link : NULL;
    if (e == NULL && link != NULL && (e = malloc(sizeof *e + r->id.len)) != NULL) {
        *e = (struct revoked_entry){.kind = (uint8_t)r->kind, .len = (uint8_t)r->id.len};
        memcpy(e->id, r->id.ptr, r->id.len);
        *link = e;
        atomic_store(&set->count, set->count + 1);
    }
    if (e != NULL) {
        e->expires_s = e->expires_s > r->expires_s ? e->expires_s : r->expires_s;
        e->revoked_s = e->revoked_s > r->revoked_s ? e->revoked_s : r->revoked_s;
    } else {
        err = err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    pthread_rwlock_unlock(&set->lock);
    return err;
}

static void set_drop(struct revoked *set, enum revoked_kind kind, struct str id)
{
    pthread_rwlock_wrlock(&set->lock);
    struct revoked_entry **link = set->count > 0 ? find(set, kind, id) : NULL;
    struct revoked_entry *e = link != NULL ? *link : NULL;
    if (e != NULL) {
        *link = e->next;
        free(e);
        atomic_store(&set->count, set->count - 1);
    }
    pthread_rwlock_unlock(&set->lock);
}

bool store_token_revoked(struct store *s, struct str user_id, struct str jti, int64_t issued_s)
{
    struct revoked *set = &s->revoked;
    if (atomic_load(&set->count) == 0)
        return false;
    pthread_rwlock_rdlock(&set->lock);
    const struct revoked_entry *u = set->count > 0 ? *find(set, REVOKED_USER, user_id) : NULL;
    bool revoked = (u != NULL && issued_s <= u->revoked_s) ||
                   (jti.ptr != NULL && set->count > 0 && *find(set, REVOKED_TOKEN, jti) != NULL);
    pthread_rwlock_unlock(&set->lock);
    return revoked;
}

void store_revocations(struct store *s, bool (*fn)(void *arg, const struct revocation *r), void *arg)
{
    struct revoked *set = &s->revoked;
    bool more = true;
    pthread_rwlock_rdlock(&set->lock);
    for (size_t i = 0; more && i < set->nbuckets; i++)
        for (const struct revoked_entry *e = set->buckets[i]; more && e != NULL; e = e->next)
            more = fn(arg, &(struct revocation){
                               (enum revoked_kind)e->kind, str_n(e->id, e->len), e->expires_s, e->revoked_s});
    pthread_rwlock_unlock(&set->lock);
}

/* ---- the catalog -------------------------------------------------------------------------------------- */

static enum key_space space_of(enum revoked_kind kind)
{
    return kind == REVOKED_TOKEN ? CATALOG_REVOKED_TOKENS : CATALOG_REVOKED_USERS;
}

static bool expired(int64_t expires_s, int64_t now_us)
{
    return expires_s < now_us / 1000000 - REVOKED_GRACE_S;
}

/* Deletes what has ended, and notes it in op->dropped for when the commit is there. */
static void drop_expired(struct revoke_op *r, struct txn *txn)
{
    struct revoked *set = &r->store->revoked;
    int n = 0;
    pthread_rwlock_rdlock(&set->lock);
    for (size_t i = 0; i < set->nbuckets; i++)
        for (const struct revoked_entry *e = set->buckets[i]; e != NULL && n < DROP_MAX; e = e->next) {
            if (!expired(e->expires_s, txn_now_us(txn)))
                continue;
            struct key k =
                key_named(CATALOG_USER_NO, space_of((enum revoked_kind)e->kind), str_n(e->id, e->len));
            txn_delete(txn, &k);
            buf_u8(&r->dropped, e->kind);
            buf_lstr(&r->dropped, str_n(e->id, e->len));
            n++;
        }
    pthread_rwlock_unlock(&set->lock);
}

static bool record_read(struct str value, struct revocation *r)
{
    struct reader v = reader_of(value);
    bool known = read_u8(&v) == RECORD_FORMAT;
    r->expires_s = read_zigzag(&v);
    r->revoked_s = read_zigzag(&v);
    return known && !v.bad && reader_left(&v) == 0;
}

/* What is there already and goes further stays. */
static enum err merge(struct txn *txn, const struct key *k, struct revocation *r, struct errctx *ec)
{
    struct revocation there;
    struct str value;
    enum err e = txn_get(txn, k, &value, ec);
    if (e == ERR_NOT_FOUND)
        return ERR_OK;
    if (e == ERR_OK && !record_read(value, &there))
        e = err_internal(ec, ERR_CORRUPT, "the record of a revoked token is damaged");
    if (e != ERR_OK)
        return e;
    r->expires_s = r->expires_s > there.expires_s ? r->expires_s : there.expires_s;
    r->revoked_s = r->revoked_s > there.revoked_s ? r->revoked_s : there.revoked_s;
    return ERR_OK;
}

static enum err apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct revoke_op *r = (struct revoke_op *)op;
    char value[32];
    struct buf b = BUF_INIT(sizeof value);
    buf_clear(&r->dropped);
    drop_expired(r, txn);
    if (atomic_load(&r->store->revoked.count) >= REVOKED_MAX && r->dropped.len == 0) {
        err_set(ec, ERR_TOO_LARGE, "more than %d revocations that have not ended", REVOKED_MAX);
        err_hint(ec, "Revoke by user, or change the signing key: that ends all of its tokens.");
        return ec->code;
    }
    struct key k = key_named(CATALOG_USER_NO, space_of(r->what.kind), r->what.id);
    enum err e = merge(txn, &k, &r->what, ec);
    if (e != ERR_OK)
        return e;
    buf_u8(&b, RECORD_FORMAT);
    buf_zigzag(&b, r->what.expires_s);
    buf_zigzag(&b, r->what.revoked_s);
    bool ok = !b.failed && !r->dropped.failed;
    if (ok)
        txn_put(txn, &k, buf_view(&b));
    buf_release(&b);
    return ok ? ERR_OK : err_set(ec, ERR_NO_MEMORY, "out of memory");
}

static void done(struct commit_op *op, enum err err, const struct errctx *ec)
{
    struct revoke_op *r = (struct revoke_op *)op;
    struct store *s = r->store;
    struct errctx mine;
    if (err == ERR_OK) {
        struct reader in = reader_of(buf_view(&r->dropped));
        while (reader_left(&in) > 0) {
            enum revoked_kind kind = (enum revoked_kind)read_u8(&in);
            set_drop(&s->revoked, kind, read_lstr(&in));
        }
    }
    /* Nobody knows whether it was stored: a token that may be revoked is not accepted. */
    if (err == ERR_OK || err == ERR_OUTCOME_UNKNOWN) {
        enum err e = set_put(&s->revoked, &r->what, &mine);
        atomic_fetch_add(&s->erased.changes, 1);
        if (err == ERR_OK && e != ERR_OK) {
            err = e;
            ec = &mine;
        }
    }
    buf_release(&r->dropped);
    r->done(r, err, ec);
}

void store_revoke(struct store *s, struct revoke_op *op)
{
    op->store = s;
    op->dropped = BUF_INIT((size_t)DROP_MAX * 260);
    op->op = (struct commit_op){.apply = apply, .done = done, .durability = DURABILITY_SYNC};
    store_submit(s, &op->op);
}

static enum err load_space(struct store *s, enum revoked_kind kind, struct errctx *ec)
{
    struct key from = key_prefix(CATALOG_USER_NO, space_of(kind)), end = key_after(&from);
    struct buf found = BUF_INIT(0);
    enum err err = ERR_OK;
    for (int n = 1; err == ERR_OK && n > 0;) {
        err = erase_read_pairs(s, &from, &end, SCAN_KEYS, &found, &n, ec);
        struct reader all = reader_of(buf_view(&found));
        for (int i = 0; err == ERR_OK && i < n; i++) {
            struct str key = read_lstr(&all);
            struct revocation r = {
                .kind = kind, .id = str_n(key.ptr + KEY_PREFIX_BYTES, key.len - KEY_PREFIX_BYTES)};
            if (!record_read(read_lstr(&all), &r) || r.id.len > UINT8_MAX)
                err = err_internal(ec, ERR_CORRUPT, "the record of a revoked token is damaged");
            else
                err = set_put(&s->revoked, &r, ec);
        }
    }
    buf_release(&found);
    return err;
}

enum err revoked_load(struct store *s, struct errctx *ec)
{
    enum err e = load_space(s, REVOKED_TOKEN, ec);
    if (e == ERR_OK)
        e = load_space(s, REVOKED_USER, ec);
    if (e == ERR_OK && s->revoked.count > 0)
        atomic_fetch_add(&s->erased.changes, 1);
    return e;
}
