#include "engine/stream.h"
#include "base/json.h"
#include "base/plant.h"
#include <stdlib.h>

/* ---- the table ---------------------------------------------------------------------------------------- */

static struct stream **bucket(struct streams *ss, int64_t msg_id)
{
    uint64_t x = (uint64_t)msg_id;
    x ^= x >> 12; /* ids of one moment differ in their lowest bits, of others above */
    return &ss->buckets[x * 0x9E3779B97F4A7C15u >> 52];
}
_Static_assert(STREAMS_BUCKETS == 1 << (64 - 52), "bucket takes the uppermost bits");

struct stream *stream_find(struct streams *ss, int64_t msg_id)
{
    struct stream *st = *bucket(ss, msg_id);
    while (st != NULL && st->msg_id != msg_id)
        st = st->hash_next;
    return st;
}

struct stream *stream_add(struct streams *ss, int64_t msg_id)
{
    struct stream *st = calloc(1, sizeof *st);
    if (st == NULL)
        return NULL;
    struct stream **link = bucket(ss, msg_id);
    st->msg_id = msg_id;
    st->phase = PHASE_LOADING;
    st->last = &st->first;
    /* Looked up at the first flush: what was lost since the commit that began it is counted already. */
    st->lost_seen = UINT64_MAX;
    st->hash_next = *link;
    *link = st;
    ss->count++;
    return st;
}

bool stream_describe(struct stream *st, const struct stream_record *r)
{
    size_t n = r->owner.len + r->producer.len + r->conversation_id.len;
    char *p = malloc(n + 1);
    if (p == NULL)
        return false;
    free((char *)st->owner.ptr);
    memcpy(p, r->owner.ptr, r->owner.len);
    memcpy(p + r->owner.len, r->producer.ptr, r->producer.len);
    memcpy(p + r->owner.len + r->producer.len, r->conversation_id.ptr, r->conversation_id.len);
    st->owner = str_n(p, r->owner.len);
    st->author = str_n(p + r->owner.len, r->producer.len);
    st->conversation_id = str_n(p + r->owner.len + r->producer.len, r->conversation_id.len);
    st->home = r->home;
    st->group = r->group;
    return true;
}

void stream_attach(struct stream *st, struct kalamdb_producer *p)
{
    if (st->producer == p)
        return;
    stream_detach(st);
    st->producer = p;
    st->own_next = p->streams;
    st->own_pprev = &p->streams;
    if (st->own_next != NULL)
        st->own_next->own_pprev = &st->own_next;
    p->streams = st;
}

static void wake_up(struct kalamdb_producer *p)
{
    if (p->armed && !p->closed) {
        p->armed = false;
        p->wake(p->arg);
    }
}

void stream_detach(struct stream *st)
{
    if (st->ack != NULL)
        st->ack->stream = NULL;
    st->ack = NULL;
    if (st->producer == NULL)
        return;
    *st->own_pprev = st->own_next;
    if (st->own_next != NULL)
        st->own_next->own_pprev = st->own_pprev;
    if (!st->producer->db->streams->closing)
        wake_up(st->producer); /* who waited for this message waits in vain */
    st->producer = NULL;
}

/* ---- answers ------------------------------------------------------------------------------------------ */

void producer_unref(struct kalamdb_producer *p)
{
    if (--p->refs > 0)
        return;
    for (struct producer_event *e = p->first, *next; e != NULL; e = next) {
        next = e->next;
        free(e);
    }
    free(p);
}

static struct producer_event *push(struct kalamdb_producer *p, const struct kalamdb_stream_event *event)
{
    struct producer_event *e = p == NULL || p->closed ? NULL : calloc(1, sizeof *e);
    if (e == NULL)
        return NULL; /* out of memory: what asked for it asks again in time, or gives up */
    e->event = *event;
    *p->last = e;
    p->last = &e->next;
    wake_up(p);
    return e;
}

void producer_tell(struct kalamdb_producer *p, const struct kalamdb_stream_event *event)
{
    (void)push(p, event);
}

void producer_fail(struct kalamdb_producer *p, uint64_t tag, int64_t msg_id, const struct errctx *ec)
{
    struct kalamdb_stream_event event = {.kind = KALAMDB_STREAM_ERROR, .tag = tag, .msg_id = msg_id};
    (void)engine_error(&event.error, ec);
    producer_tell(p, &event);
}

