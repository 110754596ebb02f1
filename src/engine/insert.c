#include "engine/insert.h"
#include "engine/coerce.h"
#include "engine/read.h"
#include "engine/returning.h"

struct insert {
    bool append; /* rows of messages; else conversations are made */
    struct chat_append a;
    struct chat_create c;
    struct rowset source; /* INSERT … SELECT: keeps the bytes of the rows */
    bool has_source;
    struct value rehearsed[MSG_NCOLUMNS];
};

void insert_release(struct kalamdb_query *q)
{
    if (q->insert != NULL && q->insert->has_source)
        rowset_release(&q->insert->source);
    q->insert = NULL;
}

/* ---- the affected rows ---- */

static const struct value *appended_row(const struct kalamdb_query *q, size_t i)
{
    const struct chat_message *m = &q->insert->a.messages[i];
    return m->inserted ? m->values : NULL;
}

static const struct value *created_row(const struct kalamdb_query *q, size_t i)
{
    return q->insert->c.rows[i];
}

static struct returning_rows affected(const struct kalamdb_query *q)
{
    const struct insert *in = q->insert;
    if (in->append)
        return (struct returning_rows){&schema_messages, in->a.nmessages, appended_row};
    return (struct returning_rows){&schema_conversations, in->c.nrows, created_row};
}

/* ---- after the commit ---- */

static enum err counts(struct kalamdb_query *q)
{
    const struct insert *in = q->insert;
    struct kalamdb_result *r = query_result(q);
    if (r == NULL)
        return query_no_memory(q, "result");
    r->is_write = true;
    r->rows_affected = in->append ? in->a.inserted : (int64_t)in->c.nrows;
    if (!in->append || in->a.nmessages == 0)
        return ERR_OK;
    if (!result_inserted_alloc(r, in->a.nmessages))
        return query_no_memory(q, "result");
    for (size_t i = 0; i < in->a.nmessages; i++)
        r->inserted[i] = in->a.messages[i].msg_id;
    return ERR_OK;
}

static enum err answer(struct kalamdb_query *q)
{
    struct returning_rows rows = affected(q);
    enum err e = counts(q);
    if (e != ERR_OK || !q->stmt->returning.present)
        return e;
    return returning_committed(q, &rows);
}

static void answer_step(struct kalamdb_query *q)
{
    query_finish(q, answer(q));
}

static void commit(struct kalamdb_query *q);

/* Supplied ids that may stand in files: one look for all of them. */
static enum err look_up_ids(struct kalamdb_query *q)
{
    struct chat_append *a = &q->insert->a;
    struct buf sql = BUF_INIT(0);
    struct scan_bounds bounds = SCAN_BOUNDS_OPEN;
    bounds.id_min = INT64_MAX;
    bounds.id_max = 0;
    buf_str(&sql, STR("SELECT msg_id FROM scan_0 WHERE msg_id IN ("));
    for (size_t i = 0, n = 0; i < a->nmessages; i++) {
        int64_t id = a->messages[i].values[MSG_ID].i;
        if (!a->messages[i].id_unsure)
            continue;
        if (n++ > 0)
            buf_u8(&sql, ',');
        buf_i64(&sql, id);
        bounds.id_min = id < bounds.id_min ? id : bounds.id_min;
        bounds.id_max = id > bounds.id_max ? id : bounds.id_max;
    }
    buf_str(&sql, STR(") LIMIT 1"));
    struct snapshot *snap = NULL;
    struct analytic_input input;
    struct rowset found;
    enum err e = sql.failed ? query_no_memory(q, "look-up of ids")
                            : snapshot_open(q->db->store, a->owner, &snap, &q->ec);
    if (e != ERR_OK) {
        buf_release(&sql);
        return e;
    }
    uint64_t epoch = snapshot_cold_epoch(snap);
    e = snapshot_input(snap, &schema_messages, &bounds, false, &input, &q->ec);
    if (e == ERR_OK) {
        struct read_set rs = {
            .nsnapshots = 1, .owners = &a->owner, .snapshots = &snap, .ninputs = 1, .inputs = &input};
        e = read_worker(q, &rs, buf_view(&sql), 1, &found);
    }
    snapshot_close(snap);
    buf_release(&sql);
    if (e != ERR_OK)
        return e;
    if (found.nrows > 0) {
        e = err_set(&q->ec, ERR_CONFLICT, "duplicate key value violates unique constraint \"messages_pkey\"");
        err_detail(&q->ec, "Key (msg_id)=(%lld) already exists.", (long long)rowset_row(&found, 0)->i);
    }
    rowset_release(&found);
    a->ids_looked_up = true;
    a->ids_epoch = epoch;
    return e;
}

