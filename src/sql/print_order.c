/* ORDER BY and GROUP BY: what a number or a name there means, directions, grouping sets. */
#include "sql/print_int.h"

int pr_output_number(struct pr *p, const PgQuery__Node *n, const struct names *outputs, const char *clause)
{
    if (n == NULL || pr_failed(p))
        return 0;
    if (n->node_case == PG_QUERY__NODE__NODE_A_CONST) {
        const PgQuery__AConst *c = n->a_const;
        if (c->val_case != PG_QUERY__A__CONST__VAL_IVAL) {
            if (!c->isnull)
                pr_fail(p, ERR_SYNTAX, c->location, "non-integer constant in %s", clause);
            return 0;
        }
        if (c->ival->ival < 1 || c->ival->ival > outputs->n) {
            pr_fail(p, ERR_UNDEFINED_COLUMN, c->location, "%s position %d is not in select list", clause,
                (int)c->ival->ival);
            return 0;
        }
        return (int)c->ival->ival;
    }
    if (n->node_case != PG_QUERY__NODE__NODE_COLUMN_REF || n->column_ref->n_fields != 1)
        return 0;
    struct str name = node_string(n->column_ref->fields[0]);
    int found = 0;
    for (int i = 0; i < outputs->n && name.ptr != NULL; i++) {
        if (!str_eq(outputs->v[i].name, name))
            continue;
        if (found > 0 && !str_eq(outputs->v[i].text, outputs->v[found - 1].text)) {
            pr_fail(p, ERR_UNDEFINED_COLUMN, n->column_ref->location, "%s \"%.*s\" is ambiguous", clause,
                STR_FMT(name));
            return 0;
        }
        if (found == 0)
            found = i + 1;
    }
    return found;
}

/* DuckDB takes a bare number here for an output's, and refuses to order by other literals: a subquery is
 * neither. */
static void hide_literal(struct pr *p, size_t at)
{
    if (pr_failed(p) || p->b->failed || at >= p->b->len)
        return;
    struct str s = str_n(p->b->ptr + at, p->b->len - at);
    if ((s.ptr[0] >= '0' && s.ptr[0] <= '9') || s.ptr[0] == '\'' || str_starts_with(s, STR("(-")) ||
        str_eq(s, STR("NULL")) || str_eq(s, STR("true")) || str_eq(s, STR("false")) ||
        str_starts_with(s, STR("CAST('")))
        pr_wrap(p, at, "(SELECT ", ")");
}

static void direction(struct pr *p, const PgQuery__SortBy *s)
{
    bool descending = s->sortby_dir == PG_QUERY__SORT_BY_DIR__SORTBY_DESC;
    if (s->sortby_dir == PG_QUERY__SORT_BY_DIR__SORTBY_USING) {
        struct str op = s->n_use_op == 1 ? node_string(s->use_op[0]) : STR_NULL;
        if (!str_eq(op, STR("<")) && !str_eq(op, STR(">"))) {
            pr_fail(p, ERR_TYPE_MISMATCH, s->location, "operator %.*s is not a valid ordering operator",
                STR_FMT(op));
            return;
        }
        descending = op.ptr[0] == '>';
    }
    bool first = s->sortby_nulls == PG_QUERY__SORT_BY_NULLS__SORTBY_NULLS_FIRST ||
                 (s->sortby_nulls != PG_QUERY__SORT_BY_NULLS__SORTBY_NULLS_LAST && descending);
    pr_put(p, descending ? " DESC" : " ASC");
    pr_put(p, first ? " NULLS FIRST" : " NULLS LAST");
}

/* SELECT DISTINCT can only be ordered by what it selects; DISTINCT ON first by what it is on. */
static void check_distinct(
    struct pr *p, const struct distinct *d, size_t i, struct str text, const PgQuery__Node *n)
{
    bool found = false;
    if (d == NULL || d->names == NULL || (d->on && i >= (size_t)d->names->n))
        return;
    for (int k = 0; k < d->names->n; k++)
        found = found || str_eq(d->names->v[k].text, text);
    if (!found)
        pr_fail(p, ERR_SYNTAX, node_location(n),
            d->on ? "SELECT DISTINCT ON expressions must match initial ORDER BY expressions"
                  : "for SELECT DISTINCT, ORDER BY expressions must appear in select list");
}

void pr_order_by(struct pr *p, size_t n, PgQuery__Node **items, const struct names *outputs,
    const struct distinct *distinct, bool only_outputs)
{
    for (size_t i = 0; i < n && !pr_failed(p); i++) {
        pr_put(p, i == 0 ? " ORDER BY " : ", ");
        if (items[i]->node_case != PG_QUERY__NODE__NODE_SORT_BY) {
            pr_unsupported(p, -1, "this ORDER BY");
            return;
        }
        const PgQuery__SortBy *s = items[i]->sort_by;
        int number = outputs == NULL ? 0 : pr_output_number(p, s->node, outputs, "ORDER BY");
        size_t at = p->b->len;
        if (number > 0) {
            buf_printf(p->b, "%d", number);
            check_distinct(p, distinct, i, outputs->v[number - 1].text, s->node);
        } else if (only_outputs) {
            pr_fail(
                p, ERR_UNSUPPORTED, node_location(s->node), "invalid UNION/INTERSECT/EXCEPT ORDER BY clause");
            err_detail(p->ec, "Only result column names can be used, not expressions or functions.");
        } else {
            pr_expr(p, s->node);
            hide_literal(p, at);
            if (!pr_failed(p) && !p->b->failed)
                check_distinct(p, distinct, i, str_n(p->b->ptr + at, p->b->len - at), s->node);
        }
        direction(p, s);
    }
}

