/* What a stream does beside growing: it begins, is looked up and opened again, ends or is interrupted. Each
 * is one commit. */
#include "base/json.h"
#include "engine/query.h"
#include "engine/spill.h"
#include "engine/stream.h"
#include "store/blob.h"
#include <stdio.h>
#include <stdlib.h>

#define OP_ARENA_BYTES_MAX ((size_t)64 << 20)
#define BEGIN_ATTEMPTS_MAX 100

/* ---- begin -------------------------------------------------------------------------------------------- */

struct begin {
    struct commit_op op;
    struct streams *ss;
    struct kalamdb_producer *producer;
    uint64_t tag;
    int attempts;
    struct caller caller;
    struct chat_message message;
    struct chat_stream_begin b;
    struct arena arena;
};

static void begin_free(struct begin *b)
{
    producer_unref(b->producer);
    arena_release(&b->arena);
    free(b);
}

static enum err begin_apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct begin *b = (struct begin *)op;
    return chat_stream_begin_apply(&b->b, txn, ec);
}

/* A new stream, which is its producer's. */
static enum err begun(struct begin *b, int64_t msg_id, struct errctx *ec)
{
    struct stream *st = stream_add(b->ss, msg_id);
    if (st == NULL || !stream_describe(st, &b->b.record)) {
        if (st != NULL)
            stream_remove(b->ss, st, ec);
        return err_internal(ec, ERR_NO_MEMORY, "stream");
    }
    if (!b->producer->closed)
        stream_attach(st, b->producer);
    stream_run(b->ss, st, false);
    return ERR_OK;
}

/* A begin that was repeated: with a bit of luck the stream is still there. */
static enum err begun_again(
    struct begin *b, int64_t msg_id, struct kalamdb_stream_event *event, struct errctx *ec)
{
    struct stream *st = stream_find(b->ss, msg_id);
    if (!b->b.known) {
        err_set(ec, ERR_INVALID_REQUEST, "this clientMsgId belongs to a message that is no stream");
        return ec->code;
    }
    event->offset = b->b.record.bytes;
    event->ended = b->b.record.state == STREAM_ENDED;
    if (st == NULL || st->phase == PHASE_LOADING)
        return ERR_OK;
    event->offset = st->phase == PHASE_RUNNING ? st->durable : st->text.len;
    enum err e = stream_allowed(st, b->caller.role, b->caller.user_id, ec);
    if (e == ERR_OK && st->phase == PHASE_RUNNING && !b->producer->closed)
        stream_attach(st, b->producer);
    return e;
}

static void begin_done(struct commit_op *op, enum err err, const struct errctx *why)
{
    struct begin *b = (struct begin *)op;
    struct streams *ss = b->ss;
    const struct chat_message *m = &b->message;
    struct kalamdb_stream_event event = {.kind = KALAMDB_STREAM_BEGUN, .tag = b->tag, .msg_id = m->msg_id};
    struct errctx ec = *why;
    if (err == ERR_RETRY && ++b->attempts < BEGIN_ATTEMPTS_MAX) {
        store_submit(ss->db->store, &b->op);
        return;
    }
    pthread_mutex_lock(&ss->lock);
    if (err == ERR_RETRY)
        err = err_set(&ec, ERR_CONFLICT, "the conversation changes too fast; please retry");
    /* What happens in begun() may ask for the producer: it hears of its message first. */
    if (err == ERR_OK && m->inserted)
        producer_tell(b->producer, &event);
    if (err == ERR_OK)
        err = m->inserted ? begun(b, m->msg_id, &ec) : begun_again(b, m->msg_id, &event, &ec);
    if (err != ERR_OK)
        producer_fail(b->producer, b->tag, 0, &ec);
    else if (!m->inserted)
        producer_tell(b->producer, &event);
    begin_free(b);
    streams_end_operation(ss);
    pthread_mutex_unlock(&ss->lock);
}

static struct value text_of(struct arena *a, struct kalamdb_str s)
{
    return s.ptr != NULL ? value_text(arena_str(a, engine_str(s))) : VALUE_OF_NULL;
}

static bool texts_valid(const struct kalamdb_stream_begin *in)
{
    const struct kalamdb_str all[] = {
        in->conversation_id, in->conversation_type, in->from, in->metadata, in->client_msg_id};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].len > 0 && (!utf8_valid(engine_str(all[i])) || memchr(all[i].ptr, 0, all[i].len) != NULL))
            return false;
    return true;
}

