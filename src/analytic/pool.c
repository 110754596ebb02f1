#include "analytic/pool.h"
#include "analytic/channel.h"
#include "analytic/zygote.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SPARE 2
#define START_TIMEOUT_US INT64_C(30000000)
#define FORK_PAUSE_US INT64_C(100000)
#define BACKOFF_MIN_US INT64_C(50000)
#define BACKOFF_MAX_US INT64_C(5000000)
/* Starts in a row that may fail before callers are told so instead of waiting. */
#define FAILURES_MAX 3
/* A cancelled caller that waits for a worker looks up this often. */
#define CANCEL_POLL_US 20000

struct waiter {
    struct waiter *next;
};

struct pool {
    const struct os *os;
    char path[4096];
    size_t memory_bytes_max;
    bool caged;
    int workers_max;
    int64_t idle_us;
    pthread_t keeper;
    int wake; /* eventfd of the keeper */

    pthread_mutex_t lock; /* all below */
    pthread_cond_t changed;
    bool stopping, closing, ready;
    int landlock_abi;
    int failures;                                         /* starts of the zygote that failed in a row */
    char why[480];                                        /* the last one's reason */
    struct pool_worker *pending, *reserved, *busy, *idle; /* idle: newest first */
    int npending, nreserved, nbusy, nidle, nwaiting;
    struct waiter *first, **last;
    uint32_t next_id;
    uint64_t started, died, killed, runs, expelled;

    /* The keeper's own. */
    struct zygote zygote;
    int64_t start_deadline_us, retry_at_us, backoff_us;
    int64_t fork_at_us; /* no fork before: the last one failed */
};

void pool_kill_pidfd(int pidfd)
{
    if (pidfd >= 0)
        syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
}

static void push(struct pool_worker **list, int *count, struct pool_worker *w)
{
    w->next = *list;
    *list = w;
    ++*count;
}

static void unlink_worker(struct pool_worker **list, int *count, struct pool_worker *w)
{
    while (*list != w)
        list = &(*list)->next;
    *list = w->next;
    --*count;
}

static void discard(struct pool_worker *w)
{
    pool_kill_pidfd(w->pidfd);
    if (w->pidfd >= 0)
        close(w->pidfd);
    close(w->sock);
    free(w->user);
    free(w);
}

static void discard_list(struct pool_worker **list, int *count)
{
    while (*list != NULL) {
        struct pool_worker *w = *list;
        unlink_worker(list, count, w);
        discard(w);
    }
}

static void wake_keeper(struct pool *p)
{
    uint64_t one = 1;
    ssize_t n = write(p->wake, &one, sizeof one);
    (void)n; /* a full counter wakes as well */
}

/* A worker that waits for a request has nothing to say: anything readable is its end. */
static bool has_ended(const struct pool_worker *w)
{
    struct pollfd f = {.fd = w->sock, .events = POLLIN};
    return poll(&f, 1, 0) != 0;
}

/* ---- the keeper ---- */

