/* The ring on a disk that is cut short: every test is a directory as a crash at one point leaves it. Copies
 * are taken by hooks in the os, at each fsync and rename. */
#include "../test.h"
#include "vault/ring.h"
#include "vault/secret.h"
#include "vault/vault.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    char dir[64], copy[96];
    struct os os;
    int at, calls; /* at this call of fsync or rename: fails */
    bool before;   /* the call does nothing; else it is done and then said to have failed */
    bool copying;  /* each call leaves a copy of the directory as it was before: copy.1, copy.2 … */
    int copies;
} t;

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static void remove_dir(const char *dir)
{
    nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void copy_dir(const char *from, const char *to)
{
    char command[256];
    remove_dir(to);
    snprintf(command, sizeof command, "cp -r --sparse=always %s %s", from, to);
    assert_int_equal(system(command), 0);
}

static const char *copy_name(int i)
{
    snprintf(t.copy, sizeof t.copy, "%s.%d", t.dir, i);
    return t.copy;
}

static bool fails(void)
{
    if (t.copying)
        copy_dir(t.dir, copy_name(++t.copies));
    return t.at != 0 && ++t.calls == t.at;
}

static int hook_fsync(void *ctx, int fd)
{
    bool f = fails();
    int r = f && t.before ? 0 : os_posix()->fsync(ctx, fd);
    return f ? -EIO : r;
}

static int hook_rename(void *ctx, const char *from, const char *to)
{
    bool f = fails();
    int r = f && t.before ? 0 : os_posix()->rename(ctx, from, to);
    return f ? -EIO : r;
}

static int setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof t);
    snprintf(t.dir, sizeof t.dir, "/tmp/kalamdb-ring-XXXXXX");
    assert_non_null(mkdtemp(t.dir));
    t.os = *os_posix();
    t.os.fsync = hook_fsync;
    t.os.rename = hook_rename;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 1; i <= t.copies; i++)
        remove_dir(copy_name(i));
    remove_dir(t.dir);
    return 0;
}

static enum err try_open(const char *dir, uint8_t first, bool existing, struct vault **ret, struct errctx *ec)
{
    uint8_t master[VAULT_KEY_BYTES] = {first, 2, 3};
    struct vault_config cfg = {.dir = dir, .master_key = master, .os = &t.os, .existing = existing};
    errctx_clear(ec);
    return vault_open(&cfg, ret, ec);
}

static struct vault *open_at(const char *dir)
{
    struct vault *v = NULL;
    struct errctx ec;
    if (try_open(dir, 1, false, &v, &ec) != ERR_OK)
        fail_msg("vault_open: %s (%s)", ec.message, ec.internal);
    return v;
}

static void make(struct vault *v, uint64_t owner)
{
    struct errctx ec;
    assert_int_equal(vault_key_make(v, owner, &ec), ERR_OK);
}

static void flush(struct vault *v)
{
    struct errctx ec;
    assert_int_equal(vault_flush(v, &ec), ERR_OK);
}

static void seal(struct vault *v, uint64_t owner, struct buf *b)
{
    struct errctx ec;
    buf_clear(b);
    assert_int_equal(vault_seal(v, owner, STR("aad"), STR("plain"), b, &ec), ERR_OK);
}

static enum err opens(struct vault *v, uint64_t owner, const struct buf *sealed)
{
    struct errctx ec;
    struct buf b = BUF_INIT(0);
    enum err e = vault_unseal(v, owner, STR("aad"), buf_view(sealed), &b, &ec);
    assert_true(e != ERR_OK || str_eq(buf_view(&b), STR("plain")));
    buf_release(&b);
    return e;
}

/* ---- opening ---- */

static void test_wrong_master_key(void **state)
{
    (void)state;
    struct vault *v = open_at(t.dir);
    struct errctx ec;
    struct buf b = BUF_INIT(0);
    make(v, 1);
    flush(v);
    seal(v, 1, &b);
    vault_close(v);
    assert_int_equal(try_open(t.dir, 9, true, &v, &ec), ERR_INVALID_REQUEST);
    assert_non_null(strstr(ec.message, "master key does not open"));
    v = open_at(t.dir); /* and did no harm */
    assert_int_equal(opens(v, 1, &b), ERR_OK);
    vault_close(v);
    assert_int_equal(try_open("/tmp/kalamdb-no-such-ring", 1, true, &v, &ec), ERR_NOT_FOUND);
    assert_int_equal(access("/tmp/kalamdb-no-such-ring", F_OK), -1);
    buf_release(&b);
}

