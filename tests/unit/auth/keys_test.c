/* Asymmetric keys: the vectors of RFC 7515 A.2, A.3 and RFC 8037 A.4; what a hostile token, a weak key, a
 * private key or a broken file meets; rotation. */
#include "../test.h"
#include "auth/jwt.h"
#include "base/json.h"
#include "os/os.h"
#include <openssl/ecdsa.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOW INT64_C(1800000000)
#define PAYLOAD "{\"sub\":\"alice\",\"exp\":1800000060,\"jti\":\"t-1\"}"

static int warnings;

static void count_warning(void *arg, const char *text)
{
    (void)arg;
    (void)text;
    warnings++;
}
static const struct key_warning counting = {count_warning, NULL};

static enum err jwks(struct key_set **ret, const char *text)
{
    struct errctx ec;
    *ret = key_set_new();
    warnings = 0;
    return key_set_read_jwks(*ret, str_c(text), &counting, &ec);
}

/* ---- vectors ---- */

#define RFC7515_N                                                                                            \
    "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-"     \
    "yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-"    \
    "KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-"                   \
    "DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
#define RFC7515_RS256_SIGNATURE                                                                              \
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_"                  \
    "O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L0" \
    "7Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6L" \
    "bgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
#define RFC7515_PAYLOAD                                                                                      \
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
#define RSA_JWK "{\"kty\":\"RSA\",\"n\":\"" RFC7515_N "\",\"e\":\"AQAB\"}"
#define EC_JWK                                                                                               \
    "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","               \
    "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}"
#define OKP_JWK "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}"

static void vectors_of_the_rfcs(void **state)
{
    (void)state;
    static const struct {
        const char *jwk, *text, *signature;
        enum jwt_alg alg;
    } cases[] = {
        {RSA_JWK, "eyJhbGciOiJSUzI1NiJ9." RFC7515_PAYLOAD, RFC7515_RS256_SIGNATURE, ALG_RS256},
        {EC_JWK, "eyJhbGciOiJFUzI1NiJ9." RFC7515_PAYLOAD,
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            ALG_ES256},
        {OKP_JWK, "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            ALG_EDDSA},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct key_set *s;
        char text[2048];
        struct buf signature = BUF_INIT(0);
        snprintf(text, sizeof text, "{\"keys\":[%s]}", cases[i].jwk);
        assert_int_equal(jwks(&s, text), ERR_OK);
        assert_int_equal(s->n, 1);
        assert_int_equal(s->keys[0].alg, cases[i].alg);
        assert_true(base64url_decode(&signature, str_c(cases[i].signature)));
        assert_true(auth_key_verify(&s->keys[0], str_c(cases[i].text), buf_view(&signature)));
        for (size_t at = 0; at < signature.len; at++) { /* no bit may differ, no byte may be missing */
            signature.ptr[at] ^= 1;
            assert_false(auth_key_verify(&s->keys[0], str_c(cases[i].text), buf_view(&signature)));
            signature.ptr[at] ^= 1;
            assert_false(auth_key_verify(&s->keys[0], str_c(cases[i].text), str_n(signature.ptr, at)));
        }
        assert_false(auth_key_verify(&s->keys[0], str_c(cases[i].text + 1), buf_view(&signature)));
        buf_release(&signature);
        key_set_unref(s);
    }
}

/* ---- signing, as an issuer does ---- */

static EVP_PKEY *make(const char *kind)
{
    EVP_PKEY *k = strcmp(kind, "RSA") == 0  ? EVP_RSA_gen(2048)
                  : strcmp(kind, "EC") == 0 ? EVP_EC_gen("P-256")
                                            : EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    assert_non_null(k);
    return k;
}

static void sign_raw(EVP_PKEY *k, const char *header, bool der, struct buf *b)
{
    unsigned char sig[1024];
    size_t n = sizeof sig;
    int id = EVP_PKEY_get_base_id(k);
    buf_clear(b);
    base64url_encode(b, str_c(header));
    buf_u8(b, '.');
    base64url_encode(b, STR(PAYLOAD));
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    assert_int_equal(EVP_DigestSignInit(md, NULL, id == EVP_PKEY_ED25519 ? NULL : EVP_sha256(), NULL, k), 1);
    assert_int_equal(EVP_DigestSign(md, sig, &n, (unsigned char *)b->ptr, b->len), 1);
    EVP_MD_CTX_free(md);
    if (id == EVP_PKEY_EC && !der) {
        const unsigned char *p = sig;
        ECDSA_SIG *s = d2i_ECDSA_SIG(NULL, &p, (long)n);
        BN_bn2binpad(ECDSA_SIG_get0_r(s), sig, 32);
        BN_bn2binpad(ECDSA_SIG_get0_s(s), sig + 32, 32);
        ECDSA_SIG_free(s);
        n = 64;
    }
    buf_u8(b, '.');
    base64url_encode(b, str_n((char *)sig, n));
}

static void sign_hmac(struct str key, const char *header, struct buf *b)
{
    unsigned char mac[32];
    buf_clear(b);
    base64url_encode(b, str_c(header));
    buf_u8(b, '.');
    base64url_encode(b, STR(PAYLOAD));
    assert_true(hmac_sha256(key, buf_view(b), mac));
    buf_u8(b, '.');
    base64url_encode(b, str_n((char *)mac, sizeof mac));
}

static void pem_of(EVP_PKEY *k, bool secret, struct buf *ret)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *p;
    if (secret)
        assert_int_equal(PEM_write_bio_PrivateKey(bio, k, NULL, NULL, 0, NULL, NULL), 1);
    else
        assert_int_equal(PEM_write_bio_PUBKEY(bio, k), 1);
    long n = BIO_get_mem_data(bio, &p);
    buf_append(ret, p, (size_t)n);
    BIO_free(bio);
}

