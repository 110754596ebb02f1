#include "fake_engine.h"
#include "base/err.h"
#include "base/json.h"
#include "base/str.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct kalamdb_query {
    struct kalamdb_query *next;
    struct kalamdb *db;
    kalamdb_done *done;
    void *arg;
    struct kalamdb_result *result;
    struct kalamdb_error error;
    bool hang, cancelled;
    int refs;
};
struct kalamdb_result {
    struct buf json;
};
struct kalamdb_change {
    _Atomic int refs;
    struct kalamdb *db;
    bool conversation;
    size_t len;
    char json[];
};
struct kalamdb_subscription {
    struct kalamdb_subscription *next;
    struct kalamdb *db;
    struct kalamdb_subscribe o;
    bool acked, replaying, armed, closed;
    uint64_t at, until, from;
    kalamdb_code close_code;
    uint64_t count;
};
struct kalamdb {
    pthread_mutex_t lock;
    pthread_cond_t cond, changed;
    pthread_t thread;
    bool stop, writable;
    struct kalamdb_query *ready, *hanging;
    struct kalamdb_subscription *subs;
    struct kalamdb_change **log;
    size_t nlog, cap_log;
    int nhanging, ncancelled, nsubs;
    _Atomic int refs;
};

#define X(sym, wire, status) {wire, status},
static const struct {
    const char *wire;
    int status;
} codes[] = {ERR_LIST(X)};
#undef X

const char *kalamdb_code_name(kalamdb_code code)
{
    return codes[code].wire;
}

int kalamdb_code_status(kalamdb_code code)
{
    return codes[code].status;
}

bool kalamdb_user_id_valid(struct kalamdb_str id)
{
    return id.len >= 1 && id.len <= 255 && !(id.len == 6 && memcmp(id.ptr, "shared", 6) == 0);
}

/* ---- statements
 * --------------------------------------------------------------------------------------------------- */

static void deliver(struct kalamdb_query *q)
{
    q->done(q->arg, q->result, &q->error);
    if (__atomic_sub_fetch(&q->refs, 1, __ATOMIC_ACQ_REL) == 0)
        free(q);
}

static void *run(void *arg)
{
    struct kalamdb *db = arg;
    pthread_mutex_lock(&db->lock);
    while (!db->stop || db->ready != NULL) {
        struct kalamdb_query *q = db->ready;
        if (q == NULL) {
            pthread_cond_wait(&db->cond, &db->lock);
            continue;
        }
        db->ready = q->next;
        pthread_mutex_unlock(&db->lock);
        deliver(q);
        pthread_mutex_lock(&db->lock);
    }
    pthread_mutex_unlock(&db->lock);
    return NULL;
}

static void enqueue(struct kalamdb *db, struct kalamdb_query *q)
{
    struct kalamdb_query **link = &db->ready;
    while (*link != NULL)
        link = &(*link)->next;
    q->next = NULL;
    *link = q;
    pthread_cond_signal(&db->cond);
}

static struct kalamdb_result *result_new(void)
{
    return calloc(1, sizeof(struct kalamdb_result));
}

static void describe(const struct kalamdb_statement *s, struct buf *b)
{
    buf_str(b, STR("["));
    for (int i = 0; i < s->nparams; i++) {
        const struct kalamdb_value *v = &s->params[i];
        if (i > 0)
            buf_u8(b, ',');
        buf_printf(b, "[%d,", (int)v->type);
        if (v->type == KALAMDB_BOOL || v->type == KALAMDB_BIGINT)
            buf_i64(b, v->i);
        else if (v->type == KALAMDB_DOUBLE)
            json_f64(b, v->d);
        else if (v->type == KALAMDB_NULL)
            buf_str(b, STR("null"));
        else
            json_str(b, str_n(v->s.ptr, v->s.len));
        buf_u8(b, ']');
    }
    buf_str(b, STR("]"));
}

static bool is(struct str sql, const char *word)
{
    return str_starts_with(sql, str_c(word));
}

