#include "engine/stream.h"
#include "store/erase.h"

struct erase {
    struct commit_op op;
    const struct erasure *e;
    struct buf ids; /* of int64_t */
    pthread_mutex_t lock;
    pthread_cond_t finished;
    bool done;
    enum err result;
    struct errctx ec;
};

static bool collect(void *arg, int64_t msg_id, const struct stream_record *r)
{
    struct erase *x = arg;
    struct str id = x->e->user_id;
    /* An ai conversation of that id in another partition is of whoever came back by it. */
    bool theirs = r->group ? str_eq(r->owner, id) || str_eq(r->producer, id)
                           : r->home == x->e->user_no || (str_eq(r->producer, id) && !str_eq(r->owner, id));
    if (theirs)
        buf_append(&x->ids, &msg_id, sizeof msg_id);
    return true;
}

static enum err apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct erase *x = (struct erase *)op;
    enum err e = ERR_OK;
    for (size_t at = 0; e == ERR_OK && at < x->ids.len; at += sizeof(int64_t)) {
        int64_t id;
        memcpy(&id, x->ids.ptr + at, sizeof id);
        e = chat_stream_erase(txn, x->e->user_no, id, ec);
    }
    return e;
}

static void done(struct commit_op *op, enum err err, const struct errctx *ec)
{
    struct erase *x = (struct erase *)op;
    pthread_mutex_lock(&x->lock);
    x->result = err;
    x->ec = *ec;
    x->done = true;
    pthread_cond_signal(&x->finished);
    pthread_mutex_unlock(&x->lock);
}

/* What is in memory of them goes when its producer next says something, or leaves: their record is not there
 * any more. */
enum err streams_erase(struct kalamdb *db, const struct erasure *er, struct errctx *ec)
{
    struct erase x = {.op = {.apply = apply, .done = done, .durability = DURABILITY_SYNC},
        .e = er,
        .ids = BUF_INIT(0),
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .finished = PTHREAD_COND_INITIALIZER};
    enum err e = store_each_stream(db->store, collect, &x, ec);
    if (e == ERR_OK && x.ids.failed)
        e = err_internal(ec, ERR_NO_MEMORY, "streams of a user");
    if (e == ERR_OK && x.ids.len > 0) {
        store_submit(db->store, &x.op);
        pthread_mutex_lock(&x.lock);
        while (!x.done)
            pthread_cond_wait(&x.finished, &x.lock);
        pthread_mutex_unlock(&x.lock);
        e = x.result;
        *ec = x.ec;
    }
    buf_release(&x.ids);
    return e;
}
