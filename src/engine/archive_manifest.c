#include "engine/archive_manifest.h"
#include "base/json.h"
#include <jansson.h>
#include <stdlib.h>

/* ---- writing ------------------------------------------------------------------------------------------ */

void archive_manifest_file(struct buf *b, const struct archive_file *f)
{
    buf_str(b, STR("{\"path\":"));
    json_str(b, f->path);
    if (f->has_rows)
        buf_printf(b, ",\"rows\":%llu", (unsigned long long)f->rows);
    buf_printf(b, ",\"bytes\":%llu,\"sha256\":\"%s\"}", (unsigned long long)f->bytes, f->sha256);
}

void archive_manifest_write(struct buf *b, const struct archive_manifest *m, struct str files)
{
    buf_printf(b, "{\"format\":\"" ARCHIVE_FORMAT "\",\"version\":%d,\"user\":", ARCHIVE_VERSION);
    json_str(b, m->user);
    buf_printf(b, ",\"seq\":%llu,\"feed\":", (unsigned long long)m->seq);
    json_str(b, m->feed);
    buf_str(b, STR(",\"exportedAt\":"));
    json_str(b, m->exported_at);
    buf_str(b, STR(",\"files\":["));
    buf_str(b, files);
    buf_printf(b, "],\"messages\":%llu,\"conversations\":%llu}\n", (unsigned long long)m->messages,
        (unsigned long long)m->conversations);
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static enum err wrong(struct errctx *ec, const char *field, const char *what)
{
    return err_set(ec, ERR_INVALID_REQUEST, ARCHIVE_MANIFEST ": %s %s", field, what);
}

static enum err get_text(
    const json_t *o, const char *field, size_t max, struct arena *arena, struct str *ret, struct errctx *ec)
{
    const json_t *v = json_object_get(o, field);
    if (!json_is_string(v))
        return wrong(ec, field, "must be a string");
    struct str s = str_n(json_string_value(v), json_string_length(v));
    if (s.len > max)
        return wrong(ec, field, "is too long");
    *ret = arena_str(arena, s);
    return ret->ptr != NULL ? ERR_OK : err_internal(ec, ERR_NO_MEMORY, "manifest of an archive");
}

static enum err get_count(const json_t *o, const char *field, uint64_t *ret, struct errctx *ec)
{
    const json_t *v = json_object_get(o, field);
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return wrong(ec, field, "must be an integer, not negative");
    *ret = (uint64_t)json_integer_value(v);
    return ERR_OK;
}

static bool lower_hex(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (!((s.ptr[i] >= '0' && s.ptr[i] <= '9') || (s.ptr[i] >= 'a' && s.ptr[i] <= 'f')))
            return false;
    }
    return s.len == 64;
}

static enum err get_file(const json_t *o, struct arena *arena, struct archive_file *f, struct errctx *ec)
{
    struct str sha;
    if (!json_is_object(o))
        return wrong(ec, "files", "must hold objects");
    enum err e = get_text(o, "path", ARCHIVE_PATH_MAX, arena, &f->path, ec);
    if (e == ERR_OK)
        e = get_text(o, "sha256", 64, arena, &sha, ec);
    if (e == ERR_OK)
        e = get_count(o, "bytes", &f->bytes, ec);
    if (e != ERR_OK)
        return e;
    f->kind = archive_kind_of(f->path);
    if (f->kind == ARCHIVE_KIND_NONE || f->kind == ARCHIVE_KIND_MANIFEST)
        return wrong(ec, "files", "names a file that does not belong into an archive");
    if (!lower_hex(sha))
        return wrong(ec, "sha256", "must be 64 hexadecimal digits");
    memcpy(f->sha256, sha.ptr, 65);
    f->has_rows = f->kind != ARCHIVE_KIND_CONTENT;
    if (!f->has_rows && json_object_get(o, "rows") != NULL)
        return wrong(ec, "rows", "is for Parquet files");
    return f->has_rows ? get_count(o, "rows", &f->rows, ec) : ERR_OK;
}

static int by_path(const void *a, const void *b)
{
    return str_cmp(*(const struct str *)a, *(const struct str *)b);
}

