/* Loops: start, work from other threads, the clock, the graceful stop. */
#include "net/conn.h"
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define GRACE_MS 3000 /* after the deadline: for cancelled work to report back */

static struct net_conn *conn_of(struct wheel_entry *e)
{
    return (struct net_conn *)((char *)e - offsetof(struct net_conn, timer));
}

void net_post(struct net_loop *loop, struct net_task *task)
{
    struct net_task *head = atomic_load_explicit(&loop->queue, memory_order_relaxed);
    do {
        task->next = head;
    } while (!atomic_compare_exchange_weak_explicit(
        &loop->queue, &head, task, memory_order_acq_rel, memory_order_relaxed));
    if (head == NULL) /* whoever finds it empty wakes the loop */
        uv_async_send(&loop->async);
}

static void run_tasks(struct net_loop *loop)
{
    struct net_task *stack = atomic_exchange_explicit(&loop->queue, NULL, memory_order_acq_rel), *fifo = NULL;
    while (stack != NULL) {
        struct net_task *next = stack->next;
        stack->next = fifo;
        fifo = stack;
        stack = next;
    }
    while (fifo != NULL) {
        struct net_task *task = fifo;
        fifo = task->next;
        task->run(task);
    }
}

struct offload {
    uv_work_t request;
    struct net_job *job;
};

static void run_job(uv_work_t *request)
{
    struct net_job *job = ((struct offload *)request->data)->job;
    job->work(job);
}

static void job_done(uv_work_t *request, int status)
{
    struct offload *o = request->data;
    struct net_job *job = o->job;
    struct net_loop *loop = request->loop->data;
    (void)status; /* jobs are never cancelled */
    free(o);
    job->done(job);
    conn_flush_dirty(loop);
}

bool net_offload(struct net_loop *loop, struct net_job *job)
{
    struct offload *o = malloc(sizeof *o);
    if (o == NULL)
        return false;
    o->job = job;
    o->request.data = o;
    if (uv_queue_work(&loop->uv, &o->request, run_job, job_done) == 0)
        return true;
    free(o);
    return false;
}

uint64_t net_now_ms(const struct net_loop *loop)
{
    return uv_now(&loop->uv);
}

int64_t net_now_s(struct net_loop *loop)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (now.tv_sec != loop->date_s) {
        loop->date_s = now.tv_sec;
        http_date(now.tv_sec, loop->date);
    }
    return now.tv_sec;
}

void *net_loop_user(const struct net_loop *loop)
{
    return loop->user;
}

struct net *net_loop_net(const struct net_loop *loop)
{
    return loop->net;
}

/* ---- the stop
 * ------------------------------------------------------------------------------------------------- */

static void each_conn(struct net_loop *loop, void (*fn)(struct net_conn *c))
{
    for (struct net_conn *c = loop->conns, *next; c != NULL; c = next) {
        next = c->next;
        fn(c);
    }
}

static void stop_stream(struct net_conn *c)
{
    if (!c->stream.finite)
        net_stream_close(c, WS_GOING_AWAY, STR("server is shutting down"), false);
}

static void stop_idle(struct net_conn *c)
{
    if (c->state == CONN_HTTP)
        http_conn_shutdown(c);
    else if (c->state == CONN_HANDSHAKE)
        conn_close(c);
}

static void begin_stop(struct net_loop *loop)
{
    loop->stopping = true;
    loop->stop_deadline_ms = uv_now(&loop->uv) + (uint64_t)loop->net->options.shutdown_timeout_ms;
    if (loop->listening)
        uv_close((uv_handle_t *)&loop->listener, NULL);
    if (loop->tls_listening)
        uv_close((uv_handle_t *)&loop->tls_listener, NULL);
    loop->listening = loop->tls_listening = false;
    loop->accept_due = loop->tls_accept_due = false;
    each_conn(loop, stop_stream);
    if (!loop->timer_on)
        uv_timer_again(&loop->timer);
    loop->timer_on = true;
}

static uint64_t all_in_flight(const struct net *n)
{
    uint64_t sum = 0;
    for (int i = 0; i < n->nloops; i++)
        sum += atomic_load_explicit(&n->loops[i].ninflight, memory_order_relaxed);
    return sum;
}

