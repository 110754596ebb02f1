/* One consolidation: choose, write, commit. The choice is made on one snapshot:
 *
 *   fresh rows due      the batch: arrivals up to a new watermark, bounded in rows and bytes, together with
 * the newest files while these are small against it, so that sizes grow by MERGE_RATIO from file to file and
 * their number with the logarithm of the rows else overlays due   the file that has most of them, rewritten;
 * on request every file that has any
 *
 * Files replaced are always neighbours, because what they cover becomes one range. */
#include "base/plant.h"
#include "store/batch.h"
#include "store/cold.h"
#include <stdlib.h>
#include <unistd.h>

struct arrival {
    uint64_t ins_seq, bytes;
};

enum goal {
    GOAL_DUE,
    GOAL_REQUEST, /* every fresh row and overlay up to `until` */
    GOAL_ABSORB   /* every hidden deletion up to `until` */
};

struct plan {
    struct store *store;
    struct snapshot *snap;
    enum goal goal;
    uint64_t until;
    const struct manifest *m; /* NULL: no cold tier yet */
    size_t nfiles;
    uint64_t watermark; /* as it is */

    /* survey */
    uint64_t window; /* arrivals up to here are collected */
    uint64_t first_fresh, fresh_rows, fresh_bytes;
    struct arrival *arrivals;
    size_t narrivals, arrivals_cap;
    uint64_t overlays_total, *overlays; /* by file: rows whose hot version hides one of the file */
    bool *rewrite;                      /* by file: the goal asks for it */
    bool in_tombstones;

    /* choice */
    size_t first, last; /* files [first, last) are replaced */
    uint64_t new_watermark, batch_rows, batch_bytes;
};

static void plan_release(struct plan *p)
{
    free(p->arrivals);
    free(p->overlays);
    free(p->rewrite);
}

static enum err add_arrival(struct plan *p, const struct hot_row *row, struct errctx *ec)
{
    if (p->narrivals == p->arrivals_cap) {
        size_t cap = p->arrivals_cap == 0 ? 1024 : p->arrivals_cap * 2;
        struct arrival *a = realloc(p->arrivals, cap * sizeof *a);
        if (a == NULL)
            return err_internal(ec, ERR_NO_MEMORY, "consolidate: out of memory");
        p->arrivals = a;
        p->arrivals_cap = cap;
    }
    p->arrivals[p->narrivals++] = (struct arrival){row->meta.ins_seq, row->row.len};
    return ERR_OK;
}

static enum err survey_row(void *arg, const struct hot_row *row, struct errctx *ec)
{
    struct plan *p = arg;
    struct row_meta meta = row->meta;
    if (p->in_tombstones)
        meta.flags |= ROW_TOMBSTONE;
    if ((meta.flags & ROW_OPEN) != 0)
        return ERR_OK; /* passed by, until it is closed */
    enum row_state state = manifest_row_state(p->m, meta);
    if (state == ROW_OVERLAY) {
        size_t i = (size_t)(manifest_file_of(p->m, meta.ins_seq) - p->m->files);
        p->overlays[i]++;
        p->overlays_total++;
        if (meta.seq <= p->until && (p->goal == GOAL_REQUEST || p->in_tombstones))
            p->rewrite[i] = true;
    }
    if (state != ROW_FRESH || p->in_tombstones)
        return ERR_OK;
    p->fresh_rows++;
    p->fresh_bytes += row->row.len;
    if (meta.ins_seq < p->first_fresh)
        p->first_fresh = meta.ins_seq;
    return meta.ins_seq <= p->window ? add_arrival(p, row, ec) : ERR_OK;
}

