/* Sealing: what opens, what does not, nonces, copies of a directory, master keys. */
#include "../test.h"
#include "vault/secret.h"
#include "vault/vault.h"
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct place {
    char dir[64], copy[72];
    uint8_t master[VAULT_KEY_BYTES];
};

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static int setup(void **state)
{
    struct place *p = calloc(1, sizeof *p);
    snprintf(p->dir, sizeof p->dir, "/tmp/kalamdb-vault-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->copy, sizeof p->copy, "%s.copy", p->dir);
    memset(p->master, 7, sizeof p->master);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct place *p = *state;
    nftw(p->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    nftw(p->copy, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(p);
    return 0;
}

static struct vault *open_dir(const struct place *p, const char *dir)
{
    struct vault_config cfg = {.dir = dir, .master_key = p->master, .os = os_posix()};
    struct vault *v;
    struct errctx ec = {0};
    if (vault_open(&cfg, &v, &ec) != ERR_OK)
        fail_msg("vault_open: %s (%s)", ec.message, ec.internal);
    return v;
}

static void make(struct vault *v, uint64_t owner)
{
    struct errctx ec;
    assert_int_equal(vault_key_make(v, owner, &ec), ERR_OK);
    assert_int_equal(vault_flush(v, &ec), ERR_OK);
}

static void seal(struct vault *v, uint64_t owner, struct str aad, struct str plain, struct buf *b)
{
    struct errctx ec;
    buf_clear(b);
    assert_int_equal(vault_seal(v, owner, aad, plain, b, &ec), ERR_OK);
}

/* The code; ERR_OK only when the plain text is the expected one. */
static enum err opens(struct vault *v, uint64_t owner, struct str aad, struct str sealed, struct str plain)
{
    struct errctx ec = {0};
    struct buf b = BUF_INIT(0);
    enum err e = vault_unseal(v, owner, aad, sealed, &b, &ec);
    if (e == ERR_OK)
        assert_true(str_eq(buf_view(&b), plain));
    else
        assert_int_equal(b.len, 0);
    buf_release(&b);
    return e;
}

static void test_round_trip(void **state)
{
    struct place *p = *state;
    struct vault *v = open_dir(p, p->dir);
    struct buf b = BUF_INIT(0);
    char *large = malloc(1 << 20);
    memset(large, 'x', 1 << 20);
    make(v, 1);
    make(v, 70000);
    const struct str plains[] = {STR(""), STR("a"), STR("attack at dawn"), str_n(large, 1 << 20)};
    for (size_t i = 0; i < sizeof plains / sizeof *plains; i++) {
        seal(v, i % 2 ? 70000 : 1, STR("aad"), plains[i], &b);
        assert_in_range(b.len, plains[i].len + 30, plains[i].len + VAULT_OVERHEAD_MAX);
        assert_int_equal(opens(v, i % 2 ? 70000 : 1, STR("aad"), buf_view(&b), plains[i]), ERR_OK);
        assert_true(plains[i].len < 4 || memmem(b.ptr, b.len, plains[i].ptr, plains[i].len) == NULL);
    }
    /* Off: everything is as it was. */
    seal(NULL, 1, STR("aad"), STR("plain"), &b);
    assert_true(str_eq(buf_view(&b), STR("plain")));
    assert_int_equal(opens(NULL, 1, STR("x"), buf_view(&b), STR("plain")), ERR_OK);
    free(large);
    buf_release(&b);
    vault_close(v);
}

static void test_tampering(void **state)
{
    struct place *p = *state;
    struct vault *v = open_dir(p, p->dir);
    struct buf b = BUF_INIT(0);
    struct str plain = STR("attack at dawn"), aad = STR("user 1, messages, 5");
    make(v, 1);
    make(v, 2);
    seal(v, 1, aad, plain, &b);
    for (size_t i = 0; i < b.len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            b.ptr[i] = (char)(b.ptr[i] ^ 1 << bit);
            assert_int_equal(opens(v, 1, aad, buf_view(&b), plain), ERR_CORRUPT);
            b.ptr[i] = (char)(b.ptr[i] ^ 1 << bit);
        }
    }
    for (size_t cut = 0; cut < b.len; cut++)
        assert_int_equal(opens(v, 1, aad, str_n(b.ptr, cut), plain), ERR_CORRUPT);
    buf_u8(&b, 0);
    assert_int_equal(opens(v, 1, aad, buf_view(&b), plain), ERR_CORRUPT);
    b.len--;
    assert_int_equal(opens(v, 1, STR("user 1, messages, 6"), buf_view(&b), plain), ERR_CORRUPT);
    assert_int_equal(opens(v, 1, STR(""), buf_view(&b), plain), ERR_CORRUPT);
    assert_int_equal(opens(v, 2, aad, buf_view(&b), plain), ERR_CORRUPT);
    assert_int_equal(opens(v, 3, aad, buf_view(&b), plain), ERR_CORRUPT); /* has no key */
    assert_int_equal(opens(v, 1, aad, plain, plain), ERR_CORRUPT);        /* was never sealed */
    assert_int_equal(opens(v, 1, aad, buf_view(&b), plain), ERR_OK);
    struct vault_stats stats;
    vault_stats(v, &stats);
    assert_int_equal(stats.unseal_failures, b.len * 8 + b.len + 6);
    buf_release(&b);
    vault_close(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tampering, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
