/* Files of two users on one disk, sealed or plain (KALAMDB_TEST_ENCRYPTION): what is not what was written is
 * refused, with its user and name, and touches nobody else; what is deleted is not kept in memory. */
#include "cold_fixture.h"
#include "store/cold_input.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
/* cmocka wants the three before */
#include <cmocka.h>

struct pair {
    struct cold alice, bob; /* of one store, which is alice's */
};

static void pair_open(struct pair *p)
{
    cold_open(&p->alice, "user_alice", 0);
    p->bob = p->alice;
    p->bob.user = "user_bob";
    p->bob.rows = NULL;
    p->bob.nrows = p->bob.cap = 0;
    cold_insert(&p->alice, 30, 2);
    cold_insert(&p->bob, 40, 2);
    cold_add(&p->alice, 0, "c0", "planted-for-the-files-of-alice");
    cold_consolidate(&p->alice);
    cold_consolidate(&p->bob);
}

static void pair_close(struct pair *p)
{
    free(p->bob.rows);
    cold_close(&p->alice);
}

static void path_of(struct cold *c, char path[512], char name[MANIFEST_NAME_MAX + 1])
{
    struct manifest *m = cold_manifest(c);
    assert_int_equal(m->nfiles, 1);
    snprintf(name, MANIFEST_NAME_MAX + 1, "%.*s", STR_FMT(m->files[0].name));
    snprintf(path, 512, "%s/%s/%s", c->f.dir, c->user, name);
    manifest_unref(m);
}

static enum err read_input(struct cold *c, struct errctx *ec, ino_t *ret_inode)
{
    struct snapshot *snap;
    struct analytic_input input;
    struct scan_bounds all = SCAN_BOUNDS_OPEN;
    errctx_clear(ec);
    enum err err = snapshot_open(c->f.store, str_c(c->user), &snap, ec);
    assert_int_equal(err, ERR_OK);
    err = snapshot_input(snap, &schema_messages, &all, false, &input, ec);
    if (err == ERR_OK && ret_inode != NULL) {
        struct stat st;
        assert_int_equal(fstat(input.file_fds[0], &st), 0);
        *ret_inode = st.st_ino;
    }
    snapshot_close(snap);
    return err;
}

/* Bytes of a file changed, its time moved on: a test is faster than the ticks of a file system's clock. */
static void put_bytes(const char *path, off_t at, const char *bytes, size_t n)
{
    static time_t later = 2000000000;
    const struct timespec times[2] = {{.tv_sec = later}, {.tv_sec = later}};
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, at), n);
    assert_int_equal(futimens(fd, times), 0);
    later++;
    close(fd);
}

static char *whole(const char *path, size_t *ret_n)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    char *bytes = malloc((size_t)st.st_size);
    assert_int_equal(os_read_all(fd, bytes, (size_t)st.st_size), st.st_size);
    close(fd);
    *ret_n = (size_t)st.st_size;
    return bytes;
}

static void on_disk(void **state)
{
    (void)state;
    struct pair p;
    char path[512], name[MANIFEST_NAME_MAX + 1];
    size_t n;
    pair_open(&p);
    path_of(&p.alice, path, name);
    char *bytes = whole(path, &n);
    bool sealed = p.alice.f.encrypted;
    assert_int_equal(str_ends_with(str_c(name), STR(".parquet.enc")), sealed);
    assert_memory_equal(bytes, sealed ? "KDBS" : "PAR1", 4);
    /* Column names stand in every footer as they are. */
    assert_int_equal(memmem(bytes, n, "conversation_id", 15) == NULL, sealed);
    assert_int_equal(memmem(bytes, n, "planted-for-the", 15) == NULL, sealed);
    free(bytes);
    /* Each writing has a key of its own, also of the same rows. */
    struct manifest *before = cold_manifest(&p.alice), *others = cold_manifest(&p.bob);
    cold_update(&p.alice, 0, "changed");
    cold_consolidate(&p.alice);
    struct manifest *after = cold_manifest(&p.alice);
    bool same = memcmp(before->files[0].key, after->files[0].key, SEALED_KEY_BYTES) == 0 ||
                memcmp(before->files[0].key, others->files[0].key, SEALED_KEY_BYTES) == 0;
    assert_int_equal(same, !sealed);
    manifest_unref(before);
    manifest_unref(others);
    manifest_unref(after);
    cold_check(&p.alice);
    cold_check(&p.bob);
    pair_close(&p);
}