static struct kalamdb_result *answer_of(const struct kalamdb_statement *s, struct kalamdb_error *e)
{
    struct str sql = str_n(s->sql.ptr, s->sql.len);
    struct kalamdb_result *r = NULL;
    *e = (struct kalamdb_error){0};
    if (is(sql, "fail")) {
        e->code = ERR_SYNTAX;
        e->position = 7;
        snprintf(e->message, sizeof e->message, "syntax error at or near \"x\"");
        snprintf(e->detail, sizeof e->detail, "a detail");
        snprintf(e->hint, sizeof e->hint, "a hint");
    } else if (is(sql, "internal")) {
        e->code = ERR_INTERNAL;
        snprintf(e->message, sizeof e->message, "internal error");
        snprintf(e->internal, sizeof e->internal, "secret path /data/x");
    } else if (is(sql, "unavailable")) {
        e->code = ERR_UNAVAILABLE;
        snprintf(e->message, sizeof e->message, "no space");
    } else {
        r = result_new();
        struct buf *b = &r->json;
        if (is(sql, "big ")) {
            size_t n = (size_t)atol(s->sql.ptr + 4);
            buf_str(b, STR("{\"pad\":\""));
            char *p = buf_reserve(b, n);
            memset(p, 'x', n);
            b->len += n;
            buf_str(b, STR("\"}"));
        } else if (is(sql, "params")) {
            describe(s, b);
        } else if (is(sql, "who")) {
            buf_printf(b, "{\"user\":\"%.*s\",\"role\":%d,\"durability\":%d}", (int)s->caller.user_id.len,
                s->caller.user_id.ptr, (int)s->caller.role, (int)s->durability);
        } else {
            buf_str(b, STR("{\"echo\":"));
            json_str(b, sql);
            buf_u8(b, '}');
        }
    }
    return r;
}

void kalamdb_exec_async(struct kalamdb *db, const struct kalamdb_statement *s, kalamdb_done *done, void *arg,
    struct kalamdb_query **ret_query)
{
    struct str sql = str_n(s->sql.ptr, s->sql.len);
    if (!is(sql, "async") && !is(sql, "hang")) {
        struct kalamdb_error e;
        struct kalamdb_result *r = answer_of(s, &e);
        done(arg, r, &e);
        return;
    }
    struct kalamdb_query *q = calloc(1, sizeof *q);
    q->done = done;
    q->arg = arg;
    q->refs = 2;
    q->db = db;
    q->hang = is(sql, "hang");
    if (!q->hang)
        q->result = answer_of(s, &q->error);
    *ret_query = q;
    pthread_mutex_lock(&db->lock);
    if (q->hang) {
        q->next = db->hanging;
        db->hanging = q;
        db->nhanging++;
        pthread_cond_broadcast(&db->changed);
    } else {
        enqueue(db, q);
    }
    pthread_mutex_unlock(&db->lock);
}

/* The row's one column says what was asked for. */
void kalamdb_create_conversation(struct kalamdb *db, const struct kalamdb_new_conversation *c,
    kalamdb_done *done, void *arg, struct kalamdb_query **ret_query)
{
    struct kalamdb_error e = {0};
    struct kalamdb_result *r = result_new();
    (void)db, (void)ret_query;
    buf_printf(&r->json, "%.*s %.*s %.*s %.*s", (int)c->caller.user_id.len, c->caller.user_id.ptr,
        (int)c->conversation_id.len, c->conversation_id.ptr, (int)c->type.len, c->type.ptr,
        (int)c->metadata.len, c->metadata.ptr);
    for (size_t i = 0; i < c->nmembers; i++)
        buf_printf(&r->json, " %.*s:%.*s", (int)c->members[i].user_id.len, c->members[i].user_id.ptr,
            (int)c->members[i].role.len, c->members[i].role.ptr);
    done(arg, r, &e);
}

struct kalamdb_str kalamdb_result_column_name(const struct kalamdb_result *r, int column)
{
    (void)r, (void)column;
    return (struct kalamdb_str){"made", 4};
}

void kalamdb_result_value(const struct kalamdb_result *r, size_t row, int column, struct kalamdb_value *ret)
{
    (void)row, (void)column;
    *ret = (struct kalamdb_value){.type = KALAMDB_TEXT, .s = {r->json.ptr, r->json.len}};
}

