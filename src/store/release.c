/* What follows a consolidation. Tail rows (hot copies of what a file shows) are deleted unless they are of
 * the tail that chat reads: the newest hot_tail_rows of the TAIL_CONVERSATIONS most recently active
 * conversations, at most TAIL_AGE_US old by their ids.
 *
 * A floor claims that all rows from an id on are hot. Deleting a row needs the floors above it raised;
 * raising them needs nothing. So the user's floor is raised for all chunks by the first, and a conversation's
 * floor by the chunk that deletes its newest released row, which comes first in key order. */
#include "store/cold.h"
#include "store/cold_scan.h"
#include "store/ids.h"
#include <stdlib.h>
#include <unistd.h>

struct released_row {
    uint32_t conv_no;
    int64_t msg_id;
    uint64_t seq;
};

struct released_conversation {
    size_t first_row; /* index of its newest released row */
    struct str id;
    int64_t floor;
};

struct active_conversation {
    uint32_t conv_no;
    int64_t newest;
};

struct release {
    struct store *store;
    struct snapshot *snap;
    const struct manifest *m;
    struct arena arena; /* conversation ids */
    int64_t cutoff_us;

    struct active_conversation active[TAIL_CONVERSATIONS];
    size_t nactive;
    uint64_t fresh_rows, fresh_bytes, overlays; /* as counted */
    bool in_tombstones;

    uint32_t conv_no; /* the one the scan is in; 0: none yet */
    bool conv_active, conv_released;
    int rank;
    int64_t tail_since_us, user_floor;

    struct released_row *rows;
    size_t nrows, rows_cap;
    struct released_conversation *convs;
    size_t nconvs, convs_cap;
};
#define RELEASE_ARENA_BYTES_MAX ((size_t)256 << 20)

static int64_t id_time_us(int64_t msg_id)
{
    return ((msg_id >> IDS_SEQUENCE_BITS) + IDS_EPOCH_MS) * 1000;
}

/* Makes room for one more; the new array, or NULL. */
static void *grow(void *array, size_t count, size_t *cap, size_t size)
{
    if (count < *cap)
        return array;
    size_t want = *cap == 0 ? 256 : *cap * 2;
    void *p = want > SIZE_MAX / size ? NULL : realloc(array, want * size);
    if (p != NULL)
        *cap = want;
    return p;
}

/* ---- survey: who is active, and what the head should count ---- */

static void offer_active(struct release *r, uint32_t conv_no, int64_t newest)
{
    size_t at = r->nactive;
    while (at > 0 && r->active[at - 1].newest < newest)
        at--;
    if (at == TAIL_CONVERSATIONS)
        return;
    size_t end = r->nactive < TAIL_CONVERSATIONS ? r->nactive++ : r->nactive - 1;
    memmove(&r->active[at + 1], &r->active[at], (end - at) * sizeof r->active[0]);
    r->active[at] = (struct active_conversation){conv_no, newest};
}

static enum err survey_row(void *arg, const struct hot_row *row, struct errctx *ec)
{
    struct release *r = arg;
    struct row_meta meta = row->meta;
    (void)ec;
    if (r->in_tombstones)
        meta.flags |= ROW_TOMBSTONE;
    enum row_state state = manifest_row_state(r->m, meta);
    r->overlays += state == ROW_OVERLAY;
    if (r->in_tombstones)
        return ERR_OK;
    if (state == ROW_FRESH) {
        r->fresh_rows++;
        r->fresh_bytes += row->row.len;
    }
    if (row->conv_no != r->conv_no) { /* newest first: so this is its newest */
        r->conv_no = row->conv_no;
        offer_active(r, row->conv_no, row->msg_id);
    }
    return ERR_OK;
}

static enum err survey(struct release *r, struct errctx *ec)
{
    enum err err = cold_scan_space(r->snap, SPACE_MESSAGES, survey_row, r, ec);
    r->in_tombstones = true;
    if (err == ERR_OK && r->m->nfiles > 0 && r->snap->head.tombstones > 0)
        err = cold_scan_space(r->snap, SPACE_TOMBSTONES, survey_row, r, ec);
    r->in_tombstones = false;
    r->conv_no = 0;
    return err;
}

