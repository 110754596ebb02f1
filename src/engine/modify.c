#include "engine/modify.h"
#include "chat/stream.h"
#include "engine/coerce.h"
#include "engine/copies.h"
#include "engine/modify_read.h"
#include "engine/returning.h"
#include "engine/unread.h"
#include <stdlib.h>

#define BIT(column) (UINT64_C(1) << (column))

void modify_release(struct kalamdb_query *q)
{
    struct modify *m = q->modify;
    if (m == NULL)
        return;
    modify_clear(m);
    chat_copies_release(&m->copies);
    arena_release(&m->arena);
    free(m->rows);
    free(m->messages);
    q->modify = NULL;
}

/* ---- the affected rows ---- */

static const struct value *message_row(const struct kalamdb_query *q, size_t i)
{
    return q->modify->change.rows[i].values;
}

static const struct value *conversation_row(const struct kalamdb_query *q, size_t i)
{
    return q->modify->change.conversations[i].values;
}

static const struct value *updated_row(const struct kalamdb_query *q, size_t i)
{
    const struct chat_row_change *row = &q->modify->update.rows[i];
    return row->gone ? NULL : row->values;
}

static const struct value *removed_row(const struct kalamdb_query *q, size_t i)
{
    const struct chat_row_change *row = &q->modify->leave.rows[i];
    return row->gone ? NULL : row->values;
}

static struct returning_rows affected(const struct kalamdb_query *q)
{
    const struct modify *m = q->modify;
    const struct schema *target = q->stmt->target;
    if (target == &schema_messages)
        return (struct returning_rows){target, m->change.nrows, message_row};
    if (target == &schema_conversation_users && q->stmt->kind == STMT_DELETE)
        return (struct returning_rows){target, m->leave.nrows, removed_row};
    if (q->stmt->kind == STMT_DELETE)
        return (struct returning_rows){target, m->change.nconversations, conversation_row};
    return (struct returning_rows){target, m->update.nrows, updated_row};
}

static enum err answer(struct kalamdb_query *q)
{
    struct returning_rows rows = affected(q);
    struct kalamdb_result *r = query_result(q);
    if (r == NULL)
        return query_no_memory(q, "result");
    r->is_write = true;
    r->rows_affected = rows.row == updated_row   ? q->modify->update.changed
                       : rows.row == removed_row ? q->modify->leave.removed
                                                 : (int64_t)rows.n;
    if (!q->stmt->returning.present)
        return ERR_OK;
    return returning_committed(q, &rows);
}

static void answer_step(struct kalamdb_query *q)
{
    query_finish(q, answer(q));
}

/* ---- new values ---- */

/* Value k of the statement for one row. */
static enum err assigned(struct kalamdb_query *q, size_t row, int k, struct value *ret)
{
    struct modify *m = q->modify;
    const struct assignment *as = &q->stmt->assignments[k];
    if (!as->is_expr) {
        *ret = m->constants[as->column];
        return ERR_OK;
    }
    int at = 0;
    for (int i = 0; i < k; i++)
        at += q->stmt->assignments[i].is_expr;
    return coerce_value(&m->arena, &q->stmt->target->columns[as->column], m->exprs[row][at], ret, &q->ec);
}

static enum err set_messages(struct kalamdb_query *q)
{
    struct modify *m = q->modify;
    struct chat_limits limits = {.content_bytes_max = q->db->options.max_content_bytes};
    m->change.rows = m->rows;
    m->change.nrows = m->nrows;
    for (size_t i = 0; i < m->nrows; i++) {
        struct value *v = m->rows[i].values;
        if (q->reopens != 0) {
            enum err e = chat_stream_reopen_row(v, &m->arena, &q->ec);
            if (e != ERR_OK)
                return e;
            continue;
        }
        for (int k = 0; k < q->stmt->nassignments; k++) {
            int column = q->stmt->assignments[k].column;
            enum err e = assigned(q, i, k, &v[column]);
            if (e == ERR_OK && column == MSG_CONTENT)
                e = chat_content_check(v[column], &limits, &q->ec);
            if (e != ERR_OK)
                return e;
        }
    }
    if ((m->columns & BIT(MSG_CONTENT)) != 0) {
        enum err e = spill_update(q, m->nrows, m->rows, &m->spills);
        if (e != ERR_OK)
            return e;
    }
    return chat_change_group(&m->change, &m->arena, &q->ec);
}

static bool still_matches(void *arg, const struct value *values)
{
    return fast_match(arg, values);
}