/* No path twice, both tables there, and the rows of the files add up. */
static enum err check_files(const struct archive_manifest *m, struct arena *arena, struct errctx *ec)
{
    struct str *paths = arena_array(arena, m->nfiles, sizeof *paths);
    uint64_t messages = 0, conversations = 0;
    int tables = 0;
    if (paths == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "manifest of an archive");
    for (size_t i = 0; i < m->nfiles; i++) {
        const struct archive_file *f = &m->files[i];
        paths[i] = f->path;
        tables += f->kind == ARCHIVE_KIND_CONVERSATIONS || f->kind == ARCHIVE_KIND_MEMBERS;
        if (f->kind == ARCHIVE_KIND_CONVERSATIONS)
            conversations = f->rows;
        if (f->kind == ARCHIVE_KIND_MESSAGES && __builtin_add_overflow(messages, f->rows, &messages))
            return wrong(ec, "rows", "is out of range");
    }
    if (m->nfiles > 1)
        qsort(paths, m->nfiles, sizeof *paths, by_path);
    for (size_t i = 1; i < m->nfiles; i++) {
        if (str_eq(paths[i], paths[i - 1]))
            return err_set(ec, ERR_INVALID_REQUEST, ARCHIVE_MANIFEST ": files names %s twice", paths[i].ptr);
    }
    if (tables != 2)
        return wrong(ec, "files", "must name " ARCHIVE_CONVERSATIONS " and " ARCHIVE_MEMBERS);
    if (messages != m->messages)
        return wrong(ec, "messages", "is not the sum of its files' rows");
    if (conversations != m->conversations)
        return wrong(ec, "conversations", "is not the number of rows of " ARCHIVE_CONVERSATIONS);
    return ERR_OK;
}

static enum err get_files(
    const json_t *root, struct arena *arena, struct archive_manifest *m, struct errctx *ec)
{
    const json_t *files = json_object_get(root, "files");
    if (!json_is_array(files))
        return wrong(ec, "files", "must be an array");
    m->nfiles = json_array_size(files);
    if (m->nfiles > ARCHIVE_FILES_MAX)
        return err_set(
            ec, ERR_INVALID_REQUEST, ARCHIVE_MANIFEST ": files has more than %d entries", ARCHIVE_FILES_MAX);
    m->files = arena_array(arena, m->nfiles, sizeof *m->files);
    if (m->files == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "manifest of an archive");
    for (size_t i = 0; i < m->nfiles; i++) {
        enum err e = get_file(json_array_get(files, i), arena, &m->files[i], ec);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

static enum err get_manifest(
    const json_t *root, struct arena *arena, struct archive_manifest *m, struct errctx *ec)
{
    struct str format;
    uint64_t version = 0;
    if (!json_is_object(root))
        return err_set(ec, ERR_INVALID_REQUEST, ARCHIVE_MANIFEST " must be a JSON object");
    enum err e = get_text(root, "format", 64, arena, &format, ec);
    if (e == ERR_OK && !str_eq(format, STR(ARCHIVE_FORMAT)))
        e = wrong(ec, "format", "is not \"" ARCHIVE_FORMAT "\"");
    if (e == ERR_OK)
        e = get_count(root, "version", &version, ec);
    if (e == ERR_OK && version != ARCHIVE_VERSION)
        e = err_set(ec, ERR_INVALID_REQUEST, ARCHIVE_MANIFEST ": version %llu is not known here (%d is)",
            (unsigned long long)version, ARCHIVE_VERSION);
    if (e == ERR_OK)
        e = get_text(root, "user", 255, arena, &m->user, ec);
    if (e == ERR_OK)
        e = get_text(root, "feed", 255, arena, &m->feed, ec);
    if (e == ERR_OK)
        e = get_text(root, "exportedAt", 64, arena, &m->exported_at, ec);
    if (e == ERR_OK)
        e = get_count(root, "seq", &m->seq, ec);
    if (e == ERR_OK)
        e = get_count(root, "messages", &m->messages, ec);
    if (e == ERR_OK)
        e = get_count(root, "conversations", &m->conversations, ec);
    if (e == ERR_OK)
        e = get_files(root, arena, m, ec);
    return e == ERR_OK ? check_files(m, arena, ec) : e;
}

enum err archive_manifest_parse(
    struct str text, struct arena *arena, struct archive_manifest *ret, struct errctx *ec)
{
    json_error_t error;
    struct archive_manifest m = {0};
    if (text.len > ARCHIVE_MANIFEST_BYTES_MAX)
        return err_set(ec, ERR_INVALID_REQUEST, ARCHIVE_MANIFEST " is too large");
    json_t *root = json_loadb(text.ptr != NULL ? text.ptr : "", text.len, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL)
        return err_set(
            ec, ERR_INVALID_REQUEST, ARCHIVE_MANIFEST " is no JSON: line %d: %s", error.line, error.text);
    enum err e = get_manifest(root, arena, &m, ec);
    json_decref(root);
    if (e == ERR_OK)
        *ret = m;
    return e;
}
