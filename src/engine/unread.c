#include "engine/unread.h"

/* The marker that row i sets, as a number; false: the row sets none, or nothing needs counting. */
static enum err marker_of(
    struct kalamdb_query *q, struct snapshot *snap, size_t i, int64_t *ret, bool *ret_counts)
{
    struct chat_row_change *row = &q->modify->update.rows[i];
    struct value values[CONV_NCOLUMNS], set = row->set[MEMBER_LAST_READ_MSG_ID];
    *ret = value_is_null(set) ? 0 : set.i;
    *ret_counts = false;
    if (!str_eq(row->values[MEMBER_USER_ID].s, q->stmt->target_owner))
        return ERR_OK;
    enum err e = snapshot_conversation(snap, row->values[MEMBER_CONVERSATION_ID].s, values, &q->ec);
    if (e == ERR_NOT_FOUND) {
        errctx_clear(&q->ec);
        return ERR_OK;
    }
    *ret_counts =
        e == ERR_OK && !value_is_null(values[CONV_LAST_MSG_ID]) && *ret < values[CONV_LAST_MSG_ID].i;
    return e;
}

static bool foreign(struct value from, struct str self)
{
    return value_is_null(from) || !str_eq(from.s, self);
}

/* By the hot tier, where it holds everything above the marker. *ret_left: rows that may still be visited. */
static enum err count_hot(struct kalamdb_query *q, struct snapshot *snap, struct str conversation,
    int64_t marker, size_t *ret_left, int64_t *ret, bool *ret_done)
{
    struct scan_spec spec = {.order = SCAN_BY_CONVERSATION,
        .descending = true,
        .conversation_id = conversation,
        .id_min = marker < 0 ? 0 : marker + 1,
        .id_max = INT64_MAX,
        .seq_max = UINT64_MAX};
    struct hot_iter *it;
    struct str row;
    struct row_meta meta;
    struct value values[MSG_NCOLUMNS];
    *ret_done = false;
    if (marker == INT64_MAX || snapshot_conversation_floor(snap, conversation) > spec.id_min)
        return ERR_OK;
    enum err e = hot_iter_open(snap, &spec, &it, &q->ec);
    if (e != ERR_OK)
        return e;
    int64_t n = 0;
    while (*ret_left > 0 && (e = hot_iter_next(it, &row, &q->ec)) == ERR_OK) {
        --*ret_left;
        if (row_decode(row, &schema_messages, &meta, values) != ERR_OK) {
            e = err_internal(&q->ec, ERR_CORRUPT, "hot row does not decode");
            break;
        }
        n += (meta.flags & ROW_TOMBSTONE) == 0 && foreign(values[MSG_FROM], q->stmt->target_owner);
    }
    hot_iter_close(it);
    if (e == ERR_NOT_FOUND) {
        errctx_clear(&q->ec);
        *ret = n;
        *ret_done = true;
        e = ERR_OK;
    }
    return e;
}

static void take_counts(struct kalamdb_query *q, const struct rowset *out, const bool *wanted)
{
    struct chat_update *u = &q->modify->update;
    for (size_t i = 0; i < u->nrows; i++) {
        if (wanted[i])
            u->rows[i].count.unread = 0;
    }
    for (size_t k = 0; k < out->nrows; k++) {
        const struct value *v = rowset_row(out, k);
        if (v[0].i >= 0 && (size_t)v[0].i < u->nrows)
            u->rows[v[0].i].count.unread = v[1].i;
    }
}