static enum err set_rows(struct kalamdb_query *q)
{
    struct modify *m = q->modify;
    struct chat_update *u = &m->update;
    *u = (struct chat_update){.caller = &q->caller,
        .owner = q->stmt->target_owner,
        .schema = q->stmt->target,
        .columns = m->columns,
        .nrows = m->nrows,
        .rows = arena_array(&m->arena, m->nrows, sizeof *u->rows)};
    if (u->rows == NULL)
        return query_no_memory(q, "rows to change");
    /* Conditions that C can decide are decided again on the row as it is at the commit: busy conversations
     * change with every message. Computed values need the row that they were computed from. */
    if (q->stmt->fast != NULL && !m->has_expr) {
        u->still = still_matches;
        u->still_arg = q->stmt->fast;
    }
    for (size_t i = 0; i < m->nrows; i++) {
        struct value *set = arena_array(&m->arena, (size_t)u->schema->ncolumns, sizeof *set);
        if (set == NULL)
            return query_no_memory(q, "rows to change");
        for (int k = 0; k < q->stmt->nassignments; k++) {
            enum err e = assigned(q, i, k, &set[q->stmt->assignments[k].column]);
            if (e != ERR_OK)
                return e;
        }
        u->rows[i] = (struct chat_row_change){.values = m->rows[i].values, .set = set};
    }
    return ERR_OK;
}

static enum err leave_rows(struct kalamdb_query *q)
{
    struct modify *m = q->modify;
    struct chat_members_remove *r = &m->leave;
    *r = (struct chat_members_remove){.caller = &q->caller,
        .owner = q->stmt->target_owner,
        .nrows = m->nrows,
        .rows = arena_array(&m->arena, m->nrows, sizeof *r->rows)};
    if (r->rows == NULL)
        return query_no_memory(q, "members to remove");
    for (size_t i = 0; i < m->nrows; i++)
        r->rows[i].values = m->rows[i].values;
    if (q->stmt->fast != NULL) {
        r->still = still_matches;
        r->still_arg = q->stmt->fast;
    }
    return ERR_OK;
}

static enum err settle(struct kalamdb_query *q)
{
    struct modify *m = q->modify;
    const struct schema *target = q->stmt->target;
    if (q->stmt->kind == STMT_UPDATE)
        return target == &schema_messages ? set_messages(q) : set_rows(q);
    if (target == &schema_conversation_users)
        return leave_rows(q);
    if (q->for_everyone && (target != &schema_messages || m->nrows > 1))
        return err_set(&q->ec, ERR_UNSUPPORTED, "only one message at a time is deleted for everyone");
    if (target == &schema_conversations && q->stmt->fast != NULL) {
        m->change.still = still_matches;
        m->change.still_arg = q->stmt->fast;
    }
    return ERR_OK;
}

/* ---- the commit ---- */

static enum err apply_reopen(struct kalamdb_query *q, struct txn *txn, struct errctx *ec)
{
    enum err e = chat_stream_reopen_begin(txn, q->reopens, ec);
    if (e == ERR_OK)
        e = chat_messages_update(&q->modify->change, txn, ec);
    return e == ERR_OK ? chat_stream_reopen_end(txn, q->reopens, ec) : e;
}

static enum err apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct kalamdb_query *q = query_of_op(op);
    struct modify *m = q->modify;
    if (q->stmt->kind == STMT_DELETE && q->stmt->target == &schema_conversation_users)
        return chat_members_remove_apply(&m->leave, txn, ec);
    if (q->stmt->kind == STMT_DELETE)
        return chat_messages_delete(&m->change, txn, ec);
    if (q->stmt->target == &schema_messages && q->reopens != 0)
        return apply_reopen(q, txn, ec);
    if (q->stmt->target == &schema_messages) {
        enum err e = spills_put(&m->spills, txn, ec);
        return e == ERR_OK ? chat_messages_update(&m->change, txn, ec) : e;
    }
    return chat_update_apply(&m->update, txn, ec);
}

static void attempt_step(struct kalamdb_query *q);
static void copies_step(struct kalamdb_query *q);

