/* Files on their way to becoming blobs. Whoever is at work on one is listed in store.files, under the name of
 * the temporary and, from before the rename on, under the content_ref too, so that the sweeper leaves both
 * alone until the commit has told what became of it. Where files are sealed, a temporary is so from its first
 * byte on. */
#include "media/media.h"
#include "store/blob_read.h"
#include "store/internal.h"
#include "vault/sealed_file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES_MAX 8192
#define PLACE_ATTEMPTS 5 /* the sweeper may take an empty folder away under us */

struct blob_file {
    struct store *store;
    struct blob_file *prev, *next; /* store.files.lock */
    int fd;
    struct sealed_writer *seal;  /* NULL: finished, or files are not sealed */
    uint8_t key[BLOB_KEY_BYTES]; /* wiped in the end */
    struct os_sha256 *hash;      /* of the plain bytes, as are all numbers here */
    uint64_t bytes;
    char name[40];        /* of the temporary */
    struct buf path, ref; /* where it is now; ref is empty before it is placed, and guarded by the lock */
    bool on_disk;
    struct blob info;
    const char *extension;
    bool is_media;
    uint32_t width, height;
    size_t head_len;
    char head[MEDIA_HEAD_BYTES];
};

/* ---- the list ------------------------------------------------------------------------------------------ */

static void list_add(struct blob_file *f)
{
    struct store *s = f->store;
    pthread_mutex_lock(&s->files.lock);
    f->next = s->files.first;
    if (f->next != NULL)
        f->next->prev = f;
    s->files.first = f;
    pthread_mutex_unlock(&s->files.lock);
}

static void list_remove(struct blob_file *f)
{
    struct store *s = f->store;
    pthread_mutex_lock(&s->files.lock);
    if (f->prev != NULL)
        f->prev->next = f->next;
    else
        s->files.first = f->next;
    if (f->next != NULL)
        f->next->prev = f->prev;
    pthread_mutex_unlock(&s->files.lock);
}

bool blob_file_in_flight(struct store *s, struct str name)
{
    bool found = false;
    pthread_mutex_lock(&s->files.lock);
    for (const struct blob_file *f = s->files.first; !found && f != NULL; f = f->next)
        found = str_eq(str_c(f->name), name) || str_eq(buf_view(&f->ref), name);
    pthread_mutex_unlock(&s->files.lock);
    return found;
}

/* ---- the temporary ------------------------------------------------------------------------------------- */

static enum err io_error(struct errctx *ec, const char *what, int error)
{
    if (error == ENOSPC || error == EDQUOT)
        return err_set(ec, ERR_UNAVAILABLE, "there is no space left for the file");
    return err_internal(ec, ERR_IO, "content file: %s: %s", what, strerror(error));
}

/* What the sealing says in the words of this file: a full disk is no internal error. */
static enum err write_error(enum err e, struct errctx *ec)
{
    if (e == ERR_IO && (errno == ENOSPC || errno == EDQUOT))
        return io_error(ec, "write", errno);
    return e;
}

static void release(struct blob_file *f)
{
    if (f == NULL)
        return;
    list_remove(f);
    sealed_writer_free(f->seal);
    explicit_bzero(f->key, sizeof f->key);
    if (f->fd >= 0)
        close(f->fd);
    os_sha256_end(f->hash, NULL);
    buf_release(&f->path);
    buf_release(&f->ref);
    free(f);
}

