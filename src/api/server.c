/* The server: configuration to loops, requests to routes, calls to the engine and back. */
#include "api/server.h"
#include "api/audited.h"
#include "auth/receipt.h"
#include "base/log.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <uv.h>

/* ---- calls to the engine
 * ------------------------------------------------------------------------------------------ */

/* The call this thread has at the engine right now. `done` on this thread for it needs no trip through the
 * queue. */
static _Thread_local struct call *submitting;
static _Thread_local bool answered_at_once;

void call_submit_begin(struct call *c)
{
    submitting = c;
    answered_at_once = false;
}

bool call_submit_end(struct call *c)
{
    (void)c;
    submitting = NULL;
    return answered_at_once;
}

struct call *call_submitting(void)
{
    return submitting;
}

void call_done(void *arg, struct kalamdb_result *result, const struct kalamdb_error *error)
{
    struct call *c = arg;
    c->result = result;
    if (result == NULL && error != NULL && error->code != KALAMDB_OK) {
        c->failed = true;
        c->error = malloc(sizeof *error);
        if (c->error != NULL)
            *c->error = *error;
    }
    if (submitting == c)
        answered_at_once = true;
    else
        net_post(c->worker->loop, &c->task);
}

/* ---- requests
 * ------------------------------------------------------------------------------------------------------ */

static struct call *call_new(struct server *s, struct net_request *req)
{
    struct worker *w = net_loop_user(req->loop);
    struct call *c = arena_alloc(&req->arena, sizeof *c);
    if (c == NULL) { /* nothing to answer with: the connection is cut */
        req->body.failed = true;
        net_respond(req, 503, STR_NULL, STR(""));
        return NULL;
    }
    c->req = req;
    c->worker = w;
    req->user = c;
    (void)s;
    return c;
}

static void preflight(struct call *c)
{
    struct buf h = BUF_INIT(2048);
    if (c->route != ROUTE_NONE)
        buf_str(&h, route_allow_header(c->route));
    if (c->worker->server->origins_set &&
        net_header(c->req, STR("access-control-request-method")).ptr != NULL)
        buf_str(
            &h, STR("Access-Control-Allow-Methods: GET, HEAD, POST, DELETE, OPTIONS\r\n"
                    "Access-Control-Allow-Headers: Authorization, Content-Type, X-Durability, Last-Event-ID, "
                    "Range, If-Range, If-Match, If-None-Match\r\n"
                    "Access-Control-Max-Age: 600\r\n"));
    answer(c, 204, STR_NULL, buf_view(&h));
    buf_release(&h);
}

/* The token where the route takes one: header, or the query's `token` on streams. */
bool authenticate(struct call *c)
{
    struct errctx ec = {0};
    struct str token = bearer_token(c->req);
    if (token.ptr == NULL && c->route == ROUTE_EVENTS &&
        !query_param(&c->req->arena, c->query_string, STR("token"), &token)) {
        answer_error(c, ERR_INVALID_REQUEST, "malformed query string");
        return false;
    }
    if (token.ptr == NULL) {
        answer_error(c, ERR_UNAUTHENTICATED, "a bearer token is required");
        return false;
    }
    if (identify(c->worker, token, &c->who, &ec) != ERR_OK) {
        if (ec.code != ERR_UNAUTHENTICATED || !limited_failure(c))
            answer_errctx(c, &ec);
        return false;
    }
    return !limited_user(c) && audit_gate(c);
}

/* Probes are open unless a metrics_token asks for one. */
static bool probe_allowed(struct call *c)
{
    const struct server *s = c->worker->server;
    uint8_t got[32];
    if (!s->has_metrics_token)
        return true;
    struct str token = bearer_token(c->req);
    if (token.ptr != NULL) {
        sha256(token, got);
        if (memcmp(got, s->metrics_token_sha256, 32) == 0) /* of digests: their timing says nothing */
            return true;
    }
    answer_error(c, ERR_UNAUTHENTICATED, token.ptr == NULL ? "a bearer token is required" : "invalid token");
    return false;
}

