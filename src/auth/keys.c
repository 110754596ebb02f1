#include "auth/keys.h"
#include "os/os.h"
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

void key_warn(const struct key_warning *w, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    if (w == NULL || w->fn == NULL)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    w->fn(w->arg, text);
}

/* ---- the set ------------------------------------------------------------------------------------------ */

struct key_set *key_set_new(void)
{
    struct key_set *s = calloc(1, sizeof *s);
    if (s != NULL)
        atomic_store(&s->refs, 1);
    return s;
}

struct key_set *key_set_ref(struct key_set *s)
{
    atomic_fetch_add(&s->refs, 1);
    return s;
}

void key_set_unref(struct key_set *s)
{
    if (s == NULL || atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    for (size_t i = 0; i < s->n; i++) {
        struct auth_key *k = &s->keys[i];
        if (k->secret != NULL)
            OPENSSL_cleanse(k->secret, k->secret_len);
        free(k->secret);
        free(k->kid);
        EVP_PKEY_free(k->pkey);
    }
    free(s);
}

static enum err full(struct errctx *ec)
{
    return err_set(ec, ERR_INVALID_REQUEST, "more than %d keys", AUTH_KEYS_MAX);
}

enum err key_set_add_secret(struct key_set *s, struct str secret, struct errctx *ec)
{
    unsigned char hash[32];
    if (secret.len < AUTH_SECRET_BYTES_MIN)
        return err_set(
            ec, ERR_INVALID_REQUEST, "%zu bytes; at least %d are needed", secret.len, AUTH_SECRET_BYTES_MIN);
    if (s->n == AUTH_KEYS_MAX)
        return full(ec);
    struct auth_key *k = &s->keys[s->n];
    k->secret = malloc(secret.len);
    if (k->secret == NULL || !hmac_sha256(secret, STR("kalamdb key id"), hash)) {
        free(k->secret);
        k->secret = NULL;
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    memcpy(k->secret, secret.ptr, secret.len);
    k->secret_len = secret.len;
    k->alg = ALG_HS256;
    k->id = get_be64(hash);
    s->n++;
    return ERR_OK;
}

/* What a public key can be used for here; ALG_NONE: nothing. */
static enum jwt_alg alg_of(EVP_PKEY *pkey)
{
    char group[64];
    size_t n = 0;
    switch (EVP_PKEY_get_base_id(pkey)) {
    case EVP_PKEY_RSA:
        return ALG_RS256;
    case EVP_PKEY_ED25519:
        return ALG_EDDSA;
    case EVP_PKEY_EC:
        if (EVP_PKEY_get_group_name(pkey, group, sizeof group, &n) != 1)
            return ALG_NONE;
        return strcmp(group, "prime256v1") == 0 || strcmp(group, "P-256") == 0 ? ALG_ES256 : ALG_NONE;
    default:
        return ALG_NONE;
    }
}

static bool key_id(EVP_PKEY *pkey, uint64_t *ret)
{
    unsigned char *der = NULL;
    uint8_t hash[32];
    int n = i2d_PUBKEY(pkey, &der);
    if (n <= 0)
        return false;
    sha256(str_n((const char *)der, (size_t)n), hash);
    OPENSSL_free(der);
    *ret = get_be64(hash);
    return true;
}

/* Strong enough, and a point that is on its curve. */
static enum err check_public(EVP_PKEY *pkey, enum jwt_alg alg, struct errctx *ec)
{
    int bits = EVP_PKEY_get_bits(pkey);
    if (alg == ALG_RS256 && (bits < AUTH_RSA_BITS_MIN || bits > AUTH_RSA_BITS_MAX))
        return err_set(ec, ERR_INVALID_REQUEST, "an RSA key of %d bits; %d to %d are accepted", bits,
            AUTH_RSA_BITS_MIN, AUTH_RSA_BITS_MAX);
    EVP_PKEY_CTX *ctx = alg == ALG_EDDSA ? NULL : EVP_PKEY_CTX_new(pkey, NULL);
    bool ok = alg == ALG_EDDSA || (ctx != NULL && EVP_PKEY_public_check(ctx) == 1);
    EVP_PKEY_CTX_free(ctx);
    return ok ? ERR_OK : err_set(ec, ERR_INVALID_REQUEST, "a public key that is not valid");
}

enum err key_set_add_public(struct key_set *s, EVP_PKEY *pkey, enum jwt_alg alg, struct str kid,
    const struct key_warning *warn, struct errctx *ec)
{
    enum jwt_alg can = alg_of(pkey);
    if (can == ALG_NONE || (alg != ALG_NONE && alg != can)) {
        EVP_PKEY_free(pkey);
        key_warn(warn, "a key for another algorithm than RS256, ES256 and EdDSA is passed over");
        return ERR_OK;
    }
    enum err e = check_public(pkey, can, ec);
    struct auth_key *k = &s->keys[s->n];
    uint64_t id = 0;
    if (e == ERR_OK && s->n == AUTH_KEYS_MAX)
        e = full(ec);
    if (e == ERR_OK && !key_id(pkey, &id))
        e = err_set(ec, ERR_INVALID_REQUEST, "a public key that OpenSSL cannot write");
    char *name = e == ERR_OK && kid.ptr != NULL ? strndup(kid.ptr, kid.len) : NULL;
    if (e == ERR_OK && kid.ptr != NULL && name == NULL)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (e != ERR_OK) {
        EVP_PKEY_free(pkey);
        return e;
    }
    *k = (struct auth_key){.alg = can, .id = id, .kid = name, .pkey = pkey};
    s->n++;
    return ERR_OK;
}

/* ---- PEM ---------------------------------------------------------------------------------------------- */

/* NULL: it is none, or damaged. */
static EVP_PKEY *pem_public(const char *name, const unsigned char *der, long n)
{
    EVP_PKEY *pkey = NULL;
    if (strcmp(name, PEM_STRING_PUBLIC) == 0)
        return d2i_PUBKEY(NULL, &der, n);
    if (strcmp(name, PEM_STRING_RSA_PUBLIC) == 0)
        return d2i_PublicKey(EVP_PKEY_RSA, NULL, &der, n);
    if (strcmp(name, PEM_STRING_X509) == 0 || strcmp(name, PEM_STRING_X509_TRUSTED) == 0) {
        X509 *x = d2i_X509(NULL, &der, n);
        pkey = x != NULL ? X509_get_pubkey(x) : NULL;
        X509_free(x);
    }
    return pkey;
}

static enum err add_pem(struct key_set *s, const char *name, const unsigned char *der, long n,
    const struct key_warning *warn, struct errctx *ec)
{
    if (strstr(name, "PRIVATE KEY") != NULL) {
        err_set(ec, ERR_INVALID_REQUEST, "there is a private key in it");
        err_hint(ec, "Checking tokens takes the public half only: openssl pkey -in key.pem -pubout");
        return ec->code;
    }
    EVP_PKEY *pkey = pem_public(name, der, n);
    if (pkey == NULL)
        return err_set(
            ec, ERR_INVALID_REQUEST, "a \"%.60s\" block that is no public key and no certificate", name);
    return key_set_add_public(s, pkey, ALG_NONE, STR_NULL, warn, ec);
}

enum err key_set_read_pem(
    struct key_set *s, struct str text, const struct key_warning *warn, struct errctx *ec)
{
    size_t before = s->n;
    enum err e = ERR_OK;
    if (text.len > AUTH_KEY_FILE_BYTES_MAX)
        return err_set(ec, ERR_INVALID_REQUEST, "over %zu bytes", AUTH_KEY_FILE_BYTES_MAX);
    BIO *bio = BIO_new_mem_buf(text.ptr != NULL ? text.ptr : "", (int)text.len);
    if (bio == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    while (e == ERR_OK) {
        char *name = NULL, *header = NULL;
        unsigned char *der = NULL;
        long n = 0;
        ERR_clear_error();
        if (PEM_read_bio(bio, &name, &header, &der, &n) != 1) {
            if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
                e = err_set(ec, ERR_INVALID_REQUEST, "not PEM, or cut");
            break;
        }
        e = add_pem(s, name, der, n, warn, ec);
        OPENSSL_free(name);
        OPENSSL_free(header);
        OPENSSL_clear_free(der, (size_t)n);
    }
    ERR_clear_error(); /* the thread's queue of errors is not ours to leave things in */
    BIO_free(bio);
    if (e == ERR_OK && s->n == before)
        e = err_set(ec, ERR_INVALID_REQUEST, "no public key or certificate for RS256, ES256 or EdDSA in it");
    return e;
}

/* ---- signatures --------------------------------------------------------------------------------------- */

bool hmac_sha256(struct str key, struct str text, unsigned char ret[32])
{
    unsigned int n = 32;
    return key.len <= INT32_MAX &&
           HMAC(EVP_sha256(), key.ptr, (int)key.len, (const unsigned char *)text.ptr, text.len, ret, &n) !=
               NULL &&
           n == 32;
}

/* RFC 7518, 3.4: R and S as 32 bytes each. OpenSSL wants them in DER; a signature that comes in DER is none.
 */
static int es256_der(struct str raw, unsigned char **ret)
{
    if (raw.len != 64)
        return -1;
    ECDSA_SIG *sig = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn((const unsigned char *)raw.ptr, 32, NULL);
    BIGNUM *s = BN_bin2bn((const unsigned char *)raw.ptr + 32, 32, NULL);
    int n = -1;
    if (sig != NULL && r != NULL && s != NULL && ECDSA_SIG_set0(sig, r, s) == 1) {
        r = s = NULL;
        n = i2d_ECDSA_SIG(sig, ret);
    }
    BN_free(r);
    BN_free(s);
    ECDSA_SIG_free(sig);
    return n;
}

static bool verify_public(const struct auth_key *k, struct str text, struct str signature)
{
    unsigned char *der = NULL;
    const unsigned char *sig = (const unsigned char *)signature.ptr;
    size_t n = signature.len;
    if (k->alg == ALG_RS256 && n != (size_t)EVP_PKEY_get_size(k->pkey))
        return false;
    if (k->alg == ALG_EDDSA && n != 64)
        return false;
    if (k->alg == ALG_ES256) {
        int len = es256_der(signature, &der);
        if (len <= 0)
            return false;
        sig = der;
        n = (size_t)len;
    }
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    bool ok = md != NULL &&
              EVP_DigestVerifyInit(md, NULL, k->alg == ALG_EDDSA ? NULL : EVP_sha256(), NULL, k->pkey) == 1 &&
              EVP_DigestVerify(md, sig, n, (const unsigned char *)text.ptr, text.len) == 1;
    EVP_MD_CTX_free(md);
    OPENSSL_free(der);
    ERR_clear_error();
    return ok;
}

bool auth_key_verify(const struct auth_key *k, struct str text, struct str signature)
{
    unsigned char want[32];
    if (k->alg != ALG_HS256)
        return k->pkey != NULL && verify_public(k, text, signature);
    return signature.len == sizeof want && hmac_sha256(str_n(k->secret, k->secret_len), text, want) &&
           CRYPTO_memcmp(signature.ptr, want, sizeof want) == 0;
}
