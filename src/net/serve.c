/* HTTP requests of one connection: parsed one after the other, handed to the handler, answered in order.
 *
 * The pipeline is the list first … last of requests at the handler. An answer that is not the first waits in
 * its request. Parsing pauses (bytes wait in `carry`, reading stops) at PIPELINE_MAX requests, at
 * PIPELINE_BYTES_MAX of bodies, or while the client does not take its answers. */
#include "net/conn.h"
#include <stdlib.h>

#define POOL_MAX 128
#define POOL_BUFFER_BYTES 65536

static struct net_loop *loop_of(const struct net_conn *c)
{
    return c->tcp.loop->data;
}

static struct net_request *request_new(struct net_conn *c)
{
    struct net_loop *loop = loop_of(c);
    struct net_request *r = loop->pool;
    if (r != NULL) {
        loop->pool = r->next;
        loop->pooled--;
    } else {
        r = calloc(1, sizeof *r);
        if (r == NULL)
            return NULL;
        http_message_init(&r->in);
        arena_init(&r->arena, (size_t)1 << 30);
    }
    r->next = NULL;
    r->conn = c;
    r->loop = loop;
    return r;
}

static void buf_trim(struct buf *b)
{
    if (b->cap > POOL_BUFFER_BYTES) {
        size_t max = b->max_bytes;
        buf_release(b);
        b->max_bytes = max;
    }
    buf_clear(b);
}

void request_free(struct net_request *r)
{
    struct net_loop *loop = r->loop;
    loop->body_bytes -= r->counted;
    file_answer_free(r->file);
    r->file = NULL;
    if (loop->pooled >= POOL_MAX || r->arena.used_bytes > POOL_BUFFER_BYTES) {
        http_message_release(&r->in);
        arena_release(&r->arena);
        buf_release(&r->body);
        buf_release(&r->head);
        free(r);
        return;
    }
    http_message_clear(&r->in);
    buf_trim(&r->in.body);
    buf_trim(&r->body);
    buf_trim(&r->head);
    arena_clear(&r->arena);
    r->conn = NULL;
    r->user = NULL;
    r->failed_status = 0;
    r->failed_why = NULL;
    r->body_ops = NULL;
    r->counted = 0;
    r->answered = r->begun = r->close_after = false;
    r->next = loop->pool;
    loop->pool = r;
    loop->pooled++;
}

/* Parser and request for bytes that begin a message. */
static bool begin(struct net_conn *c)
{
    struct net_loop *loop = loop_of(c);
    if (c->http.incoming != NULL)
        return true;
    if (c->http.parser == NULL) {
        struct http_parser *p = loop->nparsers > 0 ? loop->parsers[--loop->nparsers] : malloc(sizeof *p);
        if (p == NULL)
            return false;
        http_parser_init(p, loop->net->options.max_body_bytes);
        p->ask = loop->net->handler->head != NULL;
        c->http.parser = p;
    }
    if (c->http.current == NULL) {
        c->http.current = request_new(c);
        c->http.began_ms = uv_now(&loop->uv);
    }
    c->http.parser->message = c->http.current != NULL ? &c->http.current->in : NULL;
    return c->http.current != NULL;
}

void http_parser_put(struct net_conn *c)
{
    struct net_loop *loop = loop_of(c);
    if (c->http.parser == NULL)
        return;
    if (loop->nparsers < PARSERS_MAX)
        loop->parsers[loop->nparsers++] = c->http.parser;
    else
        free(c->http.parser);
    c->http.parser = NULL;
}

static bool has_room(const struct net_conn *c)
{
    return c->http.depth < PIPELINE_MAX && c->http.pipelined_bytes <= PIPELINE_BYTES_MAX &&
           conn_pending(c) < loop_of(c)->net->options.max_socket_buffer_bytes;
}

/* `current` joins the pipeline and is the handler's from here on. */
static struct net_request *enqueue(struct net_conn *c)
{
    struct net_request *r = c->http.current;
    struct net_loop *loop = loop_of(c);
    c->http.current = NULL;
    if (c->http.last != NULL)
        c->http.last->next = r;
    else
        c->http.first = r;
    c->http.last = r;
    c->http.depth++;
    c->http.pipelined_bytes += r->in.body.len;
    loop->inflight++;
    count_add(&loop->ninflight, 1);
    r->started_us = uv_hrtime() / 1000;
    return r;
}

