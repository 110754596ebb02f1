#include "auth/auth_int.h"
#include "base/json.h"
#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { KEY_FILE, JWKS_FILE };

bool token_id_valid(struct str jti)
{
    if (jti.len == 0 || jti.len > TOKEN_ID_BYTES_MAX || !utf8_valid(jti))
        return false;
    for (size_t i = 0; i < jti.len; i++) {
        if ((unsigned char)jti.ptr[i] < 0x20 || jti.ptr[i] == 0x7f)
            return false;
    }
    return true;
}

/* ---- the secret --------------------------------------------------------------------------------------- */

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
    if (e == ERR_OK && text.len < AUTH_SECRET_BYTES_MIN)
        e = err_set(ec, ERR_INVALID_REQUEST, "%s: %zu bytes; at least %d are needed", cfg->secret_path,
            text.len, AUTH_SECRET_BYTES_MIN);
    if (e == ERR_OK && (a->secret = strndup(text.ptr, text.len)) == NULL)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (e == ERR_OK)
        a->secret_len = text.len;
    if (b.ptr != NULL)
        OPENSSL_cleanse(b.ptr, b.len);
    buf_release(&b);
    return e;
}

/* A secret beside public keys is there only when somebody has written it down: one that was made at an
 * earlier start must not open a back door. */
