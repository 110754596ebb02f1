#include "auth/jwt.h"
#include "base/json.h"
#include <jansson.h>
#include <openssl/crypto.h>
#include <openssl/hmac.h>

#define TOKEN_BYTES_MAX 8192

bool hmac_sha256(struct str key, struct str text, unsigned char ret[32])
{
    unsigned int n = 32;
    return key.len <= INT32_MAX &&
           HMAC(EVP_sha256(), key.ptr, (int)key.len, (const unsigned char *)text.ptr, text.len, ret, &n) !=
               NULL &&
           n == 32;
}

/* One base64url part as a JSON object without duplicate names; NULL when it is none. */
static json_t *part_object(struct str text)
{
    struct buf b = BUF_INIT(TOKEN_BYTES_MAX);
    json_t *o = NULL;
    if (base64url_decode(&b, text)) {
        o = json_loadb(b.ptr != NULL ? b.ptr : "", b.len, JSON_REJECT_DUPLICATES, NULL);
        if (o != NULL && !json_is_object(o)) {
            json_decref(o);
            o = NULL;
        }
    }
    buf_release(&b);
    return o;
}

static struct str json_text(const json_t *v)
{
    return json_is_string(v) ? str_n(json_string_value(v), json_string_length(v)) : STR_NULL;
}

/* RFC 8725 3.1, 3.11: the algorithm is ours, not the token's; a `typ`, where there is one, says JWT; nothing
 * in `crit` is understood here, so a token that asks for it is refused (RFC 7515 4.1.11). */
static bool header_ok(struct str text)
{
    json_t *h = part_object(text);
    const json_t *typ = json_object_get(h, "typ");
    bool ok = h != NULL && str_eq(json_text(json_object_get(h, "alg")), STR("HS256")) &&
              json_object_get(h, "crit") == NULL && json_object_get(h, "b64") == NULL &&
              (typ == NULL || str_ieq(json_text(typ), STR("JWT")));
    json_decref(h);
    return ok;
}

/* NumericDate (RFC 7519 section 2), whole or fractional, within years that cannot overflow arithmetic. */
static bool numeric_date(const json_t *v, int64_t *ret)
{
    double d = json_is_number(v) ? json_number_value(v) : -1;
    if (!(d >= 0 && d < 1e12))
        return false;
    *ret = (int64_t)d;
    return true;
}

static bool audience_ok(const json_t *aud, struct str wanted)
{
    if (wanted.ptr == NULL)
        return true;
    if (json_is_string(aud))
        return str_eq(json_text(aud), wanted);
    for (size_t i = 0; i < json_array_size(aud); i++) {
        if (str_eq(json_text(json_array_get(aud, i)), wanted))
            return true;
    }
    return false;
}

static bool role_of(const json_t *v, enum role *ret)
{
    static const struct {
        const char *name;
        enum role role;
    } roles[] = {{"user", ROLE_USER}, {"service", ROLE_SERVICE}, {"admin", ROLE_ADMIN}};
    *ret = ROLE_USER;
    if (v == NULL)
        return true;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        if (str_eq(json_text(v), str_c(roles[i].name))) {
            *ret = roles[i].role;
            return true;
        }
    }
    return false;
}

static enum jwt_result claims(const json_t *p, const struct jwt_rules *rules, struct identity *ret)
{
    struct identity id = {.issued_s = INT64_MIN};
    struct str sub = json_text(json_object_get(p, "sub"));
    int64_t nbf = 0;
    const json_t *v;
    if (sub.ptr == NULL || !user_id_valid(sub) || !role_of(json_object_get(p, "role"), &id.role))
        return JWT_INVALID;
    if (!numeric_date(json_object_get(p, "exp"), &id.expires_s))
        return JWT_INVALID;
    if ((v = json_object_get(p, "iat")) != NULL && !numeric_date(v, &id.issued_s))
        return JWT_INVALID;
    if ((v = json_object_get(p, "nbf")) != NULL &&
        (!numeric_date(v, &nbf) || nbf > rules->now_s + rules->leeway_s))
        return JWT_INVALID;
    if (rules->issuer.ptr != NULL && !str_eq(json_text(json_object_get(p, "iss")), rules->issuer))
        return JWT_INVALID;
    if (!audience_ok(json_object_get(p, "aud"), rules->audience))
        return JWT_INVALID;
    if (id.expires_s + rules->leeway_s <= rules->now_s)
        return JWT_EXPIRED;
    id.user_id_len = sub.len;
    memcpy(id.user_id, sub.ptr, sub.len);
    *ret = id;
    return JWT_OK;
}

enum jwt_result jwt_verify(struct str token, const struct jwt_rules *rules, struct identity *ret)
{
    size_t dot1 = str_find(token, '.');
    if (token.len > TOKEN_BYTES_MAX || dot1 == token.len)
        return JWT_INVALID;
    struct str header = str_n(token.ptr, dot1), rest = str_n(token.ptr + dot1 + 1, token.len - dot1 - 1);
    size_t dot2 = str_find(rest, '.');
    if (dot2 == rest.len)
        return JWT_INVALID;
    struct str payload = str_n(rest.ptr, dot2), mac = str_n(rest.ptr + dot2 + 1, rest.len - dot2 - 1);
    struct buf given = BUF_INIT(64);
    unsigned char want[32];
    bool ok = base64url_decode(&given, mac) && given.len == sizeof want &&
              hmac_sha256(rules->key, str_n(token.ptr, dot1 + 1 + dot2), want) &&
              CRYPTO_memcmp(given.ptr, want, sizeof want) == 0 && header_ok(header);
    buf_release(&given);
    if (!ok)
        return JWT_INVALID;
    json_t *p = part_object(payload);
    enum jwt_result r = p == NULL ? JWT_INVALID : claims(p, rules, ret);
    json_decref(p);
    return r;
}

bool jwt_sign(struct str key, struct str payload, struct buf *ret)
{
    size_t start = ret->len;
    unsigned char mac[32];
    base64url_encode(ret, STR("{\"alg\":\"HS256\",\"typ\":\"JWT\"}"));
    buf_u8(ret, '.');
    base64url_encode(ret, payload);
    if (ret->failed || !hmac_sha256(key, str_n(ret->ptr + start, ret->len - start), mac))
        return false;
    buf_u8(ret, '.');
    base64url_encode(ret, str_n((const char *)mac, sizeof mac));
    return !ret->failed;
}
