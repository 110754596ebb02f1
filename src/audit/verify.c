#include "audit/chain.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct walk {
    const char *path; /* of the file, for messages */
    uint64_t line;    /* in the file */
    uint64_t expect;  /* n of the next line; 0: none was seen */
    uint8_t chain[HASH_BYTES];
    struct str head;
    struct audit_verified *ret;
};

static enum err bad(const struct walk *w, struct errctx *ec, const char *what)
{
    return err_set(ec, ERR_CORRUPT, "%s:%llu: %s", w->path, (unsigned long long)w->line, what);
}

/* One whole line, without its line feed. */
static enum err check_line(struct walk *w, struct str text, uint64_t named, bool first, struct errctx *ec)
{
    struct audit_line l;
    uint8_t hash[HASH_BYTES];
    if (!audit_line_read(text, &l))
        return bad(w, ec, "this is no line of the log");
    if (l.begins != first)
        return bad(w, ec,
            first ? "the first line of a file says no hash that it goes on from"
                  : "a first line in the middle of a file");
    if (first && l.n != named)
        return bad(w, ec, "the file is not the one that its name says");
    if (w->expect == 0) { /* older files may have been put away */
        memcpy(w->chain, l.prev, HASH_BYTES);
        w->ret->first = l.n;
    } else if (l.n != w->expect) {
        char why[128];
        snprintf(why, sizeof why, "line %llu follows line %llu: lines are missing, moved or put in",
            (unsigned long long)l.n, (unsigned long long)(w->expect - 1));
        return bad(w, ec, why);
    } else if (first && memcmp(l.prev, w->chain, HASH_BYTES) != 0) {
        return bad(w, ec, "the file does not go on from the one before");
    }
    audit_line_hash(w->chain, l.body, hash);
    if (memcmp(hash, l.hash, HASH_BYTES) != 0)
        return bad(w, ec, "the line, or one before it, is not what it was");
    memcpy(w->chain, hash, HASH_BYTES);
    w->expect = l.n + 1;
    audit_hex(hash, w->ret->hash);
    w->ret->last = l.n;
    if (w->head.ptr != NULL && str_eq(w->head, str_c(w->ret->hash)))
        w->ret->head_seen = true;
    return ERR_OK;
}

static enum err check_file(struct walk *w, uint64_t first, bool newest, struct errctx *ec)
{
    FILE *f = fopen(w->path, "re");
    char *text = NULL;
    size_t cap = 0;
    ssize_t n;
    enum err e = ERR_OK;
    if (f == NULL)
        return err_set(ec, ERR_IO, "%s: %s", w->path, strerror(errno));
    if (w->expect != 0 && first != w->expect)
        e = err_set(ec, ERR_CORRUPT, "%s: the log before it ends with line %llu: a file is missing or cut",
            w->path, (unsigned long long)(w->expect - 1));
    for (w->line = 1; e == ERR_OK && (n = getline(&text, &cap, f)) > 0; w->line++) {
        bool whole = text[n - 1] == '\n';
        if (whole)
            e = check_line(w, str_n(text, (size_t)n - 1), first, w->line == 1, ec);
        else if (newest)
            w->ret->cut = true;
        else
            e = bad(w, ec, "the line is cut");
    }
    if (e == ERR_OK && ferror(f))
        e = err_set(ec, ERR_IO, "%s: %s", w->path, strerror(errno));
    free(text);
    fclose(f);
    return e;
}

enum err audit_verify(const char *dir, struct str head, struct audit_verified *ret, struct errctx *ec)
{
    uint64_t *files = NULL;
    size_t n = 0;
    *ret = (struct audit_verified){0};
    struct walk w = {.head = head, .ret = ret};
    enum err e = audit_files(dir, &files, &n, ec);
    if (e == ERR_OK && n == 0)
        e = err_set(ec, ERR_NOT_FOUND, "there is no audit log in %s", dir);
    for (size_t i = 0; e == ERR_OK && i < n; i++) {
        char *path = audit_path(dir, files[i]);
        if (path == NULL) {
            e = err_set(ec, ERR_NO_MEMORY, "out of memory");
            break;
        }
        w.path = path;
        e = check_file(&w, files[i], i + 1 == n, ec);
        free(path);
        ret->files++;
    }
    free(files);
    return e;
}
