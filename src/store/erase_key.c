/* What erasure does with keys. What comes after the key is clearing away noise: it reads memberships,
 * references and what the erasure's commit noted (erase_work.c), none of which is sealed.
 *
 * A backup from before an erasure has the user, but with the ring of today no key of theirs: after a restore
 * they are nobody to a snapshot, and are erased again before anybody writes. */
#include "store/backup.h"
#include "store/erase_int.h"
#include <errno.h>
#include <unistd.h>

enum err store_erase_key(struct store *s, const struct erasure *e, struct errctx *ec)
{
    enum err err = vault_key_destroy(s->vault, e->user_no, ec);
    manifest_cache_forget(s, e->user_no); /* it has the keys of files */
    return err == ERR_OK ? erase_step_done(s, ERASE_KEYLESS, ec) : err;
}

bool txn_partition_lost(struct txn *txn, uint64_t user_no)
{
    return vault_key_destroyed(txn_store(txn)->vault, user_no);
}

static enum err mark_path(const struct store *s, struct buf *ret, struct errctx *ec)
{
    buf_printf(ret, "%s/" PRIVATE_DIR "/" RESTORED_MARK, s->cfg.data_dir);
    buf_u8(ret, 0);
    return ret->failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : ERR_OK;
}

bool erase_lost_pending(const struct store *s)
{
    struct buf path = BUF_INIT(8192);
    struct errctx ec;
    bool is = s->vault != NULL && mark_path(s, &path, &ec) == ERR_OK && access(path.ptr, F_OK) == 0;
    buf_release(&path);
    return is;
}

struct lost {
    struct store *s;
    struct buf ids; /* lstr */
};

static bool note_lost(void *arg, uint64_t user_no, struct str user_id)
{
    struct lost *l = arg;
    if (vault_key_destroyed(l->s->vault, user_no))
        buf_lstr(&l->ids, user_id);
    return !l->ids.failed;
}

static enum err end_search(struct store *s, struct errctx *ec)
{
    struct buf path = BUF_INIT(8192);
    enum err err = mark_path(s, &path, ec);
    int rc = err == ERR_OK ? s->os->unlink(s->os->ctx, path.ptr) : 0;
    if (rc < 0 && rc != -ENOENT)
        err = err_internal(ec, ERR_IO, "cannot remove %s: %s", path.ptr, strerror(-rc));
    buf_release(&path);
    if (err == ERR_OK)
        atomic_store(&s->search_lost, false);
    return err;
}

enum err store_erase_lost(struct store *s, uint8_t sent, erase_leave_fn *leave, struct errctx *ec)
{
    struct lost l = {s, BUF_INIT(0)};
    if (!atomic_load(&s->search_lost))
        return ERR_OK;
    enum err err = store_each_user(s, note_lost, &l, ec);
    if (err == ERR_OK && l.ids.failed)
        err = err_set(ec, ERR_NO_MEMORY, "out of memory");
    struct reader r = reader_of(buf_view(&l.ids));
    while (err == ERR_OK && reader_left(&r) > 0) {
        struct erasure e = {0};
        err = store_erase_begin(s, read_lstr(&r), sent, leave, &e, ec);
    }
    buf_release(&l.ids);
    return err == ERR_OK ? end_search(s, ec) : err;
}