static enum err survey(struct plan *p, struct errctx *ec)
{
    p->overlays = calloc(p->nfiles + 1, sizeof *p->overlays);
    p->rewrite = calloc(p->nfiles + 1, sizeof *p->rewrite);
    if (p->overlays == NULL || p->rewrite == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "consolidate: out of memory");
    p->first_fresh = UINT64_MAX;
    p->window = p->watermark + BATCH_ROWS_MAX;
    enum err err = cold_scan_space(p->snap, SPACE_MESSAGES, survey_row, p, ec);
    if (err == ERR_OK && p->narrivals == 0 && p->fresh_rows > 0) {
        /* Everything that arrived in the window is deleted: begin at the first that is not. */
        p->window = p->first_fresh - 1 + BATCH_ROWS_MAX;
        p->overlays_total = p->fresh_rows = p->fresh_bytes = 0;
        memset(p->overlays, 0, p->nfiles * sizeof *p->overlays);
        err = cold_scan_space(p->snap, SPACE_MESSAGES, survey_row, p, ec);
    }
    p->in_tombstones = true;
    if (err == ERR_OK && p->nfiles > 0 && p->snap->head.tombstones > 0)
        err = cold_scan_space(p->snap, SPACE_TOMBSTONES, survey_row, p, ec);
    p->in_tombstones = false;
    return err;
}

bool consolidate_due(const struct store_config *cfg, uint64_t fresh_rows, int64_t since_us, int64_t now_us,
    int64_t *ret_due_us)
{
    uint64_t rows = cfg->consolidate_rows > 0 ? (uint64_t)cfg->consolidate_rows : 1;
    uint64_t min_rows = cfg->consolidate_min_rows > 0 ? (uint64_t)cfg->consolidate_min_rows : 1;
    int64_t due = INT64_MAX;
    if (fresh_rows >= rows)
        due = 0;
    else if (fresh_rows >= min_rows)
        due = since_us + cfg->consolidate_interval_ms * 1000;
    *ret_due_us = due;
    return due <= now_us;
}

static int by_arrival(const void *a, const void *b)
{
    const struct arrival *x = a, *y = b;
    return x->ins_seq < y->ins_seq ? -1 : x->ins_seq > y->ins_seq;
}

/* The new watermark: as far as the limits allow, and up to the snapshot where they do not matter. */
static void choose_batch(struct plan *p)
{
    size_t n = 0;
    qsort(p->arrivals, p->narrivals, sizeof *p->arrivals, by_arrival);
    for (; n < p->narrivals; n++) {
        if (n > 0 && p->batch_bytes + p->arrivals[n].bytes > BATCH_BYTES_MAX)
            break;
        p->batch_bytes += p->arrivals[n].bytes;
    }
    p->batch_rows = n;
    p->new_watermark = n == p->fresh_rows ? p->snap->head.seq : p->arrivals[n - 1].ins_seq;
}

static void choose_merge(struct plan *p)
{
    uint64_t rows = p->batch_rows, bytes = p->batch_bytes / 4; /* about what zstd makes of them */
    p->first = p->last = p->nfiles;
    while (p->first > 0) {
        const struct cold_file *f = &p->m->files[p->first - 1];
        if (f->rows > rows * MERGE_RATIO || rows + f->rows > MERGE_ROWS_MAX ||
            bytes + f->bytes > MERGE_BYTES_MAX)
            return;
        rows += f->rows;
        bytes += f->bytes;
        p->first--;
    }
}

static bool choose_rewrite(struct plan *p)
{
    size_t worst = 0;
    uint64_t total_max = p->store->cfg.consolidate_rows > 0 ? (uint64_t)p->store->cfg.consolidate_rows : 1;
    for (size_t i = 0; i < p->nfiles; i++) {
        if (p->rewrite[i]) {
            p->first = i;
            p->last = i + 1;
            return true;
        }
        if (p->overlays[i] > p->overlays[worst])
            worst = i;
    }
    if (p->goal != GOAL_DUE || p->overlays_total == 0)
        return false;
    if (p->overlays[worst] < p->m->files[worst].rows / REWRITE_RATIO && p->overlays_total < total_max)
        return false;
    p->first = worst;
    p->last = worst + 1;
    return true;
}

static bool fresh_due(const struct plan *p)
{
    const struct store *s = p->store;
    int64_t due;
    if (p->fresh_rows == 0 || p->goal != GOAL_DUE)
        return p->fresh_rows > 0 && p->goal == GOAL_REQUEST && p->first_fresh <= p->until;
    return p->fresh_bytes >= BATCH_BYTES_MAX ||
           consolidate_due(&s->cfg, p->fresh_rows, p->snap->head.fresh_since_us, os_realtime_us(s->os), &due);
}

