/* Rows move between tiers; no answer changes. */
#include "cold_fixture.h"
#include "store/cold_scan.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
/* cmocka wants the three before */
#include <cmocka.h>

static void hot_cold_mixed(void **state)
{
    (void)state;
    struct cold c;
    cold_open(&c, "user_alice", 0);
    cold_insert(&c, 50, 3);
    cold_check(&c);
    assert_int_equal(cold_head(&c).fresh_rows, 50);
    cold_consolidate(&c);
    cold_check(&c);
    struct head h = cold_head(&c);
    assert_int_equal(h.fresh_rows, 0);
    assert_int_equal(h.fresh_bytes, 0);
    assert_int_equal(h.fresh_since_us, 0);
    assert_int_equal(h.overlays, 0);
    for (size_t i = 0; i < 50; i++)
        assert_false(cold_is_hot(&c, i));
    struct store_stats st;
    store_stats(c.f.store, &st);
    assert_int_equal(st.rows_cold, 50);
    assert_int_equal(st.files_cold, 1);
    assert_int_equal(st.rows_hot, 0);
    assert_int_equal(st.consolidations, 1);
    cold_insert(&c, 20, 3);
    cold_check(&c);
    cold_reopen(&c);
    cold_check(&c);
    store_stats(c.f.store, &st);
    assert_int_equal(st.rows_cold, 50);
    assert_int_equal(st.rows_hot, 20);
    cold_close(&c);
}

/* Nothing to write: no file, no new version. */
static void nothing_fresh(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec = {0};
    cold_open(&c, "user_alice", 4);
    OK(store_consolidate(c.f.store, STR("nobody"), &ec));
    OK(store_consolidate(c.f.store, STR_NULL, &ec));
    cold_insert(&c, 10, 1);
    cold_consolidate(&c);
    uint64_t epoch = cold_head(&c).cold_epoch;
    cold_consolidate(&c);
    OK(store_consolidate(c.f.store, STR_NULL, &ec));
    assert_int_equal(cold_head(&c).cold_epoch, epoch);
    cold_close(&c);
}

/* Rows that came and went before anything was written leave no file. */
static void all_deleted(void **state)
{
    (void)state;
    struct cold c;
    cold_open(&c, "user_alice", 4);
    cold_insert(&c, 10, 2);
    for (size_t i = 0; i < 10; i++)
        cold_delete(&c, i);
    cold_consolidate(&c);
    assert_int_equal(cold_head(&c).fresh_rows, 0);
    cold_check(&c);
    cold_insert(&c, 10, 2);
    cold_consolidate(&c);
    cold_check(&c);
    /* A file whose rows all go leaves a range without a file. */
    for (size_t i = 10; i < 20; i++)
        cold_delete(&c, i);
    cold_insert(&c, 3, 2);
    cold_check(&c);
    cold_consolidate(&c);
    cold_check(&c);
    for (size_t i = 20; i < 23; i++)
        cold_delete(&c, i);
    cold_consolidate(&c);
    cold_check(&c);
    struct manifest *m = cold_manifest(&c);
    assert_int_equal(m->nfiles, 0);
    manifest_unref(m);
    cold_close(&c);
}

static void tail_and_floors(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec = {0};
    struct snapshot *snap;
    cold_open(&c, "user_alice", 4);
    cold_insert(&c, 30, 3);
    cold_consolidate(&c);
    cold_check(&c);
    for (size_t i = 0; i < 30; i++)
        assert_int_equal(cold_is_hot(&c, i), i >= 18); /* 4 of each of 3 conversations */
    OK(snapshot_open(c.f.store, STR("user_alice"), &snap, &ec));
    for (int k = 0; k < 3; k++) {
        char conv[8];
        snprintf(conv, sizeof conv, "c%d", k);
        /* Above the newest released row, at or below the oldest kept one. */
        int64_t floor = snapshot_conversation_floor(snap, str_c(conv));
        assert_true(floor > c.rows[15 + k].id && floor <= c.rows[18 + k].id);
    }
    int64_t floor = snapshot_user_floor(snap);
    assert_true(floor > c.rows[17].id && floor <= c.rows[18].id);
    assert_int_equal(snapshot_cold_max_seq(snap), 30);
    snapshot_close(snap);
    /* New rows push old ones out of the tail at the next consolidation. */
    cold_insert(&c, 6, 3);
    cold_consolidate(&c);
    cold_check(&c);
    for (size_t i = 0; i < 36; i++)
        assert_int_equal(cold_is_hot(&c, i), i >= 24);
    /* A week later nothing of it is kept. */
    atomic_store(&c.f.realtime_us, os_realtime_us(os_posix()) + INT64_C(8) * 24 * 3600 * 1000000);
    cold_insert(&c, 1, 1);
    cold_consolidate(&c);
    cold_check(&c);
    for (size_t i = 0; i < 36; i++)
        assert_false(cold_is_hot(&c, i));
    assert_true(cold_is_hot(&c, 36));
    cold_close(&c);
}

