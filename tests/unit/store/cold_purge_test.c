/* What must go is gone: deleted bytes after a purge, tombstones after their retention, files that nobody
 * names. */
#include "cold_fixture.h"
#include "store/orphans.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
/* cmocka wants the three before */
#include <cmocka.h>

#define DAY_US (INT64_C(24) * 3600 * 1000000)

static void content_purged(void **state)
{
    (void)state;
    struct cold c;
    cold_open(&c, "user_alice", 8);
    cold_insert(&c, 40, 2);
    size_t cold_deleted = cold_add(&c, 0, "c0", "planted-one deleted when cold, x9f");
    size_t cold_updated = cold_add(&c, 0, "c1", "planted-two updated when cold, q7w");
    size_t hot_deleted = cold_add(&c, 0, "c1", "planted-three never cold, k3b");
    cold_insert(&c, 10, 2);
    assert_true(c.f.encrypted || cold_grep(&c, "planted-one"));
    cold_delete(&c, hot_deleted);
    cold_consolidate(&c);
    assert_false(cold_grep(&c, "planted-three"));
    cold_delete(&c, cold_deleted);
    cold_update(&c, cold_updated, "harmless");
    cold_check(&c);
    cold_consolidate(&c);
    cold_check(&c);
    assert_false(cold_grep(&c, "planted-one"));
    assert_false(cold_grep(&c, "planted-two"));
    /* The kept rows are still there as text somewhere, where nothing is sealed: the search itself works. */
    assert_true(c.f.encrypted || cold_grep(&c, "user_alice"));
    cold_close(&c);
}

/* A rewrite of one old file among several, and an update that is superseded in the hot tail. */
static void old_file_purged(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec = {0};
    cold_open(&c, "user_alice", 4);
    size_t planted = cold_add(&c, 0, "c0", "planted-in-the-first-file");
    cold_insert(&c, 300, 2);
    cold_consolidate(&c);
    cold_insert(&c, 30, 2);
    cold_consolidate(&c);
    cold_insert(&c, 3, 2);
    cold_consolidate(&c);
    struct manifest *m = cold_manifest(&c);
    assert_in_range(m->nfiles, 2, 3);
    manifest_unref(m);
    size_t tail = cold_add(&c, 0, "c1", "planted-in-the-tail");
    cold_update(&c, tail, "kept, newest");
    cold_delete(&c, planted);
    OK(store_consolidate(c.f.store, STR_NULL, &ec));
    cold_check(&c);
    assert_false(cold_grep(&c, "planted-in-the"));
    cold_close(&c);
}

static size_t tombstones_seen(struct cold *c)
{
    struct errctx ec = {0};
    struct snapshot *snap;
    struct hot_iter *it;
    struct str row;
    size_t n = 0;
    struct scan_spec spec = {
        .order = SCAN_BY_SEQ, .tombstones = true, .id_max = INT64_MAX, .seq_max = UINT64_MAX};
    OK(snapshot_open(c->f.store, str_c(c->user), &snap, &ec));
    OK(hot_iter_open(snap, &spec, &it, &ec));
    while (hot_iter_next(it, &row, &ec) == ERR_OK) {
        struct row_meta meta;
        OK(row_decode_meta(row, &meta));
        n += (meta.flags & ROW_TOMBSTONE) != 0;
    }
    hot_iter_close(it);
    snapshot_close(snap);
    return n;
}

static void retention(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec = {0};
    struct snapshot *snap;
    cold_open(&c, "user_alice", 0);
    int64_t now = os_realtime_us(os_posix());
    atomic_store(&c.f.realtime_us, now);
    cold_insert(&c, 20, 2);
    cold_consolidate(&c);
    cold_delete(&c, 3); /* hides a cold row */
    cold_insert(&c, 2, 2);
    cold_delete(&c, 20); /* never was cold */
    uint64_t seq = cold_head(&c).seq;
    cold_consolidate(&c); /* sets a mark */
    assert_int_equal(tombstones_seen(&c), 2);
    atomic_store(&c.f.realtime_us, now + 29 * DAY_US);
    cold_delete(&c, 5);
    cold_consolidate(&c);
    assert_int_equal(tombstones_seen(&c), 3);
    OK(snapshot_open(c.f.store, STR("user_alice"), &snap, &ec));
    assert_int_equal(snapshot_forgotten_seq(snap), 0);
    snapshot_close(snap);
    atomic_store(&c.f.realtime_us, now + 31 * DAY_US);
    cold_consolidate(&c);
    assert_int_equal(tombstones_seen(&c), 1); /* the young one */
    OK(snapshot_open(c.f.store, STR("user_alice"), &snap, &ec));
    assert_int_equal(snapshot_forgotten_seq(snap), seq);
    snapshot_close(snap);
    cold_check(&c);
    cold_reopen(&c);
    cold_check(&c);
    assert_int_equal(cold_head(&c).tombstones, 1);
    cold_close(&c);
}

