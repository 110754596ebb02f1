/* GET /api/v1/export: a tar that the engine makes step by step while it is sent.
 *
 *   next ──► ready (engine thread) ──post──► send ──room left──► next
 *                                              └──full──► drained ──► next
 *
 * One step is under way at most, and none while the client does not read. The answer begins with the first
 * bytes, so that what fails before them has its status; what fails later cuts the connection.
 *
 * Threading: the loop's, but for `ready`. The lock guards what decides who frees: the stream may be closed
 * while a step is under way, and its loop may end before the step does. */
#include "api/server.h"
#include "base/log.h"
#include <pthread.h>
#include <stdlib.h>

struct export_stream {
    struct net_task task;
    struct call *call; /* until the answer begins */
    struct net_conn *conn;
    struct net_loop *loop;
    struct worker *worker;
    struct principal *who;
    struct kalamdb_export *export;
    pthread_mutex_t lock;
    bool under_way, posted, closed; /* lock */
    const char *ptr;                /* what the step gave */
    size_t len;
    struct kalamdb_error error;
};

static void export_free(struct export_stream *s)
{
    kalamdb_export_close(s->export);
    principal_unref(s->who);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* On an engine's thread, or on the loop's from within export_next. */
static void on_ready(void *arg, const char *ptr, size_t len, const struct kalamdb_error *error)
{
    struct export_stream *s = arg;
    pthread_mutex_lock(&s->lock);
    s->under_way = false;
    s->ptr = ptr;
    s->len = len;
    s->error = *error;
    bool closed = s->closed;
    s->posted = !closed;
    if (!closed) /* within the lock: an open stream keeps its loop */
        net_post(s->loop, &s->task);
    pthread_mutex_unlock(&s->lock);
    if (closed)
        export_free(s);
}

static void export_next(struct export_stream *s)
{
    pthread_mutex_lock(&s->lock);
    s->under_way = true;
    pthread_mutex_unlock(&s->lock);
    kalamdb_export_next(s->export, on_ready, s);
}

static void on_drained(void *arg)
{
    struct export_stream *s = arg;
    pthread_mutex_lock(&s->lock);
    bool busy = s->under_way || s->posted;
    pthread_mutex_unlock(&s->lock);
    if (!busy)
        export_next(s);
}

static void on_closed(void *arg)
{
    struct export_stream *s = arg;
    s->conn = NULL;
    principal_unref(s->who); /* the loop's: what frees the rest may be another thread */
    s->who = NULL;
    pthread_mutex_lock(&s->lock);
    s->closed = true;
    bool under_way = s->under_way, idle = !under_way && !s->posted;
    if (under_way)
        kalamdb_export_cancel(s->export);
    pthread_mutex_unlock(&s->lock);
    if (idle)
        export_free(s);
}

/* The first bytes are there. False: the client is not. */
static bool start(struct export_stream *s)
{
    static const struct net_stream_ops ops = {.drained = on_drained, .closed = on_closed};
    struct call *c = s->call;
    struct net_request *req = c->req;
    struct buf h = BUF_INIT(8192);
    cors_headers(c, &h);
    buf_str(&h, STR("Content-Disposition: attachment; filename=\"kalamdb-export.tar\"\r\n"));
    s->call = NULL;
    count_answer(c, 200);
    call_release(c);
    s->conn = net_stream_answer(req, STR("application/x-tar"), buf_view(&h), -1, &ops, s);
    buf_release(&h);
    return s->conn != NULL;
}

static void failed(struct export_stream *s)
{
    if (s->call != NULL) {
        struct call *c = s->call;
        answer_engine_error(c, &s->error);
        export_free(s);
        return;
    }
    log_event(LOG_ERROR, "export_failed", "s:error", s->error.message, "s:cause", s->error.internal, NULL);
    net_stream_abort(s->conn); /* frees */
}

/* On the loop, with what the step gave. */
static void deliver(struct net_task *task)
{
    struct export_stream *s = (struct export_stream *)task;
    pthread_mutex_lock(&s->lock);
    s->posted = false;
    bool closed = s->closed;
    pthread_mutex_unlock(&s->lock);
    if (closed) {
        export_free(s);
    } else if (s->error.code != KALAMDB_OK) {
        failed(s);
    } else if (s->call != NULL && !start(s)) {
        export_free(s);
    } else if (s->len > 0 && principal_ended(s->worker, s->who).ptr != NULL) {
        net_stream_abort(s->conn); /* nobody goes on reading by a token that is no more; frees */
    } else if (s->len == 0) {
        net_stream_close(s->conn, 0, STR_NULL, false); /* frees */
    } else {
        net_stream_send(s->conn, str_n(s->ptr, s->len));
        if (net_stream_room(s->conn) > 0)
            export_next(s);
    }
}

static struct export_stream *stream_new(struct call *c, struct kalamdb_export *export)
{
    struct export_stream *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->task.run = deliver;
    s->call = c;
    s->loop = c->worker->loop;
    s->worker = c->worker;
    s->who = principal_ref(c->who);
    s->export = export;
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

void serve_export(struct call *c)
{
    struct str user;
    struct kalamdb_error error;
    struct kalamdb_export *export = NULL;
    struct kalamdb_caller caller = principal_caller(c->who);
    if (!query_param(&c->req->arena, c->query_string, STR("user"), &user)) {
        answer_error(c, ERR_INVALID_REQUEST, "malformed query string");
        return;
    }
    c->audit.user = user;
    if (!net_stream_possible(c->req)) {
        answer_error(c, ERR_INVALID_REQUEST, "an export cannot be pipelined");
        return;
    }
    if (kalamdb_export_open(c->worker->server->db, &caller, kstr(user), &export, &error) != KALAMDB_OK) {
        answer_engine_error(c, &error);
        return;
    }
    if (c->req->in.method == HTTP_M_HEAD) {
        kalamdb_export_close(export);
        answer(c, 200, STR("application/x-tar"), STR(""));
        return;
    }
    struct export_stream *s = stream_new(c, export);
    if (s == NULL) {
        kalamdb_export_close(export);
        answer_error(c, ERR_INTERNAL, "internal error");
        return;
    }
    export_next(s);
}
