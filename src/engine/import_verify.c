/* Everything about an archive that can be wrong is found here, before anything is written:
 *
 *   the tar (names, kinds, ends) → the manifest against it → Parquet files: types, counts → every row
 *
 * Parquet is decoded by workers alone; what they say is checked again as it comes. */
#include "engine/import.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define PAGE_ROWS 20000
#define PAGE_KEYS 1000000

static enum err damaged(struct errctx *ec, struct str path, const char *what)
{
    return err_set(ec, ERR_INVALID_REQUEST, "%.*s in the archive %s", STR_FMT(path), what);
}

/* Puts the file before what a rule said of a row: whatever the rule's code, the archive is at fault. */
static enum err bad_row(struct errctx *ec, const char *path, int64_t id, const struct errctx *why)
{
    if (why->code == ERR_NO_MEMORY || why->code == ERR_INTERNAL) {
        *ec = *why;
        return why->code;
    }
    err_set(ec, ERR_INVALID_REQUEST, "%s in the archive: %s", path, why->message);
    if (id != 0)
        err_detail(ec, "The row with msg_id %lld.", (long long)id);
    return ec->code;
}

/* ---- the tar ------------------------------------------------------------------------------------------ */

static enum err alive(void *arg, struct errctx *ec)
{
    return transfer_alive(arg, ec);
}

struct walk {
    struct import_file *files; /* heap, grown by doubling */
    size_t n, cap;
};

static enum err walk_add(
    struct kalamdb_import *im, struct walk *w, const struct archive_member *m, struct errctx *ec)
{
    if (w->n == ARCHIVE_FILES_MAX)
        return err_set(ec, ERR_INVALID_REQUEST, "the archive holds more than %d files", ARCHIVE_FILES_MAX);
    if (w->n == w->cap) {
        size_t cap = w->cap > 0 ? w->cap * 2 : 64;
        struct import_file *grown = realloc(w->files, cap * sizeof *grown);
        if (grown == NULL)
            return err_internal(ec, ERR_NO_MEMORY, "import");
        w->files = grown;
        w->cap = cap;
    }
    struct import_file *f = &w->files[w->n];
    *f = (struct import_file){.path = arena_str(&im->arena, str_c(m->path)),
        .kind = m->kind,
        .bytes = m->bytes,
        .offset = m->offset};
    if (f->path.ptr == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "import");
    memcpy(f->sha256, m->sha256, sizeof f->sha256);
    w->n++;
    return ERR_OK;
}

static enum err walk(struct kalamdb_import *im, struct walk *w, struct buf *manifest, struct errctx *ec)
{
    struct archive_reader *r;
    struct archive_member m;
    bool last = false;
    enum err e = archive_reader_open(&im->source, &r, ec);
    if (e != ERR_OK)
        return e;
    while ((e = archive_reader_next(r, &m, manifest, alive, &im->transfer, ec)) == ERR_OK) {
        if (last)
            e = err_set(ec, ERR_INVALID_REQUEST, ARCHIVE_MANIFEST " is not the last file of the archive");
        else if (m.kind == ARCHIVE_KIND_MANIFEST)
            last = true;
        else
            e = walk_add(im, w, &m, ec);
        if (e != ERR_OK)
            break;
    }
    archive_reader_free(r);
    if (e != ERR_NOT_FOUND)
        return e;
    errctx_clear(ec);
    return last ? ERR_OK
                : err_set(ec, ERR_INVALID_REQUEST, "the archive has no " ARCHIVE_MANIFEST " at its end");
}

/* ---- the tar against the manifest --------------------------------------------------------------------- */

static int by_path(const void *a, const void *b)
{
    return str_cmp(((const struct import_file *)a)->path, ((const struct import_file *)b)->path);
}

static int listed_by_path(const void *a, const void *b)
{
    return str_cmp(((const struct archive_file *)a)->path, ((const struct archive_file *)b)->path);
}