static enum err begin_take(struct begin *b, const struct kalamdb_stream_begin *in, struct errctx *ec)
{
    struct arena *a = &b->arena;
    struct value *v = b->message.values;
    struct str caller = engine_str(in->caller.user_id), owner = engine_str(in->user_id);
    if (!texts_valid(in))
        return err_set(ec, ERR_INVALID_REQUEST, "a text is not valid UTF-8, or contains NUL (U+0000)");
    if (in->metadata.ptr != NULL && !json_valid(engine_str(in->metadata)))
        return err_set(ec, ERR_INVALID_REQUEST, "metadata is not valid JSON");
    if (in->caller.role == KALAMDB_USER && owner.ptr != NULL && !str_eq(owner, caller))
        return err_set(ec, ERR_FORBIDDEN, "only a service may write in another user's conversations");
    if (!user_id_valid(caller) || (owner.ptr != NULL && !user_id_valid(owner)))
        return err_set(ec, ERR_INVALID_REQUEST, "invalid user id");
    b->caller.user_id = arena_str(a, caller);
    b->caller.role = in->caller.role == KALAMDB_ADMIN     ? ROLE_ADMIN
                     : in->caller.role == KALAMDB_SERVICE ? ROLE_SERVICE
                                                          : ROLE_USER;
    v[MSG_CONVERSATION_ID] = text_of(a, in->conversation_id);
    v[MSG_CONVERSATION_TYPE] = text_of(a, in->conversation_type);
    v[MSG_FROM] = text_of(a, in->from);
    v[MSG_CLIENT_MSG_ID] = text_of(a, in->client_msg_id);
    v[MSG_METADATA] = text_of(a, in->metadata);
    if (in->metadata.ptr != NULL)
        v[MSG_METADATA].type = VALUE_JSON;
    b->b.append = (struct chat_append){.caller = &b->caller,
        .owner = owner.ptr != NULL ? arena_str(a, owner) : b->caller.user_id,
        .nmessages = 1,
        .messages = &b->message};
    b->b.producer = b->caller.user_id;
    b->caller.issued_s = in->caller.issued_s;
    b->op.author = b->caller.user_id;
    b->op.author_issued_s = in->caller.issued_s;
    if (arena_failed(a))
        return err_internal(ec, ERR_NO_MEMORY, "begin of a stream");
    struct chat_limits limits = {.content_bytes_max = b->ss->db->options.max_content_bytes};
    return chat_stream_begin_check(&b->b, &limits, a, ec);
}

void kalamdb_stream_begin(struct kalamdb_producer *p, const struct kalamdb_stream_begin *in, uint64_t tag)
{
    struct streams *ss = p->db->streams;
    struct errctx ec;
    errctx_clear(&ec);
    struct begin *b = calloc(1, sizeof *b);
    enum err e = b == NULL ? err_internal(&ec, ERR_NO_MEMORY, "begin of a stream") : ERR_OK;
    if (e == ERR_OK) {
        arena_init(&b->arena, OP_ARENA_BYTES_MAX);
        b->ss = ss;
        b->producer = p;
        b->tag = tag;
        b->op = (struct commit_op){.apply = begin_apply, .done = begin_done, .durability = DURABILITY_SYNC};
        e = begin_take(b, in, &ec);
    }
    pthread_mutex_lock(&ss->lock);
    p->refs++;
    if (e == ERR_OK && ss->closing)
        e = err_set(&ec, ERR_UNAVAILABLE, "the database is shutting down");
    if (e == ERR_OK) {
        streams_begin_operation(ss);
    } else {
        producer_fail(p, tag, 0, &ec);
        if (b != NULL)
            begin_free(b);
        else
            producer_unref(p);
    }
    pthread_mutex_unlock(&ss->lock);
    if (e == ERR_OK)
        store_submit(ss->db->store, &b->op);
}

/* ---- end ---------------------------------------------------------------------------------------------- */

struct close {
    struct commit_op op;
    struct streams *ss;
    struct stream *st;
    struct kalamdb_producer *to;
    uint64_t tag;
    struct chat_stream_close c;
    struct analytic_job job;
    struct blob_file *file; /* large text; NULL: none */
    char metadata[];
};

