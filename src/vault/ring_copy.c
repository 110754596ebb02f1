/* Copies of the ring's newest state, for safekeeping apart from the data: a destroyed key must not live on in
 * one, so there is never a second generation, and what a copy replaces is overwritten. Files that are as they
 * were are left alone. The order is segments, runs, header: a copy that was cut short in a new place is no
 * ring yet, and one of an existing copy has each segment whole, old or new. */
#include "vault/ring_copy.h"
#include "vault/ring_int.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES_MAX ((size_t)64 << 20) /* `runs` is the largest: 32 bytes per opening */
#define AT_RING_ID 12                     /* in the header: ring_open.c */

struct copy {
    const struct os *os;
    const char *from, *to;
    struct ring *ring; /* whose segments change meanwhile; NULL: nobody's */
    struct buf path, temp, bytes, before;
    size_t files;
};

static enum err join(struct buf *b, const char *dir, const char *name, const char *suffix, struct errctx *ec)
{
    buf_clear(b);
    buf_printf(b, "%s/%s%s", dir, name, suffix);
    buf_u8(b, 0);
    return b->failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : ERR_OK;
}

/* 000012.ring */
static bool is_segment(const char *name)
{
    size_t n = strspn(name, "0123456789");
    return n >= 6 && n <= 20 && strcmp(name + n, ".ring") == 0;
}

/* What a file held before goes from the disk with it. */
static enum err overwrite(struct copy *c, int fd, struct errctx *ec)
{
    static const char zero[4096];
    struct stat st;
    int failed = fstat(fd, &st) == 0 ? 0 : -errno;
    for (off_t at = 0; failed == 0 && at < st.st_size; at += (off_t)sizeof zero) {
        size_t n = st.st_size - at < (off_t)sizeof zero ? (size_t)(st.st_size - at) : sizeof zero;
        failed = ring_write_at(fd, zero, n, (uint64_t)at);
    }
    if (failed == 0)
        failed = c->os->fsync(c->os->ctx, fd);
    return failed == 0 ? ERR_OK : ring_io_error(ec, "overwrite", c->path.ptr, -failed);
}

