/* The bytes are those of the standards: OpenSSL makes the same, of every length and of every split into
 * associated data and text. So what was sealed with the one opens with the other. */
#include "../test.h"
#include "vault/crypt.h"
#include <openssl/evp.h>
#include <openssl/hmac.h>

enum { PLAIN_MAX = 300, LARGE = 70000 };

static void fill(uint8_t *p, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        p[i] = (uint8_t)(seed >> 24);
    }
}

static void openssl_seal(
    const uint8_t *key, const uint8_t *nonce, struct str aad, struct str plain, uint8_t *out)
{
    int n;
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    assert_int_equal(EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, key, nonce), 1);
    if (aad.len > 0)
        assert_int_equal(EVP_EncryptUpdate(c, NULL, &n, (const uint8_t *)aad.ptr, (int)aad.len), 1);
    if (plain.len > 0)
        assert_int_equal(EVP_EncryptUpdate(c, out, &n, (const uint8_t *)plain.ptr, (int)plain.len), 1);
    assert_int_equal(EVP_EncryptFinal_ex(c, out + plain.len, &n), 1);
    assert_int_equal(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, VAULT_TAG_BYTES, out + plain.len), 1);
    EVP_CIPHER_CTX_free(c);
}

static void check(size_t aad_len, size_t len)
{
    static uint8_t text[LARGE], ours[LARGE + VAULT_TAG_BYTES], theirs[LARGE + VAULT_TAG_BYTES], back[LARGE];
    uint8_t key[VAULT_KEY_BYTES], nonce[NONCE_BYTES], aad[64];
    fill(key, sizeof key, (uint32_t)len);
    fill(nonce, sizeof nonce, (uint32_t)aad_len + 1000);
    fill(aad, sizeof aad, 3);
    fill(text, len, 4);
    struct str a = str_n((const char *)aad, aad_len), plain = str_n((const char *)text, len);
    struct str sealed = str_n((const char *)theirs, len + VAULT_TAG_BYTES);
    struct aead k;
    aead_init(&k, key);
    aead_seal(&k, nonce, a, plain, (char *)ours);
    openssl_seal(key, nonce, a, plain, theirs);
    assert_memory_equal(ours, theirs, sealed.len);
    assert_true(aead_open(&k, nonce, a, sealed, (char *)back));
    assert_memory_equal(back, text, len);
    for (size_t bit = 0; bit < 8 * VAULT_TAG_BYTES; bit += 7) {
        theirs[len + bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(aead_open(&k, nonce, a, sealed, (char *)back));
        theirs[len + bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_false(aead_open(&k, nonce, a, str_n(sealed.ptr, VAULT_TAG_BYTES - 1), (char *)back));
}

static void test_aes_gcm_is_openssls(void **state)
{
    (void)state;
    for (size_t len = 0; len <= PLAIN_MAX; len++)
        check(len % 61, len);
    for (size_t aad = 0; aad <= 64; aad++)
        check(aad, 100);
    check(21, LARGE);
}

/* HKDF-Expand to 32 bytes is one HMAC of info and a 1 (RFC 5869, 2.3). */
static void test_derivation_is_hkdfs(void **state)
{
    (void)state;
    uint8_t key[VAULT_KEY_BYTES], info[101], ours[VAULT_KEY_BYTES], theirs[VAULT_KEY_BYTES];
    fill(key, sizeof key, 1);
    for (size_t len = 0; len < sizeof info; len++) {
        unsigned n = 0;
        fill(info, len, 2);
        info[len] = 1;
        assert_non_null(HMAC(EVP_sha256(), key, sizeof key, info, len + 1, theirs, &n));
        derive_key(key, str_n((const char *)info, len), ours);
        assert_memory_equal(ours, theirs, sizeof ours);
    }
}

static void test_wrapping(void **state)
{
    (void)state;
    uint8_t kek[VAULT_KEY_BYTES], key[VAULT_KEY_BYTES], wrapped[WRAPPED_BYTES], theirs[WRAPPED_BYTES];
    uint8_t back[VAULT_KEY_BYTES] = {0};
    static const uint8_t zero[NONCE_BYTES];
    fill(kek, sizeof kek, 1);
    fill(key, sizeof key, 2);
    wrap_key(kek, STR("slot"), key, wrapped);
    openssl_seal(kek, zero, STR("slot"), str_n((const char *)key, sizeof key), theirs);
    assert_memory_equal(wrapped, theirs, sizeof theirs);
    assert_false(unwrap_key(kek, STR("another"), wrapped, back));
    assert_int_equal(back[0] | back[31], 0);
    assert_true(unwrap_key(kek, STR("slot"), wrapped, back));
    assert_memory_equal(back, key, sizeof key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_aes_gcm_is_openssls),
        cmocka_unit_test(test_derivation_is_hkdfs),
        cmocka_unit_test(test_wrapping),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
