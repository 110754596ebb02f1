/* Reading what rows name in content_ref: who may, and as what. */
#include "engine/engine.h"
#include <stdio.h>

/* Record and key; *ret_key NULL: files are not sealed. */
static enum err find(struct snapshot *snap, bool any, struct str ref, struct blob *ret,
    const uint8_t **ret_key, struct errctx *ec)
{
    bool holds = any;
    enum err e = any ? ERR_OK : snapshot_holds(snap, ref, &holds, ec);
    if (e == ERR_OK && !holds) /* the same words, whether others have it or nobody */
        e = err_set(ec, ERR_NOT_FOUND, "no such file");
    if (e == ERR_OK)
        e = snapshot_blob(snap, ref, ret, ec);
    if (e != ERR_OK)
        return e;
    if (any)
        e = snapshot_blob_key_any(snap, ref, ret_key, ec);
    else if ((e = snapshot_blob_key(snap, ref, ret_key, ec)) == ERR_NOT_FOUND)
        e = err_internal(ec, ERR_CORRUPT, "the key of a content file is missing");
    if (e == ERR_OK && *ret_key != NULL)
        blob_reveal(ret, *ret_key);
    return e;
}

kalamdb_code kalamdb_content_open(struct kalamdb *db, struct kalamdb_caller caller, struct kalamdb_str ref,
    struct kalamdb_content *ret, struct kalamdb_error *error)
{
    struct errctx ec;
    struct snapshot *snap = NULL;
    struct blob blob;
    struct blob_reader *r = NULL;
    const uint8_t *key = NULL;
    errctx_clear(&ec);
    enum err e = snapshot_open(db->store, engine_str(caller.user_id), &snap, &ec);
    if (e == ERR_OK)
        e = find(snap, caller.role != KALAMDB_USER, engine_str(ref), &blob, &key, &ec);
    /* Under the snapshot, which keeps the file where a deletion overtakes us. */
    if (e == ERR_OK)
        e = store_blob_open(db->store, engine_str(ref), key, &r, &ec);
    snapshot_close(snap);
    if (e == ERR_OK && blob_reader_size(r) != blob.bytes) {
        blob_reader_close(r);
        e = err_internal(&ec, ERR_CORRUPT, "a content file is not as long as it was");
    }
    if (e != ERR_OK) {
        if (ec.code != e)
            err_internal(&ec, e, "content");
        return engine_error(error, &ec);
    }
    *ret = (struct kalamdb_content){.fd = blob_reader_fd(r), .size = blob.bytes};
    ret->file = (struct kalamdb_content_file *)r;
    snprintf(ret->content_type, sizeof ret->content_type, "%s", blob.content_type);
    snprintf(ret->sha256, sizeof ret->sha256, "%s", blob.sha256);
    return KALAMDB_OK;
}

kalamdb_code kalamdb_content_read(
    struct kalamdb_content *c, uint64_t at, void *p, size_t n, size_t *ret_n, struct kalamdb_error *error)
{
    struct errctx ec;
    errctx_clear(&ec);
    enum err e = blob_reader_pread((struct blob_reader *)c->file, p, n, at, ret_n, &ec);
    return e == ERR_OK ? KALAMDB_OK : engine_error(error, &ec);
}

void kalamdb_content_close(struct kalamdb_content *c)
{
    blob_reader_close((struct blob_reader *)c->file);
    *c = (struct kalamdb_content){.fd = -1};
}
