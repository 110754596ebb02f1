/* SELECT: printed for the analytic path always, with a fast plan beside it where one fits. */
#include "sql/gate.h"
#include "sql/print_int.h"

static unsigned function_flags(struct str name)
{
    unsigned flags = 0;
    for (const struct fn *f = fn_table; f->name != NULL; f++) {
        if (str_eq(name, str_c(f->name)))
            flags |= f->flags;
    }
    return flags;
}

static enum walk visit_aggregate(const PgQuery__Node *n, void *arg)
{
    (void)arg;
    if (tree_is(n, NODE_CASE(SUB_LINK)))
        return WALK_SKIP;
    if (tree_is(n, NODE_CASE(GROUPING_FUNC)))
        return WALK_FOUND;
    if (!tree_is(n, NODE_CASE(FUNC_CALL)))
        return WALK_ON;
    const PgQuery__FuncCall *f = n->func_call;
    if (f->over != NULL)
        return WALK_SKIP;
    struct str name = f->n_funcname > 0 ? tree_text(f->funcname[f->n_funcname - 1]) : STR_NULL;
    bool aggregate = f->agg_star || f->agg_distinct || f->agg_within_group || f->agg_filter != NULL ||
                     f->n_agg_order > 0 || (function_flags(name) & FN_AGGREGATE) != 0;
    return aggregate ? WALK_FOUND : WALK_ON;
}

static bool aggregates(size_t n, PgQuery__Node *const *items)
{
    for (size_t i = 0; i < n; i++) {
        if (tree_any(items[i], visit_aggregate, NULL))
            return true;
    }
    return false;
}

/* Rows of a plain SELECT over one table come by its key, and so do rows that its ORDER BY leaves equal.
 * PostgreSQL promises no order there; we do, so that an answer (and which rows a LIMIT takes) never depends
 * on where rows sit. Window functions may number rows in any order, but the rows then come by the key. */
const PgQuery__SelectStmt *gate_ordered(struct gate *g, const PgQuery__SelectStmt *select)
{
    struct fast_table t;
    if (!fast_single_table(select, &t) || aggregates(select->n_target_list, select->target_list) ||
        aggregates(select->n_sort_clause, select->sort_clause))
        return select;
    PgQuery__SelectStmt *copy = arena_alloc(g->tmp, sizeof *copy);
    if (copy == NULL)
        return NULL;
    *copy = *select;
    int keys[2] = {t.schema->key_column, MEMBER_USER_ID};
    int nkeys = t.schema == &schema_conversation_users ? 2 : 1;
    for (int i = 0; i < nkeys; i++) {
        PgQuery__Node *by =
            tree_sort(g->tmp, tree_column(g->tmp, t.alias.ptr, t.schema->columns[keys[i]].name.ptr));
        copy->sort_clause = tree_append(g->tmp, copy->n_sort_clause, copy->sort_clause, by);
        if (copy->sort_clause == NULL)
            return NULL;
        copy->n_sort_clause++;
    }
    return copy;
}

enum err gate_select(struct gate *g, const PgQuery__SelectStmt *select)
{
    const PgQuery__SelectStmt *ordered = gate_ordered(g, select);
    if (ordered == NULL)
        return gate_memory(g);
    enum err e = gate_print(g, ordered, &g->stmt->read_sql, NULL);
    if (e != ERR_OK)
        return e;
    return fast_plan_select(g, select, &g->stmt->fast);
}
