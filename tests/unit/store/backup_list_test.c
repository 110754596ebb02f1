/* Lists of backups: what is written is read back, and what a disk or a stranger made of one is refused. */
#include "store/backup.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
/* cmocka wants the three before */
#include <cmocka.h>

#define SHA_A "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define SHA_B "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100"
#define HEAD "kalamdb backup 1\ncreated 2026-11-22T19:45:00.123456Z\nhot 7\n"
#define RING "ring 00112233445566778899aabbccddeeff\n"
#define FILE_A "file " SHA_A " 12 -5 alice/batch-20251013T120000Z-001.parquet\n"
#define FILE_B "file " SHA_B " 9223372036854775807 1795376700123456789 shared/conversations/c%7C1/msg-1.bin\n"

/* With the line that closes it. */
static enum err decode(const char *above, int files, struct backup_list *ret)
{
    struct buf b = BUF_INIT(0);
    struct errctx ec = {0};
    uint8_t digest[32];
    buf_str(&b, str_c(above));
    sha256(buf_view(&b), digest);
    buf_printf(&b, "end %d ", files);
    for (int i = 0; i < 32; i++)
        buf_printf(&b, "%02x", digest[i]);
    buf_u8(&b, '\n');
    backup_list_init(ret);
    enum err e = backup_list_decode(buf_view(&b), ret, &ec);
    assert_int_equal(e, ec.code);
    assert_true(e == ERR_OK || ec.message[0] != '\0');
    buf_release(&b);
    return e;
}

static void expect_damaged(const char *above, int files)
{
    struct backup_list l;
    if (decode(above, files, &l) != ERR_CORRUPT)
        fail_msg("taken:\n%s", above);
    backup_list_release(&l);
}

static void add(struct backup_list *l, const char *path, const char *sha, uint64_t bytes, int64_t mtime_ns)
{
    struct errctx ec = {0};
    struct backup_file f = {.path = str_c(path), .bytes = bytes, .mtime_ns = mtime_ns};
    memcpy(f.sha256, sha, 65);
    assert_int_equal(backup_list_add(l, &f, &ec), ERR_OK);
}

static void round_trip(void **state)
{
    (void)state;
    struct backup_list l, back;
    struct buf text = BUF_INIT(0), again = BUF_INIT(0);
    struct errctx ec = {0};
    backup_list_init(&l);
    l.created_us = INT64_C(1795376700123456);
    l.hot = 7;
    l.sealed = true;
    for (size_t i = 0; i < sizeof l.ring; i++)
        l.ring[i] = (uint8_t)(i * 0x11);
    add(&l, "shared/conversations/c%7C1/msg-1.bin", SHA_B, INT64_MAX, INT64_C(1795376700123456789));
    add(&l, "alice/batch-20251013T120000Z-001.parquet", SHA_A, 12, -5);
    backup_list_sort(&l);
    backup_list_encode(&l, &text);
    assert_int_equal(
        strncmp(text.ptr, HEAD RING FILE_A FILE_B "end 2 ", strlen(HEAD RING FILE_A FILE_B "end 2 ")), 0);
    backup_list_init(&back);
    assert_int_equal(backup_list_decode(buf_view(&text), &back, &ec), ERR_OK);
    assert_int_equal(back.nfiles, 2);
    assert_int_equal(back.hot, 7);
    assert_true(back.sealed);
    assert_memory_equal(back.ring, l.ring, sizeof l.ring);
    assert_true(back.created_us == l.created_us);
    assert_true(backup_list_bytes(&back) == (uint64_t)INT64_MAX + 12);
    const struct backup_file *f = backup_list_find(&back, STR("alice/batch-20251013T120000Z-001.parquet"));
    assert_non_null(f);
    assert_string_equal(f->sha256, SHA_A);
    assert_int_equal(f->bytes, 12);
    assert_int_equal(f->mtime_ns, -5);
    assert_null(backup_list_find(&back, STR("alice/batch")));
    backup_list_encode(&back, &again);
    assert_true(str_eq(buf_view(&text), buf_view(&again)));
    /* No byte may be missing or another. */
    for (size_t n = 0; n + 1 < text.len; n++) {
        struct backup_list cut;
        backup_list_init(&cut);
        assert_int_equal(backup_list_decode(str_n(text.ptr, n), &cut, &ec), ERR_CORRUPT);
        backup_list_release(&cut);
    }
    for (size_t i = 0; i < text.len; i++) {
        struct backup_list bad;
        backup_list_init(&bad);
        text.ptr[i] = (char)(text.ptr[i] ^ 1);
        assert_int_equal(backup_list_decode(buf_view(&text), &bad, &ec), ERR_CORRUPT);
        text.ptr[i] = (char)(text.ptr[i] ^ 1);
        backup_list_release(&bad);
    }
    backup_list_release(&l);
    backup_list_release(&back);
    buf_release(&text);
    buf_release(&again);
}

