/* Runs requests on the pool's workers: write the request, read the result, and see to it that a run ends when
 * its time, its bytes or its caller's patience do. */
#include "analytic/analytic.h"
#include "analytic/channel.h"
#include "analytic/pool.h"
#include "analytic/protocol.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define RESULT_BYTES_DEFAULT ((size_t)256 << 20)
#define THREAD_NEW UINT64_MAX /* running[] of a thread that has not begun */

struct analytic {
    struct pool *pool;
    size_t result_bytes_max;
    int nthreads;
    pthread_t *threads;

    pthread_mutex_t lock; /* the queue */
    pthread_cond_t changed;
    struct analytic_job *first, **last;
    uint64_t *running; /* per thread: the owner of its job, 0 when idle */
    int per_owner_max;
    bool closing;
};

/* ---- cancel ----
 * The struct holds a pidfd of its own (a duplicate), and whoever swaps it out closes it: the two threads can
 * never mean a descriptor that the other has closed and the kernel has given to something else. */

void analytic_cancel(struct analytic_cancel *c)
{
    atomic_store(&c->state, 1);
    int pidfd = atomic_exchange(&c->pidfd, 0);
    if (pidfd > 0) {
        pool_kill_pidfd(pidfd);
        close(pidfd);
    }
}

static bool cancelled(struct analytic_cancel *c)
{
    return c != NULL && atomic_load(&c->state) != 0;
}

static void cancel_arm(struct analytic_cancel *c, const struct pool_worker *w)
{
    if (c == NULL)
        return;
    int pidfd = fcntl(w->pidfd, F_DUPFD_CLOEXEC, 3);
    if (pidfd < 0)
        return; /* out of descriptors: the timeout still ends the run */
    atomic_store(&c->pidfd, pidfd);
    /* A cancel between the taking of the worker and the line above saw no pidfd. */
    if (atomic_load(&c->state) != 0)
        analytic_cancel(c);
}

static void cancel_disarm(struct analytic_cancel *c)
{
    int pidfd = c != NULL ? atomic_exchange(&c->pidfd, 0) : 0;
    if (pidfd > 0)
        close(pidfd);
}

/* ---- one run ---- */

struct run {
    const struct analytic_request *rq;
    struct pool_worker *worker;
    int64_t deadline_us;
    size_t bytes_max;
    enum pool_fate fate;
    struct rowset rs;
};

static enum err too_large(struct run *r, struct errctx *ec)
{
    r->fate = POOL_KILL;
    err_set(ec, ERR_TOO_LARGE, "the result is larger than %zu bytes", r->bytes_max);
    err_hint(ec, "Select fewer rows or columns, or page with LIMIT.");
    return ec->code;
}

/* What a failed transfer means. */
static enum err lost(struct run *r, int error, struct errctx *ec)
{
    if (cancelled(r->rq->cancel)) {
        r->fate = POOL_KILL;
        return err_set(ec, ERR_TIMEOUT, "canceling statement due to user request");
    }
    if (error == -ETIMEDOUT) {
        r->fate = POOL_KILL;
        return err_set(ec, ERR_TIMEOUT, "canceling statement due to statement timeout");
    }
    r->fate = POOL_DIED;
    return err_set(ec, ERR_INTERNAL, "the query's worker died");
}

static enum err nonsense(struct run *r, struct errctx *ec)
{
    r->fate = POOL_DIED;
    return err_internal(ec, ERR_INTERNAL, "a worker answered out of protocol");
}

/* One frame's body into the result's arena, where its values may stay. */
static enum err read_frame(struct run *r, enum frame_type *ret_type, struct str *ret_body, struct errctx *ec)
{
    uint8_t header[PROTO_HEADER_BYTES];
    struct frame_header h;
    int e = channel_recv(r->worker->sock, header, sizeof header, r->deadline_us);
    if (e != 0)
        return lost(r, e, ec);
    if (proto_header(header, &h) != ERR_OK)
        return nonsense(r, ec);
    if (h.type == FRAME_ROWS && h.body_bytes > r->bytes_max - r->rs.arena.used_bytes)
        return too_large(r, ec);
    char *p = arena_alloc(&r->rs.arena, h.body_bytes);
    if (p == NULL)
        return too_large(r, ec);
    e = channel_recv(r->worker->sock, p, h.body_bytes, r->deadline_us);
    if (e != 0)
        return lost(r, e, ec);
    *ret_type = h.type;
    *ret_body = str_n(p, h.body_bytes);
    return ERR_OK;
}

static enum err on_error_frame(struct run *r, struct str body, struct errctx *ec)
{
    bool retire;
    struct errctx theirs;
    if (proto_get_error(body, &theirs, &retire) != ERR_OK)
        return nonsense(r, ec);
    *ec = theirs;
    r->fate = retire ? POOL_RETIRED : POOL_REUSE;
    return ec->code;
}

