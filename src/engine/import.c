#include "engine/import.h"
#include "store/erase.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- rows of the archive ------------------------------------------------------------------------------ */

/* A worker of its own: what it reads comes from a stranger, so it must never serve the user's statements. */
static void worker_name(const struct kalamdb_import *im, struct buf *b)
{
    buf_str(b, STR("import"));
    buf_u8(b, 0);
    buf_str(b, im->transfer.user_id);
}

enum err import_query(struct kalamdb_import *im, const struct schema *schema, int nfiles, const int *fds,
    struct str sql, size_t rows_max, struct rowset *ret, struct errctx *ec)
{
    struct buf name = BUF_INIT(0);
    worker_name(im, &name);
    struct analytic_input input = {
        .schema = schema, .rows_fd = -1, .nfiles = nfiles, .file_fds = fds, .as_stored = true};
    struct analytic_request rq = {.user_id = buf_view(&name),
        .sql = sql,
        .ninputs = 1,
        .inputs = &input,
        .mode = ANALYTIC_ROWS,
        .output_fd = -1,
        .rows_max = rows_max,
        .timeout_ms = TRANSFER_RUN_TIMEOUT_MS,
        .cancel = &im->transfer.cancel};
    enum err e = transfer_alive(&im->transfer, ec);
    if (e == ERR_OK)
        e = name.failed ? err_internal(ec, ERR_NO_MEMORY, "import")
                        : analytic_run(im->transfer.db->analytic, &rq, ret, ec);
    buf_release(&name);
    return e;
}

enum err import_next_page(
    struct kalamdb_import *im, struct import_page *p, struct rowset *ret, struct errctx *ec)
{
    const struct schema *schema = &schema_messages;
    enum err e;
    do {
        struct buf sql = BUF_INIT(0);
        buf_str(&sql, STR("SELECT "));
        if (p->keys_only)
            buf_printf(&sql, "\"%s\"", p->order);
        else
            transfer_column_list(&sql, schema, false);
        buf_printf(&sql, " FROM scan_0 WHERE \"%s\" > %lld ORDER BY \"%s\" LIMIT %zu", p->order,
            (long long)p->after, p->order, p->rows);
        e = sql.failed
                ? err_internal(ec, ERR_NO_MEMORY, "import")
                : import_query(im, schema, im->nmessage_fds, im->message_fds, buf_view(&sql), 0, ret, ec);
        buf_release(&sql);
        if (e != ERR_TOO_LARGE || p->rows == 1)
            return e;
        /* Large rows: fewer at once. */
        p->rows = p->rows / 8 + 1;
        errctx_clear(ec);
    } while (true);
}

void import_row(const struct schema *schema, const struct value *row, struct value *ret)
{
    int columns[SCHEMA_COLUMNS_MAX], n = transfer_columns(schema, columns);
    for (int i = 0; i < schema->ncolumns; i++)
        ret[i] = VALUE_OF_NULL;
    for (int i = 0; i < n; i++) {
        struct value v = row[i];
        if (v.type == VALUE_TEXT && schema->columns[columns[i]].type == VALUE_JSON)
            v.type = VALUE_JSON;
        ret[columns[i]] = v;
    }
}

/* ---- files of the archive ----------------------------------------------------------------------------- */

