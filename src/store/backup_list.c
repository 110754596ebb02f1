/* A generation's list, text:
 *
 *   kalamdb backup 1
 *   created <RFC 3339>
 *   hot <number>
 *   ring <id of the key ring, hex>                  under encryption
 *   file <sha256> <bytes> <mtime in ns> <path>      by path
 *   …
 *   end <number of files> <SHA-256 of everything above> */
#include "base/timefmt.h"
#include "store/backup.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define LIST_BYTES_MAX ((size_t)1 << 30)

void backup_list_init(struct backup_list *l)
{
    *l = (struct backup_list){0};
    arena_init(&l->arena, LIST_BYTES_MAX);
}

void backup_list_release(struct backup_list *l)
{
    free(l->files);
    arena_release(&l->arena);
    *l = (struct backup_list){0};
}

enum err backup_list_add(struct backup_list *l, const struct backup_file *f, struct errctx *ec)
{
    if (l->nfiles == l->cap) {
        size_t cap = l->cap == 0 ? 256 : l->cap * 2;
        struct backup_file *p = realloc(l->files, cap * sizeof *p);
        if (p == NULL)
            return err_set(ec, ERR_NO_MEMORY, "out of memory");
        l->files = p;
        l->cap = cap;
    }
    struct backup_file *to = &l->files[l->nfiles];
    *to = *f;
    to->path = arena_str(&l->arena, f->path);
    if (to->path.ptr == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    l->nfiles++;
    return ERR_OK;
}

static int by_path(const void *a, const void *b)
{
    const struct backup_file *x = a, *y = b;
    return str_cmp(x->path, y->path);
}

void backup_list_sort(struct backup_list *l)
{
    if (l->nfiles > 1)
        qsort(l->files, l->nfiles, sizeof *l->files, by_path);
}

const struct backup_file *backup_list_find(const struct backup_list *l, struct str path)
{
    struct backup_file key = {.path = path};
    return l->nfiles > 0 ? bsearch(&key, l->files, l->nfiles, sizeof *l->files, by_path) : NULL;
}

uint64_t backup_list_bytes(const struct backup_list *l)
{
    uint64_t n = 0;
    for (size_t i = 0; i < l->nfiles; i++)
        n += l->files[i].bytes;
    return n;
}

static void hash_of(struct str text, char ret[65])
{
    uint8_t digest[32];
    sha256(text, digest);
    for (int i = 0; i < 32; i++)
        snprintf(ret + 2 * i, 3, "%02x", digest[i]);
}

void backup_list_encode(const struct backup_list *l, struct buf *b)
{
    char hash[65];
    size_t start = b->len;
    buf_str(b, STR("kalamdb backup 1\ncreated "));
    time_format(b, l->created_us);
    buf_printf(b, "\nhot %u\n", l->hot);
    for (size_t i = 0; l->sealed && i < sizeof l->ring; i++)
        buf_printf(b, i == 0 ? "ring %02x" : "%02x", l->ring[i]);
    if (l->sealed)
        buf_u8(b, '\n');
    for (size_t i = 0; i < l->nfiles; i++) {
        const struct backup_file *f = &l->files[i];
        buf_printf(b, "file %s %llu %lld ", f->sha256, (unsigned long long)f->bytes, (long long)f->mtime_ns);
        buf_str(b, f->path);
        buf_u8(b, '\n');
    }
    if (b->failed)
        return;
    hash_of(str_n(b->ptr + start, b->len - start), hash);
    buf_printf(b, "end %zu %s\n", l->nfiles, hash);
}

/* ---- reading ---- */

static enum err damaged(struct errctx *ec)
{
    return err_set(ec, ERR_CORRUPT, "the list of the backup is damaged");
}

/* Cuts up to the separator off the front of *rest. */
static struct str take(struct str *rest, char separator)
{
    size_t n = str_find(*rest, separator);
    struct str part = str_n(rest->ptr, n);
    size_t used = n < rest->len ? n + 1 : n;
    *rest = str_n(rest->ptr + used, rest->len - used);
    return part;
}

static bool hex64(struct str s)
{
    for (size_t i = 0; i < s.len; i++)
        if (!(s.ptr[i] >= '0' && s.ptr[i] <= '9') && !(s.ptr[i] >= 'a' && s.ptr[i] <= 'f'))
            return false;
    return s.len == 64;
}

/* Folders and names as the store makes them: no way out, nothing private, nothing hidden. */
static bool path_ok(struct str path)
{
    if (path.len == 0 || path.len > BACKUP_PATH_MAX)
        return false;
    for (struct str rest = path; rest.len > 0;) {
        struct str part = take(&rest, '/');
        if (part.len == 0 || part.ptr[0] == '.')
            return false;
    }
    for (size_t i = 0; i < path.len; i++) {
        char c = path.ptr[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!plain && memchr("_-%~./", c, 6) == NULL)
            return false;
    }
    return path.ptr[path.len - 1] != '/' && str_find(path, '/') < path.len;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool decode_ring(struct backup_list *l, struct str hex)
{
    bool good = hex.len == 2 * sizeof l->ring;
    for (size_t i = 0; good && i < sizeof l->ring; i++) {
        int high = hex_digit(hex.ptr[2 * i]), low = hex_digit(hex.ptr[2 * i + 1]);
        good = high >= 0 && low >= 0;
        l->ring[i] = (uint8_t)((unsigned)high << 4 | (unsigned)low);
    }
    l->sealed = true;
    return good;
}

static enum err decode_file(struct backup_list *l, struct str line, struct errctx *ec)
{
    struct backup_file f;
    int64_t bytes;
    struct str hash = take(&line, ' '), size = take(&line, ' '), mtime = take(&line, ' ');
    if (!hex64(hash) || !str_to_i64(size, &bytes) || bytes < 0 || !str_to_i64(mtime, &f.mtime_ns) ||
        !path_ok(line))
        return damaged(ec);
    memcpy(f.sha256, hash.ptr, 64);
    f.sha256[64] = '\0';
    f.bytes = (uint64_t)bytes;
    f.path = line;
    if (l->nfiles > 0 && str_cmp(l->files[l->nfiles - 1].path, line) >= 0)
        return damaged(ec);
    return backup_list_add(l, &f, ec);
}

static enum err decode_end(const struct backup_list *l, struct str above, struct str line, struct errctx *ec)
{
    char hash[65];
    int64_t n;
    hash_of(above, hash);
    struct str count = take(&line, ' ');
    bool ok = str_to_i64(count, &n) && n == (int64_t)l->nfiles && str_eq(line, str_n(hash, 64));
    return ok ? ERR_OK : damaged(ec);
}

/* "word rest": the rest; ptr NULL: another line. */
static struct str line_of(struct str *text, struct str word)
{
    struct str line = take(text, '\n');
    return str_eq(take(&line, ' '), word) ? line : STR_NULL;
}

enum err backup_list_decode(struct str text, struct backup_list *l, struct errctx *ec)
{
    struct str rest = text;
    int64_t hot;
    if (text.len == 0 || !str_eq(take(&rest, '\n'), STR("kalamdb backup 1")) ||
        !time_parse(line_of(&rest, STR("created")), &l->created_us) ||
        !str_to_i64(line_of(&rest, STR("hot")), &hot) || hot <= 0 || hot > UINT32_MAX)
        return damaged(ec);
    l->hot = (uint32_t)hot;
    struct str after = rest, ring = line_of(&after, STR("ring"));
    if (ring.ptr != NULL) {
        if (!decode_ring(l, ring))
            return damaged(ec);
        rest = after;
    }
    while (rest.len > 0) {
        struct str above = str_n(text.ptr, (size_t)(rest.ptr - text.ptr));
        struct str line = take(&rest, '\n'), word = take(&line, ' ');
        if (!str_eq(word, STR("file")))
            return str_eq(word, STR("end")) && rest.len == 0 ? decode_end(l, above, line, ec) : damaged(ec);
        enum err err = decode_file(l, line, ec);
        if (err != ERR_OK)
            return err;
    }
    return damaged(ec);
}

/* ---- the directory ---- */

char *backup_keys_default(const char *dir)
{
    char *path;
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    return asprintf(&path, "%.*s.keys", (int)n, dir) < 0 ? NULL : path;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

enum err backup_generations(const char *dir, uint32_t **ret, size_t *ret_n, struct errctx *ec)
{
    char *path = NULL;
    uint32_t *all = NULL;
    size_t n = 0, cap = 0;
    int64_t number;
    if (asprintf(&path, "%s/generations", dir) < 0)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    DIR *d = opendir(path);
    enum err err = ERR_OK;
    if (d == NULL)
        err = err_set(ec, errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO,
            errno == ENOENT ? "%s is no backup directory" : "cannot read the backups in %s", dir);
    for (struct dirent *e; d != NULL && err == ERR_OK && (e = readdir(d)) != NULL;) {
        struct str name = str_c(e->d_name);
        if (name.len != 8 || !str_to_i64(name, &number) || number <= 0)
            continue; /* a list that was being written */
        if (n == cap) {
            cap = cap == 0 ? 16 : cap * 2;
            uint32_t *p = realloc(all, cap * sizeof *p);
            if (p == NULL)
                err = err_set(ec, ERR_NO_MEMORY, "out of memory");
            else
                all = p;
        }
        if (err == ERR_OK)
            all[n++] = (uint32_t)number;
    }
    if (d != NULL)
        closedir(d);
    free(path);
    if (err != ERR_OK) {
        free(all);
        return err;
    }
    if (n > 1)
        qsort(all, n, sizeof *all, by_number);
    *ret = all;
    *ret_n = n;
    return ERR_OK;
}

enum err backup_read(const char *dir, uint32_t generation, struct backup_list *ret, struct errctx *ec)
{
    char *path = NULL;
    struct buf text = BUF_INIT(LIST_BYTES_MAX);
    if (asprintf(&path, "%s/generations/%08u", dir, generation) < 0)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    enum err err = os_read_file(path, &text, ec);
    if (err == ERR_NOT_FOUND)
        err = err_set(ec, err, "there is no backup %u in %s", generation, dir);
    else if (err != ERR_OK)
        err = err_set(ec, err, "cannot read %s", path);
    if (err == ERR_OK)
        err = backup_list_decode(buf_view(&text), ret, ec);
    if (err == ERR_CORRUPT)
        err = err_set(ec, err, "%s is damaged", path);
    ret->generation = generation;
    buf_release(&text);
    free(path);
    return err;
}