static enum err place(struct copy *c, struct errctx *ec)
{
    int old = open(c->path.ptr, O_RDWR | O_CLOEXEC);
    int fd = open(c->temp.ptr, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int failed = fd < 0 ? -errno : ring_write_at(fd, c->bytes.ptr, c->bytes.len, 0);
    if (failed == 0)
        failed = c->os->fsync(c->os->ctx, fd);
    if (failed == 0)
        failed = c->os->rename(c->os->ctx, c->temp.ptr, c->path.ptr);
    enum err e = failed == 0 ? os_fsync_dir(c->os, c->to, ec)
                             : err_set(ec, ERR_IO, "cannot write %s: %s", c->temp.ptr, strerror(-failed));
    if (e == ERR_OK && old >= 0)
        e = overwrite(c, old, ec);
    if (fd >= 0)
        close(fd);
    if (old >= 0)
        close(old);
    return e;
}

static enum err copy_file(struct copy *c, const char *name, struct errctx *ec)
{
    enum err e = join(&c->path, c->from, name, "", ec);
    buf_clear(&c->bytes);
    buf_clear(&c->before);
    /* No slot is half-written, and none half-destroyed, in what is read. */
    if (c->ring != NULL)
        pthread_mutex_lock(&c->ring->lock);
    if (e == ERR_OK)
        e = os_read_file(c->path.ptr, &c->bytes, ec);
    if (c->ring != NULL)
        pthread_mutex_unlock(&c->ring->lock);
    if (e == ERR_OK)
        e = join(&c->path, c->to, name, "", ec);
    if (e == ERR_OK)
        e = join(&c->temp, c->to, name, ".new", ec);
    if (e != ERR_OK)
        return e;
    e = os_read_file(c->path.ptr, &c->before, ec);
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    bool same = e == ERR_OK && str_eq(buf_view(&c->before), buf_view(&c->bytes));
    errctx_clear(ec);
    c->files++;
    return same ? ERR_OK : place(c, ec);
}

static enum err copy_segments(struct copy *c, struct errctx *ec)
{
    DIR *d = opendir(c->from);
    if (d == NULL)
        return err_set(ec, ERR_INVALID_REQUEST, "cannot read %s: %s", c->from, strerror(errno));
    enum err e = ERR_OK;
    for (const struct dirent *entry; e == ERR_OK && (entry = readdir(d)) != NULL;)
        if (is_segment(entry->d_name))
            e = copy_file(c, entry->d_name, ec);
    closedir(d);
    return e;
}

static enum err run(struct copy *c, struct errctx *ec)
{
    enum err e = os_mkdirs(c->to, ec);
    if (e == ERR_OK)
        e = copy_segments(c, ec);
    if (e == ERR_OK)
        e = copy_file(c, "runs", ec);
    if (e == ERR_OK)
        e = copy_file(c, "ring", ec);
    return e == ERR_OK ? os_fsync_dir(c->os, c->to, ec) : e;
}

static enum err copy_all(const struct os *os, const char *from, const char *to, struct ring *r,
    size_t *ret_files, struct errctx *ec)
{
    struct copy c = {.os = os,
        .from = from,
        .to = to,
        .ring = r,
        .path = BUF_INIT(8192),
        .temp = BUF_INIT(8192),
        .bytes = BUF_INIT(FILE_BYTES_MAX),
        .before = BUF_INIT(FILE_BYTES_MAX)};
    enum err e = run(&c, ec);
    if (c.bytes.ptr != NULL)
        vault_wipe(c.bytes.ptr, c.bytes.len);
    buf_release(&c.path);
    buf_release(&c.temp);
    buf_release(&c.bytes);
    buf_release(&c.before);
    if (e == ERR_OK)
        *ret_files = c.files;
    return e;
}

/* A place that is empty, or holds a copy of this very ring: another's would be lost. */
static enum err check_place(const struct ring *r, const char *dir, struct errctx *ec)
{
    struct buf path = BUF_INIT(8192), header = BUF_INIT(4096);
    DIR *d = opendir(dir);
    bool empty = true;
    for (const struct dirent *entry; d != NULL && (entry = readdir(d)) != NULL;) {
        size_t n = strlen(entry->d_name);
        bool ours = is_segment(entry->d_name) || strcmp(entry->d_name, "runs") == 0 ||
                    (n > 4 && strcmp(entry->d_name + n - 4, ".new") == 0);
        empty = empty && (entry->d_name[0] == '.' || ours);
    }
    if (d != NULL)
        closedir(d);
    enum err e = join(&path, dir, "ring", "", ec);
    if (e == ERR_OK)
        e = os_read_file(path.ptr, &header, ec);
    if (e == ERR_NOT_FOUND) {
        errctx_clear(ec);
        e = empty ? ERR_OK
                  : err_set(ec, ERR_INVALID_REQUEST, "%s is not empty, and no copy of a key ring", dir);
    } else if (e == ERR_OK && (header.len < AT_RING_ID + VAULT_RING_ID_BYTES ||
                                  memcmp(header.ptr + AT_RING_ID, r->id, VAULT_RING_ID_BYTES) != 0)) {
        e = err_set(ec, ERR_CONFLICT, "%s holds the key ring of another database", dir);
    }
    buf_release(&path);
    buf_release(&header);
    return e;
}

enum err ring_backup(struct ring *r, const char *dir, size_t *ret_files, struct errctx *ec)
{
    enum err e = ring_flush(r, ec);
    if (e == ERR_OK)
        e = check_place(r, dir, ec);
    return e == ERR_OK ? copy_all(r->os, r->dir, dir, r, ret_files, ec) : e;
}

enum err vault_ring_restore(const struct os *os, const char *from, const char *to, struct errctx *ec)
{
    struct buf path = BUF_INIT(8192);
    size_t files;
    enum err e = join(&path, from, "ring", "", ec);
    if (e == ERR_OK && access(path.ptr, R_OK) != 0)
        e = err_set(ec, ERR_INVALID_REQUEST, "there is no copy of a key ring in %s", from);
    if (e == ERR_OK)
        e = copy_all(os, from, to, NULL, &files, ec);
    buf_release(&path);
    return e;
}
