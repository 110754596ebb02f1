/* What was verified becomes the user's: conversations first, each whole in one commit, then messages in the
 * order of their old numbers, CHUNK_ROWS a commit. Whatever is there already is left as it is, so that an
 * import that is repeated, or that a crash cut short, writes what is missing and nothing else.
 *
 * A chunk: which of its rows are there (hot by look-up, cold by a worker) → files of the others placed under
 * fresh ids, so that they meet nothing → commit. ERR_RETRY begins the chunk again. */
#include "engine/import.h"
#include "store/erase.h"
#include <jansson.h>
#include <stdlib.h>

#define CHUNK_ROWS 1000
#define PAGE_ROWS 5000
#define ATTEMPTS_MAX 100

struct chunk {
    struct kalamdb_import *im;
    struct arena arena; /* new refs, changed metadata */
    size_t n;
    struct value (*values)[MSG_NCOLUMNS];
    struct chat_import_message *messages;
    struct str *refs; /* as the archive has them */
    struct blob_file **files;
};

/* ---- commits ------------------------------------------------------------------------------------------ */

struct wait_op {
    struct commit_op op;
    struct kalamdb_import *import;
    struct chat_import *im;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool finished;
    enum err result;
    struct errctx *ec;
};

static enum err apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct wait_op *w = (struct wait_op *)op;
    struct kalamdb_import *import = w->import;
    if (store_erased_us(import->transfer.db->store, import->transfer.user_id) != import->erased_us)
        return err_set(ec, ERR_CONFLICT, "the user was erased while the import went on");
    return chat_import_apply(w->im, txn, ec);
}

