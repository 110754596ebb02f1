#include "base/json.h"
#include "live/catchup.h"
#include <stdlib.h>

/* ---- hot ---- */

/* What the row's last change means to somebody who has all up to s->from: nothing, for a row that came and
 * went. */
static bool fold(const struct catchup *s, struct row_meta meta, enum change_op *ret)
{
    bool arrived = meta.ins_seq > s->from;
    if ((meta.flags & ROW_TOMBSTONE) != 0) {
        *ret = CHANGE_DELETE;
        return !arrived;
    }
    *ret = arrived ? CHANGE_INSERT : CHANGE_UPDATE;
    return true;
}

static enum err add_hot(struct catchup *s, struct batch *b, struct buf *rows, struct str row)
{
    struct value values[MSG_NCOLUMNS];
    struct row_meta meta;
    enum err e = row_decode(row, &schema_messages, &meta, values);
    if (e != ERR_OK)
        return e;
    if (meta.seq <= s->done || meta.seq > s->to || values[MSG_ID].type != VALUE_BIGINT)
        return ERR_CORRUPT;
    enum change_op op;
    if (fold(s, meta, &op))
        changes_add(b, rows, op, meta.seq, values[MSG_ID].i, row);
    s->done = meta.seq;
    return ERR_OK;
}

static enum err read_rows(
    struct catchup *s, struct hot_iter *it, uint64_t end, struct batch *b, struct buf *rows)
{
    struct errctx ec;
    while (b->n < b->cap && rows->len < HOT_BYTES) {
        struct str row;
        enum err e = hot_iter_next(it, &row, &ec);
        if (e == ERR_NOT_FOUND) {
            s->done = end;
            return ERR_OK;
        }
        if (e == ERR_OK)
            e = add_hot(s, b, rows, row);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

/* Takes over b and rows. */
static enum err keep(struct catchup *s, struct batch *b, struct buf *rows, enum err e)
{
    if (e == ERR_OK && !changes_seal(b, rows))
        e = ERR_NO_MEMORY;
    buf_release(rows);
    if (e != ERR_OK || b->n == 0) {
        changes_unref(b);
        return e;
    }
    s->batch = b;
    return ERR_OK;
}

enum err catchup_read_hot(struct catchup *s)
{
    uint64_t end = s->to - s->done > HOT_WINDOW ? s->done + HOT_WINDOW : s->to, done = s->done;
    struct scan_spec spec = {
        .order = SCAN_BY_SEQ,
        .tombstones = s->from > 0,
        .conversation_id = sub_filter(s->sub),
        .id_max = INT64_MAX,
        .seq_min = s->done + 1,
        .seq_max = end,
    };
    struct errctx ec;
    struct hot_iter *it;
    enum err e = hot_iter_open(s->snap, &spec, &it, &ec);
    if (e != ERR_OK)
        return e;
    struct buf rows = BUF_INIT(0);
    struct batch *b = changes_new(HOT_ROWS);
    e = b == NULL ? ERR_NO_MEMORY : read_rows(s, it, end, b, &rows);
    hot_iter_close(it);
    if (b != NULL)
        e = keep(s, b, &rows, e);
    if (e != ERR_OK)
        s->done = done;
    return e;
}

/* ---- open messages ---- */

/* A row after `from` came with this session's rows; before, the client has it, or some of it. */
static enum err add_open(struct catchup *s, int64_t msg_id, struct batch *b, struct buf *rows)
{
    struct value values[MSG_NCOLUMNS];
    struct row_meta meta;
    struct errctx ec;
    struct str filter = sub_filter(s->sub);
    enum err e = snapshot_message(s->snap, msg_id, &meta, values, &ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? ERR_OK : e;
    struct str conversation = values[MSG_CONVERSATION_ID].s, text = values[MSG_CONTENT].s;
    if ((meta.flags & ROW_OPEN) == 0 || meta.seq > s->from || text.len == 0 ||
        (filter.ptr != NULL && !str_eq(filter, conversation)))
        return ERR_OK;
    struct buf delta = BUF_INIT(0);
    stream_delta_encode(
        &delta, &(struct stream_delta){.msg_id = msg_id, .conversation_id = conversation, .text = text});
    if (delta.failed)
        e = ERR_NO_MEMORY;
    else
        changes_add(b, rows, CHANGE_APPEND, 0, msg_id, buf_view(&delta));
    buf_release(&delta);
    return e;
}

enum err catchup_read_streams(struct catchup *s)
{
    struct buf rows = BUF_INIT(0);
    struct batch *b = changes_new(HOT_ROWS);
    enum err e = b == NULL ? ERR_NO_MEMORY : ERR_OK;
    size_t at = s->note_at;
    while (e == ERR_OK && at < s->nnotes && b->n < b->cap && rows.len < HOT_BYTES)
        e = add_open(s, s->notes[at++].msg_id, b, &rows);
    if (b != NULL)
        e = keep(s, b, &rows, e);
    if (e == ERR_OK)
        s->note_at = at;
    return e;
}

/* ---- conversations ---- */

/* A conversation that is not there has no state to tell. */
static enum err add_one_conversation(struct catchup *s, struct batch *b, struct buf *rows)
{
    struct value values[CONV_NCOLUMNS];
    struct errctx ec;
    enum err e = snapshot_conversation(s->snap, sub_filter(s->sub), values, &ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? ERR_OK : e;
    struct buf row = BUF_INIT(0);
    row_encode(&row, &schema_conversations, (struct row_meta){0}, values);
    if (row.failed)
        e = ERR_NO_MEMORY;
    else
        changes_add(b, rows, CHANGE_CONVERSATION, 0, 0, buf_view(&row));
    buf_release(&row);
    return e;
}

static enum err add_conversations(struct catchup *s, struct batch *b, struct buf *rows)
{
    struct scan_spec spec = {.order = SCAN_TABLE, .id_max = INT64_MAX, .table = &schema_conversations};
    struct errctx ec;
    enum err e = ERR_OK;
    if (s->iter == NULL)
        e = hot_iter_open(s->snap, &spec, &s->iter, &ec);
    while (e == ERR_OK && b->n < b->cap && rows->len < HOT_BYTES) {
        struct str row;
        e = hot_iter_next(s->iter, &row, &ec);
        if (e == ERR_OK)
            changes_add(b, rows, CHANGE_CONVERSATION, 0, 0, row);
    }
    if (e == ERR_NOT_FOUND) {
        s->conversations = false;
        e = ERR_OK;
    }
    return e;
}

enum err catchup_read_conversations(struct catchup *s)
{
    bool one = sub_filter(s->sub).ptr != NULL;
    struct buf rows = BUF_INIT(0);
    struct batch *b = changes_new(one ? 1 : HOT_ROWS);
    if (b == NULL)
        return ERR_NO_MEMORY;
    enum err e = one ? add_one_conversation(s, b, &rows) : add_conversations(s, b, &rows);
    e = keep(s, b, &rows, e);
    if (e == ERR_OK && one)
        s->conversations = false;
    return e;
}

/* ---- cold ---- */

static enum err open_input(struct catchup *s, struct errctx *ec)
{
    if (s->has_input)
        return ERR_OK;
    uint64_t last = s->cold_max < s->to ? s->cold_max : s->to;
    struct scan_bounds bounds = SCAN_BOUNDS_OPEN;
    bounds.conversation_id = sub_filter(s->sub);
    if (s->step == STEP_RESOLVE) {
        bounds.id_max = s->last_msg_id_asked;
    } else {
        bounds.seq_min = (int64_t)s->done + 1;
        bounds.seq_max = (int64_t)last;
    }
    enum err e = snapshot_input(s->snap, &schema_messages, &bounds, true, &s->input, ec);
    s->has_input = e == ERR_OK;
    return e;
}

static enum err run(
    struct catchup *s, struct buf *sql, size_t rows_max, struct rowset *ret, struct errctx *ec)
{
    if (sql->failed)
        return ERR_NO_MEMORY;
    struct analytic_request rq = {
        .user_id = catchup_user(s),
        .sql = buf_view(sql),
        .ninputs = 1,
        .inputs = &s->input,
        .mode = ANALYTIC_ROWS,
        .output_fd = -1,
        .rows_max = rows_max,
        .timeout_ms = COLD_TIMEOUT_MS,
        .cancel = &s->cancel,
    };
    return analytic_run(s->sub->live->analytic, &rq, ret, ec);
}

static void sql_quote(struct buf *b, struct str s)
{
    buf_u8(b, '\'');
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] == '\'')
            buf_u8(b, '\'');
        buf_u8(b, (uint8_t)s.ptr[i]);
    }
    buf_u8(b, '\'');
}

/* One read: rows by _seq up to COLD_BYTES and rows_max, but at least one; _total says how many the range
 * holds, so that an exhausted range needs no second look. Its columns: the schema's, then _deleted and
 * _total. */
static void put_rows_sql(struct catchup *s, struct buf *b, uint64_t end)
{
    buf_str(b, STR("SELECT "));
    for (int i = 0; i < schema_messages.ncolumns; i++)
        buf_printf(b, "\"%.*s\", ", STR_FMT(schema_messages.columns[i].name));
    buf_printf(b,
        "_deleted, count(*) OVER () AS _total FROM scan_0 WHERE _seq > %llu AND _seq <= %llu"
        " AND (NOT _deleted OR _ins_seq <= %llu)",
        (unsigned long long)s->done, (unsigned long long)end, (unsigned long long)s->from);
    struct str filter = sub_filter(s->sub);
    if (filter.ptr != NULL) {
        buf_str(b, STR(" AND conversation_id = "));
        sql_quote(b, filter);
    }
    buf_printf(b,
        " QUALIFY coalesce(sum(coalesce(strlen(content), 0) + coalesce(strlen(CAST(metadata AS VARCHAR)), 0))"
        " OVER (ORDER BY _seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) <= %u"
        " ORDER BY _seq LIMIT %zu",
        COLD_BYTES, s->rows_max);
}

/* DuckDB's text types are one; the schema knows which is meant. */
static bool adopt(struct value *v, enum value_type type)
{
    if (v->type == VALUE_NULL || v->type == type)
        return true;
    if (value_is_bytes(v->type) != value_is_bytes(type) || v->type == VALUE_DOUBLE || type == VALUE_DOUBLE)
        return false;
    v->type = type;
    return true;
}

static enum err add_cold(struct catchup *s, struct batch *b, struct buf *rows, const struct value *row)
{
    struct value values[MSG_NCOLUMNS];
    for (int i = 0; i < MSG_NCOLUMNS; i++) {
        values[i] = row[i];
        if (!adopt(&values[i], schema_messages.columns[i].type))
            return ERR_CORRUPT;
    }
    if (value_is_null(values[MSG_ID]) || value_is_null(values[MSG_CONVERSATION_ID]) ||
        value_is_null(values[MSG_SEQ]) || value_is_null(values[MSG_INS_SEQ]))
        return ERR_CORRUPT;
    bool deleted = row[MSG_NCOLUMNS].type == VALUE_BOOL && row[MSG_NCOLUMNS].i != 0;
    struct row_meta meta = {
        .seq = (uint64_t)values[MSG_SEQ].i,
        .ins_seq = (uint64_t)values[MSG_INS_SEQ].i,
        .flags = deleted ? ROW_TOMBSTONE : 0,
    };
    if (meta.seq <= s->done || meta.seq > s->to)
        return ERR_CORRUPT;
    struct buf envelope = BUF_INIT(0);
    row_encode(&envelope, &schema_messages, meta, values);
    enum err e = envelope.failed ? ERR_NO_MEMORY : ERR_OK;
    enum change_op op;
    if (e == ERR_OK && fold(s, meta, &op))
        changes_add(b, rows, op, meta.seq, values[MSG_ID].i, buf_view(&envelope));
    buf_release(&envelope);
    s->done = meta.seq;
    return e;
}

/* Empty ranges (changes that later ones have folded) are passed with growing steps. */
static enum err take_rows(struct catchup *s, const struct rowset *rs, uint64_t end)
{
    if (rs->ncolumns != MSG_NCOLUMNS + 2)
        return ERR_CORRUPT;
    struct batch *b = changes_new((uint32_t)rs->nrows);
    if (b == NULL)
        return ERR_NO_MEMORY;
    struct buf rows = BUF_INIT(0);
    enum err e = ERR_OK;
    uint64_t done = s->done;
    for (size_t i = 0; i < rs->nrows && e == ERR_OK; i++)
        e = add_cold(s, b, &rows, rowset_row(rs, i));
    const struct value *total = rs->nrows > 0 ? &rowset_row(rs, 0)[MSG_NCOLUMNS + 1] : NULL;
    bool all = total == NULL || (total->type == VALUE_BIGINT && (size_t)total->i == rs->nrows);
    e = keep(s, b, &rows, e);
    if (e != ERR_OK) {
        s->done = done;
        return e;
    }
    if (all)
        s->done = end;
    if (s->rows_max < COLD_ROWS)
        s->rows_max *= 2;
    if (rs->nrows < COLD_ROWS / 4 && all && s->window < UINT32_MAX)
        s->window *= 4;
    else if (!all)
        s->window = COLD_WINDOW;
    return ERR_OK;
}

enum err catchup_read_cold(struct catchup *s)
{
    uint64_t last = s->cold_max < s->to ? s->cold_max : s->to;
    uint64_t end = last - s->done > s->window ? s->done + s->window : last;
    struct errctx ec;
    enum err e = open_input(s, &ec);
    if (e != ERR_OK)
        return e;
    struct buf sql = BUF_INIT(0);
    put_rows_sql(s, &sql, end);
    struct rowset rs = {0};
    e = run(s, &sql, s->rows_max, &rs, &ec);
    buf_release(&sql);
    if (e != ERR_OK)
        return e;
    e = take_rows(s, &rs, end);
    rowset_release(&rs);
    return e;
}

enum err catchup_find_arrival(struct catchup *s, uint64_t *ret)
{
    struct errctx ec;
    enum err e = open_input(s, &ec);
    if (e != ERR_OK)
        return e;
    struct buf sql = BUF_INIT(0);
    buf_printf(&sql, "SELECT _ins_seq FROM scan_0 WHERE msg_id <= %lld ORDER BY msg_id DESC LIMIT 1",
        (long long)s->last_msg_id_asked);
    struct rowset rs = {0};
    e = run(s, &sql, 1, &rs, &ec);
    buf_release(&sql);
    if (e != ERR_OK)
        return e;
    uint64_t seq = 0;
    if (rs.ncolumns != 1 || (rs.nrows > 0 && rs.values[0].type != VALUE_BIGINT))
        e = ERR_CORRUPT;
    else if (rs.nrows > 0)
        seq = (uint64_t)rs.values[0].i;
    rowset_release(&rs);
    if (e == ERR_OK) {
        s->has_input = false; /* it was cut to this question */
        *ret = seq;
    }
    return e;
}
