/* Connections under TLS: handshakes, decryption on the way in, encryption on the way out, and the certificate
 * that new ones get.
 *
 * A handshake costs a signature, about as much as a hundred requests. So that a flood of them takes neither
 * the loop nor the memory from those that are connected: in each turn of the loop only STEPS_PER_TURN of them
 * go on, the others wait with what they sent; only max_tls_handshakes are under way at a time, for one more
 * the oldest goes, which among honest clients is done by then; and each has tls_handshake_timeout_ms. */
#include "net/conn.h"
#include <stdlib.h>
#include <sys/stat.h>

#define STEPS_PER_TURN 8
#define SEAL_BYTES 65536 /* encrypted ahead of the kernel */
#define SEAL_OVERHEAD 1024
#define VECTORS 32
#define HANDSHAKE_RECORD 0x16
#define WATCHED 3

struct file_state {
    struct timespec changed;
    off_t size;
    ino_t inode;
};
struct tls_watch {
    uv_timer_t timer;
    struct net *net;
    struct file_state seen[WATCHED];
    bool on;
};

static struct net_loop *loop_of(const struct net_conn *c)
{
    return c->tcp.loop->data;
}

/* ---- handshakes
 * ------------------------------------------------------------------------------------------------- */

void secure_forget(struct net_conn *c)
{
    struct net_loop *loop = loop_of(c);
    if (!c->shaking)
        return;
    *(c->shaking_prev != NULL ? &c->shaking_prev->shaking_next : &loop->shaking) = c->shaking_next;
    *(c->shaking_next != NULL ? &c->shaking_next->shaking_prev : &loop->shaking_last) = c->shaking_prev;
    c->shaking_prev = c->shaking_next = NULL;
    c->shaking = c->step_waits = false;
    loop->nshaking--;
}

bool secure_begin(struct net_conn *c)
{
    struct net_loop *loop = loop_of(c);
    struct net *n = loop->net;
    size_t max = (n->options.max_tls_handshakes + (size_t)n->nloops - 1) / (size_t)n->nloops;
    uv_mutex_lock(&n->tls_lock);
    c->tls = tls_accept(n->tls);
    uv_mutex_unlock(&n->tls_lock);
    if (c->tls == NULL)
        return false;
    if (loop->nshaking >= max && loop->shaking != NULL) {
        count_add(&loop->shake_failed, 1);
        conn_close(loop->shaking);
    }
    c->state = CONN_HANDSHAKE;
    c->shaking = true;
    c->shaking_prev = loop->shaking_last;
    *(loop->shaking_last != NULL ? &loop->shaking_last->shaking_next : &loop->shaking) = c;
    loop->shaking_last = c;
    loop->nshaking++;
    return true;
}

static void shaken(struct net_conn *c)
{
    struct net_loop *loop = loop_of(c);
    secure_forget(c);
    c->state = CONN_HTTP;
    c->last_input_ms = uv_now(&loop->uv);
    conn_arm(c, c->last_input_ms + (uint64_t)loop->net->options.idle_timeout_ms);
    count_add(&loop->shaken, 1);
}

/* Somebody who forgot the s of https gets an answer that can be read; anything else is cut off. */
static void not_tls(struct net_conn *c, struct str bytes)
{
    secure_forget(c);
    count_add(&loop_of(c)->shake_failed, 1);
    if (bytes.ptr[0] < 'A' || bytes.ptr[0] > 'Z') {
        conn_close(c);
        return;
    }
    tls_free(c->tls);
    c->tls = NULL;
    c->state = CONN_HTTP;
    http_conn_refuse(c, HTTP_BAD_REQUEST, "this port speaks TLS: the address begins with https:// or wss://");
}

/* False: it is not this one's turn, or it is no handshake. */
static bool may_shake(struct net_conn *c, struct str bytes)
{
    struct net_loop *loop = loop_of(c);
    if (!tls_begun(c->tls) && (uint8_t)bytes.ptr[0] != HANDSHAKE_RECORD) {
        not_tls(c, bytes);
        return false;
    }
    if (loop->steps > 0) {
        loop->steps--;
        return true;
    }
    c->step_waits = true;
    tls_feed(c->tls, bytes);
    conn_set_reading(c, false);
    if (!tls_keep(c->tls)) {
        conn_close(c);
        return false;
    }
    if (!loop->steps_wait)
        uv_async_send(&loop->async);
    loop->steps_wait = true;
    return false;
}

