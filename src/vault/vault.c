/* Sealing of values: a key at hand (contexts.h) and a new nonce for each. */
#include "vault/vault.h"
#include "vault/contexts.h"
#include "vault/crypt.h"
#include "vault/ring.h"
#include "vault/ring_copy.h"
#include <stdatomic.h>
#include <stdlib.h>

enum { VALUE_FORMAT = 1, HEADER_MIN = 1 + 1 + 4 + 8 };

struct vault {
    struct ring *ring;
    struct contexts *contexts;
    uint32_t run;
    _Atomic uint64_t counter; /* nonces given in this run */
    _Atomic uint64_t made, destroyed, unsealed, failures;
};

/* ---- open, close -------------------------------------------------------------------------------------- */

enum err vault_open(const struct vault_config *cfg, struct vault **ret, struct errctx *ec)
{
    struct vault *v = calloc(1, sizeof *v);
    if (v == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    enum err e = ring_open(cfg, &v->ring, ec);
    if (e == ERR_OK && (v->contexts = contexts_new(v->ring)) == NULL)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
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
    contexts_free(v->contexts);
    ring_close(v->ring);
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

enum err vault_rotate_master(
    struct vault *v, const uint8_t master[VAULT_KEY_BYTES], struct vault_rotation *ret, struct errctx *ec)
{
    return ring_rotate(v->ring, master, ret, ec);
}

void vault_ring_state(struct vault *v, struct vault_ring_state *ret)
{
    ring_state(v->ring, ret);
}

enum err vault_backup_check(struct vault *v, const char *dir, struct errctx *ec)
{
    return ring_backup_check(v->ring, dir, ec);
}

enum err vault_backup(
    struct vault *v, const char *dir, const char *master_file, size_t *ret_files, struct errctx *ec)
{
    return ring_backup(v->ring, dir, master_file, ret_files, ec);
}

enum err vault_copy_forget(struct vault *v, const char *dir, uint64_t owner, struct errctx *ec)
{
    return ring_copy_forget(v->ring, dir, owner, ec);
}

enum err vault_key_destroy(struct vault *v, uint64_t owner, struct errctx *ec)
{
    if (v == NULL)
        return ERR_OK;
    bool existed = false;
    enum err e = ring_destroy(v->ring, owner, &existed, ec);
    contexts_forget(v->contexts, owner);
    if (existed && e == ERR_OK)
        atomic_fetch_add_explicit(&v->destroyed, 1, memory_order_relaxed);
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
    struct context ctx;
    uint8_t nonce[NONCE_BYTES];
    uint64_t counter = 1 + atomic_fetch_add_explicit(&v->counter, 1, memory_order_relaxed);
    if (buf_reserve(out, plain.len + VAULT_OVERHEAD_MAX) == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    enum err e = context_take(v->contexts, owner, 0, v->run, &ctx, ec);
    if (e != ERR_OK)
        return e;
    nonce_of(counter, nonce);
    buf_u8(out, VALUE_FORMAT);
    buf_varint(out, ctx.generation);
    buf_be32(out, v->run);
    buf_be64(out, counter);
    aead_seal(ctx.key, nonce, aad, plain, out->ptr + out->len);
    out->len += plain.len + VAULT_TAG_BYTES;
    context_give(&ctx);
    return ERR_OK;
}

enum err vault_ready(struct vault *v, uint64_t owner, struct errctx *ec)
{
    struct context ctx;
    enum err e = v != NULL ? context_take(v->contexts, owner, 0, v->run, &ctx, ec) : ERR_OK;
    if (v != NULL && e == ERR_OK)
        context_give(&ctx);
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
    struct context ctx;
    uint8_t nonce[NONCE_BYTES];
    if (v == NULL) {
        if (sealed.len > 0)
            memcpy(ret, sealed.ptr, sealed.len);
        *ret_len = sealed.len;
        return ERR_OK;
    }
    if (!parse(sealed, &h))
        return damaged(v, owner, "is not a sealed one", ec);
    enum err e = context_take(v->contexts, owner, h.generation, h.run, &ctx, ec);
    if (e == ERR_CORRUPT)
        atomic_fetch_add_explicit(&v->failures, 1, memory_order_relaxed);
    if (e != ERR_OK)
        return e;
    nonce_of(h.counter, nonce);
    bool good = aead_open(ctx.key, nonce, aad, h.body, ret);
    context_give(&ctx);
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
        .loads = contexts_loads(v->contexts),
        .memory_locked = ring_memory_locked(v->ring) && contexts_locked(v->contexts)};
}
