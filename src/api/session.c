#include "api/session.h"
#include "api/stream.h"
#include "base/json.h"
#include <stdlib.h>

#define TURN_EVENTS 32
#define PUMP_EVENTS 1024
#define AUTH_WAIT_MS 5000

/* ---- lifetimes
 * ------------------------------------------------------------------------------------------------- */

static void session_task(struct net_task *task);

struct session *session_new(struct worker *w, struct principal *who, bool events)
{
    struct session *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->task.run = session_task;
    s->worker = w;
    s->who = who;
    s->events = events;
    s->next = w->sessions;
    s->pprev = &w->sessions;
    if (s->next != NULL)
        s->next->pprev = &s->next;
    w->sessions = s;
    return s;
}

void session_start(struct session *s, struct net_conn *conn)
{
    uint64_t now = net_now_ms(s->worker->loop);
    s->conn = conn;
    s->auth_due_ms = now + AUTH_WAIT_MS;
    s->next_ping_ms = now + (uint64_t)s->worker->server->cfg->ping_interval_ms;
    session_set_timer(s);
}

static void session_free_if_gone(struct session *s)
{
    if (s->conn != NULL || s->task_posted || s->pumping)
        return;
    free(s->signals);
    free(s);
}

void session_unsubscribe(struct session *s, struct subscription *sub)
{
    struct subscription **link = &s->subs;
    while (*link != sub)
        link = &(*link)->next;
    *link = sub->next;
    if (sub->ready) {
        struct subscription *before = NULL;
        for (struct subscription *p = s->ready_first; p != sub; p = p->ready_next)
            before = p;
        if (before != NULL)
            before->ready_next = sub->ready_next;
        else
            s->ready_first = sub->ready_next;
        if (s->ready_last == sub)
            s->ready_last = before;
    }
    s->nsubs--;
    sub->session = NULL;
    kalamdb_unsubscribe(sub->engine); /* no wake after this: `posted` is final */
    if (!atomic_load(&sub->posted))
        free(sub);
}

void session_discard(struct session *s)
{
    session_stream_close(s);
    while (s->subs != NULL)
        session_unsubscribe(s, s->subs);
    if (s->pprev != NULL) {
        *s->pprev = s->next;
        if (s->next != NULL)
            s->next->pprev = s->pprev;
        s->pprev = NULL;
    }
    session_leave(s);
    principal_unref(s->who);
    s->who = NULL;
    s->conn = NULL;
    session_free_if_gone(s);
}

static void on_closed(void *arg)
{
    session_discard(arg);
}

/* ---- timers
 * ------------------------------------------------------------------------------------------------------ */

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* When the token ends, on the loop's clock. */
static uint64_t expiry_ms(const struct session *s, uint64_t now)
{
    int64_t left = s->who->expires_s - net_now_s(s->worker->loop);
    int64_t leeway = s->worker->server->cfg->jwt_leeway_s;
    if (left > 86400)
        return now + 86400000; /* look again in a day */
    left += leeway;
    return left <= 0 ? now : now + (uint64_t)left * 1000;
}

void session_set_timer(struct session *s)
{
    const struct config *cfg = s->worker->server->cfg;
    uint64_t now = net_now_ms(s->worker->loop), due = s->next_ping_ms;
    due = min_u64(due, s->who != NULL ? expiry_ms(s, now) : s->auth_due_ms);
    if (!s->events)
        due = min_u64(due, net_stream_last_input(s->conn) + (uint64_t)cfg->idle_timeout_ms);
    if (net_stream_pending(s->conn) > 0) {
        uint64_t stalled = net_stream_stalled_since(s->conn);
        due = min_u64(due, (stalled != 0 ? stalled : now) + (uint64_t)cfg->slow_subscriber_timeout_ms);
    }
    s->timer_ms = due > now ? due : now + 1;
    net_stream_set_timer(s->conn, s->timer_ms);
}

static void ping(struct session *s)
{
    /* One whose queue is full has enough to read. */
    if (net_stream_pending(s->conn) >= (size_t)s->worker->server->cfg->max_socket_buffer_bytes)
        return;
    if (s->events) {
        net_stream_send(s->conn, STR(": ping\n\n"));
        return;
    }
    if (s->who != NULL)
        net_stream_send(s->conn, STR("{\"type\":\"server_ping\"}"));
    net_stream_ping(s->conn);
}