/* ---- selection ---- */

static enum err add_conversation(struct release *r, const struct hot_row *row, struct errctx *ec)
{
    struct row_meta meta;
    struct value values[SCHEMA_COLUMNS_MAX];
    if (row_decode(row->row, &schema_messages, &meta, values) != ERR_OK ||
        values[MSG_CONVERSATION_ID].type != VALUE_TEXT)
        return err_internal(ec, ERR_CORRUPT, "hot row %lld: malformed", (long long)row->msg_id);
    void *p = grow(r->convs, r->nconvs, &r->convs_cap, sizeof *r->convs);
    struct str id = arena_str(&r->arena, values[MSG_CONVERSATION_ID].s);
    if (p == NULL || id.ptr == NULL) {
        r->convs = p != NULL ? p : r->convs;
        return err_internal(ec, ERR_NO_MEMORY, "release: out of memory");
    }
    r->convs = p;
    r->convs[r->nconvs++] = (struct released_conversation){r->nrows, id, row->msg_id + 1};
    return ERR_OK;
}

static enum err add_row(struct release *r, const struct hot_row *row, struct errctx *ec)
{
    void *p = grow(r->rows, r->nrows, &r->rows_cap, sizeof *r->rows);
    if (p == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "release: out of memory");
    r->rows = p;
    if (!r->conv_released) {
        enum err err = add_conversation(r, row, ec);
        if (err != ERR_OK)
            return err;
        r->conv_released = true;
    }
    if (row->msg_id >= r->user_floor)
        r->user_floor = row->msg_id + 1;
    r->rows[r->nrows++] = (struct released_row){row->conv_no, row->msg_id, row->meta.seq};
    return ERR_OK;
}

static void enter_conversation(struct release *r, uint32_t conv_no)
{
    r->conv_no = conv_no;
    r->rank = 0;
    r->conv_released = r->conv_active = false;
    for (size_t i = 0; i < r->nactive; i++)
        r->conv_active |= r->active[i].conv_no == conv_no;
}

static enum err select_row(void *arg, const struct hot_row *row, struct errctx *ec)
{
    struct release *r = arg;
    if (row->conv_no != r->conv_no)
        enter_conversation(r, row->conv_no);
    r->rank++;
    if (manifest_row_state(r->m, row->meta) != ROW_TAIL)
        return ERR_OK;
    int64_t time = id_time_us(row->msg_id);
    /* Behind a released row nothing of the conversation is reachable by its floor: no use in keeping it. */
    if (r->conv_active && !r->conv_released && r->rank <= r->store->cfg.hot_tail_rows &&
        time >= r->cutoff_us) {
        if (r->tail_since_us == 0 || time < r->tail_since_us)
            r->tail_since_us = time;
        return ERR_OK;
    }
    return add_row(r, row, ec);
}

/* ---- deletion ----
 *
 * Without fsync: what a power loss takes back is found pending at the next open. */

struct release_op {
    struct commit_op op;
    struct release *r;
    uint64_t user_no;
    size_t from, to;          /* rows */
    size_t conv, conv_end;    /* conversations whose floor this chunk raises */
    const struct manifest *m; /* to be put, or NULL */
    bool last;
};

static enum err raise_floor(
    struct txn *txn, uint64_t user_no, const struct released_conversation *c, struct errctx *ec)
{
    struct key key = key_named(user_no, SPACE_CONVERSATIONS, c->id);
    struct conversation_record rec;
    struct str value;
    enum err err = txn_get(txn, &key, &value, ec);
    if (err != ERR_OK)
        return err == ERR_NOT_FOUND ? ERR_OK : err;
    if (conversation_record_get(value, &rec) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "release: a conversation record is damaged");
    return rec.hot_floor < c->floor ? txn_conversation_floor(txn, user_no, c->id, c->floor, ec) : ERR_OK;
}

static uint64_t since(uint64_t counted, uint64_t now, uint64_t then)
{
    return counted + now > then ? counted + now - then : 0;
}