static enum err match(struct import_file *f, const struct archive_file *listed, struct errctx *ec)
{
    int order = str_cmp(f->path, listed->path);
    if (order < 0)
        return damaged(ec, f->path, "is not listed in " ARCHIVE_MANIFEST);
    if (order > 0)
        return damaged(ec, listed->path, "is missing");
    if (f->bytes != listed->bytes)
        return damaged(ec, f->path, "has another size than " ARCHIVE_MANIFEST " says");
    if (memcmp(f->sha256, listed->sha256, 64) != 0)
        return damaged(ec, f->path, "is damaged: its sha256 is not the one in " ARCHIVE_MANIFEST);
    if (listed->rows > IMPORT_FILE_ROWS_MAX)
        return damaged(ec, f->path, "has too many rows");
    f->rows = listed->rows;
    return ERR_OK;
}

static enum err match_all(struct kalamdb_import *im, struct walk *w, struct errctx *ec)
{
    struct archive_manifest *m = &im->manifest;
    if (w->n > 1)
        qsort(w->files, w->n, sizeof *w->files, by_path);
    if (m->nfiles > 1)
        qsort(m->files, m->nfiles, sizeof *m->files, listed_by_path);
    for (size_t i = 1; i < w->n; i++) {
        if (str_eq(w->files[i].path, w->files[i - 1].path))
            return damaged(ec, w->files[i].path, "is there twice");
    }
    for (size_t i = 0; i < w->n && i < m->nfiles; i++) {
        enum err e = match(&w->files[i], &m->files[i], ec);
        if (e != ERR_OK)
            return e;
    }
    if (w->n > m->nfiles)
        return damaged(ec, w->files[m->nfiles].path, "is not listed in " ARCHIVE_MANIFEST);
    if (w->n < m->nfiles)
        return damaged(ec, m->files[w->n].path, "is missing");
    im->files = arena_array(&im->arena, w->n, sizeof *im->files);
    if (im->files == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "import");
    memcpy(im->files, w->files, w->n * sizeof *im->files);
    im->nfiles = w->n;
    uint64_t parquet = 0;
    for (size_t i = 0; i < w->n; i++)
        parquet += w->files[i].kind == ARCHIVE_KIND_CONTENT ? 0 : w->files[i].bytes;
    if (parquet > IMPORT_PARQUET_BYTES_MAX)
        return err_set(ec, ERR_TOO_LARGE, "the archive's Parquet files have more than %d MiB together",
            (int)(IMPORT_PARQUET_BYTES_MAX >> 20));
    for (size_t i = 0; i < w->n; i++)
        im->ncontents += w->files[i].kind == ARCHIVE_KIND_CONTENT;
    return ERR_OK;
}

static enum err read_archive(struct kalamdb_import *im, struct errctx *ec)
{
    struct walk w = {0};
    struct buf manifest = BUF_INIT(ARCHIVE_MANIFEST_BYTES_MAX);
    enum err e = walk(im, &w, &manifest, ec);
    if (e == ERR_OK)
        e = archive_manifest_parse(buf_view(&manifest), &im->arena, &im->manifest, ec);
    buf_release(&manifest);
    if (e == ERR_OK && !user_id_valid(im->manifest.user))
        e = err_set(ec, ERR_INVALID_REQUEST, ARCHIVE_MANIFEST ": user is not a valid user id");
    if (e == ERR_OK)
        e = match_all(im, &w, ec);
    free(w.files);
    return e;
}

/* ---- Parquet files ------------------------------------------------------------------------------------ */

static enum err write_piece(void *arg, struct str bytes, struct errctx *ec)
{
    int n = os_write_all(*(const int *)arg, bytes.ptr, bytes.len);
    return n == 0 ? ERR_OK : err_internal(ec, ERR_IO, "import: write: %s", strerror(-n));
}

/* Out of the tar, into memory: a worker is handed whole files, and opens none on disk. */
static enum err take_out(
    struct kalamdb_import *im, const struct import_file *f, int *ret_fd, struct errctx *ec)
{
    int fd = -1;
    struct archive_member m = import_member(f);
    enum err e = transfer_memfd(&fd, ec);
    if (e != ERR_OK)
        return e;
    e = archive_member_read(&im->source, &m, write_piece, &fd, ec);
    if (e != ERR_OK)
        close(fd);
    else
        *ret_fd = fd;
    return e;
}