/* Text that no flush has taken goes out as an append, too, ahead of the row that has all of it. */
static enum err announce_rest(struct close *c, struct txn *txn, struct errctx *ec)
{
    const struct stream *st = c->st;
    pthread_mutex_lock(&c->ss->lock);
    /* A flush that is not answered yet stands before us, perhaps in this very group. */
    size_t at = st->in_flush ? st->flushing : st->durable;
    pthread_mutex_unlock(&c->ss->lock);
    struct stream_record r;
    if (!c->c.has_text || at >= st->text.len || txn_stream(txn, st->msg_id, &r, ec) != ERR_OK ||
        r.state != STREAM_OPEN)
        return ERR_OK; /* nothing to tell, or chat_stream_close_apply finds out why not */
    struct chat_stream_text t = {.home = st->home,
        .group = st->group,
        .delta = {.msg_id = st->msg_id,
            .offset = at,
            .conversation_id = st->conversation_id,
            .text = str_n(st->text.ptr + at, st->text.len - at)}};
    return chat_stream_append(&t, txn, ec);
}

static enum err close_apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct close *c = (struct close *)op;
    enum err e = announce_rest(c, txn, ec);
    if (e == ERR_OK && c->file != NULL)
        e = txn_blob_put(txn, blob_file_ref(c->file), blob_file_info(c->file), 0, ec);
    return e == ERR_OK ? chat_stream_close_apply(&c->c, txn, ec) : e;
}

/* Does a row name the file now? */
static void settle_file(struct close *c, enum err err)
{
    if (err == ERR_OUTCOME_UNKNOWN)
        blob_file_leave(c->file);
    else if (err == ERR_OK && c->c.record.state == STREAM_ENDED)
        blob_file_keep(c->file);
    else
        blob_file_discard(c->file);
    c->file = NULL;
}

static void answer_all_ended(struct stream *st, uint64_t bytes)
{
    while (st->first != NULL) {
        struct stream_request *rq = stream_pop(st);
        if (rq->producer != NULL)
            stream_answer_ended(st, rq, bytes);
        free(rq);
    }
}

/* Closed, durably. Who wants to go on with what was just interrupted has it opened again. */
static void closed(struct close *c)
{
    struct streams *ss = c->ss;
    struct stream *st = c->st;
    struct errctx ec;
    errctx_clear(&ec);
    store_stream_forget(ss->db->store, st->msg_id);
    if (!c->c.interrupt && c->c.record.state != STREAM_ENDED) {
        (void)err_set(&ec, ERR_INVALID_REQUEST, STREAM_LEFT);
        if (c->to != NULL)
            producer_fail(c->to, c->tag, st->msg_id, &ec);
        stream_remove(ss, st, &ec);
        return;
    }
    if (c->c.record.bytes == st->text.len &&
        st->durable < st->text.len) { /* its last text came with the end, and is acknowledged all the same */
        st->durable = st->text.len;
        stream_ack(st);
    }
    if (c->c.record.state == STREAM_ENDED) {
        struct stream_request rq = {.producer = c->to, .tag = c->tag, .end = true};
        if (c->to != NULL)
            stream_answer_ended(st, &rq, c->c.record.bytes);
        answer_all_ended(st, c->c.record.bytes);
    }
    if (st->first == NULL || ss->closing) {
        (void)err_set(&ec, ERR_UNAVAILABLE, "the database is shutting down");
        stream_remove(ss, st, &ec);
        return;
    }
    ss->bytes -= st->text.len;
    buf_release(&st->text);
    st->text = BUF_INIT(0);
    st->durable = 0;
    st->phase = PHASE_LOADING;
    stream_load(ss, st);
}

static void close_done(struct commit_op *op, enum err err, const struct errctx *why)
{
    struct close *c = (struct close *)op;
    struct streams *ss = c->ss;
    struct stream *st = c->st;
    struct errctx ec = *why;
    settle_file(c, err);
    pthread_mutex_lock(&ss->lock);
    if (err == ERR_NOT_FOUND)
        (void)err_set(&ec, ERR_INVALID_REQUEST, STREAM_DELETED);
    if (err != ERR_OK && c->to != NULL)
        producer_fail(c->to, c->tag, st->msg_id, &ec);
    if (err == ERR_OK) {
        closed(c);
    } else if (err == ERR_NOT_FOUND || !c->c.has_text) {
        if (err == ERR_NOT_FOUND)
            store_stream_forget(ss->db->store, st->msg_id);
        stream_remove(ss, st, &ec);
    } else {
        stream_run(ss, st, true);
    }
    if (c->to != NULL)
        producer_unref(c->to);
    free(c);
    streams_end_operation(ss);
    pthread_mutex_unlock(&ss->lock);
}