void kalamdb_query_cancel(struct kalamdb_query *q)
{
    struct kalamdb *db = q->db;
    pthread_mutex_lock(&db->lock);
    struct kalamdb_query **link = &db->hanging;
    while (*link != NULL && *link != q)
        link = &(*link)->next;
    if (*link == q) {
        *link = q->next;
        db->nhanging--;
        db->ncancelled++;
        q->error.code = ERR_TIMEOUT;
        snprintf(q->error.message, sizeof q->error.message, "cancelled");
        enqueue(db, q);
        pthread_cond_broadcast(&db->changed);
    }
    pthread_mutex_unlock(&db->lock);
}

void kalamdb_query_free(struct kalamdb_query *q)
{
    if (__atomic_sub_fetch(&q->refs, 1, __ATOMIC_ACQ_REL) == 0)
        free(q);
}

void kalamdb_result_free(struct kalamdb_result *r)
{
    buf_release(&r->json);
    free(r);
}

int64_t kalamdb_result_rows_affected(const struct kalamdb_result *r)
{
    (void)r;
    return 1;
}

size_t kalamdb_result_rows(const struct kalamdb_result *r)
{
    return r->json.len; /* so that large answers take the server's way for many rows */
}

int kalamdb_result_columns(const struct kalamdb_result *r)
{
    (void)r;
    return 1;
}

void kalamdb_result_json(
    const struct kalamdb_result *r, void (*write)(void *arg, const char *ptr, size_t len), void *arg)
{
    write(arg, r->json.ptr, r->json.len);
}

void kalamdb_consolidate(struct kalamdb *db, struct kalamdb_str user_id, kalamdb_done *done, void *arg)
{
    struct kalamdb_query *q = calloc(1, sizeof *q);
    q->done = done;
    q->arg = arg;
    q->refs = 1;
    if (user_id.len == 4 && memcmp(user_id.ptr, "fail", 4) == 0) {
        q->error.code = ERR_UNAVAILABLE;
        snprintf(q->error.message, sizeof q->error.message, "no space");
    }
    pthread_mutex_lock(&db->lock);
    enqueue(db, q);
    pthread_mutex_unlock(&db->lock);
}

void kalamdb_sweep(struct kalamdb *db,
    void (*done)(void *arg, const struct kalamdb_sweep_counts *counts, const struct kalamdb_error *error),
    void *arg)
{
    (void)db;
    struct kalamdb_error fine = {0};
    struct kalamdb_sweep_counts counts = {1, 2, 3, 4, 5, 6, 7, 8};
    done(arg, &counts, &fine);
}

/* Its consolidations never run on. */
void kalamdb_stop_consolidation(struct kalamdb *db)
{
    (void)db;
}

bool kalamdb_workers_caged(struct kalamdb *db)
{
    (void)db;
    return true;
}

kalamdb_code kalamdb_writable(struct kalamdb *db, struct kalamdb_error *error)
{
    pthread_mutex_lock(&db->lock);
    bool writable = db->writable;
    pthread_mutex_unlock(&db->lock);
    if (!writable)
        snprintf(error->message, sizeof error->message, "disk space is low");
    return writable ? KALAMDB_OK : ERR_UNAVAILABLE;
}

void kalamdb_metrics(struct kalamdb *db, void (*sample)(void *arg, const struct kalamdb_metric *m), void *arg)
{
    (void)db;
    struct kalamdb_metric m = {"kalamdb_commits", "counter", "Commits.", "", "_total", 5};
    sample(arg, &m);
    m = (struct kalamdb_metric){"kalamdb_workers", "gauge", "Workers.", "state=\"busy\"", "", 1};
    sample(arg, &m);
    m.labels = "state=\"idle\"";
    sample(arg, &m);
}

/* ---- live
 * -------------------------------------------------------------------------------------------------------- */

static struct kalamdb_change *change_new(struct kalamdb *db, const char *json, bool conversation)
{
    size_t n = strlen(json);
    struct kalamdb_change *c = malloc(sizeof *c + n + 1);
    c->refs = 1;
    c->db = db;
    c->conversation = conversation;
    c->len = n;
    memcpy(c->json, json, n + 1);
    return c;
}

