/* The name that an output has when the statement gives it none: PostgreSQL's FigureColname. */
#include "sql/print_int.h"

static int figure(const PgQuery__Node *n, struct str *ret, int depth);

static struct str node_string_last(PgQuery__Node **v, size_t n)
{
    return n == 0 ? STR_NULL : node_string(v[n - 1]);
}

static bool last_string(PgQuery__Node **v, size_t n, struct str *ret)
{
    for (size_t i = n; i > 0; i--) {
        struct str s = node_string(v[i - 1]);
        if (s.ptr != NULL) {
            *ret = s;
            return true;
        }
    }
    return false;
}

static int figure_sublink(const PgQuery__SubLink *s, struct str *ret, int depth)
{
    if (s->sub_link_type == PG_QUERY__SUB_LINK_TYPE__EXISTS_SUBLINK ||
        s->sub_link_type == PG_QUERY__SUB_LINK_TYPE__ARRAY_SUBLINK) {
        *ret = s->sub_link_type == PG_QUERY__SUB_LINK_TYPE__EXISTS_SUBLINK ? STR("exists") : STR("array");
        return 2;
    }
    if (s->sub_link_type != PG_QUERY__SUB_LINK_TYPE__EXPR_SUBLINK || s->subselect == NULL ||
        s->subselect->node_case != PG_QUERY__NODE__NODE_SELECT_STMT)
        return 0;
    const PgQuery__SelectStmt *q = s->subselect->select_stmt;
    for (int i = 0; q->larg != NULL && i < DEPTH_MAX; i++)
        q = q->larg;
    if (q->n_target_list == 0 || q->target_list[0]->node_case != PG_QUERY__NODE__NODE_RES_TARGET)
        return 0;
    const PgQuery__ResTarget *t = q->target_list[0]->res_target;
    if (t->name != NULL && t->name[0] != 0) {
        *ret = str_c(t->name);
        return 2;
    }
    return figure(t->val, ret, depth + 1);
}

static int figure_value(PgQuery__SQLValueFunctionOp op, struct str *ret)
{
    static const char *const names[] = {"", "current_date", "current_time", "current_time",
        "current_timestamp", "current_timestamp", "localtime", "localtime", "localtimestamp",
        "localtimestamp", "current_role", "current_user", "user", "session_user", "current_catalog",
        "current_schema"};
    if ((unsigned)op >= sizeof names / sizeof *names)
        return 0;
    *ret = str_c(names[op]);
    return 2;
}

/* 0: no idea, 1: a weak one (a type's name), 2: good. */
static int figure(const PgQuery__Node *n, struct str *ret, int depth)
{
    if (n == NULL || depth > DEPTH_MAX)
        return 0;
    switch (n->node_case) {
    case PG_QUERY__NODE__NODE_COLUMN_REF:
        return last_string(n->column_ref->fields, n->column_ref->n_fields, ret) ? 2 : 0;
    case PG_QUERY__NODE__NODE_A_INDIRECTION:
        if (last_string(n->a_indirection->indirection, n->a_indirection->n_indirection, ret))
            return 2;
        return figure(n->a_indirection->arg, ret, depth + 1);
    case PG_QUERY__NODE__NODE_FUNC_CALL:
        *ret = node_string_last(n->func_call->funcname, n->func_call->n_funcname);
        return 2;
    case PG_QUERY__NODE__NODE_A_EXPR:
        if (n->a_expr->kind == PG_QUERY__A__EXPR__KIND__AEXPR_NULLIF) {
            *ret = STR("nullif");
            return 2;
        }
        return 0;
    case PG_QUERY__NODE__NODE_TYPE_CAST: {
        int r = figure(n->type_cast->arg, ret, depth + 1);
        if (r <= 1 && n->type_cast->type_name != NULL) {
            *ret = node_string_last(n->type_cast->type_name->names, n->type_cast->type_name->n_names);
            return 1;
        }
        return r;
    }
    case PG_QUERY__NODE__NODE_COLLATE_CLAUSE:
        return figure(n->collate_clause->arg, ret, depth + 1);
    case PG_QUERY__NODE__NODE_GROUPING_FUNC:
        *ret = STR("grouping");
        return 2;
    case PG_QUERY__NODE__NODE_SUB_LINK:
        return figure_sublink(n->sub_link, ret, depth);
    case PG_QUERY__NODE__NODE_CASE_EXPR: {
        int r = figure(n->case_expr->defresult, ret, depth + 1);
        if (r <= 1) {
            *ret = STR("case");
            return 1;
        }
        return r;
    }
    case PG_QUERY__NODE__NODE_A_ARRAY_EXPR:
        *ret = STR("array");
        return 2;
    case PG_QUERY__NODE__NODE_ROW_EXPR:
        *ret = STR("row");
        return 2;
    case PG_QUERY__NODE__NODE_COALESCE_EXPR:
        *ret = STR("coalesce");
        return 2;
    case PG_QUERY__NODE__NODE_MIN_MAX_EXPR:
        *ret = n->min_max_expr->op == PG_QUERY__MIN_MAX_OP__IS_GREATEST ? STR("greatest") : STR("least");
        return 2;
    case PG_QUERY__NODE__NODE_SQLVALUE_FUNCTION:
        return figure_value(n->sqlvalue_function->op, ret);
    default:
        return 0;
    }
}

struct str figure_name(const PgQuery__Node *n)
{
    struct str r = STR("?column?");
    if (figure(n, &r, 0) == 0 || r.ptr == NULL)
        return STR("?column?");
    return r;
}
