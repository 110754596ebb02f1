#include "engine/history.h"
#include "engine/modify_read.h"
#include "store/backfill.h"
#include "store/stream.h"
#include <stdlib.h>
#include <time.h>

enum {
    READ_ROWS = 1000,  /* per read of the source */
    CHUNK_ROWS = 500,  /* per commit */
    PAUSE_MS = 5,      /* after each commit: the delay that a writer sees stays small, and rare */
    RETRY_MS = 200,    /* after a chunk that met a change, or an error */
    WORKER_MS = 60000, /* one read by a worker */
};
#define CHUNK_BYTES ((size_t)4 << 20)
#define PAGE_BYTES ((size_t)64 << 20)

struct history {
    struct kalamdb *db;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool woken, stop; /* lock */
    struct analytic_cancel cancel;
};

/* A piece of the source's conversation, read from one snapshot. */
struct page {
    struct arena arena;
    struct str conversation_id;
    struct rowset cold; /* where a worker read it */
    bool has_cold, whole;
    size_t nrows;
    struct value (*rows)[MSG_NCOLUMNS];
    struct backfill_chunk chunk; /* what is the same for all its chunks */
};

/* ---- waiting ------------------------------------------------------------------------------------------ */

static bool stopping(struct history *h)
{
    pthread_mutex_lock(&h->lock);
    bool stop = h->stop;
    pthread_mutex_unlock(&h->lock);
    return stop;
}

static void rest(struct history *h, int ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += (long)(ms % 1000) * 1000000;
    t.tv_sec += ms / 1000 + t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    pthread_mutex_lock(&h->lock);
    while (!h->stop && pthread_cond_timedwait(&h->wake, &h->lock, &t) == 0)
        ;
    pthread_mutex_unlock(&h->lock);
}

struct waiting {
    struct commit_op op;
    struct backfill_chunk *chunk;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
    enum err err;
    struct errctx ec;
};

static enum err apply_chunk(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    return txn_backfill_chunk(txn, ((struct waiting *)(void *)op)->chunk, ec);
}

