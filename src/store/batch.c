#include "store/batch.h"
#include "base/plant.h"
#include "base/timefmt.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WORKER_TIMEOUT_MS = 600000, NAMES_PER_SECOND = 999999, COPY_BYTES = 1 << 20 };

void batch_init(struct batch *b)
{
    *b = (struct batch){.file = {.id_min = INT64_MAX,
                            .id_max = INT64_MIN,
                            .ts_min = INT64_MAX,
                            .ts_max = INT64_MIN,
                            .seq_min = UINT64_MAX}};
    row_sink_init(&b->sink);
}

void batch_release(struct batch *b)
{
    row_sink_release(&b->sink);
    free(b->conversations);
    buf_release(&b->filter);
    buf_release(&b->name);
    buf_release(&b->path);
    explicit_bzero(b->file.key, sizeof b->file.key);
}

static void widen(struct cold_file *f, int64_t id_min, int64_t id_max, uint64_t seq_min, uint64_t seq_max)
{
    f->id_min = id_min < f->id_min ? id_min : f->id_min;
    f->id_max = id_max > f->id_max ? id_max : f->id_max;
    f->seq_min = seq_min < f->seq_min ? seq_min : f->seq_min;
    f->seq_max = seq_max > f->seq_max ? seq_max : f->seq_max;
}

static enum err add_conversation(struct batch *b, uint32_t conv_no, struct errctx *ec)
{
    if (b->file.any_conversation)
        return ERR_OK;
    if (b->nconversations > 0 && b->conversations[b->nconversations - 1] == conv_no)
        return ERR_OK;
    if (b->nconversations == b->conversations_cap) {
        size_t cap = b->conversations_cap == 0 ? 256 : b->conversations_cap * 2;
        uint32_t *p = realloc(b->conversations, cap * sizeof *p);
        if (p == NULL)
            return err_internal(ec, ERR_NO_MEMORY, "batch: out of memory");
        b->conversations = p;
        b->conversations_cap = cap;
    }
    b->conversations[b->nconversations++] = conv_no;
    return ERR_OK;
}

enum err batch_add(struct batch *b, const struct hot_row *row, struct errctx *ec)
{
    struct row_meta meta;
    struct value values[SCHEMA_COLUMNS_MAX];
    if (row_decode(row->row, &schema_messages, &meta, values) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "hot row %lld: malformed", (long long)row->msg_id);
    widen(&b->file, row->msg_id, row->msg_id, meta.seq, meta.seq);
    if (values[MSG_TIMESTAMP].type == VALUE_TIMESTAMPTZ) {
        int64_t ts = values[MSG_TIMESTAMP].i;
        b->file.ts_min = ts < b->file.ts_min ? ts : b->file.ts_min;
        b->file.ts_max = ts > b->file.ts_max ? ts : b->file.ts_max;
    }
    enum err err = add_conversation(b, row->conv_no, ec);
    return err == ERR_OK ? row_sink_add(&b->sink, row->row, ec) : err;
}

