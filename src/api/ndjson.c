/* POST /api/v1/messages/stream: the messages of a producer, one JSON object a line, and the answers to them,
 * while the body is still coming.
 *
 *   data ─→ lines ─→ engine … events ─→ lines out
 *             └─ after a stream_begin: pause, until its answer says which message the next lines mean
 *
 * The answer ends when the body has and everything in it is answered: appends when their text is durable.
 * What is open then, or when the client goes, is interrupted. The loop's thread, but for wake-ups. */
#include "api/ndjson.h"
#include "api/audited.h"
#include "api/stream.h"
#include "base/json.h"
#include <stdlib.h>

struct ndjson {
    struct net_task task;
    _Atomic bool posted; /* task is in the loop's queue */
    struct worker *worker;
    struct ndjson *next, **pprev; /* of the worker, while it is open */
    struct net_conn *conn;        /* NULL: closed; freed when nothing is posted */
    struct net_request *req;      /* NULL: the body has ended */
    struct principal *who;
    struct kalamdb_producer *engine;
    struct stream_ids ids;
    struct buf pending; /* bytes not looked at yet, from `at` on */
    size_t at;
    uint64_t begin; /* tag of the stream_begin that is waited for; 0: none */
    int64_t begun;  /* msg_id of the last; 0: none */
    bool busy;      /* in one of our functions: closing waits with the memory */
};

static void pump(struct ndjson *n);

static void free_if_gone(struct ndjson *n)
{
    if (n->conn != NULL || n->busy || atomic_load(&n->posted))
        return;
    buf_release(&n->pending);
    free(n);
}

static void on_closed(void *arg)
{
    struct ndjson *n = arg;
    *n->pprev = n->next;
    if (n->next != NULL)
        n->next->pprev = n->pprev;
    n->conn = NULL;
    n->req = NULL;
    kalamdb_producer_close(n->engine); /* no wake after this: `posted` is final */
    n->engine = NULL;
    stream_ids_release(&n->ids);
    principal_unref(n->who);
    n->who = NULL;
    free_if_gone(n);
}

/* ---- answers ---- */

static void send_line(struct ndjson *n, struct buf *b)
{
    buf_u8(b, '\n');
    counter_add(&n->worker->messages_out, 1);
    if (b->failed)
        net_stream_abort(n->conn);
    else
        net_stream_send(n->conn, buf_view(b));
}

/* `m` may be the beginning of a message, as far as it could be read. */
static void send_error(struct ndjson *n, const char *code, const char *why, const struct client_message *m)
{
    struct buf *b = &n->worker->text;
    buf_clear(b);
    stream_refusal_json(b, code, why, m);
    send_line(n, b);
}

static void note_event(struct ndjson *n, const struct kalamdb_stream_event *ev)
{
    if (n->begin != 0 && ev->tag == n->begin) {
        n->begin = 0;
        n->begun = ev->msg_id;
    }
}

/* ---- lines ---- */

static void take_message(struct ndjson *n, struct client_message *m)
{
    bool append = str_eq(m->type, STR("append")), begin = str_eq(m->type, STR("stream_begin"));
    struct kalamdb_caller caller = principal_caller(n->who);
    if (!m->has_msg_id && !begin && n->begun != 0) {
        m->msg_id = n->begun;
        m->has_msg_id = true;
    }
    uint64_t tag = append ? 0 : stream_ids_add(&n->ids, m->id);
    if (!append && tag == 0) {
        send_error(n, "RATE_LIMITED", "too many streams begin or end at once", m);
        return;
    }
    const char *why = stream_call(n->engine, &caller, m, tag);
    if (why == NULL && str_eq(m->type, STR("stream_begin")))
        audit_foreign(n->worker, n->conn, n->who, m->subscribe.user_id, true, "/api/v1/messages/stream");
    n->begin = begin && why == NULL ? tag : 0;
    if (why != NULL) {
        (void)stream_ids_take(&n->ids, tag, &n->worker->scratch);
        send_error(n, "INVALID_MESSAGE", why, m);
    }
}

