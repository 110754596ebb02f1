#include "engine/transfer.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static enum err admit(struct transfer *t, struct errctx *ec)
{
    struct kalamdb *db = t->db;
    int same_kind = 0;
    if (db->closing)
        return err_set(ec, ERR_UNAVAILABLE, "the database is shutting down");
    for (const struct transfer *o = db->transfers; o != NULL; o = o->next) {
        same_kind += o->import == t->import;
        if (t->import && o->import && str_eq(o->user_id, t->user_id))
            return err_set(ec, ERR_CONFLICT, "another import for this user is under way");
    }
    if (same_kind >= (t->import ? IMPORTS_MAX : EXPORTS_MAX))
        return err_set(ec, ERR_UNAVAILABLE, "too many %s are under way", t->import ? "imports" : "exports");
    t->next = db->transfers;
    if (t->next != NULL)
        t->next->prev = t;
    db->transfers = t;
    return ERR_OK;
}

enum err transfer_begin(struct transfer *t, struct kalamdb *db, const struct kalamdb_caller *caller,
    struct str user_id, bool import, struct errctx *ec)
{
    if (!user_id_valid(engine_str(caller->user_id)) || !user_id_valid(user_id))
        return err_set(ec, ERR_INVALID_REQUEST, "not a valid user id");
    if (caller->role == KALAMDB_USER && (import || !str_eq(user_id, engine_str(caller->user_id))))
        return err_set(ec, ERR_FORBIDDEN,
            import ? "importing asks for role service"
                   : "exporting another user's data asks for role service");
    *t = (struct transfer){.db = db, .import = import};
    char *copy = malloc(user_id.len);
    if (copy == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "transfer");
    memcpy(copy, user_id.ptr, user_id.len);
    t->user_id = str_n(copy, user_id.len);
    pthread_mutex_lock(&db->lock);
    enum err e = admit(t, ec);
    pthread_mutex_unlock(&db->lock);
    if (e != ERR_OK)
        free(copy);
    return e;
}

void transfer_end(struct transfer *t)
{
    struct kalamdb *db = t->db;
    pthread_mutex_lock(&db->lock);
    if (t->prev != NULL)
        t->prev->next = t->next;
    else
        db->transfers = t->next;
    if (t->next != NULL)
        t->next->prev = t->prev;
    pthread_mutex_unlock(&db->lock);
    free((char *)(uintptr_t)t->user_id.ptr);
}

void transfer_cancel(struct transfer *t)
{
    atomic_store(&t->cancelled, true);
    analytic_cancel(&t->cancel);
}

void transfers_cancel(struct kalamdb *db)
{
    for (struct transfer *t = db->transfers; t != NULL; t = t->next)
        transfer_cancel(t);
}

enum err transfer_alive(struct transfer *t, struct errctx *ec)
{
    if (!atomic_load_explicit(&t->cancelled, memory_order_relaxed))
        return ERR_OK;
    return err_set(ec, ERR_TIMEOUT, "the %s was stopped", t->import ? "import" : "export");
}

enum err transfer_enter(struct transfer *t, struct errctx *ec)
{
    struct kalamdb *db = t->db;
    pthread_mutex_lock(&db->lock);
    bool closing = db->closing;
    db->inflight += !closing;
    pthread_mutex_unlock(&db->lock);
    return closing ? err_set(ec, ERR_UNAVAILABLE, "the database is shutting down") : ERR_OK;
}

void transfer_leave(struct kalamdb *db)
{
    pthread_mutex_lock(&db->lock);
    if (--db->inflight == 0)
        pthread_cond_broadcast(&db->idle);
    pthread_mutex_unlock(&db->lock);
}

/* ---- files -------------------------------------------------------------------------------------------- */

static bool empty_folder(const char *path)
{
    DIR *d = opendir(path);
    if (d == NULL)
        return false;
    for (struct dirent *entry; (entry = readdir(d)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            (void)unlinkat(dirfd(d), entry->d_name, 0); /* one that stays is in nobody's way */
    }
    closedir(d);
    return true;
}

enum err transfers_open(struct kalamdb *db, struct errctx *ec)
{
    static const char *const folders[] = {EXPORTS_DIR, IMPORTS_DIR};
    enum err e = ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < sizeof folders / sizeof *folders; i++) {
        struct buf path = BUF_INIT(0);
        buf_printf(&path, "%s/%s", db->options.data_dir, folders[i]);
        buf_u8(&path, 0);
        if (path.failed)
            e = err_internal(ec, ERR_NO_MEMORY, "open");
        else if (!empty_folder(path.ptr))
            e = os_mkdirs(path.ptr, ec);
        buf_release(&path);
    }
    return e;
}

enum err transfer_memfd(int *ret_fd, struct errctx *ec)
{
    int fd = os_memfd("kalamdb-transfer");
    if (fd < 0)
        return err_internal(ec, ERR_IO, "memfd: %s", strerror(-fd));
    *ret_fd = fd;
    return ERR_OK;
}

/* ---- columns ------------------------------------------------------------------------------------------ */

int transfer_columns(const struct schema *schema, int columns[SCHEMA_COLUMNS_MAX])
{
    int n = 0;
    for (int i = 0; i < schema->ncolumns; i++) {
        unsigned flags = schema->columns[i].flags;
        if ((flags & COLUMN_HIDDEN) == 0 || (flags & (COLUMN_SEQ | COLUMN_INS_SEQ)) != 0)
            columns[n++] = i;
    }
    return n;
}

void transfer_column_list(struct buf *b, const struct schema *schema, bool cast)
{
    int columns[SCHEMA_COLUMNS_MAX], n = transfer_columns(schema, columns);
    for (int i = 0; i < n; i++) {
        const struct column *c = &schema->columns[columns[i]];
        buf_printf(b, "%s\"%.*s\"", i > 0 ? ", " : "", STR_FMT(c->name));
        if (cast && c->type == VALUE_JSON)
            buf_printf(b, "::VARCHAR AS \"%.*s\"", STR_FMT(c->name));
    }
}
