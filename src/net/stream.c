/* Connections that left HTTP's question and answer: WebSocket, and answers without end. */
#include "net/conn.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#define COPY_BYTES_MAX 4096
/* Bytes the kernel may hold unsent, so that a slow reader's backlog is ours to bound and not the kernel's to
 * grow. */
#define NOTSENT_BYTES 131072
/* An event stream's client never speaks: one whose host does not acknowledge our bytes for so long is gone.
 */
#define EVENTS_DEAD_MS 180000

static struct net_loop *loop_of(const struct net_conn *c)
{
    return c->tcp.loop->data;
}

static bool is_open(const struct net_conn *c)
{
    return c->state == CONN_WEBSOCKET || c->state == CONN_CHUNKED;
}

bool net_stream_possible(const struct net_request *r)
{
    return r->conn == NULL || (r->conn->state == CONN_HTTP && r->conn->http.first == r);
}

const char *net_websocket_refusal(const struct net_request *r, int *ret_status)
{
    *ret_status = 400;
    if (!r->in.websocket)
        return "this path speaks WebSocket (RFC 6455)";
    if (!str_eq(net_header(r, STR("sec-websocket-version")), STR("13"))) {
        *ret_status = 426;
        return "WebSocket version 13, please";
    }
    if (!ws_key_valid(net_header(r, STR("sec-websocket-key"))))
        return "bad Sec-WebSocket-Key";
    if (!net_stream_possible(r))
        return "a WebSocket handshake cannot be pipelined";
    return NULL;
}

/* The connection leaves HTTP: its request is done, parser and pipeline go (but for a body that still comes).
 */
static void leave_http(struct net_conn *c, struct net_request *r, enum conn_state state,
    const struct net_stream_ops *ops, void *arg)
{
    out_copy(&c->out, buf_view(&r->head), false);
    c->http.first = c->http.last = NULL;
    c->raw = r->in.minor == 0;
    r->loop->inflight--;
    count_add(&r->loop->ninflight, -1);
    if (c->http.incoming != r) { /* else its body goes on */
        request_free(r);
        http_conn_release(c);
    }
    wheel_unset(&loop_of(c)->wheel, &c->timer);
    c->state = (uint8_t)state;
    c->stream.ops = ops;
    c->stream.arg = arg;
    uv_os_fd_t fd;
    int notsent = NOTSENT_BYTES, dead_ms = EVENTS_DEAD_MS;
    if (uv_fileno((uv_handle_t *)&c->tcp, &fd) == 0) {
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &notsent, sizeof notsent);
        if (state == CONN_CHUNKED)
            (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead_ms, sizeof dead_ms);
    }
    conn_dirty(c);
}

static struct net_conn *gone(struct net_request *r)
{
    r->loop->inflight--;
    count_add(&r->loop->ninflight, -1);
    request_free(r);
    return NULL;
}

struct net_conn *net_stream_websocket(struct net_request *r, struct str protocol, struct str headers,
    const struct net_stream_ops *ops, void *arg)
{
    struct net_conn *c = r->conn;
    if (c == NULL)
        return gone(r);
    char accept[29];
    ws_accept_key(net_header(r, STR("sec-websocket-key")), accept);
    buf_str(&r->head, STR("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Accept: "));
    buf_append(&r->head, accept, 28);
    if (protocol.ptr != NULL) {
        buf_str(&r->head, STR("\r\nSec-WebSocket-Protocol: "));
        buf_str(&r->head, protocol);
    }
    buf_str(&r->head, STR("\r\n"));
    buf_str(&r->head, headers);
    buf_str(&r->head, STR("\r\n"));
    leave_http(c, r, CONN_WEBSOCKET, ops, arg);
    c->websocket = true;
    ws_decoder_init(&c->stream.decoder, (uint32_t)loop_of(c)->net->options.max_frame_bytes);
    count_add(&loop_of(c)->nws, 1);
    return c;
}

struct net_conn *net_stream_chunked(struct net_request *r, struct str content_type, struct str headers,
    const struct net_stream_ops *ops, void *arg)
{
    struct net_conn *c = r->conn;
    if (c == NULL)
        return gone(r);
    r->close_after = true;
    request_head(r, &r->head, 200, content_type, headers, -1);
    leave_http(c, r, CONN_CHUNKED, ops, arg);
    count_add(&loop_of(c)->nchunked, 1);
    return c;
}