static void take_line(struct ndjson *n, struct str line)
{
    struct client_message m = {0};
    struct arena *arena = &n->worker->scratch;
    line = str_trim(line);
    if (line.len == 0)
        return;
    counter_add(&n->worker->messages_in, 1);
    arena_clear(arena);
    const char *why = utf8_valid(line) ? client_message_read(line, arena, &m) : "the line is not valid UTF-8";
    if (why == NULL && !stream_call_is(m.type))
        why = "a line is a stream_begin, append or stream_end";
    if (str_eq(m.type, STR("stream_begin")))
        n->begun = 0; /* should it fail, the next lines must not mean the message before */
    if (why != NULL)
        send_error(n, "INVALID_MESSAGE", why, &m);
    else
        take_message(n, &m);
    if (arena->used_bytes > 65536)
        arena_release(arena);
}

/* Whole lines, as long as none has to be waited for; the last one needs no line break. */
static void take_lines(struct ndjson *n)
{
    size_t max = (size_t)n->worker->server->cfg->max_frame_bytes;
    while (n->conn != NULL && n->begin == 0 && n->at < n->pending.len) {
        struct str rest = str_n(n->pending.ptr + n->at, n->pending.len - n->at);
        size_t len = str_find(rest, '\n');
        if (len > max) {
            send_error(
                n, "INVALID_MESSAGE", "a line is longer than max_frame_bytes", &(struct client_message){0});
            net_stream_close(n->conn, 1009, STR("line too long"), false);
            return;
        }
        if (len == rest.len && n->req != NULL)
            break;
        n->at += len + (len < rest.len);
        take_line(n, str_n(rest.ptr, len));
    }
    if (n->at > 0 && n->at <= n->pending.len) {
        memmove(n->pending.ptr, n->pending.ptr + n->at, n->pending.len - n->at);
        n->pending.len -= n->at;
        n->at = 0;
    }
}

/* ---- both ways ---- */

static bool full(const struct ndjson *n)
{
    return net_stream_pending(n->conn) >= (size_t)n->worker->server->cfg->max_socket_buffer_bytes;
}

static void send_events(struct ndjson *n)
{
    struct kalamdb_stream_event ev;
    struct buf *b = &n->worker->text;
    while (n->conn != NULL && !full(n) && kalamdb_producer_next(n->engine, &ev) != KALAMDB_STREAM_PENDING) {
        struct arena *arena = &n->worker->scratch;
        note_event(n, &ev);
        buf_clear(b);
        stream_event_json(b, &ev, stream_ids_take(&n->ids, ev.tag, arena));
        send_line(n, b);
    }
}

static void pump(struct ndjson *n)
{
    n->busy = true;
    for (uint64_t waited = 1; n->conn != NULL && waited != 0;) {
        take_lines(n);
        waited = n->begin;
        if (n->conn != NULL)
            send_events(n);
        waited = waited != 0 && n->begin == 0; /* the answer came at once: there may be more lines */
    }
    if (n->conn != NULL && n->req != NULL) {
        if (n->begin != 0 || full(n))
            net_body_pause(n->req);
        else
            net_body_resume(n->req);
    }
    if (n->conn != NULL && n->req == NULL && n->pending.len == 0 && !kalamdb_producer_busy(n->engine))
        net_stream_close(n->conn, 1000, STR(""), false);
    n->busy = false;
    free_if_gone(n);
}

static void on_task(struct net_task *task)
{
    struct ndjson *n = (struct ndjson *)task;
    /* Cleared before the events are taken: a wake from here on posts again. */
    atomic_store(&n->posted, false);
    if (n->conn == NULL)
        free_if_gone(n);
    else
        pump(n);
}