static void retry_step(struct kalamdb_query *q)
{
    enum err e = query_alive(q);
    if (e == ERR_OK && q->insert->append && q->insert->a.ids_unsure)
        e = look_up_ids(q);
    if (e != ERR_OK)
        query_finish(q, e);
    else
        commit(q);
}

/* On the committer. */
static void committed(struct commit_op *op, enum err e, const struct errctx *ec)
{
    struct kalamdb_query *q = query_of_op(op);
    if (e == ERR_RETRY) {
        query_retry(q, retry_step);
        return;
    }
    if (e != ERR_OK && ec != NULL)
        q->ec = *ec;
    if (e != ERR_OK) {
        query_finish(q, e);
        return;
    }
    const struct returning *rt = &q->stmt->returning;
    if (rt->present && (rt->read_sql.ptr != NULL || affected(q).n > QUERY_ROWS_INLINE_MAX))
        query_to_job(q, answer_step);
    else
        query_finish(q, answer(q));
}

static enum err apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct insert *in = query_of_op(op)->insert;
    return in->append ? chat_append_apply(&in->a, txn, ec) : chat_create_apply(&in->c, txn, ec);
}

static void commit(struct kalamdb_query *q)
{
    query_to_committer(q, apply, committed);
}

/* ---- before the commit ---- */

/* A message as it will be, but for its id and change numbers. */
static const struct value *rehearsed_row(const struct kalamdb_query *q, size_t i)
{
    struct insert *in = q->insert;
    int64_t now = os_realtime_us(q->db->os);
    memcpy(in->rehearsed, in->a.messages[i].values, sizeof in->rehearsed);
    struct value *v = in->rehearsed;
    if (value_is_null(v[MSG_ID]))
        v[MSG_ID] = value_i64(now);
    if (value_is_null(v[MSG_TIMESTAMP]))
        v[MSG_TIMESTAMP] = value_ts(now);
    if (value_is_null(v[MSG_CONVERSATION_TYPE]))
        v[MSG_CONVERSATION_TYPE] = value_text(STR("ai"));
    v[MSG_SEQ] = v[MSG_INS_SEQ] = value_i64(1);
    return v;
}

/* RETURNING's expressions before the commit: what they cannot compute is an error while nothing has happened
 * yet. */
static enum err rehearse(struct kalamdb_query *q)
{
    struct returning_rows rows = affected(q);
    if (q->insert->append)
        rows.row = rehearsed_row;
    return returning_worker(q, &rows, false);
}

static void rehearse_step(struct kalamdb_query *q)
{
    enum err e = rehearse(q);
    if (e != ERR_OK)
        query_finish(q, e);
    else
        commit(q);
}

/* Rows are complete: chat's own rules, then on the way. */
static void go(struct kalamdb_query *q)
{
    struct insert *in = q->insert;
    struct chat_limits limits = {.content_bytes_max = q->db->options.max_content_bytes};
    enum err e = in->append ? chat_append_check(&in->a, &limits, &q->arena, &q->ec)
                            : chat_create_check(&in->c, &q->ec);
    size_t n = in->append ? in->a.nmessages : in->c.nrows;
    if (e != ERR_OK || n == 0)
        query_finish(q, e != ERR_OK ? e : answer(q));
    else if (q->stmt->returning.present && q->stmt->returning.read_sql.ptr != NULL)
        query_to_job(q, rehearse_step);
    else
        commit(q);
}

