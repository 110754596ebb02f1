/* The sweeper. Under one view three things are held against each other: rows of both tiers, the counts per
 * user (SPACE_REFS), and the totals in the blobs' records. What differs is repaired by adding the difference,
 * so that commits that go on meanwhile keep counting right.
 *
 * A file is an orphan when, in this order: it is in its folder; nobody is at work on it (struct blob_file);
 * no record names it; and, after a barrier, it is still there, so that it was not a file whose last row went
 * and that waits for its burial; and no grave holds it for an older snapshot. Ids are never given twice, so
 * none of that can change back. */
#include "base/log.h"
#include "store/cold.h"
#include "store/orphans.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define UPLOAD_AGE_S 3600
#define SWEEP_TIMEOUT_MS 600000            /* of one user's worker */
#define REFS_BYTES_MAX ((size_t)256 << 20) /* of one user */

struct ref_count {
    struct str ref;
    int64_t n;
};
struct ref_list {
    struct ref_count *items;
    size_t n, cap;
    struct arena arena;
};

/* Sums by key. */
struct total {
    char key[16];
    uint64_t n; /* 0: free slot */
};
struct totals {
    struct total *slots;
    size_t n, cap; /* a power of two */
};

struct sweeper {
    struct store *s;
    struct store_view *view;
    bool rows;
    struct sweep_counts *counts;
    struct totals refs;   /* rows by hash of the ref */
    struct totals quotas; /* bytes of media by user number */
    struct buf suspects;  /* lstr folder, lstr name */
};

static enum err no_memory(struct errctx *ec)
{
    return err_set(ec, ERR_NO_MEMORY, "out of memory");
}

static enum err stopping(const struct sweeper *w, struct errctx *ec)
{
    const struct consolidator *c = w->s->consolidator;
    return c != NULL && atomic_load(&c->stop) ? err_set(ec, ERR_UNAVAILABLE, "the server is shutting down")
                                              : ERR_OK;
}

/* ---- lists of refs ------------------------------------------------------------------------------------- */

static void list_init(struct ref_list *l)
{
    *l = (struct ref_list){0};
    arena_init(&l->arena, REFS_BYTES_MAX);
}

static void list_release(struct ref_list *l)
{
    free(l->items);
    arena_release(&l->arena);
}

static enum err list_add(struct ref_list *l, struct str ref, int64_t n, struct errctx *ec)
{
    if (l->n == l->cap) {
        size_t cap = l->cap == 0 ? 64 : l->cap * 2;
        struct ref_count *p = realloc(l->items, cap * sizeof *p);
        if (p == NULL)
            return no_memory(ec);
        l->items = p;
        l->cap = cap;
    }
    struct str copy = arena_str(&l->arena, ref);
    if (copy.ptr == NULL)
        return no_memory(ec);
    l->items[l->n++] = (struct ref_count){copy, n};
    return ERR_OK;
}

static int by_ref(const void *a, const void *b)
{
    return str_cmp(((const struct ref_count *)a)->ref, ((const struct ref_count *)b)->ref);
}

/* In order, each ref once. */
static void list_settle(struct ref_list *l)
{
    size_t n = 0;
    if (l->n > 1)
        qsort(l->items, l->n, sizeof *l->items, by_ref);
    for (size_t i = 0; i < l->n; i++) {
        if (n > 0 && str_eq(l->items[n - 1].ref, l->items[i].ref))
            l->items[n - 1].n += l->items[i].n;
        else
            l->items[n++] = l->items[i];
    }
    l->n = n;
}

static enum err note_ref(void *arg, struct str ref, uint32_t rows, struct errctx *ec)
{
    return list_add(arg, ref, rows, ec);
}

static enum err refs_of_hot(struct snapshot *snap, struct ref_list *ret, struct errctx *ec)
{
    struct scan_spec spec = {.order = SCAN_BY_ID, .id_max = INT64_MAX, .seq_max = UINT64_MAX};
    struct hot_iter *it;
    struct str row;
    struct row_meta meta;
    struct value values[MSG_NCOLUMNS];
    enum err e = hot_iter_open(snap, &spec, &it, ec);
    if (e != ERR_OK)
        return e;
    while ((e = hot_iter_next(it, &row, ec)) == ERR_OK) {
        if (row_decode(row, &schema_messages, &meta, values) != ERR_OK)
            e = err_internal(ec, ERR_CORRUPT, "a message row is damaged");
        else if (!value_is_null(values[MSG_CONTENT_REF]))
            e = list_add(ret, values[MSG_CONTENT_REF].s, 1, ec);
        if (e != ERR_OK)
            break;
    }
    hot_iter_close(it);
    if (e != ERR_NOT_FOUND)
        return e;
    errctx_clear(ec);
    return ERR_OK;
}

