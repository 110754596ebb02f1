#include "fixture.h"
#include "os/os.h"
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
/* cmocka wants the three before */
#include <cmocka.h>

static int64_t fake_realtime(void *ctx)
{
    struct fixture *f = ctx;
    int64_t us = atomic_load(&f->realtime_us);
    return us != 0 ? us : os_realtime_us(os_posix());
}

static int64_t fake_monotonic(void *ctx)
{
    struct fixture *f = ctx;
    return os_monotonic_us(os_posix()) + atomic_load(&f->clock_us);
}

static int64_t fake_free_bytes(void *ctx, const char *path)
{
    struct fixture *f = ctx;
    int64_t bytes = atomic_load(&f->free_bytes);
    return bytes >= 0 ? bytes : os_posix()->free_bytes(NULL, path);
}

static void open_vault(struct fixture *f)
{
    static const uint8_t master[VAULT_KEY_BYTES] = "the master key of every test";
    struct errctx ec;
    char keys[128];
    errctx_clear(&ec);
    snprintf(keys, sizeof keys, "%s/.kalamdb/keys", f->dir);
    struct vault_config cfg = {.dir = keys, .master_key = master, .os = &f->os};
    if (os_mkdirs(keys, &ec) != ERR_OK || vault_open(&cfg, &f->cfg.vault, &ec) != ERR_OK)
        fail_msg("vault_open: %s (%s)", ec.message, ec.internal);
}

static void close_store(struct fixture *f)
{
    store_close(f->store);
    if (f->encrypted)
        vault_close(f->cfg.vault);
}

static void open_store(struct fixture *f)
{
    struct errctx ec;
    errctx_clear(&ec);
    if (f->encrypted)
        open_vault(f);
    if (store_open(&f->cfg, &f->store, &ec) != ERR_OK)
        fail_msg("store_open: %s (%s)", ec.message, ec.internal);
}

