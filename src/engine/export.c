/* A user's data as a tar, step by step under one snapshot.
 *
 *   messages/001.parquet … ──► conversations.parquet ──► conversation_users.parquet ──► content/… ──►
 * manifest one worker run per file, into memory and from there into a spool; what follows reads that
 *
 * A step gives some bytes and holds neither a thread nor a worker afterwards: however slowly a client reads,
 * it costs a snapshot, a descriptor and a buffer. Whoever drives it takes the next step: kalamdb_export_read
 * on its own thread, kalamdb_export_next on one of the engine's job threads. */
#include "base/timefmt.h"
#include "engine/archive_manifest.h"
#include "engine/spool.h"
#include "engine/transfer.h"
#include "engine/user_archive.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Of one file of messages; what a worker sorts within its memory. */
#define PIECE_ROWS ((uint64_t)250000)
#define PIECE_BYTES ((uint64_t)128 << 20)
#define STEP_BYTES ((size_t)128 << 10)
#define CHUNK_BYTES 65536
/* Names of content files, as text with NULs between. */
#define REFS_BYTES_MAX ((size_t)256 << 20)

enum stage { STAGE_MESSAGES, STAGE_CONVERSATIONS, STAGE_MEMBERS, STAGE_CONTENT, STAGE_MANIFEST, STAGE_END };

struct kalamdb_export {
    struct transfer transfer;
    struct snapshot *snap;
    enum stage stage;
    int64_t mtime_s;
    struct archive_writer *tar;
    struct buf out;   /* bytes for the reader */
    size_t taken;     /* of out, by kalamdb_export_read */
    struct buf files; /* lines of the manifest */
    struct archive_manifest manifest;
    struct arena arena; /* texts of the manifest */

    uint64_t piece_rows;
    int64_t *cuts; /* last ids of the pieces of messages */
    size_t ncuts, cut;
    int64_t next_id; /* first id not exported yet */
    int file_no;

    struct buf refs; /* content_refs of all rows, each NUL-terminated */
    size_t ref;      /* position of the next */
    bool refs_known;

    bool copying; /* a member, of `at` bytes so far, from `source`, which reads one of these two: */
    uint64_t at;
    struct archive_source source;
    struct spool *spool;
    struct blob_reader *blob;
    struct archive_file file;
    char path[ARCHIVE_PATH_MAX + 1];

    struct analytic_job job;
    kalamdb_export_ready *ready;
    void *arg;
    struct errctx ec;
    bool failed; /* ec says why; for good */
};

/* ---- members of the tar ------------------------------------------------------------------------------- */

/* SHA-256 of all of the source. */
static enum err hash_source(
    const struct archive_source *source, uint64_t bytes, char ret[65], struct errctx *ec)
{
    char *chunk = malloc(CHUNK_BYTES);
    struct os_sha256 *hash = os_sha256_begin();
    enum err e = chunk != NULL && hash != NULL ? ERR_OK : err_internal(ec, ERR_NO_MEMORY, "export");
    for (uint64_t at = 0; e == ERR_OK && at < bytes;) {
        size_t n = 0;
        e = source->read(source->arg, chunk, CHUNK_BYTES, at, &n, ec);
        if (e == ERR_OK && n == 0)
            e = err_internal(ec, ERR_IO, "export: short");
        if (e == ERR_OK)
            os_sha256_add(hash, chunk, n);
        at += n;
    }
    os_sha256_end(hash, e == ERR_OK ? ret : NULL);
    if (chunk != NULL)
        explicit_bzero(chunk, CHUNK_BYTES);
    free(chunk);
    return e;
}

/* The next member: bytes of the source, which lives until member_end. */
static enum err member_begin(
    struct kalamdb_export *x, struct archive_source source, uint64_t bytes, struct errctx *ec)
{
    x->copying = true;
    x->source = source;
    x->at = 0;
    x->file.path = str_c(x->path);
    x->file.bytes = bytes;
    enum err e = hash_source(&x->source, bytes, x->file.sha256, ec);
    return e == ERR_OK ? archive_writer_begin(x->tar, x->file.path, bytes, x->mtime_s, ec) : e;
}

