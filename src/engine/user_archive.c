#include "engine/user_archive.h"
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <unistd.h>

#define READ_BYTES ((size_t)256 << 10)
#define TAR_BLOCK 512
#define TAR_END_BYTES 1024 /* POSIX: at least two blocks of zeros */
#define END_CHUNK_BYTES 16384

static const char *reason(struct archive *a)
{
    const char *text = archive_error_string(a);
    return text != NULL ? text : "unknown";
}

/* ---- names -------------------------------------------------------------------------------------------- */

static bool digits(struct str s, size_t min, size_t max)
{
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9')
            return false;
    }
    return s.len >= min && s.len <= max;
}

static bool hex_upper(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F');
}

/* As store_folder_name makes them. */
static bool is_folder(struct str s)
{
    if (s.len == 0 || s.len > 255)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                     c == '-' || c == '~';
        if (c == '%' && i + 2 < s.len && hex_upper(s.ptr[i + 1]) && hex_upper(s.ptr[i + 2]))
            i += 2;
        else if (!plain)
            return false;
    }
    return true;
}

static bool is_extension(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        bool plain = (s.ptr[i] >= 'a' && s.ptr[i] <= 'z') || (s.ptr[i] >= '0' && s.ptr[i] <= '9');
        if (!plain)
            return false;
    }
    return s.len >= 1 && s.len <= 8;
}

static struct str rest_of(struct str s, size_t from)
{
    return from < s.len ? str_n(s.ptr + from, s.len - from) : STR("");
}

bool archive_ref_parse(struct str ref, struct str *ret_name, int64_t *ret_id)
{
    static const struct str shared = {"shared/conversations/", 21};
    if (str_starts_with(ref, shared))
        ref = rest_of(ref, shared.len);
    size_t slash = str_find(ref, '/');
    struct str name = rest_of(ref, slash + 1);
    bool text = str_starts_with(name, STR("msg-")), media = str_starts_with(name, STR("media-"));
    if (!is_folder(str_n(ref.ptr, slash)) || (!text && !media))
        return false;
    struct str tail = rest_of(name, text ? 4 : 6);
    size_t dot = str_find(tail, '.');
    struct str number = str_n(tail.ptr, dot), extension = rest_of(tail, dot + 1);
    if (!digits(number, 1, 16) || !str_to_i64(number, ret_id) || *ret_id <= 0 ||
        (text ? !str_eq(extension, STR("bin")) : !is_extension(extension)))
        return false;
    *ret_name = name;
    return true;
}

