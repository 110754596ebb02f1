/* Copies of the ring's newest state, for safekeeping apart from the data: a destroyed key must not live on in
 * one, so there is never a second generation, and what a copy replaces is overwritten. Files that are as they
 * were are left alone. The order is segments, runs, header: a copy that was cut short in a new place is no
 * ring yet, and one of an existing copy has each segment whole, old or new. Where the server made its master
 * key itself a copy of that lies beside them, or nobody could use what is restored; it comes last, and goes
 * when the key is kept elsewhere. */
#include "vault/ring_copy.h"
#include "vault/ring_int.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES_MAX ((size_t)64 << 20) /* `runs` is the largest: 32 bytes per opening */
#define AT_RING_ID 12                     /* in the header: ring_open.c */

struct copy {
    const struct os *os;
    const char *from, *to;
    struct ring *ring;                   /* whose segments change meanwhile; NULL: nobody's */
    const char *from_master, *to_master; /* both NULL: no master key */
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

static bool is_segment(const char *name, const struct ring *of)
{
    uint64_t segment;
    uint32_t wrapping;
    return ring_segment_name(name, &segment, &wrapping) && (of == NULL || wrapping == of->wrapping);
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

/* What stood half-written under the temporary name. */
static enum err tidy(struct copy *c, struct errctx *ec)
{
    int fd = open(c->temp.ptr, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return ERR_OK;
    enum err e = overwrite(c, fd, ec);
    close(fd);
    int failed = c->os->unlink(c->os->ctx, c->temp.ptr);
    return e == ERR_OK && failed != 0 ? ring_io_error(ec, "remove", c->temp.ptr, -failed) : e;
}

/* c->bytes into `to`/name, unless just that is there. */
static enum err put(struct copy *c, const char *name, struct errctx *ec)
{
    enum err e = join(&c->path, c->to, name, "", ec);
    if (e == ERR_OK)
        e = join(&c->temp, c->to, name, ".new", ec);
    if (e == ERR_OK)
        e = tidy(c, ec);
    if (e != ERR_OK)
        return e;
    buf_clear(&c->before);
    e = os_read_file(c->path.ptr, &c->before, ec);
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    bool same = e == ERR_OK && str_eq(buf_view(&c->before), buf_view(&c->bytes));
    errctx_clear(ec);
    c->files++;
    return same ? ERR_OK : place(c, ec);
}

static enum err copy_file(struct copy *c, const char *name, struct errctx *ec)
{
    enum err e = join(&c->path, c->from, name, "", ec);
    buf_clear(&c->bytes);
    /* No slot is half-written, and none half-destroyed, in what is read. */
    if (c->ring != NULL)
        pthread_mutex_lock(&c->ring->lock);
    if (e == ERR_OK)
        e = os_read_file(c->path.ptr, &c->bytes, ec);
    if (c->ring != NULL)
        pthread_mutex_unlock(&c->ring->lock);
    return e == ERR_OK ? put(c, name, ec) : e;
}

static enum err copy_segments(struct copy *c, struct errctx *ec)
{
    DIR *d = opendir(c->from);
    if (d == NULL)
        return err_set(ec, ERR_INVALID_REQUEST, "cannot read %s: %s", c->from, strerror(errno));
    enum err e = ERR_OK;
    for (const struct dirent *entry; e == ERR_OK && (entry = readdir(d)) != NULL;)
        if (is_segment(entry->d_name, c->ring))
            e = copy_file(c, entry->d_name, ec);
    closedir(d);
    return e;
}

/* The file at `path` of the copy is overwritten and removed. */
static enum err drop(struct copy *c, const char *name, struct errctx *ec)
{
    enum err e = join(&c->path, c->to, name, "", ec);
    int fd = e == ERR_OK ? open(c->path.ptr, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return e == ERR_OK && errno != ENOENT ? ring_io_error(ec, "open", c->path.ptr, errno) : e;
    e = overwrite(c, fd, ec);
    close(fd);
    int failed = e == ERR_OK ? c->os->unlink(c->os->ctx, c->path.ptr) : 0;
    return failed == 0 ? e : ring_io_error(ec, "remove", c->path.ptr, -failed);
}

static enum err copy_master(struct copy *c, struct errctx *ec)
{
    if (c->ring != NULL && c->from_master == NULL)
        return drop(c, VAULT_COPY_MASTER, ec);
    if (c->from_master == NULL)
        return ERR_OK;
    buf_clear(&c->bytes);
    enum err e = os_read_file(c->from_master, &c->bytes, ec);
    if (e == ERR_NOT_FOUND && c->ring == NULL) { /* kept elsewhere */
        errctx_clear(ec);
        return ERR_OK;
    }
    if (e != ERR_OK)
        return err_set(ec, ERR_IO, "cannot read %s", c->from_master);
    if (c->to_master == NULL)
        return put(c, VAULT_COPY_MASTER, ec);
    return os_write_file(c->os, c->to_master, buf_view(&c->bytes), 0600, ec);
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
    if (e == ERR_OK)
        e = copy_master(c, ec);
    /* Of wrappings under a master key that was replaced, now that the header is another one. */
    if (e == ERR_OK && c->ring != NULL)
        e = ring_remove_wrappings(c->os, c->to, c->ring->wrapping, ec);
    return e == ERR_OK ? os_fsync_dir(c->os, c->to, ec) : e;
}

static void copy_init(struct copy *c)
{
    c->path = c->temp = BUF_INIT(8192);
    c->bytes = c->before = BUF_INIT(FILE_BYTES_MAX);
}

static void copy_release(struct copy *c)
{
    if (c->bytes.ptr != NULL)
        vault_wipe(c->bytes.ptr, c->bytes.cap);
    if (c->before.ptr != NULL)
        vault_wipe(c->before.ptr, c->before.cap);
    buf_release(&c->path);
    buf_release(&c->temp);
    buf_release(&c->bytes);
    buf_release(&c->before);
}

/* ---- the place ---------------------------------------------------------------------------------------- */

enum err vault_copy_id(const char *dir, uint8_t ret[VAULT_RING_ID_BYTES], struct errctx *ec)
{
    struct buf path = BUF_INIT(8192), header = BUF_INIT(4096);
    enum err e = join(&path, dir, "ring", "", ec);
    if (e == ERR_OK)
        e = os_read_file(path.ptr, &header, ec);
    if (e == ERR_OK && header.len < AT_RING_ID + VAULT_RING_ID_BYTES)
        e = ERR_NOT_FOUND;
    if (e == ERR_OK)
        memcpy(ret, header.ptr + AT_RING_ID, VAULT_RING_ID_BYTES);
    buf_release(&path);
    buf_release(&header);
    return e == ERR_NOT_FOUND ? err_set(ec, e, "there is no copy of a key ring in %s", dir)
           : e == ERR_OK      ? ERR_OK
                              : err_set(ec, e, "cannot read the copy of a key ring in %s", dir);
}

/* But for what a copy that was cut short left. */
static bool is_empty(const char *dir)
{
    DIR *d = opendir(dir);
    bool empty = true;
    for (const struct dirent *entry; d != NULL && (entry = readdir(d)) != NULL;) {
        size_t n = strlen(entry->d_name);
        bool ours = is_segment(entry->d_name, NULL) || strcmp(entry->d_name, "runs") == 0 ||
                    (n > 4 && strcmp(entry->d_name + n - 4, ".new") == 0);
        empty = empty && (entry->d_name[0] == '.' || ours);
    }
    if (d != NULL)
        closedir(d);
    return empty;
}

/* A place that is empty, or holds a copy of this very ring: another's would be lost. */
static enum err check_place(const struct ring *r, const char *dir, struct errctx *ec)
{
    uint8_t id[VAULT_RING_ID_BYTES];
    enum err e = vault_copy_id(dir, id, ec);
    if (e == ERR_OK && memcmp(id, r->id, sizeof id) != 0)
        return err_set(ec, ERR_CONFLICT, "%s holds the key ring of another database", dir);
    if (e != ERR_NOT_FOUND)
        return e;
    if (!is_empty(dir))
        return err_set(ec, ERR_INVALID_REQUEST, "%s is not empty, and no copy of a key ring", dir);
    errctx_clear(ec);
    return ERR_OK;
}

enum err ring_backup_check(struct ring *r, const char *dir, struct errctx *ec)
{
    if (os_mkdirs(dir, ec) != ERR_OK) {
        char why[sizeof ec->internal];
        memcpy(why, ec->internal, sizeof why);
        err_set(ec, ERR_INVALID_REQUEST, "the keys cannot be written to %s", dir);
        err_detail(ec, "%s", why);
        return ec->code;
    }
    enum err e = check_place(r, dir, ec);
    if (e == ERR_OK && chmod(dir, 0700) < 0)
        e = err_set(ec, ERR_INVALID_REQUEST, "the keys cannot be written to %s: %s", dir, strerror(errno));
    return e;
}

enum err ring_backup(
    struct ring *r, const char *dir, const char *master_file, size_t *ret_files, struct errctx *ec)
{
    struct copy c = {.os = r->os, .from = r->dir, .to = dir, .ring = r, .from_master = master_file};
    /* A copy with segments of one wrapping and the header of another would open with no key. */
    pthread_mutex_lock(&r->whole);
    enum err e = r->stuck ? err_set(ec, ERR_UNAVAILABLE, "the rotation of the master key failed: start again")
                          : ring_flush(r, ec);
    if (e == ERR_OK)
        e = ring_backup_check(r, dir, ec);
    if (e == ERR_OK) {
        copy_init(&c);
        pthread_mutex_lock(&r->copying);
        e = run(&c, ec);
        pthread_mutex_unlock(&r->copying);
        copy_release(&c);
        *ret_files = c.files;
    }
    pthread_mutex_unlock(&r->whole);
    return e;
}

static enum err forget_in(struct copy *c, uint64_t owner, const char *name, struct errctx *ec)
{
    size_t at = owner % RING_SEGMENT_SLOTS * RING_SLOT_BYTES;
    uint8_t gone[RING_SLOT_BYTES], zero[RING_SLOT_BYTES] = {0};
    enum err e = join(&c->path, c->to, name, "", ec);
    if (e == ERR_OK)
        e = join(&c->temp, c->to, name, ".new", ec);
    if (e == ERR_OK)
        e = tidy(c, ec);
    buf_clear(&c->bytes);
    if (e == ERR_OK)
        e = os_read_file(c->path.ptr, &c->bytes, ec);
    if (e == ERR_NOT_FOUND || (e == ERR_OK && c->bytes.len < at + RING_SLOT_BYTES)) {
        errctx_clear(ec); /* a key made since */
        return ERR_OK;
    }
    if (e != ERR_OK)
        return err_set(ec, e, "cannot read %s", c->path.ptr);
    ring_slot_destroyed(c->ring, owner, gone);
    char *slot = c->bytes.ptr + at;
    if (memcmp(slot, zero, sizeof zero) != 0)
        memcpy(slot, gone, sizeof gone);
    return put(c, name, ec);
}

/* Whichever wrapping the copy is of, or, cut short, of two; half-written ones included. */
static enum err forget(struct copy *c, uint64_t owner, struct errctx *ec)
{
    DIR *d = opendir(c->to);
    if (d == NULL)
        return err_set(ec, ERR_IO, "cannot read %s: %s", c->to, strerror(errno));
    enum err e = ERR_OK;
    for (const struct dirent *entry; e == ERR_OK && (entry = readdir(d)) != NULL;) {
        char name[NAME_MAX + 1];
        uint64_t segment;
        uint32_t wrapping;
        snprintf(name, sizeof name, "%s", entry->d_name);
        if (str_ends_with(str_c(name), STR(".ring.new")))
            name[strlen(name) - strlen(".new")] = '\0';
        if (ring_segment_name(name, &segment, &wrapping) && segment == owner / RING_SEGMENT_SLOTS)
            e = forget_in(c, owner, name, ec);
    }
    closedir(d);
    return e;
}

enum err ring_copy_forget(struct ring *r, const char *dir, uint64_t owner, struct errctx *ec)
{
    struct copy c = {.os = r->os, .to = dir, .ring = r};
    uint8_t id[VAULT_RING_ID_BYTES];
    enum err e = vault_copy_id(dir, id, ec);
    if (e == ERR_OK && memcmp(id, r->id, sizeof id) != 0)
        e = err_set(ec, ERR_NOT_FOUND, "%s holds the key ring of another database", dir);
    if (e != ERR_OK)
        return e;
    copy_init(&c);
    pthread_mutex_lock(&r->copying);
    e = forget(&c, owner, ec);
    pthread_mutex_unlock(&r->copying);
    copy_release(&c);
    return e;
}

enum err vault_ring_restore(
    const struct os *os, const char *from, const char *to, const char *master_file, struct errctx *ec)
{
    uint8_t id[VAULT_RING_ID_BYTES];
    struct copy c = {.os = os, .from = from, .to = to, .to_master = master_file};
    struct buf path = BUF_INIT(8192);
    enum err e = vault_copy_id(from, id, ec);
    if (e == ERR_NOT_FOUND)
        e = err_set(ec, ERR_INVALID_REQUEST, "there is no copy of a key ring in %s", from);
    if (e == ERR_OK)
        e = join(&path, from, VAULT_COPY_MASTER, "", ec);
    if (e == ERR_OK) {
        copy_init(&c);
        c.from_master = path.ptr;
        e = run(&c, ec);
        copy_release(&c);
    }
    buf_release(&path);
    return e;
}
