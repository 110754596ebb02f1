/* The master key changed while the ring is in use, stopped at every fsync, rename and unlink: by a crash (a
 * copy of the directory as it was then), by a failing disk, and with keys made and destroyed at that moment.
 */
#include "../test.h"
#include "vault/ring.h"
#include "vault/vault.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { OLD = 1, NEW = 9, POINTS_MAX = 64 };

static struct {
    char dir[64], copy[96];
    struct os os;
    pthread_t self;
    atomic_bool armed; /* the threads that write beside it look at it, too */
    bool before, copying;
    int at, calls, copies;
    void (*meanwhile)(void);
    struct vault *v;
    bool destroyed; /* and acknowledged */
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

static const char *copy_name(int i)
{
    snprintf(t.copy, sizeof t.copy, "%s.%d", t.dir, i);
    return t.copy;
}

static void copy_dir(int i)
{
    char command[256];
    remove_dir(copy_name(i));
    snprintf(command, sizeof command, "cp -r --sparse=always %s %s", t.dir, copy_name(i));
    assert_int_equal(system(command), 0);
    t.copies = i > t.copies ? i : t.copies;
}

/* Only what the rotation's own thread does counts. */
static bool fails(void)
{
    if (!t.armed || !pthread_equal(pthread_self(), t.self))
        return false;
    t.calls++;
    if (t.copying)
        copy_dir(t.calls);
    if (t.calls != t.at)
        return false;
    if (t.meanwhile != NULL)
        t.meanwhile();
    return t.meanwhile == NULL;
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

static int hook_unlink(void *ctx, const char *path)
{
    bool f = fails();
    int r = f && t.before ? 0 : os_posix()->unlink(ctx, path);
    return f ? -EIO : r;
}

static int setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof t);
    snprintf(t.dir, sizeof t.dir, "/tmp/kalamdb-rotate-XXXXXX");
    assert_non_null(mkdtemp(t.dir));
    t.self = pthread_self();
    t.os = *os_posix();
    t.os.fsync = hook_fsync;
    t.os.rename = hook_rename;
    t.os.unlink = hook_unlink;
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

/* ---- a ring with something in it ---- */

static struct buf sealed[3] = {BUF_INIT(0), BUF_INIT(0), BUF_INIT(0)};
static const uint64_t owners[3] = {1, 2, 5000}; /* two segments; 3 is destroyed */

static enum err try_open(const char *dir, uint8_t first, struct vault **ret, struct errctx *ec)
{
    uint8_t master[VAULT_KEY_BYTES] = {first, 2, 3};
    struct vault_config cfg = {.dir = dir, .master_key = master, .os = &t.os};
    errctx_clear(ec);
    return vault_open(&cfg, ret, ec);
}

static struct vault *open_with(const char *dir, uint8_t first)
{
    struct vault *v = NULL;
    struct errctx ec;
    if (try_open(dir, first, &v, &ec) != ERR_OK)
        fail_msg("vault_open: %s (%s) %s", ec.message, ec.internal, ec.detail);
    return v;
}

static enum err rotate_to(struct vault *v, uint8_t first, struct vault_rotation *ret, struct errctx *ec)
{
    uint8_t master[VAULT_KEY_BYTES] = {first, 2, 3};
    errctx_clear(ec);
    return vault_rotate_master(v, master, ret, ec);
}

static void make(struct vault *v, uint64_t owner)
{
    struct errctx ec;
    assert_int_equal(vault_key_make(v, owner, &ec), ERR_OK);
    assert_int_equal(vault_flush(v, &ec), ERR_OK);
}

static void seal(struct vault *v, uint64_t owner, struct buf *b)
{
    struct errctx ec;
    buf_clear(b);
    assert_int_equal(vault_seal(v, owner, STR("aad"), STR("plain"), b, &ec), ERR_OK);
}

static enum err opens(struct vault *v, uint64_t owner, const struct buf *s)
{
    struct errctx ec;
    struct buf b = BUF_INIT(0);
    enum err e = vault_unseal(v, owner, STR("aad"), buf_view(s), &b, &ec);
    assert_true(e != ERR_OK || str_eq(buf_view(&b), STR("plain")));
    buf_release(&b);
    return e;
}

static struct vault *fresh(void)
{
    struct errctx ec;
    remove_dir(t.dir);
    struct vault *v = open_with(t.dir, OLD);
    for (size_t i = 0; i < 3; i++) {
        make(v, owners[i]);
        seal(v, owners[i], &sealed[i]);
    }
    make(v, 3);
    assert_int_equal(vault_key_destroy(v, 3, &ec), ERR_OK);
    return v;
}

static void release(void)
{
    for (size_t i = 0; i < 3; i++)
        buf_release(&sealed[i]);
}

static void check_contents(struct vault *v, bool two)
{
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(opens(v, owners[i], &sealed[i]), owners[i] != 2 || two ? ERR_OK : ERR_NOT_FOUND);
    assert_true(vault_key_destroyed(v, 3));
}

/* The segments of one wrapping and nothing of another. */
static void check_files(const char *dir)
{
    int plain = 0, numbered = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (const struct dirent *entry; (entry = readdir(d)) != NULL;) {
        plain += strcmp(entry->d_name, "000000.ring") == 0;
        numbered += strcmp(entry->d_name, "000000-1.ring") == 0;
        assert_null(strstr(entry->d_name, "next"));
    }
    closedir(d);
    assert_int_equal(plain + numbered, 1);
}

/* Whichever master key is in force, the other one is refused and told why; then everything is there. */
static bool check_either(const char *dir, bool two, bool *ret_told)
{
    struct errctx ec;
    struct vault *v = NULL;
    bool is_new = try_open(dir, NEW, &v, &ec) == ERR_OK;
    if (!is_new) {
        assert_int_equal(ec.code, ERR_INVALID_REQUEST);
        *ret_told = strstr(ec.detail, "did not finish: the one before is in force") != NULL;
        v = open_with(dir, OLD);
    }
    check_contents(v, two);
    vault_close(v);
    check_files(dir);
    assert_int_equal(try_open(dir, is_new ? OLD : NEW, &v, &ec), ERR_INVALID_REQUEST);
    if (is_new)
        assert_non_null(strstr(ec.detail, "key before the rotation of 20"));
    return is_new;
}

/* ---- tests ---- */

static void test_rotate(void **state)
{
    (void)state;
    struct errctx ec;
    struct vault_rotation done;
    struct vault_ring_state before, after;
    char path[128], bytes[16384];
    uint8_t wrapped[48];
    struct vault *v = fresh();
    snprintf(path, sizeof path, "%s/000000.ring", t.dir);
    int old = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pread(old, wrapped, sizeof wrapped, RING_SLOT_BYTES + 24), sizeof wrapped);
    assert_int_equal(pwrite(old, "damaged", 7, 4 * RING_SLOT_BYTES), 7);
    vault_ring_state(v, &before);
    assert_int_equal(before.rotated_us, 0);
    assert_int_equal(vault_key_make(v, 77, &ec), ERR_OK); /* pending all the while */
    assert_int_equal(rotate_to(v, OLD, &done, &ec), ERR_INVALID_REQUEST);
    assert_int_equal(rotate_to(v, NEW, &done, &ec), ERR_OK);
    assert_true(done.switched);
    assert_int_equal(done.keys, 3);
    assert_int_equal(done.segments, 2);
    assert_int_equal(done.damaged, 1);
    vault_ring_state(v, &after);
    assert_int_equal(after.rotations, 1);
    assert_true(after.rotated_us > 0 && !after.rotating);
    assert_memory_not_equal(before.check, after.check, sizeof before.check);
    assert_int_equal(vault_flush(v, &ec), ERR_OK);
    make(v, 78);
    check_contents(v, true);
    ssize_t n = pread(old, bytes, sizeof bytes, 0); /* what was the old file is zeroes */
    assert_true(n > 0);
    for (ssize_t i = 0; i < n; i++)
        assert_int_equal(bytes[i], 0);
    close(old);
    vault_close(v);
    bool told = false;
    assert_true(check_either(t.dir, true, &told));
    v = open_with(t.dir, NEW);
    assert_true(vault_key_exists(v, 77) && vault_key_exists(v, 78));
    assert_int_equal(rotate_to(v, OLD, &done, &ec), ERR_OK); /* and once more, back */
    assert_int_equal(vault_key_destroy(v, 78, &ec), ERR_OK);
    assert_int_equal(rotate_to(v, 5, &done, &ec), ERR_OK);
    check_contents(v, true);
    vault_close(v);
    v = open_with(t.dir, 5);
    check_contents(v, true);
    assert_true(vault_key_destroyed(v, 78));
    vault_close(v);
    release();
}

