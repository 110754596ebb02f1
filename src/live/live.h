/* Live: who follows which user, and how a follower gets every change once, in order, at its own pace.
 *
 * A feed (one per followed user) keeps a short ring of recent changes; a subscription has a position in the
 * user's _seq order. While the ring covers the position, changes are shared from it; when it does not
 * (replay, a slow reader), a catch-up session reads storage under one durable snapshot [position, its seq]
 * and then returns to the ring. Registration and session snapshots are taken on the committer
 * (store_barrier), so nothing can fall between.
 *
 * Threading: live_next on one thread at a time per subscription; the store's listener on the committer; wake
 * from any thread. Ownership: a change given out is the caller's reference. Implements the live half of
 * kalamdb.h: the functions here have the semantics of their namesakes there. */
#ifndef KALAMDB_LIVE_LIVE_H
#define KALAMDB_LIVE_LIVE_H

#include "store/store.h"
#include "store/stream.h"

struct live;
struct live_sub;
struct live_change;

/* `ring_bytes_max` bounds the recent changes kept in memory per followed user. `analytic` reads cold rows. */
enum err live_open(struct store *store, struct analytic *analytic, size_t ring_bytes_max, struct live **ret,
    struct errctx *ec) CHECKED;
/* Shutdown: every subscription's next event is CLOSED with UNAVAILABLE; listeners have been told when this
 * returns, nothing holds a snapshot, and the store calls us no more. Before store_close and analytic_close;
 * not from a callback. */
void live_close_all(struct live *l);
/* After live_close_all: frees the registry and all subscriptions that are left. */
void live_close(struct live *l);

/* Strings are copied. As kalamdb_subscribe. */
struct live_subscribe {
    struct str user_id;         /* whose changes; authorised and valid */
    struct str conversation_id; /* ptr NULL: all; at most LIVE_CONVERSATION_BYTES_MAX */
    bool has_last_seq, has_last_msg_id;
    uint64_t last_seq;
    int64_t last_msg_id;
    struct str feed; /* empty: not given */
    void (*wake)(void *arg);
    void *arg;
};
#define LIVE_CONVERSATION_BYTES_MAX 255

enum live_event_kind {
    LIVE_PENDING,
    LIVE_ACK,
    LIVE_CHANGE,
    LIVE_REPLAY_COMPLETE,
    LIVE_CONVERSATION,
    LIVE_CLOSED,
    LIVE_APPEND,
    LIVE_SIGNAL
};
struct live_event {
    enum live_event_kind kind;
    enum change_op op;          /* LIVE_CHANGE */
    uint64_t seq;               /* ACK, CHANGE, REPLAY_COMPLETE; of a SIGNAL: its number, grows with time */
    bool resync;                /* ACK */
    struct str feed;            /* of all but PENDING and CLOSED; lives as long as the subscription */
    struct live_change *change; /* CHANGE, CONVERSATION, APPEND, SIGNAL */
    uint64_t message_count;     /* REPLAY_COMPLETE: changes given since the ack */
    int64_t last_msg_id;        /* REPLAY_COMPLETE: of the last of them; 0: none */
    enum err code;              /* CLOSED */
};

/* INVALID_REQUEST (a conversation id too long), UNAVAILABLE (closing), NO_MEMORY. */
enum err live_subscribe(
    struct live *l, const struct live_subscribe *options, struct live_sub **ret, struct errctx *ec) CHECKED;
enum live_event_kind live_next(struct live_sub *sub, struct live_event *ret);
void live_unsubscribe(struct live_sub *sub);
/* That user's history is over: who follows it gets CLOSED with NOT_FOUND, and may ask again. Any thread. */
void live_close_user(struct live *l, uint64_t user_no);

/* A subscription with a thread of its own that calls on_event, ended by live_unsubscribe; a change lives
 * until on_event has returned. `state` is copied; on_event gets the copy. wake and arg of the options are
 * ignored. */
enum err live_listen(struct live *l, const struct live_subscribe *options,
    void (*on_event)(void *state, const struct live_event *ev), const void *state, size_t state_bytes,
    struct live_sub **ret, struct errctx *ec) CHECKED;

/* Gives `json` to everybody who follows one of the users and sees that conversation, unless it is lost on the
 * way: never stored, and not for those who have to catch up. Any thread. */
void live_signal(
    struct live *l, const uint64_t *user_nos, size_t n, struct str conversation_id, struct str json);

/* ptr NULL when memory ran out or the row cannot be read; the next call tries again. Any thread. */
struct str live_change_json(struct live_change *c);
void live_change_ref(struct live_change *c);
void live_change_unref(struct live_change *c);

struct live_stats {
    uint64_t subscriptions, feeds, ring_bytes, catchups, replays, delivered;
};
void live_stats(struct live *l, struct live_stats *ret);

#endif