static void source_close(struct kalamdb_export *x)
{
    spool_free(x->spool);
    blob_reader_close(x->blob);
    x->spool = NULL;
    x->blob = NULL;
}

static enum err member_end(struct kalamdb_export *x, struct errctx *ec)
{
    source_close(x);
    x->copying = false;
    if (x->files.len > 0)
        buf_u8(&x->files, ',');
    archive_manifest_file(&x->files, &x->file);
    x->manifest.nfiles++;
    if (x->files.failed)
        return err_internal(ec, ERR_NO_MEMORY, "manifest of an export");
    return archive_writer_end(x->tar, ec);
}

static enum err member_copy(struct kalamdb_export *x, struct errctx *ec)
{
    char chunk[CHUNK_BYTES];
    uint64_t left = x->file.bytes - x->at;
    size_t want = left < sizeof chunk ? (size_t)left : sizeof chunk, n = 0;
    if (want == 0)
        return member_end(x, ec);
    enum err e = x->source.read(x->source.arg, chunk, want, x->at, &n, ec);
    if (e == ERR_OK && n != want)
        e = err_internal(ec, ERR_IO, "short");
    if (e != ERR_OK) {
        err_path(ec, "export: read %s", x->path);
        return e;
    }
    x->at += n;
    return archive_writer_data(x->tar, str_n(chunk, n), ec);
}

/* ---- Parquet ------------------------------------------------------------------------------------------ */

static enum err run(struct kalamdb_export *x, const struct analytic_input *input, struct str sql, int out,
    struct rowset *ret, struct errctx *ec)
{
    struct analytic_request rq = {.user_id = x->transfer.user_id,
        .sql = sql,
        .ninputs = 1,
        .inputs = input,
        .mode = out >= 0 ? ANALYTIC_PARQUET : ANALYTIC_ROWS,
        .output_fd = out,
        .timeout_ms = TRANSFER_RUN_TIMEOUT_MS,
        .cancel = &x->transfer.cancel};
    return analytic_run(x->transfer.db->analytic, &rq, ret, ec);
}

/* From memory to the disk, sealed: a client takes its time. */
static enum err put_by(struct kalamdb_export *x, int memfd, struct errctx *ec)
{
    struct kalamdb *db = x->transfer.db;
    char *chunk = malloc(CHUNK_BYTES);
    enum err e = chunk == NULL ? err_internal(ec, ERR_NO_MEMORY, "export")
                               : spool_new(db->os, db->options.data_dir, EXPORTS_DIR, &x->spool, ec);
    int64_t n = lseek(memfd, 0, SEEK_SET) == 0 ? 1 : -errno;
    while (e == ERR_OK && n > 0) {
        n = os_read_all(memfd, chunk, CHUNK_BYTES);
        e = n > 0 ? spool_write(x->spool, str_n(chunk, (size_t)n), ec) : ERR_OK;
    }
    if (e == ERR_OK && n < 0)
        e = err_internal(ec, ERR_IO, "export: memfd: %s", strerror((int)-n));
    if (chunk != NULL)
        explicit_bzero(chunk, CHUNK_BYTES);
    free(chunk);
    return e == ERR_OK ? spool_end(x->spool, ec) : e;
}

/* Runs `sql` over the input into a file, which becomes the next member. */
static enum err table_file(
    struct kalamdb_export *x, const struct analytic_input *input, struct str sql, struct errctx *ec)
{
    int fd = -1;
    struct rowset rs;
    enum err e = transfer_memfd(&fd, ec);
    if (e != ERR_OK)
        return e;
    e = run(x, input, sql, fd, &rs, ec);
    if (e != ERR_OK) {
        close(fd);
        return e;
    }
    bool counted =
        rs.nrows == 1 && rs.ncolumns == 1 && rs.values[0].type == VALUE_BIGINT && rs.values[0].i >= 0;
    x->file = (struct archive_file){.has_rows = true, .rows = counted ? (uint64_t)rs.values[0].i : 0};
    rowset_release(&rs);
    if (!counted)
        e = err_internal(ec, ERR_INTERNAL, "export: the worker did not say how many rows it wrote");
    else
        e = put_by(x, fd, ec);
    close(fd);
    if (e != ERR_OK) {
        source_close(x);
        return e;
    }
    return member_begin(x, (struct archive_source){spool_read, x->spool}, spool_size(x->spool), ec);
}