void secure_turn(struct net_loop *loop)
{
    loop->steps = STEPS_PER_TURN;
    if (!loop->steps_wait)
        return;
    loop->steps_wait = false;
    for (struct net_conn *c = loop->shaking, *next; c != NULL; c = next) {
        next = c->shaking_next;
        if (!c->step_waits)
            continue;
        if (loop->steps == 0) {
            loop->steps_wait = true;
            uv_async_send(&loop->async); /* the loop does not sleep meanwhile */
            break;
        }
        loop->steps--;
        c->step_waits = false;
        conn_set_reading(c, true);
        secure_more(c);
    }
    conn_flush_dirty(loop);
}

/* ---- in
 * ---------------------------------------------------------------------------------------------------------
 */

static bool takes_input(const struct net_conn *c)
{
    return c->state <= CONN_CHUNKED || (c->state == CONN_ENDING && c->websocket);
}

static void failed(struct net_conn *c)
{
    struct net_loop *loop = loop_of(c);
    bool handshake = c->state == CONN_HANDSHAKE;
    count_add(&loop->shake_failed, handshake ? 1 : 0);
    if (handshake) {
        conn_end(c); /* the alert says why */
        return;
    }
    struct buf *b = tls_output(c->tls);
    struct iovec v = {.iov_base = b->ptr, .iov_len = b->len};
    if (c->write == NULL && b->len > 0)
        (void)uv_try_write((uv_stream_t *)&c->tcp, (uv_buf_t *)&v, 1);
    conn_close(c);
}

/* close_notify: the peer sends nothing more, in order. */
static void ended(struct net_conn *c)
{
    conn_set_reading(c, false);
    conn_end_of_input(c, true);
}

static void advance(struct net_conn *c)
{
    struct net_loop *loop = loop_of(c);
    size_t n;
    while (c->tls != NULL && takes_input(c) && c->reading) {
        enum tls_progress p = tls_read(c->tls, loop->plain, &n);
        if (c->state == CONN_HANDSHAKE && p != TLS_FAILED && tls_established(c->tls))
            shaken(c);
        if (p == TLS_MORE)
            break;
        if (p == TLS_FAILED) {
            failed(c);
            return;
        }
        if (p == TLS_CLOSED) {
            ended(c);
            return;
        }
        c->last_input_ms = uv_now(&loop->uv);
        conn_input(c, loop->plain, n);
    }
    if (c->state == CONN_CLOSED || c->tls == NULL)
        return;
    if (tls_output(c->tls)->len > 0)
        conn_dirty(c);
    if (tls_has_input(c->tls) && !tls_keep(c->tls))
        conn_close(c);
}

void secure_input(struct net_conn *c, struct str bytes)
{
    if (!takes_input(c)) /* nobody reads what comes now */
        return;
    /* One that does not take what it makes us say, such as answers to key updates, is not listened to. */
    if (tls_output(c->tls)->len > loop_of(c)->net->options.max_socket_buffer_bytes) {
        conn_close(c);
        return;
    }
    if (c->state == CONN_HANDSHAKE && !may_shake(c, bytes))
        return;
    tls_feed(c->tls, bytes);
    advance(c);
}

void secure_more(struct net_conn *c)
{
    if (c->tls != NULL && takes_input(c) && tls_has_input(c->tls) && !c->step_waits)
        advance(c);
}

/* ---- out
 * -------------------------------------------------------------------------------------------------------- */

/* Up to a record of what waits, together in one place. */
static struct str gather(struct net_conn *c)
{
    struct iovec v[VECTORS];
    char *plain = loop_of(c)->plain;
    int n = out_vectors(&c->out, v, VECTORS, false);
    size_t len = 0;
    if (n == 0)
        return STR_NULL;
    if (n == 1 || v[0].iov_len >= TLS_RECORD_BYTES)
        return str_n(v[0].iov_base, v[0].iov_len < TLS_RECORD_BYTES ? v[0].iov_len : TLS_RECORD_BYTES);
    for (int i = 0; i < n && len < TLS_RECORD_BYTES; i++) {
        size_t k = v[i].iov_len < TLS_RECORD_BYTES - len ? v[i].iov_len : TLS_RECORD_BYTES - len;
        memcpy(plain + len, v[i].iov_base, k);
        len += k;
    }
    return str_n(plain, len);
}

bool secure_seal(struct net_conn *c)
{
    struct buf *b = tls_output(c->tls);
    if (!tls_established(c->tls) || c->out.bytes == 0)
        return true;
    size_t ahead = c->out.bytes < SEAL_BYTES ? c->out.bytes : SEAL_BYTES;
    if (buf_reserve(b, ahead + SEAL_OVERHEAD) == NULL)
        return false;
    while (b->len < SEAL_BYTES && c->out.bytes > 0) {
        struct str s = gather(c);
        if (!tls_write(c->tls, s))
            return false;
        out_advance(&c->out, s.len);
    }
    return true;
}

