/* Receipts: what is signed is what is said, checkable by anybody, and by nobody else's key. */
#include "../test.h"
#include "auth/receipt.h"
#include "base/json.h"
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/kalamdb-receipt-XXXXXX");
    return mkdtemp(dir) != NULL ? 0 : -1;
}

static const char *path_of(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static int teardown(void **state)
{
    (void)state;
    static const char *const names[] = {"a.key", "b.key", "bad.key"};
    for (int i = 0; i < 3; i++)
        unlink(path_of(names[i]));
    return rmdir(dir);
}

static struct receipt_key *open_key(const char *name)
{
    struct receipt_key *k = NULL;
    struct errctx ec = {0};
    assert_int_equal(receipt_key_open(os_posix(), path_of(name), true, &k, &ec), ERR_OK);
    return k;
}

static const struct receipt sample = {.user = {"al\"ice \xc3\xbc", 9},
    .erased_at_us = INT64_C(1795376700123456),
    .messages = 40,
    .files = 1,
    .bytes = UINT64_C(5213),
    .backups = {"not covered", 11}};

#define SAMPLE_TEXT                                                                                          \
    "kalamdb erasure receipt 1\n"                                                                            \
    "user: al\"ice \xc3\xbc\n"                                                                               \
    "erasedAt: 2026-11-22T19:45:00.123456Z\n"                                                                \
    "messages: 40\n"                                                                                         \
    "files: 1\n"                                                                                             \
    "bytes: 5213\n"                                                                                          \
    "backups: not covered\n"

static void signed_json(const struct receipt_key *k, struct buf *json)
{
    struct errctx ec = {0};
    assert_int_equal(receipt_sign(k, &sample, json, &ec), ERR_OK);
}

static enum err verify(struct str json, const uint8_t *key)
{
    uint8_t used[RECEIPT_KEY_BYTES];
    struct buf text = BUF_INIT(0);
    struct errctx ec = {0};
    enum err e = receipt_verify(json, key, used, &text, &ec);
    assert_int_equal(e, ec.code);
    buf_release(&text);
    return e;
}

static void key_file(void **state)
{
    (void)state;
    struct stat st;
    struct errctx ec = {0};
    uint8_t first[RECEIPT_KEY_BYTES], second[RECEIPT_KEY_BYTES];
    struct receipt_key *k = NULL;
    assert_int_equal(receipt_key_open(os_posix(), path_of("a.key"), false, &k, &ec), ERR_INVALID_REQUEST);
    k = open_key("a.key");
    receipt_key_public(k, first);
    receipt_key_close(k);
    assert_int_equal(stat(path_of("a.key"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    k = open_key("a.key"); /* not made anew */
    receipt_key_public(k, second);
    receipt_key_close(k);
    assert_memory_equal(first, second, sizeof first);
    k = open_key("b.key");
    receipt_key_public(k, second);
    receipt_key_close(k);
    assert_memory_not_equal(first, second, sizeof first);
    receipt_key_close(NULL);
}

static void put(const char *name, const char *text)
{
    FILE *f = fopen(path_of(name), "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void key_of_another_kind(void **state)
{
    (void)state;
    struct receipt_key *k = NULL;
    struct errctx ec = {0};
    put("bad.key", "");
    assert_int_equal(receipt_key_open(os_posix(), path_of("bad.key"), true, &k, &ec), ERR_INVALID_REQUEST);
    assert_true(ec.hint[0] != '\0');
    put("bad.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    assert_int_equal(receipt_key_open(os_posix(), path_of("bad.key"), true, &k, &ec), ERR_INVALID_REQUEST);
    EVP_PKEY *ec_key = EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
    FILE *f = fopen(path_of("bad.key"), "wb");
    assert_true(
        ec_key != NULL && f != NULL && PEM_write_PKCS8PrivateKey(f, ec_key, NULL, NULL, 0, NULL, NULL));
    fclose(f);
    EVP_PKEY_free(ec_key);
    assert_int_equal(receipt_key_open(os_posix(), path_of("bad.key"), true, &k, &ec), ERR_INVALID_REQUEST);
    assert_null(k);
}

static void round_trip(void **state)
{
    (void)state;
    struct receipt_key *a = open_key("a.key"), *b = open_key("b.key");
    struct buf json = BUF_INIT(0), text = BUF_INIT(0);
    struct errctx ec = {0};
    uint8_t public_a[RECEIPT_KEY_BYTES], public_b[RECEIPT_KEY_BYTES], used[RECEIPT_KEY_BYTES];
    receipt_key_public(a, public_a);
    receipt_key_public(b, public_b);
    receipt_text(&sample, &text);
    assert_str(buf_view(&text), SAMPLE_TEXT);
    signed_json(a, &json);
    buf_clear(&text);
    assert_int_equal(receipt_verify(buf_view(&json), NULL, used, &text, &ec), ERR_OK);
    assert_str(buf_view(&text), SAMPLE_TEXT);
    assert_memory_equal(used, public_a, sizeof used);
    assert_int_equal(verify(buf_view(&json), public_a), ERR_OK);
    assert_int_equal(verify(buf_view(&json), public_b), ERR_FORBIDDEN);
    buf_release(&json);
    buf_release(&text);
    receipt_key_close(a);
    receipt_key_close(b);
}

/* json with the first `from` replaced. */
static void changed(struct str json, const char *from, const char *to, struct buf *ret)
{
    const char *at = memmem(json.ptr, json.len, from, strlen(from));
    assert_non_null(at);
    size_t before = (size_t)(at - json.ptr);
    buf_clear(ret);
    buf_append(ret, json.ptr, before);
    buf_str(ret, str_c(to));
    buf_append(ret, at + strlen(from), json.len - before - strlen(from));
}

static void every_word_counts(void **state)
{
    (void)state;
    static const char *const forged[][2] = {{"\"messages\":40", "\"messages\":41"},
        {"\"files\":1", "\"files\":2"}, {"\"bytes\":5213", "\"bytes\":5214"}, {"ice ", "ina "},
        {".123456Z", ".123457Z"}, {"not covered", "covered"}};
    static const char *const none[][2] = {{"\"messages\":40", "\"messages\":-40"},
        {"\"messages\":40", "\"messages\":40.0"}, {"\"messages\":40", "\"messages\":\"40\""},
        {"\"messages\":40", "\"messages\":40,\"messages\":40"}, {"\"messages\":40,", ""},
        {"\"user\":\"al", "\"user\":\"\\nal"}, {"not covered", "covered\\nx"}, {"2026-11-22", "tomorrow"},
        {"\"signature\":\"", "\"signature\":\"AAAA"}, {"\"key\":\"", "\"key\":\"A"}, {"}", ""}, {"}", "}}"}};
    struct receipt_key *k = open_key("a.key");
    struct buf json = BUF_INIT(0), other = BUF_INIT(0);
    signed_json(k, &json);
    for (size_t i = 0; i < sizeof forged / sizeof *forged; i++) {
        changed(buf_view(&json), forged[i][0], forged[i][1], &other);
        assert_int_equal(verify(buf_view(&other), NULL), ERR_FORBIDDEN);
    }
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        changed(buf_view(&json), none[i][0], none[i][1], &other);
        assert_int_equal(verify(buf_view(&other), NULL), ERR_INVALID_REQUEST);
    }
    for (size_t n = 0; n < json.len; n++)
        assert_int_equal(verify(str_n(json.ptr, n), NULL), ERR_INVALID_REQUEST);
    /* Every single bit. What still holds says the same (a "t" in the time). */
    for (size_t bit = 0; bit < json.len * 8; bit++) {
        uint8_t used[RECEIPT_KEY_BYTES];
        struct buf text = BUF_INIT(0);
        struct errctx ec = {0};
        json.ptr[bit / 8] = (char)(json.ptr[bit / 8] ^ 1 << bit % 8);
        if (receipt_verify(buf_view(&json), NULL, used, &text, &ec) == ERR_OK)
            assert_str(buf_view(&text), SAMPLE_TEXT);
        json.ptr[bit / 8] = (char)(json.ptr[bit / 8] ^ 1 << bit % 8);
        buf_release(&text);
    }
    assert_int_equal(verify(buf_view(&json), NULL), ERR_OK);
    buf_release(&json);
    buf_release(&other);
    receipt_key_close(k);
}

static void base64(void **state)
{
    (void)state;
    uint8_t out[32], zeros[32] = {0};
    assert_true(receipt_base64(STR("AAECAw=="), out, 4));
    assert_memory_equal(out, "\0\1\2\3", 4);
    assert_true(receipt_base64(STR("AAEC"), out, 3));
    memset(out, 0, sizeof out);
    assert_false(receipt_base64(STR("AAECAw"), out, 4));   /* no padding */
    assert_false(receipt_base64(STR("AAECAwQF"), out, 4)); /* more bytes */
    assert_false(receipt_base64(STR("AAECAwQ="), out, 4));
    assert_false(receipt_base64(STR("AAECAx=="), out, 4)); /* bits beyond the last byte */
    assert_false(receipt_base64(STR(" AECAw=="), out, 4));
    assert_false(receipt_base64(STR("AA=CAw=="), out, 4));
    assert_false(receipt_base64(STR("AA-CAw=="), out, 4)); /* another alphabet */
    assert_false(receipt_base64(STR(""), out, 4));
    assert_false(receipt_base64(STR_NULL, out, 4));
    assert_memory_equal(out, zeros, sizeof out);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(key_file), TEST(key_of_another_kind), TEST(round_trip), TEST(every_word_counts), TEST(base64)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
