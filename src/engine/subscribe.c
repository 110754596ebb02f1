/* The live half of kalamdb.h over live.h. A kalamdb_subscription is a live_sub and a kalamdb_change a
 * live_change: a million subscriptions cannot afford a wrapper each, so the handles are cast. */
#include "chat/chat.h"
#include "engine/engine.h"

_Static_assert((int)KALAMDB_EVENT_PENDING == (int)LIVE_PENDING && (int)KALAMDB_EVENT_ACK == (int)LIVE_ACK &&
                   (int)KALAMDB_EVENT_CHANGE == (int)LIVE_CHANGE &&
                   (int)KALAMDB_EVENT_REPLAY_COMPLETE == (int)LIVE_REPLAY_COMPLETE &&
                   (int)KALAMDB_EVENT_CONVERSATION == (int)LIVE_CONVERSATION &&
                   (int)KALAMDB_EVENT_CLOSED == (int)LIVE_CLOSED &&
                   (int)KALAMDB_EVENT_APPEND == (int)LIVE_APPEND &&
                   (int)KALAMDB_EVENT_SIGNAL == (int)LIVE_SIGNAL,
    "events are numbered alike");
_Static_assert((int)KALAMDB_INSERT == (int)CHANGE_INSERT && (int)KALAMDB_UPDATE == (int)CHANGE_UPDATE &&
                   (int)KALAMDB_DELETE == (int)CHANGE_DELETE,
    "operations are numbered alike");

static struct live_sub *sub_of(struct kalamdb_subscription *s)
{
    return (struct live_sub *)(void *)s;
}

static struct live_change *change_of(struct kalamdb_change *c)
{
    return (struct live_change *)(void *)c;
}

static bool conversation_id_valid(struct str id)
{
    return id.len >= 1 && id.len <= CHAT_ID_BYTES_MAX && utf8_valid(id) && memchr(id.ptr, 0, id.len) == NULL;
}

/* Who may follow whom, and is what they ask for well-formed? */
static enum err check(const struct kalamdb_subscribe *o, struct live_subscribe *ret, struct errctx *ec)
{
    struct str caller = engine_str(o->caller.user_id), user = engine_str(o->user_id);
    if (user.ptr == NULL)
        user = caller;
    if (o->caller.role == KALAMDB_USER && !str_eq(user, caller))
        return err_set(ec, ERR_FORBIDDEN, "another user's changes cannot be followed");
    if (!user_id_valid(user))
        return err_set(ec, ERR_INVALID_REQUEST, "invalid user id");
    struct str conversation = engine_str(o->conversation_id);
    if (conversation.ptr != NULL && !conversation_id_valid(conversation))
        return err_set(ec, ERR_INVALID_REQUEST, "a conversation id has 1 to 255 bytes of UTF-8");
    *ret = (struct live_subscribe){
        .user_id = user,
        .conversation_id = conversation,
        .has_last_seq = o->has_last_seq,
        .has_last_msg_id = o->has_last_msg_id,
        .last_seq = o->last_seq,
        .last_msg_id = o->last_msg_id,
        .feed = engine_str(o->feed),
        .wake = o->wake,
        .arg = o->arg,
    };
    return ERR_OK;
}

kalamdb_code kalamdb_subscribe(struct kalamdb *db, const struct kalamdb_subscribe *options,
    struct kalamdb_subscription **ret, struct kalamdb_error *error)
{
    struct errctx ec;
    errctx_clear(&ec);
    struct live_subscribe o;
    struct live_sub *sub;
    enum err e = check(options, &o, &ec);
    if (e == ERR_OK)
        e = live_subscribe(db->live, &o, &sub, &ec);
    if (e != ERR_OK)
        return engine_error(error, &ec);
    *ret = (struct kalamdb_subscription *)(void *)sub;
    return KALAMDB_OK;
}

static void event_of(const struct live_event *from, struct kalamdb_event *ret)
{
    *ret = (struct kalamdb_event){
        .kind = (enum kalamdb_event_kind)from->kind,
        .op = from->op > CHANGE_DELETE ? KALAMDB_UPDATE : (enum kalamdb_change_op)from->op,
        .seq = from->seq,
        .resync = from->resync,
        .feed = {from->feed.ptr, from->feed.len},
        .change = (struct kalamdb_change *)(void *)from->change,
        .message_count = from->message_count,
        .last_msg_id = from->last_msg_id,
        .code = (kalamdb_code)from->code,
    };
}

enum kalamdb_event_kind kalamdb_subscription_next(struct kalamdb_subscription *s, struct kalamdb_event *ret)
{
    struct live_event ev;
    (void)live_next(sub_of(s), &ev);
    event_of(&ev, ret);
    return ret->kind;
}

void kalamdb_unsubscribe(struct kalamdb_subscription *s)
{
    live_unsubscribe(sub_of(s));
}

struct kalamdb_str kalamdb_change_json(struct kalamdb_change *c)
{
    struct str s = live_change_json(change_of(c));
    return (struct kalamdb_str){s.ptr, s.len};
}

void kalamdb_change_ref(struct kalamdb_change *c)
{
    live_change_ref(change_of(c));
}

void kalamdb_change_unref(struct kalamdb_change *c)
{
    live_change_unref(change_of(c));
}

/* ---- listen ---- */

struct listening {
    void (*on_event)(void *arg, const struct kalamdb_event *event);
    void *arg;
};

static void on_live_event(void *state, const struct live_event *from)
{
    const struct listening *l = state;
    struct kalamdb_event ev;
    event_of(from, &ev);
    l->on_event(l->arg, &ev);
}

kalamdb_code kalamdb_listen(struct kalamdb *db, const struct kalamdb_subscribe *options,
    void (*on_event)(void *arg, const struct kalamdb_event *event), void *arg,
    struct kalamdb_subscription **ret, struct kalamdb_error *error)
{
    struct errctx ec;
    errctx_clear(&ec);
    struct live_subscribe o;
    struct live_sub *sub;
    struct listening state = {on_event, arg};
    enum err e = check(options, &o, &ec);
    if (e == ERR_OK)
        e = live_listen(db->live, &o, on_live_event, &state, sizeof state, &sub, &ec);
    if (e != ERR_OK)
        return engine_error(error, &ec);
    *ret = (struct kalamdb_subscription *)(void *)sub;
    return KALAMDB_OK;
}
