/* The queue and the loop.
 *
 *              ┌────────── group ──────────┐
 *   RUNNING ───┤ apply · write · publish   ├──→ RUNNING
 *              └──────────┬────────────────┘
 *                write or fsync failed: OUTCOME_UNKNOWN
 *                         ↓
 *                      FAILED ── probe, reopen, reload (recover.c) ──→ RUNNING
 *
 * While FAILED every op answers UNAVAILABLE; below the disk reserve so does every op but a barrier. */
#include "store/committer.h"
#include "base/plant.h"
#include "store/wal_check.h"
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

/* ---- the queue ---------------------------------------------------------------------------------------- */

static void refuse(struct commit_op *op, const char *why)
{
    struct errctx ec;
    op->done(op, err_set(&ec, ERR_UNAVAILABLE, "%s", why), &ec);
}

void store_submit(struct store *s, struct commit_op *op)
{
    struct committer *c = s->committer;
    op->next = NULL;
    op->result = ERR_OK;
    op->failure = NULL;
    op->queued_us = os_monotonic_us(s->os);
    pthread_mutex_lock(&c->queue.lock);
    bool stopped = c->queue.stopped;
    if (!stopped) {
        *c->queue.last = op;
        c->queue.last = &op->next;
        atomic_fetch_add_explicit(&c->queued, 1, memory_order_relaxed);
        if (c->queue.waiting)
            pthread_cond_signal(&c->queue.wake);
    }
    pthread_mutex_unlock(&c->queue.lock);
    if (stopped)
        refuse(op, "the server is shutting down");
}

static enum err barrier_apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct barrier_op *b = (struct barrier_op *)(void *)((char *)op - offsetof(struct barrier_op, create));
    uint64_t user_no;
    return b->user_id.ptr != NULL ? txn_user(txn, b->user_id, true, &user_no, ec) : ERR_OK;
}

static void barrier_done(struct commit_op *op, enum err err, const struct errctx *ec)
{
    struct barrier_op *b = (struct barrier_op *)(void *)((char *)op - offsetof(struct barrier_op, create));
    (void)ec;
    b->fn(b, err);
}

static bool is_barrier(const struct commit_op *op)
{
    return op->apply == barrier_apply;
}

void store_barrier(struct store *s, struct barrier_op *op)
{
    op->create =
        (struct commit_op){.apply = barrier_apply, .done = barrier_done, .durability = DURABILITY_SYNC};
    store_submit(s, &op->create);
}

/* Waits for work, for the end of the async window, or for the next attempt to recover; takes what there is,
 * but no op behind a barrier. False: stop, and nothing is left. */
static bool collect(struct committer *c, struct commit_op **ret)
{
    struct store *s = c->store;
    pthread_mutex_lock(&c->queue.lock);
    while (c->queue.first == NULL && !c->queue.stop) {
        int64_t until = atomic_load(&s->failed) ? c->recover_after_us
                        : c->unsynced ? c->unsynced_since_us + s->cfg.async_window_ms * INT64_C(1000)
                                      : INT64_MAX;
        c->queue.waiting = true;
        if (until == INT64_MAX) {
            pthread_cond_wait(&c->queue.wake, &c->queue.lock);
        } else {
            int64_t wait_us = until - os_monotonic_us(s->os);
            struct timespec t;
            clock_gettime(CLOCK_MONOTONIC, &t);
            int64_t ns = t.tv_nsec + (wait_us > 0 ? wait_us : 0) * 1000;
            t.tv_sec += ns / 1000000000;
            t.tv_nsec = ns % 1000000000;
            if (wait_us <= 0 || pthread_cond_timedwait(&c->queue.wake, &c->queue.lock, &t) == ETIMEDOUT)
                break;
        }
    }
    c->queue.waiting = false;
    struct commit_op *first = c->queue.first, **end = &c->queue.first;
    size_t n = 0;
    for (bool barrier = false; *end != NULL && n < GROUP_OPS_MAX && (!barrier || is_barrier(*end));
         end = &(*end)->next, n++)
        barrier = barrier || is_barrier(*end);
    if (n > 0) {
        c->queue.first = *end;
        *end = NULL;
        if (c->queue.first == NULL)
            c->queue.last = &c->queue.first;
    }
    bool stop = c->queue.stop && n == 0;
    c->queue.stopped = stop;
    pthread_mutex_unlock(&c->queue.lock);
    atomic_fetch_sub_explicit(&c->queued, n, memory_order_relaxed);
    *ret = n > 0 ? first : NULL;
    return !stop;
}

