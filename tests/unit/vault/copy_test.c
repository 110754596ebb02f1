/* Copies of a ring: what a key's going leaves in one, also when the disk fails at any step, and whose copy is
 * touched at all. */
#include "../test.h"
#include "vault/vault.h"
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SLOT = 128, FAR = 5000 /* in another segment */ };

static struct {
    char root[64], ring[96], copy[96];
    struct os os;
    int at, calls; /* at this call of fsync, rename or unlink: it fails, undone */
    struct vault *v;
} t;

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static bool fails(void)
{
    return t.at != 0 && ++t.calls == t.at;
}

static int hook_fsync(void *ctx, int fd)
{
    return fails() ? -EIO : os_posix()->fsync(ctx, fd);
}

static int hook_rename(void *ctx, const char *from, const char *to)
{
    return fails() ? -EIO : os_posix()->rename(ctx, from, to);
}

static int hook_unlink(void *ctx, const char *path)
{
    return fails() ? -EIO : os_posix()->unlink(ctx, path);
}

static struct vault *open_at(const char *dir, bool existing)
{
    uint8_t master[VAULT_KEY_BYTES] = {1, 2, 3};
    struct vault_config cfg = {.dir = dir, .master_key = master, .os = &t.os, .existing = existing};
    struct vault *v = NULL;
    struct errctx ec;
    errctx_clear(&ec);
    if (vault_open(&cfg, &v, &ec) != ERR_OK)
        fail_msg("vault_open: %s (%s)", ec.message, ec.internal);
    return v;
}

static void make(uint64_t owner)
{
    struct errctx ec;
    assert_int_equal(vault_key_make(t.v, owner, &ec), ERR_OK);
}

static void back_up(const char *master)
{
    struct errctx ec;
    size_t files = 0;
    errctx_clear(&ec);
    if (vault_backup(t.v, t.copy, master, &files, &ec) != ERR_OK)
        fail_msg("vault_backup: %s (%s)", ec.message, ec.internal);
}