static void committed(struct commit_op *op, enum err e, const struct errctx *ec)
{
    struct wait_op *w = (struct wait_op *)op;
    pthread_mutex_lock(&w->lock);
    if (e != ERR_OK && ec != NULL)
        *w->ec = *ec;
    w->result = e;
    w->finished = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static enum err commit(struct kalamdb_import *import, struct chat_import *im, struct errctx *ec)
{
    struct wait_op w = {.op = {.apply = apply,
                            .done = committed,
                            .durability = DURABILITY_SYNC,
                            .author = import->caller,
                            .author_issued_s = import->issued_s},
        .import = import,
        .im = im,
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .cond = PTHREAD_COND_INITIALIZER,
        .ec = ec};
    store_submit(import->transfer.db->store, &w.op);
    pthread_mutex_lock(&w.lock);
    while (!w.finished)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    if (w.result == ERR_OK && im->renewed)
        im->renew = false;
    if (w.result == ERR_OK)
        im->owner_no = im->owner_now;
    return w.result;
}

/* ---- conversations ------------------------------------------------------------------------------------ */

static const struct value *member_of(const struct kalamdb_import *im, struct str conversation, size_t *at)
{
    /* Both lists ascend. */
    while (*at < im->nmembers && str_cmp(im->members[*at][MEMBER_CONVERSATION_ID].s, conversation) < 0)
        ++*at;
    bool found = *at < im->nmembers && str_eq(im->members[*at][MEMBER_CONVERSATION_ID].s, conversation);
    return found ? im->members[*at] : NULL;
}

static enum err write_conversations(struct kalamdb_import *im, struct chat_import *op, struct errctx *ec)
{
    struct value(*values)[CONV_NCOLUMNS] = calloc(CHUNK_ROWS, sizeof *values);
    struct chat_import_conversation *rows = calloc(CHUNK_ROWS, sizeof *rows);
    enum err e = values == NULL || rows == NULL ? err_internal(ec, ERR_NO_MEMORY, "import") : ERR_OK;
    size_t member = 0;
    /* Once at least: it makes the user. */
    for (size_t at = 0; e == ERR_OK && (at == 0 || at < im->conversations.nrows); at += CHUNK_ROWS) {
        size_t n = 0;
        for (; n < CHUNK_ROWS && at + n < im->conversations.nrows; n++) {
            import_row(&schema_conversations, rowset_row(&im->conversations, at + n), values[n]);
            rows[n] =
                (struct chat_import_conversation){values[n], member_of(im, values[n][CONV_ID].s, &member)};
        }
        op->nconversations = n;
        op->conversations = rows;
        e = transfer_alive(&im->transfer, ec);
        if (e == ERR_OK)
            e = commit(im, op, ec);
    }
    op->nconversations = 0;
    free(values);
    free(rows);
    return e;
}

/* ---- what is there ------------------------------------------------------------------------------------ */

/* Marks the messages that are in files of the owner. */
static enum err look_up_cold(struct chunk *k, struct snapshot *snap, struct errctx *ec)
{
    struct kalamdb_import *im = k->im;
    struct scan_bounds bounds = SCAN_BOUNDS_OPEN;
    struct buf sql = BUF_INIT(0);
    struct analytic_input input;
    struct rowset found;
    bounds.id_min = INT64_MAX;
    bounds.id_max = 0;
    buf_str(&sql, STR("SELECT msg_id FROM scan_0 WHERE msg_id IN ("));
    for (size_t i = 0; i < k->n; i++) {
        int64_t id = k->values[i][MSG_ID].i;
        buf_printf(&sql, "%s%lld", i > 0 ? "," : "", (long long)id);
        bounds.id_min = id < bounds.id_min ? id : bounds.id_min;
        bounds.id_max = id > bounds.id_max ? id : bounds.id_max;
    }
    buf_str(&sql, STR(") ORDER BY msg_id"));
    enum err e = sql.failed ? err_internal(ec, ERR_NO_MEMORY, "import")
                            : snapshot_input(snap, &schema_messages, &bounds, false, &input, ec);
    if (e == ERR_OK && input.nfiles == 0 && input.rows_bytes == 0) {
        buf_release(&sql);
        return ERR_OK;
    }
    struct analytic_request rq = {.user_id = im->transfer.user_id,
        .sql = buf_view(&sql),
        .ninputs = 1,
        .inputs = &input,
        .mode = ANALYTIC_ROWS,
        .output_fd = -1,
        .timeout_ms = TRANSFER_RUN_TIMEOUT_MS,
        .cancel = &im->transfer.cancel};
    if (e == ERR_OK)
        e = analytic_run(im->transfer.db->analytic, &rq, &found, ec);
    buf_release(&sql);
    if (e != ERR_OK)
        return e;
    for (size_t i = 0; i < k->n; i++) {
        size_t low = 0, high = found.nrows;
        while (low < high) {
            size_t mid = low + (high - low) / 2;
            if (rowset_row(&found, mid)->i < k->values[i][MSG_ID].i)
                low = mid + 1;
            else
                high = mid;
        }
        k->messages[i].there = k->messages[i].there ||
                               (low < found.nrows && rowset_row(&found, low)->i == k->values[i][MSG_ID].i);
    }
    rowset_release(&found);
    return ERR_OK;
}

static enum err look_up(struct chunk *k, struct chat_import *op, struct errctx *ec)
{
    struct snapshot *snap;
    enum err e = snapshot_open(k->im->transfer.db->store, k->im->transfer.user_id, &snap, ec);
    if (e != ERR_OK)
        return e;
    for (size_t i = 0; e == ERR_OK && i < k->n; i++) {
        struct row_meta meta;
        struct value v[MSG_NCOLUMNS];
        e = snapshot_message(snap, k->values[i][MSG_ID].i, &meta, v, ec);
        k->messages[i].there = e == ERR_OK;
        if (e == ERR_NOT_FOUND) {
            errctx_clear(ec);
            e = ERR_OK;
        }
    }
    if (e == ERR_OK && snapshot_has_cold(snap))
        e = look_up_cold(k, snap, ec);
    op->ids_looked_up = e == ERR_OK;
    op->ids_epoch = snapshot_cold_epoch(snap);
    snapshot_close(snap);
    return e;
}

/* ---- files -------------------------------------------------------------------------------------------- */

static enum err write_piece(void *arg, struct str bytes, struct errctx *ec)
{
    return blob_file_write(arg, bytes, ec);
}

/* The file of message i, under its new name. */
static enum err place(struct chunk *k, size_t i, int64_t id, struct errctx *ec)
{
    struct kalamdb_import *im = k->im;
    const struct import_file *f = import_content(im, k->refs[i]);
    if (f == NULL)
        return err_internal(ec, ERR_INTERNAL, "import: a file was verified and is not there");
    struct archive_member m = import_member(f);
    enum err e = blob_file_new(im->transfer.db->store, &k->files[i], ec);
    if (e == ERR_OK)
        e = archive_member_read(&im->source, &m, write_piece, k->files[i], ec);
    if (e == ERR_OK)
        e = blob_file_finish(k->files[i], blob_ref_is_media(k->refs[i]), ec);
    if (e == ERR_OK)
        e = blob_file_place(k->files[i], false, im->transfer.user_id, id, ec);
    if (e != ERR_OK)
        return e;
    struct str ref = arena_str(&k->arena, blob_file_ref(k->files[i]));
    if (ref.ptr == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "import");
    k->values[i][MSG_CONTENT_REF] = value_text(ref);
    k->messages[i].blob = blob_file_info(k->files[i]);
    return ERR_OK;
}

static enum err place_files(struct chunk *k, struct errctx *ec)
{
    int64_t ids[CHUNK_ROWS];
    size_t wanted = 0, given = 0;
    for (size_t i = 0; i < k->n; i++)
        wanted += !k->messages[i].there && k->refs[i].ptr != NULL && k->files[i] == NULL;
    if (wanted == 0)
        return ERR_OK;
    enum err e = store_reserve_ids(k->im->transfer.db->store, wanted, ids, ec);
    for (size_t i = 0; e == ERR_OK && i < k->n; i++) {
        if (k->messages[i].there || k->refs[i].ptr == NULL || k->files[i] != NULL)
            continue;
        e = transfer_alive(&k->im->transfer, ec);
        if (e == ERR_OK)
            e = place(k, i, ids[given++], ec);
    }
    return e;
}

/* After the commit: who is named by a row stays. Where nobody knows, the sweep at the next open decides. */
static void settle_files(struct chunk *k, enum err e)
{
    for (size_t i = 0; i < k->n; i++) {
        if (e == ERR_OUTCOME_UNKNOWN)
            blob_file_leave(k->files[i]);
        else if (e == ERR_OK && !k->messages[i].there)
            blob_file_keep(k->files[i]);
        else
            blob_file_discard(k->files[i]);
        k->files[i] = NULL;
    }
}

/* ---- chunks ------------------------------------------------------------------------------------------- */

static enum err write_chunk(struct chunk *k, struct chat_import *op, struct errctx *ec)
{
    enum err e = ERR_RETRY;
    for (int i = 0; e == ERR_RETRY && i < ATTEMPTS_MAX; i++) {
        errctx_clear(ec);
        e = transfer_alive(&k->im->transfer, ec);
        if (e == ERR_OK)
            e = look_up(k, op, ec);
        if (e == ERR_OK)
            e = place_files(k, ec);
        op->messages = k->messages;
        op->nmessages = k->n;
        if (e == ERR_OK)
            e = commit(k->im, op, ec);
    }
    settle_files(k, e);
    return e == ERR_RETRY ? err_set(ec, ERR_CONFLICT, "the user's rows change too fast") : e;
}

static enum err chunk_init(struct chunk *k, struct kalamdb_import *im, struct errctx *ec)
{
    *k = (struct chunk){.im = im};
    arena_init(&k->arena, (size_t)64 << 20);
    k->values = calloc(CHUNK_ROWS, sizeof *k->values);
    k->messages = calloc(CHUNK_ROWS, sizeof *k->messages);
    k->refs = calloc(CHUNK_ROWS, sizeof *k->refs);
    k->files = calloc(CHUNK_ROWS, sizeof *k->files);
    bool good = k->values != NULL && k->messages != NULL && k->refs != NULL && k->files != NULL;
    return good ? ERR_OK : err_internal(ec, ERR_NO_MEMORY, "import");
}

static void chunk_release(struct chunk *k)
{
    free(k->values);
    free(k->messages);
    free(k->refs);
    free(k->files);
    arena_release(&k->arena);
}

/* A reply that was growing when it was exported grows no more: nobody here holds its stream. */
static enum err settle_stream(struct chunk *k, struct value *metadata, struct errctx *ec)
{
    if (value_is_null(*metadata) || memmem(metadata->s.ptr, metadata->s.len, "\"stream\"", 8) == NULL)
        return ERR_OK;
    json_t *o = json_loadb(metadata->s.ptr, metadata->s.len, JSON_DECODE_ANY, NULL);
    const char *state = json_string_value(json_object_get(o, "stream"));
    enum err e = ERR_OK;
    if (state != NULL && strcmp(state, "open") == 0) {
        char *text = NULL;
        if (json_object_set_new(o, "stream", json_string("interrupted")) == 0)
            text = json_dumps(o, JSON_COMPACT);
        struct str copy = text != NULL ? arena_str(&k->arena, str_c(text)) : STR_NULL;
        free(text);
        e = copy.ptr != NULL ? ERR_OK : err_internal(ec, ERR_NO_MEMORY, "import");
        if (e == ERR_OK)
            *metadata = value_json(copy);
    }
    json_decref(o);
    return e;
}

/* Rows of a page from `at` on, checked as when they were verified: the worker that read them is trusted with
 * nothing. */
static enum err fill(struct chunk *k, const struct rowset *rs, size_t at, struct errctx *ec)
{
    const struct kalamdb_import *im = k->im;
    const struct chat_limits limits = {.content_bytes_max = im->transfer.db->options.max_content_bytes};
    arena_clear(&k->arena);
    for (k->n = 0; k->n < CHUNK_ROWS && at + k->n < rs->nrows; k->n++) {
        struct value *v = k->values[k->n];
        import_row(&schema_messages, rowset_row(rs, at + k->n), v);
        enum err e = chat_import_check_message(v, im->ids_below, im->manifest.seq, &limits, ec);
        if (e == ERR_OK)
            e = settle_stream(k, &v[MSG_METADATA], ec);
        if (e != ERR_OK)
            return e;
        struct value ref = v[MSG_CONTENT_REF];
        k->refs[k->n] = value_is_null(ref) ? STR_NULL : ref.s;
        k->files[k->n] = NULL;
        k->messages[k->n] = (struct chat_import_message){.values = v};
    }
    return ERR_OK;
}

static enum err write_messages(struct kalamdb_import *im, struct chat_import *op, struct errctx *ec)
{
    struct import_page page = {.order = "_seq", .after = 0, .rows = PAGE_ROWS};
    struct chunk k;
    size_t n = 1;
    uint64_t seen = 0;
    enum err e = chunk_init(&k, im, ec);
    while (e == ERR_OK && n > 0) {
        struct rowset rs;
        e = import_next_page(im, &page, &rs, ec);
        if (e != ERR_OK)
            break;
        n = rs.nrows;
        seen += n;
        for (size_t at = 0; e == ERR_OK && at < n; at += k.n) {
            e = fill(&k, &rs, at, ec);
            if (e == ERR_OK) {
                page.after = k.values[k.n - 1][MSG_SEQ].i;
                e = write_chunk(&k, op, ec);
            }
        }
        rowset_release(&rs);
    }
    chunk_release(&k);
    if (e == ERR_OK && seen != im->manifest.messages)
        e = err_internal(ec, ERR_INTERNAL, "import: rows were verified and are not there");
    return e;
}

enum err import_write(struct kalamdb_import *im, struct errctx *ec)
{
    struct chat_import op = {.owner = im->transfer.user_id, .owner_no = im->owner_no, .renew = true};
    enum err e = write_conversations(im, &op, ec);
    return e == ERR_OK && im->nmessage_fds > 0 ? write_messages(im, &op, ec) : e;
}