/* Gives back what does not fit into the group. */
static void put_back(struct committer *c, struct commit_op *first)
{
    struct commit_op *last = first;
    uint64_t n = 1;
    for (; last->next != NULL; n++)
        last = last->next;
    pthread_mutex_lock(&c->queue.lock);
    last->next = c->queue.first;
    if (c->queue.first == NULL)
        c->queue.last = &last->next;
    c->queue.first = first;
    pthread_mutex_unlock(&c->queue.lock);
    atomic_fetch_add_explicit(&c->queued, n, memory_order_relaxed);
}

/* ---- one group ---------------------------------------------------------------------------------------- */

static void apply_one(struct committer *c, struct commit_op *op)
{
    struct errctx ec;
    errctx_clear(&ec);
    struct txn *t = &c->txn;
    if (t->refuse_writes && !is_barrier(op)) {
        op->result = store_writable(c->store, &ec);
        if (op->result == ERR_OK) /* it came back this moment */
            op->result = err_set(&ec, ERR_UNAVAILABLE, "writes are stopped");
    } else if (op->author_issued_s != 0 && store_token_void(c->store, op->author, op->author_issued_s)) {
        /* Asked before the erasure, come after it: it must not bring the user back. */
        op->result = err_set(&ec, ERR_UNAUTHENTICATED, "invalid token");
    } else {
        txn_begin_op(t);
        op->result = op->apply(op, t, &ec);
        if (op->result == ERR_OK)
            op->result = txn_room(t, &ec);
        if (op->result != ERR_OK)
            txn_undo_op(t);
    }
    if (op->result != ERR_OK) {
        if (ec.code == ERR_OK)
            (void)err_set(&ec, op->result, "%s", err_wire(op->result));
        op->failure = malloc(sizeof ec);
        if (op->failure != NULL)
            *op->failure = ec;
    }
}

static bool wants_sync(const struct committer *c, const struct commit_op *op)
{
    enum durability d = op->durability != DURABILITY_DEFAULT ? op->durability : c->store->cfg.durability;
    return d != DURABILITY_ASYNC;
}

/* Makes what was written without fsync durable, too. */
static enum err sync_wal(struct committer *c, struct errctx *ec)
{
    char *message = NULL;
    int64_t start = os_monotonic_us(c->store->os);
    rocksdb_flush_wal(c->store->db, 1, &message);
    enum err e = store_rocks_err(ec, message, "fsync");
    if (e == ERR_OK) {
        c->unsynced = false;
        c->synced = rocksdb_get_latest_sequence_number(c->store->db);
        hist_add(&c->store->sync_hist, (uint64_t)(os_monotonic_us(c->store->os) - start));
    }
    return e;
}

/* A key that was destroyed since the op asked for it: the partition is erased, its values are not stored. */
static enum err seal_value(void *arg, struct str key, struct str *value, struct errctx *ec)
{
    struct committer *c = arg;
    return store_seal(c->store, key, *value, &c->sealed, value, ec);
}

static enum err write_group(struct committer *c, bool sync, struct errctx *ec)
{
    struct store *s = c->store;
    struct txn *t = &c->txn;
    txn_finish_group(t);
    if (t->scratch.failed || t->overlay.failed)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (overlay_empty(&t->overlay))
        return sync && c->unsynced ? sync_wal(c, ec) : ERR_OK;
    /* Keys first: a value without its key would be lost, a key without values is only unused. */
    enum err e = vault_flush(s->vault, ec);
    wal_attest(c->batch, c->synced);
    if (e == ERR_OK)
        e = overlay_emit(&t->overlay, c->batch, s->vault != NULL ? seal_value : NULL, c, ec);
    if (e != ERR_OK)
        return e;
    char *message = NULL;
    int64_t start = os_monotonic_us(s->os);
    rocksdb_write(s->db, sync && !PLANT(LOST_FSYNC) ? c->write_sync : c->write_async, c->batch, &message);
    e = store_rocks_err(ec, message, "commit");
    if (e != ERR_OK)
        return e;
    atomic_fetch_add_explicit(&s->batches, 1, memory_order_relaxed);
    if (sync) {
        hist_add(&s->sync_hist, (uint64_t)(os_monotonic_us(s->os) - start));
        c->unsynced = false; /* one log: what came before is covered */
        c->synced = rocksdb_get_latest_sequence_number(s->db);
    } else if (!c->unsynced) {
        c->unsynced = true;
        c->unsynced_since_us = start;
    }
    return ERR_OK;
}

