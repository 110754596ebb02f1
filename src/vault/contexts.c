/* Two levels, one hash: a place of the expanded keys and a set of the derived ones that share a hash share a
 * stripe's lock, too.
 *
 * A place is read without the lock. Its reader counts itself in, and only then looks whether the place is
 * filled; its writer, who holds the lock, first says that it is not, and only then looks at the count. So
 * either the reader sees an empty place or the writer sees a reader (all four are sequentially consistent:
 * each side stores, then loads what the other stores).
 *
 * Locks: a stripe's, inside it the ring's. */
#include "vault/contexts.h"
#include "vault/secret.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum {
    SETS = 4096, /* these three are powers of two, each divides the one before */
    PLACES = 1024,
    STRIPES = 64,
    WAYS = 4
};

struct derived {
    uint64_t owner;
    uint32_t generation, run; /* run 0: empty */
    uint32_t used;            /* by the stripe's clock */
    uint8_t key[VAULT_KEY_BYTES];
};

struct context_place {
    _Alignas(64) atomic_uint users;
    atomic_bool filled;
    uint32_t generation,
        run; /* run 0: it was wiped. Written while not filled and without users, as the key */
    uint64_t owner;
};

struct stripe {
    _Alignas(64) pthread_mutex_t lock;
    uint32_t clock;
};

struct contexts {
    struct ring *ring;
    struct derived *derived; /* SETS × WAYS; secret */
    struct aead *expanded;   /* PLACES; secret; the key of the place of the same number */
    bool locked;
    _Atomic uint64_t loads;
    struct stripe stripes[STRIPES];
    struct context_place places[PLACES];
};

static size_t hash_of(uint64_t owner, uint32_t run)
{
    return (size_t)(((owner + ((uint64_t)run << 32)) * UINT64_C(0x9e3779b97f4a7c15)) >> 40);
}

struct contexts *contexts_new(struct ring *ring)
{
    struct contexts *c = aligned_alloc(_Alignof(struct contexts), sizeof *c);
    if (c == NULL)
        return NULL;
    memset(c, 0, sizeof *c);
    c->ring = ring;
    for (size_t i = 0; i < STRIPES; i++)
        pthread_mutex_init(&c->stripes[i].lock, NULL);
    bool first = false, second = false;
    c->derived = secret_alloc((size_t)SETS * WAYS * sizeof *c->derived, &first);
    c->expanded = secret_alloc(PLACES * sizeof *c->expanded, &second);
    c->locked = first && second;
    if (c->derived != NULL && c->expanded != NULL)
        return c;
    contexts_free(c);
    return NULL;
}

void contexts_free(struct contexts *c)
{
    if (c == NULL)
        return;
    secret_free(c->derived, (size_t)SETS * WAYS * sizeof *c->derived);
    secret_free(c->expanded, PLACES * sizeof *c->expanded);
    for (size_t i = 0; i < STRIPES; i++)
        pthread_mutex_destroy(&c->stripes[i].lock);
    free(c);
}

bool contexts_locked(const struct contexts *c)
{
    return c->locked;
}

uint64_t contexts_loads(struct contexts *c)
{
    return atomic_load(&c->loads);
}

/* ---- expanded keys ------------------------------------------------------------------------------------ */

static struct aead *key_of(struct contexts *c, const struct context_place *p)
{
    return &c->expanded[p - c->places];
}

static bool use(struct contexts *c, struct context_place *p, uint64_t owner, uint32_t generation,
    uint32_t run, struct context *ret)
{
    atomic_fetch_add(&p->users, 1);
    if (atomic_load(&p->filled) && p->owner == owner && p->run == run &&
        (generation == 0 || p->generation == generation)) {
        ret->key = key_of(c, p);
        ret->generation = p->generation;
        ret->place = p;
        return true;
    }
    atomic_fetch_sub_explicit(&p->users, 1, memory_order_release);
    return false;
}

/* The stripe is locked. Where others still use what is there, the key is expanded for this one use. */
static void expand(struct contexts *c, struct context_place *p, const struct derived *d, struct context *ret)
{
    atomic_store(&p->filled, false);
    bool mine = atomic_load(&p->users) == 0;
    struct aead *key = mine ? key_of(c, p) : &ret->own;
    aead_init(key, d->key);
    ret->key = key;
    ret->generation = d->generation;
    ret->place = NULL;
    if (!mine)
        return;
    p->owner = d->owner;
    p->run = d->run;
    p->generation = d->generation;
    atomic_fetch_add(&p->users, 1); /* before anybody who takes the lock finds it without */
    atomic_store(&p->filled, true);
    ret->place = p;
}

