#include "engine/query.h"
#include "base/json.h"
#include "base/timefmt.h"
#include "engine/insert.h"
#include "engine/modify.h"
#include "engine/read.h"
#include "engine/upload.h"
#include <stdlib.h>

/* A statement's text, parameters, plan and, of an INSERT, rows. */
#define STATEMENT_BYTES_MAX ((size_t)256 << 20)

/* ---- life ---- */

static struct kalamdb_query *query_new(struct kalamdb *db, kalamdb_done *done, void *arg)
{
    struct kalamdb_query *q = malloc(sizeof *q);
    if (q == NULL)
        return NULL;
    /* All but the error context, which is large and clears itself in four bytes. */
    memset(q, 0, offsetof(struct kalamdb_query, ec));
    errctx_clear(&q->ec);
    atomic_init(&q->refs, 1);
    q->db = db;
    q->done = done;
    q->arg = arg;
    q->start_us = os_monotonic_us(db->os);
    arena_init(&q->arena, STATEMENT_BYTES_MAX);
    return q;
}

static void query_unref(struct kalamdb_query *q)
{
    if (atomic_fetch_sub_explicit(&q->refs, 1, memory_order_acq_rel) == 1)
        free(q);
}

void kalamdb_query_free(struct kalamdb_query *q)
{
    if (q != NULL)
        query_unref(q);
}

void kalamdb_query_cancel(struct kalamdb_query *q)
{
    if (q == NULL)
        return;
    atomic_store(&q->cancelled, true);
    analytic_cancel(&q->cancel);
}

/* Before the query is first handed to another thread: from here on it has a handle and kalamdb_close waits
 * for it. */
static void query_go_away(struct kalamdb_query *q)
{
    struct kalamdb *db = q->db;
    if (q->away)
        return;
    q->away = true;
    if (q->ret_query != NULL) {
        atomic_fetch_add_explicit(&q->refs, 1, memory_order_relaxed);
        *q->ret_query = q;
    }
    pthread_mutex_lock(&db->lock);
    db->inflight++;
    q->next = db->queries;
    if (q->next != NULL)
        q->next->prev = q;
    db->queries = q;
    pthread_mutex_unlock(&db->lock);
}

static void query_come_back(struct kalamdb_query *q)
{
    struct kalamdb *db = q->db;
    pthread_mutex_lock(&db->lock);
    if (q->prev != NULL)
        q->prev->next = q->next;
    else
        db->queries = q->next;
    if (q->next != NULL)
        q->next->prev = q->prev;
    pthread_mutex_unlock(&db->lock);
}

static void query_gone(struct kalamdb *db)
{
    pthread_mutex_lock(&db->lock);
    if (--db->inflight == 0)
        pthread_cond_broadcast(&db->idle);
    pthread_mutex_unlock(&db->lock);
}

struct kalamdb_result *query_result(struct kalamdb_query *q)
{
    if (q->result == NULL)
        q->result = result_new();
    return q->result;
}

enum err query_costly(struct kalamdb_query *q, enum err e)
{
    if (e != ERR_TOO_LARGE || q->ec.code != e)
        return e;
    q->ec.code = ERR_UNSUPPORTED;
    return ERR_UNSUPPORTED;
}

static void lane_leave(struct kalamdb_query *q);

void query_finish(struct kalamdb_query *q, enum err e)
{
    struct kalamdb *db = q->db;
    if (e == ERR_OK && query_result(q) == NULL)
        e = query_no_memory(q, "result");
    int64_t us = os_monotonic_us(db->os) - q->start_us;
    bool write = q->stmt != NULL && q->stmt->kind != STMT_SELECT;
    if (q->stmt != NULL && !write)
        e = query_costly(q, e);
    hist_add(write ? &db->exec_write : &db->exec_read, us > 0 ? (uint64_t)us : 0);
    if (q->away)
        query_come_back(q); /* first: a cancelling kalamdb_close no longer finds it */
    if (q->lane != NULL)
        lane_leave(q);
    modify_release(q);
    insert_release(q);
    struct kalamdb_result *result = q->result;
    q->result = NULL;
    struct kalamdb_error error = {.code = KALAMDB_OK};
    if (e == ERR_OK) {
        result->execution_ms = (double)us / 1000.0;
    } else {
        kalamdb_result_free(result);
        result = NULL;
        if (q->ec.code != e)
            err_internal(&q->ec, e, "%s without a message", err_wire(e));
        engine_error(&error, &q->ec);
        atomic_fetch_add_explicit(&db->statements_failed, 1, memory_order_relaxed);
    }
    arena_release(&q->arena);
    bool away = q->away;
    q->done(q->arg, result, &error);
    query_unref(q);
    if (away)
        query_gone(db);
}