/* Idle connections stay while any request is under way anywhere, so that probes see /readyz say no. */
static void advance_stop(struct net_loop *loop)
{
    uint64_t now = uv_now(&loop->uv);
    bool at_once = atomic_load(&loop->net->stops) > 1;
    if (all_in_flight(loop->net) == 0)
        each_conn(loop, stop_idle);
    if (now >= loop->stop_deadline_ms || at_once)
        each_conn(loop, conn_close);
    if (loop->conns == NULL && loop->inflight == 0) {
        uv_stop(&loop->uv);
    } else if (now >= loop->stop_deadline_ms + GRACE_MS || (at_once && loop->conns == NULL)) {
        if (loop->inflight > 0)
            loop->net->abandoned = true;
        uv_stop(&loop->uv);
    }
}

static void look_at_stop(struct net_loop *loop)
{
    if (atomic_load_explicit(&loop->net->stops, memory_order_relaxed) == 0)
        return;
    if (!loop->stopping)
        begin_stop(loop);
    advance_stop(loop);
}

static void on_async(uv_async_t *a)
{
    struct net_loop *loop = a->loop->data;
    run_tasks(loop);
    conn_flush_dirty(loop);
    look_at_stop(loop);
    conn_flush_dirty(loop);
}

static void on_due(void *arg, struct wheel_entry *e)
{
    struct net_loop *loop = arg;
    conn_timer_fired(conn_of(e), uv_now(&loop->uv));
}

static void on_timer(uv_timer_t *t)
{
    struct net_loop *loop = t->loop->data;
    if (loop->accept_due) {
        loop->accept_due = false;
        conn_accept(loop, false);
    }
    if (loop->tls_accept_due) {
        loop->tls_accept_due = false;
        conn_accept(loop, true);
    }
    wheel_advance(&loop->wheel, uv_now(&loop->uv), on_due, loop);
    look_at_stop(loop);
    conn_flush_dirty(loop);
    if (loop->wheel.count == 0 && !loop->stopping && !loop->accept_due && !loop->tls_accept_due) {
        uv_timer_stop(t);
        loop->timer_on = false;
    }
}

static void on_connection(uv_stream_t *s, int status)
{
    struct net_loop *loop = s->loop->data;
    if (status == 0)
        conn_accept(loop, s == (uv_stream_t *)&loop->tls_listener);
}

static void on_prepare(uv_prepare_t *p)
{
    secure_turn(p->loop->data);
}

static void on_signal(uv_signal_t *s, int number)
{
    (void)number;
    net_stop(((struct net_loop *)s->loop->data)->net);
}

static void on_hangup(uv_signal_t *s, int number)
{
    (void)number;
    struct net_loop *loop = s->loop->data;
    const struct net_handler *h = loop->net->handler;
    if (h->reload != NULL)
        h->reload(h->arg);
    conn_flush_dirty(loop);
}

void net_stop(struct net *n)
{
    atomic_fetch_add(&n->stops, 1);
    for (int i = 0; i < n->nloops; i++)
        uv_async_send(&n->loops[i].async);
}

bool net_stopping(const struct net *n)
{
    return atomic_load(&n->stops) > 0;
}

/* ---- open, run, close
 * ------------------------------------------------------------------------------------------- */

/* -1: none of the kind. */
static int listen_on(struct net_loop *loop, uv_tcp_t *listener, int fd, bool *ret_listening)
{
    int rc = fd >= 0 ? uv_tcp_init(&loop->uv, listener) : 0;
    if (fd < 0 || rc != 0 || (rc = uv_tcp_open(listener, fd)) != 0)
        return rc;
    *ret_listening = true;
    return uv_listen((uv_stream_t *)listener, 4096, on_connection);
}

