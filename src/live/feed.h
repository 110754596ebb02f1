/* The registry: feeds by user number, in shards with one lock each, and what a subscription is at rest.
 *
 * Locks, in the order in which they may be taken:
 *
 *   stripe   one of STRIPES, in turn: `gone`, `busy`, and every wake that does not
 *            come from a commit. Held by the end of an operation (barrier, job) and by live_unsubscribe, so
 *            that the two cannot miss each other.
 *
 *   shard    one of SHARDS, by user number: its feeds, their rings, the positions of their subscriptions.
 *
 *   l->lock  open sessions, limbo, listeners, counts of operations; leaf.
 *
 * Wakes are called under a stripe or shard lock: that is why none is running once live_unsubscribe has
 * returned. */
#ifndef KALAMDB_LIVE_FEED_H
#define KALAMDB_LIVE_FEED_H

#include "live/ring.h"
#include <pthread.h>

#define SHARDS 64
#define STRIPES 64

struct feed {
    struct feed *next; /* hash chain */
    uint64_t user_no;
    struct live_sub *subs;
    uint32_t nsubs;
    bool retired; /* replaced by a feed of another name; gone when its subscriptions are */
    uint8_t user_len, name_len;
    struct ring ring;
    char bytes[]; /* user id, name */
};
static inline struct str feed_user(const struct feed *f)
{
    return str_n(f->bytes, f->user_len);
}
static inline struct str feed_name(const struct feed *f)
{
    return str_n(f->bytes + f->user_len, f->name_len);
}

struct shard {
    pthread_mutex_t lock;
    struct feed **buckets;
    size_t nbuckets, nfeeds;
};

/* Who may touch the subscription's session: next() in the last two, the operation under way in the first. */
enum phase { PHASE_WAITING, PHASE_CATCHUP, PHASE_LIVE };

struct live_sub {
    struct live *live;
    struct feed *feed;              /* NULL until registered; then constant */
    struct live_sub *next, **pprev; /* of the feed (shard lock), or of limbo (l->lock) */
    struct catchup *catchup;        /* NULL at rest; whose it is, `phase` says */
    void (*wake)(void *arg);
    void *arg;
    uint64_t index;               /* shard lock: place in the ring */
    uint64_t pos;                 /* shard lock: all up to this _seq has been given, or concerns others */
    uint32_t within;              /* shard lock: changes already taken at `index` */
    _Atomic int code;             /* enum err: not OK once closed */
    _Atomic uint8_t phase, armed; /* armed: the next event calls wake */
    _Atomic uint8_t
        parked;     /* the store refused a barrier: wait for its reset, which comes before it writes again */
    bool following; /* shard lock: no session, the ring says what comes */
    bool behind;    /* shard lock: storage may know more than was published (store reset) */
    bool missed_conversations; /* shard lock: some conversation events can no longer come from the ring */
    bool busy, gone;           /* stripe lock: an operation is under way; unsubscribed meanwhile */
    bool listens;              /* arg is a struct listener */
    uint8_t stripe;            /* constant */
    uint8_t conversation_len;  /* 0: all */
    char conversation[];
};
static inline struct str sub_filter(const struct live_sub *s)
{
    return s->conversation_len > 0 ? str_n(s->conversation, s->conversation_len) : STR_NULL;
}

struct live {
    struct store *store;
    struct analytic *analytic;
    const struct os *os;
    size_t ring_bytes_max;
    struct shard shards[SHARDS];
    pthread_mutex_t stripes[STRIPES];
    _Atomic uint32_t next_stripe; /* in turn and not by address: the simulator's seeds run the same course */

    pthread_mutex_t lock;
    pthread_cond_t idle;    /* operations became 0 */
    size_t operations;      /* barriers and jobs under way */
    struct catchup *open;   /* all, for the reaper */
    struct live_sub *limbo; /* subscriptions of no feed */
    struct listener *listeners;
    _Atomic bool closing;
    _Atomic int64_t reaped_us;
    _Atomic uint64_t signals; /* numbers given */

    _Atomic uint64_t subscriptions, feeds, ring_bytes, catchups, replays, delivered;
};

struct shard *live_shard(struct live *l, uint64_t user_no);
pthread_mutex_t *live_stripe(struct live *l, const struct live_sub *sub);
/* Calls wake if the subscriber waits for it. Under a stripe or shard lock. */
void sub_wake(struct live_sub *sub);
/* No more events but CLOSED, with `code` as clients may see it. Any thread; then sub_wake. */
void sub_close(struct live_sub *sub, enum err code);

/* Under the shard's lock. Finds or makes the feed of a user whose history is called `name`; NULL: out of
 * memory. */
struct feed *feed_enter(struct live *l, struct shard *sh, uint64_t user_no, struct str user, struct str name);
void feed_add(struct feed *f, struct live_sub *sub);
/* Takes the subscription out; frees the feed with its last one. */
void feed_leave(struct live *l, struct shard *sh, struct live_sub *sub);
/* Moves the subscription to the ring's tail, noting conversation events that it skips. */
void feed_rejoin(struct live *l, struct live_sub *sub);
/* One on in the ring, with the bytes accounted for. */
void feed_advance(struct live *l, struct live_sub *sub);

/* What the store calls. */
bool feed_wanted(void *live, uint64_t user_no);
void feed_committed(void *live, struct commit_event *ev);
void feed_reset(void *live);

enum err registry_init(struct live *l) CHECKED;
/* Frees feeds and the subscriptions in them. */
void registry_release(struct live *l);
void limbo_add(struct live *l, struct live_sub *sub);
void limbo_remove(struct live *l, struct live_sub *sub);

#endif