static void test_header_lost(void **state)
{
    (void)state;
    char path[128];
    struct errctx ec;
    struct vault *v = open_at(t.dir);
    make(v, 1);
    flush(v);
    vault_close(v);
    snprintf(path, sizeof path, "%s/ring", t.dir);
    assert_int_equal(truncate(path, 20), 0);
    assert_int_equal(try_open(t.dir, 1, false, &v, &ec), ERR_CORRUPT);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(try_open(t.dir, 1, false, &v, &ec), ERR_CORRUPT); /* keys without it: never a new one */
    assert_int_equal(access(path, F_OK), -1);
}

/* Two openings of one directory, and of its copy, are runs of their own: no nonce comes twice under a key. */
static void test_runs(void **state)
{
    (void)state;
    struct buf a = BUF_INIT(0), b = BUF_INIT(0), c = BUF_INIT(0);
    struct vault *v = open_at(t.dir);
    make(v, 1);
    flush(v);
    seal(v, 1, &a);
    vault_close(v);
    t.copies = 1;
    copy_dir(t.dir, copy_name(1));
    v = open_at(t.dir);
    struct vault *clone = open_at(copy_name(1));
    seal(v, 1, &b);
    seal(clone, 1, &c);
    /* The same number of run and the same counter; what they seal with differs: */
    assert_int_equal(b.len, c.len);
    assert_memory_equal(b.ptr, c.ptr, 14);
    assert_memory_not_equal(b.ptr + 14, c.ptr + 14, b.len - 14);
    assert_int_equal(opens(clone, 1, &b), ERR_CORRUPT);
    assert_int_equal(opens(v, 1, &c), ERR_CORRUPT);
    assert_int_equal(opens(v, 1, &a), ERR_OK); /* from before the copy: both open it */
    assert_int_equal(opens(clone, 1, &a), ERR_OK);
    vault_close(clone);
    /* Within a run counters only grow; a new run has another number. */
    uint64_t last = get_be64(b.ptr + 6);
    uint32_t run = get_be32(b.ptr + 2);
    for (int i = 0; i < 100; i++) {
        seal(v, 1, &a);
        assert_true(get_be64(a.ptr + 6) > last);
        assert_int_equal(get_be32(a.ptr + 2), run);
        last = get_be64(a.ptr + 6);
    }
    vault_close(v);
    v = open_at(t.dir);
    seal(v, 1, &a);
    assert_int_equal(get_be32(a.ptr + 2), run + 1);
    assert_int_equal(opens(v, 1, &b), ERR_OK);
    vault_close(v);
    buf_release(&a);
    buf_release(&b);
    buf_release(&c);
}

/* A record of a run that was torn, at every length: the next opening takes another number. */
static void test_torn_run(void **state)
{
    (void)state;
    char path[128];
    struct buf a = BUF_INIT(0), b = BUF_INIT(0);
    struct vault *v = open_at(t.dir);
    make(v, 1);
    flush(v);
    seal(v, 1, &a);
    vault_close(v);
    snprintf(path, sizeof path, "%s/runs", t.dir);
    for (off_t cut = 33; cut < 64; cut++) {
        vault_close(open_at(t.dir)); /* a second record */
        assert_int_equal(truncate(path, cut), 0);
        v = open_at(t.dir);
        seal(v, 1, &b);
        assert_int_equal(get_be32(b.ptr + 2), 3);
        assert_int_equal(opens(v, 1, &b), ERR_OK);
        assert_int_equal(opens(v, 1, &a), ERR_OK);
        vault_close(v);
        assert_int_equal(truncate(path, 32), 0);
    }
    buf_release(&a);
    buf_release(&b);
}

/* ---- keys ---- */

static char *segment(char path[128])
{
    snprintf(path, 128, "%s/000000.ring", t.dir);
    return path;
}

/* A slot torn at any byte, or with any byte changed, is no key; nobody else's is touched; made again it is
 * whole. */