/* What a worker says of a stranger's file: that it cannot be read is the file's fault. */
static enum err read_failed(struct errctx *ec, struct str path, enum err e)
{
    if (e == ERR_TIMEOUT || e == ERR_UNAVAILABLE || e == ERR_NO_MEMORY)
        return e;
    struct errctx why = *ec;
    damaged(ec, path, "cannot be read as the table that it should be");
    err_detail(ec, "%s", why.message);
    memcpy(ec->internal, why.internal, sizeof ec->internal);
    return ec->code;
}

static bool type_fits(enum value_type have, enum value_type want)
{
    return have == want || (want == VALUE_JSON && have == VALUE_TEXT);
}

static enum err check_types(
    const struct rowset *rs, const struct schema *schema, struct str path, struct errctx *ec)
{
    int columns[SCHEMA_COLUMNS_MAX], n = transfer_columns(schema, columns);
    if (rs->ncolumns != n)
        return damaged(ec, path, "has other columns");
    for (int i = 0; i < n; i++) {
        const struct column *c = &schema->columns[columns[i]];
        if (type_fits(rs->types[i], c->type))
            continue;
        damaged(ec, path, "has a column of another type");
        err_detail(ec, "Column \"%.*s\".", STR_FMT(c->name));
        return ec->code;
    }
    return ERR_OK;
}

/* Columns, types and the number of rows of one file. */
static enum err check_table(struct kalamdb_import *im, const struct import_file *f,
    const struct schema *schema, int fd, struct errctx *ec)
{
    struct buf sql = BUF_INIT(0);
    struct rowset rs;
    buf_str(&sql, STR("SELECT "));
    transfer_column_list(&sql, schema, false);
    buf_str(&sql, STR(" FROM scan_0 LIMIT 0"));
    enum err e = sql.failed ? err_internal(ec, ERR_NO_MEMORY, "import")
                            : import_query(im, schema, 1, &fd, buf_view(&sql), 0, &rs, ec);
    buf_release(&sql);
    if (e != ERR_OK)
        return read_failed(ec, f->path, e);
    e = check_types(&rs, schema, f->path, ec);
    rowset_release(&rs);
    if (e != ERR_OK)
        return e;
    e = import_query(im, schema, 1, &fd, STR("SELECT count(*) FROM scan_0"), 0, &rs, ec);
    if (e != ERR_OK)
        return read_failed(ec, f->path, e);
    bool same = rs.nrows == 1 && rs.ncolumns == 1 && rs.values[0].type == VALUE_BIGINT &&
                (uint64_t)rs.values[0].i == f->rows;
    rowset_release(&rs);
    return same ? ERR_OK : damaged(ec, f->path, "has another number of rows than " ARCHIVE_MANIFEST " says");
}

/* A small table whole, in the order of its key. */
static enum err load_table(struct kalamdb_import *im, const char *path, const struct schema *schema,
    const char *order, struct rowset *ret, struct errctx *ec)
{
    const struct import_file *f = import_find(im, str_c(path));
    struct buf sql = BUF_INIT(0);
    int fd = -1;
    buf_str(&sql, STR("SELECT "));
    transfer_column_list(&sql, schema, false);
    buf_printf(&sql, " FROM scan_0 ORDER BY %s", order);
    enum err e = sql.failed ? err_internal(ec, ERR_NO_MEMORY, "import") : take_out(im, f, &fd, ec);
    if (e == ERR_OK)
        e = check_table(im, f, schema, fd, ec);
    if (e == ERR_OK) {
        e = import_query(im, schema, 1, &fd, buf_view(&sql), 0, ret, ec);
        if (e != ERR_OK)
            e = read_failed(ec, f->path, e);
    }
    if (fd >= 0)
        close(fd);
    buf_release(&sql);
    return e;
}

