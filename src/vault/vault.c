/* Sealing, and the contexts that are kept for it: OpenSSL's expanded keys by partition, generation and run,
 * in sets of four. A value costs one look-up and a new nonce; a context that is not there costs a read of the
 * ring and two derivations.
 *
 * Locks: a set's lock (striped), inside it the ring's. */
#include "vault/vault.h"
#include "vault/crypt.h"
#include "vault/ring.h"
#include "vault/ring_copy.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum {
    SETS = 4096, /* a power of two */
    WAYS = 4,
    LOCKS = 64, /* divides SETS */
    VALUE_FORMAT = 1,
    HEADER_MIN = 1 + 1 + 4 + 8
};

struct kept {
    uint64_t owner;
    uint32_t generation, run;
    uint32_t used;       /* by the lock's clock */
    EVP_CIPHER_CTX *ctx; /* NULL: empty */
};

struct stripe {
    _Alignas(64) pthread_mutex_t lock;
    uint32_t clock;
};

struct vault {
    struct ring *ring;
    EVP_CIPHER *gcm;
    uint32_t run;
    _Atomic uint64_t counter; /* nonces given in this run */
    _Atomic uint64_t made, destroyed, unsealed, failures, loads;
    struct kept *kept; /* SETS × WAYS */
    struct stripe stripes[LOCKS];
};

static size_t set_of(uint64_t owner, uint32_t run)
{
    uint64_t h = (owner + ((uint64_t)run << 32)) * UINT64_C(0x9e3779b97f4a7c15);
    return (size_t)(h >> 40) & (SETS - 1);
}

static struct stripe *stripe_of(struct vault *v, size_t set)
{
    return &v->stripes[set % LOCKS];
}

/* ---- open, close -------------------------------------------------------------------------------------- */