/* ---- lanes ---- */

static struct query_lane *lane_of(struct kalamdb_query *q)
{
    return &q->db->lanes[str_hash(q->stmt->target_owner) % QUERY_LANES];
}

/* Under db->lock. True: it is at the head and may go on. */
static bool lane_join(struct query_lane *lane, struct kalamdb_query *q)
{
    q->lane = lane;
    q->lane_next = NULL;
    if (lane->first == NULL)
        lane->first = q;
    else
        lane->last->lane_next = q;
    lane->last = q;
    return lane->first == q;
}

static void lane_leave(struct kalamdb_query *q)
{
    struct kalamdb *db = q->db;
    pthread_mutex_lock(&db->lock);
    struct query_lane *lane = q->lane;
    lane->first = q->lane_next;
    struct kalamdb_query *next = lane->first;
    lane->barrier = false;
    q->lane = NULL;
    pthread_mutex_unlock(&db->lock);
    if (next != NULL)
        query_to_job(next, next->step);
}

void query_retry(struct kalamdb_query *q, void (*step)(struct kalamdb_query *q))
{
    struct kalamdb *db = q->db;
    if (++q->attempts >= QUERY_ATTEMPTS_MAX) {
        query_finish(q, err_set(&q->ec, ERR_CONFLICT, "could not serialize access due to concurrent update"));
        return;
    }
    atomic_fetch_add_explicit(&db->retries, 1, memory_order_relaxed);
    bool go = true;
    pthread_mutex_lock(&db->lock);
    if (q->lane != NULL) {
        q->lane->barrier = q->attempts >= QUERY_ATTEMPTS_BARRIER;
    } else if (q->attempts >= QUERY_ATTEMPTS_LANE) {
        q->step = step;
        go = lane_join(lane_of(q), q);
    }
    pthread_mutex_unlock(&db->lock);
    if (go)
        query_to_job(q, step);
}

bool query_waits(struct kalamdb_query *q, void (*step)(struct kalamdb_query *q))
{
    struct query_lane *lane = lane_of(q);
    pthread_mutex_lock(&q->db->lock);
    bool waits = lane->barrier;
    pthread_mutex_unlock(&q->db->lock);
    if (!waits)
        return false;
    query_go_away(q);
    q->step = step;
    pthread_mutex_lock(&q->db->lock);
    bool go = lane_join(lane, q); /* the lane may have emptied in between */
    pthread_mutex_unlock(&q->db->lock);
    if (go)
        query_to_job(q, step);
    return true;
}

enum err query_alive(struct kalamdb_query *q)
{
    if (atomic_load_explicit(&q->cancelled, memory_order_relaxed))
        return err_set(&q->ec, ERR_TIMEOUT, "canceling statement due to user request");
    if (os_monotonic_us(q->db->os) >= q->deadline_us)
        return err_set(&q->ec, ERR_TIMEOUT, "canceling statement due to statement timeout");
    return ERR_OK;
}

int query_timeout_ms(const struct kalamdb_query *q)
{
    int64_t left_us = q->deadline_us - os_monotonic_us(q->db->os);
    return left_us < 1000 ? 1 : (int)(left_us / 1000);
}

static void run_job(struct analytic_job *job)
{
    struct kalamdb_query *q = (void *)((char *)job - offsetof(struct kalamdb_query, job));
    q->step(q);
}

void query_to_job(struct kalamdb_query *q, void (*step)(struct kalamdb_query *q))
{
    query_go_away(q);
    q->step = step;
    /* A back end works for many users: whose rows are read counts, not who asks. */
    const struct stmt *st = q->stmt;
    struct str owner = st != NULL && st->ntables > 0 ? st->tables[0].owner : q->caller.user_id;
    q->job = (struct analytic_job){.run = run_job, .owner = analytic_owner(owner)};
    analytic_submit(q->db->analytic, &q->job);
}

void query_to_committer(struct kalamdb_query *q,
    enum err (*apply)(struct commit_op *op, struct txn *txn, struct errctx *ec),
    void (*done)(struct commit_op *op, enum err e, const struct errctx *ec))
{
    query_go_away(q);
    q->op = (struct commit_op){.apply = apply,
        .done = done,
        .durability = q->durability,
        .author = q->caller.user_id,
        .author_issued_s = q->caller.issued_s};
    store_submit(q->db->store, &q->op);
}