/* False: nothing to do. */
static bool choose(struct plan *p)
{
    p->new_watermark = p->watermark;
    if (!fresh_due(p))
        return choose_rewrite(p);
    choose_batch(p);
    choose_merge(p);
    return true;
}

/* ---- writing ---- */

struct copy {
    struct plan *plan;
    struct batch *batch;
    bool *files; /* replaced, by index */
    bool in_tombstones;
};

static enum err copy_row(void *arg, const struct hot_row *row, struct errctx *ec)
{
    struct copy *c = arg;
    const struct plan *p = c->plan;
    bool excludes = p->m != NULL && cold_row_excludes(p->m, c->files, row, c->in_tombstones);
    if (PLANT(TOMBSTONE_FORGOTTEN) && c->in_tombstones)
        return ERR_OK;
    enum err err = excludes ? row_sink_exclude(&c->batch->sink, row->msg_id, ec) : ERR_OK;
    if (err != ERR_OK || c->in_tombstones || (row->meta.flags & ROW_OPEN) != 0)
        return err;
    bool fresh = manifest_row_state(p->m, row->meta) == ROW_FRESH && row->meta.ins_seq <= p->new_watermark;
    return excludes || fresh ? batch_add(c->batch, row, ec) : ERR_OK;
}

static enum err copy_rows(struct plan *p, struct batch *b, struct errctx *ec)
{
    struct copy c = {.plan = p, .batch = b, .files = calloc(p->nfiles + 1, sizeof(bool))};
    if (c.files == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "consolidate: out of memory");
    for (size_t i = p->first; i < p->last; i++)
        c.files[i] = true;
    enum err err = cold_scan_space(p->snap, SPACE_MESSAGES, copy_row, &c, ec);
    c.in_tombstones = true;
    if (err == ERR_OK && p->last > p->first && p->snap->head.tombstones > 0)
        err = cold_scan_space(p->snap, SPACE_TOMBSTONES, copy_row, &c, ec);
    free(c.files);
    return err;
}

static enum err write_batch(struct plan *p, struct batch *b, struct errctx *ec)
{
    int n = 0, *fds = calloc(p->last - p->first + 1, sizeof *fds);
    enum err err = fds != NULL ? ERR_OK : err_internal(ec, ERR_NO_MEMORY, "consolidate: out of memory");
    for (size_t i = p->first; err == ERR_OK && i < p->last; i++) {
        err = batch_add_file(b, &p->m->files[i], ec);
        if (err == ERR_OK)
            err = cold_file_open(p->snap, &p->m->files[i], &fds[n], ec);
        n += err == ERR_OK;
    }
    if (err == ERR_OK)
        err = copy_rows(p, b, ec);
    if (err == ERR_OK)
        err = cold_step(p->store, STEP_SNAPSHOT, ec);
    if (err == ERR_OK)
        err = batch_write(b, p->snap, n, fds, ec);
    for (int i = 0; i < n; i++)
        close(fds[i]);
    free(fds);
    if (err != ERR_OK)
        return err;
    bool fresh = p->new_watermark > p->watermark;
    b->file.ins_min = p->first < p->last ? p->m->files[p->first].ins_min : p->watermark + 1;
    b->file.ins_max = fresh ? p->new_watermark : p->m->files[p->last - 1].ins_max;
    b->file.as_of = p->snap->head.seq;
    return ERR_OK;
}

/* ---- committing ---- */

struct manifest_commit {
    struct commit_op op;
    const struct plan *plan;
    uint64_t user_no;
    struct manifest m;
};

