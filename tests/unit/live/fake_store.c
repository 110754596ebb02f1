/* The few functions of store.h that live uses, over plain memory and under the script's control. Long because
 * they are all of them: a second file would split one lock. */
#include "fake_store.h"
#include "store/stream.h"
#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define USERS 64

struct analytic {
    struct store *store;
};

struct store {
    /* commit: one at a time, and barriers and the listener with it, as on a committer. data: users and
     * queues. */
    pthread_mutex_t commit, data;
    pthread_cond_t work;
    struct fake_user users[USERS];
    int nusers;
    int64_t next_id;
    struct store_listener listener;
    struct barrier_op *barriers, **barriers_end;
    struct analytic_job *jobs, **jobs_end;
    struct commit_event *group;
    bool grouping, silent, threaded, stop;
    unsigned generation;
    int fail_reads, snapshots, jobs_done, cancelled;
    enum err fail_error, barrier_error;
    struct analytic analytic;
    pthread_t threads[2];
};

struct snapshot {
    struct store *store;
    struct fake_user user;
    unsigned generation;
    bool exists;
    struct arena arena;
    struct fake_row *by_seq; /* made when first asked for */
    struct scan_bounds bounds;
};
struct hot_iter {
    struct snapshot *snap;
    struct scan_spec spec;
    size_t i;
    struct buf row;
};

static void *barrier_thread(void *arg);
static void *job_thread(void *arg);

struct store *fake_open(bool threaded)
{
    struct store *s = calloc(1, sizeof *s);
    pthread_mutex_init(&s->commit, NULL);
    pthread_mutex_init(&s->data, NULL);
    pthread_cond_init(&s->work, NULL);
    s->barriers_end = &s->barriers;
    s->jobs_end = &s->jobs;
    s->analytic.store = s;
    s->next_id = 1000;
    s->threaded = threaded;
    if (threaded) {
        pthread_create(&s->threads[0], NULL, barrier_thread, s);
        pthread_create(&s->threads[1], NULL, job_thread, s);
    }
    return s;
}

void fake_close(struct store *s)
{
    if (s->threaded) {
        pthread_mutex_lock(&s->data);
        s->stop = true;
        pthread_cond_broadcast(&s->work);
        pthread_mutex_unlock(&s->data);
        pthread_join(s->threads[0], NULL);
        pthread_join(s->threads[1], NULL);
    }
    assert(s->barriers == NULL && s->jobs == NULL && s->snapshots == 0);
    for (int i = 0; i < s->nusers; i++)
        free(s->users[i].rows);
    pthread_mutex_destroy(&s->commit);
    pthread_mutex_destroy(&s->data);
    pthread_cond_destroy(&s->work);
    free(s);
}

struct analytic *fake_analytic(struct store *s)
{
    return &s->analytic;
}

static struct fake_user *user_of(struct store *s, struct str id, bool create)
{
    for (int i = 0; i < s->nusers; i++)
        if (str_eq(str_c(s->users[i].id), id))
            return &s->users[i];
    if (!create)
        return NULL;
    assert(s->nusers < USERS);
    struct fake_user *u = &s->users[s->nusers++];
    u->no = (uint64_t)s->nusers;
    snprintf(u->id, sizeof u->id, "%.*s", STR_FMT(id));
    snprintf(u->feed, sizeof u->feed, "feed-%.*s", STR_FMT(id));
    return u;
}

struct fake_user *fake_user(struct store *s, const char *id)
{
    pthread_mutex_lock(&s->data);
    struct fake_user *u = user_of(s, str_c(id), true);
    pthread_mutex_unlock(&s->data);
    return u;
}

/* ---- commits ---- */

void commit_event_ref(struct commit_event *ev)
{
    ev->refs++;
}

void commit_event_unref(struct commit_event *ev)
{
    if (--ev->refs > 0)
        return;
    struct arena arena = ev->arena;
    free(ev->changes);
    free(ev);
    arena_release(&arena);
}

