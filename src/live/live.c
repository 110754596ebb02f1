#include "live/live.h"
#include "live/catchup.h"
#include "live/listen.h"
#include <stdlib.h>

enum err live_open(struct store *store, struct analytic *analytic, size_t ring_bytes_max, struct live **ret,
    struct errctx *ec)
{
    struct live *l = calloc(1, sizeof *l);
    if (l == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "live: registry");
    l->store = store;
    l->analytic = analytic;
    l->os = os_posix();
    l->ring_bytes_max = ring_bytes_max;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->idle, NULL);
    if (registry_init(l) != ERR_OK) {
        registry_release(l);
        free(l);
        return err_internal(ec, ERR_NO_MEMORY, "live: registry");
    }
    store_set_listener(
        store, &(struct store_listener){
                   .wanted = feed_wanted, .committed = feed_committed, .reset = feed_reset, .arg = l});
    *ret = l;
    return ERR_OK;
}

static void wake_all(struct live *l)
{
    for (int i = 0; i < SHARDS; i++) {
        struct shard *sh = &l->shards[i];
        pthread_mutex_lock(&sh->lock);
        for (size_t k = 0; k < sh->nbuckets; k++)
            for (struct feed *f = sh->buckets[k]; f != NULL; f = f->next)
                for (struct live_sub *s = f->subs; s != NULL; s = s->next)
                    sub_wake(s);
        pthread_mutex_unlock(&sh->lock);
    }
}

void live_close_all(struct live *l)
{
    pthread_mutex_lock(&l->lock);
    l->closing = true;
    for (struct catchup *s = l->open; s != NULL; s = s->next)
        analytic_cancel(&s->cancel);
    pthread_mutex_unlock(&l->lock);
    wake_all(l);
    listeners_join(l);
    pthread_mutex_lock(&l->lock);
    while (l->operations > 0)
        pthread_cond_wait(&l->idle, &l->lock);
    /* Nobody uses a session any more; s->lock is only tried because others take l->lock inside it. */
    for (struct catchup *s = l->open; s != NULL; s = s->next)
        if (pthread_mutex_trylock(&s->lock) == 0) {
            catchup_drop_snapshot(s);
            pthread_mutex_unlock(&s->lock);
        }
    pthread_mutex_unlock(&l->lock);
    store_set_listener(l->store, &(struct store_listener){0});
}