static void on_timer(void *arg, uint64_t now)
{
    struct session *s = arg;
    const struct config *cfg = s->worker->server->cfg;
    uint64_t stalled = net_stream_stalled_since(s->conn);
    if (s->who == NULL && now >= s->auth_due_ms) {
        net_stream_close(s->conn, WS_CODE_AUTH, STR("no token came in time"), false);
    } else if (s->who != NULL && principal_expired(s->worker->server, s->who, net_now_s(s->worker->loop))) {
        net_stream_close(s->conn, WS_CODE_AUTH, STR("token expired"), false);
    } else if (stalled != 0 && now >= stalled + (uint64_t)cfg->slow_subscriber_timeout_ms) {
        counter_add(&s->worker->slow_closed, 1);
        net_stream_close(s->conn, WS_CODE_SLOW, STR("reader is too slow"), true);
    } else if (!s->events && now >= net_stream_last_input(s->conn) + (uint64_t)cfg->idle_timeout_ms) {
        net_stream_close(s->conn, WS_GOING_AWAY, STR("idle"), false);
    } else {
        if (now >= s->next_ping_ms) {
            s->next_ping_ms = now + (uint64_t)cfg->ping_interval_ms;
            ping(s);
        }
        session_set_timer(s);
    }
}

/* ---- events out
 * ---------------------------------------------------------------------------------------------------- */

static void release_change(void *owner)
{
    kalamdb_change_unref(owner);
}

void session_send(struct session *s, struct str json)
{
    if (s->conn == NULL)
        return;
    counter_add(&s->worker->messages_out, 1);
    net_stream_send(s->conn, json);
}

/* Opens a message in w->text: for event streams with its id line (seq 0: none). */
static struct buf *message_open(struct session *s, const struct subscription *sub, const char *type,
    bool numbered, struct kalamdb_str feed, uint64_t seq)
{
    struct buf *b = &s->worker->text;
    buf_clear(b);
    if (s->events) {
        if (numbered) {
            buf_str(b, STR("id: "));
            buf_append(b, feed.ptr, feed.len);
            buf_printf(b, ":%llu\n", (unsigned long long)seq);
        }
        buf_str(b, STR("data: "));
    }
    buf_str(b, STR("{\"type\":\""));
    buf_str(b, str_c(type));
    buf_str(b, STR("\",\"id\":"));
    buf_append(b, sub->text, sub->id_len);
    return b;
}

static void message_close(struct session *s)
{
    struct buf *b = &s->worker->text;
    buf_u8(b, '}');
    if (s->events)
        buf_str(b, STR("\n\n"));
    if (b->failed) /* a hole in the order is worse than a reconnect */
        net_stream_close(s->conn, WS_INTERNAL_ERROR, STR("out of memory"), false);
    else
        session_send(s, buf_view(b));
}

static void put_seq(struct buf *b, uint64_t seq)
{
    json_i64(b, seq > INT64_MAX ? INT64_MAX : (int64_t)seq);
}

static void send_ack(struct session *s, const struct subscription *sub, const struct kalamdb_event *ev)
{
    /* An event stream's client comes back with the last id it saw. While a replay runs that must not be
     * `seq`. */
    struct buf *b = message_open(s, sub, "subscribe_ack", sub->live_only && !ev->resync, ev->feed, ev->seq);
    buf_printf(b, ",\"subscriptionId\":\"%s\",\"conversationId\":%s,\"feed\":", sub->sub_id,
        sub->text + sub->id_len);
    json_str(b, str_n(ev->feed.ptr, ev->feed.len));
    buf_str(b, STR(",\"seq\":"));
    put_seq(b, ev->seq);
    if (ev->resync)
        buf_str(b, STR(",\"resync\":true"));
    message_close(s);
}

static void send_replay_complete(
    struct session *s, const struct subscription *sub, const struct kalamdb_event *ev)
{
    struct buf *b = message_open(s, sub, "replay_complete", true, ev->feed, ev->seq);
    buf_printf(b, ",\"messageCount\":%llu,\"lastMsgId\":", (unsigned long long)ev->message_count);
    if (ev->last_msg_id != 0)
        json_i64(b, ev->last_msg_id);
    else
        buf_str(b, STR("null"));
    buf_str(b, STR(",\"seq\":"));
    put_seq(b, ev->seq);
    message_close(s);
}