/* ---- start ---- */

/* Texts come from outside: UTF-8 without NUL, whatever the language of the host holds for a string. */
enum err query_take_text(struct kalamdb_query *q, struct kalamdb_str in, struct str *ret)
{
    struct str s = str_n(in.ptr != NULL ? in.ptr : "", in.ptr != NULL ? in.len : 0);
    if (s.len > 0 && memchr(s.ptr, 0, s.len) != NULL)
        return err_set(&q->ec, ERR_INVALID_REQUEST, "a text may not contain NUL (U+0000)");
    if (!utf8_valid(s))
        return err_set(&q->ec, ERR_INVALID_REQUEST, "a text is not valid UTF-8");
    *ret = arena_str(&q->arena, s);
    return ret->ptr != NULL ? ERR_OK : err_set(&q->ec, ERR_TOO_LARGE, "the statement is too large");
}

static enum err take_param(struct kalamdb_query *q, int n, const struct kalamdb_value *in, struct value *ret)
{
    struct str s = STR_NULL;
    enum err e = ERR_OK;
    switch (in->type) {
    case KALAMDB_NULL:
        *ret = VALUE_OF_NULL;
        return ERR_OK;
    case KALAMDB_BOOL:
        *ret = value_bool(in->i != 0);
        return ERR_OK;
    case KALAMDB_BIGINT:
        *ret = value_i64(in->i);
        return ERR_OK;
    case KALAMDB_DOUBLE:
        *ret = (struct value){.type = VALUE_DOUBLE, .d = in->d};
        return ERR_OK;
    case KALAMDB_TIMESTAMPTZ: {
        struct buf b = BUF_INIT(64);
        time_format(&b, in->i);
        e = query_take_text(q, (struct kalamdb_str){b.ptr, b.len}, &s);
        buf_release(&b);
        break;
    }
    case KALAMDB_TEXT:
    case KALAMDB_JSON:
        e = query_take_text(q, in->s, &s);
        break;
    default:
        return err_set(
            &q->ec, ERR_INVALID_REQUEST, "parameter $%d is of a type that parameters cannot have", n);
    }
    if (e != ERR_OK)
        return e;
    if (in->type == KALAMDB_JSON && !json_valid(s))
        return err_set(&q->ec, ERR_INVALID_REQUEST, "parameter $%d is not valid JSON", n);
    *ret = in->type == KALAMDB_JSON ? value_json(s) : value_text(s);
    return ERR_OK;
}

static enum err take_caller(struct kalamdb_query *q, const struct kalamdb_caller *in)
{
    struct str id = engine_str(in->user_id);
    if (!user_id_valid(id))
        return err_set(&q->ec, ERR_INVALID_REQUEST, "the caller's user id is not valid");
    q->caller.user_id = arena_str(&q->arena, id);
    q->caller.role = in->role == KALAMDB_ADMIN     ? ROLE_ADMIN
                     : in->role == KALAMDB_SERVICE ? ROLE_SERVICE
                                                   : ROLE_USER;
    q->caller.issued_s = in->issued_s;
    q->caller.internal = in->role == ENGINE_ROLE_INTERNAL;
    if (q->caller.internal)
        q->caller.role = ROLE_SERVICE;
    return q->caller.user_id.ptr != NULL ? ERR_OK : query_no_memory(q, "caller");
}

static enum err take_statement(struct kalamdb_query *q, const struct kalamdb_statement *in)
{
    struct kalamdb *db = q->db;
    q->for_everyone = in->for_everyone;
    if (in->sql.len > db->options.max_sql_bytes)
        return err_set(&q->ec, ERR_TOO_LARGE, "the SQL text of %zu bytes is over max_sql_bytes (%zu)",
            in->sql.len, db->options.max_sql_bytes);
    if (in->nparams < 0 || (in->nparams > 0 && in->params == NULL))
        return err_set(&q->ec, ERR_INVALID_REQUEST, "bad parameters");
    enum err e = query_take_text(q, in->sql, &q->sql);
    if (e != ERR_OK)
        return e;
    struct value *params = arena_array(&q->arena, (size_t)in->nparams, sizeof *params);
    if (params == NULL)
        return query_no_memory(q, "parameters");
    for (int i = 0; i < in->nparams; i++) {
        e = take_param(q, i + 1, &in->params[i], &params[i]);
        if (e != ERR_OK)
            return e;
    }
    struct sql_limits limits = {.sql_bytes_max = db->options.max_sql_bytes, .now_us = os_realtime_us(db->os)};
    return sql_shapes_parse(
        db->shapes, &q->arena, q->sql, params, in->nparams, &q->caller, &limits, &q->stmt, &q->ec);
}

