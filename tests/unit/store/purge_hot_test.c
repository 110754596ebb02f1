/* A purge answers when the last file that held deleted bytes is off the disk, not before. */
#include "cold_fixture.h"
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
/* cmocka wants the three before */
#include <cmocka.h>

static int files(const struct cold *c, const char *suffix, char *ret_last, size_t cap)
{
    int n = 0;
    DIR *d = opendir(c->f.store->hot_dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (!str_ends_with(str_c(e->d_name), str_c(suffix)))
            continue;
        n++;
        snprintf(ret_last, cap, ".kalamdb/hot/%s", e->d_name);
    }
    closedir(d);
    return n;
}

/* The oldest: the other one has the mark. */
static void first_table(const struct cold *c, char *ret, size_t cap)
{
    char name[64];
    assert_int_equal(files(c, ".sst", name, sizeof name), 2);
    uint64_t least = UINT64_MAX;
    DIR *d = opendir(c->f.store->hot_dir);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (str_ends_with(str_c(e->d_name), STR(".sst")) && strtoull(e->d_name, NULL, 10) < least)
            least = strtoull(e->d_name, NULL, 10);
    closedir(d);
    snprintf(ret, cap, ".kalamdb/hot/%06llu.sst", (unsigned long long)least);
}

/* A row in a table file (compressed, so that a search for its text would not tell) and its deletion in a log.
 */
struct planted {
    struct cold c;
    char table[64], log[64];
};

static bool table_there(struct planted *p)
{
    return cold_exists(&p->c, p->table);
}

static void open_planted(struct planted *p)
{
    struct errctx ec = {0};
    struct cold *c = &p->c;
    cold_open(c, "user_alice", 8);
    cold_insert(c, 20, 2);
    size_t planted = cold_add(c, 0, "c0", "planted-secret");
    assert_true(c->f.encrypted || cold_grep(c, "planted-secret"));
    OK(purge_run(c->f.store, &ec));
    assert_false(cold_grep(c, "planted-secret")); /* in no log */
    first_table(c, p->table, sizeof p->table);
    cold_delete(c, planted);
    assert_int_equal(files(c, ".log", p->log, sizeof p->log), 1);
}

static void check_purged(struct planted *p)
{
    assert_false(table_there(p));
    assert_false(cold_exists(&p->c, p->log));
    cold_check(&p->c);
    cold_close(&p->c);
}

/* An iterator that no snapshot of the store knows of. */
struct reader_on {
    struct store *store;
    rocksdb_iterator_t *it;
    int called;
};

static void read_on(struct reader_on *r, struct store *s)
{
    *r = (struct reader_on){.store = s, .it = rocksdb_create_iterator(s->db, s->read_latest)};
    rocksdb_iter_seek_to_first(r->it);
    assert_true(rocksdb_iter_valid(r->it));
}

static void stop_reading(void *arg)
{
    struct reader_on *r = arg;
    r->called++;
    if (r->it != NULL)
        rocksdb_iter_destroy(r->it);
    r->it = NULL;
}

static void iterator_keeps_files(void **state)
{
    (void)state;
    struct planted p;
    struct errctx ec = {0};
    struct reader_on r;
    open_planted(&p);
    read_on(&r, p.c.f.store);
    p.c.f.store->pins.purge_wait_ms = 500;
    assert_int_equal(purge_run(p.c.f.store, &ec), ERR_UNAVAILABLE);
    assert_non_null(strstr(ec.message, "still being read"));
    assert_true(table_there(&p)); /* so the refusal was right */
    stop_reading(&r);
    OK(purge_run(p.c.f.store, &ec));
    check_purged(&p);
}

/* It ends while the purge waits. */
static void iterator_ends(void **state)
{
    (void)state;
    struct planted p;
    struct errctx ec = {0};
    struct reader_on r;
    open_planted(&p);
    read_on(&r, p.c.f.store);
    p.c.f.store->purge_hook = (struct purge_hook){stop_reading, &r};
    OK(purge_run(p.c.f.store, &ec));
    assert_int_equal(r.called, 1);
    check_purged(&p);
}

