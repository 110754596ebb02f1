/* A statement as one line of text, for tables of expectations:
 *
 *   select alice.messages[conv=c1 id=5..9] fast(conversation_id = 'c1'; by msg_id desc; limit 50) -> *
 *   insert alice.messages(conversation_id, content) ('c1', 'x') ('c1', DEFAULT) returning msg_id
 *   update alice.messages set content='x', metadata=<expr> where fast(msg_id = 5)
 *
 * `analytic` stands where there is no fast plan. */
#ifndef KALAMDB_TESTS_GATE_DESCRIBE_H
#define KALAMDB_TESTS_GATE_DESCRIBE_H

#include "base/buf.h"
#include "sql/sql.h"
#include <stdio.h>

#define NOW_US INT64_C(1760356800000000) /* 2025-10-13T12:00:00Z */

static void describe_value(struct buf *b, struct value v)
{
    switch (v.type) {
    case VALUE_NULL:
        buf_printf(b, "NULL");
        break;
    case VALUE_BOOL:
        buf_printf(b, v.i ? "true" : "false");
        break;
    case VALUE_BIGINT:
        buf_printf(b, "%lld", (long long)v.i);
        break;
    case VALUE_DOUBLE:
        buf_printf(b, "%g", v.d);
        break;
    case VALUE_TEXT:
        buf_printf(b, "'%.*s'", STR_FMT(v.s));
        break;
    case VALUE_JSON:
        buf_printf(b, "json'%.*s'", STR_FMT(v.s));
        break;
    case VALUE_TIMESTAMPTZ:
        if (v.i == NOW_US)
            buf_printf(b, "now");
        else
            buf_printf(b, "ts%lld", (long long)v.i);
        break;
    default:
        buf_printf(b, "?%d", (int)v.type);
    }
}

static void describe_columns(
    struct buf *b, const struct schema *s, int n, const int *columns, const struct str *names)
{
    int visible = 0;
    bool all = true;
    for (int c = 0; c < s->ncolumns; c++) {
        if ((s->columns[c].flags & COLUMN_HIDDEN) != 0)
            continue;
        all = all && visible < n && columns[visible] == c && str_eq(names[visible], s->columns[c].name);
        visible++;
    }
    if (all && visible == n) {
        buf_printf(b, "*");
        return;
    }
    for (int i = 0; i < n; i++) {
        buf_printf(b, "%s%.*s", i > 0 ? ", " : "", STR_FMT(s->columns[columns[i]].name));
        if (!str_eq(names[i], s->columns[columns[i]].name))
            buf_printf(b, " as %.*s", STR_FMT(names[i]));
    }
}

static void describe_fast(struct buf *b, const struct schema *s, const struct fast_plan *f)
{
    static const char *const ops[] = {"=", "<>", "<", "<=", ">", ">=", "in", "is null", "is not null"};
    if (f == NULL) {
        buf_printf(b, "analytic");
        return;
    }
    buf_printf(b, "fast(%s", f->never ? "never" : "");
    for (int i = 0; i < f->npreds; i++) {
        const struct pred *p = &f->preds[i];
        buf_printf(
            b, "%s%.*s %s", i > 0 || f->never ? " & " : "", STR_FMT(s->columns[p->column].name), ops[p->op]);
        for (int v = 0; v < p->nvalues; v++) {
            buf_printf(b, v > 0 ? "," : " ");
            describe_value(b, p->values[v]);
        }
    }
    if (f->order_column >= 0)
        buf_printf(b, "; by %.*s%s%s%s", STR_FMT(s->columns[f->order_column].name),
            f->descending ? " desc" : "",
            f->nulls_first != f->descending ? (f->nulls_first ? " nulls first" : " nulls last") : "",
            f->tie_descending ? ", key desc" : "");
    if (f->limit >= 0)
        buf_printf(b, "; limit %lld", (long long)f->limit);
    if (f->offset > 0)
        buf_printf(b, "; offset %lld", (long long)f->offset);
    buf_printf(b, ")");
}

static void describe_table(struct buf *b, const struct stmt_table *t)
{
    const struct scan_bounds open = SCAN_BOUNDS_OPEN, *w = &t->bounds;
    buf_printf(b, "%.*s.%.*s", STR_FMT(t->owner), STR_FMT(t->schema->name));
    const char *sep = "[";
    if (w->conversation_id.ptr != NULL) {
        buf_printf(b, "[conv=%.*s", STR_FMT(w->conversation_id));
        sep = " ";
    }
    if (w->id_min != open.id_min || w->id_max != open.id_max) {
        buf_printf(b, "%sid=%lld..%lld", sep, (long long)w->id_min, (long long)w->id_max);
        sep = " ";
    }
    if (w->ts_min != open.ts_min || w->ts_max != open.ts_max) {
        buf_printf(b, "%sts=%lld..%lld", sep, (long long)w->ts_min, (long long)w->ts_max);
        sep = " ";
    }
    if (w->seq_min != open.seq_min || w->seq_max != open.seq_max) {
        buf_printf(b, "%sseq=%lld..%lld", sep, (long long)w->seq_min, (long long)w->seq_max);
        sep = " ";
    }
    buf_printf(b, *sep == ' ' ? "]" : "");
}