static struct str row_bytes(struct arena *a, const struct fake_row *r)
{
    struct value v[MSG_NCOLUMNS];
    for (int i = 0; i < MSG_NCOLUMNS; i++)
        v[i] = VALUE_OF_NULL;
    v[MSG_ID] = value_i64(r->msg_id);
    v[MSG_CONVERSATION_ID] = value_text(str_c(r->conversation));
    if (!r->deleted) {
        v[MSG_CONVERSATION_TYPE] = value_text(STR("ai"));
        v[MSG_FROM] = value_text(STR("alice"));
        v[MSG_TIMESTAMP] = value_ts(1760356800000000 + (int64_t)r->ins_seq);
        v[MSG_CONTENT] = value_text(str_c(r->content));
        v[MSG_METADATA] = value_json(STR("{\"a\":1}"));
    }
    struct buf b = BUF_INIT(0);
    row_encode(&b, &schema_messages,
        (struct row_meta){.seq = r->seq, .ins_seq = r->ins_seq, .flags = r->deleted ? ROW_TOMBSTONE : 0}, v);
    struct str copy = arena_str(a, buf_view(&b));
    buf_release(&b);
    return copy;
}

static struct str conversation_bytes(struct arena *a, const char *id)
{
    struct value v[CONV_NCOLUMNS];
    for (int i = 0; i < CONV_NCOLUMNS; i++)
        v[i] = VALUE_OF_NULL;
    v[CONV_ID] = value_text(str_c(id));
    v[CONV_TYPE] = value_text(STR("ai"));
    v[CONV_TITLE] = value_text(STR("title"));
    v[CONV_TOTAL_MESSAGES] = value_i64(3);
    v[CONV_CREATED] = v[CONV_UPDATED] = value_ts(1760356800000000);
    struct buf b = BUF_INIT(0);
    row_encode(&b, &schema_conversations, (struct row_meta){0}, v);
    struct str copy = arena_str(a, buf_view(&b));
    buf_release(&b);
    return copy;
}

static void publish(struct store *s, struct commit_event *ev)
{
    if (s->listener.committed != NULL && !s->silent && s->listener.wanted(s->listener.arg, ev->user_no))
        s->listener.committed(s->listener.arg, ev);
    commit_event_unref(ev);
}

/* With `commit` held. */
static void emit(
    struct store *s, struct fake_user *u, enum change_op op, const struct fake_row *r, const char *conv)
{
    struct commit_event *ev = s->group;
    if (ev == NULL) {
        ev = calloc(1, sizeof *ev);
        ev->refs = 1;
        ev->user_no = u->no;
        arena_init(&ev->arena, 64 << 20);
    }
    assert(ev->user_no == u->no);
    ev->changes = realloc(ev->changes, (ev->nchanges + 1) * sizeof *ev->changes);
    struct change *c = &ev->changes[ev->nchanges++];
    *c = (struct change){.op = op};
    if (op == CHANGE_CONVERSATION) {
        c->conversation_id = arena_str(&ev->arena, str_c(conv));
        c->row = conversation_bytes(&ev->arena, conv);
    } else {
        c->seq = r->seq;
        c->ins_seq = r->ins_seq;
        c->conversation_id = arena_str(&ev->arena, str_c(r->conversation));
        c->row = row_bytes(&ev->arena, r);
    }
    if (s->grouping)
        s->group = ev;
    else
        publish(s, ev);
}

void fake_group_begin(struct store *s)
{
    pthread_mutex_lock(&s->commit);
    s->grouping = true;
}

void fake_group_end(struct store *s)
{
    struct commit_event *ev = s->group;
    s->grouping = false;
    s->group = NULL;
    if (ev != NULL)
        publish(s, ev);
    pthread_mutex_unlock(&s->commit);
}

void fake_silent(struct store *s, bool on)
{
    s->silent = on;
}

static void begin(struct store *s)
{
    if (!s->grouping)
        pthread_mutex_lock(&s->commit);
    pthread_mutex_lock(&s->data);
}

static void end(struct store *s)
{
    if (!s->grouping)
        pthread_mutex_unlock(&s->commit);
}

int64_t fake_insert(struct store *s, const char *user, const char *conversation)
{
    begin(s);
    struct fake_user *u = user_of(s, str_c(user), true);
    if (u->nrows == u->cap) {
        u->cap = u->cap == 0 ? 16 : u->cap * 2;
        u->rows = realloc(u->rows, u->cap * sizeof *u->rows);
    }
    struct fake_row *r = &u->rows[u->nrows++];
    *r = (struct fake_row){.msg_id = s->next_id++, .seq = ++u->seq, .ins_seq = u->seq};
    snprintf(r->conversation, sizeof r->conversation, "%s", conversation);
    snprintf(r->content, sizeof r->content, "v%llu", (unsigned long long)r->seq);
    struct fake_row copy = *r;
    pthread_mutex_unlock(&s->data);
    emit(s, u, CHANGE_INSERT, &copy, NULL);
    end(s);
    return copy.msg_id;
}