static bool is_closing(struct kalamdb *db)
{
    pthread_mutex_lock(&db->lock);
    bool closing = db->closing;
    pthread_mutex_unlock(&db->lock);
    return closing;
}

struct kalamdb_query *query_begin(struct kalamdb *db, const struct kalamdb_caller *caller,
    enum kalamdb_durability durability, int timeout_ms, kalamdb_done *done, void *arg,
    struct kalamdb_query **ret_query)
{
    struct kalamdb_query *q = query_new(db, done, arg);
    if (q == NULL) {
        struct errctx ec;
        struct kalamdb_error error;
        err_internal(&ec, ERR_NO_MEMORY, "query");
        engine_error(&error, &ec);
        done(arg, NULL, &error);
        return NULL;
    }
    q->ret_query = ret_query;
    q->deadline_us =
        q->start_us + (int64_t)(timeout_ms > 0 ? timeout_ms : db->options.query_timeout_ms) * 1000;
    q->durability = durability == KALAMDB_ASYNC  ? DURABILITY_ASYNC
                    : durability == KALAMDB_SYNC ? DURABILITY_SYNC
                                                 : DURABILITY_DEFAULT;
    enum err e = is_closing(db) ? err_set(&q->ec, ERR_UNAVAILABLE, "the database is shutting down")
                                : take_caller(q, caller);
    if (e != ERR_OK) {
        query_finish(q, e);
        return NULL;
    }
    return q;
}

static void exec(struct kalamdb *db, const struct kalamdb_statement *statement, struct kalamdb_upload *upload,
    int64_t reopens, kalamdb_done *done, void *arg, struct kalamdb_query **ret_query)
{
    struct kalamdb_query *q = query_begin(
        db, &statement->caller, statement->durability, statement->timeout_ms, done, arg, ret_query);
    if (q == NULL)
        return;
    q->upload = upload;
    q->reopens = reopens;
    enum err e = take_statement(q, statement);
    if (e != ERR_OK) {
        query_finish(q, e);
        return;
    }
    query_tell_access(q);
    switch (q->stmt->kind) {
    case STMT_SELECT:
        read_start(q);
        break;
    case STMT_INSERT:
        insert_start(q);
        break;
    case STMT_UPDATE:
    case STMT_DELETE:
        modify_start(q);
        break;
    }
}

void kalamdb_exec_async(struct kalamdb *db, const struct kalamdb_statement *statement, kalamdb_done *done,
    void *arg, struct kalamdb_query **ret_query)
{
    exec(db, statement, NULL, 0, done, arg, ret_query);
}

void query_exec_upload(struct kalamdb *db, const struct kalamdb_statement *statement,
    struct kalamdb_upload *upload, kalamdb_done *done, void *arg)
{
    exec(db, statement, upload, 0, done, arg, NULL);
}

void query_reopen(struct kalamdb *db, const struct kalamdb_statement *statement, int64_t msg_id,
    kalamdb_done *done, void *arg)
{
    exec(db, statement, NULL, msg_id, done, arg, NULL);
}

/* ---- waiting ---- */

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool finished;
    struct kalamdb_result *result;
    struct kalamdb_error *error;
    kalamdb_code code;
};

static void wake_waiter(void *arg, struct kalamdb_result *result, const struct kalamdb_error *error)
{
    struct waiter *w = arg;
    pthread_mutex_lock(&w->lock);
    w->finished = true;
    w->result = result;
    w->code = error->code;
    if (w->error != NULL)
        *w->error = *error;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

kalamdb_code kalamdb_exec(struct kalamdb *db, const struct kalamdb_statement *statement,
    struct kalamdb_result **ret, struct kalamdb_error *error)
{
    struct waiter w = {.error = error};
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.cond, NULL);
    kalamdb_exec_async(db, statement, wake_waiter, &w, NULL);
    pthread_mutex_lock(&w.lock);
    while (!w.finished)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    pthread_cond_destroy(&w.cond);
    pthread_mutex_destroy(&w.lock);
    if (w.code == KALAMDB_OK) {
        if (ret != NULL)
            *ret = w.result;
        else
            kalamdb_result_free(w.result);
    }
    return w.code;
}
