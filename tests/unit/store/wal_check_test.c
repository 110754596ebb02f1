/* The check of RocksDB's log against what a power loss alone can leave, with RocksDB's own files. */
#include "store/wal_check.h"
#include <dirent.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
/* cmocka wants the three before */
#include <cmocka.h>

static char dir[64], kept[96];
static rocksdb_options_t *options;
static rocksdb_t *db;

static void good(char *message)
{
    if (message != NULL)
        fail_msg("%s", message);
}

static void open_db(void)
{
    char *message = NULL;
    db = rocksdb_open(options, dir, &message);
    good(message);
}

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/wal_check.XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(kept, sizeof kept, "%s.kept", dir);
    options = rocksdb_options_create();
    rocksdb_options_set_create_if_missing(options, 1);
    rocksdb_options_set_max_manifest_file_size(options, 1); /* as src/store/open.c */
    rocksdb_options_set_disable_auto_compactions(options, 1);
    rocksdb_options_set_info_log_level(options, 4);
    open_db();
    return 0;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

static int teardown(void **state)
{
    (void)state;
    if (db != NULL)
        rocksdb_close(db);
    rocksdb_options_destroy(options);
    unlink(kept);
    return nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* A commit: with fsync when `sync`; it attests that all before it was safe up to `synced`. */
static void commit(const char *key, size_t nkey, bool sync, uint64_t synced)
{
    char *message = NULL;
    rocksdb_writebatch_t *batch = rocksdb_writebatch_create();
    rocksdb_writeoptions_t *w = rocksdb_writeoptions_create();
    rocksdb_writeoptions_set_sync(w, sync);
    wal_attest(batch, synced);
    rocksdb_writebatch_put(batch, key, nkey, "value", 5);
    rocksdb_write(db, w, batch, &message);
    good(message);
    rocksdb_writeoptions_destroy(w);
    rocksdb_writebatch_destroy(batch);
}

static void flush(void)
{
    char *message = NULL;
    rocksdb_flushoptions_t *o = rocksdb_flushoptions_create();
    rocksdb_flush(db, o, &message);
    good(message);
    rocksdb_flushoptions_destroy(o);
}

/* The newest log. */
static void log_path(char ret[400])
{
    unsigned long newest = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        size_t n = strlen(e->d_name);
        unsigned long number = strtoul(e->d_name, NULL, 10);
        if (n > 4 && strcmp(e->d_name + n - 4, ".log") == 0 && number > newest) {
            newest = number;
            snprintf(ret, 400, "%s/%s", dir, e->d_name);
        }
    }
    closedir(d);
    assert_true(newest > 0);
}

static void tear(const char *path, long cut)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size - cut), 0);
}

/* Every file of the database is named in its list of files with its first and last key. */
static void make_long_manifest(void)
{
    static char key[8000];
    memset(key, 'k', sizeof key);
    for (int i = 0; i < 6; i++) {
        key[0] = (char)('a' + i);
        commit(key, sizeof key, true, 0);
        key[sizeof key - 1] = 'z';
        commit(key, sizeof key, true, 0);
        key[sizeof key - 1] = 'k';
        flush();
    }
}

static void close_db(void)
{
    rocksdb_close(db);
    db = NULL;
}

/* A log that is not needed any more comes back, for its removal was not safe, and its last group, which
 * nobody ever had to make safe, is torn: what it held is in a table file. */
static void torn_and_flushed(void)
{
    char old[400], new[400];
    struct errctx ec;
    commit("one", 3, true, 0);
    uint64_t safe = rocksdb_get_latest_sequence_number(db);
    commit("two", 3, false, safe); /* async durability */
    commit("three", 5, false, safe);
    log_path(old);
    assert_int_equal(link(old, kept), 0);
    flush();
    assert_int_not_equal(access(old, F_OK), 0);
    commit("four", 4, true, safe);
    commit("five", 4, true, rocksdb_get_latest_sequence_number(db));
    log_path(new);
    assert_string_not_equal(old, new);
    close_db();
    assert_int_equal(link(kept, old), 0);
    tear(old, 5);
    enum err e = wal_check(dir, &ec);
    if (e != ERR_OK)
        fail_msg("%s", ec.message);
    open_db();
}

static void test_flushed_log_comes_back(void **state)
{
    (void)state;
    torn_and_flushed();
}

static void test_flushed_log_comes_back_long_manifest(void **state)
{
    (void)state;
    make_long_manifest();
    torn_and_flushed();
}

/* The last group of the only log, torn; and groups of async writes before it that are missing with it. */
static void test_torn_end(void **state)
{
    (void)state;
    char path[400];
    struct errctx ec;
    commit("one", 3, true, 0);
    uint64_t safe = rocksdb_get_latest_sequence_number(db);
    commit("two", 3, false, safe);
    commit("three", 5, false, safe);
    log_path(path);
    close_db();
    tear(path, 5);
    assert_int_equal(wal_check(dir, &ec), ERR_OK);
}

/* What an fsync had made safe is damaged, under a short list of files and a long one. */
static void rotten(void)
{
    char path[400];
    struct errctx ec;
    struct stat st;
    log_path(path);
    assert_int_equal(stat(path, &st), 0);
    commit("one", 3, true, 0);
    commit("two", 3, true, rocksdb_get_latest_sequence_number(db));
    close_db();
    FILE *f = fopen(path, "r+");
    assert_int_equal(fseek(f, st.st_size + 10, SEEK_SET), 0);
    int c = fgetc(f);
    assert_int_equal(fseek(f, st.st_size + 10, SEEK_SET), 0);
    fputc(c ^ 1, f);
    fclose(f);
    assert_int_equal(wal_check(dir, &ec), ERR_CORRUPT);
}

static void test_rot(void **state)
{
    (void)state;
    rotten();
}

static void test_rot_long_manifest(void **state)
{
    (void)state;
    make_long_manifest();
    rotten();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_flushed_log_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flushed_log_comes_back_long_manifest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_torn_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rot, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rot_long_manifest, setup, teardown),
    };
    return cmocka_run_group_tests_name("store/wal_check", tests, NULL, NULL);
}