static void account(struct committer *c)
{
    struct store *s = c->store;
    struct txn *t = &c->txn;
    t->catalog_written = t->catalog;
    records_written(&t->records, &t->overlay);
    atomic_fetch_add_explicit(&s->rows_inserted, t->inserted, memory_order_relaxed);
    atomic_fetch_add_explicit(&s->rows_updated, t->updated, memory_order_relaxed);
    atomic_fetch_add_explicit(&s->rows_deleted, t->deleted, memory_order_relaxed);
    t->inserted = t->updated = t->deleted = 0;
    atomic_store_explicit(
        &s->rows_hot, (uint64_t)(t->catalog.rows_hot > 0 ? t->catalog.rows_hot : 0), memory_order_relaxed);
    atomic_store_explicit(&s->users, catalog_users(&t->catalog), memory_order_relaxed);
    if (t->heads.dirty != NULL) {
        pthread_mutex_lock(&c->listener_lock);
        for (struct head_entry *e = t->heads.dirty; c->notes && e != NULL; e = e->next_dirty)
            consolidator_note(s->consolidator, e->user_no, e->head.fresh_rows, e->head.fresh_since_us);
        pthread_mutex_unlock(&c->listener_lock);
    }
    heads_written(&t->heads);
}

static void clear_notes(struct put_notes *notes)
{
    notes->n = 0;
    if (notes->cap > PUTS_KEEP) {
        free(notes->at);
        *notes = (struct put_notes){0};
    }
}

static void clear_group(struct committer *c)
{
    size_t size;
    (void)rocksdb_writebatch_data(c->batch, &size);
    if (size > GROUP_BYTES_MAX / 2) { /* clearing would keep its memory */
        rocksdb_writebatch_destroy(c->batch);
        c->batch = rocksdb_writebatch_create();
    } else {
        rocksdb_writebatch_clear(c->batch);
    }
    overlay_clear(&c->txn.overlay);
    clear_notes(&c->txn.puts);
    clear_notes(&c->txn.member_puts);
    c->txn.members_changed = false;
    if (c->txn.group_lists.full)
        group_lists_clear(&c->txn.group_lists);
    if (c->txn.arena.used_bytes > GROUP_BYTES_MAX)
        arena_release(&c->txn.arena);
    else
        arena_clear(&c->txn.arena);
}

/* Nothing is known about what the database holds of the last group, nor of the unsynced ones before. */
static void fail(struct committer *c, const struct errctx *why)
{
    c->reason = *why;
    c->unsynced = false;
    c->recover_after_us = os_monotonic_us(c->store->os) + RECOVER_INTERVAL_US;
    if (!PLANT(SEQ_REUSED))
        heads_clear(&c->txn.heads);
    group_lists_clear(&c->txn.group_lists);
    records_clear(&c->txn.records);
    pending_clear(&c->txn.pending);
    buf_clear(&c->txn.buried); /* what is on disk tells, the sweep asks it */
    c->txn.inserted = c->txn.updated = c->txn.deleted = 0;
    atomic_store(&c->store->failed, true);
}

static void finish_op(struct committer *c, struct commit_op *op, enum err group, bool sync)
{
    static const struct errctx fine;
    struct errctx ec, *failure = op->failure;
    enum err e = op->result;
    op->failure = NULL;
    if (group != ERR_OK) {
        free(failure);
        failure = NULL;
        e = err_set(&ec, ERR_OUTCOME_UNKNOWN, "the disk failed during the commit");
        err_detail(&ec, "The change may or may not have been stored.");
        err_hint(&ec, "Retry with the same client_msg_id.");
    } else if (e != ERR_OK && failure == NULL) {
        e = err_set(&ec, e, "%s", err_wire(e));
    } else if (e == ERR_OK && !is_barrier(op)) {
        atomic_fetch_add_explicit(&c->store->commits, 1, memory_order_relaxed);
        if (sync)
            hist_add(&c->store->commit_hist, (uint64_t)(os_monotonic_us(c->store->os) - op->queued_us));
    }
    op->done(op, e, e == ERR_OK ? &fine : failure != NULL ? failure : &ec);
    free(failure);
}

static void publish(struct committer *c)
{
    pthread_mutex_lock(&c->listener_lock);
    pending_publish(&c->txn.pending, &c->listener);
    pthread_mutex_unlock(&c->listener_lock);
    txn_bury(&c->txn); /* durable now: a crash would not bring the rows back */
}