/* An event's data is one line; JSON from a client may hold line breaks between its tokens (never inside
 * strings). */
static bool one_line(struct kalamdb_str json)
{
    return memchr(json.ptr, '\n', json.len) == NULL && memchr(json.ptr, '\r', json.len) == NULL;
}

static void put_one_line(struct buf *b, struct kalamdb_str json)
{
    size_t from = b->len;
    buf_append(b, json.ptr, json.len);
    for (size_t i = from; i < b->len; i++) {
        if (b->ptr[i] == '\n' || b->ptr[i] == '\r')
            b->ptr[i] = ' ';
    }
}

static void send_change(struct session *s, const struct subscription *sub, const struct kalamdb_event *ev)
{
    static const char *const ops[] = {"insert", "update", "delete"};
    struct kalamdb_str json = kalamdb_change_json(ev->change);
    struct buf *b;
    if (ev->kind == KALAMDB_EVENT_CHANGE) {
        b = message_open(s, sub, "message", true, ev->feed, ev->seq);
        buf_printf(b, ",\"op\":\"%s\",\"seq\":", ops[ev->op]);
        put_seq(b, ev->seq);
        buf_str(b, STR(",\"message\":"));
    } else if (ev->kind == KALAMDB_EVENT_APPEND) {
        b = message_open(s, sub, "message", false, ev->feed, 0);
        buf_str(b, STR(",\"op\":\"append\",\"message\":"));
    } else {
        b = message_open(s, sub, "conversation", false, ev->feed, 0);
        buf_str(b, STR(",\"conversation\":"));
    }
    if (json.ptr == NULL)
        b->failed = true;
    if (b->failed || (s->events && !one_line(json))) {
        if (json.ptr != NULL)
            put_one_line(b, json);
        kalamdb_change_unref(ev->change);
        message_close(s);
        return;
    }
    counter_add(&s->worker->messages_out, 1);
    net_stream_send_shared(s->conn, buf_view(b), str_n(json.ptr, json.len),
        s->events ? STR("}\n\n") : STR("}"), release_change, ev->change);
}

/* Once per connection, however many of its subscriptions see the conversation. */
static void send_signal(struct session *s, const struct kalamdb_event *ev)
{
    struct kalamdb_str json = kalamdb_change_json(ev->change);
    if (json.ptr != NULL && session_signal_is_new(s, ev->seq)) {
        struct buf *b = &s->worker->text;
        buf_clear(b);
        if (s->events)
            buf_str(b, STR("data: "));
        buf_str(b, STR("{\"type\":\"signal\","));
        put_one_line(b, (struct kalamdb_str){json.ptr + 1, json.len - 1}); /* an object with members */
        if (s->events)
            buf_str(b, STR("\n\n"));
        if (!b->failed)
            session_send(s, buf_view(b));
    }
    kalamdb_change_unref(ev->change);
}

/* The engine ended the subscription. */
static void on_engine_closed(struct session *s, struct subscription *sub, kalamdb_code code)
{
    if (s->events || kalamdb_code_status(code) == 503) {
        /* The client's way on is to connect again with its cursor. */
        net_stream_close(s->conn, WS_GOING_AWAY, STR("unavailable"), false);
        return;
    }
    struct buf *b = message_open(s, sub, "error", false, (struct kalamdb_str){NULL, 0}, 0);
    int status = kalamdb_code_status(code);
    buf_printf(b, ",\"code\":\"%s\",\"message\":\"%s\"",
        status == 403   ? "FORBIDDEN"
        : status == 404 ? "INVALID_SUBSCRIPTION"
                        : "INTERNAL",
        status == 404 ? "the user was erased: subscribe again to follow who comes after"
                      : "the subscription has ended");
    message_close(s);
    if (s->conn != NULL)
        session_unsubscribe(s, sub);
}

/* One event. False: no more from this subscription now (or the session is gone). */
static bool deliver(struct session *s, struct subscription *sub)
{
    struct kalamdb_event ev = {0};
    switch (kalamdb_subscription_next(sub->engine, &ev)) {
    case KALAMDB_EVENT_PENDING:
        return false;
    case KALAMDB_EVENT_ACK:
        send_ack(s, sub, &ev);
        break;
    case KALAMDB_EVENT_CHANGE:
    case KALAMDB_EVENT_APPEND:
    case KALAMDB_EVENT_CONVERSATION:
        send_change(s, sub, &ev);
        break;
    case KALAMDB_EVENT_SIGNAL:
        send_signal(s, &ev);
        break;
    case KALAMDB_EVENT_REPLAY_COMPLETE:
        send_replay_complete(s, sub, &ev);
        break;
    case KALAMDB_EVENT_CLOSED:
        on_engine_closed(s, sub, ev.code);
        return false;
    }
    return s->conn != NULL;
}