struct net_conn *net_stream_answer(struct net_request *r, struct str content_type, struct str headers,
    int64_t length, const struct net_stream_ops *ops, void *arg)
{
    struct net_conn *c = r->conn;
    if (c == NULL)
        return gone(r);
    r->close_after = true;
    request_head(r, &r->head, 200, content_type, headers, length);
    leave_http(c, r, CONN_CHUNKED, ops, arg);
    c->stream.finite = true;
    c->stream.sized = length >= 0;
    c->stream.left = length >= 0 ? (uint64_t)length : 0;
    c->raw = c->raw || c->stream.sized;
    count_add(&loop_of(c)->nchunked, 1);
    stream_expired(c, uv_now(c->tcp.loop));
    return c;
}

/* A finite answer whose client takes nothing. While nothing waits, its owner bounds its own time. */
void stream_expired(struct net_conn *c, uint64_t now_ms)
{
    uint64_t idle = (uint64_t)loop_of(c)->net->options.idle_timeout_ms, since = net_stream_stalled_since(c);
    if (since == 0 || now_ms < since + idle)
        conn_arm(c, (since != 0 ? since : now_ms) + idle);
    else
        conn_close(c);
}

void net_stream_abort(struct net_conn *c)
{
    if (is_open(c))
        conn_close(c);
}

size_t net_stream_room(const struct net_conn *c)
{
    size_t cap = loop_of(c)->net->options.max_socket_buffer_bytes;
    return is_open(c) && conn_pending(c) < cap ? cap - conn_pending(c) : 0;
}

void stream_release(struct net_conn *c)
{
    const struct net_stream_ops *ops = c->stream.ops;
    if (ops == NULL)
        return;
    c->stream.ops = NULL;
    if (!c->websocket)
        body_forget(c);
    count_add(c->websocket ? &loop_of(c)->nws : &loop_of(c)->nchunked, -1);
    ops->closed(c->stream.arg);
}

/* What goes before and after a message of n bytes. */
static size_t framing(const struct net_conn *c, size_t n, char before[24], struct str *ret_after)
{
    *ret_after = STR_NULL;
    if (c->websocket)
        return ws_encode_head((uint8_t *)before, WS_OP_TEXT, n);
    if (c->raw)
        return 0;
    *ret_after = STR("\r\n");
    return (size_t)snprintf(before, 24, "%zx\r\n", n);
}

static char *put(char *p, struct str s)
{
    if (s.len > 0)
        memcpy(p, s.ptr, s.len);
    return p + s.len;
}

/* May n more bytes be sent? An empty chunk would end the answer; more than announced would be another one. */
static bool may_send(struct net_conn *c, size_t n)
{
    if (!is_open(c) || (n == 0 && !c->websocket))
        return false;
    if (!c->stream.sized)
        return true;
    if (n > c->stream.left) {
        c->out.failed = true; /* cut when control returns to the loop */
        conn_dirty(c);
        return false;
    }
    c->stream.left -= n;
    return true;
}

static void sent(struct net_conn *c)
{
    if (conn_pending(c) >= loop_of(c)->net->options.max_socket_buffer_bytes)
        c->was_full = true;
    conn_dirty(c);
}

void net_stream_send_shared(struct net_conn *c, struct str prefix, struct str shared, struct str suffix,
    void (*release)(void *owner), void *owner)
{
    char before[24];
    struct str after;
    size_t total = prefix.len + shared.len + suffix.len;
    if (!may_send(c, total)) {
        release(owner);
        return;
    }
    size_t n = framing(c, total, before, &after);
    bool copy = shared.len <= COPY_BYTES_MAX;
    char *p = out_reserve(&c->out, n + prefix.len + (copy ? shared.len + suffix.len + after.len : 0), false);
    if (p == NULL) {
        release(owner);
        conn_dirty(c);
        return;
    }
    p = put(put(p, str_n(before, n)), prefix);
    if (copy) {
        put(put(put(p, shared), suffix), after);
        release(owner);
    } else {
        out_borrow(&c->out, shared, true, release, owner);
        out_copy(&c->out, suffix, true);
        out_copy(&c->out, after, true);
    }
    sent(c);
}

