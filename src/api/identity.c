/* Tokens to principals. Verifying costs an HMAC or a signature and a JSON parse; a small cache per loop,
 * keyed by the token's SHA-256 (so that the cache holds no tokens and a lookup's timing says nothing about
 * them), makes a client's next request cost a hash. Whether the token has expired, or its
 * user was erased, is asked each time. */
#include "api/server.h"
#include <stdlib.h>

#define CACHE_ENTRIES 1024
#define CACHE_BUCKETS 2048
#define TOKEN_BYTES_MAX 8192
#define NONE UINT16_MAX

struct token_entry {
    uint8_t key[32];
    struct principal *who;
    uint16_t next; /* in the bucket */
    uint16_t newer, older;
    uint16_t bucket;
};
struct token_cache {
    struct token_entry entries[CACHE_ENTRIES];
    uint16_t buckets[CACHE_BUCKETS];
    uint16_t used, newest, oldest;
};

struct token_cache *token_cache_new(void)
{
    struct token_cache *c = calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    memset(c->buckets, 0xFF, sizeof c->buckets);
    c->newest = c->oldest = NONE;
    return c;
}

void token_cache_free(struct token_cache *c)
{
    if (c == NULL)
        return;
    for (int i = 0; i < c->used; i++)
        principal_unref(c->entries[i].who);
    free(c);
}

struct principal *principal_ref(struct principal *p)
{
    p->refs++;
    return p;
}

void principal_unref(struct principal *p)
{
    if (p != NULL && --p->refs == 0)
        free(p);
}

bool principal_expired(const struct server *s, const struct principal *p, int64_t now_s)
{
    return now_s >= p->expires_s && now_s - p->expires_s >= s->cfg->jwt_leeway_s;
}

bool principal_void(const struct server *s, struct principal *p)
{
    uint64_t erasures = kalamdb_erasures(s->db), generation = auth_generation(s->auth);
    if (p->checked == erasures && p->keys_checked == generation)
        return false;
    if (kalamdb_token_void(s->db, principal_id(p), p->issued_s) ||
        kalamdb_token_revoked(s->db, principal_id(p), principal_jti(p), p->issued_s) ||
        !auth_key_live(s->auth, p->key_id))
        return true;
    p->checked = erasures; /* one that comes while we ask has changed the number again */
    p->keys_checked = generation;
    return false;
}

struct str principal_ended(struct worker *w, struct principal *p)
{
    const struct server *s = w->server;
    if (principal_expired(s, p, net_now_s(w->loop)))
        return STR("token expired");
    if (!principal_void(s, p))
        return STR_NULL;
    return kalamdb_token_void(s->db, principal_id(p), p->issued_s) ? STR("the user was erased")
                                                                   : STR("the token was revoked");
}

static void lru_unlink(struct token_cache *c, uint16_t i)
{
    struct token_entry *e = &c->entries[i];
    if (e->newer != NONE)
        c->entries[e->newer].older = e->older;
    else
        c->newest = e->older;
    if (e->older != NONE)
        c->entries[e->older].newer = e->newer;
    else
        c->oldest = e->newer;
}

static void lru_push(struct token_cache *c, uint16_t i)
{
    struct token_entry *e = &c->entries[i];
    e->newer = NONE;
    e->older = c->newest;
    if (c->newest != NONE)
        c->entries[c->newest].newer = i;
    c->newest = i;
    if (c->oldest == NONE)
        c->oldest = i;
}

static uint16_t bucket_of(const uint8_t key[32])
{
    return (uint16_t)(get_be16(key) % CACHE_BUCKETS);
}

static struct principal *cache_get(struct token_cache *c, const uint8_t key[32])
{
    for (uint16_t i = c->buckets[bucket_of(key)]; i != NONE; i = c->entries[i].next) {
        if (memcmp(c->entries[i].key, key, 32) != 0)
            continue;
        if (c->newest != i) {
            lru_unlink(c, i);
            lru_push(c, i);
        }
        return c->entries[i].who;
    }
    return NULL;
}

static void bucket_unlink(struct token_cache *c, uint16_t i)
{
    uint16_t *link = &c->buckets[c->entries[i].bucket];
    while (*link != i)
        link = &c->entries[*link].next;
    *link = c->entries[i].next;
}

/* Takes the caller's reference. */
static void cache_put(struct token_cache *c, const uint8_t key[32], struct principal *who)
{
    uint16_t i;
    if (c->used < CACHE_ENTRIES) {
        i = c->used++;
    } else {
        i = c->oldest;
        lru_unlink(c, i);
        bucket_unlink(c, i);
        principal_unref(c->entries[i].who);
    }
    struct token_entry *e = &c->entries[i];
    memcpy(e->key, key, 32);
    e->who = who;
    e->bucket = bucket_of(key);
    e->next = c->buckets[e->bucket];
    c->buckets[e->bucket] = i;
    lru_push(c, i);
}

static struct principal *principal_new(const struct identity *id)
{
    struct principal *who = malloc(sizeof *who + id->user_id_len + 1 + id->jti_len);
    if (who == NULL)
        return NULL;
    *who = (struct principal){.refs = 1,
        .role = id->role,
        .expires_s = id->expires_s,
        .issued_s = id->issued_s,
        .key_id = id->key_id,
        .user_id_len = id->user_id_len,
        .jti_len = id->jti_len};
    memcpy(who->user_id, id->user_id, id->user_id_len);
    who->user_id[id->user_id_len] = '\0';
    memcpy(who->user_id + id->user_id_len + 1, id->jti, id->jti_len);
    return who;
}

enum err identify(struct worker *w, struct str token, struct principal **ret, struct errctx *ec)
{
    uint8_t key[32];
    int64_t now_s = net_now_s(w->loop);
    if (token.len == 0 || token.len > TOKEN_BYTES_MAX)
        return err_set(ec, ERR_UNAUTHENTICATED, "invalid token");
    sha256(token, key);
    struct principal *who = cache_get(w->tokens, key);
    if (who == NULL) {
        struct identity id;
        enum err e = auth_verify(w->server->auth, token, now_s, &id, ec);
        counter_add(&w->tokens_verified, 1);
        if (e != ERR_OK)
            return e;
        who = principal_new(&id);
        if (who == NULL)
            return err_internal(ec, ERR_NO_MEMORY, "principal");
        cache_put(w->tokens, key, who);
    } else {
        counter_add(&w->tokens_cached, 1);
        if (principal_expired(w->server, who, now_s))
            return err_set(ec, ERR_UNAUTHENTICATED, "token expired");
    }
    if (principal_void(w->server, who))
        return err_set(ec, ERR_UNAUTHENTICATED, "invalid token");
    *ret = principal_ref(who);
    return ERR_OK;
}

enum err identify_ticket(
    struct worker *w, struct str ticket, struct str content_ref, struct principal **ret, struct errctx *ec)
{
    struct identity id;
    enum err e = auth_ticket_verify(w->server->auth, ticket, content_ref, net_now_s(w->loop), &id, ec);
    if (e != ERR_OK)
        return e;
    struct principal *who = principal_new(&id);
    if (who == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "principal");
    if (principal_void(w->server, who)) {
        principal_unref(who);
        return err_set(ec, ERR_UNAUTHENTICATED, "invalid ticket");
    }
    *ret = who;
    return ERR_OK;
}

struct str bearer_token(const struct net_request *req)
{
    struct str h = net_header(req, STR("authorization"));
    if (h.ptr == NULL || h.len < 7 || !str_ieq(str_n(h.ptr, 7), STR("bearer ")))
        return STR_NULL;
    return str_trim(str_n(h.ptr + 7, h.len - 7));
}