static enum err other_table(struct kalamdb_export *x, const struct schema *schema, const char *path,
    const char *order, struct errctx *ec)
{
    struct analytic_input input;
    struct buf sql = BUF_INIT(0);
    buf_str(&sql, STR("SELECT "));
    transfer_column_list(&sql, schema, true);
    buf_printf(&sql, " FROM scan_0 ORDER BY %s", order);
    enum err e = sql.failed ? err_internal(ec, ERR_NO_MEMORY, "export") : ERR_OK;
    struct scan_bounds bounds = SCAN_BOUNDS_OPEN;
    if (e == ERR_OK)
        e = snapshot_input(x->snap, schema, &bounds, false, &input, ec);
    snprintf(x->path, sizeof x->path, "%s", path);
    if (e == ERR_OK)
        e = table_file(x, &input, buf_view(&sql), ec);
    if (e == ERR_OK && schema == &schema_conversations)
        x->manifest.conversations = x->file.rows;
    snapshot_input_done(x->snap);
    buf_release(&sql);
    return e;
}

static enum err piece(struct kalamdb_export *x, int64_t last, struct errctx *ec)
{
    struct analytic_input input;
    struct buf sql = BUF_INIT(0);
    struct scan_bounds bounds = SCAN_BOUNDS_OPEN;
    bounds.id_min = x->next_id;
    bounds.id_max = last;
    buf_str(&sql, STR("SELECT "));
    transfer_column_list(&sql, &schema_messages, true);
    buf_printf(&sql, " FROM scan_0 WHERE msg_id >= %lld AND msg_id <= %lld ORDER BY msg_id",
        (long long)x->next_id, (long long)last);
    enum err e = sql.failed ? err_internal(ec, ERR_NO_MEMORY, "export") : ERR_OK;
    if (e == ERR_OK)
        e = snapshot_input(x->snap, &schema_messages, &bounds, false, &input, ec);
    snprintf(x->path, sizeof x->path, "messages/%03d.parquet", x->file_no + 1);
    if (e == ERR_OK)
        e = table_file(x, &input, buf_view(&sql), ec);
    snapshot_input_done(x->snap);
    buf_release(&sql);
    return e;
}

/* The next file of messages. A piece that is too much for a worker is halved: what a row weighs is known
 * afterwards only. */
static enum err messages(struct kalamdb_export *x, struct errctx *ec)
{
    enum err e = ERR_OK;
    if (x->cuts == NULL)
        e = snapshot_split(x->snap, x->piece_rows, PIECE_BYTES, &x->cuts, &x->ncuts, ec);
    if (e != ERR_OK)
        return e;
    int64_t last = x->cuts[x->cut];
    e = piece(x, last, ec);
    /* IDS_MAX bounds what halving meets: above it there are no ids. */
    while (e == ERR_TOO_LARGE && last > x->next_id) {
        int64_t top = last < ((int64_t)1 << 53) ? last : ((int64_t)1 << 53);
        last = x->next_id + (top - x->next_id) / 2;
        errctx_clear(ec);
        e = piece(x, last, ec);
    }
    if (e != ERR_OK)
        return e;
    x->manifest.messages += x->file.rows;
    x->file_no++;
    x->next_id = last;
    if (last == x->cuts[x->cut] && ++x->cut == x->ncuts)
        x->stage = STAGE_CONVERSATIONS;
    else
        x->next_id++;
    return ERR_OK;
}

/* ---- content ------------------------------------------------------------------------------------------ */

static enum err add_ref(void *arg, struct str ref, uint32_t rows, struct errctx *ec)
{
    struct kalamdb_export *x = arg;
    struct str name;
    int64_t id;
    (void)rows;
    if (!archive_ref_parse(ref, &name, &id))
        return err_internal(ec, ERR_CORRUPT, "export: a content_ref is malformed");
    buf_str(&x->refs, ref);
    buf_u8(&x->refs, 0);
    return x->refs.failed ? err_set(ec, ERR_TOO_LARGE, "the user's rows refer to too many files") : ERR_OK;
}

static enum err read_blob(void *arg, void *p, size_t n, uint64_t at, size_t *ret_n, struct errctx *ec)
{
    return blob_reader_pread(arg, p, n, at, ret_n, ec);
}

