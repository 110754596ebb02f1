#include "store/orphans.h"
#include "base/log.h"
#include "store/internal.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define ORPHANS_DIR PRIVATE_DIR "/orphans"
#define PATH_BYTES_MAX 8192

static bool batch_name(struct str name)
{
    return str_starts_with(name, STR("batch-")) &&
           (str_ends_with(name, STR(".parquet")) || str_ends_with(name, STR(".parquet.tmp")) ||
               str_ends_with(name, STR(".parquet.enc")) || str_ends_with(name, STR(".parquet.enc.tmp")));
}

bool orphan_name_blob(struct str name)
{
    size_t at = str_starts_with(name, STR("msg-")) ? 4 : str_starts_with(name, STR("media-")) ? 6 : 0;
    size_t dot = str_find(name, '.');
    if (at == 0 || dot <= at || dot - at > 19 || name.len - dot < 2 || name.len - dot > 8)
        return false;
    for (size_t i = at; i < name.len; i++) {
        char c = name.ptr[i];
        bool digit = c >= '0' && c <= '9', letter = c >= 'a' && c <= 'z';
        if (i != dot && !digit && (i < dot || !letter))
            return false;
    }
    return true;
}

bool orphan_name_ours(struct str name)
{
    return batch_name(name) || orphan_name_blob(name);
}

/* NUL-terminated path of parts joined by slashes, in b; false: too long. */
static bool join(struct buf *b, const char *a, const char *c, const char *d)
{
    buf_clear(b);
    buf_str(b, str_c(a));
    buf_u8(b, '/');
    buf_str(b, str_c(c));
    if (d != NULL) {
        buf_u8(b, '/');
        buf_str(b, str_c(d));
    }
    buf_u8(b, 0);
    return !b->failed;
}

typedef enum err entry_fn(void *arg, const char *name, struct errctx *ec);

/* Every entry but . and .., in no order. An absent folder is an empty one. */
static enum err each_entry(const char *path, entry_fn *fn, void *arg, struct errctx *ec)
{
    DIR *dir = opendir(path);
    if (dir == NULL)
        return errno == ENOENT || errno == ENOTDIR
                   ? ERR_OK
                   : err_internal(ec, ERR_IO, "%s: %s", path, strerror(errno));
    enum err err = ERR_OK;
    struct dirent *e;
    while (err == ERR_OK && (errno = 0, e = readdir(dir)) != NULL)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            err = fn(arg, e->d_name, ec);
    if (err == ERR_OK && errno != 0)
        err = err_internal(ec, ERR_IO, "%s: %s", path, strerror(errno));
    closedir(dir);
    return err;
}

/* ---- folders and their users ---- */

struct long_id {
    struct long_id *next;
    char folder[256];
    size_t len;
    char id[USER_ID_BYTES_MAX];
};

struct folders {
    struct store *s;
    folder_fn *fn;
    void *arg;
    struct buf path;
    bool found, long_ids_read;
    bool pass;                /* over folders of users whose values do not open */
    struct long_id *long_ids; /* users whose folder name is a hash */
    bool no_memory;
};

static enum err note_ours(void *arg, const char *name, struct errctx *ec)
{
    (void)ec;
    *(bool *)arg |= orphan_name_ours(str_c(name));
    return ERR_OK;
}