static enum err create(struct blob_file *f, struct errctx *ec)
{
    struct store *s = f->store;
    for (int attempt = 0;; attempt++) {
        f->fd = open(f->path.ptr, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (f->fd >= 0)
            return ERR_OK;
        if (errno != ENOENT || attempt > 0)
            return io_error(ec, "create", errno);
        struct buf dir = BUF_INIT(PATH_BYTES_MAX);
        buf_printf(&dir, "%s/" UPLOADS_DIR, s->cfg.data_dir);
        buf_u8(&dir, 0);
        enum err e = dir.failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : os_mkdirs(dir.ptr, ec);
        buf_release(&dir);
        if (e != ERR_OK)
            return e;
    }
}

static enum err seal_begin(struct blob_file *f, struct errctx *ec)
{
    const struct os *os = f->store->os;
    os->random(os->ctx, f->key, sizeof f->key);
    f->info.key = f->key;
    return write_error(sealed_writer_open(os, f->fd, f->key, BLOB_CONTEXT, &f->seal, ec), ec);
}

enum err blob_file_new(struct store *s, struct blob_file **ret, struct errctx *ec)
{
    enum err e = store_writable(s, ec);
    if (e != ERR_OK)
        return e;
    struct blob_file *f = calloc(1, sizeof *f);
    if (f == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    *f = (struct blob_file){
        .store = s, .fd = -1, .path = BUF_INIT(PATH_BYTES_MAX), .ref = BUF_INIT(BLOB_REF_BYTES_MAX)};
    uint64_t random[2];
    s->os->random(s->os->ctx, random, sizeof random);
    snprintf(f->name, sizeof f->name, "%016llx%016llx", (unsigned long long)random[0],
        (unsigned long long)random[1]);
    buf_printf(&f->path, "%s/" UPLOADS_DIR "/%s", s->cfg.data_dir, f->name);
    buf_u8(&f->path, 0);
    list_add(f); /* before there is anything to sweep */
    f->hash = os_sha256_begin();
    if (f->path.failed || f->hash == NULL)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    else
        e = create(f, ec);
    f->on_disk = e == ERR_OK;
    if (e == ERR_OK && store_encrypts(s))
        e = seal_begin(f, ec);
    if (e != ERR_OK) {
        blob_file_discard(f);
        return e;
    }
    *ret = f;
    return ERR_OK;
}

#define RESERVE_EVERY ((uint64_t)4 << 20) /* bytes written between two looks at the free space */

enum err blob_file_write(struct blob_file *f, struct str bytes, struct errctx *ec)
{
    if (f->bytes / RESERVE_EVERY != (f->bytes + bytes.len) / RESERVE_EVERY) {
        store_check_reserve(f->store);
        enum err e = store_writable(f->store, ec);
        if (e != ERR_OK)
            return e;
    }
    int rc = f->seal == NULL ? os_write_all(f->fd, bytes.ptr, bytes.len) : 0;
    if (rc < 0)
        return io_error(ec, "write", -rc);
    enum err sealed = f->seal != NULL ? sealed_writer_append(f->seal, bytes, ec) : ERR_OK;
    if (sealed != ERR_OK)
        return write_error(sealed, ec);
    if (f->head_len < sizeof f->head && bytes.len > 0) {
        size_t n = sizeof f->head - f->head_len;
        n = bytes.len < n ? bytes.len : n;
        memcpy(f->head + f->head_len, bytes.ptr, n);
        f->head_len += n;
    }
    os_sha256_add(f->hash, bytes.ptr, bytes.len);
    f->bytes += bytes.len;
    return ERR_OK;
}

uint64_t blob_file_bytes(const struct blob_file *f)
{
    return f->bytes;
}

/* The last block, if it is sealed, and on the disk. */
static enum err settle(struct blob_file *f, struct errctx *ec)
{
    const struct os *os = f->store->os;
    enum err e = f->seal != NULL ? sealed_writer_end(f->seal, ec) : ERR_OK;
    if (e != ERR_OK)
        return write_error(e, ec);
    sealed_writer_free(f->seal);
    f->seal = NULL;
    int rc = os->fsync(os->ctx, f->fd);
    return rc < 0 ? io_error(ec, "fsync", -rc) : ERR_OK;
}

static enum err measure(struct blob_file *f, struct media_type type, struct errctx *ec)
{
    struct blob_reader *r;
    int fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return io_error(ec, "open", errno);
    enum err e = blob_reader_new(fd, f->info.key, &r, ec);
    if (e != ERR_OK)
        return e;
    struct media_source source = {blob_reader_source, r};
    (void)media_dimensions(type, &source, &f->width, &f->height); /* 0 where the header does not tell */
    blob_reader_close(r);
    return ERR_OK;
}

enum err blob_file_finish(struct blob_file *f, bool media, struct errctx *ec)
{
    struct media_type type = BLOB_TEXT_TYPE;
    enum err e = settle(f, ec);
    f->is_media = media;
    if (e == ERR_OK && media) {
        type = media_sniff(str_n(f->head, f->head_len));
        e = measure(f, type, ec);
    }
    if (e != ERR_OK)
        return e;
    f->info.bytes = f->bytes;
    f->extension = type.extension;
    snprintf(f->info.content_type, sizeof f->info.content_type, "%s", type.content_type);
    os_sha256_end(f->hash, f->info.sha256);
    f->hash = NULL;
    close(f->fd);
    f->fd = -1;
    return ERR_OK;
}

const struct blob *blob_file_info(const struct blob_file *f)
{
    return &f->info;
}

bool blob_file_dimensions(const struct blob_file *f, uint32_t *ret_width, uint32_t *ret_height)
{
    *ret_width = f->width;
    *ret_height = f->height;
    return f->width != 0;
}

/* ---- under its name ------------------------------------------------------------------------------------ */

/* Syncs those above the folder, as any of them may be new. */
static enum err sync_above(struct store *s, const char *folder, struct errctx *ec)
{
    enum err e = ERR_OK;
    struct buf up = BUF_INIT(PATH_BYTES_MAX);
    buf_str(&up, str_c(folder));
    size_t root = strlen(s->cfg.data_dir);
    while (e == ERR_OK && up.len > root) {
        while (up.len > root && up.ptr[up.len - 1] != '/')
            up.len--;
        up.len -= up.len > root;
        struct buf dir = BUF_INIT(PATH_BYTES_MAX);
        buf_str(&dir, up.len > 0 ? buf_view(&up) : STR("/"));
        buf_u8(&dir, 0);
        e = dir.failed || up.failed ? err_set(ec, ERR_NO_MEMORY, "out of memory")
                                    : os_fsync_dir(s->os, dir.ptr, ec);
        buf_release(&dir);
    }
    buf_release(&up);
    return e;
}

static enum err make_folder(struct store *s, const char *folder, struct errctx *ec)
{
    struct stat st;
    atomic_fetch_add(&s->files.making, 1);
    enum err e = stat(folder, &st) == 0 ? ERR_OK : os_mkdirs(folder, ec);
    if (e == ERR_OK)
        e = sync_above(s, folder, ec);
    atomic_fetch_sub(&s->files.making, 1);
    return e;
}

/* Renames into a folder that may be missing, and makes that durable. */
static enum err move_into(struct blob_file *f, const char *folder, const char *to, struct errctx *ec)
{
    struct store *s = f->store;
    int rc = s->os->rename(s->os->ctx, f->path.ptr, to);
    for (int i = 0; rc == -ENOENT && i < PLACE_ATTEMPTS; i++) {
        enum err e = make_folder(s, folder, ec);
        if (e != ERR_OK)
            return e;
        rc = s->os->rename(s->os->ctx, f->path.ptr, to);
    }
    return rc < 0 ? io_error(ec, "rename", -rc) : ERR_OK;
}

enum err blob_file_place(struct blob_file *f, bool group, struct str id, int64_t msg_id, struct errctx *ec)
{
    struct store *s = f->store;
    struct buf folder = BUF_INIT(PATH_BYTES_MAX), ref = BUF_INIT(BLOB_REF_BYTES_MAX),
               to = BUF_INIT(PATH_BYTES_MAX);
    if (group)
        buf_str(&ref, STR(SHARED_DIR "/"));
    store_folder_name(&ref, id);
    buf_printf(&folder, "%s/%.*s", s->cfg.data_dir, STR_FMT(buf_view(&ref)));
    buf_u8(&folder, 0);
    buf_printf(&ref, "/%s-%lld.%s", f->is_media ? "media" : "msg", (long long)msg_id, f->extension);
    store_blob_path(s, buf_view(&ref), &to);
    enum err e =
        folder.failed || ref.failed || to.failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : ERR_OK;
    if (e == ERR_OK && f->ref.len > 0 && str_eq(buf_view(&f->ref), buf_view(&ref))) {
        buf_release(&ref);
        buf_release(&to);
        buf_release(&folder);
        return ERR_OK;
    }
    struct buf before = f->ref;
    if (e == ERR_OK) {
        pthread_mutex_lock(&s->files.lock);
        f->ref = ref;
        pthread_mutex_unlock(&s->files.lock);
        e = move_into(f, folder.ptr, to.ptr, ec);
        if (e != ERR_OK) {
            pthread_mutex_lock(&s->files.lock);
            f->ref = before;
            pthread_mutex_unlock(&s->files.lock);
        }
    }
    if (e != ERR_OK) {
        buf_release(&ref);
        buf_release(&to);
        buf_release(&folder);
        return e;
    }
    buf_release(&before);
    buf_release(&f->path);
    f->path = to;
    e = os_fsync_dir(s->os, folder.ptr, ec);
    if (e == ERR_OK &&
        atomic_load(&s->files.making) > 0) /* the folder may be somebody's who has yet to sync it */
        e = sync_above(s, folder.ptr, ec);
    buf_release(&folder);
    return e;
}

struct str blob_file_ref(const struct blob_file *f)
{
    return buf_view(&f->ref);
}

/* ---- the end ------------------------------------------------------------------------------------------- */

void blob_file_keep(struct blob_file *f)
{
    release(f);
}

void blob_file_leave(struct blob_file *f)
{
    release(f);
}

void blob_file_discard(struct blob_file *f)
{
    if (f == NULL)
        return;
    if (f->on_disk)
        pins_unlink(f->store->os, f->path.ptr); /* what stays is the sweeper's */
    release(f);
}

/* ---- ids ----------------------------------------------------------------------------------------------- */

struct reserve {
    struct commit_op op;
    size_t n;
    int64_t *ids;
};

static enum err reserve_apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct reserve *r = (struct reserve *)(void *)op;
    (void)ec;
    for (size_t i = 0; i < r->n; i++)
        r->ids[i] = txn_next_msg_id(txn);
    return ERR_OK;
}

enum err store_reserve_ids(struct store *s, size_t n, int64_t *ret, struct errctx *ec)
{
    /* Not fsynced: an id that is lost with the machine was seen by nobody, and its file is an orphan. */
    struct reserve r = {.op = {.apply = reserve_apply, .durability = DURABILITY_ASYNC}, .n = n, .ids = ret};
    return store_commit_wait(s, &r.op, ec);
}