static void route_call(struct call *c)
{
    switch (c->route) {
    case ROUTE_QUERY:
        if (authenticate(c))
            serve_query(c);
        break;
    case ROUTE_CONVERSATIONS:
        if (authenticate(c))
            serve_conversations(c);
        break;
    case ROUTE_EVENTS:
        if (authenticate(c))
            serve_events(c);
        break;
    case ROUTE_CONSOLIDATE:
        if (authenticate(c))
            serve_consolidate(c);
        break;
    case ROUTE_SWEEP:
        if (authenticate(c))
            serve_sweep(c);
        break;
    case ROUTE_AUDIT:
        if (authenticate(c))
            serve_audit(c);
        break;
    case ROUTE_REVOKE:
        if (authenticate(c))
            serve_revoke(c);
        break;
    case ROUTE_MESSAGE:
        if (authenticate(c))
            serve_message(c);
        break;
    case ROUTE_BACKUP:
        if (authenticate(c))
            serve_backup(c);
        break;
    case ROUTE_KEYS:
        if (authenticate(c))
            serve_keys(c);
        break;
    case ROUTE_KEYS_ROTATE:
        if (authenticate(c))
            serve_keys_rotate(c);
        break;
    case ROUTE_USER:
        if (authenticate(c))
            serve_user(c);
        break;
    case ROUTE_EXPORT:
        if (authenticate(c))
            serve_export(c);
        break;
    case ROUTE_CONTENT:
        serve_content(c);
        break;
    case ROUTE_TICKETS:
        if (authenticate(c))
            serve_tickets(c);
        break;
    case ROUTE_IMPORT:
    case ROUTE_MEDIA:
    case ROUTE_MESSAGE_STREAM:
        if (authenticate(c))
            answer_error(c, ERR_INVALID_REQUEST, "the body is empty");
        break;
    case ROUTE_WS:
        serve_ws(c);
        break;
    case ROUTE_HEALTH:
        if (probe_allowed(c))
            serve_health(c);
        break;
    case ROUTE_HEALTHZ:
        if (probe_allowed(c))
            serve_healthz(c);
        break;
    case ROUTE_READYZ:
        if (probe_allowed(c))
            serve_readyz(c);
        break;
    case ROUTE_METRICS:
        if (probe_allowed(c))
            serve_metrics(c);
        break;
    case ROUTE_NONE:
    case ROUTE_COUNT:
        answer_error(c, ERR_NOT_FOUND, "no such path");
        break;
    }
}

/* Routes that take a body as it comes do so from its head on; those of all others are collected. */
static void on_head(void *arg, struct net_request *req)
{
    struct str path, query;
    enum route route;
    if (req->in.method != HTTP_M_POST ||
        !target_split(&req->arena, http_message_target(&req->in), &path, &query))
        return; /* on_request says what is wrong */
    route = route_of(path);
    if (route != ROUTE_IMPORT && route != ROUTE_MEDIA && route != ROUTE_MESSAGE_STREAM)
        return;
    struct call *c = call_new(arg, req);
    if (c == NULL)
        return;
    c->path = path;
    c->query_string = query;
    c->route = route;
    req->started_us = uv_hrtime() / 1000;
    if (limited_address(c) || !authenticate(c))
        return;
    if (route == ROUTE_IMPORT)
        serve_import(c);
    else if (route == ROUTE_MEDIA)
        serve_media(c);
    else
        serve_message_stream(c);
}

static void on_request(void *arg, struct net_request *req)
{
    struct call *c = call_new(arg, req);
    if (c == NULL)
        return;
    if (!target_split(&req->arena, http_message_target(&req->in), &c->path, &c->query_string)) {
        answer_error(c, ERR_INVALID_REQUEST, "malformed request target");
        return;
    }
    c->route = route_of(c->path);
    if (limited_address(c))
        return;
    if (req->in.method == HTTP_M_OPTIONS)
        preflight(c);
    else if (c->route != ROUTE_NONE && !route_allows(c->route, (enum http_method)req->in.method))
        answer_status(
            c, 405, STR("METHOD_NOT_ALLOWED"), STR("method not allowed"), route_allow_header(c->route));
    else
        route_call(c);
}

static void on_failed(void *arg, struct net_request *req, enum http_failure failure, const char *why)
{
    struct call *c = call_new(arg, req);
    if (c == NULL)
        return;
    answer_http_failure(c, (int)failure, why);
}

/* The client left, or the time to shut down is up. */
static void on_aborted(void *arg, struct net_request *req)
{
    struct server *s = arg;
    struct call *c = req->user;
    if (c == NULL)
        return;
    c->abandoned = true;
    if (c->query != NULL)
        kalamdb_query_cancel(c->query);
    if (c->aborted != NULL)
        c->aborted(c);
    if (net_stopping(s->net))
        kalamdb_stop_consolidation(s->db);
}