static enum err check_conversations(struct kalamdb_import *im, struct errctx *ec)
{
    struct value v[SCHEMA_COLUMNS_MAX];
    struct errctx why;
    enum err e = load_table(im, ARCHIVE_CONVERSATIONS, &schema_conversations, "conversation_id COLLATE \"C\"",
        &im->conversations, ec);
    im->has_conversations = e == ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < im->conversations.nrows; i++) {
        import_row(&schema_conversations, rowset_row(&im->conversations, i), v);
        errctx_clear(&why);
        if (chat_import_check_conversation(v, &why) != ERR_OK)
            e = bad_row(ec, ARCHIVE_CONVERSATIONS, 0, &why);
        /* Strictly ascending: none twice, and import_conversation may look by halving. */
        else if (i > 0 && str_cmp(rowset_row(&im->conversations, i - 1)[0].s, v[CONV_ID].s) >= 0)
            e = damaged(ec, STR(ARCHIVE_CONVERSATIONS), "has a conversation_id twice");
    }
    return e;
}

static enum err check_members(struct kalamdb_import *im, struct errctx *ec)
{
    struct value v[SCHEMA_COLUMNS_MAX];
    struct errctx why;
    enum err e = load_table(im, ARCHIVE_MEMBERS, &schema_conversation_users,
        "conversation_id COLLATE \"C\", user_id COLLATE \"C\"", &im->member_rows, ec);
    im->has_members = e == ERR_OK;
    size_t n = e == ERR_OK ? im->member_rows.nrows : 0;
    if (e == ERR_OK && (im->members = arena_array(&im->arena, n, sizeof *im->members)) == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "import");
    struct str last_conversation = STR(""), last_user = STR("");
    for (size_t i = 0; e == ERR_OK && i < n; i++) {
        import_row(&schema_conversation_users, rowset_row(&im->member_rows, i), v);
        errctx_clear(&why);
        if (chat_import_check_member(v, &why) != ERR_OK)
            return bad_row(ec, ARCHIVE_MEMBERS, 0, &why);
        if (import_conversation(im, v[MEMBER_CONVERSATION_ID].s) == NULL)
            return damaged(ec, STR(ARCHIVE_MEMBERS), "names a conversation that is not in the archive");
        if (str_eq(last_conversation, v[MEMBER_CONVERSATION_ID].s) && str_eq(last_user, v[MEMBER_USER_ID].s))
            return damaged(ec, STR(ARCHIVE_MEMBERS), "has a member twice");
        last_conversation = v[MEMBER_CONVERSATION_ID].s;
        last_user = v[MEMBER_USER_ID].s;
        if (str_eq(last_user, im->manifest.user))
            memcpy(im->members[im->nmembers++], v, sizeof *im->members);
    }
    return e;
}

/* ---- messages ----------------------------------------------------------------------------------------- */