enum err batch_add_file(struct batch *b, const struct cold_file *f, struct errctx *ec)
{
    widen(&b->file, f->id_min, f->id_max, f->seq_min, f->seq_max);
    b->file.ts_min = f->ts_min < b->file.ts_min ? f->ts_min : b->file.ts_min;
    b->file.ts_max = f->ts_max > b->file.ts_max ? f->ts_max : b->file.ts_max;
    if (f->any_conversation) {
        b->file.any_conversation = true;
        return ERR_OK;
    }
    struct reader r = reader_of(f->conversations);
    uint64_t at = 0;
    enum err err = ERR_OK;
    while (err == ERR_OK && reader_left(&r) > 0) {
        at += read_varint(&r);
        if (r.bad || at > UINT32_MAX)
            return err_internal(ec, ERR_CORRUPT, "cold file: malformed conversation filter");
        err = add_conversation(b, (uint32_t)at, ec);
    }
    return err;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static enum err make_filter(struct batch *b, struct errctx *ec)
{
    size_t n = 0;
    if (b->nconversations > 0)
        qsort(b->conversations, b->nconversations, sizeof *b->conversations, by_number);
    for (size_t i = 0; i < b->nconversations; i++)
        if (i == 0 || b->conversations[i] != b->conversations[n - 1])
            b->conversations[n++] = b->conversations[i];
    if (n > MANIFEST_FILTER_MAX)
        b->file.any_conversation = true;
    if (b->file.any_conversation)
        return ERR_OK;
    conversation_filter_encode(&b->filter, b->conversations, n);
    b->file.conversations = buf_view(&b->filter);
    return b->filter.failed ? err_internal(ec, ERR_NO_MEMORY, "batch: out of memory") : ERR_OK;
}

/* Everything the schema stores, hidden columns included, by name: readers of the file need no catalog. */
static void make_sql(struct buf *sql)
{
    buf_str(sql, STR("SELECT "));
    for (int i = 0; i < schema_messages.ncolumns; i++) {
        buf_str(sql, i == 0 ? STR("\"") : STR(", \""));
        buf_str(sql, schema_messages.columns[i].name);
        buf_str(sql, STR("\""));
    }
    buf_str(sql, STR(" FROM scan_0 ORDER BY \"msg_id\""));
}

static enum err run_worker(struct batch *b, struct store *s, struct str user_id, int nfds, const int *fds,
    int out, struct errctx *ec)
{
    if (s->cfg.analytic == NULL)
        return err_set(ec, ERR_UNAVAILABLE, "there are no workers to write Parquet files");
    struct buf sql = BUF_INIT(4096);
    make_sql(&sql);
    struct analytic_input input = {.schema = &schema_messages,
        .rows_fd = b->sink.fd,
        .rows_bytes = b->sink.bytes,
        .nfiles = nfds,
        .file_fds = fds,
        .nexclude = b->sink.nexclude,
        .exclude = b->sink.exclude};
    struct analytic_request rq = {.user_id = user_id,
        .sql = buf_view(&sql),
        .ninputs = 1,
        .inputs = &input,
        .mode = ANALYTIC_PARQUET,
        .output_fd = out,
        .timeout_ms = WORKER_TIMEOUT_MS,
        .cancel = &s->consolidator->cancel};
    struct rowset rs;
    rowset_init(&rs, 1 << 16);
    enum err err = sql.failed ? err_internal(ec, ERR_NO_MEMORY, "batch: out of memory")
                              : analytic_run(s->cfg.analytic, &rq, &rs, ec);
    if (err == ERR_OK &&
        (rs.nrows != 1 || rs.ncolumns != 1 || rs.values[0].type != VALUE_BIGINT || rs.values[0].i < 0))
        err = err_internal(ec, ERR_INTERNAL, "batch: the worker did not say how many rows it wrote");
    if (err == ERR_OK)
        b->file.rows = (uint64_t)rs.values[0].i;
    rowset_release(&rs);
    buf_release(&sql);
    return err;
}

/* mkdir, and the entry in the data directory made durable. */
static enum err make_folder(struct store *s, const char *folder, struct errctx *ec)
{
    if (mkdir(folder, 0700) != 0)
        return errno == EEXIST ? ERR_OK : err_internal(ec, ERR_IO, "mkdir %s: %s", folder, strerror(errno));
    enum err err = os_fsync_dir(s->os, s->cfg.data_dir, ec);
    if (err != ERR_OK)
        (void)rmdir(folder); /* the next attempt is not to take it for settled */
    return err;
}

/* The next free name of this second. No name is given twice by one process: a file that is being replaced
 * must not be taken for its successor. */
static enum err make_name(struct batch *b, struct store *s, struct str user_id, struct errctx *ec)
{
    struct consolidator *c = s->consolidator;
    int64_t now = os_realtime_us(s->os);
    if (c->name_s != now / 1000000) {
        c->name_s = now / 1000000;
        c->name_no = 0;
    }
    while (c->name_no < NAMES_PER_SECOND) {
        buf_clear(&b->name);
        buf_clear(&b->path);
        buf_str(&b->name, STR("batch-"));
        time_format_compact(&b->name, now);
        buf_printf(&b->name, "-%03d.parquet%s", ++c->name_no, b->file.sealed ? ".enc" : "");
        cold_path(&b->path, s, user_id, buf_view(&b->name));
        if (b->name.failed || b->path.failed)
            return err_internal(ec, ERR_NO_MEMORY, "batch: out of memory");
        b->file.name = buf_view(&b->name);
        if (access(b->path.ptr, F_OK) < 0)
            return ERR_OK;
    }
    return err_internal(ec, ERR_IO, "%s: no free name", b->path.ptr);
}

/* What the worker wrote, as it is to stand on disk. The bytes are read once: a worker that went on writing
 * would only spoil its own user's file. */
static enum err copy_out(
    struct batch *b, struct store *s, uint64_t user_no, int memfd, int fd, struct errctx *ec)
{
    struct stat st;
    if (fstat(memfd, &st) < 0)
        return err_internal(ec, ERR_IO, "stat: %s", strerror(errno));
    uint64_t size = (uint64_t)st.st_size;
    if (b->file.sealed) {
        struct buf context = BUF_INIT(0);
        cold_context(&context, user_no, b->file.name);
        s->os->random(s->os->ctx, b->file.key, sizeof b->file.key);
        enum err err = context.failed
                           ? err_internal(ec, ERR_NO_MEMORY, "batch: out of memory")
                           : sealed_from_fd(s->os, memfd, size, fd, b->file.key, buf_view(&context), ec);
        buf_release(&context);
        return err;
    }
    for (off_t at = 0; (uint64_t)at < size;) {
        ssize_t n =
            sendfile(fd, memfd, &at, size - (uint64_t)at < COPY_BYTES ? size - (uint64_t)at : COPY_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_internal(
                ec, ERR_IO, "write: %s", n < 0 ? strerror(errno) : "the worker took bytes back");
    }
    return ERR_OK;
}

static enum err finish(
    struct batch *b, struct store *s, int fd, const char *temp, const char *folder, struct errctx *ec)
{
    struct stat st;
    int rc = PLANT(MANIFEST_BEFORE_FILE) ? 0 : s->os->fsync(s->os->ctx, fd);
    if (rc < 0)
        return err_internal(ec, ERR_IO, "%s: fsync: %s", temp, strerror(-rc));
    if (fstat(fd, &st) < 0)
        return err_internal(ec, ERR_IO, "%s: stat: %s", temp, strerror(errno));
    b->file.bytes = (uint64_t)st.st_size;
    enum err err = os_sha256_fd(fd, b->file.bytes, b->file.sha256, ec);
    if (err == ERR_OK)
        err = cold_step(s, STEP_TEMP, ec);
    if (err != ERR_OK)
        return err;
    rc = s->os->rename(s->os->ctx, temp, b->path.ptr);
    if (rc < 0)
        return err_internal(ec, ERR_IO, "%s: rename: %s", temp, strerror(-rc));
    if (!PLANT(FOLDER_NOT_SYNCED))
        err = os_fsync_dir(s->os, folder, ec);
    return err == ERR_OK ? cold_step(s, STEP_RENAMED, ec) : err;
}

static enum err write_file(struct batch *b, struct store *s, uint64_t user_no, int memfd, const char *temp,
    const char *folder, struct errctx *ec)
{
    int out = open(temp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (out < 0)
        return err_internal(ec, ERR_IO, "%s: %s", temp, strerror(errno));
    enum err err = copy_out(b, s, user_no, memfd, out, ec);
    if (err != ERR_OK)
        err_path(ec, "%s", temp);
    else
        err = finish(b, s, out, temp, folder, ec);
    close(out);
    if (err != ERR_OK && !cold_crashed(s)) {
        (void)s->os->unlink(s->os->ctx, temp);
        batch_discard(b, s);
    }
    return err;
}

/* The worker opens nothing on disk, and what it writes is on disk only once it is sealed: it gets a memfd. */
static enum err write_rows(struct batch *b, struct snapshot *snap, int nfds, const int *fds, const char *temp,
    const char *folder, struct errctx *ec)
{
    struct store *s = snap->store;
    int memfd = os_memfd("kalamdb-batch");
    if (memfd < 0)
        return err_internal(ec, ERR_IO, "batch: memfd: %s", strerror(-memfd));
    enum err err = run_worker(b, s, head_user_id(&snap->head), nfds, fds, memfd, ec);
    if (err == ERR_OK && b->file.rows > 0)
        err = write_file(b, s, snap->user_no, memfd, temp, folder, ec);
    close(memfd);
    return err;
}

enum err batch_write(struct batch *b, struct snapshot *snap, int nfds, const int *fds, struct errctx *ec)
{
    struct store *s = snap->store;
    struct str user_id = head_user_id(&snap->head);
    struct buf folder = BUF_INIT(8192), temp = BUF_INIT(8192);
    b->file.sealed = s->vault != NULL;
    enum err err = row_sink_finish(&b->sink, ec);
    if (err == ERR_OK)
        err = make_filter(b, ec);
    if (err == ERR_OK)
        err = make_name(b, s, user_id, ec);
    if (err == ERR_OK) {
        cold_path(&folder, s, user_id, STR_NULL);
        buf_printf(&temp, "%s.tmp", b->path.ptr);
        buf_u8(&temp, 0);
        err = folder.failed || temp.failed ? err_internal(ec, ERR_NO_MEMORY, "batch: out of memory")
                                           : make_folder(s, folder.ptr, ec);
    }
    if (err == ERR_OK)
        err = write_rows(b, snap, nfds, fds, temp.ptr, folder.ptr, ec);
    buf_release(&folder);
    buf_release(&temp);
    return err;
}

void batch_discard(struct batch *b, struct store *s)
{
    if (b->path.len > 0 && !cold_crashed(s))
        (void)s->os->unlink(s->os->ctx, b->path.ptr);
}