static uint64_t append(struct kalamdb *db, struct kalamdb_change *c)
{
    pthread_mutex_lock(&db->lock);
    if (db->nlog == db->cap_log) {
        db->cap_log = db->cap_log == 0 ? 1024 : db->cap_log * 2;
        db->log = realloc(db->log, db->cap_log * sizeof *db->log);
    }
    db->log[db->nlog++] = c;
    uint64_t seq = db->nlog;
    for (struct kalamdb_subscription *s = db->subs; s != NULL; s = s->next) {
        if (s->armed) {
            s->armed = false;
            s->o.wake(s->o.arg);
        }
    }
    pthread_mutex_unlock(&db->lock);
    return seq;
}

uint64_t fake_publish(struct kalamdb *db, const char *json)
{
    return append(db, change_new(db, json, false));
}

void fake_publish_conversation(struct kalamdb *db, const char *json)
{
    append(db, change_new(db, json, true));
}

kalamdb_code kalamdb_subscribe(struct kalamdb *db, const struct kalamdb_subscribe *o,
    struct kalamdb_subscription **ret, struct kalamdb_error *error)
{
    if (o->user_id.ptr != NULL && o->caller.role == KALAMDB_USER &&
        (o->user_id.len != o->caller.user_id.len ||
            memcmp(o->user_id.ptr, o->caller.user_id.ptr, o->user_id.len) != 0)) {
        snprintf(error->message, sizeof error->message, "another user's messages");
        return error->code = ERR_FORBIDDEN;
    }
    struct kalamdb_subscription *s = calloc(1, sizeof *s);
    s->db = db;
    s->o = *o;
    pthread_mutex_lock(&db->lock);
    s->until = db->nlog;
    s->replaying = o->has_last_seq || o->has_last_msg_id;
    bool foreign = o->feed.ptr != NULL && !(o->feed.len == 5 && memcmp(o->feed.ptr, "feedA", 5) == 0);
    if (s->replaying)
        s->at = o->has_last_msg_id || foreign || o->last_seq > s->until ? 0 : o->last_seq;
    else
        s->at = s->until;
    s->from = foreign;
    s->next = db->subs;
    db->subs = s;
    db->nsubs++;
    pthread_cond_broadcast(&db->changed);
    pthread_mutex_unlock(&db->lock);
    *ret = s;
    return KALAMDB_OK;
}

static enum kalamdb_event_kind next(struct kalamdb_subscription *s, struct kalamdb_event *ev)
{
    struct kalamdb *db = s->db;
    if (s->closed) {
        ev->code = s->close_code;
        return KALAMDB_EVENT_CLOSED;
    }
    if (!s->acked) {
        s->acked = true;
        ev->seq = s->until;
        ev->resync = s->from != 0;
        return KALAMDB_EVENT_ACK;
    }
    if (s->replaying && s->at >= s->until) {
        s->replaying = false;
        ev->message_count = s->count;
        ev->last_msg_id = (int64_t)s->at;
        ev->seq = s->at;
        return KALAMDB_EVENT_REPLAY_COMPLETE;
    }
    if (s->at >= db->nlog) {
        s->armed = true;
        return KALAMDB_EVENT_PENDING;
    }
    ev->change = db->log[s->at++];
    ev->seq = s->at;
    ev->op = KALAMDB_INSERT;
    s->count++;
    kalamdb_change_ref(ev->change);
    return ev->change->conversation ? KALAMDB_EVENT_CONVERSATION : KALAMDB_EVENT_CHANGE;
}

enum kalamdb_event_kind kalamdb_subscription_next(struct kalamdb_subscription *s, struct kalamdb_event *ret)
{
    *ret = (struct kalamdb_event){.feed = {"feedA", 5}};
    pthread_mutex_lock(&s->db->lock);
    ret->kind = next(s, ret);
    pthread_mutex_unlock(&s->db->lock);
    return ret->kind;
}