static void test_crash_at_every_point(void **state)
{
    (void)state;
    struct errctx ec;
    struct vault_rotation done;
    struct vault *v = fresh();
    t.copying = true;
    t.armed = true;
    assert_int_equal(rotate_to(v, NEW, &done, &ec), ERR_OK);
    t.armed = false;
    t.copying = false;
    vault_close(v);
    int news = 0, olds = 0, tolds = 0;
    for (int i = 1; i <= t.copies; i++) {
        bool told = false;
        if (check_either(copy_name(i), true, &told)) {
            news++;
            continue;
        }
        assert_int_equal(news, 0); /* from the switch on it stays */
        olds++;
        tolds += told;
        v = open_with(copy_name(i), OLD);
        assert_int_equal(rotate_to(v, NEW, &done, &ec), ERR_OK);
        check_contents(v, true);
        vault_close(v);
    }
    assert_true(olds >= 6 && news >= 4);
    assert_true(tolds >= 4);
    release();
}

static void test_failure_at_every_point(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * POINTS_MAX; i++) {
        struct errctx ec;
        struct vault_rotation done;
        struct buf b = BUF_INIT(0);
        struct vault *v = fresh();
        t.at = i / 2 + 1;
        t.before = i % 2;
        t.calls = 0;
        t.armed = true;
        enum err e = rotate_to(v, NEW, &done, &ec);
        t.armed = false;
        bool reached = t.calls >= t.at, told = false;
        assert_true(e != ERR_OK || done.switched);
        check_contents(v, true);    /* whatever it came to */
        if (e == ERR_UNAVAILABLE) { /* nobody knows: nothing is written until the next opening */
            assert_int_equal(vault_key_make(v, 900, &ec), ERR_OK);
            assert_int_equal(vault_flush(v, &ec), ERR_IO);
            assert_int_equal(rotate_to(v, NEW, &done, &ec), ERR_UNAVAILABLE);
        } else {
            make(v, 900);
            seal(v, 900, &b);
            if (!done.switched)
                assert_int_equal(rotate_to(v, NEW, &done, &ec), ERR_OK);
            assert_int_equal(opens(v, 900, &b), ERR_OK);
        }
        vault_close(v);
        assert_true(check_either(t.dir, true, &told) || e == ERR_UNAVAILABLE);
        buf_release(&b);
        if (!reached) {
            assert_int_equal(e, ERR_OK);
            assert_true(i > 20);
            break;
        }
    }
    release();
}

