#include "store/backup.h"
#include "store/backup_int.h"
#include "store/cold.h"
#include "store/orphans.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define MARKER "kalamdb-backup"
#define MARKER_TEXT STR("A KalamDB backup directory: kalamdb backup --list DIR, kalamdb restore --from DIR\n")

struct backup {
    struct store *store;
    const char *dir;
    int lock_fd;
    struct backup_list before; /* the newest generation so far; empty: none */
    struct backup_list list;
    struct backup_report report;
    struct buf from, to, temp;
};

/* ---- the directory ------------------------------------------------------------------------------------ */

enum err backup_join(struct buf *b, const char *a, struct str rest, struct errctx *ec)
{
    buf_clear(b);
    buf_str(b, str_c(a));
    buf_u8(b, '/');
    buf_str(b, rest);
    buf_u8(b, 0);
    return b->failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : ERR_OK;
}

enum err backup_io(struct errctx *ec, const char *what, const char *path, int error)
{
    err_set(ec, ERR_IO, "%s %s: %s", what, path, strerror(error));
    if (error == ENOSPC)
        err_hint(ec, "The disk is full. What was there before is whole.");
    return ERR_IO;
}

static bool is_empty(const char *path)
{
    DIR *d = opendir(path);
    bool empty = d != NULL;
    for (struct dirent *e; d != NULL && empty && (e = readdir(d)) != NULL;)
        empty = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
    if (d != NULL)
        closedir(d);
    return empty;
}

char *backup_nearest(const char *path)
{
    char *copy = strdup(path), *found = NULL;
    while (copy != NULL && (found = realpath(copy, NULL)) == NULL && errno == ENOENT) {
        char *slash = strrchr(copy, '/');
        if (slash == NULL)
            strcpy(copy, ".");
        else
            slash[slash == copy] = '\0';
    }
    free(copy);
    return found;
}

/* Backing up into what is backed up would never end. */
enum err store_backup_check(const struct store *s, const char *dir, struct errctx *ec)
{
    char *to = backup_nearest(dir), *data = realpath(s->cfg.data_dir, NULL);
    enum err err = ERR_OK;
    if (to == NULL || data == NULL)
        err = backup_io(ec, "cannot find", to == NULL ? dir : s->cfg.data_dir, errno);
    size_t n = data != NULL ? strlen(data) : 0;
    if (err == ERR_OK && strncmp(to, data, n) == 0 && (to[n] == '/' || to[n] == '\0'))
        err = err_set(ec, ERR_INVALID_REQUEST, "%s lies in the data directory: choose another disk", dir);
    free(to);
    free(data);
    return err;
}

/* Writing among foreign files would not end well. */
static enum err check_ours(struct backup *b, struct errctx *ec)
{
    enum err err = backup_join(&b->to, b->dir, STR(MARKER), ec);
    if (err != ERR_OK || access(b->to.ptr, F_OK) == 0)
        return err;
    if (!is_empty(b->dir))
        return err_set(ec, ERR_INVALID_REQUEST, "%s is not empty, and no backup directory", b->dir);
    return os_write_file(b->store->os, b->to.ptr, MARKER_TEXT, 0600, ec);
}