void stream_ack(struct stream *st)
{
    struct kalamdb_stream_event event = {
        .kind = KALAMDB_STREAM_ACK, .msg_id = st->msg_id, .offset = st->durable};
    if (st->ack != NULL) {
        st->ack->event.offset = st->durable;
        return;
    }
    st->ack = push(st->producer, &event);
    if (st->ack != NULL)
        st->ack->stream = st;
}

enum kalamdb_stream_event_kind kalamdb_producer_next(
    struct kalamdb_producer *p, struct kalamdb_stream_event *ret)
{
    struct streams *ss = p->db->streams;
    pthread_mutex_lock(&ss->lock);
    struct producer_event *e = p->first;
    if (e == NULL) {
        p->armed = true;
        *ret = (struct kalamdb_stream_event){.kind = KALAMDB_STREAM_PENDING};
    } else {
        p->first = e->next;
        if (p->first == NULL)
            p->last = &p->first;
        if (e->stream != NULL)
            e->stream->ack = NULL;
        *ret = e->event;
        free(e);
    }
    pthread_mutex_unlock(&ss->lock);
    return ret->kind;
}

static bool awaits(const struct kalamdb_producer *p)
{
    if (p->first != NULL || p->refs > 1 || p->waiting > 0)
        return true;
    for (const struct stream *st = p->streams; st != NULL; st = st->own_next)
        if (st->dirty || st->in_flush || st->phase != PHASE_RUNNING)
            return true;
    return false;
}

bool kalamdb_producer_busy(struct kalamdb_producer *p)
{
    struct streams *ss = p->db->streams;
    pthread_mutex_lock(&ss->lock);
    bool busy = awaits(p);
    pthread_mutex_unlock(&ss->lock);
    return busy;
}

/* ---- requests ----------------------------------------------------------------------------------------- */

enum err stream_allowed(const struct stream *st, enum role role, struct str caller, struct errctx *ec)
{
    if (role == ROLE_USER && !str_eq(caller, st->author))
        return err_set(ec, ERR_FORBIDDEN, "the message is streamed by somebody else");
    return ERR_OK;
}

static void tell_offset(struct stream *st, const struct stream_request *rq, const char *why)
{
    struct kalamdb_stream_event event = {.kind = KALAMDB_STREAM_ERROR,
        .tag = rq->tag,
        .msg_id = st->msg_id,
        .offset = st->text.len,
        .has_offset = true};
    struct errctx ec;
    errctx_clear(&ec);
    (void)err_set(&ec, ERR_INVALID_REQUEST, "%s", why);
    (void)engine_error(&event.error, &ec);
    producer_tell(rq->producer, &event);
}

void stream_answer_ended(const struct stream *st, const struct stream_request *rq, uint64_t bytes)
{
    struct kalamdb_stream_event event = {.kind = KALAMDB_STREAM_ENDED,
        .tag = rq->tag,
        .msg_id = st->msg_id,
        .offset = bytes,
        .has_offset = true};
    struct errctx ec;
    errctx_clear(&ec);
    if (!rq->end) {
        event.kind = KALAMDB_STREAM_ERROR;
        (void)err_set(&ec, ERR_INVALID_REQUEST, "the stream of this message has ended");
        (void)engine_error(&event.error, &ec);
    }
    producer_tell(rq->producer, &event);
}

static bool is_boundary(const struct buf *text, uint64_t offset)
{
    return offset >= text->len || ((unsigned char)text->ptr[offset] & 0xc0) != 0x80;
}

/* What is wrong with the append, as clients read it; NULL: nothing. */
static const char *append_problem(
    const struct streams *ss, const struct stream *st, const struct stream_request *rq)
{
    if (rq->offset > st->text.len)
        return "the offset leaves a hole: the text is shorter";
    if (!is_boundary(&st->text, rq->offset))
        return "the offset lies within a character";
    size_t known = st->text.len - (size_t)rq->offset;
    size_t same = rq->text.len < known ? rq->text.len : known;
    if (same > 0 && memcmp(st->text.ptr + rq->offset, rq->text.ptr, same) != 0)
        return "the text differs from what is there";
    if (rq->text.len - same > ss->db->options.max_content_bytes - st->text.len)
        return "the text would be longer than max_content_bytes";
    return NULL;
}

