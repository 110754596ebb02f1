/* A connection from accept to close: reading through the loop's one buffer, writing what is queued, ending.
 */
#include "net/conn.h"
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define VECTORS 32

static struct net_loop *loop_of(const struct net_conn *c)
{
    return c->tcp.loop->data;
}

static void on_closed(uv_handle_t *h)
{
    struct net_conn *c = h->data;
    struct net_loop *loop = loop_of(c);
    if (c->websocket)
        ws_decoder_release(&c->stream.decoder);
    out_release(&c->out);
    tls_free(c->tls);
    buf_release(&c->sealed);
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        loop->conns = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    if (c->counted)
        limit_count_leave(loop->net->per_address, c->address);
    free(c);
    count_add(&loop->nconns, -1);
    atomic_fetch_sub_explicit(&loop->net->connections, 1, memory_order_relaxed);
}

void conn_close(struct net_conn *c)
{
    enum conn_state was = c->state;
    if (was == CONN_CLOSED)
        return;
    c->state = CONN_CLOSED;
    secure_forget(c);
    wheel_unset(&loop_of(c)->wheel, &c->timer);
    if (was == CONN_HTTP)
        http_conn_release(c);
    else if (was == CONN_WEBSOCKET || was == CONN_CHUNKED)
        stream_release(c);
    uv_close((uv_handle_t *)&c->tcp, on_closed);
}

void conn_arm(struct net_conn *c, uint64_t due_ms)
{
    struct net_loop *loop = loop_of(c);
    if (c->state == CONN_CLOSED)
        return;
    wheel_set(&loop->wheel, &c->timer, due_ms);
    if (!loop->timer_on)
        uv_timer_again(&loop->timer);
    loop->timer_on = true;
}

/* Our direction is done: shut it, and wait for the peer's end so that no reset overtakes what we sent. */
static void linger(struct net_conn *c)
{
    uv_os_fd_t fd;
    if (c->eof || uv_fileno((uv_handle_t *)&c->tcp, &fd) != 0 || shutdown(fd, SHUT_WR) != 0) {
        conn_close(c);
        return;
    }
    c->state = CONN_LINGER;
    c->ending_ms = c->last_input_ms = uv_now(c->tcp.loop);
    conn_set_reading(c, true);
    conn_arm(c, c->ending_ms + LINGER_MS);
}

/* All is sent: under TLS the peer is told that nothing was cut off. */
static void finish(struct net_conn *c)
{
    if (c->tls != NULL)
        tls_close(c->tls);
    if (conn_pending(c) > 0)
        conn_dirty(c); /* comes back here */
    else
        linger(c);
}

static void ending_advance(struct net_conn *c)
{
    if (conn_pending(c) > 0 || c->write != NULL)
        return;
    if (!c->websocket || c->close_frame_seen)
        finish(c);
    else if (!c->slow_close)
        conn_arm(c, uv_now(c->tcp.loop) + WS_CLOSE_WAIT_MS);
    /* A slow reader keeps the deadline it was given: our close frame may stand far back in its buffers. */
}

void conn_end(struct net_conn *c)
{
    if (c->state == CONN_CLOSED || c->state == CONN_LINGER)
        return;
    if (c->state != CONN_ENDING) {
        if (c->state == CONN_HTTP)
            http_conn_release(c);
        secure_forget(c);
        c->state = CONN_ENDING;
        c->ending_ms = uv_now(c->tcp.loop);
        conn_set_reading(c, true);
        conn_arm(c, c->ending_ms + (c->slow_close ? SLOW_CLOSE_WAIT_MS : ENDING_STALL_MS));
    }
    conn_dirty(c);
}

static void on_written(uv_write_t *req, int status);

static void hand_over(struct net_conn *c, const struct iovec *v, int n)
{
    uv_write_t *req = malloc(sizeof *req);
    if (req == NULL) {
        conn_close(c);
        return;
    }
    req->data = c;
    c->write = req;
    c->last_progress_ms = uv_now(c->tcp.loop);
    if (uv_write(req, (uv_stream_t *)&c->tcp, (const uv_buf_t *)v, (unsigned)n, on_written) != 0) {
        free(req);
        c->write = NULL;
        conn_close(c);
        return;
    }
    c->kernel_left = uv_stream_get_write_queue_size((uv_stream_t *)&c->tcp);
}

/* The kernel takes no more now. Only the first message is handed to libuv, so that all others can still be
 * dropped. */