static enum err content(struct kalamdb_export *x, struct errctx *ec)
{
    enum err e = ERR_OK;
    if (!x->refs_known)
        e = snapshot_each_ref(x->snap, add_ref, x, ec);
    x->refs_known = true;
    if (e != ERR_OK)
        return e;
    if (x->ref == x->refs.len) {
        x->stage = STAGE_MANIFEST;
        return ERR_OK;
    }
    struct str ref = str_c(x->refs.ptr + x->ref);
    x->ref += ref.len + 1;
    const uint8_t *key = NULL;
    e = snapshot_blob_key(x->snap, ref, &key, ec);
    if (e == ERR_OK)
        e = store_blob_open(x->transfer.db->store, ref, key, &x->blob, ec);
    x->file = (struct archive_file){.has_rows = false};
    snprintf(x->path, sizeof x->path, "content/%.*s", STR_FMT(ref));
    if (e == ERR_NOT_FOUND)
        return err_internal(ec, ERR_CORRUPT, "export: %s is missing", x->path);
    if (e != ERR_OK)
        return e;
    return member_begin(x, (struct archive_source){read_blob, x->blob}, blob_reader_size(x->blob), ec);
}

static enum err manifest(struct kalamdb_export *x, struct errctx *ec)
{
    struct buf text = BUF_INIT(0);
    archive_manifest_write(&text, &x->manifest, buf_view(&x->files));
    enum err e = text.failed ? err_internal(ec, ERR_NO_MEMORY, "manifest of an export") : ERR_OK;
    if (e == ERR_OK)
        e = archive_writer_begin(x->tar, STR(ARCHIVE_MANIFEST), text.len, x->mtime_s, ec);
    for (size_t at = 0; e == ERR_OK && at < text.len; at += 65536)
        e = archive_writer_data(
            x->tar, str_n(text.ptr + at, text.len - at < 65536 ? text.len - at : 65536), ec);
    if (e == ERR_OK)
        e = archive_writer_end(x->tar, ec);
    if (e == ERR_OK)
        e = archive_writer_finish(x->tar, ec);
    buf_release(&text);
    x->stage = STAGE_END;
    return e;
}

static enum err advance(struct kalamdb_export *x, struct errctx *ec)
{
    if (x->copying)
        return member_copy(x, ec);
    switch (x->stage) {
    case STAGE_MESSAGES:
        return messages(x, ec);
    case STAGE_CONVERSATIONS:
        x->stage = STAGE_MEMBERS;
        return other_table(x, &schema_conversations, ARCHIVE_CONVERSATIONS, "conversation_id", ec);
    case STAGE_MEMBERS:
        x->stage = STAGE_CONTENT;
        return other_table(x, &schema_conversation_users, ARCHIVE_MEMBERS, "conversation_id, user_id", ec);
    case STAGE_CONTENT:
        return content(x, ec);
    case STAGE_MANIFEST:
        return manifest(x, ec);
    case STAGE_END:
        break;
    }
    return ERR_OK;
}

/* Bytes into x->out, fewer than two steps' worth; none: the end. */
static enum err step(struct kalamdb_export *x)
{
    enum err e = x->failed ? x->ec.code : ERR_OK;
    buf_clear(&x->out);
    while (e == ERR_OK && x->out.len < STEP_BYTES && (x->stage != STAGE_END || x->copying)) {
        e = transfer_alive(&x->transfer, &x->ec);
        if (e == ERR_OK)
            e = advance(x, &x->ec);
    }
    if (e != ERR_OK) {
        x->failed = true;
        if (x->ec.code != e)
            err_internal(&x->ec, e, "export");
    }
    return e;
}

/* ---- the interface ------------------------------------------------------------------------------------ */