/* Only the most recently active conversations keep a tail. */
static void tail_of_active(void **state)
{
    (void)state;
    struct cold c;
    cold_open(&c, "user_alice", 2);
    cold_insert(&c, 120, 40);
    cold_consolidate(&c);
    for (size_t i = 0; i < 120; i++)
        assert_int_equal(cold_is_hot(&c, i), i % 40 >= 8 && i >= 40);
    cold_check(&c);
    cold_close(&c);
}

static void overlays(void **state)
{
    (void)state;
    struct cold c;
    cold_open(&c, "user_alice", 0);
    cold_insert(&c, 40, 4);
    cold_consolidate(&c);
    cold_update(&c, 3, "changed once");
    cold_update(&c, 3, "changed twice");
    cold_delete(&c, 4);
    cold_update(&c, 5, "then deleted");
    cold_delete(&c, 5);
    cold_check(&c);
    assert_int_equal(cold_head(&c).overlays, 5);
    /* The new version fails these bounds; the old one, in the file, meets them and must not show. */
    struct scan_bounds b = SCAN_BOUNDS_OPEN;
    b.seq_max = 40;
    cold_check_bounds(&c, &b);
    b = (struct scan_bounds)SCAN_BOUNDS_OPEN;
    b.seq_min = 41;
    cold_check_bounds(&c, &b);
    assert_int_equal(cold_files(&c, &b), 0);
    cold_reopen(&c);
    cold_check(&c);
    /* On request the file takes them in. */
    cold_consolidate(&c);
    cold_check(&c);
    assert_int_equal(cold_head(&c).overlays, 0);
    assert_false(cold_is_hot(&c, 3));
    struct manifest *m = cold_manifest(&c);
    assert_int_equal(manifest_rows(m), 38);
    manifest_unref(m);
    cold_update(&c, 3, "changed again");
    cold_check(&c);
    cold_close(&c);
}

static void bounds_prune(void **state)
{
    (void)state;
    struct cold c;
    cold_open(&c, "user_alice", 3);
    cold_insert(&c, 100, 5); /* c0 … c4 */
    cold_consolidate(&c);
    for (int i = 0; i < 20; i++)
        cold_add(&c, 0, "late", "of the second file");
    cold_consolidate(&c);
    for (int i = 0; i < 10; i++)
        cold_add(&c, 0, "hot", "fresh");
    cold_update(&c, 10, "overlaid");
    cold_delete(&c, 11);
    struct manifest *m = cold_manifest(&c);
    assert_int_equal(m->nfiles, 2);
    manifest_unref(m);
    struct scan_bounds open = SCAN_BOUNDS_OPEN, b = open;
    assert_int_equal(cold_files(&c, &b), 2);
    b.conversation_id = STR("late");
    assert_int_equal(cold_files(&c, &b), 1);
    cold_check_bounds(&c, &b);
    b.conversation_id = STR("c2");
    assert_int_equal(cold_files(&c, &b), 1);
    cold_check_bounds(&c, &b);
    b.conversation_id = STR("hot");
    assert_int_equal(cold_files(&c, &b), 0);
    cold_check_bounds(&c, &b);
    b.conversation_id = STR("never");
    assert_int_equal(cold_files(&c, &b), 0);
    cold_check_bounds(&c, &b);
    b = open;
    b.id_min = c.rows[120].id;
    assert_int_equal(cold_files(&c, &b), 0);
    cold_check_bounds(&c, &b);
    b.id_min = b.id_max = c.rows[10].id;
    assert_int_equal(cold_files(&c, &b), 1);
    cold_check_bounds(&c, &b);
    b.id_min = b.id_max = c.rows[11].id;
    cold_check_bounds(&c, &b);
    b = open;
    b.ts_min = c.rows[100].ts;
    b.ts_max = c.rows[119].ts;
    assert_int_equal(cold_files(&c, &b), 1);
    cold_check_bounds(&c, &b);
    b = open;
    b.seq_min = 101;
    b.seq_max = 125;
    assert_int_equal(cold_files(&c, &b), 1);
    cold_check_bounds(&c, &b);
    b.id_min = 5;
    b.id_max = 4;
    assert_int_equal(cold_files(&c, &b), 0);
    cold_close(&c);
}

