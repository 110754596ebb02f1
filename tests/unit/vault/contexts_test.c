/* Keys at hand: what is kept, what two partitions of one place do to each other, destruction meanwhile. */
#include "../test.h"
#include "vault/contexts.h"
#include <ftw.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OWNERS = 3000, THREADS = 4, ROUNDS = 4000 }; /* more than there are places for expanded keys */

struct place {
    char dir[64];
    uint8_t master[VAULT_KEY_BYTES];
    struct ring *ring;
    struct contexts *contexts;
};

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static int setup(void **state)
{
    struct place *p = calloc(1, sizeof *p);
    struct errctx ec = {0};
    snprintf(p->dir, sizeof p->dir, "/tmp/kalamdb-contexts-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    struct vault_config cfg = {.dir = p->dir, .master_key = p->master, .os = os_posix()};
    assert_int_equal(ring_open(&cfg, &p->ring, &ec), ERR_OK);
    p->contexts = contexts_new(p->ring);
    assert_non_null(p->contexts);
    for (uint64_t owner = 1; owner <= OWNERS; owner++) {
        bool new = false;
        assert_int_equal(ring_make(p->ring, owner, &new, &ec), ERR_OK);
    }
    assert_int_equal(ring_flush(p->ring, &ec), ERR_OK);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct place *p = *state;
    contexts_free(p->contexts);
    ring_close(p->ring);
    nftw(p->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(p);
    return 0;
}

static enum err take(struct place *p, uint64_t owner, struct context *ret)
{
    struct errctx ec = {0};
    return context_take(p->contexts, owner, 0, ring_run(p->ring), ret, &ec);
}

/* A sealed proof of which key it was. */
static void mark(const struct aead *key, char ret[VAULT_TAG_BYTES])
{
    static const uint8_t nonce[NONCE_BYTES];
    aead_seal(key, nonce, STR("x"), STR(""), ret);
}

static void mark_of(struct place *p, uint64_t owner, char ret[VAULT_TAG_BYTES])
{
    struct context ctx;
    assert_int_equal(take(p, owner, &ctx), ERR_OK);
    mark(ctx.key, ret);
    context_give(&ctx);
}

static void test_the_ring_is_asked_once(void **state)
{
    struct place *p = *state;
    char first[VAULT_TAG_BYTES], again[VAULT_TAG_BYTES], other[VAULT_TAG_BYTES];
    mark_of(p, 7, first);
    mark_of(p, 8, other);
    assert_memory_not_equal(first, other, sizeof first);
    for (uint64_t owner = 1; owner <= OWNERS; owner++) /* 7 loses its place, not its derived key */
        mark_of(p, owner, other);
    mark_of(p, 7, again);
    assert_memory_equal(first, again, sizeof first);
    assert_int_equal(contexts_loads(p->contexts), OWNERS);
    struct context ctx;
    struct errctx ec = {0};
    assert_int_equal(context_take(p->contexts, OWNERS + 1, 0, 1, &ctx, &ec), ERR_CORRUPT);
    assert_int_equal(context_take(p->contexts, 7, 2, 1, &ctx, &ec), ERR_CORRUPT); /* no such generation */
    assert_int_equal(context_take(p->contexts, 7, 0, 9, &ctx, &ec), ERR_CORRUPT); /* no such run */
    assert_int_equal(contexts_loads(p->contexts), OWNERS);
}

/* While one is in use, another partition of its place gets a key of its own; neither disturbs the other. */
static void test_a_place_in_use(void **state)
{
    struct place *p = *state;
    struct context held, other;
    char before[VAULT_TAG_BYTES], after[VAULT_TAG_BYTES], alone[VAULT_TAG_BYTES], beside[VAULT_TAG_BYTES];
    assert_int_equal(take(p, 1, &held), ERR_OK);
    assert_non_null(held.place);
    mark(held.key, before);
    uint64_t rival = 0;
    for (uint64_t owner = 2; owner <= OWNERS && rival == 0; owner++) {
        assert_int_equal(take(p, owner, &other), ERR_OK);
        if (other.place == NULL) {
            rival = owner;
            mark(other.key, beside);
        }
        context_give(&other);
    }
    assert_int_not_equal(rival, 0);
    static const struct aead zero;
    assert_memory_equal(&other.own, &zero, sizeof zero); /* wiped when given back */
    mark(held.key, after);
    assert_memory_equal(before, after, sizeof before);
    context_give(&held);
    assert_int_equal(take(p, rival, &other), ERR_OK);
    assert_non_null(other.place);
    mark(other.key, alone);
    context_give(&other);
    assert_memory_equal(alone, beside, sizeof alone);
    mark_of(p, 1, after);
    assert_memory_equal(before, after, sizeof before);
}

static void *forget(void *arg)
{
    struct place *p = arg;
    contexts_forget(p->contexts, 5);
    return NULL;
}

/* A value that is being sealed is sealed; then nothing of the key is left. */
static void test_forgetting_waits_for_users(void **state)
{
    struct place *p = *state;
    struct context held;
    struct errctx ec = {0};
    bool existed = false;
    pthread_t thread;
    char before[VAULT_TAG_BYTES], after[VAULT_TAG_BYTES];
    assert_int_equal(take(p, 5, &held), ERR_OK);
    const struct aead *key = held.key;
    mark(key, before);
    assert_int_equal(ring_destroy(p->ring, 5, &existed, &ec), ERR_OK);
    assert_int_equal(pthread_create(&thread, NULL, forget, p), 0);
    for (int i = 0; i < 100000; i++) { /* long enough for the thread to get there */
        mark(key, after);
        if (i % 100 == 0)
            sched_yield();
        assert_memory_equal(before, after, sizeof before);
    }
    context_give(&held);
    pthread_join(thread, NULL);
    static const struct aead zero;
    assert_memory_equal(key, &zero, sizeof zero);
    assert_int_equal(take(p, 5, &held), ERR_NOT_FOUND);
}

struct worker {
    struct place *place;
    char (*marks)[VAULT_TAG_BYTES];
    uint32_t seed;
    atomic_int *wrong;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    for (int i = 0; i < ROUNDS; i++) {
        char got[VAULT_TAG_BYTES];
        struct context ctx;
        w->seed = w->seed * 1664525 + 1013904223;
        uint64_t owner = 1 + (w->seed >> 8) % OWNERS;
        if (i % 50 == 0)
            contexts_forget(w->place->contexts, owner);
        if (take(w->place, owner, &ctx) != ERR_OK) {
            atomic_fetch_add(w->wrong, 1);
            continue;
        }
        mark(ctx.key, got);
        context_give(&ctx);
        if (memcmp(got, w->marks[owner], sizeof got) != 0)
            atomic_fetch_add(w->wrong, 1);
    }
    return NULL;
}

static void test_many_threads(void **state)
{
    static char marks[OWNERS + 1][VAULT_TAG_BYTES];
    struct place *p = *state;
    struct worker workers[THREADS];
    pthread_t threads[THREADS];
    atomic_int wrong = 0;
    for (uint64_t owner = 1; owner <= OWNERS; owner++)
        mark_of(p, owner, marks[owner]);
    for (uint32_t i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){p, marks, i, &wrong};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_ring_is_asked_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_place_in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forgetting_waits_for_users, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_threads, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