static void fail_current(struct net_conn *c, enum http_failure failure, const char *why)
{
    const struct net_handler *h = loop_of(c)->net->handler;
    c->stop_parsing = true;
    if (c->http.current == NULL)
        c->http.current = request_new(c);
    if (c->http.current == NULL) {
        conn_close(c);
        return;
    }
    struct net_request *r = enqueue(c);
    r->in.keep_alive = false;
    r->failed_status = (int)failure;
    h->failed(h->arg, r, failure, why);
}

void http_conn_refuse(struct net_conn *c, enum http_failure failure, const char *why)
{
    fail_current(c, failure, why);
}

void http_continue(struct net_conn *c)
{
    struct net_request *r = c->http.incoming != NULL ? c->http.incoming : c->http.current;
    if (r == NULL || (c->http.first != NULL && c->http.first != r) || !r->in.headers_done ||
        !r->in.expects_continue)
        return;
    r->in.expects_continue = false;
    out_copy(&c->out, STR("HTTP/1.1 100 Continue\r\n\r\n"), false);
    conn_dirty(c);
}

/* Bodies under way count against the process's budget. False: over it. */
static bool within_budget(struct net_conn *c)
{
    struct net_loop *loop = loop_of(c);
    struct net_request *r = c->http.current;
    loop->body_bytes += r->in.body.len - r->counted;
    r->counted = r->in.body.len;
    return loop->body_bytes <= BODY_BYTES_TOTAL_MAX / (size_t)loop->net->nloops;
}

static void arm(struct net_conn *c)
{
    uint64_t due = http_conn_deadline(c);
    if (!wheel_is_set(&c->timer) || c->timer.due_ms > due)
        conn_arm(c, due);
}

static void wait_for_rest(struct net_conn *c)
{
    if (!within_budget(c)) {
        fail_current(c, HTTP_OVERLOADED, "too many large requests at once");
        return;
    }
    http_continue(c);
    arm(c);
}

/* The handler did not take the body: it is collected. */
static void take_back(struct net_conn *c)
{
    struct net_loop *loop = loop_of(c);
    struct net_request *r = c->http.asked, **link = &c->http.first;
    c->http.asked = NULL;
    c->http.last = NULL;
    for (; *link != r; link = &(*link)->next)
        c->http.last = *link;
    *link = NULL;
    c->http.depth--;
    c->http.pipelined_bytes -= r->in.body.len;
    loop->inflight--;
    count_add(&loop->ninflight, -1);
    c->http.current = r;
    if (http_parser_body(c->http.parser, loop->net->options.max_body_bytes, false))
        wait_for_rest(c);
    else
        fail_current(c, HTTP_BODY_TOO_LARGE, "request body is too large");
}

/* The head of a request with a body: whose is it? */
static void ask(struct net_conn *c)
{
    const struct net_handler *h = loop_of(c)->net->handler;
    struct net_request *r = enqueue(c);
    c->http.asked = r;
    h->head(h->arg, r);
    if (c->http.asked != NULL)
        take_back(c);
    else if (c->http.incoming != NULL && c->state == CONN_HTTP)
        arm(c);
}

static void dispatch(struct net_conn *c)
{
    const struct net_handler *h = loop_of(c)->net->handler;
    if (!within_budget(c)) {
        fail_current(c, HTTP_OVERLOADED, "too many large requests at once");
        return;
    }
    struct net_request *r = enqueue(c);
    if (!r->in.keep_alive || r->in.websocket) {
        r->in.keep_alive = false; /* of an answer other than 101 */
        c->stop_parsing = true;
    }
    h->request(h->arg, r);
}

static void keep(struct net_conn *c, const char *data, size_t n)
{
    c->http.carry = malloc(n + 1);
    if (c->http.carry == NULL) {
        conn_close(c);
        return;
    }
    memcpy(c->http.carry, data, n);
    c->http.carry_len = n;
    conn_set_reading(c, false);
}

static void fail(struct net_conn *c, enum http_failure failure, const char *why)
{
    if (c->http.incoming != NULL)
        body_fail(c, failure, why);
    else
        fail_current(c, failure, why);
}

static void more(struct net_conn *c)
{
    if (c->http.incoming != NULL) {
        if (c->state == CONN_HTTP)
            arm(c);
    } else if (!c->http.parser->begun && c->http.current->in.head.len == 0) {
        /* only blank lines so far: still at rest */
        request_free(c->http.current);
        c->http.current = NULL;
    } else {
        wait_for_rest(c);
    }
}

