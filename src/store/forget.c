/* Tombstones are kept for tombstone_retention, so that a subscriber that comes back within it learns what was
 * deleted. They carry no time; marks in the manifest (at this time the user's _seq was so much) tell how old
 * one is at least. Before a tombstone goes, the file that still holds its row is rewritten. */
#include "store/cold.h"
#include "store/cold_scan.h"
#include <stdlib.h>
#include <unistd.h>

struct old_tombstone {
    int64_t msg_id;
    uint64_t seq;
};

struct forget {
    struct store *store;
    struct snapshot *snap;
    const struct manifest *m; /* may be NULL */
    uint64_t until;           /* tombstones up to this _seq are old; 0: none */
    size_t expired;           /* marks that are used up */
    bool hides;               /* one of them still hides a cold row */
    struct old_tombstone *rows;
    size_t nrows, cap;
};

static enum err note_tombstone(void *arg, const struct hot_row *row, struct errctx *ec)
{
    struct forget *f = arg;
    struct row_meta meta = row->meta;
    meta.flags |= ROW_TOMBSTONE;
    if (meta.seq > f->until)
        return ERR_OK;
    f->hides |= manifest_row_state(f->m, meta) == ROW_OVERLAY;
    if (f->nrows == f->cap) {
        size_t cap = f->cap == 0 ? 256 : f->cap * 2;
        struct old_tombstone *p = realloc(f->rows, cap * sizeof *p);
        if (p == NULL)
            return err_internal(ec, ERR_NO_MEMORY, "forget: out of memory");
        f->rows = p;
        f->cap = cap;
    }
    f->rows[f->nrows++] = (struct old_tombstone){row->msg_id, meta.seq};
    return ERR_OK;
}

struct forget_op {
    struct commit_op op;
    const struct forget *f;
    uint64_t user_no;
    size_t from, to;
    const struct manifest *m; /* to be put, or NULL */
};

static enum err apply_forget(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct forget_op *o = (struct forget_op *)op;
    struct head *head;
    enum err err = txn_head(txn, o->user_no, &head, ec);
    if (err == ERR_OK && o->m != NULL)
        err = txn_manifest_put(txn, o->user_no, o->m, ec);
    if (err == ERR_OK && o->from < o->to && head->forgotten_seq < o->f->until)
        head->forgotten_seq = o->f->until;
    for (size_t i = o->from; err == ERR_OK && i < o->to; i++) {
        bool done;
        err = txn_tombstone_release(txn, o->user_no, o->f->rows[i].msg_id, o->f->rows[i].seq, &done, ec);
    }
    return err;
}

static enum err forget_rows(struct forget *f, enum consolidate_mode mode, struct errctx *ec)
{
    enum err err = ERR_OK;
    for (size_t at = 0; err == ERR_OK && at < f->nrows;) {
        struct forget_op o = {.op = {.apply = apply_forget, .durability = DURABILITY_SYNC},
            .f = f,
            .user_no = f->snap->user_no,
            .from = at};
        o.to = f->nrows - at > RELEASE_CHUNK ? at + RELEASE_CHUNK : f->nrows;
        if (at > 0 && mode == CONSOLIDATE_DUE)
            usleep(RELEASE_PAUSE_US);
        err = store_commit_wait(f->store, &o.op, ec);
        at = o.to;
        if (err == ERR_OK)
            err = cold_step(f->store, STEP_CHUNK, ec);
    }
    return err;
}

/* Drops the marks used up and sets a new one where deletions came since the last. */
static enum err keep_marks(struct forget *f, int64_t now_us, struct errctx *ec)
{
    const struct head *h = &f->snap->head;
    int64_t spacing = f->store->cfg.tombstone_retention_s * 1000000 / MARKS_PER_RETENTION;
    struct seq_mark marks[MANIFEST_MARKS_MAX];
    size_t n = 0;
    for (size_t i = f->expired; f->m != NULL && i < f->m->nmarks; i++)
        marks[n++] = f->m->marks[i];
    bool kept = h->tombstones > f->nrows;
    bool due = n == 0 || (marks[n - 1].seq < h->seq && marks[n - 1].time_us <= now_us - spacing);
    if (kept && due && n < MANIFEST_MARKS_MAX && (n == 0 || marks[n - 1].time_us < now_us))
        marks[n++] = (struct seq_mark){now_us, h->seq};
    else if (f->expired == 0)
        return ERR_OK;
    struct manifest m = manifest_template(f->m);
    m.epoch = h->cold_epoch + 1;
    m.marks = marks;
    m.nmarks = n;
    struct forget_op o = {.op = {.apply = apply_forget, .durability = DURABILITY_SYNC},
        .f = f,
        .user_no = f->snap->user_no,
        .m = &m};
    return store_commit_wait(f->store, &o.op, ec);
}

/* *ret_again: a file had to be rewritten first; look anew. */
static enum err forget_once(
    struct store *s, uint64_t user_no, enum consolidate_mode mode, bool *ret_again, struct errctx *ec)
{
    struct forget f = {.store = s};
    enum err err = snapshot_open_no(s, user_no, &f.snap, ec);
    if (err != ERR_OK)
        return err;
    int64_t now = os_realtime_us(s->os);
    f.m = f.snap->manifest;
    for (size_t i = 0; f.m != NULL && i < f.m->nmarks; i++)
        if (f.m->marks[i].time_us <= now - s->cfg.tombstone_retention_s * 1000000) {
            f.until = f.m->marks[i].seq;
            f.expired = i + 1;
        }
    if (f.until > 0 && f.snap->head.tombstones > 0)
        err = cold_scan_space(f.snap, SPACE_TOMBSTONES, note_tombstone, &f, ec);
    *ret_again = err == ERR_OK && f.hides;
    if (*ret_again) {
        err = consolidate_absorb(s, user_no, f.until, mode, ec);
    } else if (err == ERR_OK) {
        err = forget_rows(&f, mode, ec);
        if (err == ERR_OK && (f.expired > 0 || f.snap->head.tombstones > 0))
            err = keep_marks(&f, now, ec);
    }
    free(f.rows);
    snapshot_close(f.snap);
    return err;
}

enum err release_tombstones(struct store *s, uint64_t user_no, enum consolidate_mode mode, struct errctx *ec)
{
    bool again = true;
    enum err err = ERR_OK;
    for (int i = 0; err == ERR_OK && again && i < 3; i++)
        err = forget_once(s, user_no, mode, &again, ec);
    if (err != ERR_OK)
        err_path(ec, "forget deletions of user %llu", (unsigned long long)user_no);
    return err;
}
