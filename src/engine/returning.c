#include "engine/returning.h"
#include "engine/read.h"
#include "row/row.h"

enum err returning_plain(struct kalamdb_query *q, const struct returning_rows *rows)
{
    const struct returning *rt = &q->stmt->returning;
    if (!rt->present)
        return ERR_OK;
    struct kalamdb_result *r = query_result(q);
    enum value_type *types = arena_array(&q->arena, (size_t)rt->nout, sizeof *types);
    struct value *out = arena_array(&q->arena, (size_t)rt->nout, sizeof *out);
    if (r == NULL || types == NULL || out == NULL)
        return query_no_memory(q, "RETURNING");
    for (int i = 0; i < rt->nout; i++)
        types[i] = rows->schema->columns[rt->out_columns[i]].type;
    enum err e = rowset_set_columns(&r->rows, rt->nout, rt->out_names, types);
    for (size_t i = 0; e == ERR_OK && i < rows->n; i++) {
        const struct value *v = rows->row(q, i);
        if (v == NULL)
            continue;
        if (r->rows.nrows == q->db->options.max_result_rows) {
            r->rows.truncated = true;
            break;
        }
        for (int k = 0; k < rt->nout; k++)
            out[k] = v[rt->out_columns[k]];
        e = rowset_add(&r->rows, out);
    }
    r->has_rows = true;
    if (e == ERR_TOO_LARGE) {
        /* It is committed: the rows that fit are the answer. */
        r->rows.truncated = true;
        e = ERR_OK;
    }
    return e == ERR_OK ? e : query_no_memory(q, "RETURNING");
}

enum err returning_worker(struct kalamdb_query *q, const struct returning_rows *rows, bool keep)
{
    struct buf file = BUF_INIT(0), one = BUF_INIT(0);
    for (size_t i = 0; i < rows->n; i++) {
        const struct value *v = rows->row(q, i);
        if (v == NULL)
            continue;
        struct row_meta meta = {0};
        if (rows->schema == &schema_messages) {
            meta.seq = value_is_null(v[MSG_SEQ]) ? 1 : (uint64_t)v[MSG_SEQ].i;
            meta.ins_seq = value_is_null(v[MSG_INS_SEQ]) ? 1 : (uint64_t)v[MSG_INS_SEQ].i;
        }
        buf_clear(&one);
        row_encode(&one, rows->schema, meta, v);
        row_file_append(&file, buf_view(&one));
        if (one.failed)
            file.failed = true;
    }
    buf_release(&one);
    struct rowset out;
    enum err e = read_worker_rows(
        q, rows->schema, &file, q->stmt->returning.read_sql, q->db->options.max_result_rows, &out);
    buf_release(&file);
    if (e != ERR_OK)
        return e;
    struct kalamdb_result *r = query_result(q);
    if (r == NULL) {
        rowset_release(&out);
        return query_no_memory(q, "RETURNING");
    }
    rowset_release(&r->rows);
    r->rows = out;
    r->has_rows = true;
    if (!keep) {
        r->rows.nrows = 0;
        r->rows.truncated = false;
    }
    return ERR_OK;
}

enum err returning_committed(struct kalamdb_query *q, const struct returning_rows *rows)
{
    struct kalamdb_result *r = query_result(q);
    if (q->stmt->returning.read_sql.ptr == NULL)
        return returning_plain(q, rows);
    enum err e = returning_worker(q, rows, true);
    if (e != ERR_OK && r != NULL && r->has_rows) {
        /* An error would say that nothing has changed. */
        r->rows.truncated = true;
        errctx_clear(&q->ec);
        e = ERR_OK;
    }
    return e;
}