static void recount(const struct release *r, struct head *now)
{
    const struct head *then = &r->snap->head;
    now->fresh_rows = since(r->fresh_rows, now->fresh_rows, then->fresh_rows);
    now->fresh_bytes = since(r->fresh_bytes, now->fresh_bytes, then->fresh_bytes);
    now->overlays = since(r->overlays, now->overlays, then->overlays);
    if (now->fresh_rows == 0)
        now->fresh_since_us = 0;
}

static enum err apply_release(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct release_op *o = (struct release_op *)op;
    const struct release *r = o->r;
    struct head *head;
    enum err err = txn_head(txn, o->user_no, &head, ec);
    if (err == ERR_OK && o->m != NULL)
        err = txn_manifest_put(txn, o->user_no, o->m, ec);
    for (size_t i = o->conv; err == ERR_OK && i < o->conv_end; i++)
        err = raise_floor(txn, o->user_no, &r->convs[i], ec);
    for (size_t i = o->from; err == ERR_OK && i < o->to; i++) {
        /* A row that changed since is an overlay now, and stays. */
        bool done;
        err = txn_row_release(
            txn, o->user_no, r->rows[i].conv_no, r->rows[i].msg_id, r->rows[i].seq, &done, ec);
    }
    if (err == ERR_OK && o->last)
        recount(r, head);
    return err;
}

static enum err delete_rows(struct release *r, enum consolidate_mode mode, struct errctx *ec)
{
    struct manifest m = manifest_template(r->m);
    enum err err = ERR_OK;
    size_t at = 0, conv = 0;
    m.epoch = r->snap->head.cold_epoch;
    m.user_floor = r->user_floor;
    do {
        struct release_op o = {.op = {.apply = apply_release, .durability = DURABILITY_ASYNC},
            .r = r,
            .user_no = r->snap->user_no,
            .from = at,
            .conv = conv};
        o.to = r->nrows - at > RELEASE_CHUNK ? at + RELEASE_CHUNK : r->nrows;
        o.last = o.to == r->nrows;
        while (conv < r->nconvs && r->convs[conv].first_row < o.to)
            conv++;
        o.conv_end = conv;
        if (at == 0 || o.last) {
            m.epoch++;
            m.release_pending = !o.last;
            m.tail_since_us = o.last ? r->tail_since_us : m.tail_since_us;
            o.m = &m;
        }
        if (at > 0 && mode == CONSOLIDATE_DUE)
            usleep(RELEASE_PAUSE_US);
        err = store_commit_wait(r->store, &o.op, ec);
        at = o.to;
        if (err == ERR_OK)
            err = cold_step(r->store, o.last ? STEP_RELEASED : STEP_CHUNK, ec);
    } while (err == ERR_OK && at < r->nrows);
    return err;
}

/* The snapshot is of no use once rows are chosen but for its head: what it holds back in RocksDB is little.
 */
enum err release_user(struct store *s, uint64_t user_no, enum consolidate_mode mode, struct errctx *ec)
{
    struct snapshot *snap = NULL;
    enum err err = snapshot_open_no(s, user_no, &snap, ec);
    if (err != ERR_OK)
        return err;
    struct release r = {.store = s, .snap = snap, .m = snap->manifest};
    arena_init(&r.arena, RELEASE_ARENA_BYTES_MAX);
    if (r.m != NULL) {
        r.user_floor = r.m->user_floor;
        r.cutoff_us = os_realtime_us(s->os) - TAIL_AGE_US;
        err = survey(&r, ec);
        if (err == ERR_OK)
            err = cold_scan_space(snap, SPACE_MESSAGES, select_row, &r, ec);
        if (err == ERR_OK && (r.nrows > 0 || r.m->release_pending || r.m->tail_since_us != r.tail_since_us))
            err = delete_rows(&r, mode, ec);
    }
    if (err != ERR_OK)
        err_path(ec, "release");
    arena_release(&r.arena);
    free(r.rows);
    free(r.convs);
    snapshot_close(snap);
    return err;
}