static uint64_t sub(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

static enum err apply_manifest(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct manifest_commit *c = (struct manifest_commit *)op;
    const struct plan *p = c->plan;
    const struct head *then = &p->snap->head;
    struct head *now;
    enum err err = txn_head(txn, c->user_no, &now, ec);
    if (err == ERR_OK)
        err = txn_manifest_put(txn, c->user_no, &c->m, ec);
    if (err != ERR_OK)
        return err;
    /* Between snapshot and commit rows came, changed and went; which of them belong to the batch is not known
     * here. Overlays must not be counted too low: each change since may be one. The release recounts. */
    uint64_t changes = now->seq - then->seq, absorbed = 0;
    for (size_t i = p->first; i < p->last; i++)
        absorbed += p->overlays[i];
    now->overlays = sub(p->overlays_total, absorbed) + changes;
    now->fresh_rows = sub(p->fresh_rows - p->batch_rows + now->fresh_rows, then->fresh_rows);
    now->fresh_bytes = sub(p->fresh_bytes - p->batch_bytes + now->fresh_bytes, then->fresh_bytes);
    if (p->fresh_rows == p->batch_rows)
        now->fresh_since_us = now->fresh_rows > 0 ? txn_now_us(txn) : 0;
    return ERR_OK;
}

/* Names of the old list that are still on disk, and those replaced now. `name` is the new file's. */
static size_t list_garbage(const struct plan *p, struct str name, struct str *garbage)
{
    size_t n = 0;
    struct buf path = BUF_INIT(8192);
    for (size_t i = 0; p->m != NULL && i < p->m->ngarbage; i++) {
        buf_clear(&path);
        cold_path(&path, p->store, head_user_id(&p->snap->head), p->m->garbage[i]);
        if (!str_eq(p->m->garbage[i], name) && (path.failed || access(path.ptr, F_OK) == 0))
            garbage[n++] = p->m->garbage[i];
    }
    buf_release(&path);
    for (size_t i = p->first; i < p->last; i++)
        garbage[n++] = p->m->files[i].name;
    return n;
}

static void draft(struct manifest_commit *c, const struct plan *p, const struct batch *b,
    struct cold_file *files, struct str *garbage)
{
    struct manifest *m = &c->m;
    size_t n = 0;
    *m = manifest_template(p->m);
    m->cold_max_seq = 0;
    for (size_t i = 0; i < p->first; i++)
        files[n++] = p->m->files[i];
    if (b->file.rows > 0)
        files[n++] = b->file;
    for (size_t i = p->last; i < p->nfiles; i++)
        files[n++] = p->m->files[i];
    m->epoch = p->snap->head.cold_epoch + 1;
    m->watermark = p->new_watermark;
    m->release_pending = true;
    m->files = files;
    m->nfiles = n;
    for (size_t i = 0; i < n; i++)
        m->cold_max_seq = files[i].seq_max > m->cold_max_seq ? files[i].seq_max : m->cold_max_seq;
    m->garbage = garbage;
    m->ngarbage = list_garbage(p, b->file.name, garbage);
}

static void bury_replaced(const struct plan *p)
{
    struct buf path = BUF_INIT(8192);
    for (size_t i = p->first; i < p->last; i++) {
        buf_clear(&path);
        cold_path(&path, p->store, head_user_id(&p->snap->head), p->m->files[i].name);
        if (PLANT(REPLACED_GO_EARLY) && !path.failed)
            p->store->os->unlink(p->store->os->ctx, path.ptr);
        else if (!path.failed)
            pins_bury(&p->store->pins, path.ptr);
    }
    buf_release(&path);
}

static void count_files(const struct plan *p, const struct manifest *m)
{
    struct store *s = p->store;
    atomic_fetch_add(&s->rows_cold, manifest_rows(m) - manifest_rows(p->m));
    atomic_fetch_add(&s->bytes_cold, manifest_bytes(m) - manifest_bytes(p->m));
    atomic_fetch_add(&s->files_cold, m->nfiles - p->nfiles);
}

static enum err commit_batch(struct plan *p, struct batch *b, struct errctx *ec)
{
    struct manifest_commit c = {.op = {.apply = apply_manifest, .durability = DURABILITY_SYNC},
        .plan = p,
        .user_no = p->snap->user_no};
    size_t ngarbage = (p->m != NULL ? p->m->ngarbage : 0) + (p->last - p->first);
    struct cold_file *files = calloc(p->nfiles + 1, sizeof *files);
    struct str *garbage = calloc(ngarbage + 1, sizeof *garbage);
    enum err err = files != NULL && garbage != NULL
                       ? ERR_OK
                       : err_internal(ec, ERR_NO_MEMORY, "consolidate: out of memory");
    if (err == ERR_OK) {
        draft(&c, p, b, files, garbage);
        if (PLANT(REPLACED_GO_EARLY))
            bury_replaced(p);
        err = store_commit_wait(p->store, &c.op, ec);
    }
    if (err == ERR_OK) {
        count_files(p, &c.m);
        err = cold_step(p->store, STEP_MANIFEST, ec);
        if (err == ERR_OK) /* else the manifest's garbage list tells the next open */
            bury_replaced(p);
    } else if (err != ERR_OUTCOME_UNKNOWN && b->file.rows > 0) {
        /* After an unknown outcome the manifest may name the file; if it does not, the next open sets it
         * aside. */
        batch_discard(b, p->store);
    }
    if (files != NULL) /* keys */
        explicit_bzero(files, (p->nfiles + 1) * sizeof *files);
    free(files);
    free(garbage);
    return err;
}

static enum err execute(struct plan *p, struct errctx *ec)
{
    struct batch b;
    batch_init(&b);
    enum err err = write_batch(p, &b, ec);
    if (err == ERR_TOO_LARGE && p->new_watermark > p->watermark && p->first < p->last) {
        /* More than a worker can sort: the fresh rows alone. */
        batch_release(&b);
        batch_init(&b);
        p->first = p->last;
        err = write_batch(p, &b, ec);
    }
    if (err == ERR_OK)
        err = commit_batch(p, &b, ec);
    batch_release(&b);
    return err;
}

/* One choice and its execution. *ret_done: there was one; *ret_pending: there is something to release.
 * `until`: 0 means as of now, and is set so. */
static enum err consolidate_once(struct store *s, uint64_t user_no, enum goal goal, uint64_t *until,
    bool *ret_done, bool *ret_pending, struct errctx *ec)
{
    struct snapshot *snap = NULL;
    enum err err = store_writable(s, ec);
    if (err == ERR_OK)
        err = snapshot_open_no(s, user_no, &snap, ec);
    if (err != ERR_OK)
        return err;
    *until = *until == 0 ? snap->head.seq : *until;
    struct plan p = {.store = s, .snap = snap, .m = snap->manifest, .goal = goal, .until = *until};
    p.nfiles = p.m != NULL ? p.m->nfiles : 0;
    p.watermark = p.m != NULL ? p.m->watermark : 0;
    *ret_done = false;
    err = survey(&p, ec);
    if (err == ERR_OK && choose(&p)) {
        *ret_done = true;
        err = execute(&p, ec);
    }
    if (err == ERR_OK && *ret_done)
        atomic_fetch_add(&s->consolidator->consolidations, 1);
    *ret_pending = *ret_done || (p.m != NULL && p.m->release_pending);
    plan_release(&p);
    snapshot_close(snap);
    return err;
}

/* What is still due after PASSES_DUE comes up again by itself; other users have waited. */
enum { PASSES_DUE = 4 };

static enum err consolidate_all(struct store *s, uint64_t user_no, enum consolidate_mode mode, enum goal goal,
    uint64_t until, struct errctx *ec)
{
    bool done = true, pending = false;
    enum err err = ERR_OK;
    for (int i = 0; err == ERR_OK && done && (goal != GOAL_DUE || i < PASSES_DUE); i++) {
        err = consolidate_once(s, user_no, goal, &until, &done, &pending, ec);
        if (err == ERR_OK && pending)
            err = release_user(s, user_no, mode, ec);
    }
    if (err != ERR_OK)
        err_path(ec, "consolidate user %llu", (unsigned long long)user_no);
    return err;
}

enum err consolidate_user(struct store *s, uint64_t user_no, enum consolidate_mode mode, struct errctx *ec)
{
    return consolidate_all(s, user_no, mode, mode == CONSOLIDATE_REQUEST ? GOAL_REQUEST : GOAL_DUE, 0, ec);
}

enum err consolidate_absorb(
    struct store *s, uint64_t user_no, uint64_t seq, enum consolidate_mode mode, struct errctx *ec)
{
    return consolidate_all(s, user_no, mode, GOAL_ABSORB, seq, ec);
}
