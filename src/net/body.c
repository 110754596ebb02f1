/* Bodies that are handed out as they come. The request stands in the pipeline from its head on, like any
 * that is at the handler; `incoming` says that the parser's pieces belong to it. */
#include "net/conn.h"
#include <stdlib.h>

static uint64_t now_of(const struct net_conn *c)
{
    return uv_now(c->tcp.loop);
}

bool net_request_stream(struct net_request *r, const struct net_body_ops *ops, void *arg, uint64_t max_bytes)
{
    struct net_conn *c = r->conn;
    if (!http_parser_body(c->http.parser, max_bytes, true))
        return false;
    c->http.asked = NULL;
    c->http.incoming = r;
    c->http.began_ms = now_of(c);
    r->body_ops = ops;
    r->body_arg = arg;
    http_continue(c);
    return true;
}

static bool is_incoming(const struct net_request *r)
{
    return r->conn != NULL && r->conn->http.incoming == r;
}

void net_body_pause(struct net_request *r)
{
    if (!is_incoming(r) || r->conn->http.paused)
        return;
    r->conn->http.paused = true;
    r->conn->http.paused_ms = now_of(r->conn);
    conn_set_reading(r->conn, false);
}

void net_body_resume(struct net_request *r)
{
    if (!is_incoming(r) || !r->conn->http.paused)
        return;
    struct net_conn *c = r->conn;
    c->http.paused = false;
    c->http.began_ms += now_of(c) - c->http.paused_ms; /* the wait was ours */
    c->last_input_ms = now_of(c);
    conn_dirty(c); /* what waits is parsed after the flush, not on the caller's stack */
}

void body_piece(struct net_conn *c, struct str bytes)
{
    struct net_request *r = c->http.incoming;
    r->body_ops->data(r->body_arg, bytes);
}

/* Nothing of the body is to come: in CONN_CHUNKED the request ends with it, else it waits for its answer. */
static void finish(struct net_conn *c, struct net_request *r, void (*tell)(void *arg))
{
    bool alone = c->state == CONN_CHUNKED;
    c->http.incoming = NULL;
    c->http.paused = c->http.again = false;
    if (alone || !r->in.keep_alive)
        c->stop_parsing = true;
    tell(r->body_arg);
    if (!alone)
        return;
    request_free(r);
    http_parser_put(c);
}

void body_end(struct net_conn *c)
{
    struct net_request *r = c->http.incoming;
    finish(c, r, r->body_ops->end);
}

void body_fail(struct net_conn *c, enum http_failure failure, const char *why)
{
    struct net_request *r = c->http.incoming;
    r->in.keep_alive = false;
    r->failed_status = (int)failure;
    r->failed_why = why;
    finish(c, r, r->body_ops->aborted);
}

void body_forget(struct net_conn *c)
{
    struct net_request *r = c->http.incoming;
    c->http.incoming = NULL;
    c->http.paused = c->http.again = false;
    if (r != NULL)
        request_free(r);
    http_parser_put(c);
    free(c->http.carry);
    c->http.carry = NULL;
}

/* A body may take its time, but not trickle, nor stop. */
uint64_t body_deadline(const struct net_conn *c)
{
    const struct net_options *o = &((struct net_loop *)c->tcp.loop->data)->net->options;
    uint64_t idle = (uint64_t)o->idle_timeout_ms;
    if (c->http.paused)
        return now_of(c) + idle;
    uint64_t slow = c->http.began_ms + (uint64_t)o->header_timeout_ms +
                    c->http.parser->body_bytes * 1000 / STREAMED_BYTES_PER_S_MIN;
    return slow < c->last_input_ms + idle ? slow : c->last_input_ms + idle;
}