static void start_write(struct net_conn *c)
{
    struct iovec v[VECTORS];
    int n = out_vectors(&c->out, v, VECTORS, true);
    c->out.locked = true;
    hand_over(c, v, n);
}

static void written(struct net_conn *c, size_t n)
{
    out_advance(&c->out, n);
    c->last_progress_ms = uv_now(c->tcp.loop);
    count_add(&loop_of(c)->bytes_out, (int64_t)n);
}

static void after_flush(struct net_conn *c)
{
    size_t cap = loop_of(c)->net->options.max_socket_buffer_bytes;
    if (c->state == CONN_ENDING) {
        ending_advance(c);
    } else if (c->state == CONN_HTTP) {
        http_conn_resume(c);
    } else if (c->state == CONN_WEBSOCKET || c->state == CONN_CHUNKED) {
        if (c->state == CONN_CHUNKED)
            http_conn_resume(c);
        else if (!c->reading && conn_pending(c) <= cap / 2)
            conn_set_reading(c, true);
        if (c->was_full && conn_pending(c) <= cap / 2 && c->stream.ops != NULL) {
            c->was_full = false;
            c->stream.ops->drained(c->stream.arg);
        }
    }
}

/* What was encrypted goes, all of it, before more is. */
static void flush_sealed(struct net_conn *c)
{
    while (c->write == NULL && c->state != CONN_CLOSED && !c->out.failed) {
        struct buf *b = tls_output(c->tls);
        if (!secure_seal(c)) {
            conn_close(c);
            return;
        }
        if (b->len == 0) {
            buf_release(b); /* at rest: no memory */
            return;
        }
        struct iovec v = {.iov_base = b->ptr, .iov_len = b->len};
        int rc = uv_try_write((uv_stream_t *)&c->tcp, (uv_buf_t *)&v, 1);
        if (rc < 0 && rc != UV_EAGAIN) {
            conn_close(c);
            return;
        }
        size_t n = rc > 0 ? (size_t)rc : 0;
        if (n > 0) {
            c->last_progress_ms = uv_now(c->tcp.loop);
            count_add(&loop_of(c)->bytes_out, (int64_t)n);
        }
        if (n == b->len) {
            b->len = 0;
            continue;
        }
        size_t max = b->max_bytes;
        c->sealed = *b;
        *b = BUF_INIT(max);
        v = (struct iovec){.iov_base = c->sealed.ptr + n, .iov_len = c->sealed.len - n};
        hand_over(c, &v, 1);
    }
}

static void flush_plain(struct net_conn *c)
{
    while (c->write == NULL && c->out.head != NULL && c->state != CONN_CLOSED && !c->out.failed) {
        struct iovec v[VECTORS];
        int n = out_vectors(&c->out, v, VECTORS, false);
        size_t total = 0;
        for (int i = 0; i < n; i++)
            total += v[i].iov_len;
        int rc = n > 0 ? uv_try_write((uv_stream_t *)&c->tcp, (uv_buf_t *)v, (unsigned)n) : 0;
        if (rc < 0 && rc != UV_EAGAIN) {
            conn_close(c);
            return;
        }
        if (rc >= 0)
            written(c, (size_t)rc);
        if (rc < 0 || (size_t)rc < total)
            start_write(c);
    }
}

static void flush(struct net_conn *c)
{
    if (c->tls != NULL)
        flush_sealed(c);
    else
        flush_plain(c);
    if (c->out.failed)
        conn_close(c);
    if (c->state != CONN_CLOSED)
        after_flush(c);
    if (c->state != CONN_CLOSED && c->tls != NULL && c->reading)
        secure_more(c);
}

static void on_written(uv_write_t *req, int status)
{
    struct net_conn *c = req->data;
    free(req);
    c->write = NULL;
    c->out.locked = false;
    if (c->state == CONN_CLOSED)
        return;
    if (status != 0) {
        conn_close(c);
        return;
    }
    if (c->tls != NULL) {
        count_add(&loop_of(c)->bytes_out, (int64_t)c->sealed.len);
        c->last_progress_ms = uv_now(c->tcp.loop);
        buf_release(&c->sealed);
        c->sealed = BUF_INIT(0);
    } else {
        struct iovec v[VECTORS];
        int n = out_vectors(&c->out, v, VECTORS, true);
        size_t total = 0;
        for (int i = 0; i < n; i++)
            total += v[i].iov_len;
        written(c, total);
    }
    conn_dirty(c);
    conn_flush_dirty(loop_of(c));
}

