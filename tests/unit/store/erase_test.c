/* Erasure, stopped at each of its steps as a crash would, and gone on with after a reopen. */
#include "cold_fixture.h"
#include "store/erase.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
/* cmocka wants the three before */
#include <cmocka.h>

#define ALICE STR("user_alice")

static void plant(struct cold *c)
{
    cold_insert(c, 700, 3);
    cold_add(c, 0, "c0", "planted-cold");
    cold_consolidate(c);
    cold_insert(c, 700, 3);
    cold_add(c, 0, "c1", "planted-hot");
}

static enum err no_groups(struct txn *txn, struct group *g, struct member *m, struct errctx *ec)
{
    (void)txn, (void)g, (void)m, (void)ec;
    fail();
    return ERR_OK;
}

static enum err erase(struct store *s, struct erasure *e, struct errctx *ec)
{
    enum err err = ERR_OK;
    if (e->user_no == 0)
        err = store_erase_begin(s, ALICE, 1, no_groups, e, ec);
    if (err == ERR_OK && !e->finished)
        err = store_erase_key(s, e, ec);
    if (err == ERR_OK && !e->finished)
        err = store_erase_settle(s, NULL, 0, ec);
    if (err == ERR_OK && !e->finished)
        err = store_erase_rows(s, e, ec);
    if (err == ERR_OK && !e->finished)
        err = store_erase_finish(s, e, ec);
    return err;
}

static enum err note(void *arg, const struct erasure *e, struct errctx *ec)
{
    struct erasure *ret = arg;
    (void)ec;
    assert_int_equal(ret->user_no, 0);
    assert_true(str_eq(e->user_id, ALICE));
    *ret = *e;
    ret->user_id = ALICE;
    return ERR_OK;
}

static bool user_exists(struct store *s)
{
    struct errctx ec = {0};
    struct snapshot *snap;
    OK(snapshot_open(s, ALICE, &snap, &ec));
    bool exists = snapshot_exists(snap);
    snapshot_close(snap);
    return exists;
}

static void check_gone(struct cold *c, const struct erasure *e)
{
    struct errctx ec = {0};
    struct erasure again = {0}, left = {0};
    struct store_stats stats;
    assert_true(e->finished);
    assert_int_equal(e->messages, 1402);
    assert_int_equal(e->files, 1);
    assert_true(e->bytes > 1402 * 30);
    assert_false(cold_grep(c, "planted-"));
    assert_false(cold_grep(c, "content-"));
    assert_false(cold_exists(c, "user_alice"));
    assert_false(user_exists(c->f.store));
    store_stats(c->f.store, &stats);
    assert_int_equal(stats.rows_hot, 0);
    assert_int_equal(stats.rows_cold, 0);
    assert_int_equal(stats.files_cold, 0);
    OK(store_erase_unfinished(c->f.store, note, &left, &ec));
    assert_int_equal(left.user_no, 0);
    OK(store_erase_begin(c->f.store, ALICE, 0, no_groups, &again, &ec));
    assert_false(again.begun);
    assert_true(again.finished);
    assert_int_equal(again.erased_at_us, e->erased_at_us);
    assert_int_equal(again.messages, e->messages);
    assert_int_equal(again.bytes, e->bytes);
    assert_int_equal(again.sent, 1);
}

struct stop {
    int at, seen;
    enum erase_step step;
};

static bool stop_at(void *arg, enum erase_step step)
{
    struct stop *s = arg;
    s->step = step;
    return s->seen++ != s->at;
}

/* For every n: the n-th step is the last of its process. */
static void crash_at_each_step(void **state)
{
    (void)state;
    bool all[ERASE_PURGED + 1] = {false}, done = false;
    for (int n = 0; !done; n++) {
        struct cold c;
        struct errctx ec = {0};
        struct erasure e = {0};
        struct stop stop = {.at = n};
        cold_open(&c, "user_alice", 8);
        plant(&c);
        store_erase_set_hook(c.f.store, &(struct erase_hook){stop_at, &stop});
        enum err err = erase(c.f.store, &e, &ec);
        done = err == ERR_OK;
        if (!done) {
            assert_int_equal(err, ERR_UNAVAILABLE);
            all[stop.step] = true;
            assert_false(user_exists(c.f.store));
            assert_true(store_token_void(c.f.store, ALICE, 1));
            fixture_reopen(&c.f);
            assert_true(store_token_void(c.f.store, ALICE, 1));
            assert_false(user_exists(c.f.store));
            e = (struct erasure){0};
            OK(store_erase_unfinished(c.f.store, note, &e, &ec));
            assert_true(e.user_no > 0 && !e.finished);
            OK(erase(c.f.store, &e, &ec));
        }
        check_gone(&c, &e);
        cold_close(&c);
    }
    for (int i = 0; i <= ERASE_PURGED; i++)
        assert_true(all[i]);
}

