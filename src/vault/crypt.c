#include "vault/crypt.h"
#include <nettle/hmac.h>

/* nettle takes ciphers by a function of void; its own GCM functions for AES cast the same way. */
#define CIPHER(a) &(a)->cipher, (nettle_cipher_func *)aes256_encrypt

static const uint8_t *bytes(struct str s)
{
    return (const uint8_t *)s.ptr;
}

void derive_key(const uint8_t key[VAULT_KEY_BYTES], struct str info, uint8_t ret[VAULT_KEY_BYTES])
{
    struct hmac_sha256_ctx h;
    hmac_sha256_set_key(&h, VAULT_KEY_BYTES, key);
    hmac_sha256_update(&h, info.len, bytes(info));
    hmac_sha256_update(&h, 1, (const uint8_t[]){1}); /* T(1): one block of SHA-256 is the whole output */
    hmac_sha256_digest(&h, VAULT_KEY_BYTES, ret);
    vault_wipe(&h, sizeof h);
}

void aead_init(struct aead *a, const uint8_t key[VAULT_KEY_BYTES])
{
    aes256_set_encrypt_key(&a->cipher, key);
    gcm_set_key(&a->hash, CIPHER(a));
}

void aead_seal(
    const struct aead *a, const uint8_t nonce[NONCE_BYTES], struct str aad, struct str plain, char *out)
{
    struct gcm_ctx message;
    gcm_set_iv(&message, &a->hash, NONCE_BYTES, nonce);
    gcm_update(&message, &a->hash, aad.len, bytes(aad));
    gcm_encrypt(&message, &a->hash, CIPHER(a), plain.len, (uint8_t *)out, bytes(plain));
    gcm_digest(&message, &a->hash, CIPHER(a), VAULT_TAG_BYTES, (uint8_t *)out + plain.len);
}

/* In a time that does not depend on where they differ. */
static bool same_tag(const uint8_t *a, const char *b)
{
    uint64_t x[2], y[2];
    memcpy(x, a, sizeof x);
    memcpy(y, b, sizeof y);
    return ((x[0] ^ y[0]) | (x[1] ^ y[1])) == 0;
}

bool aead_open(
    const struct aead *a, const uint8_t nonce[NONCE_BYTES], struct str aad, struct str sealed, char *out)
{
    struct gcm_ctx message;
    uint8_t tag[VAULT_TAG_BYTES];
    if (sealed.len < VAULT_TAG_BYTES)
        return false;
    size_t len = sealed.len - VAULT_TAG_BYTES;
    gcm_set_iv(&message, &a->hash, NONCE_BYTES, nonce);
    gcm_update(&message, &a->hash, aad.len, bytes(aad));
    gcm_decrypt(&message, &a->hash, CIPHER(a), len, (uint8_t *)out, bytes(sealed));
    gcm_digest(&message, &a->hash, CIPHER(a), VAULT_TAG_BYTES, tag);
    return same_tag(tag, sealed.ptr + len);
}

static const uint8_t zero_nonce[NONCE_BYTES];

void wrap_key(const uint8_t kek[VAULT_KEY_BYTES], struct str aad, const uint8_t key[VAULT_KEY_BYTES],
    uint8_t ret[WRAPPED_BYTES])
{
    struct aead a;
    aead_init(&a, kek);
    aead_seal(&a, zero_nonce, aad, str_n((const char *)key, VAULT_KEY_BYTES), (char *)ret);
    vault_wipe(&a, sizeof a);
}

bool unwrap_key(const uint8_t kek[VAULT_KEY_BYTES], struct str aad, const uint8_t wrapped[WRAPPED_BYTES],
    uint8_t ret[VAULT_KEY_BYTES])
{
    uint8_t key[VAULT_KEY_BYTES];
    struct aead a;
    aead_init(&a, kek);
    bool good = aead_open(&a, zero_nonce, aad, str_n((const char *)wrapped, WRAPPED_BYTES), (char *)key);
    vault_wipe(&a, sizeof a);
    if (good)
        memcpy(ret, key, sizeof key);
    vault_wipe(key, sizeof key);
    return good;
}