static enum err refs_of_both(
    const struct sweeper *w, struct snapshot *snap, struct ref_list *ret, struct errctx *ec)
{
    struct store *s = w->s;
    struct analytic_input input;
    struct scan_bounds bounds = SCAN_BOUNDS_OPEN;
    struct rowset found;
    enum err e = snapshot_input(snap, &schema_messages, &bounds, false, &input, ec);
    if (e != ERR_OK)
        return e;
    struct analytic_request rq = {
        .user_id = head_user_id(&snap->head),
        .sql = STR(
            "SELECT content_ref, count(*) FROM scan_0 WHERE content_ref IS NOT NULL GROUP BY content_ref"),
        .ninputs = 1,
        .inputs = &input,
        .mode = ANALYTIC_ROWS,
        .output_fd = -1,
        .timeout_ms = SWEEP_TIMEOUT_MS,
        .cancel = &s->consolidator->cancel,
    };
    pthread_mutex_lock(&s->consolidator->work); /* whose `cancel` this is */
    e = stopping(w, ec);
    if (e == ERR_OK)
        e = analytic_run(s->cfg.analytic, &rq, &found, ec);
    pthread_mutex_unlock(&s->consolidator->work);
    if (e != ERR_OK)
        return e;
    for (size_t i = 0; e == ERR_OK && i < found.nrows; i++)
        e = list_add(ret, rowset_row(&found, i)[0].s, rowset_row(&found, i)[1].i, ec);
    rowset_release(&found);
    return e;
}

/* ---- totals -------------------------------------------------------------------------------------------- */

static struct total *total_slot(struct total *t, size_t cap, const char key[16])
{
    size_t i = (size_t)(get_be64(key) ^ get_be64(key + 8)) & (cap - 1);
    while (t[i].n != 0 && memcmp(t[i].key, key, 16) != 0)
        i = (i + 1) & (cap - 1);
    return &t[i];
}

static void key_of_ref(struct str ref, char ret[16])
{
    uint8_t hash[32];
    sha256(ref, hash);
    memcpy(ret, hash, 16);
}

static void key_of_user(uint64_t user_no, char ret[16])
{
    put_be64(ret, 0);
    put_be64(ret + 8, user_no);
}

static uint64_t total_of(const struct totals *t, const char key[16])
{
    return t->cap > 0 ? total_slot(t->slots, t->cap, key)->n : 0;
}

static enum err total_add(struct totals *t, const char key[16], uint64_t n, struct errctx *ec)
{
    if (n == 0)
        return ERR_OK;
    if (t->n * 2 >= t->cap) {
        size_t cap = t->cap == 0 ? 1024 : t->cap * 2;
        struct total *p = calloc(cap, sizeof *p);
        if (p == NULL)
            return no_memory(ec);
        for (size_t i = 0; i < t->cap; i++)
            if (t->slots[i].n != 0)
                *total_slot(p, cap, t->slots[i].key) = t->slots[i];
        free(t->slots);
        t->slots = p;
        t->cap = cap;
    }
    struct total *slot = total_slot(t->slots, t->cap, key);
    t->n += slot->n == 0;
    memcpy(slot->key, key, sizeof slot->key);
    slot->n += n;
    return ERR_OK;
}

/* ---- repairs ------------------------------------------------------------------------------------------- */

struct repair {
    struct commit_op op;
    uint64_t user_no;
    struct str ref;
    int64_t user_delta, total_delta;
};

static enum err repair_apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    const struct repair *r = (const struct repair *)(void *)op;
    return txn_ref_repair(txn, r->user_no, r->ref, r->user_delta, r->total_delta, ec);
}

static enum err quota_apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    const struct repair *r = (const struct repair *)(void *)op;
    return txn_quota_repair(txn, r->user_no, r->user_delta, ec);
}

static enum err repair(struct sweeper *w, uint64_t user_no, struct str ref, int64_t user_delta,
    int64_t total_delta, struct errctx *ec)
{
    struct repair r = {.op = {.apply = repair_apply},
        .user_no = user_no,
        .ref = ref,
        .user_delta = user_delta,
        .total_delta = total_delta};
    log_event(LOG_WARN, "references_repaired", "i:user_no", (long long)user_no, "i:by",
        (long long)(user_delta != 0 ? user_delta : total_delta), NULL);
    return store_commit_wait(w->s, &r.op, ec);
}