static enum err take_out_messages(struct kalamdb_import *im, struct errctx *ec)
{
    for (size_t i = 0; i < im->nfiles; i++) {
        const struct import_file *f = &im->files[i];
        int fd = -1;
        if (f->kind != ARCHIVE_KIND_MESSAGES)
            continue;
        if (im->nmessage_fds == IMPORT_MESSAGE_FILES_MAX)
            return err_set(ec, ERR_INVALID_REQUEST, "the archive has more than %d files of messages",
                IMPORT_MESSAGE_FILES_MAX);
        enum err e = take_out(im, f, &fd, ec);
        if (e != ERR_OK)
            return e;
        im->message_fds[im->nmessage_fds++] = fd;
        e = check_table(im, f, &schema_messages, fd, ec);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

static enum err check_message(struct kalamdb_import *im, const struct value *v, struct errctx *ec)
{
    const struct chat_limits limits = {.content_bytes_max = im->transfer.db->options.max_content_bytes};
    struct errctx why;
    errctx_clear(&why);
    int64_t id = v[MSG_ID].type == VALUE_BIGINT ? v[MSG_ID].i : 0;
    if (chat_import_check_message(v, im->ids_below, im->manifest.seq, &limits, &why) != ERR_OK)
        return bad_row(ec, "a file of messages", id, &why);
    const struct value *c = import_conversation(im, v[MSG_CONVERSATION_ID].s);
    if (c == NULL) {
        err_set(&why, ERR_INVALID_VALUE, "its conversation is not in " ARCHIVE_CONVERSATIONS);
        return bad_row(ec, "a file of messages", id, &why);
    }
    if (!str_eq(c[1].s, v[MSG_CONVERSATION_TYPE].s)) {
        err_set(&why, ERR_INVALID_VALUE, "its conversation_type is not that of its conversation");
        return bad_row(ec, "a file of messages", id, &why);
    }
    if (value_is_null(v[MSG_CONTENT_REF]))
        return ERR_OK;
    struct str name;
    int64_t number;
    if (!archive_ref_parse(v[MSG_CONTENT_REF].s, &name, &number))
        err_set(&why, ERR_INVALID_VALUE, "content_ref is malformed");
    else if (import_content(im, v[MSG_CONTENT_REF].s) == NULL)
        err_set(&why, ERR_INVALID_VALUE, "the file of its content_ref is missing");
    return why.code == ERR_OK ? ERR_OK : bad_row(ec, "a file of messages", id, &why);
}

/* Every row, in the order of msg_id over all files: equal ids meet here. One that a page's end separates from
 * its twin is not seen again, and missed in the sum. */
static enum err check_messages(struct kalamdb_import *im, struct errctx *ec)
{
    struct import_page page = {.order = "msg_id", .after = INT64_MIN, .rows = PAGE_ROWS};
    struct value v[SCHEMA_COLUMNS_MAX];
    uint64_t seen = 0;
    size_t n = 1;
    while (n > 0) {
        struct rowset rs;
        enum err e = import_next_page(im, &page, &rs, ec);
        if (e != ERR_OK)
            return read_failed(ec, STR("messages"), e);
        e = check_types(&rs, &schema_messages, STR("messages"), ec);
        n = rs.nrows;
        seen += n;
        for (size_t i = 0; e == ERR_OK && i < n; i++) {
            import_row(&schema_messages, rowset_row(&rs, i), v);
            e = check_message(im, v, ec);
            if (e == ERR_OK && v[MSG_ID].i <= page.after)
                e = err_set(
                    ec, ERR_INVALID_REQUEST, "msg_id %lld is in the archive twice", (long long)v[MSG_ID].i);
            if (e == ERR_OK)
                page.after = v[MSG_ID].i;
        }
        rowset_release(&rs);
        if (e != ERR_OK)
            return e;
    }
    return seen == im->manifest.messages
               ? ERR_OK
               : err_set(ec, ERR_INVALID_REQUEST, "the archive has messages without an id of their own");
}

/* That no two rows have one _seq: import_write goes by it. */
static enum err check_numbers(struct kalamdb_import *im, struct errctx *ec)
{
    struct import_page page = {.order = "_seq", .keys_only = true, .after = 0, .rows = PAGE_KEYS};
    uint64_t seen = 0;
    size_t n = 1;
    while (n > 0) {
        struct rowset rs;
        enum err e = import_next_page(im, &page, &rs, ec);
        if (e != ERR_OK)
            return read_failed(ec, STR("messages"), e);
        n = rs.ncolumns == 1 && rs.types[0] == VALUE_BIGINT ? rs.nrows : 0;
        seen += n;
        for (size_t i = 0; e == ERR_OK && i < n; i++) {
            struct value v = *rowset_row(&rs, i);
            if (v.type != VALUE_BIGINT || v.i <= page.after)
                e = err_set(ec, ERR_INVALID_REQUEST, "two messages of the archive have one _seq");
            else
                page.after = v.i;
        }
        rowset_release(&rs);
        if (e != ERR_OK)
            return e;
    }
    return seen == im->manifest.messages
               ? ERR_OK
               : err_set(ec, ERR_INVALID_REQUEST, "two messages of the archive have one _seq");
}

enum err import_verify(struct kalamdb_import *im, struct errctx *ec)
{
    enum err e = read_archive(im, ec);
    if (e == ERR_OK)
        e = store_reserve_ids(im->transfer.db->store, 1, &im->ids_below, ec);
    if (e == ERR_OK)
        e = check_conversations(im, ec);
    if (e == ERR_OK)
        e = check_members(im, ec);
    if (e == ERR_OK)
        e = take_out_messages(im, ec);
    if (e != ERR_OK || im->nmessage_fds == 0)
        return e;
    e = check_messages(im, ec);
    return e == ERR_OK ? check_numbers(im, ec) : e;
}