static enum jwt_result verify(const struct key_set *s, const struct buf *token, struct identity *id)
{
    struct jwt_rules rules = {.keys = s, .leeway_s = 30, .now_s = NOW};
    return jwt_verify(buf_view(token), &rules, id);
}

static const struct {
    const char *kind, *alg;
} kinds[] = {{"RSA", "RS256"}, {"EC", "ES256"}, {"OKP", "EdDSA"}};

static void every_algorithm_signs_by_pem(void **state)
{
    (void)state;
    struct buf token = BUF_INIT(0), pem = BUF_INIT(0);
    struct key_set *all = key_set_new();
    struct errctx ec;
    EVP_PKEY *keys[3];
    for (int i = 0; i < 3; i++) {
        keys[i] = make(kinds[i].kind);
        buf_str(&pem, STR("a comment between\n"));
        pem_of(keys[i], false, &pem);
    }
    assert_int_equal(key_set_read_pem(all, buf_view(&pem), NULL, &ec), ERR_OK);
    assert_int_equal(all->n, 3);
    for (int i = 0; i < 3; i++) {
        struct identity id;
        char header[64];
        snprintf(header, sizeof header, "{\"alg\":\"%s\",\"kid\":\"any\"}", kinds[i].alg);
        sign_raw(keys[i], header, false, &token);
        assert_int_equal(verify(all, &token, &id), JWT_OK);
        assert_string_equal(id.user_id, "alice");
        assert_string_equal(id.jti, "t-1");
        assert_int_equal(id.key_id, all->keys[i].id);
        /* the signature is right, the algorithm that is named is another */
        for (int j = 0; j < 3; j++) {
            snprintf(header, sizeof header, "{\"alg\":\"%s\"}", kinds[j].alg);
            sign_raw(keys[i], header, false, &token);
            assert_int_equal(verify(all, &token, &id), i == j ? JWT_OK : JWT_INVALID);
        }
        snprintf(header, sizeof header, "{\"alg\":\"%s\",\"crit\":[\"exp\"]}", kinds[i].alg);
        sign_raw(keys[i], header, false, &token);
        assert_int_equal(verify(all, &token, &id), JWT_INVALID);
        sign_raw(keys[i], "{\"alg\":\"none\"}", false, &token);
        assert_int_equal(verify(all, &token, &id), JWT_INVALID);
    }
    for (int i = 0; i < 3; i++)
        EVP_PKEY_free(keys[i]);
    key_set_unref(all);
    buf_release(&token);
    buf_release(&pem);
}

/* RFC 8725, 2.1: the public key, which everybody has, as the secret of an HMAC, in every form it may take. */
static void a_public_key_is_no_secret(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        EVP_PKEY *k = make(kinds[i].kind);
        struct buf pem = BUF_INIT(0), token = BUF_INIT(0);
        struct key_set *s = key_set_new();
        struct errctx ec;
        struct identity id;
        unsigned char *der = NULL;
        pem_of(k, false, &pem);
        int n = i2d_PUBKEY(k, &der);
        assert_int_equal(key_set_read_pem(s, buf_view(&pem), NULL, &ec), ERR_OK);
        struct str forms[] = {
            buf_view(&pem), str_trim(buf_view(&pem)), str_n((char *)der, (size_t)n), STR("")};
        for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
            char header[64];
            sign_hmac(forms[f], "{\"alg\":\"HS256\"}", &token);
            assert_int_equal(verify(s, &token, &id), JWT_INVALID);
            snprintf(header, sizeof header, "{\"alg\":\"%s\"}", kinds[i].alg);
            sign_hmac(forms[f], header, &token);
            assert_int_equal(verify(s, &token, &id), JWT_INVALID);
        }
        OPENSSL_free(der);
        EVP_PKEY_free(k);
        key_set_unref(s);
        buf_release(&pem);
        buf_release(&token);
    }
}

