/* UPDATE and DELETE, and RETURNING. What to change is found by a SELECT built around the statement's own
 * WHERE:
 *
 *   SELECT t.<every column of the schema>, <expression> AS _set_<k> … FROM t WHERE …
 *
 * so that WHERE and SET go through the same printer, with the same checks, as any query. */
#include "sql/gate.h"

/* Target of an UPDATE or DELETE: checked, and put in the first place among the tables that read_sql reads,
 * whatever order the printer meets them in. */
static enum err change_target(struct gate *g, const PgQuery__RangeVar *rv, const PgQuery__WithClause *with)
{
    struct stmt *s = g->stmt;
    enum err e = gate_table(g, rv, &s->target_owner, &s->target);
    if (e == ERR_OK)
        e = gate_target_not_cte(g, rv, with);
    if (e != ERR_OK)
        return e;
    g->target = rv;
    g->cap_tables = 4;
    s->tables = arena_array(g->arena, (size_t)g->cap_tables, sizeof *s->tables);
    if (s->tables == NULL)
        return gate_memory(g);
    s->tables[0] = (struct stmt_table){s->target_owner, s->target, SCAN_BOUNDS_OPEN};
    s->ntables = 1;
    return ERR_OK;
}

enum err gate_target_not_cte(struct gate *g, const PgQuery__RangeVar *rv, const PgQuery__WithClause *with)
{
    bool bare = rv->schemaname == NULL || rv->schemaname[0] == '\0';
    for (size_t i = 0; bare && with != NULL && i < with->n_ctes; i++) {
        const PgQuery__Node *cte = with->ctes[i];
        if (tree_is(cte, NODE_CASE(COMMON_TABLE_EXPR)) &&
            str_eq(str_c(cte->common_table_expr->ctename), str_c(rv->relname)))
            return gate_fail(g, ERR_UNSUPPORTED, rv->location,
                "relation \"%s\" cannot be the target of a modifying statement", rv->relname);
    }
    return ERR_OK;
}

static const char *change_alias(const PgQuery__RangeVar *rv)
{
    return rv->alias != NULL ? rv->alias->aliasname : rv->relname;
}

/* All columns of the schema, hidden ones too, in order. */
static PgQuery__SelectStmt *change_select(struct gate *g, PgQuery__RangeVar *rv, PgQuery__Node *where,
    PgQuery__WithClause *with, size_t nexprs, PgQuery__Node *const *exprs)
{
    const struct schema *schema = g->stmt->target;
    PgQuery__SelectStmt *s = tree_select(g->tmp);
    size_t n = (size_t)schema->ncolumns + nexprs;
    PgQuery__Node **targets = arena_array(g->tmp, n, sizeof(PgQuery__Node *));
    PgQuery__Node *from = tree_range_var(g->tmp, rv);
    if (s == NULL || targets == NULL || from == NULL)
        return NULL;
    for (int c = 0; c < schema->ncolumns; c++)
        targets[c] =
            tree_target(g->tmp, tree_column(g->tmp, change_alias(rv), schema->columns[c].name.ptr), NULL);
    for (size_t i = 0; i < nexprs; i++)
        targets[(size_t)schema->ncolumns + i] = exprs[i];
    s->n_target_list = n;
    s->target_list = targets;
    s->from_clause = tree_append(g->tmp, 0, NULL, from);
    s->n_from_clause = 1;
    s->where_clause = where;
    s->with_clause = with;
    return arena_failed(g->tmp) ? NULL : s;
}

/* ---- RETURNING ------------------------------------------------------------------------------- */

static bool returning_column(struct gate *g, const struct fast_table *t, const PgQuery__ResTarget *r,
    int *columns, struct str *names, int *n)
{
    struct column_path star;
    if (tree_star_path(r->val, &star)) {
        if (star.schema.ptr != NULL || (star.table.ptr != NULL && !str_eq(star.table, t->alias)))
            return false;
        for (int c = 0; c < t->schema->ncolumns; c++) {
            if ((t->schema->columns[c].flags & COLUMN_HIDDEN) != 0)
                continue;
            columns[*n] = c;
            names[(*n)++] = t->schema->columns[c].name;
        }
        return true;
    }
    int column = fast_column(g, t, r->val);
    if (column < 0)
        return false;
    columns[*n] = column;
    names[*n] = r->name != NULL && r->name[0] != '\0' ? arena_str(g->arena, str_c(r->name))
                                                      : t->schema->columns[column].name;
    return names[(*n)++].ptr != NULL;
}