void kalamdb_unsubscribe(struct kalamdb_subscription *s)
{
    struct kalamdb *db = s->db;
    pthread_mutex_lock(&db->lock);
    struct kalamdb_subscription **link = &db->subs;
    while (*link != s)
        link = &(*link)->next;
    *link = s->next;
    db->nsubs--;
    pthread_cond_broadcast(&db->changed);
    pthread_mutex_unlock(&db->lock);
    free(s);
}

void fake_end_subscriptions(struct kalamdb *db, kalamdb_code code)
{
    pthread_mutex_lock(&db->lock);
    for (struct kalamdb_subscription *s = db->subs; s != NULL; s = s->next) {
        s->closed = true;
        s->close_code = code;
        if (s->armed) {
            s->armed = false;
            s->o.wake(s->o.arg);
        }
    }
    pthread_mutex_unlock(&db->lock);
}

struct kalamdb_str kalamdb_change_json(struct kalamdb_change *c)
{
    return (struct kalamdb_str){c->json, c->len};
}

void kalamdb_change_ref(struct kalamdb_change *c)
{
    c->refs++;
    c->db->refs++;
}

void kalamdb_change_unref(struct kalamdb_change *c)
{
    c->db->refs--;
    c->refs--;
}

/* ---- the test's side
 * ---------------------------------------------------------------------------------------------- */

struct kalamdb *fake_open(void)
{
    struct kalamdb *db = calloc(1, sizeof *db);
    pthread_mutex_init(&db->lock, NULL);
    pthread_cond_init(&db->cond, NULL);
    pthread_cond_init(&db->changed, NULL);
    db->writable = true;
    pthread_create(&db->thread, NULL, run, db);
    return db;
}

void fake_close(struct kalamdb *db)
{
    pthread_mutex_lock(&db->lock);
    db->stop = true;
    pthread_cond_signal(&db->cond);
    pthread_mutex_unlock(&db->lock);
    pthread_join(db->thread, NULL);
    for (size_t i = 0; i < db->nlog; i++)
        free(db->log[i]);
    free(db->log);
    pthread_mutex_destroy(&db->lock);
    pthread_cond_destroy(&db->cond);
    pthread_cond_destroy(&db->changed);
    free(db);
}

int fake_subscriptions(struct kalamdb *db)
{
    return db->nsubs;
}

int fake_hanging(struct kalamdb *db)
{
    return db->nhanging;
}

int fake_cancelled(struct kalamdb *db)
{
    return db->ncancelled;
}

int fake_live_changes(struct kalamdb *db)
{
    return db->refs;
}

void fake_release_hanging(struct kalamdb *db)
{
    pthread_mutex_lock(&db->lock);
    while (db->hanging != NULL) {
        struct kalamdb_query *q = db->hanging;
        db->hanging = q->next;
        db->nhanging--;
        q->result = result_new();
        buf_str(&q->result->json, STR("{\"echo\":\"hang\"}"));
        enqueue(db, q);
    }
    pthread_mutex_unlock(&db->lock);
}

void fake_set_writable(struct kalamdb *db, bool writable)
{
    pthread_mutex_lock(&db->lock);
    db->writable = writable;
    pthread_mutex_unlock(&db->lock);
}

bool fake_wait(struct kalamdb *db, int (*count)(struct kalamdb *db), int n)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    pthread_mutex_lock(&db->lock);
    int rc = 0;
    while (count(db) != n && rc == 0)
        rc = pthread_cond_timedwait(&db->changed, &db->lock, &until);
    bool ok = count(db) == n;
    pthread_mutex_unlock(&db->lock);
    return ok;
}

/* Nobody is ever erased here. */
void kalamdb_erase(struct kalamdb *db, struct kalamdb_str user_id, kalamdb_erased *done, void *arg)
{
    (void)db;
    struct kalamdb_error error = {.code = KALAMDB_OK};
    struct kalamdb_erasure erasure = {
        .user_id = user_id, .erased_at_us = 1764000000123456, .messages = 12, .files = 3, .bytes = 4567};
    bool known = user_id.len == 5 && memcmp(user_id.ptr, "alice", 5) == 0;
    if (!known) {
        error.code = ERR_NOT_FOUND;
        snprintf(error.message, sizeof error.message, "no such user");
    }
    done(arg, known ? &erasure : NULL, &error);
}