static enum err loop_init(struct net *n, struct net_loop *loop, int fd, int tls_fd, struct errctx *ec)
{
    int rc = uv_loop_init(&loop->uv);
    if (rc != 0)
        goto failed;
    loop->initialised = true;
    loop->net = n;
    loop->uv.data = loop;
    wheel_init(&loop->wheel, uv_now(&loop->uv));
    loop->read_buffer = malloc(READ_BUFFER_BYTES);
    loop->plain = n->tls != NULL ? malloc(TLS_RECORD_BYTES) : NULL;
    if (loop->read_buffer == NULL || (n->tls != NULL && loop->plain == NULL))
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    if ((rc = uv_async_init(&loop->uv, &loop->async, on_async)) != 0 ||
        (rc = uv_timer_init(&loop->uv, &loop->timer)) != 0 ||
        (rc = uv_timer_start(&loop->timer, on_timer, WHEEL_TICK_MS, WHEEL_TICK_MS)) != 0 ||
        (rc = uv_signal_init(&loop->uv, &loop->sigterm)) != 0 ||
        (rc = uv_signal_init(&loop->uv, &loop->sigint)) != 0 ||
        (rc = uv_signal_init(&loop->uv, &loop->sighup)) != 0 ||
        (rc = uv_prepare_init(&loop->uv, &loop->prepare)) != 0 ||
        (n->tls != NULL && (rc = uv_prepare_start(&loop->prepare, on_prepare)) != 0))
        goto failed;
    loop->timer_on = true;
    if ((rc = listen_on(loop, &loop->listener, fd, &loop->listening)) == 0 &&
        (rc = listen_on(loop, &loop->tls_listener, tls_fd, &loop->tls_listening)) == 0)
        return ERR_OK;
failed:
    return err_internal(ec, ERR_INTERNAL, "event loop: %s", uv_strerror(rc));
}

static void close_handle(uv_handle_t *h, void *arg)
{
    (void)arg;
    if (!uv_is_closing(h))
        uv_close(h, NULL);
}

static void loop_release(struct net_loop *loop)
{
    const struct net_handler *h = loop->net->handler;
    each_conn(loop, conn_close);
    uv_walk(&loop->uv, close_handle, NULL);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    uv_loop_close(&loop->uv);
    if (loop->user != NULL)
        h->loop_stop(h->arg, loop, loop->user);
    while (loop->pool != NULL) {
        struct net_request *r = loop->pool;
        loop->pool = r->next;
        loop->pooled = SIZE_MAX; /* free, do not pool */
        request_free(r);
    }
    while (loop->nparsers > 0)
        free(loop->parsers[--loop->nparsers]);
    free(loop->read_buffer);
    free(loop->plain);
}

static void net_free(struct net *n)
{
    for (int i = 0; i < n->nloops; i++) {
        if (n->loops[i].initialised)
            loop_release(&n->loops[i]);
    }
    secure_release(n);
    limit_count_free(n->per_address);
    uv_mutex_destroy(&n->tls_lock);
    free(n->loops);
    free(n->sockets);
    free(n->tls_sockets);
    free(n);
}

/* Sockets first: a taken port is the likeliest error. What no loop has taken over is closed again. */
static enum err open_loops(struct net *n, struct errctx *ec)
{
    bool both = n->tls != NULL && n->options.tls_listen.len > 0, plain = n->tls == NULL || both;
    memset(n->sockets, -1, (size_t)n->nloops * sizeof *n->sockets);
    memset(n->tls_sockets, -1, (size_t)n->nloops * sizeof *n->tls_sockets);
    enum err e = listen_sockets(n->listen, n->nloops, plain ? n->sockets : n->tls_sockets, &n->port, ec);
    n->tls_port = plain ? 0 : n->port;
    if (e == ERR_OK && both)
        e = listen_sockets(n->tls_listen, n->nloops, n->tls_sockets, &n->tls_port, ec);
    for (int i = 0; i < n->nloops; i++) {
        if (e == ERR_OK)
            e = loop_init(n, &n->loops[i], n->sockets[i], n->tls_sockets[i], ec);
        if (!n->loops[i].listening && n->sockets[i] >= 0)
            close(n->sockets[i]);
        if (!n->loops[i].tls_listening && n->tls_sockets[i] >= 0)
            close(n->tls_sockets[i]);
    }
    return e == ERR_OK ? secure_watch(n, ec) : e;
}

static struct net *net_new(int loops)
{
    struct net *n = calloc(1, sizeof *n);
    if (n == NULL || uv_mutex_init(&n->tls_lock) != 0) {
        free(n);
        return NULL;
    }
    n->loops = calloc((size_t)loops, sizeof *n->loops);
    n->sockets = calloc((size_t)loops, sizeof *n->sockets);
    n->tls_sockets = calloc((size_t)loops, sizeof *n->tls_sockets);
    if (n->loops == NULL || n->sockets == NULL || n->tls_sockets == NULL) {
        net_free(n);
        return NULL;
    }
    n->nloops = loops;
    return n;
}

