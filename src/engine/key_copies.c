#include "engine/key_copies.h"
#include "base/log.h"
#include "engine/engine.h"
#include "vault/vault.h"
#include <stdio.h>
#include <stdlib.h>

#define LIST_BYTES_MAX ((size_t)1 << 20)

static enum err list_path(const char *data, char **ret, struct errctx *ec)
{
    return asprintf(ret, "%s/.kalamdb/key_copies", data) < 0
               ? (*ret = NULL, err_set(ec, ERR_NO_MEMORY, "out of memory"))
               : ERR_OK;
}

/* Empty where there is no list. */
static enum err read_list(const char *path, struct buf *ret, struct errctx *ec)
{
    enum err e = os_read_file(path, ret, ec);
    if (e == ERR_NOT_FOUND) {
        errctx_clear(ec);
        return ERR_OK;
    }
    return e == ERR_OK ? e : err_set(ec, ERR_IO, "cannot read %s", path);
}

/* The next line that names a folder; ptr NULL: there is none. */
static struct str next(struct str *rest)
{
    while (rest->len > 0) {
        size_t n = str_find(*rest, '\n'), used = n < rest->len ? n + 1 : n;
        struct str line = str_n(rest->ptr, n);
        *rest = str_n(rest->ptr + used, rest->len - used);
        if (line.len > 0 && line.ptr[0] == '/')
            return line;
    }
    return STR_NULL;
}

static enum err add(const struct os *os, const char *path, struct str dir, struct errctx *ec)
{
    struct buf b = BUF_INIT(LIST_BYTES_MAX);
    size_t n = 0;
    bool known = false;
    enum err e = read_list(path, &b, ec);
    struct str rest = buf_view(&b), line;
    while (e == ERR_OK && (line = next(&rest)).ptr != NULL) {
        known = known || str_eq(line, dir);
        n++;
    }
    if (e == ERR_OK && !known && n >= KEY_COPIES_MAX) {
        e = err_set(ec, ERR_INVALID_REQUEST, "the key ring has %zu copies already", n);
        err_hint(ec, "Remove copies that are not needed, and their lines in %s.", path);
    }
    if (e == ERR_OK && !known) {
        if (b.len > 0 && b.ptr[b.len - 1] != '\n')
            buf_u8(&b, '\n');
        buf_str(&b, dir);
        buf_u8(&b, '\n');
        e = b.failed ? err_set(ec, ERR_NO_MEMORY, "out of memory")
                     : os_write_file(os, path, buf_view(&b), 0600, ec);
    }
    buf_release(&b);
    return e;
}

enum err key_copies_add(const struct os *os, const char *data, const char *dir, struct errctx *ec)
{
    char *path = NULL, *real = realpath(dir, NULL);
    struct str name = str_c(real != NULL ? real : dir);
    if (str_find(name, '\n') < name.len) {
        free(real);
        return err_set(ec, ERR_INVALID_REQUEST, "the folder for keys may have no line feed in its name");
    }
    enum err e = list_path(data, &path, ec);
    if (e == ERR_OK)
        e = add(os, path, name, ec);
    free(path);
    free(real);
    return e;
}

static bool forget_in(struct kalamdb *db, struct str dir, uint64_t user_no, const char *list)
{
    struct errctx ec;
    errctx_clear(&ec);
    char *path = strndup(dir.ptr, dir.len);
    enum err e = path != NULL ? vault_copy_forget(db->vault, path, user_no, &ec)
                              : err_set(&ec, ERR_NO_MEMORY, "out of memory");
    if (e != ERR_OK)
        log_event(LOG_WARN, "key_copy_keeps_erased_key", "s:folder", path != NULL ? path : "", "s:reason",
            ec.internal[0] != '\0' ? ec.internal : ec.message, "s:hint",
            "back up there again; if that copy is gone for good, remove its line", "s:list", list, NULL);
    free(path);
    return e == ERR_OK;
}

bool key_copies_forget(struct kalamdb *db, uint64_t user_no)
{
    struct errctx ec;
    struct buf b = BUF_INIT(LIST_BYTES_MAX);
    char *path = NULL;
    errctx_clear(&ec);
    bool all = list_path(db->options.data_dir, &path, &ec) == ERR_OK && read_list(path, &b, &ec) == ERR_OK;
    if (!all)
        log_event(LOG_WARN, "key_copies_not_read", "s:reason", ec.message, NULL);
    struct str rest = buf_view(&b), line;
    while ((line = next(&rest)).ptr != NULL)
        all = forget_in(db, line, user_no, path) && all;
    buf_release(&b);
    free(path);
    return all;
}