static void run_group(struct committer *c, struct commit_op *ops)
{
    struct store *s = c->store;
    struct txn *t = &c->txn;
    struct errctx ec;
    bool sync = false;
    errctx_clear(&ec);
    t->now_us = os_realtime_us(s->os);
    atomic_store_explicit(&s->expiry_before_us, t->now_us, memory_order_relaxed);
    t->refuse_writes = store_writable(s, &ec) != ERR_OK && !atomic_load(&s->closing);
    for (struct commit_op *op = ops; op != NULL; op = op->next) {
        apply_one(c, op);
        sync = sync || wants_sync(c, op);
        if (op->next != NULL && overlay_bytes(&t->overlay) > GROUP_BYTES_MAX) {
            put_back(c, op->next);
            op->next = NULL;
        }
    }
    sync = sync || t->pending.arena.used_bytes > PENDING_BYTES_SYNC;
    if (PLANT(PUBLISH_BEFORE_FSYNC))
        publish(c);
    bool late = sync && PLANT(ACK_BEFORE_FSYNC);
    enum err e = write_group(c, sync && !late, &ec);
    if (e == ERR_OK)
        account(c);
    else
        fail(c, &ec);
    clear_group(c);
    /* Barriers come last in a group, so their turn is after publication; the list is cut for that. */
    struct commit_op *barriers = ops;
    while (barriers != NULL && !is_barrier(barriers))
        barriers = barriers->next;
    for (struct commit_op *op = ops, *next; op != barriers; op = next) {
        next = op->next;
        finish_op(c, op, e, sync);
    }
    if (late && e == ERR_OK)
        e = sync_wal(c, &ec);
    if (e == ERR_OK && !c->unsynced)
        publish(c);
    for (struct commit_op *op = barriers, *next; op != NULL; op = next) {
        next = op->next;
        finish_op(c, op, e, sync);
    }
}

/* ---- the thread --------------------------------------------------------------------------------------- */

static void fail_group(struct committer *c, struct commit_op *ops)
{
    for (struct commit_op *op = ops, *next; op != NULL; op = next) {
        next = op->next;
        struct errctx ec;
        enum err e = store_writable(c->store, &ec);
        if (e == ERR_OK)
            e = err_set(&ec, ERR_UNAVAILABLE, "writes are stopped");
        op->done(op, e, &ec);
    }
}

static void end_window(struct committer *c)
{
    struct errctx ec;
    if (os_monotonic_us(c->store->os) < c->unsynced_since_us + c->store->cfg.async_window_ms * INT64_C(1000))
        return;
    if (sync_wal(c, &ec) == ERR_OK)
        publish(c);
    else
        fail(c, &ec);
}

/* A log that was closed has no last group whose rot could be taken for a torn write. */
static void attest_end(struct committer *c)
{
    char *message = NULL;
    if (c->synced == 0 || c->unsynced || atomic_load(&c->store->failed))
        return;
    clear_group(c);
    wal_attest(c->batch, c->synced);
    rocksdb_write(c->store->db, c->write_sync, c->batch, &message);
    rocksdb_free(message); /* all that counts is safe already */
}

static void *run(void *arg)
{
    struct committer *c = arg;
    struct store *s = c->store;
    struct commit_op *ops;
    struct errctx ec;
    rocksdb_set_perf_level(rocksdb_disable); /* of this thread: counting every key comparison costs 5 % */
    while (collect(c, &ops)) {
        if (atomic_load(&s->failed)) {
            if (os_monotonic_us(s->os) >= c->recover_after_us && committer_recover(c, &ec) != ERR_OK) {
                c->recover_after_us = os_monotonic_us(s->os) + RECOVER_INTERVAL_US;
                c->reason = ec;
            }
        }
        if (ops != NULL && atomic_load(&s->failed))
            fail_group(c, ops);
        else if (ops != NULL)
            run_group(c, ops);
        if (c->unsynced)
            end_window(c);
    }
    if (c->unsynced && sync_wal(c, &ec) == ERR_OK)
        publish(c);
    attest_end(c);
    return NULL;
}

