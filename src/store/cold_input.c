#include "store/cold_input.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where an index tells that a statement is about a few rows, they are fetched one by one; otherwise one pass
 * over everything hot is cheaper than that many random reads. */
enum { REFS_MAX = 512 };

/* What one hand-over holds until snapshot_close. */
struct hold {
    struct hold *next;
    struct row_sink sink;
    int nfds;
    int fds[];
};

struct row_ref {
    uint32_t conv_no;
    int64_t msg_id;
    bool tombstone;
};

struct gather {
    struct snapshot *snap;
    const struct manifest *m;
    const struct scan_bounds *bounds;
    bool with_tombstones, in_tombstones; /* asked for; the scan is at them */
    bool has_conversation;
    uint32_t conv_no;
    bool *files; /* chosen, by index of the manifest */
    size_t nchosen;
    struct row_sink *sink;
    struct buf opened; /* one value */
};

static bool times_open(const struct scan_bounds *b)
{
    return b->ts_min == INT64_MIN && b->ts_max == INT64_MAX;
}

bool cold_file_wanted(const struct cold_file *f, const struct scan_bounds *b, uint32_t conv_no)
{
    uint64_t seq_min = b->seq_min > 0 ? (uint64_t)b->seq_min : 0;
    if (f->id_max < b->id_min || f->id_min > b->id_max)
        return false;
    if (!times_open(b) && (f->ts_max < b->ts_min || f->ts_min > b->ts_max))
        return false;
    if (b->seq_max < 0 || f->seq_max < seq_min || f->seq_min > (uint64_t)b->seq_max)
        return false;
    return b->conversation_id.ptr == NULL || cold_file_may_hold(f, conv_no);
}

bool cold_row_excludes(const struct manifest *m, const bool *files, const struct hot_row *row, bool tombstone)
{
    struct row_meta meta = row->meta;
    if (tombstone)
        meta.flags |= ROW_TOMBSTONE;
    return manifest_row_state(m, meta) == ROW_OVERLAY && files[manifest_file_of(m, meta.ins_seq) - m->files];
}

void cold_path(struct buf *b, const struct store *s, struct str user_id, struct str name)
{
    buf_str(b, str_c(s->cfg.data_dir));
    buf_u8(b, '/');
    store_folder_name(b, user_id);
    if (name.len > 0) {
        buf_u8(b, '/');
        buf_str(b, name);
    }
    buf_u8(b, 0);
}

void cold_context(struct buf *b, uint64_t user_no, struct str name)
{
    buf_lstr(b, STR("messages"));
    buf_be64(b, user_no);
    buf_lstr(b, name);
}

/* fd is the file's; its memfd comes of the cache. */
static enum err open_content(struct snapshot *snap, const struct cold_file *f, const char *path, int fd,
    int *ret_fd, struct errctx *ec)
{
    struct stat st;
    struct buf context = BUF_INIT(0);
    enum err err = ERR_OK;
    cold_context(&context, snap->user_no, f->name);
    if (context.failed)
        err = err_internal(ec, ERR_NO_MEMORY, "out of memory");
    else if (fstat(fd, &st) < 0)
        err = err_internal(ec, ERR_IO, "%s", strerror(errno));
    else if ((uint64_t)st.st_size != f->bytes)
        err = err_internal(ec, ERR_CORRUPT, "%lld bytes instead of %llu", (long long)st.st_size,
            (unsigned long long)f->bytes);
    else
        err = cold_cache_open(snap->store->cold_cache, path, fd, &st, f, buf_view(&context), ret_fd, ec);
    buf_release(&context);
    return err;
}

