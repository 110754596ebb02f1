/* One commit at a time takes the text of all streams that have some: while it is being fsynced the next
 * tokens gather, so that a thousand streams cost no more commits than one. */
#include "engine/stream.h"

static void submit(struct streams *ss);

void stream_make_dirty(struct streams *ss, struct stream *st)
{
    if (st->dirty)
        return;
    st->dirty = true;
    st->dirty_next = NULL;
    *ss->dirty_last = st;
    ss->dirty_last = &st->dirty_next;
    if (!ss->flushing && !ss->closing)
        submit(ss);
}

void stream_make_clean(struct streams *ss, struct stream *st)
{
    if (!st->dirty)
        return;
    struct stream **link = &ss->dirty_first;
    while (*link != st)
        link = &(*link)->dirty_next;
    *link = st->dirty_next;
    if (ss->dirty_last == &st->dirty_next)
        ss->dirty_last = link;
    st->dirty = false;
}

/* Why it cannot be written any more; NULL: it can. That happens rarely: only after it did to some stream is
 * each looked up. */
static const char *find_gone(struct streams *ss, struct stream *st, struct txn *txn)
{
    uint64_t lost = store_streams_lost(ss->db->store);
    if (st->lost_seen == lost)
        return NULL;
    struct stream_record r;
    struct errctx ec;
    enum err e = txn_stream(txn, st->msg_id, &r, &ec);
    if (e == ERR_NOT_FOUND)
        return STREAM_DELETED;
    if (e == ERR_OK && r.state != STREAM_OPEN)
        return STREAM_LEFT;
    if (e == ERR_OK)
        st->lost_seen = lost;
    return NULL;
}

static enum err flush_one(struct stream *st, struct txn *txn, struct errctx *ec)
{
    struct chat_stream_text t = {.home = st->home,
        .group = st->group,
        .delta = {.msg_id = st->msg_id,
            .offset = st->durable,
            .conversation_id = st->conversation_id,
            .text = str_n(st->text.ptr + st->durable, st->text.len - st->durable)}};
    st->flushing = st->text.len;
    return t.delta.text.len == 0 ? ERR_OK : chat_stream_append(&t, txn, ec);
}

static enum err apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct streams *ss = (struct streams *)(void *)((char *)op - offsetof(struct streams, flush));
    size_t bytes = 0;
    enum err e = ERR_OK;
    pthread_mutex_lock(&ss->lock);
    while (e == ERR_OK && ss->dirty_first != NULL && bytes < STREAM_FLUSH_BYTES) {
        struct stream *st = ss->dirty_first;
        stream_make_clean(ss, st);
        st->flush_next = ss->flush_first;
        ss->flush_first = st;
        st->in_flush = true;
        st->flushing = st->durable;
        st->gone = find_gone(ss, st, txn);
        if (st->gone == NULL)
            e = flush_one(st, txn, ec);
        if (e == ERR_NOT_FOUND) { /* its owner is erased: the others go on */
            st->gone = STREAM_DELETED;
            st->flushing = st->durable;
            e = ERR_OK;
        }
        bytes += st->text.len - st->durable;
    }
    for (struct stream *st = ss->flush_first; e != ERR_OK && st != NULL; st = st->flush_next)
        st->flushing = st->durable; /* the op is undone */
    pthread_mutex_unlock(&ss->lock);
    return e;
}

static void settle(struct streams *ss, struct stream *st, enum err err, const struct errctx *why)
{
    struct errctx gone;
    st->in_flush = false;
    if (st->gone != NULL && st->phase == PHASE_RUNNING) {
        errctx_clear(&gone);
        (void)err_set(&gone, ERR_INVALID_REQUEST, "%s", st->gone);
        if (st->producer != NULL)
            producer_fail(st->producer, 0, st->msg_id, &gone);
        store_stream_forget(ss->db->store, st->msg_id);
        stream_remove(ss, st, &gone);
    } else if (st->gone != NULL) {
        return; /* its end finds out by itself */
    } else if (err != ERR_OK) {
        if (st->producer != NULL)
            producer_fail(st->producer, 0, st->msg_id, why);
    } else if (st->flushing > st->durable) {
        st->durable = st->flushing;
        stream_ack(st);
    }
}

static void done(struct commit_op *op, enum err err, const struct errctx *ec)
{
    struct streams *ss = (struct streams *)(void *)((char *)op - offsetof(struct streams, flush));
    pthread_mutex_lock(&ss->lock);
    ss->flushing = false;
    while (ss->flush_first != NULL) {
        struct stream *st = ss->flush_first;
        ss->flush_first = st->flush_next;
        settle(ss, st, err, ec);
    }
    if (ss->dirty_first != NULL && !ss->closing)
        submit(ss);
    streams_end_operation(ss);
    pthread_mutex_unlock(&ss->lock);
}

static void submit(struct streams *ss)
{
    ss->flushing = true;
    ss->flush = (struct commit_op){.apply = apply, .done = done, .durability = DURABILITY_SYNC};
    streams_begin_operation(ss);
    store_submit(ss->db->store, &ss->flush);
}