static void on_wake(void *arg)
{
    struct ndjson *n = arg;
    if (!atomic_exchange(&n->posted, true))
        net_post(n->worker->loop, &n->task);
}

static void on_data(void *arg, struct str bytes)
{
    struct ndjson *n = arg;
    buf_str(&n->pending, bytes);
    if (n->pending.failed)
        net_stream_abort(n->conn);
    else
        pump(n);
}

static void on_end(void *arg)
{
    struct ndjson *n = arg;
    n->req = NULL;
    pump(n);
}

static void on_aborted(void *arg)
{
    struct ndjson *n = arg;
    n->req = NULL;
    if (n->conn != NULL)
        net_stream_abort(n->conn);
}

static void on_drained(void *arg)
{
    on_wake(arg);
}

/* Back ends think for a while: the clock is that of an idle connection. */
static void set_timer(struct ndjson *n, uint64_t now)
{
    net_stream_set_timer(n->conn, now + 1000);
}

static void on_timer(void *arg, uint64_t now)
{
    struct ndjson *n = arg;
    const struct config *cfg = n->worker->server->cfg;
    uint64_t stalled = net_stream_stalled_since(n->conn);
    bool slow = stalled != 0 && now >= stalled + (uint64_t)cfg->slow_subscriber_timeout_ms;
    bool idle = n->req != NULL && now >= net_stream_last_input(n->conn) + (uint64_t)cfg->idle_timeout_ms;
    if (slow || idle || principal_expired(n->worker->server, n->who, net_now_s(n->worker->loop)))
        net_stream_abort(n->conn);
    else
        set_timer(n, now);
}

void ndjson_end_void(struct worker *w)
{
    for (struct ndjson *n = w->producers, *next; n != NULL; n = next) {
        next = n->next;
        if (n->conn != NULL && principal_void(w->server, n->who))
            net_stream_abort(n->conn);
    }
}

/* ---- start ---- */

static struct ndjson *ndjson_new(struct call *c)
{
    struct ndjson *n = calloc(1, sizeof *n);
    if (n == NULL)
        return NULL;
    n->task.run = on_task;
    n->worker = c->worker;
    n->req = c->req;
    if (kalamdb_producer_open(c->worker->server->db, on_wake, n, &n->engine, NULL) != KALAMDB_OK) {
        free(n);
        return NULL;
    }
    n->who = principal_ref(c->who);
    n->next = n->worker->producers;
    n->pprev = &n->worker->producers;
    if (n->next != NULL)
        n->next->pprev = &n->next;
    n->worker->producers = n;
    return n;
}

void serve_message_stream(struct call *c)
{
    static const struct net_body_ops body_ops = {.data = on_data, .end = on_end, .aborted = on_aborted};
    static const struct net_stream_ops stream_ops = {
        .drained = on_drained, .timer = on_timer, .closed = on_closed};
    struct net_request *req = c->req;
    if (!net_stream_possible(req)) {
        answer_error(c, ERR_INVALID_REQUEST, "a streamed body cannot be pipelined");
        return;
    }
    if (net_stopping(c->worker->server->net)) {
        answer_error(c, ERR_UNAVAILABLE, "the server is shutting down");
        return;
    }
    struct ndjson *n = ndjson_new(c);
    if (n == NULL) {
        answer_error(c, ERR_INTERNAL, "internal error");
        return;
    }
    struct buf h = BUF_INIT(8192);
    cors_headers(c, &h);
    buf_str(&h, STR("X-Accel-Buffering: no\r\n"));
    bool taken = net_request_stream(req, &body_ops, n, INT64_MAX);
    count_answer(c, 200);
    call_release(c);
    n->conn =
        taken ? net_stream_chunked(req, STR("application/x-ndjson"), buf_view(&h), &stream_ops, n) : NULL;
    buf_release(&h);
    if (n->conn == NULL) {
        on_closed(n);
        return;
    }
    set_timer(n, net_now_ms(n->worker->loop));
}