static enum err on_done_frame(struct run *r, struct str body, struct errctx *ec)
{
    struct proto_done done;
    if (proto_get_done(body, &done) != ERR_OK || r->rs.ncolumns == 0 || done.rows != r->rs.nrows)
        return nonsense(r, ec);
    r->rs.truncated = done.truncated;
    r->fate = done.retire ? POOL_RETIRED : POOL_REUSE;
    return ERR_OK;
}

static enum err read_result(struct run *r, struct errctx *ec)
{
    for (;;) {
        enum frame_type type = FRAME_DONE;
        struct str body = STR_NULL;
        enum err e = read_frame(r, &type, &body, ec);
        if (e != ERR_OK)
            return e;
        if (type == FRAME_ERROR)
            return on_error_frame(r, body, ec);
        if (type == FRAME_DONE)
            return on_done_frame(r, body, ec);
        if (type == FRAME_COLUMNS)
            e = proto_get_columns(body, &r->rs);
        else
            e = type == FRAME_ROWS ? proto_get_rows(body, &r->rs) : ERR_CORRUPT;
        if (e == ERR_TOO_LARGE || (e == ERR_OK && r->rq->rows_max > 0 && r->rs.nrows > r->rq->rows_max))
            return too_large(r, ec);
        if (e == ERR_NO_MEMORY) {
            r->fate = POOL_KILL;
            return err_internal(ec, e, "memory for a result");
        }
        if (e != ERR_OK)
            return nonsense(r, ec);
    }
}

static enum err send_request(struct run *r, struct str frame, const int *fds, int nfds, struct errctx *ec)
{
    int e = channel_send(r->worker->sock, frame, fds, nfds, r->deadline_us);
    return e == 0 ? ERR_OK : lost(r, e, ec);
}

static enum err run_on_worker(
    struct analytic *a, struct run *r, struct str frame, const int *fds, int nfds, struct errctx *ec)
{
    const struct analytic_request *rq = r->rq;
    enum err e = pool_take(
        a->pool, rq->user_id, r->deadline_us, rq->cancel != NULL ? &rq->cancel->state : NULL, &r->worker, ec);
    if (e != ERR_OK)
        return e;
    cancel_arm(rq->cancel, r->worker);
    e = send_request(r, frame, fds, nfds, ec);
    if (e == ERR_OK)
        e = read_result(r, ec);
    cancel_disarm(rq->cancel);
    /* A cancel that came with the last byte has killed a worker whose answer is whole. */
    if (cancelled(rq->cancel) && r->fate == POOL_REUSE)
        r->fate = POOL_KILL;
    pool_give(a->pool, r->worker, r->fate);
    return e;
}

/* A worker gets inputs that it cannot write to, whatever the descriptor that we have can do: it opens
 * nothing, so the mode that a descriptor comes with is the one that it keeps. Fills `ret` with those that
 * were opened again, for close_reopened. */
static enum err make_read_only(int *fds, int nfds, int *ret, int *ret_n, struct errctx *ec)
{
    for (int i = 0; i < nfds; i++) {
        int mode = fcntl(fds[i], F_GETFL);
        if (mode >= 0 && (mode & O_ACCMODE) == O_RDONLY)
            continue;
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fds[i]);
        int fd = mode >= 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (fd < 0)
            return err_internal(ec, ERR_IO, "an input for a worker: %s", strerror(errno));
        fds[i] = ret[(*ret_n)++] = fd;
    }
    return ERR_OK;
}

static void close_reopened(const int *fds, int n)
{
    for (int i = 0; i < n; i++)
        close(fds[i]);
}

enum err analytic_run(
    struct analytic *a, const struct analytic_request *rq, struct rowset *ret, struct errctx *ec)
{
    int fds[PROTO_FDS_MAX], reopened[PROTO_FDS_MAX], nreopened = 0;
    int nfds = rq->ninputs > PROTO_INPUTS_MAX ? -1 : proto_request_fds(rq, fds);
    if (nfds < 0)
        return err_set(ec, ERR_TOO_LARGE, "the statement reads too many tables or files");
    struct run r = {.rq = rq, .bytes_max = a->result_bytes_max, .fate = POOL_DIED};
    r.deadline_us =
        rq->timeout_ms > 0 ? channel_now_us() + (int64_t)rq->timeout_ms * 1000 : CHANNEL_NO_DEADLINE;
    struct buf frame = BUF_INIT(PROTO_REQUEST_MAX);
    proto_put_request(&frame, rq);
    if (frame.failed) {
        buf_release(&frame);
        return err_set(ec, ERR_TOO_LARGE, "the statement is too large");
    }
    /* A little above the bound for the column names and a last error. */
    rowset_init(&r.rs, a->result_bytes_max + (1u << 20));
    bool writes = rq->mode == ANALYTIC_PARQUET;
    enum err e = make_read_only(fds, writes ? nfds - 1 : nfds, reopened, &nreopened, ec);
    /* The worker writes through a copy of this descriptor, which shares its position. */
    if (e == ERR_OK && writes && lseek(rq->output_fd, 0, SEEK_SET) != 0)
        e = err_internal(ec, ERR_IO, "a worker's output: %s", strerror(errno));
    if (e == ERR_OK)
        e = run_on_worker(a, &r, buf_view(&frame), fds, nfds, ec);
    if (writes)
        lseek(rq->output_fd, 0, SEEK_SET);
    close_reopened(reopened, nreopened);
    buf_release(&frame);
    if (e != ERR_OK)
        rowset_release(&r.rs);
    else
        *ret = r.rs;
    return e;
}