void conn_dirty(struct net_conn *c)
{
    struct net_loop *loop = loop_of(c);
    if (c->dirty)
        return;
    c->dirty = true;
    c->dirty_next = loop->dirty;
    loop->dirty = c;
}

void conn_flush_dirty(struct net_loop *loop)
{
    struct net_conn *c;
    while ((c = loop->dirty) != NULL) {
        loop->dirty = c->dirty_next;
        c->dirty = false;
        if (c->state != CONN_CLOSED)
            flush(c);
    }
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    struct net_loop *loop = h->loop->data;
    *buf = uv_buf_init(loop->read_buffer, READ_BUFFER_BYTES);
}

void conn_end_of_input(struct net_conn *c, bool orderly)
{
    c->eof = true;
    /* Answers that only wait for the socket are still sent; work for a client that left is stopped. */
    struct net_request *first = c->http.first;
    if (orderly && c->state == CONN_HTTP && first == NULL && conn_pending(c) > 0)
        conn_end(c);
    else if (orderly && c->state == CONN_HTTP && first != NULL && first->file != NULL && first->begun &&
             first->next == NULL)
        first->close_after = c->stop_parsing = true; /* the rest of the file, then the end */
    else if (!orderly || c->state != CONN_ENDING || (conn_pending(c) == 0 && c->write == NULL))
        conn_close(c);
}

void conn_input(struct net_conn *c, char *data, size_t n)
{
    if (c->state == CONN_HTTP || c->state == CONN_CHUNKED)
        http_conn_input(c, data, n);
    else if (c->websocket && c->state != CONN_LINGER)
        stream_input(c, data, n);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct net_conn *c = s->data;
    struct net_loop *loop = loop_of(c);
    if (n == 0 || c->state == CONN_CLOSED)
        return;
    if (n < 0) {
        /* Under TLS only close_notify ends in order: anybody on the way can send a FIN. */
        if (c->tls != NULL && n == UV_EOF && tls_established(c->tls) && c->state != CONN_LINGER)
            count_add(&loop->truncated, 1);
        conn_end_of_input(c, n == UV_EOF && (c->tls == NULL || c->state >= CONN_ENDING));
    } else {
        count_add(&loop->bytes_in, n);
        if (c->tls != NULL && c->state != CONN_LINGER) {
            secure_input(c, str_n(buf->base, (size_t)n));
        } else {
            c->last_input_ms = uv_now(&loop->uv);
            conn_input(c, buf->base, (size_t)n);
        }
    }
    conn_flush_dirty(loop);
}

void conn_set_reading(struct net_conn *c, bool on)
{
    if (c->reading == on || c->state == CONN_CLOSED || c->eof)
        return;
    c->reading = on;
    if (!on)
        uv_read_stop((uv_stream_t *)&c->tcp);
    else if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) != 0)
        conn_close(c);
}

/* What the kernel has not delivered. It asks for more only when a third of its buffer is free, which for a
 * slow reader of a download may take longer than any timeout: what the peer acknowledges is progress too. */
static size_t kernel_queue(const struct net_conn *c)
{
    uv_os_fd_t fd;
    int n = 0;
    if (c->websocket || uv_fileno((const uv_handle_t *)&c->tcp, &fd) != 0 || ioctl(fd, SIOCOUTQ, &n) != 0)
        return 0;
    return (size_t)n;
}

uint64_t net_stream_stalled_since(struct net_conn *c)
{
    if (c->write == NULL)
        return 0;
    size_t left = uv_stream_get_write_queue_size((uv_stream_t *)&c->tcp);
    if (c->state != CONN_CHUNKED || c->stream.finite)
        left += kernel_queue(c);
    if (left != c->kernel_left) {
        c->kernel_left = left;
        c->last_progress_ms = uv_now(c->tcp.loop);
    }
    return c->last_progress_ms;
}

static void ending_expired(struct net_conn *c, uint64_t now_ms)
{
    uint64_t stalled = net_stream_stalled_since(c);
    if (!c->slow_close && stalled != 0 && now_ms < stalled + ENDING_STALL_MS)
        conn_arm(c, stalled + ENDING_STALL_MS);
    else if (c->write == NULL && conn_pending(c) == 0 && c->websocket)
        finish(c); /* no close frame came back */
    else
        conn_close(c);
}