/* A record for a file that rows name and that has none: counted from here on. */
struct restore {
    struct commit_op op;
    struct str ref;
    struct blob blob;
};

static enum err restore_apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    const struct restore *r = (const struct restore *)(void *)op;
    struct blob now;
    enum err e = txn_blob(txn, r->ref, &now, ec);
    if (e != ERR_NOT_FOUND)
        return e; /* somebody was first */
    errctx_clear(ec);
    e = txn_blob_put(txn, r->ref, &r->blob, 0, ec);
    return e == ERR_OK ? txn_ref_repair(txn, 0, r->ref, 0, (int64_t)r->blob.refs, ec) : e;
}

static enum err restore_record(
    struct sweeper *w, struct snapshot *holder, struct str ref, uint64_t n, struct errctx *ec)
{
    struct restore r = {.op = {.apply = restore_apply}, .ref = ref, .blob = {.refs = n}};
    struct blob_reader *file = NULL;
    const uint8_t *key = NULL;
    enum err e = snapshot_blob_key(holder, ref, &key, ec);
    if (e == ERR_OK)
        e = store_blob_open(w->s, ref, key, &file, ec);
    if (e == ERR_NOT_FOUND) {
        errctx_clear(ec);
        return ERR_OK; /* counted as missing */
    }
    if (e == ERR_OK)
        e = blob_describe(file, blob_ref_is_media(ref), &r.blob, ec);
    blob_reader_close(file);
    if (e != ERR_OK)
        return e;
    r.blob.refs = n;
    r.blob.key = key;
    w->counts->blobs_repaired++;
    return store_commit_wait(w->s, &r.op, ec);
}

/* ---- users --------------------------------------------------------------------------------------------- */

/* What rows say against what is counted; both in order. */
static enum err compare(struct sweeper *w, uint64_t user_no, const struct ref_list *rows,
    const struct ref_list *counted, struct errctx *ec)
{
    enum err e = ERR_OK;
    for (size_t i = 0, k = 0; e == ERR_OK && (i < rows->n || k < counted->n);) {
        int cmp = i == rows->n ? 1 : k == counted->n ? -1 : by_ref(&rows->items[i], &counted->items[k]);
        struct str ref = cmp <= 0 ? rows->items[i].ref : counted->items[k].ref;
        int64_t by = (cmp <= 0 ? rows->items[i].n : 0) - (cmp >= 0 ? counted->items[k].n : 0);
        if (by != 0) {
            w->counts->refs_repaired++;
            e = repair(w, user_no, ref, by, 0, ec);
        }
        i += cmp <= 0;
        k += cmp >= 0;
    }
    return e;
}

static enum err sweep_user_refs(struct sweeper *w, struct snapshot *snap, uint64_t user_no, struct errctx *ec)
{
    struct ref_list counted, rows;
    list_init(&counted);
    list_init(&rows);
    enum err e = snapshot_each_ref(snap, note_ref, &counted, ec);
    list_settle(&counted);
    const struct ref_list *truth = &counted;
    if (e == ERR_OK && w->rows) {
        e = snapshot_has_cold(snap) ? refs_of_both(w, snap, &rows, ec) : refs_of_hot(snap, &rows, ec);
        list_settle(&rows);
        if (e == ERR_OK)
            e = compare(w, user_no, &rows, &counted, ec);
        truth = &rows;
    }
    for (size_t i = 0; e == ERR_OK && i < truth->n; i++) {
        char key[16];
        key_of_ref(truth->items[i].ref, key);
        e = total_add(&w->refs, key, (uint64_t)truth->items[i].n, ec);
    }
    w->counts->users++;
    w->counts->refs += truth->n;
    list_release(&counted);
    list_release(&rows);
    return e;
}

static enum err sweep_user(void *arg, uint64_t user_no, struct str user_id, struct errctx *ec)
{
    struct sweeper *w = arg;
    struct snapshot *snap = NULL;
    (void)user_id;
    enum err e = stopping(w, ec);
    if (e == ERR_OK)
        e = snapshot_open_in_no(w->view, user_no, &snap, ec);
    if (e == ERR_OK)
        e = sweep_user_refs(w, snap, user_no, ec);
    snapshot_close(snap);
    return e;
}

/* ---- records ------------------------------------------------------------------------------------------- */