static void es256_signatures_are_raw(void **state)
{
    (void)state;
    EVP_PKEY *k = make("EC");
    struct buf pem = BUF_INIT(0), token = BUF_INIT(0);
    struct key_set *s = key_set_new();
    struct errctx ec;
    struct identity id;
    pem_of(k, false, &pem);
    assert_int_equal(key_set_read_pem(s, buf_view(&pem), NULL, &ec), ERR_OK);
    sign_raw(k, "{\"alg\":\"ES256\"}", true, &token);
    assert_int_equal(verify(s, &token, &id), JWT_INVALID);
    char zeros[64] = {0}; /* r = s = 0: CVE-2022-21449 */
    assert_false(auth_key_verify(&s->keys[0], STR("any"), str_n(zeros, sizeof zeros)));
    EVP_PKEY_free(k);
    key_set_unref(s);
    buf_release(&pem);
    buf_release(&token);
}

static void a_weak_or_private_key_is_refused(void **state)
{
    (void)state;
    struct errctx ec = {0};
    EVP_PKEY *weak = EVP_RSA_gen(1024), *fine = make("EC"), *other = EVP_EC_gen("P-384");
    struct buf pem = BUF_INIT(0);
    struct key_set *s = key_set_new();
    pem_of(fine, false, &pem);
    pem_of(weak, false, &pem);
    assert_int_equal(key_set_read_pem(s, buf_view(&pem), NULL, &ec), ERR_INVALID_REQUEST);
    assert_string_equal(ec.message, "an RSA key of 1024 bits; 2048 to 16384 are accepted");
    buf_clear(&pem);
    pem_of(fine, true, &pem);
    assert_int_equal(key_set_read_pem(s, buf_view(&pem), NULL, &ec), ERR_INVALID_REQUEST);
    assert_string_equal(ec.message, "there is a private key in it");
    key_set_unref(s);
    s = key_set_new();
    warnings = 0;
    buf_clear(&pem);
    pem_of(other, false, &pem);
    assert_int_equal(key_set_read_pem(s, buf_view(&pem), &counting, &ec), ERR_INVALID_REQUEST);
    assert_int_equal(warnings, 1); /* passed over, and nothing was left */
    buf_clear(&pem);
    pem_of(fine, false, &pem);
    for (size_t n = 1; n + 1 < pem.len; n++) { /* cut anywhere: no crash, no key */
        struct key_set *cut = key_set_new();
        assert_int_equal(key_set_read_pem(cut, str_n(pem.ptr, n), NULL, &ec), ERR_INVALID_REQUEST);
        key_set_unref(cut);
    }
    EVP_PKEY_free(weak);
    EVP_PKEY_free(fine);
    EVP_PKEY_free(other);
    key_set_unref(s);
    buf_release(&pem);
}

#define KEYS(...) "{\"keys\":[" __VA_ARGS__ "]}"

