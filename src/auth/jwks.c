/* A JSON Web Key Set (RFC 7517): keys of RFC 7518, 6.2 and 6.3, and RFC 8037. What is there for others (kty,
 * crv, use, key_ops, alg that mean nothing here) is passed over with a warning, as RFC 7517 section 5 asks;
 * what is wrong or dangerous (a private member, a weak key, a member of the wrong type or length) refuses the
 * whole file, since its author meant something else than what would be loaded. */
#include "auth/keys.h"
#include "base/json.h"
#include <jansson.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/param_build.h>

#define KID_BYTES_MAX 255

static struct str text_of(const json_t *o, const char *name)
{
    const json_t *v = json_object_get(o, name);
    return json_is_string(v) ? str_n(json_string_value(v), json_string_length(v)) : STR_NULL;
}

static enum err bad(struct errctx *ec, const char *what)
{
    return err_set(ec, ERR_INVALID_REQUEST, "a key's %s", what);
}

/* The bytes of a base64url member, min to max of them. */
static bool bytes_of(const json_t *o, const char *name, size_t min, size_t max, struct buf *ret)
{
    struct str t = text_of(o, name);
    buf_clear(ret);
    return t.ptr != NULL && t.len <= max * 2 && base64url_decode(ret, t) && ret->len >= min &&
           ret->len <= max;
}

static EVP_PKEY *from_params(const char *type, OSSL_PARAM *params)
{
    EVP_PKEY *pkey = NULL;
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    if (params == NULL || ctx == NULL || EVP_PKEY_fromdata_init(ctx) != 1 ||
        EVP_PKEY_fromdata(ctx, &pkey, EVP_PKEY_PUBLIC_KEY, params) != 1)
        pkey = NULL;
    EVP_PKEY_CTX_free(ctx);
    return pkey;
}

static EVP_PKEY *rsa_key(struct str n, struct str e)
{
    BIGNUM *bn = BN_bin2bn((const unsigned char *)n.ptr, (int)n.len, NULL);
    BIGNUM *be = BN_bin2bn((const unsigned char *)e.ptr, (int)e.len, NULL);
    OSSL_PARAM_BLD *b = OSSL_PARAM_BLD_new();
    OSSL_PARAM *params = NULL;
    if (bn != NULL && be != NULL && b != NULL && BN_is_odd(be) && !BN_is_one(be) &&
        OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_N, bn) &&
        OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_E, be))
        params = OSSL_PARAM_BLD_to_param(b);
    EVP_PKEY *pkey = params != NULL ? from_params("RSA", params) : NULL;
    OSSL_PARAM_free(params);
    OSSL_PARAM_BLD_free(b);
    BN_free(bn);
    BN_free(be);
    return pkey;
}

static enum err read_rsa(const json_t *o, EVP_PKEY **ret, struct errctx *ec)
{
    struct buf n = BUF_INIT(AUTH_KEY_FILE_BYTES_MAX), e = BUF_INIT(64);
    bool ok = bytes_of(o, "n", 1, AUTH_RSA_BITS_MAX / 8 + 1, &n) && bytes_of(o, "e", 1, 8, &e);
    *ret = ok ? rsa_key(buf_view(&n), buf_view(&e)) : NULL;
    buf_release(&n);
    buf_release(&e);
    return *ret != NULL ? ERR_OK : bad(ec, "n and e are no RSA public key");
}

static enum err read_ec(const json_t *o, EVP_PKEY **ret, struct errctx *ec)
{
    struct buf x = BUF_INIT(64), y = BUF_INIT(64);
    unsigned char point[65] = {POINT_CONVERSION_UNCOMPRESSED};
    char group[] = "P-256";
    bool ok = bytes_of(o, "x", 32, 32, &x) && bytes_of(o, "y", 32, 32, &y);
    if (ok) {
        memcpy(point + 1, x.ptr, 32);
        memcpy(point + 33, y.ptr, 32);
        OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group, 0),
            OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point),
            OSSL_PARAM_construct_end()};
        *ret = from_params("EC", params); /* refuses a point that is not on the curve */
    }
    buf_release(&x);
    buf_release(&y);
    return ok && *ret != NULL ? ERR_OK : bad(ec, "x and y are no point of P-256");
}

static enum err read_okp(const json_t *o, EVP_PKEY **ret, struct errctx *ec)
{
    struct buf x = BUF_INIT(64);
    if (bytes_of(o, "x", 32, 32, &x))
        *ret = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, (const unsigned char *)x.ptr, 32);
    buf_release(&x);
    return *ret != NULL ? ERR_OK : bad(ec, "x is no Ed25519 public key");
}

