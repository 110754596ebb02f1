#include "engine/copies.h"
#include "engine/modify_read.h"
#include <stdlib.h>

/* Users whose files one statement of a worker reads. */
enum { USERS_PER_RUN = 32 };

/* One question, of either kind. */
struct asked {
    uint64_t user_no;
    int64_t msg_id;
    struct cold_question *row; /* or */
    struct copy_bounds *bounds;
};

struct run {
    struct kalamdb_query *q;
    struct chat_copies *copies;
    struct str conversation_id, name;
    int nusers;
    struct snapshot *snapshots[USERS_PER_RUN];
    struct str owners[USERS_PER_RUN];
    struct analytic_input inputs[USERS_PER_RUN];
    struct asked *first[USERS_PER_RUN]; /* of the user's questions */
    size_t n[USERS_PER_RUN];
    struct buf sql;
};

static int asked_cmp(const void *a, const void *b)
{
    const struct asked *x = a, *y = b;
    if (x->user_no != y->user_no)
        return x->user_no < y->user_no ? -1 : 1;
    if ((x->bounds != NULL) != (y->bounds != NULL))
        return x->bounds != NULL ? 1 : -1;
    return x->msg_id < y->msg_id ? -1 : x->msg_id > y->msg_id;
}

static struct asked *collect(struct chat_copies *copies, size_t *ret_n)
{
    struct asked *all = malloc((chat_copies_open(copies) + 1) * sizeof *all);
    size_t n = 0;
    for (size_t i = 0; all != NULL && i < copies->rows.n; i++) {
        struct cold_question *row = &copies->rows.items[i];
        if (!row->answered)
            all[n++] = (struct asked){row->user_no, row->msg_id, row, NULL};
    }
    for (size_t i = 0; all != NULL && i < copies->nbounds; i++) {
        struct copy_bounds *b = &copies->bounds[i];
        if (!b->answered)
            all[n++] = (struct asked){b->user_no, b->without, NULL, b};
    }
    if (n > 1)
        qsort(all, n, sizeof *all, asked_cmp);
    *ret_n = n;
    return all;
}

/* What the files of user k are asked, as part of the one statement; numbers and a quoted id only. */
static void ask(struct run *r, int k, struct scan_bounds *bounds)
{
    struct buf *sql = &r->sql;
    size_t rows = 0;
    *bounds = SCAN_BOUNDS_OPEN;
    for (size_t i = 0; i < r->n[k]; i++) {
        const struct asked *a = &r->first[k][i];
        if (a->bounds != NULL)
            continue;
        if (rows++ == 0) {
            buf_printf(sql,
                "%sSELECT CAST(%d AS BIGINT) AS u, CAST(0 AS BIGINT) AS kind, msg_id AS a, _seq AS b, "
                "_ins_seq AS c, conversation_id AS d FROM scan_%d WHERE msg_id IN (",
                sql->len > 0 ? " UNION ALL " : "", k, k);
            bounds->id_min = a->msg_id;
        } else {
            buf_u8(sql, ',');
        }
        buf_i64(sql, a->msg_id);
        bounds->id_max = a->msg_id;
    }
    if (rows > 0)
        buf_u8(sql, ')');
    for (size_t i = rows; i < r->n[k]; i++) {
        *bounds = SCAN_BOUNDS_OPEN;
        bounds->conversation_id = r->conversation_id;
        buf_printf(sql,
            "%sSELECT CAST(%d AS BIGINT), CAST(1 AS BIGINT), CAST(%lld AS BIGINT), "
            "coalesce(min(msg_id), 0), coalesce(max(msg_id), 0), CAST(NULL AS VARCHAR) FROM scan_%d "
            "WHERE msg_id <> %lld "
            "AND conversation_id = ",
            sql->len > 0 ? " UNION ALL " : "", k, (long long)r->first[k][i].msg_id, k,
            (long long)r->first[k][i].msg_id);
        modify_quote(sql, r->conversation_id);
    }
}