void kalamdb_on_erased(struct kalamdb *db, void (*erased)(void *arg, struct kalamdb_str user_id), void *arg)
{
    (void)db;
    (void)erased;
    (void)arg;
}

bool kalamdb_token_void(struct kalamdb *db, struct kalamdb_str user_id, int64_t issued_s)
{
    (void)db;
    (void)user_id;
    (void)issued_s;
    return false;
}

void kalamdb_revoke(struct kalamdb *db, const struct kalamdb_revocation *r, kalamdb_revoked *done, void *arg)
{
    (void)db, (void)r;
    done(arg, &(struct kalamdb_error){.code = KALAMDB_OK});
}

bool kalamdb_token_revoked(
    struct kalamdb *db, struct kalamdb_str user_id, struct kalamdb_str jti, int64_t issued_s)
{
    (void)db, (void)user_id, (void)jti, (void)issued_s;
    return false;
}

void kalamdb_revocations(
    struct kalamdb *db, bool (*fn)(void *arg, const struct kalamdb_revocation *r), void *arg)
{
    (void)db, (void)fn, (void)arg;
}

void kalamdb_on_access(
    struct kalamdb *db, void (*fn)(void *arg, const struct kalamdb_access *access), void *arg)
{
    (void)db, (void)fn, (void)arg;
}

uint64_t kalamdb_erasures(struct kalamdb *db)
{
    (void)db;
    return 1;
}

/* ---- a user's own data: none here ---- */

kalamdb_code kalamdb_export_open(struct kalamdb *db, const struct kalamdb_caller *caller,
    struct kalamdb_str user_id, struct kalamdb_export **ret, struct kalamdb_error *error)
{
    (void)db, (void)caller, (void)user_id, (void)ret;
    *error = (struct kalamdb_error){.code = ERR_NOT_FOUND, .message = "no such user"};
    return error->code;
}

void kalamdb_export_next(struct kalamdb_export *x, kalamdb_export_ready *ready, void *arg)
{
    (void)x, (void)ready, (void)arg;
    abort();
}

void kalamdb_export_cancel(struct kalamdb_export *x)
{
    (void)x;
}

void kalamdb_export_close(struct kalamdb_export *x)
{
    (void)x;
}

kalamdb_code kalamdb_import_begin(struct kalamdb *db, const struct kalamdb_caller *caller,
    struct kalamdb_str user_id, struct kalamdb_import **ret, struct kalamdb_error *error)
{
    (void)db, (void)caller, (void)user_id, (void)ret;
    *error = (struct kalamdb_error){.code = ERR_UNAVAILABLE, .message = "no imports here"};
    return error->code;
}

kalamdb_code kalamdb_import_write(
    struct kalamdb_import *im, const void *bytes, size_t n, struct kalamdb_error *error)
{
    (void)im, (void)bytes, (void)n, (void)error;
    abort();
}

void kalamdb_import_finish(struct kalamdb_import *im,
    void (*done)(void *arg, const struct kalamdb_import_counts *counts, const struct kalamdb_error *error),
    void *arg)
{
    (void)im, (void)done, (void)arg;
    abort();
}

void kalamdb_import_cancel(struct kalamdb_import *im)
{
    (void)im;
}

void kalamdb_import_abort(struct kalamdb_import *im)
{
    (void)im;
}

void kalamdb_rotate_master_key(struct kalamdb *db, const char *path, kalamdb_keys_rotated *done, void *arg)
{
    (void)db;
    struct kalamdb_error error = {.code = KALAMDB_OK};
    struct kalamdb_key_rotation rotation = {.keys = 3, .segments = 1, .own = path == NULL};
    done(arg, &rotation, &error);
}

void kalamdb_keys(struct kalamdb *db, struct kalamdb_keys *ret)
{
    (void)db;
    *ret = (struct kalamdb_keys){.encryption = true, .check = {0xab}};
}