static void serve_append(struct streams *ss, struct stream *st, const struct stream_request *rq)
{
    struct errctx ec;
    errctx_clear(&ec);
    const char *why = append_problem(ss, st, rq);
    if (why != NULL) {
        tell_offset(st, rq, why);
        return;
    }
    size_t known = st->text.len - (size_t)rq->offset;
    struct str fresh = rq->text.len > known ? str_n(rq->text.ptr + known, rq->text.len - known) : STR_NULL;
    if (fresh.len > STREAMS_BYTES_MAX - ss->bytes) {
        (void)err_set(&ec, ERR_UNAVAILABLE, "too much text is being streamed at once");
        producer_fail(rq->producer, rq->tag, st->msg_id, &ec);
        return;
    }
    stream_attach(st, rq->producer);
    buf_str(&st->text, fresh);
    if (st->text.failed) {
        st->text.failed = false;
        (void)err_internal(&ec, ERR_NO_MEMORY, "text of a stream");
        producer_fail(rq->producer, rq->tag, st->msg_id, &ec);
        return;
    }
    ss->bytes += fresh.len;
    if (PLANT(STREAM_ACK_EARLY))
        st->durable = st->text.len;
    if (st->durable >= rq->offset + rq->text.len)
        stream_ack(st);
    else
        stream_make_dirty(ss, st);
}

static void serve(struct streams *ss, struct stream *st, const struct stream_request *rq)
{
    struct errctx ec;
    errctx_clear(&ec);
    if (rq->producer == NULL)
        return;
    if (stream_allowed(st, rq->role, rq->caller, &ec) != ERR_OK)
        producer_fail(rq->producer, rq->tag, st->msg_id, &ec);
    else if (rq->end)
        stream_close(ss, st, false, rq->producer, rq->tag, rq->text);
    else
        serve_append(ss, st, rq);
}

struct stream_request *stream_pop(struct stream *st)
{
    struct stream_request *rq = st->first;
    st->first = rq->next;
    if (st->first == NULL)
        st->last = &st->first;
    st->nrequests--;
    if (rq->producer != NULL)
        rq->producer->waiting--;
    return rq;
}

void stream_push(struct stream *st, struct stream_request *rq)
{
    rq->next = NULL;
    *st->last = rq;
    st->last = &rq->next;
    st->nrequests++;
    rq->producer->waiting++;
}

void stream_run(struct streams *ss, struct stream *st, bool keep)
{
    st->phase = PHASE_RUNNING;
    while (st->first != NULL && st->phase == PHASE_RUNNING) {
        struct stream_request *rq = stream_pop(st);
        serve(ss, st, rq);
        free(rq);
    }
    if (st->phase == PHASE_RUNNING && st->producer == NULL && !keep)
        stream_close(ss, st, true, NULL, 0, STR_NULL); /* whoever wanted it has gone */
}

void stream_remove(struct streams *ss, struct stream *st, const struct errctx *ec)
{
    while (st->first != NULL) {
        struct stream_request *rq = stream_pop(st);
        if (rq->producer != NULL)
            producer_fail(rq->producer, rq->tag, st->msg_id, ec);
        free(rq);
    }
    stream_make_clean(ss, st);
    stream_detach(st);
    struct stream **link = bucket(ss, st->msg_id);
    while (*link != st)
        link = &(*link)->hash_next;
    *link = st->hash_next;
    ss->count--;
    ss->bytes -= st->text.len;
    buf_release(&st->text);
    free((char *)st->owner.ptr);
    free(st);
}

