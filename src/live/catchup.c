#include "live/catchup.h"
#include "base/plant.h"
#include <stdlib.h>

#define CATCHUP_OF(ptr, member) ((struct catchup *)(void *)((char *)(ptr)-offsetof(struct catchup, member)))
#define WINDOWS_PER_STEP 4

/* ---- operations: what runs on the committer or a pool thread on behalf of a session ---- */

/* False: we are closing. From here to op_end the session belongs to the operation. */
static bool op_begin(struct catchup *s)
{
    struct live_sub *sub = s->sub;
    struct live *l = sub->live;
    pthread_mutex_lock(&l->lock);
    bool open = !l->closing;
    l->operations += open;
    pthread_mutex_unlock(&l->lock);
    if (!open)
        return false;
    pthread_mutex_t *stripe = live_stripe(l, sub);
    pthread_mutex_lock(stripe);
    sub->busy = true;
    sub->phase = PHASE_WAITING;
    pthread_mutex_unlock(stripe);
    return true;
}

/* With the stripe locked; unlocks it. The subscriber may be gone, then it is upon us to free. */
static void op_end(struct catchup *s, pthread_mutex_t *stripe, enum err e)
{
    struct live_sub *sub = s->sub;
    struct live *l = sub->live;
    bool gone = sub->gone;
    sub->busy = false;
    if (!gone) {
        if (e != ERR_OK)
            sub_close(sub, e);
        sub->phase = PHASE_CATCHUP;
        if (!sub->parked)
            sub_wake(sub);
    }
    pthread_mutex_unlock(stripe);
    if (gone) {
        if (sub->feed == NULL)
            limbo_remove(l, sub);
        sub_free(sub);
    }
    pthread_mutex_lock(&l->lock);
    if (--l->operations == 0)
        pthread_cond_broadcast(&l->idle);
    pthread_mutex_unlock(&l->lock);
}

/* ---- on the committer ---- */

/* A cursor before forgotten deletions cannot be brought up to date by replaying what is left. */
static bool cursor_too_old(const struct catchup *s, uint64_t from)
{
    return from > 0 && from < snapshot_forgotten_seq(s->snap);
}

static void start_at(struct catchup *s, uint64_t from, bool resync)
{
    s->resync = resync || (s->replay && cursor_too_old(s, from));
    s->replay |= s->resync;
    s->from = s->done = s->resync ? 0 : from;
    s->step = STEP_ACK;
}

/* Where does the subscriber stand, by the cursor it named? */
static enum err resolve(struct catchup *s, struct str feed)
{
    bool resync = s->has_feed && !str_eq(catchup_feed(s), feed);
    s->replay = s->has_last_seq || s->has_last_msg_id;
    if (s->has_last_seq) {
        start_at(s, s->last_seq, resync || s->last_seq > s->to);
    } else if (s->has_last_msg_id && !resync) {
        uint64_t from;
        bool cold = false;
        struct errctx ec;
        enum err e = snapshot_arrival(s->snap, s->last_msg_id_asked, &from, &cold, &ec);
        if (e != ERR_OK)
            return e;
        if (!cold)
            start_at(s, from, false);
    } else {
        start_at(s, s->to, resync);
    }
    return ERR_OK;
}

/* On the committer, with the snapshot: nothing that is open in it is missing in the notes. */
static enum err take_notes(struct catchup *s)
{
    struct store *store = s->sub->live->store;
    uint64_t user_no = snapshot_user_no(s->snap);
    free(s->notes);
    s->notes = NULL;
    s->note_at = 0;
    s->nnotes = store_stream_notes(store, user_no, NULL, 0);
    if (s->nnotes == 0)
        return ERR_OK;
    s->notes = malloc(s->nnotes * sizeof *s->notes);
    if (s->notes == NULL)
        return ERR_NO_MEMORY;
    size_t n = store_stream_notes(store, user_no, s->notes, s->nnotes);
    s->nnotes = n < s->nnotes ? n : s->nnotes; /* notes come on this thread only, but go on others */
    return ERR_OK;
}