/* Random bounds over a store in a mixed state: with few changes since the last file, which an index finds,
 * and with many, which take a pass over everything hot. */
static void random_bounds(size_t per_round, size_t changes)
{
    struct cold c;
    unsigned seed = 12345;
    cold_open(&c, "user_alice", 2);
    for (int round = 0; round < 3; round++) {
        cold_insert(&c, per_round, 7);
        for (size_t i = 0; i < changes; i++) {
            size_t at = (size_t)rand_r(&seed) % c.nrows;
            if (c.rows[at].live && i % 3 != 0)
                cold_update(&c, at, "random change");
            else if (c.rows[at].live)
                cold_delete(&c, at);
        }
        if (round < 2)
            cold_consolidate(&c);
    }
    for (int i = 0; i < 60; i++) {
        struct scan_bounds b = SCAN_BOUNDS_OPEN;
        size_t p = (size_t)rand_r(&seed) % c.nrows, q = (size_t)rand_r(&seed) % c.nrows;
        size_t lo = p < q ? p : q, hi = p < q ? q : p;
        if (i % 2 == 0) {
            b.id_min = c.rows[lo].id;
            b.id_max = c.rows[i % 4 == 0 ? lo + (hi - lo) / 20 : hi].id;
        }
        if (i % 3 == 0) {
            b.ts_min = c.rows[lo].ts;
            b.ts_max = c.rows[hi].ts;
        }
        if (i % 5 == 0) {
            b.seq_min = rand_r(&seed) % (int)(3 * per_round);
            b.seq_max = b.seq_min + rand_r(&seed) % 100;
        }
        if (i % 7 == 0)
            b.conversation_id = STR("c3");
        cold_check_bounds(&c, &b);
    }
    cold_check(&c);
    cold_close(&c);
}

static void bounds_random(void **state)
{
    (void)state;
    random_bounds(60, 12);
    random_bounds(700, 30);
}

/* Small files are merged, their number grows with the logarithm of the rows; ids out of order are sorted in.
 */
static void merging(void **state)
{
    (void)state;
    struct cold c;
    size_t most = 0;
    cold_open(&c, "user_alice", 2);
    for (int i = 0; i < 14; i++) {
        cold_insert(&c, 30, 3);
        cold_add(&c, 1000 - i, "old", "a supplied id");
        cold_consolidate(&c);
        struct manifest *m = cold_manifest(&c);
        most = m->nfiles > most ? m->nfiles : most;
        manifest_unref(m);
        cold_check(&c);
    }
    assert_in_range(most, 2, 4);
    /* Nothing but the named files is left in the folder. */
    struct manifest *m = cold_manifest(&c);
    char path[256];
    for (size_t i = 0; i < m->ngarbage; i++) {
        snprintf(path, sizeof path, "user_alice/%.*s", STR_FMT(m->garbage[i]));
        assert_false(cold_exists(&c, path));
    }
    for (size_t i = 0; i < m->nfiles; i++) {
        snprintf(path, sizeof path, "user_alice/%.*s", STR_FMT(m->files[i].name));
        assert_true(cold_exists(&c, path));
    }
    manifest_unref(m);
    cold_close(&c);
}