enum archive_kind archive_kind_of(struct str path)
{
    struct str name;
    int64_t id;
    if (path.len > ARCHIVE_PATH_MAX)
        return ARCHIVE_KIND_NONE;
    if (str_eq(path, STR(ARCHIVE_MANIFEST)))
        return ARCHIVE_KIND_MANIFEST;
    if (str_eq(path, STR(ARCHIVE_CONVERSATIONS)))
        return ARCHIVE_KIND_CONVERSATIONS;
    if (str_eq(path, STR(ARCHIVE_MEMBERS)))
        return ARCHIVE_KIND_MEMBERS;
    if (str_starts_with(path, STR("content/")))
        return archive_ref_parse(rest_of(path, 8), &name, &id) ? ARCHIVE_KIND_CONTENT : ARCHIVE_KIND_NONE;
    if (!str_starts_with(path, STR("messages/")) || !str_ends_with(path, STR(".parquet")) ||
        !digits(str_n(path.ptr + 9, path.len > 17 ? path.len - 17 : 0), 3, 6))
        return ARCHIVE_KIND_NONE;
    return ARCHIVE_KIND_MESSAGES;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

struct archive_writer {
    struct archive *tar;
    struct buf *out;
};

static la_ssize_t take(struct archive *a, void *arg, const void *bytes, size_t n)
{
    struct archive_writer *w = arg;
    buf_append(w->out, bytes, n);
    if (!w->out->failed)
        return (la_ssize_t)n;
    archive_set_error(a, ENOMEM, "out of memory");
    return -1;
}

static enum err write_failed(struct archive_writer *w, const char *what, struct errctx *ec)
{
    return err_internal(ec, ERR_INTERNAL, "archive: %s: %s", what, reason(w->tar));
}

enum err archive_writer_open(struct buf *out, struct archive_writer **ret, struct errctx *ec)
{
    struct archive_writer *w = calloc(1, sizeof *w);
    if (w == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "archive");
    w->out = out;
    w->tar = archive_write_new();
    if (w->tar == NULL || archive_write_set_format_pax_restricted(w->tar) != ARCHIVE_OK ||
        archive_write_add_filter_none(w->tar) != ARCHIVE_OK ||
        archive_write_set_bytes_per_block(w->tar, 0) != ARCHIVE_OK ||
        archive_write_open(w->tar, w, NULL, take, NULL) != ARCHIVE_OK) {
        enum err e =
            w->tar == NULL ? err_internal(ec, ERR_NO_MEMORY, "archive") : write_failed(w, "open", ec);
        archive_writer_free(w);
        return e;
    }
    *ret = w;
    return ERR_OK;
}

enum err archive_writer_begin(
    struct archive_writer *w, struct str path, uint64_t bytes, int64_t mtime_s, struct errctx *ec)
{
    char name[ARCHIVE_PATH_MAX + 1];
    if (path.len > ARCHIVE_PATH_MAX)
        return err_internal(ec, ERR_INTERNAL, "archive: a path of %zu bytes", path.len);
    memcpy(name, path.ptr, path.len);
    name[path.len] = '\0';
    struct archive_entry *entry = archive_entry_new();
    if (entry == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "archive");
    archive_entry_set_pathname(entry, name);
    archive_entry_set_size(entry, (la_int64_t)bytes);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_mtime(entry, mtime_s, 0);
    int r = archive_write_header(w->tar, entry);
    archive_entry_free(entry);
    return r == ARCHIVE_OK ? ERR_OK : write_failed(w, name, ec);
}

enum err archive_writer_data(struct archive_writer *w, struct str bytes, struct errctx *ec)
{
    if (bytes.len == 0)
        return ERR_OK;
    la_ssize_t n = archive_write_data(w->tar, bytes.ptr, bytes.len);
    return n >= 0 && (size_t)n == bytes.len ? ERR_OK : write_failed(w, "data", ec);
}

enum err archive_writer_end(struct archive_writer *w, struct errctx *ec)
{
    return archive_write_finish_entry(w->tar) == ARCHIVE_OK ? ERR_OK : write_failed(w, "end of a file", ec);
}

enum err archive_writer_finish(struct archive_writer *w, struct errctx *ec)
{
    return archive_write_close(w->tar) == ARCHIVE_OK ? ERR_OK : write_failed(w, "end", ec);
}

void archive_writer_free(struct archive_writer *w)
{
    if (w == NULL)
        return;
    /* Fails where the last file is not whole, which is why it is let go. */
    if (w->tar != NULL)
        (void)archive_write_free(w->tar);
    free(w);
}

/* ---- reading ------------------------------------------------------------------------------------------ */

struct archive_reader {
    struct archive *tar;
    struct archive_entry *entry; /* read ahead; borrowed from tar; NULL: at the end */
    uint64_t entry_at;           /* where its header begins */
    EVP_MD_CTX *md;
    const struct archive_source *source;
    char *block;           /* what libarchive reads from; READ_BYTES */
    uint64_t at;           /* read so far */
    struct errctx failure; /* of the source: code ERR_OK: none */
    bool first;
};

/* libarchive's read callback. */
static la_ssize_t read_block(struct archive *tar, void *arg, const void **ret)
{
    struct archive_reader *r = arg;
    size_t n;
    if (r->source->read(r->source->arg, r->block, READ_BYTES, r->at, &n, &r->failure) != ERR_OK) {
        archive_set_error(tar, EIO, "read");
        return -1;
    }
    r->at += n;
    *ret = r->block;
    return (la_ssize_t)n;
}

/* What libarchive found wrong, unless it was the reading itself. */
static enum err read_failed(const struct archive_reader *r, struct errctx *ec, const char *what)
{
    if (r->failure.code != ERR_OK) {
        *ec = r->failure;
        return ec->code;
    }
    return err_set(ec, ERR_INVALID_REQUEST, "the archive is %s: %s", what, reason(r->tar));
}

enum err archive_reader_open(
    const struct archive_source *source, struct archive_reader **ret, struct errctx *ec)
{
    struct archive_reader *r = calloc(1, sizeof *r);
    if (r == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "archive");
    r->first = true;
    r->source = source;
    r->block = malloc(READ_BYTES);
    r->tar = archive_read_new();
    r->md = EVP_MD_CTX_new();
    enum err e = ERR_OK;
    if (r->tar == NULL || r->md == NULL || r->block == NULL)
        e = err_internal(ec, ERR_NO_MEMORY, "archive");
    /* Tar and nothing else: no filters, so that no byte of the file stands for more than itself. */
    else if (archive_read_support_format_tar(r->tar) != ARCHIVE_OK ||
             archive_read_support_filter_none(r->tar) != ARCHIVE_OK ||
             archive_read_open(r->tar, r, NULL, read_block, NULL) != ARCHIVE_OK)
        e = read_failed(r, ec, "no tar");
    if (e != ERR_OK) {
        archive_reader_free(r);
        return e;
    }
    *ret = r;
    return ERR_OK;
}

void archive_reader_free(struct archive_reader *r)
{
    if (r == NULL)
        return;
    if (r->tar != NULL)
        (void)archive_read_free(r->tar);
    EVP_MD_CTX_free(r->md);
    if (r->block != NULL)
        explicit_bzero(r->block, READ_BYTES);
    free(r->block);
    free(r);
}

/* Reads one header ahead: where the next one begins tells where this one's bytes end. */
static enum err advance(struct archive_reader *r, struct errctx *ec)
{
    r->entry = NULL;
    int got = archive_read_next_header(r->tar, &r->entry);
    r->entry_at = (uint64_t)archive_read_header_position(r->tar);
    if (got == ARCHIVE_EOF)
        r->entry = NULL;
    else if (got != ARCHIVE_OK)
        return read_failed(r, ec, "damaged");
    return ERR_OK;
}

/* Only ASCII is ever wanted of a name, whatever the locale makes of the rest. */
static enum err check_entry(struct archive_reader *r, struct archive_member *m, struct errctx *ec)
{
    const char *name = archive_entry_pathname(r->entry);
    struct str path = str_c(name != NULL ? name : "");
    m->kind = archive_kind_of(path);
    if (m->kind == ARCHIVE_KIND_NONE) {
        err_set(ec, ERR_INVALID_REQUEST, "the archive holds a file that does not belong there");
        if (utf8_valid(path))
            err_detail(ec, "\"%.*s\"", (int)utf8_cut(path, 200), path.ptr);
        return ec->code;
    }
    memcpy(m->path, path.ptr, path.len);
    m->path[path.len] = '\0';
    if (archive_entry_filetype(r->entry) != AE_IFREG || archive_entry_hardlink(r->entry) != NULL ||
        archive_entry_symlink(r->entry) != NULL)
        return err_set(ec, ERR_INVALID_REQUEST, "%s in the archive is no regular file", m->path);
    if (!archive_entry_size_is_set(r->entry) || archive_entry_size(r->entry) < 0 ||
        archive_entry_sparse_count(r->entry) > 0)
        return err_set(ec, ERR_INVALID_REQUEST, "%s in the archive has no plain size", m->path);
    m->bytes = (uint64_t)archive_entry_size(r->entry);
    return ERR_OK;
}

static void put_hex(const uint8_t digest[32], char ret[65])
{
    for (size_t i = 0; i < 32; i++) {
        ret[2 * i] = "0123456789abcdef"[digest[i] >> 4];
        ret[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }
    ret[64] = '\0';
}

static enum err read_data(struct archive_reader *r, struct archive_member *m, struct buf *manifest,
    enum err (*alive)(void *arg, struct errctx *ec), void *arg, struct errctx *ec)
{
    const void *block;
    size_t n;
    la_int64_t at;
    uint64_t total = 0;
    int got;
    if (EVP_DigestInit_ex(r->md, EVP_sha256(), NULL) != 1)
        return err_internal(ec, ERR_INTERNAL, "sha256");
    while ((got = archive_read_data_block(r->tar, &block, &n, &at)) == ARCHIVE_OK) {
        enum err e = alive(arg, ec);
        if (e != ERR_OK)
            return e;
        if ((uint64_t)at != total)
            return err_set(ec, ERR_INVALID_REQUEST, "%s in the archive has holes", m->path);
        total += n;
        if (EVP_DigestUpdate(r->md, block, n) != 1)
            return err_internal(ec, ERR_INTERNAL, "sha256");
        if (m->kind == ARCHIVE_KIND_MANIFEST)
            buf_append(manifest, block, n);
        if (manifest->failed)
            return err_set(ec, ERR_INVALID_REQUEST, ARCHIVE_MANIFEST " in the archive is too large");
    }
    if (r->failure.code != ERR_OK)
        return read_failed(r, ec, "damaged");
    if (got != ARCHIVE_EOF || total != m->bytes)
        return err_set(ec, ERR_INVALID_REQUEST, "%s in the archive is cut off", m->path);
    uint8_t digest[32];
    if (EVP_DigestFinal_ex(r->md, digest, NULL) != 1)
        return err_internal(ec, ERR_INTERNAL, "sha256");
    put_hex(digest, m->sha256);
    return ERR_OK;
}

/* What follows the last file: two blocks of zeros or more, and nothing else. tar would not look, but an
 * archive that was cut off, or is two in one, is not what its sender believes. */
static enum err check_end(
    struct archive_reader *r, enum err (*alive)(void *arg, struct errctx *ec), void *arg, struct errctx *ec)
{
    static const char zeros[END_CHUNK_BYTES];
    char chunk[END_CHUNK_BYTES];
    uint64_t at = r->entry_at;
    for (;;) {
        size_t n = 0;
        enum err e = alive(arg, ec);
        if (e == ERR_OK)
            e = r->source->read(r->source->arg, chunk, sizeof chunk, at, &n, ec);
        if (e != ERR_OK)
            return e;
        if (n == 0)
            break;
        if (memcmp(chunk, zeros, n) != 0)
            return err_set(ec, ERR_INVALID_REQUEST, "something follows the end of the archive");
        at += n;
    }
    if (at - r->entry_at < TAR_END_BYTES || at % TAR_BLOCK != 0)
        return err_set(ec, ERR_INVALID_REQUEST, "the end of the archive is cut off");
    return ERR_OK;
}

enum err archive_reader_next(struct archive_reader *r, struct archive_member *ret, struct buf *manifest,
    enum err (*alive)(void *arg, struct errctx *ec), void *arg, struct errctx *ec)
{
    struct archive_member m = {0};
    enum err e = r->first ? advance(r, ec) : ERR_OK;
    r->first = false;
    if (e == ERR_OK && r->entry == NULL && (e = check_end(r, alive, arg, ec)) == ERR_OK)
        e = err_set(ec, ERR_NOT_FOUND, "the end of the archive");
    if (e == ERR_OK)
        e = check_entry(r, &m, ec);
    if (e == ERR_OK)
        e = read_data(r, &m, manifest, alive, arg, ec);
    if (e == ERR_OK)
        e = advance(r, ec);
    if (e != ERR_OK)
        return e;
    uint64_t padded = (m.bytes + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
    m.offset = r->entry_at >= padded ? r->entry_at - padded : 0;
    *ret = m;
    return ERR_OK;
}

typedef enum err sink_fn(void *arg, struct str bytes, struct errctx *ec);

static enum err read_hashed(const struct archive_source *source, const struct archive_member *m,
    sink_fn *sink, void *arg, EVP_MD_CTX *md, char *chunk, struct errctx *ec)
{
    for (uint64_t done = 0; done < m->bytes;) {
        size_t want = m->bytes - done < READ_BYTES ? (size_t)(m->bytes - done) : READ_BYTES;
        size_t n = 0;
        enum err e = source->read(source->arg, chunk, want, m->offset + done, &n, ec);
        if (e == ERR_OK && n == 0)
            e = err_internal(ec, ERR_IO, "archive: short");
        if (e == ERR_OK)
            e = sink(arg, str_n(chunk, n), ec);
        if (e != ERR_OK)
            return e;
        if (EVP_DigestUpdate(md, chunk, n) != 1)
            return err_internal(ec, ERR_INTERNAL, "sha256");
        done += n;
    }
    return ERR_OK;
}

enum err archive_member_read(const struct archive_source *source, const struct archive_member *m,
    sink_fn *sink, void *arg, struct errctx *ec)
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    char *chunk = malloc(READ_BYTES), hex[65];
    uint8_t digest[32];
    enum err e = ERR_OK;
    if (md == NULL || chunk == NULL || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1)
        e = err_internal(ec, ERR_NO_MEMORY, "archive");
    if (e == ERR_OK)
        e = read_hashed(source, m, sink, arg, md, chunk, ec);
    if (e == ERR_OK && EVP_DigestFinal_ex(md, digest, NULL) != 1)
        e = err_internal(ec, ERR_INTERNAL, "sha256");
    if (e == ERR_OK) {
        put_hex(digest, hex);
        if (memcmp(hex, m->sha256, 64) != 0)
            e = err_internal(ec, ERR_CORRUPT, "archive: %s read differently a second time", m->path);
    }
    EVP_MD_CTX_free(md);
    free(chunk);
    return e;
}