static enum err take_lock(struct backup *b, struct errctx *ec)
{
    enum err err = backup_join(&b->to, b->dir, STR("lock"), ec);
    if (err != ERR_OK)
        return err;
    b->lock_fd = open(b->to.ptr, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (b->lock_fd < 0)
        return backup_io(ec, "cannot open", b->to.ptr, errno);
    if (flock(b->lock_fd, LOCK_EX | LOCK_NB) != 0)
        return err_set(ec, ERR_CONFLICT, "another backup is writing to %s", b->dir);
    return ERR_OK;
}

static enum err make_folder(struct backup *b, const char *name, struct errctx *ec)
{
    enum err err = backup_join(&b->to, b->dir, str_c(name), ec);
    if (err == ERR_OK && mkdir(b->to.ptr, 0700) < 0 && errno != EEXIST)
        err = backup_io(ec, "cannot create", b->to.ptr, errno);
    return err;
}

static enum err read_newest(struct backup *b, struct errctx *ec)
{
    uint32_t *all = NULL;
    size_t n = 0;
    enum err err = backup_generations(b->dir, &all, &n, ec);
    /* A damaged one only costs copying again. */
    if (err == ERR_OK && n > 0 && backup_read(b->dir, all[n - 1], &b->before, ec) != ERR_OK) {
        backup_list_release(&b->before);
        backup_list_init(&b->before);
    }
    free(all);
    return err;
}

static enum err make_directory(struct backup *b, struct errctx *ec)
{
    static const char *const folders[] = {"hot", "files", "generations"};
    enum err err = os_mkdirs(b->dir, ec);
    if (err == ERR_OK)
        err = check_ours(b, ec);
    if (err == ERR_OK)
        err = take_lock(b, ec);
    for (int i = 0; err == ERR_OK && i < 3; i++)
        err = make_folder(b, folders[i], ec);
    if (err == ERR_OK) /* each time: an earlier backup may have ended between the two */
        err = os_fsync_dir(b->store->os, b->dir, ec);
    if (err != ERR_IO)
        return err;
    /* The operator named a place where one cannot write: nothing of ours is broken. */
    struct errctx why = *ec;
    err_set(ec, ERR_INVALID_REQUEST, "%s cannot be written to as a backup directory", b->dir);
    err_detail(ec, "%s", why.internal[0] != '\0' ? why.internal : why.message);
    return ec->code;
}

static enum err open_directory(struct backup *b, struct errctx *ec)
{
    enum err err = store_backup_check(b->store, b->dir, ec);
    if (err == ERR_OK)
        err = make_directory(b, ec);
    return err == ERR_OK ? read_newest(b, ec) : err;
}

/* ---- the hot tier ------------------------------------------------------------------------------------- */

rocksdb_backup_engine_t *backup_engine_open(const char *dir, struct errctx *ec)
{
    char *path = NULL, *message = NULL;
    if (asprintf(&path, "%s/hot", dir) < 0) {
        (void)err_set(ec, ERR_NO_MEMORY, "out of memory");
        return NULL;
    }
    rocksdb_backup_engine_options_t *options = rocksdb_backup_engine_options_create(path);
    rocksdb_env_t *env = rocksdb_create_default_env();
    rocksdb_backup_engine_options_set_sync(options, 1);
    rocksdb_backup_engine_options_set_share_table_files(options, 1);
    rocksdb_backup_engine_t *engine = rocksdb_backup_engine_open_opts(options, env, &message);
    rocksdb_backup_engine_options_destroy(options);
    rocksdb_env_destroy(env);
    free(path);
    if (message != NULL) {
        (void)err_set(ec, ERR_IO, "cannot open the backups in %s: %s", dir, message);
        rocksdb_free(message);
        return NULL;
    }
    return engine;
}

enum err backup_rocks(struct errctx *ec, char *message, const char *what)
{
    if (message == NULL)
        return ERR_OK;
    enum err e = strncmp(message, "Corruption", 10) == 0 ? ERR_CORRUPT : ERR_IO;
    (void)err_set(ec, e, "%s: %s", what, message);
    rocksdb_free(message);
    return e;
}

/* What the engine calls the newest of its backups, and how large that is. */
static void newest_hot(rocksdb_backup_engine_t *engine, uint32_t *ret_id, uint64_t *ret_bytes)
{
    const rocksdb_backup_engine_info_t *info = rocksdb_backup_engine_get_backup_info(engine);
    int n = rocksdb_backup_engine_info_count(info);
    *ret_id = n > 0 ? rocksdb_backup_engine_info_backup_id(info, n - 1) : 0;
    *ret_bytes = n > 0 ? rocksdb_backup_engine_info_size(info, n - 1) : 0;
    rocksdb_backup_engine_info_destroy(info);
}

static enum err back_up_hot(struct backup *b, struct errctx *ec)
{
    struct store *s = b->store;
    rocksdb_backup_engine_t *engine = backup_engine_open(b->dir, ec);
    if (engine == NULL)
        return ec->code;
    char *message = NULL;
    pthread_rwlock_rdlock(&s->db_lock);
    bool open = s->db != NULL;
    if (open)
        rocksdb_backup_engine_create_new_backup_flush(engine, s->db, 1, &message);
    pthread_rwlock_unlock(&s->db_lock);
    enum err err = open ? backup_rocks(ec, message, "cannot back up the hot tier")
                        : err_set(ec, ERR_UNAVAILABLE, "the storage is being recovered");
    if (err == ERR_OK)
        newest_hot(engine, &b->list.hot, &b->report.hot_bytes);
    rocksdb_backup_engine_close(engine);
    return err;
}

/* ---- files -------------------------------------------------------------------------------------------- */

/* Copies fd into the temporary, hashing what passes. */
static enum err copy_bytes(struct backup *b, int fd, struct backup_file *f, struct errctx *ec)
{
    enum { PIECE = 1 << 20 };
    char *piece = malloc(PIECE);
    struct os_sha256 *hash = os_sha256_begin();
    int out = open(b->temp.ptr, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    enum err err = piece == NULL || hash == NULL ? err_set(ec, ERR_NO_MEMORY, "out of memory")
                   : out < 0                     ? backup_io(ec, "cannot write", b->temp.ptr, errno)
                                                 : ERR_OK;
    f->bytes = 0;
    for (int64_t n = 1; err == ERR_OK && n > 0;) {
        n = os_read_all(fd, piece, PIECE);
        if (n < 0) {
            err = backup_io(ec, "cannot read", b->from.ptr, (int)-n);
            break;
        }
        int rc = os_write_all(out, piece, (size_t)n);
        if (rc < 0)
            err = backup_io(ec, "cannot write", b->temp.ptr, -rc);
        if (hash != NULL)
            os_sha256_add(hash, piece, (size_t)n);
        f->bytes += (uint64_t)n;
        if (err == ERR_OK)
            err = cold_stopping(b->store, ec);
    }
    if (hash != NULL)
        os_sha256_end(hash, f->sha256);
    int rc = err == ERR_OK ? b->store->os->fsync(b->store->os->ctx, out) : 0;
    if (rc < 0)
        err = backup_io(ec, "cannot fsync", b->temp.ptr, -rc);
    if (out >= 0)
        close(out);
    free(piece);
    return err;
}

static enum err stored_path(struct backup *b, const char *sha256_hex, struct errctx *ec)
{
    buf_clear(&b->to);
    buf_printf(&b->to, "%s/files/%.2s/%s", b->dir, sha256_hex, sha256_hex);
    buf_u8(&b->to, 0);
    return b->to.failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : ERR_OK;
}

static bool stored(struct backup *b, const struct backup_file *f)
{
    struct stat st;
    struct errctx ec;
    return stored_path(b, f->sha256, &ec) == ERR_OK && stat(b->to.ptr, &st) == 0 &&
           (uint64_t)st.st_size == f->bytes;
}

static enum err place(struct backup *b, const struct backup_file *f, struct errctx *ec)
{
    const struct os *os = b->store->os;
    if (stored(b, f)) /* the same content under another name */
        return os->unlink(os->ctx, b->temp.ptr) == 0 ? ERR_OK
                                                     : backup_io(ec, "cannot remove", b->temp.ptr, EIO);
    char folder[16];
    snprintf(folder, sizeof folder, "files/%.2s", f->sha256);
    enum err err = make_folder(b, folder, ec);
    if (err == ERR_OK)
        err = stored_path(b, f->sha256, ec);
    int rc = err == ERR_OK ? os->rename(os->ctx, b->temp.ptr, b->to.ptr) : 0;
    if (rc < 0)
        err = backup_io(ec, "cannot rename to", b->to.ptr, -rc);
    b->report.files_copied++;
    b->report.bytes_copied += f->bytes;
    return err;
}

/* b->from is the file, `path` its name below the data directory. */
static enum err back_up_file(struct backup *b, struct str path, struct errctx *ec)
{
    struct stat st;
    int fd = open(b->from.ptr, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) /* what the pin holds is there; others, never committed, may go */
        return errno == ENOENT ? ERR_OK : backup_io(ec, "cannot read", b->from.ptr, errno);
    enum err err = fstat(fd, &st) == 0 ? ERR_OK : backup_io(ec, "cannot read", b->from.ptr, errno);
    struct backup_file f = {.path = path};
    const struct backup_file *known = backup_list_find(&b->before, path);
    if (err == ERR_OK) {
        f.bytes = (uint64_t)st.st_size;
        f.mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    }
    bool same = err == ERR_OK && known != NULL && known->bytes == f.bytes && known->mtime_ns == f.mtime_ns &&
                stored(b, known);
    if (same) {
        memcpy(f.sha256, known->sha256, sizeof f.sha256);
    } else if (err == ERR_OK && S_ISREG(st.st_mode)) {
        err = copy_bytes(b, fd, &f, ec);
        if (err == ERR_OK)
            err = place(b, &f, ec);
    }
    close(fd);
    return err == ERR_OK && S_ISREG(st.st_mode) ? backup_list_add(&b->list, &f, ec) : err;
}

static enum err each_name(const char *path,
    enum err (*fn)(struct backup *b, struct str folder, struct str name, struct errctx *ec), struct backup *b,
    struct str folder, struct errctx *ec)
{
    DIR *d = opendir(path);
    enum err err = ERR_OK;
    if (d == NULL)
        return errno == ENOENT || errno == ENOTDIR ? ERR_OK : backup_io(ec, "cannot read", path, errno);
    for (struct dirent *e; err == ERR_OK && (errno = 0, e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.')
            err = fn(b, folder, str_c(e->d_name), ec);
    if (err == ERR_OK && errno != 0)
        err = backup_io(ec, "cannot read", path, errno);
    closedir(d);
    return err;
}

static enum err visit_file(struct backup *b, struct str folder, struct str name, struct errctx *ec)
{
    char path[BACKUP_PATH_MAX + 1];
    int n = snprintf(path, sizeof path, "%.*s/%.*s", STR_FMT(folder), STR_FMT(name));
    if (!orphan_name_ours(name) || str_ends_with(name, STR(".tmp")) || n > BACKUP_PATH_MAX)
        return ERR_OK;
    enum err err = backup_join(&b->from, b->store->cfg.data_dir, str_n(path, (size_t)n), ec);
    return err == ERR_OK ? back_up_file(b, str_n(path, (size_t)n), ec) : err;
}

static enum err visit_folder(struct backup *b, struct str parent, struct str name, struct errctx *ec)
{
    char folder[BACKUP_PATH_MAX + 1];
    int n = parent.len > 0 ? snprintf(folder, sizeof folder, "%.*s/%.*s", STR_FMT(parent), STR_FMT(name))
                           : snprintf(folder, sizeof folder, "%.*s", STR_FMT(name));
    if (n > BACKUP_PATH_MAX || (parent.len == 0 && str_eq(name, STR("shared"))))
        return ERR_OK;
    struct buf path = BUF_INIT(0);
    enum err err = backup_join(&path, b->store->cfg.data_dir, str_n(folder, (size_t)n), ec);
    if (err == ERR_OK)
        err = each_name(path.ptr, visit_file, b, str_n(folder, (size_t)n), ec);
    buf_release(&path);
    return err;
}

static enum err back_up_files(struct backup *b, struct errctx *ec)
{
    struct buf path = BUF_INIT(0);
    enum err err = backup_join(&b->temp, b->dir, STR("files/copy.tmp"), ec);
    if (err == ERR_OK)
        err = each_name(b->store->cfg.data_dir, visit_folder, b, STR(""), ec);
    if (err == ERR_OK)
        err = backup_join(&path, b->store->cfg.data_dir, STR(BACKUP_SHARED), ec);
    if (err == ERR_OK)
        err = each_name(path.ptr, visit_folder, b, STR(BACKUP_SHARED), ec);
    buf_release(&path);
    backup_list_sort(&b->list);
    return err;
}

/* ---- the list ----------------------------------------------------------------------------------------- */

/* Renames of this backup are durable before the list names them. */
static enum err sync_files(struct backup *b, struct errctx *ec)
{
    enum err err = backup_join(&b->to, b->dir, STR("files"), ec);
    if (err == ERR_OK)
        err = os_fsync_dir(b->store->os, b->to.ptr, ec);
    for (int i = 0; err == ERR_OK && i < 256; i++) {
        char folder[16];
        int n = snprintf(folder, sizeof folder, "files/%02x", (unsigned)i);
        err = backup_join(&b->to, b->dir, str_n(folder, (size_t)n), ec);
        if (err == ERR_OK && access(b->to.ptr, F_OK) == 0)
            err = os_fsync_dir(b->store->os, b->to.ptr, ec);
    }
    return err;
}

static enum err write_list(struct backup *b, struct errctx *ec)
{
    char name[32];
    struct buf text = BUF_INIT(0);
    b->list.generation = b->report.generation = b->list.hot;
    b->report.files = b->list.nfiles;
    b->report.bytes = backup_list_bytes(&b->list);
    int n = snprintf(name, sizeof name, "generations/%08u", b->list.generation);
    backup_list_encode(&b->list, &text);
    enum err err = text.failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : sync_files(b, ec);
    if (err == ERR_OK)
        err = backup_join(&b->to, b->dir, str_n(name, (size_t)n), ec);
    if (err == ERR_OK)
        err = os_write_file(b->store->os, b->to.ptr, buf_view(&text), 0600, ec);
    buf_release(&text);
    return err;
}

/* ---- all together ------------------------------------------------------------------------------------- */

static enum err make(struct backup *b, int keep, struct errctx *ec)
{
    struct store *s = b->store;
    struct pin pin;
    enum err err = open_directory(b, ec);
    if (err != ERR_OK)
        return err;
    b->list.created_us = os_realtime_us(s->os);
    b->list.sealed = b->report.sealed = s->vault != NULL;
    if (s->vault != NULL)
        vault_ring_id(s->vault, b->list.ring);
    pin_enter(
        &s->pins, &pin); /* before the hot tier's backup: what that names stays until the copies are made */
    err = back_up_hot(b, ec);
    if (err == ERR_OK)
        err = back_up_files(b, ec);
    pin_leave(&s->pins, &pin);
    if (err == ERR_OK)
        err = write_list(b, ec);
    if (err == ERR_OK && keep > 0)
        err = backup_prune(s->os, b->dir, (size_t)keep, &b->report.removed, ec);
    return err;
}

enum err store_backup(
    struct store *s, const char *dir, int keep, struct backup_report *ret, struct errctx *ec)
{
    struct backup b = {.store = s, .dir = dir, .lock_fd = -1};
    backup_list_init(&b.before);
    backup_list_init(&b.list);
    enum err err = make(&b, keep, ec);
    if (err != ERR_OK && ec->internal[0] != '\0' && ec->message[0] != '\0' &&
        strcmp(ec->message, "internal error") == 0) {
        char why[sizeof ec->internal]; /* who asks for a backup can act on it */
        memcpy(why, ec->internal, sizeof why);
        (void)err_set(ec, err, "the backup failed: %s", why);
    }
    if (err == ERR_OK)
        *ret = b.report;
    if (b.lock_fd >= 0)
        close(b.lock_fd);
    backup_list_release(&b.before);
    backup_list_release(&b.list);
    buf_release(&b.from);
    buf_release(&b.to);
    buf_release(&b.temp);
    return err;
}