static bool note_long_id(void *arg, uint64_t user_no, struct str user_id)
{
    struct folders *f = arg;
    (void)user_no;
    struct buf b = BUF_INIT(1024);
    store_folder_name(&b, user_id);
    if (!b.failed && memchr(b.ptr, '~', b.len) != NULL && user_id.len <= USER_ID_BYTES_MAX) {
        struct long_id *l = calloc(1, sizeof *l);
        f->no_memory |= l == NULL;
        if (l != NULL && b.len < sizeof l->folder) {
            memcpy(l->folder, b.ptr, b.len);
            memcpy(l->id, user_id.ptr, user_id.len);
            l->len = user_id.len;
            l->next = f->long_ids;
            f->long_ids = l;
        } else {
            free(l);
        }
    }
    f->no_memory |= b.failed;
    buf_release(&b);
    return !f->no_memory;
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The id that store_folder_name made this of; empty: none. */
static enum err folder_user(struct folders *f, const char *folder, struct buf *id, struct errctx *ec)
{
    buf_clear(id);
    if (strchr(folder, '~') == NULL) {
        for (const char *p = folder; *p != '\0'; p++) {
            int hi = *p == '%' ? hex(p[1]) : 0, lo = *p == '%' && hi >= 0 ? hex(p[2]) : 0;
            if (hi < 0 || lo < 0) {
                buf_clear(id);
                return ERR_OK;
            }
            buf_u8(id, (uint8_t)(*p == '%' ? hi << 4 | lo : *p));
            p += *p == '%' ? 2 : 0;
        }
        return id->failed ? err_internal(ec, ERR_NO_MEMORY, "folders: out of memory") : ERR_OK;
    }
    if (!f->long_ids_read) {
        enum err err = store_each_user(f->s, note_long_id, f, ec);
        if (err == ERR_OK && f->no_memory)
            err = err_internal(ec, ERR_NO_MEMORY, "folders: out of memory");
        if (err != ERR_OK)
            return err;
        f->long_ids_read = true;
    }
    for (const struct long_id *l = f->long_ids; l != NULL; l = l->next)
        if (strcmp(l->folder, folder) == 0)
            buf_append(id, l->id, l->len);
    return id->failed ? err_internal(ec, ERR_NO_MEMORY, "folders: out of memory") : ERR_OK;
}

/* A damaged key or record of one user is that user's damage: the others are served. What lies in the folder
 * stays where it is. */
static enum err passed_over(const char *folder, struct errctx *ec)
{
    log_event(LOG_ERROR, "folder_passed_over", "s:folder", folder, "s:reason",
        ec->internal[0] != '\0' ? ec->internal : ec->message, "s:hint",
        "kalamdb verify says more; restore the newest copy of .kalamdb/keys, or a backup", NULL);
    errctx_clear(ec);
    return ERR_OK;
}

static enum err visit_folder(void *arg, const char *folder, struct errctx *ec)
{
    struct folders *f = arg;
    bool ours = false;
    if (folder[0] == '.' || strcmp(folder, "shared") == 0)
        return ERR_OK;
    if (!join(&f->path, f->s->cfg.data_dir, folder, NULL))
        return err_internal(ec, ERR_NO_MEMORY, "folders: out of memory");
    enum err err = each_entry(f->path.ptr, note_ours, &ours, ec);
    if (err != ERR_OK || !ours)
        return err;
    struct buf id = BUF_INIT(1024);
    struct snapshot *snap = NULL;
    err = folder_user(f, folder, &id, ec);
    if (err == ERR_OK)
        err = snapshot_open(f->s, buf_view(&id), &snap, ec);
    if (err == ERR_OK)
        err = f->fn(f->arg, folder, snap, ec);
    if (err == ERR_CORRUPT && f->pass)
        err = passed_over(folder, ec);
    snapshot_close(snap);
    buf_release(&id);
    return err;
}

enum err cold_each_folder(struct store *s, bool pass, folder_fn *fn, void *arg, struct errctx *ec)
{
    struct folders f = {.s = s, .pass = pass, .fn = fn, .arg = arg, .path = BUF_INIT(PATH_BYTES_MAX)};
    enum err err = each_entry(s->cfg.data_dir, visit_folder, &f, ec);
    for (struct long_id *l = f.long_ids, *next; l != NULL; l = next) {
        next = l->next;
        free(l);
    }
    buf_release(&f.path);
    return err;
}

static enum err visit_shared(void *arg, const char *conversation, struct errctx *ec)
{
    struct folders *f = arg;
    bool ours = false;
    struct buf folder = BUF_INIT(PATH_BYTES_MAX);
    struct snapshot *snap = NULL;
    enum err err = ERR_OK;
    buf_printf(&folder, SHARED_DIR "/%s", conversation);
    buf_u8(&folder, 0);
    if (folder.failed || !join(&f->path, f->s->cfg.data_dir, folder.ptr, NULL))
        err = err_internal(ec, ERR_NO_MEMORY, "folders: out of memory");
    if (err == ERR_OK)
        err = each_entry(f->path.ptr, note_ours, &ours, ec);
    if (err == ERR_OK && ours) {
        err = snapshot_open(f->s, STR_NULL, &snap, ec); /* nobody's */
        if (err == ERR_OK)
            err = f->fn(f->arg, folder.ptr, snap, ec);
        snapshot_close(snap);
    }
    buf_release(&folder);
    return err;
}

enum err shared_each_folder(struct store *s, folder_fn *fn, void *arg, struct errctx *ec)
{
    struct folders f = {.s = s, .fn = fn, .arg = arg, .path = BUF_INIT(PATH_BYTES_MAX)};
    struct buf path = BUF_INIT(PATH_BYTES_MAX);
    enum err err = join(&path, s->cfg.data_dir, SHARED_DIR, NULL)
                       ? each_entry(path.ptr, visit_shared, &f, ec)
                       : err_internal(ec, ERR_NO_MEMORY, "folders: out of memory");
    buf_release(&path);
    buf_release(&f.path);
    return err;
}

struct names {
    enum err (*fn)(void *arg, const char *folder, struct errctx *ec);
    void *arg;
};

static enum err visit_name(void *arg, const char *conversation, struct errctx *ec)
{
    const struct names *n = arg;
    struct buf folder = BUF_INIT(PATH_BYTES_MAX);
    buf_printf(&folder, SHARED_DIR "/%s", conversation);
    buf_u8(&folder, 0);
    enum err err = folder.failed ? err_internal(ec, ERR_NO_MEMORY, "folders: out of memory")
                                 : n->fn(n->arg, folder.ptr, ec);
    buf_release(&folder);
    return err;
}

enum err shared_each_name(struct store *s, enum err (*fn)(void *arg, const char *folder, struct errctx *ec),
    void *arg, struct errctx *ec)
{
    struct buf path = BUF_INIT(PATH_BYTES_MAX);
    enum err err = join(&path, s->cfg.data_dir, SHARED_DIR, NULL)
                       ? each_entry(path.ptr, visit_name, &(struct names){fn, arg}, ec)
                       : err_internal(ec, ERR_NO_MEMORY, "folders: out of memory");
    buf_release(&path);
    return err;
}

/* ---- one folder at open ---- */

struct sweep {
    struct store *s;
    const char *folder; /* below the data directory */
    struct snapshot *snap;
    struct buf from;
    bool moved;
};

static bool named(const struct manifest *m, struct str name, bool *ret_garbage)
{
    *ret_garbage = false;
    for (size_t i = 0; m != NULL && i < m->nfiles; i++)
        if (str_eq(m->files[i].name, name))
            return true;
    for (size_t i = 0; m != NULL && i < m->ngarbage; i++)
        *ret_garbage |= str_eq(m->garbage[i], name);
    return false;
}

/* Where what is set aside from a folder goes: of a conversation's shared one, "shared.<conversation>". */
static void aside(struct buf *b, const struct store *s, struct str folder)
{
    buf_clear(b);
    buf_printf(b, "%s/" ORPHANS_DIR "/", s->cfg.data_dir);
    if (str_starts_with(folder, STR(SHARED_DIR "/")))
        buf_printf(b, "shared.%.*s", (int)(folder.len - strlen(SHARED_DIR "/")),
            folder.ptr + strlen(SHARED_DIR "/"));
    else
        buf_str(b, folder);
}

/* A week counts from here, so the file's own time becomes now. */
enum err orphan_set_aside(struct store *s, struct str folder, struct str name, struct errctx *ec)
{
    struct stat st;
    struct buf from = BUF_INIT(PATH_BYTES_MAX), to = BUF_INIT(PATH_BYTES_MAX);
    buf_printf(&from, "%s/%.*s/%.*s", s->cfg.data_dir, STR_FMT(folder), STR_FMT(name));
    buf_u8(&from, 0);
    aside(&to, s, folder);
    buf_u8(&to, 0);
    enum err err = from.failed || to.failed ? err_internal(ec, ERR_NO_MEMORY, "orphans: out of memory")
                                            : os_mkdirs(to.ptr, ec);
    if (err == ERR_OK) {
        to.len--;
        buf_printf(&to, "/%.*s", STR_FMT(name));
        size_t len = to.len;
        buf_u8(&to, 0);
        for (int i = 1; !to.failed && lstat(to.ptr, &st) == 0; i++) {
            to.len = len;
            buf_printf(&to, ".%d", i);
            buf_u8(&to, 0);
        }
        if (to.failed)
            err = err_internal(ec, ERR_NO_MEMORY, "orphans: out of memory");
    }
    int rc = err == ERR_OK ? s->os->rename(s->os->ctx, from.ptr, to.ptr) : 0;
    if (rc < 0)
        err = err_internal(ec, ERR_IO, "%s: rename: %s", from.ptr, strerror(-rc));
    int64_t now = os_realtime_us(s->os) / 1000000;
    const struct timespec times[2] = {{.tv_sec = (time_t)now}, {.tv_sec = (time_t)now}};
    if (err == ERR_OK && utimensat(AT_FDCWD, to.ptr, times, AT_SYMLINK_NOFOLLOW) < 0)
        err = err_internal(ec, ERR_IO, "%s: %s", to.ptr, strerror(errno));
    buf_release(&from);
    buf_release(&to);
    return err;
}

/* Does the catalog know the file? Garbage of consolidation is removed at once. */
static enum err sweep_known(struct sweep *w, struct str name, bool *ret_known, struct errctx *ec)
{
    *ret_known = true;
    if (orphan_name_blob(name)) {
        struct blob b;
        struct buf ref = BUF_INIT(PATH_BYTES_MAX);
        buf_printf(&ref, "%s/%.*s", w->folder, STR_FMT(name));
        enum err err = ref.failed ? err_internal(ec, ERR_NO_MEMORY, "orphans: out of memory")
                                  : snapshot_blob(w->snap, buf_view(&ref), &b, ec);
        buf_release(&ref);
        *ret_known = err == ERR_OK;
        return err == ERR_NOT_FOUND ? ERR_OK : err;
    }
    bool garbage;
    *ret_known = named(w->snap->manifest, name, &garbage) || garbage;
    if (!garbage)
        return ERR_OK;
    if (!join(&w->from, w->s->cfg.data_dir, w->folder, name.ptr))
        return err_internal(ec, ERR_NO_MEMORY, "orphans: out of memory");
    int rc = w->s->os->unlink(w->s->os->ctx, w->from.ptr);
    return rc == 0 || rc == -ENOENT ? ERR_OK : err_internal(ec, ERR_IO, "%s: %s", w->from.ptr, strerror(-rc));
}

static enum err sweep_file(void *arg, const char *name, struct errctx *ec)
{
    struct sweep *w = arg;
    bool known = true;
    enum err err = orphan_name_ours(str_c(name)) ? sweep_known(w, str_c(name), &known, ec) : ERR_OK;
    if (err != ERR_OK || known)
        return err;
    errctx_clear(ec);
    w->moved = true;
    return orphan_set_aside(w->s, str_c(w->folder), str_c(name), ec);
}

static enum err sweep_folder(void *arg, const char *folder, struct snapshot *snap, struct errctx *ec)
{
    struct store *s = arg;
    struct sweep w = {.s = s, .folder = folder, .snap = snap, .from = BUF_INIT(PATH_BYTES_MAX)};
    struct buf path = BUF_INIT(PATH_BYTES_MAX);
    enum err err = join(&path, s->cfg.data_dir, folder, NULL)
                       ? each_entry(path.ptr, sweep_file, &w, ec)
                       : err_internal(ec, ERR_NO_MEMORY, "orphans: out of memory");
    if (err == ERR_OK && w.moved)
        err = os_fsync_dir(s->os, path.ptr, ec);
    buf_release(&path);
    buf_release(&w.from);
    return err;
}

static enum err refuse_folder(void *arg, const char *folder, struct snapshot *snap, struct errctx *ec)
{
    const struct store *s = arg;
    (void)snap;
    err_set(ec, ERR_INVALID_REQUEST, "%s/%s holds messages, but the catalog in %s/" PRIVATE_DIR " is empty",
        s->cfg.data_dir, folder, s->cfg.data_dir);
    err_hint(
        ec, "Restore " PRIVATE_DIR " together with the users' folders, or start with an empty directory.");
    return ERR_INVALID_REQUEST;
}

/* ---- uploads that nobody works on ---- */

struct uploads {
    struct store *s;
    int64_t older_than_s;
    uint64_t *removed;
    struct buf path;
};

static enum err remove_upload(void *arg, const char *name, struct errctx *ec)
{
    struct uploads *u = arg;
    struct stat st;
    if (!join(&u->path, u->s->cfg.data_dir, UPLOADS_DIR, name))
        return err_internal(ec, ERR_NO_MEMORY, "uploads: out of memory");
    if (lstat(u->path.ptr, &st) < 0 || !S_ISREG(st.st_mode) || (int64_t)st.st_mtime > u->older_than_s ||
        blob_file_in_flight(u->s, str_c(name)))
        return ERR_OK;
    int rc = u->s->os->unlink(u->s->os->ctx, u->path.ptr);
    *u->removed += rc == 0;
    return rc == 0 || rc == -ENOENT ? ERR_OK : err_internal(ec, ERR_IO, "%s: %s", u->path.ptr, strerror(-rc));
}

enum err orphans_uploads(struct store *s, int64_t older_than_s, uint64_t *removed, struct errctx *ec)
{
    struct uploads u = {s, older_than_s, removed, BUF_INIT(PATH_BYTES_MAX)};
    struct buf dir = BUF_INIT(PATH_BYTES_MAX);
    enum err err = join(&dir, s->cfg.data_dir, UPLOADS_DIR, NULL)
                       ? each_entry(dir.ptr, remove_upload, &u, ec)
                       : err_internal(ec, ERR_NO_MEMORY, "uploads: out of memory");
    buf_release(&dir);
    buf_release(&u.path);
    return err;
}

/* ---- what was set aside ---- */

struct removal {
    struct store *s;
    const char *folder; /* in the orphans folder */
    int64_t older_than_s;
    struct buf path;
};

static enum err remove_old(void *arg, const char *name, struct errctx *ec)
{
    struct removal *r = arg;
    struct stat st;
    struct buf dir = BUF_INIT(PATH_BYTES_MAX);
    bool ok = join(&dir, r->s->cfg.data_dir, ORPHANS_DIR, r->folder) && join(&r->path, dir.ptr, name, NULL);
    buf_release(&dir);
    if (!ok)
        return err_internal(ec, ERR_NO_MEMORY, "orphans: out of memory");
    if (lstat(r->path.ptr, &st) < 0 || !S_ISREG(st.st_mode) || (int64_t)st.st_mtime > r->older_than_s)
        return ERR_OK;
    int rc = r->s->os->unlink(r->s->os->ctx, r->path.ptr);
    return rc == 0 || rc == -ENOENT ? ERR_OK : err_internal(ec, ERR_IO, "%s: %s", r->path.ptr, strerror(-rc));
}

static enum err remove_old_in(void *arg, const char *folder, struct errctx *ec)
{
    struct removal *r = arg;
    struct buf dir = BUF_INIT(PATH_BYTES_MAX);
    r->folder = folder;
    enum err err = join(&dir, r->s->cfg.data_dir, ORPHANS_DIR, folder)
                       ? each_entry(dir.ptr, remove_old, r, ec)
                       : err_internal(ec, ERR_NO_MEMORY, "orphans: out of memory");
    if (err == ERR_OK)
        (void)rmdir(dir.ptr); /* stays while anything is in it */
    buf_release(&dir);
    return err;
}

/* `folder` NULL: all. */
static enum err remove_orphans(struct store *s, const char *folder, int64_t older_than_s, struct errctx *ec)
{
    struct removal r = {.s = s, .older_than_s = older_than_s, .path = BUF_INIT(PATH_BYTES_MAX)};
    struct buf dir = BUF_INIT(PATH_BYTES_MAX);
    enum err err;
    if (folder != NULL)
        err = remove_old_in(&r, folder, ec);
    else
        err = join(&dir, s->cfg.data_dir, ORPHANS_DIR, NULL)
                  ? each_entry(dir.ptr, remove_old_in, &r, ec)
                  : err_internal(ec, ERR_NO_MEMORY, "orphans: out of memory");
    buf_release(&dir);
    buf_release(&r.path);
    return err;
}

enum err orphans_open(struct store *s, struct errctx *ec)
{
    /* Also a catalog whose last user was erased knows what it is the catalog of. */
    bool users = atomic_load(&s->users) > 0;
    uint64_t removed = 0;
    enum err err = cold_each_folder(s, users, users ? sweep_folder : refuse_folder, s, ec);
    if (err == ERR_OK)
        err = shared_each_folder(s, users ? sweep_folder : refuse_folder, s, ec);
    if (err == ERR_OK)
        err = orphans_uploads(s, INT64_MAX, &removed, ec);
    if (err == ERR_OK)
        err = remove_orphans(s, NULL, os_realtime_us(s->os) / 1000000 - ORPHAN_AGE_S, ec);
    if (err != ERR_OK && ec->internal[0] != '\0') {
        char why[sizeof ec->internal]; /* who starts a server reads the message */
        memcpy(why, ec->internal, sizeof why);
        (void)err_set(ec, err, "cannot check the users' folders: %s", why);
    }
    return err;
}

enum err orphans_purge(struct store *s, struct str user_id, struct errctx *ec)
{
    if (user_id.ptr == NULL)
        return remove_orphans(s, NULL, INT64_MAX, ec);
    struct buf folder = BUF_INIT(1024);
    store_folder_name(&folder, user_id);
    buf_u8(&folder, 0);
    enum err err = folder.failed ? err_internal(ec, ERR_NO_MEMORY, "orphans: out of memory")
                                 : remove_orphans(s, folder.ptr, INT64_MAX, ec);
    buf_release(&folder);
    return err;
}