static void step(struct net_conn *c, enum http_progress progress)
{
    switch (progress) {
    case HTTP_MORE:
        more(c);
        break;
    case HTTP_HEAD_READ:
        ask(c);
        break;
    case HTTP_BODY_PIECE:
        body_piece(c, c->http.parser->piece);
        break;
    case HTTP_MESSAGE:
        if (c->http.incoming != NULL)
            body_end(c);
        else
            dispatch(c);
        break;
    case HTTP_FAILED:
        fail(c, c->http.parser->failure, c->http.parser->why);
        break;
    }
}

/* In CONN_CHUNKED there is only a body to receive. */
static bool takes_input(const struct net_conn *c)
{
    return !c->stop_parsing &&
           (c->state == CONN_HTTP || (c->state == CONN_CHUNKED && c->http.incoming != NULL));
}

void http_conn_input(struct net_conn *c, const char *data, size_t n)
{
    while ((n > 0 || c->http.again) && takes_input(c)) {
        size_t used;
        if (c->http.paused || (c->state == CONN_HTTP && !has_room(c))) {
            keep(c, data, n);
            return;
        }
        if (!begin(c)) {
            conn_close(c);
            return;
        }
        enum http_progress progress = http_parser_feed(c->http.parser, data, n, &used);
        c->http.again = progress == HTTP_HEAD_READ || progress == HTTP_BODY_PIECE;
        data += used;
        n -= used;
        step(c, progress);
    }
    if (c->state == CONN_HTTP && c->http.current == NULL && c->http.incoming == NULL)
        http_parser_put(c);
    if (c->state == CONN_WEBSOCKET && n > 0)
        stream_input(c, (char *)(uintptr_t)data, n);
}

void http_conn_resume(struct net_conn *c)
{
    if (c->state == CONN_HTTP && c->http.first != NULL && c->http.first->file != NULL)
        http_answers_advance(c);
    if ((c->state != CONN_HTTP && c->state != CONN_CHUNKED) || c->http.paused ||
        (c->state == CONN_HTTP && !has_room(c)))
        return;
    conn_set_reading(c, true);
    char *data = c->http.carry;
    size_t n = c->http.carry_len;
    c->http.carry = NULL;
    if (data != NULL)
        http_conn_input(c, data, n);
    free(data);
}

void http_conn_release(struct net_conn *c)
{
    const struct net_handler *h = loop_of(c)->net->handler;
    struct net_request *r = c->http.first, *incoming = c->http.incoming, *next;
    c->http.first = c->http.last = c->http.asked = c->http.incoming = NULL;
    c->http.paused = c->http.again = false;
    for (; r != NULL; r = next) {
        next = r->next;
        r->next = NULL;
        r->conn = NULL;
        if (r->answered)
            request_free(r);
        else if (r == incoming)
            r->body_ops->aborted(r->body_arg);
        else
            h->aborted(h->arg, r);
    }
    if (c->http.current != NULL)
        request_free(c->http.current);
    c->http.current = NULL;
    http_parser_put(c);
    free(c->http.carry);
    c->http.carry = NULL;
}

uint64_t http_conn_deadline(const struct net_conn *c)
{
    const struct net_options *o = &loop_of(c)->net->options;
    uint64_t idle = (uint64_t)o->idle_timeout_ms;
    if (conn_pending(c) > 0)
        return c->last_progress_ms + idle;
    if (c->http.incoming != NULL)
        return body_deadline(c);
    /* A body that flows may take its time; one that trickles may not. */
    if (c->http.current != NULL)
        return c->http.began_ms + (uint64_t)o->header_timeout_ms +
               (uint64_t)c->http.current->in.body.len * 1000 / BODY_BYTES_PER_S_MIN;
    if (c->http.first != NULL) /* the handler bounds its own time */
        return uv_now(c->tcp.loop) + idle;
    return c->last_input_ms + idle;
}

void http_conn_expired(struct net_conn *c)
{
    (void)net_stream_stalled_since(c);
    uint64_t now = uv_now(c->tcp.loop), due = http_conn_deadline(c);
    if (due > now)
        conn_arm(c, due);
    else if ((c->http.current != NULL || c->http.incoming != NULL) && conn_pending(c) == 0)
        fail(c, HTTP_TIMED_OUT, "the request did not arrive in time");
    else if (c->tls != NULL && conn_pending(c) == 0)
        conn_end(c); /* with close_notify */
    else
        conn_close(c);
}

void http_conn_shutdown(struct net_conn *c)
{
    if (c->http.first != NULL || c->http.current != NULL || c->http.carry != NULL)
        return;
    if (conn_pending(c) == 0 &&
        c->tls == NULL) /* nothing of ours could be lost: no need to wait for the client's end */
        conn_close(c);
    else
        conn_end(c);
}