/* A file that was replaced stays while a snapshot may read it. */
static void pinned(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec = {0};
    struct snapshot *snap;
    char path[256];
    cold_open(&c, "user_alice", 0);
    cold_insert(&c, 20, 2);
    cold_consolidate(&c);
    OK(snapshot_open(c.f.store, STR("user_alice"), &snap, &ec));
    snprintf(path, sizeof path, "user_alice/%.*s", STR_FMT(snap->manifest->files[0].name));
    cold_delete(&c, 0);
    c.f.store->pins.purge_wait_ms = 1;
    assert_int_equal(store_consolidate(c.f.store, STR("user_alice"), &ec), ERR_UNAVAILABLE);
    assert_non_null(strstr(ec.message, "still being read")); /* consolidated, but not purged */
    cold_check(&c);
    assert_true(cold_exists(&c, path));
    struct analytic_input input;
    struct scan_bounds all = SCAN_BOUNDS_OPEN;
    OK(snapshot_input(snap, &schema_messages, &all, false, &input, &ec));
    struct analytic_request rq = {.user_id = STR("user_alice"),
        .sql = STR("SELECT count(*) FROM scan_0"),
        .ninputs = 1,
        .inputs = &input,
        .output_fd = -1,
        .timeout_ms = 60000};
    struct rowset rs;
    rowset_init(&rs, 1 << 20);
    OK(analytic_run(c.f.cfg.analytic, &rq, &rs, &ec));
    assert_int_equal(rowset_row(&rs, 0)[0].i, 20);
    rowset_release(&rs);
    snapshot_close(snap);
    assert_false(cold_exists(&c, path));
    cold_consolidate(&c);
    cold_close(&c);
}

/* Deletions and rows of a range of _seq, as a replay asks for them. */
static void with_tombstones(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec = {0};
    struct snapshot *snap;
    struct analytic_input input;
    struct rowset rs;
    cold_open(&c, "user_alice", 0);
    cold_insert(&c, 10, 1);
    cold_consolidate(&c);
    cold_delete(&c, 2);            /* 11 */
    cold_update(&c, 3, "changed"); /* 12 */
    cold_insert(&c, 2, 1);         /* 13, 14 */
    cold_delete(&c, 10);           /* 15 */
    for (int round = 0; round < 2; round++) {
        struct scan_bounds b = SCAN_BOUNDS_OPEN;
        b.seq_min = 9;
        b.seq_max = 15;
        OK(snapshot_open(c.f.store, STR("user_alice"), &snap, &ec));
        OK(snapshot_input(snap, &schema_messages, &b, true, &input, &ec));
        struct analytic_request rq = {.user_id = STR("user_alice"),
            .sql =
                STR("SELECT string_agg(_seq || CASE WHEN _deleted THEN 'd' ELSE '' END, ',' ORDER BY _seq) "
                    "FROM scan_0 WHERE _seq BETWEEN 9 AND 15"),
            .ninputs = 1,
            .inputs = &input,
            .output_fd = -1,
            .timeout_ms = 60000};
        rowset_init(&rs, 1 << 20);
        OK(analytic_run(c.f.cfg.analytic, &rq, &rs, &ec));
        assert_string_equal(arena_str(&rs.arena, rowset_row(&rs, 0)[0].s).ptr, "9,10,11d,12,14,15d");
        rowset_release(&rs);
        snapshot_close(snap);
        cold_consolidate(&c); /* the second round finds the same after it */
    }
    cold_close(&c);
}

static enum err insert_large(struct txn *txn, void *arg, struct errctx *ec)
{
    struct conversation conv;
    struct value v[MSG_NCOLUMNS] = {0};
    uint64_t user_no;
    enum err e = txn_user(txn, STR("user_alice"), true, &user_no, ec);
    if (e == ERR_OK)
        e = txn_conversation(txn, user_no, STR("large"), &conv, ec);
    if (e != ERR_OK)
        return e;
    v[MSG_ID] = value_i64(txn_next_msg_id(txn));
    v[MSG_CONVERSATION_ID] = value_text(STR("large"));
    v[MSG_FROM] = value_text(STR("user_alice"));
    v[MSG_CONTENT] = value_text(*(struct str *)arg);
    return txn_message_insert(txn, &conv, v, ec);
}