static int setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof t);
    snprintf(t.root, sizeof t.root, "/tmp/kalamdb-copy-XXXXXX");
    assert_non_null(mkdtemp(t.root));
    snprintf(t.ring, sizeof t.ring, "%s/ring", t.root);
    snprintf(t.copy, sizeof t.copy, "%s/copy", t.root);
    t.os = *os_posix();
    t.os.fsync = hook_fsync;
    t.os.rename = hook_rename;
    t.os.unlink = hook_unlink;
    t.v = open_at(t.ring, false);
    make(1);
    make(2);
    make(FAR);
    back_up(NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    vault_close(t.v);
    nftw(t.root, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return 0;
}

static void in_copy(const char *name, char ret[160])
{
    snprintf(ret, 160, "%s/%s", t.copy, name);
}

static size_t read_copy(const char *name, char *ret, size_t max)
{
    char path[160];
    in_copy(name, path);
    FILE *f = fopen(path, "r");
    size_t n = f != NULL ? fread(ret, 1, max, f) : 0;
    if (f != NULL)
        fclose(f);
    return n;
}

static bool exists(const char *name)
{
    char path[160];
    in_copy(name, path);
    return access(path, F_OK) == 0;
}

static enum err forget(uint64_t owner)
{
    struct errctx ec;
    errctx_clear(&ec);
    return vault_copy_forget(t.v, t.copy, owner, &ec);
}

/* What the copy would give, as a ring of its own. */
static void expect_keys(bool one, bool two, bool far)
{
    char command[400], dir[112];
    snprintf(dir, sizeof dir, "%s.opened", t.copy);
    snprintf(command, sizeof command, "rm -rf %s && cp -r %s %s", dir, t.copy, dir);
    assert_int_equal(system(command), 0);
    struct vault *v = open_at(dir, true);
    assert_int_equal(vault_key_exists(v, 1), one);
    assert_int_equal(vault_key_destroyed(v, 1), !one);
    assert_int_equal(vault_key_exists(v, 2), two);
    assert_int_equal(vault_key_exists(v, FAR), far);
    vault_close(v);
}

static void test_forget(void **state)
{
    (void)state;
    char before[1 << 16], after[1 << 16];
    size_t n = read_copy("000000.ring", before, sizeof before);
    assert_true(n >= 3 * SLOT);
    expect_keys(true, true, true);
    assert_int_equal(forget(1), ERR_OK);
    assert_int_equal(read_copy("000000.ring", after, sizeof after), n);
    assert_int_not_equal(memcmp(before + SLOT, after + SLOT, SLOT), 0);
    assert_memory_equal(before + 2 * SLOT, after + 2 * SLOT, n - 2 * SLOT);
    expect_keys(false, true, true);
    assert_int_equal(forget(1), ERR_OK);
    /* Keys that the copy never had, beyond a file's end and beyond all files. */
    assert_int_equal(forget(7), ERR_OK);
    assert_int_equal(forget(50000), ERR_OK);
    assert_int_equal(read_copy("000000.ring", before, sizeof before), n);
    assert_memory_equal(before, after, n);
    assert_int_equal(forget(FAR), ERR_OK);
    expect_keys(false, true, false);
}

/* Half of a copy that a crash left has keys, too. */
static void test_forget_half(void **state)
{
    (void)state;
    char path[160], name[32];
    for (int segment = 0; segment < 2; segment++) {
        snprintf(name, sizeof name, "00000%d.ring.new", segment * 7);
        in_copy(name, path);
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        fputs("keys", f);
        fclose(f);
        assert_int_equal(forget(segment == 0 ? 1 : 7 * 4096), ERR_OK);
        assert_false(exists(name));
    }
}

static void test_forget_fails(void **state)
{
    (void)state;
    int failed = 0;
    for (t.at = 1;; t.at++) {
        t.calls = 0;
        enum err e = forget(1);
        if (e == ERR_OK && t.calls < t.at)
            break;
        failed += e != ERR_OK;
        t.calls = INT32_MIN;
        assert_int_equal(forget(1), ERR_OK); /* again, and it is gone */
        expect_keys(false, true, true);
        assert_false(exists("000000.ring.new"));
        char command[256];
        snprintf(command, sizeof command, "rm -rf %s", t.copy);
        assert_int_equal(system(command), 0);
        back_up(NULL);
        expect_keys(true, true, true);
    }
    t.at = 0;
    assert_true(failed >= 3);
    expect_keys(false, true, true);
}

static void test_whose(void **state)
{
    (void)state;
    struct errctx ec;
    char dir[112];
    uint8_t id[VAULT_RING_ID_BYTES], mine[VAULT_RING_ID_BYTES];
    vault_ring_id(t.v, mine);
    assert_int_equal(vault_copy_id(t.copy, id, &ec), ERR_OK);
    assert_memory_equal(id, mine, sizeof id);
    snprintf(dir, sizeof dir, "%s/none", t.root);
    assert_int_equal(vault_copy_forget(t.v, dir, 1, &ec), ERR_NOT_FOUND);
    assert_int_equal(access(dir, F_OK), -1);
    assert_int_equal(vault_copy_id(dir, id, &ec), ERR_NOT_FOUND);
    snprintf(dir, sizeof dir, "%s/other", t.root);
    struct vault *other = open_at(dir, false);
    assert_int_equal(vault_copy_forget(other, t.copy, 1, &ec), ERR_NOT_FOUND);
    assert_int_equal(vault_backup_check(other, t.copy, &ec), ERR_CONFLICT);
    vault_close(other);
    expect_keys(true, true, true);
}

/* The master key goes along only as long as it is told to. */
static void test_master(void **state)
{
    (void)state;
    char path[112], text[160];
    struct errctx ec;
    snprintf(path, sizeof path, "%s/made", t.root);
    assert_int_equal(os_write_file(os_posix(), path, STR("the key\n"), 0600, &ec), ERR_OK);
    assert_false(exists(VAULT_COPY_MASTER));
    back_up(path);
    assert_int_equal(read_copy(VAULT_COPY_MASTER, text, sizeof text), 8);
    struct stat st;
    in_copy(VAULT_COPY_MASTER, text);
    assert_int_equal(stat(text, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    back_up(path);
    assert_true(exists(VAULT_COPY_MASTER));
    back_up(NULL);
    assert_false(exists(VAULT_COPY_MASTER));
}

/* A destroyed key is not brought back by a copy that is made afterwards. */
static void test_after_destroy(void **state)
{
    (void)state;
    struct errctx ec;
    assert_int_equal(vault_key_destroy(t.v, 1, &ec), ERR_OK);
    expect_keys(true, true, true); /* nobody told the copy */
    assert_int_equal(forget(1), ERR_OK);
    expect_keys(false, true, true);
    back_up(NULL);
    expect_keys(false, true, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_forget, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forget_half, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forget_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_whose, setup, teardown),
        cmocka_unit_test_setup_teardown(test_master, setup, teardown),
        cmocka_unit_test_setup_teardown(test_after_destroy, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
