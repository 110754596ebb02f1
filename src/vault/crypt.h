/* The two primitives of the vault, from OpenSSL: HKDF-Expand (RFC 5869) and AES-256-GCM (NIST SP 800-38D).
 * Pure functions, any thread; a context: one thread at a time. */
#ifndef KALAMDB_VAULT_CRYPT_H
#define KALAMDB_VAULT_CRYPT_H

#include "vault/vault.h"
#include <openssl/evp.h>

#define NONCE_BYTES 12
#define WRAPPED_BYTES (VAULT_KEY_BYTES + VAULT_TAG_BYTES)

/* 32 bytes derived from a key that is uniformly random (so without HKDF's first step). False: OpenSSL
 * failed. */
bool derive_key(const uint8_t key[VAULT_KEY_BYTES], struct str info, uint8_t ret[VAULT_KEY_BYTES]) CHECKED;

/* A context with the key set; sealing and opening change only the nonce. NULL: out of memory. */
EVP_CIPHER_CTX *gcm_new(const EVP_CIPHER *gcm, const uint8_t key[VAULT_KEY_BYTES]);
/* `out` takes plain.len + 16 bytes. False: OpenSSL failed. */
bool gcm_seal(
    EVP_CIPHER_CTX *c, const uint8_t nonce[NONCE_BYTES], struct str aad, struct str plain, char *out) CHECKED;
/* `sealed` ends in the tag; `out` takes sealed.len - 16 bytes, which count for nothing when it says false. */
bool gcm_open(EVP_CIPHER_CTX *c, const uint8_t nonce[NONCE_BYTES], struct str aad, struct str sealed,
    char *out) CHECKED;

/* A key under a key. The wrapping key must wrap nothing else, ever: the nonce is zero. */
bool wrap_key(const EVP_CIPHER *gcm, const uint8_t kek[VAULT_KEY_BYTES], struct str aad,
    const uint8_t key[VAULT_KEY_BYTES], uint8_t ret[WRAPPED_BYTES]) CHECKED;
bool unwrap_key(const EVP_CIPHER *gcm, const uint8_t kek[VAULT_KEY_BYTES], struct str aad,
    const uint8_t wrapped[WRAPPED_BYTES], uint8_t ret[VAULT_KEY_BYTES]) CHECKED;

#endif
