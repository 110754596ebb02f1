/* Reading what rows name in content_ref: who may, and as what. */
#include "engine/engine.h"
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static enum err find(struct snapshot *snap, bool any, struct str ref, struct blob *ret, struct errctx *ec)
{
    bool holds = any;
    enum err e = any ? ERR_OK : snapshot_holds(snap, ref, &holds, ec);
    if (e == ERR_OK && !holds) /* the same words, whether others have it or nobody */
        e = err_set(ec, ERR_NOT_FOUND, "no such file");
    return e == ERR_OK ? snapshot_blob(snap, ref, ret, ec) : e;
}

kalamdb_code kalamdb_content_open(struct kalamdb *db, struct kalamdb_caller caller, struct kalamdb_str ref,
    struct kalamdb_content *ret, struct kalamdb_error *error)
{
    struct errctx ec;
    struct snapshot *snap = NULL;
    struct blob blob;
    struct stat st;
    int fd = -1;
    errctx_clear(&ec);
    enum err e = snapshot_open(db->store, engine_str(caller.user_id), &snap, &ec);
    if (e == ERR_OK)
        e = find(snap, caller.role != KALAMDB_USER, engine_str(ref), &blob, &ec);
    /* Under the snapshot, which keeps the file where a deletion overtakes us. */
    if (e == ERR_OK)
        e = store_blob_open(db->store, engine_str(ref), &fd, &ec);
    snapshot_close(snap);
    if (e == ERR_OK && (fstat(fd, &st) < 0 || (uint64_t)st.st_size != blob.bytes)) {
        close(fd);
        e = err_internal(&ec, ERR_CORRUPT, "a content file is not as long as it was");
    }
    if (e != ERR_OK) {
        if (ec.code != e)
            err_internal(&ec, e, "content");
        return engine_error(error, &ec);
    }
    *ret = (struct kalamdb_content){.fd = fd, .size = blob.bytes};
    snprintf(ret->content_type, sizeof ret->content_type, "%s", blob.content_type);
    snprintf(ret->sha256, sizeof ret->sha256, "%s", blob.sha256);
    return KALAMDB_OK;
}