static void tokens_void(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec = {0};
    struct erasure e = {0};
    cold_open(&c, "user_alice", 8);
    cold_insert(&c, 3, 1);
    assert_false(store_token_void(c.f.store, ALICE, INT64_MIN));
    uint64_t before = store_erasures(c.f.store);
    assert_int_equal(store_erase_begin(c.f.store, STR("nobody"), 0, no_groups, &e, &ec), ERR_NOT_FOUND);
    assert_false(store_token_void(c.f.store, STR("nobody"), INT64_MIN));
    OK(erase(c.f.store, &e, &ec));
    assert_true(store_erasures(c.f.store) > before);
    int64_t s = e.erased_at_us / 1000000;
    assert_true(store_token_void(c.f.store, ALICE, INT64_MIN));
    assert_true(store_token_void(c.f.store, ALICE, s));
    assert_false(store_token_void(c.f.store, ALICE, s + 1));
    assert_false(store_token_void(c.f.store, STR("user_alic"), s));
    fixture_reopen(&c.f);
    assert_true(store_token_void(c.f.store, ALICE, s));
    assert_false(store_token_void(c.f.store, ALICE, s + 1));
    cold_close(&c);
}

static enum err apply_insert(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    uint64_t user_no;
    (void)op;
    return txn_user(txn, ALICE, true, &user_no, ec);
}

/* A write that was asked for before the erasure and comes after it does not bring the user back; one of a
 * later token makes somebody else. */
static void late_write(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec = {0};
    struct erasure e = {0};
    cold_open(&c, "user_alice", 8);
    cold_insert(&c, 3, 1);
    OK(store_erase_begin(c.f.store, ALICE, 0, no_groups, &e, &ec));
    struct commit_op op = {.apply = apply_insert, .author = ALICE, .author_issued_s = 1};
    assert_int_equal(store_commit_wait(c.f.store, &op, &ec), ERR_UNAUTHENTICATED);
    assert_false(user_exists(c.f.store));
    op.author_issued_s = e.erased_at_us / 1000000 + 1;
    OK(store_commit_wait(c.f.store, &op, &ec));
    assert_true(user_exists(c.f.store));
    struct message m = {.user = "user_alice", .conversation = "c0", .content = "anew"};
    OK(insert(c.f.store, &m, &ec));
    assert_int_equal(m.seq, 1);
    /* The old partition goes, the new one stays. */
    OK(erase(c.f.store, &e, &ec));
    assert_int_equal(e.messages, 3);
    assert_true(user_exists(c.f.store));
    struct store_stats stats;
    store_stats(c.f.store, &stats);
    assert_int_equal(stats.rows_hot, 1);
    /* Who came back is erased again, with a receipt of its own. */
    struct erasure second = {0};
    OK(erase(c.f.store, &second, &ec));
    assert_int_equal(second.messages, 1);
    assert_true(second.erased_at_us > e.erased_at_us);
    assert_false(cold_grep(&c, "anew"));
    cold_close(&c);
}

/* A snapshot that still shows the user keeps the finish waiting, and shows everything to its end. Where
 * values are sealed the key went first: it says so, and shows nothing. */
struct waiting {
    struct store *store;
    struct snapshot *snap;
    bool sealed, seen;
};

static bool release_late(void *arg, enum erase_step step)
{
    struct waiting *w = arg;
    if (step == ERASE_ROWS) {
        struct errctx ec = {0};
        struct analytic_input in;
        struct scan_bounds all = SCAN_BOUNDS_OPEN;
        /* Files are still there for who had them. */
        enum err got = snapshot_input(w->snap, &schema_messages, &all, false, &in, &ec);
        assert_int_equal(got, w->sealed ? ERR_UNAVAILABLE : ERR_OK);
        w->seen = true;
        snapshot_close(w->snap);
    }
    return true;
}

static void snapshot_reads_on(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec = {0};
    struct erasure e = {0};
    cold_open(&c, "user_alice", 8);
    plant(&c);
    struct waiting w = {.store = c.f.store, .sealed = c.f.cfg.vault != NULL};
    OK(snapshot_open(c.f.store, ALICE, &w.snap, &ec));
    store_erase_set_hook(c.f.store, &(struct erase_hook){release_late, &w});
    OK(erase(c.f.store, &e, &ec));
    assert_true(w.seen);
    store_erase_set_hook(c.f.store, NULL);
    check_gone(&c, &e);
    cold_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(crash_at_each_step), cmocka_unit_test(tokens_void),
        cmocka_unit_test(late_write), cmocka_unit_test(snapshot_reads_on)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