const struct import_file *import_find(const struct kalamdb_import *im, struct str path)
{
    size_t low = 0, high = im->nfiles;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int c = str_cmp(im->files[mid].path, path);
        if (c == 0)
            return &im->files[mid];
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

const struct import_file *import_content(const struct kalamdb_import *im, struct str ref)
{
    char path[ARCHIVE_PATH_MAX];
    static const struct str prefix = {"content/", 8};
    if (ref.len > sizeof path - prefix.len)
        return NULL;
    memcpy(path, prefix.ptr, prefix.len);
    memcpy(path + prefix.len, ref.ptr, ref.len);
    return import_find(im, str_n(path, prefix.len + ref.len));
}

const struct value *import_conversation(const struct kalamdb_import *im, struct str id)
{
    size_t low = 0, high = im->conversations.nrows;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const struct value *row = rowset_row(&im->conversations, mid);
        int c = str_cmp(row[0].s, id);
        if (c == 0)
            return row;
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

struct archive_member import_member(const struct import_file *f)
{
    struct archive_member m = {.kind = f->kind, .bytes = f->bytes, .offset = f->offset};
    memcpy(m.path, f->path.ptr, f->path.len < ARCHIVE_PATH_MAX ? f->path.len : ARCHIVE_PATH_MAX);
    memcpy(m.sha256, f->sha256, sizeof m.sha256);
    return m;
}

/* ---- the interface ------------------------------------------------------------------------------------ */

static kalamdb_code refused(struct kalamdb_error *error, struct errctx *ec, enum err e)
{
    if (ec->code != e)
        err_internal(ec, e, "import");
    return engine_error(error, ec);
}

/* Who is erased from here on gets nothing of it any more. */
static enum err note_owner(struct kalamdb_import *im, struct errctx *ec)
{
    struct snapshot *snap;
    enum err e = snapshot_open(im->transfer.db->store, im->transfer.user_id, &snap, ec);
    if (e != ERR_OK)
        return e;
    im->owner_no = snapshot_user_no(snap);
    snapshot_close(snap);
    return ERR_OK;
}

kalamdb_code kalamdb_import_begin(struct kalamdb *db, const struct kalamdb_caller *caller,
    struct kalamdb_str user_id, struct kalamdb_import **ret, struct kalamdb_error *error)
{
    struct errctx ec;
    errctx_clear(&ec);
    struct kalamdb_import *im = calloc(1, sizeof *im);
    if (im == NULL)
        return refused(error, &ec, ERR_NO_MEMORY);
    arena_init(&im->arena, (size_t)1 << 30);
    enum err e = transfer_begin(&im->transfer, db, caller, engine_str(user_id), true, &ec);
    if (e != ERR_OK) {
        free(im);
        return refused(error, &ec, e);
    }
    im->bytes_max = db->options.max_import_bytes;
    im->erased_us = store_erased_us(db->store, im->transfer.user_id);
    im->issued_s = caller->issued_s;
    im->caller = arena_str(&im->arena, engine_str(caller->user_id));
    e = im->caller.ptr == NULL ? err_internal(&ec, ERR_NO_MEMORY, "import") : store_writable(db->store, &ec);
    if (e == ERR_OK)
        e = note_owner(im, &ec);
    if (e == ERR_OK)
        e = spool_new(db->os, db->options.data_dir, IMPORTS_DIR, &im->archive, &ec);
    im->source = (struct archive_source){spool_read, im->archive};
    if (e != ERR_OK) {
        kalamdb_import_abort(im);
        return refused(error, &ec, e);
    }
    *ret = im;
    return KALAMDB_OK;
}

kalamdb_code kalamdb_import_write(
    struct kalamdb_import *im, const void *bytes, size_t n, struct kalamdb_error *error)
{
    struct errctx *ec = &im->ec;
    enum err e = im->failed ? ec->code : store_writable(im->transfer.db->store, ec);
    if (e == ERR_OK && n > im->bytes_max - im->bytes)
        e = err_set(ec, ERR_TOO_LARGE, "the archive is over max_import_bytes (%llu)",
            (unsigned long long)im->bytes_max);
    if (e == ERR_OK)
        e = spool_write(im->archive, str_n(bytes, n), ec);
    if (e == ERR_OK) {
        im->bytes += n;
        return KALAMDB_OK;
    }
    im->failed = true;
    return refused(error, ec, e);
}

/* All but the memory itself, which a late kalamdb_import_cancel may still touch. */
static void import_release(struct kalamdb_import *im)
{
    for (int i = 0; i < im->nmessage_fds; i++)
        close(im->message_fds[i]);
    spool_free(im->archive);
    if (im->has_conversations)
        rowset_release(&im->conversations);
    if (im->has_members)
        rowset_release(&im->member_rows);
    arena_release(&im->arena);
    transfer_end(&im->transfer);
}

void kalamdb_import_abort(struct kalamdb_import *im)
{
    if (im != NULL)
        import_release(im);
    free(im);
}

void kalamdb_import_cancel(struct kalamdb_import *im)
{
    transfer_cancel(&im->transfer);
}

static void finish(struct kalamdb_import *im, enum err e)
{
    struct kalamdb *db = im->transfer.db;
    struct kalamdb_import_counts counts = {.messages = im->manifest.messages,
        .conversations = im->manifest.conversations,
        .files = im->ncontents};
    struct kalamdb_error error = {.code = KALAMDB_OK};
    if (e != ERR_OK)
        (void)refused(&error, &im->ec, e);
    import_release(im); /* first: whoever hears of the end may begin the next */
    im->done(im->arg, e == ERR_OK ? &counts : NULL, &error);
    free(im);
    transfer_leave(db);
}

static void *import_main(void *arg)
{
    struct kalamdb_import *im = arg;
    enum err e = im->failed ? im->ec.code : spool_end(im->archive, &im->ec);
    if (e == ERR_OK)
        e = import_verify(im, &im->ec);
    if (e == ERR_OK)
        e = import_write(im, &im->ec);
    finish(im, e);
    return NULL;
}

void kalamdb_import_finish(struct kalamdb_import *im,
    void (*done)(void *arg, const struct kalamdb_import_counts *counts, const struct kalamdb_error *error),
    void *arg)
{
    pthread_t thread;
    pthread_attr_t attr;
    sigset_t all, old;
    im->done = done;
    im->arg = arg;
    enum err e = transfer_enter(&im->transfer, &im->ec);
    if (e != ERR_OK) {
        struct kalamdb_error error = {.code = KALAMDB_OK};
        (void)refused(&error, &im->ec, e);
        import_release(im);
        done(arg, NULL, &error);
        free(im);
        return;
    }
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(&thread, &attr, import_main, im);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    if (error != 0)
        finish(im, err_internal(&im->ec, ERR_UNAVAILABLE, "pthread_create: %s", strerror(error)));
}