static void jwks_files(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int keys, warnings; /* keys 0: refused */
    } cases[] = {
        {KEYS(RSA_JWK "," EC_JWK "," OKP_JWK), 3, 0},
        {KEYS(RSA_JWK ",{\"kty\":\"new\"},{},{\"kty\":\"EC\",\"crv\":\"P-521\"}"), 1, 3},
        {KEYS(OKP_JWK ",{\"kty\":\"RSA\",\"use\":\"enc\"},{\"kty\":\"RSA\",\"alg\":\"PS256\"},"
                      "{\"kty\":\"EC\",\"crv\":\"P-256\",\"key_ops\":[\"sign\"]}"),
            1, 3},
        {KEYS("{\"kty\":\"oct\"}"), 0, 1}, /* nothing left */
        {KEYS(""), 0, 0},
        {"{}", 0, 0},
        {"[]", 0, 0},
        {"", 0, 0},
        {"{\"keys\":[7]}", 0, 0},
        {"{\"keys\":{}}", 0, 0},
        {KEYS(OKP_JWK ",{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AA\"}"), 0, 0},
        {KEYS(OKP_JWK ",{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"d\":\"AA\"}"), 0, 0},
        {KEYS(OKP_JWK ",{\"kty\":\"oct\",\"k\":\"AAAA\"}"), 0, 0},
        {KEYS(OKP_JWK ",{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}"), 0, 0},
        {KEYS(OKP_JWK ",{\"kty\":\"RSA\",\"n\":\"" RFC7515_N "\",\"e\":\"Ag\"}"), 0, 0}, /* 2 */
        {KEYS(OKP_JWK ",{\"kty\":\"RSA\",\"n\":\"" RFC7515_N "\",\"e\":\"AQ\"}"), 0, 0}, /* 1 */
        {KEYS(OKP_JWK ",{\"kty\":\"RSA\",\"n\":\"" RFC7515_N "\",\"e\":\"=\"}"), 0, 0},
        {KEYS(OKP_JWK ",{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":7,\"x\":\"AA\"}"), 0, 0},
        /* not on the curve */
        {KEYS("{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
              "\"y\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\"}"),
            0, 0},
        {"{\"keys\":[" OKP_JWK "],\"keys\":[]}", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct key_set *s;
        enum err e = jwks(&s, cases[i].text);
        if (e != (cases[i].keys > 0 ? ERR_OK : ERR_INVALID_REQUEST) ||
            (cases[i].keys > 0 && (int)s->n != cases[i].keys) || warnings != cases[i].warnings)
            fail_msg("case %zu: %d, %zu keys, %d warnings", i, e, s->n, warnings);
        key_set_unref(s);
    }
    struct buf many = BUF_INIT(0);
    struct key_set *s;
    buf_str(&many, STR("{\"keys\":["));
    for (int i = 0; i <= AUTH_KEYS_MAX; i++)
        buf_printf(&many, "%s%s", i > 0 ? "," : "", OKP_JWK);
    buf_str(&many, STR("]}\0"));
    buf_u8(&many, 0);
    assert_int_equal(jwks(&s, many.ptr), ERR_INVALID_REQUEST);
    key_set_unref(s);
    buf_release(&many);
}

/* ---- files that change ---- */

static void jwk_of(EVP_PKEY *ed25519, const char *kid, struct buf *b)
{
    unsigned char raw[32];
    size_t n = sizeof raw;
    assert_int_equal(EVP_PKEY_get_raw_public_key(ed25519, raw, &n), 1);
    buf_printf(
        b, "%s{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"%s\",\"x\":\"", b->len > 0 ? "," : "", kid);
    base64url_encode(b, str_n((char *)raw, n));
    buf_str(b, STR("\"}"));
}

static void put_jwks(const char *path, EVP_PKEY *a, EVP_PKEY *b)
{
    struct buf keys = BUF_INIT(0), file = BUF_INIT(0);
    struct errctx ec;
    if (a != NULL)
        jwk_of(a, "old", &keys);
    if (b != NULL)
        jwk_of(b, "new", &keys);
    buf_printf(&file, "{\"keys\":[%.*s]}", (int)keys.len, keys.ptr);
    assert_int_equal(os_write_file(os_posix(), path, buf_view(&file), 0600, &ec), ERR_OK);
    buf_release(&keys);
    buf_release(&file);
}