#define EXPIRES_SOON_S (14 * 86400)

static void log_certificate(const struct server *s)
{
    uint8_t pin[32];
    int64_t expires_s, now_s = os_realtime_us(os_posix()) / 1000000;
    if (!net_tls_certificate(s->net, pin, &expires_s))
        return;
    if (expires_s <= now_s + EXPIRES_SOON_S)
        log_event(LOG_WARN, expires_s <= now_s ? "certificate_expired" : "certificate_expires_soon", "i:days",
            (long long)(expires_s - now_s) / 86400, NULL);
}

/* A broken new pair leaves the old one in place. */
static void reload_certificate(void *arg)
{
    struct server *s = arg;
    struct errctx ec = {0};
    if (net_tls_port(s->net) == 0)
        return;
    if (net_tls_reload(s->net, &ec) != ERR_OK) {
        log_event(LOG_ERROR, "certificate_not_reloaded", "s:reason", ec.message, NULL);
        return;
    }
    log_event(LOG_INFO, "certificate_reloaded", NULL);
    log_certificate(s);
    if (s->reloaded != NULL)
        s->reloaded(s->reloaded_arg);
}

/* SIGHUP: what is read from files while running is read again. Whoever reads files adds it here. */
static void on_reload(void *arg)
{
    server_refresh_keys(arg);
    log_event(LOG_INFO, "reload", NULL);
    reload_certificate(arg);
}

/* ---- workers
 * -------------------------------------------------------------------------------------------------------- */

static void *on_loop_start(void *arg, struct net_loop *loop)
{
    struct worker *w = calloc(1, sizeof *w);
    if (w == NULL)
        return NULL;
    w->server = arg;
    w->loop = loop;
    w->tokens = token_cache_new();
    if (w->tokens == NULL) {
        free(w);
        return NULL;
    }
    arena_init(&w->scratch, (size_t)256 << 20);
    os_posix()->random(os_posix()->ctx, &w->ids_base, sizeof w->ids_base);
    return w;
}

static void on_loop_stop(void *arg, struct net_loop *loop, void *user)
{
    (void)arg;
    (void)loop;
    struct worker *w = user;
    token_cache_free(w->tokens);
    arena_release(&w->scratch);
    buf_release(&w->text);
    free(w);
}

/* ---- open, run, close
 * --------------------------------------------------------------------------------------------- */

static enum err parse_origins(struct server *s, const char *list, struct errctx *ec)
{
    if (list == NULL || list[0] == '\0')
        return ERR_OK;
    s->origins_set = true;
    s->origins_text = strdup(list);
    size_t max = 1;
    for (const char *p = list; *p != '\0'; p++)
        max += *p == ',';
    s->origins = calloc(max, sizeof *s->origins);
    if (s->origins_text == NULL || s->origins == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    for (struct str rest = str_c(s->origins_text); rest.len > 0;) {
        size_t n = str_find(rest, ',');
        struct str one = str_trim(str_n(rest.ptr, n));
        rest = n < rest.len ? str_n(rest.ptr + n + 1, rest.len - n - 1) : STR("");
        while (one.len > 0 && one.ptr[one.len - 1] == '/')
            one.len--;
        if (str_eq(one, STR("*")))
            s->any_origin = true;
        else if (one.len > 0)
            s->origins[s->norigins++] = one;
    }
    return ERR_OK;
}

static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit); /* the soft limit is enough for a smaller server */
    }
}

static const struct net_handler *handler_of(struct server *s)
{
    static const struct net_handler functions = {.head = on_head,
        .request = on_request,
        .failed = on_failed,
        .aborted = on_aborted,
        .reload = on_reload,
        .certificate_changed = reload_certificate,
        .loop_start = on_loop_start,
        .loop_stop = on_loop_stop};
    s->handler = functions;
    s->handler.arg = s;
    return &s->handler;
}

static struct tls_options tls_of(const struct config *cfg)
{
    return (struct tls_options){.certificate_file = cfg->tls_certificate_file,
        .key_file = cfg->tls_key_file,
        .client_ca_file = cfg->tls_client_ca_file,
        .client_auth = strcmp(cfg->tls_client_auth, "required") == 0   ? TLS_CLIENT_REQUIRED
                       : strcmp(cfg->tls_client_auth, "optional") == 0 ? TLS_CLIENT_OPTIONAL
                                                                       : TLS_CLIENT_OFF};
}

