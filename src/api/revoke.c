/* Tokens that end before their time: /api/v1/admin/tokens/revoke, key files that change, and what both do,
 * as erasures do, to those who are connected. */
#include "api/audited.h"
#include "api/json_in.h"
#include "api/ndjson.h"
#include "api/session.h"
#include "base/json.h"
#include "base/log.h"
#include <stdlib.h>
#include <time.h>

#define USER_REVOCATION_S (INT64_C(10) * 366 * 86400) /* the longest that `kalamdb token` mints for */
#define EXPIRES_S_MAX INT64_C(99999999999)
#define LIST_MAX 10000
#define WATCH_INTERVAL_S 2

/* ---- connections -------------------------------------------------------------------------------------- */

/* On each loop. */
static void end_void(struct net_task *task)
{
    struct worker *w = (struct worker *)(void *)((char *)task - offsetof(struct worker, erased_task));
    atomic_store(&w->erased_posted, false); /* what comes from here on posts again */
    for (struct session *s = w->sessions, *next; s != NULL; s = next) {
        next = s->next;
        struct str why = s->conn != NULL && s->who != NULL ? principal_ended(w, s->who) : STR_NULL;
        if (why.ptr != NULL)
            net_stream_close(s->conn, WS_CODE_AUTH, why, true);
    }
    ndjson_end_void(w);
}

static void post_end_void(void *arg, void *loop_user)
{
    struct worker *w = loop_user;
    (void)arg;
    if (w == NULL) /* before its loop runs: nobody is connected */
        return;
    w->erased_task.run = end_void;
    if (!atomic_exchange(&w->erased_posted, true))
        net_post(w->loop, &w->erased_task);
}

void server_end_void(struct server *s)
{
    net_each_loop(s->net, post_end_void, NULL);
}

/* ---- key files ---------------------------------------------------------------------------------------- */

static void refresh(struct server *s, bool force)
{
    struct errctx ec = {0};
    bool changed = false;
    if (auth_refresh(s->auth, force, &changed, &ec) != ERR_OK)
        log_event(LOG_ERROR, "jwt_keys_not_read", "s:reason", ec.message, "i:keys_kept",
            (long long)auth_key_count(s->auth), NULL);
    if (!changed)
        return;
    log_event(LOG_INFO, "jwt_keys_changed", "i:keys", (long long)auth_key_count(s->auth), NULL);
    audit_keys_changed(s);
    server_end_void(s);
}

static void *watch(void *arg)
{
    struct server *s = arg;
    pthread_mutex_lock(&s->watch.lock);
    while (!s->watch.stop) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += WATCH_INTERVAL_S;
        if (!s->watch.force)
            pthread_cond_timedwait(&s->watch.wake, &s->watch.lock, &until);
        bool force = s->watch.force, stop = s->watch.stop;
        s->watch.force = false;
        pthread_mutex_unlock(&s->watch.lock);
        if (!stop)
            refresh(s, force);
        pthread_mutex_lock(&s->watch.lock);
    }
    pthread_mutex_unlock(&s->watch.lock);
    return NULL;
}

void server_watch_keys(struct server *s)
{
    pthread_condattr_t attr;
    if (s->cfg->jwt_public_key_file == NULL && s->cfg->jwks_file == NULL)
        return;
    pthread_mutex_init(&s->watch.lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->watch.wake, &attr);
    pthread_condattr_destroy(&attr);
    s->watch.running = pthread_create(&s->watch.thread, NULL, watch, s) == 0;
    if (!s->watch.running)
        log_event(LOG_WARN, "jwt_keys_not_watched", NULL);
}

static void wake(struct server *s, bool force, bool stop)
{
    pthread_mutex_lock(&s->watch.lock);
    s->watch.force = force;
    s->watch.stop = stop;
    pthread_cond_signal(&s->watch.wake);
    pthread_mutex_unlock(&s->watch.lock);
}

void server_refresh_keys(struct server *s)
{
    if (s->watch.running)
        wake(s, true, false);
}

void server_unwatch_keys(struct server *s)
{
    if (!s->watch.running)
        return;
    wake(s, false, true);
    pthread_join(s->watch.thread, NULL);
    s->watch.running = false;
    pthread_cond_destroy(&s->watch.wake);
    pthread_mutex_destroy(&s->watch.lock);
}

/* ---- POST --------------------------------------------------------------------------------------------- */

struct body {
    struct str jti, user;
    bool has_expires;
    int64_t expires_s;
};