static void test_torn_slot(void **state)
{
    (void)state;
    char path[128];
    uint8_t slot[RING_SLOT_BYTES], bad[RING_SLOT_BYTES];
    struct buf one = BUF_INIT(0), two = BUF_INIT(0);
    struct vault *v = open_at(t.dir);
    make(v, 1);
    make(v, 2);
    make(v, 3);
    flush(v);
    seal(v, 1, &one);
    seal(v, 2, &two);
    vault_close(v);
    int fd = open(segment(path), O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, slot, sizeof slot, 2 * RING_SLOT_BYTES), sizeof slot);
    for (size_t i = 0; i < 2 * sizeof slot; i++) {
        memcpy(bad, slot, sizeof bad);
        if (i < sizeof slot)
            bad[i] ^= 0x40;
        else if (i > sizeof slot)
            memset(bad + i - sizeof slot, 0, 2 * sizeof slot - i);
        if (memcmp(bad, slot, sizeof bad) == 0)
            continue;
        assert_int_equal(pwrite(fd, bad, sizeof bad, 2 * RING_SLOT_BYTES), sizeof bad);
        v = open_at(t.dir);
        assert_false(vault_key_exists(v, 2));
        assert_int_equal(opens(v, 2, &two), ERR_CORRUPT);
        assert_int_equal(opens(v, 1, &one), ERR_OK);
        vault_close(v);
    }
    v = open_at(t.dir);
    make(v, 2);
    flush(v);
    struct buf again = BUF_INIT(0);
    seal(v, 2, &again);
    assert_int_equal(opens(v, 2, &again), ERR_OK);
    /* A slot in another place is not that place's key. */
    assert_int_equal(pwrite(fd, slot, sizeof slot, 3 * RING_SLOT_BYTES), sizeof slot);
    assert_false(vault_key_exists(v, 3));
    vault_close(v);
    close(fd);
    buf_release(&one);
    buf_release(&two);
    buf_release(&again);
}

/* Keys are in memory until flushed; a flush that failed can be repeated; what it reported done survives. */
static void test_flush_fails(void **state)
{
    (void)state;
    struct errctx ec;
    struct buf b = BUF_INIT(0);
    struct vault *v = open_at(t.dir);
    enum err e = ERR_IO;
    make(v, 1);
    make(v, 5000); /* another segment */
    seal(v, 5000, &b);
    for (t.at = 1; e != ERR_OK; t.at++) {
        assert_in_range(t.at, 1, 10);
        t.calls = 0;
        t.before = t.at % 2;
        e = vault_flush(v, &ec);
        assert_true(e == ERR_OK || e == ERR_IO);
    }
    assert_true(t.at > 2);
    t.at = 0;
    vault_close(v);
    v = open_at(t.dir);
    assert_true(vault_key_exists(v, 1) && vault_key_exists(v, 5000));
    assert_int_equal(opens(v, 5000, &b), ERR_OK);
    make(v, 1); /* an existing key stays */
    flush(v);
    assert_int_equal(opens(v, 5000, &b), ERR_OK);
    make(v, 7); /* never flushed: a crash forgets it */
    vault_close(v);
    v = open_at(t.dir);
    assert_false(vault_key_exists(v, 7));
    vault_close(v);
    buf_release(&b);
}

static void test_destroy(void **state)
{
    (void)state;
    struct errctx ec;
    struct buf one = BUF_INIT(0), two = BUF_INIT(0);
    uint8_t slot[RING_SLOT_BYTES];
    char path[128];
    struct vault *v = open_at(t.dir);
    make(v, 1);
    make(v, 2);
    flush(v);
    seal(v, 1, &one);
    seal(v, 2, &two);
    int old = open(segment(path), O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(old, slot, sizeof slot, RING_SLOT_BYTES), sizeof slot);
    assert_int_equal(vault_key_destroy(v, 1, &ec), ERR_OK);
    assert_int_equal(vault_key_destroy(v, 1, &ec), ERR_OK);
    assert_int_equal(vault_key_destroy(v, 9, &ec), ERR_OK); /* never was */
    for (int round = 0; round < 2; round++) {
        assert_false(vault_key_exists(v, 1));
        assert_int_equal(opens(v, 1, &one), ERR_NOT_FOUND); /* kept contexts went with it */
        assert_int_equal(vault_ready(v, 1, &ec), ERR_NOT_FOUND);
        assert_int_equal(opens(v, 2, &two), ERR_OK);
        assert_int_equal(vault_key_make(v, 1, &ec), ERR_CONFLICT);
        vault_close(v);
        v = open_at(t.dir);
    }
    vault_close(v);
    /* Neither the new file nor what was the old one holds the wrapped key. */
    char bytes[16384];
    ssize_t n = pread(old, bytes, sizeof bytes, 0);
    assert_true(n > 0 && memmem(bytes, (size_t)n, slot + 24, 48) == NULL);
    close(old);
    int now = open(path, O_RDONLY | O_CLOEXEC);
    n = pread(now, bytes, sizeof bytes, 0);
    assert_true(n > 0 && memmem(bytes, (size_t)n, slot + 24, 48) == NULL);
    close(now);
    buf_release(&one);
    buf_release(&two);
}

