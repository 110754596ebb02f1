#include "engine/insert.h"
#include "engine/coerce.h"
#include "engine/copies.h"
#include "engine/history.h"
#include "engine/read.h"
#include "engine/returning.h"
#include "engine/upload.h"

struct insert {
    enum { APPENDS, CREATES, ADDS_MEMBERS } what;
    struct chat_append a;
    struct chat_create c;
    struct chat_members_add m;
    bool answers_created; /* of kalamdb_create_conversation */
    struct rowset source; /* INSERT … SELECT: keeps the bytes of the rows */
    bool has_source;
    struct spills spills; /* large content, in files */
    struct value rehearsed[MSG_NCOLUMNS];
};

void insert_release(struct kalamdb_query *q)
{
    if (q->insert == NULL)
        return;
    chat_copies_release(&q->insert->a.copies);
    if (q->insert->has_source)
        rowset_release(&q->insert->source);
    spills_release(&q->insert->spills);
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

static const struct value *added_row(const struct kalamdb_query *q, size_t i)
{
    return q->insert->m.rows[i];
}

static struct returning_rows affected(const struct kalamdb_query *q)
{
    const struct insert *in = q->insert;
    if (in->what == APPENDS)
        return (struct returning_rows){&schema_messages, in->a.nmessages, appended_row};
    if (in->what == ADDS_MEMBERS && !in->answers_created)
        return (struct returning_rows){&schema_conversation_users, in->m.nrows, added_row};
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
    r->rows_affected = in->what == APPENDS ? in->a.inserted : (int64_t)affected(q).n;
    if (in->what != APPENDS || in->a.nmessages == 0)
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

static void retry_step(struct kalamdb_query *q)
{
    enum err e = query_alive(q);
    /* Supplied ids that may stand in recipients' files. */
    if (e == ERR_OK && q->insert->what == APPENDS && q->insert->a.copies.rows.open > 0)
        e = copies_answer(q, &q->insert->a.copies, STR(""));
    if (e == ERR_OK && q->insert->spills.misplaced)
        e = spill_move(q, &q->insert->a, &q->insert->spills);
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
    spills_settle(&q->insert->spills, e);
    if (e != ERR_OK && ec != NULL)
        q->ec = *ec;
    if (e != ERR_OK) {
        query_finish(q, e);
        return;
    }
    if (q->insert->what != APPENDS)
        history_wake(q->db); /* who joined may have history to come */
    const struct returning *rt = &q->stmt->returning;
    if (rt->present && (rt->read_sql.ptr != NULL || affected(q).n > QUERY_ROWS_INLINE_MAX))
        query_to_job(q, answer_step);
    else
        query_finish(q, answer(q));
}

/* Records of files first, so that the rows can count on them. */
static enum err apply_append(struct kalamdb_query *q, struct txn *txn, struct errctx *ec)
{
    struct insert *in = q->insert;
    enum err e = q->upload != NULL ? upload_wanted(q->upload, ec) : ERR_OK;
    if (e == ERR_OK)
        e = spills_put(&in->spills, txn, ec);
    if (e == ERR_OK)
        e = chat_append_apply(&in->a, txn, ec);
    return e == ERR_OK ? spills_check_append(&in->spills, &in->a, txn, ec) : e;
}

static enum err apply(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    struct kalamdb_query *q = query_of_op(op);
    struct insert *in = q->insert;
    return in->what == APPENDS   ? apply_append(q, txn, ec)
           : in->what == CREATES ? chat_create_apply(&in->c, txn, ec)
                                 : chat_members_add_apply(&in->m, txn, ec);
}

static void commit(struct kalamdb_query *q)
{
    if (q->upload != NULL)
        upload_placed(q->upload, q->insert->a.messages[0].values[MSG_CONTENT_REF].s);
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
    if (q->insert->what == APPENDS)
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

static void spill_step(struct kalamdb_query *q)
{
    enum err e = spill_append(q, &q->insert->a, &q->insert->spills);
    if (e != ERR_OK)
        query_finish(q, e);
    else if (q->stmt->returning.present && q->stmt->returning.read_sql.ptr != NULL)
        rehearse_step(q);
    else
        commit(q);
}

static void attach_step(struct kalamdb_query *q)
{
    enum err e = upload_attach(q, &q->insert->a, &q->insert->spills);
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
    enum err e = in->what == APPENDS   ? chat_append_check(&in->a, &limits, &q->arena, &q->ec)
                 : in->what == CREATES ? chat_create_check(&in->c, &q->ec)
                                       : chat_members_add_check(&in->m, &q->arena, &q->ec);
    size_t n = affected(q).n;
    if (e != ERR_OK || n == 0)
        query_finish(q, e != ERR_OK ? e : answer(q));
    else if (q->upload != NULL)
        query_to_job(q, attach_step);
    else if (in->what == APPENDS && spill_append_wanted(q->db, &in->a))
        query_to_job(q, spill_step);
    else if (q->stmt->returning.present && q->stmt->returning.read_sql.ptr != NULL)
        query_to_job(q, rehearse_step);
    else
        commit(q);
}

static enum err rows_alloc(struct kalamdb_query *q, size_t n)
{
    struct insert *in = q->insert;
    void *rows;
    if (in->what == APPENDS) {
        rows = in->a.messages = arena_array(&q->arena, n, sizeof *in->a.messages);
        in->a.nmessages = n;
    } else if (in->what == CREATES) {
        rows = in->c.rows = arena_array(&q->arena, n, sizeof *in->c.rows);
        in->c.nrows = n;
    } else {
        rows = in->m.rows = arena_array(&q->arena, n, sizeof *in->m.rows);
        in->m.nrows = n;
    }
    if (rows == NULL)
        return err_set(&q->ec, ERR_TOO_LARGE, "the statement has too many rows");
    return ERR_OK;
}

static enum err put(struct kalamdb_query *q, size_t row, int k, struct value v)
{
    struct insert *in = q->insert;
    int column = q->stmt->columns[k];
    const struct schema *schema = affected(q).schema;
    struct value *to = in->what == APPENDS   ? in->a.messages[row].values
                       : in->what == CREATES ? in->c.rows[row]
                                             : in->m.rows[row];
    if (in->what == APPENDS && column == MSG_ID)
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
    q->insert = arena_alloc(&q->arena, sizeof *q->insert);
    if (q->insert == NULL)
        return query_no_memory(q, "INSERT");
    struct insert *in = q->insert;
    in->what = st->target_is_append || st->target == &schema_messages ? APPENDS
               : st->target == &schema_conversations                  ? CREATES
                                                                      : ADDS_MEMBERS;
    in->a.caller = in->c.caller = in->m.caller = &q->caller;
    in->a.owner = in->c.owner = in->m.owner = st->target_owner;
    in->m.group_members_max = q->db->options.max_group_members;
    if (in->what == CREATES && st->create_from.kind == CELL_VALUE)
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

/* RETURNING of all that `*` shows. */
static bool returning_all(struct kalamdb_query *q, const struct schema *schema)
{
    int *columns = arena_array(&q->arena, (size_t)schema->ncolumns, sizeof *columns);
    struct str *names = arena_array(&q->arena, (size_t)schema->ncolumns, sizeof *names);
    struct returning *rt = &q->stmt->returning;
    if (columns == NULL || names == NULL)
        return false;
    for (int i = 0; i < schema->ncolumns; i++) {
        if ((schema->columns[i].flags & COLUMN_HIDDEN) != 0)
            continue;
        columns[rt->nout] = i;
        names[rt->nout++] = schema->columns[i].name;
    }
    rt->present = true;
    rt->out_columns = columns;
    rt->out_names = names;
    return true;
}

void insert_conversation(struct kalamdb_query *q, struct str owner, struct value (*row)[CONV_NCOLUMNS],
    size_t nmembers, struct value (*members)[MEMBER_NCOLUMNS])
{
    struct insert *in = q->insert = arena_alloc(&q->arena, sizeof *q->insert);
    q->stmt = arena_alloc(&q->arena, sizeof *q->stmt);
    if (in == NULL || q->stmt == NULL || !returning_all(q, &schema_conversations)) {
        query_finish(q, query_no_memory(q, "conversation"));
        return;
    }
    q->stmt->kind = STMT_INSERT;
    q->stmt->target = &schema_conversations;
    q->stmt->target_owner = owner;
    in->what = ADDS_MEMBERS;
    in->answers_created = true;
    in->c = (struct chat_create){.caller = &q->caller, .owner = owner, .nrows = 1, .rows = row};
    in->m = (struct chat_members_add){.caller = &q->caller,
        .owner = owner,
        .group_members_max = q->db->options.max_group_members,
        .nrows = nmembers,
        .rows = members,
        .create = &in->c};
    go(q);
}