static enum err take_snapshot(struct catchup *s)
{
    struct live *l = s->sub->live;
    struct errctx ec;
    struct snapshot *snap;
    enum err e = snapshot_open(l->store, catchup_user(s), &snap, &ec);
    if (e != ERR_OK)
        return e;
    catchup_drop_snapshot(s);
    s->snap = snap;
    s->opened_us = s->used_us = os_monotonic_us(l->os);
    s->to = snapshot_seq(snap);
    s->cold_max = snapshot_cold_max_seq(snap);
    s->window = COLD_WINDOW;
    s->rows_max = COLD_ROWS;
    e = take_notes(s);
    if (e != ERR_OK)
        return e;
    return s->step == STEP_RESOLVE ? resolve(s, snapshot_feed(snap)) : ERR_OK;
}

static enum err take_first_place(struct catchup *s, struct shard *sh, uint64_t user_no)
{
    struct live_sub *sub = s->sub;
    struct feed *f = feed_enter(sub->live, sh, user_no, catchup_user(s), snapshot_feed(s->snap));
    if (f == NULL)
        return ERR_NO_MEMORY;
    limbo_remove(sub->live, sub);
    feed_add(f, sub);
    return ERR_OK;
}

/* The position is one that we gave out. If the history is no longer what it was, the client has to ask again.
 */
static enum err take_place_again(struct catchup *s)
{
    struct live_sub *sub = s->sub;
    feed_rejoin(sub->live, sub);
    if (s->step == STEP_RESOLVE || s->step == STEP_ACK)
        return ERR_OK;
    if (!str_eq(snapshot_feed(s->snap), feed_name(sub->feed)) || s->done > s->to ||
        cursor_too_old(s, s->done))
        return ERR_UNAVAILABLE;
    s->from = s->done = PLANT(RING_SKIPS) ? s->to : s->done;
    s->step = STEP_ROWS;
    return ERR_OK;
}

/* The other half of what must happen at one point of the commit order. Under the stripe. */
static enum err take_place(struct catchup *s)
{
    struct live_sub *sub = s->sub;
    uint64_t user_no = snapshot_user_no(s->snap);
    if (user_no == 0 || (sub->feed != NULL && sub->feed->user_no != user_no))
        return ERR_UNAVAILABLE;
    struct shard *sh = live_shard(sub->live, user_no);
    pthread_mutex_lock(&sh->lock);
    enum err e = sub->feed == NULL ? take_first_place(s, sh, user_no) : take_place_again(s);
    pthread_mutex_unlock(&sh->lock);
    return e;
}

static void on_barrier(struct barrier_op *op, enum err err)
{
    struct catchup *s = CATCHUP_OF(op, barrier);
    struct live_sub *sub = s->sub;
    struct live *l = sub->live;
    catchups_reap(l);
    pthread_mutex_t *stripe = live_stripe(l, sub);
    pthread_mutex_lock(stripe);
    if (l->closing) {
        err = ERR_UNAVAILABLE;
    } else if ((err == ERR_UNAVAILABLE || err == ERR_OUTCOME_UNKNOWN) && sub->feed != NULL) {
        sub->parked = 1;
        op_end(s, stripe, ERR_OK);
        return;
    }
    pthread_mutex_lock(&s->lock);
    if (err == ERR_OK && !sub->gone)
        err = take_snapshot(s);
    if (err == ERR_OK && !sub->gone)
        err = take_place(s);
    if (err != ERR_OK || (s->step == STEP_ACK && s->done == s->to && s->nnotes == 0))
        catchup_drop_snapshot(s);
    pthread_mutex_unlock(&s->lock);
    op_end(s, stripe, err);
}