enum err vault_open(const struct vault_config *cfg, struct vault **ret, struct errctx *ec)
{
    struct vault *v = aligned_alloc(_Alignof(struct vault), sizeof *v);
    if (v == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    memset(v, 0, sizeof *v);
    for (size_t i = 0; i < LOCKS; i++)
        pthread_mutex_init(&v->stripes[i].lock, NULL);
    v->kept = calloc((size_t)SETS * WAYS, sizeof *v->kept);
    v->gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    enum err e = ERR_OK;
    if (v->kept == NULL)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    else if (v->gcm == NULL)
        e = err_set(ec, ERR_INTERNAL, "OpenSSL offers no AES-256-GCM");
    else
        e = ring_open(cfg, v->gcm, &v->ring, ec);
    if (e != ERR_OK) {
        vault_close(v);
        return e;
    }
    v->run = ring_run(v->ring);
    *ret = v;
    return ERR_OK;
}

void vault_close(struct vault *v)
{
    if (v == NULL)
        return;
    for (size_t i = 0; v->kept != NULL && i < (size_t)SETS * WAYS; i++)
        EVP_CIPHER_CTX_free(v->kept[i].ctx); /* cleanses */
    ring_close(v->ring);
    EVP_CIPHER_free(v->gcm);
    for (size_t i = 0; i < LOCKS; i++)
        pthread_mutex_destroy(&v->stripes[i].lock);
    free(v->kept);
    free(v);
}

void vault_ring_id(const struct vault *v, uint8_t ret[VAULT_RING_ID_BYTES])
{
    memcpy(ret, ring_id(v->ring), VAULT_RING_ID_BYTES);
}

/* ---- keys --------------------------------------------------------------------------------------------- */

enum err vault_key_make(struct vault *v, uint64_t owner, struct errctx *ec)
{
    bool new = false;
    enum err e = v != NULL ? ring_make(v->ring, owner, &new, ec) : ERR_OK;
    if (e == ERR_OK && new)
        atomic_fetch_add_explicit(&v->made, 1, memory_order_relaxed);
    return e;
}

enum err vault_flush(struct vault *v, struct errctx *ec)
{
    return v != NULL ? ring_flush(v->ring, ec) : ERR_OK;
}

bool vault_key_exists(struct vault *v, uint64_t owner)
{
    return v != NULL && ring_has(v->ring, owner);
}

bool vault_key_destroyed(struct vault *v, uint64_t owner)
{
    return v != NULL && ring_is_destroyed(v->ring, owner);
}

enum err vault_backup(struct vault *v, const char *dir, size_t *ret_files, struct errctx *ec)
{
    return ring_backup(v->ring, dir, ret_files, ec);
}

/* Whoever loads a context holds the set's lock from its read of the ring on, so what was read before the
 * destruction is in its set by the time its turn comes here. */
static void forget_contexts(struct vault *v, uint64_t owner)
{
    for (size_t i = 0; i < LOCKS; i++) {
        pthread_mutex_lock(&v->stripes[i].lock);
        for (size_t set = i; set < SETS; set += LOCKS) {
            for (size_t way = 0; way < WAYS; way++) {
                struct kept *k = &v->kept[set * WAYS + way];
                if (k->ctx == NULL || k->owner != owner)
                    continue;
                EVP_CIPHER_CTX_free(k->ctx);
                *k = (struct kept){0};
            }
        }
        pthread_mutex_unlock(&v->stripes[i].lock);
    }
}

enum err vault_key_destroy(struct vault *v, uint64_t owner, struct errctx *ec)
{
    if (v == NULL)
        return ERR_OK;
    bool existed = false;
    enum err e = ring_destroy(v->ring, owner, &existed, ec);
    forget_contexts(v, owner);
    if (existed && e == ERR_OK)
        atomic_fetch_add_explicit(&v->destroyed, 1, memory_order_relaxed);
    return e;
}

/* ---- contexts; the set's lock is held ----------------------------------------------------------------- */

static enum err load(
    struct vault *v, uint64_t owner, uint32_t generation, uint32_t run, struct kept *at, struct errctx *ec)
{
    static const char purpose[] = "kalamdb value";
    char info[sizeof purpose - 1 + RING_RUN_BYTES];
    uint8_t data_key[VAULT_KEY_BYTES], key[VAULT_KEY_BYTES], run_id[RING_RUN_BYTES];
    uint32_t found;
    enum err e = ring_run_id(v->ring, run, run_id, ec);
    if (e == ERR_OK)
        e = ring_key(v->ring, owner, generation, &found, data_key, ec);
    if (e != ERR_OK)
        return e;
    memcpy(info, purpose, sizeof purpose - 1);
    memcpy(info + sizeof purpose - 1, run_id, sizeof run_id);
    EVP_CIPHER_CTX *ctx = derive_key(data_key, str_n(info, sizeof info), key) ? gcm_new(v->gcm, key) : NULL;
    vault_wipe(data_key, sizeof data_key);
    vault_wipe(key, sizeof key);
    if (ctx == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    EVP_CIPHER_CTX_free(at->ctx);
    *at = (struct kept){.owner = owner, .generation = found, .run = run, .ctx = ctx};
    atomic_fetch_add_explicit(&v->loads, 1, memory_order_relaxed);
    return ERR_OK;
}

/* generation 0: the newest, to seal with. */
static enum err context(struct vault *v, size_t set, uint64_t owner, uint32_t generation, uint32_t run,
    struct kept **ret, struct errctx *ec)
{
    struct stripe *s = stripe_of(v, set);
    struct kept *way = &v->kept[set * WAYS], *oldest = way;
    uint32_t now = ++s->clock;
    for (size_t i = 0; i < WAYS; i++) {
        if (way[i].ctx != NULL && way[i].owner == owner && way[i].run == run &&
            (generation == 0 || way[i].generation == generation)) {
            way[i].used = now;
            *ret = &way[i];
            return ERR_OK;
        }
        if (oldest->ctx != NULL && (way[i].ctx == NULL || now - way[i].used > now - oldest->used))
            oldest = &way[i];
    }
    enum err e = load(v, owner, generation, run, oldest, ec);
    if (e == ERR_OK) {
        oldest->used = now;
        *ret = oldest;
    }
    return e;
}

/* ---- values ------------------------------------------------------------------------------------------- */

static void nonce_of(uint64_t counter, uint8_t ret[NONCE_BYTES])
{
    memset(ret, 0, NONCE_BYTES - 8);
    put_be64(ret + NONCE_BYTES - 8, counter);
}

enum err vault_seal(
    struct vault *v, uint64_t owner, struct str aad, struct str plain, struct buf *out, struct errctx *ec)
{
    if (v == NULL) {
        buf_str(out, plain);
        return out->failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : ERR_OK;
    }
    size_t set = set_of(owner, v->run), before = out->len;
    struct stripe *s = stripe_of(v, set);
    struct kept *k;
    uint8_t nonce[NONCE_BYTES];
    uint64_t counter = 1 + atomic_fetch_add_explicit(&v->counter, 1, memory_order_relaxed);
    if (buf_reserve(out, plain.len + VAULT_OVERHEAD_MAX) == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    nonce_of(counter, nonce);
    pthread_mutex_lock(&s->lock);
    enum err e = context(v, set, owner, 0, v->run, &k, ec);
    if (e == ERR_OK) {
        buf_u8(out, VALUE_FORMAT);
        buf_varint(out, k->generation);
        buf_be32(out, v->run);
        buf_be64(out, counter);
        if (gcm_seal(k->ctx, nonce, aad, plain, out->ptr + out->len)) {
            out->len += plain.len + VAULT_TAG_BYTES;
        } else {
            out->len = before;
            e = err_internal(ec, ERR_INTERNAL, "OpenSSL cannot seal a value of %zu bytes", plain.len);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return e;
}

enum err vault_ready(struct vault *v, uint64_t owner, struct errctx *ec)
{
    if (v == NULL)
        return ERR_OK;
    size_t set = set_of(owner, v->run);
    struct stripe *s = stripe_of(v, set);
    struct kept *k;
    pthread_mutex_lock(&s->lock);
    enum err e = context(v, set, owner, 0, v->run, &k, ec);
    pthread_mutex_unlock(&s->lock);
    return e;
}

struct header {
    uint32_t generation, run;
    uint64_t counter;
    struct str body; /* with the tag */
};

static bool parse(struct str sealed, struct header *ret)
{
    struct reader r = reader_of(sealed);
    if (sealed.len < HEADER_MIN + VAULT_TAG_BYTES || read_u8(&r) != VALUE_FORMAT)
        return false;
    const char *start = r.ptr;
    uint64_t generation = read_varint(&r);
    /* One way to write a number: else there would be other bytes that open. */
    bool shortest = !r.bad && (r.ptr - start == 1 || r.ptr[-1] != 0);
    ret->run = read_be32(&r);
    ret->counter = read_be64(&r);
    ret->generation = (uint32_t)generation;
    ret->body = str_n(r.ptr, reader_left(&r));
    return shortest && generation > 0 && generation <= UINT32_MAX && ret->body.len >= VAULT_TAG_BYTES;
}

static enum err damaged(struct vault *v, uint64_t owner, const char *why, struct errctx *ec)
{
    atomic_fetch_add_explicit(&v->failures, 1, memory_order_relaxed);
    return err_internal(ec, ERR_CORRUPT, "a value of partition %llu %s", (unsigned long long)owner, why);
}

enum err vault_unseal_into(struct vault *v, uint64_t owner, struct str aad, struct str sealed, char *ret,
    size_t *ret_len, struct errctx *ec)
{
    struct header h;
    struct kept *k;
    uint8_t nonce[NONCE_BYTES];
    if (v == NULL) {
        if (sealed.len > 0)
            memcpy(ret, sealed.ptr, sealed.len);
        *ret_len = sealed.len;
        return ERR_OK;
    }
    if (!parse(sealed, &h))
        return damaged(v, owner, "is not a sealed one", ec);
    nonce_of(h.counter, nonce);
    size_t set = set_of(owner, h.run);
    struct stripe *s = stripe_of(v, set);
    pthread_mutex_lock(&s->lock);
    enum err e = context(v, set, owner, h.generation, h.run, &k, ec);
    bool good = e == ERR_OK && gcm_open(k->ctx, nonce, aad, h.body, ret);
    pthread_mutex_unlock(&s->lock);
    if (e == ERR_CORRUPT)
        atomic_fetch_add_explicit(&v->failures, 1, memory_order_relaxed);
    if (e != ERR_OK)
        return e;
    if (!good) {
        vault_wipe(ret, h.body.len - VAULT_TAG_BYTES); /* nobody is to look at what did not prove true */
        return damaged(v, owner, "does not open: it was changed, or moved from another place", ec);
    }
    atomic_fetch_add_explicit(&v->unsealed, 1, memory_order_relaxed);
    *ret_len = h.body.len - VAULT_TAG_BYTES;
    return ERR_OK;
}

enum err vault_unseal(
    struct vault *v, uint64_t owner, struct str aad, struct str sealed, struct buf *out, struct errctx *ec)
{
    size_t len;
    char *room = buf_reserve(out, sealed.len + 1);
    if (room == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    enum err e = vault_unseal_into(v, owner, aad, sealed, room, &len, ec);
    if (e == ERR_OK)
        out->len += len;
    return e;
}

void vault_stats(struct vault *v, struct vault_stats *ret)
{
    *ret = (struct vault_stats){0};
    if (v == NULL)
        return;
    *ret = (struct vault_stats){.keys_made = atomic_load(&v->made),
        .keys_destroyed = atomic_load(&v->destroyed),
        .sealed = atomic_load(&v->counter),
        .unsealed = atomic_load(&v->unsealed),
        .unseal_failures = atomic_load(&v->failures),
        .loads = atomic_load(&v->loads),
        .memory_locked = ring_memory_locked(v->ring)};
}