enum err net_open(
    const struct net_options *o, const struct net_handler *handler, struct net **ret, struct errctx *ec)
{
    int loops = o->loops > 0 ? o->loops : (int)uv_available_parallelism();
    if (loops < 1)
        loops = 1;
    if (o->listen.len >= sizeof((struct net *)NULL)->listen ||
        o->tls_listen.len >= sizeof((struct net *)NULL)->tls_listen)
        return err_set(ec, ERR_INVALID_REQUEST, "listen: address is too long");
    struct net *n = net_new(loops);
    if (n == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    n->options = *o;
    n->handler = handler;
    memcpy(n->listen, o->listen.ptr, o->listen.len);
    if (o->tls_listen.len > 0)
        memcpy(n->tls_listen, o->tls_listen.ptr, o->tls_listen.len);
    enum err e = secure_open(n, ec);
    if (o->max_connections_per_address > 0) {
        n->per_address = limit_count_new(o->max_connections_per_address);
        if (e == ERR_OK && n->per_address == NULL)
            e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    if (e == ERR_OK)
        e = open_loops(n, ec);
    if (e != ERR_OK) {
        net_free(n);
        return e;
    }
    *ret = n;
    return ERR_OK;
}

int net_port(const struct net *n)
{
    return n->port;
}

int net_tls_port(const struct net *n)
{
    return n->tls_port;
}

static void serve(void *arg)
{
    struct net_loop *loop = arg;
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    run_tasks(loop); /* what was posted as the loop ended */
}

enum err net_run(struct net *n, bool signals, struct errctx *ec)
{
    const struct net_handler *h = n->handler;
    int started = 1, rc = 0;
    for (int i = 0; i < n->nloops; i++) {
        n->loops[i].user = h->loop_start(h->arg, &n->loops[i]);
        if (n->loops[i].user == NULL)
            return err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    if (signals && ((rc = uv_signal_start(&n->loops[0].sigterm, on_signal, SIGTERM)) != 0 ||
                       (rc = uv_signal_start(&n->loops[0].sigint, on_signal, SIGINT)) != 0 ||
                       (rc = uv_signal_start(&n->loops[0].sighup, on_hangup, SIGHUP)) != 0))
        return err_internal(ec, ERR_INTERNAL, "signals: %s", uv_strerror(rc));
    for (; started < n->nloops && rc == 0; started++)
        rc = uv_thread_create(&n->loops[started].thread, serve, &n->loops[started]);
    if (rc != 0) {
        started--;
        net_stop(n);
        net_stop(n);
    }
    serve(&n->loops[0]);
    for (int i = 1; i < started; i++)
        uv_thread_join(&n->loops[i].thread);
    return rc == 0 ? ERR_OK : err_internal(ec, ERR_INTERNAL, "threads: %s", uv_strerror(rc));
}

void net_each_loop(struct net *n, void (*fn)(void *arg, void *loop_user), void *arg)
{
    for (int i = 0; i < n->nloops; i++) {
        if (n->loops[i].user != NULL)
            fn(arg, n->loops[i].user);
    }
}

static uint64_t load(const _Atomic uint64_t *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

void net_stats(const struct net *n, struct net_stats *ret)
{
    *ret = (struct net_stats){0};
    for (int i = 0; i < n->nloops; i++) {
        const struct net_loop *l = &n->loops[i];
        ret->connections += load(&l->nconns);
        ret->websockets += load(&l->nws);
        ret->chunked += load(&l->nchunked);
        ret->accepted_total += load(&l->accepted);
        ret->refused_total += load(&l->refused);
        ret->bytes_in_total += load(&l->bytes_in);
        ret->bytes_out_total += load(&l->bytes_out);
        ret->requests_in_flight += load(&l->ninflight);
        ret->tls_handshakes_total += load(&l->shaken);
        ret->tls_failed_total += load(&l->shake_failed);
        ret->tls_truncated_total += load(&l->truncated);
    }
}

bool net_close(struct net *n)
{
    if (n->abandoned)
        return false;
    net_free(n);
    return true;
}