/* More than one consolidation may hold: several steps, each up to a watermark of its own. */
static void large_rows(void **state)
{
    (void)state;
    enum { ROWS = 75, BYTES = 1 << 20 };
    struct cold c;
    struct errctx ec = {0};
    struct store_stats st;
    struct snapshot *snap;
    struct analytic_input input;
    struct rowset rs;
    struct scan_bounds all = SCAN_BOUNDS_OPEN;
    unsigned seed = 7;
    char *text = malloc(BYTES);
    assert_non_null(text);
    for (size_t i = 0; i < BYTES; i++)
        text[i] = (char)('a' + rand_r(&seed) % 26);
    struct str content = str_n(text, BYTES);
    cold_open(&c, "user_alice", 2);
    for (int i = 0; i < ROWS; i++)
        OK(commit(c.f.store, insert_large, &content, DURABILITY_ASYNC, &ec));
    cold_consolidate(&c);
    store_stats(c.f.store, &st);
    assert_int_equal(st.consolidations, 2);
    assert_int_equal(st.rows_cold, ROWS);
    assert_int_equal(st.rows_hot, 2);
    OK(snapshot_open(c.f.store, STR("user_alice"), &snap, &ec));
    OK(snapshot_input(snap, &schema_messages, &all, false, &input, &ec));
    struct analytic_request rq = {.user_id = STR("user_alice"),
        .sql = STR("SELECT count(*), count(DISTINCT msg_id), sum(length(content))::BIGINT, "
                   "count(DISTINCT md5(content)) FROM scan_0"),
        .ninputs = 1,
        .inputs = &input,
        .output_fd = -1,
        .timeout_ms = 60000};
    rowset_init(&rs, 1 << 20);
    OK(analytic_run(c.f.cfg.analytic, &rq, &rs, &ec));
    assert_int_equal(rowset_row(&rs, 0)[0].i, ROWS);
    assert_int_equal(rowset_row(&rs, 0)[1].i, ROWS);
    assert_int_equal(rowset_row(&rs, 0)[2].i, (int64_t)ROWS * BYTES);
    assert_int_equal(rowset_row(&rs, 0)[3].i, 1);
    rowset_release(&rs);
    snapshot_close(snap);
    cold_close(&c);
    free(text);
}

static void other_tables(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec = {0};
    struct snapshot *snap;
    struct analytic_input input;
    struct rowset rs;
    struct scan_bounds all = SCAN_BOUNDS_OPEN;
    cold_open(&c, "user_alice", 0);
    cold_insert(&c, 9, 3);
    cold_consolidate(&c);
    OK(snapshot_open(c.f.store, STR("user_alice"), &snap, &ec));
    OK(snapshot_input(snap, &schema_conversations, &all, false, &input, &ec));
    struct analytic_request rq = {.user_id = STR("user_alice"),
        .sql = STR("SELECT count(*), sum(total_messages) FROM scan_0"),
        .ninputs = 1,
        .inputs = &input,
        .output_fd = -1,
        .timeout_ms = 60000};
    rowset_init(&rs, 1 << 20);
    OK(analytic_run(c.f.cfg.analytic, &rq, &rs, &ec));
    assert_int_equal(rowset_row(&rs, 0)[0].i, 3);
    rowset_release(&rs);
    snapshot_close(snap);
    cold_close(&c);
}

/* A statement that names its table often must not copy the hot rows without bound. */
static void copies_are_bounded(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec;
    struct snapshot *snap;
    struct analytic_input input;
    struct scan_bounds all = SCAN_BOUNDS_OPEN;
    cold_open(&c, "user_alice", 0);
    cold_insert(&c, 9, 3);
    OK(snapshot_open(c.f.store, STR("user_alice"), &snap, &ec));
    OK(snapshot_input(snap, &schema_messages, &all, false, &input, &ec));
    uint64_t one = input.rows_bytes;
    assert_true(one > 0);
    snap->input_bytes = ROW_SINK_BYTES_MAX - 2 * one; /* as if so much had been copied */
    OK(snapshot_input(snap, &schema_messages, &all, false, &input, &ec));
    OK(snapshot_input(snap, &schema_messages, &all, false, &input, &ec));
    assert_int_equal(snapshot_input(snap, &schema_messages, &all, false, &input, &ec), ERR_TOO_LARGE);
    snapshot_close(snap);
    cold_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(hot_cold_mixed), cmocka_unit_test(nothing_fresh),
        cmocka_unit_test(all_deleted), cmocka_unit_test(tail_and_floors), cmocka_unit_test(tail_of_active),
        cmocka_unit_test(overlays), cmocka_unit_test(bounds_prune), cmocka_unit_test(bounds_random),
        cmocka_unit_test(merging), cmocka_unit_test(pinned), cmocka_unit_test(with_tombstones),
        cmocka_unit_test(large_rows), cmocka_unit_test(other_tables), cmocka_unit_test(copies_are_bounded)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
