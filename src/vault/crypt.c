#include "vault/crypt.h"
#include <limits.h>
#include <openssl/hmac.h>

bool derive_key(const uint8_t key[VAULT_KEY_BYTES], struct str info, uint8_t ret[VAULT_KEY_BYTES])
{
    uint8_t block[128];
    unsigned len = 0;
    if (info.len + 1 > sizeof block)
        return false;
    memcpy(block, info.ptr, info.len);
    block[info.len] = 1; /* T(1): one block of SHA-256 is the whole output */
    return HMAC(EVP_sha256(), key, VAULT_KEY_BYTES, block, info.len + 1, ret, &len) != NULL &&
           len == VAULT_KEY_BYTES;
}

EVP_CIPHER_CTX *gcm_new(const EVP_CIPHER *gcm, const uint8_t key[VAULT_KEY_BYTES])
{
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    if (c != NULL && EVP_EncryptInit_ex(c, gcm, NULL, key, NULL) != 1) {
        EVP_CIPHER_CTX_free(c);
        c = NULL;
    }
    return c;
}

bool gcm_seal(
    EVP_CIPHER_CTX *c, const uint8_t nonce[NONCE_BYTES], struct str aad, struct str plain, char *out)
{
    int n;
    if (plain.len > INT_MAX - VAULT_TAG_BYTES || aad.len > INT_MAX)
        return false;
    if (EVP_EncryptInit_ex(c, NULL, NULL, NULL, nonce) != 1)
        return false;
    if (aad.len > 0 && EVP_EncryptUpdate(c, NULL, &n, (const uint8_t *)aad.ptr, (int)aad.len) != 1)
        return false;
    if (plain.len > 0 &&
        EVP_EncryptUpdate(c, (uint8_t *)out, &n, (const uint8_t *)plain.ptr, (int)plain.len) != 1)
        return false;
    return EVP_EncryptFinal_ex(c, (uint8_t *)out + plain.len, &n) == 1 &&
           EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, VAULT_TAG_BYTES, out + plain.len) == 1;
}

bool gcm_open(
    EVP_CIPHER_CTX *c, const uint8_t nonce[NONCE_BYTES], struct str aad, struct str sealed, char *out)
{
    int n;
    if (sealed.len < VAULT_TAG_BYTES || sealed.len > INT_MAX || aad.len > INT_MAX)
        return false;
    size_t len = sealed.len - VAULT_TAG_BYTES;
    uint8_t tag[VAULT_TAG_BYTES];
    memcpy(tag, sealed.ptr + len, sizeof tag);
    if (EVP_DecryptInit_ex(c, NULL, NULL, NULL, nonce) != 1)
        return false;
    if (aad.len > 0 && EVP_DecryptUpdate(c, NULL, &n, (const uint8_t *)aad.ptr, (int)aad.len) != 1)
        return false;
    if (len > 0 && EVP_DecryptUpdate(c, (uint8_t *)out, &n, (const uint8_t *)sealed.ptr, (int)len) != 1)
        return false;
    return EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, VAULT_TAG_BYTES, tag) == 1 &&
           EVP_DecryptFinal_ex(c, (uint8_t *)out + len, &n) == 1;
}

static const uint8_t zero_nonce[NONCE_BYTES];

bool wrap_key(const EVP_CIPHER *gcm, const uint8_t kek[VAULT_KEY_BYTES], struct str aad,
    const uint8_t key[VAULT_KEY_BYTES], uint8_t ret[WRAPPED_BYTES])
{
    EVP_CIPHER_CTX *c = gcm_new(gcm, kek);
    bool good =
        c != NULL && gcm_seal(c, zero_nonce, aad, str_n((const char *)key, VAULT_KEY_BYTES), (char *)ret);
    EVP_CIPHER_CTX_free(c);
    return good;
}

bool unwrap_key(const EVP_CIPHER *gcm, const uint8_t kek[VAULT_KEY_BYTES], struct str aad,
    const uint8_t wrapped[WRAPPED_BYTES], uint8_t ret[VAULT_KEY_BYTES])
{
    uint8_t key[VAULT_KEY_BYTES];
    EVP_CIPHER_CTX *c = gcm_new(gcm, kek);
    bool good =
        c != NULL && gcm_open(c, zero_nonce, aad, str_n((const char *)wrapped, WRAPPED_BYTES), (char *)key);
    EVP_CIPHER_CTX_free(c);
    if (good)
        memcpy(ret, key, sizeof key);
    vault_wipe(key, sizeof key);
    return good;
}