static enum step_result submit_barrier(struct catchup *s)
{
    if (!op_begin(s)) {
        sub_close(s->sub, ERR_UNAVAILABLE);
        return CATCHUP_WAIT;
    }
    /* Only a first session may have to create the user; a known one needs no write. */
    s->barrier = (struct barrier_op){.fn = on_barrier};
    if (s->sub->feed == NULL)
        s->barrier.user_id = catchup_user(s);
    store_barrier(s->sub->live->store, &s->barrier);
    return CATCHUP_WAIT;
}

/* ---- on a pool thread ---- */

/* OK also for what the next step can mend: nothing was read, and the snapshot is dropped if it is to blame.
 */
static enum err judge(struct catchup *s, enum err e)
{
    if (e == ERR_OK) {
        s->failures = s->stale = 0;
        return ERR_OK;
    }
    if (e == ERR_TOO_LARGE && s->rows_max > 1) {
        s->rows_max = 1 + s->rows_max / 8;
        return ERR_OK;
    }
    if (e == ERR_UNAVAILABLE) {
        catchup_drop_snapshot(s);
        return ++s->stale > CATCHUP_STALE_MAX ? e : ERR_OK;
    }
    return ++s->failures > CATCHUP_FAILURES_MAX || e == ERR_NO_MEMORY || e == ERR_CORRUPT ? e : ERR_OK;
}

static void on_job(struct analytic_job *job)
{
    struct catchup *s = CATCHUP_OF(job, job);
    struct live *l = s->sub->live;
    enum err e = ERR_OK;
    pthread_mutex_lock(&s->lock);
    if (s->snap != NULL && !l->closing) {
        if (s->step == STEP_RESOLVE) {
            uint64_t from;
            e = catchup_find_arrival(s, &from);
            if (e == ERR_OK)
                start_at(s, from, false);
        } else {
            e = catchup_read_cold(s);
        }
        e = judge(s, e);
        s->used_us = os_monotonic_us(l->os);
    }
    pthread_mutex_unlock(&s->lock);
    pthread_mutex_t *stripe = live_stripe(l, s->sub);
    pthread_mutex_lock(stripe);
    op_end(s, stripe, e);
}

static enum step_result submit_job(struct catchup *s)
{
    if (!op_begin(s)) {
        sub_close(s->sub, ERR_UNAVAILABLE);
        return CATCHUP_WAIT;
    }
    s->job.run = on_job;
    s->job.owner =
        s->sub->feed != NULL ? s->sub->feed->user_no : 1; /* 1: nobody, looked up before there is a feed */
    analytic_submit(s->sub->live->analytic, &s->job);
    return CATCHUP_WAIT;
}

/* ---- on the reader's thread ---- */

static struct catchup *catchup_new(struct live_sub *sub, struct str user, struct str feed)
{
    struct live *l = sub->live;
    struct catchup *s = calloc(1, sizeof *s + user.len + feed.len);
    if (s == NULL)
        return NULL;
    s->sub = sub;
    pthread_mutex_init(&s->lock, NULL);
    s->user_len = (uint8_t)user.len;
    s->feed_len = (uint8_t)feed.len;
    memcpy(s->bytes, user.ptr, user.len);
    if (feed.len > 0)
        memcpy(s->bytes + user.len, feed.ptr, feed.len);
    pthread_mutex_lock(&l->lock);
    s->next = l->open;
    s->pprev = &l->open;
    if (s->next != NULL)
        s->next->pprev = &s->next;
    l->open = s;
    pthread_mutex_unlock(&l->lock);
    sub->catchup = s;
    return s;
}

enum err catchup_begin(struct live_sub *sub, const struct live_subscribe *o)
{
    if (o->user_id.len > UINT8_MAX)
        return ERR_INVALID_REQUEST;
    /* No feed has so long a name; its first bytes alone say that it is another one. */
    struct str feed = str_n(o->feed.ptr, o->feed.len > UINT8_MAX ? UINT8_MAX : o->feed.len);
    struct catchup *s = catchup_new(sub, o->user_id, feed);
    if (s == NULL)
        return ERR_NO_MEMORY;
    s->has_feed = feed.len > 0;
    s->has_last_seq = o->has_last_seq;
    s->last_seq = o->last_seq;
    s->has_last_msg_id = o->has_last_msg_id;
    s->last_msg_id_asked = o->last_msg_id;
    s->step = STEP_RESOLVE;
    (void)submit_barrier(s);
    return ERR_OK;
}