/* `key_ops`, where there is one, must hold "verify". */
static bool may_verify(const json_t *o)
{
    const json_t *ops = json_object_get(o, "key_ops"), *v;
    size_t i;
    if (ops == NULL)
        return true;
    json_array_foreach(ops, i, v)
    {
        if (json_is_string(v) && strcmp(json_string_value(v), "verify") == 0)
            return true;
    }
    return false;
}

/* Why a key is none of ours; NULL: it is, and *ret_alg says for what. */
static const char *passed_over(const json_t *o, enum jwt_alg *ret_alg)
{
    static const struct {
        struct str kty, crv, alg, other_alg;
        enum jwt_alg is;
    } kinds[] = {{{"RSA", 3}, {NULL, 0}, {"RS256", 5}, {"RS256", 5}, ALG_RS256},
        {{"EC", 2}, {"P-256", 5}, {"ES256", 5}, {"ES256", 5}, ALG_ES256},
        {{"OKP", 3}, {"Ed25519", 7}, {"EdDSA", 5}, {"Ed25519", 7}, ALG_EDDSA}};
    struct str alg = text_of(o, "alg");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (!str_eq(text_of(o, "kty"), kinds[i].kty))
            continue;
        if (kinds[i].crv.ptr != NULL && !str_eq(text_of(o, "crv"), kinds[i].crv))
            return "of another curve";
        if (json_object_get(o, "alg") != NULL && !str_eq(alg, kinds[i].alg) &&
            !str_eq(alg, kinds[i].other_alg))
            return "for another algorithm";
        if (json_object_get(o, "use") != NULL && !str_eq(text_of(o, "use"), STR("sig")))
            return "not for signatures";
        *ret_alg = kinds[i].is;
        return may_verify(o) ? NULL : "not to verify with";
    }
    return "of another kty";
}

static enum err add_key(struct key_set *s, const json_t *o, const struct key_warning *warn, struct errctx *ec)
{
    static const char *const private[] = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"};
    const json_t *kid_value = json_object_get(o, "kid");
    struct str kid = text_of(o, "kid");
    enum jwt_alg alg = ALG_NONE;
    EVP_PKEY *pkey = NULL;
    if (!json_is_object(o))
        return err_set(ec, ERR_INVALID_REQUEST, "an element of keys is no object");
    for (size_t i = 0; i < sizeof private / sizeof *private; i++)
        if (json_object_get(o, private[i]) != NULL)
            return err_set(ec, ERR_INVALID_REQUEST,
                "a key has the member \"%s\", which is secret: only public keys belong here", private[i]);
    if (kid_value != NULL && (kid.ptr == NULL || kid.len > KID_BYTES_MAX || strlen(kid.ptr) != kid.len))
        return bad(ec, "kid is no text of up to 255 bytes");
    const char *why = passed_over(o, &alg);
    if (why != NULL) {
        key_warn(warn, "the key \"%.64s\" is %s and passed over", kid.ptr != NULL ? kid.ptr : "", why);
        return ERR_OK;
    }
    enum err e = alg == ALG_RS256   ? read_rsa(o, &pkey, ec)
                 : alg == ALG_ES256 ? read_ec(o, &pkey, ec)
                                    : read_okp(o, &pkey, ec);
    return e == ERR_OK ? key_set_add_public(s, pkey, alg, kid, warn, ec) : e;
}

enum err key_set_read_jwks(
    struct key_set *s, struct str text, const struct key_warning *warn, struct errctx *ec)
{
    size_t before = s->n, i;
    enum err e = ERR_OK;
    const json_t *key;
    if (text.len > AUTH_KEY_FILE_BYTES_MAX)
        return err_set(ec, ERR_INVALID_REQUEST, "over %zu bytes", AUTH_KEY_FILE_BYTES_MAX);
    json_t *o = json_loadb(text.ptr != NULL ? text.ptr : "", text.len, JSON_REJECT_DUPLICATES, NULL);
    const json_t *keys = json_object_get(o, "keys");
    if (!json_is_array(keys))
        e = err_set(ec, ERR_INVALID_REQUEST, "no JSON object with an array \"keys\"");
    json_array_foreach(keys, i, key)
    {
        if (e == ERR_OK)
            e = add_key(s, key, warn, ec);
    }
    json_decref(o);
    ERR_clear_error(); /* the thread's queue of errors is not ours to leave things in */
    if (e == ERR_OK && s->n == before)
        e = err_set(ec, ERR_INVALID_REQUEST, "no key for RS256, ES256 or EdDSA in it");
    return e;
}
