/* What WebSocket clients say (contract, section 3), and the handshake that begins it. */
#include "api/audited.h"
#include "api/client_message.h"
#include "api/session.h"
#include "api/stream.h"
#include "base/json.h"

static void put_id(struct buf *b, struct str id)
{
    if (id.ptr == NULL)
        return;
    buf_str(b, STR(",\"id\":"));
    json_str(b, id);
}

static void send_error(
    struct session *s, const char *code, const char *message, const struct client_message *m)
{
    struct buf *b = &s->worker->text;
    buf_clear(b);
    stream_refusal_json(b, code, message, m);
    if (!b->failed)
        session_send(s, buf_view(b));
}

static void on_auth(struct session *s, const struct client_message *m)
{
    struct principal *who = NULL;
    struct errctx ec = {0};
    if (m->token.ptr == NULL || identify(s->worker, m->token, &who, &ec) != ERR_OK) {
        audit_auth_failed(s->worker, s->conn, "/ws");
        bool expired = strcmp(ec.message, "token expired") == 0;
        if (session_limited_failure(s, net_stream_address(s->conn)))
            return;
        net_stream_close(s->conn, WS_CODE_AUTH, expired ? STR("token expired") : STR("invalid token"), false);
        return;
    }
    /* A later one renews the token; who is speaking stays the same. */
    if (s->who != NULL && (s->who->role != who->role || s->who->user_id_len != who->user_id_len ||
                              memcmp(s->who->user_id, who->user_id, who->user_id_len) != 0)) {
        principal_unref(who);
        send_error(s, "FORBIDDEN", "the connection belongs to another user or role", m);
        return;
    }
    principal_unref(s->who);
    s->who = who;
    if (!session_enter(s))
        net_stream_close(s->conn, WS_CODE_LIMITED, STR("too many connections of this user"), false);
    else
        session_set_timer(s);
}

static void on_subscribe(struct session *s, struct client_message *m)
{
    struct errctx ec = {0};
    m->subscribe.id = m->id;
    switch (session_subscribe(s, &m->subscribe, &ec)) {
    case ERR_OK:
        audit_foreign(s->worker, s->conn, s->who, m->subscribe.user_id, false, "/ws");
        break;
    case ERR_FORBIDDEN:
        send_error(s, "FORBIDDEN", ec.message, m);
        break;
    case ERR_INVALID_REQUEST:
        send_error(s, "INVALID_SUBSCRIPTION", ec.message, m);
        break;
    default:
        send_error(s, "INTERNAL", ec.code == ERR_UNAVAILABLE ? ec.message : "internal error", m);
        break;
    }
}

static void on_unsubscribe(struct session *s, const struct client_message *m)
{
    struct str id = m->id.ptr != NULL ? m->id : m->sub_id;
    struct buf *b = &s->worker->text;
    if (id.ptr == NULL) {
        send_error(s, "INVALID_MESSAGE", "id is missing", m);
        return;
    }
    buf_clear(b);
    json_str(b, id);
    struct subscription *sub = b->failed ? NULL : session_find(s, buf_view(b));
    if (sub == NULL) {
        send_error(s, "INVALID_SUBSCRIPTION", "no such subscription", m);
        return;
    }
    buf_clear(b);
    buf_str(b, STR("{\"type\":\"unsubscribe_ack\",\"id\":"));
    buf_append(b, sub->text, sub->id_len);
    buf_printf(b, ",\"subscriptionId\":\"%s\"}", sub->sub_id);
    session_unsubscribe(s, sub);
    if (!b->failed)
        session_send(s, buf_view(b));
}

static void on_ping(struct session *s, const struct client_message *m)
{
    struct buf *b = &s->worker->text;
    buf_clear(b);
    buf_str(b, STR("{\"type\":\"pong\""));
    put_id(b, m->id);
    buf_u8(b, '}');
    session_send(s, buf_view(b));
}

static void on_signal(struct session *s, const struct client_message *m)
{
    struct kalamdb_error error = {0};
    if (!session_may_signal(s)) {
        send_error(s, "RATE_LIMITED", "too many signals", m);
        return;
    }
    struct kalamdb_signal signal = {.caller = principal_caller(s->who),
        .user_id = kstr(m->subscribe.user_id),
        .conversation_id = kstr(m->subscribe.conversation_id),
        .from = kstr(m->from),
        .kind = kstr(m->kind),
        .data = kstr(m->data)};
    kalamdb_code code = kalamdb_signal(s->worker->server->db, &signal, &error);
    if (code != KALAMDB_OK)
        send_error(s, stream_error_code(code),
            kalamdb_code_status(code) == 500 ? "internal error" : error.message, m);
}