static void take_row(struct run *r, const struct value *v)
{
    int k = (int)v[0].i;
    if (k < 0 || k >= r->nusers)
        return;
    struct copy_bounds b = {0};
    struct asked want = {
        .user_no = r->first[k]->user_no, .msg_id = v[2].i, .bounds = v[1].i != 0 ? &b : NULL};
    struct asked *a = bsearch(&want, r->first[k], r->n[k], sizeof *a, asked_cmp);
    if (a == NULL)
        return;
    if (a->row != NULL) {
        cold_lookup_answer(&r->copies->rows, a->row, snapshot_cold_epoch(r->snapshots[k]), true,
            (uint64_t)v[3].i, (uint64_t)v[4].i);
        a->row->conversation = value_is_null(v[5]) ? 0 : str_hash(v[5].s);
    } else {
        a->bounds->first = v[3].i;
        a->bounds->last = v[4].i;
    }
}

/* All that were asked are answered; rows that came back say more. */
static void take(struct run *r, const struct rowset *rows)
{
    for (int k = 0; k < r->nusers; k++) {
        uint64_t epoch = snapshot_cold_epoch(r->snapshots[k]);
        for (size_t i = 0; i < r->n[k]; i++) {
            struct asked *a = &r->first[k][i];
            if (a->row != NULL) {
                cold_lookup_answer(&r->copies->rows, a->row, epoch, false, 0, 0);
            } else {
                a->bounds->answered = true;
                a->bounds->epoch = epoch;
                r->copies->open_bounds--;
            }
        }
    }
    for (size_t i = 0; i < rows->nrows; i++)
        take_row(r, rowset_row(rows, i));
}

static enum err run_batch(struct run *r, struct asked *all, size_t n, size_t *at)
{
    struct kalamdb_query *q = r->q;
    enum err e = ERR_OK;
    while (e == ERR_OK && *at < n && r->nusers < USERS_PER_RUN) {
        int k = r->nusers;
        struct scan_bounds bounds;
        r->first[k] = &all[*at];
        r->n[k] = 0;
        while (*at < n && all[*at].user_no == r->first[k]->user_no) {
            r->n[k]++;
            ++*at;
        }
        e = snapshot_open_no(q->db->store, r->first[k]->user_no, &r->snapshots[k], &q->ec);
        if (e != ERR_OK)
            return e;
        r->nusers++;
        r->owners[k] = snapshot_user_id(r->snapshots[k]);
        ask(r, k, &bounds);
        e = snapshot_input(r->snapshots[k], &schema_messages, &bounds, false, &r->inputs[k], &q->ec);
    }
    struct rowset rows;
    if (e == ERR_OK && r->sql.failed)
        e = query_no_memory(q, "look-up of copies");
    if (e == ERR_OK) {
        struct read_set rs = {.nsnapshots = r->nusers,
            .owners = r->owners,
            .snapshots = r->snapshots,
            .ninputs = r->nusers,
            .inputs = r->inputs};
        /* One group, one worker, which only ever sees statements of this file: its name, unlike those of
         * users, begins with NUL. */
        if (r->name.ptr != NULL) {
            rs.nsnapshots = 1;
            rs.owners = &r->name;
        }
        e = read_worker(q, &rs, buf_view(&r->sql), 0, &rows);
    }
    if (e != ERR_OK)
        return e;
    take(r, &rows);
    rowset_release(&rows);
    return ERR_OK;
}

enum err copies_answer(struct kalamdb_query *q, struct chat_copies *copies, struct str conversation_id)
{
    size_t n, at = 0;
    struct asked *all = collect(copies, &n);
    if (all == NULL)
        return query_no_memory(q, "look-up of copies");
    enum err e = ERR_OK;
    struct buf name = BUF_INIT(0);
    buf_u8(&name, 0);
    buf_str(&name, conversation_id);
    if (name.failed)
        e = query_no_memory(q, "look-up of copies");
    while (e == ERR_OK && at < n) {
        struct run r = {.q = q, .copies = copies, .conversation_id = conversation_id, .sql = BUF_INIT(0)};
        r.name = conversation_id.len > 0 ? buf_view(&name) : STR_NULL;
        e = run_batch(&r, all, n, &at);
        for (int k = 0; k < r.nusers; k++)
            snapshot_close(r.snapshots[k]);
        buf_release(&r.sql);
    }
    buf_release(&name);
    free(all);
    return e;
}