static void chunk_done(struct commit_op *op, enum err e, const struct errctx *ec)
{
    struct waiting *w = (struct waiting *)(void *)op;
    pthread_mutex_lock(&w->lock);
    w->err = e;
    if (e != ERR_OK && ec != NULL)
        w->ec = *ec;
    w->done = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

/* Without fsync: what a power loss takes back, it takes back with the cursor. */
static enum err commit_chunk(struct history *h, struct backfill_chunk *chunk, struct errctx *ec)
{
    struct waiting w = {.op = {.apply = apply_chunk, .done = chunk_done, .durability = DURABILITY_ASYNC},
        .chunk = chunk,
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .cond = PTHREAD_COND_INITIALIZER};
    errctx_clear(&w.ec);
    store_submit(h->db->store, &w.op);
    pthread_mutex_lock(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    if (w.err != ERR_OK)
        *ec = w.ec;
    return w.err;
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static enum err run_worker(struct history *h, struct snapshot *snap, const struct scan_bounds *bounds,
    const struct buf *sql, struct rowset *ret, struct errctx *ec)
{
    struct analytic_input input;
    enum err e = sql->failed ? err_internal(ec, ERR_NO_MEMORY, "history copy")
                             : snapshot_input(snap, &schema_messages, bounds, false, &input, ec);
    if (e != ERR_OK)
        return e;
    struct analytic_request rq = {.user_id = snapshot_user_id(snap),
        .sql = buf_view(sql),
        .ninputs = 1,
        .inputs = &input,
        .mode = ANALYTIC_ROWS,
        .output_fd = -1,
        .timeout_ms = WORKER_MS,
        .cancel = &h->cancel};
    return analytic_run(h->db->analytic, &rq, ret, ec);
}

static enum err read_hot(struct snapshot *snap, const struct backfill *b, struct page *p, struct errctx *ec)
{
    struct scan_spec spec = {.order = SCAN_BY_CONVERSATION,
        .conversation_id = p->conversation_id,
        .id_min = b->cursor + 1,
        .id_max = b->until,
        .seq_max = UINT64_MAX};
    struct hot_iter *it;
    struct str row;
    struct row_meta meta;
    size_t bytes = 0;
    p->rows = arena_array(&p->arena, READ_ROWS, sizeof *p->rows);
    if (p->rows == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "history copy");
    enum err e = hot_iter_open(snap, &spec, &it, ec);
    if (e != ERR_OK)
        return e;
    while (p->nrows < READ_ROWS && bytes < PAGE_BYTES && (e = hot_iter_next(it, &row, ec)) == ERR_OK) {
        struct str copy = arena_str(&p->arena, row);
        if (copy.ptr == NULL || row_decode(copy, &schema_messages, &meta, p->rows[p->nrows]) != ERR_OK) {
            e = err_internal(ec, copy.ptr == NULL ? ERR_NO_MEMORY : ERR_CORRUPT, "history copy: hot row");
            break;
        }
        bytes += row.len;
        p->nrows += (meta.flags & ROW_TOMBSTONE) == 0;
    }
    hot_iter_close(it);
    p->whole = e == ERR_NOT_FOUND;
    if (e == ERR_NOT_FOUND)
        errctx_clear(ec);
    return e == ERR_NOT_FOUND ? ERR_OK : e;
}

static enum err read_cold(struct history *h, struct snapshot *snap, const struct backfill *b, struct page *p,
    int limit, struct errctx *ec)
{
    struct buf sql = BUF_INIT(0);
    struct scan_bounds bounds = SCAN_BOUNDS_OPEN;
    bounds.id_min = b->cursor + 1;
    bounds.id_max = b->until;
    bounds.conversation_id = p->conversation_id;
    for (int i = 0; i < MSG_NCOLUMNS; i++)
        buf_printf(&sql, "%s\"%.*s\"", i == 0 ? "SELECT " : ", ", STR_FMT(schema_messages.columns[i].name));
    buf_str(&sql, STR(" FROM scan_0 WHERE conversation_id = "));
    modify_quote(&sql, p->conversation_id);
    buf_printf(&sql, " AND msg_id > %lld AND msg_id <= %lld ORDER BY msg_id LIMIT %d", (long long)b->cursor,
        (long long)b->until, limit);
    enum err e = run_worker(h, snap, &bounds, &sql, &p->cold, ec);
    buf_release(&sql);
    if (e != ERR_OK)
        return e;
    p->has_cold = true;
    p->nrows = p->cold.nrows;
    p->whole = p->nrows < (size_t)limit;
    p->rows = arena_array(&p->arena, p->nrows, sizeof *p->rows);
    if (p->nrows > 0 && p->rows == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "history copy");
    if (p->cold.ncolumns != MSG_NCOLUMNS)
        return err_internal(ec, ERR_INTERNAL, "history copy of %d columns", p->cold.ncolumns);
    for (size_t i = 0; i < p->nrows; i++) {
        const struct value *v = rowset_row(&p->cold, i);
        for (int k = 0; k < MSG_NCOLUMNS; k++) {
            p->rows[i][k] = v[k];
            enum value_type want = schema_messages.columns[k].type;
            if (value_is_null(v[k]) || v[k].type == want)
                continue;
            if (!value_is_bytes(v[k].type) || !value_is_bytes(want))
                return err_internal(
                    ec, ERR_INTERNAL, "history copy: column %d of type %d", k, (int)v[k].type);
            p->rows[i][k].type = want;
        }
    }
    return ERR_OK;
}

/* Total to show: what the source has of the conversation. */
static void note_total(struct snapshot *snap, struct page *p)
{
    struct value values[CONV_NCOLUMNS];
    struct errctx ignored;
    if (snapshot_conversation(snap, p->conversation_id, values, &ignored) == ERR_OK)
        p->chunk.total = (uint64_t)values[CONV_TOTAL_MESSAGES].i;
}

static enum err read_source(struct history *h, const struct backfill *b, struct page *p, struct errctx *ec)
{
    struct snapshot *snap;
    enum err e = snapshot_open_no(h->db->store, p->chunk.source_no, &snap, ec);
    if (e != ERR_OK)
        return e;
    p->chunk.source_seq = snapshot_seq(snap);
    p->chunk.source_epoch = snapshot_cold_epoch(snap);
    if (b->cursor == 0)
        note_total(snap, p);
    if (snapshot_conversation_floor(snap, p->conversation_id) <= b->cursor + 1) {
        e = read_hot(snap, b, p, ec);
    } else {
        int limit = READ_ROWS;
        while ((e = read_cold(h, snap, b, p, limit, ec)) == ERR_TOO_LARGE && limit > 1) {
            errctx_clear(ec);
            limit /= 8;
            limit = limit < 1 ? 1 : limit;
        }
    }
    snapshot_close(snap);
    return e;
}

static enum err read_open(struct history *h, struct page *p, struct errctx *ec)
{
    size_t n = store_stream_notes(h->db->store, p->chunk.source_no, NULL, 0);
    if (n == 0)
        return ERR_OK;
    size_t room = n + 64, found; /* those that begin meanwhile are not of the page */
    struct stream_note *notes = arena_array(&p->arena, room, sizeof *notes);
    int64_t *open = arena_array(&p->arena, room, sizeof *open);
    if (notes == NULL || open == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "history copy");
    found = store_stream_notes(h->db->store, p->chunk.source_no, notes, room);
    if (found > room)
        return err_set(ec, ERR_RETRY, "many streams have begun");
    for (size_t i = 0; i < found; i++)
        open[i] = notes[i].msg_id;
    p->chunk.nopen = found;
    p->chunk.open = open;
    return ERR_OK;
}

/* Which of the page's messages stand in the target's own files: from an earlier membership, or supplied. */
static enum err read_target(struct history *h, const struct backfill *b, struct page *p, struct errctx *ec)
{
    struct snapshot *snap;
    enum err e = p->nrows > 0 ? snapshot_open_no(h->db->store, b->user_no, &snap, ec) : ERR_OK;
    if (e != ERR_OK || p->nrows == 0)
        return e;
    struct rowset rows;
    struct buf sql = BUF_INIT(0);
    struct scan_bounds bounds = SCAN_BOUNDS_OPEN;
    bounds.id_min = p->rows[0][MSG_ID].i;
    bounds.id_max = p->rows[p->nrows - 1][MSG_ID].i;
    p->chunk.target_epoch = snapshot_cold_epoch(snap);
    if (!snapshot_has_cold(snap)) {
        snapshot_close(snap);
        return ERR_OK;
    }
    /* Of any conversation: an id that a service supplied may be another message's here. */
    for (size_t i = 0; i < p->nrows; i++)
        buf_printf(&sql, "%s%lld", i == 0 ? "SELECT msg_id FROM scan_0 WHERE msg_id IN (" : ",",
            (long long)p->rows[i][MSG_ID].i);
    buf_str(&sql, STR(") ORDER BY msg_id"));
    e = run_worker(h, snap, &bounds, &sql, &rows, ec);
    buf_release(&sql);
    snapshot_close(snap);
    if (e != ERR_OK)
        return e;
    int64_t *there = arena_array(&p->arena, rows.nrows, sizeof *there);
    for (size_t i = 0; there != NULL && i < rows.nrows; i++)
        there[i] = rowset_row(&rows, i)->i;
    p->chunk.there = there;
    p->chunk.nthere = rows.nrows;
    if (rows.nrows > 0 && there == NULL)
        e = err_internal(ec, ERR_NO_MEMORY, "history copy");
    rowset_release(&rows);
    return e;
}

/* ---- copying ------------------------------------------------------------------------------------------ */

static size_t chunk_rows(const struct page *p, size_t at)
{
    size_t n = 0, bytes = 0;
    while (at + n < p->nrows && n < CHUNK_ROWS && bytes < CHUNK_BYTES) {
        struct value content = p->rows[at + n][MSG_CONTENT];
        bytes += value_is_null(content) ? 0 : content.s.len;
        n++;
    }
    return n;
}

static enum err copy_page(
    struct history *h, struct backfill *b, struct page *p, bool *ret_over, struct errctx *ec)
{
    size_t at = 0;
    enum err e = ERR_OK;
    *ret_over = false;
    do {
        struct backfill_chunk chunk = p->chunk;
        chunk.b = *b;
        chunk.nrows = chunk_rows(p, at);
        chunk.rows = p->rows != NULL ? p->rows + at : NULL;
        at += chunk.nrows;
        chunk.last = p->whole && at == p->nrows;
        e = commit_chunk(h, &chunk, ec);
        if (e == ERR_OK) {
            *b = chunk.b;
            *ret_over = chunk.over;
            rest(h, PAUSE_MS);
        }
    } while (e == ERR_OK && !*ret_over && at < p->nrows && !stopping(h));
    return e;
}

/* One page of one pending copy. */
static enum err copy_some(struct history *h, struct backfill *b, struct errctx *ec)
{
    struct page p = {.whole = true};
    bool over;
    arena_init(&p.arena, 2 * PAGE_BYTES);
    enum err e = store_backfill_source(h->db->store, b, &p.arena, &p.chunk.source_no, &p.conversation_id, ec);
    if (e == ERR_OK) {
        e = read_source(h, b, &p, ec);
        if (e == ERR_OK)
            e = read_open(h, &p, ec);
        if (e == ERR_OK)
            e = read_target(h, b, &p, ec);
    } else if (e == ERR_NOT_FOUND) {
        /* Nobody to copy from, or nobody to copy to: the commit finds out and ends it. */
        errctx_clear(ec);
        e = ERR_OK;
    }
    if (e == ERR_OK)
        e = copy_page(h, b, &p, &over, ec);
    if (p.has_cold)
        rowset_release(&p.cold);
    arena_release(&p.arena);
    return e;
}

/* One page for each that is pending. False: nothing is. */
static bool round_of_all(struct history *h)
{
    struct backfill b = {0};
    struct errctx ec;
    bool any = false, trouble = false;
    errctx_clear(&ec);
    while (!stopping(h)) {
        enum err e = store_backfill_next(h->db->store, b.group_no, b.user_no, &b, &ec);
        if (e == ERR_NOT_FOUND)
            break;
        any = true;
        if (e == ERR_OK)
            e = copy_some(h, &b, &ec);
        trouble = trouble || e != ERR_OK;
        if (e != ERR_OK && b.user_no == 0)
            break; /* the records cannot be read */
        errctx_clear(&ec);
    }
    if (trouble)
        rest(h, RETRY_MS);
    return any;
}

static void *history_main(void *arg)
{
    struct history *h = arg;
    for (;;) {
        pthread_mutex_lock(&h->lock);
        while (!h->woken && !h->stop)
            pthread_cond_wait(&h->wake, &h->lock);
        h->woken = false;
        bool stop = h->stop;
        pthread_mutex_unlock(&h->lock);
        if (stop)
            return NULL;
        while (round_of_all(h))
            ;
    }
}

enum err history_open(struct kalamdb *db, struct errctx *ec)
{
    struct history *h = calloc(1, sizeof *h);
    pthread_condattr_t monotonic;
    if (h == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "history copies");
    h->db = db;
    h->woken = true;
    pthread_mutex_init(&h->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&h->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (pthread_create(&h->thread, NULL, history_main, h) != 0) {
        pthread_cond_destroy(&h->wake);
        pthread_mutex_destroy(&h->lock);
        free(h);
        return err_internal(ec, ERR_INTERNAL, "no thread for history copies");
    }
    db->history = h;
    return ERR_OK;
}

void history_close(struct kalamdb *db)
{
    struct history *h = db->history;
    if (h == NULL)
        return;
    pthread_mutex_lock(&h->lock);
    h->stop = true;
    pthread_cond_broadcast(&h->wake);
    pthread_mutex_unlock(&h->lock);
    analytic_cancel(&h->cancel);
    pthread_join(h->thread, NULL);
    pthread_cond_destroy(&h->wake);
    pthread_mutex_destroy(&h->lock);
    free(h);
    db->history = NULL;
}

void history_wake(struct kalamdb *db)
{
    struct history *h = db->history;
    if (h == NULL)
        return;
    pthread_mutex_lock(&h->lock);
    h->woken = true;
    pthread_cond_broadcast(&h->wake);
    pthread_mutex_unlock(&h->lock);
}