static struct fake_row *row_of(struct fake_user *u, int64_t msg_id)
{
    for (size_t i = u->nrows; i-- > 0;)
        if (u->rows[i].msg_id == msg_id)
            return &u->rows[i];
    return NULL;
}

static void change(struct store *s, const char *user, int64_t msg_id, bool delete)
{
    begin(s);
    struct fake_user *u = user_of(s, str_c(user), true);
    struct fake_row *r = row_of(u, msg_id);
    assert(r != NULL && !r->deleted);
    r->seq = ++u->seq;
    r->cold = false;
    r->deleted = delete;
    snprintf(r->content, sizeof r->content, "v%llu", (unsigned long long)r->seq);
    struct fake_row copy = *r;
    pthread_mutex_unlock(&s->data);
    emit(s, u, delete ? CHANGE_DELETE : CHANGE_UPDATE, &copy, NULL);
    end(s);
}

void fake_update(struct store *s, const char *user, int64_t msg_id)
{
    change(s, user, msg_id, false);
}

void fake_delete(struct store *s, const char *user, int64_t msg_id)
{
    change(s, user, msg_id, true);
}

void fake_announce(struct store *s, const char *user, const char *conversation)
{
    begin(s);
    struct fake_user *u = user_of(s, str_c(user), true);
    pthread_mutex_unlock(&s->data);
    emit(s, u, CHANGE_CONVERSATION, NULL, conversation);
    end(s);
}

void fake_consolidate(struct store *s, const char *user)
{
    begin(s);
    struct fake_user *u = user_of(s, str_c(user), true);
    for (size_t i = 0; i < u->nrows; i++)
        u->rows[i].cold |= !u->rows[i].deleted;
    u->cold_max = u->seq;
    pthread_mutex_unlock(&s->data);
    end(s);
}

void fake_forget(struct store *s, const char *user, uint64_t seq)
{
    begin(s);
    struct fake_user *u = user_of(s, str_c(user), true);
    size_t n = 0;
    for (size_t i = 0; i < u->nrows; i++)
        if (!u->rows[i].deleted || u->rows[i].seq > seq)
            u->rows[n++] = u->rows[i];
    u->nrows = n;
    u->forgotten = seq;
    pthread_mutex_unlock(&s->data);
    end(s);
}

void fake_new_history(struct store *s, const char *user, const char *feed)
{
    begin(s);
    struct fake_user *u = user_of(s, str_c(user), true);
    snprintf(u->feed, sizeof u->feed, "%s", feed);
    u->nrows = 0;
    u->seq = u->cold_max = u->forgotten = 0;
    pthread_mutex_unlock(&s->data);
    end(s);
}

void fake_reset(struct store *s)
{
    pthread_mutex_lock(&s->commit);
    pthread_mutex_lock(&s->data);
    s->generation++;
    pthread_mutex_unlock(&s->data);
    s->listener.reset(s->listener.arg);
    pthread_mutex_unlock(&s->commit);
}

void fake_fail_reads(struct store *s, int n, enum err e)
{
    s->fail_reads = n;
    s->fail_error = e;
}

void fake_fail_barriers(struct store *s, enum err e)
{
    s->barrier_error = e;
}

void store_set_listener(struct store *s, const struct store_listener *l)
{
    s->listener = *l;
}

/* ---- queues ---- */

void store_barrier(struct store *s, struct barrier_op *op)
{
    pthread_mutex_lock(&s->data);
    op->next = NULL;
    *s->barriers_end = op;
    s->barriers_end = &op->next;
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->data);
}

static struct barrier_op *next_barrier(struct store *s)
{
    struct barrier_op *op = s->barriers;
    if (op != NULL && (s->barriers = op->next) == NULL)
        s->barriers_end = &s->barriers;
    return op;
}

static void run_barrier(struct store *s, struct barrier_op *op)
{
    pthread_mutex_lock(&s->commit);
    pthread_mutex_lock(&s->data);
    enum err e = s->barrier_error;
    if (e == ERR_OK && op->user_id.ptr != NULL)
        (void)user_of(s, op->user_id, true);
    pthread_mutex_unlock(&s->data);
    op->fn(op, e);
    pthread_mutex_unlock(&s->commit);
}

