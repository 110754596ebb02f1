#include "live/feed.h"
#include "live/catchup.h"
#include <stdlib.h>

#define BUCKETS_MIN 16

static uint64_t mix(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdu;
    x ^= x >> 33;
    return x;
}

struct shard *live_shard(struct live *l, uint64_t user_no)
{
    return &l->shards[mix(user_no) % SHARDS];
}

pthread_mutex_t *live_stripe(struct live *l, const struct live_sub *sub)
{
    return &l->stripes[sub->stripe];
}

void sub_wake(struct live_sub *sub)
{
    if (atomic_exchange(&sub->armed, 0) != 0 && sub->wake != NULL)
        sub->wake(sub->arg);
}

void sub_close(struct live_sub *sub, enum err code)
{
    int ok = ERR_OK;
    if (code == ERR_OUTCOME_UNKNOWN)
        code = ERR_UNAVAILABLE;
    else if (code > ERR_OUTCOME_UNKNOWN)
        code = ERR_INTERNAL;
    atomic_compare_exchange_strong(&sub->code, &ok, (int)code);
}

enum err registry_init(struct live *l)
{
    for (int i = 0; i < STRIPES; i++)
        pthread_mutex_init(&l->stripes[i], NULL);
    for (int i = 0; i < SHARDS; i++) {
        struct shard *sh = &l->shards[i];
        pthread_mutex_init(&sh->lock, NULL);
        sh->buckets = calloc(BUCKETS_MIN, sizeof *sh->buckets);
        if (sh->buckets == NULL)
            return ERR_NO_MEMORY;
        sh->nbuckets = BUCKETS_MIN;
    }
    return ERR_OK;
}

static void list_add(struct live_sub **first, struct live_sub *sub)
{
    sub->next = *first;
    sub->pprev = first;
    if (sub->next != NULL)
        sub->next->pprev = &sub->next;
    *first = sub;
}

static void list_remove(struct live_sub *sub)
{
    *sub->pprev = sub->next;
    if (sub->next != NULL)
        sub->next->pprev = sub->pprev;
}

void limbo_add(struct live *l, struct live_sub *sub)
{
    pthread_mutex_lock(&l->lock);
    list_add(&l->limbo, sub);
    pthread_mutex_unlock(&l->lock);
}

void limbo_remove(struct live *l, struct live_sub *sub)
{
    pthread_mutex_lock(&l->lock);
    list_remove(sub);
    pthread_mutex_unlock(&l->lock);
}

static struct feed **bucket(struct shard *sh, uint64_t user_no)
{
    return &sh->buckets[mix(user_no) / SHARDS % sh->nbuckets];
}

static struct feed *find(struct shard *sh, uint64_t user_no)
{
    struct feed *f = *bucket(sh, user_no);
    while (f != NULL && (f->user_no != user_no || f->retired))
        f = f->next;
    return f;
}

/* Growing is a matter of speed only: without memory the chains get longer. */
static void grow(struct shard *sh)
{
    size_t n = sh->nbuckets * 2;
    struct feed **buckets = calloc(n, sizeof *buckets);
    if (buckets == NULL)
        return;
    for (size_t i = 0; i < sh->nbuckets; i++)
        for (struct feed *f = sh->buckets[i], *next; f != NULL; f = next) {
            next = f->next;
            struct feed **to = &buckets[mix(f->user_no) / SHARDS % n];
            f->next = *to;
            *to = f;
        }
    free(sh->buckets);
    sh->buckets = buckets;
    sh->nbuckets = n;
}

/* The user's history was replaced: those who follow the old one have to ask again. */
static void retire(struct feed *f, enum err code)
{
    f->retired = true;
    for (struct live_sub *s = f->subs; s != NULL; s = s->next) {
        sub_close(s, code);
        sub_wake(s);
    }
}

void live_close_user(struct live *l, uint64_t user_no)
{
    struct shard *sh = live_shard(l, user_no);
    pthread_mutex_lock(&sh->lock);
    struct feed *f = find(sh, user_no);
    if (f != NULL)
        retire(f, ERR_NOT_FOUND);
    pthread_mutex_unlock(&sh->lock);
}

struct feed *feed_enter(struct live *l, struct shard *sh, uint64_t user_no, struct str user, struct str name)
{
    struct feed *f = find(sh, user_no);
    if (f != NULL && str_eq(feed_name(f), name))
        return f;
    if (user.len > UINT8_MAX || name.len > UINT8_MAX)
        return NULL;
    struct feed *fresh = calloc(1, sizeof *fresh + user.len + name.len);
    if (fresh == NULL)
        return NULL;
    fresh->user_no = user_no;
    fresh->user_len = (uint8_t)user.len;
    fresh->name_len = (uint8_t)name.len;
    memcpy(fresh->bytes, user.ptr, user.len);
    memcpy(fresh->bytes + user.len, name.ptr, name.len);
    if (f != NULL)
        retire(f, ERR_UNAVAILABLE);
    l->feeds++;
    if (++sh->nfeeds > sh->nbuckets)
        grow(sh);
    struct feed **link = bucket(sh, user_no);
    fresh->next = *link;
    *link = fresh;
    return fresh;
}

void feed_add(struct feed *f, struct live_sub *sub)
{
    sub->feed = f;
    sub->index = ring_tail(&f->ring);
    list_add(&f->subs, sub);
    f->nsubs++;
}

/* Ring operations go through here, so that the total of their bytes is known. */
static void account(struct live *l, const struct feed *f, size_t before)
{
    if (f->ring.bytes != before)
        l->ring_bytes += f->ring.bytes - before;
}