/* ---- job threads ---- */

static int jobs_of(const struct analytic *a, uint64_t owner)
{
    int n = 0;
    for (int i = 0; i < a->nthreads; i++)
        n += a->running[i] == owner;
    return n;
}

/* Takes the first job whose owner may run another; NULL when there is none now. Under the lock. */
static struct analytic_job *next_job(struct analytic *a)
{
    for (struct analytic_job **at = &a->first; *at != NULL; at = &(*at)->next) {
        struct analytic_job *job = *at;
        if (!a->closing && jobs_of(a, job->owner) >= a->per_owner_max)
            continue;
        *at = job->next;
        if (*at == NULL)
            a->last = at;
        return job;
    }
    return NULL;
}

static void *job_main(void *arg)
{
    struct analytic *a = arg;
    pthread_mutex_lock(&a->lock);
    int self = 0;
    while (self < a->nthreads && a->running[self] != THREAD_NEW)
        self++;
    a->running[self] = 0;
    for (;;) {
        struct analytic_job *job = next_job(a);
        if (job == NULL) {
            if (a->closing)
                break;
            pthread_cond_wait(&a->changed, &a->lock);
            continue;
        }
        a->running[self] = job->owner;
        pthread_mutex_unlock(&a->lock);
        job->run(job);
        pthread_mutex_lock(&a->lock);
        a->running[self] = 0;
        /* The owner's next job was perhaps passed over by every thread that looked. */
        pthread_cond_signal(&a->changed);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

void analytic_submit(struct analytic *a, struct analytic_job *job)
{
    job->next = NULL;
    pthread_mutex_lock(&a->lock);
    *a->last = job;
    a->last = &job->next;
    pthread_cond_signal(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

void analytic_stats(struct analytic *a, struct analytic_stats *ret)
{
    pool_stats(a->pool, ret);
}

void analytic_close(struct analytic *a)
{
    if (a == NULL)
        return;
    if (a->pool != NULL)
        pool_stop(a->pool);
    pthread_mutex_lock(&a->lock);
    a->closing = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    for (int i = 0; i < a->nthreads; i++)
        pthread_join(a->threads[i], NULL);
    if (a->pool != NULL)
        pool_close(a->pool);
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
    free(a->running);
    free(a->threads);
    free(a);
}

enum err analytic_open(const struct analytic_config *cfg, struct analytic **ret, struct errctx *ec)
{
    struct analytic *a = calloc(1, sizeof *a);
    if (a == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "analytic");
    a->last = &a->first;
    a->result_bytes_max = cfg->result_bytes_max > 0 ? cfg->result_bytes_max : RESULT_BYTES_DEFAULT;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    int threads = cfg->threads > 0 ? cfg->threads : 1;
    a->threads = calloc((size_t)threads, sizeof *a->threads);
    a->running = calloc((size_t)threads, sizeof *a->running);
    a->per_owner_max = cfg->workers_max > 1 ? cfg->workers_max - 1 : 1;
    enum err e = a->threads == NULL || a->running == NULL
                     ? err_internal(ec, ERR_NO_MEMORY, "analytic threads")
                     : ERR_OK;
    if (e == ERR_OK)
        e = pool_open(cfg, &a->pool, ec);
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_mutex_lock(&a->lock);
    while (e == ERR_OK && a->nthreads < threads) {
        int error = pthread_create(&a->threads[a->nthreads], NULL, job_main, a);
        if (error != 0)
            e = err_internal(ec, ERR_UNAVAILABLE, "pthread_create: %s", strerror(error));
        else
            a->running[a->nthreads++] = THREAD_NEW;
    }
    pthread_mutex_unlock(&a->lock);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (e != ERR_OK) {
        analytic_close(a);
        return e;
    }
    *ret = a;
    return ERR_OK;
}
