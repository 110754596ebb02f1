/* State that the committer takes from the database, and the way back after a failed disk.
 *
 * After a failed write or fsync RocksDB refuses writes for good, and what its log holds is unknown. The old
 * handle still serves reads while the disk keeps failing; once a probe file can be written and fsynced, the
 * database is closed and opened again, which replays the log into a synced table file: from then on
 * everything is known. */
#include "store/committer.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum err committer_load(struct committer *c, struct errctx *ec)
{
    struct txn *t = &c->txn;
    struct key k = key_prefix(CATALOG_USER_NO, CATALOG_STATE);
    struct catalog_state catalog = {.next_user_no = 1};
    struct str value;
    enum err e = txn_get(t, &k, &value, ec);
    if (e == ERR_OK && catalog_decode(value, &catalog) != ERR_OK)
        e = err_internal(ec, ERR_CORRUPT, "the catalog's state is damaged");
    else if (e == ERR_NOT_FOUND)
        e = ERR_OK;
    arena_clear(&t->arena);
    if (e != ERR_OK)
        return e;
    c->synced = 0; /* until the next fsync */
    t->catalog_written = catalog;
    if (t->catalog.ids.last > catalog.ids.last) /* given before the failure, perhaps seen */
        catalog.ids.last = t->catalog.ids.last;
    else if (catalog.ids.last != 0)
        ids_leap(&catalog.ids, c->store->cfg.async_window_ms);
    t->catalog = catalog;
    atomic_store(&c->store->rows_hot, (uint64_t)(catalog.rows_hot > 0 ? catalog.rows_hot : 0));
    atomic_store(&c->store->users, catalog_users(&catalog));
    return ERR_OK;
}

/* Can this disk write and sync? */
static enum err probe(struct store *s, struct errctx *ec)
{
    enum { PROBE_BYTES = 4096 };
    static const char zeros[PROBE_BYTES];
    char *path;
    if (asprintf(&path, "%s/" PRIVATE_DIR "/probe", s->cfg.data_dir) < 0)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    int r, fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        r = -errno;
    } else {
        r = os_write_all(fd, zeros, sizeof zeros);
        if (r == 0)
            r = s->os->fsync(s->os->ctx, fd);
        close(fd);
        s->os->unlink(s->os->ctx, path);
    }
    free(path);
    return r == 0 ? ERR_OK : err_internal(ec, ERR_IO, "probe of the disk: %s", strerror(-r));
}

enum err committer_recover(struct committer *c, struct errctx *ec)
{
    struct store *s = c->store;
    enum err e = probe(s, ec);
    if (e != ERR_OK)
        return e;
    pthread_rwlock_wrlock(&s->db_lock);
    if (s->db != NULL) {
        snapshots_make_stale(s);
        store_close_db(s);
    }
    e = store_open_db(s, ec);
    if (e == ERR_OK)
        s->generation++;
    pthread_rwlock_unlock(&s->db_lock);
    if (e != ERR_OK)
        return e;
    manifest_cache_clear(s);
    e = committer_load(c, ec);
    if (e != ERR_OK)
        return e;
    atomic_fetch_add(&s->reopens, 1);
    atomic_store(&s->failed, false);
    pthread_mutex_lock(&c->listener_lock);
    if (c->listener.reset != NULL)
        c->listener.reset(c->listener.arg);
    pthread_mutex_unlock(&c->listener_lock);
    return ERR_OK;
}