/* ---- keys made and destroyed meanwhile ---- */

static void *change(void *arg)
{
    struct errctx ec;
    (void)arg;
    make(t.v, 100);  /* a segment that is there */
    make(t.v, 9000); /* a new one */
    assert_int_equal(vault_key_destroy(t.v, 2, &ec), ERR_OK);
    __atomic_store_n(&t.destroyed, true, __ATOMIC_SEQ_CST);
    return NULL;
}

static pthread_t changer;

/* At this moment, or, where the rotation holds it off, as soon as it may. */
static void change_now(void)
{
    struct timespec until;
    assert_int_equal(pthread_create(&changer, NULL, change, NULL), 0);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 200000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    for (; !__atomic_load_n(&t.destroyed, __ATOMIC_SEQ_CST);) {
        struct timespec now, pause = {.tv_nsec = 1000000};
        clock_gettime(CLOCK_REALTIME, &now);
        if (now.tv_sec > until.tv_sec || (now.tv_sec == until.tv_sec && now.tv_nsec > until.tv_nsec))
            break;
        nanosleep(&pause, NULL);
    }
    if (__atomic_load_n(&t.destroyed, __ATOMIC_SEQ_CST))
        copy_dir(1);
}

/* No file of the copy, of either wrapping, has a key in the place of partition 2. */
static void check_gone(const char *dir)
{
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (const struct dirent *entry; (entry = readdir(d)) != NULL;) {
        uint8_t state = 0;
        if (strncmp(entry->d_name, "000000", 6) != 0)
            continue;
        int fd = openat(dirfd(d), entry->d_name, O_RDONLY | O_CLOEXEC);
        ssize_t n = pread(fd, &state, 1, 2 * RING_SLOT_BYTES + 4);
        close(fd);
        assert_true(n == 0 || state == 2 || state == 0);
    }
    closedir(d);
}

static void test_changes_at_every_point(void **state)
{
    (void)state;
    int at_once = 0;
    for (t.at = 1; t.at < POINTS_MAX; t.at++) {
        struct errctx ec;
        struct vault_rotation done;
        t.v = fresh();
        remove_dir(copy_name(1));
        t.destroyed = false;
        t.meanwhile = change_now;
        t.calls = 0;
        t.armed = true;
        assert_int_equal(rotate_to(t.v, NEW, &done, &ec), ERR_OK);
        t.armed = false;
        if (t.calls < t.at) {
            vault_close(t.v);
            break;
        }
        assert_int_equal(pthread_join(changer, NULL), 0);
        for (int round = 0; round < 2; round++) {
            check_contents(t.v, false);
            assert_true(vault_key_exists(t.v, 100) && vault_key_exists(t.v, 9000));
            assert_int_equal(vault_ready(t.v, 100, &ec), ERR_OK);
            assert_int_equal(vault_ready(t.v, 9000, &ec), ERR_OK);
            vault_close(t.v);
            check_gone(t.dir);
            t.v = open_with(t.dir, NEW);
        }
        vault_close(t.v);
        bool told;
        if (access(copy_name(1), F_OK) == 0) { /* a crash right after it was acknowledged */
            at_once++;
            check_gone(copy_name(1));
            (void)check_either(copy_name(1), false, &told);
        }
    }
    assert_true(t.at > 10 && t.at < POINTS_MAX);
    assert_true(at_once >= 6);
    release();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rotate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_crash_at_every_point, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failure_at_every_point, setup, teardown),
        cmocka_unit_test_setup_teardown(test_changes_at_every_point, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
