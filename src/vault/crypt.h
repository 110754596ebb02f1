/* The two primitives of the vault's keys and values: HKDF-Expand (RFC 5869) and AES-256-GCM (NIST SP
 * 800-38D). From nettle: a value is a few hundred bytes, of which OpenSSL's EVP spends more on its parameters
 * than on the cipher, and nettle's keys are plain structs that may lie in locked memory. Bulk is OpenSSL's
 * (sealed_file.h), which is faster from about 1.5 KB on; the bytes are the same.
 * Pure functions, any thread; a key that is not being set may be used by any number at once. */
#ifndef KALAMDB_VAULT_CRYPT_H
#define KALAMDB_VAULT_CRYPT_H

#include "vault/vault.h"
#include <nettle/aes.h>
#include <nettle/gcm.h>

#define NONCE_BYTES GCM_IV_SIZE
#define WRAPPED_BYTES (VAULT_KEY_BYTES + VAULT_TAG_BYTES)

/* 32 bytes derived from a key that is uniformly random (so without HKDF's first step). */
void derive_key(const uint8_t key[VAULT_KEY_BYTES], struct str info, uint8_t ret[VAULT_KEY_BYTES]);

/* A key as sealing wants it. Secret; the owner wipes. */
struct aead {
    struct gcm_key hash;
    struct aes256_ctx cipher;
};
void aead_init(struct aead *a, const uint8_t key[VAULT_KEY_BYTES]);
/* `out` takes plain.len + 16 bytes; it overlaps nothing. */
void aead_seal(
    const struct aead *a, const uint8_t nonce[NONCE_BYTES], struct str aad, struct str plain, char *out);
/* `sealed` ends in the tag; `out` takes sealed.len - 16 bytes, which count for nothing when it says false. */
bool aead_open(const struct aead *a, const uint8_t nonce[NONCE_BYTES], struct str aad, struct str sealed,
    char *out) CHECKED;

/* A key under a key. The wrapping key must wrap nothing else, ever: the nonce is zero. */
void wrap_key(const uint8_t kek[VAULT_KEY_BYTES], struct str aad, const uint8_t key[VAULT_KEY_BYTES],
    uint8_t ret[WRAPPED_BYTES]);
bool unwrap_key(const uint8_t kek[VAULT_KEY_BYTES], struct str aad, const uint8_t wrapped[WRAPPED_BYTES],
    uint8_t ret[VAULT_KEY_BYTES]) CHECKED;

#endif
