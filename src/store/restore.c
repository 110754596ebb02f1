/* A generation becomes a data directory again:
 *
 *   mark ─→ hot tier (RocksDB checks its checksums) ─→ files (hashed as they are written) ─→ the feeds' tag
 *        ─→ everything fsynced ─→ mark removed
 *
 * A directory with the mark is not whole, and store_open refuses it. */
#include "store/backup_int.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct restore {
    const struct os *os;
    const char *dir, *data, *keys; /* keys: where a copy of the ring is to be */
    bool keys_named;
    struct backup_list list;
    struct buf from, to;
};

static enum err check_target(const struct restore *r, struct errctx *ec)
{
    DIR *d = opendir(r->data);
    bool empty = true;
    if (d == NULL)
        return errno == ENOENT ? ERR_OK : backup_io(ec, "cannot read", r->data, errno);
    for (struct dirent *e; empty && (e = readdir(d)) != NULL;)
        empty = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
    closedir(d);
    if (empty)
        return ERR_OK;
    err_set(ec, ERR_INVALID_REQUEST, "%s is not empty", r->data);
    err_hint(ec, "Restore into a new directory; what an interrupted restore left may be removed.");
    return ERR_INVALID_REQUEST;
}

/* The mark, durable, before anything else is there. */
static enum err set_mark(struct restore *r, struct errctx *ec)
{
    enum err err = backup_join(&r->to, r->data, STR(PRIVATE_DIR), ec);
    if (err == ERR_OK && os_mkdirs(r->to.ptr, ec) != ERR_OK)
        err = err_set(ec, ERR_IO, "cannot create %s", r->to.ptr);
    if (err == ERR_OK)
        err = backup_join(&r->to, r->data, STR(PRIVATE_DIR "/" RESTORING_MARK), ec);
    if (err == ERR_OK)
        err = os_write_file(r->os, r->to.ptr, STR("A restore into this directory is under way.\n"), 0600, ec);
    return err == ERR_OK ? os_fsync_dir(r->os, r->data, ec) : err;
}

static enum err clear_mark(struct restore *r, struct errctx *ec)
{
    enum err err = backup_join(&r->to, r->data, STR(PRIVATE_DIR "/" RESTORED_MARK), ec);
    if (err == ERR_OK)
        err = os_write_file(r->os, r->to.ptr, STR("Restored, and not opened since.\n"), 0600, ec);
    if (err == ERR_OK)
        err = backup_join(&r->to, r->data, STR(PRIVATE_DIR "/" RESTORING_MARK), ec);
    int rc = err == ERR_OK ? r->os->unlink(r->os->ctx, r->to.ptr) : 0;
    if (rc < 0)
        err = backup_io(ec, "cannot remove", r->to.ptr, -rc);
    if (err == ERR_OK)
        err = backup_join(&r->to, r->data, STR(PRIVATE_DIR), ec);
    return err == ERR_OK ? os_fsync_dir(r->os, r->to.ptr, ec) : err;
}

/* ---- the hot tier ------------------------------------------------------------------------------------- */

static enum err restore_hot(struct restore *r, struct errctx *ec)
{
    enum err err = backup_join(&r->to, r->data, STR(PRIVATE_DIR "/hot"), ec);
    rocksdb_backup_engine_t *engine = err == ERR_OK ? backup_engine_open(r->dir, ec) : NULL;
    if (engine == NULL)
        return ec->code;
    char *message = NULL;
    rocksdb_restore_options_t *options = rocksdb_restore_options_create();
    rocksdb_backup_engine_restore_db_from_backup(
        engine, r->to.ptr, r->to.ptr, options, r->list.hot, &message);
    rocksdb_restore_options_destroy(options);
    rocksdb_backup_engine_close(engine);
    err = backup_rocks(ec, message, "the hot tier of the backup cannot be restored");
    if (err != ERR_OK)
        err_hint(ec, "The backup is damaged there: restore another generation (kalamdb backup --list DIR).");
    return err;
}