/* ---- the certificate
 * --------------------------------------------------------------------------------------------- */

static void look(const struct net *n, struct file_state ret[WATCHED])
{
    const char *paths[WATCHED] = {n->certificate_file, n->key_file, n->client_ca_file};
    memset(ret, 0, WATCHED * sizeof *ret);
    for (int i = 0; i < WATCHED; i++) {
        struct stat st;
        if (paths[i][0] != '\0' && stat(paths[i], &st) == 0)
            ret[i] = (struct file_state){st.st_mtim, st.st_size, st.st_ino};
    }
}

static bool same(const struct file_state *a, const struct file_state *b)
{
    return a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec &&
           a->size == b->size && a->inode == b->inode;
}

static void on_check(uv_timer_t *timer)
{
    struct tls_watch *w = timer->data;
    const struct net_handler *h = w->net->handler;
    struct file_state now[WATCHED];
    bool changed = false;
    look(w->net, now);
    for (int i = 0; i < WATCHED; i++)
        changed = changed || !same(&now[i], &w->seen[i]);
    memcpy(w->seen, now, sizeof now);
    if (changed && h->certificate_changed != NULL)
        h->certificate_changed(h->arg);
}

enum err net_tls_reload(struct net *n, struct errctx *ec)
{
    struct tls_context *next;
    const struct tls_options o = {.certificate_file = n->certificate_file,
        .key_file = n->key_file,
        .client_ca_file = n->client_ca_file,
        .client_auth = n->options.tls.client_auth};
    if (n->tls == NULL)
        return err_set(ec, ERR_INVALID_REQUEST, "TLS is off");
    look(n, n->watch->seen); /* before they are read: what changes from here on is seen */
    enum err e = tls_context_open(&o, &next, ec);
    if (e != ERR_OK)
        return e;
    uv_mutex_lock(&n->tls_lock);
    struct tls_context *old = n->tls;
    n->tls = next;
    uv_mutex_unlock(&n->tls_lock);
    tls_context_close(old);
    return ERR_OK;
}

bool net_tls_certificate(struct net *n, uint8_t ret_pin[32], int64_t *ret_expires_s)
{
    uv_mutex_lock(&n->tls_lock);
    bool on = n->tls != NULL;
    if (on) {
        tls_context_pin(n->tls, ret_pin);
        *ret_expires_s = tls_context_expires_s(n->tls);
    }
    uv_mutex_unlock(&n->tls_lock);
    return on;
}

static enum err copy_path(char to[PATH_MAX], const char *from, struct errctx *ec)
{
    if (from == NULL)
        return ERR_OK;
    if (strlen(from) >= PATH_MAX)
        return err_set(ec, ERR_INVALID_REQUEST, "tls: a file's path is too long");
    memcpy(to, from, strlen(from) + 1);
    return ERR_OK;
}

enum err secure_open(struct net *n, struct errctx *ec)
{
    const struct tls_options *o = &n->options.tls;
    if (o->certificate_file == NULL)
        return ERR_OK;
    enum err e = copy_path(n->certificate_file, o->certificate_file, ec);
    if (e == ERR_OK)
        e = copy_path(n->key_file, o->key_file, ec);
    if (e == ERR_OK)
        e = copy_path(n->client_ca_file, o->client_ca_file, ec);
    n->watch = calloc(1, sizeof *n->watch);
    if (e == ERR_OK && n->watch == NULL)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (e != ERR_OK)
        return e;
    n->watch->net = n;
    look(n, n->watch->seen);
    return tls_context_open(o, &n->tls, ec);
}

enum err secure_watch(struct net *n, struct errctx *ec)
{
    uint64_t every = (uint64_t)n->options.tls_check_ms;
    if (n->tls == NULL || every == 0)
        return ERR_OK;
    int rc = uv_timer_init(&n->loops[0].uv, &n->watch->timer);
    if (rc == 0) {
        n->watch->timer.data = n->watch;
        n->watch->on = true;
        rc = uv_timer_start(&n->watch->timer, on_check, every, every);
        uv_unref((uv_handle_t *)&n->watch->timer);
    }
    return rc == 0 ? ERR_OK : err_internal(ec, ERR_INTERNAL, "event loop: %s", uv_strerror(rc));
}

void secure_release(struct net *n)
{
    tls_context_close(n->tls);
    n->tls = NULL;
    free(n->watch); /* its timer was closed with its loop */
}
