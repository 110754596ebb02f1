/* The whole store at one moment, and scans of key ranges under a snapshot.
 *
 * A view is a snapshot of the catalog's partition. Snapshots opened in it borrow its RocksDB snapshot, so
 * they see what it sees, and its pin, which is older than theirs, keeps the files. */
#include "store/internal.h"
#include <stdlib.h>

enum { SCAN_CHUNK_BYTES = 256 << 10 };

struct store_view {
    struct snapshot *snap;
};

enum err store_view_open(struct store *s, struct store_view **ret, struct errctx *ec)
{
    struct store_view *v = calloc(1, sizeof *v);
    if (v == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    enum err e = snapshot_open(s, STR_NULL, &v->snap, ec); /* nobody: user 0 is the catalog */
    if (e != ERR_OK) {
        free(v);
        return e;
    }
    *ret = v;
    return ERR_OK;
}

void store_view_close(struct store_view *v)
{
    if (v == NULL)
        return;
    snapshot_close(v->snap);
    free(v);
}

enum err snapshot_open_in(struct store_view *v, struct str user_id, struct snapshot **ret, struct errctx *ec)
{
    return snapshot_open_at(v->snap, user_id, 0, ret, ec);
}

enum err snapshot_open_in_no(struct store_view *v, uint64_t user_no, struct snapshot **ret, struct errctx *ec)
{
    return snapshot_open_at(v->snap, STR_NULL, user_no, ret, ec);
}

/* ---- scans --------------------------------------------------------------------------------------------- */

/* From *from on, up to a chunk, as lstr pairs; *ret_more says that there is more. db_lock is held. */
static enum err read_chunk(struct snapshot *snap, const struct buf *from, const struct key *after,
    struct buf *ret, bool *ret_more, struct errctx *ec)
{
    struct buf opened = BUF_INIT(0);
    enum err e = ERR_OK;
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_snapshot(options, snap->rocks);
    rocksdb_readoptions_set_total_order_seek(options, 1);
    rocksdb_readoptions_set_iterate_upper_bound(options, after->bytes, after->len);
    rocksdb_iterator_t *it = rocksdb_create_iterator(snap->store->db, options);
    for (rocksdb_iter_seek(it, from->ptr, from->len);
         rocksdb_iter_valid(it) && ret->len < SCAN_CHUNK_BYTES && !ret->failed; rocksdb_iter_next(it)) {
        struct str key, value;
        key.ptr = rocksdb_iter_key(it, &key.len);
        value.ptr = rocksdb_iter_value(it, &value.len);
        e = store_unseal(snap->store, key, value, &opened, &value, ec);
        if (e != ERR_OK)
            break;
        buf_lstr(ret, key);
        buf_lstr(ret, value);
    }
    *ret_more = rocksdb_iter_valid(it);
    char *message = NULL;
    rocksdb_iter_get_error(it, &message);
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(options);
    buf_release(&opened);
    if (e == ERR_OK)
        return store_rocks_err(ec, message, "scan");
    rocksdb_free(message);
    return e;
}

enum err snapshot_scan(
    struct snapshot *snap, const struct key *prefix, scan_fn *fn, void *arg, struct errctx *ec)
{
    struct key after = key_after(prefix);
    struct buf from = BUF_INIT(0), chunk = BUF_INIT(0);
    enum err e = ERR_OK;
    bool more = true;
    buf_str(&from, key_view(prefix));
    /* In chunks, so that fn runs without the lock. */
    while (e == ERR_OK && more) {
        struct store *s = snap->store;
        buf_clear(&chunk);
        pthread_rwlock_rdlock(&s->db_lock);
        if (snap->rocks == NULL)
            e = err_set(ec, ERR_UNAVAILABLE, "the storage is being recovered");
        else
            e = read_chunk(snap, &from, &after, &chunk, &more, ec);
        pthread_rwlock_unlock(&s->db_lock);
        if (e == ERR_OK && (chunk.failed || from.failed))
            e = err_set(ec, ERR_NO_MEMORY, "out of memory");
        struct reader r = reader_of(buf_view(&chunk));
        while (e == ERR_OK && reader_left(&r) > 0) {
            struct str key = read_lstr(&r), value = read_lstr(&r);
            buf_clear(&from);
            buf_str(&from, key);
            buf_u8(&from, 0); /* the next chunk begins behind this key */
            e = fn(arg, key, value, ec);
        }
    }
    buf_release(&from);
    buf_release(&chunk);
    return e;
}

struct each_user {
    enum err (*fn)(void *arg, uint64_t user_no, struct str user_id, struct errctx *ec);
    void *arg;
};

static enum err each_user(void *arg, struct str key, struct str value, struct errctx *ec)
{
    const struct each_user *u = arg;
    if (value.len != 8 || key.len <= KEY_PREFIX_BYTES)
        return err_internal(ec, ERR_CORRUPT, "a user's number is damaged");
    return u->fn(
        u->arg, get_be64(value.ptr), str_n(key.ptr + KEY_PREFIX_BYTES, key.len - KEY_PREFIX_BYTES), ec);
}

enum err view_each_user(struct store_view *v,
    enum err (*fn)(void *arg, uint64_t user_no, struct str user_id, struct errctx *ec), void *arg,
    struct errctx *ec)
{
    struct key prefix = key_prefix(CATALOG_USER_NO, CATALOG_USERS);
    return snapshot_scan(v->snap, &prefix, each_user, &(struct each_user){fn, arg}, ec);
}

enum err view_blob(struct store_view *v, struct str content_ref, struct blob *ret, struct errctx *ec)
{
    return snapshot_blob(v->snap, content_ref, ret, ec);
}

struct each_blob {
    enum err (*fn)(void *arg, struct str content_ref, const struct blob *b, struct errctx *ec);
    void *arg;
};

static enum err each_blob(void *arg, struct str key, struct str value, struct errctx *ec)
{
    const struct each_blob *b = arg;
    struct str ref;
    struct blob blob;
    (void)key;
    if (blob_record_decode(value, &ref, &blob) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "the record of a file is damaged");
    return b->fn(b->arg, ref, &blob, ec);
}

enum err view_each_blob(struct store_view *v,
    enum err (*fn)(void *arg, struct str content_ref, const struct blob *b, struct errctx *ec), void *arg,
    struct errctx *ec)
{
    struct key prefix = key_prefix(CATALOG_USER_NO, CATALOG_BLOBS);
    return snapshot_scan(v->snap, &prefix, each_blob, &(struct each_blob){fn, arg}, ec);
}