void context_give(struct context *ctx)
{
    if (ctx->place != NULL)
        atomic_fetch_sub_explicit(&ctx->place->users, 1, memory_order_release);
    else
        vault_wipe(&ctx->own, sizeof ctx->own);
}

/* ---- derived keys; the stripe is locked --------------------------------------------------------------- */

static enum err load(struct contexts *c, uint64_t owner, uint32_t generation, uint32_t run,
    struct derived *at, struct errctx *ec)
{
    static const char purpose[] = "kalamdb value";
    char info[sizeof purpose - 1 + RING_RUN_BYTES];
    uint8_t data_key[VAULT_KEY_BYTES], run_id[RING_RUN_BYTES];
    uint32_t found;
    enum err e = ring_run_id(c->ring, run, run_id, ec);
    if (e == ERR_OK)
        e = ring_key(c->ring, owner, generation, &found, data_key, ec);
    if (e != ERR_OK)
        return e;
    memcpy(info, purpose, sizeof purpose - 1);
    memcpy(info + sizeof purpose - 1, run_id, sizeof run_id);
    derive_key(data_key, str_n(info, sizeof info), at->key);
    vault_wipe(data_key, sizeof data_key);
    at->owner = owner;
    at->generation = found;
    at->run = run;
    atomic_fetch_add_explicit(&c->loads, 1, memory_order_relaxed);
    return ERR_OK;
}

static enum err derived(struct contexts *c, size_t hash, uint64_t owner, uint32_t generation, uint32_t run,
    struct derived **ret, struct errctx *ec)
{
    struct derived *way = &c->derived[(hash % SETS) * WAYS], *oldest = way;
    uint32_t now = ++c->stripes[hash % STRIPES].clock;
    for (size_t i = 0; i < WAYS; i++) {
        if (way[i].run == run && way[i].owner == owner &&
            (generation == 0 || way[i].generation == generation)) {
            way[i].used = now;
            *ret = &way[i];
            return ERR_OK;
        }
        if (oldest->run != 0 && (way[i].run == 0 || now - way[i].used > now - oldest->used))
            oldest = &way[i];
    }
    enum err e = load(c, owner, generation, run, oldest, ec);
    if (e == ERR_OK) {
        oldest->used = now;
        *ret = oldest;
    }
    return e;
}

/* ---- both --------------------------------------------------------------------------------------------- */

enum err context_take(struct contexts *c, uint64_t owner, uint32_t generation, uint32_t run,
    struct context *ret, struct errctx *ec)
{
    size_t hash = hash_of(owner, run);
    struct context_place *p = &c->places[hash % PLACES];
    struct stripe *s = &c->stripes[hash % STRIPES];
    struct derived *d;
    if (use(c, p, owner, generation, run, ret))
        return ERR_OK;
    pthread_mutex_lock(&s->lock);
    enum err e = derived(c, hash, owner, generation, run, &d, ec);
    if (e == ERR_OK && !use(c, p, owner, generation, run, ret)) /* another thread may have been faster */
        expand(c, p, d, ret);
    pthread_mutex_unlock(&s->lock);
    return e;
}

/* The stripe is locked, so that nobody fills it meanwhile. */
static void empty(struct contexts *c, struct context_place *p)
{
    atomic_store(&p->filled, false);
    while (atomic_load(&p->users) != 0)
        sched_yield(); /* less than one value's time, unless a user was preempted */
    vault_wipe(key_of(c, p), sizeof(struct aead));
    p->owner = 0;
    p->generation = p->run = 0;
}

/* Whoever loads a key holds the stripe's lock from its read of the ring on, so what was read before the
 * destruction stands here by the time its turn comes. */
void contexts_forget(struct contexts *c, uint64_t owner)
{
    for (size_t i = 0; i < STRIPES; i++) {
        pthread_mutex_lock(&c->stripes[i].lock);
        for (size_t place = i; place < PLACES; place += STRIPES)
            if (c->places[place].run != 0 && c->places[place].owner == owner)
                empty(c, &c->places[place]);
        for (size_t set = i; set < SETS; set += STRIPES)
            for (struct derived *d = &c->derived[set * WAYS]; d < &c->derived[(set + 1) * WAYS]; d++)
                if (d->owner == owner)
                    vault_wipe(d, sizeof *d);
        pthread_mutex_unlock(&c->stripes[i].lock);
    }
}