int fake_run_barriers(struct store *s)
{
    int n = 0;
    for (;; n++) {
        pthread_mutex_lock(&s->data);
        struct barrier_op *op = next_barrier(s);
        pthread_mutex_unlock(&s->data);
        if (op == NULL)
            return n;
        run_barrier(s, op);
    }
}

void analytic_submit(struct analytic *a, struct analytic_job *job)
{
    struct store *s = a->store;
    pthread_mutex_lock(&s->data);
    job->next = NULL;
    *s->jobs_end = job;
    s->jobs_end = &job->next;
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->data);
}

static struct analytic_job *next_job(struct store *s)
{
    struct analytic_job *job = s->jobs;
    if (job != NULL && (s->jobs = job->next) == NULL)
        s->jobs_end = &s->jobs;
    s->jobs_done += job != NULL;
    return job;
}

int fake_run_jobs(struct store *s)
{
    int n = 0;
    for (;; n++) {
        pthread_mutex_lock(&s->data);
        struct analytic_job *job = next_job(s);
        pthread_mutex_unlock(&s->data);
        if (job == NULL)
            return n;
        job->run(job);
    }
}

int fake_cancelled(struct store *s)
{
    return s->cancelled;
}

int fake_jobs_done(struct store *s)
{
    return s->jobs_done;
}

static void *barrier_thread(void *arg)
{
    struct store *s = arg;
    pthread_mutex_lock(&s->data);
    for (;;) {
        struct barrier_op *op = next_barrier(s);
        if (op != NULL) {
            pthread_mutex_unlock(&s->data);
            run_barrier(s, op);
            pthread_mutex_lock(&s->data);
        } else if (s->stop) {
            break;
        } else {
            pthread_cond_wait(&s->work, &s->data);
        }
    }
    pthread_mutex_unlock(&s->data);
    return NULL;
}

static void *job_thread(void *arg)
{
    struct store *s = arg;
    pthread_mutex_lock(&s->data);
    for (;;) {
        struct analytic_job *job = next_job(s);
        if (job != NULL) {
            pthread_mutex_unlock(&s->data);
            job->run(job);
            pthread_mutex_lock(&s->data);
        } else if (s->stop) {
            break;
        } else {
            pthread_cond_wait(&s->work, &s->data);
        }
    }
    pthread_mutex_unlock(&s->data);
    return NULL;
}

/* ---- snapshots ---- */

enum err snapshot_open(struct store *s, struct str user_id, struct snapshot **ret, struct errctx *ec)
{
    (void)ec;
    struct snapshot *snap = calloc(1, sizeof *snap);
    snap->store = s;
    arena_init(&snap->arena, 1 << 20);
    pthread_mutex_lock(&s->data);
    s->snapshots++;
    snap->generation = s->generation;
    struct fake_user *u = user_of(s, user_id, false);
    if (u != NULL) {
        snap->exists = true;
        snap->user = *u;
        snap->user.rows = malloc((u->nrows + 1) * sizeof *u->rows);
        if (u->nrows > 0)
            memcpy(snap->user.rows, u->rows, u->nrows * sizeof *u->rows);
    }
    pthread_mutex_unlock(&s->data);
    *ret = snap;
    return ERR_OK;
}

void snapshot_close(struct snapshot *snap)
{
    pthread_mutex_lock(&snap->store->data);
    snap->store->snapshots--;
    pthread_mutex_unlock(&snap->store->data);
    arena_release(&snap->arena);
    free(snap->user.rows);
    free(snap->by_seq);
    free(snap);
}

int fake_open_snapshots(struct store *s)
{
    pthread_mutex_lock(&s->data);
    int n = s->snapshots;
    pthread_mutex_unlock(&s->data);
    return n;
}

uint64_t snapshot_seq(const struct snapshot *snap)
{
    return snap->user.seq;
}

struct str snapshot_feed(const struct snapshot *snap)
{
    return str_c(snap->user.feed);
}

uint64_t snapshot_cold_max_seq(const struct snapshot *snap)
{
    return snap->user.cold_max;
}

uint64_t snapshot_forgotten_seq(const struct snapshot *snap)
{
    return snap->user.forgotten;
}

uint64_t snapshot_user_no(const struct snapshot *snap)
{
    return snap->user.no;
}

static enum err readable(struct snapshot *snap)
{
    struct store *s = snap->store;
    pthread_mutex_lock(&s->data);
    enum err e = snap->generation != s->generation ? ERR_UNAVAILABLE : ERR_OK;
    if (e == ERR_OK && s->fail_reads > 0) {
        s->fail_reads--;
        e = s->fail_error;
    }
    pthread_mutex_unlock(&s->data);
    return e;
}