void session_text(struct session *s, struct str text)
{
    struct client_message m = {0};
    struct arena *arena = &s->worker->scratch;
    arena_clear(arena);
    enum session_pace pace = session_pace(s);
    if (pace == PACE_CLOSED)
        return;
    const char *why = client_message_read(text, arena, &m);
    if (s->who == NULL && (why != NULL || !str_eq(m.type, STR("auth")))) {
        net_stream_close(s->conn, WS_CODE_AUTH, STR("the first message must be auth"), false);
        return;
    }
    if (pace == PACE_TOO_FAST)
        send_error(s, "RATE_LIMITED", "too many messages", &m);
    else if (why != NULL)
        send_error(s, "INVALID_MESSAGE", why, &m);
    else if (str_eq(m.type, STR("auth")))
        on_auth(s, &m);
    else if (str_eq(m.type, STR("subscribe")))
        on_subscribe(s, &m);
    else if (str_eq(m.type, STR("unsubscribe")))
        on_unsubscribe(s, &m);
    else if (str_eq(m.type, STR("ping")))
        on_ping(s, &m);
    else if (str_eq(m.type, STR("signal")))
        on_signal(s, &m);
    else if (stream_call_is(m.type))
        session_stream(s, &m);
    else
        send_error(s, "INVALID_MESSAGE", "unknown message type", &m);
    if (arena->used_bytes > 65536)
        arena_release(arena);
}

/* ---- the handshake
 * ------------------------------------------------------------------------------------------------ */

/* From `Sec-WebSocket-Protocol: kalamdb, bearer.<token>`. */
static void read_protocols(const struct net_request *req, bool *ret_kalamdb, struct str *ret_token)
{
    for (int i = 0; i < req->in.nheaders; i++) {
        const struct http_header *h = &req->in.headers[i];
        struct str rest = str_n(req->in.head.ptr + h->value, h->value_len);
        if (!str_ieq(str_n(req->in.head.ptr + h->name, h->name_len), STR("sec-websocket-protocol")))
            continue;
        while (rest.len > 0) {
            size_t n = str_find(rest, ',');
            struct str one = str_trim(str_n(rest.ptr, n));
            rest = n < rest.len ? str_n(rest.ptr + n + 1, rest.len - n - 1) : STR("");
            if (str_eq(one, STR("kalamdb")))
                *ret_kalamdb = true;
            else if (str_starts_with(one, STR("bearer.")))
                *ret_token = str_n(one.ptr + 7, one.len - 7);
        }
    }
}

static bool handshake_refused(struct call *c)
{
    struct str origin = net_header(c->req, STR("origin"));
    int status;
    const char *why = net_websocket_refusal(c->req, &status);
    if (why != NULL) {
        answer_status(c, status, STR("INVALID_REQUEST"), str_c(why),
            status == 426 ? STR("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n")
                          : STR(""));
        return true;
    }
    if (c->worker->server->origins_set && origin.ptr != NULL && !origin_allowed(c->worker->server, origin)) {
        answer_error(c, ERR_FORBIDDEN, "this origin is not allowed");
        return true;
    }
    if (net_stopping(c->worker->server->net)) {
        answer_error(c, ERR_UNAVAILABLE, "the server is shutting down");
        return true;
    }
    return false;
}

/* A browser's script cannot see the status of a refused handshake, so a bad token is told by close code 4401.
 */
void serve_ws(struct call *c)
{
    struct principal *who = NULL;
    struct errctx ec = {0};
    bool kalamdb = false, denied = false;
    struct str token = bearer_token(c->req), offered = STR_NULL;
    if (handshake_refused(c))
        return;
    read_protocols(c->req, &kalamdb, &offered);
    if (token.ptr == NULL && !query_param(&c->req->arena, c->query_string, STR("token"), &token)) {
        answer_error(c, ERR_INVALID_REQUEST, "malformed query string");
        return;
    }
    if (token.ptr == NULL)
        token = offered;
    if (token.ptr != NULL)
        denied = identify(c->worker, token, &who, &ec) != ERR_OK;
    struct session *s = session_new(c->worker, who, false);
    if (s == NULL) {
        principal_unref(who);
        answer_error(c, ERR_INTERNAL, "internal error");
        return;
    }
    count_answer(c, 101);
    struct net_conn *conn =
        net_stream_websocket(c->req, kalamdb ? STR("kalamdb") : STR_NULL, STR(""), &session_ops, s);
    if (conn == NULL) {
        session_discard(s);
        return;
    }
    session_start(s, conn);
    if (denied && session_limited_failure(s, net_stream_address(conn)))
        return;
    if (!denied && !session_enter(s))
        net_stream_close(conn, WS_CODE_LIMITED, STR("too many connections of this user"), false);
    if (denied)
        audit_auth_failed(c->worker, conn, "/ws");
    if (denied)
        net_stream_close(conn, WS_CODE_AUTH,
            strcmp(ec.message, "token expired") == 0 ? STR("token expired") : STR("invalid token"), false);
}