static void make_ready(struct session *s, struct subscription *sub)
{
    if (sub->ready)
        return;
    sub->ready = true;
    sub->ready_next = NULL;
    if (s->ready_last != NULL)
        s->ready_last->ready_next = sub;
    else
        s->ready_first = sub;
    s->ready_last = sub;
}

static bool full(const struct session *s)
{
    return net_stream_pending(s->conn) >= (size_t)s->worker->server->cfg->max_socket_buffer_bytes;
}

/* The first ready subscription's turn; events served. */
static int turn(struct session *s)
{
    struct subscription *sub = s->ready_first;
    int n = 0;
    s->ready_first = sub->ready_next;
    if (s->ready_first == NULL)
        s->ready_last = NULL;
    sub->ready = false;
    for (; n < TURN_EVENTS; n++) {
        if (full(s))
            break;
        if (!deliver(s, sub))
            return n + 1; /* nothing pending, or sub is gone: do not touch it */
    }
    make_ready(s, sub);
    return n;
}

void session_pump(struct session *s)
{
    if (s->conn == NULL || s->pumping)
        return;
    s->pumping = true;
    int left = PUMP_EVENTS;
    session_stream_pump(s);
    while (s->conn != NULL && s->ready_first != NULL && left > 0 && !full(s))
        left -= turn(s) + 1;
    s->pumping = false;
    if (s->conn == NULL) {
        session_free_if_gone(s);
        return;
    }
    if (s->ready_first != NULL && !full(s) && !s->task_posted) {
        s->task_posted = true;
        net_post(s->worker->loop, &s->task);
    }
    /* What was queued may stall: be there when it has for too long. */
    uint64_t slow =
        net_now_ms(s->worker->loop) + (uint64_t)s->worker->server->cfg->slow_subscriber_timeout_ms;
    if (net_stream_pending(s->conn) > 0 && s->timer_ms > slow) {
        s->timer_ms = slow;
        net_stream_set_timer(s->conn, slow);
    }
}

static void session_task(struct net_task *task)
{
    struct session *s = (struct session *)task;
    s->task_posted = false;
    if (s->conn == NULL)
        session_free_if_gone(s);
    else
        session_pump(s);
}

/* Called while the queue is being written: go on in the loop's next round, so that one fast reader of much
 * does not keep the others waiting. */
static void on_drained(void *arg)
{
    struct session *s = arg;
    if ((s->ready_first == NULL && s->producer == NULL) || s->task_posted)
        return;
    s->task_posted = true;
    net_post(s->worker->loop, &s->task);
}

static void on_text(void *arg, struct str text)
{
    struct session *s = arg;
    counter_add(&s->worker->messages_in, 1);
    s->pumping = true; /* the session stays allocated while its message is read */
    session_text(s, text);
    s->pumping = false;
    if (s->conn != NULL)
        session_pump(s);
    else
        session_free_if_gone(s);
}

const struct net_stream_ops session_ops = {
    .text = on_text, .drained = on_drained, .timer = on_timer, .closed = on_closed};

/* ---- subscribing
 * --------------------------------------------------------------------------------------------------- */

static void subscription_task(struct net_task *task)
{
    struct subscription *sub = (struct subscription *)task;
    /* Cleared before the events are taken: a wake from here on posts again. */
    atomic_store(&sub->posted, false);
    struct session *s = sub->session;
    if (s == NULL) {
        free(sub);
        return;
    }
    make_ready(s, sub);
    session_pump(s);
}

static void on_wake(void *arg)
{
    struct subscription *sub = arg;
    if (!atomic_exchange(&sub->posted, true))
        net_post(sub->loop, &sub->task);
}

struct subscription *session_find(struct session *s, struct str id_json)
{
    for (struct subscription *sub = s->subs; sub != NULL; sub = sub->next) {
        if (str_eq(str_n(sub->text, sub->id_len), id_json) ||
            (id_json.len == 18 && memcmp(sub->sub_id, id_json.ptr + 1, 16) == 0))
            return sub;
    }
    return NULL;
}