enum err snapshot_arrival(
    struct snapshot *snap, int64_t msg_id, uint64_t *ret_ins_seq, bool *ret_cold, struct errctx *ec)
{
    (void)ec;
    const struct fake_row *best = NULL;
    for (size_t i = 0; i < snap->user.nrows; i++)
        if (snap->user.rows[i].msg_id <= msg_id)
            best = &snap->user.rows[i];
    *ret_cold = best != NULL && best->cold;
    if (!*ret_cold)
        *ret_ins_seq = best != NULL ? best->ins_seq : 0;
    return readable(snap);
}

enum err snapshot_conversation(struct snapshot *snap, struct str id, struct value *ret, struct errctx *ec)
{
    (void)ec;
    enum err e = readable(snap);
    if (e != ERR_OK)
        return e;
    struct str copy = arena_str(&snap->arena, id);
    struct row_meta meta;
    return row_decode(conversation_bytes(&snap->arena, copy.ptr), &schema_conversations, &meta, ret);
}

static int by_seq(const void *a, const void *b)
{
    const struct fake_row *x = a, *y = b;
    return x->seq < y->seq ? -1 : x->seq > y->seq;
}

static const struct fake_row *sorted(struct snapshot *snap)
{
    if (snap->by_seq == NULL) {
        snap->by_seq = malloc((snap->user.nrows + 1) * sizeof *snap->by_seq);
        if (snap->user.nrows > 0)
            memcpy(snap->by_seq, snap->user.rows, snap->user.nrows * sizeof *snap->by_seq);
        qsort(snap->by_seq, snap->user.nrows, sizeof *snap->by_seq, by_seq);
    }
    return snap->by_seq;
}

enum err hot_iter_open(
    struct snapshot *snap, const struct scan_spec *spec, struct hot_iter **ret, struct errctx *ec)
{
    (void)ec;
    enum err e = readable(snap);
    if (e != ERR_OK)
        return e;
    *ret = calloc(1, sizeof **ret);
    (*ret)->snap = snap;
    (*ret)->spec = *spec;
    return ERR_OK;
}

static bool yields(const struct hot_iter *it, const struct fake_row *r)
{
    const struct scan_spec *spec = &it->spec;
    return !r->cold && r->seq >= spec->seq_min && r->seq <= spec->seq_max &&
           (spec->tombstones || !r->deleted) &&
           (spec->conversation_id.ptr == NULL || str_eq(spec->conversation_id, str_c(r->conversation)));
}

/* SCAN_TABLE: "a", "b", "c" once asked for. */
enum err hot_iter_next(struct hot_iter *it, struct str *ret_row, struct errctx *ec)
{
    (void)ec;
    enum err e = readable(it->snap);
    if (e != ERR_OK)
        return e;
    if (it->spec.order == SCAN_TABLE) {
        static const char *const names[] = {"a", "b", "c"};
        if (it->i == 3)
            return ERR_NOT_FOUND;
        *ret_row = conversation_bytes(&it->snap->arena, names[it->i++]);
        return ERR_OK;
    }
    const struct fake_row *rows = sorted(it->snap);
    while (it->i < it->snap->user.nrows) {
        const struct fake_row *r = &rows[it->i++];
        if (!yields(it, r))
            continue;
        arena_clear(&it->snap->arena);
        *ret_row = row_bytes(&it->snap->arena, r);
        return ERR_OK;
    }
    return ERR_NOT_FOUND;
}

void hot_iter_close(struct hot_iter *it)
{
    free(it);
}

/* ---- the worker: reads the two statements that live sends ---- */

enum err snapshot_input(struct snapshot *snap, const struct schema *table, const struct scan_bounds *bounds,
    bool with_tombstones, struct analytic_input *ret, struct errctx *ec)
{
    (void)ec;
    assert(with_tombstones);
    snap->bounds = *bounds;
    *ret =
        (struct analytic_input){.schema = table, .rows_fd = -1, .file_fds = (const int *)(const void *)snap};
    return readable(snap);
}

static uint64_t number_after(struct str sql, const char *what)
{
    const char *p = memmem(sql.ptr, sql.len, what, strlen(what));
    assert(p != NULL);
    return strtoull(p + strlen(what), NULL, 10);
}