static void committer_free(struct committer *c)
{
    struct txn *t = &c->txn;
    buf_release(&c->sealed);
    if (c->batch != NULL)
        rocksdb_writebatch_destroy(c->batch);
    if (c->write_sync != NULL)
        rocksdb_writeoptions_destroy(c->write_sync);
    if (c->write_async != NULL)
        rocksdb_writeoptions_destroy(c->write_async);
    overlay_release(&t->overlay);
    free(t->puts.at);
    free(t->member_puts.at);
    group_lists_clear(&t->group_lists);
    records_release(&t->records);
    blob_keys_release(&t->blob_keys);
    heads_release(&t->heads);
    arena_release(&t->arena);
    arena_release(&t->pending.arena);
    free(t->pending.items);
    buf_release(&t->scratch);
    buf_release(&t->buried);
    buf_release(&t->columns);
    pthread_mutex_destroy(&c->queue.lock);
    pthread_mutex_destroy(&c->listener_lock);
    pthread_cond_destroy(&c->queue.wake);
    free(c);
}

enum err committer_start(struct store *s, struct errctx *ec)
{
    struct committer *c = calloc(1, sizeof *c);
    if (c == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->queue.wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&c->queue.lock, NULL);
    pthread_mutex_init(&c->listener_lock, NULL);
    c->store = s;
    c->queue.last = &c->queue.first;
    c->write_sync = rocksdb_writeoptions_create();
    rocksdb_writeoptions_set_sync(c->write_sync, 1);
    c->write_async = rocksdb_writeoptions_create();
    struct txn *t = &c->txn;
    t->store = s;
    t->committer = c;
    c->batch = rocksdb_writebatch_create();
    overlay_init(&t->overlay);
    arena_init(&t->arena, TXN_ARENA_BYTES_MAX);
    arena_init(&t->pending.arena, PENDING_BYTES_MAX);
    enum err e = heads_init(&t->heads);
    if (e != ERR_OK)
        (void)err_set(ec, e, "out of memory");
    if (e == ERR_OK)
        e = committer_load(c, ec);
    s->committer = c;
    if (e == ERR_OK && pthread_create(&c->thread, NULL, run, c) != 0)
        e = err_set(ec, ERR_NO_MEMORY, "cannot start a thread");
    if (e != ERR_OK) {
        s->committer = NULL;
        committer_free(c);
    }
    return e;
}

void committer_stop(struct store *s)
{
    struct committer *c = s->committer;
    pthread_mutex_lock(&c->queue.lock);
    c->queue.stop = true;
    pthread_cond_signal(&c->queue.wake);
    pthread_mutex_unlock(&c->queue.lock);
    pthread_join(c->thread, NULL);
    s->committer = NULL;
    committer_free(c);
}

void committer_notes(struct store *s, bool on)
{
    pthread_mutex_lock(&s->committer->listener_lock);
    s->committer->notes = on;
    pthread_mutex_unlock(&s->committer->listener_lock);
}

/* The lock is held while a listener is called: once this returns, the one before is not called any more. */
void store_set_listener(struct store *s, const struct store_listener *l)
{
    struct committer *c = s->committer;
    pthread_mutex_lock(&c->listener_lock);
    c->listener = l != NULL ? *l : (struct store_listener){0};
    pthread_mutex_unlock(&c->listener_lock);
}

/* ---- waiting for one op ------------------------------------------------------------------------------- */

struct waiter {
    struct commit_op op; /* stands in for the caller's, so that its done() stays free */
    struct commit_op *inner;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool finished;
    enum err err;
    struct errctx *ec;
};

static enum err waiter_apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct waiter *w = (struct waiter *)(void *)op;
    return w->inner->apply(w->inner, txn, ec);
}

static void waiter_done(struct commit_op *op, enum err err, const struct errctx *ec)
{
    struct waiter *w = (struct waiter *)(void *)op;
    pthread_mutex_lock(&w->lock);
    w->err = err;
    if (err != ERR_OK)
        *w->ec = *ec;
    w->finished = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

enum err store_commit_wait(struct store *s, struct commit_op *op, struct errctx *ec)
{
    enum durability durability =
        op->durability == DURABILITY_ASYNC ? DURABILITY_ASYNC : DURABILITY_SYNC; /* never the default */
    struct waiter w = {.op = {.apply = waiter_apply,
                           .done = waiter_done,
                           .durability = durability,
                           .author = op->author,
                           .author_issued_s = op->author_issued_s},
        .inner = op,
        .ec = ec};
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.wake, NULL);
    store_submit(s, &w.op);
    pthread_mutex_lock(&w.lock);
    while (!w.finished)
        pthread_cond_wait(&w.wake, &w.lock);
    pthread_mutex_unlock(&w.lock);
    pthread_cond_destroy(&w.wake);
    pthread_mutex_destroy(&w.lock);
    return w.err;
}