static enum err returning_query(struct gate *g, size_t n, PgQuery__Node **items, PgQuery__RangeVar *target)
{
    PgQuery__SelectStmt *s = tree_select(g->tmp);
    if (s == NULL)
        return gate_memory(g);
    s->n_target_list = n;
    s->target_list = items;
    s->from_clause = tree_append(g->tmp, 0, NULL, tree_range_var(g->tmp, target));
    s->n_from_clause = 1;
    if (s->from_clause == NULL)
        return gate_memory(g);
    g->in_returning = true;
    enum err e = gate_print(g, s, &g->stmt->returning.read_sql, NULL);
    g->in_returning = false;
    return e;
}

enum err gate_returning(
    struct gate *g, size_t n, PgQuery__Node **items, PgQuery__RangeVar *target, const struct schema *shape)
{
    struct returning *ret = &g->stmt->returning;
    if (n == 0)
        return ERR_OK;
    g->target = target;
    struct fast_table t = {.rv = target, .schema = shape, .alias = str_c(change_alias(target)), .sole = true};
    size_t cap = n * (size_t)(shape->ncolumns + 1);
    int *columns = arena_array(g->arena, cap, sizeof *columns);
    struct str *names = arena_array(g->arena, cap, sizeof *names);
    if (columns == NULL || names == NULL)
        return gate_memory(g);
    ret->present = true;
    int nout = 0;
    for (size_t i = 0; i < n; i++) {
        if (!returning_column(g, &t, items[i]->res_target, columns, names, &nout))
            return arena_failed(g->arena) ? gate_memory(g) : returning_query(g, n, items, target);
    }
    ret->nout = nout;
    ret->out_columns = columns;
    ret->out_names = names;
    return ERR_OK;
}

/* ---- UPDATE ---------------------------------------------------------------------------------- */

static enum walk visit_content(const PgQuery__Node *n, void *arg)
{
    (void)arg;
    if (!tree_is(n, NODE_CASE(COLUMN_REF)) || n->column_ref->n_fields == 0)
        return WALK_ON;
    const PgQuery__Node *last = n->column_ref->fields[n->column_ref->n_fields - 1];
    bool reads = tree_is(last, NODE_CASE(A_STAR)) || str_eq(tree_text(last), STR("content"));
    return reads ? WALK_FOUND : WALK_ON;
}

/* SET (a, b) = (x, y) and = ROW(x, y): every target carries the whole row and its number in it. */
static enum err assigned_expression(struct gate *g, const PgQuery__ResTarget *r, const PgQuery__Node **ret)
{
    *ret = r->val;
    if (!tree_is(r->val, NODE_CASE(MULTI_ASSIGN_REF)))
        return ERR_OK;
    const PgQuery__MultiAssignRef *m = r->val->multi_assign_ref;
    if (!tree_is(m->source, NODE_CASE(ROW_EXPR)))
        return gate_fail(g, ERR_UNSUPPORTED, r->location,
            "source for a multiple-column UPDATE item must be a ROW() expression");
    const PgQuery__RowExpr *row = m->source->row_expr;
    if (row->n_args != (size_t)m->ncolumns || m->colno < 1 || m->colno > m->ncolumns)
        return gate_fail(g, ERR_SYNTAX, row->location, "number of columns does not match number of values");
    *ret = row->args[m->colno - 1];
    return ERR_OK;
}

static enum err assign(
    struct gate *g, const PgQuery__ResTarget *r, struct assignment *a, PgQuery__Node **ret_expr)
{
    const struct schema *schema = g->stmt->target;
    a->column = schema_column(schema, str_c(r->name));
    if (a->column < 0)
        return gate_fail(g, ERR_UNDEFINED_COLUMN, r->location,
            "column \"%s\" of relation \"%.*s\" does not exist", r->name, STR_FMT(schema->name));
    if (r->n_indirection > 0)
        return gate_fail(
            g, ERR_UNSUPPORTED, r->location, "assignment to a part of a column is not supported");
    const PgQuery__Node *val;
    enum err e = assigned_expression(g, r, &val);
    if (e != ERR_OK)
        return e;
    if (tree_is(val, NODE_CASE(SET_TO_DEFAULT))) {
        a->is_default = true;
        return ERR_OK;
    }
    struct constant c;
    enum constness known = gate_constant_for(g, val, schema->columns[a->column].type, &c);
    if (known == CONSTANT_ERROR)
        return g->ec->code;
    if (known == CONSTANT) {
        a->value = c.value;
        return ERR_OK;
    }
    a->is_expr = true;
    *ret_expr = (PgQuery__Node *)(uintptr_t)val; /* trees are never written through */
    if (a->column == MSG_CONTENT && schema == &schema_messages && tree_any(val, visit_content, NULL))
        g->stmt->reads_spilled_content = true;
    return ERR_OK;
}