/* A crash at every fsync and rename of a destruction: the key is there or gone, the others are there; and
 * gone it is when it was said. */
static void test_crash_in_destroy(void **state)
{
    (void)state;
    struct errctx ec;
    struct buf one = BUF_INIT(0), two = BUF_INIT(0);
    struct vault *v = open_at(t.dir);
    make(v, 1);
    make(v, 2);
    flush(v);
    seal(v, 1, &one);
    seal(v, 2, &two);
    t.copying = true;
    assert_int_equal(vault_key_destroy(v, 1, &ec), ERR_OK);
    t.copying = false;
    vault_close(v);
    assert_in_range(t.copies, 3, 9);
    bool gone = false;
    for (int i = 1; i <= t.copies; i++) {
        char leftover[160];
        v = open_at(copy_name(i));
        snprintf(leftover, sizeof leftover, "%s/000000.ring.new", copy_name(i));
        assert_int_equal(access(leftover, F_OK), -1);
        enum err e = opens(v, 1, &one);
        assert_true(e == ERR_NOT_FOUND || (e == ERR_OK && !gone));
        gone = e == ERR_NOT_FOUND;
        assert_int_equal(opens(v, 2, &two), ERR_OK);
        assert_int_equal(vault_key_destroy(v, 1, &ec), ERR_OK);
        assert_int_equal(opens(v, 1, &one), ERR_NOT_FOUND);
        vault_close(v);
    }
    assert_true(gone);
    buf_release(&one);
    buf_release(&two);
}

/* Any call of a destruction may fail: said so, and the next attempt ends it. */
static void test_destroy_fails(void **state)
{
    (void)state;
    struct errctx ec;
    struct buf two = BUF_INIT(0);
    struct vault *v = open_at(t.dir);
    make(v, 2);
    flush(v);
    seal(v, 2, &two);
    for (int owner = 10, more = 1; more; owner++) {
        make(v, (uint64_t)owner);
        flush(v);
        t.calls = 0;
        t.at = owner - 9;
        t.before = owner % 2;
        enum err e = vault_key_destroy(v, (uint64_t)owner, &ec);
        assert_true(e == ERR_OK || e == ERR_IO);
        more = t.calls >= t.at;
        assert_true(e == ERR_OK || more);
        t.at = 0;
        assert_int_equal(vault_key_destroy(v, (uint64_t)owner, &ec), ERR_OK);
        assert_int_equal(vault_ready(v, (uint64_t)owner, &ec), ERR_NOT_FOUND);
        assert_int_equal(opens(v, 2, &two), ERR_OK);
        assert_in_range(owner, 10, 30);
    }
    vault_close(v);
    buf_release(&two);
}

/* ---- memory ---- */

static size_t freed;

static void must_be_wiped(const void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert_int_equal(((const char *)p)[i], 0);
    freed += n;
}

static void test_keys_are_wiped(void **state)
{
    (void)state;
    struct errctx ec;
    struct vault_stats stats;
    secret_freed_hook = must_be_wiped;
    struct vault *v = open_at(t.dir);
    for (uint64_t i = 1; i < 1000; i++) /* the pending ones outgrow their first page */
        make(v, i);
    vault_stats(v, &stats);
    assert_int_equal(stats.keys_made, 999);
    vault_close(v); /* unflushed */
    secret_freed_hook = NULL;
    assert_true(freed > 999 * 32 + 32);
    assert_int_equal(try_open(t.dir, 1, true, &v, &ec), ERR_OK);
    assert_false(vault_key_exists(v, 1));
    vault_close(v);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {TEST(test_wrong_master_key), TEST(test_header_lost), TEST(test_runs),
        TEST(test_torn_run), TEST(test_torn_slot), TEST(test_flush_fails), TEST(test_destroy),
        TEST(test_crash_in_destroy), TEST(test_destroy_fails), TEST(test_keys_are_wiped)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