/* Tokens and messages in the clear belong on no network. A host name may be anything: the warning is worth
 * it. */
static void warn_about_plain(const struct server *s)
{
    struct str listen = str_c(s->cfg->listen);
    static const struct str local[] = {{"127.", 4}, {"[::1]:", 6}, {"localhost:", 10}};
    for (size_t i = 0; i < sizeof local / sizeof *local; i++) {
        if (str_starts_with(listen, local[i]))
            return;
    }
    if (net_tls_port(s->net) != net_port(s->net))
        log_event(LOG_WARN, "plain_http_on_the_network", "s:listen", s->cfg->listen, "s:hint",
            "set tls_certificate_file and tls_key_file, or listen on 127.0.0.1 behind a proxy that speaks "
            "TLS",
            NULL);
}

enum err server_open(
    const struct config *cfg, struct kalamdb *db, struct auth *auth, struct server **ret, struct errctx *ec)
{
    struct server *s = calloc(1, sizeof *s);
    if (s == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    s->cfg = cfg;
    s->db = db;
    s->auth = auth;
    pthread_mutex_init(&s->receipt_lock, NULL);
    s->started_us = uv_hrtime() / 1000;
    s->started_s = os_realtime_us(os_posix()) / 1000000;
    if (cfg->metrics_token != NULL && cfg->metrics_token[0] != '\0') {
        s->has_metrics_token = true;
        sha256(str_c(cfg->metrics_token), s->metrics_token_sha256);
    }
    signal(SIGPIPE, SIG_IGN);
    raise_file_limit();
    struct net_options o = {.listen = str_c(cfg->listen),
        .loops = (int)cfg->loops,
        .max_body_bytes = (size_t)cfg->max_body_bytes,
        .max_connections = limits_connections(cfg),
        .max_connections_per_address = (uint32_t)cfg->max_connections_per_address,
        .max_frame_bytes = (size_t)cfg->max_frame_bytes,
        .max_socket_buffer_bytes = (size_t)cfg->max_socket_buffer_bytes,
        .header_timeout_ms = (int)cfg->header_timeout_ms,
        .idle_timeout_ms = (int)cfg->idle_timeout_ms,
        .shutdown_timeout_ms = (int)cfg->shutdown_timeout_ms,
        .tls = tls_of(cfg),
        .tls_listen = cfg->tls_listen != NULL ? str_c(cfg->tls_listen) : STR_NULL,
        .tls_handshake_timeout_ms = (int)cfg->tls_handshake_timeout_ms,
        .max_tls_handshakes = (size_t)cfg->max_tls_handshakes,
        .tls_check_ms = (int)cfg->tls_check_ms,
        .hsts_max_age_s = (int)cfg->hsts_max_age_s};
    enum err e = parse_origins(s, cfg->allowed_origins, ec);
    if (e == ERR_OK)
        e = limits_open(s, ec);
    if (e == ERR_OK)
        e = net_open(&o, handler_of(s), &s->net, ec);
    if (e == ERR_OK)
        e = server_audit_open(s, ec);
    if (e != ERR_OK) {
        server_close(s);
        return e;
    }
    server_follow_erasures(s, true);
    warn_about_plain(s);
    log_certificate(s);
    *ret = s;
    return ERR_OK;
}

int server_port(const struct server *s)
{
    return net_port(s->net);
}

int server_tls_port(const struct server *s)
{
    return net_tls_port(s->net);
}

bool server_certificate_pin(const struct server *s, uint8_t ret[32])
{
    int64_t expires_s;
    return net_tls_certificate(s->net, ret, &expires_s);
}

void server_on_certificate(struct server *s, void (*reloaded)(void *arg), void *arg)
{
    s->reloaded = reloaded;
    s->reloaded_arg = arg;
}

enum err server_run(struct server *s, struct errctx *ec)
{
    server_watch_keys(s);
    enum err e = net_run(s->net, true, ec);
    server_unwatch_keys(s);
    return e;
}

void server_stop(struct server *s)
{
    net_stop(s->net);
}

void server_close(struct server *s)
{
    server_follow_erasures(s, false);
    if (s->net != NULL && !net_close(s->net)) /* work never reported back and may still: leave what it uses */
        return;
    server_audit_close(s);
    limits_close(s);
    free(s->origins);
    free(s->origins_text);
    receipt_key_close(s->receipt_key);
    pthread_mutex_destroy(&s->receipt_lock);
    free(s);
}