static void flipped_bits(void **state)
{
    (void)state;
    struct pair p;
    struct errctx ec;
    char path[512], name[MANIFEST_NAME_MAX + 1];
    size_t n;
    pair_open(&p);
    path_of(&p.alice, path, name);
    char *bytes = whole(path, &n);
    OK(read_input(&p.alice, &ec, NULL)); /* in memory, and still: */
    for (size_t at = 0; at < n; at += at < 64 || at + 64 > n ? 1 : 61) {
        char byte = (char)(bytes[at] ^ 1 << at % 8);
        put_bytes(path, (off_t)at, &byte, 1);
        if (read_input(&p.alice, &ec, NULL) != ERR_CORRUPT)
            fail_msg("byte %zu of %zu changed and nobody noticed", at, n);
        if (strstr(ec.internal, "user_alice") == NULL || strstr(ec.internal, name) == NULL)
            fail_msg("\"%s\" names neither user nor file", ec.internal);
        assert_null(strstr(ec.message, "user_alice"));
        put_bytes(path, (off_t)at, &bytes[at], 1);
    }
    OK(read_input(&p.bob, &ec, NULL));
    cold_check(&p.bob);
    cold_check(&p.alice);
    free(bytes);
    pair_close(&p);
}

/* Damage stops what needs the file, a merge of it included, and nothing else. */
static void damage_is_local(void **state)
{
    (void)state;
    struct pair p;
    struct errctx ec;
    char path[512], name[MANIFEST_NAME_MAX + 1];
    size_t n;
    pair_open(&p);
    path_of(&p.alice, path, name);
    char *bytes = whole(path, &n), byte = (char)(bytes[n / 2] ^ 4);
    put_bytes(path, (off_t)(n / 2), &byte, 1);
    cold_insert(&p.alice, 20, 2);
    cold_insert(&p.bob, 20, 2);
    assert_int_equal(store_consolidate(p.alice.f.store, STR("user_alice"), &ec), ERR_CORRUPT);
    cold_consolidate(&p.bob);
    cold_check(&p.bob);
    struct manifest *m = cold_manifest(&p.alice);
    assert_int_equal(m->nfiles, 1);
    assert_true(str_eq(m->files[0].name, str_c(name))); /* nothing was thrown away */
    manifest_unref(m);
    put_bytes(path, (off_t)(n / 2), &bytes[n / 2], 1);
    cold_consolidate(&p.alice);
    cold_check(&p.alice);
    free(bytes);
    pair_close(&p);
}

static void one_in_place_of_another(void **state)
{
    (void)state;
    struct pair p;
    struct errctx ec;
    char alice[512], bob[512], kept[520], name[MANIFEST_NAME_MAX + 1];
    pair_open(&p);
    path_of(&p.alice, alice, name);
    path_of(&p.bob, bob, name);
    snprintf(kept, sizeof kept, "%s.kept", bob);
    assert_int_equal(rename(bob, kept), 0);
    assert_int_equal(link(alice, bob), 0);
    assert_int_equal(read_input(&p.bob, &ec, NULL), ERR_CORRUPT);
    assert_non_null(strstr(ec.internal, "user_bob"));
    cold_check(&p.alice);
    assert_int_equal(rename(kept, bob), 0);
    cold_check(&p.bob);
    pair_close(&p);
}

static void kept_as_long_as_the_file(void **state)
{
    (void)state;
    struct pair p;
    struct errctx ec;
    struct cold_cache_stats stats;
    ino_t first = 0, second = 1;
    pair_open(&p);
    OK(read_input(&p.alice, &ec, &first));
    OK(read_input(&p.alice, &ec, &second));
    assert_true(first == second); /* the worker tells files by this */
    OK(read_input(&p.bob, &ec, NULL));
    cold_cache_stats(p.alice.f.store->cold_cache, &stats);
    assert_int_equal(stats.files, 2);
    cold_delete(&p.alice, 30); /* what was planted */
    cold_consolidate(&p.alice);
    cold_cache_stats(p.alice.f.store->cold_cache, &stats);
    assert_int_equal(stats.files, 1); /* bob's */
    cold_check(&p.alice);
    cold_cache_stats(p.alice.f.store->cold_cache, &stats);
    assert_int_equal(stats.files, 2);
    pair_close(&p);
}

static void a_statement_reads_so_much(void **state)
{
    (void)state;
    struct pair p;
    struct errctx ec;
    pair_open(&p);
    struct manifest *m = cold_manifest(&p.alice);
    p.alice.f.store->cold_bytes_max = m->files[0].bytes;
    manifest_unref(m);
    OK(read_input(&p.alice, &ec, NULL));
    p.alice.f.store->cold_bytes_max--;
    assert_int_equal(read_input(&p.alice, &ec, NULL), ERR_TOO_LARGE);
    assert_string_not_equal(ec.hint, "");
    pair_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(on_disk), cmocka_unit_test(flipped_bits),
        cmocka_unit_test(damage_is_local), cmocka_unit_test(one_in_place_of_another),
        cmocka_unit_test(kept_as_long_as_the_file), cmocka_unit_test(a_statement_reads_so_much)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