static void snapshot_keeps_bytes(void **state)
{
    (void)state;
    struct planted p;
    struct errctx ec = {0};
    struct snapshot *snap, *later;
    open_planted(&p);
    OK(snapshot_open(p.c.f.store, STR("user_alice"), &snap, &ec));
    p.c.f.store->pins.purge_wait_ms = 150;
    assert_int_equal(purge_run(p.c.f.store, &ec), ERR_UNAVAILABLE);
    assert_non_null(strstr(ec.message, "still being read"));
    snapshot_close(snap);
    OK(snapshot_open(p.c.f.store, STR("user_alice"), &later, &ec));
    snapshot_close(later);
    OK(purge_run(p.c.f.store, &ec));
    check_purged(&p);
}

/* As while a backup copies table files: RocksDB removes nothing. */
static void backup_keeps_files(void **state)
{
    (void)state;
    struct planted p;
    struct errctx ec = {0};
    char *message = NULL;
    open_planted(&p);
    rocksdb_disable_file_deletions(p.c.f.store->db, &message);
    assert_null(message);
    p.c.f.store->pins.purge_wait_ms = 500;
    assert_int_equal(purge_run(p.c.f.store, &ec), ERR_UNAVAILABLE);
    assert_true(table_there(&p));
    rocksdb_enable_file_deletions(p.c.f.store->db, 0, &message);
    assert_null(message);
    OK(purge_run(p.c.f.store, &ec));
    check_purged(&p);
}

/* Nothing was written since the last flush: the log goes all the same. */
static void nothing_in_memory(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec = {0};
    char before[64], after[64];
    cold_open(&c, "user_alice", 8);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(files(&c, ".log", before, sizeof before), 1);
        OK(purge_run(c.f.store, &ec));
        assert_int_equal(files(&c, ".log", after, sizeof after), 1);
        assert_string_not_equal(before, after);
    }
    cold_insert(&c, 3, 1);
    cold_reopen(&c); /* what the log had is in a table file now */
    OK(purge_run(c.f.store, &ec));
    cold_check(&c);
    cold_close(&c);
}

/* RocksDB's own log and list of files show no keys. */
static bool list_shows(const struct cold *c, const char *text)
{
    bool found = false;
    DIR *d = opendir(c->f.store->hot_dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (strncmp(e->d_name, "LOG", 3) != 0 && strncmp(e->d_name, "MANIFEST", 8) != 0)
            continue;
        char path[512];
        struct buf b = BUF_INIT(0);
        struct errctx ec = {0};
        snprintf(path, sizeof path, "%s/%s", c->f.store->hot_dir, e->d_name);
        OK(os_read_file(path, &b, &ec));
        if (b.len > 0 && memmem(b.ptr, b.len, text, strlen(text)) != NULL) {
            print_message("%s\n", path);
            found = true;
        }
        buf_release(&b);
    }
    closedir(d);
    return found;
}

static enum err apply_put(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct key k = key_prefix(UINT64_MAX - 1, SPACE_QUOTA);
    (void)op, (void)ec;
    memcpy(k.bytes + k.len, "keyword", 7);
    k.len += 7;
    txn_put(txn, &k, STR("value"));
    return ERR_OK;
}

static enum err apply_delete(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct key k = key_prefix(UINT64_MAX - 1, SPACE_QUOTA);
    (void)op, (void)ec;
    memcpy(k.bytes + k.len, "keyword", 7);
    k.len += 7;
    txn_delete(txn, &k);
    return ERR_OK;
}

static void no_keys_in_lists(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec = {0};
    struct commit_op put = {.apply = apply_put}, del = {.apply = apply_delete};
    cold_open(&c, "user_alice", 8);
    OK(store_commit_wait(c.f.store, &put, &ec)); /* the last key of all, so the bound of a file */
    OK(purge_run(c.f.store, &ec));
    assert_true(list_shows(&c, "keyword")); /* where the list of files has it */
    OK(store_commit_wait(c.f.store, &del, &ec));
    OK(purge_run(c.f.store, &ec));
    assert_false(list_shows(&c, "keyword"));
    cold_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(iterator_keeps_files),
        cmocka_unit_test(iterator_ends), cmocka_unit_test(snapshot_keeps_bytes),
        cmocka_unit_test(backup_keeps_files), cmocka_unit_test(nothing_in_memory),
        cmocka_unit_test(no_keys_in_lists)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