/* Behind those that wait already. */
static void queue(struct stream *st, const struct stream_request *rq)
{
    struct errctx ec;
    errctx_clear(&ec);
    size_t n = rq->caller.len + rq->text.len;
    struct stream_request *copy = st->nrequests < STREAM_REQUESTS_MAX ? malloc(sizeof *copy + n) : NULL;
    if (copy == NULL) {
        (void)err_set(&ec, ERR_UNAVAILABLE, "too many appends wait for this message");
        producer_fail(rq->producer, rq->tag, st->msg_id, &ec);
        return;
    }
    char *p = (char *)(copy + 1);
    *copy = *rq;
    memcpy(p, rq->caller.ptr, rq->caller.len);
    copy->caller.ptr = p;
    if (rq->text.len > 0)
        memcpy(p + rq->caller.len, rq->text.ptr, rq->text.len);
    if (rq->text.ptr != NULL)
        copy->text.ptr = p + rq->caller.len;
    stream_push(st, copy);
}

static void submit(struct kalamdb_producer *p, int64_t msg_id, const struct stream_request *rq)
{
    struct streams *ss = p->db->streams;
    struct errctx ec;
    errctx_clear(&ec);
    pthread_mutex_lock(&ss->lock);
    struct stream *st = stream_find(ss, msg_id);
    if (ss->closing) {
        (void)err_set(&ec, ERR_UNAVAILABLE, "the database is shutting down");
        producer_fail(p, rq->tag, msg_id, &ec);
    } else if (st != NULL && st->phase == PHASE_RUNNING) {
        serve(ss, st, rq);
    } else if (st != NULL) {
        queue(st, rq);
    } else if ((st = stream_add(ss, msg_id)) == NULL) {
        (void)err_internal(&ec, ERR_NO_MEMORY, "stream");
        producer_fail(p, rq->tag, msg_id, &ec);
    } else {
        queue(st, rq);
        stream_load(ss, st);
    }
    pthread_mutex_unlock(&ss->lock);
}

/* ---- what hosts call ---------------------------------------------------------------------------------- */

static enum role role_of(enum kalamdb_role role)
{
    return role == KALAMDB_ADMIN ? ROLE_ADMIN : role == KALAMDB_SERVICE ? ROLE_SERVICE : ROLE_USER;
}

static void refuse(struct kalamdb_producer *p, uint64_t tag, int64_t msg_id, const char *why)
{
    struct errctx ec;
    errctx_clear(&ec);
    (void)err_set(&ec, ERR_INVALID_REQUEST, "%s", why);
    pthread_mutex_lock(&p->db->streams->lock);
    producer_fail(p, tag, msg_id, &ec);
    pthread_mutex_unlock(&p->db->streams->lock);
}

void kalamdb_stream_append(struct kalamdb_producer *p, const struct kalamdb_caller *caller, int64_t msg_id,
    uint64_t offset, struct kalamdb_str text, uint64_t tag)
{
    struct stream_request rq = {.producer = p,
        .tag = tag,
        .offset = offset,
        .role = role_of(caller->role),
        .caller = engine_str(caller->user_id),
        .text = engine_str(text)};
    if (rq.text.len > 0 && memchr(rq.text.ptr, 0, rq.text.len) != NULL)
        refuse(p, tag, msg_id, "a text may not contain NUL (U+0000)");
    else if (!utf8_valid(rq.text))
        refuse(p, tag, msg_id, "the text is not valid UTF-8");
    else if (msg_id <= 0)
        refuse(p, tag, msg_id, "msgId must be positive");
    else
        submit(p, msg_id, &rq);
}

void kalamdb_stream_end(struct kalamdb_producer *p, const struct kalamdb_caller *caller, int64_t msg_id,
    struct kalamdb_str metadata, uint64_t tag)
{
    struct stream_request rq = {.producer = p,
        .tag = tag,
        .role = role_of(caller->role),
        .end = true,
        .caller = engine_str(caller->user_id),
        .text = engine_str(metadata)};
    struct errctx ec;
    errctx_clear(&ec);
    struct value m = rq.text.ptr != NULL ? value_json(rq.text) : VALUE_OF_NULL;
    if (rq.text.ptr != NULL && !json_valid(rq.text))
        refuse(p, tag, msg_id, "metadata is not valid JSON");
    else if (chat_stream_metadata_check(m, &ec) != ERR_OK)
        refuse(p, tag, msg_id, ec.message);
    else if (msg_id <= 0)
        refuse(p, tag, msg_id, "msgId must be positive");
    else
        submit(p, msg_id, &rq);
}

