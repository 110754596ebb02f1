/* Opened Parquet files in memory: what is kept, what is let go, and what is refused. */
#include "store/cold_cache.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
/* cmocka wants the three before */
#include <cmocka.h>

#define CONTEXT STR("messages of user 7")
static struct errctx ec;
static char dir[] = "/tmp/kalamdb-cold-cache-XXXXXX";

struct file {
    char path[128];
    struct cold_file f;
};

static const char *bytes_of(size_t n)
{
    static char p[1 << 20];
    for (size_t i = 0; i < n; i++)
        p[i] = (char)(i * 7 + i / 255);
    return p;
}

static struct file make(const char *name, size_t n, bool sealed)
{
    struct file x = {.f = {.sealed = sealed, .key = "the key of this file"}};
    struct stat st;
    x.f.key[31] = (uint8_t)name[0]; /* no two files have one key */
    snprintf(x.path, sizeof x.path, "%s/%s", dir, name);
    unlink(x.path);
    int fd = open(x.path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    if (sealed) {
        struct sealed_writer *w;
        assert_int_equal(sealed_writer_open(os_posix(), fd, x.f.key, CONTEXT, &w, &ec), ERR_OK);
        assert_int_equal(sealed_writer_append(w, str_n(bytes_of(n), n), &ec), ERR_OK);
        assert_int_equal(sealed_writer_end(w, &ec), ERR_OK);
        sealed_writer_free(w);
    } else {
        assert_int_equal(os_write_all(fd, bytes_of(n), n), 0);
    }
    assert_int_equal(fstat(fd, &st), 0);
    x.f.bytes = (uint64_t)st.st_size;
    assert_int_equal(os_sha256_fd(fd, x.f.bytes, x.f.sha256, &ec), ERR_OK);
    close(fd);
    return x;
}

static enum err try_open(struct cold_cache *c, const struct file *x, int *ret_fd)
{
    struct stat st;
    int fd = open(x->path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    enum err err = cold_cache_open(c, x->path, fd, &st, &x->f, CONTEXT, ret_fd, &ec);
    close(fd);
    return err;
}

/* Its content is right, nobody can change it; gives the inode. */
static ino_t inode(struct cold_cache *c, const struct file *x, size_t n)
{
    struct stat st;
    int fd;
    char *p = malloc(n + 1);
    assert_int_equal(try_open(c, x, &fd), ERR_OK);
    assert_int_equal(pread(fd, p, n + 1, 0), n);
    assert_memory_equal(p, bytes_of(n), n);
    assert_int_equal(pwrite(fd, "x", 1, 0), -1);
    assert_int_equal(ftruncate(fd, 0), -1);
    assert_int_equal(fstat(fd, &st), 0);
    close(fd);
    free(p);
    return st.st_ino;
}

static void kept(void **state)
{
    (void)state;
    for (int sealed = 0; sealed < 2; sealed++) {
        struct cold_cache *c = cold_cache_new(1 << 20);
        struct cold_cache_stats stats;
        struct file a = make("a", 70000, sealed), b = make("b", 10, sealed);
        ino_t first = inode(c, &a, 70000), other = inode(c, &b, 10);
        assert_true(first != other);
        assert_true(inode(c, &a, 70000) == first && inode(c, &b, 10) == other);
        cold_cache_stats(c, &stats);
        assert_true(stats.hits == 2 && stats.misses == 2 && stats.files == 2);
        assert_int_equal(stats.bytes, 70010); /* of content, sealed or not */
        cold_cache_free(c);
    }
}

static void bounded(void **state)
{
    (void)state;
    struct cold_cache *c = cold_cache_new(1000);
    struct cold_cache_stats stats;
    struct file a = make("a", 400, false), b = make("b", 400, false), d = make("d", 400, false),
                big = make("big", 1001, false);
    ino_t of_a = inode(c, &a, 400), of_b = inode(c, &b, 400);
    assert_true(inode(c, &a, 400) == of_a); /* now b is the oldest */
    ino_t of_d = inode(c, &d, 400);
    cold_cache_stats(c, &stats);
    assert_true(stats.files == 2 && stats.bytes == 800);
    assert_true(inode(c, &a, 400) == of_a && inode(c, &d, 400) == of_d);
    /* What a reader holds outlives its going. */
    int held;
    assert_int_equal(try_open(c, &a, &held), ERR_OK);
    (void)of_b;
    inode(c, &b, 400);
    inode(c, &d, 400);
    char p[400];
    assert_int_equal(pread(held, p, 400, 0), 400);
    assert_memory_equal(p, bytes_of(400), 400);
    close(held);
    /* Too large to keep: read each time, and nobody makes room. */
    assert_true(inode(c, &big, 1001) != 0);
    cold_cache_stats(c, &stats);
    uint64_t misses = stats.misses;
    inode(c, &big, 1001);
    cold_cache_stats(c, &stats);
    assert_true(stats.misses == misses + 1 && stats.files == 2 && stats.bytes == 800);
    cold_cache_free(c);
    /* Nothing is kept at all. */
    c = cold_cache_new(0);
    inode(c, &a, 400);
    cold_cache_stats(c, &stats);
    assert_true(stats.files == 0 && stats.bytes == 0);
    cold_cache_free(c);
}

static void many_files(void **state)
{
    (void)state;
    struct cold_cache *c = cold_cache_new(1 << 20);
    struct cold_cache_stats stats;
    for (int i = 0; i < COLD_CACHE_FILES_MAX + 5; i++) {
        char name[32];
        snprintf(name, sizeof name, "many-%d", i);
        struct file x = make(name, 3, false);
        inode(c, &x, 3);
        unlink(x.path);
    }
    cold_cache_stats(c, &stats);
    assert_int_equal(stats.files, COLD_CACHE_FILES_MAX);
    assert_int_equal(stats.bytes, 3 * COLD_CACHE_FILES_MAX);
    cold_cache_free(c);
}

static void dropped(void **state)
{
    (void)state;
    struct cold_cache *c = cold_cache_new(1 << 20);
    struct cold_cache_stats stats;
    struct file a = make("a", 400, true), b = make("b", 400, true);
    inode(c, &a, 400);
    inode(c, &b, 400);
    cold_cache_drop(c, a.path);
    cold_cache_drop(c, "/nothing/of/that/name");
    cold_cache_drop(NULL, a.path);
    cold_cache_stats(c, &stats);
    assert_true(stats.files == 1 && stats.bytes == 400);
    cold_cache_free(c);
}

/* Files' times move in ticks of some milliseconds, faster than which the test is: it moves them itself. */
static void flip(const char *path, off_t at)
{
    static time_t later = 2000000000;
    char byte;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 4;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    const struct timespec times[2] = {{.tv_sec = later}, {.tv_sec = later}};
    assert_int_equal(futimens(fd, times), 0);
    later++;
    close(fd);
}

/* A file that changes on disk is noticed although its good content is still in memory; other files stay. */
static void damaged(void **state)
{
    (void)state;
    for (int sealed = 0; sealed < 2; sealed++) {
        struct cold_cache *c = cold_cache_new(1 << 20);
        struct cold_cache_stats stats;
        struct file a = make("a", 150000, sealed), b = make("b", 150000, sealed);
        ino_t of_b = inode(c, &b, 150000);
        inode(c, &a, 150000);
        int fd = -7;
        flip(a.path, 140000);
        for (int again = 0; again < 2; again++) {
            assert_int_equal(try_open(c, &a, &fd), ERR_CORRUPT);
            assert_int_equal(fd, -7);
        }
        cold_cache_stats(c, &stats);
        assert_int_equal(stats.files, 1);
        assert_true(inode(c, &b, 150000) == of_b);
        flip(a.path, 140000);
        inode(c, &a, 150000);
        /* Another file in its place. */
        assert_int_equal(rename(b.path, a.path), 0);
        enum err want = sealed ? ERR_CORRUPT : ERR_OK; /* the same bytes are the same file */
        assert_int_equal(try_open(c, &a, &fd), want);
        if (want == ERR_OK)
            close(fd);
        cold_cache_free(c);
    }
}

/* Sealed for one user, table and name: under another context it is nobody's. */
static void bound_to_its_context(void **state)
{
    (void)state;
    struct cold_cache *c = cold_cache_new(1 << 20);
    struct file a = make("a", 500, true);
    struct stat st;
    int out = -7, fd = open(a.path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(
        cold_cache_open(c, a.path, fd, &st, &a.f, STR("messages of user 8"), &out, &ec), ERR_CORRUPT);
    a.f.key[0] ^= 1;
    assert_int_equal(cold_cache_open(c, a.path, fd, &st, &a.f, CONTEXT, &out, &ec), ERR_CORRUPT);
    a.f.key[0] ^= 1;
    assert_int_equal(cold_cache_open(c, a.path, fd, &st, &a.f, CONTEXT, &out, &ec), ERR_OK);
    close(out);
    close(fd);
    cold_cache_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(kept), cmocka_unit_test(bounded),
        cmocka_unit_test(many_files), cmocka_unit_test(dropped), cmocka_unit_test(damaged),
        cmocka_unit_test(bound_to_its_context)};
    if (mkdtemp(dir) == NULL)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    static const char *const names[] = {"a", "b", "d", "big"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
    return failed;
}