static struct subscription *subscription_new(struct session *s, const struct subscribe_request *r)
{
    struct worker *w = s->worker;
    struct buf b = BUF_INIT(16384);
    char sub_id[17];
    static const char hex[] = "0123456789abcdef";
    uint64_t n = w->ids_base + w->ids_next++;
    n = (n ^ n >> 31) * 0x9E3779B97F4A7C15u; /* a bijection: distinct stays distinct */
    for (int i = 0; i < 16; i++)
        sub_id[i] = hex[n >> (60 - 4 * i) & 15];
    sub_id[16] = '\0';
    json_str(&b, r->id.ptr != NULL ? r->id : str_n(sub_id, 16));
    size_t id_len = b.len;
    if (r->conversation_id.ptr != NULL)
        json_str(&b, r->conversation_id);
    else
        buf_str(&b, STR("null"));
    buf_u8(&b, 0);
    struct subscription *sub = b.failed ? NULL : malloc(sizeof *sub + b.len);
    if (sub != NULL) {
        *sub = (struct subscription){.task.run = subscription_task,
            .session = s,
            .loop = w->loop,
            .live_only = !r->has_last_seq && !r->has_last_msg_id,
            .id_len = (uint16_t)id_len};
        memcpy(sub->sub_id, sub_id, sizeof sub_id);
        memcpy(sub->text, b.ptr, b.len);
    }
    buf_release(&b);
    return sub;
}

static enum err check(struct session *s, const struct subscribe_request *r, struct errctx *ec)
{
    const struct config *cfg = s->worker->server->cfg;
    if (s->nsubs >= (uint64_t)cfg->max_subscriptions)
        return err_set(
            ec, ERR_INVALID_REQUEST, "at most %lld subscriptions", (long long)cfg->max_subscriptions);
    if (r->id.ptr != NULL && (r->id.len == 0 || r->id.len > 255))
        return err_set(ec, ERR_INVALID_REQUEST, "id must have 1 to 255 bytes");
    if (r->user_id.ptr != NULL && !kalamdb_user_id_valid(kstr(r->user_id)))
        return err_set(ec, ERR_INVALID_REQUEST, "userId is no user id");
    if (r->conversation_id.ptr != NULL && (r->conversation_id.len == 0 || r->conversation_id.len > 255))
        return err_set(ec, ERR_INVALID_REQUEST, "conversationId must have 1 to 255 bytes");
    return ERR_OK;
}

enum err session_subscribe(struct session *s, const struct subscribe_request *r, struct errctx *ec)
{
    enum err e = check(s, r, ec);
    if (e != ERR_OK)
        return e;
    struct subscription *sub = subscription_new(s, r);
    if (sub == NULL)
        return err_internal(ec, ERR_INTERNAL, "subscription: out of memory");
    if (r->id.ptr != NULL && session_find(s, str_n(sub->text, sub->id_len)) != NULL) {
        free(sub);
        return err_set(ec, ERR_INVALID_REQUEST, "id is in use on this connection");
    }
    struct kalamdb_subscribe o = {.caller = principal_caller(s->who),
        .user_id = kstr(r->user_id),
        .conversation_id = kstr(r->conversation_id),
        .has_last_seq = r->has_last_seq,
        .has_last_msg_id = r->has_last_msg_id,
        .last_seq = r->last_seq,
        .last_msg_id = r->last_msg_id,
        .feed = kstr(r->feed),
        .wake = on_wake,
        .arg = sub};
    struct kalamdb_error ke = {0};
    kalamdb_code code = kalamdb_subscribe(s->worker->server->db, &o, &sub->engine, &ke);
    if (code != KALAMDB_OK) {
        int status = kalamdb_code_status(code);
        e = status == 403   ? ERR_FORBIDDEN
            : status == 503 ? ERR_UNAVAILABLE
            : status == 500 ? ERR_INTERNAL
                            : ERR_INVALID_REQUEST;
        (void)err_set(ec, e, "%s", ke.message);
        sub->session = NULL;
        if (!atomic_load(&sub->posted))
            free(sub);
        return e;
    }
    sub->next = s->subs;
    s->subs = sub;
    s->nsubs++;
    make_ready(s, sub);
    return ERR_OK;
}