static const char *read_field(struct str key, const struct json_item *item, struct body *b)
{
    bool text = item->kind == JSON_IS_STRING;
    if (item->kind == JSON_IS_NULL)
        return NULL;
    if (str_eq(key, STR("jti"))) {
        b->jti = item->s;
        return text && token_id_valid(item->s) ? NULL : "jti must be a text of 1 to 255 bytes";
    }
    if (str_eq(key, STR("user"))) {
        b->user = item->s;
        return text && kalamdb_user_id_valid(kstr(item->s)) ? NULL : "user must be a user id";
    }
    if (str_eq(key, STR("expires"))) {
        b->has_expires = true;
        b->expires_s = item->i;
        if (item->kind != JSON_IS_INT || item->i < 0 || item->i > EXPIRES_S_MAX)
            return "expires must be the token's exp: seconds since 1970";
    }
    return NULL;
}

/* NULL, or what is wrong. */
static const char *read_body(struct str text, struct arena *arena, struct body *b)
{
    struct json_in in = json_in(text, arena);
    struct json_item item;
    struct str key;
    const char *why = NULL;
    if (!utf8_valid(text))
        return "the body is not UTF-8";
    if (!json_in_object(&in))
        return text.len == 0 ? "the body is empty" : "the body must be a JSON object";
    while (why == NULL && json_in_member(&in, &key) && json_in_value(&in, &item))
        why = read_field(key, &item, b);
    if (why != NULL || in.why != NULL || !json_in_end(&in))
        return why != NULL ? why : in.why;
    if ((b->jti.ptr == NULL) == (b->user.ptr == NULL))
        return "either jti or user is needed";
    if (b->jti.ptr != NULL && !b->has_expires)
        return "expires is missing: the token's exp, until when the revocation is kept";
    return NULL;
}

static void revoked(struct net_task *task)
{
    struct call *c = (struct call *)task;
    if (c->failed) {
        answer_failure(c);
        return;
    }
    buf_str(&c->req->body, STR("{\"status\":\"ok\""));
    answer_timed(c);
}

/* On a thread of the engine. */
static void revoke_done(void *arg, const struct kalamdb_error *error)
{
    struct call *c = arg;
    if (error->code == KALAMDB_OK)
        server_end_void(c->worker->server);
    call_done(c, NULL, error);
}

static void revoke(struct call *c)
{
    struct body b = {0};
    const char *why = read_body(buf_view(&c->req->in.body), &c->req->arena, &b);
    int64_t now_s = os_realtime_us(os_posix()) / 1000000;
    if (why != NULL) {
        answer_error(c, ERR_INVALID_REQUEST, "%s", why);
        return;
    }
    struct kalamdb_revocation r = {.by_user = b.user.ptr != NULL,
        .id = kstr(b.user.ptr != NULL ? b.user : b.jti),
        .expires_s = b.has_expires ? b.expires_s : now_s + USER_REVOCATION_S,
        .revoked_s = now_s};
    c->audit.user = b.user;
    c->audit.token = b.jti;
    c->task.run = revoked;
    call_submit_begin(c);
    kalamdb_revoke(c->worker->server->db, &r, revoke_done, c);
    if (call_submit_end(c))
        revoked(&c->task);
}

/* ---- GET ---------------------------------------------------------------------------------------------- */

struct list {
    struct buf *b;
    bool users;
    int n;
    bool truncated;
};

static bool list_one(void *arg, const struct kalamdb_revocation *r)
{
    struct list *l = arg;
    if (r->by_user != l->users)
        return true;
    if (l->n == LIST_MAX) {
        l->truncated = true;
        return false;
    }
    buf_str(l->b, l->n++ > 0 ? STR(",{") : STR("{"));
    json_key(l->b, l->users ? STR("user") : STR("jti"));
    json_str(l->b, str_n(r->id.ptr, r->id.len));
    buf_printf(
        l->b, ",\"revokedAt\":%lld,\"expires\":%lld}", (long long)r->revoked_s, (long long)r->expires_s);
    return true;
}

static void list(struct call *c)
{
    struct list l = {.b = &c->req->body};
    buf_str(l.b, STR("{\"tokens\":["));
    kalamdb_revocations(c->worker->server->db, list_one, &l);
    buf_str(l.b, STR("],\"users\":["));
    l.users = true;
    l.n = 0;
    kalamdb_revocations(c->worker->server->db, list_one, &l);
    buf_printf(l.b, "]%s}", l.truncated ? ",\"truncated\":true" : "");
    answer_json(c, 200);
}

void serve_revoke(struct call *c)
{
    if (c->who->role != ROLE_ADMIN)
        answer_error(c, ERR_FORBIDDEN, "this endpoint asks for role admin");
    else if (c->req->in.method == HTTP_M_POST)
        revoke(c);
    else
        list(c);
}