void conn_timer_fired(struct net_conn *c, uint64_t now_ms)
{
    switch ((enum conn_state)c->state) {
    case CONN_HANDSHAKE:
        count_add(&loop_of(c)->shake_failed, 1);
        conn_close(c);
        break;
    case CONN_HTTP:
        http_conn_expired(c);
        break;
    case CONN_WEBSOCKET:
    case CONN_CHUNKED:
        if (c->stream.finite)
            stream_expired(c, now_ms);
        else
            c->stream.ops->timer(c->stream.arg, now_ms);
        break;
    case CONN_ENDING:
        ending_expired(c, now_ms);
        break;
    case CONN_LINGER:
        if (now_ms < c->last_input_ms + LINGER_MS && now_ms < c->ending_ms + LINGER_TOTAL_MS)
            conn_arm(c, c->last_input_ms + LINGER_MS);
        else
            conn_close(c);
        break;
    case CONN_CLOSED:
        break;
    }
}

/* Nothing can be accepted now; libuv asks no more until this one is, so the timer tries again. */
static void accept_later(struct net_loop *loop, bool tls)
{
    *(tls ? &loop->tls_accept_due : &loop->accept_due) = true;
    if (!loop->timer_on)
        uv_timer_again(&loop->timer);
    loop->timer_on = true;
}

/* NULL: fine. */
static const char *refusal(struct net_conn *c, size_t before, enum http_failure *ret)
{
    const struct net *n = loop_of(c)->net;
    struct sockaddr_storage peer = {.ss_family = AF_UNSPEC};
    int len = sizeof peer;
    *ret = HTTP_OVERLOADED;
    if (before >= n->options.max_connections)
        return "too many connections";
    (void)uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&peer, &len); /* fails: it is gone already */
    limit_address_key((struct sockaddr *)&peer, c->address);
    if (n->per_address == NULL)
        return NULL;
    *ret = HTTP_TOO_MANY;
    c->counted = limit_count_enter(n->per_address, c->address);
    return c->counted ? NULL : "too many connections from this address";
}

/* The connection may speak, or is told why not. */
static void begin(struct net_conn *c, bool tls, const char *refused, enum http_failure failure)
{
    struct net_loop *loop = loop_of(c);
    const struct net_options *o = &loop->net->options;
    c->state = CONN_HTTP;
    if (tls && (refused != NULL || !secure_begin(c))) { /* an answer would cost a handshake */
        count_add(&loop->refused, 1);
        conn_close(c);
        return;
    }
    conn_set_reading(c, true);
    conn_arm(c, c->last_input_ms + (uint64_t)(tls ? o->tls_handshake_timeout_ms : o->idle_timeout_ms));
    if (refused != NULL) {
        count_add(&loop->refused, 1);
        http_conn_refuse(c, failure, refused);
        conn_flush_dirty(loop);
    }
}

void conn_accept(struct net_loop *loop, bool tls)
{
    struct net_conn *c = calloc(1, sizeof *c);
    if (c == NULL || uv_tcp_init(&loop->uv, &c->tcp) != 0) {
        free(c);
        accept_later(loop, tls);
        return;
    }
    c->tcp.data = c;
    c->next = loop->conns;
    if (c->next != NULL)
        c->next->prev = c;
    loop->conns = c;
    count_add(&loop->nconns, 1);
    size_t before = atomic_fetch_add_explicit(&loop->net->connections, 1, memory_order_relaxed);
    size_t max = loop->net->options.max_connections;
    uv_tcp_t *listener = tls ? &loop->tls_listener : &loop->listener;
    if (uv_accept((uv_stream_t *)listener, (uv_stream_t *)&c->tcp) != 0 || before >= max + REFUSALS_MAX) {
        count_add(&loop->refused, 1);
        conn_close(c);
        return;
    }
    (void)uv_tcp_nodelay(&c->tcp, 1);
    count_add(&loop->accepted, 1);
    c->last_input_ms = c->last_progress_ms = uv_now(&loop->uv);
    enum http_failure failure;
    const char *refused = refusal(c, before, &failure);
    begin(c, tls, refused, failure);
}

void net_address(const struct net_conn *c, char ret[NET_ADDRESS_BYTES])
{
    struct sockaddr_storage a;
    int n = sizeof a;
    ret[0] = '\0';
    if (c == NULL || uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&a, &n) != 0 ||
        uv_ip_name((const struct sockaddr *)&a, ret, NET_ADDRESS_BYTES) != 0)
        ret[0] = '\0';
}