static enum err sweep_blob(void *arg, struct str ref, const struct blob *b, struct errctx *ec)
{
    struct sweeper *w = arg;
    char key[16];
    struct buf path = BUF_INIT(8192);
    struct stat st;
    key_of_ref(ref, key);
    uint64_t n = total_of(&w->refs, key);
    w->counts->blobs++;
    store_blob_path(w->s, ref, &path);
    if (!path.failed && stat(path.ptr, &st) < 0 && errno == ENOENT) {
        w->counts->blobs_missing++;
        log_event(LOG_ERROR, "content_file_missing", "i:rows", (long long)n, NULL);
    }
    buf_release(&path);
    /* One that no row names goes with the repair, and its bytes with it. */
    key_of_user(b->uploader_no, key);
    enum err e = b->uploader_no != 0 ? total_add(&w->quotas, key, b->bytes, ec) : ERR_OK;
    if (e != ERR_OK || (n == b->refs && n > 0))
        return e;
    w->counts->blobs_repaired++;
    return repair(w, 0, ref, 0, n > 0 ? (int64_t)(n - b->refs) : -(int64_t)(b->refs > 0 ? b->refs : 1), ec);
}

struct find {
    struct sweeper *w;
    struct snapshot *snap;
};

/* Refs whose record is missing. */
static enum err find_record(void *arg, struct str ref, uint32_t rows, struct errctx *ec)
{
    const struct find *f = arg;
    struct sweeper *w = f->w;
    struct blob b;
    char key[16];
    (void)rows;
    enum err e = view_blob(w->view, ref, &b, ec);
    if (e != ERR_NOT_FOUND)
        return e;
    errctx_clear(ec);
    key_of_ref(ref, key);
    uint64_t n = total_of(&w->refs, key);
    return n > 0 ? restore_record(w, f->snap, ref, n, ec) : ERR_OK;
}

/* What the records say that a user has uploaded against what is counted. */
static enum err sweep_quota(struct sweeper *w, struct snapshot *snap, uint64_t user_no, struct errctx *ec)
{
    char key[16];
    uint64_t counted;
    enum err e = snapshot_quota(snap, &counted, ec);
    key_of_user(user_no, key);
    struct repair r = {.op = {.apply = quota_apply},
        .user_no = user_no,
        .user_delta = (int64_t)(total_of(&w->quotas, key) - counted)};
    if (e != ERR_OK || r.user_delta == 0)
        return e;
    w->counts->blobs_repaired++;
    log_event(
        LOG_WARN, "quota_repaired", "i:user_no", (long long)user_no, "i:by", (long long)r.user_delta, NULL);
    return store_commit_wait(w->s, &r.op, ec);
}

static enum err sweep_user_records(void *arg, uint64_t user_no, struct str user_id, struct errctx *ec)
{
    struct sweeper *w = arg;
    struct snapshot *snap = NULL;
    (void)user_id;
    enum err e = stopping(w, ec);
    if (e == ERR_OK)
        e = snapshot_open_in_no(w->view, user_no, &snap, ec);
    if (e == ERR_OK)
        e = snapshot_each_ref(snap, find_record, &(struct find){w, snap}, ec);
    if (e == ERR_OK)
        e = sweep_quota(w, snap, user_no, ec);
    snapshot_close(snap);
    return e;
}

/* ---- files --------------------------------------------------------------------------------------------- */

/* Files of a folder that nobody is at work on and that no record names. */
static enum err suspect_files(void *arg, const char *folder, struct snapshot *unused, struct errctx *ec)
{
    struct sweeper *w = arg;
    struct buf path = BUF_INIT(8192), ref = BUF_INIT(8192), names = BUF_INIT(0);
    enum err e = stopping(w, ec);
    (void)unused;
    buf_printf(&path, "%s/%s", w->s->cfg.data_dir, folder);
    buf_u8(&path, 0);
    DIR *dir = e == ERR_OK && !path.failed ? opendir(path.ptr) : NULL;
    for (struct dirent *d; dir != NULL && (d = readdir(dir)) != NULL;)
        if (orphan_name_blob(str_c(d->d_name)))
            buf_lstr(&names, str_c(d->d_name));
    if (dir != NULL)
        closedir(dir);
    struct snapshot *snap = NULL;
    struct buf idle = BUF_INIT(0);
    struct reader r = reader_of(buf_view(&names));
    while (e == ERR_OK && reader_left(&r) > 0) {
        struct str name = read_lstr(&r);
        buf_clear(&ref);
        buf_printf(&ref, "%s/%.*s", folder, STR_FMT(name));
        if (!ref.failed && !blob_file_in_flight(w->s, buf_view(&ref)))
            buf_lstr(&idle, name);
    }
    if (e == ERR_OK && idle.len > 0) /* opened after nobody was at work on them: shows what became of them */
        e = snapshot_open(w->s, STR_NULL, &snap, ec);
    r = reader_of(buf_view(&idle));
    while (e == ERR_OK && reader_left(&r) > 0) {
        struct str name = read_lstr(&r);
        struct blob b;
        buf_clear(&ref);
        buf_printf(&ref, "%s/%.*s", folder, STR_FMT(name));
        e = snapshot_blob(snap, buf_view(&ref), &b, ec);
        if (e == ERR_NOT_FOUND) {
            errctx_clear(ec);
            e = ERR_OK;
            buf_lstr(&w->suspects, str_c(folder));
            buf_lstr(&w->suspects, name);
        }
    }
    snapshot_close(snap);
    if (e == ERR_OK && (path.failed || names.failed || idle.failed || w->suspects.failed))
        e = no_memory(ec);
    buf_release(&path);
    buf_release(&ref);
    buf_release(&names);
    buf_release(&idle);
    return e;
}