void feed_leave(struct live *l, struct shard *sh, struct live_sub *sub)
{
    struct feed *f = sub->feed;
    size_t before = f->ring.bytes;
    ring_leave(&f->ring, sub->index);
    account(l, f, before);
    list_remove(sub);
    if (--f->nsubs > 0)
        return;
    before = f->ring.bytes;
    ring_drop(&f->ring);
    account(l, f, before);
    struct feed **link = bucket(sh, f->user_no);
    while (*link != f)
        link = &(*link)->next;
    *link = f->next;
    sh->nfeeds--;
    l->feeds--;
    free(f);
}

void feed_rejoin(struct live *l, struct live_sub *sub)
{
    struct feed *f = sub->feed;
    size_t before = f->ring.bytes;
    sub->missed_conversations |= ring_misses_conversations(&f->ring, sub->index);
    ring_leave(&f->ring, sub->index);
    account(l, f, before);
    sub->index = ring_tail(&f->ring);
    sub->within = 0;
    sub->behind = false;
}

void feed_advance(struct live *l, struct live_sub *sub)
{
    struct feed *f = sub->feed;
    size_t before = f->ring.bytes;
    ring_advance(&f->ring, sub->index);
    account(l, f, before);
    sub->index++;
    sub->within = 0;
}

bool feed_wanted(void *live, uint64_t user_no)
{
    struct shard *sh = live_shard(live, user_no);
    pthread_mutex_lock(&sh->lock);
    bool wanted = find(sh, user_no) != NULL;
    pthread_mutex_unlock(&sh->lock);
    return wanted;
}

/* May the subscription pass this batch without being told? It has read all before, and nothing here is its
 * own. */
static bool passes(const struct live_sub *sub, const struct batch *b)
{
    struct str filter = sub_filter(sub);
    if (!sub->following || sub->behind || filter.ptr == NULL || changes_match(b, filter))
        return false;
    return b->first_seq == 0 || b->first_seq == sub->pos + 1;
}

static void publish(struct live *l, struct feed *f, struct batch *b)
{
    uint64_t tail = ring_tail(&f->ring);
    uint32_t readers = 0;
    for (struct live_sub *s = f->subs; s != NULL; s = s->next) {
        if (s->index != tail)
            continue;
        if (b != NULL && passes(s, b)) {
            s->index = tail + 1;
            s->pos = b->last_seq > 0 ? b->last_seq : s->pos;
        } else {
            readers++;
        }
    }
    size_t before = f->ring.bytes;
    if (b == NULL || !ring_push(&f->ring, b, readers)) {
        if (b != NULL)
            changes_unref(b);
        ring_drop(&f->ring);
    }
    ring_trim(&f->ring, l->ring_bytes_max);
    account(l, f, before);
    for (struct live_sub *s = f->subs; s != NULL; s = s->next)
        if (s->following && s->index < ring_tail(&f->ring))
            sub_wake(s);
}

void feed_committed(void *live, struct commit_event *ev)
{
    struct live *l = live;
    struct shard *sh = live_shard(l, ev->user_no);
    catchups_reap(l);
    struct batch *b = changes_of_event(ev);
    pthread_mutex_lock(&sh->lock);
    struct feed *f = find(sh, ev->user_no);
    if (f != NULL)
        publish(l, f, b);
    else if (b != NULL)
        changes_unref(b);
    pthread_mutex_unlock(&sh->lock);
}

void live_signal(
    struct live *l, const uint64_t *user_nos, size_t n, struct str conversation_id, struct str json)
{
    struct batch *b = changes_of_signal(++l->signals, conversation_id, json);
    if (b == NULL)
        return;
    for (size_t i = 0; i < n; i++) {
        struct shard *sh = live_shard(l, user_nos[i]);
        pthread_mutex_lock(&sh->lock);
        struct feed *f = find(sh, user_nos[i]);
        if (f != NULL) {
            changes_ref(b);
            publish(l, f, b);
        }
        pthread_mutex_unlock(&sh->lock);
    }
    changes_unref(b);
}

/* What was published stays true, so rings stay; but the store may have kept a write whose outcome it did not
 * know and never published: everybody looks into storage once. */
void feed_reset(void *live)
{
    struct live *l = live;
    for (int i = 0; i < SHARDS; i++) {
        struct shard *sh = &l->shards[i];
        pthread_mutex_lock(&sh->lock);
        for (size_t k = 0; k < sh->nbuckets; k++)
            for (struct feed *f = sh->buckets[k]; f != NULL; f = f->next)
                for (struct live_sub *s = f->subs; s != NULL; s = s->next) {
                    s->behind = s->missed_conversations = true;
                    if (atomic_exchange(&s->parked, 0) != 0 || s->following)
                        sub_wake(s);
                }
        pthread_mutex_unlock(&sh->lock);
    }
}

void registry_release(struct live *l)
{
    for (int i = 0; i < SHARDS; i++) {
        struct shard *sh = &l->shards[i];
        for (size_t k = 0; k < sh->nbuckets; k++)
            while (sh->buckets[k] != NULL)
                for (struct live_sub *s = sh->buckets[k]->subs, *next; s != NULL; s = next) {
                    next = s->next; /* the feed is freed with its last one, and then the chain moves on */
                    feed_leave(l, sh, s);
                    sub_free(s);
                }
        free(sh->buckets);
        pthread_mutex_destroy(&sh->lock);
    }
    while (l->limbo != NULL) {
        struct live_sub *s = l->limbo;
        limbo_remove(l, s);
        sub_free(s);
    }
    for (int i = 0; i < STRIPES; i++)
        pthread_mutex_destroy(&l->stripes[i]);
}