enum err catchup_resume(struct live_sub *sub)
{
    struct catchup *s = catchup_new(sub, feed_user(sub->feed), STR_NULL);
    if (s == NULL)
        return ERR_NO_MEMORY;
    s->step = STEP_ROWS;
    s->done = sub->pos;
    sub->live->catchups++;
    (void)submit_barrier(s);
    return ERR_OK;
}

void catchup_drop_snapshot(struct catchup *s)
{
    if (s->iter != NULL)
        hot_iter_close(s->iter);
    if (s->snap != NULL)
        snapshot_close(s->snap);
    s->iter = NULL;
    s->snap = NULL;
    s->has_input = false;
}

void catchup_free(struct catchup *s)
{
    struct live *l = s->sub->live;
    pthread_mutex_lock(&l->lock);
    *s->pprev = s->next;
    if (s->next != NULL)
        s->next->pprev = s->pprev;
    pthread_mutex_unlock(&l->lock);
    catchup_drop_snapshot(s);
    if (s->batch != NULL)
        changes_unref(s->batch);
    free(s->notes);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

void catchups_reap(struct live *l)
{
    int64_t now = os_monotonic_us(l->os), last = l->reaped_us;
    if (now - last < 1000000 || !atomic_compare_exchange_strong(&l->reaped_us, &last, now))
        return;
    pthread_mutex_lock(&l->lock);
    for (struct catchup *s = l->open; s != NULL; s = s->next) {
        if (pthread_mutex_trylock(&s->lock) != 0)
            continue;
        if (s->snap != NULL && (now - s->used_us > SNAPSHOT_IDLE_US || now - s->opened_us > SNAPSHOT_AGE_US))
            catchup_drop_snapshot(s);
        pthread_mutex_unlock(&s->lock);
    }
    pthread_mutex_unlock(&l->lock);
}

static enum step_result give_ack(struct catchup *s, struct live_event *ev)
{
    struct live *l = s->sub->live;
    *ev = (struct live_event){
        .kind = LIVE_ACK, .seq = s->to, .resync = s->resync, .feed = feed_name(s->sub->feed)};
    l->replays += s->replay;
    s->step = STEP_ROWS;
    return CATCHUP_GIVEN;
}

/* From the batch in hand; false when there is nothing left in it. */
static bool give_change(struct catchup *s, struct live_event *ev)
{
    if (s->batch != NULL && s->given == s->batch->n) {
        changes_unref(s->batch);
        s->batch = NULL;
    }
    if (s->batch == NULL)
        return false;
    struct live_change *c = &s->batch->changes[s->given++];
    live_change_ref(c);
    *ev = (struct live_event){.kind = live_kind_of(c->op),
        .op = c->op,
        .seq = c->seq,
        .feed = feed_name(s->sub->feed),
        .change = c};
    if (change_numbered(c->op)) {
        s->count++;
        s->last_msg_id = c->msg_id;
    }
    s->sub->live->delivered++;
    return true;
}

/* Reads more of what the step is about, at most one batch. */
static enum step_result read_more(struct catchup *s)
{
    struct live *l = s->sub->live;
    enum err e = ERR_OK;
    bool cold = s->step == STEP_ROWS && s->done < s->cold_max;
    s->given = 0;
    pthread_mutex_lock(&s->lock);
    bool have = s->snap != NULL;
    if (have && !cold) {
        s->used_us = os_monotonic_us(l->os);
        e = judge(s, s->step == STEP_ROWS      ? catchup_read_hot(s)
                     : s->step == STEP_STREAMS ? catchup_read_streams(s)
                                               : catchup_read_conversations(s));
    }
    pthread_mutex_unlock(&s->lock);
    if (!have)
        return submit_barrier(s);
    if (e != ERR_OK) {
        sub_close(s->sub, e);
        return CATCHUP_WAIT;
    }
    return cold ? submit_job(s) : CATCHUP_PAUSE;
}

/* OVER: all rows were given. */
static enum step_result step_rows(struct catchup *s, struct live_event *ev)
{
    for (int i = 0; i < WINDOWS_PER_STEP; i++) {
        if (give_change(s, ev))
            return CATCHUP_GIVEN;
        if (s->done >= s->to)
            return CATCHUP_OVER;
        enum step_result r = read_more(s);
        if (r != CATCHUP_PAUSE)
            return r;
    }
    return give_change(s, ev) ? CATCHUP_GIVEN : CATCHUP_PAUSE;
}

static enum step_result step_streams(struct catchup *s, struct live_event *ev)
{
    for (;;) {
        if (give_change(s, ev))
            return CATCHUP_GIVEN;
        if (s->note_at == s->nnotes)
            return CATCHUP_OVER;
        enum step_result r = read_more(s);
        if (r != CATCHUP_PAUSE)
            return r;
    }
}

static void finish_rows(struct catchup *s)
{
    struct live_sub *sub = s->sub;
    struct shard *sh = live_shard(sub->live, sub->feed->user_no);
    pthread_mutex_lock(&sh->lock);
    s->conversations |= sub->missed_conversations;
    sub->missed_conversations = false;
    pthread_mutex_unlock(&sh->lock);
    s->step = STEP_CONVERSATIONS;
}

static enum step_result step_conversations(struct catchup *s, struct live_event *ev)
{
    for (;;) {
        if (give_change(s, ev))
            return CATCHUP_GIVEN;
        if (!s->conversations)
            return CATCHUP_OVER;
        enum step_result r = read_more(s);
        if (r != CATCHUP_PAUSE)
            return r;
    }
}

static enum step_result end(struct catchup *s)
{
    struct live_sub *sub = s->sub;
    struct shard *sh = live_shard(sub->live, sub->feed->user_no);
    pthread_mutex_lock(&sh->lock);
    sub->pos = s->to + PLANT(REPLAY_JOIN);
    sub->following = true;
    pthread_mutex_unlock(&sh->lock);
    catchup_free(s);
    sub->catchup = NULL;
    sub->phase = PHASE_LIVE;
    return CATCHUP_OVER;
}

static enum step_result step_resolve(struct catchup *s)
{
    pthread_mutex_lock(&s->lock);
    bool have = s->snap != NULL;
    pthread_mutex_unlock(&s->lock);
    return have ? submit_job(s) : submit_barrier(s);
}

enum step_result catchup_step(struct live_sub *sub, struct live_event *ev)
{
    struct catchup *s = sub->catchup;
    enum step_result r;
    switch (s->step) {
    case STEP_RESOLVE:
        return step_resolve(s);
    case STEP_ACK:
        return give_ack(s, ev);
    case STEP_ROWS:
        r = step_rows(s, ev);
        if (r != CATCHUP_OVER)
            return r; /* and s may be another thread's by now */
        s->step = STEP_STREAMS;
        /* fall through */
    case STEP_STREAMS:
        r = step_streams(s, ev);
        if (r != CATCHUP_OVER)
            return r;
        s->step = STEP_COMPLETE;
        /* fall through */
    case STEP_COMPLETE:
        finish_rows(s);
        if (s->replay) {
            s->replay = false;
            *ev = (struct live_event){.kind = LIVE_REPLAY_COMPLETE,
                .seq = s->to,
                .feed = feed_name(sub->feed),
                .message_count = s->count,
                .last_msg_id = s->last_msg_id};
            return CATCHUP_GIVEN;
        }
        /* fall through */
    case STEP_CONVERSATIONS:
        r = step_conversations(s, ev);
        return r == CATCHUP_OVER ? end(s) : r;
    }
    return CATCHUP_WAIT;
}