struct wait {
    struct barrier_op op;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool done;
    enum err err;
};

static void barrier_reached(struct barrier_op *op, enum err err)
{
    struct wait *w = (struct wait *)(void *)op;
    pthread_mutex_lock(&w->lock);
    w->done = true;
    w->err = err;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

enum err store_barrier_wait(struct store *s, struct errctx *ec)
{
    struct wait w = {.op = {.fn = barrier_reached}};
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.wake, NULL);
    store_barrier(s, &w.op);
    pthread_mutex_lock(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.wake, &w.lock);
    pthread_mutex_unlock(&w.lock);
    pthread_cond_destroy(&w.wake);
    pthread_mutex_destroy(&w.lock);
    return w.err == ERR_OK ? ERR_OK : err_set(ec, w.err, "the storage is being recovered");
}

static enum err set_aside(struct sweeper *w, struct errctx *ec)
{
    if (w->suspects.len == 0)
        return ERR_OK;
    enum err e = store_barrier_wait(w->s, ec);
    struct reader r = reader_of(buf_view(&w->suspects));
    while (e == ERR_OK && reader_left(&r) > 0) {
        struct str folder = read_lstr(&r), name = read_lstr(&r);
        struct buf path = BUF_INIT(8192);
        struct stat st;
        buf_printf(&path, "%s/%.*s/%.*s", w->s->cfg.data_dir, STR_FMT(folder), STR_FMT(name));
        buf_u8(&path, 0);
        if (!path.failed && !pins_buried(&w->s->pins, path.ptr) && lstat(path.ptr, &st) == 0) {
            e = orphan_set_aside(w->s, folder, name, ec);
            w->counts->files_set_aside += e == ERR_OK;
        }
        buf_release(&path);
    }
    return e;
}

/* Shared folders that became empty; one that is being filled is made again by whoever fills it. */
static enum err remove_empty(void *arg, const char *folder, struct errctx *ec)
{
    const struct sweeper *w = arg;
    struct buf path = BUF_INIT(8192);
    (void)ec;
    buf_printf(&path, "%s/%s", w->s->cfg.data_dir, folder);
    buf_u8(&path, 0);
    if (!path.failed)
        (void)rmdir(path.ptr);
    buf_release(&path);
    return ERR_OK;
}

enum err store_sweep(struct store *s, bool rows, struct sweep_counts *ret, struct errctx *ec)
{
    struct sweep_counts counts = {0};
    struct sweeper w = {.s = s, .rows = rows, .counts = &counts, .suspects = BUF_INIT(0)};
    enum err e = store_writable(s, ec);
    if (e == ERR_OK)
        e = store_view_open(s, &w.view, ec);
    if (e == ERR_OK)
        e = view_each_user(w.view, sweep_user, &w, ec);
    if (e == ERR_OK)
        e = view_each_blob(w.view, sweep_blob, &w, ec);
    if (e == ERR_OK)
        e = view_each_user(w.view, sweep_user_records, &w, ec);
    store_view_close(w.view);
    if (e == ERR_OK)
        e = cold_each_folder(s, false, suspect_files, &w, ec);
    if (e == ERR_OK)
        e = shared_each_folder(s, suspect_files, &w, ec);
    if (e == ERR_OK)
        e = set_aside(&w, ec);
    if (e == ERR_OK)
        e = shared_each_name(s, remove_empty, &w, ec);
    if (e == ERR_OK)
        e = orphans_uploads(s, os_realtime_us(s->os) / 1000000 - UPLOAD_AGE_S, &counts.uploads_removed, ec);
    free(w.refs.slots);
    free(w.quotas.slots);
    buf_release(&w.suspects);
    if (e == ERR_OK)
        *ret = counts;
    return e;
}
