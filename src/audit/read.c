#include "audit/chain.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static enum err read_file(
    const char *path, uint64_t after, uint64_t last, int max, struct buf *ret, int *n, struct errctx *ec)
{
    FILE *f = fopen(path, "re");
    char *text = NULL;
    size_t cap = 0;
    ssize_t len;
    struct audit_line l;
    if (f == NULL)
        return err_internal(ec, ERR_IO, "%s: %s", path, strerror(errno));
    while (*n < max && (len = getline(&text, &cap, f)) > 0 && text[len - 1] == '\n') {
        struct str line = str_n(text, (size_t)len - 1);
        if (!audit_line_read(line, &l) || l.n > last)
            break; /* being written, or damaged: `kalamdb audit verify` says which */
        if (l.n <= after)
            continue;
        if (*n > 0)
            buf_u8(ret, ',');
        buf_str(ret, line);
        ++*n;
    }
    free(text);
    fclose(f);
    return ret->failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : ERR_OK;
}

enum err audit_read_dir(
    const char *dir, uint64_t after, uint64_t last, int max, struct buf *ret, int *ret_n, struct errctx *ec)
{
    uint64_t *files = NULL;
    size_t n = 0;
    int got = 0;
    enum err e = audit_files(dir, &files, &n, ec);
    for (size_t i = 0; e == ERR_OK && got < max && i < n; i++) {
        if (i + 1 < n && files[i + 1] <= after + 1)
            continue; /* all of it is before */
        char *path = audit_path(dir, files[i]);
        e = path != NULL ? read_file(path, after, last, max, ret, &got, ec)
                         : err_set(ec, ERR_NO_MEMORY, "out of memory");
        free(path);
    }
    free(files);
    if (e == ERR_OK)
        *ret_n = got;
    return e;
}
