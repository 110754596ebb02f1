/* GET /api/v1/events: one subscription as Server-Sent Events (WHATWG HTML, 9.2). */
#include "api/session.h"
#include "base/json.h"

/* `<feed>:<seq>`. What is not of that form comes from another server: a feed nobody has, which means a
 * resync. */
static void read_last_event_id(struct str text, struct subscribe_request *r)
{
    size_t colon = text.len;
    int64_t seq;
    while (colon > 0 && text.ptr[colon - 1] != ':')
        colon--;
    r->has_last_seq = true;
    r->feed = text;
    r->last_seq = 0;
    if (colon > 1 && str_to_i64(str_n(text.ptr + colon, text.len - colon), &seq) && seq >= 0) {
        r->feed.len = colon - 1;
        r->last_seq = (uint64_t)seq;
    }
}

/* Parameters; NULL, or what is wrong. */
static const char *read_params(struct call *c, struct subscribe_request *r)
{
    struct arena *a = &c->req->arena;
    struct str seq, msg_id, q = c->query_string;
    int64_t n = 0;
    if (!query_param(a, q, STR("conversationId"), &r->conversation_id) ||
        !query_param(a, q, STR("userId"), &r->user_id) || !query_param(a, q, STR("feed"), &r->feed) ||
        !query_param(a, q, STR("lastSeq"), &seq) || !query_param(a, q, STR("lastMsgId"), &msg_id))
        return "malformed query string";
    if (seq.ptr != NULL) {
        if (!str_to_i64(seq, &n) || n < 0)
            return "lastSeq must be an integer, not negative";
        r->has_last_seq = true;
        r->last_seq = (uint64_t)n;
    }
    if (msg_id.ptr != NULL) {
        if (!str_to_i64(msg_id, &r->last_msg_id))
            return "lastMsgId must be an integer";
        r->has_last_msg_id = true;
    }
    struct str last = net_header(c->req, STR("last-event-id"));
    if (last.len > 0)
        read_last_event_id(last, r);
    return utf8_valid(r->feed) ? NULL : "malformed Last-Event-ID";
}

static void start(struct call *c, struct session *s)
{
    struct buf h = BUF_INIT(8192);
    cors_headers(c, &h);
    buf_str(&h, STR("X-Accel-Buffering: no\r\n")); /* nginx: pass events on as they come */
    count_answer(c, 200);
    struct net_request *req = c->req;
    call_release(c);
    struct net_conn *conn =
        net_stream_chunked(req, STR("text/event-stream; charset=utf-8"), buf_view(&h), &session_ops, s);
    buf_release(&h);
    if (conn == NULL) {
        session_discard(s);
        return;
    }
    session_start(s, conn);
    net_stream_send(conn, STR("retry: 1000\n\n"));
    session_pump(s);
}

void serve_events(struct call *c)
{
    struct subscribe_request r = {0};
    struct errctx ec = {0};
    const char *why = read_params(c, &r);
    if (why == NULL && !net_stream_possible(c->req))
        why = "an event stream cannot be pipelined";
    if (why != NULL) {
        answer_error(c, ERR_INVALID_REQUEST, "%s", why);
        return;
    }
    if (net_stopping(c->worker->server->net)) {
        answer_error(c, ERR_UNAVAILABLE, "the server is shutting down");
        return;
    }
    if (c->req->in.method == HTTP_M_HEAD) {
        answer(c, 200, STR("text/event-stream; charset=utf-8"), STR(""));
        return;
    }
    struct session *s = session_new(c->worker, principal_ref(c->who), true);
    if (s == NULL) {
        principal_unref(c->who);
        answer_error(c, ERR_INTERNAL, "internal error");
        return;
    }
    if (!session_enter(s)) {
        session_discard(s);
        answer_error(c, ERR_RATE_LIMITED, "too many connections of this user");
        return;
    }
    if (session_subscribe(s, &r, &ec) != ERR_OK) {
        session_discard(s);
        answer_errctx(c, &ec);
        return;
    }
    start(c, s);
}