static void put_file(const struct cold *c, const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s/%s", c->f.dir, path);
    FILE *file = fopen(full, "wb");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void orphans(void **state)
{
    (void)state;
    struct cold c;
    char path[512];
    cold_open(&c, "auth0|5f7c", 0);
    cold_insert(&c, 20, 2);
    cold_consolidate(&c);
    put_file(&c, "auth0%7C5f7c/batch-20200101T000000Z-001.parquet", "orphan");
    put_file(&c, "auth0%7C5f7c/batch-20200101T000000Z-002.parquet.tmp", "temporary");
    put_file(&c, "auth0%7C5f7c/notes.txt", "foreign");
    put_file(&c, "auth0%7C5f7c/mine.parquet", "foreign");
    snprintf(path, sizeof path, "%s/stranger", c.f.dir);
    assert_int_equal(mkdir(path, 0700), 0);
    put_file(&c, "stranger/batch-20200101T000000Z-001.parquet", "of no user");
    cold_reopen(&c);
    cold_check(&c);
    assert_false(cold_exists(&c, "auth0%7C5f7c/batch-20200101T000000Z-001.parquet"));
    assert_false(cold_exists(&c, "auth0%7C5f7c/batch-20200101T000000Z-002.parquet.tmp"));
    assert_false(cold_exists(&c, "stranger/batch-20200101T000000Z-001.parquet"));
    assert_true(cold_exists(&c, "auth0%7C5f7c/notes.txt"));
    assert_true(cold_exists(&c, "auth0%7C5f7c/mine.parquet"));
    assert_true(cold_exists(&c, ".kalamdb/orphans/auth0%7C5f7c/batch-20200101T000000Z-001.parquet"));
    assert_true(cold_exists(&c, ".kalamdb/orphans/auth0%7C5f7c/batch-20200101T000000Z-002.parquet.tmp"));
    assert_true(cold_exists(&c, ".kalamdb/orphans/stranger/batch-20200101T000000Z-001.parquet"));
    /* The same name again does not overwrite what was set aside. */
    put_file(&c, "auth0%7C5f7c/batch-20200101T000000Z-001.parquet", "another");
    atomic_store(&c.f.realtime_us, os_realtime_us(os_posix()) + 6 * DAY_US);
    cold_reopen(&c);
    assert_true(cold_grep(&c, "orphan"));
    assert_true(cold_grep(&c, "another"));
    atomic_store(&c.f.realtime_us, os_realtime_us(os_posix()) + 8 * DAY_US);
    cold_reopen(&c);
    assert_false(cold_exists(&c, ".kalamdb/orphans/auth0%7C5f7c/batch-20200101T000000Z-001.parquet"));
    assert_false(cold_exists(&c, ".kalamdb/orphans/stranger"));
    assert_true(cold_grep(&c, "another")); /* two days old */
    cold_consolidate(&c);                  /* an asked-for purge leaves no copy */
    assert_false(cold_grep(&c, "another"));
    cold_check(&c);
    cold_close(&c);
}

/* A long id has a hashed folder name, which the catalog must find again. */
static void long_user_id(void **state)
{
    (void)state;
    struct cold c;
    char id[250];
    memset(id, 'u', sizeof id - 1);
    id[sizeof id - 1] = '\0';
    cold_open(&c, id, 0);
    cold_insert(&c, 20, 2);
    cold_consolidate(&c);
    cold_reopen(&c);
    cold_check(&c);
    struct store_stats st;
    store_stats(c.f.store, &st);
    assert_int_equal(st.rows_cold, 20);
    cold_close(&c);
}

static void empty_catalog(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec = {0};
    char path[512];
    cold_open(&c, "user_alice", 0);
    cold_insert(&c, 20, 2);
    cold_consolidate(&c);
    store_close(c.f.store);
    snprintf(path, sizeof path, "%s/.kalamdb", c.f.dir);
    fixture_remove_dir(path);
    for (int i = 0; i < 2; i++) { /* the second time finds the catalog that the first one made */
        assert_int_equal(store_open(&c.f.cfg, &c.f.store, &ec), ERR_INVALID_REQUEST);
        assert_non_null(strstr(ec.message, "user_alice"));
        assert_non_null(strstr(ec.message, "catalog"));
    }
    snprintf(path, sizeof path, "%s/user_alice", c.f.dir);
    fixture_remove_dir(path);
    OK(store_open(&c.f.cfg, &c.f.store, &ec));
    cold_close(&c);
}

static void names(void **state)
{
    (void)state;
    assert_true(orphan_name_ours(STR("batch-20251013T120000Z-001.parquet")));
    assert_true(orphan_name_ours(STR("batch-20251013T120000Z-001.parquet.tmp")));
    assert_true(orphan_name_ours(STR("batch-20251013T120000Z-001.parquet.enc")));
    assert_true(orphan_name_ours(STR("batch-20251013T120000Z-001.parquet.enc.tmp")));
    assert_false(orphan_name_ours(STR("batch-20251013T120000Z-001.parquet.bak")));
    assert_false(orphan_name_ours(STR("my-batch-1.parquet")));
    assert_true(orphan_name_ours(STR("msg-1.bin")));
    assert_true(orphan_name_ours(STR("media-4503599627370496.jpg")));
    assert_false(orphan_name_ours(STR("msg-.bin")));
    assert_false(orphan_name_ours(STR("msg-1")));
    assert_false(orphan_name_ours(STR("msg-1.")));
    assert_false(orphan_name_ours(STR("msg-1a.bin")));
    assert_false(orphan_name_ours(STR("msg-1.b/n")));
    assert_false(orphan_name_ours(STR("media-1.tar.gz")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(content_purged), cmocka_unit_test(old_file_purged),
        cmocka_unit_test(retention), cmocka_unit_test(orphans), cmocka_unit_test(long_user_id),
        cmocka_unit_test(empty_catalog), cmocka_unit_test(names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