/* Directory "/full": a disk without space. */
void kalamdb_backup(
    struct kalamdb *db, const char *dir, int keep, const char *keys, kalamdb_backed_up *done, void *arg)
{
    (void)db;
    struct kalamdb_error error = {.code = KALAMDB_OK};
    struct kalamdb_backup backup = {
        .generation = 7, .removed = (uint32_t)keep, .files = 3, .bytes = 30, .key_files = keys != NULL};
    bool full = strcmp(dir, "/full") == 0;
    if (full) {
        error.code = ERR_INTERNAL;
        snprintf(error.message, sizeof error.message, "cannot write /full/x: No space left on device");
    }
    done(arg, full ? NULL : &backup, &error);
}

/* ---- streamed messages and signals: one producer that answers every call at once ---- */

struct kalamdb_producer {
    void (*wake)(void *arg);
    void *arg;
    struct kalamdb_stream_event events[64];
    int first, n;
    bool armed;
};

kalamdb_code kalamdb_producer_open(struct kalamdb *db, void (*wake)(void *arg), void *arg,
    struct kalamdb_producer **ret, struct kalamdb_error *error)
{
    (void)db, (void)error;
    *ret = calloc(1, sizeof **ret);
    (*ret)->wake = wake;
    (*ret)->arg = arg;
    (*ret)->armed = true;
    return KALAMDB_OK;
}

void kalamdb_producer_close(struct kalamdb_producer *p)
{
    free(p);
}

enum kalamdb_stream_event_kind kalamdb_producer_next(
    struct kalamdb_producer *p, struct kalamdb_stream_event *ret)
{
    *ret = (struct kalamdb_stream_event){.kind = KALAMDB_STREAM_PENDING};
    p->armed = p->first == p->n;
    if (p->first < p->n)
        *ret = p->events[p->first++];
    else
        p->first = p->n = 0;
    return ret->kind;
}

bool kalamdb_producer_busy(struct kalamdb_producer *p)
{
    return p->first < p->n;
}

static void producer_answer(struct kalamdb_producer *p, struct kalamdb_stream_event event)
{
    if (p->n == 64)
        abort();
    p->events[p->n++] = event;
    if (p->armed) {
        p->armed = false;
        p->wake(p->arg);
    }
}

void kalamdb_stream_begin(struct kalamdb_producer *p, const struct kalamdb_stream_begin *begin, uint64_t tag)
{
    struct kalamdb_stream_event event = {.kind = KALAMDB_STREAM_BEGUN, .tag = tag, .msg_id = 77};
    if (begin->conversation_id.len == 0) {
        event.kind = KALAMDB_STREAM_ERROR;
        event.msg_id = 0;
        event.error = (struct kalamdb_error){.code = ERR_CONSTRAINT, .message = "no conversation"};
    }
    producer_answer(p, event);
}

void kalamdb_stream_append(struct kalamdb_producer *p, const struct kalamdb_caller *caller, int64_t msg_id,
    uint64_t offset, struct kalamdb_str text, uint64_t tag)
{
    (void)caller;
    struct kalamdb_stream_event event = {
        .kind = KALAMDB_STREAM_ACK, .msg_id = msg_id, .offset = offset + text.len};
    if (offset > 1000)
        event = (struct kalamdb_stream_event){.kind = KALAMDB_STREAM_ERROR,
            .tag = tag,
            .msg_id = msg_id,
            .offset = 3,
            .has_offset = true,
            .error = {.code = ERR_INVALID_REQUEST, .message = "a hole"}};
    producer_answer(p, event);
}

void kalamdb_stream_end(struct kalamdb_producer *p, const struct kalamdb_caller *caller, int64_t msg_id,
    struct kalamdb_str metadata, uint64_t tag)
{
    (void)caller;
    producer_answer(
        p, (struct kalamdb_stream_event){
               .kind = KALAMDB_STREAM_ENDED, .tag = tag, .msg_id = msg_id, .offset = metadata.len});
}

kalamdb_code kalamdb_signal(
    struct kalamdb *db, const struct kalamdb_signal *signal, struct kalamdb_error *error)
{
    (void)db;
    if (signal->kind.len > 0)
        return KALAMDB_OK;
    *error = (struct kalamdb_error){.code = ERR_INVALID_REQUEST, .message = "no kind"};
    return error->code;
}