/* All rows that are left by one worker. */
static enum err count_worker(
    struct kalamdb_query *q, struct snapshot *snap, const int64_t *markers, const bool *wanted)
{
    struct chat_update *u = &q->modify->update;
    struct buf sql = BUF_INIT(0);
    struct scan_bounds bounds = SCAN_BOUNDS_OPEN;
    struct analytic_input input;
    struct rowset out;
    size_t n = 0;
    bounds.id_min = INT64_MAX;
    buf_str(&sql, STR("SELECT v.n, count(*) FROM scan_0 m JOIN (VALUES "));
    for (size_t i = 0; i < u->nrows; i++) {
        if (!wanted[i])
            continue;
        bounds.conversation_id = n == 0 ? u->rows[i].values[MEMBER_CONVERSATION_ID].s : STR_NULL;
        bounds.id_min = markers[i] < bounds.id_min ? markers[i] : bounds.id_min;
        buf_printf(&sql, "%s(CAST(%zu AS BIGINT), ", n++ > 0 ? "," : "", i);
        modify_quote(&sql, u->rows[i].values[MEMBER_CONVERSATION_ID].s);
        buf_printf(&sql, ", CAST(%lld AS BIGINT))", (long long)markers[i]);
    }
    bounds.id_min = bounds.id_min < 0 ? 0 : bounds.id_min;
    buf_str(&sql, STR(") v(n, c, k) ON m.conversation_id = v.c WHERE m.msg_id > v.k AND m.\"from\" IS "
                      "DISTINCT FROM "));
    modify_quote(&sql, q->stmt->target_owner);
    buf_str(&sql, STR(" GROUP BY v.n"));
    enum err e = sql.failed ? query_no_memory(q, "count of unread messages")
                            : snapshot_input(snap, &schema_messages, &bounds, false, &input, &q->ec);
    if (e == ERR_OK) {
        struct read_set rs = {
            .nsnapshots = 1, .owners = (struct str *)&q->stmt->target_owner, .ninputs = 1, .inputs = &input};
        e = read_worker(q, &rs, buf_view(&sql), 0, &out);
    }
    buf_release(&sql);
    if (e != ERR_OK)
        return e;
    take_counts(q, &out, wanted);
    rowset_release(&out);
    return ERR_OK;
}

static enum err count_rows(struct kalamdb_query *q, struct snapshot *snap, size_t visited_max, bool may_block,
    enum fast_verdict *ret)
{
    struct modify *m = q->modify;
    struct chat_update *u = &m->update;
    bool *wanted = arena_array(&m->arena, u->nrows, sizeof *wanted), any = false;
    int64_t *markers = arena_array(&m->arena, u->nrows, sizeof *markers);
    size_t left = visited_max;
    if (wanted == NULL || markers == NULL)
        return query_no_memory(q, "unread messages");
    for (size_t i = 0; i < u->nrows; i++) {
        struct chat_row_change *row = &u->rows[i];
        bool counts, done;
        enum err e = marker_of(q, snap, i, &markers[i], &counts);
        if (e != ERR_OK)
            return e;
        if (!counts)
            continue;
        e = count_hot(
            q, snap, row->values[MEMBER_CONVERSATION_ID].s, markers[i], &left, &row->count.unread, &done);
        if (e != ERR_OK)
            return e;
        row->count.seq = snapshot_seq(snap);
        row->count.cold_epoch = snapshot_cold_epoch(snap);
        row->counted = true;
        wanted[i] = !done;
        any = any || !done;
    }
    if (any && !may_block)
        *ret = FAST_COLD;
    return any && may_block ? count_worker(q, snap, markers, wanted) : ERR_OK;
}

enum err unread_count(struct kalamdb_query *q, size_t visited_max, bool may_block, enum fast_verdict *ret)
{
    struct chat_update *u = &q->modify->update;
    struct snapshot *snap;
    *ret = FAST_DONE;
    if (u->schema != &schema_conversation_users || u->nrows == 0 ||
        (u->columns & UINT64_C(1) << MEMBER_LAST_READ_MSG_ID) == 0)
        return ERR_OK;
    enum err e = snapshot_open(q->db->store, q->stmt->target_owner, &snap, &q->ec);
    if (e != ERR_OK)
        return e;
    e = count_rows(q, snap, visited_max, may_block, ret);
    snapshot_close(snap);
    return e;
}