static void describe_tables(struct buf *b, const struct stmt *s)
{
    for (int i = 0; i < s->ntables; i++) {
        buf_printf(b, i > 0 ? ", " : " ");
        describe_table(b, &s->tables[i]);
    }
}

static void describe_cell(struct buf *b, const struct cell *c)
{
    if (c->kind == CELL_DEFAULT)
        buf_printf(b, "DEFAULT");
    else
        describe_value(b, c->value);
}

static void describe_insert(struct buf *b, const struct stmt *s)
{
    buf_printf(b, "insert%s %.*s.%.*s(", s->target_is_append ? " append" : "", STR_FMT(s->target_owner),
        STR_FMT(s->target->name));
    for (int i = 0; i < s->ncolumns; i++)
        buf_printf(b, "%s%.*s", i > 0 ? ", " : "", STR_FMT(s->target->columns[s->columns[i]].name));
    buf_printf(b, ")");
    if (s->create_from.kind == CELL_VALUE) {
        buf_printf(b, " from ");
        describe_cell(b, &s->create_from);
    }
    for (size_t r = 0; r < s->nrows; r++) {
        buf_printf(b, " (");
        for (int c = 0; c < s->ncolumns; c++) {
            buf_printf(b, c > 0 ? ", " : "");
            describe_cell(b, &s->cells[r * (size_t)s->ncolumns + (size_t)c]);
        }
        buf_printf(b, ")");
    }
    if (s->nrows == 0) {
        buf_printf(b, " query");
        describe_tables(b, s);
    }
}

static void describe_change(struct buf *b, const struct stmt *s)
{
    buf_printf(b, s->kind == STMT_UPDATE ? "update" : "delete");
    describe_tables(b, s);
    for (int i = 0; i < s->nassignments; i++) {
        const struct assignment *a = &s->assignments[i];
        buf_printf(b, "%s%.*s=", i > 0 ? ", " : " set ", STR_FMT(s->target->columns[a->column].name));
        if (a->is_default)
            buf_printf(b, "DEFAULT");
        else if (a->is_expr)
            buf_printf(b, "<expr>");
        else
            describe_value(b, a->value);
    }
    buf_printf(b, s->reads_spilled_content ? " spilled where " : " where ");
    describe_fast(b, s->target, s->fast);
}

static void describe(struct buf *b, const struct stmt *s)
{
    if (s->kind == STMT_SELECT) {
        buf_printf(b, "select");
        describe_tables(b, s);
        buf_printf(b, " ");
        describe_fast(b, s->ntables > 0 ? s->tables[0].schema : NULL, s->fast);
        if (s->fast != NULL && s->fast->count)
            buf_printf(b, " -> count as %.*s", STR_FMT(s->fast->out_names[0]));
        else if (s->fast != NULL) {
            buf_printf(b, " -> ");
            describe_columns(b, s->tables[0].schema, s->fast->nout, s->fast->out_columns, s->fast->out_names);
        }
        return;
    }
    if (s->kind == STMT_INSERT)
        describe_insert(b, s);
    else
        describe_change(b, s);
    if (!s->returning.present)
        return;
    buf_printf(b, " returning ");
    if (s->returning.read_sql.ptr != NULL)
        buf_printf(b, "query");
    else
        describe_columns(b, s->target, s->returning.nout, s->returning.out_columns, s->returning.out_names);
}

/* "role:user" of the caller, and the outcome of one statement: its description, or `CODE@position message`.
 */
static void describe_parse(
    struct buf *b, struct str sql, const struct value *params, int nparams, enum role role)
{
    struct arena arena;
    struct stmt *s = NULL;
    struct errctx ec;
    const struct caller caller = {STR("alice"), role};
    const struct sql_limits limits = {1 << 20, NOW_US};
    arena_init(&arena, 64 << 20);
    if (sql_parse(&arena, sql, params, nparams, &caller, &limits, &s, &ec) == ERR_OK)
        describe(b, s);
    else
        buf_printf(b, "%s@%d %s", err_wire(ec.code), ec.position, ec.message);
    arena_release(&arena);
}

#endif
