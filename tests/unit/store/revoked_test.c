/* Revocations: what is void, for how long, and after a restart. */
#include "../test.h"
#include "fixture.h"
#include "store/erase.h"
#include "store/revoked.h"
#include <stdio.h>

#define NOW INT64_C(1800000000)

struct waiting {
    struct revoke_op op; /* first */
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool finished;
    enum err err;
};

static void finished(struct revoke_op *op, enum err err, const struct errctx *ec)
{
    struct waiting *w = (struct waiting *)op;
    (void)ec;
    pthread_mutex_lock(&w->lock);
    w->finished = true;
    w->err = err;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static enum err revoke(
    struct store *s, enum revoked_kind kind, const char *id, int64_t expires_s, int64_t revoked_s)
{
    struct waiting w = {.op = {.what = {kind, str_c(id), expires_s, revoked_s}, .done = finished},
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .cond = PTHREAD_COND_INITIALIZER};
    store_revoke(s, &w.op);
    pthread_mutex_lock(&w.lock);
    while (!w.finished)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    return w.err;
}

static bool token(struct fixture *f, const char *jti)
{
    return store_token_revoked(f->store, STR("alice"), jti != NULL ? str_c(jti) : STR_NULL, NOW);
}

static bool count_one(void *arg, const struct revocation *r)
{
    (void)r;
    ++*(int *)arg;
    return true;
}

static int entries(struct fixture *f)
{
    int n = 0;
    store_revocations(f->store, count_one, &n);
    return n;
}

static void void_at_once_and_after_a_restart(void **state)
{
    (void)state;
    struct fixture f = {0};
    fixture_open(&f);
    atomic_store(&f.realtime_us, NOW * 1000000);
    assert_false(token(&f, "t1"));
    uint64_t changes = store_erasures(f.store);
    assert_int_equal(revoke(f.store, REVOKED_TOKEN, "t1", NOW + 100, NOW), ERR_OK);
    assert_true(store_erasures(f.store) > changes); /* caches ask again */
    assert_int_equal(revoke(f.store, REVOKED_USER, "bob", NOW + 100, NOW), ERR_OK);
    for (int i = 0; i < 2; i++) {
        assert_true(token(&f, "t1"));
        assert_false(token(&f, "t2"));
        assert_false(token(&f, "bob")); /* a user's name is no jti, nor a jti a user's name */
        assert_false(token(&f, NULL));
        assert_true(store_token_revoked(f.store, STR("bob"), STR_NULL, NOW));
        assert_true(store_token_revoked(f.store, STR("bob"), STR("x"), INT64_MIN));
        assert_false(store_token_revoked(f.store, STR("bob"), STR("x"), NOW + 1));
        assert_false(store_token_revoked(f.store, STR("t1"), STR("x"), NOW));
        fixture_reopen(&f);
    }
    /* Of two for the same the later counts, in whichever order they come. */
    assert_int_equal(revoke(f.store, REVOKED_USER, "bob", NOW + 50, NOW - 10), ERR_OK);
    for (int i = 0; i < 2; i++) {
        assert_true(store_token_revoked(f.store, STR("bob"), STR_NULL, NOW));
        assert_int_equal(entries(&f), 2);
        fixture_reopen(&f);
    }
    fixture_close(&f);
}

static void entries_go_when_their_token_would_have_ended(void **state)
{
    (void)state;
    struct fixture f = {0};
    char id[16];
    fixture_open(&f);
    atomic_store(&f.realtime_us, NOW * 1000000);
    for (int i = 0; i < 200; i++) {
        snprintf(id, sizeof id, "t%d", i);
        assert_int_equal(revoke(f.store, REVOKED_TOKEN, id, NOW + i, NOW), ERR_OK);
    }
    /* Not before the most leeway there can be is over. */
    atomic_store(&f.realtime_us, (NOW + 100 + REVOKED_GRACE_S) * 1000000);
    assert_int_equal(entries(&f), 200);
    assert_int_equal(revoke(f.store, REVOKED_TOKEN, "new", NOW + 10000, NOW), ERR_OK);
    assert_int_equal(entries(&f), 101);
    assert_false(token(&f, "t99"));
    assert_true(token(&f, "t100"));
    fixture_reopen(&f);
    assert_int_equal(entries(&f), 101); /* on disk, too */
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(void_at_once_and_after_a_restart),
        cmocka_unit_test(entries_go_when_their_token_would_have_ended)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
