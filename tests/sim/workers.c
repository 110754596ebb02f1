/* The pool of workers, for the simulator: real DuckDB processes, forked by a real zygote, but whoever wants
 * one waits for it with the baton in hand. So the order of events is the scheduler's alone, and how fast a
 * process answers changes nothing. Stands in for src/analytic/pool.c, whose keeper thread this replaces. */
#include "workers.h"
#include "analytic/channel.h"
#include "analytic/pool.h"
#include "analytic/zygote.h"
#include "scheduler.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define IDLE_MAX 8

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stopping;
    int busy;
    struct pool_worker *idle;
    struct pool_worker *taken[64];
    uint64_t started, died, killed, runs;
};

static struct zygote zygote;

static bool read_control(struct zygote_event *ret)
{
    struct pollfd f = {.fd = zygote.control, .events = POLLIN};
    while (poll(&f, 1, 30000) < 0 && errno == EINTR)
        continue;
    return f.revents != 0 && zygote_read(&zygote, ret);
}

bool sim_workers_start(void)
{
    char path[4096];
    struct errctx ec;
    struct zygote_event ev;
    return zygote_find(NULL, path, sizeof path) &&
           zygote_start(path, (size_t)512 << 20, true, &zygote, &ec) == ERR_OK && read_control(&ev) &&
           ev.control.type == CONTROL_READY;
}

void sim_workers_end(void)
{
    zygote_end(&zygote);
}

void pool_kill_pidfd(int pidfd)
{
    if (pidfd >= 0)
        syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
}

static void discard(struct pool_worker *w)
{
    pool_kill_pidfd(w->pidfd);
    close(w->pidfd);
    close(w->sock);
    free(w->user);
    free(w);
}

enum err pool_open(const struct analytic_config *cfg, struct pool **ret, struct errctx *ec)
{
    (void)cfg;
    struct pool *p = calloc(1, sizeof *p);
    if (p == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "pool");
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    *ret = p;
    return ERR_OK;
}

/* A machine that crashed may have left the answer to its last question: it has another number. */
static struct pool_worker *fork_worker(struct str user)
{
    static uint32_t last;
    struct pool_worker *w = calloc(1, sizeof *w);
    struct zygote_event ev = {.pidfd = -1};
    if (w == NULL)
        return NULL;
    w->id = (uint32_t)syscall(SYS_getpid) << 12 ^ ++last;
    w->fresh = true;
    w->user = strndup(user.ptr, user.len);
    w->user_len = user.len;
    w->sock = zygote_fork(&zygote, w->id);
    while (w->sock >= 0 && read_control(&ev)) {
        if (ev.control.type == CONTROL_FORKED && ev.control.id == w->id) {
            w->pidfd = ev.pidfd;
            return w;
        }
        if (ev.pidfd >= 0)
            close(ev.pidfd);
    }
    if (w->sock >= 0)
        close(w->sock);
    free(w->user);
    free(w);
    return NULL;
}

static struct pool_worker *take_idle(struct pool *p, struct str user)
{
    for (struct pool_worker **at = &p->idle; *at != NULL; at = &(*at)->next) {
        struct pool_worker *w = *at;
        if (str_eq(str_n(w->user, w->user_len), user)) {
            *at = w->next;
            return w;
        }
    }
    return NULL;
}

enum err pool_take(struct pool *p, struct str user, int64_t deadline_us, const _Atomic int *cancelled,
    struct pool_worker **ret, struct errctx *ec)
{
    (void)deadline_us;
    enum err e = ERR_OK;
    pthread_mutex_lock(&p->lock);
    if (p->stopping)
        e = err_set(ec, ERR_UNAVAILABLE, "shutting down");
    else if (cancelled != NULL && *cancelled != 0)
        e = err_set(ec, ERR_TIMEOUT, "canceling statement due to user request");
    struct pool_worker *w = e == ERR_OK ? take_idle(p, user) : NULL;
    if (e == ERR_OK && w == NULL) {
        sched_still(true);
        w = fork_worker(user);
        sched_still(false);
        p->started++;
    }
    if (e == ERR_OK && w == NULL)
        e = err_set(ec, ERR_UNAVAILABLE, "queries cannot be run at the moment");
    if (w != NULL) {
        p->taken[p->busy++ % 64] = w;
        p->runs++;
        *ret = w;
        sched_still(true); /* until it is given back */
    }
    pthread_mutex_unlock(&p->lock);
    return e;
}

void pool_give(struct pool *p, struct pool_worker *w, enum pool_fate fate)
{
    sched_still(false);
    pthread_mutex_lock(&p->lock);
    for (int i = 0; i < p->busy; i++)
        if (p->taken[i] == w) {
            p->taken[i] = p->taken[--p->busy];
            break;
        }
    p->died += fate == POOL_DIED;
    p->killed += fate == POOL_KILL;
    bool keep = fate == POOL_REUSE && !p->stopping;
    struct pool_worker *gone = keep ? NULL : w;
    if (keep) {
        w->fresh = false;
        w->next = p->idle;
        p->idle = w;
        int n = 0;
        for (struct pool_worker **at = &p->idle; *at != NULL; at = &(*at)->next)
            if (++n > IDLE_MAX) {
                gone = *at;
                *at = NULL;
                break;
            }
    }
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    if (gone != NULL)
        discard(gone);
}

void pool_stop(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    for (int i = 0; i < p->busy; i++)
        pool_kill_pidfd(p->taken[i]->pidfd);
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

void pool_close(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    while (p->busy > 0)
        pthread_cond_wait(&p->changed, &p->lock);
    pthread_mutex_unlock(&p->lock);
    while (p->idle != NULL) {
        struct pool_worker *w = p->idle;
        p->idle = w->next;
        discard(w);
    }
    free(p);
}

void pool_stats(struct pool *p, struct analytic_stats *ret)
{
    pthread_mutex_lock(&p->lock);
    *ret = (struct analytic_stats){
        .busy = p->busy, .started = p->started, .died = p->died, .killed = p->killed, .runs = p->runs};
    pthread_mutex_unlock(&p->lock);
}