enum err cold_file_open(struct snapshot *snap, const struct cold_file *f, int *ret_fd, struct errctx *ec)
{
    struct buf path = BUF_INIT(8192);
    enum err err = ERR_OK;
    cold_path(&path, snap->store, head_user_id(&snap->head), f->name);
    if (path.failed)
        return err_internal(ec, ERR_NO_MEMORY, "cold file: path");
    int fd = open(path.ptr, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        err = err_internal(ec, errno == ENOENT ? ERR_CORRUPT : ERR_IO, "%s", strerror(errno));
    else
        err = open_content(snap, f, path.ptr, fd, ret_fd, ec);
    if (err != ERR_OK)
        err_path(ec, "cold file %s", path.ptr);
    if (fd >= 0)
        close(fd);
    buf_release(&path);
    return err;
}

static bool seq_within(const struct scan_bounds *b, uint64_t seq)
{
    return seq <= INT64_MAX && (int64_t)seq >= b->seq_min && (int64_t)seq <= b->seq_max;
}

/* A row without a timestamp fails every comparison with one. */
static enum err time_within(
    const struct scan_bounds *b, const struct hot_row *row, bool *ret, struct errctx *ec)
{
    struct row_meta meta;
    struct value values[SCHEMA_COLUMNS_MAX];
    *ret = true;
    if (times_open(b))
        return ERR_OK;
    if (row_decode(row->row, &schema_messages, &meta, values) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "hot row %lld: malformed", (long long)row->msg_id);
    const struct value *ts = &values[MSG_TIMESTAMP];
    *ret = ts->type == VALUE_TIMESTAMPTZ && ts->i >= b->ts_min && ts->i <= b->ts_max;
    return ERR_OK;
}

static enum err consider(void *arg, const struct hot_row *row, struct errctx *ec)
{
    struct gather *g = arg;
    const struct scan_bounds *b = g->bounds;
    enum err err = ERR_OK;
    if (row->msg_id < b->id_min || row->msg_id > b->id_max)
        return ERR_OK;
    if (g->nchosen > 0 && cold_row_excludes(g->m, g->files, row, g->in_tombstones))
        err = row_sink_exclude(g->sink, row->msg_id, ec);
    if (err != ERR_OK || !seq_within(b, row->meta.seq))
        return err;
    if (g->in_tombstones)
        return g->with_tombstones ? row_sink_add_message(g->sink, row->msg_id, row->row, ec) : ERR_OK;
    bool wanted = true;
    if (manifest_row_state(g->m, row->meta) == ROW_TAIL)
        return ERR_OK;
    err = time_within(b, row, &wanted, ec);
    if (err != ERR_OK || !wanted)
        return err;
    if ((row->meta.flags & ROW_OPEN) == 0)
        return row_sink_add_message(g->sink, row->msg_id, row->row, ec);
    struct buf resolved = BUF_INIT(0);
    err = stream_resolve(g->snap, row->row, &resolved, ec);
    if (err == ERR_OK)
        err = row_sink_add_message(g->sink, row->msg_id, buf_view(&resolved), ec);
    buf_release(&resolved);
    return err;
}

/* ---- few rows, by index ---- */

/* Reads index entries from `from` to `end` into refs; *ret_n > REFS_MAX: too many, go the other way. */
static enum err collect_refs(struct snapshot *snap, struct key from, struct key end, bool by_seq,
    struct row_ref *refs, size_t *ret_n, struct errctx *ec)
{
    struct store *s = snap->store;
    enum err err = ERR_OK;
    size_t n = 0;
    pthread_rwlock_rdlock(&s->db_lock);
    if (snap->rocks == NULL || s->db == NULL) {
        pthread_rwlock_unlock(&s->db_lock);
        return err_set(ec, ERR_UNAVAILABLE, "the storage was reopened after a failure; please retry");
    }
    rocksdb_iterator_t *it = rocksdb_create_iterator(s->db, snap->options);
    rocksdb_iter_seek(it, from.bytes, from.len);
    for (; err == ERR_OK && n <= REFS_MAX && rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        struct str key, value;
        struct seq_entry e = {0};
        key.ptr = rocksdb_iter_key(it, &key.len);
        value.ptr = rocksdb_iter_value(it, &value.len);
        if (str_cmp(key, key_view(&end)) >= 0)
            break;
        if (by_seq ? !seq_entry_get(value, &e) : !key_parse_id(key, &e.msg_id) || value.len != 4)
            err = err_internal(ec, ERR_CORRUPT, "index entry: malformed");
        else if (n < REFS_MAX)
            refs[n] = (struct row_ref){by_seq ? e.conv_no : get_be32(value.ptr), e.msg_id, e.tombstone};
        n++;
    }
    char *message = NULL;
    rocksdb_iter_get_error(it, &message);
    enum err io = store_rocks_err(ec, message, "index");
    rocksdb_iter_destroy(it);
    pthread_rwlock_unlock(&s->db_lock);
    *ret_n = n;
    return err != ERR_OK ? err : io;
}

static enum err visit_row(struct gather *g, const struct row_ref *ref, struct str bytes, struct errctx *ec)
{
    struct hot_row row = {.conv_no = ref->conv_no, .msg_id = ref->msg_id, .row = bytes};
    if (row_decode_meta(row.row, &row.meta) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "hot row %lld: malformed envelope", (long long)ref->msg_id);
    g->in_tombstones = ref->tombstone;
    return consider(g, &row, ec);
}

/* Reads in place: these may be large rows, of which only the copy for the worker is to stay. */
static enum err visit_ref(struct gather *g, const struct row_ref *ref, struct errctx *ec)
{
    struct snapshot *snap = g->snap;
    struct store *s = snap->store;
    struct key key = ref->tombstone ? key_id(snap->user_no, SPACE_TOMBSTONES, ref->msg_id)
                                    : key_message(snap->user_no, ref->conv_no, ref->msg_id);
    enum err err = ERR_OK;
    pthread_rwlock_rdlock(&s->db_lock);
    if (snap->rocks == NULL || s->db == NULL) {
        err = err_set(ec, ERR_UNAVAILABLE, "the storage was reopened after a failure; please retry");
    } else {
        char *message = NULL;
        rocksdb_pinnableslice_t *slice =
            rocksdb_get_pinned(s->db, snap->options, key.bytes, key.len, &message);
        struct str bytes = STR_NULL;
        err = store_rocks_err(ec, message, "read");
        if (err == ERR_OK)
            bytes.ptr = rocksdb_pinnableslice_value(slice, &bytes.len);
        if (err == ERR_OK && bytes.ptr == NULL)
            err = err_internal(ec, ERR_CORRUPT, "hot row %lld: in an index only", (long long)ref->msg_id);
        else if (err == ERR_OK)
            err = store_unseal(s, key_view(&key), bytes, &g->opened, &bytes, ec);
        if (err == ERR_OK)
            err = visit_row(g, ref, bytes, ec);
        if (slice != NULL)
            rocksdb_pinnableslice_destroy(slice);
    }
    pthread_rwlock_unlock(&s->db_lock);
    return err;
}

/* The lowest _seq at which a hot row can be fresh or an overlay: fresh rows came after the watermark,
 * overlays changed after their file was written. */
static uint64_t first_change(const struct manifest *m)
{
    uint64_t seq = m != NULL ? m->watermark : 0;
    for (size_t i = 0; m != NULL && i < m->nfiles; i++)
        seq = m->files[i].as_of < seq ? m->files[i].as_of : seq;
    return seq + 1;
}

/* The lowest _seq that matters to these bounds, and whether an index from there may be narrow. No upper end:
 * a change after seq_max still hides the cold version. One before seq_min hides a version that is older
 * still, which fails the bounds by itself. */
static bool narrow_seq(const struct gather *g, uint64_t *ret_from)
{
    uint64_t from = g->bounds->seq_min > 0 ? (uint64_t)g->bounds->seq_min : 0;
    uint64_t changes = first_change(g->m);
    if (!g->with_tombstones && from < changes)
        from = changes;
    *ret_from = from;
    /* Without files and bounds nearly everything is wanted: one pass is as good. */
    if (g->snap->notes_unknown)
        return false;
    bool selective = g->bounds->seq_min > 0 || (g->m != NULL && g->m->nfiles > 0);
    return selective && from > 0 && from + REFS_MAX > g->snap->head.seq;
}

/* *ret_done: the index was narrow enough and all rows and excludes have been seen. `from_seq` 0: by msg_id.
 */
static enum err gather_by_index(struct gather *g, uint64_t from_seq, bool *ret_done, struct errctx *ec)
{
    struct snapshot *snap = g->snap;
    const struct scan_bounds *b = g->bounds;
    struct key from, end;
    if (from_seq > 0) {
        struct key all = key_prefix(snap->user_no, SPACE_SEQ);
        from = key_seq(snap->user_no, from_seq);
        end = key_after(&all);
    } else {
        from = key_id(snap->user_no, SPACE_IDS, b->id_max);
        struct key last = key_id(snap->user_no, SPACE_IDS, b->id_min);
        end = key_after(&last);
    }
    struct row_ref *refs = malloc(REFS_MAX * sizeof *refs);
    if (refs == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "input: out of memory");
    size_t n = 0;
    enum err err = collect_refs(snap, from, end, from_seq > 0, refs, &n, ec);
    *ret_done = n <= REFS_MAX;
    for (size_t i = 0; err == ERR_OK && *ret_done && i < n; i++)
        err = visit_ref(g, &refs[i], ec);
    free(refs);
    return err;
}

/* Open rows are overlays whatever their number: those that the index by _seq passed by. */
static enum err visit_open(struct gather *g, uint64_t from_seq, struct errctx *ec)
{
    struct snapshot *snap = g->snap;
    for (size_t i = 0; i < snap->nnotes; i++) {
        int64_t id = snap->notes[i].msg_id;
        struct key k = key_id(snap->user_no, SPACE_IDS, id);
        struct str value, row;
        struct row_meta meta;
        enum err err = snapshot_get(snap, &k, &value, ec);
        if (err == ERR_NOT_FOUND)
            continue;
        if (err == ERR_OK && value.len != 4)
            err = err_internal(ec, ERR_CORRUPT, "index entry: malformed");
        if (err != ERR_OK)
            return err;
        struct row_ref ref = {get_be32(value.ptr), id, false};
        k = key_message(snap->user_no, ref.conv_no, id);
        err = snapshot_get(snap, &k, &row, ec);
        if (err == ERR_OK && row_decode_meta(row, &meta) != ERR_OK)
            err = err_internal(ec, ERR_CORRUPT, "hot row %lld: malformed envelope", (long long)id);
        if (err == ERR_OK && (meta.flags & ROW_OPEN) != 0 && meta.seq < from_seq)
            err = visit_ref(g, &ref, ec);
        if (err != ERR_OK)
            return err == ERR_NOT_FOUND ? err_internal(ec, ERR_CORRUPT, "an id entry has no row") : err;
    }
    return ERR_OK;
}

/* ---- everything ---- */

static enum err gather_messages(struct gather *g, struct errctx *ec)
{
    struct snapshot *snap = g->snap;
    const struct scan_bounds *b = g->bounds;
    bool done = false;
    enum err err = ERR_OK;
    g->in_tombstones = false;
    if (g->has_conversation) {
        struct key from = key_message(snap->user_no, g->conv_no, b->id_max);
        struct key last = key_message(snap->user_no, g->conv_no, b->id_min), end = key_after(&last);
        return cold_scan(snap, &from, &end, consider, g, ec);
    }
    if (b->id_min > 0 || b->id_max < INT64_MAX)
        err = gather_by_index(g, 0, &done, ec);
    if (err != ERR_OK || done)
        return err;
    return cold_scan_space(snap, SPACE_MESSAGES, consider, g, ec);
}

static enum err gather_rows(struct gather *g, struct errctx *ec)
{
    struct snapshot *snap = g->snap;
    const struct scan_bounds *b = g->bounds;
    bool done = false;
    enum err err = ERR_OK;
    if (b->id_min > b->id_max || b->id_max < 0 || b->seq_max < 0)
        return ERR_OK;
    uint64_t from_seq;
    if (narrow_seq(g, &from_seq))
        err = gather_by_index(g, from_seq, &done, ec);
    if (err == ERR_OK && done)
        return visit_open(g, from_seq, ec);
    if (err != ERR_OK)
        return err;
    err = gather_messages(g, ec);
    /* head.overlays counts, among others, every tombstone that hides a cold row. */
    if (err != ERR_OK || (!g->with_tombstones && (g->nchosen == 0 || snap->head.overlays == 0)))
        return err;
    g->in_tombstones = true;
    struct key from = key_id(snap->user_no, SPACE_TOMBSTONES, b->id_max);
    struct key last = key_id(snap->user_no, SPACE_TOMBSTONES, b->id_min);
    struct key end = key_after(&last);
    return cold_scan(snap, &from, &end, consider, g, ec);
}

static enum err open_files(struct gather *g, struct hold *h, struct errctx *ec)
{
    struct snapshot *snap = g->snap;
    enum err err = ERR_OK;
    for (size_t i = 0; err == ERR_OK && g->m != NULL && i < g->m->nfiles; i++) {
        if (!g->files[i])
            continue;
        snap->cold_bytes += g->m->files[i].bytes;
        if (snap->cold_bytes > snap->store->cold_bytes_max) {
            err_set(ec, ERR_TOO_LARGE, "the statement reads more than %d MiB of older messages",
                (int)(snap->store->cold_bytes_max >> 20));
            err_hint(ec, "Ask for less at a time: a range of msg_id or timestamp, or one conversation.");
            return ec->code;
        }
        err = cold_file_open(snap, &g->m->files[i], &h->fds[h->nfds], ec);
        if (err == ERR_OK)
            h->nfds++;
    }
    return err;
}

static enum err messages_input(struct snapshot *snap, struct hold *h, const struct scan_bounds *bounds,
    bool with_tombstones, struct errctx *ec)
{
    struct scan_bounds b = *bounds;
    b.id_min = b.id_min < 0 ? 0 : b.id_min; /* ids in keys are unsigned */
    struct gather g = {.snap = snap,
        .m = snap->manifest,
        .bounds = &b,
        .with_tombstones = with_tombstones,
        .has_conversation = b.conversation_id.ptr != NULL,
        .sink = &h->sink};
    if (g.has_conversation) {
        struct conversation_record rec;
        enum err err = snapshot_conversation_record(snap, b.conversation_id, &rec, ec);
        if (err != ERR_OK)
            return err == ERR_NOT_FOUND ? ERR_OK : err; /* never had a message */
        g.conv_no = rec.conv_no;
    }
    size_t nfiles = g.m != NULL ? g.m->nfiles : 0;
    g.files = calloc(nfiles + 1, sizeof *g.files);
    if (g.files == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "input: out of memory");
    for (size_t i = 0; i < nfiles; i++) {
        g.files[i] = cold_file_wanted(&g.m->files[i], &b, g.conv_no);
        g.nchosen += g.files[i];
    }
    enum err err = open_files(&g, h, ec);
    if (err == ERR_OK)
        err = gather_rows(&g, ec);
    buf_release(&g.opened);
    free(g.files);
    return err;
}

static enum err table_input(struct snapshot *snap, struct hold *h, const struct schema *table,
    struct str conversation_id, struct errctx *ec)
{
    struct scan_spec spec = {.order = SCAN_TABLE,
        .table = table,
        .conversation_id = conversation_id,
        .id_max = INT64_MAX,
        .seq_max = UINT64_MAX};
    struct hot_iter *it = NULL;
    struct str row;
    enum err err = hot_iter_open(snap, &spec, &it, ec);
    if (err != ERR_OK)
        return err;
    while ((err = hot_iter_next(it, &row, ec)) == ERR_OK) {
        err = row_sink_add(&h->sink, row, ec);
        if (err != ERR_OK)
            break;
    }
    hot_iter_close(it);
    return err == ERR_NOT_FOUND ? ERR_OK : err;
}

static void hold_free(struct hold *h)
{
    for (int i = 0; i < h->nfds; i++)
        close(h->fds[i]);
    row_sink_release(&h->sink);
    free(h);
}

enum err snapshot_input(struct snapshot *snap, const struct schema *table, const struct scan_bounds *bounds,
    bool with_tombstones, struct analytic_input *ret, struct errctx *ec)
{
    size_t nfiles = snap->manifest != NULL ? snap->manifest->nfiles : 0;
    struct hold *h = malloc(sizeof *h + nfiles * sizeof *h->fds);
    if (h == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "input: out of memory");
    *h = (struct hold){0};
    row_sink_init(&h->sink);
    /* A statement may name a table many times, and each time is a copy. */
    h->sink.bytes_max = ROW_SINK_BYTES_MAX - snap->input_bytes;
    enum err err = ERR_OK;
    if (snap->exists && table == &schema_messages)
        err = messages_input(snap, h, bounds, with_tombstones, ec);
    else if (snap->exists)
        err = table_input(snap, h, table, bounds->conversation_id, ec);
    if (err == ERR_OK)
        err = row_sink_finish(&h->sink, ec);
    if (err != ERR_OK) {
        hold_free(h);
        return err;
    }
    snap->input_bytes += h->sink.bytes;
    h->next = snap->cold;
    snap->cold = h;
    *ret = (struct analytic_input){.schema = table,
        .rows_fd = h->sink.fd,
        .rows_bytes = h->sink.bytes,
        .nfiles = h->nfds,
        .file_fds = h->fds,
        .nexclude = h->sink.nexclude,
        .exclude = h->sink.exclude,
        .with_tombstones = with_tombstones};
    return ERR_OK;
}

void cold_snapshot_release(struct snapshot *snap)
{
    struct hold *h = snap->cold;
    while (h != NULL) {
        struct hold *next = h->next;
        hold_free(h);
        h = next;
    }
    snap->cold = NULL;
}