/* On the committer. */
static void committed(struct commit_op *op, enum err e, const struct errctx *ec)
{
    struct kalamdb_query *q = query_of_op(op);
    if (e == ERR_RETRY && q->modify->change.need_copies) {
        query_retry(q, copies_step);
        return;
    }
    if (e == ERR_RETRY) {
        q->modify->need_bounds = q->modify->need_bounds || q->modify->change.need_bounds;
        query_retry(q, attempt_step);
        return;
    }
    spills_settle(&q->modify->spills, e);
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

/* Where the other members' copies are, by their files; then the same commit again. */
static void copies_step(struct kalamdb_query *q)
{
    struct modify *m = q->modify;
    enum err e = query_alive(q);
    if (e == ERR_OK)
        e = copies_answer(q, &m->copies,
            m->change.nconversations == 1 ? m->change.conversations[0].conversation_id : STR(""));
    if (e != ERR_OK)
        query_finish(q, e);
    else
        query_to_committer(q, apply, committed);
}

/* The rows are read: on to the commit, or, when there is nothing to change, to the answer. */
static void go(struct kalamdb_query *q, bool may_block);

static void rehearse_step(struct kalamdb_query *q)
{
    go(q, true);
}

static void go(struct kalamdb_query *q, bool may_block)
{
    const struct returning *rt = &q->stmt->returning;
    struct returning_rows rows = affected(q);
    bool expressions = rt->present && rt->read_sql.ptr != NULL;
    if (expressions && !may_block) {
        query_to_job(q, rehearse_step);
        return;
    }
    enum err e = ERR_OK;
    if (expressions)
        e = returning_worker(q, &rows, rows.n == 0);
    if (e != ERR_OK)
        query_finish(q, e);
    else if (rows.n == 0)
        query_finish(q, answer(q));
    else
        query_to_committer(q, apply, committed);
}

static void attempt(struct kalamdb_query *q, size_t visited_max, bool may_block)
{
    enum fast_verdict verdict = FAST_COLD;
    enum err e = query_alive(q);
    if (e == ERR_OK)
        e = modify_read(q, visited_max, may_block, &verdict);
    if (e == ERR_OK && verdict != FAST_DONE) {
        query_to_job(q, attempt_step);
        return;
    }
    if (e == ERR_OK)
        e = settle(q);
    if (e == ERR_OK)
        e = unread_count(q, visited_max, may_block, &verdict);
    if (e != ERR_OK)
        query_finish(q, e);
    else if (verdict != FAST_DONE)
        query_to_job(q, attempt_step);
    else
        go(q, may_block);
}

static void attempt_step(struct kalamdb_query *q)
{
    attempt(q, QUERY_ROWS_JOB_MAX, true);
}

/* ---- start ---- */

static enum err prepare_assignments(struct kalamdb_query *q)
{
    struct modify *m = q->modify;
    const struct stmt *st = q->stmt;
    for (int k = 0; k < st->nassignments; k++)
        m->columns |= BIT(st->assignments[k].column);
    enum err e = q->caller.internal ? ERR_OK : chat_update_check_columns(st->target, m->columns, &q->ec);
    for (int k = 0; e == ERR_OK && k < st->nassignments; k++) {
        const struct assignment *as = &st->assignments[k];
        if (as->is_expr) {
            m->has_expr = true;
            m->nexprs++;
        } else if (!as->is_default) {
            e = coerce_value(
                &q->arena, &st->target->columns[as->column], as->value, &m->constants[as->column], &q->ec);
        }
    }
    struct chat_limits limits = {.content_bytes_max = q->db->options.max_content_bytes};
    for (int k = 0; e == ERR_OK && k < st->nassignments; k++) {
        const struct assignment *as = &st->assignments[k];
        if (st->target == &schema_messages && as->column == MSG_CONTENT && !as->is_expr)
            e = chat_content_check(m->constants[MSG_CONTENT], &limits, &q->ec);
    }
    return e;
}

void modify_start(struct kalamdb_query *q)
{
    struct modify *m = arena_alloc(&q->arena, sizeof *m);
    if (m == NULL) {
        query_finish(q, query_no_memory(q, "change"));
        return;
    }
    arena_init(&m->arena, ENGINE_RESULT_BYTES_MAX);
    q->modify = m;
    if (q->stmt->kind == STMT_UPDATE) {
        enum err e = prepare_assignments(q);
        if (e != ERR_OK) {
            query_finish(q, e);
            return;
        }
    }
    if (query_waits(q, attempt_step))
        return;
    /* Files are written on a job thread. */
    bool large = q->stmt->target == &schema_messages && spill_is_large(q->db, m->constants[MSG_CONTENT]);
    if (read_tries_fast(q) && !m->has_expr && !large)
        attempt(q, QUERY_ROWS_INLINE_MAX, false);
    else
        query_to_job(q, attempt_step);
}