static enum err sync_hot(struct restore *r, struct errctx *ec)
{
    struct buf path = BUF_INIT(0);
    enum err err = backup_join(&r->to, r->data, STR(PRIVATE_DIR "/hot"), ec);
    DIR *d = err == ERR_OK ? opendir(r->to.ptr) : NULL;
    if (err == ERR_OK && d == NULL)
        err = backup_io(ec, "cannot read", r->to.ptr, errno);
    for (struct dirent *e; d != NULL && err == ERR_OK && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.')
            continue;
        err = backup_join(&path, r->to.ptr, str_c(e->d_name), ec);
        int fd = err == ERR_OK ? open(path.ptr, O_RDONLY | O_CLOEXEC) : -1;
        int rc = fd >= 0 ? r->os->fsync(r->os->ctx, fd) : -errno;
        if (fd >= 0)
            close(fd);
        if (err == ERR_OK && rc < 0)
            err = backup_io(ec, "cannot fsync", path.ptr, -rc);
    }
    if (d != NULL)
        closedir(d);
    if (err == ERR_OK)
        err = os_fsync_dir(r->os, r->to.ptr, ec);
    buf_release(&path);
    return err;
}

/* From here on every feed has another name. */
static enum err tag_feeds(struct restore *r, struct errctx *ec)
{
    enum err err = backup_join(&r->to, r->data, STR(PRIVATE_DIR "/hot"), ec);
    if (err != ERR_OK)
        return err;
    uint8_t random[FEED_TAG_BYTES];
    char *message = NULL;
    struct key k = key_prefix(CATALOG_USER_NO, CATALOG_FEED_TAG);
    r->os->random(r->os->ctx, random, sizeof random);
    rocksdb_options_t *options = rocksdb_options_create();
    rocksdb_writeoptions_t *write = rocksdb_writeoptions_create();
    rocksdb_writeoptions_set_sync(write, 1);
    rocksdb_options_set_info_log_level(options, LOG_LEVEL_NONE);
    rocksdb_options_set_prefix_extractor(
        options, rocksdb_slicetransform_create_fixed_prefix(KEY_PREFIX_BYTES));
    rocksdb_t *db = rocksdb_open(options, r->to.ptr, &message);
    err = backup_rocks(ec, message, "the restored hot tier cannot be opened");
    if (err == ERR_OK) {
        rocksdb_put(db, write, k.bytes, k.len, (const char *)random, sizeof random, &message);
        err = backup_rocks(ec, message, "cannot write to the restored hot tier");
        rocksdb_close(db);
    }
    rocksdb_writeoptions_destroy(write);
    rocksdb_options_destroy(options);
    return err;
}

/* ---- files -------------------------------------------------------------------------------------------- */

static enum err file_damaged(const struct restore *r, const struct backup_file *f, struct errctx *ec)
{
    err_set(ec, ERR_CORRUPT, "%s/files/%.2s/%s is damaged", r->dir, f->sha256, f->sha256);
    err_detail(ec, "It holds %.*s.", STR_FMT(f->path));
    err_hint(ec, "Restore another generation (kalamdb backup --list DIR), or bring that file from a copy.");
    return ERR_CORRUPT;
}

static enum err copy(struct restore *r, int in, int out, const struct backup_file *f, struct errctx *ec)
{
    enum { PIECE = 1 << 20 };
    char hash[65] = "";
    char *piece = malloc(PIECE);
    struct os_sha256 *h = os_sha256_begin();
    uint64_t bytes = 0;
    enum err err = piece != NULL && h != NULL ? ERR_OK : err_set(ec, ERR_NO_MEMORY, "out of memory");
    for (int64_t n = 1; err == ERR_OK && n > 0;) {
        n = os_read_all(in, piece, PIECE);
        if (n < 0)
            err = backup_io(ec, "cannot read", r->from.ptr, (int)-n);
        int rc = n > 0 ? os_write_all(out, piece, (size_t)n) : 0;
        if (rc < 0)
            err = backup_io(ec, "cannot write", r->to.ptr, -rc);
        if (n > 0)
            os_sha256_add(h, piece, (size_t)n);
        bytes += n > 0 ? (uint64_t)n : 0;
    }
    if (h != NULL)
        os_sha256_end(h, hash);
    free(piece);
    if (err == ERR_OK && (bytes != f->bytes || strcmp(hash, f->sha256) != 0))
        err = file_damaged(r, f, ec);
    return err;
}