static enum err take_secret(struct auth *a, const struct auth_config *cfg, struct errctx *ec)
{
    bool public_keys = cfg->public_key_path != NULL || cfg->jwks_path != NULL;
    if (cfg->secret == NULL)
        return public_keys ? ERR_OK : read_secret(a, cfg, ec);
    if (cfg->secret_len < AUTH_SECRET_BYTES_MIN)
        return err_set(ec, ERR_INVALID_REQUEST, "jwt_secret: %zu bytes; at least %d are needed",
            cfg->secret_len, AUTH_SECRET_BYTES_MIN);
    if ((a->secret = malloc(cfg->secret_len)) == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    memcpy(a->secret, cfg->secret, cfg->secret_len);
    a->secret_len = cfg->secret_len;
    return ERR_OK;
}

/* ---- key files ---------------------------------------------------------------------------------------- */

/* Notes what the file is now. True: another than before. One that is not there is noted as such. */
static bool file_changed(struct key_file *f)
{
    struct stat st = {0};
    struct key_file now = {.path = f->path};
    if (f->path == NULL)
        return false;
    if (stat(f->path, &st) == 0) { /* follows links: Kubernetes swaps one */
        now.dev = (uint64_t)st.st_dev;
        now.ino = (uint64_t)st.st_ino;
        now.size = (uint64_t)st.st_size;
        now.mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
        now.ctime_ns = (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec;
    }
    bool changed = now.dev != f->dev || now.ino != f->ino || now.size != f->size ||
                   now.mtime_ns != f->mtime_ns || now.ctime_ns != f->ctime_ns;
    *f = now;
    return changed;
}

/* jwt_public_key_file may hold either form: PEM never begins with a brace. */
static bool is_jwks(int which, struct str text)
{
    struct str t = str_trim(text);
    return which == JWKS_FILE || (t.len > 0 && t.ptr[0] == '{');
}

static enum err read_keys(
    struct key_set *s, int which, const char *path, const struct key_warning *warn, struct errctx *ec)
{
    struct buf b = BUF_INIT(AUTH_KEY_FILE_BYTES_MAX);
    enum err e = os_read_file(path, &b, ec);
    if (e == ERR_NOT_FOUND)
        e = err_set(ec, ERR_INVALID_REQUEST, "there is no such file");
    else if (e != ERR_OK)
        e = err_set(ec, ERR_INVALID_REQUEST, "cannot be read, or is over %zu bytes", AUTH_KEY_FILE_BYTES_MAX);
    else
        e = is_jwks(which, buf_view(&b)) ? key_set_read_jwks(s, buf_view(&b), warn, ec)
                                         : key_set_read_pem(s, buf_view(&b), warn, ec);
    if (b.ptr != NULL)
        OPENSSL_cleanse(b.ptr, b.len); /* it may have been a private key by mistake */
    buf_release(&b);
    if (e != ERR_OK) {
        char why[sizeof ec->message];
        memcpy(why, ec->message, sizeof why);
        snprintf(ec->message, sizeof ec->message, "%s: %.200s: %.200s",
            which == KEY_FILE ? "jwt_public_key_file" : "jwks_file", path, why);
    }
    return e;
}

static bool same_keys(const struct key_set *a, const struct key_set *b)
{
    bool same = a != NULL && a->n == b->n;
    for (size_t i = 0; same && i < a->n; i++) {
        const char *x = a->keys[i].kid, *y = b->keys[i].kid;
        same = a->keys[i].id == b->keys[i].id && a->keys[i].alg == b->keys[i].alg &&
               (x == NULL ? y == NULL : y != NULL && strcmp(x, y) == 0);
    }
    return same;
}

static enum err load(struct auth *a, bool *ret_changed, struct errctx *ec)
{
    struct live_keys *live = a->live;
    struct key_set *s = key_set_new();
    if (s == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    enum err e = ERR_OK;
    if (a->secret_len > 0)
        e = key_set_add_secret(s, str_n(a->secret, a->secret_len), ec);
    for (int i = 0; e == ERR_OK && i < 2; i++)
        if (live->files[i].path != NULL)
            e = read_keys(s, i, live->files[i].path, &a->warn, ec);
    if (e != ERR_OK) {
        key_set_unref(s);
        return e;
    }
    pthread_rwlock_wrlock(&live->lock);
    struct key_set *old = live->keys;
    bool changed = !same_keys(old, s);
    live->keys = s;
    pthread_rwlock_unlock(&live->lock);
    key_set_unref(old);
    if (changed)
        atomic_fetch_add(&live->generation, 1);
    *ret_changed = changed;
    return ERR_OK;
}

enum err auth_refresh(struct auth *a, bool force, bool *ret_changed, struct errctx *ec)
{
    struct live_keys *live = a->live;
    enum err e = ERR_OK;
    *ret_changed = false;
    pthread_mutex_lock(&live->reading);
    /* Both are looked at before they are read: what changes while we read is seen the next time. */
    bool pem = file_changed(&live->files[KEY_FILE]), jwks = file_changed(&live->files[JWKS_FILE]);
    if (pem || jwks || force)
        e = load(a, ret_changed, ec);
    pthread_mutex_unlock(&live->reading);
    return e;
}

static struct key_set *keys_of(const struct auth *a)
{
    pthread_rwlock_rdlock(&a->live->lock);
    struct key_set *s = key_set_ref(a->live->keys);
    pthread_rwlock_unlock(&a->live->lock);
    return s;
}

uint64_t auth_generation(const struct auth *a)
{
    return atomic_load(&a->live->generation);
}

bool auth_key_live(const struct auth *a, uint64_t key_id)
{
    struct key_set *s = keys_of(a);
    bool found = false;
    for (size_t i = 0; !found && i < s->n; i++)
        found = s->keys[i].id == key_id;
    key_set_unref(s);
    return found;
}

size_t auth_key_count(const struct auth *a)
{
    struct key_set *s = keys_of(a);
    size_t n = s->n;
    key_set_unref(s);
    return n;
}

bool auth_mints(const struct auth *a)
{
    return a->secret_len > 0;
}

/* ---- open, close -------------------------------------------------------------------------------------- */

static bool copy(const char *text, char **ret)
{
    *ret = text != NULL ? strdup(text) : NULL;
    return text == NULL || *ret != NULL;
}

static struct live_keys *live_new(void)
{
    struct live_keys *live = calloc(1, sizeof *live);
    if (live == NULL)
        return NULL;
    pthread_rwlock_init(&live->lock, NULL);
    pthread_mutex_init(&live->reading, NULL);
    return live;
}

static bool ticket_key_make(struct auth *a)
{
    if (a->secret_len > 0)
        return hmac_sha256(str_n(a->secret, a->secret_len), STR("kalamdb content ticket"), a->ticket_key);
    a->os->random(a->os->ctx, a->ticket_key, sizeof a->ticket_key);
    return true;
}

enum err auth_open(const struct auth_config *cfg, struct auth **ret, struct errctx *ec)
{
    struct auth *a = calloc(1, sizeof *a);
    if (a == NULL || (a->live = live_new()) == NULL) {
        free(a);
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    a->leeway_s = cfg->leeway_s;
    a->os = cfg->os;
    a->warn = (struct key_warning){cfg->warn, cfg->warn_arg};
    enum err e = ERR_OK;
    bool changed;
    if (!copy(cfg->issuer, &a->issuer) || !copy(cfg->audience, &a->audience) ||
        !copy(cfg->public_key_path, &a->live->files[KEY_FILE].path) ||
        !copy(cfg->jwks_path, &a->live->files[JWKS_FILE].path))
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (e == ERR_OK)
        e = take_secret(a, cfg, ec);
    if (e == ERR_OK && !ticket_key_make(a))
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (e == ERR_OK)
        e = auth_refresh(a, true, &changed, ec);
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
    OPENSSL_cleanse(a->ticket_key, sizeof a->ticket_key);
    key_set_unref(a->live->keys);
    for (int i = 0; i < 2; i++)
        free(a->live->files[i].path);
    pthread_rwlock_destroy(&a->live->lock);
    pthread_mutex_destroy(&a->live->reading);
    free(a->live);
    free(a->secret);
    free(a->issuer);
    free(a->audience);
    free(a);
}

/* ---- tokens ------------------------------------------------------------------------------------------- */

static struct str optional(const char *s)
{
    return s != NULL ? str_c(s) : STR_NULL;
}

enum err auth_verify(
    const struct auth *a, struct str token, int64_t now_s, struct identity *ret, struct errctx *ec)
{
    struct key_set *keys = keys_of(a);
    struct jwt_rules rules = {.keys = keys,
        .issuer = optional(a->issuer),
        .audience = optional(a->audience),
        .leeway_s = a->leeway_s,
        .now_s = now_s};
    enum jwt_result r = jwt_verify(token, &rules, ret);
    key_set_unref(keys);
    if (r == JWT_OK)
        return ERR_OK;
    return err_set(ec, ERR_UNAUTHENTICATED, r == JWT_EXPIRED ? "token expired" : "invalid token");
}

/* 128 random bits: what such a token is revoked by. */
static void mint_jti(const struct auth *a, struct buf *payload)
{
    uint8_t raw[16];
    a->os->random(a->os->ctx, raw, sizeof raw);
    buf_str(payload, STR(",\"jti\":\""));
    base64url_encode(payload, str_n((const char *)raw, sizeof raw));
    buf_u8(payload, '"');
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
    if (a->secret_len == 0) {
        err_set(ec, ERR_INVALID_REQUEST, "tokens are signed elsewhere: only public keys are configured");
        err_hint(ec, "Sign with the private key, or set jwt_secret beside the public keys.");
        return ec->code;
    }
    struct buf payload = BUF_INIT(4096);
    buf_str(&payload, STR("{\"sub\":"));
    json_str(&payload, user_id);
    buf_printf(&payload, ",\"role\":\"%s\",\"iat\":%lld,\"exp\":%lld", roles[role], (long long)now_s,
        (long long)(now_s + ttl_s));
    mint_jti(a, &payload);
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