static enum err answer_arrival(struct snapshot *snap, struct str sql, struct rowset *ret)
{
    int64_t id = (int64_t)number_after(sql, "msg_id <= ");
    struct value v = VALUE_OF_NULL;
    for (size_t i = 0; i < snap->user.nrows; i++)
        if (snap->user.rows[i].msg_id <= id)
            v = value_i64((int64_t)snap->user.rows[i].ins_seq);
    enum value_type type = VALUE_BIGINT;
    struct str name = STR("_ins_seq");
    enum err e = rowset_set_columns(ret, 1, &name, &type);
    return e == ERR_OK && v.type != VALUE_NULL ? rowset_add(ret, &v) : e;
}

static bool matches(struct snapshot *snap, struct str sql, const struct fake_row *r)
{
    uint64_t from = number_after(sql, "_ins_seq <= ");
    const char *filter = memmem(sql.ptr, sql.len, "conversation_id = '", 19);
    if (filter != NULL && strncmp(filter + 19, r->conversation, strlen(r->conversation)) != 0)
        return false;
    uint64_t after = number_after(sql, "_seq > "), last = number_after(sql, "_seq <= ");
    assert((uint64_t)snap->bounds.seq_min <= after + 1 && (uint64_t)snap->bounds.seq_max >= last);
    /* Pruned by the bounds, as the real input may be. */
    return r->msg_id <= snap->bounds.id_max && r->seq > after && r->seq <= last &&
           (!r->deleted || r->ins_seq <= from);
}

static enum err answer_rows(struct snapshot *snap, const struct analytic_request *rq, struct rowset *ret)
{
    struct str names[MSG_NCOLUMNS + 2];
    enum value_type types[MSG_NCOLUMNS + 2];
    struct value v[MSG_NCOLUMNS + 2];
    for (int i = 0; i < MSG_NCOLUMNS + 2; i++) {
        names[i] = STR("x");
        types[i] = VALUE_TEXT;
    }
    enum err e = rowset_set_columns(ret, MSG_NCOLUMNS + 2, names, types);
    const struct fake_row *rows = sorted(snap);
    size_t limit = number_after(rq->sql, "LIMIT "), total = 0;
    for (size_t i = 0; i < snap->user.nrows; i++)
        total += matches(snap, rq->sql, &rows[i]);
    for (size_t i = 0; i < snap->user.nrows && e == ERR_OK && ret->nrows < limit; i++) {
        if (!matches(snap, rq->sql, &rows[i]))
            continue;
        struct row_meta meta;
        arena_clear(&snap->arena);
        e = row_decode(row_bytes(&snap->arena, &rows[i]), &schema_messages, &meta, v);
        v[MSG_NCOLUMNS] = value_bool(rows[i].deleted);
        v[MSG_NCOLUMNS + 1] = value_i64((int64_t)total);
        if (v[MSG_METADATA].type == VALUE_JSON)
            v[MSG_METADATA].type = VALUE_TEXT; /* as DuckDB may say */
        if (e == ERR_OK)
            e = rowset_add(ret, v);
    }
    return e;
}

enum err analytic_run(
    struct analytic *a, const struct analytic_request *rq, struct rowset *ret, struct errctx *ec)
{
    (void)ec;
    if (rq->cancel->state != 0) {
        a->store->cancelled++;
        return ERR_TIMEOUT;
    }
    struct snapshot *snap = (struct snapshot *)(uintptr_t)rq->inputs[0].file_fds;
    enum err e = readable(snap);
    if (e != ERR_OK)
        return e;
    rowset_init(ret, 64 << 20);
    e = str_starts_with(rq->sql, STR("SELECT _ins_seq")) ? answer_arrival(snap, rq->sql, ret)
                                                         : answer_rows(snap, rq, ret);
    if (e != ERR_OK)
        rowset_release(ret);
    return e;
}

void analytic_cancel(struct analytic_cancel *c)
{
    c->state = 1;
}

/* No open messages here: stream_test.c has them on the real store. */

size_t store_stream_notes(struct store *s, uint64_t user_no, struct stream_note *ret, size_t max)
{
    (void)s;
    (void)user_no;
    (void)ret;
    (void)max;
    return 0;
}

enum err snapshot_message(struct snapshot *snap, int64_t msg_id, struct row_meta *ret_meta,
    struct value *ret_values, struct errctx *ec)
{
    (void)snap;
    (void)msg_id;
    (void)ret_meta;
    (void)ret_values;
    (void)ec;
    return ERR_NOT_FOUND;
}