/* On a job thread: text of large_content_bytes or more goes into a file, under an id of its own (an end that
 * failed may have left one). */
static void spill_and_submit(struct analytic_job *job)
{
    struct close *c = (struct close *)(void *)((char *)job - offsetof(struct close, job));
    struct kalamdb *db = c->ss->db;
    const struct stream *st = c->st; /* what is read of it does not change while CLOSING */
    struct str text = c->c.text;
    struct errctx ec;
    int64_t id;
    errctx_clear(&ec);
    enum err e = store_reserve_ids(db->store, 1, &id, &ec);
    if (e == ERR_OK)
        e = spill_text(db, text, st->group, st->owner, st->conversation_id, id, &c->file, &ec);
    if (e != ERR_OK) {
        close_done(&c->op, e, &ec);
        return;
    }
    c->c.bytes = text.len;
    c->c.text = str_n(text.ptr, blob_preview(text));
    c->c.content_ref = value_text(blob_file_ref(c->file));
    store_submit(db->store, &c->op);
}

void stream_close(struct streams *ss, struct stream *st, bool interrupt, struct kalamdb_producer *to,
    uint64_t tag, struct str metadata)
{
    struct close *c = calloc(1, sizeof *c + metadata.len + 1);
    struct errctx ec;
    errctx_clear(&ec);
    if (c == NULL) {
        (void)err_internal(&ec, ERR_NO_MEMORY, "end of a stream");
        if (to != NULL)
            producer_fail(to, tag, st->msg_id, &ec);
        return;
    }
    if (metadata.len > 0)
        memcpy(c->metadata, metadata.ptr, metadata.len);
    c->op = (struct commit_op){.apply = close_apply, .done = close_done, .durability = DURABILITY_SYNC};
    c->ss = ss;
    c->st = st;
    c->to = to;
    c->tag = tag;
    c->c = (struct chat_stream_close){.msg_id = st->msg_id,
        .interrupt = interrupt,
        .has_text = st->phase == PHASE_RUNNING,
        .text = st->text.len > 0 ? buf_view(&st->text) : STR(""), /* nobody changes it while CLOSING */
        .metadata = metadata.ptr != NULL ? value_json(str_n(c->metadata, metadata.len)) : VALUE_OF_NULL};
    if (to != NULL)
        to->refs++;
    stream_make_clean(ss, st);
    st->phase = PHASE_CLOSING;
    streams_begin_operation(ss);
    if (!interrupt && spill_is_large(ss->db, value_text(c->c.text))) {
        c->job = (struct analytic_job){.run = spill_and_submit, .owner = analytic_owner(st->owner)};
        analytic_submit(ss->db->analytic, &c->job);
        return;
    }
    store_submit(ss->db->store, &c->op);
}

/* ---- look up, and open again -------------------------------------------------------------------------- */

struct load {
    struct commit_op op;
    struct streams *ss;
    struct stream *st;
    struct stream_record record;
    struct arena arena; /* its strings */
};

static enum err load_apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct load *l = (struct load *)op;
    struct stream_record *r = &l->record;
    enum err e = txn_stream(txn, l->st->msg_id, r, ec);
    if (e != ERR_OK)
        return e;
    r->owner = arena_str(&l->arena, r->owner);
    r->producer = arena_str(&l->arena, r->producer);
    r->conversation_id = arena_str(&l->arena, r->conversation_id);
    return arena_failed(&l->arena) ? err_internal(ec, ERR_NO_MEMORY, "stream") : ERR_OK;
}

static void load_free(struct load *l)
{
    arena_release(&l->arena);
    free(l);
}

/* Takes what the reopened row says. */
static enum err take_text(struct stream *st, const struct kalamdb_result *r, struct errctx *ec)
{
    struct kalamdb_value v = {0};
    if (kalamdb_result_rows(r) == 1)
        kalamdb_result_value(r, 0, 0, &v);
    if (v.type != KALAMDB_TEXT)
        return err_set(ec, ERR_INVALID_REQUEST, STREAM_DELETED);
    buf_str(&st->text, engine_str(v.s));
    return st->text.failed ? err_internal(ec, ERR_NO_MEMORY, "stream") : ERR_OK;
}