static void group_item(struct pr *p, const PgQuery__Node *n, const struct names *sources, bool nested);

static void group_list(
    struct pr *p, size_t n, PgQuery__Node **items, const struct names *sources, bool nested)
{
    for (size_t i = 0; i < n && !pr_failed(p); i++) {
        if (i > 0)
            pr_put(p, ", ");
        group_item(p, items[i], sources, nested);
    }
}

static void grouping_set(struct pr *p, const PgQuery__GroupingSet *g, const struct names *sources)
{
    switch (g->kind) {
    case PG_QUERY__GROUPING_SET_KIND__GROUPING_SET_EMPTY:
        pr_put(p, "()");
        return;
    case PG_QUERY__GROUPING_SET_KIND__GROUPING_SET_ROLLUP:
        pr_put(p, "ROLLUP (");
        break;
    case PG_QUERY__GROUPING_SET_KIND__GROUPING_SET_CUBE:
        pr_put(p, "CUBE (");
        break;
    case PG_QUERY__GROUPING_SET_KIND__GROUPING_SET_SETS:
        pr_put(p, "GROUPING SETS (");
        break;
    default:
        pr_unsupported(p, g->location, "this grouping set");
        return;
    }
    group_list(p, g->n_content, g->content, sources, true);
    pr_put(p, ")");
}

/* The key of a base table in GROUP BY lets every column of it be used (functional dependency). */
static void note_key(struct pr *p, struct str text)
{
    struct scope *sc = p->scope;
    for (int i = 0; i < sc->nrelations; i++) {
        struct relation *r = &sc->relations[i];
        if (r->schema == NULL || r->schema == &schema_conversation_users)
            continue;
        struct str key = r->schema->columns[r->schema->key_column].name;
        for (int k = 0; k < r->columns.n; k++)
            if (str_eq(r->columns.v[k].text, text) && k == r->schema->key_column && key.len > 0)
                r->key_grouped = true;
    }
}

static void group_item(struct pr *p, const PgQuery__Node *n, const struct names *sources, bool nested)
{
    if (!pr_enter(p, node_location(n)))
        return;
    if (n->node_case == PG_QUERY__NODE__NODE_GROUPING_SET)
        grouping_set(p, n->grouping_set, sources);
    else if (n->node_case == PG_QUERY__NODE__NODE_ROW_EXPR && nested) {
        pr_put(p, "(");
        group_list(p, n->row_expr->n_args, n->row_expr->args, sources, true);
        pr_put(p, ")");
    } else {
        bool input = false;
        if (n->node_case == PG_QUERY__NODE__NODE_COLUMN_REF && n->column_ref->n_fields == 1) {
            struct str name = node_string(n->column_ref->fields[0]);
            for (int i = 0; i < p->scope->names.n && name.ptr != NULL; i++)
                input = input || str_eq(p->scope->names.v[i].name, name);
        }
        int number = input ? 0 : pr_output_number(p, n, sources, "GROUP BY");
        if (number > 0) {
            /* The expression, not its number: a number means nothing inside a grouping set. */
            struct str text = sources->v[number - 1].text;
            note_key(p, text);
            size_t at = p->b->len;
            buf_str(p->b, text);
            hide_literal(p, at);
        } else {
            size_t at = p->b->len;
            pr_expr(p, n);
            if (!pr_failed(p) && !p->b->failed)
                note_key(p, str_n(p->b->ptr + at, p->b->len - at));
            hide_literal(p, at);
        }
    }
    pr_leave(p);
}

void pr_group_by(struct pr *p, const PgQuery__SelectStmt *s, const struct names *sources)
{
    if (s->n_group_clause == 0)
        return;
    if (s->group_distinct)
        pr_unsupported(p, -1, "GROUP BY DISTINCT");
    pr_put(p, " GROUP BY ");
    bool sets = false;
    for (size_t i = 0; i < s->n_group_clause; i++)
        sets = sets || s->group_clause[i]->node_case == PG_QUERY__NODE__NODE_GROUPING_SET;
    group_list(p, s->n_group_clause, s->group_clause, sources, false);
    for (int i = 0; i < p->scope->nrelations && !sets; i++) {
        struct relation *r = &p->scope->relations[i];
        for (int k = 0; r->key_grouped && k < r->columns.n; k++) {
            pr_put(p, ", ");
            buf_str(p->b, r->columns.v[k].text);
        }
    }
}
