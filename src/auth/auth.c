#include "auth/auth.h"
#include "auth/jwt.h"
#include "base/json.h"
#include <openssl/crypto.h>
#include <stdlib.h>

#define SECRET_BYTES_MIN 32

struct auth {
    char *secret;
    size_t secret_len;
    char *issuer, *audience;
    int64_t leeway_s;
};

/* 32 random bytes as 64 hex digits: the digits themselves are the key, so that an operator can hand the
 * file's text to another program. */
static enum err create_secret(const struct auth_config *cfg, struct errctx *ec)
{
    unsigned char raw[32];
    char hex[64];
    cfg->os->random(cfg->os->ctx, raw, sizeof raw);
    for (size_t i = 0; i < sizeof raw; i++) {
        hex[i * 2] = "0123456789abcdef"[raw[i] >> 4];
        hex[i * 2 + 1] = "0123456789abcdef"[raw[i] & 15];
    }
    enum err e = os_write_file(cfg->os, cfg->secret_path, str_n(hex, sizeof hex), 0600, ec);
    OPENSSL_cleanse(raw, sizeof raw);
    OPENSSL_cleanse(hex, sizeof hex);
    return e;
}

static enum err read_secret(struct auth *a, const struct auth_config *cfg, struct errctx *ec)
{
    struct buf b = BUF_INIT(4096);
    enum err e = os_read_file(cfg->secret_path, &b, ec);
    if (e == ERR_NOT_FOUND && cfg->create) {
        e = create_secret(cfg, ec);
        if (e == ERR_OK)
            e = os_read_file(cfg->secret_path, &b, ec);
    }
    if (e == ERR_NOT_FOUND)
        e = err_set(ec, ERR_INVALID_REQUEST, "no key at %s: start the server once, or set jwt_secret",
            cfg->secret_path);
    struct str text = str_trim(buf_view(&b));
    if (e == ERR_OK && text.len < SECRET_BYTES_MIN)
        e = err_set(ec, ERR_INVALID_REQUEST, "%s: %zu bytes; at least %d are needed", cfg->secret_path,
            text.len, SECRET_BYTES_MIN);
    if (e == ERR_OK && (a->secret = strndup(text.ptr, text.len)) == NULL)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    a->secret_len = text.len;
    if (b.ptr != NULL)
        OPENSSL_cleanse(b.ptr, b.len);
    buf_release(&b);
    return e;
}