static enum err assign_all(
    struct gate *g, const PgQuery__UpdateStmt *s, size_t *ret_n, PgQuery__Node ***ret_exprs)
{
    size_t n = s->n_target_list;
    struct assignment *list = arena_array(g->arena, n, sizeof *list);
    PgQuery__Node **exprs = arena_array(g->tmp, n, sizeof(PgQuery__Node *));
    if (list == NULL || exprs == NULL)
        return gate_memory(g);
    size_t nexprs = 0;
    for (size_t i = 0; i < n; i++) {
        PgQuery__Node *expr = NULL;
        const PgQuery__ResTarget *r = s->target_list[i]->res_target;
        enum err e = assign(g, r, &list[i], &expr);
        if (e != ERR_OK)
            return e;
        for (size_t k = 0; k < i; k++) {
            if (list[k].column == list[i].column)
                return gate_fail(
                    g, ERR_SYNTAX, r->location, "multiple assignments to same column \"%s\"", r->name);
        }
        if (expr == NULL)
            continue;
        struct str name = arena_printf(g->tmp, "_set_%zu", i);
        exprs[nexprs] = tree_target(g->tmp, expr, name.ptr);
        if (name.ptr == NULL || exprs[nexprs++] == NULL)
            return gate_memory(g);
    }
    g->stmt->nassignments = (int)n;
    g->stmt->assignments = list;
    *ret_n = nexprs;
    *ret_exprs = exprs;
    return ERR_OK;
}

/* Prints the query that finds the rows, and makes the plan that finds them faster. */
static enum err find_rows(struct gate *g, PgQuery__RangeVar *rv, PgQuery__Node *where,
    PgQuery__WithClause *with, size_t nexprs, PgQuery__Node *const *exprs)
{
    PgQuery__SelectStmt *select = change_select(g, rv, where, with, nexprs, exprs);
    if (select == NULL)
        return gate_memory(g);
    enum err e = gate_print(g, select, &g->stmt->read_sql, NULL);
    if (e != ERR_OK || nexprs > 0 || with != NULL)
        return e;
    return fast_plan_where(g, rv, g->stmt->target, where, &g->stmt->fast);
}

enum err gate_update(struct gate *g, const PgQuery__UpdateStmt *s)
{
    size_t nexprs = 0;
    PgQuery__Node **exprs = NULL;
    enum err e = change_target(g, s->relation, s->with_clause);
    if (e == ERR_OK && s->n_from_clause > 0)
        e = gate_fail(
            g, ERR_UNSUPPORTED, tree_location(s->from_clause[0]), "UPDATE ... FROM is not supported");
    if (e == ERR_OK)
        e = assign_all(g, s, &nexprs, &exprs);
    if (e == ERR_OK)
        e = find_rows(g, s->relation, s->where_clause, s->with_clause, nexprs, exprs);
    if (e == ERR_OK)
        e = gate_returning(g, s->n_returning_list, s->returning_list, s->relation, g->stmt->target);
    return e;
}

enum err gate_delete(struct gate *g, const PgQuery__DeleteStmt *s)
{
    enum err e = change_target(g, s->relation, s->with_clause);
    if (e == ERR_OK && s->n_using_clause > 0)
        e = gate_fail(
            g, ERR_UNSUPPORTED, tree_location(s->using_clause[0]), "DELETE ... USING is not supported");
    if (e == ERR_OK)
        e = find_rows(g, s->relation, s->where_clause, s->with_clause, 0, NULL);
    if (e == ERR_OK)
        e = gate_returning(g, s->n_returning_list, s->returning_list, s->relation, g->stmt->target);
    return e;
}