void live_close(struct live *l)
{
    registry_release(l);
    pthread_cond_destroy(&l->idle);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

void live_stats(struct live *l, struct live_stats *ret)
{
    *ret = (struct live_stats){
        .subscriptions = l->subscriptions,
        .feeds = l->feeds,
        .ring_bytes = l->ring_bytes,
        .catchups = l->catchups,
        .replays = l->replays,
        .delivered = l->delivered,
    };
}

void sub_free(struct live_sub *sub)
{
    sub->live->subscriptions--;
    if (sub->catchup != NULL)
        catchup_free(sub->catchup);
    if (sub->listens)
        listener_free(sub->arg);
    free(sub);
}

enum err live_subscribe(
    struct live *l, const struct live_subscribe *o, struct live_sub **ret, struct errctx *ec)
{
    if (o->conversation_id.len > LIVE_CONVERSATION_BYTES_MAX)
        return err_set(ec, ERR_INVALID_REQUEST, "a conversation id has at most 255 bytes");
    if (l->closing)
        return err_set(ec, ERR_UNAVAILABLE, "shutting down");
    struct live_sub *sub = calloc(1, sizeof *sub + o->conversation_id.len);
    if (sub == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "live: subscription");
    sub->live = l;
    sub->wake = o->wake;
    sub->arg = o->arg;
    sub->armed = 1;
    sub->phase = PHASE_WAITING;
    sub->stripe = (uint8_t)(l->next_stripe++ % STRIPES);
    sub->conversation_len = (uint8_t)o->conversation_id.len;
    if (sub->conversation_len > 0)
        memcpy(sub->conversation, o->conversation_id.ptr, o->conversation_id.len);
    l->subscriptions++;
    limbo_add(l, sub);
    enum err e = catchup_begin(sub, o);
    if (e != ERR_OK) {
        limbo_remove(l, sub);
        sub_free(sub);
        return err_internal(ec, e, "live: session");
    }
    *ret = sub;
    return ERR_OK;
}

void live_unsubscribe(struct live_sub *sub)
{
    struct live *l = sub->live;
    if (sub->listens)
        listener_stop(sub->arg);
    pthread_mutex_t *stripe = live_stripe(l, sub);
    pthread_mutex_lock(stripe);
    sub->gone = true;
    bool busy = sub->busy;
    if (busy)
        analytic_cancel(&sub->catchup->cancel);
    if (sub->feed != NULL) {
        struct shard *sh = live_shard(l, sub->feed->user_no);
        pthread_mutex_lock(&sh->lock);
        feed_leave(l, sh, sub);
        pthread_mutex_unlock(&sh->lock);
    } else if (!busy) {
        limbo_remove(l, sub);
    }
    pthread_mutex_unlock(stripe);
    if (!busy)
        sub_free(sub);
}

/* ---- next ---- */

enum taken { TAKEN, NOTHING, LOST };

/* The next change out of the ring. LOST: only storage can go on from sub->pos. */
static enum taken take(struct live_sub *sub, struct live_event *ev)
{
    struct ring *ring = &sub->feed->ring;
    for (;;) {
        if (sub->index < ring->first)
            return LOST;
        struct batch *b = ring_at(ring, sub->index);
        if (b == NULL)
            return sub->behind ? LOST : NOTHING;
        struct live_change *c = &b->changes[sub->within];
        bool numbered = change_numbered(c->op), old = numbered && c->seq <= sub->pos;
        if (numbered && c->seq > sub->pos + 1)
            return LOST; /* a number that nobody published stands in storage */
        struct str filter = sub_filter(sub);
        bool give = !old && (filter.ptr == NULL || str_eq(filter, c->conversation_id));
        if (give) {
            live_change_ref(c);
            *ev = (struct live_event){.kind = live_kind_of(c->op),
                .op = c->op,
                .seq = c->seq,
                .feed = feed_name(sub->feed),
                .change = c};
        }
        if (numbered && !old)
            sub->pos = c->seq;
        if (++sub->within >= b->n)
            feed_advance(sub->live, sub);
        if (give)
            return TAKEN;
    }
}

/* PHASE_LIVE. Leaves it when storage has to help. */
static enum taken follow(struct live_sub *sub, struct live_event *ev)
{
    struct live *l = sub->live;
    struct shard *sh = live_shard(l, sub->feed->user_no);
    pthread_mutex_lock(&sh->lock);
    enum taken t = take(sub, ev);
    if (t == NOTHING)
        sub->armed = 1;
    if (t == LOST)
        sub->following = false;
    pthread_mutex_unlock(&sh->lock);
    if (t == TAKEN)
        l->delivered++;
    if (t == LOST) {
        enum err e = catchup_resume(sub);
        if (e != ERR_OK)
            sub_close(sub, e);
    }
    return t;
}

static enum live_event_kind closed(struct live_sub *sub, struct live_event *ret)
{
    *ret = (struct live_event){.kind = LIVE_CLOSED, .code = (enum err)sub->code};
    return LIVE_CLOSED;
}

static enum live_event_kind pending(struct live_event *ret)
{
    *ret = (struct live_event){.kind = LIVE_PENDING};
    return LIVE_PENDING;
}

enum live_event_kind live_next(struct live_sub *sub, struct live_event *ret)
{
    for (;;) {
        if (sub->live->closing)
            sub_close(sub, ERR_UNAVAILABLE);
        if (sub->code != ERR_OK)
            return closed(sub, ret);
        /* Arm first, look again after: whatever we wait for may have come in between. */
        if (sub->parked || sub->phase == PHASE_WAITING) {
            sub->armed = 1;
            if ((sub->parked || sub->phase == PHASE_WAITING) && sub->code == ERR_OK && !sub->live->closing)
                return pending(ret);
            continue;
        }
        switch ((enum phase)atomic_load(&sub->phase)) {
        case PHASE_CATCHUP:
            switch (catchup_step(sub, ret)) {
            case CATCHUP_GIVEN:
                return ret->kind;
            case CATCHUP_PAUSE:
                if (sub->wake != NULL)
                    sub->wake(sub->arg);
                return pending(ret);
            case CATCHUP_WAIT:
            case CATCHUP_OVER:
                break;
            }
            break;
        default:
            switch (follow(sub, ret)) {
            case TAKEN:
                return ret->kind;
            case NOTHING:
                if (sub->code == ERR_OK && !sub->live->closing)
                    return pending(ret);
                break;
            case LOST:
                break;
            }
        }
    }
}