static enum err restore_file(struct restore *r, const struct backup_file *f, struct errctx *ec)
{
    char stored[128];
    int n = snprintf(stored, sizeof stored, "files/%.2s/%s", f->sha256, f->sha256);
    enum err err = backup_join(&r->from, r->dir, str_n(stored, (size_t)n), ec);
    if (err == ERR_OK)
        err = backup_join(&r->to, r->data, f->path, ec);
    if (err != ERR_OK)
        return err;
    int in = open(r->from.ptr, O_RDONLY | O_CLOEXEC);
    if (in < 0)
        return errno == ENOENT ? file_damaged(r, f, ec) : backup_io(ec, "cannot read", r->from.ptr, errno);
    int out = open(r->to.ptr, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    err = out >= 0 ? copy(r, in, out, f, ec) : backup_io(ec, "cannot write", r->to.ptr, errno);
    const struct timespec t = {
        .tv_sec = (time_t)(f->mtime_ns / 1000000000), .tv_nsec = (long)(f->mtime_ns % 1000000000)};
    const struct timespec times[2] = {t, t};
    if (err == ERR_OK && futimens(out, times) < 0) /* the next backup knows it again by that */
        err = backup_io(ec, "cannot date", r->to.ptr, errno);
    int rc = err == ERR_OK ? r->os->fsync(r->os->ctx, out) : 0;
    if (rc < 0)
        err = backup_io(ec, "cannot fsync", r->to.ptr, -rc);
    close(in);
    if (out >= 0)
        close(out);
    return err;
}

static struct str folder_of(struct str path)
{
    size_t n = path.len;
    while (n > 0 && path.ptr[n - 1] != '/')
        n--;
    return str_n(path.ptr, n > 0 ? n - 1 : 0);
}

static enum err sync_folder(struct restore *r, struct str folder, struct errctx *ec)
{
    enum err err = backup_join(&r->to, r->data, folder, ec);
    return err == ERR_OK ? os_fsync_dir(r->os, r->to.ptr, ec) : err;
}

/* Paths are sorted, so a folder's files come together; that a folder's name sorts between another's files is
 * only a second fsync. */
static enum err restore_files(struct restore *r, struct errctx *ec)
{
    struct str folder = STR("");
    enum err err = ERR_OK;
    for (size_t i = 0; err == ERR_OK && i < r->list.nfiles; i++) {
        struct str now = folder_of(r->list.files[i].path);
        if (!str_eq(now, folder)) {
            if (folder.len > 0)
                err = sync_folder(r, folder, ec);
            folder = now;
            if (err == ERR_OK)
                err = backup_join(&r->to, r->data, folder, ec);
            if (err == ERR_OK && os_mkdirs(r->to.ptr, ec) != ERR_OK)
                err = err_set(ec, ERR_IO, "cannot create %s", r->to.ptr);
        }
        if (err == ERR_OK)
            err = restore_file(r, &r->list.files[i], ec);
    }
    if (err == ERR_OK && folder.len > 0)
        err = sync_folder(r, folder, ec);
    static const char *const above[] = {"shared/conversations", "shared"};
    for (int i = 0; err == ERR_OK && i < 2; i++) {
        err = backup_join(&r->to, r->data, str_c(above[i]), ec);
        if (err == ERR_OK && access(r->to.ptr, F_OK) == 0)
            err = os_fsync_dir(r->os, r->to.ptr, ec);
    }
    return err == ERR_OK ? os_fsync_dir(r->os, r->data, ec) : err;
}

/* ---- all together ------------------------------------------------------------------------------------- */

static enum err newest(const char *dir, uint32_t *ret, struct errctx *ec)
{
    uint32_t *all = NULL;
    size_t n = 0;
    enum err err = backup_generations(dir, &all, &n, ec);
    if (err == ERR_OK && n == 0)
        err = err_set(ec, ERR_NOT_FOUND, "there is no backup in %s", dir);
    if (err == ERR_OK)
        *ret = all[n - 1];
    free(all);
    return err;
}

/* Before anything is written: without keys all of it would be noise. */
static enum err check_keys(const struct restore *r, struct errctx *ec)
{
    uint8_t id[VAULT_RING_ID_BYTES];
    if (!r->list.sealed && r->keys_named)
        return err_set(ec, ERR_INVALID_REQUEST, "the backup was made without encryption: it has no keys");
    if (!r->list.sealed)
        return ERR_OK;
    enum err err = vault_copy_id(r->keys, id, ec);
    if (err == ERR_OK && memcmp(id, r->list.ring, sizeof id) == 0)
        return ERR_OK;
    if (err == ERR_OK)
        err_set(ec, ERR_INVALID_REQUEST, "%s holds the key ring of another database", r->keys);
    else if (err == ERR_NOT_FOUND)
        err_set(ec, ERR_INVALID_REQUEST,
            "the backup is encrypted, and there is no copy of its key ring in %s", r->keys);
    else
        return err;
    err_hint(ec,
        "--keys DIR names the folder that kalamdb backup wrote the keys to. Without it nobody can read "
        "the backup.");
    return ec->code;
}

static enum err restore_keys(struct restore *r, struct errctx *ec)
{
    struct buf master = BUF_INIT(0);
    enum err err = backup_join(&r->to, r->data, STR(PRIVATE_DIR "/keys"), ec);
    if (err == ERR_OK)
        err = backup_join(&master, r->data, STR(PRIVATE_DIR "/master.key"), ec);
    if (err == ERR_OK)
        err = vault_ring_restore(r->os, r->keys, r->to.ptr, master.ptr, ec);
    buf_release(&master);
    return err;
}

static enum err run(struct restore *r, uint32_t generation, struct errctx *ec)
{
    enum err err = ERR_OK;
    if (generation == 0)
        err = newest(r->dir, &generation, ec);
    if (err == ERR_OK)
        err = backup_read(r->dir, generation, &r->list, ec);
    if (err == ERR_OK)
        err = check_target(r, ec);
    if (err == ERR_OK)
        err = check_keys(r, ec);
    if (err == ERR_OK)
        err = set_mark(r, ec);
    if (err == ERR_OK)
        err = restore_hot(r, ec);
    if (err == ERR_OK)
        err = restore_files(r, ec);
    if (err == ERR_OK)
        err = tag_feeds(r, ec);
    if (err == ERR_OK)
        err = sync_hot(r, ec);
    if (err == ERR_OK && r->list.sealed)
        err = restore_keys(r, ec);
    return err == ERR_OK ? clear_mark(r, ec) : err;
}

enum err store_restore(const struct os *os, const char *dir, uint32_t generation, const char *data,
    const char *keys, struct backup_report *ret, struct errctx *ec)
{
    char *beside = backup_keys_default(dir);
    struct restore r = {.os = os, .dir = dir, .data = data, .keys = keys != NULL ? keys : beside};
    r.keys_named = keys != NULL;
    backup_list_init(&r.list);
    enum err err = beside != NULL ? run(&r, generation, ec) : err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (err == ERR_OK)
        *ret = (struct backup_report){.generation = r.list.generation,
            .files = r.list.nfiles,
            .bytes = backup_list_bytes(&r.list),
            .sealed = r.list.sealed};
    backup_list_release(&r.list);
    buf_release(&r.from);
    buf_release(&r.to);
    free(beside);
    return err;
}