enum err auth_open(const struct auth_config *cfg, struct auth **ret, struct errctx *ec)
{
    struct auth *a = calloc(1, sizeof *a);
    if (a == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    a->leeway_s = cfg->leeway_s;
    a->issuer = cfg->issuer != NULL ? strdup(cfg->issuer) : NULL;
    a->audience = cfg->audience != NULL ? strdup(cfg->audience) : NULL;
    enum err e = ERR_OK;
    if ((cfg->issuer != NULL && a->issuer == NULL) || (cfg->audience != NULL && a->audience == NULL)) {
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    } else if (cfg->secret == NULL) {
        e = read_secret(a, cfg, ec);
    } else if (cfg->secret_len < SECRET_BYTES_MIN) {
        e = err_set(ec, ERR_INVALID_REQUEST, "jwt_secret: %zu bytes; at least %d are needed", cfg->secret_len,
            SECRET_BYTES_MIN);
    } else {
        a->secret_len = cfg->secret_len;
        if ((a->secret = malloc(cfg->secret_len)) == NULL)
            e = err_set(ec, ERR_NO_MEMORY, "out of memory");
        else
            memcpy(a->secret, cfg->secret, cfg->secret_len);
    }
    if (e != ERR_OK) {
        auth_close(a);
        return e;
    }
    *ret = a;
    return ERR_OK;
}

void auth_close(struct auth *a)
{
    if (a == NULL)
        return;
    if (a->secret != NULL)
        OPENSSL_cleanse(a->secret, a->secret_len);
    free(a->secret);
    free(a->issuer);
    free(a->audience);
    free(a);
}

static struct str optional(const char *s)
{
    return s != NULL ? str_c(s) : STR_NULL;
}

enum err auth_verify(
    const struct auth *a, struct str token, int64_t now_s, struct identity *ret, struct errctx *ec)
{
    struct jwt_rules rules = {.key = str_n(a->secret, a->secret_len),
        .issuer = optional(a->issuer),
        .audience = optional(a->audience),
        .leeway_s = a->leeway_s,
        .now_s = now_s};
    switch (jwt_verify(token, &rules, ret)) {
    case JWT_OK:
        return ERR_OK;
    case JWT_EXPIRED:
        return err_set(ec, ERR_UNAUTHENTICATED, "token expired");
    case JWT_INVALID:
        break;
    }
    return err_set(ec, ERR_UNAUTHENTICATED, "invalid token");
}

enum err auth_mint(const struct auth *a, struct str user_id, enum role role, int64_t now_s, int64_t ttl_s,
    struct buf *b, struct errctx *ec)
{
    static const char *const roles[] = {"user", "service", "admin"};
    if (!user_id_valid(user_id)) {
        err_set(ec, ERR_INVALID_REQUEST, "\"%.*s\" cannot be a user id", STR_FMT(user_id));
        err_hint(ec,
            "1 to 255 bytes of UTF-8 without control characters; shared, deleted_user, ai, assistant, "
            "system, tool and bot are reserved");
        return ec->code;
    }
    if (ttl_s < 1 || ttl_s > INT64_C(10) * 366 * 86400)
        return err_set(ec, ERR_INVALID_REQUEST, "a token lives 1 second to 10 years");
    struct buf payload = BUF_INIT(4096);
    buf_str(&payload, STR("{\"sub\":"));
    json_str(&payload, user_id);
    buf_printf(&payload, ",\"role\":\"%s\",\"iat\":%lld,\"exp\":%lld", roles[role], (long long)now_s,
        (long long)(now_s + ttl_s));
    if (a->issuer != NULL) {
        buf_str(&payload, STR(",\"iss\":"));
        json_str(&payload, str_c(a->issuer));
    }
    if (a->audience != NULL) {
        buf_str(&payload, STR(",\"aud\":"));
        json_str(&payload, str_c(a->audience));
    }
    buf_u8(&payload, '}');
    bool ok = !payload.failed && jwt_sign(str_n(a->secret, a->secret_len), buf_view(&payload), b);
    buf_release(&payload);
    return ok ? ERR_OK : err_set(ec, ERR_NO_MEMORY, "out of memory");
}

/* ---- tickets: base64url of  version u8 | role u8 | expires be64 | issued be64 | length u8, user id | HMAC
 * ------------------------- */

#define TICKET_VERSION 1
#define MAC_BYTES 32

static bool ticket_mac(const struct auth *a, struct str payload, struct str ref, unsigned char ret[MAC_BYTES])
{
    unsigned char key[MAC_BYTES];
    struct buf text = BUF_INIT(65536);
    buf_str(&text, payload); /* says its own length */
    buf_str(&text, ref);
    bool ok = !text.failed &&
              hmac_sha256(str_n(a->secret, a->secret_len), STR("kalamdb content ticket"), key) &&
              hmac_sha256(str_n((const char *)key, sizeof key), buf_view(&text), ret);
    OPENSSL_cleanse(key, sizeof key);
    buf_release(&text);
    return ok;
}

enum err auth_ticket_mint(
    const struct auth *a, const struct identity *who, struct str ref, struct buf *b, struct errctx *ec)
{
    struct buf raw = BUF_INIT(1024);
    unsigned char mac[MAC_BYTES];
    buf_u8(&raw, TICKET_VERSION);
    buf_u8(&raw, (uint8_t)who->role);
    buf_be64(&raw, (uint64_t)who->expires_s);
    buf_be64(&raw, (uint64_t)who->issued_s);
    buf_u8(&raw, (uint8_t)who->user_id_len);
    buf_append(&raw, who->user_id, who->user_id_len);
    bool ok = !raw.failed && ticket_mac(a, buf_view(&raw), ref, mac);
    if (ok) {
        buf_append(&raw, mac, sizeof mac);
        base64url_encode(b, buf_view(&raw));
    }
    ok = ok && !raw.failed && !b->failed;
    buf_release(&raw);
    return ok ? ERR_OK : err_set(ec, ERR_NO_MEMORY, "out of memory");
}

static bool ticket_read(const struct auth *a, struct str raw, struct str ref, struct identity *ret)
{
    unsigned char want[MAC_BYTES];
    if (raw.len < MAC_BYTES)
        return false;
    struct str payload = str_n(raw.ptr, raw.len - MAC_BYTES);
    if (!ticket_mac(a, payload, ref, want) || CRYPTO_memcmp(raw.ptr + payload.len, want, sizeof want) != 0)
        return false;
    struct reader r = reader_of(payload);
    uint8_t version = read_u8(&r), role = read_u8(&r);
    struct identity id = {0};
    id.expires_s = (int64_t)read_be64(&r);
    id.issued_s = (int64_t)read_be64(&r);
    struct str user = read_bytes(&r, read_u8(&r));
    if (r.bad || reader_left(&r) != 0 || version != TICKET_VERSION || role > ROLE_ADMIN)
        return false;
    id.role = (enum role)role;
    id.user_id_len = user.len;
    memcpy(id.user_id, user.ptr, user.len);
    *ret = id;
    return true;
}

enum err auth_ticket_verify(const struct auth *a, struct str ticket, struct str ref, int64_t now_s,
    struct identity *ret, struct errctx *ec)
{
    struct buf raw = BUF_INIT(1024);
    struct identity id;
    bool ok = base64url_decode(&raw, ticket) && ticket_read(a, buf_view(&raw), ref, &id);
    buf_release(&raw);
    if (!ok)
        return err_set(ec, ERR_UNAUTHENTICATED, "invalid ticket");
    if (id.expires_s <= now_s)
        return err_set(ec, ERR_UNAUTHENTICATED, "ticket expired");
    *ret = id;
    return ERR_OK;
}