kalamdb_code kalamdb_producer_open(struct kalamdb *db, void (*wake)(void *arg), void *arg,
    struct kalamdb_producer **ret, struct kalamdb_error *error)
{
    struct errctx ec;
    errctx_clear(&ec);
    struct kalamdb_producer *p = calloc(1, sizeof *p);
    if (p == NULL) {
        err_internal(&ec, ERR_NO_MEMORY, "producer");
        return engine_error(error, &ec);
    }
    *p = (struct kalamdb_producer){.db = db, .wake = wake, .arg = arg, .armed = true, .refs = 1};
    p->last = &p->first;
    *ret = p;
    return KALAMDB_OK;
}

void kalamdb_producer_close(struct kalamdb_producer *p)
{
    struct streams *ss = p->db->streams;
    pthread_mutex_lock(&ss->lock);
    p->closed = true;
    /* Those that wait for its requests are few, but they can be anywhere. */
    for (size_t i = 0; i < STREAMS_BUCKETS && ss->count > 0; i++)
        for (struct stream *st = ss->buckets[i]; st != NULL; st = st->hash_next)
            for (struct stream_request *rq = st->first; rq != NULL; rq = rq->next)
                if (rq->producer == p)
                    rq->producer = NULL;
    while (p->streams != NULL) {
        struct stream *st = p->streams;
        stream_detach(st);
        if (st->phase == PHASE_RUNNING && !ss->closing)
            stream_close(ss, st, true, NULL, 0, STR_NULL);
    }
    producer_unref(p);
    pthread_mutex_unlock(&ss->lock);
}

/* ---- open and close ----------------------------------------------------------------------------------- */

void streams_begin_operation(struct streams *ss)
{
    ss->operations++;
}

void streams_end_operation(struct streams *ss)
{
    if (--ss->operations == 0)
        pthread_cond_broadcast(&ss->idle);
}

static bool interrupt_left(void *arg, int64_t msg_id, const struct stream_record *r)
{
    struct streams *ss = arg;
    if (r->state != STREAM_OPEN)
        return true;
    pthread_mutex_lock(&ss->lock);
    struct stream_note note = {msg_id, r->home, r->group};
    struct stream *st = stream_add(ss, msg_id);
    bool good = st != NULL && stream_describe(st, r) && store_stream_note(ss->db->store, note) == ERR_OK;
    if (good)
        stream_close(ss, st, true, NULL, 0, STR_NULL);
    pthread_mutex_unlock(&ss->lock);
    return good;
}

/* A message that cannot be interrupted now (no space on the disk) stays as it is; the first append to it
 * tries again. */
enum err streams_open(struct kalamdb *db, struct errctx *ec)
{
    struct streams *ss = calloc(1, sizeof *ss);
    if (ss == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "streams");
    pthread_mutex_init(&ss->lock, NULL);
    pthread_cond_init(&ss->idle, NULL);
    ss->db = db;
    ss->dirty_last = &ss->dirty_first;
    db->streams = ss;
    enum err e = store_each_stream(db->store, interrupt_left, ss, ec);
    pthread_mutex_lock(&ss->lock);
    while (ss->operations > 0)
        pthread_cond_wait(&ss->idle, &ss->lock);
    pthread_mutex_unlock(&ss->lock);
    return e;
}

void streams_stop(struct kalamdb *db)
{
    struct streams *ss = db->streams;
    struct errctx ec;
    errctx_clear(&ec);
    (void)err_set(&ec, ERR_UNAVAILABLE, "the database is shutting down");
    pthread_mutex_lock(&ss->lock);
    ss->closing = true;
    while (ss->operations > 0)
        pthread_cond_wait(&ss->idle, &ss->lock);
    pthread_mutex_unlock(&ss->lock);
}

void streams_close(struct kalamdb *db)
{
    struct streams *ss = db->streams;
    struct errctx ec;
    errctx_clear(&ec);
    if (ss == NULL)
        return;
    for (size_t i = 0; i < STREAMS_BUCKETS; i++)
        while (ss->buckets[i] != NULL)
            stream_remove(ss, ss->buckets[i], &ec);
    pthread_cond_destroy(&ss->idle);
    pthread_mutex_destroy(&ss->lock);
    free(ss);
    db->streams = NULL;
}