static enum err rows_alloc(struct kalamdb_query *q, size_t n)
{
    struct insert *in = q->insert;
    if (in->append) {
        in->a.messages = arena_array(&q->arena, n, sizeof *in->a.messages);
        in->a.nmessages = n;
    } else {
        in->c.rows = arena_array(&q->arena, n, sizeof *in->c.rows);
        in->c.nrows = n;
    }
    if (in->append ? in->a.messages == NULL : in->c.rows == NULL)
        return err_set(&q->ec, ERR_TOO_LARGE, "the statement has too many rows");
    return ERR_OK;
}

static enum err put(struct kalamdb_query *q, size_t row, int k, struct value v)
{
    struct insert *in = q->insert;
    int column = q->stmt->columns[k];
    const struct schema *schema = in->append ? &schema_messages : &schema_conversations;
    struct value *to = in->append ? in->a.messages[row].values : in->c.rows[row];
    if (in->append && column == MSG_ID)
        in->a.messages[row].id_given = true;
    return coerce_value(&q->arena, &schema->columns[column], v, &to[column], &q->ec);
}

static enum err rows_from_cells(struct kalamdb_query *q)
{
    const struct stmt *st = q->stmt;
    enum err e = rows_alloc(q, st->nrows);
    for (size_t i = 0; e == ERR_OK && i < st->nrows; i++) {
        const struct cell *row = st->cells + i * (size_t)st->ncolumns;
        for (int k = 0; e == ERR_OK && k < st->ncolumns; k++) {
            if (row[k].kind == CELL_VALUE)
                e = put(q, i, k, row[k].value);
        }
    }
    return e;
}

static enum err rows_from_source(struct kalamdb_query *q)
{
    struct insert *in = q->insert;
    struct read_set rs;
    enum err e = read_set_open(q, &q->arena, &rs);
    if (e == ERR_OK)
        e = read_worker(q, &rs, q->stmt->read_sql, q->db->options.max_changed_rows, &in->source);
    read_set_close(&rs);
    if (e != ERR_OK)
        return e;
    in->has_source = true;
    if (in->source.truncated)
        return err_set(&q->ec, ERR_TOO_LARGE, "the statement would insert over max_changed_rows (%zu) rows",
            q->db->options.max_changed_rows);
    if (in->source.ncolumns != q->stmt->ncolumns)
        return err_internal(
            &q->ec, ERR_INTERNAL, "source of %d columns for %d", in->source.ncolumns, q->stmt->ncolumns);
    e = rows_alloc(q, in->source.nrows);
    for (size_t i = 0; e == ERR_OK && i < in->source.nrows; i++) {
        for (int k = 0; e == ERR_OK && k < q->stmt->ncolumns; k++)
            e = put(q, i, k, rowset_row(&in->source, i)[k]);
    }
    return e;
}

static void source_step(struct kalamdb_query *q)
{
    enum err e = rows_from_source(q);
    if (e != ERR_OK)
        query_finish(q, e);
    else
        go(q);
}

static enum err prepare(struct kalamdb_query *q)
{
    const struct stmt *st = q->stmt;
    if (!user_id_valid(st->target_owner))
        return err_set(&q->ec, ERR_INVALID_VALUE, "schema \"%.*s\" is not a valid user id",
            (int)utf8_cut(st->target_owner, CHAT_ID_BYTES_MAX), st->target_owner.ptr);
    if (st->target == &schema_conversation_users)
        return chat_members_insert(&q->ec);
    q->insert = arena_alloc(&q->arena, sizeof *q->insert);
    if (q->insert == NULL)
        return query_no_memory(q, "INSERT");
    struct insert *in = q->insert;
    in->append = st->target_is_append || st->target == &schema_messages;
    in->a.caller = in->c.caller = &q->caller;
    in->a.owner = in->c.owner = st->target_owner;
    if (!in->append && st->create_from.kind == CELL_VALUE)
        return coerce_value(
            &q->arena, &schema_messages.columns[MSG_FROM], st->create_from.value, &in->c.from, &q->ec);
    return ERR_OK;
}

void insert_start(struct kalamdb_query *q)
{
    enum err e = prepare(q);
    if (e == ERR_OK && q->stmt->nrows == 0) {
        query_to_job(q, source_step);
        return;
    }
    if (e == ERR_OK)
        e = rows_from_cells(q);
    if (e != ERR_OK)
        query_finish(q, e);
    else
        go(q);
}
