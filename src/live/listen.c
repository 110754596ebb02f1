#include "live/listen.h"
#include "live/catchup.h"
#include <stdlib.h>

struct listener {
    struct live *live;
    struct live_sub *sub;
    void (*on_event)(void *state, const struct live_event *ev);
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ready, stop;               /* lock */
    bool joined;                    /* l->lock */
    struct listener *next, **pprev; /* l->lock */
    _Alignas(max_align_t) char state[];
};

static void on_wake(void *arg)
{
    struct listener *li = arg;
    pthread_mutex_lock(&li->lock);
    li->ready = true;
    pthread_cond_signal(&li->changed);
    pthread_mutex_unlock(&li->lock);
}

/* False: stop. */
static bool await(struct listener *li)
{
    pthread_mutex_lock(&li->lock);
    while (!li->ready && !li->stop)
        pthread_cond_wait(&li->changed, &li->lock);
    li->ready = false;
    bool go = !li->stop;
    pthread_mutex_unlock(&li->lock);
    return go;
}

static bool stopped(struct listener *li)
{
    pthread_mutex_lock(&li->lock);
    bool stop = li->stop;
    pthread_mutex_unlock(&li->lock);
    return stop;
}

static void *run(void *arg)
{
    struct listener *li = arg;
    struct live_event ev;
    while (await(li))
        while (!stopped(li) && live_next(li->sub, &ev) != LIVE_PENDING) {
            li->on_event(li->state, &ev);
            if (ev.change != NULL)
                live_change_unref(ev.change);
            if (ev.kind == LIVE_CLOSED)
                return NULL;
        }
    return NULL;
}

static void join(struct listener *li)
{
    pthread_mutex_lock(&li->live->lock);
    bool joined = li->joined;
    li->joined = true;
    pthread_mutex_unlock(&li->live->lock);
    if (!joined)
        pthread_join(li->thread, NULL);
}

void listener_stop(struct listener *li)
{
    pthread_mutex_lock(&li->lock);
    li->stop = true;
    pthread_cond_signal(&li->changed);
    pthread_mutex_unlock(&li->lock);
    join(li);
}

void listener_free(struct listener *li)
{
    pthread_mutex_lock(&li->live->lock);
    *li->pprev = li->next;
    if (li->next != NULL)
        li->next->pprev = li->pprev;
    pthread_mutex_unlock(&li->live->lock);
    pthread_mutex_destroy(&li->lock);
    pthread_cond_destroy(&li->changed);
    free(li);
}

void listeners_join(struct live *l)
{
    /* No call may run beside a close, so nobody adds or removes listeners. */
    for (struct listener *li = l->listeners; li != NULL; li = li->next)
        join(li);
}

enum err live_listen(struct live *l, const struct live_subscribe *options,
    void (*on_event)(void *state, const struct live_event *ev), const void *state, size_t state_bytes,
    struct live_sub **ret, struct errctx *ec)
{
    struct listener *li = calloc(1, sizeof *li + state_bytes);
    if (li == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "live: listener");
    li->live = l;
    li->on_event = on_event;
    memcpy(li->state, state, state_bytes);
    pthread_mutex_init(&li->lock, NULL);
    pthread_cond_init(&li->changed, NULL);
    pthread_mutex_lock(&l->lock);
    li->next = l->listeners;
    li->pprev = &l->listeners;
    if (li->next != NULL)
        li->next->pprev = &li->next;
    l->listeners = li;
    pthread_mutex_unlock(&l->lock);

    struct live_subscribe o = *options;
    o.wake = on_wake;
    o.arg = li;
    enum err e = live_subscribe(l, &o, &li->sub, ec);
    if (e == ERR_OK && pthread_create(&li->thread, NULL, run, li) != 0) {
        live_unsubscribe(li->sub);
        e = err_internal(ec, ERR_UNAVAILABLE, "live: no thread for a listener");
    }
    if (e != ERR_OK) {
        listener_free(li);
        return e;
    }
    li->sub->listens = true;
    *ret = li->sub;
    return ERR_OK;
}