static void keys_rotate(void **state)
{
    (void)state;
    char dir[] = "/tmp/kalamdb-keys-XXXXXX", path[64];
    struct auth *a = NULL;
    struct errctx ec;
    struct identity id;
    struct buf by_old = BUF_INIT(0), by_new = BUF_INIT(0), crossed = BUF_INIT(0), minted = BUF_INIT(0);
    bool changed;
    EVP_PKEY *old = make("OKP"), *next = make("OKP");
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/jwks.json", dir);
    sign_raw(old, "{\"alg\":\"EdDSA\",\"kid\":\"old\"}", false, &by_old);
    sign_raw(next, "{\"alg\":\"EdDSA\",\"kid\":\"new\"}", false, &by_new);
    sign_raw(next, "{\"alg\":\"EdDSA\",\"kid\":\"old\"}", false, &crossed);
    struct auth_config cfg = {.jwks_path = path, .leeway_s = 30, .os = os_posix()};
    assert_int_equal(auth_open(&cfg, &a, &ec), ERR_INVALID_REQUEST); /* no such file */

    put_jwks(path, old, NULL);
    assert_int_equal(auth_open(&cfg, &a, &ec), ERR_OK);
    assert_int_equal(auth_verify(a, buf_view(&by_old), NOW, &id, &ec), ERR_OK);
    uint64_t old_id = id.key_id;
    assert_int_equal(auth_verify(a, buf_view(&by_new), NOW, &id, &ec), ERR_UNAUTHENTICATED);
    assert_false(auth_mints(a)); /* nothing secret is made beside public keys */
    assert_int_equal(auth_mint(a, STR("u"), ROLE_USER, NOW, 60, &minted, &ec), ERR_INVALID_REQUEST);

    assert_int_equal(auth_refresh(a, false, &changed, &ec), ERR_OK);
    assert_false(changed);
    put_jwks(path, old, next);
    assert_int_equal(auth_refresh(a, false, &changed, &ec), ERR_OK);
    assert_true(changed);
    assert_int_equal(auth_generation(a), 2);
    assert_int_equal(auth_verify(a, buf_view(&by_old), NOW, &id, &ec), ERR_OK);
    assert_int_equal(auth_verify(a, buf_view(&by_new), NOW, &id, &ec), ERR_OK);
    assert_int_equal(
        auth_verify(a, buf_view(&crossed), NOW, &id, &ec), ERR_UNAUTHENTICATED); /* kid decides */
    assert_true(auth_key_live(a, old_id));

    /* A broken file changes nothing, and is complained about once. */
    assert_int_equal(os_write_file(os_posix(), path, STR("{\"keys\":[{"), 0600, &ec), ERR_OK);
    assert_int_equal(auth_refresh(a, false, &changed, &ec), ERR_INVALID_REQUEST);
    assert_false(changed);
    assert_int_equal(auth_refresh(a, false, &changed, &ec), ERR_OK);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(auth_refresh(a, false, &changed, &ec), ERR_INVALID_REQUEST);
    assert_int_equal(auth_verify(a, buf_view(&by_old), NOW, &id, &ec), ERR_OK);

    put_jwks(path, NULL, next);
    assert_int_equal(auth_refresh(a, false, &changed, &ec), ERR_OK);
    assert_true(changed);
    assert_int_equal(auth_verify(a, buf_view(&by_old), NOW, &id, &ec), ERR_UNAUTHENTICATED);
    assert_int_equal(auth_verify(a, buf_view(&by_new), NOW, &id, &ec), ERR_OK);
    assert_false(auth_key_live(a, old_id));
    assert_int_equal(
        auth_refresh(a, true, &changed, &ec), ERR_OK); /* asked to: the same keys are no change */
    assert_false(changed);

    auth_close(a);
    EVP_PKEY_free(old);
    EVP_PKEY_free(next);
    buf_release(&by_old);
    buf_release(&by_new);
    buf_release(&crossed);
    buf_release(&minted);
    unlink(path);
    rmdir(dir);
}

static void a_secret_beside_public_keys_must_be_configured(void **state)
{
    (void)state;
    char dir[] = "/tmp/kalamdb-keys-XXXXXX", path[64], secret_path[64];
    struct auth *a = NULL;
    struct errctx ec;
    struct identity id;
    struct buf token = BUF_INIT(0);
    EVP_PKEY *k = make("OKP");
    static const char secret[] = "0123456789abcdef0123456789abcdef";
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/jwks.json", dir);
    snprintf(secret_path, sizeof secret_path, "%s/jwt_secret", dir);
    put_jwks(path, k, NULL);
    /* left behind by a start without public keys */
    assert_int_equal(os_write_file(os_posix(), secret_path, str_c(secret), 0600, &ec), ERR_OK);
    struct auth_config cfg = {
        .jwks_path = path, .secret_path = secret_path, .create = true, .leeway_s = 30, .os = os_posix()};
    sign_hmac(str_c(secret), "{\"alg\":\"HS256\"}", &token);
    assert_int_equal(auth_open(&cfg, &a, &ec), ERR_OK);
    assert_int_equal(auth_verify(a, buf_view(&token), NOW, &id, &ec), ERR_UNAUTHENTICATED);
    auth_close(a);
    cfg.secret = secret;
    cfg.secret_len = strlen(secret);
    assert_int_equal(auth_open(&cfg, &a, &ec), ERR_OK);
    assert_int_equal(auth_verify(a, buf_view(&token), NOW, &id, &ec), ERR_OK);
    sign_raw(k, "{\"alg\":\"EdDSA\"}", false, &token);
    assert_int_equal(auth_verify(a, buf_view(&token), NOW, &id, &ec), ERR_OK);
    auth_close(a);
    EVP_PKEY_free(k);
    buf_release(&token);
    unlink(path);
    unlink(secret_path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_of_the_rfcs),
        cmocka_unit_test(every_algorithm_signs_by_pem),
        cmocka_unit_test(a_public_key_is_no_secret),
        cmocka_unit_test(es256_signatures_are_raw),
        cmocka_unit_test(a_weak_or_private_key_is_refused),
        cmocka_unit_test(jwks_files),
        cmocka_unit_test(keys_rotate),
        cmocka_unit_test(a_secret_beside_public_keys_must_be_configured),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
