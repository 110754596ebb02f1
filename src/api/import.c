/* POST /api/v1/import?user=…: the body goes to the engine piece by piece, then it works on it.
 *
 *   data … ──256 KiB──► pause, write (a thread of the pool) ──► resume ──► … end ──► finish ──► answer
 *
 * The engine's writes may wait for a disk, so none is made on the loop, and while one is, nothing more is
 * read. A client that leaves while the engine works is not waited for, but its import goes on: asked for
 * again, it answers at once what it has done.
 *
 * Threading: the loop's, but for the write and `done`. */
#include "api/server.h"
#include "base/json.h"
#include <pthread.h>
#include <stdlib.h>

#define PIECE_BYTES ((size_t)256 << 10)

struct import_call {
    struct net_task task;
    struct net_job job;
    struct call *call;
    struct kalamdb_import *import; /* NULL: finished, or aborted */
    struct buf bytes;              /* come, not written yet */
    bool writing, ended, gone;     /* gone: the rest of the body will not come */
    kalamdb_code written;          /* of the last write */
    pthread_mutex_t lock;
    struct kalamdb_import *cancel; /* lock: while running */
    struct kalamdb_import_counts counts;
    struct kalamdb_error error;
};

static void import_free(struct import_call *ic)
{
    kalamdb_import_abort(ic->import);
    buf_release(&ic->bytes);
    pthread_mutex_destroy(&ic->lock);
    free(ic);
}

static void import_failed(struct import_call *ic)
{
    struct call *c = ic->call;
    answer_engine_error(c, &ic->error);
    import_free(ic);
}

/* ---- in the engine's hands ---- */

static void imported(struct net_task *task)
{
    struct import_call *ic = (struct import_call *)task;
    struct call *c = ic->call;
    struct str user = STR("");
    if (ic->error.code != KALAMDB_OK) {
        import_failed(ic);
        return;
    }
    struct buf *b = &c->req->body;
    (void)query_param(&c->req->arena, c->query_string, STR("user"), &user);
    buf_str(b, STR("{\"user\":"));
    json_str(b, user);
    buf_printf(b, ",\"messages\":%llu,\"conversations\":%llu,\"files\":%llu}",
        (unsigned long long)ic->counts.messages, (unsigned long long)ic->counts.conversations,
        (unsigned long long)ic->counts.files);
    answer_json(c, 200);
    import_free(ic);
}

static void on_done(void *arg, const struct kalamdb_import_counts *counts, const struct kalamdb_error *error)
{
    struct import_call *ic = arg;
    pthread_mutex_lock(&ic->lock);
    ic->cancel = NULL;
    pthread_mutex_unlock(&ic->lock);
    ic->error = *error;
    if (counts != NULL)
        ic->counts = *counts;
    net_post(ic->call->worker->loop, &ic->task);
}

static void finish(struct import_call *ic)
{
    struct kalamdb_import *import = ic->import;
    ic->import = NULL;
    ic->cancel = import;
    kalamdb_import_finish(import, on_done, ic);
}

/* The client left, which changes nothing, or the time to shut down is up. */
static void on_abandoned(struct call *c)
{
    struct import_call *ic = c->owner;
    if (!net_stopping(c->worker->server->net))
        return;
    pthread_mutex_lock(&ic->lock);
    if (ic->cancel != NULL)
        kalamdb_import_cancel(ic->cancel);
    pthread_mutex_unlock(&ic->lock);
}

/* ---- the body ---- */

/* What net says of a body that will not come whole. */
static void body_failed(struct import_call *ic)
{
    struct call *c = ic->call;
    int status = c->req->failed_status;
    c->abandoned = c->abandoned || c->req->conn == NULL;
    answer_status(c, status != 0 ? status : 400,
        status == 408   ? STR("TIMEOUT")
        : status == 413 ? STR("TOO_LARGE")
                        : STR("INVALID_REQUEST"),
        str_c(status != 0 && c->req->failed_why != NULL ? c->req->failed_why : "the body did not come whole"),
        STR(""));
    import_free(ic);
}

static void write_piece(struct net_job *job)
{
    struct import_call *ic = (struct import_call *)((char *)job - offsetof(struct import_call, job));
    ic->written = kalamdb_import_write(ic->import, ic->bytes.ptr, ic->bytes.len, &ic->error);
}

static void piece_written(struct net_job *job)
{
    struct import_call *ic = (struct import_call *)((char *)job - offsetof(struct import_call, job));
    ic->writing = false;
    buf_clear(&ic->bytes);
    if (ic->gone)
        body_failed(ic);
    else if (ic->written != KALAMDB_OK)
        import_failed(ic);
    else if (ic->ended)
        finish(ic);
    else
        net_body_resume(ic->call->req);
}

static void start_write(struct import_call *ic)
{
    ic->job = (struct net_job){.work = write_piece, .done = piece_written};
    ic->writing = true;
    net_body_pause(ic->call->req);
    if (net_offload(ic->call->worker->loop, &ic->job))
        return;
    ic->writing = false;
    ic->error = (struct kalamdb_error){.code = ERR_INTERNAL, .message = "internal error"};
    import_failed(ic);
}

static void on_data(void *arg, struct str bytes)
{
    struct import_call *ic = arg;
    buf_str(&ic->bytes, bytes);
    if (ic->bytes.failed) {
        ic->error = (struct kalamdb_error){.code = ERR_INTERNAL, .message = "internal error"};
        import_failed(ic);
    } else if (ic->bytes.len >= PIECE_BYTES) {
        start_write(ic);
    }
}

static void on_end(void *arg)
{
    struct import_call *ic = arg;
    ic->ended = true;
    if (ic->bytes.len > 0)
        start_write(ic);
    else
        finish(ic);
}

static void on_aborted(void *arg)
{
    struct import_call *ic = arg;
    ic->gone = true;
    if (!ic->writing)
        body_failed(ic);
}

static struct import_call *import_call_new(struct call *c, struct kalamdb_import *import)
{
    struct import_call *ic = calloc(1, sizeof *ic);
    if (ic == NULL)
        return NULL;
    ic->task.run = imported;
    ic->call = c;
    ic->import = import;
    pthread_mutex_init(&ic->lock, NULL);
    return ic;
}

void serve_import(struct call *c)
{
    static const struct net_body_ops ops = {.data = on_data, .end = on_end, .aborted = on_aborted};
    struct str user;
    struct kalamdb_error error;
    struct kalamdb_import *import = NULL;
    struct kalamdb_caller caller = principal_caller(c->who);
    if (!query_param(&c->req->arena, c->query_string, STR("user"), &user)) {
        answer_error(c, ERR_INVALID_REQUEST, "malformed query string");
        return;
    }
    if (user.ptr == NULL) {
        answer_error(c, ERR_INVALID_REQUEST, "the parameter user is missing: whose data is to be imported?");
        return;
    }
    c->audit.user = user;
    if (kalamdb_import_begin(c->worker->server->db, &caller, kstr(user), &import, &error) != KALAMDB_OK) {
        answer_engine_error(c, &error);
        return;
    }
    struct import_call *ic = import_call_new(c, import);
    if (ic == NULL) {
        kalamdb_import_abort(import);
        answer_error(c, ERR_INTERNAL, "internal error");
        return;
    }
    c->owner = ic;
    c->aborted = on_abandoned;
    if (!net_request_stream(c->req, &ops, ic, (uint64_t)c->worker->server->cfg->max_import_bytes)) {
        answer_error(c, ERR_TOO_LARGE, "the archive is over max_import_bytes (%lld)",
            (long long)c->worker->server->cfg->max_import_bytes);
        import_free(ic);
    }
}
