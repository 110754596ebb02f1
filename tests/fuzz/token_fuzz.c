/* Tokens and key files from anybody. The input is a header, a newline, a payload: signed with the key, so
 * that the fuzzer gets past the signature; as it stands, a whole token; and, as it stands, a JWKS and a PEM
 * file. A token that is accepted must be an identity that the contract allows; a key that is loaded must be
 * one that its algorithm allows. */
#include "auth/jwt.h"
#include "base/json.h"
#include <stdlib.h>

static const struct str secret = {"0123456789abcdef0123456789abcdef", 32};

static const struct key_set *keys(void)
{
    static struct key_set *s;
    struct errctx ec;
    if (s == NULL && ((s = key_set_new()) == NULL || key_set_add_secret(s, secret, &ec) != ERR_OK))
        abort();
    return s;
}

static void verify(struct str token)
{
    struct jwt_rules rules = {.keys = keys(), .leeway_s = 30, .now_s = 1800000000};
    struct identity id;
    if (jwt_verify(token, &rules, &id) != JWT_OK)
        return;
    if (!user_id_valid(str_n(id.user_id, id.user_id_len)) || id.expires_s + 30 <= rules.now_s ||
        (unsigned)id.role > ROLE_ADMIN || id.user_id[id.user_id_len] != '\0' ||
        (id.jti_len > 0 && !token_id_valid(str_n(id.jti, id.jti_len))))
        abort();
}

typedef enum err read_fn(
    struct key_set *s, struct str text, const struct key_warning *warn, struct errctx *ec);

static void load(read_fn *read, struct str text)
{
    static const char nothing[64];
    struct errctx ec;
    struct key_set *s = key_set_new();
    if (s == NULL)
        return;
    enum err e = read(s, text, NULL, &ec);
    if (e == ERR_OK && s->n == 0)
        abort();
    for (size_t i = 0; i < s->n; i++) {
        const struct auth_key *k = &s->keys[i];
        if (k->alg == ALG_HS256 || k->alg == ALG_NONE || k->pkey == NULL ||
            (k->alg == ALG_RS256 && EVP_PKEY_get_bits(k->pkey) < AUTH_RSA_BITS_MIN) ||
            auth_key_verify(k, text, str_n(nothing, sizeof nothing)))
            abort();
    }
    key_set_unref(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str in = {(const char *)data, size};
    verify(in);
    load(key_set_read_jwks, in);
    load(key_set_read_pem, in);
    size_t line = str_find(in, '\n');
    struct buf b = BUF_INIT(1 << 20);
    unsigned char mac[32];
    base64url_encode(&b, str_n(in.ptr, line));
    buf_u8(&b, '.');
    if (line < size)
        base64url_encode(&b, str_n(in.ptr + line + 1, size - line - 1));
    if (b.ptr != NULL && hmac_sha256(secret, buf_view(&b), mac)) {
        buf_u8(&b, '.');
        base64url_encode(&b, str_n((char *)mac, sizeof mac));
        verify(buf_view(&b));
    }
    buf_release(&b);
    return 0;
}