static void zygote_failed(struct pool *p, const char *why)
{
    zygote_end(&p->zygote);
    pthread_mutex_lock(&p->lock);
    p->ready = false;
    p->failures++;
    snprintf(p->why, sizeof p->why, "%s", why);
    /* Its forks die with it; those that run a query are noticed by who reads from them. */
    discard_list(&p->pending, &p->npending);
    discard_list(&p->reserved, &p->nreserved);
    discard_list(&p->idle, &p->nidle);
    p->backoff_us = p->backoff_us == 0 ? BACKOFF_MIN_US : p->backoff_us * 2;
    if (p->backoff_us > BACKOFF_MAX_US)
        p->backoff_us = BACKOFF_MAX_US;
    p->retry_at_us = channel_now_us() + p->backoff_us;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static void start_zygote(struct pool *p)
{
    struct errctx ec;
    errctx_clear(&ec);
    if (zygote_start(p->path, p->memory_bytes_max, p->caged, &p->zygote, &ec) != ERR_OK)
        zygote_failed(p, ec.internal);
    else
        p->start_deadline_us = channel_now_us() + START_TIMEOUT_US;
}

static struct pool_worker *find_pending(struct pool *p, uint32_t id)
{
    struct pool_worker *w = p->pending;
    while (w != NULL && w->id != id)
        w = w->next;
    return w;
}

static void on_forked(struct pool *p, const struct zygote_event *ev)
{
    pthread_mutex_lock(&p->lock);
    struct pool_worker *w = find_pending(p, ev->control.id);
    if (w == NULL) {
        pool_kill_pidfd(ev->pidfd);
        close(ev->pidfd);
    } else {
        unlink_worker(&p->pending, &p->npending, w);
        w->pidfd = ev->pidfd;
        push(&p->reserved, &p->nreserved, w);
        p->started++;
        pthread_cond_broadcast(&p->changed);
    }
    pthread_mutex_unlock(&p->lock);
}

static void on_ready(struct pool *p, uint32_t landlock_abi)
{
    /* Nobody runs uncaged who was not asked to. */
    if (p->caged && landlock_abi == 0) {
        zygote_failed(p, "the zygote is not in its cage");
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->landlock_abi = (int)landlock_abi;
    p->ready = true;
    p->failures = 0;
    p->backoff_us = 0;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

/* A machine out of processes or memory for the moment. What runs goes on; who waits goes on waiting. */
static void on_fork_failed(struct pool *p, const struct zygote_event *ev)
{
    pthread_mutex_lock(&p->lock);
    struct pool_worker *w = find_pending(p, ev->control.id);
    if (w != NULL)
        unlink_worker(&p->pending, &p->npending, w);
    pthread_mutex_unlock(&p->lock);
    if (w != NULL)
        discard(w);
    p->fork_at_us = channel_now_us() + FORK_PAUSE_US;
}

static void on_control(struct pool *p)
{
    struct zygote_event ev;
    if (!zygote_read(&p->zygote, &ev)) {
        zygote_failed(p, "the zygote ended");
    } else if (ev.control.type == CONTROL_READY) {
        on_ready(p, ev.control.value);
    } else if (ev.control.type == CONTROL_FORKED) {
        on_forked(p, &ev);
    } else if (ev.control.type == CONTROL_EXPELLED) {
        pthread_mutex_lock(&p->lock);
        p->expelled++;
        pthread_mutex_unlock(&p->lock);
    } else if (ev.control.type == CONTROL_FAILED) {
        zygote_failed(p, ev.text);
    } else if (ev.control.type == CONTROL_FORK_FAILED) {
        on_fork_failed(p, &ev);
    } else {
        zygote_failed(p, "the zygote talks nonsense");
    }
}

/* How many forks to ask for now: the spare ones, and one for each caller that waits and may have it. */
static int forks_wanted(const struct pool *p)
{
    int room = p->workers_max - p->nbusy, want = p->nwaiting < room ? p->nwaiting : room;
    want = (want > 0 ? want : 0) + SPARE - p->nreserved - p->npending;
    return p->ready && !p->stopping && want > 0 ? want : 0;
}

static void ask_forks(struct pool *p)
{
    for (;;) {
        pthread_mutex_lock(&p->lock);
        uint32_t id = p->next_id++;
        bool want = forks_wanted(p) > 0;
        pthread_mutex_unlock(&p->lock);
        struct pool_worker *w = want ? calloc(1, sizeof *w) : NULL;
        if (w == NULL)
            return;
        w->id = id;
        w->pidfd = -1;
        w->fresh = true;
        w->sock = zygote_fork(&p->zygote, id);
        if (w->sock < 0) {
            int error = errno;
            free(w);
            /* Out of descriptors for the moment, or a zygote that does not listen any more. */
            if (error == EMFILE || error == ENFILE)
                p->fork_at_us = channel_now_us() + FORK_PAUSE_US;
            else
                zygote_failed(p, "the zygote does not listen");
            return;
        }
        pthread_mutex_lock(&p->lock);
        push(&p->pending, &p->npending, w);
        pthread_mutex_unlock(&p->lock);
    }
}

/* Ends idle workers whose time is up. Returns when the next one's is (of os's clock), or INT64_MAX. */
static int64_t expire_idle(struct pool *p, int64_t now_us)
{
    int64_t next = INT64_MAX;
    struct pool_worker *gone = NULL;
    int ngone = 0;
    pthread_mutex_lock(&p->lock);
    for (struct pool_worker *w = p->idle, *following; w != NULL; w = following) {
        following = w->next;
        int64_t until = w->idle_since_us + p->idle_us;
        if (until <= now_us) {
            unlink_worker(&p->idle, &p->nidle, w);
            push(&gone, &ngone, w);
        } else if (until < next) {
            next = until;
        }
    }
    pthread_mutex_unlock(&p->lock);
    discard_list(&gone, &ngone);
    return next;
}

/* Milliseconds until the keeper has something to do by itself; -1: nothing. */
static int keeper_sleep_ms(struct pool *p, int64_t idle_in_us)
{
    int64_t in_us = idle_in_us;
    if (p->zygote.pid == 0) {
        int64_t left = p->retry_at_us - channel_now_us();
        in_us = left < in_us ? left : in_us;
    } else if (!p->ready) {
        int64_t left = p->start_deadline_us - channel_now_us();
        in_us = left < in_us ? left : in_us;
    }
    if (p->fork_at_us != 0) {
        int64_t left = p->fork_at_us - channel_now_us();
        in_us = left < in_us ? left : in_us;
    }
    if (in_us == INT64_MAX)
        return -1;
    return in_us <= 0 ? 0 : in_us > 60000000 ? 60000 : (int)((in_us + 999) / 1000);
}

static void *keeper_main(void *arg)
{
    struct pool *p = arg;
    for (;;) {
        pthread_mutex_lock(&p->lock);
        bool closing = p->closing;
        bool late = p->zygote.pid != 0 && !p->ready && channel_now_us() >= p->start_deadline_us;
        pthread_mutex_unlock(&p->lock);
        if (closing)
            break;
        if (late)
            zygote_failed(p, "the zygote did not get ready");
        if (p->zygote.pid == 0 && channel_now_us() >= p->retry_at_us)
            start_zygote(p);
        if (channel_now_us() >= p->fork_at_us)
            p->fork_at_us = 0;
        if (p->zygote.pid != 0 && p->fork_at_us == 0)
            ask_forks(p);
        int64_t now_us = os_monotonic_us(p->os), next_us = expire_idle(p, now_us);
        struct pollfd f[2] = {{.fd = p->wake, .events = POLLIN}, {.fd = p->zygote.control, .events = POLLIN}};
        int n = poll(f, 2, keeper_sleep_ms(p, next_us == INT64_MAX ? INT64_MAX : next_us - now_us));
        if (n <= 0)
            continue;
        if (f[0].revents != 0) {
            uint64_t count;
            ssize_t got = read(p->wake, &count, sizeof count);
            (void)got;
        }
        if (f[1].revents != 0)
            on_control(p);
    }
    zygote_end(&p->zygote);
    return NULL;
}

/* ---- takers ---- */

static bool dead_and_gone(struct pool *p, struct pool_worker **list, int *count, struct pool_worker *w)
{
    if (!has_ended(w))
        return false;
    unlink_worker(list, count, w);
    discard(w);
    p->died++;
    return true;
}

static struct pool_worker *take_idle(struct pool *p, struct str user)
{
    for (struct pool_worker *w = p->idle, *next; w != NULL; w = next) {
        next = w->next;
        if (!str_eq(str_n(w->user, w->user_len), user) || dead_and_gone(p, &p->idle, &p->nidle, w))
            continue;
        unlink_worker(&p->idle, &p->nidle, w);
        return w;
    }
    return NULL;
}

static void evict_oldest_idle(struct pool *p)
{
    struct pool_worker *oldest = p->idle;
    while (oldest != NULL && oldest->next != NULL)
        oldest = oldest->next;
    if (oldest != NULL) {
        unlink_worker(&p->idle, &p->nidle, oldest);
        discard(oldest);
    }
}

static struct pool_worker *take_reserved(struct pool *p, struct str user)
{
    if (p->nbusy >= p->workers_max)
        return NULL;
    while (p->reserved != NULL) {
        struct pool_worker *w = p->reserved;
        if (dead_and_gone(p, &p->reserved, &p->nreserved, w))
            continue;
        w->user = malloc(user.len + 1);
        if (w->user == NULL)
            return NULL;
        memcpy(w->user, user.ptr, user.len);
        w->user_len = user.len;
        unlink_worker(&p->reserved, &p->nreserved, w);
        while (p->nidle > 0 && p->nbusy + p->nidle >= p->workers_max)
            evict_oldest_idle(p);
        return w;
    }
    return NULL;
}

static void wait_changed(struct pool *p, int64_t for_us)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += for_us / 1000000;
    t.tv_nsec += for_us % 1000000 * 1000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(&p->changed, &p->lock, &t);
}

/* Why this caller cannot go on waiting, or ERR_OK. */
static enum err refusal(struct pool *p, int64_t deadline_us, const _Atomic int *cancelled, struct errctx *ec)
{
    if (p->stopping)
        return err_set(ec, ERR_UNAVAILABLE, "shutting down");
    if (cancelled != NULL && *cancelled != 0)
        return err_set(ec, ERR_TIMEOUT, "canceling statement due to user request");
    if (deadline_us != CHANNEL_NO_DEADLINE && channel_now_us() >= deadline_us)
        return err_set(ec, ERR_TIMEOUT, "canceling statement due to statement timeout");
    if (!p->ready && p->failures >= FAILURES_MAX) {
        err_set(ec, ERR_UNAVAILABLE, "queries cannot be run at the moment");
        snprintf(ec->internal, sizeof ec->internal, "zygote: %s", p->why);
        return ec->code;
    }
    return ERR_OK;
}

enum err pool_take(struct pool *p, struct str user, int64_t deadline_us, const _Atomic int *cancelled,
    struct pool_worker **ret, struct errctx *ec)
{
    struct waiter me = {NULL};
    struct pool_worker *w = NULL;
    pthread_mutex_lock(&p->lock);
    *p->last = &me;
    p->last = &me.next;
    p->nwaiting++;
    enum err e;
    for (;;) {
        e = refusal(p, deadline_us, cancelled, ec);
        if (e != ERR_OK)
            break;
        w = take_idle(p, user);
        if (w == NULL && p->first == &me)
            w = take_reserved(p, user);
        if (w != NULL)
            break;
        wake_keeper(p);
        int64_t us = deadline_us == CHANNEL_NO_DEADLINE ? 1000000 : deadline_us - channel_now_us();
        us = cancelled != NULL && us > CANCEL_POLL_US ? CANCEL_POLL_US : us;
        wait_changed(p, us > 1000000 ? 1000000 : us > 0 ? us : 0);
    }
    struct waiter **at = &p->first;
    while (*at != &me)
        at = &(*at)->next;
    *at = me.next;
    if (p->last == &me.next)
        p->last = at;
    p->nwaiting--;
    if (w != NULL) {
        push(&p->busy, &p->nbusy, w);
        p->runs++;
    }
    /* The next in line may be served by what is left; the keeper replaces what was taken. */
    pthread_cond_broadcast(&p->changed);
    bool fork = forks_wanted(p) > 0;
    pthread_mutex_unlock(&p->lock);
    if (fork)
        wake_keeper(p);
    if (w != NULL)
        *ret = w;
    return e;
}

void pool_give(struct pool *p, struct pool_worker *w, enum pool_fate fate)
{
    pthread_mutex_lock(&p->lock);
    unlink_worker(&p->busy, &p->nbusy, w);
    p->died += fate == POOL_DIED;
    p->killed += fate == POOL_KILL;
    bool keep = fate == POOL_REUSE && !p->stopping && p->idle_us > 0;
    bool first_idle = p->idle == NULL;
    if (keep) {
        w->fresh = false;
        w->idle_since_us = os_monotonic_us(p->os);
        push(&p->idle, &p->nidle, w);
    }
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    if (!keep)
        discard(w);
    else if (first_idle)
        wake_keeper(p); /* to set its clock */
}

void pool_stop(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    for (struct pool_worker *w = p->busy; w != NULL; w = w->next)
        pool_kill_pidfd(w->pidfd);
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

void pool_stats(struct pool *p, struct analytic_stats *ret)
{
    pthread_mutex_lock(&p->lock);
    *ret = (struct analytic_stats){.idle = p->nidle,
        .busy = p->nbusy,
        .reserved = p->nreserved,
        .started = p->started,
        .died = p->died,
        .killed = p->killed,
        .runs = p->runs,
        .waiting = (uint64_t)p->nwaiting,
        .expelled = p->expelled,
        .landlock_abi = p->landlock_abi};
    pthread_mutex_unlock(&p->lock);
}

static void release(struct pool *p)
{
    discard_list(&p->pending, &p->npending);
    discard_list(&p->reserved, &p->nreserved);
    discard_list(&p->idle, &p->nidle);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    close(p->wake);
    free(p);
}

void pool_close(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    while (p->nbusy > 0 || p->nwaiting > 0)
        pthread_cond_wait(&p->changed, &p->lock);
    p->closing = true;
    pthread_mutex_unlock(&p->lock);
    wake_keeper(p);
    pthread_join(p->keeper, NULL);
    release(p);
}

static enum err start_keeper(struct pool *p, struct errctx *ec)
{
    sigset_t all, old;
    sigfillset(&all);
    /* The host's signals are for its own threads. */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int e = pthread_create(&p->keeper, NULL, keeper_main, p);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (e != 0)
        return err_internal(ec, ERR_UNAVAILABLE, "pthread_create: %s", strerror(e));
    pthread_mutex_lock(&p->lock);
    while (!p->ready && p->failures == 0)
        pthread_cond_wait(&p->changed, &p->lock);
    bool ready = p->ready;
    if (!ready) {
        err_set(ec, ERR_UNAVAILABLE, "the workers that run queries do not start");
        snprintf(ec->internal, sizeof ec->internal, "zygote: %s", p->why);
    }
    pthread_mutex_unlock(&p->lock);
    if (ready)
        return ERR_OK;
    pthread_mutex_lock(&p->lock);
    p->closing = true;
    pthread_mutex_unlock(&p->lock);
    wake_keeper(p);
    pthread_join(p->keeper, NULL);
    return ERR_UNAVAILABLE;
}

enum err pool_open(const struct analytic_config *cfg, struct pool **ret, struct errctx *ec)
{
    struct pool *p = calloc(1, sizeof *p);
    if (p == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "pool");
    *p = (struct pool){.os = cfg->os != NULL ? cfg->os : os_posix(),
        .memory_bytes_max = cfg->memory_bytes_max > 0 ? cfg->memory_bytes_max : (size_t)512 << 20,
        .workers_max = cfg->workers_max > 0 ? cfg->workers_max : 1,
        .caged = !cfg->uncaged,
        .idle_us = (int64_t)cfg->idle_worker_ms * 1000,
        .zygote = ZYGOTE_NONE};
    p->last = &p->first;
    p->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->wake < 0) {
        free(p);
        return err_internal(ec, ERR_UNAVAILABLE, "eventfd: %s", strerror(errno));
    }
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, &attr);
    pthread_condattr_destroy(&attr);
    enum err e = zygote_find(cfg->worker_path, p->path, sizeof p->path)
                     ? start_keeper(p, ec)
                     : err_internal(ec, ERR_UNAVAILABLE, "there is no kalamdb-worker to start");
    if (e != ERR_OK) {
        release(p);
        return e;
    }
    *ret = p;
    return ERR_OK;
}