void fixture_open(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    snprintf(f->dir, sizeof f->dir, "/tmp/kalamdb-test-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    f->os = *os_posix();
    f->os.realtime_us = fake_realtime;
    f->os.monotonic_us = fake_monotonic;
    f->os.free_bytes = fake_free_bytes;
    f->os.ctx = f;
    atomic_init(&f->free_bytes, -1);
    f->cfg = (struct store_config){.data_dir = f->dir,
        .os = &f->os,
        .durability = DURABILITY_SYNC,
        .async_window_ms = 50,
        .consolidate_rows = 10000,
        .consolidate_min_rows = 500,
        .hot_tail_rows = 64,
        .tombstone_retention_s = 30 * 24 * 3600};
    const char *encryption = getenv("KALAMDB_TEST_ENCRYPTION");
    f->encrypted = encryption != NULL && strcmp(encryption, "on") == 0;
    open_store(f);
}

void fixture_reopen(struct fixture *f)
{
    close_store(f);
    open_store(f);
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

void fixture_remove_dir(const char *dir)
{
    nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

void fixture_close(struct fixture *f)
{
    close_store(f);
    fixture_remove_dir(f->dir);
}

/* ---- commits ------------------------------------------------------------------------------------------ */

static enum err run_fn(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct pending_commit *p = (struct pending_commit *)(void *)op;
    return p->fn(txn, p->arg, ec);
}

static void finished(struct commit_op *op, enum err err, const struct errctx *ec)
{
    struct pending_commit *p = (struct pending_commit *)(void *)op;
    pthread_mutex_lock(&p->lock);
    p->err = err;
    p->ec = *ec;
    p->finished = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

void commit_start(
    struct store *s, struct pending_commit *p, commit_fn *fn, void *arg, enum durability durability)
{
    memset(p, 0, sizeof *p);
    p->op = (struct commit_op){.apply = run_fn, .done = finished, .durability = durability};
    p->fn = fn;
    p->arg = arg;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    store_submit(s, &p->op);
}

enum err commit_end(struct pending_commit *p)
{
    pthread_mutex_lock(&p->lock);
    while (!p->finished)
        pthread_cond_wait(&p->wake, &p->lock);
    pthread_mutex_unlock(&p->lock);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    return p->err;
}

enum err commit(struct store *s, commit_fn *fn, void *arg, enum durability durability, struct errctx *ec)
{
    struct pending_commit p;
    commit_start(s, &p, fn, arg, durability);
    enum err e = commit_end(&p);
    *ec = p.ec;
    return e;
}

/* ---- messages ----------------------------------------------------------------------------------------- */

enum err insert_message(struct txn *txn, void *arg, struct errctx *ec)
{
    struct message *m = arg;
    uint64_t user_no;
    struct conversation c;
    enum err e = txn_user(txn, str_c(m->user), true, &user_no, ec);
    if (e == ERR_OK)
        e = txn_conversation(txn, user_no, str_c(m->conversation), &c, ec);
    if (e != ERR_OK)
        return e;
    if (m->client_id != NULL && c.exists) {
        e = txn_client_id_find(txn, user_no, c.conv_no, str_c(m->user), str_c(m->client_id), &m->id, ec);
        m->existed = e == ERR_OK;
        if (e != ERR_NOT_FOUND)
            return e;
    }
    if (m->id == 0)
        m->id = txn_next_msg_id(txn);
    struct value values[MSG_NCOLUMNS] = {0};
    values[MSG_ID] = value_i64(m->id);
    values[MSG_CONVERSATION_ID] = value_text(str_c(m->conversation));
    values[MSG_CONVERSATION_TYPE] = value_text(STR("ai"));
    values[MSG_FROM] = value_text(str_c(m->user));
    values[MSG_TIMESTAMP] = value_ts(txn_now_us(txn));
    values[MSG_CONTENT] = value_text(str_c(m->content));
    e = txn_message_insert(txn, &c, values, ec);
    if (e == ERR_OK && m->client_id != NULL)
        e = txn_client_id_put(txn, user_no, c.conv_no, str_c(m->user), str_c(m->client_id), m->id, ec);
    m->seq = (uint64_t)values[MSG_SEQ].i;
    return e;
}

enum err insert(struct store *s, struct message *m, struct errctx *ec)
{
    return commit(s, insert_message, m, DURABILITY_DEFAULT, ec);
}

struct edit {
    struct str user;
    const char *content; /* NULL: delete */
    struct row_meta meta;
    uint64_t cold_epoch;
    struct value values[MSG_NCOLUMNS];
};

static enum err edit_message(struct txn *txn, void *arg, struct errctx *ec)
{
    struct edit *edit = arg;
    uint64_t user_no;
    struct conversation c;
    enum err e = txn_user(txn, edit->user, false, &user_no, ec);
    if (e == ERR_OK)
        e = txn_conversation(txn, user_no, edit->values[MSG_CONVERSATION_ID].s, &c, ec);
    if (e != ERR_OK)
        return e;
    if (edit->content != NULL) {
        edit->values[MSG_CONTENT] = value_text(str_c(edit->content));
        return txn_message_update(
            txn, &c, edit->values, edit->meta.seq, edit->meta.ins_seq, edit->cold_epoch, STR_NULL, ec);
    }
    e = txn_message_delete(txn, &c, edit->values, edit->meta.seq, edit->meta.ins_seq, edit->cold_epoch, ec);
    return e == ERR_OK ? txn_conversation_bounds(txn, &c, 0, 0, edit->cold_epoch, ec) : e;
}

static enum err edit(struct store *s, const char *user, int64_t id, const char *content, struct errctx *ec)
{
    struct snapshot *snap;
    struct edit edit = {.user = str_c(user), .content = content};
    enum err e = snapshot_open(s, edit.user, &snap, ec);
    if (e != ERR_OK)
        return e;
    edit.cold_epoch = snapshot_cold_epoch(snap);
    e = snapshot_message(snap, id, &edit.meta, edit.values, ec);
    if (e == ERR_OK)
        e = commit(s, edit_message, &edit, DURABILITY_DEFAULT, ec);
    snapshot_close(snap);
    return e;
}

enum err update_message(struct store *s, const char *user, int64_t id, const char *content, struct errctx *ec)
{
    return edit(s, user, id, content, ec);
}

enum err delete_message(struct store *s, const char *user, int64_t id, struct errctx *ec)
{
    return edit(s, user, id, NULL, ec);
}

/* ---- barriers ----------------------------------------------------------------------------------------- */

struct waiting_barrier {
    struct barrier_op op;
    void (*fn)(void *arg);
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool finished;
    enum err err;
};

static void barrier_reached(struct barrier_op *op, enum err err)
{
    struct waiting_barrier *b = (struct waiting_barrier *)(void *)op;
    if (err == ERR_OK && b->fn != NULL)
        b->fn(b->arg);
    pthread_mutex_lock(&b->lock);
    b->err = err;
    b->finished = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
}

enum err barrier(struct store *s, const char *user, void (*fn)(void *arg), void *arg)
{
    struct waiting_barrier b = {.op = {.fn = barrier_reached, .user_id = str_c(user)}, .fn = fn, .arg = arg};
    pthread_mutex_init(&b.lock, NULL);
    pthread_cond_init(&b.wake, NULL);
    store_barrier(s, &b.op);
    pthread_mutex_lock(&b.lock);
    while (!b.finished)
        pthread_cond_wait(&b.wake, &b.lock);
    pthread_mutex_unlock(&b.lock);
    pthread_mutex_destroy(&b.lock);
    pthread_cond_destroy(&b.wake);
    return b.err;
}