/* Whose closing hash is right. */
static void crafted(void **state)
{
    (void)state;
    static const char *const paths[] = {"", "a", "/a/b", "a/", "a//b", "../a", "a/..", "a/../b", "./a/b",
        "a/./b", ".kalamdb/hot", "a/.b", "a/b c", "a/b\tc", "a/b\\c", "a/\xc3\xbc", "a/b|c", "a/b\"c"};
    struct backup_list l;
    char text[4096], path[BACKUP_PATH_MAX + 2];
    assert_int_equal(decode(HEAD FILE_A FILE_B, 2, &l), ERR_OK);
    backup_list_release(&l);
    assert_int_equal(decode(HEAD, 0, &l), ERR_OK);
    assert_false(l.sealed);
    backup_list_release(&l);
    assert_int_equal(decode(HEAD RING FILE_A, 1, &l), ERR_OK);
    assert_true(l.sealed);
    assert_int_equal(l.ring[0], 0x00);
    assert_int_equal(l.ring[15], 0xff);
    backup_list_release(&l);
    expect_damaged(HEAD "ring 00112233445566778899aabbccddeef\n", 0);
    expect_damaged(HEAD "ring 00112233445566778899aabbccddeeff0\n", 0);
    expect_damaged(HEAD "ring 00112233445566778899aabbccddeegg\n", 0);
    expect_damaged(HEAD "ring \n", 0);
    expect_damaged(HEAD RING RING, 0);
    expect_damaged(HEAD FILE_A RING, 1);
    expect_damaged(HEAD FILE_A FILE_B, 1);
    expect_damaged(HEAD FILE_A FILE_B, -2);
    expect_damaged(HEAD FILE_B FILE_A, 2); /* out of order */
    expect_damaged(HEAD FILE_A FILE_A, 2); /* twice */
    expect_damaged(HEAD "\n", 0);
    expect_damaged(HEAD "dir alice\n", 0);
    expect_damaged("kalamdb backup 2\ncreated 2026-11-22T19:45:00.123456Z\nhot 7\n", 0);
    expect_damaged("kalamdb backup 1\ncreated yesterday\nhot 7\n", 0);
    expect_damaged("kalamdb backup 1\ncreated 2026-11-22T19:45:00.123456Z\n", 0); /* of no hot tier */
    expect_damaged("kalamdb backup 1\nhot 7\n", 0);                               /* of no time */
    expect_damaged(HEAD "hot 8\n", 0);
    expect_damaged("kalamdb backup 1\ncreated 2026-11-22T19:45:00.123456Z\nhot 0\n", 0);
    expect_damaged("kalamdb backup 1\ncreated 2026-11-22T19:45:00.123456Z\nhot -1\n", 0);
    expect_damaged("kalamdb backup 1\ncreated 2026-11-22T19:45:00.123456Z\nhot 4294967296\n", 0);
    expect_damaged("kalamdb backup 1\ncreated 2026-11-22T19:45:00.123456Z\nhot 7x\n", 0);
    expect_damaged(HEAD "file " SHA_A " -1 0 a/b\n", 1);
    expect_damaged(HEAD "file " SHA_A " 9223372036854775808 0 a/b\n", 1);
    expect_damaged(HEAD "file " SHA_A " 1 x a/b\n", 1);
    expect_damaged(HEAD "file " SHA_A "0 1 0 a/b\n", 1);
    expect_damaged(HEAD "file " SHA_A " 1 0\n", 1);
    expect_damaged(HEAD "file ZZ112233445566778899aabbccddeeff00112233445566778899aabbccddeeff 1 0 a/b\n", 1);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        snprintf(text, sizeof text, HEAD "file " SHA_A " 1 0 %s\n", paths[i]);
        expect_damaged(text, 1);
    }
    memset(path, 'a', sizeof path);
    path[1] = '/';
    path[BACKUP_PATH_MAX] = '\0';
    snprintf(text, sizeof text, HEAD "file " SHA_A " 1 0 %s\n", path);
    assert_int_equal(decode(text, 1, &l), ERR_OK);
    backup_list_release(&l);
    path[BACKUP_PATH_MAX] = 'a';
    path[BACKUP_PATH_MAX + 1] = '\0';
    snprintf(text, sizeof text, HEAD "file " SHA_A " 1 0 %s\n", path);
    expect_damaged(text, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trip), cmocka_unit_test(crafted)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
