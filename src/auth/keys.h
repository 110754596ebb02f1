/* The keys that tokens are checked with. Each is pinned to one algorithm when it is loaded (RFC 8725, 3.1 and
 * 3.2): HS256 is for the configured secret alone, RS256 for RSA keys of 2,048 bits and more, ES256 for P-256,
 * EdDSA for Ed25519. A public key is therefore never an HMAC's secret, whatever a token says.
 *
 * A set is immutable once filled: any thread. References are counted. */
#ifndef KALAMDB_AUTH_KEYS_H
#define KALAMDB_AUTH_KEYS_H

#include "base/buf.h"
#include "base/err.h"
#include <openssl/evp.h>

#define AUTH_KEYS_MAX 32 /* also how many one token without `kid` is tried with */
#define AUTH_KEY_FILE_BYTES_MAX ((size_t)256 << 10)
#define AUTH_RSA_BITS_MIN 2048
#define AUTH_RSA_BITS_MAX 16384
#define AUTH_SECRET_BYTES_MIN 32

enum jwt_alg { ALG_NONE, ALG_HS256, ALG_RS256, ALG_ES256, ALG_EDDSA };

struct auth_key {
    enum jwt_alg alg;
    uint64_t id;    /* of a hash of the key: the same key has the same id in every set */
    char *kid;      /* NULL: it has no name */
    EVP_PKEY *pkey; /* public; NULL for HS256 */
    char *secret;
    size_t secret_len;
};

struct key_set {
    _Atomic uint32_t refs;
    size_t n;
    struct auth_key keys[AUTH_KEYS_MAX];
};

/* Told what was passed over while a file was read, in words for an operator. `fn` may be NULL. */
struct key_warning {
    void (*fn)(void *arg, const char *text);
    void *arg;
};
void key_warn(const struct key_warning *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

struct key_set *key_set_new(void); /* NULL: out of memory */
struct key_set *key_set_ref(struct key_set *s);
void key_set_unref(struct key_set *s); /* NULL allowed; wipes secrets */

/* The texts are copied. INVALID_REQUEST with an operator's message, as all below: too short, too many keys.
 */
enum err key_set_add_secret(struct key_set *s, struct str secret, struct errctx *ec) CHECKED;
/* Takes `pkey`, whatever comes. Keys of a kind that no algorithm here uses are passed over with a warning
 * (*ret_taken false, ret_taken may be NULL); weak RSA is refused. `alg` is what the key's file says it is
 * for, ALG_NONE when nothing. */
enum err key_set_add_public(struct key_set *s, EVP_PKEY *pkey, enum jwt_alg alg, struct str kid,
    const struct key_warning *warn, struct errctx *ec) CHECKED;
/* PEM: one or several public keys or certificates. A private key in it is refused: a server that only checks
 * tokens should not hold one. */
enum err key_set_read_pem(
    struct key_set *s, struct str text, const struct key_warning *warn, struct errctx *ec) CHECKED;
/* RFC 7517. */
enum err key_set_read_jwks(
    struct key_set *s, struct str text, const struct key_warning *warn, struct errctx *ec) CHECKED;

/* Is `signature` (raw bytes, as RFC 7518 has them) over `text` by this key? */
bool auth_key_verify(const struct auth_key *k, struct str text, struct str signature);
bool hmac_sha256(struct str key, struct str text, unsigned char ret[32]);

#endif