static void reopened(void *arg, struct kalamdb_result *result, const struct kalamdb_error *error)
{
    struct load *l = arg;
    struct streams *ss = l->ss;
    struct stream *st = l->st;
    struct errctx ec;
    errctx_clear(&ec);
    pthread_mutex_lock(&ss->lock);
    enum err e = ERR_OK;
    if (error != NULL && error->code != KALAMDB_OK) {
        bool ours = kalamdb_code_status(error->code) >= 500;
        e = err_set(&ec, ours ? (enum err)error->code : ERR_INVALID_REQUEST, "%s", error->message);
    }
    if (e == ERR_OK)
        e = take_text(st, result, &ec);
    if (e != ERR_OK) {
        stream_remove(ss, st, &ec);
    } else {
        st->durable = st->text.len;
        ss->bytes += st->text.len;
        stream_run(ss, st, false);
    }
    kalamdb_result_free(result);
    load_free(l);
    streams_end_operation(ss);
    pthread_mutex_unlock(&ss->lock);
}

/* Without the lock: `reopened` may be called before this returns. */
static void reopen(struct load *l)
{
    char sql[128];
    int n =
        snprintf(sql, sizeof sql, "UPDATE messages SET metadata = NULL WHERE msg_id = %lld RETURNING content",
            (long long)l->st->msg_id);
    struct kalamdb_statement statement = {
        .caller = {{l->record.owner.ptr, l->record.owner.len}, KALAMDB_SERVICE},
        .sql = {sql, (size_t)n},
        .durability = KALAMDB_SYNC};
    query_reopen(l->ss->db, &statement, l->st->msg_id, reopened, l);
}

/* Only those who may write the message have it opened. */
static void drop_strangers(struct stream *st)
{
    for (size_t n = st->nrequests; n > 0; n--) {
        struct stream_request *rq = stream_pop(st);
        struct errctx ec;
        errctx_clear(&ec);
        if (rq->producer != NULL && stream_allowed(st, rq->role, rq->caller, &ec) == ERR_OK) {
            stream_push(st, rq);
            continue;
        }
        if (rq->producer != NULL)
            producer_fail(rq->producer, rq->tag, st->msg_id, &ec);
        free(rq);
    }
}

/* What the record says decides; true: it is to be opened. */
static bool loaded(struct load *l, enum err err, struct errctx *ec)
{
    struct streams *ss = l->ss;
    struct stream *st = l->st;
    if (err == ERR_NOT_FOUND)
        err = err_set(ec, ERR_INVALID_REQUEST, "there is no stream of this message");
    if (err == ERR_OK && !stream_describe(st, &l->record))
        err = err_internal(ec, ERR_NO_MEMORY, "stream");
    if (err == ERR_OK && ss->closing)
        err = err_set(ec, ERR_UNAVAILABLE, "the database is shutting down");
    if (err == ERR_OK)
        drop_strangers(st);
    if (err != ERR_OK || st->first == NULL) {
        stream_remove(ss, st, ec);
        return false;
    }
    if (l->record.state == STREAM_ENDED) {
        answer_all_ended(st, l->record.bytes);
        stream_remove(ss, st, ec);
        return false;
    }
    if (l->record.state == STREAM_OPEN) { /* left so: it could not be interrupted when it should have been */
        stream_close(ss, st, true, NULL, 0, STR_NULL);
        return false;
    }
    return true;
}

static void load_done(struct commit_op *op, enum err err, const struct errctx *why)
{
    struct load *l = (struct load *)op;
    struct streams *ss = l->ss;
    struct errctx ec = *why;
    pthread_mutex_lock(&ss->lock);
    bool opens = loaded(l, err, &ec);
    if (!opens) {
        load_free(l);
        streams_end_operation(ss);
    }
    pthread_mutex_unlock(&ss->lock);
    if (opens)
        reopen(l);
}

void stream_load(struct streams *ss, struct stream *st)
{
    struct load *l = calloc(1, sizeof *l);
    struct errctx ec;
    errctx_clear(&ec);
    if (l == NULL) {
        (void)err_internal(&ec, ERR_NO_MEMORY, "stream");
        stream_remove(ss, st, &ec);
        return;
    }
    arena_init(&l->arena, OP_ARENA_BYTES_MAX);
    l->op = (struct commit_op){.apply = load_apply, .done = load_done, .durability = DURABILITY_SYNC};
    l->ss = ss;
    l->st = st;
    streams_begin_operation(ss);
    store_submit(ss->db->store, &l->op);
}