void net_stream_send(struct net_conn *c, struct str text)
{
    char before[24];
    struct str after;
    if (!may_send(c, text.len))
        return;
    size_t n = framing(c, text.len, before, &after);
    char *p = out_reserve(&c->out, n + text.len + after.len, false);
    if (p != NULL)
        put(put(put(p, str_n(before, n)), text), after);
    sent(c);
}

static void send_control(struct net_conn *c, enum ws_op op, struct str payload)
{
    uint8_t head[WS_HEAD_BYTES_MAX];
    size_t n = ws_encode_head(head, op, payload.len);
    char *p = out_reserve(&c->out, n + payload.len, false);
    if (p != NULL)
        put(put(p, str_n((char *)head, n)), payload);
    conn_dirty(c);
}

void net_stream_ping(struct net_conn *c)
{
    if (c->state == CONN_WEBSOCKET)
        send_control(c, WS_OP_PING, STR_NULL);
}

static void send_close(struct net_conn *c, int code, struct str reason)
{
    uint8_t payload[125];
    size_t n = ws_encode_close(payload, code, reason);
    c->close_frame_sent = true;
    send_control(c, WS_OP_CLOSE, str_n((char *)payload, n));
}

void net_stream_close(struct net_conn *c, int ws_code, struct str reason, bool drop)
{
    if (!is_open(c))
        return;
    if (c->stream.left > 0) { /* less than announced */
        conn_close(c);
        return;
    }
    stream_release(c);
    if (drop) {
        out_drop_unstarted(&c->out);
        c->slow_close = true;
    }
    if (c->websocket)
        send_close(c, ws_code, reason);
    else if (!c->raw)
        out_copy(&c->out, STR("0\r\n\r\n"), false);
    conn_end(c);
}

static void on_event(struct net_conn *c, const struct ws_event *ev)
{
    switch (ev->kind) {
    case WS_TEXT:
        if (c->state == CONN_WEBSOCKET)
            c->stream.ops->text(c->stream.arg, ev->payload);
        break;
    case WS_PING:
        /* One that does not read its pongs gets no more of them. */
        if (c->state == CONN_WEBSOCKET && conn_pending(c) < loop_of(c)->net->options.max_socket_buffer_bytes)
            send_control(c, WS_OP_PONG, ev->payload);
        break;
    case WS_CLOSED:
        c->close_frame_seen = true;
        if (c->state == CONN_WEBSOCKET) {
            stream_release(c);
            send_close(c, ev->code, STR_NULL);
        }
        conn_end(c);
        break;
    case WS_BROKEN:
        c->close_frame_seen = true; /* nothing more can be understood */
        net_stream_close(c, ev->code, ev->payload, false);
        conn_dirty(c);
        break;
    case WS_PONG:
    case WS_MORE:
        break;
    }
}

void stream_input(struct net_conn *c, char *data, size_t n)
{
    char *p = data, *end = data + n;
    struct ws_event ev;
    while ((c->state == CONN_WEBSOCKET || c->state == CONN_ENDING) && !c->close_frame_seen &&
           ws_decode(&c->stream.decoder, &p, end, &ev) != WS_MORE)
        on_event(c, &ev);
    if (c->state == CONN_WEBSOCKET && conn_pending(c) >= loop_of(c)->net->options.max_socket_buffer_bytes)
        conn_set_reading(c, false);
}

size_t net_stream_pending(const struct net_conn *c)
{
    return conn_pending(c);
}

uint64_t net_stream_last_input(const struct net_conn *c)
{
    /* While we do not read we cannot know. */
    return c->reading ? c->last_input_ms : uv_now(c->tcp.loop);
}

void net_stream_set_timer(struct net_conn *c, uint64_t due_ms)
{
    if (is_open(c))
        conn_arm(c, due_ms);
}

const uint8_t *net_stream_address(const struct net_conn *c)
{
    return c->address;
}

struct net_loop *net_stream_loop(const struct net_conn *c)
{
    return loop_of(c);
}
