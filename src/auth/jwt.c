#include "auth/jwt.h"
#include "base/json.h"
#include <jansson.h>

/* One base64url part as a JSON object without duplicate names; NULL when it is none. */
static json_t *part_object(struct str text)
{
    struct buf b = BUF_INIT(JWT_BYTES_MAX);
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

static enum jwt_alg alg_named(struct str name)
{
    static const struct {
        struct str name;
        enum jwt_alg alg;
    } algs[] = {{{"HS256", 5}, ALG_HS256}, {{"RS256", 5}, ALG_RS256}, {{"ES256", 5}, ALG_ES256},
        {{"EdDSA", 5}, ALG_EDDSA}, {{"Ed25519", 7}, ALG_EDDSA}}; /* the last: RFC 9864 */
    for (size_t i = 0; i < sizeof algs / sizeof *algs; i++) {
        if (str_eq(name, algs[i].name))
            return algs[i].alg;
    }
    return ALG_NONE; /* and so is "none" */
}

/* RFC 8725 3.1, 3.11: `alg` selects among keys that are each pinned to one; a `typ`, where there is one, says
 * JWT or at+jwt (access tokens, RFC 9068); nothing in `crit` is understood here, so a token that asks for it
 * is refused (RFC 7515 4.1.11). What the header says of keys (jwk, jku, x5c, x5u) is never looked at (RFC
 * 8725 3.10). */
static bool header_ok(const json_t *h, enum jwt_alg *ret_alg, struct str *ret_kid)
{
    const json_t *typ = json_object_get(h, "typ"), *kid = json_object_get(h, "kid");
    *ret_alg = alg_named(json_text(json_object_get(h, "alg")));
    *ret_kid = json_text(kid);
    return h != NULL && *ret_alg != ALG_NONE && (kid == NULL || ret_kid->ptr != NULL) &&
           json_object_get(h, "crit") == NULL && json_object_get(h, "b64") == NULL &&
           (typ == NULL || str_ieq(json_text(typ), STR("JWT")) || str_ieq(json_text(typ), STR("at+jwt")));
}

static const struct auth_key *signer(
    const struct key_set *keys, enum jwt_alg alg, struct str kid, struct str text, struct str signature)
{
    for (size_t i = 0; i < keys->n; i++) {
        const struct auth_key *k = &keys->keys[i];
        bool named = kid.ptr != NULL && k->kid != NULL;
        if (k->alg == alg && (!named || str_eq(kid, str_c(k->kid))) && auth_key_verify(k, text, signature))
            return k;
    }
    return NULL;
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
    if ((v = json_object_get(p, "jti")) != NULL) {
        struct str jti = json_text(v);
        if (jti.ptr == NULL || !token_id_valid(jti))
            return JWT_INVALID;
        id.jti_len = jti.len;
        memcpy(id.jti, jti.ptr, jti.len);
    }
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
    if (token.len > JWT_BYTES_MAX || dot1 == token.len)
        return JWT_INVALID;
    struct str header = str_n(token.ptr, dot1), rest = str_n(token.ptr + dot1 + 1, token.len - dot1 - 1);
    size_t dot2 = str_find(rest, '.');
    if (dot2 == rest.len)
        return JWT_INVALID;
    struct str payload = str_n(rest.ptr, dot2), text = str_n(token.ptr, dot1 + 1 + dot2);
    struct buf signature = BUF_INIT(JWT_BYTES_MAX);
    json_t *h = part_object(header);
    enum jwt_alg alg;
    struct str kid;
    const struct auth_key *key = NULL;
    if (header_ok(h, &alg, &kid) &&
        base64url_decode(&signature, str_n(rest.ptr + dot2 + 1, rest.len - dot2 - 1)))
        key = signer(rules->keys, alg, kid, text, buf_view(&signature));
    json_decref(h);
    buf_release(&signature);
    if (key == NULL)
        return JWT_INVALID;
    json_t *p = part_object(payload);
    enum jwt_result r = p == NULL ? JWT_INVALID : claims(p, rules, ret);
    if (r == JWT_OK)
        ret->key_id = key->id;
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