static enum err start(struct kalamdb_export *x, struct errctx *ec)
{
    struct kalamdb *db = x->transfer.db;
    enum err e = snapshot_open(db->store, x->transfer.user_id, &x->snap, ec);
    if (e != ERR_OK)
        return e;
    if (!snapshot_exists(x->snap))
        return err_set(ec, ERR_NOT_FOUND, "no such user");
    int64_t now = os_realtime_us(db->os);
    struct buf when = BUF_INIT(0);
    time_format(&when, now);
    x->mtime_s = now / 1000000;
    x->manifest.user = x->transfer.user_id;
    x->manifest.seq = snapshot_seq(x->snap);
    x->manifest.feed = arena_str(&x->arena, snapshot_feed(x->snap));
    x->manifest.exported_at = arena_str(&x->arena, buf_view(&when));
    buf_release(&when);
    if (arena_failed(&x->arena))
        return err_internal(ec, ERR_NO_MEMORY, "export");
    return archive_writer_open(&x->out, &x->tar, ec);
}

static kalamdb_code failed(struct kalamdb_error *error, struct errctx *ec, enum err e)
{
    if (ec->code != e)
        err_internal(ec, e, "export");
    return engine_error(error, ec);
}

kalamdb_code kalamdb_export_open(struct kalamdb *db, const struct kalamdb_caller *caller,
    struct kalamdb_str user_id, struct kalamdb_export **ret, struct kalamdb_error *error)
{
    struct errctx ec;
    errctx_clear(&ec);
    struct kalamdb_export *x = calloc(1, sizeof *x);
    if (x == NULL)
        return failed(error, &ec, ERR_NO_MEMORY);
    x->piece_rows = PIECE_ROWS;
    x->refs = BUF_INIT(REFS_BYTES_MAX);
    arena_init(&x->arena, 65536);
    struct str user = engine_str(user_id.ptr != NULL ? user_id : caller->user_id);
    enum err e = transfer_begin(&x->transfer, db, caller, user, false, &ec);
    if (e != ERR_OK) {
        free(x);
        return failed(error, &ec, e);
    }
    e = start(x, &ec);
    if (e != ERR_OK) {
        kalamdb_export_close(x);
        return failed(error, &ec, e);
    }
    *ret = x;
    return KALAMDB_OK;
}

kalamdb_code kalamdb_export_read(
    struct kalamdb_export *x, void *p, size_t n, size_t *ret_n, struct kalamdb_error *error)
{
    if (x->taken == x->out.len) {
        enum err e = step(x);
        x->taken = 0;
        if (e != ERR_OK)
            return engine_error(error, &x->ec);
    }
    size_t have = x->out.len - x->taken, give = have < n ? have : n;
    if (give > 0)
        memcpy(p, x->out.ptr + x->taken, give);
    x->taken += give;
    *ret_n = give;
    return KALAMDB_OK;
}

static void run_step(struct analytic_job *job)
{
    struct kalamdb_export *x = (struct kalamdb_export *)((char *)job - offsetof(struct kalamdb_export, job));
    struct kalamdb *db = x->transfer.db;
    struct kalamdb_error error = {.code = KALAMDB_OK};
    if (step(x) != ERR_OK)
        engine_error(&error, &x->ec);
    x->taken = x->out.len;
    x->ready(x->arg, x->out.ptr, error.code == KALAMDB_OK ? x->out.len : 0, &error);
    /* x may be gone. */
    transfer_leave(db);
}

void kalamdb_export_next(struct kalamdb_export *x, kalamdb_export_ready *ready, void *arg)
{
    x->ready = ready;
    x->arg = arg;
    if (transfer_enter(&x->transfer, &x->ec) != ERR_OK) {
        struct kalamdb_error error;
        engine_error(&error, &x->ec);
        ready(arg, NULL, 0, &error);
        return;
    }
    x->job.run = run_step;
    x->job.owner = analytic_owner(x->transfer.user_id);
    analytic_submit(x->transfer.db->analytic, &x->job);
}

void export_set_piece(struct kalamdb_export *x, uint64_t rows)
{
    x->piece_rows = rows;
}

void kalamdb_export_cancel(struct kalamdb_export *x)
{
    transfer_cancel(&x->transfer);
}

void kalamdb_export_close(struct kalamdb_export *x)
{
    if (x == NULL)
        return;
    archive_writer_free(x->tar);
    source_close(x);
    snapshot_close(x->snap);
    transfer_end(&x->transfer);
    free(x->cuts);
    buf_release(&x->out);
    buf_release(&x->files);
    buf_release(&x->refs);
    arena_release(&x->arena);
    free(x);
}
